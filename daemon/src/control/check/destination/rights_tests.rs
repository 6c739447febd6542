//! Each missing right has a failing line with its own command.

use super::*;

const ALL_HELD: i32 = 1 << ALTER | 1 << CLUSTER_ACTION | 1 << IDEMPOTENT_WRITE;

fn facts(operations: i32, fetches: &[i16], topics: &[(&str, TopicCodes)]) -> RightsFacts {
    let topics = topics.iter().map(|(name, codes)| ((*name).to_owned(), codes.clone())).collect();
    RightsFacts {
        authorizer: Authorizer::Present,
        operations,
        fetches: fetches.to_vec(),
        topics,
        groups: BTreeMap::new(),
    }
}

fn told(facts: &RightsFacts, only_named: bool) -> Vec<String> {
    let server = HostPort { host: "b".to_owned(), port: 9 };
    let every = Wanted::Prefix(String::new());
    rights_lines(facts, &server, &if only_named { BTreeSet::new() } else { [every].into() })
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn failures(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.starts_with("fail")).collect()
}

#[test]
fn nothing_is_missing_where_everything_is_held_or_nobody_asks() {
    let orders = [("orders", TopicCodes { create: TOPIC_ALREADY_EXISTS, ..TopicCodes::default() })];
    let lines = told(&facts(ALL_HELD, &[0, 6], &orders), true);
    assert!(failures(&lines).is_empty() && lines.len() == 8, "{lines:#?}");
    let open = RightsFacts { authorizer: Authorizer::Absent, ..facts(0, &[], &[]) };
    assert!(told(&open, true)[0].contains("no authorizer is configured"));
}

#[test]
fn every_missing_right_on_the_cluster_has_its_command() {
    // Without DESCRIBE a broker tells no right at all: none, or the smallest number.
    for operations in [0, i32::MIN] {
        let lines = told(&facts(operations, &[CLUSTER_AUTHORIZATION_FAILED], &[]), true);
        let failed = failures(&lines);
        for (line, operation) in failed.iter().zip(["ClusterAction", "Alter", "IdempotentWrite"]) {
            let command = format!(
                "kafka-acls.sh --bootstrap-server b:9 --add --allow-principal User:... --operation {operation} \
                 --cluster"
            );
            assert!(line.ends_with(&command), "{line}");
        }
        assert_eq!(failed.len(), 3);
    }
    let lines = told(&facts(ALL_HELD, &[0, CLUSTER_AUTHORIZATION_FAILED], &[]), true);
    assert_eq!(
        failures(&lines).len(),
        1,
        "a controller that refuses the log counts more than the brokers' word"
    );
    assert!(lines.iter().any(|line| line.starts_with("warn") && line.contains("no topic to mirror")));
}

#[test]
fn missing_rights_on_topics_name_them_or_all() {
    let refused = TopicCodes { read: TOPIC_AUTHORIZATION_FAILED, ..TopicCodes::default() };
    let topics = [("bills", refused.clone()), ("free", TopicCodes::default()), ("orders", refused)];
    let few = facts(ALL_HELD, &[0], &topics);
    let lines = told(&few, true);
    assert_eq!(failures(&lines).len(), 1);
    assert!(failures(&lines)[0].ends_with("--operation Read --topic bills --topic orders"), "{lines:#?}");
    let lines = told(&few, false);
    assert!(failures(&lines)[0].ends_with("--operation Read --topic '*'"), "{lines:#?}");
}

#[test]
fn a_creation_that_would_be_refused_is_told_in_the_clusters_words() {
    let refused = TopicCodes {
        create: 44,
        create_message: Some("names must begin with a dot".to_owned()),
        ..TopicCodes::default()
    };
    let lines = told(&facts(ALL_HELD, &[0], &[("orders", refused)]), true);
    assert!(
        failures(&lines)[0].contains("orders: names must begin with a dot (error code 44)"),
        "{lines:#?}"
    );
}

#[test]
fn what_is_missing_for_groups_is_a_warning_with_its_command() {
    let orders = [("orders", TopicCodes::default())];
    let groups = |codes: &[(&str, i16)]| {
        codes.iter().map(|(prefix, code)| (Wanted::Prefix((*prefix).to_owned()), *code)).collect()
    };
    let all = RightsFacts { groups: groups(&[("", 3)]), ..facts(ALL_HELD | 1 << DESCRIBE, &[0], &orders) };
    let lines = told(&all, true);
    assert!(lines.iter().any(|line| line.contains("READ on groups")), "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with("ok")), "{lines:#?}");
    let none = RightsFacts { groups: groups(&[("", 30), ("dr.app", 30)]), ..facts(ALL_HELD, &[0], &orders) };
    let lines = told(&none, true);
    assert!(failures(&lines).is_empty(), "{lines:#?}");
    let warned: Vec<&String> = lines.iter().filter(|line| line.starts_with("warn")).collect();
    for (line, end) in warned.iter().zip([
        "--operation Read --group '*'",
        "--operation Read --group dr.app --resource-pattern-type prefixed",
        "--operation Describe --cluster",
    ]) {
        assert!(line.ends_with(end), "{line}");
    }
    assert_eq!(warned.len(), 3, "{lines:#?}");
}
