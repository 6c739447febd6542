//! The checkpoint of a mirror partition: everything a restart needs, as one framed record of a journal.
//!
//! A record says "all of this is on disk": it is written only after the data and the indexes that it covers
//! were flushed. A journal is records one behind the other; of each partition the highest generation counts.
//!
//! ```text
//! frame    0      4         6          10      14
//!          │"TWLC"│version  │length    │crc32c │ payload, `length` bytes ...
//!          │      │u16 = 2  │u32       │u32    │
//!                 └─ crc ──────────────┘       └─ crc ─── (covers version, length and payload)
//!
//! payload  generation u64 │ flags u8: 1 removed, 2 truncating │ topic length u16, bytes │ partition i32
//!          topic id 16 │ segment base i64 │ position u64 │ log start i64 │ log end i64
//!          interval bytes u64 │ max timestamp i64 │ its offset i64 │ last time entry i64
//!          size of .index u64, .timeindex u64, .txnindex u64
//!          source epochs: count u32, then (epoch i32, start i64) each
//!          stamp epochs:  count u32, then (epoch i32, start i64) each
//!          open transactions: count u32, then (producer id i64, first offset i64) each
//!          held start i64 (from version 2 on; in version 1 it is the log start)
//! ```
//!
//! Numbers are big endian. The frame stays as it is in every later version, so that an old program can tell
//! "newer" from "torn". A torn or unwritten tail reads as the end of the journal: what it would have said was
//! never counted.
//!
//! Invariants: `log_start <= held_start <= log_end`, `segment_base <= log_end`; decoding checks what encoding asserts.
//! Must never be written ahead of the data, and must never be trusted beyond its CRC and bounds.

use alloc::vec::Vec;
use core::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use crate::epoch::{EPOCHS_MAX, EpochHistory, EpochStart};
use crate::files::{TopicId, TopicPartition};
use crate::index::IndexState;
use crate::offset::{LeaderEpoch, Offset};
use crate::segment::SEGMENT_BYTES_MAX;
use crate::transaction::{OPEN_TRANSACTIONS_MAX, OpenTransactions};

/// The version that this program writes, and the newest that it reads.
pub const CHECKPOINT_VERSION: u16 = 2;

/// The oldest version that it reads.
const CHECKPOINT_VERSION_MIN: u16 = 1;
/// From here on a record says what is held.
const VERSION_WITH_HELD_START: u16 = 2;

/// Bytes in front of the payload. Fixed for ever.
pub const FRAME_BYTES: usize = 14;

/// The longest payload: both histories and the transactions full. A longer claim is not one of our records.
pub const PAYLOAD_BYTES_MAX: usize = 1024 + 2 * EPOCHS_MAX * 12 + OPEN_TRANSACTIONS_MAX * 16;

const MAGIC: &[u8; 4] = b"TWLC";
const FLAG_REMOVED: u8 = 1;
const FLAG_TRUNCATING: u8 = 2;

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// Counts up with every record of the partition, over restarts too.
    pub generation: u64,
    pub partition: TopicPartition,
    /// The source's. A topic re-created there has another one and must not be appended.
    pub topic_id: TopicId,
    /// The partition was removed; its files are to be deleted if any are left.
    pub removed: bool,
    /// The record describes the log *after* a cut whose files may still be longer: before anything else they
    /// are cut to `position` and the three index sizes, and later segments deleted. Else an old batch that
    /// lies aligned behind a shorter regrowth would pass every check.
    pub truncating: bool,
    /// Of the active segment.
    pub segment_base: Offset,
    /// Bytes of whole batches in the active segment.
    pub position: u64,
    /// First offset that the topic has. Followers delete what is below it.
    pub log_start: Offset,
    pub log_end: Offset,
    /// First offset that our files hold: above the log start where a spool gave up what followers have.
    pub held_start: Offset,
    /// Of the active segment, at `position`.
    pub index: IndexState,
    /// Sizes of the active segment's index files that are covered.
    pub offset_index_bytes: u64,
    pub time_index_bytes: u64,
    pub transaction_index_bytes: u64,
    /// Which epoch of the source wrote which offsets.
    pub source_epochs: EpochHistory,
    /// Which epoch this store stamped into which offsets.
    pub stamp_epochs: EpochHistory,
    /// Open at `log_end`.
    pub open_transactions: OpenTransactions,
}

impl PartitionCheckpoint {
    /// A partition of which nothing is stored yet and whose log will begin at `log_start`.
    pub fn empty(partition: TopicPartition, topic_id: TopicId, log_start: Offset) -> PartitionCheckpoint {
        PartitionCheckpoint {
            generation: 0,
            partition,
            topic_id,
            removed: false,
            truncating: false,
            segment_base: log_start,
            position: 0,
            log_start,
            log_end: log_start,
            held_start: log_start,
            index: IndexState::new(log_start),
            offset_index_bytes: 0,
            time_index_bytes: 0,
            transaction_index_bytes: 0,
            source_epochs: EpochHistory::new(),
            stamp_epochs: EpochHistory::new(),
            open_transactions: OpenTransactions::new(),
        }
    }

    /// The epoch that new batches are stamped with: 0 until a truncation or take-over raised it.
    pub fn stamp_epoch(&self) -> LeaderEpoch {
        self.stamp_epochs.latest().map_or(LeaderEpoch(0), |latest| latest.epoch)
    }

    /// Whether the files hold less than the topic has.
    pub fn is_spool(&self) -> bool {
        self.held_start > self.log_start
    }

    /// Appends the framed record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.is_consistent(), "a checkpoint must say what decoding would accept");
        let frame_at = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&CHECKPOINT_VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        self.encode_payload(out);
        let frame = &mut out[frame_at..];
        let length = (frame.len() - FRAME_BYTES) as u32;
        frame[6..10].copy_from_slice(&length.to_be_bytes());
        let crc = frame_crc(frame);
        frame[10..14].copy_from_slice(&crc.to_be_bytes());
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.push(u8::from(self.removed) * FLAG_REMOVED + u8::from(self.truncating) * FLAG_TRUNCATING);
        out.extend_from_slice(&(self.partition.topic().len() as u16).to_be_bytes());
        out.extend_from_slice(self.partition.topic().as_bytes());
        out.extend_from_slice(&self.partition.partition().to_be_bytes());
        out.extend_from_slice(&self.topic_id.0);
        out.extend_from_slice(&self.segment_base.value().to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.log_start.value().to_be_bytes());
        out.extend_from_slice(&self.log_end.value().to_be_bytes());
        out.extend_from_slice(&self.index.interval_bytes.to_be_bytes());
        out.extend_from_slice(&self.index.max_timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.index.max_timestamp_offset.value().to_be_bytes());
        out.extend_from_slice(&self.index.last_time_entry_ms.to_be_bytes());
        out.extend_from_slice(&self.offset_index_bytes.to_be_bytes());
        out.extend_from_slice(&self.time_index_bytes.to_be_bytes());
        out.extend_from_slice(&self.transaction_index_bytes.to_be_bytes());
        for history in [&self.source_epochs, &self.stamp_epochs] {
            out.extend_from_slice(&(history.entries().len() as u32).to_be_bytes());
            for entry in history.entries() {
                out.extend_from_slice(&entry.epoch.0.to_be_bytes());
                out.extend_from_slice(&entry.start.value().to_be_bytes());
            }
        }
        out.extend_from_slice(&(self.open_transactions.len() as u32).to_be_bytes());
        for (producer_id, first_offset) in self.open_transactions.iter() {
            out.extend_from_slice(&producer_id.to_be_bytes());
            out.extend_from_slice(&first_offset.value().to_be_bytes());
        }
        out.extend_from_slice(&self.held_start.value().to_be_bytes());
    }

    /// Reads the record at the start of `bytes` and says how long it is; `None` where the journal ends
    /// (nothing, zeros, a torn or damaged record).
    pub fn decode(bytes: &[u8]) -> Result<Option<(PartitionCheckpoint, usize)>, CheckpointError> {
        let Some((frame, _)) = bytes.split_first_chunk::<FRAME_BYTES>() else { return Ok(None) };
        if frame[..4] != MAGIC[..] {
            return Ok(None);
        }
        let version = u16::from_be_bytes([frame[4], frame[5]]);
        let length = u32::from_be_bytes([frame[6], frame[7], frame[8], frame[9]]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            // A newer program may have longer records; to drop one of those would lose what it knows.
            let newer = version > CHECKPOINT_VERSION;
            return if newer { Err(CheckpointError::NewerVersion { version }) } else { Ok(None) };
        }
        let Some(record) = bytes.get(..FRAME_BYTES + length) else { return Ok(None) };
        let stored_crc = u32::from_be_bytes([frame[10], frame[11], frame[12], frame[13]]);
        if frame_crc(record) != stored_crc {
            return Ok(None);
        }
        if version > CHECKPOINT_VERSION {
            return Err(CheckpointError::NewerVersion { version });
        }
        if version < CHECKPOINT_VERSION_MIN {
            return Err(CheckpointError::Malformed { field: "version" });
        }
        let checkpoint = decode_payload(&record[FRAME_BYTES..], version)?;
        Ok(Some((checkpoint, record.len())))
    }

    fn is_consistent(&self) -> bool {
        self.log_start <= self.held_start
            && self.held_start <= self.log_end
            && self.segment_base <= self.log_end
            && self.index.segment_base == self.segment_base
            && self.index.max_timestamp_offset >= self.segment_base
            && self.index.last_time_entry_ms <= self.index.max_timestamp_ms
            && self.position <= u64::from(SEGMENT_BYTES_MAX)
    }
}

fn frame_crc(frame: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&frame[4..10]);
    digest.update(&frame[FRAME_BYTES..]);
    digest.finalize() as u32
}

fn decode_payload(payload: &[u8], version: u16) -> Result<PartitionCheckpoint, CheckpointError> {
    let mut reader = Reader { rest: payload };
    let generation = reader.u64("generation")?;
    let [flags] = reader.array("flags")?;
    if flags & !(FLAG_REMOVED | FLAG_TRUNCATING) != 0 {
        return Err(CheckpointError::Malformed { field: "flags" });
    }
    let topic_bytes = u16::from_be_bytes(reader.array("topic")?);
    let topic = reader.bytes(usize::from(topic_bytes), "topic")?;
    let topic = core::str::from_utf8(topic).map_err(|_| CheckpointError::Malformed { field: "topic" })?;
    let partition = i32::from_be_bytes(reader.array("partition")?);
    let partition = TopicPartition::new(topic, partition)
        .map_err(|_| CheckpointError::Malformed { field: "topic partition" })?;
    let topic_id = TopicId(reader.array("topic id")?);
    let segment_base = reader.offset("segment base")?;
    let mut checkpoint = PartitionCheckpoint {
        generation,
        partition,
        topic_id,
        removed: flags & FLAG_REMOVED != 0,
        truncating: flags & FLAG_TRUNCATING != 0,
        segment_base,
        position: reader.u64("position")?,
        log_start: reader.offset("log start")?,
        log_end: reader.offset("log end")?,
        held_start: Offset::ZERO,
        index: IndexState {
            segment_base,
            interval_bytes: reader.u64("interval bytes")?,
            max_timestamp_ms: reader.i64("max timestamp")?,
            max_timestamp_offset: reader.offset("max timestamp offset")?,
            last_time_entry_ms: reader.i64("last time entry")?,
        },
        offset_index_bytes: reader.u64("offset index size")?,
        time_index_bytes: reader.u64("time index size")?,
        transaction_index_bytes: reader.u64("transaction index size")?,
        source_epochs: reader.epochs("source epochs")?,
        stamp_epochs: reader.epochs("stamp epochs")?,
        open_transactions: reader.transactions("open transactions")?,
    };
    checkpoint.held_start = match version {
        VERSION_WITH_HELD_START.. => reader.offset("held start")?,
        _ => checkpoint.log_start,
    };
    if !reader.rest.is_empty() {
        return Err(CheckpointError::Malformed { field: "end" });
    }
    if !checkpoint.is_consistent() {
        return Err(CheckpointError::Malformed { field: "offsets" });
    }
    Ok(checkpoint)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], CheckpointError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CheckpointError::Malformed { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const SIZE: usize>(&mut self, field: &'static str) -> Result<[u8; SIZE], CheckpointError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CheckpointError::Malformed { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, CheckpointError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, CheckpointError> {
        self.array(field).map(i64::from_be_bytes)
    }

    fn offset(&mut self, field: &'static str) -> Result<Offset, CheckpointError> {
        Offset::new(self.i64(field)?).ok_or(CheckpointError::Malformed { field })
    }

    fn epochs(&mut self, field: &'static str) -> Result<EpochHistory, CheckpointError> {
        let count = u32::from_be_bytes(self.array(field)?);
        let mut history = EpochHistory::new();
        for _ in 0..count {
            let epoch = LeaderEpoch(i32::from_be_bytes(self.array(field)?));
            let start = self.offset(field)?;
            history.push(EpochStart { epoch, start }).map_err(|_| CheckpointError::Malformed { field })?;
        }
        Ok(history)
    }

    fn transactions(&mut self, field: &'static str) -> Result<OpenTransactions, CheckpointError> {
        let count = u32::from_be_bytes(self.array(field)?);
        let mut open = OpenTransactions::new();
        for _ in 0..count {
            let producer_id = self.i64(field)?;
            let first_offset = self.offset(field)?;
            open.restore(producer_id, first_offset).map_err(|_| CheckpointError::Malformed { field })?;
        }
        Ok(open)
    }
}

/// Why a whole, undamaged record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    NewerVersion { version: u16 },
    Malformed { field: &'static str },
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::NewerVersion { version } => write!(
                f,
                "a checkpoint is written in version {version}, this program reads up to {CHECKPOINT_VERSION}: \
                 start the newer program that wrote it, or an empty data directory"
            ),
            CheckpointError::Malformed { field } => write!(
                f,
                "a checkpoint record has a right CRC and a wrong value for its {field}: a fault of the program \
                 that wrote it; keep the journal for a report and delete it to recover by a full scan"
            ),
        }
    }
}

impl core::error::Error for CheckpointError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn any_epochs() -> impl Strategy<Value = EpochHistory> {
        prop::collection::btree_map(0i32..100, 1i64..1000, 0..6).prop_map(|steps| {
            let mut history = EpochHistory::new();
            let mut start = 0;
            for (epoch, step) in steps {
                start += step;
                history.record(LeaderEpoch(epoch), at(start)).unwrap();
            }
            history
        })
    }

    fn any_transactions() -> impl Strategy<Value = OpenTransactions> {
        prop::collection::btree_map(any::<i64>(), 1i64..1000, 0..6).prop_map(|steps| {
            let mut open = OpenTransactions::new();
            let mut first_offset = 0;
            for (producer_id, step) in steps {
                first_offset += step;
                open.restore(producer_id, at(first_offset)).unwrap();
            }
            open
        })
    }

    fn any_checkpoint() -> impl Strategy<Value = PartitionCheckpoint> {
        let names =
            ("[a-z.]{3,20}", 0i32..1000, any::<[u8; 16]>(), any::<u64>(), any::<bool>(), any::<bool>());
        let held = prop_oneof![Just(0), 0i64..1 << 40];
        let offsets =
            (0i64..1 << 40, 0i64..1 << 40, 0i64..1 << 40, held, 0u64..=u64::from(SEGMENT_BYTES_MAX));
        let index = (any::<u64>(), -1i64..1 << 40, 0i64..1 << 30, any::<[u64; 3]>());
        (names, offsets, index, any_epochs(), any_epochs(), any_transactions()).prop_map(
            |(
                names,
                (start, base, length, held, position),
                index,
                source_epochs,
                stamp_epochs,
                open_transactions,
            )| {
                let (topic, partition, topic_id, generation, removed, truncating) = names;
                let (interval_bytes, max_timestamp_ms, max_timestamp_delta, sizes) = index;
                PartitionCheckpoint {
                    generation,
                    partition: TopicPartition::new(&topic, partition).unwrap(),
                    topic_id: TopicId(topic_id),
                    removed,
                    truncating,
                    segment_base: at(base),
                    position,
                    log_start: at(start),
                    log_end: at(start.max(base) + length),
                    held_start: at((start + held).min(start.max(base) + length)),
                    index: IndexState {
                        segment_base: at(base),
                        interval_bytes,
                        max_timestamp_ms,
                        max_timestamp_offset: at(base + max_timestamp_delta),
                        last_time_entry_ms: max_timestamp_ms - 1,
                    },
                    offset_index_bytes: sizes[0],
                    time_index_bytes: sizes[1],
                    transaction_index_bytes: sizes[2],
                    source_epochs,
                    stamp_epochs,
                    open_transactions,
                }
            },
        )
    }

    fn encoded(checkpoint: &PartitionCheckpoint) -> Vec<u8> {
        let mut bytes = Vec::new();
        checkpoint.encode(&mut bytes);
        bytes
    }

    fn small() -> PartitionCheckpoint {
        PartitionCheckpoint::empty(TopicPartition::new("orders", 3).unwrap(), TopicId([9; 16]), at(42))
    }

    /// Changes a record and makes its CRC right again.
    fn resealed(mut record: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
        record[at..at + with.len()].copy_from_slice(with);
        let crc = frame_crc(&record);
        record[10..14].copy_from_slice(&crc.to_be_bytes());
        record
    }

    #[test]
    fn the_stamp_epoch_begins_at_zero_and_follows_its_history() {
        let mut checkpoint = small();
        assert_eq!(checkpoint.stamp_epoch(), LeaderEpoch(0));
        checkpoint.stamp_epochs.record(LeaderEpoch(4), at(42)).unwrap();
        assert_eq!(checkpoint.stamp_epoch(), LeaderEpoch(4));
    }

    #[test]
    fn an_old_program_refuses_a_newer_record() {
        let newer = resealed(encoded(&small()), 4, &3u16.to_be_bytes());
        let error = CheckpointError::NewerVersion { version: 3 };
        assert_eq!(PartitionCheckpoint::decode(&newer), Err(error));
        // Longer than any of ours, and not all of it is here: still not a torn tail.
        let mut longer = newer;
        longer[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(PartitionCheckpoint::decode(&longer), Err(error));
    }

    #[test]
    fn a_version_that_never_was_is_refused() {
        let record = resealed(encoded(&small()), 4, &0u16.to_be_bytes());
        let error = CheckpointError::Malformed { field: "version" };
        assert_eq!(PartitionCheckpoint::decode(&record), Err(error));
    }

    #[test]
    fn what_is_held_lies_within_the_log() {
        let length = encoded(&small()).len();
        for held in [41i64, 43] {
            let record = resealed(encoded(&small()), length - 8, &held.to_be_bytes());
            let error = CheckpointError::Malformed { field: "offsets" };
            assert_eq!(PartitionCheckpoint::decode(&record), Err(error), "{held}");
        }
        let record = resealed(encoded(&small()), length - 8, &(-1i64).to_be_bytes());
        let error = CheckpointError::Malformed { field: "held start" };
        assert_eq!(PartitionCheckpoint::decode(&record), Err(error));
    }

    #[test]
    fn a_hostile_length_reads_as_the_end() {
        let mut record = encoded(&small());
        record[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(PartitionCheckpoint::decode(&record), Ok(None));
    }

    #[test]
    fn a_wrong_value_behind_a_right_crc_is_named() {
        let flags = resealed(encoded(&small()), FRAME_BYTES + 8, &[4]);
        assert_eq!(PartitionCheckpoint::decode(&flags), Err(CheckpointError::Malformed { field: "flags" }));
        let dots = resealed(encoded(&small()), FRAME_BYTES + 11, b"../../");
        let error = CheckpointError::Malformed { field: "topic partition" };
        assert_eq!(PartitionCheckpoint::decode(&dots), Err(error));
        let topic_end = FRAME_BYTES + 11 + 6;
        let base = resealed(encoded(&small()), topic_end + 20, &(-1i64).to_be_bytes());
        let error = CheckpointError::Malformed { field: "segment base" };
        assert_eq!(PartitionCheckpoint::decode(&base), Err(error));
        let end = resealed(encoded(&small()), topic_end + 20 + 24, &0i64.to_be_bytes());
        assert_eq!(PartitionCheckpoint::decode(&end), Err(CheckpointError::Malformed { field: "offsets" }));
    }

    #[test]
    fn the_largest_record_is_within_the_bound() {
        let mut checkpoint = small();
        checkpoint.partition = TopicPartition::new(&"x".repeat(249), 12_345).unwrap();
        for index in 0..EPOCHS_MAX as i32 {
            checkpoint.source_epochs.record(LeaderEpoch(index), at(i64::from(index))).unwrap();
            checkpoint.stamp_epochs.record(LeaderEpoch(index), at(i64::from(index))).unwrap();
        }
        for index in 0..OPEN_TRANSACTIONS_MAX as i64 {
            checkpoint.open_transactions.restore(index, at(index)).unwrap();
        }
        let bytes = encoded(&checkpoint);
        assert!(bytes.len() <= FRAME_BYTES + PAYLOAD_BYTES_MAX);
        let length = bytes.len();
        assert_eq!(PartitionCheckpoint::decode(&bytes), Ok(Some((checkpoint, length))));
    }

    proptest! {
        #[test]
        fn a_record_survives_its_encoding(checkpoint in any_checkpoint(), behind in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = encoded(&checkpoint);
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            prop_assert_eq!(PartitionCheckpoint::decode(&bytes), Ok(Some((checkpoint, length))));
        }

        #[test]
        fn a_record_of_the_first_version_holds_all_of_its_log(checkpoint in any_checkpoint()) {
            let mut first = encoded(&checkpoint);
            first.truncate(first.len() - 8);
            let length = (first.len() - FRAME_BYTES) as u32;
            first[6..10].copy_from_slice(&length.to_be_bytes());
            let first = resealed(first, 4, &1u16.to_be_bytes());
            let expected = PartitionCheckpoint { held_start: checkpoint.log_start, ..checkpoint };
            prop_assert_eq!(PartitionCheckpoint::decode(&first), Ok(Some((expected, first.len()))));
        }

        #[test]
        fn a_record_torn_at_any_byte_reads_as_the_end(checkpoint in any_checkpoint()) {
            let bytes = encoded(&checkpoint);
            for length in 0..bytes.len() {
                prop_assert_eq!(PartitionCheckpoint::decode(&bytes[..length]), Ok(None));
                // The same with the rest of the block never written.
                let mut zeros = bytes.clone();
                zeros[length..].fill(0);
                if zeros != bytes {
                    prop_assert_eq!(PartitionCheckpoint::decode(&zeros), Ok(None));
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_never_accepted(checkpoint in any_checkpoint(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encoded(&checkpoint);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!matches!(PartitionCheckpoint::decode(&bytes), Ok(Some(_))));
        }

        #[test]
        fn no_bytes_make_it_panic(version in 0u8..4, payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut record = Vec::from([b'T', b'W', b'L', b'C', 0, version]);
            record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            record.extend_from_slice(&[0; 4]);
            record.extend_from_slice(&payload);
            let record = resealed(record, 0, b"TWLC");
            prop_assert!(!matches!(PartitionCheckpoint::decode(&record), Ok(Some(_))));
        }
    }
}
