//! One Kafka process: its properties file, its data directory, its starts and its ends.
//!
//! Owns the process and its log output, one file per start, so that readiness is read from this start
//! and not from the one before. Invariant: a process that runs is known to the watchdog, one that was
//! waited for is not.

use super::artifacts;
use super::ports::Port;
use super::watchdog::Watchdog;
use crate::poll;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// What a broker or controller prints when it serves.
const READY: &str = "Kafka Server started";

/// Lines of a broker's output that a failure shows: enough for an exception with its causes.
const SHOWN_LINES: usize = 40;

#[derive(Debug)]
pub struct Node {
    pub id: i32,
    pub port: Port,
    pub data_directory: PathBuf,
    directory: PathBuf,
    process: Process,
    running: Mutex<Running>,
}

/// What a node runs.
#[derive(Clone, Debug)]
pub struct Process {
    /// Version of Kafka.
    pub version: &'static str,
    pub heap_megabytes: u32,
    /// Of its Java.
    pub flags: Vec<String>,
    /// All compilers of Java: for what is measured. Tests are over before they pay.
    pub full_speed: bool,
}

#[derive(Debug, Default)]
struct Running {
    starts: u32,
    process: Option<Child>,
}

/// Signals that a test sends to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Stop,
    Continue,
}

impl Node {
    /// Writes the properties of node `id` below `directory`; `{id}` in them is that id.
    pub fn create(id: i32, port: Port, directory: PathBuf, process: Process, properties: &str) -> Self {
        let data_directory = directory.join("data");
        fs::create_dir_all(&data_directory).expect("the directory of a node can be created");
        let properties = properties.replace("{id}", &id.to_string());
        let text = format!("{properties}node.id={id}\nlog.dirs={}\n", data_directory.display());
        fs::write(directory.join("server.properties"), text).expect("the properties can be written");
        Self { id, port, data_directory, directory, process, running: Mutex::default() }
    }

    /// Formats the data directory; `arguments` say who the first controller is.
    pub fn format(&self, cluster_id: &str, arguments: &[&str]) {
        let mut command = artifacts::kafka_of(self.process.version).java(128);
        command.args(["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"]).arg(self.properties());
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("Java can be started");
        assert!(
            output.status.success(),
            "formatting node {} failed: {}{}",
            self.id,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Starts the process without waiting for it.
    pub fn launch(&self, watchdog: &Watchdog) {
        let mut running = self.running.lock().expect("no node operation panics");
        assert!(running.process.is_none(), "node {} is running already", self.id);
        running.starts += 1;
        let output = File::create(self.output(running.starts)).expect("the output file can be created");
        let errors = output.try_clone().expect("the output file can be shared");
        let kafka = artifacts::kafka_of(self.process.version);
        let Process { heap_megabytes, full_speed, flags, .. } = &self.process;
        let mut command = if *full_speed {
            kafka.java_at_full_speed(&self.directory, *heap_megabytes)
        } else {
            kafka.java_in(&self.directory, *heap_megabytes)
        };
        command.args(flags).arg("kafka.Kafka").arg(self.properties());
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.expect("Java can be started");
        watchdog.watch(child.id());
        running.process = Some(child);
    }

    /// Waits until the process of the last start serves.
    pub fn poll_until_ready(&self) {
        let what = format!("node {} prints {READY:?}; its output: {}", self.id, self.directory.display());
        poll::poll_until(&what, || {
            let mut running = self.running.lock().expect("no node operation panics");
            let output = fs::read_to_string(self.output(running.starts)).unwrap_or_default();
            let process = running.process.as_mut().expect("a node that is waited for was launched");
            if let Some(status) = process.try_wait().expect("a child can be asked for its status") {
                panic!("node {} ended with {status} instead of serving:\n{}", self.id, last_lines(&output));
            }
            output.contains(READY)
        });
    }

    /// The process of the last start, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.running.lock().expect("no node operation panics").process.as_ref().map(Child::id)
    }

    /// What the process of the last start has printed.
    pub fn printed(&self) -> String {
        let running = self.running.lock().expect("no node operation panics");
        fs::read_to_string(self.output(running.starts)).unwrap_or_default()
    }

    /// Kills the process at once, as a power cut would end it.
    pub fn kill(&self, watchdog: &Watchdog) {
        self.end(watchdog, |child| child.kill().expect("a child can be killed"));
    }

    /// Asks the process to end and waits for it: it hands leadership over and closes its log.
    pub fn stop(&self, watchdog: &Watchdog) {
        self.end(watchdog, |child| send(child, Signal::Terminate));
    }

    pub fn signal(&self, signal: Signal) {
        let running = self.running.lock().expect("no node operation panics");
        send(running.process.as_ref().expect("a node that is signalled runs"), signal);
    }

    fn end(&self, watchdog: &Watchdog, by: impl FnOnce(&mut Child)) {
        let mut running = self.running.lock().expect("no node operation panics");
        let Some(mut child) = running.process.take() else { return };
        by(&mut child);
        child.wait().expect("a child can be waited for");
        watchdog.forget(child.id());
    }

    fn properties(&self) -> PathBuf {
        self.directory.join("server.properties")
    }

    fn output(&self, start: u32) -> PathBuf {
        self.directory.join(format!("start-{start}.output"))
    }
}

fn send(child: &Child, signal: Signal) {
    let name = match signal {
        Signal::Terminate => "-TERM",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    // The shell's own kill: the program of that name is not on every machine.
    let status =
        Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", name, &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {name} {} failed", child.id());
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// The directory of one node below the cluster's.
pub fn directory_of(cluster: &Path, id: i32) -> PathBuf {
    cluster.join(format!("node-{id}"))
}
