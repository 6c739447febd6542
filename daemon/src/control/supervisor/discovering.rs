//! Metadata: when it is asked for, and what follows from an answer.
//!
//! At most one request is under way; events that want one ask for the next. Pauses are jittered, so
//! that many daemons, or one with ten thousand partitions, do not ask in step.

use super::access::look;
use super::{Outcome, Supervisor};
use crate::control::discovery::{ClusterView, Finding};
use crate::control::mirror::{Mirror, Phase, Stopped};
use crate::control::protection::warn_of_missing;
use crate::control::source_client::ClientError;
use crate::shard::mailbox::Command;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_sync::fault::Fault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::fetch_request::Topic;

/// Shortest time between two requests for metadata that events ask for: an election takes about as long.
const REFRESH_GAP: Duration = Duration::from_millis(200);
/// How soon a cluster is looked at again while a partition has no leader or a topic seems to be gone.
const UNSETTLED_LOOK: Duration = Duration::from_millis(1_000);
/// How soon while a topic is hidden from us. Raised, a right that is granted again is noticed later; lowered, a
/// source that forbids us much is asked for all of it so often.
const WITHHELD_LOOK: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn refresh_if_due(&mut self, now: Instant) {
        if self.refresh.running {
            return;
        }
        let after_gap = self.refresh.finished_at + REFRESH_GAP;
        let asked = self.refresh.wanted && now >= after_gap && self.refresh.last_error.is_none();
        if !asked && now < self.refresh.at {
            return;
        }
        self.refresh.running = true;
        self.refresh.wanted = false;
        let (client, names) = (self.client.clone(), self.discovery.names_wanted());
        let known = self.discovery.known_names();
        self.spawn(async move { Outcome::Metadata(look(&client, names, known).await) });
    }

    pub(super) fn metadata_came(&mut self, result: Result<ClusterView, ClientError>) {
        let now = Instant::now();
        self.refresh.running = false;
        self.refresh.finished_at = now;
        let view = match result {
            Ok(view) => view,
            Err(failed) => {
                self.refresh.at = now + Duration::from_nanos(self.refresh.backoff.pause());
                if self.refresh.last_error.as_ref() != Some(&failed) || self.may_warn("metadata") {
                    warn!("the source does not answer: {failed}; it is tried again");
                }
                self.refresh.lost_at.get_or_insert(now);
                self.refresh.last_error = Some(failed);
                return;
            }
        };
        self.refresh.lost_at = None;
        self.refresh.succeeded_at = Some(now);
        if self.refresh.last_error.take().is_some() {
            info!("the source answers again");
        }
        self.refresh.backoff.reset();
        self.brokers_are(&view);
        for finding in self.discovery.observe(&view) {
            self.found(finding, now);
        }
        if std::mem::take(&mut self.refresh.first) {
            let servers = view.brokers.into_values().collect();
            tokio::spawn(warn_of_missing(self.client.clone(), servers));
        }
        self.remember_returned();
        self.tell_leaders();
        self.refresh.at = now + self.pause_until_next_look();
    }

    fn pause_until_next_look(&mut self) -> Duration {
        let unsettled = self.discovery.is_unsettled()
            || !self.discovery.unseen_names().is_empty()
            || self
                .waiting
                .iter()
                .chain(&self.wants_leader)
                .any(|each| self.discovery.leader(each).is_none());
        let full = self.settings.link.source.metadata_max_age;
        let pause = match unsettled {
            true => full.min(UNSETTLED_LOOK),
            false if self.discovery.is_withheld() => full.min(WITHHELD_LOOK),
            false => full,
        };
        // Jitter of a tenth from a source that is at hand: the low digits of the clock.
        let jitter = Instant::now().duration_since(self.progress.started_at).subsec_nanos() % 100;
        pause - pause * jitter / 1_000
    }

    fn brokers_are(&mut self, view: &ClusterView) {
        for (broker, server) in &view.brokers {
            let moved = self.servers.insert(*broker, server.clone()).is_some_and(|before| before != *server);
            if moved {
                self.addresses.remove(broker);
            }
            if !self.addresses.contains_key(broker) && self.resolving.insert(*broker) {
                let (client, broker) = (self.client.clone(), *broker);
                self.spawn(
                    async move { Outcome::Address { broker, result: client.address_of(broker).await } },
                );
            }
        }
        self.servers.retain(|broker, _| view.brokers.contains_key(broker));
    }

    pub(super) fn address_came(&mut self, broker: i32, result: Result<SocketAddr, ClientError>) {
        self.resolving.remove(&broker);
        match result {
            Ok(address) => {
                self.addresses.insert(broker, address);
                let host: Arc<str> = self.servers.get(&broker).map_or("", |server| &server.host).into();
                for shard in &mut self.shards {
                    shard.send(Command::Broker { id: broker, address, host: host.clone() });
                }
                self.tell_leaders();
            }
            Err(failed) => {
                if self.may_warn("address") {
                    warn!("broker {broker}: {failed}; it is tried again");
                }
                let soon = Instant::now() + UNSETTLED_LOOK;
                self.refresh.at = self.refresh.at.min(soon);
            }
        }
    }

    fn found(&mut self, finding: Finding, now: Instant) {
        match finding {
            Finding::NewPartition { partition, topic_id, leader } => {
                // The destination's brokers lead it: fetched again, it would be a fork.
                if self.hand_overs.as_ref().is_some_and(|each| each.is_stopped(partition.topic())) {
                    return;
                }
                if self.mirrors.get(&partition).is_some_and(|mirror| mirror.without_source) {
                    return self.source_returned(&partition, topic_id);
                }
                self.new_partition(partition, topic_id, leader, now);
            }
            Finding::LeaderChanged { partition, leader } => {
                if let Some(mirror) = self.mirrors.get_mut(&partition).filter(|each| !each.without_source) {
                    mirror.leader = leader;
                    self.wants_leader.insert(partition);
                }
            }
            Finding::TopicGone { topic } => self.stop_topic(&topic, &Fault::TopicDeleted),
            Finding::TopicRecreated { topic, mirrored, found } => {
                self.stop_topic(&topic, &Fault::TopicRecreated { mirrored, found });
            }
            Finding::TopicReturned { topic } => self.release_topic(&topic, now),
            Finding::AccessLost { topic } => self.topic_hidden(&topic),
            Finding::AccessRegained { topic } => self.topic_shown(&topic),
            Finding::IllegalName { name } => {
                warn!("the source names a topic {name:?}, which no topic can be called; it is not mirrored");
            }
            Finding::Withheld { topic, code } => {
                warn!("the source tells nothing of topic {topic} (error code {code}); it is asked again");
            }
        }
    }

    pub(super) fn new_partition(
        &mut self,
        partition: TopicPartition,
        topic_id: TopicId,
        leader: Option<Leader>,
        now: Instant,
    ) {
        let identity = (partition.topic().to_owned(), topic_id);
        let next = u32::try_from(self.topic_numbers.len()).expect("far fewer than 4 Gi topics");
        let number = *self.topic_numbers.entry(identity.clone()).or_insert(next);
        let name = identity.0.clone();
        let topic =
            self.topics.entry(identity).or_insert_with(|| Arc::new(Topic { name, id: topic_id })).clone();
        let key = PartitionKey { topic: number, index: partition.partition() };
        let directory = self.settings.link_directory().join(partition.directory_name());
        let shard = self.choose_shard(&partition);
        self.want_mirror_topic(&partition);
        let mut mirror = Mirror::new(partition.clone(), key, topic, shard, directory, now)
            .with_backoff(self.settings.link.source.backoff);
        mirror.leader = leader;
        mirror.ran_before = self.left_before.contains(&partition);
        mirror.required = self.refresh.first;
        mirror.accepts_gap = self.accept_all_gaps;
        self.by_key.insert(key, partition.clone());
        self.waiting.insert(partition.clone());
        self.mirrors.insert(partition, mirror);
    }

    /// Tells shards the leaders that they wait for, as far as leader and address are known.
    pub(super) fn tell_leaders(&mut self) {
        let mut told = Vec::new();
        for partition in &self.wants_leader {
            let Some(mirror) = self.mirrors.get(partition) else { continue };
            let reachable = mirror.leader.is_none_or(|leader| self.addresses.contains_key(&leader.broker));
            if mirror.is_in_shard() && reachable {
                told.push((partition.clone(), mirror.shard, mirror.key, mirror.leader));
            }
        }
        for (partition, shard, key, leader) in told {
            // Without a leader it goes on waiting, and so do we.
            if leader.is_some() {
                self.wants_leader.remove(&partition);
            }
            self.send(shard, Command::Leader { key, leader });
        }
    }

    fn stop_topic(&mut self, topic: &str, fault: &Fault) {
        let partitions: Vec<TopicPartition> = self.partitions_of(topic);
        if partitions.is_empty() {
            // It was handed over: what becomes of it at the source is nobody's loss.
            return;
        }
        error!("topic {topic}: {fault}");
        for partition in partitions {
            self.stop(&partition, fault);
        }
    }

    pub(super) fn partitions_of(&self, topic: &str) -> Vec<TopicPartition> {
        let Ok(first) = TopicPartition::new(topic, 0) else { return Vec::new() };
        let from_there = self.mirrors.range(first..).map(|(partition, _)| partition);
        from_there.take_while(|partition| partition.topic() == topic).cloned().collect()
    }

    /// Makes a partition stand still, wherever it is.
    pub(super) fn stop(&mut self, partition: &TopicPartition, fault: &Fault) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        mirror.stopped = Some(Stopped::from(fault));
        mirror.question = None;
        let (shard, key) = (mirror.shard, mirror.key);
        match mirror.phase {
            Phase::Running | Phase::Classifying => {
                mirror.phase = Phase::Running;
                self.send(shard, Command::Stop { key, fault: fault.clone() });
            }
            Phase::Waiting => mirror.phase = Phase::Parked,
            // Whatever is under way sees the reason when it comes back.
            Phase::Asking
            | Phase::TakingOver
            | Phase::Recovering
            | Phase::Confirming
            | Phase::Leaving(_)
            | Phase::Replacing
            | Phase::Parked => {}
        }
        self.waiting.remove(partition);
        self.questions.remove(partition);
        self.wants_leader.remove(partition);
    }

    /// The topic is back as it was.
    fn release_topic(&mut self, topic: &str, now: Instant) {
        info!("topic {topic} is back under its id and goes on");
        for partition in self.partitions_of(topic) {
            let mirror = self.mirrors.get_mut(&partition).expect("listed from the table");
            let by_absence = |stopped: &Stopped| matches!(stopped.code, "TOPIC_DELETED" | "TOPIC_RECREATED");
            if !mirror.stopped.as_ref().is_some_and(by_absence) {
                continue;
            }
            mirror.stopped = None;
            let (shard, key) = (mirror.shard, mirror.key);
            match mirror.phase {
                Phase::Running | Phase::Classifying => {
                    self.wants_leader.insert(partition);
                    self.send(shard, Command::Resume { key });
                }
                Phase::Parked => self.unpark(&partition, now),
                Phase::Waiting
                | Phase::Asking
                | Phase::TakingOver
                | Phase::Recovering
                | Phase::Confirming
                | Phase::Leaving(_)
                | Phase::Replacing => {}
            }
        }
    }
}
