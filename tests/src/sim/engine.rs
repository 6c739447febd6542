//! The third engine: operations complete in any order, late, short or not at all, by a seed.
//!
//! ```text
//!   submit --> due at now + chance --> wait: the clock jumps to the next due moment --> completion
//!   sockets: bytes of the network arrive in pieces     files: writes land when they complete
//!   jobs: one after the other, steps in order          die(): what is in flight tears
//! ```
//! It drives the shard of the product, unchanged. The clock moves only inside `wait`, and never by more
//! than [`JUMP_MAX`], so that the world around it gets its turn. A wait without a deadline and with nothing
//! in flight would last for ever; it is counted, and the world asks whether the shard had work to do.

use super::disk::SimulatedDisk;
use super::network::{Arrival, Network};
use super::random::Random;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use twinlog_io::{
    Access, Arena, Completion, Disk, Engine, EngineError, FileKey, Job, Loan, Operation, Outcome, SocketKey,
    Step, StepOutput, SystemError, Token, Waker,
};

/// The clock never jumps further in one wait: the world looks at its own plans in between.
pub const JUMP_MAX: u64 = 20_000_000;

/// The clock and the network, shared by the engine and the world around it.
pub struct Surroundings {
    pub now: u64,
    pub random: Random,
    pub network: Network,
}

struct InFlight {
    token: Token,
    operation: Operation,
    due: u64,
    loan: Option<Loan>,
    /// Changes that a sync covers.
    covered: usize,
}

/// See the file's header.
pub struct SimulatedEngine {
    arena: Arena,
    waker: Waker,
    disk: SimulatedDisk,
    surroundings: Rc<RefCell<Surroundings>>,
    in_flight: Vec<InFlight>,
    jobs: VecDeque<(Token, Job, u64)>,
    files: BTreeMap<FileKey, PathBuf>,
    sockets: BTreeMap<SocketKey, u64>,
    /// Waits that nothing but a wake could have ended.
    pub endless_waits: u64,
}

impl SimulatedEngine {
    pub fn new(arena_bytes: u64, disk: SimulatedDisk, surroundings: Rc<RefCell<Surroundings>>) -> Self {
        Self {
            arena: Arena::new(arena_bytes).expect("memory for a small arena"),
            waker: Waker::new().expect("an eventfd"),
            disk,
            surroundings,
            in_flight: Vec::new(),
            jobs: VecDeque::new(),
            files: BTreeMap::new(),
            sockets: BTreeMap::new(),
            endless_waits: 0,
        }
    }

    fn around(&self) -> RefMut<'_, Surroundings> {
        self.surroundings.borrow_mut()
    }

    fn look(&self) -> Ref<'_, Surroundings> {
        self.surroundings.borrow()
    }

    /// The process is killed now: writes in flight tear, the job under way stops at any step.
    pub fn die(&mut self) {
        let mut random = Random::new(self.around().random.number());
        for flight in std::mem::take(&mut self.in_flight) {
            if let Operation::Write { file, position, from } = flight.operation {
                let bytes = self.arena.bytes(from).to_vec();
                self.disk.write_torn(&self.files[&file], position, &bytes, &mut random);
            }
            if let Some(loan) = flight.loan {
                self.arena.give_back(loan);
            }
        }
        if let Some((_, job, _)) = self.jobs.pop_front() {
            let done = random.below(job.steps.len() as u64 + 1) as usize;
            for step in job.steps.iter().take(done) {
                // Nobody is left to hear whether it failed.
                let _ = self.run_step(step);
            }
        }
        for (_, connection) in std::mem::take(&mut self.sockets) {
            self.around().network.close(connection);
        }
    }

    fn run_step(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        match step {
            Step::Open { file, path, create, direct } => {
                let length = self.disk.open(path, *create)?;
                assert!(self.files.insert(*file, path.clone()).is_none(), "file key {file:?} is open");
                Ok(StepOutput::Opened { direct: *direct, length })
            }
            step => self.disk.run(step),
        }
    }

    fn delay(&self, operation: &Operation) -> u64 {
        let random = &mut self.around().random;
        let usual = match operation {
            Operation::Receive { .. } | Operation::Send { .. } => 100_000,
            Operation::Sync { .. } | Operation::Job(_) => 5_000_000,
            _ => 1_000_000,
        };
        let slow = if random.one_in(50) { 20 } else { 1 };
        random.below(usual * slow) + 1
    }

    /// Completes one operation that is due, if it can complete; `None` leaves it in flight.
    fn complete(&mut self, index: usize) -> Option<Completion> {
        let operation = self.in_flight[index].operation.clone();
        let outcome = match operation {
            Operation::Connect { socket, address } => {
                let connection = self.around().network.connect(address)?;
                match connection {
                    Ok(connection) => {
                        self.sockets.insert(socket, connection);
                        Outcome::Done(0)
                    }
                    Err(error) => Outcome::Failed(error),
                }
            }
            Operation::Receive { socket, into, fill } => self.receive(index, socket, into, fill)?,
            Operation::Send { socket, from } => self.send(socket, from),
            Operation::Write { file, position, from } => self.write(file, position, from),
            Operation::Read { file, position, into } => self.read(index, file, position, into),
            Operation::Sync { file } => {
                let covered = self.in_flight[index].covered;
                match self.disk.sync_ends(&self.files[&file], covered) {
                    Ok(()) => Outcome::Done(0),
                    Err(error) => Outcome::Failed(error),
                }
            }
            Operation::CloseFile { file } => {
                if self.others_of_file(index, file) {
                    return None;
                }
                self.files.remove(&file);
                Outcome::Done(0)
            }
            Operation::CloseSocket { socket } => {
                if let Some(other) = self.other_of_socket(index, socket) {
                    // It completes first, with nothing.
                    let token = self.take(other).token;
                    return Some(Completion { token, outcome: Outcome::Failed(SystemError::CANCELED) });
                }
                if let Some(connection) = self.sockets.remove(&socket) {
                    self.around().network.close(connection);
                }
                Outcome::Done(0)
            }
            Operation::Job(_) => panic!("jobs have a queue of their own"),
        };
        Some(Completion { token: self.take(index).token, outcome })
    }

    fn take(&mut self, index: usize) -> InFlight {
        let mut flight = self.in_flight.swap_remove(index);
        if let Some(loan) = flight.loan.take() {
            self.arena.give_back(loan);
        }
        flight
    }

    fn receive(
        &mut self,
        index: usize,
        socket: SocketKey,
        into: twinlog_io::Span,
        fill: bool,
    ) -> Option<Outcome> {
        let connection = *self.sockets.get(&socket)?;
        let short = self.around().random.one_in(20);
        let now = self.look().now;
        let wanted = into.length as usize;
        let least = if fill && !short { wanted } else { 1 };
        let arrival = self.around().network.receive(connection, now, least, wanted);
        match arrival {
            Arrival::Nothing => None,
            Arrival::Closed => Some(Outcome::Done(0)),
            Arrival::Reset => Some(Outcome::Failed(SystemError::CONNECTION_RESET)),
            Arrival::Bytes(bytes) => {
                let loan = self.in_flight[index].loan.take().expect("a receive holds its span");
                self.arena.give_back(loan);
                let span = twinlog_io::Span { start: into.start, length: bytes.len() as u32 };
                self.arena.bytes_mut(span).copy_from_slice(&bytes);
                Some(Outcome::Done(bytes.len() as u32))
            }
        }
    }

    fn send(&mut self, socket: SocketKey, from: twinlog_io::Span) -> Outcome {
        let Some(connection) = self.sockets.get(&socket).copied() else {
            return Outcome::Failed(SystemError::BROKEN_PIPE);
        };
        let mut around = self.around();
        let short = around.random.one_in(10);
        let length = if short { around.random.below(u64::from(from.length)) as u32 + 1 } else { from.length };
        drop(around);
        let bytes = self.arena.bytes(twinlog_io::Span { start: from.start, length }).to_vec();
        let now = self.look().now;
        let sent = self.around().network.send(connection, now, &bytes);
        match sent {
            true => Outcome::Done(length),
            false => Outcome::Failed(SystemError::BROKEN_PIPE),
        }
    }

    fn write(&mut self, file: FileKey, position: u64, from: twinlog_io::Span) -> Outcome {
        let aligned = [position, from.start, u64::from(from.length)];
        assert!(aligned.iter().all(|each| each.is_multiple_of(4096)), "unaligned write");
        let blocks = u64::from(from.length) / 4096;
        let mut around = self.around();
        let length = match blocks > 1 && around.random.one_in(20) {
            true => (around.random.below(blocks - 1) as u32 + 1) * 4096,
            false => from.length,
        };
        drop(around);
        let bytes = self.arena.bytes(twinlog_io::Span { start: from.start, length }).to_vec();
        match self.disk.write(&self.files[&file], position, &bytes) {
            Ok(()) => Outcome::Done(length),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn read(&mut self, index: usize, file: FileKey, position: u64, into: twinlog_io::Span) -> Outcome {
        let loan = self.in_flight[index].loan.take().expect("a read holds its span");
        self.arena.give_back(loan);
        match self.disk.read(&self.files[&file], position, into.length as usize) {
            Ok(bytes) => {
                let span = twinlog_io::Span { start: into.start, length: bytes.len() as u32 };
                self.arena.bytes_mut(span).copy_from_slice(&bytes);
                Outcome::Done(bytes.len() as u32)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    fn others_of_file(&self, index: usize, file: FileKey) -> bool {
        self.in_flight.iter().enumerate().any(|(other, flight)| {
            other != index
                && matches!(flight.operation, Operation::Write { file: it, .. } | Operation::Read { file: it, .. } | Operation::Sync { file: it } if it == file)
        })
    }

    fn other_of_socket(&self, index: usize, socket: SocketKey) -> Option<usize> {
        self.in_flight.iter().enumerate().position(|(other, flight)| {
            other != index
                && matches!(flight.operation, Operation::Connect { socket: it, .. } | Operation::Receive { socket: it, .. } | Operation::Send { socket: it, .. } if it == socket)
        })
    }

    fn complete_job(&mut self) -> Option<Completion> {
        let now = self.look().now;
        if self.jobs.front().is_none_or(|(_, _, due)| *due > now) {
            return None;
        }
        let (token, job, _) = self.jobs.pop_front().expect("seen just now");
        let opened: Vec<FileKey> = job
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Open { file, .. } => Some(*file),
                _ => None,
            })
            .collect();
        let outcome = job.run(|step| self.run_step(step));
        if outcome.failed.is_some() {
            opened.iter().for_each(|file| {
                self.files.remove(file);
            });
        }
        Some(Completion { token, outcome: Outcome::Job(outcome) })
    }

    fn next_due(&self) -> Option<u64> {
        let flights =
            self.in_flight.iter().map(|flight| flight.due).filter(|due| *due > self.look().now).min();
        let job = self.jobs.front().map(|(_, _, due)| *due);
        let network = self.look().network.next_arrival(self.look().now);
        [flights, job, network].into_iter().flatten().min()
    }
}

impl Engine for SimulatedEngine {
    fn now(&self) -> u64 {
        self.look().now
    }

    fn wall_clock_ms(&self) -> i64 {
        (self.look().now / 1_000_000) as i64
    }

    fn submit(&mut self, token: Token, operation: Operation) {
        let delay = self.delay(&operation);
        let due = self.look().now + delay;
        if let Operation::Job(job) = operation {
            let after = self.jobs.back().map_or(0, |(_, _, due)| *due);
            self.jobs.push_back((token, job, due.max(after)));
            return;
        }
        let loan = match &operation {
            Operation::Receive { into, .. } | Operation::Read { into, .. } => {
                Some(self.arena.lend(*into, Access::KernelWrites))
            }
            Operation::Send { from, .. } | Operation::Write { from, .. } => {
                Some(self.arena.lend(*from, Access::KernelReads))
            }
            _ => None,
        };
        let covered = match &operation {
            Operation::Sync { file } => self.disk.sync_begins(&self.files[file]),
            _ => 0,
        };
        self.in_flight.push(InFlight { token, operation, due, loan, covered });
    }

    fn wait(&mut self, until: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), EngineError> {
        if until.is_none() && self.in_flight() == 0 {
            self.endless_waits += 1;
        }
        for _ in 0..2 {
            let now = self.look().now;
            self.around().network.serve(now);
            let ready: Vec<Token> =
                self.in_flight.iter().filter(|flight| flight.due <= now).map(|flight| flight.token).collect();
            for token in ready {
                if let Some(index) = self.in_flight.iter().position(|flight| flight.token == token) {
                    completions.extend(self.complete(index));
                }
            }
            completions.extend(self.complete_job());
            if !completions.is_empty() || self.waker.take() {
                return Ok(());
            }
            let limit = until.unwrap_or(u64::MAX).min(now + JUMP_MAX).max(now);
            let next = self.next_due().unwrap_or(u64::MAX).clamp(now + 1, limit.max(now + 1));
            if until.is_some_and(|until| until <= now) {
                return Ok(());
            }
            self.around().now = next;
        }
        Ok(())
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len() + self.jobs.len()
    }
}
