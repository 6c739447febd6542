//! Which groups there are, at both clusters, and who is in them.

use super::group::{Group, NONE};
use super::{GONE_LISTINGS, GroupNumber, GroupOffsets, MEMORY_BYTES_MAX, Verdict};
use crate::{Nanoseconds, SECOND};
use alloc::string::String;
use alloc::vec::Vec;

/// How long a group that is gone is still shown. Longer, consoles that make a group for each start fill the memory.
const GONE_SHOWN: Nanoseconds = 3_600 * SECOND;

/// What kind of group its coordinator says it is. ref: KIP-848, KIP-932, KIP-1071
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupKind {
    #[default]
    Classic,
    Consumer,
    /// Its state is more than positions: which records were acknowledged.
    Share,
    Streams,
}

impl GroupKind {
    /// By the word of ListGroups; an older broker says none.
    pub fn parse(word: &str) -> Self {
        match word {
            word if word.eq_ignore_ascii_case("consumer") => Self::Consumer,
            word if word.eq_ignore_ascii_case("share") => Self::Share,
            word if word.eq_ignore_ascii_case("streams") => Self::Streams,
            _ => Self::Classic,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Share => "share",
            Self::Streams => "streams",
        }
    }
}

/// One look at all groups of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    number: u32,
}

impl GroupOffsets {
    pub fn source_listing_begins(&mut self) {
        self.source_listing.number = self.source_listing.number.wrapping_add(1);
    }

    /// A group is there. `None`: no memory is left for it, or its positions are no positions.
    pub fn listed_at_source(&mut self, name: &str, kind: GroupKind, live: bool) -> Option<GroupNumber> {
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None if self.bytes > MEMORY_BYTES_MAX => return None,
            None => self.add(name, kind),
        };
        let listing = self.source_listing.number;
        let group = self.groups[number.index()].as_mut().expect("it is known by name");
        (group.listed, group.missing, group.live_at_source, group.kind) = (listing, 0, live, kind);
        if kind == GroupKind::Share {
            group.verdict = Verdict::NotSupported;
            return None;
        }
        Some(number)
    }

    fn add(&mut self, name: &str, kind: GroupKind) -> GroupNumber {
        let next = GroupNumber(u32::try_from(self.groups.len()).expect("fewer groups than bytes"));
        let number = self.free.pop().unwrap_or(next);
        if number == next {
            self.groups.push(None);
        }
        let mut group = Group::new(name, kind);
        group.counted_bytes = group.bytes();
        self.bytes += group.counted_bytes;
        self.groups[number.index()] = Some(group);
        self.by_name.insert(name.into(), number);
        number
    }

    /// All brokers were asked. Groups that are to be looked for by name: a complete listing left them out again
    /// and again.
    pub fn source_listing_ends(&mut self, complete: bool) -> Vec<GroupNumber> {
        let listing = self.source_listing.number;
        let mut missing = Vec::new();
        if !complete {
            return missing;
        }
        for number in self.by_name.values() {
            let group = self.groups[number.index()].as_mut().expect("it is known by name");
            if group.listed != listing && group.verdict != Verdict::GoneAtSource {
                group.missing = group.missing.saturating_add(1);
                if group.missing >= GONE_LISTINGS {
                    missing.push(*number);
                }
            }
        }
        missing
    }

    /// Its coordinator itself says that it has no such group.
    pub fn gone_at_source(&mut self, number: GroupNumber) {
        let group = self.groups[number.index()].as_mut().expect("it is known");
        group.verdict = Verdict::GoneAtSource;
        group.recommit = false;
        (group.open, group.held_back, group.waiting) = (0, 0, 0);
        for row in &mut group.rows {
            (row.source, row.source_note) = (NONE, None);
        }
    }

    /// Nothing is left to say about a group that is gone; a filter that leaves a group out ends here, too.
    pub fn forget(&mut self, number: GroupNumber) {
        let Some(group) = self.groups.get_mut(number.index()).and_then(Option::take) else { return };
        self.bytes -= group.counted_bytes;
        self.by_name.remove(&group.name);
        self.forgotten.push(String::from(&*group.name));
        self.free.push(number);
    }

    /// Those that have been gone for long.
    pub fn forget_gone(&mut self, now: Nanoseconds) {
        let old = |number: &GroupNumber| self.group(*number).read_at.is_none_or(|at| at + GONE_SHOWN <= now);
        let old: Vec<GroupNumber> = self.gone().filter(old).collect();
        old.into_iter().for_each(|number| self.forget(number));
    }

    /// Groups that the source has no more.
    pub fn gone(&self) -> impl Iterator<Item = GroupNumber> {
        let is_gone = |number: &GroupNumber| self.group(*number).verdict == Verdict::GoneAtSource;
        self.numbers().filter(is_gone)
    }

    pub fn destination_listing_begins(&mut self) {
        self.destination_listing.number = self.destination_listing.number.wrapping_add(1);
    }

    /// A group is there, with or without live members.
    pub fn listed_at_destination(&mut self, name: &str, live: bool) {
        let Some(number) = self.number_at_destination(name) else { return };
        let group = self.groups[number.index()].as_mut().expect("it is known by name");
        group.listed_there = self.destination_listing.number;
        if group.live_at_destination && !live {
            // Whoever left has written more than we know.
            group.doubtful = true;
        }
        group.live_at_destination = live;
        if live {
            group.verdict = Verdict::ActiveAtDestination;
        }
    }

    /// All brokers were asked. A group that they left out may be gone: it is read before anything is said of it.
    pub fn destination_listing_ends(&mut self, complete: bool) {
        let listing = self.destination_listing.number;
        if !complete {
            return;
        }
        for group in self.groups.iter_mut().flatten().filter(|group| group.listed_there != listing) {
            if group.live_at_destination {
                (group.live_at_destination, group.doubtful) = (false, true);
            }
            group.doubtful |= group.is_known && group.rows.iter().any(|row| row.held != NONE);
        }
    }
}
