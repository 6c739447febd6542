//! The record batch: the unit that is fetched, checked, written, counted and compared. Start reading here.
//!
//! A partition's log is nothing but record batches, one behind the other; so is a segment file, and so is
//! the records field of a Fetch response. Twinlog copies batches and never looks inside one: all that it
//! needs is this header, which is never compressed. ref: KIP-98
//!
//! ```text
//!  byte  0        8       12      16 17      21    23       27        35        43        51   53     57     61
//!        ├────────┼───────┼───────┼──┼───────┼─────┼────────┼─────────┼─────────┼─────────┼────┼──────┼──────┼──────
//!        │base    │length │leader │mg│crc    │attri│last    │base     │max      │producer │prod│base  │record│records
//!        │offset  │       │epoch  │=2│       │butes│offset  │timestamp│timestamp│id       │uc. │sequ. │count │(maybe
//!        │i64     │i32    │i32    │i8│u32    │i16  │delta   │i64      │i64      │i64      │ep. │i32   │i32   │ compressed)
//!        └────────┴───────┴───────┴──┴───────┴─────┴────────┴─────────┴─────────┴─────────┴────┴──────┴──────┴──────
//!                 │       └──────────── `length` counts these bytes, to the end of the records ─────────────────────
//!                 │                          └───────── `crc` is the CRC-32C of these bytes, to the end ────────────
//!        ╰─ may change ─╯ ╰─ may ─╯  without touching the CRC. All else is the producer's, byte for byte.
//!
//!  attributes   bit 0-2 codec   3 LogAppendTime   4 transactional   5 control   6 base timestamp is a delete horizon
//! ```
//!
//! Every number is big endian. Three facts carry the whole design:
//! - The CRC starts at byte 21, so a cluster may place a batch at another offset (bytes 0..8) and stamp its
//!   own leader epoch (bytes 12..16). Twinlog keeps the offset and stamps only the epoch; two copies are
//!   *identical* when the base offset, the length and every byte from 16 on are equal.
//! - The next batch starts at `base_offset + last_offset_delta + 1` or later: compaction leaves gaps between
//!   batches, and inside one (the record count may then be smaller than the delta says, even 0).
//! - Message formats 0 and 1 (before Kafka 0.11) have their magic at byte 16 too, in messages that can be
//!   shorter than this header. So 17 bytes are enough to name them, and must be enough.
//!
//! Invariants of a [`BatchHeader`] that left [`BatchHeader::parse`]: magic 2; base offset and last offset
//! delta are not negative; `next_offset` fits; the length covers the header and is at most the caller's
//! bound. Whether the CRC is right is known only after the last byte: that is `walk.rs`.
//! Must never trust a length before it is compared with a bound, and never panic on foreign bytes.

use core::fmt;

use crate::offset::{LeaderEpoch, Offset};

/// The header of a magic 2 batch. Fixed by the format.
pub const BATCH_HEADER_BYTES: usize = 61;

/// The base offset and the length itself, which the length does not count. Fixed by the format.
pub const LENGTH_PREFIX_BYTES: u32 = 12;

/// As many bytes as tell the message format of a batch of any age. Fixed by the format.
pub const MAGIC_PREFIX_BYTES: usize = 17;

/// Where the leader epoch lies in a batch: the four bytes that a store stamps.
pub const LEADER_EPOCH_AT: core::ops::Range<usize> = 12..16;

/// Where the bytes begin that the CRC covers.
pub const CRC_COVERS_FROM: usize = 21;

/// The smallest length that any message format can claim (magic 0, null key, null value).
const LENGTH_MIN_ANY_MAGIC: i32 = 14;

/// The smallest length of a magic 2 batch: its header without the prefix, no record at all.
const LENGTH_MIN: i32 = BATCH_HEADER_BYTES as i32 - LENGTH_PREFIX_BYTES as i32;

/// Producer id of a batch that was written without idempotence. ref: KIP-98
pub const NO_PRODUCER_ID: i64 = -1;

const ATTRIBUTE_CODEC: u16 = 0b111;
const ATTRIBUTE_LOG_APPEND_TIME: u16 = 1 << 3;
const ATTRIBUTE_TRANSACTIONAL: u16 = 1 << 4;
const ATTRIBUTE_CONTROL: u16 = 1 << 5;
const ATTRIBUTE_DELETE_HORIZON: u16 = 1 << 6;

/// How the records are compressed. Only ever shown: nothing here decompresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
    /// A codec younger than this program; its batches are copied like any other.
    Unknown(u8),
}

/// The 61 bytes in front of every batch, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes behind the length field; see [`BatchHeader::total_bytes`] for all of the batch.
    pub length_bytes: u32,
    /// The epoch of the leader that wrote the batch *in the cluster it was read from*.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of bytes 21 to the end, as stored.
    pub crc: u32,
    pub attributes: u16,
    pub last_offset_delta: u32,
    /// Unix time, or the delete horizon when [`BatchHeader::has_delete_horizon`]. ref: KIP-534
    pub base_timestamp_ms: i64,
    /// Unix time of the youngest record, -1 if none has one.
    pub max_timestamp_ms: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads a header; `batch_bytes_max` bounds the whole batch, header included.
    pub fn parse(bytes: &[u8; BATCH_HEADER_BYTES], batch_bytes_max: u32) -> Result<BatchHeader, BatchError> {
        let prefix = bytes.first_chunk::<MAGIC_PREFIX_BYTES>().expect("61 bytes hold 17");
        check_prefix(prefix, batch_bytes_max)?;
        let base_offset = i64_at(bytes, 0);
        let last_offset_delta = i32_at(bytes, 23);
        let record_count = i32_at(bytes, 57);
        let overflow = BatchError::OffsetOverflow { base_offset, last_offset_delta };
        let Ok(delta) = u32::try_from(last_offset_delta) else {
            return Err(BatchError::NegativeLastOffsetDelta { base_offset, last_offset_delta });
        };
        let Ok(record_count) = u32::try_from(record_count) else {
            return Err(BatchError::NegativeRecordCount { base_offset, record_count });
        };
        let base = Offset::new(base_offset).ok_or(BatchError::NegativeBaseOffset { base_offset })?;
        // The next offset has to exist too, not only the last one.
        if base.checked_add(delta).is_none_or(|last| last.value() == i64::MAX) {
            return Err(overflow);
        }
        Ok(BatchHeader {
            base_offset: base,
            length_bytes: i32_at(bytes, 8) as u32,
            leader_epoch: LeaderEpoch(i32_at(bytes, 12)),
            crc: i32_at(bytes, 17) as u32,
            attributes: i16_at(bytes, 21) as u16,
            last_offset_delta: delta,
            base_timestamp_ms: i64_at(bytes, 27),
            max_timestamp_ms: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            record_count,
        })
    }

    /// All bytes of the batch, from its base offset to the end of its records.
    pub const fn total_bytes(&self) -> u32 {
        self.length_bytes + LENGTH_PREFIX_BYTES
    }

    /// Bytes behind the header.
    pub const fn body_bytes(&self) -> u32 {
        self.total_bytes() - BATCH_HEADER_BYTES as u32
    }

    pub const fn last_offset(&self) -> Offset {
        self.base_offset.checked_add(self.last_offset_delta).expect("parse refuses an overflow")
    }

    /// Where the next batch may start.
    pub const fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    pub const fn codec(&self) -> Codec {
        match self.attributes & ATTRIBUTE_CODEC {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            other => Codec::Unknown(other as u8),
        }
    }

    /// The broker wrote the timestamps, not the producer. ref: KIP-32
    pub const fn is_log_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
    }

    pub const fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// Holds a marker of a transaction (or of KRaft), no user data.
    pub const fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// The base timestamp says when the cleaner may delete tombstones and markers. ref: KIP-534
    pub const fn has_delete_horizon(&self) -> bool {
        self.attributes & ATTRIBUTE_DELETE_HORIZON != 0
    }

    pub const fn has_producer_id(&self) -> bool {
        self.producer_id != NO_PRODUCER_ID
    }
}

/// All that 17 bytes can tell: old formats, hostile lengths. An old message may end before byte 61.
pub(crate) fn check_prefix(
    prefix: &[u8; MAGIC_PREFIX_BYTES],
    batch_bytes_max: u32,
) -> Result<(), BatchError> {
    let base_offset = i64_at(prefix, 0);
    let length = i32_at(prefix, 8);
    let magic = prefix[16] as i8;
    // First the length that no format can have: the zeros of a preallocated file must not look like an
    // old message of magic 0.
    if length < LENGTH_MIN_ANY_MAGIC {
        return Err(BatchError::LengthTooSmall { base_offset, length, min: LENGTH_MIN_ANY_MAGIC });
    }
    match magic {
        2 => {}
        0 | 1 => return Err(BatchError::OldMagic { base_offset, magic }),
        _ => return Err(BatchError::UnknownMagic { base_offset, magic }),
    }
    if length < LENGTH_MIN {
        return Err(BatchError::LengthTooSmall { base_offset, length, min: LENGTH_MIN });
    }
    if length as u32 + LENGTH_PREFIX_BYTES > batch_bytes_max {
        return Err(BatchError::LengthTooLarge { base_offset, length, max: batch_bytes_max });
    }
    if base_offset < 0 {
        return Err(BatchError::NegativeBaseOffset { base_offset });
    }
    Ok(())
}

// Callers pass arrays of fixed size and constant positions, so none of these can be out of bounds.
fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

/// Why bytes are not an acceptable record batch. Numbers are as read, so offsets here can be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    OldMagic { base_offset: i64, magic: i8 },
    UnknownMagic { base_offset: i64, magic: i8 },
    LengthTooSmall { base_offset: i64, length: i32, min: i32 },
    LengthTooLarge { base_offset: i64, length: i32, max: u32 },
    NegativeBaseOffset { base_offset: i64 },
    NegativeLastOffsetDelta { base_offset: i64, last_offset_delta: i32 },
    NegativeRecordCount { base_offset: i64, record_count: i32 },
    OffsetOverflow { base_offset: i64, last_offset_delta: i32 },
    CrcMismatch { base_offset: i64, stored: u32, computed: u32 },
}

impl BatchError {
    /// True for the bytes of a file that was preallocated and not yet written.
    pub const fn is_zeros(&self) -> bool {
        matches!(self, BatchError::LengthTooSmall { base_offset: 0, length: 0, .. })
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BatchError::OldMagic { base_offset, magic } => write!(
                f,
                "the message at offset {base_offset} has format {magic}, older than Kafka 0.11; only format 2 \
                 can be mirrored byte for byte: exclude the topic, or let its old segments expire first"
            ),
            BatchError::UnknownMagic { base_offset, magic } => write!(
                f,
                "the batch at offset {base_offset} has format {magic}; formats above 2 are unknown to this \
                 program: upgrade it, or check the bytes if the source does not use a newer format"
            ),
            BatchError::LengthTooSmall { base_offset, length, min } => write!(
                f,
                "the batch at offset {base_offset} claims a length of {length} bytes, below the {min} of its \
                 header: these bytes are not a record batch"
            ),
            BatchError::LengthTooLarge { base_offset, length, max } => write!(
                f,
                "the batch at offset {base_offset} claims a length of {length} bytes; a whole batch may have \
                 {max}: raise batch.bytes.max if the source really holds such batches"
            ),
            BatchError::NegativeBaseOffset { base_offset } => {
                write!(f, "a batch has the negative base offset {base_offset}: these bytes are not a log")
            }
            BatchError::NegativeLastOffsetDelta { base_offset, last_offset_delta } => write!(
                f,
                "the batch at offset {base_offset} has the negative last offset delta {last_offset_delta}: \
                 its header is corrupt"
            ),
            BatchError::NegativeRecordCount { base_offset, record_count } => write!(
                f,
                "the batch at offset {base_offset} claims {record_count} records: its header is corrupt"
            ),
            BatchError::OffsetOverflow { base_offset, last_offset_delta } => write!(
                f,
                "the batch at offset {base_offset} spans {last_offset_delta} more offsets, past the largest \
                 offset there is: its header is corrupt"
            ),
            BatchError::CrcMismatch { base_offset, stored, computed } => write!(
                f,
                "the batch at offset {base_offset} says CRC {stored:#010x}, its bytes have {computed:#010x}: \
                 they were damaged on the way or on a disk; read them again"
            ),
        }
    }
}

impl core::error::Error for BatchError {}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::BatchBuilder;

    const MAX: u32 = 1 << 20;

    fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        BatchHeader::parse(bytes.first_chunk().unwrap(), MAX)
    }

    fn changed(at: usize, with: &[u8]) -> Vec<u8> {
        let mut bytes = BatchBuilder::at(42).records(2, 10).build();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let bytes = BatchBuilder::at(5_000_000_000)
            .records(3, 100)
            .leader_epoch(7)
            .timestamps(1_000, 2_000)
            .transactional(99, 4, 17)
            .attributes(4 | 1 << 3 | 1 << 6)
            .build();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.base_offset.value(), 5_000_000_000);
        assert_eq!(header.last_offset().value(), 5_000_000_002);
        assert_eq!(header.next_offset().value(), 5_000_000_003);
        assert_eq!(header.total_bytes() as usize, bytes.len());
        assert_eq!(header.body_bytes() as usize, bytes.len() - BATCH_HEADER_BYTES);
        assert_eq!(header.leader_epoch, LeaderEpoch(7));
        assert_eq!(header.crc.to_be_bytes(), bytes[17..21]);
        assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (1_000, 2_000));
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (99, 4, 17));
        assert_eq!((header.record_count, header.codec()), (3, Codec::Zstd));
        assert!(header.is_transactional() && header.is_log_append_time() && header.has_delete_horizon());
        assert!(!header.is_control() && header.has_producer_id());
    }

    #[test]
    fn every_codec_has_a_name() {
        let codec = |bits| parse(&BatchBuilder::at(0).attributes(bits).build()).unwrap().codec();
        let known = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
        assert_eq!([0, 1, 2, 3, 4].map(codec), known);
        assert_eq!(codec(7), Codec::Unknown(7));
    }

    #[test]
    fn old_formats_are_named_and_newer_ones_too() {
        assert_eq!(parse(&changed(16, &[0])), Err(BatchError::OldMagic { base_offset: 42, magic: 0 }));
        assert_eq!(parse(&changed(16, &[1])), Err(BatchError::OldMagic { base_offset: 42, magic: 1 }));
        assert_eq!(parse(&changed(16, &[3])), Err(BatchError::UnknownMagic { base_offset: 42, magic: 3 }));
        assert_eq!(parse(&changed(16, &[255])), Err(BatchError::UnknownMagic { base_offset: 42, magic: -1 }));
    }

    #[test]
    fn hostile_lengths_are_bounded_on_both_sides() {
        for length in [i32::MIN, -1, 0, 13, 48] {
            let error = parse(&changed(8, &length.to_be_bytes())).unwrap_err();
            assert!(matches!(error, BatchError::LengthTooSmall { length: found, .. } if found == length));
        }
        assert!(parse(&changed(8, &49i32.to_be_bytes())).is_ok());
        assert!(parse(&changed(8, &(MAX as i32 - 12).to_be_bytes())).is_ok());
        for length in [MAX as i32 - 11, i32::MAX] {
            let error = parse(&changed(8, &length.to_be_bytes())).unwrap_err();
            assert_eq!(error, BatchError::LengthTooLarge { base_offset: 42, length, max: MAX });
        }
    }

    #[test]
    fn negative_numbers_are_refused() {
        let error = parse(&changed(0, &(-5i64).to_be_bytes())).unwrap_err();
        assert_eq!(error, BatchError::NegativeBaseOffset { base_offset: -5 });
        let error = parse(&changed(23, &(-1i32).to_be_bytes())).unwrap_err();
        assert_eq!(error, BatchError::NegativeLastOffsetDelta { base_offset: 42, last_offset_delta: -1 });
        let error = parse(&changed(57, &(-1i32).to_be_bytes())).unwrap_err();
        assert_eq!(error, BatchError::NegativeRecordCount { base_offset: 42, record_count: -1 });
    }

    #[test]
    fn the_next_offset_always_exists() {
        let at_the_edge =
            |base: i64, delta: u32| parse(&BatchBuilder::at(base).last_offset_delta(delta).build());
        assert_eq!(at_the_edge(i64::MAX - 3, 2).unwrap().next_offset().value(), i64::MAX);
        for (base, delta) in [(i64::MAX - 3, 3), (i64::MAX, 0), (i64::MAX, i32::MAX as u32)] {
            assert!(matches!(at_the_edge(base, delta), Err(BatchError::OffsetOverflow { .. })));
        }
    }

    #[test]
    fn an_emptied_batch_spans_its_offsets() {
        let header = parse(&BatchBuilder::at(10).last_offset_delta(4).build()).unwrap();
        assert_eq!((header.record_count, header.total_bytes()), (0, 61));
        assert_eq!(header.next_offset().value(), 15);
    }

    #[test]
    fn zeros_are_not_an_old_message() {
        let error = parse(&[0; 61]).unwrap_err();
        assert!(error.is_zeros());
        assert!(!parse(&changed(8, &[0; 4])).unwrap_err().is_zeros());
    }

    #[test]
    fn an_error_says_what_to_do() {
        let error = BatchError::LengthTooLarge { base_offset: 42, length: 99, max: 7 };
        assert_eq!(
            error.to_string(),
            "the batch at offset 42 claims a length of 99 bytes; a whole batch may have 7: raise \
             batch.bytes.max if the source really holds such batches"
        );
    }
}
