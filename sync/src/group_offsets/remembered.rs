//! What was written before this start: by it a position that is ahead of the source's is told from one that somebody
//! else wrote.
//!
//! Only equality counts. A position at the destination that is another one than we last wrote is somebody else's, also
//! where our last commits were not remembered: then nothing goes back that should not.

use super::group::NONE;
use super::{GroupNumber, GroupOffsets};
use alloc::string::String;
use alloc::vec::Vec;

impl GroupOffsets {
    /// Of these groups, those of which nothing was read at the destination yet.
    pub fn to_recall(&self, groups: &[GroupNumber]) -> Vec<GroupNumber> {
        let unknown = |number: &&GroupNumber| {
            self.groups.get(number.index()).and_then(Option::as_ref).is_some_and(|group| !group.is_known)
        };
        groups.iter().filter(unknown).copied().collect()
    }

    /// What we wrote of a group before this start; told before its first reading at the destination.
    pub fn recalled<'a>(
        &mut self,
        number: GroupNumber,
        positions: impl Iterator<Item = (&'a str, i32, i64)>,
    ) {
        let Some(group) = self.groups.get_mut(number.index()).and_then(Option::as_mut) else { return };
        if group.is_known {
            return;
        }
        for (topic, index, offset) in positions.filter(|each| each.2 >= 0) {
            let Some(partition) = self.names.find(topic, index) else { continue };
            if let Some(row) = group.rows.iter_mut().find(|row| row.partition == partition) {
                // As if its answer had not come: the reading says whether it is there.
                row.sent = offset;
            }
        }
    }

    /// Groups that were written since this was last asked.
    pub fn take_written(&mut self) -> Vec<GroupNumber> {
        let mut written = core::mem::take(&mut self.written);
        // Its number may be another group's by now.
        written.retain(|number| {
            let group = self.groups[number.index()].as_mut();
            group.is_some_and(|group| core::mem::take(&mut group.to_remember))
        });
        written
    }

    /// Names of groups that were forgotten since this was last asked.
    pub fn take_forgotten(&mut self) -> Vec<String> {
        core::mem::take(&mut self.forgotten)
    }

    /// Nobody will ask.
    pub fn nothing_is_remembered(&mut self) {
        self.take_written();
        self.take_forgotten();
    }

    /// Positions at the destination that are our own.
    pub fn own_positions(&self, number: GroupNumber) -> impl Iterator<Item = (&str, i32, i64)> {
        let own = self.group(number).rows.iter().filter(|row| row.flags.ours && row.held != NONE);
        own.map(|row| {
            let (topic, index) = self.names.partition(row.partition);
            (topic, index, row.held)
        })
    }
}
