//! TLS configurations of both sides, and their renewal when files change.
//!
//! Owns which provider, versions and verifiers are used: rustls with aws-lc-rs and nothing else. It must never
//! leave a certificate unverified: what can be given up is the comparison of host names, by one key.

use super::error::SecurityError;
use super::material::{self, Identity, MaterialFault};
use super::reload::Reloading;
use super::settings::{KeySource, TlsSettings, TlsVersions, TrustSource};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use std::path::PathBuf;
use std::sync::Arc;

/// The client side of one cluster.
pub struct ClientTls(Reloading<Arc<ClientConfig>, SecurityError>);

impl ClientTls {
    pub fn new(settings: &TlsSettings) -> Result<Self, SecurityError> {
        let owned = settings.clone();
        let load = move || client_config(&owned).map(Arc::new);
        Reloading::new("TLS key material of a client", files(settings), load).map(Self)
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&*self.0.current())
    }
}

/// Whether a listener asks its clients for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    #[default]
    NotAsked,
    /// Who has none is let in too.
    Requested,
    Required,
}

/// The server side of one listener.
pub struct ServerTls(Reloading<Arc<ServerConfig>, SecurityError>);

impl ServerTls {
    /// `settings.key` is our certificate, `settings.trust` judges those of clients.
    pub fn new(settings: &TlsSettings, clients: ClientCertificates) -> Result<Self, SecurityError> {
        let owned = settings.clone();
        let load = move || server_config(&owned, clients).map(Arc::new);
        Reloading::new("TLS key material of a listener", files(settings), load).map(Self)
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&*self.0.current())
    }
}

/// The name that a certificate has to be for.
pub fn server_name(host: &str) -> Result<ServerName<'static>, SecurityError> {
    // A trailing dot ends a name for the resolver; in certificates and SNI it never stands.
    let bare = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| SecurityError::ServerName { host: host.to_owned() })
}

/// One client configuration out of what the files hold now.
pub fn client_config(settings: &TlsSettings) -> Result<ClientConfig, SecurityError> {
    let roots = Arc::new(material::authorities(&settings.trust)?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(settings.versions))
        .map_err(|error| SecurityError::Tls { error })?;
    let verified = if settings.any_host_name {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHostName { roots, provider }))
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        builder.with_webpki_verifier(verifier.map_err(|_| SecurityError::NoAuthorities)?)
    };
    match &settings.key {
        None => Ok(verified.with_no_client_auth()),
        Some(source) => {
            let Identity { chain, key } = material::identity(source, &settings.key_password)?;
            verified.with_client_auth_cert(chain, key).map_err(|error| unusable(source, &error))
        }
    }
}

/// For a token endpoint: who is trusted for the cluster is, and who this host trusts.
pub fn endpoint_config(settings: &TlsSettings) -> Result<ClientConfig, SecurityError> {
    let mut roots = match settings.trust {
        TrustSource::System => RootCertStore::empty(),
        TrustSource::File { .. } | TrustSource::Inline(_) => material::authorities(&settings.trust)?,
    };
    match material::authorities(&TrustSource::System) {
        Ok(system) => roots.extend(system.roots),
        Err(_) if !roots.is_empty() => {}
        Err(error) => return Err(error),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions(settings.versions))
        .map_err(|error| SecurityError::Tls { error })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// One server configuration out of what the files hold now.
pub fn server_config(
    settings: &TlsSettings,
    clients: ClientCertificates,
) -> Result<ServerConfig, SecurityError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(settings.versions))
        .map_err(|error| SecurityError::Tls { error })?;
    let verified = if clients == ClientCertificates::NotAsked {
        builder.with_no_client_auth()
    } else {
        let roots = Arc::new(material::authorities(&settings.trust)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let verifier = match clients {
            ClientCertificates::Requested => verifier.allow_unauthenticated(),
            ClientCertificates::NotAsked | ClientCertificates::Required => verifier,
        };
        builder.with_client_cert_verifier(verifier.build().map_err(|_| SecurityError::NoAuthorities)?)
    };
    let missing = || SecurityError::Material {
        key: "ssl.keystore.location",
        path: None,
        why: MaterialFault::NoCertificate,
    };
    let source = settings.key.as_ref().ok_or_else(missing)?;
    let Identity { chain, key } = material::identity(source, &settings.key_password)?;
    verified.with_single_cert(chain, key).map_err(|error| unusable(source, &error))
}

static ONLY_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

fn versions(wanted: TlsVersions) -> &'static [&'static SupportedProtocolVersion] {
    match (wanted.v1_2, wanted.v1_3) {
        (true, false) => &ONLY_1_2,
        (false, true) => &ONLY_1_3,
        _ => &BOTH,
    }
}

fn unusable(source: &KeySource, error: &rustls::Error) -> SecurityError {
    let (key, path) = match source {
        KeySource::File { path, .. } => ("ssl.keystore.location", Some(path.clone())),
        KeySource::Inline { .. } => ("ssl.keystore.key", None),
    };
    SecurityError::Material { key, path, why: MaterialFault::Key { why: error.to_string() } }
}

/// Files that the settings read.
pub(super) fn files(settings: &TlsSettings) -> Vec<PathBuf> {
    let mut files = settings.key_password.files();
    match &settings.key {
        Some(KeySource::File { path, password, .. }) => {
            files.push(path.clone());
            files.extend(password.files());
        }
        Some(KeySource::Inline { key, .. }) => files.extend(key.files()),
        None => {}
    }
    if let TrustSource::File { path, password, .. } = &settings.trust {
        files.push(path.clone());
        files.extend(password.files());
    }
    files
}

/// Believes a certificate of a trusted authority whatever host it is for.
#[derive(Debug)]
struct AnyHostName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
