//! An operator's day with a store: mirror topics and the link are paused, resumed, released, created and deleted
//! while the daemon runs, and everything that was said survives a kill.

use serde_json::Value;
use twinlog_tests::cli::{Finished, Program};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// What the source may be silent for before its topics are shown as unavailable.
const SHORT_RETRY: &str = "cluster.link.retry.timeout.ms = 1000";

#[test]
fn an_operators_day_with_a_store() {
    let cluster = Cluster::start(ClusterOptions::default());
    a_paused_topic_stands_still_over_a_kill_and_goes_on_where_it_stood(&cluster);
    a_paused_link_fetches_nothing_not_even_what_is_new(&cluster);
    a_stopped_partition_is_released_while_the_daemon_runs(&cluster);
    mirror_topics_are_created_and_deleted_by_command(&cluster);
    a_silent_source_is_shown_and_its_return_too(&cluster);
}

/// One command to the daemon of a mirror.
fn say(mirror: &Mirror, words: &str) -> Finished {
    let program = Program::new(PROGRAM).arguments(words.split_whitespace());
    program.argument("--data-dir").argument(mirror.data_directory()).run()
}

/// What the daemon tells of a topic; `None` while it does not know it or does not answer.
fn topic(mirror: &Mirror, name: &str) -> Option<Value> {
    let told = say(mirror, &format!("mirror describe {name} --output json"));
    told.status.success().then(|| told.json()["data"][0].clone())
}

fn poll_until_state(mirror: &Mirror, name: &str, state: &str) {
    poll::poll_until(&format!("{name} is {state}"), || {
        topic(mirror, name).is_some_and(|topic| topic["state"] == state)
    });
}

fn log_end(mirror: &Mirror, name: &str) -> i64 {
    let end = || topic(mirror, name)?["partitions"][0]["log_end"].as_i64();
    poll::poll_until(&format!("{name} is in its shard"), || end().is_some());
    end().expect("it was there a moment ago")
}

fn end(cluster: &Cluster, name: &str) -> i64 {
    cluster.scenario().end_offsets(name, Isolation::ReadUncommitted)[0]
}

fn poll_until_copied(cluster: &Cluster, mirror: &Mirror, name: &str) {
    poll::poll_until(&format!("{name} is copied"), || {
        topic(mirror, name).is_some_and(|topic| topic["partitions"][0]["log_end"] == end(cluster, name))
    });
}

fn produce(cluster: &Cluster, name: &str, count: u32) {
    cluster.scenario().produce_mixed(&Produce { count, value_bytes: 200, ..Produce::to(name) });
}

fn a_paused_topic_stands_still_over_a_kill_and_goes_on_where_it_stood(cluster: &Cluster) {
    cluster.scenario().create_topic("still", 1, 1, &[]);
    cluster.scenario().create_topic("beside", 1, 1, &[]);
    produce(cluster, "still", 500);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["still", "beside"]);
    let running = mirror.tailing().spawn();
    poll_until_state(&mirror, "still", "ACTIVE");
    poll_until_copied(cluster, &mirror, "still");
    cluster
        .scenario()
        .alter_topic_configs("still", &[("retention.ms", "86400000"), ("cleanup.policy", "delete")]);
    poll::poll_until("what the source has for it is known", || {
        let configs = topic(&mirror, "still").expect("known")["source_configs"].clone();
        configs["retention.ms"] == "86400000" && configs["cleanup.policy"] == "delete"
    });
    let link = say(&mirror, "link list --output json").expect_code(0).json()["data"][0].clone();
    let tasks = link["tasks"].as_array().expect("tasks");
    assert!(tasks.iter().all(|task| task["state"] == "ACTIVE" && task["last_success_ms"].is_i64()), "{link}");
    let dry = say(&mirror, "mirror pause still --dry-run --output json").expect_code(0).json();
    assert!(dry["data"][0]["note"].as_str().is_some_and(|note| note.contains("until resumed")), "{dry}");
    assert_eq!(topic(&mirror, "still").expect("known")["state"], "ACTIVE");
    say(&mirror, "mirror pause still").expect_code(0);
    say(&mirror, "mirror pause still").expect_code(0);
    let stood = log_end(&mirror, "still");
    assert_eq!(topic(&mirror, "still").expect("known")["state"], "PAUSED");
    produce(cluster, "still", 300);
    produce(cluster, "beside", 300);
    poll_until_copied(cluster, &mirror, "beside");
    assert_eq!(log_end(&mirror, "still"), stood);
    running.kill_hard();
    let running = mirror.tailing().spawn();
    poll_until_state(&mirror, "still", "PAUSED");
    produce(cluster, "beside", 100);
    poll_until_copied(cluster, &mirror, "beside");
    assert_eq!(log_end(&mirror, "still"), stood);
    say(&mirror, "mirror pause nowhere").expect_code(1);
    say(&mirror, "mirror resume .*ill").expect_code(0);
    poll_until_copied(cluster, &mirror, "still");
    poll_until_state(&mirror, "still", "ACTIVE");
    running.terminate();
    running.wait().expect_code(0);
    mirror.assert_same(cluster, 1, "still", Isolation::ReadUncommitted);
    mirror.verify(true).expect_code(0);
}

fn a_paused_link_fetches_nothing_not_even_what_is_new(cluster: &Cluster) {
    cluster.scenario().create_topic("linked-a", 1, 1, &[]);
    produce(cluster, "linked-a", 100);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["linked-.*"])
        .with_configuration("[link.default]\n[link.default.source]\nmetadata.max.age.ms = 1000\n");
    let running = mirror.tailing().spawn();
    poll_until_copied(cluster, &mirror, "linked-a");
    say(&mirror, "link pause").expect_code(0);
    poll_until_state(&mirror, "linked-a", "LINK_PAUSED");
    assert_eq!(
        say(&mirror, "link list --output json").expect_code(0).json()["data"][0]["link_state"],
        "PAUSED"
    );
    let refused = say(&mirror, "mirror resume linked-a").expect_code(1);
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("link is paused"), "{refused:?}");
    cluster.scenario().create_topic("linked-b", 1, 1, &[]);
    produce(cluster, "linked-a", 100);
    produce(cluster, "linked-b", 100);
    poll_until_state(&mirror, "linked-b", "LINK_PAUSED");
    running.kill_hard();
    let running = mirror.tailing().spawn();
    poll_until_state(&mirror, "linked-b", "LINK_PAUSED");
    assert_eq!((log_end(&mirror, "linked-a"), log_end(&mirror, "linked-b")), (100, 0));
    say(&mirror, "link resume").expect_code(0);
    for name in ["linked-a", "linked-b"] {
        poll_until_copied(cluster, &mirror, name);
        poll_until_state(&mirror, name, "ACTIVE");
    }
    running.terminate();
    running.wait().expect_code(0);
    mirror.verify(true).expect_code(0);
}

fn a_stopped_partition_is_released_while_the_daemon_runs(cluster: &Cluster) {
    cluster.scenario().create_topic("gapped", 1, 1, &[]);
    produce(cluster, "gapped", 200);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["gapped"]);
    let running = mirror.tailing().spawn();
    poll_until_copied(cluster, &mirror, "gapped");
    say(&mirror, "mirror pause gapped").expect_code(0);
    produce(cluster, "gapped", 300);
    cluster.scenario().delete_records("gapped", 0, 400);
    say(&mirror, "mirror resume gapped").expect_code(0);
    poll_until_state(&mirror, "gapped", "FAILED");
    let failed = topic(&mirror, "gapped").expect("known");
    assert_eq!(failed["code"], "SOURCE_GAP");
    let plain = say(&mirror, "mirror resume gapped").expect_code(1);
    assert!(format!("{}{}", plain.stdout, plain.stderr).contains("--accept-gap"), "{plain:?}");
    say(&mirror, "mirror resume gapped-0 --accept-gap --dry-run").expect_code(0);
    assert_eq!(topic(&mirror, "gapped").expect("known")["state"], "FAILED");
    say(&mirror, "mirror resume gapped-0 --accept-gap").expect_code(0);
    poll_until_copied(cluster, &mirror, "gapped");
    poll_until_state(&mirror, "gapped", "ACTIVE");
    running.terminate();
    running.wait().expect_code(0);
    mirror.assert_same(cluster, 1, "gapped", Isolation::ReadUncommitted);
    mirror.verify(true).expect_code(0);
}

fn mirror_topics_are_created_and_deleted_by_command(cluster: &Cluster) {
    for name in ["made", "unmade"] {
        cluster.scenario().create_topic(name, 1, 1, &[]);
        produce(cluster, name, 50);
    }
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["unmade"]);
    let running = mirror.tailing().spawn();
    poll_until_state(&mirror, "unmade", "ACTIVE");
    say(&mirror, "mirror create made").expect_code(0);
    poll_until_copied(cluster, &mirror, "made");
    say(&mirror, "mirror create nowhere").expect_code(1);
    say(&mirror, "mirror delete unmade --delete-data").expect_code(0);
    assert!(topic(&mirror, "unmade").is_none());
    assert!(!mirror.partition_directory("unmade", 0).exists());
    let dry = say(&mirror, "mirror promote made --dry-run").expect_code(0);
    assert!(dry.stdout.contains("ready to be adopted"), "{dry:?}");
    running.kill_hard();
    let running = mirror.tailing().spawn();
    produce(cluster, "made", 50);
    poll_until_copied(cluster, &mirror, "made");
    assert!(topic(&mirror, "unmade").is_none(), "what was deleted by command stays away");
    running.terminate();
    running.wait().expect_code(0);
}

fn a_silent_source_is_shown_and_its_return_too(cluster: &Cluster) {
    cluster.scenario().create_topic("alone", 1, 1, &[]);
    produce(cluster, "alone", 50);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["alone"]).with_configuration(&format!(
        "[link.default]\n{SHORT_RETRY}\n[link.default.source]\nmetadata.max.age.ms = 1000\n"
    ));
    let running = mirror.tailing().spawn();
    poll_until_copied(cluster, &mirror, "alone");
    poll_until_state(&mirror, "alone", "ACTIVE");
    cluster.stop_broker(1);
    poll_until_state(&mirror, "alone", "SOURCE_UNAVAILABLE");
    let status = say(&mirror, "status --output json").expect_code(0).json();
    assert_eq!(status["link_state"], "UNAVAILABLE");
    cluster.restart_broker(1);
    poll_until_state(&mirror, "alone", "ACTIVE");
    produce(cluster, "alone", 50);
    poll_until_copied(cluster, &mirror, "alone");
    running.terminate();
    running.wait().expect_code(0);
    mirror.assert_same(cluster, 1, "alone", Isolation::ReadUncommitted);
}
