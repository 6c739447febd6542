//! Guest mode between real clusters: mirror topics that stock brokers follow, byte for byte.

use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, zoo};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const ALL: [usize; 3] = [1, 2, 3];

#[test]
fn stock_brokers_follow_a_guest() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    every_kind_of_log_arrives_on_every_broker(&source, &destination);
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
    daemon.terminate();
    daemon.wait().expect_code(0);
}
