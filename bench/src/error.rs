//! Why a measurement could not be made.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use twinlog_daemon::embedded::server::ServerError;
use twinlog_daemon::store::StoreError;
use twinlog_io::{EngineError, Outcome, PlacementError, SystemError};

/// Everything that ends the harness before its report is complete.
#[derive(Debug)]
pub enum BenchError {
    OptionUnknown {
        option: String,
    },
    ValueMissing {
        option: String,
    },
    ValueBad {
        option: String,
        value: String,
        max: u64,
    },
    Cores(PlacementError),
    Pin {
        core: usize,
        error: SystemError,
    },
    TooFewCores {
        allowed: Vec<usize>,
    },
    NoSpace {
        path: PathBuf,
        needed_bytes: u64,
        free_bytes: u64,
    },
    File {
        action: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    Probe {
        path: PathBuf,
        error: SystemError,
    },
    /// A process in a role could not be started or talked to.
    Role {
        role: &'static str,
        error: std::io::Error,
    },
    RoleFailed {
        role: &'static str,
        status: ExitStatus,
        words: String,
    },
    /// A process in a role said something else than it should.
    Answer {
        role: &'static str,
        answer: String,
    },
    /// A broker, a controller or the daemon's listener could not be talked to.
    Peer {
        what: &'static str,
        server: String,
        error: std::io::Error,
    },
    PeerRefused {
        what: &'static str,
        server: String,
        code: i16,
    },
    Malformed {
        what: &'static str,
    },
    /// Another program that is compared cannot be built.
    Build {
        what: &'static str,
        needs: &'static str,
        words: String,
    },
    /// The copy is not the source's.
    Copy {
        problem: String,
    },
    /// The source's certificate could not be made.
    Certificate {
        why: String,
    },
    Store(StoreError),
    Source(ServerError),
    Engine(EngineError),
    Usage(SystemError),
    /// The floor's operation came back otherwise than done.
    Operation {
        what: &'static str,
        outcome: Box<Outcome>,
    },
    Slow {
        what: &'static str,
        limit: Duration,
    },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OptionUnknown { option } => write!(f, "there is no option {option}; see -- --help"),
            Self::ValueMissing { option } => write!(f, "{option} needs a value; see -- --help"),
            Self::ValueBad { option, value, max } => write!(f, "{option} is {value}; it takes 1 to {max}"),
            Self::Cores(error) => write!(f, "the cores of this process cannot be read: {error}"),
            Self::Pin { core, error } => write!(f, "a thread cannot be bound to core {core}: {error}"),
            Self::TooFewCores { allowed } => write!(
                f,
                "only the cores {allowed:?} may be used; sender and receiver need one each, or their time is not \
                 separable"
            ),
            Self::NoSpace { path, needed_bytes, free_bytes } => write!(
                f,
                "{} has {free_bytes} bytes free, {needed_bytes} are needed; use --directory or a smaller --gigabytes",
                path.display()
            ),
            Self::File { action, path, error } => write!(f, "{action} {}: {error}", path.display()),
            Self::Probe { path, error } => write!(f, "looking at {}: {error}", path.display()),
            Self::Role { role, error } => write!(f, "the process of the {role}: {error}"),
            Self::RoleFailed { role, status, words } => write!(f, "the {role} ended with {status}: {words}"),
            Self::Answer { role, answer } => write!(f, "the {role} answered {answer:?}"),
            Self::Peer { what, server, error } => write!(f, "{what} with {server}: {error}"),
            Self::PeerRefused { what, server, code } => {
                write!(f, "{server} refused {what} with error code {code}")
            }
            Self::Malformed { what } => write!(f, "the answer to {what} cannot be read"),
            Self::Build { what, needs, words } => {
                write!(f, "the {what} copier cannot be built, which needs {needs}: {words}")
            }
            Self::Copy { problem } => write!(f, "the copy is wrong: {problem}"),
            Self::Certificate { why } => write!(f, "the source has no certificate: {why}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Source(error) => write!(f, "{error}"),
            Self::Engine(error) => write!(f, "{error}"),
            Self::Usage(error) => write!(f, "the use of resources cannot be read: {error}"),
            Self::Operation { what, outcome } => write!(f, "{what} gave {outcome:?}"),
            Self::Slow { what, limit } => write!(f, "{what} took more than {} s", limit.as_secs()),
        }
    }
}

impl std::error::Error for BenchError {}
