//! The rules one by one, then a world of followers that apply answers as Kafka's replica fetcher does.

use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;
use twinlog_log_segment::epoch::EpochStart;

const FOLLOWERS: i32 = 3;
const BROKER_EPOCH: i64 = 70;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn history(entries: &[(i32, i64)]) -> EpochHistory {
    let mut history = EpochHistory::new();
    for (epoch, start) in entries {
        history.record(LeaderEpoch(*epoch), at(*start)).unwrap();
    }
    history
}

fn view(log_start: i64, held_start: i64, log_end: i64, stamp_epochs: &EpochHistory) -> LogView<'_> {
    LogView { log_start: at(log_start), held_start: at(held_start), log_end: at(log_end), stamp_epochs }
}

const REGISTERED: Registration =
    Registration { broker_epoch: Some(BROKER_EPOCH), unfenced: true, in_target: true };

/// Leads epoch 5 with three registered followers, two of which must hold what is durable.
fn leader() -> Leadership {
    let mut leader = Leadership::new(2, at(0));
    leader.lead(0, LeaderEpoch(5), 1);
    (1..=FOLLOWERS).for_each(|broker_id| leader.set_follower(0, broker_id, REGISTERED));
    leader
}

fn from(replica_id: i32, fetch_offset: i64, last_fetched_epoch: i32) -> FollowerFetch {
    FollowerFetch {
        replica_id,
        replica_epoch: BROKER_EPOCH,
        current_leader_epoch: LeaderEpoch(5),
        fetch_offset,
        last_fetched_epoch: LeaderEpoch(last_fetched_epoch),
        log_start_offset: 0,
        asked_at: 0,
    }
}

fn records(from: i64, end: i64) -> FetchAction {
    FetchAction::Records { from: at(from), end: at(end) }
}

#[test]
fn each_place_in_the_log_has_its_answer() {
    let epochs = history(&[(0, 10), (3, 40)]);
    let log = view(10, 20, 60, &epochs);
    let action = |offset, epoch| leader().fetch(0, &from(1, offset, epoch), &log).action;
    assert_eq!(action(-1, -1), FetchAction::OutOfRange);
    assert_eq!(action(9, 0), FetchAction::OutOfRange);
    assert_eq!(action(10, -1), FetchAction::ReadThrough { from: at(10), to: at(20) });
    assert_eq!(action(20, 0), records(20, 60));
    assert_eq!(action(41, 3), records(41, 60));
    assert_eq!(action(60, 3), FetchAction::Wait);
    assert_eq!(action(41, 0), FetchAction::Diverging { epoch: LeaderEpoch(0), end: at(40) });
    assert_eq!(action(50, 2), FetchAction::Diverging { epoch: LeaderEpoch(0), end: at(40) });
    // We hold the batch before 50, under epoch 3: whoever has it under 4 has another log.
    assert_eq!(action(50, 4), FetchAction::Diverging { epoch: LeaderEpoch(3), end: at(60) });
}

#[test]
fn a_follower_that_is_ahead_because_we_lag_waits() {
    let epochs = history(&[(0, 10), (3, 40)]);
    for log in [view(10, 10, 50, &epochs), view(10, 50, 50, &epochs), view(10, 10, 30, &epochs)] {
        let mut leader = leader();
        let verdict = leader.fetch(0, &from(1, 90, 3), &log);
        assert_eq!(verdict.action, FetchAction::Wait);
        assert_eq!(leader.ends().next().unwrap().1.raw_end, Some(at(90)));
        assert!(leader.high_watermark() <= log.log_end);
    }
    // An empty store on a new host knows no epoch at all.
    let nothing = EpochHistory::new();
    let empty = view(10, 10, 10, &nothing);
    let mut leader = leader();
    assert_eq!(leader.fetch(0, &from(1, 90, 4), &empty).action, FetchAction::Wait);
    assert_eq!(leader.ends().next().unwrap().1.proven_end, None, "what it holds is not known to be ours");
    assert_eq!(leader.fetch(0, &from(1, 5, -1), &empty).action, FetchAction::OutOfRange);
}

#[test]
fn leader_epochs_and_replicas_are_checked_first() {
    let epochs = history(&[(0, 0)]);
    let log = view(0, 0, 10, &epochs);
    let mut leader = leader();
    let old = FollowerFetch { current_leader_epoch: LeaderEpoch(4), asked_at: 100, ..from(1, 0, -1) };
    assert_eq!(leader.fetch(100, &old, &log).action, FetchAction::Hold { until: 100 + HOLD_NS });
    assert_eq!(leader.fetch(100 + HOLD_NS, &old, &log).error().code(), 74);
    let new = FollowerFetch { current_leader_epoch: LeaderEpoch(6), ..old };
    assert_eq!(leader.fetch(0, &new, &log).error().code(), 75);
    assert_eq!(leader.fetch(0, &from(9, 0, -1), &log).error().code(), 75);
    let former = FollowerFetch { replica_epoch: BROKER_EPOCH - 1, ..from(1, 0, -1) };
    assert_eq!(leader.fetch(0, &former, &log).error().code(), 6);
    leader.resign();
    assert_eq!(leader.fetch(0, &from(1, 0, -1), &log).error().code(), 6);
    let answer = leader.fetch(0, &from(1, 0, -1), &log).answer(3);
    assert_eq!((answer.index, answer.log_start_offset, answer.high_watermark), (3, -1, -1));
}

#[test]
fn a_broker_that_is_not_registered_is_served_and_not_counted() {
    let epochs = history(&[(0, 0)]);
    let log = view(0, 0, 10, &epochs);
    let mut leader = leader();
    for (replica_id, replica_epoch) in [(1, -1), (2, -1), (3, BROKER_EPOCH + 1)] {
        let fetch = FollowerFetch { replica_epoch, ..from(replica_id, 5, 0) };
        assert_eq!(leader.fetch(0, &fetch, &log).action, records(5, 10));
    }
    assert_eq!(leader.high_watermark(), at(0));
    // A restart takes away what was proven, never the high watermark.
    leader.fetch(0, &from(1, 8, 0), &log);
    leader.fetch(0, &from(2, 7, 0), &log);
    assert_eq!(leader.high_watermark(), at(7));
    leader.set_follower(0, 2, Registration { broker_epoch: Some(BROKER_EPOCH + 9), ..REGISTERED });
    leader.fetch(0, &from(1, 10, 0), &log);
    assert_eq!(leader.high_watermark(), at(7));
    assert_eq!(leader.ends().filter(|(_, follower)| follower.proven_end.is_some()).count(), 1);
}

#[test]
fn fewer_live_followers_than_wanted_are_enough() {
    let epochs = history(&[(0, 0)]);
    let log = view(0, 0, 10, &epochs);
    let mut leader = leader();
    let fenced = Registration { unfenced: false, ..REGISTERED };
    leader.set_follower(0, 2, fenced);
    leader.set_follower(0, 3, Registration { in_target: false, ..REGISTERED });
    leader.fetch(0, &from(3, 10, 0), &log);
    assert_eq!(leader.high_watermark(), at(0), "it will not stay a replica");
    leader.fetch(0, &from(1, 4, 0), &log);
    assert_eq!(leader.high_watermark(), at(4));
}

#[test]
fn no_answer_has_a_log_start_above_the_follower_or_the_high_watermark() {
    let epochs = history(&[(0, 0)]);
    let mut leader = leader();
    let verdict = leader.fetch(0, &from(1, 0, -1), &view(30, 30, 60, &epochs));
    assert_eq!((verdict.action, verdict.log_start), (FetchAction::OutOfRange, at(0)));
    let verdict = leader.fetch(0, &from(1, 30, -1), &view(30, 30, 60, &epochs));
    assert_eq!((verdict.log_start, verdict.high_watermark), (at(30), at(30)));
    // The source trims beyond what a frozen partition may show.
    leader.freeze(at(40));
    let verdict = leader.fetch(0, &from(1, 40, 0), &view(50, 50, 60, &epochs));
    assert_eq!((verdict.action, verdict.log_start), (FetchAction::Wait, at(40)));
    leader.thaw();
    assert_eq!(leader.fetch(0, &from(1, 50, 0), &view(50, 50, 60, &epochs)).action, records(50, 60));
}

#[test]
fn a_batch_above_the_leader_epoch_is_held_back() {
    let epochs = history(&[(0, 0), (5, 10), (6, 20)]);
    let log = view(0, 0, 30, &epochs);
    let mut leader = leader();
    assert_eq!(leader.fetch(0, &from(1, 5, 0), &log).action, records(5, 20));
    assert_eq!(leader.fetch(0, &from(1, 20, 5), &log).action, FetchAction::Wait);
    assert_eq!(leader.list_offset(LeaderEpoch(5), TIMESTAMP_LATEST, &log).offset, 20);
    leader.lead(0, LeaderEpoch(7), 2);
    let bumped = FollowerFetch { current_leader_epoch: LeaderEpoch(7), ..from(1, 20, 5) };
    assert_eq!(leader.fetch(0, &bumped, &log).action, records(20, 30));
}

#[test]
fn a_follower_that_stops_asking_is_noticed_unless_its_session_asks() {
    let epochs = history(&[(0, 0)]);
    let log = view(0, 0, 10, &epochs);
    let mut leader = leader();
    leader.set_follower(0, 3, Registration { unfenced: false, ..REGISTERED });
    leader.fetch(SECOND, &from(1, 0, -1), &log);
    let stalled = |leader: &Leadership, now, session: Option<Nanoseconds>| -> Vec<i32> {
        leader.stalled(now, |_| session).map(|one| one.broker_id).collect()
    };
    assert!(stalled(&leader, STALLED_NS - 1, None).is_empty());
    assert_eq!(stalled(&leader, STALLED_NS, None), [2]);
    assert_eq!(stalled(&leader, SECOND + STALLED_NS, None), [1, 2]);
    assert!(stalled(&leader, SECOND + STALLED_NS, Some(SECOND + 1)).is_empty());
    leader.lead(2 * STALLED_NS, LeaderEpoch(7), 2);
    assert!(stalled(&leader, 3 * STALLED_NS - 1, None).is_empty(), "the new epoch is being learned");
}

#[test]
fn offsets_and_epoch_ends_are_told() {
    let epochs = history(&[(0, 10), (3, 40)]);
    let log = view(12, 20, 60, &epochs);
    let mut leader = leader();
    let told = |leader: &Leadership, timestamp| {
        let verdict = leader.list_offset(LeaderEpoch(5), timestamp, &log);
        (verdict.offset, verdict.leader_epoch.0)
    };
    assert_eq!(told(&leader, TIMESTAMP_LATEST), (60, 5));
    assert_eq!(told(&leader, TIMESTAMP_EARLIEST), (12, 0));
    assert_eq!(told(&leader, TIMESTAMP_EARLIEST_LOCAL), (12, 0));
    assert_eq!(told(&leader, TIMESTAMP_LATEST_TIERED), (-1, -1));
    assert_eq!(leader.list_offset(LeaderEpoch(4), TIMESTAMP_LATEST, &log).error.code(), 6);
    assert_eq!(leader.list_offset(LeaderEpoch(6), TIMESTAMP_LATEST, &log).error.code(), 75);
    let end = |leader: &Leadership, epoch| {
        let verdict = leader.epoch_end(1, LeaderEpoch(5), LeaderEpoch(epoch), &log);
        (verdict.leader_epoch.0, verdict.offset)
    };
    assert_eq!((end(&leader, 1), end(&leader, 3), end(&leader, 4)), ((0, 40), (3, 60), (-1, -1)));
    leader.fetch(0, &from(1, 75, 3), &log);
    assert_eq!(end(&leader, 3), (3, 75), "it keeps what we are still to receive");
}

/// One record: its stamp and an identity that no other record has.
type Record = (i32, u64);

/// A replica that does with answers what Kafka's fetcher does.
#[derive(Clone, Debug, Default)]
struct ModelFollower {
    start: i64,
    records: Vec<Record>,
    leader_epoch: i32,
}

impl ModelFollower {
    fn end(&self) -> i64 {
        self.start + self.records.len() as i64
    }

    fn epochs(&self) -> EpochHistory {
        let mut history = EpochHistory::new();
        for (index, (epoch, _)) in self.records.iter().enumerate() {
            history.record(LeaderEpoch(*epoch), at(self.start + index as i64)).unwrap();
        }
        history
    }

    fn truncate(&mut self, to: i64) {
        self.records.truncate((to - self.start).max(0) as usize);
    }

    /// The end of the leader's epoch in both logs, or of the epoch below it that this one has (ref: KIP-279).
    fn diverging(&mut self, epoch: LeaderEpoch, leader_end: Offset) {
        let own_end = at(self.end());
        let to = match self.epochs().end_of(epoch, own_end) {
            Some(EpochStart { epoch: own, start }) if own == epoch => start.min(leader_end),
            Some(EpochStart { start, .. }) => start,
            None => leader_end,
        };
        self.truncate(to.min(own_end).value());
    }
}

/// The source's log, our copy of a prefix of it, and our followers.
struct World {
    truth: Vec<Record>,
    log_start: i64,
    held_start: i64,
    log_end: i64,
    epochs: EpochHistory,
    stamp: i32,
    leader_epoch: i32,
    next_record: u64,
    leader: Leadership,
    followers: Vec<ModelFollower>,
    now: Nanoseconds,
}

#[derive(Clone, Debug)]
enum Action {
    Append(u8),
    /// The source's next records have a higher stamp, perhaps above our leader epoch.
    Election,
    Bump,
    LearnEpoch(usize),
    Fetch(usize, u8),
    /// The source is cut and a new epoch begins there.
    Cut(prop::sample::Index),
    /// We come back with a shorter log.
    Restart(prop::sample::Index),
    Trim(prop::sample::Index),
    Spool(prop::sample::Index),
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    let follower = 0..FOLLOWERS as usize;
    prop_oneof![
        4 => (1u8..6).prop_map(Action::Append),
        1 => Just(Action::Election),
        1 => Just(Action::Bump),
        2 => follower.clone().prop_map(Action::LearnEpoch),
        10 => (follower, 1u8..5).prop_map(|(follower, count)| Action::Fetch(follower, count)),
        1 => index().prop_map(Action::Cut),
        1 => index().prop_map(Action::Restart),
        1 => index().prop_map(Action::Trim),
        1 => index().prop_map(Action::Spool),
    ]
}

impl World {
    fn new() -> World {
        let mut world = World {
            truth: Vec::new(),
            log_start: 0,
            held_start: 0,
            log_end: 0,
            epochs: EpochHistory::new(),
            stamp: 0,
            leader_epoch: 5,
            next_record: 0,
            leader: leader(),
            followers: alloc::vec![ModelFollower::default(); FOLLOWERS as usize],
            now: 0,
        };
        world.followers.iter_mut().for_each(|follower| follower.leader_epoch = 5);
        world
    }

    fn end(&self) -> i64 {
        self.truth.len() as i64
    }

    fn bump(&mut self, at_least: i32) {
        self.leader_epoch = (self.leader_epoch + 2).max(at_least);
        self.leader.lead(self.now, LeaderEpoch(self.leader_epoch), 0);
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Append(count) => self.append(i64::from(*count)),
            Action::Election => self.stamp += 1,
            Action::Bump => self.bump(0),
            Action::LearnEpoch(follower) => self.followers[*follower].leader_epoch = self.leader_epoch,
            Action::Fetch(follower, count) => self.fetch(*follower, *count),
            Action::Cut(index) => {
                self.cut(self.log_start + index.index((self.end() - self.log_start + 1) as usize) as i64)
            }
            Action::Restart(index) => {
                // The epochs are durable before what they stamp is served.
                self.log_end =
                    self.log_start + index.index((self.log_end - self.log_start + 1) as usize) as i64;
                self.held_start = self.held_start.min(self.log_end);
                let high_watermark = self.leader.high_watermark().min(at(self.log_end));
                self.leader = leader();
                self.leader.high_watermark = high_watermark;
                self.leader.lead(self.now, LeaderEpoch(self.leader_epoch), 0);
            }
            Action::Trim(index) => {
                self.log_start += index.index((self.log_end - self.log_start + 1) as usize) as i64;
                self.held_start = self.held_start.max(self.log_start);
                self.epochs.trim_to(at(self.log_start));
            }
            Action::Spool(index) => {
                self.held_start += index.index((self.log_end - self.held_start + 1) as usize) as i64;
            }
        }
    }

    /// What was lost in a restart comes back before anything new.
    fn append(&mut self, count: i64) {
        for _ in 0..count {
            if self.log_end == self.end() {
                self.truth.push((self.stamp, self.next_record));
                self.next_record += 1;
                self.epochs.record(LeaderEpoch(self.stamp), at(self.log_end)).unwrap();
            }
            self.log_end += 1;
        }
    }

    fn cut(&mut self, to: i64) {
        self.stamp = self.stamp.max(self.leader_epoch) + 1;
        self.truth.truncate(to as usize);
        self.log_end = self.log_end.min(to);
        self.held_start = self.held_start.min(to);
        self.epochs.truncate_to(at(to));
        self.epochs.record(LeaderEpoch(self.stamp), at(to)).unwrap();
        self.leader.cut(at(to));
        self.bump(self.stamp);
    }

    fn fetch(&mut self, which: usize, count: u8) {
        self.now += SECOND;
        let source_end = self.end();
        let follower = &mut self.followers[which];
        let log = view(self.log_start, self.held_start, self.log_end, &self.epochs);
        let fetch = FollowerFetch {
            current_leader_epoch: LeaderEpoch(follower.leader_epoch),
            asked_at: self.now,
            ..from(which as i32 + 1, follower.end(), follower.records.last().map_or(-1, |record| record.0))
        };
        let before = self.leader.high_watermark();
        let verdict = self.leader.fetch(self.now, &fetch, &log);
        assert!(
            verdict.log_start.value() <= fetch.fetch_offset && verdict.log_start <= verdict.high_watermark
        );
        assert!(verdict.high_watermark <= self.leader.servable_end(&log));
        assert!(verdict.high_watermark >= before);
        let range = |from: Offset, end: Offset| {
            let end = end.value().min(from.value() + i64::from(count));
            self.truth[from.value() as usize..end as usize].iter().copied()
        };
        match verdict.action {
            FetchAction::Records { from, end } | FetchAction::ReadThrough { from, to: end } => {
                assert_eq!(from.value(), follower.end());
                follower.records.extend(range(from, end));
                let stamp = follower.records.last().expect("some were appended").0;
                assert!(stamp <= self.leader_epoch, "stamp {stamp} was served under {}", self.leader_epoch);
            }
            FetchAction::OutOfRange => {
                let latest = self.leader.list_offset(LeaderEpoch(self.leader_epoch), TIMESTAMP_LATEST, &log);
                assert!(latest.offset >= follower.end(), "it would be cut to our end");
                *follower = ModelFollower { start: self.log_start, records: Vec::new(), ..*follower };
            }
            FetchAction::Diverging { epoch, end } => {
                let agreed = agreeing(follower, &self.truth);
                follower.diverging(epoch, end);
                let kept = follower.end() >= agreed.min(source_end);
                assert!(
                    kept || agreed <= self.log_start,
                    "cut to {} of {agreed} that agreed",
                    follower.end()
                );
            }
            FetchAction::Wait | FetchAction::Hold { .. } => {}
            other => panic!("{other:?}"),
        }
        if verdict.log_start.value() > follower.start {
            let gone = (verdict.log_start.value() - follower.start) as usize;
            follower.records.drain(..gone);
            follower.start = verdict.log_start.value();
        }
        self.check_durable();
    }

    /// Below the high watermark are as many copies as were promised.
    fn check_durable(&self) {
        let high_watermark = self.leader.high_watermark().value();
        let durable = |follower: &&ModelFollower| agreeing(follower, &self.truth) >= high_watermark;
        let copies = self.followers.iter().filter(durable).count();
        assert!(high_watermark <= self.log_start || copies >= 2, "{copies} copies below {high_watermark}");
    }

    /// Everybody learns everything and fetches until nothing moves.
    fn settle(&mut self) {
        self.append(self.end() - self.log_end);
        self.bump(self.stamp);
        for which in 0..self.followers.len() {
            self.followers[which].leader_epoch = self.leader_epoch;
            for _ in 0..self.truth.len() + 20 {
                self.fetch(which, 5);
            }
            let follower = &self.followers[which];
            assert_eq!(follower.end(), self.end(), "follower {which} holds everything");
            let from = follower.start.max(self.log_start);
            let held = &follower.records[(from - follower.start) as usize..];
            assert_eq!(held, &self.truth[from as usize..], "and nothing else");
        }
        assert_eq!(self.leader.high_watermark().value(), self.end());
    }
}

/// Where a follower's log first differs from the source's; records below the log start agree.
fn agreeing(follower: &ModelFollower, truth: &[Record]) -> i64 {
    let theirs = truth.get(follower.start as usize..).unwrap_or_default();
    let same = follower.records.iter().zip(theirs).take_while(|(held, source)| held == source).count();
    follower.start + same as i64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn followers_end_with_the_sources_log_and_are_never_cut_because_we_lag(
        actions in prop::collection::vec(action(), 1..80),
    ) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        world.settle();
    }
}
