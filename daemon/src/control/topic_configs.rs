//! Topic configurations of the source that a mirror is to have: which keys, and how they are read.
//!
//! ```text
//!   always         where they are set at all      what readers of the topic depend on
//!   configurable   where the topic sets them      topic.config.sync.include chooses among them
//!   never          placement, throttles, tiers    the destination's own affair
//! ```
//! Read here, kept by whoever asks, and set at the destination at a promote: while a topic is mirrored, guards
//! stand in their place.

use crate::control::guest::wire_text;
use crate::control::source_client::{ClientError, SourceClient};
use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use std::collections::BTreeMap;

/// ref: org.apache.kafka.common.config.ConfigResource
const TOPIC_RESOURCE: i8 = 2;
/// Where a value comes from, by Kafka's numbers: set for the topic, or in no place at all.
const OF_TOPIC: i8 = 1;
const OF_DEFAULTS: i8 = 5;
/// Topics in one question; a broker holds a request's thread for some 20 us for each.
pub const TOPICS_PER_REQUEST_MAX: usize = 500;

const ALWAYS: [&str; 3] = ["cleanup.policy", "max.message.bytes", "message.timestamp.type"];
/// What `topic.config.sync.include` holds unless it is given.
pub const CONFIGURABLE: [&str; 19] = [
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "max.compaction.lag.ms",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.jitter.ms",
    "segment.ms",
];
/// Taken when it is asked for by name: the two clusters may have different numbers of brokers.
const WHEN_ASKED: [&str; 3] = ["min.insync.replicas", "preallocate", "unclean.leader.election.enable"];

/// A topic's configuration by key.
pub type Configs = BTreeMap<String, String>;

/// Whether a key may stand in `topic.config.sync.include`.
pub fn may_be_included(key: &str) -> bool {
    CONFIGURABLE.contains(&key) || WHEN_ASKED.contains(&key) || ALWAYS.contains(&key)
}

/// What one broker of the source says of these topics; a topic that it does not tell about has its error code.
pub async fn read(
    source: &SourceClient,
    broker: i32,
    topics: &[String],
    include: &[String],
) -> Result<Vec<(String, Result<Configs, i16>)>, ClientError> {
    let included = include.iter().map(String::as_str).filter(|key| !ALWAYS.contains(key));
    let keys: Vec<_> = ALWAYS.into_iter().chain(included).map(wire_text).collect();
    let request = |_| {
        let resources = topics.iter().map(|topic| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(wire_text(topic))
                .with_configuration_keys(Some(keys.clone()))
        });
        DescribeConfigsRequest::default().with_resources(resources.collect())
    };
    let answer = source.ask_broker(broker, request).await?;
    let read = answer.results.into_iter().map(|found| {
        let name = found.resource_name.to_string();
        if found.error_code != 0 {
            return (name, Err(found.error_code));
        }
        let wanted = found.configs.into_iter().filter(|each| {
            let key = each.name.as_str();
            match ALWAYS.contains(&key) {
                true => each.config_source != OF_DEFAULTS,
                false => each.config_source == OF_TOPIC && include.iter().any(|included| included == key),
            }
        });
        (name, Ok(wanted.filter_map(|each| Some((each.name.to_string(), each.value?.to_string()))).collect()))
    });
    Ok(read.collect())
}
