//! Why a connection cannot be made as securely as it was asked for, each with its cure.
//!
//! Must never hold a secret: fields are keys, paths, names and what a peer said.

use super::material::MaterialFault;
use super::sasl::{AwsFault, JaasFault, KerberosFault, TokenFault};
use super::secret::ReferenceError;
use super::settings::SaslMechanism;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One reason. Who the peer was is added by whoever spoke to it.
#[derive(Clone, Debug, PartialEq)]
pub enum SecurityError {
    /// A value of this key points to something that is not there.
    Reference { key: &'static str, why: ReferenceError },
    /// The file of this key cannot be read.
    File { key: &'static str, path: PathBuf, error: std::io::ErrorKind },
    /// What this key gives is no key material. No path: it stands in the configuration itself.
    Material { key: &'static str, path: Option<PathBuf>, why: MaterialFault },
    /// This host trusts nobody, and no authority was configured.
    NoAuthorities,
    /// A host's name that no certificate can be for.
    ServerName { host: String },
    /// The handshake, or a record after it.
    Tls { error: rustls::Error },
    /// The connection ended before TLS stood, without a word of why.
    HandshakeBroken { error: std::io::ErrorKind },
    /// Neither finished nor failed in time.
    HandshakeTimedOut { after: Duration },
    /// `sasl.jaas.config` is not understood.
    Jaas { why: JaasFault },
    /// The mechanism needs a value that was not given.
    MissingCredential { mechanism: SaslMechanism, key: &'static str },
    /// There is no bearer token to show.
    Token { why: TokenFault },
    /// There is nothing to sign with.
    Aws { why: AwsFault },
    /// There is no ticket to show, or the exchange broke over it.
    Kerberos { why: KerberosFault },
    /// Delegation tokens are shown by SCRAM only.
    DelegationToken { mechanism: SaslMechanism },
    /// The broker does not offer our mechanism.
    MechanismRefused { mechanism: SaslMechanism, offered: Vec<String> },
    /// The broker does not believe us: error 58.
    AuthenticationFailed { mechanism: SaslMechanism, user: String, message: String },
    /// The broker did not prove that it knows the password: an impostor.
    ServerNotProven { mechanism: SaslMechanism },
    /// SaslHandshake or SaslAuthenticate with another error.
    SaslRefused { mechanism: SaslMechanism, code: i16 },
    /// What came is no answer of the exchange.
    SaslMalformed { mechanism: SaslMechanism, what: &'static str },
    /// The same one failed a moment ago: asking again at once would lock the account.
    HeldBack { retry_in: Duration, last: Box<SecurityError> },
}

impl SecurityError {
    /// Whether the other side refused who we are: retried rarely, so that no account is locked by it.
    pub fn is_authentication(&self) -> bool {
        match self {
            Self::AuthenticationFailed { .. }
            | Self::MechanismRefused { .. }
            | Self::ServerNotProven { .. } => true,
            Self::Kerberos { why } => why.is_refusal(),
            Self::HeldBack { last, .. } => last.is_authentication(),
            _ => false,
        }
    }
}

impl fmt::Display for SecurityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference { key, why } => write!(f, "{key}: {why}"),
            Self::File { key, path, error } => write!(f, "{key}: cannot read {}: {error}", path.display()),
            Self::Material { key, path: Some(path), why } => write!(f, "{key} = {}: {why}", path.display()),
            Self::Material { key, path: None, why } => write!(f, "{key}: {why}"),
            Self::NoAuthorities => write!(
                f,
                "this host trusts no certificate authority (are ca-certificates installed?); give the cluster's \
                 own in ssl.truststore.location"
            ),
            Self::ServerName { host } => {
                write!(
                    f,
                    "{host:?} is a name that no certificate can be for; use a DNS name or an IP address"
                )
            }
            Self::Tls { error } => write_tls(f, error),
            Self::HandshakeBroken { error } => write!(
                f,
                "the connection ended during the TLS handshake ({error}); is the port a listener with TLS, as \
                 security.protocol says?"
            ),
            Self::HandshakeTimedOut { after } => write!(
                f,
                "the TLS handshake did not end within {} ms; is the port a listener with TLS?",
                after.as_millis()
            ),
            Self::Jaas { why } => write!(f, "sasl.jaas.config: {why}"),
            Self::MissingCredential { mechanism, key } => {
                write!(f, "sasl.mechanism = {mechanism} needs {key}, or sasl.jaas.config with it")
            }
            Self::Token { why } => write!(f, "there is no bearer token: {why}"),
            Self::Aws { why } => write!(f, "AWS_MSK_IAM: {why}"),
            Self::Kerberos { why } => write!(f, "Kerberos: {why}"),
            Self::DelegationToken { mechanism } => write!(
                f,
                "sasl.delegation.token = true does not go with sasl.mechanism = {mechanism}: brokers take delegation \
                 tokens by SCRAM-SHA-256 or SCRAM-SHA-512"
            ),
            Self::MechanismRefused { mechanism, offered } => write!(
                f,
                "the broker does not offer {mechanism} but {}; change sasl.mechanism, or the listener's \
                 sasl.enabled.mechanisms",
                if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
            ),
            Self::AuthenticationFailed { mechanism, user, message } => {
                write!(f, "authentication failed: {mechanism} as {user:?} is refused ({message}); ")?;
                f.write_str(cure_of_refusal(*mechanism))
            }
            Self::ServerNotProven { mechanism } => write!(
                f,
                "the broker did not prove by {mechanism} that it {}; it may be an impostor, nothing more is said to it",
                secret_of_broker(*mechanism)
            ),
            Self::SaslRefused { mechanism, code } => {
                write!(f, "the broker refused to begin {mechanism} with error code {code}")
            }
            Self::SaslMalformed { mechanism, what } => write!(
                f,
                "what the broker answered to {mechanism} is not understood ({what}); is it a listener with SASL?"
            ),
            Self::HeldBack { retry_in, last } => {
                write!(f, "{last}; the next attempt is made in {} s", retry_in.as_secs().max(1))
            }
        }
    }
}

impl std::error::Error for SecurityError {}

fn cure_of_refusal(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Gssapi => {
            "look at the clocks of both hosts, at the broker's keytab (an older key than the KDC's?) and at its \
             principal's host"
        }
        _ => "correct the user or its password, here or at the cluster",
    }
}

/// What a broker has to prove besides who we are.
fn secret_of_broker(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Gssapi => "has the key of its service",
        _ => "knows our password",
    }
}

/// The cases that have a cure are told with it; the rest in the library's words.
fn write_tls(f: &mut fmt::Formatter<'_>, error: &rustls::Error) -> fmt::Result {
    match error {
        rustls::Error::InvalidCertificate(why) => write_certificate(f, why),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => write!(
            f,
            "it asks its clients for a certificate and got none: give one in ssl.keystore.location, or in \
             ssl.keystore.key and ssl.keystore.certificate.chain"
        ),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError),
        ) => write!(
            f,
            "it refuses our client certificate, or the lack of one ({alert:?}): give one in ssl.keystore.location \
             that an authority in the listener's truststore signed"
        ),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => write!(
            f,
            "it speaks no version of TLS that ssl.enabled.protocols allows; allow another one there"
        ),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)
        | rustls::Error::PeerIncompatible(_) => write!(
            f,
            "TLS has nothing in common with it ({error}): look at ssl.cipher.suites and ssl.enabled.protocols of \
             the listener, and whether it asks for a client certificate"
        ),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => write!(f, "it does not speak TLS; is the port a PLAINTEXT or SASL_PLAINTEXT listener?"),
        error => write!(f, "TLS failed: {error}"),
    }
}

fn write_certificate(f: &mut fmt::Formatter<'_>, why: &CertificateError) -> fmt::Result {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => write!(
            f,
            "its certificate is not signed by an authority that is trusted here: put the authority that signed \
             it into ssl.truststore.location"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            write!(f, "its certificate has expired: renew it there, and look at this host's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            write!(f, "its certificate is not valid yet: look at the clocks of both hosts")
        }
        CertificateError::NotValidForName => write!(
            f,
            "its certificate is for another host: connect by a name that stands in it, or sign one with this \
             name; ssl.endpoint.identification.algorithm = \"\" gives the comparison up"
        ),
        CertificateError::NotValidForNameContext { expected, presented } => write!(
            f,
            "its certificate is not for {} but for {}: connect by a name that stands in it, or sign one with \
             this name; ssl.endpoint.identification.algorithm = \"\" gives the comparison up",
            expected.to_str(),
            if presented.is_empty() { "no host at all".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::Revoked => write!(f, "its certificate is revoked: it needs another one"),
        why => write!(f, "its certificate is refused: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_common_mistake_is_told_with_the_key_that_cures_it() {
        let certificate =
            |why| SecurityError::Tls { error: rustls::Error::InvalidCertificate(why) }.to_string();
        assert!(certificate(CertificateError::UnknownIssuer).contains("ssl.truststore.location"));
        assert!(certificate(CertificateError::Expired).contains("renew"));
        assert!(
            certificate(CertificateError::NotValidForName).contains("ssl.endpoint.identification.algorithm")
        );
        let alert = |alert| SecurityError::Tls { error: rustls::Error::AlertReceived(alert) }.to_string();
        assert!(alert(AlertDescription::CertificateRequired).contains("ssl.keystore"));
        assert!(alert(AlertDescription::BadCertificate).contains("ssl.keystore"));
        assert!(alert(AlertDescription::ProtocolVersion).contains("ssl.enabled.protocols"));
        let error = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert!(SecurityError::Tls { error }.to_string().contains("PLAINTEXT"));
    }
}
