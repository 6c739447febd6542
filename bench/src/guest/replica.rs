//! A follower without a disk: fetches as a stock broker does, checks lengths, and throws the bytes away.
//!
//! ```text
//!   Fetch v18, one connection, one request at a time: everything first, then what moved (a session)
//!   answer ─▶ decoder ─▶ batch heads: offset and length ─▶ the next fetch's offset; the rest is not looked at
//! ```
//! Sizes and waits are a stock broker's defaults. Invariant: a partition's next fetch begins behind the last
//! whole batch that came.

use crate::error::BenchError;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_sync::wire::Writer;
use twinlog_sync::wire::fetch_response::{Event, FetchDecoder};

/// replica.fetch.wait.max.ms, replica.fetch.response.max.bytes, replica.fetch.max.bytes.
const WAIT_MAX_MS: i32 = 500;
const RESPONSE_BYTES_MAX: i32 = 10 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
const FETCH: i16 = 1;
/// The version of the request; its answer is that of 17.
const REQUEST_VERSION: i16 = 18;
const ANSWER_VERSION: i16 = 17;
const FRAME_BYTES_MAX: u32 = 64 << 20;
/// One read of the socket.
const READ_BYTES: usize = 1 << 20;
/// After an answer with errors: the leader is not ready yet.
const PAUSE: Duration = Duration::from_millis(10);
/// Our epoch is lower than the leader's.
const FENCED_LEADER_EPOCH: i16 = 74;
/// What a batch says of itself in front: base offset, length, and further on its last offset.
const HEAD_BYTES: usize = 27;
const BATCH_LENGTH_END: usize = 12;

/// Who follows what.
#[derive(Clone, Debug)]
pub struct Follows {
    pub broker: i32,
    pub broker_epoch: i64,
    pub topic_id: [u8; 16],
    pub partitions: u32,
    pub guest: String,
}

/// Cuts a records field into batches as it arrives.
#[derive(Default)]
struct Batches {
    head: Vec<u8>,
    /// Of the batch whose head is known.
    left_bytes: usize,
}

impl Batches {
    /// Calls `found` with base offset, offset behind the last record, and size of each batch that ends here.
    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(i64, i64, u64)) {
        while !bytes.is_empty() {
            if self.head.len() < HEAD_BYTES {
                let taken = (HEAD_BYTES - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                if self.head.len() < HEAD_BYTES {
                    return;
                }
                self.left_bytes = (self.whole_bytes() as usize).saturating_sub(HEAD_BYTES);
            }
            let taken = self.left_bytes.min(bytes.len());
            self.left_bytes -= taken;
            bytes = &bytes[taken..];
            if self.left_bytes == 0 {
                let base = i64::from_be_bytes(self.head[..8].try_into().expect("eight bytes"));
                let delta = i32::from_be_bytes(self.head[23..].try_into().expect("four bytes"));
                found(base, base + i64::from(delta) + 1, self.whole_bytes());
                self.head.clear();
            }
        }
    }

    fn whole_bytes(&self) -> u64 {
        let length = self.head[8..BATCH_LENGTH_END].try_into().expect("four bytes");
        u64::from(u32::from_be_bytes(length)) + BATCH_LENGTH_END as u64
    }

    /// Whether a batch is cut off.
    fn is_inside(&self) -> bool {
        !self.head.is_empty()
    }
}

#[derive(Clone, Copy)]
struct Position {
    leader_epoch: i32,
    end: i64,
    moved: bool,
}

/// See the file's header.
pub struct Replica {
    follows: Follows,
    stream: TcpStream,
    decoder: FetchDecoder,
    positions: Vec<Position>,
    session: (i32, i32),
    correlation_id: i32,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Replica {
    pub fn connect(follows: Follows) -> Result<Replica, BenchError> {
        let failed = |error| BenchError::Peer {
            what: "a follower's connection",
            server: follows.guest.clone(),
            error,
        };
        let stream = TcpStream::connect(&follows.guest).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let start = Position { leader_epoch: 0, end: 0, moved: true };
        Ok(Replica {
            stream,
            decoder: FetchDecoder::new(ANSWER_VERSION, FRAME_BYTES_MAX),
            positions: vec![start; follows.partitions as usize],
            session: (0, 0),
            correlation_id: 0,
            request: Vec::new(),
            buffer: vec![0; READ_BYTES],
            follows,
        })
    }

    /// One Fetch and its answer. Tells every batch: partition, base offset, size.
    pub fn fetch(&mut self, found: &mut impl FnMut(u32, i64, u64)) -> Result<(), BenchError> {
        self.ask()?;
        let failed = self.read(found)?;
        if failed {
            // Asked for everything anew.
            self.session = (0, 0);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> BenchError {
        BenchError::Peer { what: "a follower's fetch", server: self.follows.guest.clone(), error }
    }

    fn ask(&mut self) -> Result<(), BenchError> {
        let (session_id, session_epoch) = self.session;
        self.correlation_id += 1;
        self.request.clear();
        let mut writer = Writer::start(&mut self.request);
        writer.request_header(FETCH, REQUEST_VERSION, self.correlation_id, "memory-only", true);
        writer.i32(WAIT_MAX_MS);
        writer.i32(1);
        writer.i32(RESPONSE_BYTES_MAX);
        writer.i8(0);
        writer.i32(session_id);
        writer.i32(session_epoch);
        let is_asked = |position: &Position| session_epoch == 0 || position.moved;
        let count = self.positions.iter().filter(|position| is_asked(position)).count();
        writer.array_length(true, count.min(1));
        if count > 0 {
            writer.raw(&self.follows.topic_id);
            writer.array_length(true, count);
            for (index, position) in self.positions.iter_mut().enumerate() {
                if !is_asked(position) {
                    continue;
                }
                position.moved = false;
                writer.i32(index as i32);
                writer.i32(position.leader_epoch);
                writer.i64(position.end);
                // Every batch of these logs is stamped with 0.
                writer.i32(if position.end == 0 { LeaderEpoch::UNKNOWN.0 } else { 0 });
                writer.i64(0);
                writer.i32(PARTITION_BYTES_MAX);
                writer.no_tags(true);
            }
            writer.no_tags(true);
        }
        writer.array_length(true, 0);
        writer.string(true, "");
        // One tag, number 1, of 13 bytes: who asks.
        writer.raw(&[1, 1, 13]);
        writer.i32(self.follows.broker);
        writer.i64(self.follows.broker_epoch);
        writer.no_tags(true);
        writer.finish();
        self.decoder.expect(self.correlation_id);
        self.stream.write_all(&self.request).map_err(|error| self.failed(error))
    }

    /// Reads one answer; whether a part of it was an error.
    fn read(&mut self, found: &mut impl FnMut(u32, i64, u64)) -> Result<bool, BenchError> {
        let malformed = BenchError::Malformed { what: "Fetch" };
        let (mut failed, mut batches) = (false, Batches::default());
        let mut at = 0_usize;
        // What is in front of the buffer and not understood yet.
        let mut held = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[held..]);
            let count = count.map_err(|error| self.failed(error))?;
            let end = held + count;
            if count == 0 {
                return Err(self.failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let mut from = 0;
            loop {
                let records = (self.decoder.records_left() as usize).min(end - from);
                if records > 0 {
                    let position = &mut self.positions[at];
                    batches.feed(&self.buffer[from..from + records], |base, next, bytes| {
                        (position.end, position.moved) = (next, true);
                        found(at as u32, base, bytes);
                    });
                    self.decoder.take_records(records as u32);
                    from += records;
                }
                let decoded = self.decoder.decode(&self.buffer[from..end]);
                let Ok((consumed, event)) = decoded else { return Err(malformed) };
                from += consumed;
                match event {
                    None if self.decoder.records_left() > 0 && from < end => {}
                    None => break,
                    Some(Event::Response { error, session_id, .. }) => {
                        failed |= error != 0;
                        self.session = (session_id, self.session.1 + 1);
                    }
                    Some(Event::Partition(head)) => {
                        at = head.index as usize;
                        let Some(position) = self.positions.get_mut(at) else { return Err(malformed) };
                        failed |= head.error != 0;
                        position.leader_epoch += i32::from(head.error == FENCED_LEADER_EPOCH);
                    }
                    Some(Event::PartitionEnd(_)) if batches.is_inside() => return Err(malformed),
                    Some(Event::End) => return Ok(failed),
                    Some(Event::Topic | Event::PartitionEnd(_)) => {}
                }
            }
            self.buffer.copy_within(from..end, 0);
            held = end - from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::testing::BatchBuilder;

    #[test]
    fn batches_are_found_whatever_pieces_they_come_in() {
        let bytes: Vec<u8> =
            [0, 5, 9].iter().flat_map(|base| BatchBuilder::at(*base).records(2, 100).build()).collect();
        for piece in [1, 7, 26, 27, 100, bytes.len()] {
            let (mut batches, mut found, mut sum) = (Batches::default(), Vec::new(), 0);
            for part in bytes.chunks(piece) {
                batches.feed(part, |base, next, size| {
                    found.push((base, next));
                    sum += size;
                });
            }
            assert_eq!(found, [(0, 2), (5, 7), (9, 11)], "pieces of {piece}");
            assert!(!batches.is_inside() && sum == bytes.len() as u64);
        }
    }
}
