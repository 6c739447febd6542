//! A connection on which requests are sent without waiting for the answers to earlier ones.
//!
//! ```text
//!   send --(bounded queue)--> writer --bytes--> broker --bytes--> reader --> the one who asked
//!                                \--in order, at most IN_FLIGHT_MAX--------^
//! ```
//! A broker answers the requests of one connection in their order, one after the other: what is saved is the way
//! there and back. A pipeline on which anything went wrong is never used again, and everybody who waits is told.

use super::connection::{
    Connection, FRAME_BYTES_MAX, Parts, broken, common_version, decode, encode, read_frame,
};
use super::{ClientError, Shaped};
use crate::config::HostPort;
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::protocol::VersionRange;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// Requests that are sent and not answered. More of them would wait in the broker instead of here, where they can
/// still be given up.
const IN_FLIGHT_MAX: usize = 64;
/// Requests that wait to be sent.
const QUEUE_MAX: usize = 64;
/// A session that ends this soon is not begun with another request: the broker would close under it. ref: KIP-368
const RENEW_MARGIN: Duration = Duration::from_secs(5);
/// Where a frame's correlation id stands.
const CORRELATION_ID: std::ops::Range<usize> = 8..12;

type Told = Result<(Bytes, i32), ClientError>;

struct Job {
    frame: BytesMut,
    request: &'static str,
    told: oneshot::Sender<Told>,
}

/// What was sent and is waited for.
struct Waiting {
    correlation_id: i32,
    request: &'static str,
    told: oneshot::Sender<Told>,
}

/// See the file's header.
pub struct Pipeline {
    server: HostPort,
    client_id: String,
    versions: Arc<BTreeMap<i16, VersionRange>>,
    jobs: mpsc::Sender<Job>,
    renew_at: Option<Instant>,
}

/// An answer that is under way.
pub struct Answer<R> {
    server: HostPort,
    version: i16,
    told: oneshot::Receiver<Told>,
    request: PhantomData<fn() -> R>,
}

impl Pipeline {
    pub fn start(connection: Connection) -> Self {
        let Parts { server, stream, options, versions, renew_at } = connection.into_parts();
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (sent, waiting) = mpsc::channel(IN_FLIGHT_MAX);
        let (reader, writer) = tokio::io::split(stream);
        let told = server.clone();
        tokio::spawn(async move {
            // One ends the other: without a writer nothing comes any more, without a reader nothing is believed.
            tokio::select! {
                () = write_all(&told, writer, queue, sent) => {}
                () = read_all(&told, reader, waiting, options.request_timeout) => {}
            }
        });
        Self { server, client_id: options.client_id, versions: Arc::new(versions), jobs, renew_at }
    }

    /// It takes further requests.
    pub fn is_open(&self) -> bool {
        let renewed = self.renew_at.is_some_and(|at| Instant::now() + RENEW_MARGIN >= at);
        !self.jobs.is_closed() && !renewed
    }

    pub fn version<R: Shaped>(&self) -> Result<i16, ClientError> {
        common_version::<R>(&self.server, self.versions.get(&R::KEY).copied())
    }

    /// Sends a request; waits only while the queue is full.
    pub async fn send<R: Shaped>(&self, request: impl FnOnce(i16) -> R) -> Result<Answer<R>, ClientError> {
        let version = self.version::<R>()?;
        let frame = encode(&request(version), version, 0, &self.client_id);
        let (told, answer) = oneshot::channel();
        let job = Job { frame, request: R::NAME, told };
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| self.gone())?;
        Ok(Answer { server: self.server.clone(), version, told: answer, request: PhantomData })
    }

    fn gone(&self) -> ClientError {
        ClientError::Network { server: self.server.clone(), error: ErrorKind::BrokenPipe }
    }
}

impl<R: Shaped> Answer<R> {
    /// As the library reads it.
    pub async fn decoded(self) -> Result<R::Response, ClientError> {
        let (frame, correlation_id) = told(&self.server, self.told).await?;
        decode::<R>(&self.server, frame, correlation_id, self.version)
    }

    /// The bytes behind the correlation id, for those who read them themselves.
    pub async fn raw(self) -> Result<Bytes, ClientError> {
        let (mut frame, _) = told(&self.server, self.told).await?;
        frame.advance(4);
        Ok(frame)
    }
}

async fn told(server: &HostPort, told: oneshot::Receiver<Told>) -> Told {
    let gone = |_| ClientError::Network { server: server.clone(), error: ErrorKind::ConnectionReset };
    told.await.map_err(gone)?
}

async fn write_all(
    server: &HostPort,
    mut writer: WriteHalf<super::socket::BoxedSocket>,
    mut queue: mpsc::Receiver<Job>,
    sent: mpsc::Sender<Waiting>,
) {
    let mut correlation_id = 0_i32;
    while let Some(Job { mut frame, request, told }) = queue.recv().await {
        correlation_id = correlation_id.wrapping_add(1) & i32::MAX;
        frame[CORRELATION_ID].copy_from_slice(&correlation_id.to_be_bytes());
        // Room first: a request whose answer nobody expects must not be sent.
        let Ok(place) = sent.reserve().await else { return };
        let written = async {
            writer.write_all(&frame).await?;
            // What comes next may ride along; TLS keeps what the socket did not take.
            if queue.is_empty() { writer.flush().await } else { Ok(()) }
        };
        if let Err(error) = written.await {
            // Whoever hears of it sees a connection that broke.
            let _ = told.send(Err(broken(server, &error)));
            return;
        }
        place.send(Waiting { correlation_id, request, told });
    }
    // Nobody asks any more; those who asked are still answered.
    drop(sent);
    std::future::pending::<()>().await;
}

async fn read_all(
    server: &HostPort,
    mut reader: ReadHalf<super::socket::BoxedSocket>,
    mut waiting: mpsc::Receiver<Waiting>,
    after: Duration,
) {
    while let Some(Waiting { correlation_id, request, told }) = waiting.recv().await {
        let frame = match timeout(after, read_frame(server, &mut reader, FRAME_BYTES_MAX)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return drop(told.send(Err(error))),
            Err(_) => {
                let error = ClientError::TimedOut { server: server.clone(), request, after };
                return drop(told.send(Err(error)));
            }
        };
        let found = i32::from_be_bytes(frame[..4].try_into().expect("a frame has four bytes at least"));
        if found != correlation_id {
            let (server, expected) = (server.clone(), correlation_id);
            return drop(told.send(Err(ClientError::CorrelationId { server, expected, found })));
        }
        // Given up meanwhile.
        let _ = told.send(Ok((frame, correlation_id)));
    }
}
