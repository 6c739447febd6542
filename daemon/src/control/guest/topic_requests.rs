//! What is asked of the destination's controller about mirror topics, many at a time.
//!
//! Each function is one request, or as many as its bound makes of it, and answers item by item: one topic
//! that is refused never hides the others. Nothing here decides; see `supervisor/guest.rs`.
//!
//! ```text
//!   create   [guest, b1, b2, b3] + guards --> shrink ISR to {guest} --> led
//!   promote  reassign to [b1, b2, b3] --> ISR {guest, b1, b2, b3} --> error 108: handed over
//! ```
//! ref: KIP-497 (AlterPartition), KIP-455 (reassignment), KIP-966 (why min.insync.replicas is 1 meanwhile)

use super::controller_client::{ControllerClient, ControllerError};
use super::wire_form::{wire_id, wire_text};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionRequest, BrokerId, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use std::collections::BTreeMap;
use twinlog_log_segment::files::TopicId;

/// Partitions in one request. A controller writes the records of one request in one batch, which may hold
/// 10,000 of them; raised beyond that it refuses.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 1_000;
/// The controller's own bound on how long it works on a request.
const TIMEOUT_MS: i32 = 30_000;
/// ref: org.apache.kafka.common.config.ConfigResource
const TOPIC_RESOURCE: i8 = 2;
/// Set, and delete, in IncrementalAlterConfigs. ref: KIP-339
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What keeps the destination from deleting, compacting or accepting anything by itself while a topic is
/// mirrored (decisions 13).
pub const GUARDS: [(&str, &str); 6] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("max.message.bytes", "1"),
    ("min.insync.replicas", "1"),
    ("unclean.leader.election.enable", "false"),
];

/// An error code with the controller's own sentence, where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i16,
    pub message: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} (error code {})", self.code),
            None => write!(f, "error code {}", self.code),
        }
    }
}

/// What became of each topic, by name.
pub type TopicAnswers<T> = Vec<(String, Result<T, Refusal>)>;
/// The error code of each partition, by topic id and index.
pub type PartitionCodes = Vec<((TopicId, i32), i16)>;
/// Configs of a topic; without a value it is removed.
pub type ConfigChanges = Vec<(String, Option<String>)>;

fn outcome(code: i16, message: Option<String>) -> Result<(), Refusal> {
    if code == 0 { Ok(()) } else { Err(Refusal { code, message }) }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(wire_text(name))
}

/// A mirror topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// Replicas of each partition, the guest first.
    pub assignments: Vec<Vec<i32>>,
    pub configs: Vec<(String, String)>,
}

/// Creates topics with their guards. Answers each by name.
pub async fn create_topics(
    client: &mut ControllerClient,
    topics: &[NewTopic],
    validate_only: bool,
) -> Result<TopicAnswers<TopicId>, ControllerError> {
    let mut answers = Vec::new();
    for piece in pieces(topics, |topic| topic.assignments.len()) {
        let request = |_| {
            let topics = piece.iter().map(creatable_topic).collect();
            CreateTopicsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(TIMEOUT_MS)
                .with_validate_only(validate_only)
        };
        let answer = client.ask(request).await?;
        answers.extend(answer.topics.into_iter().map(|topic| {
            let message = topic.error_message.map(|text| text.to_string());
            let id = TopicId(*topic.topic_id.as_bytes());
            (topic.name.to_string(), outcome(topic.error_code, message).map(|()| id))
        }));
    }
    Ok(answers)
}

fn creatable_topic(topic: &NewTopic) -> CreatableTopic {
    let assignment = |(index, replicas): (usize, &Vec<i32>)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index as i32)
            .with_broker_ids(replicas.iter().map(|id| BrokerId(*id)).collect())
    };
    let config = |(name, value): &(String, String)| {
        CreatableTopicConfig::default().with_name(wire_text(name)).with_value(Some(wire_text(value)))
    };
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(topic.assignments.iter().enumerate().map(assignment).collect())
        .with_configs(topic.configs.iter().map(config).collect())
}

/// How many replicas the destination gives a topic of which nothing is said: it is asked to check the creation
/// of one that it does not create.
pub async fn default_replication_factor(
    client: &mut ControllerClient,
    unused_name: &str,
) -> Result<usize, ControllerError> {
    let topic = CreatableTopic::default()
        .with_name(topic_name(unused_name))
        .with_num_partitions(-1)
        .with_replication_factor(-1);
    let request = |_| {
        CreateTopicsRequest::default()
            .with_topics(vec![topic.clone()])
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(true)
    };
    let answer = client.ask(request).await?;
    let told = answer.topics.first().filter(|topic| topic.error_code == 0);
    let told = told.and_then(|topic| usize::try_from(topic.replication_factor).ok());
    // Kafka's own default, where the answer does not say.
    Ok(told.filter(|factor| *factor > 0).unwrap_or(1))
}

/// Adds partitions to a topic: `count` in all, and the replicas of each new one.
pub async fn add_partitions(
    client: &mut ControllerClient,
    topics: &[(String, i32, Vec<Vec<i32>>)],
) -> Result<TopicAnswers<()>, ControllerError> {
    let mut answers = Vec::new();
    for piece in pieces(topics, |(_, _, assignments)| assignments.len()) {
        let topic = |(name, count, assignments): &(String, i32, Vec<Vec<i32>>)| {
            let assignment = |replicas: &Vec<i32>| {
                CreatePartitionsAssignment::default()
                    .with_broker_ids(replicas.iter().map(|id| BrokerId(*id)).collect())
            };
            CreatePartitionsTopic::default()
                .with_name(topic_name(name))
                .with_count(*count)
                .with_assignments(Some(assignments.iter().map(assignment).collect()))
        };
        let request = |_| {
            CreatePartitionsRequest::default()
                .with_topics(piece.iter().map(topic).collect())
                .with_timeout_ms(TIMEOUT_MS)
        };
        let answer = client.ask(request).await?;
        answers.extend(answer.results.into_iter().map(|each| {
            let message = each.error_message.map(|text| text.to_string());
            (each.name.to_string(), outcome(each.error_code, message))
        }));
    }
    Ok(answers)
}

/// A partition whose in-sync replicas are to be these, as far as its epochs are still the ones named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    pub topic_id: TopicId,
    pub index: i32,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// Broker ids with the epochs of their registrations.
    pub isr: Vec<(i32, i64)>,
}

/// AlterPartition, as the leader `guest` under its registration. Answers each by topic id and index with its
/// error code: 0 is done, 108 is done and the leadership went to another replica.
pub async fn alter_partitions(
    client: &mut ControllerClient,
    guest: i32,
    broker_epoch: i64,
    changes: &[IsrChange],
) -> Result<PartitionCodes, ControllerError> {
    let mut answers = Vec::new();
    for piece in changes.chunks(PARTITIONS_PER_REQUEST_MAX) {
        let mut topics: BTreeMap<TopicId, Vec<PartitionData>> = BTreeMap::new();
        for change in piece {
            let member = |(id, epoch): &(i32, i64)| {
                BrokerState::default().with_broker_id(BrokerId(*id)).with_broker_epoch(*epoch)
            };
            let partition = PartitionData::default()
                .with_partition_index(change.index)
                .with_leader_epoch(change.leader_epoch)
                .with_partition_epoch(change.partition_epoch)
                .with_new_isr_with_epochs(change.isr.iter().map(member).collect())
                .with_leader_recovery_state(0);
            topics.entry(change.topic_id).or_default().push(partition);
        }
        let topic = |(id, partitions): (&TopicId, &Vec<PartitionData>)| {
            TopicData::default().with_topic_id(wire_id(id.0)).with_partitions(partitions.clone())
        };
        let request = |_| {
            AlterPartitionRequest::default()
                .with_broker_id(BrokerId(guest))
                .with_broker_epoch(broker_epoch)
                .with_topics(topics.iter().map(topic).collect())
        };
        let answer = client.ask(request).await?;
        if answer.error_code != 0 {
            // The whole request was refused, such as for a stale broker epoch.
            answers.extend(piece.iter().map(|each| ((each.topic_id, each.index), answer.error_code)));
            continue;
        }
        for topic in answer.topics {
            let id = TopicId(*topic.topic_id.as_bytes());
            answers.extend(topic.partitions.iter().map(|each| ((id, each.partition_index), each.error_code)));
        }
    }
    Ok(answers)
}

/// New replica lists; `None` cancels what is pending.
pub async fn reassign(
    client: &mut ControllerClient,
    partitions: &[(String, i32, Option<Vec<i32>>)],
) -> Result<Vec<((String, i32), Result<(), Refusal>)>, ControllerError> {
    let mut answers = Vec::new();
    for piece in partitions.chunks(PARTITIONS_PER_REQUEST_MAX) {
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for (name, index, replicas) in piece {
            let ids = replicas.as_ref().map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
            let partition = ReassignablePartition::default().with_partition_index(*index).with_replicas(ids);
            topics.entry(name).or_default().push(partition);
        }
        let topic = |(name, partitions): (&&str, &Vec<ReassignablePartition>)| {
            ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions.clone())
        };
        let request = |_| {
            // Version 0 has no such flag and always allows it.
            AlterPartitionReassignmentsRequest::default()
                .with_timeout_ms(TIMEOUT_MS)
                .with_allow_replication_factor_change(true)
                .with_topics(topics.iter().map(topic).collect())
        };
        let answer = client.ask(request).await?;
        if answer.error_code != 0 {
            let refusal = Refusal {
                code: answer.error_code,
                message: answer.error_message.map(|text| text.to_string()),
            };
            let all = piece.iter().map(|(name, index, _)| ((name.clone(), *index), Err(refusal.clone())));
            answers.extend(all);
            continue;
        }
        for topic in answer.responses {
            for each in topic.partitions {
                let message = each.error_message.map(|text| text.to_string());
                let key = (topic.name.to_string(), each.partition_index);
                answers.push((key, outcome(each.error_code, message)));
            }
        }
    }
    Ok(answers)
}

/// Sets, or with `None` removes, configs of topics.
pub async fn alter_configs(
    client: &mut ControllerClient,
    topics: &[(String, ConfigChanges)],
) -> Result<TopicAnswers<()>, ControllerError> {
    let mut answers = Vec::new();
    for piece in topics.chunks(PARTITIONS_PER_REQUEST_MAX) {
        let resource = |(name, configs): &(String, ConfigChanges)| {
            let config = |(key, value): &(String, Option<String>)| {
                AlterableConfig::default()
                    .with_name(wire_text(key))
                    .with_config_operation(if value.is_some() { SET } else { DELETE })
                    .with_value(value.as_deref().map(wire_text))
            };
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(wire_text(name))
                .with_configs(configs.iter().map(config).collect())
        };
        let request = |_| {
            IncrementalAlterConfigsRequest::default().with_resources(piece.iter().map(resource).collect())
        };
        let answer = client.ask(request).await?;
        answers.extend(answer.responses.into_iter().map(|each| {
            let message = each.error_message.map(|text| text.to_string());
            (each.resource_name.to_string(), outcome(each.error_code, message))
        }));
    }
    Ok(answers)
}

/// Deletes topics by id: never another of the same name.
pub async fn delete_topics(
    client: &mut ControllerClient,
    topics: &[TopicId],
) -> Result<Vec<(TopicId, Result<(), Refusal>)>, ControllerError> {
    let topic = |id: &TopicId| DeleteTopicState::default().with_name(None).with_topic_id(wire_id(id.0));
    let request = |_| {
        DeleteTopicsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_timeout_ms(TIMEOUT_MS)
    };
    let answer = client.ask(request).await?;
    let deleted = answer.responses.into_iter().map(|each| {
        let message = each.error_message.map(|text| text.to_string());
        (TopicId(*each.topic_id.as_bytes()), outcome(each.error_code, message))
    });
    Ok(deleted.collect())
}

/// Parts of a list whose weights sum up to [`PARTITIONS_PER_REQUEST_MAX`] at most, where one item is not more.
fn pieces<T>(items: &[T], weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    let (mut from, mut sum) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let next = weight(item);
        if sum > 0 && sum + next > PARTITIONS_PER_REQUEST_MAX {
            pieces.push(&items[from..index]);
            (from, sum) = (index, 0);
        }
        sum += next;
    }
    if from < items.len() {
        pieces.push(&items[from..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_cut_by_their_partitions() {
        let sizes = [400, 400, 400, 3_000, 1];
        let cut: Vec<usize> = pieces(&sizes, |size| *size).iter().map(|piece| piece.len()).collect();
        assert_eq!(cut, [2, 1, 1, 1]);
        assert!(pieces(&[] as &[usize], |size| *size).is_empty());
    }
}
