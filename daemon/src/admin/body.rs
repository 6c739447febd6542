//! What is sent with a request, read strictly: a word that is not understood is refused, never ignored.
//!
//! An ignored `validate_only` would hand over what was only to be looked at.

use super::group_name::unescaped;
use super::page::{PAGE_SIZE_MAX, is_page_token};
use super::{LinkChange, OpenTransactions, Selection};
use crate::config::{PatternError, TopicPattern};
use crate::control::instruction::Release;
use crate::control::state::AUDIT_ROWS_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use twinlog_log_segment::files::{NameError, check_topic_name};

/// Topics of one request. All of them are answered for in one body, and kept in one transaction.
pub const TOPICS_MAX: usize = 10_000;
/// Configurations of one request: every key there is, and some more.
pub const CONFIGS_MAX: usize = 200;
/// The key of a link that is an order of its own.
pub const LINK_PAUSED: &str = "cluster.link.paused";
/// Beyond it an error would repeat a whole body.
const QUOTED_CHARS_MAX: usize = 100;

/// The body of every order on mirror topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorOrder {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirror_topic_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_topic_name_pattern: Option<String>,
    /// One topic to create, as Cluster Linking names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_topic_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_moving_source: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_producer_overlap: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_transactions: Option<OpenTransactions>,
    /// How stopped partitions go on: `"retry"`, `"accept_gap"` or `{"restart_from": OFFSET}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// Which of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_id: Option<i32>,
}

/// The body of `configs:alter`, as Cluster Linking has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigOrder {
    pub data: Vec<ConfigChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate_only: Option<bool>,
}

/// What it holds may be a secret that somebody sent by mistake: it is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<ConfigOperation>,
}

impl fmt::Debug for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.operation)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ConfigOperation {
    #[default]
    Set,
    /// What the file says counts again, or the default.
    Delete,
}

/// The body that creates a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkOrder {
    pub configs: Vec<ConfigChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate_only: Option<bool>,
}

/// The words behind the `?` of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub validate_only: bool,
    pub delete_data: bool,
    /// A link is deleted while it has mirror topics, too.
    pub force: bool,
    /// Of the link that is created.
    pub link_name: Option<String>,
    pub page_size: Option<usize>,
    /// What `metadata.next` of the page before said.
    pub page_token: Option<String>,
    /// Rows of the audit, or groups that should be looked at.
    pub limit: Option<u32>,
    /// In the names of those groups.
    pub contains: Option<String>,
}

/// Why a query or a body cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    Json {
        why: String,
    },
    Query {
        word: String,
    },
    /// A number that is none, or beyond its bound.
    Number {
        name: &'static str,
        max: usize,
    },
    NotHere {
        field: &'static str,
    },
    NothingNamed,
    TooManyConfigs {
        configs: usize,
    },
    /// Set without a value, or taken back with one.
    Operation {
        name: String,
    },
    NoLinkName,
    ConfigValue {
        name: String,
        value: String,
        allowed: &'static str,
    },
    NamesAndPattern,
    TooMany {
        topics: usize,
    },
    Twice {
        topic: String,
    },
    Name(NameError),
    Pattern(PatternError),
    /// `validate_only` said twice, differently.
    Undecided,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { why } => write!(f, "the body is not what is expected here: {why}"),
            Self::Query { word } => write!(
                f,
                "{word:?} in the query is not understood; known are validate_only, delete_data and force, each \
                 true or false, link_name, page_size, page_token, limit and contains"
            ),
            Self::Number { name, max } => write!(f, "{name} in the query must be a number from 1 to {max}"),
            Self::NotHere { field } => write!(f, "{field} has no meaning for this request; leave it out"),
            Self::NothingNamed => {
                write!(f, "no topic is named: give mirror_topic_names or mirror_topic_name_pattern")
            }
            Self::NamesAndPattern => {
                write!(f, "mirror_topic_names and mirror_topic_name_pattern exclude each other")
            }
            Self::TooMany { topics } => write!(
                f,
                "{topics} topics are named, one request takes {TOPICS_MAX}; split them, or give a pattern"
            ),
            Self::Twice { topic } => write!(f, "topic {topic} is named twice"),
            Self::Name(error) => write!(f, "{error}"),
            Self::Pattern(error) => write!(f, "{error}"),
            Self::TooManyConfigs { configs } => {
                write!(f, "{configs} configurations are named, one request takes 1 to {CONFIGS_MAX}")
            }
            Self::Operation { name } => {
                write!(f, "{name} needs a value to be SET, and has none when the operation is DELETE")
            }
            Self::NoLinkName => write!(f, "the link is not named: give ?link_name=NAME"),
            Self::ConfigValue { name, value, allowed } => {
                write!(f, "{name} = {value:?} is refused; allowed: {allowed}")
            }
            Self::Undecided => {
                write!(f, "validate_only is true in one of query and body, false in the other")
            }
        }
    }
}

impl Query {
    pub fn parse(text: Option<&str>) -> Result<Self, BodyError> {
        let mut query = Self::default();
        for word in text.unwrap_or_default().split('&').filter(|word| !word.is_empty()) {
            let wrong = || BodyError::Query { word: word.chars().take(QUOTED_CHARS_MAX).collect() };
            let (name, value) = word.split_once('=').unwrap_or((word, "true"));
            let truth = || value.parse().map_err(|_| wrong());
            match name {
                "validate_only" => query.validate_only = truth()?,
                "delete_data" => query.delete_data = truth()?,
                "force" => query.force = truth()?,
                "link_name" if is_page_token(value) => query.link_name = Some(value.to_owned()),
                "page_size" => query.page_size = Some(number("page_size", value, PAGE_SIZE_MAX)?),
                "page_token" if is_page_token(value) => query.page_token = Some(value.to_owned()),
                "limit" => {
                    let limit = number("limit", value, AUDIT_ROWS_MAX as usize)?;
                    query.limit = Some(limit as u32);
                }
                "contains" => query.contains = Some(unescaped(value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(query)
    }

    /// Refuses words that belong to another request.
    pub fn allow(&self, allowed: &[&'static str]) -> Result<(), BodyError> {
        let given = [
            ("validate_only", self.validate_only),
            ("delete_data", self.delete_data),
            ("force", self.force),
            ("link_name", self.link_name.is_some()),
            ("page_size", self.page_size.is_some()),
            ("page_token", self.page_token.is_some()),
            ("limit", self.limit.is_some()),
            ("contains", self.contains.is_some()),
        ];
        match given.into_iter().find(|(word, is_given)| *is_given && !allowed.contains(word)) {
            Some((field, _)) => Err(BodyError::NotHere { field }),
            None => Ok(()),
        }
    }
}

fn number(name: &'static str, text: &str, max: usize) -> Result<usize, BodyError> {
    text.parse().ok().filter(|number| (1..=max).contains(number)).ok_or(BodyError::Number { name, max })
}

impl ConfigOrder {
    pub fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(bytes).map_err(|error| BodyError::Json { why: error.to_string() })
    }

    /// Whether nothing is to be changed.
    pub fn is_dry_run(&self, query: &Query) -> Result<bool, BodyError> {
        query.allow(&["validate_only"])?;
        is_dry_run(query, self.validate_only)
    }

    /// Whether the link is to stand still, where that is the whole order.
    pub fn pause(&self) -> Result<Option<bool>, BodyError> {
        let [ConfigChange { name, value: Some(value), operation }] = &self.data[..] else { return Ok(None) };
        if name != LINK_PAUSED || *operation == Some(ConfigOperation::Delete) {
            return Ok(None);
        }
        let paused = value.parse().map_err(|_| BodyError::ConfigValue {
            name: quoted(name),
            value: quoted(value),
            allowed: "true | false",
        })?;
        Ok(Some(paused))
    }

    pub fn changes(self) -> Result<Vec<LinkChange>, BodyError> {
        changes(self.data)
    }
}

impl LinkOrder {
    pub fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(bytes).map_err(|error| BodyError::Json { why: error.to_string() })
    }

    pub fn is_dry_run(&self, query: &Query) -> Result<bool, BodyError> {
        is_dry_run(query, self.validate_only)
    }

    pub fn changes(self) -> Result<Vec<LinkChange>, BodyError> {
        match self.configs.iter().find(|each| each.operation == Some(ConfigOperation::Delete)) {
            Some(change) => Err(BodyError::Operation { name: quoted(&change.name) }),
            None => changes(self.configs),
        }
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

fn changes(said: Vec<ConfigChange>) -> Result<Vec<LinkChange>, BodyError> {
    if !(1..=CONFIGS_MAX).contains(&said.len()) {
        return Err(BodyError::TooManyConfigs { configs: said.len() });
    }
    let each = |change: ConfigChange| {
        let is_set = change.operation.unwrap_or_default() == ConfigOperation::Set;
        match is_set == change.value.is_some() {
            true => Ok(LinkChange { name: change.name, value: change.value }),
            false => Err(BodyError::Operation { name: quoted(&change.name) }),
        }
    };
    said.into_iter().map(each).collect()
}

/// Whether nothing is to be changed: said in the query, in the body, or in both alike.
fn is_dry_run(query: &Query, in_body: Option<bool>) -> Result<bool, BodyError> {
    match (query.validate_only, in_body) {
        (true, Some(false)) => Err(BodyError::Undecided),
        (in_query, in_body) => Ok(in_query || in_body.unwrap_or(false)),
    }
}

impl MirrorOrder {
    pub fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(bytes).map_err(|error| BodyError::Json { why: error.to_string() })
    }

    /// Whether nothing is to be changed: said in the query, in the body, or in both alike.
    pub fn is_dry_run(&self, query: &Query) -> Result<bool, BodyError> {
        is_dry_run(query, self.validate_only)
    }

    /// Refuses fields that belong to another order.
    pub fn allow(&self, allowed: &[&'static str]) -> Result<(), BodyError> {
        let given = [
            ("mirror_topic_name_pattern", self.mirror_topic_name_pattern.is_some()),
            ("source_topic_name", self.source_topic_name.is_some()),
            ("allow_moving_source", self.allow_moving_source.is_some()),
            ("allow_producer_overlap", self.allow_producer_overlap.is_some()),
            ("open_transactions", self.open_transactions.is_some()),
            ("release", self.release.is_some()),
            ("partition_id", self.partition_id.is_some()),
        ];
        match given.into_iter().find(|(field, is_given)| *is_given && !allowed.contains(field)) {
            Some((field, _)) => Err(BodyError::NotHere { field }),
            None => Ok(()),
        }
    }

    /// Topics by name only.
    pub fn names(&self) -> Result<Vec<String>, BodyError> {
        let names: Vec<String> =
            self.mirror_topic_names.iter().chain(&self.source_topic_name).cloned().collect();
        if names.is_empty() {
            return Err(BodyError::NothingNamed);
        }
        if names.len() > TOPICS_MAX {
            return Err(BodyError::TooMany { topics: names.len() });
        }
        let mut seen = BTreeSet::new();
        for name in &names {
            check_topic_name(name).map_err(BodyError::Name)?;
            if !seen.insert(name) {
                return Err(BodyError::Twice { topic: name.clone() });
            }
        }
        Ok(names)
    }

    /// Topics by name or by pattern.
    pub fn selection(&self) -> Result<Selection, BodyError> {
        match &self.mirror_topic_name_pattern {
            Some(_) if !self.mirror_topic_names.is_empty() => Err(BodyError::NamesAndPattern),
            Some(pattern) => TopicPattern::parse(pattern).map(Selection::Pattern).map_err(BodyError::Pattern),
            None => self.names().map(Selection::Names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<MirrorOrder, BodyError> {
        MirrorOrder::parse(text.as_bytes())
    }

    #[test]
    fn a_word_that_is_not_understood_is_refused() {
        let refused = order(r#"{"mirror_topic_names":["a"],"validateonly":true}"#).unwrap_err();
        assert!(refused.to_string().contains("validateonly"), "{refused}");
        assert!(Query::parse(Some("validate_only=yes")).is_err());
        for bad in [
            "page_size=0",
            "page_size=1001",
            "page_size=x",
            "limit=1001",
            "limit=-1",
            "page_token=a/b",
            "page_token=a%2",
            "page_token=%zz",
            "contains=",
            "contains=a b",
        ] {
            assert!(Query::parse(Some(bad)).is_err(), "{bad}");
        }
        let paged = Query::parse(Some("page_size=7&page_token=dr:orders")).unwrap();
        assert_eq!((paged.page_size, paged.page_token.as_deref()), (Some(7), Some("dr:orders")));
        // A group's name, with its escapes.
        assert!(Query::parse(Some("page_token=a%20b")).is_ok());
        assert_eq!(paged.allow(&["page_size"]), Err(BodyError::NotHere { field: "page_token" }));
        assert!(Query::parse(Some("dry=true")).unwrap_err().to_string().contains("\"dry=true\""));
        let failover = order(r#"{"mirror_topic_names":["a"],"open_transactions":"truncate"}"#).unwrap();
        let refused = failover.allow(&["allow_moving_source"]).unwrap_err();
        assert!(refused.to_string().starts_with("open_transactions has no meaning"), "{refused}");
    }

    #[test]
    fn a_dry_run_is_said_in_either_place_and_never_doubtful() {
        let dry = Query::parse(Some("validate_only=true")).unwrap();
        let wet = Query::parse(None).unwrap();
        assert_eq!(order("").unwrap().is_dry_run(&dry), Ok(true));
        assert_eq!(order("{}").unwrap().is_dry_run(&wet), Ok(false));
        let said = order(r#"{"validate_only":true}"#).unwrap();
        assert_eq!(said.is_dry_run(&wet), Ok(true));
        let denied = order(r#"{"validate_only":false}"#).unwrap();
        assert_eq!(denied.is_dry_run(&dry), Err(BodyError::Undecided));
        assert!(Query::parse(Some("validate_only&delete_data=false")).unwrap().validate_only);
    }

    #[test]
    fn topics_are_legal_named_once_and_bounded() {
        let names = |text: &str| order(text).unwrap().names();
        assert_eq!(names("{}"), Err(BodyError::NothingNamed));
        assert_eq!(names(r#"{"source_topic_name":"a"}"#), Ok(vec!["a".to_owned()]));
        assert!(matches!(names(r#"{"mirror_topic_names":["../a"]}"#), Err(BodyError::Name(_))));
        let twice = Err(BodyError::Twice { topic: "a".into() });
        assert_eq!(names(r#"{"mirror_topic_names":["a","a"]}"#), twice);
        let many = MirrorOrder {
            mirror_topic_names: (0..=TOPICS_MAX).map(|index| index.to_string()).collect(),
            ..MirrorOrder::default()
        };
        assert_eq!(many.names(), Err(BodyError::TooMany { topics: TOPICS_MAX + 1 }));
    }

    #[test]
    fn a_pattern_selects_whole_names() {
        let pattern = order(r#"{"mirror_topic_name_pattern":"orders.*"}"#).unwrap().selection().unwrap();
        assert!(pattern.means("orders-eu") && !pattern.means("my-orders"));
        let both = order(r#"{"mirror_topic_names":["a"],"mirror_topic_name_pattern":"b"}"#).unwrap();
        assert!(matches!(both.selection(), Err(BodyError::NamesAndPattern)));
        assert!(order(r#"{"mirror_topic_name_pattern":"("}"#).unwrap().selection().is_err());
    }
}
