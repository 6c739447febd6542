//! What can go wrong with the files of the store, said with the file, the value and the way out.
//!
//! Owns [`StoreError`]. It must never carry a text of its own making: fields are types, words are in `Display`.

use std::fmt;
use std::path::PathBuf;
use twinlog_io::SystemError;
use twinlog_log_segment::checkpoint::CheckpointError;
use twinlog_log_segment::epoch::EpochError;
use twinlog_log_segment::files::{TextFileError, TopicId};
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::recovery::RefuseReason;
use twinlog_log_segment::scan::StopReason;

/// Why a piece of work on the store's files was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The disk refused; `action` is a verb such as "reading".
    Disk {
        action: &'static str,
        path: PathBuf,
        error: SystemError,
    },
    /// A whole record of a journal that this program may not use.
    Journal {
        path: PathBuf,
        position: u64,
        error: CheckpointError,
    },
    /// The recovery table wants a person.
    Refused {
        directory: PathBuf,
        segment_base: Offset,
        position: u64,
        reason: RefuseReason,
    },
    /// The directory holds another incarnation of the topic.
    TopicRecreated {
        mirrored: TopicId,
        found: TopicId,
    },
    TextFile {
        path: PathBuf,
        error: TextFileError,
    },
    EpochFile {
        path: PathBuf,
        error: EpochError,
    },
    /// A small text file is larger than any that is written there.
    TextTooLong {
        path: PathBuf,
        bytes_max: u32,
    },
    /// The cut does not lie inside the log.
    CutOutside {
        directory: PathBuf,
        to: Offset,
        log_start: Offset,
        log_end: Offset,
    },
    /// The log is damaged below the cut: what would be kept cannot be proven.
    DamagedBelowCut {
        path: PathBuf,
        position: u64,
        to: Offset,
        stop: StopReason,
    },
    /// The file ends before what the checkpoint says was flushed.
    ShorterThanCheckpoint {
        path: PathBuf,
        length: u64,
        position: u64,
    },
    /// The directory holds nothing that could be verified.
    NoSuchLink {
        path: PathBuf,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Disk { action, path, error } => {
                write!(f, "{action} {} failed: {error}", path.display())
            }
            StoreError::Journal { path, position, error } => {
                write!(f, "{} at byte {position}: {error}", path.display())
            }
            StoreError::Refused { directory, segment_base, position, reason } => write!(
                f,
                "{}: the segment {segment_base} was flushed up to byte {position}: {reason}",
                directory.display()
            ),
            StoreError::TopicRecreated { mirrored, found } => write!(
                f,
                "the topic was created anew at the source: its id is {found}, the mirror holds {mirrored}; move \
                 the mirror's directory away to begin with the new topic, or leave it stopped to keep the old one"
            ),
            StoreError::TextFile { path, error } => write!(f, "{}: {error}", path.display()),
            StoreError::EpochFile { path, error } => write!(f, "{}: {error}", path.display()),
            StoreError::TextTooLong { path, bytes_max } => write!(
                f,
                "{} is longer than {bytes_max} bytes, the most such a file can have: it is not ours; move it away",
                path.display()
            ),
            StoreError::CutOutside { directory, to, log_start, log_end } => write!(
                f,
                "{} cannot be cut to offset {to}: it holds offsets {log_start} to {log_end}; name an offset \
                 between them",
                directory.display()
            ),
            StoreError::DamagedBelowCut { path, position, to, stop } => write!(
                f,
                "{} is damaged at byte {position}, below the cut at offset {to}: {stop}; run `twinlog verify` and \
                 let the partition be fetched anew with `mirror resume --restart-from`",
                path.display()
            ),
            StoreError::ShorterThanCheckpoint { path, length, position } => write!(
                f,
                "{} has {length} bytes, but {position} were flushed: start the daemon so that recovery fetches \
                 the lost bytes again, then repeat this",
                path.display()
            ),
            StoreError::NoSuchLink { path } => write!(
                f,
                "{} is not there: name a data directory (and link) that `twinlog run` has written",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StoreError {}
