//! States of mirror topics that change by an operator's word or by themselves: kept first, then acted on.
//!
//! ```text
//!   pause, resume, link pause --judged--+
//!   source lost, found, refused --------+--> one transaction --> rows --> Freeze | Thaw to the shards
//!   partition stopped, released --------+
//! ```
//! A topic that is paused is fetched no more; what is here goes on being flushed and served. Changes under way
//! are one at a time: what is due is looked at again when they are kept, so that nothing is decided twice.

use super::operator::{noted, refused, tell};
use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::admin::answer::{LinkView, MirrorActionView, PartitionActionView};
use crate::admin::{AdminError, ErrorCode, LinkAddress, ReleaseOrder, Reply, Selection};
use crate::control::instruction::Release;
use crate::control::mirror::{Mirror, Phase, Replacement, Stopped};
use crate::control::source_client::ClientError;
use crate::control::state::{Change, MirrorTopic, StateError};
use crate::control::supervisor::hand_over::views;
use crate::shard::mailbox::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_io::RealDisk;
use twinlog_log_segment::files::TopicPartition;
use twinlog_sync::lifecycle::{MIRROR_TRANSITIONS, MirrorEvent, MirrorState, Transition};

/// Between two looks at what became of topics by itself; each is at every partition.
const STATES_INTERVAL: Duration = Duration::from_millis(500);
/// Topics that change in one transaction; the others are next.
const CHANGES_MAX: usize = 1_000;

/// Changes that were kept, or were not.
pub struct Changed {
    changes: Vec<Change>,
    result: Result<Vec<MirrorState>, StateError>,
    /// An operator waits for it.
    answer: Option<(Vec<MirrorActionView>, Reply<Vec<MirrorActionView>>)>,
}

/// A link that was paused or resumed, or was not.
pub struct LinkChanged {
    paused: bool,
    result: Result<(), StateError>,
    reply: Reply<LinkView>,
}

/// What an order on a topic comes to.
enum Verdict {
    Change(MirrorActionView, MirrorEvent),
    /// It is so already, or only partitions are released.
    Said(MirrorActionView),
    Refused(MirrorActionView),
}

/// What keeps the whole link from its source.
struct Trouble {
    event: MirrorEvent,
    code: &'static str,
    reason: String,
}

fn is_still(state: MirrorState) -> bool {
    matches!(state, MirrorState::Paused | MirrorState::LinkPaused)
}

fn change(topic: &str, event: MirrorEvent, code: &str, reason: &str) -> Change {
    Change { topic: topic.to_owned(), event, code: code.to_owned(), reason: reason.to_owned() }
}

/// A refusal that waiting does not cure, as far as can be told.
fn is_refusal(error: &ClientError) -> bool {
    match error {
        ClientError::Security { .. } => true,
        ClientError::AllFailed { last, .. } => is_refusal(last),
        _ => false,
    }
}

impl HandOvers {
    /// Whether the link as a whole stands still: an operator's word counts more than the configuration's.
    pub fn is_link_paused(&self) -> bool {
        self.link_paused.unwrap_or(self.paused_by_config)
    }

    /// It is fetched no more until somebody says so.
    pub(super) fn stands_still(&self, topic: &str) -> bool {
        self.is_link_paused() || self.rows.get(topic).is_some_and(|row| is_still(row.state))
    }
}

impl Supervisor {
    /// Changes what became of topics by itself.
    pub(super) fn drive_states(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        if hand_overs.changing || now < hand_overs.states_at || now < hand_overs.retry_at {
            return;
        }
        hand_overs.states_at = now + STATES_INTERVAL;
        let trouble = self.trouble(now);
        let mut stopped: BTreeMap<&str, &Stopped> = BTreeMap::new();
        for mirror in self.mirrors.values() {
            if let Some(why) = &mirror.stopped {
                stopped.entry(mirror.partition.topic()).or_insert(why);
            }
        }
        let is_free = |row: &&MirrorTopic| {
            !hand_overs.running.contains_key(&row.topic) && !hand_overs.deletions.contains_key(&row.topic)
        };
        let due = hand_overs.rows.values().filter(is_free).filter_map(|row| {
            let why = stopped.get(row.topic.as_str()).copied();
            self.due(hand_overs, row, why, trouble.as_ref())
        });
        let due: Vec<Change> = due.take(CHANGES_MAX).collect();
        if !due.is_empty() {
            self.keep_changes(hand_overs, due, None);
        }
    }

    /// What keeps the source from us, once it lasts.
    fn trouble(&self, now: Instant) -> Option<Trouble> {
        let error = self.refresh.last_error.as_ref()?;
        let since = self.refresh.lost_at?;
        let limit = self.settings.link.retry_timeout;
        if now - since < limit {
            return None;
        }
        let reason = format!("the source has not answered for {} s: {error}", (now - since).as_secs());
        Some(match is_refusal(error) {
            true => Trouble { event: MirrorEvent::LinkFailed, code: "LINK_FAILED", reason },
            false => Trouble { event: MirrorEvent::SourceLost, code: "SOURCE_UNAVAILABLE", reason },
        })
    }

    fn due(
        &self,
        hand_overs: &HandOvers,
        row: &MirrorTopic,
        stopped: Option<&Stopped>,
        trouble: Option<&Trouble>,
    ) -> Option<Change> {
        use MirrorEvent as E;
        use MirrorState as S;
        let topic = row.topic.as_str();
        let possible = |event| Transition::next(MIRROR_TRANSITIONS, row.state, event).is_some();
        match (hand_overs.is_link_paused(), row.state) {
            (true, _) if possible(E::LinkPaused) => {
                return Some(change(topic, E::LinkPaused, "LINK_PAUSED", "the link is paused"));
            }
            (false, S::LinkPaused) => return Some(change(topic, E::LinkResumed, "", "the link is resumed")),
            (_, S::Paused | S::LinkPaused) => return None,
            _ => {}
        }
        if let Some(stopped) = stopped.filter(|_| possible(E::Failed)) {
            return Some(change(topic, E::Failed, stopped.code, &stopped.reason));
        }
        if row.state == S::Failed && stopped.is_none() && self.goes_on(topic) {
            return Some(change(topic, E::Released, "", "its partitions go on"));
        }
        match (row.state, trouble) {
            (S::SourceUnavailable, None) if self.refresh.last_error.is_none() => {
                Some(change(topic, E::SourceFound, "", "the source answers again"))
            }
            (S::LinkFailed, None) if self.refresh.last_error.is_none() => {
                Some(change(topic, E::LinkRecovered, "", "the source accepts us again"))
            }
            (_, Some(trouble)) if possible(trouble.event) => {
                Some(change(topic, trouble.event, trouble.code, &trouble.reason))
            }
            _ => None,
        }
    }

    /// Every partition of a topic is in its shard and has been heard of by the source.
    fn goes_on(&self, topic: &str) -> bool {
        let partitions = self.partitions_of(topic);
        let heard = |mirror: &Mirror| mirror.counters.source_seen_at.load(Relaxed) > 0;
        let each = |partition: &TopicPartition| {
            let mirror = &self.mirrors[partition];
            mirror.is_in_shard() && heard(mirror)
        };
        !partitions.is_empty() && partitions.iter().all(each)
    }

    fn keep_changes(
        &self,
        hand_overs: &mut HandOvers,
        changes: Vec<Change>,
        answer: Option<(Vec<MirrorActionView>, Reply<Vec<MirrorActionView>>)>,
    ) {
        hand_overs.changing = true;
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let result = state.transition(&link, changes.clone(), wall_clock_ms()).await;
            outcome(HandOverOutcome::Changed(Box::new(Changed { changes, result, answer })))
        });
    }

    pub(super) fn changed(&mut self, hand_overs: &mut HandOvers, changed: Changed) {
        hand_overs.changing = false;
        let Changed { changes, result, answer } = changed;
        let mut answer = answer;
        match result {
            Ok(states) => {
                for (change, state) in changes.iter().zip(states) {
                    self.state_is(hand_overs, change, state);
                }
            }
            Err(error) => {
                if self.may_warn("states") {
                    warn!("states of mirror topics are not kept: {error}; tried again");
                }
                hand_overs.retry_at = Instant::now() + super::keeping::RETRY;
                self.reload(hand_overs);
                let names: Vec<&str> = changes.iter().map(|change| change.topic.as_str()).collect();
                if let Some((actions, _)) = &mut answer {
                    for action in actions.iter_mut().filter(|each| names.contains(&&*each.mirror_topic_name))
                    {
                        *action = refused(&action.mirror_topic_name, "NOT_KEPT", &error);
                    }
                }
            }
        }
        if let Some((actions, reply)) = answer {
            tell(reply, Ok(actions));
        }
    }

    fn state_is(&mut self, hand_overs: &mut HandOvers, change: &Change, state: MirrorState) {
        let Some(row) = hand_overs.rows.get_mut(&change.topic) else { return };
        let before = std::mem::replace(&mut row.state, state);
        (row.reason, row.code, row.since_ms) = (change.reason.clone(), change.code.clone(), wall_clock_ms());
        match change.code.is_empty() {
            true => info!("mirror topic {}: {before} -> {state}: {}", change.topic, change.reason),
            false => error!("mirror topic {}: {before} -> {state}: {}", change.topic, change.reason),
        }
        if is_still(before) != is_still(state) {
            self.tell_still(hand_overs, &change.topic);
        }
    }

    /// Tells the shards whether a topic is fetched.
    fn tell_still(&mut self, hand_overs: &HandOvers, topic: &str) {
        let still = hand_overs.stands_still(topic);
        for partition in self.partitions_of(topic) {
            let mirror = &self.mirrors[&partition];
            if mirror.is_in_shard() && mirror.stopped.is_none() {
                let (shard, key) = (mirror.shard, mirror.key);
                let command = if still { Command::Freeze { key, at: None } } else { Command::Thaw { key } };
                self.send(shard, command);
            }
        }
    }

    pub(super) fn pause_order(
        &mut self,
        hand_overs: &mut HandOvers,
        at: &LinkAddress,
        selection: &Selection,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    ) {
        self.state_order(hand_overs, at, selection, validate_only, reply, |supervisor, row| {
            supervisor.judge_pause(row)
        });
    }

    pub(super) fn resume_order(
        &mut self,
        hand_overs: &mut HandOvers,
        at: &LinkAddress,
        (selection, release): (&Selection, Option<ReleaseOrder>),
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
    ) {
        self.state_order(hand_overs, at, selection, validate_only, reply, |supervisor, row| {
            supervisor.judge_resume(row, release, validate_only)
        });
    }

    fn state_order(
        &mut self,
        hand_overs: &mut HandOvers,
        at: &LinkAddress,
        selection: &Selection,
        validate_only: bool,
        reply: Reply<Vec<MirrorActionView>>,
        mut judge: impl FnMut(&mut Self, &MirrorTopic) -> Verdict,
    ) {
        if let Err(error) = hand_overs.check(at) {
            return tell(reply, Err(error));
        }
        let (mut actions, mut changes) = (Vec::new(), Vec::new());
        for name in hand_overs.meant(selection) {
            let verdict = match hand_overs.rows.get(&name) {
                None => {
                    let why = "there is no mirror topic of this name";
                    Verdict::Refused(refused(&name, "NO_SUCH_MIRROR_TOPIC", &why))
                }
                Some(_) if hand_overs.deletions.contains_key(&name) => {
                    Verdict::Refused(refused(&name, "BEING_DELETED", &"it is being deleted"))
                }
                Some(row) => judge(self, row),
            };
            actions.push(match verdict {
                Verdict::Change(action, event) => {
                    changes.push(change(&name, event, "", "an operator said so"));
                    action
                }
                Verdict::Said(action) | Verdict::Refused(action) => action,
            });
        }
        if validate_only || changes.is_empty() {
            return tell(reply, Ok(actions));
        }
        self.keep_changes(hand_overs, changes, Some((actions, reply)));
    }

    fn judge_pause(&self, row: &MirrorTopic) -> Verdict {
        let topic = row.topic.as_str();
        if row.state == MirrorState::Paused {
            return Verdict::Said(noted(topic, "it is paused already; nothing changes"));
        }
        if Transition::next(MIRROR_TRANSITIONS, row.state, MirrorEvent::Paused).is_none() {
            let why = format!("it is {}, which allows no pause", row.state);
            return Verdict::Refused(refused(topic, row.state.name(), &why));
        }
        let mirror_lags = self.lags_of(topic);
        let action = MirrorActionView { mirror_lags, ..noted(topic, "it is fetched no more until resumed") };
        Verdict::Change(action, MirrorEvent::Paused)
    }

    fn lags_of(&self, topic: &str) -> Vec<PartitionActionView> {
        let view = |partition: &TopicPartition| PartitionActionView {
            partition_id: partition.partition(),
            lag: self.figures_of(&self.mirrors[partition]).records,
            last_source_fetch_offset: views::fetched(&self.mirrors[partition]),
            ..PartitionActionView::default()
        };
        self.partitions_of(topic).iter().map(view).collect()
    }

    fn judge_resume(
        &mut self,
        row: &MirrorTopic,
        release: Option<ReleaseOrder>,
        validate_only: bool,
    ) -> Verdict {
        let topic = row.topic.as_str();
        if let Some(order) = release {
            return self.release(topic, order, validate_only);
        }
        // Told from the partitions themselves: the row follows them a moment later.
        let partitions = self.partitions_of(topic);
        let stopped = partitions.iter().find_map(|each| self.mirrors[each].stopped.as_ref());
        let failed = |code: &str, reason: &str| {
            let why = format!(
                "it is stopped ({code}): {reason}; say how it goes on: --retry, --accept-gap or --restart-from OFFSET"
            );
            Verdict::Refused(refused(topic, MirrorState::Failed.name(), &why))
        };
        match row.state {
            MirrorState::Paused => {
                let action = noted(topic, "it goes on where it stood");
                Verdict::Change(action, MirrorEvent::Resumed)
            }
            MirrorState::LinkPaused => {
                let why = "the whole link is paused; resume the link";
                Verdict::Refused(refused(topic, row.state.name(), &why))
            }
            MirrorState::Failed => failed(&row.code, &row.reason),
            MirrorState::Stopped | MirrorState::PendingStopped => {
                let why = format!("it is {}: no mirror that could be resumed", row.state);
                Verdict::Refused(refused(topic, row.state.name(), &why))
            }
            state => match stopped {
                Some(trouble) => failed(trouble.code, &trouble.reason),
                None => Verdict::Said(noted(topic, format!("it is {state}, not paused; nothing changes"))),
            },
        }
    }

    /// Lets stopped partitions of a topic go on in the way that was ordered: kept first, as for the next start.
    fn release(&mut self, topic: &str, order: ReleaseOrder, validate_only: bool) -> Verdict {
        let is_meant =
            |partition: &TopicPartition| order.partition.is_none_or(|index| index == partition.partition());
        let stopped: Vec<TopicPartition> = self
            .partitions_of(topic)
            .into_iter()
            .filter(|each| is_meant(each) && self.mirrors[each].stopped.is_some())
            .collect();
        let action = |note: &str| noted(topic, note);
        if stopped.is_empty() {
            return Verdict::Said(action("no such partition of it is stopped; nothing changes"));
        }
        if let Release::RestartFrom(offset) = order.release
            && (stopped.len() > 1 || offset < 0)
        {
            let why = format!(
                "an offset belongs to one partition and is 0 or more; {} partitions are stopped, name one",
                stopped.len()
            );
            return Verdict::Refused(refused(topic, "SEVERAL_PARTITIONS", &why));
        }
        let views = stopped.iter().map(|partition| PartitionActionView {
            partition_id: partition.partition(),
            last_source_fetch_offset: views::fetched(&self.mirrors[partition]),
            lag: self.figures_of(&self.mirrors[partition]).records,
            ..PartitionActionView::default()
        });
        let mirror_lags = views.collect();
        let verb = if validate_only { "would be" } else { "are" };
        let how = match order.release {
            Release::Retry => "tried again as they are".to_owned(),
            Release::AcceptGap => "continued behind the gap; what they hold is exported first".to_owned(),
            Release::RestartFrom(offset) => {
                format!("cut or restarted at offset {offset}; what they hold beyond is exported first")
            }
        };
        let note = format!("{} stopped partitions {verb} {how}", stopped.len());
        if !validate_only {
            stopped.iter().for_each(|partition| self.instructions.set(partition, order.release));
            if let Err(error) = self.instructions.save(&mut RealDisk) {
                return Verdict::Refused(refused(topic, "NOT_KEPT", &error));
            }
            stopped.iter().for_each(|partition| self.go_on(partition));
        }
        Verdict::Said(MirrorActionView { mirror_lags, ..action(&note) })
    }

    /// A stopped partition is opened again; recovery carries out what was ordered.
    fn go_on(&mut self, partition: &TopicPartition) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        mirror.stopped = None;
        info!("{partition} goes on by an operator's word");
        match mirror.phase {
            Phase::Running | Phase::Classifying => self.let_go(partition, Replacement::Reopen),
            Phase::Parked => self.unpark(partition, Instant::now()),
            // Whatever is under way finds no reason to stop when it comes back.
            Phase::Waiting
            | Phase::Asking
            | Phase::TakingOver
            | Phase::Recovering
            | Phase::Confirming
            | Phase::Leaving(_)
            | Phase::Replacing => {}
        }
    }

    pub(super) fn pause_link_order(
        &mut self,
        hand_overs: &HandOvers,
        at: &LinkAddress,
        (paused, validate_only): (bool, bool),
        reply: Reply<LinkView>,
    ) {
        if let Err(error) = hand_overs.check(at) {
            return tell(reply, Err(error));
        }
        if !hand_overs.link_kept {
            let why = "the link's clusters are not known yet; try again when both answer";
            return tell(reply, Err(AdminError::new(ErrorCode::Unreachable, &why)));
        }
        if validate_only || hand_overs.is_link_paused() == paused {
            return tell(reply, Ok(self.link_view(hand_overs)));
        }
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let result = state.pause_link(&link, paused, wall_clock_ms()).await;
            outcome(HandOverOutcome::LinkChanged(Box::new(LinkChanged { paused, result, reply })))
        });
    }

    pub(super) fn link_changed(&mut self, hand_overs: &mut HandOvers, changed: LinkChanged) {
        let LinkChanged { paused, result, reply } = changed;
        match result {
            Err(error) => tell(reply, Err(AdminError::new(ErrorCode::Refused, &error))),
            Ok(()) => {
                info!("the link is {} by an operator's word", if paused { "paused" } else { "resumed" });
                hand_overs.link_paused = Some(paused);
                self.tell_all_still(hand_overs);
                tell(reply, Ok(self.link_view(hand_overs)));
            }
        }
    }

    /// Whether the link stands still has changed.
    pub(super) fn tell_all_still(&mut self, hand_overs: &mut HandOvers) {
        hand_overs.states_at = Instant::now();
        let topics: BTreeSet<String> =
            self.mirrors.keys().map(|partition| partition.topic().to_owned()).collect();
        topics.iter().filter(|topic| !hand_overs.is_busy(topic)).for_each(|topic| {
            self.tell_still(hand_overs, topic);
        });
    }
}
