//! `client.rack`: the mirror reads from the replica in its own rack, and from the leader again without it.

use twinlog_tests::kafka::batches::batches_before_damage;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const LEADER: usize = 1;
const NEAR: usize = 3;
/// So slow that a source is looked at in the middle of it, and stopped and killed there.
const KEYS: [&str; 3] = [
    "link.bytes.per.second = 1048576",
    "replica.fetch.max.bytes = 131072",
    "source.client.rack = \"rack-3\"",
];

#[test]
fn bytes_come_from_the_replica_in_our_rack_and_from_the_leader_when_it_dies() {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let options = ClusterOptions { brokers: 3, ..ClusterOptions::default() };
    let options = options
        .with_override("broker.rack", "rack-{id}")
        .with_override("replica.selector.class", selector)
        // A leader that is stopped for a while stays the leader.
        .with_override("broker.session.timeout.ms", "30000");
    let cluster = Cluster::start(options);
    let scenario = cluster.scenario();
    scenario.create_topic_on("wide", &[&[1, 2, 3]], &[]);
    scenario.produce_mixed(&Produce { count: 16_000, value_bytes: 1_000, ..Produce::to("wide") });
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["wide"]).with_keys(&KEYS);
    let mut running = mirror.tailing().spawn();
    poll::poll_until("the mirror has begun", || stored_bytes(&mirror) > 1 << 20);

    // The leader says nothing any more: whatever still comes, comes from the replica in our rack.
    cluster.pause_broker(LEADER);
    let before = stored_bytes(&mirror);
    poll::poll_until("the near replica has sent some MiB", || {
        running.expect_running();
        stored_bytes(&mirror) > before + (3 << 20)
    });
    cluster.continue_broker(LEADER);
    assert_eq!(cluster.leader_of("wide", 0), Some(LEADER));

    cluster.kill_broker(NEAR);
    let ends = scenario.end_offsets("wide", Isolation::ReadCommitted);
    let source = cluster.partition_directory(LEADER, "wide", 0);
    poll::poll_until("the leader has sent the rest", || {
        running.expect_running();
        mirror.difference(&source, "wide", 0, 0).is_none() && stored_end(&mirror) == ends[0]
    });
    running.terminate();
    running.wait().expect_code(0);
    mirror.assert_same(&cluster, LEADER, "wide", Isolation::ReadCommitted);
    mirror.verify(false).expect_code(0);
}

fn stored_bytes(mirror: &Mirror) -> u64 {
    let batches = batches_before_damage(&mirror.partition_directory("wide", 0)).0;
    batches.iter().map(|batch| batch.bytes.len() as u64).sum()
}

fn stored_end(mirror: &Mirror) -> i64 {
    let batches = batches_before_damage(&mirror.partition_directory("wide", 0)).0;
    batches.last().map_or(0, |batch| batch.last_offset + 1)
}
