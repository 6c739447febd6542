//! A source that does not answer at the start: what is stored is served by a guest all the same, and a store's topic can
//! be failed over.
//!
//! ```text
//!   no answer for some seconds --> each partition of the journal: recovered, in its shard, led, nothing fetched
//!                                     |  failover hands it over           (the reason for all this)
//!                                     |  the source answers
//!                                     v
//!                                  let go --> asked, recovered, confirmed as at any start
//! ```
//! Without a source a partition's followers are told what we hold and nothing else. It must not simply be given a
//! leader to fetch from when the source comes back: what followers hold beyond our end has to be compared with
//! the source first, and that happens on the way into a shard.

use super::Supervisor;
use crate::control::mirror::{Phase, Replacement};
use crate::shard::mailbox::Command;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::fault::Fault;

/// How long the source may take for its first answer. Raised, followers wait longer after a restart without
/// it; lowered, a slow source costs every partition a second opening.
const SOURCE_LIMIT: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Takes on what the journal knows, once, when the source is silent: all of it as a guest, what is failed over
    /// where the copy is a store.
    pub(super) fn take_on_without_source(&mut self, now: Instant) {
        let silent = self.refresh.first && now - self.progress.started_at >= SOURCE_LIMIT;
        if !silent || (self.guest.is_some() && !self.mirrors.is_empty()) {
            return;
        }
        let Some(hand_overs) = &self.hand_overs else { return };
        let is_guest = self.guest.is_some();
        let wanted = self.checkpoints.values().filter(|checkpoint| {
            let topic = checkpoint.partition.topic();
            let is_meant = match is_guest {
                true => self.discovery.wants(topic, false) && !hand_overs.is_stopped(topic),
                false => hand_overs.fails_over(topic) && !self.mirrors.contains_key(&checkpoint.partition),
            };
            !checkpoint.removed && is_meant
        });
        let known: Vec<(TopicPartition, TopicId, Offset)> = wanted
            .map(|checkpoint| (checkpoint.partition.clone(), checkpoint.topic_id, checkpoint.log_start))
            .collect();
        if known.is_empty() {
            return;
        }
        let (seconds, count) = (SOURCE_LIMIT.as_secs(), known.len());
        warn!("the source was silent for {seconds} s: {count} partitions are taken on as they are");
        for (partition, topic_id, log_start) in known {
            self.new_partition(partition.clone(), topic_id, None, now);
            self.waiting.remove(&partition);
            if let Some(mirror) = self.mirrors.get_mut(&partition) {
                (mirror.phase, mirror.source_start) = (Phase::Recovering, log_start);
                mirror.without_source = true;
            }
            self.recover(&partition);
        }
    }

    /// The source has the partition: it is opened again, unless it is another topic's by now.
    pub(super) fn source_returned(&mut self, partition: &TopicPartition, found: TopicId) {
        let Some(mirror) = self.mirrors.get(partition) else { return };
        let mirrored = mirror.topic.id;
        if mirrored != TopicId::ZERO && found != TopicId::ZERO && mirrored != found {
            return self.stop(partition, &Fault::TopicRecreated { mirrored, found });
        }
        self.returned.insert(partition.clone());
    }

    /// Opens again what the source has, as far as nothing else is under way with it.
    pub(super) fn reopen_returned(&mut self) {
        for partition in std::mem::take(&mut self.returned) {
            let running = |topic: &str| self.hand_overs.as_ref().is_some_and(|known| known.is_busy(topic));
            let busy = running(partition.topic());
            let Some(mirror) = self.mirrors.get_mut(&partition).filter(|mirror| mirror.stopped.is_none())
            else {
                continue;
            };
            if busy || mirror.phase != Phase::Running {
                self.returned.insert(partition);
                continue;
            }
            info!("{partition}: the source answers; it is opened again");
            (mirror.phase, mirror.without_source) = (Phase::Leaving(Replacement::Reopen), false);
            let (shard, key) = (mirror.shard, mirror.key);
            self.send(shard, Command::Remove { key });
        }
    }
}
