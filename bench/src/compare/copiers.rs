//! The programs that are compared, and one run of each from its start to the last record.
//!
//! ```text
//!                source broker (core 0) ──▶ copier (core 1) ──▶ destination broker (core 0), but for the store
//!   end          store, clients: they end by themselves          guest: every byte is in the follower's log
//!                MirrorMaker 2: the destination's ends are the source's, then it is killed
//! ```
//! Everything that a copier starts runs on its core. Invariant: a run begins with an empty destination.

use crate::Bench;
use crate::children::{Cores, Role};
use crate::compare::correctness::{self, PartitionDigest};
use crate::compare::floor;
use crate::compare::mirror_maker;
use crate::compare::process_tree::{Program, Used, cpu_seconds, pinned};
use crate::compare::programs::Programs;
use crate::compare::sets::{Filled, Set, log_bytes, log_files};
use crate::error::BenchError;
use crate::guest::daemon::{Ends, Link};
use crate::mirror::{self, Origin};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::scenario::{Codec, Isolation};
use twinlog_tests::kafka::{Cluster, ClusterOptions};

/// Enough that no broker collects garbage all the time.
const BROKER_HEAP_MEGABYTES: u32 = 1_024;
/// Ids of guests begin here, two for each run: an id is never used twice.
const FIRST_GUEST: i32 = 1_000;
/// How often a destination is asked for its ends: each question costs its core a millisecond.
const ENDS: Duration = Duration::from_millis(50);
/// A store's place in a run's directory.
const STORE: &str = "data";
/// Segments are reserved ahead of the data.
const SPARE_BYTES: u64 = 8 << 30;

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copier {
    Store,
    Guest,
    FranzGo,
    Rdkafka,
    MirrorMaker,
    /// What a store must at least do with the same bytes; no Kafka.
    StoreFloor,
    /// The same of a guest.
    GuestFloor,
}

impl Copier {
    pub const ALL: [Copier; 7] = [
        Copier::Store,
        Copier::StoreFloor,
        Copier::Guest,
        Copier::GuestFloor,
        Copier::FranzGo,
        Copier::Rdkafka,
        Copier::MirrorMaker,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Copier::Store => "twinlog-store",
            Copier::Guest => "twinlog-guest",
            Copier::FranzGo => "franz-go",
            Copier::Rdkafka => "librdkafka",
            Copier::MirrorMaker => "mirrormaker-2",
            Copier::StoreFloor => "floor-store",
            Copier::GuestFloor => "floor-guest",
        }
    }

    pub fn is_floor(self) -> bool {
        matches!(self, Copier::StoreFloor | Copier::GuestFloor)
    }

    /// What it is measured against.
    pub fn floor(self) -> Option<Copier> {
        match self {
            Copier::Store => Some(Copier::StoreFloor),
            Copier::Guest => Some(Copier::GuestFloor),
            _ => None,
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Copier::Store | Copier::Guest)
    }
}

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub used: Used,
    pub source_cpu_seconds: f64,
    pub destination_cpu_seconds: f64,
    /// Why the copy is none; then nothing of it counts.
    pub wrong: Option<String>,
}

/// What a copier is to do.
pub struct Job<'a> {
    pub copier: Copier,
    /// Its own.
    pub directory: &'a Path,
    pub topic: &'a str,
    pub partitions: u32,
    pub codec: Codec,
    /// It goes on when it has copied what there was.
    pub follows: bool,
}

/// A copier that was started.
pub struct Running {
    pub program: Program,
    /// Holds the port that followers reach.
    _link: Option<Link>,
}

/// Both clusters, on their core for as long as anything is compared.
pub struct Ground {
    pub source: Cluster,
    pub destination: Cluster,
    runs: i32,
}

impl Ground {
    /// A broker that is its own controller there; a broker and a controller here, as guests need them.
    pub fn start(cores: Cores) -> Result<Ground, BenchError> {
        let options = ClusterOptions {
            heap_megabytes: BROKER_HEAP_MEGABYTES,
            full_speed: true,
            ..ClusterOptions::default()
        };
        let destination = ClusterOptions { internal_listener: true, ..options.clone() };
        // A guest that is gone between two runs must not look dead within one.
        let destination = destination.with_override("broker.session.timeout.ms", "9000");
        pinned(cores.control, || {
            let source = Cluster::start(options);
            Ok(Ground { source, destination: Cluster::start(destination), runs: 0 })
        })
    }

    /// One run, checked, with nothing left behind.
    pub fn run(
        &mut self,
        bench: &Bench<'_>,
        programs: &Programs,
        copier: Copier,
        set: &Set,
        filled: &Filled,
        expected: &[PartitionDigest],
    ) -> Result<Run, BenchError> {
        let directory = bench.scratch.place("compared", filled.wire_bytes * 3 + SPARE_BYTES)?;
        bench.scratch.clear(&directory)?;
        fs::create_dir_all(&directory).map_err(|error| BenchError::File {
            action: "making",
            path: directory.clone(),
            error,
        })?;
        let topic = set.topic();
        if copier.is_floor() {
            let files = log_files(&self.source, 1, &topic, set.partitions);
            let (own, beside) = (bench.cores.data, bench.cores.control);
            let with_sink = copier == Copier::GuestFloor;
            let run = floor::run(own, beside, &files, filled.wire_bytes, &directory, with_sink)?;
            bench.scratch.clear(&directory)?;
            return Ok(run);
        }
        let job = Job {
            copier,
            directory: &directory,
            topic: &topic,
            partitions: set.partitions,
            codec: set.codec,
            follows: false,
        };
        let before = self.cpu_seconds();
        let running = self.launch(bench.cores, programs, &job)?;
        let used = self.watch(running, &job, filled, expected);
        let after = self.cpu_seconds();
        // One that fails scores nothing either, and the others go on.
        let (used, wrong) = match used {
            Ok(used) => (used, self.wrong(copier, programs, set, &directory, expected)?),
            Err(error) => (Used::default(), Some(format!("the run failed: {error}"))),
        };
        if copier != Copier::Store {
            self.destination.scenario().delete_topic(&topic);
        }
        bench.scratch.clear(&directory)?;
        let (source_cpu_seconds, destination_cpu_seconds) = (after.0 - before.0, after.1 - before.1);
        Ok(Run { used, source_cpu_seconds, destination_cpu_seconds, wrong })
    }

    fn cpu_seconds(&self) -> (f64, f64) {
        let of = |cluster: &Cluster| cpu_seconds(cluster.broker_process(1));
        (of(&self.source), of(&self.destination))
    }

    /// Starts a copier on its core, with a topic for it to write to.
    pub fn launch(
        &mut self,
        cores: Cores,
        programs: &Programs,
        job: &Job<'_>,
    ) -> Result<Running, BenchError> {
        self.runs += 1;
        if !job.copier.is_ours() {
            self.destination.scenario().create_topic(job.topic, job.partitions, 1, &[]);
        }
        // All of its threads, those that are usually kept apart, too.
        let own = Cores { control: cores.data, data: cores.data };
        let (command, link) = match job.copier {
            Copier::Store => (self.store(own, job)?, None),
            Copier::Guest => {
                let link = self.guest(own, job)?;
                (link.run_command()?, Some(link))
            }
            Copier::FranzGo => (self.client(&programs.franz_go, job), None),
            Copier::Rdkafka => (self.client(&programs.rdkafka, job), None),
            Copier::MirrorMaker => (self.mirror_maker(job)?, None),
            Copier::StoreFloor | Copier::GuestFloor => unreachable!("a floor is no program of its own"),
        };
        let output = job.directory.join("output");
        let program = Program::start(job.copier.name(), cores.data, command, &output)?;
        Ok(Running { program, _link: link })
    }

    fn watch(
        &self,
        running: Running,
        job: &Job<'_>,
        filled: &Filled,
        expected: &[PartitionDigest],
    ) -> Result<Used, BenchError> {
        let program = running.program;
        let arrived = || log_bytes(&self.destination, 1, job.topic, job.partitions);
        let wanted: Vec<i64> = expected.iter().map(|partition| partition.next).collect();
        let mut asked = Instant::now();
        let ends = || {
            if asked.elapsed() < ENDS {
                return false;
            }
            asked = Instant::now();
            let ends = self.destination.scenario().end_offsets(job.topic, Isolation::ReadUncommitted);
            ends.iter().zip(&wanted).all(|(end, wanted)| end >= wanted)
        };
        match job.copier {
            Copier::Store => {
                let data = job.directory.join(STORE);
                program.watch(|| stored(&data, job.topic, 0).is_some_and(|path| has_log(&path)), || false)
            }
            Copier::Guest => program.watch(|| arrived() > 0, || arrived() >= filled.wire_bytes),
            Copier::FranzGo | Copier::Rdkafka => program.watch(|| arrived() > 0, || false),
            Copier::MirrorMaker => program.watch(|| arrived() > 0, ends),
            Copier::StoreFloor | Copier::GuestFloor => unreachable!("a floor is not launched"),
        }
    }

    fn store(&self, cores: Cores, job: &Job<'_>) -> Result<Command, BenchError> {
        let failed = |error| BenchError::Role { role: Copier::Store.name(), error };
        let bootstrap = self.source.bootstrap();
        let origin = Origin::Plaintext { bootstrap: &bootstrap, topic: job.topic };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg(Role::Mirror.name()).args(mirror::words(cores, origin, &job.directory.join(STORE)));
        command.args((!job.follows).then_some("--until-caught-up"));
        Ok(command)
    }

    fn guest(&self, cores: Cores, job: &Job<'_>) -> Result<Link, BenchError> {
        let ends = Ends {
            source: &self.source.bootstrap(),
            destination: &self.destination.bootstrap(),
            controllers: &self.destination.bootstrap_controllers(),
            guest: FIRST_GUEST + 2 * self.runs,
            topics: job.topic,
            replicas: 1,
        };
        Link::create(&job.directory.join("guest"), &ends, Some(cores))
    }

    fn client(&self, path: &Path, job: &Job<'_>) -> Command {
        let mut command = Command::new(path);
        command.args(["copy", "-source", &self.source.bootstrap()]);
        command.args(["-destination", &self.destination.bootstrap()]);
        command.args(["-topic", job.topic, "-codec", job.codec.name()]);
        command.args(job.follows.then_some("-follow"));
        command
    }

    fn mirror_maker(&self, job: &Job<'_>) -> Result<Command, BenchError> {
        let (source, destination) = (self.source.bootstrap(), self.destination.bootstrap());
        let text = mirror_maker::properties(self.runs, &source, &destination, job);
        let file = job.directory.join("mirror-maker.properties");
        let written = fs::write(&file, text);
        written.map_err(|error| BenchError::File { action: "writing", path: file.clone(), error })?;
        Ok(mirror_maker::command(job.directory, &file))
    }

    /// Why the copy is wrong, if it is: ours by its batches, which is more than its records.
    fn wrong(
        &self,
        copier: Copier,
        programs: &Programs,
        set: &Set,
        directory: &Path,
        expected: &[PartitionDigest],
    ) -> Result<Option<String>, BenchError> {
        let topic = set.topic();
        if !copier.is_ours() {
            let found = correctness::digest(&programs.franz_go, &self.destination.bootstrap(), &topic)?;
            return Ok(correctness::record_difference(expected, &found));
        }
        let copy = |index: i32| match copier {
            Copier::Store => stored(&directory.join(STORE), &topic, index).unwrap_or_default(),
            _ => self.destination.partition_directory(1, &topic, index),
        };
        let pairs: Vec<(PathBuf, PathBuf)> = (0..set.partitions as i32)
            .map(|index| (self.source.partition_directory(1, &topic, index), copy(index)))
            .collect();
        let pairs = pairs.iter().map(|(source, copy)| (source.as_path(), copy.as_path()));
        Ok(correctness::batch_difference(pairs))
    }
}

/// A partition's directory in a store, whose link has one below the store's.
fn stored(data: &Path, topic: &str, partition: i32) -> Option<PathBuf> {
    let links = fs::read_dir(data).into_iter().flatten().flatten();
    let mut candidates = links.map(|link| link.path().join(format!("{topic}-{partition}")));
    candidates.find(|directory| directory.is_dir())
}

fn has_log(directory: &Path) -> bool {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.path().extension().is_some_and(|extension| extension == "log"))
}
