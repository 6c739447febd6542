//! The segment scan: proves how much of one segment file is a log, and rebuilds what belongs to it.
//!
//! Recovery runs it from the checkpoint's position, `verify` from the start of every segment. It is fed the
//! file's bytes in order and in any pieces.
//!
//! ```text
//! file     │ covered by the checkpoint │ batch │ batch │ batch: torn, zero, bad or out of order │ whatever
//!          0                       position                │
//!                                      └── accepted ───────┘ valid_position: the file is cut here
//! ```
//!
//! A batch is accepted when its CRC is right, its base offset is not below the expected one (gaps are normal
//! in a compacted log), its stamp epoch is not lower than the one before, and the index can name it. The
//! first batch of a whole log may begin below the log's start: DeleteRecords cuts inside a batch.
//!
//! Invariants: accepted bytes are a prefix; what is reported is the state after exactly those bytes; the scan
//! never continues behind a batch that it refused, because what follows may be an older history.
//! Must never repair: it reports, the recovery table decides.

use core::fmt;

use crate::batch::{BatchError, BatchHeader};
use crate::control::ControlKind;
use crate::digest::LogDigest;
use crate::epoch::{EpochError, EpochHistory};
use crate::index::{IndexState, PendingIndexes};
use crate::offset::Offset;
use crate::segment::SegmentState;
use crate::transaction::{OpenTransactions, TransactionError};
use crate::walk::{BatchWalk, WalkEvent};

/// What is known at the byte where the scan begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStart {
    /// Where the first fed byte lies in the segment.
    pub position: u64,
    /// The log's end so far: the next batch may not begin below it.
    pub next_offset: Offset,
    /// True only for the first batch of the whole log: it may begin below `next_offset`, not end below it.
    pub may_start_mid_batch: bool,
    /// At `position`; it names the segment's base.
    pub index: IndexState,
    pub open_transactions: OpenTransactions,
    pub stamp_epochs: EpochHistory,
    /// Of the batches before, where the whole log is scanned; new otherwise.
    pub digest: LogDigest,
}

impl ScanStart {
    /// The start of the first segment of a log that begins at `log_start`.
    pub fn of_log(segment_base: Offset, log_start: Offset) -> ScanStart {
        ScanStart {
            position: 0,
            next_offset: log_start.max(segment_base),
            may_start_mid_batch: true,
            index: IndexState::new(segment_base),
            open_transactions: OpenTransactions::new(),
            stamp_epochs: EpochHistory::new(),
            digest: LogDigest::new(),
        }
    }
}

/// Whether more bytes are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanProgress {
    Continue,
    Stopped,
}

/// Why the scan ended where it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The file ends with a whole batch.
    End,
    /// Zeros follow: preallocated, never written.
    ZeroTail,
    /// The file ends inside a batch, after so many bytes of it.
    Torn {
        bytes: u64,
    },
    Bad(BatchError),
    OutOfOrder {
        expected: Offset,
        base_offset: Offset,
        last_offset: Offset,
    },
    /// The index of this segment cannot name the batch.
    TooFar {
        segment_base: Offset,
        last_offset: Offset,
    },
    Epoch(EpochError),
    Transaction(TransactionError),
}

impl StopReason {
    /// The segment is whole up to its valid end: another segment may follow it.
    pub const fn is_clean(&self) -> bool {
        matches!(self, StopReason::End | StopReason::ZeroTail)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::End => f.write_str("the file ends with a whole batch"),
            StopReason::ZeroTail => f.write_str("the rest of the file was never written"),
            StopReason::Torn { bytes } => write!(f, "the file ends after {bytes} bytes of a batch"),
            StopReason::Bad(error) => error.fmt(f),
            StopReason::OutOfOrder { expected, base_offset, last_offset } => write!(
                f,
                "the batch of offsets {base_offset} to {last_offset} stands where {expected} is expected: it \
                 belongs to an older history of the file"
            ),
            StopReason::TooFar { segment_base, last_offset } => write!(
                f,
                "the batch that ends at offset {last_offset} is too far from the segment's base \
                 {segment_base} for its index"
            ),
            StopReason::Epoch(error) => error.fmt(f),
            StopReason::Transaction(error) => error.fmt(f),
        }
    }
}

/// What a scan proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanReport {
    /// Bytes of the segment that are whole, right batches (those before the scan's start included).
    pub valid_position: u64,
    pub next_offset: Offset,
    pub index: IndexState,
    pub open_transactions: OpenTransactions,
    pub stamp_epochs: EpochHistory,
    /// Index bytes regenerated since the start, but for those taken with `take_pending`.
    pub pending: PendingIndexes,
    pub batches: u64,
    /// As counted by the headers.
    pub records: u64,
    pub digest: LogDigest,
    pub stop: StopReason,
}

impl ScanReport {
    /// Where to go on in the next segment of the log, or `None` if this one is not whole or the next one does
    /// not follow it.
    pub fn next_segment(&self, segment_base: Offset) -> Option<ScanStart> {
        (self.stop.is_clean() && segment_base >= self.next_offset).then(|| ScanStart {
            position: 0,
            next_offset: segment_base,
            may_start_mid_batch: false,
            index: IndexState::new(segment_base),
            open_transactions: self.open_transactions.clone(),
            stamp_epochs: self.stamp_epochs.clone(),
            digest: self.digest,
        })
    }
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct SegmentScan {
    walk: BatchWalk,
    segment: SegmentState,
    next_offset: Offset,
    may_start_mid_batch: bool,
    index: IndexState,
    open_transactions: OpenTransactions,
    stamp_epochs: EpochHistory,
    pending: PendingIndexes,
    batches: u64,
    records: u64,
    digest: LogDigest,
    stop: Option<StopReason>,
}

impl SegmentScan {
    pub fn new(start: ScanStart, batch_bytes_max: u32) -> SegmentScan {
        SegmentScan {
            walk: BatchWalk::new(batch_bytes_max),
            segment: SegmentState { base: start.index.segment_base, position: start.position },
            next_offset: start.next_offset,
            may_start_mid_batch: start.may_start_mid_batch,
            index: start.index,
            open_transactions: start.open_transactions,
            stamp_epochs: start.stamp_epochs,
            pending: PendingIndexes::new(),
            batches: 0,
            records: 0,
            digest: start.digest,
            stop: None,
        }
    }

    /// Takes the next bytes of the file. Once stopped, the rest of the file need not be read.
    pub fn feed(&mut self, mut bytes: &[u8]) -> ScanProgress {
        while self.stop.is_none() {
            let (consumed, event) = self.walk.feed(bytes);
            bytes = &bytes[consumed..];
            match event {
                None => return ScanProgress::Continue,
                Some(Ok(WalkEvent::Header(header))) => self.stop = self.refuse(&header),
                Some(Ok(WalkEvent::Batch { header, control })) => {
                    if let Err(stop) = self.accept(&header, control) {
                        self.stop = Some(stop);
                    }
                }
                Some(Err(error)) if error.is_zeros() => self.stop = Some(StopReason::ZeroTail),
                Some(Err(error)) => self.stop = Some(StopReason::Bad(error)),
            }
        }
        ScanProgress::Stopped
    }

    /// Moves the regenerated index bytes out, so that a long scan needs no memory.
    pub fn take_pending(&mut self) -> PendingIndexes {
        core::mem::take(&mut self.pending)
    }

    /// The file has no more bytes.
    pub fn finish(self) -> ScanReport {
        let at_end = || match self.walk.bytes_in_progress() {
            0 => StopReason::End,
            // Fewer zeros than a header needs to be judged.
            bytes
                if self.walk.partial_header().len() as u64 == bytes
                    && self.walk.partial_header().iter().all(|byte| *byte == 0) =>
            {
                StopReason::ZeroTail
            }
            bytes => StopReason::Torn { bytes },
        };
        ScanReport {
            valid_position: self.segment.position,
            next_offset: self.next_offset,
            stop: self.stop.unwrap_or_else(at_end),
            index: self.index,
            open_transactions: self.open_transactions,
            stamp_epochs: self.stamp_epochs,
            pending: self.pending,
            batches: self.batches,
            records: self.records,
            digest: self.digest,
        }
    }

    /// What a header alone can tell, before its body is read.
    fn refuse(&self, header: &BatchHeader) -> Option<StopReason> {
        let lowest = if self.may_start_mid_batch { header.last_offset() } else { header.base_offset };
        if lowest < self.next_offset {
            return Some(StopReason::OutOfOrder {
                expected: self.next_offset,
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
            });
        }
        (!self.segment.holds(header)).then(|| StopReason::TooFar {
            segment_base: self.segment.base,
            last_offset: header.last_offset(),
        })
    }

    fn accept(&mut self, header: &BatchHeader, control: Option<ControlKind>) -> Result<(), StopReason> {
        // A log that starts inside its first batch begins, for the epochs too, at its start.
        let first_offset = header.base_offset.max(self.next_offset);
        self.stamp_epochs.record(header.leader_epoch, first_offset).map_err(StopReason::Epoch)?;
        let aborted = self.open_transactions.on_batch(header, control).map_err(StopReason::Transaction)?;
        // `holds` was asked at the header: the position fits an index entry.
        self.index.on_batch(header, self.segment.position as u32, &mut self.pending);
        if let Some(aborted) = aborted {
            self.pending.push_aborted(&aborted);
        }
        self.segment.on_batch(header);
        self.next_offset = header.next_offset();
        self.may_start_mid_batch = false;
        self.batches += 1;
        self.records += u64::from(header.record_count);
        self.digest.on_batch(header);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::offset::LeaderEpoch;
    use crate::testing::{BatchBuilder, random};

    const MAX: u32 = 1 << 20;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn scan(start: ScanStart, bytes: &[u8]) -> ScanReport {
        let mut scan = SegmentScan::new(start, MAX);
        scan.feed(bytes);
        scan.finish()
    }

    fn scan_log(base: i64, bytes: &[u8]) -> ScanReport {
        scan(ScanStart::of_log(at(base), at(base)), bytes)
    }

    #[test]
    fn a_file_that_ends_with_a_batch_is_whole() {
        let bytes = [BatchBuilder::at(5).records(3, 10).build(), BatchBuilder::at(20).build()].concat();
        let report = scan_log(5, &bytes);
        assert_eq!((report.stop, report.valid_position), (StopReason::End, bytes.len() as u64));
        assert_eq!((report.next_offset, report.batches, report.records), (at(21), 2, 3));
    }

    #[test]
    fn zeros_behind_the_data_end_it_however_few() {
        let clean = BatchBuilder::at(0).records(1, 10).build();
        for zeros in [1, 16, 17, 60, 61, 5000] {
            let mut bytes = clean.clone();
            bytes.resize(clean.len() + zeros, 0);
            let report = scan_log(0, &bytes);
            assert_eq!((report.stop, report.valid_position), (StopReason::ZeroTail, clean.len() as u64));
        }
        assert_eq!(scan_log(0, &[]).stop, StopReason::End);
    }

    #[test]
    fn an_older_batch_behind_the_end_is_out_of_order() {
        let mut bytes = BatchBuilder::at(10).records(2, 10).build();
        let valid = bytes.len() as u64;
        bytes.extend_from_slice(&BatchBuilder::at(11).records(1, 10).build());
        bytes.extend_from_slice(&BatchBuilder::at(12).records(1, 10).build());
        let report = scan_log(10, &bytes);
        let stop = StopReason::OutOfOrder { expected: at(12), base_offset: at(11), last_offset: at(11) };
        assert_eq!((report.stop, report.valid_position, report.next_offset), (stop, valid, at(12)));
    }

    #[test]
    fn only_the_first_batch_of_a_log_may_begin_below_its_start() {
        let bytes = BatchBuilder::at(0).records(5, 10).build();
        let report = scan(ScanStart::of_log(at(3), at(3)), &bytes);
        assert_eq!((report.stop, report.next_offset), (StopReason::End, at(5)));
        assert_eq!(report.stamp_epochs.entries()[0].start, at(3));
        assert!(matches!(scan_log(5, &bytes).stop, StopReason::OutOfOrder { .. }));
        let later = ScanStart { may_start_mid_batch: false, ..ScanStart::of_log(at(3), at(3)) };
        assert!(matches!(scan(later, &bytes).stop, StopReason::OutOfOrder { .. }));
    }

    #[test]
    fn a_batch_of_an_older_epoch_belongs_to_an_older_history() {
        let bytes = [
            BatchBuilder::at(0).leader_epoch(2).build(),
            BatchBuilder::at(1).leader_epoch(3).build(),
            BatchBuilder::at(2).leader_epoch(2).build(),
        ]
        .concat();
        let report = scan_log(0, &bytes);
        assert!(matches!(report.stop, StopReason::Epoch(EpochError::EpochWentBack { .. })));
        assert_eq!((report.valid_position, report.next_offset), (122, at(2)));
        assert_eq!(report.stamp_epochs.latest().unwrap().epoch, LeaderEpoch(3));
    }

    #[test]
    fn a_batch_that_the_index_cannot_name_stops_the_scan() {
        let bytes = BatchBuilder::at(1 << 31).build();
        let stop = StopReason::TooFar { segment_base: at(0), last_offset: at(1 << 31) };
        assert_eq!(scan_log(0, &bytes).stop, stop);
    }

    #[test]
    fn a_scan_goes_on_in_the_segment_that_follows() {
        let first = scan_log(0, &BatchBuilder::at(0).records(4, 10).transactional(7, 0, 0).build());
        assert_eq!(first.next_segment(at(3)), None);
        let second = first.next_segment(at(9)).unwrap();
        assert_eq!(second.open_transactions.first_open_offset(), Some(at(0)));
        let report = scan(second, &BatchBuilder::at(9).marker(7, 0, ControlKind::Abort).build());
        assert_eq!(report.pending.transaction.len(), 34);
        let torn = scan_log(0, &BatchBuilder::at(0).build()[..30]);
        assert_eq!((torn.stop, torn.next_segment(at(0))), (StopReason::Torn { bytes: 30 }, None));
    }

    #[test]
    fn nothing_is_read_behind_the_first_stop() {
        let mut scan = SegmentScan::new(ScanStart::of_log(at(0), at(0)), MAX);
        assert_eq!(scan.feed(&[0; 100]), ScanProgress::Stopped);
        assert_eq!(scan.feed(&BatchBuilder::at(0).build()), ScanProgress::Stopped);
        assert_eq!(scan.finish().batches, 0);
    }

    proptest! {
        #[test]
        fn a_scan_from_any_batch_ends_as_the_whole_scan(log in random::log(50, 1..20), from in any::<prop::sample::Index>()) {
            let bytes = log.concat();
            let whole = scan_log(50, &bytes);
            prop_assert_eq!(whole.stop, StopReason::End);
            prop_assert_eq!(whole.batches, log.len() as u64);
            let cut: usize = log[..from.index(log.len() + 1)].iter().map(Vec::len).sum();
            let first = scan_log(50, &bytes[..cut]);
            let start = ScanStart {
                position: first.valid_position,
                next_offset: first.next_offset,
                may_start_mid_batch: false,
                index: first.index,
                open_transactions: first.open_transactions.clone(),
                stamp_epochs: first.stamp_epochs.clone(),
                digest: first.digest,
            };
            let second = scan(start, &bytes[cut..]);
            let mut joined = first.pending;
            joined.offset.extend_from_slice(&second.pending.offset);
            joined.time.extend_from_slice(&second.pending.time);
            joined.transaction.extend_from_slice(&second.pending.transaction);
            prop_assert_eq!(&joined, &whole.pending);
            prop_assert_eq!(first.batches + second.batches, whole.batches);
            prop_assert_eq!(first.records + second.records, whole.records);
            let rest = |report: ScanReport| {
                (report.valid_position, report.next_offset, report.index, report.open_transactions, report.digest)
            };
            prop_assert_eq!(rest(second), rest(whole));
        }

        #[test]
        fn a_file_torn_at_any_byte_keeps_its_whole_batches(log in random::log(0, 1..8), at in any::<prop::sample::Index>(), zeros in 0usize..100) {
            let mut bytes = log.concat();
            let torn = at.index(bytes.len() + 1);
            bytes.truncate(torn);
            bytes.resize(torn + zeros, 0);
            let report = scan_log(0, &bytes);
            let mut whole = 0;
            let mut batches = 0;
            for batch in &log {
                // A batch whose lost end was zeros anyway is whole.
                let end = whole + batch.len();
                if end > bytes.len() || bytes[whole..end] != batch[..] {
                    break;
                }
                whole = end;
                batches += 1;
            }
            prop_assert_eq!((report.valid_position, report.batches), (whole as u64, batches));
        }

        #[test]
        fn the_pieces_do_not_matter(log in random::log(0, 1..6), piece in 1usize..300, tail in prop::collection::vec(any::<u8>(), 0..70)) {
            let mut bytes = log.concat();
            bytes.extend_from_slice(&tail);
            let mut scan = SegmentScan::new(ScanStart::of_log(at(0), at(0)), MAX);
            let mut pending = vec![];
            for piece in bytes.chunks(piece) {
                scan.feed(piece);
                pending.extend_from_slice(&scan.take_pending().offset);
            }
            let (pieces, whole) = (scan.finish(), scan_log(0, &bytes));
            prop_assert_eq!(pending, whole.pending.offset.clone());
            prop_assert_eq!((pieces.stop, pieces.valid_position, pieces.digest), (whole.stop, whole.valid_position, whole.digest));
        }
    }
}
