//! What verification can find wrong, each with its file and its place.
//!
//! Owns [`Problem`]. Words are made in `Display` alone; JSON carries the same sentence.

use serde::{Serialize, Serializer};
use std::fmt;
use twinlog_log_segment::batch::BatchError;
use twinlog_log_segment::epoch::EpochError;
use twinlog_log_segment::files::{TextFileError, TopicId};
use twinlog_log_segment::index::IndexError;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::transaction::TransactionError;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name inside the partition's directory.
    pub file: String,
    /// Byte in that file.
    pub position: u64,
    pub what: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.position, self.what)
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    Batch(BatchError),
    /// The file ends after so many bytes of a batch.
    Torn {
        bytes: u64,
    },
    OutOfOrder {
        expected: Offset,
        base_offset: Offset,
        last_offset: Offset,
    },
    /// An index entry cannot name the batch.
    TooFar {
        last_offset: Offset,
    },
    /// A segment does not begin where the one before it ended.
    SegmentStart {
        expected: Offset,
        base: Offset,
    },
    /// Only the last segment may have reserved bytes.
    ReservedInClosed {
        bytes: u64,
    },
    BytesBehindZeros,
    Epoch(EpochError),
    Transaction(TransactionError),
    IndexWithoutLog,
    Index(IndexProblem),
    EpochFileMissing,
    EpochFile(EpochError),
    EpochDisagrees {
        offset: Offset,
        stamped: LeaderEpoch,
        file: Option<LeaderEpoch>,
    },
    MetadataMissing,
    Metadata(TextFileError),
    TopicId {
        metadata: TopicId,
        checkpoint: TopicId,
    },
    CheckpointBeyondEnd {
        checkpoint_end: Offset,
        log_end: Offset,
    },
    CheckpointNotAtBatch {
        position: u64,
        log_end: Offset,
    },
    TruncationPending {
        to: Offset,
    },
    /// First offsets of a producer's open transaction at the checkpoint: by the batches, and by the journal.
    OpenTransactionDisagrees {
        producer_id: i64,
        log: Option<Offset>,
        checkpoint: Option<Offset>,
    },
    SourceEpochOutside {
        epoch: LeaderEpoch,
        start: Offset,
        log_start: Offset,
        log_end: Offset,
    },
    DirectoryMissing,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProblemKind::Batch(error) => error.fmt(f),
            ProblemKind::Torn { bytes } => write!(f, "the file ends after {bytes} bytes of a batch"),
            ProblemKind::OutOfOrder { expected, base_offset, last_offset } => write!(
                f,
                "the batch of offsets {base_offset} to {last_offset} stands where {expected} is expected"
            ),
            ProblemKind::TooFar { last_offset } => {
                write!(f, "the batch that ends at offset {last_offset} is too far from the segment's base")
            }
            ProblemKind::SegmentStart { expected, base } => {
                write!(f, "the segment begins at offset {base}, the one before it ended at {expected}")
            }
            ProblemKind::ReservedInClosed { bytes } => {
                write!(f, "{bytes} bytes were never written, and the segment is not the last one")
            }
            ProblemKind::BytesBehindZeros => f.write_str("bytes follow behind a part that was never written"),
            ProblemKind::Epoch(error) | ProblemKind::EpochFile(error) => error.fmt(f),
            ProblemKind::Transaction(error) => error.fmt(f),
            ProblemKind::IndexWithoutLog => f.write_str("an index file has no log beside it"),
            ProblemKind::Index(problem) => problem.fmt(f),
            ProblemKind::EpochFileMissing => f.write_str("the file is not there"),
            ProblemKind::EpochDisagrees { offset, stamped, file } => {
                write!(
                    f,
                    "the batches from offset {offset} on are stamped with epoch {stamped}, the file says "
                )?;
                match file {
                    Some(epoch) => epoch.fmt(f),
                    None => f.write_str("nothing"),
                }
            }
            ProblemKind::MetadataMissing => f.write_str("the file is not there: a stock broker needs it"),
            ProblemKind::Metadata(error) => error.fmt(f),
            ProblemKind::TopicId { metadata, checkpoint } => {
                write!(f, "the file names the topic {metadata}, the journal {checkpoint}")
            }
            ProblemKind::CheckpointBeyondEnd { checkpoint_end, log_end } => write!(
                f,
                "flushed up to offset {checkpoint_end} by the journal, but whole only up to {log_end}: the next \
                 start fetches the rest again"
            ),
            ProblemKind::CheckpointNotAtBatch { position, log_end } => write!(
                f,
                "the journal names byte {position} as the end of the batch before offset {log_end}: it is not"
            ),
            ProblemKind::TruncationPending { to } => {
                write!(f, "a truncation to offset {to} was interrupted: the next start completes it")
            }
            ProblemKind::OpenTransactionDisagrees { producer_id, log, checkpoint } => {
                write_open(f, *producer_id, *log, *checkpoint)
            }
            ProblemKind::SourceEpochOutside { epoch, start, log_start, log_end } => write!(
                f,
                "by the journal, the source's epoch {epoch} begins at offset {start}, outside of the log from \
                 {log_start} to {log_end}"
            ),
            ProblemKind::DirectoryMissing => {
                f.write_str("the journal knows the partition, but its directory is not there")
            }
        }
    }
}

fn write_open(
    f: &mut fmt::Formatter<'_>,
    producer_id: i64,
    log: Option<Offset>,
    checkpoint: Option<Offset>,
) -> fmt::Result {
    let open = |first: Option<Offset>| match first {
        Some(first) => format!("one open from offset {first} on"),
        None => "none open".to_owned(),
    };
    let (log, checkpoint) = (open(log), open(checkpoint));
    write!(
        f,
        "at the checkpoint, producer {producer_id} has {log} by the batches, and {checkpoint} by the journal"
    )
}

impl Serialize for ProblemKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is wrong with an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexProblem {
    IndexTooLong {
        bytes: u64,
    },
    Entry(IndexError),
    /// No batch begins where the entry says, or it ends elsewhere.
    OffsetEntry {
        last_offset: i64,
        position: u32,
    },
    TimeEntry {
        timestamp_ms: i64,
        last_offset: i64,
    },
    /// The last entry of a closed segment must be its largest timestamp.
    TimeNotFinal {
        max_timestamp_ms: i64,
    },
    AbortedMissing {
        producer_id: i64,
        last_offset: Offset,
    },
    AbortedWrong {
        producer_id: i64,
        last_offset: Offset,
    },
}

impl fmt::Display for IndexProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexProblem::IndexTooLong { bytes } => {
                write!(f, "the index has {bytes} bytes, more than any segment needs")
            }
            IndexProblem::Entry(error) => error.fmt(f),
            IndexProblem::OffsetEntry { last_offset, position } => write!(
                f,
                "the entry names a batch at byte {position} that ends at offset {last_offset}: there is none"
            ),
            IndexProblem::TimeEntry { timestamp_ms, last_offset } => write!(
                f,
                "the entry says that the batch that ends at offset {last_offset} is the first with the \
                 timestamp {timestamp_ms}, the largest so far: it is not"
            ),
            IndexProblem::TimeNotFinal { max_timestamp_ms } => write!(
                f,
                "the segment's largest timestamp is {max_timestamp_ms}, and the last entry says another"
            ),
            IndexProblem::AbortedMissing { producer_id, last_offset } => write!(
                f,
                "producer {producer_id} aborted a transaction at offset {last_offset}, and no entry says so"
            ),
            IndexProblem::AbortedWrong { producer_id, last_offset } => write!(
                f,
                "the entry says that producer {producer_id} aborted at offset {last_offset}: the log says otherwise"
            ),
        }
    }
}
