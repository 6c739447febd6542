//! The memory of one shard: 1 MiB slabs of its arena, whole or cut into pieces of one size each.
//!
//! ```text
//!   arena  | slab 0: image 1 MiB | slab 1: 64 x 16 KiB | slab 2: 256 x 4 KiB | slab 3: free | ...
//!             (streams)             (trickles)            (bounce blocks)
//! ```
//! The arena is a share of `memory.bytes` fixed at the start: what is not here cannot be received, so a
//! slow disk or ten thousand partitions become back-pressure and never more memory. A slab whose pieces
//! are all free again goes back to the free slabs and may be cut differently; one slab is always kept for
//! bounce blocks, because writing a last block is how every other piece is freed.

use twinlog_io::Span;

/// A stream's image: one write of 1 MiB costs a tenth of sixteen of 64 KiB. Larger ones would tie up
/// memory per active partition without making writes cheaper.
pub const SLAB_BYTES: u32 = 1 << 20;

/// What a piece is used for, by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A padded last block on its way to the disk.
    Block,
    /// The image of a partition that trickles, and a lane's send buffer.
    Small,
    /// A lane's receive scratch.
    Scratch,
    /// The image of a stream.
    Large,
}

/// The slab that is never anything but bounce blocks.
const BLOCK_SLAB: u32 = 0;

const CUT_CLASSES: [Class; 3] = [Class::Block, Class::Small, Class::Scratch];

impl Class {
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Block => 4 << 10,
            Self::Small => 16 << 10,
            Self::Scratch => 64 << 10,
            Self::Large => SLAB_BYTES,
        }
    }

    fn of(span: Span) -> Self {
        match span.length {
            length if length == Self::Block.bytes() => Self::Block,
            length if length == Self::Small.bytes() => Self::Small,
            length if length == Self::Scratch.bytes() => Self::Scratch,
            length if length == Self::Large.bytes() => Self::Large,
            length => panic!("a piece of {length} bytes was not taken from this pool"),
        }
    }
}

/// A slab that is cut: one bit per taken piece.
#[derive(Clone, Default)]
struct Cut {
    taken: [u64; 4],
    count: u32,
    class_index: usize,
}

/// See the file's header.
pub struct Pool {
    free_slabs: Vec<u32>,
    cuts: Vec<Cut>,
    /// Per cut class: slabs with at least one free piece.
    open: [Vec<u32>; CUT_CLASSES.len()],
    slabs: u32,
}

impl Pool {
    /// A pool over the first `arena_bytes` of an arena.
    pub fn new(arena_bytes: u64) -> Self {
        let slabs = u32::try_from(arena_bytes / u64::from(SLAB_BYTES)).expect("an arena is below 4 PiB");
        assert!(slabs >= 2, "a pool of {arena_bytes} bytes cannot hold an image beside its bounce blocks");
        let mut open: [Vec<u32>; CUT_CLASSES.len()] = Default::default();
        open[0].push(BLOCK_SLAB);
        let free_slabs = (1..slabs).rev().collect();
        Self { free_slabs, cuts: vec![Cut::default(); slabs as usize], open, slabs }
    }

    /// A piece of this class, or nothing when memory is used up.
    pub fn take(&mut self, class: Class) -> Option<Span> {
        let Some(class_index) = CUT_CLASSES.iter().position(|each| *each == class) else {
            let slab = self.free_slabs.pop()?;
            return Some(Span { start: start_of(slab), length: SLAB_BYTES });
        };
        let pieces = SLAB_BYTES / class.bytes();
        let slab = match self.open[class_index].last() {
            Some(slab) => *slab,
            None => {
                let slab = self.free_slabs.pop()?;
                self.cuts[slab as usize] = Cut { class_index, ..Cut::default() };
                self.open[class_index].push(slab);
                slab
            }
        };
        let cut = &mut self.cuts[slab as usize];
        let free = (0..pieces).find(|piece| cut.taken[(piece / 64) as usize] >> (piece % 64) & 1 == 0);
        let piece = free.expect("an open slab has a free piece");
        cut.taken[(piece / 64) as usize] |= 1 << (piece % 64);
        cut.count += 1;
        if cut.count == pieces {
            self.open[class_index].pop();
        }
        Some(Span { start: start_of(slab) + u64::from(piece * class.bytes()), length: class.bytes() })
    }

    /// Whether a bounce block can be had now.
    pub fn has_block(&self) -> bool {
        !self.open[0].is_empty() || !self.free_slabs.is_empty()
    }

    /// Takes a piece back.
    pub fn give(&mut self, span: Span) {
        let slab = u32::try_from(span.start / u64::from(SLAB_BYTES)).expect("the arena's size fits");
        assert!(slab < self.slabs, "{span:?} is outside the pool");
        if Class::of(span) == Class::Large {
            self.free_slabs.push(slab);
            return;
        }
        let piece = (span.start % u64::from(SLAB_BYTES)) / u64::from(span.length);
        let cut = &mut self.cuts[slab as usize];
        let (word, bit) = ((piece / 64) as usize, 1 << (piece % 64));
        assert!(cut.taken[word] & bit != 0, "{span:?} is given back twice");
        cut.taken[word] &= !bit;
        let was_full = cut.count == SLAB_BYTES / span.length;
        cut.count -= 1;
        let open = &mut self.open[cut.class_index];
        if cut.count == 0 && slab != BLOCK_SLAB {
            open.retain(|each| *each != slab);
            self.free_slabs.push(slab);
        } else if was_full {
            open.push(slab);
        }
    }

    /// Bytes of whole free slabs.
    pub fn free_bytes(&self) -> u64 {
        self.free_slabs.len() as u64 * u64::from(SLAB_BYTES)
    }

    /// Bytes that can be free at most: all but the slab of bounce blocks.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.slabs - 1) * u64::from(SLAB_BYTES)
    }
}

fn start_of(slab: u32) -> u64 {
    u64::from(slab) * u64::from(SLAB_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_never_overlap_and_come_back_as_whole_slabs() {
        let mut pool = Pool::new(8 << 20);
        let mut taken = Vec::new();
        let classes = [Class::Block, Class::Small, Class::Large, Class::Scratch, Class::Small, Class::Block];
        for class in classes.into_iter().cycle() {
            let Some(span) = pool.take(class) else { break };
            assert!(taken.iter().all(|other: &Span| !other.overlaps(span)), "{span:?} overlaps");
            taken.push(span);
        }
        assert!(pool.free_bytes() == 0 && taken.len() > 10);
        for span in taken {
            pool.give(span);
        }
        assert_eq!(pool.free_bytes(), pool.size_bytes());
    }

    #[test]
    fn a_class_fills_its_slab_before_it_takes_another() {
        let mut pool = Pool::new(3 << 20);
        let spans: Vec<_> = (0..64).map(|_| pool.take(Class::Small).unwrap()).collect();
        assert_eq!(pool.free_bytes(), 1 << 20);
        pool.give(spans[17]);
        assert_eq!(pool.take(Class::Small), Some(spans[17]));
        pool.take(Class::Large).unwrap();
        assert_eq!(pool.take(Class::Small), None);
        assert!(pool.take(Class::Block).is_some(), "a bounce block is there when nothing else is");
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_piece_is_given_back_once() {
        let mut pool = Pool::new(3 << 20);
        let (kept, span) = (pool.take(Class::Block).unwrap(), pool.take(Class::Block).unwrap());
        assert_ne!(kept, span);
        pool.give(span);
        pool.give(span);
    }
}
