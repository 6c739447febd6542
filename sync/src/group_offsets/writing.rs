//! What is written at the destination: read first, then committed, then believed only as far as it was answered.

use super::group::{Group, NONE};
use super::judge::{Want, judge};
use super::names::PartitionNumber;
use super::{GroupNumber, GroupOffsets, Rewind, Verdict};
use crate::Nanoseconds;
use crate::wire::offset_fetch::Position;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// Positions of one group to be committed, with leader epoch -1: the source's epochs mean nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub group: GroupNumber,
    pub positions: Vec<NewPosition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPosition {
    pub partition: PartitionNumber,
    pub offset: i64,
    pub metadata: Option<Box<str>>,
}

/// Why a whole group was not written.
fn is_of_members(error: i16) -> bool {
    const ILLEGAL_GENERATION: i16 = 22;
    const UNKNOWN_MEMBER_ID: i16 = 25;
    const REBALANCE_IN_PROGRESS: i16 = 27;
    const NON_EMPTY_GROUP: i16 = 68;
    const FENCED_INSTANCE_ID: i16 = 82;
    const FENCED_MEMBER_EPOCH: i16 = 110;
    const STALE_MEMBER_EPOCH: i16 = 113;
    matches!(
        error,
        ILLEGAL_GENERATION
            | UNKNOWN_MEMBER_ID
            | REBALANCE_IN_PROGRESS
            | NON_EMPTY_GROUP
            | FENCED_INSTANCE_ID
            | FENCED_MEMBER_EPOCH
            | STALE_MEMBER_EPOCH
    )
}

const OFFSET_METADATA_TOO_LARGE: i16 = 12;
/// What Kafka says when it does not know itself.
const UNKNOWN_SERVER_ERROR: i16 = -1;

impl GroupOffsets {
    /// Of these groups, those that have something to write, or of which it is not known what the destination holds.
    pub fn to_read_at_destination(&mut self, groups: &[GroupNumber]) -> Vec<GroupNumber> {
        let mut wanted = Vec::new();
        for number in groups {
            let Some(group) = self.groups[number.index()].as_mut() else { continue };
            group.weigh(&self.names);
            if group.live_at_destination || group.in_flight {
                group.judge_whole();
                continue;
            }
            let writes = || group.rows.iter().any(|row| group.writes(row, self.names.bound(row.partition)));
            if !group.is_known || group.doubtful || group.recommit || writes() {
                wanted.push(*number);
            } else {
                group.judge_whole();
                group.settle();
            }
        }
        wanted
    }

    /// What the destination holds of a group, or why it does not tell.
    pub fn destination_read<'a>(
        &mut self,
        now: Nanoseconds,
        number: GroupNumber,
        answer: Result<impl Iterator<Item = Position<'a>>, i16>,
    ) {
        let Some(group) = self.groups.get_mut(number.index()).and_then(Option::as_mut) else { return };
        let positions = match answer {
            Ok(positions) => positions,
            Err(code) => {
                group.verdict = Verdict::NotWritable { code };
                return;
            }
        };
        let is_first = !group.is_known;
        for row in &mut group.rows {
            // What is not told below is not there.
            (row.before, row.held) = (row.held, NONE);
        }
        for (hint, position) in positions.filter(|each| each.code == 0 && each.offset >= 0).enumerate() {
            let hinted = group.rows.get(hint).map(|row| row.partition);
            let same = hinted.filter(|each| self.names.is(*each, position.topic, position.index));
            let partition = same.unwrap_or_else(|| self.names.number(position.topic, position.index));
            let row = group.row_mut(partition, hint);
            row.held = position.offset;
            // A commit whose answer was lost may have been carried out.
            let known = row.flags.ours && position.offset == row.before;
            let is_sent = position.offset == row.sent;
            row.flags.ours = known || position.offset == row.source || is_sent;
            row.flags.recalled |= is_first && is_sent;
            if row.held_note.as_deref().unwrap_or("") != position.metadata {
                row.held_note = (!position.metadata.is_empty()).then(|| position.metadata.into());
            }
        }
        for row in &mut group.rows {
            let is_gone = row.held == NONE && row.before != NONE && group.is_known;
            // With a change in the same round it comes back at once; with its topic, when that is mirrored again.
            if is_gone && !group.changed && self.names.bound(row.partition).is_some() {
                row.flags.deleted = true;
            }
            row.sent = NONE;
        }
        if !group.is_known {
            // When it was written is not told: it may be about to expire.
            group.recommit_at = now;
        }
        (group.is_known, group.doubtful, group.read_in_round) = (true, false, Some(self.round));
        group.weigh(&self.names);
        group.judge_whole();
        group.settle();
    }

    /// What is to be written of a group that was read in this round; `None` where there is nothing.
    pub fn commit(&mut self, number: GroupNumber) -> Option<Commit> {
        let round = self.round;
        let group = self.groups.get_mut(number.index()).and_then(Option::as_mut)?;
        let ready = group.is_known && !group.doubtful && group.read_in_round == Some(round);
        if !ready || group.live_at_destination || group.in_flight {
            return None;
        }
        let mut positions = Vec::new();
        for row in &mut group.rows {
            let bound = self.names.bound(row.partition);
            let offset = match judge(row, bound) {
                Want::Write { offset, .. } => offset,
                // Again, lest it expires; only what is ours, and still within what is here.
                Want::Same | Want::HeldBack if group.recommit && row.flags.ours => {
                    let within = bound.filter(|at| (at.log_start..=at.delivered).contains(&row.held));
                    if within.is_none() {
                        continue;
                    }
                    row.held
                }
                _ => continue,
            };
            row.sent = offset;
            // What stands beside a position belongs to it alone, and a clamped one is another.
            let keeps_note = offset == row.source && !row.flags.without_note;
            let metadata = row.source_note.clone().filter(|_| keeps_note);
            positions.push(NewPosition { partition: row.partition, offset, metadata });
        }
        if positions.is_empty() {
            if core::mem::take(&mut group.recommit) {
                group.recommit_at = group.recommit_at.saturating_add(self.rules.recommit_after);
            }
            return None;
        }
        group.in_flight = true;
        // Until it is answered nobody knows.
        group.doubtful = true;
        Some(Commit { group: number, positions })
    }

    /// What came of a commit: a code for each of its positions, or one for the whole group.
    pub fn committed(&mut self, now: Nanoseconds, commit: &Commit, answer: Result<&[i16], i16>) {
        let Some(group) = self.groups.get_mut(commit.group.index()).and_then(Option::as_mut) else { return };
        group.in_flight = false;
        let (mut worst, mut any, name) = (0, false, group.name.clone());
        for (at, position) in commit.positions.iter().enumerate() {
            let error = match answer {
                Ok(codes) => codes.get(at).copied().unwrap_or(UNKNOWN_SERVER_ERROR),
                Err(code) => code,
            };
            let row = group.row_mut(position.partition, at);
            match error {
                0 => {
                    if position.offset < row.held {
                        let (topic, index) = self.names.partition(position.partition);
                        self.rewinds.push(Rewind {
                            group: String::from(&*name),
                            topic: String::from(topic),
                            index,
                            from: row.held,
                            to: position.offset,
                            truncated: row.cut != NONE,
                        });
                    }
                    (row.held, row.held_note) = (position.offset, position.metadata.clone());
                    (row.sent, any) = (NONE, true);
                    (row.flags.ours, row.flags.may_go_back) = (true, false);
                    (row.lower_readings, row.flags.lower_while_empty) = (0, false);
                }
                OFFSET_METADATA_TOO_LARGE => row.flags.without_note = true,
                // The mirror topic is not there yet, or hidden: it waits like any that is not mirrored.
                error => worst = error,
            }
        }
        if any && !core::mem::replace(&mut group.to_remember, true) {
            self.written.push(commit.group);
        }
        if worst == 0 {
            (group.doubtful, group.written_at) = (false, Some(now));
            group.weigh(&self.names);
            group.judge_whole();
            group.settle();
            // All of it was written just now, whether that was the reason or not.
            let is_whole = commit.positions.len() == group.rows.iter().filter(|row| row.held != NONE).count();
            if core::mem::take(&mut group.recommit) || is_whole {
                group.recommit_at = now.saturating_add(self.rules.recommit_after);
            }
        } else if is_of_members(worst) {
            (group.live_at_destination, group.verdict) = (true, Verdict::ActiveAtDestination);
        } else {
            group.verdict = Verdict::NotWritable { code: worst };
        }
    }
}

impl Group {
    fn writes(&self, row: &super::group::Row, bound: Option<super::Bound>) -> bool {
        matches!(judge(row, bound), Want::Write { .. })
    }

    /// The destination holds exactly what the source was last read with.
    pub(super) fn settle(&mut self) {
        if self.open == 0 && self.is_known && !self.live_at_destination {
            self.synced_at = self.read_at;
        }
    }
}
