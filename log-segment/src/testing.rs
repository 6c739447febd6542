//! Builders of valid record batches, for the tests of this crate and of every crate above it.
//!
//! Owns the only encoder of batches in the project: the product copies them. What it builds is what a broker
//! would store, real records included, so that Kafka's own tools can read it too.
//! Must never be part of a release: it stands behind the feature `testing`.

use alloc::vec::Vec;

use crc_fast::{CrcAlgorithm, checksum};

use crate::batch::{BATCH_HEADER_BYTES, CRC_COVERS_FROM, NO_PRODUCER_ID};
use crate::control::ControlKind;
use crate::index::NO_TIMESTAMP_MS;

/// One batch, field by field. `build` fills in length and CRC.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: i64,
    leader_epoch: i32,
    attributes: u16,
    last_offset_delta: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: i32,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Raw(Vec<u8>),
    /// Real records with values of so many bytes, made when the timestamps are known.
    Records {
        value_bytes: usize,
    },
}

impl BatchBuilder {
    /// A batch without records that spans one offset, as the cleaner leaves it.
    pub fn at(base_offset: i64) -> BatchBuilder {
        BatchBuilder {
            base_offset,
            leader_epoch: 0,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp_ms: NO_TIMESTAMP_MS,
            max_timestamp_ms: NO_TIMESTAMP_MS,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
            body: Body::Raw(Vec::new()),
        }
    }

    /// So many real, uncompressed records, each with a value of so many bytes that depend on its offset. The
    /// last one has the batch's maximum timestamp, all others the base timestamp.
    pub fn records(mut self, count: u32, value_bytes: usize) -> BatchBuilder {
        assert!(count > 0, "a batch without records is built by not calling this");
        self.body = Body::Records { value_bytes };
        self.record_count = count as i32;
        self.last_offset_delta = count as i32 - 1;
        self
    }

    /// Any bytes as records, such as compressed ones.
    pub fn body(mut self, record_count: u32, body: &[u8]) -> BatchBuilder {
        self.record_count = record_count as i32;
        self.body = Body::Raw(body.to_vec());
        self
    }

    /// More offsets than records, as compaction leaves them.
    pub fn last_offset_delta(mut self, last_offset_delta: u32) -> BatchBuilder {
        self.last_offset_delta = last_offset_delta as i32;
        self
    }

    pub fn leader_epoch(mut self, leader_epoch: i32) -> BatchBuilder {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Sets bits of the attributes on top of those that other methods set.
    pub fn attributes(mut self, bits: u16) -> BatchBuilder {
        self.attributes |= bits;
        self
    }

    pub fn timestamps(mut self, base_timestamp_ms: i64, max_timestamp_ms: i64) -> BatchBuilder {
        self.base_timestamp_ms = base_timestamp_ms;
        self.max_timestamp_ms = max_timestamp_ms;
        self
    }

    /// An idempotent producer.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// A producer inside a transaction.
    pub fn transactional(self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.producer(producer_id, producer_epoch, base_sequence).attributes(1 << 4)
    }

    /// The marker that ends the producer's transaction: 78 bytes, as a broker writes it.
    pub fn marker(self, producer_id: i64, producer_epoch: i16, kind: ControlKind) -> BatchBuilder {
        let kind = match kind {
            ControlKind::Abort => 0,
            ControlKind::Commit => 1,
            ControlKind::Other(other) => other,
        };
        let mut builder = self.producer(producer_id, producer_epoch, -1).attributes(1 << 4 | 1 << 5);
        let mut key = [0u8; 4];
        key[2..].copy_from_slice(&kind.to_be_bytes());
        // The value: version 0 and the coordinator's epoch.
        let mut body = Vec::new();
        push_record(&mut body, 0, 0, Some(&key), &[0; 6]);
        builder.body = Body::Raw(body);
        builder.record_count = 1;
        builder.last_offset_delta = 0;
        builder
    }

    /// The batch's bytes.
    pub fn build(&self) -> Vec<u8> {
        let body = self.body_bytes();
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + body.len());
        bytes.extend_from_slice(&self.base_offset.to_be_bytes());
        bytes.extend_from_slice(&((BATCH_HEADER_BYTES - 12 + body.len()) as i32).to_be_bytes());
        bytes.extend_from_slice(&self.leader_epoch.to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.attributes.to_be_bytes());
        bytes.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&self.producer_id.to_be_bytes());
        bytes.extend_from_slice(&self.producer_epoch.to_be_bytes());
        bytes.extend_from_slice(&self.base_sequence.to_be_bytes());
        bytes.extend_from_slice(&self.record_count.to_be_bytes());
        bytes.extend_from_slice(&body);
        reseal(&mut bytes);
        bytes
    }

    fn body_bytes(&self) -> Vec<u8> {
        let value_bytes = match &self.body {
            Body::Raw(bytes) => return bytes.clone(),
            Body::Records { value_bytes } => *value_bytes,
        };
        let mut body = Vec::new();
        for index in 0..self.record_count {
            let seed = self.base_offset.wrapping_add(i64::from(index)) as u8;
            let value: Vec<u8> = (0..value_bytes).map(|at| (at as u8).wrapping_add(seed)).collect();
            let is_last = index + 1 == self.record_count;
            let timestamp_delta = if is_last { self.max_timestamp_ms - self.base_timestamp_ms } else { 0 };
            push_record(&mut body, timestamp_delta, i64::from(index), None, &value);
        }
        body
    }
}

/// Writes the right CRC into a batch whose bytes were changed.
pub fn reseal(batch: &mut [u8]) {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC_COVERS_FROM..]) as u32;
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn push_record(out: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i64, key: Option<&[u8]>, value: &[u8]) {
    let mut record = Vec::new();
    record.push(0);
    push_varint(&mut record, timestamp_delta);
    push_varint(&mut record, offset_delta);
    match key {
        None => push_varint(&mut record, -1),
        Some(key) => {
            push_varint(&mut record, key.len() as i64);
            record.extend_from_slice(key);
        }
    }
    push_varint(&mut record, value.len() as i64);
    record.extend_from_slice(value);
    // No headers.
    push_varint(&mut record, 0);
    push_varint(out, record.len() as i64);
    out.extend_from_slice(&record);
}

fn push_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

#[cfg(test)]
pub(crate) mod random {
    //! Random logs, as property tests need them.

    use proptest::prelude::*;

    use super::*;

    /// Whole batches in order, from `base_offset` on: all kinds, with gaps, and their offsets in `Vec`s.
    pub(crate) fn log(
        base_offset: i64,
        batches: core::ops::Range<usize>,
    ) -> impl Strategy<Value = Vec<Vec<u8>>> {
        let shape = (0u8..6, 1u32..4, 0usize..3000, 0i64..5, -1i64..20_000, 0i64..4);
        prop::collection::vec(shape, batches).prop_map(move |shapes| {
            let mut next_offset = base_offset;
            let mut log = Vec::new();
            for (kind, count, value_bytes, gap, timestamp_ms, producer_id) in shapes {
                let at = BatchBuilder::at(next_offset + gap).timestamps(timestamp_ms, timestamp_ms);
                let builder = match kind {
                    0 => at.records(count, value_bytes),
                    1 => at.records(count, value_bytes).transactional(producer_id, 0, 0),
                    2 => at.marker(producer_id, 0, ControlKind::Abort),
                    3 => at.marker(producer_id, 0, ControlKind::Commit),
                    4 => at.last_offset_delta(count),
                    _ => at.body(count, &[7; 40]).attributes(4).last_offset_delta(count + 2),
                };
                let bytes = builder.build();
                next_offset += gap + i64::from(builder.last_offset_delta) + 1;
                log.push(bytes);
            }
            log
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_agrees_with_another_implementation() {
        let batch = BatchBuilder::at(7).records(3, 500).build();
        assert_eq!(batch[17..21], crc32c::crc32c(&batch[21..]).to_be_bytes());
    }

    #[test]
    fn a_marker_has_the_78_bytes_of_a_brokers() {
        assert_eq!(BatchBuilder::at(0).marker(5, 0, ControlKind::Abort).build().len(), 78);
    }
}
