//! Who may connect to us: TLS, the mechanisms of SASL and the principals of the listener that followers reach.
//!
//! ```text
//!   TLS handshake, perhaps with a certificate --> principal User:CN=b1,O=...
//!   SaslHandshake, SaslAuthenticate ...        --> principal User:name
//!                                                  listed in guest.followers.principals? else closed
//! ```
//! Passwords of SCRAM are never known here: the metadata log has what they are proven by. Must never believe
//! anybody that is not listed.

use super::scram_server::{Answer, Credentials, ProofFault, ScramServer};
use super::tls::ServerTls;
use super::{ClientCertificates, SaslMechanism, Secret, SecurityError, SecurityProtocol, TlsSettings};
use aws_lc_rs::constant_time;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Who did not show a certificate, in Kafka's words.
const ANONYMOUS: &str = "User:ANONYMOUS";

/// What an operator said of the listener.
#[derive(Clone, Debug, Default)]
pub struct ListenerSettings {
    pub protocol: SecurityProtocol,
    pub tls: TlsSettings,
    pub clients: ClientCertificates,
    /// PLAIN where users are given, SCRAM always.
    pub plain_users: BTreeMap<String, Secret>,
    /// As Kafka writes them: `User:name`, `User:CN=b1,O=example`.
    pub principals: Vec<String>,
}

/// See the file's header. Cheap to clone.
#[derive(Clone)]
pub struct ListenerSecurity {
    shared: Arc<Shared>,
}

struct Shared {
    protocol: SecurityProtocol,
    tls: Option<ServerTls>,
    plain_users: BTreeMap<String, Secret>,
    principals: BTreeSet<String>,
}

impl ListenerSecurity {
    /// Neither TLS nor SASL.
    pub fn plaintext() -> Self {
        let (plain_users, principals) = (BTreeMap::new(), BTreeSet::new());
        let shared = Shared { protocol: SecurityProtocol::Plaintext, tls: None, plain_users, principals };
        Self { shared: Arc::new(shared) }
    }

    /// Reads what the settings point to.
    pub fn from_settings(settings: &ListenerSettings) -> Result<Self, SecurityError> {
        let has_tls = settings.protocol.has_tls();
        let tls = has_tls.then(|| ServerTls::new(&settings.tls, settings.clients)).transpose()?;
        let shared = Shared {
            protocol: settings.protocol,
            tls,
            plain_users: settings.plain_users.clone(),
            principals: settings.principals.iter().map(|name| normal_name(name)).collect(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn protocol(&self) -> SecurityProtocol {
        self.shared.protocol
    }

    /// The current configuration; `None` where TLS is not spoken.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.shared.tls.as_ref().map(ServerTls::config)
    }

    /// Whether a principal may fetch.
    pub fn allows(&self, principal: &str) -> bool {
        self.shared.principals.contains(&normal_name(principal))
    }

    /// What a follower may prove itself by, the strongest first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.shared.plain_users.is_empty() {
            true => &["SCRAM-SHA-512", "SCRAM-SHA-256"],
            false => &["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"],
        }
    }
}

impl fmt::Debug for ListenerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListenerSecurity({})", self.shared.protocol)
    }
}

/// Spaces after commas are a matter of taste in a distinguished name.
pub fn normal_name(principal: &str) -> String {
    principal.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

/// Who shows this certificate, as Kafka names it.
pub fn principal_of(certificate: Option<&[u8]>) -> String {
    let subject = certificate.and_then(|der| Certificate::from_der(der).ok());
    match subject {
        Some(certificate) => format!("User:{}", certificate.tbs_certificate().subject()),
        None => ANONYMOUS.to_owned(),
    }
}

/// One follower logging in.
#[derive(Default)]
pub struct SaslAcceptor {
    chosen: Option<Chosen>,
}

enum Chosen {
    Scram(ScramServer),
    Plain,
}

impl SaslAcceptor {
    /// The mechanism that the follower wants. False: it is none of ours.
    pub fn choose(&mut self, mechanism: &[u8], listener: &ListenerSecurity) -> bool {
        let name = std::str::from_utf8(mechanism).unwrap_or_default();
        let named = SaslMechanism::named(name).filter(|_| listener.mechanisms().contains(&name));
        self.chosen = match named {
            Some(SaslMechanism::ScramSha256) => Some(Chosen::Scram(ScramServer::new(false))),
            Some(SaslMechanism::ScramSha512) => Some(Chosen::Scram(ScramServer::new(true))),
            Some(SaslMechanism::Plain) => Some(Chosen::Plain),
            Some(SaslMechanism::OauthBearer | SaslMechanism::AwsMskIam | SaslMechanism::Gssapi) | None => {
                None
            }
        };
        self.chosen.is_some()
    }

    /// One message of the mechanism. After an error the connection is over.
    pub fn answer(
        &mut self,
        message: &[u8],
        listener: &ListenerSecurity,
        credentials: &Credentials,
    ) -> Result<Answer, ProofFault> {
        match &mut self.chosen {
            None => Err(ProofFault::Malformed),
            Some(Chosen::Scram(server)) => server.answer(message, credentials),
            Some(Chosen::Plain) => plain(message, &listener.shared.plain_users),
        }
    }
}

/// ref: RFC 4616: a name to act for, which must be its own, the name, the password.
fn plain(message: &[u8], users: &BTreeMap<String, Secret>) -> Result<Answer, ProofFault> {
    let text = std::str::from_utf8(message).map_err(|_| ProofFault::Malformed)?;
    let parts: Vec<&str> = text.split('\0').collect();
    let [acting, user, password] = parts[..] else { return Err(ProofFault::Malformed) };
    if user.is_empty() || !acting.is_empty() && acting != user {
        return Err(ProofFault::Malformed);
    }
    let known = users.get(user).ok_or(ProofFault::UnknownUser)?;
    constant_time::verify_slices_are_equal(known.expose().as_bytes(), password.as_bytes())
        .map_err(|_| ProofFault::WrongProof)?;
    Ok(Answer { message: Vec::new(), proven: Some(user.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> ListenerSecurity {
        let settings = ListenerSettings {
            protocol: SecurityProtocol::SaslPlaintext,
            plain_users: BTreeMap::from([("broker".to_owned(), Secret::from("hunter2"))]),
            principals: vec!["User:broker".to_owned(), "User:CN=b1, O=example".to_owned()],
            ..ListenerSettings::default()
        };
        ListenerSecurity::from_settings(&settings).unwrap()
    }

    #[test]
    fn only_listed_principals_are_allowed_however_their_names_are_spaced() {
        let listener = listener();
        assert!(listener.allows("User:broker") && listener.allows("User:CN=b1,O=example"));
        for other in ["User:Broker", "broker", "User:CN=b1", "User:ANONYMOUS", ""] {
            assert!(!listener.allows(other), "{other}");
        }
        assert!(!ListenerSecurity::plaintext().allows(ANONYMOUS));
    }

    #[test]
    fn plain_takes_the_right_password_and_nothing_else() {
        let (listener, nobody) = (listener(), Credentials::default());
        let mut acceptor = SaslAcceptor::default();
        assert_eq!(acceptor.answer(b"\0broker\0hunter2", &listener, &nobody), Err(ProofFault::Malformed));
        assert!(acceptor.choose(b"PLAIN", &listener));
        let proven = acceptor.answer(b"\0broker\0hunter2", &listener, &nobody).unwrap();
        assert_eq!(proven.proven.as_deref(), Some("broker"));
        for (message, fault) in [
            (&b"\0broker\0hunter3"[..], ProofFault::WrongProof),
            (b"\0broker\0", ProofFault::WrongProof),
            (b"\0other\0hunter2", ProofFault::UnknownUser),
            (b"root\0broker\0hunter2", ProofFault::Malformed),
            (b"broker", ProofFault::Malformed),
            (b"\xff\0\0", ProofFault::Malformed),
        ] {
            assert_eq!(acceptor.answer(message, &listener, &nobody), Err(fault), "{message:?}");
        }
    }

    #[test]
    fn mechanisms_that_are_not_configured_are_not_accepted() {
        let settings = ListenerSettings { protocol: SecurityProtocol::SaslPlaintext, ..Default::default() };
        let scram_only = ListenerSecurity::from_settings(&settings).unwrap();
        let mut acceptor = SaslAcceptor::default();
        assert!(acceptor.choose(b"SCRAM-SHA-256", &scram_only));
        for mechanism in [&b"PLAIN"[..], b"OAUTHBEARER", b"GSSAPI", b"", b"\xff"] {
            assert!(!acceptor.choose(mechanism, &scram_only), "{mechanism:?}");
        }
    }

    #[test]
    fn a_certificate_is_called_by_its_subject_as_kafka_calls_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["b1.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "example");
        params.distinguished_name.push(rcgen::DnType::CommonName, "b1");
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(principal_of(Some(certificate.der())), "User:CN=b1,O=example");
        assert_eq!((principal_of(None), principal_of(Some(b"no DER"))), (ANONYMOUS.into(), ANONYMOUS.into()));
    }
}
