//! The spool: what enough followers hold is deleted when the disk's budget is used, whatever the slowest has.
//!
//! ```text
//!   look --> held start raised --> checkpoint durable --> forgotten (no follower is served from there any more)
//!     |                                                     \--> files deleted by a job
//!     \--> segments that are delivered to their end are rolled, if closed ones do not suffice
//! ```
//! The rules are `twinlog_sync::guest::spool`; this finds what may go and carries it out. A restart between two
//! steps finds either a checkpoint that still holds the segments or one that has them deleted by recovery.
//! Bytes are those of batches: room that is reserved ahead of an active segment is not counted.
//!
//! Invariants: a segment is deleted only after the journal says so, only when enough followers proved that they
//! hold all of it (the high watermark alone does not: it outlives a restart unproven), and never the one that a
//! restart begins with. A follower that is being sent a deleted segment is cut off; it comes back and reads
//! through. Deletion never waits for a follower.

use super::super::Shard;
use super::super::Slot;
use super::super::disk_io::action_of;
use super::super::mailbox::Event;
use super::super::operations::{Pending, Work};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{Engine, Job, JobOutcome, Operation, Step};
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::guest::spool::{Holding, Plan, Spare, SpoolBudget};
use twinlog_sync::{Nanoseconds, SECOND};

/// How often the spool is looked at; each look is at every partition.
const LOOK_NS: Nanoseconds = SECOND;
/// It is also looked at after so large a part of the budget has been received.
const LOOKS_PER_BUDGET: u64 = 32;
/// Segments deleted by one job: four files each, and a job has at most 64 steps.
const SEGMENTS_PER_JOB: usize = 12;
/// Segments of a spool, as a part of its budget: more would cost files, fewer would give up too much at once.
const SEGMENTS_PER_BUDGET: u64 = 64;
const SEGMENT_BYTES_MIN: u64 = 8 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// The size of a spool's segments: what was configured, but not more than suits the budget.
pub fn spool_segment_bytes(configured: u32, spool_bytes: u64) -> u32 {
    if spool_bytes == 0 {
        return configured;
    }
    let suited = (spool_bytes / SEGMENTS_PER_BUDGET).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    configured.min(suited as u32)
}

/// See the file's header.
pub(in crate::shard) struct Spool {
    budget: SpoolBudget,
    looked_at: Nanoseconds,
    look_wanted: bool,
    /// What the shard had received then.
    received_bytes: u64,
    /// Jobs under way, by slot.
    deleting: BTreeMap<u32, usize>,
    /// What they delete.
    deleting_bytes: u64,
}

impl Spool {
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget: SpoolBudget::new(budget_bytes),
            looked_at: 0,
            look_wanted: false,
            received_bytes: 0,
            deleting: BTreeMap::new(),
            deleting_bytes: 0,
        }
    }

    /// Nothing more is fetched until followers have what is held.
    pub fn is_full(&self) -> bool {
        self.budget.is_full()
    }

    /// Files of the slot are being deleted.
    pub fn gives_up(&self, slot: u32) -> bool {
        self.deleting.contains_key(&slot)
    }

    /// When to look again although nothing comes: followers may have fetched what was missing.
    pub fn deadline(&self) -> Option<Nanoseconds> {
        self.budget.is_pressed().then_some(self.looked_at + LOOK_NS)
    }

    fn is_due(&self, now: Nanoseconds, received_bytes: u64) -> bool {
        let part = self.budget.budget_bytes() / LOOKS_PER_BUDGET;
        self.look_wanted || now >= self.looked_at + LOOK_NS || received_bytes - self.received_bytes >= part
    }
}

/// What a slot gave up and still has.
fn given_up_bytes(entry: &Slot) -> u64 {
    let served = entry.served.iter().flat_map(|served| served.wholly_below(entry.log.held_start));
    served.map(|held| held.bytes).sum()
}

/// What a slot holds, and what of it may go.
fn holding(slot: u32, entry: &Slot) -> Option<Holding> {
    let served = entry.served.as_ref()?;
    let log = &entry.log;
    let given_up = served.wholly_below(log.held_start).count();
    // A roll is noted at once, so the segment that closes is among them.
    let closed = served.closed().skip(given_up);
    let bytes = closed.clone().map(|held| held.bytes).sum::<u64>() + log.active.placed.position;
    let mut holding = Holding { slot, bytes, ..Holding::default() };
    let Some(lead) = entry.lead.as_ref().filter(|_| !entry.removing) else { return Some(holding) };
    let high_watermark = lead.leadership.high_watermark();
    let Some(durable) = lead.leadership.durable_end().map(|end| end.min(high_watermark)) else {
        return Some(holding);
    };
    let spare = closed.take_while(|held| held.end <= durable && held.base < log.checkpoint.segment_base);
    let next_base = |base| served.after(base).map_or(log.active.base(), |next| next.segment);
    holding.spare = spare.map(|held| Spare { bytes: held.bytes, next_base: next_base(held.base) }).collect();
    let writer = &log.active.writer;
    let idle = log.closing.is_none() && writer.is_settled() && writer.filled() == writer.verified().position;
    let delivered = writer.verified().position > 0 && writer.verified().next <= durable;
    holding.rollable_bytes = (idle && delivered).then_some(writer.verified().position);
    Some(holding)
}

impl<E: Engine> Shard<E> {
    /// Looks at the spool when it is time to.
    pub(in crate::shard) fn tend_spool(&mut self, now: Nanoseconds) {
        let received_bytes = self.counters.received_bytes.load(Relaxed);
        let wanted = self.options.is_guest && self.halted.is_none() && !self.draining;
        if !wanted || !self.spool.is_due(now, received_bytes) {
            return;
        }
        (self.spool.looked_at, self.spool.received_bytes) = (now, received_bytes);
        self.spool.look_wanted = false;
        let entries = self.slots.iter().enumerate();
        let holdings = entries.filter_map(|(slot, entry)| holding(slot as u32, entry.as_ref()?)).collect();
        let leaving =
            self.slots.iter().flatten().map(given_up_bytes).sum::<u64>() + self.spool.deleting_bytes;
        let Plan { held_bytes, held_starts, rolls, became_stuck } = self.spool.budget.look(holdings, leaving);
        self.counters.spool_bytes.store(held_bytes, Relaxed);
        for (slot, held_start) in held_starts {
            let entry = self.slots[slot as usize].as_mut().expect("it was looked at");
            entry.log.held_start = held_start;
            self.flusher.want_checkpoint_of(slot);
        }
        rolls.into_iter().for_each(|slot| self.roll_delivered(slot));
        if became_stuck {
            let budget_bytes = self.spool.budget.budget_bytes();
            self.events.push_back(Event::SpoolFull { held_bytes, budget_bytes });
        }
    }

    /// Closes a segment that every needed follower has, so that it can be given up.
    fn roll_delivered(&mut self, slot: u32) {
        if self.lanes.iter().any(|lane| lane.current.as_ref().is_some_and(|current| current.slot == slot)) {
            return;
        }
        let entry = self.slots[slot as usize].as_mut().expect("it was looked at");
        let end = entry.log.active.writer.verified();
        entry.log.roll(entry.partition.ledger.fetch());
        if let Some(served) = &mut entry.served {
            served.rolled(end.position, end.next, entry.log.active.base());
        }
        if !std::mem::replace(&mut entry.dirty, true) {
            self.flusher.dirty(slot);
        }
        // Only a flush lets the next checkpoint name the new segment.
        self.flusher.want_flush();
        self.flusher.want_checkpoint_of(slot);
        self.write_due(slot);
    }

    /// The journal says what the partition holds: what lies below goes.
    pub(in crate::shard) fn give_up_below(&mut self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].as_ref() else { return };
        let Some(served) = entry.served.as_ref().filter(|_| !entry.removing) else { return };
        let (held_start, restart) = (entry.log.checkpoint.held_start, entry.log.checkpoint.segment_base);
        let doomed: Vec<(Offset, u64)> = served
            .wholly_below(held_start)
            .filter(|held| held.base < restart)
            .map(|held| (held.base, held.bytes))
            .collect();
        if doomed.is_empty() {
            return;
        }
        let directory = entry.log.directory.clone();
        self.forget_below(slot, held_start);
        for chunk in doomed.chunks(SEGMENTS_PER_JOB) {
            // Oldest first, and the `.log`, by which a segment is known, last of each.
            let files = chunk.iter().flat_map(|(base, _)| {
                SegmentFile::ALL.into_iter().rev().map(|file| directory.join(file.name(*base)))
            });
            let mut steps: Vec<Step> = files.map(|path| Step::Remove { path }).collect();
            steps.push(Step::SyncDirectory { path: directory.clone() });
            let bytes = chunk.iter().map(|(_, bytes)| bytes).sum();
            self.spool.deleting_bytes += bytes;
            *self.spool.deleting.entry(slot).or_default() += 1;
            self.submit(Pending::Job(Work::GiveUp { slot, bytes }), Operation::Job(Job::new(steps)));
        }
    }

    /// Segments wholly below are served no more: trimmed at the source, or given up here.
    pub(in crate::shard) fn forget_below(&mut self, slot: u32, start: Offset) {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        let Some(served) = &mut entry.served else { return };
        let before = served.start();
        served.forget_wholly_below(start);
        let first = served.start();
        if first == before {
            return;
        }
        if let Some(lead) = &mut entry.lead {
            // A place at the end of what is gone is the beginning of what follows; it is found again.
            lead.cursors.retain(|_, (_, place)| place.segment >= first);
        }
        for follower in self.guests.followers.iter_mut().flatten() {
            follower.walks.retain(|walk| walk.slot != slot || walk.place.segment >= first);
        }
        self.close_readers_below(slot, first.value());
    }

    pub(in crate::shard) fn gave_up(&mut self, slot: u32, bytes: u64, outcome: &JobOutcome) {
        let jobs = self.spool.deleting.get_mut(&slot).expect("a job under way is counted");
        *jobs -= 1;
        if *jobs == 0 {
            self.spool.deleting.remove(&slot);
        }
        self.spool.deleting_bytes -= bytes;
        // Fetching may go on at once.
        self.spool.look_wanted |= self.spool.is_full();
        if let Some(failure) = &outcome.failed {
            let path =
                self.slots[slot as usize].as_ref().map(|entry| entry.log.directory.display().to_string());
            let step = &outcome.steps[failure.step];
            return self.halt(action_of(step), path.unwrap_or_default(), failure.error);
        }
        self.counters.spool_deleted_bytes.fetch_add(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_suit_the_budget_unless_smaller_ones_were_asked_for() {
        let mebibyte = 1u32 << 20;
        assert_eq!(spool_segment_bytes(256 * mebibyte, 0), 256 * mebibyte);
        assert_eq!(spool_segment_bytes(256 * mebibyte, 16 << 20), 8 * mebibyte);
        assert_eq!(spool_segment_bytes(256 * mebibyte, 1 << 30), 16 * mebibyte);
        assert_eq!(spool_segment_bytes(256 * mebibyte, 20 << 30), 64 * mebibyte);
        assert_eq!(spool_segment_bytes(mebibyte, 20 << 30), mebibyte);
    }
}
