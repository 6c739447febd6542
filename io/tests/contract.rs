//! The contract of `Engine`, run over every engine this host allows.
//!
//! Owns: one list of tests, each written once against [`World`]. It must never ask which engine it has: what
//! differs between engines is not part of the contract. A host that forbids io_uring runs the epoll half only.
//! The half of a server (listening, gathered sends) is `contract/serving.rs`.

#[path = "contract/serving.rs"]
mod serving;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::spawn;
use twinlog_io::{
    AnyEngine, Completion, Engine, EngineError, EngineOptions, EnginePreference, FileKey, GATHER_SPANS_MAX,
    Job, JobOutcome, Operation, Outcome, SocketKey, Span, Step, StepFailure, StepOutput, SystemError, Token,
    open_engine,
};

/// A test that got no completion for this long has found a lost one; no passing test comes near it.
const LOST_AFTER_NANOSECONDS: u64 = 60_000_000_000;

static NEXT_DIRECTORY: AtomicU32 = AtomicU32::new(0);

struct World {
    engine: AnyEngine,
    arrived: Vec<Completion>,
    next_token: u64,
    directory: PathBuf,
}

impl World {
    fn open(preference: EnginePreference, options: &EngineOptions) -> Option<World> {
        let engine = match open_engine(options, preference) {
            Ok((engine, _)) => engine,
            Err(error @ EngineError::RingRefused { .. }) => {
                eprintln!("this half of the contract cannot run here: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let number = NEXT_DIRECTORY.fetch_add(1, Ordering::Relaxed);
        let name = format!("contract-{}-{number}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Some(World { engine, arrived: Vec::new(), next_token: 1, directory })
    }

    fn submit(&mut self, operation: Operation) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.engine.submit(token, operation);
        token
    }

    /// Waits for one completion; others are kept in their order.
    fn outcome(&mut self, token: Token) -> Outcome {
        let lost = self.engine.now() + LOST_AFTER_NANOSECONDS;
        loop {
            if let Some(index) = self.arrived.iter().position(|completion| completion.token == token) {
                return self.arrived.remove(index).outcome;
            }
            assert!(self.engine.now() < lost, "{token:?} was lost; {} in flight", self.engine.in_flight());
            self.engine.wait(Some(lost), &mut self.arrived).unwrap();
        }
    }

    fn run(&mut self, operation: Operation) -> Outcome {
        let token = self.submit(operation);
        self.outcome(token)
    }

    fn done(&mut self, operation: Operation) -> u32 {
        let text = format!("{operation:?}");
        match self.run(operation) {
            Outcome::Done(count) => count,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn job(&mut self, steps: Vec<Step>) -> JobOutcome {
        match self.run(Operation::Job(Job::new(steps))) {
            Outcome::Job(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// A connected pair: ours by key, the peer's as a plain stream.
    fn pair(&mut self, socket: SocketKey) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(self.done(Operation::Connect { socket, address }), 0);
        listener.accept().unwrap().0
    }

    fn open_file(&mut self, file: FileKey, name: &str, direct: bool) -> PathBuf {
        let path = self.directory.join(name);
        let outcome = self.job(vec![Step::Open { file, path: path.clone(), create: true, direct }]);
        assert_eq!(outcome.failed, None);
        path
    }

    fn fill_with(&mut self, span: Span, seed: u8) {
        let bytes = self.engine.arena_mut().bytes_mut(span);
        bytes.iter_mut().enumerate().for_each(|(index, byte)| *byte = pattern(index, seed));
    }

    fn assert_filled(&self, span: Span, seed: u8) {
        let bytes = self.engine.arena().bytes(span);
        assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == pattern(index, seed)));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn pattern(index: usize, seed: u8) -> u8 {
    (index.wrapping_mul(31) >> 3) as u8 ^ seed
}

fn patterned(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| pattern(index, seed)).collect()
}

fn span(start: u64, length: u32) -> Span {
    Span { start, length }
}

fn small() -> EngineOptions {
    EngineOptions {
        arena_bytes: 16 << 20,
        sockets_max: 80,
        files_max: 8,
        queue_entries: 8,
        ..EngineOptions::default()
    }
}

macro_rules! contract {
    ($($test:ident,)*) => {
        mod ring {
            $(#[test]
            fn $test() {
                if let Some(mut world) = super::World::open(super::EnginePreference::Ring, &super::small()) {
                    super::$test(&mut world);
                }
            })*
        }
        mod epoll {
            $(#[test]
            fn $test() {
                super::$test(&mut super::World::open(super::EnginePreference::Epoll, &super::small()).unwrap());
            })*
        }
    };
}

contract! {
    bytes_go_both_ways,
    a_refused_connection_is_an_outcome_and_its_key_can_be_used_again,
    a_receive_without_fill_takes_what_is_there,
    a_fill_waits_for_all_its_pieces,
    a_large_fill_completes_when_exactly_its_last_byte_has_come,
    small_fills_follow_large_ones,
    a_peer_that_closes_cuts_a_fill_short_and_then_reads_as_zero,
    a_large_send_arrives_whole,
    a_send_to_a_gone_peer_fails,
    closing_ends_a_receive_before_the_close_completes,
    closing_ends_a_connect_in_flight,
    many_sockets_keep_their_bytes_apart,
    a_direct_file_keeps_what_was_written,
    transfers_anywhere_in_the_arena_keep_their_bytes,
    more_operations_than_the_queue_holds_all_complete,
    a_file_closes_after_its_writes_and_its_key_can_be_used_again,
    a_read_at_the_end_of_a_file_is_short,
    a_failing_step_ends_its_job_and_opens_nothing,
    more_jobs_than_the_helper_queues_run_in_order,
    a_wake_ends_a_wait_without_completions,
    a_wake_before_the_wait_is_not_lost,
    a_deadline_ends_a_wait_without_completions,
    lent_bytes_are_out_of_reach_until_the_completion,
    an_engine_with_operations_in_flight_can_be_dropped,
    in_flight_counts_what_was_not_delivered,
    a_listener_tells_its_address_and_serves_who_connects,
    an_accept_waits_for_its_connection,
    accepts_take_waiting_connections_one_by_one,
    a_taken_address_is_an_outcome_and_the_key_can_be_used_again,
    a_listener_is_back_at_once_on_the_address_it_had,
    closing_a_listener_ends_its_accept_first,
    closing_the_socket_of_an_accept_leaves_the_listener_open,
    a_server_and_its_client_meet_in_one_engine,
    gathered_spans_arrive_in_their_order,
    a_large_gather_arrives_whole,
    gathered_bytes_may_be_written_and_sent_elsewhere_meanwhile,
    a_gather_to_a_gone_peer_fails,
    an_engine_that_serves_can_be_dropped,
}

use serving::*;

const SOCKET: SocketKey = SocketKey(0);
const FILE: FileKey = FileKey(0);

fn bytes_go_both_ways(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    world.fill_with(span(0, 1000), 7);
    assert_eq!(world.done(Operation::Send { socket: SOCKET, from: span(0, 1000) }), 1000);
    let mut received = vec![0; 1000];
    peer.read_exact(&mut received).unwrap();
    assert_eq!(received, patterned(1000, 7));
    peer.write_all(&patterned(500, 9)).unwrap();
    let receive = Operation::Receive { socket: SOCKET, into: span(4096, 500), fill: true };
    assert_eq!(world.done(receive), 500);
    world.assert_filled(span(4096, 500), 9);
}

fn a_refused_connection_is_an_outcome_and_its_key_can_be_used_again(world: &mut World) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = world.run(Operation::Connect { socket: SOCKET, address });
    assert_eq!(outcome, Outcome::Failed(SystemError::CONNECTION_REFUSED));
    world.done(Operation::CloseSocket { socket: SOCKET });
    world.pair(SOCKET);
    world.done(Operation::CloseSocket { socket: SOCKET });
}

fn a_receive_without_fill_takes_what_is_there(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    peer.write_all(b"abc").unwrap();
    let count = world.done(Operation::Receive { socket: SOCKET, into: span(0, 1 << 20), fill: false });
    assert!((1..=3).contains(&count));
    assert_eq!(world.engine.arena().bytes(span(0, count)), &b"abc"[..count as usize]);
}

fn a_fill_waits_for_all_its_pieces(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    let token = world.submit(Operation::Receive { socket: SOCKET, into: span(0, 30), fill: true });
    for piece in patterned(30, 1).chunks(7) {
        peer.write_all(piece).unwrap();
        let until = world.engine.now();
        world.engine.wait(Some(until), &mut world.arrived).unwrap();
    }
    assert_eq!(world.outcome(token), Outcome::Done(30));
    world.assert_filled(span(0, 30), 1);
}

/// The trap of the low-water mark: nothing follows the last byte, so a mark above the rest would never fire.
fn a_large_fill_completes_when_exactly_its_last_byte_has_come(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    for (round, length) in [1 << 20, (1 << 20) + 1, 300_000, 131_072, 2_000_003].into_iter().enumerate() {
        let token = world.submit(Operation::Receive { socket: SOCKET, into: span(0, length), fill: true });
        let seed = round as u8;
        let sender = spawn(move || {
            let bytes = patterned(length as usize, seed);
            let (head, rest) = bytes.split_at(bytes.len() * 3 / 4);
            let (middle, tail) = rest.split_at(rest.len() - 1);
            [head, middle, tail].into_iter().for_each(|piece| peer.write_all(piece).unwrap());
            peer
        });
        assert_eq!(world.outcome(token), Outcome::Done(length));
        world.assert_filled(span(0, length), seed);
        peer = sender.join().unwrap();
    }
}

fn small_fills_follow_large_ones(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    let lengths = [61, 1 << 20, 128, 700_000, 4, 90_000, 61, 200_000, 1];
    let bytes = patterned(lengths.iter().sum::<u32>() as usize, 3);
    let sender = spawn(move || {
        bytes.chunks(333_333).for_each(|piece| peer.write_all(piece).unwrap());
        peer
    });
    let mut start = 0;
    for length in lengths {
        let receive = Operation::Receive { socket: SOCKET, into: span(start, length), fill: true };
        assert_eq!(world.done(receive), length);
        start += u64::from(length);
    }
    world.assert_filled(span(0, start as u32), 3);
    drop(sender.join().unwrap());
}

fn a_peer_that_closes_cuts_a_fill_short_and_then_reads_as_zero(world: &mut World) {
    for length in [1000, 1 << 20] {
        let mut peer = world.pair(SOCKET);
        peer.write_all(&patterned(600, 5)).unwrap();
        drop(peer);
        let into = span(0, length);
        assert_eq!(world.done(Operation::Receive { socket: SOCKET, into, fill: true }), 600);
        world.assert_filled(span(0, 600), 5);
        assert_eq!(world.done(Operation::Receive { socket: SOCKET, into: into.after(600), fill: true }), 0);
        world.done(Operation::CloseSocket { socket: SOCKET });
    }
}

fn a_large_send_arrives_whole(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    let mut from = span(0, 8 << 20);
    world.fill_with(from, 2);
    let reader = spawn(move || {
        let mut bytes = vec![0; 8 << 20];
        peer.read_exact(&mut bytes).unwrap();
        bytes == patterned(8 << 20, 2)
    });
    while from.length > 0 {
        let count = world.done(Operation::Send { socket: SOCKET, from });
        from = from.after(count);
    }
    assert!(reader.join().unwrap());
}

fn a_send_to_a_gone_peer_fails(world: &mut World) {
    drop(world.pair(SOCKET));
    // The first sends may still be taken; the peer's reset then fails one.
    let outcome = loop {
        match world.run(Operation::Send { socket: SOCKET, from: span(0, 1 << 20) }) {
            Outcome::Done(_) => {}
            outcome => break outcome,
        }
    };
    let gone = [SystemError::BROKEN_PIPE, SystemError::CONNECTION_RESET];
    assert!(gone.into_iter().any(|error| outcome == Outcome::Failed(error)), "{outcome:?}");
}

fn closing_ends_a_receive_before_the_close_completes(world: &mut World) {
    for length in [100, 1 << 20] {
        let mut peer = world.pair(SOCKET);
        let receive = world.submit(Operation::Receive { socket: SOCKET, into: span(0, length), fill: true });
        let until = world.engine.now();
        world.engine.wait(Some(until), &mut world.arrived).unwrap();
        let close = world.submit(Operation::CloseSocket { socket: SOCKET });
        while world.engine.in_flight() > 0 {
            world.engine.wait(None, &mut world.arrived).unwrap();
        }
        let order: Vec<Token> = world.arrived.iter().map(|completion| completion.token).collect();
        assert_eq!(order, [receive, close]);
        let outcome = world.outcome(receive);
        assert!(matches!(outcome, Outcome::Failed(_) | Outcome::Done(0)), "{outcome:?}");
        assert_eq!(world.outcome(close), Outcome::Done(0));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(world.engine.arena().loans(), 0);
    }
}

fn closing_ends_a_connect_in_flight(world: &mut World) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let connect = world.submit(Operation::Connect { socket: SOCKET, address });
    let close = world.submit(Operation::CloseSocket { socket: SOCKET });
    assert_eq!(world.outcome(close), Outcome::Done(0));
    assert!(world.arrived.iter().any(|completion| completion.token == connect));
    assert_eq!(world.engine.in_flight(), 0);
}

fn many_sockets_keep_their_bytes_apart(world: &mut World) {
    let count = 64;
    let mut peers: Vec<TcpStream> = (0..count).map(|key| world.pair(SocketKey(key))).collect();
    let place = |key: u32| span(u64::from(key) * 10_000, 9_999);
    let tokens: Vec<Token> = (0..count)
        .map(|key| world.submit(Operation::Receive { socket: SocketKey(key), into: place(key), fill: true }))
        .collect();
    for half in 0..2 {
        for (key, peer) in peers.iter_mut().enumerate() {
            let bytes = patterned(9_999, key as u8);
            peer.write_all(if half == 0 { &bytes[..5000] } else { &bytes[5000..] }).unwrap();
        }
    }
    for token in tokens {
        assert_eq!(world.outcome(token), Outcome::Done(9_999));
    }
    for key in 0..count {
        world.assert_filled(place(key), key as u8);
        world.done(Operation::CloseSocket { socket: SocketKey(key) });
    }
}

fn a_direct_file_keeps_what_was_written(world: &mut World) {
    let path = world.open_file(FILE, "segment", true);
    let length = 1 << 20;
    world.job(vec![Step::Allocate { path: path.clone(), length: 4 << 20 }]);
    let tokens: Vec<Token> = (0..4u64)
        .map(|index| {
            let from = span(index << 20, length);
            world.fill_with(from, index as u8);
            world.submit(Operation::Write { file: FILE, position: index << 20, from })
        })
        .collect();
    for token in tokens {
        assert_eq!(world.outcome(token), Outcome::Done(length));
    }
    assert_eq!(world.done(Operation::Sync { file: FILE }), 0);
    let into = span(8 << 20, length);
    assert_eq!(world.done(Operation::Read { file: FILE, position: 2 << 20, into }), length);
    world.assert_filled(into, 2);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.chunks(1 << 20).enumerate().all(|(index, part)| part == patterned(1 << 20, index as u8)));
}

/// Huge pages, registered or not, begin and end inside some of these spans, and one is larger than any.
fn transfers_anywhere_in_the_arena_keep_their_bytes(world: &mut World) {
    world.open_file(FILE, "anywhere", true);
    let mib = 1 << 20;
    let spans = [
        span(0, 4096),
        span((2 << 20) - 4096, 8192),
        span(3 << 20, mib),
        span((5 << 20) + 4096, mib),
        span(7 << 20, 4 * mib),
        span((16 << 20) - 8192, 8192),
    ];
    let mut position = 0;
    for (seed, from) in spans.into_iter().enumerate() {
        world.fill_with(from, seed as u8);
        assert_eq!(world.done(Operation::Write { file: FILE, position, from }), from.length);
        world.fill_with(from, 0xff);
        assert_eq!(world.done(Operation::Read { file: FILE, position, into: from }), from.length);
        world.assert_filled(from, seed as u8);
        position += u64::from(from.length);
    }
}

fn more_operations_than_the_queue_holds_all_complete(world: &mut World) {
    world.open_file(FILE, "many", true);
    world.fill_with(span(0, 4096), 1);
    let write = |position| Operation::Write { file: FILE, position, from: span(0, 4096) };
    let tokens: Vec<Token> = (0..300).map(|index| world.submit(write(index * 4096))).collect();
    assert_eq!(world.engine.in_flight(), 300);
    for token in tokens {
        assert_eq!(world.outcome(token), Outcome::Done(4096));
    }
    assert_eq!(world.engine.in_flight(), 0);
    assert_eq!(world.engine.arena().loans(), 0);
}

fn a_file_closes_after_its_writes_and_its_key_can_be_used_again(world: &mut World) {
    for round in 0..3u8 {
        let path = world.open_file(FILE, &format!("file-{round}"), false);
        world.fill_with(span(0, 10), round);
        let write = world.submit(Operation::Write { file: FILE, position: 0, from: span(0, 10) });
        let close = world.submit(Operation::CloseFile { file: FILE });
        assert_eq!(world.outcome(close), Outcome::Done(0));
        assert_eq!(world.arrived.len(), 1, "the write completed before the close");
        assert_eq!(world.outcome(write), Outcome::Done(10));
        assert_eq!(std::fs::read(path).unwrap(), patterned(10, round));
    }
}

fn a_read_at_the_end_of_a_file_is_short(world: &mut World) {
    let path = world.open_file(FILE, "short", false);
    world.job(vec![Step::Append { path, bytes: b"0123456789".to_vec() }]);
    assert_eq!(world.done(Operation::Read { file: FILE, position: 6, into: span(0, 100) }), 4);
    assert_eq!(world.engine.arena().bytes(span(0, 4)), b"6789");
    assert_eq!(world.done(Operation::Read { file: FILE, position: 10, into: span(0, 100) }), 0);
}

fn a_failing_step_ends_its_job_and_opens_nothing(world: &mut World) {
    let (good, missing) = (world.directory.join("good"), world.directory.join("missing"));
    let steps = vec![
        Step::Open { file: FILE, path: good.clone(), create: true, direct: false },
        Step::Truncate { path: missing, length: 0 },
        Step::Remove { path: good.clone() },
    ];
    let outcome = world.job(steps.clone());
    assert_eq!(outcome.outputs, [StepOutput::Opened { direct: false, length: 0 }]);
    assert_eq!(outcome.failed, Some(StepFailure { step: 1, error: SystemError::NOT_FOUND }));
    assert_eq!(outcome.steps, steps);
    assert!(good.exists());
    world.open_file(FILE, "good", false);
    assert_eq!(world.done(Operation::CloseFile { file: FILE }), 0);
}

fn more_jobs_than_the_helper_queues_run_in_order(world: &mut World) {
    let path = world.directory.join("journal");
    let append = |number: u8| Step::Append { path: path.clone(), bytes: vec![number] };
    let tokens: Vec<Token> =
        (0..200).map(|number| world.submit(Operation::Job(Job::new(vec![append(number)])))).collect();
    for token in tokens {
        let Outcome::Job(outcome) = world.outcome(token) else { panic!("no job") };
        assert_eq!(outcome.failed, None);
    }
    assert_eq!(std::fs::read(&path).unwrap(), (0..200).collect::<Vec<u8>>());
}

fn a_wake_ends_a_wait_without_completions(world: &mut World) {
    for _ in 0..3 {
        let waker = world.engine.waker();
        let other = spawn(move || waker.wake());
        world.engine.wait(None, &mut world.arrived).unwrap();
        other.join().unwrap();
        assert!(world.arrived.is_empty());
    }
}

fn a_wake_before_the_wait_is_not_lost(world: &mut World) {
    world.engine.waker().wake();
    world.engine.waker().wake();
    world.engine.wait(None, &mut world.arrived).unwrap();
    assert!(world.arrived.is_empty());
}

fn a_deadline_ends_a_wait_without_completions(world: &mut World) {
    let _peer = world.pair(SOCKET);
    world.submit(Operation::Receive { socket: SOCKET, into: span(0, 1), fill: false });
    for ahead in [0, 2_000_000] {
        let until = world.engine.now() + ahead;
        world.engine.wait(Some(until), &mut world.arrived).unwrap();
        assert!(world.engine.now() >= until);
        assert!(world.arrived.is_empty());
    }
    world.engine.wait(Some(0), &mut world.arrived).unwrap();
    assert_eq!(world.engine.in_flight(), 1);
}

fn lent_bytes_are_out_of_reach_until_the_completion(world: &mut World) {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let mut peer = world.pair(SOCKET);
    let receive = world.submit(Operation::Receive { socket: SOCKET, into: span(0, 10), fill: true });
    let look = AssertUnwindSafe(|| world.engine.arena().bytes(span(9, 1)).len());
    assert!(catch_unwind(look).is_err());
    peer.write_all(&[1; 10]).unwrap();
    assert_eq!(world.outcome(receive), Outcome::Done(10));
    assert_eq!(world.engine.arena().bytes(span(9, 1)), [1]);
}

fn an_engine_with_operations_in_flight_can_be_dropped(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    world.open_file(FILE, "dropped", true);
    world.submit(Operation::Receive { socket: SOCKET, into: span(0, 1 << 20), fill: true });
    for index in 0..50 {
        let from = span(4 << 20, 64 << 10);
        world.submit(Operation::Write { file: FILE, position: index * (64 << 10), from });
    }
    world.submit(Operation::Job(Job::new(vec![Step::SyncFileSystem { path: world.directory.clone() }])));
    let until = world.engine.now();
    world.engine.wait(Some(until), &mut world.arrived).unwrap();
    let (fresh, _) = open_engine(&small(), EnginePreference::Epoll).unwrap();
    drop(std::mem::replace(&mut world.engine, fresh));
    // Our end is closed, so the peer reads the end (or a reset), not for ever.
    assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)));
}

fn in_flight_counts_what_was_not_delivered(world: &mut World) {
    assert_eq!(world.engine.in_flight(), 0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let token = world.submit(Operation::Connect { socket: SOCKET, address });
    assert_eq!(world.engine.in_flight(), 1);
    world.outcome(token);
    assert_eq!(world.engine.in_flight(), 0);
}
