//! What a link tells on `/metrics`: its views, put into series.

use super::{HandOvers, Supervisor};
use crate::admin::metrics::{Samples, Value};
use crate::control::lag::Figures;
use crate::control::supervisor::lag::figures_of;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{monotonic_nanoseconds, process_usage};
use twinlog_sync::lifecycle::MirrorState;

/// Stands for all topics beyond `metrics.topics.max`.
const OTHER: &str = "other";

fn number(value: Option<i64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn seconds(milliseconds: Option<i64>) -> Option<f64> {
    milliseconds.map(|value| value as f64 / 1e3)
}

fn seconds_of(milliseconds: Option<u64>) -> Option<f64> {
    milliseconds.map(|value| value as f64 / 1e3)
}

impl Supervisor {
    pub(super) fn samples(&self, hand_overs: &HandOvers) -> Samples {
        let mut samples = Samples::default();
        self.daemon_samples(hand_overs, &mut samples);
        self.shard_samples(&mut samples);
        self.link_samples(hand_overs, &mut samples);
        self.topic_samples(hand_overs, &mut samples);
        self.group_samples(&mut samples);
        samples
    }

    fn daemon_samples(&self, hand_overs: &HandOvers, samples: &mut Samples) {
        samples.tell("twinlog_build_info", &[env!("CARGO_PKG_VERSION")], Some(1.0));
        samples.tell("twinlog_uptime_seconds", &[], Some(hand_overs.born.elapsed().as_secs_f64()));
        let usage = process_usage().ok();
        let peak = usage.as_ref().map(|usage| usage.peak_resident_bytes as f64);
        samples.tell("twinlog_peak_resident_bytes", &[], peak);
        samples.tell("twinlog_cpu_seconds", &[], usage.map(|usage| usage.cpu_seconds()));
    }

    fn shard_samples(&self, samples: &mut Samples) {
        let link = self.settings.link.name.as_str();
        for (index, shard) in self.shards.iter().enumerate() {
            let (index, counters) = (index.to_string(), &shard.handle().counters);
            for (name, value) in [
                ("twinlog_shard_received_bytes", &counters.received_bytes),
                ("twinlog_shard_written_bytes", &counters.written_bytes),
                ("twinlog_shard_batches", &counters.batches),
                ("twinlog_shard_fetches", &counters.fetches),
                ("twinlog_shard_memory_stalls", &counters.memory_stalls),
                ("twinlog_shard_flushes", &counters.flushes),
                ("twinlog_shard_checkpoints", &counters.checkpoints),
                ("twinlog_shard_served_bytes", &counters.served_bytes),
                ("twinlog_shard_served_cold_bytes", &counters.served_cold_bytes),
                ("twinlog_shard_read_through_bytes", &counters.read_through_bytes),
                ("twinlog_shard_follower_fetches", &counters.follower_fetches),
                ("twinlog_shard_pool_free_bytes", &counters.pool_free_bytes),
                ("twinlog_shard_spool_bytes", &counters.spool_bytes),
                ("twinlog_shard_spool_deleted_bytes", &counters.spool_deleted_bytes),
            ] {
                samples.tell(name, &[link, &index], Some(value.load(Relaxed) as f64));
            }
            let flushed = counters.flush_nanoseconds.load(Relaxed) as f64 / 1e9;
            samples.tell("twinlog_shard_flush_seconds", &[link, &index], Some(flushed));
        }
    }

    fn link_samples(&self, hand_overs: &HandOvers, samples: &mut Samples) {
        let status = self.status_view(hand_overs);
        let (link, totals) = (status.link_name.as_str(), &status.totals);
        let recovery = &totals.recovery_point;
        samples.tell("twinlog_link_state", &[link, &status.link_state], Some(1.0));
        let at_least = totals.lag_ms.map(|_| f64::from(u8::from(totals.marks.lag_ms_at_least)));
        let count = |count: usize| Some(count as f64);
        for (name, value) in [
            ("twinlog_link_lag_records", number(totals.lag)),
            ("twinlog_link_lag_bytes", number(totals.lag_bytes)),
            ("twinlog_link_lag_seconds", seconds(totals.lag_ms)),
            ("twinlog_link_lag_at_least", at_least),
            ("twinlog_link_lag_age_seconds", seconds_of(totals.marks.lag_age_ms)),
            ("twinlog_link_high_watermark_lag_records", number(totals.marks.high_watermark_lag)),
            (
                "twinlog_link_oldest_open_transaction_seconds",
                seconds(totals.marks.oldest_open_transaction_ms),
            ),
            ("twinlog_link_rpo_seconds", seconds(recovery.rpo_ms)),
            ("twinlog_link_source_age_seconds", seconds_of(status.source.age_ms)),
            ("twinlog_link_mirror_topics", count(totals.mirror_topics)),
            ("twinlog_link_partitions", count(totals.partitions)),
            ("twinlog_link_failed_partitions", count(totals.failed_partitions)),
            ("twinlog_link_hand_overs", count(totals.hand_overs)),
        ] {
            samples.tell(name, &[link], value);
        }
        let worst = "twinlog_link_rpo_worst_seconds";
        samples.tell(worst, &[link, "1h"], seconds(recovery.rpo_worst_hour_ms));
        samples.tell(worst, &[link, "24h"], seconds(recovery.rpo_worst_day_ms));
        let latencies = self.sampling.link.latencies();
        let (count, sum, buckets) = (latencies.records, latencies.sum_seconds, latencies.buckets);
        let distribution = Value::Distribution { count, sum, buckets };
        samples.add("twinlog_link_replication_latency_seconds", &[link], distribution);
        let mut alarms: BTreeMap<&str, f64> = BTreeMap::new();
        status.alarms.iter().for_each(|alarm| *alarms.entry(&alarm.code).or_default() += 1.0);
        for (code, count) in alarms {
            samples.tell("twinlog_link_alarms", &[link, code], Some(count));
        }
        for task in self.task_views(hand_overs) {
            let is_well = f64::from(u8::from(task.state == "ACTIVE"));
            samples.tell("twinlog_link_task_ok", &[link, &task.task_name], Some(is_well));
        }
        for guest in &status.guests {
            let broker = guest.broker_id.to_string();
            let slack = seconds(guest.heartbeat_slack_ms);
            samples.tell("twinlog_guest_heartbeat_slack_seconds", &[link, &broker], slack);
            let led = Some(guest.led_partitions as f64);
            samples.tell("twinlog_guest_led_partitions", &[link, &broker], led);
            samples.tell("twinlog_guest_state", &[link, &broker, &guest.state], Some(1.0));
        }
    }

    /// As in its view.
    fn topic_state(&self, hand_overs: &HandOvers, topic: &str) -> &'static str {
        let state = hand_overs.rows[topic].state;
        let parts = self.partitions_of(topic);
        let mut mirrors =
            parts.iter().map(|each| &self.mirrors[each]).filter(|_| state == MirrorState::Active);
        match mirrors.clone().any(|mirror| mirror.stopped.is_some()) {
            true => MirrorState::Failed,
            false if mirrors.any(|mirror| mirror.trouble().is_some()) => MirrorState::SourceUnavailable,
            false => state,
        }
        .name()
    }

    fn topic_samples(&self, hand_overs: &HandOvers, samples: &mut Samples) {
        let (rules, clock) = (self.rules(), monotonic_nanoseconds());
        let (link, metrics) = (hand_overs.link.as_str(), self.settings.daemon.metrics);
        let mut others: Vec<Figures> = Vec::new();
        for (nth, topic) in hand_overs.rows.keys().enumerate() {
            let parts = self.partitions_of(topic);
            let figures: Vec<Figures> = match hand_overs.is_stopped(topic) {
                true => Vec::new(),
                false => parts.iter().map(|each| figures_of(&self.mirrors[each], rules, clock)).collect(),
            };
            // One that is called so cannot be told from them by name.
            if nth >= metrics.topics_max as usize || topic == OTHER {
                others.extend(figures);
                continue;
            }
            let state = self.topic_state(hand_overs, topic);
            samples.tell("twinlog_mirror_topic_state", &[link, topic, state], Some(1.0));
            if metrics.partitions {
                for (partition, each) in parts.iter().zip(&figures) {
                    let labels = [link, topic.as_str(), &partition.partition().to_string()];
                    samples.tell("twinlog_mirror_partition_lag_records", &labels, number(each.records));
                    samples.tell("twinlog_mirror_partition_lag_bytes", &labels, number(each.bytes));
                    samples.tell("twinlog_mirror_partition_lag_seconds", &labels, seconds(each.milliseconds));
                    let age = seconds_of(each.age_ms);
                    samples.tell("twinlog_mirror_partition_lag_age_seconds", &labels, age);
                }
            }
            topic_lag(samples, [link, topic], &Figures::sum(figures));
        }
        if !others.is_empty() {
            topic_lag(samples, [link, OTHER], &Figures::sum(others));
        }
    }
}

fn topic_lag(samples: &mut Samples, labels: [&str; 2], figures: &Figures) {
    for (name, value) in [
        ("twinlog_mirror_topic_lag_records", number(figures.records)),
        ("twinlog_mirror_topic_lag_bytes", number(figures.bytes)),
        ("twinlog_mirror_topic_lag_seconds", seconds(figures.milliseconds)),
        ("twinlog_mirror_topic_high_watermark_lag_records", number(figures.high_watermark_records)),
        ("twinlog_mirror_topic_oldest_open_transaction_seconds", seconds(figures.oldest_open_ms)),
    ] {
        samples.tell(name, &labels, value);
    }
}
