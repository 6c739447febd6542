//! What crosses between the control core and a shard: commands in, events out, counters beside them.
//!
//! Both directions are bounded channels of plain data; no record byte and no buffer crosses. The shard
//! looks at its commands after every wait, so a sender wakes it; the control core looks at events on
//! its own schedule and may stall for seconds without slowing a shard.

use crate::recovery::RecoveredPartition;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::credits::LaneKind;
use twinlog_sync::fault::Fault;
use twinlog_sync::lane::LaneFault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::fetch_request::Topic;

/// Commands that may wait for one shard; ten thousand partitions are added through it in steps.
pub const COMMANDS_MAX: usize = 4_096;
/// Events that may wait for the control core; more wait inside the shard, a few per partition.
pub const EVENTS_MAX: usize = 4_096;

/// From the control core to one shard.
pub enum Command {
    /// The broker's address, new or changed.
    Broker {
        id: i32,
        address: SocketAddr,
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
    /// Flush, checkpoint, trim and close everything; answered by [`Event::Drained`].
    Drain,
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
    Drained,
    /// Nothing more is fetched until there is room; goes on by itself.
    DiskFull {
        fault: Fault,
    },
    /// The log directory cannot be trusted any more; nothing is written there from now on.
    Halted {
        fault: Fault,
    },
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
    /// Since the start of the daemon.
    pub bytes: AtomicU64,
    pub batches: AtomicU64,
    pub state: AtomicU32,
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
}

impl PartitionCounters {
    pub fn state(&self) -> PartitionState {
        match self.state.load(Ordering::Relaxed) {
            0 => PartitionState::AwaitingLeader,
            1 => PartitionState::Fetching,
            2 => PartitionState::BackingOff,
            3 => PartitionState::Classifying,
            4 => PartitionState::Stopped,
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
    pub checkpoints: AtomicU64,
    /// Times a lane had to wait for memory.
    pub memory_stalls: AtomicU64,
    /// Monotonic nanoseconds of the last turn of the loop: a watchdog reads it.
    pub turned_at: AtomicU64,
    pub pool_free_bytes: AtomicU64,
}
