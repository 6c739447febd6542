//! Bearer tokens: where they come from, and how long each is good for.
//!
//! Owns the current token. Must never print one, nor the client's secret.

use super::endpoint::TokenEndpoint;
use crate::security::Secret;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A longer text is no token. SaslAuthenticate would take more; brokers have limits of their own.
pub(super) const TOKEN_BYTES_MAX: usize = 64 << 10;
/// What a URL begins with that names a file: Kafka has no other key for it.
const FILE_SCHEME: &str = "file://";

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// Neither `https://` nor `file:///`.
    Url {
        url: String,
    },
    File {
        path: PathBuf,
        error: std::io::ErrorKind,
    },
    /// Empty, too long, or with letters that no token has.
    NotAToken,
    /// None has come from the endpoint so far.
    NotYet,
    Endpoint {
        url: String,
        why: EndpointFault,
    },
}

/// What the token endpoint did instead of giving one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointFault {
    Network { error: std::io::ErrorKind },
    Tls { why: String },
    TimedOut { after: Duration },
    Status { status: u16, told: String },
    NotHttp,
    NotJson,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url } => write!(
                f,
                "sasl.oauthbearer.token.endpoint.url = {url:?} is neither https://HOST[:PORT]/PATH nor \
                 file:///PATH (http:// only to this host itself)"
            ),
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::NotAToken => write!(f, "what was read is no token: letters, digits and -._~+/= only"),
            Self::NotYet => write!(f, "the endpoint has not given one yet"),
            Self::Endpoint { url, why } => write!(f, "{url}: {why}"),
        }
    }
}

impl fmt::Display for EndpointFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { error } => write!(f, "{error}"),
            Self::Tls { why } => write!(f, "{why}"),
            Self::TimedOut { after } => write!(f, "no answer within {} ms", after.as_millis()),
            Self::Status { status, told } => {
                write!(f, "HTTP status {status} ({told}); look at the client's id, secret and scope")
            }
            Self::NotHttp => write!(f, "what answers there is not HTTP"),
            Self::NotJson => write!(f, "its answer has no access_token"),
        }
    }
}

/// Where tokens come from.
pub(super) enum TokenSource {
    /// Read for each exchange: whoever renews it replaces it.
    File(PathBuf),
    Endpoint(Box<TokenEndpoint>),
}

impl TokenSource {
    /// A file, where the URL names one.
    pub(super) fn file(url: &str) -> Option<Self> {
        let path = url.strip_prefix(FILE_SCHEME).filter(|path| path.starts_with('/'))?;
        Some(Self::File(PathBuf::from(path)))
    }

    pub(super) fn token(&self) -> Result<Secret, TokenFault> {
        match self {
            Self::File(path) => read_token(path),
            Self::Endpoint(endpoint) => endpoint.token(),
        }
    }
}

fn read_token(path: &Path) -> Result<Secret, TokenFault> {
    let failed = |error| TokenFault::File { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.len();
    if length > TOKEN_BYTES_MAX as u64 {
        return Err(TokenFault::NotAToken);
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.kind()))?;
    checked(Secret::new(text))
}

/// A token has no letters that would end its field in the message. ref: RFC 6750 2.1
pub(super) fn checked(token: Secret) -> Result<Secret, TokenFault> {
    let text = token.expose().trim();
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(is_legal) {
        Ok(Secret::from(text))
    } else {
        Err(TokenFault::NotAToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let source = TokenSource::file(&format!("file://{}", path.display())).unwrap();
        assert!(matches!(source.token(), Err(TokenFault::File { .. })));
        for token in ["eyJ.eyJ.", "eyK.eyK.sig_-"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            assert_eq!(source.token().unwrap().expose(), token);
        }
        std::fs::write(&path, "a\x01auth=Bearer b").unwrap();
        assert_eq!(source.token(), Err(TokenFault::NotAToken));
    }

    #[test]
    fn another_url_is_no_file() {
        for url in ["", "ftp://a/b", "file://relative", "token", "https://a/b"] {
            assert!(TokenSource::file(url).is_none(), "{url}");
        }
    }
}
