//! The recovery table: what a start does with each partition's files, for every state they can be in.
//!
//! Owns one total function of four small inputs. The order of writing (data, then indexes, then checkpoint,
//! each flushed before the next) makes most states impossible after a mere crash; they still have a row,
//! because disks, mounts and hands break orders.
//!
//! ```text
//! checkpoint   active file   indexes   later segments   decision
//! none         absent        any       none             StartEmpty            a partition never seen
//! none         else                                     ScanAll               crashed before its first checkpoint
//! removed      absent        any       none             StartEmpty
//! removed      else                                     FinishRemoval         nothing behind it was ever counted
//! live         covers        cover     any              ScanFromCheckpoint    the normal restart; a roll may lie
//!                                                                             between checkpoint and crash
//! live         covers        shorter   any              RebuildIndexes        the data is there, its index is not
//! live         shorter       any       any              RefetchLost           flushed bytes are gone
//! live         absent        any       any              Refuse                a whole flushed file is gone
//! truncating   covers        any       any              ResumeTruncation      then decide again
//! truncating   shorter       any       any              RefetchLost
//! truncating   absent        any       any              Refuse
//! ```
//!
//! Why two answers to loss: a file that is *shorter* than what was flushed is a broken disk or file system;
//! what is left of it can be proven by a scan, the source still is the truth, and the mirror comes back by
//! itself with an alarm (if the source no longer holds the bytes, the gap policy stops it). A file that is
//! *absent* is a missing mount, a wrong directory or a hand; to fetch everything again into the wrong place
//! would hide that, so a person decides.
//!
//! Invariants: never `StartEmpty` while any segment exists; bytes beyond a truncation's cut are never
//! scanned; a decision that lowers the log's end below the checkpoint's is an alarm.
//! Must never look at bytes: that is the scan's.

use core::fmt;

use crate::checkpoint::PartitionCheckpoint;

/// The newest readable checkpoint record of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFound {
    None,
    /// It says that the partition was removed.
    Removed,
    Live,
    /// It is the intent of a cut that may not have reached the files.
    Truncating,
}

/// The segment file that the checkpoint names. Without a checkpoint: any segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActiveFile {
    Absent,
    Shorter,
    /// Holds at least the checkpoint's position; an absent file covers a position of 0.
    Covers,
}

/// The active segment's three index files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFiles {
    /// One of them is shorter than the checkpoint says.
    Shorter,
    Cover,
}

/// Segments that begin above the checkpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaterSegments {
    None,
    Some,
}

/// What a start found of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub checkpoint: CheckpointFound,
    pub active: ActiveFile,
    pub indexes: IndexFiles,
    pub later: LaterSegments,
}

/// Sizes of the checkpoint's active segment as they are on disk, `None` for a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSizes {
    pub log_bytes: Option<u64>,
    pub offset_index_bytes: Option<u64>,
    pub time_index_bytes: Option<u64>,
    pub transaction_index_bytes: Option<u64>,
}

impl Found {
    /// Classifies what is on disk. Without a checkpoint, `sizes` are those of any segment, and `later` is
    /// whether there are more.
    pub fn classify(checkpoint: Option<&PartitionCheckpoint>, sizes: FileSizes, later: bool) -> Found {
        let position = checkpoint.map_or(0, |checkpoint| checkpoint.position);
        let covers = |size: Option<u64>, covered: fn(&PartitionCheckpoint) -> u64| {
            size.unwrap_or(0) >= checkpoint.map_or(0, covered)
        };
        let indexes_cover = covers(sizes.offset_index_bytes, |it| it.offset_index_bytes)
            && covers(sizes.time_index_bytes, |it| it.time_index_bytes)
            && covers(sizes.transaction_index_bytes, |it| it.transaction_index_bytes);
        Found {
            checkpoint: match checkpoint {
                None => CheckpointFound::None,
                Some(checkpoint) if checkpoint.removed => CheckpointFound::Removed,
                Some(checkpoint) if checkpoint.truncating => CheckpointFound::Truncating,
                Some(_) => CheckpointFound::Live,
            },
            active: match sizes.log_bytes {
                Some(bytes) if bytes < position => ActiveFile::Shorter,
                Some(_) => ActiveFile::Covers,
                // A live partition with nothing in its segment needs no file yet; nothing can be lost of it.
                None if position == 0 && checkpoint.is_some_and(|it| !it.removed) => ActiveFile::Covers,
                None => ActiveFile::Absent,
            },
            indexes: if indexes_cover { IndexFiles::Cover } else { IndexFiles::Shorter },
            later: if later { LaterSegments::Some } else { LaterSegments::None },
        }
    }
}

/// What to do. The words in brackets are the shard's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// [begin at the source's log start]
    StartEmpty,
    /// [cut the indexes to their covered sizes; scan the active segment from the position, then later
    /// segments in order while each follows; cut and delete what is behind the first stop]
    ScanFromCheckpoint,
    /// [scan every segment from the first one; the source epochs are unknown: ask the source for them before
    /// the end is used]
    ScanAll,
    /// [scan every segment from the first one and write its indexes anew; if the proven end is below the
    /// checkpoint's, raise the alarm of `RefetchLost`]
    RebuildIndexes,
    /// [delete later segments; scan every segment from the first one; raise an alarm with both ends; keep the
    /// checkpoint's source epochs, cut to the proven end; fetch again from there]
    RefetchLost,
    /// [delete later segments; cut the active file to the position and its indexes to their sizes; extend it
    /// again; flush; write the checkpoint without the intent; decide again]
    ResumeTruncation,
    /// [delete what is left of the partition's files; start empty]
    FinishRemoval,
    /// [stop the partition with the reason]
    Refuse(RefuseReason),
}

/// Why a person has to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    ActiveSegmentMissing,
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefuseReason::ActiveSegmentMissing => f.write_str(
                "the segment file that the checkpoint says was flushed is not there: mount or restore the data \
                 directory, or mirror the topic anew under another link",
            ),
        }
    }
}

/// The table of the file's header. The compiler checks that no combination is missing.
pub const fn decide(found: Found) -> Decision {
    use ActiveFile as File;
    use CheckpointFound as Checkpoint;
    match (found.checkpoint, found.active, found.indexes, found.later) {
        (Checkpoint::None | Checkpoint::Removed, File::Absent, _, LaterSegments::None) => {
            Decision::StartEmpty
        }
        (Checkpoint::None, File::Absent, _, LaterSegments::Some) => Decision::ScanAll,
        (Checkpoint::None, File::Shorter | File::Covers, _, _) => Decision::ScanAll,
        (Checkpoint::Removed, File::Absent, _, LaterSegments::Some) => Decision::FinishRemoval,
        (Checkpoint::Removed, File::Shorter | File::Covers, _, _) => Decision::FinishRemoval,
        (Checkpoint::Live, File::Covers, IndexFiles::Cover, _) => Decision::ScanFromCheckpoint,
        (Checkpoint::Live, File::Covers, IndexFiles::Shorter, _) => Decision::RebuildIndexes,
        (Checkpoint::Truncating, File::Covers, _, _) => Decision::ResumeTruncation,
        (Checkpoint::Live | Checkpoint::Truncating, File::Shorter, _, _) => Decision::RefetchLost,
        (Checkpoint::Live | Checkpoint::Truncating, File::Absent, _, _) => {
            Decision::Refuse(RefuseReason::ActiveSegmentMissing)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::files::{TopicId, TopicPartition};
    use crate::offset::Offset;

    const NO_FILES: FileSizes = FileSizes {
        log_bytes: None,
        offset_index_bytes: None,
        time_index_bytes: None,
        transaction_index_bytes: None,
    };

    fn every_combination() -> Vec<(Found, Decision)> {
        use CheckpointFound::*;
        let mut all = Vec::new();
        for checkpoint in [None, Removed, Live, Truncating] {
            for active in [ActiveFile::Absent, ActiveFile::Shorter, ActiveFile::Covers] {
                for indexes in [IndexFiles::Shorter, IndexFiles::Cover] {
                    for later in [LaterSegments::None, LaterSegments::Some] {
                        let found = Found { checkpoint, active, indexes, later };
                        all.push((found, decide(found)));
                    }
                }
            }
        }
        all
    }

    fn count(decision: Decision) -> usize {
        every_combination().iter().filter(|(_, decided)| *decided == decision).count()
    }

    #[test]
    fn the_table_has_a_row_for_each_of_the_48_states() {
        assert_eq!(every_combination().len(), 48);
        let refuse = Decision::Refuse(RefuseReason::ActiveSegmentMissing);
        let counts = [
            (Decision::StartEmpty, 4),
            (Decision::ScanFromCheckpoint, 2),
            (Decision::ScanAll, 10),
            (Decision::RebuildIndexes, 2),
            (Decision::RefetchLost, 8),
            (Decision::ResumeTruncation, 4),
            (Decision::FinishRemoval, 10),
            (refuse, 8),
        ];
        for (decision, expected) in counts {
            assert_eq!(count(decision), expected, "{decision:?}");
        }
    }

    #[test]
    fn a_start_is_empty_only_where_no_segment_is() {
        for (found, decision) in every_combination() {
            if decision == Decision::StartEmpty {
                assert_eq!((found.active, found.later), (ActiveFile::Absent, LaterSegments::None));
                assert!(matches!(found.checkpoint, CheckpointFound::None | CheckpointFound::Removed));
            }
        }
    }

    #[test]
    fn bytes_behind_the_cut_of_a_truncation_are_never_scanned() {
        for (found, decision) in every_combination() {
            if found.checkpoint == CheckpointFound::Truncating {
                // Each of these deletes or cuts before it scans, or does not scan.
                let safe = matches!(
                    decision,
                    Decision::ResumeTruncation | Decision::RefetchLost | Decision::Refuse(_)
                );
                assert!(safe, "{found:?}: {decision:?}");
            }
        }
    }

    #[test]
    fn a_scan_from_the_checkpoint_needs_all_that_the_checkpoint_covers() {
        for (found, decision) in every_combination() {
            if decision == Decision::ScanFromCheckpoint {
                assert_eq!(found.checkpoint, CheckpointFound::Live);
                assert_eq!((found.active, found.indexes), (ActiveFile::Covers, IndexFiles::Cover));
            }
        }
    }

    #[test]
    fn flushed_bytes_that_are_gone_are_never_ignored() {
        for (found, decision) in every_combination() {
            let counted = matches!(found.checkpoint, CheckpointFound::Live | CheckpointFound::Truncating);
            if counted && found.active != ActiveFile::Covers {
                assert!(matches!(decision, Decision::RefetchLost | Decision::Refuse(_)), "{found:?}");
            }
        }
    }

    #[test]
    fn files_are_classified_by_what_the_checkpoint_covers() {
        let partition = TopicPartition::new("orders", 0).unwrap();
        let mut checkpoint = PartitionCheckpoint::empty(partition, TopicId::ZERO, Offset::ZERO);
        let decided = |checkpoint: Option<&PartitionCheckpoint>, sizes, later| {
            decide(Found::classify(checkpoint, sizes, later))
        };
        let some_log = |bytes| FileSizes { log_bytes: Some(bytes), ..NO_FILES };
        assert_eq!(decided(None, NO_FILES, false), Decision::StartEmpty);
        assert_eq!(decided(None, some_log(0), false), Decision::ScanAll);
        // Checkpointed before its first byte: there need not be a file yet.
        assert_eq!(decided(Some(&checkpoint), NO_FILES, false), Decision::ScanFromCheckpoint);
        checkpoint.position = 100;
        let refuse = Decision::Refuse(RefuseReason::ActiveSegmentMissing);
        assert_eq!(decided(Some(&checkpoint), NO_FILES, false), refuse);
        assert_eq!(decided(Some(&checkpoint), some_log(99), true), Decision::RefetchLost);
        assert_eq!(decided(Some(&checkpoint), some_log(100), true), Decision::ScanFromCheckpoint);
        checkpoint.transaction_index_bytes = 34;
        assert_eq!(decided(Some(&checkpoint), some_log(4096), false), Decision::RebuildIndexes);
        let with_index = FileSizes { transaction_index_bytes: Some(68), ..some_log(4096) };
        assert_eq!(decided(Some(&checkpoint), with_index, false), Decision::ScanFromCheckpoint);
        checkpoint.truncating = true;
        assert_eq!(decided(Some(&checkpoint), with_index, true), Decision::ResumeTruncation);
        checkpoint.removed = true;
        assert_eq!(decided(Some(&checkpoint), with_index, false), Decision::FinishRemoval);
        assert_eq!(decided(Some(&checkpoint), NO_FILES, false), Decision::StartEmpty);
    }
}
