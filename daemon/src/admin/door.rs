//! The ways in: the unix socket, whose owner is an operator, and listeners, who ask for more.
//!
//! Everything here is decided from the head of a request, before a byte of its body is read. Health is told to
//! everybody who asks for it by a name of ours, and so are the files of the page: they hold no secret.

use super::access::{Access, Login};
use super::guard::{Scheme, check_change, check_host};
use super::peers::{Peer, Peers};
use super::role::Role;
use super::web::WebFile;
use super::{AdminError, ErrorCode};
use hyper::Method;
use hyper::http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// What is told without a login: that the daemon is there, and whether it takes orders.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];
const STRANGER: &str = "nobody";

/// How one connection came in.
pub(super) enum Door {
    /// Only the daemon's own user and the superuser can open it.
    Socket {
        user_id: Option<u32>,
    },
    Listener(ListenerDoor),
}

pub(super) struct ListenerDoor {
    pub access: Arc<Access>,
    pub peers: Peers,
    pub scheme: Scheme,
    /// The address that the connection came to.
    pub local: IpAddr,
    pub peer: IpAddr,
    /// The client's own, which the handshake has judged.
    pub certificate: Option<Vec<u8>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub who: String,
    pub peer: String,
    /// `None`: nobody that is known.
    pub role: Option<Role>,
    /// Whether what he orders is written down. Always, but for floods of strangers.
    pub is_audited: bool,
}

/// Whether a request may change something.
pub(super) fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

impl Door {
    /// Who asks, and whether he may go on.
    pub(super) fn admit(&self, head: &Parts) -> (Caller, Result<(), AdminError>) {
        match self {
            Self::Socket { user_id } => {
                let who =
                    user_id.map_or_else(|| "uid unknown".to_owned(), |user_id| format!("uid {user_id}"));
                let role = Some(Role::Operator);
                (Caller { who, peer: "socket".to_owned(), role, is_audited: true }, Ok(()))
            }
            Self::Listener(door) => door.admit(head),
        }
    }
}

impl ListenerDoor {
    fn admit(&self, head: &Parts) -> (Caller, Result<(), AdminError>) {
        let peer = self.peer.to_canonical().to_string();
        let mut caller = Caller { who: STRANGER.to_owned(), peer, role: None, is_audited: true };
        let admitted = self.judge(head, &mut caller);
        // Strangers who come in thousands do not push out what operators did.
        if caller.role.is_none() && admitted.is_err() && is_change(&head.method) {
            let is_held_back = matches!(&admitted, Err(error) if error.code == ErrorCode::HeldBack);
            caller.is_audited = !is_held_back && self.peers.may_strangers_have_a_row(Instant::now());
        }
        (caller, admitted)
    }

    fn judge(&self, head: &Parts, caller: &mut Caller) -> Result<(), AdminError> {
        check_host(head, &self.access.hosts(), self.local)?;
        let path = head.uri.path();
        if head.method == Method::GET && (OPEN_PATHS.contains(&path) || WebFile::at(path).is_some()) {
            return Ok(());
        }
        let certificate = self.certificate.as_deref();
        let role = match self.access.login(head, self.scheme, certificate) {
            Login::Known { who, role } => {
                self.peers.succeeded(Peer::of(self.peer));
                caller.who = who;
                role
            }
            Login::Unlisted { who } => {
                let why = format!("{who} has no role; add it to admin.ssl.principals");
                caller.who = who;
                return Err(AdminError::new(ErrorCode::NotAllowed, &why));
            }
            Login::Nobody => {
                let why = "who asks? Send Authorization: Bearer with a token, or a client certificate";
                return Err(AdminError::new(ErrorCode::NotLoggedIn, &why));
            }
            Login::Wrong => return Err(self.wrong_login()),
        };
        caller.role = Some(role);
        if !is_change(&head.method) {
            return Ok(());
        }
        if role < Role::Operator {
            let why = format!("{} is a viewer and may not {} anything", caller.who, head.method);
            return Err(AdminError::new(ErrorCode::NotAllowed, &why));
        }
        check_change(head, self.scheme)
    }

    fn wrong_login(&self) -> AdminError {
        match self.peers.failed(Peer::of(self.peer), Instant::now()) {
            Some(left) => {
                let why = format!(
                    "wrong tokens came from this address again and again; the next wrong one is looked at in {} \
                     ms, a right one at once",
                    left.as_millis()
                );
                AdminError::new(ErrorCode::HeldBack, &why)
            }
            None => {
                let why = "this token is nobody's; it may have been replaced in admin.tokens.file";
                AdminError::new(ErrorCode::NotLoggedIn, &why)
            }
        }
    }
}
