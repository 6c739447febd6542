//! One process as several guest brokers, and what operators and dying controllers do to its mirror topics.

use crate::PROGRAM;
use std::collections::BTreeSet;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::{PartitionDescription, Produce};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const SECOND_GUEST: i32 = GUEST + 1;
/// Promoted while the active controller dies, at these steps.
const CONTROLLER_DIES_AT: [&str; 2] = ["FROZEN", "REASSIGNED"];
/// Its promote is cancelled on the way.
const CANCELLED: &str = "cancelled";

#[test]
fn two_guest_ids_in_one_process_outlive_what_is_done_to_them() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(3));
    for (topic, partitions) in [("many", 8), ("moved", 2), ("kept", 6)] {
        source.scenario().create_topic(topic, partitions, 1, &[]);
        source.scenario().produce_mixed(&Produce { count: 400, ..Produce::to(topic) });
    }
    for topic in CONTROLLER_DIES_AT.into_iter().chain([CANCELLED]) {
        source.scenario().create_topic(topic, 4, 1, &[]);
        source.scenario().produce_mixed(&Produce::to(topic));
    }
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[".*"], &[]).with_leading_ids(2);
    let daemon = mirror.start_on(data_cores(2));
    for topic in ["many", "moved", "kept"].into_iter().chain(CONTROLLER_DIES_AT).chain([CANCELLED]) {
        mirror.poll_until_followed(&source, &destination, topic, &ALL);
        mirror.poll_until_state(topic, "ACTIVE");
    }
    let daemon = fewer_cores_move_no_leadership(&source, &destination, &mirror, daemon);
    both_ids_hand_one_topic_over(&source, &destination, &mirror);
    let daemon = the_active_controller_dies(&source, &destination, &mirror, daemon);
    let daemon = an_operator_cancels(&source, &destination, &mirror, daemon);
    an_operator_moves_replicas(&source, &destination, &mirror);
    a_broker_comes_later(&source, &destination, &mirror);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

/// As many cores as there are, `wanted` at most.
fn data_cores(wanted: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(wanted)
}

/// Who leads each partition at the destination, by the daemon's own word: clients see no leader.
fn led_by(mirror: &GuestMirror, topic: &str) -> Vec<(i64, i64)> {
    let mut led = Vec::new();
    poll::poll_until(&format!("every partition of {topic} is told as led"), || {
        let told = mirror.describe(topic);
        let partitions = told["partitions"].as_array().cloned().unwrap_or_default();
        let each = partitions.iter().map(|partition| {
            Some((partition["guest_broker_id"].as_i64()?, partition["leader_epoch"].as_i64()?))
        });
        let all: Option<Vec<_>> = each.collect();
        led = all.unwrap_or_default();
        !led.is_empty()
    });
    led
}

fn is_stock(partition: &PartitionDescription) -> bool {
    (1..GUEST).contains(&partition.leader) && partition.replicas.iter().all(|broker| *broker < GUEST)
}

/// Led by stock brokers, the source's bytes on all of these, and writable.
fn assert_handed_over(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    topic: &str,
    brokers: &[usize],
) {
    mirror.poll_until_state(topic, "STOPPED");
    let partitions = destination.scenario().describe_topic(topic);
    assert!(partitions.iter().all(is_stock), "{topic}: {partitions:?}");
    mirror.assert_same_on(source, destination, topic, brokers);
    let sum =
        || -> i64 { destination.scenario().end_offsets(topic, Isolation::ReadUncommitted).iter().sum() };
    let before = sum();
    let written = destination.scenario().produce_mixed(&Produce { count: 20, seed: 7, ..Produce::to(topic) });
    assert_eq!(sum() - before, i64::try_from(written).expect("few"), "{topic}");
}

fn fewer_cores_move_no_leadership(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    daemon: Running,
) -> Running {
    println!("starts again with one data core");
    let before = [led_by(mirror, "many"), led_by(mirror, "kept")];
    for led in &before {
        let ids: BTreeSet<i64> = led.iter().map(|(guest, _)| *guest).collect();
        assert_eq!(ids, BTreeSet::from([GUEST.into(), SECOND_GUEST.into()]), "both ids lead: {led:?}");
    }
    daemon.kill_hard();
    source.scenario().produce_mixed(&Produce { seed: 2, ..Produce::to("many") });
    let daemon = mirror.start_on(1);
    mirror.poll_until_followed(source, destination, "many", &ALL);
    mirror.assert_same_on(source, destination, "many", &ALL);
    for (topic, led) in ["many", "kept"].into_iter().zip(before) {
        let ids = |led: &[(i64, i64)]| led.iter().map(|(guest, _)| *guest).collect::<Vec<_>>();
        assert_eq!(ids(&led_by(mirror, topic)), ids(&led), "{topic}");
    }
    daemon
}

fn both_ids_hand_one_topic_over(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("promotes a topic of both ids");
    mirror.command(&["mirror", "promote", "many"]).expect_code(0);
    assert_handed_over(source, destination, mirror, "many", &ALL);
}

fn the_active_controller_dies(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    mut daemon: Running,
) -> Running {
    for step in CONTROLLER_DIES_AT {
        println!("the active controller dies at {step}");
        let active = destination.active_controller();
        mirror.command(&["mirror", "promote", step, "--no-wait"]).expect_code(0);
        daemon.poll_until_printed(&format!("promote of {step}: {step}"));
        destination.kill_controller(active);
        assert_handed_over(source, destination, mirror, step, &ALL);
        destination.restart_controller(active);
    }
    daemon.expect_running();
    daemon
}

/// The daemon is killed when it has kept that it reassigns; its request is carried out all the same, as one that was
/// on its way would be, and somebody cancels it. It comes back, sees that nothing is pending, proves everything anew
/// and begins again.
fn an_operator_cancels(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    mut daemon: Running,
) -> Running {
    println!("an operator cancels the reassignment");
    mirror.command(&["mirror", "promote", CANCELLED, "--no-wait"]).expect_code(0);
    daemon.poll_until_printed(&format!("promote of {CANCELLED}: REASSIGNED"));
    daemon.kill_hard();
    let partitions = destination.scenario().describe_topic(CANCELLED);
    for (partition, index) in partitions.iter().zip(0..) {
        let stock: Vec<i32> = partition.replicas.iter().copied().filter(|broker| *broker < GUEST).collect();
        assert_eq!(stock.len(), 3, "nothing was handed over yet: {partition:?}");
        destination.scenario().start_reassignment(CANCELLED, index, &stock);
    }
    assert_eq!(destination.scenario().cancel_reassignments(CANCELLED), 4);
    for partition in destination.scenario().describe_topic(CANCELLED) {
        assert!(partition.replicas.iter().any(|broker| *broker >= GUEST), "{partition:?}");
        assert!(!is_stock(&partition), "{partition:?}");
    }
    let daemon = mirror.start_on(1);
    assert_handed_over(source, destination, mirror, CANCELLED, &ALL);
    daemon
}

/// With us as the only in-sync replica the controller completes nothing of it: both stay pending, the mirror goes on,
/// and a promote takes their place with every live broker, in the order that was asked for.
fn an_operator_moves_replicas(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("an operator moves the replicas of a mirror topic");
    let guests = led_by(mirror, "moved").into_iter().map(|(guest, _)| i32::try_from(guest).expect("an id"));
    let guests: Vec<i32> = guests.collect();
    // One copy less, in another order; and without us.
    destination.scenario().start_reassignment("moved", 0, &[guests[0], 2, 1]);
    destination.scenario().start_reassignment("moved", 1, &[3, 1, 2]);
    let replicas = || -> Vec<Vec<i32>> {
        let partitions = destination.scenario().describe_topic("moved").into_iter();
        partitions.map(|partition| partition.replicas).collect()
    };
    poll::poll_until("both are under way", || {
        replicas() == [vec![guests[0], 2, 1, 3], vec![3, 1, 2, guests[1]]]
    });
    source.scenario().produce_mixed(&Produce { seed: 3, ..Produce::to("moved") });
    mirror.poll_until_followed(source, destination, "moved", &ALL);
    let partitions = destination.scenario().describe_topic("moved");
    assert!(!partitions.iter().any(is_stock), "it is a mirror still: {partitions:?}");
    mirror.command(&["mirror", "promote", "moved"]).expect_code(0);
    assert_handed_over(source, destination, mirror, "moved", &ALL);
    assert_eq!(replicas(), [[2, 1, 3], [3, 1, 2]]);
}

/// Broker 3 leaves for good, as far as the cluster knows, and another one registers under its number.
fn a_broker_comes_later(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("a broker comes later");
    destination.kill_broker(3);
    let servers = destination.address(1);
    let words = ["unregister", "--bootstrap-server", &servers, "--id", "3"];
    let output = destination.tool("org.apache.kafka.tools.ClusterTool", &words);
    assert!(output.status.success(), "{output:?}");
    source.scenario().produce_mixed(&Produce { seed: 4, ..Produce::to("kept") });
    mirror.poll_until_followed(source, destination, "kept", &[1, 2]);
    destination.restart_broker(3);
    source.scenario().create_topic("late", 6, 1, &[]);
    source.scenario().produce_mixed(&Produce::to("late"));
    for topic in ["late", "kept"] {
        mirror.poll_until_followed(source, destination, topic, &ALL);
        mirror.poll_until_state(topic, "ACTIVE");
    }
    let partitions = destination.scenario().describe_topic("late");
    assert!(partitions.iter().all(|partition| partition.replicas.contains(&3)), "{partitions:?}");
    mirror.command(&["mirror", "promote", "late", "kept"]).expect_code(0);
    for topic in ["late", "kept"] {
        assert_handed_over(source, destination, mirror, topic, &ALL);
    }
}
