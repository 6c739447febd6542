//! A cut-over with a store: promoted topics become files that a stock broker adopts while the daemon goes on with the
//! others, whatever is killed on the way; and a failover takes what is there when the source is gone.

use serde_json::Value;
use std::fs;
use std::path::Path;
use twinlog_tests::cli::{Finished, Program, Running};
use twinlog_tests::kafka::batches::{CopyBound, assert_identical};
use twinlog_tests::kafka::groups::{GroupClient, Positions};
use twinlog_tests::kafka::scenario::{Produce, Transactions};
use twinlog_tests::kafka::zoo::{self, SMALL_SEGMENTS};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// Promoted together, with the partitions of each.
const PROMOTED: [(&str, i32); 5] =
    [("plain", 2), ("ledgered", 1), ("compacted", 1), ("trimmed", 1), ("empty", 2)];
/// Each is promoted once, with a kill when the named step has been kept.
const KILLED_AT: [&str; 4] = ["CAPTURED", "FROZEN", "ENDS_PROVEN", "GROUPS_COMMITTED"];
/// Failed over; the last one after a restart without the source.
const OPEN: [&str; 2] = ["open-abort", "open-truncate"];
const ALONE: &str = "alone";
/// Goes on while the others are promoted.
const BESIDE: &str = "beside";
const ABORT_TOOL: &str = "org.apache.kafka.tools.TransactionsCommand";
const OFFSETS_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

struct Site {
    source: Cluster,
    /// Adopts what is promoted.
    destination: Cluster,
    mirror: Mirror,
}

#[test]
fn a_store_is_cut_over_and_failed_over() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::default());
    fill(&source);
    let topics =
        ["plain", "ledgered", "compacted", "trimmed", "empty", "busy", "killed-.*", "open-.*", ALONE, BESIDE];
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &topics);
    let site = Site { source, destination, mirror };
    let daemon = site.mirror.tailing().spawn();
    let all = PROMOTED.iter().map(|(topic, _)| *topic).chain(["busy", ALONE, BESIDE]);
    all.for_each(|topic| site.poll_until_copied(topic));
    site.refuses_a_source_that_moves_and_goes_on();
    let groups = site.promotes_and_tells_what_is_ready();
    site.stock_broker_adopts_while_the_daemon_runs(&groups);
    let daemon = site.is_killed_between_any_two_steps(daemon);
    let daemon = site.never_fetches_again_what_was_promoted(daemon);
    site.forgets_what_was_promoted();
    site.fails_over_without_the_source(daemon);
}

fn fill(source: &Cluster) {
    let scenario = source.scenario();
    scenario.create_topic("plain", 2, 1, &[SMALL_SEGMENTS]);
    scenario.produce_mixed(&Produce { count: 3_000, value_bytes: 900, ..Produce::to("plain") });
    scenario.create_topic("ledgered", 1, 1, &[]);
    let transactions = Transactions { producers: 3, abort_percent: 30 };
    let ended =
        scenario.produce_transactions(&Produce { count: 40, ..Produce::to("ledgered") }, transactions);
    assert!(ended.aborts > 0 && ended.commits > 0, "{ended:?}");
    zoo::fill_compacted(source);
    scenario.create_topic("empty", 2, 1, &[]);
    scenario.create_topic("trimmed", 1, 1, &[]);
    scenario.produce_mixed(&Produce { count: 500, ..Produce::to("trimmed") });
    assert_eq!(scenario.delete_records("trimmed", 0, 3), 3);
    let killed: Vec<String> = KILLED_AT.iter().map(|step| format!("killed-{step}")).collect();
    let rest = killed.iter().map(String::as_str).chain(OPEN).chain(["busy", ALONE, BESIDE]);
    for topic in rest {
        scenario.create_topic(topic, 1, 1, &[]);
        scenario.produce_mixed(&Produce::to(topic));
    }
}

fn sorted_files(directory: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable"));
    let mut files: Vec<(String, u64)> = entries
        .map(|entry| {
            let length = entry.metadata().expect("readable").len();
            (entry.file_name().into_string().expect("plain names"), length)
        })
        .collect();
    files.sort();
    files
}

impl Site {
    fn say(&self, words: &str) -> Finished {
        let program = Program::new(PROGRAM).arguments(words.split_whitespace());
        program.argument("--data-dir").argument(self.mirror.data_directory()).run()
    }

    /// What the daemon tells of a topic; null while it does not know it or does not answer.
    fn topic(&self, name: &str) -> Value {
        let told = self.say(&format!("mirror describe {name} --output json"));
        if told.code() == Some(0) { told.json()["data"][0].take() } else { Value::Null }
    }

    fn poll_until_state(&self, name: &str, state: &str) {
        let mut last = Value::Null;
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.topic(name);
            (last["state"] == state).then_some(())
        });
        assert!(came.is_some(), "{name} is not {state}: {last}");
    }

    fn ends(&self, topic: &str, isolation: Isolation) -> Vec<i64> {
        self.source.scenario().end_offsets(topic, isolation)
    }

    fn poll_until_copied(&self, name: &str) {
        let ends = self.ends(name, Isolation::ReadCommitted);
        poll::poll_until(&format!("{name} is copied"), || {
            let told = self.topic(name);
            let at = |index: usize| told["partitions"][index]["log_end"].as_i64();
            told["state"] == "ACTIVE" && ends.iter().enumerate().all(|(index, end)| at(index) == Some(*end))
        });
    }

    fn refuses_a_source_that_moves_and_goes_on(&self) {
        println!("refuses a source that moves");
        let scenario = self.source.scenario();
        scenario.start_producing("steady", &Produce::to("busy"), 500);
        let refused = self.say("mirror promote busy --output json").expect_code(1).json();
        let why = refused["data"][0]["error_message"].as_str().unwrap_or_default();
        assert!(why.contains("grew by") && why.contains("records"), "{refused}");
        assert_eq!(refused["data"][0]["error_code"], "HAND_OVER_ABANDONED");
        self.poll_until_state("busy", "ACTIVE");
        let before = self.topic("busy")["partitions"][0]["log_end"].as_i64();
        poll::poll_until("the mirror goes on", || {
            self.topic("busy")["partitions"][0]["log_end"].as_i64() > before
        });
        let allowed = self.say("mirror promote busy --allow-moving-source --output json").expect_code(0);
        let allowed = allowed.json();
        assert!(allowed["data"][0]["stored"]["partitions"][0]["log_end"].as_i64() >= before, "{allowed}");
        scenario.stop_producing("steady");
        self.poll_until_state("busy", "STOPPED");
    }

    /// The positions of consumer groups that are to be found where the files are adopted.
    fn promotes_and_tells_what_is_ready(&self) -> Positions {
        println!("promotes");
        let mut there = GroupClient::of(&self.source, &[1]);
        let plain = self.ends("plain", Isolation::ReadUncommitted);
        there.commit("app", "plain", &[(0, 7), (1, plain[1])]).expect("committed");
        there.commit("app", "ledgered", &[(0, 11)]).expect("committed");
        // Ahead of all there is: its reader asks again there.
        there.commit("dreamer", "trimmed", &[(0, 9_999)]).expect("committed");
        let names = PROMOTED.map(|(topic, _)| topic).join(" ");
        let dry = self.say(&format!("mirror promote {names} --dry-run --output json")).expect_code(0).json();
        let note = dry["data"][0]["note"].as_str().unwrap_or_default();
        assert!(note.contains("ready to be adopted"), "{dry}");
        assert_eq!(self.topic("plain")["state"], "ACTIVE");
        let told = self.say(&format!("mirror promote {names}")).expect_code(0).stdout;
        assert!(told.contains("plain: ready to adopt: ") && told.contains(", 2 partitions"), "{told}");
        assert!(told.contains("group dreamer is left at offset 500 of 9999, clamped by 9499"), "{told}");
        for (topic, partitions) in PROMOTED {
            let view = self.topic(topic);
            assert_eq!(
                (view["state"].as_str(), view["hand_over"]["step"].as_str()),
                (Some("STOPPED"), Some("DONE"))
            );
            let stored = &view["hand_over"]["stored"];
            let ends = self.ends(topic, Isolation::ReadUncommitted);
            assert!(stored["proven_ms"].as_i64() >= stored["captured_ms"].as_i64(), "{view}");
            assert_eq!(stored["partitions"].as_array().map(Vec::len), usize::try_from(partitions).ok());
            for (index, end) in ends.iter().enumerate() {
                let each = &stored["partitions"][index];
                for name in ["captured_end", "flushed_end", "log_end", "last_stable_offset"] {
                    assert_eq!(each[name].as_i64(), Some(*end), "{name} of {topic}-{index}: {view}");
                }
            }
        }
        let mut positions = Positions::new();
        for (topic, index, offset) in
            [("plain", 0, 7), ("plain", 1, plain[1]), ("ledgered", 0, 11), ("trimmed", 0, 500)]
        {
            positions.insert((topic.to_owned(), index), offset);
        }
        positions
    }

    /// Copies a topic's files as they are, but for the source's topic id; or of them those that are wanted.
    fn place(&self, topic: &str, partitions: i32, wanted: fn(&str) -> bool) {
        for index in 0..partitions {
            let to = self.destination.partition_directory(1, topic, index);
            fs::create_dir(&to).expect("nobody has it yet");
            let from = self.mirror.partition_directory(topic, index);
            for (name, _) in sorted_files(&from).iter().filter(|(name, _)| wanted(name)) {
                fs::copy(from.join(name), to.join(name)).expect("copied");
            }
        }
    }

    /// A stock broker takes the placed files for a new topic's.
    fn adopt(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.place(topic, partitions, |name| name != "partition.metadata");
        self.create(topic, partitions, configs);
    }

    fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let assignment: Vec<&[i32]> = (0..partitions).map(|_| [1].as_slice()).collect();
        self.destination.scenario().create_topic_on(topic, &assignment, configs);
    }

    fn stock_broker_adopts_while_the_daemon_runs(&self, groups: &Positions) {
        println!("a stock broker adopts");
        let here = self.destination.scenario();
        for (topic, partitions) in PROMOTED {
            let compacted = [("cleanup.policy", "compact")];
            let configs: &[(&str, &str)] = if topic == "compacted" { &compacted } else { &[] };
            self.adopt(topic, partitions, configs);
            for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
                assert_eq!(here.end_offsets(topic, isolation), self.ends(topic, isolation), "{topic}");
            }
            let starts = self.source.scenario().start_offsets(topic);
            for (index, (start, end)) in
                (0..).zip(starts.iter().zip(self.ends(topic, Isolation::ReadUncommitted)))
            {
                let source = self.source.partition_directory(1, topic, index);
                let adopted = self.destination.partition_directory(1, topic, index);
                assert_identical(&source, &adopted, *start, CopyBound::Exactly(end));
            }
        }
        let start = self.topic("trimmed")["hand_over"]["stored"]["partitions"][0]["log_start"].as_i64();
        assert_eq!(start, Some(3));
        assert_eq!(here.delete_records("trimmed", 0, 3), 3, "the log's start is set after adoption");
        let file = self.mirror.data_directory().join("exported.csv");
        self.say(&format!("offsets export --file {}", file.display())).expect_code(0);
        let written = self.mirror.data_directory().join(".twinlog/default/offsets.csv");
        let of_promoted = |text: String| -> Vec<String> {
            let is_ours =
                |line: &&str| PROMOTED.iter().any(|(topic, _)| line.contains(&format!(",{topic},")));
            let mut lines: Vec<String> = text.lines().filter(is_ours).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let lines = of_promoted(fs::read_to_string(&file).expect("exported"));
        assert_eq!(lines, of_promoted(fs::read_to_string(&written).expect("written at the promote")));
        fs::write(&file, lines.join("\n") + "\n").expect("written");
        let (bootstrap, path) = (self.destination.bootstrap(), file.display().to_string());
        let groups_named = ["--group", "app", "--group", "dreamer"];
        let words = ["--bootstrap-server", &bootstrap, "--reset-offsets", "--from-file", &path, "--execute"];
        let output = self.destination.tool(OFFSETS_TOOL, &[&words[..], &groups_named].concat());
        assert!(output.status.success(), "{output:?}");
        let mut client = GroupClient::of(&self.destination, &[1]);
        let mut held = client.positions("app");
        held.extend(client.positions("dreamer"));
        assert_eq!(held, *groups);
        let end = here.end_offsets("plain", Isolation::ReadUncommitted);
        // Without an id of its own: one that the source's producers had would be taken for theirs.
        let plain = Produce { idempotent: false, seed: 9, ..Produce::to("plain") };
        here.produce_mixed(&plain);
        let sum = |ends: Vec<i64>| ends.iter().sum::<i64>();
        assert_eq!(sum(here.end_offsets("plain", Isolation::ReadUncommitted)), sum(end) + 100);
    }

    fn is_killed_between_any_two_steps(&self, mut daemon: Running) -> Running {
        for step in KILLED_AT {
            println!("is killed at {step}");
            let topic = format!("killed-{step}");
            self.poll_until_copied(&topic);
            self.say(&format!("mirror promote {topic} --no-wait")).expect_code(0);
            daemon.poll_until_printed(&format!("promote of {topic}: {step}"));
            daemon.kill_hard();
            daemon = self.mirror.tailing().spawn();
            self.poll_until_state(&topic, "STOPPED");
            let end = self.ends(&topic, Isolation::ReadUncommitted)[0];
            let told = self.topic(&topic);
            assert_eq!(told["hand_over"]["stored"]["partitions"][0]["log_end"].as_i64(), Some(end), "{told}");
            self.mirror.assert_same(&self.source, 1, &topic, Isolation::ReadUncommitted);
        }
        self.adopt("killed-GROUPS_COMMITTED", 1, &[]);
        let ends =
            self.destination.scenario().end_offsets("killed-GROUPS_COMMITTED", Isolation::ReadCommitted);
        assert_eq!(ends, self.ends("killed-GROUPS_COMMITTED", Isolation::ReadUncommitted));
        daemon
    }

    fn never_fetches_again_what_was_promoted(&self, daemon: Running) -> Running {
        println!("never fetches again");
        let files = || -> Vec<_> {
            (0..2).map(|index| sorted_files(&self.mirror.partition_directory("plain", index))).collect()
        };
        let before = files();
        let scenario = self.source.scenario();
        scenario.produce_mixed(&Produce { seed: 3, ..Produce::to("plain") });
        scenario.produce_mixed(&Produce { seed: 3, ..Produce::to(BESIDE) });
        self.poll_until_copied(BESIDE);
        daemon.terminate();
        daemon.wait().expect_code(0);
        self.mirror.verify(false).expect_code(0);
        let daemon = self.mirror.tailing().spawn();
        scenario.add_partitions("plain", 3);
        scenario.produce_mixed(&Produce { seed: 4, ..Produce::to(BESIDE) });
        self.poll_until_copied(BESIDE);
        assert_eq!(files(), before);
        assert!(!self.mirror.partition_directory("plain", 2).exists());
        assert_eq!(self.topic("plain")["state"], "STOPPED");
        daemon
    }

    fn forgets_what_was_promoted(&self) {
        println!("forgets what was promoted");
        for verb in ["pause", "resume", "promote", "failover", "create"] {
            let refused = self.say(&format!("mirror {verb} plain --output json")).expect_code(1).json();
            assert_eq!(refused["data"][0]["error_code"], "STOPPED", "{verb}: {refused}");
        }
        self.say("mirror delete plain").expect_code(0);
        self.say("mirror delete ledgered --delete-data").expect_code(0);
        assert!(self.topic("plain").is_null() && self.mirror.partition_directory("plain", 0).exists());
        assert!(!self.mirror.partition_directory("ledgered", 0).exists());
    }

    /// Leaves a transaction open inside what is copied: its end lies behind the beginning of another one. Returns
    /// where it begins.
    fn open_inside(&self, topic: &str) -> i64 {
        let scenario = self.source.scenario();
        let begins = self.ends(topic, Isolation::ReadCommitted)[0];
        let five = Produce { partition: Some(0), count: 5, ..Produce::to(topic) };
        let (first, second) = (format!("{topic}-first"), format!("{topic}-second"));
        scenario.open_transaction(&first, &five);
        scenario.open_transaction(&second, &five);
        scenario.finish_transaction(&first, true);
        poll::poll_until("the first transaction has its end", || {
            self.ends(topic, Isolation::ReadCommitted)[0] > begins
        });
        begins
    }

    fn fails_over_without_the_source(&self, daemon: Running) {
        println!("fails over");
        let begins = OPEN.map(|topic| self.open_inside(topic));
        OPEN.iter().for_each(|topic| self.poll_until_copied(topic));
        let open = self.say("mirror promote open-abort --output json").expect_code(1).json();
        assert!(
            open["data"][0]["error_message"].as_str().unwrap_or_default().contains("open transactions"),
            "{open}"
        );
        self.poll_until_state("open-abort", "ACTIVE");
        self.source.kill_broker(1);
        let dry = self.say("mirror failover open-abort --dry-run --output json").expect_code(0).json();
        assert!(dry["data"][0]["losses"].as_array().is_some_and(|losses| losses.len() == 1), "{dry}");
        self.leaves_open_what_is_open(begins[0]);
        let cut = self.say("mirror failover open-truncate --open-transactions truncate --output json");
        let cut = cut.expect_code(0).json();
        let stored = &cut["data"][0]["stored"]["partitions"][0];
        assert_eq!(stored["log_end"].as_i64(), Some(begins[1]), "{cut}");
        assert!(cut["data"][0]["cuts"][0]["bytes"].as_i64().is_some_and(|bytes| bytes > 0), "{cut}");
        self.adopt("open-truncate", 1, &[]);
        let ends = self.destination.scenario().end_offsets("open-truncate", Isolation::ReadCommitted);
        assert_eq!(ends, [begins[1]]);
        println!("is failed over after a restart without the source");
        daemon.kill_hard();
        let daemon = self.mirror.tailing().spawn();
        poll::poll_until("the daemon knows its mirror topics", || self.topic(ALONE)["state"].is_string());
        let alone = self.say(&format!("mirror failover {ALONE} --output json")).expect_code(0).json();
        assert_eq!(alone["data"][0]["stored"]["partitions"][0]["log_end"].as_i64(), Some(100), "{alone}");
        self.adopt(ALONE, 1, &[]);
        assert_eq!(self.destination.scenario().end_offsets(ALONE, Isolation::ReadCommitted), [100]);
        daemon.terminate();
        daemon.wait().expect_code(0);
        self.mirror.verify(false).expect_code(0);
    }

    fn leaves_open_what_is_open(&self, begins: i64) {
        let told = self.say("mirror failover open-abort").expect_code(0).stdout;
        assert!(told.contains("kafka-transactions.sh abort"), "{told}");
        let view = self.topic("open-abort");
        let stored = &view["hand_over"]["stored"]["partitions"][0];
        assert_eq!(stored["open_transactions"][0]["first_offset"].as_i64(), Some(begins), "{view}");
        assert_eq!(stored["last_stable_offset"].as_i64(), Some(begins), "{view}");
        // A broker that finds indexes does not read the log, and so does not know what is open in it.
        self.place("open-abort", 1, |name| name.ends_with(".log"));
        self.create("open-abort", 1, &[]);
        let here = self.destination.scenario();
        assert_eq!(here.end_offsets("open-abort", Isolation::ReadCommitted), [begins]);
        let (bootstrap, offset) = (self.destination.bootstrap(), begins.to_string());
        let words = ["--bootstrap-server", &bootstrap, "abort", "--topic", "open-abort", "--partition", "0"];
        let output = self.destination.tool(ABORT_TOOL, &[&words[..], &["--start-offset", &offset]].concat());
        assert!(output.status.success(), "{output:?}");
        let end = stored["log_end"].as_i64().expect("an offset") + 1;
        assert_eq!(here.end_offsets("open-abort", Isolation::ReadCommitted), [end]);
    }
}
