//! The contract's part of a server: listening, accepting, and sends gathered from several spans.
//!
//! Owns: tests in the form of `contract.rs`, which runs them over every engine. It must never ask which engine it has.

use super::*;

const LISTENER: SocketKey = SocketKey(7);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl World {
    fn address(&mut self, operation: Operation) -> SocketAddr {
        let text = format!("{operation:?}");
        match self.run(operation) {
            Outcome::Address(address) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn listen(&mut self) -> SocketAddr {
        self.address(Operation::Listen { listener: LISTENER, address: any_port() })
    }

    fn accept(&mut self, socket: SocketKey) -> SocketAddr {
        self.address(Operation::Accept { listener: LISTENER, socket })
    }

    /// Turns the engine once without waiting.
    fn turn(&mut self) {
        let now = self.engine.now();
        self.engine.wait(Some(now), &mut self.arrived).unwrap();
    }

    /// Sends all spans, resuming as often as it takes; answers how many sends that were.
    fn gather(&mut self, socket: SocketKey, mut spans: Vec<Span>) -> u32 {
        let mut sends = 0;
        while !spans.is_empty() {
            let mut count = self.done(Operation::SendGather { socket, spans: spans.clone().into() });
            sends += 1;
            while let Some(first) = spans.first_mut() {
                let sent = count.min(first.length);
                (*first, count) = (first.after(sent), count - sent);
                if first.length > 0 {
                    break;
                }
                spans.remove(0);
            }
        }
        sends
    }
}

pub fn a_listener_tells_its_address_and_serves_who_connects(world: &mut World) {
    let address = world.listen();
    assert!(address.ip().is_loopback() && address.port() != 0);
    let mut client = TcpStream::connect(address).unwrap();
    assert_eq!(world.accept(SOCKET), client.local_addr().unwrap());
    client.write_all(&patterned(300, 4)).unwrap();
    let receive = Operation::Receive { socket: SOCKET, into: span(0, 300), fill: true };
    assert_eq!(world.done(receive), 300);
    world.assert_filled(span(0, 300), 4);
    assert_eq!(world.done(Operation::Send { socket: SOCKET, from: span(0, 300) }), 300);
    let mut received = vec![0; 300];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, patterned(300, 4));
    world.done(Operation::CloseSocket { socket: SOCKET });
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

pub fn an_accept_waits_for_its_connection(world: &mut World) {
    let address = world.listen();
    for _ in 0..3 {
        let accept = world.submit(Operation::Accept { listener: LISTENER, socket: SOCKET });
        world.turn();
        assert!(world.arrived.is_empty());
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(world.outcome(accept), Outcome::Address(client.local_addr().unwrap()));
        world.done(Operation::CloseSocket { socket: SOCKET });
    }
}

pub fn accepts_take_waiting_connections_one_by_one(world: &mut World) {
    let address = world.listen();
    let mut clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    for key in 0..40 {
        let peer = world.accept(SocketKey(20 + key));
        let index = clients.iter().position(|client| client.local_addr().unwrap() == peer);
        let mut client = clients.swap_remove(index.expect("each connection is accepted once"));
        client.write_all(&[key as u8]).unwrap();
        let into = span(u64::from(key), 1);
        assert_eq!(world.done(Operation::Receive { socket: SocketKey(20 + key), into, fill: true }), 1);
        assert_eq!(world.engine.arena().bytes(into), [key as u8]);
    }
}

pub fn a_taken_address_is_an_outcome_and_the_key_can_be_used_again(world: &mut World) {
    let taken = TcpListener::bind(any_port()).unwrap();
    let address = taken.local_addr().unwrap();
    let outcome = world.run(Operation::Listen { listener: LISTENER, address });
    assert_eq!(outcome, Outcome::Failed(SystemError::ADDRESS_IN_USE));
    world.done(Operation::CloseSocket { socket: LISTENER });
    drop(taken);
    assert_eq!(world.address(Operation::Listen { listener: LISTENER, address }), address);
}

pub fn a_listener_is_back_at_once_on_the_address_it_had(world: &mut World) {
    let address = world.listen();
    let mut client = TcpStream::connect(address).unwrap();
    world.accept(SOCKET);
    // Our end closes first, so it is ours that lingers in TIME_WAIT.
    world.done(Operation::CloseSocket { socket: SOCKET });
    world.done(Operation::CloseSocket { socket: LISTENER });
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    assert_eq!(world.address(Operation::Listen { listener: LISTENER, address }), address);
}

pub fn closing_a_listener_ends_its_accept_first(world: &mut World) {
    let address = world.listen();
    let accept = world.submit(Operation::Accept { listener: LISTENER, socket: SOCKET });
    world.turn();
    let close = world.submit(Operation::CloseSocket { socket: LISTENER });
    while world.engine.in_flight() > 0 {
        world.engine.wait(None, &mut world.arrived).unwrap();
    }
    let order: Vec<Token> = world.arrived.iter().map(|completion| completion.token).collect();
    assert_eq!(order, [accept, close]);
    let outcome = world.outcome(accept);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(world.outcome(close), Outcome::Done(0));
    assert!(TcpStream::connect(address).is_err());
    world.done(Operation::CloseSocket { socket: SOCKET });
    world.pair(SOCKET);
    world.listen();
}

pub fn closing_the_socket_of_an_accept_leaves_the_listener_open(world: &mut World) {
    let address = world.listen();
    let accept = world.submit(Operation::Accept { listener: LISTENER, socket: SOCKET });
    world.turn();
    assert_eq!(world.done(Operation::CloseSocket { socket: SOCKET }), 0);
    let outcome = world.outcome(accept);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    let client = TcpStream::connect(address).unwrap();
    assert_eq!(world.accept(SOCKET), client.local_addr().unwrap());
}

pub fn a_server_and_its_client_meet_in_one_engine(world: &mut World) {
    let address = world.listen();
    let (client, served) = (SocketKey(1), SocketKey(2));
    let accept = world.submit(Operation::Accept { listener: LISTENER, socket: served });
    assert_eq!(world.done(Operation::Connect { socket: client, address }), 0);
    assert!(matches!(world.outcome(accept), Outcome::Address(_)));
    let length = 2 << 20;
    let (from, into) = (span(0, length), span(4 << 20, length));
    world.fill_with(from, 6);
    let receive = world.submit(Operation::Receive { socket: client, into, fill: true });
    world.gather(served, vec![from]);
    assert_eq!(world.outcome(receive), Outcome::Done(length));
    world.assert_filled(into, 6);
}

pub fn gathered_spans_arrive_in_their_order(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    let spans: Vec<Span> = (0..GATHER_SPANS_MAX as u32)
        .map(|index| span(u64::from(GATHER_SPANS_MAX as u32 - index) * 10_000, 100 + index))
        .collect();
    let mut expected = Vec::new();
    for (seed, span) in spans.iter().enumerate() {
        world.fill_with(*span, seed as u8);
        expected.extend(patterned(span.length as usize, seed as u8));
    }
    // The same bytes twice in one gather: both only read them.
    let mut twice = vec![spans[3]; 2];
    twice.push(Span { start: spans[3].start + 1, length: 7 });
    world.gather(SOCKET, spans.clone());
    world.gather(SOCKET, twice);
    let again = patterned(spans[3].length as usize, 3);
    expected.extend([&again[..], &again[..], &again[1..8]].concat());
    let mut received = vec![0; expected.len()];
    peer.read_exact(&mut received).unwrap();
    assert_eq!(received, expected);
    assert_eq!(world.engine.arena().loans(), 0);
}

pub fn a_large_gather_arrives_whole(world: &mut World) {
    let mut peer = world.pair(SOCKET);
    let length = 8 << 20;
    world.fill_with(span(0, length), 8);
    let reader = spawn(move || {
        let mut bytes = vec![0; length as usize];
        peer.read_exact(&mut bytes).unwrap();
        bytes == patterned(length as usize, 8)
    });
    let piece = length / GATHER_SPANS_MAX as u32;
    let spans = (0..GATHER_SPANS_MAX as u64).map(|index| span(index * u64::from(piece), piece)).collect();
    world.gather(SOCKET, spans);
    assert!(reader.join().unwrap());
}

pub fn gathered_bytes_may_be_written_and_sent_elsewhere_meanwhile(world: &mut World) {
    let path = world.open_file(FILE, "gathered", true);
    let (first, second) = (SocketKey(1), SocketKey(2));
    let mut peers = [world.pair(first), world.pair(second)];
    let (head, body) = (span(0, 50), span(4096, 128 << 10));
    world.fill_with(head, 1);
    world.fill_with(body, 2);
    let write = world.submit(Operation::Write { file: FILE, position: 0, from: body });
    let sends = [first, second]
        .map(|socket| (socket, world.submit(Operation::SendGather { socket, spans: [head, body].into() })));
    let mut expected = patterned(50, 1);
    expected.extend(patterned(128 << 10, 2));
    for ((socket, send), peer) in sends.into_iter().zip(&mut peers) {
        let Outcome::Done(count) = world.outcome(send) else { panic!("the send failed") };
        if count < head.length + body.length {
            assert!(count >= head.length);
            world.gather(socket, vec![body.after(count - head.length)]);
        }
        let mut received = vec![0; expected.len()];
        peer.read_exact(&mut received).unwrap();
        assert!(received == expected);
    }
    assert_eq!(world.outcome(write), Outcome::Done(body.length));
    assert!(std::fs::read(path).unwrap() == expected[50..]);
}

pub fn a_gather_to_a_gone_peer_fails(world: &mut World) {
    drop(world.pair(SOCKET));
    // The first sends may still be taken; the peer's reset then fails one.
    let spans: Box<[Span]> = [span(0, 1 << 20), span(1 << 20, 1 << 20)].into();
    let outcome = loop {
        match world.run(Operation::SendGather { socket: SOCKET, spans: spans.clone() }) {
            Outcome::Done(_) => {}
            outcome => break outcome,
        }
    };
    let gone = [SystemError::BROKEN_PIPE, SystemError::CONNECTION_RESET];
    assert!(gone.into_iter().any(|error| outcome == Outcome::Failed(error)), "{outcome:?}");
    assert_eq!(world.engine.arena().loans(), 0);
}

pub fn an_engine_that_serves_can_be_dropped(world: &mut World) {
    let address = world.listen();
    let mut client = TcpStream::connect(address).unwrap();
    world.accept(SOCKET);
    // Nobody reads, so the gather stays in flight; nobody connects, so the accept does.
    let spans: Box<[Span]> = [span(0, 8 << 20), span(0, 8 << 20)].into();
    world.submit(Operation::SendGather { socket: SOCKET, spans });
    world.submit(Operation::Accept { listener: LISTENER, socket: SocketKey(1) });
    world.turn();
    let (fresh, _) = open_engine(&small(), EnginePreference::Epoll).unwrap();
    drop(std::mem::replace(&mut world.engine, fresh));
    assert!(TcpStream::connect(address).is_err());
    let mut rest = Vec::new();
    // Ours is closed, so the peer comes to an end (or a reset), not to a stand.
    let _ = client.read_to_end(&mut rest);
}
