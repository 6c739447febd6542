//! What a verification found: figures of every partition, and what is wrong with it.
//!
//! Owns the two forms of the report: JSON by its fields, and a table by `Display`. Offsets are exclusive ends.

use super::problem::Problem;
use serde::Serialize;
use std::fmt;
use twinlog_log_segment::epoch::EpochHistory;

/// All partitions that were verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    pub partitions: Vec<PartitionReport>,
}

impl VerifyReport {
    pub fn problems(&self) -> usize {
        self.partitions.iter().map(|partition| partition.problems.len() + partition.problems_left_out).sum()
    }

    pub fn is_right(&self) -> bool {
        self.problems() == 0
    }
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    pub link: String,
    /// `<topic>-<partition>`
    pub partition: String,
    pub topic_id: String,
    pub segments: u64,
    pub batches: u64,
    /// As the headers count them.
    pub records: u64,
    /// Of whole batches.
    pub bytes: u64,
    /// Places where offsets are missing between two batches, as compaction leaves them.
    pub gaps: u64,
    /// Where the topic begins.
    pub log_start: i64,
    /// Where our files begin; above the log start in a spool.
    pub held_start: i64,
    pub log_end: i64,
    /// Reserved behind the last batch, never written. Normal after a crash.
    pub reserved_bytes: u64,
    /// Transactions without their marker.
    pub open_transactions: usize,
    /// Which epoch of the source wrote what, as the journal has it.
    #[serde(skip)]
    pub source_epochs: EpochHistory,
    /// Of all batches, eight hexadecimal digits; equal logs have equal digests.
    pub digest: String,
    pub problems: Vec<Problem>,
    /// Beyond those that are listed.
    pub problems_left_out: usize,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |partition: &PartitionReport| format!("{}/{}", partition.link, partition.partition);
        let width = self.partitions.iter().map(|partition| name(partition).len()).max().unwrap_or(0).max(9);
        writeln!(
            f,
            "{:width$} {:>8} {:>10} {:>12} {:>14} {:>6} {:>12} {:>12} {:>8}  problems",
            "partition", "segments", "batches", "records", "bytes", "gaps", "start", "end", "digest"
        )?;
        for partition in &self.partitions {
            let PartitionReport { segments, batches, records, bytes, gaps, .. } = partition;
            let PartitionReport { log_start, log_end, digest, problems, .. } = partition;
            let name = name(partition);
            let count = problems.len() + partition.problems_left_out;
            write!(f, "{name:width$} {segments:>8} {batches:>10} {records:>12} {bytes:>14} {gaps:>6} ")?;
            writeln!(f, "{log_start:>12} {log_end:>12} {digest:>8}  {count}")?;
        }
        for partition in self.partitions.iter().filter(|partition| partition.reserved_bytes > 0) {
            let (name, bytes) = (name(partition), partition.reserved_bytes);
            writeln!(f, "{name}: {bytes} bytes are reserved behind the last batch")?;
        }
        for partition in &self.partitions {
            for problem in &partition.problems {
                writeln!(f, "{}: {problem}", name(partition))?;
            }
            if partition.problems_left_out > 0 {
                writeln!(f, "{}: and {} problems more", name(partition), partition.problems_left_out)?;
            }
        }
        let (partitions, problems) = (self.partitions.len(), self.problems());
        write!(f, "{partitions} partitions, {problems} problems")
    }
}
