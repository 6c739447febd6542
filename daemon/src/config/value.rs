//! Values: from text to the type that a key asks for, within its bound.

use super::key::{Key, Kind};
use super::topic_filter::{FilterError, TopicFilters};
use super::topic_pattern::{PatternError, TopicPattern};
use crate::control::topic_configs::may_be_included;
use crate::security::{Secret, TlsVersions};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use twinlog_io::{CoreChoice, PlacementError};

/// What stands in a file or behind a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawValue {
    Text(String),
    List(Vec<String>),
    /// Text of a key that may hold a secret: prints as stars.
    Secret(Secret),
}

impl RawValue {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.single().is_some_and(|text| text.trim().is_empty())
    }

    /// The one text; `None` for a list of another length.
    fn single(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List(list) => list.first().filter(|_| list.len() == 1).map(String::as_str),
            Self::Secret(secret) => Some(secret.expose()),
        }
    }

    /// Items of a list, or of a text with commas.
    fn items(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
            Self::List(list) => list.iter().map(|item| item.trim()).collect(),
            Self::Secret(_) => Vec::new(),
        }
    }

    /// Patterns contain commas (`a{1,2}`), so a text is one pattern unless it is Kafka's JSON list.
    fn patterns(&self) -> Vec<String> {
        match self {
            Self::List(list) => list.clone(),
            Self::Secret(_) => Vec::new(),
            Self::Text(text) => {
                serde_json::from_str::<Vec<String>>(text).unwrap_or_else(|_| vec![text.trim().to_owned()])
            }
        }
    }
}

impl fmt::Display for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(list) => write!(f, "{list:?}"),
            Self::Secret(secret) => write!(f, "{secret}"),
        }
    }
}

/// A typed value.
#[derive(Clone, Debug)]
pub enum Value {
    Path(PathBuf),
    Cores(CoreChoice),
    Core(Option<usize>),
    Number(u64),
    Choice(&'static str),
    Servers(Vec<HostPort>),
    Server(HostPort),
    BrokerIds(Vec<i32>),
    Topics(Vec<TopicPattern>),
    TopicFilters(TopicFilters),
    TopicConfigs(Vec<String>),
    Text(String),
    Secret(Secret),
    TlsVersions(TlsVersions),
}

/// Beyond it an error would repeat a whole file; Kafka's longest name has half of it.
const NAME_CHARS_MAX: usize = 64;

/// Why a text is no value of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueError {
    NotOne,
    NotANumber,
    OutOfBound,
    NotAChoice,
    Empty,
    Unit {
        unit: String,
    },
    Cores(PlacementError),
    Server {
        text: String,
    },
    Pattern(PatternError),
    Filter(FilterError),
    /// Not ids, too few or too many of them, or one twice.
    BrokerIds,
    /// No configuration of a topic that a mirror can take over.
    TopicConfig {
        name: String,
    },
    /// Neither TLSv1.2 nor TLSv1.3.
    TlsVersions,
    TooLong {
        bytes: usize,
    },
    /// A null character would end a path or a name early in the kernel's eyes.
    Null,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne => write!(f, "one value is expected"),
            Self::NotANumber => write!(f, "it is not a whole number"),
            Self::OutOfBound => write!(f, "it is out of bounds"),
            Self::NotAChoice => write!(f, "it is none of the choices"),
            Self::Empty => write!(f, "it is empty"),
            Self::Unit { unit } => {
                write!(f, "the unit {unit:?} is not known (KiB, MiB, GiB, TiB; kB, MB, GB, TB)")
            }
            Self::Cores(error) => write!(f, "{error}"),
            Self::Server { text } => write!(f, "{text:?} is not HOST:PORT with a port from 1 to 65535"),
            Self::Pattern(error) => write!(f, "{error}"),
            Self::Filter(error) => write!(f, "{error}"),
            Self::TopicConfig { name } => write!(
                f,
                "{name:?} is no topic configuration that a mirror takes over; placement, throttles and tiers never are"
            ),
            Self::BrokerIds => {
                write!(f, "it must name 2 to {BROKER_IDS_MAX} different ids, as in 900-904 or 900,902,904")
            }
            Self::TlsVersions => write!(f, "it names a version that is not spoken, or none"),
            Self::TooLong { bytes } => write!(f, "it has {bytes} bytes"),
            Self::Null => write!(f, "it holds a null character"),
        }
    }
}

impl Value {
    /// Parses what a key asks for.
    pub fn parse(key: &Key, raw: &RawValue) -> Result<Value, ValueError> {
        let single = || raw.single().map(str::trim).ok_or(ValueError::NotOne);
        match key.kind {
            Kind::Path => match single()? {
                "" => Err(ValueError::Empty),
                text if text.contains('\0') => Err(ValueError::Null),
                text => Ok(Value::Path(PathBuf::from(text))),
            },
            Kind::Cores => {
                let list = raw.items().join(",");
                list.parse().map(Value::Cores).map_err(ValueError::Cores)
            }
            Kind::Core => match single()? {
                "auto" => Ok(Value::Core(None)),
                text => text.parse().map(|core| Value::Core(Some(core))).map_err(|_| ValueError::NotANumber),
            },
            Kind::Bytes { min, max } => within(parse_bytes(single()?)?, min, max),
            Kind::Milliseconds { min, max } | Kind::Number { min, max } => {
                within(single()?.parse().map_err(|_| ValueError::NotANumber)?, min, max)
            }
            Kind::Choice(choices) => {
                let text = single()?;
                let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(text));
                found.map(|choice| Value::Choice(choice)).ok_or(ValueError::NotAChoice)
            }
            Kind::Servers => match raw.items() {
                items if items.is_empty() => Err(ValueError::Empty),
                items => items.into_iter().map(str::parse).collect::<Result<_, _>>().map(Value::Servers),
            },
            Kind::Server => single()?.parse().map(Value::Server),
            Kind::BrokerIds => parse_broker_ids(&raw.items()).map(Value::BrokerIds),
            Kind::TopicFilters => {
                let texts = match raw {
                    RawValue::Text(text) => std::slice::from_ref(text),
                    RawValue::List(texts) => texts,
                    RawValue::Secret(_) => &[],
                };
                TopicFilters::parse(texts).map(Value::TopicFilters).map_err(ValueError::Filter)
            }
            Kind::TopicConfigs => parse_topic_configs(&raw.items()).map(Value::TopicConfigs),
            Kind::Topics => {
                let patterns = raw.patterns();
                let parsed: Result<Vec<_>, _> =
                    patterns.iter().map(|text| TopicPattern::parse(text)).collect();
                match parsed.map_err(ValueError::Pattern)? {
                    parsed if parsed.is_empty() => Err(ValueError::Empty),
                    parsed => Ok(Value::Topics(parsed)),
                }
            }
            Kind::Text { bytes_max } => match single()? {
                text if text.len() > bytes_max => Err(ValueError::TooLong { bytes: text.len() }),
                text if text.contains('\0') => Err(ValueError::Null),
                text => Ok(Value::Text(text.to_owned())),
            },
            Kind::File => match single()? {
                text if text.contains('\0') => Err(ValueError::Null),
                text => Ok(Value::Text(text.to_owned())),
            },
            // Not trimmed: a password may begin or end with a blank.
            Kind::Secret { bytes_max } => match raw.single().ok_or(ValueError::NotOne)? {
                text if text.len() > bytes_max => Err(ValueError::TooLong { bytes: text.len() }),
                text if text.contains('\0') => Err(ValueError::Null),
                text => Ok(Value::Secret(Secret::from(text))),
            },
            Kind::TlsVersions => parse_tls_versions(&raw.items()).map(Value::TlsVersions),
        }
    }
}

fn within(number: u64, min: u64, max: u64) -> Result<Value, ValueError> {
    if (min..=max).contains(&number) { Ok(Value::Number(number)) } else { Err(ValueError::OutOfBound) }
}

fn parse_tls_versions(items: &[&str]) -> Result<TlsVersions, ValueError> {
    let mut versions = TlsVersions { v1_2: false, v1_3: false };
    for item in items {
        match *item {
            "TLSv1.2" => versions.v1_2 = true,
            "TLSv1.3" => versions.v1_3 = true,
            _ => return Err(ValueError::TlsVersions),
        }
    }
    if versions.v1_2 || versions.v1_3 { Ok(versions) } else { Err(ValueError::TlsVersions) }
}

/// One id leads and one is kept for epoch bumps at least; more than this many ports on one host are a slip.
const BROKER_IDS_MAX: usize = 64;

fn parse_topic_configs(items: &[&str]) -> Result<Vec<String>, ValueError> {
    let names: Vec<String> =
        items.iter().filter(|name| !name.is_empty()).map(|name| (*name).to_owned()).collect();
    match names.iter().find(|name| !may_be_included(name)) {
        Some(name) => Err(ValueError::TopicConfig { name: name.chars().take(NAME_CHARS_MAX).collect() }),
        None => Ok(names),
    }
}

fn parse_broker_ids(items: &[&str]) -> Result<Vec<i32>, ValueError> {
    let mut ids = Vec::new();
    for item in items {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let id = |text: &str| text.trim().parse::<i32>().ok().filter(|id| *id >= 0);
        let (first, last) = id(first).zip(id(last)).ok_or(ValueError::BrokerIds)?;
        // The length is looked at before the range is walked.
        if last < first || i64::from(last) - i64::from(first) >= BROKER_IDS_MAX as i64 {
            return Err(ValueError::BrokerIds);
        }
        ids.extend(first..=last);
    }
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let fits = (2..=BROKER_IDS_MAX).contains(&ids.len()) && sorted.len() == ids.len();
    if fits { Ok(ids) } else { Err(ValueError::BrokerIds) }
}

/// Reads a number of bytes with or without a unit: `1048576`, `512MiB`, `1 GB`.
pub fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| ValueError::NotANumber)?;
    let unit = text[digits..].trim();
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(ValueError::Unit { unit: unit.to_owned() }),
    };
    number.checked_mul(factor).ok_or(ValueError::OutOfBound)
}

/// A broker's name and port, not resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Server { text: text.to_owned() };
        // Kafka users also write `PLAINTEXT://host:port`.
        let bare = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
        let (host, port) = bare.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inside) => inside,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().map_err(|_| wrong())?;
        let legal = !host.is_empty() && port != 0 && !host.contains(|c: char| c.is_whitespace() || c == '/');
        if legal { Ok(Self { host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_and_never_wrap() {
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("3 parsecs"), Err(ValueError::Unit { unit: "parsecs".into() }));
        assert_eq!(parse_bytes("99999999999TiB"), Err(ValueError::OutOfBound));
        for bad in ["", "MiB", "-1", "1.5GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn broker_ids_are_ranges_or_lists_without_a_double() {
        assert_eq!(parse_broker_ids(&["900-902"]), Ok(vec![900, 901, 902]));
        assert_eq!(parse_broker_ids(&["7", "3-4"]), Ok(vec![7, 3, 4]));
        for bad in ["900", "4-3", "0-2147483647", "-1-2", "a-b", ""] {
            assert_eq!(parse_broker_ids(&[bad]), Err(ValueError::BrokerIds), "{bad}");
        }
        assert_eq!(parse_broker_ids(&["1-3", "3-4"]), Err(ValueError::BrokerIds));
    }

    #[test]
    fn a_server_has_a_host_and_a_port() {
        let server: HostPort = "broker-1.example:9092".parse().unwrap();
        assert_eq!((server.host.as_str(), server.port), ("broker-1.example", 9092));
        let six: HostPort = "[::1]:9092".parse().unwrap();
        assert_eq!((six.host.as_str(), six.to_string().as_str()), ("::1", "[::1]:9092"));
        for bad in ["", "broker", "broker:", ":9092", "broker:0", "broker:70000", "::1:9092", "http://a:80"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
