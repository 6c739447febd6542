//! Where bytes go: when a segment is full, how much of its file to reserve, and the arithmetic of blocks.
//!
//! ```text
//! file   ├──────────── batches ─────────────┼ bounce ┼──── reserved, zeros ────┤
//!        0                               position                    preallocated, a multiple of 4 KiB
//!        └ aligned blocks, written once ─┘└ last block, written again as it fills
//! ```
//!
//! Invariants: a segment rolls *before* a records field that would pass `segment.bytes`, because the field's
//! length is known when its batches are not; a field larger than that has a segment of its own. No batch of
//! a segment is further from its base than an index entry can say. Positions fit an index entry (i32).
//! Must never decide when to write or flush: that is the shard's.

use crate::batch::BatchHeader;
use crate::offset::{Offset, RELATIVE_OFFSET_MAX};

/// Block of direct I/O: position, length and memory of every write are multiples of it. Larger devices'
/// blocks exist; raising this doubles the rewritten tail of every partition.
pub const BLOCK_BYTES: u64 = 4096;

/// Largest `segment.bytes`, and largest size of any segment: an index entry's position is an `i32`.
pub const SEGMENT_BYTES_MAX: u32 = i32::MAX as u32;

/// Smallest `segment.bytes` that makes sense: below it a partition is all files and no data.
pub const SEGMENT_BYTES_MIN: u32 = 64 * 1024;

/// First reservation of a segment that has only begun to receive. Raising it multiplies by the number of
/// partitions: ten thousand idle ones reserve 640 MB.
pub const PREALLOCATION_BYTES_FIRST: u64 = 64 * 1024;

/// From here on reservations double up to `segment.bytes`; below it they jump here. Raising it wastes disk
/// for slow partitions, lowering it costs fast ones more calls of fallocate.
pub const PREALLOCATION_BYTES_STREAM: u64 = 1024 * 1024;

/// The active segment, as far as placing bytes needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// In the file's name; no batch ends below it.
    pub base: Offset,
    /// Bytes of whole batches: where the next one goes.
    pub position: u64,
}

impl SegmentState {
    pub const fn new(base: Offset) -> SegmentState {
        SegmentState { base, position: 0 }
    }

    /// Whether the next records field needs a new segment. `next_base` is the first offset that it can hold.
    pub fn must_roll(&self, records_bytes: u32, next_base: Offset, segment_bytes: u32) -> bool {
        if self.position == 0 {
            // Nothing to gain by rolling an empty one for size; for a far offset the base must change.
            return next_base.delta_from(self.base).is_none();
        }
        let end = self.position + u64::from(records_bytes);
        end > u64::from(segment_bytes.min(SEGMENT_BYTES_MAX)) || next_base.delta_from(self.base).is_none()
    }

    /// Whether this segment's index can name the batch. A gap inside a records field can exceed it: then the
    /// field is cut before this batch, which is fetched again into a new segment.
    pub fn holds(&self, header: &BatchHeader) -> bool {
        header.last_offset().delta_from(self.base).is_some_and(|delta| delta <= RELATIVE_OFFSET_MAX)
            && self.position + u64::from(header.total_bytes()) <= u64::from(SEGMENT_BYTES_MAX)
    }

    /// A whole batch was placed at `position`.
    pub fn on_batch(&mut self, header: &BatchHeader) {
        assert!(self.holds(header), "a batch was placed into a segment that cannot hold it");
        self.position += u64::from(header.total_bytes());
    }
}

/// The size to reserve next, so that `needed` bytes fit: a first small step, then doubling up to
/// `segment.bytes`. Only a field larger than a whole segment gets more. Always whole blocks.
pub fn next_preallocation(current: u64, needed: u64, segment_bytes: u32) -> u64 {
    let needed = align_up(needed);
    if needed <= current {
        return current;
    }
    let step =
        if current == 0 { PREALLOCATION_BYTES_FIRST } else { (current * 2).max(PREALLOCATION_BYTES_STREAM) };
    step.min(align_up(u64::from(segment_bytes))).max(needed)
}

/// Start of the block that holds `position`.
pub const fn align_down(position: u64) -> u64 {
    position & !(BLOCK_BYTES - 1)
}

/// Smallest whole number of blocks that covers `bytes`.
pub const fn align_up(bytes: u64) -> u64 {
    align_down(bytes + (BLOCK_BYTES - 1))
}

/// Bytes of the last, partial block.
pub const fn block_offset(position: u64) -> u64 {
    position & (BLOCK_BYTES - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::BatchBuilder;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn header(builder: BatchBuilder) -> BatchHeader {
        BatchHeader::parse(builder.build().first_chunk().unwrap(), u32::MAX).unwrap()
    }

    #[test]
    fn a_segment_rolls_before_a_field_that_would_pass_its_size() {
        let segment = SegmentState { base: at(0), position: 900 };
        assert!(!segment.must_roll(100, at(10), 1000));
        assert!(segment.must_roll(101, at(10), 1000));
    }

    #[test]
    fn a_field_larger_than_a_segment_is_alone_in_one() {
        assert!(!SegmentState::new(at(0)).must_roll(5000, at(0), 1000));
        assert!(SegmentState { base: at(0), position: 5000 }.must_roll(1, at(9), 1000));
    }

    #[test]
    fn a_segment_rolls_before_an_offset_that_its_index_cannot_name() {
        let far = at(i64::from(i32::MAX));
        for position in [0, 61] {
            let segment = SegmentState { base: at(0), position };
            assert!(!segment.must_roll(61, far, 1000));
            assert!(segment.must_roll(61, far.next(), 1000));
        }
    }

    #[test]
    fn a_batch_behind_a_huge_gap_is_not_held() {
        let segment = SegmentState { base: at(5), position: 61 };
        assert!(segment.holds(&header(BatchBuilder::at(i64::from(i32::MAX) + 5))));
        assert!(!segment.holds(&header(BatchBuilder::at(i64::from(i32::MAX) + 6))));
        assert!(!segment.holds(&header(BatchBuilder::at(i64::from(i32::MAX) + 5).last_offset_delta(1))));
        let full = SegmentState { base: at(0), position: u64::from(SEGMENT_BYTES_MAX) - 60 };
        assert!(!full.holds(&header(BatchBuilder::at(9))));
    }

    #[test]
    fn a_reservation_begins_small_and_doubles_up_to_the_segment() {
        let mut reserved = 0;
        let mut steps = alloc::vec::Vec::new();
        while reserved < 8 << 20 {
            reserved = next_preallocation(reserved, reserved + 1, 8 << 20);
            steps.push(reserved);
        }
        assert_eq!(steps, [64 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20]);
        assert_eq!(next_preallocation(8 << 20, (8 << 20) + 1, 8 << 20), (8 << 20) + BLOCK_BYTES);
    }

    proptest! {
        #[test]
        fn a_reservation_covers_what_is_needed_in_whole_blocks(current in 0u64..1 << 20, needed in 0u64..1 << 32, segment in SEGMENT_BYTES_MIN..) {
            let current = align_up(current);
            let reserved = next_preallocation(current, needed, segment);
            prop_assert!(reserved >= needed && reserved >= current);
            prop_assert_eq!(block_offset(reserved), 0);
            prop_assert!(reserved <= align_up(needed).max(align_up(u64::from(segment))).max(current));
        }

        #[test]
        fn blocks_enclose_their_bytes(position in 0u64..1 << 40) {
            prop_assert_eq!(align_down(position) + block_offset(position), position);
            prop_assert!(align_up(position) - align_down(position) <= BLOCK_BYTES);
            prop_assert!(align_down(position) <= position && position <= align_up(position));
        }
    }
}
