//! One partition verified: every batch of every segment, then what the small files and the journal say of it.
//!
//! ```text
//! segment by segment:   walk batches -> order, epochs, transactions, digest, indexes
//!                       at the first wrong byte of a segment: a problem; go on with the next segment
//! afterwards:           leader-epoch-checkpoint, partition.metadata, the journal's checkpoint
//! ```
//! Invariant: what is counted was proven; a batch behind a wrong one in the same segment is not counted,
//! because where it begins is not known. Must never change a file.

use super::indexes::{Found, SegmentIndexes};
use super::problem::{Problem, ProblemKind};
use super::report::PartitionReport;
use crate::recovery::segments::Segments;
use crate::store::StoreError;
use crate::store::files::{Files, PIECE_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::digest::LogDigest;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::{
    LEADER_EPOCH_FILE, PARTITION_METADATA_FILE, SegmentFile, TopicId, TopicPartition,
    parse_partition_metadata,
};
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::transaction::OpenTransactions;
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

/// Problems listed of one partition; the rest are counted. A damaged disk yields one per batch.
const PROBLEMS_MAX: usize = 100;

/// What is known of the partition.
pub(super) struct PartitionInput<'a> {
    pub link: &'a str,
    pub directory: &'a Path,
    pub partition: &'a TopicPartition,
    pub checkpoint: Option<&'a PartitionCheckpoint>,
    /// As recorded beside the log.
    pub log_start: Option<Offset>,
    pub batch_bytes_max: u32,
}

/// Where the verification of a partition is.
struct Verification<'a> {
    input: &'a PartitionInput<'a>,
    report: PartitionReport,
    open: OpenTransactions,
    stamps: EpochHistory,
    digest: LogDigest,
    next_offset: Offset,
    log_begins: Offset,
    /// The journal's position is the end of a batch.
    checkpoint_met: bool,
    /// What was open there was compared with what the journal says.
    open_compared: bool,
}

/// Verifies a partition; `read` is told of every piece.
pub(super) fn verify_partition(
    files: &mut Files<'_>,
    input: &PartitionInput<'_>,
    mut read: impl FnMut(u64),
) -> Result<PartitionReport, StoreError> {
    let segments = Segments::list(files, input.directory)?;
    let first = segments.logs().next().map(|(base, _)| base);
    let log_begins = first.or(input.checkpoint.map(|it| it.log_end)).unwrap_or(Offset::ZERO);
    let mut verification = Verification {
        input,
        report: PartitionReport {
            link: input.link.to_string(),
            partition: input.partition.to_string(),
            ..PartitionReport::default()
        },
        open: OpenTransactions::new(),
        stamps: EpochHistory::new(),
        digest: LogDigest::new(),
        next_offset: log_begins,
        log_begins,
        checkpoint_met: input.checkpoint.is_none_or(|checkpoint| checkpoint.position == 0),
        open_compared: false,
    };
    let logs: Vec<(Offset, u64)> = segments.logs().collect();
    for (index, (base, length)) in logs.iter().enumerate() {
        verification.meet_empty_segment(Some(*base));
        verification.segment(files, *base, *length, index + 1 == logs.len(), &mut read)?;
    }
    verification.meet_empty_segment(None);
    verification.small_files(files)?;
    verification.journal();
    verification.spool();
    Ok(verification.finish())
}

/// How a segment's walk ended.
enum End {
    Whole,
    /// Nothing but zeros from the position on, as far as it was looked.
    Zeros,
    Wrong(ProblemKind),
}

/// Where the walk through a segment is.
struct SegmentWalk {
    base: Offset,
    /// Where the segment before it ended.
    expected: Offset,
    position: u64,
    batches: u64,
}

impl Verification<'_> {
    fn problem(&mut self, file: String, position: u64, what: ProblemKind) {
        if self.report.problems.len() == PROBLEMS_MAX {
            self.report.problems_left_out += 1;
        } else {
            self.report.problems.push(Problem { file, position, what });
        }
    }

    fn segment(
        &mut self,
        files: &mut Files<'_>,
        base: Offset,
        length: u64,
        last: bool,
        read: &mut impl FnMut(u64),
    ) -> Result<(), StoreError> {
        let path = self.input.directory.join(SegmentFile::Log.name(base));
        self.report.segments += 1;
        let expected = self.next_offset;
        self.next_offset = expected.max(base);
        let mut found = Vec::new();
        let mut indexes =
            SegmentIndexes::read(files, self.input.directory, base, self.log_begins, &mut found)?;
        let mut walk = SegmentWalk { base, expected, position: 0, batches: 0 };
        let mut batches = BatchWalk::new(self.input.batch_bytes_max);
        let mut end = None;
        let mut read_to = 0;
        while read_to < length && end.is_none() {
            let piece = files.read(&path, read_to, PIECE_BYTES)?;
            if piece.is_empty() {
                break;
            }
            read_to += piece.len() as u64;
            read(piece.len() as u64);
            end = self.piece(&piece, &mut batches, &mut walk, &mut indexes, &mut found);
        }
        if base < expected || base > expected && walk.batches == 0 {
            self.problem(SegmentFile::Log.name(base), 0, ProblemKind::SegmentStart { expected, base });
        }
        let position = walk.position;
        let end = match (end, batches.bytes_in_progress()) {
            (Some(end), _) => end,
            (None, 0) => End::Whole,
            (None, bytes) => {
                let tail = files.read(&path, position, BATCH_HEADER_BYTES as u32)?;
                let zeros = tail.len() < BATCH_HEADER_BYTES && tail.iter().all(|byte| *byte == 0);
                if zeros { End::Zeros } else { End::Wrong(ProblemKind::Torn { bytes }) }
            }
        };
        if !matches!(end, End::Wrong(_)) {
            indexes.finish(!last, &mut found);
        }
        self.segment_end(files, base, position, length, last, end)?;
        self.index_problems(base, found);
        Ok(())
    }

    /// Takes a piece of a segment; says if the segment's batches end in it.
    fn piece(
        &mut self,
        mut rest: &[u8],
        batches: &mut BatchWalk,
        walk: &mut SegmentWalk,
        indexes: &mut SegmentIndexes,
        found: &mut Vec<Found>,
    ) -> Option<End> {
        loop {
            let (consumed, event) = batches.feed(rest);
            rest = &rest[consumed..];
            match event? {
                Ok(WalkEvent::Header(_)) => {}
                Ok(WalkEvent::Batch { header, control }) => {
                    // A higher base is right only where the gap is longer than an index entry can span.
                    let SegmentWalk { base, expected, .. } = *walk;
                    let in_reach = header.last_offset().delta_from(expected).is_some();
                    if walk.batches == 0 && base > expected && in_reach {
                        self.problem(
                            SegmentFile::Log.name(base),
                            0,
                            ProblemKind::SegmentStart { expected, base },
                        );
                    }
                    if let Err(what) = self.batch(base, walk.position, &header, control, indexes, found) {
                        return Some(End::Wrong(what));
                    }
                    walk.batches += 1;
                    walk.position += u64::from(header.total_bytes());
                    self.meet_checkpoint(base, walk.position);
                }
                Err(error) if error.is_zeros() => return Some(End::Zeros),
                Err(error) => return Some(End::Wrong(ProblemKind::Batch(error))),
            }
        }
    }

    fn index_problems(&mut self, base: Offset, found: Vec<Found>) {
        for (file, position, what) in found {
            self.problem(file.name(base), position, ProblemKind::Index(what));
        }
    }

    fn segment_end(
        &mut self,
        files: &mut Files<'_>,
        base: Offset,
        position: u64,
        length: u64,
        last: bool,
        end: End,
    ) -> Result<(), StoreError> {
        let name = SegmentFile::Log.name(base);
        let path = self.input.directory.join(&name);
        match end {
            End::Whole => {}
            End::Wrong(what) => self.problem(name, position, what),
            End::Zeros => {
                let mut at = position;
                while at < length {
                    let piece = files.read(&path, at, PIECE_BYTES)?;
                    if let Some(index) = piece.iter().position(|byte| *byte != 0) {
                        self.problem(name.clone(), at + index as u64, ProblemKind::BytesBehindZeros);
                        break;
                    }
                    if piece.is_empty() {
                        break;
                    }
                    at += piece.len() as u64;
                }
                let bytes = length - position;
                if last {
                    self.report.reserved_bytes = bytes;
                } else {
                    self.problem(name, position, ProblemKind::ReservedInClosed { bytes });
                }
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        base: Offset,
        position: u64,
        header: &BatchHeader,
        control: Option<ControlKind>,
        indexes: &mut SegmentIndexes,
        found: &mut Vec<Found>,
    ) -> Result<(), ProblemKind> {
        let (base_offset, last_offset) = (header.base_offset, header.last_offset());
        let expected = self.next_offset;
        // DeleteRecords can cut inside the first batch of a log.
        let lowest = if self.report.batches == 0 { last_offset } else { base_offset };
        if lowest < expected {
            return Err(ProblemKind::OutOfOrder { expected, base_offset, last_offset });
        }
        if last_offset.delta_from(base).is_none() || position > u64::from(u32::MAX >> 1) {
            return Err(ProblemKind::TooFar { last_offset });
        }
        let first_offset = base_offset.max(expected);
        self.stamps.record(header.leader_epoch, first_offset).map_err(ProblemKind::Epoch)?;
        let aborted = self.open.on_batch(header, control).map_err(ProblemKind::Transaction)?;
        indexes.on_batch(header, position, found);
        if let Some(kind) = control {
            // Behind the checkpoint the entry may not have been written yet; recovery writes it.
            let covered = self.input.checkpoint.is_none_or(|checkpoint| last_offset < checkpoint.log_end);
            indexes.on_marker(header, kind, aborted, covered, found);
        }
        self.report.gaps += u64::from(base_offset > expected);
        self.report.batches += 1;
        self.report.records += u64::from(header.record_count);
        self.report.bytes += u64::from(header.total_bytes());
        self.digest.on_batch(header);
        self.next_offset = header.next_offset();
        Ok(())
    }

    fn meet_checkpoint(&mut self, base: Offset, position: u64) {
        if let Some(checkpoint) = self.input.checkpoint
            && checkpoint.segment_base == base
            && checkpoint.position == position
            && checkpoint.log_end == self.next_offset
        {
            self.checkpoint_met = true;
            self.compare_open(checkpoint);
        }
    }

    /// A checkpoint at the very start of a segment is met before that segment's first batch, or behind all.
    fn meet_empty_segment(&mut self, base: Option<Offset>) {
        if let Some(checkpoint) = self.input.checkpoint
            && checkpoint.position == 0
            && base.is_none_or(|base| checkpoint.segment_base <= base)
            && checkpoint.log_end == self.next_offset
        {
            self.compare_open(checkpoint);
        }
    }

    /// Transactions that are open at the checkpoint: what the batches up to there say, and what the journal says.
    fn compare_open(&mut self, checkpoint: &PartitionCheckpoint) {
        // Behind a wrong byte, what is open is not known.
        let is_blind = checkpoint.removed || !self.report.problems.is_empty();
        if std::mem::replace(&mut self.open_compared, true) || is_blind {
            return;
        }
        let counted: BTreeMap<i64, Offset> = self.open.iter().collect();
        let recorded: BTreeMap<i64, Offset> = checkpoint.open_transactions.iter().collect();
        // One that began below what our files hold is known to the journal alone.
        let began_before =
            |producer_id: &i64| recorded.get(producer_id).is_some_and(|it| *it < self.log_begins);
        let producers: BTreeSet<i64> = counted.keys().chain(recorded.keys()).copied().collect();
        let differing = producers.into_iter().filter(|producer_id| !began_before(producer_id));
        let differing: Vec<ProblemKind> = differing
            .map(|producer_id| {
                (producer_id, counted.get(&producer_id).copied(), recorded.get(&producer_id).copied())
            })
            .filter(|(_, counted, recorded)| counted != recorded)
            .map(|(producer_id, counted, recorded)| ProblemKind::OpenTransactionDisagrees {
                producer_id,
                log: counted,
                checkpoint: recorded,
            })
            .collect();
        let name = SegmentFile::Log.name(checkpoint.segment_base);
        differing.into_iter().for_each(|what| self.problem(name.clone(), checkpoint.position, what));
    }

    fn small_files(&mut self, files: &mut Files<'_>) -> Result<(), StoreError> {
        let directory = self.input.directory;
        let Some(entries) = files.list(directory)? else {
            self.problem(String::new(), 0, ProblemKind::DirectoryMissing);
            return Ok(());
        };
        for entry in &entries {
            if let Some((base, file)) = SegmentFile::parse(&entry.name)
                && file != SegmentFile::Log
                && !entries.iter().any(|other| other.name == SegmentFile::Log.name(base))
            {
                self.problem(entry.name.clone(), 0, ProblemKind::IndexWithoutLog);
            }
        }
        match files.read_text(&directory.join(LEADER_EPOCH_FILE))? {
            None => self.problem(LEADER_EPOCH_FILE.to_string(), 0, ProblemKind::EpochFileMissing),
            Some(text) => match EpochHistory::parse(&text) {
                Err(error) => self.problem(LEADER_EPOCH_FILE.to_string(), 0, ProblemKind::EpochFile(error)),
                Ok(history) => self.compare_epochs(&history),
            },
        }
        match files.read_text(&directory.join(PARTITION_METADATA_FILE))? {
            None => self.problem(PARTITION_METADATA_FILE.to_string(), 0, ProblemKind::MetadataMissing),
            Some(text) => match parse_partition_metadata(&text) {
                Err(error) => {
                    self.problem(PARTITION_METADATA_FILE.to_string(), 0, ProblemKind::Metadata(error))
                }
                Ok(id) => self.compare_topic_id(id),
            },
        }
        Ok(())
    }

    /// The file says for each stamped part what its batches say; parts below the log start are forgotten.
    fn compare_epochs(&mut self, file: &EpochHistory) {
        let held_start = self.held_start();
        let starts: Vec<_> = self.stamps.entries().to_vec();
        for (index, entry) in starts.iter().enumerate() {
            let ends = starts.get(index + 1).map_or(self.next_offset, |next| next.start);
            let offset = entry.start.max(held_start);
            let said = file.epoch_of(offset);
            if offset < ends && said != Some(entry.epoch) {
                let what = ProblemKind::EpochDisagrees { offset, stamped: entry.epoch, file: said };
                self.problem(LEADER_EPOCH_FILE.to_string(), 0, what);
            }
        }
    }

    fn compare_topic_id(&mut self, metadata: TopicId) {
        self.report.topic_id = metadata.to_string();
        if let Some(checkpoint) = self.input.checkpoint.filter(|it| !it.removed && it.topic_id != metadata) {
            let what = ProblemKind::TopicId { metadata, checkpoint: checkpoint.topic_id };
            self.problem(PARTITION_METADATA_FILE.to_string(), 0, what);
        }
    }

    fn live(&self) -> Option<&PartitionCheckpoint> {
        self.input.checkpoint.filter(|checkpoint| !checkpoint.removed)
    }

    /// Where our files are to begin.
    fn held_start(&self) -> Offset {
        let known = [self.input.log_start, self.live().map(|it| it.held_start), Some(self.log_begins)];
        let held_start = known.into_iter().flatten().max().unwrap_or(Offset::ZERO);
        held_start.min(self.next_offset)
    }

    /// Where the topic begins: with a spool, below what is held.
    fn log_start(&self) -> Offset {
        match self.live().filter(|checkpoint| checkpoint.is_spool()) {
            Some(spool) => spool.log_start.max(self.input.log_start.unwrap_or(Offset::ZERO)),
            None => self.held_start(),
        }
    }

    /// A spool says to the segment what it holds.
    fn spool(&mut self) {
        let Some(spool) = self.live().filter(|checkpoint| checkpoint.is_spool()) else { return };
        let (expected, base) = (spool.held_start, self.log_begins);
        if base > expected {
            self.problem(SegmentFile::Log.name(base), 0, ProblemKind::SegmentStart { expected, base });
        }
    }

    fn journal(&mut self) {
        let Some(checkpoint) = self.live() else { return };
        let name = SegmentFile::Log.name(checkpoint.segment_base);
        let (position, checkpoint_end, log_end) = (checkpoint.position, checkpoint.log_end, self.next_offset);
        if checkpoint.truncating {
            self.problem(name, position, ProblemKind::TruncationPending { to: checkpoint_end });
        } else if checkpoint_end > log_end {
            self.problem(name, position, ProblemKind::CheckpointBeyondEnd { checkpoint_end, log_end });
        } else if !self.checkpoint_met {
            let what = ProblemKind::CheckpointNotAtBatch { position, log_end: checkpoint_end };
            self.problem(name, position, what);
        }
        self.source_epochs();
    }

    /// That they rise, the journal's decoder has proven. One that is noted before its first batch is flushed lies
    /// beyond the end only after a crash.
    fn source_epochs(&mut self) {
        let live = self.input.checkpoint.filter(|checkpoint| !checkpoint.removed);
        let Some(checkpoint) = live.filter(|checkpoint| !checkpoint.truncating) else { return };
        let was_closed = checkpoint.log_end == self.next_offset && self.report.reserved_bytes == 0;
        let is_outside =
            |start: Offset| start < checkpoint.log_start || was_closed && start > checkpoint.log_end;
        let entries = checkpoint.source_epochs.entries();
        let stray = entries.iter().filter(|entry| is_outside(entry.start));
        let stray: Vec<ProblemKind> = stray
            .map(|entry| ProblemKind::SourceEpochOutside {
                epoch: entry.epoch,
                start: entry.start,
                log_start: checkpoint.log_start,
                log_end: checkpoint.log_end,
            })
            .collect();
        let (name, position) = (SegmentFile::Log.name(checkpoint.segment_base), checkpoint.position);
        self.report.source_epochs = checkpoint.source_epochs.clone();
        stray.into_iter().for_each(|what| self.problem(name.clone(), position, what));
    }

    fn finish(mut self) -> PartitionReport {
        self.report.log_start = self.log_start().value();
        self.report.held_start = self.held_start().value();
        self.report.log_end = self.next_offset.value();
        self.report.open_transactions = self.open.len();
        self.report.digest = self.digest.to_string();
        self.report
    }
}
