//! Writes a partition's files as a shard does, on the disk of the tests: batches, indexes, rolls, flushes.
//!
//! Owns [`WrittenLog`]. It must never do what a shard does not: a flush syncs the log, a checkpoint appends
//! the indexes without syncing them, a roll syncs and trims what it closes.

use crate::journal;
use crate::memory_disk::MemoryDisk;
use crate::recovery::{RecoverRequest, RecoveredPartition, recover_partition};
use std::path::PathBuf;
use twinlog_io::{Disk, Step};
use twinlog_log_segment::batch::BatchHeader;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::{SegmentFile, TopicId, TopicPartition};
use twinlog_log_segment::index::{IndexState, PendingIndexes};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

pub(crate) const BATCH_BYTES_MAX: u32 = 1 << 20;
pub(crate) const TOPIC_ID: TopicId = TopicId([7; 16]);

pub(crate) fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// With nothing but the data directory.
pub(crate) fn empty_disk() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    run(&mut disk, Step::MakeDirectory { path: PathBuf::from("/data") });
    disk.settle();
    disk
}

pub(crate) fn directory() -> PathBuf {
    PathBuf::from("/data/link/orders-3")
}

pub(crate) fn journal_directory() -> PathBuf {
    journal::directory_of(&directory())
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new("orders", 3).unwrap()
}

pub(crate) fn request(checkpoint: Option<PartitionCheckpoint>) -> RecoverRequest {
    RecoverRequest {
        directory: directory(),
        partition: partition(),
        topic_id: TOPIC_ID,
        checkpoint,
        start_offset: Offset::ZERO,
        followed: false,
        batch_bytes_max: BATCH_BYTES_MAX,
    }
}

/// What the journals of the link say of the partition.
pub(crate) fn journaled(disk: &mut MemoryDisk) -> Option<PartitionCheckpoint> {
    journal::load(disk, &journal_directory()).unwrap().checkpoints.remove(&partition())
}

/// A start: journal, then recovery.
pub(crate) fn restart(disk: &mut MemoryDisk) -> RecoveredPartition {
    let checkpoint = journaled(disk);
    recover_partition(disk, &request(checkpoint)).unwrap_or_else(|error| panic!("{error}"))
}

/// All bytes of all logs, in order.
pub(crate) fn stored(disk: &MemoryDisk) -> Vec<u8> {
    let logs = disk.files().into_iter().filter(|path| path.starts_with(directory()));
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.flat_map(|path| disk.file(&path).unwrap()).collect()
}

/// One record of so many bytes.
pub(crate) fn batch(offset: i64, value_bytes: usize) -> BatchBuilder {
    BatchBuilder::at(offset).records(1, value_bytes).timestamps(1000 + offset, 1000 + offset)
}

/// See the file's header.
pub(crate) struct WrittenLog {
    /// As it would be written now, if all were flushed.
    pub state: PartitionCheckpoint,
    pending: PendingIndexes,
}

impl WrittenLog {
    /// Goes on where recovery ended.
    pub fn resume(recovered: &RecoveredPartition) -> WrittenLog {
        WrittenLog { state: recovered.checkpoint.clone(), pending: PendingIndexes::new() }
    }

    /// A partition that was never seen before; its first epoch is in the journal.
    pub fn begin(disk: &mut MemoryDisk) -> WrittenLog {
        let mut log = WrittenLog::resume(&restart(disk));
        let start = log.state.log_end;
        log.state.source_epochs.record(LeaderEpoch(4), start).unwrap();
        log
    }

    fn path(&self, file: SegmentFile) -> PathBuf {
        directory().join(file.name(self.state.segment_base))
    }

    pub fn append(&mut self, disk: &mut MemoryDisk, builder: BatchBuilder) {
        let bytes = builder.leader_epoch(self.state.stamp_epoch().0).build();
        let mut walk = BatchWalk::new(BATCH_BYTES_MAX);
        let header = BatchHeader::parse(bytes.first_chunk().unwrap(), BATCH_BYTES_MAX).unwrap();
        let mut rest = &bytes[..];
        let control = loop {
            let (consumed, event) = walk.feed(rest);
            rest = &rest[consumed..];
            if let WalkEvent::Batch { control, .. } = event.unwrap().unwrap() {
                break control;
            }
        };
        let position = self.state.position;
        let path = self.path(SegmentFile::Log);
        if position == 0 {
            run(disk, Step::WriteAt { path: path.clone(), position: 0, bytes: Vec::new(), create: true });
            run(disk, Step::SyncDirectory { path: directory() });
        }
        run(
            disk,
            Step::Allocate { path: path.clone(), length: (position + bytes.len() as u64 + 8192) & !4095 },
        );
        run(disk, Step::WriteAt { path, position, bytes, create: false });
        let aborted = self.state.open_transactions.on_batch(&header, control).unwrap();
        self.state.index.on_batch(&header, position as u32, &mut self.pending);
        aborted.iter().for_each(|aborted| self.pending.push_aborted(aborted));
        self.state.position += u64::from(header.total_bytes());
        self.state.log_end = header.next_offset();
    }

    fn write_indexes(&mut self, disk: &mut MemoryDisk) {
        let pending = std::mem::take(&mut self.pending);
        let state = &mut self.state;
        let files = [
            (SegmentFile::OffsetIndex, pending.offset, &mut state.offset_index_bytes),
            (SegmentFile::TimeIndex, pending.time, &mut state.time_index_bytes),
            (SegmentFile::TransactionIndex, pending.transaction, &mut state.transaction_index_bytes),
        ];
        for (file, bytes, size) in files {
            let position = *size;
            *size += bytes.len() as u64;
            if !bytes.is_empty() {
                let path = directory().join(file.name(state.segment_base));
                run(disk, Step::WriteAt { path, position, bytes, create: true });
            }
        }
    }

    pub fn roll(&mut self, disk: &mut MemoryDisk) {
        self.state.index.close(&mut self.pending);
        self.write_indexes(disk);
        run(disk, Step::Truncate { path: self.path(SegmentFile::Log), length: self.state.position });
        for file in SegmentFile::ALL {
            let path = self.path(file);
            if disk.file(&path).is_some() {
                run(disk, Step::SyncFile { path });
            }
        }
        run(disk, Step::SyncDirectory { path: directory() });
        let base = self.state.log_end;
        self.state.segment_base = base;
        self.state.position = 0;
        self.state.index = IndexState::new(base);
        self.state.offset_index_bytes = 0;
        self.state.time_index_bytes = 0;
        self.state.transaction_index_bytes = 0;
    }

    /// Gives back what was only reserved, as a shard does that lets go of a partition.
    pub fn let_go(&mut self, disk: &mut MemoryDisk) {
        run(disk, Step::Truncate { path: self.path(SegmentFile::Log), length: self.state.position });
    }

    /// Syncs the log, appends the indexes, writes the journal.
    pub fn checkpoint(&mut self, disk: &mut MemoryDisk) -> PartitionCheckpoint {
        if self.state.position > 0 {
            run(disk, Step::SyncFile { path: self.path(SegmentFile::Log) });
        }
        self.write_indexes(disk);
        self.state.generation += 1;
        let mut bytes = Vec::new();
        self.state.encode(&mut bytes);
        run(disk, Step::MakeDirectory { path: journal_directory() });
        for path in journal_directory().ancestors().skip(1) {
            run(disk, Step::SyncDirectory { path: path.to_path_buf() });
        }
        run(disk, Step::Replace { path: journal_directory().join("journal-0"), bytes });
        self.state.clone()
    }
}

fn run(disk: &mut MemoryDisk, step: Step) {
    disk.run(&step).unwrap_or_else(|error| panic!("{step:?}: {error}"));
}
