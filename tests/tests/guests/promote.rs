//! Promote and failover between real clusters: mirror topics become ordinary ones, or stay as they were.

use crate::PROGRAM;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::{Keyed, PartitionDescription, Produce, Transactions};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation, zoo};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
/// Each is promoted once, with a kill when the named step has been kept.
const KILLED_AT: [&str; 10] = [
    "CAPTURED",
    "FROZEN",
    "FOLLOWERS_PROVEN",
    "PRODUCER_IDS_FLOORED",
    "GROUPS_COMMITTED",
    "REASSIGNED",
    "HANDED_OVER",
    "VERIFIED",
    "CONFIGS_RESTORED",
    "DONE",
];

#[test]
fn mirror_topics_become_topics_of_stock_brokers() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    zoo::fill(&source);
    for topic in ["open", "moving", "two", "lost", "orphan"].into_iter().chain(KILLED_AT) {
        source.scenario().create_topic(topic, 2, 1, &[]);
        source.scenario().produce_mixed(&Produce::to(topic));
    }
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[".*"], &[]);
    let daemon = mirror.start();
    refuses_a_source_that_is_written_to(&source, &destination, &mirror);
    promotes_every_kind_of_log(&source, &destination, &mirror);
    let daemon = comes_back_at_every_step(&source, &destination, &mirror, daemon);
    leaves_a_dead_broker_out(&source, &destination, &mirror);
    takes_over_without_its_source(&source, &destination, &mirror);
    let daemon = takes_over_after_a_restart_without_its_source(&destination, &mirror, daemon);
    mirror.command(&["guest", "leave"]).expect_code(0);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn promote(mirror: &GuestMirror, topics: &[&str]) {
    let words: Vec<&str> = ["mirror", "promote"].iter().chain(topics).copied().collect();
    mirror.command(&words).expect_code(0);
}

fn is_stock(partition: &PartitionDescription) -> bool {
    (1..GUEST).contains(&partition.leader) && partition.replicas.iter().all(|broker| *broker < GUEST)
}

/// The topic is led by stock brokers, ends where the source does for every kind of reader, and takes records
/// of every kind of producer right there.
fn assert_is_an_ordinary_topic(source: &Cluster, destination: &Cluster, topic: &str) {
    let (from, to) = (source.scenario(), destination.scenario());
    let partitions = to.describe_topic(topic);
    assert!(partitions.iter().all(is_stock), "{topic}: {partitions:?}");
    let ends = from.end_offsets(topic, Isolation::ReadUncommitted);
    assert_eq!(from.start_offsets(topic), to.start_offsets(topic), "{topic}");
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        assert_eq!(ends, to.end_offsets(topic, isolation), "{topic} {isolation:?}");
    }
    let more = Produce { count: 40, seed: 9, ..Produce::to(topic) };
    let written = match topic {
        // A compacted topic takes nothing without a key.
        "compacted" => {
            let keyed = Keyed { keys: 10, rounds: 2, round_ms: 1_000, tombstone_percent: 10 };
            to.produce_keyed(&Produce { partition: Some(0), ..more }, keyed)
        }
        _ => to.produce_mixed(&more),
    };
    let after: i64 = to.end_offsets(topic, Isolation::ReadUncommitted).iter().sum();
    assert_eq!(after - ends.iter().sum::<i64>(), i64::try_from(written).expect("few"), "{topic}: {ends:?}");
    if topic == "compacted" {
        return;
    }
    let transactions = Produce { count: 6, ..Produce::to(topic) };
    let ended = to.produce_transactions(&transactions, Transactions { producers: 2, abort_percent: 50 });
    let unstable = poll::poll_within(poll::HANG_LIMIT, || {
        let ends = to.end_offsets(topic, Isolation::ReadUncommitted);
        (ends == to.end_offsets(topic, Isolation::ReadCommitted)).then_some(())
    });
    assert!(unstable.is_some() && ended.commits > 0, "{topic}: {ended:?}");
}

fn refuses_a_source_that_is_written_to(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("refuses an open transaction");
    for topic in ["open", "moving"] {
        mirror.poll_until_followed(source, destination, topic, &ALL);
        mirror.poll_until_state(topic, "ACTIVE");
    }
    let dry = mirror.command(&["mirror", "promote", "open", "--dry-run"]).expect_code(0);
    assert!(dry.stdout.contains("PartitionMirrorLag"), "{}", dry.stdout);
    let open = Produce { partition: Some(0), count: 3, ..Produce::to("open") };
    source.scenario().open_transaction("t", &open);
    let refused = mirror.command(&["mirror", "promote", "open"]).expect_code(1);
    assert!(refused.stdout.contains("open transactions"), "{}{}", refused.stdout, refused.stderr);
    source.scenario().finish_transaction("t", true);
    println!("refuses a moving source");
    source.scenario().start_producing("p", &Produce::to("moving"), 500);
    let refused = mirror.command(&["mirror", "promote", "moving"]).expect_code(1);
    assert!(!refused.stdout.is_empty());
    source.scenario().stop_producing("p");
    for topic in ["open", "moving"] {
        mirror.poll_until_state(topic, "ACTIVE");
        assert!(
            destination
                .scenario()
                .describe_topic(topic)
                .iter()
                .all(|each| each.in_sync == [GUEST] || each.leader == -1)
        );
        promote(mirror, &[topic]);
        assert_is_an_ordinary_topic(source, destination, topic);
    }
}

fn promotes_every_kind_of_log(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("promotes the zoo");
    let names: Vec<&str> = zoo::TOPICS.iter().map(|(name, _)| *name).collect();
    for name in &names {
        mirror.poll_until_followed(source, destination, name, &ALL);
        mirror.poll_until_state(name, "ACTIVE");
    }
    promote(mirror, &names);
    destination.scenario().create_topic("placed", 12, 3, &[]);
    assert!(destination.scenario().describe_topic("placed").iter().all(is_stock));
    for name in &names {
        mirror.assert_same_on(source, destination, name, &ALL);
        assert_eq!(mirror.describe(name)["state"], "STOPPED");
        assert_is_an_ordinary_topic(source, destination, name);
    }
    let again = mirror.command(&["mirror", "promote", names[0]]).expect_code(1);
    assert!(again.stdout.contains("STOPPED"), "{}", again.stdout);
}

/// Kills the daemon as soon as a step is kept, once for each; every hand-over goes on by itself.
fn comes_back_at_every_step(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    mut daemon: Running,
) -> Running {
    for step in KILLED_AT {
        println!("is killed at {step}");
        mirror.poll_until_followed(source, destination, step, &ALL);
        mirror.poll_until_state(step, "ACTIVE");
        mirror.command(&["mirror", "promote", step, "--no-wait"]).expect_code(0);
        daemon.poll_until_printed(&format!("promote of {step}: {step}"));
        daemon.kill_hard();
        daemon = mirror.start();
        mirror.poll_until_state(step, "STOPPED");
        assert_is_an_ordinary_topic(source, destination, step);
    }
    // What was promoted long ago was touched by none of the restarts.
    let partitions = destination.scenario().describe_topic("rich");
    assert!(partitions.iter().all(is_stock), "{partitions:?}");
    daemon
}

fn leaves_a_dead_broker_out(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("leaves a dead broker out");
    mirror.poll_until_followed(source, destination, "two", &ALL);
    mirror.poll_until_state("two", "ACTIVE");
    destination.kill_broker(3);
    poll::poll_until("the controller knows that broker 3 is dead", || {
        let partitions = destination.scenario().describe_topic("placed");
        partitions.iter().all(|partition| !partition.in_sync.contains(&3))
    });
    promote(mirror, &["two"]);
    for partition in destination.scenario().describe_topic("two") {
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        assert_eq!(replicas, [1, 2], "{partition:?}");
    }
    destination.restart_broker(3);
    assert_is_an_ordinary_topic(source, destination, "two");
}

fn takes_over_without_its_source(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("fails over");
    let first = Produce { partition: Some(0), count: 5, ..Produce::to("lost") };
    // The first one's end lies behind the beginning of the second: the copy ends between them.
    source.scenario().open_transaction("first", &first);
    source.scenario().open_transaction("second", &first);
    let stable_end = || source.scenario().end_offsets("lost", Isolation::ReadCommitted)[0];
    let before = stable_end();
    source.scenario().finish_transaction("first", true);
    // A commit returns before its marker is written.
    poll::poll_until("the first one is stable", || stable_end() == before + 5);
    mirror.poll_until_followed(source, destination, "lost", &ALL);
    mirror.poll_until_state("lost", "ACTIVE");
    let mut ends = source.scenario().end_offsets("lost", Isolation::ReadCommitted);
    source.kill_broker(1);
    mirror.command(&["mirror", "failover", "lost"]).expect_code(0);
    let to = destination.scenario();
    assert!(to.describe_topic("lost").iter().all(is_stock));
    // What was open is ended by one marker.
    ends[0] += 1;
    assert_eq!(to.end_offsets("lost", Isolation::ReadUncommitted), ends);
    assert_eq!(to.end_offsets("lost", Isolation::ReadCommitted), ends);
    let written = to.produce_mixed(&Produce { count: 40, seed: 9, ..Produce::to("lost") });
    let after: i64 = to.end_offsets("lost", Isolation::ReadUncommitted).iter().sum();
    assert_eq!(after - ends.iter().sum::<i64>(), i64::try_from(written).expect("few"));
}

fn takes_over_after_a_restart_without_its_source(
    destination: &Cluster,
    mirror: &GuestMirror,
    daemon: Running,
) -> Running {
    println!("fails over after a restart");
    daemon.kill_hard();
    let daemon = mirror.start();
    // The socket is there before the source was found to be silent.
    mirror.poll_until_state("orphan", "ACTIVE");
    mirror.command(&["mirror", "failover", "orphan"]).expect_code(0);
    let to = destination.scenario();
    assert!(to.describe_topic("orphan").iter().all(is_stock));
    let before: i64 = to.end_offsets("orphan", Isolation::ReadUncommitted).iter().sum();
    assert_eq!(before, 100, "all that the source had");
    to.produce_mixed(&Produce { count: 7, seed: 3, ..Produce::to("orphan") });
    let after: i64 = to.end_offsets("orphan", Isolation::ReadUncommitted).iter().sum();
    assert_eq!(after - before, 7);
    daemon
}
