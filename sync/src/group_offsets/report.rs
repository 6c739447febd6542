//! What the machine tells of itself: groups, their positions, and all of them in a few figures.

use super::group::{Group, NONE, Row};
use super::judge::{Want, judge};
use super::{GroupNumber, GroupOffsets, Verdict, milliseconds};
use crate::Nanoseconds;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// One group at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    pub name: String,
    pub kind: &'static str,
    pub verdict: Verdict,
    /// Somebody is in it at the source.
    pub live_at_source: bool,
    /// Positions that the source has, that wait for data, and of topics that are not mirrored.
    pub positions: usize,
    pub held_back: u32,
    pub waiting: u32,
    /// Now minus the time at which the source was read for what the destination holds. `None`: it never held all.
    pub staleness_ms: Option<u64>,
}

/// One position as both clusters have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionReport {
    pub topic: String,
    pub index: i32,
    pub source: Option<i64>,
    pub destination: Option<i64>,
    /// Where the copy ends.
    pub delivered: Option<i64>,
    /// What is done about it, in a word.
    pub state: &'static str,
    pub metadata: String,
}

/// All groups together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub groups: usize,
    pub positions: usize,
    pub held_back_positions: u64,
    /// How many groups have each verdict, by its name.
    pub verdicts: BTreeMap<&'static str, usize>,
    /// The longest of all groups that are synced, held back or pending.
    pub staleness_ms: Option<u64>,
    /// Groups that are left out although there may be something to write.
    pub skipped: usize,
}

const fn word(want: Want) -> &'static str {
    match want {
        Want::Nothing => "NONE_AT_SOURCE",
        Want::NotMirrored => "NOT_MIRRORED",
        Want::Deleted => "DELETED_AT_DESTINATION",
        Want::Same => "SYNCED",
        Want::HeldBack | Want::Write { held_back: true, .. } => "HELD_BACK",
        Want::Ahead => "AHEAD_AT_DESTINATION",
        Want::Back => "BACK_AT_SOURCE",
        Want::Write { .. } => "PENDING",
    }
}

impl Group {
    fn told(&self) -> usize {
        self.rows.iter().filter(|row| row.source != NONE).count()
    }

    fn staleness_ms(&self, now: Nanoseconds) -> Option<u64> {
        self.synced_at.map(|at| milliseconds(at, now))
    }
}

impl GroupOffsets {
    pub fn report(&self, now: Nanoseconds, number: GroupNumber) -> GroupReport {
        let group = self.group(number);
        GroupReport {
            name: String::from(&*group.name),
            kind: group.kind.name(),
            verdict: group.verdict,
            live_at_source: group.live_at_source,
            positions: group.told(),
            held_back: group.held_back,
            waiting: group.waiting,
            staleness_ms: group.staleness_ms(now),
        }
    }

    fn position(&self, row: &Row) -> PositionReport {
        let known = |offset: i64| (offset != NONE).then_some(offset);
        let (topic, index) = self.names.partition(row.partition);
        let bound = self.names.bound(row.partition);
        PositionReport {
            topic: String::from(topic),
            index,
            source: known(row.source),
            destination: known(row.held),
            delivered: bound.map(|bound| bound.delivered),
            state: word(judge(row, bound)),
            metadata: String::from(row.source_note.as_deref().unwrap_or("")),
        }
    }

    pub fn positions(&self, number: GroupNumber) -> Vec<PositionReport> {
        let mut rows: Vec<PositionReport> =
            self.group(number).rows.iter().map(|row| self.position(row)).collect();
        rows.sort_by(|one, other| (&one.topic, one.index).cmp(&(&other.topic, other.index)));
        rows
    }

    /// How many groups have positions in a topic, and those of them that are not the source's at the destination.
    pub fn left_with(&self, topic: &str) -> (usize, Vec<(String, Verdict, PositionReport)>) {
        let (mut groups, mut differing) = (0, Vec::new());
        for number in self.numbers() {
            let group = self.group(number);
            let is_of = |row: &&Row| row.source != NONE && self.names.partition(row.partition).0 == topic;
            let mut rows = group.rows.iter().filter(is_of).peekable();
            groups += usize::from(rows.peek().is_some());
            for row in rows.filter(|row| row.source != row.held) {
                differing.push((String::from(&*group.name), group.verdict, self.position(row)));
            }
        }
        (groups, differing)
    }

    pub fn summary(&self, now: Nanoseconds) -> Summary {
        let mut summary = Summary::default();
        for group in self.groups.iter().flatten() {
            summary.groups += 1;
            summary.positions += group.rows.len();
            summary.held_back_positions += u64::from(group.held_back);
            *summary.verdicts.entry(group.verdict.name()).or_default() += 1;
            if group.verdict.is_skipped() {
                summary.skipped += 1;
            } else {
                summary.staleness_ms = summary.staleness_ms.max(group.staleness_ms(now));
            }
        }
        summary
    }
}
