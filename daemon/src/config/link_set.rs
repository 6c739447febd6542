//! All links of a daemon: those of its file, with what operators created and altered put over them.
//!
//! ```text
//!   file with flags ---+
//!                      +--> raw values of each link --> Settings of each, none in another's way
//!   kept by operators -+        (what is kept wins)
//! ```
//! What is kept is text under the names of [`super::Key::link_name`]; a secret among it is a reference, never itself.

use super::error::ConfigError;
use super::file::{RawConfig, RawLink, RawValues};
use super::findings::Findings;
use super::key::{KEYS, Key, Kind, Scope, key_in};
use super::settings::{DaemonSettings, GuestSettings, LinkSettings, Settings, refused_value};
use super::value::{HostPort, RawValue, Value};
use crate::security::Secret;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Links of one daemon. Each has a thread on every data core and a part of the memory: raised, each gets less.
pub const LINKS_MAX: usize = 16;
/// Memory of one link: below it a shard has no room for the images of a few busy partitions.
pub const LINK_MEMORY_BYTES_MIN: u64 = 32 << 20;

/// What operators said of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptLink {
    /// It is there by their word alone; otherwise the file must have it.
    pub created: bool,
    pub values: BTreeMap<String, String>,
}

/// By the links' names.
pub type KeptLinks = BTreeMap<String, KeptLink>;

type Reread = Arc<dyn Fn() -> Result<RawConfig, ConfigError> + Send + Sync>;

/// The file with the flags over it, and the way to read it again.
#[derive(Clone)]
pub struct Configuration {
    raw: RawConfig,
    /// The one link of it that is meant.
    only: Option<String>,
    reread: Option<Reread>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    Persisted,
    File,
    Default,
}

impl ValueSource {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Persisted => "PERSISTED",
            Self::File => "FILE",
            Self::Default => "DEFAULT",
        }
    }
}

/// One configuration of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkValue {
    pub key: &'static Key,
    pub source: ValueSource,
    /// As it may be shown: a secret is not.
    pub value: Option<String>,
    /// What the file says, where something else is kept.
    pub file_value: Option<String>,
}

/// Why a configuration of a link is not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkConfigError {
    Unknown {
        name: String,
    },
    /// Fixed once the link is there.
    Fixed {
        key: &'static Key,
    },
    /// A secret itself instead of a reference to it.
    LiteralSecret {
        key: &'static Key,
    },
    Twice {
        name: String,
    },
    Config(ConfigError),
}

impl fmt::Display for LinkConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |key: &Key| key.link_name().unwrap_or_default();
        match self {
            Self::Unknown { name } => {
                write!(f, "{name:?} is no configuration of a link; `twinlog config explain` lists all keys")
            }
            Self::Fixed { key } => {
                write!(f, "{} cannot change once the link is there; create another link", name(key))
            }
            Self::LiteralSecret { key } => write!(
                f,
                "{} would be kept in the clear; give a reference instead: ${{env:NAME}}, ${{directory:DIR:FILE}}, \
                 ${{credential:NAME}}",
                name(key)
            ),
            Self::Twice { name } => write!(f, "{name} is given twice"),
            Self::Config(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for LinkConfigError {}

/// Reads the name and, if there is one, the value of a change; answers with the name under which it is kept.
pub fn check_link_value(name: &str, value: Option<&str>) -> Result<(String, &'static Key), LinkConfigError> {
    let shown: String = name.chars().take(100).collect();
    let key = link_key(name).ok_or(LinkConfigError::Unknown { name: shown })?;
    if let Some(value) = value {
        if key.is_secret() && !value.is_empty() && !Secret::from(value).is_reference() {
            return Err(LinkConfigError::LiteralSecret { key });
        }
        let raw = raw_value(key, value);
        Value::parse(key, &raw).map_err(|why| LinkConfigError::Config(refused_value(key, &raw, why)))?;
    }
    Ok((key.link_name().expect("found by it"), key))
}

/// The key that a link's configurations know by this name; `source.` before it is taken too.
pub fn link_key(name: &str) -> Option<&'static Key> {
    let name = name.strip_prefix("source.").unwrap_or(name);
    KEYS.iter().find(|key| key.link_name().is_some_and(|each| each == name))
}

/// A list is written as JSON, or as Kafka's users write one.
fn raw_value(key: &Key, text: &str) -> RawValue {
    if key.is_secret() {
        return RawValue::Secret(Secret::from(text));
    }
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(list)
            if matches!(key.kind, Kind::Topics | Kind::Servers | Kind::BrokerIds | Kind::TlsVersions) =>
        {
            RawValue::List(list)
        }
        _ => RawValue::Text(text.to_owned()),
    }
}

fn values_of(link: &RawLink, scope: Scope) -> Option<&RawValues> {
    match scope {
        Scope::Daemon => None,
        Scope::Link => Some(&link.link),
        Scope::Source => Some(&link.source),
        Scope::Destination => Some(&link.destination),
        Scope::Controllers => Some(&link.controllers),
    }
}

fn value_of<'a>(link: &'a RawLink, key: &Key) -> Option<&'a RawValue> {
    values_of(link, key.scope)?.get(key.name)
}

fn put(link: &mut RawLink, key: &'static Key, value: RawValue) {
    let values = match key.scope {
        Scope::Daemon => unreachable!("a key of a link"),
        Scope::Link => &mut link.link,
        Scope::Source => &mut link.source,
        Scope::Destination => &mut link.destination,
        Scope::Controllers => &mut link.controllers,
    };
    values.insert(key.name, value);
}

fn shown(value: &RawValue) -> String {
    match value {
        RawValue::Text(text) => text.clone(),
        RawValue::List(list) => serde_json::to_string(list).expect("a list of texts"),
        RawValue::Secret(_) => SECRET_SHOWN.to_owned(),
    }
}

/// Stands for a secret, or for a reference to one.
pub const SECRET_SHOWN: &str = "***";

impl Configuration {
    pub fn new(raw: RawConfig, only: Option<String>) -> Self {
        Self { raw, only, reread: None }
    }

    /// The same, with the way to read it again.
    pub fn with_reread(
        self,
        reread: impl Fn() -> Result<RawConfig, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self { reread: Some(Arc::new(reread)), ..self }
    }

    /// What the file says now; `None`: there is none to read again.
    pub fn read_again(&self) -> Option<Result<Self, ConfigError>> {
        let reread = self.reread.as_ref()?;
        Some(reread().map(|raw| Self { raw, ..self.clone() }))
    }

    pub fn daemon(&self) -> Result<DaemonSettings, ConfigError> {
        DaemonSettings::from_raw(&self.raw)
    }

    /// Keys of the top level that another one has otherwise.
    pub fn daemon_changes(&self, other: &Self) -> Vec<&'static str> {
        let differs = |key: &&Key| self.raw.daemon.get(key.name) != other.raw.daemon.get(key.name);
        KEYS.iter().filter(|key| key.scope == Scope::Daemon).filter(differs).map(|key| key.name).collect()
    }

    /// Links of the file that are meant.
    fn of_file(&self) -> impl Iterator<Item = (&String, &RawLink)> {
        self.raw.links.iter().filter(|(name, _)| self.only.as_ref().is_none_or(|only| only == *name))
    }

    pub fn has(&self, link: &str) -> bool {
        self.of_file().any(|(name, _)| name == link)
    }

    fn raw_links(&self, kept: &KeptLinks) -> BTreeMap<String, RawLink> {
        let mut links: BTreeMap<String, RawLink> =
            self.of_file().map(|(name, link)| (name.clone(), link.clone())).collect();
        for (name, said) in kept {
            if said.created {
                links.entry(name.clone()).or_default();
            }
            // A link that went from the file keeps what was said of it for the day when it is back.
            let Some(link) = links.get_mut(name) else { continue };
            for (name, text) in &said.values {
                // A key that a later program knew is none of ours.
                if let Some(key) = link_key(name) {
                    put(link, key, raw_value(key, text));
                }
            }
        }
        links
    }

    /// Every link, parsed; none is in another's way. A file without a link is one to which links are added later.
    /// An error names everything that is wrong, not only the first.
    pub fn links(&self, kept: &KeptLinks) -> Result<Vec<Settings>, ConfigError> {
        let raw = self.raw_links(kept);
        let (links, findings) = self.judge(&raw, raw.len() > 1);
        if let Some(only) = self.only.as_ref().filter(|only| findings.is_empty() && !raw.contains_key(*only))
        {
            let known = self.raw.link_names();
            return Err(match known.is_empty() {
                true => ConfigError::NoLink,
                false => ConfigError::NoSuchLink { name: only.clone(), known },
            });
        }
        findings.end().map(|()| links)
    }

    /// Everything that is wrong.
    pub fn findings(&self, kept: &KeptLinks) -> Findings {
        self.judge(&self.raw_links(kept), true).1
    }

    /// Links that are right, and all that is wrong; `is_named`: with the name of its link.
    fn judge(&self, raw: &BTreeMap<String, RawLink>, is_named: bool) -> (Vec<Settings>, Findings) {
        let (mut links, mut findings) = (Vec::new(), Findings::default());
        let daemon = findings.take(self.daemon());
        for (name, link) in raw {
            match (LinkSettings::from_raw(name, link), &daemon) {
                (Ok(link), Some(daemon)) => links.push(Settings { daemon: daemon.clone(), link }),
                (Ok(_), None) => {}
                (Err(why), _) if is_named => findings.add_of_link(name, why),
                (Err(why), _) => findings.add(why),
            }
        }
        check_together(raw, daemon.map(|daemon| daemon.memory_bytes), &mut findings);
        tell_of_each_other(&mut links);
        (links, findings)
    }

    /// Every configuration of a link, in the order of the key table.
    pub fn values(&self, kept: &KeptLinks, link: &str) -> Vec<LinkValue> {
        let nothing = RawLink::default();
        let file = self.of_file().find(|(name, _)| *name == link).map_or(&nothing, |(_, link)| link);
        let said = kept.get(link);
        let of_key = |key: &'static Key| {
            let name = key.link_name()?;
            let in_file = value_of(file, key).map(shown);
            let persisted = said.and_then(|said| said.values.get(&name));
            let (source, value, file_value) = match (persisted, in_file) {
                (Some(text), in_file) => {
                    (ValueSource::Persisted, Some(shown(&raw_value(key, text))), in_file)
                }
                (None, Some(text)) => (ValueSource::File, Some(text), None),
                (None, None) => {
                    (ValueSource::Default, (!key.default.is_empty()).then(|| key.default.to_owned()), None)
                }
            };
            Some(LinkValue { key, source, value, file_value })
        };
        KEYS.iter().filter_map(of_key).collect()
    }

    /// Keys of a link whose value differs between two configurations.
    pub fn differences(
        &self,
        kept: &KeptLinks,
        (other, other_kept): (&Self, &KeptLinks),
        link: &str,
    ) -> Vec<&'static Key> {
        let nothing = RawLink::default();
        let (here, there) = (self.raw_links(kept), other.raw_links(other_kept));
        let (here, there) = (here.get(link).unwrap_or(&nothing), there.get(link).unwrap_or(&nothing));
        let is_same = |key: &&Key| match (value_of(here, key), value_of(there, key)) {
            (Some(one), None) | (None, Some(one)) => shown(one) == key.default,
            (one, other) => one == other,
        };
        KEYS.iter().filter(|key| key.scope != Scope::Daemon && !is_same(key)).collect()
    }
}

/// Links share a process: what only one of them can have is looked at over all, whatever else is wrong with them.
fn check_together(raw: &BTreeMap<String, RawLink>, memory_bytes: Option<u64>, findings: &mut Findings) {
    let links = raw.len();
    if links > LINKS_MAX {
        findings.add(ConfigError::TooManyLinks { links, max: LINKS_MAX });
    }
    let share = memory_bytes.filter(|_| links > 0).map(|bytes| bytes / links as u64);
    if let Some(bytes) = share.filter(|bytes| *bytes < LINK_MEMORY_BYTES_MIN) {
        findings.add(ConfigError::LinkMemory { links, bytes, min: LINK_MEMORY_BYTES_MIN });
    }
    let mut taken: BTreeMap<(&'static str, String), &str> = BTreeMap::new();
    let mut shared: BTreeMap<(&str, &str, &'static str), Vec<String>> = BTreeMap::new();
    for (name, link) in raw {
        for (key, value) in guest_places(link) {
            match taken.get(&(key, value.clone())) {
                None => drop(taken.insert((key, value), name)),
                Some(one) => shared.entry((one, name, key)).or_default().push(value),
            }
        }
    }
    for ((one, other, key), values) in shared {
        let (one, other) = (one.to_owned(), other.to_owned());
        findings.add(ConfigError::Shared { key, value: values.join(", "), one, other });
    }
}

/// Guests of one cluster are none of each other's stock brokers.
fn tell_of_each_other(links: &mut [Settings]) {
    let guests = links.iter().filter_map(|each| each.link.guest.as_ref());
    let all: Vec<i32> = guests.flat_map(GuestSettings::ids).collect();
    for guest in links.iter_mut().filter_map(|each| each.link.guest.as_mut()) {
        let own: Vec<i32> = guest.ids().collect();
        guest.ids_of_other_links = all.iter().copied().filter(|id| !own.contains(id)).collect();
    }
}

/// Ids with which a link joins a cluster, and addresses at which it listens for followers.
fn guest_places(link: &RawLink) -> Vec<(&'static str, String)> {
    const IDS: &str = "guest.broker.ids";
    const LISTENER: &str = "guest.listener";
    let value = |name| {
        let key = key_in(Scope::Destination, name).expect("a key of the table");
        Value::parse(key, link.destination.get(name)?).ok()
    };
    let (Some(Value::Choice("guest")), Some(Value::BrokerIds(ids))) = (value("mode"), value(IDS)) else {
        return Vec::new();
    };
    let mut places: Vec<_> = ids.iter().map(|id| (IDS, id.to_string())).collect();
    if let Some(Value::Server(HostPort { host, port })) = value(LISTENER) {
        // The last id is kept back and listens nowhere.
        let ports = (0..ids.len() - 1).filter_map(|at| port.checked_add(u16::try_from(at).ok()?));
        let address = |port| HostPort { host: host.clone(), port }.to_string();
        places.extend(ports.map(|port| (LISTENER, address(port))));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TWO: &str = "data.dir = \"/d\"\n[link.east]\ntopics = [\"a\"]\n[link.east.source]\n\
                       bootstrap.servers = \"e:1\"\nsasl.password = \"hunter2\"\n\
                       [link.west]\ntopics = [\"b\"]\nflush.ms = 100\n[link.west.source]\nbootstrap.servers = \"w:1\"\n";

    fn configuration(text: &str) -> Configuration {
        Configuration::new(RawConfig::parse(Path::new("twinlog.toml"), text).unwrap(), None)
    }

    fn kept(link: &str, created: bool, values: &[(&str, &str)]) -> KeptLinks {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        KeptLinks::from([(link.to_owned(), KeptLink { created, values })])
    }

    #[test]
    fn links_of_the_file_and_links_that_were_created_stand_side_by_side() {
        let file = configuration(TWO);
        let made = kept("made", true, &[("bootstrap.servers", "m:1"), ("topics", "[\"x\",\"y.*\"]")]);
        let links = file.links(&made).unwrap();
        let names: Vec<&str> = links.iter().map(|each| each.link.name.as_str()).collect();
        assert_eq!(names, ["east", "made", "west"]);
        assert_eq!(links[1].link.topics.len(), 2);
        let one = Configuration { only: Some("west".to_owned()), ..file };
        assert_eq!(one.links(&KeptLinks::new()).unwrap().len(), 1);
        let none = Configuration { only: Some("north".to_owned()), ..one };
        assert!(matches!(none.links(&KeptLinks::new()), Err(ConfigError::NoSuchLink { .. })));
    }

    #[test]
    fn every_key_of_a_link_is_found_by_its_name_there() {
        for key in KEYS.iter().filter(|key| key.scope != Scope::Daemon) {
            assert_eq!(link_key(&key.link_name().unwrap()), Some(key));
        }
        assert_eq!(link_key("source.client.id"), link_key("client.id"));
        assert!(link_key("data.dir").is_none());
    }

    #[test]
    fn what_was_altered_wins_and_the_files_value_stands_beside_it() {
        let file = configuration(TWO);
        let altered = kept("west", false, &[("flush.ms", "7")]);
        let links = file.links(&altered).unwrap();
        assert_eq!((links[0].link.flush_ms, links[1].link.flush_ms), (250, 7));
        let values = file.values(&altered, "west");
        let of = |name: &str| values.iter().find(|each| each.key.name == name).unwrap();
        let flush = of("flush.ms");
        assert_eq!((flush.source, flush.value.as_deref()), (ValueSource::Persisted, Some("7")));
        assert_eq!(flush.file_value.as_deref(), Some("100"));
        assert_eq!(of("checkpoint.ms").source, ValueSource::Default);
        let east = file.values(&altered, "east");
        let password = east.iter().find(|each| each.key.name == "sasl.password").unwrap();
        assert_eq!((password.source, password.value.as_deref()), (ValueSource::File, Some(SECRET_SHOWN)));
        let changed = file.differences(&KeptLinks::new(), (&file, &altered), "west");
        assert_eq!(changed.iter().map(|key| key.name).collect::<Vec<_>>(), ["flush.ms"]);
        let as_default = kept("west", false, &[("checkpoint.ms", "1000")]);
        assert!(file.differences(&KeptLinks::new(), (&file, &as_default), "west").is_empty());
    }

    #[test]
    fn a_value_is_judged_before_it_is_kept_and_a_secret_is_never_kept() {
        assert_eq!(check_link_value("flush.ms", Some("7")).unwrap().0, "flush.ms");
        assert_eq!(check_link_value("source.client.id", None).unwrap().0, "client.id");
        for (name, value) in [("flush.ms", "0"), ("flush.mss", "1"), ("data.dir", "/d")] {
            assert!(check_link_value(name, Some(value)).is_err(), "{name}");
        }
        let refused = check_link_value("sasl.password", Some("hunter2")).unwrap_err();
        assert!(refused.to_string().contains("${env:NAME}") && !refused.to_string().contains("hunter2"));
        assert!(!format!("{refused:?}").contains("hunter2"));
        assert!(check_link_value("sasl.password", Some("${env:PASSWORD}")).is_ok());
    }

    #[test]
    fn links_that_are_in_each_others_way_are_refused() {
        let guest = |name: &str, ids: &str, port: u16| {
            format!(
                "[link.{name}]\ntopics = \"a\"\n[link.{name}.source]\nbootstrap.servers = \"s:1\"\n\
                 [link.{name}.destination]\nmode = \"guest\"\nbootstrap.servers = \"b:1\"\n\
                 bootstrap.controllers = \"c:1\"\ninter.broker.listener.name = \"I\"\n\
                 guest.broker.ids = \"{ids}\"\nguest.listener = \"h:{port}\"\n"
            )
        };
        let both = |one: String, other: String| {
            configuration(&format!("data.dir = \"/d\"\n{one}{other}")).links(&KeptLinks::new())
        };
        let apart = both(guest("a", "900-901", 1), guest("b", "902-903", 2)).unwrap();
        let others = |at: usize| apart[at].link.guest.as_ref().unwrap().ids_of_other_links.clone();
        assert_eq!((others(0), others(1)), (vec![902, 903], vec![900, 901]));
        let ids = both(guest("a", "900-901", 1), guest("b", "901-902", 2)).unwrap_err().to_string();
        assert!(ids.contains("links a and b both have 901 in guest.broker.ids"), "{ids}");
        let ports = both(guest("a", "900-902", 1), guest("b", "903-904", 2)).unwrap_err().to_string();
        assert!(ports.contains("h:2 in guest.listener"), "{ports}");
        let small = TWO.replace("data.dir", "memory.bytes = \"64MiB\"\ndata.dir");
        assert!(configuration(&small).links(&KeptLinks::new()).is_ok());
        let made = kept("made", true, &[("bootstrap.servers", "m:1"), ("topics", "x")]);
        let refused = configuration(&small).links(&made).unwrap_err();
        assert!(matches!(refused, ConfigError::LinkMemory { links: 3, .. }), "{refused}");
    }

    #[test]
    fn every_finding_is_told_not_only_the_first() {
        let text = TWO.replace("flush.ms = 100", "flush.ms = 0\ncheckpoint.ms = 1\non.gap = \"no\"");
        let findings = configuration(&text.replace("[\"a\"]", "[\"(\"]")).findings(&KeptLinks::new());
        assert_eq!(findings.len(), 4, "{findings:?}");
        assert!(findings.iter().any(|each| each.to_string().starts_with("link east: topics")));
        assert!(configuration(TWO).findings(&KeptLinks::new()).is_empty());
    }

    #[test]
    fn values_combinations_and_what_links_share_are_told_in_one_go() {
        let guest = |name: &str, more: &str| {
            format!(
                "[link.{name}]\ntopics = \"a\"\n{more}\n[link.{name}.source]\nrequest.timeout.ms = 900\n\
                 security.protocol = \"SASL_SSL\"\n[link.{name}.destination]\nmode = \"guest\"\n\
                 bootstrap.servers = \"b:1\"\nguest.broker.ids = \"900-902\"\nguest.listener = \"h:65535\"\n\
                 security.protocol = \"SSL\"\nssl.truststore.location = \"/absent\"\n"
            )
        };
        let text = format!(
            "memory.bytes = \"1KiB\"\nadmin.listeners = \"ftp://a, http://10.0.0.1:1\"\n\
             admin.allowed.hosts = \"a/b\"\n{}{}",
            guest("a", "replica.fetch.max.bytes = \"32MiB\"\nflush.ms = 0"),
            guest(
                "b",
                "replica.fetch.response.max.bytes = \"1 parsec\"\nreplica.fetch.max.bytes = \"32MiB\""
            ),
        );
        let findings = configuration(&text).findings(&KeptLinks::new());
        let lines: Vec<String> = findings.lines().collect();
        for wanted in [
            "memory.bytes = \"1KiB\" is refused: it is out of bounds",
            "data.dir is missing",
            "\"ftp://a\" is neither",
            "http://10.0.0.1:1 would",
            "\"a/b\" is no host name",
            "link a: flush.ms = \"0\"",
            "link a: replica.fetch.max.bytes = 33554432 does not go with",
            "link a: replica.fetch.wait.max.ms = 500 does not go with",
            "link a: bootstrap.servers is missing in [link.NAME.source]",
            "link a: sasl.mechanism is missing in [link.NAME.source]",
            "link a: bootstrap.controllers is missing in [link.NAME.destination], mode = guest",
            "link a: inter.broker.listener.name is missing",
            "link a: [link.NAME.destination]:",
            "link b: replica.fetch.response.max.bytes = \"1 parsec\"",
            "link b: guest.listener has port 65535, and 2 ids need a port each",
            "links a and b both have 900, 901, 902 in guest.broker.ids",
            "links a and b both have h:65535 in guest.listener",
        ] {
            let found = lines.iter().filter(|line| line.contains(wanted)).count();
            assert_eq!(found, 1, "{wanted}: {}", lines.join("\n"));
        }
        // Not judged by a default that stands in for what was refused.
        assert!(!lines.iter().any(|line| line.contains("link b: replica.fetch.max.bytes")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("controllers]:")), "told once: {lines:?}");
    }
}
