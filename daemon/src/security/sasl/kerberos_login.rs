//! Who logs in by Kerberos, with what, to which service; and what can be wrong with it.
//!
//! Owns the meaning of the keys `sasl.kerberos.*` and of the options of Kerberos' login module. Knows nothing of
//! the system's library, and is there without it too. Must never read a key: a keytab is only named.

use super::jaas::JaasConfig;
use crate::security::{KerberosSettings, SaslMechanism, Secret, SecurityError};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What brokers call themselves unless somebody says otherwise.
const SERVICE_DEFAULT: &str = "kafka";

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KerberosLogin {
    pub service: String,
    pub principal: Option<String>,
    pub keytab: Option<PathBuf>,
    /// The cache of this system's user is looked at first. It is copied, never written to.
    pub use_ticket_cache: bool,
}

impl KerberosLogin {
    pub fn read(settings: &KerberosSettings, jaas: Option<&JaasConfig>) -> Result<Self, SecurityError> {
        let option = |name: &str| jaas.and_then(|jaas| jaas.option(name)).map(Secret::expose);
        let is_set = |name: &str| option(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let service = option("serviceName").map(str::to_owned).or_else(|| given(&settings.service_name));
        let principal = option("principal").map(str::to_owned).or_else(|| given(&settings.principal));
        let named = option("keyTab").map(PathBuf::from).or_else(|| settings.keytab.clone());
        // A module that names a keytab and does not say that it is to be used does not use it.
        let keytab = named.filter(|_| jaas.is_none() || is_set("useKeyTab"));
        let use_ticket_cache = is_set("useTicketCache");
        let mechanism = SaslMechanism::Gssapi;
        if keytab.is_none() && !use_ticket_cache {
            return Err(SecurityError::MissingCredential { mechanism, key: "sasl.kerberos.keytab" });
        }
        if keytab.is_some() && principal.is_none() {
            return Err(SecurityError::MissingCredential { mechanism, key: "sasl.kerberos.principal" });
        }
        let service = service.unwrap_or_else(|| SERVICE_DEFAULT.to_owned());
        Ok(Self { service, principal, keytab, use_ticket_cache })
    }
}

/// Why there is no ticket, or why it was of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KerberosFault {
    /// Built without the system's library.
    Absent,
    /// It is being fetched.
    NotYet {
        host: String,
    },
    Keytab {
        path: PathBuf,
        error: std::io::ErrorKind,
    },
    NoKey {
        path: PathBuf,
        principal: String,
    },
    WrongKey {
        principal: String,
    },
    UnknownPrincipal {
        principal: String,
    },
    /// Locked, or its key or itself has ended.
    Ended {
        principal: String,
        told: String,
    },
    UnknownService {
        service: String,
        host: String,
    },
    NoServer {
        told: String,
    },
    Silent {
        after: Duration,
    },
    Clock {
        told: String,
    },
    /// The user's cache has none that is good.
    NoTicket {
        told: String,
    },
    /// The library's own words.
    Library {
        told: String,
    },
    /// The broker wants every request wrapped.
    Layers {
        offered: u8,
    },
    TooLong {
        bytes: usize,
        bytes_max: usize,
    },
}

impl KerberosFault {
    /// Whether the other side knows us and says no: asked again rarely, so that no principal is locked by it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::WrongKey { .. } | Self::UnknownPrincipal { .. } | Self::Ended { .. })
    }
}

impl fmt::Display for KerberosFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "this program is built without it; build it with --features gssapi"),
            Self::NotYet { host } => write!(f, "the ticket for {host} is not there yet; it is being fetched"),
            Self::Keytab { path, error } => write!(
                f,
                "cannot read the keytab {}: {error}; give one that this user may read in sasl.kerberos.keytab",
                path.display()
            ),
            Self::NoKey { path, principal } => write!(
                f,
                "the keytab {} has no key of {principal}; look at klist -k, and export its key there or correct \
                 sasl.kerberos.principal",
                path.display()
            ),
            Self::WrongKey { principal } => write!(
                f,
                "the key of {principal} in the keytab is not the one that the KDC has; export it anew (a new \
                 password or a later export ends the old key)"
            ),
            Self::UnknownPrincipal { principal } => write!(
                f,
                "the KDC does not know {principal}; create it there or correct sasl.kerberos.principal and its realm"
            ),
            Self::Ended { principal, told } => {
                write!(f, "the KDC refuses {principal} ({told}); unlock or renew it there")
            }
            Self::UnknownService { service, host } => write!(
                f,
                "the KDC does not know the service {service}/{host}; correct sasl.kerberos.service.name, connect by \
                 the name that the broker's principal has, or look at domain_realm and dns_canonicalize_hostname in \
                 krb5.conf"
            ),
            Self::NoServer { told } => write!(
                f,
                "no KDC can be reached ({told}); look at the realm and its kdc in krb5.conf, and at the network"
            ),
            Self::Silent { after } => write!(
                f,
                "no KDC has answered within {} s; look at the kdc of the realm in krb5.conf, and at the network",
                after.as_secs()
            ),
            Self::Clock { told } => {
                write!(f, "the clocks of this host and of the KDC differ too much ({told}); set them right")
            }
            Self::NoTicket { told } => write!(
                f,
                "the ticket cache of this user has no good ticket ({told}); renew it by kinit, or give a keytab"
            ),
            Self::Library { told } => write!(
                f,
                "{told}; look at krb5.conf, and start with KRB5_TRACE=/dev/stderr to see what the library does"
            ),
            Self::Layers { offered } => write!(
                f,
                "the broker wants every request wrapped (layers {offered:#04x}), which Kafka's do not speak; is it a \
                 broker?"
            ),
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "a message of {bytes} bytes is none of an exchange, which has at most {bytes_max}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "com.sun.security.auth.module.Krb5LoginModule required";

    fn read(settings: &KerberosSettings, options: &str) -> Result<KerberosLogin, SecurityError> {
        let text = Secret::new(format!("{MODULE} {options};"));
        let jaas =
            JaasConfig::parse(&text, SaslMechanism::Gssapi).map_err(|why| SecurityError::Jaas { why })?;
        KerberosLogin::read(settings, Some(&jaas))
    }

    #[test]
    fn the_module_of_client_files_and_keys_of_our_own_say_the_same() {
        let keys = KerberosSettings {
            service_name: "broker".to_owned(),
            keytab: Some("/k".into()),
            principal: "twin@R".to_owned(),
        };
        let options =
            "useKeyTab=true storeKey=true keyTab=\"/k\" principal=\"twin@R\" serviceName=\"broker\"";
        let of_keys = KerberosLogin::read(&keys, None).unwrap();
        assert_eq!(read(&KerberosSettings::default(), options).unwrap(), of_keys);
        assert!(!of_keys.use_ticket_cache);
        let cached = read(&KerberosSettings::default(), "useTicketCache=true").unwrap();
        assert!(cached.use_ticket_cache && cached.keytab.is_none());
        assert_eq!(cached.service, "kafka");
    }

    #[test]
    fn what_is_missing_or_not_understood_is_named() {
        let nothing = KerberosSettings::default();
        let told = |options: &str| read(&nothing, options).unwrap_err().to_string();
        assert!(told("keyTab=\"/k\" principal=\"p\"").contains("sasl.kerberos.keytab"));
        assert!(told("useKeyTab=true keyTab=\"/k\"").contains("sasl.kerberos.principal"));
        assert!(told("renewTGT=true").contains("renewTGT"));
        assert!(KerberosLogin::read(&nothing, None).is_err());
    }
}
