//! A daemon's listener as a client reaches it: its address, TLS, and the token that opens it.
//!
//! The token is read from its file for each request, so that a rotated one is used at once. It goes nowhere but
//! into one header, over TLS, or to this very host.

use crate::security::{
    ClientSecurity, KeySource, Secret, SecurityError, SecurityProtocol, SecuritySettings, StoreType,
    TlsSettings, TrustSource,
};
use hyper::Uri;
use hyper::header::HeaderValue;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

/// A token has 47 letters; a larger file is another one.
const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// Reading or writing by others than the owner.
const SHARED: u32 = 0o077;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where a daemon is, and by what it lets us in.
#[derive(Clone, Debug, Default)]
pub struct RemoteSettings {
    /// `https://HOST:PORT`, or `http://` of a loopback address.
    pub server: String,
    pub token_file: Option<PathBuf>,
    /// `None`: the authorities of this host.
    pub authorities: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    /// `None`: in the file of the certificate.
    pub key: Option<PathBuf>,
}

/// Why it cannot be reached, or is not asked.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoteError {
    Address {
        server: String,
    },
    /// A token would go over the network in the clear.
    Plain {
        server: String,
    },
    File {
        path: PathBuf,
        error: ErrorKind,
    },
    /// Others than its owner can read it.
    Readable {
        path: PathBuf,
        mode: u32,
    },
    /// Empty, or letters that are in no token.
    NoToken {
        path: PathBuf,
    },
    Connect {
        server: String,
        error: ErrorKind,
    },
    Security {
        server: String,
        why: SecurityError,
    },
}

impl RemoteError {
    /// What was said is wrong, and trying again is no cure.
    pub const fn is_usage(&self) -> bool {
        !matches!(self, Self::Connect { .. } | Self::Security { .. })
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { server } => write!(
                f,
                "{server:?} is no server: write https://HOST:PORT, as in admin.listeners of the daemon"
            ),
            Self::Plain { server } => write!(
                f,
                "{server} is not this host, and whoever listens on the way would see the token; use https"
            ),
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Readable { path, mode } => write!(
                f,
                "{} can be read by others (mode {mode:o}): chmod 600 {}",
                path.display(),
                path.display()
            ),
            Self::NoToken { path } => {
                write!(f, "{} holds no token; put there what twinlog token create shows", path.display())
            }
            Self::Connect { server, error } => write!(
                f,
                "{server} cannot be connected to: {error}; is it in admin.listeners of a daemon that runs?"
            ),
            Self::Security { server, why } => {
                write!(f, "{server}: {why} (--ca names the truststore here, --cert and --key the keystore)")
            }
        }
    }
}

impl std::error::Error for RemoteError {}

/// A connection.
pub enum RemoteStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// See the file's header.
pub struct RemoteServer {
    server: String,
    /// As it stands in `Host`.
    authority: HeaderValue,
    host: String,
    port: u16,
    security: ClientSecurity,
    token_file: Option<PathBuf>,
}

impl fmt::Debug for RemoteServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteServer({})", self.server)
    }
}

impl fmt::Display for RemoteServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server)
    }
}

impl RemoteServer {
    /// Reads certificates; the token is looked at to tell early what is wrong with it.
    pub fn new(settings: &RemoteSettings) -> Result<Self, RemoteError> {
        let server = settings.server.clone();
        let wrong = || RemoteError::Address { server: server.clone() };
        let uri: Uri = server.parse().map_err(|_| wrong())?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|authority| bare && !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(wrong()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_this_host = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_tls && !is_this_host {
            return Err(RemoteError::Plain { server });
        }
        let protocol = if is_tls { SecurityProtocol::Ssl } else { SecurityProtocol::Plaintext };
        let security = SecuritySettings { protocol, tls: tls_settings(settings)?, ..Default::default() };
        let security = ClientSecurity::from_settings(&security)
            .map_err(|why| RemoteError::Security { server: server.clone(), why })?;
        let remote = Self {
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
            host,
            port: authority.port_u16().unwrap_or(default_port),
            security,
            token_file: settings.token_file.clone(),
            server,
        };
        remote.authorization()?;
        Ok(remote)
    }

    pub(super) fn host(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// The header that opens the server, as the file has it now.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, RemoteError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = read(path, TOKEN_FILE_BYTES_MAX, true)?;
        let token = text.trim();
        let is_token = !token.is_empty() && token.bytes().all(|letter| letter.is_ascii_graphic());
        let header = is_token.then(|| Zeroizing::new(format!("Bearer {token}")));
        let value = header.and_then(|header| HeaderValue::from_str(&header).ok());
        let mut value = value.ok_or_else(|| RemoteError::NoToken { path: path.clone() })?;
        // Printed as a word that says so, wherever headers are printed.
        value.set_sensitive(true);
        Ok(Some(value))
    }

    pub(super) async fn connect(&self) -> Result<RemoteStream, RemoteError> {
        let failed = |error: ErrorKind| RemoteError::Connect { server: self.server.clone(), error };
        let insecure = |why| RemoteError::Security { server: self.server.clone(), why };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT_LIMIT, connecting).await.map_err(|_| failed(ErrorKind::TimedOut))?;
        let stream = stream.map_err(|error| failed(error.kind()))?;
        let Some(config) = self.security.tls() else { return Ok(RemoteStream::Plain(stream)) };
        let name = self.security.server_name(&self.host).map_err(insecure)?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        match timeout(CONNECT_LIMIT, handshake).await {
            Ok(Ok(stream)) => Ok(RemoteStream::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(insecure(match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => SecurityError::Tls { error: rustls::Error::clone(error) },
                None => SecurityError::HandshakeBroken { error: error.kind() },
            })),
            Err(_) => Err(insecure(SecurityError::HandshakeTimedOut { after: CONNECT_LIMIT })),
        }
    }
}

fn tls_settings(settings: &RemoteSettings) -> Result<TlsSettings, RemoteError> {
    let file = |path: &PathBuf| (path.clone(), StoreType::ByContent, Secret::default());
    let key = match (&settings.certificate, &settings.key) {
        (None, _) => None,
        (Some(both), None) => {
            let (path, store_type, password) = file(both);
            Some(KeySource::File { path, store_type, password })
        }
        (Some(chain), Some(key)) => Some(KeySource::Inline {
            key: Secret::from(read(key, KEY_FILE_BYTES_MAX, false)?.as_str()),
            chain: read(chain, KEY_FILE_BYTES_MAX, false)?.to_string(),
        }),
    };
    let trust = settings.authorities.as_ref().map(|path| {
        let (path, store_type, password) = file(path);
        TrustSource::File { path, store_type, password }
    });
    Ok(TlsSettings { key, trust: trust.unwrap_or_default(), ..TlsSettings::default() })
}

fn read(path: &Path, bytes_max: u64, is_own: bool) -> Result<Zeroizing<String>, RemoteError> {
    let failed = |error: std::io::Error| RemoteError::File { path: path.to_owned(), error: error.kind() };
    let found = std::fs::metadata(path).map_err(failed)?;
    let mode = found.mode() & 0o7777;
    if is_own && mode & SHARED != 0 {
        return Err(RemoteError::Readable { path: path.to_owned(), mode });
    }
    if found.len() > bytes_max {
        return Err(failed(ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn at(server: &str, token_file: Option<PathBuf>) -> Result<RemoteServer, RemoteError> {
        RemoteServer::new(&RemoteSettings { server: server.to_owned(), token_file, ..Default::default() })
    }

    #[test]
    fn a_token_goes_over_tls_or_nowhere() {
        for good in ["http://127.0.0.1:8090", "http://[::1]:8090/", "http://localhost:8090"] {
            assert!(at(good, None).is_ok(), "{good}");
        }
        assert!(matches!(at("http://twinlog.example:8090", None), Err(RemoteError::Plain { .. })));
        for bad in [
            "",
            "twinlog",
            "127.0.0.1:8090",
            "ftp://a:1",
            "https://a:1/path",
            "http://u:p@localhost:1",
            "unix:/x",
        ] {
            let refused = at(bad, None).unwrap_err();
            assert!(matches!(refused, RemoteError::Address { .. }) && refused.is_usage(), "{bad}: {refused}");
        }
    }

    #[test]
    fn the_file_of_a_token_is_its_owners_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            at("http://127.0.0.1:1", Some(path.clone()))
        };
        let server = write("hunter2\n", 0o600).unwrap();
        let header = server.authorization().unwrap().unwrap();
        assert_eq!(header, "Bearer hunter2");
        assert!(!format!("{header:?} {server:?} {server}").contains("hunter2"));
        let shared = write("hunter2\n", 0o640).unwrap_err().to_string();
        assert!(shared.contains("chmod 600") && !shared.contains("hunter2"), "{shared}");
        for nothing in ["", "\n", "two words\n", "line\nline\n"] {
            assert!(matches!(write(nothing, 0o600), Err(RemoteError::NoToken { .. })), "{nothing:?}");
        }
        let missing = at("http://127.0.0.1:1", Some(directory.path().join("none"))).unwrap_err();
        assert!(matches!(missing, RemoteError::File { error: ErrorKind::NotFound, .. }));
    }
}
