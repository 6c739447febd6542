//! Each right that is missing at a source has its command, as narrow as the link's own words are.

use super::*;

const ALL: i32 = 1 << READ | 1 << DESCRIBE | 1 << DESCRIBE_CONFIGS;

fn facts(wanted: &[Wanted], topics: &[(&str, i16, Option<i32>)]) -> SourceFacts {
    let topics = topics.iter().map(|(name, code, operations)| {
        ((*name).to_owned(), TopicRights { code: *code, operations: *operations })
    });
    SourceFacts {
        authorizer: Authorizer::Present,
        wanted: wanted.iter().cloned().collect(),
        topics: topics.collect(),
        prefixes: BTreeMap::new(),
        producer_ids: None,
        groups: BTreeMap::new(),
        cluster: None,
        needs_configs: false,
    }
}

fn named(name: &str) -> Wanted {
    Wanted::Named(name.to_owned())
}

fn prefix(prefix: &str) -> Wanted {
    Wanted::Prefix(prefix.to_owned())
}

fn told(facts: &SourceFacts) -> Vec<String> {
    let server = HostPort { host: "b".to_owned(), port: 9 };
    source_rights_lines(facts, &server).iter().map(ToString::to_string).collect()
}

fn commands(facts: &SourceFacts) -> Vec<String> {
    let lines = told(facts).into_iter().filter(|line| line.starts_with("fail"));
    lines.map(|line| line.split_once("User:... ").unwrap().1.to_owned()).collect()
}

#[test]
fn nothing_is_missing_where_everything_is_held_or_nobody_asks() {
    let held = facts(&[named("a")], &[("a", 0, Some(ALL))]);
    assert_eq!(told(&held).iter().filter(|line| line.starts_with("ok")).count(), 2, "{:#?}", told(&held));
    let open = SourceFacts { authorizer: Authorizer::Absent, ..facts(&[], &[]) };
    assert!(told(&open)[0].contains("no authorizer is configured"));
}

#[test]
fn a_named_topic_that_is_refused_lacks_every_right() {
    let mut hidden = facts(&[named("a")], &[("a", TOPIC_AUTHORIZATION_FAILED, None)]);
    assert_eq!(commands(&hidden), ["--operation Describe --topic a", "--operation Read --topic a"]);
    hidden.needs_configs = true;
    assert_eq!(commands(&hidden).len(), 3);
}

#[test]
fn each_right_is_told_by_itself() {
    let described = 1 << DESCRIBE;
    let mut some = facts(&[named("a"), named("b")], &[("a", 0, Some(ALL)), ("b", 0, Some(described))]);
    assert_eq!(commands(&some), ["--operation Read --topic b"]);
    some.needs_configs = true;
    some.producer_ids = Some(CLUSTER_AUTHORIZATION_FAILED);
    let rest = [
        "--operation Read --topic b",
        "--operation DescribeConfigs --topic b",
        "--operation IdempotentWrite --cluster",
    ];
    assert_eq!(commands(&some), rest);
    some.producer_ids = Some(42);
    assert_eq!(commands(&some).len(), 2, "refused for its arguments is allowed");
}

#[test]
fn a_pattern_is_granted_by_its_prefix_and_the_rest_by_name() {
    let wanted = [prefix("orders."), named("bills")];
    let described = Some(1 << DESCRIBE);
    let topics = [("bills", 0, described), ("orders.eu", 0, described), ("orders.us", 0, described)];
    assert_eq!(
        commands(&facts(&wanted, &topics)),
        [
            "--operation Read --topic bills",
            "--operation Read --topic orders. --resource-pattern-type prefixed"
        ]
    );
    assert_eq!(commands(&facts(&[prefix("")], &topics)), ["--operation Read --topic '*'"]);
}

#[test]
fn what_a_pattern_cannot_show_is_a_note_with_its_command() {
    let mut hidden = facts(&[prefix("orders.")], &[]);
    hidden.prefixes.insert("orders.".to_owned(), TOPIC_AUTHORIZATION_FAILED);
    hidden.groups.insert(prefix(""), GROUP_AUTHORIZATION_FAILED);
    let lines = told(&hidden);
    let line = lines.iter().find(|line| line.contains("silently not mirrored")).unwrap();
    assert!(
        line.starts_with("warn") && line.ends_with("--topic orders. --resource-pattern-type prefixed"),
        "{line}"
    );
    assert!(lines.iter().any(|line| line.starts_with("warn") && line.ends_with("--group '*'")), "{lines:#?}");
    hidden.prefixes.insert("orders.".to_owned(), 3);
    assert!(told(&hidden).iter().any(|line| line.contains("begin with orders. are all visible")));
}

#[test]
fn a_source_that_does_not_tell_rights_is_said_to() {
    let lines = told(&facts(&[named("a")], &[("a", 0, None)]));
    assert!(lines[1].starts_with("warn") && lines[1].contains("too old to tell"), "{lines:#?}");
}

#[test]
fn groups_are_granted_as_the_links_filters_name_them() {
    let mut some = facts(&[named("a")], &[("a", 0, Some(ALL))]);
    some.cluster = Some(1 << DESCRIBE);
    let count = told(&some).len();
    some.groups = [(named("say 'hi'"), 0), (prefix("app-"), 0)].into();
    assert_eq!(told(&some).len(), count + 2, "where groups are not copied nothing is said of them");
    assert!(told(&some).iter().all(|line| line.starts_with("ok")), "{:#?}", told(&some));
    some.groups.values_mut().for_each(|code| *code = GROUP_AUTHORIZATION_FAILED);
    // Without the right nothing is told, or the smallest number.
    some.cluster = Some(i32::MIN);
    let lines = told(&some);
    let warned: Vec<&String> = lines.iter().filter(|line| line.starts_with("warn")).collect();
    for (line, end) in warned.iter().zip([
        "--operation Describe --group 'say '\\''hi'\\'''",
        "--operation Describe --group app- --resource-pattern-type prefixed",
        "--operation Describe --cluster",
    ]) {
        assert!(line.ends_with(end), "{line}");
    }
    assert_eq!(warned.len(), 3, "{lines:#?}");
}
