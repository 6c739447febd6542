//! Where the replicas of a mirror partition go: one of our ids first, then stock brokers as a stock cluster
//! would choose them.
//!
//! ```text
//!   partition 0   [guest a, b1, b2, b3]     each partition begins one broker further; with racks, brokers
//!   partition 1   [guest b, b2, b3, b1]     of other racks come before those of a rack that has one already
//! ```
//! The order behind the guest is the order of leaders after a promote, so leaders end up spread.
//! Invariants: no broker twice; only brokers that can take replicas; exactly the wanted number of them.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

/// A stock broker that can take replicas: registered, unfenced, not cordoned, none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub broker: i32,
    pub rack: Option<String>,
}

/// The partition cannot have so many replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewBrokers {
    pub wanted: usize,
    pub found: usize,
}

impl core::fmt::Display for TooFewBrokers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { wanted, found } = self;
        write!(
            f,
            "{wanted} replicas are wanted and {found} brokers of the destination can take one; start brokers, \
             or lower mirror.replication.factor"
        )
    }
}

/// Stock replicas of one partition, its future leader first. `turn` is different for each partition.
pub fn place(
    candidates: &[Candidate],
    replication_factor: usize,
    turn: usize,
) -> Result<Vec<i32>, TooFewBrokers> {
    if replication_factor > candidates.len() || replication_factor == 0 {
        return Err(TooFewBrokers { wanted: replication_factor, found: candidates.len() });
    }
    let order = in_turns_of_racks(candidates);
    let first = turn % order.len();
    let rotated = order[first..].iter().chain(&order[..first]);
    // A second round shifts the others too, or the same brokers would follow the same leader for ever.
    let shift = (turn / order.len()) % order.len().saturating_sub(1).max(1);
    let mut rest: Vec<&&Candidate> = rotated.collect();
    rest[1..].rotate_left(shift);
    let mut chosen: Vec<i32> = Vec::new();
    let mut racks: BTreeSet<&str> = BTreeSet::new();
    for candidate in &rest {
        let new_rack = candidate.rack.as_deref().is_none_or(|rack| !racks.contains(rack));
        if chosen.len() < replication_factor && new_rack {
            chosen.push(candidate.broker);
            racks.extend(candidate.rack.as_deref());
        }
    }
    for candidate in &rest {
        if chosen.len() < replication_factor && !chosen.contains(&candidate.broker) {
            chosen.push(candidate.broker);
        }
    }
    Ok(chosen)
}

/// Brokers so ordered that neighbours are of different racks as far as possible.
fn in_turns_of_racks(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut racks: alloc::collections::BTreeMap<Option<&str>, Vec<&Candidate>> = Default::default();
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| candidate.broker);
    for candidate in sorted {
        racks.entry(candidate.rack.as_deref()).or_default().push(candidate);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    let row = |index| racks.values().filter_map(move |rack| rack.get(index).copied());
    (0..longest).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn brokers(racks: &[(i32, Option<&str>)]) -> Vec<Candidate> {
        let candidate = |(broker, rack): &(i32, Option<&str>)| Candidate {
            broker: *broker,
            rack: rack.map(|rack| rack.to_string()),
        };
        racks.iter().map(candidate).collect()
    }

    #[test]
    fn leaders_are_spread_over_all_brokers() {
        let candidates = brokers(&[(1, None), (2, None), (3, None)]);
        let leaders: Vec<i32> = (0..6).map(|turn| place(&candidates, 2, turn).unwrap()[0]).collect();
        assert_eq!(leaders, [1, 2, 3, 1, 2, 3]);
        let second: BTreeSet<i32> =
            (0..6).filter(|turn| turn % 3 == 0).map(|turn| place(&candidates, 2, turn).unwrap()[1]).collect();
        assert_eq!(second.len(), 2, "the same leader is not always followed by the same broker");
    }

    #[test]
    fn replicas_lie_in_different_racks_while_there_are_enough() {
        let candidates =
            brokers(&[(1, Some("a")), (2, Some("a")), (3, Some("b")), (4, Some("b")), (5, Some("c"))]);
        for turn in 0..40 {
            let chosen = place(&candidates, 3, turn).unwrap();
            let rack =
                |broker: &i32| candidates.iter().find(|each| each.broker == *broker).unwrap().rack.clone();
            let racks: BTreeSet<_> = chosen.iter().map(rack).collect();
            assert_eq!(racks.len(), 3, "{chosen:?}");
        }
        assert_eq!(place(&candidates, 5, 0).unwrap().len(), 5, "more replicas than racks");
    }

    #[test]
    fn too_few_brokers_are_told_with_both_numbers() {
        let refused = place(&brokers(&[(1, None)]), 3, 0).unwrap_err();
        assert_eq!(refused, TooFewBrokers { wanted: 3, found: 1 });
        assert!(refused.to_string().contains("mirror.replication.factor"));
    }

    proptest! {
        #[test]
        fn every_placement_has_the_wanted_number_of_different_brokers(
            racks in prop::collection::vec(prop::option::of("[ab]"), 1..9),
            wanted in 1usize..9,
            turn in 0usize..1000,
        ) {
            let candidates: Vec<Candidate> = racks
                .iter()
                .enumerate()
                .map(|(broker, rack)| Candidate { broker: broker as i32, rack: rack.clone() })
                .collect();
            match place(&candidates, wanted, turn) {
                Ok(chosen) => {
                    let distinct: BTreeSet<i32> = chosen.iter().copied().collect();
                    prop_assert_eq!((chosen.len(), distinct.len()), (wanted, wanted));
                }
                Err(refused) => prop_assert!(refused.found < wanted),
            }
        }

        #[test]
        fn many_partitions_load_every_broker_about_equally(count in 2usize..8, wanted in 1usize..4) {
            prop_assume!(wanted <= count);
            let candidates: Vec<Candidate> =
                (0..count).map(|broker| Candidate { broker: broker as i32, rack: None }).collect();
            let mut load = vec![0usize; count];
            for turn in 0..count * 12 {
                for broker in place(&candidates, wanted, turn).unwrap() {
                    load[broker as usize] += 1;
                }
            }
            let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            prop_assert!(most - least <= 24, "{load:?}");
        }
    }
}
