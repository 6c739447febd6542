//! Hand-overs of a store: partitions leave their shards, their files are looked at, and the answer tells of them.
//!
//! ```text
//!   Seal --> Remove to each shard --> parked, closed --> one look at the files of all --> Sealed
//!   Thaw --> what is closed is opened again, as after any stop
//! ```
//! A partition without a source is opened from its files alone, for a failover only: until that is over nothing is
//! fetched for it. Files are never changed here.

use super::{HandOverOutcome, HandOverRow, HandOvers, Supervisor, allows, outcome, wall_clock_ms};
use crate::admin::answer::{OpenTransactionView, StoredPartitionView, StoredTopicView};
use crate::control::mirror::{Phase, Replacement};
use crate::control::state::HandOverKind;
use crate::store::{NotReady, ready_partitions};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use tracing::warn;
use twinlog_io::RealDisk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::hand_over::{Event, SealedLog};

/// Where a hand-over's partitions are in its options.
pub(super) const PARTITIONS: &str = "partitions";
/// Where what is ready is in a hand-over's answer.
pub(super) const STORED: &str = "stored";
/// Open transactions that the answer names for a partition; the others are counted.
const OPEN_NAMED_MAX: usize = 100;

/// The answer to [`twinlog_sync::hand_over::Action::Seal`], and whether log starts are to be written first.
pub struct Sealed {
    topic: String,
    result: Result<Vec<PartitionCheckpoint>, NotReady>,
}

/// Where the source said that its logs end, and when it said so, by the wall clock.
#[derive(Clone, Debug)]
pub(super) struct SourceReadings {
    /// Empty of a failover.
    ends: BTreeMap<i32, i64>,
    captured_ms: Option<i64>,
    proven_ms: Option<i64>,
}

impl SourceReadings {
    /// What is kept of them: where the source may move, later steps keep our own ends in their place.
    pub fn of(row: &HandOverRow) -> Self {
        let is_exact = row.kind == HandOverKind::Promote && !allows(row, "allow_moving_source");
        let ends = if is_exact { row.captured_ends.clone() } else { BTreeMap::new() };
        Self { ends, captured_ms: None, proven_ms: None }
    }

    /// These are kept as the source's ends.
    pub fn captured(&mut self, ends: &BTreeMap<i32, Offset>) {
        self.ends = ends.iter().map(|(index, end)| (*index, end.value())).collect();
    }

    /// The source has answered. A hand-over that goes on after a restart has its ends, and asks for the proof only.
    pub fn heard(&mut self, captures: bool) {
        let now_ms = Some(wall_clock_ms());
        if captures { self.captured_ms = now_ms } else { self.proven_ms = now_ms }
    }
}

/// The partitions that an order was for.
pub(super) fn partitions_in(row: &HandOverRow) -> BTreeSet<i32> {
    let listed = row.options.get(PARTITIONS).and_then(Value::as_array);
    let numbers = listed.into_iter().flatten().filter_map(Value::as_i64);
    numbers.filter_map(|number| i32::try_from(number).ok()).collect()
}

fn sealed_log(checkpoint: &PartitionCheckpoint) -> SealedLog {
    let stamps = checkpoint.stamp_epochs.entries().iter();
    let used = stamps.filter(|entry| entry.start < checkpoint.log_end).map(|entry| entry.epoch.0);
    SealedLog {
        log_start: checkpoint.log_start,
        log_end: checkpoint.log_end,
        leader_epoch: used.max().unwrap_or(0),
        open: checkpoint.open_transactions.iter().collect(),
    }
}

/// What of it is ready, for its answer.
pub(super) fn stored_view(
    directory: String,
    logs: &BTreeMap<i32, SealedLog>,
    readings: &SourceReadings,
) -> StoredTopicView {
    let partition = |(index, log): (&i32, &SealedLog)| StoredPartitionView {
        partition_id: *index,
        captured_end: readings.ends.get(index).copied(),
        flushed_end: log.log_end.value(),
        log_start: log.log_start.value(),
        log_end: log.log_end.value(),
        last_stable_offset: log.last_stable_offset().value(),
        leader_epoch: log.leader_epoch,
        open_transactions: log
            .open
            .iter()
            .take(OPEN_NAMED_MAX)
            .map(|(producer_id, first)| OpenTransactionView {
                producer_id: *producer_id,
                first_offset: first.value(),
            })
            .collect(),
        open_not_named: log.open.len().saturating_sub(OPEN_NAMED_MAX),
    };
    StoredTopicView {
        directory,
        captured_ms: readings.captured_ms,
        proven_ms: readings.proven_ms,
        partitions: logs.iter().map(partition).collect(),
    }
}

impl HandOvers {
    /// A failover of a store's topic is under way.
    pub(in crate::control::supervisor) fn fails_over(&self, topic: &str) -> bool {
        self.running.get(topic).is_some_and(|running| running.kind == HandOverKind::Failover)
    }
}

impl Supervisor {
    /// Partitions that a store has of a topic, in a shard or in its files alone.
    pub(super) fn stored_indexes(&self, topic: &str) -> BTreeSet<i32> {
        let here = self.partitions_of(topic);
        let known = self.checkpoints.values().filter(|known| !known.removed);
        let known = known.map(|known| &known.partition).filter(|each| each.topic() == topic);
        here.iter().chain(known).map(TopicPartition::partition).collect()
    }

    /// Where the directories of a topic are.
    pub(super) fn stored_directory(&self) -> String {
        self.settings.link_directory().display().to_string()
    }

    /// What an order says of a store's topic before it is carried out.
    pub(super) fn store_note(&self, hand_overs: &HandOvers, topic: &str) -> String {
        let open = self.partitions_of(topic).into_iter().filter_map(|partition| {
            let (_, told) = hand_overs.standings.get(&self.mirrors[&partition].key)?;
            let (count, first) = (told.as_ref()?.open_transactions, told.as_ref()?.first_open?);
            Some(format!("; {partition} holds {count} open transactions, the first from offset {first} on"))
        });
        let open: String = open.collect();
        format!("its files in {} are closed, ready to be adopted{open}", self.stored_directory())
    }

    /// Partitions leave their shards; once all have, their files are looked at.
    pub(super) fn seal(&mut self, topic: &str, indexes: &[i32]) -> Vec<Event> {
        let mut partitions = Vec::new();
        for index in indexes {
            let partition = TopicPartition::new(topic, *index).expect("the name of a mirror topic is legal");
            let Some(mirror) = self.mirrors.get(&partition) else {
                return not_sealed(format!("{partition} is not opened yet"));
            };
            if mirror.is_in_shard() {
                self.let_go(&partition, Replacement::Sealed);
            }
            partitions.push(partition);
        }
        self.look_when_sealed(topic, partitions);
        Vec::new()
    }

    /// A shard answers within moments, or its disk is slow: looked at again until its partitions are out.
    fn look_when_sealed(&mut self, topic: &str, partitions: Vec<TopicPartition>) {
        let is_out = |each: &TopicPartition| self.mirrors.get(each).is_some_and(|mirror| mirror.sealed);
        if !partitions.iter().all(is_out) {
            self.sealing.insert(topic.to_owned(), partitions);
            return;
        }
        let (directory, journals) = (self.settings.link_directory(), self.settings.journal_directory());
        let topic = topic.to_owned();
        self.spawn_store_job(move || {
            let result = ready_partitions(&mut RealDisk, &directory, &journals, &partitions);
            outcome(HandOverOutcome::Sealed(Box::new(Sealed { topic, result })))
        });
    }

    pub(super) fn drive_sealing(&mut self, hand_overs: &HandOvers) {
        for (topic, partitions) in std::mem::take(&mut self.sealing) {
            if hand_overs.running.contains_key(&topic) {
                self.look_when_sealed(&topic, partitions);
            }
        }
    }

    pub(super) fn sealed_came(&mut self, hand_overs: &mut HandOvers, sealed: Sealed) {
        let Sealed { topic, result } = sealed;
        if let Err(NotReady::LogStart { .. }) = &result {
            // Written with the next trim, and looked at again.
            (self.log_starts_changed, self.trimmed_at) = (true, self.progress.started_at);
        }
        let logs = result.map(|checkpoints| {
            let log = |known: &PartitionCheckpoint| (known.partition.partition(), sealed_log(known));
            checkpoints.iter().map(log).collect()
        });
        if let Err(why) = &logs {
            warn!("{topic} is not ready to be adopted: {why}; looked at again");
        }
        hand_overs.handle_all(vec![(topic, Event::Sealed(logs.map_err(|why| why.to_string())))]);
    }

    /// What was closed is opened again, what stands still is fetched again.
    pub(super) fn reopen_sealed(&mut self, topic: &str) {
        self.sealing.remove(topic);
        for partition in self.partitions_of(topic) {
            let mirror = self.mirrors.get_mut(&partition).expect("listed from the table");
            if mirror.phase == Phase::Leaving(Replacement::Sealed) {
                mirror.phase = Phase::Leaving(Replacement::Reopen);
            }
            if std::mem::take(&mut mirror.sealed) && mirror.stopped.is_none() {
                self.unpark(&partition, Instant::now());
            }
        }
    }

    /// A partition of a failover that waits for a source that may be gone is opened from its files. Nothing is
    /// asked of one that a job or its shard has.
    pub(super) fn open_for_failover(&mut self, topic: &str, index: i32) {
        let Ok(partition) = TopicPartition::new(topic, index) else { return };
        let Some(mirror) = self.mirrors.get_mut(&partition) else { return };
        let parked = mirror.phase == Phase::Parked && !mirror.sealed;
        // Once: what its files refuse then, they refuse again.
        if mirror.without_source || !(parked || matches!(mirror.phase, Phase::Waiting | Phase::Asking)) {
            return;
        }
        (mirror.without_source, mirror.leader, mirror.stopped) = (true, None, None);
        mirror.source_start = self.log_starts.get(&partition).copied().unwrap_or(Offset::ZERO);
        self.waiting.remove(&partition);
        self.recover(&partition);
    }
}

fn not_sealed(why: String) -> Vec<Event> {
    vec![Event::Sealed(Err(why))]
}
