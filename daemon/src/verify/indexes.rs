//! The index files of one segment held against its batches, one by one.
//!
//! ```text
//! batch at byte P, ends at L     .index: an entry (L, P)?   every entry must meet its batch
//! largest timestamp so far       .timeindex: (T, L)?        every entry must be one; a closed segment's last is all's
//! abort marker at L              .txnindex: its entry       exactly one
//! ```
//! Entries may be fewer than a broker writes (the interval is a setting), but none may be wrong.
//! Must never hold more than the index files of one segment.

use super::problem::IndexProblem;
use crate::store::StoreError;
use crate::store::files::{Files, PIECE_BYTES};
use std::path::Path;
use twinlog_log_segment::batch::BatchHeader;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::index::{
    AbortedTransaction, IndexError, NO_TIMESTAMP_MS, OFFSET_ENTRY_BYTES, OffsetEntry, TIME_ENTRY_BYTES,
    TRANSACTION_ENTRY_BYTES, TimeEntry, offset_entries, time_entries, transaction_entries,
};
use twinlog_log_segment::offset::Offset;

/// The longest index file that is read. The largest segment has 12 MB of entries when each batch has one per
/// 4 kB; a longer file is not one.
const INDEX_BYTES_MAX: u64 = 32 << 20;

/// The entries of one file that were not met yet.
struct Entries<T> {
    file: SegmentFile,
    entries: Vec<T>,
    next: usize,
    entry_bytes: u64,
}

impl<T: Copy> Entries<T> {
    fn peek(&self) -> Option<T> {
        self.entries.get(self.next).copied()
    }

    /// Position of the next entry in its file.
    fn position(&self) -> u64 {
        self.next as u64 * self.entry_bytes
    }
}

/// A problem in one of the segment's files.
pub(super) type Found = (SegmentFile, u64, IndexProblem);

/// See the file's header.
pub(super) struct SegmentIndexes {
    base: Offset,
    offsets: Entries<OffsetEntry>,
    times: Entries<TimeEntry>,
    transactions: Entries<AbortedTransaction>,
    max_timestamp_ms: i64,
    /// Transactions that began below it are unknown here: their beginning was trimmed.
    log_begins: Offset,
}

impl SegmentIndexes {
    pub fn read(
        files: &mut Files<'_>,
        directory: &Path,
        base: Offset,
        log_begins: Offset,
        found: &mut Vec<Found>,
    ) -> Result<SegmentIndexes, StoreError> {
        let (offset, time) = (SegmentFile::OffsetIndex, SegmentFile::TimeIndex);
        let transaction = SegmentFile::TransactionIndex;
        let bytes = read_file(files, directory, base, offset, found)?;
        let offsets = collect(offset, offset_entries(&bytes), OFFSET_ENTRY_BYTES, found);
        let bytes = read_file(files, directory, base, time, found)?;
        let times = collect(time, time_entries(&bytes), TIME_ENTRY_BYTES, found);
        let bytes = read_file(files, directory, base, transaction, found)?;
        let transactions = collect(transaction, transaction_entries(&bytes), TRANSACTION_ENTRY_BYTES, found);
        let max_timestamp_ms = NO_TIMESTAMP_MS;
        Ok(SegmentIndexes { base, offsets, times, transactions, max_timestamp_ms, log_begins })
    }

    /// A right batch at `position`.
    pub fn on_batch(&mut self, header: &BatchHeader, position: u64, found: &mut Vec<Found>) {
        let last_offset = header.last_offset();
        let Some(relative_offset) = last_offset.delta_from(self.base) else { return };
        while let Some(entry) = self.offsets.peek().filter(|entry| u64::from(entry.position) <= position) {
            if u64::from(entry.position) != position || entry.relative_offset != relative_offset {
                found.push(self.wrong_offset(entry));
            }
            self.offsets.next += 1;
        }
        let largest = header.record_count > 0 && header.max_timestamp_ms > self.max_timestamp_ms;
        if largest {
            self.max_timestamp_ms = header.max_timestamp_ms;
        }
        while let Some(entry) = self.times.peek().filter(|entry| entry.relative_offset <= relative_offset) {
            let right =
                entry.relative_offset == relative_offset && entry.timestamp_ms == header.max_timestamp_ms;
            if !(right && largest) {
                found.push(self.wrong_time(entry));
            }
            self.times.next += 1;
        }
    }

    /// A marker was read; `aborted` is what it ended, as far as the log tells.
    pub fn on_marker(
        &mut self,
        header: &BatchHeader,
        kind: ControlKind,
        aborted: Option<AbortedTransaction>,
        must_be_indexed: bool,
        found: &mut Vec<Found>,
    ) {
        let (producer_id, last_offset) = (header.producer_id, header.last_offset());
        let file = SegmentFile::TransactionIndex;
        while let Some(entry) = self.transactions.peek().filter(|entry| entry.last_offset <= last_offset) {
            let position = self.transactions.position();
            self.transactions.next += 1;
            let begun_before = entry.first_offset < self.log_begins && kind == ControlKind::Abort;
            let right = entry.last_offset == last_offset
                && entry.producer_id == producer_id
                && (begun_before || aborted.is_some_and(|aborted| self.is_same(entry, aborted)));
            if !right {
                let (producer_id, last_offset) = (entry.producer_id, entry.last_offset);
                found.push((file, position, IndexProblem::AbortedWrong { producer_id, last_offset }));
            }
            if entry.last_offset == last_offset {
                return;
            }
        }
        if aborted.is_some() && must_be_indexed {
            let what = IndexProblem::AbortedMissing { producer_id, last_offset };
            found.push((file, self.transactions.position(), what));
        }
    }

    /// Another transaction may have been open since before the log's start: only then may the last stable
    /// offset be lower than the log can tell.
    fn is_same(&self, entry: AbortedTransaction, aborted: AbortedTransaction) -> bool {
        entry == aborted
            || entry.last_stable_offset < self.log_begins
                && entry == AbortedTransaction { last_stable_offset: entry.last_stable_offset, ..aborted }
    }

    /// The segment's batches are over; entries that are left name none.
    pub fn finish(mut self, closed: bool, found: &mut Vec<Found>) {
        let last_time = self.times.entries.last().map_or(NO_TIMESTAMP_MS, |entry| entry.timestamp_ms);
        while let Some(entry) = self.offsets.peek() {
            found.push(self.wrong_offset(entry));
            self.offsets.next += 1;
        }
        while let Some(entry) = self.times.peek() {
            found.push(self.wrong_time(entry));
            self.times.next += 1;
        }
        while let Some(entry) = self.transactions.peek() {
            let AbortedTransaction { producer_id, last_offset, .. } = entry;
            let what = IndexProblem::AbortedWrong { producer_id, last_offset };
            found.push((self.transactions.file, self.transactions.position(), what));
            self.transactions.next += 1;
        }
        if closed && last_time != self.max_timestamp_ms {
            let what = IndexProblem::TimeNotFinal { max_timestamp_ms: self.max_timestamp_ms };
            found.push((self.times.file, self.times.position(), what));
        }
    }

    fn wrong_offset(&self, entry: OffsetEntry) -> Found {
        let last_offset = self.base.value().saturating_add(i64::from(entry.relative_offset));
        let what = IndexProblem::OffsetEntry { last_offset, position: entry.position };
        (self.offsets.file, self.offsets.position(), what)
    }

    fn wrong_time(&self, entry: TimeEntry) -> Found {
        let last_offset = self.base.value().saturating_add(i64::from(entry.relative_offset));
        let what = IndexProblem::TimeEntry { timestamp_ms: entry.timestamp_ms, last_offset };
        (self.times.file, self.times.position(), what)
    }
}

fn read_file(
    files: &mut Files<'_>,
    directory: &Path,
    base: Offset,
    file: SegmentFile,
    found: &mut Vec<Found>,
) -> Result<Vec<u8>, StoreError> {
    let path = directory.join(file.name(base));
    let length = files.length(&path)?.unwrap_or(0);
    if length > INDEX_BYTES_MAX {
        found.push((file, 0, IndexProblem::IndexTooLong { bytes: length }));
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let piece = files.read(&path, bytes.len() as u64, PIECE_BYTES)?;
        if piece.is_empty() {
            break;
        }
        bytes.extend(piece);
    }
    Ok(bytes)
}

/// The entries up to the first one that is not one.
fn collect<T>(
    file: SegmentFile,
    entries: impl Iterator<Item = Result<T, IndexError>>,
    entry_bytes: usize,
    found: &mut Vec<Found>,
) -> Entries<T> {
    let mut right = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => right.push(entry),
            Err(error) => {
                found.push((file, (right.len() * entry_bytes) as u64, IndexProblem::Entry(error)));
                break;
            }
        }
    }
    Entries { file, entries: right, next: 0, entry_bytes: entry_bytes as u64 }
}
