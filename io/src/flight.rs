//! One operation on its way: what both engines remember between submit and completion.
//!
//! Owns: the [`Flight`] record. Its [`Loan`] keeps everybody else off the operation's bytes for as long as the flight
//! lasts, so a flight must never be dropped before the kernel is done with it.

use crate::arena::Loan;
use crate::gather::Gather;
use crate::operation::{FileKey, SocketKey, Span, Token};
use rustix::net::SocketAddrAny;

/// An operation between submit and completion.
pub(crate) struct Flight {
    pub(crate) token: Token,
    pub(crate) kind: FlightKind,
}

pub(crate) enum FlightKind {
    /// The address is boxed: the kernel reads it when it takes the entry, and slots may move before that.
    Connect {
        socket: SocketKey,
        address: Box<SocketAddrAny>,
    },
    Receive(Receive),
    Send {
        socket: SocketKey,
        loan: Loan,
    },
    /// Boxed: the kernel reads the list of spans, and slots may move before that.
    SendGather {
        socket: SocketKey,
        gather: Box<Gather>,
    },
    /// Stands on a lane of both rows.
    Accept {
        listener: SocketKey,
        socket: SocketKey,
    },
    /// Write, read or sync of a file; a sync has no loan.
    Transfer {
        file: FileKey,
        loan: Option<Loan>,
    },
    /// A job, or the close of a file: the helper thread's.
    Plain,
}

/// A receive, which alone may take several rounds.
pub(crate) struct Receive {
    pub(crate) socket: SocketKey,
    pub(crate) loan: Loan,
    pub(crate) received: u32,
    pub(crate) fill: bool,
}

impl Receive {
    /// What is still to come.
    pub(crate) fn missing(&self) -> Span {
        self.loan.span().after(self.received)
    }
}

/// An empty span would make `Done(0)` of a receive look like a closed peer.
pub(crate) fn assert_not_empty(span: Span) {
    assert!(span.length > 0, "an operation on no bytes: {span:?}");
}
