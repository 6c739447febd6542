//! The spool between real clusters: the disk's budget holds whatever one follower lacks, and it gets all of it.

use crate::PROGRAM;
use std::path::Path;
use twinlog_tests::cli::{Program, Running};
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::batches::{CopyBound, compare};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const TOPIC: &str = "spooled";
const PARTITIONS: i32 = 2;
const BUDGET_BYTES: u64 = 16 << 20;
/// The budget, what is reserved ahead of two active segments, and two answers under way.
const DISK_BYTES_MAX: u64 = BUDGET_BYTES + (4 << 20);

#[test]
fn the_mirror_goes_on_within_its_budget_whatever_one_follower_lacks() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    source.scenario().create_topic(TOPIC, PARTITIONS as u32, 1, &[]);
    let keys = ["replica.fetch.response.max.bytes = \"1MiB\"", "replica.fetch.max.bytes = \"512KiB\""];
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[TOPIC], &keys);
    let mirror = mirror.with_destination_keys(&["store.retention.bytes = \"16MiB\""]);
    a_stopped_follower_never_stops_the_mirror(&mirror, &source, &destination);
    what_no_follower_has_is_never_given_up(&mirror, &source, &destination);
    another_follower_has_what_the_source_cannot_send(&mirror, &source, &destination);
}

fn large(megabytes: u32, seed: u32) -> Produce {
    Produce { count: megabytes * 256, value_bytes: 4_096, batch_bytes: 65_536, seed, ..Produce::to(TOPIC) }
}

fn directory(mirror: &GuestMirror, partition: i32) -> std::path::PathBuf {
    mirror.data_directory().join("dr").join(format!("{TOPIC}-{partition}"))
}

/// Lengths of the `.log` files with their bases; one that is deleted meanwhile is left out.
fn logs(directory: &Path) -> Vec<(i64, u64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<(i64, u64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.strip_suffix(".log")?.parse().ok()?, entry.metadata().ok()?.len()))
        })
        .collect();
    logs.sort_unstable();
    logs
}

#[track_caller]
fn assert_within_budget(mirror: &GuestMirror) {
    let all = (0..PARTITIONS).flat_map(|partition| logs(&directory(mirror, partition)));
    let stored: u64 = all.map(|(_, length)| length).sum();
    assert!(stored <= DISK_BYTES_MAX, "{stored} bytes are stored, {DISK_BYTES_MAX} are allowed");
}

/// Whether a broker's files hold everything below these ends, byte for byte.
fn holds(source: &Cluster, destination: &Cluster, broker: usize, ends: &[i64]) -> bool {
    ends.iter().zip(0..).all(|(end, partition)| {
        let original = source.partition_directory(1, TOPIC, partition);
        let copy = destination.partition_directory(broker, TOPIC, partition);
        compare(&original, &copy, 0, CopyBound::Exactly(*end)).is_ok_and(|equal| equal.end_offset >= *end)
    })
}

fn poll_within_budget(
    mirror: &GuestMirror,
    source: &Cluster,
    destination: &Cluster,
    daemon: &mut Running,
    brokers: &[usize],
) {
    let ends = source.scenario().end_offsets(TOPIC, Isolation::ReadCommitted);
    poll::poll_until("the followers have everything", || {
        daemon.expect_running();
        assert_within_budget(mirror);
        brokers.iter().all(|broker| holds(source, destination, *broker, &ends))
    });
}

fn verified(mirror: &GuestMirror, source: &Cluster) -> serde_json::Value {
    let program = Program::new(PROGRAM).argument("verify").arguments(["--output", "json"]);
    let program = program.argument("--data-dir").argument(mirror.data_directory());
    program.arguments(["--source", &source.bootstrap()]).run().expect_code(0).json()
}

fn a_stopped_follower_never_stops_the_mirror(mirror: &GuestMirror, source: &Cluster, destination: &Cluster) {
    source.scenario().produce_mixed(&Produce::to(TOPIC));
    let mut daemon = mirror.start();
    mirror.poll_until_followed(source, destination, TOPIC, &ALL);
    destination.stop_broker(3);
    for seed in 0..4 {
        source.scenario().produce_mixed(&large(16, seed));
        poll_within_budget(mirror, source, destination, &mut daemon, &[1, 2]);
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
    for partition in verified(mirror, source)["partitions"].as_array().expect("a list") {
        let (log_start, held_start) = (partition["log_start"].as_i64(), partition["held_start"].as_i64());
        assert!(log_start == Some(0) && held_start > Some(0), "{partition}");
    }
    let mut daemon = mirror.start();
    destination.restart_broker(3);
    poll_within_budget(mirror, source, destination, &mut daemon, &ALL);
    source.scenario().produce_mixed(&Produce { seed: 9, ..Produce::to(TOPIC) });
    poll_within_budget(mirror, source, destination, &mut daemon, &ALL);
    daemon.kill_hard();
}

fn what_no_follower_has_is_never_given_up(mirror: &GuestMirror, source: &Cluster, destination: &Cluster) {
    let mut daemon = mirror.start();
    source.scenario().produce_mixed(&Produce { seed: 10, ..Produce::to(TOPIC) });
    mirror.poll_until_followed(source, destination, TOPIC, &ALL);
    ALL.into_iter().for_each(|broker| destination.kill_broker(broker));
    source.scenario().produce_mixed(&large(32, 11));
    daemon.poll_until_printed("fetching waits");
    assert_within_budget(mirror);
    ALL.into_iter().for_each(|broker| destination.restart_broker(broker));
    poll_within_budget(mirror, source, destination, &mut daemon, &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn another_follower_has_what_the_source_cannot_send(
    mirror: &GuestMirror,
    source: &Cluster,
    destination: &Cluster,
) {
    let mut daemon = mirror.start();
    destination.stop_broker(3);
    source.scenario().produce_mixed(&large(32, 12));
    poll_within_budget(mirror, source, destination, &mut daemon, &[1, 2]);
    let ends = source.scenario().end_offsets(TOPIC, Isolation::ReadCommitted);
    assert!(!holds(source, destination, 3, &ends));
    source.stop_broker(1);
    destination.restart_broker(3);
    poll::poll_until("the last follower has everything", || {
        daemon.expect_running();
        holds(source, destination, 3, &ends)
    });
    daemon.terminate();
    daemon.wait().expect_code(0);
}
