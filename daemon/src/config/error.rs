//! Why a configuration is refused: which key, which value, which bound, and what to do.

use super::admin::AdminFault;
use super::findings::Findings;
use super::foreign_keys;
use super::key::{Key, Scope};
use super::value::ValueError;
use crate::security::SecurityError;
use std::fmt;
use std::path::PathBuf;
use twinlog_log_segment::files::NameError;

/// One reason. The value of a key that may hold a secret never appears, nor that of an unknown key.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigError {
    /// The file cannot be read.
    File {
        path: PathBuf,
        error: std::io::ErrorKind,
    },
    /// Not TOML. The line's text is left out: it may hold a password.
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    UnknownKey {
        key: String,
        table: String,
        nearest: Option<&'static str>,
    },
    /// A key of the table at the wrong place.
    Misplaced {
        key: &'static Key,
        table: String,
    },
    /// Kafka has it, this program does not.
    Unsupported {
        key: String,
        table: String,
    },
    /// Neither text, number, truth value nor a list of texts.
    Shape {
        key: String,
        table: String,
    },
    Missing {
        key: &'static Key,
    },
    /// Not given, although another value asks for it.
    MissingFor {
        key: &'static Key,
        because: &'static str,
    },
    /// The one mechanism of Kafka's that is not spoken.
    Kerberos {
        scope: Scope,
    },
    /// Neither `topics` nor filters that may create mirror topics.
    NothingToMirror,
    /// The last port of the guest's listener.
    PortsExceeded {
        port: u16,
        ids: usize,
    },
    Value {
        key: &'static Key,
        value: String,
        why: ValueError,
    },
    /// Two values that exclude each other.
    Conflict {
        key: &'static str,
        value: u64,
        other: &'static str,
        other_value: u64,
        why: &'static str,
    },
    /// Connections cannot be made as the keys of one place ask for.
    Security {
        scope: Scope,
        why: SecurityError,
    },
    /// Operators cannot be served like this.
    Admin {
        key: &'static str,
        value: String,
        why: AdminFault,
    },
    /// Others than its owner can read a file in which a secret stands.
    SecretsReadable {
        path: PathBuf,
        mode: u32,
        key: &'static str,
    },
    LinkName {
        name: String,
        why: LinkNameFault,
    },
    NoLink,
    SeveralLinks {
        names: Vec<String>,
    },
    NoSuchLink {
        name: String,
        known: Vec<String>,
    },
    /// What is wrong with one of several links.
    OfLink {
        link: String,
        why: Box<ConfigError>,
    },
    /// More than one of the others.
    Several(Box<Findings>),
    TooManyLinks {
        links: usize,
        max: usize,
    },
    /// What each link gets of the memory.
    LinkMemory {
        links: usize,
        bytes: u64,
        min: u64,
    },
    /// Two links want the same guest broker id or the same address.
    Shared {
        key: &'static str,
        value: String,
        one: String,
        other: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Syntax { path, line, message } => {
                write!(f, "{} line {line} is not TOML: {message}", path.display())
            }
            Self::UnknownKey { key, table, nearest: Some(nearest) } => {
                write!(f, "{key} in {table} is not a key; did you mean {nearest}?")
            }
            Self::UnknownKey { key, table, nearest: None } => {
                write!(f, "{key} in {table} is not a key; `twinlog config explain` lists all keys")
            }
            Self::Misplaced { key, table } => {
                write!(f, "{} stands in {table}, its place is {}", key.name, key.scope)
            }
            Self::Unsupported { key, table } => write_unsupported(f, key, table),
            Self::Shape { key, table } => {
                write!(f, "{key} in {table} must be text, a number or a list of texts")
            }
            Self::Missing { key } => match key.scope {
                Scope::Daemon => write!(f, "{} is missing: {}", key.name, key.help),
                scope => write!(f, "{} is missing in {scope}: {}", key.name, key.help),
            },
            Self::MissingFor { key, because } => {
                write!(f, "{} is missing in {}, {because} needs it: {}", key.name, key.scope, key.help)
            }
            Self::Kerberos { scope } => write!(
                f,
                "sasl.mechanism = GSSAPI in {scope} is not spoken: Kerberos needs the system's own library and this \
                 program is built without it; build it with cargo build --release -p twinlog-daemon --features gssapi, \
                 or let the cluster offer SCRAM-SHA-512 or OAUTHBEARER on a listener, or \
                 ask for client certificates (security.protocol = SSL), and give that here"
            ),
            Self::NothingToMirror => write!(
                f,
                "nothing is to be mirrored: topics is missing in [link.NAME]; give it, or \
                 auto.create.mirror.topics.enable = true with auto.create.mirror.topics.filters"
            ),
            Self::PortsExceeded { port, ids } => write!(
                f,
                "guest.listener has port {port}, and {ids} ids need a port each up to 65535 at most; choose a \
                 lower port"
            ),
            Self::Value { key, value, why } => {
                write!(f, "{} = {value} is refused: {why}; allowed: {}", key.name, key.kind)
            }
            Self::Conflict { key, value, other, other_value, why } => {
                write!(f, "{key} = {value} does not go with {other} = {other_value}: {why}")
            }
            Self::Security { .. } | Self::SecretsReadable { .. } | Self::Admin { .. } => {
                self.write_security(f)
            }
            Self::LinkName { name, why } => {
                write!(f, "link name {name:?} is refused, it becomes a directory: {why}")
            }
            Self::NoLink => {
                write!(f, "no link is configured: give --source and --topic, or a [link.NAME] table")
            }
            Self::NoSuchLink { name, known } => {
                write!(f, "link {name:?} is not in the file, which has {}", known.join(", "))
            }
            Self::OfLink { link, why } => write!(f, "link {link}: {why}"),
            Self::Several(findings) => write!(f, "{findings}"),
            Self::SeveralLinks { .. }
            | Self::TooManyLinks { .. }
            | Self::LinkMemory { .. }
            | Self::Shared { .. } => self.write_links(f),
        }
    }
}

fn write_unsupported(f: &mut fmt::Formatter<'_>, key: &str, table: &str) -> fmt::Result {
    match foreign_keys::reason(key) {
        Some(reason) => write!(
            f,
            "{key} in {table} is a key of Kafka's clients that has no effect here: {reason}; remove it, \
             `twinlog config explain` lists all keys"
        ),
        None => write!(
            f,
            "{key} in {table} is a key of Kafka's clients that is not understood here; remove it, or see \
             `twinlog config explain` for those that are"
        ),
    }
}

impl ConfigError {
    /// Each of several on its own.
    pub fn findings(&self) -> Findings {
        match self {
            Self::Several(findings) => (**findings).clone(),
            one => one.clone().into(),
        }
    }

    /// The reasons that have to do with several links.
    fn write_links(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SeveralLinks { names } => write!(
                f,
                "the links {} stand in one file, and one of them is meant here: name it with --link",
                names.join(", ")
            ),
            Self::TooManyLinks { links, max } => {
                write!(f, "{links} links are more than the {max} that one daemon runs; start a second daemon")
            }
            Self::LinkMemory { links, bytes, min } => write!(
                f,
                "memory.bytes divided by {links} links is {bytes} bytes for each, and {min} are needed; raise it"
            ),
            Self::Shared { key, value, one, other } => write!(
                f,
                "links {one} and {other} both have {value} in {key}; every link of a daemon needs its own"
            ),
            _ => unreachable!("the others are written by Display itself"),
        }
    }

    /// The reasons that have to do with security.
    fn write_security(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Security { scope, why } => write!(f, "{scope}: {why}"),
            Self::Admin { key, value, why } => write!(f, "{key} = {value:?} is refused: {why}"),
            Self::SecretsReadable { path, mode, key } => write!(
                f,
                "{key} stands in {}, which others can read (mode {mode:o}): chmod 600 {}, or put a reference \
                 such as ${{env:NAME}} there",
                path.display(),
                path.display()
            ),
            _ => unreachable!("the others are written by Display itself"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Why a link may not be called so.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkNameFault {
    /// The rule for topic names holds for links too.
    Name(NameError),
    Hidden,
    /// Something of ours is called so.
    Reserved,
}

impl fmt::Display for LinkNameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "{error}"),
            Self::Hidden => write!(f, "one that begins with a dot would be hidden"),
            Self::Reserved => write!(f, "something of ours is called so"),
        }
    }
}
