//! What the control core knows of one mirror partition.
//!
//! ```text
//!   Waiting --leader--> Asking --edges--> Recovering --added--> Running <-----------------+
//!      ^                  |failed             |refused             |out of range          |as it is
//!      +------------------+                   v                    v                      |
//!   topic back, retry  <------------------ Parked <--refused-- Classifying ---------------+
//!                                             ^                    |cut, restart
//!                                             +--- Replacing <-- Leaving (its shard lets go)
//! ```
//! Invariant: the shard holds the partition exactly in `Running`, `Classifying` and `Leaving`.

use super::lag::PartitionLag;
use crate::shard::mailbox::{PartitionCounters, PartitionState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::backoff::{Backoff, BackoffLimits};
use twinlog_sync::fault::Fault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::fetch_request::Topic;

/// What is to become of a log that the source does not continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    Cut {
        common_end: Offset,
    },
    Restart {
        at: Offset,
    },
    /// Cut before its first open transaction, as a failover was asked to.
    Before {
        to: Offset,
    },
    /// It is a mirror no more: its files stay where they are.
    Gone,
    /// Nothing: it was taken on without the source, and is opened again now that the source answers.
    Reopen,
    /// Its files are to be adopted as they are: closed until its hand-over is done or taken back.
    Sealed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// For a leader, or for the next try.
    Waiting,
    /// Where the source's log starts and ends.
    Asking,
    /// What followers hold of it, while our store of it is empty.
    TakingOver,
    Recovering,
    /// Whether the source still has what followers may hold beyond our end.
    Confirming,
    Running,
    Classifying,
    Leaving(Replacement),
    Replacing,
    /// In no shard: stopped before it ran, or its replacement was refused.
    Parked,
}

/// A position that the source did not accept, as the shard told it.
#[derive(Clone, Debug)]
pub struct Question {
    pub epochs: EpochHistory,
    pub log_start: Offset,
    pub log_end: Offset,
    /// What the source itself said about where the logs part.
    pub diverged: Option<(LeaderEpoch, Offset)>,
}

/// Why a partition stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub code: &'static str,
    pub reason: String,
}

impl From<&Fault> for Stopped {
    fn from(fault: &Fault) -> Self {
        Self { code: fault.code(), reason: fault.to_string() }
    }
}

/// See the file's header.
pub struct Mirror {
    pub partition: TopicPartition,
    pub key: PartitionKey,
    pub topic: Arc<Topic>,
    pub shard: usize,
    /// `<data.dir>/<link>/<topic>-<partition>`
    pub directory: PathBuf,
    pub counters: Arc<PartitionCounters>,
    pub lag: PartitionLag,
    pub phase: Phase,
    pub leader: Option<Leader>,
    /// It ran before in this process: its newest checkpoint is in a journal, not in the one read at start.
    pub ran_before: bool,
    pub stopped: Option<Stopped>,
    /// Its leader does not let us read it.
    pub denied: Option<Stopped>,
    /// Metadata does not tell us of its topic.
    pub hidden: Option<Stopped>,
    /// When one of the two last began.
    pub unauthorized_at: Instant,
    /// Where the source's log began when it was asked.
    pub source_start: Offset,
    /// The source's end when the daemon started.
    pub captured_end: Option<Offset>,
    /// `--until-caught-up` waits for it: it was there at the start.
    pub required: bool,
    /// A gap was accepted by the operator, once.
    pub accepts_gap: bool,
    /// What followers hold was compared with the source just now.
    pub compared: bool,
    /// It was taken on while the source was away: what the source has is not known yet.
    pub without_source: bool,
    /// Closed for its hand-over, in no shard.
    pub sealed: bool,
    /// Bytes that a failover cut.
    pub cut_bytes: Arc<AtomicI64>,
    /// End of the log when it first came into a shard.
    pub first_end: Option<Offset>,
    pub question: Option<Question>,
    pub retry_at: Instant,
    backoff: Backoff,
    /// Progress when the last pause was taken: pauses grow only while nothing moves.
    paused_at: i64,
}

/// Partitions that fail together must not try again together.
fn seed_of(key: PartitionKey) -> u64 {
    u64::from(key.topic) << 32 | u64::from(key.index.cast_unsigned())
}

impl Mirror {
    pub fn new(
        partition: TopicPartition,
        key: PartitionKey,
        topic: Arc<Topic>,
        shard: usize,
        directory: PathBuf,
        now: Instant,
    ) -> Self {
        Self {
            partition,
            key,
            topic,
            shard,
            directory,
            counters: Arc::default(),
            lag: PartitionLag::default(),
            phase: Phase::Waiting,
            leader: None,
            ran_before: false,
            stopped: None,
            denied: None,
            hidden: None,
            unauthorized_at: now,
            source_start: Offset::ZERO,
            captured_end: None,
            required: false,
            accepts_gap: false,
            compared: false,
            without_source: false,
            sealed: false,
            cut_bytes: Arc::default(),
            first_end: None,
            question: None,
            retry_at: now,
            backoff: Backoff::new(seed_of(key)),
            paused_at: -1,
        }
    }

    /// With other pauses after failures than the usual ones.
    pub fn with_backoff(mut self, limits: BackoffLimits) -> Self {
        self.backoff = Backoff::within(limits, seed_of(self.key));
        self
    }

    /// Whether its shard knows it and has not been told to let it go.
    pub fn is_in_shard(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Classifying)
    }

    /// Puts the next try off.
    pub fn pause(&mut self, now: Instant) {
        let delivered = self.delivered();
        if std::mem::replace(&mut self.paused_at, delivered) != delivered {
            self.backoff.reset();
        }
        self.retry_at = now + std::time::Duration::from_nanos(self.backoff.pause());
    }

    /// The source keeps it from us: it is asked again for ever.
    pub fn is_unauthorized(&self) -> bool {
        self.denied.is_some() || self.hidden.is_some()
    }

    /// Why it stands still, or is held up.
    pub fn trouble(&self) -> Option<&Stopped> {
        self.stopped.as_ref().or(self.denied.as_ref()).or(self.hidden.as_ref())
    }

    pub fn delivered(&self) -> i64 {
        self.counters.delivered.load(Relaxed)
    }

    /// Everything that the source had at the start is here, and flushed.
    pub fn is_caught_up(&self) -> bool {
        self.has_reached(self.delivered())
    }

    /// The same, but not all of it may be flushed yet: a drain does that at once.
    pub fn has_received_all(&self) -> bool {
        self.has_reached(self.counters.fetch.load(Relaxed))
    }

    fn has_reached(&self, offset: i64) -> bool {
        let seen = matches!(self.phase, Phase::Running | Phase::Classifying);
        seen && self.stopped.is_none() && self.captured_end.is_some_and(|end| offset >= end.value())
    }

    /// Records between here and the source's end at the start; `None` where one of the two is not known. For a run
    /// that ends there; how far it is behind the source of today is [`PartitionLag`]'s.
    pub fn missing_records(&self) -> Option<u64> {
        // Recovery says where our log ends: before it, nothing is counted.
        self.first_end?;
        Some(u64::try_from(self.captured_end?.value() - self.delivered()).unwrap_or(0))
    }

    /// A word for the report.
    pub fn state(&self) -> &'static str {
        match (&self.stopped, &self.phase) {
            (Some(_), _) => "stopped",
            (None, _) if self.is_unauthorized() => "unauthorized",
            // By a pause of its topic or link, or by a hand-over: nothing is fetched.
            (None, Phase::Running) if self.counters.state() == PartitionState::Frozen => "frozen",
            (None, Phase::Running) => "active",
            (None, Phase::Classifying | Phase::Leaving(_) | Phase::Replacing) => "reconciling",
            (
                None,
                Phase::Waiting
                | Phase::Asking
                | Phase::TakingOver
                | Phase::Recovering
                | Phase::Confirming
                | Phase::Parked,
            ) => "pending",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::files::TopicId;

    fn mirror() -> Mirror {
        let partition = TopicPartition::new("orders", 3).unwrap();
        let topic = Arc::new(Topic { name: "orders".into(), id: TopicId::ZERO });
        let key = PartitionKey { topic: 0, index: 3 };
        let mut mirror = Mirror::new(partition, key, topic, 0, "orders-3".into(), Instant::now());
        mirror.phase = Phase::Running;
        mirror
    }

    #[test]
    fn what_is_missing_is_counted_once_both_ends_are_known() {
        let mut mirror = mirror();
        assert_eq!(mirror.missing_records(), None, "no end was ever told");
        mirror.captured_end = Offset::new(100);
        assert_eq!(mirror.missing_records(), None, "where we are is not known");
        mirror.first_end = Some(Offset::ZERO);
        mirror.counters.delivered.store(40, Relaxed);
        assert_eq!(mirror.missing_records(), Some(60));
        mirror.counters.delivered.store(250, Relaxed);
        assert_eq!(mirror.missing_records(), Some(0), "the source has grown since");
    }
}
