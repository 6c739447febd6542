//! TCP listeners: places for connections, TLS, then the same HTTP as on the socket.
//!
//! Everything before a login is bounded in number and in time: connections of all and of each address, new ones
//! for each second, the time of a handshake. What is over a bound is closed at once; it never waits, so that the
//! socket, the supervisor and the data path notice nothing of a flood.

use super::access::{Access, ListenerAddress};
use super::door::{Door, ListenerDoor};
use super::guard::Scheme;
use super::peers::{Peer, Peers};
use super::server::{ACCEPT_PAUSE, Backend, CONNECTION_LIMIT, talk};
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

/// Connections that the kernel keeps for us between two looks.
const BACKLOG: u32 = 128;
/// A handshake takes two ways across the world and some milliseconds of a slow client.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// After each connection that gets a place. A handshake costs up to a millisecond of the control core: at 200 a
/// second that is a fifth of it. Lowered, a flood of handshakes delays the supervisor.
const ADMIT_PAUSE: Duration = Duration::from_millis(5);
/// Connections without a place that are closed before a pause: some 3,000 a second, a twentieth of the core.
const REFUSED_BEFORE_PAUSE: u32 = 16;

/// Why an address cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenError {
    pub at: ListenerAddress,
    pub error: ErrorKind,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, error } = self;
        write!(f, "admin.listeners: {at} cannot be listened on: {error}; ")?;
        f.write_str(match error {
            ErrorKind::AddrInUse => "another program does; choose another port",
            ErrorKind::PermissionDenied => "ports below 1024 are the superuser's; choose a higher one",
            _ => "use an address of this host",
        })
    }
}

impl std::error::Error for ListenError {}

/// A bound listener.
pub struct AdminListener {
    listener: TcpListener,
    scheme: Scheme,
    access: Arc<Access>,
}

impl AdminListener {
    /// Binds. Call it within a runtime.
    pub fn bind(at: ListenerAddress, access: Arc<Access>) -> Result<Self, ListenError> {
        let failed = |error: std::io::Error| ListenError { at, error: error.kind() };
        let socket = if at.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        // A restart must not wait for connections that the kernel still buries.
        socket.set_reuseaddr(true).and_then(|()| socket.bind(at.address)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { listener, scheme: at.scheme, access })
    }

    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// Serves until it is dropped. `peers` is shared by all listeners.
pub async fn serve_listener(listener: AdminListener, peers: Peers, backend: Backend) {
    if let Some(address) = listener.local_address() {
        info!("operators are served on {}", ListenerAddress { scheme: listener.scheme, address });
    }
    let mut connections = tokio::task::JoinSet::new();
    let mut refused = 0_u32;
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, address) = match listener.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("no connection of an operator is accepted over the network: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = peers.admit(Peer::of(address.ip())) else {
            drop(stream);
            refused = refused.wrapping_add(1);
            if refused.is_multiple_of(REFUSED_BEFORE_PAUSE) {
                debug!("{refused} connections of operators were closed at once, the last one from {address}");
                sleep(ADMIT_PAUSE).await;
            }
            yield_now().await;
            continue;
        };
        let work = welcome(
            stream,
            address,
            (listener.scheme, Arc::clone(&listener.access), peers.clone()),
            backend.clone(),
            Arc::new(place),
        );
        connections.spawn(async move {
            if timeout(CONNECTION_LIMIT, work).await.is_err() {
                debug!("a connection of an operator from {address} took longer than {CONNECTION_LIMIT:?}");
            }
        });
        sleep(ADMIT_PAUSE).await;
    }
}

async fn welcome(
    stream: TcpStream,
    address: SocketAddr,
    (scheme, access, peers): (Scheme, Arc<Access>, Peers),
    backend: Backend,
    place: Arc<super::peers::Place>,
) {
    let Ok(local) = stream.local_addr() else { return };
    // Answers are written whole; without a delay the last part of one does not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let door = |certificate| {
        Door::Listener(ListenerDoor {
            access: Arc::clone(&access),
            peers,
            scheme,
            local: local.ip(),
            peer: address.ip(),
            certificate,
        })
    };
    let Some(config) = access.tls().filter(|_| scheme == Scheme::Https) else {
        assert!(scheme == Scheme::Http, "a listener with TLS has its configuration");
        return talk(stream, door(None), backend, place).await;
    };
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|certificate| certificate.to_vec());
            talk(stream, door(certificate), backend, place).await;
        }
        Ok(Err(error)) => debug!("no TLS with an operator from {address}: {error}"),
        Err(_) => debug!("no TLS with an operator from {address} within {HANDSHAKE_LIMIT:?}"),
    }
}
