//! Records as a controller writes them, and as nobody does. Also the small writer that other tests use.

use super::record::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use twinlog_log_segment::files::TopicId;

/// Writes the value of a record: frame, kind, version, then what the caller adds.
#[derive(Clone)]
pub(super) struct Written(Vec<u8>);

impl Written {
    pub fn of(kind: u8, version: u8) -> Self {
        Self(vec![1, kind, version])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i64(self, value: i64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn text(self, text: &str) -> Self {
        assert!(text.len() < 127);
        self.raw(&[text.len() as u8 + 1]).raw(text.as_bytes())
    }

    pub fn ids(self, ids: &[i32]) -> Self {
        ids.iter().fold(self.raw(&[ids.len() as u8 + 1]), |written, id| written.i32(*id))
    }

    pub fn tags(self, tags: &[(u8, Vec<u8>)]) -> Self {
        let start = self.raw(&[tags.len() as u8]);
        tags.iter().fold(start, |written, (tag, bytes)| written.raw(&[*tag, bytes.len() as u8]).raw(bytes))
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

pub(super) const TOPIC: TopicId = TopicId([7; 16]);

pub(super) fn topic(name: &str) -> Vec<u8> {
    Written::of(2, 0).text(name).raw(&TOPIC.0).tags(&[]).bytes()
}

pub(super) fn partition(index: i32, replicas: &[i32], leader: i32) -> Vec<u8> {
    let written = Written::of(3, 2).i32(index).raw(&TOPIC.0).ids(replicas).ids(replicas).ids(&[]).ids(&[]);
    written.i32(leader).i32(4).i32(9).raw(&[1]).tags(&[]).bytes()
}

pub(super) fn no_op() -> Vec<u8> {
    Written::of(20, 0).tags(&[]).bytes()
}

fn list(ids: &[i32]) -> Vec<u8> {
    Written(Vec::new()).ids(ids).bytes()
}

#[test]
fn a_registration_of_every_version_is_read() {
    for version in 0..=4u8 {
        let mut written = Written::of(0, version).i32(900);
        if version >= 2 {
            written = written.raw(&[0]);
        }
        written = written.raw(&[5; 16]).i64(737).raw(&[2]).text("INTERNAL").text("host");
        written = written.raw(&[0x23, 0xe8, 0, 0, 0]);
        written = written.raw(&[2]).text("metadata.version").raw(&[0, 7, 0, 30, 0]).raw(&[0, 1]);
        if version >= 1 {
            written = written.raw(&[1]);
        }
        let directories = [vec![2], vec![9; 16]].concat();
        let tags = match version {
            4.. => vec![(0, directories.clone()), (1, directories)],
            3 => vec![(0, directories)],
            _ => vec![],
        };
        let record = MetadataRecord::decode(&written.tags(&tags).bytes()).unwrap();
        let MetadataRecord::RegisterBroker(broker) = record else { panic!("{record:?}") };
        assert_eq!((broker.broker, broker.epoch, broker.incarnation), (900, 737, [5; 16]));
        assert_eq!((broker.listeners[0].port, broker.listeners[0].host.as_str()), (9_192, "host"));
        assert_eq!((broker.features[0].min, broker.features[0].max), (7, 30));
        assert!(broker.fenced && broker.in_controlled_shutdown == (version >= 1) && broker.rack.is_none());
        assert_eq!(broker.directories.len(), usize::from(version >= 3));
        assert_eq!(broker.cordoned.len(), usize::from(version >= 4));
    }
}

#[test]
fn a_partition_change_holds_what_its_tags_say_and_no_more() {
    let leader = 2i32.to_be_bytes().to_vec();
    let tags = [(0, list(&[1, 2])), (1, leader), (6, list(&[])), (99, vec![1, 2, 3])];
    let value = Written::of(5, 2).i32(3).raw(&TOPIC.0).tags(&tags).bytes();
    let mut expected = PartitionChange::of(TOPIC, 3);
    expected.isr = Some(vec![1, 2]);
    expected.leader = Some(2);
    expected.eligible_leaders = Some(vec![]);
    assert_eq!(MetadataRecord::decode(&value), Ok(MetadataRecord::PartitionChange(expected)));
}

#[test]
fn unknown_kinds_are_skipped_and_unknown_versions_are_not() {
    assert_eq!(MetadataRecord::decode(&[1, 27, 9, 1, 2]), Ok(MetadataRecord::Skipped { kind: 27 }));
    let newer = MetadataRecord::decode(&[1, 2, 1]);
    assert_eq!(newer, Err(RecordError::Version { kind: 2, found: 1, known: 0 }));
    assert_eq!(MetadataRecord::decode(&[2, 2, 0]), Err(RecordError::Frame { found: Some(2) }));
    assert_eq!(MetadataRecord::decode(&[]), Err(RecordError::Frame { found: None }));
    let trailing = MetadataRecord::decode(&[1, 20, 0, 0, 0]);
    assert_eq!(trailing, Err(RecordError::Trailing { kind: 20, version: 0, bytes: 1 }));
}

#[test]
fn a_list_that_claims_billions_ends_where_its_bytes_do() {
    let value = Written::of(3, 0).i32(0).raw(&TOPIC.0).raw(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]).bytes();
    assert_eq!(MetadataRecord::decode(&value), Err(RecordError::Truncated { kind: 3, version: 0 }));
}

#[test]
fn keys_of_a_credential_are_never_shown() {
    let keys = Written::of(11, 0).text("user").raw(&[1]).text("salt").text("stored").text("server").i32(4096);
    let record = MetadataRecord::decode(&keys.tags(&[]).bytes()).unwrap();
    let shown = alloc::format!("{record:?}");
    assert!(shown.contains("user") && !shown.contains("115") && !shown.contains("stored"), "{shown}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        kind in 0u8..32,
        version in 0u8..6,
        body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let _ = MetadataRecord::decode(&Written::of(kind, version).raw(&body).bytes());
    }

    #[test]
    fn no_cut_of_a_record_is_a_record(at in 1usize..60) {
        let whole = partition(0, &[1, 2, 3], 1);
        prop_assume!(at < whole.len());
        prop_assert!(MetadataRecord::decode(&whole[..at]).is_err());
    }
}
