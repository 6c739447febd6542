//! Requests as another implementation writes them, every prefix of them, and claims beyond the frame.

use super::*;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::BytesMut;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, BrokerId, FetchRequest as TheirFetch, ListOffsetsRequest as TheirListOffsets,
    OffsetForLeaderEpochRequest, RequestHeader as TheirHeader, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use proptest::prelude::*;

const CORRELATION_ID: i32 = 77;

/// The frame of a request without its length.
fn frame(key: ApiKey, version: i16, body: &impl Encodable) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut header = TheirHeader::default();
    header.request_api_key = key as i16;
    header.request_api_version = version;
    header.correlation_id = CORRELATION_ID;
    header.client_id = Some(StrBytes::from_static_str("broker-2-fetcher-0"));
    header.encode(&mut out, key.request_header_version(version)).unwrap();
    body.encode(&mut out, version).unwrap();
    out.to_vec()
}

fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_string()))
}

type Topics<T> = Vec<([u8; 16], Vec<T>)>;

fn fetched() -> impl Strategy<Value = FetchedPartition> + Clone {
    let epochs = (-1i32..50, -1i32..50);
    let high_watermark = prop_oneof![Just(i64::MAX), 0i64..1_000];
    (any::<i32>(), epochs, any::<i64>(), any::<i64>(), 0u32..1 << 30, any::<[u8; 16]>(), high_watermark)
        .prop_map(|(index, epochs, fetch_offset, log_start_offset, bytes_max, directory, high_watermark)| {
            FetchedPartition {
                index,
                current_leader_epoch: LeaderEpoch(epochs.0),
                fetch_offset,
                last_fetched_epoch: LeaderEpoch(epochs.1),
                log_start_offset,
                bytes_max,
                replica_directory_id: directory,
                high_watermark,
            }
        })
}

fn topics<T: core::fmt::Debug>(item: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Topics<T>> {
    prop::collection::vec((any::<[u8; 16]>(), prop::collection::vec(item, 0..4)), 0..4)
}

fn their_fetch(version: i16, listed: &Topics<FetchedPartition>, forgotten: &Topics<i32>) -> TheirFetch {
    let partition = |from: &FetchedPartition| {
        let mut partition = FetchPartition::default();
        partition.partition = from.index;
        partition.current_leader_epoch = from.current_leader_epoch.0;
        partition.fetch_offset = from.fetch_offset;
        partition.last_fetched_epoch = from.last_fetched_epoch.0;
        partition.log_start_offset = from.log_start_offset;
        partition.partition_max_bytes = from.bytes_max.cast_signed();
        partition.replica_directory_id = uuid(from.replica_directory_id).parse().unwrap();
        if version >= 18 {
            partition.high_watermark = from.high_watermark;
        }
        partition
    };
    let mut request = TheirFetch::default();
    request.cluster_id = Some(StrBytes::from_static_str("cluster"));
    let mut state = ReplicaState::default();
    state.replica_id = BrokerId(2);
    state.replica_epoch = 991;
    request.replica_state = state;
    request.max_wait_ms = 500;
    request.min_bytes = 1;
    request.max_bytes = 10 << 20;
    request.session_id = 1234;
    request.session_epoch = 7;
    request.rack_id = StrBytes::from_static_str("rack");
    for (id, items) in listed {
        let mut topic = FetchTopic::default();
        topic.topic_id = uuid(*id).parse().unwrap();
        topic.partitions = items.iter().map(partition).collect();
        request.topics.push(topic);
    }
    for (id, indexes) in forgotten {
        let mut topic = ForgottenTopic::default();
        topic.topic_id = uuid(*id).parse().unwrap();
        topic.partitions = indexes.clone();
        request.forgotten_topics_data.push(topic);
    }
    request
}

/// The form that a uuid is parsed from.
fn uuid(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}

fn flat<T: Copy>(topics: &Topics<T>) -> Vec<(TopicId, T)> {
    topics.iter().flat_map(|(id, items)| items.iter().map(|item| (TopicId(*id), *item))).collect()
}

fn fetch_of(frame: &[u8]) -> FetchRequest<'_> {
    match read_request(frame) {
        Ok(Request::Fetch(fetch)) => fetch,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_fetch_is_read_as_it_was_written(
        version in 17i16..=18,
        mut listed in topics(fetched()),
        forgotten in topics(any::<i32>()),
    ) {
        let bytes = frame(ApiKey::Fetch, version, &their_fetch(version, &listed, &forgotten));
        if version < 18 {
            listed.iter_mut().flat_map(|topic| &mut topic.1).for_each(|item| item.high_watermark = i64::MAX);
        }
        let fetch = fetch_of(&bytes);
        prop_assert_eq!(fetch.partitions().collect::<Vec<_>>(), flat(&listed));
        prop_assert_eq!(fetch.forgotten().collect::<Vec<_>>(), flat(&forgotten));
        prop_assert_eq!((fetch.replica_id, fetch.replica_epoch), (2, 991));
        prop_assert_eq!((fetch.session_id, fetch.session_epoch), (1234, 7));
        prop_assert_eq!((fetch.wait_max_ms, fetch.bytes_min, fetch.bytes_max), (500, 1, 10 << 20));
        prop_assert_eq!((fetch.cluster_id, fetch.rack), (Some(&b"cluster"[..]), &b"rack"[..]));
        let header = fetch.header;
        prop_assert_eq!((header.version, header.correlation_id), (version, CORRELATION_ID));
        prop_assert_eq!(header.client_id, Some(&b"broker-2-fetcher-0"[..]));
        for cut in 8..bytes.len() {
            prop_assert!(read_request(&bytes[..cut]).is_err(), "a frame that breaks off at {}", cut);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(key in 0i16..25, version in 0i16..20, rest: Vec<u8>) {
        let mut bytes = [key.to_be_bytes(), version.to_be_bytes()].concat();
        bytes.extend_from_slice(&rest);
        if let Ok(Request::Fetch(fetch)) = read_request(&bytes) {
            fetch.partitions().chain(fetch.partitions()).count();
        }
    }
}

#[test]
fn list_offsets_10_and_11_have_one_layout() {
    let mut partition = ListOffsetsPartition::default();
    partition.partition_index = 3;
    partition.current_leader_epoch = 9;
    partition.timestamp = TIMESTAMP_EARLIEST;
    let mut topic = ListOffsetsTopic::default();
    topic.name = name("orders");
    topic.partitions = alloc::vec![partition];
    let mut request = TheirListOffsets::default();
    request.replica_id = BrokerId(2);
    request.timeout_ms = 30_000;
    request.topics = alloc::vec![topic];
    let mut bytes = frame(ApiKey::ListOffsets, 10, &request);
    for version in [10, 11] {
        bytes[3] = version;
        let Ok(Request::ListOffsets(read)) = read_request(&bytes) else { panic!("v{version}") };
        let expected =
            ListedPartition { index: 3, current_leader_epoch: LeaderEpoch(9), timestamp: TIMESTAMP_EARLIEST };
        assert_eq!(read.partitions().collect::<Vec<_>>(), [(&b"orders"[..], expected)]);
        assert_eq!((read.replica_id, read.timeout_ms), (2, 30_000));
    }
}

#[test]
fn a_question_for_an_epochs_end_is_read() {
    let mut partition = OffsetForLeaderPartition::default();
    partition.partition = 1;
    partition.current_leader_epoch = 4;
    partition.leader_epoch = 2;
    let mut topic = OffsetForLeaderTopic::default();
    topic.topic = name("orders");
    topic.partitions = alloc::vec![partition];
    let mut request = OffsetForLeaderEpochRequest::default();
    request.replica_id = BrokerId(2);
    request.topics = alloc::vec![topic];
    let bytes = frame(ApiKey::OffsetForLeaderEpoch, 4, &request);
    let Ok(Request::OffsetForLeaderEpoch(read)) = read_request(&bytes) else { panic!() };
    let expected =
        EpochEndPartition { index: 1, current_leader_epoch: LeaderEpoch(4), leader_epoch: LeaderEpoch(2) };
    assert_eq!(read.partitions().collect::<Vec<_>>(), [(&b"orders"[..], expected)]);
    assert_eq!(read.replica_id, 2);
}

#[test]
fn every_version_of_api_versions_is_read_and_others_are_named() {
    let mut request = ApiVersionsRequest::default();
    request.client_software_name = StrBytes::from_static_str("apache-kafka-java");
    request.client_software_version = StrBytes::from_static_str("4.3.1");
    for version in 0..=4 {
        let bytes = frame(ApiKey::ApiVersions, version, &request);
        assert!(
            matches!(read_request(&bytes), Ok(Request::ApiVersions(header)) if header.version == version)
        );
    }
    // Whatever follows: its layout is not known.
    let unknown = [0, 18, 0, 9, 0, 0, 0, 5, 0xff];
    let expected = (18, 9, 5);
    assert!(matches!(
        read_request(&unknown),
        Ok(Request::Unsupported { api_key, version, correlation_id })
            if (api_key, version, correlation_id) == expected
    ));
    let produce = [0, 0, 0, 9, 0, 0, 0, 6];
    assert!(matches!(read_request(&produce), Ok(Request::Unsupported { api_key: 0, .. })));
}

#[test]
fn a_count_that_the_frame_cannot_hold_is_refused_at_once() {
    let empty = frame(ApiKey::Fetch, 17, &their_fetch(17, &Vec::new(), &Vec::new()));
    // Behind the header with its tags: four numbers, isolation, session; then the count of topics.
    let count_at = 8 + 2 + "broker-2-fetcher-0".len() + 1 + 12 + 1 + 8;
    assert_eq!(empty[count_at], 1, "no topic");
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let hostile = [&empty[..count_at], &claim[..], &empty[count_at + 1..]].concat();
    let error = read_request(&hostile).unwrap_err();
    assert!(matches!(error, WireError::BadLength { field: "topics", .. }), "{error}");
    let mut null = empty.clone();
    null[count_at] = 0;
    assert!(matches!(read_request(&null), Err(WireError::BadLength { value: -1, .. })));
}

#[test]
fn the_length_in_front_of_a_frame_is_bounded() {
    assert_eq!(frame_length(100i32.to_be_bytes()), Ok(100));
    for length in [-1, 0, 9, REQUEST_BYTES_MAX as i32 + 1, i32::MAX] {
        assert!(matches!(frame_length(length.to_be_bytes()), Err(WireError::FrameLength { .. })), "{length}");
    }
}
