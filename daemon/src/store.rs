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
//! Must never run on a partition that a shard still owns, and must never cut what was not exported.

pub(crate) mod cut;
mod error;
mod export;
pub(crate) mod files;
mod trim;

pub use error::StoreError;
pub use trim::{TrimReport, trim_partition, write_log_starts};

use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::truncation::CutSize;

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
