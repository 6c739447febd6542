//! The server side of a listener that is reached by names: its TLS, and the names that its certificate is for.
//!
//! Both are of the same files at the same time, and made anew together when those change.

use super::error::SecurityError;
use super::material;
use super::reload::Reloading;
use super::settings::TlsSettings;
use super::tls::{ClientCertificates, files, server_config};
use rustls::ServerConfig;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What new connections are served with.
pub struct NamedConfig {
    pub config: Arc<ServerConfig>,
    /// DNS names in small letters, and addresses.
    pub names: Vec<String>,
}

/// See the file's header.
pub struct NamedTls(Reloading<NamedConfig, SecurityError>);

impl NamedTls {
    /// `settings.key` is our certificate, `settings.trust` judges those of clients.
    pub fn new(settings: &TlsSettings, clients: ClientCertificates) -> Result<Self, SecurityError> {
        let owned = settings.clone();
        let load = move || {
            let config = Arc::new(server_config(&owned, clients)?);
            Ok(NamedConfig { config, names: names_of(&owned)? })
        };
        Reloading::new("TLS key material of the operators' listeners", files(settings), load).map(Self)
    }

    /// For the next connection.
    pub fn current(&self) -> Arc<NamedConfig> {
        self.0.current()
    }
}

fn names_of(settings: &TlsSettings) -> Result<Vec<String>, SecurityError> {
    let source = settings.key.as_ref().expect("a configuration was made of it");
    let identity = material::identity(source, &settings.key_password)?;
    Ok(identity.chain.first().map(|first| certificate_names(first)).unwrap_or_default())
}

/// A certificate without such names is for no host; what cannot be read is none.
fn certificate_names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let Ok(Some((_, SubjectAltName(names)))) = found else { return Vec::new() };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(|four| Ipv4Addr::from(four).to_string());
            four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|six| Ipv6Addr::from(six).to_string())).ok()
        }
        _ => None,
    };
    names.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_its_names_and_addresses() {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["Twinlog.example", "*.ops.example", "10.0.0.5", "::1"].map(str::to_owned);
        let params = rcgen::CertificateParams::new(names.to_vec()).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(
            certificate_names(certificate.der()),
            ["twinlog.example", "*.ops.example", "10.0.0.5", "::1"]
        );
        let bare = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        assert!(certificate_names(bare.der()).is_empty() && certificate_names(b"no DER").is_empty());
    }
}
