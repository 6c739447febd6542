//! The in-memory cluster against our own request writer and decoder, and against what kafka.md says of brokers.

use super::batch_text::{BatchText, Marker, Producer};
use super::broker::{CloseReason, Cluster, Health, Reply};
use super::generator::{Generator, Profile};
use super::records::CyclicTemplate;
use super::test_peer::{Peer, asked};
use super::topics::TopicOptions;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::sync::Arc;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};
use twinlog_sync::MILLISECOND;
use twinlog_sync::fault::code;
use twinlog_sync::wire::api_versions::{Negotiated, read_response};
use twinlog_sync::wire::fetch_request::IsolationLevel;
use twinlog_sync::wire::fetch_response::PartitionTail;

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// One topic "t" with so many partitions on one broker.
fn cluster(partitions: u32) -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.create_topic("t", TopicOptions { partitions, ..TopicOptions::default() });
    cluster
}

fn batch(records: u32) -> Vec<u8> {
    BatchText::at(0).timestamp(10).values(records, 100).build()
}

fn fill(cluster: &mut Cluster, batches: usize, records: u32) {
    for _ in 0..batches {
        cluster.append("t", 0, batch(records));
    }
}

fn stored(cluster: &Cluster, topic: &str, index: i32) -> Vec<u8> {
    let log = cluster.partition(topic, index).unwrap();
    log.batches_from(log.log_start_offset()).collect::<Vec<_>>().concat()
}

#[test]
fn every_fetch_version_brings_the_same_bytes() {
    let mut cluster = cluster(1);
    let mut generator = Generator::new(1, Profile::mixed());
    for step in 0..60 {
        let next = cluster.partition("t", 0).unwrap().log_end_offset();
        cluster.append_placed("t", 0, generator.next_batch(next, step));
    }
    let expected = stored(&cluster, "t", 0);
    for version in 4..=17 {
        let mut peer = Peer::new(version);
        peer.isolation_level = IsolationLevel::ReadUncommitted;
        let start = asked(&cluster, "t", 0, 0);
        let answer = peer.fetch(&mut cluster, &[start]);
        let only = answer.only();
        assert_eq!(only.records, expected, "version {version}");
        assert_eq!(only.head.log_start_offset, if version >= 5 { 0 } else { -1 });
        let end = cluster.partition("t", 0).unwrap().log_end_offset().value();
        assert_eq!(only.head.high_watermark, end);
    }
    let mut walk = BatchWalk::new(1 << 20);
    let (mut at, mut batches) = (0, 0);
    while let (used, Some(event)) = walk.feed(&expected[at..]) {
        at += used;
        batches += u32::from(matches!(event.unwrap(), WalkEvent::Batch { .. }));
    }
    assert_eq!(batches, 60);
}

#[test]
fn a_reader_that_follows_its_offsets_gets_every_byte_once() {
    let mut cluster = cluster(1);
    fill(&mut cluster, 30, 3);
    let mut peer = Peer::new(17);
    peer.bytes_max = 1_000;
    let (mut next, mut received) = (0, Vec::new());
    while next < 90 {
        let position = asked(&cluster, "t", 0, next);
        let answer = peer.fetch(&mut cluster, &[position]);
        let mut walk = BatchWalk::new(1 << 20);
        let (mut at, mut whole) = (0, 0);
        while let (used, Some(event)) = walk.feed(&answer.only().records[at..]) {
            at += used;
            if let WalkEvent::Batch { header, .. } = event.unwrap() {
                whole = at;
                next = header.next_offset().value();
            }
        }
        assert!(whole > 0, "the first batch always comes whole");
        received.extend_from_slice(&answer.only().records[..whole]);
    }
    assert_eq!(received, stored(&cluster, "t", 0));
}

#[test]
fn a_committed_reader_ends_at_the_last_stable_offset_and_hears_of_aborts() {
    let mut cluster = cluster(1);
    let (a, b) = (Producer { id: 1, epoch: 0, sequence: 0 }, Producer { id: 2, epoch: 0, sequence: 0 });
    let write = |producer| BatchText::at(0).values(5, 10).transactional(producer).build();
    cluster.append("t", 0, write(a));
    cluster.append("t", 0, write(b));
    cluster.append("t", 0, BatchText::marker(0, 1, a, Marker::Abort).build());
    // The open transaction B holds everything from 5 on back, the marker of A included.
    let mut peer = Peer::new(12);
    let position = asked(&cluster, "t", 0, 0);
    let answer = peer.fetch(&mut cluster, std::slice::from_ref(&position));
    assert_eq!((answer.only().head.high_watermark, answer.only().head.last_stable_offset), (11, 5));
    let whole = stored(&cluster, "t", 0);
    assert_eq!(answer.only().records, whole[..write(a).len()]);
    peer.isolation_level = IsolationLevel::ReadUncommitted;
    assert_eq!(peer.fetch(&mut cluster, std::slice::from_ref(&position)).only().records, whole);
    cluster.append("t", 0, BatchText::marker(0, 1, b, Marker::Commit).build());
    peer.isolation_level = IsolationLevel::ReadCommitted;
    assert_eq!(peer.fetch(&mut cluster, &[position]).only().head.last_stable_offset, 12);
    let log = cluster.partition("t", 0).unwrap();
    assert_eq!(log.aborted_between(offset(0), offset(12)), [(1, 0)]);
    assert_eq!(log.aborted_between(offset(11), offset(12)), []);
}

#[test]
fn a_held_high_watermark_bounds_every_reader() {
    let mut cluster = cluster(1);
    fill(&mut cluster, 2, 4);
    cluster.hold_high_watermark("t", 0, Some(offset(8)));
    fill(&mut cluster, 1, 4);
    let mut peer = Peer::new(17);
    let position = asked(&cluster, "t", 0, 4);
    let answer = peer.fetch(&mut cluster, std::slice::from_ref(&position));
    assert_eq!(answer.only().records.len(), batch(4).len());
    assert_eq!(answer.only().head.high_watermark, 8);
    cluster.hold_high_watermark("t", 0, None);
    assert_eq!(peer.fetch(&mut cluster, &[position]).only().records.len(), 2 * batch(4).len());
}

/// Epochs 0 from 0, 2 from 5, end 10, as in the table that was taken from a real broker.
fn two_epochs() -> Cluster {
    let mut cluster = cluster(1);
    cluster.append("t", 0, batch(5));
    cluster.elect("t", 0, 1);
    cluster.elect("t", 0, 1);
    cluster.append("t", 0, batch(5));
    cluster
}

#[test]
fn diverging_epochs_are_answered_as_a_broker_does() {
    let mut cluster = two_epochs();
    let epochs = cluster.partition("t", 0).unwrap().epochs().entries().to_vec();
    assert_eq!(
        epochs.iter().map(|one| (one.epoch.0, one.start.value())).collect::<Vec<_>>(),
        [(0, 0), (2, 5)]
    );
    let rows = [
        // fetch offset, current epoch, last fetched epoch -> error, diverging, has records
        (5, 2, 0, 0, None, true),
        (10, 2, 0, 0, Some((0, 5)), false),
        (10, 2, 2, 0, None, false),
        (99, 2, 2, 0, Some((2, 10)), false),
        (8, 2, 7, code::OFFSET_OUT_OF_RANGE, None, false),
        (10, -1, 7, code::OFFSET_OUT_OF_RANGE, None, false),
        (3, 1, 0, code::FENCED_LEADER_EPOCH, None, false),
        (3, 3, 0, code::UNKNOWN_LEADER_EPOCH, None, false),
        (99, 2, -1, code::OFFSET_OUT_OF_RANGE, None, false),
    ];
    for (from, current, last, error, diverging, has_records) in rows {
        let mut position = asked(&cluster, "t", 0, from);
        position.position.current_leader_epoch = LeaderEpoch(current);
        position.position.last_fetched_epoch = LeaderEpoch(last);
        let answer = Peer::new(17).fetch(&mut cluster, &[position]);
        let only = answer.only();
        let row = format!("offset {from}, current {current}, last {last}");
        assert_eq!(only.head.error, error, "{row}");
        let expected = diverging.map(|(epoch, end)| (LeaderEpoch(epoch), end));
        assert_eq!(only.tail.diverging_epoch, expected, "{row}");
        assert_eq!(!only.records.is_empty(), has_records, "{row}");
        let leader = (error == code::FENCED_LEADER_EPOCH).then_some((1, LeaderEpoch(2)));
        assert_eq!(only.tail.current_leader, leader, "{row}");
    }
}

#[test]
fn an_unclean_election_cuts_the_log_and_begins_an_epoch() {
    let mut cluster = two_epochs();
    let producer = Producer { id: 4, epoch: 0, sequence: 0 };
    cluster.append("t", 0, BatchText::at(0).values(1, 1).transactional(producer).build());
    assert_eq!(cluster.partition("t", 0).unwrap().last_stable_offset(), offset(10));
    cluster.truncate_and_elect("t", 0, offset(5), 1);
    let log = cluster.partition("t", 0).unwrap();
    assert_eq!((log.log_end_offset(), log.leader_epoch()), (offset(5), LeaderEpoch(3)));
    assert_eq!(log.last_stable_offset(), offset(5), "a cut transaction is not open");
    cluster.append("t", 0, batch(9));
    let mut position = asked(&cluster, "t", 0, 10);
    position.position.last_fetched_epoch = LeaderEpoch(2);
    let answer = Peer::new(17).fetch(&mut cluster, &[position]);
    assert_eq!(answer.only().tail.diverging_epoch, Some((LeaderEpoch(0), 5)));
}

#[test]
fn a_trim_may_cut_inside_a_batch() {
    let mut cluster = cluster(1);
    fill(&mut cluster, 3, 4);
    cluster.trim("t", 0, offset(6));
    let mut peer = Peer::new(17);
    let below = asked(&cluster, "t", 0, 5);
    assert_eq!(peer.fetch(&mut cluster, &[below]).only().head.error, code::OFFSET_OUT_OF_RANGE);
    let at = asked(&cluster, "t", 0, 6);
    let answer = peer.fetch(&mut cluster, &[at]);
    assert_eq!((answer.only().head.log_start_offset, answer.only().records.len()), (6, 2 * batch(4).len()));
    cluster.trim("t", 0, offset(12));
    let at = asked(&cluster, "t", 0, 12);
    assert!(peer.fetch(&mut cluster, &[at]).only().records.is_empty());
    fill(&mut cluster, 1, 4);
    let at = asked(&cluster, "t", 0, 12);
    assert_eq!(peer.fetch(&mut cluster, &[at]).only().records.len(), batch(4).len());
}

#[test]
fn a_session_tells_only_what_changed() {
    let mut cluster = cluster(3);
    let mut peer = Peer::new(17);
    peer.session = (0, 0);
    let mut all: Vec<_> = (0..3).map(|index| asked(&cluster, "t", index, 0)).collect();
    let topic = all[0].topic.clone();
    all.iter_mut().for_each(|one| one.topic = topic.clone());
    let first = peer.fetch(&mut cluster, &all);
    assert_eq!((first.indexes(), first.session_id != 0), (vec![0, 1, 2], true));
    peer.session = (first.session_id, 1);
    assert_eq!(peer.fetch(&mut cluster, &[]).indexes(), [] as [i32; 0]);
    // Records of two partitions: both go to the end of the order.
    cluster.append("t", 0, batch(2));
    cluster.append("t", 2, batch(2));
    peer.session.1 = 2;
    assert_eq!(peer.fetch(&mut cluster, &[]).indexes(), [0, 2]);
    cluster.append("t", 1, batch(2));
    peer.session.1 = 3;
    assert_eq!(peer.fetch(&mut cluster, &[]).indexes(), [1, 0, 2], "unmoved positions are served again");
    // Partition 0 is forgotten, 1 moves on.
    peer.session.1 = 4;
    let mut moved = asked(&cluster, "t", 1, 2);
    moved.topic = topic.clone();
    let frame = peer.frame(&[moved], &[(topic, 0)]);
    let reply = cluster.handle(1, 0, Bytes::from(frame).slice(4..));
    assert_eq!(peer.decode(reply).indexes(), [2]);
}

#[test]
fn a_divergence_is_repeated_until_the_position_changes() {
    let mut cluster = two_epochs();
    let mut peer = Peer::new(17);
    peer.session = (0, 0);
    let mut position = asked(&cluster, "t", 0, 10);
    position.position.last_fetched_epoch = LeaderEpoch(2);
    let first = peer.fetch(&mut cluster, std::slice::from_ref(&position));
    assert_eq!(first.only().tail, PartitionTail::default());
    peer.session = (first.session_id, 1);
    position.position.last_fetched_epoch = LeaderEpoch(0);
    peer.fetch(&mut cluster, std::slice::from_ref(&position));
    for epoch in 2..5 {
        peer.session.1 = epoch;
        let diverging = peer.fetch(&mut cluster, &[]).only().tail.diverging_epoch;
        assert_eq!(diverging, Some((LeaderEpoch(0), 5)));
    }
    peer.session.1 = 5;
    position.position.last_fetched_epoch = LeaderEpoch(2);
    assert!(peer.fetch(&mut cluster, &[position]).partitions.is_empty());
}

#[test]
fn lost_and_stale_sessions_have_their_error_codes() {
    let mut cluster = cluster(1);
    let mut peer = Peer::new(17);
    peer.session = (0, 0);
    let position = asked(&cluster, "t", 0, 0);
    let id = peer.fetch(&mut cluster, std::slice::from_ref(&position)).session_id;
    peer.session = (id, 7);
    assert_eq!(peer.fetch(&mut cluster, &[]).error, code::INVALID_FETCH_SESSION_EPOCH);
    peer.session = (id + 1, 1);
    assert_eq!(peer.fetch(&mut cluster, &[]).error, code::FETCH_SESSION_ID_NOT_FOUND);
    let mut old = Peer::new(12);
    old.session = (id, 1);
    assert_eq!(
        old.fetch(&mut cluster, std::slice::from_ref(&position)).error,
        code::FETCH_SESSION_TOPIC_ID_ERROR
    );
    cluster.forget_sessions(1);
    peer.session = (id, 1);
    assert_eq!(peer.fetch(&mut cluster, &[]).error, code::FETCH_SESSION_ID_NOT_FOUND);
    cluster.keep_sessions(1, false);
    peer.session = (0, 0);
    assert_eq!(peer.fetch(&mut cluster, &[position]).session_id, 0);
}

#[test]
fn a_long_poll_ends_with_data_or_with_its_time() {
    let mut cluster = cluster(1);
    let mut peer = Peer::new(17);
    peer.wait_max_ms = 500;
    let position = asked(&cluster, "t", 0, 0);
    let Reply::Wait(pending) = peer.ask(&mut cluster, 1, 0, std::slice::from_ref(&position)) else {
        panic!("no wait")
    };
    assert_eq!(pending.until(), 500 * MILLISECOND);
    let Reply::Wait(pending) = cluster.resume(499 * MILLISECOND, pending) else { panic!("no wait") };
    let before = cluster.changes();
    cluster.append("t", 0, batch(1));
    assert_ne!(cluster.changes(), before);
    let reply = cluster.resume(499 * MILLISECOND, pending);
    assert_eq!(peer.decode(reply).only().records, stored(&cluster, "t", 0));
    let end = asked(&cluster, "t", 0, 1);
    let Reply::Wait(pending) = peer.ask(&mut cluster, 1, 0, &[end]) else { panic!("no wait") };
    let reply = cluster.resume(500 * MILLISECOND, pending);
    assert!(peer.decode(reply).only().records.is_empty());
    // An error is not waited for, and neither is more than the answer may hold.
    let wrong = asked(&cluster, "t", 0, 77);
    assert_eq!(peer.fetch(&mut cluster, &[wrong]).only().head.error, code::OFFSET_OUT_OF_RANGE);
    (peer.bytes_min, peer.bytes_max) = (1 << 20, 50);
    assert!(!peer.fetch(&mut cluster, &[position]).only().records.is_empty());
}

#[test]
fn moved_deleted_and_recreated_topics_are_named_as_such() {
    let mut cluster = Cluster::new(2);
    cluster.create_topic("t", TopicOptions::default());
    fill(&mut cluster, 1, 1);
    let position = asked(&cluster, "t", 0, 0);
    cluster.elect("t", 0, 2);
    let moved = Peer::new(17).fetch(&mut cluster, std::slice::from_ref(&position));
    assert_eq!(moved.only().head.error, code::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(moved.only().tail.current_leader, Some((2, LeaderEpoch(1))));
    let reply = Peer::new(12).ask(&mut cluster, 2, 0, std::slice::from_ref(&position));
    assert!(matches!(reply, Reply::Now(_)));
    let id = cluster.topic_id("t").unwrap();
    assert_ne!(cluster.recreate_topic("t"), id);
    let gone = Peer::new(17).fetch(&mut cluster, std::slice::from_ref(&position));
    assert_eq!(gone.only().head.error, code::UNKNOWN_TOPIC_ID);
    cluster.delete_topic("t");
    let gone = Peer::new(12).fetch(&mut cluster, &[position]);
    assert_eq!(gone.only().head.error, code::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn faults_happen_when_they_are_asked_for() {
    let mut cluster = cluster(1);
    fill(&mut cluster, 2, 2);
    let position = [asked(&cluster, "t", 0, 0)];
    let mut peer = Peer::new(17);
    let right = stored(&cluster, "t", 0);
    cluster.corrupt_next_fetch("t", 0);
    let wrong = peer.fetch(&mut cluster, &position).only().records.clone();
    let differing: Vec<usize> = (0..right.len()).filter(|at| wrong[*at] != right[*at]).collect();
    assert!(differing.len() == 1 && (21..batch(2).len()).contains(&differing[0]), "{differing:?}");
    assert_eq!(peer.fetch(&mut cluster, &position).only().records, right);
    cluster.throttle(1, 1, 300);
    let throttled = peer.fetch(&mut cluster, &position);
    assert_eq!((throttled.throttle_ms, throttled.partitions.len()), (300, 0));
    cluster.fail_fetches("t", 0, Some(code::KAFKA_STORAGE_ERROR));
    assert_eq!(peer.fetch(&mut cluster, &position).only().head.error, code::KAFKA_STORAGE_ERROR);
    cluster.fail_fetches("t", 0, None);
    cluster.drop_answers(1, 1);
    assert!(matches!(peer.ask(&mut cluster, 1, 0, &position), Reply::Close(CloseReason::Dropped)));
    cluster.set_health(1, Health::Silent);
    assert!(matches!(peer.ask(&mut cluster, 1, 0, &position), Reply::Silence));
    cluster.set_health(1, Health::Down);
    assert!(matches!(peer.ask(&mut cluster, 1, 0, &position), Reply::Close(CloseReason::Down)));
    cluster.set_health(1, Health::Serving);
    assert_eq!(peer.fetch(&mut cluster, &position).only().records, right);
}

#[test]
fn a_cyclic_topic_is_read_like_any_other_and_grows() {
    let mut cluster = Cluster::new(1);
    let template = Arc::new(CyclicTemplate::new(&[batch(4), {
        let mut second = batch(4);
        second[..8].copy_from_slice(&4i64.to_be_bytes());
        second
    }]));
    cluster.create_cyclic_topic("c", 2, &template, 5);
    let mut peer = Peer::new(17);
    let position = asked(&cluster, "c", 1, 13);
    let answer = peer.fetch(&mut cluster, &[position]);
    assert_eq!(answer.only().head.high_watermark, 20);
    assert_eq!(answer.only().records.len(), 2 * batch(4).len());
    assert_eq!(answer.only().records[..8], 12i64.to_be_bytes());
    cluster.extend("c", 1, 1);
    let log = cluster.partition("c", 1).unwrap();
    assert_eq!((log.log_end_offset(), log.asked_offset()), (offset(24), offset(13)));
    assert_eq!(log.bytes_below(offset(24)), 6 * batch(4).len() as u64);
}

/// Sends a request through the library and decodes its answer.
fn call<R: Request>(cluster: &mut Cluster, version: i16, request: &R) -> R::Response
where
    R::Response: HeaderVersion,
{
    let mut bytes = BytesMut::new();
    let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version);
    header.with_correlation_id(5).encode(&mut bytes, R::header_version(version)).unwrap();
    request.encode(&mut bytes, version).unwrap();
    let Reply::Now(chunks) = cluster.handle(1, 0, bytes.freeze()) else { panic!("no answer") };
    let mut answer = Bytes::from(chunks.concat()).slice(4..);
    let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 5);
    let response = R::Response::decode(&mut answer, version).unwrap();
    assert!(answer.is_empty());
    response
}

fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_owned()))
}

#[test]
fn api_versions_are_negotiated_in_every_version() {
    let mut cluster = cluster(1);
    let ask = |cluster: &mut Cluster, version: i16| {
        let mut bytes = BytesMut::new();
        bytes.put_i16(18);
        bytes.put_i16(version);
        bytes.put_i32(3);
        bytes.put_i16(-1);
        if version >= 3 {
            // No tags of the header, two short names, no tags.
            bytes.put_slice(&[0, 2, b'a', 2, b'b', 0]);
        }
        match cluster.handle(1, 0, bytes.freeze()) {
            Reply::Now(chunks) => chunks.concat(),
            other => panic!("{other:?}"),
        }
    };
    let bytes = ask(&mut cluster, 0);
    assert_eq!(read_response(&bytes, 3), Ok(Some((bytes.len(), Negotiated::Fetch(17)))));
    cluster.limit_version(1, 11);
    let bytes = ask(&mut cluster, 0);
    assert_eq!(read_response(&bytes, 3), Ok(Some((bytes.len(), Negotiated::Fetch(11)))));
    assert!(ask(&mut cluster, 3).len() > 30);
    let too_new = ask(&mut cluster, 99);
    assert_eq!(read_response(&too_new, 3).unwrap().unwrap().1, Negotiated::Refused(35));
    let position = asked(&cluster, "t", 0, 0);
    let refused = Peer::new(12).ask(&mut cluster, 1, 0, &[position]);
    assert!(matches!(refused, Reply::Close(CloseReason::Unsupported { api_key: 1, version: 12 })));
}

#[test]
fn metadata_names_leaders_ids_and_what_is_unknown() {
    let mut cluster = Cluster::new(3);
    let options = TopicOptions { partitions: 4, replication_factor: 2, ..TopicOptions::default() };
    let id = cluster.create_topic("t", options);
    cluster.elect("t", 1, 3);
    for version in 0..=12 {
        let all = MetadataRequest::default().with_topics(if version > 0 { None } else { Some(vec![]) });
        let response: MetadataResponse = call(&mut cluster, version, &all);
        assert_eq!(response.brokers.len(), 3);
        let topic = &response.topics[0];
        assert_eq!(topic.name.as_ref().unwrap().as_str(), "t");
        assert_eq!(topic.topic_id.into_bytes(), if version >= 10 { id.0 } else { [0; 16] });
        let leaders: Vec<i32> = topic.partitions.iter().map(|partition| partition.leader_id.0).collect();
        assert_eq!(leaders, [1, 3, 3, 1]);
    }
    let unknown = MetadataRequestTopic::default().with_name(Some(name("nope")));
    let request = MetadataRequest::default().with_topics(Some(vec![unknown]));
    let response: MetadataResponse = call(&mut cluster, 12, &request);
    assert_eq!(response.topics[0].error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
    cluster.add_partitions("t", 6);
    let request = MetadataRequest::default().with_topics(None);
    let response: MetadataResponse = call(&mut cluster, 9, &request);
    assert_eq!(response.topics[0].partitions.len(), 6);
}

#[test]
fn list_offsets_knows_start_end_and_times() {
    let mut cluster = two_epochs();
    cluster.trim("t", 0, offset(2));
    for version in 1..=10 {
        let mut ask = |timestamp: i64| {
            let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
            let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let request =
                ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let response: ListOffsetsResponse = call(&mut cluster, version, &request);
            let answer = response.topics[0].partitions[0].clone();
            assert_eq!(answer.error_code, 0);
            (answer.offset, answer.leader_epoch)
        };
        let epoch = |epoch| if version >= 4 { epoch } else { -1 };
        assert_eq!(ask(-2), (2, epoch(0)));
        assert_eq!(ask(-1), (10, epoch(2)));
        assert_eq!(ask(5), (2, epoch(0)));
        assert_eq!(ask(11), (-1, epoch(-1)));
    }
}

#[test]
fn offset_for_leader_epoch_follows_the_history() {
    let mut cluster = two_epochs();
    let mut ask = |current: i32, epoch: i32| {
        let partition = OffsetForLeaderPartition::default().with_leader_epoch(epoch);
        let partition = partition.with_current_leader_epoch(current);
        let topic = OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
        let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
        let request = request.with_replica_id(BrokerId(-2));
        let response: OffsetForLeaderEpochResponse = call(&mut cluster, 4, &request);
        let answer = &response.topics[0].partitions[0];
        (answer.error_code, answer.leader_epoch, answer.end_offset)
    };
    assert_eq!(ask(2, 0), (0, 0, 5));
    assert_eq!(ask(2, 1), (0, 0, 5));
    assert_eq!(ask(-1, 2), (0, 2, 10));
    assert_eq!(ask(2, 9), (0, -1, -1));
    assert_eq!(ask(1, 0), (code::FENCED_LEADER_EPOCH, -1, -1));
}
