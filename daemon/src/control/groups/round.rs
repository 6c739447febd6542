//! One round: everything that the source says is read, and everything that is new is written.
//!
//! Chunks of groups go side by side, each from its reading to its last commit, so that nobody waits for the slowest.

use super::cluster::Listing;
use super::{GroupSync, NETWORK_EXCEPTION, Phase, SampleWanted, Surroundings};
use crate::config::GroupSettings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;
use twinlog_sync::group_offsets::{GroupNumber, Rewind};
use twinlog_sync::wire::offset_fetch::OffsetAnswers;

/// Groups of one reading of the source. More make one answer larger; fewer make more requests for the same.
const GROUPS_PER_CHUNK: usize = 250;
/// Readings are spread over this part of the interval, and never over more than the second: what is left is for
/// the last ones to be written before the next round, and a hand-over may have to wait for all of it.
const SPREAD_DIVISOR: u32 = 2;
const SPREAD_MAX: Duration = Duration::from_millis(500);
/// A group that is not there.
const GROUP_ID_NOT_FOUND: i16 = 69;

/// What came of a round.
#[derive(Default)]
pub struct Outcome {
    pub commits: u64,
    pub requests: u64,
    pub rewinds: Vec<Rewind>,
    /// What did not go, in a sentence; the rest did.
    pub error: Option<String>,
    /// The same of the source alone.
    pub source_error: Option<String>,
}

/// What one chunk came to.
#[derive(Default)]
struct Chunk {
    commits: u64,
    error: Option<String>,
}

/// See the file's header.
pub struct Round<'a> {
    pub sync: &'a Arc<GroupSync>,
    pub around: &'a Arc<Surroundings>,
    pub settings: &'a GroupSettings,
    /// The point of the grid from which on its readings are spread; `None`: all at once, for somebody waits.
    pub spread_from: Option<Instant>,
}

/// When a chunk is read, so that all of a broker's are spread evenly.
fn due_at(from: Instant, interval: Duration, (at, count): (usize, usize)) -> Instant {
    let spread = (interval / SPREAD_DIVISOR).min(SPREAD_MAX);
    let part = |number: usize| u32::try_from(number).expect("memory holds fewer groups");
    from + spread * part(at) / part(count)
}

/// Groups of one reading at one broker.
struct Piece {
    broker: i32,
    groups: Vec<GroupNumber>,
    /// Which of that broker's it is, and of how many.
    place: (usize, usize),
}

impl Round<'_> {
    pub async fn run(&self) -> Outcome {
        self.sync.machine().round_begins(self.sync.now());
        let (there, here) = tokio::join!(
            self.sync.timed(Phase::ListSource, self.around.source.list()),
            self.sync.timed(Phase::ListDestination, self.around.destination.list()),
        );
        let mut outcome = Outcome {
            error: there.error.clone().or(here.error.clone()),
            source_error: there.error.clone(),
            ..Outcome::default()
        };
        self.around.destination.look_at_retention(self.sync).await;
        self.take_destination(&here);
        let (pieces, missing) = self.take_source(there);
        let mut under_way = JoinSet::new();
        for Piece { broker, groups, place } in pieces {
            let (sync, around) = (Arc::clone(self.sync), Arc::clone(self.around));
            let due = self.spread_from.map(|from| due_at(from, self.settings.interval, place));
            under_way.spawn(async move {
                if let Some(due) = due {
                    sync.rest_until(due).await;
                }
                read_chunk(&sync, &around, broker, groups).await
            });
        }
        while let Some(done) = under_way.join_next().await {
            let chunk = done.expect("a chunk does not panic");
            outcome.commits += chunk.commits;
            outcome.source_error = outcome.source_error.or(chunk.error.clone());
            outcome.error = outcome.error.or(chunk.error);
        }
        self.look_for(&missing).await;
        self.delete_gone().await;
        self.end(outcome).await
    }

    /// What is known of the source is written as far as it can be.
    pub async fn run_without_source(&self) -> Outcome {
        self.sync.machine().round_begins(self.sync.now());
        let here = self.around.destination.list().await;
        let mut outcome = Outcome { error: here.error.clone(), ..Outcome::default() };
        self.take_destination(&here);
        let all: Vec<GroupNumber> = self.sync.machine().numbers().collect();
        for piece in all.chunks(GROUPS_PER_CHUNK) {
            outcome.commits += write(self.sync, self.around, piece).await;
        }
        self.end(outcome).await
    }

    async fn end(&self, mut outcome: Outcome) -> Outcome {
        match &self.around.written {
            Some(written) => self.sync.timed(Phase::Remember, written.remember(self.sync)).await,
            // What a store keeps is the destination itself.
            None => self.sync.machine().nothing_is_remembered(),
        }
        outcome.requests = self.around.source.take_requests() + self.around.destination.take_requests();
        let mut machine = self.sync.machine();
        machine.forget_gone(self.sync.now());
        outcome.rewinds = machine.take_rewinds();
        outcome
    }

    fn take_destination(&self, listing: &Listing) {
        let mut machine = self.sync.machine();
        machine.destination_listing_begins();
        for group in listing.brokers.values().flatten() {
            machine.listed_at_destination(&group.name, group.live);
        }
        machine.destination_listing_ends(listing.complete);
    }

    /// Chunks of what is to be read, and groups that may be gone.
    fn take_source(&self, listing: Listing) -> (Vec<Piece>, Vec<GroupNumber>) {
        let mut machine = self.sync.machine();
        let mut pieces = Vec::new();
        machine.source_listing_begins();
        for (broker, groups) in listing.brokers {
            let mut numbers = Vec::with_capacity(groups.len());
            for group in groups {
                if self.settings.filters.matches_group(&group.name) {
                    numbers.extend(machine.listed_at_source(&group.name, group.kind, group.live));
                } else if let Some(number) = machine.number(&group.name) {
                    // The filters are others than they were.
                    machine.forget(number);
                    self.around.destination.forget(number);
                }
            }
            // A group has the same place in every round: its readings are an interval apart.
            numbers.sort_unstable();
            let count = numbers.len().div_ceil(GROUPS_PER_CHUNK);
            let chunks = numbers.chunks(GROUPS_PER_CHUNK).enumerate();
            pieces.extend(chunks.map(|(at, groups)| Piece {
                broker,
                groups: groups.to_vec(),
                place: (at, count),
            }));
        }
        let missing = machine.source_listing_ends(listing.complete);
        (pieces, missing)
    }

    /// Groups that listings leave out: their coordinators say whether they are gone.
    async fn look_for(&self, missing: &[GroupNumber]) {
        if missing.is_empty() {
            return;
        }
        let names: Vec<String> = {
            let machine = self.sync.machine();
            missing.iter().map(|group| machine.name(*group).to_owned()).collect()
        };
        let mut asked: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for (name, broker) in names.iter().zip(self.around.source.coordinators(&names).await) {
            if let Ok(broker) = broker {
                asked.entry(broker).or_default().push(name.clone());
            }
        }
        for (broker, names) in asked {
            let Ok(bytes) = self.around.source.positions(broker, &names).await else { continue };
            let Ok(mut answers) = OffsetAnswers::parse(&bytes) else { continue };
            let mut machine = self.sync.machine();
            while let Ok(Some(answer)) = answers.next_group() {
                let nothing = answer.code == 0 && answer.positions().next().is_none();
                let Some(number) = machine.number(answer.group) else { continue };
                if nothing || answer.code == GROUP_ID_NOT_FOUND {
                    machine.gone_at_source(number);
                }
            }
        }
    }

    async fn delete_gone(&self) {
        if !self.settings.delete_gone {
            return;
        }
        let gone: Vec<GroupNumber> = self.sync.machine().gone().collect();
        if gone.is_empty() {
            return;
        }
        for (group, code) in self.around.destination.delete(self.sync, &gone).await {
            let mut machine = self.sync.machine();
            match code {
                0 | GROUP_ID_NOT_FOUND => {
                    info!(
                        "group {} is gone at the source, and deleted at the destination",
                        machine.name(group)
                    );
                    machine.forget(group);
                    self.around.destination.forget(group);
                }
                // With live members, or refused: it is looked at again in the next round.
                _ => {}
            }
        }
    }
}

/// One chunk, from its reading to its last commit.
async fn read_chunk(
    sync: &Arc<GroupSync>,
    around: &Arc<Surroundings>,
    broker: i32,
    groups: Vec<GroupNumber>,
) -> Chunk {
    let names: Vec<String> = {
        let machine = sync.machine();
        groups.iter().map(|group| machine.name(*group).to_owned()).collect()
    };
    // Before it was sent: what it says is not older.
    let read_at = sync.now();
    let answer = sync.timed(Phase::ReadSource, around.source.positions(broker, &names)).await;
    let mut chunk = Chunk::default();
    let mut due = Vec::new();
    {
        let mut machine = sync.machine();
        let told = match &answer {
            Ok(bytes) => {
                take_answers(&mut machine, read_at, bytes, &mut due).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = told {
            chunk.error = Some(error);
            for group in &groups {
                machine.source_read(read_at, *group, Err::<std::iter::Empty<_>, _>(NETWORK_EXCEPTION));
            }
            due.clear();
        }
    }
    chunk.commits = write(sync, around, &due).await;
    chunk
}

fn take_answers(
    machine: &mut twinlog_sync::group_offsets::GroupOffsets,
    read_at: u64,
    bytes: &[u8],
    due: &mut Vec<GroupNumber>,
) -> Result<(), twinlog_sync::wire::WireError> {
    let mut answers = OffsetAnswers::parse(bytes)?;
    while let Some(answer) = answers.next_group()? {
        let Some(number) = machine.number(answer.group) else { continue };
        let positions = if answer.code == 0 { Ok(answer.positions()) } else { Err(answer.code) };
        if machine.source_read(read_at, number, positions) {
            due.push(number);
        }
    }
    Ok(())
}

/// What these groups have new is clamped to what is delivered now, compared with the destination, and written.
async fn write(sync: &Arc<GroupSync>, around: &Arc<Surroundings>, due: &[GroupNumber]) -> u64 {
    if due.is_empty() {
        return 0;
    }
    let partitions = sync.machine().partitions_of(due);
    if !partitions.is_empty() {
        let (told, done) = oneshot::channel();
        (around.ask)(SampleWanted { partitions, told });
        if sync.timed(Phase::Sample, done).await.is_err() {
            // The link ends.
            return 0;
        }
    }
    let to_read = sync.machine().to_read_at_destination(due);
    if to_read.is_empty() {
        return 0;
    }
    if let Some(written) = &around.written {
        written.recall(sync, &to_read).await;
    }
    sync.timed(Phase::ReadDestination, around.destination.read(sync, &to_read)).await;
    let commits = {
        let mut machine = sync.machine();
        to_read.iter().filter_map(|group| machine.commit(*group)).collect()
    };
    sync.timed(Phase::Commit, around.destination.commit(sync, commits)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_a_broker_are_spread_evenly_and_never_over_more_than_the_bound() {
        let from = Instant::now();
        let at = |ms: u64| from + Duration::from_millis(ms);
        let due = |interval_ms, place| due_at(from, Duration::from_millis(interval_ms), place);
        assert_eq!(due(1_000, (0, 1)), from, "a single one is read at once");
        assert_eq!((due(1_000, (0, 4)), due(1_000, (1, 4)), due(1_000, (3, 4))), (from, at(125), at(375)));
        assert_eq!((due(100, (1, 2)), due(60_000, (1, 2))), (at(25), at(250)));
    }
}
