//! The books of an engine: what is in flight, what it holds, and what is ready to be delivered.
//!
//! Owns: the arena, the operations in flight, the tables of sockets and files, and the completions. Both engines keep
//! the same books, so that a lent span, a lane and a closing row follow one set of rules. It must never make a system
//! call, nor know which engine it serves.
//!
//! ```text
//!   book_..(token, ..) ─▶ slot: Flight{token, loan} on a lane of its row     (the engine hands it to the kernel)
//!                           |
//!   end(slot, outcome): answer, give the loan back, free the lane ─▶ Ending: it was the last of a closing row,
//!                           |                                        whose descriptor the engine lets go of
//!   deliver ◀─ completions ─'
//! ```
//!
//! Invariants: `outstanding` = submitted minus delivered; a flight leaves its slot once, in [`Books::end`] or, for the
//! helper's work, in [`Books::end_plain`]; an operation is answered before the close of its row.

use crate::arena::{Access, Arena, Loan, Mapping};
use crate::disk::{Job, JobOutcome};
use crate::engine::EngineOptions;
use crate::flight::{Flight, FlightKind, Receive, assert_not_empty};
use crate::gather::Gather;
use crate::operation::{Completion, FileKey, Outcome, SocketKey, Span, Token};
use crate::rows::{Lane, Rows};
use crate::slots::Slots;
use rustix::net::addr::SocketAddrArg;
use std::net::SocketAddr;
use std::sync::Arc;

/// See the file's header.
pub(crate) struct Books {
    pub(crate) arena: Arena,
    /// A second count of the arena's memory: it outlives the engine's operations even if the arena was swapped away.
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) slots: Slots<Flight>,
    pub(crate) sockets: Rows,
    pub(crate) files: Rows,
    /// Completions for the next delivery.
    ready: Vec<Completion>,
    outstanding: usize,
}

/// The last operation of a closing row has ended: its descriptor goes now, then the close is answered.
#[must_use = "a closing row that is not ended is never answered"]
pub(crate) enum Ending {
    Socket { socket: SocketKey, close: Token },
    File { file: FileKey, close: Token },
}

impl Books {
    pub(crate) fn new(options: &EngineOptions, arena: Arena) -> Books {
        Books {
            mapping: arena.mapping().clone(),
            arena,
            slots: Slots::with_capacity(options.queue_entries),
            sockets: Rows::new("socket", options.sockets_max),
            files: Rows::new("file", options.files_max),
            ready: Vec::new(),
            outstanding: 0,
        }
    }

    /// Counts an operation that was submitted.
    pub(crate) fn submitted(&mut self) {
        self.outstanding += 1;
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// True when a delivery would hand something over.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn deliver(&mut self, completions: &mut Vec<Completion>) {
        self.outstanding -= self.ready.len();
        completions.append(&mut self.ready);
    }

    pub(crate) fn answer(&mut self, token: Token, outcome: Outcome) {
        self.ready.push(Completion { token, outcome });
    }

    /// The socket exists and is about to connect.
    pub(crate) fn book_connect(&mut self, token: Token, socket: SocketKey, address: SocketAddr) -> u32 {
        let address = Box::new(address.as_any());
        self.book_on(token, socket, Lane::Connect, FlightKind::Connect { socket, address })
    }

    /// Takes the key `socket` for what will be accepted. The slot stands on both rows: either close ends it.
    pub(crate) fn book_accept(&mut self, token: Token, listener: SocketKey, socket: SocketKey) -> u32 {
        self.sockets.take_for_arrival(socket.0);
        let slot = self.book_on(token, listener, Lane::Accept, FlightKind::Accept { listener, socket });
        self.sockets.occupy(socket.0, Lane::Connect, slot);
        slot
    }

    pub(crate) fn book_receive(&mut self, token: Token, socket: SocketKey, into: Span, fill: bool) -> u32 {
        let loan = self.lend(into, Access::KernelWrites);
        let receive = Receive { socket, loan, received: 0, fill };
        self.book_on(token, socket, Lane::Receive, FlightKind::Receive(receive))
    }

    pub(crate) fn book_send(&mut self, token: Token, socket: SocketKey, from: Span) -> u32 {
        let loan = self.lend(from, Access::KernelReads);
        self.book_on(token, socket, Lane::Send, FlightKind::Send { socket, loan })
    }

    pub(crate) fn book_send_gather(&mut self, token: Token, socket: SocketKey, spans: &[Span]) -> u32 {
        let loans = spans.iter().map(|span| self.lend(*span, Access::KernelReads)).collect();
        let gather = Gather::new(&self.arena, loans);
        self.book_on(token, socket, Lane::Send, FlightKind::SendGather { socket, gather })
    }

    fn book_on(&mut self, token: Token, socket: SocketKey, lane: Lane, kind: FlightKind) -> u32 {
        self.sockets.start(socket.0);
        let slot = self.slots.insert(Flight { token, kind });
        self.sockets.occupy(socket.0, lane, slot);
        slot
    }

    /// A write, a read or (without a span) a sync.
    pub(crate) fn book_transfer(&mut self, token: Token, file: FileKey, lent: Option<(Span, Access)>) -> u32 {
        let loan = lent.map(|(span, access)| self.lend(span, access));
        self.files.start(file.0);
        self.slots.insert(Flight { token, kind: FlightKind::Transfer { file, loan } })
    }

    /// Takes the keys that a job will open.
    pub(crate) fn book_job(&mut self, token: Token, job: &Job) -> u32 {
        job.check();
        job.opened_keys().for_each(|file| self.files.take(file.0));
        self.book_plain(token)
    }

    /// Work of the helper that answers with [`Books::end_plain`].
    pub(crate) fn book_plain(&mut self, token: Token) -> u32 {
        self.slots.insert(Flight { token, kind: FlightKind::Plain })
    }

    /// Ends a flight: the answer, the loan, the lane, the row. An accepted socket is in its row already.
    pub(crate) fn end(&mut self, slot: u32, outcome: Outcome) -> [Option<Ending>; 2] {
        let Flight { token, kind } = self.slots.remove(slot);
        let outcome = match &kind {
            // What came before an error or the end is delivered; the next receive meets the error or the end again.
            FlightKind::Receive(Receive { received: received @ 1.., .. }) => Outcome::Done(*received),
            _ => outcome,
        };
        self.answer(token, outcome);
        match kind {
            // The kernel read the address when it took the entry, so it was needed at least until now.
            FlightKind::Connect { socket, address: _ } => [self.finish_socket(socket, Lane::Connect), None],
            FlightKind::Accept { listener, socket } => {
                [self.finish_socket(listener, Lane::Accept), self.finish_socket(socket, Lane::Connect)]
            }
            FlightKind::Receive(Receive { socket, loan, .. }) => {
                self.arena.give_back(loan);
                [self.finish_socket(socket, Lane::Receive), None]
            }
            FlightKind::Send { socket, loan } => {
                self.arena.give_back(loan);
                [self.finish_socket(socket, Lane::Send), None]
            }
            FlightKind::SendGather { socket, gather } => {
                gather.into_loans().into_iter().for_each(|loan| self.arena.give_back(loan));
                [self.finish_socket(socket, Lane::Send), None]
            }
            FlightKind::Transfer { file, loan } => {
                loan.into_iter().for_each(|loan| self.arena.give_back(loan));
                [self.files.finish(file.0).map(|close| Ending::File { file, close }), None]
            }
            FlightKind::Plain => panic!("the helper, not the kernel, answers slot {slot}"),
        }
    }

    fn finish_socket(&mut self, socket: SocketKey, lane: Lane) -> Option<Ending> {
        self.sockets.vacate(socket.0, lane);
        self.sockets.finish(socket.0).map(|close| Ending::Socket { socket, close })
    }

    /// Ends the helper's work of a slot.
    pub(crate) fn end_plain(&mut self, slot: u32, outcome: Outcome) {
        let Flight { token, kind } = self.slots.remove(slot);
        assert!(matches!(kind, FlightKind::Plain), "slot {slot} is not the helper's");
        self.answer(token, outcome);
    }

    /// Ends a job whose opened files are in their rows. A failed one opens nothing.
    pub(crate) fn end_job(&mut self, slot: u32, outcome: JobOutcome) {
        if outcome.failed.is_some() {
            outcome.opened_keys().for_each(|file| drop(self.files.release(file.0)));
        }
        self.end_plain(slot, Outcome::Job(outcome));
    }

    fn lend(&mut self, span: Span, access: Access) -> Loan {
        assert_not_empty(span);
        assert!(
            Arc::ptr_eq(self.arena.mapping(), &self.mapping),
            "the engine's arena was swapped for another"
        );
        self.arena.lend(span, access)
    }
}
