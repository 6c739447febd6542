//! Why a hand-over does not go on, or was taken back: each with the figures that show it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use twinlog_log_segment::offset::Offset;

/// Who was asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    SourceEnds,
    ProducerIds,
    Groups,
    Reassignment,
    LeaderChange,
    DestinationEnds,
    Configs,
    Abort,
    State,
    Files,
}

impl Asked {
    const fn words(self) -> &'static str {
        match self {
            Self::SourceEnds => "where its logs end cannot be read from the source",
            Self::ProducerIds => {
                "the destination's producer ids are not proven to be others than the mirrored ones"
            }
            Self::Groups => "positions of consumer groups are not written for the last time",
            Self::Reassignment => "the controller does not take the new replicas",
            Self::LeaderChange => "the controller does not take the new in-sync replicas",
            Self::DestinationEnds => "where the new leaders' logs end cannot be read",
            Self::Configs => "the destination does not take the topic's own configuration",
            Self::Abort => "the open transactions cannot be aborted",
            Self::State => "the next step cannot be kept",
            Self::Files => "its files are not ready to be adopted",
        }
    }
}

/// A producer of the destination with the id of a mirrored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerOverlap {
    pub producer_id: i64,
    /// A partition that it wrote to, or its transactional id.
    pub holder: String,
    /// Further ids of which the same is true.
    pub others: usize,
}

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A request failed; the text is its own error's.
    NotAnswered {
        asked: Asked,
        why: String,
    },
    /// The source has open transactions: its last stable offset is below its end.
    OpenTransactions {
        index: i32,
        last_stable_offset: Offset,
        end: Offset,
    },
    /// Our copy holds transactions without their end.
    OpenHere {
        index: i32,
        count: usize,
    },
    SourceMoves {
        index: i32,
        captured: Offset,
        found: Offset,
    },
    /// Partitions were added that the mirror topic does not have yet.
    OtherPartitions {
        source: usize,
        here: usize,
    },
    /// Nothing was appended for as long as is waited.
    NotCaughtUp {
        index: i32,
        log_end: Offset,
        end: Offset,
    },
    /// The shard does not lead it now.
    NotLed {
        index: i32,
    },
    /// No data thread has it now.
    NotHere {
        index: i32,
    },
    /// No follower is alive.
    NoFollower {
        index: i32,
        brokers: Vec<i32>,
    },
    /// A follower that is alive does not hold everything, or has not said so lately.
    Behind {
        index: i32,
        broker: i32,
        at: Option<Offset>,
        end: Offset,
        age_ms: Option<u64>,
    },
    /// A follower has deleted records that the topic begins with.
    LacksBeginning {
        index: i32,
        broker: i32,
        start: Offset,
        log_start: Offset,
    },
    NotFlushed {
        index: i32,
        flushed: Offset,
        end: Offset,
    },
    /// The shard holds less than was to be handed over.
    Shorter {
        index: i32,
        log_end: Offset,
        end: Offset,
    },
    ProducersOverlap(ProducerOverlap),
    /// The metadata log does not show what was sent.
    NotPending {
        index: i32,
    },
    NotHandedOver {
        index: i32,
        code: i16,
    },
    /// The new leader's log is another one.
    OtherEnd {
        index: i32,
        found: Option<Offset>,
        end: Offset,
    },
    TopicGone,
    Cancelled,
}

impl fmt::Display for ProducerOverlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer_id, holder, others } = self;
        write!(f, "producer id {producer_id} is a mirrored one, and {holder} of the destination has it too")?;
        if *others > 0 {
            write!(f, "; so it is with {others} other ids")?;
        }
        f.write_str(
            "; stop and start those producers, wait until the destination has forgotten them, or allow a producer \
             overlap: they meet with errors then, and lose nothing silently",
        )
    }
}

/// Where a follower was when it asked last.
fn last_word(f: &mut fmt::Formatter<'_>, at: Option<Offset>, age_ms: Option<u64>) -> fmt::Result {
    match (at, age_ms) {
        (Some(at), Some(age)) => write!(f, "it was at {at} {age} ms ago"),
        (None, Some(age)) => write!(f, "it asked {age} ms ago and proved nothing"),
        (_, None) => write!(f, "it never asked"),
    }
}

/// The source ends elsewhere than it did.
fn moved(f: &mut fmt::Formatter<'_>, index: i32, captured: Offset, found: Offset) -> fmt::Result {
    let records = found.value() - captured.value();
    match records > 0 {
        true => write!(
            f,
            "partition {index} of the source grew by {records} records, from offset {captured} to {found}, \
             meanwhile; stop its producers, or allow a moving source"
        ),
        false => write!(
            f,
            "partition {index} of the source ends at offset {found} now, and ended at {captured}: it lost records \
             meanwhile"
        ),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnswered { asked, why } => write!(f, "{}: {why}", asked.words()),
            Self::OpenTransactions { index, last_stable_offset, end } => write!(
                f,
                "partition {index} has open transactions at the source: it is stable up to offset \
                 {last_stable_offset} and ends at {end}; end them, or use failover"
            ),
            Self::OpenHere { index, count } => write!(
                f,
                "partition {index} ends inside {count} transactions of its source; stop their producers and \
                 promote again, or use failover"
            ),
            Self::SourceMoves { index, captured, found } => moved(f, *index, *captured, *found),
            Self::OtherPartitions { source, here } => {
                write!(
                    f,
                    "the source has {source} partitions of it, the mirror topic {here}; promote it later"
                )
            }
            Self::NotLed { index } => write!(f, "partition {index} is not led by us now"),
            Self::NotHere { index } => write!(f, "partition {index} is in no data thread now"),
            Self::NotCaughtUp { index, log_end, end } => {
                write!(f, "partition {index} is at offset {log_end} of {end} and does not go on")
            }
            Self::NoFollower { index, brokers } => {
                write!(f, "partition {index}: none of brokers {brokers:?} is alive to take it over")
            }
            Self::Behind { index, broker, at, end, age_ms } => {
                write!(f, "broker {broker} does not hold partition {index} up to offset {end}: ")?;
                last_word(f, *at, *age_ms)
            }
            Self::LacksBeginning { index, broker, start, log_start } => write!(
                f,
                "broker {broker} holds partition {index} from offset {start} on only, and it begins at {log_start}: \
                 it deleted records by itself; reassign the partition without that broker, and with it again"
            ),
            Self::NotFlushed { index, flushed, end } => {
                write!(f, "partition {index} is flushed up to offset {flushed} of {end}")
            }
            Self::Shorter { index, log_end, end } => write!(
                f,
                "our copy of partition {index} ends at offset {log_end}, {end} is to be handed over; its \
                 followers hold the rest"
            ),
            Self::ProducersOverlap(overlap) => write!(f, "{overlap}"),
            Self::NotPending { index } => {
                write!(f, "the metadata log does not show partition {index} as it was sent")
            }
            Self::NotHandedOver { index, code } => {
                write!(f, "the controller refused to hand partition {index} over (error code {code})")
            }
            Self::OtherEnd { index, found: Some(found), end } => write!(
                f,
                "the new leader of partition {index} ends at offset {found}, {end} was handed over; nobody may \
                 write before it is clear why"
            ),
            Self::OtherEnd { index, found: None, end } => {
                write!(f, "nobody says where partition {index} ends now; {end} was handed over")
            }
            Self::TopicGone => write!(f, "the mirror topic is not there any more"),
            Self::Cancelled => write!(f, "an operator took it back"),
        }
    }
}

impl core::error::Error for Trouble {}
