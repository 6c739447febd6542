//! One segment file being written: images that bytes are received into, and which writes are due.
//!
//! ```text
//!   file   0 ....... completed ....... submitted ........ verified ........ filled ......... allocated
//!          | on disk            | in flight | whole, checked   | a batch on its way | reserved, zeros |
//!   images        [  image, 1 MiB  ][  image, 1 MiB  ][  image: the socket writes at `filled`  ]
//! ```
//! Byte i of an image is byte base + i of the file, so a batch is received where it will lie on disk, and
//! whole 4 KiB blocks go out by direct I/O without a copy. An image is written when every byte in it is
//! verified; only a batch larger than [`HELD_IMAGES_MAX`] images is written before its CRC is known, and
//! stays beyond the log's end until it is.
//! A flush writes the last, partial block from a bounce block padded with zeros, never from memory that a
//! receive may still fill; while it is in flight no other write of the segment starts, because the next
//! one rewrites the same block and completions come in any order.
//!
//! Readers (followers of the partition) send straight from the images: an image with readers is never given
//! back or received into below what they read.
//!
//! Knows no engine: it says what to write and is told what completed. `Mark`s tie byte positions to offsets.

use crate::pool::{Class, Pool};
use std::collections::VecDeque;
use twinlog_io::Arena;
use twinlog_io::Span;
use twinlog_log_segment::batch::BATCH_HEADER_BYTES;
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::segment::{BLOCK_BYTES, align_down};

/// Images that wait for the end of a batch before the first is written unverified. Raising it lets one
/// large batch hold more memory back.
pub const HELD_IMAGES_MAX: usize = 4;
/// Writes of one segment under way: enough to keep a disk busy from a single partition.
pub const WRITES_MAX: usize = 8;

/// A position in the file up to which all batches are whole, and the offset after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub position: u64,
    pub next: Offset,
}

struct Image {
    span: Span,
    /// File position of its first byte; a multiple of 4 KiB.
    base: u64,
    /// The last whole batch when the image became full.
    full_mark: Option<Mark>,
    /// Sends under way from its bytes.
    readers: u32,
}

impl Image {
    fn end(&self) -> u64 {
        self.base + u64::from(self.span.length)
    }

    fn part(&self, from: u64, to: u64) -> Span {
        assert!(self.base <= from && from <= to && to <= self.end());
        let length = u32::try_from(to - from).expect("an image is at most 1 MiB");
        Span { start: self.span.start + (from - self.base), length }
    }
}

/// A write that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlan {
    pub position: u64,
    pub span: Span,
    /// The span is a bounce block of the pool, to be given back when the write is over.
    pub bounce: bool,
    /// Names the write in [`SegmentWriter::write_done`].
    pub number: u64,
}

struct UnderWay {
    number: u64,
    end: u64,
    mark: Mark,
    bounce: bool,
    done: bool,
}

/// Where the next bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Into(Span),
    /// The pool is empty.
    NoMemory,
    /// The last block must be read back first: `position` of the file into the span.
    Load {
        position: u64,
        into: Span,
    },
    /// The last block is being read back, or a withdrawn write must complete first.
    Wait,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "writer: {} images, filled {}, verified {}, submitted {}, completed {}, wanted {}, {} under way, \
             barrier {:?}, loading {}, receiving {}, withdrawn {}",
            self.images.len(),
            self.filled,
            self.verified.position,
            self.submitted,
            self.completed.position,
            self.wanted,
            self.under_way.len(),
            self.barrier.map(|mark| mark.position),
            self.loading,
            self.receiving,
            self.withdrawn
        )
    }
}

/// See the file's header.
pub struct SegmentWriter {
    images: VecDeque<Image>,
    filled: u64,
    verified: Mark,
    /// Whole blocks up to here were given to writes.
    submitted: u64,
    /// Everything up to this mark is in the file.
    completed: Mark,
    under_way: VecDeque<UnderWay>,
    numbers: u64,
    /// Position that a flush wants in the file, tail included.
    wanted: u64,
    /// What lies above must not be written yet: the source epoch there is not durable (decisions 3).
    barrier: Option<Mark>,
    loading: bool,
    /// A receive straight into the last image is under way.
    receiving: bool,
    /// Bytes that were already given to a write were withdrawn: start from the disk's last good block.
    withdrawn: bool,
    /// Images up to here are in the file.
    written: u64,
    /// Images that are gone from the segment but for their readers.
    orphans: Vec<Image>,
}

impl SegmentWriter {
    /// A segment whose first `position` bytes are in its file and end before `next`.
    pub fn new(position: u64, next: Offset) -> Self {
        let mark = Mark { position, next };
        Self {
            images: VecDeque::new(),
            filled: position,
            verified: mark,
            submitted: align_down(position),
            completed: mark,
            under_way: VecDeque::new(),
            numbers: 0,
            wanted: 0,
            barrier: None,
            loading: false,
            receiving: false,
            withdrawn: false,
            written: 0,
            orphans: Vec::new(),
        }
    }

    pub fn filled(&self) -> u64 {
        self.filled
    }
    pub fn verified(&self) -> Mark {
        self.verified
    }
    /// What is in the file, as far as whole batches go.
    pub fn completed(&self) -> Mark {
        self.completed
    }
    /// How far the file holds bytes, batches that are not whole there included.
    pub fn in_file(&self) -> u64 {
        self.written.max(self.completed.position)
    }
    pub fn is_cold(&self) -> bool {
        self.images.is_empty() && !self.loading
    }
    /// Nothing is in memory that is not in the file, and no operation is under way.
    pub fn is_settled(&self) -> bool {
        self.under_way.is_empty()
            && !self.loading
            && !self.receiving
            && self.orphans.is_empty()
            && self.completed.position == self.filled
    }

    /// Where the next of `expected_bytes` are to be received.
    pub fn place(&mut self, pool: &mut Pool, expected_bytes: u32) -> Place {
        if self.loading {
            return Place::Wait;
        }
        if self.withdrawn {
            if !self.under_way.is_empty() {
                return Place::Wait;
            }
            self.start_over(pool);
        }
        if let Some(image) = self.images.back()
            && self.filled < image.end()
        {
            return Place::Into(image.part(self.filled, image.end()));
        }
        let class = if expected_bytes >= Class::Scratch.bytes() { Class::Large } else { Class::Small };
        let Some(span) = pool.take(class).or_else(|| pool.take(Class::Small)) else {
            return Place::NoMemory;
        };
        let base = align_down(self.filled);
        self.images.push_back(Image { span, base, full_mark: None, readers: 0 });
        if base == self.filled {
            return Place::Into(span);
        }
        assert!(self.images.len() == 1, "only the first image starts inside a block");
        self.loading = true;
        Place::Load { position: base, into: Span { start: span.start, length: BLOCK_BYTES as u32 } }
    }

    fn start_over(&mut self, pool: &mut Pool) {
        for image in self.images.drain(..) {
            if image.readers > 0 {
                self.orphans.push(image);
            } else {
                pool.give(image.span);
            }
        }
        self.withdrawn = false;
        self.submitted = align_down(self.filled);
        self.written = self.written.min(self.submitted);
    }

    /// The last block is back in memory.
    pub fn loaded(&mut self) {
        assert!(self.loading);
        self.loading = false;
    }

    /// The last block cannot be read now: its image goes back and the place is asked for again.
    pub fn load_failed(&mut self, pool: &mut Pool) {
        assert!(self.loading && self.images.len() == 1);
        self.loading = false;
        for image in self.images.drain(..) {
            pool.give(image.span);
        }
    }

    /// The kernel fills the place given; the image stays until [`Self::received`].
    pub fn receive_begins(&mut self) {
        self.receiving = true;
    }

    /// `bytes` were received at the place given, 0 if none came. Returns where they lie.
    pub fn received(&mut self, bytes: u32) -> Span {
        self.receiving = false;
        let image = self.images.back_mut().expect("bytes are received into an image");
        let span = image.part(self.filled, self.filled + u64::from(bytes));
        self.filled += u64::from(bytes);
        if self.filled == image.end() {
            image.full_mark = Some(self.verified);
        }
        span
    }

    /// Everything up to `position` is whole and checked; `next` is the offset after it.
    pub fn verify(&mut self, position: u64, next: Offset) {
        assert!(self.verified.position < position && position <= self.filled);
        self.verified = Mark { position, next };
        // The piece that filled the image may hold the ends of several batches.
        if let Some(image) = self.images.back_mut()
            && image.full_mark.is_some()
            && position <= image.end()
        {
            image.full_mark = Some(self.verified);
        }
    }

    /// Overwrites bytes of a batch in progress: the stamp of its leader epoch.
    pub fn stamp(&self, arena: &mut Arena, position: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = position + index as u64;
            let holder = self.images.iter().rev().find(|image| image.base <= at && at < image.end());
            let image = holder.expect("a header in progress is held in memory");
            arena.bytes_mut(image.part(at, at + 1))[0] = *byte;
        }
    }

    /// Forgets received bytes that are not verified: a partial batch, or one that is refused.
    pub fn drop_unverified(&mut self, pool: &mut Pool) {
        if self.filled == self.verified.position {
            return;
        }
        self.filled = self.verified.position;
        while let Some(image) = self.images.back()
            && image.base >= self.filled
            && image.base >= self.submitted
        {
            pool.give(image.span);
            self.images.pop_back();
        }
        if self.submitted > self.filled {
            self.withdrawn = true;
        } else if let Some(image) = self.images.back_mut() {
            // It may be full exactly at the end of the last batch, and then that mark stands.
            if self.filled < image.end() {
                image.full_mark = None;
            }
        }
    }

    /// What lies above the verified end must wait until [`Self::lift_barrier`].
    pub fn raise_barrier(&mut self, mark: Mark) {
        self.barrier.get_or_insert(mark);
    }

    pub fn has_barrier(&self) -> bool {
        self.barrier.is_some()
    }

    pub fn lift_barrier(&mut self) {
        self.barrier = None;
    }

    /// Asks for everything verified so far to be written. Returns the mark that will then be complete.
    pub fn want_all(&mut self) -> Mark {
        let mark = self.servable();
        self.wanted = self.wanted.max(mark.position);
        mark
    }

    /// What may be written, and what readers may be given: everything verified below the barrier.
    pub fn servable(&self) -> Mark {
        match self.barrier {
            Some(barrier) if barrier.position < self.verified.position => barrier,
            _ => self.verified,
        }
    }

    /// The position up to which the next write needs the file to reach, for preallocation.
    pub fn reach(&self) -> u64 {
        self.images.back().map_or(self.filled, Image::end)
    }

    /// The next write that is due, if any. `limit` is how far the file is allocated; `pressed` writes a
    /// full image whose last batch is not whole yet because memory is short.
    pub fn next_write(
        &mut self,
        arena: &mut Arena,
        pool: &mut Pool,
        limit: u64,
        pressed: bool,
    ) -> Option<WritePlan> {
        let tail_under_way = self.under_way.iter().any(|each| each.bounce);
        if tail_under_way || self.withdrawn || self.loading || self.under_way.len() >= WRITES_MAX {
            return None;
        }
        let index = self.images.iter().position(|image| image.end() > self.submitted)?;
        let held = self.images.len() - index;
        let image = &self.images[index];
        let writable = self.servable();
        let whole = image.end() <= writable.position
            || (self.barrier.is_none()
                && image.end() <= self.filled
                && (held > HELD_IMAGES_MAX || pressed)
                // The header of the batch in progress must have been stamped before it leaves.
                && self.filled - self.verified.position >= BATCH_HEADER_BYTES as u64);
        // Not `submitted`: whole blocks beyond what was wanted may be out while their last batch is not.
        let flush_due = self.wanted > self.last_mark().position;
        let (from, to) = if whole {
            (self.submitted, image.end())
        } else if flush_due {
            (self.submitted, align_down(writable.position))
        } else {
            return None;
        };
        if to > from {
            let mark = match image.full_mark {
                Some(mark) if whole => mark,
                _ if to == writable.position => writable,
                _ => self.last_mark(),
            };
            let span = image.part(from, to);
            return (to <= limit).then(|| self.start_write(from, to, span, mark, false));
        }
        self.tail_write(arena, pool, limit, index, writable)
    }

    fn last_mark(&self) -> Mark {
        self.under_way.back().map_or(self.completed, |last| last.mark)
    }

    fn tail_write(
        &mut self,
        arena: &mut Arena,
        pool: &mut Pool,
        limit: u64,
        index: usize,
        writable: Mark,
    ) -> Option<WritePlan> {
        let block = align_down(writable.position);
        if block + BLOCK_BYTES > limit || writable.position == block || block < self.submitted {
            return None;
        }
        let bounce = pool.take(Class::Block)?;
        let part = self.images[index].part(block, writable.position);
        arena.copy_within(part, bounce.start);
        let padding =
            Span { start: bounce.start + u64::from(part.length), length: bounce.length - part.length };
        arena.bytes_mut(padding).fill(0);
        Some(self.start_write(block, writable.position, bounce, writable, true))
    }

    fn start_write(&mut self, from: u64, end: u64, span: Span, mark: Mark, bounce: bool) -> WritePlan {
        self.numbers += 1;
        if !bounce {
            self.submitted = end;
        }
        self.under_way.push_back(UnderWay { number: self.numbers, end, mark, bounce, done: false });
        WritePlan { position: from, span, bounce, number: self.numbers }
    }

    /// A write is in the file as a whole. Returns whether the completed mark moved.
    pub fn write_done(&mut self, pool: &mut Pool, number: u64) -> bool {
        let write = self.under_way.iter_mut().find(|each| each.number == number);
        write.expect("a write completes once").done = true;
        let before = self.completed;
        while let Some(front) = self.under_way.front()
            && front.done
        {
            let done = self.under_way.pop_front().expect("just seen");
            if done.mark.position > self.completed.position {
                self.completed = done.mark;
            }
            self.release_up_to(pool, if done.bounce { 0 } else { done.end });
        }
        self.completed != before
    }

    fn release_up_to(&mut self, pool: &mut Pool, end: u64) {
        self.written = self.written.max(end);
        while let Some(image) = self.images.front()
            && image.end() <= self.written
            && image.readers == 0
            && !self.withdrawn
        {
            pool.give(image.span);
            self.images.pop_front();
        }
    }

    /// Lends at most `length_max` bytes of memory that begin at `position`, none of them beyond what may be
    /// served; nothing when they are only in the file. [`Self::read_ends`] gives them back.
    pub fn read_begins(&mut self, position: u64, length_max: u32) -> Option<Span> {
        let limit = self.servable().position;
        let image = self.images.iter_mut().find(|image| image.base <= position && position < image.end())?;
        // The first image of a segment that was cold holds its last block only from where it was filled.
        let end = image.end().min(limit).min(position + u64::from(length_max));
        if self.loading || end <= position {
            return None;
        }
        image.readers += 1;
        Some(image.part(position, end))
    }

    /// The send of a span that [`Self::read_begins`] lent is over.
    pub fn read_ends(&mut self, pool: &mut Pool, span: Span) {
        let holds = |image: &Image| image.span.start <= span.start && span.end() <= image.span.end();
        if let Some(image) = self.images.iter_mut().find(|image| holds(image) && image.readers > 0) {
            image.readers -= 1;
            return self.release_up_to(pool, 0);
        }
        let index = self.orphans.iter().position(holds).expect("a lent span lies in an image that stays");
        self.orphans[index].readers -= 1;
        if self.orphans[index].readers == 0 {
            pool.give(self.orphans.swap_remove(index).span);
        }
    }

    /// Lets the images go when all of it is in the file and nobody reads them. Returns whether the segment is
    /// cold now.
    pub fn release(&mut self, pool: &mut Pool) -> bool {
        if !self.is_settled() || self.images.iter().any(|image| image.readers > 0) {
            return false;
        }
        for image in self.images.drain(..) {
            pool.give(image.span);
        }
        self.submitted = align_down(self.filled);
        self.withdrawn = false;
        true
    }
}

#[cfg(test)]
#[path = "segment_writer_tests.rs"]
mod tests;
