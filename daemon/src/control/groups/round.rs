//! One round: everything that the source says is read, and everything that is new is written.
//!
//! Chunks of groups go side by side, each from its reading to its last commit, so that nobody waits for the slowest.

use super::cluster::Listing;
use super::{GroupSync, NETWORK_EXCEPTION, SampleWanted, Surroundings};
use crate::config::GroupSettings;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::info;
use twinlog_sync::group_offsets::{GroupNumber, Rewind};
use twinlog_sync::wire::offset_fetch::OffsetAnswers;

/// Groups of one reading of the source. More make one answer larger; fewer make more requests for the same.
const GROUPS_PER_CHUNK: usize = 500;
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
}

impl Round<'_> {
    pub async fn run(&self) -> Outcome {
        self.sync.machine().round_begins(self.sync.now());
        let (there, here) = tokio::join!(self.around.source.list(), self.around.destination.list());
        let mut outcome = Outcome {
            error: there.error.clone().or(here.error.clone()),
            source_error: there.error.clone(),
            ..Outcome::default()
        };
        self.around.destination.look_at_retention(self.sync).await;
        self.take_destination(&here);
        let (chunks, missing) = self.take_source(there);
        let mut under_way = JoinSet::new();
        for (broker, groups) in chunks {
            let (sync, around) = (Arc::clone(self.sync), Arc::clone(self.around));
            under_way.spawn(async move { read_chunk(&sync, &around, broker, groups).await });
        }
        while let Some(done) = under_way.join_next().await {
            let chunk = done.expect("a chunk does not panic");
            outcome.commits += chunk.commits;
            outcome.source_error = outcome.source_error.or(chunk.error.clone());
            outcome.error = outcome.error.or(chunk.error);
        }
        self.look_for(&missing).await;
        self.delete_gone().await;
        self.end(outcome)
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
        self.end(outcome)
    }

    fn end(&self, mut outcome: Outcome) -> Outcome {
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
    fn take_source(&self, listing: Listing) -> (Vec<(i32, Vec<GroupNumber>)>, Vec<GroupNumber>) {
        let mut machine = self.sync.machine();
        let mut chunks = Vec::new();
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
            chunks.extend(numbers.chunks(GROUPS_PER_CHUNK).map(|piece| (broker, piece.to_vec())));
        }
        let missing = machine.source_listing_ends(listing.complete);
        (chunks, missing)
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
    let answer = around.source.positions(broker, &names).await;
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
        if done.await.is_err() {
            // The link ends.
            return 0;
        }
    }
    let to_read = sync.machine().to_read_at_destination(due);
    if to_read.is_empty() {
        return 0;
    }
    around.destination.read(sync, &to_read).await;
    let commits = {
        let mut machine = sync.machine();
        to_read.iter().filter_map(|group| machine.commit(*group)).collect()
    };
    around.destination.commit(sync, commits).await
}
