//! What each operation in flight is for: the shard's side of a token.
//!
//! A token is a row of this table and the row's age, so that a completion finds its meaning without a
//! search and a completion of a row that was used again is a broken invariant, not a mix-up.

use crate::segment_writer::WritePlan;
use twinlog_io::{FileKey, Span, Token};
use twinlog_log_segment::offset::Offset;

/// Which segment of a partition an operation belongs to; a segment's base names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentKey {
    pub slot: u32,
    pub base: Offset,
}

/// Why a file is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFor {
    /// A flush round.
    Round,
    /// The segment was rolled and is complete.
    Rolled,
    /// The file is closed for want of descriptors.
    Idle,
}

/// A job's purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Directory, file, first allocation.
    Open {
        segment: SegmentKey,
        file: FileKey,
        length: u64,
    },
    Allocate {
        segment: SegmentKey,
        length: u64,
    },
    /// Trim to size, indexes complete and synced.
    Finish {
        segment: SegmentKey,
    },
    /// Trim of an idle file before it is closed.
    TrimIdle {
        segment: SegmentKey,
    },
    /// Planned index entries go to their files.
    AppendIndexes,
    /// The journal's records, after the index entries that they speak of.
    Checkpoint,
    /// One syncfs in place of many fsyncs.
    SyncAll,
    /// A segment file is opened for reading.
    OpenReader {
        file: FileKey,
    },
    /// Segments that the spool gave up are deleted.
    GiveUp {
        slot: u32,
        bytes: u64,
    },
}

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    Connect {
        lane: u32,
    },
    Send {
        lane: u32,
        span: Span,
    },
    /// Into the lane's scratch.
    ReceiveScratch {
        lane: u32,
    },
    /// Straight into an image of this partition.
    ReceiveDirect {
        lane: u32,
        slot: u32,
    },
    CloseSocket {
        lane: u32,
    },
    Write {
        segment: SegmentKey,
        plan: WritePlan,
        file: FileKey,
    },
    /// The last block of a segment comes back into memory.
    Load {
        segment: SegmentKey,
        position: u64,
    },
    Sync {
        segment: SegmentKey,
        file: FileKey,
        purpose: SyncFor,
    },
    CloseFile {
        segment: SegmentKey,
        file: FileKey,
        finished: bool,
    },
    Listen {
        listener: u32,
    },
    CloseListener {
        listener: u32,
    },
    Accept {
        listener: u32,
        follower: u32,
    },
    ReceiveRequest {
        follower: u32,
    },
    SendAnswer {
        follower: u32,
    },
    CloseFollower {
        follower: u32,
    },
    /// `wanted` bytes behind `skip` ones that only alignment asked for.
    ReadCold {
        follower: u32,
        file: FileKey,
        skip: u32,
        wanted: u32,
    },
    CloseReader {
        file: FileKey,
    },
    Job(Work),
}

/// See the file's header.
#[derive(Default)]
pub struct Operations {
    rows: Vec<(u32, Option<Pending>)>,
    free: Vec<u32>,
    /// Those that are writes of images.
    writes: u32,
}

impl Operations {
    pub fn start(&mut self, pending: Pending) -> Token {
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push((0, None));
            u32::try_from(self.rows.len() - 1).expect("far fewer than 4 Gi operations")
        });
        self.writes += u32::from(matches!(pending, Pending::Write { .. }));
        let (age, place) = &mut self.rows[row as usize];
        *age = age.wrapping_add(1);
        *place = Some(pending);
        Token(u64::from(*age) << 32 | u64::from(row))
    }

    pub fn finish(&mut self, token: Token) -> Pending {
        let row = token.0 as u32;
        let (age, place) = &mut self.rows[row as usize];
        assert_eq!(u64::from(*age), token.0 >> 32, "a completion for an operation that is over");
        self.free.push(row);
        let pending = place.take().expect("an operation completes once");
        self.writes -= u32::from(matches!(pending, Pending::Write { .. }));
        pending
    }

    /// Images are on their way to the disk, and come back as memory.
    pub fn are_writing(&self) -> bool {
        self.writes > 0
    }

    pub fn in_flight(&self) -> usize {
        self.rows.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_finds_its_operation_once() {
        let mut operations = Operations::default();
        let first = operations.start(Pending::Connect { lane: 1 });
        let second = operations.start(Pending::CloseSocket { lane: 2 });
        assert_eq!(operations.finish(first), Pending::Connect { lane: 1 });
        let third = operations.start(Pending::Connect { lane: 3 });
        assert_ne!(first, third, "the row is used again under another token");
        assert_eq!(operations.finish(second), Pending::CloseSocket { lane: 2 });
        assert_eq!(operations.finish(third), Pending::Connect { lane: 3 });
        assert_eq!(operations.in_flight(), 0);
    }

    #[test]
    #[should_panic(expected = "that is over")]
    fn a_stale_token_is_a_defect() {
        let mut operations = Operations::default();
        let stale = operations.start(Pending::Connect { lane: 1 });
        operations.finish(stale);
        operations.start(Pending::Connect { lane: 1 });
        operations.finish(stale);
    }
}
