//! Mirror topics at the destination: created, given partitions, made ours alone, guarded.
//!
//! Each function looks at the image for what is missing and asks for all of it in one request; the answer only
//! says when to look again. At most one request of a kind is under way.

use super::troubles::{code_of, is_unauthorized};
use super::{CreateError, GuestLink, GuestOutcome, GuestTopic, Step, TopicPhase};
use crate::control::discovery::shard_of;
use crate::control::guest::topic_requests::{
    GUARDS, IsrChange, NewTopic, PartitionCodes, Refusal, TopicAnswers, add_partitions, alter_configs,
    alter_partitions, create_topics, default_replication_factor,
};
use crate::control::guest::{ControllerClient, ControllerError};
use crate::control::supervisor::hand_over::HandOvers;
use crate::control::supervisor::{Outcome, Supervisor};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_sync::guest::placement::{Candidate, TooFewBrokers, place};
use twinlog_sync::metadata::image::TOPIC_RESOURCE;

/// ref: KIP-966; the partition was created or led elsewhere since.
const NEW_LEADER_ELECTED: i16 = 108;

/// Mirror topics of ours that nobody is handing over, with their ids at the destination.
fn at_rest<'a>(
    guest: &'a GuestLink,
    hand_overs: Option<&'a HandOvers>,
) -> impl Iterator<Item = (&'a String, &'a GuestTopic, TopicId)> {
    guest.topics.iter().filter_map(move |(name, topic)| match topic.phase {
        TopicPhase::Ours(id) if hand_overs.is_none_or(|each| each.running(name).is_none()) => {
            Some((name, topic, id))
        }
        _ => None,
    })
}

/// Those of the answers that are refusals.
fn refusals<T>(answers: TopicAnswers<T>) -> impl Iterator<Item = (String, Refusal)> {
    answers.into_iter().filter_map(|(name, answer)| Some((name, answer.err()?)))
}

impl GuestLink {
    /// What became of making us the only in-sync replica.
    fn shrunk(&mut self, now: Instant, id: i32, result: Result<PartitionCodes, ControllerError>) {
        self.shrinking.remove(&id);
        match result {
            Ok(answers) => {
                let refused = answers.iter().filter(|(_, code)| !matches!(*code, 0 | NEW_LEADER_ELECTED));
                let count = refused.clone().count();
                // What moved on is looked at at once; what is forbidden, after a pause.
                match refused.map(|(_, code)| *code).find(|code| is_unauthorized(*code)) {
                    Some(code) => {
                        let why = format!("broker {id}, error code {code}");
                        self.troubles.failed(now, Step::InSyncReplicas, code, why);
                    }
                    None => self.troubles.worked(Step::InSyncReplicas),
                }
                if count > 0 {
                    info!(
                        "{count} partitions moved on before their in-sync replicas were set; looked at again"
                    );
                }
            }
            Err(failed) => {
                let code = code_of(&failed);
                self.troubles.failed(now, Step::InSyncReplicas, code, failed.to_string());
            }
        }
    }

    fn is_waited_for(&self, phase: TopicPhase) -> bool {
        self.topics.values().any(|topic| topic.phase == phase)
    }

    /// What an answer says of a step: gone through, or the first refusal of those that a right would cure.
    fn tell_refused(&mut self, now: Instant, step: Step, mut refused: Vec<(String, Refusal)>) {
        refused.sort_by_key(|(_, refusal)| !is_unauthorized(refusal.code));
        let more = match refused.len() {
            // Whether others wait, the next look finds out.
            0 => return,
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let (name, refusal) = &refused[0];
        self.troubles.failed(now, step, refusal.code, format!("topic {name}{more}: {refusal}"));
    }
}

impl Supervisor {
    pub(super) fn create_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        if guest.creating || !guest.is_joined() {
            return;
        }
        let serving = guest.serving_ids();
        let wanted = guest
            .topics
            .iter_mut()
            .filter(|(_, topic)| topic.phase == TopicPhase::Wanted && topic.retry_at <= now);
        let mut names = Vec::new();
        for (name, topic) in wanted {
            topic.phase = TopicPhase::Creating;
            names.push((name.clone(), topic.partitions));
        }
        if names.is_empty() {
            if !guest.is_waited_for(TopicPhase::Wanted) {
                guest.troubles.worked(Step::Creation);
            }
            return;
        }
        guest.creating = true;
        let candidates = guest.candidates(&guest.member.image());
        let (mut client, factor) = (guest.member.controller(), guest.settings.mirror_replication_factor);
        self.spawn(async move {
            let created = create(&mut client, &names, &serving, &candidates, factor).await;
            Outcome::Guest(GuestOutcome::Created(created))
        });
    }

    pub(super) fn add_partitions_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        if guest.adding || !guest.troubles.may_try(Step::NewPartitions, now) {
            return;
        }
        let shared = guest.member.shared_image();
        let image = shared.read();
        let candidates = guest.candidates(&image);
        let ids = guest.serving_ids();
        let (mut wanted, mut is_waiting) = (Vec::new(), false);
        for (name, topic, id) in at_rest(guest, self.hand_overs.as_ref()) {
            let Some(found) = image.topic(id) else { continue };
            let count = found.partitions.len() as i32;
            let ours = |broker: &&i32| guest.is_ours(**broker);
            let first = found.partitions.values().next();
            let factor = first.map_or(0, |first| first.replicas.iter().filter(|each| !ours(each)).count());
            let is_paused = topic.retry_at > now;
            is_waiting |= count < topic.partitions && is_paused;
            if count >= topic.partitions || is_paused || factor == 0 {
                continue;
            }
            let new =
                (count..topic.partitions).map(|index| replicas_of(name, index, &ids, &candidates, factor));
            match new.collect::<Result<Vec<_>, _>>() {
                Ok(assignments) => wanted.push((name.clone(), topic.partitions, assignments)),
                Err(why) => warn!("topic {name} cannot get its new partitions: {why}"),
            }
        }
        drop(image);
        if wanted.is_empty() {
            if !is_waiting {
                guest.troubles.worked(Step::NewPartitions);
            }
            return;
        }
        guest.adding = true;
        let mut client = guest.member.controller();
        self.spawn(async move {
            Outcome::Guest(GuestOutcome::PartitionsAdded(add_partitions(&mut client, &wanted).await))
        });
    }

    /// Makes us the only in-sync replica of every partition that we lead.
    pub(super) fn shrink_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        if !guest.troubles.may_try(Step::InSyncReplicas, now) {
            return;
        }
        let shared = guest.member.shared_image();
        let image = shared.read();
        let mut changes: BTreeMap<(i32, i64), Vec<IsrChange>> = BTreeMap::new();
        for (_, _, id) in at_rest(guest, self.hand_overs.as_ref()) {
            let Some(found) = image.topic(id) else { continue };
            for (index, at) in &found.partitions {
                let Some(leader) = at.leader.filter(|leader| guest.is_ours(*leader)) else { continue };
                let epoch = guest.member.state(leader).and_then(|state| state.broker_epoch());
                let Some(epoch) = epoch.filter(|_| at.isr != [leader]) else { continue };
                if guest.shrinking.contains(&leader) {
                    continue;
                }
                changes.entry((leader, epoch)).or_default().push(IsrChange {
                    topic_id: id,
                    index: *index,
                    leader_epoch: at.leader_epoch,
                    partition_epoch: at.partition_epoch,
                    isr: vec![(leader, epoch)],
                });
            }
        }
        drop(image);
        if changes.is_empty() && guest.shrinking.is_empty() {
            guest.troubles.worked(Step::InSyncReplicas);
        }
        let mut tasks = Vec::new();
        for ((id, epoch), changes) in changes {
            guest.shrinking.insert(id);
            tasks.push((guest.member.controller(), id, epoch, changes));
        }
        for (mut client, id, epoch, changes) in tasks {
            self.spawn(async move {
                let result = alter_partitions(&mut client, id, epoch, &changes).await;
                Outcome::Guest(GuestOutcome::Shrunk { guest: id, result })
            });
        }
    }

    /// Somebody changed what protects a mirror topic: it is put back, and said.
    pub(super) fn guard_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        if guest.guarding || !guest.troubles.may_try(Step::Guards, now) {
            return;
        }
        let shared = guest.member.shared_image();
        let image = shared.read();
        let mut changes = Vec::new();
        for (name, _, _) in at_rest(guest, self.hand_overs.as_ref()) {
            let found = image.configs(TOPIC_RESOURCE, name);
            let value = |key: &str| found.and_then(|configs| configs.get(key)).map(String::as_str);
            let broken = GUARDS.iter().filter(|(key, guard)| value(key) != Some(guard));
            let broken: Vec<(String, Option<String>)> =
                broken.map(|(key, guard)| ((*key).to_owned(), Some((*guard).to_owned()))).collect();
            if !broken.is_empty() {
                let keys: Vec<&str> = broken.iter().map(|(key, _)| key.as_str()).collect();
                error!(
                    "mirror topic {name}: {} was changed at the destination; it is set back",
                    keys.join(", ")
                );
                changes.push((name.clone(), broken));
            }
        }
        drop(image);
        if changes.is_empty() {
            return guest.troubles.worked(Step::Guards);
        }
        guest.guarding = true;
        let mut client = guest.member.controller();
        self.spawn(async move {
            Outcome::Guest(GuestOutcome::Guarded(alter_configs(&mut client, &changes).await))
        });
    }

    pub(in crate::control::supervisor) fn on_guest_outcome(&mut self, outcome: GuestOutcome) {
        let now = Instant::now();
        let Some(guest) = &mut self.guest else { return };
        guest.look_wanted = true;
        match outcome {
            GuestOutcome::Created(result) => {
                guest.creating = false;
                self.created(now, result);
            }
            GuestOutcome::PartitionsAdded(result) => {
                guest.adding = false;
                let mut refused = Vec::new();
                match result {
                    Ok(answers) => refused.extend(refusals(answers)),
                    Err(failed) => {
                        let (code, why) = (code_of(&failed), failed.to_string());
                        return guest.troubles.failed(now, Step::NewPartitions, code, why);
                    }
                }
                for (name, _) in &refused {
                    if let Some(topic) = guest.topics.get_mut(name) {
                        topic.retry_at = now + Duration::from_nanos(topic.backoff.pause());
                    }
                }
                guest.tell_refused(now, Step::NewPartitions, refused);
            }
            GuestOutcome::Shrunk { guest: id, result } => guest.shrunk(now, id, result),
            GuestOutcome::Guarded(result) => {
                guest.guarding = false;
                match result {
                    Ok(answers) => guest.tell_refused(now, Step::Guards, refusals(answers).collect()),
                    Err(failed) => {
                        guest.troubles.failed(now, Step::Guards, code_of(&failed), failed.to_string());
                    }
                }
            }
            GuestOutcome::Evicted(outcome) => guest.evictions.answered(outcome),
            GuestOutcome::Resolved { broker, hosts, addresses } => {
                guest.resolving.remove(&broker);
                if addresses.is_empty() {
                    warn!("no address of broker {broker} is known ({}); it cannot follow", hosts.join(", "));
                }
                guest.resolved.insert(broker, (hosts, addresses));
            }
        }
    }

    fn created(&mut self, now: Instant, result: Result<TopicAnswers<TopicId>, CreateError>) {
        let Some(guest) = &mut self.guest else { return };
        let retry = |name: &str, guest: &mut GuestLink| {
            if let Some(topic) = guest.topics.get_mut(name)
                && topic.phase == TopicPhase::Creating
            {
                topic.phase = TopicPhase::Wanted;
                topic.retry_at = now + Duration::from_nanos(topic.backoff.pause());
            }
        };
        let names: Vec<String> = match result {
            Err(failed) => {
                let code = match &failed {
                    CreateError::Controller(error) => code_of(error),
                    CreateError::Placement(_) => 0,
                };
                guest.troubles.failed(now, Step::Creation, code, failed.to_string());
                guest.topics.keys().cloned().collect()
            }
            Ok(answers) => {
                let mut refused = Vec::new();
                for (name, answer) in answers {
                    match answer {
                        Ok(_) => info!("mirror topic {name} was created at the destination"),
                        Err(refusal) => refused.push((name, refusal)),
                    }
                }
                let names = refused.iter().map(|(name, _)| name.clone()).collect();
                guest.tell_refused(now, Step::Creation, refused);
                names
            }
        };
        names.iter().for_each(|name| retry(name, guest));
    }
}

/// Replicas of one new partition: its guest, then stock brokers.
fn replicas_of(
    name: &str,
    index: i32,
    ids: &[i32],
    candidates: &[Candidate],
    factor: usize,
) -> Result<Vec<i32>, TooFewBrokers> {
    let partition = TopicPartition::new(name, index).expect("a topic's name is legal");
    let guest = ids[shard_of(&partition, ids.len())];
    // The same name always begins at the same broker; different names begin at different ones.
    let turn = shard_of(&partition, 1 << 20);
    Ok([vec![guest], place(candidates, factor, turn)?].concat())
}

async fn create(
    client: &mut ControllerClient,
    names: &[(String, i32)],
    ids: &[i32],
    candidates: &[Candidate],
    factor: Option<u32>,
) -> Result<TopicAnswers<TopicId>, CreateError> {
    let factor = match factor {
        Some(factor) => factor as usize,
        None => {
            let first = names.first().map_or("", |(name, _)| name.as_str());
            default_replication_factor(client, first).await.map_err(CreateError::Controller)?
        }
    };
    let mut topics = Vec::new();
    for (name, partitions) in names {
        let assignments = (0..*partitions).map(|index| replicas_of(name, index, ids, candidates, factor));
        let assignments: Result<Vec<_>, _> = assignments.collect();
        topics.push(NewTopic {
            name: name.clone(),
            assignments: assignments.map_err(CreateError::Placement)?,
            configs: GUARDS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        });
    }
    create_topics(client, &topics, false).await.map_err(CreateError::Controller)
}
