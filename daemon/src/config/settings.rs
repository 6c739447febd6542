//! Typed settings: what every other module reads.
//!
//! Invariant: a [`Settings`] exists only when every value is within its bound and no two exclude each other.

use super::admin::admin_settings;
use super::error::{ConfigError, LinkNameFault};
use super::file::{RawConfig, RawLink, RawValues};
use super::findings::Findings;
use super::key::{KEYS, Key, Kind, Scope, key_in};
use super::security::{client_security, listener_security};
use super::security_keys::completed;
use super::topic_filter::TopicFilters;
use super::topic_pattern::TopicPattern;
use super::value::{HostPort, RawValue, Value, ValueError};
use crate::admin::access::AdminSettings;
use crate::journal::OWN_DIRECTORY;
use crate::security::{ClientSecurity, ListenerSecurity, Secret, TlsVersions};
use crate::shard::FsyncPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use twinlog_io::{CoreChoice, EnginePreference};
use twinlog_log_segment::files::check_topic_name;
use twinlog_sync::backoff::BackoffLimits;
use twinlog_sync::truncation::{OnGap, OnTruncation, TruncationPolicy};
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Where truncated bytes are exported, below our own directory.
const CUTS_DIRECTORY: &str = "cuts";
/// Names beside the links' directories that are ours, and the one that stands for every link in requests.
const RESERVED_NAMES: [&str; 4] = [CUTS_DIRECTORY, "state.db", "admin.sock", "-"];

/// Where the source is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub bootstrap_servers: Vec<HostPort>,
    pub client_id: String,
    pub client_rack: String,
    pub metadata_max_age: Duration,
    pub request_timeout: Duration,
    /// Pauses after failures.
    pub backoff: BackoffLimits,
    pub security: ClientSecurity,
}

/// A destination cluster that we join as guest brokers.
#[derive(Clone, Debug)]
pub struct GuestSettings {
    /// Where its clients connect.
    pub bootstrap_servers: Vec<HostPort>,
    pub bootstrap_controllers: Vec<HostPort>,
    pub inter_broker_listener_name: String,
    /// Ids that may lead mirror partitions, each with the address at which followers reach it.
    pub serving_ids: Vec<(i32, HostPort)>,
    /// Kept for raising leader epochs; leads nothing.
    pub reserve_id: i32,
    /// Those of the daemon's other links: where their cluster is ours, no stock brokers either.
    pub ids_of_other_links: Vec<i32>,
    pub durable_replicas: u32,
    /// Join a cluster that cannot be kept from placing partitions on us, and move those away again.
    pub allow_placement_eviction: bool,
    /// `None`: the destination's own default.
    pub mirror_replication_factor: Option<u32>,
    pub store_retention_bytes: u64,
    pub client_id: String,
    pub request_timeout: Duration,
    /// Of connections to brokers.
    pub security: ClientSecurity,
    /// Of connections to controllers.
    pub controller_security: ClientSecurity,
    /// What is asked of followers.
    pub listener_security: ListenerSecurity,
}

/// How positions of consumer groups are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    pub enabled: bool,
    pub interval: Duration,
    /// Empty: all groups.
    pub filters: TopicFilters,
    /// Goes before a group's name at the destination.
    pub prefix: String,
    /// Groups that the source has no more go at the destination, too.
    pub delete_gone: bool,
}

/// One link.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    pub name: String,
    pub source: SourceSettings,
    /// `None`: segment files on this host are all there is to it.
    pub guest: Option<GuestSettings>,
    pub topics: Vec<TopicPattern>,
    /// Filters that create mirror topics; empty unless enabled.
    pub topic_filters: TopicFilters,
    pub isolation_level: IsolationLevel,
    pub truncation: TruncationPolicy,
    pub flush_ms: u64,
    pub flush_catch_up_ms: u64,
    pub flush_catch_up_bytes: u64,
    pub checkpoint_ms: u64,
    pub fsync: FsyncPolicy,
    pub segment_bytes: u32,
    pub batch_bytes_max: u32,
    /// 0 for no limit.
    pub bytes_per_second: u64,
    /// Unless an operator said otherwise.
    pub paused: bool,
    /// `availability.check.ms`
    pub availability_check: Duration,
    pub groups: GroupSettings,
    pub config_sync_interval: Duration,
    /// Topic configurations that are taken over where the source sets them.
    pub config_sync_include: Vec<String>,
    /// After it a silent source is shown as unavailable.
    pub retry_timeout: Duration,
    pub fetch_bytes_min: u32,
    pub fetch_wait_max_ms: u32,
    pub fetch_bytes_max: u32,
    pub fetch_response_bytes_max: u32,
}

/// What every link of a daemon shares.
#[derive(Clone, Debug)]
pub struct DaemonSettings {
    pub data_dir: PathBuf,
    pub data_cores: CoreChoice,
    /// `None`: chosen.
    pub control_core: Option<usize>,
    pub memory_bytes: u64,
    pub engine: EnginePreference,
    /// A crash may leave a core file.
    pub core_dumps: bool,
    pub direct_io: bool,
    /// How operators are served beside the unix socket.
    pub admin: AdminSettings,
    pub metrics: MetricsSettings,
}

/// The daemon and one of its links.
#[derive(Clone, Debug)]
pub struct Settings {
    pub daemon: DaemonSettings,
    pub link: LinkSettings,
}

/// How much `/metrics` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    pub partitions: bool,
    pub topics_max: u32,
}

impl Settings {
    /// Where partition directories lie, and nothing else.
    pub fn link_directory(&self) -> PathBuf {
        self.daemon.data_dir.join(&self.link.name)
    }

    pub fn journal_directory(&self) -> PathBuf {
        journal_directory(&self.daemon.data_dir, &self.link.name)
    }

    pub fn cuts_directory(&self) -> PathBuf {
        self.daemon.data_dir.join(OWN_DIRECTORY).join(CUTS_DIRECTORY).join(&self.link.name)
    }

    /// Parses everything that was said. `link` chooses among several links.
    pub fn from_raw(raw: &RawConfig, link: Option<&str>) -> Result<Self, ConfigError> {
        let mut findings = Findings::default();
        let daemon = findings.take(DaemonSettings::from_raw(raw));
        let chosen = choose_link(raw, link);
        let link = findings.take(chosen.and_then(|(name, link)| LinkSettings::from_raw(name, link)));
        daemon.zip(link).map(|(daemon, link)| Self { daemon, link }).ok_or_else(|| findings.into_error())
    }
}

impl DaemonSettings {
    /// Parses what stands at the top level.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let mut findings = Findings::default();
        let daemon = Values::parse(&raw.daemon, Scope::Daemon, &mut findings);
        let admin = daemon.are_sound(&["admin."]).then(|| findings.take(admin_settings(&daemon))).flatten();
        let Some(admin) = admin.filter(|_| findings.is_empty()) else { return Err(findings.into_error()) };
        Ok(Self {
            data_dir: daemon.path("data.dir"),
            data_cores: daemon.cores("data.cores"),
            control_core: daemon.core("control.core"),
            memory_bytes: daemon.number("memory.bytes"),
            core_dumps: daemon.choice("core.dumps") == "allow",
            engine: match daemon.choice("engine") {
                "ring" => EnginePreference::Ring,
                "epoll" => EnginePreference::Epoll,
                _ => EnginePreference::Auto,
            },
            direct_io: daemon.choice("direct.io") == "auto",
            admin,
            metrics: MetricsSettings {
                partitions: daemon.choice("metrics.partitions.enable") == "true",
                topics_max: daemon.small("metrics.topics.max"),
            },
        })
    }
}

/// Where the checkpoints of a link lie.
pub(crate) fn journal_directory(data_dir: &Path, link: &str) -> PathBuf {
    data_dir.join(OWN_DIRECTORY).join(link)
}

/// A link's name becomes a directory beside ours.
pub(crate) fn check_link_name(name: &str) -> Result<(), ConfigError> {
    let wrong = |why| Err(ConfigError::LinkName { name: name.to_owned(), why });
    match check_topic_name(name) {
        Err(error) => wrong(LinkNameFault::Name(error)),
        Ok(()) if name.starts_with('.') => wrong(LinkNameFault::Hidden),
        Ok(()) if RESERVED_NAMES.contains(&name) => wrong(LinkNameFault::Reserved),
        Ok(()) => Ok(()),
    }
}

fn choose_link<'a>(raw: &'a RawConfig, wanted: Option<&str>) -> Result<(&'a str, &'a RawLink), ConfigError> {
    let mut links = raw.links.iter();
    match (wanted, links.next(), links.next()) {
        (_, None, _) => Err(ConfigError::NoLink),
        (Some(name), Some(_), _) => raw
            .links
            .get_key_value(name)
            .map(|(name, link)| (name.as_str(), link))
            .ok_or_else(|| ConfigError::NoSuchLink { name: name.to_owned(), known: raw.link_names() }),
        (None, Some((name, link)), None) => Ok((name, link)),
        (None, Some(_), Some(_)) => Err(ConfigError::SeveralLinks { names: raw.link_names() }),
    }
}

impl LinkSettings {
    /// Everything that is wrong with it, as far as one mistake does not hide another.
    pub(super) fn from_raw(name: &str, raw: &RawLink) -> Result<Self, ConfigError> {
        let mut findings = Findings::default();
        findings.take(check_link_name(name));
        let source = Values::parse(&raw.source, Scope::Source, &mut findings);
        let destination = Values::parse(&raw.destination, Scope::Destination, &mut findings);
        let controllers = Values::of_controllers(raw, &mut findings);
        let link = Values::parse(&raw.link, Scope::Link, &mut findings);
        let security = secured(client_security, &source, Scope::Source, &mut findings);
        let guest = match destination.choice("mode") {
            "guest" => GuestSettings::from_values(&destination, &controllers, &mut findings),
            _ => None,
        };
        check_topics(&link, &mut findings);
        check_pairs(&link, &source, &mut findings);
        let Some(security) = security.filter(|_| findings.is_empty()) else {
            return Err(findings.into_error());
        };
        Ok(Self::from_values(name, &link, SourceSettings::from_values(&source, security), guest))
    }

    /// Of values that were all taken.
    fn from_values(name: &str, link: &Values, source: SourceSettings, guest: Option<GuestSettings>) -> Self {
        Self {
            name: name.to_owned(),
            source,
            guest,
            topics: link.topics("topics"),
            topic_filters: mirror_filters(link),
            isolation_level: match link.choice("isolation.level") {
                "read_uncommitted" => IsolationLevel::ReadUncommitted,
                _ => IsolationLevel::ReadCommitted,
            },
            truncation: truncation_policy(link),
            flush_ms: link.number("flush.ms"),
            flush_catch_up_ms: link.number("flush.catchup.ms"),
            flush_catch_up_bytes: link.number("flush.catchup.bytes"),
            checkpoint_ms: link.number("checkpoint.ms"),
            fsync: match link.choice("fsync") {
                "batch" => FsyncPolicy::Batch,
                "none" => FsyncPolicy::None,
                _ => FsyncPolicy::Interval,
            },
            segment_bytes: link.small("segment.bytes"),
            batch_bytes_max: link.small("batch.bytes.max"),
            bytes_per_second: link.number("link.bytes.per.second"),
            paused: link.choice("cluster.link.paused") == "true",
            availability_check: Duration::from_millis(link.number("availability.check.ms")),
            groups: group_settings(name, link),
            config_sync_interval: Duration::from_millis(link.number("topic.config.sync.ms")),
            config_sync_include: link.topic_configs("topic.config.sync.include"),
            retry_timeout: Duration::from_millis(link.number("cluster.link.retry.timeout.ms")),
            fetch_bytes_min: link.small("replica.fetch.min.bytes"),
            fetch_wait_max_ms: link.small("replica.fetch.wait.max.ms"),
            fetch_bytes_max: link.small("replica.fetch.max.bytes"),
            fetch_response_bytes_max: link.small("replica.fetch.response.max.bytes"),
        }
    }

    /// How each cluster of the link is connected: source, destination, controllers.
    pub fn securities(&self) -> impl Iterator<Item = &ClientSecurity> {
        let guest = self.guest.iter().flat_map(|guest| [&guest.security, &guest.controller_security]);
        std::iter::once(&self.source.security).chain(guest)
    }
}

/// Filters that create mirror topics, where they may.
fn mirror_filters(link: &Values) -> TopicFilters {
    match link.choice("auto.create.mirror.topics.enable") {
        "true" => link.topic_filters("auto.create.mirror.topics.filters"),
        _ => TopicFilters::default(),
    }
}

fn check_topics(link: &Values, findings: &mut Findings) {
    let nothing = link.topics("topics").is_empty() && mirror_filters(link).is_empty();
    if nothing && link.are_sound(&["topics", "auto.create.mirror.topics."]) {
        findings.add(ConfigError::NothingToMirror);
    }
}

/// Values that exclude each other.
fn check_pairs(link: &Values, source: &Values, findings: &mut Findings) {
    let (whole, wait, timeout) =
        ("replica.fetch.response.max.bytes", "replica.fetch.wait.max.ms", "request.timeout.ms");
    let mut exceeds = |key, other, other_value: Option<u64>, why| {
        if let Some((value, other_value)) = link.sound_number(key).zip(other_value)
            && value > other_value
        {
            findings.add(ConfigError::Conflict { key, value, other, other_value, why });
        }
    };
    let whole_bytes = link.sound_number(whole);
    let of_one = "one partition cannot bring more than its whole answer";
    exceeds("replica.fetch.max.bytes", whole, whole_bytes, of_one);
    let held_back = "the source would hold every answer back until the longest wait";
    exceeds("replica.fetch.min.bytes", whole, whole_bytes, held_back);
    let half_ms = source.sound_number(timeout).map(|timeout_ms| timeout_ms / 2);
    exceeds(
        wait,
        timeout,
        half_ms,
        "half of the timeout at most, or a source with nothing to say looks dead",
    );
}

/// Connections of one place, where all that is said of them was taken; the files that it names are read.
fn secured<T>(
    read: impl Fn(&Values, Scope) -> Result<T, ConfigError>,
    values: &Values,
    scope: Scope,
    findings: &mut Findings,
) -> Option<T> {
    match values.are_sound(&["security.", "ssl.", "sasl.", "guest.followers."]) {
        true => findings.take(read(values, scope)),
        false => None,
    }
}

impl SourceSettings {
    fn from_values(source: &Values, security: ClientSecurity) -> Self {
        Self {
            bootstrap_servers: source.servers("bootstrap.servers"),
            client_id: source.text("client.id"),
            client_rack: source.text("client.rack"),
            metadata_max_age: Duration::from_millis(source.number("metadata.max.age.ms")),
            request_timeout: Duration::from_millis(source.number("request.timeout.ms")),
            backoff: BackoffLimits::from_milliseconds(
                source.number("retry.backoff.ms"),
                source.number("retry.backoff.max.ms"),
            ),
            security,
        }
    }
}

impl GuestSettings {
    /// Every id that this link has in the cluster.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        self.serving_ids.iter().map(|(id, _)| *id).chain([self.reserve_id])
    }

    /// `None`: something of it was refused.
    fn from_values(values: &Values, controllers: &Values, findings: &mut Findings) -> Option<Self> {
        const NEEDED: [&str; 5] = [
            "bootstrap.servers",
            "bootstrap.controllers",
            "inter.broker.listener.name",
            "guest.broker.ids",
            "guest.listener",
        ];
        for name in NEEDED.into_iter().filter(|name| !values.is_given(name)) {
            let key = key_in(Scope::Destination, name).expect("a key of the table");
            findings.add(ConfigError::MissingFor { key, because: "mode = guest" });
        }
        let (mut of_brokers, mut of_controllers) = (Findings::default(), Findings::default());
        let security = secured(client_security, values, Scope::Destination, &mut of_brokers);
        let controller_security =
            secured(client_security, controllers, Scope::Controllers, &mut of_controllers);
        let own = of_controllers.iter().filter(|each| !of_brokers.iter().any(|told| is_the_same(told, each)));
        own.chain(of_brokers.iter()).for_each(|error| findings.add(error.clone()));
        let listener_security =
            secured(|values, _| listener_security(values), values, Scope::Destination, findings);
        let (serving_ids, reserve_id) = serving_ids(values, findings)?;
        if !NEEDED.iter().all(|name| values.has(name)) {
            return None;
        }
        let factor = values.small("mirror.replication.factor");
        Some(Self {
            bootstrap_servers: values.servers("bootstrap.servers"),
            bootstrap_controllers: values.servers("bootstrap.controllers"),
            inter_broker_listener_name: values.text("inter.broker.listener.name"),
            serving_ids,
            reserve_id,
            ids_of_other_links: Vec::new(),
            durable_replicas: values.small("guest.durable.replicas"),
            allow_placement_eviction: values.choice("guest.allow.placement.eviction") == "true",
            mirror_replication_factor: (factor > 0).then_some(factor),
            store_retention_bytes: values.number("store.retention.bytes"),
            client_id: values.text("client.id"),
            request_timeout: Duration::from_millis(values.number("request.timeout.ms")),
            security: security?,
            controller_security: controller_security?,
            listener_security: listener_security?,
        })
    }
}

/// Each id that leads with its own port, and the one that is kept back.
fn serving_ids(values: &Values, findings: &mut Findings) -> Option<(Vec<(i32, HostPort)>, i32)> {
    if !values.has("guest.broker.ids") || !values.has("guest.listener") {
        return None;
    }
    let mut ids = values.broker_ids("guest.broker.ids");
    let reserve_id = ids.pop().expect("two ids at least");
    let HostPort { host, port } = values.server("guest.listener");
    if usize::from(port) + ids.len() - 1 > usize::from(u16::MAX) {
        findings.add(ConfigError::PortsExceeded { port, ids: ids.len() });
        return None;
    }
    let address = |(index, id)| (id, HostPort { host: host.clone(), port: port + index as u16 });
    Some((ids.into_iter().enumerate().map(address).collect(), reserve_id))
}

/// What controllers take over from brokers is wrong for the same reason, and told once.
fn is_the_same(one: &ConfigError, other: &ConfigError) -> bool {
    match (one, other) {
        (ConfigError::Security { why: one, .. }, ConfigError::Security { why: other, .. }) => one == other,
        (ConfigError::MissingFor { key: one, .. }, ConfigError::MissingFor { key: other, .. }) => {
            one.name == other.name
        }
        (ConfigError::Kerberos { .. }, ConfigError::Kerberos { .. }) => true,
        _ => false,
    }
}

fn group_settings(link_name: &str, link: &Values) -> GroupSettings {
    GroupSettings {
        enabled: link.choice("consumer.offset.sync.enable") == "true",
        interval: Duration::from_millis(link.number("consumer.offset.sync.ms")),
        filters: link.topic_filters("consumer.offset.group.filters"),
        prefix: match link.choice("consumer.group.prefix.enable") {
            "true" => format!("{link_name}."),
            _ => String::new(),
        },
        delete_gone: link.choice("consumer.offset.deleted.groups") == "delete",
    }
}

fn truncation_policy(link: &Values) -> TruncationPolicy {
    TruncationPolicy {
        on_truncation: match link.choice("on.truncation") {
            "follow" => OnTruncation::Follow,
            "stop" => OnTruncation::Stop,
            _ => OnTruncation::Bounded,
        },
        on_gap: match link.choice("on.gap") {
            "continue" => OnGap::Continue,
            _ => OnGap::Stop,
        },
        bytes_max: link.number("truncation.bytes.max"),
        percent_max: link.small("truncation.percent.max"),
    }
}

/// Parsed values of one scope, defaults included: every key of the scope is there, but for an optional one
/// that was not given, and one that was refused and has no default.
pub(super) struct Values {
    taken: BTreeMap<&'static str, Value>,
    /// Given and not taken, or not given and required: a default may stand in for each.
    refused: BTreeSet<&'static str>,
}

/// Of a value that is refused, so much is shown: a file may hold megabytes in one.
const SHOWN_CHARS_MAX: usize = 200;

impl Values {
    fn parse(raw: &RawValues, scope: Scope, findings: &mut Findings) -> Self {
        let mut values = Self { taken: BTreeMap::new(), refused: BTreeSet::new() };
        for key in KEYS.iter().filter(|key| key.scope == scope) {
            let given = raw.get(key.name);
            if given.is_none() && key.required {
                findings.add(ConfigError::Missing { key });
                values.refused.insert(key.name);
                continue;
            }
            if let Some(Err(why)) = given.map(|text| Value::parse(key, text)) {
                findings.add(refused_value(key, given.expect("it was parsed"), why));
                values.refused.insert(key.name);
            }
            let is_text = matches!(key.kind, Kind::Text { .. } | Kind::File | Kind::Secret { .. });
            let default =
                (!key.default.is_empty() || is_text).then(|| RawValue::Text(key.default.to_owned()));
            let text = given.filter(|_| !values.refused.contains(key.name)).or(default.as_ref());
            if let Some(text) = text {
                let value = Value::parse(key, text).expect("it was taken, or is the table's own");
                values.taken.insert(key.name, value);
            }
        }
        values
    }

    /// With what they take over from the destination: a mistake there is said there.
    fn of_controllers(raw: &RawLink, findings: &mut Findings) -> Self {
        let mut all = Findings::default();
        let values =
            Self::parse(&completed(&raw.controllers, &raw.destination), Scope::Controllers, &mut all);
        let is_own = |error: &ConfigError| match error {
            ConfigError::Value { key, .. } => raw.controllers.contains_key(key.name),
            _ => true,
        };
        all.iter().filter(|error| is_own(error)).for_each(|error| findings.add(error.clone()));
        values
    }

    /// Whether no key whose name begins like one of these was refused.
    pub(super) fn are_sound(&self, prefixes: &[&str]) -> bool {
        !self.refused.iter().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// `None`: it was refused, and a default stands there.
    fn sound_number(&self, name: &str) -> Option<u64> {
        (!self.refused.contains(name)).then(|| self.number(name))
    }

    /// Whether a value was given, and taken.
    fn has(&self, name: &str) -> bool {
        self.is_given(name) && !self.refused.contains(name)
    }

    fn value(&self, name: &str) -> &Value {
        self.taken.get(name).unwrap_or_else(|| panic!("{name} is no key of its scope, or was not given"))
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        let Value::Number(number) = self.value(name) else { panic!("{name} is no number") };
        *number
    }

    /// A number whose bound in the table lies within 32 bits.
    fn small(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).expect("the key table bounds it")
    }

    fn choice(&self, name: &str) -> &'static str {
        let Value::Choice(choice) = self.value(name) else { panic!("{name} is no choice") };
        choice
    }

    pub(super) fn text(&self, name: &str) -> String {
        let Value::Text(text) = self.value(name) else { panic!("{name} is no text") };
        text.clone()
    }

    /// A choice whose default is none.
    pub(super) fn choice_or_empty(&self, name: &str) -> &'static str {
        if self.taken.contains_key(name) { self.choice(name) } else { "" }
    }

    pub(super) fn secret(&self, name: &str) -> Secret {
        let Value::Secret(secret) = self.value(name) else { panic!("{name} is no secret") };
        secret.clone()
    }

    pub(super) fn tls_versions(&self, name: &str) -> TlsVersions {
        let Value::TlsVersions(versions) = self.value(name) else { panic!("{name} has no versions of TLS") };
        *versions
    }

    fn path(&self, name: &str) -> PathBuf {
        let Value::Path(path) = self.value(name) else { panic!("{name} is no path") };
        path.clone()
    }

    fn cores(&self, name: &str) -> CoreChoice {
        let Value::Cores(cores) = self.value(name) else { panic!("{name} is no core list") };
        cores.clone()
    }

    fn core(&self, name: &str) -> Option<usize> {
        let Value::Core(core) = self.value(name) else { panic!("{name} is no core") };
        *core
    }

    /// Whether something was said, also where it was refused.
    fn is_given(&self, name: &str) -> bool {
        let says = |value: &Value| !matches!(value, Value::Text(text) if text.is_empty());
        self.refused.contains(name) || self.taken.get(name).is_some_and(says)
    }

    fn server(&self, name: &str) -> HostPort {
        let Value::Server(server) = self.value(name) else { panic!("{name} is no server") };
        server.clone()
    }

    fn broker_ids(&self, name: &str) -> Vec<i32> {
        let Value::BrokerIds(ids) = self.value(name) else { panic!("{name} is no list of ids") };
        ids.clone()
    }

    fn topic_filters(&self, name: &str) -> TopicFilters {
        match self.taken.get(name) {
            None => TopicFilters::default(),
            Some(Value::TopicFilters(filters)) => filters.clone(),
            Some(_) => panic!("{name} is no list of filters"),
        }
    }

    fn servers(&self, name: &str) -> Vec<HostPort> {
        let Value::Servers(servers) = self.value(name) else { panic!("{name} is no server list") };
        servers.clone()
    }

    fn topic_configs(&self, name: &str) -> Vec<String> {
        let Value::TopicConfigs(names) = self.value(name) else {
            panic!("{name} has no topic configurations")
        };
        names.clone()
    }

    fn topics(&self, name: &str) -> Vec<TopicPattern> {
        match self.taken.get(name) {
            None => Vec::new(),
            Some(Value::Topics(topics)) => topics.clone(),
            Some(_) => panic!("{name} is no topic list"),
        }
    }
}

/// Why a value is refused; that of a secret is not shown.
pub(super) fn refused_value(key: &'static Key, value: &RawValue, why: ValueError) -> ConfigError {
    let text = if key.is_secret() { Secret::default().to_string() } else { value.to_string() };
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let is_whole = shown.len() == text.len();
    let value = if is_whole { shown } else { format!("{shown}... ({} bytes)", text.len()) };
    ConfigError::Value { key, value, why }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
