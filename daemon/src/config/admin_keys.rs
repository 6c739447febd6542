//! The keys of the operators' interface, /metrics included, beyond its unix socket; they stand at the top level.

use super::key::{Key, Kind, Scope};

const TEXT: Kind = Kind::Text { bytes_max: 4_096 };
const SECRET: Kind = Kind::Secret { bytes_max: 64 << 10 };

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, scope: Scope::Daemon, kind, default, reloadable: false, required: false, help }
}

pub(super) const COUNT: usize = KEYS.len();

pub(super) const KEYS: [Key; 13] = [
    key(
        "admin.listeners",
        TEXT,
        "",
        "Where operators are served beside the unix socket: https://ADDRESS:PORT, and http on loopback; with commas.",
    ),
    key(
        "metrics.partitions.enable",
        Kind::Choice(&["true", "false"]),
        "false",
        "Whether /metrics tells of every partition, not only of every topic.",
    ),
    key(
        "metrics.topics.max",
        Kind::Number { min: 0, max: 100_000 },
        "1000",
        "Topics that /metrics tells of by name; all others are told as one, topic=\"other\".",
    ),
    key(
        "admin.loopback.authentication",
        Kind::Choice(&["token", "none"]),
        "token",
        "What http listeners on loopback ask for; none lets everybody on this host change everything.",
    ),
    key(
        "admin.tokens.file",
        Kind::File,
        "",
        "Lines of `twinlog token create`, writable by its owner alone, read again when they change.",
    ),
    key("admin.allowed.hosts", TEXT, "", "More names by which the listeners are reached, with commas."),
    key(
        "admin.ssl.keystore.location",
        Kind::File,
        "",
        "File with the listeners' certificate, its chain and its key: PEM or PKCS12, read again when it changes.",
    ),
    key("admin.ssl.keystore.password", SECRET, "", "Opens a PKCS12 keystore."),
    key("admin.ssl.key.password", SECRET, "", "Opens an encrypted private key in PEM."),
    key(
        "admin.ssl.truststore.location",
        Kind::File,
        "",
        "File with the authorities that sign operators' certificates.",
    ),
    key("admin.ssl.truststore.password", SECRET, "", "Opens a PKCS12 truststore."),
    key(
        "admin.ssl.client.auth",
        Kind::Choice(&["none", "requested", "required"]),
        "none",
        "Whether operators are asked for a certificate, and must have one.",
    ),
    key(
        "admin.ssl.principals",
        TEXT,
        "",
        "Roles by subjects of certificates: viewer=CN=...;operator=CN=..., separated by semicolons.",
    ),
];
