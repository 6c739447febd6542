//! The machine against a naive model of source, shards and files, under random faults and restarts.
//!
//! The model checks what must never happen: a step that was taken before it was kept, a topic that is done while its
//! files hold something else than the source at its second reading, one that is neither done nor thawed.

use super::*;
use crate::MILLISECOND;
use crate::hand_over::SourceEnd;
use alloc::vec;
use alloc::vec::Vec;

const STEP: Nanoseconds = 20 * MILLISECOND;
const EXACT: Mode = Mode::Promote { allow_moving_source: false };
const MOVING: Mode = Mode::Promote { allow_moving_source: true };
const ABORT: Mode = Mode::Failover { truncate: false };
const TRUNCATE: Mode = Mode::Failover { truncate: true };
const PRODUCER: i64 = 4_711;

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

/// xorshift: the same seed is the same run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Clone)]
struct Copy {
    source_end: i64,
    open_at_source: bool,
    log_end: i64,
    flushed: i64,
    /// Where a transaction begins that is open in the copy.
    open_from: Option<i64>,
    frozen: bool,
    closed: bool,
}

struct World {
    now: Nanoseconds,
    copies: BTreeMap<i32, Copy>,
    kept: Kept,
    source_is_gone: bool,
    /// The source's ends at its last reading after everything was flushed.
    heard: Option<BTreeMap<i32, i64>>,
    groups: Option<Vec<(i32, Offset)>>,
    fails_percent: u64,
    dice: Dice,
}

impl World {
    fn new(partitions: i32, seed: u64) -> Self {
        let copy = Copy {
            source_end: 100,
            open_at_source: false,
            log_end: 40,
            flushed: 20,
            open_from: None,
            frozen: false,
            closed: false,
        };
        Self {
            now: SECOND,
            copies: (0..partitions).map(|index| (index, copy.clone())).collect(),
            kept: Kept::requested(),
            source_is_gone: false,
            heard: None,
            groups: None,
            fails_percent: 0,
            dice: Dice(seed | 1),
        }
    }

    fn machine(&self, mode: Mode) -> StoreHandOver {
        StoreHandOver::new(self.now, 7, mode, self.copies.keys().copied().collect(), self.kept.clone())
    }

    fn move_on(&mut self) {
        self.now += STEP;
        for copy in self.copies.values_mut() {
            if !copy.frozen && !copy.closed && !self.source_is_gone {
                copy.log_end = (copy.log_end + 10).min(copy.source_end);
            }
            copy.flushed = (copy.flushed + 15).min(copy.log_end);
        }
    }

    fn fails(&mut self) -> Option<String> {
        (self.dice.below(100) < self.fails_percent).then(|| "broken".into())
    }

    fn carry_out(&mut self, machine: &StoreHandOver, action: Action) -> Vec<Event> {
        let (kept, failed) = (self.kept.step, self.fails());
        match action {
            Action::AskSource => vec![Event::SourceEnds(self.source_ends(failed))],
            Action::AskStanding(indexes) => indexes.into_iter().map(|index| self.standing(index)).collect(),
            Action::Freeze(freezes) => {
                assert!(kept >= HandOverStep::Frozen, "frozen before it was kept");
                freezes.iter().for_each(|(index, _)| self.copies.get_mut(index).unwrap().frozen = true);
                Vec::new()
            }
            Action::Thaw => {
                assert!(kept < HandOverStep::Done);
                self.copies.values_mut().for_each(|copy| (copy.frozen, copy.closed) = (false, false));
                Vec::new()
            }
            Action::CutBack(cuts) => {
                assert!(kept == HandOverStep::Frozen, "cut before the freeze was kept");
                for (index, to) in cuts {
                    let copy = self.copies.get_mut(&index).unwrap();
                    assert!(copy.frozen && copy.open_from == Some(to.value()));
                    (copy.log_end, copy.open_from) = (to.value(), None);
                    copy.flushed = copy.flushed.min(copy.log_end);
                }
                Vec::new()
            }
            Action::Keep(step) => {
                if let Some(why) = failed {
                    return vec![Event::Kept { step, result: Err(why) }];
                }
                assert!(step > kept, "{step} after {kept}");
                self.kept = Kept { step, ends: machine.ends().clone(), full_replicas: BTreeMap::new() };
                vec![Event::Kept { step, result: Ok(()) }]
            }
            Action::CommitGroups(ends) => {
                assert!(kept == HandOverStep::GroupsCommitted);
                self.groups = Some(ends);
                vec![Event::GroupsCommitted(failed.map_or(Ok(()), Err))]
            }
            Action::Seal(indexes) => vec![Event::Sealed(match failed {
                Some(why) => Err(why),
                None => Ok(indexes.into_iter().map(|index| (index, self.seal(index))).collect()),
            })],
            other => panic!("{other:?} is no word of a store"),
        }
    }

    fn source_ends(&mut self, failed: Option<String>) -> Result<BTreeMap<i32, SourceEnd>, String> {
        if let Some(why) = failed.or_else(|| self.source_is_gone.then(|| "gone".into())) {
            return Err(why);
        }
        if self.copies.values().all(|copy| copy.frozen && copy.flushed == copy.log_end) {
            self.heard = Some(self.copies.iter().map(|(index, copy)| (*index, copy.source_end)).collect());
        }
        let end = |copy: &Copy| SourceEnd {
            high_watermark: at(copy.source_end),
            last_stable_offset: at(copy.source_end - i64::from(copy.open_at_source)),
        };
        Ok(self.copies.iter().map(|(index, copy)| (*index, end(copy))).collect())
    }

    fn standing(&self, index: i32) -> Event {
        let copy = &self.copies[&index];
        let standing = Standing {
            leads: false,
            log_start: at(0),
            log_end: at(copy.log_end),
            flushed: at(copy.flushed),
            open_transactions: usize::from(copy.open_from.is_some()),
            first_open: copy.open_from.map(at),
            followers: Vec::new(),
        };
        Event::Standing { index, standing: (!copy.closed).then_some(standing) }
    }

    fn seal(&mut self, index: i32) -> SealedLog {
        assert!(self.kept.step == HandOverStep::GroupsCommitted && self.groups.is_some());
        let copy = self.copies.get_mut(&index).unwrap();
        assert!(copy.frozen || copy.closed, "closed while it was fetched");
        (copy.closed, copy.flushed) = (true, copy.log_end);
        let open = copy.open_from.map(|first| (PRODUCER, at(first))).into_iter().collect();
        SealedLog { log_start: at(0), log_end: at(copy.log_end), leader_epoch: 0, open }
    }

    /// Until it is over, or for as long as nothing may last; kills the owner with `kill_percent` at each turn.
    fn run(&mut self, mode: Mode, kill_percent: u64) -> StoreHandOver {
        let mut machine = self.machine(mode);
        for _ in 0..100_000 {
            while let Some(action) = machine.poll() {
                for event in self.carry_out(&machine, action) {
                    machine.handle(self.now, event);
                }
            }
            if machine.is_over() {
                return machine;
            }
            if self.dice.below(100) < kill_percent {
                // Shards begin anew as well: what the machine says then decides whether they stand still.
                machine = self.machine(mode);
                let still = machine.is_frozen();
                self.copies.values_mut().for_each(|copy| (copy.frozen, copy.closed) = (still, false));
            }
            self.move_on();
            if machine.deadline().is_some_and(|deadline| self.now >= deadline) {
                machine.tick(self.now);
            }
        }
        panic!("it never ends: {machine:?}");
    }

    fn assert_taken_back(&self, machine: &StoreHandOver) {
        assert_eq!(machine.step(), HandOverStep::Abandoned);
        assert!(!machine.is_frozen() && self.copies.values().all(|copy| !copy.frozen && !copy.closed));
    }
}

#[test]
fn a_promote_ends_at_what_the_source_said_twice() {
    let mut world = World::new(3, 1);
    let machine = world.run(EXACT, 0);
    assert_eq!(machine.step(), HandOverStep::Done);
    assert!(machine.is_frozen() && machine.late().is_empty() && machine.trouble().is_none());
    assert!(machine.sealed().values().all(|log| log.log_end == at(100) && log.open.is_empty()));
    assert_eq!(world.groups.unwrap(), (0..3).map(|index| (index, at(100))).collect::<Vec<_>>());
}

#[test]
fn a_source_that_moves_is_refused_with_the_number_of_its_records_unless_that_is_allowed() {
    let moves = |mode| {
        let mut world = World::new(2, 3);
        let mut machine = world.machine(mode);
        // Dies when the freeze is kept, and goes on from there.
        while machine.step() < HandOverStep::Frozen {
            match machine.poll() {
                Some(action) => {
                    for event in world.carry_out(&machine, action) {
                        machine.handle(world.now, event);
                    }
                }
                None => {
                    world.move_on();
                    machine.tick(world.now);
                }
            }
        }
        world.copies.get_mut(&1).unwrap().source_end = 107;
        let machine = world.run(mode, 0);
        (world, machine)
    };
    let (world, machine) = moves(EXACT);
    world.assert_taken_back(&machine);
    let Some(Trouble::SourceMoves { index: 1, captured, found }) = machine.trouble() else {
        panic!("{:?}", machine.trouble())
    };
    assert_eq!(found.value() - captured.value(), 7);
    assert!(alloc::string::ToString::to_string(machine.trouble().unwrap()).contains("grew by 7 records"));
    let (_, machine) = moves(MOVING);
    assert_eq!(machine.step(), HandOverStep::Done);
}

#[test]
fn open_transactions_forbid_a_promote_at_the_source_and_in_the_copy() {
    let mut world = World::new(2, 5);
    world.copies.get_mut(&1).unwrap().open_at_source = true;
    let machine = world.run(EXACT, 0);
    world.assert_taken_back(&machine);
    assert!(matches!(machine.trouble(), Some(Trouble::OpenTransactions { index: 1, .. })));
    let mut world = World::new(2, 5);
    world.copies.get_mut(&0).unwrap().open_from = Some(30);
    let machine = world.run(EXACT, 0);
    world.assert_taken_back(&machine);
    assert!(matches!(machine.trouble(), Some(Trouble::OpenHere { index: 0, count: 1 })));
}

#[test]
fn a_failover_takes_what_is_here_names_what_is_open_and_cuts_it_where_it_is_told_to() {
    let open = |mode| {
        let mut world = World::new(2, 9);
        world.source_is_gone = true;
        world.copies.get_mut(&0).unwrap().open_from = Some(30);
        let machine = world.run(mode, 0);
        assert_eq!(machine.step(), HandOverStep::Done);
        (machine, world.groups.unwrap())
    };
    let (machine, groups) = open(ABORT);
    assert_eq!(machine.sealed()[&0].open, [(PRODUCER, at(30))]);
    assert_eq!((machine.sealed()[&0].log_end, machine.sealed()[&0].last_stable_offset()), (at(40), at(30)));
    assert_eq!(groups, [(0, at(30)), (1, at(40))]);
    let (machine, groups) = open(TRUNCATE);
    assert_eq!((machine.sealed()[&0].log_end, machine.sealed()[&0].open.len()), (at(30), 0));
    assert_eq!(groups, [(0, at(30)), (1, at(40))]);
}

#[test]
fn a_promote_without_a_source_or_with_other_partitions_is_taken_back() {
    let mut world = World::new(1, 11);
    world.source_is_gone = true;
    let machine = world.run(EXACT, 0);
    world.assert_taken_back(&machine);
    assert!(matches!(machine.trouble(), Some(Trouble::NotAnswered { asked: Asked::SourceEnds, .. })));
    let world = World::new(1, 11);
    let indexes = [0, 1].into();
    let mut machine = StoreHandOver::new(world.now, 7, EXACT, indexes, Kept::requested());
    machine.tick(world.now);
    assert_eq!(machine.poll(), Some(Action::AskSource));
    let end = SourceEnd { high_watermark: at(100), last_stable_offset: at(100) };
    machine.handle(world.now, Event::SourceEnds(Ok([(0, end)].into())));
    assert!(matches!(machine.trouble(), Some(Trouble::OtherPartitions { source: 1, here: 2 })));
}

#[test]
fn whatever_fails_and_dies_it_is_done_with_what_was_proven_or_taken_back() {
    let (mut done, mut back) = (0, 0);
    for seed in 1..400 {
        let mut world = World::new(1 + (seed % 3) as i32, seed * 7_919);
        world.fails_percent = seed % 30;
        let mode = [EXACT, MOVING, ABORT, TRUNCATE][seed as usize % 4];
        world.source_is_gone = mode.is_failover();
        if mode.is_failover() && seed % 3 == 0 {
            world.copies.get_mut(&0).unwrap().open_from = Some(25);
        }
        let machine = world.run(mode, seed % 4);
        if machine.step() == HandOverStep::Done {
            done += 1;
            assert!(world.copies.values().all(|copy| copy.closed && copy.flushed == copy.log_end));
            if mode == EXACT {
                let heard = world.heard.as_ref().expect("the source was asked after everything was flushed");
                let ends: BTreeMap<i32, i64> =
                    machine.sealed().iter().map(|(index, log)| (*index, log.log_end.value())).collect();
                assert_eq!(ends, *heard);
            }
        } else {
            back += 1;
            world.assert_taken_back(&machine);
        }
    }
    assert!(done > 300, "{done} done, {back} taken back");
}

#[test]
fn an_operator_takes_it_back_until_it_is_done() {
    let mut world = World::new(1, 13);
    let mut machine = world.machine(EXACT);
    assert!(machine.cancel(world.now));
    while let Some(action) = machine.poll() {
        for event in world.carry_out(&machine, action) {
            machine.handle(world.now, event);
        }
    }
    machine.tick(world.now);
    while let Some(action) = machine.poll() {
        for event in world.carry_out(&machine, action) {
            machine.handle(world.now, event);
        }
    }
    world.assert_taken_back(&machine);
    let mut world = World::new(1, 13);
    let mut machine = world.run(EXACT, 0);
    assert!(!machine.cancel(world.now) && machine.step() == HandOverStep::Done);
}
