//! Walks a whole answer before a decoder may see it: every length against the rest of its frame.
//!
//! The decoding library reserves memory for as many items as an array claims to have. A hostile or
//! broken peer that claims two billion would end the process there, so each answer's layout stands
//! here as a table and is walked first, which allocates nothing. ref: KIP-482 for the flexible layout.
//!
//! ```text
//!   frame:  correlation id | [header tags] | fields of the table, each from its first to its last version
//!   array:  count, then count times its own fields (and their tags where the version is flexible)
//!   tagged: tag, length, then exactly that many bytes of the tag's own layout; unknown tags are passed over
//! ```

mod controller;
mod groups;
mod producers;

use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
};
use kafka_protocol::protocol::{Request, VersionRange};
use std::fmt;
use twinlog_sync::wire::Reader;

/// One field of an answer.
pub struct Field {
    since: i16,
    until: i16,
    layout: Layout,
}

enum Layout {
    /// This many bytes.
    Fixed(usize),
    /// A string, or null.
    Text,
    /// Bytes behind a length of four, or null.
    Bytes,
    /// An array of numbers of this many bytes.
    Numbers(usize),
    /// An array of strings.
    Texts,
    /// An array of structures.
    Array(&'static [Field]),
    /// One structure.
    Structure(&'static [Field]),
    /// A field that stands among the tags of its structure, if at all.
    Tagged(u32, &'static Layout),
}

/// What an answer looks like, for each request that is ever sent.
pub trait Shaped: Request {
    const NAME: &'static str;
    /// Versions that both the library and the table know.
    const UNDERSTOOD: VersionRange;
    /// First version with compact lengths and tags.
    const FLEXIBLE_FROM: i16;
    const ANSWER: &'static [Field];

    /// The version in which the library writes and reads the body, where it knows an older one only that
    /// differs in tags.
    fn body_version(version: i16) -> i16 {
        version
    }
}

/// Where a frame stops being an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// A field would pass the end of its frame.
    BeyondFrame { position: usize },
    /// A count or length is negative, or larger than what is left could hold.
    Length { position: usize, value: i64 },
    /// The frame goes on after its last field.
    Trailing { bytes: usize },
    /// The layout was right, a value in it was not (a name that is not UTF-8).
    Content,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondFrame { position } => {
                write!(f, "a field at byte {position} passes the end of its frame")
            }
            Self::Length { position, value } => {
                write!(f, "the length {value} at byte {position} is impossible")
            }
            Self::Trailing { bytes } => write!(f, "{bytes} bytes follow its last field"),
            Self::Content => write!(f, "a value in it is not of its type"),
        }
    }
}

const fn field(since: i16, layout: Layout) -> Field {
    Field { since, until: i16::MAX, layout }
}

impl Shaped for ApiVersionsRequest {
    const NAME: &'static str = "ApiVersions";
    /// Version 0 is answered by every broker, and asked before anything is negotiated. ref: KIP-35
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 0 };
    const FLEXIBLE_FROM: i16 = 3;
    const ANSWER: &'static [Field] =
        &[field(0, Layout::Fixed(2)), field(0, Layout::Array(&[field(0, Layout::Fixed(6))]))];
}

impl Shaped for MetadataRequest {
    const NAME: &'static str = "Metadata";
    /// Version 0 does not say which topics are internal.
    const UNDERSTOOD: VersionRange = VersionRange { min: 1, max: 13 };
    const FLEXIBLE_FROM: i16 = 9;
    const ANSWER: &'static [Field] = &[
        field(3, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(4)),
                field(0, Layout::Text),
                field(0, Layout::Fixed(4)),
                field(1, Layout::Text),
            ]),
        ),
        field(2, Layout::Text),
        field(1, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(2)),
                field(0, Layout::Text),
                field(10, Layout::Fixed(16)),
                field(1, Layout::Fixed(1)),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(10)),
                        field(7, Layout::Fixed(4)),
                        field(0, Layout::Numbers(4)),
                        field(0, Layout::Numbers(4)),
                        field(5, Layout::Numbers(4)),
                    ]),
                ),
                field(8, Layout::Fixed(4)),
            ]),
        ),
        Field { since: 8, until: 10, layout: Layout::Fixed(4) },
        field(13, Layout::Fixed(2)),
    ];
}

impl Shaped for ListOffsetsRequest {
    const NAME: &'static str = "ListOffsets";
    const UNDERSTOOD: VersionRange = VersionRange { min: 1, max: 10 };
    const FLEXIBLE_FROM: i16 = 6;
    const ANSWER: &'static [Field] = &[
        field(2, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(0, Layout::Array(&[field(0, Layout::Fixed(22)), field(4, Layout::Fixed(4))])),
            ]),
        ),
    ];
}

impl Shaped for OffsetForLeaderEpochRequest {
    const NAME: &'static str = "OffsetForLeaderEpoch";
    /// Older versions cannot be fenced by the leader epoch that we know. ref: KIP-320
    const UNDERSTOOD: VersionRange = VersionRange { min: 2, max: 4 };
    const FLEXIBLE_FROM: i16 = 4;
    const ANSWER: &'static [Field] = &[
        field(2, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[field(0, Layout::Text), field(0, Layout::Array(&[field(0, Layout::Fixed(18))]))]),
        ),
    ];
}

impl Shaped for FetchRequest {
    const NAME: &'static str = "Fetch";
    /// Version 13 names topics by id; reading one partition for a comparison needs no more than this. The
    /// metadata log is fetched with [`METADATA_FETCH_VERSION`], which is not negotiated here.
    const UNDERSTOOD: VersionRange = VersionRange { min: 4, max: 12 };
    const FLEXIBLE_FROM: i16 = 12;
    const ANSWER: &'static [Field] = &[
        field(1, Layout::Fixed(4)),
        field(7, Layout::Fixed(6)),
        field(
            0,
            Layout::Array(&[
                Field { since: 0, until: 12, layout: Layout::Text },
                field(13, Layout::Fixed(16)),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(14)),
                        field(4, Layout::Fixed(8)),
                        field(5, Layout::Fixed(8)),
                        field(4, Layout::Array(&[field(0, Layout::Fixed(16))])),
                        field(11, Layout::Fixed(4)),
                        field(0, Layout::Bytes),
                        field(12, Layout::Tagged(0, &Layout::Structure(&[field(0, Layout::Fixed(12))]))),
                        field(12, Layout::Tagged(1, &Layout::Structure(&[field(0, Layout::Fixed(8))]))),
                        field(12, Layout::Tagged(2, &Layout::Structure(&[field(0, Layout::Fixed(12))]))),
                    ]),
                ),
            ]),
        ),
        field(
            16,
            Layout::Tagged(
                0,
                &Layout::Array(&[
                    field(0, Layout::Fixed(4)),
                    field(0, Layout::Text),
                    field(0, Layout::Fixed(4)),
                    field(0, Layout::Text),
                ]),
            ),
        ),
    ];
}

/// The Fetch of the metadata log: the first version that names the directory of the one who asks, and the
/// last one of Kafka 4.0. ref: KIP-853
pub const METADATA_FETCH_VERSION: i16 = 17;

/// Walks a frame behind its correlation id.
pub fn check<R: Shaped>(frame: &[u8], version: i16, tagged_header: bool) -> Result<(), ShapeError> {
    let flexible = version >= R::FLEXIBLE_FROM;
    let mut walk = Walk { reader: Reader::new(frame), bytes: frame.len(), version, flexible };
    if tagged_header {
        walk.tags(&[])?;
    }
    walk.fields(R::ANSWER)?;
    match frame.len() - walk.reader.consumed() {
        0 => Ok(()),
        bytes => Err(ShapeError::Trailing { bytes }),
    }
}

struct Walk<'a> {
    reader: Reader<'a>,
    bytes: usize,
    version: i16,
    flexible: bool,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for field in fields.iter().filter(|field| (field.since..=field.until).contains(&version)) {
            if !matches!(field.layout, Layout::Tagged(..)) {
                self.layout(&field.layout)?;
            }
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn layout(&mut self, layout: &Layout) -> Result<(), ShapeError> {
        match layout {
            Layout::Fixed(bytes) => self.skip(*bytes),
            Layout::Text => {
                let bytes = self.text_length()?;
                self.skip(bytes)
            }
            Layout::Bytes => {
                let bytes = if self.flexible { self.text_length()? } else { self.count()? };
                self.skip(bytes)
            }
            Layout::Numbers(each) => {
                let count = self.count()?;
                // Cannot overflow: a count is at most the frame's length.
                self.skip(count * each)
            }
            Layout::Texts => {
                for _ in 0..self.count()? {
                    let bytes = self.text_length()?;
                    self.skip(bytes)?;
                }
                Ok(())
            }
            Layout::Array(fields) => {
                for _ in 0..self.count()? {
                    self.fields(fields)?;
                }
                Ok(())
            }
            Layout::Structure(fields) => self.fields(fields),
            Layout::Tagged(_, inner) => self.layout(inner),
        }
    }

    /// The tags of a structure. One that is known has to fill its length: the decoder goes on behind what it
    /// reads, not behind what the length says.
    fn tags(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let bytes = self.varint()? as usize;
            let position = self.reader.consumed();
            let is_this = |field: &&Field| {
                let known = matches!(field.layout, Layout::Tagged(known, _) if known == tag);
                known && (field.since..=field.until).contains(&self.version)
            };
            match fields.iter().find(is_this) {
                None => self.skip(bytes)?,
                Some(field) => {
                    self.layout(&field.layout)?;
                    if self.reader.consumed() - position != bytes {
                        return Err(ShapeError::Length { position, value: bytes as i64 });
                    }
                }
            }
        }
        Ok(())
    }

    fn beyond(&self) -> ShapeError {
        ShapeError::BeyondFrame { position: self.reader.consumed() }
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.reader.take(bytes).map(|_| ()).ok_or(self.beyond())
    }

    fn varint(&mut self) -> Result<u32, ShapeError> {
        let position = self.reader.consumed();
        let read = self.reader.unsigned_varint().ok_or(self.beyond())?;
        read.map_err(|()| ShapeError::Length { position, value: i64::MAX })
    }

    /// Length of a nullable string in bytes.
    fn text_length(&mut self) -> Result<usize, ShapeError> {
        let position = self.reader.consumed();
        if self.flexible {
            return Ok((self.varint()? as usize).saturating_sub(1));
        }
        let value = self.reader.i16().ok_or(self.beyond())?;
        match value {
            -1 => Ok(0),
            value => usize::try_from(value).map_err(|_| ShapeError::Length { position, value: value.into() }),
        }
    }

    /// Items of an array: each takes at least one byte, so more than what is left is a lie.
    fn count(&mut self) -> Result<usize, ShapeError> {
        let position = self.reader.consumed();
        let value = if self.flexible {
            i64::from(self.varint()?).saturating_sub(1).max(0)
        } else {
            match self.reader.i32().ok_or(self.beyond())? {
                -1 => 0,
                value => i64::from(value),
            }
        };
        let left = self.bytes - self.reader.consumed();
        match usize::try_from(value) {
            Ok(count) if count <= left => Ok(count),
            _ => Err(ShapeError::Length { position, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    use kafka_protocol::messages::{
        ApiVersionsResponse, BrokerId, FetchResponse, ListOffsetsResponse, MetadataResponse,
        OffsetForLeaderEpochResponse, TopicName,
    };
    use kafka_protocol::messages::{fetch_response, list_offsets_response, offset_for_leader_epoch_response};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn name() -> TopicName {
        TopicName(StrBytes::from_static_str("orders"))
    }

    fn encoded<T: Encodable>(answer: &T, version: i16) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes, version).unwrap();
        bytes.to_vec()
    }

    fn metadata() -> MetadataResponse {
        let broker = MetadataResponseBroker::default().with_host(StrBytes::from_static_str("b")).with_port(1);
        let partition = MetadataResponsePartition::default()
            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
            .with_isr_nodes(vec![BrokerId(1)]);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(name()))
            .with_partitions(vec![partition.clone(), partition]);
        MetadataResponse::default().with_brokers(vec![broker.clone(), broker]).with_topics(vec![topic])
    }

    /// What the library writes in each version passes whole, and no piece of it passes.
    pub(super) fn proves<R: Shaped>(answer: &R::Response, hostile_byte: u8) {
        proves_versions::<R>(answer, hostile_byte, R::UNDERSTOOD);
    }

    pub(super) fn proves_versions<R: Shaped>(answer: &R::Response, hostile_byte: u8, versions: VersionRange) {
        for version in versions.min..=versions.max {
            let bytes = encoded(answer, R::body_version(version));
            assert_eq!(check::<R>(&bytes, version, false), Ok(()), "{} v{version}", R::NAME);
            for cut in 0..bytes.len() {
                assert!(
                    check::<R>(&bytes[..cut], version, false).is_err(),
                    "{} v{version} at {cut}",
                    R::NAME
                );
            }
            for position in 0..bytes.len() {
                let mut hostile = bytes.clone();
                hostile[position] = hostile_byte;
                // Accepted or refused, but within the frame and without a panic.
                let _ = check::<R>(&hostile, version, true);
            }
        }
    }

    #[test]
    fn every_version_that_is_understood_has_its_exact_layout() {
        let keys = vec![Default::default(); 3];
        proves::<ApiVersionsRequest>(&ApiVersionsResponse::default().with_api_keys(keys), 0x7f);
        proves::<MetadataRequest>(&metadata(), 0xff);
        let topic = list_offsets_response::ListOffsetsTopicResponse::default()
            .with_name(name())
            .with_partitions(vec![Default::default(); 2]);
        proves::<ListOffsetsRequest>(&ListOffsetsResponse::default().with_topics(vec![topic]), 0x7f);
        let topic = offset_for_leader_epoch_response::OffsetForLeaderTopicResult::default()
            .with_topic(name())
            .with_partitions(vec![Default::default(); 2]);
        let partition = fetch_response::PartitionData::default()
            .with_aborted_transactions(Some(vec![Default::default(); 2]))
            .with_records(Some(bytes::Bytes::from_static(b"records")));
        let fetched = fetch_response::FetchableTopicResponse::default()
            .with_topic(name())
            .with_partitions(vec![partition.clone(), partition.with_records(None)]);
        proves::<FetchRequest>(&FetchResponse::default().with_responses(vec![fetched]), 0x7f);
        let answer = OffsetForLeaderEpochResponse::default().with_topics(vec![topic]);
        proves::<OffsetForLeaderEpochRequest>(&answer, 0xff);
    }

    #[test]
    fn a_count_of_billions_is_refused_before_anything_is_reserved() {
        let mut old = encoded(&metadata(), 1);
        old[0..4].copy_from_slice(&i32::MAX.to_be_bytes());
        let refused = check::<MetadataRequest>(&old, 1, false);
        assert_eq!(refused, Err(ShapeError::Length { position: 0, value: i32::MAX.into() }));
        let flexible = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        let refused = check::<MetadataRequest>(&flexible, 9, false);
        assert_eq!(refused, Err(ShapeError::Length { position: 4, value: i64::from(u32::MAX) - 1 }));
    }
}
