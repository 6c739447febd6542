//! Runs one link: which partitions exist, where they are led, in which state each of them is.
//!
//! ```text
//!   tick ----------> drive: due metadata, due questions, due trims      --spawn--> task, blocking job
//!   shard events --> on_event                                                          |
//!   outcomes ------> on_outcome <------------------------------------------------------+
//! ```
//! All state is here, on one thread. What waits (network, disk) runs elsewhere and comes back as an
//! [`Outcome`], so that one silent broker or one slow file holds nobody else back. A partition has at
//! most one task or job under way; its phase says which.

mod access;
mod discovering;
mod group_views;
mod groups;
mod guest;
mod hand_over;
mod lag;
mod leaving;
mod lifecycle;
mod sourceless;
mod standing;
mod take_over;

pub use guest::GuestOutcome;
pub use hand_over::HandOverOutcome;
pub use standing::Standing;

use super::discovery::{ClusterView, Discovery};
use super::groups::SampleWanted;
use super::guest::GuestMember;
use super::guest::take_over::{TakeOverError, TakenOver};
use super::instruction::Instructions;
use super::mirror::{Mirror, Replacement};
use super::shard_link::ShardLink;
use super::source_client::{ClientError, SourceClient};
use super::store_work::{StoreRefusal, Trim, trim};
use crate::config::{HostPort, Settings};
use crate::journal::Journal;
use crate::recovery::RecoveredPartition;
use crate::shard::mailbox::{Command, Event, Tuning};
use crate::store::StoreError;
use guest::GuestLink;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_io::RealDisk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::backoff::Backoff;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::truncation::SourceLog;
use twinlog_sync::wire::fetch_request::Topic;

/// Recoveries, cuts and trims at a time: each holds a few MiB, and more of them only make the disk seek.
const STORE_JOBS_MAX: usize = 4;
/// Log starts move with the source's retention, in steps; writing each one at once would sync a file for it.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// A full disk or a broker that is down is told again after this time.
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// What a task or a job came to.
pub enum Outcome {
    Metadata(Result<ClusterView, ClientError>),
    Address { broker: i32, result: Result<SocketAddr, ClientError> },
    Edges { asked: Vec<TopicPartition>, result: Result<Vec<Edges>, ClientError> },
    Ready { partition: TopicPartition, result: Box<Result<RecoveredPartition, StoreRefusal>> },
    Source { partition: TopicPartition, result: Result<SourceLog, QuestionError> },
    LastEpoch { partition: TopicPartition, recovered: Box<RecoveredPartition>, result: LastEpoch },
    Trimmed { partitions: Vec<TopicPartition>, result: Result<u64, StoreError> },
    Confirmed { partition: TopicPartition, result: Box<Result<RecoveredPartition, StoreError>> },
    TookOver { partition: TopicPartition, result: Box<Result<Option<TakenOver>, TakeOverError>> },
    Ends(lag::SourceEnds),
    GroupSample(SampleWanted),
    Guest(GuestOutcome),
    HandOver(Box<HandOverOutcome>),
}

/// Where one partition's log starts and ends at the source, or its error code.
pub struct Edges {
    pub partition: TopicPartition,
    pub edges: Result<(Offset, Offset), i16>,
}

/// Where the source says that our last epoch ended; `None` where it cannot tell.
pub type LastEpoch = Result<Option<(LeaderEpoch, Offset)>, QuestionError>;

/// Why a question about a source's log brought no answer.
pub enum QuestionError {
    Client(ClientError),
    /// The partition's error code.
    Code(i16),
}

impl std::fmt::Display for QuestionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::Code(code) => write!(f, "error code {code}"),
        }
    }
}

/// One link's part of the file jobs.
fn store_turns(links: usize) -> u32 {
    u32::try_from((STORE_JOBS_MAX / links.max(1)).max(1)).expect("a few")
}

/// See the file's header.
pub struct Supervisor {
    settings: Arc<Settings>,
    client: SourceClient,
    discovery: Discovery,
    shards: Vec<ShardLink>,
    mirrors: BTreeMap<TopicPartition, Mirror>,
    by_key: HashMap<PartitionKey, TopicPartition>,
    topics: HashMap<(String, TopicId), Arc<Topic>>,
    topic_numbers: HashMap<(String, TopicId), u32>,
    /// As read at the start, until each partition is recovered.
    checkpoints: BTreeMap<TopicPartition, PartitionCheckpoint>,
    /// Where logs of the link start, those of topics that are not mirrored now included.
    log_starts: BTreeMap<TopicPartition, Offset>,
    instructions: Instructions,
    accept_all_gaps: bool,
    servers: BTreeMap<i32, HostPort>,
    addresses: BTreeMap<i32, SocketAddr>,
    /// Brokers whose address is being looked for.
    resolving: BTreeSet<i32>,
    /// Partitions whose leader a shard asks for.
    wants_leader: BTreeSet<TopicPartition>,
    /// Partitions in `Waiting`, and in `Classifying` with a question that is due.
    waiting: BTreeSet<TopicPartition>,
    questions: BTreeSet<TopicPartition>,
    trims: BTreeSet<TopicPartition>,
    log_starts_changed: bool,
    trimming: bool,
    trimmed_at: Instant,
    refresh: Refresh,
    /// What stopped the whole daemon.
    halted: Option<String>,
    warned_at: BTreeMap<&'static str, Instant>,
    progress: standing::Progress,
    sampling: lag::Sampling,
    /// The destination, where we are a guest.
    guest: Option<guest::GuestLink>,
    /// The same: what was handed over, and what is being.
    hand_overs: Option<hand_over::HandOvers>,
    /// Positions of consumer groups, where they are copied.
    groups: Option<groups::GroupLink>,
    /// Partitions that were taken on without the source, which has them after all.
    returned: BTreeSet<TopicPartition>,
    /// Partitions that leave their shards for a hand-over, by topic.
    sealing: BTreeMap<String, Vec<TopicPartition>>,
    /// Partitions that were in these tables before: their newest checkpoints are in a journal.
    left_before: BTreeSet<TopicPartition>,
    store_jobs: Arc<Semaphore>,
    /// How many there are of them.
    store_turns: u32,
    outbox: UnboundedSender<Outcome>,
    inbox: UnboundedReceiver<Outcome>,
    /// Ends every task with the supervisor.
    life: watch::Sender<()>,
}

/// When metadata is asked for again.
struct Refresh {
    running: bool,
    /// Asked for by an event; otherwise by schedule.
    wanted: bool,
    at: Instant,
    finished_at: Instant,
    backoff: Backoff,
    /// Never answered yet: everything found in the first answer was there at the start.
    first: bool,
    last_error: Option<ClientError>,
    /// Since when there is one.
    lost_at: Option<Instant>,
    succeeded_at: Option<Instant>,
}

impl Supervisor {
    pub fn new(
        settings: Arc<Settings>,
        shards: Vec<ShardLink>,
        journal: Journal,
        instructions: Instructions,
        accept_all_gaps: bool,
        member: Option<GuestMember>,
        // Links of one daemon share its disk.
        links: usize,
    ) -> Self {
        let now = Instant::now();
        let (outbox, inbox) = unbounded_channel();
        let log_starts =
            journal.checkpoints.iter().map(|(partition, each)| (partition.clone(), each.log_start));
        Self {
            client: SourceClient::new(&settings.link.source),
            discovery: Discovery::new(settings.link.topics.clone(), settings.link.topic_filters.clone()),
            log_starts: log_starts.collect(),
            shards,
            mirrors: BTreeMap::new(),
            by_key: HashMap::new(),
            topics: HashMap::new(),
            topic_numbers: HashMap::new(),
            checkpoints: journal.checkpoints,
            instructions,
            accept_all_gaps,
            servers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            resolving: BTreeSet::new(),
            wants_leader: BTreeSet::new(),
            waiting: BTreeSet::new(),
            questions: BTreeSet::new(),
            trims: BTreeSet::new(),
            log_starts_changed: false,
            trimming: false,
            trimmed_at: now,
            refresh: Refresh {
                running: false,
                wanted: true,
                at: now,
                finished_at: now,
                backoff: Backoff::within(settings.link.source.backoff, u64::from(std::process::id())),
                first: true,
                last_error: None,
                lost_at: None,
                succeeded_at: None,
            },
            halted: None,
            warned_at: BTreeMap::new(),
            progress: standing::Progress::new(now),
            sampling: lag::Sampling::new(now),
            guest: settings
                .link
                .guest
                .clone()
                .zip(member)
                .map(|(guest, member)| GuestLink::new(guest, member)),
            hand_overs: None,
            groups: None,
            returned: BTreeSet::new(),
            sealing: BTreeMap::new(),
            left_before: BTreeSet::new(),
            store_jobs: Arc::new(Semaphore::new(store_turns(links) as usize)),
            store_turns: store_turns(links),
            settings,
            outbox,
            inbox,
            life: watch::Sender::new(()),
        }
    }

    pub fn shards_mut(&mut self) -> &mut [ShardLink] {
        &mut self.shards
    }

    pub fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.mirrors.values()
    }

    /// Why nothing more is written, if so.
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// The next outcome; the channel never closes while the supervisor lives.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        self.inbox.poll_recv(context).map(|outcome| outcome.expect("the supervisor holds a sender"))
    }

    /// Whether other topics and filters still want everything that is mirrored: what is wanted no more is let go of
    /// by starting the data threads again.
    pub fn can_retune(&self, settings: &Settings) -> bool {
        self.discovery.keeps_all_with(&settings.link.topics, &settings.link.topic_filters)
    }

    /// Takes over what changes while the link runs.
    pub fn retune(&mut self, settings: Arc<Settings>) {
        let link = &settings.link;
        self.discovery.retarget(link.topics.clone(), link.topic_filters.clone());
        let shards = self.shards.len() as u64;
        let tuning = Tuning::of(link, shards);
        self.shards.iter_mut().for_each(|shard| shard.send(Command::Tune(tuning)));
        let paused = link.paused;
        self.settings = settings;
        self.refresh.wanted = true;
        self.retune_groups();
        self.paused_by_configuration(paused);
    }

    /// A halted link still tells how it stands.
    pub fn drive_halted(&mut self) {
        self.drive_drain();
        self.answer_while_halted();
    }

    /// Gives up what is under way, and waits for file jobs, which cannot be given up.
    pub async fn end(self) {
        let (jobs, turns) = (Arc::clone(&self.store_jobs), self.store_turns);
        drop(self);
        // Those that wait for their turn went with their tasks.
        drop(jobs.acquire_many(turns).await);
    }

    pub fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Metadata(result) => self.metadata_came(result),
            Outcome::Address { broker, result } => self.address_came(broker, result),
            Outcome::Edges { asked, result } => self.edges_came(&asked, result),
            Outcome::Ready { partition, result } => self.ready_came(&partition, *result),
            Outcome::Source { partition, result } => self.source_came(&partition, result),
            Outcome::LastEpoch { partition, recovered, result } => {
                self.last_epoch_came(&partition, *recovered, result);
            }
            Outcome::Trimmed { partitions, result } => self.trimmed(partitions, result),
            Outcome::Confirmed { partition, result } => self.confirmed(&partition, *result),
            Outcome::TookOver { partition, result } => self.took_over(&partition, *result),
            Outcome::Ends(ends) => self.ends_came(ends),
            Outcome::GroupSample(wanted) => self.sample_groups(wanted),
            Outcome::Guest(outcome) => self.on_guest_outcome(outcome),
            Outcome::HandOver(outcome) => self.on_hand_over_outcome(*outcome),
        }
    }

    /// Picks up what shards say and starts what is due.
    pub fn drive(&mut self) {
        for index in 0..self.shards.len() {
            while let Some(event) = self.shards[index].event() {
                self.on_event(event);
            }
            if self.shards[index].has_died() && self.halted.is_none() {
                self.halted = Some(format!("data thread {index} ended"));
            }
        }
        let now = Instant::now();
        self.sample_lags(now);
        self.drive_guest(now);
        self.drive_hand_overs(now);
        if self.may_discover() {
            self.take_on_without_source(now);
            self.refresh_if_due(now);
        }
        self.drive_groups();
        self.reopen_returned();
        self.ask_for_edges(now);
        self.ask_questions(now);
        self.trim_if_due(now);
        self.shards.iter_mut().for_each(ShardLink::flush);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::RefreshMetadata { key } => {
                if let Some(partition) = self.by_key.get(&key) {
                    self.wants_leader.insert(partition.clone());
                    self.refresh.wanted = true;
                }
            }
            Event::Classify { key, fault, epochs, log_start, log_end } => {
                self.classify(key, &fault, epochs, (log_start, log_end));
            }
            Event::Stopped { key, fault } => {
                if let Some(mirror) = self.mirror_of(key) {
                    error!("{} is stopped ({}): {fault}", mirror.partition, fault.code());
                    mirror.stopped = Some((&fault).into());
                }
            }
            Event::AccessLost { key, fault } => self.read_refused(key, &fault),
            Event::AccessRegained { key } => self.read_allowed(key),
            Event::Trimmed { key, log_start } => {
                if let Some(partition) = self.by_key.get(&key) {
                    self.log_starts.insert(partition.clone(), log_start);
                    self.trims.insert(partition.clone());
                    self.log_starts_changed = true;
                }
            }
            Event::Removed { key } => self.removed(key),
            Event::LaneFailed { broker, kind, fault } => {
                if self.may_warn("lane") {
                    warn!("connection to broker {broker} ({kind:?}): {fault}; it is tried again");
                }
                // Its address may have changed behind an unchanged name.
                self.addresses.remove(&broker);
                self.refresh.wanted = true;
            }
            Event::Drained => {}
            Event::DiskFull { fault } => {
                if self.may_warn("disk") {
                    warn!("{fault}");
                }
            }
            Event::SpoolFull { held_bytes, budget_bytes } => {
                if self.may_warn("spool") {
                    warn!(
                        "{held_bytes} bytes wait for followers, of {budget_bytes} that a data thread's part of \
                         store.retention.bytes allows: fetching waits until guest.durable.replicas of them have it"
                    );
                }
            }
            Event::Halted { fault } => {
                error!("{fault}");
                self.halted = Some(fault.to_string());
            }
            Event::Listening { .. }
            | Event::ListenFailed { .. }
            | Event::FollowerRefused { .. }
            | Event::EpochWanted { .. }
            | Event::FollowerStalled { .. }
            | Event::ReadThroughStuck { .. } => self.on_guest_event(event),
            Event::Standing { key, standing } => self.standing_came(key, standing.map(|led| *led)),
        }
    }

    fn mirror_of(&mut self, key: PartitionKey) -> Option<&mut Mirror> {
        let partition = self.by_key.get(&key)?;
        self.mirrors.get_mut(partition)
    }

    fn may_warn(&mut self, what: &'static str) -> bool {
        let now = Instant::now();
        let silent = self.warned_at.get(what).is_some_and(|at| now - *at < REPEAT_WARNING);
        if !silent {
            self.warned_at.insert(what, now);
        }
        !silent
    }

    fn send(&mut self, shard: usize, command: Command) {
        self.shards[shard].send(command);
    }

    /// Runs a future beside everything else; its outcome comes back.
    fn spawn(&self, future: impl Future<Output = Outcome> + Send + 'static) {
        let (outbox, mut life) = (self.outbox.clone(), self.life.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                // The supervisor has ended, and the next one of this link begins anew.
                _ = life.changed() => {}
                // Refused only when it is gone.
                outcome = future => { let _ = outbox.send(outcome); }
            }
        });
    }

    /// Runs blocking file work when its turn comes; its outcome comes back.
    fn spawn_store_job(&self, work: impl FnOnce() -> Outcome + Send + 'static) {
        let turns = self.store_jobs.clone();
        self.spawn(async move {
            let turn = turns.acquire_owned().await.expect("the semaphore is never closed");
            // The turn is given back by the work itself: it goes on when nobody waits for it any more.
            let work = move || {
                let outcome = work();
                drop(turn);
                outcome
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(outcome) => outcome,
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            }
        });
    }

    fn trim_if_due(&mut self, now: Instant) {
        let due = now - self.trimmed_at >= TRIM_INTERVAL && !self.trimming;
        if !due || (self.trims.is_empty() && !self.log_starts_changed) {
            return;
        }
        self.trimmed_at = now;
        self.trimming = true;
        self.log_starts_changed = false;
        let partitions: Vec<TopicPartition> = std::mem::take(&mut self.trims).into_iter().collect();
        let jobs: Vec<Trim> = partitions.iter().filter_map(|partition| self.trim_of(partition)).collect();
        let (starts, directory) = (self.nonzero_log_starts(), self.settings.link_directory());
        self.spawn_store_job(move || Outcome::Trimmed {
            partitions,
            result: trim(&directory, &starts, &jobs),
        });
    }

    fn trim_of(&self, partition: &TopicPartition) -> Option<Trim> {
        let mirror = self.mirrors.get(partition).filter(|mirror| mirror.is_in_shard())?;
        let log_start = *self.log_starts.get(partition)?;
        let checkpoint = mirror.counters.checkpoint.load(std::sync::atomic::Ordering::Relaxed);
        Some(Trim { directory: mirror.directory.clone(), log_start, checkpoint: Offset::new(checkpoint)? })
    }

    fn nonzero_log_starts(&self) -> Vec<(TopicPartition, Offset)> {
        let starts = self.log_starts.iter().filter(|(_, start)| **start > Offset::ZERO);
        starts.map(|(partition, start)| (partition.clone(), *start)).collect()
    }

    fn trimmed(&mut self, partitions: Vec<TopicPartition>, result: Result<u64, StoreError>) {
        self.trimming = false;
        match result {
            Ok(0) => {}
            Ok(deleted_bytes) => info!("{deleted_bytes} bytes below the source's log starts were deleted"),
            Err(error) => {
                if self.may_warn("trim") {
                    warn!("old segments stay for now: {error}");
                }
                self.log_starts_changed = true;
                self.trims.extend(partitions);
                return;
            }
        }
        // A segment goes only once the checkpoint lies behind it.
        for partition in partitions {
            let start = self.log_starts.get(&partition).copied();
            let behind = self.trim_of(&partition).is_some_and(|trim| Some(trim.checkpoint) < start);
            if behind {
                self.trims.insert(partition);
            }
        }
    }

    /// The last words on disk, after every shard has drained. Blocks.
    pub fn finish(&mut self) {
        if let Err(error) = trim(&self.settings.link_directory(), &self.nonzero_log_starts(), &[]) {
            warn!("log starts are not written: {error}; the next start reads them from the journal");
        }
        let gaps: Vec<_> = self.mirrors.values().filter(|mirror| mirror.accepts_gap).collect();
        let clean = gaps.iter().filter(|mirror| mirror.stopped.is_none());
        let done: Vec<TopicPartition> = clean.map(|mirror| mirror.partition.clone()).collect();
        done.iter().for_each(|partition| self.forget_instruction(partition));
    }

    /// An instruction was carried out.
    fn forget_instruction(&mut self, partition: &TopicPartition) {
        if self.instructions.remove(partition)
            && let Err(error) = self.instructions.save(&mut RealDisk)
        {
            warn!("a finished instruction stays on disk and will be repeated: {error}");
        }
    }

    /// Nothing new is started from now on; every shard flushes and lets go.
    pub fn drain(&mut self) {
        for shard in &mut self.shards {
            shard.send(Command::Drain);
            shard.flush();
        }
    }

    pub fn is_drained(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_drained() || shard.has_died())
    }

    /// Partitions of the link, wherever they stand.
    pub fn partition_count(&self) -> usize {
        self.mirrors.len()
    }

    /// Picks up what shards say while they drain.
    pub fn drive_drain(&mut self) {
        for index in 0..self.shards.len() {
            self.shards[index].flush();
            while let Some(event) = self.shards[index].event() {
                if let Event::Halted { .. } = event {
                    self.on_event(event);
                }
            }
        }
    }

    /// Gives the shards back, to be joined.
    pub fn take_shards(&mut self) -> Vec<ShardLink> {
        std::mem::take(&mut self.shards)
    }

    fn replace_in_log_starts(&mut self, partition: &TopicPartition, log_start: Offset) {
        let before = self.log_starts.insert(partition.clone(), log_start);
        self.log_starts_changed |= before.unwrap_or(Offset::ZERO) != log_start;
    }

    fn replacement_text(replacement: Replacement) -> String {
        match replacement {
            Replacement::Cut { common_end } => {
                format!("its end is cut to offset {common_end}, as the source's was")
            }
            Replacement::Restart { at } => format!("its log starts anew at offset {at}, behind a gap"),
            Replacement::Before { to } => {
                format!("its end is cut to offset {to}, before what is open or unknown, for its failover")
            }
            Replacement::Gone => "it is a mirror no more".to_owned(),
            Replacement::Reopen => "it is opened again, for the source answers".to_owned(),
            Replacement::Sealed => "it is closed, to be adopted".to_owned(),
        }
    }
}
