//! What our principal may do at the destination, and the exact command for what it may not.
//!
//! Pure. Who the principal is, the cluster does not say: the commands leave its name open.

use super::CLUSTER_AUTHORIZATION_FAILED;
use super::judge::shown;
use crate::config::HostPort;
use crate::control::check::acl_command::{Resource, Wanted, acl_command, resources};
use crate::control::check::line::Line;
use std::collections::{BTreeMap, BTreeSet};
use twinlog_sync::fault::code::TOPIC_AUTHORIZATION_FAILED;

/// Kafka's numbers of operations, which are bits of the answer. ref: org.apache.kafka.common.acl.AclOperation
const ALTER: u32 = 7;
const DESCRIBE: u32 = 8;
const CLUSTER_ACTION: u32 = 9;
const IDEMPOTENT_WRITE: u32 = 12;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const TOPIC_ALREADY_EXISTS: i16 = 36;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control::check) enum Authorizer {
    Absent,
    Present,
}

/// Error codes of what was asked about one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TopicCodes {
    pub create: i16,
    pub create_message: Option<String>,
    /// What the destination would give it.
    pub default_factor: Option<i16>,
    pub alter_configs: i16,
    pub alter: i16,
    pub describe_configs: i16,
    pub read: i16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RightsFacts {
    pub authorizer: Authorizer,
    /// Bits of what is allowed on the cluster; none at all without DESCRIBE on it.
    pub operations: i32,
    /// Each controller's code of a fetch of the metadata log.
    pub fetches: Vec<i16>,
    pub topics: BTreeMap<String, TopicCodes>,
    /// Code of a position that is taken from nobody, for each kind of group that the link writes.
    pub groups: BTreeMap<Wanted, i16>,
}

impl RightsFacts {
    pub fn default_factor(&self) -> Option<i16> {
        self.topics.values().find_map(|topic| topic.default_factor)
    }

    fn may(&self, operation: u32) -> bool {
        self.operations > 0 && self.operations & (1 << operation) != 0
    }
}

/// A line for each right. `wanted`: what the link means.
pub(super) fn rights_lines(facts: &RightsFacts, server: &HostPort, wanted: &BTreeSet<Wanted>) -> Vec<Line> {
    let mut lines = Vec::new();
    if facts.authorizer == Authorizer::Absent {
        lines.push(Line::ok("rights", "no authorizer is configured: everybody may do everything"));
    } else {
        lines.extend(cluster_lines(facts, server));
        lines.extend(topic_lines(facts, server, wanted));
        lines.extend(groups_lines(facts, server));
    }
    lines.extend(creation_lines(facts));
    lines
}

fn cluster_lines(facts: &RightsFacts, server: &HostPort) -> Vec<Line> {
    // The fetch is the right itself at work; one controller that refuses is enough.
    let observes = match facts.fetches.as_slice() {
        [] => facts.may(CLUSTER_ACTION),
        codes => !codes.contains(&CLUSTER_AUTHORIZATION_FAILED),
    };
    let rights = [
        ("CLUSTER_ACTION", "ClusterAction", observes, "to join, to read the metadata log and to lead"),
        ("ALTER", "Alter", facts.may(ALTER), "to find the controllers and to hand topics over"),
        (
            "IDEMPOTENT_WRITE",
            "IdempotentWrite",
            facts.may(IDEMPOTENT_WRITE),
            "to keep the destination's producer ids apart from mirrored ones",
        ),
    ];
    let line = |(name, operation, held, why): (&str, &str, bool, &str)| {
        if held {
            return Line::ok("rights", format!("{name} on the cluster"));
        }
        let command = acl_command(server, operation, &Resource::Cluster);
        Line::fail("rights", format!("{name} on the cluster is missing, {why}"), command)
    };
    rights.into_iter().map(line).collect()
}

fn topic_lines(facts: &RightsFacts, server: &HostPort, wanted: &BTreeSet<Wanted>) -> Vec<Line> {
    if facts.topics.is_empty() {
        let text = "no topic to mirror is known yet: what is allowed on topics was not asked";
        return vec![Line::warn("rights", text, "check again when the source has one")];
    }
    type Code = fn(&TopicCodes) -> i16;
    let rights: [(&str, &str, Code, &str); 5] = [
        ("CREATE", "Create", |topic| topic.create, "to create mirror topics"),
        (
            "ALTER_CONFIGS",
            "AlterConfigs",
            |topic| topic.alter_configs,
            "to guard them, and to lift the guards",
        ),
        ("ALTER", "Alter", |topic| topic.alter, "to add partitions where the source does"),
        ("DESCRIBE_CONFIGS", "DescribeConfigs", |topic| topic.describe_configs, "to learn their replicas"),
        ("READ", "Read", |topic| topic.read, "to prove their ends, and to abort what is open at a failover"),
    ];
    let line = |(name, operation, code, why): (&str, &str, Code, &str)| {
        let refused = facts.topics.iter().filter(|(_, topic)| code(topic) == TOPIC_AUTHORIZATION_FAILED);
        let missing: Vec<&String> = refused.map(|(name, _)| name).collect();
        if missing.is_empty() {
            return vec![Line::ok("rights", format!("{name} on topics"))];
        }
        let shown = shown(&missing);
        let line = |resource: &Resource| {
            let command = acl_command(server, operation, resource);
            Line::fail("rights", format!("{name} on topics {shown} is missing, {why}"), command)
        };
        resources(wanted, &missing).iter().map(line).collect()
    };
    rights.into_iter().flat_map(line).collect()
}

/// Topics are mirrored and handed over without them: what is missing is a warning.
fn groups_lines(facts: &RightsFacts, server: &HostPort) -> Vec<Line> {
    if facts.groups.is_empty() {
        return Vec::new();
    }
    let refused = facts.groups.iter().filter(|(_, code)| **code == GROUP_AUTHORIZATION_FAILED);
    let refused: Vec<&Wanted> = refused.map(|(wanted, _)| wanted).collect();
    let mut lines = Vec::new();
    for wanted in &refused {
        let command = acl_command(server, "Read", &wanted.groups());
        let text =
            format!("READ on {wanted} is missing, to write their offsets; topics are mirrored without it");
        lines.push(Line::warn("rights", text, command));
    }
    if refused.is_empty() {
        lines.push(Line::ok("rights", "READ on groups"));
    }
    lines.push(match facts.may(DESCRIBE) {
        true => Line::ok("rights", "DESCRIBE on the cluster"),
        false => {
            let text = "DESCRIBE on the cluster is missing, to see which groups have members";
            Line::warn("rights", text, acl_command(server, "Describe", &Resource::Cluster))
        }
    });
    lines
}

/// What the cluster says to a creation that it only validates, rights aside.
fn creation_lines(facts: &RightsFacts) -> Option<Line> {
    let mut refused = facts
        .topics
        .iter()
        .filter(|(_, topic)| !matches!(topic.create, 0 | TOPIC_ALREADY_EXISTS | TOPIC_AUTHORIZATION_FAILED));
    let count = refused.clone().count();
    let (name, topic) = refused.next()?;
    let why = topic.create_message.as_deref().unwrap_or("without a reason");
    let text = format!(
        "the destination would refuse {count} topics, the first is {name}: {why} (error code {})",
        topic.create
    );
    Some(Line::fail("topics", text, "lift what its reason names, at the destination or in the link's keys"))
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod tests;
