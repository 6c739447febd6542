//! Fetch request, versions 4 to 17, as a consumer sends it (ref: KIP-227, KIP-320, KIP-392, KIP-516).
//!
//! ```text
//!   [replica -1 <15] max_wait min_bytes max_bytes isolation [session_id epoch 7+]
//!   topics*  ( name <13 | id 13+ )
//!     partitions*  index [current_leader_epoch 9+] fetch_offset [last_fetched_epoch 12+]
//!                  [log_start 5+] max_bytes
//!   [forgotten topics* 7+ ( name | id ) partitions*] [rack 11+] [tags 12+]
//! ```
//! Consumers send log_start -1: the field is for replicas.

use super::{API_KEY_FETCH, Writer};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// First version that names topics by id.
pub const VERSION_WITH_TOPIC_IDS: i16 = 13;
/// First version with incremental fetch sessions.
pub const VERSION_WITH_SESSIONS: i16 = 7;
/// First version in compact, tagged form; from here LastFetchedEpoch is understood.
pub const VERSION_FLEXIBLE: i16 = 12;

/// A topic as the source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// All zero where the source is older than topic ids (Kafka 2.8).
    pub id: TopicId,
}

/// Which data a read may return (ref: KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IsolationLevel {
    ReadUncommitted,
    #[default]
    ReadCommitted,
}

/// What is asked of one partition; a session resends it only when it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPosition {
    pub fetch_offset: Offset,
    pub current_leader_epoch: LeaderEpoch,
    /// Source epoch of the batch before `fetch_offset`, or unknown for an empty log.
    pub last_fetched_epoch: LeaderEpoch,
    pub bytes_max: u32,
}

/// One partition of a request.
#[derive(Clone, Debug)]
pub struct FetchPartition {
    pub topic: Arc<Topic>,
    pub index: i32,
    pub position: FetchPosition,
}

/// The parts of a request that are the same for all its partitions.
#[derive(Clone, Copy, Debug)]
pub struct FetchHeader<'a> {
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: &'a str,
    pub rack: &'a str,
    pub wait_max_ms: u32,
    pub bytes_min: u32,
    pub bytes_max: u32,
    pub isolation_level: IsolationLevel,
    pub session_id: i32,
    pub session_epoch: i32,
}

/// Appends the request to `out`. Both lists must be sorted so that a topic's partitions are neighbours.
pub fn write_request(
    out: &mut Vec<u8>,
    header: &FetchHeader<'_>,
    partitions: &[FetchPartition],
    forgotten: &[(Arc<Topic>, i32)],
) {
    let version = header.version;
    let flexible = version >= VERSION_FLEXIBLE;
    let mut writer = Writer::start(out);
    writer.request_header(API_KEY_FETCH, version, header.correlation_id, header.client_id, flexible);
    if version < 15 {
        writer.i32(-1);
    }
    writer.i32(header.wait_max_ms.cast_signed());
    writer.i32(header.bytes_min.cast_signed());
    writer.i32(header.bytes_max.cast_signed());
    writer.i8(match header.isolation_level {
        IsolationLevel::ReadUncommitted => 0,
        IsolationLevel::ReadCommitted => 1,
    });
    if version >= VERSION_WITH_SESSIONS {
        writer.i32(header.session_id);
        writer.i32(header.session_epoch);
    }
    write_topics(
        &mut writer,
        version,
        partitions,
        |each| &each.topic,
        |writer, each| {
            write_partition(writer, version, each);
        },
    );
    if version >= VERSION_WITH_SESSIONS {
        write_topics(&mut writer, version, forgotten, |each| &each.0, |writer, each| writer.i32(each.1));
    }
    if version >= 11 {
        writer.string(flexible, header.rack);
    }
    writer.no_tags(flexible);
    writer.finish();
}

fn write_partition(writer: &mut Writer<'_>, version: i16, partition: &FetchPartition) {
    let position = &partition.position;
    writer.i32(partition.index);
    if version >= 9 {
        writer.i32(position.current_leader_epoch.0);
    }
    writer.i64(position.fetch_offset.value());
    if version >= 12 {
        writer.i32(position.last_fetched_epoch.0);
    }
    if version >= 5 {
        writer.i64(-1);
    }
    writer.i32(position.bytes_max.cast_signed());
    writer.no_tags(version >= VERSION_FLEXIBLE);
}

/// Writes `items` grouped into runs of the same topic.
fn write_topics<T>(
    writer: &mut Writer<'_>,
    version: i16,
    items: &[T],
    topic_of: impl Fn(&T) -> &Arc<Topic>,
    mut write: impl FnMut(&mut Writer<'_>, &T),
) {
    let flexible = version >= VERSION_FLEXIBLE;
    let same_topic = |a: &T, b: &T| Arc::ptr_eq(topic_of(a), topic_of(b));
    writer.array_length(flexible, items.chunk_by(same_topic).count());
    for run in items.chunk_by(same_topic) {
        let topic = topic_of(&run[0]);
        if version >= VERSION_WITH_TOPIC_IDS {
            writer.raw(&topic.id.0);
        } else {
            writer.string(flexible, &topic.name);
        }
        writer.array_length(flexible, run.len());
        for item in run {
            write(writer, item);
        }
        writer.no_tags(flexible);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn header(version: i16) -> FetchHeader<'static> {
        FetchHeader {
            version,
            correlation_id: 9,
            client_id: "t",
            rack: "r",
            wait_max_ms: 500,
            bytes_min: 1,
            bytes_max: 1 << 20,
            isolation_level: IsolationLevel::ReadCommitted,
            session_id: 3,
            session_epoch: 4,
        }
    }

    fn partition(topic: &Arc<Topic>, index: i32) -> FetchPartition {
        let position = FetchPosition {
            fetch_offset: Offset::new(77).unwrap(),
            current_leader_epoch: LeaderEpoch(2),
            last_fetched_epoch: LeaderEpoch(1),
            bytes_max: 4096,
        };
        FetchPartition { topic: topic.clone(), index, position }
    }

    #[test]
    fn version_4_has_exactly_the_fields_of_kafka_0_11() {
        let topic = Arc::new(Topic { name: "ab".to_string(), id: TopicId([0; 16]) });
        let mut out = Vec::new();
        write_request(&mut out, &header(4), &[partition(&topic, 5)], &[]);
        let mut expected: Vec<u8> = vec![0, 1, 0, 4, 0, 0, 0, 9, 0, 1, b't'];
        expected.extend_from_slice(&(-1i32).to_be_bytes());
        expected.extend_from_slice(&[0, 0, 1, 0xf4, 0, 0, 0, 1, 0, 0x10, 0, 0, 1]);
        expected.extend_from_slice(&[0, 0, 0, 1, 0, 2, b'a', b'b', 0, 0, 0, 1, 0, 0, 0, 5]);
        expected.extend_from_slice(&77i64.to_be_bytes());
        expected.extend_from_slice(&[0, 0, 0x10, 0]);
        assert_eq!(&out[4..], &expected[..]);
        assert_eq!(i32::from_be_bytes(out[..4].try_into().unwrap()) as usize, expected.len());
    }

    #[test]
    fn partitions_of_one_topic_stand_under_one_topic_entry() {
        let a = Arc::new(Topic { name: "a".to_string(), id: TopicId([1; 16]) });
        let b = Arc::new(Topic { name: "b".to_string(), id: TopicId([2; 16]) });
        let (mut together, mut apart) = (Vec::new(), Vec::new());
        write_request(&mut together, &header(17), &[partition(&a, 0), partition(&a, 1)], &[]);
        write_request(&mut apart, &header(17), &[partition(&a, 0), partition(&b, 1)], &[(b, 7)]);
        // A second topic costs its id, a partition count and a tag byte; a forgotten one also its index.
        assert_eq!(apart.len() - together.len(), (16 + 1 + 1) + (16 + 1 + 4 + 1));
    }
}
