//! What recovery tells the operator: losses, repairs, completed cuts.
//!
//! Owns [`RecoveryAlarm`]. It must never carry an error: what stopped recovery is a `StoreError`.

use std::fmt;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;

/// Something that a mere crash does not explain, or that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryAlarm {
    /// Flushed bytes were gone or wrong; they are fetched again.
    FlushedBytesLost {
        partition: TopicPartition,
        checkpoint_end: Offset,
        recovered_end: Offset,
    },
    IndexesRebuilt {
        partition: TopicPartition,
        segments: usize,
    },
    /// No checkpoint: which epochs of the source wrote the log is not known.
    ScannedWithoutCheckpoint {
        partition: TopicPartition,
        log_end: Offset,
    },
    TruncationResumed {
        partition: TopicPartition,
        log_end: Offset,
    },
    RemovalFinished {
        partition: TopicPartition,
    },
    /// Segments that no longer follow the log. Nothing in them was ever counted as flushed.
    UnprovenSegmentsDeleted {
        partition: TopicPartition,
        segments: usize,
        log_end: Offset,
    },
    /// The first segment begins above the log start that was recorded.
    LogStartMissing {
        partition: TopicPartition,
        log_start: Offset,
        first_segment: Offset,
    },
}

impl fmt::Display for RecoveryAlarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryAlarm::FlushedBytesLost { partition, checkpoint_end, recovered_end } => write!(
                f,
                "{partition}: flushed up to offset {checkpoint_end}, but only {recovered_end} is left and right: \
                 the rest is fetched again; check the disk"
            ),
            RecoveryAlarm::IndexesRebuilt { partition, segments } => {
                write!(f, "{partition}: index files were incomplete; {segments} segments were indexed anew")
            }
            RecoveryAlarm::ScannedWithoutCheckpoint { partition, log_end } => write!(
                f,
                "{partition}: no checkpoint was found; a full scan proved offsets up to {log_end}, and which \
                 epochs of the source wrote them is unknown"
            ),
            RecoveryAlarm::TruncationResumed { partition, log_end } => {
                write!(f, "{partition}: an interrupted truncation to offset {log_end} was completed")
            }
            RecoveryAlarm::RemovalFinished { partition } => {
                write!(f, "{partition}: the removal of an earlier mirror was completed")
            }
            RecoveryAlarm::UnprovenSegmentsDeleted { partition, segments, log_end } => write!(
                f,
                "{partition}: {segments} segments behind offset {log_end} did not follow it and were deleted; \
                 they are fetched again"
            ),
            RecoveryAlarm::LogStartMissing { partition, log_start, first_segment } => write!(
                f,
                "{partition}: the log begins at offset {log_start}, but its first segment at {first_segment}: \
                 segments were deleted by hand; run `twinlog verify`"
            ),
        }
    }
}
