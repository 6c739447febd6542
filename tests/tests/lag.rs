//! How far behind a mirror is, against a real source: in records, bytes and time, with what is not known left out.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;
use twinlog_daemon::admin::{metrics::NAMES, socket_path};
use twinlog_tests::cli::{Finished, Program};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// `availability.check.ms` of the mirror; a figure is not believed after three of them.
const CHECK_MS: u64 = 1_000;
const STALE_MS: u64 = 3 * CHECK_MS;
const RECORDS: u32 = 500;
/// What the source goes on to have while the mirror is paused.
const MISSED: u32 = 300;

#[test]
fn lag_is_told_in_records_bytes_and_time_and_never_as_0_where_it_is_unknown() {
    let cluster = Cluster::start(ClusterOptions::default());
    for name in ["told", "held"] {
        cluster.scenario().create_topic(name, 1, 1, &[]);
    }
    produce(&cluster, "told", RECORDS);
    let mirror = Mirror::new(PROGRAM, &cluster.bootstrap(), &["told", "held"])
        .with(&["--log-format", "json"])
        .with_configuration(&format!(
            "metrics.partitions.enable = \"true\"\nmetrics.topics.max = 1\n[link.default]\n\
             availability.check.ms = {CHECK_MS}\n[link.default.source]\nmetadata.max.age.ms = 1000\n"
        ));
    let running = mirror.tailing().spawn();
    what_is_delivered_is_not_behind(&cluster, &mirror);
    an_open_transaction_holds_back_the_bound_and_ages(&cluster, &mirror);
    a_paused_topic_falls_behind_in_records_bytes_and_time(&cluster, &mirror);
    let log = running.kill_hard().stderr;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["level"] == "INFO" && line["message"].is_string()), "{log}");
    let running = mirror.tailing().spawn();
    a_backlog_older_than_the_daemon_is_at_least_so_old(&mirror);
    a_dead_source_makes_lag_unknown(&cluster, &mirror);
    running.terminate();
    running.wait().expect_code(0);
}

fn produce(cluster: &Cluster, name: &str, count: u32) {
    cluster.scenario().produce_mixed(&Produce { count, value_bytes: 200, ..Produce::to(name) });
}

fn say(mirror: &Mirror, words: &str) -> Finished {
    let program = Program::new(PROGRAM).arguments(words.split_whitespace());
    program.argument("--data-dir").argument(mirror.data_directory()).run()
}

/// What the daemon tells of a topic; `Null` while it does not know it.
fn topic(mirror: &Mirror, name: &str) -> Value {
    let told = say(mirror, &format!("mirror describe {name} --output json"));
    if told.status.success() { told.json()["data"][0].clone() } else { Value::Null }
}

fn poll_until_told(mirror: &Mirror, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    poll::poll_until(&format!("{name}: {what}"), || {
        last = topic(mirror, name);
        is_so(&last)
    });
    last
}

fn status(mirror: &Mirror) -> Value {
    say(mirror, "status --output json").expect_code(0).json()
}

/// Status line and body of a GET by the daemon's socket.
fn get(mirror: &Mirror, path: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket_path(&mirror.data_directory())).expect("it listens");
    stream.set_read_timeout(Some(poll::HANG_LIMIT)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn is_nothing(told: &Value) -> bool {
    let zero = ["lag", "lag_ms", "lag_bytes"].iter().all(|figure| told[*figure] == 0);
    zero && told["lag_ms_at_least"] == false
}

fn what_is_delivered_is_not_behind(cluster: &Cluster, mirror: &Mirror) {
    let told = poll_until_told(mirror, "told", "nothing is missing", is_nothing);
    assert_eq!((&told["partitions"][0]["lag"], &told["partitions"][0]["lag_ms"]), (&0.into(), &0.into()));
    poll::poll_until("the daemon is ready", || get(mirror, "/readyz").0.contains(" 200 "));
    produce(cluster, "told", 100);
    poll::poll_until("the latency of delivered records is known", || {
        let totals = status(mirror)["totals"].clone();
        totals["replication_latency_p50_ms"].is_u64()
            && is_nothing(&totals)
            && totals["rpo_ms"] == 0
            && totals["rpo_worst_hour_ms"].is_i64()
    });
    // A quiet source still confirms: lanes answer, although they mention nothing.
    let quiet = Instant::now();
    poll::poll_until("time passes without a record", || {
        quiet.elapsed().as_millis() > u128::from(2 * STALE_MS)
    });
    let told = topic(mirror, "told");
    assert!(is_nothing(&told) && told["lag_age_ms"].as_u64().is_some_and(|age| age < STALE_MS), "{told}");
    the_metrics_are_what_a_parser_reads(mirror);
}

fn the_metrics_are_what_a_parser_reads(mirror: &Mirror) {
    let (head, text) = get(mirror, "/metrics");
    assert!(head.contains(" 200 "), "{head}");
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).expect("it can be parsed");
    let known = |name: &str| {
        let base = ["_bucket", "_count", "_sum", "_total"].iter().find_map(|end| name.strip_suffix(end));
        NAMES.iter().any(|each| each.name == name || Some(each.name) == base)
    };
    assert!(scrape.samples.len() > 30, "{text}");
    for sample in &scrape.samples {
        assert!(known(&sample.metric), "{sample:?} is not in the table");
        assert!(sample.labels.get("link").is_none_or(|link| link == "default"), "{sample:?}");
    }
    let value = |name: &str, topic: &str| {
        let line = text.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) && line.contains(&format!("topic=\"{topic}\""))
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    // The first by name has a series of its own, and its partitions; the rest is one.
    assert_eq!(value("twinlog_mirror_topic_lag_records", "held"), Some(0.0), "{text}");
    assert_eq!(value("twinlog_mirror_partition_lag_seconds", "held"), Some(0.0), "{text}");
    assert_eq!(value("twinlog_mirror_topic_lag_seconds", "other"), Some(0.0), "{text}");
    assert_eq!(value("twinlog_mirror_topic_lag_records", "told"), None, "{text}");
    let counted = text.lines().find_map(|line| {
        line.strip_prefix("twinlog_link_replication_latency_seconds_count{link=\"default\"} ")?.parse().ok()
    });
    assert!(counted.is_some_and(|counted: u64| counted >= 100), "{text}");
}

fn an_open_transaction_holds_back_the_bound_and_ages(cluster: &Cluster, mirror: &Mirror) {
    poll_until_told(mirror, "held", "nothing is missing", is_nothing);
    let began = Instant::now();
    cluster
        .scenario()
        .open_transaction("holds", &Produce { partition: Some(0), count: 5, ..Produce::to("held") });
    produce(cluster, "held", 10);
    let told = poll_until_told(mirror, "held", "a transaction is open", |told| {
        told["high_watermark_lag"] == 15 && told["oldest_open_transaction_ms"].as_u64() >= Some(2_000)
    });
    assert_eq!((&told["lag"], &told["lag_ms"]), (&0.into(), &0.into()), "{told}");
    let age = told["oldest_open_transaction_ms"].as_u64().expect("a figure");
    assert!(u128::from(age) <= began.elapsed().as_millis() + u128::from(STALE_MS), "{told}");
    cluster.scenario().finish_transaction("holds", true);
    poll_until_told(mirror, "held", "no transaction is open", |told| {
        is_nothing(told) && told["high_watermark_lag"] == 0 && told["oldest_open_transaction_ms"] == 0
    });
}

fn a_paused_topic_falls_behind_in_records_bytes_and_time(cluster: &Cluster, mirror: &Mirror) {
    say(mirror, "mirror pause told").expect_code(0);
    poll_until_told(mirror, "told", "it is paused", |told| told["state"] == "PAUSED");
    let before = Instant::now();
    produce(cluster, "told", MISSED);
    let after = Instant::now();
    let told = poll_until_told(mirror, "told", "it is known to be behind", |told| told["lag"] == MISSED);
    let first_ms = told["lag_ms"].as_i64().expect("it was seen");
    let bytes = told["lag_bytes"].as_u64().expect("the mean is known");
    assert!(told["lag_bytes_estimated"] == true && bytes > u64::from(MISSED) * 20, "{told}");
    assert!(told["lag_ms_at_least"] == false && told["lag_age_ms"].as_u64() < Some(STALE_MS), "{told}");
    let told = poll_until_told(mirror, "told", "the backlog ages", |told| {
        told["lag_ms"].as_i64() >= Some(first_ms + 2_000)
    });
    let age = u128::try_from(told["lag_ms"].as_i64().expect("a figure")).expect("not below 0");
    assert!(age <= before.elapsed().as_millis() + u128::from(STALE_MS), "{told}");
    // What is asked for once a second is seen a second late, and a busy machine asks later.
    poll_until_told(mirror, "told", "the age is near the truth", |told| {
        let age = told["lag_ms"].as_u64().map(u128::from).unwrap_or_default();
        2 * age >= after.elapsed().as_millis()
    });
    let metrics = get(mirror, "/metrics").1;
    let lag = format!("twinlog_link_lag_records{{link=\"default\"}} {MISSED}.0");
    assert!(metrics.lines().any(|line| line == lag), "{metrics}");
}

fn a_backlog_older_than_the_daemon_is_at_least_so_old(mirror: &Mirror) {
    let told = poll_until_told(mirror, "told", "the backlog is seen again", |told| told["lag"] == MISSED);
    assert!(told["lag_ms_at_least"] == true && told["lag_ms"].is_i64(), "{told}");
    assert!(told["lag_bytes"].is_null(), "nothing of it was ever received by this daemon: {told}");
    say(mirror, "mirror resume told").expect_code(0);
    poll_until_told(mirror, "told", "nothing is missing any more", is_nothing);
}

fn a_dead_source_makes_lag_unknown(cluster: &Cluster, mirror: &Mirror) {
    cluster.stop_broker(1);
    let told = poll_until_told(mirror, "told", "its lag is not known", |told| {
        let age = told["lag_age_ms"].as_u64();
        let is_stale = age > Some(STALE_MS);
        let is_unknown = ["lag", "lag_ms", "lag_bytes"].iter().all(|figure| told[*figure].is_null());
        assert!(!is_stale || is_unknown, "a figure of {age:?} ms is told as if it were true: {told}");
        is_stale && is_unknown
    });
    assert!(told["partitions"][0]["lag"].is_null(), "{told}");
    poll::poll_until("what is at risk grows with the silence", || {
        let totals = status(mirror)["totals"].clone();
        totals["lag"].is_null() && totals["rpo_ms"].as_u64() > Some(STALE_MS)
    });
    assert!(!get(mirror, "/metrics").1.contains("twinlog_link_lag_seconds{"));
    cluster.restart_broker(1);
    poll_until_told(mirror, "told", "its source is heard again", is_nothing);
}
