//! The command that grants a right, as an operator pastes it.
//!
//! Pure. Who our principal is, a cluster does not say: its name is left open.

use crate::config::{HostPort, LinkSettings, TopicFilters};
use std::collections::BTreeSet;
use std::fmt;

/// Topics that one command names; of more, each so many have a command.
const NAMED_MAX: usize = 20;
/// Behind a prefix, a group that nobody has.
const NO_GROUP: &str = "twinlog-check.no-such-group";

/// What a right is granted on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Cluster,
    Topics(Vec<String>),
    /// Every topic whose name begins so.
    TopicPrefix(String),
    AllTopics,
    Group(String),
    GroupPrefix(String),
    AllGroups,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => write!(f, "--cluster"),
            Self::Topics(names) => {
                let each: Vec<String> = names.iter().map(|name| format!("--topic {name}")).collect();
                write!(f, "{}", each.join(" "))
            }
            Self::TopicPrefix(prefix) => write!(f, "--topic {prefix} --resource-pattern-type prefixed"),
            Self::AllTopics => write!(f, "--topic '*'"),
            Self::Group(name) => write!(f, "--group {}", quoted(name)),
            Self::GroupPrefix(prefix) => {
                write!(f, "--group {} --resource-pattern-type prefixed", quoted(prefix))
            }
            Self::AllGroups => write!(f, "--group '*'"),
        }
    }
}

/// A group's name may be any text: as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
    match !name.is_empty() && name.bytes().all(plain) {
        true => name.to_owned(),
        false => format!("'{}'", name.replace('\'', "'\\''")),
    }
}

/// The whole command, for one listener of the cluster.
pub(super) fn acl_command(server: &HostPort, operation: &str, resource: &Resource) -> String {
    format!(
        "kafka-acls.sh --bootstrap-server {server} --add --allow-principal User:... --operation {operation} \
         {resource}"
    )
}

/// What a link means by one of its patterns or filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Named(String),
    /// All whose names begin so; all there are where it is empty.
    Prefix(String),
}

impl Wanted {
    fn covers(&self, topic: &str) -> bool {
        match self {
            Self::Named(name) => name == topic,
            Self::Prefix(prefix) => topic.starts_with(prefix.as_str()),
        }
    }

    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Named(name) => Resource::Topics(vec![name.clone()]),
            Self::Prefix(prefix) if prefix.is_empty() => Resource::AllTopics,
            Self::Prefix(prefix) => Resource::TopicPrefix(prefix.clone()),
        }
    }
}

/// As groups: what the command lines and sentences of a check name.
impl Wanted {
    pub(super) fn groups(&self) -> Resource {
        match self {
            Self::Named(name) => Resource::Group(name.clone()),
            Self::Prefix(prefix) if prefix.is_empty() => Resource::AllGroups,
            Self::Prefix(prefix) => Resource::GroupPrefix(prefix.clone()),
        }
    }

    /// A group of it that nobody has; a named one itself.
    pub(super) fn group_asked(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Prefix(prefix) => format!("{prefix}{NO_GROUP}"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "group {name}"),
            Self::Prefix(prefix) if prefix.is_empty() => write!(f, "groups"),
            Self::Prefix(prefix) => write!(f, "groups whose names begin with {prefix}"),
        }
    }
}

/// Groups that a link means, by their names behind `prefix`; none where their positions are not copied.
pub(super) fn wanted_groups(link: &LinkSettings, prefix: &str) -> BTreeSet<Wanted> {
    if !link.groups.enabled {
        return BTreeSet::new();
    }
    let mut wanted: BTreeSet<Wanted> = included(&link.groups.filters).collect();
    if link.groups.filters.is_empty() {
        wanted.insert(Wanted::Prefix(String::new()));
    }
    let behind = |each| match each {
        Wanted::Named(name) => Wanted::Named(format!("{prefix}{name}")),
        Wanted::Prefix(rest) => Wanted::Prefix(format!("{prefix}{rest}")),
    };
    wanted.into_iter().map(behind).take(NAMED_MAX).collect()
}

fn included(filters: &TopicFilters) -> impl Iterator<Item = Wanted> {
    filters.included().map(|(name, is_prefix)| match (name, is_prefix) {
        ("*", false) => Wanted::Prefix(String::new()),
        (name, false) => Wanted::Named(name.to_owned()),
        (prefix, true) => Wanted::Prefix(prefix.to_owned()),
    })
}

/// All that a link means.
pub(super) fn wanted(link: &LinkSettings) -> BTreeSet<Wanted> {
    let patterns = link.topics.iter().map(|pattern| match pattern.literal() {
        Some(name) => Wanted::Named(name.to_owned()),
        None => Wanted::Prefix(pattern.prefix()),
    });
    patterns.chain(included(&link.topic_filters)).collect()
}

/// The fewest resources that cover these topics, and what else the link's patterns mean.
pub(super) fn resources(wanted: &BTreeSet<Wanted>, missing: &[&String]) -> BTreeSet<Resource> {
    let mut resources = BTreeSet::new();
    let mut named = Vec::new();
    for topic in missing {
        let by_prefix = wanted.iter().filter(|each| matches!(each, Wanted::Prefix(_)));
        match by_prefix.filter(|each| each.covers(topic)).min() {
            Some(prefix) => drop(resources.insert(prefix.resource())),
            None => named.push((*topic).clone()),
        }
    }
    resources.extend(named.chunks(NAMED_MAX).map(|names| Resource::Topics(names.to_vec())));
    resources
}
