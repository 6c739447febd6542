//! `twinlog check` looks at real destinations: every fact has its line, and nothing there is changed by it.

use crate::PROGRAM;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use twinlog_daemon::control::guest::{Controllers, SharedImage, follow};
use twinlog_daemon::control::source_client::ConnectionOptions;
use twinlog_daemon::security::ClientSecurity;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

/// Subjects that only the destination has lines of.
const SUBJECTS: [&str; 12] = [
    "destination",
    "controllers",
    "clusters",
    "rights",
    "elections",
    "metadata log",
    "version",
    "ELR",
    "listener",
    "replicas",
    "guest ids",
    "guest.listener",
];

#[test]
fn a_check_tells_what_a_destination_is_and_changes_nothing() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    source.scenario().create_topic("orders", 2, 1, &[]);
    source.scenario().produce_mixed(&Produce::to("orders"));
    a_good_destination_has_a_good_line_for_every_fact(&source, &destination);
    what_is_wrong_is_named_with_its_cure(&source, &destination);
    what_is_unsafe_or_taken_is_told(&source, &destination);
    ids_are_in_use_while_a_daemon_runs_and_ours_afterwards(&source, &destination);
}

fn mirror(source: &Cluster, destination: &Cluster) -> GuestMirror {
    GuestMirror::new(PROGRAM, source, destination, &["orders"], &[])
}

/// Level and text of all lines of a subject.
fn lines(checked: &Value, subject: &str) -> Vec<(String, String)> {
    let all = checked.as_array().expect("a check is an array").iter();
    let of = all.filter(|line| line["subject"] == subject);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    of.map(|line| (text(&line["level"]), text(&line["text"]))).collect()
}

fn check(mirror: &GuestMirror, code: i32) -> Value {
    let told = mirror.command(&["check", "--output", "json"]).expect_code(code);
    serde_json::from_str(&told.stdout).expect("an array")
}

#[track_caller]
fn assert_told(checked: &Value, subject: &str, level: &str, words: &str) {
    let found = lines(checked, subject);
    assert!(found.iter().any(|(each, text)| each == level && text.contains(words)), "{words}: {found:?}");
}

/// Everything that the metadata log says, in words.
fn everything(cluster: &Cluster) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let servers = cluster.bootstrap_controllers();
    let controllers = servers.split(',').map(|server| server.parse().expect("host and port")).collect();
    runtime.block_on(async {
        let image = Arc::new(SharedImage::default());
        let mut moves = image.moves();
        let options = ConnectionOptions {
            client_id: "test".to_owned(),
            request_timeout: Duration::from_secs(3),
            security: ClientSecurity::plaintext(),
        };
        let following = tokio::spawn(follow(Controllers::new(controllers), options, 999, image.clone()));
        moves.wait_for(|state| state.is_ready).await.expect("it is followed");
        following.abort();
        let image = image.read();
        let feature = image.feature("metadata.version");
        format!("{feature:?} {:?} {:?} {}", image.brokers(), image.topics(), image.next_producer_id())
    })
}

fn a_good_destination_has_a_good_line_for_every_fact(source: &Cluster, destination: &Cluster) {
    println!("a good one");
    let before = everything(destination);
    let checked = check(&mirror(source, destination), 0);
    for subject in SUBJECTS {
        let found = lines(&checked, subject);
        assert!(!found.is_empty() && found.iter().all(|(level, _)| level == "ok"), "{subject}: {found:?}");
    }
    assert_told(&checked, "guest ids", "ok", &format!("broker id {GUEST} is free"));
    assert_told(&checked, "rights", "ok", "no authorizer is configured");
    assert_told(&checked, "replicas", "ok", "default.replication.factor is 3, brokers 1, 2, 3");
    assert_told(&checked, "topics", "ok", "1 would be created");
    assert_told(&checked, "version", "ok", "of Kafka 4.3");
    assert_eq!(before, everything(destination), "nothing was created or registered");
    let text = mirror(source, destination).command(&["check"]).expect_code(0).stdout;
    assert!(text.contains("ok    ELR            on"), "{text}");
}

fn what_is_wrong_is_named_with_its_cure(source: &Cluster, destination: &Cluster) {
    println!("a wrong listener name");
    let wrong = mirror(source, destination).with_replaced("\"INTERNAL\"", "\"REPLICATION\"");
    assert_told(&check(&wrong, 1), "listener", "fail", "there are EXTERNAL, INTERNAL");
    println!("no controllers");
    let wrong =
        mirror(source, destination).with_replaced(&destination.bootstrap_controllers(), "127.0.0.1:1");
    let checked = check(&wrong, 1);
    assert_told(&checked, "controllers", "fail", "127.0.0.1:1 cannot be connected");
    assert_told(&checked, "destination", "ok", "live brokers 1, 2, 3");
    assert_told(&checked, "rights", "ok", "no authorizer");
    println!("brokers in place of controllers");
    let wrong = mirror(source, destination)
        .with_replaced(&destination.bootstrap_controllers(), &destination.address(1));
    assert_told(&check(&wrong, 1), "controllers", "fail", "is a listener of brokers");
    println!("ids of stock brokers");
    let wrong = mirror(source, destination).with_replaced("\"900-901\"", "\"3-4\"");
    let checked = check(&wrong, 1);
    assert_told(&checked, "guest ids", "fail", "broker id 3 is registered by a broker that is not ours");
    assert_told(&checked, "guest ids", "ok", "broker id 4 is free");
    println!("the same cluster twice");
    let wrong = mirror(source, destination).with_replaced(&source.bootstrap(), &destination.bootstrap());
    assert_told(&check(&wrong, 1), "clusters", "fail", "cannot be mirrored into itself");
    println!("an address of another host, and more replicas than brokers");
    let wrong = mirror(source, destination)
        .with_destination_keys(&["mirror.replication.factor = 4"])
        .with_replaced("guest.listener = \"127.0.0.1:", "guest.listener = \"192.0.2.1:");
    let checked = check(&wrong, 1);
    assert_told(&checked, "guest.listener", "fail", "name an address of this host");
    assert_told(&checked, "replicas", "fail", "lower mirror.replication.factor");
}

fn what_is_unsafe_or_taken_is_told(source: &Cluster, destination: &Cluster) {
    println!("unclean elections, a topic that is there");
    let bootstrap = destination.bootstrap();
    let unclean = |operation: &str, value: &str| {
        let words = ["--bootstrap-server", &bootstrap, "--alter", "--entity-type", "brokers"];
        let words = [&words[..], &["--entity-default", operation, value]].concat();
        let output = destination.tool("kafka.admin.ConfigCommand", &words);
        assert!(output.status.success(), "{output:?}");
    };
    unclean("--add-config", "unclean.leader.election.enable=true");
    destination.scenario().create_topic("orders", 1, 1, &[]);
    let mirror = mirror(source, destination);
    let checked = poll::poll_for("every broker has heard of it", || {
        let checked = check(&mirror, 0);
        let told = lines(&checked, "elections");
        told.iter().any(|(_, text)| text.contains("= true on brokers 1, 2, 3")).then_some(checked)
    });
    assert_told(&checked, "elections", "warn", "= true for all brokers, set at run time");
    assert_told(&checked, "elections", "warn", "= true on brokers 1, 2, 3");
    assert_told(&checked, "topics", "warn", "1 of 1 exist at the destination and are no mirrors");
    unclean("--delete-config", "unclean.leader.election.enable");
    destination.scenario().delete_topic("orders");
}

fn ids_are_in_use_while_a_daemon_runs_and_ours_afterwards(source: &Cluster, destination: &Cluster) {
    println!("beside a daemon");
    let mirror = mirror(source, destination);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, "orders", &[1, 2, 3]);
    let checked = check(&mirror, 1);
    assert_told(
        &checked,
        "guest ids",
        "fail",
        "broker id 900 is in use by a running guest (INTERNAL at 127.0.0.1:",
    );
    assert_told(&checked, "guest.listener", "ok", "is taken, as the running guest's should be");
    assert_told(&checked, "topics", "ok", "1 are mirrors already");
    daemon.kill_hard();
    println!("after its session");
    poll::poll_until("the session is over", || {
        let told = mirror.command(&["check", "--output", "json"]);
        told.code() == Some(0) && {
            let checked = serde_json::from_str(&told.stdout).expect("an array");
            assert_told(
                &checked,
                "guest ids",
                "ok",
                "broker id 900 is registered by a guest that is stopped",
            );
            true
        }
    });
}
