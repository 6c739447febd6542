//! `twinlog mirror resume`: says what a release of stopped partitions would drop, and keeps it for the next start.
//!
//! Nothing is cut here: a running daemon may hold the files. The instruction is carried out at the next
//! start, in the same way and with the same export as any other cut.

use super::instruction::{InstructionError, Instructions, Release};
use crate::config::journal_directory;
use crate::journal::{self, Journal};
use crate::store::{StoreError, cut_size};
use std::fmt;
use std::path::{Path, PathBuf};
use twinlog_io::{Disk, RealDisk, Step, StepOutput, SystemError};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;

/// Batches are only walked here to find a cut; the bound of the key table serves.
const BATCH_BYTES_MAX: u32 = 1 << 30;

/// What is to be released, and how.
#[derive(Clone, Debug)]
pub struct ResumeRequest {
    pub data_dir: PathBuf,
    pub link: String,
    /// A topic, or one partition as its directory is called.
    pub target: String,
    pub release: Release,
    pub dry_run: bool,
}

/// Why nothing is released.
#[derive(Debug)]
pub enum ResumeError {
    Directory {
        path: PathBuf,
        error: SystemError,
    },
    NoSuchMirror {
        target: String,
        path: PathBuf,
    },
    /// An offset belongs to one partition.
    SeveralPartitions {
        target: String,
        partitions: usize,
    },
    Instruction(InstructionError),
    Store(StoreError),
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NoSuchMirror { target, path } => write!(
                f,
                "{} holds no mirror of {target}; name a topic, or one partition as in orders-3",
                path.display()
            ),
            Self::SeveralPartitions { target, partitions } => write!(
                f,
                "{target} has {partitions} partitions, and an offset belongs to one; name it as in {target}-0"
            ),
            Self::Instruction(error) => write!(f, "{error}"),
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ResumeError {}

/// Returns a sentence for each partition. With `dry_run` nothing is kept.
pub fn resume(request: &ResumeRequest) -> Result<Vec<String>, ResumeError> {
    let disk: &mut dyn Disk = &mut RealDisk;
    let link_directory = request.data_dir.join(&request.link);
    let partitions = partitions_of(disk, &link_directory, &request.target)?;
    if matches!(request.release, Release::RestartFrom(_)) && partitions.len() > 1 {
        let (target, partitions) = (request.target.clone(), partitions.len());
        return Err(ResumeError::SeveralPartitions { target, partitions });
    }
    let journals = journal_directory(&request.data_dir, &request.link);
    let journal = journal::load(disk, &journals).map_err(ResumeError::Store)?;
    let mut sentences = Vec::new();
    for partition in &partitions {
        let effect = effect(disk, &journal, &link_directory, partition, request.release)?;
        sentences.push(format!("{partition}: {effect}"));
    }
    if request.dry_run {
        return Ok(sentences);
    }
    let mut instructions = Instructions::load(disk, &journals).map_err(ResumeError::Instruction)?;
    partitions.iter().for_each(|partition| instructions.set(partition, request.release));
    instructions.save(disk).map_err(ResumeError::Instruction)?;
    sentences
        .push("kept; carried out when the daemon of this data directory starts the next time".to_owned());
    Ok(sentences)
}

fn partitions_of(
    disk: &mut dyn Disk,
    directory: &Path,
    target: &str,
) -> Result<Vec<TopicPartition>, ResumeError> {
    let path = directory.to_path_buf();
    let listed = match disk.run(&Step::List { path: path.clone() }) {
        Ok(StepOutput::Listed(entries)) => entries,
        Ok(_) => Vec::new(),
        Err(error) => return Err(ResumeError::Directory { path, error }),
    };
    let all = listed.iter().filter_map(|entry| TopicPartition::parse_directory(&entry.name));
    let wanted = |partition: &TopicPartition| partition.topic() == target || partition.to_string() == target;
    let found: Vec<TopicPartition> = all.filter(wanted).collect();
    if found.is_empty() {
        return Err(ResumeError::NoSuchMirror { target: target.to_owned(), path });
    }
    Ok(found)
}

fn effect(
    disk: &mut dyn Disk,
    journal: &Journal,
    link_directory: &Path,
    partition: &TopicPartition,
    release: Release,
) -> Result<String, ResumeError> {
    let offset = match release {
        Release::Retry => return Ok("is tried again as it is; nothing is dropped".to_owned()),
        Release::AcceptGap => {
            let text = "is exported and starts anew where the source's log starts, if that is beyond its end";
            return Ok(text.to_owned());
        }
        Release::RestartFrom(offset) => {
            Offset::new(offset).ok_or(ResumeError::Instruction(InstructionError::Offset { offset }))?
        }
    };
    let Some(checkpoint) = journal.checkpoints.get(partition) else {
        return Ok(format!("has no checkpoint; what it holds is cut or restarted at offset {offset}"));
    };
    let (log_start, log_end) = (checkpoint.log_start, checkpoint.log_end);
    if offset == log_end {
        return Ok(format!("ends at offset {offset} already; nothing is dropped"));
    }
    if !(log_start..log_end).contains(&offset) {
        return Ok(format!(
            "holds offsets {log_start} to {log_end}; all of it is exported, and the log starts anew at {offset}"
        ));
    }
    let directory = link_directory.join(partition.directory_name());
    let size = cut_size(disk, &directory, offset, BATCH_BYTES_MAX).map_err(ResumeError::Store)?;
    Ok(format!(
        "{} of {} bytes, offsets {offset} to {log_end}, are exported and cut",
        size.cut_bytes, size.partition_bytes
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(data_dir: &Path, target: &str, release: Release, dry_run: bool) -> ResumeRequest {
        let (data_dir, link, target) = (data_dir.to_owned(), "west".to_owned(), target.to_owned());
        ResumeRequest { data_dir, link, target, release, dry_run }
    }

    #[test]
    fn a_release_is_kept_for_each_partition_of_a_topic_unless_it_is_a_dry_run() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["orders-0", "orders-1", "orders-1-0"] {
            std::fs::create_dir_all(root.join("west").join(name)).unwrap();
        }
        let journals = journal_directory(root, "west");
        let sentences = resume(&request(root, "orders", Release::Retry, true)).unwrap();
        assert_eq!(sentences.len(), 2);
        assert!(Instructions::load(&mut RealDisk, &journals).unwrap().is_empty());
        resume(&request(root, "orders", Release::AcceptGap, false)).unwrap();
        let kept = Instructions::load(&mut RealDisk, &journals).unwrap();
        for (name, expected) in [
            ("orders-0", Some(Release::AcceptGap)),
            ("orders-1", Some(Release::AcceptGap)),
            ("orders-1-0", None),
        ] {
            assert_eq!(kept.of(&TopicPartition::parse_directory(name).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn an_offset_needs_one_partition_and_an_unknown_mirror_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["orders-0", "orders-1"] {
            std::fs::create_dir_all(root.join("west").join(name)).unwrap();
        }
        let several = resume(&request(root, "orders", Release::RestartFrom(5), false)).unwrap_err();
        assert!(matches!(several, ResumeError::SeveralPartitions { partitions: 2, .. }));
        assert!(resume(&request(root, "orders-1", Release::RestartFrom(5), false)).is_ok());
        let unknown = resume(&request(root, "bills", Release::Retry, false)).unwrap_err();
        assert!(unknown.to_string().contains("no mirror of bills"));
    }
}
