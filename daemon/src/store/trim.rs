//! The start of a log moves up: whole segments below it go, and the new start is written where Kafka reads it.
//!
//! Invariants: the last segment stays, and so does the one that the checkpoint names, for a restart begins
//! there; a segment is deleted only when the next one begins at or below the log's start.
//! The log starts are written first: a start that is recorded and not yet trimmed costs disk, a trim that is
//! not recorded would look like loss.

use super::error::StoreError;
use super::files::Files;
use crate::recovery::segments::{Segments, remove_segment};
use std::path::Path;
use twinlog_io::Disk;
use twinlog_log_segment::files::{LOG_START_FILE, SegmentFile, TopicPartition, offset_checkpoint_text};
use twinlog_log_segment::offset::Offset;

/// What a trim deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimReport {
    /// Names of the `.log` files.
    pub deleted: Vec<String>,
    /// Of logs and indexes.
    pub deleted_bytes: u64,
}

/// Deletes the segments of a partition that lie wholly below `log_start`. `checkpoint` is the log end that the
/// partition's newest durable checkpoint says. The shard may go on appending meanwhile.
pub fn trim_partition(
    disk: &mut dyn Disk,
    directory: &Path,
    log_start: Offset,
    checkpoint: Offset,
) -> Result<TrimReport, StoreError> {
    let mut files = Files::new(disk);
    let segments = Segments::list(&mut files, directory)?;
    let bases: Vec<Offset> = segments.logs().map(|(base, _)| base).collect();
    let mut report = TrimReport::default();
    for pair in bases.windows(2) {
        let (base, next_base) = (pair[0], pair[1]);
        if next_base > log_start || next_base >= checkpoint {
            break;
        }
        remove_segment(&mut files, directory, base)?;
        let sizes = segments.sizes_of(base);
        let indexes = [sizes.offset_index_bytes, sizes.time_index_bytes, sizes.transaction_index_bytes];
        report.deleted.push(SegmentFile::Log.name(base));
        report.deleted_bytes += [sizes.log_bytes].into_iter().chain(indexes).flatten().sum::<u64>();
    }
    if !report.deleted.is_empty() {
        files.sync_directory(directory)?;
    }
    Ok(report)
}

/// Writes where the logs of a link begin, for recovery and for a stock broker that adopts the directory. The
/// file holds what it is given: give it every partition.
pub fn write_log_starts(
    disk: &mut dyn Disk,
    link_directory: &Path,
    log_starts: &[(TopicPartition, Offset)],
) -> Result<(), StoreError> {
    let text = offset_checkpoint_text(log_starts.iter().map(|(partition, offset)| (partition, *offset)));
    Files::new(disk).replace(&link_directory.join(LOG_START_FILE), text.into_bytes())
}
