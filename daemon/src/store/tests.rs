//! Cuts, restarts and trims, with a crash between any two steps of each.

use super::written_log::{
    BATCH_BYTES_MAX, WrittenLog, at, batch, directory, empty_disk, journal_directory, partition, request,
    restart, stored,
};
use super::*;
use crate::memory_disk::MemoryDisk;
use crate::recovery::recover_partition;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_log_segment::testing::BatchBuilder;

/// Seeds per crash point: each takes other sectors and names away.
const SEEDS: u64 = 6;

/// Twelve batches of one size in segments of four, all of it flushed and checkpointed.
fn twelve_batches(disk: &mut MemoryDisk) -> WrittenLog {
    let mut log = WrittenLog::begin(disk);
    for offset in 0..12 {
        if offset > 0 && offset % 4 == 0 {
            log.roll(disk);
        }
        if offset == 6 {
            log.state.source_epochs.record(LeaderEpoch(5), at(6)).unwrap();
        }
        log.append(disk, batch(offset, 2500));
    }
    log.checkpoint(disk);
    log.let_go(disk);
    disk.settle();
    log
}

fn cut_request(log: &WrittenLog, to: i64) -> CutRequest {
    CutRequest {
        directory: directory(),
        journal_directory: journal_directory(),
        cuts_directory: PathBuf::from("/data/.twinlog/cuts/link"),
        checkpoint: log.state.clone(),
        to: at(to),
        batch_bytes_max: BATCH_BYTES_MAX,
    }
}

fn restart_request(log: &WrittenLog, at_offset: i64) -> RestartRequest {
    let CutRequest { directory, journal_directory, cuts_directory, checkpoint, .. } = cut_request(log, 0);
    RestartRequest { directory, journal_directory, cuts_directory, checkpoint, at: at(at_offset) }
}

/// All bytes below the cuts directory's logs.
fn exported(disk: &MemoryDisk) -> Vec<u8> {
    let logs = disk.files().into_iter().filter(|path| path.starts_with("/data/.twinlog/cuts"));
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.flat_map(|path| disk.file(&path).unwrap()).collect()
}

#[test]
fn a_truncation_keeps_the_prefix_and_exports_the_rest() {
    for to in 0..12 {
        let mut disk = empty_disk();
        let log = twelve_batches(&mut disk);
        let (before, batch_bytes) = (stored(&disk), stored(&disk).len() as i64 / 12);
        let mut reserved = disk.clone();
        let path = directory().join(SegmentFile::Log.name(at(8)));
        reserved.run(&twinlog_io::Step::Allocate { path, length: 1 << 20 }).unwrap();
        let size = cut_size(&mut reserved, &directory(), at(to), BATCH_BYTES_MAX).unwrap();
        assert_eq!(size.cut_bytes as i64, (12 - to) * batch_bytes);
        assert_eq!(size.partition_bytes, 12 * batch_bytes as u64, "what is only reserved does not count");
        let cut = truncate_partition(&mut disk, &cut_request(&log, to)).unwrap();
        let (kept, dropped) = before.split_at((to * batch_bytes) as usize);
        assert_eq!(cut.log_end, at(to));
        assert_eq!(stored(&disk), kept);
        assert_eq!(exported(&disk), dropped);
        assert_eq!(cut.stamp_epoch(), LeaderEpoch(1), "what replaces the cut has another epoch");
        assert!(cut.source_epochs.latest().is_none_or(|latest| latest.start < at(to)));
        disk.crash(to as u64);
        let recovered = restart(&mut disk);
        assert_eq!((recovered.checkpoint.log_end, recovered.alarms.len()), (at(to), 0));
        assert_eq!(recovered.checkpoint.index, cut.index);
        let full = recover_partition(&mut disk.clone(), &request(None)).unwrap().checkpoint;
        assert!(to == 0 || full.offset_index_bytes == cut.offset_index_bytes || cut.position == 0);
    }
}

#[test]
fn a_spool_is_cut_below_what_it_holds_too() {
    for (to, held) in [(2, 2), (3, 3), (4, 4), (6, 4), (11, 4)] {
        let mut disk = empty_disk();
        let mut log = twelve_batches(&mut disk);
        log.state.held_start = at(4);
        log.checkpoint(&mut disk);
        let recovered = restart(&mut disk);
        assert_eq!(recovered.checkpoint.held_start, at(4));
        log.state = recovered.checkpoint;
        let (before, batch_bytes) = (stored(&disk), stored(&disk).len() as i64 / 8);
        let cut = truncate_partition(&mut disk, &cut_request(&log, to)).unwrap();
        let (kept, dropped) = before.split_at(((to - 4).max(0) * batch_bytes) as usize);
        assert_eq!((stored(&disk).as_slice(), exported(&disk).as_slice()), (kept, dropped));
        disk.crash(to as u64);
        let recovered = restart(&mut disk);
        let found = &recovered.checkpoint;
        assert_eq!((found.log_start, found.held_start, found.log_end), (at(0), at(held), at(to)), "{to}");
        assert!(recovered.alarms.is_empty() && recovered.holds_batches == (to > 0));
        // Followers keep what is below the cut, and see another epoch above it.
        assert_eq!(found.stamp_epochs.epoch_of(at(to - 1)), Some(LeaderEpoch(0)));
        assert_eq!((found.stamp_epoch(), cut.stamp_epoch()), (LeaderEpoch(1), LeaderEpoch(1)));
        assert_eq!(found.source_epochs.epoch_of(at(to - 1)), Some(LeaderEpoch(if to > 6 { 5 } else { 4 })));
    }
}

#[test]
fn the_manifest_and_the_history_name_the_cut() {
    let mut disk = empty_disk();
    let log = twelve_batches(&mut disk);
    truncate_partition(&mut disk, &cut_request(&log, 7)).unwrap();
    let generation = log.state.generation;
    let place = PathBuf::from(format!("/data/.twinlog/cuts/link/orders-3/7-12-g{generation}"));
    let manifest = String::from_utf8(disk.file(&place.join("manifest")).unwrap()).unwrap();
    for line in [
        "partition: orders-3",
        "topic_id: BwcHBwcHBwcHBwcHBwcHBw",
        "from: 7",
        "to: 12",
        "source_epochs: 4@0 5@6",
        "stamp_epochs: 0@0",
        "file: 00000000000000000007.log",
    ] {
        assert!(manifest.contains(line), "{line} is not in {manifest}");
    }
    let history = String::from_utf8(disk.file(&journal_directory().join("history")).unwrap()).unwrap();
    assert!(history.ends_with(&format!("orders-3 truncated 7 12 g{generation}\n")), "{history}");
}

#[test]
fn a_cut_inside_a_batch_takes_the_whole_batch() {
    let mut disk = empty_disk();
    let mut log = WrittenLog::begin(&mut disk);
    log.append(&mut disk, BatchBuilder::at(0).records(10, 20));
    log.append(&mut disk, BatchBuilder::at(10).records(10, 20));
    log.checkpoint(&mut disk);
    let cut = truncate_partition(&mut disk, &cut_request(&log, 15)).unwrap();
    assert_eq!(cut.log_end, at(10));
}

#[test]
fn a_cut_outside_the_log_is_refused() {
    let mut disk = empty_disk();
    let log = twelve_batches(&mut disk);
    let error = truncate_partition(&mut disk, &cut_request(&log, 13)).unwrap_err();
    assert!(error.to_string().contains("it holds offsets 0 to 12"), "{error}");
    let same = truncate_partition(&mut disk, &cut_request(&log, 12)).unwrap();
    assert_eq!(same, log.state);
}

#[test]
fn a_log_that_is_damaged_below_the_cut_is_not_cut() {
    let mut disk = empty_disk();
    let log = twelve_batches(&mut disk);
    let path = directory().join(SegmentFile::Log.name(at(4)));
    let mut bytes = disk.file(&path).unwrap();
    bytes[100] ^= 1;
    disk.plant(&path, &bytes);
    let before = stored(&disk);
    let error = truncate_partition(&mut disk, &cut_request(&log, 7)).unwrap_err();
    assert!(matches!(error, StoreError::DamagedBelowCut { .. }), "{error}");
    assert_eq!(stored(&disk), before);
}

#[test]
fn a_transaction_that_the_cut_part_had_ended_is_open_again() {
    let mut disk = empty_disk();
    let mut log = WrittenLog::begin(&mut disk);
    log.append(&mut disk, batch(0, 100).transactional(1, 0, 0));
    log.append(&mut disk, batch(1, 100).transactional(2, 0, 0));
    log.append(&mut disk, BatchBuilder::at(2).marker(2, 0, ControlKind::Abort));
    log.roll(&mut disk);
    log.append(&mut disk, batch(3, 100));
    log.append(&mut disk, BatchBuilder::at(4).marker(1, 0, ControlKind::Abort));
    log.append(&mut disk, batch(5, 100).transactional(3, 0, 0));
    log.checkpoint(&mut disk);
    let open = |checkpoint: &PartitionCheckpoint| checkpoint.open_transactions.iter().collect::<Vec<_>>();
    assert_eq!(open(&log.state), [(3, at(5))]);
    let cut = truncate_partition(&mut disk.clone(), &cut_request(&log, 4)).unwrap();
    assert_eq!((open(&cut), cut.transaction_index_bytes), (vec![(1, at(0))], 0));
    let cut = truncate_partition(&mut disk.clone(), &cut_request(&log, 5)).unwrap();
    assert_eq!((open(&cut), cut.transaction_index_bytes), (vec![], 34));
    let cut = truncate_partition(&mut disk.clone(), &cut_request(&log, 2)).unwrap();
    assert_eq!((open(&cut), cut.transaction_index_bytes), (vec![(1, at(0)), (2, at(1))], 0));
}

/// Runs `work` with a crash after each number of steps until it survives.
fn crash_everywhere(
    prepare: impl Fn(&mut MemoryDisk) -> WrittenLog,
    work: impl Fn(&mut MemoryDisk, &WrittenLog) -> bool,
    judge: impl Fn(MemoryDisk, &WrittenLog, usize, u64),
) {
    let mut prepared = empty_disk();
    let log = prepare(&mut prepared);
    for steps in 0.. {
        let mut survived = false;
        for seed in 0..SEEDS {
            let mut disk = prepared.clone();
            disk.die_after(steps);
            survived = work(&mut disk, &log);
            disk.crash(seed.wrapping_mul(0x1234_5678_9abc) + steps as u64);
            judge(disk, &log, steps, seed);
        }
        if survived {
            return;
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_truncation_leaves_the_old_log_or_the_cut_one() {
    for to in [0, 3, 4, 7, 11] {
        let mut whole = empty_disk();
        twelve_batches(&mut whole);
        let whole = stored(&whole);
        let kept = whole.len() / 12 * to as usize;
        crash_everywhere(
            twelve_batches,
            |disk, log| truncate_partition(disk, &cut_request(log, to)).is_ok(),
            |mut disk, _, steps, seed| {
                let recovered = restart(&mut disk);
                let end = recovered.checkpoint.log_end;
                let expected = if end == at(12) { &whole[..] } else { &whole[..kept] };
                assert!(end == at(12) || end == at(to), "{end} after {steps} steps, seed {seed}");
                assert!(stored(&disk) == expected, "other bytes after {steps} steps, seed {seed}");
                if end == at(to) {
                    assert_eq!(exported(&disk), &whole[kept..], "the export was complete before the cut");
                }
                // Once more, whatever state it was left in.
                let again = WrittenLog::resume(&recovered);
                let cut = truncate_partition(&mut disk, &cut_request(&again, to)).unwrap();
                assert_eq!((cut.log_end, stored(&disk).len()), (at(to), kept));
            },
        );
    }
}

#[test]
fn an_old_batch_that_lies_aligned_behind_a_shorter_regrowth_never_comes_back() {
    let regrow = |disk: &mut MemoryDisk, log: &WrittenLog| {
        let Ok(cut) = truncate_partition(disk, &cut_request(log, 8)) else { return false };
        let Ok(recovered) = recover_partition(disk, &request(Some(cut))) else { return false };
        // One batch of the same size takes the place of four; what follows was never written again.
        let mut log = WrittenLog::resume(&recovered);
        disk.die_after(usize::MAX);
        log.append(disk, batch(8, 2500).timestamps(7, 7));
        true
    };
    let new_batch = batch(8, 2500).timestamps(7, 7).leader_epoch(1).build();
    crash_everywhere(twelve_batches, regrow, |mut disk, log, steps, seed| {
        let recovered = restart(&mut disk);
        let bytes = stored(&disk);
        let batch_bytes = new_batch.len();
        let end = recovered.checkpoint.log_end.value();
        assert_eq!(bytes.len(), end as usize * batch_bytes, "after {steps} steps, seed {seed}");
        if recovered.checkpoint.generation > log.state.generation + 1 {
            assert!(end == 8 || end == 9, "{end}: an old batch is back after {steps} steps, seed {seed}");
        }
        if end == 9 {
            assert!(bytes[8 * batch_bytes..] == new_batch[..], "after {steps} steps, seed {seed}");
        }
    });
}

#[test]
fn a_crash_at_any_step_of_a_restart_leaves_the_old_log_or_an_empty_one() {
    // In a gap beyond the end, at a segment's base, and inside a segment.
    for offset in [20, 8, 6] {
        let mut whole = empty_disk();
        twelve_batches(&mut whole);
        let whole = stored(&whole);
        crash_everywhere(
            twelve_batches,
            |disk, log| restart_partition(disk, &restart_request(log, offset)).is_ok(),
            |mut disk, _, steps, seed| {
                let recovered = restart(&mut disk);
                let checkpoint = &recovered.checkpoint;
                if checkpoint.log_start == at(0) {
                    assert!(stored(&disk) == whole, "after {steps} steps, seed {seed}");
                    return;
                }
                let ends = (checkpoint.log_start, checkpoint.log_end, checkpoint.segment_base);
                assert_eq!(ends, (at(offset), at(offset), at(offset)), "after {steps} steps, seed {seed}");
                assert!(stored(&disk).is_empty() && !recovered.holds_batches);
                assert_eq!(exported(&disk), whole);
                assert_eq!(checkpoint.stamp_epoch(), LeaderEpoch(1));
                let history = disk.file(&journal_directory().join("history")).unwrap();
                let line = format!("orders-3 restarted 12 {offset} ");
                assert!(String::from_utf8(history).unwrap().contains(&line));
            },
        );
    }
}

#[test]
fn a_crash_at_any_step_of_a_trim_leaves_a_log_from_its_start_to_its_end() {
    let trim = |disk: &mut MemoryDisk, log: &WrittenLog| {
        let starts = [(partition(), at(9))];
        write_log_starts(disk, std::path::Path::new("/data/link"), &starts).is_ok()
            && trim_partition(disk, &directory(), at(9), log.state.log_end).is_ok()
    };
    crash_everywhere(twelve_batches, trim, |mut disk, _, steps, seed| {
        let before = stored(&disk).len();
        let recovered = restart(&mut disk);
        let checkpoint = &recovered.checkpoint;
        assert_eq!((checkpoint.log_end, recovered.alarms.len()), (at(12), 0), "{steps} steps, seed {seed}");
        assert!([at(0), at(9)].contains(&checkpoint.log_start));
        assert!(stored(&disk).len() <= before);
        if checkpoint.log_start == at(9) {
            let logs: Vec<_> =
                disk.files().into_iter().filter(|path| path.starts_with(directory())).collect();
            let first = logs.iter().find_map(|path| SegmentFile::parse(path.file_name()?.to_str()?)).unwrap();
            assert_eq!(first.0, at(8));
        }
    });
}

#[test]
fn a_trim_spares_the_segment_of_the_checkpoint_and_the_last_one() {
    let mut disk = empty_disk();
    twelve_batches(&mut disk);
    let report = trim_partition(&mut disk, &directory(), at(12), at(8)).unwrap();
    assert_eq!(report.deleted, [SegmentFile::Log.name(at(0))]);
    assert!(report.deleted_bytes > 10_000);
    let report = trim_partition(&mut disk, &directory(), at(12), at(12)).unwrap();
    assert_eq!(report.deleted, [SegmentFile::Log.name(at(4))]);
    assert_eq!(trim_partition(&mut disk, &directory(), at(12), at(12)).unwrap(), TrimReport::default());
}
