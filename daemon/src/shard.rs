//! A data shard: one pinned thread that fetches, verifies and appends the partitions it owns.
//!
//! ```text
//!              commands                                    events, counters
//!   control core ----> +---------------------------------------+ ----> control core
//!                      | loop: commands, wait, completions,    |
//!   source brokers --> |   lanes: receive.rs  decode, verify   |
//!     (one socket per  |          into segment images          |
//!      broker and lane)|   disk_io.rs  write, open, roll       | --> segment files (O_DIRECT)
//!                      |   flush.rs    sync, checkpoint        | --> journal
//!                      +---------------------------------------+
//! ```
//! The machines in `twinlog-sync` decide; this loop routes. Everything it waits for is a completion of
//! its engine, so the ring, epoll and the simulated world drive the same code. It never blocks, never
//! shares a buffer, and allocates nothing per batch. A batch's walk: `receive.rs` (steps 1 to 3),
//! `disk_io.rs` (4), `flush.rs` (5 to 7).

mod disk_io;
mod flush;
mod guest;
mod lane_io;
mod lane_security;
pub mod mailbox;
mod operations;
mod partition_log;
mod receive;
mod routing;
mod secure_socket;
mod served_log;
mod thread;

pub use guest::spool::spool_segment_bytes;
pub use thread::{ShardHandle, spawn};

use crate::pool::Pool;
use crate::security::{ClientSecurity, ListenerSecurity};
use flush::Flusher;
use guest::Guests;
use guest::leading::Lead;
use guest::spool::Spool;
use lane_io::LaneIo;
use mailbox::{Command, Event, PartitionCounters, ShardCounters};
use operations::{Operations, Pending, Work};
use partition_log::PartitionLog;
use served_log::ServedLog;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use twinlog_io::{Completion, FileKey, Operation, Outcome, SocketKey, SystemError};
use twinlog_io::{Engine, EngineError};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::credits::{Credits, LaneKind};
use twinlog_sync::fault::Fault;
use twinlog_sync::lane::LaneOptions;
use twinlog_sync::partition::Partition;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::{Nanoseconds, SECOND};

/// How long a full disk is left alone before the same write is tried again.
const DISK_FULL_PAUSE: Nanoseconds = SECOND;

/// When a store's bytes are synced (decisions 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FsyncPolicy {
    /// After every answer.
    Batch,
    #[default]
    Interval,
    /// Never; delivered is what is written, and status says so.
    None,
}

/// What a shard is built with; each field is a key of the configuration.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number among the shards; names its thread and its journal.
    pub index: usize,
    pub lane: Arc<LaneOptions>,
    /// How connections to the source's brokers are made.
    pub source: ClientSecurity,
    /// The same for the destination's.
    pub destination: ClientSecurity,
    /// What is asked of followers.
    pub listener: ListenerSecurity,
    /// This shard's share of `link.bytes.per.second`; 0 for no cap.
    pub bytes_per_second: u64,
    /// `replica.fetch.max.bytes`
    pub partition_bytes_max: u32,
    pub segment_bytes: u32,
    pub batch_bytes_max: u32,
    pub flush_ms: u64,
    pub flush_catch_up_ms: u64,
    pub flush_catch_up_bytes: u64,
    pub checkpoint_ms: u64,
    pub fsync: FsyncPolicy,
    pub direct_io: bool,
    /// The journal that this shard appends its checkpoints to.
    pub journal: PathBuf,
    pub sockets_max: u32,
    pub files_max: u32,
    /// Followers prove what is delivered, not our own flush.
    pub is_guest: bool,
    /// Bytes of batches in files above which the oldest that followers have are deleted; 0 to keep everything.
    pub spool_bytes: u64,
}

/// A partition and what it needs here.
struct Slot {
    partition: Partition,
    log: PartitionLog,
    /// Places of its offsets, where followers are served.
    served: Option<ServedLog>,
    /// It is led here.
    lead: Option<Box<Lead>>,
    counters: Arc<PartitionCounters>,
    /// The lane whose session it is in.
    lane: Option<u32>,
    /// Listed in the current flush round.
    flushing: bool,
    /// Its images are wanted back as soon as they are written.
    evicting: bool,
    /// Listed in [`Shard::warm_order`].
    warm: bool,
    /// Listed in [`Shard::open_order`].
    opened: bool,
    /// It is to leave this shard.
    removing: bool,
    /// Its timer in [`Shard::timers`].
    timer: Option<Nanoseconds>,
    dirty: bool,
}

/// See the file's header.
pub struct Shard<E: Engine> {
    engine: E,
    options: ShardOptions,
    pool: Pool,
    credits: Credits,
    operations: Operations,
    slots: Vec<Option<Slot>>,
    by_key: HashMap<PartitionKey, u32>,
    topics_by_id: HashMap<TopicId, u32>,
    topics_by_name: HashMap<Vec<u8>, u32>,
    /// Where each broker of the source listens, and its name.
    brokers: BTreeMap<i32, (SocketAddr, Arc<str>)>,
    lanes: Vec<LaneIo>,
    lane_index: BTreeMap<(i32, LaneKind), u32>,
    free_sockets: Vec<SocketKey>,
    free_files: Vec<FileKey>,
    /// Slots with an open file, oldest first: who closes when descriptors run out.
    open_order: VecDeque<u32>,
    /// Slots with images, oldest first: who gives memory back when it runs out.
    warm_order: VecDeque<u32>,
    /// Slots that wait for a descriptor.
    waiting_for_file: BTreeSet<u32>,
    /// Slots that may have a last block to write and no bounce block for it.
    waiting_for_block: BTreeSet<u32>,
    timers: BTreeSet<(Nanoseconds, u32)>,
    flusher: Flusher,
    /// Operations that met a full disk, to be tried again.
    retries: VecDeque<(operations::SegmentKey, RetryKind)>,
    /// Index entries that met a full disk.
    index_retries: Vec<twinlog_io::Job>,
    disk_full_until: Option<Nanoseconds>,
    /// Last records of partitions that were given back.
    departed: BTreeMap<PartitionKey, PartitionCheckpoint>,
    /// Slots that are to be given back.
    leaving: BTreeSet<u32>,
    guests: Guests,
    spool: Spool,
    halted: Option<Fault>,
    /// A command came since the last turn.
    commanded: bool,
    draining: bool,
    drained: bool,
    events: VecDeque<Event>,
    counters: Arc<ShardCounters>,
    completions: Vec<Completion>,
}

/// What is tried again after a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryKind {
    Open,
    Allocate,
    Write(crate::segment_writer::WritePlan, FileKey),
}

impl<E: Engine> Shard<E> {
    pub fn new(engine: E, options: ShardOptions, counters: Arc<ShardCounters>) -> Self {
        let pool = Pool::new(engine.arena().size_bytes());
        Self {
            credits: Credits::new(options.bytes_per_second),
            operations: Operations::default(),
            slots: Vec::new(),
            by_key: HashMap::new(),
            topics_by_id: HashMap::new(),
            topics_by_name: HashMap::new(),
            brokers: BTreeMap::new(),
            lanes: Vec::new(),
            lane_index: BTreeMap::new(),
            free_sockets: (0..options.sockets_max).rev().map(SocketKey).collect(),
            free_files: (0..options.files_max).rev().map(FileKey).collect(),
            open_order: VecDeque::new(),
            warm_order: VecDeque::new(),
            waiting_for_file: BTreeSet::new(),
            waiting_for_block: BTreeSet::new(),
            timers: BTreeSet::new(),
            flusher: Flusher::new(&options),
            retries: VecDeque::new(),
            index_retries: Vec::new(),
            disk_full_until: None,
            departed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            guests: Guests { session_seed: options.index as u64 + 1, ..Guests::default() },
            spool: Spool::new(options.spool_bytes),
            halted: None,
            commanded: false,
            draining: false,
            drained: false,
            events: VecDeque::new(),
            counters,
            completions: Vec::new(),
            pool,
            engine,
            options,
        }
    }

    /// Everything is flushed and closed, or the log directory was given up: the loop may end.
    pub fn is_done(&self) -> bool {
        self.drained && self.events.is_empty()
    }

    /// The next event for the control core.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Puts back an event that could not be delivered now.
    pub fn event_again(&mut self, event: Event) {
        self.events.push_front(event);
    }

    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// One turn of the loop: wait for something, handle it, start what follows from it.
    pub fn turn(&mut self) -> Result<(), EngineError> {
        // What a command asked for starts before the wait, which may have no deadline at all.
        if std::mem::take(&mut self.commanded) {
            self.housekeeping();
        }
        let until = if self.events.is_empty() { self.deadline() } else { Some(0) };
        let mut completions = std::mem::take(&mut self.completions);
        self.engine.wait(until, &mut completions)?;
        for Completion { token, outcome } in completions.drain(..) {
            let pending = self.operations.finish(token);
            self.completed(pending, outcome);
        }
        self.completions = completions;
        self.housekeeping();
        Ok(())
    }

    fn completed(&mut self, pending: Pending, outcome: Outcome) {
        match (pending, outcome) {
            (Pending::Job(Work::OpenReader { file }), Outcome::Job(outcome)) => {
                self.reader_opened(file, &outcome)
            }
            (Pending::Job(Work::GiveUp { slot, bytes }), Outcome::Job(outcome)) => {
                self.gave_up(slot, bytes, &outcome);
            }
            (Pending::Job(work), Outcome::Job(outcome)) => match work {
                Work::AppendIndexes | Work::Checkpoint | Work::SyncAll => self.flush_job_done(work, outcome),
                _ => self.file_job_done(work, outcome),
            },
            (Pending::Connect { lane }, outcome) => self.connect_done(lane, result_of(outcome)),
            (Pending::Send { lane, span }, outcome) => self.send_done(lane, span, result_of(outcome)),
            (Pending::ReceiveScratch { lane }, outcome) => self.scratch_received(lane, result_of(outcome)),
            (Pending::ReceiveDirect { lane, slot }, outcome) => {
                self.direct_received(lane, slot, result_of(outcome));
            }
            (Pending::CloseSocket { lane }, _) => self.socket_closed(lane),
            (Pending::Write { segment, plan, file }, outcome) => {
                self.write_done(segment, plan, file, result_of(outcome));
            }
            (Pending::Load { segment, position }, outcome) => {
                self.load_done(segment, position, result_of(outcome));
            }
            (Pending::Sync { segment, purpose, .. }, outcome) => {
                self.sync_done(segment, purpose, result_of(outcome));
            }
            (Pending::CloseFile { segment, file, finished }, _) => self.file_closed(segment, file, finished),
            (pending, outcome) => self.guest_completed(pending, outcome),
        }
    }

    /// Completions of what is done for followers.
    fn guest_completed(&mut self, pending: Pending, outcome: Outcome) {
        match (pending, outcome) {
            (Pending::Listen { listener }, outcome) => self.listening(listener, address_of(outcome)),
            (Pending::CloseListener { listener }, _) => self.listener_closed(listener),
            (Pending::Accept { listener, follower }, outcome) => {
                self.accepted(listener, follower, address_of(outcome));
            }
            (Pending::ReceiveRequest { follower }, outcome) => {
                self.request_received(follower, result_of(outcome));
            }
            (Pending::SendAnswer { follower }, outcome) => {
                self.answer_part_sent(follower, result_of(outcome));
            }
            (Pending::CloseFollower { follower }, _) => self.follower_socket_closed(follower),
            (Pending::ReadCold { follower, file, skip, wanted }, outcome) => {
                self.cold_read(follower, file, skip, wanted, result_of(outcome));
            }
            (Pending::CloseReader { file }, _) => self.free_files.push(file),
            (pending, outcome) => panic!("{pending:?} was answered by {outcome:?}"),
        }
    }

    /// What depends on time rather than on one completion.
    fn housekeeping(&mut self) {
        let now = self.engine.now();
        while let Some((at, slot)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(entry) = &mut self.slots[slot as usize] {
                entry.partition.tick(now);
                self.route_partition(slot);
            }
        }
        if self.disk_full_until.is_some_and(|until| until <= now) {
            self.disk_full_until = None;
            self.retry_after_full_disk();
        }
        self.tend_spool(now);
        self.tend_reads(now);
        self.tend_lanes(now);
        self.tend_flushes(now);
        self.tend_followers(now);
        self.finish_drain();
        self.counters.turned_at.store(now, Ordering::Relaxed);
        self.counters.pool_free_bytes.store(self.pool.free_bytes(), Ordering::Relaxed);
    }

    fn deadline(&self) -> Option<Nanoseconds> {
        // Lanes are not tended while nothing may be fetched; their moments must not keep the loop awake.
        let tended = self.lanes.iter().enumerate().filter(|(index, _)| !self.is_quiet_for(*index as u32));
        let lanes = tended.filter_map(|(_, lane)| lane.lane.deadline()).min();
        let timer = self.timers.first().map(|(at, _)| *at);
        // Credits come back with time and with memory; look again soon while a lane waits for either.
        let credit =
            self.lanes.iter().any(LaneIo::waits_for_credit).then(|| self.engine.now() + SECOND / 500);
        let flush = self.flusher.deadline();
        let followers = self.guests.timers.first().map(|(at, _)| *at);
        let ends = self.draining || self.halted.is_some();
        let spool = self.spool.deadline().filter(|_| !ends);
        let reads = self.guests.reads.deadline().filter(|_| !ends);
        let moments = [lanes, timer, credit, flush, followers, spool, reads, self.disk_full_until];
        moments.into_iter().flatten().min()
    }

    /// Whether nothing new may be started towards the source.
    fn is_quiet(&self) -> bool {
        self.draining || self.halted.is_some() || self.disk_full_until.is_some() || self.spool.is_full()
    }

    /// The same for one lane: followers that lack what a full spool gave up are what empties it.
    fn is_quiet_for(&self, lane: u32) -> bool {
        let reads = self.lanes[lane as usize].reads_from.is_some();
        if reads { self.draining || self.halted.is_some() } else { self.is_quiet() }
    }

    /// The log directory cannot be trusted any more: page state is unknowable after a failed write or sync.
    fn halt(&mut self, action: &'static str, path: String, error: SystemError) {
        if self.halted.is_some() {
            return;
        }
        let fault = Fault::Disk { action, path, errno: error.0 };
        self.halted = Some(fault.clone());
        self.events.push_back(Event::Halted { fault });
        for index in 0..self.lanes.len() {
            self.lanes[index].lane.failed(twinlog_sync::lane::LaneFault::Ended);
            self.route_lane(index as u32);
        }
    }

    /// A command from the control core.
    pub fn command(&mut self, command: Command) {
        self.commanded = true;
        match command {
            Command::Broker { id, address, host } => self.broker_is(id, address, host),
            Command::AddPartition(add) => self.add_partition(*add),
            Command::Leader { key, leader } => self.with_partition(key, |partition| match leader {
                Some(leader) => partition.leader_is(leader),
                None => partition.leader_is_gone(),
            }),
            Command::Resume { key } => self.with_partition(key, Partition::resume),
            Command::Stop { key, fault } => {
                let now = self.engine.now();
                self.with_partition(key, |partition| partition.fault(now, fault));
            }
            Command::Remove { key } => self.remove_partition(key),
            Command::Listen { guest, address } => self.listen(guest, address),
            Command::Brokers(brokers) => self.brokers_are(brokers),
            Command::Credentials(credentials) => self.guests.credentials = credentials,
            Command::Lead { key, assignment } => self.lead(key, *assignment),
            Command::ForgetLead { key } => self.forget_lead(key),
            Command::Tune(tuning) => {
                self.credits.set_bytes_per_second(tuning.bytes_per_second);
                self.flusher.tune(&tuning);
            }
            Command::Freeze { key, at } => self.freeze(key, at),
            Command::Thaw { key } => self.thaw(key),
            Command::TellStanding { key } => self.tell_standing(key),
            Command::Drain => {
                self.draining = true;
                for index in 0..self.lanes.len() {
                    self.lanes[index].lane.failed(twinlog_sync::lane::LaneFault::Ended);
                    self.route_lane(index as u32);
                }
            }
        }
    }
}

/// A failed operation is an error of the system; a job or an address never arrives here.
fn result_of(outcome: Outcome) -> Result<u32, SystemError> {
    match outcome {
        Outcome::Done(bytes) => Ok(bytes),
        Outcome::Failed(error) => Err(error),
        outcome => panic!("{outcome:?} for an operation that moves bytes"),
    }
}

fn address_of(outcome: Outcome) -> Result<SocketAddr, SystemError> {
    match outcome {
        Outcome::Address(address) => Ok(address),
        Outcome::Failed(error) => Err(error),
        outcome => panic!("{outcome:?} for an operation of a listener"),
    }
}

impl<E: Engine> Shard<E> {
    fn submit(&mut self, pending: Pending, operation: Operation) {
        let token = self.operations.start(pending);
        self.engine.submit(token, operation);
    }
}
