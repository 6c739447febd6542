//! The role of the floor: what any program must at least do with the same bytes on the same ring.
//!
//! ```text
//!   one socket ─▶ receive 1 MiB, whole ─▶ CRC-32C ─▶ O_DIRECT write of 1 MiB, 8 under way ─▶ one sync
//!                                              └──▶ send to each sink, one piece at a time
//! ```
//! No Kafka, no batches, no indexes, no checkpoint; one preallocated file. Its process is accounted whole, as the
//! mirror's is. Invariant: a piece is received into again only after its write and all its sends have completed.

use crate::children::{self, Cores, Role};
use crate::error::BenchError;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;
use twinlog_io::{
    AnyEngine, Completion, Engine, EngineOptions, EnginePreference, FileKey, Job, Operation, Outcome,
    SocketKey, Span, Step, Token, open_engine, pin_current_thread, process_usage,
};

const PIECE_BYTES: u32 = 1 << 20;
/// One more than are written at a time, so that a receive never waits for a disk that keeps up.
const PIECES: usize = 9;
/// Where the request for bytes is put: behind the pieces.
const REQUEST: Span = Span { start: PIECES as u64 * PIECE_BYTES as u64, length: 8 };
const FILE: FileKey = FileKey(0);
const SOCKET: SocketKey = SocketKey(0);
/// Sends to the first sink; those to the others follow.
const SEND: u64 = 1 << 32;
const RECEIVE: Token = Token(u64::MAX);
const ALONE: Token = Token(u64::MAX - 1);

/// What the floor costs.
#[derive(Clone, Copy, Debug)]
pub struct FloorRun {
    pub bytes: u64,
    /// From the process's start to the sync.
    pub seconds: f64,
    /// From the first byte to the last write.
    pub stream_seconds: f64,
    pub user_seconds: f64,
    pub system_seconds: f64,
}

impl FloorRun {
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Receives at least so many bytes from a raw sender into a file, and sends them on to each of the sinks.
pub fn run(
    cores: Cores,
    sender: &str,
    bytes: u64,
    file: &Path,
    sinks: &[String],
) -> Result<FloorRun, BenchError> {
    let bytes = bytes.next_multiple_of(u64::from(PIECE_BYTES));
    let file = file.to_string_lossy().into_owned();
    let own = [cores.data.to_string(), cores.control.to_string(), sender.to_owned(), bytes.to_string(), file];
    let words = [&own, sinks].concat();
    let figures = children::numbers(Role::Floor, &children::run(Role::Floor, &words, |_| Ok(()))?, 4)?;
    Ok(FloorRun {
        bytes,
        seconds: figures[0],
        stream_seconds: figures[1],
        user_seconds: figures[2],
        system_seconds: figures[3],
    })
}

/// See the file's header. Words: data core, core of the kernel's workers, sender, bytes, file, sinks.
pub fn play(words: &[String]) -> Result<(), BenchError> {
    let started = Instant::now();
    let refused = || BenchError::Answer { role: Role::Floor.name(), answer: words.join(" ") };
    let [data, workers, sender, bytes, path, sinks @ ..] = words else { return Err(refused()) };
    let number = |word: &String| word.parse::<u64>().map_err(|_| refused());
    let (data, workers, bytes) = (number(data)? as usize, number(workers)? as usize, number(bytes)?);
    let sender: SocketAddr = sender.parse().map_err(|_| refused())?;
    let sinks: Result<Vec<SocketAddr>, _> = sinks.iter().map(|sink| sink.parse()).collect();
    let sinks = sinks.map_err(|_| refused())?;
    let path = PathBuf::from(path);
    // A refused pin shows in the figures, not in the result.
    let _ = pin_current_thread(&[data]);
    let options = EngineOptions {
        arena_bytes: REQUEST.start + u64::from(PIECE_BYTES),
        helper_cores: vec![workers],
        ..EngineOptions::default()
    };
    let (engine, _) = open_engine(&options, EnginePreference::Auto).map_err(BenchError::Engine)?;
    let mut floor = Floor {
        engine,
        free: (0..PIECES).collect(),
        uses: [0; PIECES],
        sinks: Vec::new(),
        filling: None,
        position: 0,
        receive_left_bytes: bytes,
        write_left_bytes: bytes,
        checksums: 0,
    };
    floor.prepare(sender, bytes, &path, &sinks)?;
    let streaming = Instant::now();
    floor.relay()?;
    let stream_seconds = streaming.elapsed().as_secs_f64();
    floor.alone("the sync", Operation::Sync { file: FILE })?;
    let (seconds, usage) = (started.elapsed().as_secs_f64(), process_usage().map_err(BenchError::Usage)?);
    let (user, system) = (usage.user_microseconds as f64 / 1e6, usage.system_microseconds as f64 / 1e6);
    println!("{seconds} {stream_seconds} {user} {system} checksums {:08x}", floor.checksums);
    Ok(())
}

/// Somebody who gets all pieces.
#[derive(Default)]
struct Sink {
    /// Pieces, and what of each is still to be sent. The one in front is under way.
    queue: VecDeque<(usize, Span)>,
    sent_bytes: u64,
}

struct Floor {
    engine: AnyEngine,
    free: Vec<usize>,
    /// Writes and sends of each piece that are not over.
    uses: [usize; PIECES],
    sinks: Vec<Sink>,
    /// The piece that is received into, and how much of it has come.
    filling: Option<(usize, u32)>,
    position: u64,
    receive_left_bytes: u64,
    write_left_bytes: u64,
    /// Printed at the end, so that no checksum can be left out as unused.
    checksums: u32,
}

impl Floor {
    fn prepare(
        &mut self,
        sender: SocketAddr,
        bytes: u64,
        path: &Path,
        sinks: &[SocketAddr],
    ) -> Result<(), BenchError> {
        let path = path.to_path_buf();
        let steps = vec![
            Step::Open { file: FILE, path: path.clone(), create: true, direct: true },
            Step::Allocate { path, length: bytes },
        ];
        self.alone("the file", Operation::Job(Job::new(steps)))?;
        self.alone("the connection", Operation::Connect { socket: SOCKET, address: sender })?;
        for address in sinks {
            let socket = Self::socket_of(self.sinks.len());
            self.alone("the connection to a sink", Operation::Connect { socket, address: *address })?;
            self.sinks.push(Sink::default());
        }
        self.engine.arena_mut().bytes_mut(REQUEST).copy_from_slice(&bytes.to_be_bytes());
        self.alone("the request", Operation::Send { socket: SOCKET, from: REQUEST })
    }

    /// One operation while no other is under way.
    fn alone(&mut self, what: &'static str, operation: Operation) -> Result<(), BenchError> {
        self.engine.submit(ALONE, operation);
        let mut completions = Vec::new();
        while completions.is_empty() {
            self.engine.wait(None, &mut completions).map_err(BenchError::Engine)?;
        }
        match completions.remove(0).outcome {
            Outcome::Done(_) => Ok(()),
            Outcome::Job(outcome) if outcome.failed.is_none() => Ok(()),
            outcome => Err(BenchError::Operation { what, outcome: Box::new(outcome) }),
        }
    }

    fn relay(&mut self) -> Result<(), BenchError> {
        self.receive();
        let mut completions = Vec::new();
        let bytes = self.write_left_bytes;
        while self.write_left_bytes > 0 || self.sinks.iter().any(|sink| sink.sent_bytes < bytes) {
            self.engine.wait(None, &mut completions).map_err(BenchError::Engine)?;
            for Completion { token, outcome } in completions.drain(..) {
                match outcome {
                    Outcome::Done(count) if token == RECEIVE && count > 0 => self.received(count),
                    Outcome::Done(count) if token != RECEIVE && token.0 >= SEND && count > 0 => {
                        self.sent((token.0 - SEND) as usize, count);
                    }
                    Outcome::Done(PIECE_BYTES) if token.0 < SEND => self.written(token.0 as usize),
                    outcome => {
                        let what = if token == RECEIVE { "a receive" } else { "a write or a send" };
                        return Err(BenchError::Operation { what, outcome: Box::new(outcome) });
                    }
                }
            }
        }
        Ok(())
    }

    fn piece(index: usize) -> Span {
        Span { start: index as u64 * u64::from(PIECE_BYTES), length: PIECE_BYTES }
    }

    fn receive(&mut self) {
        if self.filling.is_some() || self.receive_left_bytes == 0 {
            return;
        }
        let Some(index) = self.free.pop() else { return };
        self.filling = Some((index, 0));
        let into = Self::piece(index);
        self.engine.submit(RECEIVE, Operation::Receive { socket: SOCKET, into, fill: true });
    }

    fn received(&mut self, count: u32) {
        let (index, filled) = self.filling.take().expect("a receive was under way");
        let filled = filled + count;
        self.receive_left_bytes -= u64::from(count);
        let piece = Self::piece(index);
        if filled < PIECE_BYTES {
            self.filling = Some((index, filled));
            let into = piece.after(filled);
            return self.engine.submit(RECEIVE, Operation::Receive { socket: SOCKET, into, fill: true });
        }
        self.checksums ^= crc_fast::crc32_iscsi(self.engine.arena().bytes(piece));
        let write = Operation::Write { file: FILE, position: self.position, from: piece };
        self.engine.submit(Token(index as u64), write);
        self.position += u64::from(PIECE_BYTES);
        self.uses[index] = 1 + self.sinks.len();
        for sink in 0..self.sinks.len() {
            self.sinks[sink].queue.push_back((index, piece));
            if self.sinks[sink].queue.len() == 1 {
                self.send(sink);
            }
        }
        self.receive();
    }

    fn written(&mut self, index: usize) {
        self.write_left_bytes -= u64::from(PIECE_BYTES);
        self.used(index);
    }

    fn used(&mut self, index: usize) {
        self.uses[index] -= 1;
        if self.uses[index] == 0 {
            self.free.push(index);
            self.receive();
        }
    }

    fn socket_of(sink: usize) -> SocketKey {
        SocketKey(SOCKET.0 + 1 + sink as u32)
    }

    fn send(&mut self, sink: usize) {
        let Some((_, from)) = self.sinks[sink].queue.front().copied() else { return };
        let token = Token(SEND + sink as u64);
        self.engine.submit(token, Operation::Send { socket: Self::socket_of(sink), from });
    }

    fn sent(&mut self, sink: usize, count: u32) {
        let own = &mut self.sinks[sink];
        own.sent_bytes += u64::from(count);
        let (index, rest) = own.queue.pop_front().expect("a send was under way");
        if count < rest.length {
            own.queue.push_front((index, rest.after(count)));
        }
        self.send(sink);
        if count == rest.length {
            self.used(index);
        }
    }
}
