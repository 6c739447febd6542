//! HTTP on the socket: one request for each connection, everything about it bounded.
//!
//! Runs on the control core's runtime. It never waits for the queue of the supervisor, and a peer that
//! sends or reads slowly holds its own slot only, for a bounded time.

use super::answer::{ListView, Metadata};
use super::error::AdminError;
use super::route::{Asked, route};
use super::{AdminRequest, AdminSocket, ErrorCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Connections at a time; the next ones wait in the kernel. Each may hold a body and an answer.
const CONNECTIONS_MAX: usize = 32;
/// Ten thousand topic names of ordinary length; times the connections it is held in memory.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Request line and headers: a longer path than any of ours, and the headers of any client.
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long the supervisor may take: it asks clusters that may be slow, never those that are gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// A whole connection, the reading of its answer included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
/// After an accept failed, mostly for want of descriptors: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether orders are taken, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// What is waited for, in words.
    NotReady {
        why: String,
    },
}

/// Serves until it is dropped. Whoever reads `requests` answers them.
pub async fn serve(
    socket: AdminSocket,
    requests: mpsc::Sender<AdminRequest>,
    readiness: watch::Receiver<Readiness>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the slots are never closed");
        while connections.try_join_next().is_some() {}
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let (requests, readiness) = (requests.clone(), readiness.clone());
                connections.spawn(async move {
                    if timeout(CONNECTION_LIMIT, talk(stream, requests, readiness)).await.is_err() {
                        debug!("a connection of an operator took longer than {CONNECTION_LIMIT:?}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!("{}: no connection is accepted: {error}", socket.path().display());
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn talk(
    stream: UnixStream,
    requests: mpsc::Sender<AdminRequest>,
    readiness: watch::Receiver<Readiness>,
) {
    let service = service_fn(|request| {
        let (requests, readiness) = (requests.clone(), readiness.borrow().clone());
        async move { Ok::<_, Infallible>(answer(request, &requests, readiness).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // An idle connection would hold its slot.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!("an operator's connection ended early: {error}");
    }
}

async fn answer(
    request: Request<Incoming>,
    requests: &mpsc::Sender<AdminRequest>,
    readiness: Readiness,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let outcome = match whole(body).await {
        Ok(body) => route(&head.method, path, head.uri.query(), &body),
        Err(error) => Err(error),
    };
    let answered = match outcome {
        Ok(asked) => carry(asked, path, requests, readiness).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| {
        let status = StatusCode::from_u16(error.code.status()).expect("codes begin with a status");
        response(status, &error.body())
    })
}

async fn whole(body: Incoming) -> Result<Bytes, AdminError> {
    let collected = timeout(BODY_LIMIT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let why = format!("a body has {BODY_BYTES_MAX} bytes at most; split it, or give a pattern");
            Err(AdminError::new(ErrorCode::BodyTooLarge, &why))
        }
        Ok(Err(_)) => Err(AdminError::new(ErrorCode::Malformed, &"the body ended early")),
        Err(_) => {
            let why = format!("the body did not arrive within {BODY_LIMIT:?}");
            Err(AdminError::new(ErrorCode::SlowBody, &why))
        }
    }
}

/// Asks the supervisor and writes down what it answers.
async fn carry(
    asked: Asked,
    path: &str,
    requests: &mpsc::Sender<AdminRequest>,
    readiness: Readiness,
) -> Result<Response<Full<Bytes>>, AdminError> {
    use AdminRequest as R;
    let to = requests;
    Ok(match asked {
        Asked::Health => text(StatusCode::OK, "ok"),
        Asked::Readiness => match readiness {
            Readiness::Ready => text(StatusCode::OK, "ready"),
            Readiness::NotReady { why } => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        Asked::Status => one(&ask(to, |reply| R::Status { reply }).await?),
        Asked::Clusters => list("KafkaClusterList", path, ask(to, |reply| R::ListClusters { reply }).await?),
        Asked::Links { cluster } => {
            list("KafkaLinkDataList", path, ask(to, |reply| R::ListLinks { cluster, reply }).await?)
        }
        Asked::Link { at } => one(&ask(to, |reply| R::DescribeLink { at, reply }).await?),
        Asked::Mirrors { cluster, link } => {
            let mirrors = ask(to, |reply| R::ListMirrors { cluster, link, reply }).await?;
            list("KafkaMirrorDataList", path, mirrors)
        }
        Asked::Mirror { at, topic } => one(&ask(to, |reply| R::DescribeMirror { at, topic, reply }).await?),
        Asked::Create { at, names, validate_only } => {
            let done = ask(to, |reply| R::CreateMirrors { at, names, validate_only, reply }).await?;
            list(ACTIONS, path, done)
        }
        Asked::Promote { at, selection, validate_only, allowed } => {
            let begun = ask(to, |reply| R::Promote { at, selection, validate_only, allowed, reply }).await?;
            list(ACTIONS, path, begun)
        }
        Asked::Failover { at, selection, validate_only, open_transactions } => {
            let begun =
                ask(to, |reply| R::Failover { at, selection, validate_only, open_transactions, reply })
                    .await?;
            list(ACTIONS, path, begun)
        }
        Asked::Pause { at, selection, validate_only } => {
            let done = ask(to, |reply| R::PauseMirrors { at, selection, validate_only, reply }).await?;
            list(ACTIONS, path, done)
        }
        Asked::Resume { at, selection, release, validate_only } => {
            let done =
                ask(to, |reply| R::ResumeMirrors { at, selection, release, validate_only, reply }).await?;
            list(ACTIONS, path, done)
        }
        Asked::PauseLink { at, paused, validate_only } => {
            one(&ask(to, |reply| R::PauseLink { at, paused, validate_only, reply }).await?)
        }
        Asked::Delete { at, topic, delete_data, validate_only } => {
            let names = vec![topic];
            let done =
                ask(to, |reply| R::DeleteMirrors { at, names, delete_data, validate_only, reply }).await?;
            list(ACTIONS, path, done)
        }
        Asked::Leave { at, validate_only } => {
            one(&ask(to, |reply| R::GuestLeave { at, validate_only, reply }).await?)
        }
    })
}

/// The kind of every list of what orders did.
const ACTIONS: &str = "KafkaAlterMirrorStatusResponseDataList";

async fn ask<T>(
    requests: &mpsc::Sender<AdminRequest>,
    request: impl FnOnce(super::Reply<T>) -> AdminRequest,
) -> Result<T, AdminError> {
    let (reply, answered) = oneshot::channel();
    requests.try_send(request(reply)).map_err(|error| {
        let why = match error {
            mpsc::error::TrySendError::Full(_) => "the daemon is busy with earlier requests; try again",
            mpsc::error::TrySendError::Closed(_) => "the daemon is ending",
        };
        AdminError::new(ErrorCode::Busy, &why)
    })?;
    match timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(AdminError::new(ErrorCode::Busy, &"the daemon is ending and gave no answer")),
        Err(_) => {
            let why = format!("no answer within {ANSWER_LIMIT:?}; the order may still be carried out");
            Err(AdminError::new(ErrorCode::SlowAnswer, &why))
        }
    }
}

fn list<T: Serialize>(kind: &str, path: &str, data: Vec<T>) -> Response<Full<Bytes>> {
    let metadata = Metadata { path: path.to_owned(), next: None };
    one(&ListView { kind: kind.to_owned(), metadata, data })
}

fn one<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    response(StatusCode::OK, value)
}

fn response<T: Serialize>(status: StatusCode, value: &T) -> Response<Full<Bytes>> {
    let json = serde_json::to_vec(value).expect("texts, numbers and lists of them are always JSON");
    finish(status, "application/json", json)
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    finish(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
}

fn finish(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
