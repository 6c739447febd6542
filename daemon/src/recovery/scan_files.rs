//! The segment scan run over a file: bytes in by pieces, regenerated index entries out.
//!
//! ```text
//! .log      │ covered │ scanned ............ │ stop: cut here when settled
//! .index    │ covered │ cut, written anew    │        .timeindex and .txnindex alike
//! ```
//! Owns the order cut, scan, write, cut the log, sync. It must never decide whether a segment follows another
//! on its own: only `follows` says so, and stricter than the scan, which lets a compacted log have gaps.

use crate::store::StoreError;
use crate::store::files::{Files, PIECE_BYTES};
use std::path::Path;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::index::PendingIndexes;
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::scan::{ScanProgress, ScanReport, ScanStart, SegmentScan, StopReason};

/// Regenerated index bytes that are held before they are written. Raising it only costs memory.
const PENDING_BYTES_MAX: usize = 256 << 10;

/// Sizes of a segment's index files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexSizes {
    pub offset: u64,
    pub time: u64,
    pub transaction: u64,
}

impl IndexSizes {
    pub fn covered(checkpoint: &PartitionCheckpoint) -> IndexSizes {
        IndexSizes {
            offset: checkpoint.offset_index_bytes,
            time: checkpoint.time_index_bytes,
            transaction: checkpoint.transaction_index_bytes,
        }
    }

    pub fn by_file(&self) -> [(SegmentFile, u64); 3] {
        [
            (SegmentFile::OffsetIndex, self.offset),
            (SegmentFile::TimeIndex, self.time),
            (SegmentFile::TransactionIndex, self.transaction),
        ]
    }

    /// Accounts for index bytes that are written or were counted.
    pub fn add(&mut self, pending: &PendingIndexes) {
        self.offset += pending.offset.len() as u64;
        self.time += pending.time.len() as u64;
        self.transaction += pending.transaction.len() as u64;
    }
}

/// A segment after its scan.
pub(crate) struct ScannedSegment {
    pub report: ScanReport,
    /// Of its index files, now.
    pub sizes: IndexSizes,
}

impl ScannedSegment {
    pub fn base(&self) -> Offset {
        self.report.index.segment_base
    }
}

/// Cuts the index files to what `sizes` says is right, scans the rest of the log and writes their rest anew.
pub(crate) fn scan_segment(
    files: &mut Files<'_>,
    directory: &Path,
    start: ScanStart,
    mut sizes: IndexSizes,
    batch_bytes_max: u32,
) -> Result<ScannedSegment, StoreError> {
    let base = start.index.segment_base;
    for (file, covered) in sizes.by_file() {
        files.cut(&directory.join(file.name(base)), covered)?;
    }
    let log = directory.join(SegmentFile::Log.name(base));
    let length = files.length(&log)?.unwrap_or(0);
    let mut position = start.position;
    let mut scan = SegmentScan::new(start, batch_bytes_max);
    let mut pending = PendingIndexes::new();
    while position < length {
        let piece = files.read(&log, position, PIECE_BYTES)?;
        position += piece.len() as u64;
        let progress = scan.feed(&piece);
        let regenerated = scan.take_pending();
        pending.offset.extend_from_slice(&regenerated.offset);
        pending.time.extend_from_slice(&regenerated.time);
        pending.transaction.extend_from_slice(&regenerated.transaction);
        let held_bytes = pending.offset.len() + pending.time.len() + pending.transaction.len();
        if held_bytes > PENDING_BYTES_MAX {
            write_indexes(files, directory, base, &mut sizes, &mut pending)?;
        }
        if progress == ScanProgress::Stopped || piece.is_empty() {
            break;
        }
    }
    let report = scan.finish();
    write_indexes(files, directory, base, &mut sizes, &mut pending)?;
    Ok(ScannedSegment { report, sizes })
}

fn write_indexes(
    files: &mut Files<'_>,
    directory: &Path,
    base: Offset,
    sizes: &mut IndexSizes,
    pending: &mut PendingIndexes,
) -> Result<(), StoreError> {
    let planned = std::mem::take(pending);
    let before = *sizes;
    sizes.add(&planned);
    let bytes = [planned.offset, planned.time, planned.transaction];
    for ((file, position), bytes) in before.by_file().into_iter().zip(bytes) {
        if !bytes.is_empty() {
            files.write(&directory.join(file.name(base)), position, bytes)?;
        }
    }
    Ok(())
}

/// Cuts the log to what was proven and makes the segment durable. A segment that is followed by another
/// gets the last entry of its time index.
pub(crate) fn settle_segment(
    files: &mut Files<'_>,
    directory: &Path,
    scanned: &mut ScannedSegment,
    followed: bool,
) -> Result<(), StoreError> {
    let base = scanned.base();
    if followed {
        let mut pending = PendingIndexes::new();
        scanned.report.index.close(&mut pending);
        write_indexes(files, directory, base, &mut scanned.sizes, &mut pending)?;
    }
    files.cut(&directory.join(SegmentFile::Log.name(base)), scanned.report.valid_position)?;
    sync_segment(files, directory, base)
}

/// Syncs those of a segment's files that exist. The caller syncs the directory.
pub(crate) fn sync_segment(files: &mut Files<'_>, directory: &Path, base: Offset) -> Result<(), StoreError> {
    for file in SegmentFile::ALL {
        let path = directory.join(file.name(base));
        if files.length(&path)?.is_some() {
            files.sync(&path)?;
        }
    }
    Ok(())
}

/// Where to go on in the segment that begins at `base`, or `None` if it does not follow this one.
///
/// A new segment begins where the last one ended. So a higher base means that the end of the last one never
/// reached the disk while its successor did; to accept it would be to lose what lay between. The exception
/// is a roll because of a gap that no index entry can span: then the last one is whole to its last byte,
/// and the first batch of the new one is out of its reach.
pub(crate) fn follows(
    files: &mut Files<'_>,
    directory: &Path,
    last: &ScannedSegment,
    base: Offset,
    batch_bytes_max: u32,
) -> Result<Option<ScanStart>, StoreError> {
    let Some(start) = last.report.next_segment(base) else { return Ok(None) };
    if base == last.report.next_offset {
        return Ok(Some(start));
    }
    let header = files.read(&directory.join(SegmentFile::Log.name(base)), 0, BATCH_HEADER_BYTES as u32)?;
    let header = header.first_chunk().and_then(|bytes| BatchHeader::parse(bytes, batch_bytes_max).ok());
    let out_of_reach = header.is_some_and(|header| header.last_offset().delta_from(last.base()).is_none());
    Ok((last.report.stop == StopReason::End && out_of_reach).then_some(start))
}
