//! How far behind a copy is: in time, by what we saw of the source ourselves, and in bytes.
//!
//! ```text
//!   source's end, first seen:   40 @1s   55 @2s   90 @9s          [`Observations`], oldest first
//!   delivered 47                          ^ its record 47 is the oldest that is missing: now - 2s
//! ```
//! No timestamp of a record is ever believed. Ages are over-estimated, never under-estimated: a full ring merges
//! neighbours under the older time, and an end that was first seen after a silence may be as old as the silence.
//! What was there before anybody looked has no age but ">= since it was first seen".
//! Nothing here is 0 because it is unknown: what was never observed is `None`.

use crate::{Nanoseconds, SECOND};
use alloc::collections::VecDeque;

/// Ends of one source log that are told apart: an age is wrong by one part of so many at most. Raised, it costs 16
/// bytes each for every partition that is behind, and each new end is compared with all of them.
pub const OBSERVATIONS_MAX: usize = 32;
/// The same for what was received and is not delivered; one more makes its bytes exact more often.
pub const MARKS_MAX: usize = 16;
/// What one partition may hold in both rings, and in a second one for open transactions.
pub const PARTITION_BYTES_MAX: usize = (2 * OBSERVATIONS_MAX + MARKS_MAX) * size_of::<(i64, u64)>();
/// Offsets after which the mean size of a record forgets half of what it knows.
const MEAN_OFFSETS_MAX: u64 = 1 << 14;
/// One part of [`Worst`]: peaks are told for whole minutes.
const PART: Nanoseconds = 60 * SECOND;
/// A day of them.
pub const PARTS_MAX: usize = 24 * 60;

/// The age of the oldest record that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    /// 0: nothing is missing.
    pub nanoseconds: Nanoseconds,
    /// It was there when the log was first looked at.
    pub at_least: bool,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    end: i64,
    seen_at: Nanoseconds,
}

/// Records that were delivered, and the age that the oldest of them had then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub records: u64,
    pub age: Nanoseconds,
}

/// Ends of one log, each with the time when it was first seen. See the file's header.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// Ends rise, times never fall.
    ring: VecDeque<Observation>,
    /// The newest end and when it was last confirmed.
    newest: Option<Observation>,
    /// Records below were there before anybody looked.
    unaged_below: i64,
    reached: i64,
}

impl Observations {
    /// The source said at `seen_at` that its log ends at `end`. What it appended after a silence of more than
    /// `silence` may be as old as that.
    pub fn observe(&mut self, seen_at: Nanoseconds, end: i64, silence: Nanoseconds) {
        let Some(newest) = self.newest else {
            self.newest = Some(Observation { end, seen_at });
            self.unaged_below = end;
            self.push(Observation { end, seen_at });
            return;
        };
        if end < newest.end {
            self.cut(end);
        }
        if end > newest.end {
            let is_new = seen_at.saturating_sub(newest.seen_at) <= silence;
            self.push(Observation { end, seen_at: if is_new { seen_at } else { newest.seen_at } });
        }
        self.newest = Some(Observation { end, seen_at: seen_at.max(newest.seen_at) });
    }

    /// The source still ends where it did.
    pub fn confirm(&mut self, seen_at: Nanoseconds) {
        if let Some(newest) = &mut self.newest {
            newest.seen_at = newest.seen_at.max(seen_at);
        }
    }

    /// Everything below is there, at `at`. Tells what was delivered, as far as its age is known.
    pub fn reach(&mut self, at: Nanoseconds, reached: i64, mut delivered: impl FnMut(Delivery)) {
        if reached < self.reached {
            self.go_back(at, reached);
        }
        while let Some(oldest) = self.ring.front().copied().filter(|oldest| oldest.end <= reached) {
            self.ring.pop_front();
            if oldest.end > self.unaged_below && oldest.end > self.reached {
                let records = (oldest.end - self.reached.max(self.unaged_below)).cast_unsigned();
                delivered(Delivery { records, age: at.saturating_sub(oldest.seen_at) });
            }
            self.reached = self.reached.max(oldest.end);
        }
        self.reached = reached;
    }

    /// The copy was cut: what is missing again was there before, nobody knows since when.
    fn go_back(&mut self, at: Nanoseconds, reached: i64) {
        let before = self.newest.map_or(reached, |newest| newest.end.min(self.reached));
        if before > reached {
            let seen_at = self.ring.front().map_or(at, |oldest| oldest.seen_at.min(at));
            self.unaged_below = self.unaged_below.max(before);
            if self.ring.len() == OBSERVATIONS_MAX {
                self.merge();
            }
            self.ring.push_front(Observation { end: before, seen_at });
        }
        self.reached = reached;
    }

    fn push(&mut self, observation: Observation) {
        if observation.end <= self.reached {
            return;
        }
        if self.ring.len() == OBSERVATIONS_MAX {
            self.merge();
        }
        self.ring.push_back(observation);
    }

    /// The two that are nearest in time become one, as old as the older.
    fn merge(&mut self) {
        let gap = |at: &usize| self.ring[at + 1].seen_at.saturating_sub(self.ring[*at].seen_at);
        let nearest = (0..self.ring.len() - 1).min_by_key(gap).expect("a full ring has neighbours");
        self.ring[nearest].end = self.ring[nearest + 1].end;
        self.ring.remove(nearest + 1);
    }

    /// The source lost its log from `end` on.
    fn cut(&mut self, end: i64) {
        while let Some(last) = self.ring.pop_back() {
            let before = self.ring.back().map_or(i64::MIN, |before| before.end);
            if before < end {
                if last.end.min(end) > self.reached {
                    self.ring.push_back(Observation { end: last.end.min(end), ..last });
                }
                break;
            }
        }
        self.unaged_below = self.unaged_below.min(end);
    }

    /// `None`: nobody has looked yet.
    pub fn age(&self, now: Nanoseconds) -> Option<Age> {
        self.newest?;
        Some(self.ring.front().map_or_else(Age::default, |oldest| Age {
            nanoseconds: now.saturating_sub(oldest.seen_at),
            at_least: self.reached < self.unaged_below,
        }))
    }

    /// Whether something is missing.
    pub fn is_behind(&self) -> bool {
        !self.ring.is_empty()
    }

    /// When the newest end was last confirmed.
    pub fn confirmed_at(&self) -> Option<Nanoseconds> {
        self.newest.map(|newest| newest.seen_at)
    }
}

/// A number of bytes that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    pub bytes: u64,
    /// Not counted, or not all of it.
    pub is_estimate: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    end: i64,
    bytes: u64,
}

/// How many bytes were received up to which offset, from the last mark that is delivered on.
#[derive(Clone, Debug, Default)]
pub struct Received {
    marks: VecDeque<Mark>,
    reached: i64,
    mean_offsets: u64,
    mean_bytes: u64,
}

impl Received {
    /// From `end` on it is counted, where so many `bytes` are counted already; what is known of the mean stays.
    pub fn begin(&mut self, end: i64, bytes: u64) {
        self.marks.clear();
        self.marks.push_back(Mark { end, bytes });
    }

    /// Up to `end`, at least `bytes` were received since the start.
    pub fn mark(&mut self, end: i64, bytes: u64) {
        let Some(last) = self.marks.back().copied() else {
            return self.marks.push_back(Mark { end, bytes });
        };
        if end < last.end {
            // Cut, and begun anew: what was counted is not what is there.
            return self.begin(end, bytes);
        }
        if end == last.end {
            return;
        }
        self.mean_offsets += (end - last.end).cast_unsigned();
        self.mean_bytes += bytes.saturating_sub(last.bytes);
        while self.mean_offsets > MEAN_OFFSETS_MAX {
            (self.mean_offsets, self.mean_bytes) = (self.mean_offsets / 2, self.mean_bytes / 2);
        }
        if self.marks.len() == MARKS_MAX {
            // The first is what is counted from, and any other only makes that finer.
            let width = |at: &usize| self.marks[at + 1].end - self.marks[at - 1].end;
            let finest = (1..MARKS_MAX - 1).min_by_key(width).expect("there is a middle");
            self.marks.remove(finest);
        }
        self.marks.push_back(Mark { end, bytes });
    }

    /// Everything below is delivered.
    pub fn reach(&mut self, reached: i64) {
        self.reached = reached;
        while self.marks.get(1).is_some_and(|next| next.end <= reached) {
            self.marks.pop_front();
        }
    }

    /// What is missing until `end`, where `bytes` were received in all.
    pub fn missing(&self, end: i64, bytes: u64) -> Option<Bytes> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        if end <= self.reached {
            return Some(Bytes { bytes: 0, is_estimate: false });
        }
        let received = if last.end > self.reached { bytes.saturating_sub(first.bytes) } else { 0 };
        let unreceived = (end - last.end.max(self.reached)).max(0).cast_unsigned();
        if unreceived == 0 {
            return Some(Bytes { bytes: received, is_estimate: received > 0 && first.end != self.reached });
        }
        if self.mean_offsets == 0 {
            return None;
        }
        let beyond = u128::from(unreceived) * u128::from(self.mean_bytes) / u128::from(self.mean_offsets);
        let beyond = u64::try_from(beyond).unwrap_or(u64::MAX);
        Some(Bytes { bytes: received.saturating_add(beyond), is_estimate: true })
    }
}

/// Peaks of a figure by the minute, for a day.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Number of the minute, and its peak; oldest first.
    parts: VecDeque<(u64, u64)>,
}

impl Worst {
    pub fn record(&mut self, now: Nanoseconds, value: u64) {
        let part = now / PART;
        match self.parts.back_mut().filter(|last| last.0 >= part) {
            Some(last) => last.1 = last.1.max(value),
            None => {
                if self.parts.len() == PARTS_MAX {
                    self.parts.pop_front();
                }
                self.parts.push_back((part, value));
            }
        }
    }

    /// The peak of the last `minutes`, the one that goes on included; `None` where nothing was recorded.
    pub fn of_last(&self, now: Nanoseconds, minutes: u64) -> Option<u64> {
        let from = (now / PART).saturating_sub(minutes.saturating_sub(1));
        self.parts.iter().rev().take_while(|part| part.0 >= from).map(|part| part.1).max()
    }
}

#[cfg(test)]
#[path = "lag_tests.rs"]
mod tests;
