//! The third engine: operations complete in any order, late, short or not at all, by a seed.
//!
//! ```text
//!   submit --> due at now + chance --> wait: the clock jumps to the next due moment --> completion
//!   sockets: bytes of the network arrive in pieces     files: writes land when they complete
//!   listeners: who dials the network is accepted
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
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use twinlog_io::{
    Access, Arena, Completion, Disk, Engine, EngineError, FileKey, GATHER_SPANS_MAX, Job, Loan, Operation,
    Outcome, SocketKey, Step, StepOutput, SystemError, Token, Waker,
};

/// The clock never jumps further in one wait: the world looks at its own plans in between.
pub const JUMP_MAX: u64 = 20_000_000;

/// The clock and the network, shared by the engine and the world around it.
pub struct Surroundings {
    pub now: u64,
    pub random: Random,
    pub network: Network,
    /// Everything the disk does takes so many times as long.
    pub disk_slowness: u64,
}

struct InFlight {
    token: Token,
    operation: Operation,
    due: u64,
    /// One span; several of a gathered send, none of what moves no bytes.
    loans: Vec<Loan>,
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
    listeners: BTreeMap<SocketKey, SocketAddr>,
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
            listeners: BTreeMap::new(),
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
            flight.loans.into_iter().for_each(|loan| self.arena.give_back(loan));
        }
        if let Some((_, job, _)) = self.jobs.pop_front() {
            let done = random.below(job.steps.len() as u64 + 1) as usize;
            for step in job.steps.iter().take(done) {
                // Nobody is left to hear whether it failed.
                let _ = self.run_step(step);
            }
        }
        for (_, address) in std::mem::take(&mut self.listeners) {
            self.around().network.stop_listening(address);
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
        let mut around = self.around();
        let disk_slowness = around.disk_slowness;
        let random = &mut around.random;
        let usual = match operation {
            Operation::Receive { .. } | Operation::Send { .. } | Operation::SendGather { .. } => 100_000,
            Operation::Sync { .. } | Operation::Job(_) => 5_000_000 * disk_slowness,
            Operation::Write { .. } | Operation::Read { .. } => 1_000_000 * disk_slowness,
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
            Operation::Send { socket, from } => self.send(socket, &[from]),
            Operation::SendGather { socket, spans } => self.send(socket, &spans),
            Operation::Listen { listener, address } => {
                let bound = self.around().network.listen(address);
                if let Ok(address) = bound {
                    self.listeners.insert(listener, address);
                }
                bound.map_or_else(Outcome::Failed, Outcome::Address)
            }
            Operation::Accept { listener, socket } => {
                let address = *self.listeners.get(&listener)?;
                let (connection, peer) = self.around().network.accept(address)?;
                self.sockets.insert(socket, connection);
                Outcome::Address(peer)
            }
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
                if let Some(address) = self.listeners.remove(&socket) {
                    self.around().network.stop_listening(address);
                }
                Outcome::Done(0)
            }
            Operation::Job(_) => panic!("jobs have a queue of their own"),
        };
        Some(Completion { token: self.take(index).token, outcome })
    }

    fn take(&mut self, index: usize) -> InFlight {
        let mut flight = self.in_flight.swap_remove(index);
        flight.loans.drain(..).for_each(|loan| self.arena.give_back(loan));
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
                let loan = self.in_flight[index].loans.pop().expect("a receive holds its span");
                self.arena.give_back(loan);
                let span = twinlog_io::Span { start: into.start, length: bytes.len() as u32 };
                self.arena.bytes_mut(span).copy_from_slice(&bytes);
                Some(Outcome::Done(bytes.len() as u32))
            }
        }
    }

    fn send(&mut self, socket: SocketKey, spans: &[twinlog_io::Span]) -> Outcome {
        let Some(connection) = self.sockets.get(&socket).copied() else {
            return Outcome::Failed(SystemError::BROKEN_PIPE);
        };
        let mut bytes = Vec::new();
        spans.iter().for_each(|span| bytes.extend_from_slice(self.arena.bytes(*span)));
        let mut around = self.around();
        if around.random.one_in(10) {
            bytes.truncate(around.random.below(bytes.len() as u64) as usize + 1);
        }
        let now = around.now;
        match around.network.send(connection, now, &bytes) {
            true => Outcome::Done(bytes.len() as u32),
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
        let loan = self.in_flight[index].loans.pop().expect("a read holds its span");
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
            let (one, two) = match flight.operation {
                Operation::Connect { socket, .. }
                | Operation::Receive { socket, .. }
                | Operation::Send { socket, .. }
                | Operation::SendGather { socket, .. } => (Some(socket), None),
                Operation::Listen { listener, .. } => (Some(listener), None),
                Operation::Accept { listener, socket } => (Some(listener), Some(socket)),
                _ => (None, None),
            };
            other != index && (one == Some(socket) || two == Some(socket))
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
        let (lent, access) = match &operation {
            Operation::Receive { into, .. } | Operation::Read { into, .. } => {
                (std::slice::from_ref(into), Access::KernelWrites)
            }
            Operation::Send { from, .. } | Operation::Write { from, .. } => {
                (std::slice::from_ref(from), Access::KernelReads)
            }
            Operation::SendGather { spans, .. } => {
                assert!((1..=GATHER_SPANS_MAX).contains(&spans.len()), "a gather of {} spans", spans.len());
                (&spans[..], Access::KernelReads)
            }
            _ => (&[][..], Access::KernelReads),
        };
        let loans = lent.iter().map(|span| self.arena.lend(*span, access)).collect();
        let covered = match &operation {
            Operation::Sync { file } => self.disk.sync_begins(&self.files[file]),
            _ => 0,
        };
        self.in_flight.push(InFlight { token, operation, due, loans, covered });
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

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_daemon::embedded::Cluster;
    use twinlog_io::Span;

    const LISTENER: SocketKey = SocketKey(0);
    const SOCKET: SocketKey = SocketKey(1);

    fn engine() -> SimulatedEngine {
        let network = Network::new(Cluster::new(1), 7);
        let surroundings = Surroundings { now: 1, random: Random::new(7), network, disk_slowness: 1 };
        SimulatedEngine::new(1 << 20, SimulatedDisk::default(), Rc::new(RefCell::new(surroundings)))
    }

    fn run(engine: &mut SimulatedEngine, operation: Operation) -> Outcome {
        let mut completions = Vec::new();
        engine.submit(Token(1), operation);
        while completions.is_empty() {
            engine.wait(None, &mut completions).unwrap();
        }
        assert_eq!(completions.len(), 1);
        completions.remove(0).outcome
    }

    fn listen(engine: &mut SimulatedEngine) -> SocketAddr {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        match run(engine, Operation::Listen { listener: LISTENER, address }) {
            Outcome::Address(address) => address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_dials_is_accepted_and_bytes_go_both_ways() {
        let mut engine = engine();
        let address = listen(&mut engine);
        let dialled = engine.around().network.dial(address).unwrap();
        let accepted = run(&mut engine, Operation::Accept { listener: LISTENER, socket: SOCKET });
        assert!(matches!(accepted, Outcome::Address(_)), "{accepted:?}");
        assert!(engine.around().network.say(dialled, 1, b"question"));
        let mut into = Span { start: 0, length: 8 };
        while into.length > 0 {
            let received = run(&mut engine, Operation::Receive { socket: SOCKET, into, fill: true });
            let Outcome::Done(count) = received else { panic!("{received:?}") };
            into = into.after(count);
        }
        assert_eq!(engine.arena().bytes(Span { start: 0, length: 8 }), b"question");
        engine.arena_mut().bytes_mut(Span { start: 100, length: 6 }).copy_from_slice(b"answer");
        let spans = [Span { start: 103, length: 3 }, Span { start: 100, length: 3 }].into();
        let Outcome::Done(count) = run(&mut engine, Operation::SendGather { socket: SOCKET, spans }) else {
            panic!("the send failed")
        };
        assert_eq!(engine.around().network.hear(dialled).unwrap(), &b"werans"[..count as usize]);
        engine.around().network.hang_up(dialled, 1);
        let end = Operation::Receive { socket: SOCKET, into: Span { start: 0, length: 8 }, fill: true };
        assert_eq!(run(&mut engine, end), Outcome::Done(0));
        assert_eq!(engine.arena().loans(), 0);
    }

    #[test]
    fn a_closed_listener_ends_its_accept_and_is_dialled_no_more() {
        let mut engine = engine();
        let address = listen(&mut engine);
        engine.submit(Token(2), Operation::Accept { listener: LISTENER, socket: SOCKET });
        engine.submit(Token(3), Operation::CloseSocket { socket: LISTENER });
        let mut completions = Vec::new();
        while completions.len() < 2 {
            engine.wait(None, &mut completions).unwrap();
        }
        let order: Vec<Token> = completions.iter().map(|completion| completion.token).collect();
        assert_eq!(order, [Token(2), Token(3)]);
        assert_eq!(engine.around().network.dial(address), None);
        assert_eq!(run(&mut engine, Operation::CloseSocket { socket: SOCKET }), Outcome::Done(0));
    }
}
