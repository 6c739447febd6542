//! Saves what a cut drops, and writes down for ever that it was dropped.
//!
//! ```text
//! <data.dir>/.twinlog/cuts/<link>/<topic>-<p>/<from>-<to>-g<generation>/%020d.log ...   record batches, whole
//!                                                                      /manifest        last: then it is complete
//! <data.dir>/.twinlog/<link>/history     <time> <topic>-<p> truncated|restarted <from> <to> g<generation>
//! ```
//! Everything here is durable before the cut's intent is written. After a crash in between, the same export is
//! made again over itself, and the history may name one generation twice.
//! Must never delete anything.

use super::error::StoreError;
use super::files::Files;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::Offset;

const MANIFEST: &str = "manifest";
const HISTORY: &str = "history";

/// A range of one segment's log.
pub(super) struct Piece {
    path: PathBuf,
    position: u64,
    length: u64,
    name: String,
}

impl Piece {
    pub fn whole(directory: &Path, base: Offset, length: u64) -> Piece {
        Piece::range(directory, base, 0, length, base)
    }

    /// From `position` to `length`; the copy is named by the offset at which it begins.
    pub fn range(directory: &Path, base: Offset, position: u64, length: u64, begins_at: Offset) -> Piece {
        let path = directory.join(SegmentFile::Log.name(base));
        let name = SegmentFile::Log.name(begins_at);
        Piece { path, position, length: length.saturating_sub(position), name }
    }
}

/// Why a part of a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Truncated,
    Restarted,
}

impl Reason {
    const fn word(self) -> &'static str {
        match self {
            Reason::Truncated => "truncated",
            Reason::Restarted => "restarted",
        }
    }
}

/// What is cut off, and why.
pub(super) struct Dropped<'a> {
    pub reason: Reason,
    /// Before the cut.
    pub checkpoint: &'a PartitionCheckpoint,
    /// The offsets between which nothing is held any more.
    pub from: Offset,
    pub to: Offset,
    pub pieces: &'a [Piece],
    pub now_ms: i64,
}

/// Copies the pieces and their manifest below the cuts directory.
pub(super) fn export(
    files: &mut Files<'_>,
    cuts_directory: &Path,
    dropped: &Dropped<'_>,
) -> Result<(), StoreError> {
    let Dropped { checkpoint, from, to, pieces, .. } = dropped;
    let pieces: Vec<&Piece> = pieces.iter().filter(|piece| piece.length > 0).collect();
    if pieces.is_empty() {
        return Ok(());
    }
    let name = format!("{from}-{to}-g{}", checkpoint.generation);
    let directory = cuts_directory.join(checkpoint.partition.directory_name()).join(name);
    // Up to the data directory: any of them may be new.
    files.make_directory(&directory, 5)?;
    for piece in &pieces {
        files.copy(&piece.path, piece.position, piece.length, &directory.join(&piece.name))?;
    }
    files.sync_directory(&directory)?;
    files.replace(&directory.join(MANIFEST), manifest(dropped, &pieces).into_bytes())
}

fn manifest(dropped: &Dropped<'_>, pieces: &[&Piece]) -> String {
    let Dropped { reason, checkpoint, from, to, now_ms, .. } = dropped;
    let PartitionCheckpoint { partition, topic_id, log_start, log_end, .. } = checkpoint;
    let mut text = format!(
        "version: 0\npartition: {partition}\ntopic_id: {topic_id}\nreason: {}\nfrom: {from}\nto: {to}\n\
         log_start: {log_start}\nlog_end: {log_end}\nexported_ms: {now_ms}\nsource_epochs: {}\nstamp_epochs: {}\n",
        reason.word(),
        epochs(&checkpoint.source_epochs),
        epochs(&checkpoint.stamp_epochs),
    );
    for piece in pieces {
        let _ = writeln!(text, "file: {} {}", piece.name, piece.length);
    }
    text
}

/// `epoch@start` each.
fn epochs(history: &EpochHistory) -> String {
    let entries = history.entries().iter().map(|entry| format!("{}@{}", entry.epoch, entry.start));
    entries.collect::<Vec<_>>().join(" ")
}

/// Appends the cut to the link's history.
pub(super) fn record_history(
    files: &mut Files<'_>,
    journal_directory: &Path,
    dropped: &Dropped<'_>,
) -> Result<(), StoreError> {
    let Dropped { reason, checkpoint, from, to, now_ms, .. } = dropped;
    let (partition, generation) = (&checkpoint.partition, checkpoint.generation);
    files.make_directory(journal_directory, 2)?;
    let path = journal_directory.join(HISTORY);
    let length = files.length(&path)?.unwrap_or(0);
    // A crash may have torn the last line: ours begins its own.
    let torn = length > 0 && files.read(&path, length - 1, 1)? != b"\n";
    let start = if torn { "\n" } else { "" };
    let line = format!("{start}{now_ms} {partition} {} {from} {to} g{generation}\n", reason.word());
    files.append(&path, line.into_bytes())?;
    files.sync(&path)?;
    files.sync_directory(journal_directory)
}
