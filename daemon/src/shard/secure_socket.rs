//! TLS on one socket of a shard: the transport and the pool's buffer that ciphertext is received into.
//!
//! ```text
//!   receive --> ciphertext [start..end, half a record at the end] --decrypt--> the connection's plaintext scratch
//!   send buffer <--stage-- handshake, alerts, key updates first, then what is encrypted
//! ```
//! It submits nothing: lanes and followers do, each in its own way. Ciphertext moves only while nothing is received
//! behind it, because the kernel knows the place.

use crate::transport::{TlsTransport, TransportError, plaintext_fitting};
use twinlog_io::{Arena, Span};

/// See the file's header.
pub(super) struct SecureSocket {
    pub transport: TlsTransport,
    ciphertext: Span,
    start: u32,
    end: u32,
}

/// What was put into a send buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Staged {
    /// Bytes of the plaintext that are in it, or will never be asked for again.
    pub taken: u32,
    /// Bytes of the buffer to be sent.
    pub written: u32,
}

impl SecureSocket {
    pub fn new(transport: TlsTransport, ciphertext: Span) -> Self {
        Self { transport, ciphertext, start: 0, end: 0 }
    }

    /// The pool's piece, when the connection is over.
    pub fn buffer(&self) -> Span {
        self.ciphertext
    }

    fn unread(&self) -> Span {
        Span { start: self.ciphertext.start + u64::from(self.start), length: self.end - self.start }
    }

    fn consume(&mut self, bytes: usize) {
        self.start += u32::try_from(bytes).expect("no more is consumed than the buffer holds");
        assert!(self.start <= self.end);
    }

    /// Where more ciphertext is to be received. Nothing may be received already.
    pub fn room(&mut self, arena: &mut Arena) -> Result<Span, TransportError> {
        let unread = self.unread();
        if self.start > 0 {
            arena.copy_within(unread, self.ciphertext.start);
            (self.start, self.end) = (0, unread.length);
        }
        let room = self.ciphertext.after(self.end);
        let buffer_bytes = self.ciphertext.length as usize;
        if room.length > 0 { Ok(room) } else { Err(TransportError::HandshakeTooLarge { buffer_bytes }) }
    }

    /// So many bytes have come into the room.
    pub fn arrived(&mut self, bytes: u32) {
        self.end += bytes;
        assert!(self.end <= self.ciphertext.length);
    }

    /// Decrypts into `into`, as far as it has room. Returns the bytes that are valid there now.
    pub fn decrypt(&mut self, arena: &mut Arena, into: Span) -> Result<u32, TransportError> {
        let (_, [ciphertext, plaintext]) = arena.apart(Span { length: 0, ..into }, [self.unread(), into]);
        let done = self.transport.decrypt(ciphertext, plaintext)?;
        self.consume(done.consumed);
        Ok(u32::try_from(done.produced).expect("a span is below 4 GiB"))
    }

    /// Puts what goes out next into `into`: what the transport has to say, or else the beginning of `plain`.
    pub fn stage(&mut self, arena: &mut Arena, plain: &[u8], into: Span) -> Result<Staged, TransportError> {
        if let Some(staged) = self.stage_own(arena, into) {
            return Ok(staged);
        }
        let (_, [unread, buffer]) = arena.apart(Span { length: 0, ..into }, [self.unread(), into]);
        let done = self.transport.encrypt(unread, plain, buffer)?;
        self.staged(arena, done, into)
    }

    /// The same with plaintext that lies in the arena, where the kernel may be reading it.
    pub fn stage_span(
        &mut self,
        arena: &mut Arena,
        plain: Span,
        into: Span,
    ) -> Result<Staged, TransportError> {
        if let Some(staged) = self.stage_own(arena, into) {
            return Ok(staged);
        }
        let (plain, [unread, buffer]) = arena.apart(plain, [self.unread(), into]);
        let done = self.transport.encrypt(unread, plain, buffer)?;
        self.staged(arena, done, into)
    }

    /// What is queued was encrypted before: it leaves first.
    fn stage_own(&mut self, arena: &mut Arena, into: Span) -> Option<Staged> {
        let queued = self.transport.outgoing();
        let length = queued.len().min(into.length as usize);
        if length == 0 {
            return None;
        }
        let written = length as u32;
        arena.bytes_mut(Span { length: written, ..into }).copy_from_slice(&queued[..length]);
        self.transport.outgoing_taken(length);
        Some(Staged { taken: 0, written })
    }

    fn staged(
        &mut self,
        arena: &mut Arena,
        done: crate::transport::Encrypted,
        into: Span,
    ) -> Result<Staged, TransportError> {
        self.consume(done.consumed);
        if done.written == 0 {
            // A key update came up on the way.
            return Ok(self.stage_own(arena, into).unwrap_or_default());
        }
        Ok(Staged { taken: done.taken as u32, written: done.written as u32 })
    }

    /// Adds a close_notify to what is to be sent.
    pub fn close(&mut self, arena: &mut Arena) {
        let unread = self.unread();
        self.transport.close(arena.bytes_mut(unread));
    }

    /// Plaintext that fits into a send buffer of this size.
    pub fn fitting(buffer: Span) -> u32 {
        plaintext_fitting(buffer.length as usize) as u32
    }
}
