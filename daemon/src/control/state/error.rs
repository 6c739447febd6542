//! Why state cannot be read or kept.

use rusqlite::ErrorCode;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use twinlog_sync::lifecycle::{
    DeletionEvent, DeletionStep, HandOverEvent, HandOverStep, MirrorEvent, MirrorState,
};

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    Thread {
        error: ErrorKind,
    },
    /// The thread of the file is gone.
    Ended,
    File {
        path: PathBuf,
        error: ErrorKind,
    },
    /// SQLite cannot open it.
    Open {
        path: PathBuf,
        /// SQLite's extended result code.
        code: i32,
    },
    /// What lies there is no database, or a damaged one.
    Corrupt {
        path: PathBuf,
    },
    /// Written by a later program.
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    /// A read or write failed.
    Sqlite {
        code: i32,
    },
    /// A column holds what no version of this program wrote.
    Content {
        table: &'static str,
        column: &'static str,
    },
    /// The link's name stood for other clusters before.
    OtherClusters {
        link: String,
        source: String,
        destination: String,
    },
    /// A guest id is known with another directory: its old partitions would stay without a leader.
    OtherDirectory {
        link: String,
        broker_id: i32,
    },
    NoSuchLink {
        link: String,
    },
    NoSuchMirror {
        link: String,
        topic: String,
    },
    MirrorExists {
        link: String,
        topic: String,
        state: MirrorState,
    },
    Forbidden {
        topic: String,
        state: MirrorState,
        event: MirrorEvent,
    },
    NoHandOver {
        topic: String,
    },
    HandOverForbidden {
        topic: String,
        step: HandOverStep,
        event: HandOverEvent,
    },
    HandOverOpen {
        topic: String,
        step: HandOverStep,
    },
    NoDeletion {
        topic: String,
    },
    DeletionForbidden {
        topic: String,
        step: DeletionStep,
        event: DeletionEvent,
    },
    DeletionOpen {
        topic: String,
        step: DeletionStep,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread { error } => write!(f, "the thread of the state file cannot be started: {error}"),
            Self::Ended => {
                write!(f, "the thread of the state file has ended: nothing can be kept; restart the daemon")
            }
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Open { path, code } => write!(
                f,
                "{} cannot be opened (SQLite's code {code}); check its owner, its mode and the disk",
                path.display()
            ),
            Self::Corrupt { path } => write!(
                f,
                "{} is no sound state file; put a copy of it in place, or move it and its -wal file aside \
                 and start again: mirror topics are then adopted from the destination, and hand-overs under \
                 way must be looked at by hand",
                path.display()
            ),
            Self::Newer { path, found, known } => write!(
                f,
                "{} has schema {found}, and this program knows {known} at most; run the later program again",
                path.display()
            ),
            Self::Sqlite { code } => {
                write!(
                    f,
                    "the state file cannot be read or written (SQLite's code {code}); check disk and space"
                )
            }
            Self::Content { table, column } => {
                write!(f, "the state file holds in {table}.{column} what this program never writes")
            }
            Self::OtherClusters { link, source, destination } => write!(
                f,
                "link {link} joins source {source} with destination {destination}, and now other clusters \
                 answer; name another link, or correct bootstrap.servers"
            ),
            Self::OtherDirectory { link, broker_id } => write!(
                f,
                "guest broker {broker_id} of link {link} is known with another directory id, and the \
                 partitions it leads would be lost to it; keep the id of its registration"
            ),
            Self::NoSuchLink { link } => write!(f, "there is no link {link}"),
            Self::NoSuchMirror { link, topic } => write!(f, "link {link} has no mirror topic {topic}"),
            Self::MirrorExists { link, topic, state } => {
                write!(f, "link {link} has mirror topic {topic} already, and it is {state}")
            }
            Self::Forbidden { topic, state, event } => {
                write!(f, "mirror topic {topic} is {state}, where \"{event}\" is not possible")
            }
            Self::NoHandOver { topic } => write!(f, "mirror topic {topic} is not being handed over"),
            Self::HandOverForbidden { topic, step, event } => {
                write!(f, "the hand-over of {topic} is at {step}, where \"{event}\" is not possible")
            }
            Self::HandOverOpen { topic, step } => {
                write!(f, "mirror topic {topic} is being handed over and at {step}; wait for its end")
            }
            Self::NoDeletion { topic } => write!(f, "mirror topic {topic} is not being deleted"),
            Self::DeletionForbidden { topic, step, event } => {
                write!(f, "the deletion of {topic} is at {step}, where \"{event}\" is not possible")
            }
            Self::DeletionOpen { topic, step } => {
                write!(f, "mirror topic {topic} is being deleted and at {step}; wait for its end")
            }
        }
    }
}

impl std::error::Error for StateError {}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => Self::Sqlite { code: failure.extended_code },
            // Column types are this program's own: anything else is a foreign file.
            _ => Self::Sqlite { code: 0 },
        }
    }
}

/// Whether SQLite says that the file itself is not what it should be.
pub(super) fn says_corrupt(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
