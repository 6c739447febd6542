//! The TOML file, flattened back to Kafka's dotted names and sorted by where they stand.
//!
//! ```text
//!   data.dir = "..."                                  daemon
//!   [link.west]             flush.ms = 250            link west
//!   [link.west.source]      bootstrap.servers = ".."  source of link west
//!   [link.west.destination] mode = "guest"            destination of link west
//! ```
//! TOML reads `bootstrap.servers` as a table in a table; here it becomes one name again. Flags are put
//! over the file with [`RawConfig::set`] before anything is parsed, so that both obey the same table.

use super::error::ConfigError;
use super::findings::Findings;
use super::foreign_keys;
use super::key::{Key, Scope, key, key_in, nearest};
use super::value::RawValue;
use crate::security::Secret;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use toml::{Table, Value};
use zeroize::Zeroizing;

/// The table that holds all links.
const LINK_TABLE: &str = "link";
/// What is above all tables, as messages have it.
const TOP_LEVEL: &str = "the top level";
/// The table of a link that holds its source's keys.
const SOURCE_TABLE: &str = "source";
/// The table of a link that holds its destination's keys.
const DESTINATION_TABLE: &str = "destination";
/// The table of a destination that holds its controllers' keys.
const CONTROLLERS_TABLE: &str = "controllers";
/// Kafka's keys for what connections cannot do.
const UNSUPPORTED_PREFIXES: [&str; 2] = ["ssl.", "sasl."];
/// A larger file is no configuration; it would be held in memory twice.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) type RawValues = BTreeMap<&'static str, RawValue>;

/// Raw values of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawLink {
    pub(super) link: RawValues,
    pub(super) source: RawValues,
    pub(super) destination: RawValues,
    pub(super) controllers: RawValues,
}

/// Everything that was said, not yet parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawConfig {
    pub(super) daemon: RawValues,
    pub(super) links: BTreeMap<String, RawLink>,
}

impl RawConfig {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let (config, findings) = Self::read_all(path)?;
        findings.end().map(|()| config)
    }

    /// What of a file can be taken, and what is wrong with the rest. An error: it is no such file at all.
    pub fn read_all(path: &Path) -> Result<(Self, Findings), ConfigError> {
        let failed = |error| ConfigError::File { path: path.to_owned(), error };
        let length = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(failed(std::io::ErrorKind::FileTooLarge));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.kind()))?;
        let text = Zeroizing::new(text);
        let (config, mut findings) = Self::parse_all(path, &text)?;
        let mode = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.mode() & 0o7777;
        if let Some(key) = config.first_plain_secret().filter(|_| mode & 0o077 != 0) {
            findings.add(ConfigError::SecretsReadable { path: path.to_owned(), mode, key });
        }
        Ok((config, findings))
    }

    /// A key whose secret stands in the file itself.
    fn first_plain_secret(&self) -> Option<&'static str> {
        let links = self.links.values().flat_map(|link| [&link.source, &link.destination, &link.controllers]);
        let is_plain = |value: &RawValue| match value {
            RawValue::Secret(secret) => !secret.is_empty() && !secret.is_reference(),
            RawValue::Text(_) | RawValue::List(_) => false,
        };
        links.chain([&self.daemon]).flatten().find(|(_, value)| is_plain(value)).map(|(name, _)| *name)
    }

    /// Reads the text of a file; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let (config, findings) = Self::parse_all(path, text)?;
        findings.end().map(|()| config)
    }

    fn parse_all(path: &Path, text: &str) -> Result<(Self, Findings), ConfigError> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }
        })?;
        let (mut config, mut findings) = (Self::default(), Findings::default());
        for (name, value) in table {
            match value {
                Value::Table(links) if name == LINK_TABLE => config.read_links(links, &mut findings),
                value => {
                    let mut place = Place { scope: Scope::Daemon, table: TOP_LEVEL, findings: &mut findings };
                    place.read_key(&mut config.daemon, name, value);
                }
            }
        }
        Ok((config, findings))
    }

    fn read_links(&mut self, links: Table, findings: &mut Findings) {
        for (name, value) in links {
            let Value::Table(table) = value else {
                findings.add(unknown(&format!("{LINK_TABLE}.{name}"), TOP_LEVEL));
                continue;
            };
            let link = self.links.entry(name.clone()).or_default();
            let here = format!("[link.{name}]");
            for (key, value) in table {
                let (table, into, scope) = match value {
                    Value::Table(table) if key == SOURCE_TABLE => (table, &mut link.source, Scope::Source),
                    Value::Table(table) if key == DESTINATION_TABLE => {
                        (table, &mut link.destination, Scope::Destination)
                    }
                    value => {
                        let mut place = Place { scope: Scope::Link, table: &here, findings };
                        place.read_key(&mut link.link, key, value);
                        continue;
                    }
                };
                let here = format!("[link.{name}.{key}]");
                for (key, value) in table {
                    match value {
                        Value::Table(inner) if scope == Scope::Destination && key == CONTROLLERS_TABLE => {
                            let here = format!("[link.{name}.{DESTINATION_TABLE}.{CONTROLLERS_TABLE}]");
                            let mut place = Place { scope: Scope::Controllers, table: &here, findings };
                            for (key, value) in inner {
                                place.read_key(&mut link.controllers, key, value);
                            }
                        }
                        value => Place { scope, table: &here, findings }.read_key(into, key, value),
                    }
                }
            }
        }
    }

    /// Puts a flag over the file. `link` names whose key it is.
    pub fn set(&mut self, link: &str, name: &str, value: RawValue) {
        let key = key(name).expect("flags set keys of the table");
        let values = match key.scope {
            Scope::Daemon => &mut self.daemon,
            Scope::Link => &mut self.links.entry(link.to_owned()).or_default().link,
            Scope::Source => &mut self.links.entry(link.to_owned()).or_default().source,
            Scope::Destination => &mut self.links.entry(link.to_owned()).or_default().destination,
            Scope::Controllers => &mut self.links.entry(link.to_owned()).or_default().controllers,
        };
        values.insert(key.name, value);
    }

    /// Names of the links so far.
    pub fn link_names(&self) -> Vec<String> {
        self.links.keys().cloned().collect()
    }

    /// Whether a value was given for a key of the daemon.
    pub fn has(&self, name: &str) -> bool {
        self.daemon.contains_key(name)
    }

    /// Whether a value was given for a key at one place of a link.
    pub fn has_link_value(&self, link: &str, scope: Scope, name: &str) -> bool {
        let given = |link: &RawLink| match scope {
            Scope::Daemon => false,
            Scope::Link => link.link.contains_key(name),
            Scope::Source => link.source.contains_key(name),
            Scope::Destination => link.destination.contains_key(name),
            Scope::Controllers => link.controllers.contains_key(name),
        };
        self.links.get(link).is_some_and(given)
    }
}

/// Where keys are read, and what is wrong with them.
struct Place<'a> {
    scope: Scope,
    /// As messages have it.
    table: &'a str,
    findings: &'a mut Findings,
}

impl Place<'_> {
    fn read_key(&mut self, into: &mut RawValues, name: String, value: Value) {
        if let Value::Table(inner) = value {
            for (part, value) in inner {
                self.read_key(into, format!("{name}.{part}"), value);
            }
            return;
        }
        match key_in(self.scope, &name) {
            None => {
                let error = self.not_here(name);
                self.findings.add(error);
            }
            Some(known) => match raw_value(known, value) {
                Some(raw) => drop(into.insert(known.name, raw)),
                None => self.findings.add(ConfigError::Shape { key: name, table: self.table.to_owned() }),
            },
        }
    }

    /// Why a name is no key here.
    fn not_here(&self, name: String) -> ConfigError {
        let table = self.table.to_owned();
        let is_kafkas = foreign_keys::reason(&name).is_some()
            || UNSUPPORTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        match key(&name) {
            Some(key) => ConfigError::Misplaced { key, table },
            None if is_kafkas => ConfigError::Unsupported { key: name, table },
            None => unknown(&name, self.table),
        }
    }
}

/// `None`: a value of this shape is no value of any key, or none of this one.
fn raw_value(key: &Key, value: Value) -> Option<RawValue> {
    match (value, key.is_secret()) {
        (Value::String(text), true) => Some(RawValue::Secret(Secret::new(text))),
        (_, true) => None,
        (Value::Array(items), false) => items.iter().map(text_of).collect::<Option<_>>().map(RawValue::List),
        (value, false) => text_of(&value).map(RawValue::Text),
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        // A filter: kept as the JSON text that Kafka's users write.
        Value::Table(table) => serde_json::to_string(table).ok(),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) => None,
    }
}

fn unknown(name: &str, table: &str) -> ConfigError {
    ConfigError::UnknownKey { key: name.to_owned(), table: table.to_owned(), nearest: nearest(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(text: &str) -> ConfigError {
        RawConfig::parse(Path::new("twinlog.toml"), text).unwrap_err()
    }

    #[test]
    fn dotted_names_come_back_whole_at_each_level() {
        let text = "data.dir = \"/d\"\nmemory.bytes = 1000\n\
                    [link.west]\ntopics = [\"a\", \"b.*\"]\nflush.ms = 5\nflush.catchup.ms = 6\n\
                    link.bytes.per.second = 7\n\
                    [link.west.source]\nbootstrap.servers = \"h:1\"\n";
        let config = RawConfig::parse(Path::new("twinlog.toml"), text).unwrap();
        assert_eq!(config.daemon["memory.bytes"], RawValue::Text("1000".into()));
        let link = &config.links["west"];
        assert_eq!(link.link["topics"], RawValue::List(vec!["a".into(), "b.*".into()]));
        assert_eq!(link.link["flush.catchup.ms"], RawValue::Text("6".into()));
        assert_eq!(link.link["link.bytes.per.second"], RawValue::Text("7".into()));
        assert_eq!(link.source["bootstrap.servers"], RawValue::Text("h:1".into()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_neighbour() {
        let text = refuse("[link.a]\nisolation.levl = \"read_committed\"\n").to_string();
        assert!(
            text.contains("isolation.levl in [link.a]") && text.contains("mean isolation.level?"),
            "{text}"
        );
        assert!(refuse("acks = 1\n").to_string().contains("config explain"));
    }

    #[test]
    fn a_key_at_the_wrong_place_is_told_its_place() {
        let text = refuse("[link.a]\nbootstrap.servers = \"h:1\"\n").to_string();
        assert_eq!(text, "bootstrap.servers stands in [link.a], its place is [link.NAME.source]");
        assert!(matches!(refuse("flush.ms = 1\n"), ConfigError::Misplaced { .. }));
    }

    #[test]
    fn a_secret_is_never_shown_whatever_becomes_of_its_line() {
        for line in [
            "ssl.key.password = \"hunter2\"",
            "sasl.jaas.config = \"hunter2\"",
            "ssl.keystore.key = \"hunter2\"",
        ] {
            let text = format!("[link.a.source]\n{line}\n[link.a.destination.controllers]\n{line}\n");
            let config = RawConfig::parse(Path::new("twinlog.toml"), &text).unwrap();
            assert!(!format!("{config:?}").contains("hunter2"), "{line}");
            let misplaced = refuse(&format!("[link.a]\n{line}\n"));
            assert!(!format!("{misplaced} {misplaced:?}").contains("hunter2"), "{misplaced}");
        }
        for line in ["sasl.password = [\"hunter2\"]", "ssl.hunter.password = \"hunter2\""] {
            let refused = refuse(&format!("[link.a.source]\n{line}\n"));
            assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused}");
        }
        let syntax = refuse("data.dir = \"/d\"\nsasl.password = hunter2\n");
        assert!(matches!(syntax, ConfigError::Syntax { line: 2, .. }), "{syntax:?}");
    }

    #[test]
    fn a_file_with_a_secret_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("twinlog.toml");
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            RawConfig::read(&path)
        };
        let plain = "[link.a.destination.controllers]\nsasl.password = \"hunter2\"\n";
        for mode in [0o640, 0o604, 0o666] {
            let text = read(plain, mode).unwrap_err().to_string();
            assert!(text.contains("chmod 600") && text.contains("sasl.password"), "{text}");
            assert!(!text.contains("hunter2"));
        }
        assert!(read(plain, 0o600).is_ok() && read(plain, 0o400).is_ok());
        assert!(read("admin.ssl.key.password = \"hunter2\"\n", 0o640).is_err());
        let reference = "[link.a.source]\nsasl.password = \"${env:PASSWORD}\"\nssl.key.password = \"\"\n";
        assert!(read(reference, 0o644).is_ok(), "whoever reads it sees nothing");
    }

    #[test]
    fn every_key_that_is_wrong_is_named_and_the_others_are_taken() {
        let text = "acks = 1\ndata.dir = 1.5\nmemory.bytes = 1000\nlink.b = 1\n[link.a]\nflush.mss = 5\n\
                    flush.ms = 6\nbootstrap.servers = \"h:1\"\n[link.a.source]\nssl.engine.factory.class = \"x\"\n\
                    [link.a.destination.controllers]\nmode = \"guest\"\n";
        let findings = refuse(text).findings();
        let named: Vec<&str> = findings.iter().map(kind).collect();
        assert_eq!(findings.len(), 7, "{findings}");
        for (wanted, times) in [("unknown", 2), ("shape", 1), ("misplaced", 2), ("unsupported", 2)] {
            assert_eq!(named.iter().filter(|each| **each == wanted).count(), times, "{wanted}: {findings}");
        }
        let (config, _) = RawConfig::parse_all(Path::new("twinlog.toml"), text).unwrap();
        assert_eq!(config.daemon["memory.bytes"], RawValue::Text("1000".into()));
        assert_eq!(config.links["a"].link["flush.ms"], RawValue::Text("6".into()));
    }

    fn kind(error: &ConfigError) -> &'static str {
        match error {
            ConfigError::UnknownKey { .. } => "unknown",
            ConfigError::Shape { .. } => "shape",
            ConfigError::Misplaced { .. } => "misplaced",
            ConfigError::Unsupported { .. } => "unsupported",
            _ => "another",
        }
    }

    #[test]
    fn a_value_without_a_text_is_refused() {
        assert!(matches!(refuse("data.dir = 1.5\n"), ConfigError::Shape { .. }));
        assert!(matches!(refuse("link.a = 1\n"), ConfigError::UnknownKey { .. }));
    }
}
