//! `twinlog status`: the daemon at a glance, with the age of everything it shows.

use super::operator::{OperatorArgs, operate};
use super::table::{age, figure, lag_bytes, lag_time, span, table};
use crate::admin::answer::{StatusView, TotalsView};
use clap::Args;
use std::fmt::Write;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
}

pub fn status(arguments: &StatusArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let answer: StatusView = operator.client.get("/twinlog/v1/status").await?;
        operator.show(&answer, |answer| match answer.links.is_empty() {
            true => written(answer),
            false => answer.links.iter().map(written).collect::<Vec<_>>().join("\n"),
        });
        Ok(true)
    })
}

fn written(status: &StatusView) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(text, "{words}").expect("a text takes every line");
    };
    let StatusView { link_name, link_state, mode, version, .. } = status;
    line(format_args!(
        "link {link_name}: {link_state}, mode {mode}, version {version}, up {}",
        span(status.uptime_ms)
    ));
    let source = &status.source;
    let cluster = figure(source.cluster_id.as_ref());
    line(format_args!("source: cluster {cluster}, {} brokers ({})", source.brokers, age(source.age_ms)));
    let told = |error: &Option<String>| error.as_ref().map(|error| format!("  error: {error}"));
    told(&source.error).iter().for_each(|error| line(format_args!("{error}")));
    if let Some(controllers) = &status.controllers {
        line(format_args!(
            "destination: controller {} at epoch {}, metadata offset {} ({})",
            figure(controllers.active_controller_id),
            figure(controllers.controller_epoch),
            figure(controllers.metadata_offset),
            age(controllers.age_ms)
        ));
        told(&controllers.error).iter().for_each(|error| line(format_args!("{error}")));
    }
    let totals = &status.totals;
    line(format_args!(
        "mirrors: {} topics, {} partitions, {} of them failed, {} hand-overs under way",
        totals.mirror_topics, totals.partitions, totals.failed_partitions, totals.hand_overs
    ));
    lag_lines(totals).iter().for_each(|words| line(format_args!("{words}")));
    offset_line(status).iter().for_each(|words| line(format_args!("{words}")));
    status.alarms.iter().for_each(|alarm| line(format_args!("alarm {}: {}", alarm.code, alarm.message)));
    if !status.guests.is_empty() {
        let rows: Vec<_> = status
            .guests
            .iter()
            .map(|guest| {
                [
                    guest.broker_id.to_string(),
                    guest.state.clone(),
                    figure(guest.broker_epoch),
                    figure(guest.heartbeat_slack_ms),
                    guest.led_partitions.to_string(),
                    age(guest.age_ms),
                ]
            })
            .collect();
        let header = ["Guest", "State", "BrokerEpoch", "HeartbeatSlackMs", "LedPartitions", "Observed"];
        text.push_str(&table(header, &rows));
    }
    text
}

/// How group offsets stand.
fn offset_line(status: &StatusView) -> Option<String> {
    let sync = status.offset_sync.as_ref().filter(|sync| sync.enabled && sync.rounds > 0)?;
    let staleness = sync.offset_staleness_ms.map_or_else(|| figure::<u64>(None), span);
    Some(format!(
        "groups: {} with {} positions, at most {staleness} old; {} positions wait for data, {} groups are left out, {} \
         of {} rounds overran",
        sync.groups, sync.positions, sync.held_back, sync.skipped, sync.overruns, sync.rounds
    ))
}

/// How far everything together is behind, what is at risk, and how long delivery took.
fn lag_lines(totals: &TotalsView) -> Vec<String> {
    let (marks, recovery) = (&totals.marks, &totals.recovery_point);
    let mut lines = vec![
        format!(
            "lag: {} records, {} bytes, {} ({}); to the high watermarks {} records, oldest open transaction {}",
            figure(totals.lag),
            lag_bytes(totals.lag_bytes, marks.lag_bytes_estimated),
            lag_time(totals.lag_ms, marks.lag_ms_at_least),
            age(totals.age_ms),
            figure(marks.high_watermark_lag),
            lag_time(marks.oldest_open_transaction_ms, false)
        ),
        format!(
            "at risk: {} now, {} at the worst of the last hour, {} of the last day",
            lag_time(recovery.rpo_ms, false),
            lag_time(recovery.rpo_worst_hour_ms, false),
            lag_time(recovery.rpo_worst_day_ms, false)
        ),
    ];
    if let (Some(half), Some(most), Some(all)) = (
        recovery.replication_latency_p50_ms,
        recovery.replication_latency_p99_ms,
        recovery.replication_latency_max_ms,
    ) {
        lines.push(format!(
            "latency: half of all records within {half} ms, 99 % within {most} ms, all within {all} ms"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::answer::{
        AlarmView, ControllersView, GuestView, LagMarks, RecoveryPointView, SourceView,
    };

    #[test]
    fn everything_is_shown_with_its_age() {
        let status = StatusView {
            version: "0.1.0".into(),
            link_name: "dr".into(),
            link_state: "ACTIVE".into(),
            mode: "guest".into(),
            uptime_ms: 3_723_000,
            offset_sync: None,
            guests: vec![GuestView {
                broker_id: 900,
                state: "RUNNING".into(),
                age_ms: Some(400),
                ..Default::default()
            }],
            controllers: Some(ControllersView {
                error: Some("no controller answers".into()),
                ..Default::default()
            }),
            source: SourceView {
                cluster_id: Some("abc".into()),
                brokers: 3,
                age_ms: Some(1_200),
                error: None,
            },
            totals: TotalsView {
                mirror_topics: 2,
                partitions: 24,
                lag: Some(7),
                lag_ms: Some(1_500),
                lag_bytes: Some(900),
                age_ms: Some(40),
                marks: LagMarks { lag_ms_at_least: true, lag_bytes_estimated: true, ..LagMarks::default() },
                recovery_point: RecoveryPointView {
                    rpo_ms: Some(1_500),
                    rpo_worst_hour_ms: Some(61_000),
                    replication_latency_p50_ms: Some(8),
                    replication_latency_p99_ms: Some(40),
                    replication_latency_max_ms: Some(61_000),
                    ..RecoveryPointView::default()
                },
                ..Default::default()
            },
            alarms: vec![AlarmView { code: "GUARD_CHANGED".into(), message: "set back".into(), since_ms: 1 }],
            links: Vec::new(),
        };
        let expected = "\
link dr: ACTIVE, mode guest, version 0.1.0, up 1 h 2 min
source: cluster abc, 3 brokers (1.2 s ago)
destination: controller unknown at epoch unknown, metadata offset unknown (never observed)
  error: no controller answers
mirrors: 2 topics, 24 partitions, 0 of them failed, 0 hand-overs under way
lag: 7 records, ~900 bytes, >= 1.5 s (0.0 s ago); to the high watermarks unknown records, oldest open transaction unknown
at risk: 1.5 s now, 1 min 1 s at the worst of the last hour, unknown of the last day
latency: half of all records within 8 ms, 99 % within 40 ms, all within 61000 ms
alarm GUARD_CHANGED: set back
Guest | State   | BrokerEpoch | HeartbeatSlackMs | LedPartitions | Observed
------+---------+-------------+------------------+---------------+----------
900   | RUNNING | unknown     | unknown          | 0             | 0.4 s ago
";
        assert_eq!(written(&status), expected);
    }
}
