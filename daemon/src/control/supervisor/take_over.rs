//! Mirror partitions that have followers and of which our store holds nothing: another host, or a lost disk.
//!
//! ```text
//!   Asking --edges--> [led by us before, nothing stored] --> TakingOver --joint--> Recovering, from the joint
//!                                                               |  ^ failed, retried
//!                                                               +--+--> Parked (refused)
//! ```
//! Nothing is served meanwhile; followers wait where they are. ref: `sync/src/guest/take_over.rs`

use super::lifecycle::stopped_by;
use super::{Outcome, Supervisor};
use crate::control::guest::take_over::{TakeOver, TakeOverError, TakenOver};
use crate::control::instruction::Release;
use crate::control::mirror::{Phase, Stopped};
use crate::control::store_work::{CheckpointFrom, StoreRefusal};
use tokio::time::Instant;
use tracing::{info, warn};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::fault::Fault;
use twinlog_sync::guest::take_over::Joint;
use twinlog_sync::truncation::OnGap;

impl Supervisor {
    /// Asks a partition's followers where its log begins, if it has any and we hold nothing. Returns whether
    /// they are asked.
    pub(super) fn take_over(&mut self, partition: &TopicPartition, source_log: (Offset, Offset)) -> bool {
        let Some((guest, hand_overs)) = self.guest.as_ref().zip(self.hand_overs.as_ref()) else {
            return false;
        };
        let Some(mirror) = self.mirrors.get(partition) else { return false };
        let is_known = mirror.ran_before || self.checkpoints.contains_key(partition);
        // Segments without a checkpoint are a crash before the first one: recovery scans them.
        if is_known || mirror.directory.exists() {
            return false;
        }
        let (Some(replicas), Some(source_leader)) = (guest.live_followers(partition), mirror.leader) else {
            return false;
        };
        let question = TakeOver {
            partition: partition.clone(),
            source_topic_id: mirror.topic.id,
            replicas,
            durable_replicas: guest.durable_replicas(),
            source_leader,
            source_log,
            batch_bytes_max: self.settings.link.batch_bytes_max,
        };
        let (source, destination) = (self.client.clone(), hand_overs.destination());
        self.mirrors.get_mut(partition).expect("just found").phase = Phase::TakingOver;
        self.spawn(async move {
            let result = Box::new(question.ask(&destination, &source).await);
            Outcome::TookOver { partition: question.partition, result }
        });
        true
    }

    pub(super) fn took_over(
        &mut self,
        partition: &TopicPartition,
        result: Result<Option<TakenOver>, TakeOverError>,
    ) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        if mirror.stopped.is_some() {
            mirror.phase = Phase::Parked;
            return;
        }
        let taken = match result {
            Ok(None) => return self.recover(partition),
            Ok(Some(taken)) => taken,
            Err(TakeOverError::Refused(refusal)) => {
                let stopped = Stopped { code: refusal.code(), reason: refusal.to_string() };
                return self.park(partition, stopped);
            }
            Err(failed) => {
                mirror.phase = Phase::Waiting;
                mirror.pause(Instant::now());
                self.waiting.insert(partition.clone());
                if self.may_warn("take over") {
                    warn!("{partition}: what its followers hold is not known: {failed}; asked again");
                }
                return;
            }
        };
        let TakenOver { checkpoint, joint } = taken;
        let Joint { at, witness, farthest } = joint;
        if farthest.end < at && witness.is_none() {
            let policy = self.settings.link.truncation.on_gap == OnGap::Continue;
            let ordered = matches!(self.instructions.of(partition), Some(Release::AcceptGap));
            if !policy && !mirror.accepts_gap && !ordered {
                let fault = Fault::Gap { log_end: farthest.end, source_start: at };
                return self.park(partition, stopped_by(&StoreRefusal::Policy(fault)));
            }
            warn!("{partition}: the source deleted what lies between {} and {at}", farthest.end);
        }
        info!(
            "{partition}: our store is empty and its followers hold records up to {}; it goes on from {at}",
            farthest.end
        );
        mirror.compared = true;
        let mut job = self.store_job(partition);
        job.checkpoint = CheckpointFrom::Followers(Box::new(checkpoint));
        self.make_ready(job);
    }
}
