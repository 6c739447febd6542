//! Blocking file work as plain data: a [`Job`] is a list of [`Step`]s that run in order until one fails.
//!
//! Owns: the steps, their outputs and the [`Disk`] trait. Two disks stand behind it: [`crate::RealDisk`] and the
//! simulated one of the tests; recovery and truncation are written against `&mut dyn Disk`.
//! It must never touch a file itself, and no step may carry a descriptor.
//!
//! ```text
//!   Job{ steps } --submit--> helper thread: step 0, 1, 2 ... first failure ends it --> JobOutcome
//!                                                                   { outputs, failed, steps given back }
//! ```
//!
//! Invariants: `outputs[i]` answers `steps[i]`; there are as many outputs as steps that succeeded; when a step
//! failed, no file of the job is registered under its key (files opened by earlier steps are closed again).

use crate::operation::{FileKey, SystemError};
use std::path::PathBuf;

/// Steps of one job. A longer job would keep a neighbour's segment from being opened for too long.
pub const JOB_STEPS_MAX: usize = 64;

/// Bytes one `ReadAt` may return. They live in memory outside the budget, so a higher limit would make
/// the budget a lie.
pub const STEP_READ_BYTES_MAX: u32 = 64 << 20;

/// Steps to run in order, off the data core.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Job {
    pub steps: Vec<Step>,
}

/// One piece of blocking file work. Nothing is durable before the matching `Sync*` step, except in `Replace`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Also makes missing parents; an existing directory is success. Output `Done`.
    MakeDirectory { path: PathBuf },
    /// Output `Listed`, sorted by name.
    List { path: PathBuf },
    /// Opens for reading and writing. The file is known under `file` once the job's completion is delivered.
    /// `direct` falls back to buffered where the file system refuses O_DIRECT. Output `Opened`.
    /// Only an engine can run it: a [`Disk`] answers `SystemError::INVALID`.
    Open { file: FileKey, path: PathBuf, create: bool, direct: bool },
    /// Reserves zeroed blocks up to `length` and moves the end of the file there (never back).
    /// Output `Done`, or `Unsupported` where the file system cannot.
    Allocate { path: PathBuf, length: u64 },
    /// Sets the file's length, down or up. Output `Done`.
    Truncate { path: PathBuf, length: u64 },
    /// Output `Done`: all bytes are written.
    WriteAt { path: PathBuf, position: u64, bytes: Vec<u8>, create: bool },
    /// Writes at the end; makes the file if there is none. A crash may leave a part of the bytes. Output `Done`.
    Append { path: PathBuf, bytes: Vec<u8> },
    /// Output `Bytes`: shorter than `length` only at the end of the file.
    ReadAt { path: PathBuf, position: u64, length: u32 },
    /// The file's content becomes `bytes`, all or nothing, durably: written beside it, synced, renamed over
    /// it, directory synced. Output `Done`.
    Replace { path: PathBuf, bytes: Vec<u8> },
    /// fsync. Output `Done`.
    SyncFile { path: PathBuf },
    /// fsync of the directory: makes the names in it durable. Output `Done`.
    SyncDirectory { path: PathBuf },
    /// syncfs of the file system that holds `path`. Output `Done`.
    SyncFileSystem { path: PathBuf },
    /// Replaces `to` if it exists. Output `Done`.
    Rename { from: PathBuf, to: PathBuf },
    /// Output `Done`, or `Missing`, so that an interrupted job can be repeated.
    Remove { path: PathBuf },
    /// With everything below it. Output `Done`, or `Missing`.
    RemoveDirectory { path: PathBuf },
    /// Copies the range to the start of a new file, cut to what was copied. Output `Copied`: fewer than
    /// `length` bytes where the source ends.
    CopyRange { from: PathBuf, from_position: u64, length: u64, to: PathBuf },
    /// Output `Space`.
    Space { path: PathBuf },
    /// Output `Facts`, or `Missing`.
    Stat { path: PathBuf },
}

/// What a successful step says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepOutput {
    Done,
    /// The file system cannot do this; the caller goes on without.
    Unsupported,
    /// There is nothing at this path.
    Missing,
    /// `direct` is false where O_DIRECT was refused or not asked for.
    Opened {
        direct: bool,
        length: u64,
    },
    Listed(Vec<DirectoryEntry>),
    Bytes(Vec<u8>),
    Copied(u64),
    Facts(FileFacts),
    Space(Space),
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirectoryEntry {
    /// A name that is not UTF-8 has its bad bytes replaced: no name of ours looks like that.
    pub name: String,
    pub directory: bool,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
}

/// What `Stat` knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileFacts {
    pub directory: bool,
    /// Length in bytes.
    pub length: u64,
    /// Bytes really occupied on disk: more than `length` when preallocated, fewer when sparse.
    pub allocated_bytes: u64,
    pub modified_ms: i64,
}

/// Room on a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Free for us (without the blocks reserved for root).
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// What became of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobOutcome {
    pub outputs: Vec<StepOutput>,
    pub failed: Option<StepFailure>,
    /// The job's steps, given back so that the caller can say what failed and reuse the buffers.
    pub steps: Vec<Step>,
}

/// Which step ended the job, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepFailure {
    pub step: usize,
    pub error: SystemError,
}

impl Job {
    pub fn new(steps: Vec<Step>) -> Job {
        Job { steps }
    }

    /// A job that is too long is a bug of the caller.
    pub(crate) fn check(&self) {
        let count = self.steps.len();
        assert!(count <= JOB_STEPS_MAX, "a job of {count} steps, {JOB_STEPS_MAX} are allowed");
    }

    /// The keys its steps open.
    pub fn opened_keys(&self) -> impl Iterator<Item = FileKey> {
        opened_keys(&self.steps)
    }

    /// Runs the steps until one fails. Every engine and the simulated world end a job here.
    pub fn run(self, mut run_step: impl FnMut(&Step) -> Result<StepOutput, SystemError>) -> JobOutcome {
        assert!(
            self.steps.len() <= JOB_STEPS_MAX,
            "a job of {} steps, {JOB_STEPS_MAX} allowed",
            self.steps.len()
        );
        let mut outputs = Vec::with_capacity(self.steps.len());
        let mut failed = None;
        for (index, step) in self.steps.iter().enumerate() {
            match run_step(step) {
                Ok(output) => outputs.push(output),
                Err(error) => {
                    failed = Some(StepFailure { step: index, error });
                    break;
                }
            }
        }
        JobOutcome { outputs, failed, steps: self.steps }
    }
}

impl JobOutcome {
    /// The keys its steps open; free again when it failed.
    pub fn opened_keys(&self) -> impl Iterator<Item = FileKey> {
        opened_keys(&self.steps)
    }

    /// Turns a success into a failure at `step`; an earlier failure stays.
    pub(crate) fn fail(&mut self, step: usize, error: SystemError) {
        if self.failed.is_none_or(|failure| failure.step > step) {
            self.failed = Some(StepFailure { step, error });
            self.outputs.truncate(step);
        }
    }
}

fn opened_keys(steps: &[Step]) -> impl Iterator<Item = FileKey> {
    steps.iter().filter_map(|step| match step {
        Step::Open { file, .. } => Some(*file),
        _ => None,
    })
}

/// A disk that blocks: real or simulated.
pub trait Disk: Send {
    fn run(&mut self, step: &Step) -> Result<StepOutput, SystemError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_stops_at_the_first_failing_step_and_gives_its_steps_back() {
        let step = |name: &str| Step::SyncFile { path: PathBuf::from(name) };
        let job = Job::new(vec![step("a"), step("b"), step("c")]);
        let mut ran = 0;
        let outcome = job.run(|_| {
            ran += 1;
            if ran == 2 { Err(SystemError::INPUT_OUTPUT) } else { Ok(StepOutput::Done) }
        });
        assert_eq!(outcome.outputs, vec![StepOutput::Done]);
        assert_eq!(outcome.failed, Some(StepFailure { step: 1, error: SystemError::INPUT_OUTPUT }));
        assert_eq!(outcome.steps.len(), 3);
        assert_eq!(ran, 2);
    }
}
