//! Where files are written: a directory of this run's own, removed with all that is in it.
//!
//! Invariant: free space is looked at before anything is written, so that a bench never fills a disk.

use crate::error::BenchError;
use std::path::{Path, PathBuf};
use twinlog_io::probe_directory;

/// Left free whatever is measured: other programs write, too.
const SPARE_BYTES: u64 = 2 << 30;

/// See the file's header.
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// A directory below `base`, which must exist.
    pub fn create(base: &Path) -> Result<Scratch, BenchError> {
        let directory = base.join(format!("twinlog-bench-{}", std::process::id()));
        let failed = |error| BenchError::File { action: "making", path: directory.clone(), error };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        Ok(Scratch { directory })
    }

    /// The path of something in it, after a look at whether so many bytes fit.
    pub fn place(&self, name: &str, needed_bytes: u64) -> Result<PathBuf, BenchError> {
        let failed = |error| BenchError::Probe { path: self.directory.clone(), error };
        let free_bytes = probe_directory(&self.directory).map_err(failed)?.free_bytes;
        let needed_bytes = needed_bytes + SPARE_BYTES;
        if free_bytes < needed_bytes {
            return Err(BenchError::NoSpace { path: self.directory.clone(), needed_bytes, free_bytes });
        }
        Ok(self.directory.join(name))
    }

    /// Removes a directory that was placed here, if it is there.
    pub fn clear(&self, path: &Path) -> Result<(), BenchError> {
        assert!(path.starts_with(&self.directory), "only what was placed here is removed");
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BenchError::File { action: "removing", path: path.to_path_buf(), error })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is not worth hiding an earlier error for.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
