//! The destination half of a check: whether a guest could join it, before anything is created there.
//!
//! Owns what is asked and how long it may take. It must never change anything: every request reads, or is
//! marked to be validated only. What the answers mean is judged, without any network, in `judge` and `rights`.
//!
//! ```text
//!   bootstrap.servers, each      DescribeCluster ------------\
//!   bootstrap.controllers, each  DescribeCluster, one Fetch --> facts --> lines
//!   metadata log                 followed until it is read --/
//!   one broker                   rights and settings -------/
//! ```

mod judge;
mod rights;
mod rights_asked;

pub(super) use judge::shown;
pub(super) use rights::Authorizer;
pub(super) use rights_asked::authorizer;

use super::acl_command::{wanted, wanted_groups};
use super::line::Line;
use crate::config::{GuestSettings, HostPort, LinkSettings};
use crate::control::discovery::{ClusterView, Discovery};
use crate::control::guest::{Controllers, SharedImage, follow, try_fetch};
use crate::control::source_client::{
    ClientError, Connection, ConnectionOptions, METADATA_FETCH_VERSION, Shaped, SourceClient,
};
use crate::security::ClientSecurity;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, FetchRequest, FetchSnapshotRequest,
    IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use twinlog_sync::metadata::image::BROKER_RESOURCE;

/// One answer. Raised, a listener that is silent holds the report back for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// All that is asked of one listener, connecting included.
const LISTENER_LIMIT: Duration = Duration::from_secs(10);
/// Reading the metadata log to its end. A cluster of half a million partitions takes some seconds.
const LOG_LIMIT: Duration = Duration::from_secs(20);
/// Questions about rights and settings, of one broker each.
const QUESTIONS_LIMIT: Duration = Duration::from_secs(10);
/// What to do where rights and settings cannot be asked for.
const RIGHTS_CURE: &str = "look that the brokers are up and reachable at the addresses that they advertise, then check \
                           again";
/// DescribeCluster: brokers, controllers. ref: KIP-919
const BROKER_ENDPOINTS: i8 = 1;
const CONTROLLER_ENDPOINTS: i8 = 2;
/// The heartbeat that says which directories are cordoned. ref: KIP-1066
const HEARTBEAT_WITH_CORDON: i16 = 2;
/// Kafka's codes of a request that the principal may not make.
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;

/// What each listener of a list said, in the order of the list.
type Asked<T> = Vec<(HostPort, Result<T, ClientError>)>;

/// What a broker says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BrokerSays {
    code: i16,
    cluster_id: String,
    brokers: Vec<i32>,
    /// One bit for each right on the cluster; the smallest number if it does not tell.
    operations: i32,
}

/// What a controller says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ControllerSays {
    /// Requests that it does not know as we need them.
    lacks: Vec<&'static str>,
    cluster: Result<String, i16>,
    /// Error code of one fetch of the metadata log; `None` where no cluster id is known to ask with.
    fetch: Option<i16>,
}

/// All lines about the destination of a link.
pub(super) async fn destination_lines(
    link: &LinkSettings,
    guest: &GuestSettings,
    source: Option<&ClusterView>,
) -> Vec<Line> {
    let guest = &GuestSettings { request_timeout: guest.request_timeout.min(ANSWER_LIMIT), ..guest.clone() };
    let with = |security: &ClientSecurity| ConnectionOptions {
        client_id: guest.client_id.clone(),
        request_timeout: guest.request_timeout,
        security: security.clone(),
    };
    let (to_brokers, options) = (with(&guest.security), with(&guest.controller_security));
    let brokers = each(&guest.bootstrap_servers, |server| ask_broker(server, to_brokers.clone())).await;
    let told = brokers.iter().find_map(|(_, said)| said.as_ref().ok().filter(|said| said.code == 0));
    let cluster_id = told.map(|said| said.cluster_id.clone());
    let observer = guest.serving_ids[0].0;
    let controllers = each(&guest.bootstrap_controllers, |server| {
        ask_controller(
            server,
            options.clone(),
            cluster_id.clone(),
            (observer, guest.allow_placement_eviction),
        )
    })
    .await;
    let mut lines = judge::broker_lines(&brokers);
    lines.extend(judge::controller_lines(&controllers, cluster_id.as_deref()));
    lines.extend(judge::same_cluster_line(
        source.and_then(|view| view.cluster_id.as_deref()),
        cluster_id.as_deref(),
    ));
    let names = wanted_names(link, source);
    let mut default_factor = None;
    if let Some(told) = told {
        let (said, factor) = settings_lines(link, guest, &names, told.operations, &controllers).await;
        lines.extend(said);
        default_factor = factor;
    }
    let readable = controllers.iter().any(|(_, said)| said.as_ref().is_ok_and(ControllerSays::can_be_read));
    let read = if readable { read_log(guest, options, observer).await } else { None };
    let mut in_use = false;
    match &read {
        Some(shared) => {
            let image = shared.read();
            let cluster_id = shared.cluster_id().expect("known as soon as the image is ready");
            let (told, used) = judge::image_lines(&image, guest, cluster_id, default_factor, &names);
            (in_use, _) = (used, lines.extend(told));
        }
        None => lines.push(judge::log_not_read(readable)),
    }
    let elsewhere = read.as_ref().is_some_and(|shared| judge::brokers_are_elsewhere(&shared.read(), guest));
    let mut bound = Vec::new();
    for (_, address) in &guest.serving_ids {
        bound.push((address.clone(), try_to_listen(address).await));
    }
    lines.extend(judge::guest_listener_lines(&bound, in_use, elsewhere));
    lines
}

/// What live brokers tell of rights and settings, and how many replicas a topic gets by default.
async fn settings_lines(
    link: &LinkSettings,
    guest: &GuestSettings,
    names: &[String],
    operations: i32,
    controllers: &Asked<ControllerSays>,
) -> (Vec<Line>, Option<i16>) {
    let client = SourceClient::of_destination(guest);
    let known = timeout(QUESTIONS_LIMIT, client.metadata(Some(&[]))).await;
    let live: Vec<i32> = match known {
        Ok(Ok(view)) => view.brokers.into_keys().filter(|id| !guest.has_id(*id)).collect(),
        _ => Vec::new(),
    };
    let Some(broker) = live.first() else {
        let text = "no broker of the destination tells where the others are";
        let cure = "look that they are up, and reachable at the addresses that they advertise";
        return (vec![Line::fail("rights", text, cure)], None);
    };
    let fetches = controllers.iter().filter_map(|(_, said)| said.as_ref().ok()?.fetch);
    let fetches: Vec<i16> = fetches.collect();
    let groups = wanted_groups(link, &link.groups.prefix);
    let asked = rights_asked::ask(&client, *broker, guest, names, operations, &fetches, groups);
    let mut lines = Vec::new();
    let mut default_factor = None;
    match timeout(QUESTIONS_LIMIT, asked).await {
        Ok(Ok(facts)) => {
            default_factor = facts.default_factor();
            lines.extend(rights::rights_lines(&facts, &guest.bootstrap_servers[0], &wanted(link)));
        }
        Ok(Err(error)) => lines.push(Line::fail("rights", error.to_string(), RIGHTS_CURE)),
        Err(_) => lines.push(Line::fail("rights", "the brokers did not tell them in time", RIGHTS_CURE)),
    }
    lines.extend(judge::election_lines(&unclean_settings(&client, &live).await));
    (lines, default_factor)
}

impl GuestSettings {
    /// Whether an id is one of ours, the one in reserve included.
    fn has_id(&self, broker: i32) -> bool {
        broker == self.reserve_id || self.serving_ids.iter().any(|(id, _)| *id == broker)
    }
}

impl ControllerSays {
    fn can_be_read(&self) -> bool {
        self.cluster.is_ok() && self.fetch.is_some_and(|code| code != CLUSTER_AUTHORIZATION_FAILED)
    }
}

/// Asks all of a list at once: the silent ones cost their time once.
async fn each<T: Send + 'static, F>(servers: &[HostPort], ask: impl Fn(HostPort) -> F) -> Asked<T>
where
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, server) in servers.iter().enumerate() {
        let (asked, server) = (ask(server.clone()), server.clone());
        tasks.spawn(async move {
            let said = timeout(LISTENER_LIMIT, asked).await.unwrap_or_else(|_| {
                let (server, after) = (server.clone(), LISTENER_LIMIT);
                Err(ClientError::TimedOut { server, request: "what a check asks", after })
            });
            (index, (server, said))
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (index, said) = done.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        answers.insert(index, said);
    }
    answers.into_values().collect()
}

async fn ask_broker(server: HostPort, options: ConnectionOptions) -> Result<BrokerSays, ClientError> {
    let mut connection = Connection::open(&server, &options).await?;
    let version = connection.version::<DescribeClusterRequest>()?;
    let request = DescribeClusterRequest::default()
        .with_endpoint_type(BROKER_ENDPOINTS)
        .with_include_cluster_authorized_operations(true);
    let answer = connection.exchange(&request, version).await?;
    Ok(BrokerSays {
        code: answer.error_code,
        cluster_id: answer.cluster_id.to_string(),
        brokers: answer.brokers.iter().map(|broker| broker.broker_id.0).collect(),
        operations: answer.cluster_authorized_operations,
    })
}

async fn ask_controller(
    server: HostPort,
    options: ConnectionOptions,
    of_brokers: Option<String>,
    (observer, without_cordon): (i32, bool),
) -> Result<ControllerSays, ClientError> {
    let mut connection = Connection::open(&server, &options).await?;
    let version = connection.version::<DescribeClusterRequest>()?;
    let request = DescribeClusterRequest::default().with_endpoint_type(CONTROLLER_ENDPOINTS);
    let answer = connection.exchange(&request, version).await?;
    let cluster = match answer.error_code {
        0 => Ok(answer.cluster_id.to_string()),
        code => Err(code),
    };
    let fetch = match cluster.as_ref().ok().or(of_brokers.as_ref()) {
        Some(id) if connection.offered(FetchRequest::KEY).is_some() => {
            Some(try_fetch(&server, &options, id, observer).await?)
        }
        _ => None,
    };
    Ok(ControllerSays { lacks: lacking(&connection, without_cordon), cluster, fetch })
}

/// Requests that a guest cannot do without.
fn lacking(connection: &Connection, without_cordon: bool) -> Vec<&'static str> {
    fn needs<R: Shaped>(connection: &Connection) -> Option<&'static str> {
        connection.version::<R>().is_err().then_some(R::NAME)
    }
    let at_least = |key: i16, version: i16| connection.offered(key).is_some_and(|range| range.max >= version);
    let fetch = (!at_least(FetchRequest::KEY, METADATA_FETCH_VERSION)).then_some("Fetch v17");
    let heartbeat = if without_cordon { 1 } else { HEARTBEAT_WITH_CORDON };
    let heartbeat = !at_least(BrokerHeartbeatRequest::KEY, heartbeat);
    [
        fetch,
        needs::<FetchSnapshotRequest>(connection),
        needs::<BrokerRegistrationRequest>(connection),
        heartbeat.then_some("BrokerHeartbeat, with cordoned directories"),
        needs::<AlterPartitionRequest>(connection),
        needs::<CreateTopicsRequest>(connection),
        needs::<CreatePartitionsRequest>(connection),
        needs::<AlterPartitionReassignmentsRequest>(connection),
        needs::<IncrementalAlterConfigsRequest>(connection),
        needs::<AllocateProducerIdsRequest>(connection),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Follows the metadata log as the daemon does, until it was read once.
async fn read_log(
    guest: &GuestSettings,
    options: ConnectionOptions,
    observer: i32,
) -> Option<Arc<SharedImage>> {
    let image = Arc::new(SharedImage::default());
    let mut moves = image.moves();
    let controllers = Controllers::new(guest.bootstrap_controllers.clone());
    let following = tokio::spawn(follow(controllers, options, observer, image.clone()));
    let read = timeout(LOG_LIMIT, moves.wait_for(|state| state.is_ready)).await.is_ok();
    following.abort();
    read.then_some(image)
}

/// Topics of the source that the link wants, and those that it names.
fn wanted_names(link: &LinkSettings, source: Option<&ClusterView>) -> Vec<String> {
    let discovery = Discovery::new(link.topics.clone(), link.topic_filters.clone());
    let topics = source.iter().flat_map(|view| &view.topics);
    let found = topics.filter(|topic| topic.error == 0 && discovery.wants(&topic.name, topic.is_internal));
    let named = link.topics.iter().filter_map(|pattern| pattern.literal());
    let mut names: Vec<String> =
        found.map(|topic| topic.name.clone()).chain(named.map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

/// `unclean.leader.election.enable` as each broker has it: value, and where it comes from; or an error code.
async fn unclean_settings(client: &SourceClient, brokers: &[i32]) -> judge::UncleanSettings {
    let asked = async {
        let mut settings = BTreeMap::new();
        for broker in brokers {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(BROKER_RESOURCE)
                .with_resource_name(StrBytes::from_string(broker.to_string()))
                .with_configuration_keys(Some(vec![StrBytes::from_static_str(judge::UNCLEAN)]));
            let request = |_| DescribeConfigsRequest::default().with_resources(vec![resource.clone()]);
            let Ok(answer) = client.ask_broker(*broker, request).await else { continue };
            let Some(found) = answer.results.into_iter().next() else { continue };
            let value = found.configs.into_iter().next().and_then(|each| each.value);
            settings.insert(
                *broker,
                match (found.error_code, value) {
                    (0, Some(value)) => Ok(value.to_string()),
                    (code, _) => Err(code),
                },
            );
        }
        settings
    };
    timeout(QUESTIONS_LIMIT, asked).await.unwrap_or_default()
}

/// Whether followers could be listened for at an address: the kernel's word for why not.
async fn try_to_listen(address: &HostPort) -> Result<IpAddr, Error> {
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port));
    let mut resolved = timeout(ANSWER_LIMIT, resolved).await.map_err(Error::from)??;
    let found = resolved.next().ok_or(Error::from(ErrorKind::NotFound))?;
    TcpListener::bind(found).map(|_| found.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, Settings};

    fn told(brokers: &HostPort, controllers: &HostPort) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("twinlog.toml");
        let text = format!(
            "data.dir = \"/d\"\n[link.dr]\ntopics = [\"orders\"]\n[link.dr.source]\n\
             bootstrap.servers = \"127.0.0.1:1\"\n[link.dr.destination]\nmode = \"guest\"\n\
             bootstrap.servers = \"{brokers}\"\nbootstrap.controllers = \"{controllers}\"\n\
             inter.broker.listener.name = \"INTERNAL\"\nguest.broker.ids = \"900-901\"\n\
             guest.listener = \"127.0.0.1:49152\"\nrequest.timeout.ms = 1000\n"
        );
        std::fs::write(&file, text).unwrap();
        let link = Settings::from_raw(&RawConfig::read(&file).unwrap(), None).unwrap().link;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lines = runtime.block_on(destination_lines(&link, link.guest.as_ref().unwrap(), None));
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn listeners_that_are_silent_or_absent_fail_and_the_other_lines_still_come() {
        // Its kernel accepts, and nobody ever answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = HostPort { host: "127.0.0.1".to_owned(), port };
        let absent = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
        for (brokers, controllers) in [(&silent, &absent), (&absent, &silent)] {
            let lines = told(brokers, controllers);
            for subject in ["fail  destination", "fail  controllers", "fail  metadata log"] {
                assert!(lines.iter().any(|line| line.starts_with(subject)), "{subject}: {lines:#?}");
            }
            assert!(lines.iter().any(|line| line.contains(" guest.listener ")), "{lines:#?}");
        }
    }
}
