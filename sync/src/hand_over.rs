//! What a hand-over asks of its owner, and what it is told: the words of both machines.
//!
//! `guest::hand_over` hands leadership to brokers that follow us, `store_hand_over` leaves files that are ready to
//! be adopted. Each takes the part of these words that it has a use for. Nothing is decided here.

use crate::guest::hand_over::{IsrChange, ProducerOverlap, Standing};
use crate::lifecycle::HandOverStep;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use twinlog_log_segment::offset::Offset;

/// Which way a topic becomes writable, and what the operator allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Promote {
        /// Take what we have when the source goes on growing.
        allow_moving_source: bool,
    },
    /// Without the source.
    Failover {
        /// Logs are cut where the first transaction begins that is open at their end; otherwise such
        /// transactions are aborted afterwards.
        truncate: bool,
    },
}

impl Mode {
    pub const fn is_failover(self) -> bool {
        matches!(self, Self::Failover { .. })
    }

    pub(crate) const fn truncates(self) -> bool {
        matches!(self, Self::Failover { truncate: true })
    }
}

/// What was kept of a hand-over before a restart; as new otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub step: HandOverStep,
    pub ends: BTreeMap<i32, Offset>,
    /// Replicas of each partition without ours, as they were before; empty of a store.
    pub full_replicas: BTreeMap<i32, Vec<i32>>,
}

impl Kept {
    pub fn requested() -> Self {
        Self { step: HandOverStep::Requested, ends: BTreeMap::new(), full_replicas: BTreeMap::new() }
    }
}

/// Where a log of the source ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceEnd {
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
}

/// One log of a store that is closed: what whoever adopts it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedLog {
    pub log_start: Offset,
    pub log_end: Offset,
    /// The highest leader epoch that its batches are stamped with.
    pub leader_epoch: i32,
    /// Producer ids and first offsets of transactions without their end.
    pub open: Vec<(i64, Offset)>,
}

impl SealedLog {
    /// Where a reader of committed records gets to.
    pub fn last_stable_offset(&self) -> Offset {
        self.open.iter().map(|(_, first)| *first).min().unwrap_or(self.log_end)
    }
}

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answered by [`Event::SourceEnds`].
    AskSource,
    /// For each partition, answered by an [`Event::Standing`] each.
    AskStanding(Vec<i32>),
    Freeze(Vec<(i32, Option<Offset>)>),
    Thaw,
    /// Make these logs end there, under a new epoch, and lead them again; their standings tell when it is done.
    CutBack(Vec<(i32, Offset)>),
    /// Keep this step, with the machine's ends and targets; answered by [`Event::Kept`].
    Keep(HandOverStep),
    /// Above all mirrored ones, and look for producers of the destination that have one of these already.
    LiftProducerIds,
    /// Positions of consumer groups, none beyond these offsets; answered by [`Event::GroupsCommitted`].
    CommitGroups(Vec<(i32, Offset)>),
    /// New replicas, or `None` to cancel.
    Reassign(Vec<(i32, Option<Vec<i32>>)>),
    /// From the guest that leads each of them.
    AlterPartitions(Vec<IsrChange>),
    /// Others lead them for good.
    ForgetLeads,
    /// Answered by [`Event::DestinationEnds`].
    AskDestination,
    RestoreConfigs,
    AbortTransactions,
    /// Flush, checkpoint, trim and close these logs, and look at their files; answered by [`Event::Sealed`].
    /// Taken back by [`Action::Thaw`].
    Seal(Vec<i32>),
}

/// What came of it. Texts are the errors of whoever was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    SourceEnds(Result<BTreeMap<i32, SourceEnd>, String>),
    /// `None`: the shard does not have it.
    Standing {
        index: i32,
        standing: Option<Standing>,
    },
    Kept {
        step: HandOverStep,
        result: Result<(), String>,
    },
    /// A producer of the destination that forbids it.
    ProducerIdsLifted(Result<Option<ProducerOverlap>, String>),
    GroupsCommitted(Result<(), String>),
    Reassigned(Result<(), String>),
    /// The error code of each.
    Altered(Result<Vec<(i32, i16)>, String>),
    DestinationEnds(Result<BTreeMap<i32, Offset>, String>),
    ConfigsRestored(Result<(), String>),
    TransactionsAborted(Result<(), String>),
    /// What the files of each partition hold, by its last durable checkpoint.
    Sealed(Result<BTreeMap<i32, SealedLog>, String>),
}
