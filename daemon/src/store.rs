//! Cutting what is stored: its end (truncate), all of it (restart after a gap), its start (trim).
//!
//! ```text
//! truncate, restart:   export what goes --> intent durable --> cut files, sync --> intent gone, durable
//!                      cuts/<link>/<topic>-<p>/<from>-<to>-g<generation>/   segments, manifest
//! trim:                log start recorded --> whole segments below it deleted
//! ```
//! A crash at any step leaves a state that the same call, or recovery, completes. The order is decision 5's:
//! without the intent on disk first, an old batch that lies aligned behind a shorter regrowth would be taken
//! for the log's.
//!
//! Owns the public calls; `store/cut.rs` plans and makes cuts, `store/export.rs` saves what they drop.
//! `store/ready.rs` looks whether closed files can be adopted.
//! Must never run on a partition that a shard still owns, and must never cut what was not exported.

pub(crate) mod cut;
mod error;
mod export;
pub(crate) mod files;
mod ready;
#[cfg(test)]
mod tests;
mod trim;
#[cfg(test)]
pub(crate) mod written_log;

pub use error::StoreError;
pub use ready::{NotReady, ready_partitions};
pub use trim::{TrimReport, trim_partition, write_log_starts};

use crate::journal;
use crate::recovery::record_stamp;
use crate::recovery::segments::Segments;
use cut::{CutPlan, Place, complete_cut, next_stamp, plan_cut, plan_restart};
use export::{Dropped, Reason, export, record_history};
use files::Files;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use twinlog_io::{Disk, wall_clock_ms};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::truncation::CutSize;

/// No batch ends here.
const BEYOND_ALL: Offset = Offset::new(i64::MAX).expect("it is not negative");

/// What a truncation needs to know.
#[derive(Clone, Debug)]
pub struct CutRequest {
    /// `<data.dir>/<link>/<topic>-<partition>`
    pub directory: PathBuf,
    /// `<data.dir>/.twinlog/<link>`
    pub journal_directory: PathBuf,
    /// `<data.dir>/.twinlog/cuts/<link>`
    pub cuts_directory: PathBuf,
    /// The partition's newest, after its shard has let go of it.
    pub checkpoint: PartitionCheckpoint,
    /// The new end. A batch that holds it is cut whole.
    pub to: Offset,
    pub batch_bytes_max: u32,
}

/// What a restart needs to know.
#[derive(Clone, Debug)]
pub struct RestartRequest {
    /// `<data.dir>/<link>/<topic>-<partition>`
    pub directory: PathBuf,
    /// `<data.dir>/.twinlog/<link>`
    pub journal_directory: PathBuf,
    /// `<data.dir>/.twinlog/cuts/<link>`
    pub cuts_directory: PathBuf,
    /// The partition's newest, after its shard has let go of it.
    pub checkpoint: PartitionCheckpoint,
    /// Where the new, empty log begins.
    pub at: Offset,
}

/// How many bytes a cut to `to` would remove, of how many. Reads headers only.
pub fn cut_size(
    disk: &mut dyn Disk,
    directory: &Path,
    to: Offset,
    batch_bytes_max: u32,
) -> Result<CutSize, StoreError> {
    let mut files = Files::new(disk);
    let segments = Segments::list(&mut files, directory)?;
    let logs: Vec<(Offset, u64)> = segments.logs().collect();
    let cut_segment = logs.partition_point(|(base, _)| *base <= to).saturating_sub(1);
    let (mut kept_bytes, mut partition_bytes) = (0, 0);
    for (index, (base, length)) in logs.iter().enumerate() {
        let place = Place { directory, base: *base, length: *length, batch_bytes_max };
        // The last one may be reserved far beyond its batches.
        let last = index + 1 == logs.len();
        let whole = if last { place.position_of(&mut files, BEYOND_ALL)? } else { *length };
        partition_bytes += whole;
        kept_bytes += match index.cmp(&cut_segment) {
            Ordering::Less => whole,
            Ordering::Equal => place.position_of(&mut files, to)?.min(whole),
            Ordering::Greater => 0,
        };
    }
    Ok(CutSize { cut_bytes: partition_bytes - kept_bytes, partition_bytes })
}

/// Cuts a partition's log to end at `to`, or at the batch that holds it. Returns the durable checkpoint to
/// recover with.
pub fn truncate_partition(
    disk: &mut dyn Disk,
    request: &CutRequest,
) -> Result<PartitionCheckpoint, StoreError> {
    let CutRequest { directory, checkpoint, to, batch_bytes_max, .. } = request;
    let mut files = Files::new(disk);
    let checkpoint = settled(&mut files, directory, &request.journal_directory, checkpoint)?;
    let (log_start, log_end) = (checkpoint.log_start, checkpoint.log_end);
    if *to < log_start || *to > log_end {
        return Err(StoreError::CutOutside { directory: directory.clone(), to: *to, log_start, log_end });
    }
    if *to == log_end {
        return Ok(checkpoint);
    }
    let plan = plan_cut(&mut files, directory, &checkpoint, *to, *batch_bytes_max)?;
    let (from, to) = (plan.intent.log_end, log_end);
    let dropped = Dropped {
        reason: Reason::Truncated,
        checkpoint: &checkpoint,
        from,
        to,
        pieces: &plan.dropped,
        now_ms: wall_clock_ms(),
    };
    carry_out(&mut files, directory, &request.journal_directory, &request.cuts_directory, &plan, &dropped)
}

/// Drops a partition's whole log and begins an empty one at `at`; what lies between is named in the link's
/// history for ever. Returns the durable checkpoint to recover with.
pub fn restart_partition(
    disk: &mut dyn Disk,
    request: &RestartRequest,
) -> Result<PartitionCheckpoint, StoreError> {
    let RestartRequest { directory, checkpoint, at, .. } = request;
    let mut files = Files::new(disk);
    let checkpoint = settled(&mut files, directory, &request.journal_directory, checkpoint)?;
    let plan = plan_restart(&mut files, directory, &checkpoint, *at)?;
    let dropped = Dropped {
        reason: Reason::Restarted,
        checkpoint: &checkpoint,
        from: checkpoint.log_end,
        to: *at,
        pieces: &plan.dropped,
        now_ms: wall_clock_ms(),
    };
    carry_out(&mut files, directory, &request.journal_directory, &request.cuts_directory, &plan, &dropped)
}

/// From `at` on, which is not below the log's end, batches are stamped with a new epoch: what followers hold
/// there is not what will come. Durable on return.
pub fn raise_stamp(
    disk: &mut dyn Disk,
    journal_directory: &Path,
    checkpoint: &PartitionCheckpoint,
    at: Offset,
) -> Result<PartitionCheckpoint, StoreError> {
    assert!(at >= checkpoint.log_end, "what is below the end of a log is cut, not stamped");
    let mut raised = checkpoint.clone();
    raised.generation += 1;
    if raised.stamp_epochs.is_empty() {
        record_stamp(&mut raised.stamp_epochs, checkpoint.stamp_epoch(), checkpoint.log_start);
    }
    record_stamp(&mut raised.stamp_epochs, next_stamp(checkpoint), at);
    journal::record_cut(&mut Files::new(disk), journal_directory, &raised)?;
    Ok(raised)
}

/// An earlier cut is completed before the next one is planned.
fn settled(
    files: &mut Files<'_>,
    directory: &Path,
    journal_directory: &Path,
    checkpoint: &PartitionCheckpoint,
) -> Result<PartitionCheckpoint, StoreError> {
    if checkpoint.truncating {
        return complete_cut(files, directory, journal_directory, checkpoint);
    }
    Ok(checkpoint.clone())
}

/// The order of decision 5.
fn carry_out(
    files: &mut Files<'_>,
    directory: &Path,
    journal_directory: &Path,
    cuts_directory: &Path,
    plan: &CutPlan,
    dropped: &Dropped<'_>,
) -> Result<PartitionCheckpoint, StoreError> {
    files.make_directory(directory, 2)?;
    export(files, cuts_directory, dropped)?;
    record_history(files, journal_directory, dropped)?;
    journal::record_cut(files, journal_directory, &plan.intent)?;
    complete_cut(files, directory, journal_directory, &plan.intent)
}
