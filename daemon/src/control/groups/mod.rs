//! Group offsets: one task for each link that reads the source's groups and writes the destination's, round by round.
//!
//! ```text
//!   grid --> round: list both clusters --> chunks of groups, side by side:
//!              OffsetFetch at the source --> sample what is delivered --> OffsetFetch and OffsetCommit at the
//!              (cluster.rs)                  (supervisor)                 destination (coordinators.rs, kept.rs)
//!   what is written is decided by twinlog_sync::group_offsets; nothing here compares offsets
//! ```
//! Rounds stand on a fixed grid, and there are never two at once: one that overruns is finished and counted, and the
//! next one begins at the next point of the grid. Within a round the readings are spread: brokers that carry out all of
//! them at once answer the last one late, and each group has its own time in every round either way.

mod cluster;
mod coordinators;
mod destination;
mod grid;
pub mod import;
mod kept;
pub mod offset_file;
mod phases;
mod round;
mod written;

pub use cluster::Cluster;
pub use coordinators::Coordinators;
pub use destination::Destination;
pub use kept::{Kept, lines as kept_lines};
pub use phases::{Phase, Phases};
pub use written::Written;

use crate::config::GroupSettings;
use grid::Grid;
use offset_file::OffsetLine;
use round::{Outcome, Round};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use twinlog_io::wall_clock_ms;
use twinlog_sync::Nanoseconds;
use twinlog_sync::group_offsets::{GroupOffsets, PartitionNumber, Rules, Summary};

/// How often positions that we keep ourselves are written as a file, too.
const EXPORT_INTERVAL: Duration = Duration::from_secs(60);
/// A failure is told again after this time.
const REPEAT_WARNING: Duration = Duration::from_secs(30);
/// What a request that nobody answered is told as: Kafka's own code for it.
pub const NETWORK_EXCEPTION: i16 = 13;

/// How the rounds go.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub rounds: u64,
    /// Points of the grid at which a round was still under way.
    pub overruns: u64,
    pub last_round: Duration,
    pub last_success_ms: Option<i64>,
    pub error: Option<String>,
    /// Groups written, and requests sent to both clusters.
    pub commits: u64,
    pub requests: u64,
    pub phases: Phases,
    pub summary: Summary,
}

/// What the task and the supervisor share. Both are on the control core, and neither waits while it holds a lock.
pub struct GroupSync {
    machine: Mutex<GroupOffsets>,
    figures: Mutex<Figures>,
    /// Rounds that somebody waits for: the one that is under way has no time to spread its readings.
    waiting: watch::Sender<usize>,
    born: Instant,
}

impl GroupSync {
    pub fn new(prefix: String) -> Self {
        let rules = Rules { prefix, ..Rules::default() };
        Self {
            machine: Mutex::new(GroupOffsets::new(rules)),
            figures: Mutex::default(),
            waiting: watch::Sender::new(0),
            born: Instant::now(),
        }
    }

    pub fn machine(&self) -> MutexGuard<'_, GroupOffsets> {
        self.machine.lock().expect("nothing panics while it holds the lock")
    }

    pub fn figures(&self) -> Figures {
        self.shared_figures().clone()
    }

    fn shared_figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().expect("nothing panics while it holds the lock")
    }

    /// Somebody waits for a round, or has it.
    pub fn waits(&self, waits: bool) {
        self.waiting.send_modify(|waiting| match waits {
            true => *waiting += 1,
            false => *waiting = waiting.checked_sub(1).expect("who waited said so"),
        });
    }

    /// Until then, or until somebody waits for a round.
    async fn rest_until(&self, at: Instant) {
        let mut waiting = self.waiting.subscribe();
        tokio::select! {
            () = sleep_until(at) => {}
            // We hold the sender ourselves.
            _ = waiting.wait_for(|waiting| *waiting > 0) => {}
        }
    }

    /// Waits for this, and counts how long.
    async fn timed<T>(&self, phase: Phase, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let done = work.await;
        self.shared_figures().phases.add(phase, began.elapsed());
        done
    }

    /// Time as the machine counts it.
    pub fn now(&self) -> Nanoseconds {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What lies in these partitions is told to the machine, then the answer is sent.
pub struct SampleWanted {
    pub partitions: Vec<PartitionNumber>,
    pub told: oneshot::Sender<()>,
}

/// A round that is run for somebody who waits for it.
pub struct RoundWanted {
    /// Without the source, what is known of it is written.
    pub with_source: bool,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// What the task needs from outside.
pub struct Surroundings {
    pub source: Arc<Cluster>,
    pub destination: Destination,
    /// Takes the question to whoever knows.
    pub ask: Box<dyn Fn(SampleWanted) + Send + Sync>,
    /// Where positions are written as a file, again and again.
    pub export: Option<PathBuf>,
    /// What we wrote at a cluster is remembered for the next start.
    pub written: Option<Written>,
}

/// The task. Ends when nobody can change its settings any more.
pub async fn run(
    sync: Arc<GroupSync>,
    around: Arc<Surroundings>,
    mut settings: watch::Receiver<GroupSettings>,
    mut wanted: mpsc::Receiver<RoundWanted>,
) {
    let mut now_set = settings.borrow_and_update().clone();
    let mut grid = Grid::new(Instant::now(), now_set.interval);
    let (mut warned_at, mut exported_at) = (None, None);
    loop {
        tokio::select! {
            () = sleep_until(grid.next()), if now_set.enabled => {
                let began = Instant::now();
                let from = Some(grid.next());
                let round = Round { sync: &sync, around: &around, settings: &now_set, spread_from: from };
                let outcome = round.run().await;
                let missed = grid.passed(Instant::now());
                finish(&sync, &outcome, began.elapsed(), missed);
                tell(&outcome, &mut warned_at);
                export(&around, &mut exported_at).await;
            }
            Some(RoundWanted { with_source, done }) = wanted.recv() => {
                let round = Round { sync: &sync, around: &around, settings: &now_set, spread_from: None };
                let outcome = if with_source { round.run().await } else { round.run_without_source().await };
                sync.waits(false);
                // Nobody waits any more.
                let _ = done.send(outcome.source_error.map_or(Ok(()), Err));
            }
            changed = settings.changed() => {
                if changed.is_err() {
                    return;
                }
                now_set = settings.borrow_and_update().clone();
                grid = Grid::new(Instant::now(), now_set.interval);
            }
        }
    }
}

/// What the destination holds, as a file, where that is a store.
async fn export(around: &Surroundings, exported_at: &mut Option<Instant>) {
    let Some((path, kept)) = around.export.as_ref().zip(around.destination.kept()) else { return };
    if exported_at.is_some_and(|at| at.elapsed() < EXPORT_INTERVAL) {
        return;
    }
    *exported_at = Some(Instant::now());
    let written = match kept.lines().await {
        Ok(lines) => write_file(path.clone(), lines).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = written {
        warn!("positions are not written as a file: {why}; tried again");
    }
}

/// Replaces a file of positions beside everything else.
pub async fn write_file(path: PathBuf, lines: Vec<OffsetLine>) -> Result<(), String> {
    let written =
        tokio::task::spawn_blocking(move || offset_file::replace(&path, &offset_file::written(&lines))).await;
    match written {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn finish(sync: &GroupSync, outcome: &Outcome, took: Duration, missed: u64) {
    let summary = sync.machine().summary(sync.now());
    let mut figures = sync.shared_figures();
    figures.rounds += 1;
    figures.overruns += missed;
    figures.last_round = took;
    figures.commits += outcome.commits;
    figures.requests += outcome.requests;
    figures.summary = summary;
    figures.error.clone_from(&outcome.error);
    if outcome.error.is_none() {
        figures.last_success_ms = Some(wall_clock_ms());
    }
}

fn tell(outcome: &Outcome, warned_at: &mut Option<Instant>) {
    for each in &outcome.rewinds {
        let why = if each.truncated { "its log was cut" } else { "it was reset at the source" };
        info!(
            "group {}: {}-{} goes back from {} to {}: {why}",
            each.group, each.topic, each.index, each.from, each.to
        );
    }
    let Some(error) = &outcome.error else { return *warned_at = None };
    if warned_at.is_none_or(|at: Instant| at.elapsed() >= REPEAT_WARNING) {
        *warned_at = Some(Instant::now());
        warn!("group offsets are not copied in full: {error}; tried again");
    }
}
