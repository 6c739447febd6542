//! Why a run did not begin.

use crate::admin::access::AccessError;
use crate::admin::{ListenError, SocketError};
use crate::config::ConfigError;
use crate::control::guest::GuestError;
use crate::control::instruction::InstructionError;
use crate::control::state::StateError;
use crate::store::StoreError;
use std::fmt;
use std::path::PathBuf;
use twinlog_io::{EngineError, LockError, PlacementError, SystemError};

/// See the file's header.
#[derive(Debug)]
pub enum RunError {
    Directory {
        path: PathBuf,
        error: SystemError,
    },
    Lock(LockError),
    Placement(PlacementError),
    /// The file limit leaves too few descriptors for the data threads.
    FileLimit {
        limit: u64,
        needed: u64,
    },
    Engine(EngineError),
    Store(StoreError),
    Instruction(InstructionError),
    Guest(GuestError),
    State(StateError),
    Socket(SocketError),
    /// Files that let operators in.
    Access(AccessError),
    Listen(ListenError),
    Runtime(std::io::ErrorKind),
    Config(ConfigError),
    /// Of which link a partition is to be cut.
    WhichLink {
        names: Vec<String>,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => {
                write!(
                    f,
                    "{} cannot be made: {error}; data.dir must be a directory that is ours",
                    path.display()
                )
            }
            Self::Lock(error) => write!(f, "{error}"),
            Self::Placement(error) => write!(f, "{error}; see data.cores and control.core"),
            Self::FileLimit { limit, needed } => write!(
                f,
                "{limit} open files are allowed, {needed} are needed; raise LimitNOFILE or ulimit -n, or use \
                 fewer data.cores"
            ),
            Self::Engine(error) => write!(f, "{error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Instruction(error) => write!(f, "{error}"),
            Self::Guest(error) => write!(f, "{error}"),
            Self::State(error) => write!(f, "{error}"),
            Self::Socket(error) => write!(f, "{error}"),
            Self::Access(error) => write!(f, "{error}"),
            Self::Listen(error) => write!(f, "{error}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::WhichLink { names } => write!(
                f,
                "--restart-from is about one link, and there are {}; name it with --link, or use twinlog mirror resume",
                names.join(", ")
            ),
            Self::Runtime(error) => write!(f, "the control core cannot be started: {error}"),
        }
    }
}

impl std::error::Error for RunError {}
