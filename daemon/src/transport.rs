//! TLS without a socket: ciphertext in, plaintext out, and back; whoever owns the socket moves the bytes.
//!
//! ```text
//!   socket --> ciphertext buffer --decrypt--> plaintext buffer --> decoder, images
//!   socket <-- send buffer <--[outgoing: handshake, alerts, key updates][encrypt]-- requests, answers
//! ```
//! Records are decrypted where they lie; rustls hands each one out in a buffer of its own, from where it is copied
//! once, and only as far as there is room: who cannot place bytes does not decrypt them.
//!
//! Invariants: bytes leave in the order in which they were encrypted, so [`TlsTransport::outgoing`] goes out before
//! anything is encrypted behind it; ciphertext that is not consumed stays where it is, because half a handshake
//! message is remembered by its place; an end of the stream without close_notify is told apart from one with it.

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// The largest piece of plaintext in one record.
pub const RECORD_PLAINTEXT_BYTES: usize = 16 << 10;
/// More than any cipher suite adds to a record: header, explicit nonce, content type, tag.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Kept free beside application data for an alert or a key update, which go out with it.
const CONTROL_BYTES: usize = 512;
/// Bytes of handshake messages, alerts and key updates that may wait to be sent. A peer that asks for key updates
/// and reads no answers is cut off here; a handshake flight with long certificate chains must fit.
const OUTGOING_BYTES_MAX: usize = 256 << 10;

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq)]
pub enum TransportError {
    /// The peer broke the protocol, sent an alert, or cannot be trusted.
    Tls(rustls::Error),
    /// The stream ended without close_notify: somebody may have cut it.
    Truncated,
    /// A handshake message does not fit in the buffer that it is received into.
    HandshakeTooLarge { buffer_bytes: usize },
    /// The peer asks for more answers than it reads.
    OutgoingFull { bytes: usize },
    /// The connection's keys are used up.
    KeysExhausted,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Truncated => write!(f, "TLS: the stream ended without close_notify"),
            Self::HandshakeTooLarge { buffer_bytes } => write!(
                f,
                "TLS: a handshake message is larger than the {buffer_bytes} bytes that are kept for it; \
                 a shorter certificate chain helps"
            ),
            Self::OutgoingFull { bytes } => {
                write!(f, "TLS: {bytes} bytes of handshake and key updates wait, and the peer reads none")
            }
            Self::KeysExhausted => write!(f, "TLS: the keys of the connection are used up"),
        }
    }
}

impl std::error::Error for TransportError {}

/// What was decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Decrypted {
    /// Bytes at the front of the ciphertext that are not needed any more.
    pub consumed: usize,
    /// Bytes at the front of the plaintext buffer that are valid now.
    pub produced: usize,
}

/// What was encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Encrypted {
    /// Bytes at the front of the ciphertext that are not needed any more.
    pub consumed: usize,
    /// Bytes of plaintext that are taken; 0 while something in [`TlsTransport::outgoing`] must go out first.
    pub taken: usize,
    /// Bytes at the front of the buffer to be sent.
    pub written: usize,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// See the file's header.
pub struct TlsTransport {
    connection: Connection,
    outgoing: Vec<u8>,
    /// Plaintext that came up while something was encrypted; at most what one ciphertext buffer held.
    early: Vec<u8>,
    handshake_done: bool,
    peer_closed: bool,
    /// Why the connection is over: nothing is asked of it any more.
    broken: Option<TransportError>,
}

impl TlsTransport {
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TransportError> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(TransportError::Tls)?;
        Ok(Self::new(Connection::Client(connection)))
    }

    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TransportError> {
        let connection = UnbufferedServerConnection::new(config).map_err(TransportError::Tls)?;
        Ok(Self::new(Connection::Server(connection)))
    }

    fn new(connection: Connection) -> Self {
        let (outgoing, early) = (Vec::new(), Vec::new());
        Self { connection, outgoing, early, handshake_done: false, peer_closed: false, broken: None }
    }

    /// Both sides have proven who they are, and application data may be encrypted.
    pub fn is_open(&self) -> bool {
        self.handshake_done
    }

    /// The peer has said that nothing more comes.
    pub fn has_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The peer's first certificate, once the handshake is done and if it showed one.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = match &self.connection {
            Connection::Client(connection) => connection.peer_certificates(),
            Connection::Server(connection) => connection.peer_certificates(),
        };
        chain?.first().map(AsRef::as_ref)
    }

    /// Bytes to be sent before anything that is encrypted from now on.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// The first `bytes` of [`Self::outgoing`] are on their way.
    pub fn outgoing_taken(&mut self, bytes: usize) {
        self.outgoing.drain(..bytes);
    }

    /// The stream has ended: fine after close_notify only.
    pub fn end_of_stream(&self) -> Result<(), TransportError> {
        if self.peer_closed { Ok(()) } else { Err(TransportError::Truncated) }
    }

    /// Handles what has arrived, as far as the plaintext has room. After an error an alert may be in
    /// [`Self::outgoing`], and nothing else of this connection means anything.
    pub fn decrypt(
        &mut self,
        ciphertext: &mut [u8],
        plaintext: &mut [u8],
    ) -> Result<Decrypted, TransportError> {
        let mut done = Decrypted::default();
        let early = self.early.len().min(plaintext.len());
        plaintext[..early].copy_from_slice(&self.early[..early]);
        self.early.drain(..early);
        done.produced = early;
        if !self.early.is_empty() {
            return Ok(done);
        }
        loop {
            let want = Want::Read(&mut plaintext[done.produced..]);
            let (discard, next) = self.process(&mut ciphertext[done.consumed..], want);
            done.consumed += discard;
            match next? {
                Next::Again => {}
                Next::Read(bytes) => done.produced += bytes,
                Next::Rest | Next::Written(_) => return Ok(done),
            }
        }
    }

    /// Encrypts as much of `plain` as fits into `into`. `unread` is the ciphertext that was not consumed yet.
    pub fn encrypt(
        &mut self,
        unread: &mut [u8],
        plain: &[u8],
        into: &mut [u8],
    ) -> Result<Encrypted, TransportError> {
        let mut done = Encrypted::default();
        let taken = plain.len().min(plaintext_fitting(into.len()));
        // What is queued was encrypted before.
        while taken > 0 && self.outgoing.is_empty() {
            let want = Want::Write { plain: &plain[..taken], into: &mut *into };
            let (discard, next) = self.process(&mut unread[done.consumed..], want);
            done.consumed += discard;
            match next? {
                Next::Written(written) => return Ok(Encrypted { taken, written, ..done }),
                Next::Again | Next::Read(_) => {}
                Next::Rest => break,
            }
        }
        Ok(done)
    }

    /// Says goodbye: a close_notify joins what is to be sent.
    pub fn close(&mut self, unread: &mut [u8]) {
        let mut alert = [0; CONTROL_BYTES];
        if self.handshake_done
            && let (_, Ok(Next::Written(written))) = self.process(unread, Want::Close(&mut alert))
        {
            self.outgoing.extend_from_slice(&alert[..written]);
        }
    }

    fn process(&mut self, ciphertext: &mut [u8], want: Want<'_>) -> (usize, Result<Next, TransportError>) {
        if let Some(error) = &self.broken {
            return (0, Err(error.clone()));
        }
        let (discard, mut next) = self.step(ciphertext, want);
        if next.is_err() {
            // Only now rustls hands out the alert that tells the peer why. Asked once more than this, it would
            // look at the broken input again and panic over a second alert.
            let _ = self.step(&mut ciphertext[discard..], Want::Nothing);
        }
        let bytes = self.outgoing.len();
        if bytes > OUTGOING_BYTES_MAX {
            next = Err(TransportError::OutgoingFull { bytes });
        }
        self.broken = next.as_ref().err().cloned();
        (discard, next)
    }

    fn step(&mut self, ciphertext: &mut [u8], want: Want<'_>) -> (usize, Result<Next, TransportError>) {
        let Self { connection, outgoing, early, handshake_done, peer_closed, .. } = self;
        let mut own = Own { outgoing, early, handshake_done, peer_closed };
        match connection {
            Connection::Client(connection) => own.take(connection.process_tls_records(ciphertext), want),
            Connection::Server(connection) => own.take(connection.process_tls_records(ciphertext), want),
        }
    }
}

/// What the caller is there for.
enum Want<'a> {
    Read(&'a mut [u8]),
    Write { plain: &'a [u8], into: &'a mut [u8] },
    Close(&'a mut [u8]),
    Nothing,
}

/// What one step led to.
enum Next {
    Again,
    /// Bytes of plaintext were placed.
    Read(usize),
    Written(usize),
    /// Nothing more can be done now.
    Rest,
}

/// The transport without its connection, which the step under way borrows.
struct Own<'a> {
    outgoing: &'a mut Vec<u8>,
    early: &'a mut Vec<u8>,
    handshake_done: &'a mut bool,
    peer_closed: &'a mut bool,
}

impl Own<'_> {
    fn take<Data>(
        &mut self,
        status: UnbufferedStatus<'_, '_, Data>,
        want: Want<'_>,
    ) -> (usize, Result<Next, TransportError>) {
        let UnbufferedStatus { discard, state, .. } = status;
        let next = match state {
            Err(error) => Err(TransportError::Tls(error)),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => match want {
                Want::Read(room) if traffic.peek_len().is_some_and(|length| length.get() > room.len()) => {
                    Ok(Next::Rest)
                }
                want => match traffic.next_record() {
                    None => Ok(Next::Again),
                    Some(Err(error)) => Err(TransportError::Tls(error)),
                    Some(Ok(record)) => Ok(self.place(record.payload, want)),
                },
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let at = self.outgoing.len();
                if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
                    self.outgoing.resize(at + needed.required_size, 0);
                    let written = data.encode(&mut self.outgoing[at..]).unwrap_or(0);
                    self.outgoing.truncate(at + written);
                }
                Ok(Next::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Next::Again)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                *self.handshake_done = true;
                let written = match want {
                    // What was queued on the way here was encrypted before.
                    Want::Write { plain, into } if self.outgoing.is_empty() => traffic.encrypt(plain, into),
                    Want::Close(into) => traffic.queue_close_notify(into),
                    Want::Write { .. } | Want::Read(_) | Want::Nothing => return (discard, Ok(Next::Rest)),
                };
                match written {
                    Ok(written) => Ok(Next::Written(written)),
                    Err(EncryptError::EncryptExhausted) => Err(TransportError::KeysExhausted),
                    Err(EncryptError::InsufficientSize(_)) => {
                        panic!("room for {CONTROL_BYTES} bytes beside the records was kept")
                    }
                }
            }
            Ok(ConnectionState::PeerClosed) => {
                *self.peer_closed = true;
                Ok(Next::Again)
            }
            // Early data is not accepted by any configuration of ours.
            Ok(_) => Ok(Next::Rest),
        };
        (discard, next)
    }

    fn place(&mut self, payload: &[u8], want: Want<'_>) -> Next {
        match want {
            Want::Read(room) => {
                room[..payload.len()].copy_from_slice(payload);
                Next::Read(payload.len())
            }
            _ => {
                self.early.extend_from_slice(payload);
                Next::Again
            }
        }
    }
}

/// Plaintext whose records fit into so many bytes to be sent, alerts and key updates included.
pub const fn plaintext_fitting(bytes: usize) -> usize {
    let bytes = bytes.saturating_sub(CONTROL_BYTES);
    let record = RECORD_PLAINTEXT_BYTES + RECORD_OVERHEAD_BYTES;
    let rest = (bytes % record).saturating_sub(RECORD_OVERHEAD_BYTES);
    bytes / record * RECORD_PLAINTEXT_BYTES + rest
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
