//! The budget of a spool: which segments are given up, which are rolled for it, and when fetching waits.
//!
//! ```text
//!   0            low 5/8     trim 3/4   resume 13/16  full 7/8     budget
//!   ├───────────────┼───────────┼───────────┼───────────┼────────────┤
//!                   ◀─ give up ─┘                       └ fetching waits; what is under way still fits
//! ```
//! Owns the marks and the choice. What may go is the caller's to say: enough followers hold it, and no restart
//! needs it. Partitions with the most bytes give up first, so that a busy one cannot push out a quiet one.
//!
//! A partition's last segment cannot be given up as long as it takes batches. Where all the closed ones do not
//! suffice (many partitions, a small budget), segments that are delivered to their end are rolled: else ten
//! thousand of them could fill the budget with what every follower has, and wait for ever.
//!
//! Invariants: what is given up is the beginning of what a partition holds; never more of it than gets to the
//! low mark; the spool is full only above the full mark, and stays so until it is below the resume mark. Must
//! never choose by what a follower lacks: the slowest one reads through.

use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use twinlog_log_segment::offset::Offset;

/// Segments given up in one look. Raised, the helper thread deletes for longer while others wait for it.
pub const GIVEN_UP_MAX: usize = 256;

/// Segments rolled in one look: each costs a sync and a new file.
pub const ROLLED_MAX: usize = 64;

/// A closed segment that may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    pub bytes: u64,
    /// Where the next segment begins.
    pub next_base: Offset,
}

/// One partition as the spool sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    pub slot: u32,
    /// Of batches in all its segments that are not given up.
    pub bytes: u64,
    /// The oldest ones, in order, as far as they may go.
    pub spare: VecDeque<Spare>,
    /// Of the segment that takes batches, if all of it is delivered and it can be rolled now.
    pub rollable_bytes: Option<u64>,
}

/// What one look decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// On the disk now, what is being deleted included.
    pub held_bytes: u64,
    /// Each partition with where it is to begin.
    pub held_starts: Vec<(u32, Offset)>,
    pub rolls: Vec<u32>,
    /// From now on fetching waits for followers, not only for files that are being deleted.
    pub became_stuck: bool,
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct SpoolBudget {
    budget_bytes: u64,
    full: bool,
    /// Full of what cannot be given up.
    stuck: bool,
    pressed: bool,
}

impl SpoolBudget {
    /// 0 to keep everything.
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, full: false, stuck: false, pressed: false }
    }

    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Fetching waits.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// More is held than is wanted: it is worth looking again although nothing came.
    pub fn is_pressed(&self) -> bool {
        self.pressed
    }

    fn eighths(&self, count: u64) -> u64 {
        // A budget may be close to the largest number.
        self.budget_bytes / 8 * count
    }

    /// `leaving_bytes` are given up and not yet deleted.
    pub fn look(&mut self, mut holdings: Vec<Holding>, leaving_bytes: u64) -> Plan {
        let mut left = holdings.iter().map(|holding| holding.bytes).sum();
        let held_bytes = left + leaving_bytes;
        let mut plan = Plan { held_bytes, ..Plan::default() };
        if self.budget_bytes == 0 {
            return plan;
        }
        if left > self.eighths(6) {
            left = self.give_up(&mut holdings, left, &mut plan);
            self.roll(&holdings, left, &mut plan);
        }
        let resume = self.eighths(6) + self.budget_bytes / 16;
        let mark = |was: bool| if was { resume } else { self.eighths(7) };
        let (full, stuck) = (held_bytes > mark(self.full), left > mark(self.stuck));
        plan.became_stuck = stuck && !self.stuck;
        (self.full, self.stuck, self.pressed) = (full, stuck, held_bytes > self.eighths(6));
        plan
    }

    fn give_up(&self, holdings: &mut [Holding], mut left: u64, plan: &mut Plan) -> u64 {
        let mut fullest: BinaryHeap<(u64, usize)> =
            holdings.iter().enumerate().map(|(index, holding)| (holding.bytes, index)).collect();
        for _ in 0..GIVEN_UP_MAX {
            if left <= self.eighths(5) {
                break;
            }
            let next =
                core::iter::from_fn(|| fullest.pop()).find(|(_, index)| !holdings[*index].spare.is_empty());
            let Some((_, index)) = next else { break };
            let holding = &mut holdings[index];
            let spare = holding.spare.pop_front().expect("just seen");
            holding.bytes -= spare.bytes;
            left -= spare.bytes;
            plan.held_starts.retain(|(slot, _)| *slot != holding.slot);
            plan.held_starts.push((holding.slot, spare.next_base));
            fullest.push((holding.bytes, index));
        }
        left
    }

    /// Rolls the largest that are delivered, as many as get to the low mark once they are given up too.
    fn roll(&self, holdings: &[Holding], mut left: u64, plan: &mut Plan) {
        let spare_left = holdings.iter().any(|holding| !holding.spare.is_empty());
        if spare_left {
            return;
        }
        let rollable = holdings.iter().filter_map(|holding| Some((holding.rollable_bytes?, holding.slot)));
        let mut rollable: Vec<(u64, u32)> = rollable.collect();
        rollable.sort_unstable_by(|one, other| other.cmp(one));
        for (bytes, slot) in rollable.into_iter().take(ROLLED_MAX) {
            if left <= self.eighths(6) {
                break;
            }
            left = left.saturating_sub(bytes);
            plan.rolls.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: u64 = 1_600;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    /// A partition with closed segments of these sizes, `spare` of which may go, and one that takes batches.
    fn holding(slot: u32, closed: &[u64], spare: usize, active: u64, rollable: bool) -> Holding {
        let segments = closed.iter().enumerate();
        let spare = segments
            .take(spare)
            .map(|(index, bytes)| Spare { bytes: *bytes, next_base: offset(100 * (index as i64 + 1)) });
        Holding {
            slot,
            bytes: closed.iter().sum::<u64>() + active,
            spare: spare.collect(),
            rollable_bytes: rollable.then_some(active),
        }
    }

    #[test]
    fn nothing_goes_below_the_trim_mark_and_everything_stays_without_a_budget() {
        let mut budget = SpoolBudget::new(BUDGET);
        let plan = budget.look(Vec::from([holding(0, &[1_200], 1, 0, true)]), 0);
        assert_eq!(plan, Plan { held_bytes: 1_200, ..Plan::default() });
        let mut budget = SpoolBudget::new(0);
        let plan = budget.look(Vec::from([holding(0, &[u64::MAX / 2], 1, 0, true)]), 0);
        assert_eq!((plan.held_starts.len(), plan.rolls.len(), budget.is_full()), (0, 0, false));
    }

    #[test]
    fn the_fullest_partition_gives_up_its_oldest_first() {
        let mut budget = SpoolBudget::new(BUDGET);
        let small = holding(1, &[300], 1, 0, false);
        let plan = budget.look(Vec::from([small, holding(7, &[200, 200, 300, 300], 4, 0, false)]), 0);
        assert_eq!(plan.held_starts, [(7, offset(200))]);
        assert!(!plan.became_stuck && budget.is_pressed());
    }

    #[test]
    fn what_no_follower_has_fills_the_spool_once_and_it_goes_on_below_the_resume_mark() {
        let mut budget = SpoolBudget::new(BUDGET);
        let at = |bytes| Vec::from([holding(0, &[bytes], 0, 0, false)]);
        assert!(!budget.look(at(1_400), 0).became_stuck);
        assert!(budget.look(at(1_401), 0).became_stuck && budget.is_full());
        assert!(!budget.look(at(1_500), 0).became_stuck && budget.is_full());
        assert!(!budget.look(at(1_301), 0).became_stuck && budget.is_full());
        budget.look(at(1_300), 0);
        assert!(!budget.is_full());
    }

    #[test]
    fn what_is_being_deleted_counts_until_it_is_gone_and_nobody_is_told() {
        let mut budget = SpoolBudget::new(BUDGET);
        let at = |bytes| Vec::from([holding(0, &[bytes], 0, 0, false)]);
        let plan = budget.look(at(1_000), 401);
        assert_eq!((plan.held_bytes, plan.became_stuck, budget.is_full()), (1_401, false, true));
        budget.look(at(1_000), 300);
        assert!(!budget.is_full());
    }

    #[test]
    fn delivered_segments_are_rolled_where_no_closed_one_is_left() {
        let mut budget = SpoolBudget::new(BUDGET);
        let holdings = || (0..30).map(|slot| holding(slot, &[], 0, 50 + u64::from(slot % 2), true));
        let plan = budget.look(holdings().collect(), 0);
        assert_eq!((plan.held_bytes, budget.is_full()), (1_515, true));
        // 315 above the mark: six of 51 and one more, the largest first.
        assert_eq!(plan.rolls, [29, 27, 25, 23, 21, 19, 17]);
        // Rolled is not yet given up: nothing more is rolled while those are closing.
        let plan = budget.look(holdings().map(|each| Holding { rollable_bytes: None, ..each }).collect(), 0);
        assert!(plan.rolls.is_empty() && !plan.became_stuck);
    }

    proptest! {
        #[test]
        fn a_look_gives_up_no_more_than_it_must_and_only_what_is_spare(
            shapes in prop::collection::vec((prop::collection::vec(1u64..300, 0..8), 0usize..9, 0u64..300, any::<bool>()), 1..12),
            before in any::<bool>(),
        ) {
            let holdings: Vec<Holding> = shapes.iter().enumerate().map(|(slot, (closed, spare, active, rollable))| {
                holding(slot as u32, closed, (*spare).min(closed.len()), *active, *rollable)
            }).collect();
            let mut budget = SpoolBudget::new(BUDGET);
            (budget.full, budget.stuck) = (before, before);
            let plan = budget.look(holdings.clone(), 0);
            let mut left = plan.held_bytes;
            for (slot, held_start) in &plan.held_starts {
                let given = &holdings[*slot as usize].spare;
                let count = given.iter().position(|spare| spare.next_base == *held_start);
                prop_assert!(count.is_some(), "a partition begins where one of its segments does");
                left -= given.iter().take(count.unwrap() + 1).map(|spare| spare.bytes).sum::<u64>();
            }
            let pressed = plan.held_bytes > BUDGET / 4 * 3;
            prop_assert!(pressed || plan.held_starts.is_empty() && plan.rolls.is_empty());
            if !plan.held_starts.is_empty() {
                prop_assert!(left + 300 > BUDGET / 8 * 5, "{left} is far below the low mark");
            }
            let last = |each: &Holding| Some((each.slot, each.spare.back()?.next_base));
            let all_given = holdings.iter().filter_map(last).all(|each| plan.held_starts.contains(&each));
            prop_assert!(!pressed || left <= BUDGET / 8 * 5 || all_given, "there was more to give up");
            let mark = if before { BUDGET / 16 * 13 } else { BUDGET / 8 * 7 };
            prop_assert_eq!(budget.is_full(), plan.held_bytes > mark);
            prop_assert_eq!(plan.became_stuck, left > mark && !before);
            for slot in &plan.rolls {
                prop_assert!(holdings[*slot as usize].rollable_bytes.is_some());
            }
        }
    }
}
