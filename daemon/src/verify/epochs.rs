//! Our record of the source's leader epochs held against the source's own, by OffsetForLeaderEpoch. ref: KIP-279
//!
//! ```text
//! ours     │ 0        │ 2     │ 5 ─────▶ log end      from the journal's checkpoint
//! asked      end of 0?  of 2?   of 5?
//! theirs   │ 0     │1 │ 2     │ 5 ──────────▶         1 was compacted away before it was mirrored: no difference
//! ```
//! Where the source's epoch ends before ours does, that is right only if we hold no batch in between. Owns the
//! comparison; must never ask about an epoch that ended before the source's log begins: it is forgotten there.

use super::comparison::{CompareError, first_batch_from};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use twinlog_io::Disk;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// The source's epoch history.
pub trait SourceEpochs {
    type Error;

    /// The largest epoch that is not above the asked one, and where it ends; `None` where the source cannot tell.
    fn end_of(&mut self, epoch: LeaderEpoch) -> Result<Option<(LeaderEpoch, Offset)>, Self::Error>;
}

/// What of the histories was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EpochComparison {
    /// Epochs about which the source answered.
    pub epochs: u64,
    pub difference: Option<EpochDifference>,
}

/// The first place where two histories differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EpochDifference {
    /// The source names another epoch in its place.
    OnlyOurs { epoch: i32, theirs: i32 },
    /// It ends at different offsets.
    End { epoch: i32, ours: i64, theirs: i64 },
}

impl fmt::Display for EpochDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyOurs { epoch, theirs } => {
                write!(f, "leader epoch {epoch} is in our record, and the source knows {theirs} in its place")
            }
            Self::End { epoch, ours, theirs } => write!(
                f,
                "leader epoch {epoch} ends at offset {ours} by our record and at {theirs} at the source"
            ),
        }
    }
}

/// The part of a partition that both sides have.
pub struct Compared<'a> {
    pub directory: &'a Path,
    pub epochs: &'a EpochHistory,
    /// Where both logs have begun.
    pub from: Offset,
    pub log_end: Offset,
    pub batch_bytes_max: u32,
}

/// Compares epoch by epoch, up to the first difference.
pub fn compare_epochs<S: SourceEpochs>(
    disk: &mut dyn Disk,
    of: &Compared<'_>,
    source: &mut S,
) -> Result<EpochComparison, CompareError<S::Error>> {
    let mut comparison = EpochComparison::default();
    let entries = of.epochs.entries();
    for (index, entry) in entries.iter().enumerate() {
        let next = entries.get(index + 1).map(|next| next.start);
        let ours = next.unwrap_or(of.log_end);
        // An epoch without a batch of ours, or one that the source has forgotten, proves nothing.
        if ours <= of.from || entry.start >= of.log_end {
            continue;
        }
        let Some((found, theirs)) = source.end_of(entry.epoch).map_err(CompareError::Source)? else {
            continue;
        };
        comparison.epochs += 1;
        let epoch = entry.epoch.0;
        let difference = EpochDifference::End { epoch, ours: ours.value(), theirs: theirs.value() };
        comparison.difference = if found != entry.epoch {
            Some(EpochDifference::OnlyOurs { epoch, theirs: found.0 })
        } else if theirs < ours {
            let batch = first_batch_from(disk, of.directory, theirs, of.batch_bytes_max);
            let batch = batch.map_err(CompareError::Store)?;
            batch.is_some_and(|base| base < ours).then_some(difference)
        } else {
            // The source's latest epoch goes on beyond our end.
            (next.is_some() && theirs > ours).then_some(difference)
        };
        if comparison.difference.is_some() {
            break;
        }
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::written_log::{BATCH_BYTES_MAX, WrittenLog, at, batch, directory, empty_disk};
    use std::convert::Infallible;

    /// A source that answers by its history, as a broker does.
    struct Answers {
        history: EpochHistory,
        log_end: Offset,
        asked: Vec<i32>,
    }

    impl SourceEpochs for Answers {
        type Error = Infallible;

        fn end_of(&mut self, epoch: LeaderEpoch) -> Result<Option<(LeaderEpoch, Offset)>, Infallible> {
            self.asked.push(epoch.0);
            Ok(self.history.end_of(epoch, self.log_end).map(|end| (end.epoch, end.start)))
        }
    }

    fn history(entries: &[(i32, i64)]) -> EpochHistory {
        let mut history = EpochHistory::new();
        for (epoch, start) in entries {
            history.record(LeaderEpoch(*epoch), at(*start)).unwrap();
        }
        history
    }

    /// Batches at 0 to 9 and 12 to 15; ours against theirs, from an offset on.
    fn compare(ours: &[(i32, i64)], theirs: &[(i32, i64)], from: i64) -> (EpochComparison, Vec<i32>) {
        let mut disk = empty_disk();
        let mut log = WrittenLog::begin(&mut disk);
        for offset in (0..10).chain(12..16) {
            log.append(&mut disk, batch(offset, 100));
        }
        log.checkpoint(&mut disk);
        let epochs = history(ours);
        let of = Compared {
            directory: &directory(),
            epochs: &epochs,
            from: at(from),
            log_end: at(16),
            batch_bytes_max: BATCH_BYTES_MAX,
        };
        let mut source = Answers { history: history(theirs), log_end: at(20), asked: Vec::new() };
        (compare_epochs(&mut disk, &of, &mut source).unwrap(), source.asked)
    }

    #[test]
    fn equal_histories_are_equal_and_forgotten_epochs_are_not_asked_for() {
        let ours = [(0, 0), (2, 5), (5, 9)];
        assert_eq!(
            compare(&ours, &ours, 0),
            (EpochComparison { epochs: 3, difference: None }, vec![0, 2, 5])
        );
        assert_eq!(compare(&ours, &[(2, 6), (5, 9)], 6).1, [2, 5]);
    }

    #[test]
    fn an_epoch_of_which_nothing_was_left_to_mirror_is_no_difference() {
        let (comparison, _) = compare(&[(0, 0), (2, 12)], &[(0, 0), (1, 10), (2, 12)], 0);
        assert_eq!(comparison, EpochComparison { epochs: 2, difference: None });
        let (comparison, _) = compare(&[(0, 0), (2, 12)], &[(0, 0), (1, 8), (2, 12)], 0);
        assert_eq!(comparison.difference, Some(EpochDifference::End { epoch: 0, ours: 12, theirs: 8 }));
    }

    #[test]
    fn another_epoch_and_another_end_are_differences() {
        let ours = [(0, 0), (2, 5), (5, 9)];
        let differs = |theirs: &[(i32, i64)]| compare(&ours, theirs, 0).0.difference.unwrap();
        assert_eq!(differs(&[(0, 0), (2, 7), (5, 9)]), EpochDifference::End { epoch: 0, ours: 5, theirs: 7 });
        assert_eq!(differs(&[(0, 0), (3, 5), (5, 9)]), EpochDifference::OnlyOurs { epoch: 2, theirs: 0 });
        let cut = differs(&[(0, 0), (2, 5), (5, 9), (6, 14)]);
        assert_eq!(cut, EpochDifference::End { epoch: 5, ours: 16, theirs: 14 });
        assert!(cut.to_string().contains("offset 16 by our record"), "{cut}");
    }
}
