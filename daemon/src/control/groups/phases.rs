//! Where the time of rounds goes, in sums since the start.
//!
//! Chunks go side by side: the sums of what they wait for may be longer than the rounds.

use std::time::Duration;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    ListSource,
    ListDestination,
    ReadSource,
    Sample,
    ReadDestination,
    Commit,
    /// The state database: what was written is remembered.
    Remember,
}

impl Phase {
    pub const ALL: [Self; 7] = [
        Self::ListSource,
        Self::ListDestination,
        Self::ReadSource,
        Self::Sample,
        Self::ReadDestination,
        Self::Commit,
        Self::Remember,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ListSource => "list_source",
            Self::ListDestination => "list_destination",
            Self::ReadSource => "read_source",
            Self::Sample => "sample",
            Self::ReadDestination => "read_destination",
            Self::Commit => "commit",
            Self::Remember => "remember",
        }
    }
}

/// See the file's header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases([Duration; Phase::ALL.len()]);

impl Phases {
    pub fn add(&mut self, phase: Phase, spent: Duration) {
        self.0[phase as usize] += spent;
    }

    pub fn told(&self) -> impl Iterator<Item = (Phase, Duration)> {
        Phase::ALL.into_iter().zip(self.0)
    }
}
