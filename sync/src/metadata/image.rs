//! What the destination cluster is, as far as its metadata log was replayed.
//!
//! Owns brokers, topics, partitions, configs, features and credentials, and which of them changed when.
//! Whoever acts on changes remembers a version and asks what changed since: there may be any number of
//! them, and one that was away for too long is told "everything" and looks at all.
//!
//! ```text
//!   record --> [inside a metadata transaction: kept until End, dropped at Abort] --> applied
//!   partition change   partition epoch + 1 always, leader epoch + 1 exactly when the record names a leader
//! ```
//! A record that names what is not there means that this copy is wrong: the owner starts over.
//! ref: KIP-868 for transactions, KIP-966 for eligible leaders

use super::record::{
    BrokerChange, MetadataRecord, NewPartition, PartitionChange, RegisterBroker, ScramCredential, Uuid,
};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use twinlog_log_segment::files::TopicId;

/// Changes that are remembered one by one. Raised, memory grows by some 24 bytes each; lowered, a reader
/// that falls behind looks at the whole image more often.
const CHANGES_KEPT: usize = 65_536;
/// Records of one metadata transaction that are held back. Raised, a controller that never ends one may
/// take more memory; a real one holds the creation of at most some ten thousand partitions.
const TRANSACTION_RECORDS_MAX: usize = 1 << 20;
/// Kafka's number of a topic among the types of resources that have configs.
pub const TOPIC_RESOURCE: i8 = 2;
/// Kafka's number of a broker; the empty name stands for the defaults of all brokers.
pub const BROKER_RESOURCE: i8 = 4;
/// Directory of a replica that its broker has not placed yet. ref: KIP-858
const UNASSIGNED_DIRECTORY: Uuid = [0; 16];

/// A registered broker. What the log says of it, current.
pub type Broker = RegisterBroker;

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: BTreeMap<i32, Partition>,
}

/// One partition as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
    /// `None` while nobody leads.
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// 0 unless the leader was elected uncleanly and has not recovered yet.
    pub recovery: i8,
    pub eligible_leaders: Vec<i32>,
    pub last_known_eligible: Vec<i32>,
    /// One for each replica, or empty where the log is too old to say.
    pub directories: Vec<Uuid>,
}

/// What changed since a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nobody knows any more what changed: look at everything.
    pub everything: bool,
    pub topics: BTreeSet<TopicId>,
    pub brokers: BTreeSet<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Topic(TopicId),
    Broker(i32),
}

/// A record that cannot be applied to this image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    UnknownTopic {
        id: TopicId,
    },
    UnknownPartition {
        id: TopicId,
        index: i32,
    },
    UnknownBroker {
        broker: i32,
    },
    BrokerEpoch {
        broker: i32,
        known: i64,
        found: i64,
    },
    TransactionTooLong {
        records: usize,
    },
    /// Begin inside a transaction, End or Abort outside of one.
    TransactionOrder,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTopic { id } => {
                write!(f, "the metadata log changes topic {:02x?}, which is not there", id.0)
            }
            Self::UnknownPartition { id, index } => {
                write!(
                    f,
                    "the metadata log changes partition {index} of topic {:02x?}, which is not there",
                    id.0
                )
            }
            Self::UnknownBroker { broker } => {
                write!(f, "the metadata log changes broker {broker}, which is not registered")
            }
            Self::BrokerEpoch { broker, known, found } => {
                write!(f, "the metadata log changes epoch {found} of broker {broker}, registered is {known}")
            }
            Self::TransactionTooLong { records } => write!(
                f,
                "a metadata transaction has more than {records} records, at most \
                 {TRANSACTION_RECORDS_MAX} are held"
            ),
            Self::TransactionOrder => write!(f, "a metadata transaction begins or ends where none can"),
        }
    }
}

impl core::error::Error for ImageError {}

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub struct ClusterImage {
    brokers: BTreeMap<i32, Broker>,
    topics: BTreeMap<TopicId, Topic>,
    topic_ids: BTreeMap<String, TopicId>,
    configs: BTreeMap<(i8, String), BTreeMap<String, String>>,
    features: BTreeMap<String, i16>,
    next_producer_id: i64,
    credentials: BTreeMap<(String, i8), ScramCredential>,
    /// Records of the transaction under way.
    held: Option<Vec<MetadataRecord>>,
    version: u64,
    /// Changes by the version that made them, oldest first.
    recent: VecDeque<(u64, Changed)>,
    /// Versions before this one are forgotten.
    recent_from: u64,
}

impl ClusterImage {
    pub fn broker(&self, broker: i32) -> Option<&Broker> {
        self.brokers.get(&broker)
    }

    pub fn brokers(&self) -> &BTreeMap<i32, Broker> {
        &self.brokers
    }

    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    pub fn topics(&self) -> &BTreeMap<TopicId, Topic> {
        &self.topics
    }

    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topic_ids.get(name).copied()
    }

    pub fn topic_named(&self, name: &str) -> Option<(TopicId, &Topic)> {
        let id = self.topic_id(name)?;
        Some((id, self.topic(id)?))
    }

    pub fn partition(&self, id: TopicId, index: i32) -> Option<&Partition> {
        self.topics.get(&id)?.partitions.get(&index)
    }

    /// What is set for a resource itself, without defaults.
    pub fn configs(&self, resource_type: i8, resource: &str) -> Option<&BTreeMap<String, String>> {
        self.configs.get(&(resource_type, String::from(resource)))
    }

    /// The finalized level of a feature, such as `metadata.version`.
    pub fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Every credential, by user and mechanism.
    pub fn credentials(&self) -> &BTreeMap<(String, i8), ScramCredential> {
        &self.credentials
    }

    pub fn credential(&self, name: &str, mechanism: i8) -> Option<&ScramCredential> {
        self.credentials.get(&(String::from(name), mechanism))
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Topics and brokers that changed after `version` was current.
    pub fn changes_since(&self, version: u64) -> Changes {
        let mut changes = Changes { everything: version < self.recent_from, ..Changes::default() };
        if !changes.everything {
            for (_, changed) in self.recent.iter().rev().take_while(|(at, _)| *at > version) {
                match changed {
                    Changed::Topic(id) => changes.topics.insert(*id),
                    Changed::Broker(broker) => changes.brokers.insert(*broker),
                };
            }
        }
        changes
    }

    /// Takes the place of `before` for its readers: all of them have to look at everything.
    pub fn succeed(&mut self, before: &Self) {
        self.version = self.version.max(before.version) + 1;
        self.recent.clear();
        self.recent_from = self.version;
    }

    /// True between Begin and End: what was applied last is not all of a change.
    pub fn in_transaction(&self) -> bool {
        self.held.is_some()
    }

    fn changed(&mut self, changed: Changed) {
        self.version += 1;
        self.recent.push_back((self.version, changed));
        if self.recent.len() > CHANGES_KEPT
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.recent_from = forgotten;
        }
    }

    /// Replays one record. After an error the image is of no use any more.
    pub fn apply(&mut self, record: MetadataRecord) -> Result<(), ImageError> {
        match (record, &mut self.held) {
            (MetadataRecord::BeginTransaction, held @ None) => *held = Some(Vec::new()),
            (MetadataRecord::AbortTransaction, held @ Some(_)) => *held = None,
            (MetadataRecord::EndTransaction, Some(_)) => {
                for record in self.held.take().unwrap_or_default() {
                    self.replay(record)?;
                }
            }
            (
                MetadataRecord::BeginTransaction
                | MetadataRecord::EndTransaction
                | MetadataRecord::AbortTransaction,
                _,
            ) => return Err(ImageError::TransactionOrder),
            (_, Some(held)) if held.len() == TRANSACTION_RECORDS_MAX => {
                return Err(ImageError::TransactionTooLong { records: held.len() });
            }
            (record, Some(held)) => held.push(record),
            (record, None) => self.replay(record)?,
        }
        Ok(())
    }

    fn replay(&mut self, record: MetadataRecord) -> Result<(), ImageError> {
        match record {
            MetadataRecord::RegisterBroker(broker) => {
                self.changed(Changed::Broker(broker.broker));
                self.brokers.insert(broker.broker, broker);
            }
            MetadataRecord::UnregisterBroker { broker, epoch } => {
                self.broker_of_epoch(broker, epoch)?;
                self.brokers.remove(&broker);
                self.changed(Changed::Broker(broker));
            }
            MetadataRecord::FenceBroker { broker, epoch } => self.fence(broker, epoch, true)?,
            MetadataRecord::UnfenceBroker { broker, epoch } => self.fence(broker, epoch, false)?,
            MetadataRecord::BrokerChange(change) => self.change_broker(change)?,
            MetadataRecord::Topic { name, id } => {
                self.topic_ids.insert(name.clone(), id);
                self.topics.insert(id, Topic { name, partitions: BTreeMap::new() });
                self.changed(Changed::Topic(id));
            }
            MetadataRecord::RemoveTopic { id } => self.remove_topic(id)?,
            MetadataRecord::Partition(partition) => self.add_partition(partition)?,
            MetadataRecord::PartitionChange(change) => self.change_partition(change)?,
            MetadataRecord::ClearEligibleLeaders { topic } => self.clear_eligible_leaders(&topic),
            MetadataRecord::Config { resource_type, resource, key, value } => {
                self.configure(resource_type, resource, key, value);
            }
            MetadataRecord::FeatureLevel { name, level: 0 } => {
                self.features.remove(&name);
            }
            MetadataRecord::FeatureLevel { name, level } => {
                self.features.insert(name, level);
            }
            MetadataRecord::ProducerIds { next_producer_id, .. } => self.next_producer_id = next_producer_id,
            MetadataRecord::ScramCredential(credential) => {
                self.credentials.insert((credential.name.clone(), credential.mechanism), credential);
            }
            MetadataRecord::RemoveScramCredential { name, mechanism } => {
                self.credentials.remove(&(name, mechanism));
            }
            MetadataRecord::NoOp | MetadataRecord::Skipped { .. } => {}
            MetadataRecord::BeginTransaction
            | MetadataRecord::EndTransaction
            | MetadataRecord::AbortTransaction => return Err(ImageError::TransactionOrder),
        }
        Ok(())
    }

    fn broker_of_epoch(&mut self, broker: i32, found: i64) -> Result<&mut Broker, ImageError> {
        let registered = self.brokers.get_mut(&broker).ok_or(ImageError::UnknownBroker { broker })?;
        if registered.epoch == found {
            Ok(registered)
        } else {
            Err(ImageError::BrokerEpoch { broker, known: registered.epoch, found })
        }
    }

    fn fence(&mut self, broker: i32, epoch: i64, fenced: bool) -> Result<(), ImageError> {
        self.broker_of_epoch(broker, epoch)?.fenced = fenced;
        self.changed(Changed::Broker(broker));
        Ok(())
    }

    fn change_broker(&mut self, change: BrokerChange) -> Result<(), ImageError> {
        let registered = self.broker_of_epoch(change.broker, change.epoch)?;
        registered.fenced = change.fenced.unwrap_or(registered.fenced);
        registered.in_controlled_shutdown |= change.in_controlled_shutdown;
        if let Some(directories) = change.directories {
            registered.directories = directories;
        }
        if let Some(cordoned) = change.cordoned {
            registered.cordoned = cordoned;
        }
        self.changed(Changed::Broker(change.broker));
        Ok(())
    }

    fn remove_topic(&mut self, id: TopicId) -> Result<(), ImageError> {
        let topic = self.topics.remove(&id).ok_or(ImageError::UnknownTopic { id })?;
        self.configs.remove(&(TOPIC_RESOURCE, topic.name.clone()));
        if self.topic_ids.get(&topic.name) == Some(&id) {
            self.topic_ids.remove(&topic.name);
        }
        self.changed(Changed::Topic(id));
        Ok(())
    }

    fn add_partition(&mut self, new: NewPartition) -> Result<(), ImageError> {
        let topic = self.topics.get_mut(&new.topic).ok_or(ImageError::UnknownTopic { id: new.topic })?;
        let partition = Partition {
            replicas: new.replicas,
            isr: new.isr,
            adding: new.adding,
            removing: new.removing,
            leader: led_by(new.leader),
            leader_epoch: new.leader_epoch,
            partition_epoch: new.partition_epoch,
            recovery: new.recovery,
            eligible_leaders: new.eligible_leaders,
            last_known_eligible: new.last_known_eligible,
            directories: new.directories,
        };
        topic.partitions.insert(new.index, partition);
        self.changed(Changed::Topic(new.topic));
        Ok(())
    }

    fn change_partition(&mut self, change: PartitionChange) -> Result<(), ImageError> {
        let (id, index) = (change.topic, change.index);
        let topic = self.topics.get_mut(&id).ok_or(ImageError::UnknownTopic { id })?;
        let partition = topic.partitions.get_mut(&index).ok_or(ImageError::UnknownPartition { id, index })?;
        partition.merge(change);
        self.changed(Changed::Topic(id));
        Ok(())
    }

    fn clear_eligible_leaders(&mut self, name: &str) {
        let wanted = self.topic_ids.get(name).copied();
        let mut cleared = Vec::new();
        for (id, topic) in self.topics.iter_mut().filter(|(id, _)| name.is_empty() || wanted == Some(**id)) {
            for (index, partition) in &mut topic.partitions {
                // Only those that have something to clear are written, and only they count an epoch.
                if partition.eligible_leaders.is_empty() && partition.last_known_eligible.is_empty() {
                    continue;
                }
                let mut change = PartitionChange::of(*id, *index);
                (change.eligible_leaders, change.last_known_eligible) = (Some(vec![]), Some(vec![]));
                partition.merge(change);
                cleared.push(*id);
            }
        }
        cleared.dedup();
        for id in cleared {
            self.changed(Changed::Topic(id));
        }
    }

    fn configure(&mut self, resource_type: i8, resource: String, key: String, value: Option<String>) {
        if resource_type == TOPIC_RESOURCE
            && let Some(id) = self.topic_id(&resource)
        {
            self.changed(Changed::Topic(id));
        }
        let place = (resource_type, resource);
        match value {
            Some(value) => {
                self.configs.entry(place).or_default().insert(key, value);
            }
            None => {
                if let Some(set) = self.configs.get_mut(&place) {
                    set.remove(&key);
                    if set.is_empty() {
                        self.configs.remove(&place);
                    }
                }
            }
        }
    }
}

impl Partition {
    fn merge(&mut self, change: PartitionChange) {
        self.partition_epoch = self.partition_epoch.wrapping_add(1);
        if let Some(leader) = change.leader {
            self.leader = led_by(leader);
            self.leader_epoch = self.leader_epoch.wrapping_add(1);
        }
        if let Some(replicas) = change.replicas {
            // Without a word on directories the old ones are nobody's any more.
            self.directories = vec![UNASSIGNED_DIRECTORY; self.directories.len().min(1) * replicas.len()];
            self.replicas = replicas;
        }
        let lists = [
            (&mut self.isr, change.isr),
            (&mut self.removing, change.removing),
            (&mut self.adding, change.adding),
            (&mut self.eligible_leaders, change.eligible_leaders),
            (&mut self.last_known_eligible, change.last_known_eligible),
        ];
        for (list, changed) in lists {
            if let Some(changed) = changed {
                *list = changed;
            }
        }
        if let Some(directories) = change.directories {
            self.directories = directories;
        }
        self.recovery = change.recovery.unwrap_or(self.recovery);
    }
}

/// Kafka writes -1 for nobody.
fn led_by(leader: i32) -> Option<i32> {
    (leader >= 0).then_some(leader)
}
