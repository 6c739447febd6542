//! How many bytes may be asked for: memory that can take them, and the link's bandwidth.
//!
//! Both are spent before a fetch is sent. Memory comes back when the answer has been received (its
//! bytes then sit in images, which the pool counts); bandwidth comes back with time. The tail lane
//! is served first: it may spend the last quarter of either, which catching up may not touch.

use crate::{Nanoseconds, SECOND};

/// Which of the two lanes asks (tail before catch-up).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// Partitions near the source's end: small answers, low delay.
    Tail,
    /// Partitions far behind: large answers.
    CatchUp,
}

/// A fetch below this is not worth its round trip; with less to give, the lane waits.
pub const GRANT_BYTES_MIN: u64 = 64 * 1024;

/// Bytes that catching up may hold at once, promised or on their way to the disk. More would not make a
/// disk faster: it only spreads the same stream over memory that has left the cache (whole runs of 4 GB took
/// 0.8 CPU-s within 64 MiB and 1.3 within 512 MiB, an unknown part of that for clearing the larger arena).
pub const CATCH_UP_BYTES_MAX: u64 = 48 << 20;
/// What one fetch of catching up gets all the same, so that images of ten thousand trickles cannot stop it, and what it
/// waits for while writes give memory back: smaller answers would be more of them.
const CATCH_UP_BYTES_MIN: u64 = 4 << 20;

/// Bytes per second of a link, as a bucket that holds one second.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    /// 0: unlimited.
    bytes_per_second: u64,
    tokens: u64,
    filled_at: Nanoseconds,
}

impl Bandwidth {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, tokens: bytes_per_second, filled_at: 0 }
    }

    /// Another rate from now on. What is in the bucket stays there, as far as the new one holds it: a change
    /// again and again brings nothing.
    fn set_rate(&mut self, bytes_per_second: u64) {
        let was_unlimited = self.bytes_per_second == 0;
        self.bytes_per_second = bytes_per_second;
        self.tokens = if was_unlimited { 0 } else { self.tokens.min(bytes_per_second) };
    }

    fn refill(&mut self, now: Nanoseconds) {
        let elapsed = now.saturating_sub(self.filled_at);
        let gained = u128::from(elapsed) * u128::from(self.bytes_per_second) / u128::from(SECOND);
        if gained > 0 {
            let room = self.bytes_per_second - self.tokens;
            self.tokens += u64::try_from(gained).unwrap_or(u64::MAX).min(room);
            self.filled_at = now;
        }
    }

    fn available(&mut self, now: Nanoseconds, kind: LaneKind) -> u64 {
        if self.bytes_per_second == 0 {
            return u64::MAX;
        }
        self.refill(now);
        match kind {
            LaneKind::Tail => self.tokens,
            LaneKind::CatchUp => self.tokens.saturating_sub(self.bytes_per_second / 4),
        }
    }
}

/// How a shard's memory is used at this moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub size: u64,
    pub free: u64,
    /// In images that wait for more of their partition: an image each, however many partitions are fetched.
    /// They are no backlog of the disk and do not count against the window of catching up.
    pub resting: u64,
    /// Writes are under way, and give memory back by themselves: a disk that is behind is waited for.
    pub is_writing: bool,
}

/// The credits of one shard.
#[derive(Clone, Debug)]
pub struct Credits {
    bandwidth: Bandwidth,
    /// Bytes promised to fetches under way.
    reserved: u64,
    /// Those of them that are promised to catching up.
    catching_up: u64,
}

impl Credits {
    /// `bytes_per_second` is this shard's share of `link.bytes.per.second`, 0 for no cap.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bandwidth: Bandwidth::new(bytes_per_second), reserved: 0, catching_up: 0 }
    }

    /// Another share of `link.bytes.per.second` from now on, 0 for no cap.
    pub fn set_bytes_per_second(&mut self, bytes_per_second: u64) {
        self.bandwidth.set_rate(bytes_per_second);
    }

    /// Grants up to `wanted` bytes to a fetch, or nothing.
    pub fn reserve(&mut self, now: Nanoseconds, kind: LaneKind, wanted: u64, memory: Memory) -> Option<u64> {
        let free = memory.free.saturating_sub(self.reserved);
        let room = match kind {
            LaneKind::Tail => free,
            LaneKind::CatchUp => {
                let used = (memory.size - memory.free).saturating_sub(memory.resting);
                let held = self.reserved + used;
                let window = CATCH_UP_BYTES_MAX.saturating_sub(held);
                let window = match memory.is_writing {
                    true if window < CATCH_UP_BYTES_MIN.min(wanted) => 0,
                    false if self.catching_up == 0 => window.max(CATCH_UP_BYTES_MIN),
                    _ => window,
                };
                free.saturating_sub(memory.size / 4).min(window)
            }
        };
        // A cap below the smallest fetch must still move: then one such fetch may overdraw the bucket.
        let floor = GRANT_BYTES_MIN.min(wanted);
        let bandwidth = self.bandwidth.available(now, kind);
        let capped = self.bandwidth.bytes_per_second > 0;
        let small_cap = capped && self.bandwidth.bytes_per_second < 4 * floor && bandwidth > 0;
        let granted = wanted.min(room).min(if small_cap { floor } else { bandwidth });
        if granted < floor {
            return None;
        }
        self.reserved += granted;
        if kind == LaneKind::CatchUp {
            self.catching_up += granted;
        }
        Some(granted)
    }

    /// The fetch is over: its promise is released and what it really brought is charged.
    pub fn settle(&mut self, kind: LaneKind, granted: u64, received: u64) {
        assert!(granted <= self.reserved, "{granted} bytes settled of {} reserved", self.reserved);
        self.reserved -= granted;
        if kind == LaneKind::CatchUp {
            self.catching_up -= granted;
        }
        if self.bandwidth.bytes_per_second > 0 {
            self.bandwidth.tokens = self.bandwidth.tokens.saturating_sub(received);
        }
    }

    /// Bytes promised to fetches under way.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MIB: u64 = 1 << 20;

    fn memory(free: u64, size: u64) -> Memory {
        Memory { size, free, resting: 0, is_writing: false }
    }

    #[test]
    fn promises_never_exceed_the_pool_and_the_tail_gets_the_last_quarter() {
        let mut credits = Credits::new(0);
        let (free, size) = (16 * MIB, 16 * MIB);
        assert_eq!(credits.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(free, size)), Some(12 * MIB));
        assert_eq!(credits.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(free, size)), None);
        assert_eq!(credits.reserve(0, LaneKind::Tail, 16 * MIB, memory(free, size)), Some(4 * MIB));
        assert_eq!(credits.reserve(0, LaneKind::Tail, MIB, memory(free, size)), None);
        credits.settle(LaneKind::CatchUp, 12 * MIB, 10 * MIB);
        assert_eq!(credits.reserved(), 4 * MIB);
    }

    #[test]
    fn the_link_never_takes_more_than_its_rate_over_time() {
        let rate = 8 * MIB;
        let mut credits = Credits::new(rate);
        let mut received = 0;
        for tick in 0..1000u64 {
            let now = tick * SECOND / 100;
            if let Some(granted) =
                credits.reserve(now, LaneKind::CatchUp, 4 * MIB, memory(64 * MIB, 64 * MIB))
            {
                credits.settle(LaneKind::CatchUp, granted, granted);
                received += granted;
            }
        }
        assert!(received <= rate * 11, "{received} bytes in 10 s at {rate} bytes/s and one bucket");
        assert!(received >= rate * 9, "the cap is also used: {received}");
    }

    #[test]
    fn another_rate_counts_at_once_and_brings_no_bucket_of_its_own() {
        let mut credits = Credits::new(0);
        let take = |credits: &mut Credits, now: Nanoseconds| {
            let granted = credits.reserve(now, LaneKind::Tail, 4 * MIB, memory(64 * MIB, 64 * MIB));
            granted.inspect(|granted| credits.settle(LaneKind::Tail, *granted, *granted)).unwrap_or(0)
        };
        assert_eq!(take(&mut credits, SECOND), 4 * MIB);
        credits.set_bytes_per_second(MIB);
        let capped: u64 = (100..1100).map(|tick| take(&mut credits, tick * SECOND / 100)).sum();
        assert!((9 * MIB..=12 * MIB).contains(&capped), "{capped} bytes in 10 s at 1 MiB/s");
        for _ in 0..10 {
            credits.set_bytes_per_second(8 * MIB);
            credits.set_bytes_per_second(MIB);
        }
        assert!(take(&mut credits, 11 * SECOND) <= MIB);
        credits.set_bytes_per_second(0);
        assert_eq!(take(&mut credits, 11 * SECOND), 4 * MIB);
    }

    #[test]
    fn a_cap_smaller_than_one_fetch_still_moves() {
        let mut credits = Credits::new(1000);
        let mut received = 0;
        for tick in 0..1000u64 {
            if let Some(granted) =
                credits.reserve(tick * SECOND, LaneKind::CatchUp, MIB, memory(64 * MIB, 64 * MIB))
            {
                credits.settle(LaneKind::CatchUp, granted, 1000);
                received += 1000;
            }
        }
        assert!(received >= 900_000);
    }

    #[test]
    fn catching_up_stays_in_its_window_but_is_never_shut_out_by_trickles() {
        let mut credits = Credits::new(0);
        let size = 1024 * MIB;
        for _ in 0..3 {
            assert_eq!(credits.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(size, size)), Some(16 * MIB));
        }
        assert_eq!(credits.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(size, size)), None);
        let mut crowded = Credits::new(0);
        let free = size / 2;
        assert_eq!(crowded.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(free, size)), Some(4 * MIB));
        assert_eq!(crowded.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(free, size)), None);
        let resting = Memory { resting: size / 2, ..memory(free, size) };
        assert_eq!(crowded.reserve(0, LaneKind::CatchUp, 16 * MIB, resting), Some(16 * MIB));
        crowded.settle(LaneKind::CatchUp, 16 * MIB, 16 * MIB);
        crowded.settle(LaneKind::CatchUp, 4 * MIB, 4 * MIB);
        assert_eq!(crowded.reserve(0, LaneKind::CatchUp, 16 * MIB, memory(free, size)), Some(4 * MIB));
    }

    #[test]
    fn a_disk_that_is_behind_is_waited_for_until_a_fetch_is_worth_it() {
        let size = 1024 * MIB;
        let writing = |used: u64| Memory { is_writing: true, ..memory(size - used, size) };
        let granted = |used| Credits::new(0).reserve(0, LaneKind::CatchUp, 16 * MIB, writing(used));
        assert_eq!(granted(500 * MIB), None, "far more than the window is on its way");
        assert_eq!(granted(45 * MIB), None, "3 MiB are too few to ask for");
        assert_eq!(granted(44 * MIB), Some(4 * MIB));
        assert_eq!(granted(8 * MIB), Some(16 * MIB));
        let small = Credits::new(0).reserve(0, LaneKind::CatchUp, MIB, writing(47 * MIB));
        assert_eq!(small, Some(MIB), "all that is wanted");
        let tail = Credits::new(0).reserve(0, LaneKind::Tail, MIB, writing(500 * MIB));
        assert_eq!(tail, Some(MIB), "tailing waits for nobody");
    }
}
