//! One connection to one broker: connect, learn its versions, one request at a time.
//!
//! A frame's length is checked before a byte of it is stored, memory grows only as bytes really
//! arrive, and the layout is walked before the library decodes. A connection on which anything went
//! wrong is never used again: what is left in it could be taken for the answer to the next request.

use super::error::ClientError;
use super::frame_shape::{self, ShapeError, Shaped};
use crate::config::HostPort;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Largest answer: Metadata of half a million partitions. Raised, a hostile peer may take as much of
/// the control core's memory.
pub const FRAME_BYTES_MAX: u32 = 64 << 20;
/// A broker that does not accept within this time is not asked; a higher value delays fail-over by as much.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory that is reserved for a frame before its bytes arrive.
const FRAME_RESERVE_BYTES: usize = 64 << 10;

/// What a client says of itself and how long it waits.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    pub client_id: String,
    pub request_timeout: Duration,
}

/// See the file's header.
pub struct Connection {
    server: HostPort,
    address: SocketAddr,
    stream: TcpStream,
    options: ConnectionOptions,
    versions: BTreeMap<i16, VersionRange>,
    correlation_id: i32,
}

impl Connection {
    /// Connects to the first address of the name that accepts, and asks for its versions.
    pub async fn open(server: &HostPort, options: &ConnectionOptions) -> Result<Self, ClientError> {
        let (address, stream) = connect(server).await?;
        // Requests are small and each is waited for: Nagle would only delay them. A refusal costs just that.
        let _ = stream.set_nodelay(true);
        let mut connection = Self {
            server: server.clone(),
            address,
            stream,
            options: options.clone(),
            versions: BTreeMap::new(),
            correlation_id: 0,
        };
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

    /// What the broker said of one request.
    pub fn offered(&self, api_key: i16) -> Option<VersionRange> {
        self.versions.get(&api_key).copied()
    }

    /// The highest version of a request that both sides know.
    pub fn version<R: Shaped>(&self) -> Result<i16, ClientError> {
        let theirs = self.offered(R::KEY);
        let common = theirs.map(|theirs| theirs.intersect(&R::UNDERSTOOD)).filter(|range| !range.is_empty());
        common.map(|range| range.max).ok_or_else(|| ClientError::NoCommonVersion {
            server: self.server.clone(),
            request: R::NAME,
            ours: R::UNDERSTOOD,
            theirs,
        })
    }

    /// One request and its answer.
    pub async fn exchange<R: Shaped>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        let after = self.options.request_timeout;
        match timeout(after, self.exchange_unbounded(request, version)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::TimedOut { server: self.server.clone(), request: R::NAME, after }),
        }
    }

    async fn exchange_unbounded<R: Shaped>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        let frame = self.encode(request, version);
        self.stream.write_all(&frame).await.map_err(|error| self.broken(&error))?;
        let answer = self.read_frame().await?;
        self.decode::<R>(answer, version)
    }

    fn encode<R: Shaped>(&self, request: &R, version: i16) -> BytesMut {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_string(self.options.client_id.clone())));
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

    async fn read_frame(&mut self) -> Result<Bytes, ClientError> {
        let length = self.stream.read_i32().await.map_err(|error| self.broken(&error))?;
        let server = || self.server.clone();
        let bytes = match usize::try_from(length) {
            Ok(bytes @ 4..) if bytes <= FRAME_BYTES_MAX as usize => bytes,
            _ => return Err(ClientError::FrameLength { server: server(), length, bound: FRAME_BYTES_MAX }),
        };
        let mut frame = BytesMut::with_capacity(bytes.min(FRAME_RESERVE_BYTES));
        let mut rest = (&mut self.stream).take(bytes as u64);
        while frame.len() < bytes {
            let network =
                |error: &Error| ClientError::Network { server: self.server.clone(), error: error.kind() };
            match rest.read_buf(&mut frame).await {
                Ok(0) => return Err(network(&ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(network(&error)),
            }
        }
        Ok(frame.freeze())
    }

    fn decode<R: Shaped>(&self, mut frame: Bytes, version: i16) -> Result<R::Response, ClientError> {
        let mut whole = frame.clone();
        let found = frame.get_i32();
        if found != self.correlation_id {
            let (server, expected) = (self.server.clone(), self.correlation_id);
            return Err(ClientError::CorrelationId { server, expected, found });
        }
        let malformed =
            |why| ClientError::Malformed { server: self.server.clone(), request: R::NAME, version, why };
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        frame_shape::check::<R>(&frame, version, header_version > 0).map_err(malformed)?;
        let decoded = ResponseHeader::decode(&mut whole, header_version)
            .and_then(|_| <R as Request>::Response::decode(&mut whole, R::body_version(version)));
        decoded.map_err(|_| malformed(ShapeError::Content))
    }

    fn broken(&self, error: &Error) -> ClientError {
        ClientError::Network { server: self.server.clone(), error: error.kind() }
    }
}

/// Tries the addresses of a name in turn: `localhost` often has one on which nobody listens.
async fn connect(server: &HostPort) -> Result<(SocketAddr, TcpStream), ClientError> {
    let resolved = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
    let failed = |error| ClientError::Resolve { server: server.clone(), error };
    let addresses: Vec<SocketAddr> = resolved.map_err(|error| failed(error.kind()))?.collect();
    let mut last = failed(ErrorKind::NotFound);
    for address in addresses {
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((address, stream)),
            Ok(Err(error)) => error.kind(),
            Err(_) => ErrorKind::TimedOut,
        };
        last = ClientError::Connect { server: server.clone(), error };
    }
    Err(last)
}
