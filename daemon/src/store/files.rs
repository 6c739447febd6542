//! The disk, asked for whole answers: every step either gives what it must, or a [`StoreError`] that names it.
//!
//! Owns [`Files`], by which journal, recovery, truncation and verify reach the disk. It must never decide
//! anything about a log, and never hold more of a file than one piece.
//! Invariant: an answer of the wrong kind is a bug of the disk and ends the process, never a guess.

use super::error::StoreError;
use std::path::Path;
use twinlog_io::{DirectoryEntry, Disk, Step, StepOutput, SystemError};

/// Bytes read at once. Raising it costs memory for every recovery that runs at the same time and gains
/// nothing: the kernel reads ahead.
pub const PIECE_BYTES: u32 = 1 << 20;

/// The longest text file that is read whole (`log-start-offset-checkpoint` with 100,000 partitions of the
/// longest names has 28 MB). Raising it lets a foreign file take that much memory.
const TEXT_BYTES_MAX: u32 = 32 << 20;

/// See the file's header.
pub struct Files<'a> {
    disk: &'a mut dyn Disk,
}

impl<'a> Files<'a> {
    pub fn new(disk: &'a mut dyn Disk) -> Files<'a> {
        Files { disk }
    }

    fn run(&mut self, action: &'static str, path: &Path, step: &Step) -> Result<StepOutput, StoreError> {
        self.disk.run(step).map_err(|error| StoreError::Disk { action, path: path.to_path_buf(), error })
    }

    fn done(&mut self, action: &'static str, path: &Path, step: &Step) -> Result<(), StoreError> {
        self.run(action, path, step).map(|_| ())
    }

    /// What is in a directory, by name; `None` if there is no such directory.
    pub fn list(&mut self, path: &Path) -> Result<Option<Vec<DirectoryEntry>>, StoreError> {
        match self.run("listing", path, &Step::List { path: path.to_path_buf() }) {
            Ok(StepOutput::Listed(entries)) => Ok(Some(entries)),
            Ok(other) => panic!("listing a directory was answered by {other:?}"),
            Err(StoreError::Disk { error, .. }) if error == SystemError::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The length of a file; `None` if there is none.
    pub fn length(&mut self, path: &Path) -> Result<Option<u64>, StoreError> {
        match self.run("looking at", path, &Step::Stat { path: path.to_path_buf() })? {
            StepOutput::Facts(facts) => Ok(Some(facts.length)),
            StepOutput::Missing => Ok(None),
            other => panic!("looking at a file was answered by {other:?}"),
        }
    }

    /// At most one piece; shorter than `length` only at the end of the file.
    pub fn read(&mut self, path: &Path, position: u64, length: u32) -> Result<Vec<u8>, StoreError> {
        let step = Step::ReadAt { path: path.to_path_buf(), position, length };
        match self.run("reading", path, &step)? {
            StepOutput::Bytes(bytes) => Ok(bytes),
            other => panic!("reading a file was answered by {other:?}"),
        }
    }

    /// A small text file whole; `None` if there is none. Bytes that are not text are replaced, so that the
    /// parser names the line.
    pub fn read_text(&mut self, path: &Path) -> Result<Option<String>, StoreError> {
        let Some(length) = self.length(path)? else { return Ok(None) };
        if length > u64::from(TEXT_BYTES_MAX) {
            return Err(StoreError::TextTooLong { path: path.to_path_buf(), bytes_max: TEXT_BYTES_MAX });
        }
        let bytes = self.read(path, 0, TEXT_BYTES_MAX.min(length as u32))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Makes the directory and the names that lead to it durable: its own and those of `levels` above it.
    pub fn make_directory(&mut self, path: &Path, levels: usize) -> Result<(), StoreError> {
        self.done("making", path, &Step::MakeDirectory { path: path.to_path_buf() })?;
        for directory in path.ancestors().skip(1).take(levels) {
            self.sync_directory(directory)?;
        }
        Ok(())
    }

    pub fn write(&mut self, path: &Path, position: u64, bytes: Vec<u8>) -> Result<(), StoreError> {
        let step = Step::WriteAt { path: path.to_path_buf(), position, bytes, create: true };
        self.done("writing", path, &step)
    }

    pub fn append(&mut self, path: &Path, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.done("appending to", path, &Step::Append { path: path.to_path_buf(), bytes })
    }

    /// All or nothing, durable.
    pub fn replace(&mut self, path: &Path, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.done("replacing", path, &Step::Replace { path: path.to_path_buf(), bytes })
    }

    /// Cuts a file that is longer; leaves one that is shorter or absent. True if it was cut.
    pub fn cut(&mut self, path: &Path, length: u64) -> Result<bool, StoreError> {
        if self.length(path)?.is_none_or(|found| found <= length) {
            return Ok(false);
        }
        self.done("truncating", path, &Step::Truncate { path: path.to_path_buf(), length })?;
        Ok(true)
    }

    pub fn remove(&mut self, path: &Path) -> Result<(), StoreError> {
        self.done("removing", path, &Step::Remove { path: path.to_path_buf() })
    }

    pub fn remove_directory(&mut self, path: &Path) -> Result<(), StoreError> {
        self.done("removing", path, &Step::RemoveDirectory { path: path.to_path_buf() })
    }

    /// Copies a range to a new file and syncs it; the range must be there.
    pub fn copy(
        &mut self,
        from: &Path,
        from_position: u64,
        length: u64,
        to: &Path,
    ) -> Result<(), StoreError> {
        let step = Step::CopyRange { from: from.to_path_buf(), from_position, length, to: to.to_path_buf() };
        match self.run("copying", from, &step)? {
            StepOutput::Copied(copied) if copied == length => self.sync(to),
            StepOutput::Copied(copied) => {
                let (length, position) = (from_position + copied, from_position + length);
                Err(StoreError::ShorterThanCheckpoint { path: from.to_path_buf(), length, position })
            }
            other => panic!("copying a file was answered by {other:?}"),
        }
    }

    /// fsync of a file.
    pub fn sync(&mut self, path: &Path) -> Result<(), StoreError> {
        self.done("syncing", path, &Step::SyncFile { path: path.to_path_buf() })
    }

    pub fn sync_directory(&mut self, path: &Path) -> Result<(), StoreError> {
        self.done("syncing", path, &Step::SyncDirectory { path: path.to_path_buf() })
    }
}
