//! Partitions that are mirrors no more: taken out of their shards, and forgotten here.
//!
//! Their files and checkpoints stay: whoever deletes them does it after this. Nothing of a shard's memory is
//! left behind; a follower that still asks is told that we do not lead.

use super::Supervisor;
use crate::control::mirror::{Phase, Replacement};
use twinlog_log_segment::files::TopicPartition;

impl Supervisor {
    /// Lets go of every partition of a topic, as far as nothing is under way with it; true when none is left.
    pub(super) fn leave_topic(&mut self, topic: &str) -> bool {
        for partition in self.partitions_of(topic) {
            let mirror = self.mirrors.get_mut(&partition).expect("listed from the table");
            match mirror.phase {
                Phase::Running | Phase::Classifying => {
                    mirror.question = None;
                    self.let_go(&partition, Replacement::Gone);
                }
                // Its shard answers soon.
                Phase::Leaving(_) => mirror.phase = Phase::Leaving(Replacement::Gone),
                Phase::Waiting | Phase::Asking | Phase::TakingOver | Phase::Parked => {
                    self.drop_mirror(&partition);
                }
                // A job has its files; it comes back in one of the other phases.
                Phase::Recovering | Phase::Confirming | Phase::Replacing => {}
            }
        }
        self.partitions_of(topic).is_empty()
    }

    pub(super) fn drop_mirror(&mut self, partition: &TopicPartition) {
        let Some(mirror) = self.mirrors.remove(partition) else { return };
        self.by_key.remove(&mirror.key);
        self.waiting.remove(partition);
        self.questions.remove(partition);
        self.wants_leader.remove(partition);
        self.returned.remove(partition);
        self.trims.remove(partition);
        self.left_before.insert(partition.clone());
        self.tell_lead_again(mirror.key);
    }

    /// The files of a partition are gone.
    pub(super) fn forget_files(&mut self, partition: &TopicPartition) {
        self.left_before.insert(partition.clone());
        self.checkpoints.remove(partition);
        self.log_starts_changed |= self.log_starts.remove(partition).is_some();
        self.forget_instruction(partition);
    }

    /// Partitions whose source answers though they were taken on, or cut, without it: opened again when they can.
    pub(super) fn remember_returned(&mut self) {
        let alone = self.mirrors.values().filter(|mirror| mirror.without_source);
        let known = alone.filter(|mirror| self.discovery.leader(&mirror.partition).is_some());
        let returned: Vec<TopicPartition> = known.map(|mirror| mirror.partition.clone()).collect();
        self.returned.extend(returned);
    }
}
