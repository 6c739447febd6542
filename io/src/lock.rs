//! One daemon per data directory.
//!
//! Owns: a lock file and the kernel's flock on it. It must never decide by the file's content: a process that
//! was killed leaves its number behind, but not its lock. The number is there for the message only.
//! Invariant: the lock lives exactly as long as the [`DirectoryLock`], or as the process.

use crate::operation::SystemError;
use rustix::fs::{FlockOperation, flock};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Name of the lock file in the directory. Kafka's own is `.lock`; a broker that adopted the directory by
/// mistake must collide with us too, so it is the same.
pub const LOCK_FILE_NAME: &str = ".lock";

/// Holds a directory until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a directory cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockError {
    /// Another process holds it; its number where the file told one.
    Held { path: PathBuf, process: Option<u32> },
    /// The lock file cannot be made or locked.
    File { path: PathBuf, error: SystemError },
}

impl fmt::Display for LockError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { path, process: Some(process) } => {
                write!(
                    formatter,
                    "{} is held by process {process}; stop it or use another data.dir",
                    path.display()
                )
            }
            LockError::Held { path, process: None } => {
                write!(
                    formatter,
                    "{} is held by another process; stop it or use another data.dir",
                    path.display()
                )
            }
            LockError::File { path, error } => {
                write!(
                    formatter,
                    "cannot lock {}: {error}; the directory must exist and be ours",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for LockError {}

impl DirectoryLock {
    /// Takes the lock of `directory`, which must exist. Never waits.
    pub fn acquire(directory: &Path) -> Result<DirectoryLock, LockError> {
        let path = directory.join(LOCK_FILE_NAME);
        let broken = |error: std::io::Error| LockError::File {
            path: path.clone(),
            error: SystemError::from_std(&error),
        };
        // Not truncated: until we hold the lock the content is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(broken)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // A number longer than this is no process of Linux; the file is foreign.
                let _ = (&mut file).take(16).read_to_string(&mut text);
                return Err(LockError::Held { path, process: text.trim().parse().ok() });
            }
            Err(error) => return Err(LockError::File { path, error: error.into() }),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(broken)?;
        Ok(DirectoryLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_second_lock_is_refused_with_the_holders_number_until_the_first_is_gone() {
        let scratch = Scratch::new();
        let lock = DirectoryLock::acquire(scratch.path()).unwrap();
        let error = DirectoryLock::acquire(scratch.path()).unwrap_err();
        let path = scratch.join(LOCK_FILE_NAME);
        assert_eq!(error, LockError::Held { path, process: Some(std::process::id()) });
        assert!(error.to_string().contains("is held by process"));
        drop(lock);
        DirectoryLock::acquire(scratch.path()).unwrap();
    }

    #[test]
    fn a_number_left_by_a_dead_process_is_no_lock() {
        let scratch = Scratch::new();
        std::fs::write(scratch.join(LOCK_FILE_NAME), "999999999999\n").unwrap();
        let _lock = DirectoryLock::acquire(scratch.path()).unwrap();
        let text = std::fs::read_to_string(scratch.join(LOCK_FILE_NAME)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_missing_directory_is_told() {
        let scratch = Scratch::new();
        let error = DirectoryLock::acquire(&scratch.join("nowhere")).unwrap_err();
        assert!(matches!(error, LockError::File { error: SystemError::NOT_FOUND, .. }));
    }
}
