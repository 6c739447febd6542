//! The rights that `twinlog check` asks for are those that a guest needs: no fewer, by a promote with just them.

use crate::PROGRAM;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

/// Who we and the brokers are to each other without TLS or SASL.
const PRINCIPAL: &str = "User:ANONYMOUS";
const ALL: [usize; 3] = [1, 2, 3];

#[test]
fn a_guest_with_the_rights_that_a_check_names_joins_mirrors_and_promotes() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1).with_authorizer());
    for topic in ["orders", "bills"] {
        source.scenario().create_topic(topic, 2, 1, &[]);
        source.scenario().produce_mixed(&Produce::to(topic));
    }
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["orders", "bills"], &[]);
    let before = mirror.command(&["check"]).expect_code(0).stdout;
    assert!(before.contains("CREATE on topics"), "as long as no right is set, all are held:\n{before}");
    // From the first one on, what is not allowed is forbidden. The brokers, who have no other name than we,
    // cannot be without this one.
    let allow = ["--add", "--allow-principal"];
    destination.alter_acls(&[&allow[..], &[PRINCIPAL, "--operation", "ClusterAction", "--cluster"]].concat());
    destination.alter_acls(&[&allow[..], &["User:admin", "--operation", "All", "--topic", "*"]].concat());
    let named = commands(&poll_until_refused(&mirror));
    assert_eq!(
        named.iter().map(|words| words[4].as_str()).collect::<Vec<_>>(),
        ["Alter", "IdempotentWrite", "Create", "AlterConfigs", "Alter", "DescribeConfigs", "Read"],
        "{named:?}"
    );
    for words in &named {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        destination.alter_acls(&words);
    }
    poll::poll_until("the brokers know the rights", || mirror.command(&["check"]).code() == Some(0));
    let daemon = mirror.start();
    for topic in ["orders", "bills"] {
        mirror.poll_until_followed(&source, &destination, topic, &ALL);
        poll_until_active(&mirror, topic);
    }
    let replicas = destination.scenario().describe_topic("orders")[0].replicas.len();
    assert_eq!(replicas, 4, "the destination's own default was learnt, and we are one more");
    mirror.command(&["mirror", "promote", "orders"]).expect_code(0);
    open_and_fail_over(&source, &destination, &mirror);
    for topic in ["orders", "bills"] {
        for partition in destination.scenario().describe_topic(topic) {
            assert!((1..GUEST).contains(&partition.leader), "{topic}: {partition:?}");
            assert!(partition.replicas.iter().all(|broker| *broker < GUEST), "{topic}: {partition:?}");
        }
    }
    mirror.assert_same_on(&source, &destination, "orders", &ALL);
    mirror.command(&["guest", "leave"]).expect_code(0);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

/// A failover that has transactions to abort needs more than one that has none.
fn open_and_fail_over(source: &Cluster, destination: &Cluster, mirror: &GuestMirror) {
    let stable = || source.scenario().end_offsets("bills", Isolation::ReadCommitted)[0];
    let before = stable();
    let open = Produce { partition: Some(0), count: 5, ..Produce::to("bills") };
    source.scenario().open_transaction("first", &open);
    source.scenario().open_transaction("second", &open);
    source.scenario().finish_transaction("first", true);
    // The coordinator writes its markers after it has answered.
    poll::poll_until("the first one's end is written", || stable() > before);
    mirror.poll_until_followed(source, destination, "bills", &ALL);
    poll_until_active(mirror, "bills");
    mirror.command(&["mirror", "failover", "bills"]).expect_code(0);
}

fn poll_until_active(mirror: &GuestMirror, topic: &str) {
    poll::poll_until("the mirror is active", || {
        let told = mirror.command(&["mirror", "describe", topic, "--output", "json"]);
        told.code() == Some(0) && told.json()["data"][0]["state"] == "ACTIVE"
    });
}

/// What a check says once brokers and controllers know that rights are set.
fn poll_until_refused(mirror: &GuestMirror) -> String {
    poll::poll_for("the rights are known", || {
        let told = mirror.command(&["check"]);
        let missing = |what: &str| told.stdout.contains(&format!("{what} is missing"));
        (missing("IDEMPOTENT_WRITE on the cluster") && missing("CREATE on topics bills, orders"))
            .then(|| told.expect_code(1).stdout)
    })
}

/// The words of each command that a check prints, for our principal.
fn commands(told: &str) -> Vec<Vec<String>> {
    let command = |line: &str| {
        let words = line.split_once("kafka-acls.sh ")?.1.split_whitespace().map(|word| match word {
            "User:..." => PRINCIPAL.to_owned(),
            word => word.trim_matches('\'').to_owned(),
        });
        // The server: whoever may set rights has a listener of its own.
        Some(words.skip(2).collect())
    };
    let failed = told.lines().filter(|line| line.starts_with("fail"));
    failed.filter_map(command).collect()
}
