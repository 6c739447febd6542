//! A lane's socket: connecting, sending requests piece by piece, and the scratch its answers begin in.

use super::Shard;
use super::operations::Pending;
use crate::pool::{Class, SLAB_BYTES};
use std::net::SocketAddr;
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
    pub socket: Option<SocketKey>,
    pub scratch: Option<Span>,
    /// Received and not yet consumed bytes of the scratch.
    pub start: u32,
    pub end: u32,
    /// The request's buffer, and how much of the request was sent.
    send: Option<Span>,
    sent: usize,
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
            socket: None,
            scratch: None,
            start: 0,
            end: 0,
            send: None,
            sent: 0,
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
        let lane = &mut self.lanes[index as usize];
        lane.waits_for_credit = false;
        let Some(wanted) = lane.lane.wants_to_fetch() else { return };
        if quiet {
            return;
        }
        let resting = self.warm_order.len() as u64 * u64::from(SLAB_BYTES);
        let memory = Memory { size: self.pool.size_bytes(), free: self.pool.free_bytes(), resting };
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
                Action::Send => self.send_request(index),
                Action::Close => self.close_lane(index),
            }
        }
    }

    fn connect(&mut self, index: u32) {
        let LaneIo { lane: Lane { broker, .. }, reads_from, .. } = &self.lanes[index as usize];
        let address = match reads_from {
            Some(Provider::Follower(follower)) => self.follower_address(*follower),
            Some(Provider::Source) | None => self.brokers.get(broker).copied(),
        };
        let Some((address, socket)) = address.and_then(|address| Some((address, self.free_sockets.pop()?)))
        else {
            self.lanes[index as usize].lane.failed(LaneFault::Moved);
            return;
        };
        let lane = &mut self.lanes[index as usize];
        lane.scratch = lane.scratch.or_else(|| self.pool.take(Class::Scratch));
        lane.send = lane.send.or_else(|| self.pool.take(Class::Small));
        lane.address = Some(address);
        lane.socket = Some(socket);
        if lane.scratch.is_none() || lane.send.is_none() {
            // Tried again after a pause, when memory has come back.
            self.make_room();
        }
        self.submit(Pending::Connect { lane: index }, Operation::Connect { socket, address });
    }

    pub(super) fn connect_done(&mut self, index: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        match result {
            Ok(_) if lane.scratch.is_some() && lane.send.is_some() => lane.lane.connected(now),
            Ok(_) => lane.lane.failed(LaneFault::TimedOut),
            Err(error) => lane.lane.failed(LaneFault::Network(error.0)),
        }
        self.route_lane(index);
    }

    fn send_request(&mut self, index: u32) {
        self.lanes[index as usize].sent = 0;
        self.send_piece(index);
        self.receive_scratch(index);
    }

    fn send_piece(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        let (Some(buffer), Some(socket)) = (lane.send, lane.socket) else { return };
        let rest = &lane.lane.outgoing[lane.sent..];
        if rest.is_empty() || lane.sending {
            return;
        }
        let length = rest.len().min(buffer.length as usize);
        let span = Span { start: buffer.start, length: length as u32 };
        self.engine.arena_mut().bytes_mut(span).copy_from_slice(&rest[..length]);
        lane.sending = true;
        self.submit(Pending::Send { lane: index, span }, Operation::Send { socket, from: span });
    }

    pub(super) fn send_done(&mut self, index: u32, span: Span, result: Result<u32, SystemError>) {
        let lane = &mut self.lanes[index as usize];
        lane.sending = false;
        match result {
            Ok(sent) => {
                assert!(sent <= span.length);
                lane.sent += sent as usize;
                if !matches!(lane.lane.state(), State::Closing) {
                    self.send_piece(index);
                }
            }
            Err(error) => {
                lane.lane.failed(LaneFault::Network(error.0));
                self.route_lane(index);
            }
        }
    }

    /// Receives the next piece of an answer into the scratch.
    pub(super) fn receive_scratch(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        let (Some(scratch), Some(socket)) = (lane.scratch, lane.socket) else { return };
        if lane.receiving || matches!(lane.lane.state(), State::Closing) {
            return;
        }
        if lane.start > 0 {
            let kept = lane.arrived();
            self.engine.arena_mut().copy_within(kept, scratch.start);
            (lane.start, lane.end) = (0, kept.length);
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
    }

    pub(super) fn scratch_received(&mut self, index: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        lane.receiving = false;
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
            && fault != LaneFault::Ended
        {
            let (broker, kind) = (lane.lane.broker, lane.lane.kind);
            self.events.push_back(super::mailbox::Event::LaneFailed { broker, kind, fault });
        }
        match self.lanes[index as usize].socket {
            Some(socket) => {
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
        for span in [lane.scratch.take(), lane.send.take()].into_iter().flatten() {
            self.pool.give(span);
        }
        lane.lane.closed(now);
        self.read_lane_closed(index);
    }
}
