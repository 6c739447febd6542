//! A guest between a source with TLS and a destination that speaks SASL_SSL on every listener, to the last verb.

use crate::PROGRAM;
use std::path::Path;
use tempfile::TempDir;
use twinlog_tests::cli::Program;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::security::{Authority, HOST, PASSWORD, USER, sasl_ssl_everywhere};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation, zoo};

const ALL: [usize; 3] = [1, 2, 3];
/// More of it is produced than the guest may keep.
const COLD: &str = "cold";
const LOST: &str = "lost";
const BUDGET_MEGABYTES: u32 = 16;
/// Every login at the destination, of ours and of its own brokers, is renewed within it.
const SESSION_MS: u32 = 5_000;

struct World {
    source: Cluster,
    destination: Cluster,
    mirror: GuestMirror,
}

#[test]
fn a_guest_serves_and_hands_over_where_every_listener_speaks_sasl_ssl() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&directory.path().join("authority"), "of the destination");
    let source = Cluster::start(ClusterOptions::secured());
    let options = sasl_ssl_everywhere(ClusterOptions::destination(1), &authority, SESSION_MS);
    let destination = Cluster::start(options);
    zoo::fill(&source);
    for topic in [COLD, LOST] {
        source.scenario().create_topic(topic, 1, 1, &[]);
        source.scenario().produce_mixed(&Produce::to(topic));
    }
    let mirror = secured_mirror(&source, &destination, &authority, &directory);
    let world = World { source, destination, mirror };
    every_kind_of_log_arrives(&world);
    a_cold_follower_is_served_from_the_source(&world);
    mirror_topics_are_handed_over(&world);
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

fn secured_mirror(
    source: &Cluster,
    destination: &Cluster,
    authority: &Authority,
    directory: &TempDir,
) -> GuestMirror {
    std::fs::write(directory.path().join("password"), PASSWORD).expect("written");
    let password = format!("\"${{directory:{}:password}}\"", directory.path().display());
    let sizes = ["replica.fetch.response.max.bytes = \"1MiB\"", "replica.fetch.max.bytes = \"512KiB\""];
    let mirror = GuestMirror::new(PROGRAM, source, destination, &[".*"], &sizes);
    let servers = |servers: &str| format!("bootstrap.servers = {servers:?}\n");
    let secured = source.secured();
    let over_tls = format!(
        "{}security.protocol = \"SSL\"\nssl.truststore.location = {}\n",
        servers(&secured.address("SSL")),
        quoted(&secured.authority.certificate())
    );
    let trusted = quoted(&authority.certificate());
    let own = quoted(&authority.sign("guest.pem", HOST, false));
    mirror.with_replaced(&servers(&source.bootstrap()), &over_tls).with_destination_keys(&[
        "security.protocol = \"SASL_SSL\"",
        "sasl.mechanism = \"SCRAM-SHA-512\"",
        &format!("sasl.username = \"{USER}\"\nsasl.password = {password}"),
        &format!("ssl.truststore.location = {trusted}"),
        &format!("store.retention.bytes = \"{BUDGET_MEGABYTES}MiB\""),
        "guest.followers.security.protocol = \"SASL_SSL\"",
        "guest.followers.principals = \"User:broker\"",
        &format!("guest.followers.ssl.keystore.location = {own}"),
        "[link.dr.destination.controllers]",
        "sasl.mechanism = \"PLAIN\"",
        &format!("sasl.username = \"{USER}\"\nsasl.password = {password}"),
    ])
}

fn names() -> impl Iterator<Item = &'static str> {
    zoo::TOPICS.iter().map(|(name, _)| *name)
}

fn every_kind_of_log_arrives(world: &World) {
    let World { source, destination, mirror } = world;
    let daemon = mirror.start();
    for name in names().chain([COLD, LOST]) {
        mirror.poll_until_followed(source, destination, name, &ALL);
        mirror.assert_same_on(source, destination, name, &ALL);
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
    assert_held_is_the_sources(world);
}

/// What the guest itself keeps is the source's, as the source tells it over TLS.
fn assert_held_is_the_sources(world: &World) -> serde_json::Value {
    let World { source, mirror, .. } = world;
    let program = Program::new(PROGRAM).argument("verify").arguments(["--output", "json", "--data-dir"]);
    let program =
        program.argument(mirror.data_directory()).arguments(["--source", &source.secured().address("SSL")]);
    program
        .argument("--config")
        .argument(mirror.configuration().display().to_string())
        .run()
        .expect_code(0)
        .json()
}

fn a_cold_follower_is_served_from_the_source(world: &World) {
    let World { source, destination, mirror } = world;
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, COLD, &ALL);
    destination.stop_broker(3);
    for seed in 0..3 {
        let large = Produce { value_bytes: 4_096, batch_bytes: 65_536, seed, ..Produce::to(COLD) };
        source.scenario().produce_mixed(&Produce { count: BUDGET_MEGABYTES * 256, ..large });
        mirror.poll_until_followed(source, destination, COLD, &ALL[..2]);
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
    let verified = assert_held_is_the_sources(world);
    let partitions = verified["partitions"].as_array().expect("a list");
    let cold = partitions.iter().find(|each| each.to_string().contains(&format!("\"{COLD}")));
    let cold = cold.unwrap_or_else(|| panic!("{COLD} is not in {verified}"));
    assert!(cold["held_start"].as_i64() > Some(100), "the guest keeps what broker 3 lacks: {cold}");
    let daemon = mirror.start();
    destination.restart_broker(3);
    mirror.poll_until_followed(source, destination, COLD, &ALL);
    mirror.assert_same_on(source, destination, COLD, &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn assert_is_written_at_the_destination(world: &World, topic: &str, ends: &[i64]) {
    let to = world.destination.scenario();
    let partitions = to.describe_topic(topic);
    assert!(partitions.iter().all(|each| (1..GUEST).contains(&each.leader)), "{topic}: {partitions:?}");
    assert_eq!(to.end_offsets(topic, Isolation::ReadUncommitted), ends, "{topic}");
    let written = to.produce_mixed(&Produce { count: 40, seed: 9, ..Produce::to(topic) });
    let after: i64 = to.end_offsets(topic, Isolation::ReadUncommitted).iter().sum();
    assert_eq!(after - ends.iter().sum::<i64>(), i64::try_from(written).expect("few"), "{topic}");
}

fn mirror_topics_are_handed_over(world: &World) {
    let World { source, destination, mirror } = world;
    let daemon = mirror.start();
    let promoted = ["rich", "append-time", "empty", COLD];
    for name in promoted.into_iter().chain([LOST]) {
        mirror.poll_until_followed(source, destination, name, &ALL);
        mirror.poll_until_state(name, "ACTIVE");
    }
    mirror.command(&[&["mirror", "promote"], &promoted[..]].concat()).expect_code(0);
    for name in promoted {
        mirror.assert_same_on(source, destination, name, &ALL);
        let ends = source.scenario().end_offsets(name, Isolation::ReadUncommitted);
        assert_is_written_at_the_destination(world, name, &ends);
    }
    let ends = source.scenario().end_offsets(LOST, Isolation::ReadCommitted);
    source.kill_broker(1);
    mirror.command(&["mirror", "failover", LOST]).expect_code(0);
    assert_is_written_at_the_destination(world, LOST, &ends);
    daemon.terminate();
    daemon.wait().expect_code(0);
}
