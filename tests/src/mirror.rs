//! A data directory that the program under test fills from a cluster, and the questions asked of it.
//!
//! Owns the directory. Compares it with the broker's own files by [`crate::kafka::batches`], never by
//! the product's reader.

use crate::cli::{Finished, Program, Running};
use crate::kafka::batches::{self, CopyBound, Difference, assert_identical};
use crate::kafka::dump::{Gaps, assert_clean};
use crate::kafka::indexes::aborted_transactions;
use crate::kafka::{Cluster, Isolation};
use crate::poll;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// See the file's header.
pub struct Mirror {
    program: PathBuf,
    bootstrap: String,
    /// Holds the data directory and the configuration file.
    root: TempDir,
    topics: Vec<String>,
    arguments: Vec<String>,
    /// `--memory`; without it the product's default holds.
    memory: Option<&'static str>,
}

/// What a mirror may take when its test says nothing: little, so that tests run beside each other.
const MEMORY: &str = "96MiB";

impl Mirror {
    /// A mirror of `topics`, with nothing stored yet. `program` is the binary under test.
    pub fn new(program: &str, bootstrap: &str, topics: &[&str]) -> Self {
        Self {
            program: program.into(),
            bootstrap: bootstrap.to_owned(),
            root: tempfile::tempdir().expect("a directory"),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            arguments: Vec::new(),
            memory: Some(MEMORY),
        }
    }

    /// Runs with so much memory; `None` is the default of the product.
    pub fn with_memory(self, memory: Option<&'static str>) -> Self {
        Self { memory, ..self }
    }

    /// Adds a flag to every run.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets keys of the link in a configuration file, each as `name = value` in TOML.
    pub fn with_keys(self, keys: &[&str]) -> Self {
        self.with_configuration(&format!("[link.default]\n{}\n", keys.join("\n")))
    }

    /// Runs with this configuration file under its flags.
    pub fn with_configuration(self, text: &str) -> Self {
        let file = self.root.path().join("twinlog.toml");
        std::fs::write(&file, text).expect("written");
        // Secrets may stand in it.
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
        self.with(&["--config", file.to_str().expect("paths of tests are UTF-8")])
    }

    pub fn data_directory(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn partition_directory(&self, topic: &str, partition: i32) -> PathBuf {
        self.data_directory().join("default").join(format!("{topic}-{partition}"))
    }

    /// `twinlog run`, tailing until it is told to stop.
    pub fn tailing(&self) -> Program {
        let mut program = Program::new(&self.program).argument("run");
        program = program.arguments(["--source", &self.bootstrap, "--output", "json"]);
        if let Some(memory) = self.memory {
            program = program.arguments(["--memory", memory]);
        }
        program = program.argument("--data-dir").argument(self.data_directory());
        for topic in &self.topics {
            program = program.arguments(["--topic", topic]);
        }
        program.arguments(&self.arguments)
    }

    /// `twinlog run --until-caught-up` to its end.
    pub fn catch_up(&self) -> Finished {
        self.tailing().argument("--until-caught-up").run()
    }

    /// The same, and it must have got there; its report.
    pub fn caught_up(&self) -> Value {
        self.catch_up().expect_code(0).json()
    }

    /// `twinlog verify`, over the files and, with `source`, against the cluster.
    pub fn verify(&self, source: bool) -> Finished {
        let program = Program::new(&self.program).argument("verify");
        let program = program.argument("--data-dir").argument(self.data_directory());
        if source { program.arguments(["--source", &self.bootstrap]) } else { program }.run()
    }

    /// `twinlog mirror resume` with these arguments.
    pub fn resume(&self, arguments: &[&str]) -> Finished {
        let program = Program::new(&self.program).arguments(["mirror", "resume"]).arguments(arguments);
        program.argument("--data-dir").argument(self.data_directory()).run()
    }

    /// Every batch of the broker's log below `end` is in the mirror with the same bytes, and nothing else.
    #[track_caller]
    pub fn assert_same(&self, cluster: &Cluster, broker: usize, topic: &str, isolation: Isolation) {
        let starts = cluster.scenario().start_offsets(topic);
        let ends = cluster.scenario().end_offsets(topic, isolation);
        for (partition, (start, end)) in starts.iter().zip(&ends).enumerate() {
            let partition = i32::try_from(partition).expect("few partitions");
            let source = cluster.partition_directory(broker, topic, partition);
            let mirror = self.partition_directory(topic, partition);
            let equal = assert_identical(&source, &mirror, *start, CopyBound::Exactly(*end));
            assert!(equal.end_offset >= *end, "{topic}-{partition} ends at {} of {end}", equal.end_offset);
        }
    }

    /// Where the mirror of a partition ends, if all of it is the broker's, from the broker's start on.
    pub fn stored_end(&self, cluster: &Cluster, topic: &str, partition: i32) -> Option<i64> {
        let (source, mirror) =
            (cluster.partition_directory(1, topic, partition), self.partition_directory(topic, partition));
        batches::compare(&source, &mirror, 0, CopyBound::Prefix).ok().map(|equal| equal.end_offset)
    }

    /// Waits until all partitions of a topic hold what the broker has now.
    pub fn poll_until_stored(&self, cluster: &Cluster, topic: &str, running: &mut Running) {
        let ends = cluster.scenario().end_offsets(topic, Isolation::ReadCommitted);
        poll::poll_until(&format!("the store has all of {topic}"), || {
            running.expect_running();
            (0..).zip(&ends).all(|(partition, end)| self.stored_end(cluster, topic, partition) >= Some(*end))
        });
    }

    /// Ends the program in order; the bytes of a topic are the broker's, and what it said is returned.
    #[track_caller]
    pub fn ended(&self, cluster: &Cluster, topic: &str, running: Running) -> Finished {
        running.terminate();
        let finished = running.wait().expect_code(0);
        self.assert_same(cluster, 1, topic, Isolation::ReadCommitted);
        finished
    }

    /// As [`Self::assert_same`], but an answer: for a mirror that is still running.
    pub fn difference(&self, source: &Path, topic: &str, partition: i32, start: i64) -> Option<Difference> {
        let mirror = self.partition_directory(topic, partition);
        batches::compare(source, &mirror, start, CopyBound::Prefix).err()
    }

    /// Kafka's own tool finds nothing wrong with any of the partitions.
    #[track_caller]
    pub fn assert_dump_clean(&self, topic: &str, partitions: i32, gaps: Gaps) {
        let directories: Vec<PathBuf> =
            (0..partitions).map(|partition| self.partition_directory(topic, partition)).collect();
        assert_clean(&directories, gaps);
    }

    /// The transaction index names the same aborted transactions as the broker's.
    #[track_caller]
    pub fn assert_same_aborts(&self, source: &Path, topic: &str, partition: i32) -> usize {
        let ours = aborted_transactions(&self.partition_directory(topic, partition)).expect("readable");
        let theirs = aborted_transactions(source).expect("readable");
        assert_eq!(ours, theirs, "aborted transactions of {topic}-{partition}");
        ours.len()
    }
}
