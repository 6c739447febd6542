//! What must hold when everything has healed: the store is the source's log, byte for byte.
//!
//! Reads the files by itself; it shares no code with the product's reader.

use super::control::Control;
use super::disk::SimulatedDisk;
use twinlog_daemon::embedded::PartitionLog;
use twinlog_io::{Disk, Step, StepOutput};
use twinlog_log_segment::files::TopicPartition;

/// Batches of all segments of a partition, in order, as (base offset, bytes from 16 on).
fn stored(disk: &mut SimulatedDisk, partition: &TopicPartition) -> Vec<(i64, Vec<u8>)> {
    let directory = Control::directory_of(partition);
    let Ok(StepOutput::Listed(entries)) = disk.run(&Step::List { path: directory.clone() }) else {
        return Vec::new();
    };
    let mut batches = Vec::new();
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".log")) {
        let path = directory.join(&entry.name);
        let bytes = disk.read(&path, 0, entry.length as usize).expect("listed just now");
        let mut rest = bytes.as_slice();
        while rest.len() >= 61 {
            let length = 12 + u32::from_be_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
            if length < 61 || length > rest.len() {
                break;
            }
            let base = i64::from_be_bytes(rest[..8].try_into().expect("eight bytes"));
            batches.push((base, rest[16..length].to_vec()));
            rest = &rest[length..];
        }
        assert!(rest.iter().all(|byte| *byte == 0), "{}: bytes behind the last batch", path.display());
    }
    batches
}

/// Every batch of the source from its log start to its copy bound is stored, and nothing else is; `log_start` is
/// where the mirror said at last that its log begins.
pub fn assert_copy(
    disk: &mut SimulatedDisk,
    partition: &TopicPartition,
    source: &PartitionLog,
    log_start: i64,
) {
    let (start, end) = (source.log_start_offset().value(), source.last_stable_offset().value());
    let expected: Vec<(i64, Vec<u8>)> = source
        .batches_from(source.log_start_offset())
        .map(|batch| {
            let base = i64::from_be_bytes(batch[..8].try_into().expect("eight bytes"));
            (base, batch[16..].to_vec())
        })
        .take_while(|(base, _)| *base < end)
        .collect();
    let first = expected.first().map_or(end, |(base, _)| *base);
    let found: Vec<(i64, Vec<u8>)> =
        stored(disk, partition).into_iter().filter(|(base, _)| *base >= first).collect();
    let name = partition.directory_name();
    assert_eq!(log_start, start, "{name}: the mirror's log start is not the source's");
    for (index, (ours, theirs)) in found.iter().zip(&expected).enumerate() {
        assert!(ours == theirs, "{name}: batch {index} at {} is not the source's at {}", ours.0, theirs.0);
    }
    assert_eq!(found.len(), expected.len(), "{name}: number of batches from {start} to {end}");
}
