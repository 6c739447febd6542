//! Brokers that a hand-over left out become replicas again: driven until the metadata log shows them in sync.
//!
//! What is sent was kept before. It never gives up by itself; what an operator decides about the replicas, a
//! deletion of the topic, and `mirror delete` end it.

use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::admin::answer::ReplicaRepairView;
use crate::control::guest::topic_requests::reassign;
use crate::control::state::ReplicaRepair;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};
use twinlog_log_segment::files::TopicId;
use twinlog_sync::backoff::Backoff;
use twinlog_sync::guest::repair::{Repair, Verdict};

/// Between two looks at one partition. A broker takes seconds to come back and to copy.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A topic and one of its partitions.
pub type Key = (String, i32);

/// One partition that lacks brokers.
pub(super) struct Repairing {
    repair: Repair,
    topic_id: TopicId,
    since_ms: i64,
    waits_for: String,
    /// Something of it is being kept or sent.
    busy: bool,
    look_at: Instant,
    backoff: Backoff,
}

/// What came of keeping and sending.
pub enum Repaired {
    Sent(Vec<(Key, Result<(), String>)>),
    Kept(Result<Vec<Key>, String>, Vec<Key>),
    Ended(Result<(), String>, Vec<Key>),
}

impl Repairing {
    fn of(row: ReplicaRepair) -> Self {
        let seed = u64::from(row.partition.cast_unsigned());
        let mut repair = Repair::of(row.wanted, row.expected);
        repair.sent = row.sent;
        Self {
            repair,
            topic_id: row.destination_topic_id,
            since_ms: row.since_ms,
            waits_for: "the metadata log".to_owned(),
            busy: false,
            look_at: Instant::now(),
            backoff: Backoff::new(seed),
        }
    }

    fn row(&self, (topic, partition): &Key) -> ReplicaRepair {
        ReplicaRepair {
            topic: topic.clone(),
            partition: *partition,
            destination_topic_id: self.topic_id,
            wanted: self.repair.wanted.clone(),
            expected: self.repair.expected.clone(),
            sent: self.repair.sent.clone(),
            since_ms: self.since_ms,
        }
    }

    fn failed(&mut self, now: Instant, why: &str) {
        self.waits_for = format!("{why}; it is tried again");
        self.look_at = now + Duration::from_nanos(self.backoff.pause());
    }
}

/// What one look led to.
#[derive(Default)]
struct Looked {
    sends: Vec<(Key, Vec<i32>)>,
    accepted: Vec<Key>,
    ended: Vec<(Key, String)>,
}

impl HandOvers {
    /// Takes over what is kept; what is known here already goes on as it is.
    pub(super) fn take_repairs(&mut self, rows: Vec<ReplicaRepair>) {
        let mut before = std::mem::take(&mut self.repairs);
        for row in rows {
            let key = (row.topic.clone(), row.partition);
            let known = before.remove(&key).filter(|known| known.topic_id == row.destination_topic_id);
            self.repairs.insert(key, known.unwrap_or_else(|| Repairing::of(row)));
        }
    }

    pub(super) fn repair_views(&self, topic: &str) -> Vec<ReplicaRepairView> {
        let of_topic = self.repairs.iter().filter(|((name, _), _)| name == topic);
        let views = of_topic.map(|((_, partition), each)| ReplicaRepairView {
            partition_id: *partition,
            wanted_broker_ids: each.repair.wanted.clone(),
            waits_for: each.waits_for.clone(),
            since_ms: each.since_ms,
        });
        views.collect()
    }
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::WaitForBrokers(brokers) => format!("brokers {brokers:?} to be alive"),
        Verdict::WaitForSync(brokers) => format!("brokers {brokers:?} to be in sync"),
        Verdict::Send(list) => format!("replicas {list:?} to be accepted"),
        Verdict::Accepted | Verdict::Done | Verdict::NotOurs => "its end to be kept".to_owned(),
    }
}

impl Supervisor {
    pub(super) fn drive_repairs(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        let Some(guest) = self.guest.as_ref().filter(|_| !hand_overs.repairs.is_empty()) else { return };
        if !guest.member.image_moves().borrow().is_ready {
            return;
        }
        let mut looked = Looked::default();
        let image = guest.member.image();
        let alive = image.brokers().values().filter(|each| !each.fenced && !each.in_controlled_shutdown);
        let alive: BTreeSet<i32> = alive.map(|each| each.broker).collect();
        for (key, each) in &mut hand_overs.repairs {
            if each.busy || now < each.look_at || hand_overs.deletions.contains_key(&key.0) {
                continue;
            }
            each.look_at = now + LOOK_INTERVAL;
            let verdict = each.repair.look(image.partition(each.topic_id, key.1), &alive);
            each.waits_for = words(&verdict);
            match verdict {
                Verdict::WaitForBrokers(_) | Verdict::WaitForSync(_) => continue,
                Verdict::Send(list) => {
                    each.repair.sends(list.clone());
                    looked.sends.push((key.clone(), list));
                }
                Verdict::Accepted => {
                    each.repair.accepts();
                    looked.accepted.push(key.clone());
                }
                Verdict::Done => {
                    looked.ended.push((key.clone(), "all of its brokers are in sync again".to_owned()));
                }
                Verdict::NotOurs => {
                    let why = "its replicas were changed by somebody else, and are left as they are";
                    looked.ended.push((key.clone(), why.to_owned()));
                }
            }
            each.busy = true;
        }
        drop(image);
        self.carry_out_repairs(hand_overs, looked);
    }

    fn carry_out_repairs(&self, hand_overs: &HandOvers, looked: Looked) {
        let Some(guest) = &self.guest else { return };
        let rows = |keys: &[&Key]| -> Vec<ReplicaRepair> {
            keys.iter().map(|key| hand_overs.repairs[*key].row(key)).collect()
        };
        let kept = |state: &crate::control::state::StateDatabase| (state.clone(), hand_overs.link.clone());
        let Looked { sends, accepted, ended } = looked;
        if !sends.is_empty() {
            let ((state, link), mut client) = (kept(&hand_overs.state), guest.member.controller());
            let rows = rows(&sends.iter().map(|(key, _)| key).collect::<Vec<_>>());
            self.spawn(async move {
                let failed =
                    |why: String| sends.iter().map(|(key, _)| (key.clone(), Err(why.clone()))).collect();
                if let Err(error) = state.keep_repairs(&link, rows, wall_clock_ms()).await {
                    return repaired(Repaired::Sent(failed(error.to_string())));
                }
                let lists: Vec<_> = sends
                    .iter()
                    .map(|((topic, partition), list)| (topic.clone(), *partition, Some(list.clone())))
                    .collect();
                let answers = match reassign(&mut client, &lists).await {
                    Ok(answers) => answers.into_iter().collect::<BTreeMap<_, _>>(),
                    Err(error) => return repaired(Repaired::Sent(failed(error.to_string()))),
                };
                let each = sends.iter().map(|(key, _)| match answers.get(key) {
                    Some(answer) => (key.clone(), answer.clone().map_err(|refusal| refusal.to_string())),
                    None => (key.clone(), Err("the controller did not answer for it".to_owned())),
                });
                repaired(Repaired::Sent(each.collect()))
            });
        }
        if !accepted.is_empty() {
            let (state, link) = kept(&hand_overs.state);
            let rows = rows(&accepted.iter().collect::<Vec<_>>());
            self.spawn(async move {
                let result = state.keep_repairs(&link, rows, wall_clock_ms()).await;
                let result = result.map(|()| accepted.clone()).map_err(|error| error.to_string());
                repaired(Repaired::Kept(result, accepted))
            });
        }
        if !ended.is_empty() {
            let (state, link) = kept(&hand_overs.state);
            self.spawn(async move {
                for ((topic, partition), why) in &ended {
                    info!("{topic}-{partition}: {why}");
                }
                let keys = ended.iter().map(|(key, _)| key.clone()).collect();
                let rows = ended.into_iter().map(|((topic, partition), why)| (topic, partition, why));
                let result = state.end_repairs(&link, rows.collect(), wall_clock_ms()).await;
                repaired(Repaired::Ended(result.map_err(|error| error.to_string()), keys))
            });
        }
    }

    pub(super) fn repaired(&mut self, hand_overs: &mut HandOvers, repaired: Repaired) {
        let now = Instant::now();
        let results: Vec<(Key, Result<(), String>)> = match repaired {
            Repaired::Sent(results) => results,
            Repaired::Kept(result, keys) => {
                let result = result.map(|_| ());
                keys.into_iter().map(|key| (key, result.clone())).collect()
            }
            Repaired::Ended(Ok(()), keys) => {
                keys.iter().for_each(|key| _ = hand_overs.repairs.remove(key));
                return;
            }
            Repaired::Ended(Err(why), keys) => keys.into_iter().map(|key| (key, Err(why.clone()))).collect(),
        };
        for (key, result) in results {
            let Some(each) = hand_overs.repairs.get_mut(&key) else { continue };
            each.busy = false;
            match result {
                Ok(()) => each.backoff.reset(),
                Err(why) => {
                    each.failed(now, &why);
                    if self.may_warn("repair") {
                        warn!("{}-{} does not get its brokers back: {why}; tried again", key.0, key.1);
                    }
                }
            }
        }
    }
}

fn repaired(repaired: Repaired) -> super::Outcome {
    outcome(HandOverOutcome::Repaired(repaired))
}
