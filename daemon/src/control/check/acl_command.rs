//! The command that grants a right, as an operator pastes it.
//!
//! Pure. Who our principal is, a cluster does not say: its name is left open.

use crate::config::HostPort;
use std::fmt;

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
