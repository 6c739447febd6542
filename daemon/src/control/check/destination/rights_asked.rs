//! Asks what our principal may do at the destination, in requests that change nothing.
//!
//! Creations and changes are marked to be validated only: the cluster checks the right first and stops there.
//! Brokers forward both to the controller under our principal, so one listener is enough to ask.

use super::rights::{Authorizer, RightsFacts, TopicCodes};
use crate::config::GuestSettings;
use crate::control::check::acl_command::Wanted;
use crate::control::guest::topic_requests::GUARDS;
use crate::control::guest::wire_text;
use crate::control::source_client::{ClientError, SourceClient};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DescribeAclsRequest, DescribeConfigsRequest,
    DescribeProducersRequest, GroupId, IncrementalAlterConfigsRequest, OffsetCommitRequest, TopicName,
};
use std::collections::{BTreeMap, BTreeSet};
use twinlog_sync::metadata::image::TOPIC_RESOURCE;

/// A topic that nobody has.
const NO_TOPIC: &str = "twinlog-check.no-such-topic";
/// Names that are asked about. Rights are granted by name or prefix: a few stand for all of them.
const NAMES_MAX: usize = 100;
/// The controller's own bound on how long it works on a request.
const TIMEOUT_MS: i32 = 5_000;
/// ref: org.apache.kafka.common.acl and org.apache.kafka.common.resource
const CLUSTER_RESOURCE: i8 = 4;
const CLUSTER_NAME: &str = "kafka-cluster";
const LITERAL: i8 = 3;
const ANY: i8 = 1;
const SECURITY_DISABLED: i16 = 54;

/// Asks one live broker everything about rights.
pub(super) async fn ask(
    client: &SourceClient,
    broker: i32,
    guest: &GuestSettings,
    names: &[String],
    operations: i32,
    fetches: &[i16],
    groups: BTreeSet<Wanted>,
) -> Result<RightsFacts, ClientError> {
    let names = &names[..names.len().min(NAMES_MAX)];
    let authorizer = authorizer(client, broker).await?;
    let mut topics: BTreeMap<String, TopicCodes> =
        names.iter().map(|name| (name.clone(), TopicCodes::default())).collect();
    if !names.is_empty() {
        ask_creation(client, broker, guest, &mut topics).await?;
        ask_changes(client, broker, &mut topics).await?;
        ask_partitions(client, broker, &mut topics).await?;
        ask_configs(client, broker, &mut topics).await?;
        ask_reading(client, broker, &mut topics).await?;
    }
    let groups = ask_groups(client, broker, groups).await?;
    Ok(RightsFacts { authorizer, operations, fetches: fetches.to_vec(), topics, groups })
}

pub(in crate::control::check) async fn authorizer(
    client: &SourceClient,
    broker: i32,
) -> Result<Authorizer, ClientError> {
    let request = |_| {
        DescribeAclsRequest::default()
            .with_resource_type_filter(CLUSTER_RESOURCE)
            .with_resource_name_filter(Some(wire_text(CLUSTER_NAME)))
            .with_pattern_type_filter(LITERAL)
            .with_operation(ANY)
            .with_permission_type(ANY)
    };
    Ok(match client.ask_broker(broker, request).await?.error_code {
        SECURITY_DISABLED => Authorizer::Absent,
        _ => Authorizer::Present,
    })
}

async fn ask_creation(
    client: &SourceClient,
    broker: i32,
    guest: &GuestSettings,
    topics: &mut BTreeMap<String, TopicCodes>,
) -> Result<(), ClientError> {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(wire_text(name)).with_value(Some(wire_text(value)))
    };
    let factor = guest.mirror_replication_factor.and_then(|factor| i16::try_from(factor).ok());
    let topic = |name: &String| {
        CreatableTopic::default()
            .with_name(TopicName(wire_text(name)))
            .with_num_partitions(1)
            .with_replication_factor(factor.unwrap_or(-1))
            .with_configs(GUARDS.iter().map(config).collect())
    };
    let request = |_| {
        CreateTopicsRequest::default()
            .with_topics(topics.keys().map(topic).collect())
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(true)
    };
    for each in client.ask_broker(broker, request).await?.topics {
        if let Some(found) = topics.get_mut(each.name.as_str()) {
            found.create = each.error_code;
            found.create_message = each.error_message.map(|text| text.to_string());
            found.default_factor = (each.replication_factor > 0).then_some(each.replication_factor);
        }
    }
    Ok(())
}

async fn ask_changes(
    client: &SourceClient,
    broker: i32,
    topics: &mut BTreeMap<String, TopicCodes>,
) -> Result<(), ClientError> {
    let change = |(name, value): &(&str, &str)| {
        AlterableConfig::default().with_name(wire_text(name)).with_value(Some(wire_text(value)))
    };
    let resource = |name: &String| {
        AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(wire_text(name))
            .with_configs(GUARDS.iter().map(change).collect())
    };
    let request = |_| {
        IncrementalAlterConfigsRequest::default()
            .with_resources(topics.keys().map(resource).collect())
            .with_validate_only(true)
    };
    for each in client.ask_broker(broker, request).await?.responses {
        if let Some(found) = topics.get_mut(each.resource_name.as_str()) {
            found.alter_configs = each.error_code;
        }
    }
    Ok(())
}

/// A topic that is not there, and one that has enough, are refused for that only after the right was looked at.
async fn ask_partitions(
    client: &SourceClient,
    broker: i32,
    topics: &mut BTreeMap<String, TopicCodes>,
) -> Result<(), ClientError> {
    let topic =
        |name: &String| CreatePartitionsTopic::default().with_name(TopicName(wire_text(name))).with_count(1);
    let request = |_| {
        CreatePartitionsRequest::default()
            .with_topics(topics.keys().map(topic).collect())
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(true)
    };
    for each in client.ask_broker(broker, request).await?.results {
        if let Some(found) = topics.get_mut(each.name.as_str()) {
            found.alter = each.error_code;
        }
    }
    Ok(())
}

async fn ask_configs(
    client: &SourceClient,
    broker: i32,
    topics: &mut BTreeMap<String, TopicCodes>,
) -> Result<(), ClientError> {
    let resource = |name: &String| {
        DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(wire_text(name))
            .with_configuration_keys(Some(vec![wire_text(GUARDS[0].0)]))
    };
    let request = |_| DescribeConfigsRequest::default().with_resources(topics.keys().map(resource).collect());
    for each in client.ask_broker(broker, request).await?.results {
        if let Some(found) = topics.get_mut(each.resource_name.as_str()) {
            found.describe_configs = each.error_code;
        }
    }
    Ok(())
}

async fn ask_reading(
    client: &SourceClient,
    broker: i32,
    topics: &mut BTreeMap<String, TopicCodes>,
) -> Result<(), ClientError> {
    let topic = |name: &String| {
        TopicRequest::default().with_name(TopicName(wire_text(name))).with_partition_indexes(vec![0])
    };
    let request = |_| DescribeProducersRequest::default().with_topics(topics.keys().map(topic).collect());
    for each in client.ask_broker(broker, request).await?.topics {
        if let Some(found) = topics.get_mut(each.name.as_str())
            && let Some(partition) = each.partitions.first()
        {
            found.read = partition.error_code;
        }
    }
    Ok(())
}

/// A position in a topic that is not there: it is refused for that by any broker, but only after the right on the
/// group was looked at, and before anybody's coordinator hears of it.
async fn ask_groups(
    client: &SourceClient,
    broker: i32,
    groups: BTreeSet<Wanted>,
) -> Result<BTreeMap<Wanted, i16>, ClientError> {
    let mut codes = BTreeMap::new();
    for wanted in groups {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(0);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(wire_text(NO_TOPIC)))
            .with_partitions(vec![partition]);
        let request = |_| {
            OffsetCommitRequest::default()
                .with_group_id(GroupId(wire_text(&wanted.group_asked())))
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic.clone()])
        };
        let answer = client.ask_broker(broker, request).await?;
        let code = answer.topics.first().and_then(|topic| topic.partitions.first());
        codes.extend(code.map(|partition| (wanted, partition.error_code)));
    }
    Ok(codes)
}
