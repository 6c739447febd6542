//! What left memory: segment files opened for reading, pieces of them read back, places found by headers.
//!
//! ```text
//!   records only on disk --> file open? --> read up to 1 MiB into the connection's buffer --> send.rs
//!   place not known      --> the same reads, header by header: | batch | batch | the one with the offset |
//! ```
//! Segments are read as they were written, by direct I/O where the disk takes it: copying out of the page cache
//! costs several times as much processor time as sending, and a follower that is behind is rarely followed by
//! another one close enough to find what it left there. Only what the writer calls in the file is read.

use super::super::Shard;
use super::super::operations::{Pending, SegmentKey, Work};
use super::super::served_log::Place;
use super::follower::FollowerIo;
use crate::pool::Class;
use twinlog_io::{Engine, FileKey, Job, JobOutcome, Operation, Span, Step, StepOutput, SystemError};
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader};
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::segment::{BLOCK_BYTES, align_down};

/// Files open for reading; beyond it the one that was opened first and is idle is closed. Each is a
/// descriptor that segments being written cannot have.
const READERS_MAX: usize = 64;

/// A segment file open for reading.
pub(in crate::shard) struct Reader {
    file: FileKey,
    open: bool,
    /// Reads under way.
    users: u32,
    /// Connections that go on when it is open.
    waiting: Vec<u32>,
    /// Its partition is gone; closed when the last read is over.
    orphan: bool,
}

/// An offset whose place is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct Walk {
    pub slot: u32,
    /// Where to look from.
    pub place: Place,
    pub wanted: Offset,
    /// Whose next fetch begins there; -1 for nobody's.
    pub replica: i32,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Send,
    Walk(Walk),
}

/// The one read of a connection.
#[derive(Default)]
pub(in crate::shard) struct Cold {
    pub buffer: Option<Span>,
    pub reading: bool,
    purpose: Option<Purpose>,
    slot: Option<u32>,
}

impl Cold {
    pub fn reads(&self, slot: u32) -> bool {
        self.reading && self.slot == Some(slot)
    }
}

impl FollowerIo {
    pub fn want_walk(&mut self, walk: Walk) {
        if !self.walks.iter().any(|known| (known.slot, known.wanted) == (walk.slot, walk.wanted)) {
            self.walks.push(walk);
        }
    }
}

/// Where a walk over these bytes, which begin at its place, gets to.
enum Walked {
    Found(Place),
    On(Place),
    /// No batch begins here: the log is not what it should be.
    Damaged,
}

fn walk_over(walk: &Walk, bytes: &[u8], batch_bytes_max: u32) -> Walked {
    let mut place = walk.place;
    let start = place.position;
    loop {
        let at = (place.position - start) as usize;
        let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk::<BATCH_HEADER_BYTES>()) else {
            return Walked::On(place);
        };
        let Ok(header) = BatchHeader::parse(header, batch_bytes_max) else { return Walked::Damaged };
        if header.last_offset() >= walk.wanted {
            return Walked::Found(place);
        }
        place.position += u64::from(header.total_bytes());
        place.offset = header.next_offset();
    }
}

impl<E: Engine> Shard<E> {
    /// How many bytes of a segment can be read from its file now; `None` when it is gone.
    fn readable(&mut self, key: SegmentKey) -> Option<u64> {
        let entry = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        if let Some(segment) = entry.log.segment(key.base) {
            return Some(segment.writer.in_file().min(segment.writer.servable().position));
        }
        entry.served.as_ref()?.closed_length(key.base)
    }

    /// Reads records of the part in front from their file.
    pub(in crate::shard) fn read_cold(&mut self, index: u32, key: SegmentKey, position: u64, length: u64) {
        self.start_read(index, key, position, length, Purpose::Send);
    }

    fn start_read(&mut self, index: u32, key: SegmentKey, position: u64, length: u64, purpose: Purpose) {
        let readable = self.readable(key).unwrap_or(0);
        if position >= readable {
            // Cut or deleted meanwhile: the follower asks anew.
            return self.close_follower(index);
        }
        let large = self.guests.followers[index as usize].as_ref().and_then(|follower| follower.cold.buffer);
        let buffer =
            large.or_else(|| self.pool.take(Class::Large)).or_else(|| self.pool.take(Class::Scratch));
        let Some(buffer) = buffer else {
            self.guests.waiting_for_memory.insert(index);
            return self.make_room();
        };
        self.follower_mut(index).cold.buffer = Some(buffer);
        let Some(file) = self.reader(key, index) else { return };
        // Direct I/O reads whole blocks.
        let aligned = align_down(position);
        let skip = (position - aligned) as u32;
        let wanted = length.min(readable - position);
        let whole = (u64::from(skip) + wanted).next_multiple_of(BLOCK_BYTES).min(u64::from(buffer.length));
        let into = Span { start: buffer.start, length: whole as u32 };
        let wanted = (whole - u64::from(skip)).min(wanted) as u32;
        let cold = &mut self.follower_mut(index).cold;
        (cold.reading, cold.purpose, cold.slot) = (true, Some(purpose), Some(key.slot));
        let pending = Pending::ReadCold { follower: index, file, skip, wanted };
        self.submit(pending, Operation::Read { file, position: aligned, into });
    }

    pub(in crate::shard) fn cold_read(
        &mut self,
        index: u32,
        file: FileKey,
        skip: u32,
        wanted: u32,
        result: Result<u32, SystemError>,
    ) {
        self.reader_let_go(file);
        let cold = &mut self.follower_mut(index).cold;
        cold.reading = false;
        cold.slot = None;
        let purpose = cold.purpose.take().expect("a read has its purpose");
        let buffer = cold.buffer.expect("a read has its buffer");
        if self.follower_mut(index).closed {
            return self.release_follower(index);
        }
        if !self.follower_mut(index).is_open() {
            return;
        }
        let usable = result.unwrap_or(0).saturating_sub(skip).min(wanted);
        if usable == 0 {
            return self.close_follower(index);
        }
        let span = Span { start: buffer.start + u64::from(skip), length: usable };
        match purpose {
            Purpose::Send => self.send_cold(index, span),
            Purpose::Walk(walk) => {
                let batch_bytes_max = self.options.batch_bytes_max;
                let walked = walk_over(&walk, self.engine.arena().bytes(span), batch_bytes_max);
                self.walked(index, walk, walked);
            }
        }
    }

    /// Goes on looking for a place, when the connection has nothing else to do.
    pub(in crate::shard) fn start_walk(&mut self, index: u32) {
        let Some(follower) = self.guests.followers[index as usize].as_mut() else { return };
        if !follower.outgoing.is_idle() || follower.cold.reading || !follower.is_open() {
            return;
        }
        let Some(walk) = follower.walks.first().copied() else { return };
        let key = SegmentKey { slot: walk.slot, base: walk.place.segment };
        let Some(entry) = self.slots[walk.slot as usize].as_mut() else { return };
        let writer = entry.log.segment(key.base).map(|segment| &mut segment.writer);
        let end = match &writer {
            Some(writer) => Some(writer.servable().position),
            None => entry.served.as_ref().and_then(|served| served.closed_length(key.base)),
        };
        if end.is_none_or(|end| walk.place.position >= end) {
            let next = entry.served.as_ref().and_then(|served| served.after(key.base));
            return self.walked(index, walk, Walked::Found(next.unwrap_or(walk.place)));
        }
        let pool = &mut self.pool;
        let in_memory = writer.and_then(|writer| {
            let span = writer.read_begins(walk.place.position, u32::MAX)?;
            let walked = walk_over(&walk, self.engine.arena().bytes(span), self.options.batch_bytes_max);
            writer.read_ends(pool, span);
            Some(walked)
        });
        match in_memory {
            Some(walked @ (Walked::Found(_) | Walked::Damaged)) => self.walked(index, walk, walked),
            Some(Walked::On(place)) if place != walk.place => self.walked(index, walk, Walked::On(place)),
            // The header itself crosses two images, or the bytes are only in the file.
            _ => self.start_read(index, key, walk.place.position, u64::MAX, Purpose::Walk(walk)),
        }
    }

    fn walked(&mut self, index: u32, walk: Walk, walked: Walked) {
        let place = match walked {
            Walked::Damaged => return self.close_follower(index),
            Walked::On(place) => {
                let follower = self.follower_mut(index);
                if let Some(first) = follower.walks.first_mut() {
                    first.place = place;
                }
                return self.start_walk(index);
            }
            Walked::Found(place) => place,
        };
        let follower = self.follower_mut(index);
        follower.walks.retain(|each| *each != walk);
        follower.session.news(walk.slot);
        if follower.walks.is_empty()
            && let Some(buffer) = follower.cold.buffer.take()
        {
            self.pool.give(buffer);
        }
        let Some(entry) = self.slots[walk.slot as usize].as_mut() else { return };
        if let Some((lead, served)) = entry.lead.as_mut().zip(entry.served.as_mut()) {
            served.found(place);
            if walk.replica >= 0 {
                lead.cursors.insert(walk.replica, (walk.wanted, place));
            }
        }
        self.answer_follower(index);
    }

    /// A file open for reading; otherwise it is opened, and the connection goes on then.
    fn reader(&mut self, key: SegmentKey, index: u32) -> Option<FileKey> {
        let name = (key.slot, key.base.value());
        if let Some(reader) = self.guests.readers.get_mut(&name) {
            if reader.open {
                reader.users += 1;
                return Some(reader.file);
            }
            reader.waiting.push(index);
            return None;
        }
        if self.guests.readers.len() >= READERS_MAX {
            self.close_idle_readers(1);
        }
        let Some(file) = self.free_files.pop() else {
            self.guests.waiting_for_memory.insert(index);
            return None;
        };
        let entry = self.slots[key.slot as usize].as_mut().expect("its records are being read");
        let path = entry.log.directory.join(SegmentFile::Log.name(key.base));
        let direct = self.options.direct_io;
        let reader = Reader { file, open: false, users: 0, waiting: vec![index], orphan: false };
        self.guests.readers.insert(name, reader);
        self.guests.reader_order.push(key);
        let job = Job::new(vec![Step::Open { file, path, create: false, direct }]);
        self.submit(Pending::Job(Work::OpenReader { file }), Operation::Job(job));
        None
    }

    pub(in crate::shard) fn reader_opened(&mut self, file: FileKey, outcome: &JobOutcome) {
        let name = self.guests.readers.iter().find(|(_, reader)| reader.file == file).map(|(name, _)| *name);
        let name = name.expect("a file that is being opened is listed");
        let opened = matches!(outcome.outputs.first(), Some(StepOutput::Opened { .. }));
        let reader = self.guests.readers.get_mut(&name).expect("just found");
        let waiting = std::mem::take(&mut reader.waiting);
        reader.open = opened;
        if !opened {
            self.guests.readers.remove(&name);
            self.guests.reader_order.retain(|key| (key.slot, key.base.value()) != name);
            self.free_files.push(file);
        } else if reader.orphan {
            self.close_orphans();
        }
        for index in waiting {
            let open = self.guests.followers[index as usize].as_ref().is_some_and(FollowerIo::is_open);
            match (open, opened) {
                (false, _) => {}
                (true, false) => self.close_follower(index),
                (true, true) => {
                    self.pump(index);
                    self.start_walk(index);
                }
            }
        }
    }

    fn reader_let_go(&mut self, file: FileKey) {
        let reader = self.guests.readers.values_mut().find(|reader| reader.file == file);
        let reader = reader.expect("a file with reads is listed");
        reader.users -= 1;
        if reader.orphan {
            self.close_orphans();
        }
    }

    /// Closes up to `count` files that nobody reads, the first opened first.
    pub(in crate::shard) fn close_idle_readers(&mut self, count: usize) {
        let idle = |key: &&SegmentKey| {
            let reader = &self.guests.readers[&(key.slot, key.base.value())];
            reader.open && reader.users == 0
        };
        let idle: Vec<SegmentKey> =
            self.guests.reader_order.iter().filter(idle).take(count).copied().collect();
        for key in idle {
            self.close_reader((key.slot, key.base.value()));
            self.guests.reader_order.retain(|each| *each != key);
        }
    }

    fn close_reader(&mut self, name: (u32, i64)) {
        let reader = self.guests.readers.remove(&name).expect("it is listed");
        let file = reader.file;
        self.submit(Pending::CloseReader { file }, Operation::CloseFile { file });
    }

    /// A slot's number may be another partition's soon: its files must not be found under it any more.
    pub(in crate::shard) fn close_readers_of(&mut self, slot: u32) {
        self.close_readers_below(slot, i64::MAX);
    }

    /// Segments below `base` are being deleted: an open file would keep their bytes on the disk.
    pub(in crate::shard) fn close_readers_below(&mut self, slot: u32, base: i64) {
        let names: Vec<(u32, i64)> =
            self.guests.readers.range((slot, i64::MIN)..(slot, base)).map(|(name, _)| *name).collect();
        for name in names {
            self.guests.reader_order.retain(|key| (key.slot, key.base.value()) != name);
            let mut reader = self.guests.readers.remove(&name).expect("just listed");
            reader.orphan = true;
            // Under a name that no slot has.
            self.guests.readers.insert((u32::MAX, i64::from(reader.file.0)), reader);
        }
        self.close_orphans();
    }

    fn close_orphans(&mut self) {
        let done = |reader: &Reader| reader.orphan && reader.open && reader.users == 0;
        let names: Vec<(u32, i64)> =
            self.guests.readers.iter().filter(|(_, reader)| done(reader)).map(|(name, _)| *name).collect();
        names.into_iter().for_each(|name| self.close_reader(name));
    }
}
