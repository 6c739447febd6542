//! Fetch, versions 4 to 17, as a broker answers a consumer: checks, reads, the long poll and the encoding.
//!
//! ```text
//!   request ─▶ session (what is asked) ─▶ read each partition, in order, until the bytes are spent
//!                 ▲                            │ too little, nothing wrong, time left
//!                 └───── resume ◀── PendingFetch (the owner waits for a change or for `until`)
//!                                              │ else
//!                                   what has news ─▶ head ─ records by reference ─ tags ─▶ chunks
//! ```
//! Invariants: a partition's answer is computed anew at every resume; an error or a diverging epoch ends the
//! wait at once; the first batch of the first partition with data comes whole, whatever the bounds say.
//! ref: KIP-74, KIP-227, KIP-320, KIP-595, KIP-951

use super::broker::{Broker, CloseReason, Reply};
use super::frame::FrameWriter;
use super::partition_log::PartitionLog;
use super::records::RecordSlice;
use super::session::{PartitionKey, SessionUse, Told};
use super::topics::{TopicKey, Topics};
use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::Decodable;
use std::collections::BTreeMap;
use std::sync::Arc;
use twinlog_log_segment::batch::CRC_COVERS_FROM;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::fault::code;
use twinlog_sync::{MILLISECOND, Nanoseconds};

/// First version whose answers name the current leader when the asked broker is not it. ref: KIP-951
const VERSION_WITH_LEADERS: i16 = 16;
/// First version in which a reader may be served by a follower. ref: KIP-392
const VERSION_WITH_FOLLOWER_READS: i16 = 11;

/// What is asked of one partition.
#[derive(Clone, Debug)]
pub struct Asked {
    current_leader_epoch: i32,
    fetch_offset: i64,
    last_fetched_epoch: i32,
    bytes_max: u32,
}

/// A fetch that waits for data: hand it back at [`PendingFetch::until`], or when the cluster has changed.
#[derive(Debug)]
pub struct PendingFetch {
    pub(super) broker: i32,
    correlation_id: i32,
    version: i16,
    until: Nanoseconds,
    bytes_min: u64,
    bytes_max: u32,
    read_committed: bool,
    session: SessionUse,
    /// The partitions of a request outside a session.
    listed: Vec<(PartitionKey, Asked)>,
}

impl PendingFetch {
    /// When it is answered with whatever there is.
    pub fn until(&self) -> Nanoseconds {
        self.until
    }

    /// Its connection's place in the broker's trace: the request it answers.
    pub fn correlation_id(&self) -> i32 {
        self.correlation_id
    }

    fn flexible(&self) -> bool {
        self.version >= 12
    }
}

/// The answer for one partition.
struct Answer {
    key: PartitionKey,
    asked: Asked,
    error: i16,
    high_watermark: i64,
    last_stable: i64,
    log_start: i64,
    /// Absent for readers of uncommitted data.
    aborted: Option<Vec<(i64, i64)>>,
    slice: RecordSlice,
    diverging: Option<(LeaderEpoch, Offset)>,
    current_leader: Option<(i32, LeaderEpoch)>,
}

impl Answer {
    fn failed(key: PartitionKey, asked: Asked, error: i16) -> Answer {
        Answer {
            key,
            asked,
            error,
            high_watermark: -1,
            last_stable: -1,
            log_start: -1,
            aborted: None,
            slice: RecordSlice::default(),
            diverging: None,
            current_leader: None,
        }
    }

    fn told(&self) -> Told {
        Told {
            error: self.error,
            high_watermark: self.high_watermark,
            log_start: self.log_start,
            records_bytes: self.slice.bytes,
            diverging: self.diverging.is_some(),
        }
    }
}

/// A request arrives.
pub fn arrive(
    topics: &mut Topics,
    broker: &mut Broker,
    addresses: &BTreeMap<i32, (String, u16)>,
    now: Nanoseconds,
    (version, correlation_id): (i16, i32),
    mut body: Bytes,
) -> Reply {
    let Ok(request) = FetchRequest::decode(&mut body, version) else {
        return Reply::Close(CloseReason::Malformed { correlation_id });
    };
    let uses_ids = version >= 13;
    let (listed, forgotten) = read_partitions(&request, uses_ids);
    let arrived =
        broker.sessions.arrive(request.session_id, request.session_epoch, uses_ids, &listed, &forgotten);
    let mut pending = PendingFetch {
        broker: broker.id,
        correlation_id,
        version,
        until: now + u64::try_from(request.max_wait_ms).unwrap_or(0) * MILLISECOND,
        bytes_min: request.min_bytes.max(0).min(request.max_bytes.max(0)) as u64,
        bytes_max: request.max_bytes.max(0) as u32,
        read_committed: request.isolation_level == 1,
        session: SessionUse::None,
        listed,
    };
    match arrived {
        Err(error) => return Reply::Now(encode_empty(&pending, error, 0, 0)),
        Ok(session) => pending.session = session,
    }
    if let Some(throttle_ms) = broker.take_throttle() {
        // Kafka names no session in a throttled answer to a full request: the client asks in full again.
        let session_id = match pending.session {
            SessionUse::Continue { id, .. } => id,
            SessionUse::None | SessionUse::Begin { .. } => 0,
        };
        return Reply::Now(encode_empty(&pending, 0, session_id, throttle_ms));
    }
    resume(topics, broker, addresses, now, pending)
}

type Listed = (Vec<(PartitionKey, Asked)>, Vec<PartitionKey>);

fn read_partitions(request: &FetchRequest, uses_ids: bool) -> Listed {
    let mut listed = Vec::new();
    for topic in &request.topics {
        let name = topic.topic.as_str();
        let key = if uses_ids {
            TopicKey::Id(TopicId(topic.topic_id.into_bytes()))
        } else {
            TopicKey::Name(Arc::from(name))
        };
        listed.extend(topic.partitions.iter().map(|partition| {
            let asked = Asked {
                current_leader_epoch: partition.current_leader_epoch,
                fetch_offset: partition.fetch_offset,
                last_fetched_epoch: partition.last_fetched_epoch,
                bytes_max: partition.partition_max_bytes.max(0) as u32,
            };
            ((key.clone(), partition.partition), asked)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = if uses_ids {
            TopicKey::Id(TopicId(topic.topic_id.into_bytes()))
        } else {
            TopicKey::Name(Arc::from(topic.topic.as_str()))
        };
        forgotten.extend(topic.partitions.iter().map(|index| (key.clone(), *index)));
    }
    (listed, forgotten)
}

/// Reads again, and answers when there is enough, something wrong, or no time left.
pub fn resume(
    topics: &mut Topics,
    broker: &mut Broker,
    addresses: &BTreeMap<i32, (String, u16)>,
    now: Nanoseconds,
    pending: PendingFetch,
) -> Reply {
    let listed = match pending.session {
        SessionUse::Continue { id, epoch } => match broker.sessions.listed(id, epoch) {
            Ok(listed) => listed,
            Err(error) => return Reply::Now(encode_empty(&pending, error, 0, 0)),
        },
        SessionUse::None | SessionUse::Begin { .. } => pending.listed.clone(),
    };
    let mut answers = Vec::with_capacity(listed.len());
    let (mut left, mut found, mut readable, mut urgent) = (pending.bytes_max, 0u64, 0usize, false);
    for (key, asked) in listed {
        let answer = read(topics, &pending, key, asked, left, found == 0);
        left = left.saturating_sub(answer.slice.bytes);
        found += u64::from(answer.slice.bytes);
        // A topic that nobody knows is answered, but does not hurry the others.
        let unknown = matches!(answer.error, code::UNKNOWN_TOPIC_ID | code::UNKNOWN_TOPIC_OR_PARTITION);
        readable += usize::from(!unknown);
        urgent |= (answer.error != 0 && !unknown) || answer.diverging.is_some();
        answers.push(answer);
    }
    if now < pending.until && found < pending.bytes_min && readable > 0 && !urgent {
        return Reply::Wait(pending);
    }
    let session_id = settle_session(broker, &pending.session, &mut answers);
    Reply::Now(encode(topics, addresses, &pending, session_id, &answers))
}

/// Notes what the session's reader is told, and leaves out what is not news.
fn settle_session(broker: &mut Broker, session: &SessionUse, answers: &mut Vec<Answer>) -> i32 {
    match *session {
        SessionUse::None => 0,
        SessionUse::Begin { uses_ids } => {
            let told = |answer: &Answer| (answer.key.clone(), answer.asked.clone(), answer.told());
            let answered: Vec<_> = answers.iter().map(told).collect();
            broker.sessions.begin(uses_ids, &answered)
        }
        SessionUse::Continue { id, .. } => {
            answers.retain(|answer| broker.sessions.tell(id, &answer.key, &answer.told()));
            id
        }
    }
}

/// One partition's answer.
fn read(
    topics: &mut Topics,
    pending: &PendingFetch,
    key: PartitionKey,
    asked: Asked,
    bytes_left: u32,
    first_whole: bool,
) -> Answer {
    let log = match topics.asked_mut(&key.0, key.1) {
        Ok(log) => log,
        Err(error) => return Answer::failed(key, asked, error),
    };
    let leader_only = pending.version < VERSION_WITH_FOLLOWER_READS;
    let checked = log
        .check(pending.broker, asked.current_leader_epoch, leader_only)
        .and_then(|()| log.failing.map_or(Ok(()), Err))
        .and_then(|()| position(log, &asked));
    let (from, diverging) = match checked {
        Ok(position) => position,
        Err(error) => {
            let mut answer = Answer::failed(key, asked, error);
            let moved = matches!(error, code::NOT_LEADER_OR_FOLLOWER | code::FENCED_LEADER_EPOCH);
            if moved && pending.version >= VERSION_WITH_LEADERS {
                answer.current_leader = Some((log.leader(), log.leader_epoch()));
            }
            return answer;
        }
    };
    let upper = if pending.read_committed { log.last_stable_offset() } else { log.high_watermark() };
    let slice = if diverging.is_some() || from >= upper {
        RecordSlice::default()
    } else {
        log.records.slice(from, upper, asked.bytes_max.min(bytes_left), first_whole)
    };
    if diverging.is_none() {
        log.note_asked(from);
    }
    let aborted = pending.read_committed.then(|| match slice.bytes {
        0 => Vec::new(),
        _ => log.aborted_between(from, upper),
    });
    Answer {
        key,
        asked,
        error: 0,
        high_watermark: log.high_watermark().value(),
        last_stable: log.last_stable_offset().value(),
        log_start: log.log_start_offset().value(),
        aborted,
        slice,
        diverging,
        current_leader: None,
    }
}

/// Where a read begins, and what diverges; or OFFSET_OUT_OF_RANGE. The epoch is judged before the offset:
/// an offset beyond the end is a divergence for a reader that says its last epoch. ref: KIP-595
fn position(log: &PartitionLog, asked: &Asked) -> Result<(Offset, Option<(LeaderEpoch, Offset)>), i16> {
    let out_of_range = code::OFFSET_OUT_OF_RANGE;
    let from = Offset::new(asked.fetch_offset).ok_or(out_of_range)?;
    if asked.last_fetched_epoch >= 0 {
        let last_fetched = LeaderEpoch(asked.last_fetched_epoch);
        let end = log.end_of_epoch(last_fetched).ok_or(out_of_range)?;
        if from < log.log_start_offset() {
            return Err(out_of_range);
        }
        if end.epoch < last_fetched || end.start < from {
            return Ok((from, Some((end.epoch, end.start))));
        }
    }
    let range = log.log_start_offset()..=log.log_end_offset();
    if range.contains(&from) { Ok((from, None)) } else { Err(out_of_range) }
}

/// Starts a response up to the number of its topics.
fn start(pending: &PendingFetch, error: i16, session_id: i32, throttle_ms: i32) -> FrameWriter {
    let mut writer = FrameWriter::start(pending.correlation_id, pending.flexible());
    writer.i32(throttle_ms);
    if pending.version >= 7 {
        writer.i16(error);
        writer.i32(session_id);
    }
    writer
}

fn encode_empty(pending: &PendingFetch, error: i16, session_id: i32, throttle_ms: i32) -> Vec<Bytes> {
    let mut writer = start(pending, error, session_id, throttle_ms);
    writer.length(pending.flexible(), 0);
    writer.no_tags(pending.flexible());
    writer.finish()
}

fn encode(
    topics: &mut Topics,
    addresses: &BTreeMap<i32, (String, u16)>,
    pending: &PendingFetch,
    session_id: i32,
    answers: &[Answer],
) -> Vec<Bytes> {
    let flexible = pending.flexible();
    let mut writer = start(pending, 0, session_id, 0);
    let runs = || answers.chunk_by(|one, other| one.key.0 == other.key.0);
    writer.length(flexible, runs().count());
    for run in runs() {
        match &run[0].key.0 {
            TopicKey::Id(id) => writer.raw(&id.0),
            TopicKey::Name(name) => writer.string(flexible, name),
        }
        writer.length(flexible, run.len());
        for answer in run {
            encode_partition(&mut writer, topics, pending.version, answer);
        }
        writer.no_tags(flexible);
    }
    if flexible {
        encode_endpoints(&mut writer, addresses, answers);
    }
    writer.finish()
}

fn encode_partition(writer: &mut FrameWriter, topics: &mut Topics, version: i16, answer: &Answer) {
    let flexible = version >= 12;
    writer.i32(answer.key.1);
    writer.i16(answer.error);
    writer.i64(answer.high_watermark);
    writer.i64(answer.last_stable);
    if version >= 5 {
        writer.i64(answer.log_start);
    }
    match &answer.aborted {
        None => writer.null_length(flexible),
        Some(aborted) => {
            writer.length(flexible, aborted.len());
            for (producer_id, first_offset) in aborted {
                writer.i64(*producer_id);
                writer.i64(*first_offset);
                writer.no_tags(flexible);
            }
        }
    }
    if version >= VERSION_WITH_FOLLOWER_READS {
        // No nearer replica is ever named.
        writer.i32(-1);
    }
    writer.length(flexible, answer.slice.bytes as usize);
    if answer.slice.bytes > 0 {
        let log = topics.asked_mut(&answer.key.0, answer.key.1).expect("its records were just read");
        encode_records(writer, log, &answer.slice);
    }
    if flexible {
        encode_partition_tags(writer, answer);
    }
}

fn encode_records(writer: &mut FrameWriter, log: &mut PartitionLog, slice: &RecordSlice) {
    if !std::mem::take(&mut log.corrupt_next) {
        log.records.write(slice, writer);
        return;
    }
    let mut copy = FrameWriter::default();
    copy.i32(0);
    log.records.write(slice, &mut copy);
    let mut bytes = copy.finish().concat().split_off(4);
    // A byte in the middle of what the first batch's CRC covers.
    let whole = (slice.first_batch_bytes as usize).min(bytes.len());
    let at = ((CRC_COVERS_FROM + whole) / 2).min(bytes.len() - 1);
    bytes[at] ^= 0x40;
    writer.reference(Bytes::from(bytes));
}

fn encode_partition_tags(writer: &mut FrameWriter, answer: &Answer) {
    let count = u32::from(answer.diverging.is_some()) + u32::from(answer.current_leader.is_some());
    writer.unsigned_varint(count);
    if let Some((epoch, end)) = answer.diverging {
        let mut content = FrameWriter::default();
        content.i32(epoch.0);
        content.i64(end.value());
        content.no_tags(true);
        writer.tag(0, &content);
    }
    if let Some((leader, epoch)) = answer.current_leader {
        let mut content = FrameWriter::default();
        content.i32(leader);
        content.i32(epoch.0);
        content.no_tags(true);
        writer.tag(1, &content);
    }
}

/// The addresses of the leaders that were named, as the response's last field.
fn encode_endpoints(writer: &mut FrameWriter, addresses: &BTreeMap<i32, (String, u16)>, answers: &[Answer]) {
    let mut named: Vec<i32> = answers.iter().filter_map(|answer| Some(answer.current_leader?.0)).collect();
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        writer.no_tags(true);
        return;
    }
    let mut content = FrameWriter::default();
    content.length(true, named.len());
    for leader in named {
        let (host, port) = &addresses[&leader];
        content.i32(leader);
        content.string(true, host);
        content.i32(i32::from(*port));
        // No rack: a null string.
        content.unsigned_varint(0);
        content.no_tags(true);
    }
    writer.unsigned_varint(1);
    writer.tag(0, &content);
}
