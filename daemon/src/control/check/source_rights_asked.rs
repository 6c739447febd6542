//! Asks what our principal may do at the source, in requests that change nothing.
//!
//! Topics tell their rights in Metadata (ref: KIP-430). What has no such answer is asked for in a way that can
//! only be refused: a name that no topic has, a producer id by halves, a group that nobody has.

use super::acl_command::{Wanted, wanted, wanted_groups};
use super::destination::authorizer;
use super::source_rights::{SourceFacts, TopicRights};
use crate::config::LinkSettings;
use crate::control::discovery::{ClusterView, Discovery};
use crate::control::guest::wire_text;
use crate::control::source_client::{ClientError, SourceClient};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeGroupsRequest, GroupId, InitProducerIdRequest, MetadataRequest,
    MetadataResponse, ProducerId, TopicName,
};
use std::collections::{BTreeMap, BTreeSet};
use twinlog_sync::fault::code::TOPIC_AUTHORIZATION_FAILED;

/// First Metadata version that tells rights. ref: KIP-430
const METADATA_WITH_RIGHTS: i16 = 8;
/// First InitProducerId version that takes a producer id, which is what it is refused for. ref: KIP-360
const INIT_WITH_ID: i16 = 3;
/// Behind a prefix, a name that no topic has.
const NO_TOPIC: &str = "twinlog-check.no-such-topic";
/// Longest topic name.
const NAME_BYTES_MAX: usize = 249;

/// Asks one broker everything about rights.
pub(super) async fn ask(
    client: &SourceClient,
    link: &LinkSettings,
    view: &ClusterView,
) -> Result<Option<SourceFacts>, ClientError> {
    let Some(broker) = view.brokers.keys().next().copied() else { return Ok(None) };
    let authorizer = authorizer(client, broker).await?;
    let discovery = Discovery::new(link.topics.clone(), link.topic_filters.clone());
    let wanted = wanted(link);
    let prefixes: BTreeSet<String> = wanted
        .iter()
        .filter_map(|each| match each {
            Wanted::Prefix(prefix) if prefix.len() + NO_TOPIC.len() <= NAME_BYTES_MAX => Some(prefix.clone()),
            _ => None,
        })
        .collect();
    let mut told = topics_of(client, broker, discovery.names_wanted().as_deref()).await?.topics;
    // An answer about all topics leaves out those that are hidden from us, named ones too.
    let named = wanted.iter().filter_map(|each| match each {
        Wanted::Named(name) => Some(name),
        Wanted::Prefix(_) => None,
    });
    let is_told = |name: &&String| {
        told.iter().any(|topic| topic.name.as_ref().is_some_and(|told| told.as_str() == name.as_str()))
    };
    let untold: Vec<String> = named.filter(|name| !is_told(name)).cloned().collect();
    if !untold.is_empty() {
        told.extend(topics_of(client, broker, Some(&untold)).await?.topics);
    }
    let mut topics = BTreeMap::new();
    for topic in told {
        let Some(name) = topic.name.map(|name| name.to_string()) else { continue };
        if discovery.wants(&name, topic.is_internal)
            && matches!(topic.error_code, 0 | TOPIC_AUTHORIZATION_FAILED)
        {
            // The smallest number stands for "not told".
            let operations = Some(topic.topic_authorized_operations).filter(|bits| *bits != i32::MIN);
            topics.insert(name, TopicRights { code: topic.error_code, operations });
        }
    }
    let names: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{NO_TOPIC}")).collect();
    let mut codes = BTreeMap::new();
    if !names.is_empty() {
        for topic in topics_of(client, broker, Some(&names)).await?.topics {
            let prefix = topic.name.as_ref().and_then(|name| name.strip_suffix(NO_TOPIC));
            codes.extend(prefix.map(|prefix| (prefix.to_owned(), topic.error_code)));
        }
    }
    let needs_configs = link.guest.is_some();
    let producer_ids = if needs_configs { producer_id_code(client, broker).await? } else { None };
    let groups = group_codes(client, broker, wanted_groups(link, "")).await?;
    let cluster = if groups.is_empty() { None } else { cluster_operations(client, broker).await? };
    Ok(Some(SourceFacts {
        authorizer,
        wanted,
        topics,
        prefixes: codes,
        producer_ids,
        groups,
        cluster,
        needs_configs,
    }))
}

async fn topics_of(
    client: &SourceClient,
    broker: i32,
    names: Option<&[String]>,
) -> Result<MetadataResponse, ClientError> {
    let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(TopicName(wire_text(name))));
    let request = |version| {
        MetadataRequest::default()
            .with_topics(names.map(|names| names.iter().map(topic).collect()))
            .with_allow_auto_topic_creation(false)
            .with_include_topic_authorized_operations(version >= METADATA_WITH_RIGHTS)
    };
    client.ask_broker(broker, request).await
}

/// An epoch without its id is refused, but only after the right was looked at.
async fn producer_id_code(client: &SourceClient, broker: i32) -> Result<Option<i16>, ClientError> {
    let request = |version| {
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1);
        match version >= INIT_WITH_ID {
            true => request.with_producer_id(ProducerId(-1)).with_producer_epoch(0),
            false => request,
        }
    };
    if client.version_at::<InitProducerIdRequest>(broker).await? < INIT_WITH_ID {
        return Ok(None);
    }
    client.ask_broker(broker, request).await.map(|answer| Some(answer.error_code))
}

/// A broker that does not coordinate a group looks at the right first.
async fn group_codes(
    client: &SourceClient,
    broker: i32,
    wanted: BTreeSet<Wanted>,
) -> Result<BTreeMap<Wanted, i16>, ClientError> {
    let names = || wanted.iter().map(|each| GroupId(wire_text(&each.group_asked())));
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let request = |_| DescribeGroupsRequest::default().with_groups(names().collect());
    match client.ask_broker(broker, request).await {
        Ok(answer) => {
            let told = answer.groups;
            let code = |each: Wanted| {
                let name = each.group_asked();
                let found = told.iter().find(|group| group.group_id.as_str() == name)?;
                Some((each, found.error_code))
            };
            Ok(wanted.into_iter().filter_map(code).collect())
        }
        Err(ClientError::NoCommonVersion { .. }) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

async fn cluster_operations(client: &SourceClient, broker: i32) -> Result<Option<i32>, ClientError> {
    let request = |_| DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    match client.ask_broker(broker, request).await {
        Ok(answer) => Ok(Some(answer.cluster_authorized_operations)),
        // ref: KIP-700, Kafka 2.8
        Err(ClientError::NoCommonVersion { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
