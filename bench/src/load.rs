//! What is mirrored: a few megabytes of real batches, repeated over so many partitions for so many bytes.
//!
//! ```text
//!   template, about 4 MiB │ batch │ batch │ ... │   every partition: whole batches of it, round and round
//! ```
//! The source serves it by reference (embedded/records.rs), so that its core has little to do but to send; the
//! floor is sent the same bytes. Invariant: who knows the shape knows every byte, without asking the source.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use twinlog_daemon::embedded::CyclicTemplate;
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::generator::Random;
use twinlog_daemon::embedded::records::parse;
use twinlog_log_segment::digest::LogDigest;
use twinlog_log_segment::offset::Offset;

/// The topic that is measured.
pub const STREAM: &str = "stream";
/// Larger than a core's own caches would hide nothing, and smaller would be kinder to the sender than a broker is.
const TEMPLATE_BYTES: usize = 4 << 20;
/// Bytes of a record around its value, about.
const RECORD_OVERHEAD_BYTES: usize = 12;
const BATCH_OVERHEAD_BYTES: usize = 61;
/// Any time will do; a fixed one keeps every run's bytes the same.
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// See the file's header. As a word: `1024x65536x6x2000000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub record_bytes: usize,
    /// About so many; at least one record.
    pub batch_bytes: usize,
    pub partitions: u32,
    /// Of all partitions together, about.
    pub total_bytes: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { record_bytes, batch_bytes, partitions, total_bytes } = self;
        write!(f, "{record_bytes}x{batch_bytes}x{partitions}x{total_bytes}")
    }
}

impl FromStr for Shape {
    type Err = std::num::ParseIntError;

    fn from_str(word: &str) -> Result<Shape, Self::Err> {
        let mut parts = word.split('x');
        let mut part = || parts.next().unwrap_or("").parse::<u64>();
        Ok(Shape {
            record_bytes: part()? as usize,
            batch_bytes: part()? as usize,
            partitions: part()? as u32,
            total_bytes: part()?,
        })
    }
}

/// The batches of a shape.
pub struct Load {
    pub shape: Shape,
    batches: Vec<Vec<u8>>,
    pub template: Arc<CyclicTemplate>,
    pub records_per_batch: u32,
}

impl Load {
    pub fn new(shape: Shape) -> Load {
        let room = shape.batch_bytes.saturating_sub(BATCH_OVERHEAD_BYTES);
        let records_per_batch = (room / (shape.record_bytes + RECORD_OVERHEAD_BYTES)).max(1) as u32;
        let mut random = Random::new(1);
        let count = (TEMPLATE_BYTES / shape.batch_bytes).max(1);
        let batches: Vec<Vec<u8>> = (0..count)
            .map(|index| {
                let base_offset = index as i64 * i64::from(records_per_batch);
                let mut batch = BatchText::at(base_offset).timestamp(TIMESTAMP_MS);
                for _ in 0..records_per_batch {
                    let words =
                        (0..shape.record_bytes.div_ceil(8)).flat_map(|_| random.number().to_be_bytes());
                    let value: Vec<u8> = words.take(shape.record_bytes).collect();
                    batch.push_record(0, None, Some(&value));
                }
                batch.build()
            })
            .collect();
        let template = Arc::new(CyclicTemplate::new(&batches));
        Load { shape, batches, template, records_per_batch }
    }

    /// The template's bytes in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        self.batches.concat()
    }

    /// Of the first batch; all have the same size.
    pub fn batch_bytes(&self) -> u64 {
        self.batches[0].len() as u64
    }

    pub fn batches_per_partition(&self) -> u64 {
        (self.shape.total_bytes / u64::from(self.shape.partitions) / self.batch_bytes()).max(1)
    }

    /// Of all partitions, exactly.
    pub fn total_bytes(&self) -> u64 {
        self.batches_per_partition() * self.batch_bytes() * u64::from(self.shape.partitions)
    }

    pub fn end_offset(&self) -> i64 {
        self.batches_per_partition() as i64 * i64::from(self.records_per_batch)
    }

    /// Of one partition: they are all the same.
    pub fn digest(&self) -> String {
        let mut digest = LogDigest::new();
        let headers: Vec<_> = self.batches.iter().map(|batch| parse(batch)).collect();
        for ordinal in 0..self.batches_per_partition() {
            let mut header = headers[(ordinal % headers.len() as u64) as usize];
            let base_offset = ordinal as i64 * i64::from(self.records_per_batch);
            header.base_offset = Offset::new(base_offset).expect("offsets of a bounded run are not negative");
            digest.on_batch(&header);
        }
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_survives_being_a_word() {
        let shape =
            Shape { record_bytes: 1_024, batch_bytes: 65_536, partitions: 6, total_bytes: 2_000_000_000 };
        assert_eq!(shape.to_string().parse(), Ok(shape));
        assert!("1x2x3".parse::<Shape>().is_err());
    }

    #[test]
    fn the_batches_are_as_large_as_asked_and_the_sums_are_right() {
        for (record_bytes, batch_bytes) in [(1_024, 65_536), (16_384, 1 << 20), (16_384, 16_384)] {
            let load = Load::new(Shape { record_bytes, batch_bytes, partitions: 7, total_bytes: 50_000_000 });
            let sizes: Vec<usize> = load.batches.iter().map(Vec::len).collect();
            assert!(sizes.iter().all(|size| *size as u64 == load.batch_bytes()));
            assert!(load.batch_bytes() > batch_bytes as u64 * 8 / 10);
            assert!(load.batch_bytes() < batch_bytes as u64 + 200);
            let total = load.total_bytes();
            assert!(total <= 50_000_000 && total > 50_000_000 - 8 * load.batch_bytes());
            assert_eq!(load.template.bytes(), load.bytes().len() as u64);
        }
    }
}
