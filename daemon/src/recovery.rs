//! Recovery of one partition: from what a crash left, to a log that is proven and a state to append with.
//!
//! ```text
//! list files, read checkpoint --> decide (log-segment's table) --> do what it says --> sync --> hand over
//!                                    ^                                  |
//!                                    +------- ResumeTruncation ---------+
//! ```
//! It owns the doing of each decision: `recovery/segments.rs` lists and deletes, `recovery/scan_files.rs` runs
//! the scan over files and writes the indexes it regenerates, `recovery/indexes.rs` looks whether index files
//! can be believed. Everything that it changed is synced before it returns.
//!
//! Invariants: what is handed over is a prefix of what was written, and at least what the checkpoint covers
//! unless an alarm says otherwise; nothing behind the first stop of a scan is left in any file; where the end
//! fell below the checkpoint's, the new checkpoint is durable first, or else the next start would take bytes
//! for flushed that were only reserved; a spool's log start and epochs stay as they are, however little of the
//! log its files hold. Must never read again what the checkpoint covers in a normal restart.

mod alarm;
mod indexes;
pub(crate) mod scan_files;
pub(crate) mod segments;
#[cfg(test)]
mod tests;

pub use crate::store::StoreError;
pub use alarm::RecoveryAlarm;

use crate::journal;
use crate::store::cut;
use crate::store::files::Files;
use indexes::covered_indexes_are_right;
use scan_files::{IndexSizes, ScannedSegment, follows, scan_segment, settle_segment};
use segments::Segments;
use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::digest::LogDigest;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::{
    LEADER_EPOCH_FILE, LOG_START_FILE, PARTITION_METADATA_FILE, SegmentFile, TopicId, TopicPartition,
    parse_offset_checkpoint, parse_partition_metadata, partition_metadata_text,
};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::recovery::{Decision, FileSizes, Found, IndexFiles, decide};
use twinlog_log_segment::scan::ScanStart;

/// What is known of a partition before its files are looked at.
#[derive(Clone, Debug)]
pub struct RecoverRequest {
    /// `<data.dir>/<link>/<topic>-<partition>`
    pub directory: PathBuf,
    pub partition: TopicPartition,
    /// The source's, now.
    pub topic_id: TopicId,
    /// From the journal.
    pub checkpoint: Option<PartitionCheckpoint>,
    /// Where a log begins that is not there yet: the source's log start.
    pub start_offset: Offset,
    /// Followers hold what our files do not: where these begin is never taken for the topic's start, or every
    /// follower would delete what is below.
    pub followed: bool,
    pub batch_bytes_max: u32,
}

/// A segment that takes no more batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    pub base: Offset,
    /// Bytes of its `.log`.
    pub length: u64,
}

/// A partition that can be appended to.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    pub checkpoint: PartitionCheckpoint,
    /// Length of the active `.log`, 0 if there is none yet.
    pub file_bytes: u64,
    /// Any batch is stored, in whatever segment.
    pub holds_batches: bool,
    /// Segments before the active one, in order.
    pub closed: Vec<ClosedSegment>,
    /// The latest source epoch that was ever durable: followers may hold bytes of it beyond our end.
    pub last_source_epoch: Option<LeaderEpoch>,
    pub alarms: Vec<RecoveryAlarm>,
}

/// Brings one partition's files and its checkpoint together.
pub fn recover_partition(
    disk: &mut dyn Disk,
    request: &RecoverRequest,
) -> Result<RecoveredPartition, StoreError> {
    let mut files = Files::new(disk);
    let log_start = recorded_log_start(&mut files, request)?;
    check_topic_id(&mut files, request)?;
    let mut recovery = Recovery {
        files,
        request,
        log_start,
        checkpoint: request.checkpoint.clone(),
        alarms: Vec::new(),
        lowered: false,
    };
    let outcome = recovery.run()?;
    recovery.finish(outcome)
}

/// The partition's line of `log-start-offset-checkpoint`.
fn recorded_log_start(files: &mut Files<'_>, request: &RecoverRequest) -> Result<Option<Offset>, StoreError> {
    let path = request.directory.parent().unwrap_or(Path::new("")).join(LOG_START_FILE);
    let Some(text) = files.read_text(&path)? else { return Ok(None) };
    let prefix = format!("{} {} ", request.partition.topic(), request.partition.partition());
    // Ten thousand partitions would parse ten thousand lines each: only the one line is.
    let Some((at, line)) = text.lines().enumerate().find(|(_, line)| line.starts_with(&prefix)) else {
        return Ok(None);
    };
    let entries = parse_offset_checkpoint(LOG_START_FILE, &format!("0\n1\n{line}\n"));
    let mut entries = entries.map_err(|mut error| {
        error.line = at.saturating_add(1);
        StoreError::TextFile { path, error }
    })?;
    Ok(entries.pop().map(|(_, offset)| offset))
}

/// Refuses to append a re-created topic to the old one's log.
fn check_topic_id(files: &mut Files<'_>, request: &RecoverRequest) -> Result<(), StoreError> {
    let removed = request.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.removed);
    if removed {
        return Ok(());
    }
    let path = request.directory.join(PARTITION_METADATA_FILE);
    let stored = match files.read_text(&path)? {
        None => None,
        Some(text) => {
            let id = parse_partition_metadata(&text);
            Some(id.map_err(|error| StoreError::TextFile { path, error })?)
        }
    };
    let known = [stored, request.checkpoint.as_ref().map(|checkpoint| checkpoint.topic_id)];
    for mirrored in known.into_iter().flatten() {
        // A source that did not tell ids before, or does not now, proves nothing. ref: KIP-516
        let comparable = mirrored != TopicId::ZERO && request.topic_id != TopicId::ZERO;
        if comparable && mirrored != request.topic_id {
            return Err(StoreError::TopicRecreated { mirrored, found: request.topic_id });
        }
    }
    Ok(())
}

/// Where a recovery is.
struct Recovery<'a> {
    files: Files<'a>,
    request: &'a RecoverRequest,
    /// As recorded beside the log; may be ahead of the checkpoint's.
    log_start: Option<Offset>,
    /// What the decision is made of.
    checkpoint: Option<PartitionCheckpoint>,
    alarms: Vec<RecoveryAlarm>,
    /// The end fell below the checkpoint's.
    lowered: bool,
}

/// What a decision led to.
struct Outcome {
    checkpoint: PartitionCheckpoint,
    holds_batches: bool,
}

impl Recovery<'_> {
    fn run(&mut self) -> Result<Outcome, StoreError> {
        loop {
            let mut segments = Segments::list(&mut self.files, &self.request.directory)?;
            let decision = self.decide(&segments)?;
            if !matches!(decision, Decision::Refuse(_) | Decision::FinishRemoval) {
                let checkpoint = self.checkpoint.as_ref();
                segments.remove_orphans(&mut self.files, &self.request.directory, checkpoint)?;
            }
            let checkpoint = self.checkpoint.clone();
            match (decision, checkpoint) {
                (Decision::StartEmpty, _) => return self.start_empty(),
                (Decision::FinishRemoval, _) => return self.finish_removal(),
                (Decision::ScanFromCheckpoint, Some(checkpoint)) => {
                    return self.scan_from_checkpoint(&checkpoint, &segments);
                }
                (Decision::RefetchLost, Some(checkpoint)) => {
                    let directory = &self.request.directory;
                    let behind = |base: Offset, _: &FileSizes| base > checkpoint.segment_base;
                    segments.remove_where(&mut self.files, directory, behind)?;
                    self.lowered = true;
                    return self.scan_all(&segments);
                }
                (Decision::RebuildIndexes | Decision::ScanAll, _) => return self.scan_all(&segments),
                (Decision::ResumeTruncation, Some(intent)) => self.resume_truncation(&intent)?,
                (Decision::Refuse(reason), Some(checkpoint)) => {
                    return Err(StoreError::Refused {
                        directory: self.request.directory.clone(),
                        segment_base: checkpoint.segment_base,
                        position: checkpoint.position,
                        reason,
                    });
                }
                (decision, None) => panic!("{decision:?} was decided without a checkpoint"),
            }
        }
    }

    /// Asks the table; a checkpoint whose index files only have the right sizes does not cover them.
    fn decide(&mut self, segments: &Segments) -> Result<Decision, StoreError> {
        let live = self.checkpoint.as_ref().filter(|checkpoint| !checkpoint.removed);
        let base = live.map(|checkpoint| checkpoint.segment_base);
        let base = base.or_else(|| segments.logs().next().map(|(base, _)| base)).unwrap_or(Offset::ZERO);
        let later = segments.logs().any(|(other, _)| other > base);
        let mut found = Found::classify(self.checkpoint.as_ref(), segments.sizes_of(base), later);
        if let Some(checkpoint) = live
            && decide(found) == Decision::ScanFromCheckpoint
            && !covered_indexes_are_right(&mut self.files, &self.request.directory, checkpoint)?
        {
            found.indexes = IndexFiles::Shorter;
        }
        Ok(decide(found))
    }

    fn start_empty(&mut self) -> Result<Outcome, StoreError> {
        let RecoverRequest { partition, topic_id, start_offset, .. } = self.request;
        let mut checkpoint = PartitionCheckpoint::empty(partition.clone(), *topic_id, *start_offset);
        record_stamp(&mut checkpoint.stamp_epochs, LeaderEpoch(0), *start_offset);
        if let Some(removed) = &self.checkpoint {
            checkpoint.generation = removed.generation;
            // Else the next start would take what is appended for a part of what was removed.
            self.lowered = true;
        }
        self.log_start = None;
        Ok(Outcome { checkpoint, holds_batches: false })
    }

    fn finish_removal(&mut self) -> Result<Outcome, StoreError> {
        let directory = &self.request.directory;
        self.files.remove_directory(directory)?;
        self.files.sync_directory(directory.parent().unwrap_or(Path::new(".")))?;
        self.alarms.push(RecoveryAlarm::RemovalFinished { partition: self.request.partition.clone() });
        self.start_empty()
    }

    fn resume_truncation(&mut self, intent: &PartitionCheckpoint) -> Result<(), StoreError> {
        let directory = &self.request.directory;
        let cleared =
            cut::complete_cut(&mut self.files, directory, &journal::directory_of(directory), intent)?;
        let (partition, log_end) = (self.request.partition.clone(), cleared.log_end);
        self.alarms.push(RecoveryAlarm::TruncationResumed { partition, log_end });
        self.checkpoint = Some(cleared);
        Ok(())
    }

    fn scan_from_checkpoint(
        &mut self,
        checkpoint: &PartitionCheckpoint,
        segments: &Segments,
    ) -> Result<Outcome, StoreError> {
        let base = checkpoint.segment_base;
        let before = segments.logs().any(|(other, length)| other < base && length > 0);
        // A spool whose last segment went has held batches all the same: none may begin below its end.
        let held = before || checkpoint.position > 0 || checkpoint.is_spool();
        let start = ScanStart {
            position: checkpoint.position,
            next_offset: checkpoint.log_end,
            may_start_mid_batch: !held,
            index: checkpoint.index,
            open_transactions: checkpoint.open_transactions.clone(),
            stamp_epochs: begun_at(&checkpoint.stamp_epochs, checkpoint.log_end),
            digest: LogDigest::new(),
        };
        let covered = IndexSizes::covered(checkpoint);
        let later: Vec<Offset> =
            segments.logs().map(|(other, _)| other).filter(|other| *other > base).collect();
        let (scanned, batches) = self.scan_chain(start, covered, &later, segments)?;
        let checkpoint = advanced(checkpoint.clone(), &scanned);
        Ok(Outcome { checkpoint, holds_batches: held || batches > 0 })
    }

    /// Scans every segment from the first one and writes all indexes anew.
    fn scan_all(&mut self, segments: &Segments) -> Result<Outcome, StoreError> {
        let bases: Vec<Offset> = segments.logs().map(|(base, _)| base).collect();
        let known = self.checkpoint.clone();
        let Some((first, later)) = bases.split_first() else {
            let Some(known) = known else { return self.start_empty() };
            return Ok(self.nothing_held(known));
        };
        let mut start = ScanStart::of_log(*first, *first);
        if let Some(known) = &known {
            // What is not held any more is still known.
            start.stamp_epochs = known.stamp_epochs.clone();
            start.stamp_epochs.truncate_to(*first);
        }
        let (scanned, batches) = self.scan_chain(start, IndexSizes::default(), later, segments)?;
        let log_end = scanned.report.next_offset;
        let partition = self.request.partition.clone();
        let Some(known) = known else {
            if batches == 0 {
                // Opened, never written: where the source begins now is where the log begins.
                let mut segments = Segments::list(&mut self.files, &self.request.directory)?;
                segments.remove_where(&mut self.files, &self.request.directory, |_, _| true)?;
                return self.start_empty();
            }
            self.alarms.push(RecoveryAlarm::ScannedWithoutCheckpoint { partition, log_end });
            let mut empty =
                PartitionCheckpoint::empty(self.request.partition.clone(), self.request.topic_id, *first);
            if self.request.followed {
                empty.log_start = self.request.start_offset.min(*first);
            }
            return Ok(Outcome { checkpoint: advanced(empty, &scanned), holds_batches: true });
        };
        if log_end < known.log_end {
            self.lowered = true;
            let (checkpoint_end, recovered_end) = (known.log_end, log_end);
            self.alarms.push(RecoveryAlarm::FlushedBytesLost { partition, checkpoint_end, recovered_end });
        } else {
            self.alarms.push(RecoveryAlarm::IndexesRebuilt { partition, segments: bases.len() });
        }
        let stamp_epoch = known.stamp_epoch();
        // Where a spool's transactions began need not be held any more.
        let open = (known.is_spool() && known.log_end == log_end).then(|| known.open_transactions.clone());
        let mut checkpoint = advanced(known, &scanned);
        checkpoint.open_transactions = open.unwrap_or(checkpoint.open_transactions);
        // The epoch of a cut that no batch has followed yet stands in no segment.
        record_stamp(&mut checkpoint.stamp_epochs, stamp_epoch, log_end);
        checkpoint.truncating = false;
        Ok(Outcome { checkpoint, holds_batches: batches > 0 })
    }

    /// There is a checkpoint and not one segment file: the log goes on at its end.
    fn nothing_held(&self, known: PartitionCheckpoint) -> Outcome {
        let checkpoint = match self.request.followed || known.is_spool() {
            true => holding_nothing(&known, known.log_end),
            false => emptied(&known, known.log_end),
        };
        Outcome { holds_batches: checkpoint.is_spool(), checkpoint }
    }

    /// Scans one segment and those that follow it, settles each, and deletes what does not follow. Returns
    /// the last one and how many batches were seen.
    fn scan_chain(
        &mut self,
        start: ScanStart,
        covered: IndexSizes,
        later: &[Offset],
        segments: &Segments,
    ) -> Result<(ScannedSegment, u64), StoreError> {
        let RecoverRequest { directory, batch_bytes_max, .. } = self.request;
        let files = &mut self.files;
        let mut scanned = scan_segment(files, directory, start, covered, *batch_bytes_max)?;
        let mut batches = scanned.report.batches;
        for base in later {
            let Some(start) = follows(files, directory, &scanned, *base, *batch_bytes_max)? else {
                let unproven = |other: Offset, _: &FileSizes| other >= *base;
                let count = segments.clone().remove_where(files, directory, unproven)?;
                let (partition, log_end) = (self.request.partition.clone(), scanned.report.next_offset);
                let alarm = RecoveryAlarm::UnprovenSegmentsDeleted { partition, segments: count, log_end };
                self.alarms.push(alarm);
                break;
            };
            settle_segment(files, directory, &mut scanned, true)?;
            scanned = scan_segment(files, directory, start, IndexSizes::default(), *batch_bytes_max)?;
            batches += scanned.report.batches;
        }
        settle_segment(files, directory, &mut scanned, false)?;
        Ok((scanned, batches))
    }

    /// What every decision ends with: the log's start, Kafka's small files, and all of it durable.
    fn finish(mut self, outcome: Outcome) -> Result<RecoveredPartition, StoreError> {
        let Outcome { mut checkpoint, holds_batches } = outcome;
        let directory = &self.request.directory;
        self.files.make_directory(directory, 2)?;
        let segments = self.settle_starts(&mut checkpoint)?;
        if self.request.topic_id != TopicId::ZERO {
            checkpoint.topic_id = self.request.topic_id;
        }
        let metadata = partition_metadata_text(checkpoint.topic_id);
        write_text(&mut self.files, &directory.join(PARTITION_METADATA_FILE), metadata)?;
        let epochs = checkpoint.stamp_epochs.to_text();
        write_text(&mut self.files, &directory.join(LEADER_EPOCH_FILE), epochs)?;
        let log = directory.join(SegmentFile::Log.name(checkpoint.segment_base));
        if checkpoint.position == 0 && self.files.length(&log)?.is_none() {
            // An empty log is a file too: its name says where the log begins, also to a stock broker.
            self.files.write(&log, 0, Vec::new())?;
        }
        self.files.sync_directory(directory)?;
        if self.request.checkpoint.as_ref().is_some_and(|known| *known != checkpoint) {
            checkpoint.generation += 1;
        }
        if self.lowered {
            journal::record_cut(&mut self.files, &journal::directory_of(directory), &checkpoint)?;
        }
        let active = directory.join(SegmentFile::Log.name(checkpoint.segment_base));
        let file_bytes = self.files.length(&active)?.unwrap_or(0);
        let closed = segments.logs().filter(|(base, _)| *base < checkpoint.segment_base);
        let closed = closed.map(|(base, length)| ClosedSegment { base, length }).collect();
        let durable = self.request.checkpoint.as_ref().and_then(|known| known.source_epochs.latest());
        let last_source_epoch = durable.or(checkpoint.source_epochs.latest()).map(|latest| latest.epoch);
        let alarms = self.alarms;
        Ok(RecoveredPartition { checkpoint, file_bytes, holds_batches, closed, last_source_epoch, alarms })
    }

    /// Takes over a log start that was recorded later than the checkpoint, and deletes what a trim, or a spool
    /// that gave up its oldest segments, left. Returns what there is then.
    fn settle_starts(&mut self, checkpoint: &mut PartitionCheckpoint) -> Result<Segments, StoreError> {
        let directory = &self.request.directory;
        let keeps_start = self.request.followed || checkpoint.is_spool();
        let recorded = self.log_start.unwrap_or(checkpoint.log_start);
        let mut log_start = checkpoint.log_start.max(recorded).min(checkpoint.log_end);
        let mut held_start = checkpoint.held_start.max(log_start).min(checkpoint.log_end);
        let mut segments = Segments::list(&mut self.files, directory)?;
        segments.remove_below(&mut self.files, directory, held_start, checkpoint.segment_base)?;
        if let Some((first_segment, _)) = segments.logs().next().filter(|(base, _)| *base > held_start) {
            let partition = self.request.partition.clone();
            self.alarms.push(RecoveryAlarm::LogStartMissing {
                partition,
                log_start: held_start,
                first_segment,
            });
            held_start = first_segment;
            if !keeps_start {
                log_start = first_segment;
            }
        }
        checkpoint.held_start = held_start;
        if log_start > checkpoint.log_start {
            checkpoint.log_start = log_start;
            checkpoint.source_epochs.trim_to(log_start);
            checkpoint.stamp_epochs.trim_to(log_start);
        }
        Ok(segments)
    }
}

/// The checkpoint at the end of what was scanned.
fn advanced(mut checkpoint: PartitionCheckpoint, scanned: &ScannedSegment) -> PartitionCheckpoint {
    let ScannedSegment { report, sizes } = scanned;
    checkpoint.segment_base = scanned.base();
    checkpoint.position = report.valid_position;
    checkpoint.log_end = report.next_offset;
    checkpoint.log_start = checkpoint.log_start.min(report.next_offset);
    checkpoint.held_start = checkpoint.held_start.min(report.next_offset);
    checkpoint.index = report.index;
    checkpoint.offset_index_bytes = sizes.offset;
    checkpoint.time_index_bytes = sizes.time;
    checkpoint.transaction_index_bytes = sizes.transaction;
    checkpoint.open_transactions = report.open_transactions.clone();
    let known = std::mem::replace(&mut checkpoint.stamp_epochs, report.stamp_epochs.clone());
    // Epochs that begin at or above the end stay: followers may hold what we have to fetch again.
    for entry in known.entries().iter().filter(|entry| entry.start >= report.next_offset) {
        record_stamp(&mut checkpoint.stamp_epochs, entry.epoch, entry.start);
    }
    // What was scanned was written under the latest epoch: a new one is in the journal before its bytes are.
    checkpoint.source_epochs.truncate_to(report.next_offset);
    checkpoint
}

/// The part of a history that batches up to and at `offset` can have been stamped with.
fn begun_at(stamps: &EpochHistory, offset: Offset) -> EpochHistory {
    let mut begun = stamps.clone();
    if let Some(behind) = offset.checked_add(1) {
        begun.truncate_to(behind);
    }
    begun
}

/// The same partition with an empty log that begins at `at`.
pub(crate) fn emptied(known: &PartitionCheckpoint, at: Offset) -> PartitionCheckpoint {
    let mut empty = PartitionCheckpoint::empty(known.partition.clone(), known.topic_id, at);
    empty.generation = known.generation;
    record_stamp(&mut empty.stamp_epochs, known.stamp_epoch(), at);
    empty
}

/// The same partition, of which our files hold nothing up to its end at `at`: its followers do.
pub(crate) fn holding_nothing(known: &PartitionCheckpoint, at: Offset) -> PartitionCheckpoint {
    PartitionCheckpoint {
        generation: known.generation,
        log_start: known.log_start,
        source_epochs: known.source_epochs.clone(),
        stamp_epochs: known.stamp_epochs.clone(),
        open_transactions: known.open_transactions.clone(),
        ..PartitionCheckpoint::empty(known.partition.clone(), known.topic_id, at)
    }
}

/// Notes that batches from `start` on are stamped with `epoch`, unless a later epoch is known already.
pub(crate) fn record_stamp(stamps: &mut EpochHistory, epoch: LeaderEpoch, start: Offset) {
    if stamps.latest().is_none_or(|latest| latest.epoch < epoch && latest.start <= start)
        && let Err(error) = stamps.record(epoch, start)
    {
        // Only a history of 4096 cuts above one log start is left: its oldest entries say nothing any more.
        *stamps = EpochHistory::new();
        assert!(stamps.record(epoch, start).is_ok(), "an empty history accepts any epoch, after {error}");
    }
}

/// Writes a small file if it says something else.
pub(crate) fn write_text(files: &mut Files<'_>, path: &Path, text: String) -> Result<(), StoreError> {
    if files.read_text(path)?.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    files.replace(path, text.into_bytes())
}
