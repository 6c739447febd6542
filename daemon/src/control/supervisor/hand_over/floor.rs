//! The producer-id floor of the link: watched, lifted, and proven for topics that are handed over.
//!
//! ```text
//!   every second     highest mirrored id of all partitions; at the floor --> alarm, lifted at once
//!   every 5 minutes  the source's counter; within half of the headroom --> lifted
//!   a hand-over      both, then: ids in its logs against everybody's, see guest/producer_overlap.rs
//! ```
//! Invariant: a machine is told that its ids are lifted only after every id that its logs hold was shown to be
//! nobody's at the destination, or the operator allowed it, or it is a failover, which waits for no proof: what is at
//! risk is told then. After each hand-over the epochs of all ids at risk are ended, allowed or not.

use super::keeping::RETRY;
use super::{HandOverOutcome, HandOvers, Supervisor, allows, outcome, wall_clock_ms};
use crate::control::guest::ControllerClient;
use crate::control::guest::producer_ids::{Allocator, HEADROOM, ProducerIdError, lift, source_next_id};
use crate::control::guest::producer_overlap::{OverlapError, holders, mirrored_ids, overlap};
use crate::control::source_client::SourceClient;
use crate::control::state::{HandOverKind, ProducerIdFloor, ProducerIdRanges, StateError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_sync::guest::hand_over::{Event, ProducerOverlap};

/// How often the source is asked whether its producer ids come near the floor.
const FLOOR_INTERVAL: Duration = Duration::from_secs(300);
/// How often the mirrored ids are looked at: one figure of each partition. Longer, and more producers of the
/// destination begin with an id that is mirrored already.
const MIRRORED_INTERVAL: Duration = Duration::from_secs(1);

/// What was proven for each topic.
pub(super) type Proofs = Vec<(String, Result<Option<ProducerOverlap>, String>)>;

/// What a proof is made of.
struct Proof {
    destination: SourceClient,
    /// Brokers that hold each partition, of those that stay.
    replicas: BTreeMap<(String, i32), Vec<i32>>,
    /// Mirror topics, and those that were: they hold the source's ids.
    own: BTreeSet<String>,
    skipped: ProducerIdRanges,
    /// No mirrored log holds an id from here on.
    next_mirrored_id: i64,
}

impl Supervisor {
    /// Looks at mirrored ids, and lifts the floor where it has to be.
    pub(super) fn keep_floor(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        if now >= hand_overs.mirrored_ids_at {
            hand_overs.mirrored_ids_at = now + MIRRORED_INTERVAL;
            let ids = self.mirrors.values().map(|mirror| mirror.counters.next_producer_id.load(Relaxed));
            hand_overs.next_mirrored_id = ids.max().unwrap_or(0).max(hand_overs.next_mirrored_id);
            self.watch_floor(hand_overs);
        }
        let overtaken = hand_overs.overtaken_since_ms.is_some();
        let stale = overtaken || hand_overs.floored_at.is_none_or(|at| now >= at + FLOOR_INTERVAL);
        if stale && !hand_overs.flooring && self.guest.as_ref().is_some_and(|guest| guest.is_joined()) {
            self.raise_floor(hand_overs, Vec::new());
        }
    }

    fn watch_floor(&mut self, hand_overs: &mut HandOvers) {
        let (next, floor) = (hand_overs.next_mirrored_id, hand_overs.floor.floor);
        if floor == 0 || next <= floor {
            hand_overs.overtaken_since_ms = None;
        } else if hand_overs.overtaken_since_ms.is_none() {
            hand_overs.overtaken_since_ms = Some(wall_clock_ms());
            error!(
                "a mirrored record carries producer id {}, and the destination hands out ids from {floor} on; they \
                 are lifted again now",
                next - 1
            );
        }
    }

    /// Lifts the destination's producer ids above the source's and all mirrored ones, where they are not; machines
    /// that wait for it are told once it is proven.
    pub(super) fn raise_floor(&mut self, hand_overs: &mut HandOvers, topics: Vec<String>) {
        let Some(guest) = &self.guest else { return };
        hand_overs.flooring = true;
        let ids = guest.ids();
        let registered = ids.iter().find_map(|id| Some((*id, guest.member.state(*id)?.broker_epoch()?)));
        let image = guest.member.image();
        let from = image.next_producer_id();
        let alive =
            image.brokers().values().filter(|each| !each.fenced && !guest.is_of_this_daemon(each.broker));
        let brokers: Vec<i32> = alive.map(|each| each.broker).collect();
        drop(image);
        let (controllers, connection) = guest.member.ways_to_controllers();
        let client = move || ControllerClient::new(controllers.clone(), connection.clone());
        // A failover must not wait for a source that may be gone: the floor that was kept counts.
        let is_failover = |topic: &String| {
            hand_overs.running.get(topic).is_some_and(|each| each.kind == HandOverKind::Failover)
        };
        let may_lack_source = !topics.is_empty() && topics.iter().all(is_failover);
        let (source, destination) = (self.client.clone(), hand_overs.destination());
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        let (floor, mirrored) = (hand_overs.floor.clone(), hand_overs.next_mirrored_id);
        let reached = hand_overs.reached.clone();
        self.spawn(async move {
            let next = match source_next_id(&source).await {
                Err(_) if may_lack_source && floor.floor > 0 => Ok(mirrored),
                next => next.map(|next| next.max(mirrored)),
            };
            let raised = async {
                let next = next?;
                // Half of the headroom is what the source may still hand out until the next look.
                let enough = if may_lack_source { next } else { next + HEADROOM / 2 };
                if floor.floor > 0 && enough <= floor.floor {
                    let highest_mirrored = next.max(floor.highest_mirrored);
                    let known = ProducerIdFloor { highest_mirrored, ..floor.clone() };
                    return Ok((known, Ok(())));
                }
                let (guest, broker_epoch) = registered.ok_or(ProducerIdError::NoGuest)?;
                let allocator = Allocator { guest, broker_epoch, client };
                let wanted = next + HEADROOM;
                let (skipped, lifted) =
                    lift(&allocator, &destination, &brokers, (from, wanted), &reached).await;
                let floor = if lifted.is_ok() { wanted } else { floor.floor };
                Ok((ProducerIdFloor { floor, highest_mirrored: next, skipped }, lifted))
            };
            let raised: Result<(ProducerIdFloor, _), ProducerIdError> = raised.await;
            let result = match raised {
                Err(error) => Err(error.to_string()),
                // Only what has to survive is kept: the figure alone is asked of the source again.
                Ok((known, Ok(()))) if known.floor == floor.floor => Ok(known),
                Ok((wanted, lifted)) => {
                    let kept = state.raise_producer_id_floor(&link, wanted, wall_clock_ms()).await;
                    told(lifted, kept)
                }
            };
            outcome(HandOverOutcome::Floored { topics, result })
        });
    }

    pub(super) fn floored(
        &mut self,
        hand_overs: &mut HandOvers,
        topics: Vec<String>,
        result: Result<ProducerIdFloor, String>,
    ) {
        hand_overs.flooring = false;
        match result {
            Ok(floor) => {
                hand_overs.floor = floor;
                hand_overs.floored_at = Some(Instant::now());
                self.watch_floor(hand_overs);
                if !topics.is_empty() {
                    self.prove_producers(hand_overs, topics);
                }
            }
            Err(why) => {
                hand_overs.retry_at = Instant::now() + RETRY;
                if self.may_warn("floor") {
                    warn!("producer ids of the destination are not lifted: {why}; tried again");
                }
                self.proven(hand_overs, topics.into_iter().map(|topic| (topic, Err(why.clone()))).collect());
            }
        }
    }

    /// Looks which ids the logs of these topics hold, and who else has them.
    fn prove_producers(&mut self, hand_overs: &HandOvers, topics: Vec<String>) {
        let mut replicas = BTreeMap::new();
        for topic in &topics {
            let Some(running) = hand_overs.running.get(topic) else { continue };
            let targets = running.machine.targets().into_iter();
            replicas.extend(targets.map(|(index, brokers)| ((topic.clone(), index), brokers)));
        }
        let proof = Proof {
            destination: hand_overs.destination(),
            replicas,
            own: hand_overs.rows.keys().cloned().collect(),
            skipped: hand_overs.floor.skipped.clone(),
            next_mirrored_id: hand_overs.floor.highest_mirrored.max(hand_overs.next_mirrored_id),
        };
        self.spawn(async move { outcome(HandOverOutcome::Proven(prove(proof, topics).await)) });
    }

    pub(super) fn proven(&mut self, hand_overs: &mut HandOvers, proofs: Proofs) {
        let now = hand_overs.now();
        for (topic, result) in proofs {
            let row = hand_overs.hand_overs.get(&topic);
            let allowed = row.is_some_and(|row| {
                row.kind == HandOverKind::Failover || allows(row, "allow_producer_overlap")
            });
            let Some(running) = hand_overs.running.get_mut(&topic) else { continue };
            let result = match result {
                Ok(Some(overlap)) if allowed => {
                    error!(
                        "{topic}: producer id {} is a mirrored one, and {} of the destination has it too, as {} other \
                         ids; those producers meet with errors in it",
                        overlap.producer_id, overlap.holder, overlap.others
                    );
                    Ok(None)
                }
                result => result,
            };
            running.machine.handle(now, Event::ProducerIdsLifted(result));
        }
    }
}

/// The floor as it is kept, unless it was not lifted or not kept.
fn told(
    lifted: Result<(), ProducerIdError>,
    kept: Result<ProducerIdFloor, StateError>,
) -> Result<ProducerIdFloor, String> {
    let kept = kept.map_err(|error| error.to_string())?;
    lifted.map_err(|error| error.to_string())?;
    info!("the destination hands out no producer id below {} any more", kept.floor);
    Ok(kept)
}

async fn prove(proof: Proof, topics: Vec<String>) -> Proofs {
    let proven = async {
        let found = match mirrored_ids(&proof.destination, &proof.replicas).await {
            // Without the right to ask, the figures that are kept have to do.
            Err(error)
                if error.is_right_missing() && proof.skipped.contain_all_below(proof.next_mirrored_id) =>
            {
                BTreeMap::new()
            }
            found => found?,
        };
        let mut at_risk: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
        for (topic, ids) in found {
            let ids = ids.into_iter().filter(|id| !proof.skipped.contains(*id)).collect();
            at_risk.insert(topic, ids);
        }
        let all: BTreeSet<i64> = at_risk.values().flatten().copied().collect();
        let holders = match all.is_empty() {
            true => BTreeMap::new(),
            false => {
                let count = all.len();
                info!(
                    "{count} mirrored producer ids may be the destination's too; asking for their producers"
                );
                holders(&proof.destination, &proof.own, &all).await?
            }
        };
        Ok((at_risk, holders))
    };
    let proven: Result<_, OverlapError> = proven.await;
    let of_topic = |topic: String| {
        let result = match &proven {
            Ok((at_risk, holders)) => Ok(at_risk.get(&topic).and_then(|ids| overlap(holders, ids))),
            Err(error) => Err(error.to_string()),
        };
        (topic, result)
    };
    topics.into_iter().map(of_topic).collect()
}
