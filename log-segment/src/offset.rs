//! Offsets and leader epochs: the two numbers by which every other file here measures a log.
//!
//! Owns the types that keep a position in a log apart from a count, a size or a raw field of the wire.
//! Must never hold a negative offset, and must never wrap: an offset past `i64::MAX` cannot exist in Kafka.
//!
//! Convention of the whole project: every offset is exclusive ("the next one") except those called
//! `base_offset` or `last_offset`, and the only `+ 1` is [`Offset::next`].

use core::fmt;

/// The largest distance from a segment's base that its index files can name, because an index entry is an
/// `i32`. Raising it makes Kafka read a negative relative offset and declare the index corrupt.
pub const RELATIVE_OFFSET_MAX: u32 = i32::MAX as u32;

/// A position in a partition's log, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// `None` for a negative value: Kafka uses those as sentinels, which must be told apart before this.
    pub const fn new(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value)) }
    }

    pub const fn value(self) -> i64 {
        self.0
    }

    /// The offset after this one. Every `last_offset` in this crate comes from a header whose parser has
    /// already refused the single value for which this would overflow.
    pub const fn next(self) -> Offset {
        assert!(self.0 < i64::MAX, "an offset past i64::MAX cannot exist");
        Offset(self.0 + 1)
    }

    /// Distance from a segment's base, or `None` when below it or too far for an index entry.
    pub const fn delta_from(self, base: Offset) -> Option<u32> {
        // Both are >= 0, so the difference cannot overflow.
        let delta = self.0 - base.0;
        if delta < 0 || delta > RELATIVE_OFFSET_MAX as i64 { None } else { Some(delta as u32) }
    }

    /// This offset moved up by a header's delta, or `None` past the end of the number range.
    pub const fn checked_add(self, delta: u32) -> Option<Offset> {
        match self.0.checked_add(delta as i64) {
            Some(value) => Some(Offset(value)),
            None => None,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a leader's term, local to one cluster. ref: KIP-101
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

impl LeaderEpoch {
    /// What brokers and clients write when they do not know or do not say.
    pub const UNKNOWN: LeaderEpoch = LeaderEpoch(-1);

    pub const fn is_known(self) -> bool {
        self.0 >= 0
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_never_negative() {
        assert_eq!(Offset::new(-1), None);
        assert_eq!(Offset::new(0), Some(Offset::ZERO));
        assert_eq!(Offset::new(i64::MAX).unwrap().value(), i64::MAX);
    }

    #[test]
    fn a_distance_is_what_an_index_entry_can_hold() {
        let base = Offset::new(5_000_000_000).unwrap();
        assert_eq!(base.delta_from(base), Some(0));
        assert_eq!(Offset::ZERO.delta_from(base), None);
        let last = base.checked_add(RELATIVE_OFFSET_MAX).unwrap();
        assert_eq!(last.delta_from(base), Some(RELATIVE_OFFSET_MAX));
        assert_eq!(last.next().delta_from(base), None);
        assert_eq!(Offset::new(i64::MAX).unwrap().delta_from(Offset::ZERO), None);
    }

    #[test]
    #[should_panic(expected = "cannot exist")]
    fn the_number_range_never_wraps() {
        let _ = Offset::new(i64::MAX).unwrap().next();
    }

    #[test]
    fn adding_a_delta_stops_at_the_end_of_the_range() {
        assert_eq!(Offset::new(i64::MAX).unwrap().checked_add(1), None);
        assert_eq!(Offset::ZERO.checked_add(7), Offset::new(7));
    }
}
