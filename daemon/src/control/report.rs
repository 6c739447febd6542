//! The last word of a run: one JSON object, or a few lines for people.
//!
//! Field names are a contract with scripts: they are added to, never renamed.

use super::mirror::Mirror;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use twinlog_io::process_usage;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;

#[derive(Debug, Serialize)]
pub struct Report {
    pub link: String,
    /// `caught_up`, `stopped_by_signal`, `incomplete` or `failed`.
    pub outcome: &'static str,
    /// What is missing, and why.
    pub unmet: Vec<String>,
    pub partitions: Vec<PartitionReport>,
    pub totals: Totals,
}

#[derive(Debug, Serialize)]
pub struct PartitionReport {
    pub topic: String,
    pub partition: i32,
    /// First offset of the mirrored log.
    pub start: i64,
    /// Offset after the last one that is delivered.
    pub end: i64,
    /// The source's end when the run began; absent when it was never told.
    pub captured_end: Option<i64>,
    /// Received in this run.
    pub bytes: u64,
    pub batches: u64,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Totals {
    pub partitions: usize,
    pub bytes: u64,
    pub batches: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
}

/// Bytes and batches of partitions, received before the data threads were started again.
pub type Received = BTreeMap<TopicPartition, (u64, u64)>;

impl Report {
    pub fn new<'a>(
        link: &str,
        outcome: &'static str,
        unmet: Vec<String>,
        (mirrors, before): (impl Iterator<Item = &'a Mirror>, &Received),
        elapsed: Duration,
    ) -> Self {
        let partitions: Vec<PartitionReport> =
            mirrors.map(|mirror| partition_report(mirror, before)).collect();
        let usage = process_usage().ok();
        let totals = Totals {
            partitions: partitions.len(),
            bytes: partitions.iter().map(|each| each.bytes).sum(),
            batches: partitions.iter().map(|each| each.batches).sum(),
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: usage.map_or(0.0, |usage| usage.cpu_seconds()),
            peak_memory_bytes: usage.map_or(0, |usage| usage.peak_resident_bytes),
        };
        Self { link: link.to_owned(), outcome, unmet, partitions, totals }
    }

    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are always JSON")
    }

    pub fn text(&self) -> String {
        let totals = &self.totals;
        let mut text = format!(
            "link {}: {}; {} partitions, {} bytes in {} batches, {:.1} s, {:.2} CPU-s, peak memory {} MiB\n",
            self.link,
            self.outcome.replace('_', " "),
            totals.partitions,
            totals.bytes,
            totals.batches,
            totals.seconds,
            totals.cpu_seconds,
            totals.peak_memory_bytes >> 20,
        );
        for sentence in &self.unmet {
            let _ = writeln!(text, "  {sentence}");
        }
        text
    }
}

fn partition_report(mirror: &Mirror, before: &Received) -> PartitionReport {
    let counters = &mirror.counters;
    let (bytes, batches) = before.get(&mirror.partition).copied().unwrap_or_default();
    PartitionReport {
        topic: mirror.partition.topic().to_owned(),
        partition: mirror.partition.partition(),
        start: counters.log_start.load(Relaxed),
        end: counters.delivered.load(Relaxed),
        captured_end: mirror.captured_end.map(Offset::value),
        bytes: bytes + counters.bytes.load(Relaxed),
        batches: batches + counters.batches.load(Relaxed),
        state: mirror.state(),
        code: mirror.trouble().map(|trouble| trouble.code),
        reason: mirror.trouble().map(|trouble| trouble.reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::mirror::{Phase, Stopped};
    use std::sync::Arc;
    use twinlog_log_segment::files::TopicId;
    use twinlog_sync::session::PartitionKey;
    use twinlog_sync::wire::fetch_request::Topic;

    #[test]
    fn a_report_names_every_partition_and_why_one_stands_still() {
        let partition = TopicPartition::new("orders", 3).unwrap();
        let topic = Arc::new(Topic { name: "orders".into(), id: TopicId::ZERO });
        let key = PartitionKey { topic: 0, index: 3 };
        let now = tokio::time::Instant::now();
        let mut mirror = Mirror::new(partition, key, topic, 0, "orders-3".into(), now);
        mirror.counters.log_start.store(5, Relaxed);
        mirror.counters.delivered.store(9, Relaxed);
        mirror.counters.bytes.store(700, Relaxed);
        mirror.captured_end = Offset::new(12);
        mirror.phase = Phase::Running;
        mirror.stopped = Some(Stopped { code: "SOURCE_GAP", reason: "gone".into() });
        let unmet = vec!["orders-3 is stopped".to_owned()];
        let before = Received::from([(mirror.partition.clone(), (30, 1))]);
        let mirrors = ([&mirror].into_iter(), &before);
        let report = Report::new("west", "incomplete", unmet, mirrors, Duration::from_secs(2));
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let first = &value["partitions"][0];
        assert_eq!((first["start"].as_i64(), first["end"].as_i64()), (Some(5), Some(9)));
        assert_eq!((first["state"].as_str(), first["code"].as_str()), (Some("stopped"), Some("SOURCE_GAP")));
        assert_eq!(
            (value["totals"]["bytes"].as_u64(), value["totals"]["seconds"].as_f64()),
            (Some(730), Some(2.0))
        );
        assert!(report.text().contains("orders-3 is stopped"));
    }
}
