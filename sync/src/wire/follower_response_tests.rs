//! Answers as another implementation reads them.

use super::*;
use alloc::vec;
use bytes::{Buf, Bytes};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FetchResponse, ListOffsetsResponse, OffsetForLeaderEpochResponse,
    ResponseHeader, SaslAuthenticateResponse, SaslHandshakeResponse,
};
use kafka_protocol::protocol::Decodable;
use proptest::prelude::*;

const CORRELATION_ID: i32 = -5;

/// Reads a whole frame with its length, to its last byte.
fn decode<T: Decodable>(frame: &[u8], key: ApiKey, version: i16) -> T {
    let mut bytes = Bytes::copy_from_slice(frame);
    assert_eq!(bytes.get_i32() as usize, bytes.remaining());
    let header = ResponseHeader::decode(&mut bytes, key.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, CORRELATION_ID);
    let body = T::decode(&mut bytes, version).unwrap();
    assert_eq!(bytes.remaining(), 0);
    body
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    prop_oneof![
        Just(ErrorCode::None),
        Just(ErrorCode::OffsetOutOfRange),
        Just(ErrorCode::FencedLeaderEpoch),
        Just(ErrorCode::UnknownTopicId),
    ]
}

fn line() -> impl Strategy<Value = AnswerLine> {
    let offsets = (-1i64..1 << 40, -1i64..1 << 40, -1i64..1 << 40);
    let diverging =
        prop::option::of((0i32..9, 0i64..99).prop_map(|(epoch, end)| (LeaderEpoch(epoch), at(end))));
    let leader = prop::option::of((-1i32..9, 0i32..99).prop_map(|(id, epoch)| (id, LeaderEpoch(epoch))));
    let records_bytes = prop_oneof![Just(0u32), 1u32..300, 16_380u32..16_390];
    // Few topics, so that neighbours are often of one.
    (0u8..3, any::<i32>(), error_code(), offsets, diverging, leader, records_bytes).prop_map(
        |(topic, index, error, offsets, diverging_epoch, current_leader, records_bytes)| AnswerLine {
            topic_id: TopicId([topic; 16]),
            answer: PartitionAnswer {
                index,
                error,
                high_watermark: offsets.0,
                last_stable_offset: offsets.1,
                log_start_offset: offsets.2,
                diverging_epoch,
                current_leader,
            },
            records_bytes,
        },
    )
}

/// The frame as it goes over the wire: records of the line's number in each hole.
fn filled(out: &[u8], holes: &[Hole]) -> Vec<u8> {
    let (mut frame, mut sent) = (Vec::new(), 0);
    for (number, hole) in holes.iter().enumerate() {
        frame.extend_from_slice(&out[sent..hole.position]);
        frame.resize(frame.len() + hole.records_bytes as usize, number as u8);
        sent = hole.position;
    }
    frame.extend_from_slice(&out[sent..]);
    frame
}

proptest! {
    #[test]
    fn a_fetch_answer_is_read_as_it_was_written(
        lines in prop::collection::vec(line(), 0..12),
        version in 17i16..=18,
        session_id: i32,
    ) {
        let head = FetchAnswerHead { correlation_id: CORRELATION_ID, error: ErrorCode::None, session_id };
        // Answers follow one another in the same buffer.
        let (mut out, mut holes) = (vec![9; 3], Vec::new());
        let frame_bytes = write_fetch_response(&mut out, &head, &lines, &mut holes);
        let frame = filled(&out, &holes)[3..].to_vec();
        prop_assert_eq!(frame.len() as u64, frame_bytes);
        let read: FetchResponse = decode(&frame, ApiKey::Fetch, version);
        prop_assert_eq!((read.error_code, read.session_id), (0, session_id));
        let runs = lines.chunk_by(|one, next| one.topic_id == next.topic_id).count();
        prop_assert_eq!(read.responses.len(), runs);
        let partitions: Vec<_> = read
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|one| (TopicId(topic.topic_id.into_bytes()), one)))
            .collect();
        prop_assert_eq!(partitions.len(), lines.len());
        let mut hole = 0u8;
        for (line, (topic_id, read)) in lines.iter().zip(partitions) {
            let answer = &line.answer;
            prop_assert_eq!((topic_id, read.partition_index), (line.topic_id, answer.index));
            prop_assert_eq!(read.error_code, answer.error.code());
            prop_assert_eq!(read.high_watermark, answer.high_watermark);
            prop_assert_eq!(read.last_stable_offset, answer.last_stable_offset);
            prop_assert_eq!(read.log_start_offset, answer.log_start_offset);
            prop_assert_eq!(read.preferred_read_replica.0, -1);
            prop_assert!(read.aborted_transactions.is_none());
            let diverging = &read.diverging_epoch;
            let (epoch, end) = answer.diverging_epoch.map_or((-1, -1), |(epoch, end)| (epoch.0, end.value()));
            prop_assert_eq!((diverging.epoch, diverging.end_offset), (epoch, end));
            let (leader, epoch) = answer.current_leader.map_or((-1, -1), |(leader, epoch)| (leader, epoch.0));
            let current = &read.current_leader;
            prop_assert_eq!((current.leader_id.0, current.leader_epoch), (leader, epoch));
            let records = read.records.as_ref().expect("never null");
            prop_assert_eq!(records.len(), line.records_bytes as usize);
            prop_assert!(records.iter().all(|byte| *byte == hole));
            hole += u8::from(line.records_bytes > 0);
        }
    }
}

#[test]
fn a_session_error_has_no_topics() {
    let error = ErrorCode::InvalidFetchSessionEpoch;
    let head = FetchAnswerHead { correlation_id: CORRELATION_ID, error, session_id: 0 };
    let (mut out, mut holes) = (Vec::new(), Vec::new());
    write_fetch_response(&mut out, &head, &[], &mut holes);
    let read: FetchResponse = decode(&out, ApiKey::Fetch, 17);
    assert_eq!((read.error_code, read.session_id, read.responses.len()), (71, 0, 0));
}

#[test]
#[should_panic(expected = "1 announced partitions are missing")]
fn fewer_partitions_than_announced_are_noticed() {
    let mut out = Vec::new();
    let head = FetchAnswerHead { correlation_id: 1, error: ErrorCode::None, session_id: 0 };
    let mut writer = FetchResponseWriter::new(&mut out, &head, 1);
    writer.topic(TopicId::ZERO, 2);
    writer.partition(&PartitionAnswer::failed(0, ErrorCode::None), 0);
    writer.finish();
}

#[test]
fn api_versions_says_what_is_served() {
    for version in 0..=4 {
        let mut out = Vec::new();
        write_api_versions(&mut out, version, CORRELATION_ID);
        let read: ApiVersionsResponse = decode(&out, ApiKey::ApiVersions, version);
        let keys = read.api_keys.iter().map(|key| (key.api_key, key.min_version, key.max_version));
        let keys: Vec<_> = keys.collect();
        assert_eq!((read.error_code, &keys[..]), (0, &SERVED[..]));
    }
}

#[test]
fn answers_to_an_authentication_are_read_by_anybody() {
    let mut out = Vec::new();
    write_sasl_handshake(&mut out, CORRELATION_ID, 33, &["SCRAM-SHA-512", "PLAIN"]);
    let read: SaslHandshakeResponse = decode(&out, ApiKey::SaslHandshake, 1);
    assert_eq!((read.error_code, read.mechanisms.len()), (33, 2));
    for (error, text, message) in [(0, "", &b"v=proof"[..]), (58, "Authentication failed", b"")] {
        out.clear();
        write_sasl_authenticate(&mut out, CORRELATION_ID, error, text, message);
        let read: SaslAuthenticateResponse = decode(&out, ApiKey::SaslAuthenticate, 2);
        assert_eq!((read.error_code, &read.auth_bytes[..]), (error, message));
        assert_eq!(read.error_message.as_ref().map_or("", |text| text.as_str()), text);
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_told_the_known_ones_in_the_oldest_form() {
    let mut out = Vec::new();
    write_api_versions(&mut out, 5, CORRELATION_ID);
    let read: ApiVersionsResponse = decode(&out, ApiKey::ApiVersions, 0);
    assert_eq!((read.error_code, read.api_keys.len()), (35, 1));
    assert_eq!((read.api_keys[0].api_key, read.api_keys[0].max_version), (18, 4));
}

#[test]
fn offsets_and_epoch_ends_are_grouped_by_topic() {
    let answer = |topic, index, offset| OffsetAnswer {
        topic,
        index,
        error: ErrorCode::None,
        offset,
        leader_epoch: LeaderEpoch(4),
    };
    let mut out = Vec::new();
    let answers = [answer(b"a", 0, 10), answer(b"a", 1, 11), answer(b"b", 0, -1)];
    write_list_offsets(&mut out, CORRELATION_ID, &answers);
    let read: ListOffsetsResponse = decode(&out, ApiKey::ListOffsets, 10);
    let sizes: Vec<_> = read.topics.iter().map(|topic| (&*topic.name.0, topic.partitions.len())).collect();
    assert_eq!(sizes, [("a", 2), ("b", 1)]);
    let second = &read.topics[0].partitions[1];
    assert_eq!((second.partition_index, second.offset, second.leader_epoch), (1, 11, 4));
    assert_eq!((second.error_code, second.timestamp), (0, -1));

    let ends = [EpochEndAnswer {
        topic: b"a",
        index: 7,
        error: ErrorCode::UnknownLeaderEpoch,
        leader_epoch: LeaderEpoch(3),
        end_offset: 99,
    }];
    out.clear();
    write_epoch_ends(&mut out, CORRELATION_ID, &ends);
    let read: OffsetForLeaderEpochResponse = decode(&out, ApiKey::OffsetForLeaderEpoch, 4);
    let end = &read.topics[0].partitions[0];
    assert_eq!((end.partition, end.error_code, end.leader_epoch, end.end_offset), (7, 75, 3, 99));
}
