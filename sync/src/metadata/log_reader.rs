//! Batches of the metadata log, and the records in them.
//!
//! Owns the way from the bytes of a Fetch or of a snapshot to record values with offsets. Whole batches
//! only: a piece at the end belongs to the next fetch. Every batch's CRC is checked before a record of it
//! is looked at. The controller never compresses its log; a compressed batch is an error.
//!
//! ```text
//!   bytes   │ batch │ batch │ piece ..           batch   control: only its kind   (ref: KIP-595, KIP-630)
//!   record  length varint │ attributes i8 │ timestamp varlong │ offset delta varint │
//!           key length varint │ key │ value length varint │ value │ headers ...
//! ```

use alloc::vec::Vec;
use core::fmt;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec};
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

/// Largest batch: the controller's own default is 8 MiB. Raised, one batch may take as much memory.
pub const BATCH_BYTES_MAX: u32 = 64 << 20;

/// The control record in front of a snapshot. ref: KIP-630
pub const SNAPSHOT_HEADER: ControlKind = ControlKind::Other(3);
/// The control record that ends a snapshot: without it the snapshot is not whole.
pub const SNAPSHOT_FOOTER: ControlKind = ControlKind::Other(4);

/// One whole batch with a right CRC.
#[derive(Clone, Copy, Debug)]
pub struct LogBatch<'a> {
    pub header: BatchHeader,
    /// Set for control batches, which hold no metadata.
    pub control: Option<ControlKind>,
    /// All of the batch, header included.
    pub bytes: &'a [u8],
}

/// Why bytes are no metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError {
    Batch(BatchError),
    Compressed {
        base_offset: i64,
    },
    /// A record's length or one of its fields passes the end of its batch.
    Record {
        base_offset: i64,
        record: u32,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(error) => write!(f, "the metadata log holds what is no batch: {error}"),
            Self::Compressed { base_offset } => {
                write!(
                    f,
                    "the metadata batch at offset {base_offset} is compressed, which no controller does"
                )
            }
            Self::Record { base_offset, record } => {
                write!(f, "record {record} of the metadata batch at offset {base_offset} passes its end")
            }
        }
    }
}

impl core::error::Error for LogError {}

/// The whole batches of `bytes`; what follows the last of them is left out.
pub fn whole_batches(bytes: &[u8]) -> Result<Vec<LogBatch<'_>>, LogError> {
    let mut walk = BatchWalk::new(BATCH_BYTES_MAX);
    let (mut batches, mut at, mut start) = (Vec::new(), 0, 0);
    loop {
        let (consumed, event) = walk.feed(&bytes[at..]);
        at += consumed;
        match event.transpose().map_err(LogError::Batch)? {
            None => return Ok(batches),
            Some(WalkEvent::Header(_)) => {}
            Some(WalkEvent::Batch { header, control }) => {
                if header.codec() != Codec::None {
                    return Err(LogError::Compressed { base_offset: header.base_offset.value() });
                }
                batches.push(LogBatch { header, control, bytes: &bytes[start..at] });
                start = at;
            }
        }
    }
}

impl<'a> LogBatch<'a> {
    /// The records' offsets and values. A control batch has none.
    pub fn records(&self) -> Records<'a> {
        let count = if self.control.is_some() { 0 } else { self.header.record_count };
        let rest = &self.bytes[BATCH_HEADER_BYTES..];
        Records { base_offset: self.header.base_offset, rest, count, at: 0 }
    }
}

/// See [`LogBatch::records`].
pub struct Records<'a> {
    base_offset: Offset,
    rest: &'a [u8],
    count: u32,
    at: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Offset, &'a [u8]), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.count {
            return None;
        }
        let found = self.take_record();
        let failed = LogError::Record { base_offset: self.base_offset.value(), record: self.at };
        // After a broken record the place of the next one is not known.
        self.at = if found.is_some() { self.at + 1 } else { self.count };
        Some(found.ok_or(failed))
    }
}

impl<'a> Records<'a> {
    fn take_record(&mut self) -> Option<(Offset, &'a [u8])> {
        let (length, rest) = variable(self.rest)?;
        let length = usize::try_from(length).ok()?;
        let (record, after) = (rest.get(..length)?, &rest[length..]);
        let (_attributes, record) = record.split_first()?;
        let (_timestamp_delta, record) = variable(record)?;
        let (offset_delta, record) = variable(record)?;
        let (_key, record) = field(record)?;
        let (value, _headers) = field(record)?;
        self.rest = after;
        let offset = self.base_offset.checked_add(u32::try_from(offset_delta).ok()?)?;
        Some((offset, value))
    }
}

/// Bytes behind a zigzag length; null counts as empty.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = variable(bytes)?;
    let length = usize::try_from(length.max(0)).ok()?;
    Some((rest.get(..length)?, &rest[length..]))
}

/// A zigzag number of 1 to 10 bytes, and what follows it.
fn variable(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(((value >> 1) as i64 ^ -((value & 1) as i64), &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod written {
    //! Builds batches of metadata records as a controller writes them.

    use super::*;
    use twinlog_log_segment::testing::BatchBuilder;

    fn put_variable(out: &mut Vec<u8>, value: i64) {
        let mut bits = ((value << 1) ^ (value >> 63)) as u64;
        while bits >= 0x80 {
            out.push(bits as u8 | 0x80);
            bits >>= 7;
        }
        out.push(bits as u8);
    }

    /// One batch with a record for each value.
    pub fn batch(base_offset: i64, leader_epoch: i32, values: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for (delta, value) in values.iter().enumerate() {
            let mut record = alloc::vec![0, 0];
            put_variable(&mut record, delta as i64);
            put_variable(&mut record, -1);
            put_variable(&mut record, value.len() as i64);
            record.extend_from_slice(value);
            record.push(0);
            put_variable(&mut body, record.len() as i64);
            body.extend_from_slice(&record);
        }
        let count = values.len() as u32;
        let builder = BatchBuilder::at(base_offset).leader_epoch(leader_epoch).body(count, &body);
        builder.last_offset_delta(count.saturating_sub(1)).build()
    }

    /// A control batch of one record.
    pub fn control(base_offset: i64, leader_epoch: i32, kind: ControlKind) -> Vec<u8> {
        let marker = BatchBuilder::at(base_offset).leader_epoch(leader_epoch).marker(-1, -1, kind);
        marker.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn records_come_with_their_offsets_and_a_piece_at_the_end_is_left_out() {
        let mut bytes = written::batch(10, 1, &[vec![1], vec![2, 2]]);
        bytes.extend(written::control(12, 1, SNAPSHOT_FOOTER));
        let whole = bytes.len();
        bytes.extend_from_slice(&written::batch(13, 1, &[vec![3]])[..60]);
        let batches = whole_batches(&bytes).unwrap();
        assert_eq!(batches.len(), 2);
        assert_eq!(batches.iter().map(|batch| batch.bytes.len()).sum::<usize>(), whole);
        let records: Vec<_> = batches[0].records().map(Result::unwrap).collect();
        assert_eq!(records.iter().map(|(offset, _)| offset.value()).collect::<Vec<_>>(), [10, 11]);
        assert_eq!(records[1].1, [2, 2]);
        assert_eq!(batches[1].control, Some(SNAPSHOT_FOOTER));
        assert_eq!(batches[1].records().count(), 0);
    }

    #[test]
    fn a_record_that_claims_more_than_its_batch_is_an_error_and_the_last_one() {
        let batch = twinlog_log_segment::testing::BatchBuilder::at(5).body(3, &[0x7e, 0, 0]).build();
        let batches = whole_batches(&batch).unwrap();
        let found: Vec<_> = batches[0].records().collect();
        assert_eq!(found, [Err(LogError::Record { base_offset: 5, record: 0 })]);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_body_make_it_panic(
            body in prop::collection::vec(any::<u8>(), 0..200),
            count in 0u32..5,
        ) {
            let batch = twinlog_log_segment::testing::BatchBuilder::at(5).body(count, &body).build();
            for batch in whole_batches(&batch).unwrap() {
                for (_, value) in batch.records().flatten() {
                    let _ = super::super::record::MetadataRecord::decode(value);
                }
            }
        }
    }
}
