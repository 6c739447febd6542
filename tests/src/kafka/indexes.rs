//! What DumpLogSegments does not see in index files: their sizes, their order, their last entries.
//!
//! Owns a reader of three formats that shares nothing with the product's. Kafka's tool stops at the
//! first zero entry of an index, takes an `.index` of any length when it verifies, and does not check a
//! `.txnindex` at all (seen on 4.3.1); an index with such a flaw still misleads a broker.
//!
//! ```text
//!   .index      8  | relative offset i32 | position i32 |                  both strictly rising
//!   .timeindex 12  | timestamp i64 | relative offset i32 |                 neither ever falling
//!   .txnindex  34  | version i16 = 0 | producerId | firstOffset | lastOffset | lastStableOffset |
//!                    last offsets strictly rising, firstOffset <= lastOffset
//! ```

use super::batches::segment_files;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

const OFFSET_ENTRY_BYTES: usize = 8;
const TIME_ENTRY_BYTES: usize = 12;
const TRANSACTION_ENTRY_BYTES: usize = 34;

/// One aborted transaction of a `.txnindex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
    pub last_offset: i64,
    pub last_stable_offset: i64,
}

/// What is wrong with an index file.
#[derive(Debug)]
pub enum IndexFlaw {
    Unreadable { file: PathBuf, error: String },
    Length { file: PathBuf, length: usize, entry: usize },
    Order { file: PathBuf, index: usize, before: (i64, i64), after: (i64, i64) },
    Transaction { file: PathBuf, index: usize, version: i16, entry: AbortedTransaction },
}

impl fmt::Display for IndexFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, error } => write!(f, "{} cannot be read: {error}", file.display()),
            Self::Length { file, length, entry } => {
                write!(f, "{} has {length} bytes, not a multiple of its entries' {entry}", file.display())
            }
            Self::Order { file, index, before, after } => write!(
                f,
                "entry {index} of {} is {after:?} and follows {before:?}: entries must rise",
                file.display()
            ),
            Self::Transaction { file, index, version, entry } => {
                write!(f, "entry {index} of {} (version {version}) cannot be: {entry:?}", file.display())
            }
        }
    }
}

/// Checks every index file of a partition directory whose broker or mirror has closed it.
pub fn check_indexes(directory: &Path) -> Result<(), IndexFlaw> {
    for file in files(directory, "index")? {
        let entries = entries(&file, OFFSET_ENTRY_BYTES)?;
        let pairs = entries.iter().map(|entry| (signed(&entry[..4]), signed(&entry[4..])));
        check_order(&file, &pairs.collect::<Vec<_>>(), |before, after| {
            before.0 < after.0 && before.1 < after.1
        })?;
    }
    for file in files(directory, "timeindex")? {
        let entries = entries(&file, TIME_ENTRY_BYTES)?;
        let pairs = entries.iter().map(|entry| (signed(&entry[..8]), signed(&entry[8..])));
        check_order(&file, &pairs.collect::<Vec<_>>(), |before, after| {
            before.0 <= after.0 && before.1 <= after.1
        })?;
    }
    aborted_transactions(directory).map(drop)
}

/// The aborted transactions of a partition directory, in the order of their markers.
///
/// They follow from the batches alone, so a mirror of the same batches has the same ones, however
/// either is cut into segments.
pub fn aborted_transactions(directory: &Path) -> Result<Vec<AbortedTransaction>, IndexFlaw> {
    let mut all: Vec<AbortedTransaction> = Vec::new();
    let mut files = files(directory, "txnindex")?;
    files.sort();
    for file in files {
        for (index, bytes) in entries(&file, TRANSACTION_ENTRY_BYTES)?.iter().enumerate() {
            let version = signed(&bytes[..2]) as i16;
            let field = |number: usize| signed(&bytes[2 + 8 * number..10 + 8 * number]);
            let entry = AbortedTransaction {
                producer_id: field(0),
                first_offset: field(1),
                last_offset: field(2),
                last_stable_offset: field(3),
            };
            let rises = all.last().is_none_or(|before| before.last_offset < entry.last_offset);
            let possible =
                entry.first_offset <= entry.last_offset && entry.last_stable_offset <= entry.last_offset + 1;
            if version != 0 || !rises || !possible {
                return Err(IndexFlaw::Transaction { file, index, version, entry });
            }
            all.push(entry);
        }
    }
    Ok(all)
}

fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, IndexFlaw> {
    segment_files(directory, extension).map_err(|difference| IndexFlaw::Unreadable {
        file: directory.to_owned(),
        error: difference.to_string(),
    })
}

fn entries(file: &Path, entry: usize) -> Result<Vec<Vec<u8>>, IndexFlaw> {
    let bytes = fs::read(file)
        .map_err(|error| IndexFlaw::Unreadable { file: file.to_owned(), error: error.to_string() })?;
    if bytes.len() % entry != 0 {
        return Err(IndexFlaw::Length { file: file.to_owned(), length: bytes.len(), entry });
    }
    Ok(bytes.chunks(entry).map(<[u8]>::to_vec).collect())
}

fn check_order(
    file: &Path,
    pairs: &[(i64, i64)],
    rises: impl Fn((i64, i64), (i64, i64)) -> bool,
) -> Result<(), IndexFlaw> {
    match pairs.windows(2).position(|pair| !rises(pair[0], pair[1])) {
        None => Ok(()),
        Some(at) => Err(IndexFlaw::Order {
            file: file.to_owned(),
            index: at + 1,
            before: pairs[at],
            after: pairs[at + 1],
        }),
    }
}

/// A big-endian integer of two, four or eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes[0] & 0x80 != 0;
    bytes.iter().fold(if negative { -1 } else { 0 }, |value, byte| (value << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, content: &[u8]) -> Result<(), IndexFlaw> {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(name), content).expect("a file");
        check_indexes(directory.path())
    }

    fn transaction(version: i16, first: i64, last: i64) -> Vec<u8> {
        let fields = [7, first, last, last + 1].map(i64::to_be_bytes).concat();
        [version.to_be_bytes().to_vec(), fields].concat()
    }

    #[test]
    fn integers_of_every_size_keep_their_sign() {
        assert_eq!(signed(&(-2_i16).to_be_bytes()), -2);
        assert_eq!(signed(&i32::MAX.to_be_bytes()), i64::from(i32::MAX));
        assert_eq!(signed(&i64::MIN.to_be_bytes()), i64::MIN);
    }

    #[test]
    fn an_offset_index_with_preallocated_zeros_is_flawed() {
        let entries = [3_i32, 100, 9, 5000].map(i32::to_be_bytes).concat();
        check("00.index", &entries).expect("a good one");
        assert!(matches!(
            check("00.index", &[&entries[..], &[0; 8]].concat()),
            Err(IndexFlaw::Order { index: 2, .. })
        ));
        assert!(matches!(check("00.index", &entries[..15]), Err(IndexFlaw::Length { length: 15, .. })));
    }

    #[test]
    fn a_time_index_may_stand_still_but_not_fall() {
        let entry = |time: i64, offset: i32| [&time.to_be_bytes()[..], &offset.to_be_bytes()].concat();
        check("00.timeindex", &[entry(5, 1), entry(5, 1)].concat()).expect("a good one");
        let falling = [entry(5, 1), entry(4, 2)].concat();
        assert!(matches!(check("00.timeindex", &falling), Err(IndexFlaw::Order { .. })));
    }

    #[test]
    fn aborted_transactions_are_in_the_order_of_their_markers() {
        check("00.txnindex", &[transaction(0, 1, 9), transaction(0, 0, 12)].concat()).expect("good ones");
        for bad in [
            [transaction(0, 1, 9), transaction(0, 2, 9)].concat(),
            transaction(0, 9, 8),
            transaction(1, 1, 9),
        ] {
            assert!(matches!(check("00.txnindex", &bad), Err(IndexFlaw::Transaction { .. })));
        }
        assert!(matches!(check("00.txnindex", &[0; 33]), Err(IndexFlaw::Length { .. })));
    }
}
