//! The phases: each looks at what is known and asks for what is missing.

use super::destination::{IsrChange, guest_of, is_handed_over, is_pending, is_reassigning};
use super::proof::prove;
use super::refusal::{Verdict, judge};
use super::{
    ASK_INTERVAL, Action, Asked, CATCH_UP_LIMIT, CUT_PAUSE, HandOver, LATE_TRIES_MAX, Mode, Phase,
    SEEN_LIMIT, SEEN_PAUSE, SourceEnd, Trouble,
};
use crate::Nanoseconds;
use crate::lifecycle::HandOverStep;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use twinlog_log_segment::offset::Offset;

impl HandOver {
    fn is_exact(&self) -> bool {
        self.mode == Mode::Promote { allow_moving_source: false }
    }

    pub(super) fn capture(&mut self) {
        match self.mode {
            Mode::Promote { .. } => self.ask(Action::AskSource),
            Mode::Failover { .. } => self.keep(HandOverStep::Captured, Phase::CatchingUp),
        }
    }

    pub(super) fn source_ends_came(
        &mut self,
        now: Nanoseconds,
        result: Result<BTreeMap<i32, SourceEnd>, String>,
    ) {
        let result = match (self.phase, result) {
            (Phase::Finishing, Err(_)) if self.late_tries >= LATE_TRIES_MAX => Ok(BTreeMap::new()),
            (_, result) => result,
        };
        let Some(found) = self.answered(now, Asked::SourceEnds, result) else { return };
        match self.phase {
            Phase::Capturing | Phase::CatchingUp => match self.judge_source(&found) {
                Err(trouble) => self.take_back(now, trouble),
                Ok(()) if self.phase == Phase::Capturing => {
                    self.ends = found.iter().map(|(index, each)| (*index, each.high_watermark)).collect();
                    self.keep(HandOverStep::Captured, Phase::CatchingUp);
                }
                Ok(()) => self.keep(HandOverStep::Frozen, Phase::Freezing),
            },
            Phase::Finishing => {
                for (index, end) in &self.ends {
                    let late = found.get(index).map_or(0, |each| each.high_watermark.value() - end.value());
                    if late > 0 {
                        self.late.insert(*index, late);
                    }
                }
                self.keep(HandOverStep::Done, Phase::Over);
            }
            _ => {}
        }
    }

    fn judge_source(&self, found: &BTreeMap<i32, SourceEnd>) -> Result<(), Trouble> {
        let here = self.destination.indexes();
        if !found.keys().eq(here.iter()) {
            return Err(Trouble::OtherPartitions { source: found.len(), here: here.len() });
        }
        for (index, each) in found {
            let SourceEnd { high_watermark: end, last_stable_offset } = *each;
            if last_stable_offset < end {
                return Err(Trouble::OpenTransactions { index: *index, last_stable_offset, end });
            }
            let captured = self.ends.get(index).copied().filter(|_| self.is_exact());
            if let Some(captured) = captured.filter(|captured| *captured != end) {
                return Err(Trouble::SourceMoves { index: *index, captured, found: end });
            }
        }
        Ok(())
    }

    /// Partitions that are still ours to hand over.
    fn open(&self) -> Vec<i32> {
        let went = self.went();
        let partitions = self.destination.partitions();
        let open = partitions.filter(|(_, each)| !went || !is_handed_over(each, &self.guests));
        open.map(|(index, _)| index).collect()
    }

    /// Asks shards anew when it is time; true when all of this phase have answered once.
    fn have_standings(&mut self, now: Nanoseconds) -> bool {
        let open = self.open();
        let due = self.asked_at.is_none_or(|at| now >= at.saturating_add(ASK_INTERVAL));
        if self.awaited.is_empty() && due && !open.is_empty() {
            self.awaited.extend(&open);
            self.asked_at = Some(now);
            self.actions.push_back(Action::AskStanding(open.clone()));
        }
        open.iter().all(|index| self.standings.contains_key(index))
    }

    /// The first partition that is not where the copy of the source should be.
    fn behind(&self) -> Option<Trouble> {
        self.standings.iter().find_map(|(index, (_, standing))| {
            let end = *self.ends.get(index)?;
            let log_end = standing.log_end;
            (log_end < end).then_some(Trouble::NotCaughtUp { index: *index, log_end, end })
        })
    }

    pub(super) fn catch_up(&mut self, now: Nanoseconds) {
        if self.mode.is_failover() || (self.ends.is_empty() && !self.is_exact()) {
            self.keep(HandOverStep::Frozen, Phase::Freezing);
            return;
        }
        if !self.have_standings(now) {
            return;
        }
        let progress =
            self.standings.values().map(|(_, each)| each.log_end.value()).fold(0, i64::wrapping_add);
        if core::mem::replace(&mut self.progress, progress) != progress {
            self.limit = Some(now + CATCH_UP_LIMIT);
        }
        self.trouble = self.behind();
        if self.trouble.is_none() {
            self.ask(Action::AskSource);
        }
    }

    pub(super) fn freeze(&mut self, now: Nanoseconds) {
        let fixed = self.is_exact() || self.went();
        if !self.frozen {
            // An answer that was asked for before the freeze says nothing about it.
            if !self.awaited.is_empty() {
                return;
            }
            let at = |index: i32| (index, self.ends.get(&index).copied().filter(|_| fixed));
            let freezes = self.destination.indexes().into_iter().map(at).collect();
            (self.frozen, self.asked_at) = (true, None);
            self.standings.clear();
            self.actions.push_back(Action::Freeze(freezes));
        }
        if !self.have_standings(now) {
            return;
        }
        if self.went() {
            self.enter(now, Phase::HandingOver);
            return;
        }
        for (index, (_, standing)) in &self.standings {
            if !standing.leads {
                self.trouble = Some(Trouble::NotLed { index: *index });
                self.standings.clear();
                return;
            }
        }
        if !self.cuts_due().is_empty() {
            self.remember_open();
            self.enter(now, Phase::Cutting);
            return;
        }
        match self.judge_frozen(fixed) {
            Err(trouble) => self.take_back(now, trouble),
            Ok(ends) => self.frozen_at(now, ends, fixed),
        }
    }

    /// Nothing is appended any more, and this is where the logs end.
    fn frozen_at(&mut self, now: Nanoseconds, ends: BTreeMap<i32, Offset>, fixed: bool) {
        if !fixed {
            let freezes = ends.iter().map(|(index, end)| (*index, Some(*end))).collect();
            self.actions.push_back(Action::Freeze(freezes));
        }
        // An open transaction of a failover is aborted behind the hand-over: what it wrote is nobody's past.
        let stable = |(index, end): (&i32, &Offset)| {
            let first_open = self.standings.get(index).and_then(|(_, standing)| standing.first_open);
            (*index, first_open.map_or(*end, |open| open.min(*end)))
        };
        self.stable_ends = ends.iter().map(stable).collect();
        self.ends = ends;
        self.enter(now, Phase::Proving);
    }

    fn remember_open(&mut self) {
        let open = self.standings.iter().filter(|(_, (_, each))| each.open_transactions > 0);
        self.open_here.extend(open.map(|(index, (_, each))| (*index, each.open_transactions)));
    }

    /// Logs that are to be cut, with their new ends: before the first open transaction, and where a follower
    /// has more than we do, at our own end: nobody can tell what is open in what we do not have.
    fn cuts_due(&self) -> Vec<(i32, Offset)> {
        if !self.mode.truncates() || self.went() {
            return Vec::new();
        }
        let due = self.standings.iter().filter_map(|(index, (_, standing))| {
            let is_ahead =
                |each: &super::FollowerStanding| each.end.is_some_and(|end| end > standing.log_end);
            let ahead = standing.followers.iter().any(is_ahead).then_some(standing.log_end);
            Some((*index, standing.first_open.or(ahead)?))
        });
        due.collect()
    }

    /// Until every log ends where nothing is open, led by us with a follower that knows it.
    pub(super) fn cut_back(&mut self, now: Nanoseconds) {
        if !self.have_standings(now) {
            return;
        }
        let due = self.cuts_due();
        if due.is_empty() {
            if let Some((index, _)) = self.standings.iter().find(|(_, (_, each))| !each.leads) {
                self.trouble = Some(Trouble::NotLed { index: *index });
                return;
            }
            let ends = self.standings.iter().map(|(index, (_, each))| (*index, each.log_end)).collect();
            self.frozen_at(now, ends, false);
        } else if self.cut_at.is_none_or(|at| now >= at.saturating_add(CUT_PAUSE)) {
            self.cut_at = Some(now);
            self.actions.push_back(Action::CutBack(due));
        }
    }

    /// Where the frozen logs end, unless that is not to be handed over.
    fn judge_frozen(&mut self, fixed: bool) -> Result<BTreeMap<i32, Offset>, Trouble> {
        self.open_here.clear();
        self.remember_open();
        if let (Mode::Promote { .. }, Some((index, count))) = (self.mode, self.open_here.first_key_value()) {
            return Err(Trouble::OpenHere { index: *index, count: *count });
        }
        let mut ends = BTreeMap::new();
        for (index, (_, standing)) in &self.standings {
            let log_end = standing.log_end;
            let captured = self.ends.get(index).copied().filter(|_| fixed);
            match captured {
                Some(end) if log_end < end => {
                    return Err(Trouble::Shorter { index: *index, log_end, end });
                }
                Some(captured) if log_end > captured => {
                    return Err(Trouble::SourceMoves { index: *index, captured, found: log_end });
                }
                _ => ends.insert(*index, log_end),
            };
        }
        Ok(ends)
    }

    /// What is proven of a partition at this moment: its target with registered epochs.
    fn proven(&self, now: Nanoseconds, index: i32) -> Result<Vec<(i32, i64)>, Trouble> {
        let partition = self.destination.partition(index).ok_or(Trouble::TopicGone)?;
        let target = self.destination.target(partition, &self.guests);
        let epoch = |broker: &i32| Some((*broker, self.destination.epoch_of(*broker)?));
        let target: Vec<(i32, i64)> = target.iter().filter_map(epoch).collect();
        if target.is_empty() {
            return Err(Trouble::NoFollower { index, brokers: partition.replicas.clone() });
        }
        let (at, standing) = self.standings.get(&index).ok_or(Trouble::NotLed { index })?;
        let end = *self.ends.get(&index).ok_or(Trouble::NotLed { index })?;
        let exactly = !self.mode.is_failover() || self.mode.truncates();
        prove(index, standing, now.saturating_sub(*at), end, exactly, &target)?;
        Ok(target)
    }

    pub(super) fn prove(&mut self, now: Nanoseconds) {
        if !self.have_standings(now) {
            return;
        }
        let unproven = self.destination.indexes().into_iter().find_map(|index| self.proven(now, index).err());
        self.trouble = unproven;
        if self.trouble.is_none() {
            self.keep(HandOverStep::FollowersProven, Phase::Flooring);
        }
    }

    /// Partitions that are not pending as they should be, with their targets.
    fn to_reassign(&self, indexes: &[i32]) -> Vec<(i32, Option<Vec<i32>>)> {
        let wrong = indexes.iter().filter_map(|index| {
            let partition = self.destination.partition(*index)?;
            let target = self.destination.target(partition, &self.guests);
            let wrong = !target.is_empty() && !is_pending(partition, &target);
            wrong.then_some((*index, Some(target)))
        });
        wrong.collect()
    }

    pub(super) fn reassign(&mut self, now: Nanoseconds) {
        // Whatever happened since the proof: it is made once more before anything is sent.
        if !self.have_standings(now) {
            return;
        }
        let indexes = self.destination.indexes();
        self.trouble = indexes.iter().find_map(|index| self.proven(now, *index).err());
        if self.trouble.is_some() {
            return;
        }
        let wrong = self.to_reassign(&indexes);
        if wrong.is_empty() {
            self.keep(HandOverStep::HandedOver, Phase::HandingOver);
        } else {
            self.send_reassign(now, wrong);
        }
    }

    /// Not twice in short order: the metadata log shows what was sent some ms after its answer.
    fn send_reassign(&mut self, now: Nanoseconds, wrong: Vec<(i32, Option<Vec<i32>>)>) {
        let sent_before = self.reassigned_at.is_some();
        if self.reassigned_at.is_none_or(|at| now >= at.saturating_add(SEEN_PAUSE)) {
            if sent_before {
                self.trouble = Some(Trouble::NotPending { index: wrong[0].0 });
            }
            self.reassigned_at = Some(now);
            self.ask(Action::Reassign(wrong));
        }
    }

    /// Each partition goes as soon as it is proven, pending, and not sent already.
    pub(super) fn hand_over(&mut self, now: Nanoseconds) {
        let open = self.open();
        if open.is_empty() {
            self.actions.push_back(Action::ForgetLeads);
            self.enter(now, Phase::Verifying);
            return;
        }
        if !self.have_standings(now) {
            return;
        }
        let (mut changes, mut proven) = (Vec::new(), Vec::new());
        for index in open {
            let partition = self.destination.partition(index).expect("just listed");
            let waited = self.accepted.get(&index).is_some_and(|(epoch, at)| {
                *epoch == partition.partition_epoch && now < at.saturating_add(SEEN_LIMIT)
            });
            let Some(guest) = guest_of(partition, &self.guests).filter(|_| !waited) else { continue };
            match self.proven(now, index) {
                Err(trouble) => self.trouble = Some(trouble),
                Ok(followers) => {
                    proven.push(index);
                    let target: Vec<i32> = followers.iter().map(|(broker, _)| *broker).collect();
                    if is_pending(partition, &target) && partition.leader == Some(guest) {
                        let (leader_epoch, partition_epoch) =
                            (partition.leader_epoch, partition.partition_epoch);
                        changes.push(IsrChange { index, guest, leader_epoch, partition_epoch, followers });
                    }
                }
            }
        }
        let wrong = self.to_reassign(&proven);
        if !changes.is_empty() {
            self.left_out.extend(self.destination.left_out(&self.guests));
            self.ask(Action::AlterPartitions(changes));
        } else if !wrong.is_empty() {
            self.send_reassign(now, wrong);
        }
    }

    pub(super) fn altered(&mut self, now: Nanoseconds, result: Result<Vec<(i32, i16)>, String>) {
        let Some(codes) = self.answered(now, Asked::LeaderChange, result) else { return };
        let mut pauses = false;
        for (index, code) in codes {
            let epoch = self.destination.partition(index).map_or(-1, |partition| partition.partition_epoch);
            match judge(code) {
                Verdict::Accepted => {
                    self.accepted.insert(index, (epoch, now));
                }
                Verdict::LookAgain => self.retry_at = self.retry_at.max(now + ASK_INTERVAL),
                Verdict::Pause => {
                    pauses = true;
                    self.trouble = Some(Trouble::NotHandedOver { index, code });
                }
            }
        }
        if pauses {
            self.retry_at = now + self.backoff.pause();
        }
    }

    pub(super) fn destination_ends_came(
        &mut self,
        now: Nanoseconds,
        result: Result<BTreeMap<i32, Offset>, String>,
    ) {
        let Some(found) = self.answered(now, Asked::DestinationEnds, result) else { return };
        // A broker that held more than we did brings it along.
        let failover = self.mode.is_failover() && !self.mode.truncates();
        let is_there = |(index, end): &(&i32, &Offset)| match found.get(index) {
            Some(found) => found == *end || (failover && found > *end),
            None => false,
        };
        let other = self.ends.iter().find(|each| !is_there(each));
        match other {
            None => {
                self.handed = found;
                self.keep(HandOverStep::Verified, Phase::Restoring);
            }
            Some((index, end)) => {
                let found = found.get(index).copied();
                self.trouble = Some(Trouble::OtherEnd { index: *index, found, end: *end });
                self.retry_at = now + self.backoff.pause();
            }
        }
    }

    pub(super) fn finish(&mut self, _: Nanoseconds) {
        match self.mode {
            Mode::Failover { .. } => self.keep(HandOverStep::Done, Phase::Over),
            Mode::Promote { .. } => {
                self.late_tries += 1;
                self.ask(Action::AskSource);
            }
        }
    }

    /// What to say of a phase that ran out of time without an error.
    pub(super) fn slowest(&self) -> Trouble {
        let missing =
            self.destination.indexes().into_iter().find(|index| !self.standings.contains_key(index));
        Trouble::NotLed { index: missing.unwrap_or(0) }
    }

    pub(super) fn take_back(&mut self, now: Nanoseconds, trouble: Trouble) {
        if !self.kept.may_be_abandoned() || self.phase == Phase::TakingBack {
            self.trouble = Some(trouble);
            return;
        }
        self.keeping = None;
        self.enter(now, Phase::TakingBack);
        self.reason = Some(trouble);
    }

    pub(super) fn undo(&mut self, now: Nanoseconds) {
        // Only what was begun here is cancelled; an operator's own reassignment is none of ours.
        let begun = self.kept >= HandOverStep::Reassigned;
        let pending = self.destination.partitions().filter(|(_, each)| begun && is_reassigning(each));
        let pending: Vec<(i32, Option<Vec<i32>>)> = pending.map(|(index, _)| (index, None)).collect();
        if !pending.is_empty() {
            self.send_reassign(now, pending);
            return;
        }
        self.actions.push_back(Action::Thaw);
        self.keep(HandOverStep::Abandoned, Phase::Over);
    }

    /// There is nothing left to hand over.
    pub(super) fn topic_is_gone(&mut self, now: Nanoseconds) {
        if !self.went() {
            self.take_back(now, Trouble::TopicGone);
            return;
        }
        self.reason = Some(Trouble::TopicGone);
        match self.kept {
            HandOverStep::HandedOver => self.keep(HandOverStep::Verified, Phase::Finishing),
            HandOverStep::Verified => self.keep(HandOverStep::ConfigsRestored, Phase::Finishing),
            _ => self.keep(HandOverStep::Done, Phase::Over),
        }
    }
}
