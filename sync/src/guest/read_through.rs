//! What followers lack and we gave up: which piece is read next, from whom, and when it is tried again.
//!
//! ```text
//!   wanted ──▶ queue ──▶ reading from the source ──▶ read: a follower gets it
//!                ▲             │ failed: trimmed there, unreachable, not what we had
//!                └── pause ◀───┴──▶ reading from a follower that has it, next time; and in turns from then on
//! ```
//! The source is asked first, but for a compacted topic, of which it may have less by now than every follower; in turns with the follower that is furthest ahead, because either may be gone for
//! long. When both failed the operator is told, once, and the reading goes on: a follower waits as long as it
//! takes, for it is never given a log with a hole.
//!
//! Owns the order and the pauses. It never sees a byte: whether what was read is what it should be is for who
//! reads to say. Invariants: one piece is read at a time; a piece is in the queue once, whoever wants it; what
//! nobody asked for again within [`FORGOTTEN_NS`] is forgotten, for its follower is served elsewhere or gone.

use crate::backoff::Backoff;
use crate::{Nanoseconds, SECOND};
use alloc::collections::{BTreeMap, VecDeque};
use twinlog_log_segment::offset::Offset;

/// Pieces that wait at most: followers ask again for what found no place. Raised, a broker that returns with
/// thousands of partitions costs a longer search for each of them.
pub const QUEUE_MAX: usize = 4_096;

/// A piece that is wanted is asked for again at least every 30 s.
pub const FORGOTTEN_NS: Nanoseconds = 90 * SECOND;

/// A piece of a partition's log, from the batch that holds `from` on, of whole batches that begin below `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub slot: u32,
    pub from: Offset,
    pub to: Offset,
    /// About so much of it.
    pub bytes_max: u32,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    /// Whoever leads the partition there.
    Source,
    /// This broker of the destination, as a consumer asks (ref: KIP-392).
    Follower(i32),
}

/// Why a piece was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// No leader, no connection, an error that passes, no memory, nothing sent.
    Unavailable,
    /// The log begins above it there.
    Trimmed,
    /// Not whole, not in order, or of another epoch than the one that we had there.
    Different,
}

/// The trouble with one partition.
#[derive(Debug)]
struct Trouble {
    source: Option<ReadFailure>,
    follower: Option<ReadFailure>,
    source_next: bool,
    backoff: Backoff,
    not_before: Nanoseconds,
    told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    piece: Piece,
    wanted_at: Nanoseconds,
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct ReadThrough {
    queue: VecDeque<Waiting>,
    reading: Option<(Waiting, Provider)>,
    troubles: BTreeMap<u32, Trouble>,
}

/// What the operator is to be told: neither has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub source: ReadFailure,
    /// `None`: no follower has it.
    pub follower: Option<ReadFailure>,
}

impl ReadThrough {
    /// A follower stands at the beginning of this piece.
    pub fn want(&mut self, now: Nanoseconds, piece: Piece) {
        let same = |waiting: &Waiting| (waiting.piece.slot, waiting.piece.from) == (piece.slot, piece.from);
        if let Some((reading, _)) = self.reading.as_mut().filter(|(reading, _)| same(reading)) {
            reading.wanted_at = now;
        } else if let Some(waiting) = self.queue.iter_mut().find(|waiting| same(waiting)) {
            *waiting = Waiting { piece, wanted_at: now };
        } else if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(Waiting { piece, wanted_at: now });
        }
    }

    /// What to read now, if nothing is being read. `ahead` names the follower of a slot that has an offset;
    /// `is_compacted` says of a slot that its source takes records out of its log.
    pub fn start(
        &mut self,
        now: Nanoseconds,
        ahead: impl Fn(u32, Offset) -> Option<i32>,
        is_compacted: impl Fn(u32) -> bool,
    ) -> Option<(Piece, Provider)> {
        if self.reading.is_some() {
            return None;
        }
        self.queue.retain(|waiting| now < waiting.wanted_at.saturating_add(FORGOTTEN_NS));
        let due = |waiting: &Waiting| {
            self.troubles.get(&waiting.piece.slot).is_none_or(|trouble| now >= trouble.not_before)
        };
        let index = self.queue.iter().position(due)?;
        let waiting = self.queue.remove(index).expect("just found");
        let piece = waiting.piece;
        let trouble = self.troubles.get(&piece.slot);
        let source_next = trouble.map_or(!is_compacted(piece.slot), |trouble| trouble.source_next);
        let follower = if source_next { None } else { ahead(piece.slot, piece.from) };
        let provider = follower.map_or(Provider::Source, Provider::Follower);
        self.reading = Some((waiting, provider));
        Some((piece, provider))
    }

    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// The piece was read, or there is nothing in it.
    pub fn succeeded(&mut self) {
        let (waiting, _) = self.reading.take().expect("something is being read");
        let slot = waiting.piece.slot;
        if let Some(trouble) = self.troubles.get_mut(&slot) {
            // Who had this piece has the next one too.
            trouble.backoff.reset();
            (trouble.not_before, trouble.told) = (0, false);
            if trouble.source_next {
                self.troubles.remove(&slot);
            }
        }
    }

    /// The piece was not read; it is tried again elsewhere. Says so once when nobody has it.
    pub fn failed(&mut self, now: Nanoseconds, why: ReadFailure, has_follower: bool) -> Option<Stuck> {
        let (waiting, provider) = self.reading.take().expect("something is being read");
        let slot = waiting.piece.slot;
        let trouble = self.troubles.entry(slot).or_insert_with(|| Trouble {
            source: None,
            follower: None,
            source_next: true,
            backoff: Backoff::new(u64::from(slot)),
            not_before: 0,
            told: false,
        });
        match provider {
            Provider::Source => trouble.source = Some(why),
            Provider::Follower(_) => trouble.follower = Some(why),
        }
        trouble.source_next = provider != Provider::Source || !has_follower;
        if !has_follower {
            trouble.follower = None;
        }
        trouble.not_before = now + trouble.backoff.pause();
        self.queue.push_back(waiting);
        let source = trouble.source.filter(|_| trouble.follower.is_some() || !has_follower)?;
        (!core::mem::replace(&mut trouble.told, true)).then_some(Stuck { source, follower: trouble.follower })
    }

    /// The partition is not served here any more. What is being read of it is given up by who reads.
    pub fn forget(&mut self, slot: u32) {
        self.queue.retain(|waiting| waiting.piece.slot != slot);
        self.troubles.remove(&slot);
    }

    /// Ends a reading that nobody waits for.
    pub fn give_up(&mut self) {
        self.reading = None;
    }

    /// When the next piece that pauses is due.
    pub fn deadline(&self) -> Option<Nanoseconds> {
        if self.reading.is_some() {
            return None;
        }
        let due = |waiting: &Waiting| {
            self.troubles.get(&waiting.piece.slot).map_or(0, |trouble| trouble.not_before)
        };
        self.queue.iter().map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(slot: u32, from: i64) -> Piece {
        Piece { slot, from: Offset::new(from).unwrap(), to: Offset::new(1_000).unwrap(), bytes_max: 1 << 20 }
    }

    fn nobody(_: u32, _: Offset) -> Option<i32> {
        None
    }

    fn broker_2(_: u32, _: Offset) -> Option<i32> {
        Some(2)
    }

    #[test]
    fn pieces_are_read_from_the_source_one_at_a_time_in_the_order_in_which_they_were_wanted() {
        let mut reads = ReadThrough::default();
        reads.want(0, piece(1, 10));
        reads.want(0, piece(2, 20));
        reads.want(1, piece(1, 10));
        assert_eq!(reads.start(2, broker_2, |_| false), Some((piece(1, 10), Provider::Source)));
        assert_eq!(reads.start(2, broker_2, |_| false), None);
        reads.want(2, piece(1, 10));
        reads.succeeded();
        assert_eq!(reads.start(3, broker_2, |_| false), Some((piece(2, 20), Provider::Source)));
        reads.succeeded();
        assert_eq!((reads.start(3, broker_2, |_| false), reads.deadline()), (None, None));
    }

    #[test]
    fn what_the_source_trimmed_is_read_from_a_follower_that_has_it() {
        let mut reads = ReadThrough::default();
        reads.want(0, piece(1, 10));
        reads.start(0, broker_2, |_| false);
        assert_eq!(reads.failed(0, ReadFailure::Trimmed, true), None);
        let due = reads.deadline().unwrap();
        assert!(due > 0 && reads.start(due - 1, broker_2, |_| false).is_none());
        assert_eq!(reads.start(due, broker_2, |_| false), Some((piece(1, 10), Provider::Follower(2))));
        reads.succeeded();
        // The next piece is asked of it at once.
        reads.want(due, piece(1, 50));
        assert_eq!(reads.start(due, broker_2, |_| false), Some((piece(1, 50), Provider::Follower(2))));
    }

    #[test]
    fn the_operator_is_told_once_when_nobody_has_it_and_it_is_tried_for_ever() {
        let mut reads = ReadThrough::default();
        let mut now = 0;
        let (mut told, mut asked) = (0, BTreeMap::new());
        for _ in 0..40 {
            reads.want(now, piece(1, 10));
            let (_, provider) = reads.start(now, broker_2, |_| false).unwrap();
            *asked.entry(provider).or_insert(0) += 1;
            told += i32::from(reads.failed(now, ReadFailure::Unavailable, true).is_some());
            now = reads.deadline().unwrap();
        }
        assert_eq!(told, 1);
        assert_eq!(asked, BTreeMap::from([(Provider::Source, 20), (Provider::Follower(2), 20)]));
        // Once more after it went well in between.
        reads.start(now, broker_2, |_| false).unwrap();
        reads.succeeded();
        reads.want(now, piece(1, 90));
        reads.start(now, nobody, |_| false).unwrap();
        let stuck = reads.failed(now, ReadFailure::Trimmed, false).unwrap();
        assert_eq!(stuck, Stuck { source: ReadFailure::Trimmed, follower: None });
    }

    #[test]
    fn what_nobody_wants_any_more_is_forgotten() {
        let mut reads = ReadThrough::default();
        reads.want(0, piece(1, 10));
        reads.want(0, piece(2, 10));
        reads.forget(1);
        assert_eq!(reads.start(FORGOTTEN_NS, nobody, |_| false), None);
        (0..2 * QUEUE_MAX as i64).for_each(|from| reads.want(0, piece(1, from)));
        assert_eq!(reads.queue.len(), QUEUE_MAX);
    }

    proptest! {
        #[test]
        fn a_piece_that_somebody_has_is_read_at_last(
            failures in prop::collection::vec(any::<bool>(), 0..30),
            source_has_it in any::<bool>(),
        ) {
            let mut reads = ReadThrough::default();
            let (mut now, mut failures) = (0, failures.into_iter());
            reads.want(now, piece(1, 10));
            for _ in 0..64 {
                reads.want(now, piece(1, 10));
                now = now.max(reads.deadline().expect("it is wanted"));
                let (_, provider) = reads.start(now, broker_2, |_| false).expect("it is due");
                let has_it = source_has_it == (provider == Provider::Source);
                if has_it && !failures.next().unwrap_or(false) {
                    reads.succeeded();
                    return Ok(());
                }
                reads.failed(now, ReadFailure::Trimmed, true);
            }
            prop_assert!(false, "it is never read");
        }
    }

    #[test]
    fn what_a_compacted_source_may_have_dropped_is_read_from_followers_first() {
        let mut reads = ReadThrough::default();
        reads.want(0, piece(1, 10));
        let compacted = |slot| slot == 1;
        assert_eq!(reads.start(0, broker_2, compacted), Some((piece(1, 10), Provider::Follower(2))));
        reads.failed(0, ReadFailure::Unavailable, true);
        let due = reads.deadline().unwrap();
        assert_eq!(reads.start(due, broker_2, compacted), Some((piece(1, 10), Provider::Source)));
        reads.give_up();
        reads.forget(1);
        reads.want(due, piece(1, 10));
        assert_eq!(
            reads.start(due, nobody, compacted),
            Some((piece(1, 10), Provider::Source)),
            "nobody has it"
        );
    }
}
