//! Partitions that the cluster placed on us and that are none of ours: back to stock brokers.
//!
//! A cordon keeps a cluster from choosing us, but not an operator from naming us, and a cluster below
//! metadata.version 30 cannot be told. We never answer a Produce, so what we lead of others is empty, and any
//! stock broker is as far as we are. One reassignment names the brokers that stay and the one that replaces us:
//! it is pending at the controller from then on, so there is nothing to remember here.
//!
//! ```text
//!   [900, 1, 2]            ours leads: reassign [1, 2, 3] --> AlterPartition {900, 1, 2, 3}: 1 leads
//!   [1, 900, 2]            another leads: reassign [1, 2, 3], and its leader ends that by itself
//!   [1, 2, 3, +900]        somebody adds us: reassign [1, 2, 3]
//!   a broker that is to replace us is gone: cancelled, and begun anew with another
//! ```
//! What it must never do: touch a mirror topic. The caller leaves those out.
//! ref: KIP-455 (reassignment), KIP-1066 (cordon)

use super::placement::{Candidate, place};
use crate::metadata::ClusterImage;
use crate::metadata::image::Partition;
use alloc::vec::Vec;

/// The next request for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// New replicas; `None` cancels what is pending.
    Reassign(Option<Vec<i32>>),
    /// As its leader `guest`: these are in sync, and we are to go.
    HandOver { guest: i32, isr: Vec<i32> },
    /// No stock broker can take it.
    Stuck,
}

/// What to do about one partition of somebody else. `turn` is different for each, to spread them.
pub fn evict(
    image: &ClusterImage,
    partition: &Partition,
    is_ours: impl Fn(i32) -> bool,
    candidates: &[Candidate],
    turn: usize,
) -> Option<Eviction> {
    let ours: Vec<i32> = partition.replicas.iter().copied().filter(|id| is_ours(*id)).collect();
    if ours.is_empty() {
        return None;
    }
    let stays = |id: &i32| !is_ours(*id) && !partition.removing.contains(id);
    let stock: Vec<i32> = partition.replicas.iter().copied().filter(stays).collect();
    let is_live = |id: &i32| image.broker(*id).is_some_and(|broker| !broker.fenced);
    if ours.iter().any(|id| !partition.removing.contains(id)) {
        return Some(reassignment(partition, &ours, stock, candidates, turn));
    }
    // It is pending. Another leader ends it by itself.
    let guest = partition.leader.filter(|leader| is_ours(*leader))?;
    if stock.is_empty() || partition.adding.iter().any(|id| !is_live(id)) {
        return Some(Eviction::Reassign(None));
    }
    let live = stock.into_iter().filter(is_live);
    Some(Eviction::HandOver { guest, isr: [guest].into_iter().chain(live).collect() })
}

fn reassignment(
    partition: &Partition,
    ours: &[i32],
    stock: Vec<i32>,
    candidates: &[Candidate],
    turn: usize,
) -> Eviction {
    // Who adds us beside what was there wants one copy more, not one less.
    let placed = ours.iter().filter(|id| !partition.adding.contains(id)).count();
    let others: Vec<Candidate> =
        candidates.iter().filter(|each| !partition.replicas.contains(&each.broker)).cloned().collect();
    // Fewer copies are better than copies on us.
    let missing = placed.min(others.len());
    let new = if missing == 0 { Vec::new() } else { place(&others, missing, turn).unwrap_or_default() };
    let target: Vec<i32> = stock.into_iter().chain(new).collect();
    if target.is_empty() { Eviction::Stuck } else { Eviction::Reassign(Some(target)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::record::{MetadataRecord, RegisterBroker};
    use alloc::string::String;
    use alloc::vec;

    fn image(fenced: &[i32]) -> ClusterImage {
        let mut image = ClusterImage::default();
        for broker in [1, 2, 3, 4, 900, 901] {
            let registered = RegisterBroker {
                broker,
                incarnation: [1; 16],
                epoch: i64::from(broker),
                listeners: Vec::new(),
                features: Vec::new(),
                rack: None,
                fenced: fenced.contains(&broker),
                in_controlled_shutdown: false,
                directories: Vec::new(),
                cordoned: Vec::new(),
            };
            image.apply(MetadataRecord::RegisterBroker(registered)).expect("a broker can register");
        }
        image
    }

    fn candidates(brokers: &[i32]) -> Vec<Candidate> {
        brokers.iter().map(|broker| Candidate { broker: *broker, rack: None::<String> }).collect()
    }

    fn partition(replicas: &[i32], leader: i32) -> Partition {
        Partition {
            replicas: replicas.to_vec(),
            isr: replicas.to_vec(),
            adding: vec![],
            removing: vec![],
            leader: Some(leader),
            leader_epoch: 0,
            partition_epoch: 0,
            recovery: 0,
            eligible_leaders: vec![],
            last_known_eligible: vec![],
            directories: vec![],
        }
    }

    fn step(partition: &Partition, fenced: &[i32]) -> Option<Eviction> {
        let live: Vec<i32> = [1, 2, 3, 4].into_iter().filter(|id| !fenced.contains(id)).collect();
        evict(&image(fenced), partition, |id| id >= 900, &candidates(&live), 0)
    }

    #[test]
    fn a_partition_on_stock_brokers_is_left_alone() {
        assert_eq!(step(&partition(&[1, 2, 3], 1), &[]), None);
        assert_eq!(step(&partition(&[1, 2, 3], 1), &[2]), None);
    }

    #[test]
    fn who_was_placed_on_us_keeps_as_many_copies() {
        let wanted = |replicas: &[i32]| Some(Eviction::Reassign(Some(replicas.to_vec())));
        assert_eq!(step(&partition(&[900, 1, 2], 900), &[]), wanted(&[1, 2, 3]));
        assert_eq!(step(&partition(&[1, 900, 2], 1), &[3]), wanted(&[1, 2, 4]));
        assert_eq!(step(&partition(&[900], 900), &[]), wanted(&[1]));
        assert_eq!(step(&partition(&[900, 901, 1], 900), &[]), wanted(&[1, 2, 3]));
        // There are no more of them.
        assert_eq!(step(&partition(&[1, 900, 2], 1), &[3, 4]), wanted(&[1, 2]));
        assert_eq!(step(&partition(&[900], 900), &[1, 2, 3, 4]), Some(Eviction::Stuck));
    }

    #[test]
    fn who_adds_us_by_hand_gets_back_what_was_there() {
        let mut pending = partition(&[1, 2, 3, 900], 1);
        pending.adding = vec![900];
        assert_eq!(step(&pending, &[]), Some(Eviction::Reassign(Some(vec![1, 2, 3]))));
        // Together with a broker that is welcome.
        pending.replicas = vec![1, 2, 4, 900, 3];
        (pending.adding, pending.removing) = (vec![4, 900], vec![3]);
        assert_eq!(step(&pending, &[]), Some(Eviction::Reassign(Some(vec![1, 2, 4]))));
    }

    #[test]
    fn what_we_lead_is_handed_over_once_its_reassignment_is_pending() {
        let mut pending = partition(&[1, 2, 3, 900], 900);
        pending.isr = vec![900, 1, 2];
        (pending.adding, pending.removing) = (vec![3], vec![900]);
        let hand_over = |isr: &[i32]| Some(Eviction::HandOver { guest: 900, isr: isr.to_vec() });
        assert_eq!(step(&pending, &[]), hand_over(&[900, 1, 2, 3]));
        // One that was there before may be away; the controller refuses those that are.
        assert_eq!(step(&pending, &[2]), hand_over(&[900, 1, 3]));
        // Its replacement may not: it is begun anew.
        assert_eq!(step(&pending, &[3]), Some(Eviction::Reassign(None)));
    }

    #[test]
    fn what_another_leads_is_ended_by_its_leader() {
        let mut pending = partition(&[1, 2, 3, 900], 1);
        (pending.adding, pending.removing) = (vec![3], vec![900]);
        assert_eq!(step(&pending, &[]), None);
        pending.leader = None;
        assert_eq!(step(&pending, &[]), None);
    }
}
