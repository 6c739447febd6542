//! A guest is no place for the destination's own partitions: whoever is placed on it is moved to stock brokers.

use crate::PROGRAM;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::{PartitionDescription, Produce};
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
/// The oldest that a guest joins: no cordon, requests one version older than those of its successors.
const OLDEST: &str = "4.0.1";
const PLACED: &str = "is not a mirror of ours and was placed on us";

fn source() -> Cluster {
    let source = Cluster::start(ClusterOptions::default());
    source.scenario().create_topic("mirrored", 6, 1, &[]);
    source.scenario().produce_mixed(&Produce::to("mirrored"));
    source
}

/// Every partition is led by a stock broker and has `copies` of them, and takes a record.
fn assert_settles_on_stock_brokers(destination: &Cluster, topic: &str, copies: usize) {
    let is_settled = |partition: &PartitionDescription| {
        let mut in_sync = partition.in_sync.clone();
        let mut replicas = partition.replicas.clone();
        in_sync.sort_unstable();
        replicas.sort_unstable();
        partition.leader > 0
            && replicas.len() == copies
            && replicas.iter().all(|id| *id < GUEST)
            && in_sync == replicas
    };
    let mut last = Vec::new();
    let settled = poll::poll_within(poll::HANG_LIMIT, || {
        last = destination.scenario().describe_topic(topic);
        last.iter().all(is_settled).then_some(())
    });
    assert!(settled.is_some(), "{topic} has not {copies} stock replicas everywhere: {last:?}");
    let before: i64 = ends(destination, topic);
    let wanted = Produce { count: 40, all_in_sync: true, ..Produce::to(topic) };
    let written = destination.scenario().produce_mixed(&wanted);
    assert_eq!(ends(destination, topic) - before, i64::try_from(written).expect("few"), "{topic}");
}

fn ends(cluster: &Cluster, topic: &str) -> i64 {
    cluster.scenario().end_offsets(topic, twinlog_tests::kafka::Isolation::ReadUncommitted).iter().sum()
}

#[test]
fn a_cluster_without_a_cordon_gets_back_what_it_places_on_us() {
    let source = source();
    let destination = Cluster::start(ClusterOptions::destination(1).of_version(OLDEST));
    refuses_unless_it_is_allowed(&source, &destination);
    let allowed = ["guest.allow.placement.eviction = true"];
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["mirrored"], &[]);
    let mirror = mirror.with_destination_keys(&allowed);
    let mut daemon = mirror.start();
    mirror.poll_until_followed(&source, &destination, "mirrored", &ALL);
    println!("places topics on a running guest");
    for index in 0..4 {
        destination.scenario().create_topic(&format!("three-{index}"), 6, 3, &[]);
        destination.scenario().create_topic(&format!("one-{index}"), 6, 1, &[]);
    }
    daemon.poll_until_printed(PLACED);
    for index in 0..4 {
        assert_settles_on_stock_brokers(&destination, &format!("three-{index}"), 3);
        assert_settles_on_stock_brokers(&destination, &format!("one-{index}"), 1);
    }
    println!("places topics on a guest that was killed");
    daemon.kill_hard();
    for index in 4..8 {
        destination.scenario().create_topic(&format!("three-{index}"), 6, 3, &[]);
    }
    let mut daemon = mirror.start();
    daemon.poll_until_printed(PLACED);
    for index in 4..8 {
        assert_settles_on_stock_brokers(&destination, &format!("three-{index}"), 3);
    }
    println!("the mirror has seen nothing of it");
    source.scenario().produce_mixed(&Produce { seed: 2, ..Produce::to("mirrored") });
    mirror.poll_until_followed(&source, &destination, "mirrored", &ALL);
    mirror.assert_same_on(&source, &destination, "mirrored", &ALL);
    mirror.command(&["mirror", "promote", "mirrored"]).expect_code(0);
    assert_settles_on_stock_brokers(&destination, "mirrored", 3);
    mirror.command(&["guest", "leave"]).expect_code(0);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn refuses_unless_it_is_allowed(source: &Cluster, destination: &Cluster) {
    println!("refuses");
    let mirror = GuestMirror::new(PROGRAM, source, destination, &["mirrored"], &[]);
    let refused = mirror.start().wait().expect_code(1);
    assert!(refused.stdout.contains("guest.allow.placement.eviction = true"), "{}", refused.stdout);
    assert!(!refused.stderr.contains("registered it"), "it registered nevertheless: {}", refused.stderr);
}

#[test]
fn what_an_operator_places_on_us_by_hand_goes_to_stock_brokers() {
    let source = source();
    let destination = Cluster::start(ClusterOptions::destination(1));
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["mirrored"], &[]);
    let daemon = mirror.start();
    mirror.poll_until_followed(&source, &destination, "mirrored", &ALL);
    let by_hand: [&[i32]; 3] = [&[GUEST, 1, 2], &[2, GUEST, 1], &[3, 1, GUEST]];
    destination.scenario().create_topic_on("three", &by_hand, &[]);
    destination.scenario().create_topic_on("one", &[&[GUEST], &[GUEST]], &[]);
    assert_settles_on_stock_brokers(&destination, "three", 3);
    assert_settles_on_stock_brokers(&destination, "one", 1);
    mirror.assert_same_on(&source, &destination, "mirrored", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}
