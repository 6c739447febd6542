//! Writes of a client to every partition of a topic, tried until all are accepted.
//!
//! One record for each partition, acknowledged by all in-sync replicas. Partitions that nobody leads, or that refuse,
//! are tried again with fresh metadata. Must never write to a partition twice once it has accepted.

use super::daemon::PATIENCE;
use super::wire::{Peer, TopicFacts};
use crate::error::BenchError;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_io::wall_clock_ms;

/// Between two rounds: the resolution of what is measured with it. Shorter, and the rounds themselves keep a small
/// machine busy.
const ROUND: Duration = Duration::from_millis(5);
const ALL_IN_SYNC: i16 = -1;

/// One batch of one record with a value of so many bytes.
pub fn batch(value_bytes: usize) -> Vec<u8> {
    // Brokers delete what is old by its own account.
    let mut batch = BatchText::at(0).timestamp(wall_clock_ms());
    batch.push_record(0, None, Some(&vec![b'x'; value_bytes]));
    batch.build()
}

/// Writes until every partition has accepted; when the last one did.
pub fn until_all_accept(bootstrap: &str, topic: &str, partitions: i32) -> Result<Instant, BenchError> {
    until_accepted_by(bootstrap, topic, partitions, |_| true, &AtomicBool::new(false))
}

/// The same, only under leaders that are `wanted`, and no longer than until it is `given_up`.
pub fn until_accepted_by(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    wanted: impl Fn(i32) -> bool,
    given_up: &AtomicBool,
) -> Result<Instant, BenchError> {
    let first = bootstrap.split(',').next().unwrap_or_default();
    let mut broker = Peer::connect(first)?;
    let mut leaders: BTreeMap<i32, Peer> = BTreeMap::new();
    let mut left: Vec<i32> = (0..partitions).collect();
    let batch = batch(16);
    let started = Instant::now();
    while started.elapsed() < PATIENCE && !given_up.load(Relaxed) {
        if let Some(facts) = broker.topic(topic)? {
            for (leader, asked) in by_leader(&facts, &left, &wanted) {
                let Some(address) = facts.address(leader) else { continue };
                let peer = match leaders.entry(leader) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(Peer::connect(address)?),
                };
                peer.send_produce(topic, ALL_IN_SYNC, &asked, &batch)?;
                let answers = peer.receive_produced(&mut Vec::new())?;
                let accepted = |index: &i32| answers.iter().any(|(at, error, _)| at == index && *error == 0);
                left.retain(|index| !accepted(index));
            }
            if left.is_empty() {
                return Ok(Instant::now());
            }
        }
        thread::sleep(ROUND);
    }
    Err(BenchError::Slow { what: "a write to every partition", limit: PATIENCE })
}

fn by_leader(facts: &TopicFacts, left: &[i32], wanted: impl Fn(i32) -> bool) -> BTreeMap<i32, Vec<i32>> {
    let mut sorted: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for index in left {
        let leader =
            facts.leaders.get(*index as usize).copied().filter(|leader| *leader >= 0 && wanted(*leader));
        if let Some(leader) = leader {
            sorted.entry(leader).or_default().push(*index);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_partitions_that_a_new_leader_has_are_written_to() {
        let facts = TopicFacts { leaders: vec![1, -1, 2, 1, 2], ..TopicFacts::default() };
        let sorted = by_leader(&facts, &[0, 1, 2, 4, 9], |leader| leader == 2);
        assert_eq!(sorted, BTreeMap::from([(2, vec![2, 4])]));
    }
}
