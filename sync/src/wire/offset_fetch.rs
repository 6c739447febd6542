//! Answers to OffsetFetch v8 and v9, many groups each, read where they lie. ref: KIP-709
//!
//! ```text
//!   frame behind its correlation id:  tags | throttle | groups: id, topics, error, tags | tags
//!                                     topic: name, partitions, tags
//!                                     partition: index, offset, leader epoch, metadata, error, tags
//! ```
//! A group is walked once to its end, every length checked, before anything of it is told; then its positions are
//! told without another check, and without a byte being copied.

use super::{Reader, WireError};

/// First version that answers for many groups.
pub const FIRST_VERSION: i16 = 8;
/// The last one that names topics, not their ids.
pub const LAST_VERSION: i16 = 9;

/// One position of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    pub topic: &'a str,
    pub index: i32,
    /// -1: the group has none here.
    pub offset: i64,
    pub metadata: &'a str,
    pub code: i16,
}

/// One group's part of an answer, checked.
#[derive(Clone, Copy, Debug)]
pub struct GroupAnswer<'a> {
    pub group: &'a str,
    /// The whole group is refused.
    pub code: i16,
    topics: &'a [u8],
    topic_count: u32,
}

/// See the file's header.
pub struct OffsetAnswers<'a> {
    bytes: &'a [u8],
    at: usize,
    groups_left: u32,
}

/// A reader that says what is wrong.
struct Checked<'a> {
    reader: Reader<'a>,
    length: usize,
}

impl<'a> Checked<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), length: bytes.len() }
    }

    fn beyond(&self, field: &'static str, needed: u64) -> WireError {
        let remaining = (self.length - self.reader.consumed()) as u64;
        WireError::BeyondFrame { field, needed, remaining }
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, WireError> {
        match self.reader.unsigned_varint() {
            Some(Ok(value)) => Ok(value),
            Some(Err(())) => Err(WireError::Varint { field }),
            None => Err(self.beyond(field, 1)),
        }
    }

    fn take(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], WireError> {
        self.reader.take(bytes).ok_or_else(|| self.beyond(field, bytes as u64))
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, WireError> {
        self.reader.i16().ok_or_else(|| self.beyond(field, 2))
    }

    /// A compact text; null is empty.
    fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let length = self.varint(field)?.saturating_sub(1);
        let bytes = self.take(field, length as usize)?;
        core::str::from_utf8(bytes).map_err(|_| WireError::Text { field })
    }

    /// A compact count whose items take so many bytes at least.
    fn count(&mut self, field: &'static str, item_bytes: u64) -> Result<u32, WireError> {
        let count = self.varint(field)?.saturating_sub(1);
        let bound = (self.length - self.reader.consumed()) as u64 / item_bytes;
        match u64::from(count) <= bound {
            true => Ok(count),
            false => Err(WireError::BadLength { field, value: count.into(), bound: bound.cast_signed() }),
        }
    }

    fn tags(&mut self) -> Result<(), WireError> {
        // Each takes a byte at least: what a count claims ends with its frame.
        for _ in 0..self.varint("tags")? {
            self.varint("tag")?;
            let length = self.varint("tag length")?;
            self.take("tagged field", length as usize)?;
        }
        Ok(())
    }

    fn position(&mut self) -> Result<(i32, i64, &'a str, i16), WireError> {
        let fixed = self.take("position", 16)?;
        let mut fields = Reader::new(fixed);
        let both = fields.i32().zip(fields.i64());
        let (index, offset) = both.expect("sixteen bytes were taken");
        let metadata = self.text("metadata")?;
        let code = self.i16("partition error")?;
        self.tags()?;
        Ok((index, offset, metadata, code))
    }
}

impl<'a> OffsetAnswers<'a> {
    /// An answer behind its correlation id.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Checked::new(bytes);
        reader.tags()?;
        reader.take("throttle time", 4)?;
        let groups_left = reader.count("groups", 5)?;
        Ok(Self { bytes, at: reader.reader.consumed(), groups_left })
    }

    /// The next group; `None` once the frame has ended as it must.
    pub fn next_group(&mut self) -> Result<Option<GroupAnswer<'a>>, WireError> {
        let rest = &self.bytes[self.at..];
        let mut reader = Checked::new(rest);
        if self.groups_left == 0 {
            reader.tags()?;
            let remaining = (rest.len() - reader.reader.consumed()) as u64;
            return if remaining == 0 { Ok(None) } else { Err(WireError::TrailingBytes { remaining }) };
        }
        let group = reader.text("group")?;
        let topic_count = reader.count("topics", 3)?;
        let from = reader.reader.consumed();
        for _ in 0..topic_count {
            reader.text("topic")?;
            for _ in 0..reader.count("partitions", 20)? {
                reader.position()?;
            }
            reader.tags()?;
        }
        let topics = &rest[from..reader.reader.consumed()];
        let code = reader.i16("group error")?;
        reader.tags()?;
        self.at += reader.reader.consumed();
        self.groups_left -= 1;
        Ok(Some(GroupAnswer { group, code, topics, topic_count }))
    }
}

impl<'a> GroupAnswer<'a> {
    pub fn positions(&self) -> Positions<'a> {
        let reader = Checked::new(self.topics);
        Positions { reader, topics_left: self.topic_count, topic: "", partitions_left: 0 }
    }
}

/// Positions of one group in the order of the answer.
pub struct Positions<'a> {
    reader: Checked<'a>,
    topics_left: u32,
    topic: &'a str,
    partitions_left: u32,
}

impl<'a> Positions<'a> {
    fn step(&mut self) -> Result<Option<Position<'a>>, WireError> {
        while self.partitions_left == 0 {
            if !self.topic.is_empty() {
                self.reader.tags()?;
            }
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = self.reader.text("topic")?;
            self.partitions_left = self.reader.count("partitions", 20)?;
            if self.topic.is_empty() {
                // No broker has such a topic: passed over, with its tags.
                for _ in 0..core::mem::take(&mut self.partitions_left) {
                    self.reader.position()?;
                }
                self.reader.tags()?;
            }
        }
        self.partitions_left -= 1;
        let (index, offset, metadata, code) = self.reader.position()?;
        Ok(Some(Position { topic: self.topic, index, offset, metadata, code }))
    }
}

impl<'a> Iterator for Positions<'a> {
    type Item = Position<'a>;

    fn next(&mut self) -> Option<Position<'a>> {
        // The same bytes were walked to their end before.
        self.step().expect("a group is checked before it is told")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use bytes::BytesMut;
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };
    use kafka_protocol::messages::{GroupId, OffsetFetchResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use std::string::ToString;

    fn name(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    fn written(version: i16) -> Vec<u8> {
        let partition = |index: i32, offset: i64, metadata: Option<&'static str>, code: i16| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(index)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(4)
                .with_metadata(metadata.map(name))
                .with_error_code(code)
        };
        let topic = |topic: &'static str, partitions| {
            OffsetFetchResponseTopics::default().with_name(TopicName(name(topic))).with_partitions(partitions)
        };
        let group = |id: &'static str, topics, code: i16| {
            OffsetFetchResponseGroup::default()
                .with_group_id(GroupId(name(id)))
                .with_topics(topics)
                .with_error_code(code)
        };
        let orders = topic("orders", vec![partition(0, 17, Some("at"), 0), partition(3, -1, None, 29)]);
        let bills = topic("bills", vec![partition(1, i64::MAX, Some(""), 0)]);
        let groups = vec![
            group("first", vec![orders, topic("empty", vec![]), bills], 0),
            group("second", vec![], 16),
            group("", vec![topic("", vec![partition(0, 1, None, 0)])], 0),
        ];
        let answer = OffsetFetchResponse::default().with_groups(groups);
        let mut out = BytesMut::new();
        ResponseHeader::default().with_correlation_id(5).encode(&mut out, 1).unwrap();
        answer.encode(&mut out, version).unwrap();
        out[4..].to_vec()
    }

    #[test]
    fn what_the_library_writes_is_told_position_by_position() {
        for version in FIRST_VERSION..=LAST_VERSION {
            let bytes = written(version);
            let mut answers = OffsetAnswers::parse(&bytes).unwrap();
            let first = answers.next_group().unwrap().unwrap();
            let told: Vec<_> = first
                .positions()
                .map(|each| (each.topic.to_string(), each.index, each.offset, each.metadata, each.code))
                .collect();
            let expected = [
                ("orders".to_string(), 0, 17, "at", 0),
                ("orders".to_string(), 3, -1, "", 29),
                ("bills".to_string(), 1, i64::MAX, "", 0),
            ];
            assert_eq!((first.group, first.code, told.as_slice()), ("first", 0, expected.as_slice()));
            let second = answers.next_group().unwrap().unwrap();
            assert_eq!((second.group, second.code, second.positions().count()), ("second", 16, 0));
            let third = answers.next_group().unwrap().unwrap();
            assert_eq!((third.group, third.positions().count()), ("", 0));
            assert!(answers.next_group().unwrap().is_none());
        }
    }

    #[test]
    fn an_answer_that_was_cut_or_goes_on_is_refused() {
        let whole = written(LAST_VERSION);
        let walk = |bytes: &[u8]| {
            let mut answers = OffsetAnswers::parse(bytes)?;
            while let Some(group) = answers.next_group()? {
                group.positions().for_each(drop);
            }
            Ok::<(), WireError>(())
        };
        walk(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(walk(&whole[..length]).is_err(), "cut at {length}");
        }
        let more = [whole.as_slice(), &[0]].concat();
        assert!(matches!(walk(&more), Err(WireError::TrailingBytes { remaining: 1 })));
        // Two billion groups in a frame of a few bytes.
        let claim = [0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert!(matches!(walk(&claim), Err(WireError::BadLength { field: "groups", .. })));
        let broken = [0, 0, 0, 0, 0, 2, 2, 0xff, 1, 0, 0, 0, 0];
        assert!(matches!(walk(&broken), Err(WireError::Text { field: "group" })));
    }
}
