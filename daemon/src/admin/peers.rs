//! How much of the interface one address may take: connections at a time, and wrong logins.
//!
//! Owns two bounded tables and no clock: times are arguments. A right login is never held back by wrong ones of
//! the same address: tokens cannot be guessed, and a stranger behind the same proxy must not lock operators out.
//! What is held back is the work and the rows that a wrong one costs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Connections at a time, of everybody. Each may hold a body and an answer, and a descriptor of those that
/// everything but segments and lanes shares; raised, the reserve in run.rs must be too.
pub const CONNECTIONS_MAX: usize = 64;
/// Connections at a time of one address: a browser has six. Raised to the number above, one host takes all.
pub const CONNECTIONS_OF_PEER_MAX: usize = 16;
/// Addresses whose wrong logins are remembered; the one that is free soonest is forgotten. Raised to millions, a
/// flood from as many addresses takes their memory.
const FAILED_PEERS_MAX: usize = 1_024;
/// Wrong logins of an address before it is held back: somebody takes the wrong file.
const FREE_FAILURES: u32 = 3;
const HOLD_FIRST: Duration = Duration::from_millis(500);
/// Raised, whoever has corrected a script waits longer to be told what is still wrong with it.
pub const HOLD_MAX: Duration = Duration::from_secs(30);
/// Rows of the audit that nobody in particular may cause. Raised, strangers can push out those of operators
/// within days: at one a second 100,000 rows last for more than a day.
const STRANGERS_ROW_INTERVAL: Duration = Duration::from_secs(1);

/// One host: an address, or the network of 64 bits that IPv6 gives to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer(IpAddr);

impl Peer {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Self(IpAddr::V6(Ipv6Addr::from(network)))
            }
            four => Self(four),
        }
    }
}

#[derive(Default)]
struct Table {
    connections: BTreeMap<Peer, usize>,
    all: usize,
    failures: BTreeMap<Peer, Failures>,
    strangers_row_at: Option<Instant>,
}

struct Failures {
    count: u32,
    free_at: Instant,
}

/// See the file's header. Clones share the tables.
#[derive(Clone, Default)]
pub struct Peers(Arc<Mutex<Table>>);

/// One connection's place; given back when it goes.
pub struct Place {
    peers: Peers,
    peer: Peer,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        table.all -= 1;
        let count = table.connections.get_mut(&self.peer).expect("a place is counted until it goes");
        *count -= 1;
        if *count == 0 {
            table.connections.remove(&self.peer);
        }
    }
}

impl Peers {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    /// A place for a connection; `None`: all are taken, or all of its address.
    pub fn admit(&self, peer: Peer) -> Option<Place> {
        let mut table = self.table();
        let count = table.connections.get(&peer).copied().unwrap_or(0);
        if table.all >= CONNECTIONS_MAX || count >= CONNECTIONS_OF_PEER_MAX {
            return None;
        }
        table.all += 1;
        table.connections.insert(peer, count + 1);
        Some(Place { peers: self.clone(), peer })
    }

    /// A login was wrong. `Some`: the address is held back for so long, and this one is not worth a look.
    pub fn failed(&self, peer: Peer, now: Instant) -> Option<Duration> {
        let mut table = self.table();
        if let Some(known) = table.failures.get(&peer) {
            let left = known.free_at.saturating_duration_since(now);
            if !left.is_zero() {
                return Some(left);
            }
        } else if table.failures.len() >= FAILED_PEERS_MAX {
            let soonest = table.failures.iter().min_by_key(|(_, failures)| failures.free_at);
            let soonest = *soonest.expect("the table is full").0;
            table.failures.remove(&soonest);
        }
        let known = table.failures.entry(peer).or_insert(Failures { count: 0, free_at: now });
        // Who failed long ago begins anew.
        if now.saturating_duration_since(known.free_at) > HOLD_MAX {
            known.count = 0;
        }
        known.count = known.count.saturating_add(1);
        let doublings = known.count.saturating_sub(FREE_FAILURES);
        known.free_at = match doublings {
            0 => now,
            doublings => now + HOLD_MAX.min(HOLD_FIRST * 2_u32.saturating_pow(doublings.min(16) - 1)),
        };
        None
    }

    /// A login was right.
    pub fn succeeded(&self, peer: Peer) {
        self.table().failures.remove(&peer);
    }

    /// Whether a refusal of nobody in particular may have a row.
    pub fn may_strangers_have_a_row(&self, now: Instant) -> bool {
        let mut table = self.table();
        let last = table.strangers_row_at;
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= STRANGERS_ROW_INTERVAL);
        if may {
            table.strangers_row_at = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u32) -> Peer {
        Peer::of(IpAddr::from((0x0a00_0000 + last).to_be_bytes()))
    }

    #[test]
    fn one_address_takes_its_share_and_all_together_take_the_bound() {
        let peers = Peers::default();
        let mut places: Vec<Place> = Vec::new();
        for host in 0..4 {
            for _ in 0..CONNECTIONS_OF_PEER_MAX {
                places.push(peers.admit(peer(host)).unwrap());
            }
            assert!(peers.admit(peer(host)).is_none(), "its share is taken");
        }
        assert_eq!(places.len(), CONNECTIONS_MAX);
        assert!(peers.admit(peer(9)).is_none(), "all are taken");
        places.pop();
        assert!(peers.admit(peer(9)).is_some());
        drop(places);
        assert!(peers.table().connections.is_empty() && peers.table().all == 0);
    }

    #[test]
    fn hosts_of_ipv6_are_networks_and_mapped_addresses_are_the_old_ones() {
        let of = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn wrong_logins_are_held_back_longer_and_longer_until_one_is_right() {
        let peers = Peers::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..=FREE_FAILURES {
            assert_eq!(peers.failed(peer(1), now), None);
        }
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            let hold = peers.failed(peer(1), now).expect("held back");
            assert!(hold > last || hold == HOLD_MAX, "{hold:?} after {last:?}");
            last = hold;
            assert!(peers.failed(peer(1), now + hold / 2).is_some(), "asking meanwhile changes nothing");
            now += hold;
            assert_eq!(peers.failed(peer(1), now), None);
        }
        assert_eq!((last, peers.failed(peer(2), now)), (HOLD_MAX, None), "others are not held back");
        peers.succeeded(peer(1));
        assert_eq!(peers.failed(peer(1), now), None);
        assert_eq!(peers.failed(peer(1), now), None);
    }

    #[test]
    fn as_many_strangers_as_there_are_addresses_are_remembered_within_a_bound() {
        let peers = Peers::default();
        let now = Instant::now();
        for host in 0..10_000 {
            assert_eq!(peers.failed(peer(host), now), None);
        }
        assert_eq!(peers.table().failures.len(), FAILED_PEERS_MAX);
        assert!(peers.may_strangers_have_a_row(now) && !peers.may_strangers_have_a_row(now));
        assert!(peers.may_strangers_have_a_row(now + STRANGERS_ROW_INTERVAL));
    }
}
