//! Names and small text files of a Kafka log directory.
//!
//! ```text
//! <link>/orders-3/00000000000000000042.log .index .timeindex .txnindex    the segment that begins at 42
//! <link>/orders-3/leader-epoch-checkpoint                                 text, `epoch.rs`
//! <link>/orders-3/partition.metadata                                      version: 0 \n topic_id: <22 characters>
//! <link>/log-start-offset-checkpoint, recovery-point-offset-checkpoint    0 \n count \n `topic partition offset` lines
//! ```
//!
//! Invariants: a [`TopicPartition`] has a legal topic name, so its directory name is one path component,
//! never `.` or `..`, and cannot leave the data directory whatever a source claims its topic is called.
//! Every parser accepts exactly what the formatter beside it (or a broker) writes.
//! Must never touch a file: text in, text out.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::offset::Offset;

/// A broker's bound on topic names; it leaves room for the partition in a file name of 255 bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// What Linux file systems allow for one path component.
pub const DIRECTORY_NAME_BYTES_MAX: usize = 255;

pub const LEADER_EPOCH_FILE: &str = "leader-epoch-checkpoint";
pub const PARTITION_METADATA_FILE: &str = "partition.metadata";
pub const LOG_START_FILE: &str = "log-start-offset-checkpoint";
pub const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";

/// Digits of the base offset in a segment file's name. Fixed by Kafka.
const NAME_DIGITS: usize = 20;

/// The files that make up one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentFile {
    Log,
    OffsetIndex,
    TimeIndex,
    TransactionIndex,
}

impl SegmentFile {
    pub const ALL: [SegmentFile; 4] =
        [SegmentFile::Log, SegmentFile::OffsetIndex, SegmentFile::TimeIndex, SegmentFile::TransactionIndex];

    pub const fn extension(self) -> &'static str {
        match self {
            SegmentFile::Log => "log",
            SegmentFile::OffsetIndex => "index",
            SegmentFile::TimeIndex => "timeindex",
            SegmentFile::TransactionIndex => "txnindex",
        }
    }

    /// `00000000000000000042.log`
    pub fn name(self, base: Offset) -> String {
        alloc::format!("{:0width$}.{}", base.value(), self.extension(), width = NAME_DIGITS)
    }

    /// The reverse of `name`; `None` for any other file.
    pub fn parse(name: &str) -> Option<(Offset, SegmentFile)> {
        let (digits, extension) = name.split_once('.')?;
        let kind = SegmentFile::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        if digits.len() != NAME_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some((Offset::new(digits.parse().ok()?)?, kind))
    }
}

/// A legal topic name and partition number: the identity of a mirror partition, and its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    topic: String,
    partition: i32,
}

impl TopicPartition {
    pub fn new(topic: &str, partition: i32) -> Result<TopicPartition, NameError> {
        check_topic_name(topic)?;
        if partition < 0 {
            return Err(NameError::NegativePartition { topic: topic.to_string(), partition });
        }
        let candidate = TopicPartition { topic: topic.to_string(), partition };
        let bytes = candidate.directory_name().len();
        if bytes > DIRECTORY_NAME_BYTES_MAX {
            return Err(NameError::DirectoryTooLong { topic: candidate.topic, partition, bytes });
        }
        Ok(candidate)
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    pub fn directory_name(&self) -> String {
        self.to_string()
    }

    /// The reverse of `directory_name`; `None` for a directory that is not a partition's.
    pub fn parse_directory(name: &str) -> Option<TopicPartition> {
        let (topic, digits) = name.rsplit_once('-')?;
        let canonical = digits == "0" || !digits.starts_with('0');
        if digits.is_empty() || !canonical || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        TopicPartition::new(topic, digits.parse().ok()?).ok()
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A broker's rule for topic names: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
pub fn check_topic_name(topic: &str) -> Result<(), NameError> {
    let fault = if topic.is_empty() {
        NameFault::Empty
    } else if topic.len() > TOPIC_NAME_BYTES_MAX {
        NameFault::TooLong { bytes: topic.len() }
    } else if topic == "." || topic == ".." {
        NameFault::Dots
    } else if let Some(character) =
        topic.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        NameFault::Character { character }
    } else {
        return Ok(());
    };
    Err(NameError::IllegalTopic { topic: topic.chars().take(TOPIC_NAME_BYTES_MAX).collect(), fault })
}

/// What is wrong with a topic name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    Empty,
    TooLong { bytes: usize },
    Dots,
    Character { character: char },
}

/// Why a topic partition cannot have a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    IllegalTopic { topic: String, fault: NameFault },
    NegativePartition { topic: String, partition: i32 },
    DirectoryTooLong { topic: String, partition: i32, bytes: usize },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::IllegalTopic { topic, fault } => {
                write!(f, "{topic:?} is not a legal topic name: ")?;
                match fault {
                    NameFault::Empty => f.write_str("it is empty"),
                    NameFault::TooLong { bytes } => {
                        write!(f, "it has {bytes} bytes, a topic name has at most {TOPIC_NAME_BYTES_MAX}")
                    }
                    NameFault::Dots => f.write_str("it would name a directory above"),
                    NameFault::Character { character } => {
                        write!(f, "it contains {character:?}; letters, digits, '.', '_' and '-' are allowed")
                    }
                }
            }
            NameError::NegativePartition { topic, partition } => {
                write!(f, "topic {topic} cannot have the partition number {partition}: it must be 0 or more")
            }
            NameError::DirectoryTooLong { topic, partition, bytes } => write!(
                f,
                "the directory name of topic {topic}, partition {partition} would have {bytes} bytes, a file \
                 system allows {DIRECTORY_NAME_BYTES_MAX}: mirror the topic under a shorter name"
            ),
        }
    }
}

impl core::error::Error for NameError {}

/// A topic's identity in one cluster: a re-created topic has another. ref: KIP-516
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// What a source older than 2.8 (or without topic ids) is given.
    pub const ZERO: TopicId = TopicId([0; 16]);

    /// Reads the 22 characters that a broker prints.
    pub fn parse(text: &str) -> Option<TopicId> {
        if text.len() != 22 {
            return None;
        }
        let mut id = [0u8; 16];
        let (mut bits, mut held, mut filled) = (0u32, 0u32, 0usize);
        for byte in text.bytes() {
            let value = BASE64_URL.iter().position(|candidate| *candidate == byte)?;
            bits = (bits << 6 | value as u32) & 0xffff;
            held += 6;
            if held >= 8 {
                held -= 8;
                id[filled] = (bits >> held) as u8;
                filled += 1;
            }
        }
        // 22 characters hold 132 bits: the last four belong to no byte and must be 0.
        (bits & 0b1111 == 0).then_some(TopicId(id))
    }
}

/// ref: RFC 4648 section 5
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for index in 0..22u32 {
            // From the top; the last character holds the two bits that are left, moved up by four.
            let shift = 128 - 6 * (i64::from(index) + 1);
            let value = if shift >= 0 { bits >> shift } else { bits << -shift } & 0x3f;
            f.write_char(char::from(BASE64_URL[value as usize]))?;
        }
        Ok(())
    }
}

/// The text of `partition.metadata`.
pub fn partition_metadata_text(topic_id: TopicId) -> String {
    alloc::format!("version: 0\ntopic_id: {topic_id}")
}

/// Reads `partition.metadata`, with or without a final newline.
pub fn parse_partition_metadata(text: &str) -> Result<TopicId, TextFileError> {
    let malformed = |line: usize| TextFileError { file: PARTITION_METADATA_FILE, line };
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("version: 0") {
        return Err(malformed(1));
    }
    let id = lines.next().and_then(|line| line.trim().strip_prefix("topic_id: ")).and_then(TopicId::parse);
    let id = id.ok_or(malformed(2))?;
    if lines.any(|line| !line.trim().is_empty()) { Err(malformed(3)) } else { Ok(id) }
}

/// The text of a `...-offset-checkpoint` file of a log directory.
pub fn offset_checkpoint_text<'a>(
    entries: impl ExactSizeIterator<Item = (&'a TopicPartition, Offset)>,
) -> String {
    let mut text = alloc::format!("0\n{}\n", entries.len());
    for (partition, offset) in entries {
        let _ = writeln!(text, "{} {} {offset}", partition.topic, partition.partition);
    }
    text
}

/// Reads a `...-offset-checkpoint` file; `file` is its name, for the error.
pub fn parse_offset_checkpoint(
    file: &'static str,
    text: &str,
) -> Result<Vec<(TopicPartition, Offset)>, TextFileError> {
    let malformed = |line: usize| TextFileError { file, line };
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("0") {
        return Err(malformed(1));
    }
    let count: usize = lines.next().and_then(|line| line.trim().parse().ok()).ok_or(malformed(2))?;
    // The count is foreign: it sizes nothing, the lines that are really there do.
    let mut entries = Vec::new();
    for (index, line) in lines.filter(|line| !line.trim().is_empty()).enumerate() {
        let entry = parse_offset_line(line).filter(|_| index < count).ok_or(malformed(index + 3))?;
        entries.push(entry);
    }
    if entries.len() == count { Ok(entries) } else { Err(malformed(2)) }
}

fn parse_offset_line(line: &str) -> Option<(TopicPartition, Offset)> {
    let mut words = line.split_ascii_whitespace();
    let partition = TopicPartition::new(words.next()?, words.next()?.parse().ok()?).ok()?;
    let offset = Offset::new(words.next()?.parse().ok()?)?;
    words.next().is_none().then_some((partition, offset))
}

/// A small text file is not what a broker writes. Lines count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextFileError {
    pub file: &'static str,
    pub line: usize,
}

impl fmt::Display for TextFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TextFileError { file, line } = self;
        write!(
            f,
            "line {line} of {file} is not what a broker writes there: restore the file, or delete it so that \
             it is written anew from the checkpoint"
        )
    }
}

impl core::error::Error for TextFileError {}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn segment_files_are_named_by_twenty_digits() {
        assert_eq!(SegmentFile::Log.name(at(42)), "00000000000000000042.log");
        assert_eq!(SegmentFile::TransactionIndex.name(at(i64::MAX)), "09223372036854775807.txnindex");
        for kind in SegmentFile::ALL {
            assert_eq!(SegmentFile::parse(&kind.name(at(7))), Some((at(7), kind)));
        }
    }

    #[test]
    fn other_files_are_not_segments() {
        for name in [
            "42.log",
            "00000000000000000042",
            "00000000000000000042.log.deleted",
            "-0000000000000000042.log",
            "+0000000000000000042.log",
            "99999999999999999999.log",
            "00000000000000000042.snapshot",
            LEADER_EPOCH_FILE,
        ] {
            assert_eq!(SegmentFile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn no_topic_name_leaves_the_directory() {
        for topic in ["", ".", "..", "../x", "a/b", "/", "a\0b", "a b", "größe", "a\n"] {
            assert!(TopicPartition::new(topic, 0).is_err(), "{topic:?}");
        }
        assert_eq!(TopicPartition::new("...", 0).unwrap().directory_name(), "...-0");
        assert!(matches!(TopicPartition::new("a", -1), Err(NameError::NegativePartition { .. })));
    }

    #[test]
    fn a_topic_name_has_at_most_249_bytes_and_fits_a_directory() {
        let longest = "x".repeat(249);
        assert!(TopicPartition::new(&longest, 12_345).is_ok());
        assert!(matches!(TopicPartition::new(&longest, 123_456), Err(NameError::DirectoryTooLong { .. })));
        let error = TopicPartition::new(&"x".repeat(250), 0).unwrap_err();
        let said = "it has 250 bytes, a topic name has at most 249";
        assert!(error.to_string().contains(said));
    }

    #[test]
    fn only_the_one_spelling_of_a_directory_is_a_partition() {
        let partition = TopicPartition::parse_directory("my-topic-12").unwrap();
        assert_eq!((partition.topic(), partition.partition()), ("my-topic", 12));
        for name in ["a", "a-", "-0", "a-01", "a-+1", "a-99999999999", "a-0.f00-stray", "a-0-delete", "..-x"]
        {
            assert_eq!(TopicPartition::parse_directory(name), None, "{name}");
        }
    }

    #[test]
    fn a_topic_id_is_printed_as_a_broker_prints_it() {
        let mut one = [0; 16];
        one[15] = 1;
        // The id of the metadata topic.
        assert_eq!(TopicId(one).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId([0xff; 16]).to_string(), "_____________________w");
        assert_eq!(TopicId::parse("AAAAAAAAAAAAAAAAAAAAAQ"), Some(TopicId(one)));
        for text in ["", "AAAAAAAAAAAAAAAAAAAAAR", "AAAAAAAAAAAAAAAAAAAA+Q", "AAAAAAAAAAAAAAAAAAAAAQ=="] {
            assert_eq!(TopicId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn partition_metadata_is_read_with_and_without_a_final_newline() {
        let id = TopicId([7; 16]);
        let text = partition_metadata_text(id);
        assert_eq!(parse_partition_metadata(&text), Ok(id));
        assert_eq!(parse_partition_metadata(&alloc::format!("{text}\n")), Ok(id));
        for (text, line) in [("", 1), ("version: 1\n", 1), ("version: 0\ntopic_id: x", 2)] {
            let error = TextFileError { file: PARTITION_METADATA_FILE, line };
            assert_eq!(parse_partition_metadata(text), Err(error));
        }
    }

    #[test]
    fn offset_checkpoints_have_a_line_for_each_partition() {
        let entries =
            [(TopicPartition::new("a", 0).unwrap(), at(3)), (TopicPartition::new("b", 7).unwrap(), at(0))];
        let text = offset_checkpoint_text(entries.iter().map(|(partition, offset)| (partition, *offset)));
        assert_eq!(text, "0\n2\na 0 3\nb 7 0\n");
        assert_eq!(
            parse_offset_checkpoint(LOG_START_FILE, &text),
            Ok(vec![entries[0].clone(), entries[1].clone()])
        );
    }

    #[test]
    fn a_bad_line_of_an_offset_checkpoint_is_named() {
        for (text, line) in [
            ("1\n0\n", 1),
            ("0\nx\n", 2),
            ("0\n2\na 0 3\n", 2),
            ("0\n1\na 0 -3\n", 3),
            ("0\n1\n.. 0 3\n", 3),
            ("0\n1\na 0 3\na 1 3\n", 4),
            ("0\n1\na 0 3 4\n", 3),
        ] {
            let error = parse_offset_checkpoint(LOG_START_FILE, text).unwrap_err();
            assert_eq!(error, TextFileError { file: LOG_START_FILE, line }, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_topic_id_survives_its_text(id in any::<[u8; 16]>()) {
            prop_assert_eq!(TopicId::parse(&TopicId(id).to_string()), Some(TopicId(id)));
        }

        #[test]
        fn every_legal_partition_survives_its_directory(topic in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,60}", partition in 0i32..) {
            let partition = TopicPartition::new(&topic, partition).unwrap();
            prop_assert_eq!(TopicPartition::parse_directory(&partition.directory_name()), Some(partition));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,60}", lines in "[a-z0-9 .:_\n-]{0,60}") {
            for text in [&text, &lines] {
                let _ = TopicId::parse(text);
                let _ = SegmentFile::parse(text);
                let _ = TopicPartition::parse_directory(text);
                let _ = parse_partition_metadata(text);
                let _ = parse_offset_checkpoint(LOG_START_FILE, text);
            }
        }
    }
}
