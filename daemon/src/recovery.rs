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
//! for flushed that were only reserved. Must never read again what the checkpoint covers in a normal restart.

mod indexes;
mod scan_files;
pub(crate) mod segments;
#[cfg(test)]
mod tests;

pub use crate::store::StoreError;
use crate::journal;
use crate::store::cut;
use crate::store::files::Files;
use scan_files::{IndexFilesWritten, ScannedSegment, scan_segment};
use segments::{Segments, sizes_of};
use std::fmt;
use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::{
    LEADER_EPOCH_FILE, LOG_START_FILE, PARTITION_METADATA_FILE, SegmentFile, TopicId, TopicPartition,
    parse_offset_checkpoint, parse_partition_metadata, partition_metadata_text,
};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::recovery::{ActiveFile, Decision, Found, IndexFiles, decide};
use twinlog_log_segment::scan::{ScanReport, ScanStart};

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
    pub batch_bytes_max: u32,
}

/// A partition that can be appended to.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    pub checkpoint: PartitionCheckpoint,
    /// Length of the active `.log`, 0 if there is none yet.
    pub file_bytes: u64,
    /// Any batch is stored, in whatever segment.
    pub holds_batches: bool,
    pub alarms: Vec<RecoveryAlarm>,
}

/// Something that a mere crash does not explain, or that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryAlarm {
    /// Flushed bytes were gone or wrong; they are fetched again.
    FlushedBytesLost { partition: TopicPartition, checkpoint_end: Offset, recovered_end: Offset },
    IndexesRebuilt { partition: TopicPartition, segments: usize },
    /// No checkpoint: which epochs of the source wrote the log is not known.
    ScannedWithoutCheckpoint { partition: TopicPartition, log_end: Offset },
    TruncationResumed { partition: TopicPartition, log_end: Offset },
    RemovalFinished { partition: TopicPartition },
    /// Segments that no longer follow the log. Nothing in them was ever counted as flushed.
    UnprovenSegmentsDeleted { partition: TopicPartition, segments: usize, log_end: Offset },
    /// The first segment begins above the log start that was recorded.
    LogStartMissing { partition: TopicPartition, log_start: Offset, first_segment: Offset },
}

impl fmt::Display for RecoveryAlarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryAlarm::FlushedBytesLost { partition, checkpoint_end, recovered_end } => write!(
                f,
                "{partition}: flushed up to offset {checkpoint_end}, but only {recovered_end} is left and right: \
                 the rest is fetched again; check the disk"
            ),
            RecoveryAlarm::IndexesRebuilt { partition, segments } => {
                write!(f, "{partition}: index files were incomplete; {segments} segments were indexed anew")
            }
            RecoveryAlarm::ScannedWithoutCheckpoint { partition, log_end } => write!(
                f,
                "{partition}: no checkpoint was found; a full scan proved offsets up to {log_end}, and which \
                 epochs of the source wrote them is unknown"
            ),
            RecoveryAlarm::TruncationResumed { partition, log_end } => {
                write!(f, "{partition}: an interrupted truncation to offset {log_end} was completed")
            }
            RecoveryAlarm::RemovalFinished { partition } => {
                write!(f, "{partition}: the removal of an earlier mirror was completed")
            }
            RecoveryAlarm::UnprovenSegmentsDeleted { partition, segments, log_end } => write!(
                f,
                "{partition}: {segments} segments behind offset {log_end} did not follow it and were deleted; \
                 they are fetched again"
            ),
            RecoveryAlarm::LogStartMissing { partition, log_start, first_segment } => write!(
                f,
                "{partition}: the log begins at offset {log_start}, but its first segment at {first_segment}: \
                 segments were deleted by hand; run `twinlog verify`"
            ),
        }
    }
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
