//! What a hand-over asks of source and destination: ends, configurations, open transactions.
//!
//! Nothing here decides: `twinlog_sync::guest::hand_over` does. Each function asks about one topic and
//! answers for all of its partitions or fails whole.

use super::controller_client::{ControllerClient, ControllerError};
use super::topic_requests::{GUARDS, Refusal, alter_configs};
use super::wire_form::wire_text;
use crate::control::discovery::{ClusterView, TopicView};
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use crate::control::topic_configs::{self, Configs};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{DescribeProducersRequest, ProducerId, TopicName, WriteTxnMarkersRequest};
use std::collections::BTreeMap;
use std::fmt;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::guest::hand_over::SourceEnd;
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Why one of them was not answered.
#[derive(Debug)]
pub enum HandOverError {
    Client(ClientError),
    Controller(ControllerError),
    NoSuchTopic { topic: String, code: i16 },
    NoLeader { partition: TopicPartition },
    Refused { partition: TopicPartition, code: i16 },
    ConfigRefused { topic: String, refusal: Refusal },
    ConfigsNotTold { topic: String, code: i16 },
}

impl fmt::Display for HandOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::Controller(error) => write!(f, "{error}"),
            Self::NoSuchTopic { topic, code } => write!(f, "topic {topic} is not told (error code {code})"),
            Self::NoLeader { partition } => write!(f, "nobody leads {partition} now"),
            Self::Refused { partition, code } => write!(f, "{partition}: error code {code}"),
            Self::ConfigRefused { topic, refusal } => write!(f, "the configuration of {topic}: {refusal}"),
            Self::ConfigsNotTold { topic, code } => {
                write!(f, "the configuration of {topic} is not told (error code {code})")
            }
        }
    }
}

impl std::error::Error for HandOverError {}

impl From<ClientError> for HandOverError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

type LedBy = BTreeMap<i32, Vec<(TopicPartition, LeaderEpoch)>>;

async fn topic_of(client: &SourceClient, topic: &str) -> Result<(ClusterView, TopicView), HandOverError> {
    let mut view = client.metadata(Some(&[topic.to_owned()])).await?;
    let at = view.topics.iter().position(|each| each.name == topic);
    let gone = |code| HandOverError::NoSuchTopic { topic: topic.to_owned(), code };
    let found = view.topics.swap_remove(at.ok_or_else(|| gone(3))?);
    if found.error != 0 {
        return Err(gone(found.error));
    }
    Ok((view, found))
}

/// Partitions of a topic by their leaders; fails while one has none.
async fn leaders(client: &SourceClient, topic: &str) -> Result<LedBy, HandOverError> {
    let (_, found) = topic_of(client, topic).await?;
    let mut led = LedBy::new();
    for each in &found.partitions {
        let partition = TopicPartition::new(topic, each.index).expect("the name of a mirror topic is legal");
        let leader = each.leader.ok_or_else(|| HandOverError::NoLeader { partition: partition.clone() })?;
        led.entry(leader.broker).or_default().push((partition, leader.epoch));
    }
    Ok(led)
}

async fn ends(
    client: &SourceClient,
    led: &LedBy,
    isolation: IsolationLevel,
) -> Result<BTreeMap<i32, Offset>, HandOverError> {
    let mut ends = BTreeMap::new();
    for (broker, partitions) in led {
        for (partition, end) in client.log_edges(*broker, isolation, LogEdge::End, partitions).await? {
            let end = end.map_err(|code| HandOverError::Refused { partition: partition.clone(), code })?;
            ends.insert(partition.partition(), end);
        }
        let missing = partitions.iter().find(|(each, _)| !ends.contains_key(&each.partition()));
        if let Some((partition, _)) = missing {
            return Err(HandOverError::NoLeader { partition: partition.clone() });
        }
    }
    Ok(ends)
}

/// Where the source's logs end. High watermarks are read first: what is stable up to there afterwards had no
/// open transaction below.
pub async fn source_ends(
    source: &SourceClient,
    topic: &str,
) -> Result<BTreeMap<i32, SourceEnd>, HandOverError> {
    let led = leaders(source, topic).await?;
    let high_watermarks = ends(source, &led, IsolationLevel::ReadUncommitted).await?;
    let stable = ends(source, &led, IsolationLevel::ReadCommitted).await?;
    let both = high_watermarks.into_iter().filter_map(|(index, high_watermark)| {
        Some((index, SourceEnd { high_watermark, last_stable_offset: *stable.get(&index)? }))
    });
    Ok(both.collect())
}

/// Where clients of the destination find the ends of the logs.
pub async fn destination_ends(
    destination: &SourceClient,
    topic: &str,
) -> Result<BTreeMap<i32, Offset>, HandOverError> {
    let led = leaders(destination, topic).await?;
    ends(destination, &led, IsolationLevel::ReadUncommitted).await
}

/// The configuration of a topic of the source that its mirror is to have after the hand-over.
pub async fn source_configs(
    source: &SourceClient,
    topic: &str,
    include: &[String],
) -> Result<Configs, HandOverError> {
    let led = leaders(source, topic).await?;
    let broker = *led.keys().next().unwrap_or(&-1);
    let mut read = source_configs_of(source, broker, &[topic.to_owned()], include).await;
    read.remove(0).1
}

/// The same of many topics, asked of one broker; each of them is in the answer, in their order.
pub async fn source_configs_of(
    source: &SourceClient,
    broker: i32,
    topics: &[String],
    include: &[String],
) -> Vec<(String, Result<Configs, HandOverError>)> {
    if topics.is_empty() {
        return Vec::new();
    }
    let read = topic_configs::read(source, broker, topics, include).await;
    let mut read = read.map(|read| read.into_iter().collect::<BTreeMap<_, _>>());
    let of = |topic: &String| {
        let configs = match &mut read {
            Ok(read) => read
                .remove(topic)
                .unwrap_or(Err(-1))
                .map_err(|code| HandOverError::ConfigsNotTold { topic: topic.clone(), code }),
            Err(error) => Err(HandOverError::Client(error.clone())),
        };
        (topic.clone(), configs)
    };
    topics.iter().map(of).collect()
}

/// Takes the guards away and sets what is wanted, in one request; where that is refused, key by key. Answers
/// with what the destination does not take of what is wanted.
pub async fn restore_configs(
    client: &mut ControllerClient,
    topic: &str,
    wanted: &BTreeMap<String, String>,
) -> Result<Vec<String>, HandOverError> {
    let guards = GUARDS.iter().map(|(key, _)| ((*key).to_owned(), wanted.get(*key).cloned()));
    let is_guard = |key: &str| GUARDS.iter().any(|(guard, _)| *guard == key);
    let others = wanted.iter().filter(|(key, _)| !is_guard(key));
    let all: Vec<(String, Option<String>)> =
        guards.chain(others.map(|(key, value)| (key.clone(), Some(value.clone())))).collect();
    let Err(first) = alter(client, topic, all.clone()).await? else { return Ok(Vec::new()) };
    let mut refused = Vec::new();
    for (key, value) in all {
        if let Err(refusal) = alter(client, topic, vec![(key.clone(), value.clone())]).await? {
            let Some(value) = value else {
                return Err(HandOverError::ConfigRefused { topic: topic.to_owned(), refusal: first });
            };
            if is_guard(&key) {
                // A guard must never stay because of a value that this cluster does not know.
                let _ = alter(client, topic, vec![(key.clone(), None)]).await?;
            }
            refused.push(format!("{key}={value}: {refusal}"));
        }
    }
    Ok(refused)
}

async fn alter(
    client: &mut ControllerClient,
    topic: &str,
    changes: Vec<(String, Option<String>)>,
) -> Result<Result<(), Refusal>, HandOverError> {
    let answers = alter_configs(client, &[(topic.to_owned(), changes)]).await;
    let answers = answers.map_err(HandOverError::Controller)?;
    let answer = answers.into_iter().next().map(|(_, answer)| answer);
    Ok(answer.unwrap_or(Err(Refusal { code: -1, message: None })))
}

/// Ends with ABORT markers the transactions that began below `ends` and are open at the new leaders; answers
/// how many. Needs the topic's guards to be gone: a marker is longer than they let pass.
pub async fn abort_transactions(
    destination: &SourceClient,
    topic: &str,
    ends: &BTreeMap<i32, Offset>,
) -> Result<usize, HandOverError> {
    let name = || TopicName(wire_text(topic));
    let mut count = 0;
    for (broker, partitions) in leaders(destination, topic).await? {
        let indexes: Vec<i32> = partitions.iter().map(|(each, _)| each.partition()).collect();
        let request = |_| {
            let topic = TopicRequest::default().with_name(name()).with_partition_indexes(indexes.clone());
            DescribeProducersRequest::default().with_topics(vec![topic])
        };
        let answer = destination.ask_broker(broker, request).await?;
        let mut markers = Vec::new();
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            let index = partition.partition_index;
            refused(topic, index, partition.error_code)?;
            let end = ends.get(&index).map_or(i64::MAX, |end| end.value());
            let open = partition.active_producers.iter();
            for each in open.filter(|each| (0..end).contains(&each.current_txn_start_offset)) {
                let at =
                    WritableTxnMarkerTopic::default().with_name(name()).with_partition_indexes(vec![index]);
                // No coordinator of this cluster ever wrote a marker for it: -1 means none, 0 is the first.
                let marker = WritableTxnMarker::default()
                    .with_producer_id(ProducerId(each.producer_id.0))
                    .with_producer_epoch(i16::try_from(each.producer_epoch).unwrap_or(0))
                    .with_transaction_result(false)
                    .with_coordinator_epoch(each.coordinator_epoch.max(0))
                    .with_topics(vec![at]);
                markers.push(marker);
            }
        }
        // One after the other: one request may hold a producer once only.
        for marker in markers {
            let request = |_| WriteTxnMarkersRequest::default().with_markers(vec![marker.clone()]);
            let answer = destination.ask_broker(broker, request).await?;
            for each in answer.markers.iter().flat_map(|each| &each.topics).flat_map(|each| &each.partitions)
            {
                refused(topic, each.partition_index, each.error_code)?;
            }
            count += 1;
        }
    }
    Ok(count)
}

fn refused(topic: &str, index: i32, code: i16) -> Result<(), HandOverError> {
    let partition = TopicPartition::new(topic, index);
    match partition {
        Ok(partition) if code != 0 => Err(HandOverError::Refused { partition, code }),
        _ => Ok(()),
    }
}
