//! The small answers of the in-memory cluster: ApiVersions, Metadata, ListOffsets, OffsetForLeaderEpoch.
//!
//! They are decoded and encoded whole, by the library that the control core uses too. `None` means that a
//! request could not be read. Must never change the cluster.

use super::broker::Cluster;
use super::partition_log::PartitionLog;
use super::records::parse;
use super::topics::{TopicKey, TopicState};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use std::sync::Arc;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::fault::code;

/// What this cluster answers, and in which versions.
const SUPPORTED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Fetch, 4, 17),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
];
/// UNSUPPORTED_VERSION.
const UNSUPPORTED_VERSION: i16 = 35;
/// ListOffsets asks for the end with this timestamp, and for the start with the next one.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The cluster id that Metadata names.
const CLUSTER_ID: &str = "embedded-source-000000";
/// "Not computed", in the fields of authorized operations. ref: KIP-430
const OPERATIONS_UNKNOWN: i32 = i32::MIN;
/// The library's type for ids is made from exactly as many bytes.
const ID_FITS: &str = "a topic id has 16 bytes";

fn highest(cluster: &Cluster, key: ApiKey, highest: i16) -> i16 {
    cluster.version_limits.get(&(key as i16)).map_or(highest, |limit| highest.min(*limit))
}

/// Whether a request of this kind and version is answered.
pub fn is_supported(cluster: &Cluster, api_key: i16, version: i16) -> bool {
    SUPPORTED.iter().any(|(key, low, high)| {
        *key as i16 == api_key && (*low..=highest(cluster, *key, *high)).contains(&version)
    })
}

/// A whole frame, its length first.
fn frame<T: Encodable + HeaderVersion>(response: &T, version: i16, correlation_id: i32) -> Vec<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut bytes, T::header_version(version)).expect("a header of two fields encodes");
    response.encode(&mut bytes, version).expect("a response made for this version encodes");
    let length = i32::try_from(bytes.len() - 4).expect("below 2 GiB");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    vec![bytes.freeze()]
}

pub fn api_versions(cluster: &Cluster, version: i16, correlation_id: i32) -> Vec<Bytes> {
    frame(&api_keys(cluster), version, correlation_id)
}

/// The answer to a version that is too new: the same list in the oldest form, with an error.
pub fn unsupported_api_versions(cluster: &Cluster, correlation_id: i32) -> Vec<Bytes> {
    frame(&api_keys(cluster).with_error_code(UNSUPPORTED_VERSION), 0, correlation_id)
}

fn api_keys(cluster: &Cluster) -> ApiVersionsResponse {
    let keys = SUPPORTED.iter().map(|(key, low, high)| {
        let high = highest(cluster, *key, *high);
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*low).with_max_version(high)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn metadata(cluster: &Cluster, version: i16, correlation_id: i32, mut body: Bytes) -> Option<Vec<Bytes>> {
    let request = MetadataRequest::decode(&mut body, version).ok()?;
    // Version 0 has no null list: an empty one asks for all.
    let all = request.topics.as_ref().is_none_or(|topics| version == 0 && topics.is_empty());
    let topics = if all {
        cluster.topics.iter().map(described).collect()
    } else {
        let asked = request.topics.unwrap_or_default();
        asked
            .iter()
            .map(|topic| asked_topic(cluster, topic.name.as_ref(), topic.topic_id.into_bytes()))
            .collect()
    };
    let brokers = cluster.addresses.iter().map(|(id, (host, port))| {
        let broker = MetadataResponseBroker::default().with_node_id(BrokerId(*id));
        broker.with_host(text(host)).with_port(i32::from(*port))
    });
    let first = *cluster.brokers.keys().next().expect("a cluster has a broker");
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_controller_id(BrokerId(first))
        .with_cluster_id((version >= 2).then(|| text(CLUSTER_ID)))
        .with_cluster_authorized_operations(OPERATIONS_UNKNOWN)
        .with_topics(topics);
    Some(frame(&response, version, correlation_id))
}

/// One topic that was asked for by its name or, since version 12, by its id.
fn asked_topic(cluster: &Cluster, name: Option<&TopicName>, id: [u8; 16]) -> MetadataResponseTopic {
    let found = match name {
        Some(name) => cluster.topics.by_name(name.as_str()),
        None => cluster.topics.by_id(TopicId(id)),
    };
    if let Some(topic) = found {
        return described(topic);
    }
    let unknown = MetadataResponseTopic::default().with_topic_authorized_operations(OPERATIONS_UNKNOWN);
    match name {
        Some(name) => unknown.with_error_code(code::UNKNOWN_TOPIC_OR_PARTITION).with_name(Some(name.clone())),
        None => unknown
            .with_error_code(code::UNKNOWN_TOPIC_ID)
            .with_topic_id(id.to_vec().try_into().expect(ID_FITS)),
    }
}

fn described(topic: &TopicState) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().zip(0..).map(|(log, index)| {
        let replicas: Vec<BrokerId> = log.replicas.iter().copied().map(BrokerId).collect();
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(BrokerId(log.leader()))
            .with_leader_epoch(log.leader_epoch().0)
            .with_isr_nodes(replicas.clone())
            .with_replica_nodes(replicas)
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(topic.id.0.to_vec().try_into().expect(ID_FITS))
        .with_is_internal(topic.options.internal)
        .with_topic_authorized_operations(OPERATIONS_UNKNOWN)
        .with_partitions(partitions.collect())
}

pub fn list_offsets(
    cluster: &Cluster,
    broker: i32,
    version: i16,
    correlation_id: i32,
    mut body: Bytes,
) -> Option<Vec<Bytes>> {
    let request = ListOffsetsRequest::decode(&mut body, version).ok()?;
    let read_committed = request.isolation_level == 1;
    let topics = request.topics.iter().map(|topic| {
        let key = TopicKey::Name(Arc::from(topic.name.as_str()));
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = cluster.topics.asked(&key, asked.partition_index).and_then(|log| {
                log.check(broker, asked.current_leader_epoch, true)?;
                Ok(offset_for(log, asked.timestamp, read_committed))
            });
            match found {
                Err(error) => answer.with_error_code(error).with_timestamp(-1).with_offset(-1),
                // Older versions have no field for the epoch, and the library refuses to lose it.
                Ok((timestamp, offset, epoch)) => {
                    let answer = answer.with_timestamp(timestamp).with_offset(offset);
                    if version >= 4 { answer.with_leader_epoch(epoch) } else { answer }
                }
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = ListOffsetsResponse::default().with_topics(topics.collect());
    Some(frame(&response, version, correlation_id))
}

/// Timestamp, offset and leader epoch.
fn offset_for(log: &PartitionLog, timestamp: i64, read_committed: bool) -> (i64, i64, i32) {
    let epoch = |offset| log.epochs().epoch_of(offset).unwrap_or(LeaderEpoch::UNKNOWN).0;
    let end = if read_committed { log.last_stable_offset() } else { log.high_watermark() };
    if timestamp == LATEST {
        return (-1, end.value(), log.leader_epoch().0);
    }
    let start = log.log_start_offset();
    if timestamp == EARLIEST {
        return (-1, start.value(), epoch(start));
    }
    if timestamp < 0 {
        return (-1, -1, -1);
    }
    // The batch is as close as this cluster looks: its records may be compressed.
    let found = log.batches_from(start).map(|batch| parse(&batch));
    let mut below = found.take_while(|header| header.base_offset < end);
    match below.find(|header| header.max_timestamp_ms >= timestamp) {
        Some(header) => {
            let offset: Offset = header.base_offset.max(start);
            (header.max_timestamp_ms, offset.value(), epoch(offset))
        }
        None => (-1, -1, -1),
    }
}

pub fn offset_for_leader_epoch(
    cluster: &Cluster,
    broker: i32,
    version: i16,
    correlation_id: i32,
    mut body: Bytes,
) -> Option<Vec<Bytes>> {
    let request = OffsetForLeaderEpochRequest::decode(&mut body, version).ok()?;
    let topics = request.topics.iter().map(|topic| {
        let key = TopicKey::Name(Arc::from(topic.topic.as_str()));
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let answer = answer.with_leader_epoch(-1).with_end_offset(-1);
            let found = cluster.topics.asked(&key, asked.partition).and_then(|log| {
                log.check(broker, asked.current_leader_epoch, true)?;
                Ok(log.end_of_epoch(LeaderEpoch(asked.leader_epoch)))
            });
            match found {
                Err(error) => answer.with_error_code(error),
                Ok(None) => answer,
                Ok(Some(end)) => answer.with_leader_epoch(end.epoch.0).with_end_offset(end.start.value()),
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    let response = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
    Some(frame(&response, version, correlation_id))
}
