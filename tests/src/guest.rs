//! A daemon in guest mode between two clusters, and the questions asked of the destination's files.
//!
//! Owns the data directory, the configuration and the port that followers reach. The destination's brokers
//! are asked by [`crate::kafka`]; what they stored is compared with the source's files, byte by byte.

use crate::cli::{Finished, Program, Running};
use crate::kafka::batches::{CopyBound, Difference, assert_identical, compare};
use crate::kafka::cluster::{TWIN, TWIN_PASSWORD};
use crate::kafka::ports::{self, Port};
use crate::kafka::{Cluster, Isolation};
use crate::poll;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The id that leads, and the one that is kept back.
pub const GUEST: i32 = 900;

/// See the file's header.
pub struct GuestMirror {
    program: PathBuf,
    root: TempDir,
    /// Kept as long as the daemon may listen there.
    ports: Vec<Port>,
    configuration: PathBuf,
}

impl GuestMirror {
    /// A link from `source` to `destination` for `topics`, with more keys of the link's three tables.
    pub fn new(
        program: &str,
        source: &Cluster,
        destination: &Cluster,
        topics: &[&str],
        keys: &[&str],
    ) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let ports = ports::take_run(1);
        let topics: Vec<String> = topics.iter().map(|topic| format!("{topic:?}")).collect();
        let topics = match topics.is_empty() {
            true => String::new(),
            false => format!("topics = [{}]", topics.join(", ")),
        };
        let text = format!(
            "data.dir = {:?}\nmemory.bytes = \"96MiB\"\n[link.dr]\n{}\nsegment.bytes = \"1MiB\"\n{}\n\
             [link.dr.source]\nbootstrap.servers = {:?}\nmetadata.max.age.ms = 1000\n[link.dr.destination]\n\
             mode = \"guest\"\nbootstrap.servers = {:?}\nbootstrap.controllers = {:?}\n\
             inter.broker.listener.name = \"INTERNAL\"\nguest.broker.ids = \"{GUEST}-{}\"\n\
             guest.listener = \"127.0.0.1:{}\"\n",
            root.path().join("data").display().to_string(),
            topics,
            keys.join("\n"),
            source.bootstrap(),
            destination.bootstrap(),
            destination.bootstrap_controllers(),
            GUEST + 1,
            ports[0].number,
        );
        let configuration = root.path().join("twinlog.toml");
        std::fs::write(&configuration, text).expect("written");
        // Secrets may come to stand in it.
        std::fs::set_permissions(&configuration, Permissions::from_mode(0o600)).expect("ours");
        Self { program: program.into(), root, ports, configuration }
    }

    /// Sets more keys of the destination, each as `name = value` in TOML.
    pub fn with_destination_keys(self, keys: &[&str]) -> Self {
        let text = std::fs::read_to_string(&self.configuration).expect("just written");
        std::fs::write(&self.configuration, format!("{text}{}\n", keys.join("\n"))).expect("written");
        self
    }

    /// Another word in the configuration, in place of one that stands there.
    pub fn with_replaced(self, before: &str, after: &str) -> Self {
        self.replace(before, after);
        self
    }

    /// The same for a mirror that lives on, while its daemon does not run.
    pub fn replace(&self, before: &str, after: &str) {
        let text = std::fs::read_to_string(&self.configuration).expect("written by us");
        assert!(text.contains(before), "{before} is not in {text}");
        std::fs::write(&self.configuration, text.replace(before, after)).expect("written");
    }

    /// Connects to both clusters as the user of [`ClusterOptions::with_principals`].
    pub fn as_user(self, source: &Cluster, destination: &Cluster) -> Self {
        let login = format!(
            "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"PLAIN\"\nsasl.username = {TWIN:?}\n\
             sasl.password = {TWIN_PASSWORD:?}\n"
        );
        let servers = |addresses: String| format!("bootstrap.servers = {addresses:?}");
        let there = "[link.dr.destination]\n";
        let replaced = self
            .with_replaced(&servers(source.bootstrap()), &servers(source.login_addresses()))
            .with_replaced(&servers(destination.bootstrap()), &servers(destination.login_addresses()))
            .with_replaced(there, &format!("{login}{there}{login}"));
        std::fs::set_permissions(&replaced.configuration, Permissions::from_mode(0o600)).expect("ours");
        replaced
    }

    /// So many ids that lead, and one that is kept back.
    pub fn with_leading_ids(mut self, count: usize) -> Self {
        let before = self.ports[0].number;
        self.ports = ports::take_run(count);
        let last = GUEST + i32::try_from(count).expect("few ids");
        let replaced = self.with_replaced(
            &format!("guest.broker.ids = \"{GUEST}-{}\"", GUEST + 1),
            &format!("guest.broker.ids = \"{GUEST}-{last}\""),
        );
        let listener = |number: u16| format!("guest.listener = \"127.0.0.1:{number}\"");
        let after = replaced.ports[0].number;
        replaced.with_replaced(&listener(before), &listener(after))
    }

    /// A second link of the same daemon: from another source, with ids and a port of its own, to the same
    /// destination. Commands then name the link that they mean.
    pub fn with_another_link(
        mut self,
        name: &str,
        source: &Cluster,
        destination: &Cluster,
        topics: &str,
        first_id: i32,
    ) -> Self {
        self.ports.extend(ports::take_run(1));
        let port = self.ports.last().expect("just taken").number;
        let link = format!(
            "[link.{name}]\ntopics = [{topics:?}]\nsegment.bytes = \"1MiB\"\n[link.{name}.source]\n\
             bootstrap.servers = {:?}\nmetadata.max.age.ms = 1000\n[link.{name}.destination]\nmode = \"guest\"\n\
             bootstrap.servers = {:?}\nbootstrap.controllers = {:?}\n\
             inter.broker.listener.name = \"INTERNAL\"\nguest.broker.ids = \"{first_id}-{}\"\n\
             guest.listener = \"127.0.0.1:{port}\"",
            source.bootstrap(),
            destination.bootstrap(),
            destination.bootstrap_controllers(),
            first_id + 1,
        );
        self.with_destination_keys(&[&link])
    }

    /// The file that says it all.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Where followers reach the first id.
    pub fn listener(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0].number)
    }

    /// What `mirror describe` tells; null while there is nothing to tell.
    pub fn describe(&self, topic: &str) -> Value {
        self.describe_of(&[], topic)
    }

    /// The same of a topic of the link that is named by these words.
    pub fn describe_of(&self, link: &[&str], topic: &str) -> Value {
        let told = self.command(&[&["mirror", "describe", topic, "--output", "json"], link].concat());
        if told.code() == Some(0) { told.json()["data"][0].take() } else { Value::Null }
    }

    /// Waits until `status` shows an alarm with this code and these words, or none of the kind.
    #[track_caller]
    pub fn poll_until_alarm(&self, code: &str, words: &str, is_there: bool) {
        let alarm = format!("alarm {code}: ");
        let mut last = String::new();
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.command(&["status"]).stdout;
            let shown = last.lines().any(|line| line.contains(&alarm) && line.contains(words));
            (shown == is_there && last.contains("mirrors: ")).then_some(())
        });
        assert!(came.is_some(), "an alarm {code} with {words:?} is wanted: {is_there}\n{last}");
    }

    #[track_caller]
    pub fn poll_until_state(&self, topic: &str, state: &str) {
        let mut last = Value::Null;
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.describe(topic);
            (last["state"] == state).then_some(())
        });
        assert!(came.is_some(), "{topic} is not {state}: {last}");
    }

    pub fn data_directory(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Starts the daemon.
    pub fn start(&self) -> Running {
        Program::new(&self.program).argument("run").argument("--config").argument(&self.configuration).spawn()
    }

    /// Starts the daemon with so many data cores, the first ones of those it may have.
    pub fn start_on(&self, data_cores: usize) -> Running {
        let cores: Vec<String> = (0..data_cores).map(|core| core.to_string()).collect();
        let program = Program::new(&self.program).arguments(["run", "--data-cores", &cores.join(",")]);
        program.argument("--config").argument(&self.configuration).spawn()
    }

    /// Any other command of the program, with its configuration.
    pub fn command(&self, words: &[&str]) -> Finished {
        Program::new(&self.program).arguments(words).argument("--config").argument(&self.configuration).run()
    }

    /// Waits until every broker of the destination holds what the source has of a topic.
    pub fn poll_until_followed(
        &self,
        source: &Cluster,
        destination: &Cluster,
        topic: &str,
        brokers: &[usize],
    ) {
        let ends = source.scenario().end_offsets(topic, Isolation::ReadCommitted);
        let starts = source.scenario().start_offsets(topic);
        for (partition, (start, end)) in starts.iter().zip(&ends).enumerate() {
            let partition = i32::try_from(partition).expect("few partitions");
            for broker in brokers {
                let copy = destination.partition_directory(*broker, topic, partition);
                let original = source.partition_directory(1, topic, partition);
                let mut last = None;
                let followed = poll::poll_within(poll::HANG_LIMIT, || {
                    match compare(&original, &copy, *start, CopyBound::Exactly(*end)) {
                        Ok(equal) if equal.end_offset >= *end || start == end => Some(()),
                        Ok(equal) => {
                            last = Some(format!("it ends at {}", equal.end_offset));
                            None
                        }
                        // A log that never held a record has no file with one.
                        Err(Difference::NoSegments { .. }) if start == end => Some(()),
                        Err(difference) => {
                            last = Some(difference.to_string());
                            None
                        }
                    }
                });
                assert!(
                    followed.is_some(),
                    "broker {broker} does not hold {topic}-{partition} up to {end}: {}",
                    last.unwrap_or_default()
                );
            }
        }
    }

    /// The bytes on every broker of the destination are the source's.
    #[track_caller]
    pub fn assert_same_on(&self, source: &Cluster, destination: &Cluster, topic: &str, brokers: &[usize]) {
        let starts = source.scenario().start_offsets(topic);
        let ends = source.scenario().end_offsets(topic, Isolation::ReadCommitted);
        for (partition, (start, end)) in starts.iter().zip(&ends).enumerate() {
            let partition = i32::try_from(partition).expect("few partitions");
            for broker in brokers {
                let original: &Path = &source.partition_directory(1, topic, partition);
                let copy = destination.partition_directory(*broker, topic, partition);
                let equal = assert_identical(original, &copy, *start, CopyBound::Exactly(*end));
                assert!(equal.end_offset >= *end || start == end, "{topic}-{partition} of broker {broker}");
            }
        }
    }
}
