//! Follows the destination's metadata log on the control core, and shows what the cluster is.
//!
//! Owns the connection of the observer and the only writer of the image. The image of a big cluster is
//! tens of megabytes: it is changed in place behind a lock, never copied. Readers hold the lock for a look;
//! the writer for one batch of records, or to exchange the pointer of a whole new image.
//!
//! ```text
//!   DescribeCluster --> cluster id --> [ poll the machine --> Fetch / FetchSnapshot --> handle ] for ever
//!                                            \--> Apply, Replace --> image --> ImageState (watch)
//! ```

use super::controllers::Controllers;
use super::wire_form::{wire_id, wire_text};
use crate::config::HostPort;
use crate::control::source_client::{
    ClientError, Connection, ConnectionOptions, METADATA_FETCH_VERSION, Shaped,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_snapshot_request::{
    PartitionSnapshot, SnapshotId as WireSnapshotId, TopicSnapshot,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, FetchRequest, FetchResponse, FetchSnapshotRequest,
    FetchSnapshotResponse, TopicName,
};
use std::sync::atomic::{AtomicI16, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};
use twinlog_sync::Nanoseconds;
use twinlog_sync::metadata::follower::{FollowerEvent, QuorumLeader, Trouble};
use twinlog_sync::metadata::membership::derived_directory;
use twinlog_sync::metadata::record::Uuid;
use twinlog_sync::metadata::{
    ClusterImage, FetchAnswer, FollowerAction, ImageError, MetadataFollower, MetadataRecord, SnapshotAnswer,
    SnapshotId,
};

/// The controller holds a fetch that long when there is nothing; it writes a record every 500 ms anyway.
const MAX_WAIT_MS: i32 = 500;
/// No answer for this long is a dead controller: a session of 9 s must survive one or two of them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// One answer. Raised, a fetch of much history takes more memory at once.
const FETCH_BYTES: i32 = 8 << 20;
/// Pause between two tries to learn the cluster's id.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A cluster that cannot be reached is named in the log once in so many tries.
const TRIES_BETWEEN_WARNINGS: u64 = 100;
/// Kafka's fixed id and name of the metadata log.
const METADATA_TOPIC_ID: Uuid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const METADATA_TOPIC: &str = "__cluster_metadata";
/// What stands for an answer without the partition that was asked for.
const UNKNOWN_SERVER_ERROR: i16 = -1;
/// DescribeCluster: controllers, not brokers.
const CONTROLLER_ENDPOINTS: i8 = 2;

/// How far the image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageState {
    /// The log has been read once; before that the image is empty.
    pub is_ready: bool,
    /// [`ClusterImage::version`].
    pub version: u64,
    /// Behind the last record that is in the image.
    pub next_offset: i64,
}

/// The image and who waits for it. One writer, any number of readers.
#[derive(Default)]
pub struct SharedImage {
    image: RwLock<ClusterImage>,
    state: watch::Sender<ImageState>,
    cluster_id: OnceLock<String>,
    /// Error code with which the log is refused to us now; 0 while it is not.
    refusal: AtomicI16,
}

impl SharedImage {
    pub fn read(&self) -> RwLockReadGuard<'_, ClusterImage> {
        self.image.read().expect("applying records does not panic")
    }

    /// `None` while records are being applied.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, ClusterImage>> {
        match self.image.try_read() {
            Ok(image) => Some(image),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("applying records does not panic"),
        }
    }

    pub fn moves(&self) -> watch::Receiver<ImageState> {
        self.state.subscribe()
    }

    pub fn state(&self) -> ImageState {
        *self.state.borrow()
    }

    /// Known as soon as the image is ready.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.get().map(String::as_str)
    }

    /// Error code with which a controller refuses us the log; 0 while none does.
    pub fn refusal(&self) -> i16 {
        self.refusal.load(Ordering::Relaxed)
    }

    fn replace(&self, mut image: ClusterImage, next_offset: i64) {
        let mut shown = self.image.write().expect("applying records does not panic");
        image.succeed(&shown);
        let version = image.version();
        let before = std::mem::replace(&mut *shown, image);
        drop(shown);
        // Freeing a big image takes milliseconds: not while readers wait.
        drop(before);
        self.state.send_replace(ImageState { is_ready: true, version, next_offset });
    }

    fn apply(&self, records: Vec<MetadataRecord>, next_offset: i64) -> Result<(), ImageError> {
        let mut image = self.image.write().expect("applying records does not panic");
        for record in records {
            image.apply(record)?;
        }
        let (version, whole) = (image.version(), !image.in_transaction());
        drop(image);
        self.state.send_modify(|state| {
            state.version = version;
            if whole {
                state.next_offset = next_offset;
            }
        });
        Ok(())
    }
}

struct Observer {
    controllers: Arc<Controllers>,
    options: ConnectionOptions,
    broker: i32,
    cluster_id: String,
    directory: Uuid,
    /// Whom the next request goes to.
    target: HostPort,
    held: Option<Connection>,
}

/// Follows the log until it is aborted.
pub async fn follow(
    controllers: Arc<Controllers>,
    options: ConnectionOptions,
    broker: i32,
    image: Arc<SharedImage>,
) {
    let request_timeout = options.request_timeout.min(ANSWER_TIMEOUT);
    let options = ConnectionOptions { request_timeout, ..options };
    let cluster_id = learn_cluster(&controllers, &options).await;
    let cluster_id = image.cluster_id.get_or_init(|| cluster_id).clone();
    let directory = derived_directory(&cluster_id, broker);
    let target = controllers.next();
    let mut observer = Observer { controllers, options, broker, cluster_id, directory, target, held: None };
    let started = Instant::now();
    let now = || started.elapsed().as_nanos() as Nanoseconds;
    let mut follower = MetadataFollower::new();
    loop {
        while let Some(action) = follower.poll() {
            match action {
                FollowerAction::Fetch { offset, last_fetched_epoch, quorum_epoch } => {
                    let request = observer.fetch(offset, last_fetched_epoch, quorum_epoch);
                    let answer = observer.ask(&request, METADATA_FETCH_VERSION).await;
                    if let Some(answer) = &answer {
                        observer.learn(answer);
                    }
                    let event = answer.as_ref().map_or(FollowerEvent::Failed, fetched);
                    follower.handle(now(), event);
                }
                FollowerAction::FetchSnapshot { id, position, quorum_epoch } => {
                    let request = observer.fetch_snapshot(id, position, quorum_epoch);
                    let answer = observer.ask(&request, FetchSnapshotRequest::UNDERSTOOD.max).await;
                    let event = answer.as_ref().map_or(FollowerEvent::Failed, snapshot_fetched);
                    follower.handle(now(), event);
                }
                FollowerAction::Leads => {
                    image.refusal.store(0, Ordering::Relaxed);
                    observer.controllers.announce(&observer.target);
                }
                FollowerAction::AskAnother { hint } => observer.turn_to(hint),
                FollowerAction::Replace { image: whole, next_offset } => image.replace(*whole, next_offset),
                FollowerAction::Apply { records, next_offset } => {
                    if let Err(error) = image.apply(records, next_offset) {
                        follower.handle(now(), FollowerEvent::NotApplied(error));
                    }
                }
                FollowerAction::Trouble(trouble) => {
                    if let Trouble::Refused { code } = trouble {
                        image.refusal.store(code, Ordering::Relaxed);
                    }
                    tracing::warn!("{}: {trouble}", observer.target);
                }
            }
        }
        let deadline = follower.deadline().expect("a machine that asks for nothing waits for a time");
        sleep_until((started + Duration::from_nanos(deadline)).into()).await;
        follower.handle(now(), FollowerEvent::Woken);
    }
}

/// One fetch of the metadata log as [`follow`] does it, for looking at a controller: its error code.
pub async fn try_fetch(
    server: &HostPort,
    options: &ConnectionOptions,
    cluster_id: &str,
    broker: i32,
) -> Result<i16, ClientError> {
    let mut observer = Observer {
        controllers: Controllers::new(vec![server.clone()]),
        options: options.clone(),
        broker,
        cluster_id: cluster_id.to_owned(),
        directory: derived_directory(cluster_id, broker),
        target: server.clone(),
        held: None,
    };
    // No epoch is known yet: a leader answers with it, any other with the leader.
    let request = observer.fetch(0, 0, -1);
    let answer = observer.exchange(&request, METADATA_FETCH_VERSION).await?;
    let FollowerEvent::Fetched(told) = fetched(&answer) else { unreachable!("it is made so") };
    Ok(told.error)
}

/// The id of the cluster and where its controllers listen, by whichever answers first.
async fn learn_cluster(controllers: &Controllers, options: &ConnectionOptions) -> String {
    let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLER_ENDPOINTS);
    for tries in 0u64.. {
        let server = controllers.next();
        let asked = async {
            let mut connection = Connection::open(&server, options).await?;
            let version = connection.version::<DescribeClusterRequest>()?;
            connection.exchange(&request, version).await
        };
        let failure = match asked.await {
            Ok(answer) if answer.error_code == 0 => {
                let address =
                    |host: &str, port: i32| Some(HostPort { host: host.to_owned(), port: port_of(port)? });
                let nodes = answer.brokers.iter();
                controllers.learn(
                    nodes.filter_map(|node| Some((node.broker_id.0, address(&node.host, node.port)?))),
                );
                return answer.cluster_id.to_string();
            }
            Ok(answer) => {
                let (request, code) = (DescribeClusterRequest::NAME, answer.error_code);
                ClientError::Refused { server, request, code }
            }
            Err(error) => error,
        };
        if tries.is_multiple_of(TRIES_BETWEEN_WARNINGS) {
            tracing::warn!("{failure}");
        }
        sleep(RETRY_PAUSE).await;
    }
    unreachable!("it is tried for ever")
}

fn port_of(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

impl Observer {
    /// `None` when it brought no answer; the connection is given up then.
    async fn ask<R: Shaped>(&mut self, request: &R, version: i16) -> Option<R::Response> {
        // Connecting included: a host that lost its power answers nothing at all.
        match timeout(ANSWER_TIMEOUT, self.exchange(request, version)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!("{error}");
                None
            }
            Err(_) => None,
        }
    }

    async fn exchange<R: Shaped>(&mut self, request: &R, version: i16) -> Result<R::Response, ClientError> {
        let mut connection = match self.held.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target, &self.options).await?,
        };
        let answer = connection.exchange(request, version).await?;
        self.held = Some(connection);
        Ok(answer)
    }

    fn turn_to(&mut self, hint: Option<i32>) {
        self.controllers.doubt(&self.target);
        let next = hint.and_then(|id| self.controllers.named(id)).unwrap_or_else(|| self.controllers.next());
        if next != self.target {
            self.held = None;
            self.target = next;
        }
    }

    fn learn(&self, answer: &FetchResponse) {
        let nodes = answer.node_endpoints.iter();
        let address = |host: &str, port| Some(HostPort { host: host.to_owned(), port: port_of(port)? });
        self.controllers
            .learn(nodes.filter_map(|node| Some((node.node_id.0, address(&node.host, node.port)?))));
    }

    fn fetch(&self, offset: i64, last_fetched_epoch: i32, quorum_epoch: i32) -> FetchRequest {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_current_leader_epoch(quorum_epoch)
            .with_fetch_offset(offset)
            .with_last_fetched_epoch(last_fetched_epoch)
            .with_partition_max_bytes(FETCH_BYTES)
            .with_replica_directory_id(wire_id(self.directory));
        let topic =
            FetchTopic::default().with_topic_id(wire_id(METADATA_TOPIC_ID)).with_partitions(vec![partition]);
        // An epoch of -1: it observes before it is registered, and nobody counts it.
        let replica = ReplicaState::default().with_replica_id(BrokerId(self.broker)).with_replica_epoch(-1);
        FetchRequest::default()
            .with_cluster_id(Some(wire_text(&self.cluster_id)))
            .with_replica_state(replica)
            .with_max_wait_ms(MAX_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_topics(vec![topic])
    }

    fn fetch_snapshot(&self, id: SnapshotId, position: i64, quorum_epoch: i32) -> FetchSnapshotRequest {
        let partition = PartitionSnapshot::default()
            .with_partition(0)
            .with_current_leader_epoch(quorum_epoch)
            .with_snapshot_id(WireSnapshotId::default().with_end_offset(id.end_offset).with_epoch(id.epoch))
            .with_position(position)
            .with_replica_directory_id(wire_id(self.directory));
        let topic = TopicSnapshot::default()
            .with_name(TopicName(wire_text(METADATA_TOPIC)))
            .with_partitions(vec![partition]);
        FetchSnapshotRequest::default()
            .with_cluster_id(Some(wire_text(&self.cluster_id)))
            .with_replica_id(BrokerId(self.broker))
            .with_max_bytes(FETCH_BYTES)
            .with_topics(vec![topic])
    }
}

fn fetched(answer: &FetchResponse) -> FollowerEvent<'_> {
    let partition = answer.responses.first().and_then(|topic| topic.partitions.first());
    let error = match (answer.error_code, partition) {
        (0, Some(partition)) => partition.error_code,
        (0, None) => UNKNOWN_SERVER_ERROR,
        (code, _) => code,
    };
    let snapshot =
        |end_offset, epoch| (end_offset >= 0 && epoch >= 0).then_some(SnapshotId { end_offset, epoch });
    FollowerEvent::Fetched(FetchAnswer {
        error,
        high_watermark: partition.map_or(-1, |partition| partition.high_watermark),
        diverging: partition
            .and_then(|found| snapshot(found.diverging_epoch.end_offset, found.diverging_epoch.epoch)),
        leader: partition.filter(|found| found.current_leader.leader_epoch >= 0).map(|found| QuorumLeader {
            id: Some(found.current_leader.leader_id.0).filter(|id| *id >= 0),
            epoch: found.current_leader.leader_epoch,
        }),
        snapshot: partition.and_then(|found| snapshot(found.snapshot_id.end_offset, found.snapshot_id.epoch)),
        records: partition.and_then(|found| found.records.as_deref()).unwrap_or_default(),
    })
}

fn snapshot_fetched(answer: &FetchSnapshotResponse) -> FollowerEvent<'_> {
    let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
    let refused = |error| SnapshotAnswer {
        error,
        id: SnapshotId { end_offset: -1, epoch: -1 },
        size_bytes: 0,
        position: 0,
        bytes: &[],
    };
    FollowerEvent::SnapshotFetched(match (answer.error_code, partition) {
        (0, Some(found)) => SnapshotAnswer {
            error: found.error_code,
            id: SnapshotId { end_offset: found.snapshot_id.end_offset, epoch: found.snapshot_id.epoch },
            size_bytes: found.size,
            position: found.position,
            bytes: &found.unaligned_records,
        },
        (0, None) => refused(UNKNOWN_SERVER_ERROR),
        (code, _) => refused(code),
    })
}
