//! The record batches of a partition directory, and whether two directories hold the same ones.
//!
//! Owns a reader that shares nothing with the product's and knows as little as possible: a batch is
//! its base offset, its length and its bytes. It checks no CRC and reads no index; DumpLogSegments does.
//!
//! ```text
//!   0            8         12        16          23              27
//!   | baseOffset | length  | epoch   | ... bytes | lastOffsetDelta | ... length + 12 bytes in all
//!                           not compared: a leader restamps it
//! ```
//!
//! Two logs are the same when their batches are, one by one, but for bytes 12..16: same base offset,
//! same length, same bytes, nothing between them. How they are cut into files does not matter.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// baseOffset and batchLength.
const LENGTH_END: usize = 12;
/// The leader's own stamp, outside the CRC.
const EPOCH: Range<usize> = 12..16;
const LAST_OFFSET_DELTA: Range<usize> = 23..27;
const HEADER_BYTES: usize = 61;

/// One batch as it lies in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchBytes {
    pub base_offset: i64,
    pub last_offset: i64,
    pub bytes: Vec<u8>,
    pub file: PathBuf,
    pub position: usize,
}

impl fmt::Debug for BatchBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base_offset, last_offset, bytes, file, position } = self;
        write!(
            f,
            "batch {base_offset}..={last_offset} of {} bytes at {position} in {}",
            bytes.len(),
            file.display()
        )
    }
}

/// How far the second log must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyBound {
    /// Every batch below this offset and none at or above it.
    Exactly(i64),
    /// Any whole number of batches, none left out on the way.
    Prefix,
}

/// What was found equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Equal {
    pub batches: u64,
    pub bytes: u64,
    /// One past the last offset of the last equal batch.
    pub end_offset: i64,
}

/// Why two logs are not the same, or one of them is no log.
#[derive(Debug)]
pub enum Difference {
    Unreadable { path: PathBuf, error: std::io::Error },
    NoSegments { directory: PathBuf },
    NotABatch { file: PathBuf, position: usize, length: i64, remaining: usize },
    Missing { expected: Box<BatchBytes>, end_offset: i64 },
    Unexpected { found: Box<BatchBytes>, end_offset: i64 },
    OtherBatch { expected: Box<BatchBytes>, found: Box<BatchBytes> },
    OtherByte { expected: Box<BatchBytes>, found: Box<BatchBytes>, at: usize },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NoSegments { directory } => write!(f, "{} holds no .log file", directory.display()),
            Self::NotABatch { file, position, length, remaining } => write!(
                f,
                "no batch at {position} in {}: its length field says {length}, {remaining} bytes remain",
                file.display()
            ),
            Self::Missing { expected, end_offset } => {
                write!(f, "the mirror ends at offset {end_offset} but the source goes on with {expected:?}")
            }
            Self::Unexpected { found, end_offset } => {
                write!(
                    f,
                    "the mirror goes on with {found:?} beyond offset {end_offset}, where the source ends"
                )
            }
            Self::OtherBatch { expected, found } => {
                write!(f, "source has {expected:?}, mirror has {found:?}")
            }
            Self::OtherByte { expected, found, at } => write!(
                f,
                "byte {at} is {:#04x} in the source's {expected:?} and {:#04x} in the mirror's {found:?}",
                expected.bytes[*at], found.bytes[*at]
            ),
        }
    }
}

/// Every batch of a partition directory that holds an offset at or above `from_offset`.
///
/// What follows the last whole batch must be the zeros of preallocation, or nothing. A broker that is
/// appending meanwhile shows its last batch page by page: the answer may then be
/// [`Difference::NotABatch`], and reading again cures it.
pub fn concatenated_batches(directory: &Path, from_offset: i64) -> Result<Vec<BatchBytes>, Difference> {
    let mut files = segment_files(directory, "log")?;
    // Names are base offsets of 20 digits: the order of names is the order of offsets.
    files.sort();
    if files.is_empty() {
        return Err(Difference::NoSegments { directory: directory.to_owned() });
    }
    let mut batches = Vec::new();
    for file in files {
        let bytes = fs::read(&file).map_err(|error| Difference::Unreadable { path: file.clone(), error })?;
        walk(&file, &bytes, |batch| {
            if batch.last_offset >= from_offset {
                batches.push(batch);
            }
        })?;
    }
    Ok(batches)
}

/// The same from the start of the log up to the first place that is no batch, and what is wrong there: what a
/// killed program left.
pub fn batches_before_damage(directory: &Path) -> (Vec<BatchBytes>, Option<Difference>) {
    let mut batches = Vec::new();
    let mut files = match segment_files(directory, "log") {
        Ok(files) => files,
        Err(difference) => return (batches, Some(difference)),
    };
    files.sort();
    for file in files {
        let walked = fs::read(&file)
            .map_err(|error| Difference::Unreadable { path: file.clone(), error })
            .and_then(|bytes| walk(&file, &bytes, |batch| batches.push(batch)));
        if let Err(difference) = walked {
            return (batches, Some(difference));
        }
    }
    (batches, None)
}

/// The files of a directory whose extension is `extension`, in no order.
pub(super) fn segment_files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, Difference> {
    let unreadable = |error| Difference::Unreadable { path: directory.to_owned(), error };
    let entries = fs::read_dir(directory).map_err(unreadable)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(paths)
}

fn walk(file: &Path, bytes: &[u8], mut found: impl FnMut(BatchBytes)) -> Result<(), Difference> {
    let mut position = 0;
    while position < bytes.len() {
        let rest = &bytes[position..];
        let length = rest.get(8..LENGTH_END).map_or(0, |field| i64::from(big_endian_i32(field)));
        if length == 0 && rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let whole = usize::try_from(length).map_or(0, |length| length.saturating_add(LENGTH_END));
        if whole < HEADER_BYTES || whole > rest.len() {
            let file = file.to_owned();
            return Err(Difference::NotABatch { file, position, length, remaining: rest.len() });
        }
        let base_offset = i64::from_be_bytes(rest[..8].try_into().expect("eight bytes"));
        let last_offset = base_offset.saturating_add(i64::from(big_endian_i32(&rest[LAST_OFFSET_DELTA])));
        let bytes = rest[..whole].to_vec();
        found(BatchBytes { base_offset, last_offset, bytes, file: file.to_owned(), position });
        position += whole;
    }
    Ok(())
}

fn big_endian_i32(field: &[u8]) -> i32 {
    i32::from_be_bytes(field.try_into().expect("four bytes"))
}

/// Compares the batches of two directories from `from_offset` on.
pub fn compare(
    source: &Path,
    mirror: &Path,
    from_offset: i64,
    bound: CopyBound,
) -> Result<Equal, Difference> {
    let mut expected = concatenated_batches(source, from_offset)?;
    let found = concatenated_batches(mirror, from_offset)?;
    if let CopyBound::Exactly(end) = bound {
        expected.retain(|batch| batch.base_offset < end);
    }
    let mut equal = Equal { end_offset: from_offset, ..Equal::default() };
    let mut expected = expected.into_iter();
    let mut found = found.into_iter();
    loop {
        match (expected.next(), found.next()) {
            (Some(expected), Some(found)) => {
                compare_batch(&expected, &found)?;
                equal.batches += 1;
                equal.bytes += found.bytes.len() as u64;
                equal.end_offset = found.last_offset + 1;
            }
            (None, None) => return Ok(equal),
            (Some(_), None) if bound == CopyBound::Prefix => return Ok(equal),
            (Some(expected), None) => {
                return Err(Difference::Missing { expected: expected.into(), end_offset: equal.end_offset });
            }
            (None, Some(found)) => {
                return Err(Difference::Unexpected { found: found.into(), end_offset: equal.end_offset });
            }
        }
    }
}

fn compare_batch(expected: &BatchBytes, found: &BatchBytes) -> Result<(), Difference> {
    let both = || (Box::new(expected.clone()), Box::new(found.clone()));
    if expected.base_offset != found.base_offset || expected.bytes.len() != found.bytes.len() {
        let (expected, found) = both();
        return Err(Difference::OtherBatch { expected, found });
    }
    let mut pairs = expected.bytes.iter().zip(&found.bytes).enumerate();
    match pairs.find(|(at, (one, other))| one != other && !EPOCH.contains(at)) {
        None => Ok(()),
        Some((at, _)) => {
            let (expected, found) = both();
            Err(Difference::OtherByte { expected, found, at })
        }
    }
}

/// [`compare`], failing the test with the first difference.
#[track_caller]
pub fn assert_identical(source: &Path, mirror: &Path, from_offset: i64, bound: CopyBound) -> Equal {
    match compare(source, mirror, from_offset, bound) {
        Ok(equal) => equal,
        Err(difference) => panic!("{} and {} differ: {difference}", source.display(), mirror.display()),
    }
}

/// Cuts the last `count` batches off the log of a stopped broker, as an unclean election or a torn disk does. All of
/// them have to be in its last segment.
pub fn lose_last_batches(directory: &Path, count: usize) {
    let batches = concatenated_batches(directory, 0).expect("a stopped broker's files are readable");
    let last_file = &batches.last().expect("it holds batches").file;
    let in_last: Vec<_> = batches.iter().filter(|batch| batch.file == *last_file).collect();
    let first_lost = in_last[in_last.len() - count];
    let file = std::fs::OpenOptions::new().write(true).open(last_file).expect("it can be opened");
    file.set_len(first_lost.position as u64).expect("it can be cut");
    for extension in ["index", "timeindex"] {
        std::fs::remove_file(last_file.with_extension(extension)).expect("indexes are made anew");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, last_offset_delta: i32, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; 80];
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&68_i32.to_be_bytes());
        bytes[LAST_OFFSET_DELTA].copy_from_slice(&last_offset_delta.to_be_bytes());
        bytes
    }

    fn directory(files: &[(&str, Vec<Vec<u8>>)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, batches) in files {
            fs::write(directory.path().join(name), batches.concat()).expect("a file");
        }
        directory
    }

    fn two_segments() -> tempfile::TempDir {
        directory(&[("00.log", vec![batch(0, 4, 1), batch(5, 0, 2)]), ("06.log", vec![batch(6, 3, 3)])])
    }

    fn difference(mirror: &tempfile::TempDir, bound: CopyBound) -> Difference {
        compare(two_segments().path(), mirror.path(), 0, bound).expect_err("they differ")
    }

    #[test]
    fn logs_cut_into_other_files_with_a_zero_tail_and_other_epochs_are_equal() {
        let mut restamped = batch(5, 0, 2);
        restamped[EPOCH].copy_from_slice(&[9; 4]);
        let mirror = directory(&[("00.log", vec![batch(0, 4, 1), restamped, batch(6, 3, 3), vec![0; 500]])]);
        let equal = assert_identical(two_segments().path(), mirror.path(), 0, CopyBound::Exactly(10));
        assert_eq!(equal, Equal { batches: 3, bytes: 240, end_offset: 10 });
    }

    #[test]
    fn a_flipped_byte_is_named_by_its_place() {
        let mut flipped = batch(5, 0, 2);
        flipped[70] ^= 1;
        let mirror = directory(&[("00.log", vec![batch(0, 4, 1), flipped, batch(6, 3, 3)])]);
        assert!(matches!(difference(&mirror, CopyBound::Prefix), Difference::OtherByte { at: 70, .. }));
    }

    #[test]
    fn a_dropped_batch_and_a_shifted_offset_are_found() {
        let dropped = directory(&[("00.log", vec![batch(0, 4, 1), batch(6, 3, 3)])]);
        assert!(matches!(difference(&dropped, CopyBound::Prefix), Difference::OtherBatch { .. }));
        let shifted = directory(&[("00.log", vec![batch(0, 4, 1), batch(6, 0, 2), batch(7, 3, 3)])]);
        assert!(matches!(difference(&shifted, CopyBound::Prefix), Difference::OtherBatch { .. }));
    }

    #[test]
    fn a_mirror_that_is_short_passes_as_a_prefix_only() {
        let short = directory(&[("00.log", vec![batch(0, 4, 1)])]);
        assert!(matches!(
            difference(&short, CopyBound::Exactly(10)),
            Difference::Missing { end_offset: 5, .. }
        ));
        assert_eq!(assert_identical(two_segments().path(), short.path(), 0, CopyBound::Prefix).batches, 1);
    }

    #[test]
    fn a_mirror_beyond_the_bound_is_found() {
        let all = two_segments();
        assert!(matches!(
            difference(&all, CopyBound::Exactly(6)),
            Difference::Unexpected { end_offset: 6, .. }
        ));
    }

    #[test]
    fn a_torn_batch_is_no_batch() {
        let torn = directory(&[("00.log", vec![batch(0, 4, 1), batch(5, 0, 2)[..40].to_vec()])]);
        assert!(matches!(difference(&torn, CopyBound::Prefix), Difference::NotABatch { position: 80, .. }));
    }

    #[test]
    fn a_start_inside_a_batch_counts_that_batch() {
        let batches = concatenated_batches(two_segments().path(), 3).expect("readable");
        assert_eq!(batches.iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [0, 5, 6]);
        assert_eq!(concatenated_batches(two_segments().path(), 5).expect("readable").len(), 2);
    }
}
