//! Where positions go when the copy is a store: the state database, one transaction for all that is new.

use super::offset_file::OffsetLine;
use super::{GroupSync, NETWORK_EXCEPTION};
use crate::control::state::{KeptPosition, StateDatabase, StateError};
use std::collections::BTreeMap;
use tracing::warn;
use twinlog_io::wall_clock_ms;
use twinlog_sync::group_offsets::{Commit, GroupNumber};
use twinlog_sync::wire::offset_fetch::Position;

/// What a database that fails is told as: Kafka's code for a disk that does.
const KAFKA_STORAGE_ERROR: i16 = 56;

/// What is kept of a link, as a file has it.
pub async fn lines(state: &StateDatabase, link: &str) -> Result<Vec<OffsetLine>, StateError> {
    let line = |each: KeptPosition| OffsetLine {
        group: each.group,
        topic: each.topic,
        partition: each.partition,
        offset: each.offset,
    };
    Ok(state.all_group_positions(link).await?.into_iter().map(line).collect())
}

/// See the file's header.
pub struct Kept {
    state: StateDatabase,
    link: String,
}

impl Kept {
    pub fn new(state: StateDatabase, link: String) -> Self {
        Self { state, link }
    }

    pub async fn read(&self, sync: &GroupSync, groups: &[GroupNumber]) {
        let names: Vec<String> = {
            let machine = sync.machine();
            groups.iter().map(|group| machine.destination_name(*group)).collect()
        };
        let kept = self.state.group_positions(&self.link, names.clone()).await;
        let mut machine = sync.machine();
        let now = sync.now();
        match kept {
            Ok(kept) => {
                let mut by_group: BTreeMap<&str, Vec<&KeptPosition>> = BTreeMap::new();
                for each in &kept {
                    by_group.entry(&each.group).or_default().push(each);
                }
                for (group, name) in groups.iter().zip(&names) {
                    let rows = by_group.remove(name.as_str()).unwrap_or_default();
                    let positions = rows.iter().map(|each| Position {
                        topic: &each.topic,
                        index: each.partition,
                        offset: each.offset,
                        metadata: &each.metadata,
                        code: 0,
                    });
                    machine.destination_read(now, *group, Ok(positions));
                }
            }
            Err(error) => {
                warn!("positions of groups cannot be read: {error}; tried again");
                for group in groups {
                    machine.destination_read(now, *group, Err::<std::iter::Empty<_>, _>(KAFKA_STORAGE_ERROR));
                }
            }
        }
    }

    pub async fn commit(&self, sync: &GroupSync, commits: Vec<Commit>) -> u64 {
        let rows: Vec<KeptPosition> = {
            let machine = sync.machine();
            let rows = commits.iter().flat_map(|commit| {
                let group = machine.destination_name(commit.group);
                let machine = &machine;
                commit.positions.iter().map(move |position| {
                    let (topic, partition) = machine.partition(position.partition);
                    KeptPosition {
                        group: group.clone(),
                        topic: topic.to_owned(),
                        partition,
                        offset: position.offset,
                        metadata: position.metadata.as_deref().unwrap_or("").to_owned(),
                    }
                })
            });
            rows.collect()
        };
        if rows.is_empty() {
            return 0;
        }
        let kept = self.state.keep_group_positions(&self.link, rows, wall_clock_ms()).await;
        let mut machine = sync.machine();
        let now = sync.now();
        for commit in &commits {
            match &kept {
                Ok(()) => machine.committed(now, commit, Ok(&vec![0; commit.positions.len()])),
                Err(_) => machine.committed(now, commit, Err(KAFKA_STORAGE_ERROR)),
            }
        }
        if let Err(error) = kept {
            warn!("positions of groups cannot be kept: {error}; tried again");
        }
        commits.len() as u64
    }

    /// Everything that is kept, as a file has it; what this process never heard of included.
    pub async fn lines(&self) -> Result<Vec<OffsetLine>, StateError> {
        lines(&self.state, &self.link).await
    }

    pub async fn delete(&self, sync: &GroupSync, groups: &[GroupNumber]) -> Vec<(GroupNumber, i16)> {
        let names = {
            let machine = sync.machine();
            groups.iter().map(|group| machine.destination_name(*group)).collect()
        };
        let deleted = self.state.delete_groups(&self.link, names).await;
        let code = if deleted.is_ok() { 0 } else { NETWORK_EXCEPTION };
        groups.iter().map(|group| (*group, code)).collect()
    }
}
