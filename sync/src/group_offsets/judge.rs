//! What is to become of one position, and of a group of them.
//!
//! ```text
//!   source   clamped to [log start, delivered]   against what the destination holds
//!   none     -                                    left as it is
//!   more     more                                 written
//!   more     same, for there is no data           held back
//!   same     same                                 nothing, unless what stands beside it differs
//!   less     less                                 written after a reset or a truncation; else told, and left
//! ```

use super::group::{Group, NONE, Row};
use super::names::Names;
use super::{Bound, GroupKind, Verdict};

/// The answer for one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The source has none.
    Nothing,
    NotMirrored,
    /// An operator took it away.
    Deleted,
    Same,
    /// As far as there is data, it is there.
    HeldBack,
    /// Somebody else wrote it at the destination.
    Ahead,
    /// The source went back; not followed yet.
    Back,
    Write {
        offset: i64,
        /// The source's own is further.
        held_back: bool,
    },
}

pub(super) fn judge(row: &Row, bound: Option<Bound>) -> Want {
    if row.source == NONE {
        return Want::Nothing;
    }
    let Some(Bound { log_start, delivered }) = bound else { return Want::NotMirrored };
    if row.flags.deleted {
        return Want::Deleted;
    }
    // A position from before a cut says nothing about what came after it.
    let source = if row.cut == NONE { row.source } else { row.source.min(row.cut) };
    let offset = source.clamp(log_start, delivered);
    let held_back = offset < source;
    let behind_a_cut = row.cut != NONE && row.held > row.cut;
    if row.held == NONE || offset > row.held || behind_a_cut {
        return Want::Write { offset, held_back };
    }
    if offset == row.held {
        // What stands beside a position belongs to it alone.
        let is_exact = offset == row.source;
        return match (held_back, is_exact && row.notes_differ()) {
            (true, _) => Want::HeldBack,
            (false, true) => Want::Write { offset, held_back },
            (false, false) => Want::Same,
        };
    }
    // Less than the destination holds.
    match (source >= row.held, row.flags.ours, row.flags.may_go_back) {
        // The data that the position was written for is not here any more, or not counted yet.
        (true, ..) => Want::HeldBack,
        // Nobody rewinds what somebody else went on to.
        (false, false, _) => Want::Ahead,
        (false, true, true) => Want::Write { offset, held_back },
        // It was moved up to the log's start; else the source went back.
        (false, true, false) if row.lower_readings == 0 && row.held <= log_start => Want::Same,
        (false, true, false) => Want::Back,
    }
}

impl Group {
    /// Counts anew how its positions stand.
    pub fn weigh(&mut self, names: &Names) {
        (self.open, self.held_back, self.ahead, self.back) = (0, 0, 0, 0);
        (self.deleted, self.waiting) = (0, 0);
        for row in &mut self.rows {
            let bound = names.bound(row.partition);
            row.look_back(bound, self.live_at_source);
            match judge(row, bound) {
                Want::Nothing | Want::Same => continue,
                Want::NotMirrored => {
                    self.waiting += 1;
                    continue;
                }
                Want::Deleted => {
                    self.deleted += 1;
                    continue;
                }
                Want::HeldBack => self.held_back += 1,
                Want::Ahead => self.ahead += 1,
                Want::Back => self.back += 1,
                Want::Write { held_back, .. } => self.held_back += u32::from(held_back),
            }
            self.open += 1;
        }
    }

    /// Its positions say how it is, once both clusters were read.
    pub fn judge_whole(&mut self) {
        let told = self.rows.iter().filter(|row| row.source != NONE).count();
        self.verdict = if self.live_at_destination {
            Verdict::ActiveAtDestination
        } else if self.kind == GroupKind::Share {
            Verdict::NotSupported
        } else if !self.is_known {
            Verdict::Pending
        } else if self.back > 0 {
            Verdict::BackAtSource
        } else if self.ahead > 0 {
            Verdict::AheadAtDestination
        } else if self.held_back > 0 {
            Verdict::HeldBack
        } else if self.open > 0 {
            Verdict::Pending
        } else if self.deleted > 0 {
            Verdict::DeletedAtDestination
        } else if told > 0 && self.waiting as usize == told {
            Verdict::NotMirrored
        } else {
            Verdict::Synced
        };
    }
}
