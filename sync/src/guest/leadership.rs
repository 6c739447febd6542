//! One partition that we lead: what each follower's fetch is answered, and how far its copies are proven.
//!
//! Owns the leader epoch, the followers' ends, the high watermark. The log is shown to it anew with every
//! question ([`LogView`]); it never reads one.
//!
//! ```text
//!          log_start      held_start        high_watermark    servable end      first stamp above our epoch
//!   ─ ─ ─ ─┼─ read through ┼──── records ────────┼────────────────┼─ held back ───────┼─ ─ ─
//!    out of range                                       wait ◀────┴──▶ wait, "ahead": we lag, it does not
//! ```
//! Order of the checks, which is the order in which a stock leader's followers stay alive:
//!
//! 1. we lead; the follower's leader epoch is ours (an old one is held a while: error 74 makes the follower
//!    give the partition up until new metadata comes); the follower is a replica, and not in an earlier life;
//! 2. below the log start: out of range, even when we hold nothing, for that is how a follower learns it;
//! 3. its last epoch against the stamp history, as a stock leader does (ref: KIP-101, KIP-595), but what we
//!    do not know *yet* never counts as divergence: a follower beyond our end waits, it is never cut;
//! 4. read through, records, or wait.
//!
//! Invariants: log_start <= high watermark <= servable end; the high watermark goes back only when the log is
//! cut; no answer carries a log start above the high watermark or the follower's end, or the follower gives
//! the partition up *for good* (only a leader epoch bump revives it); nothing stamped above the leader epoch
//! is served, or followers skip it and fetch again without pause (ref: KAFKA-18723).
//!
//! The stamp history must hold every epoch that was ever served, also above a log end that a restart set
//! back, and a new epoch from each cut on, before any batch carries it.

use super::follower_session::Saying;
use crate::wire::follower_request::{
    TIMESTAMP_EARLIEST, TIMESTAMP_EARLIEST_LOCAL, TIMESTAMP_LATEST, TIMESTAMP_LATEST_TIERED,
};
use crate::wire::follower_response::{ErrorCode, PartitionAnswer};
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::collections::BTreeMap;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// How long a fetch with an old leader epoch is held: its broker applies the same metadata some ms later.
/// Raising it keeps a follower that was left behind from being told so.
pub const HOLD_NS: Nanoseconds = 200 * MILLISECOND;

/// A follower that asked nothing for so long has given the partition up: its long poll is 500 ms, its
/// back-off after an error 1 s. Raising it prolongs the time in which a failed copy goes unnoticed.
pub const STALLED_NS: Nanoseconds = 2 * SECOND;

/// The replica epoch of a broker that is not registered yet.
const UNREGISTERED: i64 = -1;

/// The log at the time of one question.
#[derive(Clone, Copy, Debug)]
pub struct LogView<'a> {
    /// First offset that the topic has.
    pub log_start: Offset,
    /// First offset that we still hold.
    pub held_start: Offset,
    /// Verified, and below every barrier.
    pub log_end: Offset,
    /// What batches are stamped with, as followers see it.
    pub stamp_epochs: &'a EpochHistory,
}

/// What one follower asks of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    pub replica_id: i32,
    pub replica_epoch: i64,
    pub current_leader_epoch: LeaderEpoch,
    pub fetch_offset: i64,
    pub last_fetched_epoch: LeaderEpoch,
    /// Where the follower's own log begins.
    pub log_start_offset: i64,
    /// When this position came in; a held fetch is asked again with the same.
    pub asked_at: Nanoseconds,
}

/// What is done with a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchAction {
    NotLeader,
    /// Say nothing until then, unless the leader epoch changes.
    Hold {
        until: Nanoseconds,
    },
    FencedEpoch,
    /// The follower knows a leader epoch, or that it is a replica, before we do: it asks again.
    UnknownEpoch,
    /// A fetch from before the follower's last registration: answered like a stock leader, with error 6.
    StaleReplica,
    OutOfRange,
    Diverging {
        epoch: LeaderEpoch,
        end: Offset,
    },
    /// We trimmed these already: `from..to` is read from the source.
    ReadThrough {
        from: Offset,
        to: Offset,
    },
    /// Nothing to send now; long-poll.
    Wait,
    /// Whole batches of `from..end`, beginning with the one that contains `from`.
    Records {
        from: Offset,
        end: Offset,
    },
}

/// The answer to a fetch. `log_start` is clamped for this follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchVerdict {
    pub action: FetchAction,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

impl FetchVerdict {
    pub fn error(&self) -> ErrorCode {
        match self.action {
            FetchAction::NotLeader | FetchAction::StaleReplica => ErrorCode::NotLeaderOrFollower,
            FetchAction::FencedEpoch => ErrorCode::FencedLeaderEpoch,
            FetchAction::UnknownEpoch => ErrorCode::UnknownLeaderEpoch,
            FetchAction::OutOfRange => ErrorCode::OffsetOutOfRange,
            _ => ErrorCode::None,
        }
    }

    /// What the follower's session is to know of the verdict. A read through has no records until somebody
    /// has read them.
    pub fn saying(&self) -> Saying {
        let answer = self.answer(0);
        Saying {
            records: matches!(self.action, FetchAction::Records { .. }),
            urgent: answer.error != ErrorCode::None || answer.diverging_epoch.is_some(),
            high_watermark: answer.high_watermark,
            log_start_offset: answer.log_start_offset,
        }
    }

    /// The partition's line in a Fetch answer; records are added by whoever holds them.
    pub fn answer(&self, index: i32) -> PartitionAnswer {
        let error = self.error();
        if error != ErrorCode::None {
            return PartitionAnswer::failed(index, error);
        }
        let diverging_epoch = match self.action {
            FetchAction::Diverging { epoch, end } => Some((epoch, end)),
            _ => None,
        };
        // What we mirror ends below the source's last stable offset, so all of it is stable.
        let high_watermark = self.high_watermark.value();
        PartitionAnswer {
            index,
            error,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset: self.log_start.value(),
            diverging_epoch,
            current_leader: None,
        }
    }
}

/// One replica that follows us, as the metadata log and its fetches show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// From its registration; `None` when it has none.
    pub broker_epoch: Option<i64>,
    pub unfenced: bool,
    /// Stays a replica after the promote.
    pub in_target: bool,
    /// It holds everything below this, as we have it or had it.
    pub proven_end: Option<Offset>,
    /// What it last fetched from, proven or not; can be beyond our end after our restart.
    pub raw_end: Option<Offset>,
    pub last_fetched_epoch: LeaderEpoch,
    /// Where its log begins, as it last said. Above ours it deleted records by itself.
    pub log_start: Option<Offset>,
    /// When `proven_end` was last proven by a fetch that named the partition.
    pub proven_at: Option<Nanoseconds>,
    fetched_at: Option<Nanoseconds>,
    expected_since: Nanoseconds,
}

/// What the metadata log says of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    pub broker_epoch: Option<i64>,
    pub unfenced: bool,
    pub in_target: bool,
}

/// A follower that should fetch and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    pub broker_id: i32,
    /// It last asked, or was first expected to, at this time.
    pub since: Nanoseconds,
}

/// The answer about one offset of ListOffsets or OffsetForLeaderEpoch; -1 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetVerdict {
    pub error: ErrorCode,
    pub offset: i64,
    pub leader_epoch: LeaderEpoch,
}

impl OffsetVerdict {
    const fn found(offset: i64, leader_epoch: LeaderEpoch) -> Self {
        Self { error: ErrorCode::None, offset, leader_epoch }
    }

    const fn failed(error: ErrorCode) -> Self {
        Self { error, offset: -1, leader_epoch: LeaderEpoch::UNKNOWN }
    }
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Leadership {
    leads: bool,
    leader_epoch: LeaderEpoch,
    partition_epoch: i32,
    followers: BTreeMap<i32, Follower>,
    high_watermark: Offset,
    durable_replicas: u32,
    frozen_at: Option<Offset>,
}

impl Leadership {
    /// `durable_replicas` is how many followers must hold what is below the high watermark, which goes on
    /// from the one given: a lower one than before makes every follower write a warning.
    pub fn new(durable_replicas: u32, high_watermark: Offset) -> Self {
        assert!(durable_replicas > 0, "what no follower holds is not durable");
        Self {
            leads: false,
            leader_epoch: LeaderEpoch::UNKNOWN,
            partition_epoch: -1,
            followers: BTreeMap::new(),
            high_watermark,
            durable_replicas,
            frozen_at: None,
        }
    }

    pub fn leads(&self) -> bool {
        self.leads
    }
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }
    pub fn partition_epoch(&self) -> i32 {
        self.partition_epoch
    }
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    pub fn frozen_at(&self) -> Option<Offset> {
        self.frozen_at
    }

    /// The metadata log names us leader in this epoch, or still does in a newer one.
    pub fn lead(&mut self, now: Nanoseconds, leader_epoch: LeaderEpoch, partition_epoch: i32) {
        self.partition_epoch = partition_epoch;
        if self.leads && leader_epoch == self.leader_epoch {
            return;
        }
        self.leads = true;
        self.leader_epoch = leader_epoch;
        // Every follower learns the epoch first, then asks again.
        for follower in self.followers.values_mut() {
            follower.expected_since = now;
        }
    }

    /// Somebody else leads now, or nobody: what followers hold from then on is not ours to know.
    pub fn resign(&mut self) {
        self.leads = false;
        for follower in self.followers.values_mut() {
            (follower.proven_end, follower.raw_end, follower.proven_at) = (None, None, None);
        }
    }

    /// Adds a replica, or takes over what changed in its registration. A new broker epoch is a broker that
    /// restarted, perhaps without the end of its log: it proves that anew.
    pub fn set_follower(&mut self, now: Nanoseconds, broker_id: i32, registration: Registration) {
        let Registration { broker_epoch, unfenced, in_target } = registration;
        let follower = self.followers.entry(broker_id).or_insert(Follower {
            broker_epoch,
            unfenced,
            in_target,
            proven_end: None,
            raw_end: None,
            last_fetched_epoch: LeaderEpoch::UNKNOWN,
            log_start: None,
            proven_at: None,
            fetched_at: None,
            expected_since: now,
        });
        if follower.broker_epoch != broker_epoch {
            (follower.proven_end, follower.raw_end, follower.proven_at) = (None, None, None);
        }
        if unfenced && (!follower.unfenced || follower.broker_epoch != broker_epoch) {
            follower.expected_since = now;
        }
        (follower.broker_epoch, follower.unfenced, follower.in_target) = (broker_epoch, unfenced, in_target);
    }

    pub fn remove_follower(&mut self, broker_id: i32) {
        self.followers.remove(&broker_id);
    }

    /// Every follower with its ends, for the promote and for the operator.
    pub fn ends(&self) -> impl Iterator<Item = (i32, &Follower)> {
        self.followers.iter().map(|(broker_id, follower)| (*broker_id, follower))
    }

    /// Nothing at or beyond `end` is served until [`Self::thaw`]: the promote hands over exactly this end.
    pub fn freeze(&mut self, end: Offset) {
        self.frozen_at = Some(end);
    }

    pub fn thaw(&mut self) {
        self.frozen_at = None;
    }

    /// The log was cut to end at `to`: what is appended there next is not what followers hold above it. The
    /// stamp history must open a new epoch at `to`.
    pub fn cut(&mut self, to: Offset) {
        self.high_watermark = self.high_watermark.min(to);
        for follower in self.followers.values_mut() {
            follower.proven_end = follower.proven_end.map(|end| end.min(to));
        }
    }

    /// The log grew or was trimmed; true if the high watermark moved.
    pub fn log_moved(&mut self, log: &LogView<'_>) -> bool {
        let before = self.high_watermark;
        self.advance(log);
        self.high_watermark != before
    }

    /// The end of what may be served now: below the freeze, and below the first stamp above our epoch.
    pub fn servable_end(&self, log: &LogView<'_>) -> Offset {
        let entries = log.stamp_epochs.entries();
        let held_back = entries.partition_point(|entry| entry.epoch <= self.leader_epoch);
        let stamped = entries.get(held_back).map_or(log.log_end, |entry| entry.start.min(log.log_end));
        self.frozen_at.map_or(stamped, |frozen| frozen.min(stamped))
    }

    /// The topic's start, as far as it can be told: the source may have trimmed beyond what is servable.
    fn log_start(&self, log: &LogView<'_>) -> Offset {
        log.log_start.min(self.servable_end(log))
    }

    /// Judges one follower's fetch; see the file's header.
    pub fn fetch(&mut self, now: Nanoseconds, fetch: &FollowerFetch, log: &LogView<'_>) -> FetchVerdict {
        let action = match self.admit(now, fetch) {
            Ok(counts) => self.position(now, fetch, log, counts),
            Err(refusal) => refusal,
        };
        self.advance(log);
        // The one place where the log start is clamped. Above the follower's end it would make the broker
        // mark the partition as failed, for good.
        let fetch_offset = Offset::new(fetch.fetch_offset).unwrap_or(Offset::ZERO);
        let log_start = self.log_start(log).min(self.high_watermark).min(fetch_offset);
        FetchVerdict { action, high_watermark: self.high_watermark, log_start }
    }

    /// Whether the fetch is looked at, and if so whether it proves anything.
    fn admit(&mut self, now: Nanoseconds, fetch: &FollowerFetch) -> Result<bool, FetchAction> {
        if !self.leads {
            return Err(FetchAction::NotLeader);
        }
        self.current_epoch(fetch.current_leader_epoch).map_err(|error| match error {
            ErrorCode::FencedLeaderEpoch if now < fetch.asked_at.saturating_add(HOLD_NS) => {
                FetchAction::Hold { until: fetch.asked_at.saturating_add(HOLD_NS) }
            }
            ErrorCode::FencedLeaderEpoch => FetchAction::FencedEpoch,
            _ => FetchAction::UnknownEpoch,
        })?;
        // Its broker may have read of the assignment before we did.
        let follower = self.followers.get_mut(&fetch.replica_id).ok_or(FetchAction::UnknownEpoch)?;
        follower.fetched_at = Some(now);
        match follower.broker_epoch {
            // Serves itself for seconds after its start; whether it keeps what it appends is not known.
            _ if fetch.replica_epoch == UNREGISTERED => Ok(false),
            Some(registered) if fetch.replica_epoch < registered => Err(FetchAction::StaleReplica),
            Some(registered) => Ok(fetch.replica_epoch == registered),
            None => Ok(false),
        }
    }

    fn current_epoch(&self, asked: LeaderEpoch) -> Result<(), ErrorCode> {
        if !asked.is_known() || asked == self.leader_epoch {
            Ok(())
        } else if asked < self.leader_epoch {
            Err(ErrorCode::FencedLeaderEpoch)
        } else {
            Err(ErrorCode::UnknownLeaderEpoch)
        }
    }

    fn position(
        &mut self,
        now: Nanoseconds,
        fetch: &FollowerFetch,
        log: &LogView<'_>,
        counts: bool,
    ) -> FetchAction {
        let log_start = self.log_start(log);
        let end = self.servable_end(log);
        let follower = self.followers.get_mut(&fetch.replica_id).expect("it was admitted");
        follower.last_fetched_epoch = fetch.last_fetched_epoch;
        follower.log_start = Offset::new(fetch.log_start_offset);
        // What it proved before is not what it holds now, unless this fetch proves it again.
        (follower.proven_end, follower.proven_at) = (None, None);
        let Some(from) = Offset::new(fetch.fetch_offset).filter(|offset| *offset >= log_start) else {
            follower.raw_end = None;
            return FetchAction::OutOfRange;
        };
        follower.raw_end = Some(from);
        let agreement = compare(fetch.last_fetched_epoch, from, log);
        if let Agreement::Diverges { epoch, end } = agreement {
            return FetchAction::Diverging { epoch, end };
        }
        let agrees = agreement == Agreement::Agrees;
        if counts && agrees {
            (follower.proven_end, follower.proven_at) = (Some(from), Some(now));
        }
        if !agrees || from >= end {
            FetchAction::Wait
        } else if from < log.held_start {
            FetchAction::ReadThrough { from, to: log.held_start.min(end) }
        } else {
            FetchAction::Records { from, end }
        }
    }

    /// What enough followers have proven to hold, now: `None` until they have. Unlike the high watermark it
    /// does not outlive a restart, so what lies below may be given up.
    pub fn durable_end(&self) -> Option<Offset> {
        let target = self.followers.values().filter(|follower| follower.in_target);
        let registered = target.filter(|follower| follower.broker_epoch.is_some());
        let live = registered.clone().filter(|follower| follower.unfenced).count();
        // With fewer live copies than wanted, all of them is what can be had.
        let wanted = (self.durable_replicas as usize).min(live).max(1);
        let ends = registered.filter_map(|follower| follower.proven_end);
        // A partition has a handful of replicas: counting beats sorting.
        let held_by = |end: &Offset| ends.clone().filter(|other| other >= end).count();
        ends.clone().filter(|end| held_by(end) >= wanted).max()
    }

    /// Moves the high watermark to the k-th highest proven end.
    fn advance(&mut self, log: &LogView<'_>) {
        let durable = self.durable_end();
        let (log_start, end) = (self.log_start(log), self.servable_end(log));
        let high_watermark = durable.map_or(self.high_watermark, |durable| durable.max(self.high_watermark));
        self.high_watermark = high_watermark.clamp(log_start, end);
    }

    /// Followers that are registered and unfenced and have stopped fetching. `in_session` tells when a
    /// session that holds this partition last asked: it fetches without naming the partition.
    pub fn stalled(
        &self,
        now: Nanoseconds,
        in_session: impl Fn(i32) -> Option<Nanoseconds>,
    ) -> impl Iterator<Item = Stalled> {
        let expected =
            move |follower: &Follower| self.leads && follower.broker_epoch.is_some() && follower.unfenced;
        self.followers.iter().filter(move |(_, follower)| expected(follower)).filter_map(
            move |(broker_id, follower)| {
                let since = follower.fetched_at.unwrap_or(0).max(follower.expected_since);
                let since = since.max(in_session(*broker_id).unwrap_or(0));
                let silent = now.saturating_sub(since) >= STALLED_NS;
                silent.then_some(Stalled { broker_id: *broker_id, since })
            },
        )
    }

    /// ListOffsets. A follower asks it after out of range, and truncates to an end below its own: the answer
    /// is our log's end, not the high watermark. An old leader epoch gets 6 and not 74, which would make the
    /// follower give the partition up.
    pub fn list_offset(&self, current: LeaderEpoch, timestamp: i64, log: &LogView<'_>) -> OffsetVerdict {
        if let Err(refusal) = self.may_ask(current) {
            return OffsetVerdict::failed(refusal);
        }
        let log_start = self.log_start(log);
        match timestamp {
            TIMESTAMP_LATEST => OffsetVerdict::found(self.servable_end(log).value(), self.leader_epoch),
            TIMESTAMP_EARLIEST | TIMESTAMP_EARLIEST_LOCAL => {
                let epoch = log.stamp_epochs.epoch_of(log_start).unwrap_or(LeaderEpoch::UNKNOWN);
                OffsetVerdict::found(log_start.value(), epoch)
            }
            // Nothing is tiered, and records are not looked up by their time.
            TIMESTAMP_LATEST_TIERED => OffsetVerdict::found(-1, LeaderEpoch::UNKNOWN),
            _ => OffsetVerdict::found(-1, LeaderEpoch::UNKNOWN),
        }
    }

    /// OffsetForLeaderEpoch: where `epoch` ended. A follower that is ahead of us in our latest epoch is told
    /// its own end, so that it keeps what we are still to receive.
    pub fn epoch_end(
        &self,
        replica_id: i32,
        current: LeaderEpoch,
        epoch: LeaderEpoch,
        log: &LogView<'_>,
    ) -> OffsetVerdict {
        if let Err(refusal) = self.may_ask(current) {
            return OffsetVerdict::failed(refusal);
        }
        let follower_end = self.followers.get(&replica_id).and_then(|follower| follower.raw_end);
        let log_end = log.log_end.max(follower_end.unwrap_or(Offset::ZERO));
        match log.stamp_epochs.end_of(epoch, log_end) {
            Some(end) => OffsetVerdict::found(end.start.value(), end.epoch),
            None => OffsetVerdict::found(-1, LeaderEpoch::UNKNOWN),
        }
    }

    fn may_ask(&self, current: LeaderEpoch) -> Result<(), ErrorCode> {
        if !self.leads {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        self.current_epoch(current).map_err(|error| match error {
            ErrorCode::FencedLeaderEpoch => ErrorCode::NotLeaderOrFollower,
            other => other,
        })
    }
}

/// What the follower's last epoch says of its log against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    Agrees,
    /// It has an epoch of which we have not heard: we lag, and can tell nothing yet.
    Unknown,
    Diverges {
        epoch: LeaderEpoch,
        end: Offset,
    },
}

fn compare(last_fetched: LeaderEpoch, from: Offset, log: &LogView<'_>) -> Agreement {
    if !last_fetched.is_known() {
        return Agreement::Agrees;
    }
    let Some(latest) = log.stamp_epochs.latest() else { return Agreement::Unknown };
    // The epoch that is still written to has no end yet: who is further in it than we are is ahead of us.
    if last_fetched == latest.epoch {
        return Agreement::Agrees;
    }
    if last_fetched > latest.epoch {
        // Divergence only if we hold the very batch that the follower has under a newer epoch.
        let held = log.held_start < from && from <= log.log_end;
        let diverges = Agreement::Diverges { epoch: latest.epoch, end: log.log_end };
        return if held { diverges } else { Agreement::Unknown };
    }
    let end =
        log.stamp_epochs.end_of(last_fetched, log.log_end).expect("an epoch below the latest has an end");
    if end.epoch < last_fetched || end.start < from {
        return Agreement::Diverges { epoch: end.epoch, end: end.start };
    }
    Agreement::Agrees
}

#[cfg(test)]
#[path = "leadership_tests.rs"]
mod tests;
