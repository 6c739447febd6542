//! Replicas that a hand-over left out, given back: what is done next for one partition.
//!
//! Owns the decision and nothing else; the owner asks again whenever the metadata log moves, and keeps a list
//! before it sends it.
//!
//! ```text
//!   brokers are down --> waits     as it was handed over, brokers are back --> send the longer list
//!   the list is there --> in sync? --> done     any other list, or another's reassignment --> left alone
//! ```
//! Invariant: a replica list that is neither the one that was handed over nor one that was sent from here is
//! an operator's: it is never touched again.

use crate::metadata::image::Partition;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What is known of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// All that it had, leader first.
    pub wanted: Vec<i32>,
    /// As it was handed over, or as the last accepted list made it.
    pub expected: Vec<i32>,
    /// The list that may have been sent.
    pub sent: Option<Vec<i32>>,
    /// The metadata log showed it under way. Lost with the process, which costs one more request.
    pub was_pending: bool,
}

/// What follows from the metadata log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None of these brokers is alive.
    WaitForBrokers(Vec<i32>),
    /// These are replicas, and copy what they lack.
    WaitForSync(Vec<i32>),
    /// Keep this list as sent, then send it.
    Send(Vec<i32>),
    /// What was sent is so: keep it as expected.
    Accepted,
    /// Every broker is a replica and in sync.
    Done,
    /// Somebody else decided what its replicas are, or deleted it.
    NotOurs,
}

impl Repair {
    pub fn of(wanted: Vec<i32>, handed_over: Vec<i32>) -> Self {
        Self { wanted, expected: handed_over, sent: None, was_pending: false }
    }

    /// Brokers that `replicas` lacks.
    pub fn missing(&self, replicas: &[i32]) -> Vec<i32> {
        self.wanted.iter().filter(|broker| !replicas.contains(broker)).copied().collect()
    }

    /// `None` stands for a partition that is not there any more.
    pub fn look(&mut self, partition: Option<&Partition>, alive: &BTreeSet<i32>) -> Verdict {
        let Some(at) = partition else { return Verdict::NotOurs };
        let is_moving = !at.adding.is_empty() || !at.removing.is_empty();
        if is_moving {
            let target = at.replicas.iter().filter(|broker| !at.removing.contains(broker)).copied();
            if self.sent.as_ref().is_none_or(|sent| !target.eq(sent.iter().copied())) {
                return Verdict::NotOurs;
            }
            self.was_pending = true;
            return Verdict::WaitForSync(at.adding.clone());
        }
        if self.sent.as_ref() == Some(&at.replicas) && self.expected != at.replicas {
            return Verdict::Accepted;
        }
        if at.replicas != self.expected {
            return Verdict::NotOurs;
        }
        if self.was_pending && self.sent.as_ref().is_some_and(|sent| *sent != at.replicas) {
            // It was under way and is not any more: somebody cancelled it.
            return Verdict::NotOurs;
        }
        let missing = self.missing(&at.replicas);
        if missing.is_empty() {
            let late: Vec<i32> = self.wanted.iter().filter(|each| !at.isr.contains(each)).copied().collect();
            return if late.is_empty() { Verdict::Done } else { Verdict::WaitForSync(late) };
        }
        let stays = |broker: &&i32| at.replicas.contains(broker) || alive.contains(broker);
        let list: Vec<i32> = self.wanted.iter().filter(stays).copied().collect();
        match list.len() > at.replicas.len() {
            true => Verdict::Send(list),
            false => Verdict::WaitForBrokers(missing),
        }
    }

    /// `list` is about to be sent, and is kept.
    pub fn sends(&mut self, list: Vec<i32>) {
        (self.sent, self.was_pending) = (Some(list), false);
    }

    /// What was sent is so, and is kept.
    pub fn accepts(&mut self) {
        self.expected = self.sent.take().unwrap_or_default();
        self.was_pending = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(replicas: &[i32], isr: &[i32], adding: &[i32], removing: &[i32]) -> Partition {
        Partition {
            replicas: replicas.to_vec(),
            isr: isr.to_vec(),
            adding: adding.to_vec(),
            removing: removing.to_vec(),
            leader: isr.first().copied(),
            leader_epoch: 1,
            partition_epoch: 1,
            recovery: 0,
            eligible_leaders: Vec::new(),
            last_known_eligible: Vec::new(),
            directories: Vec::new(),
        }
    }

    fn alive(brokers: &[i32]) -> BTreeSet<i32> {
        brokers.iter().copied().collect()
    }

    #[test]
    fn a_broker_comes_back_and_is_done_when_it_is_in_sync() {
        let mut repair = Repair::of(vec![3, 1, 2], vec![1, 2]);
        let handed_over = at(&[1, 2], &[1, 2], &[], &[]);
        assert_eq!(repair.look(Some(&handed_over), &alive(&[1, 2])), Verdict::WaitForBrokers(vec![3]));
        let list = vec![3, 1, 2];
        assert_eq!(repair.look(Some(&handed_over), &alive(&[1, 2, 3])), Verdict::Send(list.clone()));
        repair.sends(list);
        // The answer was lost: it is sent once more.
        assert!(matches!(repair.look(Some(&handed_over), &alive(&[1, 2, 3])), Verdict::Send(_)));
        let pending = at(&[3, 1, 2], &[1, 2], &[3], &[]);
        assert_eq!(repair.look(Some(&pending), &alive(&[1, 2, 3])), Verdict::WaitForSync(vec![3]));
        let whole = at(&[3, 1, 2], &[1, 2, 3], &[], &[]);
        assert_eq!(repair.look(Some(&whole), &alive(&[1, 2, 3])), Verdict::Accepted);
        repair.accepts();
        assert_eq!(repair.look(Some(&whole), &alive(&[1, 2, 3])), Verdict::Done);
        let late = at(&[3, 1, 2], &[1, 2], &[], &[]);
        assert_eq!(repair.look(Some(&late), &alive(&[1, 2])), Verdict::WaitForSync(vec![3]));
    }

    #[test]
    fn brokers_come_back_one_by_one() {
        let mut repair = Repair::of(vec![1, 2, 3], vec![1]);
        let alone = at(&[1], &[1], &[], &[]);
        assert_eq!(repair.look(Some(&alone), &alive(&[1, 3])), Verdict::Send(vec![1, 3]));
        repair.sends(vec![1, 3]);
        let two = at(&[1, 3], &[1, 3], &[], &[]);
        assert_eq!(repair.look(Some(&two), &alive(&[1, 3])), Verdict::Accepted);
        repair.accepts();
        assert_eq!(repair.look(Some(&two), &alive(&[1, 3])), Verdict::WaitForBrokers(vec![2]));
        assert_eq!(repair.look(Some(&two), &alive(&[1, 2, 3])), Verdict::Send(vec![1, 2, 3]));
    }

    #[test]
    fn what_an_operator_decided_is_left_alone() {
        let repair = Repair::of(vec![1, 2, 3], vec![1, 2]);
        let brokers = alive(&[1, 2, 3, 4]);
        let look = |partition: &Partition| repair.clone().look(Some(partition), &brokers);
        assert_eq!(look(&at(&[1, 4], &[1, 4], &[], &[])), Verdict::NotOurs);
        assert_eq!(look(&at(&[2, 1], &[1, 2], &[], &[])), Verdict::NotOurs, "another order is another list");
        assert_eq!(look(&at(&[1, 2, 4], &[1, 2], &[4], &[])), Verdict::NotOurs, "under way");
        assert_eq!(repair.clone().look(None, &brokers), Verdict::NotOurs, "deleted");
        let mut cancelled = repair.clone();
        cancelled.sends(vec![1, 2, 3]);
        cancelled.look(Some(&at(&[1, 2, 3], &[1, 2], &[3], &[])), &brokers);
        assert_eq!(cancelled.look(Some(&at(&[1, 2], &[1, 2], &[], &[])), &brokers), Verdict::NotOurs);
    }
}
