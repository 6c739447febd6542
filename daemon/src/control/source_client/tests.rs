//! The client against a peer in the same thread that answers as it is told, rightly and wrongly.

use super::*;
use crate::security::ClientSecurity;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use kafka_protocol::messages::{ApiVersionsResponse, ListOffsetsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, decode_request_header_from_buffer};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as the peer sees it.
struct Asked {
    stream: TcpStream,
    header: RequestHeader,
}

async fn next_request(mut stream: TcpStream) -> Option<Asked> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut frame).await.ok()?;
    let header = decode_request_header_from_buffer(&mut Bytes::from(frame)).unwrap();
    Some(Asked { stream, header })
}

fn frame<R: Request>(answer: &R::Response, correlation_id: i32, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut bytes, <R::Response as HeaderVersion>::header_version(version)).unwrap();
    answer.encode(&mut bytes, version).unwrap();
    let length = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

async fn answer<R: Request>(mut asked: Asked, answer: &R::Response) -> TcpStream {
    assert_eq!(asked.header.request_api_key, R::KEY);
    let version = asked.header.request_api_version;
    let bytes = frame::<R>(answer, asked.header.correlation_id, version);
    asked.stream.write_all(&bytes).await.unwrap();
    asked.stream
}

/// ApiVersions, so that what follows is the request under test.
async fn negotiate(stream: TcpStream, offered: &[(i16, i16, i16)]) -> TcpStream {
    let key = |(key, min, max): &(i16, i16, i16)| {
        ApiVersion::default().with_api_key(*key).with_min_version(*min).with_max_version(*max)
    };
    let versions = ApiVersionsResponse::default().with_api_keys(offered.iter().map(key).collect());
    answer::<kafka_protocol::messages::ApiVersionsRequest>(next_request(stream).await.unwrap(), &versions)
        .await
}

const OFFERED: &[(i16, i16, i16)] = &[(3, 0, 13), (2, 1, 11), (18, 0, 4)];

struct Peer {
    listener: TcpListener,
    address: HostPort,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        Self { listener, address }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(7))
            .with_host(StrBytes::from_string(self.address.host.clone()))
            .with_port(self.address.port.into());
        let topic = MetadataResponseTopic::default().with_name(Some(topic_name("orders")));
        MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic])
    }
}

fn client(servers: &[&HostPort], request_timeout: Duration) -> SourceClient {
    SourceClient::new(&SourceSettings {
        bootstrap_servers: servers.iter().map(|server| (*server).clone()).collect(),
        client_id: "test".into(),
        client_rack: String::new(),
        metadata_max_age: Duration::from_secs(1),
        request_timeout,
        backoff: twinlog_sync::backoff::BackoffLimits::default(),
        security: ClientSecurity::plaintext(),
    })
}

const PATIENT: Duration = Duration::from_secs(60);

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

fn last(error: ClientError) -> ClientError {
    match error {
        ClientError::AllFailed { last, .. } => *last,
        error => error,
    }
}

#[test]
fn metadata_is_read_in_the_highest_common_version_and_names_brokers_by_id() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let stream = negotiate(peer.accept().await, &[(3, 0, 99), (18, 0, 4)]).await;
            let asked = next_request(stream).await.unwrap();
            assert_eq!(asked.header.request_api_version, 13);
            answer::<MetadataRequest>(asked, &peer.metadata()).await
        };
        let (view, _stream) = tokio::join!(client.metadata(None), serve);
        let view = view.unwrap();
        assert_eq!(view.brokers[&7], peer.address);
        assert_eq!(view.topics[0].name, "orders");
    });
}

#[test]
fn a_frame_beyond_the_bound_is_refused_before_a_byte_of_it_arrives() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        for length in [i32::MAX, -1, 0, FRAME_BYTES_MAX as i32 + 1] {
            let serve = async {
                let mut asked = next_request(peer.accept().await).await.unwrap();
                asked.stream.write_i32(length).await.unwrap();
                asked.stream
            };
            let (refused, _stream) = tokio::join!(client.metadata(None), serve);
            let refused = last(refused.unwrap_err());
            assert!(
                matches!(refused, ClientError::FrameLength { length: found, .. } if found == length),
                "{refused}"
            );
        }
    });
}

#[test]
fn an_answer_to_another_request_is_refused() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let mut asked = next_request(negotiate(peer.accept().await, OFFERED).await).await.unwrap();
            let stale = frame::<MetadataRequest>(&peer.metadata(), asked.header.correlation_id - 1, 13);
            asked.stream.write_all(&stale).await.unwrap();
            asked.stream
        };
        let (refused, _stream) = tokio::join!(client.metadata(None), serve);
        assert!(matches!(
            last(refused.unwrap_err()),
            ClientError::CorrelationId { expected: 2, found: 1, .. }
        ));
    });
}

#[test]
fn a_silent_broker_times_out_and_the_next_server_is_asked() {
    run(async {
        let (silent, peer) = (Peer::start().await, Peer::start().await);
        let client = client(&[&silent.address, &peer.address], Duration::from_millis(200));
        let hold = silent.accept();
        let serve = async {
            let stream = negotiate(peer.accept().await, OFFERED).await;
            answer::<MetadataRequest>(next_request(stream).await.unwrap(), &peer.metadata()).await
        };
        let (view, _silent, _stream) = tokio::join!(client.metadata(None), hold, serve);
        assert!(view.unwrap().brokers.contains_key(&7));
        let alone = super::tests::client(&[&silent.address], Duration::from_millis(200));
        let (refused, _silent) = tokio::join!(alone.metadata(None), silent.accept());
        assert!(matches!(last(refused.unwrap_err()), ClientError::TimedOut { request: "ApiVersions", .. }));
    });
}

#[test]
fn hostile_counts_inside_a_frame_are_an_error_and_not_an_allocation() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let mut asked = next_request(negotiate(peer.accept().await, &[(3, 1, 1)]).await).await.unwrap();
            let mut bytes = frame::<MetadataRequest>(&peer.metadata(), asked.header.correlation_id, 1);
            bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
            asked.stream.write_all(&bytes).await.unwrap();
            asked.stream
        };
        let (refused, _stream) = tokio::join!(client.metadata(None), serve);
        assert!(matches!(
            last(refused.unwrap_err()),
            ClientError::Malformed { request: "Metadata", version: 1, .. }
        ));
    });
}

#[test]
fn a_closed_idle_connection_is_opened_again_and_ends_are_read() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let stream = negotiate(peer.accept().await, OFFERED).await;
            drop(answer::<MetadataRequest>(next_request(stream).await.unwrap(), &peer.metadata()).await);
            let asked = next_request(negotiate(peer.accept().await, OFFERED).await).await.unwrap();
            assert_eq!(asked.header.request_api_version, 10);
            let ends = [(0, 42, 0), (1, -1, 6)].map(|(index, offset, code)| {
                let partition = ListOffsetsPartitionResponse::default().with_partition_index(index);
                partition.with_offset(offset).with_error_code(code)
            });
            let topic = ListOffsetsTopicResponse::default().with_name(topic_name("orders"));
            let topic = topic.with_partitions(ends.to_vec());
            answer::<ListOffsetsRequest>(asked, &ListOffsetsResponse::default().with_topics(vec![topic]))
                .await
        };
        let ask = async {
            client.metadata(None).await.unwrap();
            let partitions =
                [0, 1].map(|index| (TopicPartition::new("orders", index).unwrap(), LeaderEpoch(3)));
            client.log_edges(7, IsolationLevel::ReadCommitted, LogEdge::End, &partitions).await.unwrap()
        };
        let (ends, _stream) = tokio::join!(ask, serve);
        let found: Vec<_> = ends.into_iter().map(|(_, end)| end).collect();
        assert_eq!(found, [Ok(Offset::new(42).unwrap()), Err(6)]);
    });
}

#[test]
fn a_source_without_the_epoch_request_says_nothing_of_epochs() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let stream = negotiate(peer.accept().await, OFFERED).await;
            answer::<MetadataRequest>(next_request(stream).await.unwrap(), &peer.metadata()).await
        };
        let ask = async {
            client.metadata(None).await.unwrap();
            let leader = Leader { broker: 7, epoch: LeaderEpoch(3) };
            let orders = TopicPartition::new("orders", 0).unwrap();
            client.end_of_epoch(leader, &orders, LeaderEpoch(2)).await
        };
        let (end, _stream) = tokio::join!(ask, serve);
        assert_eq!(end.unwrap(), Ok(None));
    });
}

#[test]
fn a_listener_that_speaks_something_else_is_told_as_such() {
    run(async {
        let peer = Peer::start().await;
        let client = client(&[&peer.address], PATIENT);
        let serve = async {
            let mut asked = next_request(peer.accept().await).await.unwrap();
            asked.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            asked.stream
        };
        let (refused, _stream) = tokio::join!(client.metadata(None), serve);
        let text = last(refused.unwrap_err()).to_string();
        assert!(text.contains("is it a Kafka listener"), "{text}");
        let mut bytes = Bytes::from_static(b"HTTP");
        assert!(text.contains(&bytes.get_i32().to_string()));
    });
}

#[test]
fn every_request_can_be_written_in_every_version_that_is_understood() {
    let writes = |version: i16, encode: &dyn Fn(&mut BytesMut) -> bool| {
        assert!(encode(&mut BytesMut::new()), "version {version}");
    };
    let names = ["orders".to_owned()];
    for version in MetadataRequest::UNDERSTOOD.min..=MetadataRequest::UNDERSTOOD.max {
        for names in [None, Some(names.as_slice())] {
            writes(version, &|bytes| metadata_request(names, version).encode(bytes, version).is_ok());
        }
    }
    let orders = TopicPartition::new("orders", 3).unwrap();
    let partitions = [(orders.clone(), LeaderEpoch(5))];
    for version in ListOffsetsRequest::UNDERSTOOD.min..=ListOffsetsRequest::UNDERSTOOD.max {
        let request = edges_request(IsolationLevel::ReadCommitted, LogEdge::End, &partitions, version);
        writes(version, &|bytes| request.encode(bytes, version).is_ok());
    }
    for version in FetchRequest::UNDERSTOOD.min..=FetchRequest::UNDERSTOOD.max {
        let leader = Leader { broker: 1, epoch: LeaderEpoch(5) };
        let request = fetch_request(Reading::CONSUMER, leader, &orders, Offset::new(7).unwrap());
        writes(version, &|bytes| request.encode(bytes, version).is_ok());
    }
    let range = OffsetForLeaderEpochRequest::UNDERSTOOD;
    for version in range.min..=range.max {
        let leader = Leader { broker: 1, epoch: LeaderEpoch(5) };
        let request = epoch_request(leader, &orders, LeaderEpoch(4));
        writes(version, &|bytes| request.encode(bytes, version).is_ok());
    }
}
