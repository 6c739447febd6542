//! Producers of the destination that have the id of a mirrored one: who they are, and how they are kept from harm.
//!
//! The floor keeps new producers of the destination away from mirrored ids. One that got its id before the link
//! lifted the floor keeps it for as long as it lives, a transactional id for longer. If such an id stands in a
//! mirrored log with the same epoch, its first batch there can be taken for one that is there already: it is
//! acknowledged with an old offset and lost, and nobody is told.
//!
//! ```text
//!   before the hand-over   ids in followers' producer states, less those that the controller gave to us = at risk
//!                          none at risk: proven, nobody else is asked
//!                          else: producer states of all other leaders, transactional ids of all coordinators
//!                          --somebody has one--> told by name, the promote is taken back unless allowed
//!   after it, nobody can   each id at risk gets an ABORT marker with the next epoch in the promoted log: no
//!   write yet              sequence before it is remembered, so that nothing can pass for a repetition any more
//! ```
//! The question before cannot be complete, as a producer that has written nothing for a day is in no state of any
//! broker: it names those that would meet with errors. The marker is what makes a silent loss impossible, for those
//! that nobody saw too: a batch with the old epoch is refused (INVALID_PRODUCER_EPOCH), one with the marker's begins
//! anew. Where no id is at risk nothing is written: the promoted log is the source's, byte by byte.
//!
//! Followers answer DescribeProducers as leaders do, from what they replicated. ref: KIP-360, KIP-664

use super::controller_client::{ControllerClient, ControllerError};
use super::topic_requests::{Refusal, alter_configs};
use super::wire_form::wire_text;
use crate::control::source_client::{ClientError, SourceClient};
use crate::control::state::ProducerIdRanges;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::PartitionResponse;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DescribeProducersRequest, ListTransactionsRequest, ProducerId, TopicName, WriteTxnMarkersRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio::task::JoinSet;
use twinlog_sync::guest::hand_over::ProducerOverlap;

/// Partitions of one question. Raised, an answer with many producers of each does not fit in a frame.
const ASKED_MAX: usize = 500;
/// Partitions of the destination that are asked about in all. Beyond, the look would take longer than a promote waits
/// with its source standing still.
pub const PARTITIONS_MAX: usize = 50_000;
/// How long that look may take, of the 60 s that a promote has for each of its phases.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Producers of one request for markers; an answer comes when all of them are replicated.
const MARKERS_MAX: usize = 500;
/// What a marker has, in bytes of its batch: 61 of the header and 17 of its record. A batch of records is let pass with
/// it when it holds 10 bytes of key and value at most. The second one is for brokers whose markers are longer.
const MARKER_BYTES: [&str; 2] = ["78", "1024"];
/// How often markers are sent before the longer limit is taken: brokers apply a configuration some ms after it is set.
const MARKER_TRIES_MAX: u32 = 30;
const MARKER_PAUSE: Duration = Duration::from_millis(100);

const MESSAGE_TOO_LARGE: i16 = 10;
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// Why nobody can tell, or a marker was not written.
#[derive(Debug)]
pub enum OverlapError {
    Client(ClientError),
    Controller(ControllerError),
    NotTold { broker: i32, topic: String, index: i32, code: i16 },
    TransactionsNotTold { broker: i32, code: i16 },
    TooMany { partitions: usize },
    TooSlow,
    NotLimited { topic: String, refusal: Refusal },
    NotMarked { topic: String, index: i32, code: i16 },
}

impl OverlapError {
    /// Our principal may not ask.
    pub fn is_right_missing(&self) -> bool {
        matches!(self, Self::NotTold { code: TOPIC_AUTHORIZATION_FAILED, .. })
    }
}

impl fmt::Display for OverlapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::Controller(error) => write!(f, "{error}"),
            Self::NotTold { broker, topic, index, code } => write!(
                f,
                "broker {broker} does not tell the producers of {topic}-{index} (error code {code}); the principal \
                 needs READ on the topic"
            ),
            Self::TransactionsNotTold { broker, code } => {
                write!(f, "broker {broker} does not list its transactions (error code {code})")
            }
            Self::TooMany { partitions } => write!(
                f,
                "the destination has {partitions} partitions, more than the {PARTITIONS_MAX} whose producers are \
                 looked at; allow a producer overlap to go on without"
            ),
            Self::TooSlow => write!(
                f,
                "the destination's producers were not told within {} s; allow a producer overlap to go on without",
                LOOK_LIMIT.as_secs()
            ),
            Self::NotLimited { topic, refusal } => {
                write!(f, "{topic} cannot be opened for markers alone: {refusal}")
            }
            Self::NotMarked { topic, index, code } => {
                write!(f, "{topic}-{index} does not take a marker (error code {code})")
            }
        }
    }
}

impl std::error::Error for OverlapError {}

impl From<ClientError> for OverlapError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

type Partitions = BTreeMap<String, Vec<i32>>;

/// Producer states of partitions at one broker, in as many questions as it takes.
async fn producers(
    client: &SourceClient,
    broker: i32,
    partitions: Vec<(String, i32)>,
) -> Result<Vec<(String, PartitionResponse)>, OverlapError> {
    let mut found = Vec::new();
    for asked in partitions.chunks(ASKED_MAX) {
        let mut topics = Partitions::new();
        for (topic, index) in asked {
            topics.entry(topic.clone()).or_default().push(*index);
        }
        let topic = |(name, indexes): (&String, &Vec<i32>)| {
            TopicRequest::default()
                .with_name(TopicName(wire_text(name)))
                .with_partition_indexes(indexes.clone())
        };
        let request = |_| DescribeProducersRequest::default().with_topics(topics.iter().map(topic).collect());
        let answer = client.ask_broker(broker, request).await?;
        for each in answer.topics {
            found.extend(each.partitions.into_iter().map(|partition| (each.name.to_string(), partition)));
        }
    }
    Ok(found)
}

fn told(broker: i32, topic: &str, partition: &PartitionResponse) -> Result<(), OverlapError> {
    let (index, code) = (partition.partition_index, partition.error_code);
    match code {
        0 => Ok(()),
        _ => Err(OverlapError::NotTold { broker, topic: topic.to_owned(), index, code }),
    }
}

/// Ids that mirrored logs hold, by topic; `replicas` are brokers that hold each partition of them.
pub async fn mirrored_ids(
    destination: &SourceClient,
    replicas: &BTreeMap<(String, i32), Vec<i32>>,
) -> Result<BTreeMap<String, BTreeSet<i64>>, OverlapError> {
    destination.metadata(Some(&[])).await?;
    let mut by_broker: BTreeMap<i32, Vec<(String, i32)>> = BTreeMap::new();
    for (partition, brokers) in replicas {
        if let Some(broker) = brokers.first() {
            by_broker.entry(*broker).or_default().push(partition.clone());
        }
    }
    let mut ids: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for (broker, partitions) in by_broker {
        for (topic, partition) in producers(destination, broker, partitions).await? {
            told(broker, &topic, &partition)?;
            let found = partition.active_producers.iter().map(|each| each.producer_id.0);
            ids.entry(topic).or_default().extend(found);
        }
    }
    Ok(ids)
}

/// Who at the destination has one of these ids, other than in `own` topics; one place for each.
pub async fn holders(
    destination: &SourceClient,
    own: &BTreeSet<String>,
    at_risk: &BTreeSet<i64>,
) -> Result<BTreeMap<i64, String>, OverlapError> {
    let look = look_for_holders(destination, own, at_risk);
    tokio::time::timeout(LOOK_LIMIT, look).await.unwrap_or(Err(OverlapError::TooSlow))
}

async fn look_for_holders(
    destination: &SourceClient,
    own: &BTreeSet<String>,
    at_risk: &BTreeSet<i64>,
) -> Result<BTreeMap<i64, String>, OverlapError> {
    let view = destination.metadata(None).await?;
    let mut led: BTreeMap<i32, Vec<(String, i32)>> =
        view.brokers.keys().map(|broker| (*broker, Vec::new())).collect();
    for topic in view.topics.iter().filter(|topic| !own.contains(&topic.name)) {
        // One that nobody leads takes no records of anybody.
        for (leader, index) in topic.partitions.iter().filter_map(|each| Some((each.leader?, each.index))) {
            led.entry(leader.broker).or_default().push((topic.name.clone(), index));
        }
    }
    let partitions = led.values().map(Vec::len).sum();
    if partitions > PARTITIONS_MAX {
        return Err(OverlapError::TooMany { partitions });
    }
    // Brokers answer beside each other; a task that is dropped with the set ends with it.
    let mut brokers = JoinSet::new();
    for (broker, partitions) in led {
        brokers.spawn(holders_at(destination.clone(), broker, partitions, at_risk.clone()));
    }
    let mut found = BTreeMap::new();
    while let Some(done) = brokers.join_next().await {
        let at_broker = done.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?;
        found.extend(at_broker);
    }
    Ok(found)
}

async fn holders_at(
    destination: SourceClient,
    broker: i32,
    partitions: Vec<(String, i32)>,
    at_risk: BTreeSet<i64>,
) -> Result<BTreeMap<i64, String>, OverlapError> {
    let mut found = BTreeMap::new();
    for (topic, partition) in producers(&destination, broker, partitions).await? {
        told(broker, &topic, &partition)?;
        let overlapping =
            partition.active_producers.iter().filter(|each| at_risk.contains(&each.producer_id.0));
        let place = || format!("{topic}-{}", partition.partition_index);
        found.extend(overlapping.map(|each| (each.producer_id.0, place())));
    }
    let answer = destination.ask_broker(broker, |_| ListTransactionsRequest::default()).await?;
    if answer.error_code != 0 {
        return Err(OverlapError::TransactionsNotTold { broker, code: answer.error_code });
    }
    let overlapping = answer.transaction_states.iter().filter(|each| at_risk.contains(&each.producer_id.0));
    let named = overlapping
        .map(|each| (each.producer_id.0, format!("transactional id {}", each.transactional_id.as_str())));
    found.extend(named);
    Ok(found)
}

/// The overlap of one topic in the machine's terms.
pub fn overlap(holders: &BTreeMap<i64, String>, at_risk: &BTreeSet<i64>) -> Option<ProducerOverlap> {
    let mut both = holders.iter().filter(|(id, _)| at_risk.contains(id));
    let (producer_id, holder) = both.next()?;
    Some(ProducerOverlap { producer_id: *producer_id, holder: holder.clone(), others: both.count() })
}

/// A marker by which a producer's epoch is over, and the partitions that it goes to.
type Fences = BTreeMap<(i64, i16, i32), Vec<i32>>;

/// Ends the epochs of all producers whose ids are at risk, in every partition of a topic that was handed over and that
/// nobody can write to yet; answers how many. May be done again: an epoch that is over is passed by.
pub async fn fence(
    destination: &SourceClient,
    controller: &mut ControllerClient,
    topic: &str,
    skipped: &ProducerIdRanges,
) -> Result<usize, OverlapError> {
    let mut fenced = BTreeSet::new();
    for bytes in MARKER_BYTES {
        for attempt in 0..MARKER_TRIES_MAX {
            let due = fences_of(destination, topic, skipped).await?;
            if due.values().all(BTreeMap::is_empty) {
                return Ok(fenced.len());
            }
            if attempt == 0 {
                let change = vec![("max.message.bytes".to_owned(), Some(bytes.to_owned()))];
                let answer = alter_configs(controller, &[(topic.to_owned(), change)]).await;
                let refused =
                    answer.map_err(OverlapError::Controller)?.into_iter().find_map(|(_, each)| each.err());
                if let Some(refusal) = refused {
                    return Err(OverlapError::NotLimited { topic: topic.to_owned(), refusal });
                }
            }
            fenced.extend(due.values().flat_map(|fences| fences.keys().map(|(id, ..)| *id)));
            for (broker, fences) in due {
                write_fences(destination, broker, topic, fences).await?;
            }
            tokio::time::sleep(MARKER_PAUSE).await;
        }
    }
    Err(OverlapError::NotMarked { topic: topic.to_owned(), index: 0, code: MESSAGE_TOO_LARGE })
}

/// What is to be ended, by leader.
async fn fences_of(
    destination: &SourceClient,
    topic: &str,
    skipped: &ProducerIdRanges,
) -> Result<BTreeMap<i32, Fences>, OverlapError> {
    let view = destination.metadata(Some(&[topic.to_owned()])).await?;
    let mut led: BTreeMap<i32, Vec<(String, i32)>> = BTreeMap::new();
    for each in view.topics.iter().flat_map(|each| &each.partitions) {
        let not_led =
            OverlapError::NotTold { broker: -1, topic: topic.to_owned(), index: each.index, code: 5 };
        led.entry(each.leader.ok_or(not_led)?.broker).or_default().push((topic.to_owned(), each.index));
    }
    let mut due: BTreeMap<i32, Fences> = BTreeMap::new();
    for (broker, partitions) in led {
        let fences = due.entry(broker).or_default();
        for (_, partition) in producers(destination, broker, partitions).await? {
            told(broker, topic, &partition)?;
            for each in &partition.active_producers {
                // Without a sequence there is nothing that a batch could be a repetition of.
                let at_risk = !skipped.contains(each.producer_id.0) && each.last_sequence >= 0;
                let next = i16::try_from(each.producer_epoch).ok().and_then(|epoch| epoch.checked_add(1));
                // The last of all epochs is never handed out to a producer that begins.
                if let Some(epoch) = next.filter(|_| at_risk) {
                    let key = (each.producer_id.0, epoch, each.coordinator_epoch.max(0));
                    fences.entry(key).or_default().push(partition.partition_index);
                }
            }
        }
    }
    Ok(due)
}

/// Sends the markers to the leader of all their partitions. What is too large for it yet is not told: it is found
/// unmarked by the next look.
async fn write_fences(
    destination: &SourceClient,
    broker: i32,
    topic: &str,
    fences: Fences,
) -> Result<(), OverlapError> {
    let mut rounds: Vec<Vec<WritableTxnMarker>> = Vec::new();
    let mut last = (-1, 0);
    for ((id, epoch, coordinator_epoch), indexes) in fences {
        // One request may hold a producer once only.
        last = if last.0 == id { (id, last.1 + 1) } else { (id, 0) };
        let at = WritableTxnMarkerTopic::default()
            .with_name(TopicName(wire_text(topic)))
            .with_partition_indexes(indexes);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch)
            .with_transaction_result(false)
            .with_coordinator_epoch(coordinator_epoch)
            .with_topics(vec![at]);
        if rounds.len() <= last.1 {
            rounds.push(Vec::new());
        }
        rounds[last.1].push(marker);
    }
    for markers in rounds.iter().flat_map(|round| round.chunks(MARKERS_MAX)) {
        let request = |_| WriteTxnMarkersRequest::default().with_markers(markers.to_vec());
        let answer = destination.ask_broker(broker, request).await?;
        let partitions =
            answer.markers.iter().flat_map(|each| &each.topics).flat_map(|each| &each.partitions);
        for each in partitions {
            let (index, code) = (each.partition_index, each.error_code);
            if code != 0 && code != MESSAGE_TOO_LARGE {
                return Err(OverlapError::NotMarked { topic: topic.to_owned(), index, code });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_names_one_holder_and_counts_the_others() {
        let holders = BTreeMap::from([(3, "a-0".to_owned()), (7, "b-1".to_owned()), (9, "c-2".to_owned())]);
        assert_eq!(overlap(&holders, &BTreeSet::from([1, 2])), None);
        let found = overlap(&holders, &BTreeSet::from([7, 9, 11])).unwrap();
        assert_eq!((found.producer_id, found.holder.as_str(), found.others), (7, "b-1", 1));
    }
}
