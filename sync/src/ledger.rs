//! The offsets of one mirror partition and the order that holds between them after every event.
//!
//! ```text
//!   log_start <= checkpoint <= flushed <= log_end <= fetch          log_start <= delivered <= log_end
//! ```
//! Each step moves only its own offset, in the handler of the completion that proves it. `trim` and
//! `restart` are the two named events that move several at once; they are persisted first.
//! All offsets are exclusive: the next one that is not yet there.

use twinlog_log_segment::offset::Offset;

/// The ledger of one partition. Fields are read freely and moved only by the methods below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// First offset that the topic has.
    log_start: Offset,
    /// A restart resumes here.
    checkpoint: Offset,
    /// Survives power loss below here.
    flushed: Offset,
    /// Written to the file below here.
    log_end: Offset,
    /// Received and verified below here.
    fetch: Offset,
    /// On the destination below here; in store mode the same as flushed.
    delivered: Offset,
}

impl Ledger {
    /// A log recovered from disk: everything up to `end` is durable.
    pub fn recovered(log_start: Offset, end: Offset) -> Self {
        let end = end.max(log_start);
        Self { log_start, checkpoint: end, flushed: end, log_end: end, fetch: end, delivered: end }
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }
    pub fn checkpoint(&self) -> Offset {
        self.checkpoint
    }
    pub fn flushed(&self) -> Offset {
        self.flushed
    }
    pub fn log_end(&self) -> Offset {
        self.log_end
    }
    pub fn fetch(&self) -> Offset {
        self.fetch
    }
    pub fn delivered(&self) -> Offset {
        self.delivered
    }

    /// A verified batch ends before `next`.
    pub fn verified(&mut self, next: Offset) {
        assert!(next > self.fetch, "a verified batch ends at {next}, not beyond {}", self.fetch);
        self.fetch = next;
        self.check();
    }

    /// Writes up to `end` have completed.
    pub fn written(&mut self, end: Offset) {
        assert!(end >= self.log_end, "log end went back from {} to {end}", self.log_end);
        self.log_end = end;
        self.check();
    }

    /// A sync that began after `end` was written has completed.
    pub fn flushed_to(&mut self, end: Offset) {
        self.flushed = self.flushed.max(end.min(self.log_end));
        self.check();
    }

    /// The destination holds everything below `end`.
    pub fn delivered_to(&mut self, end: Offset) {
        self.delivered = self.delivered.max(end.min(self.log_end)).max(self.log_start);
        self.check();
    }

    /// The checkpoint journal holds `end` durably.
    pub fn checkpointed(&mut self, end: Offset) {
        assert!(end <= self.flushed, "checkpoint {end} ahead of flushed {}", self.flushed);
        self.checkpoint = self.checkpoint.max(end);
        self.check();
    }

    /// The topic's log start moved up (retention, DeleteRecords), at most to what is flushed.
    /// Returns whether anything moved.
    pub fn trim(&mut self, log_start: Offset) -> bool {
        let log_start = log_start.min(self.flushed);
        let moved = log_start > self.log_start;
        if moved {
            self.log_start = log_start;
            self.checkpoint = self.checkpoint.max(log_start);
            self.delivered = self.delivered.max(log_start);
        }
        self.check();
        moved
    }

    fn check(&self) {
        assert!(
            self.log_start <= self.checkpoint
                && self.checkpoint <= self.flushed
                && self.flushed <= self.log_end
                && self.log_end <= self.fetch
                && self.log_start <= self.delivered
                && self.delivered <= self.log_end,
            "the ledger is out of order: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn each_step_moves_only_its_own_offset() {
        let mut ledger = Ledger::recovered(at(5), at(10));
        ledger.verified(at(20));
        assert_eq!((ledger.fetch(), ledger.log_end(), ledger.flushed()), (at(20), at(10), at(10)));
        ledger.written(at(15));
        ledger.flushed_to(at(20));
        assert_eq!(ledger.flushed(), at(15), "what is not written cannot be flushed");
        ledger.delivered_to(at(12));
        ledger.checkpointed(at(15));
        assert_eq!((ledger.delivered(), ledger.checkpoint()), (at(12), at(15)));
    }

    #[test]
    fn a_trim_moves_the_start_but_never_beyond_what_is_flushed() {
        let mut ledger = Ledger::recovered(at(0), at(10));
        ledger.verified(at(30));
        assert!(ledger.trim(at(25)));
        assert_eq!(ledger.log_start(), at(10));
        assert!(!ledger.trim(at(3)), "the start never goes back");
    }

    #[test]
    #[should_panic(expected = "ahead of flushed")]
    fn a_checkpoint_ahead_of_the_flush_is_a_defect() {
        let mut ledger = Ledger::recovered(at(0), at(10));
        ledger.verified(at(20));
        ledger.checkpointed(at(20));
    }
}
