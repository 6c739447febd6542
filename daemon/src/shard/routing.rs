//! Partitions come, go and move between lanes: what their machines ask for is carried out here.
//!
//! ```text
//!   AddPartition --> slot --> leader known --> session of (broker, lane) <--> moves with leader and lag
//!   Remove, Drain --> out of the session --> flushed --> checkpointed --> file trimmed and closed --> gone
//! ```

use super::lane_io::LaneIo;
use super::mailbox::{AddPartition, Event, PartitionState};
use super::partition_log::{FileState, PartitionLog};
use super::served_log::ServedLog;
use super::{Shard, Slot};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::Engine;
use twinlog_sync::credits::LaneKind;
use twinlog_sync::guest::read_through::Provider;
use twinlog_sync::lane::{Lane, LaneFault};
use twinlog_sync::ledger::Ledger;
use twinlog_sync::partition::{Action, Partition, Recovered, State};
use twinlog_sync::session::PartitionKey;

impl<E: Engine> Shard<E> {
    pub(super) fn broker_is(&mut self, id: i32, address: SocketAddr, host: Arc<str>) {
        let known = self.brokers.insert(id, (address, host));
        if known.is_some_and(|(known, _)| known != address) {
            for index in 0..self.lanes.len() as u32 {
                let lane = &mut self.lanes[index as usize];
                let of_source = !matches!(lane.reads_from, Some(Provider::Follower(_)));
                if of_source && lane.lane.broker == id && lane.address != Some(address) {
                    lane.lane.failed(LaneFault::Moved);
                    self.route_lane(index);
                }
            }
        }
    }

    pub(super) fn add_partition(&mut self, add: AddPartition) {
        assert!(!self.by_key.contains_key(&add.key), "partition {:?} is added twice", add.key);
        self.topics_by_id.insert(add.topic.id, add.key.topic);
        self.topics_by_name.insert(add.topic.name.clone().into_bytes(), add.key.topic);
        let checkpoint = &add.recovered.checkpoint;
        let recovered = Recovered {
            ledger: Ledger::recovered(checkpoint.log_start, checkpoint.log_end),
            epochs: checkpoint.source_epochs.clone(),
            transactions: checkpoint.open_transactions.clone(),
            holds_batches: add.recovered.holds_batches,
        };
        let (bytes_max, batch_bytes_max) = (self.options.partition_bytes_max, self.options.batch_bytes_max);
        let served = self.options.is_guest.then(|| {
            let recovered = &add.recovered;
            let (base, position) = (checkpoint.segment_base, checkpoint.position);
            ServedLog::recovered(&recovered.closed, base, position, checkpoint.log_end)
        });
        let slot = Slot {
            served,
            lead: None,
            log: PartitionLog::recovered(add.directory, &add.recovered),
            partition: Partition::new(add.key, add.topic, recovered, bytes_max, batch_bytes_max)
                .with_backoff(self.options.lane.backoff),
            counters: add.counters,
            lane: None,
            flushing: false,
            evicting: false,
            warm: false,
            opened: false,
            removing: false,
            dirty: false,
            timer: None,
        };
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(slot);
        self.departed.remove(&add.key);
        self.by_key.insert(add.key, index as u32);
        self.publish(index as u32);
    }

    pub(super) fn remove_partition(&mut self, key: PartitionKey) {
        let Some(slot) = self.by_key.get(&key).copied() else {
            self.events.push_back(Event::Removed { key });
            return;
        };
        self.let_go(slot);
    }

    /// Takes a partition out of its session; what is left of it happens in [`Self::finish_leaving`].
    fn let_go(&mut self, slot: u32) {
        if let Some(entry) = self.slots[slot as usize].as_mut() {
            entry.removing = true;
            self.leaving.insert(slot);
            self.leave_session(slot);
            self.slot_leaves_followers(slot);
        }
    }

    pub(super) fn slots_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    pub(super) fn with_partition(&mut self, key: PartitionKey, act: impl FnOnce(&mut Partition)) {
        let Some(slot) = self.by_key.get(&key).copied() else { return };
        let entry = self.slots[slot as usize].as_mut().expect("a known key has a slot");
        if !entry.removing {
            act(&mut entry.partition);
            self.route_partition(slot);
        }
    }

    /// Carries out what the partition's machine asks for.
    pub(super) fn route_partition(&mut self, slot: u32) {
        while let Some(entry) = self.slots[slot as usize].as_mut()
            && let Some(action) = entry.partition.poll()
        {
            let key = entry.partition.key;
            match action {
                Action::UpdateSession => self.update_session(slot),
                Action::LeaveSession => self.leave_session(slot),
                Action::RefreshMetadata => self.events.push_back(Event::RefreshMetadata { key }),
                Action::Classify(fault) => {
                    let (epochs, ledger) = (entry.partition.epochs.clone(), entry.partition.ledger);
                    let (log_start, log_end) = (ledger.log_start(), ledger.fetch());
                    self.events.push_back(Event::Classify { key, fault, epochs, log_start, log_end });
                }
                Action::Stopped(fault) => self.events.push_back(Event::Stopped { key, fault }),
                Action::AccessLost(fault) => self.events.push_back(Event::AccessLost { key, fault }),
                Action::AccessRegained => self.events.push_back(Event::AccessRegained { key }),
                Action::Trimmed(log_start) => {
                    self.forget_below(slot, log_start);
                    self.events.push_back(Event::Trimmed { key, log_start });
                    self.log_moved(slot);
                }
            }
        }
        self.set_timer(slot);
        self.publish(slot);
    }

    fn set_timer(&mut self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        let deadline = entry.partition.deadline();
        if entry.timer != deadline {
            if let Some(old) = entry.timer.take() {
                self.timers.remove(&(old, slot));
            }
            entry.timer = deadline;
            self.timers.extend(deadline.map(|at| (at, slot)));
        }
    }

    fn update_session(&mut self, slot: u32) {
        let entry = self.slots[slot as usize].as_mut().expect("a routed slot is in use");
        if entry.removing {
            return;
        }
        let (Some(broker), Some(position)) = (entry.partition.broker(), entry.partition.position()) else {
            return;
        };
        let kind = entry.partition.lane();
        let index = self.lane_for(broker, kind);
        let now = self.engine.now();
        let compares = self.lanes[index as usize].lane.compares_epochs();
        let entry = self.slots[slot as usize].as_mut().expect("a routed slot is in use");
        if compares == Some(false) && entry.partition.confirm_epoch(now) {
            return;
        }
        if entry.lane != Some(index) {
            if let Some(old) = entry.lane {
                self.lanes[old as usize].lane.session.remove(entry.partition.key);
            }
            entry.lane = Some(index);
        }
        let (key, topic) = (entry.partition.key, entry.partition.topic.clone());
        self.lanes[index as usize].lane.session.set(key, &topic, position);
    }

    /// The broker's Fetch version has just become known: too old a one needs help to find lost data.
    pub(super) fn confirm_epochs(&mut self, index: u32) {
        let now = self.engine.now();
        let feeds = self.lanes[index as usize].reads_from.is_none();
        if feeds && self.lanes[index as usize].lane.compares_epochs() == Some(false) {
            let keys: Vec<PartitionKey> = self.lanes[index as usize].lane.session.keys().collect();
            for slot in keys.iter().filter_map(|key| self.by_key.get(key).copied()).collect::<Vec<_>>() {
                if let Some(entry) = self.slots[slot as usize].as_mut() {
                    entry.partition.confirm_epoch(now);
                    self.route_partition(slot);
                }
            }
        }
    }

    /// A connection has failed: partitions that read from a nearer replica through it go back to their leaders.
    pub(super) fn return_to_leaders(&mut self, index: u32) {
        let lane = &self.lanes[index as usize];
        if lane.reads_from.is_some() {
            return;
        }
        let broker = lane.lane.broker;
        let keys: Vec<PartitionKey> = lane.lane.session.keys().collect();
        for slot in keys.iter().filter_map(|key| self.by_key.get(key).copied()).collect::<Vec<_>>() {
            if let Some(entry) = self.slots[slot as usize].as_mut() {
                entry.partition.connection_failed(broker);
                self.route_partition(slot);
            }
        }
    }

    fn leave_session(&mut self, slot: u32) {
        let entry = self.slots[slot as usize].as_mut().expect("a routed slot is in use");
        if let Some(index) = entry.lane.take() {
            self.lanes[index as usize].lane.session.remove(entry.partition.key);
        }
    }

    fn lane_for(&mut self, broker: i32, kind: LaneKind) -> u32 {
        if let Some(index) = self.lane_index.get(&(broker, kind)) {
            return *index;
        }
        let seed = (self.options.index as u64) << 33 | (kind == LaneKind::Tail) as u64;
        let lane = Lane::new(broker, kind, self.options.lane.clone(), seed);
        self.lanes.push(LaneIo::new(lane, self.options.batch_bytes_max));
        let index = self.lanes.len() as u32 - 1;
        self.lane_index.insert((broker, kind), index);
        index
    }

    /// Lets go of what is leaving, as far as it is settled, and ends a drain.
    pub(super) fn finish_drain(&mut self) {
        if self.draining && self.leaving.len() < self.by_key.len() {
            let slots: Vec<u32> = self.by_key.values().copied().collect();
            slots.into_iter().for_each(|slot| self.let_go(slot));
        }
        if !self.leaving.is_empty() {
            self.finish_leaving();
        }
        if self.draining && !self.drained {
            let idle = self.operations.in_flight() == 0;
            let done = self.by_key.is_empty() && self.flusher.is_idle();
            if idle && (done || self.halted.is_some()) {
                self.drained = true;
                self.events.push_back(Event::Drained);
            }
        }
    }

    fn finish_leaving(&mut self) {
        for slot in self.leaving.clone() {
            let Some(entry) = self.slots[slot as usize].as_ref() else { continue };
            let busy = self.lanes.iter().any(|lane| lane.current.as_ref().is_some_and(|it| it.slot == slot));
            let settled = !busy
                && !entry.dirty
                && !entry.flushing
                && entry.log.closing.is_none()
                && !self.spool.gives_up(slot)
                && entry.log.active.writer.is_settled()
                && entry.partition.ledger.checkpoint() >= entry.partition.ledger.fetch();
            if !settled {
                continue;
            }
            match entry.log.active.file {
                FileState::Open(_) => {
                    self.try_close_idle(slot);
                }
                FileState::Closed => self.removed(slot),
                FileState::Opening | FileState::Closing(_) => {}
            }
        }
    }

    fn removed(&mut self, slot: u32) {
        let Some(mut entry) = self.slots[slot as usize].take() else { return };
        entry.log.active.writer.release(&mut self.pool);
        let key = entry.partition.key;
        // Its record stays in the journal whenever that is written anew: its files are still there.
        self.departed.insert(entry.partition.key, entry.log.checkpoint.clone());
        entry.counters.state.store(PartitionState::Removed as u32, Relaxed);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, slot));
        }
        self.leaving.remove(&slot);
        self.by_key.remove(&key);
        self.open_order.retain(|each| *each != slot);
        self.warm_order.retain(|each| *each != slot);
        self.waiting_for_file.remove(&slot);
        self.waiting_for_block.remove(&slot);
        if !self.draining {
            self.events.push_back(Event::Removed { key });
        }
    }

    /// Lets everyone read where this partition is.
    pub(super) fn publish(&self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].as_ref() else { return };
        let (ledger, source) = (&entry.partition.ledger, entry.partition.source());
        let counters = &entry.counters;
        counters.log_start.store(ledger.log_start().value(), Relaxed);
        counters.fetch.store(ledger.fetch().value(), Relaxed);
        counters.log_end.store(ledger.log_end().value(), Relaxed);
        counters.flushed.store(ledger.flushed().value(), Relaxed);
        counters.delivered.store(ledger.delivered().value(), Relaxed);
        // What the journal says, not the ledger's clamped value: files below it may still be needed.
        counters.checkpoint.store(entry.log.checkpoint.log_end.value(), Relaxed);
        let seen = source.seen_at > 0;
        counters.high_watermark.store(if seen { source.high_watermark } else { -1 }, Relaxed);
        counters.last_stable_offset.store(if seen { source.last_stable_offset } else { -1 }, Relaxed);
        counters.source_seen_at.store(source.seen_at, Relaxed);
        let state = match entry.partition.state() {
            State::AwaitingLeader => PartitionState::AwaitingLeader,
            State::Fetching => PartitionState::Fetching,
            State::BackingOff { .. } => PartitionState::BackingOff,
            State::Classifying => PartitionState::Classifying,
            State::Frozen => PartitionState::Frozen,
            State::Stopped(_) => PartitionState::Stopped,
        };
        counters.state.store(state as u32, Relaxed);
    }
}

impl<E: Engine> Shard<E> {
    /// After a drain every piece of memory is back in the pool; anything else is a leak.
    pub fn assert_all_memory_is_free(&self) {
        assert_eq!(self.pool.free_bytes(), self.pool.size_bytes(), "memory was not given back");
        assert_eq!(self.engine.arena().loans(), 0, "the kernel still holds memory");
    }
}

impl<E: Engine> Shard<E> {
    /// Whether there is something that must go on by itself, without a further command.
    pub fn has_work(&self) -> bool {
        !self.is_quiet() && self.lanes.iter().any(|lane| !lane.lane.session.is_empty())
    }

    /// Where everything stands, for a person who asks why nothing moves.
    pub fn describe(&self) -> String {
        let lanes = self.lanes.iter().map(|lane| {
            let at = lane.current.as_ref().map(|current| current.slot);
            let (state, stall, partitions) = (lane.lane.state(), lane.stall, lane.lane.session.len());
            format!(
                "lane {} {:?}: {state:?} {stall:?} at {at:?}, {partitions} partitions",
                lane.lane.broker, lane.lane.kind
            )
        });
        let slots = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let entry = slot.as_ref()?;
            let flags = [
                (entry.dirty, "dirty"),
                (entry.flushing, "flushing"),
                (entry.evicting, "evicting"),
                (entry.removing, "removing"),
            ];
            let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
            let closing =
                entry.log.closing.as_ref().map(|segment| format!("{:?} {:?}", segment.file, segment.writer));
            let active = &entry.log.active;
            Some(format!(
                "slot {index}: {:?} {flags:?} {:?} allocated {} {:?} closing {closing:?}",
                entry.partition.state(),
                active.file,
                active.allocated,
                active.writer
            ))
        });
        let rest = format!(
            "pool {} of {}, reserved {}, operations {}, retries {}, full {:?}, halted {:?}, {:?}",
            self.pool.free_bytes(),
            self.pool.size_bytes(),
            self.credits.reserved(),
            self.operations.in_flight(),
            self.retries.len(),
            self.disk_full_until,
            self.halted,
            self.flusher
        );
        lanes.chain(slots).chain([rest]).collect::<Vec<_>>().join("\n")
    }
}
