//! A reader for the tests of the in-memory cluster: our own request writer and streaming decoder.

use super::broker::{Cluster, Reply};
use bytes::Bytes;
use std::sync::Arc;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::Nanoseconds;
use twinlog_sync::wire::fetch_request::{
    FetchHeader, FetchPartition, FetchPosition, IsolationLevel, Topic, write_request,
};
use twinlog_sync::wire::fetch_response::{Event, FetchDecoder, PartitionHead, PartitionTail};

/// One partition of an answer.
#[derive(Clone, Debug)]
pub struct Answered {
    pub head: PartitionHead,
    pub records: Vec<u8>,
    pub tail: PartitionTail,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub throttle_ms: i32,
    pub error: i16,
    pub session_id: i32,
    pub partitions: Vec<Answered>,
}

impl Answer {
    pub fn only(&self) -> &Answered {
        assert_eq!(self.partitions.len(), 1, "{self:?}");
        &self.partitions[0]
    }

    pub fn indexes(&self) -> Vec<i32> {
        self.partitions.iter().map(|partition| partition.head.index).collect()
    }
}

/// The settings of one reader.
pub struct Peer {
    pub version: i16,
    pub isolation_level: IsolationLevel,
    pub wait_max_ms: u32,
    pub bytes_min: u32,
    pub bytes_max: u32,
    pub session: (i32, i32),
    pub correlation_id: i32,
}

impl Peer {
    pub fn new(version: i16) -> Peer {
        Peer {
            version,
            isolation_level: IsolationLevel::ReadCommitted,
            wait_max_ms: 0,
            bytes_min: 1,
            bytes_max: 1 << 20,
            session: (0, -1),
            correlation_id: 100,
        }
    }

    /// A request frame with its length.
    pub fn frame(&mut self, partitions: &[FetchPartition], forgotten: &[(Arc<Topic>, i32)]) -> Vec<u8> {
        self.correlation_id += 1;
        let header = FetchHeader {
            version: self.version,
            correlation_id: self.correlation_id,
            client_id: "test",
            rack: "",
            wait_max_ms: self.wait_max_ms,
            bytes_min: self.bytes_min,
            bytes_max: self.bytes_max,
            isolation_level: self.isolation_level,
            session_id: self.session.0,
            session_epoch: self.session.1,
        };
        let mut out = Vec::new();
        write_request(&mut out, &header, partitions, forgotten);
        out
    }

    pub fn ask(
        &mut self,
        cluster: &mut Cluster,
        broker: i32,
        now: Nanoseconds,
        partitions: &[FetchPartition],
    ) -> Reply {
        let frame = self.frame(partitions, &[]);
        cluster.handle(broker, now, Bytes::from(frame).slice(4..))
    }

    /// Asks broker 1 and decodes what comes at once.
    pub fn fetch(&mut self, cluster: &mut Cluster, partitions: &[FetchPartition]) -> Answer {
        let reply = self.ask(cluster, 1, 0, partitions);
        self.decode(reply)
    }

    pub fn decode(&self, reply: Reply) -> Answer {
        let Reply::Now(chunks) = reply else { panic!("no answer but {reply:?}") };
        self.decode_bytes(&chunks.concat())
    }

    pub fn decode_bytes(&self, bytes: &[u8]) -> Answer {
        let mut decoder = FetchDecoder::new(self.version, u32::MAX >> 1);
        decoder.expect(self.correlation_id);
        let (mut at, mut answer) = (0, Answer::default());
        loop {
            let (used, event) = decoder.decode(&bytes[at..]).expect("a well-formed answer");
            at += used;
            match event.expect("a whole answer") {
                Event::Response { throttle_ms, error, session_id } => {
                    answer = Answer { throttle_ms, error, session_id, partitions: Vec::new() };
                }
                Event::Topic => {}
                Event::Partition(head) => {
                    let records = bytes[at..at + head.records_bytes as usize].to_vec();
                    at += records.len();
                    decoder.take_records(head.records_bytes);
                    answer.partitions.push(Answered { head, records, tail: PartitionTail::default() });
                }
                Event::PartitionEnd(tail) => answer.partitions.last_mut().expect("it began").tail = tail,
                Event::End => {
                    assert_eq!(at, bytes.len(), "bytes behind the answer");
                    return answer;
                }
            }
        }
    }
}

/// What is asked of one partition, by name or id as the version wants it.
pub fn asked(cluster: &Cluster, topic: &str, index: i32, offset: i64) -> FetchPartition {
    let id = cluster.topic_id(topic).unwrap_or(TopicId::ZERO);
    FetchPartition {
        topic: Arc::new(Topic { name: topic.to_owned(), id }),
        index,
        position: FetchPosition {
            fetch_offset: Offset::new(offset).expect("tests ask at 0 or above"),
            current_leader_epoch: LeaderEpoch::UNKNOWN,
            last_fetched_epoch: LeaderEpoch::UNKNOWN,
            bytes_max: 1 << 20,
        },
    }
}
