//! Another host with an empty directory takes over mirror topics that have followers (decisions 21).

use crate::PROGRAM;
use std::fs;
use std::path::Path;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::batches::{self, concatenated_batches};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation, zoo};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const LIVE: [usize; 2] = [1, 2];
const TOPICS: [&str; 3] = ["busy", "open", "lossy"];

fn produce(source: &Cluster, topic: &str, seed: u32) {
    let batches = Produce { count: 400, seed, batch_bytes: 2_000, ..Produce::to(topic) };
    source.scenario().produce_mixed(&batches);
}

fn host(source: &Cluster, destination: &Cluster) -> GuestMirror {
    GuestMirror::new(PROGRAM, source, destination, &[".*"], &["on.truncation = \"follow\""])
}

#[test]
fn another_host_goes_on_where_the_followers_are() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    zoo::fill(&source);
    source.scenario().create_topic("busy", 3, 1, &[zoo::SMALL_SEGMENTS]);
    source.scenario().create_topic("open", 1, 1, &[]);
    source.scenario().create_topic("lossy", 1, 1, &[]);
    let first = host(&source, &destination);
    the_first_host_is_lost(&source, &destination, &first);
    let second = host(&source, &destination);
    let daemon = the_second_goes_on(&source, &destination, &second);
    a_host_waits_while_another_lives(&source, &destination);
    let daemon = a_promote_sees_what_was_open(&source, &destination, &second, daemon);
    daemon.kill_hard();
    a_source_that_went_another_way_is_not_mirrored(&source, &destination);
}

/// Followers end at different offsets, one transaction is open, one log was cut and goes on under a new epoch.
fn the_first_host_is_lost(source: &Cluster, destination: &Cluster, host: &GuestMirror) {
    for topic in TOPICS {
        produce(source, topic, 1);
    }
    let daemon = host.start();
    for topic in zoo::TOPICS.iter().map(|(name, _)| *name).chain(TOPICS) {
        host.poll_until_followed(source, destination, topic, &ALL);
    }
    lose_last_batches(source, "lossy", 2);
    produce(source, "lossy", 2);
    host.poll_until_followed(source, destination, "lossy", &ALL);
    destination.kill_broker(3);
    for topic in TOPICS {
        produce(source, topic, 3);
        host.poll_until_followed(source, destination, topic, &LIVE);
    }
    let partition = Some(0);
    source.scenario().open_transaction("hanging", &Produce { count: 5, partition, ..Produce::to("open") });
    let ended = Produce { count: 30, partition, ..Produce::to("open") };
    source.scenario().open_transaction("ended", &ended);
    source.scenario().finish_transaction("ended", true);
    daemon.kill_hard();
    produce(source, "busy", 4);
    destination.restart_broker(3);
}

fn lose_last_batches(source: &Cluster, topic: &str, count: usize) {
    source.stop_broker(1);
    batches::lose_last_batches(&source.partition_directory(1, topic, 0), count);
    source.restart_broker(1);
}

fn the_second_goes_on(source: &Cluster, destination: &Cluster, host: &GuestMirror) -> Running {
    let mut daemon = host.start();
    daemon.poll_until_printed("our store is empty and its followers hold records up to");
    for topic in zoo::TOPICS.iter().map(|(name, _)| *name).chain(["busy", "lossy"]) {
        host.poll_until_followed(source, destination, topic, &ALL);
        host.assert_same_on(source, destination, topic, &ALL);
    }
    for partition in 0..3 {
        let directory = host.data_directory().join(format!("dr/busy-{partition}"));
        assert!(directory.is_dir(), "{}", directory.display());
        let from_the_start = directory.join("00000000000000000000.log");
        assert!(!from_the_start.exists(), "{} was fetched again", from_the_start.display());
    }
    // The epochs that the first host stamped go on on every broker, also on the one that was away.
    let epochs = |broker: usize| {
        let directory = destination.partition_directory(broker, "lossy", 0);
        fs::read_to_string(directory.join("leader-epoch-checkpoint")).expect("a follower keeps its epochs")
    };
    assert!(epochs(1).lines().count() > 3, "the log was cut once: {}", epochs(1));
    produce(source, "lossy", 6);
    host.poll_until_followed(source, destination, "lossy", &ALL);
    poll::poll_until("all brokers have the same epochs", || {
        ALL.iter().all(|broker| epochs(*broker) == epochs(1))
    });
    daemon
}

fn a_host_waits_while_another_lives(source: &Cluster, destination: &Cluster) {
    let third = host(source, destination);
    let mut daemon = third.start();
    daemon.poll_until_printed("its previous incarnation still has a session");
    let stored = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.count());
    assert_eq!(
        stored(&third.data_directory().join("dr")),
        0,
        "nothing is mirrored by a host that only waits"
    );
    daemon.kill_hard();
}

fn a_promote_sees_what_was_open(
    source: &Cluster,
    destination: &Cluster,
    host: &GuestMirror,
    daemon: Running,
) -> Running {
    source.scenario().finish_transaction("hanging", true);
    for topic in ["open", "busy"] {
        host.poll_until_followed(source, destination, topic, &ALL);
        host.assert_same_on(source, destination, topic, &ALL);
        poll::poll_until("the mirror topic is kept", || {
            host.command(&["mirror", "describe", topic]).code() == Some(0)
        });
        host.command(&["mirror", "promote", topic]).expect_code(0);
        for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
            let ends = |cluster: &Cluster| cluster.scenario().end_offsets(topic, isolation);
            for (partition, (here, there)) in (0..).zip(ends(destination).into_iter().zip(ends(source))) {
                assert_only_markers_follow(destination, topic, partition, there, here);
            }
        }
        destination.scenario().produce_mixed(&Produce { count: 20, seed: 9, ..Produce::to(topic) });
    }
    daemon
}

/// A new host does not know which producer ids the one before it kept from the destination, so it ends the epoch of
/// each mirrored one behind the copy; records there are none.
fn assert_only_markers_follow(destination: &Cluster, topic: &str, partition: i32, from: i64, to: i64) {
    const CONTROL: u8 = 1 << 5;
    let directory = destination.partition_directory(1, topic, partition);
    let mut behind = Vec::new();
    poll::poll_until("a broker shows the end of its log", || {
        let batches = concatenated_batches(&directory, 0).expect("readable");
        behind = batches.into_iter().filter(|batch| batch.base_offset >= from).collect();
        from == to || behind.last().is_some_and(|batch| batch.last_offset + 1 == to)
    });
    // The low byte of a batch's attributes is its 23rd.
    assert!(
        behind.iter().all(|batch| batch.bytes[22] & CONTROL != 0),
        "{topic}-{partition} from {from} to {to}"
    );
}

fn a_source_that_went_another_way_is_not_mirrored(source: &Cluster, destination: &Cluster) {
    let before = destination.scenario().describe_topic("lossy");
    lose_last_batches(source, "lossy", 3);
    produce(source, "lossy", 7);
    let fourth = host(source, destination);
    let mut daemon = fourth.start();
    daemon.poll_until_printed("FOLLOWERS_DIFFER");
    poll::poll_until("an operator is told", || {
        fourth
            .command(&["mirror", "describe", "lossy", "--output", "json"])
            .stdout
            .contains("FOLLOWERS_DIFFER")
    });
    assert_eq!(destination.scenario().describe_topic("lossy")[0].replicas, before[0].replicas);
    daemon.kill_hard();
}
