//! What a shorter, newer or diverging source means, and what may be cut because of it.
//!
//! Pure decisions over what the control core learned by ListOffsets and OffsetForLeaderEpoch. Nothing
//! is ever cut because one answer looked odd: an answer that does not fit the others stops the
//! partition (decisions 1 and 2; ref: KIP-101, KIP-279, KIP-320).

use crate::fault::{Fault, TruncationStop};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

/// `on.truncation`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnTruncation {
    /// Follow a cut within the bounds, stop beyond.
    #[default]
    Bounded,
    Follow,
    Stop,
}

/// `on.gap`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnGap {
    #[default]
    Stop,
    Continue,
}

/// The keys that bound a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncationPolicy {
    pub on_truncation: OnTruncation,
    pub on_gap: OnGap,
    /// `truncation.bytes.max`
    pub bytes_max: u64,
    /// `truncation.percent.max`
    pub percent_max: u32,
}

impl Default for TruncationPolicy {
    fn default() -> Self {
        Self {
            on_truncation: OnTruncation::Bounded,
            on_gap: OnGap::Stop,
            bytes_max: 64 << 20,
            percent_max: 1,
        }
    }
}

/// What the source says of its log now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLog {
    pub log_start: Offset,
    /// The end up to which we copy: last stable offset or high watermark.
    pub log_end: Offset,
    /// OffsetForLeaderEpoch for our latest epoch: the largest epoch not above it and its end; `None`
    /// where the source is too old to tell or knows no such epoch.
    pub our_epoch_end: Option<(LeaderEpoch, Offset)>,
}

/// What to do about an out-of-range or diverging answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Our position is in order: ask again.
    Refetch,
    /// The logs agree below here; what we hold above is to be cut, if the policy allows.
    Cut {
        common_end: Offset,
    },
    /// The source's log begins beyond our end: start anew there, if the policy allows.
    RestartAt {
        log_start: Offset,
    },
    Stop(Fault),
}

/// Where our log and a source that named `(epoch, end)` last agree.
///
/// `epoch` is the source's largest epoch not above the one we asked about. Where we hold that epoch,
/// the common end is the smaller of both ends; where we do not, everything we hold above the next
/// lower epoch is foreign to the source.
pub fn common_end(epochs: &EpochHistory, log_end: Offset, epoch: LeaderEpoch, end: Offset) -> Offset {
    let our_end = epochs.end_of(epoch, log_end).map_or(log_end, |ours| ours.start);
    our_end.min(end).min(log_end)
}

/// Classifies a position that the source does not accept.
pub fn classify(
    epochs: &EpochHistory,
    log_start: Offset,
    log_end: Offset,
    diverged: Option<(LeaderEpoch, Offset)>,
    source: &SourceLog,
) -> Decision {
    if log_end < source.log_start {
        return Decision::RestartAt { log_start: source.log_start };
    }
    if let Some((epoch, end)) = diverged.or(source.our_epoch_end) {
        let common_end = common_end(epochs, log_end, epoch, end);
        if common_end < log_end {
            return cut_or_stop(common_end, log_start, log_end, source);
        }
    }
    if log_end > source.log_end {
        // Without epochs an end below ours can also be a high watermark that lags after a restart.
        return match source.our_epoch_end {
            Some(_) => Decision::Refetch,
            None => Decision::Stop(unexplained(log_end, source)),
        };
    }
    Decision::Refetch
}

fn cut_or_stop(common_end: Offset, log_start: Offset, log_end: Offset, source: &SourceLog) -> Decision {
    if common_end >= log_start.min(log_end) && common_end >= source.log_start {
        return Decision::Cut { common_end };
    }
    // Nothing in common: the source lost its disk and presents another past (decisions 1).
    Decision::Cut { common_end: log_start.max(source.log_start).min(log_end) }
}

fn unexplained(offset: Offset, source: &SourceLog) -> Fault {
    Fault::Unexplained { offset, source_start: source.log_start.value(), source_end: source.log_end.value() }
}

/// How much a cut would remove, of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutSize {
    pub cut_bytes: u64,
    pub partition_bytes: u64,
}

/// Whether the policy allows the cut.
pub fn permit_cut(
    policy: &TruncationPolicy,
    size: CutSize,
    common_end: Offset,
    log_end: Offset,
) -> Result<(), Fault> {
    let stop = |why| Err(Fault::Truncated { log_end, common_end, cut_bytes: size.cut_bytes, why });
    match policy.on_truncation {
        OnTruncation::Follow => Ok(()),
        OnTruncation::Stop => stop(TruncationStop::Policy),
        OnTruncation::Bounded => {
            let percent = u128::from(size.cut_bytes) * 100;
            let within_percent = percent <= u128::from(size.partition_bytes) * u128::from(policy.percent_max);
            if size.cut_bytes <= policy.bytes_max && within_percent {
                Ok(())
            } else {
                stop(TruncationStop::BeyondBound)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn epochs(entries: &[(i32, i64)]) -> EpochHistory {
        let mut history = EpochHistory::default();
        for (epoch, start) in entries {
            history.record(LeaderEpoch(*epoch), at(*start)).unwrap();
        }
        history
    }

    fn source(start: i64, end: i64, epoch: Option<(i32, i64)>) -> SourceLog {
        let our_epoch_end = epoch.map(|(epoch, end)| (LeaderEpoch(epoch), at(end)));
        SourceLog { log_start: at(start), log_end: at(end), our_epoch_end }
    }

    #[test]
    fn each_meaning_of_out_of_range_is_told_apart() {
        let history = epochs(&[(0, 0), (2, 50)]);
        let verdict = |source: SourceLog| classify(&history, at(0), at(100), None, &source);
        assert_eq!(verdict(source(120, 200, None)), Decision::RestartAt { log_start: at(120) });
        assert_eq!(verdict(source(0, 80, Some((2, 80)))), Decision::Cut { common_end: at(80) });
        assert_eq!(verdict(source(0, 80, Some((0, 30)))), Decision::Cut { common_end: at(30) });
        assert_eq!(verdict(source(0, 200, Some((2, 150)))), Decision::Refetch);
        assert_eq!(verdict(source(0, 90, Some((2, 100)))), Decision::Refetch, "the watermark lags");
        assert!(matches!(verdict(source(0, 80, None)), Decision::Stop(Fault::Unexplained { .. })));
    }

    #[test]
    fn a_regrown_log_is_cut_where_the_epochs_part() {
        let history = epochs(&[(0, 0), (3, 60)]);
        // The source never had epoch 3: its epoch 1 began at 55, so epoch 0 ended there.
        let diverged = Some((LeaderEpoch(0), at(55)));
        let decision = classify(&history, at(0), at(100), diverged, &source(0, 500, None));
        assert_eq!(decision, Decision::Cut { common_end: at(55) });
    }

    #[test]
    fn the_bounded_policy_stops_at_either_bound() {
        let policy = TruncationPolicy { bytes_max: 1000, ..TruncationPolicy::default() };
        let size = |cut_bytes, partition_bytes| CutSize { cut_bytes, partition_bytes };
        assert!(permit_cut(&policy, size(1000, 100_000), at(1), at(2)).is_ok());
        assert!(permit_cut(&policy, size(1001, 1_000_000), at(1), at(2)).is_err());
        assert!(permit_cut(&policy, size(1000, 99_999), at(1), at(2)).is_err());
        let follow = TruncationPolicy { on_truncation: OnTruncation::Follow, ..policy };
        assert!(permit_cut(&follow, size(1 << 40, 1), at(1), at(2)).is_ok());
    }
}
