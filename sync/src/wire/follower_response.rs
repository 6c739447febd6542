//! What the leader of a partition answers to the stock followers of Kafka 4: four answers, written by hand.
//!
//! A Fetch answer is written around its records: `out` gets every byte but theirs, and a [`Hole`] says where
//! they belong. The owner sends run, records, run, records..., straight from the segment images. The frame's
//! length counts the records that are not in `out`.
//!
//! ```text
//!   length correlation_id tags=0  throttle error session_id
//!   topics*  id  partitions*  index error high_watermark last_stable_offset log_start
//!                             aborted=null preferred_replica=-1  records length+1 ▒▒▒ hole ▒▒▒
//!                             tags: 0 diverging epoch and end, 1 leader and its epoch
//!            tags=0     tags=0
//! ```
//! Invariants: records are never null (a follower dies of that), empty is length 0; aborted transactions are
//! null, because followers find them in the bytes. Counts stand before what they count and are written in
//! their shortest form, so they are said before and asserted after. Neighbours of one topic share its entry;
//! a topic may have several entries, as in a stock broker's answers.

use super::follower_request::{API_VERSIONS_FLEXIBLE, SERVED};
use super::{API_KEY_API_VERSIONS, Writer};
use crate::fault::code;
use alloc::vec::Vec;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// The error codes that a leader gives to its followers. 6 and 75 are silent in a follower's log; 74 makes
/// it give the partition up until new metadata comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum ErrorCode {
    #[default]
    None = 0,
    OffsetOutOfRange = code::OFFSET_OUT_OF_RANGE,
    UnknownTopicOrPartition = code::UNKNOWN_TOPIC_OR_PARTITION,
    NotLeaderOrFollower = code::NOT_LEADER_OR_FOLLOWER,
    UnsupportedVersion = 35,
    FetchSessionIdNotFound = code::FETCH_SESSION_ID_NOT_FOUND,
    InvalidFetchSessionEpoch = code::INVALID_FETCH_SESSION_EPOCH,
    FencedLeaderEpoch = code::FENCED_LEADER_EPOCH,
    UnknownLeaderEpoch = code::UNKNOWN_LEADER_EPOCH,
    UnknownTopicId = code::UNKNOWN_TOPIC_ID,
}

impl ErrorCode {
    pub const fn code(self) -> i16 {
        self as i16
    }
}

/// One partition of a Fetch answer, without its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error: ErrorCode,
    /// -1 where nothing is known of the partition, like the two below it.
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// Our largest epoch not above the follower's, and where it ends: the follower truncates (ref: KIP-595).
    pub diverging_epoch: Option<(LeaderEpoch, Offset)>,
    /// Broker id and epoch of the leader (ref: KIP-951); followers do not need it.
    pub current_leader: Option<(i32, LeaderEpoch)>,
}

impl PartitionAnswer {
    /// An error about a partition of which nothing else is said.
    pub const fn failed(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
        }
    }
}

/// What stands before the partitions of a Fetch answer. Versions 17 and 18 have the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchAnswerHead {
    pub correlation_id: i32,
    /// Of the whole request: session errors.
    pub error: ErrorCode,
    /// 0: no session.
    pub session_id: i32,
}

/// Where records belong in a Fetch answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Length of `out` before them.
    pub position: usize,
    pub records_bytes: u32,
}

/// Writes one Fetch answer; see the file's header.
pub struct FetchResponseWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    topics_left: u32,
    partitions_left: u32,
    in_topic: bool,
    records_bytes: u64,
}

impl<'a> FetchResponseWriter<'a> {
    /// Starts a frame at the end of `out` that will hold exactly `topics` entries.
    pub fn new(out: &'a mut Vec<u8>, head: &FetchAnswerHead, topics: u32) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&head.correlation_id.to_be_bytes());
        // No tags in the header, no throttling.
        out.extend_from_slice(&[0; 1 + 4]);
        out.extend_from_slice(&head.error.code().to_be_bytes());
        out.extend_from_slice(&head.session_id.to_be_bytes());
        put_compact_length(out, topics);
        Self { out, start, topics_left: topics, partitions_left: 0, in_topic: false, records_bytes: 0 }
    }

    /// Starts an entry that will hold exactly `partitions`.
    pub fn topic(&mut self, id: TopicId, partitions: u32) {
        self.end_topic();
        self.topics_left = self.topics_left.checked_sub(1).expect("no more topics than were announced");
        self.out.extend_from_slice(&id.0);
        put_compact_length(self.out, partitions);
        self.partitions_left = partitions;
        self.in_topic = true;
    }

    /// Writes a partition and answers where in `out` its records belong.
    pub fn partition(&mut self, answer: &PartitionAnswer, records_bytes: u32) -> usize {
        let left = self.partitions_left.checked_sub(1);
        self.partitions_left = left.expect("no more partitions than were announced");
        self.out.extend_from_slice(&answer.index.to_be_bytes());
        self.out.extend_from_slice(&answer.error.code().to_be_bytes());
        for offset in [answer.high_watermark, answer.last_stable_offset, answer.log_start_offset] {
            self.out.extend_from_slice(&offset.to_be_bytes());
        }
        // Aborted transactions: a compact null. No preferred read replica.
        self.out.push(0);
        self.out.extend_from_slice(&(-1i32).to_be_bytes());
        put_compact_length(self.out, records_bytes);
        self.records_bytes += u64::from(records_bytes);
        let position = self.out.len();
        self.tags(answer);
        position
    }

    fn tags(&mut self, answer: &PartitionAnswer) {
        let tags = u8::from(answer.diverging_epoch.is_some()) + u8::from(answer.current_leader.is_some());
        self.out.push(tags);
        // Each: tag, size, two fields, and the struct's own empty tag section.
        if let Some((epoch, end)) = answer.diverging_epoch {
            self.out.extend_from_slice(&[0, 4 + 8 + 1]);
            self.out.extend_from_slice(&epoch.0.to_be_bytes());
            self.out.extend_from_slice(&end.value().to_be_bytes());
            self.out.push(0);
        }
        if let Some((leader, epoch)) = answer.current_leader {
            self.out.extend_from_slice(&[1, 4 + 4 + 1]);
            self.out.extend_from_slice(&leader.to_be_bytes());
            self.out.extend_from_slice(&epoch.0.to_be_bytes());
            self.out.push(0);
        }
    }

    fn end_topic(&mut self) {
        assert!(self.partitions_left == 0, "{} announced partitions are missing", self.partitions_left);
        if self.in_topic {
            self.out.push(0);
            self.in_topic = false;
        }
    }

    /// Patches the frame's length and returns the frame's size on the wire with it, records included.
    pub fn finish(mut self) -> u64 {
        self.end_topic();
        assert!(self.topics_left == 0, "{} announced topics are missing", self.topics_left);
        self.out.push(0);
        let run_bytes = (self.out.len() - self.start) as u64;
        let frame_bytes = run_bytes + self.records_bytes;
        let length = i32::try_from(frame_bytes - 4).expect("an answer is far smaller than 2 GiB");
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
        frame_bytes
    }
}

/// One partition of an answer that is written in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLine {
    pub topic_id: TopicId,
    pub answer: PartitionAnswer,
    pub records_bytes: u32,
}

/// Writes a whole Fetch answer and appends a hole for every line with records, in their order. Returns the
/// frame's size on the wire, records included.
pub fn write_fetch_response(
    out: &mut Vec<u8>,
    head: &FetchAnswerHead,
    lines: &[AnswerLine],
    holes: &mut Vec<Hole>,
) -> u64 {
    let of_one_topic = |one: &AnswerLine, next: &AnswerLine| one.topic_id == next.topic_id;
    let mut writer = FetchResponseWriter::new(out, head, count(lines.chunk_by(of_one_topic).count()));
    for entry in lines.chunk_by(of_one_topic) {
        writer.topic(entry[0].topic_id, count(entry.len()));
        for line in entry {
            let position = writer.partition(&line.answer, line.records_bytes);
            if line.records_bytes > 0 {
                holes.push(Hole { position, records_bytes: line.records_bytes });
            }
        }
    }
    writer.finish()
}

/// Answers ApiVersions: what is served, or error 35 with the versions of ApiVersions itself in the form of
/// version 0, which every client reads (ref: KIP-511).
pub fn write_api_versions(out: &mut Vec<u8>, version: i16, correlation_id: i32) {
    let own = |entry: &&(i16, i16, i16)| entry.0 == API_KEY_API_VERSIONS;
    let known = SERVED.iter().find(own).is_some_and(|(_, low, high)| (*low..=*high).contains(&version));
    let error = if known { ErrorCode::None } else { ErrorCode::UnsupportedVersion };
    let (version, keys) = if known { (version, SERVED.len()) } else { (0, 1) };
    let flexible = version >= API_VERSIONS_FLEXIBLE;
    let mut writer = Writer::start(out);
    // The header of this one answer never has tags: the asker does not know yet what we speak.
    writer.i32(correlation_id);
    writer.i16(error.code());
    writer.array_length(flexible, keys);
    for (key, lowest, highest) in SERVED.iter().filter(|entry| known || own(entry)) {
        writer.i16(*key);
        writer.i16(*lowest);
        writer.i16(*highest);
        writer.no_tags(flexible);
    }
    if version >= 1 {
        writer.i32(0);
    }
    writer.no_tags(flexible);
    writer.finish();
}

/// Answers SaslHandshake v1 with the mechanisms that are accepted.
pub fn write_sasl_handshake(out: &mut Vec<u8>, correlation_id: i32, error: i16, mechanisms: &[&str]) {
    let mut writer = Writer::start(out);
    writer.i32(correlation_id);
    writer.i16(error);
    writer.array_length(false, mechanisms.len());
    mechanisms.iter().for_each(|mechanism| writer.string(false, mechanism));
    writer.finish();
}

/// Answers SaslAuthenticate v2: the mechanism's message, or an error and its text. The session has no end but
/// that of the connection.
pub fn write_sasl_authenticate(
    out: &mut Vec<u8>,
    correlation_id: i32,
    error: i16,
    text: &str,
    message: &[u8],
) {
    let mut writer = Writer::start(out);
    writer.i32(correlation_id);
    writer.no_tags(true);
    writer.i16(error);
    match text {
        "" => writer.unsigned_varint(0),
        text => writer.string(true, text),
    }
    writer.unsigned_varint(count(message.len()) + 1);
    writer.raw(message);
    writer.i64(0);
    writer.no_tags(true);
    writer.finish();
}

/// One partition of a ListOffsets answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAnswer<'a> {
    pub topic: &'a [u8],
    pub index: i32,
    pub error: ErrorCode,
    /// -1 where there is no such offset.
    pub offset: i64,
    pub leader_epoch: LeaderEpoch,
}

/// Answers ListOffsets v10 and v11.
pub fn write_list_offsets(out: &mut Vec<u8>, correlation_id: i32, answers: &[OffsetAnswer<'_>]) {
    write_named_topics(
        out,
        correlation_id,
        answers,
        |answer| answer.topic,
        |writer, answer| {
            writer.i32(answer.index);
            writer.i16(answer.error.code());
            // The timestamp: followers only ask about the log's ends, which have none.
            writer.i64(-1);
            writer.i64(answer.offset);
            writer.i32(answer.leader_epoch.0);
        },
    );
}

/// One partition of an OffsetForLeaderEpoch answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndAnswer<'a> {
    pub topic: &'a [u8],
    pub index: i32,
    pub error: ErrorCode,
    pub leader_epoch: LeaderEpoch,
    /// -1 where the epoch is not known.
    pub end_offset: i64,
}

/// Answers OffsetForLeaderEpoch v4.
pub fn write_epoch_ends(out: &mut Vec<u8>, correlation_id: i32, answers: &[EpochEndAnswer<'_>]) {
    write_named_topics(
        out,
        correlation_id,
        answers,
        |answer| answer.topic,
        |writer, answer| {
            writer.i16(answer.error.code());
            writer.i32(answer.index);
            writer.i32(answer.leader_epoch.0);
            writer.i64(answer.end_offset);
        },
    );
}

/// A frame with throttle time and named topics, neighbours of one topic under one entry.
fn write_named_topics<T>(
    out: &mut Vec<u8>,
    correlation_id: i32,
    answers: &[T],
    topic_of: impl Fn(&T) -> &[u8],
    mut write: impl FnMut(&mut Writer<'_>, &T),
) {
    let of_one_topic = |one: &T, next: &T| topic_of(one) == topic_of(next);
    let mut writer = Writer::start(out);
    writer.i32(correlation_id);
    writer.no_tags(true);
    writer.i32(0);
    writer.array_length(true, answers.chunk_by(of_one_topic).count());
    for entry in answers.chunk_by(of_one_topic) {
        let topic = topic_of(&entry[0]);
        writer.unsigned_varint(count(topic.len()) + 1);
        writer.raw(topic);
        writer.array_length(true, entry.len());
        for answer in entry {
            write(&mut writer, answer);
            writer.no_tags(true);
        }
        writer.no_tags(true);
    }
    writer.no_tags(true);
    writer.finish();
}

/// A count of things that came out of a bounded request.
fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a request of 4 MiB names fewer")
}

/// A compact length: one more than the value, as a varint.
fn put_compact_length(out: &mut Vec<u8>, length: u32) {
    let mut value = length.checked_add(1).expect("lengths are below 2 GiB");
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
#[path = "follower_response_tests.rs"]
mod tests;
