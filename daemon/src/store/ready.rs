//! Whether the files of closed partitions are what a stock broker adopts: complete, trimmed, with all that belongs to them.
//!
//! ```text
//!   last durable checkpoint   no cut under way, not removed
//!   active segment            .log, .index, .timeindex, .txnindex exactly as long as it says: nothing preallocated
//!   partition.metadata        the source's topic id
//!   log-start-offset-checkpoint   the log's start, where that is not 0
//! ```
//! Reads names, lengths and two small files for each partition, no batch: what the checkpoint counts was verified
//! and synced before it was written. Must never change a file.

use super::error::StoreError;
use super::files::Files;
use crate::journal;
use crate::recovery::segments::Segments;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::{
    LEADER_EPOCH_FILE, LOG_START_FILE, PARTITION_METADATA_FILE, SegmentFile, TopicPartition,
    parse_offset_checkpoint, parse_partition_metadata,
};
use twinlog_log_segment::offset::Offset;

/// Why partitions are not ready to be adopted.
#[derive(Debug)]
pub enum NotReady {
    Store(StoreError),
    NoCheckpoint { partition: TopicPartition },
    CutUnderWay { partition: TopicPartition },
    Length { path: PathBuf, length: u64, wanted: u64 },
    Missing { path: PathBuf },
    OtherTopic { path: PathBuf },
    LogStart { partition: TopicPartition, log_start: Offset, recorded: Option<Offset> },
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::NoCheckpoint { partition } => write!(f, "{partition} has no checkpoint"),
            Self::CutUnderWay { partition } => write!(f, "a cut of {partition} is under way"),
            Self::Length { path, length, wanted } => {
                write!(f, "{} has {length} bytes, and its checkpoint counts {wanted}", path.display())
            }
            Self::Missing { path } => write!(f, "{} is not there", path.display()),
            Self::OtherTopic { path } => write!(f, "{} names another topic", path.display()),
            Self::LogStart { partition, log_start, recorded } => {
                let recorded = recorded.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
                write!(f, "{partition} starts at offset {log_start}, and {recorded} is recorded beside it")
            }
        }
    }
}

impl std::error::Error for NotReady {}

impl From<StoreError> for NotReady {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The last checkpoint of each, in their order, if every one of them is ready.
pub fn ready_partitions(
    disk: &mut dyn Disk,
    link_directory: &Path,
    journal_directory: &Path,
    partitions: &[TopicPartition],
) -> Result<Vec<PartitionCheckpoint>, NotReady> {
    let mut journal = journal::load(disk, journal_directory)?.checkpoints;
    let mut files = Files::new(disk);
    let log_starts = log_starts(&mut files, link_directory)?;
    let mut ready = Vec::new();
    for partition in partitions {
        let directory = link_directory.join(partition.directory_name());
        let known = match journal.remove(partition).filter(|known| !known.removed) {
            Some(known) => known,
            None => empty_log(&mut files, &directory, partition)?,
        };
        look_at(&mut files, &directory, &known)?;
        let recorded = log_starts.get(partition).copied();
        if known.log_start > Offset::ZERO && recorded != Some(known.log_start) {
            let (partition, log_start) = (partition.clone(), known.log_start);
            return Err(NotReady::LogStart { partition, log_start, recorded });
        }
        ready.push(known);
    }
    Ok(ready)
}

/// A log that nothing was ever written to has no checkpoint: one file of no bytes says where it begins.
fn empty_log(
    files: &mut Files<'_>,
    directory: &Path,
    partition: &TopicPartition,
) -> Result<PartitionCheckpoint, NotReady> {
    let segments = Segments::list(files, directory)?;
    let logs: Vec<(Offset, u64)> = segments.logs().collect();
    let [(base, 0)] = logs.as_slice() else {
        return Err(NotReady::NoCheckpoint { partition: partition.clone() });
    };
    let path = directory.join(PARTITION_METADATA_FILE);
    match files.read_text(&path)?.map(|text| parse_partition_metadata(&text)) {
        Some(Ok(id)) => Ok(PartitionCheckpoint::empty(partition.clone(), id, *base)),
        Some(Err(_)) => Err(NotReady::OtherTopic { path }),
        None => Err(NotReady::Missing { path }),
    }
}

fn log_starts(
    files: &mut Files<'_>,
    link_directory: &Path,
) -> Result<BTreeMap<TopicPartition, Offset>, NotReady> {
    let path = link_directory.join(LOG_START_FILE);
    let Some(text) = files.read_text(&path)? else { return Ok(BTreeMap::new()) };
    let entries = parse_offset_checkpoint(LOG_START_FILE, &text);
    Ok(entries.map_err(|error| StoreError::TextFile { path, error })?.into_iter().collect())
}

fn look_at(files: &mut Files<'_>, directory: &Path, known: &PartitionCheckpoint) -> Result<(), NotReady> {
    if known.truncating {
        return Err(NotReady::CutUnderWay { partition: known.partition.clone() });
    }
    let sizes = Segments::list(files, directory)?.sizes_of(known.segment_base);
    let lengths = [
        (SegmentFile::Log, sizes.log_bytes, known.position),
        (SegmentFile::OffsetIndex, sizes.offset_index_bytes, known.offset_index_bytes),
        (SegmentFile::TimeIndex, sizes.time_index_bytes, known.time_index_bytes),
        (SegmentFile::TransactionIndex, sizes.transaction_index_bytes, known.transaction_index_bytes),
    ];
    for (file, found, wanted) in lengths {
        // An index without entries may have no file yet.
        let length = found.unwrap_or(0);
        if length != wanted {
            let path = directory.join(file.name(known.segment_base));
            return Err(NotReady::Length { path, length, wanted });
        }
    }
    let path = directory.join(PARTITION_METADATA_FILE);
    match files.read_text(&path)?.map(|text| parse_partition_metadata(&text)) {
        Some(Ok(id)) if id == known.topic_id => {}
        Some(_) => return Err(NotReady::OtherTopic { path }),
        None => return Err(NotReady::Missing { path }),
    }
    let path = directory.join(LEADER_EPOCH_FILE);
    match files.length(&path)? {
        Some(_) => Ok(()),
        None => Err(NotReady::Missing { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::written_log::{
        WrittenLog, at, batch, directory, empty_disk, journal_directory, partition, restart,
    };
    use super::*;
    use crate::memory_disk::MemoryDisk;
    use crate::store::write_log_starts;
    use twinlog_io::Step;

    fn look(disk: &mut MemoryDisk) -> Result<Vec<PartitionCheckpoint>, NotReady> {
        let link = directory().parent().expect("a link").to_path_buf();
        ready_partitions(disk, &link, &journal_directory(), &[partition()])
    }

    #[test]
    fn a_log_is_ready_once_it_is_checkpointed_and_given_back_what_was_only_reserved() {
        let mut disk = empty_disk();
        let mut log = WrittenLog::begin(&mut disk);
        for offset in 0..6 {
            if offset == 3 {
                log.roll(&mut disk);
            }
            log.append(&mut disk, batch(offset, 2500));
        }
        assert!(matches!(look(&mut disk), Err(NotReady::NoCheckpoint { .. })));
        log.checkpoint(&mut disk);
        assert!(matches!(look(&mut disk), Err(NotReady::Length { .. })), "it ends in zeros");
        log.let_go(&mut disk);
        assert_eq!(look(&mut disk).unwrap()[0].log_end, at(6));
        let path = directory().join(PARTITION_METADATA_FILE);
        disk.run(&Step::Remove { path }).unwrap();
        assert!(matches!(look(&mut disk), Err(NotReady::Missing { .. })));
    }

    #[test]
    fn a_log_that_starts_later_has_its_start_recorded_beside_it() {
        let mut disk = empty_disk();
        let mut log = WrittenLog::begin(&mut disk);
        (0..3).for_each(|offset| log.append(&mut disk, batch(offset, 2500)));
        (log.state.log_start, log.state.held_start) = (at(2), at(2));
        log.checkpoint(&mut disk);
        log.let_go(&mut disk);
        let told = look(&mut disk).unwrap_err().to_string();
        assert!(told.contains("starts at offset 2, and nothing is recorded"), "{told}");
        let link = directory().parent().expect("a link").to_path_buf();
        write_log_starts(&mut disk, &link, &[(partition(), at(2))]).unwrap();
        assert_eq!(look(&mut disk).unwrap()[0].log_start, at(2));
    }

    #[test]
    fn a_log_that_never_held_a_batch_is_ready_and_one_that_is_not_there_is_none() {
        let mut disk = empty_disk();
        assert!(matches!(look(&mut disk), Err(NotReady::NoCheckpoint { .. })));
        restart(&mut disk);
        assert_eq!(look(&mut disk).unwrap()[0].log_end, at(0));
    }
}
