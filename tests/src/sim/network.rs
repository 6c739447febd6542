//! The simulated network: connections to the embedded brokers, whose answers come late and in pieces.

use super::random::Random;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use twinlog_daemon::embedded::{Cluster, Health, PendingFetch, Reply};
use twinlog_io::SystemError;

/// An answer comes in at most this many pieces.
const PIECES_MAX: u64 = 6;

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
}

/// All connections, and the cluster behind them.
pub struct Network {
    pub cluster: Cluster,
    random: Random,
    connections: BTreeMap<u64, Connection>,
    opened: u64,
}

impl Network {
    /// Broker `id` listens on port `id` of the loopback address, as far as anyone can tell.
    pub fn new(cluster: Cluster, seed: u64) -> Self {
        Self { cluster, random: Random::new(seed), connections: BTreeMap::new(), opened: 0 }
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
        Reply::Now(chunks) => {
            let mut bytes: Vec<u8> = chunks.concat();
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
        Reply::Wait(pending) => connection.waiting = Some(pending),
        Reply::Silence => {}
        Reply::Close(_) => connection.closes_at = Some(now + random.below(1_000_000)),
    }
}
