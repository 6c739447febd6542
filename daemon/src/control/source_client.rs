//! A small Kafka client for the control core: metadata, ends of logs, ends of epochs.
//!
//! ```text
//!   SourceClient (cheap to clone) --> one slot per server --> one connection, one request at a time
//!   metadata: the broker that answered last, the other known ones, then the bootstrap list again
//! ```
//! A broker is known by its id; where it listens is what the last metadata said. Versions are
//! negotiated per connection. Nothing here retries: the supervisor does, with its own pauses.

mod connection;
mod error;
mod frame_shape;
mod pipeline;
mod socket;
#[cfg(test)]
mod tests;

pub use connection::{Connection, ConnectionOptions, FRAME_BYTES_MAX};
pub use error::ClientError;
pub use frame_shape::{METADATA_FETCH_VERSION, ShapeError, Shaped, check as check_shape};
pub use pipeline::{Answer, Pipeline};

use super::discovery::{ClusterView, PartitionView, TopicView};
use crate::config::{GuestSettings, HostPort, SourceSettings};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse,
    OffsetForLeaderEpochRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::partition::Leader;
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// First Metadata version that can name topics without creating them where the source would.
const METADATA_WITHOUT_CREATION: i16 = 4;
/// Bytes asked for by one read; a larger batch still arrives whole, up to [`FRAME_BYTES_MAX`].
const READ_BYTES: i32 = 8 << 20;
/// What a consumer says in place of a replica's id.
const CONSUMER: BrokerId = BrokerId(-1);

/// As whom a log is read, and how much of it at once: a batch that is larger still arrives whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub replica_id: i32,
    pub bytes_max: i32,
}

impl Reading {
    /// As any consumer: up to the high watermark.
    pub const CONSUMER: Self = Self { replica_id: CONSUMER.0, bytes_max: READ_BYTES };
}

/// Which end of a log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEdge {
    Start,
    /// Last stable offset or high watermark, by isolation level.
    End,
}

impl LogEdge {
    /// Kafka's special timestamps.
    const fn timestamp(self) -> i64 {
        match self {
            Self::Start => -2,
            Self::End => -1,
        }
    }
}

/// One partition's answer: an offset, or its error code.
pub type EdgeAnswer = (TopicPartition, Result<Offset, i16>);

type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

/// See the file's header.
#[derive(Clone)]
pub struct SourceClient {
    shared: Arc<Shared>,
}

struct Shared {
    options: ConnectionOptions,
    bootstrap: Vec<HostPort>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    brokers: BTreeMap<i32, HostPort>,
    slots: BTreeMap<HostPort, Slot>,
    /// Who answered metadata last.
    preferred: Option<HostPort>,
}

impl SourceClient {
    pub fn new(source: &SourceSettings) -> Self {
        let options = ConnectionOptions {
            client_id: source.client_id.clone(),
            request_timeout: source.request_timeout,
            security: source.security.clone(),
        };
        let bootstrap = source.bootstrap_servers.clone();
        Self { shared: Arc::new(Shared { options, bootstrap, state: Mutex::default() }) }
    }

    /// A client of a destination's brokers, as its other clients reach them.
    pub fn of_destination(guest: &GuestSettings) -> Self {
        let options = ConnectionOptions {
            client_id: guest.client_id.clone(),
            request_timeout: guest.request_timeout,
            security: guest.security.clone(),
        };
        let bootstrap = guest.bootstrap_servers.clone();
        Self { shared: Arc::new(Shared { options, bootstrap, state: Mutex::default() }) }
    }

    /// Never held across a wait.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while it holds the lock")
    }

    /// The cluster: all topics, or those named. Tries every known broker, then the bootstrap list.
    pub async fn metadata(&self, names: Option<&[String]>) -> Result<ClusterView, ClientError> {
        let servers = self.servers_to_ask();
        let mut last = None;
        for server in &servers {
            match self.metadata_of(server, names).await {
                Ok(view) => {
                    let mut state = self.state();
                    state.brokers = view.brokers.clone();
                    state.preferred = Some(server.clone());
                    let kept: BTreeSet<&HostPort> = view.brokers.values().chain([server]).collect();
                    state.slots.retain(|server, _| kept.contains(server));
                    return Ok(view);
                }
                Err(error) => last = Some(error),
            }
        }
        let last = last.expect("the key table demands at least one bootstrap server");
        Err(ClientError::AllFailed { servers: servers.len(), last: Box::new(last) })
    }

    fn servers_to_ask(&self) -> Vec<HostPort> {
        let state = self.state();
        let known = state.preferred.iter().chain(state.brokers.values()).chain(&self.shared.bootstrap);
        let mut seen = BTreeSet::new();
        known.filter(|server| seen.insert(*server)).cloned().collect()
    }

    async fn metadata_of(
        &self,
        server: &HostPort,
        names: Option<&[String]>,
    ) -> Result<ClusterView, ClientError> {
        let answer = self.ask(server, |version| metadata_request(names, version)).await?;
        if answer.error_code != 0 {
            let (server, request) = (server.clone(), MetadataRequest::NAME);
            return Err(ClientError::Refused { server, request, code: answer.error_code });
        }
        let view = cluster_view(answer);
        if view.brokers.is_empty() {
            Err(ClientError::NoBrokers { server: server.clone() })
        } else {
            Ok(view)
        }
    }

    /// Where logs start or end, asked of the broker that leads all of them.
    pub async fn log_edges(
        &self,
        broker: i32,
        isolation_level: IsolationLevel,
        edge: LogEdge,
        partitions: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<Vec<EdgeAnswer>, ClientError> {
        let server = self.server_of(broker)?;
        let request = |version| edges_request(isolation_level, edge, partitions, version);
        let answer = self.ask(&server, request).await?;
        let mut answers = Vec::with_capacity(partitions.len());
        for topic in &answer.topics {
            for each in &topic.partitions {
                let Ok(partition) = TopicPartition::new(topic.name.as_str(), each.partition_index) else {
                    continue;
                };
                let offset = Offset::new(each.offset).filter(|_| each.error_code == 0);
                answers.push((partition, offset.ok_or(each.error_code)));
            }
        }
        Ok(answers)
    }

    /// The largest epoch of the leader's log that is not above `epoch`, and where it ends. `None`: the
    /// source is too old to tell, or knows no such epoch. The inner error is the partition's code.
    pub async fn end_of_epoch(
        &self,
        leader: Leader,
        partition: &TopicPartition,
        epoch: LeaderEpoch,
    ) -> Result<Result<Option<(LeaderEpoch, Offset)>, i16>, ClientError> {
        let server = self.server_of(leader.broker)?;
        let answer = match self.ask(&server, |_| epoch_request(leader, partition, epoch)).await {
            Err(ClientError::NoCommonVersion { .. }) => return Ok(Ok(None)),
            answer => answer?,
        };
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let Some(found) = found else {
            return Err(ClientError::NotAnswered { server, request: OffsetForLeaderEpochRequest::NAME });
        };
        if found.error_code != 0 {
            return Ok(Err(found.error_code));
        }
        let known = LeaderEpoch(found.leader_epoch).is_known();
        Ok(Ok(Offset::new(found.end_offset)
            .filter(|_| known)
            .map(|end| (LeaderEpoch(found.leader_epoch), end))))
    }

    /// Batches of one partition from the one that holds `offset` on, up to the high watermark, raw. A slow
    /// way for comparisons; mirrors are fetched by the shards.
    pub async fn read(
        &self,
        leader: Leader,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<Bytes, ClientError> {
        self.read_as(Reading::CONSUMER, leader, partition, offset).await
    }

    /// [`SourceClient::read`], as somebody else.
    pub async fn read_as(
        &self,
        reading: Reading,
        leader: Leader,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<Bytes, ClientError> {
        let server = self.server_of(leader.broker)?;
        let answer = self.ask(&server, |_| fetch_request(reading, leader, partition, offset)).await?;
        let refused =
            |code| ClientError::Refused { server: server.clone(), request: FetchRequest::NAME, code };
        if answer.error_code != 0 {
            return Err(refused(answer.error_code));
        }
        let found = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        match found {
            Some(found) if found.error_code != 0 => Err(refused(found.error_code)),
            Some(found) => Ok(found.records.unwrap_or_default()),
            None => Err(ClientError::NotAnswered { server, request: FetchRequest::NAME }),
        }
    }

    /// An address on which the broker accepts connections now.
    pub async fn address_of(&self, broker: i32) -> Result<SocketAddr, ClientError> {
        let server = self.server_of(broker)?;
        let slot = self.slot(&server);
        let mut held = slot.lock().await;
        let connection = Connection::open(&server, &self.shared.options).await?;
        let address = connection.address();
        *held = Some(connection);
        Ok(address)
    }

    /// A connection of its own to one server, for looking at it.
    pub async fn open(&self, server: &HostPort) -> Result<Connection, ClientError> {
        Connection::open(server, &self.shared.options).await
    }

    /// Looks at the connection that is held to one server, or at a new one that is held from now on.
    pub async fn look_at<T>(
        &self,
        server: &HostPort,
        look: impl FnOnce(&Connection) -> T,
    ) -> Result<T, ClientError> {
        let slot = self.slot(server);
        let mut held = slot.lock().await;
        if let Some(connection) = &*held {
            return Ok(look(connection));
        }
        let connection = Connection::open(server, &self.shared.options).await?;
        Ok(look(held.insert(connection)))
    }

    /// Sends what `request` makes for the negotiated version to one broker.
    pub async fn ask_broker<R: Shaped>(
        &self,
        broker: i32,
        request: impl Fn(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let server = self.server_of(broker)?;
        self.ask(&server, request).await
    }

    /// The version in which one broker is asked this.
    pub async fn version_at<R: Shaped>(&self, broker: i32) -> Result<i16, ClientError> {
        let server = self.server_of(broker)?;
        let slot = self.slot(&server);
        let mut held = slot.lock().await;
        let connection = match held.take() {
            Some(connection) => connection,
            None => Connection::open(&server, &self.shared.options).await?,
        };
        let version = connection.version::<R>();
        *held = Some(connection);
        version
    }

    /// Brokers as the last metadata named them.
    pub fn brokers(&self) -> BTreeMap<i32, HostPort> {
        self.state().brokers.clone()
    }

    /// A connection of its own to one broker, for many requests at a time.
    pub async fn pipeline_to(&self, broker: i32) -> Result<Pipeline, ClientError> {
        let server = self.server_of(broker)?;
        Ok(Pipeline::start(Connection::open(&server, &self.shared.options).await?))
    }

    fn server_of(&self, broker: i32) -> Result<HostPort, ClientError> {
        self.state().brokers.get(&broker).cloned().ok_or(ClientError::UnknownBroker { broker })
    }

    fn slot(&self, server: &HostPort) -> Slot {
        self.state().slots.entry(server.clone()).or_default().clone()
    }

    /// Sends what `request` makes for the negotiated version, over the server's connection.
    async fn ask<R: Shaped>(
        &self,
        server: &HostPort,
        request: impl Fn(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let slot = self.slot(server);
        let mut held = slot.lock().await;
        // Taken out: a request that is given up half way must not leave its answer to the next one.
        if let Some(mut connection) = held.take() {
            let version = connection.version::<R>()?;
            match connection.exchange(&request(version), version).await {
                // Brokers close idle connections; only a fresh one says that the broker is gone.
                Err(ClientError::Network { .. }) => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    *held = Some(connection);
                    return Ok(answer);
                }
            }
        }
        let mut connection = Connection::open(server, &self.shared.options).await?;
        let version = connection.version::<R>()?;
        let answer = connection.exchange(&request(version), version).await?;
        *held = Some(connection);
        Ok(answer)
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn metadata_request(names: Option<&[String]>, version: i16) -> MetadataRequest {
    if version < METADATA_WITHOUT_CREATION {
        return MetadataRequest::default().with_topics(None);
    }
    let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    MetadataRequest::default()
        .with_topics(names.map(|names| names.iter().map(topic).collect()))
        .with_allow_auto_topic_creation(false)
}

fn edges_request(
    isolation_level: IsolationLevel,
    edge: LogEdge,
    partitions: &[(TopicPartition, LeaderEpoch)],
    version: i16,
) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (partition, leader_epoch) in partitions {
        let query = ListOffsetsPartition::default()
            .with_partition_index(partition.partition())
            .with_current_leader_epoch(leader_epoch.0)
            .with_timestamp(edge.timestamp());
        topics.entry(partition.topic()).or_default().push(query);
    }
    let topic = |(name, partitions): (&str, Vec<ListOffsetsPartition>)| {
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    let isolation = match isolation_level {
        // Version 1 has no such field; its ends are high watermarks.
        IsolationLevel::ReadCommitted if version >= 2 => 1,
        _ => 0,
    };
    ListOffsetsRequest::default()
        .with_replica_id(CONSUMER)
        .with_isolation_level(isolation)
        .with_topics(topics.into_iter().map(topic).collect())
}

fn epoch_request(
    leader: Leader,
    partition: &TopicPartition,
    epoch: LeaderEpoch,
) -> OffsetForLeaderEpochRequest {
    let query = OffsetForLeaderPartition::default()
        .with_partition(partition.partition())
        .with_current_leader_epoch(leader.epoch.0)
        .with_leader_epoch(epoch.0);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(topic_name(partition.topic()))
        .with_partitions(vec![query]);
    OffsetForLeaderEpochRequest::default().with_replica_id(CONSUMER).with_topics(vec![topic])
}

fn fetch_request(
    reading: Reading,
    leader: Leader,
    partition: &TopicPartition,
    offset: Offset,
) -> FetchRequest {
    let query = FetchPartition::default()
        .with_partition(partition.partition())
        .with_current_leader_epoch(leader.epoch.0)
        .with_fetch_offset(offset.value())
        .with_partition_max_bytes(reading.bytes_max);
    let topic = FetchTopic::default().with_topic(topic_name(partition.topic())).with_partitions(vec![query]);
    FetchRequest::default()
        .with_replica_id(BrokerId(reading.replica_id))
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(reading.bytes_max)
        .with_topics(vec![topic])
}

fn cluster_view(answer: MetadataResponse) -> ClusterView {
    let broker = |broker: &kafka_protocol::messages::metadata_response::MetadataResponseBroker| {
        let port = u16::try_from(broker.port).ok().filter(|port| *port != 0)?;
        Some((broker.node_id.0, HostPort { host: broker.host.to_string(), port }))
    };
    let topics = answer.topics.iter().filter_map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| PartitionView {
            index: partition.partition_index,
            leader: (partition.leader_id.0 >= 0).then_some(Leader {
                broker: partition.leader_id.0,
                epoch: LeaderEpoch(partition.leader_epoch),
            }),
        });
        Some(TopicView {
            name: topic.name.as_ref()?.to_string(),
            id: TopicId(*topic.topic_id.as_bytes()),
            is_internal: topic.is_internal,
            error: topic.error_code,
            partitions: partitions.collect(),
        })
    });
    ClusterView {
        cluster_id: answer.cluster_id.as_ref().map(ToString::to_string),
        brokers: answer.brokers.iter().filter_map(broker).collect(),
        topics: topics.collect(),
    }
}
