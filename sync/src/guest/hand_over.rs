//! The hand-over of one mirror topic to stock brokers: what is done next, and what must be true before.
//!
//! Owns the order and the proofs. It never sends, waits or keeps anything itself: the owner tells what
//! happened, carries out what [`HandOver::poll`] yields, and wakes it at [`HandOver::deadline`]. One machine
//! for each topic, so that a topic that cannot go on holds no other one back; owners put the requests of
//! many machines into one.
//!
//! ```text
//!   phase         begins when kept     does
//!   Capturing     REQUESTED            reads the source's ends, refuses open transactions       [promote]
//!   CatchingUp    CAPTURED             until our log is there, and the source is still there    [promote]
//!   Freezing      FROZEN               nothing is appended, nothing served beyond the end
//!   Cutting       (FROZEN)             logs end where their first open transaction begins       [truncate]
//!   Proving       (FROZEN)             every live follower: at the end, lately, registered, and we flushed
//!   Flooring      PRODUCER_IDS_FLOORED lifts the destination's producer ids above all mirrored ones, looks who has one
//!   Committing    GROUPS_COMMITTED     positions of consumer groups, for the last time, clamped to the ends
//!   Reassigning   REASSIGNED           the live followers are to be the replicas; seen pending as sent
//!   HandingOver   HANDED_OVER          AlterPartition for what is proven at this moment; seen in the log
//!   Verifying     (HANDED_OVER)        a client finds the same ends at the new leaders
//!   Restoring     CONFIGS_RESTORED     guards go, the topic's own configuration comes; aborts   [failover]
//!   Finishing     (CONFIGS_RESTORED)   reads the source again: what came late is told           [promote]
//!   TakingBack    as it was            cancels the reassignment, thaws: ABANDONED
//! ```
//! Invariants: a step is kept before it is taken. Up to the first AlterPartition everything can be taken
//! back, and is when something cannot be proven in time; from it on only forward, for as long as it takes.
//! After a crash all proofs are made anew: what is kept says only which steps may have been begun. Until the
//! guards go nobody can write, so a new leader whose log ends elsewhere is found out before anyone is harmed.

mod destination;
mod moving;
mod proof;
mod refusal;
#[cfg(test)]
mod tests;
mod trouble;

pub use crate::hand_over::{Action, Event, Kept, Mode, SealedLog, SourceEnd};
pub use destination::IsrChange;
pub use proof::{FollowerStanding, Standing};
pub use trouble::{Asked, ProducerOverlap, Trouble};

use crate::backoff::Backoff;
use crate::lifecycle::HandOverStep;
use crate::metadata::ClusterImage;
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use destination::Destination;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::Offset;

/// How often shards are asked where partitions and followers stand. Less often delays a promote by as much;
/// more often makes the shards answer instead of serve.
pub(crate) const ASK_INTERVAL: Nanoseconds = 100 * MILLISECOND;
/// How long a promote waits while our copy does not grow towards the captured end.
pub const CATCH_UP_LIMIT: Nanoseconds = 60 * SECOND;
/// How long anything else before the hand-over may take. Shorter than a broker's session (9 s) it would not
/// wait until a dead follower is known to be dead; longer, nobody can produce to source or destination.
pub const PROOF_LIMIT: Nanoseconds = 60 * SECOND;
/// How long a reassignment may stay unseen before it is sent once more.
const SEEN_PAUSE: Nanoseconds = 500 * MILLISECOND;
/// How long an accepted change may stay unseen in the metadata log before it is looked at anew.
const SEEN_LIMIT: Nanoseconds = 5 * SECOND;
/// How long a cut may stay unseen before it is asked for once more.
pub(crate) const CUT_PAUSE: Nanoseconds = 5 * SECOND;
/// How often the source is asked for late writes before the hand-over is done without an answer.
const LATE_TRIES_MAX: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Capturing,
    CatchingUp,
    Freezing,
    Cutting,
    Proving,
    Flooring,
    Committing,
    Reassigning,
    HandingOver,
    Verifying,
    Restoring,
    Aborting,
    Finishing,
    TakingBack,
    Over,
}

/// See the file's header.
#[derive(Debug)]
pub struct HandOver {
    topic_id: TopicId,
    mode: Mode,
    guests: BTreeSet<i32>,
    phase: Phase,
    kept: HandOverStep,
    /// The step that is being kept, and where it leads.
    keeping: Option<(HandOverStep, Phase)>,
    ends: BTreeMap<i32, Offset>,
    destination: Destination,
    standings: BTreeMap<i32, (Nanoseconds, Standing)>,
    /// Partitions whose shard was asked and has not answered.
    awaited: BTreeSet<i32>,
    asked_at: Option<Nanoseconds>,
    /// A request is under way.
    busy: bool,
    retry_at: Nanoseconds,
    backoff: Backoff,
    /// When this phase gives up, while it still may.
    limit: Option<Nanoseconds>,
    /// Sum of log ends when the limit was last moved.
    progress: i64,
    /// The freeze was sent.
    frozen: bool,
    /// When logs were to be cut last.
    cut_at: Option<Nanoseconds>,
    /// Where they end now, by the new leaders' own word.
    handed: BTreeMap<i32, Offset>,
    full_replicas: BTreeMap<i32, Vec<i32>>,
    /// Where a reader of committed records gets to in the frozen logs.
    stable_ends: BTreeMap<i32, Offset>,
    /// When the reassignment of this phase was sent last.
    reassigned_at: Option<Nanoseconds>,
    /// Accepted changes that the metadata log does not show yet: partition epoch and time.
    accepted: BTreeMap<i32, (i32, Nanoseconds)>,
    open_here: BTreeMap<i32, usize>,
    /// Records that the source got after its end was captured.
    late: BTreeMap<i32, i64>,
    late_tries: u32,
    trouble: Option<Trouble>,
    /// Why it is taken back.
    reason: Option<Trouble>,
    left_out: BTreeSet<i32>,
    actions: VecDeque<Action>,
}

impl HandOver {
    /// Begins, or goes on from what was kept. `guests` are our broker ids at the destination.
    pub fn new(now: Nanoseconds, topic_id: TopicId, mode: Mode, guests: BTreeSet<i32>, kept: Kept) -> Self {
        let moving = !matches!(mode, Mode::Promote { allow_moving_source: false });
        let kept_step = kept.step;
        let phase = match kept_step {
            HandOverStep::Requested => Phase::Capturing,
            step if step < HandOverStep::HandedOver => Phase::CatchingUp,
            HandOverStep::HandedOver => Phase::Freezing,
            HandOverStep::Verified | HandOverStep::ConfigsRestored => Phase::Restoring,
            _ => Phase::Over,
        };
        // Where a moving log ends is found anew, until somebody may have taken it over at that end.
        let ends = match moving && kept_step < HandOverStep::HandedOver {
            true => BTreeMap::new(),
            false => kept.ends,
        };
        let seed = u64::from_le_bytes(topic_id.0[..8].try_into().expect("eight bytes"));
        let mut machine = Self {
            topic_id,
            mode,
            guests,
            phase,
            kept: kept_step,
            keeping: None,
            ends,
            destination: Destination::default(),
            standings: BTreeMap::new(),
            awaited: BTreeSet::new(),
            asked_at: None,
            busy: false,
            retry_at: now,
            backoff: Backoff::new(seed),
            limit: None,
            progress: -1,
            frozen: false,
            cut_at: None,
            handed: BTreeMap::new(),
            full_replicas: kept.full_replicas,
            stable_ends: BTreeMap::new(),
            reassigned_at: None,
            accepted: BTreeMap::new(),
            open_here: BTreeMap::new(),
            late: BTreeMap::new(),
            late_tries: 0,
            trouble: None,
            reason: None,
            left_out: BTreeSet::new(),
            actions: VecDeque::new(),
        };
        machine.enter(now, phase);
        if kept_step == HandOverStep::Verified {
            machine.keep(HandOverStep::ConfigsRestored, Phase::Restoring);
        }
        machine
    }

    pub fn step(&self) -> HandOverStep {
        self.kept
    }

    pub fn ends(&self) -> &BTreeMap<i32, Offset> {
        &self.ends
    }

    /// Replicas of each partition after the hand-over, leader first.
    pub fn targets(&self) -> BTreeMap<i32, Vec<i32>> {
        self.destination.targets(&self.guests)
    }

    /// Replicas of each partition without ours, as they were before anything was reassigned.
    pub fn full_replicas(&self) -> &BTreeMap<i32, Vec<i32>> {
        &self.full_replicas
    }

    /// Replicas of each partition now.
    pub fn replicas(&self) -> BTreeMap<i32, Vec<i32>> {
        let each = self.destination.partitions();
        each.map(|(index, partition)| (index, partition.replicas.clone())).collect()
    }

    /// Where each log ends at its new leader; as handed over while that was not asked.
    pub fn handed_ends(&self) -> &BTreeMap<i32, Offset> {
        if self.handed.is_empty() { &self.ends } else { &self.handed }
    }

    /// Brokers of the topic that are not alive: they lose their replica until somebody adds it again.
    pub fn left_out(&self) -> BTreeSet<i32> {
        self.destination.left_out(&self.guests).union(&self.left_out).copied().collect()
    }

    /// Why it does not go on, or why it was taken back.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.reason.as_ref().or(self.trouble.as_ref())
    }

    /// Records that the source got after the captured end.
    pub fn late(&self) -> &BTreeMap<i32, i64> {
        &self.late
    }

    /// Open transactions in our copy when it was frozen.
    pub fn open_here(&self) -> &BTreeMap<i32, usize> {
        &self.open_here
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether appends must stand still, also in a shard that takes a partition anew.
    pub fn is_frozen(&self) -> bool {
        let before = matches!(
            self.phase,
            Phase::Freezing
                | Phase::Cutting
                | Phase::Proving
                | Phase::Flooring
                | Phase::Committing
                | Phase::Reassigning
                | Phase::HandingOver
        );
        before || self.went()
    }

    /// The point of no return is behind us.
    fn went(&self) -> bool {
        (HandOverStep::HandedOver..=HandOverStep::Done).contains(&self.kept)
    }

    /// Takes it back, where that is still possible; false from the hand-over on.
    pub fn cancel(&mut self, now: Nanoseconds) -> bool {
        let possible =
            self.kept.may_be_abandoned() && self.keeping.is_none_or(|(step, _)| step.may_be_abandoned());
        if possible {
            self.take_back(now, Trouble::Cancelled);
        }
        possible
    }

    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When it wants to be woken, whatever happens.
    pub fn deadline(&self) -> Option<Nanoseconds> {
        let next_ask = self.asked_at.map_or(0, |at| at.saturating_add(ASK_INTERVAL));
        match self.phase {
            Phase::Over => None,
            _ => Some(next_ask.max(self.retry_at).min(self.limit.unwrap_or(Nanoseconds::MAX))),
        }
    }

    /// The metadata log was read further.
    pub fn image_is(&mut self, now: Nanoseconds, image: &ClusterImage) {
        self.destination.read(image, self.topic_id);
        if self.full_replicas.is_empty() && self.kept < HandOverStep::Reassigned {
            self.full_replicas = self.destination.full_replicas(&self.guests);
        }
        self.tick(now);
    }

    pub fn handle(&mut self, now: Nanoseconds, event: Event) {
        match event {
            Event::Kept { step, result } => self.was_kept(now, step, result),
            Event::SourceEnds(result) => self.source_ends_came(now, result),
            Event::Standing { index, standing } => {
                self.awaited.remove(&index);
                match standing {
                    Some(standing) => self.standings.insert(index, (now, standing)),
                    None => self.standings.remove(&index),
                };
            }
            Event::ProducerIdsLifted(result) => match self.answered(now, Asked::ProducerIds, result) {
                Some(Some(overlap)) => self.take_back(now, Trouble::ProducersOverlap(overlap)),
                Some(None) => self.keep(HandOverStep::GroupsCommitted, Phase::Committing),
                None => {}
            },
            Event::GroupsCommitted(result) => {
                if self.answered(now, Asked::Groups, result).is_some() {
                    self.keep(HandOverStep::Reassigned, Phase::Reassigning);
                }
            }
            Event::Reassigned(result) => {
                // What the metadata log shows decides; a pause keeps a refusal from being repeated at once.
                let _ = self.answered(now, Asked::Reassignment, result);
            }
            Event::Altered(result) => self.altered(now, result),
            Event::DestinationEnds(result) => self.destination_ends_came(now, result),
            Event::ConfigsRestored(result) => {
                if self.answered(now, Asked::Configs, result).is_some() {
                    let aborts = self.mode.is_failover();
                    self.enter(now, if aborts { Phase::Aborting } else { Phase::Finishing });
                }
            }
            Event::TransactionsAborted(result) => {
                if self.answered(now, Asked::Abort, result).is_some() {
                    self.enter(now, Phase::Finishing);
                }
            }
            // Of a store.
            Event::Sealed(_) => {}
        }
        self.tick(now);
    }

    /// The value of an answer; a failure is told and tried again after a pause.
    fn answered<T>(&mut self, now: Nanoseconds, asked: Asked, result: Result<T, String>) -> Option<T> {
        self.busy = false;
        match result {
            Ok(value) => {
                self.backoff.reset();
                Some(value)
            }
            Err(why) => {
                self.trouble = Some(Trouble::NotAnswered { asked, why });
                self.retry_at = now + self.backoff.pause();
                None
            }
        }
    }

    fn ask(&mut self, action: Action) {
        self.busy = true;
        self.actions.push_back(action);
    }

    /// Keeps `step` unless that was done before, then goes on with `phase`.
    fn keep(&mut self, step: HandOverStep, phase: Phase) {
        self.keeping = Some((step, phase));
        self.busy = false;
    }

    fn was_kept(&mut self, now: Nanoseconds, kept: HandOverStep, result: Result<(), String>) {
        // A step that was being kept when an operator took all of it back.
        let Some((step, phase)) = self.keeping.filter(|(step, _)| *step == kept) else { return };
        if self.answered(now, Asked::State, result).is_none() {
            return;
        }
        self.keeping = None;
        self.kept = step;
        self.after(now, step, phase);
    }

    /// A step is kept: the next one, or the phase behind it.
    fn after(&mut self, now: Nanoseconds, step: HandOverStep, phase: Phase) {
        match step {
            HandOverStep::FollowersProven => self.keep(HandOverStep::ProducerIdsFloored, phase),
            HandOverStep::Verified => self.keep(HandOverStep::ConfigsRestored, phase),
            _ => self.enter(now, phase),
        }
    }

    fn enter(&mut self, now: Nanoseconds, phase: Phase) {
        self.phase = phase;
        (self.busy, self.retry_at, self.frozen, self.asked_at) = (false, now, false, None);
        self.reassigned_at = None;
        self.standings.clear();
        self.trouble = None;
        self.limit = match phase {
            Phase::CatchingUp => Some(now + CATCH_UP_LIMIT),
            Phase::Over | Phase::TakingBack => None,
            _ if self.went() => None,
            _ => Some(now + PROOF_LIMIT),
        };
    }

    /// The deadline may have passed, or something came.
    pub fn tick(&mut self, now: Nanoseconds) {
        if let Some(limit) = self.limit
            && now >= limit
            && self.keeping.is_none()
        {
            let trouble = self.trouble.take().unwrap_or_else(|| self.slowest());
            self.take_back(now, trouble);
        }
        // Ends where something has to be waited for; a restart passes the steps that were kept before.
        while !self.busy && now >= self.retry_at {
            match self.keeping {
                Some((step, phase)) if self.kept >= step => {
                    self.keeping = None;
                    self.after(now, step, phase);
                }
                Some((step, _)) => self.ask(Action::Keep(step)),
                None => {
                    let before = self.phase;
                    self.work(now);
                    if self.keeping.is_none() && self.phase == before {
                        return;
                    }
                }
            }
        }
    }

    fn work(&mut self, now: Nanoseconds) {
        if !self.destination.is_known() {
            return;
        }
        if self.destination.is_gone() && !matches!(self.phase, Phase::TakingBack | Phase::Over) {
            self.topic_is_gone(now);
            return;
        }
        match self.phase {
            Phase::Capturing => self.capture(),
            Phase::CatchingUp => self.catch_up(now),
            Phase::Freezing => self.freeze(now),
            Phase::Cutting => self.cut_back(now),
            Phase::Proving => self.prove(now),
            Phase::Flooring => self.ask(Action::LiftProducerIds),
            Phase::Committing => {
                let ends = self.stable_ends.iter().map(|(index, end)| (*index, *end)).collect();
                self.ask(Action::CommitGroups(ends));
            }
            Phase::Reassigning => self.reassign(now),
            Phase::HandingOver => self.hand_over(now),
            Phase::Verifying => self.ask(Action::AskDestination),
            Phase::Restoring => self.ask(Action::RestoreConfigs),
            Phase::Aborting => self.ask(Action::AbortTransactions),
            Phase::Finishing => self.finish(now),
            Phase::TakingBack => self.undo(now),
            Phase::Over => {}
        }
    }
}
