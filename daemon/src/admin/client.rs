//! Asks a running daemon: one connection, one request, one answer.
//!
//! Blocks nobody but its caller's task. Every wait is bounded a little above the server's own bound, so
//! that the server's sentence arrives instead of ours.

use super::error::ErrorBody;
use super::socket::{SocketError, check_length, socket_path};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Ten thousand partitions with their followers; held in memory, as text and as values.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const REQUEST_LIMIT: Duration = Duration::from_secs(130);

/// A daemon, by the socket of its data directory.
#[derive(Clone, Debug)]
pub struct AdminClient {
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Nobody listens.
    NotRunning {
        path: PathBuf,
    },
    /// The socket is another user's.
    Forbidden {
        path: PathBuf,
    },
    Socket(SocketError),
    Connect {
        path: PathBuf,
        error: ErrorKind,
    },
    /// The connection ended early or what came was no HTTP.
    Broken {
        path: PathBuf,
    },
    Slow {
        path: PathBuf,
    },
    /// The daemon refuses.
    Refused {
        code: u32,
        message: String,
    },
    /// Answered, but not in the words that we know: another version.
    NotUnderstood {
        status: u16,
        what: String,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { path } => write!(
                f,
                "no daemon answers on {}: start one with twinlog run --config FILE, or name the data \
                 directory of the one that runs with --data-dir or --config",
                path.display()
            ),
            Self::Forbidden { path } => {
                write!(f, "{} belongs to another user; run this as the user of the daemon", path.display())
            }
            Self::Socket(error) => write!(f, "{error}"),
            Self::Connect { path, error } => write!(f, "{} cannot be connected to: {error}", path.display()),
            Self::Broken { path } => write!(
                f,
                "the daemon behind {} ended the connection without an answer; look at its log, then at \
                 twinlog status: the order may have been carried out",
                path.display()
            ),
            Self::Slow { path } => write!(
                f,
                "the daemon behind {} did not answer within {REQUEST_LIMIT:?}; look at twinlog status: the \
                 order may have been carried out",
                path.display()
            ),
            Self::Refused { code, message } => write!(f, "{message} (code {code})"),
            Self::NotUnderstood { status, what } => write!(
                f,
                "the daemon answered {status} in words that this program does not know ({what}); use the \
                 program of the daemon's version"
            ),
        }
    }
}

impl std::error::Error for ClientError {}

impl AdminClient {
    pub fn new(data_dir: &Path) -> Self {
        Self { path: socket_path(data_dir) }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, Bytes::new()).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("texts, numbers and lists of them are always JSON");
        self.request(Method::POST, path, Bytes::from(body)).await
    }

    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("texts, numbers and lists of them are always JSON");
        self.request(Method::PUT, path, Bytes::from(body)).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let slow = |_| ClientError::Slow { path: self.path.clone() };
        let (status, answer) =
            timeout(REQUEST_LIMIT, self.exchange(method, path, body)).await.map_err(slow)??;
        let unknown = |error: serde_json::Error| ClientError::NotUnderstood {
            status: status.as_u16(),
            what: error.to_string(),
        };
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(unknown);
        }
        let ErrorBody { error_code, message } = serde_json::from_slice(&answer).map_err(unknown)?;
        Err(ClientError::Refused { code: error_code, message })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        check_length(&self.path).map_err(ClientError::Socket)?;
        let at = || self.path.clone();
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning { path: at() },
            ErrorKind::PermissionDenied => ClientError::Forbidden { path: at() },
            kind => ClientError::Connect { path: at(), error: kind },
        })?;
        let broken = |_| ClientError::Broken { path: at() };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "twinlog")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("paths are made of names that need no escapes");
        let answer = async move {
            // Goes with this block, and the connection with it.
            let mut sender = sender;
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            body.map(|body| (status, body.to_bytes())).map_err(|_| ClientError::Broken { path: at() })
        };
        // The connection moves the bytes: it ends with the answer, or before it.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }
}
