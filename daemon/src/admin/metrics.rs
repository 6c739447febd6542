//! `/metrics`: which series exist, and how they are written.
//!
//! The table of names is a contract with dashboards: it is added to, never renamed, and the README shows it. A
//! figure that is not known has no sample. Labels come from names that were checked, of a bounded number: links,
//! topics up to `metrics.topics.max`, their partitions where `metrics.partitions.enable` wants them, shards, guest
//! brokers, tasks, states. No value of a configuration is ever a label.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The media type of what is written.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Counters are written with `_total` behind it, as the format wants it.
    pub name: &'static str,
    pub kind: Kind,
    /// In the order in which samples give their values.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
    Histogram,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Name {
    Name { name, kind: Kind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Name {
    Name { name, kind: Kind::Counter, labels, help }
}

const LINK: &[&str] = &["link"];
const TOPIC: &[&str] = &["link", "topic"];
const PARTITION: &[&str] = &["link", "topic", "partition"];
const SHARD: &[&str] = &["link", "shard"];
const GUEST: &[&str] = &["link", "broker"];

/// Every series that there is. Units are the last word of a name: seconds, bytes, records.
pub const NAMES: &[Name] = &[
    gauge("twinlog_build_info", &["version"], "Always 1; the version is its label."),
    gauge("twinlog_uptime_seconds", &[], "Since the daemon started."),
    gauge("twinlog_peak_resident_bytes", &[], "Most memory that the process ever held."),
    counter("twinlog_cpu_seconds", &[], "CPU time of the whole process."),
    gauge("twinlog_link_state", &["link", "state"], "1 for the state of the link."),
    gauge("twinlog_link_lag_records", LINK, "Records that are not delivered, until the bound of the copy."),
    gauge("twinlog_link_lag_bytes", LINK, "Bytes that are not delivered; what was not fetched is estimated."),
    gauge("twinlog_link_lag_seconds", LINK, "Age of the oldest record that is not delivered (record-age)."),
    gauge("twinlog_link_lag_at_least", LINK, "1 where that record is older than our first look at it."),
    gauge(
        "twinlog_link_lag_age_seconds",
        LINK,
        "Since the source last confirmed the oldest of these figures.",
    ),
    gauge("twinlog_link_high_watermark_lag_records", LINK, "Records until the source's high watermarks."),
    gauge(
        "twinlog_link_oldest_open_transaction_seconds",
        LINK,
        "Age of the oldest transaction that is open.",
    ),
    gauge("twinlog_link_rpo_seconds", LINK, "What would be lost with the source now."),
    gauge("twinlog_link_rpo_worst_seconds", &["link", "window"], "The worst of it in the last 1h and 24h."),
    Name {
        name: "twinlog_link_replication_latency_seconds",
        kind: Kind::Histogram,
        labels: LINK,
        help: "From when the source was seen to have a record until it was delivered (replication-latency).",
    },
    gauge("twinlog_link_source_age_seconds", LINK, "Since the source's metadata was last asked for."),
    gauge("twinlog_link_mirror_topics", LINK, "Mirror topics."),
    gauge("twinlog_link_partitions", LINK, "Mirror partitions."),
    gauge("twinlog_link_failed_partitions", LINK, "Mirror partitions that are stopped."),
    gauge("twinlog_link_hand_overs", LINK, "Hand-overs under way."),
    gauge("twinlog_link_alarms", &["link", "code"], "Alarms of this code."),
    gauge("twinlog_link_task_ok", &["link", "task"], "1 while the task goes well, 0 while it is in error."),
    gauge(
        "twinlog_offset_staleness_seconds",
        LINK,
        "Since the source was read for what the destination holds of its groups; the longest of all.",
    ),
    gauge("twinlog_offset_groups", &["link", "state"], "Consumer groups in this state."),
    gauge("twinlog_offset_skipped_groups", LINK, "Groups left out although there may be something to write."),
    gauge("twinlog_offset_held_back_positions", LINK, "Positions of groups that wait for data."),
    gauge("twinlog_offset_round_seconds", LINK, "Time that the last round of group offsets took."),
    counter("twinlog_offset_rounds", LINK, "Rounds of group offsets."),
    counter(
        "twinlog_offset_sync_overruns",
        LINK,
        "Points of their grid at which a round was still under way.",
    ),
    counter("twinlog_offset_commits", LINK, "Groups written at the destination."),
    counter("twinlog_offset_requests", LINK, "Requests about groups sent to both clusters."),
    counter(
        "twinlog_offset_phase_seconds",
        &["link", "phase"],
        "Time that rounds waited for this; groups are read and written side by side.",
    ),
    gauge("twinlog_mirror_topic_state", &["link", "topic", "state"], "1 for the state of the topic."),
    gauge("twinlog_mirror_topic_lag_records", TOPIC, "Records that are not delivered, until the bound."),
    gauge("twinlog_mirror_topic_lag_bytes", TOPIC, "Bytes that are not delivered."),
    gauge("twinlog_mirror_topic_lag_seconds", TOPIC, "Age of the oldest record that is not delivered."),
    gauge("twinlog_mirror_topic_high_watermark_lag_records", TOPIC, "Records until the high watermarks."),
    gauge(
        "twinlog_mirror_topic_oldest_open_transaction_seconds",
        TOPIC,
        "Age of the oldest open transaction.",
    ),
    gauge(
        "twinlog_mirror_partition_lag_records",
        PARTITION,
        "Records that are not delivered, until the bound.",
    ),
    gauge("twinlog_mirror_partition_lag_bytes", PARTITION, "Bytes that are not delivered."),
    gauge(
        "twinlog_mirror_partition_lag_seconds",
        PARTITION,
        "Age of the oldest record that is not delivered.",
    ),
    gauge("twinlog_mirror_partition_lag_age_seconds", PARTITION, "Since the source last confirmed them."),
    counter("twinlog_shard_received_bytes", SHARD, "Received from the source."),
    counter("twinlog_shard_written_bytes", SHARD, "Written to files."),
    counter("twinlog_shard_batches", SHARD, "Record batches verified."),
    counter("twinlog_shard_fetches", SHARD, "Fetches sent to the source."),
    counter("twinlog_shard_memory_stalls", SHARD, "Times a lane waited for memory."),
    counter("twinlog_shard_flushes", SHARD, "Rounds of flushes."),
    counter(
        "twinlog_shard_flush_seconds",
        SHARD,
        "Time that they took, each from its first mark to its last sync.",
    ),
    counter("twinlog_shard_checkpoints", SHARD, "Checkpoints written."),
    counter("twinlog_shard_served_bytes", SHARD, "Sent to followers."),
    counter("twinlog_shard_served_cold_bytes", SHARD, "Of it, what was read from disk."),
    counter(
        "twinlog_shard_read_through_bytes",
        SHARD,
        "Of it, what was fetched again, for it is held no more.",
    ),
    counter("twinlog_shard_follower_fetches", SHARD, "Fetches of followers."),
    gauge("twinlog_shard_pool_free_bytes", SHARD, "Memory for buffers that is free."),
    gauge("twinlog_shard_spool_bytes", SHARD, "Held for followers."),
    counter("twinlog_shard_spool_deleted_bytes", SHARD, "Given up after followers had it."),
    gauge("twinlog_guest_heartbeat_slack_seconds", GUEST, "Left of the session at the last heartbeat."),
    gauge("twinlog_guest_led_partitions", GUEST, "Partitions that the guest broker leads."),
    gauge("twinlog_guest_state", &["link", "broker", "state"], "1 for the state of the guest broker."),
];

/// A value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    /// Records, sum, and counts below each bound.
    Distribution {
        count: u64,
        sum: f64,
        buckets: Vec<(f64, u64)>,
    },
}

/// Samples of one daemon, by row of [`NAMES`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Vec<(Vec<String>, Value)>>);

impl Samples {
    /// What is not known is not told.
    pub fn tell(&mut self, name: &str, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, labels, Value::Number(value));
        }
    }

    pub fn add(&mut self, name: &str, labels: &[&str], value: Value) {
        let row = NAMES.iter().position(|each| each.name == name).expect("every series is in the table");
        assert_eq!(labels.len(), NAMES[row].labels.len(), "{name} has labels {:?}", NAMES[row].labels);
        self.0.resize_with(NAMES.len(), Vec::new);
        self.0[row].push((labels.iter().map(|&label| label.to_owned()).collect(), value));
    }

    /// Those of another link. What is the whole daemon's is told once.
    pub fn join(&mut self, other: Self) {
        self.0.resize_with(NAMES.len(), Vec::new);
        for ((row, samples), name) in self.0.iter_mut().zip(other.0).zip(NAMES) {
            if name.labels.contains(&"link") || row.is_empty() {
                row.extend(samples);
            }
        }
    }

    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a text takes everything");
        text
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, samples) in NAMES.iter().zip(&self.0).filter(|(_, samples)| !samples.is_empty()) {
            let kind = match name.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name.name, name.help, None, kind)?;
            for (values, value) in samples {
                let labels: Vec<(&str, &str)> =
                    name.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                let mut metric = family.encode_family(&labels)?;
                match (name.kind, value) {
                    (Kind::Counter, Value::Number(number)) => {
                        metric.encode_counter::<NoLabelSet, f64, f64>(number, None)?;
                    }
                    (_, Value::Number(number)) => metric.encode_gauge(number)?,
                    (_, Value::Distribution { count, sum, buckets }) => {
                        metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The table of the README.
pub fn names_table() -> String {
    let mut text = String::from("| series | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for each in NAMES {
        let (kind, suffix) = match each.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
            Kind::Histogram => ("histogram", ""),
        };
        let labels: Vec<String> = each.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `{}{suffix}` | {kind} | {} | {} |\n",
            each.name,
            labels.join(", "),
            each.help
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_end_with_a_unit_of_the_base() {
        let names: BTreeSet<&str> = NAMES.iter().map(|each| each.name).collect();
        assert_eq!(names.len(), NAMES.len());
        for name in names {
            assert!(name.starts_with("twinlog_") && !name.ends_with("_ms"), "{name}");
        }
    }

    #[test]
    fn samples_are_written_as_openmetrics_and_unknown_ones_are_left_out() {
        let mut samples = Samples::default();
        samples.tell("twinlog_link_lag_records", &["west"], Some(7.0));
        samples.tell("twinlog_link_lag_seconds", &["west"], None);
        samples.tell("twinlog_shard_fetches", &["west", "0"], Some(12.0));
        samples.tell("twinlog_uptime_seconds", &[], Some(3.0));
        let buckets = vec![(0.5, 2), (f64::MAX, 1)];
        let distribution = Value::Distribution { count: 3, sum: 4.5, buckets };
        samples.add("twinlog_link_replication_latency_seconds", &["west"], distribution);
        let mut other = Samples::default();
        other.tell("twinlog_link_lag_records", &["east"], Some(0.0));
        other.tell("twinlog_uptime_seconds", &[], Some(4.0));
        samples.join(other);
        let text = samples.text();
        for line in [
            "# TYPE twinlog_link_lag_records gauge",
            "twinlog_link_lag_records{link=\"west\"} 7.0",
            "twinlog_link_lag_records{link=\"east\"} 0.0",
            "# TYPE twinlog_shard_fetches counter",
            "twinlog_shard_fetches_total{link=\"west\",shard=\"0\"} 12.0",
            "twinlog_uptime_seconds{} 3.0",
            "twinlog_link_replication_latency_seconds_bucket{le=\"0.5\",link=\"west\"} 2",
            "twinlog_link_replication_latency_seconds_bucket{le=\"+Inf\",link=\"west\"} 3",
            "twinlog_link_replication_latency_seconds_count{link=\"west\"} 3",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("twinlog_uptime_seconds{} 4.0"), "{text}");
        assert!(!text.contains("lag_seconds") && text.ends_with("# EOF\n"), "{text}");
    }
}
