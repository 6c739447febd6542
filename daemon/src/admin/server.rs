//! HTTP on the socket and on listeners: one request for each connection, everything about it bounded.
//!
//! Runs on the control core's runtime. A peer that sends or reads slowly holds its own place only, for a bounded
//! time; the places of the socket are its own, so that no flood over the network takes them.

use super::audit;
use super::carrying::{Carried, carry};
use super::door::{Caller, Door, is_change};
use super::error::AdminError;
use super::response::{Answer, refusal};
use super::role::Role;
use super::route::{Asked, route};
use super::{AdminRequest, AdminSocket, ErrorCode};
use crate::control::state::{AuditRow, StateDatabase};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, watch};
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
/// What is read of a body whose order is refused already: a peer that still sends would miss the answer, since
/// closing over unread bytes resets the connection. Raised, strangers have more of it read.
const UNREAD_BYTES_MAX: usize = 64 << 10;
const UNREAD_LIMIT: Duration = Duration::from_secs(1);
/// A whole connection, the reading of its answer included.
pub(super) const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
/// After an accept failed, mostly for want of descriptors: trying at once would only burn the core.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether orders are taken, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// What is waited for, in words.
    NotReady {
        why: String,
    },
}

/// What stands behind every way in. Whoever reads `requests` answers them.
#[derive(Clone)]
pub struct Backend {
    pub requests: mpsc::Sender<AdminRequest>,
    pub readiness: watch::Receiver<Readiness>,
    /// Keeps the audit.
    pub state: StateDatabase,
}

/// What a connection holds as long as anything of it is under way.
pub(super) type Held = Arc<dyn Any + Send + Sync>;

/// Serves the socket until it is dropped.
pub async fn serve(socket: AdminSocket, backend: Backend) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the slots are never closed");
        while connections.try_join_next().is_some() {}
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let user_id = stream.peer_cred().ok().map(|credentials| credentials.uid());
                let work = talk(stream, Door::Socket { user_id }, backend.clone(), Arc::new(slot));
                connections.spawn(async move {
                    if timeout(CONNECTION_LIMIT, work).await.is_err() {
                        debug!("a connection of an operator took longer than {CONNECTION_LIMIT:?}");
                    }
                });
            }
            Err(error) => {
                warn!("{}: no connection is accepted: {error}", socket.path().display());
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte of HTTP to its end.
pub(super) async fn talk<S>(stream: S, door: Door, backend: Backend, held: Held)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let door = Arc::new(door);
    let service = service_fn(|request| {
        let (door, backend, held) = (door.clone(), backend.clone(), held.clone());
        async move { Ok::<_, Infallible>(answer(request, door, backend, held).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // An idle connection would hold its slot.
        .keep_alive(false)
        // A peer that has said everything may close its side: its order is carried out and audited all the same.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!("an operator's connection ended early: {error}");
    }
}

async fn answer(request: Request<Incoming>, door: Arc<Door>, backend: Backend, held: Held) -> Answer {
    let (head, body) = request.into_parts();
    if !is_change(&head.method) {
        return judged(&head, body, &door, &backend).await;
    }
    // A peer that ends its connection takes this future with it, not the order, nor its row.
    let order = tokio::spawn(async move {
        let answer = judged(&head, body, &door, &backend).await;
        drop(held);
        answer
    });
    order.await.unwrap_or_else(|_| {
        refusal(&AdminError::new(ErrorCode::Internal, &"the order ended without an answer; look at the log"))
    })
}

async fn judged(head: &Parts, body: Incoming, door: &Door, backend: &Backend) -> Answer {
    let (caller, admitted) = door.admit(head);
    let mut row = audit::begin(&caller, head);
    let outcome = match admitted {
        Ok(()) => process(head, body, &caller, backend, &mut row).await,
        Err(error) => {
            let unread = Limited::new(body, UNREAD_BYTES_MAX).collect();
            let _ = timeout(UNREAD_LIMIT, unread).await;
            Err(error)
        }
    };
    let (answer, error_code) = outcome.unwrap_or_else(|error| {
        let number = error.code.number().to_string();
        (refusal(&error), number)
    });
    if is_change(&head.method) && caller.is_audited {
        (row.status, row.error_code) = (answer.status().as_u16(), error_code);
        audit::keep(&backend.state, row).await;
    }
    answer
}

async fn process(
    head: &Parts,
    body: Incoming,
    caller: &Caller,
    backend: &Backend,
    row: &mut AuditRow,
) -> Result<Carried, AdminError> {
    let body = whole(body).await?;
    let path = head.uri.path();
    let asked = route(&head.method, path, head.uri.query(), &body)?;
    audit::said(row, asked.said());
    if matches!(asked, Asked::Audit { .. }) && caller.role != Some(Role::Operator) {
        let why = format!("{} is a viewer; the audit is for operators", caller.who);
        return Err(AdminError::new(ErrorCode::NotAllowed, &why));
    }
    carry(asked, path, backend).await
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
