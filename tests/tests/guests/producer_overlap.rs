//! Producers of the destination whose ids mirrored records carry too: never a record that is acknowledged and lost.

use crate::PROGRAM;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::raw_producer::RawProducer;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const INVALID_PRODUCER_EPOCH: i16 = 47;
/// Far above what the link's start lifts the destination's ids to.
const FAR: i64 = 250_000;

/// Before there is any link, two producers of the destination got ids: one has written nothing, one something.
struct Early {
    silent: i64,
    heard: i64,
}

#[test]
fn a_producer_with_a_mirrored_id_loses_nothing_silently() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    destination.scenario().create_topic_on("ordinary", &[&[1, 2, 3]], &[]);
    let mut before = RawProducer::connect(&destination.address(1));
    let early = Early { silent: before.fresh_id(), heard: before.fresh_id() };
    assert_eq!(before.produce(("ordinary", 0), (early.heard, 0), 0), (0, 0));
    collides_at_the_source(&source, &early);
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[".*"], &[]);
    let mut daemon = mirror.start();
    for topic in ["silent", "heard", "clean", "far"] {
        mirror.poll_until_followed(&source, &destination, topic, &ALL);
        mirror.poll_until_state(topic, "ACTIVE");
    }
    the_floor_is_lifted_when_a_mirrored_id_reaches_it(&source, &destination, &mirror, &mut daemon);
    nothing_is_added_where_no_id_is_at_risk(&source, &destination, &mirror);
    one_that_nobody_sees_is_refused_by_its_epoch(&destination, &mirror, &early);
    one_that_is_seen_ends_the_promote(&destination, &mirror, &early);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn collides_at_the_source(source: &Cluster, early: &Early) {
    let mut producer = RawProducer::connect(&source.address(1));
    for topic in ["silent", "heard", "clean", "far"] {
        source.scenario().create_topic(topic, 1, 1, &[]);
    }
    assert_eq!(producer.produce(("silent", 0), (early.silent, 0), 0), (0, 0));
    assert_eq!(producer.produce(("heard", 0), (early.heard, 0), 0), (0, 0));
    // The danger itself: whoever comes with the same id, epoch and sequence is answered as if it had been written.
    assert_eq!(producer.produce(("silent", 0), (early.silent, 0), 0), (0, 0));
    assert_eq!(source.scenario().end_offsets("silent", Isolation::ReadUncommitted), [1]);
    // An id that the destination has not handed out and never will.
    assert_eq!(producer.produce(("clean", 0), (50_000, 0), 0), (0, 0));
}

fn the_floor_is_lifted_when_a_mirrored_id_reaches_it(
    source: &Cluster,
    destination: &Cluster,
    mirror: &GuestMirror,
    daemon: &mut Running,
) {
    println!("the floor is lifted again");
    daemon.poll_until_printed("hands out no producer id below");
    let mut producer = RawProducer::connect(&source.address(1));
    assert_eq!(producer.produce(("far", 0), (FAR, 0), 0), (0, 0));
    mirror.poll_until_followed(source, destination, "far", &ALL);
    daemon.poll_until_printed(&format!("a mirrored record carries producer id {FAR}"));
    daemon.poll_until_printed(&format!("hands out no producer id below {}", FAR + 1 + 100_000));
    for broker in ALL {
        let fresh = RawProducer::connect(&destination.address(broker)).fresh_id();
        assert!(fresh > FAR, "broker {broker} hands out {fresh}");
    }
    poll::poll_until("the alarm is over", || {
        let status = mirror.command(&["status", "--output", "json"]);
        status.code() == Some(0) && !status.stdout.contains("PRODUCER_IDS")
    });
}

/// The broker that leads the only partition of a topic that was handed over.
fn leader(destination: &Cluster, topic: &str) -> RawProducer {
    let partition = destination.scenario().describe_topic(topic).remove(0);
    assert!((1..GUEST).contains(&partition.leader), "{topic}: {partition:?}");
    RawProducer::connect(&destination.address(usize::try_from(partition.leader).expect("a broker")))
}

fn ends(destination: &Cluster, topic: &str) -> [Vec<i64>; 2] {
    [Isolation::ReadUncommitted, Isolation::ReadCommitted]
        .map(|isolation| destination.scenario().end_offsets(topic, isolation))
}

fn nothing_is_added_where_no_id_is_at_risk(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    println!("adds nothing where no id is at risk");
    mirror.command(&["mirror", "promote", "clean", "far"]).expect_code(0);
    for topic in ["clean", "far"] {
        mirror.assert_same_on(source, destination, topic, &ALL);
        assert_eq!(ends(destination, topic), [[1], [1]], "{topic}");
    }
}

/// A producer with a mirrored id meets with an error, goes on with the next epoch, and everything that was
/// acknowledged is there.
fn assert_refused_then_taken(destination: &Cluster, topic: &str, id: i64) {
    // The mirrored record, and the marker that ended its producer's epoch.
    assert_eq!(ends(destination, topic), [[2], [2]], "{topic}");
    let mut producer = leader(destination, topic);
    for sequence in [0, 1] {
        let (code, _) = producer.produce((topic, 0), (id, 0), sequence);
        assert_eq!(code, INVALID_PRODUCER_EPOCH, "{topic}, sequence {sequence}");
    }
    assert_eq!(producer.produce((topic, 0), (id, 1), 0), (0, 2), "{topic}");
    assert_eq!(ends(destination, topic), [[3], [3]], "{topic}");
    // Others never notice.
    let fresh = producer.fresh_id();
    assert_eq!(producer.produce((topic, 0), (fresh, 0), 0), (0, 3), "{topic}");
}

fn one_that_nobody_sees_is_refused_by_its_epoch(destination: &Cluster, mirror: &GuestMirror, early: &Early) {
    println!("a producer that nobody sees");
    mirror.command(&["mirror", "promote", "silent"]).expect_code(0);
    assert_refused_then_taken(destination, "silent", early.silent);
    let limit = destination.scenario().topic_config("silent", "max.message.bytes");
    assert!(limit.parse::<u32>().expect("a number") > 1_000_000, "{limit}");
}

fn one_that_is_seen_ends_the_promote(destination: &Cluster, mirror: &GuestMirror, early: &Early) {
    println!("a producer that is seen");
    let refused = mirror.command(&["mirror", "promote", "heard"]).expect_code(1);
    let why = format!("producer id {} is a mirrored one, and ordinary-0", early.heard);
    assert!(refused.stdout.contains(&why), "{}{}", refused.stdout, refused.stderr);
    mirror.poll_until_state("heard", "ACTIVE");
    assert!(destination.scenario().describe_topic("heard")[0].replicas.contains(&GUEST));
    mirror.command(&["mirror", "promote", "heard", "--allow-producer-overlap"]).expect_code(0);
    assert_refused_then_taken(destination, "heard", early.heard);
}
