//! Step 4 of a batch's walk: from images into segment files. Opening, allocating, writing, rolling, closing.
//!
//! ```text
//!   bytes placed --> open (job: directory, file, first allocation) --> allocate ahead, doubling
//!   image full or flush wanted --> write --> done: log end moves --> image back to the pool
//!   roll: all written --> sync --> job: trim, indexes --> close          idle: trim, close
//! ```
//! A write that meets a full disk stays in memory and is tried again; the lanes stop fetching meanwhile.
//! Any other failed write, and any failed sync, ends all writing of this shard: what the pages hold is
//! then unknowable.

use super::mailbox::Event;
use super::operations::{Pending, SegmentKey, SyncFor, Work};
use super::partition_log::{FileState, Segment};
use super::{DISK_FULL_PAUSE, RetryKind, Shard};
use crate::segment_writer::WritePlan;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::Engine;
use twinlog_io::{FileKey, Operation, Span, SystemError};
use twinlog_io::{Job, JobOutcome, Step, StepOutput};
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::segment::next_preallocation;
use twinlog_sync::fault::Fault;

/// A segment is allocated this far ahead of what is received, so that a stream does not wait for it.
const ALLOCATE_AHEAD_BYTES: u64 = 8 << 20;
/// Partitions asked at once to give their memory back.
const EVICTIONS_AT_ONCE: usize = 16;

impl<E: Engine> Shard<E> {
    fn segment_mut(&mut self, key: SegmentKey) -> Option<&mut Segment> {
        self.slots.get_mut(key.slot as usize)?.as_mut()?.log.segment(key.base)
    }

    /// Whether a records field may be placed now: rolls when it must, sees that the file is opened.
    pub(super) fn ready_for_field(&mut self, slot: u32, records_bytes: u32) -> bool {
        if self.disk_full_until.is_some() {
            return false;
        }
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        let next = entry.partition.ledger.fetch();
        if entry.log.must_roll(records_bytes, next, self.options.segment_bytes) {
            if entry.log.closing.is_some() {
                return false;
            }
            let end = entry.log.active.writer.verified();
            entry.log.roll(next);
            if let Some(served) = &mut entry.served {
                served.rolled(end.position, end.next, entry.log.active.base());
            }
            self.write_due(slot);
        }
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        entry.evicting = false;
        let key = SegmentKey { slot, base: entry.log.active.base() };
        self.open_segment(key);
        true
    }

    fn open_segment(&mut self, key: SegmentKey) {
        let Some(segment) = self.segment_mut(key) else { return };
        if segment.file != FileState::Closed {
            return;
        }
        let Some(file) = self.free_files.pop() else {
            self.waiting_for_file.insert(key.slot);
            self.flusher.want_flush();
            self.close_idle_file();
            return;
        };
        let (direct, segment_bytes) = (self.options.direct_io, self.options.segment_bytes);
        let entry = self.slots[key.slot as usize].as_mut().expect("a segment belongs to a slot");
        let directory = entry.log.directory.clone();
        let segment = entry.log.segment(key.base).expect("found just now");
        segment.file = FileState::Opening;
        let path = segment.path(&directory, SegmentFile::Log);
        // Opened because bytes are coming: the first reservation is made at once.
        let needed = segment.writer.reach().max(segment.placed.position + 1);
        let length = next_preallocation(segment.allocated, needed, segment_bytes);
        let create = |file| Step::WriteAt {
            path: segment.path(&directory, file),
            position: 0,
            bytes: Vec::new(),
            create: true,
        };
        let indexes = [create(SegmentFile::OffsetIndex), create(SegmentFile::TimeIndex)];
        let mut steps = vec![Step::Open { file, path: path.clone(), create: true, direct }];
        steps.push(Step::Allocate { path, length });
        steps.extend(indexes);
        // The names must survive before a checkpoint speaks of them.
        steps.push(Step::SyncDirectory { path: directory });
        let entry = self.slots[key.slot as usize].as_mut().expect("a segment belongs to a slot");
        if !std::mem::replace(&mut entry.opened, true) {
            self.open_order.push_back(key.slot);
        }
        self.submit(Pending::Job(Work::Open { segment: key, file, length }), Operation::Job(Job::new(steps)));
    }

    /// A descriptor is needed: trims and closes the file that was opened first and is idle.
    fn close_idle_file(&mut self) {
        for _ in 0..self.open_order.len() {
            let Some(slot) = self.open_order.pop_front() else { return };
            if self.try_close_idle(slot) {
                if let Some(entry) = self.slots[slot as usize].as_mut() {
                    entry.opened = false;
                }
                return;
            }
            self.open_order.push_back(slot);
        }
    }

    /// Whether the slot's file is being closed now. It is synced first, so that a flush round finds a closed
    /// file durable.
    pub(super) fn try_close_idle(&mut self, slot: u32) -> bool {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return true };
        let segment = &mut entry.log.active;
        let FileState::Open(file) = segment.file else { return false };
        if segment.allocating || !segment.writer.release(&mut self.pool) {
            return false;
        }
        segment.file = FileState::Closing(file);
        let key = SegmentKey { slot, base: segment.base() };
        let pending = Pending::Sync { segment: key, file, purpose: SyncFor::Idle };
        self.submit(pending, Operation::Sync { file });
        true
    }

    /// The idle file is durable: its reserved end goes before it is closed.
    pub(super) fn trim_idle(&mut self, key: SegmentKey) {
        let entry = self.slots[key.slot as usize].as_mut().expect("a closing file's slot stays");
        let directory = entry.log.directory.clone();
        // It may have been rolled meanwhile, and is then the closing one.
        let segment = entry.log.segment(key.base).expect("a closing file's segment stays");
        // Bytes that arrived meanwhile are written when it is open again; the file ends where it was settled.
        let length = segment.writer.completed().position;
        segment.allocated = length;
        let steps = vec![Step::Truncate { path: segment.path(&directory, SegmentFile::Log), length }];
        self.submit(Pending::Job(Work::TrimIdle { segment: key }), Operation::Job(Job::new(steps)));
    }

    /// Starts every write that is due, for the closing segment first.
    pub(super) fn write_due(&mut self, slot: u32) {
        if self.halted.is_some() {
            return;
        }
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        if let Some(closing) = &mut entry.log.closing {
            // Again each time, for a barrier may have kept a part of it back.
            closing.writer.want_all();
        }
        let bases = [entry.log.closing.as_ref().map(Segment::base), Some(entry.log.active.base())];
        for base in bases.into_iter().flatten() {
            let key = SegmentKey { slot, base };
            self.open_if_needed(key);
            self.allocate_ahead(key);
            while let Some((plan, file)) = self.next_write(key) {
                self.start_write(key, plan, file);
            }
            self.finish_if_written(key);
        }
    }

    /// A file that was closed while idle is opened again when its segment has bytes to write or is to be
    /// completed.
    fn open_if_needed(&mut self, key: SegmentKey) {
        let Some(entry) = self.slots[key.slot as usize].as_mut() else { return };
        let is_active = entry.log.active.base() == key.base;
        let Some(segment) = entry.log.segment(key.base) else { return };
        if segment.file == FileState::Closed && !(is_active && segment.writer.is_settled()) {
            self.open_segment(key);
        }
    }

    fn next_write(&mut self, key: SegmentKey) -> Option<(WritePlan, FileKey)> {
        let pressed = self.pool.free_bytes() == 0;
        let entry = self.slots[key.slot as usize].as_mut()?;
        let segment = entry.log.segment(key.base)?;
        let FileState::Open(file) = segment.file else { return None };
        let (arena, limit) = (self.engine.arena_mut(), segment.allocated);
        let plan = segment.writer.next_write(arena, &mut self.pool, limit, pressed);
        if plan.is_none() && !self.pool.has_block() {
            self.waiting_for_block.insert(key.slot);
        }
        Some((plan?, file))
    }

    fn start_write(&mut self, key: SegmentKey, plan: WritePlan, file: FileKey) {
        let WritePlan { position, span, .. } = plan;
        self.counters.written_bytes.fetch_add(u64::from(span.length), Relaxed);
        self.submit(
            Pending::Write { segment: key, plan, file },
            Operation::Write { file, position, from: span },
        );
    }

    fn allocate_ahead(&mut self, key: SegmentKey) {
        let segment_bytes = self.options.segment_bytes;
        let Some(entry) = self.slots[key.slot as usize].as_mut() else { return };
        let directory = &entry.log.directory;
        let Some(segment) = (if entry.log.active.base() == key.base {
            Some(&mut entry.log.active)
        } else {
            entry.log.closing.as_mut()
        }) else {
            return;
        };
        if segment.allocating || !matches!(segment.file, FileState::Open(_)) {
            return;
        }
        let reach = segment.writer.reach();
        // Ahead of need only for a stream: doubling an idle partition's file would reserve for nothing.
        let ahead = if segment.allocated >= ALLOCATE_AHEAD_BYTES { ALLOCATE_AHEAD_BYTES } else { 0 };
        let needed = reach.max((reach + ahead).min(u64::from(segment_bytes)));
        if needed <= segment.allocated {
            return;
        }
        let length = next_preallocation(segment.allocated, needed, segment_bytes);
        segment.allocating = true;
        let path = segment.path(directory, SegmentFile::Log);
        let job = Job::new(vec![Step::Allocate { path, length }]);
        self.submit(Pending::Job(Work::Allocate { segment: key, length }), Operation::Job(job));
    }

    /// A job on a segment's files is over.
    pub(super) fn file_job_done(&mut self, work: Work, outcome: JobOutcome) {
        let (segment, retry) = match work {
            Work::Open { segment, .. } => (segment, Some(RetryKind::Open)),
            Work::Allocate { segment, .. } => (segment, Some(RetryKind::Allocate)),
            Work::Finish { segment } | Work::TrimIdle { segment } => (segment, None),
            Work::AppendIndexes
            | Work::Checkpoint
            | Work::SyncAll
            | Work::OpenReader { .. }
            | Work::GiveUp { .. } => {
                panic!("{work:?} is not a job on a segment that is written")
            }
        };
        if let Some(failure) = outcome.failed {
            let path = self.path_of(segment);
            match retry {
                Some(kind) if failure.error.is_out_of_space() => {
                    self.undo_job(work);
                    self.disk_is_full(segment, kind);
                }
                _ => self.halt(action_of(&outcome.steps[failure.step]), path, failure.error),
            }
            return;
        }
        match work {
            Work::Open { segment, file, length } => self.opened(segment, file, length, &outcome.outputs),
            Work::Allocate { segment: key, length } => {
                let unsupported = outcome.outputs.first() == Some(&StepOutput::Unsupported);
                if let Some(segment) = self.segment_mut(key) {
                    segment.allocating = false;
                    segment.allocated = if unsupported { u64::MAX } else { length };
                }
                self.write_due(key.slot);
            }
            Work::Finish { segment } => self.close_file(segment, true),
            Work::TrimIdle { segment } => self.close_file(segment, false),
            _ => panic!("{work:?} is not a job on a segment that is written"),
        }
    }

    fn undo_job(&mut self, work: Work) {
        match work {
            Work::Open { segment: key, file, .. } => {
                self.free_files.push(file);
                self.open_order.retain(|slot| *slot != key.slot);
                if let Some(entry) = self.slots[key.slot as usize].as_mut() {
                    entry.opened = false;
                }
                if let Some(segment) = self.segment_mut(key) {
                    segment.file = FileState::Closed;
                }
            }
            Work::Allocate { segment: key, .. } => {
                if let Some(segment) = self.segment_mut(key) {
                    segment.allocating = false;
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, key: SegmentKey, file: FileKey, reserved: u64, outputs: &[StepOutput]) {
        let length = match outputs {
            [StepOutput::Opened { length, .. }, ..] => *length,
            other => panic!("opening a segment was answered by {other:?}"),
        };
        let unsupported = outputs.get(1) == Some(&StepOutput::Unsupported);
        let segment = self.segment_mut(key).expect("a segment that is being opened stays");
        segment.file = FileState::Open(file);
        segment.allocated = if unsupported { u64::MAX } else { reserved.max(length) };
        self.write_due(key.slot);
    }

    fn path_of(&self, key: SegmentKey) -> String {
        let directory = self.slots[key.slot as usize].as_ref().map(|entry| entry.log.directory.clone());
        directory.unwrap_or_default().join(SegmentFile::Log.name(key.base)).display().to_string()
    }

    pub(super) fn write_done(
        &mut self,
        key: SegmentKey,
        plan: WritePlan,
        file: FileKey,
        result: Result<u32, SystemError>,
    ) {
        match result {
            Ok(written) if written == plan.span.length => {}
            Ok(0) => return self.halt("writing", self.path_of(key), SystemError::INPUT_OUTPUT),
            Ok(written) => {
                // A short write resumes at the last whole block: direct I/O takes nothing less.
                let whole = written & !4095;
                let (span, position) = (plan.span.after(whole), plan.position + u64::from(whole));
                let rest = Operation::Write { file, position, from: span };
                return self.submit(
                    Pending::Write { segment: key, plan: WritePlan { span, position, ..plan }, file },
                    rest,
                );
            }
            Err(error) if error.is_out_of_space() => {
                return self.disk_is_full(key, RetryKind::Write(plan, file));
            }
            Err(error) => return self.halt("writing", self.path_of(key), error),
        }
        if plan.bounce {
            let start = plan.span.end() - 4096;
            self.pool.give(Span { start, length: 4096 });
            if let Some(waiting) = self.waiting_for_block.pop_first() {
                self.write_due(waiting);
            }
        }
        let pool = &mut self.pool;
        let entry = self.slots[key.slot as usize].as_mut().expect("a segment with writes stays");
        let segment = entry.log.segment(key.base).expect("a segment with writes stays");
        if segment.writer.write_done(pool, plan.number) {
            let log_end = entry.log.log_end();
            if log_end > entry.partition.ledger.log_end() {
                entry.partition.ledger.written(log_end);
            }
        }
        self.deliver(key.slot);
        self.publish(key.slot);
        self.write_due(key.slot);
        self.evict_if_settled(key.slot);
        self.flush_progress(key.slot);
    }

    fn disk_is_full(&mut self, key: SegmentKey, kind: RetryKind) {
        let path = self.path_of(key);
        if self.disk_full_until.is_none() {
            self.events.push_back(Event::DiskFull { fault: Fault::DiskFull { path } });
        }
        self.disk_full_until = Some(self.engine.now() + DISK_FULL_PAUSE);
        self.retries.push_back((key, kind));
    }

    pub(super) fn retry_after_full_disk(&mut self) {
        for job in std::mem::take(&mut self.index_retries) {
            self.submit(Pending::Job(Work::AppendIndexes), Operation::Job(job));
        }
        for (key, kind) in std::mem::take(&mut self.retries) {
            match kind {
                RetryKind::Write(plan, file) => self.start_write(key, plan, file),
                RetryKind::Open => self.open_segment(key),
                RetryKind::Allocate => self.write_due(key.slot),
            }
        }
    }

    pub(super) fn start_load(&mut self, key: SegmentKey, position: u64, span: Span) {
        let entry = self.slots[key.slot as usize].as_mut().expect("a partition that loads stays");
        let segment = entry.log.segment(key.base).expect("a segment that loads stays");
        match segment.file {
            FileState::Open(file) => {
                let pending = Pending::Load { segment: key, position };
                self.submit(pending, Operation::Read { file, position, into: span });
            }
            // Opened by `ready_for_field`; the load is asked for again when it is open.
            _ => {
                segment.writer.load_failed(&mut self.pool);
                self.open_segment(key);
            }
        }
    }

    pub(super) fn load_done(&mut self, key: SegmentKey, position: u64, result: Result<u32, SystemError>) {
        let path = self.path_of(key);
        let Some(segment) = self.segment_mut(key) else { return };
        let needed = segment.writer.filled() - position;
        match result {
            Ok(bytes) if u64::from(bytes) >= needed => segment.writer.loaded(),
            Ok(_) => self.halt("reading back", path, SystemError::INPUT_OUTPUT),
            Err(error) => self.halt("reading back", path, error),
        }
    }

    /// The closing segment is all in its file: sync it, then trim it and complete its indexes.
    fn finish_if_written(&mut self, key: SegmentKey) {
        let Some(entry) = self.slots[key.slot as usize].as_mut() else { return };
        let Some(segment) = entry.log.closing.as_mut().filter(|segment| segment.base() == key.base) else {
            return;
        };
        let FileState::Open(file) = segment.file else { return };
        if segment.allocating || !segment.writer.release(&mut self.pool) {
            return;
        }
        segment.file = FileState::Closing(file);
        self.submit(Pending::Sync { segment: key, file, purpose: SyncFor::Rolled }, Operation::Sync { file });
    }

    /// The closing segment's data is durable.
    pub(super) fn closing_synced(&mut self, key: SegmentKey) {
        let entry = self.slots[key.slot as usize].as_mut().expect("a closing segment stays");
        let directory = entry.log.directory.clone();
        let segment = entry.log.closing.as_mut().expect("a closing segment stays");
        let log = segment.path(&directory, SegmentFile::Log);
        let mut steps;
        if segment.placed.position == 0 {
            let rest = [SegmentFile::OffsetIndex, SegmentFile::TimeIndex];
            steps = vec![Step::Remove { path: log }];
            steps.extend(rest.map(|file| Step::Remove { path: segment.path(&directory, file) }));
        } else {
            steps = vec![Step::Truncate { path: log.clone(), length: segment.placed.position }];
            let appends = segment.index_steps(&directory);
            let written = appends.iter().filter_map(|step| match step {
                Step::WriteAt { path, .. } => Some(Step::SyncFile { path: path.clone() }),
                _ => None,
            });
            let syncs: Vec<_> = written.chain([Step::SyncFile { path: log }]).collect();
            steps.extend(appends);
            steps.extend(syncs);
        }
        self.submit(Pending::Job(Work::Finish { segment: key }), Operation::Job(Job::new(steps)));
    }

    fn close_file(&mut self, key: SegmentKey, finished: bool) {
        let Some(segment) = self.segment_mut(key) else { return };
        let FileState::Closing(file) = segment.file else {
            panic!("a file that is not closing is closed: {:?}", segment.file)
        };
        self.submit(Pending::CloseFile { segment: key, file, finished }, Operation::CloseFile { file });
    }

    pub(super) fn file_closed(&mut self, key: SegmentKey, file: FileKey, finished: bool) {
        self.free_files.push(file);
        if let Some(entry) = self.slots[key.slot as usize].as_mut() {
            if finished {
                entry.log.closing = None;
            } else if let Some(segment) = entry.log.segment(key.base) {
                segment.file = FileState::Closed;
            }
            let log_end = entry.log.log_end();
            if log_end > entry.partition.ledger.log_end() {
                entry.partition.ledger.written(log_end);
            }
        }
        while !self.free_files.is_empty()
            && let Some(slot) = self.waiting_for_file.pop_first()
        {
            self.write_due(slot);
        }
        self.write_due(key.slot);
        self.flush_progress(key.slot);
    }

    /// Memory is short: the partitions that were first to take images write and release them.
    pub(super) fn make_room(&mut self) {
        for _ in 0..EVICTIONS_AT_ONCE.min(self.warm_order.len()) {
            let Some(slot) = self.warm_order.pop_front() else { return };
            let Some(entry) = self.slots[slot as usize].as_mut() else { continue };
            if entry.log.active.writer.is_cold() {
                entry.warm = false;
                continue;
            }
            self.warm_order.push_back(slot);
            let busy = self.lanes.iter().any(|lane| lane.current.as_ref().is_some_and(|it| it.slot == slot));
            if !busy {
                entry.evicting = true;
                entry.log.active.writer.want_all();
                self.write_due(slot);
                self.evict_if_settled(slot);
            }
        }
    }

    fn evict_if_settled(&mut self, slot: u32) {
        if let Some(entry) = self.slots[slot as usize].as_mut()
            && entry.evicting
            && entry.log.active.writer.release(&mut self.pool)
        {
            entry.evicting = false;
            entry.warm = false;
            self.warm_order.retain(|each| *each != slot);
        }
    }
}

/// What a step was about, for the sentence that says it failed.
pub(super) fn action_of(step: &Step) -> &'static str {
    match step {
        Step::Open { .. } => "opening",
        Step::Allocate { .. } => "reserving room",
        Step::Truncate { .. } => "trimming",
        Step::Remove { .. } => "removing",
        Step::SyncFile { .. } | Step::SyncDirectory { .. } | Step::SyncFileSystem { .. } => "syncing",
        _ => "writing beside the log",
    }
}
