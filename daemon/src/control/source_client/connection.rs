//! One connection to one broker: connect, TLS, log in, learn its versions, one request at a time.
//!
//! A frame's length is checked before a byte of it is stored, memory grows only as bytes really
//! arrive, and the layout is walked before the library decodes. A connection on which anything went
//! wrong is never used again: what is left in it could be taken for the answer to the next request.

use super::error::ClientError;
use super::frame_shape::{self, ShapeError, Shaped};
use super::socket::{BoxedSocket, connect, secured, tls_error};
use crate::config::HostPort;
use crate::security::{ClientSecurity, SaslExchange};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

/// Largest answer: Metadata of half a million partitions. Raised, a hostile peer may take as much of
/// the control core's memory.
pub const FRAME_BYTES_MAX: u32 = 64 << 20;
/// Largest answer of a login, from a peer that nobody has believed yet.
const LOGIN_FRAME_BYTES_MAX: u32 = 64 << 10;
/// Memory that is reserved for a frame before its bytes arrive.
const FRAME_RESERVE_BYTES: usize = 64 << 10;

/// What a client says of itself and how long it waits.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    pub client_id: String,
    pub request_timeout: Duration,
    pub security: ClientSecurity,
}

/// See the file's header.
pub struct Connection {
    server: HostPort,
    address: SocketAddr,
    stream: BoxedSocket,
    options: ConnectionOptions,
    versions: BTreeMap<i16, VersionRange>,
    correlation_id: i32,
    /// When the broker has to be told anew who we are.
    renew_at: Option<Instant>,
    logins: u32,
}

impl Connection {
    /// Connects to the first address of the name that accepts, secures it, and asks for its versions.
    pub async fn open(server: &HostPort, options: &ConnectionOptions) -> Result<Self, ClientError> {
        // Before a byte is sent: where a login is held back, the broker is not even connected.
        let exchange = login(server, &options.security).await?;
        let (address, stream) = connect(server).await?;
        // Requests are small and each is waited for: Nagle would only delay them. A refusal costs just that.
        let _ = stream.set_nodelay(true);
        let stream = secured(server, stream, &options.security).await?;
        let mut connection = Self {
            server: server.clone(),
            address,
            stream,
            options: options.clone(),
            versions: BTreeMap::new(),
            correlation_id: 0,
            renew_at: None,
            logins: 0,
        };
        connection.log_in(exchange).await?;
        let request = ApiVersionsRequest::default();
        let answer = connection.exchange(&request, ApiVersionsRequest::UNDERSTOOD.max).await?;
        if answer.error_code != 0 {
            let (server, request) = (server.clone(), ApiVersionsRequest::NAME);
            return Err(ClientError::Refused { server, request, code: answer.error_code });
        }
        let range = |min, max| VersionRange { min, max };
        let versions =
            answer.api_keys.iter().map(|key| (key.api_key, range(key.min_version, key.max_version)));
        connection.versions = versions.collect();
        Ok(connection)
    }

    /// The address that accepted.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often the broker has believed us on this connection.
    pub fn logins(&self) -> u32 {
        self.logins
    }

    /// What the broker said of one request.
    pub fn offered(&self, api_key: i16) -> Option<VersionRange> {
        self.versions.get(&api_key).copied()
    }

    /// The highest version of a request that both sides know.
    pub fn version<R: Shaped>(&self) -> Result<i16, ClientError> {
        common_version::<R>(&self.server, self.offered(R::KEY))
    }

    /// One request and its answer.
    pub async fn exchange<R: Shaped>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        if self.renew_at.is_some_and(|at| at <= Instant::now()) {
            let exchange = login(&self.server, &self.options.security).await?;
            self.log_in(exchange).await?;
        }
        let after = self.options.request_timeout;
        match timeout(after, self.exchange_unbounded(request, version)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::TimedOut { server: self.server.clone(), request: R::NAME, after }),
        }
    }

    /// Logs in, on a new connection or again on a live one. ref: KIP-368
    async fn log_in(&mut self, exchange: Option<SaslExchange>) -> Result<(), ClientError> {
        let Some(mut exchange) = exchange else { return Ok(()) };
        let after = self.options.request_timeout;
        match timeout(after, self.log_in_unbounded(&mut exchange)).await {
            Ok(done) => done?,
            Err(_) => {
                let (server, request) = (self.server.clone(), "SaslAuthenticate");
                return Err(ClientError::TimedOut { server, request, after });
            }
        }
        self.logins += 1;
        self.renew_at = exchange.renew_after().map(|after| Instant::now() + after);
        Ok(())
    }

    async fn log_in_unbounded(&mut self, exchange: &mut SaslExchange) -> Result<(), ClientError> {
        while let Some(frame) = exchange.poll_frame() {
            let frame = Zeroizing::new(frame);
            self.send(&frame).await?;
            let answer = self.read_frame(LOGIN_FRAME_BYTES_MAX).await?;
            let taken = exchange.answer(&answer);
            taken.map_err(|error| ClientError::Security { server: self.server.clone(), error })?;
        }
        assert!(exchange.is_done(), "an exchange asks, fails or is done");
        Ok(())
    }

    async fn exchange_unbounded<R: Shaped>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        let frame = encode(request, version, self.correlation_id, &self.options.client_id);
        self.send(&frame).await?;
        let answer = self.read_frame(FRAME_BYTES_MAX).await?;
        decode::<R>(&self.server, answer, self.correlation_id, version)
    }

    async fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        let sent = async {
            self.stream.write_all(frame).await?;
            // TLS keeps what the socket did not take at once.
            self.stream.flush().await
        };
        sent.await.map_err(|error| self.broken(&error))
    }

    async fn read_frame(&mut self, bytes_max: u32) -> Result<Bytes, ClientError> {
        read_frame(&self.server, &mut self.stream, bytes_max).await
    }

    /// Everything that this connection was, for somebody who sends without waiting.
    pub(super) fn into_parts(self) -> Parts {
        let Self { server, stream, options, versions, renew_at, .. } = self;
        Parts { server, stream, options, versions, renew_at }
    }

    fn broken(&self, error: &Error) -> ClientError {
        broken(&self.server, error)
    }
}

/// See [`Connection::into_parts`].
pub(super) struct Parts {
    pub server: HostPort,
    pub stream: BoxedSocket,
    pub options: ConnectionOptions,
    pub versions: BTreeMap<i16, VersionRange>,
    pub renew_at: Option<Instant>,
}

pub(super) fn broken(server: &HostPort, error: &Error) -> ClientError {
    let server = server.clone();
    match tls_error(error) {
        Some(error) => ClientError::Security { server, error },
        None => ClientError::Network { server, error: error.kind() },
    }
}

/// The highest version of a request that both sides know.
pub(super) fn common_version<R: Shaped>(
    server: &HostPort,
    theirs: Option<VersionRange>,
) -> Result<i16, ClientError> {
    let common = theirs.map(|theirs| theirs.intersect(&R::UNDERSTOOD)).filter(|range| !range.is_empty());
    common.map(|range| range.max).ok_or_else(|| ClientError::NoCommonVersion {
        server: server.clone(),
        request: R::NAME,
        ours: R::UNDERSTOOD,
        theirs,
    })
}

pub(super) fn encode<R: Shaped>(request: &R, version: i16, correlation_id: i32, client_id: &str) -> BytesMut {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let written = header
        .encode(&mut frame, <R as HeaderVersion>::header_version(version))
        .and_then(|()| request.encode(&mut frame, R::body_version(version)));
    assert!(written.is_ok(), "{} v{version} cannot be written: {written:?}", R::NAME);
    let length = i32::try_from(frame.len() - 4).expect("requests are far below 2 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

pub(super) async fn read_frame(
    server: &HostPort,
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: u32,
) -> Result<Bytes, ClientError> {
    let length = stream.read_i32().await.map_err(|error| broken(server, &error))?;
    let bytes = match usize::try_from(length) {
        Ok(bytes @ 4..) if bytes <= bytes_max as usize => bytes,
        _ => return Err(ClientError::FrameLength { server: server.clone(), length, bound: bytes_max }),
    };
    let mut frame = BytesMut::with_capacity(bytes.min(FRAME_RESERVE_BYTES));
    let mut rest = stream.take(bytes as u64);
    while frame.len() < bytes {
        match rest.read_buf(&mut frame).await {
            Ok(0) => return Err(broken(server, &ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(broken(server, &error)),
        }
    }
    Ok(frame.freeze())
}

/// An answer with its correlation id.
pub(super) fn decode<R: Shaped>(
    server: &HostPort,
    mut frame: Bytes,
    correlation_id: i32,
    version: i16,
) -> Result<R::Response, ClientError> {
    let mut whole = frame.clone();
    let found = frame.get_i32();
    if found != correlation_id {
        return Err(ClientError::CorrelationId { server: server.clone(), expected: correlation_id, found });
    }
    let malformed = |why| ClientError::Malformed { server: server.clone(), request: R::NAME, version, why };
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    frame_shape::check::<R>(&frame, version, header_version > 0).map_err(malformed)?;
    let decoded = ResponseHeader::decode(&mut whole, header_version)
        .and_then(|_| <R as Request>::Response::decode(&mut whole, R::body_version(version)));
    decoded.map_err(|_| malformed(ShapeError::Content))
}

/// What this connection logs in with, once there is something.
async fn login(server: &HostPort, security: &ClientSecurity) -> Result<Option<SaslExchange>, ClientError> {
    security.prepare(&server.host).await;
    security.sasl(&server.host).map_err(|error| ClientError::Security { server: server.clone(), error })
}
