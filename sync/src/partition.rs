//! One mirror partition: which batch is accepted, which offset moves, and what happens when it cannot.
//!
//! ```text
//!                 leader known                       error that a new leader cures
//!  AwaitingLeader -------------> Fetching ------------------------------------> AwaitingLeader
//!        ^                        |  ^  \          (freeze: Frozen, until thaw fetches again)
//!        |          passing fault v  |   \ out of range, diverging epoch
//!        |                  BackingOff    v
//!        |                            Classifying --- decided by truncation.rs on the control core
//!        |  resume                        |               (cut, restart and refetch replace the
//!        +------------ Stopped <----------+                partition by a newly recovered one)
//! ```
//! The owner receives and hashes the bytes; this machine decides about each header before its bytes
//! count, and about each batch once its CRC is right. It never sees a record.
//!
//! A batch is accepted when its last offset is not below the expected one, its base offset is not
//! either (but for the first batch of an empty log, where the source's log may start inside a batch),
//! and its source epoch is not below the latest. Gaps are kept as they are.

use crate::Nanoseconds;
use crate::backoff::{Backoff, BackoffLimits};
use crate::credits::LaneKind;
use crate::fault::{Fault, Verdict, code};
use crate::ledger::Ledger;
use crate::session::PartitionKey;
use crate::wire::fetch_request::{FetchPosition, Topic};
use crate::wire::fetch_response::{PartitionHead, PartitionTail};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use twinlog_log_segment::batch::BatchHeader;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::epoch::{EPOCHS_MAX, EpochHistory};
use twinlog_log_segment::index::AbortedTransaction;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::transaction::{OPEN_TRANSACTIONS_MAX, OpenTransactions};

/// Wrong bytes at the same offset are asked for this often before the partition stops: a torn answer
/// heals at once, a rotten source replica does not, and each try costs one fetch.
pub const REFETCHES_MAX: u32 = 5;
/// An answer of this size counts as full; the tail lane's own limit must not hide that there is more.
const FULL_ANSWER_BYTES: u32 = 512 << 10;
/// Full answers in a row after which a partition counts as catching up.
const FULL_ANSWERS_TO_CATCH_UP: u32 = 3;

/// Who leads a partition at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    pub broker: i32,
    /// Unknown at sources older than KIP-320.
    pub epoch: LeaderEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    AwaitingLeader,
    Fetching,
    BackingOff {
        until: Nanoseconds,
    },
    Classifying,
    /// A promote is under way: nothing is fetched until it is over or given up.
    Frozen,
    Stopped(Fault),
}

/// What the owner has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The fetch position or the lane changed: tell the session of the leader's lane.
    UpdateSession,
    /// Take it out of whatever session it is in.
    LeaveSession,
    /// Ask the cluster for leaders.
    RefreshMetadata,
    /// Ask the source what became of its log; the answer comes as a new partition or as a resume.
    Classify(Fault),
    /// Tell the operator.
    Stopped(Fault),
    /// The source refuses us the topic. Told once; fetches are tried again for ever.
    AccessLost(Fault),
    /// It gives the topic to us again.
    AccessRegained,
    /// The topic's log start moved; what lies below it can be removed.
    Trimmed(Offset),
}

/// What the source last said, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// 0: never heard of.
    pub seen_at: Nanoseconds,
}

/// What became of one records field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordsOutcome {
    pub records_bytes: u32,
    pub whole_batches: u32,
    /// Size of the batch that was cut off at the end, where its length had arrived.
    pub cut_off_batch_bytes: u64,
}

/// A partition as recovery found it.
pub struct Recovered {
    pub ledger: Ledger,
    /// The source's epochs, not the stamped ones.
    pub epochs: EpochHistory,
    pub transactions: OpenTransactions,
    /// False only while the log holds no batch at all.
    pub holds_batches: bool,
}

pub struct Partition {
    pub key: PartitionKey,
    pub topic: Arc<Topic>,
    pub ledger: Ledger,
    pub epochs: EpochHistory,
    pub transactions: OpenTransactions,
    source: SourceView,
    leader: Option<Leader>,
    /// Leader epoch under which our end was found to be the source's too.
    confirmed_epoch: LeaderEpoch,
    /// A nearer replica that the leader named (ref: KIP-392); forgotten at the first error.
    read_replica: Option<i32>,
    state: State,
    lane: LaneKind,
    holds_batches: bool,
    bytes_max: u32,
    batch_bytes_max: u32,
    full_answers: u32,
    refetches: u32,
    /// The source refused us the topic when it was last asked.
    is_denied: bool,
    backoff: Backoff,
    actions: VecDeque<Action>,
}

/// Partitions that fail together must not try again together.
fn seed_of(key: PartitionKey) -> u64 {
    (u64::from(key.topic) << 32) ^ u64::from(key.index.cast_unsigned()) ^ 0x9e37_79b9_7f4a_7c15
}

impl Partition {
    pub fn new(
        key: PartitionKey,
        topic: Arc<Topic>,
        recovered: Recovered,
        bytes_max: u32,
        batch_bytes_max: u32,
    ) -> Self {
        Self {
            key,
            topic,
            ledger: recovered.ledger,
            epochs: recovered.epochs,
            transactions: recovered.transactions,
            source: SourceView::default(),
            leader: None,
            confirmed_epoch: LeaderEpoch::UNKNOWN,
            read_replica: None,
            state: State::AwaitingLeader,
            lane: LaneKind::CatchUp,
            holds_batches: recovered.holds_batches,
            bytes_max,
            batch_bytes_max,
            full_answers: 0,
            refetches: 0,
            is_denied: false,
            backoff: Backoff::new(seed_of(key)),
            actions: VecDeque::new(),
        }
    }

    /// With other pauses after failures than the usual ones.
    pub fn with_backoff(mut self, limits: BackoffLimits) -> Self {
        self.backoff = Backoff::within(limits, seed_of(self.key));
        self
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn lane(&self) -> LaneKind {
        self.lane
    }

    pub fn source(&self) -> &SourceView {
        &self.source
    }

    /// The broker to fetch from: the leader, or the nearer replica it named.
    pub fn broker(&self) -> Option<i32> {
        Some(self.read_replica.unwrap_or(self.leader?.broker))
    }

    /// What to ask for, while there is something to ask.
    pub fn position(&self) -> Option<FetchPosition> {
        if self.state != State::Fetching {
            return None;
        }
        Some(FetchPosition {
            fetch_offset: self.ledger.fetch(),
            current_leader_epoch: self.leader?.epoch,
            last_fetched_epoch: self.epochs.latest().map_or(LeaderEpoch::UNKNOWN, |latest| latest.epoch),
            bytes_max: self.bytes_max,
        })
    }

    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        match self.state {
            State::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    /// The deadline may have passed.
    pub fn tick(&mut self, now: Nanoseconds) {
        if let State::BackingOff { until } = self.state
            && now >= until
        {
            self.fetch_again();
        }
    }

    fn fetch_again(&mut self) {
        if self.leader.is_some() {
            self.state = State::Fetching;
            self.actions.push_back(Action::UpdateSession);
        } else {
            self.state = State::AwaitingLeader;
            self.actions.push_back(Action::RefreshMetadata);
        }
    }

    /// Metadata (or an answer) names the leader. An older epoch than the known one is stale news.
    pub fn leader_is(&mut self, leader: Leader) {
        if let Some(known) = self.leader
            && leader.epoch < known.epoch
            && leader.epoch != LeaderEpoch::UNKNOWN
        {
            return;
        }
        let changed = self.leader != Some(leader);
        self.leader = Some(leader);
        if changed {
            self.read_replica = None;
        }
        match self.state {
            State::AwaitingLeader => self.fetch_again(),
            State::Fetching if changed => self.actions.push_back(Action::UpdateSession),
            _ => {}
        }
    }

    /// No leader at the moment.
    pub fn leader_is_gone(&mut self) {
        self.leader = None;
        self.read_replica = None;
        if self.state == State::Fetching {
            self.state = State::AwaitingLeader;
            self.actions.push_back(Action::LeaveSession);
        }
    }

    /// The connection to a broker failed. If that was a nearer replica, its leader is asked again: it names another,
    /// or none. A dead replica would hold the partition up for ever. ref: KIP-392
    pub fn connection_failed(&mut self, broker: i32) {
        if self.read_replica == Some(broker) {
            self.read_replica = None;
            if self.state == State::Fetching {
                self.actions.push_back(Action::UpdateSession);
            }
        }
    }

    /// Nothing more is appended until [`Self::thaw`]. A partition that cannot go on by itself stays as it is.
    pub fn freeze(&mut self) {
        if matches!(self.state, State::AwaitingLeader | State::Fetching | State::BackingOff { .. }) {
            self.state = State::Frozen;
            self.actions.push_back(Action::LeaveSession);
        }
    }

    pub fn thaw(&mut self) {
        if self.state == State::Frozen {
            self.fetch_again();
        }
    }

    /// An operator or the control core releases a stopped or classified partition as it is.
    pub fn resume(&mut self) {
        if matches!(self.state, State::Stopped(_) | State::Classifying) {
            self.confirmed_epoch = self.leader.map_or(self.confirmed_epoch, |leader| leader.epoch);
            self.refetches = 0;
            self.backoff.reset();
            self.fetch_again();
        }
    }

    /// The broker does not compare LastFetchedEpoch by itself (Fetch below v12): a leader of a new epoch
    /// must be asked where our last epoch ended before anything of it is appended (decisions 2). Returns
    /// whether that is so; the partition then waits for its classification.
    pub fn confirm_epoch(&mut self, now: Nanoseconds) -> bool {
        let Some(leader) = self.leader else { return false };
        let foreign = self.holds_batches && leader.epoch > self.confirmed_epoch;
        if foreign && self.state == State::Fetching {
            self.fault(now, Fault::NewEpoch { epoch: leader.epoch });
        }
        foreign
    }

    /// An answer for this partition starts. Returns whether its records are wanted.
    pub fn answer_begins(&mut self, now: Nanoseconds, head: &PartitionHead) -> bool {
        if self.state != State::Fetching {
            return false;
        }
        if head.error != 0 {
            self.read_replica = None;
            let fault = Fault::Broker { code: head.error };
            if head.error == code::TOPIC_AUTHORIZATION_FAILED && !self.is_denied {
                self.is_denied = true;
                self.actions.push_back(Action::AccessLost(fault.clone()));
            }
            self.fault(now, fault);
            return false;
        }
        if core::mem::take(&mut self.is_denied) {
            self.backoff.reset();
            self.actions.push_back(Action::AccessRegained);
        }
        if head.preferred_read_replica >= 0 && self.broker() != Some(head.preferred_read_replica) {
            self.read_replica = Some(head.preferred_read_replica);
            self.actions.push_back(Action::UpdateSession);
        }
        self.source = SourceView {
            high_watermark: head.high_watermark,
            last_stable_offset: head.last_stable_offset,
            log_start_offset: head.log_start_offset,
            seen_at: now,
        };
        self.follow_log_start();
        true
    }

    /// A sync that began after `end` was written has completed.
    pub fn flushed_to(&mut self, end: Offset) {
        self.ledger.flushed_to(end);
        // A log start beyond what was flushed when it was told is not told again while nothing moves at the
        // source: an incremental session is silent about what did not change. ref: KIP-227
        self.follow_log_start();
    }

    fn follow_log_start(&mut self) {
        if let Some(log_start) = Offset::new(self.source.log_start_offset)
            && self.ledger.trim(log_start)
        {
            self.epochs.trim_to(self.ledger.log_start());
            self.actions.push_back(Action::Trimmed(self.ledger.log_start()));
        }
    }

    /// A header has arrived. Its batch may be received on when this agrees.
    pub fn accept_header(&self, header: &BatchHeader) -> Result<(), Fault> {
        let expected = self.ledger.fetch();
        let last_offset = header.last_offset();
        if last_offset < expected {
            return Err(Fault::BelowExpected { expected, last_offset });
        }
        if header.base_offset < expected && self.holds_batches {
            return Err(Fault::Overlaps { expected, base_offset: header.base_offset });
        }
        let (epoch, latest) = (header.leader_epoch, self.latest_epoch());
        if epoch < latest {
            return Err(Fault::EpochWentBack { offset: header.base_offset, epoch, latest });
        }
        Ok(())
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        self.epochs.latest().map_or(LeaderEpoch::UNKNOWN, |latest| latest.epoch)
    }

    /// The batch behind an accepted header is whole and its CRC is right. Returns what an abort marker
    /// adds to the transaction index, and whether a source epoch began that must be durable first.
    pub fn accept_batch(
        &mut self,
        header: &BatchHeader,
        control: Option<ControlKind>,
    ) -> Result<Accepted, Fault> {
        let start = header.base_offset.max(self.ledger.fetch());
        let new_epoch = header.leader_epoch > self.latest_epoch();
        if new_epoch {
            let bound = EPOCHS_MAX;
            let recorded = self.epochs.record(header.leader_epoch, start);
            recorded.map_err(|_| Fault::TooMany { what: "leader epochs of the source", bound })?;
        }
        let bound = OPEN_TRANSACTIONS_MAX;
        let aborted = self
            .transactions
            .on_batch(header, control)
            .map_err(|_| Fault::TooMany { what: "open transactions in one partition", bound })?;
        self.ledger.verified(header.next_offset());
        self.holds_batches = true;
        self.refetches = 0;
        Ok(Accepted { aborted, new_epoch })
    }

    /// The answer for this partition is complete.
    pub fn answer_ends(&mut self, now: Nanoseconds, tail: &PartitionTail, records: &RecordsOutcome) {
        // Named also beside an error: it spares the round trip of a metadata refresh (ref: KIP-951).
        if let Some((broker, epoch)) = tail.current_leader
            && broker >= 0
        {
            self.leader_is(Leader { broker, epoch });
        }
        if self.state != State::Fetching {
            return;
        }
        if let Some((epoch, end)) = tail.diverging_epoch {
            self.fault(now, Fault::Diverged { epoch, end });
            return;
        }
        if records.whole_batches == 0 && records.records_bytes > 0 {
            self.ask_for_more(now, records);
            return;
        }
        if records.whole_batches > 0 {
            self.backoff.reset();
        }
        self.choose_lane(records);
        self.actions.push_back(Action::UpdateSession);
    }

    /// The first batch did not fit: ask for all of it, within the bound, then give up with a reason.
    fn ask_for_more(&mut self, now: Nanoseconds, records: &RecordsOutcome) {
        let needed = u32::try_from(records.cut_off_batch_bytes).unwrap_or(u32::MAX).min(self.batch_bytes_max);
        if needed > self.bytes_max {
            self.bytes_max = needed;
            self.actions.push_back(Action::UpdateSession);
            return;
        }
        let offset = self.ledger.fetch();
        self.fault(now, Fault::NoWholeBatch { offset, records_bytes: records.records_bytes });
    }

    fn choose_lane(&mut self, records: &RecordsOutcome) {
        // Much of what was allowed came: there is probably more where it came from.
        let full = records.records_bytes >= FULL_ANSWER_BYTES.min(self.bytes_max / 2);
        self.full_answers = if full { self.full_answers.saturating_add(1) } else { 0 };
        let at_the_end = self.ledger.fetch().value() >= self.source.last_stable_offset.max(0);
        self.lane = match self.lane {
            LaneKind::CatchUp if at_the_end => LaneKind::Tail,
            LaneKind::Tail if self.full_answers >= FULL_ANSWERS_TO_CATCH_UP => LaneKind::CatchUp,
            lane => lane,
        };
    }

    /// Something went wrong: one verdict, one transition.
    pub fn fault(&mut self, now: Nanoseconds, fault: Fault) {
        if matches!(self.state, State::Stopped(_) | State::Frozen) {
            return;
        }
        match fault.verdict() {
            Verdict::Retry => self.back_off(now),
            Verdict::Refetch if self.refetches < REFETCHES_MAX => {
                self.refetches += 1;
                self.read_replica = None;
                self.back_off(now);
            }
            Verdict::Rediscover => {
                self.leader = None;
                self.back_off(now);
                self.actions.push_back(Action::RefreshMetadata);
            }
            Verdict::Classify => {
                self.state = State::Classifying;
                self.actions.push_back(Action::LeaveSession);
                self.actions.push_back(Action::Classify(fault));
            }
            Verdict::Refetch | Verdict::Stop | Verdict::Halt => {
                self.state = State::Stopped(fault.clone());
                self.actions.push_back(Action::LeaveSession);
                self.actions.push_back(Action::Stopped(fault));
            }
        }
    }

    fn back_off(&mut self, now: Nanoseconds) {
        self.state = State::BackingOff { until: now + self.backoff.pause() };
        self.actions.push_back(Action::LeaveSession);
    }
}

/// What an accepted batch brings besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub aborted: Option<AbortedTransaction>,
    /// The source's epoch rose: the history must be durable before this batch counts as flushed.
    pub new_epoch: bool,
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
