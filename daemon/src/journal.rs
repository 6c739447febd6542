//! The journals of a link: every partition's newest checkpoint, wherever it was written.
//!
//! ```text
//! <data.dir>/.twinlog/<link>/journal-0, journal-1 ...            appended to by the shards
//!                           /journal-merged                      written at start, then the others go
//!                           /journal-cuts/<topic>-<p>/record     one record: intents of cuts, and their ends
//! ```
//! The highest generation of a partition counts. Cuts have a file for each partition, replaced as a whole,
//! because an append behind another's torn end would not be read back, and a cut's intent has to be.
//!
//! Invariants: a torn end of a file is where it ends; a record of a newer program refuses the start, because
//! to drop it would be to forget what it says. Must never be rewritten while shards append.

use crate::store::StoreError;
use crate::store::files::{Files, PIECE_BYTES};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use twinlog_io::{Disk, STEP_READ_BYTES_MAX};
use twinlog_log_segment::checkpoint::{FRAME_BYTES, PAYLOAD_BYTES_MAX, PartitionCheckpoint};
use twinlog_log_segment::files::TopicPartition;

/// What our directory below a data directory is called.
pub const OWN_DIRECTORY: &str = ".twinlog";
const JOURNAL_PREFIX: &str = "journal-";
const MERGED: &str = "journal-merged";
const CUTS: &str = "journal-cuts";
const CUT_RECORD: &str = "record";
/// What a replacement is called until it is complete.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The newest checkpoint of every partition of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    pub checkpoints: BTreeMap<TopicPartition, PartitionCheckpoint>,
}

impl Journal {
    /// Keeps the record if it is newer than what is known of its partition.
    pub fn insert(&mut self, checkpoint: PartitionCheckpoint) {
        match self.checkpoints.entry(checkpoint.partition.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(checkpoint);
            }
            Entry::Occupied(mut known) if known.get().generation < checkpoint.generation => {
                known.insert(checkpoint);
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// Where the journals of a partition's link are: `<data.dir>/.twinlog/<link>` for
/// `<data.dir>/<link>/<topic>-<partition>`.
pub fn directory_of(partition_directory: &Path) -> PathBuf {
    let link = partition_directory.parent().unwrap_or(Path::new(""));
    let data = link.parent().unwrap_or(Path::new(""));
    data.join(OWN_DIRECTORY).join(link.file_name().unwrap_or_default())
}

/// Reads every journal of a link; an absent directory is an empty one.
pub fn load(disk: &mut dyn Disk, directory: &Path) -> Result<Journal, StoreError> {
    let mut files = Files::new(disk);
    let mut journal = Journal::default();
    for entry in files.list(directory)?.unwrap_or_default() {
        let path = directory.join(&entry.name);
        if entry.directory && entry.name == CUTS {
            for cut in files.list(&path)?.unwrap_or_default() {
                load_file(&mut files, &path.join(&cut.name).join(CUT_RECORD), &mut journal)?;
            }
        } else if !entry.directory && is_journal(&entry.name) {
            load_file(&mut files, &path, &mut journal)?;
        }
    }
    Ok(journal)
}

fn is_journal(name: &str) -> bool {
    name.starts_with(JOURNAL_PREFIX) && !name.ends_with(TEMPORARY_SUFFIX)
}

/// Reads the records of one file up to its end or to the first torn one.
fn load_file(files: &mut Files<'_>, path: &Path, journal: &mut Journal) -> Result<(), StoreError> {
    let Some(length) = files.length(path)? else { return Ok(()) };
    // A running shard may replace its journal between two reads: one read sees one file. Journals are far
    // smaller; a longer one is read on in pieces, which only a start does.
    let mut piece_bytes = STEP_READ_BYTES_MAX.min(u32::try_from(length).unwrap_or(u32::MAX).max(PIECE_BYTES));
    let mut held: Vec<u8> = Vec::new();
    let (mut held_at, mut read_to) = (0u64, 0u64);
    loop {
        let piece = files.read(path, read_to, piece_bytes)?;
        let at_end = piece.len() < piece_bytes as usize;
        read_to += piece.len() as u64;
        held.extend_from_slice(&piece);
        piece_bytes = PIECE_BYTES;
        let mut used = 0;
        // Away from the end, a record is decoded only when the longest possible one would be here.
        while at_end || held.len() - used >= FRAME_BYTES + PAYLOAD_BYTES_MAX {
            let decoded = PartitionCheckpoint::decode(&held[used..]).map_err(|error| {
                StoreError::Journal { path: path.to_path_buf(), position: held_at + used as u64, error }
            })?;
            let Some((checkpoint, record_bytes)) = decoded else { return Ok(()) };
            journal.insert(checkpoint);
            used += record_bytes;
        }
        held.drain(..used);
        held_at += used as u64;
    }
}

/// Writes all checkpoints into one journal and removes the others. Only while no shard runs.
pub fn rewrite(disk: &mut dyn Disk, directory: &Path, journal: &Journal) -> Result<(), StoreError> {
    let mut files = Files::new(disk);
    files.make_directory(directory, 2)?;
    let mut bytes = Vec::new();
    journal.checkpoints.values().for_each(|checkpoint| checkpoint.encode(&mut bytes));
    files.replace(&directory.join(MERGED), bytes)?;
    for entry in files.list(directory)?.unwrap_or_default() {
        let path = directory.join(&entry.name);
        if entry.directory && entry.name == CUTS {
            files.remove_directory(&path)?;
        } else if !entry.directory && entry.name.starts_with(JOURNAL_PREFIX) && entry.name != MERGED {
            files.remove(&path)?;
        }
    }
    files.sync_directory(directory)
}

/// Makes one record durable beside the shards' journals. It stays until the next `rewrite`.
pub(crate) fn record_cut(
    files: &mut Files<'_>,
    directory: &Path,
    checkpoint: &PartitionCheckpoint,
) -> Result<(), StoreError> {
    let place = directory.join(CUTS).join(checkpoint.partition.directory_name());
    files.make_directory(&place, 4)?;
    let mut bytes = Vec::new();
    checkpoint.encode(&mut bytes);
    files.replace(&place.join(CUT_RECORD), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_disk::MemoryDisk;
    use crate::store::written_log::{at, empty_disk, journal_directory, partition};
    use twinlog_log_segment::checkpoint::CheckpointError;
    use twinlog_log_segment::files::TopicId;

    fn record(partition: i32, generation: u64) -> PartitionCheckpoint {
        let partition = TopicPartition::new("orders", partition).unwrap();
        let mut checkpoint = PartitionCheckpoint::empty(partition, TopicId([1; 16]), at(5));
        checkpoint.generation = generation;
        checkpoint
    }

    fn encoded(records: &[PartitionCheckpoint]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        bytes
    }

    fn plant(disk: &mut MemoryDisk, name: &str, bytes: &[u8]) {
        disk.plant(&journal_directory().join(name), bytes);
    }

    fn generations(disk: &mut MemoryDisk) -> Vec<u64> {
        let journal = load(disk, &journal_directory()).unwrap();
        journal.checkpoints.values().map(|checkpoint| checkpoint.generation).collect()
    }

    #[test]
    fn the_highest_generation_counts_wherever_it_stands() {
        let mut disk = empty_disk();
        assert_eq!(generations(&mut disk), [0; 0]);
        plant(&mut disk, "journal-0", &encoded(&[record(0, 3), record(1, 9), record(0, 4)]));
        plant(&mut disk, "journal-merged", &encoded(&[record(0, 7), record(1, 8)]));
        plant(&mut disk, "history", b"not a journal");
        plant(&mut disk, "journal-0.tmp", &encoded(&[record(0, 99)]));
        assert_eq!(generations(&mut disk), [7, 9]);
    }

    #[test]
    fn a_torn_end_is_the_end() {
        let bytes = encoded(&[record(0, 1), record(0, 2)]);
        for length in bytes.len() / 2..bytes.len() {
            let mut disk = empty_disk();
            plant(&mut disk, "journal-0", &bytes[..length]);
            assert_eq!(generations(&mut disk), [1], "{length} bytes");
        }
        let mut disk = empty_disk();
        plant(&mut disk, "journal-0", &[&bytes[..], &[0; 4096]].concat());
        assert_eq!(generations(&mut disk), [2]);
    }

    #[test]
    fn a_newer_record_refuses_with_its_place() {
        let mut bytes = encoded(&[record(0, 1), record(0, 2)]);
        let second = bytes.len() / 2;
        // A longer record than any of ours: its CRC need not be known.
        bytes[second + 5] = 3;
        bytes[second + 6..second + 10].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut disk = empty_disk();
        plant(&mut disk, "journal-1", &bytes);
        let error = load(&mut disk, &journal_directory()).unwrap_err();
        let path = journal_directory().join("journal-1");
        let newer = CheckpointError::NewerVersion { version: 3 };
        assert_eq!(error, StoreError::Journal { path, position: second as u64, error: newer });
        assert!(error.to_string().contains("start the newer program"), "{error}");
    }

    #[test]
    fn a_rewrite_leaves_one_journal_and_the_cuts_are_in_it() {
        let mut disk = empty_disk();
        plant(&mut disk, "journal-0", &encoded(&[record(3, 3), record(1, 9)]));
        plant(&mut disk, "journal-1.tmp", b"torn");
        record_cut(&mut Files::new(&mut disk), &journal_directory(), &record(3, 8)).unwrap();
        disk.crash(5);
        assert_eq!(generations(&mut disk), [9, 8]);
        let journal = load(&mut disk, &journal_directory()).unwrap();
        assert!(journal.checkpoints.contains_key(&partition()));
        rewrite(&mut disk, &journal_directory(), &journal).unwrap();
        disk.crash(6);
        assert_eq!(disk.files(), [journal_directory().join(MERGED)]);
        assert_eq!(load(&mut disk, &journal_directory()).unwrap(), journal);
    }

    #[test]
    fn a_crash_while_rewriting_loses_no_checkpoint() {
        for steps in 0..12 {
            let mut disk = empty_disk();
            plant(&mut disk, "journal-0", &encoded(&[record(0, 3), record(1, 9)]));
            record_cut(&mut Files::new(&mut disk), &journal_directory(), &record(0, 8)).unwrap();
            let journal = load(&mut disk, &journal_directory()).unwrap();
            disk.die_after(steps);
            let _ = rewrite(&mut disk, &journal_directory(), &journal);
            disk.crash(steps as u64);
            assert_eq!(load(&mut disk, &journal_directory()).unwrap(), journal, "{steps} steps");
        }
    }

    #[test]
    fn a_journal_longer_than_one_read_is_read_on() {
        let mut disk = empty_disk();
        let mut bytes = Vec::new();
        while bytes.len() < STEP_READ_BYTES_MAX as usize + 1000 {
            let record = encoded(&[record(0, bytes.len() as u64)]);
            bytes.extend(record.repeat(2000));
        }
        bytes.extend(encoded(&[record(0, u64::MAX)]));
        plant(&mut disk, "journal-0", &bytes);
        assert_eq!(generations(&mut disk), [u64::MAX]);
    }
}
