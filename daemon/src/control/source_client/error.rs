//! Why a request to the source brought nothing.

use super::frame_shape::ShapeError;
use crate::config::HostPort;
use crate::security::SecurityError;
use kafka_protocol::protocol::VersionRange;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

/// One failed request. All of these may pass by themselves: the caller retries, and tells the last one.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientError {
    /// The name has no address.
    Resolve {
        server: HostPort,
        error: ErrorKind,
    },
    /// No address of the name accepted a connection; the last one's error.
    Connect {
        server: HostPort,
        error: ErrorKind,
    },
    /// Sending or receiving failed.
    Network {
        server: HostPort,
        error: ErrorKind,
    },
    /// Neither side believed the other enough.
    Security {
        server: HostPort,
        error: SecurityError,
    },
    TimedOut {
        server: HostPort,
        request: &'static str,
        after: Duration,
    },
    FrameLength {
        server: HostPort,
        length: i32,
        bound: u32,
    },
    CorrelationId {
        server: HostPort,
        expected: i32,
        found: i32,
    },
    Malformed {
        server: HostPort,
        request: &'static str,
        version: i16,
        why: ShapeError,
    },
    NoCommonVersion {
        server: HostPort,
        request: &'static str,
        ours: VersionRange,
        theirs: Option<VersionRange>,
    },
    /// The whole request was refused.
    Refused {
        server: HostPort,
        request: &'static str,
        code: i16,
    },
    /// The answer says nothing of the partition that was asked about.
    NotAnswered {
        server: HostPort,
        request: &'static str,
    },
    /// Metadata does not name this broker.
    UnknownBroker {
        broker: i32,
    },
    /// Metadata names no broker at all, as from one that is just starting.
    NoBrokers {
        server: HostPort,
    },
    /// Every known broker and every bootstrap server failed; the last failure.
    AllFailed {
        servers: usize,
        last: Box<ClientError>,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { server, error } => write!(f, "{server} cannot be resolved: {error}"),
            Self::Connect { server, error } => write!(f, "{server} cannot be connected: {error}"),
            Self::Network { server, error } => write!(f, "the connection to {server} broke: {error}"),
            Self::Security { server, error } => write!(f, "{server}: {error}"),
            Self::TimedOut { server, request, after } => {
                write!(f, "{server} did not answer {request} within {} ms", after.as_millis())
            }
            Self::FrameLength { server, length, bound } => write!(
                f,
                "{server} announced a frame of {length} bytes, outside 4 to {bound}; is it a Kafka listener, \
                 and security.protocol the listener's?"
            ),
            Self::CorrelationId { server, expected, found } => {
                write!(f, "{server} answered request {found} when {expected} was asked")
            }
            Self::Malformed { server, request, version, why } => {
                write!(f, "{server} answered {request} v{version} with what is not Kafka: {why}")
            }
            Self::NoCommonVersion { server, request, ours, theirs: Some(theirs) } => write!(
                f,
                "{server} speaks {request} v{} to v{}, understood are v{} to v{}",
                theirs.min, theirs.max, ours.min, ours.max
            ),
            Self::NoCommonVersion { server, request, theirs: None, .. } => {
                write!(f, "{server} does not speak {request}")
            }
            Self::Refused { server, request, code } => {
                write!(f, "{server} refused {request} with error code {code}")
            }
            Self::NotAnswered { server, request } => {
                write!(f, "{server} answered {request} without the partition that was asked about")
            }
            Self::UnknownBroker { broker } => write!(f, "the cluster does not name broker {broker} any more"),
            Self::NoBrokers { server } => write!(f, "{server} knows no broker yet"),
            Self::AllFailed { servers: 1, last } => write!(f, "{last}"),
            Self::AllFailed { servers, last } => {
                write!(f, "none of {servers} servers answered; the last: {last}")
            }
        }
    }
}

impl std::error::Error for ClientError {}
