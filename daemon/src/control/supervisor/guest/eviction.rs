//! What the destination placed on us although it is none of ours is moved back to stock brokers.
//!
//! The rules are `sync::guest::eviction`'s; here topics are looked at as they change, mirrors are told from
//! what is not ours, and all requests of a look go out together. The log says what was moved, and why.
//!
//! A mirror topic must never come here, even when somebody has just changed its guards and our directory is
//! new: it is known by its row, by being led for this link, or by the guards that are left.

use super::{GuestLink, GuestOutcome, TopicPhase};
use crate::control::discovery::shard_of;
use crate::control::guest::ControllerClient;
use crate::control::guest::topic_requests::{GUARDS, IsrChange, alter_partitions, reassign};
use crate::control::supervisor::{Outcome, Supervisor};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_sync::guest::eviction::{Eviction, evict};
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::metadata::image::{Partition, TOPIC_RESOURCE, Topic};

/// The same partition, unchanged, is asked about once in this time: a second reassignment before the image
/// shows the first could name another broker, and the controller would keep both.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A topic with so many of the guards is taken for somebody's mirror topic, whatever else is known of it.
const GUARDS_OF_A_MIRROR: usize = 4;

/// Which topics are to be looked at, and what was asked.
#[derive(Default)]
pub(super) struct EvictionWatch {
    /// Version of the image at the last look.
    seen: Option<u64>,
    /// Topics that had a partition on us then.
    suspects: BTreeSet<TopicId>,
    /// When something was asked about a partition, and at which partition epoch.
    asked: BTreeMap<(TopicId, i32), (Instant, i32)>,
    under_way: bool,
}

/// Sentences about what did not go through.
pub(super) type EvictionOutcome = Vec<String>;

impl EvictionWatch {
    pub(super) fn answered(&mut self, failures: EvictionOutcome) {
        self.under_way = false;
        for failure in failures {
            warn!("a partition of the destination that is not ours stays on us: {failure}; tried again");
        }
    }
}

/// All requests of one look.
#[derive(Default)]
struct Requests {
    reassignments: Vec<(String, i32, Option<Vec<i32>>)>,
    hand_overs: BTreeMap<(i32, i64), Vec<IsrChange>>,
}

impl Requests {
    fn add(
        &mut self,
        image: &ClusterImage,
        (id, name): (TopicId, &TopicPartition),
        at: &Partition,
        step: Eviction,
    ) {
        let index = name.partition();
        match step {
            Eviction::Stuck => error!(
                "the destination placed {name} on us and no stock broker can take it: clients do not reach a leader \
                 until one can"
            ),
            Eviction::Reassign(replicas) => {
                if let Some(replicas) = &replicas {
                    warn!(
                        "{name} is not a mirror of ours and was placed on us (replicas {:?}): it goes to {replicas:?}",
                        at.replicas
                    );
                }
                self.reassignments.push((name.topic().to_owned(), index, replicas));
            }
            Eviction::HandOver { guest, isr } => {
                let epoch = |broker: i32| image.broker(broker).map_or(-1, |known| known.epoch);
                let change = IsrChange {
                    topic_id: id,
                    index,
                    leader_epoch: at.leader_epoch,
                    partition_epoch: at.partition_epoch,
                    isr: isr.into_iter().map(|broker| (broker, epoch(broker))).collect(),
                };
                self.hand_overs.entry((guest, epoch(guest))).or_default().push(change);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.reassignments.is_empty() && self.hand_overs.is_empty()
    }
}

impl GuestLink {
    /// See the file's header. `rows`: topics of the destination that are kept as mirrors of this link.
    fn is_foreign(&self, image: &ClusterImage, id: TopicId, topic: &Topic, rows: &BTreeSet<TopicId>) -> bool {
        let led_here = self.topics.get(&topic.name).is_some_and(|ours| match &ours.phase {
            TopicPhase::Ours(known) => *known == id,
            TopicPhase::Creating => true,
            TopicPhase::Wanted | TopicPhase::Refused(_) => false,
        });
        let set = image.configs(TOPIC_RESOURCE, &topic.name);
        let guards = GUARDS.iter().filter(|(key, guard)| {
            set.and_then(|configs| configs.get(*key)).is_some_and(|value| value == guard)
        });
        !led_here && !rows.contains(&id) && guards.count() < GUARDS_OF_A_MIRROR
    }

    fn look_for_strangers(&mut self, now: Instant, rows: &BTreeSet<TopicId>) -> Requests {
        let shared = self.member.shared_image();
        let image = shared.read();
        let looked_at = to_look_at(&self.evictions, &image);
        let candidates = self.candidates(&image);
        let (mut requests, mut suspects) = (Requests::default(), BTreeSet::new());
        let mut asked = std::mem::take(&mut self.evictions.asked);
        asked.retain(|_, (at, _)| now < *at + ASK_AGAIN);
        for id in looked_at {
            let Some(topic) = image.topic(id) else { continue };
            let mut placed = topic.partitions.iter().filter(|(_, at)| self.guest_of(at).is_some()).peekable();
            if placed.peek().is_none() || !self.is_foreign(&image, id, topic, rows) {
                continue;
            }
            suspects.insert(id);
            for (index, at) in placed {
                if asked.get(&(id, *index)).is_some_and(|(_, epoch)| *epoch == at.partition_epoch) {
                    continue;
                }
                let name = TopicPartition::new(&topic.name, *index).expect("a topic's name is legal");
                let turn = shard_of(&name, 1 << 20);
                if let Some(step) = evict(&image, at, |id| self.is_ours(id), &candidates, turn) {
                    asked.insert((id, *index), (now, at.partition_epoch));
                    requests.add(&image, (id, &name), at, step);
                }
            }
        }
        let under_way = !requests.is_empty();
        self.evictions = EvictionWatch { seen: Some(image.version()), suspects, asked, under_way };
        requests
    }
}

impl Supervisor {
    /// Looks at what changed since the last time and moves away what is not ours.
    pub(super) fn evict_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        // What is kept of the mirrors has to be known first.
        let Some(kept) = self.hand_overs.as_ref().filter(|each| each.is_loaded()) else { return };
        if guest.evictions.under_way || !guest.is_joined() {
            return;
        }
        let requests = guest.look_for_strangers(now, &kept.destination_topics());
        if !requests.is_empty() {
            let client = guest.member.controller();
            let work = async move { GuestOutcome::Evicted(carry_out(client, requests).await) };
            self.spawn(async move { Outcome::Guest(work.await) });
        }
    }
}

fn to_look_at(watch: &EvictionWatch, image: &ClusterImage) -> BTreeSet<TopicId> {
    let changes = watch.seen.map(|seen| image.changes_since(seen));
    match changes {
        Some(changes) if !changes.everything => changes.topics.union(&watch.suspects).copied().collect(),
        _ => image.topics().keys().copied().collect(),
    }
}

async fn carry_out(mut client: ControllerClient, requests: Requests) -> EvictionOutcome {
    let mut failures = Vec::new();
    if !requests.reassignments.is_empty() {
        match reassign(&mut client, &requests.reassignments).await {
            Ok(answers) => failures.extend(answers.into_iter().filter_map(|((topic, index), answer)| {
                Some(format!("{topic}-{index} was not reassigned: {}", answer.err()?))
            })),
            Err(error) => failures.push(error.to_string()),
        }
    }
    for ((guest, epoch), changes) in requests.hand_overs {
        match alter_partitions(&mut client, guest, epoch, &changes).await {
            // A refusal means that it has moved on; the image will say so.
            Ok(_) => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures
}
