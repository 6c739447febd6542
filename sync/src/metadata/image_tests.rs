//! What records do to the image.

use super::image::*;
use super::record::*;
use super::record_tests::{TOPIC, partition, topic};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use twinlog_log_segment::files::TopicId;

fn applied(values: &[Vec<u8>]) -> ClusterImage {
    let mut image = ClusterImage::default();
    for value in values {
        image.apply(MetadataRecord::decode(value).unwrap()).unwrap();
    }
    image
}

fn led_topic() -> ClusterImage {
    applied(&[topic("orders"), partition(0, &[900, 1, 2, 3], 900)])
}

fn broker(id: i32, epoch: i64) -> MetadataRecord {
    MetadataRecord::RegisterBroker(RegisterBroker {
        broker: id,
        epoch,
        fenced: true,
        ..RegisterBroker::default()
    })
}

#[test]
fn the_leader_epoch_rises_only_when_a_leader_is_named_and_the_partition_epoch_always() {
    let mut image = led_topic();
    let mut change = PartitionChange::of(TOPIC, 0);
    change.isr = Some(vec![900]);
    image.apply(MetadataRecord::PartitionChange(change)).unwrap();
    let partition = image.partition(TOPIC, 0).unwrap().clone();
    assert_eq!((partition.leader_epoch, partition.partition_epoch, partition.isr), (4, 10, vec![900]));
    let mut change = PartitionChange::of(TOPIC, 0);
    change.leader = Some(-1);
    change.eligible_leaders = Some(vec![900]);
    image.apply(MetadataRecord::PartitionChange(change)).unwrap();
    let partition = image.partition(TOPIC, 0).unwrap();
    assert_eq!((partition.leader, partition.leader_epoch, partition.partition_epoch), (None, 5, 11));
    image.apply(MetadataRecord::ClearEligibleLeaders { topic: "orders".to_string() }).unwrap();
    let partition = image.partition(TOPIC, 0).unwrap();
    assert_eq!((partition.eligible_leaders.len(), partition.partition_epoch), (0, 12));
    // Nothing to clear: no epoch.
    image.apply(MetadataRecord::ClearEligibleLeaders { topic: "".to_string() }).unwrap();
    assert_eq!(image.partition(TOPIC, 0).unwrap().partition_epoch, 12);
}

#[test]
fn a_transaction_counts_from_its_end_and_not_at_all_when_aborted() {
    let mut image = ClusterImage::default();
    let record = |value: Vec<u8>| MetadataRecord::decode(&value).unwrap();
    image.apply(MetadataRecord::BeginTransaction).unwrap();
    image.apply(record(topic("orders"))).unwrap();
    assert!(image.in_transaction() && image.topics().is_empty());
    assert_eq!(image.apply(MetadataRecord::BeginTransaction), Err(ImageError::TransactionOrder));
    image.apply(MetadataRecord::AbortTransaction).unwrap();
    assert!(!image.in_transaction() && image.topics().is_empty());
    image.apply(MetadataRecord::BeginTransaction).unwrap();
    image.apply(record(topic("orders"))).unwrap();
    image.apply(MetadataRecord::EndTransaction).unwrap();
    assert_eq!(image.topic_id("orders"), Some(TOPIC));
    assert_eq!(image.apply(MetadataRecord::EndTransaction), Err(ImageError::TransactionOrder));
}

#[test]
fn readers_are_told_what_changed_since_they_looked() {
    let mut image = led_topic();
    let seen = image.version();
    assert_eq!(image.changes_since(seen), Changes::default());
    image.apply(broker(1, 5)).unwrap();
    image.apply(MetadataRecord::PartitionChange(PartitionChange::of(TOPIC, 0))).unwrap();
    let changes = image.changes_since(seen);
    assert!(!changes.everything && changes.topics.contains(&TOPIC) && changes.brokers.contains(&1));
    let mut successor = led_topic();
    successor.succeed(&image);
    assert!(successor.version() > image.version());
    assert!(successor.changes_since(image.version()).everything);
    assert!(!successor.changes_since(successor.version()).everything);
    let seen = successor.version();
    for _ in 0..70_000 {
        successor.apply(MetadataRecord::PartitionChange(PartitionChange::of(TOPIC, 0))).unwrap();
    }
    assert!(successor.changes_since(seen).everything, "too long ago");
    assert!(!successor.changes_since(successor.version() - 1_000).everything);
}

#[test]
fn a_broker_is_fenced_cordoned_and_gone_as_the_log_says() {
    let mut image = ClusterImage::default();
    image.apply(broker(900, 7)).unwrap();
    let change = |epoch| BrokerChange {
        broker: 900,
        epoch,
        fenced: Some(false),
        cordoned: Some(vec![[9; 16]]),
        ..BrokerChange::default()
    };
    let stale = image.apply(MetadataRecord::BrokerChange(change(6)));
    assert_eq!(stale, Err(ImageError::BrokerEpoch { broker: 900, known: 7, found: 6 }));
    image.apply(MetadataRecord::BrokerChange(change(7))).unwrap();
    let registered = image.broker(900).unwrap();
    assert!(!registered.fenced && registered.cordoned.len() == 1);
    image.apply(MetadataRecord::UnregisterBroker { broker: 900, epoch: 7 }).unwrap();
    assert!(image.broker(900).is_none());
    let unknown = image.apply(MetadataRecord::FenceBroker { broker: 900, epoch: 7 });
    assert_eq!(unknown, Err(ImageError::UnknownBroker { broker: 900 }));
}

#[test]
fn a_removed_topic_takes_its_configs_along() {
    let mut image = led_topic();
    let config = |value: Option<&str>| MetadataRecord::Config {
        resource_type: TOPIC_RESOURCE,
        resource: "orders".to_string(),
        key: "retention.ms".to_string(),
        value: value.map(ToString::to_string),
    };
    image.apply(config(Some("-1"))).unwrap();
    assert_eq!(image.configs(TOPIC_RESOURCE, "orders").unwrap()["retention.ms"], "-1");
    image.apply(config(None)).unwrap();
    assert!(image.configs(TOPIC_RESOURCE, "orders").is_none());
    image.apply(config(Some("-1"))).unwrap();
    image.apply(MetadataRecord::RemoveTopic { id: TOPIC }).unwrap();
    assert!(image.configs(TOPIC_RESOURCE, "orders").is_none() && image.topic_id("orders").is_none());
    let id = TopicId([1; 16]);
    let unknown = image.apply(MetadataRecord::RemoveTopic { id });
    assert_eq!(unknown, Err(ImageError::UnknownTopic { id }));
}
