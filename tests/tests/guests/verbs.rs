//! Verbs between real clusters: mirror topics are created and deleted by command, brokers that were left out
//! come back, and a failover tells what it lost and cuts what it was told to cut.

use crate::PROGRAM;
use serde_json::Value;
use std::path::PathBuf;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::batches::{CopyBound, assert_identical};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
/// Mirrored because the link's pattern says so.
const BASE: [&str; 8] = [
    "base-goes",
    "base-MARKED",
    "base-DELETING",
    "base-REMOVING",
    "base-left",
    "base-open",
    "base-torn",
    "base-lost",
];
/// Each is deleted once, with a kill when the named step has been kept.
const KILLED_AT: [&str; 3] = ["MARKED", "DELETING", "REMOVING"];

#[test]
fn mirror_topics_come_and_go_by_command() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    for topic in BASE.into_iter().chain(["extra", "taken"]) {
        source.scenario().create_topic(topic, 2, 1, &[]);
        source.scenario().produce_mixed(&Produce::to(topic));
    }
    destination.scenario().create_topic("taken", 1, 3, &[]);
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["base-.*"], &[]);
    let daemon = mirror.start();
    for topic in BASE {
        mirror.poll_until_followed(&source, &destination, topic, &ALL);
        poll_until_state(&mirror, topic, "ACTIVE");
    }
    let daemon = creates(&source, &destination, &mirror, daemon);
    refuses_to_orphan_and_looks_only(&mirror);
    let (daemon, deleted) = deletes_and_does_not_bring_back(&source, &destination, &mirror, daemon);
    let daemon = creates_again(&source, &destination, &mirror, daemon, &deleted);
    let daemon = gives_a_broker_back(&source, &destination, &mirror, daemon);
    forgets_what_was_handed_over(&destination, &mirror);
    let daemon = fails_over(&source, &destination, &mirror, daemon);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

/// What `mirror describe` tells; null while there is nothing to tell.
fn describe(mirror: &GuestMirror, topic: &str) -> Value {
    let told = mirror.command(&["mirror", "describe", topic, "--output", "json"]);
    if told.code() == Some(0) { told.json()["data"][0].take() } else { Value::Null }
}

fn poll_until_state(mirror: &GuestMirror, topic: &str, state: &str) {
    let mut last = Value::Null;
    let came = poll::poll_within(poll::HANG_LIMIT, || {
        last = describe(mirror, topic);
        (last["state"] == state).then_some(())
    });
    assert!(came.is_some(), "{topic} is not {state}: {last}");
}

/// The only answer of an order about one topic.
fn order(mirror: &GuestMirror, words: &[&str], code: i32) -> Value {
    let words: Vec<&str> = ["mirror"].iter().chain(words).chain(&["--output", "json"]).copied().collect();
    mirror.command(&words).expect_code(code).json()["data"][0].take()
}

fn stored(mirror: &GuestMirror, topic: &str) -> PathBuf {
    mirror.data_directory().join("dr").join(format!("{topic}-0"))
}

fn is_at_destination(destination: &Cluster, topic: &str) -> bool {
    ALL.iter().any(|broker| destination.partition_directory(*broker, topic, 0).exists())
}

fn creates(source: &Cluster, destination: &Cluster, mirror: &GuestMirror, daemon: Running) -> Running {
    println!("creates by command");
    let dry = order(mirror, &["create", "extra", "--dry-run"], 0);
    assert_eq!(dry["note"], "2 partitions would be mirrored from now on");
    assert_eq!(order(mirror, &["create", "absent"], 1)["error_code"], "NO_SUCH_SOURCE_TOPIC");
    assert_eq!(order(mirror, &["create", "taken"], 1)["error_code"], "EXISTS_AT_DESTINATION");
    let known = order(mirror, &["create", "base-goes"], 0);
    assert!(known["note"].as_str().is_some_and(|note| note.contains("already")), "{known}");
    assert!(describe(mirror, "extra").is_null() && !stored(mirror, "extra").exists(), "a dry run did it");
    order(mirror, &["create", "extra", "--link", "dr"], 0);
    mirror.poll_until_followed(source, destination, "extra", &ALL);
    poll_until_state(mirror, "extra", "ACTIVE");
    let again = order(mirror, &["create", "extra"], 0);
    assert!(again["note"].as_str().is_some_and(|note| note.contains("already")), "{again}");
    daemon.kill_hard();
    source.scenario().produce_mixed(&Produce { seed: 5, ..Produce::to("extra") });
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "extra", &ALL);
    mirror.assert_same_on(source, destination, "extra", &ALL);
    daemon
}

fn refuses_to_orphan_and_looks_only(mirror: &GuestMirror) {
    println!("refuses to delete what it leads, and looks only when told so");
    for topic in ["extra", "base-goes"] {
        poll_until_state(mirror, topic, "ACTIVE");
    }
    let led = order(mirror, &["delete", "extra"], 1);
    assert_eq!(led["error_code"], "LED_BY_US");
    assert!(led["error_message"].as_str().is_some_and(|why| why.contains("--delete-data")), "{led}");
    assert_eq!(order(mirror, &["delete", "absent"], 1)["error_code"], "NO_SUCH_MIRROR_TOPIC");
    order(mirror, &["delete", "base-goes", "--delete-data", "--dry-run"], 0);
    for topic in ["extra", "base-goes"] {
        let view = describe(mirror, topic);
        assert!(view["state"] == "ACTIVE" && view["deletion"].is_null(), "{view}");
    }
}

fn deletes_and_does_not_bring_back(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    mut daemon: Running,
) -> (Running, Vec<String>) {
    println!("deletes");
    order(mirror, &["delete", "base-goes", "--delete-data"], 0);
    assert!(describe(mirror, "base-goes").is_null() && !stored(mirror, "base-goes").exists());
    let mut deleted = vec!["base-goes".to_owned()];
    for step in KILLED_AT {
        println!("is killed at {step}");
        let topic = format!("base-{step}");
        poll_until_state(mirror, &topic, "ACTIVE");
        order(mirror, &["delete", &topic, "--delete-data", "--no-wait"], 0);
        daemon.poll_until_printed(&format!("deletion of {topic}: {step}"));
        daemon.kill_hard();
        daemon = mirror.start();
        poll::poll_until("the deletion goes on after a restart", || {
            let listed = mirror.command(&["mirror", "list", "--output", "json"]);
            let is_up = listed.code() == Some(0);
            is_up && !listed.stdout.contains(&topic) && !stored(mirror, &topic).exists()
        });
        deleted.push(topic);
    }
    for topic in &deleted {
        poll::poll_until("its brokers have let go of it", || !is_at_destination(destination, topic));
    }
    // A topic that the same pattern finds afterwards shows that it was asked.
    source.scenario().create_topic("base-new", 1, 1, &[]);
    poll_until_state(mirror, "base-new", "ACTIVE");
    for topic in &deleted {
        assert!(describe(mirror, topic).is_null() && !stored(mirror, topic).exists(), "{topic} came back");
        assert!(!is_at_destination(destination, topic), "{topic} came back");
    }
    (daemon, deleted)
}

fn creates_again(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    daemon: Running,
    deleted: &[String],
) -> Running {
    println!("creates again what was deleted");
    for topic in deleted {
        order(mirror, &["create", topic], 0);
        mirror.poll_until_followed(source, destination, topic, &ALL);
    }
    daemon.kill_hard();
    source.scenario().produce_mixed(&Produce { seed: 6, ..Produce::to("base-goes") });
    let daemon = mirror.start();
    for topic in deleted {
        mirror.poll_until_followed(source, destination, topic, &ALL);
        mirror.assert_same_on(source, destination, topic, &ALL);
        assert!(stored(mirror, topic).exists());
    }
    daemon
}

fn partitions_here(mirror: &GuestMirror) -> i64 {
    let status = mirror.command(&["status", "--output", "json"]).expect_code(0).json();
    status["totals"]["partitions"].as_i64().expect("a number")
}

fn gives_a_broker_back(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    daemon: Running,
) -> Running {
    println!("gives a broker back that was left out");
    poll_until_state(mirror, "base-left", "ACTIVE");
    mirror.poll_until_followed(source, destination, "base-left", &ALL);
    destination.scenario().create_topic("placed", 12, 3, &[]);
    destination.kill_broker(3);
    poll::poll_until("the controller knows that broker 3 is dead", || {
        let partitions = destination.scenario().describe_topic("placed");
        partitions.iter().all(|partition| !partition.in_sync.contains(&3))
    });
    let before = partitions_here(mirror);
    let promoted = order(mirror, &["promote", "base-left"], 0);
    assert_eq!(promoted["left_out_broker_ids"], serde_json::json!([3]), "{promoted}");
    poll::poll_until("its shard has let go of it", || partitions_here(mirror) == before - 2);
    assert!(stored(mirror, "base-left").exists(), "what we hold stays for a way back");
    let repairs = describe(mirror, "base-left")["replica_repairs"].take();
    assert_eq!(repairs.as_array().map(Vec::len), Some(2), "{repairs}");
    daemon.kill_hard();
    destination.restart_broker(3);
    let daemon = mirror.start();
    let in_sync = |topic: &str| {
        destination.scenario().describe_topic(topic).iter().all(|partition| {
            let mut in_sync = partition.in_sync.clone();
            in_sync.sort_unstable();
            in_sync == [1, 2, 3]
        })
    };
    poll::poll_until("broker 3 is in sync again", || in_sync("base-left"));
    poll::poll_until("nothing is left to be given back", || {
        describe(mirror, "base-left")["replica_repairs"].as_array().is_some_and(Vec::is_empty)
    });
    mirror.poll_until_followed(source, destination, "base-left", &ALL);
    mirror.assert_same_on(source, destination, "base-left", &ALL);
    daemon
}

fn is_stock(destination: &Cluster, topic: &str) -> bool {
    let partitions = destination.scenario().describe_topic(topic);
    partitions.iter().all(|each| (1..GUEST).contains(&each.leader))
}

fn forgets_what_was_handed_over(destination: &Cluster, mirror: &GuestMirror) {
    println!("forgets what was handed over");
    order(mirror, &["delete", "base-left"], 0);
    assert!(describe(mirror, "base-left").is_null() && stored(mirror, "base-left").exists());
    let back = order(mirror, &["create", "base-left"], 1);
    assert_eq!(back["error_code"], "EXISTS_AT_DESTINATION");
    poll_until_state(mirror, "base-new", "ACTIVE");
    order(mirror, &["promote", "base-new"], 0);
    order(mirror, &["delete", "base-new", "--delete-data"], 0);
    assert!(!stored(mirror, "base-new").exists());
    for topic in ["base-left", "base-new"] {
        assert!(is_stock(destination, topic), "{topic} is the destination's own");
    }
}

fn signal(daemon: &Running, signal: &str) {
    let sent = std::process::Command::new("kill").args([signal, &daemon.process_id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

/// How far readers who want only what is stable could read, before and after transactions were left open.
struct Open {
    stable: Vec<i64>,
    copied: Vec<i64>,
}

/// Leaves a transaction open inside what is copied: its end lies behind the beginning of another one.
fn open_inside(source: &Cluster, topic: &str) -> Open {
    let from = source.scenario();
    let stable = from.end_offsets(topic, Isolation::ReadCommitted);
    let five = Produce { partition: Some(0), count: 5, ..Produce::to(topic) };
    let (first, second) = (format!("{topic}-first"), format!("{topic}-second"));
    from.open_transaction(&first, &five);
    from.open_transaction(&second, &five);
    from.finish_transaction(&first, true);
    // The coordinator answers before its marker is in the log.
    let copied = poll::poll_for("the first transaction has its end", || {
        let ends = from.end_offsets(topic, Isolation::ReadCommitted);
        (ends[0] > stable[0]).then_some(ends)
    });
    Open { stable, copied }
}

fn fails_over(source: &Cluster, destination: &Cluster, mirror: &GuestMirror, mut daemon: Running) -> Running {
    println!("fails over and tells what is lost");
    let from = source.scenario();
    let [open, torn] = ["base-open", "base-torn"].map(|topic| open_inside(source, topic));
    for topic in ["base-open", "base-torn", "base-lost"] {
        mirror.poll_until_followed(source, destination, topic, &ALL);
        poll_until_state(mirror, topic, "ACTIVE");
    }
    signal(&daemon, "-STOP");
    from.produce_mixed(&Produce { seed: 7, ..Produce::to("base-lost") });
    let had = from.end_offsets("base-lost", Isolation::ReadUncommitted);
    source.kill_broker(1);
    signal(&daemon, "-CONT");
    let dry = order(mirror, &["failover", "base-open", "--open-transactions", "truncate", "--dry-run"], 0);
    assert!(dry["losses"].as_array().is_some_and(|losses| losses.len() == 2), "{dry}");
    poll_until_state(mirror, "base-open", "ACTIVE");
    tells_what_is_lost(destination, mirror, &had);

    println!("cuts what is open");
    let cut = order(mirror, &["failover", "base-open", "--open-transactions", "truncate"], 0);
    assert!(cut["cuts"][0]["bytes"].as_i64().is_some_and(|bytes| bytes > 0), "{cut}");
    assert_is_cut(source, destination, "base-open", &open, &cut["cuts"]);
    let exported =
        std::fs::read_dir(mirror.data_directory().join(".twinlog/cuts/dr")).expect("there are cuts");
    assert!(exported.count() > 0, "what was cut is kept");

    println!("is killed while it cuts");
    let words = ["failover", "base-torn", "--open-transactions", "truncate", "--no-wait"];
    order(mirror, &words, 0);
    daemon.poll_until_printed("before what is open or unknown");
    daemon.kill_hard();
    let daemon = mirror.start();
    poll_until_state(mirror, "base-torn", "STOPPED");
    let view = describe(mirror, "base-torn");
    assert_is_cut(source, destination, "base-torn", &torn, &view["hand_over"]["cuts"]);
    let losses = view["hand_over"]["losses"].as_array().expect("of each partition");
    assert!(losses.iter().all(|each| each["source_heard_age_ms"].as_i64() > Some(0)), "{losses:?}");
    daemon
}

fn tells_what_is_lost(destination: &Cluster, mirror: &GuestMirror, had: &[i64]) {
    let lost = order(mirror, &["failover", "base-lost"], 0);
    let has = destination.scenario().end_offsets("base-lost", Isolation::ReadUncommitted);
    assert!(had.iter().sum::<i64>() > has.iter().sum(), "nothing was lost: {had:?}, {has:?}");
    for (partition, (had, has)) in had.iter().zip(&has).enumerate() {
        let told = &lost["losses"][partition];
        let at_least = told["lost_at_least_records"].as_i64().expect("the source was heard of it");
        assert!((0..=had - has).contains(&at_least), "{told}: {had} and {has}");
        assert!(told["source_heard_age_ms"].as_i64().is_some_and(|age| age > 0), "{told}");
    }
    let told = mirror.command(&["mirror", "describe", "base-lost"]).expect_code(0);
    assert!(told.stdout.contains("at least"), "{}", told.stdout);
}

/// The topic ends where its first open transaction began, for every kind of reader and on every broker, and goes
/// on right there.
fn assert_is_cut(source: &Cluster, destination: &Cluster, topic: &str, open: &Open, cuts: &Value) {
    let to = destination.scenario();
    assert_eq!(cuts[0]["from"], open.stable[0], "{cuts}");
    assert_eq!(cuts[0]["to"], open.copied[0], "{cuts}");
    assert!(is_stock(destination, topic));
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        assert_eq!(to.end_offsets(topic, isolation), open.stable, "{topic} {isolation:?}");
    }
    for (partition, end) in (0..).zip(&open.stable) {
        for broker in ALL {
            let original = source.partition_directory(1, topic, partition);
            let copy = destination.partition_directory(broker, topic, partition);
            assert_identical(&original, &copy, 0, CopyBound::Exactly(*end));
        }
    }
    let next = Produce { partition: Some(0), count: 10, seed: 9, ..Produce::to(topic) };
    let written = i64::try_from(to.produce_mixed(&next)).expect("few");
    let after = to.end_offsets(topic, Isolation::ReadCommitted);
    assert_eq!(after[0], open.stable[0] + written, "the next record is where the cut was");
}
