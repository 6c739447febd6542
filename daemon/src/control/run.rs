//! `twinlog run`: from settings to threads, and back to an exit code.
//!
//! ```text
//!   directory, lock, limits --> placement --> journal merged --> shards --> control core pinned
//!     --> supervisor until caught up | signal | halt --> drain (bounded) --> report, exit code
//! ```
//! Shards are started before the control core lowers its own priority: threads inherit it.

#[cfg(test)]
mod tests;

use super::guest::{GuestError, GuestMember, GuestOptions, random_uuid};
use super::instruction::{InstructionError, Instructions, Release, parse_restart_from};
use super::memory_budget::arena_bytes;
use super::progress::{Behind, Figures, Progress};
use super::report::Report;
use super::shard_link::ShardLink;
use super::state::{GuestIdentity, StateDatabase, StateError};
use super::supervisor::{Standing, Supervisor};
use crate::admin::access::{Access, AccessError};
use crate::admin::{
    AdminListener, AdminSocket, Backend, ListenError, Peers, REQUESTS_MAX, Readiness, SocketError, serve,
    serve_listener,
};
use crate::config::{GuestSettings, Settings};
use crate::journal;
use crate::security::{ClientSecurity, ListenerSecurity};
use crate::shard::{ShardOptions, spawn, spool_segment_bytes};
use crate::store::StoreError;
use sd_notify::NotifyState;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};
use twinlog_io::{
    CoreChoice, DirectoryLock, EngineError, EngineOptions, LockError, Placement, PlacementError, RealDisk,
    Shortfall, SystemError, allowed_cores, pin_current_thread, place, raise_file_limit,
    yield_to_data_threads,
};
use twinlog_sync::lane::LaneOptions;

/// How often the control core looks at the shards' events. Leaders are found this much later at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a drain may take: flushing what is in memory to a slow disk. systemd kills after 60 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// What each partition adds to it when nobody asked to stop: trimming and syncing its files on a busy disk.
const DRAIN_PER_PARTITION: Duration = Duration::from_millis(10);
/// How long file jobs under way may take to end after the drain.
const STORE_JOB_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked whether everything is caught up; it looks at every partition.
const STANDING_INTERVAL: Duration = Duration::from_millis(100);
/// Two lanes for each source broker, in each shard.
const SOCKETS_MAX: u32 = 1_024;
/// Open segment files of one shard at most: enough for every partition that is busy at a time.
const FILES_MAX: u64 = 16_384;
/// Fewer would close and open files for nearly every batch.
const FILES_MIN: u64 = 64;
/// Descriptors that everything but segments and lanes needs; operators' connections are up to 96 of them.
const FILES_RESERVED: u64 = 192;
/// Threads for blocking work: store jobs, and name look-ups beside them.
const BLOCKING_THREADS_MAX: usize = 8;

/// How results are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// What was asked for beside the settings.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    pub until_caught_up: bool,
    pub output: Output,
    pub accept_gap: bool,
    /// `TOPIC-PARTITION=OFFSET`
    pub restart_from: Vec<String>,
}

/// Why a run did not begin.
#[derive(Debug)]
pub enum RunError {
    Directory {
        path: PathBuf,
        error: SystemError,
    },
    Lock(LockError),
    Placement(PlacementError),
    /// The file limit leaves too few descriptors for the data threads.
    FileLimit {
        limit: u64,
        needed: u64,
    },
    Engine(EngineError),
    Store(StoreError),
    Instruction(InstructionError),
    Guest(GuestError),
    State(StateError),
    Socket(SocketError),
    /// Files that let operators in.
    Access(AccessError),
    Listen(ListenError),
    Runtime(std::io::ErrorKind),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => {
                write!(
                    f,
                    "{} cannot be made: {error}; data.dir must be a directory that is ours",
                    path.display()
                )
            }
            Self::Lock(error) => write!(f, "{error}"),
            Self::Placement(error) => write!(f, "{error}; see data.cores and control.core"),
            Self::FileLimit { limit, needed } => write!(
                f,
                "{limit} open files are allowed, {needed} are needed; raise LimitNOFILE or ulimit -n, or use \
                 fewer data.cores"
            ),
            Self::Engine(error) => write!(f, "{error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Instruction(error) => write!(f, "{error}"),
            Self::Guest(error) => write!(f, "{error}"),
            Self::State(error) => write!(f, "{error}"),
            Self::Socket(error) => write!(f, "{error}"),
            Self::Access(error) => write!(f, "{error}"),
            Self::Listen(error) => write!(f, "{error}"),
            Self::Runtime(error) => write!(f, "the control core cannot be started: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

/// How a run ended.
enum End {
    CaughtUp,
    Unmet,
    Signal,
    Halted(String),
}

/// Runs until done. `Ok` says whether everything wanted was done.
pub fn run(settings: Settings, options: &RunOptions) -> Result<bool, RunError> {
    let started = Instant::now();
    let settings = Arc::new(settings);
    // Before anything is changed or joined: what cannot let operators in as configured does not start.
    let access = Arc::new(Access::new(&settings.admin).map_err(RunError::Access)?);
    for path in [settings.link_directory(), settings.journal_directory()] {
        let made = std::fs::create_dir_all(&path).map_err(|error| SystemError::from_std(&error));
        made.map_err(|error| RunError::Directory { path, error })?;
    }
    let _lock = DirectoryLock::acquire(&settings.data_dir).map_err(RunError::Lock)?;
    let placement = placement(&settings)?;
    let journal = journal::load(&mut RealDisk, &settings.journal_directory()).map_err(RunError::Store)?;
    journal::rewrite(&mut RealDisk, &settings.journal_directory(), &journal).map_err(RunError::Store)?;
    let instructions = instructions(&settings, options).map_err(RunError::Instruction)?;
    let state = StateDatabase::open(&settings.data_dir).map_err(RunError::State)?;
    let shards = start_shards(&settings, &placement)?;
    announce(&settings, &placement, &shards);
    // A refused pin or priority costs speed, not correctness.
    if let Err(error) = pin_current_thread(&[placement.control]) {
        warn!("{}", Shortfall::ControlPin { core: placement.control, error });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|error| RunError::Runtime(error.kind()))?;
    // The thread of the heartbeats inherits this one's priority, which is still the normal one.
    let member = match &settings.link.guest {
        Some(guest) => {
            let known = runtime.block_on(state.guest_identities(&settings.link.name));
            let identities = known.map_err(RunError::State)?;
            Some(join(guest, identities, journal.checkpoints.is_empty(), &runtime)?)
        }
        None => None,
    };
    yield_to_data_threads().iter().for_each(|shortfall| warn!("{shortfall}"));
    for security in settings.link.securities() {
        // Data threads cannot wait for a token: one is kept ready for them. Ends with the runtime.
        runtime.spawn(security.clone().keep_ready());
    }
    let mut supervisor = Supervisor::new(settings, shards, journal, instructions, options.accept_gap, member);
    supervisor.listen_for_followers();
    let end = runtime.block_on(async {
        let _operators = open_to_operators(&mut supervisor, state, access)?;
        supervise(&mut supervisor, options).await
    })?;
    // Tasks that still wait for the network are given up; a file job that outlasts this is crash-safe.
    runtime.shutdown_timeout(STORE_JOB_LIMIT);
    Ok(finish(&mut supervisor, end, options, started))
}

/// State, socket and listeners of the link. The socket's file goes with what is returned.
fn open_to_operators(
    supervisor: &mut Supervisor,
    state: StateDatabase,
    access: Arc<Access>,
) -> Result<OperatorsTask, RunError> {
    let settings = supervisor.settings();
    let is_store = settings.link.guest.is_none();
    let socket = match AdminSocket::bind(&settings.data_dir) {
        Ok(socket) => Some(socket),
        // A store can be mirrored into without an operator; a promote cannot be asked for without the socket.
        Err(error) if is_store => {
            warn!("operators cannot ask this daemon by its socket: {error}");
            None
        }
        Err(error) => return Err(RunError::Socket(error)),
    };
    let bind = |at: &_| AdminListener::bind(*at, Arc::clone(&access)).map_err(RunError::Listen);
    let listeners: Vec<_> = settings.admin.listeners.iter().map(bind).collect::<Result<_, _>>()?;
    let (requests, asked) = tokio::sync::mpsc::channel(REQUESTS_MAX);
    let (_, readiness) = tokio::sync::watch::channel(Readiness::Ready);
    supervisor.keep_state(state.clone(), asked);
    let (backend, peers) = (Backend { requests, readiness, state }, Peers::default());
    let socket = socket.map(|socket| tokio::spawn(serve(socket, backend.clone())));
    let mut tasks: Vec<_> = socket.into_iter().collect();
    for listener in listeners {
        tasks.push(tokio::spawn(serve_listener(listener, peers.clone(), backend.clone())));
    }
    Ok(OperatorsTask(tasks))
}

/// Ends with its handles.
struct OperatorsTask(Vec<tokio::task::JoinHandle<()>>);

impl Drop for OperatorsTask {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Joins as whom this directory knows itself. One that holds nothing is another host: under a new incarnation
/// the cluster keeps it waiting for as long as the host before it is alive, and two never serve at once.
fn join(
    guest: &GuestSettings,
    identities: Vec<GuestIdentity>,
    is_new_host: bool,
    runtime: &tokio::runtime::Runtime,
) -> Result<GuestMember, RunError> {
    let mut options = GuestOptions::new(
        guest.bootstrap_controllers.clone(),
        &guest.inter_broker_listener_name,
        guest.serving_ids.clone(),
    );
    options.client_id.clone_from(&guest.client_id);
    options.request_timeout = guest.request_timeout;
    options.security = guest.controller_security.clone();
    options.listener_protocol = guest.listener_security.protocol();
    if is_new_host {
        options.incarnations = guest.serving_ids.iter().map(|(id, _)| (*id, random_uuid())).collect();
    }
    options.incarnations.extend(identities.iter().map(|each| (each.broker_id, each.incarnation)));
    options.without_cordon = guest.allow_placement_eviction;
    GuestMember::join(options, runtime.handle()).map_err(RunError::Guest)
}

/// Which core does what, as the settings want it.
pub fn placement(settings: &Settings) -> Result<Placement, RunError> {
    let allowed = allowed_cores().map_err(RunError::Placement)?;
    let Some(control) = settings.control_core else {
        return place(&allowed, &settings.data_cores).map_err(RunError::Placement);
    };
    if !allowed.contains(&control) {
        return Err(RunError::Placement(PlacementError::NotAllowed { core: control, allowed }));
    }
    let others: Vec<usize> = allowed.iter().copied().filter(|core| *core != control).collect();
    let choice = match &settings.data_cores {
        CoreChoice::Auto if !others.is_empty() => CoreChoice::Listed(others),
        choice => choice.clone(),
    };
    let placed = place(&allowed, &choice).map_err(RunError::Placement)?;
    Ok(Placement { control, ..placed })
}

fn instructions(settings: &Settings, options: &RunOptions) -> Result<Instructions, InstructionError> {
    let mut instructions = Instructions::load(&mut RealDisk, &settings.journal_directory())?;
    for text in &options.restart_from {
        let (partition, offset) = parse_restart_from(text)?;
        instructions.set(&partition, Release::RestartFrom(offset.value()));
    }
    if !options.restart_from.is_empty() {
        instructions.save(&mut RealDisk)?;
    }
    Ok(instructions)
}

fn start_shards(settings: &Settings, placement: &Placement) -> Result<Vec<ShardLink>, RunError> {
    let shards = placement.data.len() as u64;
    let files_max = files_per_shard(shards)?;
    let link = &settings.link;
    let lane = Arc::new(LaneOptions {
        client_id: link.source.client_id.clone(),
        rack: link.source.client_rack.clone(),
        isolation_level: link.isolation_level,
        wait_max_ms: link.fetch_wait_max_ms,
        bytes_min: link.fetch_bytes_min,
        response_bytes_max: link.fetch_response_bytes_max,
        batch_bytes_max: link.batch_bytes_max,
        request_timeout_ms: u32::try_from(link.source.request_timeout.as_millis()).expect("at most an hour"),
        backoff: link.source.backoff,
    });
    let guest = link.guest.as_ref();
    let spool_bytes = guest.map_or(0, |guest| guest.store_retention_bytes / shards);
    let start = |(index, core): (usize, &usize)| {
        let options = ShardOptions {
            index,
            lane: lane.clone(),
            source: link.source.security.clone(),
            destination: guest.map_or_else(ClientSecurity::plaintext, |guest| guest.security.clone()),
            listener: guest.map_or_else(ListenerSecurity::plaintext, |guest| guest.listener_security.clone()),
            // A cap that is not 0 must not become 0, which is none.
            bytes_per_second: link.bytes_per_second.div_ceil(shards),
            partition_bytes_max: link.fetch_bytes_max,
            segment_bytes: spool_segment_bytes(link.segment_bytes, spool_bytes),
            batch_bytes_max: link.batch_bytes_max,
            flush_ms: link.flush_ms,
            flush_catch_up_ms: link.flush_catch_up_ms,
            flush_catch_up_bytes: link.flush_catch_up_bytes,
            checkpoint_ms: link.checkpoint_ms,
            fsync: link.fsync,
            direct_io: settings.direct_io,
            journal: settings.journal_directory().join(format!("journal-{index}")),
            sockets_max: SOCKETS_MAX,
            files_max,
            is_guest: link.guest.is_some(),
            spool_bytes,
        };
        let engine = EngineOptions {
            arena_bytes: arena_bytes(settings.memory_bytes) / shards,
            sockets_max: SOCKETS_MAX,
            files_max,
            helper_cores: vec![placement.control],
            ..EngineOptions::default()
        };
        spawn(options, engine, settings.engine, Some(*core)).map(ShardLink::new).map_err(RunError::Engine)
    };
    placement.data.iter().enumerate().map(start).collect()
}

/// Descriptors for segment files: the kernel also refuses a ring's table beyond the limit.
fn files_per_shard(shards: u64) -> Result<u32, RunError> {
    let limit = raise_file_limit().unwrap_or_else(|error| {
        warn!("the limit of open files stays as it is: {error}");
        twinlog_io::probe_host().files_soft
    });
    let Some(limit) = limit else { return Ok(FILES_MAX as u32) };
    let reserved = FILES_RESERVED + shards * u64::from(SOCKETS_MAX);
    let each = limit.saturating_sub(reserved) / shards;
    if each < FILES_MIN {
        return Err(RunError::FileLimit { limit, needed: reserved + shards * FILES_MIN });
    }
    Ok(u32::try_from(each.min(FILES_MAX)).expect("bounded above"))
}

fn announce(settings: &Settings, placement: &Placement, shards: &[ShardLink]) {
    let report = &shards.first().expect("placement has at least one data core").handle().report;
    info!(
        "twinlog {}: link {} into {}, {} data shards on cores {:?}, control on core {}, memory {} MiB, {report}",
        env!("CARGO_PKG_VERSION"),
        settings.link.name,
        settings.data_dir.display(),
        shards.len(),
        placement.data,
        placement.control,
        settings.memory_bytes >> 20,
    );
    // What the first lacks, the others lack too, but for their own cores.
    let mut told: Vec<Shortfall> = Vec::new();
    for shortfall in shards.iter().flat_map(|shard| &shard.handle().report.shortfalls) {
        if !told.contains(shortfall) {
            warn!("{shortfall}");
            told.push(*shortfall);
        }
    }
}

/// SIGTERM or SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(|error| RunError::Runtime(error.kind()));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn supervise(supervisor: &mut Supervisor, options: &RunOptions) -> Result<End, RunError> {
    let mut signals = StopSignals::new()?;
    let mut progress = Progress::new(&supervisor.settings().link.name, options.output);
    let mut watchdog = Watchdog::new();
    notify(&[NotifyState::Ready]);
    let end = follow(supervisor, options, &mut signals, &mut progress, &mut watchdog).await;
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    progress.end();
    supervisor.drain();
    let mut look = looks();
    let more = match end {
        // Somebody waits for the end, and would kill what takes longer.
        End::Signal => Duration::ZERO,
        _ => DRAIN_PER_PARTITION * u32::try_from(supervisor.partition_count()).unwrap_or(u32::MAX),
    };
    let limit = DRAIN_LIMIT.saturating_add(more);
    let leave_at = Instant::now() + limit;
    while !supervisor.is_drained() {
        tokio::select! {
            _ = look.tick() => supervisor.drive_drain(),
            () = signals.next() => {
                error!("a second signal: leaving at once; the next start recovers");
                std::process::exit(1);
            }
        }
        watchdog.feed(supervisor);
        if Instant::now() >= leave_at {
            error!("not drained within {} s: leaving; the next start recovers", limit.as_secs());
            std::process::exit(1);
        }
    }
    Ok(end)
}

fn looks() -> tokio::time::Interval {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// The life of the link: until it is done, told to stop, or cannot go on.
async fn follow(
    supervisor: &mut Supervisor,
    options: &RunOptions,
    signals: &mut StopSignals,
    progress: &mut Progress,
    watchdog: &mut Watchdog,
) -> End {
    let mut look = looks();
    let mut standing_at = Instant::now();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            outcome = supervisor.outcome() => supervisor.on_outcome(outcome),
            () = signals.next() => return End::Signal,
        }
        supervisor.drive();
        let now = Instant::now();
        if let Some(reason) = supervisor.halted() {
            return End::Halted(reason.to_owned());
        }
        if options.until_caught_up && now - standing_at >= STANDING_INTERVAL {
            standing_at = now;
            match supervisor.standing(now) {
                Standing::Going => {}
                Standing::CaughtUp => return End::CaughtUp,
                Standing::Unmet => return End::Unmet,
            }
        }
        watchdog.feed(supervisor);
        progress.show(now, || figures(supervisor, options));
    }
}

fn figures(supervisor: &Supervisor, options: &RunOptions) -> Figures {
    let figures = supervisor.figures(options.until_caught_up);
    let (done, all) = (figures.partitions_done, figures.partitions);
    notify(&[NotifyState::Status(&format!("{done} of {all} partitions caught up, {}", Behind(figures)))]);
    figures
}

/// Tells systemd that every shard still turns, where it wants to know.
struct Watchdog {
    interval: Option<Duration>,
    fed_at: Instant,
}

impl Watchdog {
    fn new() -> Self {
        // A third of the time: one missed look must not look like death.
        Self { interval: sd_notify::watchdog_enabled().map(|limit| limit / 3), fed_at: Instant::now() }
    }

    fn feed(&mut self, supervisor: &mut Supervisor) {
        let Some(interval) = self.interval else { return };
        if self.fed_at.elapsed() < interval {
            return;
        }
        self.fed_at = Instant::now();
        // Each is asked, so that each is woken.
        let silent = supervisor
            .shards_mut()
            .iter_mut()
            .filter_map(|shard| (!shard.proves_alive()).then_some(()))
            .count();
        if silent == 0 {
            notify(&[NotifyState::Watchdog]);
        } else {
            warn!("{silent} data threads do not turn; the watchdog is not fed");
        }
    }
}

/// Without systemd nobody listens, which is no error.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Ends the threads and says how it went.
fn finish(supervisor: &mut Supervisor, end: End, options: &RunOptions, started: Instant) -> bool {
    let mut failed = Vec::new();
    for (index, shard) in supervisor.take_shards().into_iter().enumerate() {
        if let Err(error) = shard.join() {
            failed.push(format!("data thread {index} failed: {error}"));
        }
    }
    supervisor.finish();
    let (outcome, mut unmet) = match end {
        // Asked again after the drain, which delivers what was received until then.
        End::CaughtUp => ("caught_up", supervisor.unmet()),
        End::Unmet => ("incomplete", supervisor.unmet()),
        End::Signal if options.until_caught_up => ("incomplete", supervisor.unmet()),
        End::Signal => ("stopped_by_signal", Vec::new()),
        End::Halted(reason) => ("failed", vec![reason]),
    };
    // Drained means flushed: what became wrong meanwhile counts too.
    unmet.extend(supervisor.halted().map(str::to_owned).filter(|reason| !unmet.contains(reason)));
    unmet.extend(failed);
    let done = unmet.is_empty() && outcome != "failed";
    let outcome = match outcome {
        // What was missing before the drain is here after it.
        "incomplete" if done => "caught_up",
        outcome if done || outcome == "incomplete" => outcome,
        _ => "failed",
    };
    let link = supervisor.settings().link.name.clone();
    let report = Report::new(&link, outcome, unmet, supervisor.mirrors(), started.elapsed());
    match options.output {
        Output::Json => println!("{}", report.json()),
        Output::Text => print!("{}", report.text()),
    }
    done
}
