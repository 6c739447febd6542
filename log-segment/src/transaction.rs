//! Open transactions of a partition, and the index entries of those that abort. ref: KIP-98
//!
//! A copy that ends at the source's last stable offset can still hold a transaction without its marker: A
//! began at 0, B at 5, A ended at 10; the last stable offset is then 5 and A's marker lies above it. So what
//! is open has to be known for the *copy*, and is checkpointed with it.
//!
//! ```text
//! offset   0 1 2 3 4   5 6 7   8 9   10        on_batch(marker of A at 10, abort)
//!          A───────    B────   A──   A ends      = aborted A, first 0, last 10, last stable offset 5
//!                                                first_open_offset() = 5
//! ```
//!
//! Invariants: one open transaction per producer id; its first offset is the base of its first batch.
//! A marker without an open transaction, and one that the cleaner emptied, change nothing (as in a broker).
//! After a truncation the set is *rebuilt*: restore the checkpoint's and scan up to the cut. It cannot be
//! undone backwards, because a transaction that the cut part had ended would be open again.
//! Must never allocate for a batch that is not transactional.

use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;

use crate::batch::BatchHeader;
use crate::control::ControlKind;
use crate::index::AbortedTransaction;
use crate::offset::Offset;

/// Open transactions in one partition. A busy partition has tens; each costs 16 bytes in every checkpoint
/// and about 100 in memory, so raising this lets a hostile source grow both.
pub const OPEN_TRANSACTIONS_MAX: usize = 16_384;

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenTransactions {
    by_producer: BTreeMap<i64, Offset>,
    /// The same first offsets in order; no two transactions share one, for a batch has one producer.
    first_offsets: BTreeSet<Offset>,
}

impl OpenTransactions {
    pub const fn new() -> OpenTransactions {
        OpenTransactions { by_producer: BTreeMap::new(), first_offsets: BTreeSet::new() }
    }

    /// Accounts for a batch in log order; returns the `.txnindex` entry if it aborted a transaction.
    pub fn on_batch(
        &mut self,
        header: &BatchHeader,
        control: Option<ControlKind>,
    ) -> Result<Option<AbortedTransaction>, TransactionError> {
        if header.is_control() {
            return Ok(match control {
                Some(ControlKind::Abort) => self.end(header, true),
                Some(ControlKind::Commit) => self.end(header, false),
                Some(ControlKind::Other(_)) | None => None,
            });
        }
        if header.is_transactional() && header.has_producer_id() {
            self.begin(header.producer_id, header.base_offset)?;
        }
        Ok(None)
    }

    fn begin(&mut self, producer_id: i64, first_offset: Offset) -> Result<(), TransactionError> {
        if self.by_producer.contains_key(&producer_id) {
            return Ok(());
        }
        if self.by_producer.len() == OPEN_TRANSACTIONS_MAX {
            return Err(TransactionError::TooMany { producer_id, first_offset });
        }
        if !self.first_offsets.insert(first_offset) {
            return Err(TransactionError::SharedFirstOffset { producer_id, first_offset });
        }
        self.by_producer.insert(producer_id, first_offset);
        Ok(())
    }

    fn end(&mut self, header: &BatchHeader, aborted: bool) -> Option<AbortedTransaction> {
        let first_offset = self.by_producer.remove(&header.producer_id)?;
        self.first_offsets.remove(&first_offset);
        aborted.then(|| AbortedTransaction {
            producer_id: header.producer_id,
            first_offset,
            last_offset: header.last_offset(),
            last_stable_offset: self.last_stable_offset(header.next_offset()),
        })
    }

    pub fn first_open_offset(&self) -> Option<Offset> {
        self.first_offsets.first().copied()
    }

    /// What a read_committed reader may see of a log that ends at `log_end`.
    pub fn last_stable_offset(&self, log_end: Offset) -> Offset {
        self.first_open_offset().unwrap_or(log_end)
    }

    pub fn len(&self) -> usize {
        self.by_producer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_producer.is_empty()
    }

    /// Producer id and first offset of each, by producer id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, Offset)> + '_ {
        self.by_producer.iter().map(|(producer_id, first)| (*producer_id, *first))
    }

    /// Restores one from a checkpoint.
    pub fn restore(&mut self, producer_id: i64, first_offset: Offset) -> Result<(), TransactionError> {
        if self.by_producer.contains_key(&producer_id) {
            return Err(TransactionError::SharedProducer { producer_id, first_offset });
        }
        self.begin(producer_id, first_offset)
    }
}

/// Why the open transactions of a partition cannot be tracked any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionError {
    TooMany { producer_id: i64, first_offset: Offset },
    SharedFirstOffset { producer_id: i64, first_offset: Offset },
    SharedProducer { producer_id: i64, first_offset: Offset },
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionError::TooMany { producer_id, first_offset } => write!(
                f,
                "producer {producer_id} opens a transaction at offset {first_offset} while \
                 {OPEN_TRANSACTIONS_MAX} are open, the most that one partition can track: abort hanging \
                 transactions at the source (kafka-transactions find-hanging)"
            ),
            TransactionError::SharedFirstOffset { producer_id, first_offset } => write!(
                f,
                "producer {producer_id} opens a transaction at offset {first_offset}, where another one began: \
                 the log repeats an offset; verify the partition"
            ),
            TransactionError::SharedProducer { producer_id, first_offset } => write!(
                f,
                "a checkpoint names producer {producer_id} twice (at offset {first_offset}): it is damaged"
            ),
        }
    }
}

impl core::error::Error for TransactionError {}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::BatchBuilder;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn header(builder: BatchBuilder) -> BatchHeader {
        BatchHeader::parse(builder.build().first_chunk().unwrap(), 1 << 20).unwrap()
    }

    fn data(open: &mut OpenTransactions, offset: i64, producer_id: i64) {
        let batch = header(BatchBuilder::at(offset).records(1, 1).transactional(producer_id, 0, 0));
        assert_eq!(open.on_batch(&batch, None), Ok(None));
    }

    fn marker(
        open: &mut OpenTransactions,
        offset: i64,
        producer_id: i64,
        kind: ControlKind,
    ) -> Option<AbortedTransaction> {
        let batch = header(BatchBuilder::at(offset).marker(producer_id, 0, kind));
        open.on_batch(&batch, Some(kind)).unwrap()
    }

    #[test]
    fn the_first_offset_of_a_transaction_is_that_of_its_first_batch() {
        let mut open = OpenTransactions::new();
        data(&mut open, 5, 1);
        data(&mut open, 6, 1);
        assert_eq!(open.iter().collect::<Vec<_>>(), [(1, at(5))]);
        assert_eq!(open.last_stable_offset(at(7)), at(5));
    }

    #[test]
    fn an_abort_is_indexed_with_the_last_stable_offset_of_the_others() {
        let mut open = OpenTransactions::new();
        data(&mut open, 0, 1);
        data(&mut open, 5, 2);
        let aborted = marker(&mut open, 10, 1, ControlKind::Abort).unwrap();
        assert_eq!((aborted.first_offset, aborted.last_offset), (at(0), at(10)));
        assert_eq!(aborted.last_stable_offset, at(5));
        let aborted = marker(&mut open, 11, 2, ControlKind::Abort).unwrap();
        assert_eq!(aborted.last_stable_offset, at(12));
        assert!(open.is_empty());
        assert_eq!(open.last_stable_offset(at(12)), at(12));
    }

    #[test]
    fn a_commit_closes_and_leaves_no_entry() {
        let mut open = OpenTransactions::new();
        data(&mut open, 0, 1);
        assert_eq!(marker(&mut open, 1, 1, ControlKind::Commit), None);
        assert!(open.is_empty());
    }

    #[test]
    fn markers_that_end_nothing_change_nothing() {
        let mut open = OpenTransactions::new();
        data(&mut open, 0, 1);
        assert_eq!(marker(&mut open, 1, 2, ControlKind::Abort), None);
        assert_eq!(marker(&mut open, 2, 1, ControlKind::UNREADABLE), None);
        assert_eq!(open.len(), 1);
    }

    #[test]
    fn the_number_of_open_transactions_is_bounded() {
        let mut open = OpenTransactions::new();
        for producer_id in 0..OPEN_TRANSACTIONS_MAX as i64 {
            open.restore(producer_id, at(producer_id)).unwrap();
        }
        let one_more = header(BatchBuilder::at(1 << 30).records(1, 1).transactional(1 << 40, 0, 0));
        let error = TransactionError::TooMany { producer_id: 1 << 40, first_offset: at(1 << 30) };
        assert_eq!(open.on_batch(&one_more, None), Err(error));
    }

    #[test]
    fn a_checkpoint_names_no_producer_and_no_offset_twice() {
        let mut open = OpenTransactions::new();
        open.restore(1, at(5)).unwrap();
        assert!(matches!(open.restore(1, at(6)), Err(TransactionError::SharedProducer { .. })));
        assert!(matches!(open.restore(2, at(5)), Err(TransactionError::SharedFirstOffset { .. })));
    }

    proptest! {
        #[test]
        fn the_open_set_is_that_of_the_naive_model(steps in prop::collection::vec((0i64..5, 0u8..4), 1..80)) {
            let mut open = OpenTransactions::new();
            // All batches so far; what is open is searched from the end each time.
            let mut history = Vec::<(i64, u8)>::new();
            for (offset, (producer_id, kind)) in steps.into_iter().enumerate() {
                let first_open = |history: &[(i64, u8)], producer: i64| {
                    let ended = history.iter().rposition(|(p, kind)| *p == producer && *kind >= 2);
                    let from = ended.map_or(0, |index| index + 1);
                    history[from..].iter().position(|(p, _)| *p == producer).map(|index| from + index)
                };
                let offset = offset as i64;
                match kind {
                    0 | 1 => data(&mut open, offset, producer_id),
                    kind => {
                        let marked = if kind == 2 { ControlKind::Abort } else { ControlKind::Commit };
                        let was_open = first_open(&history, producer_id);
                        let aborted = marker(&mut open, offset, producer_id, marked);
                        let expected = was_open.filter(|_| kind == 2).map(|first| at(first as i64));
                        prop_assert_eq!(aborted.map(|aborted| aborted.first_offset), expected);
                    }
                }
                history.push((producer_id, kind));
                let oldest = (0..5).filter_map(|producer| first_open(&history, producer)).min();
                prop_assert_eq!(open.first_open_offset(), oldest.map(|first| at(first as i64)));
            }
        }
    }
}
