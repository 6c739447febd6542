//! A request frame that has arrived whole, read front to back, and the walk over its topics.
//!
//! Every length and count is checked against what is left of the frame before it is believed, so nothing
//! that a follower sends makes this allocate: a walk hands out one partition at a time.
//!
//! ```text
//!   topics*  key  partitions*  item  [tags inside the item]
//!                 [tags]
//! ```
//! A [`Walk`] is driven twice: once by the decoder, which refuses a frame that breaks off, then by the owner,
//! for whom it is an iterator that cannot fail.

use super::{Reader, WireError};
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::LeaderEpoch;

/// More tagged fields than any version defines. Raising it lets a hostile peer keep us reading tags.
const TAGS_MAX: u32 = 64;

/// What is left of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameReader<'a> {
    rest: &'a [u8],
}

impl<'a> FrameReader<'a> {
    pub fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    pub fn remaining(&self) -> u64 {
        self.rest.len() as u64
    }

    fn read<T>(
        &mut self,
        field: &'static str,
        needed: u64,
        read: impl FnOnce(&mut Reader<'a>) -> Option<T>,
    ) -> Result<T, WireError> {
        let mut reader = Reader::new(self.rest);
        let short = WireError::BeyondFrame { field, needed, remaining: self.remaining() };
        let value = read(&mut reader).ok_or(short)?;
        self.rest = &self.rest[reader.consumed()..];
        Ok(value)
    }

    pub fn i8(&mut self, field: &'static str) -> Result<i8, WireError> {
        self.read(field, 1, Reader::i8)
    }

    pub fn i16(&mut self, field: &'static str) -> Result<i16, WireError> {
        self.read(field, 2, Reader::i16)
    }

    pub fn i32(&mut self, field: &'static str) -> Result<i32, WireError> {
        self.read(field, 4, Reader::i32)
    }

    pub fn i64(&mut self, field: &'static str) -> Result<i64, WireError> {
        self.read(field, 8, Reader::i64)
    }

    pub fn uuid(&mut self, field: &'static str) -> Result<[u8; 16], WireError> {
        self.read(field, 16, Reader::uuid)
    }

    pub fn leader_epoch(&mut self, field: &'static str) -> Result<LeaderEpoch, WireError> {
        self.i32(field).map(LeaderEpoch)
    }

    pub fn topic_id(&mut self) -> Result<TopicId, WireError> {
        self.uuid("topic_id").map(TopicId)
    }

    pub fn take(&mut self, field: &'static str, bytes: u32) -> Result<&'a [u8], WireError> {
        self.read(field, bytes.into(), |reader| reader.take(bytes as usize))
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.read(field, 1, Reader::unsigned_varint)?.map_err(|()| WireError::Varint { field })
    }

    /// The length of a compact array whose elements take at least `element_bytes` each. Null is refused:
    /// no array of these requests may be null.
    pub fn count(&mut self, field: &'static str, element_bytes: u64) -> Result<u32, WireError> {
        let encoded = i64::from(self.varint(field)?);
        let bound = (self.remaining() / element_bytes).cast_signed();
        match u32::try_from(encoded - 1) {
            Ok(count) if i64::from(count) <= bound => Ok(count),
            _ => Err(WireError::BadLength { field, value: encoded - 1, bound }),
        }
    }

    /// A compact string that may be null. Its bytes are not checked to be UTF-8: they are only compared.
    pub fn compact_nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, WireError> {
        match self.varint(field)? {
            0 => Ok(None),
            encoded => self.take(field, encoded - 1).map(Some),
        }
    }

    pub fn compact(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let null = WireError::BadLength { field, value: -1, bound: self.remaining().cast_signed() };
        self.compact_nullable(field)?.ok_or(null)
    }

    /// A string with a two-byte length, -1 for null.
    pub fn classic_nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, WireError> {
        let length = self.i16(field)?;
        match u32::try_from(length) {
            Ok(bytes) => self.take(field, bytes).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => {
                let bound = self.remaining().cast_signed();
                Err(WireError::BadLength { field, value: length.into(), bound })
            }
        }
    }

    /// Shows each tagged field to `visit`, which ignores those that it does not know.
    pub fn tags(
        &mut self,
        mut visit: impl FnMut(u32, FrameReader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let count = self.varint("tags")?;
        if count > TAGS_MAX {
            return Err(WireError::BadLength { field: "tags", value: count.into(), bound: TAGS_MAX.into() });
        }
        for _ in 0..count {
            let tag = self.varint("tag")?;
            let bytes = self.varint("tag size")?;
            visit(tag, FrameReader::new(self.take("tag", bytes)?))?;
        }
        Ok(())
    }

    pub fn skip_tags(&mut self) -> Result<(), WireError> {
        self.tags(|_, _| Ok(()))
    }

    /// Nothing may follow the last field.
    pub fn end(&self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            remaining => Err(WireError::TrailingBytes { remaining }),
        }
    }
}

/// How the parts of one array of topics are read.
#[derive(Debug)]
pub(super) struct Shape<'a, K, T> {
    pub key: fn(&mut FrameReader<'a>) -> Result<K, WireError>,
    pub item: fn(&mut FrameReader<'a>) -> Result<T, WireError>,
    /// The least that one item takes.
    pub item_bytes: u64,
}

impl<K, T> Clone for Shape<'_, K, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, T> Copy for Shape<'_, K, T> {}

/// All partitions of an array of topics in the order of the frame, each with its topic.
#[derive(Clone, Debug)]
pub struct Walk<'a, K, T> {
    frame: FrameReader<'a>,
    shape: Shape<'a, K, T>,
    topics_left: u32,
    partitions_left: u32,
    topic: Option<K>,
}

impl<'a, K: Copy, T> Walk<'a, K, T> {
    /// Reads the array at the front of `frame` to its end; the walk that is returned stands at its beginning.
    pub(super) fn read(frame: &mut FrameReader<'a>, shape: Shape<'a, K, T>) -> Result<Self, WireError> {
        // A topic takes at least a byte of its key, an empty array and an empty tag section.
        let topics_left = frame.count("topics", 3)?;
        let walk = Self { frame: *frame, shape, topics_left, partitions_left: 0, topic: None };
        let mut checked = Self { frame: *frame, shape, topics_left, partitions_left: 0, topic: None };
        while checked.step()?.is_some() {}
        *frame = checked.frame;
        Ok(walk)
    }

    fn step(&mut self) -> Result<Option<(K, T)>, WireError> {
        loop {
            if let Some(topic) = self.topic {
                if self.partitions_left > 0 {
                    self.partitions_left -= 1;
                    return Ok(Some((topic, (self.shape.item)(&mut self.frame)?)));
                }
                self.frame.skip_tags()?;
                self.topic = None;
            }
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = Some((self.shape.key)(&mut self.frame)?);
            self.partitions_left = self.frame.count("partitions", self.shape.item_bytes)?;
        }
    }
}

impl<K: Copy, T> Iterator for Walk<'_, K, T> {
    type Item = (K, T);

    fn next(&mut self) -> Option<(K, T)> {
        self.step().expect("the decoder has walked over these bytes")
    }
}
