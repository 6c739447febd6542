//! Seeded logs: an endless supply of valid batches of every kind that a mirror meets.
//!
//! ```text
//!   plain ─ idempotent ─ transactional (open, continued, committed or aborted by a marker)
//!   gaps between batches ─ gaps inside a batch ─ emptied batches ─ LogAppendTime ─ claimed codecs
//! ```
//! Deterministic: the same seed and the same calls give the same bytes. Invariant: a batch never starts below
//! the offset that it was asked for, its sequence numbers follow those of its producer, and a producer has one
//! transaction at a time. Must never read a clock: timestamps are arguments.

use super::batch_text::{BatchText, Marker, Producer};
use std::io::Write;
use std::ops::RangeInclusive;
use twinlog_log_segment::offset::Offset;

/// Text from which values are cut. Longer values repeat it.
const FILL_BYTES: usize = 64 * 1024;
/// Offsets that one gap skips at most.
const GAP_OFFSETS_MAX: u64 = 50;

/// A small generator of numbers, the same on every machine (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    pub fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a partition's batches look like.
#[derive(Clone, Debug)]
pub struct Profile {
    pub records: RangeInclusive<u64>,
    pub value_bytes: RangeInclusive<u64>,
    /// Idempotent producers that take turns; 0 writes without producer ids.
    pub producers: u32,
    /// Whether those producers write in transactions.
    pub transactional: bool,
    pub abort_percent: u64,
    /// Batches of producers without an id, between those of the others.
    pub plain_percent: u64,
    /// Batches behind a gap, and batches with a gap inside, as the cleaner leaves them.
    pub gap_percent: u64,
    /// Batches without any record left.
    pub emptied_percent: u64,
    pub log_append_time: bool,
    /// A codec that is claimed but not applied: never for logs that a Kafka tool will read.
    pub claimed_codec: u16,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            records: 1..=20,
            value_bytes: 20..=400,
            producers: 0,
            transactional: false,
            abort_percent: 30,
            plain_percent: 0,
            gap_percent: 0,
            emptied_percent: 0,
            log_append_time: false,
            claimed_codec: 0,
        }
    }
}

impl Profile {
    /// Everything at once, in small batches: what a simulation wants.
    pub fn mixed() -> Profile {
        Profile {
            records: 1..=6,
            value_bytes: 0..=300,
            producers: 4,
            transactional: true,
            plain_percent: 25,
            gap_percent: 10,
            emptied_percent: 10,
            ..Profile::default()
        }
    }
}

#[derive(Clone, Debug)]
struct ProducerState {
    producer: Producer,
    /// Batches of the transaction that is open, if one is.
    open_batches: Option<u32>,
}

/// See the file's header. One per partition.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    profile: Profile,
    producers: Vec<ProducerState>,
    fill: Vec<u8>,
    records: u64,
}

impl Generator {
    pub fn new(seed: u64, profile: Profile) -> Generator {
        let mut random = Random::new(seed);
        let producers = (0..profile.producers).map(|index| ProducerState {
            producer: Producer { id: 1_000 + i64::from(index), epoch: 0, sequence: 0 },
            open_batches: None,
        });
        let producers = producers.collect();
        let letter = |random: &mut Random| b'a' + random.below(26) as u8;
        let fill = (0..FILL_BYTES).map(|_| letter(&mut random)).collect();
        Generator { random, profile, producers, fill, records: 0 }
    }

    /// Records made so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the next batches belong to a transaction that has not ended.
    pub fn has_open_transactions(&self) -> bool {
        self.producers.iter().any(|state| state.open_batches.is_some())
    }

    /// The next batch, at `next_offset` or behind a gap.
    pub fn next_batch(&mut self, next_offset: Offset, now_ms: i64) -> Vec<u8> {
        let gap = self.random.percent(self.profile.gap_percent);
        let skipped = if gap { 1 + self.random.below(GAP_OFFSETS_MAX) } else { 0 };
        let base_offset = next_offset.value() + skipped as i64;
        if self.producers.is_empty() || self.random.percent(self.profile.plain_percent) {
            return self.data(base_offset, now_ms, None).build();
        }
        let which = self.random.below(self.producers.len() as u64) as usize;
        if !self.profile.transactional {
            return self.data(base_offset, now_ms, Some(which)).build();
        }
        match self.producers[which].open_batches {
            Some(batches) if self.random.percent(u64::from(batches) * 25) => {
                self.end_transaction(which, next_offset, now_ms)
            }
            open => {
                self.producers[which].open_batches = Some(open.unwrap_or(0) + 1);
                self.data(base_offset, now_ms, Some(which)).build()
            }
        }
    }

    /// The marker of one open transaction; call it until it has none.
    pub fn end_open_transaction(&mut self, next_offset: Offset, now_ms: i64) -> Option<Vec<u8>> {
        let which = self.producers.iter().position(|state| state.open_batches.is_some())?;
        Some(self.end_transaction(which, next_offset, now_ms))
    }

    fn end_transaction(&mut self, which: usize, at: Offset, now_ms: i64) -> Vec<u8> {
        let aborts = self.random.percent(self.profile.abort_percent);
        let state = &mut self.producers[which];
        state.open_batches = None;
        let marker = if aborts { Marker::Abort } else { Marker::Commit };
        BatchText::marker(at.value(), now_ms, state.producer, marker).build()
    }

    fn data(&mut self, base_offset: i64, now_ms: i64, which: Option<usize>) -> BatchText {
        let count = self.random.within(&self.profile.records.clone());
        let mut batch = BatchText::at(base_offset).timestamp(now_ms);
        let in_transaction = which.is_some_and(|which| self.producers[which].open_batches.is_some());
        if !in_transaction && self.random.percent(self.profile.emptied_percent) {
            batch = batch.last_offset_delta(count as u32 - 1);
        } else {
            self.fill_records(&mut batch, base_offset, count);
            if self.random.percent(self.profile.gap_percent) {
                batch = batch.last_offset_delta(count as u32 + self.random.below(5) as u32);
            }
        }
        if self.profile.log_append_time {
            batch = batch.log_append_time();
        }
        batch = batch.claimed_codec(self.profile.claimed_codec);
        let Some(which) = which else { return batch };
        let state = &mut self.producers[which];
        let producer = state.producer;
        state.producer.sequence += count as i32;
        if in_transaction { batch.transactional(producer) } else { batch.producer(producer) }
    }

    fn fill_records(&mut self, batch: &mut BatchText, base_offset: i64, count: u64) {
        let mut key = Vec::with_capacity(16);
        let mut value = Vec::new();
        for index in 0..count {
            let value_bytes = self.random.within(&self.profile.value_bytes.clone()) as usize;
            key.clear();
            write!(key, "key-{:08}", self.random.below(100_000)).expect("memory takes every write");
            value.clear();
            write!(value, "{{\"offset\":{},\"text\":\"", base_offset + index as i64)
                .expect("memory takes every write");
            let mut from = self.random.below(FILL_BYTES as u64) as usize;
            while value.len() < value_bytes {
                let piece = &self.fill[from..];
                value.extend_from_slice(&piece[..piece.len().min(value_bytes - value.len())]);
                from = 0;
            }
            value.truncate(value_bytes.saturating_sub(2));
            if value_bytes >= 2 {
                value.extend_from_slice(b"\"}");
            }
            // A broker writes one time for a whole batch; producers write one per record.
            let delta_ms = if self.profile.log_append_time { 0 } else { index as u32 / 4 };
            batch.push_record(delta_ms, Some(&key), Some(&value));
        }
        self.records += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::batch::BatchHeader;
    use twinlog_log_segment::transaction::OpenTransactions;
    use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

    /// All batches of some bytes, with their control kinds, each proven by its CRC.
    fn walk(bytes: &[u8]) -> Vec<(BatchHeader, Option<twinlog_log_segment::control::ControlKind>)> {
        let mut walk = BatchWalk::new(1 << 20);
        let (mut at, mut found) = (0, Vec::new());
        loop {
            let (used, event) = walk.feed(&bytes[at..]);
            at += used;
            match event.transpose().expect("every generated batch is valid") {
                None => break,
                Some(WalkEvent::Header(_)) => {}
                Some(WalkEvent::Batch { header, control }) => found.push((header, control)),
            }
        }
        assert_eq!(walk.bytes_in_progress(), 0);
        found
    }

    fn log(seed: u64, profile: Profile, batches: usize) -> Vec<u8> {
        let mut generator = Generator::new(seed, profile);
        let (mut next, mut bytes) = (Offset::ZERO, Vec::new());
        for step in 0..batches {
            let batch = generator.next_batch(next, 1_000 + step as i64);
            next = walk(&batch)[0].0.next_offset();
            bytes.extend(batch);
        }
        bytes
    }

    #[test]
    fn a_mixed_log_holds_every_kind_and_its_offsets_only_rise() {
        let found = walk(&log(7, Profile::mixed(), 400));
        assert_eq!(found.len(), 400);
        let (mut next, mut gaps, mut emptied, mut aborted) = (Offset::ZERO, 0, 0, 0);
        let mut open = OpenTransactions::new();
        for (header, control) in &found {
            assert!(header.base_offset >= next);
            gaps += usize::from(header.base_offset > next);
            emptied += usize::from(header.record_count == 0);
            next = header.next_offset();
            aborted += usize::from(open.on_batch(header, *control).unwrap().is_some());
        }
        assert!(gaps > 10 && emptied > 2 && aborted > 5, "{gaps} gaps, {emptied} emptied, {aborted} aborted");
    }

    #[test]
    fn sequences_follow_each_other_per_producer() {
        let profile = Profile { producers: 3, emptied_percent: 10, ..Profile::default() };
        let found = walk(&log(1, profile, 200));
        let mut expected = [0; 3];
        let mut emptied = 0;
        for (header, _) in &found {
            let sequence = &mut expected[(header.producer_id - 1_000) as usize];
            assert_eq!(header.base_sequence, *sequence);
            *sequence += header.last_offset_delta as i32 + 1;
            emptied += usize::from(header.record_count == 0);
        }
        assert!(emptied > 3);
    }

    #[test]
    fn the_same_seed_makes_the_same_log() {
        assert_eq!(log(3, Profile::mixed(), 50), log(3, Profile::mixed(), 50));
        assert_ne!(log(3, Profile::mixed(), 50), log(4, Profile::mixed(), 50));
    }

    #[test]
    fn open_transactions_can_be_ended() {
        let mut generator = Generator::new(5, Profile { gap_percent: 0, ..Profile::mixed() });
        let mut next = Offset::ZERO;
        for _ in 0..10 {
            next = walk(&generator.next_batch(next, 1))[0].0.next_offset();
        }
        assert!(generator.has_open_transactions());
        while let Some(marker) = generator.end_open_transaction(next, 2) {
            assert_eq!(marker.len(), 78);
            next = next.next();
        }
        assert!(!generator.has_open_transactions());
    }
}
