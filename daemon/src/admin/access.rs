//! Who gets in over the network: what is configured, which token or certificate is whose, and the refusals.
//!
//! ```text
//!   Authorization: Bearer twl_...  --> tokens file   --> name and role       wrong: 401, then held back
//!   certificate of the client      --> its subject   --> admin.ssl.principals  unknown: 403
//!   neither                        --> 401, but on a loopback listener that asks for nothing
//! ```
//! A token goes before a certificate. Must never let in anybody whose role was not written down somewhere.

use super::guard::Scheme;
use super::role::{Principals, Role};
use super::tokens::{TokenFileError, Tokens};
use crate::security::{ClientCertificates, NamedTls, Reloading, SecurityError, TlsSettings, principal_of};
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use rustls::ServerConfig;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

const BEARER: &str = "Bearer";
/// A name of every listener; it cannot be rebound to an address that is not this host.
const LOCALHOST: &str = "localhost";

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerAddress {
    pub scheme: Scheme,
    pub address: SocketAddr,
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)
    }
}

/// What an operator said of it. Its parts go together: see `config`.
#[derive(Clone, Debug, Default)]
pub struct AdminSettings {
    pub listeners: Vec<ListenerAddress>,
    pub tls: TlsSettings,
    pub clients: ClientCertificates,
    pub principals: Principals,
    pub tokens_file: Option<PathBuf>,
    /// http on a loopback address asks for no token.
    pub is_loopback_open: bool,
    /// In small letters, beside those that are known anyway.
    pub hosts: Vec<String>,
}

/// Why what is configured cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub enum AccessError {
    Tokens(TokenFileError),
    Tls(SecurityError),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(why) => write!(f, "admin.tokens.file: {why}"),
            // It begins with the key as it is called at other places.
            Self::Tls(why) => write!(f, "admin.{why}"),
        }
    }
}

impl std::error::Error for AccessError {}

/// See the file's header.
pub struct Access {
    tokens: Option<Reloading<Tokens, TokenFileError>>,
    principals: Principals,
    tls: Option<NamedTls>,
    is_loopback_open: bool,
    hosts: Vec<String>,
}

/// What is known of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    Known {
        who: String,
        role: Role,
    },
    /// A token that is nobody's.
    Wrong,
    /// A certificate that is trusted, of somebody without a role.
    Unlisted {
        who: String,
    },
    Nobody,
}

impl Access {
    /// Reads the files.
    pub fn new(settings: &AdminSettings) -> Result<Self, AccessError> {
        let load = |path: &PathBuf| {
            let (path, files) = (path.clone(), vec![path.clone()]);
            Reloading::new("the file of the operators' tokens", files, move || Tokens::read(&path))
        };
        let tokens = settings.tokens_file.as_ref().map(load).transpose().map_err(AccessError::Tokens)?;
        let speaks_tls = settings.listeners.iter().any(|listener| listener.scheme == Scheme::Https);
        let tls = speaks_tls.then(|| NamedTls::new(&settings.tls, settings.clients));
        Ok(Self {
            tokens,
            principals: settings.principals.clone(),
            tls: tls.transpose().map_err(AccessError::Tls)?,
            is_loopback_open: settings.is_loopback_open,
            hosts: settings.hosts.clone(),
        })
    }

    /// For the next connection; `None` where no listener speaks TLS.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|tls| tls.current().config.clone())
    }

    /// What may stand in `Host`.
    pub(super) fn hosts(&self) -> Vec<String> {
        let certified = self.tls.as_ref().map(|tls| tls.current().names.clone()).unwrap_or_default();
        let mut hosts = self.hosts.clone();
        hosts.push(LOCALHOST.to_owned());
        hosts.extend(certified);
        hosts
    }

    /// Who asks. `certificate` is the client's own, which the handshake has judged.
    pub(super) fn login(&self, head: &Parts, scheme: Scheme, certificate: Option<&[u8]>) -> Login {
        // Only loopback addresses speak http.
        let is_open = self.is_loopback_open && scheme == Scheme::Http;
        if let (Some(said), Some(tokens)) = (head.headers.get(AUTHORIZATION), &self.tokens) {
            let token = said.to_str().ok().and_then(|said| said.split_once(' '));
            let token =
                token.filter(|(kind, _)| kind.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token.trim());
            let found = token.and_then(|token| tokens.current().verify(token));
            return match found {
                Some((name, role)) => Login::Known { who: format!("token {name}"), role },
                None => Login::Wrong,
            };
        }
        if let Some(certificate) = certificate {
            let principal = principal_of(Some(certificate));
            let name = principal.strip_prefix("User:").unwrap_or(&principal);
            let who = format!("certificate {name}");
            return match self.principals.role(name) {
                Some(role) => Login::Known { who, role },
                None => Login::Unlisted { who },
            };
        }
        match is_open {
            true => Login::Known { who: "anybody on this host".to_owned(), role: Role::Operator },
            false if head.headers.contains_key(AUTHORIZATION) => Login::Wrong,
            false => Login::Nobody,
        }
    }
}
