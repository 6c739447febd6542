//! The record bytes of one partition, by position: batches that were appended, or a template that repeats.
//!
//! ```text
//!   kept     │ batch │ batch │ gap in offsets │ batch │         positions count bytes, gaps cost none
//!   cyclic   │ template ............. │ template ............. │ tem      lap n: offsets + n * lap_offsets
//!             ^8 own bytes, then a reference into the one shared template, for every batch
//! ```
//! The base offset lies outside the CRC, so a template served at another offset is as valid as before; and
//! only eight bytes per batch are ever written, however many laps are read.
//!
//! Invariants: batches in offset order; positions are sums of sizes from the log's first batch on, and do not
//! move when the log is trimmed.

use super::frame::FrameWriter;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader};
use twinlog_log_segment::offset::Offset;

/// One batch that lies in a log.
#[derive(Clone, Debug)]
pub struct KeptBatch {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Bytes of the log in front of it.
    pub position: u64,
    pub bytes: Bytes,
}

/// Batches that are repeated without end, their base offsets moved on by each lap.
#[derive(Debug)]
pub struct CyclicTemplate {
    bytes: Bytes,
    batches: Vec<TemplateBatch>,
    lap_offsets: i64,
}

#[derive(Clone, Copy, Debug)]
struct TemplateBatch {
    base_offset: i64,
    last_offset: i64,
    position: u64,
    bytes: u32,
}

impl CyclicTemplate {
    /// A template from whole batches in offset order, the first at offset 0.
    pub fn new(batches: &[Vec<u8>]) -> CyclicTemplate {
        let mut template = CyclicTemplate {
            bytes: Bytes::new(),
            batches: Vec::with_capacity(batches.len()),
            lap_offsets: 0,
        };
        let mut position = 0;
        for batch in batches {
            let header = parse(batch);
            let base_offset = header.base_offset.value();
            assert!(base_offset >= template.lap_offsets, "a template's batches are in offset order");
            template.lap_offsets = header.next_offset().value();
            let last_offset = header.last_offset().value();
            let bytes = header.total_bytes();
            template.batches.push(TemplateBatch { base_offset, last_offset, position, bytes });
            position += u64::from(bytes);
        }
        assert!(!batches.is_empty(), "a template without batches has no laps");
        template.bytes = Bytes::from(batches.concat());
        template
    }

    /// Batches of one lap.
    pub fn batches(&self) -> u64 {
        self.batches.len() as u64
    }

    /// Bytes of one lap.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn place(&self, ordinal: u64) -> (i64, u64, TemplateBatch) {
        let lap = ordinal / self.batches();
        let batch = self.batches[(ordinal % self.batches()) as usize];
        (lap as i64 * self.lap_offsets, lap * self.bytes(), batch)
    }
}

/// Reads the header of a batch that this program made.
pub fn parse(batch: &[u8]) -> BatchHeader {
    let header = batch.first_chunk::<BATCH_HEADER_BYTES>().expect("a batch has a header");
    BatchHeader::parse(header, u32::MAX).expect("an appended batch has a readable header")
}

/// A run of record bytes, to be written to a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordSlice {
    first_batch: u64,
    pub bytes: u32,
    /// Bytes of the first batch, which may be more than those of the slice.
    pub first_batch_bytes: u32,
}

/// See the file's header.
#[derive(Debug)]
pub enum Records {
    Kept(VecDeque<KeptBatch>),
    Cyclic { template: Arc<CyclicTemplate>, batches: u64 },
}

impl Records {
    /// Position and size of the batch with this number, counted from the first one held.
    fn extent(&self, ordinal: u64) -> Option<(u64, u32)> {
        match self {
            Records::Kept(batches) => {
                let batch = batches.get(ordinal as usize)?;
                Some((batch.position, batch.bytes.len() as u32))
            }
            Records::Cyclic { template, batches } => (ordinal < *batches).then(|| {
                let (_, lap_position, batch) = template.place(ordinal);
                (lap_position + batch.position, batch.bytes)
            }),
        }
    }

    /// Where the last batch ends.
    pub fn end_position(&self) -> u64 {
        match self {
            Records::Kept(batches) => {
                batches.back().map_or(0, |batch| batch.position + batch.bytes.len() as u64)
            }
            Records::Cyclic { template, batches } => {
                template.place(*batches).1 + template.place(*batches).2.position
            }
        }
    }

    /// One past the last offset of the last batch, if there is one.
    pub fn end_offset(&self) -> Option<Offset> {
        match self {
            Records::Kept(batches) => batches.back().map(|batch| batch.last_offset.next()),
            Records::Cyclic { template, batches } => {
                let (lap_offset, _, batch) = template.place(batches.checked_sub(1)?);
                Offset::new(lap_offset + batch.last_offset + 1)
            }
        }
    }

    /// Number of the first batch that holds `offset` or lies above it.
    pub fn first_at_or_above(&self, offset: Offset) -> u64 {
        match self {
            Records::Kept(batches) => batches.partition_point(|batch| batch.last_offset < offset) as u64,
            Records::Cyclic { template, batches } => {
                let (lap, rest) =
                    (offset.value() / template.lap_offsets, offset.value() % template.lap_offsets);
                let within = template.batches.partition_point(|batch| batch.last_offset < rest) as u64;
                (lap as u64 * template.batches() + within).min(*batches)
            }
        }
    }

    /// Bytes of the log below the first batch that starts at `offset` or above.
    pub fn position_of(&self, offset: Offset) -> u64 {
        let Some(below) = offset.value().checked_sub(1).and_then(Offset::new) else {
            return self.extent(0).map_or(0, |(position, _)| position);
        };
        // The batch that holds the offset before this one, or the first above that.
        let ordinal = self.first_at_or_above(below);
        match self.extent(ordinal) {
            None => self.end_position(),
            Some((position, bytes)) if self.base_offset(ordinal) < offset => position + u64::from(bytes),
            Some((position, _)) => position,
        }
    }

    fn base_offset(&self, ordinal: u64) -> Offset {
        match self {
            Records::Kept(batches) => batches[ordinal as usize].base_offset,
            Records::Cyclic { template, .. } => {
                let (lap_offset, _, batch) = template.place(ordinal);
                Offset::new(lap_offset + batch.base_offset).expect("a template starts at 0 or above")
            }
        }
    }

    /// What one fetch may have: from the batch that holds `from`, below `upper`, at most `bytes_max` but the
    /// first batch whole if asked for. The last batch may be cut anywhere, as a broker cuts it.
    pub fn slice(&self, from: Offset, upper: Offset, bytes_max: u32, first_whole: bool) -> RecordSlice {
        let first_batch = self.first_at_or_above(from);
        let Some((start, first_bytes)) = self.extent(first_batch) else { return RecordSlice::default() };
        let available = self.position_of(upper).saturating_sub(start);
        if available == 0 || (!first_whole && bytes_max < first_bytes) {
            return RecordSlice::default();
        }
        let bytes = available.min(u64::from(bytes_max.max(first_bytes))) as u32;
        RecordSlice { first_batch, bytes, first_batch_bytes: first_bytes }
    }

    /// Puts the bytes of a slice into a response, by reference.
    pub fn write(&self, slice: &RecordSlice, writer: &mut FrameWriter) {
        let mut left = slice.bytes as usize;
        let mut ordinal = slice.first_batch;
        while left > 0 {
            match self {
                Records::Kept(batches) => {
                    let batch = &batches[ordinal as usize].bytes;
                    let taken = batch.len().min(left);
                    writer.reference(batch.slice(..taken));
                    left -= taken;
                }
                Records::Cyclic { template, .. } => {
                    let (_, _, batch) = template.place(ordinal);
                    let base_offset = self.base_offset(ordinal).value().to_be_bytes();
                    let taken = (batch.bytes as usize).min(left);
                    writer.raw(&base_offset[..taken.min(8)]);
                    if taken > 8 {
                        let at = batch.position as usize;
                        writer.reference(template.bytes.slice(at + 8..at + taken));
                    }
                    left -= taken;
                }
            }
            ordinal += 1;
        }
    }

    /// The whole batch with this number, counted from the first one held.
    pub fn batch(&self, ordinal: u64) -> Option<Bytes> {
        match self {
            Records::Kept(batches) => batches.get(ordinal as usize).map(|batch| batch.bytes.clone()),
            Records::Cyclic { template, batches } => (ordinal < *batches).then(|| {
                let (_, _, batch) = template.place(ordinal);
                let at = batch.position as usize;
                let mut bytes = template.bytes[at..at + batch.bytes as usize].to_vec();
                bytes[..8].copy_from_slice(&self.base_offset(ordinal).value().to_be_bytes());
                Bytes::from(bytes)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::batch_text::BatchText;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn kept(batches: &[Vec<u8>]) -> Records {
        let mut position = 0;
        let kept = batches.iter().map(|batch| {
            let header = parse(batch);
            let one = KeptBatch {
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                position,
                bytes: Bytes::from(batch.clone()),
            };
            position += batch.len() as u64;
            one
        });
        Records::Kept(kept.collect())
    }

    fn written(records: &Records, slice: &RecordSlice) -> Vec<u8> {
        let mut writer = FrameWriter::start(0, false);
        records.write(slice, &mut writer);
        writer.finish().concat()[8..].to_vec()
    }

    /// Two batches of three and two offsets with a gap of one between.
    fn two_batches() -> Vec<Vec<u8>> {
        vec![BatchText::at(0).values(3, 100).build(), BatchText::at(4).values(2, 50).build()]
    }

    #[test]
    fn a_cyclic_log_reads_like_the_same_batches_written_out() {
        let batches = two_batches();
        let template = Arc::new(CyclicTemplate::new(&batches));
        let cyclic = Records::Cyclic { template, batches: 5 };
        let mut laps = Vec::new();
        for ordinal in 0..5 {
            let mut batch = batches[ordinal % 2].clone();
            let base = parse(&batch).base_offset.value() + 6 * (ordinal as i64 / 2);
            batch[..8].copy_from_slice(&base.to_be_bytes());
            laps.push(batch);
        }
        let plain = kept(&laps);
        assert_eq!(cyclic.end_offset(), plain.end_offset());
        assert_eq!(cyclic.end_position(), plain.end_position());
        for from in 0..16 {
            assert_eq!(
                cyclic.position_of(offset(from)),
                plain.position_of(offset(from)),
                "position of {from}"
            );
            for upper in from..16 {
                for bytes_max in [0, 5, 70, 400, 5000] {
                    for whole in [false, true] {
                        let one = cyclic.slice(offset(from), offset(upper), bytes_max, whole);
                        let other = plain.slice(offset(from), offset(upper), bytes_max, whole);
                        assert_eq!(one, other);
                        assert_eq!(written(&cyclic, &one), written(&plain, &other));
                    }
                }
            }
        }
        assert_eq!(cyclic.batch(3), plain.batch(3));
        assert_eq!(cyclic.batch(5), None);
    }

    #[test]
    fn the_first_batch_comes_whole_and_the_last_one_cut() {
        let batches = two_batches();
        let records = kept(&batches);
        let first = records.slice(offset(1), offset(6), 10, true);
        assert_eq!(written(&records, &first), batches[0]);
        assert_eq!(records.slice(offset(1), offset(6), 10, false), RecordSlice::default());
        let cut = records.slice(offset(0), offset(6), batches[0].len() as u32 + 30, true);
        assert_eq!(written(&records, &cut), [&batches[0][..], &batches[1][..30]].concat());
        // An upper bound at a batch's base ends before that batch.
        let bounded = records.slice(offset(0), offset(4), 10_000, true);
        assert_eq!(written(&records, &bounded), batches[0]);
        // An offset in a gap is answered with the batch after it.
        assert_eq!(written(&records, &records.slice(offset(3), offset(6), 10_000, true)), batches[1]);
    }
}
