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
use crate::compare::mirror_maker;
use crate::compare::process_tree::{Program, Used, cpu_seconds, pinned};
use crate::compare::programs::Programs;
use crate::compare::sets::{Filled, Set, log_bytes};
use crate::error::BenchError;
use crate::guest::daemon::{Ends, Link};
use crate::mirror::{self, Origin};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::scenario::Isolation;
use twinlog_tests::kafka::{Cluster, ClusterOptions};

/// Enough that no broker collects garbage all the time.
const BROKER_HEAP_MEGABYTES: u32 = 1_024;
/// Ids of guests begin here, two for each run: an id is never used twice.
const FIRST_GUEST: i32 = 1_000;
/// How often a destination is asked for its ends: each question costs its core a millisecond.
const ENDS: Duration = Duration::from_millis(50);
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
}

impl Copier {
    pub const ALL: [Copier; 5] =
        [Copier::Store, Copier::Guest, Copier::FranzGo, Copier::Rdkafka, Copier::MirrorMaker];

    pub fn name(self) -> &'static str {
        match self {
            Copier::Store => "twinlog-store",
            Copier::Guest => "twinlog-guest",
            Copier::FranzGo => "franz-go",
            Copier::Rdkafka => "librdkafka",
            Copier::MirrorMaker => "mirrormaker-2",
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
        self.runs += 1;
        let directory = bench.scratch.place("compared", filled.wire_bytes * 3 + SPARE_BYTES)?;
        bench.scratch.clear(&directory)?;
        fs::create_dir_all(&directory).map_err(|error| BenchError::File {
            action: "making",
            path: directory.clone(),
            error,
        })?;
        let topic = set.topic();
        if !copier.is_ours() {
            self.destination.scenario().create_topic(&topic, set.partitions, 1, &[]);
        }
        let before = self.cpu_seconds();
        let cores = Cores { control: bench.cores.data, data: bench.cores.data };
        let used = match copier {
            Copier::Store => self.store(cores, &directory, &topic),
            Copier::Guest => self.guest(cores, &directory, set, filled),
            Copier::FranzGo => self.client(copier, &programs.franz_go, cores.data, &directory, set),
            Copier::Rdkafka => self.client(copier, &programs.rdkafka, cores.data, &directory, set),
            Copier::MirrorMaker => self.mirror_maker(cores.data, &directory, set, expected),
        }?;
        let after = self.cpu_seconds();
        let wrong = self.wrong(copier, programs, set, &directory, expected)?;
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

    /// A record of it is in the destination's files.
    fn has_begun(&self, set: &Set) -> bool {
        log_bytes(&self.destination, &set.topic(), set.partitions) > 0
    }

    fn store(&self, cores: Cores, directory: &Path, topic: &str) -> Result<Used, BenchError> {
        let bootstrap = self.source.bootstrap();
        let data = directory.join("data");
        let origin = Origin::Plaintext { bootstrap: &bootstrap, topic };
        let mut command = own_program(Copier::Store)?;
        command.arg(Role::Mirror.name()).args(mirror::words(cores, origin, &data)).arg("--until-caught-up");
        let name = Copier::Store.name();
        let program = Program::start(name, cores.data, command, &directory.join("output"))?;
        program.watch(|| stored(&data, topic, 0).is_some_and(|path| has_log(&path)), || false)
    }

    fn guest(&self, cores: Cores, directory: &Path, set: &Set, filled: &Filled) -> Result<Used, BenchError> {
        let topic = set.topic();
        let ends = Ends {
            source: &self.source.bootstrap(),
            destination: &self.destination.bootstrap(),
            controllers: &self.destination.bootstrap_controllers(),
            guest: FIRST_GUEST + 2 * self.runs,
            topics: &topic,
            replicas: 1,
        };
        let link = Link::create(&directory.join("guest"), &ends, Some(cores))?;
        let name = Copier::Guest.name();
        let program = Program::start(name, cores.data, link.run_command()?, &directory.join("output"))?;
        let is_done = || log_bytes(&self.destination, &topic, set.partitions) >= filled.wire_bytes;
        program.watch(|| self.has_begun(set), is_done)
    }

    fn client(
        &self,
        copier: Copier,
        path: &Path,
        core: usize,
        directory: &Path,
        set: &Set,
    ) -> Result<Used, BenchError> {
        let mut command = Command::new(path);
        command.args(["copy", "-source", &self.source.bootstrap()]);
        command.args(["-destination", &self.destination.bootstrap()]);
        command.args(["-topic", &set.topic(), "-codec", set.codec.name()]);
        let program = Program::start(copier.name(), core, command, &directory.join("output"))?;
        program.watch(|| self.has_begun(set), || false)
    }

    fn mirror_maker(
        &self,
        core: usize,
        directory: &Path,
        set: &Set,
        expected: &[PartitionDigest],
    ) -> Result<Used, BenchError> {
        let text =
            mirror_maker::properties(self.runs, &self.source.bootstrap(), &self.destination.bootstrap(), set);
        let file = directory.join("mirror-maker.properties");
        let written = fs::write(&file, text);
        written.map_err(|error| BenchError::File { action: "writing", path: file.clone(), error })?;
        let command = mirror_maker::command(directory, &file);
        let name = Copier::MirrorMaker.name();
        let program = Program::start(name, core, command, &directory.join("output"))?;
        let wanted: Vec<i64> = expected.iter().map(|partition| partition.next).collect();
        let mut asked = Instant::now();
        let is_done = || {
            if asked.elapsed() < ENDS {
                return false;
            }
            asked = Instant::now();
            let ends = self.destination.scenario().end_offsets(&set.topic(), Isolation::ReadUncommitted);
            ends.iter().zip(&wanted).all(|(end, wanted)| end >= wanted)
        };
        program.watch(|| self.has_begun(set), is_done)
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
            Copier::Store => stored(&directory.join("data"), &topic, index).unwrap_or_default(),
            _ => self.destination.partition_directory(1, &topic, index),
        };
        let pairs: Vec<(PathBuf, PathBuf)> = (0..set.partitions as i32)
            .map(|index| (self.source.partition_directory(1, &topic, index), copy(index)))
            .collect();
        let pairs = pairs.iter().map(|(source, copy)| (source.as_path(), copy.as_path()));
        Ok(correctness::batch_difference(pairs))
    }
}

fn own_program(copier: Copier) -> Result<Command, BenchError> {
    let failed = |error| BenchError::Role { role: copier.name(), error };
    Ok(Command::new(std::env::current_exe().map_err(failed)?))
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
