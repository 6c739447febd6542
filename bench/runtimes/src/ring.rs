//! The product's own engine: one arena, operations by value, registered buffers.

use crate::task::{PIECE_BYTES, Task, WRITES, checksum};
use std::io;
use twinlog_io::{
    AnyEngine, Completion, Engine, EngineOptions, EnginePreference, FileKey, Job, Operation, Outcome,
    SocketKey, Span, Step, Token, open_engine,
};

const PIECE: u32 = PIECE_BYTES as u32;
const PIECES: usize = WRITES + 1;
/// Behind the pieces.
const REQUEST: Span = Span { start: (PIECES * PIECE_BYTES) as u64, length: 8 };
const FILE: FileKey = FileKey(0);
const SOCKET: SocketKey = SocketKey(0);
const RECEIVE: Token = Token(u64::MAX);
const ALONE: Token = Token(u64::MAX - 1);

struct Loop {
    engine: AnyEngine,
    free: Vec<usize>,
    /// The piece that is received into, and what of it is still to come.
    filling: Option<(usize, Span)>,
    /// Pieces that have not been asked for, and the next one's place in the file.
    left: u64,
    position: u64,
    checksums: u64,
}

pub fn run(task: &Task) -> io::Result<u64> {
    let arena_bytes = REQUEST.start + PIECE_BYTES as u64;
    let options = EngineOptions { arena_bytes, ..EngineOptions::default() };
    let (engine, _) = open_engine(&options, EnginePreference::Ring).map_err(io::Error::other)?;
    let (free, left) = ((0..PIECES).collect(), task.pieces());
    let mut own = Loop { engine, free, filling: None, left, position: 0, checksums: 0 };
    let open = Step::Open { file: FILE, path: task.path.clone(), create: false, direct: true };
    own.alone(Operation::Job(Job::new(vec![open])))?;
    own.alone(Operation::Connect { socket: SOCKET, address: task.sender })?;
    own.engine.arena_mut().bytes_mut(REQUEST).copy_from_slice(&task.bytes.to_be_bytes());
    own.alone(Operation::Send { socket: SOCKET, from: REQUEST })?;
    own.relay(task.pieces())?;
    own.alone(Operation::Sync { file: FILE })?;
    Ok(own.checksums)
}

fn span(index: usize) -> Span {
    Span { start: (index * PIECE_BYTES) as u64, length: PIECE }
}

fn failed(outcome: &Outcome) -> io::Error {
    io::Error::other(format!("an operation ended with {outcome:?}"))
}

impl Loop {
    /// One operation while no other is under way.
    fn alone(&mut self, operation: Operation) -> io::Result<()> {
        self.engine.submit(ALONE, operation);
        let mut completions = Vec::new();
        while completions.is_empty() {
            self.engine.wait(None, &mut completions).map_err(io::Error::other)?;
        }
        match &completions[0].outcome {
            Outcome::Done(_) => Ok(()),
            Outcome::Job(outcome) if outcome.failed.is_none() => Ok(()),
            outcome => Err(failed(outcome)),
        }
    }

    fn relay(&mut self, mut unwritten: u64) -> io::Result<()> {
        self.receive();
        let mut completions = Vec::new();
        while unwritten > 0 {
            self.engine.wait(None, &mut completions).map_err(io::Error::other)?;
            for Completion { token, outcome } in completions.drain(..) {
                match outcome {
                    Outcome::Done(count) if token == RECEIVE && count > 0 => self.received(count),
                    Outcome::Done(PIECE) if token != RECEIVE => {
                        unwritten -= 1;
                        self.free.push(token.0 as usize);
                    }
                    outcome => return Err(failed(&outcome)),
                }
            }
            self.receive();
        }
        Ok(())
    }

    fn receive(&mut self) {
        if self.filling.is_some() || self.left == 0 {
            return;
        }
        let Some(index) = self.free.pop() else { return };
        self.left -= 1;
        self.receive_into(index, span(index));
    }

    fn receive_into(&mut self, index: usize, into: Span) {
        self.filling = Some((index, into));
        self.engine.submit(RECEIVE, Operation::Receive { socket: SOCKET, into, fill: true });
    }

    fn received(&mut self, count: u32) {
        let (index, into) = self.filling.take().expect("a receive was under way");
        if count < into.length {
            return self.receive_into(index, into.after(count));
        }
        self.checksums += checksum(self.engine.arena().bytes(span(index)));
        let write = Operation::Write { file: FILE, position: self.position, from: span(index) };
        self.engine.submit(Token(index as u64), write);
        self.position += PIECE_BYTES as u64;
    }
}
