//! One group: its positions as both clusters have them, compared in place.

use super::names::{Names, PartitionNumber};
use super::{Bound, GroupKind, Verdict};
use crate::Nanoseconds;
use crate::wire::offset_fetch::Position;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// No position.
pub(super) const NONE: i64 = -1;

/// What a consumer wrote beside a position; most write nothing.
pub(super) type Note = Option<Box<str>>;

/// One position.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub partition: PartitionNumber,
    /// Readings in a row since the source went back, in which it was behind what the destination holds.
    pub lower_readings: u8,
    pub flags: Flags,
    pub source: i64,
    pub held: i64,
    /// What it was known to hold before the last reading.
    pub before: i64,
    /// Under way to the destination, or on a way whose end is not known.
    pub sent: i64,
    /// The cut of a log behind which the source's position lies, until that moves.
    pub cut: i64,
    pub source_note: Note,
    pub held_note: Note,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// The destination's position is one that we wrote, or would have written.
    pub ours: bool,
    /// Nobody was in the group at one of the lower readings.
    pub lower_while_empty: bool,
    /// The source went back for a reason that is followed.
    pub may_go_back: bool,
    /// An operator deleted it at the destination.
    pub deleted: bool,
    /// What the destination holds was written before this start; what follows from that was not looked at yet.
    pub recalled: bool,
    /// The destination refuses what stands beside the position.
    pub without_note: bool,
}

impl Row {
    fn new(partition: PartitionNumber) -> Self {
        Self {
            partition,
            lower_readings: 0,
            flags: Flags::default(),
            source: NONE,
            held: NONE,
            before: NONE,
            sent: NONE,
            cut: NONE,
            source_note: None,
            held_note: None,
        }
    }

    fn bytes(&self) -> usize {
        let note = |note: &Note| note.as_ref().map_or(0, |note| note.len());
        size_of::<Self>() + note(&self.source_note) + note(&self.held_note)
    }

    pub fn has_note(&self, text: &str) -> bool {
        self.source_note.as_deref().unwrap_or("") == text
    }

    /// What stands beside the position differs, and the destination would take it.
    pub fn notes_differ(&self) -> bool {
        !self.flags.without_note && self.source_note != self.held_note
    }

    /// The first reading after a start has shown what we wrote before it, and the source behind it: it was reset
    /// meanwhile, and this is the first reading of that. A position that was moved up to the log's start is behind
    /// without that, which is known as soon as the log is.
    pub fn look_back(&mut self, bound: Option<Bound>, live: bool) {
        let Some(bound) = bound.filter(|_| self.flags.recalled) else { return };
        self.flags.recalled = false;
        let went_back = self.source != NONE && self.source < self.held && self.held > bound.log_start;
        if went_back && self.lower_readings == 0 {
            (self.lower_readings, self.flags.lower_while_empty) = (1, !live);
        }
    }

    /// Follows what the source said; true where that is new.
    fn source_is(&mut self, offset: i64, note: &str, live: bool) -> bool {
        let same = self.source == offset && self.has_note(note);
        // Against its own word: a position that was moved up to the log's start is behind without going back.
        // One that comes back after it was deleted there is as good as reset.
        let came_back = self.source == NONE && self.flags.ours && offset < self.held;
        let went_back = offset < self.source || came_back;
        if !same {
            if self.source != offset && self.cut != NONE {
                // It was written after the cut: the source's own word on it.
                self.cut = NONE;
                self.flags.may_go_back = true;
            }
            self.source = offset;
            self.source_note = (!note.is_empty()).then(|| note.into());
            self.flags.without_note = false;
        }
        if offset >= self.held.max(self.sent) {
            (self.lower_readings, self.flags.lower_while_empty) = (0, false);
            self.flags.may_go_back = false;
        } else if went_back || self.lower_readings > 0 {
            self.lower_readings = self.lower_readings.saturating_add(1);
            self.flags.lower_while_empty |= !live;
            self.flags.may_go_back |= self.lower_readings >= 2 && self.flags.lower_while_empty;
        }
        !same
    }
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Group {
    pub name: Box<str>,
    pub kind: GroupKind,
    /// In the order in which the source last told them.
    pub rows: Vec<Row>,
    pub live_at_source: bool,
    pub live_at_destination: bool,
    /// The listing that last named it, and how many complete ones have not since.
    pub listed: u32,
    /// The same of the destination.
    pub listed_there: u32,
    pub missing: u8,
    pub verdict: Verdict,
    /// What the destination holds was read once.
    pub is_known: bool,
    /// It may hold something else by now.
    pub doubtful: bool,
    /// The round in which the destination was read last.
    pub read_in_round: Option<u32>,
    /// Positions that the destination does not hold as the source does.
    pub open: u32,
    pub held_back: u32,
    pub ahead: u32,
    pub back: u32,
    pub deleted: u32,
    /// Positions in topics that are not mirrored.
    pub waiting: u32,
    pub recommit: bool,
    pub recommit_at: Nanoseconds,
    pub read_at: Option<Nanoseconds>,
    /// When the source was last read with exactly what the destination holds.
    pub synced_at: Option<Nanoseconds>,
    pub written_at: Option<Nanoseconds>,
    /// A commit is under way.
    pub in_flight: bool,
    /// The last reading of the source brought something new.
    pub changed: bool,
    /// It was written, and nobody has asked for it since.
    pub to_remember: bool,
    /// What it was last counted as.
    pub counted_bytes: usize,
}

impl Group {
    pub fn new(name: &str, kind: GroupKind) -> Self {
        Self {
            name: name.into(),
            kind,
            rows: Vec::new(),
            live_at_source: false,
            live_at_destination: false,
            listed: 0,
            listed_there: 0,
            missing: 0,
            verdict: Verdict::Pending,
            is_known: false,
            doubtful: false,
            read_in_round: None,
            open: 0,
            held_back: 0,
            ahead: 0,
            back: 0,
            deleted: 0,
            waiting: 0,
            recommit: false,
            recommit_at: 0,
            read_at: None,
            synced_at: None,
            written_at: None,
            in_flight: false,
            changed: false,
            to_remember: false,
            counted_bytes: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.rows.iter().map(Row::bytes).sum::<usize>()
    }

    /// Takes over what the source told; true where nothing of it is new.
    pub fn compare<'a>(
        &mut self,
        now: Nanoseconds,
        names: &mut Names,
        positions: impl Iterator<Item = Position<'a>>,
    ) -> bool {
        self.read_at = Some(now);
        let mut positions = positions.filter(|position| position.code == 0 && position.offset >= 0);
        let mut unchanged = true;
        let mut at = 0;
        let strange = loop {
            let Some(position) = positions.next() else { break None };
            match self.rows.get_mut(at).filter(|row| names.is(row.partition, position.topic, position.index))
            {
                Some(row) => {
                    unchanged &= !row.source_is(position.offset, position.metadata, self.live_at_source);
                    at += 1;
                }
                None => break Some(position),
            }
        };
        // Behind those that the source tells stand those that only the destination has.
        if strange.is_some() || self.rows[at..].iter().any(|row| row.source != NONE) {
            self.reorder(names, at, strange.into_iter().chain(positions));
            unchanged = false;
        }
        self.changed = !unchanged;
        if self.changed {
            self.came_back();
        }
        unchanged
    }

    /// From `at` on the source tells others, or in another order.
    fn reorder<'a>(&mut self, names: &mut Names, at: usize, rest: impl Iterator<Item = Position<'a>>) {
        let before: Vec<Row> = self.rows.drain(at..).collect();
        let mut before: BTreeMap<PartitionNumber, Row> =
            before.into_iter().map(|row| (row.partition, row)).collect();
        for position in rest {
            let number = names.number(position.topic, position.index);
            let mut row = before.remove(&number).unwrap_or_else(|| Row::new(number));
            row.source_is(position.offset, position.metadata, self.live_at_source);
            self.rows.push(row);
        }
        // What the source has no more and the destination still has: nothing is done about it, but it is known.
        for (_, mut row) in before {
            (row.source, row.source_note) = (NONE, None);
            if row.held != NONE || row.sent != NONE {
                self.rows.push(row);
            }
        }
    }

    /// It changed at the source: what an operator deleted at the destination is wanted again.
    fn came_back(&mut self) {
        self.rows.iter_mut().for_each(|row| row.flags.deleted = false);
    }

    pub fn truncated(&mut self, partition: PartitionNumber, cut: i64) {
        for row in self.rows.iter_mut().filter(|row| row.partition == partition) {
            if row.source > cut || row.held > cut || row.sent > cut {
                row.cut = if row.cut == NONE { cut } else { row.cut.min(cut) };
                self.doubtful = true;
            }
        }
    }

    /// The row of a partition, made where there is none.
    pub fn row_mut(&mut self, partition: PartitionNumber, hint: usize) -> &mut Row {
        let at = match self.rows.get(hint) {
            Some(row) if row.partition == partition => hint,
            _ => match self.rows.iter().position(|row| row.partition == partition) {
                Some(found) => found,
                None => {
                    self.rows.push(Row::new(partition));
                    self.rows.len() - 1
                }
            },
        };
        &mut self.rows[at]
    }
}
