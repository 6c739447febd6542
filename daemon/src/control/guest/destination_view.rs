//! How a guest reads the image of its destination: what is a mirror topic of ours, and who can follow.
//!
//! Pure, and in one place: the running link and the check before it must never judge differently.

use twinlog_sync::guest::placement::Candidate;
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::metadata::image::{TOPIC_RESOURCE, Topic};

/// Whether every partition of a topic has one of ours as a replica, and it is guarded as a mirror topic is.
pub fn is_mirror(image: &ClusterImage, name: &str, topic: &Topic, is_ours: impl Fn(i32) -> bool) -> bool {
    let guarded = image.configs(TOPIC_RESOURCE, name).and_then(|configs| configs.get("max.message.bytes"));
    let has_us = |replicas: &[i32]| replicas.iter().any(|broker| is_ours(*broker));
    let led = topic.partitions.values().all(|partition| has_us(&partition.replicas));
    led && guarded.is_some_and(|value| value == "1")
}

/// Brokers that can take replicas.
pub fn candidates(image: &ClusterImage, is_ours: impl Fn(i32) -> bool) -> Vec<Candidate> {
    let usable = image.brokers().values().filter(|broker| {
        let cordoned = !broker.cordoned.is_empty() && broker.cordoned.len() >= broker.directories.len();
        !is_ours(broker.broker) && !broker.fenced && !broker.in_controlled_shutdown && !cordoned
    });
    usable.map(|broker| Candidate { broker: broker.broker, rack: broker.rack.clone() }).collect()
}
