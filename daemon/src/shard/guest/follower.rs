//! One connection of a follower: accepted, read frame by frame, answered in order, closed.
//!
//! ```text
//!   accept --> receive --> whole frame --> Fetch: parked until there is something to say --> send --> receive
//!                              \--> ListOffsets, OffsetForLeaderEpoch, ApiVersions ----------> send --> receive
//! ```
//! One request at a time: while one is answered nothing is received, so a follower that does not read its
//! answers costs one answer's buffers for as long as a send may stand still, and nothing more. A connection on
//! which anything is wrong is closed; a follower connects anew and asks for everything.
//!
//! Who a peer is stands in its first request. Until then it is unproven: it must come from where some broker is
//! registered, or pass a handshake, of which one address may begin so many at a time; all unproven ones together
//! hold a bounded number of bytes, and the oldest of the address with most of them makes room when there is none for
//! the next. So strangers can neither use up memory nor keep a follower out.

use super::super::Shard;
use super::super::mailbox::{Event, FollowerRefusal};
use super::super::operations::Pending;
use super::cold::{Cold, Walk};
use super::follower_security::{FollowerSecurity, UNPROVEN_REQUEST_BYTES_MAX};
use super::send::Outgoing;
use super::{FOLLOWERS_MAX, Listener};
use crate::pool::Class;
use crate::security::SecurityProtocol;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use twinlog_io::{Engine, Operation, SocketKey, Span, SystemError};
use twinlog_sync::guest::follower_session::FollowerSession;
use twinlog_sync::wire::follower_request::{Request, frame_length, read_request};
use twinlog_sync::wire::follower_response::write_api_versions;
use twinlog_sync::{Nanoseconds, SECOND};

/// A request that began must end within this time. Raised, a peer that sends half a frame holds a
/// connection for longer.
const FRAME_NS: Nanoseconds = 30 * SECOND;
/// How long a peer may take until it has asked as a broker. Raised, a silent one holds its buffer for longer.
const PROOF_NS: Nanoseconds = 30 * SECOND;
/// How long a send may stand still: as long as a follower waits for an answer. Raised, one that hangs holds the
/// images of its answer for longer.
const SEND_NS: Nanoseconds = 30 * SECOND;
/// How often those two are looked for.
const SILENT_LOOK_NS: Nanoseconds = SECOND;
/// Bytes of requests that unproven peers may have sent of in all. The first request of a broker lists all of its
/// partitions, some 70 bytes each: lowered, several brokers with tens of thousands could not begin together.
const UNPROVEN_BYTES_MAX: usize = 16 << 20;
/// What an unproven connection may hold of the shard's memory: its scratch, its ciphertext and an answer.
const UNPROVEN_SPANS_BYTES: u64 = 3 * Class::Scratch.bytes() as u64;
/// Unproven connections that are let in however small the memory. Lowered, a flood closes a follower before the two
/// round trips of its handshake are over.
const UNPROVEN_MIN: usize = 8;
/// Refusals that may wait for the control core. Raised, a flood while it is busy holds more memory; those beyond it
/// are closed without a line in the log.
const REFUSALS_WAITING_MAX: usize = 1_024;
/// How long a listener rests after a failed accept (out of descriptors): without it the loop would spin.
const ACCEPT_PAUSE_NS: Nanoseconds = SECOND / 10;
/// ref: KIP-35
const API_VERSIONS: i16 = 18;

/// A Fetch that waits for something to say.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Parked {
    pub correlation_id: i32,
    pub until: Nanoseconds,
    pub bytes_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Accepting,
    Open,
    Closing,
}

/// See the file's header.
pub(in crate::shard) struct FollowerIo {
    pub guest: i32,
    pub socket: SocketKey,
    peer: Option<SocketAddr>,
    state: State,
    close_submitted: bool,
    /// The socket is closed; a read of a file may still be under way.
    pub closed: bool,
    /// Where requests are received.
    pub scratch: Option<Span>,
    /// The frame that is arriving, its length included.
    pub frame: Vec<u8>,
    frame_deadline: Option<Nanoseconds>,
    pub session: FollowerSession,
    accepted_at: Nanoseconds,
    /// It has asked as a broker.
    proven: bool,
    /// Broker id and epoch of the last Fetch.
    pub replica: Option<(i32, i64)>,
    pub parked: Option<Parked>,
    pub outgoing: Outgoing,
    pub cold: Cold,
    pub walks: Vec<Walk>,
    pub receiving: bool,
    pub security: FollowerSecurity,
    timer: Option<Nanoseconds>,
}

impl FollowerIo {
    fn new(guest: i32, socket: SocketKey) -> Self {
        Self {
            guest,
            socket,
            peer: None,
            state: State::Accepting,
            close_submitted: false,
            closed: false,
            scratch: None,
            frame: Vec::new(),
            frame_deadline: None,
            session: FollowerSession::default(),
            accepted_at: 0,
            proven: false,
            replica: None,
            parked: None,
            outgoing: Outgoing::default(),
            cold: Cold::default(),
            walks: Vec::new(),
            receiving: false,
            security: FollowerSecurity::default(),
            timer: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it is one of those that are closed when others need their place.
    fn is_unproven(&self) -> bool {
        self.is_open() && !self.proven && self.security.principal.is_none()
    }

    /// Whether an answer under way has records of this slot, or a place in it is being looked for.
    pub fn is_sending_from(&self, slot: u32) -> bool {
        self.outgoing.has_records_of(slot)
            || self.cold.reads(slot)
            || self.walks.iter().any(|walk| walk.slot == slot)
    }

    pub fn unproven_bytes(&self) -> usize {
        if self.proven { 0 } else { self.frame.capacity() }
    }

    fn is_busy(&self) -> bool {
        self.receiving || self.outgoing.sending || self.cold.reading
    }
}

impl<E: Engine> Shard<E> {
    pub(in crate::shard) fn listen(&mut self, guest: i32, address: SocketAddr) {
        let Some(socket) = self.free_sockets.pop() else {
            self.events.push_back(Event::ListenFailed { guest, address, errno: SystemError::NO_SPACE.0 });
            return;
        };
        self.guests.listeners.push(Listener { guest, socket, address, accepting: None, closing: false });
        let listener = self.guests.listeners.len() as u32 - 1;
        self.submit(Pending::Listen { listener }, Operation::Listen { listener: socket, address });
    }

    pub(in crate::shard) fn listening(&mut self, index: u32, result: Result<SocketAddr, SystemError>) {
        let listener = &self.guests.listeners[index as usize];
        let (guest, address) = (listener.guest, listener.address);
        match result {
            Ok(address) => {
                self.events.push_back(Event::Listening { guest, address });
                self.accept(index);
            }
            Err(error) => {
                self.events.push_back(Event::ListenFailed { guest, address, errno: error.0 });
                self.close_listener(index);
            }
        }
    }

    fn close_listener(&mut self, index: u32) {
        let listener = &mut self.guests.listeners[index as usize];
        if !std::mem::replace(&mut listener.closing, true) {
            let socket = listener.socket;
            self.submit(Pending::CloseListener { listener: index }, Operation::CloseSocket { socket });
        }
    }

    /// Waits for the next connection, as long as there is room for one.
    fn accept(&mut self, index: u32) {
        let listener = &self.guests.listeners[index as usize];
        if listener.closing || listener.accepting.is_some() || self.draining {
            return;
        }
        let (guest, socket) = (listener.guest, listener.socket);
        let free = self.guests.followers.iter().position(Option::is_none);
        let row = free.unwrap_or(self.guests.followers.len());
        let unproven = self.guests.followers.iter().flatten().filter(|each| each.is_unproven()).count();
        if row == FOLLOWERS_MAX || unproven >= self.unproven_max() || self.free_sockets.is_empty() {
            // Accepted again when one of the others closes.
            return self.make_place();
        }
        if row == self.guests.followers.len() {
            self.guests.followers.push(None);
        }
        let own = self.free_sockets.pop().expect("just seen");
        self.guests.followers[row] = Some(FollowerIo::new(guest, own));
        self.guests.listeners[index as usize].accepting = Some(row as u32);
        let pending = Pending::Accept { listener: index, follower: row as u32 };
        self.submit(pending, Operation::Accept { listener: socket, socket: own });
    }

    /// Connections that have not proven who they are and may be there at a time: as many as an eighth of the
    /// shard's memory holds, so that no number of strangers takes what the data path receives into.
    fn unproven_max(&self) -> usize {
        let share = self.engine.arena().size_bytes() / 8 / UNPROVEN_SPANS_BYTES;
        usize::try_from(share).unwrap_or(FOLLOWERS_MAX).clamp(UNPROVEN_MIN, FOLLOWERS_MAX)
    }

    pub(in crate::shard) fn accepted(
        &mut self,
        listener: u32,
        index: u32,
        result: Result<SocketAddr, SystemError>,
    ) {
        self.guests.listeners[listener as usize].accepting = None;
        let scratch = self.pool.take(Class::Scratch);
        let now = self.engine.now();
        let follower = self.follower_mut(index);
        match (result, scratch) {
            (Ok(peer), Some(scratch)) if follower.state == State::Accepting => {
                follower.state = State::Open;
                follower.peer = Some(peer);
                follower.scratch = Some(scratch);
                follower.accepted_at = now;
                // Who proves who it is may come from anywhere.
                let secured = self.options.listener.protocol() != SecurityProtocol::Plaintext;
                if !secured && !self.guests.knows_address(peer) {
                    self.refuse_follower(index, FollowerRefusal::OtherAddress);
                } else if secured && !self.guests.admission.admits(now, peer.ip()) {
                    self.refuse_follower(index, FollowerRefusal::TooMany);
                } else if self.secure_follower(index) {
                    self.receive_request(index);
                } else {
                    self.close_follower(index);
                }
                self.set_follower_timer(index);
                self.accept(listener);
            }
            (result, scratch) => {
                scratch.into_iter().for_each(|span| self.pool.give(span));
                if result.is_err() {
                    // The next one is waited for after a pause.
                    self.guests.timers.insert((now + ACCEPT_PAUSE_NS, index));
                    self.follower_mut(index).timer = Some(now + ACCEPT_PAUSE_NS);
                } else {
                    // No memory for it: the next one finds some when another has made place.
                    self.make_place();
                    self.close_follower(index);
                }
            }
        }
    }

    /// Closes a connection that is not proven, if there is one: the oldest of the address that has most of them,
    /// so that a flood takes the places of its own.
    fn make_place(&mut self) {
        let unproven = self.guests.followers.iter().enumerate().filter_map(|(index, each)| {
            let each = each.as_ref().filter(|each| each.is_unproven())?;
            Some((index as u32, each.accepted_at, each.peer.map(|peer| peer.ip().to_canonical())))
        });
        let mut counts: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        unproven.clone().for_each(|(.., address)| *counts.entry(address).or_default() += 1);
        let oldest =
            unproven.max_by_key(|(_, accepted_at, address)| (counts[address], Reverse(*accepted_at)));
        if let Some((index, ..)) = oldest {
            self.refuse_follower(index, FollowerRefusal::Unproven);
        }
    }

    /// Closes connections of peers that say nothing, or take nothing.
    fn tend_silent(&mut self, now: Nanoseconds) {
        if now < self.guests.silent_looked_at + SILENT_LOOK_NS {
            return;
        }
        self.guests.silent_looked_at = now;
        for index in 0..self.guests.followers.len() {
            let Some(follower) = self.guests.followers[index].as_ref().filter(|each| each.is_open()) else {
                continue;
            };
            if follower.outgoing.sending && now >= follower.outgoing.sending_since + SEND_NS {
                self.refuse_follower(index as u32, FollowerRefusal::NotReading);
            } else if !follower.proven && now >= follower.accepted_at + PROOF_NS {
                self.refuse_follower(index as u32, FollowerRefusal::TimedOut);
            }
        }
    }

    pub(in crate::shard) fn follower_mut(&mut self, index: u32) -> &mut FollowerIo {
        self.guests.followers[index as usize].as_mut().expect("a connection with operations stays")
    }

    /// Receives more of the next request. Only while nothing is answered.
    pub(in crate::shard) fn receive_request(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        if follower.receiving || !follower.is_open() {
            return;
        }
        if follower.security.tls.is_some() {
            return self.receive_secure(index);
        }
        let into = follower.scratch.expect("an open connection has its scratch");
        let socket = follower.socket;
        follower.receiving = true;
        self.submit(
            Pending::ReceiveRequest { follower: index },
            Operation::Receive { socket, into, fill: false },
        );
    }

    pub(in crate::shard) fn request_received(&mut self, index: u32, result: Result<u32, SystemError>) {
        let follower =
            self.guests.followers[index as usize].as_mut().expect("a connection with operations stays");
        follower.receiving = false;
        match result {
            Ok(bytes @ 1..) if follower.is_open() => {
                if let Some(tls) = &mut follower.security.tls {
                    tls.arrived(bytes);
                    return self.receive_secure(index);
                }
                let scratch = follower.scratch.expect("an open connection has its scratch");
                let arrived = Span { start: scratch.start, length: bytes };
                follower.frame.extend_from_slice(self.engine.arena().bytes(arrived));
                self.request_arrived(index);
            }
            // Closed by the peer, or not open any more.
            _ => self.close_follower(index),
        }
    }

    /// More of a request is in the frame.
    pub(in crate::shard) fn request_arrived(&mut self, index: u32) {
        let now = self.engine.now();
        let follower = self.follower_mut(index);
        follower.frame_deadline.get_or_insert(now + FRAME_NS);
        if !follower.proven && self.guests.unproven_bytes() > UNPROVEN_BYTES_MAX {
            return self.refuse_follower(index, FollowerRefusal::Unproven);
        }
        self.next_request(index);
    }

    /// Handles the next whole frame, or goes on receiving.
    pub(in crate::shard) fn next_request(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        let Some(head) = follower.frame.first_chunk::<4>() else {
            if follower.frame.is_empty() {
                follower.frame_deadline = None;
            }
            self.set_follower_timer(index);
            return self.receive_request(index);
        };
        let length = match frame_length(*head) {
            Ok(length) => length as usize,
            Err(error) => return self.refuse_follower(index, FollowerRefusal::Malformed(error)),
        };
        if length > UNPROVEN_REQUEST_BYTES_MAX && !self.has_proven_itself(index) {
            return self.refuse_follower(index, FollowerRefusal::NotAuthenticated);
        }
        let follower = self.follower_mut(index);
        if follower.frame.len() < 4 + length {
            self.set_follower_timer(index);
            return self.receive_request(index);
        }
        follower.frame_deadline = None;
        let mut frame = std::mem::take(&mut follower.frame);
        self.handle_request(index, &frame[4..4 + length]);
        let follower = self.follower_mut(index);
        frame.drain(..4 + length);
        follower.frame = frame;
        self.set_follower_timer(index);
        // A parked Fetch may have its answer already.
        self.answer_follower(index);
    }

    fn handle_request(&mut self, index: u32, frame: &[u8]) {
        let request = match read_request(frame) {
            Ok(request) => request,
            Err(error) => return self.refuse_follower(index, FollowerRefusal::Malformed(error)),
        };
        match request {
            Request::ApiVersions(header) => {
                let follower = self.follower_mut(index);
                write_api_versions(&mut follower.outgoing.out, header.version, header.correlation_id);
                self.send_plain(index);
            }
            Request::Fetch(fetch) => {
                if !self.admits(index, fetch.replica_id) {
                    return;
                }
                self.park(index, &fetch);
            }
            Request::ListOffsets(request) => {
                if !self.admits(index, request.replica_id) {
                    return;
                }
                self.answer_list_offsets(index, &request);
                self.send_plain(index);
            }
            Request::OffsetForLeaderEpoch(request) => {
                if !self.admits(index, request.replica_id) {
                    return;
                }
                self.answer_epoch_ends(index, &request);
                self.send_plain(index);
            }
            Request::SaslHandshake { header, mechanism } => self.choose_mechanism(index, header, mechanism),
            Request::SaslAuthenticate { header, message } => self.authenticate(index, header, message),
            Request::Unsupported { api_key: API_VERSIONS, version, correlation_id } => {
                let follower = self.follower_mut(index);
                write_api_versions(&mut follower.outgoing.out, version, correlation_id);
                self.send_plain(index);
            }
            Request::Unsupported { api_key, version, .. } => {
                self.refuse_follower(index, FollowerRefusal::Unsupported { api_key, version });
            }
        }
    }

    /// Only registered brokers may ask, from where they are registered (decisions 20). Closes on anybody else.
    fn admits(&mut self, index: u32, replica_id: i32) -> bool {
        if !self.has_proven_itself(index) {
            self.refuse_replica(index, replica_id, FollowerRefusal::NotAuthenticated);
            return false;
        }
        // Who has proven who it is may come from anywhere.
        let authenticated = self.follower_mut(index).security.principal.is_some();
        let from = self.follower_mut(index).peer.map(|peer| peer.ip().to_canonical());
        let broker = self.guests.brokers.iter().find(|broker| broker.id == replica_id);
        let why = match broker {
            None => FollowerRefusal::NotABroker,
            Some(broker) if authenticated || from.is_some_and(|from| broker.addresses.contains(&from)) => {
                self.follower_mut(index).proven = true;
                return true;
            }
            Some(_) => FollowerRefusal::OtherAddress,
        };
        self.refuse_replica(index, replica_id, why);
        false
    }

    pub(in crate::shard) fn refuse_follower(&mut self, index: u32, why: FollowerRefusal) {
        let broker = self.follower_mut(index).replica.map_or(-1, |(id, _)| id);
        self.refuse_replica(index, broker, why);
    }

    fn refuse_replica(&mut self, index: u32, broker: i32, why: FollowerRefusal) {
        let follower = self.follower_mut(index);
        let (peer, guest) = (follower.peer, follower.guest);
        if let Some(peer) = peer.filter(|_| self.events.len() < REFUSALS_WAITING_MAX) {
            self.events.push_back(Event::FollowerRefused { guest, peer, broker, why });
        }
        self.close_follower(index);
    }

    /// Sets the moment at which this connection is looked at again.
    pub(in crate::shard) fn set_follower_timer(&mut self, index: u32) {
        let Some(follower) = self.guests.followers[index as usize].as_mut() else { return };
        let parked = follower.parked.map(|parked| parked.until);
        let held = parked.and(follower.session.deadline());
        let login = follower.security.deadline;
        let deadline = [parked, held, follower.frame_deadline, login].into_iter().flatten().min();
        if follower.timer != deadline {
            if let Some(old) = follower.timer.take() {
                self.guests.timers.remove(&(old, index));
            }
            follower.timer = deadline;
            self.guests.timers.extend(deadline.map(|at| (at, index)));
        }
    }

    /// Deadlines of connections, and those that wait for memory.
    pub(in crate::shard) fn tend_followers(&mut self, now: Nanoseconds) {
        while let Some((at, index)) = self.guests.timers.first().copied()
            && at <= now
        {
            self.guests.timers.pop_first();
            let Some(follower) = self.guests.followers[index as usize].as_mut() else { continue };
            follower.timer = None;
            if follower.state == State::Accepting {
                // An accept failed: its row is closed, and the next one is waited for.
                self.close_follower(index);
            } else if [follower.frame_deadline, follower.security.deadline]
                .into_iter()
                .flatten()
                .any(|deadline| deadline <= now)
            {
                self.refuse_follower(index, FollowerRefusal::TimedOut);
            } else {
                follower.session.expire(now);
                self.answer_follower(index);
                self.set_follower_timer(index);
            }
        }
        for index in std::mem::take(&mut self.guests.waiting_for_memory) {
            self.pump(index);
        }
        self.look_for_stalled(now);
        self.tend_silent(now);
        if self.draining || self.halted.is_some() {
            self.close_guests();
        }
    }

    /// Closes listeners and connections: before a drain ends, or when nothing can be trusted any more.
    fn close_guests(&mut self) {
        for index in 0..self.guests.listeners.len() as u32 {
            self.close_listener(index);
        }
        for index in 0..self.guests.followers.len() as u32 {
            self.close_follower(index);
        }
        self.close_idle_readers(usize::MAX);
    }

    /// Ends a connection; its buffers come back when the kernel has let go of them.
    pub(in crate::shard) fn close_follower(&mut self, index: u32) {
        let Some(follower) = self.guests.followers[index as usize].as_mut() else { return };
        let waits_for_peer = follower.state == State::Accepting
            && self.guests.listeners.iter().any(|listener| listener.accepting == Some(index));
        if waits_for_peer || std::mem::replace(&mut follower.close_submitted, true) {
            // A listener that closes ends its accept, which comes back here.
            return;
        }
        follower.state = State::Closing;
        follower.parked = None;
        follower.frame_deadline = None;
        follower.security.deadline = None;
        follower.walks.clear();
        let socket = follower.socket;
        self.set_follower_timer(index);
        self.guests.waiting_for_memory.remove(&index);
        self.say_goodbye_to_follower(index);
        self.submit(Pending::CloseFollower { follower: index }, Operation::CloseSocket { socket });
    }

    pub(in crate::shard) fn follower_socket_closed(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        assert!(
            !follower.receiving && !follower.outgoing.sending,
            "a socket closes after its other operations"
        );
        follower.closed = true;
        self.release_follower(index);
    }

    /// Gives everything back once nothing of the connection is under way.
    pub(in crate::shard) fn release_follower(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        if follower.is_busy() {
            // A read of a file is still under way into its buffer; its completion comes back here.
            return;
        }
        let (socket, guest) = (follower.socket, follower.guest);
        self.release_sent(index);
        self.release_reads(index);
        let follower = self.guests.followers[index as usize].take().expect("just seen");
        let ciphertext = follower.security.tls.map(|tls| tls.buffer());
        let spans = [follower.scratch, follower.outgoing.buffer, follower.cold.buffer, ciphertext];
        spans.into_iter().flatten().for_each(|span| self.pool.give(span));
        if let Some(at) = follower.timer {
            self.guests.timers.remove(&(at, index));
        }
        self.free_sockets.push(socket);
        // The others first: one of them may have found no place, and it has no connection to be woken by.
        let (own, others): (Vec<u32>, Vec<u32>) = (0..self.guests.listeners.len() as u32)
            .partition(|listener| self.guests.listeners[*listener as usize].guest == guest);
        others.into_iter().chain(own).for_each(|listener| self.accept(listener));
    }

    pub(in crate::shard) fn listener_closed(&mut self, index: u32) {
        let socket = self.guests.listeners[index as usize].socket;
        self.free_sockets.push(socket);
    }
}
