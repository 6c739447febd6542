//! How connections are secured: protocol, TLS and SASL of one cluster, for whoever opens a connection to it.
//!
//! ```text
//!   keys of the table --> SecuritySettings --from_settings--> ClientSecurity (cheap to clone)
//!                                                               |-- tls()   a rustls configuration
//!   TCP, TLS handshake, SaslHandshake, SaslAuthenticate ..., requests   |-- sasl()  an exchange of frames
//! ```
//! Owns credentials and key material. Knows nothing of sockets, and must never print a secret: the types that
//! hold one print stars. Files that change are read again, on the way to the next connection.

mod attempts;
mod error;
mod listener;
mod material;
mod names;
mod reload;
pub mod sasl;
mod scram_server;
mod secret;
mod settings;
mod tls;
#[cfg(test)]
mod tls_tests;

pub use error::SecurityError;
pub use listener::{ListenerSecurity, ListenerSettings, SaslAcceptor, normal_name, principal_of};
pub use material::MaterialFault;
pub use names::{NamedConfig, NamedTls};
pub use reload::Reloading;
pub use sasl::{AwsFault, JaasFault, KerberosFault, SaslExchange, TokenFault};
pub use scram_server::{Answer, Credentials, ProofFault};
pub use secret::{ReferenceError, Secret};
pub use settings::{
    AwsSettings, KerberosSettings, KeySource, OauthSettings, SaslMechanism, SaslSettings, SecurityProtocol,
    SecuritySettings, StoreType, TlsSettings, TlsVersions, TrustSource,
};
pub use tls::{ClientCertificates, ClientTls, ServerTls, client_config, server_config};

use rustls::pki_types::ServerName;
use sasl::SaslLogin;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether a token or a ticket grows old or is missing. Raised, sessions of short tokens are
/// renewed with the old one while its last second passes, and Kafka allows no second renewal within that.
const CARE_INTERVAL: Duration = Duration::from_millis(250);

/// How one cluster's connections are made. See the file's header.
#[derive(Clone)]
pub struct ClientSecurity {
    shared: Arc<Shared>,
}

struct Shared {
    protocol: SecurityProtocol,
    tls: Option<ClientTls>,
    sasl: Option<SaslLogin>,
}

impl ClientSecurity {
    /// Neither TLS nor SASL.
    pub fn plaintext() -> Self {
        let shared = Shared { protocol: SecurityProtocol::Plaintext, tls: None, sasl: None };
        Self { shared: Arc::new(shared) }
    }

    /// Reads what the settings point to.
    pub fn from_settings(settings: &SecuritySettings) -> Result<Self, SecurityError> {
        let protocol = settings.protocol;
        let tls = protocol.has_tls().then(|| ClientTls::new(&settings.tls)).transpose()?;
        let sasl = protocol.has_sasl().then(|| SaslLogin::new(&settings.sasl, &settings.tls)).transpose()?;
        Ok(Self { shared: Arc::new(Shared { protocol, tls, sasl }) })
    }

    pub fn protocol(&self) -> SecurityProtocol {
        self.shared.protocol
    }

    /// The current configuration; `None` where TLS is not spoken. Looks at files at most once a second.
    pub fn tls(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.shared.tls.as_ref().map(ClientTls::config)
    }

    /// What the certificate of a host has to be for.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, SecurityError> {
        tls::server_name(host)
    }

    /// Waits for what [`ClientSecurity::sasl`] shows and cannot wait for. Before each new connection of the
    /// control core; a failure is told by `sasl`.
    pub async fn prepare(&self, host: &str) {
        if let Some(login) = &self.shared.sasl {
            login.prepare(host).await;
        }
    }

    /// Keeps what [`ClientSecurity::prepare`] waits for ready for ever, for threads that cannot wait: the
    /// control core runs it beside everything else. Ends at once where there is nothing to keep.
    pub async fn keep_ready(self) {
        while let Some(login) = self.shared.sasl.as_ref().filter(|login| login.needs_care()) {
            login.keep().await;
            tokio::time::sleep(CARE_INTERVAL).await;
        }
    }

    /// A fresh exchange for one connection to `host`, or for the renewal of its session; `None` where SASL is
    /// not spoken. An error where there is nothing to log in with, and for a while after we were refused.
    pub fn sasl(&self, host: &str) -> Result<Option<SaslExchange>, SecurityError> {
        self.shared.sasl.as_ref().map(|login| login.exchange(host)).transpose()
    }
}

impl Default for ClientSecurity {
    fn default() -> Self {
        Self::plaintext()
    }
}

impl fmt::Debug for ClientSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientSecurity({})", self.shared.protocol)
    }
}
