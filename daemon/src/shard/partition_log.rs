//! The log of one mirror partition inside a shard: its active segment, and at most one that is closing.
//!
//! ```text
//!   roll:  active --> closing: write all, sync, trim, indexes --> gone from memory
//!          new active: base = next expected offset, its file is opened while bytes already arrive
//! ```
//! Indexes are planned batch by batch into memory and appended to their files at a checkpoint; a crash
//! leaves them longer or shorter than the checkpoint says and recovery puts that right.

use crate::recovery::RecoveredPartition;
use crate::segment_writer::{Mark, SegmentWriter};
use std::path::{Path, PathBuf};
use twinlog_io::FileKey;
use twinlog_io::Step;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::index::{IndexState, PendingIndexes};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::segment::SegmentState;
use twinlog_log_segment::transaction::OpenTransactions;
use twinlog_sync::partition::Partition;

/// Index bytes of one partition that wait in memory; beyond it a checkpoint is taken early.
pub const PENDING_INDEX_BYTES_MAX: usize = 256 * 1024;

/// The file behind a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    Closed,
    Opening,
    Open(FileKey),
    /// Being trimmed or closed; opened again afterwards if bytes have come.
    Closing(FileKey),
}

/// Sizes of a segment's three index files, as appended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSizes {
    pub offset: u64,
    pub time: u64,
    pub transaction: u64,
}

/// One segment.
pub struct Segment {
    pub placed: SegmentState,
    pub writer: SegmentWriter,
    pub file: FileState,
    /// The file's length.
    pub allocated: u64,
    pub allocating: bool,
    pub index: IndexState,
    pub pending: PendingIndexes,
    pub sizes: IndexSizes,
}

impl Segment {
    pub fn base(&self) -> Offset {
        self.placed.base
    }

    pub fn path(&self, directory: &Path, file: SegmentFile) -> PathBuf {
        directory.join(file.name(self.placed.base))
    }

    fn new(base: Offset, next: Offset) -> Self {
        Self {
            placed: SegmentState::new(base),
            writer: SegmentWriter::new(0, next),
            file: FileState::Closed,
            allocated: 0,
            allocating: false,
            index: IndexState::new(base),
            pending: PendingIndexes::new(),
            sizes: IndexSizes::default(),
        }
    }

    pub fn pending_bytes(&self) -> usize {
        self.pending.offset.len() + self.pending.time.len() + self.pending.transaction.len()
    }

    /// Sizes that the index files will have when all that is planned is in them.
    pub fn planned_sizes(&self) -> IndexSizes {
        IndexSizes {
            offset: self.sizes.offset + self.pending.offset.len() as u64,
            time: self.sizes.time + self.pending.time.len() as u64,
            transaction: self.sizes.transaction + self.pending.transaction.len() as u64,
        }
    }

    /// Steps that append what is planned to the index files, which are made when the segment is new.
    pub fn index_steps(&mut self, directory: &Path) -> Vec<Step> {
        let pending = std::mem::take(&mut self.pending);
        let sizes = self.sizes;
        self.sizes.offset += pending.offset.len() as u64;
        self.sizes.time += pending.time.len() as u64;
        self.sizes.transaction += pending.transaction.len() as u64;
        let files = [
            (SegmentFile::OffsetIndex, pending.offset, sizes.offset),
            (SegmentFile::TimeIndex, pending.time, sizes.time),
            (SegmentFile::TransactionIndex, pending.transaction, sizes.transaction),
        ];
        let planned = files.into_iter().filter(|(_, bytes, _)| !bytes.is_empty());
        planned
            .map(|(file, bytes, position)| Step::WriteAt {
                path: self.path(directory, file),
                position,
                bytes,
                create: true,
            })
            .collect()
    }
}

/// What a flush proved: the state to be written as the next checkpoint.
#[derive(Clone)]
pub struct FlushPoint {
    pub segment_base: Offset,
    pub mark: Mark,
    pub index: IndexState,
    /// Of the index files, with everything planned up to the mark.
    pub sizes: IndexSizes,
    pub open_transactions: OpenTransactions,
}

/// See the file's header.
pub struct PartitionLog {
    pub directory: PathBuf,
    pub active: Segment,
    pub closing: Option<Segment>,
    /// The last record of the journal for this partition.
    pub checkpoint: PartitionCheckpoint,
    /// What the last flush proved, until a checkpoint has it.
    pub flushed: Option<FlushPoint>,
    /// First offset that is to be held; the next checkpoint says it, then what is below may go.
    pub held_start: Offset,
    /// The next field must begin a segment with this base: a gap passed what an index can name.
    pub roll_to: Option<Offset>,
}

impl PartitionLog {
    pub fn recovered(directory: PathBuf, recovered: &RecoveredPartition) -> Self {
        let checkpoint = recovered.checkpoint.clone();
        let mut active = Segment::new(checkpoint.segment_base, checkpoint.log_end);
        active.placed.position = checkpoint.position;
        active.writer = SegmentWriter::new(checkpoint.position, checkpoint.log_end);
        active.allocated = recovered.file_bytes;
        active.index = checkpoint.index;
        active.sizes = IndexSizes {
            offset: checkpoint.offset_index_bytes,
            time: checkpoint.time_index_bytes,
            transaction: checkpoint.transaction_index_bytes,
        };
        let held_start = checkpoint.held_start;
        Self { directory, active, closing: None, checkpoint, flushed: None, held_start, roll_to: None }
    }

    /// Whether a records field of this size needs another segment first.
    pub fn must_roll(&self, records_bytes: u32, next: Offset, segment_bytes: u32) -> bool {
        self.roll_to.is_some() || self.active.placed.must_roll(records_bytes, next, segment_bytes)
    }

    /// Makes the active segment the closing one. Only when nothing is closing and no batch is in progress.
    pub fn roll(&mut self, next: Offset) {
        assert!(self.closing.is_none(), "two segments of a partition close at once");
        assert_eq!(self.active.writer.filled(), self.active.writer.verified().position);
        let base = self.roll_to.take().unwrap_or(next);
        let mut old = std::mem::replace(&mut self.active, Segment::new(base, next));
        old.index.close(&mut old.pending);
        old.writer.want_all();
        self.closing = Some(old);
    }

    pub fn has_barrier(&self) -> bool {
        let closing = self.closing.as_ref().is_some_and(|segment| segment.writer.has_barrier());
        closing || self.active.writer.has_barrier()
    }

    pub fn lift_barriers(&mut self) {
        self.active.writer.lift_barrier();
        if let Some(closing) = &mut self.closing {
            closing.writer.lift_barrier();
        }
    }

    /// The record that says what is durable now: the last flush, and every source epoch seen so far.
    pub fn next_checkpoint(&self, partition: &Partition) -> PartitionCheckpoint {
        let mut next = self.checkpoint.clone();
        next.generation += 1;
        if let Some(point) = &self.flushed {
            next.segment_base = point.segment_base;
            next.position = point.mark.position;
            next.log_end = point.mark.next;
            next.index = point.index;
            next.offset_index_bytes = point.sizes.offset;
            next.time_index_bytes = point.sizes.time;
            next.transaction_index_bytes = point.sizes.transaction;
            next.open_transactions = point.open_transactions.clone();
        }
        next.log_start = partition.ledger.log_start().min(next.log_end);
        next.held_start = self.held_start.max(next.log_start).min(next.log_end);
        next.source_epochs = partition.epochs.clone();
        if next.stamp_epochs.is_empty() && next.log_end > next.log_start {
            let recorded = next.stamp_epochs.record(LeaderEpoch(0), next.log_start);
            assert!(recorded.is_ok(), "the first epoch of an empty history is always accepted");
        }
        next
    }

    /// How far followers may be served: verified, and every source epoch below it is durable. A barrier of the
    /// closing segment holds all of the active one back.
    pub fn servable(&self) -> Mark {
        match &self.closing {
            Some(closing) if closing.writer.has_barrier() => {
                let mark = closing.writer.servable();
                Mark { position: 0, next: mark.next }
            }
            _ => self.active.writer.servable(),
        }
    }

    /// The latest epoch that batches are stamped with, now or from an offset on that is still to come.
    pub fn stamp_epoch(&self) -> LeaderEpoch {
        self.checkpoint.stamp_epoch()
    }

    /// What a batch at this offset is stamped with.
    pub fn stamp_at(&self, offset: Offset) -> LeaderEpoch {
        self.checkpoint.stamp_epochs.epoch_of(offset).unwrap_or_else(|| self.stamp_epoch())
    }

    pub fn segment(&mut self, base: Offset) -> Option<&mut Segment> {
        if self.active.base() == base {
            return Some(&mut self.active);
        }
        self.closing.as_mut().filter(|segment| segment.base() == base)
    }

    /// What is in the files without a hole: the closing segment's end counts before the active one's.
    pub fn log_end(&self) -> Offset {
        match &self.closing {
            Some(closing) if closing.writer.completed() != closing.writer.verified() => {
                closing.writer.completed().next
            }
            _ => self.active.writer.completed().next,
        }
    }
}
