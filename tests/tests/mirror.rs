//! The main job on one real broker: every kind of log, byte for byte, and out of every stop again.

use std::path::{Path, PathBuf};
use twinlog_tests::kafka::batches;
use twinlog_tests::kafka::dump::Gaps;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::zoo::{self, SMALL_SEGMENTS};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");

#[test]
fn one_broker_is_mirrored_byte_for_byte() {
    let cluster = Cluster::start(ClusterOptions::default());
    every_kind_of_log_arrives_with_the_same_bytes(&cluster);
    open_transactions_bound_the_copy(&cluster);
    a_tailing_mirror_picks_up_topics_and_partitions(&cluster);
    a_tailing_mirror_follows_the_log_start_into_a_batch(&cluster);
    retention_that_overtakes_the_mirror_stops_it_until_the_gap_is_accepted(&cluster);
    a_topic_created_again_is_never_appended_to_the_old_log(&cluster);
    many_partitions_fit_into_little_memory(&cluster);
}

fn every_kind_of_log_arrives_with_the_same_bytes(cluster: &Cluster) {
    let scenario = cluster.scenario();
    zoo::fill(cluster);

    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["rich", "append-.*", "compacted", "empty"])
        .with_keys(&["segment.bytes = 2097152"]);
    let report = mirror.caught_up();
    assert_eq!(report["partitions"].as_array().map(Vec::len), Some(6), "{report}");
    assert!(report["totals"]["bytes"].as_u64().is_some_and(|bytes| bytes > 2_000_000), "{report}");
    for topic in ["rich", "append-time", "compacted", "empty"] {
        mirror.assert_same(cluster, 1, topic, Isolation::ReadCommitted);
    }
    let aborts: usize = (0..2)
        .map(|partition| {
            let source: PathBuf = cluster.partition_directory(1, "rich", partition);
            mirror.assert_same_aborts(&source, "rich", partition)
        })
        .sum();
    assert!(aborts > 0, "the topic has aborted transactions");
    mirror.assert_dump_clean("rich", 2, Gaps::Forbidden);
    mirror.assert_dump_clean("append-time", 1, Gaps::Forbidden);
    mirror.assert_dump_clean("compacted", 1, Gaps::Expected);
    mirror.verify(false).expect_code(0);
    mirror.verify(true).expect_code(0);

    let again = mirror.caught_up();
    assert_eq!(again["totals"]["bytes"].as_u64(), Some(0), "nothing is fetched twice: {again}");
    // More arrives, and the next run goes on exactly where the first one ended.
    scenario.produce_mixed(&Produce { count: 50, seed: 77, ..Produce::to("rich") });
    mirror.caught_up();
    mirror.assert_same(cluster, 1, "rich", Isolation::ReadCommitted);
    mirror.verify(true).expect_code(0);
    assert_verify_finds_damage(&mirror);
}

fn assert_verify_finds_damage(mirror: &Mirror) {
    let directory = mirror.partition_directory("append-time", 0);
    let log = directory.join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    let found = mirror.verify(false).expect_code(1);
    assert!(found.stdout.contains("append-time-0") || found.stderr.contains("append-time-0"), "{found:?}");
}

/// Every codec, idempotent and not, headers, nulls, a large record, transactions, a start inside a batch.
fn open_transactions_bound_the_copy(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("ledger", 1, 1, &[]);
    scenario.produce_mixed(&Produce { count: 10, ..Produce::to("ledger") });
    scenario.open_transaction("open", &Produce { partition: Some(0), count: 5, ..Produce::to("ledger") });
    scenario.produce_mixed(&Produce { count: 10, seed: 2, ..Produce::to("ledger") });
    let committed = Mirror::new(PROGRAM, &cluster.bootstrap(), &["ledger"]);
    committed.caught_up();
    committed.assert_same(cluster, 1, "ledger", Isolation::ReadCommitted);
    let everything = Mirror::new(PROGRAM, &cluster.bootstrap(), &["ledger"])
        .with_keys(&["isolation.level = \"read_uncommitted\""]);
    everything.caught_up();
    everything.assert_same(cluster, 1, "ledger", Isolation::ReadUncommitted);
    scenario.finish_transaction("open", true);
    poll::poll_until("the commit marker is written", || {
        scenario.end_offsets("ledger", Isolation::ReadCommitted)[0] == 26
    });
    for mirror in [&committed, &everything] {
        mirror.caught_up();
        mirror.assert_same(cluster, 1, "ledger", Isolation::ReadUncommitted);
        mirror.assert_dump_clean("ledger", 1, Gaps::Forbidden);
    }
}

fn a_tailing_mirror_picks_up_topics_and_partitions(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("tail-a", 1, 1, &[]);
    scenario.produce_mixed(&Produce::to("tail-a"));
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["tail-.*"])
        .with_keys(&["source.metadata.max.age.ms = 1000"]);
    let running = mirror.tailing().spawn();
    scenario.create_topic("tail-b", 2, 1, &[]);
    scenario.add_partitions("tail-a", 3);
    scenario.produce_mixed(&Produce { count: 300, ..Produce::to("tail-a") });
    scenario.produce_mixed(&Produce { count: 300, ..Produce::to("tail-b") });
    for (topic, partitions) in [("tail-a", 3), ("tail-b", 2)] {
        for partition in 0..partitions {
            let source = cluster.partition_directory(1, topic, partition);
            poll::poll_until("a tailing mirror holds a new partition", || {
                let mirrored = mirror.partition_directory(topic, partition);
                twinlog_tests::kafka::batches::concatenated_batches(&mirrored, 0).is_ok_and(|ours| {
                    let theirs = twinlog_tests::kafka::batches::concatenated_batches(&source, 0);
                    theirs.is_ok_and(|theirs| !theirs.is_empty() && ours.len() == theirs.len())
                })
            });
        }
    }
    running.terminate();
    running.wait().expect_code(0);
    mirror.assert_same(cluster, 1, "tail-a", Isolation::ReadCommitted);
    mirror.assert_same(cluster, 1, "tail-b", Isolation::ReadCommitted);
    mirror.assert_dump_clean("tail-a", 3, Gaps::Forbidden);
    mirror.assert_dump_clean("tail-b", 2, Gaps::Forbidden);
    mirror.verify(true).expect_code(0);
}

fn a_tailing_mirror_follows_the_log_start_into_a_batch(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("shrinking", 1, 1, &[SMALL_SEGMENTS]);
    scenario.produce_mixed(&Produce { count: 4_000, value_bytes: 1000, ..Produce::to("shrinking") });
    let end = scenario.end_offsets("shrinking", Isolation::ReadCommitted)[0];
    let mirror =
        Mirror::new(PROGRAM, &cluster.bootstrap(), &["shrinking"]).with_keys(&["segment.bytes = 1048576"]);
    let running = mirror.tailing().spawn();
    poll::poll_until("the mirror holds all of it", || {
        mirror.stored_end(cluster, "shrinking", 0) == Some(end)
    });
    let ours = mirror.partition_directory("shrinking", 0);
    let before = log_bases(&ours);
    assert!(before.len() > 3 && before[0] == 0, "{before:?}");

    // The middle of a batch in the third segment: two segments lie wholly below it.
    let source = cluster.partition_directory(1, "shrinking", 0);
    let batches = batches::concatenated_batches(&source, before[2] + 1).expect("nobody appends");
    let known = batches.iter().find(|batch| batch.last_offset >= batch.base_offset + 2);
    let start = known.expect("producers batch").base_offset + 1;
    assert!(start < before[3], "{start} lies in the third segment of {before:?}");
    assert_eq!(scenario.delete_records("shrinking", 0, start), start);

    let checkpoint = mirror.data_directory().join("default/log-start-offset-checkpoint");
    poll::poll_until("the log start of the mirror is the source's", || {
        let text = std::fs::read_to_string(&checkpoint).unwrap_or_default();
        text.lines().any(|line| line == format!("shrinking 0 {start}"))
    });
    poll::poll_until("segments below the log start are gone", || log_bases(&ours) == before[2..]);
    running.terminate();
    let report = running.wait().expect_code(0).json();
    assert_eq!(report["partitions"][0]["start"].as_i64(), Some(start), "{report}");
    assert_eq!(report["partitions"][0]["end"].as_i64(), Some(end), "{report}");
    mirror.assert_same(cluster, 1, "shrinking", Isolation::ReadCommitted);
    mirror.assert_dump_clean("shrinking", 1, Gaps::Forbidden);
    mirror.verify(true).expect_code(0);
}

/// Base offsets of the segments of a partition, by the names of their files.
fn log_bases(directory: &Path) -> Vec<i64> {
    let names =
        std::fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").file_name());
    let bases = names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
    let mut bases: Vec<i64> = bases.collect();
    bases.sort_unstable();
    bases
}

fn retention_that_overtakes_the_mirror_stops_it_until_the_gap_is_accepted(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("short", 1, 1, &[SMALL_SEGMENTS]);
    scenario.produce_mixed(&Produce { count: 500, value_bytes: 1000, ..Produce::to("short") });
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["short"]);
    mirror.caught_up();
    scenario.produce_mixed(&Produce { count: 4000, value_bytes: 1000, seed: 2, ..Produce::to("short") });
    scenario.alter_topic_configs("short", &[("retention.bytes", "1048576")]);
    poll::poll_until("retention passes the mirror's end", || scenario.start_offsets("short")[0] > 600);

    let stopped = mirror.catch_up().expect_code(1);
    let said = format!("{}{}", stopped.stdout, stopped.stderr);
    assert!(said.contains("SOURCE_GAP") && said.contains("--accept-gap"), "{said}");
    mirror.resume(&["short-0", "--accept-gap", "--dry-run"]).expect_code(0);
    mirror.catch_up().expect_code(1);
    mirror.resume(&["short-0", "--accept-gap"]).expect_code(0);
    mirror.caught_up();
    mirror.assert_same(cluster, 1, "short", Isolation::ReadCommitted);
    mirror.assert_dump_clean("short", 1, Gaps::Forbidden);
    mirror.verify(true).expect_code(0);
}

fn a_topic_created_again_is_never_appended_to_the_old_log(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("again", 1, 1, &[]);
    scenario.produce_mixed(&Produce::to("again"));
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["again"])
        .with_keys(&["source.metadata.max.age.ms = 1000"]);
    mirror.caught_up();
    let before = std::fs::read(mirror.partition_directory("again", 0).join("00000000000000000000.log"));
    let mut running = mirror.tailing().spawn();
    scenario.delete_topic("again");
    scenario.create_topic("again", 1, 1, &[]);
    scenario.produce_mixed(&Produce { count: 500, seed: 9, ..Produce::to("again") });
    running.poll_until_printed("TOPIC_RECREATED");
    running.terminate();
    running.wait();
    let stopped = mirror.catch_up().expect_code(1);
    let said = format!("{}{}", stopped.stdout, stopped.stderr);
    assert!(said.contains("TOPIC_RECREATED"), "{said}");
    let after = std::fs::read(mirror.partition_directory("again", 0).join("00000000000000000000.log"));
    assert!(before.expect("readable") == after.expect("readable"), "the old log was touched");
}

fn many_partitions_fit_into_little_memory(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("wide", 200, 1, &[("segment.index.bytes", "1024")]);
    scenario.produce_mixed(&Produce { count: 4_000, value_bytes: 400, linger_ms: 0, ..Produce::to("wide") });
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["wide"]);
    let report = mirror.caught_up();
    mirror.assert_same(cluster, 1, "wide", Isolation::ReadCommitted);
    mirror.verify(false).expect_code(0);
    let peak = report["totals"]["peak_memory_bytes"].as_u64().expect("a figure");
    assert!(peak < 256 << 20, "96 MiB of buffers and the program itself took {peak} bytes");
}
