//! The machines of lag against models that forget nothing.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const SILENCE: Nanoseconds = 10 * SECOND;

/// The time when each record was first seen.
#[derive(Default)]
struct Model {
    seen_at: Vec<Nanoseconds>,
    unaged_below: i64,
    confirmed_at: Option<Nanoseconds>,
    reached: i64,
}

impl Model {
    fn observe(&mut self, now: Nanoseconds, end: i64) {
        let is_new = self.confirmed_at.is_none_or(|at| now - at <= SILENCE);
        let time = if is_new { now } else { self.confirmed_at.unwrap() };
        if self.confirmed_at.is_none() {
            self.unaged_below = end;
        }
        self.unaged_below = self.unaged_below.min(end);
        self.seen_at.resize(end as usize, time);
        self.confirmed_at = Some(now);
    }

    fn age(&self, now: Nanoseconds) -> Option<Age> {
        self.confirmed_at?;
        Some(self.seen_at.get(self.reached as usize).map_or_else(Age::default, |at| Age {
            nanoseconds: now - at,
            at_least: self.reached < self.unaged_below,
        }))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grow { after_ms: u64, records: i64 },
    Lose { after_ms: u64, records: i64 },
    Confirm { after_ms: u64 },
    Deliver { after_ms: u64, part: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_000_u64, 0..50_i64).prop_map(|(after_ms, records)| Step::Grow { after_ms, records }),
        1 => (0..20_000_u64, 0..50_i64).prop_map(|(after_ms, records)| Step::Grow { after_ms, records }),
        1 => (0..4_000_u64, 0..80_i64).prop_map(|(after_ms, records)| Step::Lose { after_ms, records }),
        1 => (0..20_000_u64).prop_map(|after_ms| Step::Confirm { after_ms }),
        2 => (0..4_000_u64, 0..=100_u8).prop_map(|(after_ms, part)| Step::Deliver { after_ms, part }),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn an_age_is_never_under_estimated_and_the_ring_is_bounded(steps in steps()) {
        let (mut machine, mut model) = (Observations::default(), Model::default());
        let (mut now, mut end, mut ends_seen) = (SECOND, 0_i64, 0);
        prop_assert_eq!(machine.age(now), None);
        for step in steps {
            let (Step::Grow { after_ms, .. }
            | Step::Lose { after_ms, .. }
            | Step::Confirm { after_ms }
            | Step::Deliver { after_ms, .. }) = step;
            now += after_ms * crate::MILLISECOND;
            match step {
                Step::Grow { records, .. } => end += records,
                // What is delivered is never lost at the source without the copy being cut as well.
                Step::Lose { records, .. } => end = (end - records).max(model.reached),
                Step::Confirm { .. } => {
                    machine.confirm(now);
                    model.confirmed_at = model.confirmed_at.map(|_| now);
                }
                Step::Deliver { part, .. } => {
                    let known = model.seen_at.len() as i64;
                    let reached = model.reached + (known - model.reached) * i64::from(part) / 100;
                    let mut told = 0;
                    machine.reach(now, reached, |delivery| told += delivery.records);
                    prop_assert!(told <= (reached - model.reached) as u64 + 10_000);
                    model.reached = reached;
                }
            }
            if matches!(step, Step::Grow { .. } | Step::Lose { .. }) {
                ends_seen += 1;
                machine.observe(now, end, SILENCE);
                model.observe(now, end);
            }
            prop_assert!(machine.ring.len() <= OBSERVATIONS_MAX);
            match (machine.age(now), model.age(now)) {
                (Some(told), Some(truth)) => {
                    prop_assert!(told.nanoseconds >= truth.nanoseconds, "{:?} < {:?}", told, truth);
                    prop_assert_eq!(told.at_least, truth.at_least);
                    let missing = model.reached < model.seen_at.len() as i64;
                    prop_assert_eq!(machine.is_behind(), missing);
                    if ends_seen <= OBSERVATIONS_MAX {
                        prop_assert_eq!(told, truth, "nothing was merged yet");
                    }
                }
                (told, truth) => prop_assert_eq!(told, truth),
            }
        }
    }

    #[test]
    fn received_bytes_are_never_under_counted(
        batches in proptest::collection::vec((1..20_i64, 1..2_000_u64, 0..=100_u8), 1..200)
    ) {
        let mut machine = Received::default();
        machine.mark(0, 0);
        // Bytes of each record, that of a batch on its first.
        let (mut sizes, mut reached): (Vec<u64>, usize) = (Vec::new(), 0);
        for (records, bytes, part) in batches {
            sizes.push(bytes);
            sizes.extend((1..records).map(|_| 0));
            let all: u64 = sizes.iter().sum();
            machine.mark(sizes.len() as i64, all);
            reached += (sizes.len() - reached) * usize::from(part) / 100;
            machine.reach(reached as i64);
            let truth: u64 = sizes[reached..].iter().sum();
            let told = machine.missing(sizes.len() as i64, all).unwrap();
            prop_assert!(told.bytes >= truth, "{:?} < {}", told, truth);
            prop_assert!(told.is_estimate || told.bytes == truth, "{:?} is not {}", told, truth);
            prop_assert!(machine.marks.len() <= MARKS_MAX);
            let beyond = machine.missing(sizes.len() as i64 + 10, all).unwrap();
            prop_assert!(beyond.is_estimate && beyond.bytes >= told.bytes);
        }
    }
}

#[test]
fn what_was_there_before_anybody_looked_is_at_least_as_old_as_the_first_look() {
    let mut machine = Observations::default();
    machine.observe(5 * SECOND, 100, SILENCE);
    machine.reach(5 * SECOND, 40, |_| panic!("its age is not known"));
    machine.observe(7 * SECOND, 110, SILENCE);
    assert_eq!(machine.age(9 * SECOND), Some(Age { nanoseconds: 4 * SECOND, at_least: true }));
    machine.reach(10 * SECOND, 100, |_| panic!("neither is this one's"));
    assert_eq!(machine.age(10 * SECOND), Some(Age { nanoseconds: 3 * SECOND, at_least: false }));
    let mut told = Vec::new();
    machine.reach(11 * SECOND, 110, |delivery| told.push(delivery));
    assert_eq!(told, [Delivery { records: 10, age: 4 * SECOND }]);
    assert_eq!(machine.age(11 * SECOND), Some(Age::default()));
}

#[test]
fn what_appears_after_a_silence_may_be_as_old_as_the_silence() {
    let mut machine = Observations::default();
    machine.observe(SECOND, 0, SILENCE);
    machine.observe(61 * SECOND, 5, SILENCE);
    assert_eq!(machine.age(61 * SECOND), Some(Age { nanoseconds: 60 * SECOND, at_least: false }));
    let mut confirmed = Observations::default();
    confirmed.observe(SECOND, 0, SILENCE);
    confirmed.confirm(60 * SECOND);
    confirmed.observe(61 * SECOND, 5, SILENCE);
    assert_eq!(confirmed.age(61 * SECOND), Some(Age::default()));
}

#[test]
fn a_copy_that_was_cut_misses_records_of_unknown_age() {
    let mut machine = Observations::default();
    machine.observe(SECOND, 100, SILENCE);
    machine.reach(2 * SECOND, 100, |_| {});
    machine.reach(3 * SECOND, 60, |_| {});
    assert_eq!(machine.age(8 * SECOND), Some(Age { nanoseconds: 5 * SECOND, at_least: true }));
}

#[test]
fn a_log_that_was_never_seen_has_no_mean() {
    let mut machine = Received::default();
    assert_eq!(machine.missing(10, 0), None);
    machine.mark(5, 0);
    machine.reach(5);
    assert_eq!(machine.missing(5, 0), Some(Bytes { bytes: 0, is_estimate: false }));
    assert_eq!(machine.missing(10, 0), None, "no byte of it was ever received");
}

#[test]
fn what_is_counted_from_the_beginning_has_a_mean_at_once_and_a_jump_is_no_part_of_it() {
    let mut machine = Received::default();
    machine.begin(0, 0);
    machine.mark(300, 30_000);
    machine.reach(300);
    let ten = Some(Bytes { bytes: 1_000, is_estimate: true });
    assert_eq!(machine.missing(310, 30_000), ten);
    machine.begin(900_000, 30_000);
    machine.reach(900_000);
    assert_eq!(machine.missing(900_010, 30_000), ten);
}

#[test]
fn peaks_are_kept_for_a_day_and_not_longer() {
    let mut worst = Worst::default();
    assert_eq!(worst.of_last(0, 60), None);
    worst.record(0, 9);
    for minute in 1..3_000_u64 {
        worst.record(minute * PART, minute % 7);
    }
    let now = 2_999 * PART;
    assert_eq!(worst.parts.len(), PARTS_MAX);
    assert_eq!((worst.of_last(now, 60), worst.of_last(now, 24 * 60)), (Some(6), Some(6)));
    worst.record(now + 1, 50);
    assert_eq!(worst.of_last(now + 59 * PART, 60), Some(50));
    assert_eq!(worst.of_last(now + 60 * PART, 60), None);
}
