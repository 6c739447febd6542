//! What lies on the disk and may have been damaged or edited: checkpoints, indexes, text files, names.
//!
//! What a parser accepts, written again, must be what it read (or, for texts, must be read as the same).

use super::checksum::crc32c;
use std::path::Path;
use twinlog_daemon::control::instruction::Instructions;
use twinlog_io::{Disk, Step, StepOutput, SystemError};
use twinlog_log_segment::checkpoint::{FRAME_BYTES, PartitionCheckpoint};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::{
    LOG_START_FILE, SegmentFile, TOPIC_NAME_BYTES_MAX, TopicId, TopicPartition, check_topic_name,
    offset_checkpoint_text, parse_offset_checkpoint, parse_partition_metadata, partition_metadata_text,
};
use twinlog_log_segment::index::{
    AbortedTransaction, IndexError, OffsetEntry, TimeEntry, offset_entries, time_entries, transaction_entries,
};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

fn at(value: i64) -> Offset {
    Offset::new(value).expect("examples are not negative")
}

fn partition(name: &str) -> TopicPartition {
    TopicPartition::parse_directory(name).expect("examples are legal")
}

pub fn checkpoint(input: &[u8]) {
    match PartitionCheckpoint::decode(input) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(None) => {}
        Ok(Some((checkpoint, length))) => {
            let record = &input[..length];
            let crc = u32::from_be_bytes(*record[10..].first_chunk().expect("a frame"));
            assert_eq!(crc, crc32c(&[&record[4..10], &record[FRAME_BYTES..]]), "CRC of an accepted record");
            assert!(checkpoint.log_start <= checkpoint.log_end);
            let mut written = Vec::new();
            checkpoint.encode(&mut written);
            let again = PartitionCheckpoint::decode(&written);
            assert_eq!(again, Ok(Some((checkpoint, written.len()))), "what was read can be written");
            let torn = PartitionCheckpoint::decode(&record[..length - 1]);
            assert_eq!(torn, Ok(None), "a torn record is the journal's end");
        }
    }
}

/// The frame's own length and CRC.
pub fn reseal_checkpoint(input: &mut [u8]) {
    let Some(length) = input.len().checked_sub(FRAME_BYTES) else { return };
    input[6..10].copy_from_slice(&(length as u32).to_be_bytes());
    let crc = crc32c(&[&input[4..10], &input[FRAME_BYTES..]]);
    input[10..FRAME_BYTES].copy_from_slice(&crc.to_be_bytes());
}

pub fn checkpoints() -> Vec<Vec<u8>> {
    let empty = PartitionCheckpoint::empty(partition("orders-3"), TopicId([7; 16]), at(40));
    let mut full = PartitionCheckpoint { generation: 9, position: 4_000, log_end: at(900), ..empty.clone() };
    for (epoch, start) in [(2, 40), (5, 300), (6, 301)] {
        full.source_epochs.record(LeaderEpoch(epoch), at(start)).expect("examples are in order");
    }
    full.stamp_epochs.record(LeaderEpoch(1), at(300)).expect("the first one");
    let mut walk = BatchWalk::new(1 << 20);
    for (producer, base_offset) in [(11, 500), (12, 600)] {
        let bytes = BatchBuilder::at(base_offset).records(1, 10).transactional(producer, 0, 0).build();
        let (header_bytes, _) = walk.feed(&bytes);
        let Some(Ok(WalkEvent::Batch { header, control })) = walk.feed(&bytes[header_bytes..]).1 else {
            panic!("a built batch is whole");
        };
        full.open_transactions.on_batch(&header, control).expect("far below the bound");
    }
    let truncating = PartitionCheckpoint { truncating: true, ..full.clone() };
    let removed = PartitionCheckpoint { removed: true, ..empty.clone() };
    let encoded = |checkpoint: &PartitionCheckpoint| {
        let mut out = Vec::new();
        checkpoint.encode(&mut out);
        out
    };
    [empty, full, truncating, removed].iter().map(encoded).collect()
}

/// Entries up to the first that is refused, written again, are the bytes that were read.
fn same_when_written<T, const N: usize>(
    input: &[u8],
    entries: impl Iterator<Item = Result<T, IndexError>>,
    write: fn(&T) -> [u8; N],
) {
    let entries: Vec<_> = entries.collect();
    assert_eq!(entries.len(), input.len().div_ceil(N), "one answer for each entry");
    let whole = entries.iter().map_while(|entry| entry.as_ref().ok());
    let written: Vec<u8> = whole.flat_map(write).collect();
    assert_eq!(written, input[..written.len()]);
    for error in entries.iter().filter_map(|entry| entry.as_ref().err()) {
        assert!(!error.to_string().is_empty());
    }
}

pub fn offset_index(input: &[u8]) {
    same_when_written(input, offset_entries(input), OffsetEntry::encode);
}

pub fn time_index(input: &[u8]) {
    same_when_written(input, time_entries(input), TimeEntry::encode);
}

pub fn transaction_index(input: &[u8]) {
    same_when_written(input, transaction_entries(input), AbortedTransaction::encode);
}

pub fn offset_indexes() -> Vec<Vec<u8>> {
    let entry = |index: u32| OffsetEntry { relative_offset: index * 90, position: index * 4_200 }.encode();
    vec![Vec::new(), (1..20).flat_map(entry).collect()]
}

pub fn time_indexes() -> Vec<Vec<u8>> {
    let entry = |index: u32| {
        TimeEntry { timestamp_ms: i64::from(index) * 1_000, relative_offset: index * 90 }.encode()
    };
    vec![Vec::new(), (1..20).flat_map(entry).collect()]
}

pub fn transaction_indexes() -> Vec<Vec<u8>> {
    let entry = |index: i64| {
        let (first_offset, last_offset) = (at(index * 10), at(index * 10 + 5));
        AbortedTransaction {
            producer_id: 40 + index,
            first_offset,
            last_offset,
            last_stable_offset: last_offset,
        }
        .encode()
    };
    vec![Vec::new(), (0..8).flat_map(entry).collect()]
}

pub fn epoch_file(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match EpochHistory::parse(&text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(history) => {
            let rising = |pair: &[_]| {
                let [one, other]: &[twinlog_log_segment::epoch::EpochStart; 2] =
                    pair.try_into().expect("pairs");
                one.epoch < other.epoch && one.start < other.start
            };
            assert!(history.entries().windows(2).all(rising), "{history:?}");
            assert_eq!(EpochHistory::parse(&history.to_text()), Ok(history));
        }
    }
}

pub fn epoch_files() -> Vec<Vec<u8>> {
    ["0\n0\n", "0\n1\n0 0\n", "0\n3\n2 40\n5 300\n6 301\n"].map(|text| text.as_bytes().to_vec()).to_vec()
}

pub fn metadata_file(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse_partition_metadata(&text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(id) => assert_eq!(parse_partition_metadata(&partition_metadata_text(id)), Ok(id)),
    }
}

pub fn metadata_files() -> Vec<Vec<u8>> {
    [[0; 16], [0xff; 16], *b"embedded.......1"]
        .map(|id| partition_metadata_text(TopicId(id)).into_bytes())
        .to_vec()
}

pub fn offset_file(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse_offset_checkpoint(LOG_START_FILE, &text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(entries) => {
            let written =
                offset_checkpoint_text(entries.iter().map(|(partition, offset)| (partition, *offset)));
            assert_eq!(parse_offset_checkpoint(LOG_START_FILE, &written), Ok(entries));
        }
    }
}

pub fn offset_files() -> Vec<Vec<u8>> {
    ["0\n0\n", "0\n2\norders 3 1200\nmy-bills 0 9223372036854775807\n"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// Names of directories, files, topics and ids: what is accepted is spelled in exactly one way.
pub fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(partition) = TopicPartition::parse_directory(&text) {
        assert_eq!(partition.directory_name(), text);
        assert!(check_topic_name(partition.topic()).is_ok() && partition.partition() >= 0);
    }
    if let Some((base, file)) = SegmentFile::parse(&text) {
        assert_eq!(file.name(base), text);
    }
    if let Some(id) = TopicId::parse(&text) {
        assert_eq!(id.to_string(), text);
    }
    if check_topic_name(&text).is_ok() {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!(
            text.bytes().all(is_safe) && !["", ".", ".."].contains(&&*text),
            "{text:?} becomes a directory"
        );
        assert!(text.len() <= TOPIC_NAME_BYTES_MAX);
    }
}

pub fn name_examples() -> Vec<Vec<u8>> {
    let files = SegmentFile::ALL.map(|file| file.name(at(1_200)).into_bytes());
    let names = [
        "orders-3",
        "my.orders_eu-0",
        "a-2147483647",
        "orders",
        "..",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "ZW1iZWRkZWQuLi4uLi4uMQ",
    ];
    files.into_iter().chain(names.map(|name| name.as_bytes().to_vec())).collect()
}

/// One file, whatever is asked for.
struct OneFile<'a>(&'a [u8]);

impl Disk for OneFile<'_> {
    fn run(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        match step {
            Step::ReadAt { .. } => Ok(StepOutput::Bytes(self.0.to_vec())),
            _ => Err(SystemError::INVALID),
        }
    }
}

pub fn instructions(input: &[u8]) {
    match Instructions::load(&mut OneFile(input), Path::new("journal")) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(instructions) => {
            let found = instructions.of(&partition("orders-3"));
            assert!(found.is_none() || !instructions.is_empty());
        }
    }
}

pub fn instruction_files() -> Vec<Vec<u8>> {
    let entry = |action: &str| format!(r#"{{"topic": "orders", "partition": 3, "action": {action}}}"#);
    let texts = [
        "[]".to_owned(),
        format!("[{}]", entry("\"retry\"")),
        format!("[{}, {}]", entry("\"accept_gap\""), entry("{\"restart_from\": 1200}")),
    ];
    texts.map(String::into_bytes).to_vec()
}
