//! What can go wrong with a mirror partition, who is to blame, and the one verdict on it.
//!
//! Callers act on verdicts only; the text is made in `Display`. Every stop has a code that an
//! operator can look up and a sentence that says what to do.

use alloc::string::String;
use core::fmt;
use twinlog_log_segment::batch::BatchError;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Source,
    Network,
    Disk,
    Operator,
}

/// What to do about a fault of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the same broker again after a pause.
    Retry,
    /// The same bytes once more; stop when they are wrong again.
    Refetch,
    /// Ask the cluster who leads now.
    Rediscover,
    /// Find out what happened to the source's log before anything else is done.
    Classify,
    /// Stop this partition with a reason; the others go on.
    Stop,
    /// Page state is unknowable: no further write on this log directory.
    Halt,
}

/// One thing that went wrong with one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The partition's error code in a Fetch answer.
    Broker { code: i16 },
    /// The source's log has another past than ours (ref: KIP-320).
    Diverged { epoch: LeaderEpoch, end: i64 },
    /// A source too old to compare epochs by itself has a new leader (ref: KIP-320).
    NewEpoch { epoch: LeaderEpoch },
    /// A batch is not what a broker sends, or its CRC is wrong.
    Batch(BatchError),
    /// A batch ends below what we hold.
    BelowExpected { expected: Offset, last_offset: Offset },
    /// A batch starts below what we hold and is not the first of its log.
    Overlaps { expected: Offset, base_offset: Offset },
    /// The source's leader epoch went back inside the log.
    EpochWentBack { offset: Offset, epoch: LeaderEpoch, latest: LeaderEpoch },
    /// The records field ends before its first batch does, again and again.
    NoWholeBatch { offset: Offset, records_bytes: u32 },
    /// More open transactions or leader epochs than are kept.
    TooMany { what: &'static str, bound: usize },
    /// The topic of this name has another id than the one that was mirrored.
    TopicRecreated { mirrored: TopicId, found: TopicId },
    /// The topic does not exist at the source any more.
    TopicDeleted,
    /// The source's log starts beyond our end: what lies between is gone there.
    Gap { log_end: Offset, source_start: Offset },
    /// The source lost data that we hold, more than `on.truncation` allows to cut.
    Truncated { log_end: Offset, common_end: Offset, cut_bytes: u64, why: TruncationStop },
    /// The broker's answers contradict each other.
    Unexplained { offset: Offset, source_start: i64, source_end: i64 },
    /// The store could not be read or written.
    Disk { action: &'static str, path: String, errno: i32 },
    /// The disk is full; retried when there is room.
    DiskFull { path: String },
}

/// Why a truncation of the source is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncationStop {
    /// `on.truncation = stop`.
    Policy,
    /// Beyond `truncation.bytes.max` or `truncation.percent.max`.
    BeyondBound,
}

/// Kafka error codes that a partition meets.
pub mod code {
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const LEADER_NOT_AVAILABLE: i16 = 5;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const REPLICA_NOT_AVAILABLE: i16 = 9;
    pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub const FENCED_LEADER_EPOCH: i16 = 74;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const OFFSET_NOT_AVAILABLE: i16 = 78;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
    pub const INCONSISTENT_TOPIC_ID: i16 = 103;
    pub const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
}

impl Fault {
    /// Total: every fault has exactly one verdict.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Broker { code } => broker_verdict(*code),
            Self::Diverged { .. } | Self::NewEpoch { .. } => Verdict::Classify,
            Self::Batch(BatchError::OldMagic { .. } | BatchError::LengthTooLarge { .. }) => Verdict::Stop,
            Self::Batch(_) | Self::BelowExpected { .. } | Self::Overlaps { .. } => Verdict::Refetch,
            Self::EpochWentBack { .. } | Self::NoWholeBatch { .. } => Verdict::Refetch,
            Self::TooMany { .. } | Self::TopicRecreated { .. } | Self::TopicDeleted => Verdict::Stop,
            Self::Gap { .. } | Self::Truncated { .. } | Self::Unexplained { .. } => Verdict::Stop,
            Self::Disk { .. } => Verdict::Halt,
            Self::DiskFull { .. } => Verdict::Retry,
        }
    }

    pub fn blame(&self) -> Blame {
        match self {
            Self::Disk { .. } | Self::DiskFull { .. } => Blame::Disk,
            Self::Truncated { why: TruncationStop::Policy, .. } => Blame::Operator,
            _ => Blame::Source,
        }
    }

    /// A stable code for status, metrics and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Broker { code: code::TOPIC_AUTHORIZATION_FAILED } => "SOURCE_UNAUTHORIZED",
            Self::Broker { .. } => "SOURCE_ERROR",
            Self::Diverged { .. } => "SOURCE_DIVERGED",
            Self::NewEpoch { .. } => "SOURCE_NEW_EPOCH",
            Self::Batch(BatchError::OldMagic { .. }) => "OLD_MESSAGE_FORMAT",
            Self::Batch(BatchError::LengthTooLarge { .. }) => "BATCH_TOO_LARGE",
            Self::Batch(_) => "CORRUPT_BATCH",
            Self::BelowExpected { .. } | Self::Overlaps { .. } => "OFFSET_BELOW_EXPECTED",
            Self::EpochWentBack { .. } => "EPOCH_WENT_BACK",
            Self::NoWholeBatch { .. } => "NO_WHOLE_BATCH",
            Self::TooMany { .. } => "LIMIT_REACHED",
            Self::TopicRecreated { .. } => "TOPIC_RECREATED",
            Self::TopicDeleted => "TOPIC_DELETED",
            Self::Gap { .. } => "SOURCE_GAP",
            Self::Truncated { .. } => "SOURCE_TRUNCATED",
            Self::Unexplained { .. } => "SOURCE_UNEXPLAINED",
            Self::Disk { .. } => "DISK_ERROR",
            Self::DiskFull { .. } => "DISK_FULL",
        }
    }
}

fn broker_verdict(code: i16) -> Verdict {
    match code {
        code::OFFSET_OUT_OF_RANGE => Verdict::Classify,
        code::CORRUPT_MESSAGE | code::KAFKA_STORAGE_ERROR | code::OFFSET_NOT_AVAILABLE => Verdict::Retry,
        // Retried for ever: rights are granted again, and only this partition waits for them.
        code::TOPIC_AUTHORIZATION_FAILED => Verdict::Retry,
        code::UNKNOWN_LEADER_EPOCH => Verdict::Retry,
        _ => Verdict::Rediscover,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker { code: code::TOPIC_AUTHORIZATION_FAILED } => write!(
                f,
                "the source does not let us read the topic (TOPIC_AUTHORIZATION_FAILED): grant READ and DESCRIBE on \
                 it, see twinlog check; it is asked again, and goes on by itself"
            ),
            Self::Broker { code } => write!(f, "the source broker answered error code {code}"),
            Self::Diverged { epoch, end } => {
                write!(f, "the source's log ends epoch {epoch} at {end}, ours goes on beyond it")
            }
            Self::NewEpoch { epoch } => {
                write!(
                    f,
                    "the source has a new leader, of epoch {epoch}: whether it lost data is being asked"
                )
            }
            Self::Batch(error) => write!(f, "{error}"),
            Self::BelowExpected { expected, last_offset } => {
                write!(f, "a batch ends at {last_offset}, below the expected offset {expected}")
            }
            Self::Overlaps { expected, base_offset } => {
                write!(f, "a batch starts at {base_offset}, below the expected offset {expected}")
            }
            Self::EpochWentBack { offset, epoch, latest } => {
                write!(f, "the batch at {offset} carries source epoch {epoch} after epoch {latest} was seen")
            }
            Self::NoWholeBatch { offset, records_bytes } => write!(
                f,
                "the source sent {records_bytes} bytes at {offset} without one whole batch, several times"
            ),
            Self::TooMany { what, bound } => write!(f, "more than {bound} {what}, which is the bound"),
            Self::TopicRecreated { mirrored, found } => write!(
                f,
                "the topic was deleted and created again: mirrored id {mirrored}, now {found}; \
                 mirror the new one under another link"
            ),
            Self::TopicDeleted => write!(f, "the topic was deleted at the source; its mirror is kept"),
            Self::Gap { log_end, source_start } => write!(
                f,
                "the source's log starts at {source_start}, beyond our end {log_end}: what lies between is \
                 lost there; accept the gap with --accept-gap or on.gap = continue"
            ),
            Self::Truncated { log_end, common_end, cut_bytes, why } => write!(
                f,
                "the source lost what we hold from {common_end} to {log_end} ({cut_bytes} bytes): {}; \
                 follow it with --restart-from {common_end}",
                match why {
                    TruncationStop::Policy => "on.truncation = stop",
                    TruncationStop::BeyondBound => {
                        "more than truncation.bytes.max or truncation.percent.max allow to cut"
                    }
                }
            ),
            Self::Unexplained { offset, source_start, source_end } => write!(
                f,
                "offset {offset} is out of range at the source although it reports {source_start} to \
                 {source_end}; retry with --retry once the source is healthy"
            ),
            Self::Disk { action, path, errno } => {
                write!(f, "{action} of {path} failed with errno {errno}; no further write is made there")
            }
            Self::DiskFull { path } => write!(f, "no space left for {path}; goes on when there is room"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn range_errors_are_classified_before_anything_is_cut() {
        assert_eq!(Fault::Broker { code: code::OFFSET_OUT_OF_RANGE }.verdict(), Verdict::Classify);
        let epoch = LeaderEpoch(3);
        assert_eq!(Fault::Diverged { epoch, end: 5 }.verdict(), Verdict::Classify);
        assert_eq!(Fault::Broker { code: code::NOT_LEADER_OR_FOLLOWER }.verdict(), Verdict::Rediscover);
    }

    #[test]
    fn a_stop_says_what_to_do() {
        let log_end = Offset::new(10).unwrap();
        let gap = Fault::Gap { log_end, source_start: Offset::new(20).unwrap() };
        assert_eq!(gap.verdict(), Verdict::Stop);
        assert!(gap.to_string().contains("--accept-gap"));
    }

    #[test]
    fn a_right_that_is_missing_is_named_and_waited_for() {
        let denied = Fault::Broker { code: code::TOPIC_AUTHORIZATION_FAILED };
        assert_eq!((denied.verdict(), denied.code()), (Verdict::Retry, "SOURCE_UNAUTHORIZED"));
        assert!(denied.to_string().contains("grant READ"));
    }
}
