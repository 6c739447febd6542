//! A producer whose ids, epochs and sequences the test chooses: what no client library lets it do.
//!
//! Owns one connection to one broker and the few bytes of two requests in their oldest layouts. One request at a
//! time; the broker closes on anything that it cannot read, which fails the test.

use crate::poll;
use std::io::{Read, Write};
use std::net::TcpStream;
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_sync::wire::Writer;

const PRODUCE: (i16, i16) = (0, 3);
const INIT_PRODUCER_ID: (i16, i16) = (22, 1);
/// A broker asks the controller for its first block when somebody wants an id.
const LOAD_IN_PROGRESS: i16 = 14;
/// Of a broker's work on one request.
const TIMEOUT_MS: i32 = 30_000;

/// See the file's header.
pub struct RawProducer {
    stream: TcpStream,
}

impl RawProducer {
    /// Of the broker at `host:port`.
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the broker serves");
        stream.set_read_timeout(Some(poll::HANG_LIMIT)).expect("a limit can be set");
        Self { stream }
    }

    /// The id of a producer that begins here and has not written anything yet.
    pub fn fresh_id(&mut self) -> i64 {
        poll::poll_for("the broker has a block of ids", || {
            let answer = self.ask(INIT_PRODUCER_ID, |writer| {
                // No transactional id.
                writer.raw(&(-1_i16).to_be_bytes());
                writer.i32(TIMEOUT_MS);
            });
            let code = i16::from_be_bytes([answer[4], answer[5]]);
            assert!([0, LOAD_IN_PROGRESS].contains(&code), "the broker gives an id: error code {code}");
            (code == 0).then(|| i64::from_be_bytes(answer[6..14].try_into().expect("eight bytes")))
        })
    }

    /// Sends one record of a producer; the error code and the offset that are answered.
    pub fn produce(
        &mut self,
        (topic, partition): (&str, i32),
        (id, epoch): (i64, i16),
        sequence: i32,
    ) -> (i16, i64) {
        let batch = BatchBuilder::at(0).records(1, 100).timestamps(now_ms(), now_ms());
        let batch = batch.leader_epoch(-1).producer(id, epoch, sequence).build();
        let answer = self.ask(PRODUCE, |writer| {
            writer.raw(&(-1_i16).to_be_bytes());
            // All in-sync replicas.
            writer.raw(&(-1_i16).to_be_bytes());
            writer.i32(TIMEOUT_MS);
            writer.array_length(false, 1);
            writer.string(false, topic);
            writer.array_length(false, 1);
            writer.i32(partition);
            writer.i32(i32::try_from(batch.len()).expect("a small batch"));
            writer.raw(&batch);
        });
        // One topic, its name, one partition, its index.
        let at = 4 + 2 + topic.len() + 4 + 4;
        let code = i16::from_be_bytes(answer[at..at + 2].try_into().expect("two bytes"));
        (code, i64::from_be_bytes(answer[at + 2..at + 10].try_into().expect("eight bytes")))
    }

    fn ask(&mut self, (key, version): (i16, i16), body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut writer = Writer::start(&mut frame);
        writer.request_header(key, version, 1, "raw-producer", false);
        body(&mut writer);
        writer.finish();
        self.stream.write_all(&frame).expect("the broker reads");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer).expect("the broker answers whole");
        // The correlation id.
        answer.split_off(4)
    }
}

/// Brokers forget producers whose last record is old.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_millis()).expect("before the year 292 million")
}
