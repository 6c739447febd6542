//! The topics of the in-memory cluster by name and by id, and the checks that every request begins with.
//!
//! Invariants: a name leads to at most one id at a time; an id, once given, is never given again, so that a
//! re-created topic is another one. ref: KIP-516

use super::partition_log::PartitionLog;
use super::records::CyclicTemplate;
use std::collections::BTreeMap;
use std::sync::Arc;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::fault::code;

/// How a topic is made.
#[derive(Clone, Copy, Debug)]
pub struct TopicOptions {
    pub partitions: u32,
    /// Brokers that hold each partition; those that do not lead it answer readers of Fetch v11 and later.
    pub replication_factor: u32,
    /// Where the logs begin.
    pub first_offset: Offset,
    /// Listed by Metadata as a topic of the cluster itself.
    pub internal: bool,
}

impl Default for TopicOptions {
    fn default() -> TopicOptions {
        TopicOptions { partitions: 1, replication_factor: 1, first_offset: Offset::ZERO, internal: false }
    }
}

/// One topic.
#[derive(Debug)]
pub struct TopicState {
    pub name: String,
    pub id: TopicId,
    pub options: TopicOptions,
    pub partitions: Vec<PartitionLog>,
}

/// How a request names a topic: by name up to Fetch v12, by id after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

/// All topics. See the file's header.
#[derive(Debug, Default)]
pub struct Topics {
    by_id: BTreeMap<TopicId, TopicState>,
    ids: BTreeMap<String, TopicId>,
    created: u64,
}

impl Topics {
    /// Ids are made from a counter: the same steps give the same ids.
    fn next_id(&mut self) -> TopicId {
        self.created += 1;
        let mut id = *b"embedded........";
        id[8..].copy_from_slice(&self.created.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        TopicId(id)
    }

    pub fn create(&mut self, name: &str, options: TopicOptions, brokers: &[i32]) -> TopicId {
        assert!(!self.ids.contains_key(name), "the topic {name} exists");
        let id = self.next_id();
        self.ids.insert(name.to_owned(), id);
        let state = TopicState { name: name.to_owned(), id, options, partitions: Vec::new() };
        self.by_id.insert(id, state);
        self.add_partitions(name, options.partitions, brokers);
        id
    }

    pub fn create_cyclic(
        &mut self,
        name: &str,
        partitions: u32,
        template: &Arc<CyclicTemplate>,
        batches: u64,
        brokers: &[i32],
    ) -> TopicId {
        let id = self.create(name, TopicOptions { partitions: 0, ..TopicOptions::default() }, brokers);
        let leaders = (0..partitions).map(|index| brokers[index as usize % brokers.len()]);
        let logs = leaders.map(|leader| PartitionLog::cyclic(leader, template, batches)).collect();
        self.named_mut(name).partitions = logs;
        id
    }

    /// Raises the number of partitions; leaders go round the brokers.
    pub fn add_partitions(&mut self, name: &str, total: u32, brokers: &[i32]) {
        let topic = self.named_mut(name);
        let TopicOptions { replication_factor, first_offset, .. } = topic.options;
        for index in topic.partitions.len()..total as usize {
            let place = |replica: usize| brokers[(index + replica) % brokers.len()];
            let replicas = (0..(replication_factor as usize).min(brokers.len())).map(place).collect();
            topic.partitions.push(PartitionLog::new(place(0), replicas, first_offset));
        }
    }

    pub fn delete(&mut self, name: &str) -> TopicState {
        let id = self.ids.remove(name).unwrap_or_else(|| panic!("no topic {name} to delete"));
        self.by_id.remove(&id).expect("every id has its topic")
    }

    pub fn by_name(&self, name: &str) -> Option<&TopicState> {
        self.by_id.get(self.ids.get(name)?)
    }

    pub fn by_id(&self, id: TopicId) -> Option<&TopicState> {
        self.by_id.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &TopicState> {
        self.ids.values().map(|id| &self.by_id[id])
    }

    pub fn partitions_mut(&mut self) -> impl Iterator<Item = &mut PartitionLog> {
        self.by_id.values_mut().flat_map(|topic| &mut topic.partitions)
    }

    fn named_mut(&mut self, name: &str) -> &mut TopicState {
        let id = self.ids.get(name).unwrap_or_else(|| panic!("the cluster has no topic {name}"));
        self.by_id.get_mut(id).expect("every id has its topic")
    }

    /// A partition that is known to exist: for the verbs that change the cluster, not for requests.
    pub fn partition_mut(&mut self, name: &str, index: i32) -> &mut PartitionLog {
        let topic = self.named_mut(name);
        let found = usize::try_from(index).ok().and_then(|index| topic.partitions.get_mut(index));
        found.unwrap_or_else(|| panic!("the topic {name} has no partition {index}"))
    }

    /// What a request means, or the error code that a broker answers.
    pub fn asked_mut(&mut self, key: &TopicKey, index: i32) -> Result<&mut PartitionLog, i16> {
        let (topic, missing) = match key {
            TopicKey::Id(id) => (self.by_id.get_mut(id), code::UNKNOWN_TOPIC_ID),
            TopicKey::Name(name) => {
                let id = self.ids.get(&**name).copied();
                (id.and_then(|id| self.by_id.get_mut(&id)), code::UNKNOWN_TOPIC_OR_PARTITION)
            }
        };
        let topic = topic.ok_or(missing)?;
        let index = usize::try_from(index).map_err(|_| code::UNKNOWN_TOPIC_OR_PARTITION)?;
        topic.partitions.get_mut(index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// The same without the right to change it.
    pub fn asked(&self, key: &TopicKey, index: i32) -> Result<&PartitionLog, i16> {
        let (topic, missing) = match key {
            TopicKey::Id(id) => (self.by_id(*id), code::UNKNOWN_TOPIC_ID),
            TopicKey::Name(name) => (self.by_name(name), code::UNKNOWN_TOPIC_OR_PARTITION),
        };
        let topic = topic.ok_or(missing)?;
        let index = usize::try_from(index).map_err(|_| code::UNKNOWN_TOPIC_OR_PARTITION)?;
        topic.partitions.get(index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)
    }
}

impl PartitionLog {
    /// The first check of every request to a partition: does this broker hold it, under this epoch?
    /// An epoch of -1 is not checked. ref: KIP-320
    pub(super) fn check(&self, broker: i32, epoch: i32, leader_only: bool) -> Result<(), i16> {
        if !self.replicas.contains(&broker) {
            return Err(code::NOT_LEADER_OR_FOLLOWER);
        }
        if epoch >= 0 && epoch < self.leader_epoch().0 {
            return Err(code::FENCED_LEADER_EPOCH);
        }
        if epoch > self.leader_epoch().0 {
            return Err(code::UNKNOWN_LEADER_EPOCH);
        }
        if leader_only && broker != self.leader { Err(code::NOT_LEADER_OR_FOLLOWER) } else { Ok(()) }
    }
}
