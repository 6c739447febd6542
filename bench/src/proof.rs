//! Whether the copy is the source: a fast copy that is wrong must not be taken for a fast one.

use crate::error::BenchError;
use crate::load::{Load, STREAM};
use std::path::Path;
use twinlog_daemon::verify::{VerifyOptions, verify_store};
use twinlog_io::RealDisk;

/// The product's own bound.
const BATCH_BYTES_MAX: u32 = 1 << 30;

/// Walks every byte of a mirrored [`Load`] and compares sizes, ends and digests with what was to be copied.
pub fn copy_is_right(data_directory: &Path, load: &Load) -> Result<(), BenchError> {
    let options = VerifyOptions {
        data_directory: data_directory.to_path_buf(),
        link: None,
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let report = verify_store(&mut RealDisk, &options, &mut |_| {}).map_err(BenchError::Store)?;
    let wrong = |problem: String| Err(BenchError::Copy { problem });
    if !report.is_right() {
        return wrong(format!("{} problems found by verify", report.problems()));
    }
    let prefix = format!("{STREAM}-");
    let copied = report.partitions.iter().filter(|partition| partition.partition.starts_with(&prefix));
    let (digest, bytes) = (load.digest(), load.batches_per_partition() * load.batch_bytes());
    let mut count = 0;
    for partition in copied {
        count += 1;
        let found = (partition.bytes, partition.log_start, partition.log_end, partition.digest.as_str());
        let expected = (bytes, 0, load.end_offset(), digest.as_str());
        if found != expected {
            return wrong(format!("{} has {found:?} instead of {expected:?}", partition.partition));
        }
    }
    if count != load.shape.partitions {
        return wrong(format!("{count} partitions instead of {}", load.shape.partitions));
    }
    Ok(())
}
