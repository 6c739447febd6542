//! Bytes of a connection on which a stock broker follows us: requests in, answers out.
//!
//! An input is a stream of frames, each with its length, as the shard reads it. Every request that is
//! accepted goes through a session and a leader's machine, and the answer is read by the decoder of the
//! other side.
//!
//! ```text
//!   stream ─▶ frame ─▶ request ─▶ session ─▶ leadership ─▶ answer with holes ─▶ decoder of source answers
//! ```

use twinlog_daemon::security::{Credentials, ListenerSecurity, SaslAcceptor};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::guest::follower_session::{Candidate, FollowerSession, Rest, Saying};
use twinlog_sync::guest::leadership::{FetchAction, Leadership, LogView, Registration};
use twinlog_sync::wire::fetch_response::{Event, FetchDecoder};
use twinlog_sync::wire::follower_request::{
    API_KEY_LIST_OFFSETS, API_KEY_OFFSET_FOR_LEADER_EPOCH, FetchRequest, Request, frame_length, read_request,
};
use twinlog_sync::wire::follower_response::{
    AnswerLine, EpochEndAnswer, ErrorCode, FetchAnswerHead, OffsetAnswer, PartitionAnswer,
    write_api_versions, write_epoch_ends, write_fetch_response, write_list_offsets, write_sasl_authenticate,
    write_sasl_handshake,
};
use twinlog_sync::wire::{API_KEY_API_VERSIONS, API_KEY_FETCH, Writer};

/// The only topic that we lead.
const TOPIC: TopicId = TopicId([5; 16]);
const FOLLOWER: i32 = 2;
const FOLLOWER_EPOCH: i64 = 40;
const LEADER_EPOCH: LeaderEpoch = LeaderEpoch(3);
const SESSION: i32 = 99;
/// Records of a partition in one answer.
const RECORDS_BYTES: u32 = 300;

/// The leader's side of one connection.
struct Connection {
    session: FollowerSession,
    leader: Leadership,
    epochs: EpochHistory,
}

impl Connection {
    fn new() -> Connection {
        let mut leader = Leadership::new(1, at(10));
        leader.lead(0, LEADER_EPOCH, 0);
        let registration =
            Registration { broker_epoch: Some(FOLLOWER_EPOCH), unfenced: true, in_target: true };
        leader.set_follower(0, FOLLOWER, registration);
        let mut epochs = EpochHistory::new();
        epochs.record(LeaderEpoch(0), at(10)).expect("the first");
        epochs.record(LeaderEpoch(2), at(40)).expect("the second");
        Connection { session: FollowerSession::default(), leader, epochs }
    }

    fn log(&self) -> LogView<'_> {
        LogView { log_start: at(10), held_start: at(20), log_end: at(60), stamp_epochs: &self.epochs }
    }

    fn judge(&mut self, candidate: &Candidate, fetch: &FetchRequest<'_>) -> (PartitionAnswer, Saying, u32) {
        if candidate.handle.is_none() {
            let answer = PartitionAnswer::failed(candidate.index, ErrorCode::UnknownTopicId);
            return (answer, Saying { urgent: true, ..Saying::default() }, 0);
        }
        let log =
            LogView { log_start: at(10), held_start: at(20), log_end: at(60), stamp_epochs: &self.epochs };
        let asked = candidate.fetch(fetch.replica_id, fetch.replica_epoch);
        let verdict = self.leader.fetch(candidate.asked_at, &asked, &log);
        assert!(verdict.log_start <= verdict.high_watermark, "a follower would give the partition up");
        assert!(verdict.log_start.value() <= asked.fetch_offset.max(0));
        let records_bytes = match verdict.action {
            FetchAction::Records { from, end } => {
                assert!(at(20) <= from && from < end && end <= at(60));
                RECORDS_BYTES
            }
            _ => 0,
        };
        (verdict.answer(candidate.index), verdict.saying(), records_bytes)
    }

    fn answer_fetch(&mut self, now: u64, fetch: &FetchRequest<'_>) -> Vec<u8> {
        let (correlation_id, session_id) = (fetch.header.correlation_id, fetch.session_id);
        let resolve = |topic: TopicId, index: i32| (topic == TOPIC).then_some(index as u32);
        let (mut out, mut holes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        if let Err(refusal) = self.session.receive(now, fetch, SESSION, resolve) {
            let head = FetchAnswerHead { correlation_id, error: refusal.error(), session_id };
            write_fetch_response(&mut out, &head, &lines, &mut holes);
            return out;
        }
        while let Some(candidate) = self.session.next_to_judge() {
            let (_, saying, _) = self.judge(&candidate, fetch);
            self.session.judged(candidate.slot, &saying);
        }
        while let Some(candidate) = self.session.next_ready() {
            let (answer, saying, records_bytes) = self.judge(&candidate, fetch);
            if self.session.say(candidate.slot, &saying, Rest::Nothing) {
                lines.push(AnswerLine { topic_id: candidate.topic_id, answer, records_bytes });
            }
        }
        self.session.answered();
        let head = FetchAnswerHead { correlation_id, error: ErrorCode::None, session_id: self.session.id() };
        let frame_bytes = write_fetch_response(&mut out, &head, &lines, &mut holes);
        let mut frame = out.clone();
        for hole in holes.iter().rev() {
            let records = std::iter::repeat_n(0xcc, hole.records_bytes as usize);
            frame.splice(hole.position..hole.position, records);
        }
        assert_eq!(frame.len() as u64, frame_bytes);
        frame
    }

    fn answer(&mut self, now: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let request = match read_request(frame) {
            Ok(request) => request,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        };
        let mut out = Vec::new();
        match &request {
            Request::Fetch(fetch) => {
                let answer = self.answer_fetch(now, fetch);
                read_back(&answer, fetch.header.correlation_id);
                return Some(answer);
            }
            Request::ApiVersions(header) => {
                write_api_versions(&mut out, header.version, header.correlation_id);
            }
            Request::Unsupported { correlation_id, .. } => write_api_versions(&mut out, -1, *correlation_id),
            Request::ListOffsets(list) => {
                let answers = list.partitions().map(|(topic, asked)| {
                    let told =
                        self.leader.list_offset(asked.current_leader_epoch, asked.timestamp, &self.log());
                    let (error, offset, leader_epoch) = (told.error, told.offset, told.leader_epoch);
                    OffsetAnswer { topic, index: asked.index, error, offset, leader_epoch }
                });
                write_list_offsets(&mut out, list.header.correlation_id, &answers.collect::<Vec<_>>());
            }
            Request::OffsetForLeaderEpoch(ends) => {
                let answers = ends.partitions().map(|(topic, asked)| {
                    let (current, epoch) = (asked.current_leader_epoch, asked.leader_epoch);
                    let told = self.leader.epoch_end(ends.replica_id, current, epoch, &self.log());
                    let (error, end_offset, leader_epoch) = (told.error, told.offset, told.leader_epoch);
                    EpochEndAnswer { topic, index: asked.index, error, leader_epoch, end_offset }
                });
                write_epoch_ends(&mut out, ends.header.correlation_id, &answers.collect::<Vec<_>>());
            }
            Request::SaslHandshake { header, mechanism } => {
                let listener = ListenerSecurity::plaintext();
                let error = if SaslAcceptor::default().choose(mechanism, &listener) { 0 } else { 33 };
                write_sasl_handshake(&mut out, header.correlation_id, error, listener.mechanisms());
            }
            Request::SaslAuthenticate { header, message } => {
                let (listener, nobody) = (ListenerSecurity::plaintext(), Credentials::default());
                for mechanism in listener.mechanisms() {
                    let mut acceptor = SaslAcceptor::default();
                    assert!(acceptor.choose(mechanism.as_bytes(), &listener));
                    acceptor.answer(message, &listener, &nobody).expect_err("nobody has a password");
                }
                write_sasl_authenticate(&mut out, header.correlation_id, 58, "refused", &[]);
            }
        }
        let length = i32::from_be_bytes(*out.first_chunk().expect("an answer has a length"));
        assert_eq!(length as usize + 4, out.len());
        Some(out)
    }
}

/// The answer as a follower's fetcher reads it.
fn read_back(frame: &[u8], correlation_id: i32) {
    let mut decoder = FetchDecoder::new(17, 1 << 30);
    decoder.expect(correlation_id);
    let mut at = 0;
    loop {
        let records = decoder.records_left();
        if records > 0 {
            assert!(frame[at..at + records as usize].iter().all(|byte| *byte == 0xcc));
            decoder.take_records(records);
            at += records as usize;
        }
        let (consumed, event) = decoder.decode(&frame[at..]).expect("an answer that can be read");
        at += consumed;
        if event.expect("a whole answer") == Event::End {
            break;
        }
    }
    assert_eq!(at, frame.len());
}

pub fn follower_requests(input: &[u8]) {
    let mut connection = Connection::new();
    let mut rest = input;
    let mut now = 0;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Ok(length) = frame_length(*length) else { break };
        let Some((frame, after)) = after.split_at_checked(length as usize) else { break };
        if connection.answer(now, frame).is_none() {
            break;
        }
        (rest, now) = (after, now + 500_000_000);
    }
}

fn at(value: i64) -> Offset {
    Offset::new(value).expect("examples are not negative")
}

/// A Fetch with its length: (partition, offset, last epoch) each.
fn fetch(version: i16, session: [i32; 2], listed: &[(i32, i64, i32)], forgotten: &[i32]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.request_header(API_KEY_FETCH, version, 7, "broker-2-fetcher-0", true);
    [500, 1, 10 << 20].into_iter().for_each(|number| writer.i32(number));
    writer.i8(0);
    session.into_iter().for_each(|number| writer.i32(number));
    writer.array_length(true, 1);
    writer.raw(&TOPIC.0);
    writer.array_length(true, listed.len());
    for (index, fetch_offset, last_epoch) in listed {
        writer.i32(*index);
        writer.i32(LEADER_EPOCH.0);
        writer.i64(*fetch_offset);
        writer.i32(*last_epoch);
        writer.i64(0);
        writer.i32(1 << 20);
        // The directory's id.
        writer.raw(&[1, 0, 16]);
        writer.raw(&[9; 16]);
    }
    writer.no_tags(true);
    writer.array_length(true, 1);
    writer.raw(&TOPIC.0);
    writer.array_length(true, forgotten.len());
    forgotten.iter().for_each(|index| writer.i32(*index));
    writer.no_tags(true);
    writer.string(true, "");
    // The cluster's id, then the replica's id and epoch.
    writer.raw(&[2, 0, 3, 3, b'i', b'd', 1, 13]);
    writer.i32(FOLLOWER);
    writer.i64(FOLLOWER_EPOCH);
    writer.no_tags(true);
    writer.finish();
    out
}

/// ListOffsets or OffsetForLeaderEpoch with its length: one partition, and what is asked of it.
fn question(key: i16, version: i16, asked: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.request_header(key, version, 8, "broker-2-fetcher-0", true);
    writer.i32(FOLLOWER);
    if key == API_KEY_LIST_OFFSETS {
        writer.i8(0);
    }
    writer.array_length(true, 1);
    writer.string(true, "orders");
    writer.array_length(true, 1);
    writer.i32(0);
    writer.i32(LEADER_EPOCH.0);
    if key == API_KEY_LIST_OFFSETS {
        writer.i64(asked);
    } else {
        writer.i32(asked as i32);
    }
    writer.no_tags(true);
    writer.no_tags(true);
    if key == API_KEY_LIST_OFFSETS {
        writer.i32(30_000);
    }
    writer.no_tags(true);
    writer.finish();
    out
}

fn versions(version: i16) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.request_header(API_KEY_API_VERSIONS, version, 9, "broker", version >= 3);
    if version >= 3 {
        writer.string(true, "apache-kafka-java");
        writer.string(true, "4.3.1");
        writer.no_tags(true);
    }
    writer.finish();
    out
}

/// Connections of one request and of several.
pub fn streams() -> Vec<Vec<u8>> {
    let first = fetch(18, [0, 0], &[(0, 0, -1), (1, 20, 0), (2, 60, 2), (3, 70, 2), (4, 50, 1)], &[]);
    let next = fetch(18, [SESSION, 1], &[(0, 10, -1), (4, 40, 0)], &[3]);
    let quiet = fetch(17, [SESSION, 2], &[], &[]);
    vec![
        first.clone(),
        [first, next, quiet].concat(),
        fetch(17, [0, -1], &[(0, 12, -1)], &[]),
        question(API_KEY_LIST_OFFSETS, 11, -1),
        [question(API_KEY_LIST_OFFSETS, 10, -2), question(API_KEY_LIST_OFFSETS, 11, -5)].concat(),
        question(API_KEY_OFFSET_FOR_LEADER_EPOCH, 4, 1),
        [versions(0), versions(4)].concat(),
        versions(5),
    ]
}

/// The length in front of the first frame, as far as its stream goes.
pub fn fit_first_frame(input: &mut [u8]) {
    if let Some(length) = input.len().checked_sub(4) {
        input[..4].copy_from_slice(&(length as u32).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_examples_is_answered() {
        for (number, stream) in streams().iter().enumerate() {
            let mut connection = Connection::new();
            let mut rest = &stream[..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (frame, after) = after.split_at(frame_length(*length).unwrap() as usize);
                assert!(connection.answer(0, frame).is_some(), "example {number}");
                rest = after;
            }
            assert!(rest.is_empty());
        }
    }
}
