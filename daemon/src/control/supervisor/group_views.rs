//! Group offsets as operators see them: groups, the task, and series.

use super::Supervisor;
use crate::admin::answer::{GroupPositionView, GroupView, OffsetSyncView, TaskView};
use crate::admin::metrics::Samples;
use crate::admin::{AdminError, ErrorCode};
use crate::control::groups::GroupSync;
use std::time::Duration;
use twinlog_sync::group_offsets::{GroupOffsets, GroupReport, Verdict};

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn view(link: &str, machine: &GroupOffsets, report: GroupReport) -> GroupView {
    GroupView {
        link_name: link.to_owned(),
        destination_group_id: format!("{}{}", machine.rules().prefix, report.name),
        group_id: report.name,
        kind: report.kind.to_owned(),
        state: report.verdict.name().to_owned(),
        error_code: match report.verdict {
            Verdict::NotReadable { code } | Verdict::NotWritable { code } => Some(code),
            _ => None,
        },
        is_active_at_source: report.live_at_source,
        positions: report.positions,
        held_back: report.held_back,
        not_mirrored: report.waiting,
        offset_staleness_ms: report.staleness_ms,
        partitions: Vec::new(),
    }
}

impl Supervisor {
    fn copied_groups(&self) -> Result<&GroupSync, AdminError> {
        let none = || {
            let why = match self.settings.link.groups.enabled {
                true => "group offsets are not copied yet: both clusters must be known first",
                false => "group offsets are not copied: consumer.offset.sync.enable is false",
            };
            AdminError::new(ErrorCode::Conflict, &why)
        };
        self.groups.as_ref().map(|groups| &*groups.sync).ok_or_else(none)
    }

    pub(super) fn group_views(&self) -> Result<Vec<GroupView>, AdminError> {
        let sync = self.copied_groups()?;
        let (now, machine) = (sync.now(), sync.machine());
        let link = &self.settings.link.name;
        Ok(machine.numbers().map(|group| view(link, &machine, machine.report(now, group))).collect())
    }

    pub(super) fn group_view(&self, name: &str) -> Result<GroupView, AdminError> {
        let sync = self.copied_groups()?;
        let (now, machine) = (sync.now(), sync.machine());
        let number = machine.number(name).ok_or_else(|| {
            let why =
                format!("the source shows no group {name}, or consumer.offset.group.filters leave it out");
            AdminError::new(ErrorCode::NoSuchGroup, &why)
        })?;
        let positions = machine.positions(number).into_iter().map(|each| GroupPositionView {
            topic_name: each.topic,
            partition_id: each.index,
            source_offset: each.source,
            destination_offset: each.destination,
            delivered_offset: each.delivered,
            state: each.state.to_owned(),
            metadata: each.metadata,
        });
        let view = view(&self.settings.link.name, &machine, machine.report(now, number));
        Ok(GroupView { partitions: positions.collect(), ..view })
    }

    pub(super) fn offset_sync_view(&self) -> OffsetSyncView {
        let enabled = self.settings.link.groups.enabled;
        let Some(groups) = &self.groups else {
            return OffsetSyncView { enabled, ..OffsetSyncView::default() };
        };
        let figures = groups.sync.figures();
        let summary = groups.sync.machine().summary(groups.sync.now());
        OffsetSyncView {
            enabled,
            rounds: figures.rounds,
            overruns: figures.overruns,
            last_round_ms: milliseconds(figures.last_round),
            last_success_ms: figures.last_success_ms,
            error: figures.error,
            commits: figures.commits,
            requests: figures.requests,
            phase_ms: figures
                .phases
                .told()
                .map(|(phase, spent)| (phase.name().to_owned(), milliseconds(spent)))
                .collect(),
            groups: summary.groups,
            positions: summary.positions,
            held_back: summary.held_back_positions,
            skipped: summary.skipped,
            states: summary.verdicts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            offset_staleness_ms: summary.staleness_ms,
        }
    }

    pub(super) fn offset_sync_task(&self) -> TaskView {
        let figures = self.groups.as_ref().map(|groups| groups.sync.figures()).unwrap_or_default();
        let state = match (&figures.error, self.settings.link.groups.enabled) {
            (_, false) => "NOT_CONFIGURED",
            (Some(_), true) => "IN_ERROR",
            (None, true) => "ACTIVE",
        };
        TaskView {
            task_name: "ConsumerOffsetSync".to_owned(),
            state: state.to_owned(),
            error: figures.error,
            last_success_ms: figures.last_success_ms,
        }
    }

    pub(super) fn group_samples(&self, samples: &mut Samples) {
        let link = self.settings.link.name.as_str();
        let view = self.offset_sync_view();
        if !view.enabled || view.rounds == 0 {
            return;
        }
        let seconds = |milliseconds: u64| milliseconds as f64 / 1e3;
        samples.tell("twinlog_offset_staleness_seconds", &[link], view.offset_staleness_ms.map(seconds));
        for state in Verdict::ALL.map(Verdict::name) {
            let count = view.states.get(state).copied().unwrap_or(0);
            samples.tell("twinlog_offset_groups", &[link, state], Some(count as f64));
        }
        for (name, value) in [
            ("twinlog_offset_skipped_groups", view.skipped as f64),
            ("twinlog_offset_held_back_positions", view.held_back as f64),
            ("twinlog_offset_round_seconds", seconds(view.last_round_ms)),
            ("twinlog_offset_rounds", view.rounds as f64),
            ("twinlog_offset_sync_overruns", view.overruns as f64),
            ("twinlog_offset_commits", view.commits as f64),
            ("twinlog_offset_requests", view.requests as f64),
        ] {
            samples.tell(name, &[link], Some(value));
        }
        for (phase, spent) in &view.phase_ms {
            samples.tell("twinlog_offset_phase_seconds", &[link, phase.as_str()], Some(seconds(*spent)));
        }
    }
}
