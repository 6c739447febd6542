//! One partition of the in-memory cluster: its records and the offsets that a leader keeps about them.
//!
//! ```text
//!   log_start        last_stable_offset   high_watermark   log_end
//!   ├────────────────────┼──────────────────────┼─────────────┤
//!   │ read_committed     │ read_uncommitted     │ not replicated yet
//! ```
//! Invariants: the four offsets are in that order; the epoch history names the epoch of every batch; batches
//! carry the leader epoch in bytes 12..16 as a leader stamps it. ref: KIP-98, KIP-101

use super::records::{CyclicTemplate, KeptBatch, Records, parse};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader, LEADER_EPOCH_AT};
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::epoch::{EpochHistory, EpochStart};
use twinlog_log_segment::index::AbortedTransaction;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::transaction::OpenTransactions;

/// See the file's header.
#[derive(Debug)]
pub struct PartitionLog {
    pub(super) leader: i32,
    pub(super) replicas: Vec<i32>,
    leader_epoch: LeaderEpoch,
    epochs: EpochHistory,
    log_start: Offset,
    log_end: Offset,
    /// A high watermark that was told to stay behind the end.
    held: Option<Offset>,
    pub(super) records: Records,
    /// Transactions open below the high watermark, which decide the last stable offset.
    open: OpenTransactions,
    /// The same at the first batch that is still kept.
    open_at_start: OpenTransactions,
    aborted: Vec<AbortedTransaction>,
    /// All batches below this one are accounted for in `open` and `aborted`.
    accounted: Offset,
    /// The highest offset that anybody asked for: what lies below it has been taken.
    asked: Offset,
    /// The first offset that was asked for since the readers were forgotten.
    first_asked: Option<Offset>,
    /// The next answer with data gets one wrong byte.
    pub(super) corrupt_next: bool,
    /// Every fetch is answered with this error code.
    pub(super) failing: Option<i16>,
}

impl PartitionLog {
    pub(super) fn new(leader: i32, replicas: Vec<i32>, first_offset: Offset) -> PartitionLog {
        let mut epochs = EpochHistory::new();
        epochs.record(LeaderEpoch(0), first_offset).expect("the first epoch fits");
        PartitionLog {
            leader,
            replicas,
            leader_epoch: LeaderEpoch(0),
            epochs,
            log_start: first_offset,
            log_end: first_offset,
            held: None,
            records: Records::Kept(VecDeque::new()),
            open: OpenTransactions::new(),
            open_at_start: OpenTransactions::new(),
            aborted: Vec::new(),
            accounted: first_offset,
            asked: Offset::ZERO,
            first_asked: None,
            corrupt_next: false,
            failing: None,
        }
    }

    pub(super) fn cyclic(leader: i32, template: &Arc<CyclicTemplate>, batches: u64) -> PartitionLog {
        let mut log = PartitionLog::new(leader, vec![leader], Offset::ZERO);
        log.records = Records::Cyclic { template: template.clone(), batches: 0 };
        log.extend(batches);
        log
    }

    pub fn leader(&self) -> i32 {
        self.leader
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn epochs(&self) -> &EpochHistory {
        &self.epochs
    }

    pub fn log_start_offset(&self) -> Offset {
        self.log_start
    }

    pub fn log_end_offset(&self) -> Offset {
        self.log_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.held.map_or(self.log_end, |held| held.min(self.log_end)).max(self.log_start)
    }

    pub fn last_stable_offset(&self) -> Offset {
        self.open.last_stable_offset(self.high_watermark()).max(self.log_start).min(self.high_watermark())
    }

    /// The highest offset that any fetch asked for: all below has been taken by somebody.
    pub fn asked_offset(&self) -> Offset {
        self.asked
    }

    /// Where the reader began, since [`super::Cluster::forget_readers`].
    pub fn first_asked_offset(&self) -> Option<Offset> {
        self.first_asked
    }

    pub(super) fn note_asked(&mut self, from: Offset) {
        self.asked = self.asked.max(from);
        self.first_asked.get_or_insert(from);
    }

    pub(super) fn forget_readers(&mut self) {
        (self.asked, self.first_asked) = (Offset::ZERO, None);
    }

    /// Bytes of all batches that start below `offset`, from the log's very first batch on.
    pub fn bytes_below(&self, offset: Offset) -> u64 {
        self.records.position_of(offset)
    }

    /// Whole batches in order, from the one that holds `offset` (or the first above it).
    pub fn batches_from(&self, offset: Offset) -> impl Iterator<Item = Bytes> + '_ {
        let first = self.records.first_at_or_above(offset);
        (first..).map_while(|ordinal| self.records.batch(ordinal))
    }

    /// Where `epoch` ended, as OffsetForLeaderEpoch answers it; `None` for an epoch this log does not know.
    pub(super) fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<EpochStart> {
        self.epochs.end_of(epoch, self.log_end)
    }

    /// Producer id and first offset of the aborted transactions that a read of these offsets meets.
    pub(super) fn aborted_between(&self, from: Offset, upper: Offset) -> Vec<(i64, i64)> {
        let first = self.aborted.partition_point(|aborted| aborted.last_offset < from);
        let met = self.aborted[first..].iter().filter(|aborted| aborted.first_offset < upper);
        met.map(|aborted| (aborted.producer_id, aborted.first_offset.value())).collect()
    }

    /// The leader places one batch at the end and stamps its epoch.
    pub(super) fn append(&mut self, mut batch: Vec<u8>) -> Offset {
        let base_offset = self.log_end;
        batch[..8].copy_from_slice(&base_offset.value().to_be_bytes());
        self.append_placed(batch);
        base_offset
    }

    /// A batch that already has its offsets, at the end or beyond: what compaction leaves.
    pub(super) fn append_placed(&mut self, mut batch: Vec<u8>) {
        let header = parse(&batch);
        assert_eq!(header.total_bytes() as usize, batch.len(), "one whole batch at a time");
        let starts_log = matches!(&self.records, Records::Kept(batches) if batches.is_empty());
        // The first batch may begin below the log's start: DeleteRecords cuts inside batches.
        let fits = header.base_offset >= self.log_end || starts_log;
        assert!(fits && header.last_offset() >= self.log_end, "a batch below the end of its log");
        batch[LEADER_EPOCH_AT].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        self.push(header.base_offset, header.last_offset(), batch);
    }

    /// Bytes that are no magic 2 batch, as if they were one that spans so many offsets.
    pub(super) fn append_foreign(&mut self, bytes: Vec<u8>, offsets: u32) {
        assert!(offsets > 0, "foreign bytes span at least one offset");
        let base_offset = self.log_end;
        let last_offset = base_offset.checked_add(offsets - 1).expect("offsets are far from their bound");
        self.push(base_offset, last_offset, bytes);
    }

    fn push(&mut self, base_offset: Offset, last_offset: Offset, batch: Vec<u8>) {
        let position = self.records.end_position();
        let Records::Kept(batches) = &mut self.records else { panic!("a cyclic log grows by extend") };
        batches.push_back(KeptBatch { base_offset, last_offset, position, bytes: Bytes::from(batch) });
        self.log_end = last_offset.next();
        self.account();
    }

    /// A cyclic log gets so many batches more.
    pub(super) fn extend(&mut self, more: u64) {
        let Records::Cyclic { batches, .. } = &mut self.records else {
            panic!("only a cyclic log is extended")
        };
        *batches += more;
        self.log_end = self.records.end_offset().unwrap_or(self.log_start);
        self.accounted = self.log_end;
    }

    pub(super) fn hold_high_watermark(&mut self, held: Option<Offset>) {
        assert!(held.is_none_or(|held| held >= self.high_watermark()), "a high watermark does not go back");
        self.held = held;
        self.account();
    }

    /// Follows the transactions up to the high watermark.
    fn account(&mut self) {
        let Records::Kept(batches) = &self.records else { return };
        let high_watermark = self.high_watermark();
        let first = batches.partition_point(|batch| batch.last_offset < self.accounted);
        for batch in batches.range(first..).take_while(|batch| batch.last_offset < high_watermark) {
            let aborted = follow(&mut self.open, &batch.bytes);
            self.aborted.extend(aborted);
            self.accounted = batch.last_offset.next();
        }
    }

    /// Retention or DeleteRecords: the log now starts here, maybe inside a batch.
    pub(super) fn trim(&mut self, log_start: Offset) {
        let within = self.log_start..=self.high_watermark();
        assert!(within.contains(&log_start), "a trim to {log_start} outside {within:?}");
        self.log_start = log_start;
        self.epochs.trim_to(log_start);
        self.aborted.retain(|aborted| aborted.last_offset >= log_start);
        let Records::Kept(batches) = &mut self.records else { panic!("a cyclic log is not trimmed") };
        // The last batch stays: positions count from it.
        while batches.len() > 1 && batches[0].last_offset < log_start {
            let gone = batches.pop_front().expect("more than one");
            follow(&mut self.open_at_start, &gone.bytes);
        }
    }

    /// A new leader whose log ends at `to`: what was above is lost, as in an unclean election.
    pub(super) fn truncate(&mut self, to: Offset) {
        assert!(to >= self.log_start, "a log is not cut below its start");
        let Records::Kept(batches) = &mut self.records else { panic!("a cyclic log is not truncated") };
        let kept = batches.partition_point(|batch| batch.last_offset < to);
        batches.truncate(kept);
        self.log_end = self.records.end_offset().map_or(self.log_start, |end| end.max(self.log_start));
        self.epochs.truncate_to(self.log_end);
        self.held = self.held.map(|held| held.min(self.log_end));
        self.open = self.open_at_start.clone();
        self.aborted.clear();
        self.accounted = Offset::ZERO;
        self.account();
    }

    /// The next leader epoch begins at the log's end, led by this broker.
    pub(super) fn elect(&mut self, leader: i32) {
        let cyclic = matches!(&self.records, Records::Cyclic { .. });
        assert!(!cyclic, "a template carries one epoch");
        self.leader_epoch = LeaderEpoch(self.leader_epoch.0 + 1);
        self.epochs.record(self.leader_epoch, self.log_end).expect("epochs rise");
        if !self.replicas.contains(&leader) {
            // The replica moves with its leader; other replicas stay.
            self.replicas.retain(|replica| *replica != self.leader);
            self.replicas.push(leader);
        }
        self.leader = leader;
    }
}

/// Accounts for one batch; foreign bytes are no part of any transaction.
fn follow(open: &mut OpenTransactions, batch: &[u8]) -> Option<AbortedTransaction> {
    let header = BatchHeader::parse(batch.first_chunk::<BATCH_HEADER_BYTES>()?, u32::MAX).ok()?;
    let control = header.is_control().then(|| ControlKind::parse(&batch[BATCH_HEADER_BYTES..]));
    open.on_batch(&header, control).expect("a generated log opens few transactions")
}
