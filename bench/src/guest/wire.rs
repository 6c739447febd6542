//! A blocking Kafka client of a few requests: what memory-only brokers, our own producer and probes have to say.
//!
//! ```text
//!   length key version correlation client tags | body ─▶        ─▶ length correlation tags | answer
//! ```
//! All requests are of versions in compact, tagged form. Owns no thread. Must never be taken for a client that
//! copes with a sick cluster: whatever goes wrong ends the measurement.

use crate::error::BenchError;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use twinlog_sync::wire::{Reader, Writer};

const CLIENT_ID: &str = "twinlog-bench";
/// Beyond it a peer hangs. Longer than a broker's long poll and a controller's slowest write.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// An answer's length is compared with it before memory is set aside.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const TIMEOUT_MS: i32 = 30_000;

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const ELECT_LEADERS: i16 = 43;
const REASSIGN: i16 = 45;
const REGISTER: i16 = 62;
const HEARTBEAT: i16 = 63;
const UNREGISTER: i16 = 64;

/// What a stock broker of today can do and a little more: the controller refuses whoever cannot do what the
/// cluster has made final. Name, lowest, highest.
const FEATURES: [(&str, i16, i16); 7] = [
    ("metadata.version", 7, 100),
    ("kraft.version", 0, 10),
    ("transaction.version", 0, 10),
    ("group.version", 0, 10),
    ("eligible.leader.replicas.version", 0, 10),
    ("share.version", 0, 10),
    ("streams.version", 0, 10),
];

/// One connection.
pub struct Peer {
    stream: TcpStream,
    server: String,
    correlation_id: i32,
    request: Vec<u8>,
}

/// The parts of an answer, each checked for being there.
pub struct Answer<'a> {
    reader: Reader<'a>,
    what: &'static str,
}

impl<'a> Answer<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), what }
    }

    fn there<T>(&self, value: Option<T>) -> Result<T, BenchError> {
        value.ok_or(BenchError::Malformed { what: self.what })
    }

    fn i8(&mut self) -> Result<i8, BenchError> {
        let value = self.reader.i8();
        self.there(value)
    }

    fn i16(&mut self) -> Result<i16, BenchError> {
        let value = self.reader.i16();
        self.there(value)
    }

    fn i32(&mut self) -> Result<i32, BenchError> {
        let value = self.reader.i32();
        self.there(value)
    }

    fn i64(&mut self) -> Result<i64, BenchError> {
        let value = self.reader.i64();
        self.there(value)
    }

    fn length(&mut self) -> Result<usize, BenchError> {
        let value = self.reader.unsigned_varint().and_then(Result::ok);
        Ok(self.there(value)? as usize)
    }

    /// Items of an array that follow.
    fn count(&mut self) -> Result<usize, BenchError> {
        Ok(self.length()?.saturating_sub(1))
    }

    fn text(&mut self) -> Result<String, BenchError> {
        let length = self.count()?;
        let bytes = self.reader.take(length);
        Ok(String::from_utf8_lossy(self.there(bytes)?).into_owned())
    }

    fn skip_tags(&mut self) -> Result<(), BenchError> {
        for _ in 0..self.length()? {
            self.length()?;
            let bytes = self.length()?;
            let skipped = self.reader.take(bytes);
            self.there(skipped)?;
        }
        Ok(())
    }

    fn skip_ids(&mut self) -> Result<(), BenchError> {
        for _ in 0..self.count()? {
            self.i32()?;
        }
        Ok(())
    }
}

fn compact(writer: &mut Writer<'_>, text: &str) {
    writer.string(true, text);
}

/// A topic as the brokers know it.
#[derive(Clone, Debug, Default)]
pub struct TopicFacts {
    pub cluster_id: String,
    /// `host:port` of every broker.
    pub brokers: Vec<(i32, String)>,
    pub id: [u8; 16],
    /// By partition; -1 where nobody leads that clients can reach.
    pub leaders: Vec<i32>,
}

impl TopicFacts {
    pub fn address(&self, broker: i32) -> Option<&str> {
        self.brokers.iter().find(|(id, _)| *id == broker).map(|(_, address)| address.as_str())
    }
}

impl Peer {
    pub fn connect(server: &str) -> Result<Peer, BenchError> {
        let failed = |error| BenchError::Peer { what: "the connection", server: server.to_owned(), error };
        let stream = TcpStream::connect(server).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
        Ok(Peer { stream, server: server.to_owned(), correlation_id: 0, request: Vec::new() })
    }

    /// Another handle of the same connection: one thread sends, one receives.
    pub fn twin(&self) -> Result<Peer, BenchError> {
        let stream = self.stream.try_clone().map_err(|error| self.failed("the connection", error))?;
        Ok(Peer { stream, server: self.server.clone(), correlation_id: 0, request: Vec::new() })
    }

    fn failed(&self, what: &'static str, error: std::io::Error) -> BenchError {
        BenchError::Peer { what, server: self.server.clone(), error }
    }

    fn refused(&self, what: &'static str, code: i16) -> Result<(), BenchError> {
        match code {
            0 => Ok(()),
            code => Err(BenchError::PeerRefused { what, server: self.server.clone(), code }),
        }
    }

    /// Sends a request; its answer is another call's.
    pub fn send(
        &mut self,
        what: &'static str,
        key: i16,
        version: i16,
        body: impl FnOnce(&mut Writer<'_>),
    ) -> Result<i32, BenchError> {
        self.correlation_id += 1;
        self.request.clear();
        let mut writer = Writer::start(&mut self.request);
        writer.request_header(key, version, self.correlation_id, CLIENT_ID, true);
        body(&mut writer);
        writer.finish();
        self.stream.write_all(&self.request).map_err(|error| self.failed(what, error))?;
        Ok(self.correlation_id)
    }

    /// Receives the next answer into `answer`, with its header.
    pub fn receive(&mut self, what: &'static str, answer: &mut Vec<u8>) -> Result<(), BenchError> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|error| self.failed(what, error))?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(BenchError::Malformed { what });
        }
        answer.resize(length, 0);
        self.stream.read_exact(answer).map_err(|error| self.failed(what, error))
    }

    fn exchange(
        &mut self,
        what: &'static str,
        key: i16,
        version: i16,
        body: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Vec<u8>, BenchError> {
        let sent = self.send(what, key, version, body)?;
        let mut answer = Vec::new();
        self.receive(what, &mut answer)?;
        let mut reader = Answer::new(what, &answer);
        if reader.i32()? != sent {
            return Err(BenchError::Malformed { what });
        }
        reader.skip_tags()?;
        let header_bytes = reader.reader.consumed();
        answer.drain(..header_bytes);
        Ok(answer)
    }

    /// What a broker says of a topic; `None` while it does not know it.
    pub fn topic(&mut self, name: &str) -> Result<Option<TopicFacts>, BenchError> {
        let what = "Metadata";
        let bytes = self.exchange(what, METADATA, 12, |writer| {
            writer.array_length(true, 1);
            writer.raw(&[0; 16]);
            compact(writer, name);
            writer.no_tags(true);
            writer.raw(&[0, 0]);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        let mut facts = TopicFacts::default();
        answer.i32()?;
        for _ in 0..answer.count()? {
            let (id, host, port) = (answer.i32()?, answer.text()?, answer.i32()?);
            answer.text()?;
            answer.skip_tags()?;
            facts.brokers.push((id, format!("{host}:{port}")));
        }
        facts.cluster_id = answer.text()?;
        answer.i32()?;
        answer.count()?;
        let known = answer.i16()? == 0;
        answer.text()?;
        let id = answer.reader.uuid();
        facts.id = answer.there(id)?;
        answer.i8()?;
        let count = answer.count()?;
        facts.leaders = vec![-1; count];
        for _ in 0..count {
            answer.i16()?;
            let (index, leader) = (answer.i32()?, answer.i32()?);
            answer.i32()?;
            for _ in 0..3 {
                answer.skip_ids()?;
            }
            answer.skip_tags()?;
            if let Some(at) = facts.leaders.get_mut(index as usize) {
                *at = leader;
            }
        }
        Ok(known.then_some(facts))
    }

    /// The id of the cluster, whatever topics it has.
    pub fn cluster_id(&mut self) -> Result<String, BenchError> {
        let what = "Metadata";
        let bytes = self.exchange(what, METADATA, 12, |writer| {
            writer.array_length(true, 0);
            writer.raw(&[0, 0]);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        for _ in 0..answer.count()? {
            answer.i32()?;
            answer.text()?;
            answer.i32()?;
            answer.text()?;
            answer.skip_tags()?;
        }
        answer.text()
    }

    /// Registers a broker that is reached at `host:port`; its epoch.
    pub fn register(
        &mut self,
        broker: i32,
        cluster_id: &str,
        incarnation: [u8; 16],
        listener: (&str, u16),
    ) -> Result<i64, BenchError> {
        let what = "BrokerRegistration";
        let bytes = self.exchange(what, REGISTER, 4, |writer| {
            writer.i32(broker);
            compact(writer, cluster_id);
            writer.raw(&incarnation);
            writer.array_length(true, 1);
            compact(writer, listener.0);
            compact(writer, "127.0.0.1");
            writer.i16(listener.1.cast_signed());
            writer.i16(0);
            writer.no_tags(true);
            writer.array_length(true, FEATURES.len());
            for (name, lowest, highest) in FEATURES {
                compact(writer, name);
                writer.i16(lowest);
                writer.i16(highest);
                writer.no_tags(true);
            }
            // No rack, not migrating; one log directory.
            writer.raw(&[0, 0]);
            writer.array_length(true, 1);
            writer.raw(&incarnation);
            writer.i64(-1);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        self.refused(what, answer.i16()?)?;
        answer.i64()
    }

    /// Keeps a broker's session; whether it is still fenced. A memory-only broker has no metadata to be behind
    /// with, and says so by an offset that no log reaches.
    pub fn heartbeat(&mut self, broker: i32, epoch: i64) -> Result<bool, BenchError> {
        let what = "BrokerHeartbeat";
        let bytes = self.exchange(what, HEARTBEAT, 1, |writer| {
            writer.i32(broker);
            writer.i64(epoch);
            writer.i64(i64::MAX / 2);
            writer.raw(&[0, 0]);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        self.refused(what, answer.i16()?)?;
        answer.i8()?;
        Ok(answer.i8()? != 0)
    }

    pub fn unregister(&mut self, broker: i32) -> Result<(), BenchError> {
        let what = "UnregisterBroker";
        let bytes = self.exchange(what, UNREGISTER, 0, |writer| {
            writer.i32(broker);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        self.refused(what, answer.i16()?)
    }

    /// Sends one batch to each of these partitions of a topic.
    pub fn send_produce(
        &mut self,
        topic: &str,
        acks: i16,
        partitions: &[i32],
        batch: &[u8],
    ) -> Result<i32, BenchError> {
        self.send("Produce", PRODUCE, 9, |writer| {
            writer.unsigned_varint(0);
            writer.i16(acks);
            writer.i32(TIMEOUT_MS);
            writer.array_length(true, 1);
            compact(writer, topic);
            writer.array_length(true, partitions.len());
            for index in partitions {
                writer.i32(*index);
                writer.unsigned_varint(batch.len() as u32 + 1);
                writer.raw(batch);
                writer.no_tags(true);
            }
            writer.no_tags(true);
            writer.no_tags(true);
        })
    }

    /// The answer to a Produce of one topic: partition, error, and the offset that the batch got.
    pub fn receive_produced(&mut self, bytes: &mut Vec<u8>) -> Result<Vec<(i32, i16, i64)>, BenchError> {
        let what = "Produce";
        self.receive(what, bytes)?;
        let mut answer = Answer::new(what, bytes);
        answer.i32()?;
        answer.skip_tags()?;
        answer.count()?;
        answer.text()?;
        let mut produced = Vec::new();
        for _ in 0..answer.count()? {
            produced.push((answer.i32()?, answer.i16()?, answer.i64()?));
            answer.i64()?;
            answer.i64()?;
            for _ in 0..answer.count()? {
                answer.i32()?;
                answer.text()?;
                answer.skip_tags()?;
            }
            answer.text()?;
            answer.skip_tags()?;
        }
        Ok(produced)
    }

    /// Gives all partitions of a topic these replicas, the preferred leader first.
    pub fn reassign(&mut self, topic: &str, partitions: i32, replicas: &[i32]) -> Result<(), BenchError> {
        let what = "AlterPartitionReassignments";
        let bytes = self.exchange(what, REASSIGN, 0, |writer| {
            writer.i32(TIMEOUT_MS);
            writer.array_length(true, 1);
            compact(writer, topic);
            writer.array_length(true, partitions as usize);
            for index in 0..partitions {
                writer.i32(index);
                writer.array_length(true, replicas.len());
                replicas.iter().for_each(|broker| writer.i32(*broker));
                writer.no_tags(true);
            }
            writer.no_tags(true);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        self.refused(what, answer.i16()?)
    }

    /// Makes the preferred replicas of all partitions of a topic their leaders.
    pub fn elect_preferred(&mut self, topic: &str, partitions: i32) -> Result<(), BenchError> {
        let what = "ElectLeaders";
        let bytes = self.exchange(what, ELECT_LEADERS, 2, |writer| {
            writer.i8(0);
            writer.array_length(true, 1);
            compact(writer, topic);
            writer.array_length(true, partitions as usize);
            (0..partitions).for_each(|index| writer.i32(index));
            writer.no_tags(true);
            writer.i32(TIMEOUT_MS);
            writer.no_tags(true);
        })?;
        let mut answer = Answer::new(what, &bytes);
        answer.i32()?;
        self.refused(what, answer.i16()?)
    }
}
