//! `twinlog demo`: an embedded source with generated topics, mirrored, killed, restarted, verified.
//!
//! ```text
//!   fill topics ─▶ run ──▶ SIGKILL near half ─▶ run again ──▶ caught up ─▶ SIGTERM ─▶ verify, compare
//!                  └──────── production goes on ────────────────┘ settled
//!   then, without --exit: run and produce until Ctrl-C
//! ```
//! Needs no Kafka and no network but the loopback interface. Every wait is bounded. Must never delete a
//! directory that is not a demo's: the marker file says which ones are.

mod compare;
mod mirror;
mod production;

use crate::embedded::{Cluster, EmbeddedSource};
use compare::{Difference, Equal};
use indicatif::{ProgressBar, ProgressStyle};
use mirror::{Commands, Mirror};
use production::Production;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Says that a directory is a demo's and may be replaced by the next one.
const MARKER: &str = ".twinlog-demo";
const STORE: &str = "store";
const LINK: &str = "demo";
/// One run is like another.
const SEED: u64 = 2_011;
const BROKERS: u32 = 2;
/// Percent of the bytes at which the mirror is killed.
const KILL_AT_PERCENT: u64 = 45;
/// A machine that needs longer for 400 MB has another problem, which the log names.
const PHASE_MAX: Duration = Duration::from_secs(60);
/// Live production between a catching up and the end, so that tailing is seen too.
const TAIL: Duration = Duration::from_secs(5);
/// Between two looks: short against the tenths of a second that half of the bytes take.
const LOOK: Duration = Duration::from_millis(2);
/// Between two pieces of live production.
const PRODUCTION_STEP: Duration = Duration::from_millis(25);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct DemoArguments {
    /// End after the verification.
    pub exit: bool,
    pub directory: PathBuf,
}

/// Why the demo could not show what it wanted to.
#[derive(Debug)]
pub enum DemoError {
    /// Somebody's directory.
    Foreign {
        path: PathBuf,
    },
    File {
        path: PathBuf,
        error: io::Error,
    },
    Source(crate::embedded::server::ServerError),
    OwnProgram(io::Error),
    Start(io::Error),
    Thread(io::Error),
    MirrorEnded {
        status: ExitStatus,
        log: PathBuf,
    },
    Slow {
        what: &'static str,
        limit: Duration,
        log: PathBuf,
    },
    Interrupted,
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Foreign { path } => write!(
                f,
                "{} exists and is not the directory of an earlier demo (it has no {MARKER}): \
                 name another one with --directory",
                path.display()
            ),
            DemoError::File { path, error } => write!(f, "{}: {error}", path.display()),
            DemoError::Source(error) => error.fmt(f),
            DemoError::OwnProgram(error) => {
                write!(f, "the path of this program is unknown: {error}; is /proc mounted?")
            }
            DemoError::Start(error) => write!(f, "the mirror cannot be started or stopped: {error}"),
            DemoError::Thread(error) => write!(f, "no thread for the demo: {error}"),
            DemoError::MirrorEnded { status, log } => {
                write!(f, "the mirror ended with {status}; its words are in {}", log.display())
            }
            DemoError::Slow { what, limit, log } => write!(
                f,
                "waited {} s for {what}; the mirror's words are in {}",
                limit.as_secs(),
                log.display()
            ),
            DemoError::Interrupted => write!(f, "stopped before the verification"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Runs the demo: 0 when the mirror was identical.
pub fn run(arguments: &DemoArguments) -> Result<ExitCode, DemoError> {
    prepare_directory(&arguments.directory)?;
    let data_directory = arguments.directory.join(STORE);
    let commands = Commands::new(&arguments.directory, data_directory.clone())?;
    let interrupted = watch_signals()?;
    let mut cluster = Cluster::new(BROKERS);
    let production = Production::fill(&mut cluster, SEED);
    let source = Arc::new(EmbeddedSource::start(cluster).map_err(DemoError::Source)?);
    let mut show = Show::new(source, commands, interrupted);
    show.introduce();
    let producer = Producer::start(production, show.source.clone())?;
    show.mirror_through_a_kill()?;
    let production = producer.settle();
    show.catch_up_and_stop()?;
    let identical = show.verify(&data_directory.join(LINK))?;
    println!("look at   {}", data_directory.join(LINK).display());
    if identical && !arguments.exit {
        let producer = Producer::start(production, show.source.clone())?;
        show.tail_until_interrupted()?;
        drop(producer);
    }
    Ok(if identical { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A fresh directory, in place of an earlier demo's.
fn prepare_directory(directory: &Path) -> Result<(), DemoError> {
    let failed = |error| DemoError::File { path: directory.to_owned(), error };
    let marker = directory.join(MARKER);
    match fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            if !marker.is_file() {
                return Err(DemoError::Foreign { path: directory.to_owned() });
            }
            fs::remove_dir_all(directory).map_err(failed)?;
        }
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    fs::create_dir_all(directory).map_err(failed)?;
    fs::write(&marker, "A directory of `twinlog demo`: the next demo replaces it.\n").map_err(failed)
}

/// Ctrl-C and SIGTERM end the demo in order, children included.
fn watch_signals() -> Result<Arc<AtomicBool>, DemoError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DemoError::Thread)?;
    let watch = move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            match terminate {
                Ok(mut terminate) => {
                    tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
                }
                Err(_) => drop(tokio::signal::ctrl_c().await),
            }
        });
        flag.store(true, Ordering::Release);
    };
    thread::Builder::new().name("demo-signals".to_owned()).spawn(watch).map_err(DemoError::Thread)?;
    Ok(interrupted)
}

/// Live production on a thread of its own.
struct Producer {
    stopping: Arc<AtomicBool>,
    source: Arc<EmbeddedSource>,
    thread: Option<thread::JoinHandle<Production>>,
}

impl Producer {
    fn start(mut production: Production, source: Arc<EmbeddedSource>) -> Result<Producer, DemoError> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (flag, of_thread) = (stopping.clone(), source.clone());
        let produce = move || {
            while !flag.load(Ordering::Acquire) {
                production.step(&of_thread);
                thread::sleep(PRODUCTION_STEP);
            }
            production
        };
        let spawned = thread::Builder::new().name("demo-producer".to_owned()).spawn(produce);
        Ok(Producer { stopping, source, thread: Some(spawned.map_err(DemoError::Thread)?) })
    }

    /// Stops, and ends all open transactions.
    fn settle(mut self) -> Production {
        self.stopping.store(true, Ordering::Release);
        let thread = self.thread.take().expect("taken once, here");
        let mut production = thread.join().expect("production does not panic");
        production.settle(&self.source);
        production
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How far the mirror is, judged from outside: by what it asked the source for.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    taken_bytes: u64,
    total_bytes: u64,
    /// Bytes below the offsets where the mirror began to ask.
    resumed_bytes: u64,
    partitions: u64,
    partitions_asked: u64,
}

impl Progress {
    fn of(cluster: &Cluster) -> Progress {
        let mut progress = Progress::default();
        for (_, _, log) in cluster.partitions() {
            let start = log.bytes_below(log.log_start_offset());
            let below = |offset| log.bytes_below(offset).saturating_sub(start);
            progress.total_bytes += below(log.last_stable_offset());
            progress.taken_bytes += below(log.asked_offset());
            progress.partitions += 1;
            if let Some(first) = log.first_asked_offset() {
                progress.resumed_bytes += below(first);
                progress.partitions_asked += 1;
            }
        }
        progress
    }

    fn has_passed(&self, percent: u64) -> bool {
        self.taken_bytes * 100 >= self.total_bytes * percent
    }
}

/// The demo while it runs.
struct Show {
    source: Arc<EmbeddedSource>,
    commands: Commands,
    interrupted: Arc<AtomicBool>,
    bar: ProgressBar,
    started: Instant,
    running: Option<Mirror>,
}

impl Show {
    fn new(source: Arc<EmbeddedSource>, commands: Commands, interrupted: Arc<AtomicBool>) -> Show {
        let bar = ProgressBar::new(0);
        let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is right"));
        Show { source, commands, interrupted, bar, started: Instant::now(), running: None }
    }

    fn progress(&self) -> Progress {
        self.source.with_cluster(|cluster| Progress::of(cluster))
    }

    fn say(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.bar.suspend(|| println!("{seconds:6.2} s  {what}"));
    }

    fn introduce(&self) {
        let progress = self.progress();
        self.say(&format!(
            "an embedded source with {BROKERS} brokers at {}: {} partitions, {}, and production goes on",
            self.source.bootstrap(),
            progress.partitions,
            megabytes(progress.total_bytes)
        ));
    }

    fn start(&mut self) -> Result<(), DemoError> {
        self.source.with_cluster(Cluster::forget_readers);
        let mirror = self.commands.start(&self.source.bootstrap(), LINK)?;
        self.say(&format!("twinlog run, process {}", mirror.process_id()));
        self.running = Some(mirror);
        Ok(())
    }

    /// Waits until `done`, showing the progress; an error when the mirror ends or the time is up.
    fn wait(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut done: impl FnMut(&Progress) -> bool,
    ) -> Result<Progress, DemoError> {
        let begun = Instant::now();
        loop {
            let progress = self.progress();
            self.bar.set_length(progress.total_bytes);
            self.bar.set_position(progress.taken_bytes.min(progress.total_bytes));
            if done(&progress) {
                return Ok(progress);
            }
            if self.interrupted.load(Ordering::Acquire) {
                return Err(DemoError::Interrupted);
            }
            self.running.as_mut().map_or(Ok(()), Mirror::check)?;
            if begun.elapsed() > limit {
                return Err(DemoError::Slow { what, limit, log: self.commands.log.clone() });
            }
            thread::sleep(LOOK);
        }
    }

    fn mirror_through_a_kill(&mut self) -> Result<(), DemoError> {
        self.start()?;
        let half = |progress: &Progress| progress.has_passed(KILL_AT_PERCENT);
        let killed = self.wait("half of the bytes", PHASE_MAX, half)?;
        if let Some(mirror) = self.running.take() {
            mirror.kill()?;
        }
        let percent = killed.taken_bytes * 100 / killed.total_bytes.max(1);
        self.say(&format!("SIGKILL after {} ({percent} %)", megabytes(killed.taken_bytes)));
        self.start()?;
        let all_asked = |progress: &Progress| progress.partitions_asked == progress.partitions;
        let resumed = self.wait("the restarted mirror to ask for all partitions", PHASE_MAX, all_asked)?;
        self.say(&format!(
            "resumed behind {} that were on the disk; {} are read again",
            megabytes(resumed.resumed_bytes),
            megabytes(killed.taken_bytes.saturating_sub(resumed.resumed_bytes))
        ));
        self.wait("the mirror to catch up", PHASE_MAX, |progress| progress.has_passed(99))?;
        self.say("caught up with live production; tailing");
        let tailing = Instant::now();
        self.wait("the tail", TAIL * 2, |_| tailing.elapsed() >= TAIL)?;
        Ok(())
    }

    /// Production has ended: everything must arrive, and the mirror must stop in order.
    fn catch_up_and_stop(&mut self) -> Result<(), DemoError> {
        self.say("production settled, all transactions ended");
        let all = |progress: &Progress| progress.taken_bytes == progress.total_bytes;
        let progress = self.wait("the last batches", PHASE_MAX, all)?;
        self.bar.finish_and_clear();
        self.say(&format!("everything taken: {}", megabytes(progress.total_bytes)));
        if let Some(mirror) = self.running.take() {
            mirror.stop()?;
        }
        self.say("SIGTERM: drained, flushed, checkpointed");
        Ok(())
    }

    /// Both judges: `twinlog verify` on the store alone, and the comparison with the source.
    fn verify(&self, link_directory: &Path) -> Result<bool, DemoError> {
        let status = self.commands.verify()?;
        let log = self.commands.log.display();
        self.say(&format!("twinlog verify: {status}; its report ends {log}"));
        let compared = self.source.with_cluster(|cluster| compare::compare(cluster, link_directory));
        match &compared {
            Ok(topics) => self.say_equal(topics),
            Err(difference) => self.say_different(difference),
        }
        Ok(status.success() && compared.is_ok())
    }

    fn say_equal(&self, topics: &BTreeMap<String, Equal>) {
        self.say("compared with the source, byte by byte:");
        for (topic, equal) in topics {
            let Equal { partitions, batches, bytes } = *equal;
            let size = megabytes(bytes);
            println!(
                "          {topic:10} {partitions:3} partitions {batches:6} batches {size:>10}  identical"
            );
        }
    }

    fn say_different(&self, difference: &Difference) {
        self.say(&format!("DIFFERENT from the source: {difference}"));
    }

    fn tail_until_interrupted(&mut self) -> Result<(), DemoError> {
        self.start()?;
        self.say("tailing live production; Ctrl-C ends the demo");
        self.bar.reset();
        let forever = Duration::MAX;
        match self.wait("an end", forever, |_| false) {
            Err(DemoError::Interrupted) => {}
            other => return other.map(|_| ()),
        }
        self.bar.finish_and_clear();
        if let Some(mirror) = self.running.take() {
            mirror.stop()?;
        }
        self.say("stopped");
        Ok(())
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_demos_own_directory_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("demo-data");
        prepare_directory(&directory).unwrap();
        fs::write(directory.join("old"), "x").unwrap();
        prepare_directory(&directory).unwrap();
        assert!(!directory.join("old").exists() && directory.join(MARKER).is_file());
        let foreign = root.path().join("mine");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("precious"), "x").unwrap();
        assert!(matches!(prepare_directory(&foreign), Err(DemoError::Foreign { .. })));
        assert!(foreign.join("precious").exists());
    }

    #[test]
    fn progress_is_what_was_asked_for_above_the_log_start() {
        let mut cluster = Cluster::new(1);
        Production::fill(&mut cluster, 1);
        let progress = Progress::of(&cluster);
        assert_eq!((progress.taken_bytes, progress.partitions_asked), (0, 0));
        assert!(progress.total_bytes > 300 << 20 && progress.partitions == 36);
        assert!(!progress.has_passed(1), "nothing was asked for yet");
    }
}
