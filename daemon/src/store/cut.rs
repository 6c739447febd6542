//! A cut of a log's end: where it lies in the files, the intent that announces it, and the doing of it.
//!
//! ```text
//! segments   │ kept ....... │ kept │ batch of `to` ...... │ later segments ....... │
//!                                  └ position: files are cut here, later ones deleted
//! ```
//! Owns the plan (an intent checkpoint and the pieces to export) and `complete_cut`, which recovery runs again
//! when a crash came between. What is kept is proven by a scan before anything is cut.
//! Invariants: an intent describes the log after the cut; it is durable before the first file changes, and is
//! taken back, durably, only after the last one was synced. Must never keep a part of a batch.

use super::error::StoreError;
use super::export::Piece;
use super::files::{Files, PIECE_BYTES};
use crate::journal;
use crate::recovery::scan_files::{IndexSizes, sync_segment};
use crate::recovery::segments::Segments;
use crate::recovery::{emptied, holding_nothing, record_stamp, write_text};
use std::path::Path;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::{LEADER_EPOCH_FILE, SegmentFile};
use twinlog_log_segment::index::{
    OFFSET_ENTRY_BYTES, TRANSACTION_ENTRY_BYTES, offset_entries, transaction_entries,
};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::scan::{ScanReport, ScanStart, SegmentScan};
use twinlog_log_segment::transaction::OpenTransactions;

/// What a cut will do.
pub(super) struct CutPlan {
    /// The checkpoint after the cut, with its flag set.
    pub intent: PartitionCheckpoint,
    /// What goes, in order.
    pub dropped: Vec<Piece>,
}

/// Bytes of the segment that the checkpoint counts; whole files of those before it.
fn counted_logs(
    files: &mut Files<'_>,
    directory: &Path,
    checkpoint: &PartitionCheckpoint,
) -> Result<Vec<(Offset, u64)>, StoreError> {
    let segments = Segments::list(files, directory)?;
    let active = checkpoint.segment_base;
    let mut logs: Vec<(Offset, u64)> = segments.logs().filter(|(base, _)| *base < active).collect();
    let length = segments.sizes_of(active).log_bytes.unwrap_or(0);
    if length < checkpoint.position {
        let path = directory.join(SegmentFile::Log.name(active));
        return Err(StoreError::ShorterThanCheckpoint { path, length, position: checkpoint.position });
    }
    logs.push((active, checkpoint.position));
    Ok(logs)
}

/// Plans a cut to `to`, which lies inside the log.
pub(super) fn plan_cut(
    files: &mut Files<'_>,
    directory: &Path,
    checkpoint: &PartitionCheckpoint,
    to: Offset,
    batch_bytes_max: u32,
) -> Result<CutPlan, StoreError> {
    let logs = counted_logs(files, directory, checkpoint)?;
    if to < checkpoint.held_start && to > checkpoint.log_start {
        // Of what is kept nothing is held any more: all that is goes.
        let dropped = logs.iter().map(|(base, length)| Piece::whole(directory, *base, *length)).collect();
        return Ok(CutPlan { intent: intent_below_held(checkpoint, to), dropped });
    }
    // A log that begins inside its first batch can be cut below that segment's base: nothing stays of it.
    let index = logs.partition_point(|(base, _)| *base <= to).saturating_sub(1);
    let (base, length) = logs[index];
    let place = Place { directory, base, length, batch_bytes_max };
    let position = place.position_of(files, to)?;
    let mut cut_has_markers = place.has_markers(files, position)?;
    for (base, length) in &logs[index + 1..] {
        let later = Place { base: *base, length: *length, ..place };
        cut_has_markers = cut_has_markers || later.has_markers(files, 0)?;
    }
    let start = match index {
        0 => ScanStart::of_log(base, base),
        _ => ScanStart { may_start_mid_batch: false, ..ScanStart::of_log(base, base) },
    };
    let (report, sizes) = place.prove(files, start, position, to)?;
    if report.next_offset <= checkpoint.log_start {
        let dropped = logs.iter().map(|(base, length)| Piece::whole(directory, *base, *length)).collect();
        return Ok(CutPlan { intent: intent_to_empty(checkpoint, checkpoint.log_start), dropped });
    }
    let log_end = report.next_offset;
    let open_transactions = if cut_has_markers && index > 0 {
        open_at(files, &place, &logs[..index], position, to)?
    } else if cut_has_markers {
        report.open_transactions.clone()
    } else {
        open_below(&checkpoint.open_transactions, log_end)
    };
    let mut intent = PartitionCheckpoint {
        generation: checkpoint.generation + 1,
        truncating: true,
        segment_base: base,
        position,
        log_end,
        held_start: checkpoint.held_start.min(log_end),
        index: report.index,
        offset_index_bytes: sizes.offset,
        time_index_bytes: sizes.time,
        transaction_index_bytes: place.transaction_entries_below(files, log_end)?,
        open_transactions,
        ..checkpoint.clone()
    };
    let raised = next_stamp(checkpoint);
    intent.source_epochs.truncate_to(log_end);
    intent.stamp_epochs.truncate_to(log_end);
    record_stamp(&mut intent.stamp_epochs, raised, log_end);
    let mut dropped = vec![Piece::range(directory, base, position, length, log_end)];
    dropped.extend(logs[index + 1..].iter().map(|(base, length)| Piece::whole(directory, *base, *length)));
    Ok(CutPlan { intent, dropped })
}

/// Plans to drop everything and begin again at `at`.
pub(super) fn plan_restart(
    files: &mut Files<'_>,
    directory: &Path,
    checkpoint: &PartitionCheckpoint,
    at: Offset,
) -> Result<CutPlan, StoreError> {
    let logs = counted_logs(files, directory, checkpoint)?;
    let dropped = logs.iter().map(|(base, length)| Piece::whole(directory, *base, *length)).collect();
    Ok(CutPlan { intent: intent_to_empty(checkpoint, at), dropped })
}

fn intent_to_empty(checkpoint: &PartitionCheckpoint, at: Offset) -> PartitionCheckpoint {
    let mut intent = emptied(checkpoint, at);
    intent.generation = checkpoint.generation + 1;
    intent.truncating = true;
    intent.stamp_epochs.truncate_to(Offset::ZERO);
    record_stamp(&mut intent.stamp_epochs, next_stamp(checkpoint), at);
    intent
}

/// The log of a spool that is cut below what it holds: its followers have the rest.
fn intent_below_held(checkpoint: &PartitionCheckpoint, to: Offset) -> PartitionCheckpoint {
    let mut intent = holding_nothing(checkpoint, to);
    intent.open_transactions = open_below(&checkpoint.open_transactions, to);
    intent.generation += 1;
    intent.truncating = true;
    intent.source_epochs.truncate_to(to);
    intent.stamp_epochs.truncate_to(to);
    record_stamp(&mut intent.stamp_epochs, next_stamp(checkpoint), to);
    intent
}

/// A follower that holds what was cut must see another epoch in what replaces it. ref: KIP-101
pub(super) fn next_stamp(checkpoint: &PartitionCheckpoint) -> LeaderEpoch {
    LeaderEpoch(checkpoint.stamp_epoch().0.saturating_add(1))
}

fn open_below(open: &OpenTransactions, log_end: Offset) -> OpenTransactions {
    let mut below = OpenTransactions::new();
    for (producer_id, first_offset) in open.iter().filter(|(_, first_offset)| *first_offset < log_end) {
        assert!(below.restore(producer_id, first_offset).is_ok(), "a part of a set is a set");
    }
    below
}

/// What is open at the cut, by reading the log from its beginning: a marker that is cut leaves open what it
/// had ended, and where that began is written nowhere else.
fn open_at(
    files: &mut Files<'_>,
    last: &Place<'_>,
    before: &[(Offset, u64)],
    position: u64,
    to: Offset,
) -> Result<OpenTransactions, StoreError> {
    let first = before[0].0;
    let mut start = ScanStart::of_log(first, first);
    for (at, (base, length)) in before.iter().enumerate() {
        let place = Place { base: *base, length: *length, ..*last };
        let next_base = before.get(at + 1).map_or(last.base, |(base, _)| *base);
        let (report, _) = place.prove(files, start, *length, to)?;
        start = report.next_segment(next_base).ok_or_else(|| place.damaged(&report, to))?;
    }
    let (report, _) = last.prove(files, start, position, to)?;
    Ok(report.open_transactions)
}

/// One segment, and how much of its log counts.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub directory: &'a Path,
    pub base: Offset,
    pub length: u64,
    pub batch_bytes_max: u32,
}

impl Place<'_> {
    fn header(&self, files: &mut Files<'_>, position: u64) -> Result<Option<BatchHeader>, StoreError> {
        let path = self.directory.join(SegmentFile::Log.name(self.base));
        if position + BATCH_HEADER_BYTES as u64 > self.length {
            return Ok(None);
        }
        let bytes = files.read(&path, position, BATCH_HEADER_BYTES as u32)?;
        let header =
            bytes.first_chunk().and_then(|bytes| BatchHeader::parse(bytes, self.batch_bytes_max).ok());
        Ok(header.filter(|header| position + u64::from(header.total_bytes()) <= self.length))
    }

    /// Where the first batch begins that ends at `to` or above; the end of what can be read if there is none.
    pub fn position_of(&self, files: &mut Files<'_>, to: Offset) -> Result<u64, StoreError> {
        let mut position = self.hint(files, to)?;
        while let Some(header) = self.header(files, position)? {
            if header.last_offset() >= to {
                break;
            }
            position += u64::from(header.total_bytes());
        }
        Ok(position)
    }

    /// A batch below `to` that the index names, if its word can be believed; else the start.
    fn hint(&self, files: &mut Files<'_>, to: Offset) -> Result<u64, StoreError> {
        let path = self.directory.join(SegmentFile::OffsetIndex.name(self.base));
        let length = files.length(&path)?.unwrap_or(0);
        let mut best = None;
        let mut at = 0;
        let piece_bytes = PIECE_BYTES / OFFSET_ENTRY_BYTES as u32 * OFFSET_ENTRY_BYTES as u32;
        while at < length {
            let piece = files.read(&path, at, piece_bytes)?;
            at += u64::from(piece_bytes);
            let entries = offset_entries(&piece).map_while(Result::ok);
            let below = entries.take_while(|entry| {
                self.base.checked_add(entry.relative_offset).is_some_and(|last_offset| last_offset < to)
            });
            best = below.last().or(best);
        }
        let Some(entry) = best else { return Ok(0) };
        let position = u64::from(entry.position);
        let header = self.header(files, position)?;
        let named = self.base.checked_add(entry.relative_offset);
        Ok(if header.map(|header| header.last_offset()) == named { position } else { 0 })
    }

    fn has_markers(&self, files: &mut Files<'_>, mut position: u64) -> Result<bool, StoreError> {
        while let Some(header) = self.header(files, position)? {
            if header.is_control() {
                return Ok(true);
            }
            position += u64::from(header.total_bytes());
        }
        Ok(false)
    }

    /// Scans the bytes below `position`; all of them must be right. Says how long the indexes of them are.
    fn prove(
        &self,
        files: &mut Files<'_>,
        start: ScanStart,
        position: u64,
        to: Offset,
    ) -> Result<(ScanReport, IndexSizes), StoreError> {
        let path = self.directory.join(SegmentFile::Log.name(self.base));
        let mut scan = SegmentScan::new(start, self.batch_bytes_max);
        let mut sizes = IndexSizes::default();
        let mut at = 0;
        while at < position {
            let piece = files.read(&path, at, (position - at).min(u64::from(PIECE_BYTES)) as u32)?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            scan.feed(&piece);
            sizes.add(&scan.take_pending());
        }
        let report = scan.finish();
        if report.valid_position == position { Ok((report, sizes)) } else { Err(self.damaged(&report, to)) }
    }

    fn damaged(&self, report: &ScanReport, to: Offset) -> StoreError {
        let path = self.directory.join(SegmentFile::Log.name(self.base));
        StoreError::DamagedBelowCut { path, position: report.valid_position, to, stop: report.stop }
    }

    /// Bytes of the aborted transactions whose markers stay. Read, not regenerated: where a transaction began
    /// is in an earlier segment perhaps.
    fn transaction_entries_below(&self, files: &mut Files<'_>, log_end: Offset) -> Result<u64, StoreError> {
        let path = self.directory.join(SegmentFile::TransactionIndex.name(self.base));
        let length = files.length(&path)?.unwrap_or(0);
        let piece_bytes = PIECE_BYTES / TRANSACTION_ENTRY_BYTES as u32 * TRANSACTION_ENTRY_BYTES as u32;
        let (mut at, mut entries) = (0, 0);
        while at < length {
            let piece = files.read(&path, at, piece_bytes)?;
            at += u64::from(piece_bytes);
            let kept = transaction_entries(&piece).map_while(Result::ok);
            entries += kept.take_while(|entry| entry.last_offset < log_end).count() as u64;
        }
        Ok(entries * TRANSACTION_ENTRY_BYTES as u64)
    }
}

/// Brings the files to what the intent says, then takes the intent back. Repeating it changes nothing.
pub(crate) fn complete_cut(
    files: &mut Files<'_>,
    directory: &Path,
    journal_directory: &Path,
    intent: &PartitionCheckpoint,
) -> Result<PartitionCheckpoint, StoreError> {
    assert!(intent.truncating, "a cut is completed that nobody announced");
    let base = intent.segment_base;
    let mut segments = Segments::list(files, directory)?;
    segments.remove_where(files, directory, |other, _| other > base)?;
    segments.remove_below(files, directory, intent.log_start, base)?;
    files.cut(&directory.join(SegmentFile::Log.name(base)), intent.position)?;
    for (file, covered) in IndexSizes::covered(intent).by_file() {
        files.cut(&directory.join(file.name(base)), covered)?;
    }
    sync_segment(files, directory, base)?;
    files.sync_directory(directory)?;
    let cleared =
        PartitionCheckpoint { truncating: false, generation: intent.generation + 1, ..intent.clone() };
    journal::record_cut(files, journal_directory, &cleared)?;
    write_text(files, &directory.join(LEADER_EPOCH_FILE), cleared.stamp_epochs.to_text())?;
    Ok(cleared)
}
