//! Typed settings: what every other module reads.
//!
//! Invariant: a [`Settings`] exists only when every value is within its bound and no two exclude each other.

use super::admin::admin_settings;
use super::error::{ConfigError, LinkNameFault};
use super::file::{RawConfig, RawLink};
use super::key::{KEYS, Kind, Scope, key_in};
use super::security::{client_security, listener_security};
use super::security_keys::completed;
use super::topic_filter::TopicFilters;
use super::topic_pattern::TopicPattern;
use super::value::{HostPort, RawValue, Value};
use crate::admin::access::AdminSettings;
use crate::journal::OWN_DIRECTORY;
use crate::security::{ClientSecurity, ListenerSecurity, Secret, TlsVersions};
use crate::shard::FsyncPolicy;
use std::collections::BTreeMap;
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
        let daemon = DaemonSettings::from_raw(raw)?;
        let (name, chosen) = choose_link(raw, link)?;
        Ok(Self { daemon, link: LinkSettings::from_raw(name, chosen)? })
    }
}

impl DaemonSettings {
    /// Parses what stands at the top level.
    pub fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let daemon = Values::parse(&raw.daemon, Scope::Daemon)?;
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
            admin: admin_settings(&daemon)?,
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
    pub(super) fn from_raw(name: &str, raw: &RawLink) -> Result<Self, ConfigError> {
        check_link_name(name)?;
        let source = Values::parse(&raw.source, Scope::Source)?;
        let destination = Values::parse(&raw.destination, Scope::Destination)?;
        let controllers = completed(&raw.controllers, &raw.destination);
        let controllers = Values::parse(&controllers, Scope::Controllers)?;
        let link = Values::parse(&raw.link, Scope::Link)?;
        let auto_create = link.choice("auto.create.mirror.topics.enable") == "true";
        let settings = Self {
            name: name.to_owned(),
            source: SourceSettings {
                bootstrap_servers: source.servers("bootstrap.servers"),
                client_id: source.text("client.id"),
                client_rack: source.text("client.rack"),
                metadata_max_age: Duration::from_millis(source.number("metadata.max.age.ms")),
                request_timeout: Duration::from_millis(source.number("request.timeout.ms")),
                backoff: BackoffLimits::from_milliseconds(
                    source.number("retry.backoff.ms"),
                    source.number("retry.backoff.max.ms"),
                ),
                security: client_security(&source, Scope::Source)?,
            },
            guest: match destination.choice("mode") {
                "guest" => Some(GuestSettings::from_values(&destination, &controllers)?),
                _ => None,
            },
            topics: link.topics("topics"),
            topic_filters: match auto_create {
                true => link.topic_filters("auto.create.mirror.topics.filters"),
                false => TopicFilters::default(),
            },
            isolation_level: match link.choice("isolation.level") {
                "read_uncommitted" => IsolationLevel::ReadUncommitted,
                _ => IsolationLevel::ReadCommitted,
            },
            truncation: truncation_policy(&link),
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
            groups: group_settings(name, &link),
            config_sync_interval: Duration::from_millis(link.number("topic.config.sync.ms")),
            config_sync_include: link.topic_configs("topic.config.sync.include"),
            retry_timeout: Duration::from_millis(link.number("cluster.link.retry.timeout.ms")),
            fetch_bytes_min: link.small("replica.fetch.min.bytes"),
            fetch_wait_max_ms: link.small("replica.fetch.wait.max.ms"),
            fetch_bytes_max: link.small("replica.fetch.max.bytes"),
            fetch_response_bytes_max: link.small("replica.fetch.response.max.bytes"),
        };
        if settings.topics.is_empty() && settings.topic_filters.is_empty() {
            return Err(ConfigError::NothingToMirror);
        }
        settings.check_pairs()?;
        Ok(settings)
    }

    /// How each cluster of the link is connected: source, destination, controllers.
    pub fn securities(&self) -> impl Iterator<Item = &ClientSecurity> {
        let guest = self.guest.iter().flat_map(|guest| [&guest.security, &guest.controller_security]);
        std::iter::once(&self.source.security).chain(guest)
    }

    fn check_pairs(&self) -> Result<(), ConfigError> {
        let exceeds = |key, value: u64, other, other_value: u64, why| {
            let wrong = value > other_value;
            if wrong { Err(ConfigError::Conflict { key, value, other, other_value, why }) } else { Ok(()) }
        };
        exceeds(
            "replica.fetch.max.bytes",
            self.fetch_bytes_max.into(),
            "replica.fetch.response.max.bytes",
            self.fetch_response_bytes_max.into(),
            "one partition cannot bring more than its whole answer",
        )?;
        exceeds(
            "replica.fetch.min.bytes",
            self.fetch_bytes_min.into(),
            "replica.fetch.response.max.bytes",
            self.fetch_response_bytes_max.into(),
            "the source would hold every answer back until the longest wait",
        )?;
        exceeds(
            "replica.fetch.wait.max.ms",
            self.fetch_wait_max_ms.into(),
            "request.timeout.ms",
            u64::try_from(self.source.request_timeout.as_millis() / 2).expect("bounded by the key table"),
            "half of the timeout at most, or a source with nothing to say looks dead",
        )
    }
}

impl GuestSettings {
    fn from_values(values: &Values, controllers: &Values) -> Result<Self, ConfigError> {
        const NEEDED: [&str; 5] = [
            "bootstrap.servers",
            "bootstrap.controllers",
            "inter.broker.listener.name",
            "guest.broker.ids",
            "guest.listener",
        ];
        for name in NEEDED {
            let key = key_in(Scope::Destination, name).expect("a key of the table");
            if !values.is_given(name) {
                return Err(ConfigError::MissingFor { key, because: "mode = guest" });
            }
        }
        let mut ids = values.broker_ids("guest.broker.ids");
        let reserve_id = ids.pop().expect("two ids at least");
        let HostPort { host, port } = values.server("guest.listener");
        let last_port = usize::from(port) + ids.len() - 1;
        if u16::try_from(last_port).is_err() {
            return Err(ConfigError::PortsExceeded { port, ids: ids.len() });
        }
        let address = |index: usize| HostPort { host: host.clone(), port: port + index as u16 };
        let factor = values.small("mirror.replication.factor");
        Ok(Self {
            bootstrap_servers: values.servers("bootstrap.servers"),
            bootstrap_controllers: values.servers("bootstrap.controllers"),
            inter_broker_listener_name: values.text("inter.broker.listener.name"),
            serving_ids: ids.iter().enumerate().map(|(index, id)| (*id, address(index))).collect(),
            reserve_id,
            durable_replicas: values.small("guest.durable.replicas"),
            allow_placement_eviction: values.choice("guest.allow.placement.eviction") == "true",
            mirror_replication_factor: (factor > 0).then_some(factor),
            store_retention_bytes: values.number("store.retention.bytes"),
            client_id: values.text("client.id"),
            request_timeout: Duration::from_millis(values.number("request.timeout.ms")),
            security: client_security(values, Scope::Destination)?,
            controller_security: client_security(controllers, Scope::Controllers)?,
            listener_security: listener_security(values)?,
        })
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
/// that was not given.
pub(super) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    fn parse(raw: &BTreeMap<&'static str, RawValue>, scope: Scope) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for key in KEYS.iter().filter(|key| key.scope == scope) {
            let given = raw.get(key.name);
            if given.is_none() && key.required {
                return Err(ConfigError::Missing { key });
            }
            let is_text = matches!(key.kind, Kind::Text { .. } | Kind::File | Kind::Secret { .. });
            if given.is_none() && key.default.is_empty() && !is_text {
                continue;
            }
            let default = RawValue::Text(key.default.to_owned());
            let text = given.unwrap_or(&default);
            let value = Value::parse(key, text).map_err(|why| ConfigError::Value {
                key,
                value: match key.kind {
                    Kind::Secret { .. } => Secret::default().to_string(),
                    _ => text.to_string(),
                },
                why,
            })?;
            values.insert(key.name, value);
        }
        Ok(Self(values))
    }

    fn value(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is no key of its scope, or was not given"))
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
        if self.0.contains_key(name) { self.choice(name) } else { "" }
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

    fn is_given(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !matches!(value, Value::Text(text) if text.is_empty()))
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
        match self.0.get(name) {
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
        match self.0.get(name) {
            None => Vec::new(),
            Some(Value::Topics(topics)) => topics.clone(),
            Some(_) => panic!("{name} is no topic list"),
        }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
