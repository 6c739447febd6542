//! The machine of one hand-over, whichever way it goes: to brokers that follow us, or to files for later.
//!
//! Only passes on. What one of the two does not have is empty of it.

use std::collections::{BTreeMap, BTreeSet};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::Nanoseconds;
use twinlog_sync::guest::hand_over::{HandOver, Trouble};
use twinlog_sync::hand_over::{Action, Event, SealedLog};
use twinlog_sync::lifecycle::{HandOverStep, HandOverWay};
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::store_hand_over::StoreHandOver;

/// See the file's header.
pub(super) enum Machine {
    Guest(Box<HandOver>),
    Store(Box<StoreHandOver>),
}

/// The same call of either.
macro_rules! either {
    ($self:ident, $machine:ident => $call:expr) => {
        match $self {
            Self::Guest($machine) => $call,
            Self::Store($machine) => $call,
        }
    };
}

impl Machine {
    pub fn way(&self) -> HandOverWay {
        match self {
            Self::Guest(_) => HandOverWay::Guest,
            Self::Store(_) => HandOverWay::Store,
        }
    }

    pub fn step(&self) -> HandOverStep {
        either!(self, machine => machine.step())
    }

    pub fn ends(&self) -> &BTreeMap<i32, Offset> {
        either!(self, machine => machine.ends())
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        either!(self, machine => machine.trouble())
    }

    pub fn late(&self) -> &BTreeMap<i32, i64> {
        either!(self, machine => machine.late())
    }

    pub fn open_here(&self) -> &BTreeMap<i32, usize> {
        either!(self, machine => machine.open_here())
    }

    pub fn is_over(&self) -> bool {
        either!(self, machine => machine.is_over())
    }

    pub fn is_frozen(&self) -> bool {
        either!(self, machine => machine.is_frozen())
    }

    pub fn poll(&mut self) -> Option<Action> {
        either!(self, machine => machine.poll())
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        either!(self, machine => machine.deadline())
    }

    pub fn tick(&mut self, now: Nanoseconds) {
        either!(self, machine => machine.tick(now));
    }

    pub fn handle(&mut self, now: Nanoseconds, event: Event) {
        either!(self, machine => machine.handle(now, event));
    }

    /// The destination's metadata log was read further; a store has none.
    pub fn image_is(&mut self, now: Nanoseconds, image: &ClusterImage) {
        if let Self::Guest(machine) = self {
            machine.image_is(now, image);
        }
    }

    /// Where each log ends at whoever has it then.
    pub fn handed_ends(&self) -> &BTreeMap<i32, Offset> {
        match self {
            Self::Guest(machine) => machine.handed_ends(),
            Self::Store(machine) => machine.ends(),
        }
    }

    pub fn targets(&self) -> BTreeMap<i32, Vec<i32>> {
        match self {
            Self::Guest(machine) => machine.targets(),
            Self::Store(_) => BTreeMap::new(),
        }
    }

    pub fn full_replicas(&self) -> BTreeMap<i32, Vec<i32>> {
        match self {
            Self::Guest(machine) => machine.full_replicas().clone(),
            Self::Store(_) => BTreeMap::new(),
        }
    }

    pub fn replicas(&self) -> BTreeMap<i32, Vec<i32>> {
        match self {
            Self::Guest(machine) => machine.replicas(),
            Self::Store(_) => BTreeMap::new(),
        }
    }

    pub fn left_out(&self) -> BTreeSet<i32> {
        match self {
            Self::Guest(machine) => machine.left_out(),
            Self::Store(_) => BTreeSet::new(),
        }
    }

    /// What the closed files of a store hold.
    pub fn sealed(&self) -> Option<&BTreeMap<i32, SealedLog>> {
        match self {
            Self::Guest(_) => None,
            Self::Store(machine) => Some(machine.sealed()),
        }
    }
}
