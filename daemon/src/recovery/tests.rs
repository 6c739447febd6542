//! Every decision of the table carried out on files, and crashes at any seed.

use super::*;
use crate::memory_disk::MemoryDisk;
use crate::store::written_log::{
    WrittenLog, at, batch, directory, empty_disk, journaled, partition, request, restart, stored,
};
use proptest::prelude::*;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::index::{offset_entries, time_entries};
use twinlog_log_segment::testing::BatchBuilder;

fn path(file: SegmentFile, base: i64) -> PathBuf {
    directory().join(file.name(at(base)))
}

/// Five batches of 3 kB each: 0 to 4; the last three are behind the checkpoint.
fn five_batches(disk: &mut MemoryDisk) -> WrittenLog {
    let mut log = WrittenLog::begin(disk);
    for offset in 0..5 {
        log.append(disk, batch(offset, 3000));
        if offset == 1 {
            log.checkpoint(disk);
        }
    }
    log
}

#[test]
fn an_unseen_partition_starts_empty_with_the_small_files_of_a_broker() {
    let mut disk = empty_disk();
    let mut request = request(None);
    request.start_offset = at(42);
    let recovered = recover_partition(&mut disk, &request).unwrap();
    let checkpoint = &recovered.checkpoint;
    assert_eq!((checkpoint.log_start, checkpoint.log_end, checkpoint.segment_base), (at(42), at(42), at(42)));
    assert_eq!((recovered.file_bytes, recovered.holds_batches, recovered.alarms.len()), (0, false, 0));
    disk.crash(1);
    let metadata = disk.file(&directory().join(PARTITION_METADATA_FILE)).unwrap();
    assert_eq!(metadata, partition_metadata_text(request.topic_id).into_bytes());
    assert_eq!(disk.file(&directory().join(LEADER_EPOCH_FILE)).unwrap(), b"0\n1\n0 42\n");
}

#[test]
fn a_normal_restart_scans_on_and_cuts_what_was_only_reserved() {
    let mut disk = empty_disk();
    let log = five_batches(&mut disk);
    let recovered = restart(&mut disk);
    assert_eq!(recovered.checkpoint.log_end, at(5));
    assert_eq!(recovered.checkpoint.position, log.state.position);
    assert_eq!(recovered.checkpoint.index, log.state.index);
    assert_eq!((recovered.file_bytes, recovered.holds_batches), (log.state.position, true));
    assert_eq!(recovered.alarms, []);
    let index = disk.file(&path(SegmentFile::OffsetIndex, 0)).unwrap();
    assert_eq!(index.len() as u64, recovered.checkpoint.offset_index_bytes);
    let entries: Vec<_> = offset_entries(&index).map(|entry| entry.unwrap().relative_offset).collect();
    assert_eq!(entries, [2, 4]);
}

#[test]
fn a_restart_does_not_read_again_what_the_checkpoint_covers() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    let checkpoint = log.checkpoint(&mut disk);
    // A flipped bit below the checkpoint goes unseen; `verify` finds it.
    let mut bytes = disk.file(&path(SegmentFile::Log, 0)).unwrap();
    bytes[100] ^= 1;
    disk.plant(&path(SegmentFile::Log, 0), &bytes);
    assert_eq!(restart(&mut disk).checkpoint.log_end, checkpoint.log_end);
}

#[test]
fn a_roll_behind_the_checkpoint_is_followed_and_the_old_segment_is_closed() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.roll(&mut disk);
    log.append(&mut disk, batch(5, 3000));
    let recovered = restart(&mut disk);
    assert_eq!((recovered.checkpoint.segment_base, recovered.checkpoint.log_end), (at(5), at(6)));
    let times = disk.file(&path(SegmentFile::TimeIndex, 0)).unwrap();
    assert_eq!(time_entries(&times).last().unwrap().unwrap().timestamp_ms, 1004);
    assert!(recovered.holds_batches);
}

#[test]
fn a_segment_whose_predecessor_lost_its_end_is_deleted() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    let end_of_fourth = log.state.position / 5 * 4;
    log.roll(&mut disk);
    log.append(&mut disk, batch(5, 3000));
    // The last batch of the first segment never reached the disk, its successor did.
    let mut bytes = disk.file(&path(SegmentFile::Log, 0)).unwrap();
    bytes[end_of_fourth as usize..].fill(0);
    disk.plant(&path(SegmentFile::Log, 0), &bytes);
    let recovered = restart(&mut disk);
    assert_eq!(recovered.checkpoint.log_end, at(4));
    assert_eq!(disk.file(&path(SegmentFile::Log, 5)), None);
    let alarm = &recovered.alarms[0];
    assert!(matches!(alarm, RecoveryAlarm::UnprovenSegmentsDeleted { segments: 1, .. }), "{alarm}");
    assert_eq!(disk.file(&path(SegmentFile::Log, 0)).unwrap().len() as u64, end_of_fourth);
}

#[test]
fn a_hole_in_an_index_is_noticed_and_the_index_made_anew() {
    for (file, hole) in
        [(SegmentFile::OffsetIndex, 0..8), (SegmentFile::TimeIndex, 0..24), (SegmentFile::OffsetIndex, 8..16)]
    {
        let mut disk = empty_disk();
        let mut log = five_batches(&mut disk);
        log.checkpoint(&mut disk);
        let whole = disk.file(&path(file, 0)).unwrap();
        let mut holed = whole.clone();
        holed[hole].fill(0);
        disk.plant(&path(file, 0), &holed);
        let recovered = restart(&mut disk);
        assert!(matches!(recovered.alarms[..], [RecoveryAlarm::IndexesRebuilt { .. }]), "{file:?}");
        assert_eq!(disk.file(&path(file, 0)).unwrap(), whole);
        assert_eq!(recovered.checkpoint.log_end, at(5));
        assert_eq!(recovered.checkpoint.source_epochs.latest().unwrap().epoch, LeaderEpoch(4));
        assert_eq!(restart(&mut disk).alarms, []);
    }
}

#[test]
fn an_index_that_is_too_short_is_made_anew() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.checkpoint(&mut disk);
    disk.plant(&path(SegmentFile::OffsetIndex, 0), &[]);
    let recovered = restart(&mut disk);
    assert!(matches!(recovered.alarms[..], [RecoveryAlarm::IndexesRebuilt { segments: 1, .. }]));
    assert_eq!(disk.file(&path(SegmentFile::OffsetIndex, 0)).unwrap().len(), 16);
}

#[test]
fn flushed_bytes_that_are_gone_lower_the_end_durably() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.checkpoint(&mut disk);
    let bytes = disk.file(&path(SegmentFile::Log, 0)).unwrap();
    disk.plant(&path(SegmentFile::Log, 0), &bytes[..bytes.len() / 5 * 3]);
    let recovered = restart(&mut disk);
    assert!(matches!(recovered.alarms[..], [RecoveryAlarm::FlushedBytesLost { .. }]));
    let end = recovered.checkpoint.log_end;
    assert!(end < at(5));
    // Reserved again, never written: the old checkpoint must not be believed any more.
    disk.run(&twinlog_io::Step::Allocate { path: path(SegmentFile::Log, 0), length: 1 << 20 }).unwrap();
    disk.crash(3);
    let again = restart(&mut disk);
    assert_eq!((again.checkpoint.log_end, again.alarms.len()), (end, 0));
    assert!(again.checkpoint.generation > log.state.generation);
}

#[test]
fn a_flushed_file_that_is_gone_is_refused() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    let checkpoint = log.checkpoint(&mut disk);
    disk.run(&twinlog_io::Step::Remove { path: path(SegmentFile::Log, 0) }).unwrap();
    let before = disk.files();
    let error = recover_partition(&mut disk, &request(Some(checkpoint))).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("mount or restore"), "{error}");
    assert_eq!(disk.files(), before, "nothing is touched");
}

#[test]
fn without_a_checkpoint_everything_is_scanned() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.roll(&mut disk);
    log.append(&mut disk, batch(5, 100));
    let recovered = recover_partition(&mut disk, &request(None)).unwrap();
    assert_eq!((recovered.checkpoint.log_end, recovered.checkpoint.log_start), (at(6), at(0)));
    assert!(matches!(recovered.alarms[..], [RecoveryAlarm::ScannedWithoutCheckpoint { .. }]));
    assert!(recovered.checkpoint.source_epochs.is_empty());
    assert_eq!(disk.file(&path(SegmentFile::OffsetIndex, 0)).unwrap().len(), 16);
}

#[test]
fn a_file_that_was_opened_and_never_written_does_not_fix_the_start() {
    let mut disk = empty_disk();
    disk.plant(&path(SegmentFile::Log, 7), &[0; 4096]);
    let mut request = request(None);
    request.start_offset = at(9);
    let recovered = recover_partition(&mut disk, &request).unwrap();
    assert_eq!((recovered.checkpoint.segment_base, recovered.checkpoint.log_end), (at(9), at(9)));
    assert_eq!(disk.file(&path(SegmentFile::Log, 7)), None);
}

#[test]
fn a_removal_is_finished_before_the_topic_begins_again() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.state.removed = true;
    let removed = log.checkpoint(&mut disk);
    let mut request = request(Some(removed.clone()));
    request.topic_id = TopicId([9; 16]);
    let recovered = recover_partition(&mut disk, &request).unwrap();
    assert_eq!(recovered.alarms, [RecoveryAlarm::RemovalFinished { partition: partition() }]);
    assert_eq!((recovered.checkpoint.log_end, recovered.checkpoint.removed), (at(0), false));
    assert!(stored(&disk).is_empty());
    disk.crash(1);
    let journaled = journaled(&mut disk).unwrap();
    assert!(!journaled.removed && journaled.generation > removed.generation);
    assert_eq!(journaled.topic_id, TopicId([9; 16]));
}

#[test]
fn a_topic_with_another_id_is_not_appended() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    let checkpoint = log.checkpoint(&mut disk);
    for known in [Some(checkpoint), None] {
        let mut request = request(known);
        request.topic_id = TopicId([9; 16]);
        let error = recover_partition(&mut disk, &request).unwrap_err();
        let expected = StoreError::TopicRecreated { mirrored: TopicId([7; 16]), found: TopicId([9; 16]) };
        assert_eq!(error, expected);
        request.topic_id = TopicId::ZERO;
        assert!(recover_partition(&mut disk, &request).is_ok(), "a source without ids proves nothing");
    }
}

#[test]
fn a_log_start_that_was_recorded_later_is_taken_over_and_the_trim_completed() {
    let mut disk = empty_disk();
    let mut log = five_batches(&mut disk);
    log.roll(&mut disk);
    log.append(&mut disk, batch(5, 100));
    log.checkpoint(&mut disk);
    let starts = "0\n2\nother 1 9\norders 3 5\n";
    disk.plant(&directory().parent().unwrap().join(LOG_START_FILE), starts.as_bytes());
    let recovered = restart(&mut disk);
    assert_eq!((recovered.checkpoint.log_start, recovered.checkpoint.log_end), (at(5), at(6)));
    assert_eq!(disk.file(&path(SegmentFile::Log, 0)), None);
    assert_eq!(disk.file(&path(SegmentFile::OffsetIndex, 0)), None);
    assert_eq!(disk.file(&directory().join(LEADER_EPOCH_FILE)).unwrap(), b"0\n1\n0 5\n");
}

#[test]
fn a_bad_log_start_file_is_named_with_its_line() {
    let mut disk = empty_disk();
    disk.plant(&directory().parent().unwrap().join(LOG_START_FILE), b"0\n1\norders 3 x\n");
    let error = recover_partition(&mut disk, &request(None)).unwrap_err();
    assert!(matches!(&error, StoreError::TextFile { error, .. } if error.line == 3), "{error}");
}

#[test]
fn transactions_that_span_the_checkpoint_are_known_after_it() {
    let mut disk = empty_disk();
    let mut log = WrittenLog::begin(&mut disk);
    log.append(&mut disk, batch(0, 100).transactional(1, 0, 0));
    log.append(&mut disk, batch(1, 100).transactional(2, 0, 0));
    log.checkpoint(&mut disk);
    log.append(&mut disk, BatchBuilder::at(2).marker(1, 0, ControlKind::Abort));
    let recovered = restart(&mut disk);
    assert_eq!(recovered.checkpoint.open_transactions.iter().collect::<Vec<_>>(), [(2, at(1))]);
    assert_eq!(recovered.checkpoint.transaction_index_bytes, 34);
    assert_eq!(disk.file(&path(SegmentFile::TransactionIndex, 0)).unwrap().len(), 34);
}

/// Three segments of three batches each, 0 to 8; all of it is in the checkpoint, which holds from 3 on.
fn spool(disk: &mut MemoryDisk) -> WrittenLog {
    let mut log = WrittenLog::begin(disk);
    for offset in 0..9 {
        log.append(disk, batch(offset, 3000));
        if offset % 3 == 2 && offset < 8 {
            log.roll(disk);
        }
    }
    log.state.held_start = at(3);
    log.checkpoint(disk);
    log
}

fn starts(recovered: &RecoveredPartition) -> (i64, i64, i64) {
    let PartitionCheckpoint { log_start, held_start, log_end, .. } = recovered.checkpoint;
    (log_start.value(), held_start.value(), log_end.value())
}

#[test]
fn what_a_spool_gave_up_goes_and_the_start_and_epochs_of_the_topic_stay() {
    let mut disk = empty_disk();
    let log = spool(&mut disk);
    // The journal speaks of it, the files are still there; then some of them; then none.
    for removed in [&[][..], &SegmentFile::ALL[2..], &SegmentFile::ALL] {
        let mut disk = disk.clone();
        for file in removed {
            disk.run(&twinlog_io::Step::Remove { path: path(*file, 0) }).unwrap();
        }
        let recovered = restart(&mut disk);
        assert_eq!((starts(&recovered), &recovered.alarms[..]), ((0, 3, 9), &[][..]));
        assert!(recovered.holds_batches);
        assert_eq!(recovered.checkpoint.source_epochs, log.state.source_epochs);
        assert_eq!(recovered.checkpoint.stamp_epochs, log.state.stamp_epochs);
        assert_eq!(disk.file(&path(SegmentFile::Log, 0)), None);
        let again = recover_partition(&mut disk, &request(Some(recovered.checkpoint.clone()))).unwrap();
        assert_eq!(again.checkpoint, recovered.checkpoint);
    }
}

#[test]
fn a_spool_that_is_scanned_anew_still_knows_what_it_gave_up() {
    let mut disk = empty_disk();
    let mut log = spool(&mut disk);
    log.state.stamp_epochs.truncate_to(at(0));
    log.state.stamp_epochs.record(LeaderEpoch(0), at(0)).unwrap();
    log.state.open_transactions.restore(5, at(1)).unwrap();
    log.checkpoint(&mut disk);
    disk.plant(&path(SegmentFile::OffsetIndex, 6), &[]);
    let recovered = restart(&mut disk);
    assert!(matches!(recovered.alarms[..], [RecoveryAlarm::IndexesRebuilt { .. }]), "{:?}", recovered.alarms);
    assert_eq!(starts(&recovered), (0, 3, 9));
    assert_eq!(recovered.checkpoint.stamp_epochs.entries(), log.state.stamp_epochs.entries());
    assert_eq!(recovered.checkpoint.open_transactions.iter().collect::<Vec<_>>(), [(5, at(1))]);
}

#[test]
fn a_spool_of_which_nothing_is_left_goes_on_at_its_end() {
    let mut disk = empty_disk();
    let mut log = spool(&mut disk);
    log.roll(&mut disk);
    log.state.held_start = at(9);
    log.checkpoint(&mut disk);
    let recovered = restart(&mut disk);
    assert_eq!((starts(&recovered), &recovered.alarms[..]), ((0, 9, 9), &[][..]));
    assert!(recovered.holds_batches, "no batch may begin below its end");
    assert!(stored(&disk).is_empty());
    let mut log = WrittenLog::resume(&recovered);
    log.append(&mut disk, batch(9, 3000));
    assert_eq!(starts(&restart(&mut disk)), (0, 9, 10));
}

#[test]
fn the_source_may_trim_beyond_what_a_spool_holds() {
    for (trimmed, expected) in [(2, (2, 3, 9)), (4, (4, 4, 9)), (6, (6, 6, 9))] {
        let mut disk = empty_disk();
        spool(&mut disk);
        let text = format!("0\n1\norders 3 {trimmed}\n");
        disk.plant(&directory().parent().unwrap().join(LOG_START_FILE), text.as_bytes());
        let recovered = restart(&mut disk);
        assert_eq!((starts(&recovered), &recovered.alarms[..]), (expected, &[][..]));
    }
}

#[test]
fn segments_that_a_hand_deleted_never_raise_the_start_that_followers_are_told() {
    let missing = |followed: bool, spool_first: bool| {
        let mut disk = empty_disk();
        let mut log = spool(&mut disk);
        if !spool_first {
            log.state.held_start = at(0);
            log.checkpoint(&mut disk);
        }
        for base in [0, 3] {
            for file in SegmentFile::ALL {
                disk.run(&twinlog_io::Step::Remove { path: path(file, base) }).unwrap();
            }
        }
        let checkpoint = journaled(&mut disk);
        let request = RecoverRequest { followed, ..request(checkpoint) };
        let recovered = recover_partition(&mut disk, &request).unwrap();
        assert!(matches!(recovered.alarms[..], [RecoveryAlarm::LogStartMissing { .. }]));
        starts(&recovered)
    };
    assert_eq!(missing(true, false), (0, 6, 9));
    assert_eq!(missing(false, true), (0, 6, 9));
    assert_eq!(missing(false, false), (6, 6, 9), "a store begins where its files do");
}

#[test]
fn a_spool_without_its_checkpoint_begins_where_the_source_does() {
    let mut disk = empty_disk();
    spool(&mut disk);
    restart(&mut disk);
    let request = RecoverRequest { followed: true, ..request(None) };
    assert_eq!(starts(&recover_partition(&mut disk, &request).unwrap()), (0, 3, 9));
}

/// One thing that a shard does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Append { value_bytes: usize },
    Roll,
    Checkpoint,
    Crash { seed: u64 },
}

fn any_acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0usize..3000).prop_map(|value_bytes| Act::Append { value_bytes }),
        1 => Just(Act::Roll),
        2 => Just(Act::Checkpoint),
        1 => any::<u64>().prop_map(|seed| Act::Crash { seed }),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_crash_leaves_is_a_prefix_that_holds_the_checkpoint(acts in any_acts(), last_seed: u64) {
        let mut disk = empty_disk();
        let mut log = WrittenLog::begin(&mut disk);
        let mut written: Vec<u8> = Vec::new();
        let mut ends = std::collections::BTreeMap::from([(0, 0)]);
        let mut flushed = at(0);
        for act in acts.into_iter().chain([Act::Crash { seed: last_seed }]) {
            match act {
                Act::Append { value_bytes } => {
                    let offset = log.state.log_end.value();
                    let one = batch(offset, value_bytes);
                    written.extend(one.build());
                    ends.insert(offset + 1, written.len());
                    log.append(&mut disk, one);
                }
                Act::Roll if log.state.position > 0 => log.roll(&mut disk),
                Act::Roll => {}
                Act::Checkpoint => flushed = log.checkpoint(&mut disk).log_end,
                Act::Crash { seed } => {
                    disk.crash(seed);
                    let recovered = restart(&mut disk);
                    let end = recovered.checkpoint.log_end;
                    prop_assert!(end >= flushed, "{end} is below the checkpoint's {flushed}");
                    written.truncate(ends[&end.value()]);
                    ends.retain(|other, _| *other <= end.value());
                    prop_assert_eq!(&stored(&disk), &written);
                    prop_assert_eq!(recovered.holds_batches, !written.is_empty());
                    let full = recover_partition(&mut disk.clone(), &request(None)).unwrap().checkpoint;
                    if recovered.checkpoint.position > 0 {
                        prop_assert_eq!(full.offset_index_bytes, recovered.checkpoint.offset_index_bytes);
                        prop_assert_eq!(full.index, recovered.checkpoint.index);
                    }
                    log = WrittenLog::resume(&recovered);
                    if log.state.source_epochs.is_empty() {
                        log.state.source_epochs.record(LeaderEpoch(4), end).unwrap();
                    }
                }
            }
        }
    }
}
