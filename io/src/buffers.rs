//! Which parts of the arena the kernel knows as registered buffers.
//!
//! Owns: one state for each piece of the arena. It must never fail an operation: what is not registered goes the plain
//! way, which costs the kernel a look-up of the pages each time (about 0.03 s/GB).
//!
//! ```text
//!   arena   | piece 0 | piece 1 | piece 2 | piece 3 | ...       a span inside one piece ─▶ its index in the table
//!           | known   | unknown | known   | refused |           a span across a border  ─▶ the plain operation
//!                         |
//!                         '─ first write or read in it: registered ─▶ known, or (memlock limit) ─▶ refused, for good
//! ```
//!
//! Why piece by piece: registering pins memory, and pinning makes it exist. The whole arena at once costs its zeroing
//! at start (0.07 to 1 s of a core for 308 MiB, most where the host has to find the pages) and all of its memory, also
//! in a process that has nothing to do. A piece is one huge page, so pinning it adds nothing to what its first byte
//! makes exist anyway.

use crate::arena::{Arena, HUGE_PAGE_BYTES};
use crate::engine::BufferRegistration;
use crate::operation::{Span, SystemError};
use crate::probe;
use io_uring::IoUring;

/// The kernel's limit of registered buffers in a ring; arenas above 32 GiB have larger pieces, not more of them.
const PIECES_MAX: u64 = 1 << 14;

/// The kernel's limit of one registered buffer, and so of a piece.
const PIECE_BYTES_MAX: u64 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    /// No operation has touched it.
    Unknown,
    Known,
    Refused,
}

/// The ring's table of registered buffers.
pub(crate) struct Buffers {
    piece_bytes: u64,
    /// Empty: nothing is registered, now or later.
    pieces: Vec<Piece>,
}

impl Buffers {
    /// Prepares the table and registers the first piece, to learn at once whether the kernel takes any.
    pub(crate) fn prepare(ring: &IoUring, arena: &Arena) -> (Buffers, BufferRegistration) {
        let mut buffers = Buffers::unknown(arena.size_bytes());
        let registration = match probe::lockable_bytes() {
            // A part of the arena would save little, and take from the limit what the user's other rings need.
            Some(limit_bytes) if limit_bytes < arena.size_bytes() => {
                BufferRegistration::OverLimit { limit_bytes }
            }
            _ => buffers.open_table(ring, arena).unwrap_or_else(BufferRegistration::Refused),
        };
        if !matches!(registration, BufferRegistration::OnFirstUse | BufferRegistration::AtStart) {
            buffers.pieces.clear();
        }
        (buffers, registration)
    }

    fn open_table(&mut self, ring: &IoUring, arena: &Arena) -> Result<BufferRegistration, SystemError> {
        let table = u32::try_from(self.pieces.len()).expect("at most PIECES_MAX");
        if ring.submitter().register_buffers_sparse(table).is_err() {
            // Empty rows came with 5.19: before it is all at once or nothing.
            self.register_all(ring, arena)?;
            return Ok(BufferRegistration::AtStart);
        }
        self.register(ring, arena, 0)?;
        self.pieces[0] = Piece::Known;
        Ok(BufferRegistration::OnFirstUse)
    }

    fn unknown(arena_bytes: u64) -> Buffers {
        let piece_bytes = arena_bytes.div_ceil(PIECES_MAX).next_power_of_two().max(HUGE_PAGE_BYTES);
        // A larger arena keeps a plain rest: 16 TiB is far from any memory there is.
        let piece_bytes = piece_bytes.min(PIECE_BYTES_MAX);
        let pieces = arena_bytes.div_ceil(piece_bytes).min(PIECES_MAX);
        Buffers { piece_bytes, pieces: vec![Piece::Unknown; pieces as usize] }
    }

    /// The registered buffer that holds the whole span. Registers it if it must; `None` = use the plain operation.
    pub(crate) fn index(&mut self, ring: &IoUring, arena: &Arena, span: Span) -> Option<u16> {
        let piece = self.piece_of(span)?;
        if *self.pieces.get(piece)? == Piece::Unknown {
            // Not tried again: the limit is reached, and every try would pin and let go for nothing.
            let registered = self.register(ring, arena, piece).is_ok();
            self.pieces[piece] = if registered { Piece::Known } else { Piece::Refused };
        }
        if self.pieces[piece] == Piece::Known { u16::try_from(piece).ok() } else { None }
    }

    fn piece_of(&self, span: Span) -> Option<usize> {
        let (first, last) = (span.start / self.piece_bytes, (span.end() - 1) / self.piece_bytes);
        (first == last).then_some(first as usize)
    }

    fn register(&self, ring: &IoUring, arena: &Arena, piece: usize) -> Result<(), SystemError> {
        let row = u32::try_from(piece).expect("at most PIECES_MAX");
        let vector = [self.vector(arena, piece)];
        // SAFETY: the piece lies in the arena's mapping; the books keep their count until the ring is gone (or leak it).
        let registered = unsafe { ring.submitter().register_buffers_update(row, &vector, None) };
        registered.map_err(|error| SystemError::from_std(&error))
    }

    fn register_all(&mut self, ring: &IoUring, arena: &Arena) -> Result<(), SystemError> {
        let vectors: Vec<libc::iovec> =
            (0..self.pieces.len()).map(|piece| self.vector(arena, piece)).collect();
        // SAFETY: as in `register`.
        let registered = unsafe { ring.submitter().register_buffers(&vectors) };
        registered.map_err(|error| SystemError::from_std(&error))?;
        self.pieces.fill(Piece::Known);
        Ok(())
    }

    fn vector(&self, arena: &Arena, piece: usize) -> libc::iovec {
        let start = piece as u64 * self.piece_bytes;
        let length = self.piece_bytes.min(arena.size_bytes() - start);
        let span = Span { start, length: u32::try_from(length).expect("at most 1 GiB") };
        libc::iovec { iov_base: arena.address(span).cast(), iov_len: length as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn span(start_mib: u64, length: u32) -> Span {
        Span { start: start_mib << 20, length }
    }

    #[test]
    fn a_span_across_two_pieces_uses_neither() {
        let buffers = Buffers::unknown(8 << 20);
        assert_eq!(buffers.pieces.len(), 4);
        assert_eq!(buffers.piece_of(span(0, 2 * MIB)), Some(0));
        assert_eq!(buffers.piece_of(span(3, MIB)), Some(1));
        assert_eq!(buffers.piece_of(span(3, MIB + 1)), None);
        assert_eq!(buffers.piece_of(span(4, 4096)), Some(2));
    }

    #[test]
    fn a_large_arena_has_larger_pieces_and_never_more_than_the_kernel_takes() {
        for shift in 21..=40 {
            for bytes in [1_u64 << shift, (1 << shift) + HUGE_PAGE_BYTES] {
                let buffers = Buffers::unknown(bytes);
                let pieces = buffers.pieces.len() as u64;
                assert!(pieces <= PIECES_MAX && pieces * buffers.piece_bytes >= bytes, "{bytes}");
                assert!(buffers.piece_bytes <= PIECE_BYTES_MAX, "{bytes}");
            }
        }
    }

    #[test]
    fn a_piece_is_registered_when_it_is_first_touched() {
        let Ok(ring) = IoUring::new(4) else { return };
        let arena = Arena::new(8 << 20).unwrap();
        let (mut buffers, registration) = Buffers::prepare(&ring, &arena);
        if registration != BufferRegistration::OnFirstUse {
            return;
        }
        assert_eq!(buffers.pieces[1..], [Piece::Unknown; 3]);
        let index = buffers.index(&ring, &arena, span(5, MIB));
        assert!(index == Some(2) || (index.is_none() && buffers.pieces[2] == Piece::Refused));
        assert_eq!(buffers.pieces[1], Piece::Unknown);
        assert_eq!(buffers.index(&ring, &arena, span(1, 2 * MIB)), None);
        assert_eq!(buffers.pieces[1], Piece::Unknown, "a span across a border registers nothing");
    }

    #[test]
    fn a_refused_piece_goes_the_plain_way_and_the_others_go_on() {
        let Ok(ring) = IoUring::new(4) else { return };
        let arena = Arena::new(8 << 20).unwrap();
        // No table at all, so that the kernel refuses every piece.
        let mut buffers = Buffers::unknown(arena.size_bytes());
        assert_eq!(buffers.index(&ring, &arena, span(2, MIB)), None);
        assert_eq!(buffers.pieces, [Piece::Unknown, Piece::Refused, Piece::Unknown, Piece::Unknown]);
        buffers.pieces[2] = Piece::Known;
        assert_eq!(buffers.index(&ring, &arena, span(4, MIB)), Some(2));
        assert_eq!(buffers.index(&ring, &arena, span(2, MIB)), None);
    }

    #[test]
    fn a_kernel_without_empty_rows_takes_the_arena_at_once() {
        let Ok(ring) = IoUring::new(4) else { return };
        let arena = Arena::new(4 << 20).unwrap();
        let mut buffers = Buffers::unknown(arena.size_bytes());
        if buffers.register_all(&ring, &arena).is_ok() {
            assert_eq!(buffers.index(&ring, &arena, span(3, MIB)), Some(1));
        }
    }
}
