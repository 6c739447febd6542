//! The machine between two clusters that do everything they may, in random orders: what it must never do, it never
//! does, and once both stand still they are equal.

use super::*;
use crate::SECOND;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

const GROUPS: usize = 3;
const PARTITIONS: i32 = 3;
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_MEMBER_ID: i16 = 25;

type Key = (usize, i32);

#[derive(Clone, Debug)]
enum Step {
    /// A consumer goes on at the source.
    Consume {
        key: Key,
        by: i64,
    },
    /// Offsets are reset while nobody is in the group.
    Reset {
        key: Key,
        to: i64,
    },
    Deliver {
        index: i32,
        by: i64,
    },
    Trim {
        index: i32,
        by: i64,
    },
    Truncate {
        index: i32,
        by: i64,
    },
    /// Somebody joins or leaves the group at the destination, and consumes there.
    Live {
        group: usize,
        live: bool,
    },
    ConsumeThere {
        key: Key,
        by: i64,
    },
    DeleteThere {
        group: usize,
    },
    /// The machine is lost, and begins anew with what was remembered after its last round.
    Restart,
    /// A round; the destination refuses or forgets to answer some commits.
    Round {
        refuse: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || (0..GROUPS, 0..PARTITIONS);
    prop_oneof![
        6 => (key(), 1..40i64).prop_map(|(key, by)| Step::Consume { key, by }),
        1 => (key(), 0..200i64).prop_map(|(key, to)| Step::Reset { key, to }),
        6 => (0..PARTITIONS, 1..60i64).prop_map(|(index, by)| Step::Deliver { index, by }),
        1 => (0..PARTITIONS, 1..60i64).prop_map(|(index, by)| Step::Trim { index, by }),
        1 => (0..PARTITIONS, 1..30i64).prop_map(|(index, by)| Step::Truncate { index, by }),
        1 => (0..GROUPS, any::<bool>()).prop_map(|(group, live)| Step::Live { group, live }),
        1 => (key(), 1..20i64).prop_map(|(key, by)| Step::ConsumeThere { key, by }),
        1 => (0..GROUPS).prop_map(|group| Step::DeleteThere { group }),
        1 => Just(Step::Restart),
        8 => (0..4u8).prop_map(|refuse| Step::Round { refuse }),
    ]
}

#[derive(Default)]
struct World {
    now: Nanoseconds,
    source: BTreeMap<Key, i64>,
    there: BTreeMap<Key, i64>,
    bounds: BTreeMap<i32, Bound>,
    live: BTreeSet<usize>,
    /// Positions that may be written backwards: reset at the source, or behind a cut.
    may_go_back: BTreeSet<Key>,
    deleted: BTreeSet<usize>,
    /// Groups whose last round was finished, with both sides as they were then: otherwise what was there is not known.
    read: BTreeMap<usize, Sides>,
    /// What the machine said to have written, by group.
    remembered: BTreeMap<usize, Vec<(i32, i64)>>,
}

type Sides = (Vec<Position<'static>>, Vec<Position<'static>>);

fn name(group: usize) -> String {
    format!("group-{group}")
}

fn positions(map: &BTreeMap<Key, i64>, group: usize) -> Vec<Position<'static>> {
    let of_group = map.iter().filter(|((each, _), _)| *each == group);
    let told = of_group.map(|((_, index), offset)| Position {
        topic: "t",
        index: *index,
        offset: *offset,
        metadata: "",
        code: 0,
    });
    told.collect()
}

impl World {
    fn bound(&mut self, index: i32) -> &mut Bound {
        self.bounds.entry(index).or_insert(Bound { log_start: 0, delivered: 0 })
    }

    fn take(&mut self, machine: &mut GroupOffsets, step: Step) {
        match step {
            Step::Consume { key, by } => {
                *self.source.entry(key).or_default() += by;
                self.deleted.remove(&key.0);
            }
            Step::Reset { key, to } => {
                if self.source.insert(key, to).is_some_and(|before| to < before) {
                    self.may_go_back.insert(key);
                }
                self.deleted.remove(&key.0);
            }
            Step::Deliver { index, by } => self.bound(index).delivered += by,
            Step::Trim { index, by } => {
                let bound = self.bound(index);
                bound.log_start = (bound.log_start + by).min(bound.delivered);
            }
            Step::Truncate { index, by } => {
                let bound = self.bound(index);
                bound.delivered = (bound.delivered - by).max(bound.log_start);
                let cut = bound.delivered;
                machine.truncated("t", index, cut);
                for group in 0..GROUPS {
                    self.may_go_back.insert((group, index));
                }
            }
            Step::Live { group, live } => {
                let _ = if live { self.live.insert(group) } else { self.live.remove(&group) };
            }
            Step::ConsumeThere { key, by } => {
                let end = self.bound(key.1).delivered;
                if self.live.contains(&key.0) {
                    let at = self.there.entry(key).or_default();
                    if *at + by <= end {
                        *at += by;
                    }
                }
            }
            Step::DeleteThere { group } => {
                if !self.live.contains(&group) && self.there.keys().any(|key| key.0 == group) {
                    if self.read.get(&group) == Some(&self.sides(group)) {
                        self.deleted.insert(group);
                    }
                    self.there.retain(|key, _| key.0 != group);
                }
            }
            Step::Restart => {
                *machine = GroupOffsets::new(machine.rules().clone());
                // It does not know any more who deleted what.
                self.deleted.clear();
                self.read.clear();
            }
            Step::Round { refuse } => self.round(machine, refuse),
        }
    }

    fn round(&mut self, machine: &mut GroupOffsets, refuse: u8) {
        self.now += SECOND;
        machine.round_begins(self.now);
        machine.source_listing_begins();
        let numbers: Vec<GroupNumber> = (0..GROUPS)
            .map(|group| machine.listed_at_source(&name(group), GroupKind::Classic, false).unwrap())
            .collect();
        assert!(machine.source_listing_ends(true).is_empty());
        machine.destination_listing_begins();
        for group in 0..GROUPS {
            if self.live.contains(&group) || self.there.keys().any(|key| key.0 == group) {
                machine.listed_at_destination(&name(group), self.live.contains(&group));
            }
        }
        machine.destination_listing_ends(true);
        let mut due = Vec::new();
        for (group, number) in numbers.iter().enumerate() {
            let told = positions(&self.source, group);
            if machine.source_read(self.now, *number, Ok(told.into_iter())) {
                due.push(*number);
            }
        }
        for partition in machine.partitions_of(&due) {
            let index = machine.partition(partition).1;
            let bound = *self.bound(index);
            machine.sampled(partition, Some(bound));
        }
        let to_read = machine.to_read_at_destination(&due);
        for number in machine.to_recall(&to_read) {
            let group = numbers.iter().position(|each| *each == number).unwrap();
            let rows = self.remembered.get(&group).cloned().unwrap_or_default();
            machine.recalled(number, rows.into_iter().map(|(index, offset)| ("t", index, offset)));
        }
        for number in to_read {
            let group = numbers.iter().position(|each| *each == number).unwrap();
            let told = positions(&self.there, group);
            machine.destination_read(self.now, number, Ok(told.into_iter()));
        }
        for number in &due {
            let Some(commit) = machine.commit(*number) else { continue };
            let group = numbers.iter().position(|each| *each == commit.group).unwrap();
            self.answer(machine, group, &commit, refuse);
        }
        for number in machine.take_written() {
            let group = numbers.iter().position(|each| *each == number).unwrap();
            let own = machine.own_positions(number).map(|(_, index, offset)| (index, offset));
            self.remembered.insert(group, own.collect());
        }
        let finished = (0..GROUPS).filter(|group| refuse != 1 && refuse != 2 && !self.live.contains(group));
        self.read = finished.map(|group| (group, self.sides(group))).collect();
    }

    fn sides(&self, group: usize) -> Sides {
        (positions(&self.source, group), positions(&self.there, group))
    }

    fn answer(&mut self, machine: &mut GroupOffsets, group: usize, commit: &Commit, refuse: u8) {
        assert!(!self.deleted.contains(&group), "a deleted group does not come back by itself");
        if self.live.contains(&group) {
            machine.committed(self.now, commit, Err(UNKNOWN_MEMBER_ID));
            return;
        }
        if refuse == 1 {
            machine.committed(self.now, commit, Err(NOT_COORDINATOR));
            return;
        }
        for position in &commit.positions {
            let key = (group, machine.partition(position.partition).1);
            let bound = *self.bound(key.1);
            assert!(position.offset <= bound.delivered, "ahead of what is delivered");
            assert!(position.offset >= bound.log_start, "below the log's start");
            let before = self.there.insert(key, position.offset);
            let back = before.is_some_and(|before| position.offset < before);
            assert!(!back || self.may_go_back.contains(&key), "{key:?} went back from {before:?}");
        }
        match refuse {
            // Carried out, and the answer was lost.
            2 => machine.committed(self.now, commit, Err(NOT_COORDINATOR)),
            _ => machine.committed(self.now, commit, Ok(&alloc::vec![0; commit.positions.len()])),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_positions_stay_within_the_data_and_are_equal_in_the_end(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut machine = GroupOffsets::new(Rules { prefix: String::new(), recommit_after: 20 * SECOND });
        let mut world = World::default();
        for each in steps {
            world.take(&mut machine, each);
        }
        // Everybody leaves, all data comes, and the source moves once more where it was cut or deleted.
        world.live.clear();
        for key in world.source.keys().copied().collect::<Vec<_>>() {
            world.take(&mut machine, Step::Consume { key, by: 1 });
        }
        for index in 0..PARTITIONS {
            world.take(&mut machine, Step::Deliver { index, by: 10_000 });
        }
        for _ in 0..8 {
            world.round(&mut machine, 0);
        }
        for (key, offset) in world.source.clone() {
            let expected = offset.max(world.bound(key.1).log_start);
            let there = world.there.get(&key).copied();
            let left_alone = there > Some(expected);
            let number = machine.number(&name(key.0)).unwrap();
            let report = machine.report(world.now, number);
            if left_alone {
                prop_assert!(report.verdict.is_skipped(), "{key:?} is ahead, and nobody says so: {report:?}");
            } else {
                prop_assert_eq!(there, Some(expected), "{:?} {:?}", key, report);
            }
        }
        // Nothing is written when nothing changes.
        let before = world.there.clone();
        world.round(&mut machine, 0);
        prop_assert_eq!(before, world.there);
    }
}
