//! The tables behind socket and file keys: which key is taken, by which descriptor, with how much in flight.
//!
//! Owns: the descriptors. A row must never let go of its descriptor while an operation of it is in flight: the
//! number would be reused for another file, and the operation would hit that one.
//!
//! ```text
//!   free --take--> taken --install(descriptor)--> open --close(token)--> closing --last finish--> release --> free
//! ```
//!
//! Invariants: `in_flight` counts operations started and not finished; no operation starts on a closing row;
//! a row is released when it closes and nothing is in flight. A violation is a bug of the caller and asserts.

use crate::operation::Token;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What may be in flight on a socket, one of each: two receives (or sends) at once would have no order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    Connect,
    Receive,
    Send,
    /// Of a listener. The same slot stands on the `Connect` lane of the row it will fill.
    Accept,
}

const LANES: usize = 4;

/// One table.
pub(crate) struct Rows {
    what: &'static str,
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    taken: bool,
    descriptor: Option<OwnedFd>,
    in_flight: u32,
    closing: Option<Token>,
    /// The slot in flight on each lane of a socket.
    lanes: [Option<u32>; LANES],
    /// SO_RCVLOWAT as last set; the kernel's default is 1. Meaningless for files.
    low_water_bytes: u32,
}

impl Rows {
    pub(crate) fn new(what: &'static str, count: u32) -> Rows {
        let mut rows = Vec::new();
        rows.resize_with(count as usize, Row::default);
        Rows { what, rows }
    }

    pub(crate) fn take(&mut self, key: u32) {
        let what = self.what;
        assert!(
            (key as usize) < self.rows.len(),
            "{what} key {key} is outside the table of {}",
            self.rows.len()
        );
        let row = &mut self.rows[key as usize];
        assert!(!row.taken, "{what} key {key} is already taken");
        *row = Row { taken: true, low_water_bytes: 1, ..Row::default() };
    }

    pub(crate) fn install(&mut self, key: u32, descriptor: OwnedFd) {
        let row = self.taken(key);
        assert!(row.descriptor.is_none(), "a row is installed once");
        row.descriptor = Some(descriptor);
    }

    /// Counts an operation in.
    pub(crate) fn start(&mut self, key: u32) {
        let what = self.what;
        let row = self.taken(key);
        assert!(row.closing.is_none(), "{what} key {key} is closing, nothing may start on it");
        assert!(row.descriptor.is_some(), "{what} key {key} is not open yet, or failed to open");
        row.in_flight += 1;
    }

    /// Takes a key for the operation that will bring its descriptor, and counts that operation in.
    pub(crate) fn take_for_arrival(&mut self, key: u32) {
        self.take(key);
        self.taken(key).in_flight = 1;
    }

    /// Counts an operation out. `Some`: it was the last of a closing row; call `release`, then complete the token.
    #[must_use]
    pub(crate) fn finish(&mut self, key: u32) -> Option<Token> {
        let row = self.taken(key);
        assert!(row.in_flight > 0, "an operation finishes once");
        row.in_flight -= 1;
        if row.in_flight == 0 { row.closing } else { None }
    }

    /// Starts closing. True: nothing is in flight; call `release` now.
    #[must_use]
    pub(crate) fn close(&mut self, key: u32, token: Token) -> bool {
        let what = self.what;
        let row = self.taken(key);
        assert!(row.closing.is_none(), "{what} key {key} is closed twice");
        row.closing = Some(token);
        row.in_flight == 0
    }

    /// Frees the row. `None` when it never had a descriptor.
    pub(crate) fn release(&mut self, key: u32) -> Option<OwnedFd> {
        let row = self.taken(key);
        assert!(row.in_flight == 0, "a row is released when nothing of it is in flight");
        row.taken = false;
        row.closing = None;
        row.descriptor.take()
    }

    /// Notes which slot is in flight on a lane; goes with `start`.
    pub(crate) fn occupy(&mut self, key: u32, lane: Lane, slot: u32) {
        let (what, place) = (self.what, &mut self.rows[key as usize].lanes[lane as usize]);
        assert!(place.is_none(), "{what} key {key} has a {lane:?} in flight already");
        *place = Some(slot);
    }

    /// Empties a lane; goes with `finish`.
    pub(crate) fn vacate(&mut self, key: u32, lane: Lane) {
        self.rows[key as usize].lanes[lane as usize] = None;
    }

    pub(crate) fn lane(&self, key: u32, lane: Lane) -> Option<u32> {
        self.rows[key as usize].lanes[lane as usize]
    }

    /// The slots in flight on all lanes.
    pub(crate) fn lanes(&self, key: u32) -> [Option<u32>; LANES] {
        self.rows[key as usize].lanes
    }

    pub(crate) fn is_closing(&self, key: u32) -> bool {
        self.rows[key as usize].closing.is_some()
    }

    pub(crate) fn descriptor(&self, key: u32) -> Option<BorrowedFd<'_>> {
        self.rows[key as usize].descriptor.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn low_water_bytes(&mut self, key: u32) -> &mut u32 {
        &mut self.rows[key as usize].low_water_bytes
    }

    fn taken(&mut self, key: u32) -> &mut Row {
        let (what, count) = (self.what, self.rows.len());
        let row = self.rows.get_mut(key as usize);
        row.filter(|row| row.taken).unwrap_or_else(|| panic!("{what} key {key} of {count} is not taken"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_row_closes_only_after_its_last_operation() {
        let mut rows = Rows::new("file", 2);
        rows.take(1);
        rows.install(1, descriptor());
        rows.start(1);
        rows.start(1);
        assert!(!rows.close(1, Token(9)));
        assert!(rows.is_closing(1));
        assert_eq!(rows.finish(1), None);
        assert_eq!(rows.finish(1), Some(Token(9)));
        assert!(rows.release(1).is_some());
        rows.take(1);
        assert!(rows.close(1, Token(3)));
        assert!(rows.release(1).is_none());
    }

    #[test]
    fn a_row_that_waits_for_its_descriptor_can_close_before_it_comes() {
        let mut rows = Rows::new("socket", 1);
        rows.take_for_arrival(0);
        assert!(catch_unwind(AssertUnwindSafe(|| rows.start(0))).is_err());
        assert_eq!(rows.finish(0), None);
        assert!(rows.close(0, Token(1)));
        assert!(rows.release(0).is_none());
        rows.take_for_arrival(0);
        assert!(!rows.close(0, Token(2)));
        assert_eq!(rows.finish(0), Some(Token(2)));
    }

    #[test]
    fn misuse_of_a_key_asserts() {
        let mut rows = Rows::new("file", 1);
        assert!(catch_unwind(AssertUnwindSafe(|| rows.take(1))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| rows.start(0))).is_err());
        rows.take(0);
        assert!(catch_unwind(AssertUnwindSafe(|| rows.take(0))).is_err());
        assert!(rows.release(0).is_none());
        rows.take(0);
        rows.install(0, descriptor());
        assert!(rows.close(0, Token(1)));
        assert!(catch_unwind(AssertUnwindSafe(|| rows.start(0))).is_err());
    }
}
