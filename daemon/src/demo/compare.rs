//! Compares the mirror's segment files with the embedded source's logs, batch by batch and byte by byte.
//!
//! Equal means: the same batches in the same order, and of each the bytes 0..12 and 16.. (12..16 is the leader
//! epoch, which each cluster stamps for itself). Must never look at anything but files: it reads what a
//! stranger would find on the disk.

use crate::embedded::{Cluster, PartitionLog};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use twinlog_log_segment::batch::LEADER_EPOCH_AT;
use twinlog_log_segment::files::SegmentFile;

const READ_BYTES: usize = 1 << 20;

/// What was equal, per topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Equal {
    pub partitions: u64,
    pub batches: u64,
    pub bytes: u64,
}

/// The first difference of a partition.
#[derive(Debug)]
pub enum Difference {
    Unreadable {
        path: PathBuf,
        error: io::Error,
    },
    /// The files end before this batch of the source does.
    Missing {
        partition: String,
        base_offset: i64,
    },
    /// A byte differs.
    Byte {
        partition: String,
        base_offset: i64,
        at: usize,
    },
    /// The files go on behind the source's last batch.
    Surplus {
        partition: String,
        path: PathBuf,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Unreadable { path, error } => write!(f, "{} cannot be read: {error}", path.display()),
            Difference::Missing { partition, base_offset } => {
                write!(f, "{partition}: the batch at offset {base_offset} is missing or cut")
            }
            Difference::Byte { partition, base_offset, at } => {
                write!(f, "{partition}: byte {at} of the batch at offset {base_offset} differs")
            }
            Difference::Surplus { partition, path } => {
                write!(f, "{partition}: {} goes on behind the source's last batch", path.display())
            }
        }
    }
}

/// Compares all partitions of the cluster with the directories below `link_directory`.
pub fn compare(cluster: &Cluster, link_directory: &Path) -> Result<BTreeMap<String, Equal>, Difference> {
    let mut topics = BTreeMap::<String, Equal>::new();
    for (topic, index, log) in cluster.partitions() {
        let partition = format!("{topic}-{index}");
        let (batches, bytes) = compare_partition(log, &link_directory.join(&partition), &partition)?;
        let equal = topics.entry(topic.to_owned()).or_default();
        equal.partitions += 1;
        equal.batches += batches;
        equal.bytes += bytes;
    }
    Ok(topics)
}

fn compare_partition(
    log: &PartitionLog,
    directory: &Path,
    partition: &str,
) -> Result<(u64, u64), Difference> {
    let mut files = SegmentReader::open(directory)?;
    let (mut batches, mut bytes) = (0, 0);
    let mut found = Vec::new();
    for expected in log.batches_from(log.log_start_offset()) {
        let base_offset = i64::from_be_bytes(*expected.first_chunk().expect("a batch has a base offset"));
        found.resize(expected.len(), 0);
        if !files.read(&mut found)? {
            return Err(Difference::Missing { partition: partition.to_owned(), base_offset });
        }
        // The epoch is the store's own.
        found[LEADER_EPOCH_AT].copy_from_slice(&expected[LEADER_EPOCH_AT]);
        if found != expected[..] {
            let at = found.iter().zip(expected.iter()).position(|(one, other)| one != other);
            let at = at.expect("unequal slices of one length differ somewhere");
            return Err(Difference::Byte { partition: partition.to_owned(), base_offset, at });
        }
        batches += 1;
        bytes += expected.len() as u64;
    }
    match files.surplus()? {
        None => Ok((batches, bytes)),
        Some(path) => Err(Difference::Surplus { partition: partition.to_owned(), path }),
    }
}

/// The `.log` files of a partition, one behind the other.
struct SegmentReader {
    /// Files still to come, the next one last.
    waiting: Vec<PathBuf>,
    current: Option<(PathBuf, BufReader<File>)>,
}

impl SegmentReader {
    fn open(directory: &Path) -> Result<SegmentReader, Difference> {
        let failed = |error| Difference::Unreadable { path: directory.to_owned(), error };
        let mut bases = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((base, SegmentFile::Log)) = name.and_then(SegmentFile::parse) {
                bases.push((base, path));
            }
        }
        bases.sort();
        let waiting = bases.into_iter().rev().map(|(_, path)| path).collect();
        Ok(SegmentReader { waiting, current: None })
    }

    /// Fills `bytes`; false at the end of the last file. A batch never spans two files.
    fn read(&mut self, bytes: &mut [u8]) -> Result<bool, Difference> {
        let mut filled = 0;
        while filled < bytes.len() {
            let Some((path, file)) = self.at_data()? else { return Ok(false) };
            match file.read(&mut bytes[filled..]) {
                Ok(0) => return Ok(false),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Difference::Unreadable { path: path.clone(), error }),
            }
        }
        Ok(true)
    }

    /// The file that has bytes left, opening the next one where one ends.
    fn at_data(&mut self) -> Result<Option<&mut (PathBuf, BufReader<File>)>, Difference> {
        loop {
            let ended = match &mut self.current {
                None => true,
                Some((path, file)) => {
                    let left = io::BufRead::fill_buf(file)
                        .map_err(|error| Difference::Unreadable { path: path.clone(), error })?;
                    left.is_empty()
                }
            };
            if !ended {
                return Ok(self.current.as_mut());
            }
            let Some(path) = self.waiting.pop() else { return Ok(None) };
            let file =
                File::open(&path).map_err(|error| Difference::Unreadable { path: path.clone(), error })?;
            self.current = Some((path, BufReader::with_capacity(READ_BYTES, file)));
        }
    }

    /// A file that has more than zeros left: preallocated blocks of a log that is still open are no data.
    fn surplus(&mut self) -> Result<Option<PathBuf>, Difference> {
        let mut bytes = vec![0; READ_BYTES];
        while let Some((path, file)) = self.at_data()? {
            let read = file
                .read(&mut bytes)
                .map_err(|error| Difference::Unreadable { path: path.clone(), error })?;
            if bytes[..read].iter().any(|byte| *byte != 0) {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::TopicOptions;
    use crate::embedded::batch_text::BatchText;
    use std::fs;

    /// A cluster with three batches, and a mirror of it in two segment files.
    fn mirrored() -> (Cluster, tempfile::TempDir) {
        let mut cluster = Cluster::new(1);
        cluster.create_topic("t", TopicOptions::default());
        for _ in 0..3 {
            cluster.append("t", 0, BatchText::at(0).values(2, 50).build());
        }
        let directory = tempfile::tempdir().unwrap();
        let partition = directory.path().join("t-0");
        fs::create_dir(&partition).unwrap();
        let log = cluster.partition("t", 0).unwrap();
        let mut batches: Vec<Vec<u8>> =
            log.batches_from(log.log_start_offset()).map(|batch| batch.to_vec()).collect();
        batches.iter_mut().for_each(|batch| batch[15] = 9);
        fs::write(partition.join("00000000000000000000.log"), batches[..2].concat()).unwrap();
        fs::write(partition.join("00000000000000000004.log"), [&batches[2][..], &[0; 5000]].concat())
            .unwrap();
        fs::write(partition.join("00000000000000000004.index"), b"no log").unwrap();
        (cluster, directory)
    }

    #[test]
    fn an_identical_mirror_is_equal_but_for_the_epochs() {
        let (cluster, directory) = mirrored();
        let topics = compare(&cluster, directory.path()).unwrap();
        let bytes = 3 * BatchText::at(0).values(2, 50).build().len() as u64;
        assert_eq!(topics["t"], Equal { partitions: 1, batches: 3, bytes });
    }

    #[test]
    fn a_changed_a_missing_and_a_surplus_byte_are_found() {
        let (mut cluster, directory) = mirrored();
        let last = directory.path().join("t-0/00000000000000000004.log");
        let good = fs::read(&last).unwrap();
        let mut wrong = good.clone();
        wrong[80] ^= 1;
        fs::write(&last, &wrong).unwrap();
        let found = compare(&cluster, directory.path());
        assert!(matches!(found, Err(Difference::Byte { base_offset: 4, at: 80, .. })), "{found:?}");
        fs::write(&last, &good[..100]).unwrap();
        assert!(matches!(
            compare(&cluster, directory.path()),
            Err(Difference::Missing { base_offset: 4, .. })
        ));
        let mut surplus = good.clone();
        surplus[5000] = 1;
        fs::write(&last, &surplus).unwrap();
        assert!(matches!(compare(&cluster, directory.path()), Err(Difference::Surplus { .. })));
        fs::write(&last, &good).unwrap();
        cluster.append("t", 0, BatchText::at(0).values(1, 5).build());
        assert!(compare(&cluster, directory.path()).is_err());
    }
}
