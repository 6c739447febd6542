//! What is copied: sizes of records, codecs, partitions; and the topic that holds it.
//!
//! Values are text whose repetitions compress to about a third, see `bench/peers/franz-go/fill.go`. The same words
//! fill the same records. Must never be filled while something is measured.

use crate::catch_up::size;
use crate::error::BenchError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use twinlog_tests::kafka::Cluster;
use twinlog_tests::kafka::scenario::Codec;

const ROLE: &str = "filler";
/// Before it is compressed. What producers with some linger send; the largest that brokers take by default is 1 MB.
pub const BATCH_BYTES: usize = 64 << 10;

/// One of the table's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub record_bytes: usize,
    pub codec: Codec,
    pub partitions: u32,
}

/// What the source holds of a set.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    pub records: u64,
    pub value_bytes: u64,
    /// Bytes of record batches, which is what every copier has to receive.
    pub wire_bytes: u64,
}

/// Those of quick mode: nothing to decompress, much to decompress, many small records.
pub const QUICK: [Set; 3] = [
    Set { record_bytes: 1_024, codec: Codec::None, partitions: 6 },
    Set { record_bytes: 1_024, codec: Codec::Zstd, partitions: 6 },
    Set { record_bytes: 100, codec: Codec::Lz4, partitions: 40 },
];

/// All.
pub fn full() -> impl Iterator<Item = Set> {
    let codecs = |record_bytes| {
        [Codec::None, Codec::Lz4, Codec::Zstd].into_iter().map(move |codec| (record_bytes, codec))
    };
    let pairs = [1_024, 100, 16 << 10].into_iter().flat_map(codecs);
    pairs.flat_map(|(record_bytes, codec)| {
        [6, 1, 40].into_iter().map(move |partitions| Set { record_bytes, codec, partitions })
    })
}

impl Set {
    pub fn name(&self) -> String {
        let record = if self.record_bytes < 1_024 {
            format!("{}B", self.record_bytes)
        } else {
            size(self.record_bytes)
        };
        format!("{record}/{}/{}", self.codec.name(), self.partitions)
    }

    /// Its topic, the same on both sides.
    pub fn topic(&self) -> String {
        format!("set-{}", self.name().replace('/', "-"))
    }

    /// Makes the topic at the source, with so many bytes of values.
    pub fn fill(&self, program: &Path, source: &Cluster, value_bytes: u64) -> Result<Filled, BenchError> {
        let topic = self.topic();
        source.scenario().create_topic(&topic, self.partitions, 1, &[]);
        let failed = |error| BenchError::Role { role: ROLE, error };
        let mut command = Command::new(program);
        command.args(["fill", "-source", &source.bootstrap(), "-topic", &topic, "-codec", self.codec.name()]);
        for (option, value) in [
            ("-partitions", u64::from(self.partitions)),
            ("-record-bytes", self.record_bytes as u64),
            ("-batch-bytes", BATCH_BYTES as u64),
            ("-value-bytes", value_bytes),
        ] {
            command.arg(option).arg(value.to_string());
        }
        let output = command.output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(BenchError::RoleFailed { role: ROLE, status: output.status, words });
        }
        let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [records, value_bytes] = numbers[..] else {
            return Err(BenchError::Answer { role: ROLE, answer: said });
        };
        let wire_bytes = log_bytes(source, 1, &topic, self.partitions);
        Ok(Filled { records, value_bytes, wire_bytes })
    }
}

/// Bytes of record batches in a broker's files of a topic: brokers reserve nothing ahead.
pub fn log_bytes(cluster: &Cluster, broker: usize, topic: &str, partitions: u32) -> u64 {
    let files = log_files(cluster, broker, topic, partitions);
    files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum()
}

/// A broker's segments of a topic, in the order of partitions and offsets.
pub fn log_files(cluster: &Cluster, broker: usize, topic: &str, partitions: u32) -> Vec<PathBuf> {
    let directories = (0..partitions as i32).map(|index| cluster.partition_directory(broker, topic, index));
    directories.flat_map(|directory| segments(&directory)).collect()
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten().map(|file| file.path());
    let is_log = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "log");
    let mut segments: Vec<PathBuf> = files.filter(is_log).collect();
    segments.sort();
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_set_has_a_name_of_its_own_that_a_topic_may_have() {
        let all: Vec<Set> = full().collect();
        let topics: BTreeSet<String> = all.iter().map(Set::topic).collect();
        assert_eq!((all.len(), topics.len()), (27, 27));
        assert!(topics.iter().all(|topic| topic.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')));
        assert!(QUICK.iter().all(|set| all.contains(set)));
        assert_eq!(QUICK[0].name(), "1KiB/none/6");
    }

    #[test]
    fn only_logs_are_taken_in_their_order() {
        let directory = std::env::temp_dir().join(format!("twinlog-sets-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("7.log"), [0; 5]).unwrap();
        fs::write(directory.join("0.log"), [0; 10]).unwrap();
        fs::write(directory.join("0.index"), [0; 99]).unwrap();
        assert_eq!(segments(&directory), [directory.join("0.log"), directory.join("7.log")]);
        fs::remove_dir_all(&directory).unwrap();
        assert!(segments(&directory).is_empty());
    }
}
