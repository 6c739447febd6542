//! A guest with just the rights that a check names, on both clusters; then each right at the destination is taken
//! away and granted again: an alarm names it, what does not need it goes on, and nothing is lost.

use crate::PROGRAM;
use crate::acls::{commands, grant, revoke};
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];

struct Link {
    source: Cluster,
    destination: Cluster,
    mirror: GuestMirror,
    seed: u32,
}

impl Link {
    fn produce_and_follow(&mut self, topics: &[&str]) {
        self.seed += 1;
        for topic in topics {
            self.source.scenario().produce_mixed(&Produce { seed: self.seed, ..Produce::to(topic) });
            self.mirror.poll_until_followed(&self.source, &self.destination, topic, &ALL);
        }
    }

    /// Grants what a check prints, until it finds nothing missing.
    fn grant_what_is_asked_for(&self) {
        for _ in 0..3 {
            let told = self.mirror.command(&["check"]).stdout;
            for line in told.lines() {
                let at_source = line.contains(" source rights ");
                let cluster = if at_source { &self.source } else { &self.destination };
                for words in commands(line, "fail", "") {
                    cluster.alter_acls(&words.iter().map(String::as_str).collect::<Vec<_>>());
                }
            }
        }
        let mut told = String::new();
        let passed = poll::poll_within(poll::HANG_LIMIT, || {
            let check = self.mirror.command(&["check"]);
            told.clone_from(&check.stdout);
            (check.code() == Some(0)).then_some(())
        });
        assert!(passed.is_some(), "{told}");
    }
}

#[test]
fn each_right_that_a_guest_loses_is_named_holds_up_what_needs_it_and_comes_back() {
    let source = Cluster::start(ClusterOptions::default().with_principals());
    let destination = Cluster::start(ClusterOptions::destination(1).with_principals());
    source.scenario().create_topic("orders", 2, 1, &[]);
    source.scenario().produce_mixed(&Produce::to("orders"));
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["orders", "late.*"], &[])
        .as_user(&source, &destination);
    let mut link = Link { source, destination, mirror, seed: 0 };
    link.grant_what_is_asked_for();
    grant(&link.source, &["--operation", "Read", "--topic", "late", "--resource-pattern-type", "prefixed"]);
    let mut daemon = link.mirror.start();
    link.mirror.poll_until_followed(&link.source, &link.destination, "orders", &ALL);
    link.mirror.poll_until_state("orders", "ACTIVE");
    configs_of_a_source_topic_are_not_told(&mut link);
    topics_cannot_be_created(&mut link);
    guards_cannot_be_set_back(&mut link);
    partitions_cannot_be_added(&mut link);
    the_source_hides_a_topic(&mut link);
    the_cluster_refuses_the_guest(&mut link);
    daemon.expect_running();
    for topic in ["orders", "late.a", "late.b"] {
        link.mirror.poll_until_state(topic, "ACTIVE");
        link.mirror.assert_same_on(&link.source, &link.destination, topic, &ALL);
    }
    link.mirror.command(&["mirror", "promote", "orders"]).expect_code(0);
    link.mirror.assert_same_on(&link.source, &link.destination, "orders", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

const LATE: [&str; 4] = ["--topic", "late", "--resource-pattern-type", "prefixed"];

fn operation<'a>(name: &'a str, resource: &[&'a str]) -> Vec<&'a str> {
    [&["--operation", name], resource].concat()
}

fn configs_of_a_source_topic_are_not_told(link: &mut Link) {
    println!("DESCRIBE_CONFIGS at the source");
    link.source.scenario().create_topic("late.a", 1, 1, &[]);
    for right in ["Create", "AlterConfigs", "Alter", "Read"] {
        grant(&link.destination, &operation(right, &LATE));
    }
    link.mirror.poll_until_alarm("SOURCE_UNAUTHORIZED", "grant DESCRIBE_CONFIGS", true);
    // Its data goes on, and so does every other topic.
    link.produce_and_follow(&["late.a", "orders"]);
    grant(&link.source, &operation("DescribeConfigs", &LATE));
    link.mirror.poll_until_state("late.a", "ACTIVE");
    link.mirror.poll_until_alarm("SOURCE_UNAUTHORIZED", "", false);
}

fn topics_cannot_be_created(link: &mut Link) {
    println!("CREATE");
    revoke(&link.destination, &operation("Create", &LATE));
    link.source.scenario().create_topic("late.b", 1, 1, &[]);
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "grant CREATE", true);
    link.produce_and_follow(&["late.a", "orders"]);
    grant(&link.destination, &operation("Create", &LATE));
    link.mirror.poll_until_state("late.b", "ACTIVE");
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "", false);
    link.produce_and_follow(&["late.b"]);
}

fn guards_cannot_be_set_back(link: &mut Link) {
    println!("ALTER_CONFIGS");
    revoke(&link.destination, &operation("AlterConfigs", &LATE));
    link.destination.scenario().alter_topic_configs("late.a", &[("max.message.bytes", "2")]);
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "grant ALTER_CONFIGS", true);
    link.produce_and_follow(&["late.a", "orders"]);
    grant(&link.destination, &operation("AlterConfigs", &LATE));
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "", false);
}

fn partitions_cannot_be_added(link: &mut Link) {
    println!("ALTER");
    revoke(&link.destination, &operation("Alter", &LATE));
    link.source.scenario().add_partitions("late.b", 2);
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "grant ALTER on the topics", true);
    link.produce_and_follow(&["late.a", "orders"]);
    grant(&link.destination, &operation("Alter", &LATE));
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "", false);
    link.produce_and_follow(&["late.b"]);
}

fn the_source_hides_a_topic(link: &mut Link) {
    println!("READ and DESCRIBE at the source");
    revoke(&link.source, &operation("Read", &LATE));
    link.mirror.poll_until_state("late.a", "SOURCE_UNAVAILABLE");
    assert_eq!(link.mirror.describe("late.a")["code"], "SOURCE_UNAUTHORIZED");
    assert_eq!(link.mirror.describe("orders")["state"], "ACTIVE");
    link.mirror.poll_until_alarm("SOURCE_UNAUTHORIZED", "late.a, late.b", true);
    link.produce_and_follow(&["orders"]);
    grant(&link.source, &operation("Read", &LATE));
    link.mirror.poll_until_state("late.a", "ACTIVE");
    link.mirror.poll_until_alarm("SOURCE_UNAUTHORIZED", "", false);
    link.produce_and_follow(&["late.a", "late.b"]);
}

/// The one that stops everything, for everything needs it: the session ends, and begins again.
fn the_cluster_refuses_the_guest(link: &mut Link) {
    println!("CLUSTER_ACTION");
    let cluster = ["--operation", "ClusterAction", "--cluster"];
    revoke(&link.destination, &cluster);
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "metadata log cannot be read", true);
    poll::poll_until("its session has ended", || {
        link.destination.scenario().describe_topic("orders").iter().all(|partition| partition.leader < 0)
    });
    grant(&link.destination, &cluster);
    link.mirror.poll_until_alarm("DESTINATION_UNAUTHORIZED", "", false);
    link.produce_and_follow(&["orders", "late.a", "late.b"]);
}
