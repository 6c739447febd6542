//! The phases that prove something: where the source ends, where our logs do, what is flushed, what the files hold.

use super::{Phase, StoreHandOver};
use crate::Nanoseconds;
use crate::guest::hand_over::{ASK_INTERVAL, Asked, CATCH_UP_LIMIT, CUT_PAUSE, Standing, Trouble};
use crate::hand_over::{Action, Mode, SealedLog, SourceEnd};
use crate::lifecycle::HandOverStep;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use twinlog_log_segment::offset::Offset;

impl StoreHandOver {
    pub(super) fn source_ends_came(
        &mut self,
        now: Nanoseconds,
        result: Result<BTreeMap<i32, SourceEnd>, String>,
    ) {
        let Some(found) = self.answered(now, Asked::SourceEnds, result) else { return };
        if let Err(trouble) = self.judge_source(&found) {
            return self.take_back(now, trouble);
        }
        if self.phase == Phase::Capturing {
            self.ends = found.iter().map(|(index, each)| (*index, each.high_watermark)).collect();
            return self.keep(HandOverStep::Captured, Phase::CatchingUp);
        }
        let beyond = |(index, end): (&i32, &Offset)| {
            let records = found.get(index)?.high_watermark.value() - end.value();
            (records > 0).then_some((*index, records))
        };
        self.late = self.ends.iter().filter_map(beyond).collect();
        self.keep(HandOverStep::EndsProven, Phase::Committing);
    }

    fn judge_source(&self, found: &BTreeMap<i32, SourceEnd>) -> Result<(), Trouble> {
        if !found.keys().eq(self.indexes.iter()) {
            return Err(Trouble::OtherPartitions { source: found.len(), here: self.indexes.len() });
        }
        for (index, SourceEnd { high_watermark: end, last_stable_offset }) in found {
            let captured = self.ends.get(index).copied().filter(|_| self.is_exact());
            if let Some(captured) = captured.filter(|captured| captured != end) {
                return Err(Trouble::SourceMoves { index: *index, captured, found: *end });
            }
            // A source that may move has transactions under way beyond our end; ours are looked at in our files.
            let asked_again = self.phase == Phase::Flushing && !self.is_exact();
            if last_stable_offset < end && !asked_again {
                let (last_stable_offset, end) = (*last_stable_offset, *end);
                return Err(Trouble::OpenTransactions { index: *index, last_stable_offset, end });
            }
        }
        Ok(())
    }

    /// Asks shards anew when it is time; true when all have answered once in this phase.
    fn have_standings(&mut self, now: Nanoseconds) -> bool {
        let due = self.asked_at.is_none_or(|at| now >= at.saturating_add(ASK_INTERVAL));
        if self.awaited.is_empty() && due {
            self.awaited.extend(&self.indexes);
            self.asked_at = Some(now);
            self.actions.push_back(Action::AskStanding(self.indexes.iter().copied().collect()));
        }
        self.indexes.iter().all(|index| self.standings.contains_key(index))
    }

    /// The first partition that is not where the copy of the source should be.
    fn behind(&self) -> Option<Trouble> {
        self.standings.iter().find_map(|(index, standing)| {
            let (end, log_end) = (*self.ends.get(index)?, standing.log_end);
            (log_end < end).then_some(Trouble::NotCaughtUp { index: *index, log_end, end })
        })
    }

    pub(super) fn catch_up(&mut self, now: Nanoseconds) {
        if self.mode.is_failover() || (self.ends.is_empty() && !self.is_exact()) {
            return self.keep(HandOverStep::Frozen, Phase::Freezing);
        }
        if !self.have_standings(now) {
            return;
        }
        let progress = self.standings.values().map(|each| each.log_end.value()).fold(0, i64::wrapping_add);
        if core::mem::replace(&mut self.progress, progress) != progress {
            self.limit = Some(now + CATCH_UP_LIMIT);
        }
        self.trouble = self.behind();
        if self.trouble.is_none() {
            self.keep(HandOverStep::Frozen, Phase::Freezing);
        }
    }

    pub(super) fn freeze(&mut self, now: Nanoseconds) {
        if !self.frozen {
            // An answer that was asked for before the freeze says nothing about it.
            if !self.awaited.is_empty() {
                return;
            }
            let exact = self.is_exact();
            let at = |index: &i32| (*index, self.ends.get(index).copied().filter(|_| exact));
            let freezes = self.indexes.iter().map(at).collect();
            (self.frozen, self.asked_at) = (true, None);
            self.standings.clear();
            self.actions.push_back(Action::Freeze(freezes));
        }
        if !self.have_standings(now) {
            return;
        }
        self.open_here.clear();
        self.remember_open();
        if !self.cuts_due().is_empty() {
            return self.enter(now, Phase::Cutting);
        }
        match self.judge_frozen() {
            Err(trouble) => self.take_back(now, trouble),
            Ok(()) => {
                self.take_ends();
                self.enter(now, Phase::Flushing);
            }
        }
    }

    fn remember_open(&mut self) {
        let open = self.standings.iter().filter(|(_, each)| each.open_transactions > 0);
        self.open_here.extend(open.map(|(index, each)| (*index, each.open_transactions)));
    }

    /// Whether what stands still is what is to be handed over.
    fn judge_frozen(&self) -> Result<(), Trouble> {
        let open = self.standings.iter().find(|(_, each)| each.open_transactions > 0);
        if let (Mode::Promote { .. }, Some((index, each))) = (self.mode, open) {
            return Err(Trouble::OpenHere { index: *index, count: each.open_transactions });
        }
        for (index, standing) in self.standings.iter().filter(|_| self.is_exact()) {
            let end = self.ends.get(index).copied().unwrap_or(Offset::ZERO);
            is_the_end(*index, standing.log_end, end)?;
        }
        Ok(())
    }

    /// Where the logs end, and how far readers of committed records get in them.
    fn take_ends(&mut self) {
        if !self.is_exact() {
            self.ends = self.standings.iter().map(|(index, each)| (*index, each.log_end)).collect();
        }
        let stable = |(index, end): (&i32, &Offset)| {
            let first_open = self.standings.get(index).and_then(|each| each.first_open);
            (*index, first_open.map_or(*end, |open| open.min(*end)))
        };
        self.stable_ends = self.ends.iter().map(stable).collect();
    }

    fn cuts_due(&self) -> Vec<(i32, Offset)> {
        let each = self.standings.iter().filter(|_| self.mode.truncates());
        each.filter_map(|(index, standing)| Some((*index, standing.first_open?))).collect()
    }

    /// Until no log ends inside a transaction.
    pub(super) fn cut_back(&mut self, now: Nanoseconds) {
        if !self.have_standings(now) {
            return;
        }
        let due = self.cuts_due();
        if due.is_empty() {
            self.take_ends();
            self.enter(now, Phase::Flushing);
        } else if self.cut_at.is_none_or(|at| now >= at.saturating_add(CUT_PAUSE)) {
            self.cut_at = Some(now);
            self.actions.push_back(Action::CutBack(due));
        }
    }

    /// Until everything survives power loss. What was on its way at the freeze may still have come.
    pub(super) fn flush(&mut self, now: Nanoseconds) {
        if !self.have_standings(now) {
            return;
        }
        if !self.cuts_due().is_empty() {
            return self.enter(now, Phase::Cutting);
        }
        if let Err(trouble) = self.judge_frozen() {
            return self.take_back(now, trouble);
        }
        self.take_ends();
        let unflushed = self.standings.iter().find_map(|(index, Standing { flushed, log_end: end, .. })| {
            (flushed < end).then_some(Trouble::NotFlushed { index: *index, flushed: *flushed, end: *end })
        });
        match (unflushed, self.mode) {
            (Some(trouble), _) => self.trouble = Some(trouble),
            (None, Mode::Promote { .. }) => self.ask(Action::AskSource),
            (None, Mode::Failover { .. }) => self.keep(HandOverStep::EndsProven, Phase::Committing),
        }
    }

    /// The files are closed: what they hold is what was proven, or all of it is taken back.
    pub(super) fn sealed_came(&mut self, now: Nanoseconds, result: Result<BTreeMap<i32, SealedLog>, String>) {
        let Some(found) = self.answered(now, Asked::Files, result) else { return };
        match self.judge_sealed(&found) {
            Err(trouble) => self.take_back(now, trouble),
            Ok(()) => {
                self.ends = found.iter().map(|(index, each)| (*index, each.log_end)).collect();
                self.open_here = found
                    .iter()
                    .filter(|(_, each)| !each.open.is_empty())
                    .map(|(index, each)| (*index, each.open.len()))
                    .collect();
                self.sealed = found;
                self.keep(HandOverStep::Done, Phase::Over);
            }
        }
    }

    fn judge_sealed(&self, found: &BTreeMap<i32, SealedLog>) -> Result<(), Trouble> {
        for index in &self.indexes {
            let Some(log) = found.get(index) else { return Err(Trouble::NotHere { index: *index }) };
            let end = self.ends.get(index).copied().unwrap_or(Offset::ZERO);
            // More than was proven is let pass only where nothing was proven of the source's end.
            if self.is_exact() || log.log_end < end {
                is_the_end(*index, log.log_end, end)?;
            }
            let forbids = self.mode.truncates() || matches!(self.mode, Mode::Promote { .. });
            if forbids && !log.open.is_empty() {
                return Err(Trouble::OpenHere { index: *index, count: log.open.len() });
            }
        }
        Ok(())
    }
}

fn is_the_end(index: i32, log_end: Offset, end: Offset) -> Result<(), Trouble> {
    if log_end < end {
        return Err(Trouble::Shorter { index, log_end, end });
    }
    match log_end == end {
        true => Ok(()),
        false => Err(Trouble::SourceMoves { index, captured: end, found: log_end }),
    }
}
