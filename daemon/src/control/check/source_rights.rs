//! What our principal may do at the source, and the exact command for what it may not.
//!
//! Pure. A cluster does not tell of a topic that we may not describe: one that a link names is refused by its
//! name, one that a pattern would match is simply absent. A name that no topic has stands for each pattern: who
//! is told that it does not exist would have been told of a topic there.

use super::acl_command::{Resource, Wanted, acl_command, resources};
use super::line::Line;
use crate::config::HostPort;
use crate::control::check::destination::{Authorizer, shown};
use std::collections::{BTreeMap, BTreeSet};
use twinlog_sync::fault::code::TOPIC_AUTHORIZATION_FAILED;

/// Kafka's numbers of operations, which are bits of the answer. ref: org.apache.kafka.common.acl.AclOperation
const READ: u32 = 3;
const DESCRIBE: u32 = 8;
const DESCRIBE_CONFIGS: u32 = 10;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;

/// What the source says of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicRights {
    pub code: i16,
    /// Bits of what is allowed on it; `None` where the source is too old to tell.
    pub operations: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFacts {
    pub authorizer: Authorizer,
    pub wanted: BTreeSet<Wanted>,
    pub topics: BTreeMap<String, TopicRights>,
    /// The answer's code for a name that no topic has, by the prefix that it begins with.
    pub prefixes: BTreeMap<String, i16>,
    /// Code of a request for a producer id that gets none; `None` where none is needed, or it cannot be asked.
    pub producer_ids: Option<i16>,
    /// Code of a look at a group that nobody has, for each that the link means; none where it cannot be asked.
    pub groups: BTreeMap<Wanted, i16>,
    /// Bits of what is allowed on the cluster, none without DESCRIBE on it; `None` where it cannot be asked.
    pub cluster: Option<i32>,
    /// Configs are copied: the link is in guest mode.
    pub needs_configs: bool,
}

impl SourceFacts {
    /// Topics on which an operation is refused.
    fn lacking(&self, operation: u32) -> Vec<&String> {
        let lacks = |rights: &TopicRights| match (rights.code, rights.operations) {
            (TOPIC_AUTHORIZATION_FAILED, _) => true,
            // None of the bits: it is not told.
            (0, Some(bits)) if bits > 0 => bits & (1 << operation) == 0,
            _ => false,
        };
        self.topics.iter().filter(|(_, rights)| lacks(rights)).map(|(name, _)| name).collect()
    }
}

/// A line for each right.
pub(super) fn source_rights_lines(facts: &SourceFacts, server: &HostPort) -> Vec<Line> {
    if facts.authorizer == Authorizer::Absent {
        let text = "no authorizer is configured at the source: everybody may do everything";
        return vec![Line::ok("source rights", text)];
    }
    let mut rights = vec![
        ("DESCRIBE", "Describe", DESCRIBE, "to find them"),
        ("READ", "Read", READ, "to fetch them, and to see their producers"),
    ];
    if facts.needs_configs {
        let why = "to give mirror topics the same configs";
        rights.push(("DESCRIBE_CONFIGS", "DescribeConfigs", DESCRIBE_CONFIGS, why));
    }
    let mut lines = Vec::new();
    for (name, operation, bit, why) in rights {
        lines.extend(topic_lines(facts, server, (name, operation, bit), why));
    }
    lines.extend(facts.prefixes.iter().map(|(prefix, code)| pattern_line(prefix, *code, server)));
    lines.extend(facts.producer_ids.map(|code| producer_ids_line(code, server)));
    lines.extend(groups_lines(facts, server));
    lines
}

fn topic_lines(
    facts: &SourceFacts,
    server: &HostPort,
    (name, operation, bit): (&str, &str, u32),
    why: &str,
) -> Vec<Line> {
    let missing = facts.lacking(bit);
    if missing.is_empty() {
        let untold = facts.topics.values().any(|rights| rights.code == 0 && rights.operations.is_none());
        return vec![match (facts.topics.is_empty(), untold && bit != DESCRIBE) {
            (true, _) => Line::warn(
                "source rights",
                format!("{name} on topics was not asked: none is visible yet"),
                "check again when the source has one",
            ),
            (false, true) => {
                let text = format!("{name} on topics: the source is too old to tell (Metadata below v8)");
                Line::warn("source rights", text, "look at its authorizer's rules by hand")
            }
            (false, false) => Line::ok("source rights", format!("{name} on topics")),
        }];
    }
    let shown = shown(&missing);
    let resources = resources(&facts.wanted, &missing);
    let line = |resource: &Resource| {
        let command = acl_command(server, operation, resource);
        Line::fail("source rights", format!("{name} on topics {shown} is missing, {why}"), command)
    };
    resources.iter().map(line).collect()
}

/// Whether a topic that matches and is not among those that were told would have been told.
fn pattern_line(prefix: &str, code: i16, server: &HostPort) -> Line {
    let what =
        if prefix.is_empty() { "any name".to_owned() } else { format!("names that begin with {prefix}") };
    if code != TOPIC_AUTHORIZATION_FAILED {
        return Line::ok("source rights", format!("topics of {what} are all visible"));
    }
    let command = acl_command(server, "Read", &Wanted::Prefix(prefix.to_owned()).resource());
    let text = format!(
        "topics of {what}: only those that are granted one by one are visible, and others that the link's patterns \
         match are silently not mirrored"
    );
    Line::warn("source rights", text, format!("to see them all: {command}"))
}

fn producer_ids_line(code: i16, server: &HostPort) -> Line {
    if code != CLUSTER_AUTHORIZATION_FAILED {
        return Line::ok("source rights", "IDEMPOTENT_WRITE on the cluster");
    }
    let command = acl_command(server, "IdempotentWrite", &Resource::Cluster);
    let why = "to learn how far the source's producer ids are";
    Line::fail("source rights", format!("IDEMPOTENT_WRITE on the cluster is missing, {why}"), command)
}

/// Groups are a part that topics do without: what is missing for them is a warning.
fn groups_lines(facts: &SourceFacts, server: &HostPort) -> Vec<Line> {
    let refused = facts.groups.iter().filter(|(_, code)| **code == GROUP_AUTHORIZATION_FAILED);
    let refused: Vec<&Wanted> = refused.map(|(wanted, _)| wanted).collect();
    let mut lines: Vec<Line> = refused
        .iter()
        .map(|wanted| {
            let command = acl_command(server, "Describe", &wanted.groups());
            let text = format!(
                "DESCRIBE on {wanted} is missing; topics are mirrored without it, the groups' offsets cannot be read"
            );
            Line::warn("source rights", text, command)
        })
        .collect();
    if refused.is_empty() && !facts.groups.is_empty() {
        lines.push(Line::ok("source rights", "DESCRIBE on groups"));
    }
    lines.extend(facts.cluster.filter(|_| !facts.groups.is_empty()).map(|bits| listing_line(bits, server)));
    lines
}

/// Who may not describe the cluster is told those groups that it may describe, and not that there are more.
fn listing_line(bits: i32, server: &HostPort) -> Line {
    if bits > 0 && bits & (1 << DESCRIBE) != 0 {
        return Line::ok("source rights", "DESCRIBE on the cluster");
    }
    let command = acl_command(server, "Describe", &Resource::Cluster);
    let text =
        "DESCRIBE on the cluster is missing; of its groups only those are listed that are granted by name";
    Line::warn("source rights", text, command)
}

#[cfg(test)]
#[path = "source_rights_tests.rs"]
mod tests;
