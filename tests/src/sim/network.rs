//! The simulated network: connections to the embedded brokers, whose answers come late and in pieces, and
//! connections from the world to whoever listens.
//!
//! ```text
//!   connect ─▶ broker: requests ─▶ cluster ─▶ answers                        (we are the client)
//!   dial ─▶ waits at its listener ─▶ accept;  say ─▶ arriving, heard ◀─ sent   (we are the server)
//! ```

use super::random::Random;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use twinlog_daemon::embedded::{Cluster, Health, PendingFetch, Reply};
use twinlog_io::SystemError;

/// An answer comes in at most this many pieces.
const PIECES_MAX: u64 = 6;

/// Ports below belong to brokers.
const FIRST_FREE_PORT: u16 = 32_768;

/// What a receive finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    Nothing,
    Bytes(Vec<u8>),
    Closed,
    Reset,
}

#[derive(Default)]
struct Connection {
    broker: i32,
    request: Vec<u8>,
    /// Bytes on their way to us, with their moment of arrival, in order.
    arriving: VecDeque<(u64, Vec<u8>)>,
    waiting: Option<PendingFetch>,
    /// The broker ends the connection once this much time has come.
    closes_at: Option<u64>,
    reset: bool,
    /// The world dialled us: what we send is kept in `request` until the world hears it.
    dialled: bool,
}

/// All connections, and the cluster behind them.
pub struct Network {
    pub cluster: Cluster,
    random: Random,
    connections: BTreeMap<u64, Connection>,
    /// Dialled connections that wait to be accepted, per listening address.
    listeners: BTreeMap<SocketAddr, VecDeque<u64>>,
    opened: u64,
}

impl Network {
    /// Broker `id` listens on port `id` of the loopback address, as far as anyone can tell.
    pub fn new(cluster: Cluster, seed: u64) -> Self {
        let (connections, listeners) = (BTreeMap::new(), BTreeMap::new());
        Self { cluster, random: Random::new(seed), connections, listeners, opened: 0 }
    }

    pub fn address_of(broker: i32) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(broker).expect("few brokers")))
    }

    /// `None`: the broker's host does not answer at all.
    pub fn connect(&mut self, address: SocketAddr) -> Option<Result<u64, SystemError>> {
        let broker = i32::from(address.port());
        match self.cluster.health(broker) {
            Health::Down => Some(Err(SystemError::CONNECTION_REFUSED)),
            Health::Silent if self.random.one_in(2) => None,
            Health::Silent | Health::Serving => {
                self.opened += 1;
                self.connections.insert(self.opened, Connection { broker, ..Connection::default() });
                Some(Ok(self.opened))
            }
        }
    }

    pub fn close(&mut self, connection: u64) {
        self.connections.remove(&connection);
    }

    /// Port 0 becomes a free port above those of the brokers.
    pub fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, SystemError> {
        let ports =
            if address.port() == 0 { FIRST_FREE_PORT..=u16::MAX } else { address.port()..=address.port() };
        let mut candidates = ports.map(|port| SocketAddr::new(address.ip(), port));
        let free = candidates.find(|candidate| !self.listeners.contains_key(candidate));
        let address = free.ok_or(SystemError::ADDRESS_IN_USE)?;
        self.listeners.insert(address, VecDeque::new());
        Ok(address)
    }

    /// Who waits to be accepted is reset.
    pub fn stop_listening(&mut self, address: SocketAddr) {
        for connection in self.listeners.remove(&address).unwrap_or_default() {
            self.close(connection);
        }
    }

    /// The world connects to a listener; `None`: nobody listens there.
    pub fn dial(&mut self, address: SocketAddr) -> Option<u64> {
        let waiting = self.listeners.get_mut(&address)?;
        self.opened += 1;
        waiting.push_back(self.opened);
        self.connections.insert(self.opened, Connection { dialled: true, ..Connection::default() });
        Some(self.opened)
    }

    /// The connection that waits longest, and its peer's address.
    pub fn accept(&mut self, address: SocketAddr) -> Option<(u64, SocketAddr)> {
        let connection = self.listeners.get_mut(&address)?.pop_front()?;
        let port = u16::try_from(connection % u64::from(u16::MAX)).expect("below 65,535");
        Some((connection, SocketAddr::from(([127, 0, 0, 2], port))))
    }

    /// The world sends to us over a connection it dialled; the bytes come late and in pieces. False: we closed it.
    pub fn say(&mut self, id: u64, now: u64, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let after = connection.arriving.back().map_or(now, |(at, _)| *at);
        arrive(connection, bytes.to_vec(), after.max(now), &mut self.random);
        true
    }

    /// What we sent since the world last listened; `None`: we closed the connection.
    pub fn hear(&mut self, id: u64) -> Option<Vec<u8>> {
        self.connections.get_mut(&id).map(|connection| std::mem::take(&mut connection.request))
    }

    /// The world ends a connection it dialled: what it said before still arrives.
    pub fn hang_up(&mut self, id: u64, now: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let last = connection.arriving.back().map_or(now, |(at, _)| *at);
            connection.closes_at = Some(last.max(now));
        }
    }

    /// Every connection breaks, some with a reset.
    pub fn break_all(&mut self, now: u64) {
        for connection in self.connections.values_mut() {
            match self.random.one_in(2) {
                true => connection.reset = true,
                false => connection.closes_at = Some(now),
            }
        }
    }

    /// Takes bytes of a request. False when the connection is broken.
    pub fn send(&mut self, id: u64, now: u64, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.reset || connection.closes_at.is_some() {
            return false;
        }
        connection.request.extend_from_slice(bytes);
        if connection.dialled {
            return true;
        }
        while let Some(length) = connection.request.first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if connection.request.len() < 4 + length {
                break;
            }
            let frame: Vec<u8> = connection.request.drain(..4 + length).skip(4).collect();
            let reply = self.cluster.handle(connection.broker, now, Bytes::from(frame));
            deliver(connection, reply, now, &mut self.random);
        }
        true
    }

    /// Tries again to answer the fetches that wait.
    pub fn serve(&mut self, now: u64) {
        for connection in self.connections.values_mut() {
            if let Some(pending) = connection.waiting.take() {
                let reply = self.cluster.resume(now, pending);
                deliver(connection, reply, now, &mut self.random);
            }
        }
    }

    /// Up to `most` bytes; nothing before `least` of them are there, unless no more will come.
    pub fn receive(&mut self, id: u64, now: u64, least: usize, most: usize) -> Arrival {
        let Some(connection) = self.connections.get_mut(&id) else { return Arrival::Closed };
        if connection.reset {
            return Arrival::Reset;
        }
        let arrived = connection.arriving.iter().take_while(|(at, _)| *at <= now);
        let available: usize = arrived.map(|(_, bytes)| bytes.len()).sum();
        let closed = connection.closes_at.is_some_and(|at| at <= now) && connection.arriving.len() <= 1;
        if available == 0 {
            return if closed { Arrival::Closed } else { Arrival::Nothing };
        }
        if available < least && !closed {
            return Arrival::Nothing;
        }
        let mut taken = Vec::with_capacity(available.min(most));
        while taken.len() < most
            && let Some((at, bytes)) = connection.arriving.front_mut()
            && *at <= now
        {
            let part = bytes.len().min(most - taken.len());
            taken.extend(bytes.drain(..part));
            if bytes.is_empty() {
                connection.arriving.pop_front();
            }
        }
        Arrival::Bytes(taken)
    }

    /// The next moment at which something may change without us.
    pub fn next_arrival(&self, now: u64) -> Option<u64> {
        let connections = self.connections.values();
        let moments = connections.flat_map(|connection| {
            let arriving = connection.arriving.iter().map(|(at, _)| *at);
            arriving.chain(connection.waiting.as_ref().map(PendingFetch::until)).chain(connection.closes_at)
        });
        moments.filter(|at| *at > now).min()
    }
}

fn deliver(connection: &mut Connection, reply: Reply, now: u64, random: &mut Random) {
    match reply {
        Reply::Now(chunks) => arrive(connection, chunks.concat(), now, random),
        Reply::Wait(pending) => connection.waiting = Some(pending),
        Reply::Silence => {}
        Reply::Close(_) => connection.closes_at = Some(now + random.below(1_000_000)),
    }
}

/// Puts bytes on their way to us.
fn arrive(connection: &mut Connection, mut bytes: Vec<u8>, now: u64, random: &mut Random) {
    let mut at = now + random.below(2_000_000) + 1;
    for _ in 0..random.below(PIECES_MAX) {
        if bytes.len() < 2 {
            break;
        }
        let rest = bytes.split_off(1 + random.below(bytes.len() as u64 - 1) as usize);
        connection.arriving.push_back((at, std::mem::replace(&mut bytes, rest)));
        at += random.below(1_000_000);
    }
    connection.arriving.push_back((at, bytes));
}
