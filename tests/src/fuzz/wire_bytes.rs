//! Bytes of a data connection: Fetch and ApiVersions answers, as a shard reads them, and positions of groups.
//!
//! A Fetch answer is driven as a lane drives it: a scratch of bounded size, records taken from wherever they
//! are, batches walked. Its input begins with two bytes: the version, and how the stream is cut.
//!
//! ```text
//!   stream ─▶ scratch (never more than an atom without progress) ─▶ decoder ─▶ events
//!                    └── records field ─▶ taken in pieces ─▶ counted against the frame
//! ```

use super::pieces;
use bytes::Bytes;
use std::sync::Arc;
use twinlog_daemon::embedded::{Cluster, Reply, TopicOptions};
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_sync::wire::api_versions::{self, FETCH_VERSION_MAX, FETCH_VERSION_MIN, Negotiated};
use twinlog_sync::wire::fetch_request::{
    FetchHeader, FetchPartition, FetchPosition, IsolationLevel, Topic, write_request,
};
use twinlog_sync::wire::fetch_response::{Event, FetchDecoder, TopicKey};
use twinlog_sync::wire::offset_fetch::OffsetAnswers;
use twinlog_sync::wire::{WireError, Writer};

/// Low, so that claims above it are met.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A lane's scratch: what is not decided with this much at hand would never be.
const SCRATCH_BYTES: usize = 64 << 10;
/// The request under way.
const CORRELATION_ID: i32 = 42;
/// Bytes of an input in front of the stream.
const CHOICES: usize = 2;
/// The only broker of the examples.
const BROKER: i32 = 1;

/// What a lane sees, without what depends on the cut.
#[derive(Debug, PartialEq)]
struct Decoded {
    events: Vec<(usize, Event)>,
    topics: Vec<Vec<u8>>,
    consumed: usize,
    error: Option<WireError>,
}

fn decode(version: i16, stream: &[u8], cut: u8) -> Decoded {
    let mut decoder = FetchDecoder::new(version, FRAME_BYTES_MAX);
    decoder.expect(CORRELATION_ID);
    let mut decoded = Decoded { events: Vec::new(), topics: Vec::new(), consumed: 0, error: None };
    let mut scratch = Vec::new();
    for piece in pieces(stream, cut) {
        scratch.extend_from_slice(piece);
        loop {
            let records = (decoder.records_left() as usize).min(scratch.len());
            if records > 0 {
                decoder.take_records(records as u32);
                scratch.drain(..records);
                decoded.consumed += records;
                continue;
            }
            if decoder.records_left() > 0 {
                break;
            }
            let (consumed, event) = match decoder.decode(&scratch) {
                Ok(step) => step,
                Err(error) => {
                    decoded.error = Some(error);
                    // The connection is closed now: how much of its last bytes were read means nothing.
                    decoded.consumed = decoded.events.last().map_or(0, |(consumed, _)| *consumed);
                    return decoded;
                }
            };
            assert!(consumed <= scratch.len(), "{consumed} of {} bytes consumed", scratch.len());
            scratch.drain(..consumed);
            decoded.consumed += consumed;
            match event {
                None => break,
                Some(Event::End) => {
                    decoded.events.push((decoded.consumed, Event::End));
                    assert_eq!(decoder.frame_left(), 0, "the frame ends exactly here");
                    return decoded;
                }
                Some(event) => {
                    if event == Event::Topic {
                        decoded.topics.push(match decoder.topic() {
                            TopicKey::Name(name) => name.to_vec(),
                            TopicKey::Id(id) => id.0.to_vec(),
                        });
                    }
                    decoded.events.push((decoded.consumed, event));
                }
            }
        }
        assert!(scratch.len() < SCRATCH_BYTES, "{} bytes are not enough to go on", scratch.len());
    }
    decoded
}

pub fn fetch_answer(input: &[u8]) {
    let Some((&[version, cut], stream)) = input.split_first_chunk::<CHOICES>() else { return };
    let versions = i16::from(version) % (FETCH_VERSION_MAX - FETCH_VERSION_MIN + 1);
    let version = FETCH_VERSION_MIN + versions;
    let whole = decode(version, stream, 0);
    assert!(whole.consumed <= 4 + FRAME_BYTES_MAX as usize, "not beyond the largest frame");
    if let Some((end, Event::End)) = whole.events.last() {
        let length = i32::from_be_bytes(*stream.first_chunk().expect("it was decoded"));
        assert_eq!(*end, 4 + usize::try_from(length).expect("accepted"), "the frame's own length");
    }
    let heads = whole.events.iter().filter(|(_, event)| matches!(event, Event::Partition(_))).count();
    let tails = whole.events.iter().filter(|(_, event)| matches!(event, Event::PartitionEnd(_))).count();
    assert!(heads == tails || heads == tails + 1, "{heads} partitions begin, {tails} end");
    assert_eq!(whole.topics.len(), whole.events.iter().filter(|(_, event)| *event == Event::Topic).count());
    if let Some(error) = &whole.error {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(decode(version, stream, cut), whole, "the cut of the stream changes nothing");
}

pub fn versions_answer(input: &[u8]) {
    match api_versions::read_response(input, CORRELATION_ID) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(None) => {}
        Ok(Some((consumed, negotiated))) => {
            assert!((4..=input.len()).contains(&consumed));
            if let Negotiated::Fetch(version) = negotiated {
                assert!((FETCH_VERSION_MIN..=FETCH_VERSION_MAX).contains(&version));
                // The decoder takes every version that can be negotiated.
                FetchDecoder::new(version, FRAME_BYTES_MAX);
            }
            for shorter in [consumed - 1, consumed / 2] {
                assert_eq!(api_versions::read_response(&input[..shorter], CORRELATION_ID), Ok(None));
            }
        }
    }
}

/// The length in front of a Fetch answer.
pub fn fit_frame(input: &mut [u8]) {
    if let Some(length) = input.len().checked_sub(CHOICES + 4) {
        input[CHOICES..CHOICES + 4].copy_from_slice(&(length as u32).to_be_bytes());
    }
}

/// The length in front of any other frame.
pub fn fit_first_length(input: &mut [u8]) {
    if let Some(length) = input.len().checked_sub(4) {
        input[..4].copy_from_slice(&(length as u32).to_be_bytes());
    }
}

/// Two topics: one with batches and a transaction, one that is empty.
pub(super) fn small_cluster() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.create_topic("orders", TopicOptions { partitions: 2, ..TopicOptions::default() });
    cluster.create_topic("empty", TopicOptions { first_offset: at(70), ..TopicOptions::default() });
    cluster.append("orders", 0, BatchBuilder::at(0).records(2, 40).build());
    cluster.append("orders", 0, BatchBuilder::at(0).records(1, 9).transactional(5, 0, 0).build());
    cluster.append("orders", 0, BatchBuilder::at(0).marker(5, 0, ControlKind::Abort).build());
    cluster.append("orders", 1, BatchBuilder::at(0).records(1, 300).build());
    cluster
}

fn at(value: i64) -> Offset {
    Offset::new(value).expect("examples are not negative")
}

/// A request for every partition of the small cluster, without its length.
fn fetch_request(cluster: &Cluster, version: i16, fetch_offset: i64, epoch: i32) -> Vec<u8> {
    let topic = |name: &str| {
        let id = cluster.topic_id(name).unwrap_or(TopicId::ZERO);
        Arc::new(Topic { name: name.to_owned(), id })
    };
    let (orders, empty) = (topic("orders"), topic("empty"));
    let partition = |topic: &Arc<Topic>, index| FetchPartition {
        topic: topic.clone(),
        index,
        position: FetchPosition {
            fetch_offset: at(fetch_offset),
            current_leader_epoch: LeaderEpoch::UNKNOWN,
            last_fetched_epoch: LeaderEpoch(epoch),
            bytes_max: 1 << 20,
        },
    };
    let header = FetchHeader {
        version,
        correlation_id: CORRELATION_ID,
        client_id: "fuzz",
        rack: "a",
        wait_max_ms: 0,
        bytes_min: 1,
        bytes_max: 1 << 20,
        isolation_level: IsolationLevel::ReadCommitted,
        session_id: 0,
        session_epoch: if version % 2 == 0 { 0 } else { -1 },
    };
    let partitions = [partition(&orders, 0), partition(&orders, 1), partition(&empty, 0)];
    let mut out = Vec::new();
    write_request(&mut out, &header, &partitions, &[]);
    out.split_off(4)
}

/// Answers of every version: batches, errors, a diverging epoch.
pub fn fetch_answers() -> Vec<Vec<u8>> {
    let mut examples = Vec::new();
    for version in FETCH_VERSION_MIN..=FETCH_VERSION_MAX {
        for (fetch_offset, epoch) in [(0, -1), (2, 0), (2, 9), (4_000, -1)] {
            let mut cluster = small_cluster();
            let request = Bytes::from(fetch_request(&cluster, version, fetch_offset, epoch));
            let Reply::Now(chunks) = cluster.handle(BROKER, 0, request) else { continue };
            let choices = [(version - FETCH_VERSION_MIN) as u8, examples.len() as u8];
            examples.push([&choices[..], &chunks.concat()].concat());
        }
    }
    examples
}

pub fn versions_answers() -> Vec<Vec<u8>> {
    let answer = |error: i16, keys: &[[i16; 3]]| {
        let mut out = Vec::new();
        let mut writer = Writer::start(&mut out);
        writer.i32(CORRELATION_ID);
        writer.i16(error);
        writer.i32(keys.len() as i32);
        keys.iter().flatten().for_each(|number| writer.i16(*number));
        writer.finish();
        out
    };
    vec![
        answer(0, &[[0, 3, 13], [1, 4, 18], [3, 0, 13], [18, 0, 4]]),
        answer(0, &[[1, 0, 3]]),
        answer(0, &[[1, 0, 11]]),
        answer(35, &[]),
    ]
}

/// A topic and an offset for each of its partitions.
type TopicOffsets = (&'static str, &'static [i64]);

/// Positions are told within their frame, the same ones twice, and no group costs more than its bytes.
pub fn positions_answer(input: &[u8]) {
    let Ok(mut answers) = OffsetAnswers::parse(input) else { return };
    let mut positions = 0;
    while let Ok(Some(group)) = answers.next_group() {
        let first: Vec<_> = group.positions().collect();
        assert!(group.positions().eq(first.iter().copied()));
        positions += first.len();
        assert!(positions * 20 <= input.len(), "{positions} positions in {} bytes", input.len());
    }
}

pub fn positions_answers() -> Vec<Vec<u8>> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(text.len() as u8 + 1);
        out.extend_from_slice(text.as_bytes());
    };
    let answer = |groups: &[(&str, &[TopicOffsets])]| {
        // No tags of the header, no throttling.
        let mut out = vec![0; 5];
        out.push(groups.len() as u8 + 1);
        for (group, topics) in groups {
            text(&mut out, group);
            out.push(topics.len() as u8 + 1);
            for (topic, offsets) in *topics {
                text(&mut out, topic);
                out.push(offsets.len() as u8 + 1);
                for (index, offset) in offsets.iter().enumerate() {
                    out.extend_from_slice(&(index as i32).to_be_bytes());
                    out.extend_from_slice(&offset.to_be_bytes());
                    out.extend_from_slice(&(-1_i32).to_be_bytes());
                    text(&mut out, "note");
                    out.extend_from_slice(&[0, 0, 0]);
                }
                out.push(0);
            }
            out.extend_from_slice(&[0, 0, 0]);
        }
        out.push(0);
        out
    };
    vec![
        answer(&[]),
        answer(&[("app", &[("orders", &[7, -1, 9]), ("bills", &[i64::MAX])]), ("other", &[])]),
        answer(&[("app", &[("", &[1]), ("orders", &[])])]),
    ]
}
