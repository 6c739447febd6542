//! The README's way out when no daemon can be had: Kafka's own tools make mirror topics writable.

use crate::PROGRAM;
use serde_json::{Value, json};
use std::fs;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::batches::{CopyBound, assert_identical};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const TOPIC: &str = "precious";
const GUARDS: &str = "cleanup.policy,retention.ms,retention.bytes,max.message.bytes,min.insync.replicas,unclean.leader.election.enable";

#[test]
fn mirror_topics_are_rescued_with_the_tools_of_kafka_alone() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    let mirrored_end = lose_everything_but_the_followers(&source, &destination);
    let bytes = bytes_by_broker(&destination);
    assert!(bytes[2] < bytes[0] && bytes[0] == bytes[1], "broker 3 was away: {bytes:?}");
    println!("the most advanced broker first");
    let wanted = json!({ "version": 1, "partitions": [
        { "topic": TOPIC, "partition": 0, "replicas": [2, 1, 3] },
    ]});
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), wanted.to_string()).expect("written");
    let path = file.path().to_str().expect("a path of text");
    tool(
        &destination,
        "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        &["--execute", "--reassignment-json-file", path],
    );
    tool(
        &destination,
        "org.apache.kafka.tools.LeaderElectionCommand",
        &["--election-type", "unclean", "--topic", TOPIC, "--partition", "0"],
    );
    println!("its configuration");
    tool(
        &destination,
        "kafka.admin.ConfigCommand",
        &["--alter", "--entity-type", "topics", "--entity-name", TOPIC, "--delete-config", GUARDS],
    );
    poll::poll_until("all copies are in sync", || {
        let partition = &destination.scenario().describe_topic(TOPIC)[0];
        partition.leader == 2 && partition.in_sync.len() == 3 && !partition.replicas.contains(&GUEST)
    });
    println!("what was open");
    let end = |isolation| destination.scenario().end_offsets(TOPIC, isolation)[0];
    assert_eq!(end(Isolation::ReadUncommitted), mirrored_end, "nothing that a broker had is lost");
    assert!(end(Isolation::ReadCommitted) < mirrored_end, "a transaction is open");
    let start = hanging_since(&destination).to_string();
    tool(
        &destination,
        "org.apache.kafka.tools.TransactionsCommand",
        &["abort", "--topic", TOPIC, "--partition", "0", "--start-offset", &start],
    );
    poll::poll_until("nothing is open any more", || {
        end(Isolation::ReadCommitted) == mirrored_end + 1
            && end(Isolation::ReadUncommitted) == mirrored_end + 1
    });
    let written = destination.scenario().produce_mixed(&Produce { all_in_sync: true, ..Produce::to(TOPIC) });
    let last = mirrored_end + 1 + i64::try_from(written).expect("few");
    assert_eq!(end(Isolation::ReadCommitted), last);
    for copy in [1, 3] {
        poll::poll_until("a copy has all of it", || {
            let directory = |broker| destination.partition_directory(broker, TOPIC, 0);
            assert_identical(&directory(2), &directory(copy), 0, CopyBound::Prefix).end_offset == last
        });
    }
}

/// A mirror with an open transaction, one broker behind, no daemon, no leader. Answers where the copies end.
fn lose_everything_but_the_followers(source: &Cluster, destination: &Cluster) -> i64 {
    source.scenario().create_topic(TOPIC, 1, 1, &[]);
    source.scenario().produce_mixed(&Produce::to(TOPIC));
    let mirror = GuestMirror::new(PROGRAM, source, destination, &[TOPIC], &[]);
    let daemon = mirror.start();
    mirror.poll_until_followed(source, destination, TOPIC, &[1, 2, 3]);
    destination.kill_broker(3);
    // The first one ends behind the beginning of the second: what is stable holds it without its end.
    let part = Produce { count: 20, partition: Some(0), ..Produce::to(TOPIC) };
    let before = source.scenario().end_offsets(TOPIC, Isolation::ReadCommitted)[0];
    source.scenario().open_transaction("ended", &part);
    source.scenario().open_transaction("hanging", &part);
    source.scenario().finish_transaction("ended", true);
    let stable_end = || source.scenario().end_offsets(TOPIC, Isolation::ReadCommitted)[0];
    // A commit returns before its marker is written.
    poll::poll_until("the first one is stable", || stable_end() == before + 20);
    mirror.poll_until_followed(source, destination, TOPIC, &[1, 2]);
    daemon.kill_hard();
    destination.restart_broker(3);
    poll::poll_until("nobody leads", || destination.scenario().describe_topic(TOPIC)[0].leader < 0);
    stable_end()
}

fn tool(destination: &Cluster, class: &str, arguments: &[&str]) -> String {
    let bootstrap = destination.bootstrap();
    // A command word of this tool comes behind its options.
    let all: Vec<&str> =
        ["--bootstrap-server", &bootstrap].into_iter().chain(arguments.iter().copied()).collect();
    let output = destination.tool(class, &all);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{class} {all:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What each broker's log of the topic takes, by the tool that describes log directories.
fn bytes_by_broker(destination: &Cluster) -> Vec<u64> {
    let class = "org.apache.kafka.tools.LogDirsCommand";
    let text = tool(destination, class, &["--describe", "--topic-list", TOPIC, "--broker-list", "1,2,3"]);
    let line = text.lines().find(|line| line.starts_with('{')).expect("the tool prints one line of JSON");
    let told: Value = serde_json::from_str(line).expect("JSON");
    let brokers = told["brokers"].as_array().expect("brokers");
    let size = |id: u64| {
        let of_broker = brokers.iter().find(|each| each["broker"] == id).expect("it was asked for");
        let partitions = of_broker["logDirs"].as_array().expect("directories").iter();
        partitions
            .flat_map(|each| each["partitions"].as_array().expect("partitions"))
            .map(|each| each["size"].as_u64().expect("bytes"))
            .sum()
    };
    [1, 2, 3].map(size).to_vec()
}

/// Where the only hanging transaction began.
fn hanging_since(destination: &Cluster) -> i64 {
    let class = "org.apache.kafka.tools.TransactionsCommand";
    let arguments = ["find-hanging", "--topic", TOPIC, "--max-transaction-timeout", "0"];
    let text = tool(destination, class, &arguments);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let heads: Vec<&str> = lines.next().expect("a table").split_whitespace().collect();
    let column = heads.iter().position(|head| *head == "StartOffset").expect("a column of that name");
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), 1, "{text}");
    rows[0].split_whitespace().nth(column).expect("as many cells").parse().expect("an offset")
}
