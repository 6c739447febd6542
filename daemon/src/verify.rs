//! Verification of a store at rest: every byte read once, everything checked that can be checked without a
//! source, and the first difference from a source where one is asked.
//!
//! ```text
//! <data.dir>/<link>/<topic>-<p>  --> verify/partition.rs   batches, order, epochs, checkpoint
//!                                    verify/indexes.rs      do the index files name what is there
//!                                --> verify/report.rs       figures and problems, as a table or as JSON
//! batches + a source             --> verify/comparison.rs   byte for byte, but for the leader epochs
//!                                    verify/epochs.rs       the journal's epochs against the source's
//! ```
//! Owns the way through links and partitions. It must never change a file, and never stop at the first problem.

mod comparison;
mod epochs;
mod indexes;
mod partition;
mod problem;
mod report;
#[cfg(test)]
mod tests;

pub use comparison::{CompareError, Comparison, Difference, SourceBatches, compare_partition};
pub use epochs::{
    Compared as ComparedEpochs, EpochComparison, EpochDifference, SourceEpochs, compare_epochs,
};
pub use problem::{IndexProblem, Problem, ProblemKind};
pub use report::{PartitionReport, VerifyReport};

use crate::journal::{self, Journal, OWN_DIRECTORY};
use crate::recovery::segments::Segments;
use crate::store::StoreError;
use crate::store::files::Files;
use partition::{PartitionInput, verify_partition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::files::{LOG_START_FILE, TopicPartition, parse_offset_checkpoint};
use twinlog_log_segment::offset::Offset;

/// What is verified.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    pub data_directory: PathBuf,
    /// One link, or all of them.
    pub link: Option<String>,
    pub batch_bytes_max: u32,
}

/// Where a verification is; told after every piece that was read.
#[derive(Clone, Copy, Debug)]
pub struct VerifyProgress<'a> {
    pub link: &'a str,
    pub partition: &'a TopicPartition,
    /// Read so far, of everything.
    pub read_bytes: u64,
    /// Of all segment files, what is only reserved in them included.
    pub total_bytes: u64,
}

/// Verifies all partitions of a data directory, or of one link of it. The daemon must not be running.
pub fn verify_store(
    disk: &mut dyn Disk,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(VerifyProgress<'_>),
) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    let (mut found, mut total_bytes, mut read_bytes) = (Vec::new(), 0, 0);
    for link in links(&mut Files::new(disk), options)? {
        let directory = options.data_directory.join(&link);
        let own = options.data_directory.join(OWN_DIRECTORY).join(&link);
        let journal = journal::load(disk, &own)?;
        let mut files = Files::new(disk);
        let partitions = partitions(&mut files, &directory, &journal)?;
        for partition in &partitions {
            let segments = Segments::list(&mut files, &directory.join(partition.directory_name()))?;
            total_bytes += segments.logs().map(|(_, length)| length).sum::<u64>();
        }
        found.push((link, directory, journal, partitions));
    }
    for (link, directory, journal, partitions) in found {
        let mut files = Files::new(disk);
        let log_starts = log_starts(&mut files, &directory)?;
        for partition in partitions {
            let input = PartitionInput {
                link: &link,
                directory: &directory.join(partition.directory_name()),
                checkpoint: journal.checkpoints.get(&partition),
                log_start: log_starts.get(&partition).copied(),
                partition: &partition,
                batch_bytes_max: options.batch_bytes_max,
            };
            let read = |bytes| {
                read_bytes += bytes;
                progress(VerifyProgress { link: &link, partition: &partition, read_bytes, total_bytes });
            };
            report.partitions.push(verify_partition(&mut files, &input, read)?);
        }
    }
    Ok(report)
}

/// Links are the directories that are not ours.
fn links(files: &mut Files<'_>, options: &VerifyOptions) -> Result<Vec<String>, StoreError> {
    let missing = |path: &Path| StoreError::NoSuchLink { path: path.to_path_buf() };
    let data = &options.data_directory;
    let entries = files.list(data)?.ok_or_else(|| missing(data))?;
    let names = entries.into_iter().filter(|entry| entry.directory && !entry.name.starts_with('.'));
    let wanted = |name: &String| options.link.as_ref().is_none_or(|link| link == name);
    let links: Vec<String> = names.map(|entry| entry.name).filter(wanted).collect();
    match &options.link {
        Some(link) if links.is_empty() => Err(missing(&data.join(link))),
        _ => Ok(links),
    }
}

/// Those with a directory, and those that the journal says have batches.
fn partitions(
    files: &mut Files<'_>,
    directory: &Path,
    journal: &Journal,
) -> Result<Vec<TopicPartition>, StoreError> {
    let entries = files.list(directory)?.unwrap_or_default();
    let named = entries.into_iter().filter(|entry| entry.directory);
    let mut all: Vec<_> = named.filter_map(|entry| TopicPartition::parse_directory(&entry.name)).collect();
    let live = journal.checkpoints.values().filter(|it| !it.removed && it.log_end > it.log_start);
    all.extend(live.map(|checkpoint| checkpoint.partition.clone()));
    all.sort();
    all.dedup();
    Ok(all)
}

fn log_starts(
    files: &mut Files<'_>,
    directory: &Path,
) -> Result<BTreeMap<TopicPartition, Offset>, StoreError> {
    let path = directory.join(LOG_START_FILE);
    let Some(text) = files.read_text(&path)? else { return Ok(BTreeMap::new()) };
    let entries = parse_offset_checkpoint(LOG_START_FILE, &text);
    Ok(entries.map_err(|error| StoreError::TextFile { path, error })?.into_iter().collect())
}
