//! A new host with an empty store takes over mirror topics that have followers: where its log begins.
//!
//! What followers hold need not be fetched again. As many of them as make a record durable hold everything below
//! the *joint*; our log begins there, the brokers behind it read the rest through us, and those ahead of it wait.
//!
//! ```text
//!   broker 3   ───────────────▶|                 reads through
//!   broker 1   ─────────────────────▶|           joint: the 2nd of 3, for guest.durable.replicas = 2
//!   broker 2   ────────────────────────▶|        ahead: waits, and is offered the same bytes again
//!   us                               |─ ─ ─      log start, epochs and open transactions are learned from them
//!   source     ────────────────────────────────▶
//! ```
//! [`EpochSearch`] finds which leader epoch the followers' batches carry from where on, in a logarithm of
//! questions: what we stamp behind the joint must be what is stamped there already.
//!
//! What it must never do: begin where the source has nothing, or has something else. Somebody else compares the
//! bytes at the joint and at the farthest end; here only offsets are judged.

use alloc::vec::Vec;
use core::fmt;
use twinlog_log_segment::epoch::{EpochError, EpochHistory};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// What one live stock replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub broker: i32,
    pub start: Offset,
    pub end: Offset,
}

/// Where an empty store begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    pub at: Offset,
    /// Ends exactly there, so that its open transactions are ours. `None` where the source begins later than
    /// its followers end.
    pub witness: Option<Copy>,
    /// Nobody holds more.
    pub farthest: Copy,
}

/// Why an empty store must not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverRefusal {
    /// A broker holds more than the source has.
    BeyondSource { broker: i32, end: Offset, source_end: Offset },
    /// The batch before `at` is another one at the source.
    OtherBytes { broker: i32, at: Offset },
}

impl TakeOverRefusal {
    /// A stable code for status, metrics and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BeyondSource { .. } => "FOLLOWERS_BEYOND_SOURCE",
            Self::OtherBytes { .. } => "FOLLOWERS_DIFFER",
        }
    }
}

impl fmt::Display for TakeOverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondSource { broker, end, source_end } => write!(
                f,
                "our store is empty, broker {broker} of the destination holds records up to {end} and the source \
                 only up to {source_end}: it lost some. Look at the source; then delete the mirror and its data and \
                 create it anew, or fail it over to what the destination holds"
            ),
            Self::OtherBytes { broker, at } => write!(
                f,
                "our store is empty, and the batch before offset {at} is another one on broker {broker} of the \
                 destination than at the source, whose log was cut and written anew, or compacted. Delete the \
                 mirror and its data and create it anew, or fail it over to what the destination holds"
            ),
        }
    }
}

/// Judges what followers hold against the source's log, `start..end`. `None`: they hold nothing, and the log
/// begins where the source's does.
pub fn joint(
    copies: &[Copy],
    (source_start, source_end): (Offset, Offset),
    durable_replicas: u32,
) -> Result<Option<Joint>, TakeOverRefusal> {
    let mut holding: Vec<Copy> = copies.iter().filter(|copy| copy.end > copy.start).copied().collect();
    holding.sort_by_key(|copy| core::cmp::Reverse(copy.end));
    let Some(farthest) = holding.first().copied() else { return Ok(None) };
    if farthest.end > source_end {
        let Copy { broker, end, .. } = farthest;
        return Err(TakeOverRefusal::BeyondSource { broker, end, source_end });
    }
    // A broker that holds nothing counts as one that holds nothing.
    let wanted = (durable_replicas as usize).min(copies.len()).max(1);
    let witness = holding.get(wanted - 1).filter(|copy| copy.end > source_start).copied();
    let at = witness.map_or(source_start, |copy| copy.end);
    Ok(Some(Joint { at, witness, farthest }))
}

/// One batch of a follower's log: the first that ends at or behind the offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub base: Offset,
    pub last: Offset,
    pub epoch: LeaderEpoch,
}

/// A search of the epochs in `start..end` of one log, which holds a batch. See the file's header.
#[derive(Clone, Debug)]
pub struct EpochSearch {
    end: Offset,
    stage: Stage,
    found: EpochHistory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First {
        start: Offset,
    },
    Last {
        first: Probe,
    },
    /// `below` is the last offset known to have the latest epoch found, `above` the first batch known to have a
    /// later one; `to` is where it is looked for, at or below that batch's base.
    Between {
        below: Offset,
        to: Offset,
        above: Probe,
        last: Probe,
    },
    Done,
}

impl EpochSearch {
    pub fn new(start: Offset, end: Offset) -> Self {
        assert!(start < end, "a log from {start} to {end} holds no batch");
        Self { end, stage: Stage::First { start }, found: EpochHistory::new() }
    }

    /// The next offset to ask about; `None` once all is known.
    pub fn next(&self) -> Option<Offset> {
        match self.stage {
            Stage::First { start } => Some(start),
            Stage::Last { .. } => Some(before(self.end)),
            Stage::Between { below, to, .. } => Some(middle(below, to)),
            Stage::Done => None,
        }
    }

    /// What the log holds there. Epochs that go back are an error: it is no log of ours.
    pub fn found(&mut self, probe: Probe) -> Result<(), EpochError> {
        match self.stage {
            Stage::First { start } => {
                self.found.record(probe.epoch, start)?;
                self.stage = Stage::Last { first: probe };
            }
            Stage::Last { first } => self.look_between(first.last, probe)?,
            Stage::Between { below, to, above, last } => {
                let asked = middle(below, to);
                let epoch = self.found.latest().map_or(LeaderEpoch(0), |latest| latest.epoch);
                if probe.epoch > epoch {
                    self.narrow(below, asked.min(probe.base), probe, last)?;
                } else {
                    self.narrow(probe.last.max(asked), to, above, last)?;
                }
            }
            Stage::Done => {}
        }
        Ok(())
    }

    /// All epochs, the first of them from the start on.
    pub fn finish(self) -> EpochHistory {
        self.found
    }

    fn look_between(&mut self, below: Offset, last: Probe) -> Result<(), EpochError> {
        let epoch = self.found.latest().map_or(LeaderEpoch(0), |latest| latest.epoch);
        if last.epoch <= epoch {
            // One that goes back is refused here.
            self.found.record(last.epoch, last.base)?;
            self.stage = Stage::Done;
            return Ok(());
        }
        self.narrow(below, last.base, last, last)
    }

    fn narrow(&mut self, below: Offset, to: Offset, above: Probe, last: Probe) -> Result<(), EpochError> {
        if below.value() + 1 < to.value() {
            self.stage = Stage::Between { below, to, above, last };
            return Ok(());
        }
        self.found.record(above.epoch, above.base)?;
        self.look_between(above.last, last)
    }
}

fn before(end: Offset) -> Offset {
    Offset::new(end.value() - 1).expect("it is above the start of a log")
}

/// Strictly between the two, which are not neighbours.
fn middle(below: Offset, to: Offset) -> Offset {
    Offset::new(below.value() + (to.value() - below.value()) / 2).expect("between two offsets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn copy(broker: i32, start: i64, end: i64) -> Copy {
        Copy { broker, start: at(start), end: at(end) }
    }

    #[test]
    fn a_log_begins_where_enough_brokers_end() {
        let copies = [copy(1, 0, 100), copy(2, 0, 140), copy(3, 0, 30)];
        let found = |durable| joint(&copies, (at(0), at(500)), durable).unwrap().unwrap();
        assert_eq!((found(2).at, found(2).witness), (at(100), Some(copy(1, 0, 100))));
        assert_eq!((found(1).at, found(3).at, found(9).at), (at(140), at(30), at(30)));
        assert_eq!(found(2).farthest.broker, 2);
    }

    #[test]
    fn brokers_that_hold_nothing_make_no_joint() {
        let empty = [copy(1, 0, 0), copy(2, 70, 70)];
        assert_eq!(joint(&empty, (at(0), at(9)), 2), Ok(None));
        assert_eq!(joint(&[], (at(0), at(9)), 2), Ok(None));
        // One of two that are wanted: everything is fetched, but its epochs are known.
        let one = [copy(1, 0, 0), copy(2, 0, 7)];
        let found = joint(&one, (at(0), at(9)), 2).unwrap().unwrap();
        assert_eq!((found.at, found.witness, found.farthest), (at(0), None, copy(2, 0, 7)));
    }

    #[test]
    fn a_source_that_begins_later_is_where_the_log_begins() {
        let copies = [copy(1, 0, 100), copy(2, 0, 100)];
        let found = joint(&copies, (at(100), at(300)), 2).unwrap().unwrap();
        assert_eq!((found.at, found.witness), (at(100), None));
        assert_eq!(joint(&copies, (at(250), at(300)), 2).unwrap().unwrap().at, at(250));
    }

    #[test]
    fn nothing_begins_beyond_the_source() {
        let refused = joint(&[copy(1, 0, 100), copy(2, 0, 101)], (at(0), at(100)), 2).unwrap_err();
        assert_eq!(refused.code(), "FOLLOWERS_BEYOND_SOURCE");
        assert!(alloc::format!("{refused}").contains("broker 2 of the destination holds records up to 101"));
    }

    proptest! {
        #[test]
        fn every_epoch_is_found_where_it_begins(
            batches in proptest::collection::vec((0_i64..4, 1_i64..40, 0..5_i32), 1..120),
            start in 0_i64..1_000,
        ) {
            let mut log: Vec<Probe> = Vec::new();
            let (mut next, mut epoch) = (start, 0);
            for (gap, count, raise) in batches {
                // Most batches go on in the epoch before.
                epoch += if raise == 4 { 3 } else { 0 };
                let base = next + gap;
                log.push(Probe { base: at(base), last: at(base + count - 1), epoch: LeaderEpoch(epoch) });
                next = base + count;
            }
            let mut wanted = EpochHistory::new();
            wanted.record(log[0].epoch, at(start)).unwrap();
            for batch in &log {
                wanted.record(batch.epoch, batch.base).unwrap();
            }
            let mut search = EpochSearch::new(at(start), at(next));
            let mut questions = 0;
            while let Some(offset) = search.next() {
                let probe = *log.iter().find(|batch| batch.last >= offset).expect("below the end");
                search.found(probe).unwrap();
                questions += 1;
                prop_assert!(questions < 16 * 121);
            }
            prop_assert_eq!(search.finish(), wanted);
        }
    }

    #[test]
    fn a_log_of_one_epoch_costs_two_questions() {
        let mut search = EpochSearch::new(at(5), at(1 << 40));
        let probe = |base: i64| Probe { base: at(base), last: at(base + 9), epoch: LeaderEpoch(2) };
        assert_eq!(search.next(), Some(at(5)));
        search.found(probe(5)).unwrap();
        assert_eq!(search.next(), Some(at((1 << 40) - 1)));
        search.found(probe((1 << 40) - 10)).unwrap();
        assert_eq!(search.next(), None);
        assert_eq!(search.finish().entries().len(), 1);
    }

    #[test]
    fn an_epoch_that_goes_back_is_no_log_of_ours() {
        let mut search = EpochSearch::new(at(0), at(100));
        let probe =
            |base: i64, epoch: i32| Probe { base: at(base), last: at(base), epoch: LeaderEpoch(epoch) };
        search.found(probe(0, 4)).unwrap();
        assert!(search.found(probe(99, 3)).is_err());
    }
}
