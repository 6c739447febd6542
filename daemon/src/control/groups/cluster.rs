//! One cluster as the coordinators of its groups are spoken to: lists, positions, and who coordinates whom.
//!
//! Every broker has a few pipelined connections of its own here, apart from those of metadata, so that a round with
//! thousands of requests holds up nobody else. A broker that does not answer is left alone for a moment: the groups
//! of the others must not wait for it in every round.

use super::NETWORK_EXCEPTION;
use crate::control::guest::wire_text;
use crate::control::source_client::{Answer, ClientError, Pipeline, Shaped, SourceClient};
use bytes::Bytes;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DescribeConfigsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetFetchRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use twinlog_sync::group_offsets::GroupKind;

/// The longest that a listing waits for one broker: until it is over nothing else of a round begins.
const LISTING_LIMIT: Duration = Duration::from_secs(2);
/// The longest that any other request of a round waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A broker that failed is not asked again before this. Longer delays its return by as much; shorter, one that is
/// black-holed holds up every second round.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// The same for one that refused the connection: it costs nothing to try.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// How often brokers are looked up anew while all goes well.
const BROKERS_AGE_MAX: Duration = Duration::from_secs(10);
/// Names in one question for coordinators.
const NAMES_PER_REQUEST_MAX: usize = 1_000;

/// Kafka's number for brokers among resources.
const BROKER: i8 = 4;

const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;

/// Which of a broker's connections.
pub type LaneNumber = usize;
/// Of listings and questions for coordinators.
pub const ASKING_LANE: LaneNumber = 0;
/// Connections for readings of positions, behind it. A broker carries out one request of a connection at a time, and
/// so many groups are read in one that the next would wait. Each more takes one more of its threads from its clients.
const READING_LANES: usize = 2;
/// The first of those for commits.
pub const FIRST_COMMIT_LANE: LaneNumber = ASKING_LANE + 1 + READING_LANES;

enum Lane {
    Closed,
    Open(Arc<Pipeline>),
    Failed { until: Instant, error: ClientError },
}

/// Whoever opens it holds the others up until it is open.
type SharedLane = Arc<tokio::sync::Mutex<Lane>>;

/// See the file's header.
pub struct Cluster {
    client: SourceClient,
    /// Brokers that coordinate nothing: ours.
    left_out: BTreeSet<i32>,
    lanes: Mutex<BTreeMap<(i32, LaneNumber), SharedLane>>,
    looked_at: Mutex<Option<Instant>>,
    requests: AtomicU64,
    /// Readings so far: they take their lanes in turn.
    readings: AtomicUsize,
}

/// A group as its coordinator lists it.
pub struct Listed {
    pub name: String,
    pub kind: GroupKind,
    /// Somebody is in it.
    pub live: bool,
}

/// Everything that the brokers listed.
#[derive(Default)]
pub struct Listing {
    pub brokers: BTreeMap<i32, Vec<Listed>>,
    /// Every broker answered in full.
    pub complete: bool,
    pub error: Option<String>,
}

fn is_live(state: &str) -> bool {
    !["empty", "dead", ""].iter().any(|quiet| state.eq_ignore_ascii_case(quiet))
}

impl Cluster {
    pub fn new(client: SourceClient, left_out: BTreeSet<i32>) -> Self {
        Self {
            client,
            left_out,
            lanes: Mutex::default(),
            looked_at: Mutex::default(),
            requests: AtomicU64::new(0),
            readings: AtomicUsize::new(0),
        }
    }

    /// Requests since this was last asked.
    pub fn take_requests(&self) -> u64 {
        self.requests.swap(0, Relaxed)
    }

    /// Looks the brokers up when that is due.
    async fn look(&self) -> Result<(), ClientError> {
        let age = self.looked_at.lock().expect("nothing panics with it").map(|at| at.elapsed());
        if age.is_some_and(|age| age < BROKERS_AGE_MAX) && !self.client.brokers().is_empty() {
            return Ok(());
        }
        self.client.metadata(Some(&[])).await?;
        *self.looked_at.lock().expect("nothing panics with it") = Some(Instant::now());
        Ok(())
    }

    /// Somebody is not where it was: look brokers up before the next round.
    pub fn look_again(&self) {
        *self.looked_at.lock().expect("nothing panics with it") = None;
    }

    async fn lane(&self, broker: i32, number: LaneNumber) -> Result<Arc<Pipeline>, ClientError> {
        let lane = self.lane_of(broker, number);
        let mut held = lane.lock().await;
        match &*held {
            Lane::Open(pipeline) if pipeline.is_open() => return Ok(Arc::clone(pipeline)),
            Lane::Failed { until, error } if Instant::now() < *until => return Err(error.clone()),
            Lane::Open(_) | Lane::Closed | Lane::Failed { .. } => {}
        }
        match self.client.pipeline_to(broker).await {
            Ok(pipeline) => {
                let pipeline = Arc::new(pipeline);
                *held = Lane::Open(Arc::clone(&pipeline));
                Ok(pipeline)
            }
            Err(error) => {
                *held = Lane::Failed { until: Instant::now() + REFUSED_PAUSE, error: error.clone() };
                self.look_again();
                Err(error)
            }
        }
    }

    fn lane_of(&self, broker: i32, number: LaneNumber) -> SharedLane {
        let mut lanes = self.lanes.lock().expect("nothing panics with it");
        let closed = || Arc::new(tokio::sync::Mutex::new(Lane::Closed));
        Arc::clone(lanes.entry((broker, number)).or_insert_with(closed))
    }

    /// Nobody waits for this broker for a while.
    fn failed(&self, broker: i32, error: &ClientError) {
        self.look_again();
        let lanes = self.lanes.lock().expect("nothing panics with it");
        for lane in lanes.range((broker, 0)..=(broker, LaneNumber::MAX)).map(|(_, lane)| lane) {
            // One that is being opened just now finds out by itself.
            if let Ok(mut held) = lane.try_lock() {
                *held = Lane::Failed { until: Instant::now() + FAILED_PAUSE, error: error.clone() };
            }
        }
    }

    /// Sends a request; its answer is waited for elsewhere.
    pub async fn send<R: Shaped>(
        &self,
        broker: i32,
        lane: LaneNumber,
        request: impl FnOnce(i16) -> R,
    ) -> Result<Answer<R>, ClientError> {
        self.requests.fetch_add(1, Relaxed);
        self.lane(broker, lane).await?.send(request).await
    }

    /// An answer, or what a broker that stays silent is told as.
    pub async fn within<T>(
        &self,
        broker: i32,
        limit: Duration,
        request: &'static str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let server = self.client.brokers().get(&broker).cloned();
                let Some(server) = server else { return Err(ClientError::UnknownBroker { broker }) };
                let error = ClientError::TimedOut { server, request, after: limit };
                self.failed(broker, &error);
                Err(error)
            }
        }
    }

    async fn list_one(&self, broker: i32) -> Result<(Vec<Listed>, i16), ClientError> {
        let answer = async {
            let sent = self.send(broker, ASKING_LANE, |_| ListGroupsRequest::default()).await?;
            sent.decoded().await
        };
        let answer = self.within(broker, LISTING_LIMIT, "ListGroups", answer).await?;
        let listed = answer.groups.iter().map(|group| Listed {
            name: group.group_id.to_string(),
            kind: GroupKind::parse(&group.group_type),
            live: is_live(&group.group_state),
        });
        Ok((listed.collect(), answer.error_code))
    }

    /// What every broker lists, asked side by side.
    pub async fn list(self: &Arc<Self>) -> Listing {
        let mut listing = Listing { complete: true, ..Listing::default() };
        if let Err(error) = self.look().await {
            listing.error = Some(error.to_string());
        }
        let mut asked = JoinSet::new();
        for broker in self.client.brokers().into_keys().filter(|broker| !self.left_out.contains(broker)) {
            let this = Arc::clone(self);
            asked.spawn(async move { (broker, this.list_one(broker).await) });
        }
        listing.complete = !asked.is_empty();
        while let Some(answered) = asked.join_next().await {
            let (broker, answer) = answered.expect("a listing does not panic");
            match answer {
                Ok((groups, code)) => {
                    if code != 0 {
                        listing.complete = false;
                        listing.error =
                            told(code).map(|code| format!("broker {broker} lists groups in part: {code}"));
                    }
                    listing.brokers.insert(broker, groups);
                }
                // A guest broker of somebody else, for example: it coordinates nothing.
                Err(ClientError::NoCommonVersion { theirs: None, .. }) => {}
                Err(error) => {
                    listing.complete = false;
                    listing.error = Some(error.to_string());
                    self.look_again();
                }
            }
        }
        listing
    }

    /// All positions of these groups, as they were sent.
    pub async fn positions(&self, broker: i32, groups: &[String]) -> Result<Bytes, ClientError> {
        let lane = ASKING_LANE + 1 + self.readings.fetch_add(1, Relaxed) % READING_LANES;
        let answer = async {
            let sent = self.send(broker, lane, |_| positions_request(groups)).await?;
            sent.raw().await
        };
        self.within(broker, ANSWER_LIMIT, "OffsetFetch", answer).await
    }

    /// Who coordinates these groups, in their order: a broker, or an error code.
    pub async fn coordinators(&self, groups: &[String]) -> Vec<Result<i32, i16>> {
        let mut found: BTreeMap<String, Result<i32, i16>> = BTreeMap::new();
        for piece in groups.chunks(NAMES_PER_REQUEST_MAX) {
            for broker in self.client.brokers().into_keys().filter(|broker| !self.left_out.contains(broker)) {
                let answer = async {
                    let sent = self.send(broker, ASKING_LANE, |_| coordinators_request(piece)).await?;
                    sent.decoded().await
                };
                // Any of them knows.
                let Ok(answer) = self.within(broker, ANSWER_LIMIT, "FindCoordinator", answer).await else {
                    continue;
                };
                for each in answer.coordinators {
                    let broker = if each.error_code == 0 { Ok(each.node_id.0) } else { Err(each.error_code) };
                    found.insert(each.key.to_string(), broker);
                }
                break;
            }
        }
        let of = |group: &String| found.get(group).copied().unwrap_or(Err(NETWORK_EXCEPTION));
        groups.iter().map(of).collect()
    }

    /// What one broker says of a configuration of its own; `None`: nothing, or it is not for us.
    pub async fn broker_config(&self, name: &str) -> Option<String> {
        let broker = self.client.brokers().into_keys().find(|broker| !self.left_out.contains(broker))?;
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(wire_text(&broker.to_string()))
            .with_configuration_keys(Some(vec![wire_text(name)]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = async { self.send(broker, ASKING_LANE, |_| request).await?.decoded().await };
        let answer = self.within(broker, ANSWER_LIMIT, "DescribeConfigs", answer).await.ok()?;
        let found = answer.results.into_iter().next().filter(|result| result.error_code == 0)?;
        let config = found.configs.into_iter().find(|config| config.name.as_str() == name)?;
        config.value.map(|value| value.to_string())
    }

    /// The longest that an answer is waited for.
    pub const fn limit() -> Duration {
        ANSWER_LIMIT
    }
}

/// Some groups are being loaded, or moved: not worth a word for itself.
fn told(code: i16) -> Option<String> {
    let passing = [COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE].contains(&code);
    (!passing).then(|| format!("error code {code}"))
}

fn group_id(name: &str) -> GroupId {
    GroupId(wire_text(name))
}

fn positions_request(groups: &[String]) -> OffsetFetchRequest {
    let group =
        |name: &String| OffsetFetchRequestGroup::default().with_group_id(group_id(name)).with_topics(None);
    // What an open transaction has written counts once it is over, and what it would replace counts until then.
    OffsetFetchRequest::default().with_groups(groups.iter().map(group).collect()).with_require_stable(false)
}

fn coordinators_request(groups: &[String]) -> FindCoordinatorRequest {
    let keys = groups.iter().map(|name| wire_text(name));
    FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(keys.collect())
}
