//! The command that grants a right, as an operator pastes it.
//!
//! Pure. Who our principal is, a cluster does not say: its name is left open.

use crate::config::{HostPort, LinkSettings};
use std::collections::BTreeSet;
use std::fmt;

/// Topics that one command names; of more, each so many have a command.
const NAMED_MAX: usize = 20;

/// What a right is granted on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Cluster,
    Topics(Vec<String>),
    /// Every topic whose name begins so.
    TopicPrefix(String),
    AllTopics,
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
            Self::AllGroups => write!(f, "--group '*'"),
        }
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

/// All that a link means.
pub(super) fn wanted(link: &LinkSettings) -> BTreeSet<Wanted> {
    let patterns = link.topics.iter().map(|pattern| match pattern.literal() {
        Some(name) => Wanted::Named(name.to_owned()),
        None => Wanted::Prefix(pattern.prefix()),
    });
    let filters = link.topic_filters.included().map(|(name, is_prefix)| match (name, is_prefix) {
        ("*", false) => Wanted::Prefix(String::new()),
        (name, false) => Wanted::Named(name.to_owned()),
        (prefix, true) => Wanted::Prefix(prefix.to_owned()),
    });
    patterns.chain(filters).collect()
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
