//! The operators' way in: HTTP over a unix socket and over TLS, and what may be asked there.
//!
//! ```text
//!   twinlog mirror ... --> client --+  <data.dir>/.twinlog/admin.sock (0600): always an operator
//!   scripts, browsers --> listener -+  TLS, peers (limits), guard (hosts, other sites), access (tokens, roles)
//!                                   v
//!   server (bounded) --> route --> AdminRequest --> bounded queue --> supervisor
//!        ^---------------- answer, or AdminError <-- oneshot <-----------'
//!        '--> audit: a line of the log and a row of the state for each change
//! ```
//! Owns paths, bodies, codes and limits. It decides nothing: each request goes to whoever reads the queue,
//! and its answer is sent as it is. Paths and names are those of Kafka's REST v3 and of Cluster Linking;
//! `/twinlog/v1/...` and `guest:leave` are our own.
//!
//! Invariants: one connection is one request; a body, an answer's wait and the number of connections are
//! bounded; a full queue is told at once instead of waited for.

pub mod access;
pub mod answer;
mod audit;
pub mod body;
mod carrying;
pub mod client;
mod door;
mod error;
mod group_list;
mod group_name;
pub mod guard;
mod listener;
#[cfg(test)]
mod listener_tests;
pub mod metrics;
mod openapi;
#[cfg(test)]
mod openapi_tests;
pub mod page;
mod peers;
pub mod remote;
mod response;
pub mod role;
mod route;
mod server;
mod socket;
#[cfg(test)]
pub(crate) mod test_backend;
#[cfg(test)]
mod tests;
pub mod tokens;
mod web;

pub use error::{AdminError, ErrorCode};
pub use group_name::escaped as escaped_group;
pub use listener::{AdminListener, ListenError, serve_listener};
pub use peers::Peers;
pub use server::{Backend, Readiness, serve};
pub use socket::{AdminSocket, SocketError, socket_path};

use crate::config::TopicPattern;
use crate::control::instruction::Release;
use answer::{
    ClusterView, GroupView, GuestLeaveView, LinkChangeView, LinkConfigView, LinkView, MirrorActionView,
    MirrorTopicView, StatusView,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Requests that wait for the supervisor. It answers within milliseconds; more would only be told later
/// that it does not.
pub const REQUESTS_MAX: usize = 64;

/// Where the answer goes; nobody may be waiting any more.
pub type Reply<T> = oneshot::Sender<Result<T, AdminError>>;

/// What an operator lets pass at a promote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What the source gets after its end was captured.
    pub moving_source: bool,
    /// Producers of the destination that have the id of a mirrored one.
    pub producer_overlap: bool,
}

impl Allowed {
    /// As without a source.
    pub const ALL: Self = Self { moving_source: true, producer_overlap: true };
}

/// One link of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// `None`: whichever destination cluster this daemon serves (`-` in the path).
    pub cluster: Option<String>,
    pub link: String,
}

/// Which mirror topics are meant.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Exactly these; one that does not exist is an error of its own in the answer.
    Names(Vec<String>),
    /// Every mirror topic of the link that matches.
    Pattern(TopicPattern),
}

impl Selection {
    /// Whether a mirror topic is meant.
    pub fn means(&self, topic: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| name == topic),
            Self::Pattern(pattern) => pattern.matches(topic, false),
        }
    }
}

/// How an operator lets stopped partitions go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseOrder {
    pub release: Release,
    /// `None`: every stopped partition of the topics.
    pub partition: Option<i32>,
}

/// What a failover does with transactions that are open where the copy ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OpenTransactions {
    /// Abort markers are written after the hand-over.
    #[default]
    Abort,
    /// The copy is cut where the first of them begins.
    Truncate,
}

/// One question or order, with the way back. `validate_only` finds out everything and changes nothing.
#[derive(Debug)]
pub enum AdminRequest {
    ListClusters {
        reply: Reply<Vec<ClusterView>>,
    },
    ListLinks {
        cluster: Option<String>,
        reply: Reply<Vec<LinkView>>,
    },
    DescribeLink {
        at: LinkAddress,
        reply: Reply<LinkView>,
    },
    ListMirrors {
        cluster: Option<String>,
        /// `None`: of all links.
        link: Option<String>,
        reply: Reply<Vec<MirrorTopicView>>,
    },
    DescribeMirror {
        at: LinkAddress,
        topic: String,
        reply: Reply<MirrorTopicView>,
    },
    ListGroups {
        at: LinkAddress,
        reply: Reply<Vec<GroupView>>,
    },
    DescribeGroup {
        at: LinkAddress,
        group: String,
        reply: Reply<GroupView>,
    },
    CreateMirrors {
        at: LinkAddress,
        names: Vec<String>,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    },
    /// Answered when the hand-overs are kept as requested; their progress is in each topic's view.
    Promote {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
        allowed: Allowed,
        reply: Reply<Vec<MirrorActionView>>,
    },
    /// The same.
    Failover {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
        open_transactions: OpenTransactions,
        reply: Reply<Vec<MirrorActionView>>,
    },
    PauseMirrors {
        at: LinkAddress,
        selection: Selection,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    },
    ResumeMirrors {
        at: LinkAddress,
        selection: Selection,
        /// `None`: what was paused. Otherwise: what is stopped, in this way.
        release: Option<ReleaseOrder>,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    },
    PauseLink {
        at: LinkAddress,
        /// False: it goes on.
        paused: bool,
        validate_only: bool,
        reply: Reply<LinkView>,
    },
    DeleteMirrors {
        at: LinkAddress,
        names: Vec<String>,
        delete_data: bool,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    },
    /// Moves everything off the guest brokers and unregisters them; refused while mirrors remain.
    GuestLeave {
        at: LinkAddress,
        validate_only: bool,
        reply: Reply<GuestLeaveView>,
    },
    Status {
        reply: Reply<StatusView>,
    },
    /// Everything that `/metrics` shows.
    Metrics {
        reply: Reply<metrics::Samples>,
    },
    CreateLink {
        cluster: Option<String>,
        link: String,
        /// Names and values; all of them are set.
        changes: Vec<LinkChange>,
        validate_only: bool,
        reply: Reply<LinkChangeView>,
    },
    AlterLink {
        at: LinkAddress,
        changes: Vec<LinkChange>,
        validate_only: bool,
        reply: Reply<LinkChangeView>,
    },
    DeleteLink {
        at: LinkAddress,
        /// Also while it has mirror topics.
        force: bool,
        validate_only: bool,
        reply: Reply<LinkChangeView>,
    },
    LinkConfigs {
        at: LinkAddress,
        reply: Reply<Vec<LinkConfigView>>,
    },
}

/// One configuration of a link that is to change. `None`: what the file says counts again, or the default. What it
/// holds may be a secret that somebody sent by mistake: it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkChange {
    pub name: String,
    pub value: Option<String>,
}

impl std::fmt::Debug for LinkChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.name, if self.value.is_some() { " set" } else { " taken back" })
    }
}
