//! The writer against a plain byte vector: whatever the order of completions, the file is the bytes.

use super::*;
use proptest::prelude::*;

const ARENA_BYTES: u64 = 24 << 20;
const FILE_BYTES: usize = 48 << 20;

/// A file that is written late and in any order, and the bytes that it should hold.
struct World {
    arena: Arena,
    pool: Pool,
    writer: SegmentWriter,
    file: Vec<u8>,
    expected: Vec<u8>,
    offset: i64,
    /// Writes given out and not yet done, with the bytes they carry.
    under_way: Vec<(WritePlan, Vec<u8>)>,
    /// Spans lent to readers, with the bytes that were in them.
    reads: Vec<(Span, Vec<u8>)>,
    seed: u64,
}

impl World {
    fn new(start: u64, seed: u64) -> Self {
        let expected: Vec<u8> = (0..start).map(|index| index as u8 | 1).collect();
        let mut file = expected.clone();
        file.resize(FILE_BYTES, 0);
        Self {
            arena: Arena::new(ARENA_BYTES).unwrap(),
            pool: Pool::new(ARENA_BYTES),
            writer: SegmentWriter::new(start, Offset::new(100).unwrap()),
            file,
            expected,
            offset: 100,
            under_way: Vec::new(),
            reads: Vec::new(),
            seed: seed | 1,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % below as u64) as usize
    }

    /// Receives `bytes` in pieces; false when memory ran out, and then they are dropped again.
    fn receive(&mut self, bytes: &[u8], pieces: usize) -> bool {
        let mut at = 0;
        while at < bytes.len() {
            match self.writer.place(&mut self.pool, (bytes.len() - at) as u32) {
                Place::Into(span) => {
                    let limit = (bytes.len() - at).min(span.length as usize).min(pieces);
                    let length = 1 + self.random(limit);
                    let into = Span { start: span.start, length: length as u32 };
                    self.arena.bytes_mut(into).copy_from_slice(&bytes[at..at + length]);
                    assert_eq!(self.writer.received(length as u32), into);
                    at += length;
                    self.start_writes(false);
                }
                Place::Load { position, into } => {
                    let position = position as usize;
                    let block = &self.file[position..position + into.length as usize];
                    self.arena.bytes_mut(into).copy_from_slice(block);
                    self.writer.loaded();
                }
                Place::Wait | Place::NoMemory => {
                    if self.under_way.is_empty() {
                        self.start_writes(true);
                    }
                    if self.under_way.is_empty() {
                        self.writer.drop_unverified(&mut self.pool);
                        return false;
                    }
                    self.complete_one();
                }
            }
        }
        true
    }

    fn batch(&mut self, length: usize, pieces: usize) {
        let bytes: Vec<u8> = (0..length).map(|index| (index * 31 + self.offset as usize) as u8 | 1).collect();
        if self.receive(&bytes, pieces) {
            self.expected.extend_from_slice(&bytes);
            self.offset += 10;
            let next = Offset::new(self.offset).unwrap();
            self.writer.verify(self.expected.len() as u64, next);
        }
        self.start_writes(false);
    }

    fn partial(&mut self, length: usize, pieces: usize) {
        if self.receive(&vec![0xee; length], pieces) {
            self.writer.drop_unverified(&mut self.pool);
        }
    }

    fn start_writes(&mut self, pressed: bool) {
        let limit = FILE_BYTES as u64;
        while let Some(plan) = self.writer.next_write(&mut self.arena, &mut self.pool, limit, pressed) {
            assert_eq!(plan.position % BLOCK_BYTES, 0, "direct writes start at a block");
            assert_eq!(u64::from(plan.span.length) % BLOCK_BYTES, 0, "direct writes are whole blocks");
            let bytes = self.arena.bytes(plan.span).to_vec();
            for (other, _) in &self.under_way {
                let (start, end) = (plan.position, plan.position + u64::from(plan.span.length));
                let other_end = other.position + u64::from(other.span.length);
                assert!(end <= other.position || other_end <= start, "two writes of one block under way");
            }
            self.under_way.push((plan, bytes));
        }
    }

    fn complete_one(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let index = self.random(self.under_way.len());
        let (plan, bytes) = self.under_way.swap_remove(index);
        let start = plan.position as usize;
        self.file[start..start + bytes.len()].copy_from_slice(&bytes);
        if plan.bounce {
            self.pool.give(plan.span);
        }
        self.writer.write_done(&mut self.pool, plan.number);
        self.check_completed();
        self.start_writes(false);
    }

    /// What the writer calls complete is in the file, byte for byte.
    fn check_completed(&self) {
        let completed = self.writer.completed().position as usize;
        assert!(completed <= self.expected.len());
        assert!(self.file[..completed] == self.expected[..completed], "a completed byte is not in the file");
    }

    /// A reader asks for the bytes from somewhere on: memory has them, or the file does.
    fn read(&mut self) {
        let position = self.random(self.expected.len() + 1);
        let Some(span) = self.writer.read_begins(position as u64, 100_000) else {
            let written = self.writer.in_file() as usize;
            assert!(position >= self.expected.len() || position < written, "{position} is nowhere");
            let stored = self.expected.len().min(written);
            assert!(self.file[..stored] == self.expected[..stored], "the file lacks what it should hold");
            return;
        };
        let bytes = self.arena.bytes(span).to_vec();
        assert!(bytes == self.expected[position..position + bytes.len()], "other bytes at {position}");
        self.reads.push((span, bytes));
    }

    fn end_read(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let index = self.random(self.reads.len());
        let (span, bytes) = self.reads.swap_remove(index);
        assert!(self.arena.bytes(span) == bytes, "bytes changed under a reader");
        self.writer.read_ends(&mut self.pool, span);
    }

    fn flush(&mut self) {
        let mark = self.writer.want_all();
        self.start_writes(false);
        while self.writer.completed().position < mark.position {
            assert!(!self.under_way.is_empty(), "a flush waits for nothing: {mark:?}");
            self.complete_one();
        }
        assert_eq!(self.writer.completed().next.value(), self.offset);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Batch(usize),
    Partial(usize),
    Complete,
    Flush,
    Release,
    Read,
    EndRead,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let size = prop_oneof![4 => 61..5_000usize, 2 => 5_000..200_000usize, 1 => 200_000..3_000_000usize];
    let act = prop_oneof![
        6 => size.clone().prop_map(Act::Batch),
        2 => size.prop_map(Act::Partial),
        3 => Just(Act::Complete),
        1 => Just(Act::Flush),
        1 => Just(Act::Release),
        3 => Just(Act::Read),
        2 => Just(Act::EndRead),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_completes_when_the_file_is_the_verified_bytes(
        start in prop_oneof![Just(0u64), 1..20_000u64],
        acts in acts(),
        pieces in prop_oneof![Just(64usize), Just(4_096), Just(1 << 20)],
        seed in any::<u64>(),
    ) {
        let mut world = World::new(start, seed);
        for act in acts {
            if world.expected.len() > FILE_BYTES - (8 << 20) {
                break;
            }
            match act {
                Act::Batch(length) => world.batch(length, pieces.max(length / 50)),
                Act::Partial(length) => world.partial(length, pieces.max(length / 50)),
                Act::Complete => world.complete_one(),
                Act::Flush => world.flush(),
                Act::Release => {
                    world.writer.release(&mut world.pool);
                }
                Act::Read => world.read(),
                Act::EndRead => world.end_read(),
            }
        }
        while !world.reads.is_empty() {
            world.end_read();
        }
        world.flush();
        let length = world.expected.len();
        prop_assert!(world.file[..length] == world.expected[..]);
        while !world.under_way.is_empty() {
            world.complete_one();
        }
        prop_assert!(world.writer.release(&mut world.pool));
        prop_assert_eq!(world.pool.free_bytes(), world.pool.size_bytes(), "memory is back when all is written");
    }
}

#[test]
fn a_batch_larger_than_the_pool_still_moves_through_it() {
    let mut world = World::new(0, 1);
    world.pool = Pool::new(6 << 20);
    world.batch(20 << 20, 1 << 20);
    assert_eq!(world.expected.len(), 20 << 20);
    world.flush();
}

#[test]
fn nothing_above_a_barrier_is_written_until_it_is_lifted() {
    let mut world = World::new(0, 1);
    world.batch(10_000, 4_096);
    let before = world.writer.verified();
    world.writer.raise_barrier(before);
    world.batch(3 << 20, 1 << 20);
    assert_eq!(world.writer.want_all(), before);
    world.start_writes(false);
    while !world.under_way.is_empty() {
        world.complete_one();
    }
    assert_eq!(world.writer.completed(), before);
    let above = before.position as usize;
    assert!(world.file[above..].iter().all(|byte| *byte == 0), "bytes of an epoch that is not durable");
    world.writer.lift_barrier();
    world.flush();
}
