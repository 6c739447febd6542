//! Whether the index files of the active segment are what the checkpoint says they are, without reading the log.
//!
//! Index files are appended to shortly before the checkpoint that counts them, and a crash can leave a hole of
//! zeros inside the size that was counted. The checkpoint knows how the last entries must look:
//!
//! ```text
//! .index      │ entries, strictly rising, inside the log │ last: position - its position = interval bytes
//! .timeindex  │ entries, strictly rising                 │ last: its time = time of the last entry
//! .txnindex   │ markers, rising, each above its first    │
//! ```
//! Must never repair: a wrong file is rebuilt from the log by a scan.

use crate::store::StoreError;
use crate::store::files::{Files, PIECE_BYTES};
use std::path::Path;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::index::{
    AbortedTransaction, IndexError, NO_TIMESTAMP_MS, OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES,
    TRANSACTION_ENTRY_BYTES, offset_entries, time_entries, transaction_entries,
};

/// Looks at the covered part of the three index files.
pub(super) fn covered_indexes_are_right(
    files: &mut Files<'_>,
    directory: &Path,
    checkpoint: &PartitionCheckpoint,
) -> Result<bool, StoreError> {
    let path = |file: SegmentFile| directory.join(file.name(checkpoint.segment_base));
    // Relative offsets below this one are in the log.
    let reach = checkpoint.log_end.value() - checkpoint.segment_base.value();
    let inside = |relative_offset: u32| i64::from(relative_offset) < reach;

    let mut last_position = 0;
    let offsets = |bytes: &[u8]| {
        offset_entries(bytes).all(|entry| {
            entry.is_ok_and(|entry| {
                last_position = u64::from(entry.position);
                inside(entry.relative_offset) && last_position > 0 && last_position < checkpoint.position
            })
        })
    };
    let covered = checkpoint.offset_index_bytes;
    if !check(files, &path(SegmentFile::OffsetIndex), covered, OFFSET_ENTRY_BYTES, offsets)?
        || checkpoint.position.saturating_sub(last_position) != checkpoint.index.interval_bytes
    {
        return Ok(false);
    }

    let mut last_time = NO_TIMESTAMP_MS;
    let times = |bytes: &[u8]| {
        time_entries(bytes).all(|entry| {
            entry.is_ok_and(|entry| {
                last_time = entry.timestamp_ms;
                inside(entry.relative_offset)
            })
        })
    };
    let covered = checkpoint.time_index_bytes;
    if !check(files, &path(SegmentFile::TimeIndex), covered, TIME_ENTRY_BYTES, times)?
        || last_time != checkpoint.index.last_time_entry_ms
    {
        return Ok(false);
    }

    let transactions = |bytes: &[u8]| transaction_entries(bytes).all(|entry| is_inside(entry, checkpoint));
    let covered = checkpoint.transaction_index_bytes;
    check(files, &path(SegmentFile::TransactionIndex), covered, TRANSACTION_ENTRY_BYTES, transactions)
}

fn is_inside(entry: Result<AbortedTransaction, IndexError>, checkpoint: &PartitionCheckpoint) -> bool {
    entry.is_ok_and(|entry| {
        // An entry of zeros fails here: a marker never has the offset of its transaction's first batch.
        entry.first_offset < entry.last_offset
            && entry.last_offset >= checkpoint.segment_base
            && entry.last_offset < checkpoint.log_end
    })
}

/// Reads `covered` bytes in pieces of whole entries; each piece begins with the last entry of the one before.
fn check(
    files: &mut Files<'_>,
    path: &Path,
    covered: u64,
    entry_bytes: usize,
    mut piece_is_right: impl FnMut(&[u8]) -> bool,
) -> Result<bool, StoreError> {
    if !covered.is_multiple_of(entry_bytes as u64) {
        return Ok(false);
    }
    let piece_bytes = PIECE_BYTES as usize / entry_bytes * entry_bytes;
    let mut held: Vec<u8> = Vec::new();
    let mut position = 0;
    while position < covered {
        let wanted = (covered - position).min(piece_bytes as u64) as u32;
        let piece = files.read(path, position, wanted)?;
        if piece.len() < wanted as usize {
            return Ok(false);
        }
        position += u64::from(wanted);
        held.extend_from_slice(&piece);
        if !piece_is_right(&held) {
            return Ok(false);
        }
        held.drain(..held.len() - entry_bytes);
    }
    Ok(true)
}
