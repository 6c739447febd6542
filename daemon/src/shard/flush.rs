//! Steps 5 to 7 of a batch's walk: sync what is written, deliver it, checkpoint it.
//!
//! ```text
//!   round:  want all --> Writing: every partition's mark is in its file
//!                    --> Syncing: fsync each file, or one syncfs when there are many
//!                        flushed, delivered move
//!                    --> Checkpointing (when due): indexes appended, journal appended and synced
//!                        checkpoint moves, barriers lift
//! ```
//! One round at a time. While tailing it takes the tail's partitions every `flush.ms`; streams that catch
//! up are taken every few seconds or hundreds of megabytes. A new source epoch asks for a checkpoint at
//! once, because what was written under it may not reach the disk before the epoch has (decisions 3).
//! A failed sync ends all writing: it is never tried again as if the pages were clean.

use super::mailbox::Tuning;
use super::operations::{Pending, SegmentKey, SyncFor, Work};
use super::partition_log::{FileState, FlushPoint, PENDING_INDEX_BYTES_MAX};
use super::{FsyncPolicy, Shard, ShardOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::Engine;
use twinlog_io::{Job, JobOutcome, Step};
use twinlog_io::{Operation, SystemError};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_sync::credits::LaneKind;
use twinlog_sync::{MILLISECOND, Nanoseconds};

/// Files synced one by one in a round; beyond it one syncfs is cheaper.
const FILE_SYNCS_MAX: usize = 32;
/// Partitions whose index entries go into one job.
const INDEX_JOB_PARTITIONS_MAX: usize = 16;
/// A journal this much larger than its live records is written anew.
const JOURNAL_SLACK_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Writing,
    Syncing,
    Checkpointing,
}

struct Round {
    stage: Stage,
    points: BTreeMap<u32, FlushPoint>,
    /// Partitions whose mark is not in its file yet.
    waiting: BTreeSet<u32>,
    /// Operations under way in the stage.
    outstanding: usize,
    /// Records that the journal is being given.
    records: Vec<(u32, PartitionCheckpoint)>,
    started_at: Nanoseconds,
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let round = self.round.as_ref().map(|round| (round.stage, &round.waiting, round.outstanding));
        write!(f, "flusher: dirty {:?}, round {round:?}, to checkpoint {:?}", self.dirty, self.to_checkpoint)
    }
}

/// When rounds start and what they take.
pub(super) struct Flusher {
    flush: Nanoseconds,
    catch_up: Nanoseconds,
    catch_up_bytes: u64,
    checkpoint: Nanoseconds,
    fsync: FsyncPolicy,
    dirty: Vec<u32>,
    tail_since: Option<Nanoseconds>,
    dirty_since: Option<Nanoseconds>,
    tail_received: bool,
    received_bytes: u64,
    flush_wanted: bool,
    checkpoint_wanted: bool,
    checkpoint_at: Nanoseconds,
    /// Flushed since their last checkpoint.
    to_checkpoint: BTreeSet<u32>,
    journal_bytes: u64,
    journal_started: bool,
    round: Option<Round>,
}

impl Flusher {
    pub fn new(options: &ShardOptions) -> Self {
        Self {
            flush: options.flush_ms * MILLISECOND,
            catch_up: options.flush_catch_up_ms * MILLISECOND,
            catch_up_bytes: options.flush_catch_up_bytes,
            checkpoint: options.checkpoint_ms * MILLISECOND,
            fsync: options.fsync,
            dirty: Vec::new(),
            tail_since: None,
            dirty_since: None,
            tail_received: false,
            received_bytes: 0,
            flush_wanted: false,
            checkpoint_wanted: false,
            checkpoint_at: 0,
            to_checkpoint: BTreeSet::new(),
            journal_bytes: 0,
            journal_started: false,
            round: None,
        }
    }

    /// Other intervals, from the next round on.
    pub fn tune(&mut self, tuning: &Tuning) {
        self.flush = tuning.flush_ms * MILLISECOND;
        self.catch_up = tuning.flush_catch_up_ms * MILLISECOND;
        self.catch_up_bytes = tuning.flush_catch_up_bytes;
        self.checkpoint = tuning.checkpoint_ms * MILLISECOND;
    }

    /// The partition has verified bytes that no round has taken.
    pub fn dirty(&mut self, slot: u32) {
        self.dirty.push(slot);
    }

    pub fn received(&mut self, lane: LaneKind, bytes: u64) {
        self.received_bytes += bytes;
        self.tail_received |= lane == LaneKind::Tail;
    }

    /// The next round starts at once and takes everything.
    pub fn want_flush(&mut self) {
        self.flush_wanted = true;
    }

    pub fn want_checkpoint(&mut self) {
        self.checkpoint_wanted = true;
    }

    /// The partition's state is to be in the journal soon, flushed anew or not.
    pub fn want_checkpoint_of(&mut self, slot: u32) {
        self.to_checkpoint.insert(slot);
        self.checkpoint_wanted = true;
    }

    pub fn is_idle(&self) -> bool {
        self.round.is_none()
            && self.dirty.is_empty()
            && self.to_checkpoint.is_empty()
            && !self.checkpoint_wanted
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        if self.round.is_some() {
            return None;
        }
        let checkpoint = (!self.to_checkpoint.is_empty()).then_some(self.checkpoint_at);
        let tail = self.tail_since.map(|since| since + self.flush);
        let catch_up = self.dirty_since.map(|since| since + self.catch_up);
        [checkpoint, tail, catch_up].into_iter().flatten().min()
    }

    /// Notes since when there is something to flush, and says what a round would take now.
    fn due(&mut self, now: Nanoseconds) -> Due {
        if self.dirty.is_empty() {
            // Nothing waits any more; a moment that has passed would keep the loop from sleeping.
            self.dirty_since = None;
        } else {
            self.dirty_since.get_or_insert(now);
        }
        if self.tail_received {
            self.tail_since.get_or_insert(now);
        }
        let everything = self.flush_wanted
            || self.fsync == FsyncPolicy::Batch && !self.dirty.is_empty()
            || self.received_bytes >= self.catch_up_bytes
            || self.dirty_since.is_some_and(|since| now >= since + self.catch_up);
        let tail = self.tail_since.is_some_and(|since| now >= since + self.flush);
        let checkpoint =
            self.checkpoint_wanted || !self.to_checkpoint.is_empty() && now >= self.checkpoint_at;
        match (everything && !self.dirty.is_empty(), tail, checkpoint) {
            (true, _, _) => Due::Everything,
            (false, true, _) => Due::Tail,
            (false, false, true) => Due::CheckpointOnly,
            (false, false, false) => Due::Nothing,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Tail,
    Everything,
    CheckpointOnly,
}

impl<E: Engine> Shard<E> {
    /// Starts a round when one is due.
    pub(super) fn tend_flushes(&mut self, now: Nanoseconds) {
        if self.flusher.round.is_some() || self.halted.is_some() {
            return;
        }
        if self.draining || self.slots_leaving() {
            self.flusher.want_flush();
            self.flusher.checkpoint_at = 0;
        }
        let due = self.flusher.due(now);
        if due == Due::Nothing {
            return;
        }
        let taken = self.take_dirty(due);
        self.flusher.flush_wanted = false;
        self.flusher.round = Some(Round {
            stage: Stage::Writing,
            waiting: taken.iter().copied().collect(),
            points: BTreeMap::new(),
            outstanding: 0,
            records: Vec::new(),
            started_at: now,
        });
        for slot in taken {
            self.want_written(slot);
            self.flush_progress(slot);
        }
        self.end_writing_stage();
    }

    fn take_dirty(&mut self, due: Due) -> Vec<u32> {
        let mut kept = Vec::new();
        let mut taken = Vec::new();
        for slot in std::mem::take(&mut self.flusher.dirty) {
            let Some(entry) = &self.slots[slot as usize] else { continue };
            let mine = match due {
                Due::Everything => true,
                Due::Tail => entry.partition.lane() == LaneKind::Tail,
                Due::CheckpointOnly | Due::Nothing => false,
            };
            // Until its epoch is durable nothing above the barrier can be flushed: the next round takes it.
            let held = entry.log.has_barrier();
            if mine && !held { &mut taken } else { &mut kept }.push(slot);
        }
        if due == Due::Everything {
            self.flusher.dirty_since = None;
            self.flusher.received_bytes = 0;
        }
        if matches!(due, Due::Everything | Due::Tail) {
            self.flusher.tail_since = None;
            self.flusher.tail_received = false;
        }
        self.flusher.dirty = kept;
        taken
    }

    fn want_written(&mut self, slot: u32) {
        let entry = self.slots[slot as usize].as_mut().expect("a dirty slot is in use");
        let segment = &mut entry.log.active;
        let mark = segment.writer.want_all();
        let point = FlushPoint {
            segment_base: segment.placed.base,
            mark,
            index: segment.index,
            sizes: segment.planned_sizes(),
            open_transactions: entry.partition.transactions.clone(),
        };
        entry.flushing = true;
        entry.dirty = false;
        if let Some(round) = &mut self.flusher.round {
            round.points.insert(slot, point);
        }
        self.write_due(slot);
    }

    /// Something of this partition completed: the round may go on.
    pub(super) fn flush_progress(&mut self, slot: u32) {
        let Some(round) = &mut self.flusher.round else { return };
        if round.stage == Stage::Writing
            && let Some(point) = round.points.get(&slot)
            && is_written(self.slots[slot as usize].as_ref(), point)
            && round.waiting.remove(&slot)
        {
            self.end_writing_stage();
        }
    }

    fn end_writing_stage(&mut self) {
        let Some(round) = &mut self.flusher.round else { return };
        if round.stage != Stage::Writing || !round.waiting.is_empty() {
            return;
        }
        // A file that was found written may be on its way to being closed by now; its sync is then not ours
        // to count on before it is over.
        for (slot, point) in &round.points {
            if !is_written(self.slots[*slot as usize].as_ref(), point) {
                round.waiting.insert(*slot);
            }
        }
        if round.waiting.is_empty() {
            self.start_syncs();
        }
    }

    fn start_syncs(&mut self) {
        let round = self.flusher.round.as_mut().expect("a round goes on");
        round.stage = Stage::Syncing;
        if self.flusher.fsync == FsyncPolicy::None {
            return self.synced();
        }
        let mut syncs = Vec::new();
        for (slot, point) in &round.points {
            let entry = self.slots[*slot as usize].as_ref().expect("a flushing slot stays");
            // A segment that was closed meanwhile was synced when it closed.
            let base = point.segment_base;
            let segments = [Some(&entry.log.active), entry.log.closing.as_ref()];
            if let Some(segment) = segments.into_iter().flatten().find(|segment| segment.base() == base)
                && let FileState::Open(file) = segment.file
            {
                syncs.push((SegmentKey { slot: *slot, base }, file));
            }
        }
        if syncs.len() > FILE_SYNCS_MAX {
            round.outstanding = 1;
            let path = self.journal_directory();
            let job = Job::new(vec![Step::SyncFileSystem { path }]);
            return self.submit(Pending::Job(Work::SyncAll), Operation::Job(job));
        }
        round.outstanding = syncs.len();
        for (segment, file) in &syncs {
            let pending = Pending::Sync { segment: *segment, file: *file, purpose: SyncFor::Round };
            self.submit(pending, Operation::Sync { file: *file });
        }
        if syncs.is_empty() {
            self.synced();
        }
    }

    pub(super) fn sync_done(&mut self, key: SegmentKey, purpose: SyncFor, result: Result<u32, SystemError>) {
        if let Err(error) = result {
            let path = self.slots[key.slot as usize].as_ref().map(|entry| entry.log.directory.clone());
            return self.halt("syncing", path.unwrap_or_default().display().to_string(), error);
        }
        match purpose {
            SyncFor::Rolled => return self.closing_synced(key),
            SyncFor::Idle => return self.trim_idle(key),
            SyncFor::Round => {}
        }
        if let Some(round) = &mut self.flusher.round
            && round.stage == Stage::Syncing
        {
            round.outstanding -= 1;
            if round.outstanding == 0 {
                self.synced();
            }
        }
    }

    /// Everything the round took survives power loss.
    fn synced(&mut self) {
        self.counters.flushes.fetch_add(1, Relaxed);
        let now = self.engine.now();
        let round = self.flusher.round.as_mut().expect("a round goes on");
        self.counters.flush_nanoseconds.fetch_add(now.saturating_sub(round.started_at), Relaxed);
        let points = std::mem::take(&mut round.points);
        for (slot, point) in points {
            let entry = self.slots[slot as usize].as_mut().expect("a flushing slot stays");
            entry.flushing = false;
            entry.partition.flushed_to(point.mark.next);
            if !self.options.is_guest {
                entry.partition.ledger.delivered_to(point.mark.next);
            }
            entry.log.flushed = Some(point);
            self.flusher.to_checkpoint.insert(slot);
            self.route_partition(slot);
        }
        self.checkpoint_if_due();
    }

    fn checkpoint_if_due(&mut self) {
        let now = self.engine.now();
        let pending = self.flusher.to_checkpoint.iter().any(|slot| {
            self.slots[*slot as usize]
                .as_ref()
                .is_some_and(|entry| entry.log.active.pending_bytes() > PENDING_INDEX_BYTES_MAX)
        });
        let due = self.flusher.checkpoint_wanted
            || pending
            || (!self.flusher.to_checkpoint.is_empty() && now >= self.flusher.checkpoint_at);
        if !due {
            self.flusher.round = None;
            return;
        }
        self.flusher.checkpoint_at = now + self.flusher.checkpoint;
        self.flusher.checkpoint_wanted = false;
        let mut slots = std::mem::take(&mut self.flusher.to_checkpoint);
        let held = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.as_ref().is_some_and(|entry| entry.log.has_barrier()));
        slots.extend(held.map(|(slot, _)| slot as u32));
        self.append_indexes(&slots);
        self.append_journal(&slots);
    }

    fn append_indexes(&mut self, slots: &BTreeSet<u32>) {
        let slots: Vec<u32> = slots.iter().copied().collect();
        let sync_each = slots.len() <= INDEX_JOB_PARTITIONS_MAX / 2;
        for chunk in slots.chunks(INDEX_JOB_PARTITIONS_MAX) {
            let mut steps = Vec::new();
            for slot in chunk {
                if let Some(entry) = self.slots[*slot as usize].as_mut() {
                    let directory = entry.log.directory.clone();
                    steps.extend(entry.log.active.index_steps(&directory));
                }
            }
            if sync_each {
                let written: Vec<Step> = steps.iter().filter_map(sync_of).collect();
                steps.extend(written);
            }
            if !steps.is_empty() {
                self.submit(Pending::Job(Work::AppendIndexes), Operation::Job(Job::new(steps)));
            }
        }
        if !sync_each && self.flusher.fsync != FsyncPolicy::None {
            let job = Job::new(vec![Step::SyncFileSystem { path: self.journal_directory() }]);
            self.submit(Pending::Job(Work::AppendIndexes), Operation::Job(job));
        }
    }

    fn journal_directory(&self) -> std::path::PathBuf {
        self.options.journal.parent().unwrap_or(&self.options.journal).to_path_buf()
    }

    fn append_journal(&mut self, slots: &BTreeSet<u32>) {
        let mut records = Vec::with_capacity(slots.len());
        let mut bytes = Vec::new();
        for slot in slots {
            if let Some(entry) = self.slots[*slot as usize].as_ref() {
                let record = entry.log.next_checkpoint(&entry.partition);
                record.encode(&mut bytes);
                records.push((*slot, record));
            }
        }
        let path = self.options.journal.clone();
        let live_bytes = bytes.len() as u64 / slots.len().max(1) as u64 * self.by_key.len() as u64;
        let rewrite = !self.flusher.journal_started
            || self.flusher.journal_bytes > 4 * live_bytes + JOURNAL_SLACK_BYTES;
        let steps = if rewrite {
            for (slot, entry) in self.slots.iter().enumerate() {
                if let Some(entry) = entry.as_ref().filter(|_| !slots.contains(&(slot as u32))) {
                    entry.log.checkpoint.encode(&mut bytes);
                }
            }
            self.departed.values().for_each(|record| record.encode(&mut bytes));
            self.flusher.journal_bytes = bytes.len() as u64;
            self.flusher.journal_started = true;
            vec![Step::Replace { path, bytes }]
        } else {
            self.flusher.journal_bytes += bytes.len() as u64;
            vec![Step::Append { path: path.clone(), bytes }, Step::SyncFile { path }]
        };
        let round = self.flusher.round.as_mut().expect("a round goes on");
        round.stage = Stage::Checkpointing;
        round.records = records;
        self.submit(Pending::Job(Work::Checkpoint), Operation::Job(Job::new(steps)));
    }

    /// A syncfs or the checkpoint's job is over.
    pub(super) fn flush_job_done(&mut self, work: Work, outcome: JobOutcome) {
        if let Some(failure) = outcome.failed {
            if failure.error.is_out_of_space() && work != Work::SyncAll {
                return self.flush_job_met_full_disk(work, outcome);
            }
            let path = self.options.journal.display().to_string();
            return self.halt("syncing or checkpointing", path, failure.error);
        }
        match work {
            Work::SyncAll => self.synced(),
            Work::Checkpoint => self.checkpointed(),
            _ => {}
        }
    }

    fn flush_job_met_full_disk(&mut self, work: Work, outcome: JobOutcome) {
        self.disk_full_until = Some(self.engine.now() + super::DISK_FULL_PAUSE);
        if work == Work::AppendIndexes {
            // Each step writes at its own position, so doing all of them again is safe.
            self.index_retries.push(Job::new(outcome.steps));
            return;
        }
        // The journal is written anew, as a whole, next time: its end may be torn.
        self.flusher.journal_started = false;
        self.flusher.checkpoint_wanted = true;
        if let Some(round) = self.flusher.round.take() {
            self.flusher.to_checkpoint.extend(round.records.into_iter().map(|(slot, _)| slot));
        }
    }

    fn checkpointed(&mut self) {
        self.counters.checkpoints.fetch_add(1, Relaxed);
        let round = self.flusher.round.take().expect("a round goes on");
        for (slot, record) in round.records {
            let Some(entry) = self.slots[slot as usize].as_mut() else { continue };
            entry.partition.ledger.checkpointed(record.log_end);
            let durable = record.source_epochs.latest() == entry.partition.epochs.latest();
            entry.log.checkpoint = record;
            if durable {
                entry.log.lift_barriers();
            } else {
                // An epoch began while the journal was being written.
                self.flusher.checkpoint_wanted = true;
            }
            self.publish(slot);
            self.write_due(slot);
            self.give_up_below(slot);
            self.log_moved(slot);
        }
    }
}

/// Index bytes that a checkpoint speaks of are synced before it, or a power loss costs a scan of the log.
fn sync_of(step: &Step) -> Option<Step> {
    match step {
        Step::WriteAt { path, .. } => Some(Step::SyncFile { path: path.clone() }),
        _ => None,
    }
}

/// Whether everything up to the point is in its file.
fn is_written(entry: Option<&super::Slot>, point: &FlushPoint) -> bool {
    let Some(entry) = entry else { return true };
    let (active, closing) = (&entry.log.active, &entry.log.closing);
    if active.base() == point.segment_base {
        // A file on its way to being closed is being synced; closed, it needs no sync of the round.
        let stays = !matches!(active.file, FileState::Closing(_));
        return closing.is_none() && stays && active.writer.completed().position >= point.mark.position;
    }
    match closing {
        // Rolled meanwhile. What came after the mark may be held by a barrier that this very round lifts.
        Some(segment) if segment.base() == point.segment_base => {
            let open = matches!(segment.file, FileState::Open(_));
            open && segment.writer.completed().position >= point.mark.position
        }
        // Closed means written, synced and trimmed.
        _ => true,
    }
}
