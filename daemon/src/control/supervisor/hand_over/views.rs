//! What operators are shown: rows, counters and standings, put side by side.
//!
//! A figure that nobody has observed is left out, never shown as 0.

use super::groups::report_of;
use super::store::STORED;
use super::{HandOvers, Running, Supervisor};
use crate::admin::answer::{
    AlarmView, FollowerView, GuestView, HandOverView, LagMarks, MirrorTopicView, PartitionView,
    RecoveryPointView, SourceView, StatusView, StoredTopicView, TaskView, TotalsView,
};
use crate::control::lag::Figures;
use crate::control::mirror::Mirror;
use crate::control::state::MirrorTopic;
use crate::control::supervisor::guest::GuestLink;
use crate::control::supervisor::lag::figures_of;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use twinlog_io::{monotonic_nanoseconds, wall_clock_ms};
use twinlog_sync::lifecycle::{HandOverStep, HandOverWay, MirrorState};
use twinlog_sync::metadata::MembershipState;

/// Where the copy's next fetch begins.
pub fn fetched(mirror: &Mirror) -> Option<i64> {
    mirror.is_in_shard().then(|| mirror.counters.fetch.load(Relaxed))
}

/// A part of the last hand-over's answer.
fn result_of<T: serde::de::DeserializeOwned>(row: &MirrorTopic, name: &str) -> Vec<T> {
    let value = row.last_promote.as_ref().and_then(|answer| answer.get(name));
    value.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
}

/// What is ready to be adopted of it.
fn stored_of(row: &MirrorTopic) -> Option<StoredTopicView> {
    serde_json::from_value(row.last_promote.as_ref()?.get(STORED)?.clone()).ok()
}

/// How figures are to be read.
pub(super) fn marks(figures: &Figures) -> LagMarks {
    LagMarks {
        lag_ms_at_least: figures.at_least,
        lag_bytes_estimated: figures.bytes_estimated,
        lag_age_ms: figures.age_ms,
        high_watermark_lag: figures.high_watermark_records,
        oldest_open_transaction_ms: figures.oldest_open_ms,
    }
}

fn word(state: MembershipState) -> &'static str {
    match state {
        MembershipState::Unknown => "UNKNOWN",
        MembershipState::Registering => "REGISTERING",
        MembershipState::Fenced { .. } => "FENCED",
        MembershipState::Active { .. } => "ACTIVE",
        MembershipState::Leaving | MembershipState::Left => "LEAVING",
    }
}

fn age_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

impl HandOvers {
    /// Deletions that do not go on, and brokers that are still left out.
    fn alarms(&self) -> Vec<AlarmView> {
        let stuck = self.deletions.iter().filter_map(|(topic, deleting)| {
            let view = deleting.view();
            let message = format!("{topic} at {}: {}", view.step, view.error?);
            Some(AlarmView { code: "DELETION".to_owned(), message, since_ms: view.since_ms })
        });
        let left_out = self.rows.keys().flat_map(|topic| {
            self.repair_views(topic).into_iter().map(move |view| AlarmView {
                code: "REPLICAS_LEFT_OUT".to_owned(),
                message: format!("{topic}-{} waits for {}", view.partition_id, view.waits_for),
                since_ms: view.since_ms,
            })
        });
        let overtaken = self.overtaken_since_ms.map(|since_ms| AlarmView {
            code: "PRODUCER_IDS".to_owned(),
            message: format!(
                "mirrored records carry producer ids up to {}, the destination hands out ids from {} on",
                self.next_mirrored_id - 1,
                self.floor.floor
            ),
            since_ms,
        });
        stuck.chain(left_out).chain(overtaken).collect()
    }
}

fn guest_views(guest: &GuestLink) -> Vec<GuestView> {
    let image = guest.member.image();
    let view = |id| {
        let state = guest.member.state(id);
        let partitions = image.topics().values().flat_map(|topic| topic.partitions.values());
        let slack = guest.member.heartbeat_figures(id).map(|figures| figures.last_slack_ms.load(Relaxed));
        GuestView {
            broker_id: id,
            state: state.map_or("RESERVED", |state| word(state.state)).to_owned(),
            broker_epoch: state.and_then(|state| state.broker_epoch()),
            heartbeat_slack_ms: slack,
            led_partitions: partitions.filter(|partition| partition.leader == Some(id)).count(),
            age_ms: state.map(|_| 0),
        }
    };
    guest.ids().into_iter().map(view).collect()
}

impl Supervisor {
    /// What the mirror is kept as.
    pub(super) fn mode(&self) -> &'static str {
        if self.guest.is_some() { "guest" } else { "store" }
    }

    pub(super) fn link_state(&self, hand_overs: &HandOvers) -> &'static str {
        match (&self.halted, &self.refresh.last_error) {
            (Some(_), _) => "FAILED",
            (None, _) if hand_overs.is_link_paused() => "PAUSED",
            (None, Some(_)) => "UNAVAILABLE",
            (None, None) => "ACTIVE",
        }
    }

    /// What the link does again and again, and how it went the last time.
    pub(super) fn task_views(&self, hand_overs: &HandOvers) -> Vec<TaskView> {
        let before = |at: Instant| wall_clock_ms() - i64::try_from(at.elapsed().as_millis()).unwrap_or(0);
        let view = |name: &str, error: Option<String>, last_success_ms: Option<i64>| TaskView {
            task_name: name.to_owned(),
            state: if error.is_some() { "IN_ERROR" } else { "ACTIVE" }.to_owned(),
            error,
            last_success_ms,
        };
        let lost = self.refresh.last_error.as_ref().map(ToString::to_string);
        let seen = self.refresh.succeeded_at.map(before);
        let configs = &hand_overs.config_sync;
        let mut tasks = vec![
            view("TopicDiscovery", lost, seen),
            view("TopicConfigsSync", configs.error.clone(), configs.last_success_ms),
        ];
        tasks.push(self.offset_sync_task());
        if self.guest.is_some() {
            tasks.push(view("ProducerIdFloor", None, hand_overs.floored_at.map(before)));
        }
        tasks
    }

    pub(super) fn figures_of(&self, mirror: &Mirror) -> Figures {
        figures_of(mirror, self.rules(), monotonic_nanoseconds())
    }

    fn topic_figures(&self, topic: &str) -> Figures {
        Figures::sum(self.partitions_of(topic).iter().map(|each| self.figures_of(&self.mirrors[each])))
    }

    fn recovery_point(&self) -> RecoveryPointView {
        let (link, now) = (&self.sampling.link, monotonic_nanoseconds());
        RecoveryPointView {
            rpo_ms: link.at_risk_ms,
            rpo_worst_hour_ms: link.worst_ms(now, 60),
            rpo_worst_day_ms: link.worst_ms(now, 24 * 60),
            replication_latency_p50_ms: link.quantile_ms(0.5),
            replication_latency_p99_ms: link.quantile_ms(0.99),
            replication_latency_max_ms: link.quantile_ms(1.0),
        }
    }

    pub(super) fn mirror_views(&self, hand_overs: &HandOvers) -> Vec<MirrorTopicView> {
        let topics = hand_overs.rows.keys();
        topics.filter_map(|topic| self.mirror_view(hand_overs, topic)).collect()
    }

    pub(super) fn mirror_view(&self, hand_overs: &HandOvers, topic: &str) -> Option<MirrorTopicView> {
        let row = hand_overs.rows.get(topic)?;
        let stopped = row.state == MirrorState::Stopped;
        let partitions = match stopped {
            // What this daemon still knows of them is no mirror's state.
            true => Vec::new(),
            false => self
                .partitions_of(topic)
                .iter()
                .map(|each| self.partition_view(hand_overs, &self.mirrors[each]))
                .collect(),
        };
        // One that stands still for good, before one that waits for a right.
        let is_stopped = |each: &&PartitionView| each.state == "STOPPED";
        let worst = partitions.iter().find(is_stopped);
        let worst = worst.or_else(|| partitions.iter().find(|each| !each.code.is_empty()));
        let running = hand_overs.running.get(topic);
        let hand_over = hand_overs.hand_overs.get(topic).map(|last| HandOverView {
            kind: last.kind.name().to_owned(),
            step: self.step_shown(running, last.step, stopped).name().to_owned(),
            since_ms: last.started_ms,
            losses: result_of(row, "losses"),
            cuts: match running {
                Some(_) => self.cuts(hand_overs, topic),
                None => result_of(row, "cuts"),
            },
            left_out_broker_ids: result_of(row, "left_out_broker_ids"),
            consumer_groups: report_of(&last.options)
                .or_else(|| row.last_promote.as_ref().and_then(report_of)),
            error: running
                .and_then(|running| running.machine.trouble().map(ToString::to_string))
                .or_else(|| row.last_promote.as_ref()?.get("error")?.as_str().map(str::to_owned))
                // The row is read anew a moment after its end.
                .or_else(|| last.error.clone().filter(|_| last.step == HandOverStep::Abandoned)),
            hand_over_request_ms: running
                .and_then(|running| running.request_ms)
                .or_else(|| row.last_promote.as_ref()?.get("hand_over_request_ms")?.as_u64()),
            stored: stopped.then(|| stored_of(row)).flatten(),
        });
        let failed = worst.filter(|_| row.state == MirrorState::Active);
        let figures = if stopped { Figures::default() } else { self.topic_figures(topic) };
        Some(MirrorTopicView {
            link_name: row.link.clone(),
            mirror_topic_name: row.topic.clone(),
            source_topic_name: row.topic.clone(),
            state: match failed {
                None => row.state,
                Some(worst) if is_stopped(&worst) => MirrorState::Failed,
                Some(_) => MirrorState::SourceUnavailable,
            }
            .name()
            .to_owned(),
            reason: failed.map_or(row.reason.clone(), |worst| worst.reason.clone()),
            code: failed.map_or(row.code.clone(), |worst| worst.code.clone()),
            state_time_ms: row.since_ms,
            replication_factor: Some(row.replication_factor),
            source_configs: row.wanted_configs.clone(),
            exactness: "exact".to_owned(),
            partitions,
            lag: figures.records,
            lag_ms: figures.milliseconds,
            lag_bytes: figures.bytes,
            marks: marks(&figures),
            hand_over,
            deletion: hand_overs.deletions.get(topic).map(super::deleting::Deleting::view),
            replica_repairs: hand_overs.repair_views(topic),
        })
    }

    /// Over only once its answer is here too: whoever waits for the end reads both from one view.
    fn step_shown(&self, running: Option<&Running>, kept: HandOverStep, stopped: bool) -> HandOverStep {
        let step = running.map_or(kept, |running| running.machine.step());
        if step != HandOverStep::Done || stopped {
            return step;
        }
        let way = if self.guest.is_some() { HandOverWay::Guest } else { HandOverWay::Store };
        let last = way.transitions().iter().find(|row| row.to == step);
        last.map_or(step, |row| row.from)
    }

    fn partition_view(&self, hand_overs: &HandOvers, mirror: &Mirror) -> PartitionView {
        let counters = &mirror.counters;
        let here = |value: i64| mirror.is_in_shard().then_some(value);
        let standing = hand_overs.standings.get(&mirror.key);
        // A store leads nothing: what its shards tell is of the log alone.
        let standing = standing.filter(|_| self.guest.is_some());
        let led = standing.and_then(|(at, led)| Some((at.elapsed(), led.as_ref()?)));
        let followers = led.iter().flat_map(|(since, led)| {
            led.followers.iter().map(|each| FollowerView {
                broker_id: each.broker,
                end: each.end.map(|end| end.value()),
                age_ms: each.age_ns.map(|age| age / 1_000_000 + age_ms(*since)),
                in_sync: each.end == Some(led.log_end),
            })
        });
        let figures = self.figures_of(mirror);
        PartitionView {
            partition_id: mirror.partition.partition(),
            lag: figures.records,
            lag_ms: figures.milliseconds,
            lag_bytes: figures.bytes,
            marks: marks(&figures),
            last_source_fetch_offset: fetched(mirror),
            log_start: here(counters.log_start.load(Relaxed)),
            log_end: here(counters.log_end.load(Relaxed)),
            high_watermark: led.as_ref().map(|(_, led)| led.high_watermark.value()),
            leader_epoch: led.as_ref().map(|(_, led)| led.leader_epoch.0),
            guest_broker_id: led.as_ref().map(|(_, led)| led.guest),
            followers: followers.collect(),
            state: mirror.state().to_uppercase(),
            reason: mirror.trouble().map(|trouble| trouble.reason.clone()).unwrap_or_default(),
            code: mirror.trouble().map(|trouble| trouble.code.to_owned()).unwrap_or_default(),
        }
    }

    pub(super) fn status_view(&self, hand_overs: &HandOvers) -> StatusView {
        let guests = self.guest.as_ref().map(guest_views).unwrap_or_default();
        let figures = self.link_figures();
        let stopped = self.mirrors.values().filter(|mirror| mirror.stopped.is_some()).count();
        let troubles = hand_overs.running.iter().filter_map(|(topic, running)| {
            let message = format!("{topic}: {}", running.machine.trouble()?);
            let since_ms = hand_overs.hand_overs.get(topic).map_or(0, |row| row.updated_ms);
            Some(AlarmView { code: "HAND_OVER".to_owned(), message, since_ms })
        });
        let halted = self.halted.as_ref().map(|reason| AlarmView {
            code: "HALTED".to_owned(),
            message: reason.clone(),
            since_ms: 0,
        });
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            link_name: hand_overs.link.clone(),
            link_state: self.link_state(hand_overs).to_owned(),
            mode: self.mode().to_owned(),
            uptime_ms: age_ms(hand_overs.born.elapsed()),
            guests,
            controllers: None,
            source: SourceView {
                cluster_id: hand_overs.source_cluster_id.clone(),
                brokers: self.servers.len(),
                error: self.refresh.last_error.as_ref().map(ToString::to_string),
                age_ms: Some(age_ms(self.refresh.finished_at.elapsed())),
            },
            totals: TotalsView {
                mirror_topics: hand_overs.rows.len(),
                partitions: self.mirrors.len(),
                failed_partitions: stopped,
                hand_overs: hand_overs.running.len(),
                lag: figures.records,
                lag_ms: figures.milliseconds,
                lag_bytes: figures.bytes,
                age_ms: figures.age_ms,
                marks: marks(&figures),
                recovery_point: self.recovery_point(),
            },
            offset_sync: Some(self.offset_sync_view()),
            alarms: halted
                .into_iter()
                .chain(troubles)
                .chain(hand_overs.alarms())
                .chain(self.access_alarm())
                .chain(self.guest.iter().flat_map(|guest| guest.troubles.alarms()))
                .collect(),
            links: Vec::new(),
        }
    }
}
