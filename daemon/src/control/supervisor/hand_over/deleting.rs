//! Deletions of mirror topics, step by step: each is kept before it is taken, and goes on after a restart.
//!
//! ```text
//!   MARKED    its partitions leave their shards                      (no filter brings it back)
//!   DELETING  DeleteTopics by id, until the metadata log has no such topic
//!   REMOVING  checkpoints say "removed", directories go
//!   FORGOTTEN its rows go; history and mark stay
//! ```
//! A topic of the destination goes only by the id that was ours when the deletion began. Its leaders are asked
//! for nothing: until it is gone, followers hear that nobody leads it.

use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::admin::answer::DeletionView;
use crate::control::guest::topic_requests::delete_topics;
use crate::control::state::Deletion;
use crate::control::store_work::remove_topic;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_sync::backoff::Backoff;
use twinlog_sync::lifecycle::{DeletionEvent, DeletionStep};

/// The topic is not there: what was asked for is so.
const UNKNOWN_TOPIC_ID: i16 = 100;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// How long the metadata log may take to show what the controller said is done, before it is asked again.
const SEEN_PAUSE: Duration = Duration::from_secs(1);

/// One deletion under way.
pub(super) struct Deleting {
    row: Deletion,
    /// Something of it is being kept, sent or removed.
    busy: bool,
    retry_at: Instant,
    backoff: Backoff,
    error: Option<String>,
}

/// What came of one of its steps.
pub enum DeletionNews {
    Kept(Result<DeletionStep, String>),
    /// The controller's answer.
    Sent(Result<(), String>),
    Removed(Result<BTreeSet<TopicPartition>, String>),
}

impl Deleting {
    pub(super) fn of(row: Deletion) -> Self {
        let seed = row.topic.len() as u64;
        Self { row, busy: false, retry_at: Instant::now(), backoff: Backoff::new(seed), error: None }
    }

    pub(super) fn view(&self) -> DeletionView {
        DeletionView {
            step: self.row.step.name().to_owned(),
            delete_data: self.row.delete_data,
            since_ms: self.row.started_ms,
            error: self.error.clone(),
        }
    }

    /// What is ours there until it is gone.
    pub(super) fn destination_topic(&self) -> Option<TopicId> {
        self.row.destination_topic_id
    }

    pub(super) fn deletes_data(&self) -> bool {
        self.row.delete_data
    }

    /// The value of an answer; a failure is told and tried again after a pause.
    fn answered<T>(&mut self, result: Result<T, String>) -> Option<T> {
        self.busy = false;
        match result {
            Ok(value) => {
                self.backoff.reset();
                self.error = None;
                Some(value)
            }
            Err(why) => {
                if self.error.as_ref() != Some(&why) {
                    warn!("deletion of {} at {}: {why}; tried again", self.row.topic, self.row.step);
                }
                self.error = Some(why);
                self.retry_at = Instant::now() + Duration::from_nanos(self.backoff.pause());
                None
            }
        }
    }
}

impl Supervisor {
    /// A deletion is kept: nothing here takes the topic for a mirror any more.
    pub(super) fn begin_deletion(&mut self, hand_overs: &mut HandOvers, row: Deletion) {
        info!("deletion of {}: {}", row.topic, row.step);
        self.discovery.delete(&row.topic);
        if let Some(guest) = &mut self.guest {
            guest.topics.remove(&row.topic);
        }
        hand_overs.deletions.insert(row.topic.clone(), Deleting::of(row));
    }

    pub(super) fn drive_deletions(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        let due = hand_overs.deletions.iter().filter(|(_, each)| !each.busy && now >= each.retry_at);
        let due: Vec<String> = due.map(|(topic, _)| topic.clone()).collect();
        for topic in due {
            if self.leave_topic(&topic) {
                self.go_on_deleting(hand_overs, &topic, now);
            }
        }
    }

    fn go_on_deleting(&mut self, hand_overs: &mut HandOvers, topic: &str, now: Instant) {
        let deleting = hand_overs.deletions.get_mut(topic).expect("just listed");
        let event = match (deleting.row.step, deleting.row.destination_topic_id) {
            (DeletionStep::Marked, _) if !deleting.row.delete_data => DeletionEvent::Forget,
            (DeletionStep::Marked, Some(_)) => DeletionEvent::Delete,
            (DeletionStep::Marked, None) => DeletionEvent::Remove,
            (DeletionStep::Deleting, Some(id)) => {
                let Some(guest) = self.guest.as_ref().filter(|guest| guest.is_ready()) else { return };
                if guest.member.image().topic(id).is_some() {
                    (deleting.busy, deleting.retry_at) = (true, now + SEEN_PAUSE);
                    return self.send_deletion(topic, id);
                }
                DeletionEvent::Remove
            }
            (DeletionStep::Deleting, None) => DeletionEvent::Remove,
            (DeletionStep::Removing, _) => {
                deleting.busy = true;
                return self.remove_files(topic);
            }
            (DeletionStep::Forgotten, _) => return,
        };
        deleting.busy = true;
        self.keep_deletion(hand_overs, topic, event);
    }

    fn keep_deletion(&self, hand_overs: &HandOvers, topic: &str, event: DeletionEvent) {
        let (state, link, topic) = (hand_overs.state.clone(), hand_overs.link.clone(), topic.to_owned());
        self.spawn(async move {
            let kept = state.advance_deletion(&link, &topic, event, wall_clock_ms()).await;
            deletion(topic, DeletionNews::Kept(kept.map_err(|error| error.to_string())))
        });
    }

    fn send_deletion(&self, topic: &str, id: TopicId) {
        let Some(guest) = &self.guest else { return };
        let (mut client, topic) = (guest.member.controller(), topic.to_owned());
        self.spawn(async move {
            let sent = match delete_topics(&mut client, &[id]).await {
                Err(error) => Err(error.to_string()),
                Ok(answers) => match answers.into_iter().next() {
                    Some((_, Ok(()))) => Ok(()),
                    Some((_, Err(refusal)))
                        if matches!(refusal.code, UNKNOWN_TOPIC_ID | UNKNOWN_TOPIC_OR_PARTITION) =>
                    {
                        Ok(())
                    }
                    Some((_, Err(refusal))) => Err(format!("the destination does not delete it: {refusal}")),
                    None => Err("the controller did not answer for it".to_owned()),
                },
            };
            deletion(topic, DeletionNews::Sent(sent))
        });
    }

    fn remove_files(&self, topic: &str) {
        let (directory, journals) = (self.settings.link_directory(), self.settings.journal_directory());
        let topic = topic.to_owned();
        self.spawn_store_job(move || {
            let removed = remove_topic(&directory, &journals, &topic).map_err(|error| error.to_string());
            deletion(topic, DeletionNews::Removed(removed))
        });
    }

    pub(super) fn deletion_came(&mut self, hand_overs: &mut HandOvers, topic: &str, news: DeletionNews) {
        let Some(deleting) = hand_overs.deletions.get_mut(topic) else { return };
        match news {
            DeletionNews::Sent(result) => _ = deleting.answered(result),
            DeletionNews::Removed(result) => {
                if let Some(removed) = deleting.answered(result) {
                    deleting.busy = true;
                    removed.iter().for_each(|partition| self.forget_files(partition));
                    self.keep_deletion(hand_overs, topic, DeletionEvent::Forget);
                }
            }
            DeletionNews::Kept(result) => match deleting.answered(result) {
                None => {}
                Some(DeletionStep::Forgotten) => {
                    info!("deletion of {topic}: {}", DeletionStep::Forgotten);
                    hand_overs.forget(topic);
                    let known = &self.by_key;
                    hand_overs.standings.retain(|key, _| known.contains_key(key));
                }
                Some(step) => {
                    info!("deletion of {topic}: {step}");
                    deleting.row.step = step;
                }
            },
        }
    }
}

impl HandOvers {
    fn forget(&mut self, topic: &str) {
        self.deletions.remove(topic);
        self.rows.remove(topic);
        self.hand_overs.remove(topic);
        self.repairs.retain(|(name, _), _| name != topic);
    }
}

fn deletion(topic: String, news: DeletionNews) -> super::Outcome {
    outcome(HandOverOutcome::Deletion { topic, news })
}
