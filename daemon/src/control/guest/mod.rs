//! Our place in a stock cluster: its metadata, our guest broker ids in it, its active controller.
//!
//! Owns the life of all guest ids of one link. What it tells: what the cluster is (the image), where each
//! id stands, and when to serve. What it must never do: touch a record or a file of a mirror.
//!
//! ```text
//!   control core, tokio:   metadata_task --Fetch--> controllers       image (shared), version (watch)
//!                               \--announces--> controllers.rs <--asks-- controller_client  (for everyone)
//!   a thread of its own:   membership_thread --heartbeats--> controllers    states (watch), events
//! ```
//! [`GuestMember::join`] starts both; dropping the handle stops them *without* unregistering: a restart
//! within the session costs nothing, and [`GuestMember::leave`] is how an id goes for good.

mod controller_client;
mod controllers;
pub mod destination_view;
pub mod hand_over;
mod membership_thread;
mod metadata_task;
pub mod producer_ids;
pub mod producer_overlap;
pub mod take_over;
#[cfg(test)]
mod tests;
pub mod topic_requests;
mod wire_form;

pub use controller_client::{ControllerAnswer, ControllerClient, ControllerError};
pub use controllers::Controllers;
pub use membership_thread::{GuestEvent, GuestState, HeartbeatFigures};
pub use metadata_task::{ImageState, SharedImage, follow, try_fetch};
pub use wire_form::{random_uuid, wire_id, wire_text};

use super::source_client::ConnectionOptions;
use crate::config::HostPort;
use crate::security::{ClientSecurity, SecurityProtocol};
use membership_thread::{Command, MemberOptions, MembershipThread};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::metadata::record::Uuid;

/// What is between two heartbeats while all is well: a ninth of Kafka's default session.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// From this metadata.version on a broker can be cordoned: a cluster places nothing on it. ref: KIP-1066
pub const CORDON_METADATA_VERSION: i16 = 30;
/// Kafka's default of `broker.session.timeout.ms`; the controller does not tell what it really is.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(9);

/// Which cluster, and as whom.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    pub bootstrap_controllers: Vec<HostPort>,
    /// The listener on which the cluster's brokers reach each other.
    pub listener_name: String,
    /// What followers speak with us there.
    pub listener_protocol: SecurityProtocol,
    /// Each id and where followers reach it. The first one is also the observer of the metadata log.
    pub ids: Vec<(i32, HostPort)>,
    pub client_id: String,
    pub request_timeout: Duration,
    /// Of connections to the controllers.
    pub security: ClientSecurity,
    /// Incarnations that an earlier process persisted, by id.
    pub incarnations: BTreeMap<i32, Uuid>,
    pub heartbeat_interval: Duration,
    /// For the slack figure only.
    pub session_timeout: Duration,
    /// Register even where a cluster cannot be told to place nothing on us.
    pub without_cordon: bool,
}

impl GuestOptions {
    pub fn new(bootstrap_controllers: Vec<HostPort>, listener_name: &str, ids: Vec<(i32, HostPort)>) -> Self {
        Self {
            bootstrap_controllers,
            listener_name: listener_name.to_owned(),
            listener_protocol: SecurityProtocol::Plaintext,
            ids,
            client_id: "twinlog-guest".to_owned(),
            request_timeout: Duration::from_secs(30),
            security: ClientSecurity::plaintext(),
            incarnations: BTreeMap::new(),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            session_timeout: SESSION_TIMEOUT,
            without_cordon: false,
        }
    }
}

/// Why a command to an id or the start of all did not go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestError {
    NoControllers,
    NoIds,
    UnknownId {
        id: i32,
    },
    /// As many commands wait for this id as fit.
    Busy {
        id: i32,
    },
    /// The thread of the heartbeats cannot be started.
    Thread {
        error: std::io::ErrorKind,
    },
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoControllers => {
                write!(f, "no controller is named: bootstrap.controllers needs at least one")
            }
            Self::NoIds => write!(f, "no guest broker id is named: guest.broker.ids needs at least one"),
            Self::UnknownId { id } => write!(f, "broker id {id} is none of this link's guest ids"),
            Self::Busy { id } => write!(f, "guest broker {id} has not carried out its earlier commands yet"),
            Self::Thread { error } => write!(f, "the thread of the heartbeats cannot be started: {error}"),
        }
    }
}

impl std::error::Error for GuestError {}

/// The handle of a joined link. See the file's header.
pub struct GuestMember {
    image: Arc<SharedImage>,
    controllers: Arc<Controllers>,
    connection: ConnectionOptions,
    metadata: tokio::task::JoinHandle<()>,
    membership: MembershipThread,
}

impl GuestMember {
    /// Starts following the metadata log on `runtime` and the heartbeats on a thread of their own. Call it
    /// before the calling thread lowers its priority: the heartbeats' thread inherits it.
    pub fn join(options: GuestOptions, runtime: &tokio::runtime::Handle) -> Result<Self, GuestError> {
        if options.bootstrap_controllers.is_empty() {
            return Err(GuestError::NoControllers);
        }
        let observer = options.ids.first().ok_or(GuestError::NoIds)?.0;
        let controllers = Controllers::new(options.bootstrap_controllers.clone());
        let image = Arc::new(SharedImage::default());
        let connection = ConnectionOptions {
            client_id: options.client_id.clone(),
            request_timeout: options.request_timeout,
            security: options.security.clone(),
        };
        let membership = MembershipThread::spawn(MemberOptions {
            listener_name: options.listener_name,
            listener_protocol: options.listener_protocol,
            ids: options.ids,
            incarnations: options.incarnations,
            heartbeat_interval: options.heartbeat_interval,
            session_timeout: options.session_timeout,
            without_cordon: options.without_cordon,
            connection: connection.clone(),
            controllers: controllers.clone(),
            image: image.clone(),
        })?;
        let follow = metadata_task::follow(controllers.clone(), connection.clone(), observer, image.clone());
        let metadata = runtime.spawn(follow);
        Ok(Self { image, controllers, connection, metadata, membership })
    }

    /// The cluster as it is now. Hold it for as short as possible: records wait for it.
    pub fn image(&self) -> RwLockReadGuard<'_, ClusterImage> {
        self.image.read()
    }

    /// The image for those who outlive a borrow of this handle.
    pub fn shared_image(&self) -> Arc<SharedImage> {
        self.image.clone()
    }

    /// Says when the image has moved; [`ClusterImage::changes_since`] says what.
    pub fn image_moves(&self) -> watch::Receiver<ImageState> {
        self.image.moves()
    }

    /// Where an id stands. `None` for an id that is not ours.
    pub fn state(&self, id: i32) -> Option<GuestState> {
        self.membership.states().borrow().get(&id).copied()
    }

    /// All ids' states, and when one changes. The truth, where [`GuestMember::events`] may have been missed.
    pub fn states(&self) -> watch::Receiver<BTreeMap<i32, GuestState>> {
        self.membership.states()
    }

    /// What happens from now on. A receiver that lags loses the oldest and looks at the states.
    pub fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.membership.events()
    }

    /// How close the heartbeats of an id came to the end of its session.
    pub fn heartbeat_figures(&self, id: i32) -> Option<Arc<HeartbeatFigures>> {
        self.membership.figures(id)
    }

    /// Raises the leader epoch of every partition that the id leads: fenced, then unfenced, about 0.1 s.
    pub fn bump(&self, id: i32) -> Result<(), GuestError> {
        self.membership.command(id, Command::Bump)
    }

    /// Unregisters the id. Whoever calls this has made sure that it leads nothing.
    pub fn leave(&self, id: i32) -> Result<(), GuestError> {
        self.membership.command(id, Command::Leave)
    }

    /// What [`ControllerClient::new`] takes, for those who need many of them.
    pub fn ways_to_controllers(&self) -> (Arc<Controllers>, ConnectionOptions) {
        (self.controllers.clone(), self.connection.clone())
    }

    /// A client of the active controller, with a connection of its own.
    pub fn controller(&self) -> ControllerClient {
        ControllerClient::new(self.controllers.clone(), self.connection.clone())
    }
}

impl Drop for GuestMember {
    fn drop(&mut self) {
        self.metadata.abort();
    }
}
