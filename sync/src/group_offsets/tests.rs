//! What becomes of a group, one case at a time.

use super::*;
use crate::SECOND;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// A destination and a source that do as they are told.
struct Pair {
    machine: GroupOffsets,
    now: Nanoseconds,
    source: Vec<(i32, i64, &'static str)>,
    there: Vec<(i32, i64, &'static str)>,
    live_at_source: bool,
    live_there: bool,
    bound: Option<Bound>,
    writes: usize,
    /// What a whole commit is answered with.
    refused: Option<i16>,
    remembered: Vec<(i32, i64)>,
}

fn told<'a>(positions: &'a [(i32, i64, &'static str)]) -> impl Iterator<Item = Position<'a>> + 'a {
    let position = |(index, offset, metadata): &(i32, i64, &'static str)| Position {
        topic: "orders",
        index: *index,
        offset: *offset,
        metadata,
        code: 0,
    };
    positions.iter().map(position)
}

impl Pair {
    fn new(source: &[(i32, i64, &'static str)]) -> Self {
        Self {
            machine: GroupOffsets::new(Rules { prefix: "west.".into(), recommit_after: 100 * SECOND }),
            now: 0,
            source: source.to_vec(),
            there: Vec::new(),
            live_at_source: false,
            live_there: false,
            bound: Some(Bound { log_start: 0, delivered: 1_000 }),
            writes: 0,
            refused: None,
            remembered: Vec::new(),
        }
    }

    /// The machine begins anew with what it remembers.
    fn restart(&mut self) {
        self.machine = GroupOffsets::new(self.machine.rules().clone());
    }

    fn round(&mut self) -> Verdict {
        let machine = &mut self.machine;
        self.now += SECOND;
        machine.round_begins(self.now);
        machine.source_listing_begins();
        let number = machine.listed_at_source("app", GroupKind::Consumer, self.live_at_source).unwrap();
        machine.source_listing_ends(true);
        machine.destination_listing_begins();
        if self.live_there || !self.there.is_empty() {
            machine.listed_at_destination("west.app", self.live_there);
        }
        machine.destination_listing_ends(true);
        if machine.source_read(self.now, number, Ok(told(&self.source))) {
            for partition in machine.partitions_of(&[number]) {
                machine.sampled(partition, self.bound);
            }
            let to_read = machine.to_read_at_destination(&[number]);
            for number in machine.to_recall(&to_read) {
                let rows = self.remembered.iter().map(|(index, offset)| ("orders", *index, *offset));
                machine.recalled(number, rows);
            }
            for number in to_read {
                assert_eq!(machine.destination_name(number), "west.app");
                machine.destination_read(self.now, number, Ok(told(&self.there)));
            }
            if let Some(commit) = machine.commit(number) {
                self.writes += 1;
                if let Some(code) = self.refused {
                    machine.committed(self.now, &commit, Err(code));
                } else {
                    for position in &commit.positions {
                        let index = machine.partition(position.partition).1;
                        self.there.retain(|each| each.0 != index);
                        let note = position.metadata.as_deref().map_or("", |_| "note");
                        self.there.push((index, position.offset, note));
                    }
                    let codes = vec![0; commit.positions.len()];
                    machine.committed(self.now, &commit, Ok(&codes));
                }
            }
        }
        for number in machine.take_written() {
            let own = machine.own_positions(number).map(|(_, index, offset)| (index, offset));
            self.remembered = own.collect();
        }
        machine.report(self.now, number).verdict
    }

    fn staleness_ms(&self) -> Option<u64> {
        self.machine.summary(self.now).staleness_ms
    }
}

#[test]
fn what_changed_is_written_once_with_what_stands_beside_it() {
    let mut pair = Pair::new(&[(0, 7, "note"), (1, 9, "")]);
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 7, "note"), (1, 9, "")]);
    assert_eq!((pair.writes, pair.staleness_ms()), (1, Some(0)));
    let writes = pair.writes;
    for _ in 0..20 {
        assert_eq!(pair.round(), Verdict::Synced);
    }
    assert_eq!((pair.writes, pair.staleness_ms()), (writes, Some(0)));
    pair.source[1].1 = 12;
    pair.round();
    assert_eq!((pair.writes, pair.there.contains(&(1, 12, ""))), (writes + 1, true));
}

#[test]
fn a_reset_while_nobody_ran_is_followed_where_the_destination_holds_what_was_written() {
    let mut pair = Pair::new(&[(0, 70, ""), (1, 80, "")]);
    pair.round();
    // Somebody goes on to another place in one of two.
    pair.there.iter_mut().filter(|each| each.0 == 1).for_each(|each| each.1 = 85);
    pair.source = vec![(0, 5, ""), (1, 6, "")];
    pair.restart();
    assert_eq!(pair.round(), Verdict::BackAtSource, "it is seen for the first time");
    pair.round();
    assert_eq!(pair.round(), Verdict::AheadAtDestination, "what another hand wrote stays");
    pair.there.sort_unstable();
    assert_eq!(pair.there, [(0, 5, ""), (1, 85, "")]);
}

#[test]
fn a_reset_while_nobody_ran_is_followed_where_the_log_is_known_late() {
    let mut pair = Pair::new(&[(0, 70, "")]);
    pair.round();
    let bound = pair.bound.take();
    pair.source = vec![(0, 5, "")];
    pair.restart();
    for _ in 0..3 {
        assert_eq!(pair.round(), Verdict::NotMirrored);
    }
    pair.bound = bound;
    // Topics that are not mirrored are looked at in some rounds only.
    for _ in 0..10 {
        pair.round();
    }
    assert_eq!((pair.round(), pair.there.clone()), (Verdict::Synced, vec![(0, 5, "")]));
}

#[test]
fn a_reset_while_nobody_ran_waits_until_nobody_is_in_the_group() {
    let mut pair = Pair::new(&[(0, 70, "")]);
    pair.round();
    (pair.source, pair.live_at_source) = (vec![(0, 5, "")], true);
    pair.restart();
    for _ in 0..4 {
        assert_eq!(pair.round(), Verdict::BackAtSource);
    }
    pair.live_at_source = false;
    assert_eq!((pair.round(), pair.there.clone()), (Verdict::Synced, vec![(0, 5, "")]));
}

#[test]
fn without_memory_a_position_ahead_of_the_source_is_somebody_elses() {
    let mut pair = Pair::new(&[(0, 70, "")]);
    pair.round();
    pair.source = vec![(0, 5, "")];
    pair.remembered.clear();
    pair.restart();
    for _ in 0..4 {
        assert_eq!(pair.round(), Verdict::AheadAtDestination);
    }
    // Moved up to the log's start it is behind without having gone back.
    let mut trimmed = Pair::new(&[(0, 5, "")]);
    trimmed.bound = Some(Bound { log_start: 10, delivered: 1_000 });
    trimmed.round();
    trimmed.restart();
    for _ in 0..4 {
        assert_eq!(trimmed.round(), Verdict::Synced);
    }
    assert_eq!(trimmed.there, [(0, 10, "")]);
}

#[test]
fn a_position_ahead_of_the_data_is_held_back_and_released_as_data_arrives() {
    let mut pair = Pair::new(&[(0, 70, "note")]);
    pair.bound = Some(Bound { log_start: 0, delivered: 50 });
    assert_eq!(pair.round(), Verdict::HeldBack);
    assert_eq!((pair.there.as_slice(), pair.staleness_ms()), ([(0, 50, "")].as_slice(), None));
    pair.bound = Some(Bound { log_start: 0, delivered: 69 });
    assert_eq!(pair.round(), Verdict::HeldBack);
    assert_eq!(pair.there, [(0, 69, "")]);
    pair.bound = Some(Bound { log_start: 0, delivered: 90 });
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!((pair.there.as_slice(), pair.staleness_ms()), ([(0, 70, "note")].as_slice(), Some(0)));
}

#[test]
fn a_position_below_the_start_of_the_log_is_moved_to_it_and_written_no_more() {
    let mut pair = Pair::new(&[(0, 5, "note")]);
    pair.bound = Some(Bound { log_start: 40, delivered: 50 });
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 40, "")]);
    pair.round();
    let writes = pair.writes;
    pair.round();
    assert_eq!(pair.writes, writes);
}

#[test]
fn a_topic_that_is_not_mirrored_waits_until_it_is() {
    let mut pair = Pair::new(&[(0, 5, "")]);
    pair.bound = None;
    assert_eq!(pair.round(), Verdict::NotMirrored);
    pair.bound = Some(Bound { log_start: 0, delivered: 50 });
    let looks = WAITING_LOOK_INTERVAL / SECOND + 1;
    for _ in 0..looks {
        pair.round();
    }
    assert_eq!(pair.there, [(0, 5, "")]);
}

#[test]
fn a_reset_is_followed_when_it_was_seen_twice_and_nobody_was_in_the_group() {
    let mut pair = Pair::new(&[(0, 500, "")]);
    pair.round();
    pair.source[0].1 = 20;
    assert_eq!(pair.round(), Verdict::BackAtSource, "an answer of a coordinator that lags looks alike");
    assert_eq!(pair.there, [(0, 500, "")]);
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 20, "")]);
    let rewinds = pair.machine.take_rewinds();
    assert_eq!((rewinds[0].from, rewinds[0].to, rewinds[0].truncated), (500, 20, false));
    // A consumer that jumps back by itself is not followed until it leaves.
    pair.source[0].1 = 300;
    pair.round();
    (pair.live_at_source, pair.source[0].1) = (true, 100);
    for _ in 0..5 {
        assert_eq!(pair.round(), Verdict::BackAtSource);
    }
    assert_eq!(pair.there, [(0, 300, "")]);
    pair.live_at_source = false;
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 100, "")]);
}

#[test]
fn nothing_is_overwritten_blindly_and_what_others_wrote_stays_while_it_is_ahead() {
    let mut pair = Pair::new(&[(0, 50, "")]);
    pair.there = vec![(0, 80, "")];
    for _ in 0..4 {
        assert_eq!(pair.round(), Verdict::AheadAtDestination);
    }
    assert_eq!((pair.there.as_slice(), pair.writes), ([(0, 80, "")].as_slice(), 0));
    pair.source[0].1 = 81;
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 81, "")]);
    // Somebody goes on there between two rounds, unseen: the change of the source does not take it back.
    pair.there = vec![(0, 120, "")];
    pair.source[0].1 = 90;
    assert_eq!(pair.round(), Verdict::AheadAtDestination);
    assert_eq!(pair.there, [(0, 120, "")]);
}

#[test]
fn a_group_that_is_active_at_the_destination_is_left_alone_and_goes_on_when_it_is_empty() {
    let mut pair = Pair::new(&[(0, 50, "")]);
    pair.round();
    (pair.live_there, pair.source[0].1) = (true, 60);
    assert_eq!(pair.round(), Verdict::ActiveAtDestination);
    assert_eq!(pair.there, [(0, 50, "")]);
    pair.live_there = false;
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 60, "")]);
    // One that nobody listed yet is found out by the refusal.
    (pair.refused, pair.source[0].1) = (Some(25), 70);
    assert_eq!(pair.round(), Verdict::ActiveAtDestination);
    pair.refused = None;
    assert_eq!(pair.round(), Verdict::Synced);
    assert_eq!(pair.there, [(0, 70, "")]);
}

#[test]
fn refusals_are_told_by_group_and_tried_again() {
    for code in [14, 15, 16, 30] {
        let mut pair = Pair::new(&[(0, 50, "")]);
        pair.refused = Some(code);
        assert_eq!(pair.round(), Verdict::NotWritable { code });
        pair.refused = None;
        assert_eq!(pair.round(), Verdict::Synced);
        let number = pair.machine.number("app").unwrap();
        let nothing = core::iter::empty();
        pair.machine.source_read(pair.now, number, Err(code).map(|()| nothing));
        assert_eq!(pair.machine.report(pair.now, number).verdict, Verdict::NotReadable { code });
        assert_eq!(pair.round(), Verdict::Synced);
    }
}

#[test]
fn a_truncation_takes_positions_to_its_cut_until_the_source_moves_them() {
    let mut pair = Pair::new(&[(0, 500, "")]);
    pair.round();
    pair.machine.truncated("orders", 0, 400);
    pair.bound = Some(Bound { log_start: 0, delivered: 400 });
    pair.round();
    assert_eq!(pair.there, [(0, 400, "")]);
    assert!(pair.machine.take_rewinds()[0].truncated);
    // The log grows past it: what is there now is not what the group had read.
    pair.bound = Some(Bound { log_start: 0, delivered: 900 });
    pair.round();
    assert_eq!(pair.there, [(0, 400, "")]);
    pair.source[0].1 = 395;
    pair.live_at_source = true;
    pair.round();
    assert_eq!(pair.there, [(0, 395, "")], "the source's own word on it");
}

#[test]
fn a_group_that_was_deleted_at_the_destination_returns_with_a_change_at_the_source_only() {
    let mut pair = Pair::new(&[(0, 50, ""), (1, 60, "")]);
    pair.round();
    pair.there.clear();
    for _ in 0..200 {
        assert_eq!(pair.round(), Verdict::DeletedAtDestination);
    }
    assert!(pair.there.is_empty(), "not even lest it expires");
    pair.source[0].1 = 51;
    assert_eq!(pair.round(), Verdict::Synced);
    pair.there.sort_unstable();
    assert_eq!(pair.there, [(0, 51, ""), (1, 60, "")]);
}

#[test]
fn an_unchanged_group_is_written_again_well_inside_the_retention() {
    const WRITES: usize = 5;
    let mut pair = Pair::new(&[(0, 50, ""), (1, 2_000, "")]);
    let mut written_at = Vec::new();
    for _ in 0..450 {
        let before = pair.writes;
        pair.round();
        if pair.writes > before {
            written_at.push(pair.now);
        }
    }
    let gaps: Vec<u64> = written_at.windows(2).map(|pair| (pair[1] - pair[0]) / SECOND).collect();
    assert!(gaps.iter().all(|gap| *gap <= 101) && written_at.len() == WRITES, "{gaps:?}");
    assert!(450 * SECOND - written_at[WRITES - 1] < 100 * SECOND);
    // When what was there at the start was written is not known: it is written at once.
    let mut pair = Pair::new(&[(0, 50, "")]);
    pair.there = pair.source.clone();
    pair.round();
    pair.round();
    assert_eq!(pair.writes, 1);
}

#[test]
fn a_group_is_gone_only_when_its_coordinator_says_so() {
    let mut pair = Pair::new(&[(0, 50, "")]);
    pair.round();
    let number = pair.machine.number("app").unwrap();
    for complete in [true, false, true, false] {
        pair.machine.source_listing_begins();
        assert!(pair.machine.source_listing_ends(complete).is_empty());
    }
    pair.machine.source_listing_begins();
    assert_eq!(pair.machine.source_listing_ends(true), [number]);
    pair.machine.gone_at_source(number);
    let report = pair.machine.report(pair.now, number);
    assert_eq!((report.verdict, report.positions), (Verdict::GoneAtSource, 0));
    assert_eq!(pair.round(), Verdict::Synced, "and it may come back");
    pair.machine.gone_at_source(number);
    pair.source[0].1 = 20;
    assert_eq!(pair.round(), Verdict::BackAtSource);
    assert_eq!((pair.round(), pair.there[0].1), (Verdict::Synced, 20), "also with a lower position");
    pair.machine.gone_at_source(number);
    pair.machine.forget_gone(pair.now + 3_600 * SECOND);
    assert_eq!((pair.machine.number("app"), pair.machine.memory_bytes()), (None, 0));
}

#[test]
fn share_groups_are_told_and_not_copied() {
    let mut machine = GroupOffsets::new(Rules::default());
    assert_eq!(machine.listed_at_source("shared", GroupKind::parse("Share"), true), None);
    let number = machine.number("shared").unwrap();
    assert_eq!(machine.report(0, number).verdict, Verdict::NotSupported);
}

#[test]
fn another_order_of_positions_is_no_change_of_any() {
    let mut pair = Pair::new(&[(0, 1, ""), (1, 2, ""), (2, 3, "")]);
    pair.round();
    pair.round();
    let writes = pair.writes;
    for order in [[2, 0, 1], [1, 2, 0], [0, 1, 2]] {
        pair.source = order.iter().map(|index| (*index, i64::from(*index) + 1, "")).collect();
        assert_eq!(pair.round(), Verdict::Synced);
    }
    // One is taken away at the source: it stays at the destination, and comes back as it was.
    pair.source.truncate(2);
    pair.round();
    assert_eq!((pair.writes, pair.there.len()), (writes, 3));
    pair.source.push((2, 4, ""));
    pair.round();
    assert!(pair.there.contains(&(2, 4, "")));
}

#[test]
fn memory_is_bounded_and_says_so() {
    let mut machine = GroupOffsets::new(Rules::default());
    let metadata = "m".repeat(60_000);
    let mut left_out = 0;
    for index in 0..1_400 {
        machine.source_listing_begins();
        let Some(number) = machine.listed_at_source(&format!("g{index}"), GroupKind::Classic, false) else {
            left_out += 1;
            continue;
        };
        let position = Position { topic: "t", index: 0, offset: 1, metadata: &metadata, code: 0 };
        machine.source_read(0, number, Ok([position].into_iter()));
    }
    assert!(machine.memory_bytes() < MEMORY_BYTES_MAX + 100_000 && left_out > 100, "{left_out}");
}
