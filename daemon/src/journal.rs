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
            let decoded = PartitionCheckpoint::decode(&held[used..]).map_err(|error| StoreError::Journal {
                path: path.to_path_buf(),
                position: held_at + used as u64,
                error,
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
