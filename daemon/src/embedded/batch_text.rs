//! Writes record batches with real, uncompressed records, as a producer and a coordinator write them.
//!
//! Owns the only encoder of batches in the product, and only the embedded source uses it: what is mirrored is
//! copied, never encoded. Kafka's own tools read what it makes, records included.
//!
//! ```text
//!   record    length │ attributes 0 │ timestamp delta │ offset delta │ key │ value │ headers 0
//!             varint │ i8           │ varint          │ varint       │ varint length and bytes, -1 for null
//! ```
//! The header is drawn in log-segment/src/batch.rs. Invariant: `build` returns one whole batch of format 2
//! whose CRC is right and whose offset deltas are those of its records.

use crc_fast::{CrcAlgorithm, checksum};
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, CRC_COVERS_FROM, NO_PRODUCER_ID};

const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;
const LOG_APPEND_TIME: u16 = 1 << 3;

/// Who wrote a batch. ref: KIP-98
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence number of the batch's first record.
    pub sequence: i32,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    Abort,
    Commit,
}

/// One batch in the making. See the file's header.
#[derive(Clone, Debug)]
pub struct BatchText {
    base_offset: i64,
    attributes: u16,
    last_offset_delta: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    producer: Option<Producer>,
    record_count: u32,
    body: Vec<u8>,
}

impl BatchText {
    /// A batch without records that spans one offset.
    pub fn at(base_offset: i64) -> BatchText {
        BatchText {
            base_offset,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp_ms: -1,
            max_timestamp_ms: -1,
            producer: None,
            record_count: 0,
            body: Vec::new(),
        }
    }

    /// The time of the first record; records added later may be younger, never older.
    pub fn timestamp(mut self, timestamp_ms: i64) -> BatchText {
        assert!(self.record_count == 0, "the first record's time comes before the records");
        (self.base_timestamp_ms, self.max_timestamp_ms) = (timestamp_ms, timestamp_ms);
        self
    }

    /// Adds a record at the offset after the last one, so many milliseconds younger than the first.
    pub fn record(mut self, timestamp_delta_ms: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> BatchText {
        self.push_record(timestamp_delta_ms, key, value);
        self
    }

    /// The same for a batch that is filled in a loop.
    pub fn push_record(&mut self, timestamp_delta_ms: u32, key: Option<&[u8]>, value: Option<&[u8]>) {
        let offset_delta = self.record_count;
        let timestamp_delta = i64::from(timestamp_delta_ms);
        let sized =
            |field: Option<&[u8]>| field.map_or(1, |bytes| varint_bytes(bytes.len() as i64) + bytes.len());
        let length = 1
            + varint_bytes(timestamp_delta)
            + varint_bytes(i64::from(offset_delta))
            + sized(key)
            + sized(value)
            + 1;
        push_varint(&mut self.body, length as i64);
        self.body.push(0);
        push_varint(&mut self.body, timestamp_delta);
        push_varint(&mut self.body, i64::from(offset_delta));
        for field in [key, value] {
            match field {
                None => push_varint(&mut self.body, -1),
                Some(bytes) => {
                    push_varint(&mut self.body, bytes.len() as i64);
                    self.body.extend_from_slice(bytes);
                }
            }
        }
        push_varint(&mut self.body, 0);
        self.max_timestamp_ms = self.max_timestamp_ms.max(self.base_timestamp_ms + timestamp_delta);
        self.last_offset_delta = offset_delta;
        self.record_count += 1;
    }

    /// So many records with values of one size, for logs whose content does not matter.
    pub fn values(mut self, count: u32, value_bytes: usize) -> BatchText {
        let value = vec![b'v'; value_bytes];
        for _ in 0..count {
            self.push_record(0, None, Some(&value));
        }
        self
    }

    /// More offsets than records, as compaction leaves them.
    pub fn last_offset_delta(mut self, delta: u32) -> BatchText {
        assert!(delta + 1 >= self.record_count, "a batch spans at least its records");
        self.last_offset_delta = delta;
        self
    }

    /// An idempotent producer's batch.
    pub fn producer(mut self, producer: Producer) -> BatchText {
        self.producer = Some(producer);
        self
    }

    /// A batch inside its producer's transaction.
    pub fn transactional(mut self, producer: Producer) -> BatchText {
        self.attributes |= TRANSACTIONAL;
        self.producer(producer)
    }

    /// The broker wrote the timestamps.
    pub fn log_append_time(mut self) -> BatchText {
        self.attributes |= LOG_APPEND_TIME;
        self
    }

    /// Claims a codec without compressing: for readers that never decompress, and for nobody else.
    pub fn claimed_codec(mut self, codec: u16) -> BatchText {
        self.attributes |= codec & 0b111;
        self
    }

    /// The marker that ends a producer's transaction: 78 bytes.
    pub fn marker(base_offset: i64, timestamp_ms: i64, producer: Producer, marker: Marker) -> BatchText {
        let kind: i16 = match marker {
            Marker::Abort => 0,
            Marker::Commit => 1,
        };
        let mut key = [0u8; 4];
        key[2..].copy_from_slice(&kind.to_be_bytes());
        let mut batch = BatchText::at(base_offset).timestamp(timestamp_ms);
        // The value: version 0 and the epoch of the coordinator.
        batch.push_record(0, Some(&key), Some(&[0; 6]));
        batch.attributes |= TRANSACTIONAL | CONTROL;
        batch.producer = Some(Producer { sequence: -1, ..producer });
        batch
    }

    /// The batch's bytes.
    pub fn build(&self) -> Vec<u8> {
        let absent = Producer { id: NO_PRODUCER_ID, epoch: -1, sequence: -1 };
        let producer = self.producer.unwrap_or(absent);
        let length = (BATCH_HEADER_BYTES - 12 + self.body.len()) as i32;
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&self.base_offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&0i32.to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.attributes.to_be_bytes());
        bytes.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&producer.id.to_be_bytes());
        bytes.extend_from_slice(&producer.epoch.to_be_bytes());
        bytes.extend_from_slice(&producer.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.record_count.to_be_bytes());
        bytes.extend_from_slice(&self.body);
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[CRC_COVERS_FROM..]) as u32;
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn varint_bytes(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

fn push_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::control::ControlKind;
    use twinlog_log_segment::testing::BatchBuilder;
    use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

    #[test]
    fn a_batch_is_the_same_as_that_of_another_encoder() {
        let ours = BatchText::at(7).timestamp(5).record(0, None, Some(&[7, 8])).build();
        let theirs = BatchBuilder::at(7).timestamps(5, 5).records(1, 2).build();
        assert_eq!(ours, theirs);
        let producer = Producer { id: 9, epoch: 1, sequence: 0 };
        let marker = BatchText::marker(3, 8, producer, Marker::Commit).build();
        assert_eq!(marker.len(), 78);
        let theirs = BatchBuilder::at(3).timestamps(8, 8).marker(9, 1, ControlKind::Commit).build();
        assert_eq!(marker, theirs);
    }

    #[test]
    fn lengths_of_many_bytes_are_counted_right() {
        for value_bytes in [0, 62, 63, 64, 8191, 8192, 100_000] {
            let batch = BatchText::at(0).values(130, value_bytes).build();
            let mut walk = BatchWalk::new(64 << 20);
            let (header, event) = walk.feed(&batch);
            assert!(matches!(event, Some(Ok(WalkEvent::Header(_)))));
            let (body, event) = walk.feed(&batch[header..]);
            assert!(matches!(event, Some(Ok(WalkEvent::Batch { .. }))));
            assert_eq!(header + body, batch.len());
            // The first record's length leads to the second record.
            let mut at = BATCH_HEADER_BYTES;
            for _ in 0..130 {
                let (length, used) = read_varint(&batch[at..]);
                at += used + length as usize;
            }
            assert_eq!(at, batch.len());
        }
    }

    fn read_varint(bytes: &[u8]) -> (i64, usize) {
        let (mut value, mut used) = (0u64, 0);
        loop {
            value |= u64::from(bytes[used] & 0x7f) << (7 * used);
            used += 1;
            if bytes[used - 1] < 0x80 {
                return ((value >> 1).cast_signed(), used);
            }
        }
    }
}
