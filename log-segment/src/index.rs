//! The three index files of a segment, by exactly the rules of a Kafka 4.3 broker, so that a stock broker and
//! `kafka-dump-log` accept them and a rebuilt index equals the one that was written live.
//!
//! ```text
//! .index      8 bytes  │ relative offset i32 │ position i32 │            last offset of a batch, where it begins
//! .timeindex 12 bytes  │ timestamp i64 │ relative offset i32 │          largest timestamp so far, and whose
//! .txnindex  34 bytes  │ version i16 = 0 │ producer i64 │ first i64 │ last i64 │ last stable offset i64 │
//! ```
//!
//! Rules (one step per batch, in this order):
//! 1. A larger maximum timestamp than any before in this segment becomes "the largest so far". One exception
//!    to a broker's rule: a batch that the cleaner emptied has no timestamp.
//! 2. If *more* than 4096 bytes were appended since the last entry, the batch gets an `.index` entry, and the
//!    largest timestamp so far a `.timeindex` entry; then the count restarts at 0.
//! 3. The batch's bytes are counted.
//!
//! A segment that closes (by a roll or a clean stop) gets a last `.timeindex` entry with the overall maximum. A `.timeindex` entry is
//! written only when its timestamp is larger than the last entry's; so a segment without timestamps has none.
//!
//! Invariants: `.index` strictly increases in both fields; `.timeindex` strictly increases in time and never
//! decreases in offset; no file is padded. Must never look at a record: headers say all. The `.txnindex`
//! entries are made by `transaction.rs`; here is only their form.

use alloc::vec::Vec;
use core::fmt;

use crate::batch::BatchHeader;
use crate::offset::Offset;

/// Kafka's default `index.interval.bytes`. Raising it makes every lookup by offset read more of the log.
pub const INDEX_INTERVAL_BYTES: u32 = 4096;

/// Size of an `.index` entry. Fixed by the format.
pub const OFFSET_ENTRY_BYTES: usize = 8;

/// Size of a `.timeindex` entry. Fixed by the format.
pub const TIME_ENTRY_BYTES: usize = 12;

/// Size of a `.txnindex` entry. Fixed by the format.
pub const TRANSACTION_ENTRY_BYTES: usize = 34;

/// What a batch says when no record of it has a timestamp.
pub const NO_TIMESTAMP_MS: i64 = -1;

/// Index bytes that are planned and not yet in the files. Appended to; the owner drains them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingIndexes {
    pub offset: Vec<u8>,
    pub time: Vec<u8>,
    pub transaction: Vec<u8>,
}

impl PendingIndexes {
    pub const fn new() -> PendingIndexes {
        PendingIndexes { offset: Vec::new(), time: Vec::new(), transaction: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.offset.is_empty() && self.time.is_empty() && self.transaction.is_empty()
    }

    /// Keeps the memory.
    pub fn clear(&mut self) {
        self.offset.clear();
        self.time.clear();
        self.transaction.clear();
    }

    pub fn push_aborted(&mut self, aborted: &AbortedTransaction) {
        self.transaction.extend_from_slice(&aborted.encode());
    }
}

/// What the next batch's index entries depend on. Small, plain and checkpointed whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexState {
    pub segment_base: Offset,
    /// Bytes appended since the last `.index` entry (since the segment's start before the first one).
    pub interval_bytes: u64,
    /// Largest timestamp in this segment so far, `NO_TIMESTAMP_MS` if there is none.
    pub max_timestamp_ms: i64,
    /// Last offset of the first batch that had it.
    pub max_timestamp_offset: Offset,
    /// Timestamp of the last `.timeindex` entry, `NO_TIMESTAMP_MS` before the first.
    pub last_time_entry_ms: i64,
}

impl IndexState {
    pub const fn new(segment_base: Offset) -> IndexState {
        IndexState {
            segment_base,
            interval_bytes: 0,
            max_timestamp_ms: NO_TIMESTAMP_MS,
            max_timestamp_offset: segment_base,
            last_time_entry_ms: NO_TIMESTAMP_MS,
        }
    }

    /// Accounts for a batch that begins at byte `position` of the segment, and plans its entries.
    ///
    /// The caller rolls in time (`segment.rs`): a batch too far from the base is its broken invariant.
    pub fn on_batch(&mut self, header: &BatchHeader, position: u32, out: &mut PendingIndexes) {
        let last_offset = header.last_offset();
        // The cleaner leaves the timestamp in a batch that it emptied. A broker takes it over, and then
        // kafka-dump-log reports that no record has it; nothing needs it, so here it does not count.
        if header.record_count > 0 && header.max_timestamp_ms > self.max_timestamp_ms {
            self.max_timestamp_ms = header.max_timestamp_ms;
            self.max_timestamp_offset = last_offset;
        }
        if self.interval_bytes > u64::from(INDEX_INTERVAL_BYTES) {
            let entry = OffsetEntry { relative_offset: self.relative(last_offset), position };
            out.offset.extend_from_slice(&entry.encode());
            self.append_time_entry(out);
            self.interval_bytes = 0;
        }
        self.interval_bytes += u64::from(header.total_bytes());
    }

    /// The last `.timeindex` entry of a segment that is complete. Calling it twice adds nothing.
    pub fn close(&mut self, out: &mut PendingIndexes) {
        self.append_time_entry(out);
    }

    fn append_time_entry(&mut self, out: &mut PendingIndexes) {
        if self.max_timestamp_ms > self.last_time_entry_ms {
            let entry = TimeEntry {
                timestamp_ms: self.max_timestamp_ms,
                relative_offset: self.relative(self.max_timestamp_offset),
            };
            out.time.extend_from_slice(&entry.encode());
            self.last_time_entry_ms = self.max_timestamp_ms;
        }
    }

    fn relative(&self, last_offset: Offset) -> u32 {
        last_offset.delta_from(self.segment_base).expect("a batch beyond an index entry's reach needs a roll")
    }
}

/// One `.index` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    pub relative_offset: u32,
    pub position: u32,
}

impl OffsetEntry {
    pub fn encode(&self) -> [u8; OFFSET_ENTRY_BYTES] {
        let mut bytes = [0; OFFSET_ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes[4..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }
}

/// One `.timeindex` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    pub timestamp_ms: i64,
    pub relative_offset: u32,
}

impl TimeEntry {
    pub fn encode(&self) -> [u8; TIME_ENTRY_BYTES] {
        let mut bytes = [0; TIME_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes
    }
}

/// One `.txnindex` entry: a transaction that ended with an abort marker. ref: KIP-98
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: Offset,
    /// The marker's.
    pub last_offset: Offset,
    /// As it was once this marker was in the log.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    pub fn encode(&self) -> [u8; TRANSACTION_ENTRY_BYTES] {
        let mut bytes = [0; TRANSACTION_ENTRY_BYTES];
        bytes[2..10].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[10..18].copy_from_slice(&self.first_offset.value().to_be_bytes());
        bytes[18..26].copy_from_slice(&self.last_offset.value().to_be_bytes());
        bytes[26..34].copy_from_slice(&self.last_stable_offset.value().to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; TRANSACTION_ENTRY_BYTES]) -> Result<AbortedTransaction, IndexError> {
        let version = i16::from_be_bytes([bytes[0], bytes[1]]);
        if version != 0 {
            return Err(IndexError::UnknownTransactionVersion { version });
        }
        let offset = |at: usize| {
            let value = i64::from_be_bytes(*bytes[at..].first_chunk().expect("inside the entry"));
            Offset::new(value).ok_or(IndexError::NegativeOffset { offset: value })
        };
        Ok(AbortedTransaction {
            producer_id: i64::from_be_bytes(*bytes[2..].first_chunk().expect("inside the entry")),
            first_offset: offset(10)?,
            last_offset: offset(18)?,
            last_stable_offset: offset(26)?,
        })
    }
}

/// Reads an `.index` file and checks its order.
pub fn offset_entries(file: &[u8]) -> impl Iterator<Item = Result<OffsetEntry, IndexError>> + '_ {
    let mut last: Option<OffsetEntry> = None;
    entries::<OFFSET_ENTRY_BYTES, _>(file, move |at, bytes| {
        let entry = OffsetEntry {
            relative_offset: relative(&bytes[..4])?,
            position: u32::from_be_bytes(*bytes[4..].first_chunk().expect("inside the entry")),
        };
        let ordered = last.is_none_or(|last| {
            last.relative_offset < entry.relative_offset && last.position < entry.position
        });
        last = Some(entry);
        if ordered { Ok(entry) } else { Err(IndexError::OutOfOrder { entry: at }) }
    })
}

/// Reads a `.timeindex` file and checks its order.
pub fn time_entries(file: &[u8]) -> impl Iterator<Item = Result<TimeEntry, IndexError>> + '_ {
    let mut last: Option<TimeEntry> = None;
    entries::<TIME_ENTRY_BYTES, _>(file, move |at, bytes| {
        let entry = TimeEntry {
            timestamp_ms: i64::from_be_bytes(*bytes.first_chunk().expect("inside the entry")),
            relative_offset: relative(&bytes[8..])?,
        };
        let ordered = last.is_none_or(|last| {
            last.timestamp_ms < entry.timestamp_ms && last.relative_offset <= entry.relative_offset
        });
        last = Some(entry);
        if ordered { Ok(entry) } else { Err(IndexError::OutOfOrder { entry: at }) }
    })
}

/// Reads a `.txnindex` file and checks its order, which is that of the markers.
pub fn transaction_entries(file: &[u8]) -> impl Iterator<Item = Result<AbortedTransaction, IndexError>> + '_ {
    let mut last: Option<Offset> = None;
    entries::<TRANSACTION_ENTRY_BYTES, _>(file, move |at, bytes| {
        let entry = AbortedTransaction::decode(bytes)?;
        let ordered = last.is_none_or(|last| last < entry.last_offset);
        last = Some(entry.last_offset);
        if ordered { Ok(entry) } else { Err(IndexError::OutOfOrder { entry: at }) }
    })
}

fn relative(bytes: &[u8]) -> Result<u32, IndexError> {
    let value = i32::from_be_bytes(*bytes.first_chunk().expect("inside the entry"));
    u32::try_from(value).map_err(|_| IndexError::NegativeOffset { offset: i64::from(value) })
}

fn entries<'a, const SIZE: usize, T: 'a>(
    file: &'a [u8],
    mut read: impl FnMut(usize, &[u8; SIZE]) -> Result<T, IndexError> + 'a,
) -> impl Iterator<Item = Result<T, IndexError>> + 'a {
    let (whole, rest) = file.as_chunks::<SIZE>();
    let torn =
        (!rest.is_empty()).then_some(Err(IndexError::TornEntry { entry: whole.len(), bytes: rest.len() }));
    whole.iter().enumerate().map(move |(at, bytes)| read(at, bytes)).chain(torn)
}

/// Why an index file is not one. `entry` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// The file ends with so many bytes of an entry.
    TornEntry {
        entry: usize,
        bytes: usize,
    },
    OutOfOrder {
        entry: usize,
    },
    NegativeOffset {
        offset: i64,
    },
    UnknownTransactionVersion {
        version: i16,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexError::TornEntry { entry, bytes } => {
                write!(f, "index entry {entry} has only {bytes} bytes")?;
            }
            IndexError::OutOfOrder { entry } => {
                write!(f, "index entry {entry} is not above the one before it")?;
            }
            IndexError::NegativeOffset { offset } => {
                write!(f, "an index entry holds the negative offset {offset}")?;
            }
            IndexError::UnknownTransactionVersion { version } => {
                write!(f, "an aborted transaction is written in version {version}, only 0 is known")?;
            }
        }
        f.write_str(": rebuild the index from the segment")
    }
}

impl core::error::Error for IndexError {}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{BatchBuilder, random};

    fn header(bytes: &[u8]) -> BatchHeader {
        BatchHeader::parse(bytes.first_chunk().unwrap(), 1 << 20).unwrap()
    }

    fn base(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn the_first_entry_comes_after_more_than_an_interval() {
        let mut state = IndexState::new(base(10));
        let mut out = PendingIndexes::new();
        // The first two batches fill the interval exactly: not more, so no entry for the third.
        let half = BatchBuilder::at(10).body(1, &[0; 2048 - 61]).timestamps(5, 5);
        let batch = header(&half.build());
        assert_eq!(batch.total_bytes(), 2048);
        for position in [0, 2048, 4096] {
            state.on_batch(&batch, position, &mut out);
        }
        assert!(out.is_empty());
        state.on_batch(&header(&BatchBuilder::at(40).last_offset_delta(2).build()), 6144, &mut out);
        assert_eq!(out.offset, OffsetEntry { relative_offset: 32, position: 6144 }.encode());
        assert_eq!(out.time, TimeEntry { timestamp_ms: 5, relative_offset: 0 }.encode());
        assert_eq!(state.interval_bytes, 61);
    }

    #[test]
    fn a_segment_that_closes_names_its_largest_timestamp_once() {
        let mut state = IndexState::new(base(0));
        let mut out = PendingIndexes::new();
        state.on_batch(&header(&BatchBuilder::at(0).timestamps(9, 9).records(1, 0).build()), 0, &mut out);
        state.on_batch(&header(&BatchBuilder::at(1).timestamps(3, 3).records(1, 0).build()), 68, &mut out);
        state.on_batch(&header(&BatchBuilder::at(2).timestamps(9, 9).records(1, 0).build()), 136, &mut out);
        state.close(&mut out);
        state.close(&mut out);
        assert_eq!(out.time, TimeEntry { timestamp_ms: 9, relative_offset: 0 }.encode());
    }

    #[test]
    fn a_segment_without_timestamps_has_no_time_entries() {
        let mut state = IndexState::new(base(0));
        let mut out = PendingIndexes::new();
        for index in 0..4 {
            let batch = BatchBuilder::at(index).body(1, &[0; 5000]).build();
            state.on_batch(&header(&batch), index as u32 * 5061, &mut out);
        }
        state.close(&mut out);
        assert_eq!((out.offset.len(), out.time.len()), (3 * 8, 0));
    }

    #[test]
    fn a_batch_that_the_cleaner_emptied_has_no_timestamp() {
        let mut state = IndexState::new(base(0));
        state.on_batch(&header(&BatchBuilder::at(0).timestamps(9, 9).build()), 0, &mut PendingIndexes::new());
        assert_eq!(state.max_timestamp_ms, NO_TIMESTAMP_MS);
    }

    #[test]
    fn an_aborted_transaction_has_the_34_bytes_of_a_brokers() {
        let aborted = AbortedTransaction {
            producer_id: 7,
            first_offset: base(1),
            last_offset: base(5_000_000_000),
            last_stable_offset: base(3),
        };
        let bytes = aborted.encode();
        assert_eq!(bytes[..10], [0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(AbortedTransaction::decode(&bytes), Ok(aborted));
        let mut newer = bytes;
        newer[1] = 1;
        let error = IndexError::UnknownTransactionVersion { version: 1 };
        assert_eq!(AbortedTransaction::decode(&newer), Err(error));
        let mut negative = bytes;
        negative[10] = 0x80;
        assert!(matches!(AbortedTransaction::decode(&negative), Err(IndexError::NegativeOffset { .. })));
    }

    #[test]
    fn readers_name_the_entry_that_is_wrong() {
        let entry = |relative_offset, position| OffsetEntry { relative_offset, position }.encode();
        let mut file = vec![];
        file.extend_from_slice(&entry(1, 100));
        file.extend_from_slice(&entry(2, 100));
        file.extend_from_slice(&[0; 3]);
        let read: Vec<_> = offset_entries(&file).collect();
        assert_eq!(read[0], Ok(OffsetEntry { relative_offset: 1, position: 100 }));
        assert_eq!(read[1], Err(IndexError::OutOfOrder { entry: 1 }));
        assert_eq!(read[2], Err(IndexError::TornEntry { entry: 2, bytes: 3 }));
        assert_eq!(read.len(), 3);
        let negative = [0x80, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(offset_entries(&negative).next(), Some(Err(IndexError::NegativeOffset { .. }))));
    }

    /// The rules once more, naively: everything is looked up again in the whole list for every batch.
    fn model(segment_base: Offset, batches: &[(u32, BatchHeader)]) -> (Vec<OffsetEntry>, Vec<TimeEntry>) {
        let (mut offsets, mut times) = (Vec::<OffsetEntry>::new(), Vec::<TimeEntry>::new());
        let relative = |offset: Offset| (offset.value() - segment_base.value()) as u32;
        let time_entry = |seen: &[(u32, BatchHeader)], times: &mut Vec<TimeEntry>| {
            let seen: Vec<_> = seen.iter().filter(|(_, header)| header.record_count > 0).collect();
            let largest = seen.iter().map(|(_, header)| header.max_timestamp_ms).max().unwrap_or(-1);
            if largest > times.last().map_or(-1, |entry| entry.timestamp_ms) {
                let first = seen.iter().find(|(_, header)| header.max_timestamp_ms == largest).unwrap();
                times.push(TimeEntry {
                    timestamp_ms: largest,
                    relative_offset: relative(first.1.last_offset()),
                });
            }
        };
        for (index, (position, header)) in batches.iter().enumerate() {
            let since = offsets.last().map_or(0, |entry| entry.position);
            if position - since > 4096 {
                offsets.push(OffsetEntry {
                    relative_offset: relative(header.last_offset()),
                    position: *position,
                });
                time_entry(&batches[..=index], &mut times);
            }
        }
        time_entry(batches, &mut times);
        (offsets, times)
    }

    proptest! {
        #[test]
        fn the_indexes_are_those_of_the_naive_model(log in random::log(100, 1..40)) {
            let mut state = IndexState::new(base(100));
            let mut out = PendingIndexes::new();
            let mut position = 0;
            let mut batches = Vec::new();
            for batch in &log {
                state.on_batch(&header(batch), position, &mut out);
                batches.push((position, header(batch)));
                position += batch.len() as u32;
            }
            state.close(&mut out);
            let offsets: Vec<_> = offset_entries(&out.offset).map(Result::unwrap).collect();
            let times: Vec<_> = time_entries(&out.time).map(Result::unwrap).collect();
            prop_assert_eq!((offsets, times), model(base(100), &batches));
        }

        #[test]
        fn no_file_makes_a_reader_panic(file in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(offset_entries(&file).count(), file.len().div_ceil(8));
            prop_assert_eq!(time_entries(&file).count(), file.len().div_ceil(12));
            prop_assert_eq!(transaction_entries(&file).count(), file.len().div_ceil(34));
        }
    }
}
