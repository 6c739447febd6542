//! Guest mode between real clusters: mirror topics that stock brokers follow, byte for byte, whatever dies.

use crate::PROGRAM;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::batches::{concatenated_batches, lose_last_batches};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Codec, zoo};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const KILLS: u64 = 20;

#[test]
fn stock_brokers_follow_a_guest_whatever_dies() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    every_kind_of_log_arrives_on_every_broker(&source, &destination);
    a_daemon_killed_twenty_times_leaves_the_followers_whole(&source, &destination);
    topics_and_partitions_that_come_later_are_followed_too(&source, &destination);
    brokers_and_the_controller_may_die_meanwhile(&source, &destination);
    a_daemon_may_be_away_for_longer_than_its_session(&source, &destination);
    an_empty_store_goes_on_with_the_same_followers(&source, &destination);
    what_protects_a_mirror_topic_is_set_back(&source, &destination);
    what_the_source_lost_is_cut_on_every_broker(&source, &destination);
}

fn every_kind_of_log_arrives_on_every_broker(source: &Cluster, destination: &Cluster) {
    zoo::fill(source);
    let names: Vec<&str> = zoo::TOPICS.iter().map(|(name, _)| *name).collect();
    let mirror = GuestMirror::new(PROGRAM, source, destination, &names, &[]);
    let daemon = mirror.start();
    for name in &names {
        mirror.poll_until_followed(source, destination, name, &ALL);
    }
    source.scenario().produce_mixed(&Produce { count: 500, seed: 77, ..Produce::to("rich") });
    mirror.poll_until_followed(source, destination, "rich", &ALL);
    for name in &names {
        mirror.assert_same_on(source, destination, name, &ALL);
    }
    // Clients of the destination create topics as ever, and none of their partitions lands on us.
    destination.scenario().create_topic("theirs", 24, 3, &[]);
    for partition in destination.scenario().describe_topic("theirs") {
        assert!(!partition.replicas.contains(&GUEST), "{partition:?}");
    }
    destination.scenario().produce_mixed(&Produce::to("theirs"));
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn steady(topic: &str) -> Produce {
    Produce { value_bytes: 700, codec: Codec::Lz4, ..Produce::to(topic) }
}

/// Bytes of whole batches on a broker's disk.
fn stored_bytes(destination: &Cluster, broker: usize, topic: &str, partitions: i32) -> u64 {
    let directories = (0..partitions).map(|index| destination.partition_directory(broker, topic, index));
    let batches = directories.filter_map(|directory| concatenated_batches(&directory, 0).ok()).flatten();
    batches.map(|batch| batch.bytes.len() as u64).sum()
}

fn a_daemon_killed_twenty_times_leaves_the_followers_whole(source: &Cluster, destination: &Cluster) {
    source.scenario().create_topic("busy", 3, 1, &[zoo::SMALL_SEGMENTS]);
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["busy"], &[]);
    source.scenario().start_producing("steady", &steady("busy"), 1_000);
    // Moments differ from run to run; what must hold does not.
    let mut moment = RandomState::new().build_hasher().finish();
    for kill in 0..KILLS {
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(kill | 1);
        let wanted = stored_bytes(destination, 1, "busy", 3) + 1 + (moment >> 33) % 100_000;
        let mut daemon = mirror.start();
        poll::poll_until("a follower has stored some more", || {
            daemon.expect_running();
            stored_bytes(destination, 1, "busy", 3) >= wanted
        });
        daemon.kill_hard();
    }
    source.scenario().stop_producing("steady");
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    mirror.assert_same_on(source, destination, "busy", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn topics_and_partitions_that_come_later_are_followed_too(source: &Cluster, destination: &Cluster) {
    let scenario = source.scenario();
    scenario.create_topic("later-a", 1, 1, &[]);
    scenario.produce_mixed(&Produce::to("later-a"));
    let filter = "auto.create.mirror.topics.filters = [{ name = \"later-\", patternType = \"PREFIXED\", \
                  filterType = \"INCLUDE\" }]";
    let keys = ["auto.create.mirror.topics.enable = true", filter];
    let mirror = GuestMirror::new(PROGRAM, source, destination, &[], &keys);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "later-a", &ALL);
    scenario.create_topic("later-b", 2, 1, &[]);
    scenario.add_partitions("later-a", 3);
    scenario.produce_mixed(&Produce { count: 300, ..Produce::to("later-a") });
    scenario.produce_mixed(&Produce { count: 300, ..Produce::to("later-b") });
    for topic in ["later-a", "later-b"] {
        mirror.poll_until_followed(source, destination, topic, &ALL);
        mirror.assert_same_on(source, destination, topic, &ALL);
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn brokers_and_the_controller_may_die_meanwhile(source: &Cluster, destination: &Cluster) {
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["busy"], &[]);
    let daemon = mirror.start();
    source.scenario().start_producing("more", &steady("busy"), 500);
    let moves_on = |broker: usize| {
        let before = stored_bytes(destination, broker, "busy", 3);
        poll::poll_until("a follower stores more", || stored_bytes(destination, broker, "busy", 3) > before);
    };
    moves_on(1);
    destination.kill_broker(2);
    moves_on(1);
    destination.restart_broker(2);
    moves_on(2);
    destination.kill_controller(1);
    moves_on(1);
    destination.restart_controller(1);
    moves_on(3);
    source.scenario().stop_producing("more");
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    mirror.assert_same_on(source, destination, "busy", &ALL);
    daemon.kill_hard();
}

fn a_daemon_may_be_away_for_longer_than_its_session(source: &Cluster, destination: &Cluster) {
    poll::poll_until("the session of the killed daemon is over", || {
        destination.scenario().describe_topic("busy").iter().all(|partition| partition.in_sync.is_empty())
    });
    source.scenario().produce_mixed(&Produce { count: 200, seed: 5, ..Produce::to("busy") });
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["busy"], &[]);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    mirror.assert_same_on(source, destination, "busy", &ALL);
    daemon.kill_hard();
}

/// Another host, or a lost disk: the same ids, nothing stored (decisions 21).
fn an_empty_store_goes_on_with_the_same_followers(source: &Cluster, destination: &Cluster) {
    let before = stored_bytes(destination, 1, "busy", 3);
    source.scenario().produce_mixed(&Produce { count: 200, seed: 6, ..Produce::to("busy") });
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["busy"], &[]);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    assert!(stored_bytes(destination, 1, "busy", 3) > before, "nothing was cut on the way");
    mirror.assert_same_on(source, destination, "busy", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn what_protects_a_mirror_topic_is_set_back(source: &Cluster, destination: &Cluster) {
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["busy"], &[]);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    destination
        .scenario()
        .alter_topic_configs("busy", &[("min.insync.replicas", "2"), ("retention.ms", "604800000")]);
    poll::poll_until("the guards are back", || {
        let value = |key: &str| destination.scenario().topic_config("busy", key);
        value("min.insync.replicas") == "1" && value("retention.ms") == "-1"
    });
    for partition in destination.scenario().describe_topic("busy") {
        assert!(partition.replicas.contains(&GUEST), "still ours: {partition:?}");
    }
    source.scenario().produce_mixed(&Produce { count: 50, seed: 8, ..Produce::to("busy") });
    mirror.poll_until_followed(source, destination, "busy", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn what_the_source_lost_is_cut_on_every_broker(source: &Cluster, destination: &Cluster) {
    source.scenario().create_topic("lossy", 1, 1, &[]);
    let produce = |seed: u32| {
        source.scenario().produce_mixed(&Produce {
            count: 300,
            seed,
            batch_bytes: 2_000,
            ..Produce::to("lossy")
        })
    };
    produce(1);
    let keys = ["on.truncation = \"follow\""];
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["lossy"], &keys);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "lossy", &ALL);
    // Once while we watch, once while we are down.
    source.stop_broker(1);
    lose_last_batches(&source.partition_directory(1, "lossy", 0), 3);
    source.restart_broker(1);
    produce(2);
    mirror.poll_until_followed(source, destination, "lossy", &ALL);
    mirror.assert_same_on(source, destination, "lossy", &ALL);
    daemon.kill_hard();
    source.stop_broker(1);
    lose_last_batches(&source.partition_directory(1, "lossy", 0), 2);
    source.restart_broker(1);
    produce(9);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "lossy", &ALL);
    mirror.assert_same_on(source, destination, "lossy", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}
