//! Certificates and private keys: out of PEM text, PEM files and PKCS#12 files.
//!
//! Owns the bytes of key material on their way into rustls. It must never put any of them into an error.
//! JKS is refused with the command that converts it: no kept library reads it.

use super::error::SecurityError;
use super::secret::Secret;
use super::settings::{KeySource, StoreType, TrustSource};
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12Archive, Pkcs12ImportPolicy};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::SecretDocument;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bundles of all public authorities have a quarter of it. Raised, a wrong path costs as much memory.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What a file begins with that Java's own format fills.
const JKS_MAGIC: [u8; 4] = [0xFE, 0xED, 0xFE, 0xED];
/// The label of a key that PKCS#8 encrypts.
const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";
/// How OpenSSL marked encrypted keys before PKCS#8.
const LEGACY_ENCRYPTED: &str = "Proc-Type: 4,ENCRYPTED";

/// A certificate with those that lead to its authority, and its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What is wrong with key material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaterialFault {
    NotPem,
    NoCertificate,
    NoKey,
    /// More than one key: which one is meant cannot be known.
    SeveralKeys {
        keys: usize,
    },
    PasswordMissing,
    PasswordWrong,
    /// Encrypted as OpenSSL did before PKCS#8.
    LegacyEncryption {
        path: Option<PathBuf>,
    },
    Jks {
        path: PathBuf,
    },
    /// A PKCS#12 file that cannot be opened: damaged, or not that password's.
    Pkcs12,
    /// A certificate that rustls does not take.
    Certificate {
        why: String,
    },
    /// Key and certificate do not belong together, or the key's kind is not known.
    Key {
        why: String,
    },
    Empty,
}

impl fmt::Display for MaterialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem => write!(f, "it is not PEM: -----BEGIN ...----- is missing or damaged"),
            Self::NoCertificate => write!(f, "it holds no certificate"),
            Self::NoKey => write!(f, "it holds no private key"),
            Self::SeveralKeys { keys } => {
                write!(f, "it holds {keys} private keys, and one must be chosen: leave one")
            }
            Self::PasswordMissing => {
                write!(f, "its key is encrypted: give ssl.key.password (ssl.keystore.password for PKCS12)")
            }
            Self::PasswordWrong => write!(f, "the password does not open its key"),
            Self::LegacyEncryption { path } => write!(
                f,
                "its key is encrypted in OpenSSL's old way; convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -in \
                 {} -out NEW.pem",
                path.as_ref().map_or("OLD.pem".into(), |path| path.display().to_string())
            ),
            Self::Jks { path } => write!(
                f,
                "it is Java's own format; convert it: keytool -importkeystore -srckeystore {0} -srcstoretype JKS \
                 -destkeystore {0}.p12 -deststoretype PKCS12",
                path.display()
            ),
            Self::Pkcs12 => {
                write!(f, "it cannot be opened as PKCS12: the password is wrong, or the file is damaged")
            }
            Self::Certificate { why } => write!(f, "one of its certificates is not usable: {why}"),
            Self::Key { why } => write!(f, "its key is not usable with its certificate: {why}"),
            Self::Empty => write!(f, "it is empty"),
        }
    }
}

/// Our certificate and key.
pub fn identity(source: &KeySource, key_password: &Secret) -> Result<Identity, SecurityError> {
    match source {
        KeySource::Inline { key, chain } => {
            let key = resolve("ssl.keystore.key", key)?;
            let password = resolve("ssl.key.password", key_password)?;
            let wrong = |key, why| SecurityError::Material { key, path: None, why };
            let key_der =
                pem_key(key.expose(), &password, None).map_err(|why| wrong("ssl.keystore.key", why))?;
            let chain =
                pem_certificates(chain).map_err(|why| wrong("ssl.keystore.certificate.chain", why))?;
            Ok(Identity { chain, key: key_der })
        }
        KeySource::File { path, store_type, password } => {
            const KEY: &str = "ssl.keystore.location";
            let bytes = read(KEY, path)?;
            let wrong = |why| SecurityError::Material { key: KEY, path: Some(path.clone()), why };
            let key_password = resolve("ssl.key.password", key_password)?;
            let password = resolve("ssl.keystore.password", password)?;
            match kind_of(&bytes, *store_type, path).map_err(wrong)? {
                Kind::Pem(text) => {
                    let either = if key_password.is_empty() { &password } else { &key_password };
                    let key = pem_key(text, either, Some(path)).map_err(wrong)?;
                    Ok(Identity { chain: pem_certificates(text).map_err(wrong)?, key })
                }
                Kind::Pkcs12 => pkcs12_identity(&bytes, &password).map_err(wrong),
            }
        }
    }
}

/// The authorities that are believed.
pub fn authorities(source: &TrustSource) -> Result<RootCertStore, SecurityError> {
    let mut roots = RootCertStore::empty();
    match source {
        TrustSource::System => {
            // The host's own: what its administrator removed or added must count here too, which a list
            // that is compiled in does not know. A few that cannot be parsed are normal.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() { Err(SecurityError::NoAuthorities) } else { Ok(roots) }
        }
        TrustSource::Inline(text) => {
            let wrong = |why| SecurityError::Material { key: "ssl.truststore.certificates", path: None, why };
            add_all(&mut roots, pem_certificates(text).map_err(wrong)?).map_err(wrong)?;
            Ok(roots)
        }
        TrustSource::File { path, store_type, password } => {
            const KEY: &str = "ssl.truststore.location";
            let bytes = read(KEY, path)?;
            let wrong = |why| SecurityError::Material { key: KEY, path: Some(path.clone()), why };
            let certificates = match kind_of(&bytes, *store_type, path).map_err(wrong)? {
                Kind::Pem(text) => pem_certificates(text).map_err(wrong)?,
                Kind::Pkcs12 => {
                    let password = resolve("ssl.truststore.password", password)?;
                    pkcs12_certificates(&bytes, &password).map_err(wrong)?
                }
            };
            add_all(&mut roots, certificates).map_err(wrong)?;
            Ok(roots)
        }
    }
}

/// A secret as it is now, or why this key's reference leads nowhere.
pub fn resolve(key: &'static str, secret: &Secret) -> Result<Secret, SecurityError> {
    secret.resolve().map_err(|why| SecurityError::Reference { key, why })
}

fn read(key: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
    let failed = |error| SecurityError::File { key, path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| failed(error.kind()))
}

enum Kind<'a> {
    Pem(&'a str),
    Pkcs12,
}

fn kind_of<'a>(bytes: &'a [u8], said: StoreType, path: &Path) -> Result<Kind<'a>, MaterialFault> {
    if bytes.is_empty() {
        return Err(MaterialFault::Empty);
    }
    if bytes.starts_with(&JKS_MAGIC) {
        return Err(MaterialFault::Jks { path: path.to_owned() });
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN "));
    match (said, text) {
        (StoreType::Pem | StoreType::ByContent, Some(text)) => Ok(Kind::Pem(text)),
        (StoreType::Pem, None) => Err(MaterialFault::NotPem),
        (StoreType::ByContent | StoreType::Pkcs12 | StoreType::Jks, _) => Ok(Kind::Pkcs12),
    }
}

fn pem_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, MaterialFault> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Err(_) => Err(MaterialFault::NotPem),
        Ok(none) if none.is_empty() => Err(MaterialFault::NoCertificate),
        Ok(certificates) => Ok(certificates),
    }
}

fn pem_key(
    text: &str,
    password: &Secret,
    path: Option<&Path>,
) -> Result<PrivateKeyDer<'static>, MaterialFault> {
    if text.contains(LEGACY_ENCRYPTED) {
        return Err(MaterialFault::LegacyEncryption { path: path.map(Path::to_owned) });
    }
    if let Some(encrypted) = section(text, ENCRYPTED_LABEL) {
        if password.is_empty() {
            return Err(MaterialFault::PasswordMissing);
        }
        let (_, document) = SecretDocument::from_pem(encrypted).map_err(|_| MaterialFault::NotPem)?;
        let info =
            EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| MaterialFault::NotPem)?;
        let opened = info.decrypt(password.expose()).map_err(|_| MaterialFault::PasswordWrong)?;
        return Ok(PrivatePkcs8KeyDer::from(opened.as_bytes().to_vec()).into());
    }
    let mut keys: Vec<_> = PrivateKeyDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| MaterialFault::NotPem)?;
    match (keys.pop(), keys.len()) {
        (None, _) => Err(MaterialFault::NoKey),
        (Some(key), 0) => Ok(key),
        (Some(_), others) => Err(MaterialFault::SeveralKeys { keys: others + 1 }),
    }
}

/// The text from the label's first line to its last.
fn section<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let start = text.find(&format!("-----BEGIN {label}-----"))?;
    let last = format!("-----END {label}-----");
    let length = text[start..].find(&last)? + last.len();
    Some(&text[start..start + length])
}

fn pkcs12_identity(bytes: &[u8], password: &Secret) -> Result<Identity, MaterialFault> {
    let store = KeyStore::from_pkcs12(bytes, password.expose(), Pkcs12ImportPolicy::Strict)
        .map_err(|_| MaterialFault::Pkcs12)?;
    let mut chains = store.entries().filter_map(|(_, entry)| match entry {
        KeyStoreEntry::PrivateKeyChain(chain) => Some(chain),
        _ => None,
    });
    let chain = chains.next().ok_or(MaterialFault::NoKey)?;
    match chains.count() {
        0 => {}
        others => return Err(MaterialFault::SeveralKeys { keys: others + 1 }),
    }
    let key = PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec()).into();
    let certificates = chain.certs().iter().map(|each| CertificateDer::from(each.as_der().to_vec()));
    Ok(Identity { chain: certificates.collect(), key })
}

fn pkcs12_certificates(
    bytes: &[u8],
    password: &Secret,
) -> Result<Vec<CertificateDer<'static>>, MaterialFault> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, password.expose()).map_err(|_| MaterialFault::Pkcs12)?;
    let certificates: Vec<_> =
        archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    if certificates.is_empty() { Err(MaterialFault::NoCertificate) } else { Ok(certificates) }
}

fn add_all(
    roots: &mut RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<(), MaterialFault> {
    for certificate in certificates {
        roots.add(certificate).map_err(|error| MaterialFault::Certificate { why: error.to_string() })?;
    }
    Ok(())
}
