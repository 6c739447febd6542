//! The rights on a source that `twinlog check` asks for are those that a store needs; and rights that are taken away
//! while it runs hold up what needs them, and nothing else, until they are granted again.

use crate::PROGRAM;
use crate::acls::{commands, grant, revoke};
use twinlog_tests::cli::{Finished, Program};
use twinlog_tests::kafka::cluster::{TWIN, TWIN_PASSWORD};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const TOPICS: [&str; 3] = ["orders", "bills.eu", "bills.us"];

struct Source {
    cluster: Cluster,
    mirror: Mirror,
    seed: u32,
}

impl Source {
    fn check(&self) -> Finished {
        let config = self.mirror.data_directory().with_file_name("twinlog.toml");
        let program = Program::new(PROGRAM).arguments(["check", "--source", &self.cluster.login_addresses()]);
        program.argument("--config").argument(config).run()
    }

    fn produce(&mut self, topics: &[&str]) {
        self.seed += 1;
        for topic in topics {
            self.cluster.scenario().produce_mixed(&Produce { seed: self.seed, ..Produce::to(topic) });
        }
    }

    /// Bytes of the mirror are those of the broker's log, up to its end.
    fn is_mirrored(&self, topic: &str) -> bool {
        let ends = self.cluster.scenario().end_offsets(topic, Isolation::ReadCommitted);
        ends.iter().enumerate().all(|(partition, end)| {
            let partition = i32::try_from(partition).expect("few partitions");
            self.mirror.stored_end(&self.cluster, topic, partition) == Some(*end)
        })
    }

    fn poll_until_mirrored(&self, topic: &str) {
        poll::poll_until(&format!("{topic} is mirrored"), || self.is_mirrored(topic));
    }
}

fn start() -> Source {
    let cluster = Cluster::start(ClusterOptions::default().with_principals());
    for topic in TOPICS.iter().chain(&["other"]) {
        cluster.scenario().create_topic(topic, 2, 1, &[]);
        cluster.scenario().produce_mixed(&Produce::to(topic));
    }
    let text = format!(
        "[link.default]\ntopics = [\"orders\", \"bills[.].*\"]\nflush.ms = 100\n[link.default.source]\n\
         metadata.max.age.ms = 1000\nsecurity.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"PLAIN\"\n\
         sasl.username = {TWIN:?}\nsasl.password = {TWIN_PASSWORD:?}\n"
    );
    let mirror = Mirror::new(PROGRAM, &cluster.login_addresses(), &[]).with_configuration(&text);
    Source { cluster, mirror, seed: 0 }
}

#[test]
fn a_store_needs_just_the_rights_that_a_check_names_and_waits_for_those_it_loses() {
    let mut source = start();
    let before = source.check().expect_code(1).stdout;
    assert!(before.contains("names that begin with bills: only those that are granted"), "{before}");
    // As long as no topic of the pattern is visible, its rights are a note with the command.
    let prefixed = commands(&before, "warn", "--topic bills --resource-pattern-type prefixed");
    let named = commands(&before, "fail", "");
    let words: Vec<&str> = named.iter().map(|words| words[4].as_str()).collect();
    assert_eq!(words, ["Describe", "Read"], "{before}");
    for words in named.iter().chain(&prefixed) {
        source.cluster.alter_acls(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    poll::poll_until("the broker knows the rights", || source.check().code() == Some(0));
    let report = source.mirror.caught_up();
    assert_eq!(report["totals"]["partitions"], 6, "{report}");
    a_right_to_read_is_lost_and_found(&mut source);
    a_topic_that_is_hidden_is_not_taken_for_deleted(&mut source);
    for topic in ["orders", "bills.eu"] {
        source.mirror.assert_same(&source.cluster, 1, topic, Isolation::ReadCommitted);
    }
    source.mirror.verify(false).expect_code(0);
}

fn a_right_to_read_is_lost_and_found(source: &mut Source) {
    println!("READ of one topic");
    let mut running = source.mirror.tailing().spawn();
    source.produce(&TOPICS);
    TOPICS.iter().for_each(|topic| source.poll_until_mirrored(topic));
    revoke(&source.cluster, &["--operation", "Read", "--topic", "orders"]);
    running.poll_until_printed("topic orders is held up (SOURCE_UNAUTHORIZED)");
    source.produce(&TOPICS);
    source.poll_until_mirrored("bills.eu");
    source.poll_until_mirrored("bills.us");
    running.poll_until_printed("2 partitions may not be read");
    assert!(!source.is_mirrored("orders"));
    grant(&source.cluster, &["--operation", "Read", "--topic", "orders"]);
    running.poll_until_printed("topic orders may be read again");
    source.poll_until_mirrored("orders");
    running.terminate();
    running.wait().expect_code(0);
}

fn a_topic_that_is_hidden_is_not_taken_for_deleted(source: &mut Source) {
    println!("DESCRIBE of all topics of a pattern, then of all");
    let mut running = source.mirror.tailing().spawn();
    TOPICS.iter().for_each(|topic| source.poll_until_mirrored(topic));
    let prefix = ["--operation", "Read", "--topic", "bills", "--resource-pattern-type", "prefixed"];
    revoke(&source.cluster, &prefix);
    running.poll_until_printed("topic bills.eu is held up (SOURCE_UNAUTHORIZED)");
    revoke(&source.cluster, &["--operation", "Read", "--operation", "Describe", "--topic", "orders"]);
    running.poll_until_printed("topic orders is held up (SOURCE_UNAUTHORIZED)");
    source.produce(&TOPICS);
    running.poll_until_printed("6 partitions may not be read");
    grant(&source.cluster, &prefix);
    running.poll_until_printed("topic bills.eu may be");
    source.poll_until_mirrored("bills.eu");
    source.poll_until_mirrored("bills.us");
    // READ is enough: whoever may read a topic may describe it.
    grant(&source.cluster, &["--operation", "Read", "--topic", "orders"]);
    source.poll_until_mirrored("orders");
    println!("a topic that is deleted is told apart");
    source.cluster.scenario().delete_topic("bills.us");
    running.poll_until_printed("topic bills.us: the topic was deleted at the source");
    running.terminate();
    let ended = running.wait();
    let ended = ended.expect_code(0);
    assert!(!ended.stderr.contains("bills.eu: the topic was deleted"), "{}", ended.stderr);
    let partitions = ended.json()["partitions"].as_array().cloned().unwrap_or_default();
    let of =
        |topic: &str| partitions.iter().filter(|each| each["topic"] == topic).cloned().collect::<Vec<_>>();
    assert!(of("orders").iter().all(|each| each["state"] == "active"), "{partitions:?}");
    assert!(of("bills.us").iter().all(|each| each["code"] == "TOPIC_DELETED"), "{partitions:?}");
}
