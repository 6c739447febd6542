//! What a destination's brokers and controllers say: the metadata log with its snapshots, and every other answer.
//!
//! ```text
//!   metadata_log     how 1 │ batches of the log             --> follower --> image, by Fetch or as a snapshot
//!   metadata_record  the value of one record                --> decoder --> image
//!   cluster_answer   which 1 │ version 1 │ body             --> layout walk --> the library's decoder
//! ```
//! Whatever passes the walk must not make the decoder panic or reserve more than the frame could hold.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeAclsRequest, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeGroupsRequest, DescribeProducersRequest,
    DescribeProducersResponse, ElectLeadersRequest, FetchRequest, FetchSnapshotRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListTransactionsRequest, MetadataRequest,
    UnregisterBrokerRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use twinlog_daemon::control::source_client::{Shaped, check_shape};
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_sync::metadata::follower::{FollowerEvent, QuorumLeader};
use twinlog_sync::metadata::{
    ClusterImage, FetchAnswer, FollowerAction, MetadataFollower, MetadataRecord, SnapshotAnswer, SnapshotId,
};

/// Actions that one answer may bring about before the machine has to ask again.
const ACTIONS_MAX: usize = 10_000;

pub fn metadata_log(input: &[u8]) {
    let Some((how, bytes)) = input.split_first() else { return };
    let mut follower = MetadataFollower::new();
    let mut image = ClusterImage::default();
    let id = SnapshotId { end_offset: 1 << 20, epoch: 3 };
    let mut is_told = false;
    for now in 0..ACTIONS_MAX as u64 {
        let event = match follower.poll() {
            Some(FollowerAction::Fetch { .. }) if is_told => return,
            Some(FollowerAction::Fetch { .. }) => {
                let by_snapshot = how % 2 == 1;
                is_told = !by_snapshot;
                FollowerEvent::Fetched(FetchAnswer {
                    error: 0,
                    high_watermark: i64::from(*how) << (how % 40),
                    diverging: None,
                    leader: Some(QuorumLeader { id: Some(1), epoch: 3 }),
                    snapshot: by_snapshot.then_some(id),
                    records: if by_snapshot { &[] } else { bytes },
                })
            }
            Some(FollowerAction::FetchSnapshot { position, id, .. }) => {
                is_told = true;
                let at = usize::try_from(position).unwrap_or(0).min(bytes.len());
                let piece = (bytes.len() - at).min(1 + usize::from(*how) * 7);
                FollowerEvent::SnapshotFetched(SnapshotAnswer {
                    error: 0,
                    id,
                    size_bytes: bytes.len() as i64,
                    position,
                    bytes: &bytes[at..at + piece],
                })
            }
            Some(FollowerAction::Apply { records, .. }) => {
                let refused = records.into_iter().find_map(|record| image.apply(record).err());
                let Some(error) = refused else { continue };
                FollowerEvent::NotApplied(error)
            }
            Some(FollowerAction::Replace { image: whole, .. }) => {
                image = *whole;
                continue;
            }
            Some(_) => continue,
            None if is_told => return,
            None => FollowerEvent::Woken,
        };
        follower.handle(now * 1_000_000_000, event);
    }
    panic!("the machine goes round in circles");
}

pub fn metadata_record(input: &[u8]) {
    if let Ok(record) = MetadataRecord::decode(input) {
        let mut image = ClusterImage::default();
        // In whatever order they come.
        let _ = image.apply(record.clone());
        let _ = image.apply(record);
    }
}

/// Values of records: topic, partition, config, broker, features, and kinds that are passed over.
pub fn metadata_records() -> Vec<Vec<u8>> {
    let topic = [7_u8; 16];
    let text = |text: &str| [&[text.len() as u8 + 1][..], text.as_bytes()].concat();
    let ids = |ids: &[i32]| {
        let each = ids.iter().flat_map(|id| id.to_be_bytes());
        [ids.len() as u8 + 1].into_iter().chain(each).collect::<Vec<u8>>()
    };
    let mut partition = [&[1, 3, 2][..], &0_i32.to_be_bytes(), &topic].concat();
    partition.extend([ids(&[1, 2]), ids(&[1, 2]), ids(&[]), ids(&[])].concat());
    partition
        .extend([&1_i32.to_be_bytes()[..], &4_i32.to_be_bytes(), &9_i32.to_be_bytes(), &[1, 0]].concat());
    let config = [&[1, 4, 0, 2][..], &text("orders"), &text("retention.ms"), &text("5"), &[0]].concat();
    let feature = [&[1, 12, 0][..], &text("metadata.version"), &30_i16.to_be_bytes(), &[0]].concat();
    vec![
        [&[1, 2, 0][..], &text("orders"), &topic, &[0]].concat(),
        partition,
        config,
        feature,
        [&[1, 9, 0][..], &topic, &[0]].concat(),
        [&[1, 15, 0][..], &[0; 24]].concat(),
        vec![1, 90, 0],
    ]
}

/// The same in batches, as the log has them.
pub fn metadata_logs() -> Vec<Vec<u8>> {
    // A record: its length, attributes, no time, its place, no key, the value, no headers; lengths are doubled.
    let record = |(place, value): (usize, &Vec<u8>)| {
        let body = [&[0, 0, place as u8 * 2, 1][..], &varint(value.len() * 2), value, &[0]].concat();
        [varint(body.len() * 2), body].concat()
    };
    let values = metadata_records();
    let bodies: Vec<u8> = values.iter().enumerate().flat_map(record).collect();
    let count = values.len() as u32;
    let all = BatchBuilder::at(0).body(count, &bodies).last_offset_delta(count - 1);
    let one = |offset, value: &Vec<u8>| BatchBuilder::at(offset).body(1, &record((0, value)));
    let marker = BatchBuilder::at(9).marker(1, 0, ControlKind::Other(2));
    let log =
        [all.build(), one(20, &values[1]).build(), marker.build(), one(21, &values[2]).build()].concat();
    vec![
        [&[30][..], &log].concat(),
        [&[31][..], &log].concat(),
        [&[200][..], &one(0, &values[0]).build()].concat(),
        [&[255][..], &one(0, &values[6]).build()].concat(),
    ]
}

/// Checksums made right behind the choice in front.
pub fn reseal_log(input: &mut [u8]) {
    if let Some((_, log)) = input.split_first_mut() {
        super::log_bytes::reseal_batches(log);
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn decode<R: Shaped>(version: u8, body: &[u8]) {
    let (first, last) = (R::UNDERSTOOD.min, R::UNDERSTOOD.max);
    let version = first + i16::from(version) % (last - first + 1);
    if check_shape::<R>(body, version, false).is_ok() {
        let mut body = Bytes::copy_from_slice(body);
        let _ =
            <R as kafka_protocol::protocol::Request>::Response::decode(&mut body, R::body_version(version));
    }
}

const DECODERS: &[fn(u8, &[u8])] = &[
    decode::<DescribeClusterRequest>,
    decode::<DescribeConfigsRequest>,
    decode::<DescribeProducersRequest>,
    decode::<FetchSnapshotRequest>,
    decode::<BrokerRegistrationRequest>,
    decode::<BrokerHeartbeatRequest>,
    decode::<UnregisterBrokerRequest>,
    decode::<AllocateProducerIdsRequest>,
    decode::<CreateTopicsRequest>,
    decode::<DeleteTopicsRequest>,
    decode::<CreatePartitionsRequest>,
    decode::<AlterPartitionRequest>,
    decode::<AlterPartitionReassignmentsRequest>,
    decode::<ElectLeadersRequest>,
    decode::<IncrementalAlterConfigsRequest>,
    decode::<DescribeAclsRequest>,
    decode::<DescribeGroupsRequest>,
    decode::<InitProducerIdRequest>,
    decode::<ListTransactionsRequest>,
    decode::<WriteTxnMarkersRequest>,
    decode::<MetadataRequest>,
    decode::<FetchRequest>,
];

pub fn cluster_answer(input: &[u8]) {
    let Some((&[which, version], body)) = input.split_first_chunk::<2>() else { return };
    DECODERS[usize::from(which) % DECODERS.len()](version, body);
}

fn written(which: u8, version: u8, answer: &impl Encodable, wire_version: i16) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes, wire_version).expect("the library writes what it reads");
    [&[which, version][..], &bytes].concat()
}

pub fn cluster_answers() -> Vec<Vec<u8>> {
    let text = StrBytes::from_static_str;
    let broker = DescribeClusterBroker::default().with_host(text("b")).with_port(9);
    let cluster = DescribeClusterResponse::default().with_cluster_id(text("c")).with_brokers(vec![broker; 3]);
    let config = DescribeConfigsResourceResult::default().with_name(text("k")).with_value(Some(text("v")));
    let result = DescribeConfigsResult::default().with_resource_name(text("t")).with_configs(vec![config; 2]);
    let configs = DescribeConfigsResponse::default().with_results(vec![result]);
    let partition = PartitionResponse::default().with_active_producers(vec![ProducerState::default(); 2]);
    let topic = TopicResponse::default().with_partitions(vec![partition]);
    let producers = DescribeProducersResponse::default().with_topics(vec![topic]);
    let mut examples = vec![
        written(0, 0, &cluster, DescribeClusterRequest::UNDERSTOOD.min),
        written(1, 0, &configs, DescribeConfigsRequest::UNDERSTOOD.min),
        written(2, 0, &producers, 0),
    ];
    // The others: nothing but numbers, texts and arrays that are empty or have one item of zeroes.
    for which in 3..DECODERS.len() as u8 {
        for version in 0..3 {
            examples.push([&[which, version][..], &[0; 12]].concat());
            examples.push(
                [&[which, version][..], &[0, 0, 0, 0, 0, 0, 2, 2, b'a', 0, 0, 2, 2, b'b', 0, 0, 0]].concat(),
            );
        }
    }
    examples
}
