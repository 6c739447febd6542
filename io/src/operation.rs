//! What a shard may ask of the kernel, and what comes back: plain data and nothing else.
//!
//! Owns: [`Operation`], [`Completion`] and the small keys inside them. Three engines stand behind these
//! types (the ring, epoll, and the simulated world of the tests), so no type here may hold a file
//! descriptor, a pointer, a callback or a clock.
//!
//! ```text
//!   caller                        engine                         kernel
//!     |  submit(token, operation)    |                              |
//!     |----------------------------->|  lends the span, queues      |
//!     |                              |----------------------------->|  owns the span's bytes
//!     |                              |<-----------------------------|
//!     |  Completion{token, outcome}  |  span given back             |
//!     |<-----------------------------|                              |
//! ```
//!
//! Invariants: every submitted operation yields exactly one completion with its token, in any order;
//! from submit to completion the span belongs to the kernel; a key names one socket (file) from `Connect`,
//! `Listen` or `Accept` (`Step::Open`) until the completion of `CloseSocket` (`CloseFile`) is delivered.

use crate::disk::{Job, JobOutcome};
use std::fmt;
use std::net::SocketAddr;

/// The caller's name for one submitted operation. The engine never looks inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A byte range of the engine's arena.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    pub start: u64,
    pub length: u32,
}

impl Span {
    /// The first byte after the span.
    pub fn end(self) -> u64 {
        self.start + u64::from(self.length)
    }

    /// True when both spans share at least one byte. An empty span shares nothing.
    pub fn overlaps(self, other: Span) -> bool {
        self.start.max(other.start) < self.end().min(other.end())
    }

    /// What is left after the first `count` bytes: the span to resume a short operation with.
    pub fn after(self, count: u32) -> Span {
        assert!(count <= self.length, "span of {} bytes cannot be resumed after {count}", self.length);
        Span { start: self.start + u64::from(count), length: self.length - count }
    }
}

/// A row of the engine's socket table; chosen by the caller, below `EngineOptions::sockets_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketKey(pub u32);

/// A row of the engine's file table; chosen by the caller, below `EngineOptions::files_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileKey(pub u32);

/// Spans of one [`Operation::SendGather`]. The kernel takes 1,024, but every span is looked up among the loans when it
/// is lent and again when it is given back: raised far, an answer of small pieces costs more than copying them together.
pub const GATHER_SPANS_MAX: usize = 16;

/// One thing to do. A socket takes one `Receive` and one `Send` at a time: two at once would have no order.
/// Breaking that rule, using a key that is not open, opening one that is, or naming an empty span is a bug of the
/// caller and asserts; whatever the network, the disk or the kernel does arrives as an [`Outcome`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Creates the socket and connects it. `Done(0)` when connected. Also after a failure the key stays
    /// taken until `CloseSocket` has completed; no other operation may be submitted before this completes.
    Connect { socket: SocketKey, address: SocketAddr },
    /// `Done(count)`: bytes received. With `fill` the engine waits for the whole span, and still may
    /// complete short; the caller resumes. `Done(0)` for a span that is not empty: the peer closed.
    Receive { socket: SocketKey, into: Span, fill: bool },
    /// `Done(count)`: bytes accepted by the kernel; may be short, the caller resumes.
    Send { socket: SocketKey, from: Span },
    /// `Done(count)`: bytes of the spans, in their order, accepted by the kernel; may be short, the caller resumes.
    /// At most [`GATHER_SPANS_MAX`] spans, none empty; they may overlap each other and whatever else the kernel only
    /// reads. Counts as the socket's one `Send`.
    SendGather { socket: SocketKey, spans: Box<[Span]> },
    /// Opens a socket that listens. `Address`: where; port 0 asks the kernel for a free one. Also after a failure
    /// the key stays taken until `CloseSocket` has completed. A listener takes nothing but `Accept` and `CloseSocket`.
    Listen { listener: SocketKey, address: SocketAddr },
    /// Takes one connection of a listener into the row `socket`. `Address`: the peer's. One at a time for each
    /// listener. Also after a failure (out of descriptors, a connection that is gone again) the key `socket` stays
    /// taken until `CloseSocket` has completed; nothing but that may be submitted for it before this completes.
    /// A process out of descriptors is told so at once, whether anybody connects or not: wait before the next one.
    Accept { listener: SocketKey, socket: SocketKey },
    /// Ends every other operation of the socket (they complete first, with an error or what they have). An `Accept`
    /// is one of its listener and of the socket it would fill: closing either ends it and leaves the other open.
    /// Nothing may be submitted for the socket in between.
    CloseSocket { socket: SocketKey },
    /// `Done(count)`: bytes written at `position`; may be short, the caller resumes. For a file opened
    /// `direct` the position, the span's start and its length are multiples of 4,096.
    Write { file: FileKey, position: u64, from: Span },
    /// `Done(count)`: bytes read at `position`; short at the end of the file. Alignment as in `Write`.
    Read { file: FileKey, position: u64, into: Span },
    /// fdatasync: covers the writes that had *completed* when this was submitted. After a failure the
    /// state of the pages is unknowable: never retry it as if the file were clean.
    Sync { file: FileKey },
    /// Waits for the other operations of the file, then closes it. Nothing may be submitted for the file in between.
    CloseFile { file: FileKey },
    /// Blocking file work; runs in order of submission on the engine's helper thread.
    Job(Job),
}

/// The one answer to one submitted operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It happened; the number of bytes, 0 where there are none.
    Done(u32),
    /// It did not happen.
    Failed(SystemError),
    /// Only for [`Operation::Listen`] (its own address) and [`Operation::Accept`] (the peer's).
    Address(SocketAddr),
    /// Only for [`Operation::Job`], also when a step failed.
    Job(JobOutcome),
}

/// An errno, as the kernel (or the simulated world) gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemError(pub i32);

impl SystemError {
    pub const NOT_FOUND: SystemError = SystemError(libc::ENOENT);
    pub const INPUT_OUTPUT: SystemError = SystemError(libc::EIO);
    pub const EXISTS: SystemError = SystemError(libc::EEXIST);
    pub const INVALID: SystemError = SystemError(libc::EINVAL);
    pub const NO_SPACE: SystemError = SystemError(libc::ENOSPC);
    pub const QUOTA_EXCEEDED: SystemError = SystemError(libc::EDQUOT);
    pub const NOT_SUPPORTED: SystemError = SystemError(libc::EOPNOTSUPP);
    pub const CANCELED: SystemError = SystemError(libc::ECANCELED);
    pub const BROKEN_PIPE: SystemError = SystemError(libc::EPIPE);
    pub const CONNECTION_RESET: SystemError = SystemError(libc::ECONNRESET);
    pub const CONNECTION_REFUSED: SystemError = SystemError(libc::ECONNREFUSED);
    pub const ADDRESS_IN_USE: SystemError = SystemError(libc::EADDRINUSE);
    pub const TIMED_OUT: SystemError = SystemError(libc::ETIMEDOUT);

    /// The disk is full for us: pause and retry later, nothing is broken.
    pub fn is_out_of_space(self) -> bool {
        self == Self::NO_SPACE || self == Self::QUOTA_EXCEEDED
    }

    /// The errno inside a standard library error; `INPUT_OUTPUT` when it holds none.
    pub fn from_std(error: &std::io::Error) -> SystemError {
        error.raw_os_error().map_or(SystemError::INPUT_OUTPUT, SystemError)
    }
}

impl From<rustix::io::Errno> for SystemError {
    fn from(errno: rustix::io::Errno) -> Self {
        SystemError(errno.raw_os_error())
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The standard library's text is the kernel's own: "No space left on device (os error 28)".
        std::io::Error::from_raw_os_error(self.0).fmt(formatter)
    }
}

impl fmt::Debug for SystemError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SystemError({self})")
    }
}

impl std::error::Error for SystemError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_overlap_only_when_they_share_a_byte() {
        let first = Span { start: 10, length: 10 };
        assert!(first.overlaps(Span { start: 19, length: 1 }));
        assert!(first.overlaps(Span { start: 0, length: 100 }));
        assert!(!first.overlaps(Span { start: 20, length: 5 }));
        assert!(!first.overlaps(Span { start: 0, length: 10 }));
        assert!(!first.overlaps(Span { start: 15, length: 0 }));
    }

    #[test]
    fn a_span_resumes_after_a_short_operation() {
        assert_eq!(Span { start: 4, length: 10 }.after(3), Span { start: 7, length: 7 });
        assert_eq!(Span { start: 4, length: 10 }.after(10), Span { start: 14, length: 0 });
    }

    #[test]
    fn an_error_says_its_text_and_its_number() {
        assert_eq!(SystemError::NO_SPACE.to_string(), "No space left on device (os error 28)");
        assert!(SystemError::QUOTA_EXCEEDED.is_out_of_space());
        assert!(!SystemError::INPUT_OUTPUT.is_out_of_space());
    }

    #[test]
    fn a_completion_stays_small_enough_to_copy_without_a_thought() {
        assert!(size_of::<Completion>() <= 104, "{}", size_of::<Completion>());
        assert!(size_of::<Operation>() <= 56, "{}", size_of::<Operation>());
    }
}
