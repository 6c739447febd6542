//! Producer ids that no broker of a cluster will ever hand out, because the controller gave them to us.
//!
//! A controller gives each id once: what it gave to a guest is nobody else's for good, whatever brokers are down,
//! late or hold blocks in their caches. Ids outside of these ranges may belong to a producer of the cluster.
//! Invariant: sorted, not empty, and no two ranges touch.

use serde::{Deserialize, Serialize};

/// See the file's header; each is its first id and the one behind its last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdRanges(Vec<(i64, i64)>);

impl ProducerIdRanges {
    pub fn add(&mut self, first: i64, end: i64) {
        if first >= end {
            return;
        }
        let from = self.0.partition_point(|range| range.1 < first);
        let until = self.0.partition_point(|range| range.0 <= end);
        let joined =
            self.0[from..until].iter().fold((first, end), |all, each| (all.0.min(each.0), all.1.max(each.1)));
        self.0.splice(from..until, [joined]);
    }

    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(first, end)| self.add(*first, *end));
    }

    pub fn contains(&self, id: i64) -> bool {
        let after = self.0.partition_point(|range| range.0 <= id);
        after > 0 && id < self.0[after - 1].1
    }

    /// Whether all ids below are in it.
    pub fn contain_all_below(&self, end: i64) -> bool {
        end <= 0 || self.0.first().is_some_and(|range| range.0 <= 0 && end <= range.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_a_plain_set_of_ids_holds() {
        let blocks = [(5, 8), (0, 2), (8, 9), (20, 22), (2, 4), (3, 6), (30, 30), (12, 13), (10, 25)];
        let mut ranges = ProducerIdRanges::default();
        let mut plain = std::collections::BTreeSet::new();
        for (first, end) in blocks {
            ranges.add(first, end);
            plain.extend(first..end);
            for id in -1..40 {
                assert_eq!(ranges.contains(id), plain.contains(&id), "{id} in {ranges:?}");
                let all = (0..id).all(|below| plain.contains(&below));
                assert_eq!(ranges.contain_all_below(id), all, "all below {id} in {ranges:?}");
            }
        }
        assert_eq!(ranges, ProducerIdRanges(vec![(0, 9), (10, 25)]));
        let mut again = ProducerIdRanges::default();
        again.add_all(&ranges);
        assert_eq!(again, ranges);
    }
}
