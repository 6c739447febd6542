//! Epoch histories: which leader epoch wrote which part of a log. ref: KIP-101, KIP-279
//!
//! Two of them exist per mirror partition. The *source* history says which epoch of the source wrote each
//! offset: with it a truncation of the source is noticed, and the source's bytes can be rebuilt from ours.
//! The *stamp* history says which epoch this store wrote into bytes 12..16 of its batches; it is the text
//! file `leader-epoch-checkpoint`, which a stock broker reads.
//!
//! ```text
//! epochs   0         2              5
//! log      ├─────────┼──────────────┼───────────▶ log end
//!          0         100            250              end_of(2) = 250, end_of(3) = (2, 250), epoch_of(99) = 0
//! ```
//!
//! Invariants: epochs and start offsets both strictly increase. Must never be guessed from our own segments:
//! their batches carry the stamp, so the source history is data and is made durable before the bytes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::offset::{LeaderEpoch, Offset};

/// Entries of one history. A broker forgets entries below the log start, and so do we; this many live ones
/// mean a source in an election storm. Raising it makes each checkpoint record larger by 12 bytes an entry.
pub const EPOCHS_MAX: usize = 4096;

/// From `start` on, batches were written under `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochHistory {
    entries: Vec<EpochStart>,
}

impl EpochHistory {
    pub const fn new() -> EpochHistory {
        EpochHistory { entries: Vec::new() }
    }

    /// Notes that the batch at `start` was written under `epoch`; true if that opened a new epoch. `start` is
    /// the batch's base offset, or the log's end before it where that is higher (a start inside a batch).
    ///
    /// A batch of unknown epoch (-1, from brokers that keep none) changes nothing. An epoch that starts
    /// where the one before it started replaces that one: it has no batch.
    pub fn record(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<bool, EpochError> {
        if !epoch.is_known() {
            return Ok(false);
        }
        if let Some(latest) = self.entries.last() {
            if epoch == latest.epoch && start >= latest.start {
                return Ok(false);
            }
            if epoch <= latest.epoch {
                return Err(EpochError::EpochWentBack { latest: *latest, epoch, start });
            }
            if start < latest.start {
                return Err(EpochError::StartWentBack { latest: *latest, epoch, start });
            }
            if start == latest.start {
                self.entries.pop();
            }
        }
        if self.entries.len() == EPOCHS_MAX {
            return Err(EpochError::TooMany { epoch });
        }
        self.entries.push(EpochStart { epoch, start });
        Ok(true)
    }

    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    /// The epoch under which the batch at `offset` was (or would next be) written.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.entries.partition_point(|entry| entry.start <= offset);
        above.checked_sub(1).map(|index| self.entries[index].epoch)
    }

    /// Where `epoch` ended in this log, by the rule of OffsetForLeaderEpoch: the largest epoch not above the
    /// asked one, and the start of the next. `None` when the epoch is above all or unknown. For an epoch
    /// below all, the asked one ends where this log's history begins. ref: KIP-279
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochStart> {
        let latest = self.entries.last()?;
        if !epoch.is_known() || epoch > latest.epoch {
            return None;
        }
        if epoch == latest.epoch {
            return Some(EpochStart { epoch, start: log_end });
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let floor = above.checked_sub(1).map_or(epoch, |index| self.entries[index].epoch);
        Some(EpochStart { epoch: floor, start: self.entries[above].start })
    }

    /// The log was cut to end at `log_end`: epochs that start there or later have no batch any more.
    pub fn truncate_to(&mut self, log_end: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start < log_end);
        self.entries.truncate(kept);
    }

    /// The log now starts at `log_start`: the epoch that covers it starts there, older ones are forgotten.
    pub fn trim_to(&mut self, log_start: Offset) {
        let above = self.entries.partition_point(|entry| entry.start <= log_start);
        if let Some(covering) = above.checked_sub(1) {
            self.entries.drain(..covering);
            self.entries[0].start = log_start;
        }
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text of `leader-epoch-checkpoint`: a version, a count, and a line `epoch start` each.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "0\n{}\n", self.entries.len());
        for entry in &self.entries {
            let _ = writeln!(text, "{} {}", entry.epoch, entry.start);
        }
        text
    }

    pub fn parse(text: &str) -> Result<EpochHistory, EpochError> {
        let mut lines = text.lines();
        let malformed = |line: usize| EpochError::Malformed { line };
        if lines.next().map(str::trim) != Some("0") {
            return Err(malformed(1));
        }
        let count: usize = lines.next().and_then(|line| line.trim().parse().ok()).ok_or(malformed(2))?;
        if count > EPOCHS_MAX {
            return Err(EpochError::TooMany { epoch: LeaderEpoch::UNKNOWN });
        }
        let mut history = EpochHistory::new();
        for index in 0..count {
            let bad = malformed(index + 3);
            let (epoch, start) = lines.next().and_then(|line| line.trim().split_once(' ')).ok_or(bad)?;
            let epoch = epoch.parse().ok().map(LeaderEpoch).filter(|epoch| epoch.is_known()).ok_or(bad)?;
            let start = start.parse().ok().and_then(Offset::new).ok_or(bad)?;
            history.push(EpochStart { epoch, start })?;
        }
        match lines.find(|line| !line.trim().is_empty()) {
            None => Ok(history),
            Some(_) => Err(malformed(count + 3)),
        }
    }

    /// Adds a stored entry; unlike `record` it accepts nothing that a history cannot contain.
    pub(crate) fn push(&mut self, entry: EpochStart) -> Result<(), EpochError> {
        let EpochStart { epoch, start } = entry;
        if let Some(latest) = self.entries.last().copied() {
            if epoch <= latest.epoch {
                return Err(EpochError::EpochWentBack { latest, epoch, start });
            }
            if start <= latest.start {
                return Err(EpochError::StartWentBack { latest, epoch, start });
            }
        }
        if self.entries.len() == EPOCHS_MAX {
            return Err(EpochError::TooMany { epoch });
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Why an epoch does not belong into a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochError {
    EpochWentBack { latest: EpochStart, epoch: LeaderEpoch, start: Offset },
    StartWentBack { latest: EpochStart, epoch: LeaderEpoch, start: Offset },
    TooMany { epoch: LeaderEpoch },
    Malformed { line: usize },
}

impl fmt::Display for EpochError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EpochError::EpochWentBack { latest, epoch, start } => write!(
                f,
                "the batch at offset {start} has leader epoch {epoch}, but epoch {} began at offset {} already: \
                 the log and its epochs do not belong together; read the batch again",
                latest.epoch, latest.start
            ),
            EpochError::StartWentBack { latest, epoch, start } => write!(
                f,
                "leader epoch {epoch} would begin at offset {start}, before epoch {} at offset {}: the log was \
                 cut; truncate first",
                latest.epoch, latest.start
            ),
            EpochError::TooMany { epoch } => write!(
                f,
                "leader epoch {epoch} would be one more than the {EPOCHS_MAX} that one history can hold: the \
                 source changes leaders without end; wait until its log start has passed the old ones"
            ),
            EpochError::Malformed { line } => write!(
                f,
                "line {line} of leader-epoch-checkpoint is not what a broker writes there: restore the file, \
                 or delete it so that it is written anew from the checkpoint"
            ),
        }
    }
}

impl core::error::Error for EpochError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn history(entries: &[(i32, i64)]) -> EpochHistory {
        let mut history = EpochHistory::new();
        for (epoch, start) in entries {
            history.record(LeaderEpoch(*epoch), at(*start)).unwrap();
        }
        history
    }

    #[test]
    fn an_epoch_is_recorded_once() {
        let mut history = EpochHistory::new();
        assert_eq!(history.record(LeaderEpoch(3), at(10)), Ok(true));
        assert_eq!(history.record(LeaderEpoch(3), at(20)), Ok(false));
        assert_eq!(history.record(LeaderEpoch::UNKNOWN, at(30)), Ok(false));
        assert_eq!(history.latest(), Some(EpochStart { epoch: LeaderEpoch(3), start: at(10) }));
    }

    #[test]
    fn neither_epoch_nor_start_goes_back() {
        let mut history = history(&[(3, 10)]);
        let lower_epoch = history.record(LeaderEpoch(2), at(20));
        assert!(matches!(lower_epoch, Err(EpochError::EpochWentBack { .. })));
        assert!(matches!(history.record(LeaderEpoch(4), at(9)), Err(EpochError::StartWentBack { .. })));
        assert!(matches!(history.record(LeaderEpoch(3), at(9)), Err(EpochError::EpochWentBack { .. })));
    }

    #[test]
    fn an_epoch_without_a_batch_is_replaced() {
        assert_eq!(history(&[(0, 0), (2, 5), (3, 5)]), history(&[(0, 0), (3, 5)]));
    }

    #[test]
    fn the_end_of_an_epoch_is_what_a_broker_would_answer() {
        let history = history(&[(1, 10), (4, 20)]);
        let end = |epoch| history.end_of(LeaderEpoch(epoch), at(50)).map(|e| (e.epoch.0, e.start.value()));
        assert_eq!(end(0), Some((0, 10)));
        assert_eq!(end(1), Some((1, 20)));
        assert_eq!(end(3), Some((1, 20)));
        assert_eq!(end(4), Some((4, 50)));
        assert_eq!(end(5), None);
        assert_eq!(end(-1), None);
        assert_eq!(EpochHistory::new().end_of(LeaderEpoch(0), at(50)), None);
    }

    #[test]
    fn the_text_is_a_brokers() {
        assert_eq!(history(&[(0, 0), (2, 100)]).to_text(), "0\n2\n0 0\n2 100\n");
        assert_eq!(EpochHistory::new().to_text(), "0\n0\n");
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [
            ("", 1),
            ("1\n0\n", 1),
            ("0\n", 2),
            ("0\n-1\n", 2),
            ("0\n2\n0 0\n", 4),
            ("0\n1\n0 -1\n", 3),
            ("0\n1\nx 1\n", 3),
            ("0\n1\n0 0\n1 1\n", 4),
        ] {
            assert_eq!(EpochHistory::parse(text), Err(EpochError::Malformed { line }), "{text:?}");
        }
        assert!(matches!(EpochHistory::parse("0\n2\n1 5\n0 9\n"), Err(EpochError::EpochWentBack { .. })));
        assert!(matches!(EpochHistory::parse("0\n99999999\n"), Err(EpochError::TooMany { .. })));
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = EpochHistory::new();
        for epoch in 0..EPOCHS_MAX as i32 {
            history.record(LeaderEpoch(epoch), at(i64::from(epoch))).unwrap();
        }
        let one_more = history.record(LeaderEpoch(i32::MAX), at(i64::MAX));
        assert_eq!(one_more, Err(EpochError::TooMany { epoch: LeaderEpoch(i32::MAX) }));
    }

    /// The epoch of every single offset of a small log that starts at 0.
    #[derive(Clone, Debug)]
    enum Action {
        Append { epoch_rise: i32, count: usize },
        Truncate { to: prop::sample::Index },
        Trim { to: prop::sample::Index },
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0i32..3, 1usize..5).prop_map(|(epoch_rise, count)| Action::Append { epoch_rise, count }),
            1 => any::<prop::sample::Index>().prop_map(|to| Action::Truncate { to }),
            1 => any::<prop::sample::Index>().prop_map(|to| Action::Trim { to }),
        ]
    }

    proptest! {
        #[test]
        fn the_history_is_that_of_the_naive_model(actions in prop::collection::vec(action(), 1..40)) {
            let mut history = EpochHistory::new();
            let (mut model, mut log_start) = (Vec::<i32>::new(), 0usize);
            let mut epoch = 0;
            for action in actions {
                match action {
                    Action::Append { epoch_rise, count } => {
                        epoch += epoch_rise;
                        let opened = history.record(LeaderEpoch(epoch), at(model.len() as i64)).unwrap();
                        let known = model.get(log_start..).is_some_and(|live| live.contains(&epoch));
                        prop_assert!(opened != known || model.len() == log_start);
                        model.extend(core::iter::repeat_n(epoch, count));
                    }
                    Action::Truncate { to } => {
                        let to = log_start + to.index(model.len() - log_start + 1);
                        model.truncate(to);
                        history.truncate_to(at(to as i64));
                    }
                    Action::Trim { to } => {
                        log_start += to.index(model.len() - log_start + 1);
                        history.trim_to(at(log_start as i64));
                    }
                }
                for (offset, epoch) in model.iter().enumerate().skip(log_start) {
                    prop_assert_eq!(history.epoch_of(at(offset as i64)), Some(LeaderEpoch(*epoch)));
                }
                prop_assert_eq!(&EpochHistory::parse(&history.to_text()).unwrap(), &history);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9 \n-]{0,60}") {
            let _ = EpochHistory::parse(&text);
        }
    }
}
