//! The bytes under a connection: a TCP stream, bare or within TLS.
//!
//! Owns how long connecting and the handshake may take, and what a broken stream says of TLS. Knows nothing of
//! requests.

use super::error::ClientError;
use crate::config::HostPort;
use crate::security::{ClientSecurity, SecurityError};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A broker that does not accept within this time is not asked; a higher value delays fail-over by as much.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the handshake: a busy broker's queue for it is longer than the kernel's for connections.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Either kind of stream.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

pub(super) type BoxedSocket = Box<dyn Socket>;

/// Tries the addresses of a name in turn: `localhost` often has one on which nobody listens.
pub(super) async fn connect(server: &HostPort) -> Result<(SocketAddr, TcpStream), ClientError> {
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

/// The stream as its cluster wants it.
pub(super) async fn secured(
    server: &HostPort,
    stream: TcpStream,
    security: &ClientSecurity,
) -> Result<BoxedSocket, ClientError> {
    let Some(config) = security.tls() else { return Ok(Box::new(stream)) };
    let refused = |error| ClientError::Security { server: server.clone(), error };
    let name = security.server_name(&server.host).map_err(refused)?;
    match timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => {
            let broken = SecurityError::HandshakeBroken { error: error.kind() };
            Err(refused(tls_error(&error).unwrap_or(broken)))
        }
        Err(_) => Err(refused(SecurityError::HandshakeTimedOut { after: HANDSHAKE_TIMEOUT })),
    }
}

/// What TLS says of a broken stream; `None` where it is only broken.
pub(super) fn tls_error(error: &Error) -> Option<SecurityError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(SecurityError::Tls { error: error.clone() })
}
