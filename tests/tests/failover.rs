//! Three brokers: leaders move, die, come back, and once lose what was mirrored.

use twinlog_tests::kafka::dump::Gaps;
use twinlog_tests::kafka::scenario::{Election, Produce};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");

#[test]
fn three_brokers_may_move_die_and_lose_data() {
    let cluster = Cluster::start(ClusterOptions { brokers: 3, ..ClusterOptions::default() });
    leaders_move_and_brokers_die_while_the_mirror_tails(&cluster);
    an_unclean_election_is_followed_within_the_bound_and_stops_beyond_it(&cluster);
}

fn leaders_move_and_brokers_die_while_the_mirror_tails(cluster: &Cluster) {
    let scenario = cluster.scenario();
    scenario.create_topic("moving", 3, 3, &[("min.insync.replicas", "1")]);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["moving"]);
    let mut running = mirror.tailing().spawn();
    scenario.start_producing("steady", &Produce { value_bytes: 300, ..Produce::to("moving") }, 1_000);
    for broker in 1..=3 {
        let before = ends(cluster);
        if broker == 2 {
            cluster.stop_broker(broker);
        } else {
            cluster.kill_broker(broker);
        }
        poll::poll_until("all partitions have leaders again", || {
            (0..3).all(|partition| {
                cluster.leader_of("moving", partition).is_some_and(|leader| leader != broker)
            })
        });
        poll::poll_until("the producers go on", || {
            ends(cluster).iter().sum::<i64>() > before.iter().sum::<i64>() + 500
        });
        assert!(running.is_running(), "the mirror does not end because a broker did");
        cluster.restart_broker(broker);
        poll::poll_until("every replica is in sync", || {
            scenario.describe_topic("moving").iter().all(|partition| partition.in_sync.len() == 3)
        });
    }
    for partition in 0..3 {
        scenario.elect_leader("moving", partition, Election::Preferred);
    }
    scenario.stop_producing("steady");
    running.terminate();
    running.wait().expect_code(0);
    mirror.caught_up();
    for broker in 1..=3 {
        mirror.assert_same(cluster, broker, "moving", Isolation::ReadUncommitted);
    }
    mirror.assert_dump_clean("moving", 3, Gaps::Forbidden);
    mirror.verify(true).expect_code(0);
}

fn ends(cluster: &Cluster) -> Vec<i64> {
    cluster.scenario().end_offsets("moving", Isolation::ReadUncommitted)
}

/// Broker 3 misses the end of the log, then becomes its leader: what only the dead leader had is gone.
fn lose_the_end(cluster: &Cluster, topic: &str, mirror: &Mirror, records: u32) {
    let scenario = cluster.scenario();
    let configs = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "false")];
    scenario.create_topic_on(topic, &[&[2, 3]], &configs);
    scenario.produce_mixed(&Produce { count: 3_000, value_bytes: 500, ..Produce::to(topic) });
    cluster.stop_broker(3);
    poll::poll_until("broker 3 is out of sync", || scenario.describe_topic(topic)[0].in_sync.len() == 1);
    scenario.produce_mixed(&Produce { count: records, value_bytes: 500, seed: 5, ..Produce::to(topic) });
    mirror.caught_up();
    cluster.kill_broker(2);
    cluster.restart_broker(3);
    poll::poll_until("nobody leads", || cluster.leader_of(topic, 0).is_none());
    scenario.elect_leader(topic, 0, Election::Unclean);
    poll::poll_until("the stale replica leads", || cluster.leader_of(topic, 0) == Some(3));
    // The log grows past the mirror's end again, with other bytes at the same offsets.
    scenario.produce_mixed(&Produce {
        count: records + 500,
        value_bytes: 500,
        seed: 6,
        ..Produce::to(topic)
    });
    cluster.restart_broker(2);
    poll::poll_until("both replicas are in sync", || scenario.describe_topic(topic)[0].in_sync.len() == 2);
}

fn an_unclean_election_is_followed_within_the_bound_and_stops_beyond_it(cluster: &Cluster) {
    let followed = Mirror::new(PROGRAM, &cluster.bootstrap(), &["cut-small"]);
    lose_the_end(cluster, "cut-small", &followed, 10);
    followed.caught_up();
    followed.assert_same(cluster, 3, "cut-small", Isolation::ReadUncommitted);
    followed.assert_dump_clean("cut-small", 1, Gaps::Forbidden);
    followed.verify(true).expect_code(0);
    let cuts = followed.data_directory().join(".twinlog").join("cuts");
    assert!(cuts.exists(), "what was cut is exported first");

    let stopped = Mirror::new(PROGRAM, &cluster.bootstrap(), &["cut-large"]);
    lose_the_end(cluster, "cut-large", &stopped, 2_000);
    let finished = stopped.catch_up().expect_code(1);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(said.contains("SOURCE_TRUNCATED") && said.contains("--restart-from"), "{said}");
    let followed = stopped.with(&["--on-truncation", "follow"]);
    followed.caught_up();
    followed.assert_same(cluster, 3, "cut-large", Isolation::ReadUncommitted);
    followed.verify(true).expect_code(0);
}
