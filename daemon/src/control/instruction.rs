//! What an operator said about stopped partitions: kept in a file, carried out at the next start.
//!
//! ```text
//!   <data.dir>/.twinlog/<link>/resume.json      [{"topic", "partition", "action"}], one per partition
//! ```
//! An instruction stays until it is done, so that a crash between the two does not lose it; doing one
//! twice is harmless, because a log that already ends or begins there has nothing left to cut.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use twinlog_io::{Disk, Step, StepOutput, SystemError};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;

const FILE: &str = "resume.json";
/// Beyond it the file is not ours; it is read whole.
const FILE_BYTES_MAX: u32 = 16 << 20;

/// The way out of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Try again as it is.
    Retry,
    /// Go on behind a gap, once.
    AcceptGap,
    /// Cut or restart the log at this offset, whatever it holds beyond; what is cut is exported first.
    RestartFrom(i64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    topic: String,
    partition: i32,
    action: Release,
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Instructions {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// Why instructions cannot be read, kept or understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionError {
    File {
        path: PathBuf,
        error: SystemError,
    },
    Content {
        path: PathBuf,
        line: usize,
    },
    /// Not `TOPIC-PARTITION=OFFSET`.
    RestartFrom {
        text: String,
    },
    Offset {
        offset: i64,
    },
}

impl fmt::Display for InstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Content { path, line } => {
                write!(f, "{} line {line} is no list of instructions; remove the file", path.display())
            }
            Self::RestartFrom { text } => {
                write!(f, "{text:?} is not TOPIC-PARTITION=OFFSET, as in orders-3=1200")
            }
            Self::Offset { offset } => write!(f, "offset {offset} is negative"),
        }
    }
}

impl std::error::Error for InstructionError {}

impl Instructions {
    /// Reads what is kept; an absent file is none.
    pub fn load(disk: &mut dyn Disk, journal_directory: &Path) -> Result<Self, InstructionError> {
        let path = journal_directory.join(FILE);
        let read = disk.run(&Step::ReadAt { path: path.clone(), position: 0, length: FILE_BYTES_MAX });
        let bytes = match read {
            Ok(StepOutput::Bytes(bytes)) => bytes,
            Ok(_) | Err(SystemError::NOT_FOUND) => return Ok(Self { path, entries: Vec::new() }),
            Err(error) => return Err(InstructionError::File { path, error }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(entries) => Ok(Self { path, entries }),
            Err(error) => Err(InstructionError::Content { path, line: error.line() }),
        }
    }

    /// Writes them durably.
    pub fn save(&self, disk: &mut dyn Disk) -> Result<(), InstructionError> {
        let failed = |error| InstructionError::File { path: self.path.clone(), error };
        if self.entries.is_empty() {
            return disk.run(&Step::Remove { path: self.path.clone() }).map(|_| ()).map_err(failed);
        }
        let directory = self.path.parent().expect("a file in a directory").to_path_buf();
        disk.run(&Step::MakeDirectory { path: directory }).map_err(failed)?;
        let bytes = serde_json::to_vec_pretty(&self.entries).expect("texts and numbers are always JSON");
        disk.run(&Step::Replace { path: self.path.clone(), bytes }).map(|_| ()).map_err(failed)
    }

    /// The later instruction for a partition replaces the earlier.
    pub fn set(&mut self, partition: &TopicPartition, action: Release) {
        self.remove(partition);
        let (topic, partition) = (partition.topic().to_owned(), partition.partition());
        self.entries.push(Entry { topic, partition, action });
    }

    pub fn remove(&mut self, partition: &TopicPartition) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.names(partition));
        self.entries.len() < before
    }

    pub fn of(&self, partition: &TopicPartition) -> Option<Release> {
        self.entries.iter().find(|entry| entry.names(partition)).map(|entry| entry.action)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn names(&self, partition: &TopicPartition) -> bool {
        self.partition == partition.partition() && self.topic == partition.topic()
    }
}

/// Reads `TOPIC-PARTITION=OFFSET`.
pub fn parse_restart_from(text: &str) -> Result<(TopicPartition, Offset), InstructionError> {
    let wrong = || InstructionError::RestartFrom { text: text.to_owned() };
    let (name, offset) = text.rsplit_once('=').ok_or_else(wrong)?;
    let partition = TopicPartition::parse_directory(name).ok_or_else(wrong)?;
    let offset = offset.parse().map_err(|_| wrong())?;
    Ok((partition, Offset::new(offset).ok_or(InstructionError::Offset { offset })?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_io::RealDisk;

    fn partition(name: &str) -> TopicPartition {
        TopicPartition::parse_directory(name).unwrap()
    }

    #[test]
    fn what_was_said_last_is_read_back_until_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("west");
        let mut instructions = Instructions::load(&mut RealDisk, &path).unwrap();
        assert!(instructions.is_empty());
        instructions.set(&partition("orders-3"), Release::Retry);
        instructions.set(&partition("orders-3"), Release::RestartFrom(1200));
        instructions.set(&partition("bills-0"), Release::AcceptGap);
        instructions.save(&mut RealDisk).unwrap();
        let mut read = Instructions::load(&mut RealDisk, &path).unwrap();
        assert_eq!(read.of(&partition("orders-3")), Some(Release::RestartFrom(1200)));
        assert!(read.remove(&partition("orders-3")) && !read.remove(&partition("orders-3")));
        read.remove(&partition("bills-0"));
        read.save(&mut RealDisk).unwrap();
        assert!(Instructions::load(&mut RealDisk, &path).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "[\n{}]").unwrap();
        let error = Instructions::load(&mut RealDisk, directory.path()).unwrap_err();
        assert!(matches!(error, InstructionError::Content { line: 2, .. }), "{error}");
    }

    #[test]
    fn a_restart_names_partition_and_offset() {
        let (found, offset) = parse_restart_from("my-orders-3=1200").unwrap();
        assert_eq!((found.topic(), found.partition(), offset.value()), ("my-orders", 3, 1200));
        for bad in ["orders=1", "orders-3", "orders-3=", "orders-3=x", "orders-03=1", "orders-3=-1"] {
            assert!(parse_restart_from(bad).is_err(), "{bad}");
        }
    }
}
