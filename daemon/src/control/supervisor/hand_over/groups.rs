//! Consumer groups at a hand-over: read once more, written for the last time, and told where they were clamped.
//!
//! A promote reads the source for it, a failover takes what is known. Nobody's positions hold a hand-over up for
//! long: after a few tries it goes on, and its answer says which groups are not final, and why. Where the copy is a
//! store, what is kept is clamped once more by itself, groups that nobody heard of since the start included, and
//! written as a file.

use super::super::groups::OFFSETS_FILE;
use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::admin::answer::{ClampedPositionView, GroupsHandOverView};
use crate::control::groups::{kept_lines, write_file};
use crate::control::state::{HandOverKind, KeptPosition, StateDatabase};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tracing::warn;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::hand_over::Event;

/// Where the report is in a hand-over's options.
pub const GROUPS: &str = "consumer_groups";
/// Readings of a source that fails. More of them keep everybody from writing for longer.
const TRIES_MAX: u32 = 5;
/// Positions that a report names; the others are counted.
const NAMED_MAX: usize = 1_000;

/// What a store keeps of a topic's positions after its last round.
#[derive(Default)]
pub struct KeptGroups {
    groups: usize,
    /// Those that were beyond the ends, as they were, with the ends.
    clamped: Vec<(KeptPosition, i64)>,
}

/// Clamps what is kept, and writes all of it as a file.
async fn settle(
    state: &StateDatabase,
    link: &str,
    topic: &str,
    ends: &[(i32, Offset)],
    file: PathBuf,
) -> Result<KeptGroups, String> {
    let by_index: BTreeMap<i32, i64> = ends.iter().map(|(index, end)| (*index, end.value())).collect();
    let all = by_index.iter().map(|(index, end)| (*index, *end)).collect();
    let clamped = state.clamp_group_positions(link, topic, all, wall_clock_ms()).await;
    let clamped = clamped.map_err(|error| error.to_string())?;
    let lines = kept_lines(state, link).await.map_err(|error| error.to_string())?;
    let groups: BTreeSet<&String> =
        lines.iter().filter(|line| line.topic == topic).map(|line| &line.group).collect();
    let groups = groups.len();
    if !lines.is_empty() {
        write_file(file, lines).await?;
    }
    let with_end = |position: KeptPosition| {
        let end = by_index.get(&position.partition).copied()?;
        Some((position, end))
    };
    Ok(KeptGroups { groups, clamped: clamped.into_iter().filter_map(with_end).collect() })
}

impl KeptGroups {
    /// Adds what was clamped here and not by the round before.
    fn tell(self, report: &mut GroupsHandOverView) {
        report.groups = self.groups;
        for (before, end) in self.clamped {
            if report.clamped.len() == NAMED_MAX {
                report.not_named += 1;
                continue;
            }
            report.clamped.retain(|each| {
                (each.group_id.as_str(), each.partition_id) != (before.group.as_str(), before.partition)
            });
            report.clamped.push(ClampedPositionView {
                group_id: before.group,
                partition_id: before.partition,
                source_offset: Some(before.offset),
                destination_offset: Some(end),
                clamped_by: Some(before.offset - end),
                state: "HELD_BACK".to_owned(),
            });
        }
    }
}

impl Supervisor {
    /// Positions within these ends, for the last time.
    pub(super) fn commit_groups(
        &mut self,
        hand_overs: &mut HandOvers,
        topic: &str,
        ends: Vec<(i32, Offset)>,
    ) {
        let promotes = hand_overs.running.get(topic).is_some_and(|each| each.kind == HandOverKind::Promote);
        let wanted = self.want_last_round(topic, &ends, promotes);
        let topic = topic.to_owned();
        let file = self.settings.journal_directory().join(OFFSETS_FILE);
        let keeps = self.guest.is_none().then(|| (hand_overs.state(), hand_overs.link.clone(), file));
        self.spawn(async move {
            let mut result = match wanted {
                None => Ok(false),
                Some(done) => match done.await {
                    Ok(result) => result.map(|()| true),
                    Err(_) => Err("the round was given up".to_owned()),
                },
            };
            let mut kept = None;
            if let Some((state, link, file)) = keeps {
                match settle(&state, &link, &topic, &ends, file).await {
                    Ok(settled) => kept = Some(settled),
                    Err(why) => result = Err(why),
                }
            }
            outcome(HandOverOutcome::GroupsWritten { topic, result, kept })
        });
    }

    /// The round is over. `false`: positions are not copied.
    pub(super) fn groups_written(
        &mut self,
        hand_overs: &mut HandOvers,
        topic: String,
        result: Result<bool, String>,
        kept: Option<KeptGroups>,
    ) {
        let Some(running) = hand_overs.running.get_mut(&topic) else { return };
        let holds = kept.as_ref().is_some_and(|kept| kept.groups > 0);
        let error = match result {
            Ok(false) if !holds => {
                let event = Event::GroupsCommitted(Ok(()));
                return hand_overs.handle_all(vec![(topic, event)]);
            }
            Ok(_) => None,
            Err(why) => {
                running.group_tries += 1;
                if running.group_tries < TRIES_MAX {
                    let event = Event::GroupsCommitted(Err(why));
                    return hand_overs.handle_all(vec![(topic, event)]);
                }
                Some(why)
            }
        };
        let mut report = self.close_groups(&topic, error);
        if let Some(kept) = kept {
            kept.tell(&mut report);
        }
        if let Some(why) = &report.error {
            warn!("{topic}: positions of its groups may not be final: {why}");
        }
        for each in &report.clamped {
            warn!(
                "{topic}-{}: group {} is left at {:?} of {:?}: {}",
                each.partition_id, each.group_id, each.destination_offset, each.source_offset, each.state
            );
        }
        let note = serde_json::json!(report);
        if let Some(row) = hand_overs.hand_overs.get_mut(&topic) {
            row.options[GROUPS] = note.clone();
        }
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let kept = state.note_in_hand_over(&link, &topic, (GROUPS, note), wall_clock_ms()).await;
            let kept = kept.map_err(|error| error.to_string());
            outcome(HandOverOutcome::Events(vec![(topic, Event::GroupsCommitted(kept))]))
        });
    }

    /// Nothing of this topic is written any more; what its groups are left with.
    fn close_groups(&mut self, topic: &str, error: Option<String>) -> GroupsHandOverView {
        let mut view = GroupsHandOverView { error, ..GroupsHandOverView::default() };
        let Some(groups) = &mut self.groups else { return view };
        let (numbers, differing) = groups.sync.machine().left_with(topic);
        view.groups = numbers;
        view.not_named = differing.len().saturating_sub(NAMED_MAX);
        view.clamped = differing
            .into_iter()
            .take(NAMED_MAX)
            .map(|(group_id, verdict, position)| ClampedPositionView {
                group_id,
                partition_id: position.index,
                source_offset: position.source,
                destination_offset: position.destination,
                clamped_by: position.source.zip(position.destination).map(|(source, there)| source - there),
                state: match verdict.is_skipped() {
                    true => verdict.name().to_owned(),
                    false => position.state.to_owned(),
                },
            })
            .collect();
        groups.closed.insert(topic.to_owned());
        view
    }

    /// The hand-over was taken back: its topic is a mirror as before.
    pub(super) fn reopen_groups(&mut self, topic: &str) {
        if let Some(groups) = &mut self.groups {
            groups.closed.remove(topic);
            groups.last_ends.remove(topic);
        }
    }
}

/// What the answer of a hand-over tells of groups.
pub(super) fn report_of(options: &serde_json::Value) -> Option<GroupsHandOverView> {
    serde_json::from_value(options.get(GROUPS)?.clone()).ok()
}
