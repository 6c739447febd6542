//! A lane's connection made secure: TLS, then SASL, then SASL again before the session ends (ref: KIP-368).
//!
//! ```text
//!   connected --> TLS handshake --> SaslHandshake, SaslAuthenticate ... --> secured, ApiVersions, fetches
//!                                      ^                                       |
//!                                      +--- between two fetches, in time ------+
//! ```
//! The transport and the exchange decide; this gives them bytes and tells the lane how it ended. It holds no
//! credentials: the exchange does, and nothing that it says is logged.

use super::Shard;
use super::lane_io::LaneIo;
use super::operations::Pending;
use super::receive::Step;
use super::secure_socket::SecureSocket;
use crate::pool::Class;
use crate::security::{ClientSecurity, SaslExchange, SecurityError};
use crate::transport::{TlsTransport, TransportError};
use std::sync::atomic::Ordering;
use twinlog_io::{Engine, Operation, Span, SystemError};
use twinlog_sync::Nanoseconds;
use twinlog_sync::guest::read_through::Provider;
use twinlog_sync::lane::{LaneFault, State};

/// The largest answer of a SASL exchange. Raised beyond the scratch, an exchange could never end.
const SASL_ANSWER_BYTES_MAX: usize = 32 << 10;

/// What a lane needs beside its socket where its connection is not plaintext.
#[derive(Default)]
pub(super) struct LaneSecurity {
    pub tls: Option<Box<SecureSocket>>,
    /// The exchange under way.
    sasl: Option<SaslExchange>,
    /// When the session has to be renewed.
    renew_at: Option<Nanoseconds>,
}

/// The words of a failure, and whether it was about who we are.
pub(super) fn fault_of(error: &SecurityError) -> LaneFault {
    let why = error.to_string().into();
    if error.is_authentication() {
        LaneFault::AuthenticationFailed { why }
    } else {
        LaneFault::Insecure { why }
    }
}

/// The same of the transport; certificates and alerts in the words that name their cure.
pub(super) fn transport_fault(error: TransportError) -> LaneFault {
    match error {
        TransportError::Tls(error) => fault_of(&SecurityError::Tls { error }),
        error => LaneFault::Insecure { why: error.to_string().into() },
    }
}

impl<E: Engine> Shard<E> {
    /// How connections of this lane are made.
    pub(super) fn security_of(&self, index: u32) -> &ClientSecurity {
        match self.lanes[index as usize].reads_from {
            Some(Provider::Follower(_)) => &self.options.destination,
            Some(Provider::Source) | None => &self.options.source,
        }
    }

    /// Prepares TLS for a connection that is about to be made. `Ok(false)`: there is no memory for it now.
    pub(super) fn prepare_tls(&mut self, index: u32, host: &str) -> Result<bool, LaneFault> {
        let security = self.security_of(index);
        let Some(config) = security.tls() else { return Ok(true) };
        let name = security.server_name(host).map_err(|error| fault_of(&error))?;
        let transport = TlsTransport::client(config, name).map_err(transport_fault)?;
        let Some(ciphertext) = self.pool.take(Class::Scratch) else { return Ok(false) };
        let lane = &mut self.lanes[index as usize];
        lane.security.tls = Some(Box::new(SecureSocket::new(transport, ciphertext)));
        Ok(true)
    }

    /// The lane asks for a secure connection, or for its session to be renewed.
    pub(super) fn secure_lane(&mut self, index: u32) {
        let host = self.lanes[index as usize].host.clone();
        let exchange = self.security_of(index).sasl(&host);
        let lane = &mut self.lanes[index as usize];
        match exchange {
            Ok(exchange) => lane.security.sasl = exchange,
            Err(error) => lane.lane.failed(fault_of(&error)),
        }
        self.advance_lane(index);
    }

    /// Renews the session if it is time. True while the lane has to wait for it.
    pub(super) fn renew_if_due(&mut self, index: u32, now: Nanoseconds) -> bool {
        let lane = &mut self.lanes[index as usize];
        let due = lane.security.renew_at.is_some_and(|at| at <= now) && lane.lane.renew(now);
        if due {
            lane.security.renew_at = None;
            self.route_lane(index);
        }
        due
    }

    /// One step of a handshake or an exchange.
    pub(super) fn secure_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        if lane.security.tls.as_ref().is_some_and(|tls| !tls.transport.is_open()) {
            // Decrypting is what moves a handshake on, also without a byte of plaintext.
            return self.receive_more(index);
        }
        let now = self.engine.now();
        let Some(exchange) = lane.security.sasl.as_mut() else {
            lane.lane.secured(now);
            return Step::Wait;
        };
        if exchange.is_done() {
            let pause = exchange.renew_after();
            let pause =
                pause.map(|pause| Nanoseconds::try_from(pause.as_nanos()).unwrap_or(Nanoseconds::MAX));
            lane.security.renew_at = pause.map(|pause| now.saturating_add(pause));
            lane.security.sasl = None;
            return Step::Again;
        }
        if let Some(frame) = exchange.poll_frame() {
            lane.lane.outgoing = frame;
            self.send_request(index);
            return Step::Wait;
        }
        self.exchange_step(index)
    }

    /// Gives the exchange its answer once that is whole.
    fn exchange_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let bytes = self.engine.arena().bytes(lane.arrived());
        let Some(head) = bytes.first_chunk::<4>() else { return self.receive_more(index) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > SASL_ANSWER_BYTES_MAX {
            let why = format!("the broker answered SASL with {length} bytes; is it a listener with SASL?");
            lane.lane.failed(LaneFault::Insecure { why: why.into() });
            return Step::Wait;
        }
        let Some(frame) = bytes.get(4..4 + length) else { return self.receive_more(index) };
        let exchange = lane.security.sasl.as_mut().expect("an exchange is under way");
        let answered = exchange.answer(frame);
        lane.consume(4 + length as u32);
        if let Err(error) = answered {
            lane.lane.failed(fault_of(&error));
            return Step::Wait;
        }
        Step::Again
    }

    /// Decrypts what is there; receives more where that gave nothing.
    pub(super) fn receive_ciphertext(&mut self, index: u32, into: Span) -> Step {
        let lane = &mut self.lanes[index as usize];
        let tls = lane.security.tls.as_mut().expect("only a lane with TLS receives ciphertext");
        let was_open = tls.transport.is_open();
        match tls.decrypt(self.engine.arena_mut(), into) {
            Ok(0) => {}
            Ok(bytes) => {
                lane.end += bytes;
                lane.granted_received += u64::from(bytes);
                self.send_piece(index);
                return Step::Again;
            }
            Err(error) => {
                lane.lane.failed(transport_fault(error));
                return Step::Wait;
            }
        }
        if tls.transport.has_peer_closed() {
            lane.lane.failed(LaneFault::PeerClosed);
            return Step::Wait;
        }
        // What the handshake has to say, or the answer to a key update.
        self.send_piece(index);
        let lane = &mut self.lanes[index as usize];
        let tls = lane.security.tls.as_mut().expect("it was there a moment ago");
        if tls.transport.is_open() && !was_open {
            return Step::Again;
        }
        let (Some(socket), false) = (lane.socket, matches!(lane.lane.state(), State::Closing)) else {
            return Step::Wait;
        };
        match tls.room(self.engine.arena_mut()) {
            Ok(into) => {
                lane.receiving = true;
                let pending = Pending::ReceiveScratch { lane: index };
                self.submit(pending, Operation::Receive { socket, into, fill: false });
            }
            Err(error) => lane.lane.failed(transport_fault(error)),
        }
        Step::Wait
    }

    pub(super) fn ciphertext_received(&mut self, index: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        let tls = lane.security.tls.as_mut().expect("ciphertext is received by a lane with TLS");
        match result {
            // A listener without TLS takes the hello for a frame that is too long, and closes.
            Ok(0) | Err(SystemError::CONNECTION_RESET) if !tls.transport.is_open() => {
                let why = "the broker closed the connection during the TLS handshake; is the port a listener with \
                           TLS, and does it ask for no client certificate?";
                lane.lane.failed(LaneFault::Insecure { why: why.into() });
            }
            Ok(0) => lane.lane.failed(match tls.transport.end_of_stream() {
                Ok(()) => LaneFault::PeerClosed,
                Err(error) => transport_fault(error),
            }),
            Ok(bytes) => {
                tls.arrived(bytes);
                lane.lane.progressed(now);
                self.counters.received_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
            }
            Err(error) => lane.lane.failed(LaneFault::Network(error.0)),
        }
        self.advance_lane(index);
    }

    /// Tells the peer why, or just goodbye, as far as the socket takes it at once.
    pub(super) fn say_goodbye(&mut self, index: u32) {
        let Some(tls) = self.lanes[index as usize].security.tls.as_mut() else { return };
        if tls.transport.outgoing().is_empty() {
            tls.close(self.engine.arena_mut());
        }
        // Before the socket is connected there is nothing to say, and nobody to say it to.
        if !tls.transport.outgoing().is_empty() {
            self.send_piece(index);
        }
    }

    /// The connection is over.
    pub(super) fn forget_security(&mut self, index: u32) {
        let LaneIo { security, .. } = &mut self.lanes[index as usize];
        if let Some(tls) = std::mem::take(security).tls {
            self.pool.give(tls.buffer());
        }
    }
}
