//! Consumer groups of a cluster as bytes: positions are written, read and deleted where the group's coordinator is.
//!
//! Owns one connection to each broker. It shares nothing with the product's client but the library of messages.

use super::Cluster;
use crate::poll;
use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartitions;
use kafka_protocol::messages::{
    DeleteGroupsRequest, FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

const FIND_COORDINATOR: i16 = 4;
const OFFSET_FETCH: i16 = 8;
const OFFSET_COMMIT: i16 = 8;
const DELETE_GROUPS: i16 = 2;
/// Loading, not available, not here.
const PASSING: [i16; 3] = [14, 15, 16];

/// Topic and partition with its position.
pub type Positions = BTreeMap<(String, i32), i64>;

/// See the file's header.
pub struct GroupClient {
    addresses: BTreeMap<i32, String>,
    connections: BTreeMap<i32, TcpStream>,
    coordinators: BTreeMap<String, i32>,
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn group_id(value: &str) -> GroupId {
    GroupId(text(value))
}

impl GroupClient {
    /// Of a cluster with these brokers.
    pub fn of(cluster: &Cluster, brokers: &[usize]) -> Self {
        let address = |broker: &usize| (i32::try_from(*broker).expect("few"), cluster.address(*broker));
        Self {
            addresses: brokers.iter().map(address).collect(),
            connections: BTreeMap::new(),
            coordinators: BTreeMap::new(),
        }
    }

    fn ask<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Option<R::Response> {
        if !self.connections.contains_key(&broker) {
            let stream = TcpStream::connect(self.addresses.get(&broker)?).ok()?;
            stream.set_read_timeout(Some(poll::HANG_LIMIT)).expect("a limit can be set");
            stream.set_nodelay(true).expect("it is a TCP socket");
            self.connections.insert(broker, stream);
        }
        let answer = self.exchange(broker, version, request);
        if answer.is_none() {
            self.connections.remove(&broker);
        }
        answer
    }

    fn exchange<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Option<R::Response> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(text("tests")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, <R as HeaderVersion>::header_version(version)).expect("a header");
        request.encode(&mut frame, version).expect("a request");
        let length = i32::try_from(frame.len() - 4).expect("small");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let stream = self.connections.get_mut(&broker)?;
        stream.write_all(&frame).ok()?;
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        stream.read_exact(&mut answer).ok()?;
        let mut answer = bytes::Bytes::from(answer);
        ResponseHeader::decode(&mut answer, <R::Response as HeaderVersion>::header_version(version))
            .expect("a header");
        let decoded = R::Response::decode(&mut answer, version).expect("an answer");
        assert!(!answer.has_remaining(), "an answer ends with its frame");
        Some(decoded)
    }

    /// The broker that coordinates a group.
    pub fn coordinator(&mut self, group: &str) -> i32 {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        poll::poll_for("the group has a coordinator", || {
            let brokers: Vec<i32> = self.addresses.keys().copied().collect();
            brokers.into_iter().find_map(|broker| {
                let answer = self.ask(broker, FIND_COORDINATOR, &request)?;
                let found = answer.coordinators.first()?;
                (found.error_code == 0).then_some(found.node_id.0)
            })
        })
    }

    /// Asks the coordinator until it has an answer that will stay.
    fn settled<R: Request, T>(
        &mut self,
        group: &str,
        version: i16,
        request: &R,
        judge: impl Fn(R::Response) -> Result<T, i16>,
    ) -> Result<T, i16> {
        poll::poll_for("the coordinator answers", || {
            let broker = match self.coordinators.get(group) {
                Some(broker) => *broker,
                None => self.coordinator(group),
            };
            self.coordinators.insert(group.to_owned(), broker);
            let answer = self.ask(broker, version, request).map(&judge);
            match answer {
                Some(Err(code)) if !PASSING.contains(&code) => Some(Err(code)),
                Some(Ok(value)) => Some(Ok(value)),
                _ => {
                    self.coordinators.remove(group);
                    None
                }
            }
        })
    }

    /// Writes positions, as an offset tool does; the first error code, if any.
    pub fn commit(&mut self, group: &str, topic: &str, positions: &[(i32, i64)]) -> Result<(), i16> {
        let partition = |(index, offset): &(i32, i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text("")))
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(positions.iter().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        self.settled(group, OFFSET_COMMIT, &request, |answer| {
            let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions);
            codes.find(|each| each.error_code != 0).map_or(Ok(()), |each| Err(each.error_code))
        })
    }

    /// What a group holds.
    pub fn positions(&mut self, group: &str) -> Positions {
        let asked = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![asked]);
        let told = self.settled(group, OFFSET_FETCH, &request, |answer| {
            let found = answer.groups.into_iter().next().expect("the group that was asked about");
            if found.error_code != 0 {
                return Err(found.error_code);
            }
            let positions = found.topics.iter().flat_map(|topic| {
                let name = topic.name.to_string();
                let position = move |each: &OffsetFetchResponsePartitions| {
                    ((name.clone(), each.partition_index), each.committed_offset)
                };
                topic.partitions.iter().map(position)
            });
            Ok(positions.collect::<Positions>())
        });
        told.unwrap_or_else(|code| panic!("{group}: error code {code}"))
    }

    /// Deletes a group.
    pub fn delete(&mut self, group: &str) {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let deleted = self.settled(group, DELETE_GROUPS, &request, |answer| {
            let code = answer.results.first().expect("the group that was named").error_code;
            if code == 0 { Ok(()) } else { Err(code) }
        });
        assert_eq!(deleted, Ok(()), "{group}");
    }
}
