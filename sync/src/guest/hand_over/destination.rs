//! What the metadata log shows of one topic's partitions, and what the promote makes of it.
//!
//! ```text
//!   settled     replicas [900,1,2,3]  removing []      isr [900]
//!   pending     replicas [1,2,3,900]  removing [900]   isr [900]      as sent: [1,2,3]
//!   handed over replicas [1,2,3]      removing []      leader one of them
//! ```
//! A target that lacks a dead broker is pending as `[1,2,900,3] removing [900,3]` in some order: only what is
//! to stay is compared in order, for its first one becomes the leader.

use crate::metadata::ClusterImage;
use crate::metadata::image::Partition;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use twinlog_log_segment::files::TopicId;

/// A partition whose in-sync replicas are to be these, from the guest that leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    pub index: i32,
    pub guest: i32,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// The other members, with the epochs of their registrations; the guest's own is the owner's to add.
    pub followers: Vec<(i32, i64)>,
}

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Destination {
    /// `None` until the log was read once.
    partitions: Option<BTreeMap<i32, Partition>>,
    /// Brokers that are registered and unfenced, with their epochs.
    alive: BTreeMap<i32, i64>,
}

impl Destination {
    pub fn read(&mut self, image: &ClusterImage, topic: TopicId) {
        let partitions = image.topic(topic).map(|topic| topic.partitions.clone()).unwrap_or_default();
        self.partitions = Some(partitions);
        let alive = image.brokers().values().filter(|each| !each.fenced && !each.in_controlled_shutdown);
        self.alive = alive.map(|each| (each.broker, each.epoch)).collect();
    }

    pub fn is_known(&self) -> bool {
        self.partitions.is_some()
    }

    /// The log was read, and there is no such topic.
    pub fn is_gone(&self) -> bool {
        self.partitions.as_ref().is_some_and(BTreeMap::is_empty)
    }

    pub fn partitions(&self) -> impl Iterator<Item = (i32, &Partition)> {
        self.partitions.iter().flatten().map(|(index, partition)| (*index, partition))
    }

    pub fn indexes(&self) -> Vec<i32> {
        self.partitions().map(|(index, _)| index).collect()
    }

    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.as_ref()?.get(&index)
    }

    pub fn epoch_of(&self, broker: i32) -> Option<i64> {
        self.alive.get(&broker).copied()
    }

    /// Replicas that stay: the live ones that are not ours, in their order.
    pub fn target(&self, partition: &Partition, guests: &BTreeSet<i32>) -> Vec<i32> {
        let stays = |broker: &&i32| !guests.contains(broker) && self.alive.contains_key(broker);
        partition.replicas.iter().filter(stays).copied().collect()
    }

    pub fn targets(&self, guests: &BTreeSet<i32>) -> BTreeMap<i32, Vec<i32>> {
        self.partitions().map(|(index, partition)| (index, self.target(partition, guests))).collect()
    }

    /// Replicas that are not ours, dead or alive, in their order.
    pub fn full_replicas(&self, guests: &BTreeSet<i32>) -> BTreeMap<i32, Vec<i32>> {
        let theirs = |partition: &Partition| {
            partition.replicas.iter().filter(|broker| !guests.contains(broker)).copied().collect()
        };
        self.partitions().map(|(index, partition)| (index, theirs(partition))).collect()
    }

    pub fn left_out(&self, guests: &BTreeSet<i32>) -> BTreeSet<i32> {
        let all = self.partitions().flat_map(|(_, partition)| partition.replicas.iter().copied());
        all.filter(|broker| !guests.contains(broker) && !self.alive.contains_key(broker)).collect()
    }
}

/// The one of ours among a partition's replicas.
pub(super) fn guest_of(partition: &Partition, guests: &BTreeSet<i32>) -> Option<i32> {
    partition.replicas.iter().copied().find(|broker| guests.contains(broker))
}

/// None of ours is left in it.
pub(super) fn is_handed_over(partition: &Partition, guests: &BTreeSet<i32>) -> bool {
    guest_of(partition, guests).is_none() && partition.adding.is_empty() && partition.removing.is_empty()
}

/// Its replicas are to become exactly `target`.
pub(super) fn is_pending(partition: &Partition, target: &[i32]) -> bool {
    let removing: BTreeSet<i32> = partition.removing.iter().copied().collect();
    let staying = partition.replicas.iter().filter(|broker| !removing.contains(broker));
    !removing.is_empty() && partition.adding.is_empty() && staying.eq(target)
}

/// Something is under way that a promote began.
pub(super) fn is_reassigning(partition: &Partition) -> bool {
    !partition.removing.is_empty() || !partition.adding.is_empty()
}
