//! The hand-over of one mirror topic whose copy is a store: nobody takes it over now, its files become what a stock
//! broker adopts.
//!
//! Owns the order and the proofs, as `guest::hand_over` does where brokers follow us, and by the same contract: the
//! owner tells what happened, carries out what [`StoreHandOver::poll`] yields, and wakes it at
//! [`StoreHandOver::deadline`].
//!
//! ```text
//!   phase         begins when kept     does
//!   Capturing     REQUESTED            reads the source's ends, refuses open transactions       [promote]
//!   CatchingUp    CAPTURED             until our log is there                                   [promote]
//!   Freezing      FROZEN               nothing is appended; logs end at the captured ends
//!   Cutting       (FROZEN)             logs end where their first open transaction begins       [truncate]
//!   Flushing      (FROZEN)             until all of it is flushed; then the source is asked again [promote]
//!   Committing    GROUPS_COMMITTED     positions of consumer groups, for the last time, clamped to the ends
//!   Sealing       (GROUPS_COMMITTED)   flushed, checkpointed, trimmed, closed; what the files hold is the last proof
//!   TakingBack    as it was            opens and thaws: ABANDONED
//! ```
//! ENDS_PROVEN is kept between Flushing and Committing: from it on the source was heard twice to end at the same
//! offsets, the second time after everything was flushed.
//! Invariants: a step is kept before it is taken; everything before DONE can be taken back, and is when something
//! cannot be proven in time. After a crash all proofs are made anew. What is written at the source after its second
//! reading is nobody's to know here. A transaction that is open at the end of a failed-over copy stays open: an end
//! of ours would be bytes that the source never had.

mod proving;
#[cfg(test)]
mod tests;

use crate::backoff::Backoff;
use crate::guest::hand_over::{ASK_INTERVAL, Asked, CATCH_UP_LIMIT, PROOF_LIMIT, Standing, Trouble};
use crate::hand_over::{Action, Event, Kept, Mode, SealedLog};
use crate::lifecycle::HandOverStep;
use crate::{Nanoseconds, SECOND};
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use twinlog_log_segment::offset::Offset;

/// How long closing the files may take. Shorter, a slow disk takes promotes back; longer, an operator who waits
/// for one that cannot end hears of it later.
pub const SEAL_LIMIT: Nanoseconds = 120 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Capturing,
    CatchingUp,
    Freezing,
    Cutting,
    Flushing,
    Committing,
    Sealing,
    TakingBack,
    Over,
}

/// See the file's header.
#[derive(Debug)]
pub struct StoreHandOver {
    mode: Mode,
    /// Partitions that the store has of it.
    indexes: BTreeSet<i32>,
    phase: Phase,
    kept: HandOverStep,
    /// The step that is being kept, and where it leads.
    keeping: Option<(HandOverStep, Phase)>,
    ends: BTreeMap<i32, Offset>,
    standings: BTreeMap<i32, Standing>,
    /// Partitions whose shard was asked and has not answered.
    awaited: BTreeSet<i32>,
    asked_at: Option<Nanoseconds>,
    /// A request is under way.
    busy: bool,
    retry_at: Nanoseconds,
    backoff: Backoff,
    /// When this phase gives up.
    limit: Option<Nanoseconds>,
    /// Sum of log ends when the limit was last moved.
    progress: i64,
    /// The freeze was sent.
    frozen: bool,
    /// When logs were to be cut last.
    cut_at: Option<Nanoseconds>,
    /// Where a reader of committed records gets to in the frozen logs.
    stable_ends: BTreeMap<i32, Offset>,
    open_here: BTreeMap<i32, usize>,
    /// Records that the source had beyond the ends at its second reading.
    late: BTreeMap<i32, i64>,
    sealed: BTreeMap<i32, SealedLog>,
    trouble: Option<Trouble>,
    /// Why it is taken back.
    reason: Option<Trouble>,
    actions: VecDeque<Action>,
}

impl StoreHandOver {
    /// Begins, or goes on from what was kept. `indexes` are the partitions that the store has; `seed` makes the
    /// pauses of many topics differ.
    pub fn new(now: Nanoseconds, seed: u64, mode: Mode, indexes: BTreeSet<i32>, kept: Kept) -> Self {
        let phase = match kept.step {
            HandOverStep::Requested => Phase::Capturing,
            step if step.is_over() => Phase::Over,
            _ => Phase::CatchingUp,
        };
        let mut machine = Self {
            mode,
            indexes,
            phase,
            kept: kept.step,
            keeping: None,
            // Where a moving log ends is found anew.
            ends: BTreeMap::new(),
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
            stable_ends: BTreeMap::new(),
            open_here: BTreeMap::new(),
            late: BTreeMap::new(),
            sealed: BTreeMap::new(),
            trouble: None,
            reason: None,
            actions: VecDeque::new(),
        };
        if machine.is_exact() {
            machine.ends = kept.ends;
        }
        machine.enter(now, phase);
        machine
    }

    pub fn step(&self) -> HandOverStep {
        self.kept
    }

    pub fn ends(&self) -> &BTreeMap<i32, Offset> {
        &self.ends
    }

    /// What the closed files hold; empty before.
    pub fn sealed(&self) -> &BTreeMap<i32, SealedLog> {
        &self.sealed
    }

    /// Why it does not go on, or why it was taken back.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.reason.as_ref().or(self.trouble.as_ref())
    }

    /// Records that the source had beyond the ends when it was asked again.
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

    /// Whether appends must stand still, also in a shard that takes a partition anew, and whether a log that was
    /// closed stays closed.
    pub fn is_frozen(&self) -> bool {
        match self.phase {
            Phase::Freezing | Phase::Cutting | Phase::Flushing | Phase::Committing | Phase::Sealing => true,
            Phase::Over => self.kept == HandOverStep::Done,
            Phase::Capturing | Phase::CatchingUp | Phase::TakingBack => false,
        }
    }

    /// Takes it back, where that is still possible.
    pub fn cancel(&mut self, now: Nanoseconds) -> bool {
        let ends = self.keeping.is_some_and(|(step, _)| step == HandOverStep::Done);
        let possible = self.kept.may_be_abandoned() && !ends;
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

    pub fn handle(&mut self, now: Nanoseconds, event: Event) {
        match event {
            Event::Kept { step, result } => self.was_kept(now, step, result),
            Event::SourceEnds(result) if matches!(self.phase, Phase::Capturing | Phase::Flushing) => {
                self.source_ends_came(now, result);
            }
            Event::Standing { index, standing } => {
                self.awaited.remove(&index);
                match standing {
                    Some(standing) => self.standings.insert(index, standing),
                    None => self.standings.remove(&index),
                };
            }
            Event::GroupsCommitted(result) if self.phase == Phase::Committing => {
                self.groups_committed(now, result);
            }
            Event::Sealed(result) if self.phase == Phase::Sealing => self.sealed_came(now, result),
            // Of a phase that was left, or of a guest.
            _ => {}
        }
        self.tick(now);
    }

    fn groups_committed(&mut self, now: Nanoseconds, result: Result<(), String>) {
        if self.answered(now, Asked::Groups, result).is_some() {
            self.enter(now, Phase::Sealing);
        }
    }

    fn is_exact(&self) -> bool {
        self.mode == Mode::Promote { allow_moving_source: false }
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
        // A step that was being kept when all of it was taken back.
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
            HandOverStep::EndsProven => self.keep(HandOverStep::GroupsCommitted, phase),
            _ => self.enter(now, phase),
        }
    }

    fn enter(&mut self, now: Nanoseconds, phase: Phase) {
        self.phase = phase;
        (self.busy, self.retry_at, self.frozen, self.asked_at) = (false, now, false, None);
        self.standings.clear();
        self.trouble = None;
        self.limit = match phase {
            Phase::CatchingUp => Some(now + CATCH_UP_LIMIT),
            Phase::Sealing => Some(now + SEAL_LIMIT),
            Phase::Over | Phase::TakingBack => None,
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
        match self.phase {
            Phase::Capturing if self.mode.is_failover() => {
                self.keep(HandOverStep::Captured, Phase::CatchingUp);
            }
            Phase::Capturing => self.ask(Action::AskSource),
            Phase::CatchingUp => self.catch_up(now),
            Phase::Freezing => self.freeze(now),
            Phase::Cutting => self.cut_back(now),
            Phase::Flushing => self.flush(now),
            Phase::Committing => {
                let ends = self.stable_ends.iter().map(|(index, end)| (*index, *end)).collect();
                self.ask(Action::CommitGroups(ends));
            }
            Phase::Sealing => self.ask(Action::Seal(self.indexes.iter().copied().collect())),
            Phase::TakingBack => {
                self.actions.push_back(Action::Thaw);
                self.keep(HandOverStep::Abandoned, Phase::Over);
            }
            Phase::Over => {}
        }
    }

    /// What to say of a phase that ran out of time without an error.
    fn slowest(&self) -> Trouble {
        match self.indexes.iter().find(|index| !self.standings.contains_key(index)) {
            Some(index) if self.phase != Phase::Sealing => Trouble::NotHere { index: *index },
            _ => {
                let why = "nobody answered in time".to_owned();
                let asked = if self.phase == Phase::Sealing { Asked::Files } else { Asked::SourceEnds };
                Trouble::NotAnswered { asked, why }
            }
        }
    }

    fn take_back(&mut self, now: Nanoseconds, trouble: Trouble) {
        if !self.kept.may_be_abandoned() || self.phase == Phase::TakingBack {
            self.trouble = Some(trouble);
            return;
        }
        self.keeping = None;
        self.enter(now, Phase::TakingBack);
        self.reason = Some(trouble);
    }
}
