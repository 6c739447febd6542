//! Blocking work on a partition's files, for the control core's blocking pool.
//!
//! Each function runs to its end on one thread and returns what the supervisor needs; none of them may
//! run on a partition that a shard holds.

use super::instruction::Release;
use super::mirror::Replacement;
use crate::config::Settings;
use crate::journal;
use crate::recovery::{RecoverRequest, RecoveredPartition, recover_partition};
use crate::store::files::Files;
use crate::store::{
    CutRequest, RestartRequest, StoreError, cut_size, restart_partition, trim_partition, truncate_partition,
    write_log_starts,
};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{Disk, RealDisk};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::fault::Fault;
use twinlog_sync::truncation::permit_cut;

/// Where a partition's checkpoint is found.
#[derive(Clone, Debug)]
pub enum CheckpointFrom {
    /// Read at the start of the daemon.
    Start(Option<Box<PartitionCheckpoint>>),
    /// A shard or an earlier cut wrote it since.
    Journal,
    /// Learned from followers, of a store that is empty: to be made durable first.
    Followers(Box<PartitionCheckpoint>),
}

/// One partition to be made ready.
#[derive(Clone, Debug)]
pub struct StoreJob {
    pub partition: TopicPartition,
    pub topic_id: TopicId,
    pub directory: PathBuf,
    pub journal_directory: PathBuf,
    pub cuts_directory: PathBuf,
    pub checkpoint: CheckpointFrom,
    /// Where a log begins that is not there yet.
    pub start_offset: Offset,
    /// Followers hold what our files do not.
    pub followed: bool,
    pub batch_bytes_max: u32,
    /// What the operator ordered.
    pub release: Option<Release>,
    /// Grows by what a failover cuts.
    pub cut_bytes: Arc<AtomicI64>,
}

/// Why a partition is not ready.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreRefusal {
    Store(StoreError),
    /// The policy forbids the cut.
    Policy(Fault),
}

impl fmt::Display for StoreRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Policy(fault) => write!(f, "{fault}"),
        }
    }
}

impl From<StoreError> for StoreRefusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl StoreJob {
    fn recover(
        &self,
        disk: &mut dyn Disk,
        checkpoint: Option<PartitionCheckpoint>,
    ) -> Result<RecoveredPartition, StoreError> {
        let request = RecoverRequest {
            directory: self.directory.clone(),
            partition: self.partition.clone(),
            topic_id: self.topic_id,
            checkpoint,
            start_offset: self.start_offset,
            followed: self.followed,
            batch_bytes_max: self.batch_bytes_max,
        };
        recover_partition(disk, &request)
    }

    fn checkpoint(&self, disk: &mut dyn Disk) -> Result<Option<PartitionCheckpoint>, StoreError> {
        match &self.checkpoint {
            CheckpointFrom::Start(checkpoint) => Ok(checkpoint.as_deref().cloned()),
            CheckpointFrom::Journal => {
                Ok(journal::load(disk, &self.journal_directory)?.checkpoints.remove(&self.partition))
            }
            CheckpointFrom::Followers(checkpoint) => {
                journal::record_cut(&mut Files::new(disk), &self.journal_directory, checkpoint)?;
                Ok(Some((**checkpoint).clone()))
            }
        }
    }

    fn cut(
        &self,
        disk: &mut dyn Disk,
        checkpoint: PartitionCheckpoint,
        to: Offset,
    ) -> Result<PartitionCheckpoint, StoreError> {
        let request = CutRequest {
            directory: self.directory.clone(),
            journal_directory: self.journal_directory.clone(),
            cuts_directory: self.cuts_directory.clone(),
            checkpoint,
            to,
            batch_bytes_max: self.batch_bytes_max,
        };
        truncate_partition(disk, &request)
    }

    fn restart(
        &self,
        disk: &mut dyn Disk,
        checkpoint: PartitionCheckpoint,
        at: Offset,
    ) -> Result<PartitionCheckpoint, StoreError> {
        let request = RestartRequest {
            directory: self.directory.clone(),
            journal_directory: self.journal_directory.clone(),
            cuts_directory: self.cuts_directory.clone(),
            checkpoint,
            at,
        };
        restart_partition(disk, &request)
    }
}

/// Recovers a partition, and carries out what the operator ordered for it.
pub fn make_ready(job: &StoreJob) -> Result<RecoveredPartition, StoreRefusal> {
    let disk: &mut dyn Disk = &mut RealDisk;
    let checkpoint = job.checkpoint(disk)?;
    let recovered = job.recover(disk, checkpoint)?;
    let Some(Release::RestartFrom(offset)) = job.release else { return Ok(recovered) };
    let Some(offset) = Offset::new(offset) else { return Ok(recovered) };
    let (log_start, log_end) = (recovered.checkpoint.log_start, recovered.checkpoint.log_end);
    let checkpoint = if offset == log_end {
        return Ok(recovered);
    } else if (log_start..log_end).contains(&offset) {
        job.cut(disk, recovered.checkpoint, offset)?
    } else {
        job.restart(disk, recovered.checkpoint, offset)?
    };
    Ok(job.recover(disk, Some(checkpoint))?)
}

/// Cuts or restarts a log that its shard has let go of, where the policy allows.
pub fn replace(
    job: &StoreJob,
    replacement: Replacement,
    settings: &Settings,
) -> Result<RecoveredPartition, StoreRefusal> {
    let disk: &mut dyn Disk = &mut RealDisk;
    let checkpoint = job.checkpoint(disk)?;
    // A shard wrote one before it let go; without, recovery proves what is there.
    let checkpoint = match checkpoint {
        Some(checkpoint) => checkpoint,
        None => job.recover(disk, None)?.checkpoint,
    };
    let checkpoint = match replacement {
        Replacement::Cut { common_end } => {
            let size = cut_size(disk, &job.directory, common_end, job.batch_bytes_max)?;
            permit_cut(&settings.link.truncation, size, common_end, checkpoint.log_end)
                .map_err(StoreRefusal::Policy)?;
            job.cut(disk, checkpoint, common_end)?
        }
        Replacement::Restart { at } => job.restart(disk, checkpoint, at)?,
        Replacement::Before { to } if to < checkpoint.log_end => {
            let size = cut_size(disk, &job.directory, to, job.batch_bytes_max)?;
            let checkpoint = job.cut(disk, checkpoint, to)?;
            job.cut_bytes.fetch_add(i64::try_from(size.cut_bytes).unwrap_or(i64::MAX), Relaxed);
            checkpoint
        }
        // Nothing of ours goes; what followers have beyond it must.
        Replacement::Before { .. } => {
            let end = checkpoint.log_end;
            crate::store::raise_stamp(disk, &job.journal_directory, &checkpoint, end)?
        }
        Replacement::Gone | Replacement::Reopen | Replacement::Sealed => checkpoint,
    };
    Ok(job.recover(disk, Some(checkpoint))?)
}

/// From `at` on, batches are stamped with another epoch than followers may have seen there. Durable on return.
pub fn raise_stamp(
    journal_directory: &std::path::Path,
    checkpoint: &PartitionCheckpoint,
    at: Offset,
) -> Result<PartitionCheckpoint, StoreError> {
    crate::store::raise_stamp(&mut RealDisk, journal_directory, checkpoint, at)
}

/// Removes what is held of a topic that no shard holds: first its checkpoints say so, then its directories go.
/// Answers with the partitions that were there.
pub fn remove_topic(
    link_directory: &Path,
    journal_directory: &Path,
    topic: &str,
) -> Result<BTreeSet<TopicPartition>, StoreError> {
    let disk: &mut dyn Disk = &mut RealDisk;
    let checkpoints = journal::load(disk, journal_directory)?.checkpoints;
    let mut files = Files::new(disk);
    let mut removed = BTreeSet::new();
    for (partition, checkpoint) in checkpoints.into_iter().filter(|(each, _)| each.topic() == topic) {
        if !checkpoint.removed {
            let generation = checkpoint.generation + 1;
            let gone = PartitionCheckpoint { generation, removed: true, truncating: false, ..checkpoint };
            journal::record_cut(&mut files, journal_directory, &gone)?;
        }
        removed.insert(partition);
    }
    let entries = files.list(link_directory)?.unwrap_or_default();
    let here = entries.iter().filter(|entry| entry.directory);
    for partition in here.filter_map(|entry| TopicPartition::parse_directory(&entry.name)) {
        if partition.topic() == topic {
            files.remove_directory(&link_directory.join(partition.directory_name()))?;
            removed.insert(partition);
        }
    }
    files.sync_directory(link_directory)?;
    Ok(removed)
}

/// One partition whose log start moved.
#[derive(Clone, Debug)]
pub struct Trim {
    pub directory: PathBuf,
    pub log_start: Offset,
    /// Log end of its newest durable checkpoint.
    pub checkpoint: Offset,
}

/// Records where logs start, then deletes what lies wholly below. Returns the bytes deleted.
pub fn trim(
    link_directory: &std::path::Path,
    log_starts: &[(TopicPartition, Offset)],
    trims: &[Trim],
) -> Result<u64, StoreError> {
    let disk: &mut dyn Disk = &mut RealDisk;
    write_log_starts(disk, link_directory, log_starts)?;
    let mut deleted_bytes = 0;
    for trim in trims {
        deleted_bytes +=
            trim_partition(disk, &trim.directory, trim.log_start, trim.checkpoint)?.deleted_bytes;
    }
    Ok(deleted_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_topic_leaves_neither_files_nor_a_checkpoint_that_counts() {
        let root = tempfile::tempdir().unwrap();
        let (link, journals) = (root.path().join("dr"), root.path().join(".twinlog").join("dr"));
        let partition = |name: &str| TopicPartition::parse_directory(name).unwrap();
        for name in ["orders-0", "orders-1", "orders-eu-0"] {
            std::fs::create_dir_all(link.join(name)).unwrap();
            std::fs::write(link.join(name).join("00000000000000000000.log"), b"x").unwrap();
        }
        std::fs::create_dir_all(&journals).unwrap();
        for name in ["orders-0", "orders-eu-0"] {
            let mut known = PartitionCheckpoint::empty(partition(name), TopicId([1; 16]), Offset::ZERO);
            known.generation = 5;
            journal::record_cut(&mut Files::new(&mut RealDisk), &journals, &known).unwrap();
        }
        // Twice: a crash may come behind any of its steps.
        for _ in 0..2 {
            let removed = remove_topic(&link, &journals, "orders").unwrap();
            assert!(removed.contains(&partition("orders-0")) && !removed.contains(&partition("orders-eu-0")));
            assert!(!link.join("orders-0").exists() && !link.join("orders-1").exists());
            assert!(link.join("orders-eu-0").exists());
            let kept = journal::load(&mut RealDisk, &journals).unwrap().checkpoints;
            let gone = &kept[&partition("orders-0")];
            assert_eq!((gone.removed, gone.generation), (true, 6));
            assert!(!kept[&partition("orders-eu-0")].removed);
        }
    }
}
