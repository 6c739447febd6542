//! The in-memory cluster: brokers that answer request frames, and the verbs that change what they hold.
//!
//! ```text
//!   handle(broker, now, frame) ─┬─▶ Now(chunks)      send them, in order, as one frame
//!                               ├─▶ Wait(pending)    hand it to resume() at pending.until(), or when
//!                               │                    changes() has moved
//!                               ├─▶ Silence          no answer will ever come, the connection stays open
//!                               └─▶ Close(reason)    the connection ends
//! ```
//! Sans-io: the time is an argument, connections are the caller's. The same calls in the same order give the
//! same answers. Verbs that change the cluster panic on a topic or partition that does not exist: they are
//! called by this program's own code. It listens on loopback only, to this program: a request with a hostile
//! array length is not told from an honest one before memory is reserved for it.

use super::partition_log::PartitionLog;
use super::records::CyclicTemplate;
use super::session::Sessions;
use super::topics::{TopicOptions, Topics};
use super::{answers, fetch, fetch::PendingFetch};
use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::Decodable;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::Nanoseconds;

/// What to do with a request.
#[derive(Debug)]
pub enum Reply {
    /// One response frame, its length first, to be sent as it is.
    Now(Vec<Bytes>),
    Wait(PendingFetch),
    Silence,
    Close(CloseReason),
}

/// Why a broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The broker is down, or was told to lose this answer.
    Down,
    Dropped,
    /// A request that cannot be read.
    Malformed {
        correlation_id: i32,
    },
    /// A request that this cluster does not answer in any version, or not in this one.
    Unsupported {
        api_key: i16,
        version: i16,
    },
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Down => write!(f, "the broker is down"),
            CloseReason::Dropped => write!(f, "the answer was lost on purpose"),
            CloseReason::Malformed { correlation_id } => {
                write!(f, "request {correlation_id} cannot be read")
            }
            CloseReason::Unsupported { api_key, version } => {
                write!(f, "API key {api_key} in version {version} is not answered by the embedded source")
            }
        }
    }
}

/// Whether a broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    #[default]
    Serving,
    /// Takes requests and never answers: a black hole.
    Silent,
    /// Refuses and closes connections; its sessions are gone.
    Down,
}

/// One broker: what it alone knows.
#[derive(Debug, Default)]
pub struct Broker {
    pub(super) id: i32,
    pub(super) sessions: Sessions,
    health: Health,
    throttled: u32,
    throttle_ms: i32,
    drop_next: u32,
}

impl Broker {
    /// Time for which this answer tells its client to be quiet.
    pub(super) fn take_throttle(&mut self) -> Option<i32> {
        self.throttled = self.throttled.checked_sub(1)?;
        Some(self.throttle_ms)
    }
}

/// See the file's header.
#[derive(Debug)]
pub struct Cluster {
    pub(super) brokers: BTreeMap<i32, Broker>,
    pub(super) addresses: BTreeMap<i32, (String, u16)>,
    pub(super) topics: Topics,
    /// Highest version per API key, where it is lower than what this cluster can do.
    pub(super) version_limits: BTreeMap<i16, i16>,
    changes: u64,
}

impl Cluster {
    /// Brokers 1 to `brokers`, without topics.
    pub fn new(brokers: u32) -> Cluster {
        assert!(brokers > 0, "a cluster has at least one broker");
        let ids = || 1..=i32::try_from(brokers).expect("few brokers");
        Cluster {
            brokers: ids().map(|id| (id, Broker { id, ..Broker::default() })).collect(),
            addresses: ids().map(|id| (id, (format!("broker-{id}"), 9092))).collect(),
            topics: Topics::default(),
            version_limits: BTreeMap::new(),
            changes: 0,
        }
    }

    /// What Metadata says of where a broker listens.
    pub fn set_address(&mut self, broker: i32, host: &str, port: u16) {
        assert!(self.brokers.contains_key(&broker), "the cluster has no broker {broker}");
        self.addresses.insert(broker, (host.to_owned(), port));
    }

    pub fn broker_ids(&self) -> Vec<i32> {
        self.brokers.keys().copied().collect()
    }

    /// Moves with every change that a waiting fetch may have waited for.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.topics.by_name(topic).map(|topic| topic.id)
    }

    pub fn partition(&self, topic: &str, index: i32) -> Option<&PartitionLog> {
        self.topics.by_name(topic)?.partitions.get(usize::try_from(index).ok()?)
    }

    /// All partitions, in order of topic name and number.
    pub fn partitions(&self) -> impl Iterator<Item = (&str, i32, &PartitionLog)> {
        self.topics.iter().flat_map(|topic| {
            let logs = topic.partitions.iter().zip(0..);
            logs.map(|(log, index)| (topic.name.as_str(), index, log))
        })
    }

    pub fn create_topic(&mut self, name: &str, options: TopicOptions) -> TopicId {
        self.changes += 1;
        let brokers = self.broker_ids();
        self.topics.create(name, options, &brokers)
    }

    /// A topic whose partitions repeat a template; each holds so many batches at first.
    pub fn create_cyclic_topic(
        &mut self,
        name: &str,
        partitions: u32,
        template: &Arc<CyclicTemplate>,
        batches: u64,
    ) -> TopicId {
        self.changes += 1;
        let brokers = self.broker_ids();
        self.topics.create_cyclic(name, partitions, template, batches, &brokers)
    }

    pub fn delete_topic(&mut self, name: &str) {
        self.changes += 1;
        self.topics.delete(name);
    }

    /// Deletes a topic and makes another one of the same name, empty, with another id.
    pub fn recreate_topic(&mut self, name: &str) -> TopicId {
        let options = self.topics.delete(name).options;
        self.create_topic(name, options)
    }

    /// Raises the number of partitions to `total`.
    pub fn add_partitions(&mut self, topic: &str, total: u32) {
        self.changes += 1;
        let brokers = self.broker_ids();
        self.topics.add_partitions(topic, total, &brokers);
    }

    fn change(&mut self, topic: &str, index: i32) -> &mut PartitionLog {
        self.changes += 1;
        self.topics.partition_mut(topic, index)
    }

    /// The leader places one batch at the end of the log; returns its base offset.
    pub fn append(&mut self, topic: &str, index: i32, batch: Vec<u8>) -> Offset {
        self.change(topic, index).append(batch)
    }

    /// A batch that keeps the offsets it has: gaps, and a first batch that starts below the log.
    pub fn append_placed(&mut self, topic: &str, index: i32, batch: Vec<u8>) {
        self.change(topic, index).append_placed(batch);
    }

    /// Bytes that are no batch of format 2 (an old message, noise), as if they spanned so many offsets.
    pub fn append_foreign(&mut self, topic: &str, index: i32, bytes: Vec<u8>, offsets: u32) {
        self.change(topic, index).append_foreign(bytes, offsets);
    }

    /// A partition of a cyclic topic gets so many batches more.
    pub fn extend(&mut self, topic: &str, index: i32, batches: u64) {
        self.change(topic, index).extend(batches);
    }

    /// Retention or DeleteRecords.
    pub fn trim(&mut self, topic: &str, index: i32, log_start: Offset) {
        self.change(topic, index).trim(log_start);
    }

    /// A clean election: a new epoch under this leader, nothing lost.
    pub fn elect(&mut self, topic: &str, index: i32, leader: i32) {
        assert!(self.brokers.contains_key(&leader), "the cluster has no broker {leader}");
        self.change(topic, index).elect(leader);
    }

    /// An unclean election: all from the batch that holds `to` on is lost, and a new epoch begins there.
    pub fn truncate_and_elect(&mut self, topic: &str, index: i32, to: Offset, leader: i32) {
        self.change(topic, index).truncate(to);
        self.elect(topic, index, leader);
    }

    /// Keeps the high watermark from following the end; `None` lets it go.
    pub fn hold_high_watermark(&mut self, topic: &str, index: i32, held: Option<Offset>) {
        self.change(topic, index).hold_high_watermark(held);
    }

    /// The next answer with data of this partition has one wrong byte in its first batch.
    pub fn corrupt_next_fetch(&mut self, topic: &str, index: i32) {
        self.change(topic, index).corrupt_next = true;
    }

    /// Every fetch of this partition fails with this error code, until `None`.
    pub fn fail_fetches(&mut self, topic: &str, index: i32, error: Option<i16>) {
        self.change(topic, index).failing = error;
    }

    /// Forgets what was asked for so far, so that a reader's new start shows in the partitions.
    pub fn forget_readers(&mut self) {
        self.topics.partitions_mut().for_each(PartitionLog::forget_readers);
    }

    fn broker_mut(&mut self, broker: i32) -> &mut Broker {
        self.changes += 1;
        self.brokers.get_mut(&broker).unwrap_or_else(|| panic!("the cluster has no broker {broker}"))
    }

    /// The next `answers` fetches of this broker are answered empty, with this throttle time.
    pub fn throttle(&mut self, broker: i32, answers: u32, throttle_ms: i32) {
        let broker = self.broker_mut(broker);
        (broker.throttled, broker.throttle_ms) = (answers, throttle_ms);
    }

    /// The next `answers` of this broker are lost, with their connections.
    pub fn drop_answers(&mut self, broker: i32, answers: u32) {
        self.broker_mut(broker).drop_next = answers;
    }

    pub fn health(&self, broker: i32) -> Health {
        self.brokers[&broker].health
    }

    pub fn set_health(&mut self, broker: i32, health: Health) {
        let broker = self.broker_mut(broker);
        broker.health = health;
        if health == Health::Down {
            broker.sessions.forget();
        }
    }

    /// The broker loses its fetch sessions, as in a restart that nobody noticed.
    pub fn forget_sessions(&mut self, broker: i32) {
        self.broker_mut(broker).sessions.forget();
    }

    /// Whether this broker keeps fetch sessions at all.
    pub fn keep_sessions(&mut self, broker: i32, keep: bool) {
        self.broker_mut(broker).sessions.disabled = !keep;
    }

    /// Plays an older cluster: this API key is answered up to this version only.
    pub fn limit_version(&mut self, api_key: i16, highest: i16) {
        self.version_limits.insert(api_key, highest);
    }

    /// Answers one request frame, given without its length.
    pub fn handle(&mut self, broker: i32, now: Nanoseconds, frame: Bytes) -> Reply {
        match self.refusal(broker) {
            Some(refusal) => refusal,
            None => self.answer(broker, now, frame),
        }
    }

    /// Tries again to answer a fetch that waits.
    pub fn resume(&mut self, now: Nanoseconds, pending: PendingFetch) -> Reply {
        if let Some(refusal) = self.refusal(pending.broker) {
            return refusal;
        }
        let broker = self.brokers.get_mut(&pending.broker).expect("it took the request");
        fetch::resume(&mut self.topics, broker, &self.addresses, now, pending)
    }

    fn refusal(&mut self, broker: i32) -> Option<Reply> {
        let Some(broker) = self.brokers.get_mut(&broker) else {
            return Some(Reply::Close(CloseReason::Down));
        };
        match broker.health {
            Health::Down => return Some(Reply::Close(CloseReason::Down)),
            Health::Silent => return Some(Reply::Silence),
            Health::Serving => {}
        }
        broker.drop_next = broker.drop_next.checked_sub(1)?;
        Some(Reply::Close(CloseReason::Dropped))
    }

    fn answer(&mut self, broker: i32, now: Nanoseconds, mut frame: Bytes) -> Reply {
        if frame.len() < 8 {
            return Reply::Close(CloseReason::Malformed { correlation_id: -1 });
        }
        let mut fixed = &frame[..8];
        let (api_key, version, correlation_id) = (fixed.get_i16(), fixed.get_i16(), fixed.get_i32());
        let unsupported = Reply::Close(CloseReason::Unsupported { api_key, version });
        let Ok(key) = ApiKey::try_from(api_key) else { return unsupported };
        let header_version = key.request_header_version(version);
        if RequestHeader::decode(&mut frame, header_version).is_err() {
            return Reply::Close(CloseReason::Malformed { correlation_id });
        }
        if !answers::is_supported(self, api_key, version) {
            // A broker answers an ApiVersions that is too new, in version 0. ref: KIP-511
            return match key {
                ApiKey::ApiVersions => Reply::Now(answers::unsupported_api_versions(self, correlation_id)),
                _ => unsupported,
            };
        }
        let answered = match key {
            ApiKey::Fetch => {
                let broker = self.brokers.get_mut(&broker).expect("a refusal was looked for");
                let which = (version, correlation_id);
                return fetch::arrive(&mut self.topics, broker, &self.addresses, now, which, frame);
            }
            ApiKey::ApiVersions => Some(answers::api_versions(self, version, correlation_id)),
            ApiKey::Metadata => answers::metadata(self, version, correlation_id, frame),
            ApiKey::ListOffsets => answers::list_offsets(self, broker, version, correlation_id, frame),
            ApiKey::OffsetForLeaderEpoch => {
                answers::offset_for_leader_epoch(self, broker, version, correlation_id, frame)
            }
            _ => return unsupported,
        };
        answered.map_or(Reply::Close(CloseReason::Malformed { correlation_id }), Reply::Now)
    }
}
