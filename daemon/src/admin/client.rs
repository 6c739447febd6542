//! Asks a running daemon, over its socket or over the network: one connection, one request, one answer.
//!
//! Blocks nobody but its caller's task. Every wait is bounded a little above the server's own bound, so
//! that the server's sentence arrives instead of ours.

use super::answer::ListView;
use super::error::ErrorBody;
use super::remote::{RemoteError, RemoteServer};
use super::socket::{SocketError, check_length, socket_path};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Ten thousand partitions with their followers; held in memory, as text and as values.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const REQUEST_LIMIT: Duration = Duration::from_secs(130);

/// Pages of one list: a server that always names another one is not followed for ever.
const PAGES_MAX: usize = 10_000;

/// A daemon.
#[derive(Clone, Debug)]
pub struct AdminClient(Way);

#[derive(Clone, Debug)]
enum Way {
    /// The socket of its data directory.
    Socket(PathBuf),
    Server(Arc<RemoteServer>),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Server(server) => write!(f, "{server}"),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
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
    /// The server over the network.
    Remote(RemoteError),
    /// The connection ended early or what came was no HTTP.
    Broken {
        at: String,
    },
    Slow {
        at: String,
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
            Self::Remote(error) => write!(f, "{error}"),
            Self::Broken { at } => write!(
                f,
                "the daemon behind {at} ended the connection without an answer; look at its log, then at \
                 twinlog status: the order may have been carried out"
            ),
            Self::Slow { at } => write!(
                f,
                "the daemon behind {at} did not answer within {REQUEST_LIMIT:?}; look at twinlog status: the \
                 order may have been carried out"
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
        Self(Way::Socket(socket_path(data_dir)))
    }

    pub fn remote(server: RemoteServer) -> Self {
        Self(Way::Server(Arc::new(server)))
    }

    /// A whole list, page by page.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<ListView<T>, ClientError> {
        let mut whole: ListView<T> = self.get(path).await?;
        for _ in 1..PAGES_MAX {
            let Some(next) = whole.metadata.next.take() else { break };
            let page: ListView<T> = self.get(&next).await?;
            whole.data.extend(page.data);
            whole.metadata.next = page.metadata.next;
        }
        Ok(whole)
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
        let slow = |_| ClientError::Slow { at: self.0.to_string() };
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
        let broken = || ClientError::Broken { at: self.0.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "twinlog")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        // A name that the server gave back may be no path; ours are made of names that need no escapes.
        let mut request = request.map_err(|_| broken())?;
        match &self.0 {
            Way::Socket(path) => send(connect(path).await?, request).await.ok_or_else(broken),
            Way::Server(server) => {
                let headers = request.headers_mut();
                headers.insert(HOST, server.host());
                if let Some(token) = server.authorization().map_err(ClientError::Remote)? {
                    headers.insert(AUTHORIZATION, token);
                }
                match server.connect().await.map_err(ClientError::Remote)? {
                    super::remote::RemoteStream::Plain(stream) => send(stream, request).await,
                    super::remote::RemoteStream::Tls(stream) => send(stream, request).await,
                }
                .ok_or_else(broken)
            }
        }
    }
}

async fn connect(path: &Path) -> Result<UnixStream, ClientError> {
    check_length(path).map_err(ClientError::Socket)?;
    let at = || path.to_owned();
    UnixStream::connect(path).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning { path: at() },
        ErrorKind::PermissionDenied => ClientError::Forbidden { path: at() },
        kind => ClientError::Connect { path: at(), error: kind },
    })
}

/// `None`: the connection ended without a whole answer.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let answer = async move {
        // Goes with this block, and the connection with it.
        let mut sender = sender;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.ok().map(|body| (status, body.to_bytes()))
    };
    // The connection moves the bytes: it ends with the answer, or before it.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
