//! Hand-overs of mirror topics: the machines, and the real parts that carry out what they say.
//!
//! ```text
//!   state database --load--> rows of mirrors, open hand-overs, producer-id floor   (before discovery)
//!   operator.rs    --promote, failover--> kept, then one machine for each topic
//!   states.rs      --pause, resume------> kept, then told to the shards; what becomes of a topic by itself, too
//!   commands.rs    --create, delete-----> kept, then found anew, or deleting.rs step by step
//!   store.rs       files of a store are closed and looked at, instead of leadership that moves
//!   repairing.rs   brokers that were left out become replicas again
//!   drive: image, time, standings --> machines --> carrying.rs: shards at once; requests of all machines
//!          together, as tasks --> HandOverOutcome --> machines
//! ```
//! Invariants: no partition is taken on before the rows are known, so that a topic that was handed over is
//! never fetched or led again; a topic whose hand-over is under way is left alone by everything else here
//! that changes topics; what was begun goes on after a restart by itself.

mod carrying;
mod commands;
mod config_sync;
mod deleting;
mod floor;
mod groups;
mod keeping;
mod losses;
mod machine;
mod metrics;
mod operator;
mod repairing;
mod states;
mod store;
mod views;

use super::{Outcome, Supervisor};
use crate::admin::AdminRequest;
use crate::config::LinkSettings;
use crate::control::guest::hand_over::HandOverError;
use crate::control::mirror::Mirror;
use crate::control::source_client::SourceClient;
use crate::control::state::{
    GuestIdentity, HandOver as HandOverRow, HandOverKind, Link, MirrorTopic, ProducerIdFloor, StateDatabase,
    StateError, TopicCommand,
};
use crate::shard::mailbox::{Command, LeadStanding};
use config_sync::ConfigSync;
use machine::Machine;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_io::wall_clock_ms;
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::Nanoseconds;
use twinlog_sync::guest::hand_over::{FollowerStanding, HandOver, ProducerOverlap, Standing};
use twinlog_sync::hand_over::{Event, Kept, Mode};
use twinlog_sync::lifecycle::{HandOverStep, HandOverWay, MirrorState};
use twinlog_sync::session::PartitionKey;
use twinlog_sync::store_hand_over::StoreHandOver;

/// How often every shard is asked where its partitions stand, for those who look. More often costs the shards
/// an answer for each partition.
const STANDINGS_INTERVAL: Duration = Duration::from_secs(5);

/// What a task of a hand-over came to.
pub enum HandOverOutcome {
    Loaded(Result<Box<keeping::Loaded>, StateError>),
    LinkKept(Result<Link, String>),
    Identified(Result<Vec<GuestIdentity>, StateError>),
    /// Rows that were kept; topics of which the source does not tell the configs.
    Adopted {
        kept: Result<Vec<MirrorTopic>, String>,
        refused: Vec<(String, HandOverError)>,
    },
    Floored {
        topics: Vec<String>,
        result: Result<ProducerIdFloor, String>,
    },
    /// For each topic: a producer that forbids its hand-over, or why nobody knows.
    Proven(Vec<(String, Result<Option<ProducerOverlap>, String>)>),
    /// The last round of groups for a topic is over; false: they are not copied.
    GroupsWritten {
        topic: String,
        result: Result<bool, String>,
        /// Of a store.
        kept: Option<groups::KeptGroups>,
    },
    /// Hand-overs are kept as requested: the rows as they are now.
    Begun(Box<operator::Begun>),
    /// What each topic's machine asked for.
    Events(Vec<(String, Event)>),
    /// The request that hands over was answered, and how long that took.
    Altered {
        took_ms: u64,
        events: Vec<(String, Event)>,
    },
    /// The rows after a step was kept.
    Kept(Vec<(String, HandOverStep, Result<(), String>)>),
    Rows(Result<Box<keeping::Loaded>, StateError>),
    Command(Box<commands::CommandNews>),
    Deletion {
        topic: String,
        news: deleting::DeletionNews,
    },
    Repaired(repairing::Repaired),
    /// The files of a store's topic were looked at.
    Sealed(Box<store::Sealed>),
    /// States that were kept, or were not.
    Changed(Box<states::Changed>),
    LinkChanged(Box<states::LinkChanged>),
    /// A round of topic configurations.
    ConfigsRead(Box<config_sync::Round>),
    /// What is about to be cut of a topic is kept, with the end of each partition.
    CutsKept {
        topic: String,
        cuts: Vec<(i32, Offset)>,
        note: Value,
        result: Result<(), StateError>,
    },
}

struct Running {
    machine: Machine,
    kind: HandOverKind,
    /// The trouble that was told last.
    told: Option<String>,
    told_step: HandOverStep,
    /// Rounds of groups that failed.
    group_tries: u32,
    /// How long the last request that hands over took, from its first byte to its answer.
    request_ms: Option<u64>,
    /// Of a store: when the source told its ends.
    readings: store::SourceReadings,
}

/// See the file's header.
pub(super) struct HandOvers {
    state: StateDatabase,
    link: String,
    /// `None`: the copy is a store of ours, and nobody is handed anything.
    destination: Option<SourceClient>,
    born: Instant,
    requests: mpsc::Receiver<AdminRequest>,
    loaded: bool,
    loading: bool,
    cluster_id: Option<String>,
    source_cluster_id: Option<String>,
    link_kept: bool,
    /// As whom the ids are known to be registered, once that is kept.
    identities: Vec<GuestIdentity>,
    identifying: bool,
    /// A question of keeping.rs about the link, topics or ids is under way until then at least.
    linking: bool,
    adopting: bool,
    adopt_at: Instant,
    /// Topics of which the source does not tell the configs, and when it is asked again.
    not_told: BTreeMap<String, Instant>,
    flooring: bool,
    /// One above the highest id that batches brought since the start.
    next_mirrored_id: i64,
    mirrored_ids_at: Instant,
    /// Since when, by the wall clock, mirrored ids have been at the floor or above.
    overtaken_since_ms: Option<i64>,
    retry_at: Instant,
    floor: ProducerIdFloor,
    floored_at: Option<Instant>,
    /// How far the destination's producer ids are lifted.
    reached: Arc<AtomicI64>,
    rows: BTreeMap<String, MirrorTopic>,
    hand_overs: BTreeMap<String, HandOverRow>,
    running: BTreeMap<String, Running>,
    /// What operators said of topics.
    commanded: BTreeMap<String, TopicCommand>,
    deletions: BTreeMap<String, deleting::Deleting>,
    repairs: BTreeMap<repairing::Key, repairing::Repairing>,
    /// Handed over, and not out of their shards yet.
    leaving: BTreeSet<String>,
    standings: BTreeMap<PartitionKey, (Instant, Option<LeadStanding>)>,
    standings_at: Instant,
    seen_version: Option<u64>,
    /// What an operator said of the whole link; `None`: nothing.
    link_paused: Option<bool>,
    /// `cluster.link.paused`
    paused_by_config: bool,
    /// States of topics are being kept: until they are, no others are decided.
    changing: bool,
    states_at: Instant,
    /// Orders that wait for that. Each holds a connection, of which there is a bounded number.
    deferred: VecDeque<AdminRequest>,
    config_sync: ConfigSync,
}

impl HandOvers {
    pub fn new(
        state: StateDatabase,
        requests: mpsc::Receiver<AdminRequest>,
        settings: &LinkSettings,
    ) -> Self {
        let guest = settings.guest.as_ref();
        let now = Instant::now();
        Self {
            state,
            link: settings.name.clone(),
            destination: guest.map(SourceClient::of_destination),
            born: now,
            requests,
            loaded: false,
            loading: false,
            cluster_id: None,
            source_cluster_id: None,
            link_kept: false,
            identities: Vec::new(),
            identifying: false,
            linking: false,
            adopting: false,
            adopt_at: now,
            not_told: BTreeMap::new(),
            flooring: false,
            next_mirrored_id: 0,
            mirrored_ids_at: now,
            overtaken_since_ms: None,
            retry_at: now,
            floor: ProducerIdFloor::default(),
            floored_at: None,
            reached: Arc::default(),
            rows: BTreeMap::new(),
            hand_overs: BTreeMap::new(),
            running: BTreeMap::new(),
            commanded: BTreeMap::new(),
            deletions: BTreeMap::new(),
            repairs: BTreeMap::new(),
            leaving: BTreeSet::new(),
            standings: BTreeMap::new(),
            standings_at: now,
            seen_version: None,
            link_paused: None,
            paused_by_config: settings.paused,
            changing: false,
            states_at: now,
            deferred: VecDeque::new(),
            config_sync: ConfigSync::new(now),
        }
    }

    fn now(&self) -> Nanoseconds {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What was kept is known: partitions may be taken on.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The source compacts it, as far as its configuration is kept yet.
    pub fn is_compacted(&self, topic: &str) -> bool {
        let policy = self.rows.get(topic).and_then(|row| row.wanted_configs.get("cleanup.policy"));
        policy.is_some_and(|policy| policy.contains("compact"))
    }

    /// The state database.
    pub fn state(&self) -> StateDatabase {
        self.state.clone()
    }

    /// A client of the destination's brokers.
    ///
    /// # Panics
    /// Where there is none: only a guest asks.
    pub fn destination(&self) -> SourceClient {
        self.destination.clone().expect("a guest has a destination")
    }

    /// Topics of the destination that are mirrors of this link, or were.
    pub fn destination_topics(&self) -> BTreeSet<TopicId> {
        let kept = self.rows.values().filter_map(|row| row.destination_topic_id);
        kept.chain(self.deletions.values().filter_map(deleting::Deleting::destination_topic)).collect()
    }

    /// It was handed over and is no mirror any more.
    pub fn is_stopped(&self, topic: &str) -> bool {
        self.rows.get(topic).is_some_and(|row| row.state == MirrorState::Stopped)
    }

    /// It is being handed over, or was.
    pub fn is_busy(&self, topic: &str) -> bool {
        self.is_stopped(topic) || self.running.contains_key(topic)
    }

    /// The destination's topic whose hand-over is under way.
    pub fn running(&self, topic: &str) -> Option<TopicId> {
        self.running.get(topic)?;
        self.rows.get(topic)?.destination_topic_id
    }

    /// Where appends of a partition stand still: its end, where that is known.
    pub fn freeze(&self, partition: &TopicPartition) -> Option<Option<Offset>> {
        let topic = partition.topic();
        match self.running.get(topic) {
            Some(running) => {
                let ends = running.machine.is_frozen().then(|| running.machine.ends())?;
                Some(ends.get(&partition.partition()).copied())
            }
            None => (self.is_stopped(topic) || self.stands_still(topic)).then_some(None),
        }
    }

    fn handle_all(&mut self, events: Vec<(String, Event)>) {
        let now = self.now();
        for (topic, event) in events {
            if let Some(running) = self.running.get_mut(&topic) {
                if let Event::SourceEnds(Ok(_)) = &event {
                    running.readings.heard(running.machine.step() == HandOverStep::Requested);
                }
                running.machine.handle(now, event);
            }
        }
    }

    fn start(&mut self, row: HandOverRow, guests: &[i32]) {
        let mode = match row.kind {
            HandOverKind::Promote => {
                Mode::Promote { allow_moving_source: allows(&row, "allow_moving_source") }
            }
            HandOverKind::Failover => {
                let policy = row.options.get("open_transactions").and_then(Value::as_str);
                Mode::Failover { truncate: policy == Some("truncate") }
            }
        };
        let offset = |(index, end): (&i32, &i64)| Some((*index, Offset::new(*end)?));
        let kept = Kept {
            step: row.step,
            ends: row.captured_ends.iter().filter_map(offset).collect(),
            full_replicas: row.full_replicas.clone(),
        };
        let machine = match (&self.destination, self.rows.get(&row.topic)) {
            (None, _) => {
                // As many seeds as there are topics: their retries do not come in step.
                let seed = self.running.len() as u64 + 1;
                let partitions = store::partitions_in(&row);
                Machine::Store(Box::new(StoreHandOver::new(self.now(), seed, mode, partitions, kept)))
            }
            (Some(_), Some(MirrorTopic { destination_topic_id: Some(topic_id), .. })) => {
                let guests = guests.iter().copied().collect();
                Machine::Guest(Box::new(HandOver::new(self.now(), *topic_id, mode, guests, kept)))
            }
            (Some(_), _) => {
                error!(
                    "{}: a hand-over of a topic that the destination never had is left as it is",
                    row.topic
                );
                return;
            }
        };
        let running = Running {
            machine,
            readings: store::SourceReadings::of(&row),
            kind: row.kind,
            told: None,
            told_step: row.step,
            group_tries: 0,
            request_ms: None,
        };
        info!("{} of {}: {}", row.kind.name(), row.topic, row.step);
        self.running.insert(row.topic.clone(), running);
        self.hand_overs.insert(row.topic.clone(), row);
        self.seen_version = None;
    }
}

/// What the operator allowed when it was asked for.
fn allows(row: &HandOverRow, key: &str) -> bool {
    row.options.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// A shard's word in the machine's terms.
fn standing_of(led: &LeadStanding, mirror: &Mirror) -> Standing {
    let followers = led.followers.iter().map(|each| FollowerStanding {
        broker: each.broker,
        broker_epoch: each.broker_epoch.filter(|_| each.unfenced),
        start: each.start,
        end: each.end,
        age_ns: each.age_ns,
    });
    Standing {
        leads: led.leads,
        log_start: led.log_start,
        log_end: led.log_end,
        flushed: Offset::new(mirror.counters.flushed.load(Relaxed)).unwrap_or(Offset::ZERO),
        open_transactions: led.open_transactions,
        first_open: led.first_open,
        followers: followers.collect(),
    }
}

impl Supervisor {
    /// Attaches the state and the operators' requests of the link.
    pub fn keep_state(&mut self, state: StateDatabase, requests: mpsc::Receiver<AdminRequest>) {
        self.hand_overs = Some(HandOvers::new(state, requests, &self.settings.link));
    }

    /// What the configuration says of pausing; an operator's word counts more.
    pub(super) fn paused_by_configuration(&mut self, paused: bool) {
        self.with_hand_overs(|supervisor, hand_overs| {
            if std::mem::replace(&mut hand_overs.paused_by_config, paused) != paused {
                supervisor.tell_all_still(hand_overs);
            }
        });
    }

    /// Questions only: whoever hands them out refuses orders to a halted link.
    pub(super) fn answer_while_halted(&mut self) {
        self.with_hand_overs(|supervisor, hand_overs| supervisor.answer_operators(hand_overs));
    }

    /// Takes the parts out, so that everything else of the supervisor can be used meanwhile.
    fn with_hand_overs(&mut self, work: impl FnOnce(&mut Self, &mut HandOvers)) {
        if let Some(mut hand_overs) = self.hand_overs.take() {
            work(self, &mut hand_overs);
            self.hand_overs = Some(hand_overs);
        }
    }

    pub(super) fn drive_hand_overs(&mut self, now: Instant) {
        self.with_hand_overs(|supervisor, hand_overs| {
            supervisor.keep_up(hand_overs, now);
            if hand_overs.loaded {
                supervisor.drive_states(hand_overs, now);
                supervisor.sync_configs(hand_overs, now);
                supervisor.answer_operators(hand_overs);
                supervisor.ask_standings(hand_overs, now);
                supervisor.drive_machines(hand_overs);
                supervisor.drive_deletions(hand_overs, now);
                supervisor.drive_repairs(hand_overs, now);
                // What was handed over keeps its files for a way back, and no memory.
                let leaving = std::mem::take(&mut hand_overs.leaving);
                hand_overs.leaving =
                    leaving.into_iter().filter(|topic| !supervisor.leave_topic(topic)).collect();
            }
        });
    }

    fn drive_machines(&mut self, hand_overs: &mut HandOvers) {
        if hand_overs.running.is_empty() {
            return;
        }
        let now = hand_overs.now();
        if let Some(guest) = &self.guest {
            let moved = *guest.member.image_moves().borrow();
            if !moved.is_ready {
                return;
            }
            if hand_overs.seen_version.replace(moved.version) != Some(moved.version) {
                let image = guest.member.image();
                hand_overs.running.values_mut().for_each(|running| running.machine.image_is(now, &image));
            }
        }
        for running in hand_overs.running.values_mut() {
            if running.machine.deadline().is_some_and(|deadline| now >= deadline) {
                running.machine.tick(now);
            }
        }
        self.carry_out_all(hand_overs);
        self.drive_sealing(hand_overs);
        self.end_those_that_are_over(hand_overs);
    }

    fn end_those_that_are_over(&mut self, hand_overs: &mut HandOvers) {
        let mut over = Vec::new();
        for (topic, running) in &mut hand_overs.running {
            let machine = &running.machine;
            let trouble = machine.trouble().map(ToString::to_string);
            let step = machine.step();
            if step != running.told_step {
                running.told_step = step;
                info!("{} of {topic}: {step}", running.kind.name());
            }
            if trouble != running.told {
                if let Some(trouble) = &trouble {
                    warn!("{} of {topic} at {step}: {trouble}", running.kind.name());
                }
                let (state, link, topic) = (hand_overs.state.clone(), hand_overs.link.clone(), topic.clone());
                running.told = trouble.clone();
                if let Some(row) = hand_overs.hand_overs.get_mut(&topic) {
                    row.error.clone_from(&trouble);
                }
                tokio::spawn(async move {
                    // The log has it too; the step is what must be kept.
                    let _ = state.explain_hand_over(&link, &topic, trouble.as_deref(), wall_clock_ms()).await;
                });
            }
            if machine.is_over() {
                over.push(topic.clone());
            }
        }
        if !over.is_empty() {
            self.reload(hand_overs);
        }
        for topic in over {
            let running = hand_overs.running.remove(&topic).expect("just listed");
            let (machine, verb) = (&running.machine, running.kind.name());
            if machine.step() == HandOverStep::Done {
                for (index, records) in machine.late() {
                    error!(
                        "{topic}-{index}: the source got {records} records after offset {} was handed over; they \
                         are not at the destination",
                        machine.ends()[index]
                    );
                }
                match machine.way() {
                    HandOverWay::Guest => info!("{verb} of {topic} is done; stock brokers lead it"),
                    HandOverWay::Store => {
                        info!("{verb} of {topic} is done; its files are ready to be adopted")
                    }
                }
                if let Some(guest) = &mut self.guest {
                    guest.topics.remove(&topic);
                }
                hand_overs.leaving.insert(topic);
            } else {
                let why = machine.trouble().map_or(String::new(), ToString::to_string);
                error!("{verb} of {topic} was taken back: {why}");
                self.reopen_groups(&topic);
            }
        }
    }

    fn ask_standings(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        if now < hand_overs.standings_at {
            return;
        }
        hand_overs.standings_at = now + STANDINGS_INTERVAL;
        // A machine asks by itself, and must not take an answer that was asked for before it froze for a later one.
        let is_running = |mirror: &&Mirror| hand_overs.running.contains_key(mirror.partition.topic());
        let here = self.mirrors.values().filter(|mirror| mirror.is_in_shard() && !is_running(mirror));
        let asked: Vec<(usize, PartitionKey)> = here.map(|mirror| (mirror.shard, mirror.key)).collect();
        for (shard, key) in asked {
            self.send(shard, Command::TellStanding { key });
        }
    }

    /// A shard says where a partition stands.
    pub(super) fn standing_came(&mut self, key: PartitionKey, standing: Option<LeadStanding>) {
        self.with_hand_overs(|supervisor, hand_overs| {
            let mirror = supervisor.by_key.get(&key).and_then(|partition| supervisor.mirrors.get(partition));
            let Some(mirror) = mirror else { return };
            let now = hand_overs.now();
            if let Some(running) = hand_overs.running.get_mut(mirror.partition.topic()) {
                let index = mirror.partition.partition();
                let standing = standing.as_ref().map(|led| standing_of(led, mirror));
                running.machine.handle(now, Event::Standing { index, standing });
            }
            let lacks = |led: &LeadStanding| {
                let followers = led.followers.iter().filter_map(|each| Some((each.broker, each.start?)));
                let lacking = followers.filter(|(_, start)| *start > led.log_start).max_by_key(|each| each.1);
                lacking.map(|(broker, start)| (broker, start, led.log_start))
            };
            let lacking = standing.as_ref().and_then(lacks).map(|found| (mirror.partition.clone(), found));
            hand_overs.standings.insert(key, (Instant::now(), standing));
            if let Some((partition, (broker, start, log_start))) = lacking
                && supervisor.may_warn("beginning")
            {
                error!(
                    "broker {broker} deleted the beginning of {partition} by itself: it holds it from offset {start} \
                     on, and it begins at {log_start}; reassign it without that broker, and with it again"
                );
            }
        });
    }

    /// A partition has just come into its shard: appends stand still while it is handed over.
    pub(super) fn freeze_anew(&mut self, partition: &TopicPartition, shard: usize, key: PartitionKey) {
        if let Some(at) = self.hand_overs.as_ref().and_then(|hand_overs| hand_overs.freeze(partition)) {
            self.send(shard, Command::Freeze { key, at });
        }
    }

    pub(super) fn on_hand_over_outcome(&mut self, outcome: HandOverOutcome) {
        self.with_hand_overs(|supervisor, hand_overs| match outcome {
            HandOverOutcome::Loaded(result) => supervisor.loaded(hand_overs, result),
            HandOverOutcome::Rows(result) => {
                if let Ok(rows) = result {
                    hand_overs.take_rows(*rows);
                }
            }
            HandOverOutcome::Identified(result) => supervisor.identified(hand_overs, result),
            HandOverOutcome::LinkKept(result) => supervisor.link_kept(hand_overs, result),
            HandOverOutcome::Adopted { kept, refused } => supervisor.adopted(hand_overs, kept, refused),
            HandOverOutcome::Floored { topics, result } => supervisor.floored(hand_overs, topics, result),
            HandOverOutcome::Proven(proven) => supervisor.proven(hand_overs, proven),
            HandOverOutcome::Command(news) => supervisor.command_came(hand_overs, *news),
            HandOverOutcome::Deletion { topic, news } => supervisor.deletion_came(hand_overs, &topic, news),
            HandOverOutcome::Changed(changed) => supervisor.changed(hand_overs, *changed),
            HandOverOutcome::LinkChanged(changed) => supervisor.link_changed(hand_overs, *changed),
            HandOverOutcome::ConfigsRead(round) => supervisor.configs_read(hand_overs, *round),
            HandOverOutcome::Repaired(repaired) => supervisor.repaired(hand_overs, repaired),
            HandOverOutcome::Sealed(sealed) => supervisor.sealed_came(hand_overs, *sealed),
            HandOverOutcome::CutsKept { topic, cuts, note, result } => {
                supervisor.cuts_kept(hand_overs, &topic, &cuts, note, result);
            }
            HandOverOutcome::GroupsWritten { topic, result, kept } => {
                supervisor.groups_written(hand_overs, topic, result, kept);
            }
            HandOverOutcome::Begun(begun) => supervisor.begun(hand_overs, *begun),
            HandOverOutcome::Events(events) => hand_overs.handle_all(events),
            HandOverOutcome::Altered { took_ms, events } => {
                for (topic, _) in &events {
                    if let Some(running) = hand_overs.running.get_mut(topic) {
                        running.request_ms = Some(took_ms);
                    }
                }
                hand_overs.handle_all(events);
            }
            HandOverOutcome::Kept(kept) => {
                let now = hand_overs.now();
                for (topic, step, result) in kept {
                    if let (Some(row), Ok(())) = (hand_overs.hand_overs.get_mut(&topic), &result) {
                        (row.step, row.updated_ms) = (step, wall_clock_ms());
                    }
                    if let Some(running) = hand_overs.running.get_mut(&topic) {
                        if step == HandOverStep::Captured {
                            running.readings.captured(running.machine.ends());
                        }
                        running.machine.handle(now, Event::Kept { step, result });
                    }
                }
            }
        });
    }
}

fn outcome(outcome: HandOverOutcome) -> Outcome {
    Outcome::HandOver(Box::new(outcome))
}
