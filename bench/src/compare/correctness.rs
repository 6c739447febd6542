//! Whether a copy is the source, record by record or byte by byte.
//!
//! ```text
//!   digest     a client reads one side: offset, timestamp, key, value and headers of every record, as one sum
//!   batches    the files of both sides: same base offsets, lengths and bytes, but for the leader's own stamp
//! ```
//! What reads here shares no code with the product. A wrong copy scores nothing.

use crate::error::BenchError;
use std::path::Path;
use std::process::Command;
use twinlog_tests::kafka::batches::{self, CopyBound};

const ROLE: &str = "digest";

/// One partition as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDigest {
    pub first: i64,
    pub next: i64,
    pub count: i64,
    pub sum: String,
}

/// All partitions of a topic, by their numbers.
pub fn digest(program: &Path, bootstrap: &str, topic: &str) -> Result<Vec<PartitionDigest>, BenchError> {
    let mut command = Command::new(program);
    command.args(["digest", "-source", bootstrap, "-topic", topic]);
    let output = command.output().map_err(|error| BenchError::Role { role: ROLE, error })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BenchError::RoleFailed { role: ROLE, status: output.status, words });
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<Vec<PartitionDigest>, BenchError> {
    let line = |(index, line): (usize, &str)| {
        let refused = || BenchError::Answer { role: ROLE, answer: line.to_owned() };
        let words: Vec<&str> = line.split(' ').collect();
        let [partition, first, next, count, sum] = words[..] else { return Err(refused()) };
        let number = |word: &str| word.parse::<i64>().map_err(|_| refused());
        if number(partition)? != index as i64 {
            return Err(refused());
        }
        let (first, next, count) = (number(first)?, number(next)?, number(count)?);
        Ok(PartitionDigest { first, next, count, sum: sum.to_owned() })
    };
    text.lines().enumerate().map(line).collect()
}

/// What is wrong with a copy, by its records.
pub fn record_difference(source: &[PartitionDigest], copy: &[PartitionDigest]) -> Option<String> {
    if source.len() != copy.len() {
        return Some(format!("{} partitions instead of {}", copy.len(), source.len()));
    }
    let mut pairs = source.iter().zip(copy).enumerate();
    let (partition, (expected, found)) = pairs.find(|(_, (expected, found))| expected != found)?;
    let spans = |one: &PartitionDigest| format!("{} records of {}..{}", one.count, one.first, one.next);
    Some(if spans(expected) == spans(found) {
        format!("partition {partition}: other offsets, timestamps, keys, values or headers")
    } else {
        format!("partition {partition}: {} instead of {}", spans(found), spans(expected))
    })
}

/// What is wrong with a copy, by its batches: pairs of partition directories, the source's first.
pub fn batch_difference<'a>(pairs: impl Iterator<Item = (&'a Path, &'a Path)>) -> Option<String> {
    for (source, copy) in pairs {
        if let Err(difference) = batches::compare(source, copy, 0, CopyBound::Exactly(i64::MAX)) {
            return Some(difference.to_string());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use twinlog_daemon::embedded::batch_text::BatchText;

    const RIGHT: &str = "0 0 5 5 ab\n1 3 9 4 cd\n";

    #[test]
    fn a_copy_with_another_record_offset_or_partition_is_noticed() {
        let source = parse(RIGHT).unwrap();
        assert_eq!(record_difference(&source, &parse(RIGHT).unwrap()), None);
        for (copy, said) in [
            ("0 0 5 5 ab\n1 3 9 4 ce\n", "partition 1: other"),
            ("0 1 6 5 ab\n1 3 9 4 cd\n", "partition 0: 5 records of 1..6 instead of 5 records of 0..5"),
            ("0 0 5 5 ab\n1 3 9 5 cd\n", "partition 1: 5 records"),
            ("0 0 5 5 ab\n", "1 partitions instead of 2"),
        ] {
            let difference = record_difference(&source, &parse(copy).unwrap());
            assert!(difference.is_some_and(|text| text.contains(said)), "{copy}");
        }
        assert!(parse("1 0 5 5 ab\n").is_err() && parse("0 0 5 ab\n").is_err());
    }

    #[test]
    fn a_copy_with_another_byte_or_a_missing_batch_is_noticed() {
        let directory = std::env::temp_dir().join(format!("twinlog-correct-{}", std::process::id()));
        let batch = |offset: i64, value: &[u8]| {
            let mut batch = BatchText::at(offset).timestamp(1);
            batch.push_record(0, None, Some(value));
            batch.build()
        };
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("00000000000000000000.log"), bytes).unwrap();
            path
        };
        let whole = [batch(0, b"one"), batch(1, b"two")].concat();
        let source = write("source", &whole);
        let differs = |copy: &Path| batch_difference([(source.as_path(), copy)].into_iter());
        assert_eq!(differs(&write("right", &whole)), None);
        assert!(differs(&write("other", &[batch(0, b"one"), batch(1, b"twO")].concat())).is_some());
        assert!(differs(&write("short", &batch(0, b"one"))).is_some());
        let longer = [whole.clone(), batch(2, b"three")].concat();
        assert!(differs(&write("longer", &longer)).is_some());
        assert!(differs(&directory.join("none")).is_some());
        fs::remove_dir_all(&directory).unwrap();
    }
}
