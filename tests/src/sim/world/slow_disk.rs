//! A disk that is slow throughout and a source that is not: back-pressure, never memory.
//!
//! What has arrived and is in no file never exceeds the shard's memory, fetching waits for that memory, nothing ends
//! because of it, and the mirror catches up.

use super::{ARENA_BYTES, HEAL_TURNS_MAX, RESPONSE_BYTES_MAX, World};
use std::sync::atomic::Ordering::Relaxed;
use twinlog_daemon::embedded::TopicOptions;
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_log_segment::offset::Offset;

/// A write takes a tenth of a second on average, a sync half a second.
const SLOWNESS: u64 = 200;
/// More partitions that stream at once than the arena has images for.
const STREAMS: u32 = 12;
/// Batches of each of them: together more than twice the arena.
const STREAM_BATCHES: u32 = 30;

/// So large that no partition waits for its own segments to close: memory is what runs out.
const STREAM_SEGMENT_BYTES: u32 = 4 << 20;

/// Lives through one seed; see the file's header.
pub fn live_on_a_slow_disk(seed: u64) {
    let mut world = World::new(seed);
    world.produce_streams();
    world.segment_bytes = STREAM_SEGMENT_BYTES;
    world.surroundings.borrow_mut().disk_slowness = SLOWNESS;
    world.restart();
    let starts = world.starts;
    let mut held_back = 0;
    for turn in 0.. {
        if world.has_caught_up() {
            break;
        }
        assert!(turn < HEAL_TURNS_MAX, "a slow disk is never caught up with: {}", world.describe());
        world.turn();
        let unwritten = world.unwritten_bytes();
        assert!(unwritten <= ARENA_BYTES, "{unwritten} bytes wait for the disk: {}", world.describe());
        held_back += u64::from(world.is_held_back());
    }
    assert_eq!(world.starts, starts, "a slow disk is no reason to end");
    assert!(held_back > 0, "fetching never waited for memory: {}", world.describe());
    world.drain();
    world.assert_copies();
}

impl World {
    /// Partitions that stream: batches nearly as large as one answer may hold of a partition.
    fn produce_streams(&mut self) {
        let cluster = &mut self.surroundings.borrow_mut().network.cluster;
        let options = TopicOptions { partitions: STREAMS, ..TopicOptions::default() };
        cluster.create_topic("streams", options);
        for number in 0..STREAM_BATCHES * STREAMS {
            let value_bytes = 40_000 + self.random.below(20_000) as usize;
            let batch = BatchText::at(0).timestamp(i64::from(number)).values(1, value_bytes);
            cluster.append("streams", (number % STREAMS) as i32, batch.build());
        }
    }

    /// The source has more, and a lane had to wait for memory or has none to fetch another answer into.
    fn is_held_back(&self) -> bool {
        let stalls = self.shard_counters.memory_stalls.load(Relaxed);
        let free = self.shard_counters.pool_free_bytes.load(Relaxed);
        (stalls > 0 || free < u64::from(RESPONSE_BYTES_MAX)) && !self.has_caught_up()
    }

    /// What was received and verified, and is in no file so far.
    fn unwritten_bytes(&self) -> u64 {
        let cluster = &self.surroundings.borrow().network.cluster;
        let each = self.control.counters.iter().map(|(key, counters)| {
            let (name, index) = self.control.name_of(*key);
            let log = cluster.partition(name, index).expect("it exists");
            let below = |offset: i64| log.bytes_below(Offset::new(offset).expect("not negative"));
            below(counters.fetch.load(Relaxed)) - below(counters.log_end.load(Relaxed))
        });
        each.sum()
    }
}
