//! A follower's connection made secure: the handshake, who the follower is, and answers as ciphertext.
//!
//! ```text
//!   accept --> TLS handshake --> certificate or SaslHandshake, SaslAuthenticate --> principal --> requests
//!                 one deadline for all of it                              not listed: closed after one line
//! ```
//! Ciphertext is received beside the scratch and decrypted into it. Answers are encrypted piece by piece into the
//! connection's send buffer: a copy that TLS cannot do without; plaintext connections never come here.

use super::super::Shard;
use super::super::mailbox::FollowerRefusal;
use super::super::operations::{Pending, SegmentKey};
use super::super::secure_socket::{SecureSocket, Staged};
use super::Guests;
use super::follower::FollowerIo;
use super::send::{Next, Part};
use crate::pool::Class;
use crate::security::{SaslAcceptor, SecurityError, SecurityProtocol, principal_of};
use crate::transport::{TlsTransport, TransportError};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{Engine, Operation, SocketKey, Span};
use twinlog_sync::wire::follower_request::RequestHeader;
use twinlog_sync::wire::follower_response::{write_sasl_authenticate, write_sasl_handshake};
use twinlog_sync::{Nanoseconds, SECOND};

/// A handshake and a login must end within this time. Raised, strangers that dribble hold connections for longer.
const HANDSHAKE_NS: Nanoseconds = 10 * SECOND;
/// The largest request before a follower has proven who it is. Raised, strangers hold as much memory each.
pub(in crate::shard) const UNPROVEN_REQUEST_BYTES_MAX: usize = 16 << 10;
const UNSUPPORTED_MECHANISM: i16 = 33;
const AUTHENTICATION_FAILED: i16 = 58;

/// What a connection of a follower needs beside its socket where the listener is not plaintext.
#[derive(Default)]
pub(in crate::shard) struct FollowerSecurity {
    pub tls: Option<Box<SecureSocket>>,
    acceptor: SaslAcceptor,
    /// Who the follower has proven to be, one of those that may fetch.
    pub principal: Option<Arc<str>>,
    /// Until when it must have.
    pub deadline: Option<Nanoseconds>,
    /// The connection ends with the answer under way.
    pub ends: Option<FollowerRefusal>,
}

fn refusal_of(error: TransportError) -> FollowerRefusal {
    let why = match error {
        TransportError::Tls(error) => SecurityError::Tls { error }.to_string(),
        error => error.to_string(),
    };
    FollowerRefusal::Insecure { why: why.into() }
}

impl<E: Engine> Shard<E> {
    /// Prepares a connection that was just accepted. False: there is no memory for it.
    pub(in crate::shard) fn secure_follower(&mut self, index: u32) -> bool {
        let deadline = self.engine.now() + HANDSHAKE_NS;
        let listener = self.options.listener.clone();
        if listener.protocol() == SecurityProtocol::Plaintext {
            return true;
        }
        self.follower_mut(index).security.deadline = Some(deadline);
        let Some(config) = listener.tls() else { return true };
        let Ok(transport) = TlsTransport::server(config) else { return false };
        let Some(ciphertext) = self.pool.take(Class::Scratch) else { return false };
        self.follower_mut(index).security.tls = Some(Box::new(SecureSocket::new(transport, ciphertext)));
        true
    }

    /// Whether requests of this connection are answered: always in plaintext, where addresses decide.
    pub(in crate::shard) fn has_proven_itself(&mut self, index: u32) -> bool {
        let plaintext = self.options.listener.protocol() == SecurityProtocol::Plaintext;
        plaintext || self.follower_mut(index).security.principal.is_some()
    }

    /// Decrypts what has arrived, answers the handshake, or receives more.
    pub(in crate::shard) fn receive_secure(&mut self, index: u32) {
        let Self { guests, engine, .. } = self;
        let follower = guests.followers[index as usize].as_mut().expect("a connection with operations stays");
        let FollowerIo { security, scratch, socket, frame, .. } = follower;
        let (Some(tls), Some(scratch), socket) = (&mut security.tls, *scratch, *socket) else { return };
        let bytes = match tls.decrypt(engine.arena_mut(), scratch) {
            Ok(bytes) => bytes,
            Err(error) => return self.refuse_follower(index, refusal_of(error)),
        };
        frame.extend_from_slice(engine.arena().bytes(Span { length: bytes, ..scratch }));
        // Its first request may have come with the end of its handshake.
        let certain = tls.transport.is_open() && !self.options.listener.protocol().has_sasl();
        if certain && security.principal.is_none() {
            let principal = principal_of(tls.transport.peer_certificate());
            if !self.believe(index, principal.into()) {
                return;
            }
        }
        if bytes > 0 {
            return self.request_arrived(index);
        }
        self.receive_more_of(index, socket);
    }

    /// Nothing is there to be decrypted: says what the handshake has to say, or receives.
    fn receive_more_of(&mut self, index: u32, socket: SocketKey) {
        let Some(tls) = &mut self.follower_mut(index).security.tls else { return };
        if !tls.transport.outgoing().is_empty() {
            // Sent like an answer, after which it goes on here.
            return self.pump(index);
        }
        if tls.transport.has_peer_closed() {
            return self.close_follower(index);
        }
        let Self { guests, engine, .. } = self;
        let follower = guests.followers[index as usize].as_mut().expect("a connection with operations stays");
        let tls = follower.security.tls.as_mut().expect("it was there a moment ago");
        match tls.room(engine.arena_mut()) {
            Ok(into) => {
                follower.receiving = true;
                let pending = Pending::ReceiveRequest { follower: index };
                self.submit(pending, Operation::Receive { socket, into, fill: false });
            }
            Err(error) => self.refuse_follower(index, refusal_of(error)),
        }
    }

    /// The follower has proven who it is. False: it is nobody who may fetch, and the connection is closed.
    fn believe(&mut self, index: u32, principal: Arc<str>) -> bool {
        if !self.options.listener.allows(&principal) {
            self.refuse_follower(index, FollowerRefusal::NotAllowed { principal });
            return false;
        }
        let security = &mut self.follower_mut(index).security;
        security.principal = Some(principal);
        security.deadline = None;
        self.set_follower_timer(index);
        true
    }

    pub(in crate::shard) fn choose_mechanism(
        &mut self,
        index: u32,
        header: RequestHeader<'_>,
        mechanism: &[u8],
    ) {
        let listener = self.options.listener.clone();
        if !listener.protocol().has_sasl() {
            let (api_key, version) = (header.api_key, header.version);
            return self.refuse_follower(index, FollowerRefusal::Unsupported { api_key, version });
        }
        let follower = self.follower_mut(index);
        let known = follower.security.acceptor.choose(mechanism, &listener);
        let error = if known { 0 } else { UNSUPPORTED_MECHANISM };
        write_sasl_handshake(&mut follower.outgoing.out, header.correlation_id, error, listener.mechanisms());
        self.send_plain(index);
    }

    pub(in crate::shard) fn authenticate(&mut self, index: u32, header: RequestHeader<'_>, message: &[u8]) {
        let (listener, credentials) = (self.options.listener.clone(), self.guests.credentials.clone());
        let follower = self.follower_mut(index);
        let (out, correlation_id) = (&mut follower.outgoing.out, header.correlation_id);
        match follower.security.acceptor.answer(message, &listener, &credentials) {
            Ok(answer) => {
                write_sasl_authenticate(out, correlation_id, 0, "", &answer.message);
                if let Some(user) = answer.proven {
                    let principal: Arc<str> = format!("User:{user}").into();
                    // Told as any wrong password, and closed when that is out.
                    if listener.allows(&principal) {
                        (follower.security.principal, follower.security.deadline) = (Some(principal), None);
                    } else {
                        follower.security.ends = Some(FollowerRefusal::NotAllowed { principal });
                    }
                }
            }
            Err(fault) => {
                let text = "Authentication failed: invalid credentials";
                write_sasl_authenticate(out, correlation_id, AUTHENTICATION_FAILED, text, &[]);
                follower.security.ends = Some(FollowerRefusal::WrongProof { fault });
            }
        }
        self.send_plain(index);
    }

    /// Encrypts the next pieces of an answer into the buffer. What the transport has to say goes first.
    pub(in crate::shard) fn gather_secure(&mut self, index: u32) -> Next {
        let Self { guests, slots, pool, engine, counters, .. } = self;
        let Guests { followers, reads, .. } = guests;
        let follower = followers[index as usize].as_mut().expect("it is being answered");
        let FollowerIo { outgoing, security, .. } = follower;
        let tls = security.tls.as_mut().expect("only a connection with TLS is encrypted");
        let arena = engine.arena_mut();
        let buffer = outgoing.buffer.expect("an answer has its buffer");
        let mut used = 0;
        loop {
            let room = buffer.after(used);
            let fitting = SecureSocket::fitting(room);
            if fitting == 0 {
                break;
            }
            let Some(part) = outgoing.parts.pop_front() else { break };
            let staged = match part {
                Part::Head { from, to } => tls.stage(arena, &outgoing.out[from..to], room),
                Part::Read { id, position, length } => {
                    tls.stage_span(arena, reads.read(id).part(position, length), room)
                }
                Part::Cold { span } => tls.stage_span(arena, span, room),
                Part::Records { slot, segment, position, length } => {
                    let wanted = u32::try_from(length).unwrap_or(u32::MAX).min(fitting);
                    let found = slots[slot as usize].as_mut().and_then(|entry| entry.log.segment(segment));
                    let lent = found.and_then(|found| found.writer.read_begins(position, wanted));
                    let Some(lent) = lent else {
                        outgoing.parts.push_front(part);
                        if used == 0 {
                            let key = SegmentKey { slot, base: segment };
                            let gone = slots[slot as usize].is_none();
                            return if gone { Next::Lost } else { Next::Cold { key, position, length } };
                        }
                        break;
                    };
                    let staged = tls.stage_span(arena, lent, room);
                    let found = slots[slot as usize].as_mut().and_then(|entry| entry.log.segment(segment));
                    found.expect("just lent").writer.read_ends(pool, lent);
                    staged
                }
            };
            match staged {
                Ok(Staged { taken: 0, written: 0 }) => {
                    outgoing.parts.push_front(part);
                    break;
                }
                Ok(Staged { taken, written }) => {
                    used += written;
                    if matches!(part, Part::Records { .. } | Part::Read { .. }) {
                        counters.served_bytes.fetch_add(u64::from(taken), Relaxed);
                    }
                    if matches!(part, Part::Read { .. }) {
                        counters.read_through_bytes.fetch_add(u64::from(taken), Relaxed);
                    }
                    outgoing.goes_on(part, u64::from(taken));
                }
                Err(error) => return Next::Refused(refusal_of(error)),
            }
        }
        if used == 0 && outgoing.parts.is_empty() {
            match tls.stage(arena, &[], buffer) {
                Ok(staged) => used = staged.written,
                Err(error) => return Next::Refused(refusal_of(error)),
            }
        }
        if used > 0 {
            outgoing.spans.push_back(Span { length: used, ..buffer });
        }
        Next::Gathered
    }

    /// An alert or a close_notify, as far as the socket takes it at once.
    pub(in crate::shard) fn say_goodbye_to_follower(&mut self, index: u32) {
        let Self { guests, pool, engine, .. } = self;
        let Some(follower) = guests.followers[index as usize].as_mut() else { return };
        let FollowerIo { outgoing, security, socket, .. } = follower;
        let Some(tls) = security.tls.as_mut().filter(|_| !outgoing.sending && outgoing.spans.is_empty())
        else {
            return;
        };
        if tls.transport.outgoing().is_empty() {
            tls.close(engine.arena_mut());
        }
        if tls.transport.outgoing().is_empty() {
            return;
        }
        outgoing.buffer = outgoing.buffer.or_else(|| pool.take(Class::Scratch));
        let Some(buffer) = outgoing.buffer else { return };
        if let Ok(Staged { written: written @ 1.., .. }) = tls.stage(engine.arena_mut(), &[], buffer) {
            let (socket, from) = (*socket, Span { length: written, ..buffer });
            outgoing.spans.push_back(from);
            outgoing.sending = true;
            self.submit(Pending::SendAnswer { follower: index }, Operation::Send { socket, from });
        }
    }
}
