//! The machine against a naive model of controller, shards, followers and source, under random faults.
//!
//! The model checks what must never happen: a leader change of what a live member does not hold, a step that
//! was taken before it was kept, a topic that is neither handed over whole nor taken back whole.

use super::*;
use crate::metadata::record::{MetadataRecord, NewPartition, PartitionChange, RegisterBroker};
use alloc::vec;
use std::{format, println};

const TOPIC: TopicId = TopicId([7; 16]);
const GUEST: i32 = 900;
const STEP: Nanoseconds = 20 * MILLISECOND;

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

struct Copy {
    source_end: i64,
    open_at_source: bool,
    log_end: i64,
    open_here: usize,
    frozen: bool,
    serves_to: Option<i64>,
    followers: BTreeMap<i32, i64>,
    /// The end at which it was handed over.
    handed_over_at: Option<i64>,
}

struct World {
    now: Nanoseconds,
    image: ClusterImage,
    copies: BTreeMap<i32, Copy>,
    dead: BTreeSet<i32>,
    kept: Kept,
    source_is_gone: bool,
    fails_percent: u64,
    dice: Dice,
    restored: bool,
    aborted: bool,
    overlap: Option<ProducerOverlap>,
}

impl World {
    fn new(partitions: i32, seed: u64) -> Self {
        let mut image = ClusterImage::default();
        for broker in [1, 2, 3, GUEST] {
            let registration = RegisterBroker {
                broker,
                epoch: i64::from(broker) * 10,
                fenced: false,
                ..RegisterBroker::default()
            };
            image.apply(MetadataRecord::RegisterBroker(registration)).unwrap();
        }
        image.apply(MetadataRecord::Topic { name: "t".into(), id: TOPIC }).unwrap();
        let mut copies = BTreeMap::new();
        for index in 0..partitions {
            let replicas = vec![GUEST, 1 + index % 3, 1 + (index + 1) % 3, 1 + (index + 2) % 3];
            image.apply(MetadataRecord::Partition(partition(index, replicas))).unwrap();
            let followers = [1, 2, 3].map(|broker| (broker, 0)).into();
            let copy = Copy {
                source_end: 100,
                open_at_source: false,
                log_end: 40,
                open_here: 0,
                frozen: false,
                serves_to: None,
                followers,
                handed_over_at: None,
            };
            copies.insert(index, copy);
        }
        Self {
            now: SECOND,
            image,
            copies,
            dead: BTreeSet::new(),
            kept: Kept::requested(),
            source_is_gone: false,
            fails_percent: 0,
            dice: Dice(seed | 1),
            restored: false,
            aborted: false,
            overlap: None,
        }
    }

    fn kill(&mut self, broker: i32) {
        self.dead.insert(broker);
        let epoch = i64::from(broker) * 10;
        self.image.apply(MetadataRecord::FenceBroker { broker, epoch }).unwrap();
    }

    fn machine(&self, mode: Mode) -> HandOver {
        HandOver::new(self.now, TOPIC, mode, [GUEST, GUEST + 1].into(), self.kept.clone())
    }

    /// Time passes: copies and followers move on.
    fn move_on(&mut self) {
        self.now += STEP;
        for copy in self.copies.values_mut() {
            if !copy.frozen && !self.source_is_gone {
                copy.log_end = (copy.log_end + 10).min(copy.source_end);
            }
            let served = copy.serves_to.map_or(copy.log_end, |to| to.min(copy.log_end));
            for (broker, end) in &mut copy.followers {
                if !self.dead.contains(broker) && copy.handed_over_at.is_none() {
                    *end = (*end + 15).min(served).max(*end);
                }
            }
        }
    }

    fn fails(&mut self) -> Option<String> {
        (self.dice.below(100) < self.fails_percent).then(|| "broken".into())
    }

    /// Carries out an action; its answer, unless the request was lost on its way.
    fn carry_out(&mut self, machine: &HandOver, action: Action) -> Vec<Event> {
        let kept = self.kept.step;
        let failed = self.fails();
        let outcome = |failed: Option<String>| failed.map_or(Ok(()), Err);
        match action {
            Action::AskSource => vec![Event::SourceEnds(match failed {
                Some(why) => Err(why),
                None if self.source_is_gone => Err("gone".into()),
                None => Ok(self.copies.iter().map(|(index, copy)| (*index, copy.end())).collect()),
            })],
            Action::AskStanding(indexes) => indexes.into_iter().map(|index| self.standing(index)).collect(),
            Action::Freeze(_) | Action::CutBack(_) | Action::Thaw | Action::Seal(_) => {
                self.stand_still(action);
                Vec::new()
            }
            Action::Keep(step) => {
                if let Some(why) = failed {
                    return vec![Event::Kept { step, result: Err(why) }];
                }
                assert!(step > kept, "{step} after {kept}");
                let full_replicas = machine.full_replicas().clone();
                self.kept = Kept { step, ends: machine.ends().clone(), full_replicas };
                vec![Event::Kept { step, result: Ok(()) }]
            }
            Action::LiftProducerIds => {
                assert!(kept >= HandOverStep::ProducerIdsFloored);
                vec![Event::ProducerIdsLifted(match failed {
                    Some(why) => Err(why),
                    None => Ok(self.overlap.clone()),
                })]
            }
            Action::CommitGroups(ends) => {
                let is_time = (HandOverStep::GroupsCommitted..HandOverStep::HandedOver).contains(&kept);
                assert!(is_time && ends.iter().all(|(index, end)| end <= &machine.ends()[index]));
                vec![Event::GroupsCommitted(outcome(failed))]
            }
            Action::Reassign(targets) => {
                assert!(kept >= HandOverStep::Reassigned);
                if failed.is_none() {
                    targets.into_iter().for_each(|(index, target)| self.reassign(index, target));
                }
                vec![Event::Reassigned(outcome(failed))]
            }
            Action::AlterPartitions(changes) => {
                assert!(kept == HandOverStep::HandedOver, "the leader changed before that was kept");
                let lost = self.fails_percent > 0 && self.dice.below(4) == 0;
                let codes = changes.iter().map(|change| (change.index, self.alter(change))).collect();
                // Carried out, but the answer is lost: only the metadata log tells.
                vec![Event::Altered(if lost { Err("lost".into()) } else { Ok(codes) })]
            }
            Action::ForgetLeads => Vec::new(),
            Action::AskDestination => vec![Event::DestinationEnds(match failed {
                Some(why) => Err(why),
                None => Ok(self
                    .copies
                    .iter()
                    .map(|(index, copy)| (*index, at(copy.handed_over_at.unwrap())))
                    .collect()),
            })],
            Action::RestoreConfigs => {
                assert!(kept >= HandOverStep::ConfigsRestored);
                self.restored |= failed.is_none();
                vec![Event::ConfigsRestored(outcome(failed))]
            }
            Action::AbortTransactions => {
                self.aborted |= failed.is_none();
                vec![Event::TransactionsAborted(outcome(failed))]
            }
        }
    }

    /// What is done to copies that stand still.
    fn stand_still(&mut self, action: Action) {
        let kept = self.kept.step;
        match action {
            Action::Freeze(freezes) => {
                assert!(kept >= HandOverStep::Frozen, "frozen before it was kept");
                for (index, end) in freezes {
                    let copy = self.copies.get_mut(&index).unwrap();
                    (copy.frozen, copy.serves_to) = (true, end.map(Offset::value));
                }
            }
            Action::CutBack(cuts) => {
                assert!(kept == HandOverStep::Frozen, "cut before the freeze was kept");
                for (index, to) in cuts {
                    let copy = self.copies.get_mut(&index).unwrap();
                    assert!(copy.frozen && copy.handed_over_at.is_none());
                    (copy.log_end, copy.open_here) = (to.value(), 0);
                    copy.followers.values_mut().for_each(|end| *end = (*end).min(to.value()));
                }
            }
            Action::Thaw => {
                assert!(kept < HandOverStep::HandedOver);
                self.copies.values_mut().for_each(|copy| (copy.frozen, copy.serves_to) = (false, None));
            }
            other => panic!("{other:?} moves something"),
        }
    }

    fn standing(&self, index: i32) -> Event {
        let copy = &self.copies[&index];
        let followers = copy.followers.iter().map(|(broker, end)| FollowerStanding {
            broker: *broker,
            broker_epoch: Some(i64::from(*broker) * 10),
            start: Some(at(0)),
            end: Some(at(*end)),
            age_ns: Some(if self.dead.contains(broker) { 10 * SECOND } else { 0 }),
        });
        let standing = Standing {
            leads: copy.handed_over_at.is_none(),
            log_start: at(0),
            log_end: at(copy.log_end),
            flushed: at(copy.log_end),
            open_transactions: copy.open_here,
            first_open: (copy.open_here > 0).then_some(at(30)),
            followers: followers.collect(),
        };
        Event::Standing { index, standing: Some(standing) }
    }

    fn change(&mut self, change: PartitionChange) {
        self.image.apply(MetadataRecord::PartitionChange(change)).unwrap();
    }

    fn reassign(&mut self, index: i32, target: Option<Vec<i32>>) {
        let now = self.image.partition(TOPIC, index).unwrap().clone();
        if !now.replicas.contains(&GUEST) {
            return;
        }
        let change = match target {
            None => PartitionChange { removing: Some(Vec::new()), ..PartitionChange::of(TOPIC, index) },
            Some(target) => {
                let removing: Vec<i32> =
                    now.replicas.iter().filter(|each| !target.contains(each)).copied().collect();
                let replicas = [target, removing.clone()].concat();
                PartitionChange {
                    replicas: Some(replicas),
                    removing: Some(removing),
                    ..PartitionChange::of(TOPIC, index)
                }
            }
        };
        self.change(change);
    }

    fn alter(&mut self, change: &IsrChange) -> i16 {
        let now = self.image.partition(TOPIC, change.index).unwrap().clone();
        if now.leader != Some(GUEST) {
            return 42;
        }
        if now.partition_epoch != change.partition_epoch {
            return 95;
        }
        if change.followers.iter().any(|(broker, _)| self.image.broker(*broker).unwrap().fenced) {
            return 107;
        }
        let copy = self.copies.get_mut(&change.index).unwrap();
        let target: Vec<i32> = change.followers.iter().map(|(broker, _)| *broker).collect();
        for broker in &target {
            assert_eq!(Some(copy.followers[broker]), copy.serves_to, "broker {broker} lacks records");
        }
        assert!(copy.frozen && now.removing.contains(&GUEST));
        copy.handed_over_at = copy.serves_to;
        let change_of = PartitionChange {
            replicas: Some(target.clone()),
            isr: Some(target.clone()),
            leader: Some(target[0]),
            removing: Some(Vec::new()),
            ..PartitionChange::of(TOPIC, change.index)
        };
        self.change(change_of);
        108
    }
}

impl Copy {
    fn end(&self) -> SourceEnd {
        let last_stable_offset = at(self.source_end - i64::from(self.open_at_source));
        SourceEnd { high_watermark: at(self.source_end), last_stable_offset }
    }
}

fn partition(index: i32, replicas: Vec<i32>) -> NewPartition {
    NewPartition {
        topic: TOPIC,
        index,
        replicas,
        isr: vec![GUEST],
        removing: Vec::new(),
        adding: Vec::new(),
        leader: GUEST,
        leader_epoch: 0,
        partition_epoch: 0,
        recovery: 0,
        directories: Vec::new(),
        eligible_leaders: Vec::new(),
        last_known_eligible: Vec::new(),
    }
}

/// Runs until the machine is over; `disturb` may do anything between two steps, true for a crash of ours.
fn run(world: &mut World, mode: Mode, mut disturb: impl FnMut(&mut World, u32) -> bool) -> HandOver {
    let mut machine = world.machine(mode);
    for turn in 0..20_000 {
        world.move_on();
        if disturb(world, turn) {
            // Shards forget a freeze with the process.
            let went = (HandOverStep::HandedOver..=HandOverStep::Done).contains(&world.kept.step);
            world.copies.values_mut().for_each(|copy| copy.frozen = went);
            machine = world.machine(mode);
        }
        machine.image_is(world.now, &world.image);
        while let Some(action) = machine.poll() {
            for event in world.carry_out(&machine, action) {
                machine.handle(world.now, event);
            }
        }
        if machine.is_over() {
            return machine;
        }
        let deadline = machine.deadline().expect("it waits for something");
        assert!(deadline <= world.now + 6 * SECOND || machine.keeping.is_some() || deadline > world.now);
    }
    panic!("it is never over: {:?} {:?}, {:?}", machine.phase, machine.kept, machine.trouble());
}

fn assert_handed_over(world: &World) {
    assert!(world.restored);
    for (index, partition) in &world.image.topic(TOPIC).unwrap().partitions {
        assert!(
            !partition.replicas.contains(&GUEST) && partition.removing.is_empty(),
            "{index}: {partition:?}"
        );
        let end = world.copies[index].handed_over_at;
        assert_eq!(end, world.kept.ends.get(index).map(|end| end.value()));
    }
}

fn assert_taken_back(world: &World) {
    assert_eq!(world.kept.step, HandOverStep::Abandoned);
    assert!(!world.restored);
    for (index, partition) in &world.image.topic(TOPIC).unwrap().partitions {
        assert!(partition.leader == Some(GUEST) && partition.removing.is_empty(), "{index}: {partition:?}");
        assert!(!world.copies[index].frozen && world.copies[index].serves_to.is_none());
    }
}

const PROMOTE: Mode = Mode::Promote { allow_moving_source: false };
const FAILOVER: Mode = Mode::Failover { truncate: false };
const TRUNCATE: Mode = Mode::Failover { truncate: true };
const MOVING: Mode = Mode::Promote { allow_moving_source: true };

#[test]
fn a_promote_hands_everything_over_at_the_captured_end() {
    let mut world = World::new(7, 1);
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_handed_over(&world);
    assert_eq!(machine.step(), HandOverStep::Done);
    assert!(machine.late().is_empty() && machine.left_out().is_empty() && !world.aborted);
    let leaders: BTreeSet<_> =
        world.image.topic(TOPIC).unwrap().partitions.values().map(|each| each.leader).collect();
    assert_eq!(leaders.len(), 3, "leaders are spread");
}

#[test]
fn a_dead_broker_is_left_out_by_name() {
    let mut world = World::new(3, 1);
    world.kill(2);
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_handed_over(&world);
    assert_eq!(machine.left_out(), [2].into());
}

#[test]
fn a_broker_that_dies_in_the_middle_is_left_out_too() {
    for when in 0..60 {
        let mut world = World::new(5, when);
        let disturb = |world: &mut World, turn: u32| {
            if u64::from(turn) == when {
                world.kill(3);
            }
            false
        };
        run(&mut world, PROMOTE, disturb);
        assert_handed_over(&world);
    }
}

#[test]
fn a_silent_follower_that_is_not_known_to_be_dead_ends_the_promote_in_time() {
    let mut world = World::new(2, 1);
    world.dead.insert(1);
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_taken_back(&world);
    assert!(matches!(machine.trouble(), Some(Trouble::Behind { broker: 1, .. })), "{:?}", machine.trouble());
}

#[test]
fn a_producer_of_the_destination_with_a_mirrored_id_ends_the_promote_at_once() {
    let mut world = World::new(2, 1);
    let overlap = ProducerOverlap { producer_id: 7, holder: "orders-3".into(), others: 0 };
    world.overlap = Some(overlap.clone());
    let began = world.now;
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_taken_back(&world);
    assert_eq!(machine.trouble(), Some(&Trouble::ProducersOverlap(overlap)));
    assert!(world.now - began < PROOF_LIMIT, "nothing was waited for");
}

#[test]
fn a_reassignment_that_an_operator_cancels_at_any_moment_is_begun_again() {
    let mut cancelled = 0;
    for when in 0..120 {
        let mut world = World::new(4, when);
        let disturb = |world: &mut World, turn: u32| {
            for index in (0..4).filter(|_| u64::from(turn) == when) {
                let partition = world.image.partition(TOPIC, index).unwrap();
                if partition.leader == Some(GUEST) && !partition.removing.is_empty() {
                    world.reassign(index, None);
                    cancelled += 1;
                }
            }
            false
        };
        let machine = run(&mut world, PROMOTE, disturb);
        assert_eq!(machine.step(), HandOverStep::Done, "cancelled in turn {when}");
        assert_handed_over(&world);
    }
    assert!(cancelled > 0, "no turn found one under way");
}

#[test]
fn a_promote_without_a_live_broker_is_taken_back() {
    let mut world = World::new(2, 1);
    [1, 2, 3].into_iter().for_each(|broker| world.kill(broker));
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_taken_back(&world);
    assert!(matches!(machine.trouble(), Some(Trouble::NoFollower { .. })));
}

#[test]
fn open_transactions_refuse_a_promote_on_either_side() {
    let mut world = World::new(2, 1);
    world.copies.get_mut(&1).unwrap().open_at_source = true;
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_taken_back(&world);
    assert!(matches!(machine.trouble(), Some(Trouble::OpenTransactions { index: 1, .. })));
    let mut world = World::new(2, 1);
    world.copies.get_mut(&1).unwrap().open_here = 3;
    let machine = run(&mut world, MOVING, |_, _| false);
    assert_taken_back(&world);
    assert_eq!(machine.trouble(), Some(&Trouble::OpenHere { index: 1, count: 3 }));
}

fn grow(world: &mut World, turn: u32) -> bool {
    if turn.is_multiple_of(5) {
        world.copies.values_mut().for_each(|copy| copy.source_end += 7);
    }
    false
}

#[test]
fn a_source_that_moves_is_refused_unless_that_is_allowed() {
    let mut world = World::new(2, 1);
    let machine = run(&mut world, PROMOTE, grow);
    assert_taken_back(&world);
    assert!(matches!(machine.trouble(), Some(Trouble::SourceMoves { .. })), "{:?}", machine.trouble());
    let mut world = World::new(2, 1);
    let machine = run(&mut world, MOVING, grow);
    assert_handed_over(&world);
    assert!(!machine.late().is_empty(), "what came after the end is told");
}

#[test]
fn a_failover_needs_no_source_and_aborts_what_is_open() {
    let mut world = World::new(3, 1);
    world.source_is_gone = true;
    world.copies.get_mut(&0).unwrap().open_here = 1;
    let machine = run(&mut world, FAILOVER, |_, _| false);
    assert_handed_over(&world);
    assert!(world.aborted);
    assert_eq!(machine.open_here(), &[(0, 1)].into());
    assert_eq!(machine.ends()[&0], at(40));
}

#[test]
fn a_failover_that_truncates_hands_over_what_ends_before_the_first_open_transaction() {
    let mut world = World::new(3, 1);
    world.source_is_gone = true;
    world.copies.get_mut(&0).unwrap().open_here = 2;
    // A follower knows more than we do: what that is, nobody can say.
    world.copies.get_mut(&1).unwrap().followers.insert(2, 55);
    let machine = run(&mut world, TRUNCATE, |_, _| false);
    assert_handed_over(&world);
    let ends: Vec<i64> = machine.ends().values().map(|end| end.value()).collect();
    assert_eq!(ends, [30, 40, 40]);
    assert_eq!(machine.open_here(), &[(0, 2)].into());
    assert_eq!(machine.handed_ends(), machine.ends());
    assert!(world.copies.values().all(|copy| copy.followers.values().all(|end| *end <= 40)));
}

#[test]
fn the_replicas_are_remembered_as_they_were_before_a_dead_one_was_left_out() {
    let mut world = World::new(2, 1);
    world.kill(1);
    let machine = run(&mut world, FAILOVER, |_, turn| turn % 7 == 3);
    assert_handed_over(&world);
    assert_eq!(machine.full_replicas(), &[(0, vec![1, 2, 3]), (1, vec![2, 3, 1])].into());
    assert_eq!(machine.replicas(), [(0, vec![2, 3]), (1, vec![2, 3])].into());
}

#[test]
fn a_promote_without_its_source_is_taken_back() {
    let mut world = World::new(1, 1);
    world.source_is_gone = true;
    let machine = run(&mut world, PROMOTE, |_, _| false);
    assert_taken_back(&world);
    assert!(matches!(machine.trouble(), Some(Trouble::NotAnswered { asked: Asked::SourceEnds, .. })));
}

#[test]
fn an_operator_takes_it_back_until_it_went() {
    for when in 0..80 {
        let mut world = World::new(3, when);
        let mut machine = world.machine(PROMOTE);
        let mut cancelled = None;
        for turn in 0..2_000 {
            world.move_on();
            if turn == when {
                cancelled = Some(machine.cancel(world.now));
            }
            machine.image_is(world.now, &world.image);
            while let Some(action) = machine.poll() {
                for event in world.carry_out(&machine, action) {
                    machine.handle(world.now, event);
                }
            }
        }
        match cancelled.unwrap() {
            true => assert_taken_back(&world),
            false => assert_handed_over(&world),
        }
    }
}

#[test]
fn any_faults_and_crashes_end_in_all_or_nothing() {
    let (mut went, mut back) = (0, 0);
    for seed in 1..400_u64 {
        let mut world = World::new(1 + (seed % 9) as i32, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        world.fails_percent = seed % 40;
        let mode = [PROMOTE, MOVING, FAILOVER, TRUNCATE][(seed % 4) as usize];
        if mode == TRUNCATE {
            world.copies.get_mut(&0).unwrap().open_here = 1;
        }
        let machine = run(&mut world, mode, |world, turn| {
            match world.dice.below(200) {
                0 if world.dead.len() < 2 => world.kill(1 + (turn % 3) as i32),
                1 if mode != PROMOTE => _ = grow(world, 0),
                2..10 => return true,
                _ => {}
            }
            false
        });
        match machine.step() {
            HandOverStep::Done => {
                went += 1;
                assert_handed_over(&world);
            }
            step => {
                back += 1;
                println!(
                    "seed {seed}: {}",
                    machine.trouble().map_or(format!("{step}"), |why| format!("{why}"))
                );
                assert_taken_back(&world);
            }
        }
    }
    assert!(went > 300, "{went} went, {back} were taken back");
}
