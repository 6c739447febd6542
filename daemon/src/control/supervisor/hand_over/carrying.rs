//! What machines ask for, carried out: commands to shards at once, requests of all topics in one.

use super::groups::GROUPS;
use super::losses::CUTS;
use super::machine::Machine;
use super::store::{STORED, stored_view};
use super::{HandOverOutcome, HandOvers, Running, Supervisor, outcome, wall_clock_ms};
use crate::control::guest::hand_over as requests;
use crate::control::guest::producer_overlap::fence;
use crate::control::guest::topic_requests::{IsrChange as WireChange, alter_partitions, reassign};
use crate::control::mirror::Replacement;
use crate::control::state::{Advance, HandOverKind, ReplicaRepair, StateDatabase, StateError};
use crate::shard::mailbox::Command;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::guest::hand_over::IsrChange;
use twinlog_sync::hand_over::{Action, Event};
use twinlog_sync::lifecycle::{HandOverEvent, HandOverStep, HandOverWay};

/// Nothing to cancel: somebody else did, or it was never taken.
const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;

/// Requests of all machines in one turn.
#[derive(Default)]
struct Batch {
    steps: Vec<(HandOverStep, Advance)>,
    reassigns: Vec<(String, i32, Option<Vec<i32>>)>,
    /// By the guest that leads.
    changes: BTreeMap<i32, Vec<(String, TopicId, IsrChange)>>,
    floors: Vec<String>,
}

/// The event by which a step is reached.
fn event_of(way: HandOverWay, step: HandOverStep) -> HandOverEvent {
    let row = way.transitions().iter().find(|row| row.to == step);
    row.expect("every step but the first is reached").event
}

impl Supervisor {
    pub(super) fn carry_out_all(&mut self, hand_overs: &mut HandOvers) {
        let mut batch = Batch::default();
        let topics: Vec<String> = hand_overs.running.keys().cloned().collect();
        for topic in topics {
            loop {
                let now = hand_overs.now();
                let Some(running) = hand_overs.running.get_mut(&topic) else { break };
                let Some(action) = running.machine.poll() else { break };
                for event in self.carry_out(hand_overs, &topic, action, &mut batch) {
                    if let Some(running) = hand_overs.running.get_mut(&topic) {
                        running.machine.handle(now, event);
                    }
                }
            }
        }
        self.send_batch(hand_overs, batch);
    }

    /// Carries out one action; events are answers that are known at once.
    fn carry_out(
        &mut self,
        hand_overs: &mut HandOvers,
        topic: &str,
        action: Action,
        batch: &mut Batch,
    ) -> Vec<Event> {
        let running = &hand_overs.running[topic];
        let machine = &running.machine;
        let topic_id = || {
            let row = hand_overs.rows.get(topic);
            row.and_then(|row| row.destination_topic_id).expect("its machine was made with it")
        };
        match action {
            Action::AskStanding(indexes) => return self.ask_standing(hand_overs, topic, &indexes),
            Action::Seal(indexes) => return self.seal(topic, &indexes),
            Action::Freeze(freezes) => {
                for (index, at) in freezes {
                    self.command(topic, index, |key| Command::Freeze { key, at });
                }
            }
            Action::Thaw => {
                for index in self.indexes_here(topic) {
                    self.command(topic, index, |key| Command::Thaw { key });
                }
                self.reopen_sealed(topic);
            }
            Action::ForgetLeads => {
                for index in self.indexes_here(topic) {
                    self.command(topic, index, |key| Command::ForgetLead { key });
                }
            }
            Action::Keep(step) => {
                let mut advance = advance_of(topic, step, running);
                if step == HandOverStep::Done {
                    if machine.way() == HandOverWay::Guest {
                        advance.repairs = repairs_of(topic, topic_id(), machine);
                    }
                    self.tell_the_end(hand_overs, topic, running, advance.result.as_mut());
                }
                batch.steps.push((step, advance));
            }
            Action::CutBack(cuts) => self.keep_cuts(hand_overs, topic, cuts),
            Action::CommitGroups(ends) => self.commit_groups(hand_overs, topic, ends),
            Action::LiftProducerIds => batch.floors.push(topic.to_owned()),
            Action::Reassign(targets) => {
                let named = targets.into_iter().map(|(index, target)| (topic.to_owned(), index, target));
                batch.reassigns.extend(named);
            }
            Action::AlterPartitions(changes) => {
                for change in changes {
                    let of_guest = batch.changes.entry(change.guest).or_default();
                    of_guest.push((topic.to_owned(), topic_id(), change));
                }
            }
            Action::AskSource => self.ask_source(topic),
            Action::AskDestination => self.ask_destination(hand_overs, topic),
            Action::RestoreConfigs => self.restore(hand_overs, topic),
            Action::AbortTransactions => {
                let ends = machine.ends().clone();
                self.abort(hand_overs, topic, ends);
            }
        }
        Vec::new()
    }

    /// What the answer of a hand-over that is done says beside its steps.
    fn tell_the_end(
        &self,
        hand_overs: &HandOvers,
        topic: &str,
        running: &Running,
        result: Option<&mut serde_json::Value>,
    ) {
        let Some(result) = result else { return };
        let machine = &running.machine;
        let row = hand_overs.hand_overs.get(topic);
        if let Some(groups) = row.and_then(|row| row.options.get(GROUPS)) {
            result[GROUPS] = groups.clone();
        }
        if let Some(logs) = machine.sealed() {
            let view = stored_view(self.stored_directory(), logs, &running.readings);
            result[STORED] = serde_json::json!(view);
        }
        if running.kind == HandOverKind::Failover {
            let losses = self.losses(hand_overs, topic, machine.handed_ends());
            result["losses"] = serde_json::json!(losses);
            result["cuts"] = serde_json::json!(self.cuts(hand_overs, topic));
        }
    }

    /// What is about to be cut is kept first: a crash must not make it unknown.
    fn keep_cuts(&self, hand_overs: &HandOvers, topic: &str, cuts: Vec<(i32, Offset)>) {
        let known = hand_overs.hand_overs.get(topic).and_then(|row| row.options.get(CUTS)).cloned();
        let mut note = known.unwrap_or_else(|| serde_json::json!({}));
        for (index, from) in &cuts {
            let partition = TopicPartition::new(topic, *index).ok();
            let mirror = partition.and_then(|partition| self.mirrors.get(&partition));
            let Some(mirror) = mirror.filter(|mirror| mirror.is_in_shard()) else { continue };
            let end = mirror.counters.fetch.load(std::sync::atomic::Ordering::Relaxed);
            // What was kept before a crash knows the older end.
            if note.get(index.to_string()).is_none() {
                note[index.to_string()] = serde_json::json!({ "from": from.value(), "to": end });
            }
        }
        let (state, link, topic) = (hand_overs.state.clone(), hand_overs.link.clone(), topic.to_owned());
        self.spawn(async move {
            let kept = state.note_in_hand_over(&link, &topic, (CUTS, note.clone()), wall_clock_ms()).await;
            outcome(HandOverOutcome::CutsKept { topic, cuts, note, result: kept })
        });
    }

    /// The machine asks once more for what is not done.
    pub(super) fn cuts_kept(
        &mut self,
        hand_overs: &mut HandOvers,
        topic: &str,
        cuts: &[(i32, Offset)],
        note: serde_json::Value,
        result: Result<(), StateError>,
    ) {
        if let Err(error) = result {
            return warn!("{topic} is not cut: what would go cannot be kept: {error}; tried again");
        }
        if let Some(row) = hand_overs.hand_overs.get_mut(topic) {
            row.options[CUTS] = note;
        }
        if !hand_overs.running.contains_key(topic) {
            return;
        }
        for (index, to) in cuts {
            let Ok(partition) = TopicPartition::new(topic, *index) else { continue };
            let Some(mirror) = self.mirrors.get_mut(&partition).filter(|mirror| mirror.is_in_shard()) else {
                continue;
            };
            // It comes back without asking a source that may be gone.
            (mirror.without_source, mirror.leader, mirror.stopped) = (true, None, None);
            self.let_go(&partition, Replacement::Before { to: *to });
        }
    }

    fn ask_source(&self, topic: &str) {
        let (client, topic) = (self.client.clone(), topic.to_owned());
        self.spawn(async move {
            let ends = requests::source_ends(&client, &topic).await;
            one_event(topic, Event::SourceEnds(ends.map_err(|error| error.to_string())))
        });
    }

    fn ask_destination(&self, hand_overs: &HandOvers, topic: &str) {
        let (client, topic) = (hand_overs.destination(), topic.to_owned());
        self.spawn(async move {
            let ends = requests::destination_ends(&client, &topic).await;
            one_event(topic, Event::DestinationEnds(ends.map_err(|error| error.to_string())))
        });
    }

    fn abort(&self, hand_overs: &HandOvers, topic: &str, ends: BTreeMap<i32, Offset>) {
        let (client, topic) = (hand_overs.destination(), topic.to_owned());
        self.spawn(async move {
            let aborted = requests::abort_transactions(&client, &topic, &ends).await;
            if let Ok(count @ 1..) = aborted {
                warn!("{topic}: {count} transactions that were open at the end of the copy are aborted");
            }
            let aborted = aborted.map(|_| ()).map_err(|error| error.to_string());
            one_event(topic, Event::TransactionsAborted(aborted))
        });
    }

    fn indexes_here(&self, topic: &str) -> Vec<i32> {
        self.partitions_of(topic).iter().map(TopicPartition::partition).collect()
    }

    pub(super) fn command(
        &mut self,
        topic: &str,
        index: i32,
        command: impl FnOnce(twinlog_sync::session::PartitionKey) -> Command,
    ) -> bool {
        let Ok(partition) = TopicPartition::new(topic, index) else { return false };
        let Some(mirror) = self.mirrors.get(&partition).filter(|mirror| mirror.is_in_shard()) else {
            return false;
        };
        let (shard, key) = (mirror.shard, mirror.key);
        self.send(shard, command(key));
        true
    }

    fn ask_standing(&mut self, hand_overs: &HandOvers, topic: &str, indexes: &[i32]) -> Vec<Event> {
        let from_files = self.guest.is_none() && hand_overs.fails_over(topic);
        let mut absent = Vec::new();
        for index in indexes {
            if !self.command(topic, *index, |key| Command::TellStanding { key }) {
                absent.push(Event::Standing { index: *index, standing: None });
                if from_files {
                    self.open_for_failover(topic, *index);
                }
            }
        }
        absent
    }

    fn restore(&mut self, hand_overs: &HandOvers, topic: &str) {
        let Some(guest) = &self.guest else { return };
        let wanted = hand_overs.rows.get(topic).map(|row| row.wanted_configs.clone()).unwrap_or_default();
        let (mut client, topic) = (guest.member.controller(), topic.to_owned());
        let (destination, skipped) = (hand_overs.destination(), hand_overs.floor.skipped.clone());
        self.spawn(async move {
            // While nobody can write: from the next line on somebody can.
            match fence(&destination, &mut client, &topic, &skipped).await {
                Ok(0) => {}
                Ok(count) => warn!(
                    "{topic}: the epochs of {count} mirrored producers are ended by markers behind the copy's end; \
                     their ids may be the destination's too"
                ),
                Err(error) if error.is_right_missing() => {
                    error!("{topic}: {error}; a producer with a mirrored id may lose its first batch there");
                }
                Err(error) => return one_event(topic, Event::ConfigsRestored(Err(error.to_string()))),
            }
            let restored = requests::restore_configs(&mut client, &topic, &wanted).await;
            for refused in restored.iter().flatten() {
                warn!("{topic}: the destination does not take {refused}");
            }
            let restored = restored.map(|_| ()).map_err(|error| error.to_string());
            one_event(topic, Event::ConfigsRestored(restored))
        });
    }

    fn send_batch(&mut self, hand_overs: &mut HandOvers, batch: Batch) {
        if !batch.steps.is_empty() {
            let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
            self.spawn(async move { outcome(HandOverOutcome::Kept(keep(&state, &link, batch.steps).await)) });
        }
        if !batch.floors.is_empty() {
            self.raise_floor(hand_overs, batch.floors);
        }
        if !batch.reassigns.is_empty() {
            self.send_reassigns(batch.reassigns);
        }
        for (id, changes) in batch.changes {
            self.send_changes(id, changes);
        }
    }

    fn send_reassigns(&self, reassigns: Vec<(String, i32, Option<Vec<i32>>)>) {
        let Some(guest) = &self.guest else { return };
        let mut client = guest.member.controller();
        self.spawn(async move {
            let topics: BTreeSet<String> = reassigns.iter().map(|(topic, ..)| topic.clone()).collect();
            let mut results: BTreeMap<String, Result<(), String>> = BTreeMap::new();
            match reassign(&mut client, &reassigns).await {
                Err(error) => results.extend(topics.into_iter().map(|topic| (topic, Err(error.to_string())))),
                Ok(answers) => {
                    results.extend(topics.into_iter().map(|topic| (topic, Ok(()))));
                    for ((topic, index), answer) in answers {
                        let refused = answer.err().filter(|why| why.code != NO_REASSIGNMENT_IN_PROGRESS);
                        if let Some(why) = refused {
                            results.insert(topic, Err(format!("partition {index}: {why}")));
                        }
                    }
                }
            }
            let events = results.into_iter().map(|(topic, result)| (topic, Event::Reassigned(result)));
            outcome(HandOverOutcome::Events(events.collect()))
        });
    }

    fn send_changes(&self, id: i32, changes: Vec<(String, TopicId, IsrChange)>) {
        let Some(guest) = &self.guest else { return };
        let epoch = guest.member.state(id).and_then(|state| state.broker_epoch());
        let mut client = guest.member.controller();
        self.spawn(async move {
            let topics: BTreeSet<String> = changes.iter().map(|(topic, ..)| topic.clone()).collect();
            let failed = |why: String| {
                let events = topics.iter().map(|topic| (topic.clone(), Event::Altered(Err(why.clone()))));
                outcome(HandOverOutcome::Events(events.collect()))
            };
            let Some(epoch) = epoch else {
                return failed(format!("guest broker {id} is not registered now"));
            };
            let sent: Vec<WireChange> =
                changes.iter().map(|(_, topic_id, change)| wire(*topic_id, change, epoch)).collect();
            let asked = Instant::now();
            let codes = match alter_partitions(&mut client, id, epoch, &sent).await {
                Ok(codes) => codes.into_iter().collect::<BTreeMap<_, _>>(),
                Err(error) => return failed(error.to_string()),
            };
            let took_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!("the request that hands over {} partitions was answered after {took_ms} ms", sent.len());
            let mut by_topic: BTreeMap<String, Vec<(i32, i16)>> = BTreeMap::new();
            for (topic, topic_id, change) in changes {
                // A partition that the answer leaves out is looked at again.
                let code = codes.get(&(topic_id, change.index)).copied().unwrap_or(-1);
                by_topic.entry(topic).or_default().push((change.index, code));
            }
            let events = by_topic.into_iter().map(|(topic, codes)| (topic, Event::Altered(Ok(codes))));
            outcome(HandOverOutcome::Altered { took_ms, events: events.collect() })
        });
    }
}

fn one_event(topic: String, event: Event) -> super::Outcome {
    outcome(HandOverOutcome::Events(vec![(topic, event)]))
}

fn wire(topic_id: TopicId, change: &IsrChange, epoch: i64) -> WireChange {
    WireChange {
        topic_id,
        index: change.index,
        leader_epoch: change.leader_epoch,
        partition_epoch: change.partition_epoch,
        isr: [&[(change.guest, epoch)], change.followers.as_slice()].concat(),
    }
}

fn advance_of(topic: &str, step: HandOverStep, running: &Running) -> Advance {
    let machine = &running.machine;
    let ends: BTreeMap<i32, i64> = machine.ends().iter().map(|(index, end)| (*index, end.value())).collect();
    let targets = (step <= HandOverStep::HandedOver).then(|| machine.targets());
    let full = (step < HandOverStep::Reassigned).then(|| machine.full_replicas());
    let error = machine.trouble().map(ToString::to_string);
    let result = step.is_over().then(|| {
        serde_json::json!({
            "kind": running.kind.name(),
            "step": step.name(),
            "ends": ends,
            "late_records": machine.late(),
            "left_out_broker_ids": machine.left_out(),
            "open_transactions": machine.open_here(),
            "hand_over_request_ms": running.request_ms,
            "error": error,
        })
    });
    Advance {
        captured_ends: (!ends.is_empty()).then_some(ends),
        target_replicas: targets,
        full_replicas: full,
        detail: error.filter(|_| step == HandOverStep::Abandoned).unwrap_or_default(),
        result,
        ..Advance::new(topic, machine.way(), event_of(machine.way(), step))
    }
}

/// What a topic lacks after its hand-over of what it had before. A list that is no part of the old one is
/// somebody else's already.
fn repairs_of(topic: &str, topic_id: TopicId, machine: &Machine) -> Vec<ReplicaRepair> {
    let replicas = machine.replicas();
    let lacking = machine.full_replicas().into_iter().filter_map(|(index, wanted)| {
        let expected = replicas.get(&index)?;
        let is_part = expected.iter().all(|broker| wanted.contains(broker));
        (is_part && expected.len() < wanted.len()).then(|| ReplicaRepair {
            topic: topic.to_owned(),
            partition: index,
            destination_topic_id: topic_id,
            wanted: wanted.clone(),
            expected: expected.clone(),
            sent: None,
            since_ms: wall_clock_ms(),
        })
    });
    lacking.collect()
}

/// Keeps all steps at once; when that is refused, each for itself, so that one topic holds no other back.
async fn keep(
    state: &StateDatabase,
    link: &str,
    steps: Vec<(HandOverStep, Advance)>,
) -> Vec<(String, HandOverStep, Result<(), String>)> {
    let all = steps.iter().map(|(_, advance)| advance.clone()).collect();
    let together = state.advance(link, all, wall_clock_ms()).await.is_ok();
    let mut kept = Vec::new();
    for (step, advance) in steps {
        let topic = advance.topic.clone();
        let result = match together {
            true => Ok(()),
            false => keep_one(state, link, step, advance).await,
        };
        kept.push((topic, step, result));
    }
    kept
}

async fn keep_one(
    state: &StateDatabase,
    link: &str,
    step: HandOverStep,
    advance: Advance,
) -> Result<(), String> {
    let topic = advance.topic.clone();
    let Err(error) = state.advance(link, vec![advance], wall_clock_ms()).await else { return Ok(()) };
    // An error of a commit may hide that it was done: then the step would be refused for ever.
    let rows = state.hand_overs(link).await.unwrap_or_default();
    match rows.iter().any(|row| row.topic == topic && row.step == step) {
        true => Ok(()),
        false => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_but_the_first_is_reached_by_its_event_on_its_way() {
        for way in HandOverWay::ALL {
            for row in way.transitions() {
                assert_eq!(way.next(row.from, event_of(way, row.to)), Some(row.to), "{row}");
            }
        }
        for step in HandOverStep::ALL.iter().filter(|step| **step != HandOverStep::Requested) {
            let reached = HandOverWay::ALL.into_iter().flat_map(HandOverWay::transitions);
            assert!(reached.filter(|row| row.to == *step).count() > 0, "{step}");
        }
    }
}
