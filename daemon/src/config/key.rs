//! The one table of configuration keys: name, place, default, bound and meaning.
//!
//! Everything that speaks of keys reads this table: the file's parser, `config explain`, the reference
//! in the README. A key that is not here does not exist. Names that Kafka has are Kafka's.

use super::admin_keys;
pub use super::kind::Kind;
use super::security_keys;
use std::fmt;

/// Where in the file a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// At the top level.
    Daemon,
    /// In `[link.NAME]`.
    Link,
    /// In `[link.NAME.source]`.
    Source,
    /// In `[link.NAME.destination]`.
    Destination,
    /// In `[link.NAME.destination.controllers]`.
    Controllers,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daemon => "the top level",
            Self::Link => "[link.NAME]",
            Self::Source => "[link.NAME.source]",
            Self::Destination => "[link.NAME.destination]",
            Self::Controllers => "[link.NAME.destination.controllers]",
        })
    }
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub scope: Scope,
    pub kind: Kind,
    /// As it would stand in a file; empty where there is none.
    pub default: &'static str,
    /// Whether a running daemon can take a new value.
    pub reloadable: bool,
    /// It must be given.
    pub required: bool,
    /// One line.
    pub help: &'static str,
}

/// Keys of a link that are fixed once it is there: what is registered or lies on disk depends on them.
const FIXED: [(Scope, &str); 2] = [(Scope::Destination, "mode"), (Scope::Destination, "guest.broker.ids")];

impl Key {
    /// A running link takes a new value at once.
    const fn live(self) -> Self {
        Self { reloadable: true, ..self }
    }

    /// Whether a link keeps for good what it began with.
    pub fn is_fixed(&self) -> bool {
        FIXED.contains(&(self.scope, self.name))
    }

    pub const fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret { .. })
    }

    /// Its name among the configurations of a link: those of link and source as Cluster Linking has them, those of
    /// the destination behind its name. `None`: it is no key of a link.
    pub fn link_name(&self) -> Option<String> {
        match self.scope {
            Scope::Daemon => None,
            Scope::Link | Scope::Source => Some(self.name.to_owned()),
            Scope::Destination => Some(format!("destination.{}", self.name)),
            Scope::Controllers => Some(format!("destination.controllers.{}", self.name)),
        }
    }

    /// Name with the table it stands in.
    pub fn path(&self) -> String {
        match self.scope {
            Scope::Daemon => self.name.to_owned(),
            Scope::Link => format!("link.NAME.{}", self.name),
            Scope::Source => format!("link.NAME.source.{}", self.name),
            Scope::Destination => format!("link.NAME.destination.{}", self.name),
            Scope::Controllers => format!("link.NAME.destination.controllers.{}", self.name),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// Kafka's own fields for sizes are signed 32-bit numbers: a larger value cannot be sent or stored.
const INT_MAX: u64 = i32::MAX as u64;
/// Longest interval: beyond an hour a forgotten zero looks like a daemon that does nothing.
const HOUR_MS: u64 = 3_600_000;
/// Below it the program itself does not fit beside its buffers: control/memory_budget.rs has the figures.
pub const MEMORY_BYTES_MIN: u64 = 64 * MIB;

const fn daemon(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        scope: Scope::Daemon,
        kind,
        default,
        reloadable: false,
        required: must_be_given(kind, default),
        help,
    }
}

const fn link(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        scope: Scope::Link,
        kind,
        default,
        reloadable: false,
        required: must_be_given(kind, default),
        help,
    }
}

const fn source(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        scope: Scope::Source,
        kind,
        default,
        reloadable: false,
        required: must_be_given(kind, default),
        help,
    }
}

/// What a destination needs depends on its mode: nothing of it is always required.
const fn destination(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, scope: Scope::Destination, kind, default, reloadable: false, required: false, help }
}

const fn must_be_given(kind: Kind, default: &'static str) -> bool {
    default.is_empty() && !matches!(kind, Kind::Text { .. } | Kind::Topics | Kind::TopicFilters)
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn milliseconds(min: u64, max: u64) -> Kind {
    Kind::Milliseconds { min, max }
}

/// Every key, by scope; those of the operators' listeners and of security at the end.
pub const KEYS: &[Key] = &ALL;

const ALL: [Key; OTHERS.len() + admin_keys::COUNT + 3 * security_keys::COUNT] = {
    const OF_ADMIN: usize = OTHERS.len();
    const OF_SECURITY: usize = OF_ADMIN + admin_keys::COUNT;
    let mut all = [OTHERS[0]; OF_SECURITY + 3 * security_keys::COUNT];
    let mut index = 0;
    while index < all.len() {
        all[index] = if index < OF_ADMIN {
            OTHERS[index]
        } else if index < OF_SECURITY {
            admin_keys::KEYS[index - OF_ADMIN]
        } else {
            let of_security = index - OF_SECURITY;
            let scope = security_keys::SCOPES[of_security / security_keys::COUNT];
            security_keys::of(scope)[of_security % security_keys::COUNT]
        };
        index += 1;
    }
    all
};

const OTHERS: &[Key] = &[
    daemon("data.dir", Kind::Path, "", "Directory of the store; one daemon holds it at a time."),
    daemon("data.cores", Kind::Cores, "auto", "Cores of the data shards; auto = all but the control core."),
    daemon(
        "control.core",
        Kind::Core,
        "auto",
        "Core of everything else; auto = the lowest that is no data core.",
    ),
    daemon(
        "memory.bytes",
        bytes(MEMORY_BYTES_MIN, TIB),
        "512MiB",
        "Memory of the whole process; the least holds few partitions, each 1,000 more take 20 MiB.",
    ),
    daemon(
        "engine",
        Kind::Choice(&["auto", "ring", "epoll"]),
        "auto",
        "How I/O is done; auto = io_uring, and epoll where it is refused.",
    ),
    daemon(
        "core.dumps",
        Kind::Choice(&["forbid", "allow"]),
        "forbid",
        "Whether a crash may leave a core file; one holds secrets, but never buffers with records.",
    ),
    daemon(
        "direct.io",
        Kind::Choice(&["auto", "off"]),
        "auto",
        "O_DIRECT; auto falls back to the page cache where a file system refuses it.",
    ),
    link(
        "topics",
        Kind::Topics,
        "",
        "What to mirror: a legal topic name is literal, anything else an anchored regular expression.",
    )
    .live(),
    link(
        "auto.create.mirror.topics.enable",
        BOOLEAN,
        "false",
        "Whether topics that the filters include become mirror topics by themselves.",
    )
    .live(),
    link(
        "auto.create.mirror.topics.filters",
        Kind::TopicFilters,
        "",
        "Which source topics those are; a topic that one filter excludes is excluded.",
    )
    .live(),
    link(
        "isolation.level",
        Kind::Choice(&["read_committed", "read_uncommitted"]),
        "read_committed",
        "Copy up to the source's last stable offset, or up to its high watermark.",
    ),
    link(
        "on.truncation",
        Kind::Choice(&["bounded", "follow", "stop"]),
        "bounded",
        "When the source lost data that we hold: cut within the two bounds below, always, or never.",
    )
    .live(),
    link(
        "truncation.bytes.max",
        bytes(0, INT_MAX * 1024),
        "64MiB",
        "Most bytes of a partition that on.truncation = bounded cuts.",
    )
    .live(),
    link(
        "truncation.percent.max",
        Kind::Number { min: 0, max: 100 },
        "1",
        "Most percent of a partition that on.truncation = bounded cuts.",
    )
    .live(),
    link(
        "on.gap",
        Kind::Choice(&["stop", "continue"]),
        "stop",
        "When the source deleted data before it was mirrored: stop the partition, or name the gap and go on behind it.",
    )
    .live(),
    link(
        "flush.ms",
        milliseconds(1, HOUR_MS),
        "250",
        "Longest time between arrival and flush while tailing.",
    )
    .live(),
    link("flush.catchup.ms", milliseconds(1, HOUR_MS), "5000", "The same while catching up.").live(),
    link(
        "flush.catchup.bytes",
        bytes(MIB, TIB),
        "256MiB",
        "Bytes after which a flush is due while catching up.",
    )
    .live(),
    link(
        "checkpoint.ms",
        milliseconds(10, HOUR_MS),
        "1000",
        "Time between checkpoints; a restart reads again what lies behind the last one.",
    )
    .live(),
    link(
        "fsync",
        Kind::Choice(&["interval", "batch", "none"]),
        "interval",
        "When a flush reaches the device: with flush.ms, after every answer, or whenever the system likes.",
    ),
    link(
        "segment.bytes",
        bytes(MIB, INT_MAX),
        "256MiB",
        "Size at which a segment file is closed and the next one begun.",
    ),
    link(
        "batch.bytes.max",
        bytes(64 * KIB, GIB),
        "64MiB",
        "Largest record batch; a larger one stops its partition.",
    ),
    link(
        "cluster.link.paused",
        BOOLEAN,
        "false",
        "Fetch nothing until the link is resumed; a word of an operator counts more, for good.",
    )
    .live(),
    link(
        "availability.check.ms",
        milliseconds(1_000, HOUR_MS),
        "5000",
        "Time after which a source whose fetches say nothing of a partition is asked where its log ends.",
    ),
    link(
        "consumer.offset.sync.enable",
        BOOLEAN,
        "true",
        "Whether positions of the source's consumer groups are written at the destination.",
    )
    .live(),
    link(
        "consumer.offset.sync.ms",
        milliseconds(100, HOUR_MS),
        "1000",
        "Time between two rounds of that, on a fixed grid; a position is about this old at most.",
    )
    .live(),
    link(
        "consumer.offset.group.filters",
        Kind::TopicFilters,
        "",
        "Which groups those are; none = all, and one that a filter excludes is excluded.",
    )
    .live(),
    link(
        "consumer.group.prefix.enable",
        BOOLEAN,
        "false",
        "Whether groups are called at the destination by the link's name, a dot and their own name.",
    ),
    link(
        "consumer.offset.deleted.groups",
        Kind::Choice(&["keep", "delete"]),
        "keep",
        "What becomes of a group at the destination that the source has no more.",
    )
    .live(),
    link(
        "topic.config.sync.ms",
        milliseconds(1_000, HOUR_MS),
        "5000",
        "Time between two readings of the source's topic configurations, which a promote sets.",
    ),
    link(
        "topic.config.sync.include",
        Kind::TopicConfigs,
        "compression.gzip.level,compression.lz4.level,compression.type,compression.zstd.level,delete.retention.ms,\
         file.delete.delay.ms,flush.messages,flush.ms,index.interval.bytes,max.compaction.lag.ms,\
         message.timestamp.after.max.ms,message.timestamp.before.max.ms,min.cleanable.dirty.ratio,\
         min.compaction.lag.ms,retention.bytes,retention.ms,segment.bytes,segment.jitter.ms,segment.ms",
        "What a mirror topic takes over where the source sets it, beside cleanup.policy and its like.",
    ),
    link(
        "cluster.link.retry.timeout.ms",
        Kind::Milliseconds { min: 1_000, max: 24 * HOUR_MS },
        "300000",
        "Time without an answer of the source after which SOURCE_UNAVAILABLE is shown; retries never stop.",
    )
    .live(),
    link(
        "link.bytes.per.second",
        bytes(0, TIB),
        "0",
        "Most bytes per second that the link reads, tail first; 0 = no limit.",
    )
    .live(),
    link(
        "replica.fetch.min.bytes",
        Kind::Number { min: 1, max: INT_MAX },
        "1",
        "Bytes for which the source may hold an answer back.",
    ),
    link(
        "replica.fetch.wait.max.ms",
        milliseconds(0, 60_000),
        "500",
        "Longest time for which the source may hold an answer back.",
    ),
    link(
        "replica.fetch.max.bytes",
        bytes(4 * KIB, GIB),
        "4MiB",
        "Most bytes of one partition in one answer; a larger batch still arrives.",
    ),
    link("replica.fetch.response.max.bytes", bytes(4 * KIB, GIB), "16MiB", "Most bytes of one answer."),
    source("bootstrap.servers", Kind::Servers, "", "Brokers to ask first."),
    source(
        "client.id",
        Kind::Text { bytes_max: 255 },
        "twinlog",
        "Name by which the source's quotas and logs know us.",
    ),
    source(
        "client.rack",
        Kind::Text { bytes_max: 255 },
        "",
        "Rack of this host, for reading from the nearest replica.",
    ),
    source(
        "metadata.max.age.ms",
        milliseconds(100, HOUR_MS),
        "30000",
        "Time between looks for new topics, partitions and leaders; Kafka's own default is 300000.",
    )
    .live(),
    source(
        "request.timeout.ms",
        milliseconds(100, HOUR_MS),
        "30000",
        "Time after which an unanswered request counts as failed.",
    ),
    source(
        "retry.backoff.ms",
        milliseconds(1, 60_000),
        "50",
        "First pause after a failure, doubled with each one; Kafka's own default is 100.",
    ),
    source(
        "retry.backoff.max.ms",
        milliseconds(1, HOUR_MS),
        "5000",
        "Longest pause; retries never stop. Kafka's own default is 1000.",
    ),
    source("client.dns.lookup", DNS_LOOKUP, "use_all_dns_ips", "Every address of a name is tried in turn."),
    destination(
        "mode",
        Kind::Choice(&["store", "guest"]),
        "store",
        "store = segment files on this host; guest = mirror topics of a Kafka cluster that this host leads.",
    ),
    destination(
        "bootstrap.servers",
        Kind::Servers,
        "",
        "Brokers of the destination, at the listener that its clients use.",
    ),
    destination(
        "bootstrap.controllers",
        Kind::Servers,
        "",
        "Controllers of the destination: registration, heartbeats and the metadata log.",
    ),
    destination(
        "inter.broker.listener.name",
        Kind::Text { bytes_max: 255 },
        "",
        "The listener by which the destination's brokers reach each other, and us.",
    ),
    destination(
        "guest.broker.ids",
        Kind::BrokerIds,
        "",
        "Broker ids that this link takes in the destination, for good; the last is kept for epoch bumps.",
    ),
    destination(
        "guest.listener",
        Kind::Server,
        "",
        "Address at which followers reach the first id; each further id has the next port.",
    ),
    destination(
        "guest.followers.security.protocol",
        Kind::Choice(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]),
        "PLAINTEXT",
        "What the destination's brokers speak among themselves, and so with us.",
    ),
    destination(
        "guest.followers.principals",
        Kind::Text { bytes_max: 64 << 10 },
        "",
        "Brokers that may fetch, separated by semicolons: User:broker;User:CN=b1,O=example.",
    ),
    destination(
        "guest.followers.ssl.keystore.location",
        Kind::File,
        "",
        "File with our certificate towards followers, its chain and its key: PEM or PKCS12.",
    ),
    destination(
        "guest.followers.ssl.keystore.password",
        Kind::Secret { bytes_max: 64 << 10 },
        "",
        "Opens a PKCS12 keystore of the listener.",
    ),
    destination(
        "guest.followers.ssl.key.password",
        Kind::Secret { bytes_max: 64 << 10 },
        "",
        "Opens an encrypted private key of the listener.",
    ),
    destination(
        "guest.followers.ssl.truststore.location",
        Kind::File,
        "",
        "File with the authorities that sign the certificates of followers.",
    ),
    destination(
        "guest.followers.ssl.truststore.password",
        Kind::Secret { bytes_max: 64 << 10 },
        "",
        "Opens a PKCS12 truststore of the listener.",
    ),
    destination(
        "guest.followers.ssl.client.auth",
        Kind::Choice(&["none", "requested", "required"]),
        "none",
        "Whether followers are asked for a certificate, and must have one.",
    ),
    destination(
        "guest.followers.sasl.plain.username",
        Kind::Text { bytes_max: 1_024 },
        "",
        "User of followers that log in by PLAIN; those of SCRAM are the destination's own.",
    ),
    destination(
        "guest.followers.sasl.plain.password",
        Kind::Secret { bytes_max: 64 << 10 },
        "",
        "Its password.",
    ),
    destination(
        "guest.durable.replicas",
        Kind::Number { min: 1, max: 16 },
        "2",
        "Destination brokers that must hold a record before it counts as delivered.",
    ),
    destination(
        "guest.allow.placement.eviction",
        BOOLEAN,
        "false",
        "Join a cluster below metadata.version 30 too; what it places on us is moved away again.",
    ),
    destination(
        "mirror.replication.factor",
        Kind::Number { min: 0, max: 15 },
        "0",
        "Replicas of a mirror topic after promote; 0 = the destination's default.replication.factor.",
    ),
    destination(
        "store.retention.bytes",
        bytes(16 * MIB, 1024 * TIB),
        "20GiB",
        "Most bytes on our disk in guest mode: when all of it is undelivered, fetching waits.",
    ),
    destination(
        "client.id",
        Kind::Text { bytes_max: 255 },
        "twinlog",
        "Name by which the destination's logs know us.",
    ),
    destination(
        "request.timeout.ms",
        milliseconds(100, HOUR_MS),
        "30000",
        "Time after which an unanswered request counts as failed.",
    ),
    destination(
        "client.dns.lookup",
        DNS_LOOKUP,
        "use_all_dns_ips",
        "Every address of a name is tried in turn.",
    ),
];

/// The other value of Kafka, resolve_canonical_bootstrap_servers_only, is for Kerberos, which is not spoken here.
const DNS_LOOKUP: Kind = Kind::Choice(&["use_all_dns_ips"]);
const BOOLEAN: Kind = Kind::Choice(&["false", "true"]);

/// A key of the table by its name: the first of them where several places have one of this name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key of this name at one place.
pub fn key_in(scope: Scope, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.scope == scope && key.name == name)
}

/// The name of the table that is nearest to a misspelt one, when one is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let scored = KEYS.iter().map(|key| (distance(name, key.name), key.name));
    let (edits, found) = scored.min()?;
    // A third of the letters wrong is another word, not a slip.
    (edits * 3 <= name.len().max(found.len())).then_some(found)
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], index + 1);
        for (column, candidate) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != *candidate);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawValue, Value};

    #[test]
    fn every_default_lies_within_its_own_bound() {
        for key in KEYS.iter().filter(|key| !key.required && !key.default.is_empty()) {
            let parsed = Value::parse(key, &RawValue::Text(key.default.to_owned()));
            assert!(parsed.is_ok(), "{}: {parsed:?}", key.name);
        }
    }

    #[test]
    fn every_path_stands_once_and_has_a_sentence() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path() != key.path()), "{}", key.path());
            assert!(key.help.ends_with('.') && !key.help.contains('\n'), "{}", key.name);
        }
    }

    #[test]
    fn a_slip_finds_its_key_and_another_word_finds_none() {
        assert_eq!(nearest("bootstrap.server"), Some("bootstrap.servers"));
        assert_eq!(nearest("isolation.levle"), Some("isolation.level"));
        assert_eq!(nearest("acks"), None);
    }
}
