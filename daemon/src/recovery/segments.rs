//! Which segments a partition's directory holds, and how whole segments are deleted.
//!
//! Owns the listing. It must never read a byte of a segment.
//! Invariant: index files whose `.log` is gone are not a segment: they are what a crash left of a deletion.

use crate::store::StoreError;
use crate::store::files::Files;
use std::collections::BTreeMap;
use std::path::Path;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::recovery::FileSizes;

const NO_FILES: FileSizes = FileSizes {
    log_bytes: None,
    offset_index_bytes: None,
    time_index_bytes: None,
    transaction_index_bytes: None,
};

/// The segment files of one partition, by base offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    sizes: BTreeMap<Offset, FileSizes>,
}

impl Segments {
    /// What is in the directory; nothing if it is absent.
    pub fn list(files: &mut Files<'_>, directory: &Path) -> Result<Segments, StoreError> {
        let mut segments = Segments::default();
        for entry in files.list(directory)?.unwrap_or_default() {
            let Some((base, file)) = SegmentFile::parse(&entry.name).filter(|_| !entry.directory) else {
                continue;
            };
            let sizes = segments.sizes.entry(base).or_insert(NO_FILES);
            let size = match file {
                SegmentFile::Log => &mut sizes.log_bytes,
                SegmentFile::OffsetIndex => &mut sizes.offset_index_bytes,
                SegmentFile::TimeIndex => &mut sizes.time_index_bytes,
                SegmentFile::TransactionIndex => &mut sizes.transaction_index_bytes,
            };
            *size = Some(entry.length);
        }
        Ok(segments)
    }

    /// Base offsets of the segments that have a `.log`, with its length, in order.
    pub fn logs(&self) -> impl DoubleEndedIterator<Item = (Offset, u64)> + '_ {
        self.sizes.iter().filter_map(|(base, sizes)| Some((*base, sizes.log_bytes?)))
    }

    /// Of one segment; nothing if it is not there.
    pub fn sizes_of(&self, base: Offset) -> FileSizes {
        self.sizes.get(&base).copied().unwrap_or(NO_FILES)
    }

    /// Deletes everything of the segments that `doomed` picks; says how many had a `.log`.
    pub fn remove_where(
        &mut self,
        files: &mut Files<'_>,
        directory: &Path,
        doomed: impl Fn(Offset, &FileSizes) -> bool,
    ) -> Result<usize, StoreError> {
        let bases: Vec<Offset> =
            self.sizes.iter().filter(|(base, sizes)| doomed(**base, sizes)).map(|(base, _)| *base).collect();
        let mut logs = 0;
        // From the end, so that what a crash leaves is the beginning of what was there.
        for base in bases.iter().rev() {
            logs += usize::from(self.sizes_of(*base).log_bytes.is_some());
            remove_segment(files, directory, *base)?;
            self.sizes.remove(base);
        }
        if !bases.is_empty() {
            files.sync_directory(directory)?;
        }
        Ok(logs)
    }

    /// Deletes index files without a log, but for the segment of the checkpoint: it may have no file yet.
    pub fn remove_orphans(
        &mut self,
        files: &mut Files<'_>,
        directory: &Path,
        checkpoint: Option<&PartitionCheckpoint>,
    ) -> Result<(), StoreError> {
        let kept = checkpoint.map(|checkpoint| checkpoint.segment_base);
        self.remove_where(files, directory, |base, sizes| sizes.log_bytes.is_none() && Some(base) != kept)?;
        Ok(())
    }

    /// Deletes the segments that end at or below the log's start: those whose next one begins there or below.
    /// The active one and what is behind it stay.
    pub fn remove_below(
        &mut self,
        files: &mut Files<'_>,
        directory: &Path,
        log_start: Offset,
        active_base: Offset,
    ) -> Result<usize, StoreError> {
        let bases = self.sizes.keys().copied().filter(|base| *base < active_base).chain([active_base]);
        let bases: Vec<Offset> = bases.collect();
        let first_kept =
            bases.windows(2).find(|pair| pair[1] > log_start).map_or(active_base, |pair| pair[0]);
        self.remove_where(files, directory, |base, _| base < first_kept)
    }
}

/// Deletes the four files of a segment; the `.log`, by which it is known, last. The caller syncs.
pub(crate) fn remove_segment(
    files: &mut Files<'_>,
    directory: &Path,
    base: Offset,
) -> Result<(), StoreError> {
    for file in SegmentFile::ALL.into_iter().rev() {
        files.remove(&directory.join(file.name(base)))?;
    }
    Ok(())
}
