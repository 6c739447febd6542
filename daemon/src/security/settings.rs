//! What an operator said of security, parsed and complete, nothing of it read from files yet.
//!
//! Owns the typed form of the keys `security.protocol`, `ssl.*` and `sasl.*` of one cluster. It must never
//! print a secret; they are held as [`Secret`].

use super::secret::Secret;
use std::fmt;
use std::path::PathBuf;

/// How connections are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityProtocol {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    /// Every one, as a configuration names it.
    pub const NAMES: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];
        all.into_iter().find(|protocol| protocol.name() == name)
    }

    pub const fn name(self) -> &'static str {
        Self::NAMES[self.number() as usize]
    }

    /// The number that a broker's registration carries.
    pub const fn number(self) -> i16 {
        match self {
            Self::Plaintext => 0,
            Self::Ssl => 1,
            Self::SaslPlaintext => 2,
            Self::SaslSsl => 3,
        }
    }

    pub const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    pub const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file of keys or certificates is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreType {
    /// Its first bytes tell: since Java 9 a file that is called JKS is often PKCS#12.
    #[default]
    ByContent,
    Pem,
    Pkcs12,
    Jks,
}

/// Where key material comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file with key and chain, or a PKCS#12 file.
    File { path: PathBuf, store_type: StoreType, password: Secret },
    /// PEM in the configuration itself.
    Inline { key: Secret, chain: String },
}

/// Where the authorities come from that peers' certificates are judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrustSource {
    /// What this host trusts.
    #[default]
    System,
    File {
        path: PathBuf,
        store_type: StoreType,
        password: Secret,
    },
    /// PEM in the configuration itself.
    Inline(String),
}

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersions {
    pub v1_2: bool,
    pub v1_3: bool,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self { v1_2: true, v1_3: true }
    }
}

/// Keys, authorities and versions of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Our certificate: for a cluster that asks its clients for one, and for a listener of our own.
    pub key: Option<KeySource>,
    /// Opens an encrypted private key.
    pub key_password: Secret,
    pub trust: TrustSource,
    /// The certificate's name is not compared with the host's: an impostor with any certificate of the same
    /// authority is believed.
    pub any_host_name: bool,
    pub versions: TlsVersions,
}

/// Mechanisms that this program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    OauthBearer,
    AwsMskIam,
    /// Kerberos; spoken where the program is built with the system's library for it.
    Gssapi,
}

impl SaslMechanism {
    pub const NAMES: [&str; 6] =
        ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM", "GSSAPI"];

    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::Plain,
            Self::ScramSha256,
            Self::ScramSha512,
            Self::OauthBearer,
            Self::AwsMskIam,
            Self::Gssapi,
        ];
        all.into_iter().find(|mechanism| mechanism.name() == name)
    }

    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl fmt::Display for SaslMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As whom we log in. Secrets may still be references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaslSettings {
    /// `None`: no SASL.
    pub mechanism: Option<SaslMechanism>,
    /// As Kafka's clients have it; goes before the two below.
    pub jaas_config: Secret,
    pub username: String,
    pub password: Secret,
    /// The two above are id and HMAC of a delegation token. ref: KIP-48
    pub is_delegation_token: bool,
    pub oauth: OauthSettings,
    pub aws: AwsSettings,
    pub kerberos: KerberosSettings,
}

/// What may stand outside of Kerberos' login module, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KerberosSettings {
    /// What brokers call themselves in front of their host's name; empty: kafka.
    pub service_name: String,
    pub keytab: Option<PathBuf>,
    pub principal: String,
}

/// What the login module of AWS has no option for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// Empty: the broker's name tells it.
    pub region: String,
    /// Empty: where AWS's own programs look, and the environment goes before it.
    pub credentials_file: Option<PathBuf>,
}

/// Where a bearer token comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OauthSettings {
    /// `https://...` of an endpoint, or `file:///...` of a token that somebody else renews.
    pub token_endpoint_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub scope: String,
    /// Part of a token's life after which the next one is fetched.
    pub refresh_percent: u64,
}

/// All of it, for one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecuritySettings {
    pub protocol: SecurityProtocol,
    pub tls: TlsSettings,
    pub sasl: SaslSettings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_kafkas() {
        for (number, name) in SecurityProtocol::NAMES.into_iter().enumerate() {
            let protocol = SecurityProtocol::named(name).unwrap();
            assert_eq!((protocol.name(), protocol.number()), (name, number as i16));
            assert_eq!(
                (protocol.has_tls(), protocol.has_sasl()),
                (name.ends_with("SSL"), name.starts_with("SASL"))
            );
        }
        for name in SaslMechanism::NAMES {
            assert_eq!(SaslMechanism::named(name).unwrap().name(), name);
        }
        assert_eq!(SaslMechanism::named("CRAM-MD5"), None);
    }

    #[test]
    fn settings_that_are_printed_hold_no_secret() {
        let settings = SecuritySettings {
            sasl: SaslSettings {
                jaas_config: "hunter2".into(),
                password: "hunter2".into(),
                oauth: OauthSettings { client_secret: "hunter2".into(), ..Default::default() },
                ..Default::default()
            },
            tls: TlsSettings {
                key: Some(KeySource::Inline { key: "hunter2".into(), chain: String::new() }),
                key_password: "hunter2".into(),
                ..Default::default()
            },
            ..Default::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
