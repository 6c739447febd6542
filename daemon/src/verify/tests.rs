//! Stores that are right, stores with one thing wrong, and comparisons with a source.

use super::*;
use crate::memory_disk::MemoryDisk;
use crate::store::written_log::{
    BATCH_BYTES_MAX, WrittenLog, at, batch, directory, empty_disk, journal_directory, stored,
};
use twinlog_io::Step;
use twinlog_log_segment::batch::{BatchError, BatchHeader};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::digest::LogDigest;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::{LEADER_EPOCH_FILE, PARTITION_METADATA_FILE, SegmentFile};
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_log_segment::transaction::OpenTransactions;

fn verify(disk: &mut MemoryDisk) -> PartitionReport {
    let options = VerifyOptions {
        data_directory: PathBuf::from("/data"),
        link: None,
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let mut read = 0;
    let mut told = 0;
    let show = &mut |progress: VerifyProgress<'_>| (read, told) = (progress.read_bytes, progress.total_bytes);
    let report = verify_store(disk, &options, show).unwrap();
    assert_eq!(report.partitions.len(), 1);
    assert!(read <= told, "{read} of {told}");
    assert!(read >= report.partitions[0].bytes);
    report.partitions[0].clone()
}

/// Two closed segments and an open one, with a gap, an abort and an open transaction.
fn store(disk: &mut MemoryDisk) -> WrittenLog {
    let mut log = WrittenLog::begin(disk);
    for offset in 0..4 {
        log.append(disk, batch(offset, 3000));
    }
    log.append(disk, batch(4, 10).transactional(1, 0, 0));
    log.roll(disk);
    log.append(disk, BatchBuilder::at(5).marker(1, 0, ControlKind::Abort).timestamps(2000, 2000));
    for offset in 8..12 {
        log.append(disk, batch(offset, 3000));
    }
    log.roll(disk);
    for offset in 12..15 {
        log.append(disk, batch(offset, 3000));
    }
    log.checkpoint(disk);
    log.append(disk, batch(15, 10).transactional(2, 0, 0));
    log
}

fn path(file: SegmentFile, base: i64) -> PathBuf {
    directory().join(file.name(at(base)))
}

/// Changes one file of a right store and says what is found.
fn found(path: PathBuf, change: impl Fn(&mut Vec<u8>)) -> Vec<Problem> {
    let mut disk = empty_disk();
    store(&mut disk);
    let mut bytes = disk.file(&path).unwrap();
    change(&mut bytes);
    disk.plant(&path, &bytes);
    verify(&mut disk).problems
}

#[test]
fn a_right_store_has_no_problem_and_the_digest_of_its_batches() {
    let mut disk = empty_disk();
    store(&mut disk);
    let report = verify(&mut disk);
    assert_eq!(report.problems, []);
    assert_eq!((report.segments, report.batches, report.records, report.gaps), (3, 14, 14, 1));
    assert_eq!((report.log_start, report.log_end, report.open_transactions), (0, 16, 1));
    assert!(report.reserved_bytes > 0);
    let mut digest = LogDigest::new();
    let mut bytes = &stored(&disk)[..];
    while let Ok(header) = BatchHeader::parse(bytes.first_chunk().unwrap(), BATCH_BYTES_MAX) {
        digest.on_batch(&header);
        bytes = &bytes[header.total_bytes() as usize..];
    }
    assert_eq!(report.digest, digest.to_string());
    let report = VerifyReport { partitions: vec![report] };
    assert!(report.is_right());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["partitions"][0]["log_end"], 16);
    let text = report.to_string();
    assert!(text.contains("link/orders-3") && text.ends_with("1 partitions, 0 problems"), "{text}");
}

#[test]
fn a_flipped_bit_is_found_with_its_place_and_the_rest_is_still_read() {
    let problems = found(path(SegmentFile::Log, 0), |bytes| bytes[4000] ^= 1);
    let batch_bytes = batch(0, 3000).build().len() as u64;
    assert!(matches!(problems[0].what, ProblemKind::Batch(BatchError::CrcMismatch { .. })));
    assert_eq!((problems[0].file.as_str(), problems[0].position), ("00000000000000000000.log", batch_bytes));
    assert!(problems.iter().any(|problem| matches!(problem.what, ProblemKind::SegmentStart { .. })));
}

#[test]
fn a_torn_end_and_bytes_behind_zeros_are_told_apart() {
    let problems = found(path(SegmentFile::Log, 5), |bytes| bytes.truncate(bytes.len() - 10));
    assert!(matches!(problems[0].what, ProblemKind::Torn { .. }), "{}", problems[0]);
    let problems = found(path(SegmentFile::Log, 12), |bytes| *bytes.last_mut().unwrap() = 1);
    assert!(matches!(problems[..], [Problem { what: ProblemKind::BytesBehindZeros, .. }]));
    let problems = found(path(SegmentFile::Log, 5), |bytes| bytes.resize(bytes.len() + 100, 0));
    assert!(matches!(problems[..], [Problem { what: ProblemKind::ReservedInClosed { bytes: 100 }, .. }]));
}

#[test]
fn an_index_entry_that_names_no_batch_is_found() {
    let problems = found(path(SegmentFile::OffsetIndex, 0), |bytes| bytes[7] ^= 1);
    assert!(
        matches!(problems[0].what, ProblemKind::Index(IndexProblem::OffsetEntry { .. })),
        "{}",
        problems[0]
    );
    let problems = found(path(SegmentFile::TimeIndex, 0), |bytes| bytes[7] ^= 1);
    assert!(
        matches!(problems[0].what, ProblemKind::Index(IndexProblem::TimeEntry { .. })),
        "{}",
        problems[0]
    );
    let problems = found(path(SegmentFile::TimeIndex, 0), |bytes| bytes.truncate(bytes.len() - 12));
    assert!(matches!(
        problems[..],
        [Problem { what: ProblemKind::Index(IndexProblem::TimeNotFinal { .. }), .. }]
    ));
    let problems = found(path(SegmentFile::TransactionIndex, 5), |bytes| bytes[17] ^= 1);
    assert!(matches!(
        problems[..],
        [Problem { what: ProblemKind::Index(IndexProblem::AbortedWrong { .. }), .. }]
    ));
    let problems = found(path(SegmentFile::TransactionIndex, 5), Vec::clear);
    assert!(matches!(
        problems[..],
        [Problem { what: ProblemKind::Index(IndexProblem::AbortedMissing { .. }), .. }]
    ));
    let problems = found(path(SegmentFile::OffsetIndex, 0), |bytes| bytes.push(0));
    assert!(matches!(problems[..], [Problem { what: ProblemKind::Index(IndexProblem::Entry(_)), .. }]));
}

#[test]
fn small_files_that_disagree_are_found() {
    let problems = found(directory().join(LEADER_EPOCH_FILE), |bytes| *bytes = b"0\n1\n3 0\n".to_vec());
    assert!(matches!(problems[..], [Problem { what: ProblemKind::EpochDisagrees { .. }, .. }]));
    let problems = found(directory().join(PARTITION_METADATA_FILE), |bytes| bytes.truncate(5));
    assert!(matches!(problems[..], [Problem { what: ProblemKind::Metadata(_), .. }]));
}

#[test]
fn a_checkpoint_that_does_not_fit_the_files_is_found() {
    let mut disk = empty_disk();
    let mut log = store(&mut disk);
    log.state.position -= 1;
    let mut bytes = Vec::new();
    log.state.generation += 1;
    log.state.encode(&mut bytes);
    disk.plant(&journal_directory().join("journal-1"), &bytes);
    let problems = verify(&mut disk).problems;
    assert!(matches!(problems[..], [Problem { what: ProblemKind::CheckpointNotAtBatch { .. }, .. }]));
    log.state.log_end = at(20);
    log.state.generation += 1;
    let mut bytes = Vec::new();
    log.state.encode(&mut bytes);
    disk.plant(&journal_directory().join("journal-1"), &bytes);
    let problems = verify(&mut disk).problems;
    assert!(matches!(problems[..], [Problem { what: ProblemKind::CheckpointBeyondEnd { .. }, .. }]));
}

/// Changes the newest checkpoint of a right store and says what is found.
fn found_by_checkpoint(change: impl Fn(&mut PartitionCheckpoint)) -> Vec<Problem> {
    let mut disk = empty_disk();
    let mut log = WrittenLog::begin(&mut disk);
    log.append(&mut disk, batch(0, 10).transactional(1, 0, 0));
    log.append(&mut disk, batch(1, 3000));
    log.append(&mut disk, batch(2, 10).transactional(2, 0, 0));
    log.checkpoint(&mut disk);
    log.let_go(&mut disk);
    assert_eq!(verify(&mut disk).problems, []);
    log.state.generation += 1;
    change(&mut log.state);
    let mut bytes = Vec::new();
    log.state.encode(&mut bytes);
    disk.plant(&journal_directory().join("journal-1"), &bytes);
    verify(&mut disk).problems
}

fn open(transactions: &[(i64, i64)]) -> OpenTransactions {
    let mut open = OpenTransactions::new();
    for (producer_id, first_offset) in transactions {
        open.restore(*producer_id, at(*first_offset)).unwrap();
    }
    open
}

#[test]
fn open_transactions_of_the_checkpoint_that_the_batches_do_not_have_are_found() {
    for (recorded, producer_id) in
        [(&[(1, 0)][..], 2), (&[(1, 0), (2, 1)], 2), (&[(1, 0), (2, 2), (3, 1)], 3)]
    {
        let problems = found_by_checkpoint(|checkpoint| checkpoint.open_transactions = open(recorded));
        let [Problem { what: ProblemKind::OpenTransactionDisagrees { producer_id: named, .. }, .. }] =
            problems[..]
        else {
            panic!("{problems:?}")
        };
        assert_eq!(named, producer_id);
    }
}

#[test]
fn a_transaction_that_began_below_what_is_held_is_known_to_the_journal_alone() {
    let mut disk = empty_disk();
    let mut log = WrittenLog::begin(&mut disk);
    log.append(&mut disk, batch(0, 10).transactional(1, 0, 0));
    log.roll(&mut disk);
    log.append(&mut disk, batch(1, 10).transactional(1, 0, 1));
    log.append(&mut disk, batch(2, 3000));
    log.state.held_start = at(1);
    log.checkpoint(&mut disk);
    log.let_go(&mut disk);
    for path in SegmentFile::ALL.map(|file| path(file, 0)) {
        if disk.file(&path).is_none() {
            continue;
        }
        disk.run(&Step::Remove { path }).unwrap();
    }
    assert_eq!(verify(&mut disk).problems, []);
}

#[test]
fn source_epochs_outside_of_the_log_are_found() {
    for entries in [&[(4, 0), (5, 4)][..], &[(4, 1), (5, 2), (6, 30)]] {
        let problems = found_by_checkpoint(|checkpoint| {
            checkpoint.source_epochs = EpochHistory::new();
            for (epoch, start) in entries {
                checkpoint.source_epochs.record(LeaderEpoch(*epoch), at(*start)).unwrap();
            }
        });
        let [Problem { what: what @ ProblemKind::SourceEpochOutside { .. }, .. }] = problems[..] else {
            panic!("{problems:?}")
        };
        assert!(what.to_string().contains("outside of the log from 0 to 3"), "{what}");
    }
    let problems = found_by_checkpoint(|checkpoint| {
        (checkpoint.log_start, checkpoint.held_start) = (at(1), at(1));
    });
    assert!(problems.iter().any(|it| it.to_string().contains("epoch 4 begins at offset 0")), "{problems:?}");
}

#[test]
fn source_epochs_that_do_not_rise_are_no_checkpoint() {
    let mut disk = empty_disk();
    let mut log = store(&mut disk);
    log.state.source_epochs.record(LeaderEpoch(9), at(3)).unwrap();
    log.state.generation += 1;
    let mut bytes = Vec::new();
    log.state.encode(&mut bytes);
    let rising =
        [4i32.to_be_bytes().to_vec(), 0i64.to_be_bytes().to_vec(), 9i32.to_be_bytes().to_vec()].concat();
    let place = bytes.windows(rising.len()).position(|window| window == rising).unwrap();
    bytes[place..place + 4].copy_from_slice(&10i32.to_be_bytes());
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    crc.update(&bytes[4..10]);
    crc.update(&bytes[14..]);
    bytes[10..14].copy_from_slice(&(crc.finalize() as u32).to_be_bytes());
    disk.plant(&journal_directory().join("journal-1"), &bytes);
    let options = VerifyOptions {
        data_directory: PathBuf::from("/data"),
        link: None,
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let error = verify_store(&mut disk, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("journal-1") && error.contains("source epochs"), "{error}");
}

#[test]
fn a_link_that_is_not_there_is_named() {
    let mut disk = empty_disk();
    let options = VerifyOptions {
        data_directory: PathBuf::from("/data"),
        link: Some("other".to_string()),
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let error = verify_store(&mut disk, &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("/data/other is not there"), "{error}");
}

/// A source that answers as a broker does: from the batch that holds the offset, cut off at a size.
struct Answers {
    batches: Vec<Vec<u8>>,
    chunk_bytes: usize,
}

impl SourceBatches for Answers {
    type Error = std::convert::Infallible;

    fn next_chunk(&mut self, offset: Offset) -> Result<Vec<u8>, Self::Error> {
        let header =
            |batch: &[u8]| BatchHeader::parse(batch.first_chunk().unwrap(), BATCH_BYTES_MAX).unwrap();
        let from = self.batches.iter().filter(|batch| header(batch).last_offset() >= offset);
        let mut chunk: Vec<u8> = from.flatten().copied().collect();
        let first = if chunk.is_empty() { 0 } else { header(&chunk).total_bytes() as usize };
        chunk.truncate(self.chunk_bytes.max(first));
        Ok(chunk)
    }
}

fn compare(change: impl Fn(&mut Vec<Vec<u8>>), from: i64) -> Comparison {
    let mut disk = empty_disk();
    store(&mut disk);
    let mut batches = Vec::new();
    let mut bytes = &stored(&disk)[..];
    while let Ok(header) = BatchHeader::parse(bytes.first_chunk().unwrap(), BATCH_BYTES_MAX) {
        let (mut batch, rest) =
            (bytes[..header.total_bytes() as usize].to_vec(), &bytes[header.total_bytes() as usize..]);
        // The source's own leader epoch.
        batch[12..16].copy_from_slice(&9i32.to_be_bytes());
        batches.push(batch);
        bytes = rest;
    }
    change(&mut batches);
    let mut source = Answers { batches, chunk_bytes: 7000 };
    compare_partition(&mut disk, &directory(), at(from), at(16), BATCH_BYTES_MAX, &mut source).unwrap()
}

#[test]
fn equal_logs_are_equal_whatever_their_epochs_and_chunks() {
    let comparison = compare(|_| {}, 0);
    assert_eq!((comparison.difference, comparison.batches, comparison.to), (None, 14, 16));
    assert_eq!(compare(|_| {}, 9).batches, 7);
}

#[test]
fn the_first_difference_from_the_source_is_named() {
    let difference = |change: fn(&mut Vec<Vec<u8>>)| compare(change, 0).difference.unwrap();
    let changed = difference(|batches| batches[3][100] ^= 1);
    assert!(matches!(changed, Difference::Byte { base_offset: 3, at: 100, .. }), "{changed}");
    let missing = difference(|batches| drop(batches.remove(3)));
    assert_eq!(missing, Difference::OnlyOurs { base_offset: 3 });
    let cut = difference(|batches| batches.truncate(13));
    assert_eq!(cut, Difference::OnlyOurs { base_offset: 15 });
    let more = difference(|batches| batches.insert(6, batch(6, 10).build()));
    assert_eq!(more, Difference::OnlyTheirs { base_offset: 6 });
    let longer = difference(|batches| batches[2] = batch(2, 3001).build());
    assert!(matches!(longer, Difference::Length { base_offset: 2, .. }));
}
