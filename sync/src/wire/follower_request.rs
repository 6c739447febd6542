//! What stock followers send to the leader of their partitions: one request frame, decoded.
//!
//! Followers of Kafka 4.0 send Fetch v17 and ListOffsets v10, those of 4.1 Fetch v18, those of 4.3 also
//! ListOffsets v11, which has the layout of v10: the version only says that the timestamp -6 (earliest
//! offset that waits for its upload, ref: KIP-1023) may be asked. Only where SASL is spoken they ask ApiVersions, and
//! then in version 0; SaslHandshake and SaslAuthenticate follow in the highest versions that it named.
//! OffsetForLeaderEpoch is served although followers that truncate while fetching do not need it.
//!
//! ```text
//!   frame   api_key version correlation_id client_id? [tags from header v2 on]  body
//!   Fetch   max_wait min_bytes max_bytes isolation session_id session_epoch
//!           topics*  id  partitions*  index current_leader_epoch fetch_offset last_fetched_epoch
//!                                     log_start max_bytes [tags 0: directory, 18+ 1: high watermark]
//!           forgotten*  id  partitions*     rack  [tags 0: cluster id, 1: replica id and epoch]
//! ```
//! Never allocates: partitions are walked over in the frame, twice at most. Anything but these requests is
//! [`Request::Unsupported`], which is not an error of the wire: the server answers or closes.

use super::follower_frame::{FrameReader, Shape, Walk};
use super::{API_KEY_API_VERSIONS, API_KEY_FETCH, WireError};
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::LeaderEpoch;

/// Largest request frame. A full fetch takes 35 bytes a partition, so this is room for 100,000 of them.
/// Raising it lets every connection hold that much memory before a byte of it has been looked at.
pub const REQUEST_BYTES_MAX: u32 = 4 << 20;

pub const API_KEY_LIST_OFFSETS: i16 = 2;
pub const API_KEY_OFFSET_FOR_LEADER_EPOCH: i16 = 23;
pub const API_KEY_SASL_HANDSHAKE: i16 = 17;
pub const API_KEY_SASL_AUTHENTICATE: i16 = 36;

/// What is served: key, lowest and highest version. ApiVersions advertises exactly this.
pub const SERVED: [(i16, i16, i16); 6] = [
    (API_KEY_FETCH, 17, 18),
    (API_KEY_LIST_OFFSETS, 10, 11),
    (API_KEY_SASL_HANDSHAKE, 1, 1),
    (API_KEY_API_VERSIONS, 0, 4),
    (API_KEY_OFFSET_FOR_LEADER_EPOCH, 4, 4),
    (API_KEY_SASL_AUTHENTICATE, 2, 2),
];

/// First version of ApiVersions in compact, tagged form.
pub(super) const API_VERSIONS_FLEXIBLE: i16 = 3;

/// Timestamps of ListOffsets that are questions about the log itself.
pub const TIMESTAMP_LATEST: i64 = -1;
pub const TIMESTAMP_EARLIEST: i64 = -2;
pub const TIMESTAMP_EARLIEST_LOCAL: i64 = -4;
pub const TIMESTAMP_LATEST_TIERED: i64 = -5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<&'a [u8]>,
}

/// One decoded frame.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    ApiVersions(RequestHeader<'a>),
    Fetch(FetchRequest<'a>),
    ListOffsets(ListOffsetsRequest<'a>),
    OffsetForLeaderEpoch(EpochEndRequest<'a>),
    /// The mechanism that the follower wants to prove itself by.
    SaslHandshake {
        header: RequestHeader<'a>,
        mechanism: &'a [u8],
    },
    /// One message of that mechanism.
    SaslAuthenticate {
        header: RequestHeader<'a>,
        message: &'a [u8],
    },
    /// Answer ApiVersions with error 35; close the connection for everything else.
    Unsupported {
        api_key: i16,
        version: i16,
        correlation_id: i32,
    },
}

#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    pub header: RequestHeader<'a>,
    /// -1 where the tag is missing: a consumer.
    pub replica_id: i32,
    /// -1 while the follower is not registered yet.
    pub replica_epoch: i64,
    pub cluster_id: Option<&'a [u8]>,
    pub wait_max_ms: u32,
    pub bytes_min: u32,
    pub bytes_max: u32,
    pub isolation_level: i8,
    pub session_id: i32,
    pub session_epoch: i32,
    pub rack: &'a [u8],
    partitions: Walk<'a, TopicId, FetchedPartition>,
    forgotten: Walk<'a, TopicId, i32>,
}

/// One partition of a Fetch request, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedPartition {
    pub index: i32,
    pub current_leader_epoch: LeaderEpoch,
    /// The follower's log end; never negative from a stock broker, but not checked here.
    pub fetch_offset: i64,
    /// Stamp of the follower's last batch, unknown for an empty log.
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start_offset: i64,
    pub bytes_max: u32,
    pub replica_directory_id: [u8; 16],
    /// The high watermark that the follower knows (18+), i64::MAX where it does not say.
    pub high_watermark: i64,
}

impl<'a> FetchRequest<'a> {
    /// What is fetched, in the follower's order.
    pub fn partitions(&self) -> Walk<'a, TopicId, FetchedPartition> {
        self.partitions.clone()
    }

    /// Partitions that leave the session.
    pub fn forgotten(&self) -> Walk<'a, TopicId, i32> {
        self.forgotten.clone()
    }
}

#[derive(Clone, Debug)]
pub struct ListOffsetsRequest<'a> {
    pub header: RequestHeader<'a>,
    pub replica_id: i32,
    pub isolation_level: i8,
    pub timeout_ms: i32,
    partitions: Walk<'a, &'a [u8], ListedPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPartition {
    pub index: i32,
    pub current_leader_epoch: LeaderEpoch,
    pub timestamp: i64,
}

impl<'a> ListOffsetsRequest<'a> {
    /// Topic name and partition, in the follower's order.
    pub fn partitions(&self) -> Walk<'a, &'a [u8], ListedPartition> {
        self.partitions.clone()
    }
}

#[derive(Clone, Debug)]
pub struct EpochEndRequest<'a> {
    pub header: RequestHeader<'a>,
    pub replica_id: i32,
    partitions: Walk<'a, &'a [u8], EpochEndPartition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndPartition {
    pub index: i32,
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch whose end is asked.
    pub leader_epoch: LeaderEpoch,
}

impl<'a> EpochEndRequest<'a> {
    /// Topic name and partition, in the follower's order.
    pub fn partitions(&self) -> Walk<'a, &'a [u8], EpochEndPartition> {
        self.partitions.clone()
    }
}

/// Checks the four bytes in front of a frame before memory is set aside for it.
pub fn frame_length(bytes: [u8; 4]) -> Result<u32, WireError> {
    let length = i32::from_be_bytes(bytes);
    match u32::try_from(length) {
        // The shortest header: key, version, correlation id, no client id.
        Ok(accepted) if (10..=REQUEST_BYTES_MAX).contains(&accepted) => Ok(accepted),
        _ => Err(WireError::FrameLength { length, bound: REQUEST_BYTES_MAX }),
    }
}

/// Decodes a complete frame, without the length in front of it.
pub fn read_request(frame: &[u8]) -> Result<Request<'_>, WireError> {
    if frame.len() > REQUEST_BYTES_MAX as usize {
        let length = i32::try_from(frame.len()).unwrap_or(i32::MAX);
        return Err(WireError::FrameLength { length, bound: REQUEST_BYTES_MAX });
    }
    let mut reader = FrameReader::new(frame);
    let api_key = reader.i16("api_key")?;
    let version = reader.i16("version")?;
    let correlation_id = reader.i32("correlation_id")?;
    let mut served = SERVED.iter();
    if !served.any(|(key, lowest, highest)| *key == api_key && (*lowest..=*highest).contains(&version)) {
        return Ok(Request::Unsupported { api_key, version, correlation_id });
    }
    // The client id keeps its classic form in header v2 (ref: KIP-482).
    let client_id = reader.classic_nullable("client_id")?;
    let header = RequestHeader { api_key, version, correlation_id, client_id };
    let is_flexible = match api_key {
        API_KEY_SASL_HANDSHAKE => false,
        API_KEY_API_VERSIONS => version >= API_VERSIONS_FLEXIBLE,
        _ => true,
    };
    if is_flexible {
        reader.skip_tags()?;
    }
    let request = match api_key {
        API_KEY_FETCH => Request::Fetch(read_fetch(&mut reader, header)?),
        API_KEY_LIST_OFFSETS => Request::ListOffsets(read_list_offsets(&mut reader, header)?),
        API_KEY_OFFSET_FOR_LEADER_EPOCH => {
            Request::OffsetForLeaderEpoch(read_epoch_end(&mut reader, header)?)
        }
        API_KEY_SASL_HANDSHAKE => {
            let mechanism = reader.classic_nullable("mechanism")?.unwrap_or_default();
            Request::SaslHandshake { header, mechanism }
        }
        API_KEY_SASL_AUTHENTICATE => {
            let message = reader.compact("auth_bytes")?;
            reader.skip_tags()?;
            Request::SaslAuthenticate { header, message }
        }
        _ => {
            if version >= API_VERSIONS_FLEXIBLE {
                reader.compact("client_software_name")?;
                reader.compact("client_software_version")?;
                reader.skip_tags()?;
            }
            Request::ApiVersions(header)
        }
    };
    reader.end()?;
    Ok(request)
}

fn read_fetch<'a>(
    reader: &mut FrameReader<'a>,
    header: RequestHeader<'a>,
) -> Result<FetchRequest<'a>, WireError> {
    let wait_max_ms = not_negative(reader.i32("max_wait_ms")?);
    let bytes_min = not_negative(reader.i32("min_bytes")?);
    let bytes_max = not_negative(reader.i32("max_bytes")?);
    let isolation_level = reader.i8("isolation_level")?;
    let session_id = reader.i32("session_id")?;
    let session_epoch = reader.i32("session_epoch")?;
    let shape = Shape { key: FrameReader::topic_id, item: read_fetched_partition, item_bytes: 33 };
    let partitions = Walk::read(reader, shape)?;
    let index = |reader: &mut FrameReader<'a>| reader.i32("partition");
    let forgotten = Walk::read(reader, Shape { key: FrameReader::topic_id, item: index, item_bytes: 4 })?;
    let rack = reader.compact("rack_id")?;
    let (mut cluster_id, mut replica_id, mut replica_epoch) = (None, -1, -1);
    reader.tags(|tag, mut value| {
        match tag {
            0 => cluster_id = value.compact_nullable("cluster_id")?,
            1 => {
                replica_id = value.i32("replica_id")?;
                replica_epoch = value.i64("replica_epoch")?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(FetchRequest {
        header,
        replica_id,
        replica_epoch,
        cluster_id,
        wait_max_ms,
        bytes_min,
        bytes_max,
        isolation_level,
        session_id,
        session_epoch,
        rack,
        partitions,
        forgotten,
    })
}

fn read_fetched_partition(reader: &mut FrameReader<'_>) -> Result<FetchedPartition, WireError> {
    let mut partition = FetchedPartition {
        index: reader.i32("partition")?,
        current_leader_epoch: reader.leader_epoch("current_leader_epoch")?,
        fetch_offset: reader.i64("fetch_offset")?,
        last_fetched_epoch: reader.leader_epoch("last_fetched_epoch")?,
        log_start_offset: reader.i64("log_start_offset")?,
        bytes_max: not_negative(reader.i32("partition_max_bytes")?),
        replica_directory_id: [0; 16],
        high_watermark: i64::MAX,
    };
    reader.tags(|tag, mut value| {
        match tag {
            0 => partition.replica_directory_id = value.uuid("replica_directory_id")?,
            1 => partition.high_watermark = value.i64("high_watermark")?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(partition)
}

fn read_list_offsets<'a>(
    reader: &mut FrameReader<'a>,
    header: RequestHeader<'a>,
) -> Result<ListOffsetsRequest<'a>, WireError> {
    let replica_id = reader.i32("replica_id")?;
    let isolation_level = reader.i8("isolation_level")?;
    let item = |reader: &mut FrameReader<'a>| {
        let partition = ListedPartition {
            index: reader.i32("partition_index")?,
            current_leader_epoch: reader.leader_epoch("current_leader_epoch")?,
            timestamp: reader.i64("timestamp")?,
        };
        reader.skip_tags()?;
        Ok(partition)
    };
    let partitions = Walk::read(reader, Shape { key: topic_name, item, item_bytes: 17 })?;
    let timeout_ms = reader.i32("timeout_ms")?;
    reader.skip_tags()?;
    Ok(ListOffsetsRequest { header, replica_id, isolation_level, timeout_ms, partitions })
}

fn read_epoch_end<'a>(
    reader: &mut FrameReader<'a>,
    header: RequestHeader<'a>,
) -> Result<EpochEndRequest<'a>, WireError> {
    let replica_id = reader.i32("replica_id")?;
    let item = |reader: &mut FrameReader<'a>| {
        let partition = EpochEndPartition {
            index: reader.i32("partition")?,
            current_leader_epoch: reader.leader_epoch("current_leader_epoch")?,
            leader_epoch: reader.leader_epoch("leader_epoch")?,
        };
        reader.skip_tags()?;
        Ok(partition)
    };
    let partitions = Walk::read(reader, Shape { key: topic_name, item, item_bytes: 13 })?;
    reader.skip_tags()?;
    Ok(EpochEndRequest { header, replica_id, partitions })
}

fn topic_name<'a>(reader: &mut FrameReader<'a>) -> Result<&'a [u8], WireError> {
    reader.compact("topic name")
}

/// Sizes and times of a request: a negative one asks for nothing.
fn not_negative(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
#[path = "follower_request_tests.rs"]
mod tests;
