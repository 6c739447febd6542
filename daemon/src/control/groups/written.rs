//! What we last wrote at a cluster, in the state database: a restart tells it from what somebody else wrote.
//!
//! One row for each group that was written, one transaction for each round. It is only compared with: what is lost of
//! it makes nothing wrong, but a reset at the source that came while no daemon ran is not followed.

use super::GroupSync;
use crate::control::state::StateDatabase;
use std::collections::BTreeMap;
use tracing::warn;
use twinlog_sync::group_offsets::{GroupNumber, GroupOffsets};

/// Partitions and their positions, by topic.
type Positions = BTreeMap<String, Vec<(i32, i64)>>;

/// See the file's header.
pub struct Written {
    state: StateDatabase,
    link: String,
}

impl Written {
    pub fn new(state: StateDatabase, link: String) -> Self {
        Self { state, link }
    }

    /// Tells the machine what it wrote of these groups before this start, where it knows nothing of them yet.
    pub async fn recall(&self, sync: &GroupSync, groups: &[GroupNumber]) {
        let names: Vec<String> = {
            let machine = sync.machine();
            machine.to_recall(groups).into_iter().map(|group| machine.name(group).to_owned()).collect()
        };
        if names.is_empty() {
            return;
        }
        match self.state.written_positions(&self.link, names).await {
            Ok(rows) => {
                let mut machine = sync.machine();
                rows.iter().for_each(|(group, text)| recalled(&mut machine, group, text));
            }
            Err(error) => warn!("what was written of groups is not known: {error}"),
        }
    }

    /// Keeps what this round has written.
    pub async fn remember(&self, sync: &GroupSync) {
        let (rows, forgotten) = {
            let mut machine = sync.machine();
            let written = machine.take_written();
            let row = |group: &GroupNumber| (machine.name(*group).to_owned(), text_of(&machine, *group));
            let rows: Vec<(String, String)> = written.iter().map(row).collect();
            (rows, machine.take_forgotten())
        };
        if rows.is_empty() && forgotten.is_empty() {
            return;
        }
        if let Err(error) = self.state.keep_written(&self.link, rows, forgotten).await {
            warn!("what was written of groups is not kept: {error}; what comes next is");
        }
    }
}

fn text_of(machine: &GroupOffsets, group: GroupNumber) -> String {
    let mut positions = Positions::new();
    for (topic, index, offset) in machine.own_positions(group) {
        match positions.get_mut(topic) {
            Some(rows) => rows.push((index, offset)),
            None => drop(positions.insert(topic.to_owned(), vec![(index, offset)])),
        }
    }
    serde_json::json!(positions).to_string()
}

fn recalled(machine: &mut GroupOffsets, group: &str, text: &str) {
    let Some(number) = machine.number(group) else { return };
    // Another program's text: as if nothing had been kept.
    let Ok(positions) = serde_json::from_str::<Positions>(text) else { return };
    let rows = positions
        .iter()
        .flat_map(|(topic, rows)| rows.iter().map(move |(index, offset)| (topic.as_str(), *index, *offset)));
    machine.recalled(number, rows);
}
