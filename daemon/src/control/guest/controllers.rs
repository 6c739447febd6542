//! The controllers of a destination cluster, and which of them is active.
//!
//! Owns names and addresses only. The metadata task finds the active one and announces it; everyone else
//! waits for it here, and says so when it turned out to be somebody else.

use crate::config::HostPort;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Controllers that are remembered beside the bootstrap list. A quorum has 3 or 5; raised, a hostile answer
/// keeps us trying as many addresses.
const LEARNED_MAX: usize = 32;

/// See the file's header.
pub struct Controllers {
    bootstrap: Vec<HostPort>,
    learned: Mutex<Learned>,
    active: watch::Sender<Option<HostPort>>,
}

#[derive(Default)]
struct Learned {
    by_id: BTreeMap<i32, HostPort>,
    turn: usize,
}

impl Controllers {
    pub fn new(bootstrap: Vec<HostPort>) -> Arc<Self> {
        assert!(!bootstrap.is_empty(), "a cluster without controllers");
        Arc::new(Self { bootstrap, learned: Mutex::default(), active: watch::Sender::new(None) })
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().expect("nothing panics while it holds the lock")
    }

    /// Where a controller says that it and its peers listen.
    pub fn learn(&self, nodes: impl IntoIterator<Item = (i32, HostPort)>) {
        let mut learned = self.learned();
        for (id, address) in nodes {
            if learned.by_id.len() < LEARNED_MAX || learned.by_id.contains_key(&id) {
                learned.by_id.insert(id, address);
            }
        }
    }

    pub fn named(&self, id: i32) -> Option<HostPort> {
        self.learned().by_id.get(&id).cloned()
    }

    /// The next one to try, each in its turn.
    pub fn next(&self) -> HostPort {
        let mut learned = self.learned();
        let mut seen = BTreeSet::new();
        let all = self.bootstrap.iter().chain(learned.by_id.values());
        let all: Vec<&HostPort> = all.filter(|address| seen.insert(*address)).collect();
        let next = all[learned.turn % all.len()].clone();
        learned.turn = learned.turn.wrapping_add(1);
        next
    }

    /// This one answered as the active controller does.
    pub fn announce(&self, address: &HostPort) {
        self.active.send_if_modified(|active| {
            let changed = active.as_ref() != Some(address);
            if changed {
                *active = Some(address.clone());
            }
            changed
        });
    }

    /// This one is not the active controller, or does not answer.
    pub fn doubt(&self, address: &HostPort) {
        self.active.send_if_modified(|active| {
            let was = active.as_ref() == Some(address);
            if was {
                *active = None;
            }
            was
        });
    }

    /// Waits until the active controller is known.
    pub async fn active(&self) -> HostPort {
        let mut active = self.active.subscribe();
        let found = active.wait_for(Option::is_some).await.expect("the sender lives as long as this");
        found.clone().expect("it was waited for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort { host: "c".to_owned(), port }
    }

    #[test]
    fn every_controller_gets_its_turn_and_a_hostile_list_ends() {
        let controllers = Controllers::new(vec![at(1), at(2)]);
        controllers.learn((0..1_000).map(|id| (id, at(2 + id as u16))));
        let turns: BTreeSet<u16> = (0..100).map(|_| controllers.next().port).collect();
        assert_eq!(turns.len(), 1 + LEARNED_MAX);
        controllers.learn([(0, at(9_999))]);
        assert_eq!(controllers.named(0), Some(at(9_999)), "a known one may move");
    }

    #[test]
    fn only_the_one_that_is_active_can_be_doubted() {
        let controllers = Controllers::new(vec![at(1)]);
        controllers.announce(&at(1));
        controllers.doubt(&at(2));
        assert_eq!(*controllers.active.borrow(), Some(at(1)));
        controllers.doubt(&at(1));
        assert_eq!(*controllers.active.borrow(), None);
    }
}
