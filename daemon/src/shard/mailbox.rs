//! What crosses between the control core and a shard: commands in, events out, counters beside them.
//!
//! Both directions are bounded channels of plain data; no record byte and no buffer crosses. The shard
//! looks at its commands after every wait, so a sender wakes it; the control core looks at events on
//! its own schedule and may stall for seconds without slowing a shard.

use crate::config::LinkSettings;
use crate::recovery::RecoveredPartition;
use crate::security::{Credentials, ProofFault};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::credits::LaneKind;
use twinlog_sync::fault::Fault;
use twinlog_sync::guest::leadership::Registration;
use twinlog_sync::guest::read_through::ReadFailure;
use twinlog_sync::lane::LaneFault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::WireError;
use twinlog_sync::wire::fetch_request::Topic;

/// Commands that may wait for one shard; ten thousand partitions are added through it in steps.
pub const COMMANDS_MAX: usize = 4_096;
/// Events that may wait for the control core; more wait inside the shard, a few per partition.
pub const EVENTS_MAX: usize = 4_096;

/// From the control core to one shard.
pub enum Command {
    /// The broker's address, new or changed, and the name that its certificate is for.
    Broker {
        id: i32,
        address: SocketAddr,
        host: Arc<str>,
    },
    AddPartition(Box<AddPartition>),
    /// Who leads the partition now; `None` while nobody does.
    Leader {
        key: PartitionKey,
        leader: Option<Leader>,
    },
    /// Release a stopped or classified partition as it is.
    Resume {
        key: PartitionKey,
    },
    /// Flush, checkpoint and let go of one partition; answered by [`Event::Removed`].
    Remove {
        key: PartitionKey,
    },
    /// The control core found out why the partition must stand still.
    Stop {
        key: PartitionKey,
        fault: Fault,
    },
    /// Accept followers of a guest broker id at this address; answered by [`Event::Listening`].
    Listen {
        guest: i32,
        address: SocketAddr,
    },
    /// Who may log in as a follower where SASL is spoken.
    Credentials(Credentials),
    /// Who may fetch: the destination's registered brokers.
    Brokers(Arc<[RegisteredBroker]>),
    /// The destination's metadata log says this of a partition that is here.
    Lead {
        key: PartitionKey,
        assignment: Box<LeadAssignment>,
    },
    /// The partition is led by others for good, or is no mirror any more.
    ForgetLead {
        key: PartitionKey,
    },
    /// Other figures of the configuration.
    Tune(Tuning),
    /// Append nothing more; with an offset, serve nothing at or beyond it.
    Freeze {
        key: PartitionKey,
        at: Option<Offset>,
    },
    /// Take a freeze back.
    Thaw {
        key: PartitionKey,
    },
    /// Answered by [`Event::Standing`].
    TellStanding {
        key: PartitionKey,
    },
    /// Flush, checkpoint, trim and close everything; answered by [`Event::Drained`].
    Drain,
}

/// What changes while a shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// This shard's share of `link.bytes.per.second`; 0 for no cap.
    pub bytes_per_second: u64,
    pub flush_ms: u64,
    pub flush_catch_up_ms: u64,
    pub flush_catch_up_bytes: u64,
    pub checkpoint_ms: u64,
}

impl Tuning {
    pub fn of(link: &LinkSettings, shards: u64) -> Self {
        Self {
            // A cap that is not 0 must not become 0, which is none.
            bytes_per_second: link.bytes_per_second.div_ceil(shards.max(1)),
            flush_ms: link.flush_ms,
            flush_catch_up_ms: link.flush_catch_up_ms,
            flush_catch_up_bytes: link.flush_catch_up_bytes,
            checkpoint_ms: link.checkpoint_ms,
        }
    }
}

/// Where another broker is reached: the name that its certificate is for, and the port.
pub type Meeting = (Arc<str>, u16);

/// A broker of the destination, as its registration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredBroker {
    pub id: i32,
    pub epoch: i64,
    /// Addresses of its registered hosts; a follower connects from one of them.
    pub addresses: Vec<IpAddr>,
    /// Name and port of the listener where brokers meet.
    pub meeting: Option<Meeting>,
}

/// What the destination's metadata log says of a partition that we lead, or may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadAssignment {
    /// Our id among its replicas.
    pub guest: i32,
    /// The destination's topic, by id and by name.
    pub topic_id: TopicId,
    pub topic: String,
    pub leads: bool,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    /// `guest.durable.replicas`
    pub durable_replicas: u32,
    /// The source compacts its log, and the destination does not as long as it is mirrored.
    pub is_compacted: bool,
    /// Every other replica.
    pub followers: Vec<(i32, Registration)>,
}

/// Where a led partition and its followers stand, or the log of a store, which nobody leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadStanding {
    pub leads: bool,
    pub guest: i32,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    pub log_start: Offset,
    /// Verified and servable.
    pub log_end: Offset,
    pub high_watermark: Offset,
    pub open_transactions: usize,
    /// Where the first of them begins.
    pub first_open: Option<Offset>,
    pub followers: Vec<FollowerStanding>,
}

/// One follower of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStanding {
    pub broker: i32,
    pub broker_epoch: Option<i64>,
    pub unfenced: bool,
    pub in_target: bool,
    /// Where its own log begins, as it says.
    pub start: Option<Offset>,
    /// It holds everything below; unknown until it has fetched.
    pub end: Option<Offset>,
    /// Since it last asked.
    pub age_ns: Option<u64>,
}

/// A partition as recovery left it, ready to be appended to.
pub struct AddPartition {
    pub key: PartitionKey,
    pub topic: Arc<Topic>,
    /// `<data.dir>/<link>/<topic>-<partition>`
    pub directory: PathBuf,
    pub recovered: RecoveredPartition,
    pub counters: Arc<PartitionCounters>,
}

/// From one shard to the control core.
#[derive(Debug)]
pub enum Event {
    /// The leader of this partition is not known or not right any more.
    RefreshMetadata {
        key: PartitionKey,
    },
    /// The source does not accept our position; find out why, then `Resume`, `Stop` or replace it.
    Classify {
        key: PartitionKey,
        fault: Fault,
        epochs: EpochHistory,
        log_start: Offset,
        log_end: Offset,
    },
    Stopped {
        key: PartitionKey,
        fault: Fault,
    },
    /// The source refuses us the topic; it is tried again by itself.
    AccessLost {
        key: PartitionKey,
        fault: Fault,
    },
    AccessRegained {
        key: PartitionKey,
    },
    /// The topic's log start moved up to here.
    Trimmed {
        key: PartitionKey,
        log_start: Offset,
    },
    /// Everything of the partition is flushed, checkpointed and closed.
    Removed {
        key: PartitionKey,
    },
    /// A connection was given up; it is tried again by itself.
    LaneFailed {
        broker: i32,
        kind: LaneKind,
        fault: LaneFault,
    },
    /// Followers can reach this guest broker id.
    Listening {
        guest: i32,
        address: SocketAddr,
    },
    /// They cannot; the errno says why.
    ListenFailed {
        guest: i32,
        address: SocketAddr,
        errno: i32,
    },
    /// A connection was refused or closed for this reason.
    FollowerRefused {
        guest: i32,
        peer: SocketAddr,
        broker: i32,
        why: FollowerRefusal,
    },
    /// Bytes wait that are stamped above the partition's leader epoch.
    EpochWanted {
        key: PartitionKey,
        stamp: LeaderEpoch,
    },
    /// A follower gave the partition up; a higher leader epoch brings it back.
    FollowerStalled {
        key: PartitionKey,
        broker: i32,
        leader_epoch: LeaderEpoch,
    },
    /// `None`: the partition is not here, or is a guest's that is not led.
    Standing {
        key: PartitionKey,
        standing: Option<Box<LeadStanding>>,
    },
    Drained,
    /// The spool is full of what followers do not have: nothing more is fetched until they have it.
    SpoolFull {
        held_bytes: u64,
        budget_bytes: u64,
    },
    /// A follower lacks what nobody has now; it waits, and it is tried again for ever.
    ReadThroughStuck {
        key: PartitionKey,
        source: ReadFailure,
        /// `None`: no other follower has it.
        follower: Option<ReadFailure>,
    },
    /// Nothing more is fetched until there is room; goes on by itself.
    DiskFull {
        fault: Fault,
    },
    /// The log directory cannot be trusted any more; nothing is written there from now on.
    Halted {
        fault: Fault,
    },
}

/// Why a follower's connection was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowerRefusal {
    /// No broker of the destination has this id, or it is a consumer.
    NotABroker,
    /// The broker is registered at other addresses.
    OtherAddress,
    /// Not a request that followers send, or not whole.
    Malformed(WireError),
    Unsupported {
        api_key: i16,
        version: i16,
    },
    /// A request, a handshake or an authentication began and did not end in time.
    TimedOut,
    /// It has not asked as a broker, and others need its place or its memory.
    Unproven,
    /// Its address begins more handshakes than one may.
    TooMany,
    /// It takes nothing of its answer any more.
    NotReading,
    /// TLS failed.
    Insecure {
        why: Arc<str>,
    },
    /// It asked before it had proven who it is.
    NotAuthenticated,
    /// It could not prove who it is.
    WrongProof {
        fault: ProofFault,
    },
    /// It is somebody, and not one of those that may fetch.
    NotAllowed {
        principal: Arc<str>,
    },
}

impl fmt::Display for FollowerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABroker => write!(f, "it is no registered broker of the destination"),
            Self::OtherAddress => write!(f, "the broker is registered at another address"),
            Self::Malformed(error) => write!(f, "its request cannot be read: {error}"),
            Self::Unsupported { api_key, version } => {
                write!(f, "request {api_key} v{version} is none that followers send")
            }
            Self::TimedOut => write!(f, "its request or handshake did not end in time"),
            Self::Unproven => write!(f, "it has not asked as a broker yet, and others need its place"),
            Self::TooMany => write!(f, "its address begins more handshakes at a time than a follower needs"),
            Self::NotReading => write!(f, "it does not read its answer"),
            Self::Insecure { why } => f.write_str(why),
            Self::NotAuthenticated => write!(f, "it asked for something before it logged in"),
            Self::WrongProof { fault } => write!(f, "it could not log in: {fault}"),
            Self::NotAllowed { principal } => {
                write!(f, "it is {principal}, which guest.followers.principals does not name")
            }
        }
    }
}

/// What a shard publishes of one partition: written by the shard alone, read by anyone, relaxed.
#[repr(align(128))]
#[derive(Default)]
pub struct PartitionCounters {
    pub log_start: AtomicI64,
    pub fetch: AtomicI64,
    pub log_end: AtomicI64,
    pub flushed: AtomicI64,
    pub delivered: AtomicI64,
    pub checkpoint: AtomicI64,
    /// -1 until the source has answered once.
    pub high_watermark: AtomicI64,
    pub last_stable_offset: AtomicI64,
    /// Monotonic nanoseconds of the source's last answer for it; 0 = never.
    pub source_seen_at: AtomicU64,
    /// Which lane's clock speaks for it while the source has nothing new, plus one; 0 = none.
    pub lane: AtomicU32,
    /// Monotonic nanoseconds when `delivered` last moved.
    pub delivered_at: AtomicU64,
    /// Since the start of the daemon.
    pub bytes: AtomicU64,
    pub batches: AtomicU64,
    /// `bytes` when `fetch` was there: stored after it, so that it is never too high.
    pub fetched_bytes: AtomicU64,
    /// One above the highest producer id in batches that came since the start of the daemon; 0 = none.
    pub next_producer_id: AtomicI64,
    pub state: AtomicU32,
    /// Where the control core finds out that something of this moved.
    pub moved: OnceLock<MovedBit>,
}

/// Which of 64 partitions of one shard published something since the control core last looked: it visits those
/// alone. On lines of their own, for every shard writes its own words often.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct MovedWord(AtomicU64);

impl MovedWord {
    /// The bits that were set, and no more are.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::AcqRel)
    }
}

/// One bit of it.
#[derive(Debug)]
pub struct MovedBit {
    pub word: Arc<MovedWord>,
    /// Below 64.
    pub bit: u32,
}

/// [`PartitionCounters::state`] as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PartitionState {
    AwaitingLeader = 0,
    Fetching = 1,
    BackingOff = 2,
    Classifying = 3,
    Stopped = 4,
    Removed = 5,
    Frozen = 6,
}

impl PartitionCounters {
    /// What was stored before is seen by whoever takes the bit.
    pub fn tell_moved(&self) {
        if let Some(moved) = self.moved.get() {
            moved.word.0.fetch_or(1 << moved.bit, Ordering::AcqRel);
        }
    }

    pub fn state(&self) -> PartitionState {
        match self.state.load(Ordering::Relaxed) {
            0 => PartitionState::AwaitingLeader,
            1 => PartitionState::Fetching,
            2 => PartitionState::BackingOff,
            3 => PartitionState::Classifying,
            4 => PartitionState::Stopped,
            6 => PartitionState::Frozen,
            _ => PartitionState::Removed,
        }
    }
}

/// What a shard publishes of itself.
#[repr(align(128))]
#[derive(Default)]
pub struct ShardCounters {
    pub received_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    pub direct_bytes: AtomicU64,
    pub copied_bytes: AtomicU64,
    pub batches: AtomicU64,
    pub fetches: AtomicU64,
    pub flushes: AtomicU64,
    /// Time that they took, from the first mark to the last sync.
    pub flush_nanoseconds: AtomicU64,
    pub checkpoints: AtomicU64,
    /// Times a lane had to wait for memory.
    pub memory_stalls: AtomicU64,
    /// Records sent to followers, and what of them came from disk.
    pub served_bytes: AtomicU64,
    pub served_cold_bytes: AtomicU64,
    pub follower_fetches: AtomicU64,
    /// Records sent to followers that were fetched for them, because they are held no more.
    pub read_through_bytes: AtomicU64,
    /// Of batches in files, and of those that were given up since the start.
    pub spool_bytes: AtomicU64,
    pub spool_deleted_bytes: AtomicU64,
    /// Monotonic nanoseconds of the last turn of the loop: a watchdog reads it.
    pub turned_at: AtomicU64,
    pub pool_free_bytes: AtomicU64,
    pub lanes: LaneClocks,
}

/// Lanes whose answers are told; a lane beyond confirms nothing, and the figures of its partitions only look older.
const LANE_CLOCKS_MAX: usize = 256;

/// When each lane last answered as a whole: a fetch session leaves out what did not change (ref: KIP-227), so the
/// answer confirms every partition of the lane.
pub struct LaneClocks([AtomicU64; LANE_CLOCKS_MAX]);

impl Default for LaneClocks {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; LANE_CLOCKS_MAX])
    }
}

impl LaneClocks {
    pub fn answered(&self, lane: u32, at: u64) {
        if let Some(clock) = self.0.get(lane as usize) {
            clock.store(at, Ordering::Relaxed);
        }
    }

    /// By [`PartitionCounters::lane`].
    pub fn answered_at(&self, lane_plus_one: u32) -> Option<u64> {
        let clock = self.0.get((lane_plus_one as usize).checked_sub(1)?)?;
        Some(clock.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }
}
