//! The io_uring engine: the loop that every record byte of the product passes through.
//!
//! Owns: the ring, its tables of descriptors and buffers, and (in the books) the operations in flight. It must never block outside
//! [`Engine::wait`], copy a byte, or know what the bytes mean.
//!
//! ```text
//!             submit(token, operation)                         wait(until, completions)
//!                     |                                                  ^
//!    books: lend span | Flight{token, loan} -> slot                      | books: give the loan back, free the slot
//!                     v                                                  |
//!    backlog --> submission queue =====io_uring_enter=====> kernel ===> completion queue
//!                                        (one call flushes                 |  a short receive that should fill
//!                                         and waits)                       '--> goes back with the rest of its span
//!
//!    Job, close of a file --> helper thread --> answer + wake ------------------^
//! ```
//!
//! Who owns a buffer when: before submit the caller; from submit until the completion is delivered the kernel, and the
//! loan in the slot makes every other use assert; from then on the caller again. A flight of the kernel leaves its slot
//! in one place only, [`RingEngine::land`], on the kernel's word that it is done.
//!
//! Invariants: those of the books ([`Books`]), and one completion-queue entry per slot. On drop everything is cancelled
//! and awaited. If the kernel does not let go in time (a dead disk), the arena's memory is leaked rather than freed
//! under it.

use crate::arena::{Access, Arena};
use crate::books::{Books, Ending};
use crate::buffers::Buffers;
use crate::clock;
use crate::disk::Job;
use crate::engine::{Engine, EngineError, EngineOptions, EngineReport};
use crate::flight::{Flight, FlightKind};
use crate::helper::{Answer, Helper, Work};
use crate::operation::{Completion, FileKey, Operation, Outcome, SocketKey, Span, SystemError, Token};
use crate::ring_setup::{self, PreparedRing};
use crate::sockets;
use crate::wake::Waker;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::net::{Shutdown, SocketFlags};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `user_data` of entries that are not operations; slots are 32 bits wide.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// IORING_RECVSEND_POLL_FIRST: wait for the socket before the first attempt.
const POLL_FIRST: u16 = 1;

/// WAITALL: the kernel itself resumes a short send. NOSIGNAL: a gone peer is an answer, not a SIGPIPE.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// How long a drop waits for the kernel to let go of the arena before it is leaked. Longer only delays the
/// exit of a process whose disk is dead.
const DRAIN_NANOSECONDS_MAX: u64 = 5_000_000_000;

/// See the file's header.
pub struct RingEngine {
    ring: IoUring,
    /// Dropped after the ring: they hold the memory it works in.
    books: Books,
    /// Entries that did not fit in the submission queue yet, in order.
    backlog: VecDeque<squeue::Entry>,
    helper: Helper,
    waker: Waker,
    /// The engine is being dropped: nothing is resumed.
    draining: bool,
    /// Row of the first file in the registered table; `None` = plain descriptors.
    first_file_row: Option<u32>,
    buffers: Buffers,
    poll_first: bool,
    enter_flags: EnterFlags,
    receive_buffer_bytes: Option<u32>,
    /// The kernel accepts one issuing thread per ring.
    not_send: PhantomData<*const ()>,
}

impl RingEngine {
    /// Opens the engine on the thread that will use it.
    pub fn open(options: &EngineOptions) -> Result<(RingEngine, EngineReport), EngineError> {
        let arena = Arena::new(options.arena_bytes)
            .map_err(|error| EngineError::Arena { bytes: options.arena_bytes, error })?;
        let prepared = ring_setup::prepare(options, &arena)?;
        let PreparedRing { ring, buffers, report, files_registered } = prepared;
        let waker = Waker::new().map_err(|error| EngineError::Call { call: "eventfd", error })?;
        let mapping = arena.mapping().clone();
        let helper = Helper::start("twinlog-files", &options.helper_cores, waker.clone(), mapping)?;
        let mut enter_flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        // Sleeping in a ring is no disk wait: it would show as load and raise the clock frequency.
        enter_flags.set(EnterFlags::NO_IOWAIT, ring.params().is_feature_no_iowait());
        let mut engine = RingEngine {
            backlog: VecDeque::with_capacity(options.queue_entries as usize),
            draining: false,
            first_file_row: files_registered.then_some(options.sockets_max),
            buffers,
            receive_buffer_bytes: options.receive_buffer_bytes,
            not_send: PhantomData,
            books: Books::new(options, arena),
            ring,
            helper,
            waker,
            // RECV can be told to wait for the socket first since 5.19, as there are sparse tables.
            poll_first: files_registered,
            enter_flags,
        };
        engine.listen_for_wakes();
        Ok((engine, report))
    }

    fn connect(&mut self, token: Token, socket: SocketKey, address: SocketAddr) {
        self.books.sockets.take(socket.0);
        let created = sockets::create(address, self.receive_buffer_bytes, SocketFlags::empty());
        if let Err(error) = created.and_then(|descriptor| self.install(socket, descriptor)) {
            return self.books.answer(token, Outcome::Failed(error));
        }
        let slot = self.books.book_connect(token, socket, address);
        let FlightKind::Connect { address, .. } = &self.books.slots.at(slot).kind else {
            panic!("slot {slot} is no connect")
        };
        let (pointer, length) = (address.as_ptr().cast(), address.addr_len());
        self.push_on_socket(slot, socket, |target| opcode::Connect::new(target, pointer, length).build());
    }

    fn listen(&mut self, token: Token, listener: SocketKey, address: SocketAddr) {
        self.books.sockets.take(listener.0);
        let opened = sockets::listen(address, SocketFlags::empty());
        let bound = opened.and_then(|(descriptor, bound)| self.install(listener, descriptor).map(|()| bound));
        self.books.answer(token, bound.map_or_else(Outcome::Failed, Outcome::Address));
    }

    fn accept(&mut self, token: Token, listener: SocketKey, socket: SocketKey) {
        let slot = self.books.book_accept(token, listener, socket);
        self.push_accept(slot, listener);
    }

    fn push_accept(&mut self, slot: u32, listener: SocketKey) {
        let nowhere = std::ptr::null_mut();
        self.push_on_socket(slot, listener, |target| {
            opcode::Accept::new(target, nowhere, nowhere.cast()).flags(libc::SOCK_CLOEXEC).build()
        });
    }

    /// Takes an accepted connection into its row.
    fn welcome(&mut self, socket: SocketKey, descriptor: RawFd) -> Outcome {
        // SAFETY: the kernel has just made this descriptor for this accept; nobody else knows its number.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let peer = sockets::welcome(descriptor.as_fd());
        let peer = peer.and_then(|peer| self.install(socket, descriptor).map(|()| peer));
        peer.map_or_else(Outcome::Failed, Outcome::Address)
    }

    /// Gives a taken row its descriptor.
    fn install(&mut self, socket: SocketKey, descriptor: OwnedFd) -> Result<(), SystemError> {
        self.register(self.socket_row(socket), descriptor.as_raw_fd())?;
        self.books.sockets.install(socket.0, descriptor);
        Ok(())
    }

    fn receive(&mut self, token: Token, socket: SocketKey, into: Span, fill: bool) {
        let slot = self.books.book_receive(token, socket, into, fill);
        self.push_receive(slot);
    }

    /// Asks for what is missing of a receive. A large one waits for the socket first, with a low-water mark, and comes
    /// back as soon as the mark is reached; a small one lets the kernel wait for all of it.
    fn push_receive(&mut self, slot: u32) {
        let FlightKind::Receive(receive) = &self.books.slots.at(slot).kind else {
            panic!("slot {slot} is no receive")
        };
        let (socket, missing, fill) = (receive.socket, receive.missing(), receive.fill);
        let set = *self.books.sockets.low_water_bytes(socket.0);
        let mark = sockets::low_water(missing.length, fill && self.poll_first, set);
        if mark != set {
            let descriptor = self.books.sockets.descriptor(socket.0).expect("a receive is in flight on it");
            if let Err(error) = sockets::set_low_water(descriptor, mark) {
                // A mark we do not know could be above what is missing: never wait on it.
                return self.land(slot, -error.0);
            }
            *self.books.sockets.low_water_bytes(socket.0) = mark;
        }
        let address = self.books.arena.address(missing);
        let (priority, flags) = match (fill, mark) {
            (true, 1) => (0, libc::MSG_WAITALL),
            (true, _) => (POLL_FIRST, 0),
            (false, _) => (0, 0),
        };
        self.push_on_socket(slot, socket, |target| {
            opcode::Recv::new(target, address, missing.length).ioprio(priority).flags(flags).build()
        });
    }

    fn send(&mut self, token: Token, socket: SocketKey, from: Span) {
        let slot = self.books.book_send(token, socket, from);
        let address = self.books.arena.address(from);
        self.push_on_socket(slot, socket, |target| {
            opcode::Send::new(target, address, from.length).flags(SEND_FLAGS).build()
        });
    }

    fn send_gather(&mut self, token: Token, socket: SocketKey, spans: &[Span]) {
        let slot = self.books.book_send_gather(token, socket, spans);
        let FlightKind::SendGather { gather, .. } = &self.books.slots.at(slot).kind else {
            panic!("slot {slot} is no gather")
        };
        let header = gather.header();
        self.push_on_socket(slot, socket, |target| {
            opcode::SendMsg::new(target, header).flags(SEND_FLAGS as u32).build()
        });
    }

    fn close_socket(&mut self, token: Token, socket: SocketKey) {
        if self.books.sockets.close(socket.0, token) {
            return self.end_socket(socket, token);
        }
        // Shutdown ends what the kernel already works on, cancel what it only waits with.
        if let Some(descriptor) = self.books.sockets.descriptor(socket.0) {
            let _ = rustix::net::shutdown(descriptor, Shutdown::Both);
        }
        self.books.sockets.lanes(socket.0).into_iter().flatten().for_each(|slot| self.push_cancel(slot));
    }

    fn end_socket(&mut self, socket: SocketKey, token: Token) {
        if let Some(descriptor) = self.books.sockets.release(socket.0) {
            self.unregister(self.socket_row(socket));
            drop(descriptor);
        }
        self.books.answer(token, Outcome::Done(0));
    }

    fn write(&mut self, token: Token, file: FileKey, position: u64, from: Span) {
        let slot = self.books.book_transfer(token, file, Some((from, Access::KernelReads)));
        let (address, fixed) = (self.books.arena.address(from), self.fixed_buffer(from));
        self.push_on_file(slot, file, |target| match fixed {
            Some(index) => {
                opcode::WriteFixed::new(target, address, from.length, index).offset(position).build()
            }
            None => opcode::Write::new(target, address, from.length).offset(position).build(),
        });
    }

    fn read(&mut self, token: Token, file: FileKey, position: u64, into: Span) {
        let slot = self.books.book_transfer(token, file, Some((into, Access::KernelWrites)));
        let (address, fixed) = (self.books.arena.address(into), self.fixed_buffer(into));
        self.push_on_file(slot, file, |target| match fixed {
            Some(index) => {
                opcode::ReadFixed::new(target, address, into.length, index).offset(position).build()
            }
            None => opcode::Read::new(target, address, into.length).offset(position).build(),
        });
    }

    fn sync(&mut self, token: Token, file: FileKey) {
        let slot = self.books.book_transfer(token, file, None);
        self.push_on_file(slot, file, |target| {
            opcode::Fsync::new(target).flags(FsyncFlags::DATASYNC).build()
        });
    }

    fn close_file(&mut self, token: Token, file: FileKey) {
        if self.books.files.close(file.0, token) {
            self.end_file(file, token);
        }
    }

    fn end_file(&mut self, file: FileKey, token: Token) {
        let descriptor = self.books.files.release(file.0).expect("a taken file row holds a descriptor");
        self.unregister(self.file_row(file));
        let slot = self.books.book_plain(token);
        self.helper.submit(slot, Work::Close(descriptor));
    }

    fn job(&mut self, token: Token, job: Job) {
        let slot = self.books.book_job(token, &job);
        self.helper.submit(slot, Work::Job(job));
    }

    /// Takes the helper's answers over: files opened by a job get their rows here, on the shard's thread.
    fn collect_answers(&mut self) {
        while let Some((slot, answer)) = self.helper.next() {
            match answer {
                Answer::Closed => self.books.end_plain(slot, Outcome::Done(0)),
                Answer::Transferred(_) => panic!("the ring asks its helper for no transfers"),
                Answer::Job { mut outcome, opened } => {
                    for (step, file, descriptor) in opened {
                        match self.register(self.file_row(file), descriptor.as_raw_fd()) {
                            Ok(()) => self.books.files.install(file.0, descriptor),
                            Err(error) => outcome.fail(step, error),
                        }
                    }
                    self.books.end_job(slot, outcome);
                }
            }
        }
    }

    /// The kernel is done with a slot. What was interrupted, and a receive that should fill, goes back; all else ends.
    fn land(&mut self, slot: u32, result: i32) {
        let interrupted = result == -libc::EINTR || result == -libc::EAGAIN;
        let outcome = match &mut self.books.slots.at(slot).kind {
            FlightKind::Receive(receive) => {
                receive.received += u32::try_from(result).unwrap_or(0);
                let partial = result > 0 && receive.fill && receive.missing().length > 0;
                let socket = receive.socket;
                if (interrupted || partial) && self.goes_on(socket) {
                    return self.push_receive(slot);
                }
                outcome_of(result)
            }
            FlightKind::Accept { listener, socket } => {
                let (listener, socket) = (*listener, *socket);
                if interrupted && self.goes_on(listener) && self.goes_on(socket) {
                    return self.push_accept(slot, listener);
                }
                if result < 0 { outcome_of(result) } else { self.welcome(socket, result) }
            }
            // Nothing sent yet, nothing wrong: a short operation, which the caller resumes.
            FlightKind::Send { .. } | FlightKind::SendGather { .. } if interrupted => Outcome::Done(0),
            _ => outcome_of(result),
        };
        for ending in self.books.end(slot, outcome).into_iter().flatten() {
            match ending {
                Ending::Socket { socket, close } => self.end_socket(socket, close),
                Ending::File { file, close } => self.end_file(file, close),
            }
        }
    }

    fn goes_on(&self, socket: SocketKey) -> bool {
        !self.draining && !self.books.sockets.is_closing(socket.0)
    }

    fn fixed_buffer(&mut self, span: Span) -> Option<u16> {
        self.buffers.index(&self.ring, &self.books.arena, span)
    }

    fn socket_row(&self, socket: SocketKey) -> u32 {
        socket.0
    }

    fn file_row(&self, file: FileKey) -> u32 {
        self.first_file_row.unwrap_or(0) + file.0
    }

    fn register(&self, row: u32, descriptor: RawFd) -> Result<(), SystemError> {
        if self.first_file_row.is_none() {
            return Ok(());
        }
        let updated = self.ring.submitter().register_files_update(row, &[descriptor]);
        updated.map(drop).map_err(|error| SystemError::from_std(&error))
    }

    fn unregister(&self, row: u32) {
        // Setting a row to -1 cannot fail for want of anything; if it did, the next register of the row overwrites it.
        let _ = self.register(row, -1);
    }

    fn push_on_socket(&mut self, slot: u32, socket: SocketKey, entry: impl FnOnce(Fd) -> squeue::Entry) {
        let descriptor = self.books.sockets.descriptor(socket.0).expect("started only on an open socket");
        self.push(slot, self.socket_row(socket), descriptor.as_raw_fd(), entry);
    }

    fn push_on_file(&mut self, slot: u32, file: FileKey, entry: impl FnOnce(Fd) -> squeue::Entry) {
        let descriptor = self.books.files.descriptor(file.0).expect("started only on an open file");
        self.push(slot, self.file_row(file), descriptor.as_raw_fd(), entry);
    }

    /// Queues the entry of a flight, addressed through the registered table where there is one.
    fn push(&mut self, slot: u32, row: u32, descriptor: RawFd, entry: impl FnOnce(Fd) -> squeue::Entry) {
        let entry = match self.first_file_row {
            // `Fixed(row)` in the crate's words: the same field with this flag.
            Some(_) => entry(Fd(row as RawFd)).flags(squeue::Flags::FIXED_FILE),
            None => entry(Fd(descriptor)),
        };
        self.queue(entry.user_data(u64::from(slot)));
    }

    fn push_cancel(&mut self, slot: u32) {
        self.queue(opcode::AsyncCancel::new(u64::from(slot)).build().user_data(CANCEL));
    }

    fn listen_for_wakes(&mut self) {
        let event = Fd(self.waker.descriptor().as_raw_fd());
        self.queue(opcode::PollAdd::new(event, libc::POLLIN as u32).build().user_data(WAKE));
    }

    fn queue(&mut self, entry: squeue::Entry) {
        // SAFETY: an entry points to lent spans, a boxed address or list; its slot holds them until the entry lands.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn refill_submission_queue(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `queue`; a waiting entry's slot stays taken.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// One system call: hands the queue over, runs the kernel's deferred work, and sleeps if told to.
    fn enter(&mut self, sleep: bool, until: Option<u64>) -> Result<(), EngineError> {
        let queued = self.ring.submission().len() as u32;
        let timeout_nanoseconds =
            until.map_or(0, |until| until.saturating_sub(clock::monotonic_nanoseconds()));
        let timeout = Timespec::new()
            .sec(timeout_nanoseconds / 1_000_000_000)
            .nsec((timeout_nanoseconds % 1_000_000_000) as u32);
        let arguments = match until {
            Some(_) if sleep => SubmitArgs::new().timespec(&timeout),
            _ => SubmitArgs::new(),
        };
        let flags = self.enter_flags.bits();
        // SAFETY: EXT_ARG is set and the argument is the structure it announces; the timeout lives through the call.
        let result =
            unsafe { self.ring.submitter().enter(queued, u32::from(sleep), flags, Some(&arguments)) };
        match result.map_err(|error| SystemError::from_std(&error)) {
            // ETIME: the deadline. EINTR: a signal. EBUSY: the completion queue is full, reaping it is next.
            // EAGAIN: the kernel had no memory for a request just now, the entries are still queued.
            Ok(_) | Err(SystemError(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(EngineError::Call { call: "io_uring_enter", error }),
        }
    }

    /// Lands what has completed. True when somebody woke us.
    fn reap(&mut self) -> bool {
        let mut woken = false;
        while let Some(entry) = self.next_entry() {
            match entry.user_data() {
                CANCEL => {}
                WAKE => {
                    woken |= self.waker.take();
                    self.listen_for_wakes();
                }
                slot => self.land(slot as u32, entry.result()),
            }
        }
        woken
    }

    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }
}

/// What the kernel's number means where it means nothing special.
fn outcome_of(result: i32) -> Outcome {
    u32::try_from(result).map_or(Outcome::Failed(SystemError(-result)), Outcome::Done)
}

impl Engine for RingEngine {
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
            Operation::Write { file, position, from } => self.write(token, file, position, from),
            Operation::Read { file, position, into } => self.read(token, file, position, into),
            Operation::Sync { file } => self.sync(token, file),
            Operation::CloseFile { file } => self.close_file(token, file),
            Operation::Job(job) => self.job(token, job),
        }
    }

    fn wait(&mut self, until: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), EngineError> {
        let mut woken = false;
        loop {
            self.refill_submission_queue();
            let sleep = !self.books.has_ready() && !woken && self.backlog.is_empty();
            let sleep = sleep && until.is_none_or(|until| until > clock::monotonic_nanoseconds());
            self.enter(sleep, until)?;
            woken |= self.reap();
            self.collect_answers();
            let over = until.is_some_and(|until| until <= clock::monotonic_nanoseconds());
            if self.backlog.is_empty() && (woken || over || self.books.has_ready()) {
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

impl Drop for RingEngine {
    fn drop(&mut self) {
        self.draining = true;
        let of_kernel = |(_, flight): &(u32, &Flight)| !matches!(flight.kind, FlightKind::Plain);
        let slots: Vec<u32> = self.books.slots.iter().filter(of_kernel).map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.push_cancel(slot));
        let deadline = clock::monotonic_nanoseconds() + DRAIN_NANOSECONDS_MAX;
        let mut completions = Vec::new();
        while self.books.slots.iter().any(|entry| of_kernel(&entry)) {
            let late = clock::monotonic_nanoseconds() >= deadline;
            if late || self.wait(Some(deadline), &mut completions).is_err() {
                // The kernel may still write into the arena: better lost than changing under a new owner.
                std::mem::forget(self.books.mapping.clone());
                return;
            }
            completions.clear();
        }
        // The kernel takes a ring apart in its own time; until then its table keeps every socket open and listening.
        let _ = self.ring.submitter().unregister_files();
    }
}
