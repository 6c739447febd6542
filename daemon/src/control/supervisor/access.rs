//! Rights that the source takes from us and gives back while a link runs: what is held up, and who is told.
//!
//! Two things are refused apart from each other, and each is taken back only by whoever noticed it:
//! ```text
//!   a leader refuses to be read      shard, ListOffsets --> Mirror::denied --first answer--> none
//!   metadata refuses to tell         by name            --> Mirror::hidden --told again----> none
//! ```
//! Nothing here stops a partition: it holds what it has, its followers go on being served, and it is asked for
//! with the pauses of any retry. It must never take a topic that we may not describe for a deleted one.

use super::Supervisor;
use crate::admin::answer::AlarmView;
use crate::control::discovery::ClusterView;
use crate::control::mirror::Stopped;
use crate::control::source_client::{ClientError, SourceClient};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use tracing::{error, info};
use twinlog_io::wall_clock_ms;
use twinlog_log_segment::files::TopicPartition;
use twinlog_sync::fault::{Fault, code};
use twinlog_sync::session::PartitionKey;

/// Topics that one alarm names.
const NAMED_MAX: usize = 5;

/// One look at the source's metadata: what is wanted, then by name what an answer about all topics left out.
pub(super) async fn look(
    client: &SourceClient,
    wanted: Option<Vec<String>>,
    mut known: Vec<String>,
) -> Result<ClusterView, ClientError> {
    let mut view = client.metadata(wanted.as_deref()).await?;
    if wanted.is_none() {
        let told: BTreeSet<&str> = view.topics.iter().map(|topic| topic.name.as_str()).collect();
        known.retain(|name| !told.contains(name.as_str()));
        if !known.is_empty() {
            view.topics.extend(client.metadata(Some(&known)).await?.topics);
        }
    }
    Ok(view)
}

fn refused() -> Fault {
    Fault::Broker { code: code::TOPIC_AUTHORIZATION_FAILED }
}

impl Supervisor {
    /// A shard was refused a partition.
    pub(super) fn read_refused(&mut self, key: PartitionKey, fault: &Fault) {
        if let Some(partition) = self.by_key.get(&key).cloned() {
            self.denied(&partition, fault);
        }
    }

    pub(super) fn read_allowed(&mut self, key: PartitionKey) {
        if let Some(partition) = self.by_key.get(&key).cloned() {
            self.allowed(&partition);
        }
    }

    /// A partition's error code in any other answer of its leader: 0 where it told what was asked.
    pub(super) fn leader_answered(&mut self, partition: &TopicPartition, code: i16) {
        match code {
            0 => self.allowed(partition),
            code::TOPIC_AUTHORIZATION_FAILED => self.denied(partition, &refused()),
            _ => {}
        }
    }

    fn denied(&mut self, partition: &TopicPartition, fault: &Fault) {
        // One line for a topic, not one for each of its partitions.
        let is_first = !self.held_up(partition.topic());
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        if !mirror.is_unauthorized() {
            mirror.unauthorized_at = Instant::now();
        }
        mirror.denied = Some(Stopped::from(fault));
        if is_first {
            error!("topic {} is held up ({}): {fault}", partition.topic(), fault.code());
        }
    }

    fn allowed(&mut self, partition: &TopicPartition) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        if mirror.denied.take().is_some() && !self.held_up(partition.topic()) {
            info!("topic {} may be read again and goes on", partition.topic());
        }
    }

    fn held_up(&self, topic: &str) -> bool {
        self.partitions_of(topic).iter().any(|each| self.mirrors[each].is_unauthorized())
    }

    pub(super) fn topic_hidden(&mut self, topic: &str) {
        let (fault, is_first) = (refused(), !self.held_up(topic));
        if is_first {
            error!("topic {topic} is held up ({}): {fault}", fault.code());
        }
        for partition in self.partitions_of(topic) {
            let Some(mirror) = self.mirrors.get_mut(&partition) else { continue };
            if !mirror.is_unauthorized() {
                mirror.unauthorized_at = Instant::now();
            }
            mirror.hidden = Some(Stopped::from(&fault));
        }
    }

    pub(super) fn topic_shown(&mut self, topic: &str) {
        for partition in self.partitions_of(topic) {
            if let Some(mirror) = self.mirrors.get_mut(&partition) {
                mirror.hidden = None;
            }
        }
        if !self.held_up(topic) {
            info!("topic {topic} may be described again and goes on");
        }
    }

    /// Topics that are held up, with how many of their partitions.
    pub(super) fn unauthorized_topics(&self) -> BTreeMap<&str, usize> {
        let mut topics = BTreeMap::new();
        for mirror in self.mirrors.values().filter(|mirror| mirror.is_unauthorized()) {
            *topics.entry(mirror.partition.topic()).or_default() += 1;
        }
        topics
    }

    /// One alarm for all of them.
    pub(super) fn access_alarm(&self) -> Option<AlarmView> {
        let topics = self.unauthorized_topics();
        let held_up = self.mirrors.values().filter(|mirror| mirror.is_unauthorized());
        let since = held_up.map(|mirror| mirror.unauthorized_at).min()?;
        let mut named: Vec<&str> = topics.keys().copied().take(NAMED_MAX).collect();
        let more = format!("and {} more", topics.len() - named.len());
        if topics.len() > NAMED_MAX {
            named.push(&more);
        }
        let fault = refused();
        let message = format!("{}: {fault}", named.join(", "));
        let age_ms = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        Some(AlarmView { code: fault.code().to_owned(), message, since_ms: wall_clock_ms() - age_ms })
    }
}
