//! `twinlog run`: from a configuration to threads, and back to an exit code.
//!
//! ```text
//!   directory, lock, limits --> placement --> links of file and state --> starting: shards, guests of each
//!     --> control core pinned --> serving: requests, outcomes, signals, changes of links --> drain (bounded)
//!     --> report of each link, exit code
//! ```
//! Links share the process, its cores, its sockets and its state file, and nothing else: each has its own supervisor
//! and its own data threads, and one that halts leaves the others alone.

mod ending;
mod error;
mod link_orders;
mod serving;
mod starting;
mod switchboard;
#[cfg(test)]
mod tests;

pub use error::RunError;

use super::state::StateDatabase;
use crate::admin::access::Access;
use crate::admin::{
    AdminListener, AdminRequest, AdminSocket, Backend, Peers, REQUESTS_MAX, Readiness, serve, serve_listener,
};
use crate::config::{Configuration, DaemonSettings, Settings};
use crate::journal::OWN_DIRECTORY;
use serving::{Daemon, Signals};
use starting::Starter;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;
use twinlog_io::{
    CoreChoice, DirectoryLock, Placement, PlacementError, Shortfall, SystemError, allowed_cores,
    pin_current_thread, place, yield_to_data_threads,
};

/// How long file jobs under way may take to end after the drain.
const STORE_JOB_LIMIT: Duration = Duration::from_secs(10);
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

/// Runs until done. `Ok` says whether everything wanted was done.
pub fn run(configuration: Configuration, options: &RunOptions) -> Result<bool, RunError> {
    let started = Instant::now();
    let settings = configuration.daemon().map_err(RunError::Config)?;
    // Before anything is changed or joined: what cannot let operators in as configured does not start.
    let access = Arc::new(Access::new(&settings.admin).map_err(RunError::Access)?);
    let path = settings.data_dir.join(OWN_DIRECTORY);
    let made = std::fs::create_dir_all(&path).map_err(|error| SystemError::from_std(&error));
    made.map_err(|error| RunError::Directory { path, error })?;
    let _lock = DirectoryLock::acquire(&settings.data_dir).map_err(RunError::Lock)?;
    let placement = placed(settings.control_core, &settings.data_cores)?;
    // First of all: threads inherit it. A refused pin or priority costs speed, not correctness.
    if let Err(error) = pin_current_thread(&[placement.control]) {
        warn!("{}", Shortfall::ControlPin { core: placement.control, error });
    }
    let state = StateDatabase::open(&settings.data_dir).map_err(RunError::State)?;
    // Data threads inherit the priority of who starts them: that one keeps the normal one.
    let starter = Starter::new(placement.control)?;
    yield_to_data_threads().iter().for_each(|shortfall| warn!("{shortfall}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|error| RunError::Runtime(error.kind()))?;
    let ended = runtime.block_on(async {
        let signals = Signals::new()?;
        let kept = state.kept_links().await.map_err(RunError::State)?;
        let links = configuration.links(&kept).map_err(RunError::Config)?;
        let (operators, asked, readiness) = open_to_operators(&settings, &links, state.clone(), access)?;
        let mut daemon =
            Daemon::new(configuration, kept, placement, options, (starter, state), (asked, readiness));
        daemon.start_all(links).await?;
        let end = daemon.serve(signals).await?;
        drop(operators);
        Ok((daemon, end))
    });
    let (daemon, end) = ended?;
    // Tasks that still wait for the network are given up; a file job that outlasts this is crash-safe.
    runtime.shutdown_timeout(STORE_JOB_LIMIT);
    Ok(daemon.finish(&end, started))
}

/// Where requests come out, and where it is said whether any are taken.
type Desk = (mpsc::Receiver<AdminRequest>, watch::Sender<Readiness>);

/// Socket and listeners of the daemon. The socket's file goes with what is returned.
fn open_to_operators(
    settings: &DaemonSettings,
    links: &[Settings],
    state: StateDatabase,
    access: Arc<Access>,
) -> Result<(OperatorsTask, mpsc::Receiver<AdminRequest>, watch::Sender<Readiness>), RunError> {
    let all_stores = !links.is_empty() && links.iter().all(|each| each.link.guest.is_none());
    let socket = match AdminSocket::bind(&settings.data_dir) {
        Ok(socket) => Some(socket),
        // A store can be mirrored into without an operator; a promote cannot be asked for without the socket.
        Err(error) if all_stores => {
            warn!("operators cannot ask this daemon by its socket: {error}");
            None
        }
        Err(error) => return Err(RunError::Socket(error)),
    };
    let bind = |at: &_| AdminListener::bind(*at, Arc::clone(&access)).map_err(RunError::Listen);
    let listeners: Vec<_> = settings.admin.listeners.iter().map(bind).collect::<Result<_, _>>()?;
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let starting = Readiness::NotReady { why: "the daemon is starting".to_owned() };
    let (ready, readiness) = watch::channel(starting);
    let (backend, peers) = (Backend { requests, readiness, state }, Peers::default());
    let socket = socket.map(|socket| tokio::spawn(serve(socket, backend.clone())));
    let mut tasks: Vec<_> = socket.into_iter().collect();
    for listener in listeners {
        tasks.push(tokio::spawn(serve_listener(listener, peers.clone(), backend.clone())));
    }
    Ok((OperatorsTask(tasks), asked, ready))
}

/// Ends with its handles.
struct OperatorsTask(Vec<tokio::task::JoinHandle<()>>);

impl Drop for OperatorsTask {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Which core does what, as the settings want it.
pub fn placement(settings: &Settings) -> Result<Placement, RunError> {
    placed(settings.daemon.control_core, &settings.daemon.data_cores)
}

fn placed(control: Option<usize>, data: &CoreChoice) -> Result<Placement, RunError> {
    let allowed = allowed_cores().map_err(RunError::Placement)?;
    let Some(control) = control else {
        return place(&allowed, data).map_err(RunError::Placement);
    };
    if !allowed.contains(&control) {
        return Err(RunError::Placement(PlacementError::NotAllowed { core: control, allowed }));
    }
    let others: Vec<usize> = allowed.iter().copied().filter(|core| *core != control).collect();
    let choice = match data {
        CoreChoice::Auto if !others.is_empty() => CoreChoice::Listed(others),
        choice => choice.clone(),
    };
    let placed = place(&allowed, &choice).map_err(RunError::Placement)?;
    Ok(Placement { control, ..placed })
}
