//! Whether the harness itself can be trusted: every verb once, every check, and that each can fail.
//!
//! Two clusters at most run at a time: one broker for data and checks, three for leaders and deaths.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use twinlog_tests::kafka::batches::{self, CopyBound, Difference, assert_identical};
use twinlog_tests::kafka::dump::{Gaps, assert_clean, dump_log_segments};
use twinlog_tests::kafka::indexes::aborted_transactions;
use twinlog_tests::kafka::scenario::{Election, Produce, Transactions};
use twinlog_tests::kafka::zoo::{self, SMALL_SEGMENTS};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Codec, Isolation, Scenario};
use twinlog_tests::poll;

#[test]
fn one_broker_does_all_that_is_asked_and_the_checks_pass_on_its_files_and_fail_on_broken_ones() {
    let cluster = Cluster::start(ClusterOptions::default());
    let scenario = cluster.scenario();
    fill_rich(scenario);
    zoo::fill_append_time(scenario);
    let compacted_end = fill_compacted(&cluster);
    change_topics(&cluster);
    overtake_by_retention(&cluster);

    let ends = scenario.end_offsets("rich", Isolation::ReadUncommitted);
    let starts = scenario.start_offsets("rich");
    let live = cluster.partition_directory(1, "rich", 0);
    // A running broker's files can be read too: its active segment is compared up to its last batch.
    assert_identical(&live, &live, starts[0], CopyBound::Exactly(ends[0]));

    cluster.stop_broker(1);
    let rich: Vec<PathBuf> =
        (0..2).map(|partition| cluster.partition_directory(1, "rich", partition)).collect();
    let append_time = cluster.partition_directory(1, "append-time", 0);
    let compacted = cluster.partition_directory(1, "compacted", 0);
    let empty = cluster.partition_directory(1, "changing", 0);
    let dumped = assert_clean(&[&rich[0], &rich[1], &append_time, &empty], Gaps::Forbidden);
    assert!(dumped.batches > 100 && dumped.records > dumped.batches, "{dumped:?}");
    assert_clean(&[&compacted], Gaps::Expected);
    assert!(dump_log_segments(&[&compacted], Gaps::Forbidden).is_err(), "the cleaner left gaps");
    for (partition, directory) in rich.iter().enumerate() {
        let bound = CopyBound::Exactly(ends[partition]);
        let equal = assert_identical(directory, directory, starts[partition], bound);
        assert_eq!(equal.end_offset, ends[partition]);
        assert!(!aborted_transactions(directory).expect("readable").is_empty());
    }
    let equal = assert_identical(&compacted, &compacted, 0, CopyBound::Exactly(compacted_end));
    assert_eq!(equal.end_offset, compacted_end);

    broken_copies_are_found(&rich[0], starts[0], ends[0]);
    broken_files_make_the_tool_complain(&rich[0]);
}

/// Every codec, idempotent and not, headers, nulls, a large record, transactions, a start inside a batch.
fn fill_rich(scenario: &Scenario) {
    let id = scenario.create_topic("rich", 2, 1, &[SMALL_SEGMENTS]);
    assert_eq!(scenario.topic_id("rich"), id);
    for (seed, codec) in (1..).zip(Codec::ALL) {
        let mixed =
            Produce { codec, seed, headers: true, nulls: true, value_bytes: 600, ..Produce::to("rich") };
        assert_eq!(scenario.produce_mixed(&Produce { count: 800, ..mixed.clone() }), 800);
        let plain = Produce { idempotent: false, batch_bytes: 4000, seed: 100 + seed, ..mixed };
        assert_eq!(scenario.produce_mixed(&plain), 100);
    }
    let large = Produce { partition: Some(0), value_bytes: 900_000, ..Produce::to("rich") };
    assert_eq!(scenario.produce_large(&large), 1);
    let transactions = Produce { count: 40, ..Produce::to("rich") };
    let ended =
        scenario.produce_transactions(&transactions, Transactions { producers: 3, abort_percent: 30 });
    assert_eq!(ended.commits + ended.aborts, 40);
    assert!(ended.aborts > 0 && ended.commits > 0, "{ended:?}");

    let open = Produce { partition: Some(1), count: 5, ..Produce::to("rich") };
    let before = scenario.end_offsets("rich", Isolation::ReadUncommitted)[1];
    scenario.open_transaction("hanging", &open);
    assert_eq!(scenario.end_offsets("rich", Isolation::ReadCommitted)[1], before);
    assert_eq!(scenario.end_offsets("rich", Isolation::ReadUncommitted)[1], before + 5);
    scenario.finish_transaction("hanging", false);
    poll::poll_until("the abort marker is written", || {
        scenario.end_offsets("rich", Isolation::ReadCommitted)[1] == before + 6
    });
    assert_eq!(scenario.delete_records("rich", 0, 3), 3);
    assert_eq!(scenario.start_offsets("rich"), [3, 0]);
}

/// Gaps and tombstones by the real cleaner; returns the end offset.
fn fill_compacted(cluster: &Cluster) -> i64 {
    let produced = zoo::fill_compacted(cluster);
    let end = cluster.scenario().end_offsets("compacted", Isolation::ReadUncommitted)[0];
    assert_eq!(end, produced);
    let left =
        batches::concatenated_batches(&cluster.partition_directory(1, "compacted", 0), 0).expect("readable");
    let first = left.first().expect("something is left").base_offset;
    let gaps = left.windows(2).filter(|pair| pair[0].last_offset + 1 < pair[1].base_offset).count();
    assert!(first > 0 || gaps > 0, "the cleaner has removed batches");
    end
}

fn change_topics(cluster: &Cluster) {
    let scenario = cluster.scenario();
    let first_id = scenario.create_topic("changing", 1, 1, &[]);
    scenario.add_partitions("changing", 3);
    assert_eq!(scenario.describe_topic("changing").len(), 3);
    scenario.alter_topic_configs("changing", &[("max.message.bytes", "2000000")]);
    let background = Produce { value_bytes: 50, ..Produce::to("changing") };
    scenario.start_producing("steady", &background, 500);
    poll::poll_until("the background producer has filled all partitions", || {
        scenario.end_offsets("changing", Isolation::ReadUncommitted).iter().all(|end| *end > 20)
    });
    let acknowledged = scenario.stop_producing("steady");
    let ends = scenario.end_offsets("changing", Isolation::ReadUncommitted);
    assert_eq!(ends.iter().sum::<i64>(), acknowledged as i64);
    scenario.delete_topic("changing");
    assert_ne!(scenario.create_topic("changing", 1, 1, &[]), first_id);
    let tool = cluster
        .tool("org.apache.kafka.tools.TopicCommand", &["--bootstrap-server", &cluster.bootstrap(), "--list"]);
    assert!(String::from_utf8_lossy(&tool.stdout).lines().any(|line| line == "changing"), "{tool:?}");
    assert_eq!(cluster.leader_of("changing", 0), Some(1));
}

/// The broker deletes old segments within moments, as faults of retention need it.
fn overtake_by_retention(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("short", 1, 1, &[SMALL_SEGMENTS, ("retention.bytes", "1048576")]);
    scenario.produce_mixed(&Produce { count: 4000, value_bytes: 1000, ..Produce::to("short") });
    poll::poll_until("retention moves the log start", || scenario.start_offsets("short")[0] > 0);
}

fn copy_of(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    copy
}

/// Rewrites the largest file of a kind.
fn damage(directory: &Path, extension: &str, how: impl FnOnce(&mut Vec<u8>)) {
    let files = fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    let largest = files.max_by_key(|path| path.metadata().expect("its size").len()).expect("such a file");
    let mut bytes = fs::read(&largest).expect("readable");
    how(&mut bytes);
    fs::write(&largest, bytes).expect("written");
}

fn broken_copies_are_found(directory: &Path, start: i64, end: i64) {
    let difference = |how: &dyn Fn(&mut Vec<u8>)| {
        let copy = copy_of(directory);
        damage(copy.path(), "log", how);
        batches::compare(directory, copy.path(), start, CopyBound::Exactly(end))
            .expect_err("the damage is found")
    };
    let flipped = difference(&|bytes| bytes[70] ^= 1);
    assert!(matches!(flipped, Difference::OtherByte { at: 70, .. }), "{flipped}");
    let dropped = difference(&|bytes| drop(bytes.drain(..first_batch_bytes(bytes))));
    assert!(matches!(dropped, Difference::OtherBatch { .. }), "{dropped}");
    let shifted = difference(&|bytes| bytes[7] ^= 1);
    assert!(matches!(shifted, Difference::OtherBatch { .. }), "{shifted}");
    let torn = difference(&|bytes| bytes.truncate(bytes.len() - 5));
    assert!(matches!(torn, Difference::NotABatch { .. }), "{torn}");
}

fn first_batch_bytes(bytes: &[u8]) -> usize {
    12 + u32::from_be_bytes(bytes[8..12].try_into().expect("four bytes")) as usize
}

fn broken_files_make_the_tool_complain(directory: &Path) {
    let complaint = |extension: &str, how: &dyn Fn(&mut Vec<u8>)| {
        let copy = copy_of(directory);
        damage(copy.path(), extension, how);
        dump_log_segments(&[copy.path()], Gaps::Expected).expect_err("the damage is found").to_string()
    };
    let offset_index = complaint("index", &|bytes| bytes[11] ^= 1);
    assert!(offset_index.contains("Mismatches in"), "{offset_index}");
    let time_index = complaint("timeindex", &|bytes| bytes[7] ^= 1);
    assert!(time_index.contains("Found timestamp mismatch"), "{time_index}");
    let torn = complaint("log", &|bytes| bytes.truncate(bytes.len() - 5));
    assert!(torn.contains("invalid bytes at the end"), "{torn}");
    let crc = complaint("log", &|bytes| bytes[18] ^= 1);
    assert!(crc.contains("isvalid: false"), "{crc}");
    let zeros = complaint("index", &|bytes| bytes.extend([0; 8]));
    assert!(zeros.contains("entries must rise"), "{zeros}");
    let aborted = complaint("txnindex", &|bytes| bytes[1] = 1);
    assert!(aborted.contains("version 1"), "{aborted}");
}

#[test]
fn three_brokers_die_pause_return_and_move_their_leaders() {
    let cluster = Cluster::start(ClusterOptions { brokers: 3, ..ClusterOptions::default() });
    let scenario = cluster.scenario();
    assert_eq!(cluster.bootstrap().split(',').count(), 3);
    scenario.create_topic_on("moving", &[&[1, 2, 3]], &[]);
    let produce = Produce { partition: Some(0), ..Produce::to("moving") };
    scenario.start_producing("through", &produce, 200);

    cluster.kill_broker(1);
    poll_until_leader(&cluster, "moving", |leader| leader.is_some_and(|leader| leader != 1));
    cluster.restart_broker(1);
    poll_until_in_sync(scenario, "moving", 3);
    scenario.elect_leader("moving", 0, Election::Preferred);
    poll_until_leader(&cluster, "moving", |leader| leader == Some(1));

    cluster.pause_broker(1);
    poll_until_leader(&cluster, "moving", |leader| leader.is_some_and(|leader| leader != 1));
    cluster.continue_broker(1);
    poll_until_in_sync(scenario, "moving", 3);
    scenario.reassign("moving", 0, &[2, 3]);
    assert_eq!(scenario.describe_topic("moving")[0].replicas, [2, 3]);

    let acknowledged = scenario.stop_producing("through") as i64;
    let end = scenario.end_offsets("moving", Isolation::ReadUncommitted)[0];
    assert_eq!(end, acknowledged, "an idempotent producer writes each record once, whoever dies");
    lose_records_by_an_unclean_election(&cluster);

    (1..=3).for_each(|broker| cluster.stop_broker(broker));
    let directories = [2, 3].map(|broker| cluster.partition_directory(broker, "moving", 0));
    assert_identical(&directories[0], &directories[1], 0, CopyBound::Exactly(end));
    assert_clean(&directories, Gaps::Forbidden);
}

fn lose_records_by_an_unclean_election(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic_on("unclean", &[&[1, 2]], &[]);
    let produce = Produce { partition: Some(0), all_in_sync: false, ..Produce::to("unclean") };
    // Both have the first hundred, only broker 1 will have the second.
    scenario.produce_mixed(&Produce { all_in_sync: true, ..produce.clone() });
    cluster.stop_broker(2);
    poll_until_in_sync(scenario, "unclean", 1);
    scenario.produce_mixed(&produce);
    assert_eq!(scenario.end_offsets("unclean", Isolation::ReadUncommitted), [200]);
    cluster.kill_broker(1);
    cluster.restart_broker(2);
    poll_until_leader(cluster, "unclean", |leader| leader.is_none());
    scenario.elect_leader("unclean", 0, Election::Unclean);
    poll_until_leader(cluster, "unclean", |leader| leader == Some(2));
    poll::poll_until("the new leader serves the hundred it has", || {
        scenario.end_offsets("unclean", Isolation::ReadUncommitted) == [100]
    });
    cluster.restart_broker(1);
    poll_until_in_sync(scenario, "unclean", 2);
}

fn poll_until_leader(cluster: &Cluster, topic: &str, is_wanted: impl Fn(Option<usize>) -> bool) {
    poll::poll_until(&format!("{topic}-0 is led by whom we want"), || is_wanted(cluster.leader_of(topic, 0)));
}

fn poll_until_in_sync(scenario: &Scenario, topic: &str, replicas: usize) {
    poll::poll_until(&format!("{topic}-0 has {replicas} replicas in sync"), || {
        scenario.describe_topic(topic)[0].in_sync.len() == replicas
    });
}
