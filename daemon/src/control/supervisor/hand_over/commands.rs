//! `mirror create` and `mirror delete`: judged, kept, and then begun.
//!
//! A dry run is the same judgement without the keeping. What is asked twice is done once, and said.

use super::operator::{noted, refused, tell};
use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::admin::answer::MirrorActionView;
use crate::admin::{AdminError, ErrorCode, LinkAddress, Reply};
use crate::control::discovery::{ClusterView, TopicView};
use crate::control::source_client::ClientError;
use crate::control::state::{Deletion, StateError, TopicCommand};
use crate::control::supervisor::guest::TopicPhase;
use tracing::{info, warn};
use twinlog_log_segment::files::TopicId;
use twinlog_sync::fault::code;
use twinlog_sync::lifecycle::{DeletionStep, MirrorState};

type Answer = Reply<Vec<MirrorActionView>>;

/// What was said of topics, with the way back.
pub struct CommandNews {
    actions: Vec<MirrorActionView>,
    reply: Answer,
    stage: Stage,
}

enum Stage {
    /// The source was asked for topics that are to be created.
    Looked {
        names: Vec<String>,
        validate_only: bool,
        result: Result<ClusterView, ClientError>,
    },
    Created {
        names: Vec<String>,
        result: Result<(), StateError>,
    },
    Deleted {
        rows: Vec<Deletion>,
        result: Result<(), StateError>,
    },
}

/// Marks everything that was right as not kept.
fn not_kept(actions: &mut [MirrorActionView], names: &[String], error: &StateError) {
    warn!("nothing was created or deleted: {error}");
    for action in actions.iter_mut().filter(|action| names.contains(&action.mirror_topic_name)) {
        *action = refused(&action.mirror_topic_name, "NOT_KEPT", error);
    }
}

fn news(stage: Stage, actions: Vec<MirrorActionView>, reply: Answer) -> super::Outcome {
    outcome(HandOverOutcome::Command(Box::new(CommandNews { actions, reply, stage })))
}

impl Supervisor {
    pub(super) fn create_order(
        &mut self,
        hand_overs: &HandOvers,
        at: &LinkAddress,
        names: Vec<String>,
        validate_only: bool,
        reply: Answer,
    ) {
        if let Err(error) = hand_overs.check(at) {
            return tell(reply, Err(error));
        }
        let client = self.client.clone();
        self.spawn(async move {
            let result = client.metadata(Some(&names)).await;
            news(Stage::Looked { names, validate_only, result }, Vec::new(), reply)
        });
    }

    pub(super) fn command_came(&mut self, hand_overs: &mut HandOvers, news: CommandNews) {
        let CommandNews { mut actions, reply, stage } = news;
        match stage {
            Stage::Looked { result: Err(error), .. } => {
                let why = format!("the source cannot be asked for these topics: {error}");
                tell(reply, Err(AdminError::new(ErrorCode::Unreachable, &why)));
            }
            Stage::Looked { names, validate_only, result: Ok(view) } => {
                self.judge_creation(hand_overs, &names, &view, validate_only, reply);
            }
            Stage::Created { names, result } => {
                match result {
                    Ok(()) => names.iter().for_each(|name| {
                        info!("topic {name} is to be mirrored, by command");
                        self.discovery.create(name);
                        self.refresh.wanted = true;
                        hand_overs.commanded.insert(name.clone(), TopicCommand::Created);
                    }),
                    Err(error) => not_kept(&mut actions, &names, &error),
                }
                tell(reply, Ok(actions));
            }
            Stage::Deleted { rows, result } => {
                let names: Vec<String> = rows.iter().map(|row| row.topic.clone()).collect();
                match result {
                    Ok(()) => rows.into_iter().for_each(|row| {
                        hand_overs.commanded.insert(row.topic.clone(), TopicCommand::Deleted);
                        self.begin_deletion(hand_overs, row);
                    }),
                    Err(error) => not_kept(&mut actions, &names, &error),
                }
                tell(reply, Ok(actions));
            }
        }
    }

    fn judge_creation(
        &mut self,
        hand_overs: &HandOvers,
        names: &[String],
        view: &ClusterView,
        validate_only: bool,
        reply: Answer,
    ) {
        let mut wanted = Vec::new();
        let mut actions = Vec::new();
        for name in names {
            let found = view.topics.iter().find(|topic| topic.name == *name);
            match self.judge_one_creation(hand_overs, name, found, validate_only) {
                Ok(action) => {
                    actions.push(action);
                    wanted.push(name.clone());
                }
                Err(action) => actions.push(*action),
            }
        }
        if validate_only || wanted.is_empty() {
            return tell(reply, Ok(actions));
        }
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let result = state.command_topics(&link, wanted.clone(), wall_clock_ms()).await;
            news(Stage::Created { names: wanted, result }, actions, reply)
        });
    }

    /// `Ok`: it is to be created. `Err`: it is not, for the reason that is said, or because it is there already.
    fn judge_one_creation(
        &self,
        hand_overs: &HandOvers,
        name: &str,
        found: Option<&TopicView>,
        validate_only: bool,
    ) -> Result<MirrorActionView, Box<MirrorActionView>> {
        let refuse = |name: &str, code: &str, why: &dyn std::fmt::Display| Box::new(refused(name, code, why));
        if hand_overs.deletions.contains_key(name) {
            return Err(refuse(name, "BEING_DELETED", &"it is being deleted; create it when that is over"));
        }
        if hand_overs.is_stopped(name) {
            let why = match self.guest.is_some() {
                true => {
                    "it was handed over and is STOPPED; mirror delete forgets that, then delete or rename the \
                     destination's topic"
                }
                false => {
                    "it was handed over and is STOPPED; move its files to where they are adopted, then mirror delete \
                     forgets that"
                }
            };
            return Err(refuse(name, MirrorState::Stopped.name(), &why));
        }
        if let Some(TopicPhase::Refused(why)) = self.guest_topic(name) {
            return Err(refuse(name, "REFUSED", why));
        }
        let commanded = hand_overs.commanded.get(name) == Some(&TopicCommand::Created);
        let is_here = hand_overs.rows.contains_key(name) || !self.partitions_of(name).is_empty();
        if commanded || is_here || self.guest_topic(name).is_some() {
            return Err(Box::new(noted(name, "it is a mirror topic of this link already; nothing changes")));
        }
        let partitions = match found {
            None => {
                return Err(refuse(name, "NO_SUCH_SOURCE_TOPIC", &"the source has no topic of this name"));
            }
            Some(topic) => match topic.error {
                0 | code::LEADER_NOT_AVAILABLE => topic.partitions.len(),
                code::UNKNOWN_TOPIC_OR_PARTITION | code::UNKNOWN_TOPIC_ID => {
                    return Err(refuse(
                        name,
                        "NO_SUCH_SOURCE_TOPIC",
                        &"the source has no topic of this name",
                    ));
                }
                code => {
                    let why = format!("the source does not tell about it (error code {code})");
                    return Err(refuse(name, "NOT_TOLD", &why));
                }
            },
        };
        if let Some(guest) = &self.guest {
            if !guest.member.image_moves().borrow().is_ready {
                let why = "the destination's metadata is not read yet; try again in a moment";
                return Err(refuse(name, "NOT_READY", &why));
            }
            let image = guest.member.image();
            if image.topic_named(name).is_some_and(|(_, topic)| !guest.is_mirror(&image, name, topic)) {
                let why = "the destination has a topic of this name that is not a mirror of this link; delete or \
                           rename it there first";
                return Err(refuse(name, "EXISTS_AT_DESTINATION", &why));
            }
        }
        let word = if validate_only { "would be" } else { "are" };
        Ok(noted(name, format!("{partitions} partitions {word} mirrored from now on")))
    }

    pub(super) fn delete_order(
        &mut self,
        hand_overs: &HandOvers,
        at: &LinkAddress,
        names: &[String],
        (delete_data, validate_only): (bool, bool),
        reply: Answer,
    ) {
        if let Err(error) = hand_overs.check(at) {
            return tell(reply, Err(error));
        }
        let mut rows = Vec::new();
        let mut actions = Vec::new();
        for name in names {
            match self.judge_deletion(hand_overs, name, delete_data) {
                Ok((row, note)) => {
                    actions.push(noted(name, note));
                    rows.push(row);
                }
                Err(action) => actions.push(*action),
            }
        }
        if validate_only || rows.is_empty() {
            return tell(reply, Ok(actions));
        }
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let result = state.begin_deletions(&link, rows.clone(), wall_clock_ms()).await;
            news(Stage::Deleted { rows, result }, actions, reply)
        });
    }

    fn judge_deletion(
        &self,
        hand_overs: &HandOvers,
        name: &str,
        delete_data: bool,
    ) -> Result<(Deletion, &'static str), Box<MirrorActionView>> {
        let refused = |code: &str, why: &dyn std::fmt::Display| Err(Box::new(refused(name, code, why)));
        if let Some(known) = hand_overs.deletions.get(name) {
            if known.deletes_data() == delete_data {
                return Err(Box::new(noted(name, "it is being deleted already; nothing changes")));
            }
            return refused("BEING_DELETED", &"it is being deleted in the other way; that goes on");
        }
        let commanded = hand_overs.commanded.get(name) == Some(&TopicCommand::Created);
        let is_here = hand_overs.rows.contains_key(name) || !self.partitions_of(name).is_empty();
        if !is_here && self.guest_topic(name).is_none() && !commanded {
            return refused("NO_SUCH_MIRROR_TOPIC", &"there is no mirror topic of this name");
        }
        if hand_overs.running.contains_key(name) {
            let why = "it is being handed over; delete it when that is over";
            return refused(MirrorState::PendingStopped.name(), &why);
        }
        let row = |destination_topic_id| Deletion {
            topic: name.to_owned(),
            step: DeletionStep::Marked,
            delete_data,
            destination_topic_id,
            started_ms: wall_clock_ms(),
        };
        if hand_overs.is_stopped(name) {
            let note = match delete_data {
                true if self.guest.is_none() => "forgotten, and its files are deleted",
                false if self.guest.is_none() => "forgotten; its files stay as they are",
                true => "forgotten with what we hold of it; the destination's own topic stays as it is",
                false => "forgotten; the destination's own topic and what we hold of it stay as they are",
            };
            return Ok((row(None), note));
        }
        if let Some(TopicPhase::Creating) = self.guest_topic(name) {
            return refused("CREATING", &"it is being created at the destination; try again in a moment");
        }
        if self.guest.as_ref().is_some_and(|guest| !guest.member.image_moves().borrow().is_ready) {
            return refused(
                "NOT_READY",
                &"the destination's metadata is not read yet; try again in a moment",
            );
        }
        match (self.led_at_destination(hand_overs, name), delete_data) {
            (Some(_), false) => refused(
                "LED_BY_US",
                &"the destination's topic is led by us and would have no leader for ever; promote it or fail it \
                  over first, or give --delete-data, which deletes the destination's topic and what we hold of it",
            ),
            (Some(id), true) => {
                Ok((row(Some(id)), "the destination's topic and what we hold of it are deleted"))
            }
            (None, true) if self.guest.is_none() => Ok((row(None), "forgotten, and its files are deleted")),
            (None, true) => {
                Ok((row(None), "forgotten with what we hold of it; the destination has none of it"))
            }
            (None, false) => Ok((row(None), "forgotten; what we hold of it stays")),
        }
    }

    /// How far a topic is at the destination; `None` also where that is a store.
    fn guest_topic(&self, name: &str) -> Option<&TopicPhase> {
        Some(&self.guest.as_ref()?.topics.get(name)?.phase)
    }

    /// The destination's topic, if it is still ours.
    fn led_at_destination(&self, hand_overs: &HandOvers, name: &str) -> Option<TopicId> {
        let guest = self.guest.as_ref()?;
        let image = guest.member.image();
        let ids = guest.ids();
        let kept = hand_overs.rows.get(name).and_then(|row| row.destination_topic_id);
        let (id, topic) = match kept {
            Some(id) => (id, image.topic(id)?),
            None => {
                let (id, topic) = image.topic_named(name)?;
                guest.is_mirror(&image, name, topic).then_some((id, topic))?
            }
        };
        let mut replicas = topic.partitions.values().flat_map(|partition| &partition.replicas);
        replicas.any(|broker| ids.contains(broker)).then_some(id)
    }
}
