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
use super::key::{Key, Scope, key, key_in, nearest};
use super::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

/// The table that holds all links.
const LINK_TABLE: &str = "link";
/// The table of a link that holds its source's keys.
const SOURCE_TABLE: &str = "source";
/// The table of a link that holds its destination's keys.
const DESTINATION_TABLE: &str = "destination";
/// Kafka's keys for what connections cannot do yet.
const UNSUPPORTED_PREFIXES: [&str; 2] = ["ssl.", "sasl."];
/// A larger file is no configuration; it would be held in memory twice.
const FILE_BYTES_MAX: u64 = 4 << 20;

type RawValues = BTreeMap<&'static str, RawValue>;

/// Raw values of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawLink {
    pub(super) link: RawValues,
    pub(super) source: RawValues,
    pub(super) destination: RawValues,
}

/// Everything that was said, not yet parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawConfig {
    pub(super) daemon: RawValues,
    pub(super) links: BTreeMap<String, RawLink>,
}

impl RawConfig {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |error| ConfigError::File { path: path.to_owned(), error };
        let length = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(failed(std::io::ErrorKind::FileTooLarge));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.kind()))?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }
        })?;
        let mut config = Self::default();
        for (name, value) in table {
            match value {
                Value::Table(links) if name == LINK_TABLE => config.read_links(links)?,
                value => read_key(&mut config.daemon, Scope::Daemon, "the top level", name, value)?,
            }
        }
        Ok(config)
    }

    fn read_links(&mut self, links: Table) -> Result<(), ConfigError> {
        for (name, value) in links {
            let Value::Table(table) = value else {
                return Err(unknown(&format!("{LINK_TABLE}.{name}"), "the top level"));
            };
            let link = self.links.entry(name.clone()).or_default();
            let place = format!("[link.{name}]");
            for (key, value) in table {
                let (table, into, scope) = match value {
                    Value::Table(table) if key == SOURCE_TABLE => (table, &mut link.source, Scope::Source),
                    Value::Table(table) if key == DESTINATION_TABLE => {
                        (table, &mut link.destination, Scope::Destination)
                    }
                    value => {
                        read_key(&mut link.link, Scope::Link, &place, key, value)?;
                        continue;
                    }
                };
                let place = format!("[link.{name}.{key}]");
                for (key, value) in table {
                    read_key(into, scope, &place, key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Puts a flag over the file. `link` names whose key it is.
    pub fn set(&mut self, link: &str, name: &str, value: RawValue) {
        let key = key(name).expect("flags set keys of the table");
        let values = match key.scope {
            Scope::Daemon => &mut self.daemon,
            Scope::Link => &mut self.links.entry(link.to_owned()).or_default().link,
            Scope::Source => &mut self.links.entry(link.to_owned()).or_default().source,
            Scope::Destination => &mut self.links.entry(link.to_owned()).or_default().destination,
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
        };
        self.links.get(link).is_some_and(given)
    }
}

fn read_key(
    into: &mut RawValues,
    scope: Scope,
    table: &str,
    name: String,
    value: Value,
) -> Result<(), ConfigError> {
    if let Value::Table(inner) = value {
        for (part, value) in inner {
            read_key(into, scope, table, format!("{name}.{part}"), value)?;
        }
        return Ok(());
    }
    if UNSUPPORTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(ConfigError::Unsupported { key: name, table: table.to_owned() });
    }
    let Some(known): Option<&Key> = key_in(scope, &name) else {
        let elsewhere = key(&name).map(|key| ConfigError::Misplaced { key, table: table.to_owned() });
        return Err(elsewhere.unwrap_or_else(|| unknown(&name, table)));
    };
    let shape = || ConfigError::Shape { key: name.clone(), table: table.to_owned() };
    let raw = match value {
        Value::Array(items) => {
            RawValue::List(items.iter().map(text_of).collect::<Option<_>>().ok_or_else(shape)?)
        }
        value => RawValue::Text(text_of(&value).ok_or_else(shape)?),
    };
    into.insert(known.name, raw);
    Ok(())
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
    fn what_may_be_a_secret_is_refused_unseen() {
        for line in
            ["ssl.key.password = \"hunter2\"", "sasl.jaas.config = \"hunter2\"", "sasl.password = hunter2"]
        {
            let text = refuse(&format!("[link.a.source]\n{line}\n")).to_string();
            assert!(!text.contains("hunter2"), "{text}");
        }
        let syntax = refuse("data.dir = \"/d\"\nsasl.password = hunter2\n");
        assert!(matches!(syntax, ConfigError::Syntax { line: 2, .. }), "{syntax:?}");
    }

    #[test]
    fn a_value_without_a_text_is_refused() {
        assert!(matches!(refuse("data.dir = 1.5\n"), ConfigError::Shape { .. }));
        assert!(matches!(refuse("link.a = 1\n"), ConfigError::UnknownKey { .. }));
    }
}
