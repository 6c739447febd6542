//! Positions of consumer groups: what a destination is told, and what it is not.
//!
//! Owns, for each group and mirror partition, what the source has, what the destination is known to hold, and why the
//! two differ. It never sends or waits: its owner reads both clusters, tells what came, and carries out what
//! [`GroupOffsets::commit`] yields.
//!
//! ```text
//!   a round   listing  ->  source_read  ->  sampled       ->  destination_read  ->  commit  ->  committed
//!             who is       positions of     what is           of groups that        what is     what came
//!             there        all groups       delivered, now    have something new    new         of it
//! ```
//! Invariants, whatever happens in which order:
//! * never ahead: no position beyond what was delivered when it was written, sampled after the source was read;
//! * never below the log's start, where no record is left to continue with;
//! * never backwards, but for two reasons: a deliberate reset at the source (seen in two readings, with no live
//!   member in one of them), and a truncation, down to its cut;
//! * never blindly: a group is read at the destination before it is written, and what somebody else wrote there
//!   stays while it is ahead of us; what we wrote before a restart is ours if it is still what we remember;
//! * a group with live members at the destination is left alone, whole: the broker would refuse it anyway.
//!
//! An unchanged group costs one comparison of each of its positions with the bytes of the answer, and nothing else.

mod group;
mod judge;
mod listing;
mod names;
#[cfg(test)]
mod properties;
mod remembered;
mod report;
#[cfg(test)]
mod tests;
mod writing;

pub use listing::{GroupKind, Listing};
pub use names::PartitionNumber;
pub use report::{GroupReport, PositionReport, Summary};
pub use writing::{Commit, NewPosition};

use crate::wire::offset_fetch::Position;
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use group::Group;
use names::Names;

/// Memory of all positions together. Raised, a source with millions of them takes it from the mirror itself; groups
/// beyond it are left out, and say so.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Groups that are written again in one round although nothing changed. More of them would make every round after
/// a restart as dear as a round in which everything changes.
pub const RECOMMITS_PER_ROUND_MAX: usize = 100;
/// How often groups are looked at whose topics are not mirrored: nothing tells when one of them begins to be.
pub const WAITING_LOOK_INTERVAL: Nanoseconds = 5 * SECOND;
/// A group that complete listings have left out so often is looked for by name: coordinators move between two
/// questions of one listing.
pub const GONE_LISTINGS: u8 = 3;

/// Which group, for as long as the machine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(u32);

impl GroupNumber {
    /// Spreads groups over anything.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What lies in a mirror partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub log_start: i64,
    pub delivered: i64,
}

/// Why a group is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not read in full yet.
    Pending,
    /// Every position of a mirrored topic is at the destination.
    Synced,
    /// None of its topics is mirrored.
    NotMirrored,
    /// Positions wait for data.
    HeldBack,
    ActiveAtDestination,
    /// Somebody wrote positions there that are ahead of the source's.
    AheadAtDestination,
    /// The source went back, and not for a reason that is followed yet.
    BackAtSource,
    DeletedAtDestination,
    GoneAtSource,
    /// A kind of group whose state is no positions.
    NotSupported,
    /// More positions than fit.
    TooLarge,
    NotReadable {
        code: i16,
    },
    NotWritable {
        code: i16,
    },
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Synced => "SYNCED",
            Self::NotMirrored => "NOT_MIRRORED",
            Self::HeldBack => "HELD_BACK",
            Self::ActiveAtDestination => "ACTIVE_AT_DESTINATION",
            Self::AheadAtDestination => "AHEAD_AT_DESTINATION",
            Self::BackAtSource => "BACK_AT_SOURCE",
            Self::DeletedAtDestination => "DELETED_AT_DESTINATION",
            Self::GoneAtSource => "GONE_AT_SOURCE",
            Self::NotSupported => "NOT_SUPPORTED",
            Self::TooLarge => "TOO_LARGE",
            Self::NotReadable { .. } => "NOT_READABLE",
            Self::NotWritable { .. } => "NOT_WRITABLE",
        }
    }

    /// Left out of a round although there may be something to write.
    pub const fn is_skipped(self) -> bool {
        !matches!(self, Self::Pending | Self::Synced | Self::NotMirrored | Self::HeldBack)
    }

    /// Every name once, for those who count.
    pub const ALL: [Self; 13] = [
        Self::Pending,
        Self::Synced,
        Self::NotMirrored,
        Self::HeldBack,
        Self::ActiveAtDestination,
        Self::AheadAtDestination,
        Self::BackAtSource,
        Self::DeletedAtDestination,
        Self::GoneAtSource,
        Self::NotSupported,
        Self::TooLarge,
        Self::NotReadable { code: 0 },
        Self::NotWritable { code: 0 },
    ];
}

/// What the owner wants of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Goes before a group's name at the destination; empty for none.
    pub prefix: String,
    /// An unchanged group is written again after this: well inside the destination's retention.
    pub recommit_after: Nanoseconds,
}

impl Default for Rules {
    fn default() -> Self {
        // A third of the shortest default that a broker ever had, one day.
        Self { prefix: String::new(), recommit_after: 8 * 3_600 * SECOND }
    }
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct GroupOffsets {
    rules: Rules,
    names: Names,
    groups: Vec<Option<Group>>,
    by_name: BTreeMap<Box<str>, GroupNumber>,
    free: Vec<GroupNumber>,
    recommits_left: usize,
    source_listing: Listing,
    destination_listing: Listing,
    waiting_look_at: Nanoseconds,
    /// Positions of topics that are not mirrored are looked at in this round.
    looks_at_waiting: bool,
    bytes: usize,
    /// What this round is about.
    round: u32,
    /// Rewinds that were followed since somebody last asked.
    rewinds: Vec<Rewind>,
    /// Groups that were written, and those that are no more, since somebody last asked.
    written: Vec<GroupNumber>,
    forgotten: Vec<String>,
}

/// A position that went back, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    pub group: String,
    pub topic: String,
    pub index: i32,
    pub from: i64,
    pub to: i64,
    /// A truncation of the log; otherwise a reset at the source.
    pub truncated: bool,
}

impl GroupOffsets {
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Another pace of writing again. The prefix is for ever: names at the destination are made of it.
    pub fn set_recommit_after(&mut self, recommit_after: Nanoseconds) {
        self.rules.recommit_after = recommit_after;
    }

    /// A round begins.
    pub fn round_begins(&mut self, now: Nanoseconds) {
        self.round = self.round.wrapping_add(1);
        self.recommits_left = RECOMMITS_PER_ROUND_MAX;
        self.looks_at_waiting = now >= self.waiting_look_at;
        if self.looks_at_waiting {
            self.waiting_look_at = now + WAITING_LOOK_INTERVAL;
        }
    }

    pub fn name(&self, group: GroupNumber) -> &str {
        &self.group(group).name
    }

    /// What the group is called at the destination.
    pub fn destination_name(&self, group: GroupNumber) -> String {
        let mut name = self.rules.prefix.clone();
        name.push_str(&self.group(group).name);
        name
    }

    /// The group of this name at the source.
    pub fn number(&self, name: &str) -> Option<GroupNumber> {
        self.by_name.get(name).copied()
    }

    /// The same by its name at the destination.
    pub fn number_at_destination(&self, name: &str) -> Option<GroupNumber> {
        self.number(name.strip_prefix(self.rules.prefix.as_str())?)
    }

    pub fn numbers(&self) -> impl Iterator<Item = GroupNumber> {
        self.by_name.values().copied()
    }

    /// Rewinds that were written since this was last asked.
    pub fn take_rewinds(&mut self) -> Vec<Rewind> {
        core::mem::take(&mut self.rewinds)
    }

    /// Memory in use, as it is counted against [`MEMORY_BYTES_MAX`].
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn group(&self, group: GroupNumber) -> &Group {
        self.groups[group.index()].as_ref().expect("numbers of groups that are gone are not kept")
    }

    /// What the source holds of a group, or why it does not tell. Tells whether there may be something to do.
    pub fn source_read<'a>(
        &mut self,
        now: Nanoseconds,
        number: GroupNumber,
        answer: Result<impl Iterator<Item = Position<'a>>, i16>,
    ) -> bool {
        let Some(group) = self.groups.get_mut(number.index()).and_then(Option::as_mut) else { return false };
        let positions = match answer {
            Ok(positions) => positions,
            Err(code) => {
                group.verdict = Verdict::NotReadable { code };
                return false;
            }
        };
        // A single group can pass the bound by its own size only: an answer is bounded by its frame.
        let full = self.bytes > MEMORY_BYTES_MAX;
        if full && group.rows.is_empty() {
            group.verdict = Verdict::TooLarge;
            return false;
        }
        let unchanged = group.compare(now, &mut self.names, positions);
        if !unchanged {
            let bytes = group.bytes();
            self.bytes = self.bytes - group.counted_bytes + bytes;
            group.counted_bytes = bytes;
        }
        let due = group.is_known && group.recommit_at <= now && !group.recommit;
        if due && self.recommits_left > 0 {
            (group.recommit, self.recommits_left) = (true, self.recommits_left - 1);
        }
        let looks = self.looks_at_waiting && group.waiting > 0;
        let settled = unchanged && group.open == 0 && group.is_known && !group.recommit && !group.doubtful;
        if !settled || looks {
            return true;
        }
        if group.verdict != Verdict::Synced {
            group.judge_whole();
        }
        group.settle();
        false
    }

    /// Partitions whose bounds decide what becomes of these groups, each once.
    pub fn partitions_of(&mut self, groups: &[GroupNumber]) -> Vec<PartitionNumber> {
        let mut partitions = Vec::new();
        self.names.begin_selection();
        for number in groups {
            let group = self.groups[number.index()].as_ref();
            for row in group.iter().flat_map(|group| &group.rows) {
                if self.names.select(row.partition) {
                    partitions.push(row.partition);
                }
            }
        }
        partitions
    }

    pub fn partition(&self, number: PartitionNumber) -> (&str, i32) {
        self.names.partition(number)
    }

    /// What lies in a partition, sampled after its positions were read at the source. `None`: it is not mirrored.
    pub fn sampled(&mut self, number: PartitionNumber, bound: Option<Bound>) {
        let bound = bound.filter(|bound| bound.log_start <= bound.delivered);
        self.names.set_bound(number, bound);
    }

    /// A log was cut: no group may stay behind the cut, nor go there by what it had before.
    pub fn truncated(&mut self, topic: &str, index: i32, cut: i64) {
        let Some(partition) = self.names.find(topic, index) else { return };
        if let Some(bound) = self.names.bound(partition) {
            let delivered = bound.delivered.min(cut);
            let bound = Bound { log_start: bound.log_start.min(delivered), delivered };
            self.names.set_bound(partition, Some(bound));
        }
        for group in self.groups.iter_mut().flatten() {
            group.truncated(partition, cut);
        }
    }
}

/// For people: whole milliseconds between two times.
pub(crate) fn milliseconds(from: Nanoseconds, to: Nanoseconds) -> u64 {
    to.saturating_sub(from) / MILLISECOND
}
