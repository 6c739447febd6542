//! Where in its segment files a partition's offsets lie: what a follower's position is turned into.
//!
//! ```text
//!   segment 1000   |b.......b.......b....|            b = a boundary: a batch begins here, and everything
//!   segment 5210   |b.......b..                           below its offset lies before it
//! ```
//! Boundaries are noted while batches are appended, at least [`BOUNDARY_BYTES`] apart, so that an answer of
//! about the size asked for ends between two batches without one header being read. What was stored before
//! the start of the daemon has no boundaries but the beginnings of segments; a walk over headers finds the
//! rest, once per follower, and leaves a boundary behind.
//!
//! Invariants: boundaries of a segment ascend in position and in offset; the first is the segment's start;
//! a position is only ever a batch's first byte or the end of a segment.

use crate::recovery::ClosedSegment;
use std::collections::BTreeMap;
use std::ops::Bound;
use twinlog_log_segment::offset::Offset;

/// Distance of two boundaries at least. Raised, answers overshoot the size that a follower asked for by as
/// much; lowered, a spool of 100 GiB needs more than the 6 MiB that it needs for them now.
pub const BOUNDARY_BYTES: u64 = 256 << 10;

/// A batch boundary: every offset below `offset` lies before `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's base.
    pub segment: Offset,
    pub position: u64,
    pub offset: Offset,
}

/// Where an offset is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// Exactly here.
    At(Place),
    /// In or behind this place: headers tell.
    Behind(Place),
    /// In no segment that is still there.
    Gone,
}

/// Whole batches that lie one behind the other in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub from: Place,
    pub length: u64,
    /// Where the next one begins.
    pub next: Place,
}

/// A closed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub base: Offset,
    pub bytes: u64,
    /// Every offset in it is below.
    pub end: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boundary {
    position: u32,
    offset: Offset,
}

struct Segment {
    boundaries: Vec<Boundary>,
    /// Of a segment that takes no more batches.
    end: Option<Boundary>,
}

/// See the file's header.
pub struct ServedLog {
    segments: BTreeMap<Offset, Segment>,
}

fn boundary(position: u64, offset: Offset) -> Boundary {
    Boundary { position: u32::try_from(position).expect("a segment is below 2 GiB"), offset }
}

impl ServedLog {
    /// A log as recovery left it: `closed` in order, then the active segment up to `position`.
    pub fn recovered(closed: &[ClosedSegment], active: Offset, position: u64, log_end: Offset) -> Self {
        let mut segments = BTreeMap::new();
        for (index, segment) in closed.iter().enumerate() {
            // Where its last batch ends is not known; the next segment's base is not below it.
            let next = closed.get(index + 1).map_or(active, |next| next.base);
            let end = Some(boundary(segment.length, next));
            segments.insert(segment.base, Segment { boundaries: vec![boundary(0, segment.base)], end });
        }
        let mut boundaries = vec![boundary(0, active)];
        if position > 0 {
            boundaries.push(boundary(position, log_end));
        }
        segments.insert(active, Segment { boundaries, end: None });
        Self { segments }
    }

    /// A batch begins at `position` of the active segment; `offset` is what was expected next.
    pub fn batch_begins(&mut self, position: u64, offset: Offset) {
        let mut last = self.segments.last_entry().expect("a log has an active segment");
        let boundaries = &mut last.get_mut().boundaries;
        let before = boundaries.last().expect("a segment has its start");
        if position >= u64::from(before.position) + BOUNDARY_BYTES {
            boundaries.push(boundary(position, offset));
        }
    }

    /// The active segment is complete; the next one begins.
    pub fn rolled(&mut self, position: u64, offset: Offset, next_base: Offset) {
        let mut last = self.segments.last_entry().expect("a log has an active segment");
        if position == 0 && *last.key() != next_base {
            // It never held a batch, and its file goes.
            last.remove();
        } else {
            last.get_mut().end = Some(boundary(position, offset));
        }
        let start = Segment { boundaries: vec![boundary(0, next_base)], end: None };
        self.segments.insert(next_base, start);
    }

    /// A walk found a batch boundary.
    pub fn found(&mut self, place: Place) {
        let Some(segment) = self.segments.get_mut(&place.segment) else { return };
        let index = segment.boundaries.partition_point(|each| u64::from(each.position) < place.position);
        let known =
            segment.boundaries.get(index).is_some_and(|each| u64::from(each.position) == place.position);
        if !known {
            segment.boundaries.insert(index, boundary(place.position, place.offset));
        }
    }

    /// The lowest offset that may be found.
    pub fn start(&self) -> Offset {
        *self.segments.keys().next().expect("a log has an active segment")
    }

    /// Where the batch that holds `offset` begins, or the next one behind a gap.
    pub fn locate(&self, offset: Offset) -> Located {
        let Some((base, segment)) = self.segments.range(..=offset).next_back() else { return Located::Gone };
        if let Some(end) = segment.end
            && offset >= end.offset
        {
            return match self.segments.range(offset..).next() {
                // The gap between two segments.
                Some((next, _)) => Located::At(Place { segment: *next, position: 0, offset: *next }),
                None => Located::Gone,
            };
        }
        let index = segment.boundaries.partition_point(|each| each.offset <= offset) - 1;
        let found = segment.boundaries[index];
        let place = Place { segment: *base, position: found.position.into(), offset: found.offset };
        if found.offset == offset { Located::At(place) } else { Located::Behind(place) }
    }

    /// How many bytes of a segment hold batches; `None` for the active one, whose writer knows.
    pub fn closed_length(&self, segment: Offset) -> Option<u64> {
        self.segments.get(&segment)?.end.map(|end| end.position.into())
    }

    /// Segments that take no more batches, oldest first.
    pub fn closed(&self) -> impl Iterator<Item = Held> + Clone + '_ {
        self.segments.iter().filter_map(|(base, segment)| {
            let end = segment.end?;
            Some(Held { base: *base, bytes: end.position.into(), end: end.offset })
        })
    }

    /// Those behind which another one begins at or below `start`.
    pub fn wholly_below(&self, start: Offset) -> impl Iterator<Item = Held> + '_ {
        let first_kept = self.segments.range(..=start).next_back().map(|(base, _)| *base);
        self.closed().take_while(move |held| first_kept.is_some_and(|first| held.base < first))
    }

    pub fn forget_wholly_below(&mut self, start: Offset) {
        let doomed: Vec<Offset> = self.wholly_below(start).map(|held| held.base).collect();
        for base in doomed {
            self.segments.remove(&base);
        }
    }

    /// The start of the segment after this one, which may be gone itself.
    pub fn after(&self, segment: Offset) -> Option<Place> {
        let (base, _) = self.segments.range((Bound::Excluded(segment), Bound::Unbounded)).next()?;
        Some(Place { segment: *base, position: 0, offset: *base })
    }

    /// Whole batches from a place on: about `bytes_max` of them, but one boundary's worth at least. `limit`
    /// is how far may be served. Nothing when the place is there.
    pub fn chunk(&self, from: Place, bytes_max: u64, limit: Place) -> Option<Chunk> {
        let segment = self.segments.get(&from.segment)?;
        let end = match segment.end {
            _ if from.segment > limit.segment => return None,
            _ if from.segment == limit.segment => limit,
            Some(end) => Place { segment: from.segment, position: end.position.into(), offset: end.offset },
            None => return None,
        };
        let end_position = end.position;
        if from.position >= end_position {
            if from.segment == limit.segment {
                return None;
            }
            return self.chunk(self.after(from.segment)?, bytes_max, limit);
        }
        let wanted = from.position.saturating_add(bytes_max);
        let to = if end_position <= wanted {
            end
        } else {
            let boundaries = &segment.boundaries;
            let index = boundaries.partition_point(|each| u64::from(each.position) <= wanted);
            let within = boundaries[..index].last().filter(|each| u64::from(each.position) > from.position);
            let beyond = boundaries.get(index).filter(|each| u64::from(each.position) < end_position);
            match within.or(beyond) {
                Some(found) => {
                    Place { segment: from.segment, position: found.position.into(), offset: found.offset }
                }
                None => end,
            }
        };
        Some(Chunk { from, length: to.position - from.position, next: to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    /// Every batch that was appended, as (segment, position, length, expected offset, next offset).
    type Batches = Vec<(i64, u64, u64, i64, i64)>;

    fn filled(sizes: &[(u64, i64)], segment_bytes: u64) -> (ServedLog, Batches, Place) {
        let mut log = ServedLog::recovered(&[], offset(1_000), 0, offset(1_000));
        let (mut base, mut position, mut next) = (1_000, 0, 1_000);
        let mut batches = Vec::new();
        for (length, count) in sizes {
            if position > 0 && position + length > segment_bytes {
                log.rolled(position, offset(next), offset(next));
                (base, position) = (next, 0);
            }
            log.batch_begins(position, offset(next));
            batches.push((base, position, *length, next, next + count));
            position += length;
            next += count;
        }
        (log, batches, Place { segment: offset(base), position, offset: offset(next) })
    }

    proptest! {
        #[test]
        fn chunks_from_the_start_are_all_batches_in_order_and_none_twice(
            sizes in prop::collection::vec((61u64..700_000, 1i64..50), 1..60),
            bytes_max in prop_oneof![Just(1u64), Just(100_000), Just(1 << 20)],
        ) {
            let (log, batches, end) = filled(&sizes, 3 << 20);
            let Located::At(mut place) = log.locate(offset(1_000)) else { panic!("the start is known") };
            let mut rest = batches.iter();
            while let Some(chunk) = log.chunk(place, bytes_max, end) {
                let mut position = chunk.from.position;
                let mut last = None;
                while position < chunk.from.position + chunk.length {
                    let batch = rest.next().expect("no more than all batches");
                    prop_assert_eq!((batch.0, batch.1), (chunk.from.segment.value(), position));
                    position += batch.2;
                    last = Some(batch.4);
                }
                prop_assert_eq!(position, chunk.from.position + chunk.length, "a chunk ends between batches");
                prop_assert_eq!(last, Some(chunk.next.offset.value()), "the next position is known");
                place = chunk.next;
            }
            prop_assert!(rest.next().is_none());
        }

        #[test]
        fn an_offset_is_in_the_batch_that_is_found_or_behind_it(
            sizes in prop::collection::vec((61u64..700_000, 1i64..50), 1..60),
        ) {
            let (log, batches, _) = filled(&sizes, 3 << 20);
            for (segment, position, _, expected, next) in &batches {
                for wanted in *expected..*next {
                    match log.locate(offset(wanted)) {
                        Located::At(place) => {
                            prop_assert_eq!((place.segment.value(), place.position), (*segment, *position));
                        }
                        Located::Behind(place) => {
                            prop_assert_eq!(place.segment.value(), *segment);
                            prop_assert!(place.position <= *position && place.offset.value() <= wanted);
                        }
                        Located::Gone => prop_assert!(false, "{wanted} is there"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_given_up_is_not_found_and_the_active_segment_always_is() {
        let closed = [
            ClosedSegment { base: offset(10), length: 500 },
            ClosedSegment { base: offset(20), length: 600 },
        ];
        let mut log = ServedLog::recovered(&closed, offset(30), 100, offset(33));
        let held: Vec<_> =
            log.closed().map(|held| (held.base.value(), held.bytes, held.end.value())).collect();
        assert_eq!(held, [(10, 500, 20), (20, 600, 30)]);
        log.forget_wholly_below(offset(19));
        assert_eq!(log.start(), offset(10), "a segment with one offset above the start stays");
        assert_eq!(log.wholly_below(offset(20)).map(|held| held.base).collect::<Vec<_>>(), [offset(10)]);
        log.forget_wholly_below(offset(20));
        assert_eq!((log.start(), log.locate(offset(19))), (offset(20), Located::Gone));
        let next = Place { segment: offset(20), position: 0, offset: offset(20) };
        assert_eq!(log.after(offset(10)), Some(next), "what follows a segment that is gone");
        log.forget_wholly_below(offset(99));
        assert_eq!((log.start(), log.closed().count()), (offset(30), 0));
    }

    #[test]
    fn what_lies_below_is_gone_and_a_gap_leads_to_the_next_segment() {
        let closed = [
            ClosedSegment { base: offset(10), length: 500 },
            ClosedSegment { base: offset(20), length: 600 },
        ];
        let mut log = ServedLog::recovered(&closed, offset(30), 100, offset(33));
        log.rolled(900, offset(40), offset(50));
        let next = Place { segment: offset(50), position: 0, offset: offset(50) };
        assert_eq!(log.locate(offset(45)), Located::At(next), "offsets 40 to 49 do not exist");
        assert_eq!((log.start(), log.locate(offset(9))), (offset(10), Located::Gone));
        assert!(matches!(log.locate(offset(25)), Located::Behind(place) if place.position == 0));
        log.found(Place { segment: offset(20), position: 300, offset: offset(25) });
        assert!(matches!(log.locate(offset(25)), Located::At(place) if place.position == 300));
    }
}
