//! Fetch response, versions 4 to 17, decoded while it arrives.
//!
//! The owner feeds whatever bytes have come and gets events; when the decoder stands at a records
//! field it says how many bytes follow, and the owner receives them wherever they belong:
//! straight into a segment image, never through here.
//!
//! ```text
//!   length correlation_id [tags] throttle [error session_id 7+]
//!   topics*  ( name <13 | id 13+ )                       -> topic()
//!     partitions*  index error high_watermark last_stable_offset [log_start 5+]
//!                  aborted* [preferred_replica 11+] records_length   -> Event::Partition
//!                  records ........ received by the owner            -> take_records(n)
//!                  [tags 12+: diverging epoch, current leader]       -> Event::PartitionEnd
//!   [tags]                                                           -> Event::End
//! ```
//! A value is consumed whole or not at all, so the owner's scratch must hold the largest atom:
//! [`ATOM_BYTES_MAX`]. Splitting the stream anywhere gives the same events.

use super::{Reader, WireError};
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::LeaderEpoch;

/// Largest piece that must be in the scratch at once: a topic name with its length.
pub const ATOM_BYTES_MAX: usize = 512;
/// Kafka's longest topic name.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// More tagged fields than any version defines; beyond it the peer is hostile.
const TAGS_MAX: u32 = 64;

/// The topic whose partitions follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKey<'a> {
    Name(&'a [u8]),
    Id(TopicId),
}

/// What precedes a partition's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionHead {
    pub index: i32,
    pub error: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    /// -1 before version 5.
    pub log_start_offset: i64,
    /// Broker id of a nearer replica, or -1 (ref: KIP-392).
    pub preferred_read_replica: i32,
    /// Bytes of the records field.
    pub records_bytes: u32,
}

/// What follows a partition's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PartitionTail {
    /// The source's largest epoch not above ours and its end (ref: KIP-595).
    pub diverging_epoch: Option<(LeaderEpoch, i64)>,
    /// Broker id and epoch of the partition's leader (ref: KIP-951).
    pub current_leader: Option<(i32, LeaderEpoch)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer as a whole. `session_id` is 0 where the broker keeps none.
    Response {
        throttle_ms: i32,
        error: i16,
        session_id: i32,
    },
    /// A topic starts; [`FetchDecoder::topic`] names it.
    Topic,
    /// A partition starts; its records follow.
    Partition(PartitionHead),
    PartitionEnd(PartitionTail),
    /// The frame ends exactly here.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Frame,
    Header,
    HeaderTags { left: u32 },
    Top,
    Topic,
    Partition,
    Aborted { left: u32 },
    Records,
    InRecords,
    PartitionTagCount,
    PartitionTags { left: u32 },
    TopicEndTags { left: Option<u32> },
    TopTags { left: Option<u32> },
    Skip { bytes: u32, then: AfterSkip },
    End,
}

/// Where an unknown tag's bytes were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterSkip {
    Header(u32),
    Partition(u32),
    Topic(u32),
    Top(u32),
}

/// The decoder of one connection's answers, used again for each of them.
pub struct FetchDecoder {
    version: i16,
    flexible: bool,
    frame_bytes_max: u32,
    correlation_id: i32,
    state: State,
    frame_left: u64,
    topics_left: u32,
    partitions_left: u32,
    records_left: u32,
    name: [u8; TOPIC_NAME_BYTES_MAX],
    name_length: usize,
    id: TopicId,
    head: PartitionHead,
    tail: PartitionTail,
}

const EMPTY_HEAD: PartitionHead = PartitionHead {
    index: 0,
    error: 0,
    high_watermark: -1,
    last_stable_offset: -1,
    log_start_offset: -1,
    preferred_read_replica: -1,
    records_bytes: 0,
};

impl FetchDecoder {
    /// `frame_bytes_max` bounds a whole answer; a frame that claims more closes the connection.
    pub fn new(version: i16, frame_bytes_max: u32) -> Self {
        assert!((4..=17).contains(&version), "Fetch v{version} was negotiated but is not read here");
        Self {
            version,
            flexible: version >= 12,
            frame_bytes_max,
            correlation_id: 0,
            state: State::End,
            frame_left: 0,
            topics_left: 0,
            partitions_left: 0,
            records_left: 0,
            name: [0; TOPIC_NAME_BYTES_MAX],
            name_length: 0,
            id: TopicId([0; 16]),
            head: EMPTY_HEAD,
            tail: PartitionTail::default(),
        }
    }

    /// Expects the answer to the request with this correlation id next.
    pub fn expect(&mut self, correlation_id: i32) {
        self.correlation_id = correlation_id;
        self.state = State::Frame;
        self.frame_left = 4;
        self.records_left = 0;
    }

    /// The topic of the last [`Event::Topic`].
    pub fn topic(&self) -> TopicKey<'_> {
        if self.version >= 13 {
            TopicKey::Id(self.id)
        } else {
            TopicKey::Name(&self.name[..self.name_length])
        }
    }

    /// Bytes of the current records field that the owner has not taken yet.
    pub fn records_left(&self) -> u32 {
        self.records_left
    }

    /// Bytes of the frame that have not been consumed yet; 0 when nothing is expected.
    pub fn frame_left(&self) -> u64 {
        if self.state == State::End { 0 } else { self.frame_left }
    }

    /// Says that the owner has taken `bytes` of the records field.
    pub fn take_records(&mut self, bytes: u32) {
        assert!(bytes <= self.records_left, "{bytes} bytes taken of {} records bytes", self.records_left);
        self.records_left -= bytes;
        self.frame_left -= u64::from(bytes);
        if self.records_left == 0 && self.state == State::InRecords {
            self.state = State::PartitionTagCount;
        }
    }

    /// Consumes from the front of `bytes` up to the next event. `(0, None)`: more bytes are needed.
    /// While [`Self::records_left`] is not 0 nothing is consumed here.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<(usize, Option<Event>), WireError> {
        let mut consumed = 0;
        loop {
            let before = self.state;
            let mut reader = Reader::new(&bytes[consumed..]);
            let step = self.step(&mut reader)?;
            let Some(event) = step else { return Ok((consumed, None)) };
            let used = reader.consumed();
            if used as u64 > self.frame_left {
                let (needed, remaining) = (used as u64, self.frame_left);
                return Err(WireError::BeyondFrame { field: field_name(before), needed, remaining });
            }
            consumed += used;
            self.frame_left -= used as u64;
            if before == State::Frame {
                self.start_frame(&bytes[consumed - 4..consumed])?;
            }
            if u64::from(self.records_left) > self.frame_left {
                let (needed, remaining) = (self.records_left.into(), self.frame_left);
                return Err(WireError::BeyondFrame { field: "records", needed, remaining });
            }
            if self.state == State::End && self.frame_left != 0 {
                return Err(WireError::TrailingBytes { remaining: self.frame_left });
            }
            if let Some(event) = event {
                return Ok((consumed, Some(event)));
            }
        }
    }

    fn start_frame(&mut self, length: &[u8]) -> Result<(), WireError> {
        let length = i32::from_be_bytes(length.try_into().expect("the frame state reads four bytes"));
        if length < 4 || length.cast_unsigned() > self.frame_bytes_max {
            return Err(WireError::FrameLength { length, bound: self.frame_bytes_max });
        }
        self.frame_left = u64::from(length.cast_unsigned());
        Ok(())
    }

    /// One state's worth. Outer `None`: not enough bytes; inner `None`: go on.
    fn step(&mut self, reader: &mut Reader<'_>) -> Result<Option<Option<Event>>, WireError> {
        let done = match self.state {
            State::Frame => reader.take(4).map(|_| (State::Header, None)),
            State::Header => return self.header(reader),
            State::Top => self.top(reader)?,
            State::Topic => self.topic_start(reader)?,
            State::Partition => self.partition(reader)?,
            State::Aborted { left } => self.aborted(reader, left),
            State::Records => self.records(reader)?,
            State::InRecords => None,
            State::HeaderTags { left: 0 } => Some((State::Top, None)),
            State::HeaderTags { left } => self.skip_tag(reader, AfterSkip::Header(left - 1))?,
            State::PartitionTagCount if !self.flexible => Some(self.partition_end()),
            State::PartitionTagCount => {
                self.tag_count(reader)?.map(|left| (State::PartitionTags { left }, None))
            }
            State::PartitionTags { left: 0 } => Some(self.partition_end()),
            State::PartitionTags { left } => self.partition_tag(reader, left - 1)?,
            State::TopicEndTags { left: None } if self.flexible => {
                self.tag_count(reader)?.map(|left| (State::TopicEndTags { left: Some(left) }, None))
            }
            State::TopicEndTags { left: None | Some(0) } => Some((self.after_topic(), None)),
            State::TopicEndTags { left: Some(left) } => self.skip_tag(reader, AfterSkip::Topic(left - 1))?,
            State::TopTags { left: None } if self.flexible => {
                self.tag_count(reader)?.map(|left| (State::TopTags { left: Some(left) }, None))
            }
            State::TopTags { left: None | Some(0) } => Some((State::End, Some(Event::End))),
            State::TopTags { left: Some(left) } => self.skip_tag(reader, AfterSkip::Top(left - 1))?,
            State::Skip { bytes, then } => skip(reader, self.frame_left, bytes, then)?,
            State::End => None,
        };
        Ok(done.map(|(state, event)| {
            self.state = state;
            event
        }))
    }

    fn header(&mut self, reader: &mut Reader<'_>) -> Result<Option<Option<Event>>, WireError> {
        let Some(found) = reader.i32() else { return Ok(None) };
        if found != self.correlation_id {
            return Err(WireError::CorrelationId { expected: self.correlation_id, found });
        }
        self.state = State::Top;
        if self.flexible {
            let Some(left) = self.tag_count(reader)? else {
                self.state = State::Header;
                return Ok(None);
            };
            self.state = State::HeaderTags { left };
        }
        Ok(Some(None))
    }

    fn top(&mut self, reader: &mut Reader<'_>) -> Result<Option<(State, Option<Event>)>, WireError> {
        let Some(throttle_ms) = reader.i32() else { return Ok(None) };
        let (mut error, mut session_id) = (0, 0);
        if self.version >= 7 {
            let (Some(code), Some(id)) = (reader.i16(), reader.i32()) else { return Ok(None) };
            (error, session_id) = (code, id);
        }
        let Some(topics) = self.length(reader, "responses", 2)? else { return Ok(None) };
        self.topics_left = topics;
        let next = self.after_topic();
        Ok(Some((next, Some(Event::Response { throttle_ms, error, session_id }))))
    }

    fn after_topic(&self) -> State {
        if self.topics_left > 0 { State::Topic } else { State::TopTags { left: None } }
    }

    fn after_partition(&self) -> State {
        if self.partitions_left > 0 { State::Partition } else { State::TopicEndTags { left: None } }
    }

    fn topic_start(&mut self, reader: &mut Reader<'_>) -> Result<Option<(State, Option<Event>)>, WireError> {
        if self.version >= 13 {
            let Some(id) = reader.uuid() else { return Ok(None) };
            self.id = TopicId(id);
        } else {
            let Some(length) = self.name_length(reader)? else { return Ok(None) };
            let Some(name) = reader.take(length) else { return Ok(None) };
            self.name[..length].copy_from_slice(name);
            self.name_length = length;
        }
        let Some(partitions) = self.length(reader, "partitions", 20)? else { return Ok(None) };
        self.topics_left -= 1;
        self.partitions_left = partitions;
        Ok(Some((self.after_partition(), Some(Event::Topic))))
    }

    fn name_length(&self, reader: &mut Reader<'_>) -> Result<Option<usize>, WireError> {
        let length = if self.flexible {
            match varint(reader, "topic")? {
                Some(length) => i64::from(length) - 1,
                None => return Ok(None),
            }
        } else {
            match reader.i16() {
                Some(length) => i64::from(length),
                None => return Ok(None),
            }
        };
        let bound = TOPIC_NAME_BYTES_MAX as i64;
        if !(1..=bound).contains(&length) {
            return Err(WireError::BadLength { field: "topic", value: length, bound });
        }
        Ok(Some(length as usize))
    }

    fn partition(&mut self, reader: &mut Reader<'_>) -> Result<Option<(State, Option<Event>)>, WireError> {
        let Some(head) = read_head(reader, self.version) else { return Ok(None) };
        // A null list (-1, or 0 when compact) means none aborted, as an empty one does.
        let Some(left) = self.length(reader, "aborted_transactions", 16)? else { return Ok(None) };
        self.head = head;
        self.tail = PartitionTail::default();
        self.partitions_left -= 1;
        Ok(Some((State::Aborted { left }, None)))
    }

    fn aborted(&self, reader: &mut Reader<'_>, left: u32) -> Option<(State, Option<Event>)> {
        if left == 0 {
            return Some((State::Records, None));
        }
        // Producer id and first offset; the copy takes the markers themselves, not this index of them.
        reader.take(16)?;
        if self.flexible {
            // Kafka defines no tags here; a tag count other than 0 shifts what follows and fails there.
            reader.i8()?;
        }
        Some((State::Aborted { left: left - 1 }, None))
    }

    fn records(&mut self, reader: &mut Reader<'_>) -> Result<Option<(State, Option<Event>)>, WireError> {
        if self.version >= 11 {
            let Some(replica) = reader.i32() else { return Ok(None) };
            self.head.preferred_read_replica = replica;
        }
        let Some(bytes) = self.length(reader, "records", 1)? else { return Ok(None) };
        self.head.records_bytes = bytes;
        self.records_left = bytes;
        let next = if bytes == 0 { State::PartitionTagCount } else { State::InRecords };
        Ok(Some((next, Some(Event::Partition(self.head)))))
    }

    fn partition_end(&mut self) -> (State, Option<Event>) {
        (self.after_partition(), Some(Event::PartitionEnd(self.tail)))
    }

    fn partition_tag(
        &mut self,
        reader: &mut Reader<'_>,
        left: u32,
    ) -> Result<Option<(State, Option<Event>)>, WireError> {
        let Some((tag, size)) = self.tag_start(reader)? else { return Ok(None) };
        if tag > 1 || size as usize > ATOM_BYTES_MAX {
            return Ok(Some((State::Skip { bytes: size, then: AfterSkip::Partition(left) }, None)));
        }
        let Some(body) = reader.take(size as usize) else { return Ok(None) };
        let mut body = Reader::new(body);
        let short = WireError::BeyondFrame { field: "partition tag", needed: 8, remaining: size.into() };
        let first = body.i32().ok_or(short)?;
        if tag == 0 {
            self.tail.diverging_epoch = Some((LeaderEpoch(first), body.i64().ok_or(short)?));
        } else {
            self.tail.current_leader = Some((first, LeaderEpoch(body.i32().ok_or(short)?)));
        }
        Ok(Some((State::PartitionTags { left }, None)))
    }

    fn tag_start(&self, reader: &mut Reader<'_>) -> Result<Option<(u32, u32)>, WireError> {
        let Some(tag) = varint(reader, "tag")? else { return Ok(None) };
        let Some(size) = varint(reader, "tag size")? else { return Ok(None) };
        self.bounded(size, "tag size", 1)?;
        Ok(Some((tag, size)))
    }

    fn skip_tag(
        &self,
        reader: &mut Reader<'_>,
        then: AfterSkip,
    ) -> Result<Option<(State, Option<Event>)>, WireError> {
        Ok(self.tag_start(reader)?.map(|(_, bytes)| (State::Skip { bytes, then }, None)))
    }

    fn tag_count(&self, reader: &mut Reader<'_>) -> Result<Option<u32>, WireError> {
        let Some(count) = varint(reader, "tags")? else { return Ok(None) };
        if count > TAGS_MAX {
            return Err(WireError::BadLength { field: "tags", value: count.into(), bound: TAGS_MAX.into() });
        }
        Ok(Some(count))
    }

    /// A classic or compact array or bytes length; null counts as empty. Each element takes at least
    /// `element_bytes`, so a length that the rest of the frame cannot hold is refused at once.
    fn length(
        &self,
        reader: &mut Reader<'_>,
        field: &'static str,
        element_bytes: u64,
    ) -> Result<Option<u32>, WireError> {
        let length = if self.flexible {
            match varint(reader, field)? {
                Some(length) => length.saturating_sub(1),
                None => return Ok(None),
            }
        } else {
            match reader.i32() {
                Some(-1) => 0,
                Some(length) if length >= 0 => length.cast_unsigned(),
                Some(length) => {
                    return Err(WireError::BadLength {
                        field,
                        value: length.into(),
                        bound: i64::from(i32::MAX),
                    });
                }
                None => return Ok(None),
            }
        };
        self.bounded(length, field, element_bytes)?;
        Ok(Some(length))
    }

    fn bounded(&self, length: u32, field: &'static str, element_bytes: u64) -> Result<(), WireError> {
        let bound = self.frame_left / element_bytes;
        if u64::from(length) > bound {
            return Err(WireError::BadLength { field, value: length.into(), bound: bound.cast_signed() });
        }
        Ok(())
    }
}

fn read_head(reader: &mut Reader<'_>, version: i16) -> Option<PartitionHead> {
    Some(PartitionHead {
        index: reader.i32()?,
        error: reader.i16()?,
        high_watermark: reader.i64()?,
        last_stable_offset: reader.i64()?,
        log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
        preferred_read_replica: -1,
        records_bytes: 0,
    })
}

fn varint(reader: &mut Reader<'_>, field: &'static str) -> Result<Option<u32>, WireError> {
    match reader.unsigned_varint() {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(())) => Err(WireError::Varint { field }),
    }
}

/// Skips what has arrived of an unknown tag's body, however long it is.
fn skip(
    reader: &mut Reader<'_>,
    frame_left: u64,
    bytes: u32,
    then: AfterSkip,
) -> Result<Option<(State, Option<Event>)>, WireError> {
    if u64::from(bytes) > frame_left {
        return Err(WireError::BeyondFrame { field: "tag", needed: bytes.into(), remaining: frame_left });
    }
    let mut left = bytes;
    while left > 0 && reader.i8().is_some() {
        left -= 1;
    }
    if left > 0 {
        let progress = (State::Skip { bytes: left, then }, None);
        return Ok((left < bytes).then_some(progress));
    }
    let state = match then {
        AfterSkip::Header(left) => State::HeaderTags { left },
        AfterSkip::Partition(left) => State::PartitionTags { left },
        AfterSkip::Topic(left) => State::TopicEndTags { left: Some(left) },
        AfterSkip::Top(left) => State::TopTags { left: Some(left) },
    };
    Ok(Some((state, None)))
}

fn field_name(state: State) -> &'static str {
    match state {
        State::Frame => "frame length",
        State::Header | State::HeaderTags { .. } => "header",
        State::Top => "response",
        State::Topic | State::TopicEndTags { .. } => "topic",
        State::Partition | State::Aborted { .. } | State::Records | State::InRecords => "partition",
        State::PartitionTagCount | State::PartitionTags { .. } => "partition tags",
        State::TopTags { .. } | State::Skip { .. } | State::End => "tags",
    }
}

#[cfg(test)]
#[path = "fetch_response_tests.rs"]
mod tests;
