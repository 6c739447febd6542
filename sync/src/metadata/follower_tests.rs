//! The follower against a quorum that elects, diverges, makes snapshots and answers nonsense.

use super::follower::*;
use super::image::ClusterImage;
use super::log_reader::{SNAPSHOT_FOOTER, SNAPSHOT_HEADER, written};
use super::record_tests::{TOPIC, no_op, partition, topic};
use crate::{MILLISECOND, Nanoseconds};
use alloc::boxed::Box;
use alloc::vec::Vec;

const SNAPSHOT: SnapshotId = SnapshotId { end_offset: 50, epoch: 3 };

#[derive(Default)]
struct World {
    follower: MetadataFollower,
    shown: Option<Box<ClusterImage>>,
    next_offset: i64,
    asked_another: Vec<Option<i32>>,
    troubles: Vec<Trouble>,
    now: Nanoseconds,
}

impl World {
    /// Runs until the next request and returns it.
    fn request(&mut self) -> FollowerAction {
        loop {
            match self.follower.poll() {
                None => {
                    self.now = self.follower.deadline().expect("it waits for a time");
                    self.follower.handle(self.now, FollowerEvent::Woken);
                }
                Some(FollowerAction::Replace { image, next_offset }) => {
                    (self.shown, self.next_offset) = (Some(image), next_offset);
                }
                Some(FollowerAction::Apply { records, next_offset }) => {
                    self.next_offset = next_offset;
                    let image = self.shown.as_mut().expect("shown before it is changed");
                    for record in records {
                        image.apply(record).unwrap();
                    }
                }
                Some(FollowerAction::AskAnother { hint }) => self.asked_another.push(hint),
                Some(FollowerAction::Trouble(trouble)) => self.troubles.push(trouble),
                Some(FollowerAction::Leads) => {}
                Some(request) => return request,
            }
        }
    }

    fn fetch(&mut self) -> (i64, i32, i32) {
        match self.request() {
            FollowerAction::Fetch { offset, last_fetched_epoch, quorum_epoch } => {
                (offset, last_fetched_epoch, quorum_epoch)
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, answer: FetchAnswer<'_>) {
        self.follower.handle(self.now, FollowerEvent::Fetched(answer));
    }

    fn snapshot(&mut self, position: usize, whole: &[u8], bytes: &[u8]) {
        let (size_bytes, position) = (whole.len() as i64, position as i64);
        let answer = SnapshotAnswer { error: 0, id: SNAPSHOT, size_bytes, position, bytes };
        self.follower.handle(self.now, FollowerEvent::SnapshotFetched(answer));
    }
}

fn records(bytes: &[u8], high_watermark: i64) -> FetchAnswer<'_> {
    FetchAnswer { error: 0, high_watermark, diverging: None, leader: None, snapshot: None, records: bytes }
}

fn refusal(error: i16, leader: Option<QuorumLeader>) -> FetchAnswer<'static> {
    FetchAnswer { error, leader, ..records(&[], -1) }
}

fn whole_snapshot() -> Vec<u8> {
    let values = [topic("orders"), partition(0, &[1, 2], 1)];
    let parts = [
        written::control(0, 3, SNAPSHOT_HEADER),
        written::batch(1, 3, &values),
        written::control(3, 3, SNAPSHOT_FOOTER),
    ];
    parts.concat()
}

#[test]
fn nothing_is_applied_before_the_high_watermark_covers_it() {
    let mut world = World::default();
    assert_eq!(world.fetch(), (0, 0, 0));
    let bytes =
        [written::batch(0, 1, &[topic("orders")]), written::batch(1, 2, &[no_op(), no_op()])].concat();
    world.answer(records(&bytes, -1));
    assert_eq!(world.fetch(), (3, 2, 0), "what is held is not fetched again");
    assert!(world.shown.is_none());
    world.answer(records(&[], 1));
    world.fetch();
    assert_eq!(world.next_offset, 1);
    assert!(world.shown.as_ref().unwrap().topic(TOPIC).is_some());
    world.answer(records(&[], 3));
    world.fetch();
    assert_eq!(world.next_offset, 3);
}

#[test]
fn the_active_controller_is_found_by_what_the_others_say() {
    let mut world = World::default();
    world.fetch();
    world.answer(refusal(6, Some(QuorumLeader { id: Some(101), epoch: 4 })));
    assert_eq!(world.fetch(), (0, 0, 4));
    assert_eq!(world.asked_another, [Some(101)]);
    world.answer(refusal(74, Some(QuorumLeader { id: Some(101), epoch: 5 })));
    assert_eq!(world.fetch(), (0, 0, 5), "the same one again, with its epoch");
    assert_eq!(world.asked_another.len(), 1);
    // An election: nobody is named, and each further one is asked after a pause.
    world.answer(records(&written::batch(0, 5, &[no_op()]), 1));
    world.fetch();
    for round in 0..20 {
        let before = world.now;
        world.answer(refusal(6, Some(QuorumLeader { id: None, epoch: 6 })));
        assert_eq!(world.fetch(), (1, 5, 6));
        assert!(world.now >= before + 100 * MILLISECOND, "round {round}");
    }
    world.follower.handle(world.now, FollowerEvent::Failed);
    assert_eq!(world.fetch(), (1, 5, 6));
    assert_eq!(world.troubles, []);
}

#[test]
fn a_snapshot_comes_in_pieces_and_replaces_everything() {
    let mut world = World::default();
    world.fetch();
    world.answer(records(&written::batch(0, 1, &[topic("gone")]), 1));
    world.fetch();
    assert!(world.shown.as_ref().unwrap().topic_id("gone").is_some());
    world.answer(FetchAnswer { snapshot: Some(SNAPSHOT), ..records(&[], 51) });
    let whole = whole_snapshot();
    for (index, piece) in whole.chunks(37).enumerate() {
        let FollowerAction::FetchSnapshot { id, position, .. } = world.request() else { panic!() };
        assert_eq!((id, position), (SNAPSHOT, index as i64 * 37));
        world.snapshot(index * 37, &whole, piece);
    }
    assert_eq!(world.fetch(), (50, 3, 0), "it goes on where the snapshot ends");
    assert!(world.shown.as_ref().unwrap().topic_id("gone").is_some(), "shown until its successor is ready");
    world.answer(records(&written::batch(50, 3, &[no_op()]), 51));
    world.fetch();
    let image = world.shown.as_ref().unwrap();
    assert!(image.topic_id("gone").is_none() && image.partition(TOPIC, 0).is_some());
    assert_eq!(world.next_offset, 51);
}

#[test]
fn a_snapshot_that_is_refused_cut_or_foreign_starts_the_log_over() {
    let whole = whole_snapshot();
    let footer = whole.len() - 10;
    let hostile = SnapshotAnswer {
        error: 0,
        id: SNAPSHOT,
        size_bytes: SNAPSHOT_BYTES_MAX + 1,
        position: 0,
        bytes: &whole,
    };
    let cases = [
        SnapshotAnswer { error: -1, size_bytes: 0, bytes: &[], ..hostile.clone() },
        hostile.clone(),
        SnapshotAnswer { size_bytes: 5, ..hostile.clone() },
        SnapshotAnswer { size_bytes: whole.len() as i64, bytes: &[], ..hostile.clone() },
        SnapshotAnswer { size_bytes: whole.len() as i64, position: 1, ..hostile.clone() },
        SnapshotAnswer { size_bytes: footer as i64, bytes: &whole[..footer], ..hostile },
    ];
    for case in cases {
        let mut world = World::default();
        world.fetch();
        world.answer(FetchAnswer { snapshot: Some(SNAPSHOT), ..records(&[], 51) });
        world.request();
        world.follower.handle(world.now, FollowerEvent::SnapshotFetched(case.clone()));
        assert_eq!(world.fetch(), (0, 0, 0), "{case:?}");
        assert_eq!(world.troubles.len(), 1, "{case:?}");
        assert!(world.shown.is_none());
    }
}

#[test]
fn what_the_quorum_lost_is_dropped_and_what_was_committed_cannot_be() {
    let mut world = World::default();
    world.fetch();
    let bytes =
        [written::batch(0, 1, &[no_op()]), written::batch(1, 2, &[topic("never-committed")])].concat();
    world.answer(records(&bytes, 1));
    assert_eq!(world.fetch(), (2, 2, 0));
    world.answer(FetchAnswer { diverging: Some(SnapshotId { end_offset: 1, epoch: 1 }), ..records(&[], 1) });
    assert_eq!(world.fetch(), (1, 1, 0));
    world.answer(records(&written::batch(1, 3, &[topic("instead")]), 2));
    world.fetch();
    assert!(world.shown.as_ref().unwrap().topic_id("never-committed").is_none());
    assert_eq!(world.troubles, []);
    world.answer(FetchAnswer { diverging: Some(SnapshotId { end_offset: 1, epoch: 1 }), ..records(&[], 1) });
    assert_eq!(world.fetch(), (0, 0, 0));
    assert!(matches!(world.troubles[..], [Trouble::Diverged { known_end: 2, .. }]));
}

#[test]
fn broken_bytes_start_the_log_over_after_a_pause() {
    let mut world = World::default();
    world.fetch();
    let mut bytes = written::batch(0, 1, &[topic("orders")]);
    *bytes.last_mut().unwrap() ^= 1;
    world.answer(records(&bytes, 1));
    let before = world.now;
    assert_eq!(world.fetch(), (0, 0, 0));
    assert!(world.now > before);
    assert!(matches!(world.troubles[..], [Trouble::Log(_)]));
    let newer = written::batch(0, 1, &[alloc::vec![1, 2, 9, 0]]);
    world.answer(records(&newer, 1));
    world.fetch();
    assert!(matches!(world.troubles[1..], [Trouble::Record { offset: 0, .. }]));
}
