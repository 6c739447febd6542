//! Our batches held against the source's, byte for byte but for bytes 12..16.
//!
//! ```text
//! ours    │ batch │ batch │ batch │ ...        from the segment files
//!            =       =       ≠                 the first difference ends it
//! theirs  │ batch │ batch │ batch │ ...        from a source, chunk by chunk, each from the offset reached
//! ```
//! The leader epoch in bytes 12..16 is local to a cluster and is not compared; everything else is.
//! Owns the comparison; where the source's bytes come from is the caller's [`SourceBatches`]. It holds one
//! batch of ours and one chunk of theirs, never a segment. Must never skip a batch of either side.

use crate::recovery::segments::Segments;
use crate::store::StoreError;
use crate::store::cut::Place;
use crate::store::files::{Files, PIECE_BYTES};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use twinlog_io::Disk;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader, LEADER_EPOCH_AT};
use twinlog_log_segment::files::SegmentFile;
use twinlog_log_segment::offset::Offset;

/// The source's log, as a consumer reads it.
pub trait SourceBatches {
    type Error;

    /// Batches from the one that holds `offset` on: as a Fetch answers, so the first may begin below, and the
    /// last may be cut off. Empty at the end of the log.
    fn next_chunk(&mut self, offset: Offset) -> Result<Vec<u8>, Self::Error>;
}

/// What was compared, and where it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub batches: u64,
    pub bytes: u64,
    /// Equal from here ...
    pub from: i64,
    /// ... up to here.
    pub to: i64,
    pub difference: Option<Difference>,
}

/// The first place where two logs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Difference {
    /// We hold a batch where the source has none any more.
    OnlyOurs {
        base_offset: i64,
    },
    /// The source has a batch that we do not hold.
    OnlyTheirs {
        base_offset: i64,
    },
    Length {
        base_offset: i64,
        ours_bytes: u32,
        theirs_bytes: u32,
    },
    Byte {
        base_offset: i64,
        at: usize,
        ours: u8,
        theirs: u8,
    },
    /// What the source sent is no batch.
    Unreadable {
        offset: i64,
    },
    /// What we hold is no batch.
    OursUnreadable {
        offset: i64,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::OnlyOurs { base_offset } => {
                write!(f, "the source has no batch at offset {base_offset}, where the mirror has one")
            }
            Difference::OnlyTheirs { base_offset } => {
                write!(f, "the mirror has no batch at offset {base_offset}, where the source has one")
            }
            Difference::Length { base_offset, ours_bytes, theirs_bytes } => write!(
                f,
                "the batch at offset {base_offset} has {ours_bytes} bytes in the mirror and {theirs_bytes} at the \
                 source"
            ),
            Difference::Byte { base_offset, at, ours, theirs } => write!(
                f,
                "byte {at} of the batch at offset {base_offset} is {ours:#04x} in the mirror and {theirs:#04x} at \
                 the source"
            ),
            Difference::Unreadable { offset } => {
                write!(f, "the source's answer at offset {offset} is no batch")
            }
            Difference::OursUnreadable { offset } => {
                write!(
                    f,
                    "the mirror's log at offset {offset} is no batch: run `twinlog verify` without a source"
                )
            }
        }
    }
}

/// Why a comparison could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareError<E> {
    Store(StoreError),
    Source(E),
}

impl<E: fmt::Display> fmt::Display for CompareError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompareError::Store(error) => error.fmt(f),
            CompareError::Source(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> std::error::Error for CompareError<E> {}

/// Compares what the mirror holds between two offsets with the source.
pub fn compare_partition<S: SourceBatches>(
    disk: &mut dyn Disk,
    directory: &Path,
    from: Offset,
    to: Offset,
    batch_bytes_max: u32,
    source: &mut S,
) -> Result<Comparison, CompareError<S::Error>> {
    let mut files = Files::new(disk);
    let mut ours =
        StoredBatches::open(&mut files, directory, from, batch_bytes_max).map_err(CompareError::Store)?;
    let mut theirs = Chunked { held: Vec::new(), used: 0, next_offset: from, batch_bytes_max };
    let mut comparison = Comparison { from: from.value(), to: from.value(), ..Comparison::default() };
    let mut reached = from;
    while reached < to {
        let ours = match ours.next(&mut files).map_err(CompareError::Store)? {
            Read::Batch(header, _) if header.base_offset >= to => break,
            Read::End => None,
            Read::Batch(header, bytes) => Some((header, bytes)),
            Read::Unreadable => {
                comparison.difference = Some(Difference::OursUnreadable { offset: reached.value() });
                break;
            }
        };
        let theirs = match theirs.next(source).map_err(CompareError::Source)? {
            // The end of what was to be compared may lie in a gap.
            Read::Batch(header, _) if ours.is_none() && header.base_offset >= to => break,
            Read::End => None,
            Read::Batch(header, bytes) => Some((header, bytes)),
            Read::Unreadable => {
                comparison.difference = Some(Difference::Unreadable { offset: reached.value() });
                break;
            }
        };
        let Some((header, bytes)) = &ours else {
            let base_offset = |(header, _): (BatchHeader, Vec<u8>)| header.base_offset.value();
            comparison.difference =
                theirs.map(|batch| Difference::OnlyTheirs { base_offset: base_offset(batch) });
            break;
        };
        comparison.difference = first_difference(header, bytes, theirs.as_ref());
        if comparison.difference.is_some() {
            break;
        }
        comparison.batches += 1;
        comparison.bytes += bytes.len() as u64;
        reached = header.next_offset();
        comparison.to = reached.value();
    }
    Ok(comparison)
}

/// Base offset of the first batch that we hold at or above an offset.
pub(super) fn first_batch_from(
    disk: &mut dyn Disk,
    directory: &Path,
    offset: Offset,
    batch_bytes_max: u32,
) -> Result<Option<Offset>, StoreError> {
    let mut files = Files::new(disk);
    let mut ours = StoredBatches::open(&mut files, directory, offset, batch_bytes_max)?;
    loop {
        match ours.next(&mut files)? {
            Read::Batch(header, _) if header.base_offset >= offset => return Ok(Some(header.base_offset)),
            Read::Batch(..) => {}
            Read::End | Read::Unreadable => return Ok(None),
        }
    }
}

fn first_difference(
    header: &BatchHeader,
    ours: &[u8],
    theirs: Option<&(BatchHeader, Vec<u8>)>,
) -> Option<Difference> {
    let base_offset = header.base_offset.value();
    let Some((their_header, theirs)) = theirs else { return Some(Difference::OnlyOurs { base_offset }) };
    if their_header.base_offset < header.base_offset {
        return Some(Difference::OnlyTheirs { base_offset: their_header.base_offset.value() });
    }
    if their_header.base_offset > header.base_offset {
        return Some(Difference::OnlyOurs { base_offset });
    }
    if ours.len() != theirs.len() {
        let (ours_bytes, theirs_bytes) = (ours.len() as u32, theirs.len() as u32);
        return Some(Difference::Length { base_offset, ours_bytes, theirs_bytes });
    }
    let differs = |at: &usize| !LEADER_EPOCH_AT.contains(at) && ours[*at] != theirs[*at];
    let at = (0..ours.len()).find(differs)?;
    Some(Difference::Byte { base_offset, at, ours: ours[at], theirs: theirs[at] })
}

enum Read {
    Batch(BatchHeader, Vec<u8>),
    End,
    Unreadable,
}

/// The batch at the start of the bytes, if it is here whole; `None` if more bytes are needed.
fn whole_batch(bytes: &[u8], batch_bytes_max: u32) -> Option<Read> {
    let start = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
    let Ok(header) = BatchHeader::parse(start, batch_bytes_max) else { return Some(Read::Unreadable) };
    let batch = bytes.get(..header.total_bytes() as usize)?;
    Some(Read::Batch(header, batch.to_vec()))
}

/// Batches of the segment files, in order.
struct StoredBatches {
    directory: PathBuf,
    segments: VecDeque<(Offset, u64)>,
    position: u64,
    held: Vec<u8>,
    used: usize,
    batch_bytes_max: u32,
}

impl StoredBatches {
    fn open(
        files: &mut Files<'_>,
        directory: &Path,
        from: Offset,
        batch_bytes_max: u32,
    ) -> Result<StoredBatches, StoreError> {
        let segments = Segments::list(files, directory)?;
        let mut segments: VecDeque<(Offset, u64)> = segments.logs().collect();
        while segments.get(1).is_some_and(|(base, _)| *base <= from) {
            segments.pop_front();
        }
        let position = match segments.front() {
            Some((base, length)) => {
                Place { directory, base: *base, length: *length, batch_bytes_max }.position_of(files, from)?
            }
            None => 0,
        };
        let directory = directory.to_path_buf();
        Ok(StoredBatches { directory, segments, position, held: Vec::new(), used: 0, batch_bytes_max })
    }

    fn next(&mut self, files: &mut Files<'_>) -> Result<Read, StoreError> {
        loop {
            let Some((base, length)) = self.segments.front().copied() else { return Ok(Read::End) };
            let held = &self.held[self.used..];
            match whole_batch(held, self.batch_bytes_max) {
                Some(Read::Batch(header, bytes)) => {
                    self.used += bytes.len();
                    return Ok(Read::Batch(header, bytes));
                }
                Some(_) if held.iter().take(BATCH_HEADER_BYTES).any(|byte| *byte != 0) => {
                    return Ok(Read::Unreadable);
                }
                // Zeros: what was only reserved ends the segment.
                Some(_) => self.next_segment(),
                None if self.position >= length && held.iter().all(|byte| *byte == 0) => self.next_segment(),
                None if self.position >= length => return Ok(Read::Unreadable),
                None => {
                    self.held.drain(..self.used);
                    self.used = 0;
                    let path = self.directory.join(SegmentFile::Log.name(base));
                    let piece = files.read(&path, self.position, PIECE_BYTES)?;
                    self.position =
                        if piece.is_empty() { length } else { self.position + piece.len() as u64 };
                    self.held.extend(piece);
                }
            }
        }
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.position = 0;
        self.held.clear();
        self.used = 0;
    }
}

/// Batches of a source, in order.
struct Chunked {
    held: Vec<u8>,
    used: usize,
    next_offset: Offset,
    batch_bytes_max: u32,
}

impl Chunked {
    fn next<S: SourceBatches>(&mut self, source: &mut S) -> Result<Read, S::Error> {
        let mut asked = false;
        loop {
            match whole_batch(&self.held[self.used..], self.batch_bytes_max) {
                Some(Read::Batch(header, bytes)) => {
                    self.used += bytes.len();
                    // A chunk begins with the batch that holds the offset, or before it.
                    if header.last_offset() >= self.next_offset {
                        self.next_offset = header.next_offset();
                        return Ok(Read::Batch(header, bytes));
                    }
                }
                Some(other) => return Ok(other),
                // Asked for and not even one whole batch came: nothing more is there.
                None if asked => return Ok(Read::End),
                None => {
                    self.held = source.next_chunk(self.next_offset)?;
                    self.used = 0;
                    asked = true;
                }
            }
        }
    }
}
