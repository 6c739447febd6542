//! The engine for hosts that forbid io_uring: the same contract, slower.
//!
//! Owns: an epoll instance, nonblocking sockets, and a second helper thread that does what the ring does for files.
//! It must never block outside [`Engine::wait`]; file calls block, so they are the helper's.
//!
//! ```text
//!   submit(Receive, Send, Accept) --> lane of the socket --> attempts --> recv/send at once --> done
//!                                             ^                              | EAGAIN
//!                                             '---- edge from epoll <--------'
//!   submit(Write, Read, Sync) --> "twinlog-writes" thread --> answer + wake
//!   submit(Job, CloseFile)    --> "twinlog-files" thread  --> answer + wake
//! ```
//!
//! Invariants: a lane holds one slot; every slot on a lane either stands in `attempts` or waits for an edge that
//! will come, because the last attempt met EAGAIN. The registration is edge-triggered, so nothing is ever
//! re-registered. No kernel work outlives a call on a socket, so closing one completes its lanes at once.

use crate::arena::{Access, Arena};
use crate::books::{Books, Ending};
use crate::clock;
use crate::disk::Job;
use crate::engine::{BufferRegistration, Engine, EngineError, EngineName, EngineOptions, EngineReport};
use crate::flight::FlightKind;
use crate::helper::{Answer, Helper, Transfer, TransferKind, Work};
use crate::operation::{Completion, FileKey, Operation, Outcome, SocketKey, Span, SystemError, Token};
use crate::rows::Lane;
use crate::sockets;
use crate::wake::Waker;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What the eventfd is registered as; sockets are registered as their keys, which are 32 bits wide.
const WAKE: u64 = u64::MAX;

/// Events taken per call; more are left for the next one.
const EVENTS_MAX: usize = 64;

/// See the file's header.
pub struct EpollEngine {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// Dropped before the books, which hold the arena: their threads finish what they are at.
    jobs: Helper,
    transfers: Helper,
    books: Books,
    /// Slots to try without waiting for an edge.
    attempts: Vec<u32>,
    waker: Waker,
    receive_buffer_bytes: Option<u32>,
}

impl EpollEngine {
    pub fn open(options: &EngineOptions) -> Result<(EpollEngine, EngineReport), EngineError> {
        let call = |call| move |error: Errno| EngineError::Call { call, error: error.into() };
        let arena = Arena::new(options.arena_bytes)
            .map_err(|error| EngineError::Arena { bytes: options.arena_bytes, error })?;
        let mapping = arena.mapping().clone();
        let waker = Waker::new().map_err(|error| EngineError::Call { call: "eventfd", error })?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(call("epoll_create1"))?;
        epoll::add(&epoll, waker.descriptor(), epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(call("epoll_ctl"))?;
        let start = |name| Helper::start(name, &options.helper_cores, waker.clone(), mapping.clone());
        let (jobs, transfers) = (start("twinlog-files")?, start("twinlog-writes")?);
        let report = EngineReport {
            engine: EngineName::Epoll,
            ring_refused: None,
            buffers: BufferRegistration::Unknown,
            shortfalls: Vec::new(),
            arena_bytes: arena.size_bytes(),
        };
        let engine = EpollEngine {
            events: Vec::with_capacity(EVENTS_MAX),
            books: Books::new(options, arena),
            attempts: Vec::new(),
            receive_buffer_bytes: options.receive_buffer_bytes,
            epoll,
            jobs,
            transfers,
            waker,
        };
        Ok((engine, report))
    }

    fn connect(&mut self, token: Token, socket: SocketKey, address: SocketAddr) {
        self.books.sockets.take(socket.0);
        match sockets::create(address, self.receive_buffer_bytes, SocketFlags::NONBLOCK) {
            Ok(descriptor) => self.books.sockets.install(socket.0, descriptor),
            Err(error) => return self.books.answer(token, Outcome::Failed(error)),
        }
        let slot = self.books.book_connect(token, socket, address);
        let descriptor = self.books.sockets.descriptor(socket.0).expect("just installed");
        let connected = rustix::net::connect(descriptor, &address);
        // Only now: a socket that never tried to connect reports a hang-up at once.
        let registered = register(&self.epoll, socket, descriptor);
        match (connected, registered) {
            (Err(Errno::INPROGRESS), Ok(())) => {}
            (Err(Errno::INPROGRESS) | Ok(()), Err(error)) | (Err(error), _) => self.land(slot, Err(error)),
            (Ok(()), Ok(())) => self.land(slot, Ok(0)),
        }
    }

    fn listen(&mut self, token: Token, listener: SocketKey, address: SocketAddr) {
        self.books.sockets.take(listener.0);
        let opened = sockets::listen(address, SocketFlags::NONBLOCK);
        let bound = opened.and_then(|(descriptor, bound)| {
            register(&self.epoll, listener, descriptor.as_fd())?;
            self.books.sockets.install(listener.0, descriptor);
            Ok(bound)
        });
        self.books.answer(token, bound.map_or_else(Outcome::Failed, Outcome::Address));
    }

    fn accept(&mut self, token: Token, listener: SocketKey, socket: SocketKey) {
        let slot = self.books.book_accept(token, listener, socket);
        self.attempts.push(slot);
    }

    fn receive(&mut self, token: Token, socket: SocketKey, into: Span, fill: bool) {
        let slot = self.books.book_receive(token, socket, into, fill);
        self.attempts.push(slot);
    }

    fn send(&mut self, token: Token, socket: SocketKey, from: Span) {
        let slot = self.books.book_send(token, socket, from);
        self.attempts.push(slot);
    }

    fn send_gather(&mut self, token: Token, socket: SocketKey, spans: &[Span]) {
        let slot = self.books.book_send_gather(token, socket, spans);
        self.attempts.push(slot);
    }

    fn close_socket(&mut self, token: Token, socket: SocketKey) {
        let idle = self.books.sockets.close(socket.0, token);
        for slot in self.books.sockets.lanes(socket.0).into_iter().flatten() {
            self.attempts.retain(|attempt| *attempt != slot);
            self.land(slot, Err(Errno::CANCELED));
        }
        if idle {
            self.end_socket(socket, token);
        }
    }

    fn end_socket(&mut self, socket: SocketKey, token: Token) {
        // Closing the only descriptor of a socket takes it out of epoll too.
        drop(self.books.sockets.release(socket.0));
        self.books.answer(token, Outcome::Done(0));
    }

    fn transfer(
        &mut self,
        token: Token,
        file: FileKey,
        position: u64,
        kind: TransferKind,
        span: Option<Span>,
    ) {
        let access = if kind == TransferKind::Read { Access::KernelWrites } else { Access::KernelReads };
        let slot = self.books.book_transfer(token, file, span.map(|span| (span, access)));
        let descriptor = self.books.files.descriptor(file.0).expect("started only on an open file");
        let descriptor = descriptor.as_raw_fd();
        let address = span.map_or(std::ptr::null_mut(), |span| self.books.arena.address(span));
        let length = span.map_or(0, |span| span.length);
        self.transfers.submit(slot, Work::Transfer(Transfer { kind, descriptor, position, address, length }));
    }

    fn close_file(&mut self, token: Token, file: FileKey) {
        if self.books.files.close(file.0, token) {
            self.end_file(file, token);
        }
    }

    fn end_file(&mut self, file: FileKey, token: Token) {
        let descriptor = self.books.files.release(file.0).expect("a taken file row holds a descriptor");
        let slot = self.books.book_plain(token);
        self.jobs.submit(slot, Work::Close(descriptor));
    }

    fn job(&mut self, token: Token, job: Job) {
        let slot = self.books.book_job(token, &job);
        self.jobs.submit(slot, Work::Job(job));
    }

    fn collect_answers(&mut self) {
        while let Some((slot, answer)) = self.jobs.next().or_else(|| self.transfers.next()) {
            match answer {
                Answer::Transferred(result) => {
                    self.land(slot, result.map_err(|error| Errno::from_raw_os_error(error.0)));
                }
                Answer::Closed => self.books.end_plain(slot, Outcome::Done(0)),
                Answer::Job { outcome, opened } => {
                    for (_, file, descriptor) in opened {
                        self.books.files.install(file.0, descriptor);
                    }
                    self.books.end_job(slot, outcome);
                }
            }
        }
    }

    /// Tries what stands on a lane; it lands, or an edge will bring it back.
    fn attempt(&mut self, slot: u32) {
        let sockets = &self.books.sockets;
        let result = match &self.books.slots.at(slot).kind {
            FlightKind::Connect { socket, .. } => {
                let descriptor = sockets.descriptor(socket.0).expect("a connect is in flight on it");
                sockopt::socket_error(descriptor).and_then(|error| error).map(|()| 0)
            }
            FlightKind::Receive(_) => return self.attempt_receive(slot),
            FlightKind::Send { socket, loan } => {
                let descriptor = sockets.descriptor(socket.0).expect("a send is in flight on it");
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                rustix::net::send(descriptor, self.books.arena.bytes(loan.span()), flags)
            }
            FlightKind::SendGather { socket, gather } => {
                let descriptor = sockets.descriptor(socket.0).expect("a send is in flight on it");
                sockets::send_gather(descriptor, gather)
            }
            FlightKind::Accept { listener, socket } => {
                let (listener, socket) = (*listener, *socket);
                return self.attempt_accept(slot, listener, socket);
            }
            FlightKind::Transfer { .. } | FlightKind::Plain => panic!("slot {slot} stands on no lane"),
        };
        match result {
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => self.attempts.push(slot),
            // No send is longer than 2 GiB, the kernel's limit of one call.
            result => self.land(slot, result.map(|count| count as u32)),
        }
    }

    fn attempt_accept(&mut self, slot: u32, listener: SocketKey, socket: SocketKey) {
        let descriptor = self.books.sockets.descriptor(listener.0).expect("an accept is in flight on it");
        match rustix::net::accept_with(descriptor, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => self.attempts.push(slot),
            Err(error) => self.land(slot, Err(error)),
            Ok(descriptor) => {
                let outcome = self.welcome(socket, descriptor).map_or_else(Outcome::Failed, Outcome::Address);
                self.end(slot, outcome);
            }
        }
    }

    /// Takes an accepted connection into its row.
    fn welcome(&mut self, socket: SocketKey, descriptor: OwnedFd) -> Result<SocketAddr, SystemError> {
        let peer = sockets::welcome(descriptor.as_fd())?;
        register(&self.epoll, socket, descriptor.as_fd())?;
        self.books.sockets.install(socket.0, descriptor);
        Ok(peer)
    }

    fn attempt_receive(&mut self, slot: u32) {
        loop {
            let FlightKind::Receive(receive) = &mut self.books.slots.at(slot).kind else {
                panic!("slot {slot}: no receive")
            };
            let (missing, socket, fill) = (receive.missing(), receive.socket.0, receive.fill);
            let set = *self.books.sockets.low_water_bytes(socket);
            let descriptor = self.books.sockets.descriptor(socket).expect("a receive is in flight on it");
            // SAFETY: the span is lent to this receive for writing, so no other reference into it exists.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(self.books.arena.address(missing), missing.length as usize)
            };
            match rustix::net::recv(descriptor, bytes, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    receive.received += count as u32;
                    if count == 0 || !fill || receive.missing().length == 0 {
                        return self.land(slot, Ok(0));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mark = sockets::low_water(missing.length, fill, set);
                    if mark != set {
                        // Lowering the mark below what has arrived raises the edge at once, so none is missed.
                        if let Err(error) = sockets::set_low_water(descriptor, mark) {
                            return self.land(slot, Err(Errno::from_raw_os_error(error.0)));
                        }
                        *self.books.sockets.low_water_bytes(socket) = mark;
                    }
                    return;
                }
                Err(error) => return self.land(slot, Err(error)),
            }
        }
    }

    fn land(&mut self, slot: u32, result: Result<u32, Errno>) {
        self.end(slot, result.map_or_else(|error| Outcome::Failed(error.into()), Outcome::Done));
    }

    fn end(&mut self, slot: u32, outcome: Outcome) {
        for ending in self.books.end(slot, outcome).into_iter().flatten() {
            match ending {
                Ending::Socket { socket, close } => self.end_socket(socket, close),
                Ending::File { file, close } => self.end_file(file, close),
            }
        }
    }

    /// Sleeps until an edge, and turns edges into attempts. True when somebody woke us.
    fn poll(&mut self, until: Option<u64>) -> Result<bool, EngineError> {
        let nanoseconds = until.map(|until| until.saturating_sub(clock::monotonic_nanoseconds()));
        let timeout = nanoseconds.map(|nanoseconds| Timespec {
            tv_sec: (nanoseconds / 1_000_000_000) as i64,
            tv_nsec: (nanoseconds % 1_000_000_000) as i64,
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(EngineError::Call { call: "epoll_wait", error: SystemError::from(error) });
            }
        }
        let mut woken = false;
        for event in &self.events {
            let key = event.data.u64();
            if key == WAKE {
                woken |= self.waker.take();
                continue;
            }
            let ended = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
            for (lane, edge) in [
                (Lane::Connect, epoll::EventFlags::OUT | ended),
                (Lane::Receive, epoll::EventFlags::IN | epoll::EventFlags::RDHUP | ended),
                (Lane::Send, epoll::EventFlags::OUT | ended),
                (Lane::Accept, epoll::EventFlags::IN | ended),
            ] {
                // The event's structure is packed, so the field is copied before it is looked at.
                let flags = event.flags;
                if flags.intersects(edge) {
                    self.attempts.extend(self.books.sockets.lane(key as u32, lane));
                }
            }
        }
        Ok(woken)
    }

    fn work_off_attempts(&mut self) {
        let mut attempts = std::mem::take(&mut self.attempts);
        // An edge and a submit may both have listed a slot; the second attempt would find it gone.
        attempts.sort_unstable();
        attempts.dedup();
        for slot in attempts.drain(..) {
            self.attempt(slot);
        }
        if self.attempts.is_empty() {
            self.attempts = attempts;
        }
    }
}

/// Registers a socket once, for every edge it may ever have.
fn register(epoll: &OwnedFd, socket: SocketKey, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags =
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    epoll::add(epoll, descriptor, epoll::EventData::new_u64(u64::from(socket.0)), flags)
}

impl Engine for EpollEngine {
    fn now(&self) -> u64 {
        clock::monotonic_nanoseconds()
    }

    fn wall_clock_ms(&self) -> i64 {
        clock::wall_clock_ms()
    }

    fn submit(&mut self, token: Token, operation: Operation) {
        self.books.submitted();
        match operation {
            Operation::Connect { socket, address } => self.connect(token, socket, address),
            Operation::Receive { socket, into, fill } => self.receive(token, socket, into, fill),
            Operation::Send { socket, from } => self.send(token, socket, from),
            Operation::SendGather { socket, spans } => self.send_gather(token, socket, &spans),
            Operation::Listen { listener, address } => self.listen(token, listener, address),
            Operation::Accept { listener, socket } => self.accept(token, listener, socket),
            Operation::CloseSocket { socket } => self.close_socket(token, socket),
            Operation::Write { file, position, from } => {
                self.transfer(token, file, position, TransferKind::Write, Some(from));
            }
            Operation::Read { file, position, into } => {
                self.transfer(token, file, position, TransferKind::Read, Some(into));
            }
            Operation::Sync { file } => self.transfer(token, file, 0, TransferKind::Sync, None),
            Operation::CloseFile { file } => self.close_file(token, file),
            Operation::Job(job) => self.job(token, job),
        }
    }

    fn wait(&mut self, until: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), EngineError> {
        let mut woken = false;
        loop {
            self.work_off_attempts();
            // Past already: only look.
            let sleep_until =
                if !self.books.has_ready() && self.attempts.is_empty() { until } else { Some(0) };
            woken |= self.poll(sleep_until)?;
            self.work_off_attempts();
            self.collect_answers();
            let over = until.is_some_and(|until| until <= clock::monotonic_nanoseconds());
            if woken || over || self.books.has_ready() {
                break;
            }
        }
        self.books.deliver(completions);
        Ok(())
    }

    fn arena(&self) -> &Arena {
        &self.books.arena
    }

    fn arena_mut(&mut self) -> &mut Arena {
        &mut self.books.arena
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn in_flight(&self) -> usize {
        self.books.outstanding()
    }
}
