//! A lane's socket: connecting, sending requests piece by piece, and the scratch its answers begin in.

use super::Shard;
use super::lane_security::{LaneSecurity, transport_fault};
use super::operations::Pending;
use super::receive::Step;
use crate::pool::{Class, SLAB_BYTES};
use crate::security::SecurityProtocol;
use crate::transport::RECORD_PLAINTEXT_BYTES;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use twinlog_io::Engine;
use twinlog_io::{Operation, SocketKey, Span, SystemError};
use twinlog_log_segment::walk::BatchWalk;
use twinlog_sync::Nanoseconds;
use twinlog_sync::credits::Memory;
use twinlog_sync::fault::Fault;
use twinlog_sync::guest::read_through::Provider;
use twinlog_sync::lane::{Action, Lane, LaneFault, State};
use twinlog_sync::partition::RecordsOutcome;

/// The records field being received.
pub(super) struct Current {
    pub slot: u32,
    pub outcome: RecordsOutcome,
    /// The rest of the field is consumed and thrown away.
    pub discard: bool,
    /// Why a batch of it was refused.
    pub refused: Option<Fault>,
}

/// Why nothing is being received although an answer is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    No,
    /// The pool is empty.
    Memory,
    /// A block is being read back, a segment is closing, or the disk is full.
    Partition(u32),
}

/// One lane and its socket.
pub(super) struct LaneIo {
    pub lane: Lane,
    pub address: Option<SocketAddr>,
    /// The broker's name, which its certificate is for.
    pub host: Arc<str>,
    pub socket: Option<SocketKey>,
    pub security: LaneSecurity,
    pub scratch: Option<Span>,
    /// Received and not yet consumed bytes of the scratch.
    pub start: u32,
    pub end: u32,
    /// The request's buffer, what of it the socket has not accepted yet, and how much of the request was put there.
    send: Option<Span>,
    unsent: Option<Span>,
    staged: usize,
    pub receiving: bool,
    sending: bool,
    pub walk: BatchWalk,
    /// The topic of the answer that is being read, where it is one of ours.
    pub topic: Option<u32>,
    pub current: Option<Current>,
    pub stall: Stall,
    pub granted_received: u64,
    /// Answers carry large fields: ask the socket for heads only, so that fields are received in place.
    pub bulk: bool,
    waits_for_credit: bool,
    /// It serves followers below what is held, and feeds no log.
    pub reads_from: Option<Provider>,
}

impl LaneIo {
    pub fn new(lane: Lane, batch_bytes_max: u32) -> Self {
        Self {
            lane,
            address: None,
            host: Arc::from(""),
            socket: None,
            security: LaneSecurity::default(),
            scratch: None,
            start: 0,
            end: 0,
            send: None,
            unsent: None,
            staged: 0,
            receiving: false,
            sending: false,
            walk: BatchWalk::new(batch_bytes_max),
            topic: None,
            current: None,
            stall: Stall::No,
            granted_received: 0,
            bulk: false,
            waits_for_credit: false,
            reads_from: None,
        }
    }

    pub fn waits_for_credit(&self) -> bool {
        self.waits_for_credit
    }

    /// The unconsumed part of the scratch.
    pub fn arrived(&self) -> Span {
        let scratch = self.scratch.expect("bytes arrive in a scratch");
        Span { start: scratch.start + u64::from(self.start), length: self.end - self.start }
    }

    pub fn consume(&mut self, bytes: u32) {
        self.start += bytes;
        assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn forget_answer(&mut self) {
        (self.start, self.end) = (0, 0);
        self.topic = None;
        self.stall = Stall::No;
        self.walk.reset();
    }
}

impl<E: Engine> Shard<E> {
    /// Gives every lane its chance: deadlines, new connections, fetches, and stalls that are over.
    pub(super) fn tend_lanes(&mut self, now: Nanoseconds) {
        for index in 0..self.lanes.len() as u32 {
            if !self.is_quiet_for(index) {
                self.lanes[index as usize].lane.tick(now);
            }
            self.route_lane(index);
            if self.lanes[index as usize].stall != Stall::No {
                self.advance_lane(index);
            }
            self.fetch_if_ready(index, now);
        }
    }

    pub(super) fn fetch_if_ready(&mut self, index: u32, now: Nanoseconds) {
        let quiet = self.is_quiet_for(index);
        if !quiet && self.renew_if_due(index, now) {
            return;
        }
        let lane = &mut self.lanes[index as usize];
        lane.waits_for_credit = false;
        let Some(wanted) = lane.lane.wants_to_fetch() else { return };
        if quiet {
            return;
        }
        let resting = self.warm_order.len() as u64 * u64::from(SLAB_BYTES);
        let (size, free, is_writing) =
            (self.pool.size_bytes(), self.pool.free_bytes(), self.operations.are_writing());
        let memory = Memory { size, free, resting, is_writing };
        match self.credits.reserve(now, lane.lane.kind, wanted, memory) {
            Some(granted) => {
                lane.granted_received = 0;
                lane.lane.fetch(now, granted);
                self.counters.fetches.fetch_add(1, Ordering::Relaxed);
                self.route_lane(index);
            }
            None => {
                lane.waits_for_credit = true;
                self.make_room();
            }
        }
    }

    /// Carries out what the lane's machine asks for.
    pub(super) fn route_lane(&mut self, index: u32) {
        while let Some(action) = self.lanes[index as usize].lane.poll() {
            match action {
                Action::Connect => self.connect(index),
                Action::Secure => self.secure_lane(index),
                Action::Send => self.send_request(index),
                Action::Close => self.close_lane(index),
            }
        }
    }

    fn connect(&mut self, index: u32) {
        let LaneIo { lane: Lane { broker, .. }, reads_from, .. } = &self.lanes[index as usize];
        let broker = *broker;
        let server = match *reads_from {
            Some(Provider::Follower(follower)) => self.follower_address(follower),
            Some(Provider::Source) | None => self.brokers.get(&broker).cloned(),
        };
        let Some((address, host)) = server else {
            return self.lanes[index as usize].lane.failed(LaneFault::Moved);
        };
        let has_memory = match self.prepare_tls(index, &host) {
            Ok(has_memory) => has_memory,
            Err(fault) => return self.lanes[index as usize].lane.failed(fault),
        };
        let Some(socket) = self.free_sockets.pop() else {
            return self.lanes[index as usize].lane.failed(LaneFault::Moved);
        };
        let lane = &mut self.lanes[index as usize];
        if has_memory {
            lane.scratch = lane.scratch.or_else(|| self.pool.take(Class::Scratch));
            lane.send = lane.send.or_else(|| self.pool.take(Class::Small));
        }
        (lane.address, lane.host) = (Some(address), host);
        lane.socket = Some(socket);
        if lane.scratch.is_none() || lane.send.is_none() {
            // Tried again after a pause, when memory has come back.
            self.make_room();
        }
        self.submit(Pending::Connect { lane: index }, Operation::Connect { socket, address });
    }

    pub(super) fn connect_done(&mut self, index: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let secure = self.security_of(index).protocol() != SecurityProtocol::Plaintext;
        let lane = &mut self.lanes[index as usize];
        match result {
            Ok(_) if lane.scratch.is_some() && lane.send.is_some() => lane.lane.connected(now, secure),
            Ok(_) => lane.lane.failed(LaneFault::TimedOut),
            Err(error) => lane.lane.failed(LaneFault::Network(error.0)),
        }
        self.route_lane(index);
    }

    /// Sends the whole of the lane's `outgoing`, and receives what is answered.
    pub(super) fn send_request(&mut self, index: u32) {
        self.lanes[index as usize].staged = 0;
        self.send_piece(index);
        // Nothing can be answered yet; what a peer says unasked is looked at with its answer.
        if let Step::Again = self.receive_more(index) {
            self.advance_lane(index);
        }
    }

    /// Sends the next piece of what there is to say, if nothing is being sent.
    pub(super) fn send_piece(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        let (Some(buffer), Some(socket), false) = (lane.send, lane.socket, lane.sending) else { return };
        let arena = self.engine.arena_mut();
        let rest = &lane.lane.outgoing[lane.staged.min(lane.lane.outgoing.len())..];
        let span = match (lane.unsent.take(), &mut lane.security.tls) {
            (Some(unsent), _) => unsent,
            (None, Some(tls)) => match tls.stage(arena, rest, buffer) {
                Ok(staged) => {
                    lane.staged += staged.taken as usize;
                    Span { start: buffer.start, length: staged.written }
                }
                Err(error) => return lane.lane.failed(transport_fault(error)),
            },
            (None, None) => {
                let length = rest.len().min(buffer.length as usize);
                let span = Span { start: buffer.start, length: length as u32 };
                arena.bytes_mut(span).copy_from_slice(&rest[..length]);
                lane.staged += length;
                span
            }
        };
        if span.length > 0 {
            lane.sending = true;
            self.submit(Pending::Send { lane: index, span }, Operation::Send { socket, from: span });
        }
    }

    pub(super) fn send_done(&mut self, index: u32, span: Span, result: Result<u32, SystemError>) {
        let lane = &mut self.lanes[index as usize];
        lane.sending = false;
        match result {
            Ok(sent) => {
                lane.unsent = (sent < span.length).then(|| span.after(sent));
                if !matches!(lane.lane.state(), State::Closing) {
                    self.send_piece(index);
                }
            }
            Err(error) => lane.lane.failed(LaneFault::Network(error.0)),
        }
        self.route_lane(index);
    }

    /// Gets more of an answer into the scratch: what is decrypted at once, or the next piece from the socket.
    pub(super) fn receive_more(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let (Some(scratch), Some(socket)) = (lane.scratch, lane.socket) else { return Step::Wait };
        if lane.receiving || matches!(lane.lane.state(), State::Closing) {
            return Step::Wait;
        }
        if lane.start > 0 {
            let kept = lane.arrived();
            self.engine.arena_mut().copy_within(kept, scratch.start);
            (lane.start, lane.end) = (0, kept.length);
        }
        if lane.security.tls.is_some() {
            let room = scratch.after(lane.end);
            assert!(
                room.length as usize >= RECORD_PLAINTEXT_BYTES,
                "the decoder left a full scratch unconsumed"
            );
            return self.receive_ciphertext(index, room);
        }
        // A head is far below 4 KiB; what comes with it of a large field is copied once.
        let wanted = if lane.bulk { Class::Block.bytes() } else { scratch.length };
        let length = wanted.max(lane.end + 1024).min(scratch.length) - lane.end;
        assert!(length > 0, "the decoder left a full scratch unconsumed");
        let into = Span { start: scratch.start + u64::from(lane.end), length };
        lane.receiving = true;
        self.submit(
            Pending::ReceiveScratch { lane: index },
            Operation::Receive { socket, into, fill: false },
        );
        Step::Wait
    }

    pub(super) fn scratch_received(&mut self, index: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        lane.receiving = false;
        if lane.security.tls.is_some() {
            return self.ciphertext_received(index, result);
        }
        match result {
            Ok(0) => lane.lane.failed(LaneFault::PeerClosed),
            Ok(bytes) => {
                lane.end += bytes;
                lane.granted_received += u64::from(bytes);
                lane.lane.progressed(now);
                self.counters.received_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
            }
            Err(error) => lane.lane.failed(LaneFault::Network(error.0)),
        }
        self.advance_lane(index);
    }

    fn close_lane(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        let granted = lane.lane.take_granted();
        self.credits.settle(lane.lane.kind, granted, lane.granted_received.min(granted));
        if let Some(fault) = lane.lane.last_fault()
            && !matches!(lane.reads_from, Some(Provider::Follower(_)))
            && *fault != LaneFault::Ended
        {
            let (broker, kind, fault) = (lane.lane.broker, lane.lane.kind, fault.clone());
            self.events.push_back(super::mailbox::Event::LaneFailed { broker, kind, fault });
        }
        match self.lanes[index as usize].socket {
            Some(socket) => {
                self.say_goodbye(index);
                self.submit(Pending::CloseSocket { lane: index }, Operation::CloseSocket { socket })
            }
            None => self.socket_closed(index),
        }
    }

    pub(super) fn socket_closed(&mut self, index: u32) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        assert!(!lane.receiving && !lane.sending, "a socket closes after its other operations");
        if let Some(socket) = lane.socket.take() {
            self.free_sockets.push(socket);
        }
        if let Some(current) = lane.current.take()
            && let Some(Some(slot)) = self.slots.get_mut(current.slot as usize)
        {
            slot.log.active.writer.drop_unverified(&mut self.pool);
        }
        let lane = &mut self.lanes[index as usize];
        lane.forget_answer();
        (lane.unsent, lane.staged) = (None, 0);
        for span in [lane.scratch.take(), lane.send.take()].into_iter().flatten() {
            self.pool.give(span);
        }
        let ended = lane.lane.last_fault() == Some(&LaneFault::Ended);
        lane.lane.closed(now);
        if !ended {
            self.return_to_leaders(index);
        }
        self.forget_security(index);
        self.read_lane_closed(index);
    }
}
