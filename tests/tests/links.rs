//! Several links in one daemon: side by side, created, altered and deleted while it runs, and read again from a file.
//!
//! The real program and two real source clusters; what is mirrored is compared byte for byte.

use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use twinlog_tests::cli::{Finished, Program, Running};
use twinlog_tests::kafka::batches::{CopyBound, assert_identical};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// Stands in the file, whose owner alone may read it, and nowhere else.
const FILE_SECRET: &str = "hunter2-of-the-file";
const SENT_SECRET: &str = "hunter2-by-mistake";

#[test]
fn several_links_live_in_one_daemon() {
    let (east, west) = (Cluster::start(ClusterOptions::default()), Cluster::start(ClusterOptions::default()));
    two_clusters_are_mirrored_side_by_side_and_a_third_link_is_created(&east, &west);
    a_link_is_altered_at_once_and_with_a_restart_of_its_data_threads(&east, &west);
    a_file_is_read_again_and_a_bad_one_changes_nothing(&east, &west);
    a_dead_source_leaves_the_other_link_alone(&east, &west);
}

/// A data directory and a configuration file.
struct Site {
    root: TempDir,
}

impl Site {
    fn new(text: &str) -> Self {
        let site = Self { root: tempfile::tempdir().expect("a directory") };
        site.write(text);
        site
    }

    fn write(&self, links: &str) {
        let data = self.data();
        let text = format!("data.dir = \"{}\"\nmemory.bytes = \"128MiB\"\n{links}", data.display());
        let file = self.file();
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.root.path().join("twinlog.toml")
    }

    fn start(&self) -> Running {
        let program = Program::new(PROGRAM).arguments(["run", "--output", "json", "--config"]);
        program.argument(self.file()).spawn()
    }

    /// One command to the daemon.
    fn say(&self, words: &str) -> Finished {
        let program = Program::new(PROGRAM).arguments(words.split_whitespace());
        program.argument("--data-dir").argument(self.data()).run()
    }

    fn links(&self) -> Vec<(String, String)> {
        let told = self.say("link list --output json");
        if !told.status.success() {
            return Vec::new();
        }
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let links = told.json()["data"].as_array().expect("a list").clone();
        links.iter().map(|link| (text(&link["link_name"]), text(&link["link_state"]))).collect()
    }

    fn poll_until_links(&self, expected: &[(&str, &str)]) {
        let mut last = Vec::new();
        poll::poll_until(&format!("the links are {expected:?}"), || {
            last = self.links();
            last.iter().map(|(name, state)| (name.as_str(), state.as_str())).eq(expected.iter().copied())
        });
    }

    fn poll_until_copied(&self, cluster: &Cluster, link: &str, topic: &str) {
        poll::poll_until(&format!("{topic} of link {link} is copied"), || {
            let told = self.say(&format!("mirror describe {topic} --link {link} --output json"));
            let end = cluster.scenario().end_offsets(topic, Isolation::ReadUncommitted)[0];
            told.status.success() && told.json()["data"][0]["partitions"][0]["log_end"] == end
        });
    }

    /// A configuration as it is told.
    fn config(&self, link: &str, name: &str) -> Value {
        let told = self.say(&format!("link describe {link} --output json")).expect_code(0).json();
        let configs = told["configs"].as_array().expect("a list").clone();
        configs.into_iter().find(|config| config["name"] == name).expect("a configuration of a link")
    }

    #[track_caller]
    fn assert_same(&self, cluster: &Cluster, link: &str, topic: &str) {
        let end = cluster.scenario().end_offsets(topic, Isolation::ReadUncommitted)[0];
        let mirror = self.data().join(link).join(format!("{topic}-0"));
        let source = cluster.partition_directory(1, topic, 0);
        let equal = assert_identical(&source, &mirror, 0, CopyBound::Exactly(end));
        assert!(equal.end_offset >= end);
    }

    /// No file of ours holds this.
    fn assert_nowhere(&self, secret: &str) {
        let files = std::fs::read_dir(self.data().join(".twinlog")).expect("our own directory");
        let mut looked_at = 0;
        for entry in files.map(|entry| entry.expect("readable")) {
            if entry.file_type().expect("known").is_file() {
                let bytes = std::fs::read(entry.path()).expect("readable");
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "{}", entry.path().display());
                looked_at += 1;
            }
        }
        assert!(looked_at > 0, "the state is a file");
    }
}

fn link(name: &str, cluster: &Cluster, topic: &str, more: &str) -> String {
    format!(
        "[link.{name}]\ntopics = [\"{topic}\"]\n{more}\n[link.{name}.source]\nbootstrap.servers = \"{}\"\n\
         metadata.max.age.ms = 1000\n",
        cluster.bootstrap()
    )
}

fn produce(cluster: &Cluster, topic: &str, count: u32) {
    cluster.scenario().produce_mixed(&Produce { count, value_bytes: 200, ..Produce::to(topic) });
}

fn create(cluster: &Cluster, topic: &str, count: u32) {
    cluster.scenario().create_topic(topic, 1, 1, &[]);
    produce(cluster, topic, count);
}

fn hang_up(running: &Running) {
    let process = running.process_id().to_string();
    let status = Command::new("sh").args(["-c", "kill -HUP \"$0\"", &process]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -HUP {process} failed");
}

fn end_well(running: Running) -> Finished {
    running.terminate();
    running.wait().expect_code(0)
}

fn two_clusters_are_mirrored_side_by_side_and_a_third_link_is_created(east: &Cluster, west: &Cluster) {
    create(east, "side", 300);
    create(west, "side", 200);
    create(west, "later", 100);
    let secret = format!("ssl.key.password = \"{FILE_SECRET}\"\n");
    let site =
        Site::new(&format!("{}{secret}{}", link("east", east, "side", ""), link("west", west, "side", "")));
    let running = site.start();
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "ACTIVE")]);
    site.poll_until_copied(east, "east", "side");
    site.poll_until_copied(west, "west", "side");
    let status = site.say("status --output json").expect_code(0).json();
    assert_eq!(
        (status["links"].as_array().map(Vec::len), &status["link_state"]),
        (Some(2), &"ACTIVE".into())
    );
    site.say("mirror pause side").expect_code(2);
    let dry = format!(
        "link create third --config-value bootstrap.servers={} --config-value topics=later",
        west.bootstrap()
    );
    let told = site.say(&format!("{dry} --dry-run --output json")).expect_code(0).json();
    assert_eq!((&told["effect"], &told["validate_only"]), (&"create".into(), &true.into()));
    let of = |subject: &str| {
        let lines = told["checks"].as_array().expect("what both clusters say");
        let line = lines.iter().find(|line| line["subject"] == subject);
        line.unwrap_or_else(|| panic!("no line about {subject}: {told}"))["text"].to_string()
    };
    assert!(of("capacity").contains("1 topics with 1 partitions have"), "{}", of("capacity"));
    assert!(of("time to catch up").contains("in a trial"), "{}", of("time to catch up"));
    assert!(of("memory").contains("memory.bytes"), "{}", of("memory"));
    assert_eq!(site.links().len(), 2, "nothing was created");
    let refused = site.say(&format!("{dry} --config-value sasl.password={SENT_SECRET}")).expect_code(1);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("reference instead") && !said.contains(SENT_SECRET), "{said}");
    site.say(&dry).expect_code(0);
    // Kept, and hardly begun.
    let killed = running.kill_hard();
    let running = site.start();
    site.poll_until_copied(west, "third", "later");
    let again = site.say(&format!("{dry} --output json")).expect_code(0).json();
    assert_eq!(again["effect"], "none");
    assert_eq!(site.config("third", "topics")["source"], "PERSISTED");
    let password = site.config("east", "ssl.key.password");
    assert_eq!((&password["value"], &password["source"]), (&"***".into(), &"FILE".into()));
    site.say("link delete east").expect_code(1);
    site.say("link delete third").expect_code(1);
    site.say("link delete third --force").expect_code(0);
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "ACTIVE")]);
    assert!(site.data().join("third/later-0").exists(), "its files stay");
    produce(east, "side", 50);
    site.poll_until_copied(east, "east", "side");
    let ended = end_well(running);
    site.assert_same(east, "east", "side");
    site.assert_same(west, "west", "side");
    let running = site.start();
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "ACTIVE")]);
    let last = end_well(running);
    for secret in [FILE_SECRET, SENT_SECRET] {
        site.assert_nowhere(secret);
        for finished in [&killed, &ended, &last] {
            assert!(!format!("{}{}", finished.stdout, finished.stderr).contains(secret));
        }
    }
}

fn a_link_is_altered_at_once_and_with_a_restart_of_its_data_threads(east: &Cluster, west: &Cluster) {
    create(east, "altered", 500);
    create(west, "beside", 100);
    let site =
        Site::new(&format!("{}{}", link("east", east, "altered", ""), link("west", west, "beside", "")));
    let running = site.start();
    site.poll_until_copied(east, "east", "altered");
    let dry =
        site.say("link update east link.bytes.per.second=1MiB --dry-run --output json").expect_code(0).json();
    assert_eq!((&dry["effect"], &dry["changes"][0]["new"]), (&"live".into(), &"1MiB".into()));
    assert_eq!(site.config("east", "link.bytes.per.second")["source"], "DEFAULT");
    let live = site.say("link update east link.bytes.per.second=1MiB --output json").expect_code(0).json();
    assert_eq!(live["effect"], "live");
    produce(east, "altered", 500);
    site.poll_until_copied(east, "east", "altered");
    let topic = Produce { value_bytes: 300, ..Produce::to("altered") };
    east.scenario().start_producing("steady", &topic, 500);
    let again =
        site.say("link update east replica.fetch.wait.max.ms=200 --output json").expect_code(0).json();
    assert_eq!(again["effect"], "restart");
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "ACTIVE")]);
    assert!(east.scenario().stop_producing("steady") > 0);
    site.poll_until_copied(east, "east", "altered");
    let nothing =
        site.say("link update east replica.fetch.wait.max.ms=200 --output json").expect_code(0).json();
    assert_eq!(nothing["effect"], "none");
    site.say("link update east destination.mode=guest").expect_code(1);
    site.say("link update east flush.ms=0").expect_code(1);
    site.say("link update nowhere flush.ms=5").expect_code(1);
    let back = site.say("link update east --unset link.bytes.per.second --output json").expect_code(0).json();
    assert_eq!(back["effect"], "live");
    assert_eq!(site.config("east", "link.bytes.per.second")["source"], "DEFAULT");
    let ended = end_well(running);
    site.assert_same(east, "east", "altered");
    let log = east.partition_directory(1, "altered", 0).join("00000000000000000000.log");
    let bytes = std::fs::metadata(log).expect("the broker's file").len();
    let reports = ended.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let report = reports.into_iter().find(|report| report["link"] == "east").expect("a report of each link");
    assert_eq!(report["partitions"][0]["bytes"], bytes, "nothing is fetched twice");
}

fn a_file_is_read_again_and_a_bad_one_changes_nothing(east: &Cluster, west: &Cluster) {
    create(east, "file-a", 100);
    create(east, "file-b", 100);
    create(west, "file-c", 100);
    let site = Site::new(&link("east", east, "file-a", ""));
    let mut running = site.start();
    site.poll_until_copied(east, "east", "file-a");
    site.write(&link("east", east, "file-[ab]", "flush.ms = 20"));
    hang_up(&running);
    site.poll_until_copied(east, "east", "file-b");
    assert_eq!(site.config("east", "flush.ms")["value"], "20");
    site.write(&link("east", east, "file-a", "flush.ms = 0"));
    hang_up(&running);
    running.poll_until_printed("the settings before it go on: flush.ms");
    assert_eq!(site.config("east", "flush.ms")["value"], "20");
    site.write(&format!("engine = \"epoll\"\n{}", link("east", east, "file-a", "")));
    hang_up(&running);
    running.poll_until_printed("engine cannot change without a restart of the daemon");
    produce(east, "file-b", 50);
    site.poll_until_copied(east, "east", "file-b");
    site.write(&format!("{}{}", link("east", east, "file-[ab]", ""), link("west", west, "file-c", "")));
    hang_up(&running);
    site.poll_until_copied(west, "west", "file-c");
    produce(east, "file-a", 50);
    site.poll_until_copied(east, "east", "file-a");
    running.expect_running();
    end_well(running);
    site.assert_same(east, "east", "file-a");
    site.assert_same(east, "east", "file-b");
    site.assert_same(west, "west", "file-c");
    site.write(&link("east", east, "(", "flush.ms = 0"));
    let check = Program::new(PROGRAM).arguments(["config", "check", "--config"]).argument(site.file()).run();
    let check = check.expect_code(2);
    assert!(
        check.stderr.contains("link east: topics") && check.stderr.contains("link east: flush.ms"),
        "{check:?}"
    );
}

fn a_dead_source_leaves_the_other_link_alone(east: &Cluster, west: &Cluster) {
    create(east, "alone", 100);
    create(west, "gone", 100);
    let site = Site::new(&format!("{}{}", link("east", east, "alone", ""), link("west", west, "gone", "")));
    let running = site.start();
    site.poll_until_copied(west, "west", "gone");
    site.poll_until_copied(east, "east", "alone");
    west.stop_broker(1);
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "UNAVAILABLE")]);
    produce(east, "alone", 100);
    site.poll_until_copied(east, "east", "alone");
    site.say("link update east flush.ms=20").expect_code(0);
    west.restart_broker(1);
    site.poll_until_links(&[("east", "ACTIVE"), ("west", "ACTIVE")]);
    produce(west, "gone", 100);
    site.poll_until_copied(west, "west", "gone");
    end_well(running);
    site.assert_same(west, "west", "gone");
    site.assert_same(east, "east", "alone");
}
