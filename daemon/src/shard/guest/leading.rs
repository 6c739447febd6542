//! Which partitions this shard leads in the destination, and what their followers have proven.
//!
//! A partition leads from `Lead` on, with every later `Lead` naming a newer state of the metadata log.
//! Bytes that are verified, a barrier that is lifted, a log start that moves and a new epoch are news: every
//! connection that fetches the partition is looked at again at once.

use super::super::mailbox::{Event, FollowerStanding, LeadAssignment, LeadStanding, RegisteredBroker};
use super::super::partition_log::PartitionLog;
use super::super::served_log::{Place, ServedLog};
use super::super::{Shard, Slot};
use super::Led;
use std::collections::BTreeMap;
use std::sync::Arc;
use twinlog_io::Engine;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::guest::leadership::{Leadership, LogView};
use twinlog_sync::ledger::Ledger;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::{Nanoseconds, SECOND};

/// How often partitions are searched for followers that gave them up; each look is at every one of them.
const STALLED_LOOK_NS: Nanoseconds = SECOND;

/// The broker id of a log that nobody leads.
const NO_GUEST: i32 = -1;

/// A partition that is led here.
pub(in crate::shard) struct Lead {
    pub leadership: Leadership,
    /// The destination's topic.
    pub topic_id: TopicId,
    pub index: i32,
    pub guest: i32,
    /// What followers lack is read from other followers first.
    pub is_compacted: bool,
    /// The high watermark of which every session has news.
    pub told_high_watermark: Offset,
    /// What batches of this log are stamped with; one epoch at least.
    pub stamps: EpochHistory,
    /// Where each follower's next fetch will begin: its offset, and the place.
    pub cursors: BTreeMap<i32, (Offset, Place)>,
    /// The control core was told that the leader epoch is too low.
    epoch_wanted: bool,
    /// Followers of which the control core was told that they stalled, under this leader epoch.
    told_stalled: Vec<(i32, LeaderEpoch)>,
}

/// What followers see of a slot's log.
pub(in crate::shard) fn view<'a>(
    ledger: &Ledger,
    log: &PartitionLog,
    served: &ServedLog,
    stamps: &'a EpochHistory,
) -> LogView<'a> {
    let log_start = ledger.log_start();
    let held_start = served.start().max(log_start);
    LogView { log_start, held_start, log_end: log.servable().next, stamp_epochs: stamps }
}

/// The stamps of a log, never without one: before its first checkpoint nothing is written down.
fn stamps_of(checkpoint: &PartitionCheckpoint) -> EpochHistory {
    let mut stamps = checkpoint.stamp_epochs.clone();
    if stamps.is_empty() {
        let recorded = stamps.record(checkpoint.stamp_epoch(), checkpoint.log_start);
        assert!(recorded.is_ok(), "the first epoch of an empty history is always accepted");
    }
    stamps
}

/// Where the log of a store stands: nobody leads or follows it.
fn stored_standing(entry: &Slot) -> LeadStanding {
    let (ledger, log_end) = (&entry.partition.ledger, entry.log.servable().next);
    LeadStanding {
        leads: false,
        guest: NO_GUEST,
        leader_epoch: entry.log.stamp_epoch(),
        partition_epoch: 0,
        log_start: ledger.log_start(),
        log_end,
        high_watermark: log_end,
        open_transactions: entry.partition.transactions.len(),
        first_open: entry.partition.transactions.first_open_offset(),
        followers: Vec::new(),
    }
}

impl<E: Engine> Shard<E> {
    pub(in crate::shard) fn brokers_are(&mut self, brokers: Arc<[RegisteredBroker]>) {
        self.guests.brokers = brokers;
    }

    /// The metadata log names this partition's leader: us, at this epoch, with these followers.
    pub(in crate::shard) fn lead(&mut self, key: PartitionKey, assignment: LeadAssignment) {
        let now = self.engine.now();
        let Some(slot) = self.by_key.get(&key).copied() else { return };
        let entry = self.slots[slot as usize].as_mut().expect("a known key has a slot");
        if entry.removing {
            return;
        }
        let LeadAssignment { guest, topic_id, leader_epoch, partition_epoch, .. } = assignment;
        let name = assignment.topic.as_bytes().to_vec();
        let index = key.index;
        let lead = entry.lead.get_or_insert_with(|| {
            let delivered = entry.partition.ledger.delivered();
            Box::new(Lead {
                leadership: Leadership::new(assignment.durable_replicas, delivered),
                topic_id,
                index,
                guest,
                is_compacted: assignment.is_compacted,
                told_high_watermark: delivered,
                stamps: stamps_of(&entry.log.checkpoint),
                cursors: BTreeMap::new(),
                epoch_wanted: false,
                told_stalled: Vec::new(),
            })
        });
        lead.is_compacted = assignment.is_compacted;
        if lead.leadership.leader_epoch() != leader_epoch {
            lead.epoch_wanted = false;
        }
        for (broker, registration) in &assignment.followers {
            lead.leadership.set_follower(now, *broker, *registration);
        }
        let named = |broker: &i32| assignment.followers.iter().any(|(id, _)| id == broker);
        let gone: Vec<i32> = lead.leadership.ends().map(|(id, _)| id).filter(|id| !named(id)).collect();
        for broker in gone {
            lead.leadership.remove_follower(broker);
            lead.cursors.remove(&broker);
        }
        match assignment.leads {
            true => lead.leadership.lead(now, leader_epoch, partition_epoch),
            false => lead.leadership.resign(),
        }
        self.guests.led.insert((topic_id, index), Led::Here(slot));
        self.guests.topics_by_name.insert(name, topic_id);
        self.log_moved(slot);
    }

    /// The partition is not ours any more: what followers ask of it gets error 6, then 100.
    pub(in crate::shard) fn forget_lead(&mut self, key: PartitionKey) {
        let Some(slot) = self.by_key.get(&key).copied() else { return };
        let entry = self.slots[slot as usize].as_mut().expect("a known key has a slot");
        if let Some(lead) = entry.lead.take() {
            self.guests.led.remove(&(lead.topic_id, lead.index));
        }
        self.slot_leaves_followers(slot);
    }

    /// The slot is about to be given back: no follower may be served from it any more.
    pub(in crate::shard) fn slot_leaves_followers(&mut self, slot: u32) {
        if let Some(lead) = self.slots[slot as usize].as_ref().and_then(|entry| entry.lead.as_ref()) {
            self.guests.led.insert((lead.topic_id, lead.index), Led::Away);
        }
        for index in 0..self.guests.followers.len() as u32 {
            let Some(follower) = self.guests.followers[index as usize].as_mut() else { continue };
            follower.session.partition_gone(slot);
            if follower.is_sending_from(slot) {
                self.close_follower(index);
            } else {
                self.answer_follower(index);
            }
        }
        self.close_readers_of(slot);
        self.forget_reads_of(slot);
    }

    /// Bytes, barrier, log start or epoch of a partition changed: its high watermark and its followers follow.
    pub(in crate::shard) fn log_moved(&mut self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        let Some((lead, served)) = entry.lead.as_mut().zip(entry.served.as_mut()) else { return };
        let seen = view(&entry.partition.ledger, &entry.log, served, &lead.stamps);
        lead.leadership.log_moved(&seen);
        let held_back = lead.leadership.leads() && lead.leadership.leader_epoch() < entry.log.stamp_epoch();
        if held_back && !std::mem::replace(&mut lead.epoch_wanted, true) {
            let (key, stamp) = (entry.partition.key, entry.log.stamp_epoch());
            self.events.push_back(Event::EpochWanted { key, stamp });
        }
        self.deliver(slot);
        self.tell_followers(slot);
    }

    /// Connections that fetch the partition have something to look at.
    pub(in crate::shard) fn tell_followers(&mut self, slot: u32) {
        let Some(lead) = self.slots[slot as usize].as_ref().and_then(|entry| entry.lead.as_ref()) else {
            return;
        };
        let guest = lead.guest;
        for index in 0..self.guests.followers.len() as u32 {
            let Some(follower) = self.guests.followers[index as usize].as_mut() else { continue };
            if follower.guest == guest && follower.session.news(slot) {
                self.answer_follower(index);
            }
        }
    }

    /// What is delivered is what enough followers have, as far as it is in our files.
    pub(in crate::shard) fn deliver(&mut self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        let Slot { partition, lead: Some(lead), .. } = entry else { return };
        let delivered = lead.leadership.high_watermark().min(partition.ledger.log_end());
        if delivered > partition.ledger.delivered() {
            partition.ledger.delivered_to(delivered);
            self.publish(slot);
        }
    }

    /// Stops appending, and serves nothing at or beyond `at`. What is not flushed yet is flushed at once: a promote
    /// waits for it, and a partition that has just caught up would wait for the long interval of catching up.
    pub(in crate::shard) fn freeze(&mut self, key: PartitionKey, at: Option<Offset>) {
        let Some(slot) = self.by_key.get(&key).copied() else { return };
        let entry = self.slots[slot as usize].as_mut().expect("a known key has a slot");
        if let (Some(lead), Some(at)) = (&mut entry.lead, at) {
            lead.leadership.freeze(at);
        }
        entry.partition.freeze();
        if entry.dirty {
            self.flusher.want_flush();
        }
        self.route_partition(slot);
    }

    /// Takes a freeze back.
    pub(in crate::shard) fn thaw(&mut self, key: PartitionKey) {
        let Some(slot) = self.by_key.get(&key).copied() else { return };
        let entry = self.slots[slot as usize].as_mut().expect("a known key has a slot");
        if let Some(lead) = &mut entry.lead {
            lead.leadership.thaw();
        }
        entry.partition.thaw();
        self.route_partition(slot);
        self.log_moved(slot);
    }

    /// Tells where the partition and its followers stand.
    pub(in crate::shard) fn tell_standing(&mut self, key: PartitionKey) {
        let now = self.engine.now();
        let slot = self.by_key.get(&key).copied();
        let standing = slot.and_then(|slot| {
            let entry = self.slots[slot as usize].as_ref()?;
            let Some(lead) = entry.lead.as_ref() else {
                return (!self.options.is_guest).then(|| Box::new(stored_standing(entry)));
            };
            let asked = |broker: i32| self.asked_at(slot, broker);
            let followers = lead.leadership.ends().map(|(broker, follower)| FollowerStanding {
                broker,
                broker_epoch: follower.broker_epoch,
                unfenced: follower.unfenced,
                in_target: follower.in_target,
                start: follower.log_start,
                end: follower.proven_end,
                age_ns: asked(broker).max(follower.proven_at).map(|at| now.saturating_sub(at)),
            });
            Some(Box::new(LeadStanding {
                leads: lead.leadership.leads(),
                guest: lead.guest,
                leader_epoch: lead.leadership.leader_epoch(),
                partition_epoch: lead.leadership.partition_epoch(),
                log_start: entry.partition.ledger.log_start(),
                log_end: entry.log.servable().next,
                high_watermark: lead.leadership.high_watermark(),
                open_transactions: entry.partition.transactions.len(),
                first_open: entry.partition.transactions.first_open_offset(),
                followers: followers.collect(),
            }))
        });
        self.events.push_back(Event::Standing { key, standing });
    }

    /// When a broker last asked for this partition, by name or within a session.
    fn asked_at(&self, slot: u32, broker: i32) -> Option<Nanoseconds> {
        let followers = self.guests.followers.iter().flatten();
        let of_broker = followers.filter(|follower| follower.replica.is_some_and(|(id, _)| id == broker));
        of_broker.filter_map(|follower| follower.session.asked_for(slot)).max()
    }

    /// Looks for followers that gave a partition up; only a new leader epoch brings them back.
    pub(in crate::shard) fn look_for_stalled(&mut self, now: Nanoseconds) {
        if self.guests.led.is_empty() || now < self.guests.looked_at + STALLED_LOOK_NS {
            return;
        }
        self.guests.looked_at = now;
        let mut told = Vec::new();
        for (index, entry) in self.slots.iter().enumerate() {
            let Some((entry, lead)) = entry.as_ref().and_then(|entry| Some((entry, entry.lead.as_ref()?)))
            else {
                continue;
            };
            let epoch = lead.leadership.leader_epoch();
            let stalled = lead.leadership.stalled(now, |broker| self.asked_at(index as u32, broker));
            let new = stalled.filter(|each| !lead.told_stalled.contains(&(each.broker_id, epoch)));
            told.extend(new.map(|each| (index, entry.partition.key, each.broker_id, epoch)));
        }
        for (index, key, broker, leader_epoch) in told {
            let lead = self.slots[index].as_mut().and_then(|entry| entry.lead.as_mut());
            let lead = lead.expect("it was led a moment ago");
            lead.told_stalled.retain(|(_, epoch)| *epoch == leader_epoch);
            lead.told_stalled.push((broker, leader_epoch));
            self.events.push_back(Event::FollowerStalled { key, broker, leader_epoch });
        }
    }
}
