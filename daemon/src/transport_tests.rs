//! Both ends of the transport against each other, over every way in which a stream can be cut into pieces.

use super::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};

struct Authority {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["broker.test".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Authority { certificate: certificate.der().clone(), key: key.serialize_der() }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn client(authority: &Authority, version: &'static SupportedProtocolVersion) -> TlsTransport {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    TlsTransport::client(Arc::new(config), ServerName::try_from("broker.test").unwrap()).unwrap()
}

fn server(authority: &Authority, version: &'static SupportedProtocolVersion) -> TlsTransport {
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let key = PrivateKeyDer::try_from(authority.key.clone()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![authority.certificate.clone()], key);
    TlsTransport::server(Arc::new(config.unwrap())).unwrap()
}

/// One end with its buffers, as a shard holds them.
struct End {
    transport: TlsTransport,
    ciphertext: Vec<u8>,
    received: Vec<u8>,
    to_send: Vec<u8>,
    wire: Vec<u8>,
    room: usize,
}

impl End {
    fn new(transport: TlsTransport, to_send: Vec<u8>) -> Self {
        let (ciphertext, received, wire) = (Vec::new(), Vec::new(), Vec::new());
        Self { transport, ciphertext, received, to_send, wire, room: 40_000 }
    }

    fn turn(&mut self, arrived: &[u8]) -> Result<(), TransportError> {
        self.ciphertext.extend_from_slice(arrived);
        loop {
            let mut plaintext = vec![0; self.room];
            let done = self.transport.decrypt(&mut self.ciphertext, &mut plaintext)?;
            self.ciphertext.drain(..done.consumed);
            self.received.extend_from_slice(&plaintext[..done.produced]);
            if done.produced == 0 {
                break;
            }
        }
        loop {
            let waiting = self.transport.outgoing().len();
            self.wire.extend_from_slice(self.transport.outgoing());
            self.transport.outgoing_taken(waiting);
            let mut buffer = [0; 16 << 10];
            let done = self.transport.encrypt(&mut self.ciphertext, &self.to_send, &mut buffer)?;
            self.ciphertext.drain(..done.consumed);
            self.to_send.drain(..done.taken);
            self.wire.extend_from_slice(&buffer[..done.written]);
            if done.taken == 0 && self.transport.outgoing().is_empty() {
                return Ok(());
            }
        }
    }
}

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

/// Lets both talk until nothing moves; `piece` says how many bytes arrive at once.
fn talk(client: &mut End, server: &mut End, mut piece: impl FnMut() -> usize) -> Result<(), TransportError> {
    client.turn(&[])?;
    loop {
        let mut moved = false;
        for to_server in [true, false] {
            let (from, to) =
                if to_server { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            let count = piece().min(from.wire.len());
            let arrived: Vec<u8> = from.wire.drain(..count).collect();
            moved |= count > 0;
            to.turn(&arrived)?;
        }
        if !moved {
            return Ok(());
        }
    }
}

fn exchange(version: &'static SupportedProtocolVersion, room: usize, piece: impl FnMut() -> usize) {
    let authority = authority();
    let (request, answer) = (bytes(70_000, 3), bytes(200_000, 5));
    let mut client = End::new(client(&authority, version), request.clone());
    let mut server = End::new(server(&authority, version), answer.clone());
    client.room = room;
    talk(&mut client, &mut server, piece).unwrap();
    assert!(client.transport.is_open() && server.transport.is_open());
    assert_eq!(client.transport.peer_certificate(), Some(authority.certificate.as_ref()));
    assert!(server.received == request && client.received == answer);
    client.transport.close(&mut client.ciphertext);
    client.turn(&[]).unwrap();
    assert_eq!(server.transport.end_of_stream(), Err(TransportError::Truncated));
    server.turn(&std::mem::take(&mut client.wire)).unwrap();
    assert_eq!(server.transport.end_of_stream(), Ok(()));
}

#[test]
fn bytes_cross_whole_in_whatever_pieces_they_arrive() {
    for version in [&TLS12, &TLS13] {
        exchange(version, 64 << 10, || 1 << 20);
        exchange(version, 64 << 10, || 4_096);
        exchange(version, 16 << 10, || 64 << 10);
        for seed in 1..6 {
            let mut sizes = bytes(1 << 16, seed).into_iter().cycle();
            exchange(version, 20_000, move || {
                let size = usize::from(sizes.next().unwrap());
                if size % 5 == 0 { size * 300 + 1 } else { size % 9 + 1 }
            });
        }
    }
}

#[test]
fn one_byte_at_a_time_is_enough_for_a_handshake_and_an_answer() {
    for version in [&TLS12, &TLS13] {
        let authority = authority();
        let mut client = End::new(client(&authority, version), b"request".to_vec());
        let mut server = End::new(server(&authority, version), b"answer".to_vec());
        talk(&mut client, &mut server, || 1).unwrap();
        assert_eq!((&client.received[..], &server.received[..]), (&b"answer"[..], &b"request"[..]));
    }
}

#[test]
fn what_has_no_room_is_not_decrypted_and_not_lost() {
    let authority = authority();
    let mut client = End::new(client(&authority, &TLS13), Vec::new());
    let mut server = End::new(server(&authority, &TLS13), bytes(60_000, 9));
    talk(&mut client, &mut server, || 1 << 20).unwrap();
    server.to_send = bytes(40_000, 11);
    server.turn(&[]).unwrap();
    client.ciphertext.append(&mut server.wire);
    let (mut small, mut large) = ([0; 1_000], vec![0; 64 << 10]);
    let held = client.ciphertext.len();
    let none = client.transport.decrypt(&mut client.ciphertext, &mut small).unwrap();
    assert_eq!(none.produced, 0);
    assert!(held - none.consumed > 20_000, "one record waits decrypted, the others as they came");
    client.ciphertext.drain(..none.consumed);
    let all = client.transport.decrypt(&mut client.ciphertext, &mut large).unwrap();
    assert!(large[..all.produced] == bytes(40_000, 11));
}

#[test]
fn a_request_can_be_encrypted_while_an_answer_waits_unread() {
    let authority = authority();
    let mut client = End::new(client(&authority, &TLS13), Vec::new());
    let mut server = End::new(server(&authority, &TLS13), Vec::new());
    talk(&mut client, &mut server, || 1 << 20).unwrap();
    server.to_send = bytes(30_000, 13);
    server.turn(&[]).unwrap();
    client.ciphertext.append(&mut server.wire);
    // Half a record is at the end: it must survive the encryption in between.
    let rest = client.ciphertext.split_off(25_000);
    let mut buffer = [0; 4_096];
    let done = client.transport.encrypt(&mut client.ciphertext, b"request", &mut buffer).unwrap();
    assert!(done.taken == 7 && done.written > 7);
    client.ciphertext.drain(..done.consumed);
    client.turn(&rest).unwrap();
    assert!(client.received == bytes(30_000, 13));
    server.turn(&buffer[..done.written]).unwrap();
    assert_eq!(server.received, b"request");
}

#[test]
fn an_untrusted_certificate_is_named_and_the_peer_gets_an_alert() {
    for version in [&TLS12, &TLS13] {
        let (known, other) = (authority(), authority());
        let mut client = End::new(client(&known, version), b"request".to_vec());
        let mut server = End::new(server(&other, version), Vec::new());
        let error = talk(&mut client, &mut server, || 1 << 20).unwrap_err();
        assert!(matches!(&error, TransportError::Tls(rustls::Error::InvalidCertificate(_))), "{error}");
        let alert = client.transport.outgoing().to_vec();
        let told = server.turn(&alert).unwrap_err();
        assert!(matches!(&told, TransportError::Tls(rustls::Error::AlertReceived(_))), "{told}");
    }
}

#[test]
fn a_changed_byte_ends_the_connection() {
    for version in [&TLS12, &TLS13] {
        let authority = authority();
        let mut client = End::new(client(&authority, version), Vec::new());
        let mut server = End::new(server(&authority, version), Vec::new());
        talk(&mut client, &mut server, || 1 << 20).unwrap();
        server.to_send = bytes(1_000, 17);
        server.turn(&[]).unwrap();
        let mut wire = std::mem::take(&mut server.wire);
        wire[500] ^= 1;
        assert_eq!(client.turn(&wire), Err(TransportError::Tls(rustls::Error::DecryptError)));
        assert!(client.received.is_empty());
    }
}

#[test]
fn garbage_before_and_after_the_handshake_is_an_error_and_never_a_panic() {
    let authority = authority();
    for seed in 1..400_u64 {
        for version in [&TLS12, &TLS13] {
            let mut client = End::new(client(&authority, version), b"request".to_vec());
            let mut server = End::new(server(&authority, version), b"answer".to_vec());
            let _ = client.turn(&[]);
            let hello = std::mem::take(&mut client.wire);
            let mut garbage = bytes(600, seed);
            if seed % 2 == 0 {
                // Looks like a handshake record, or is a hello with a few bytes changed.
                garbage = hello.clone();
                let changed = bytes(6, seed);
                for pair in changed.chunks(2) {
                    let at = usize::from(pair[0]) * 7 % garbage.len();
                    garbage[at] = pair[1];
                }
            }
            let _ = server.turn(&garbage);
            let _ = server.turn(&bytes(300, seed + 1));
            let flight = std::mem::take(&mut server.wire);
            let _ = client.turn(&flight);
            let _ = client.turn(&bytes(2_000, seed + 2));
            assert!(client.received.is_empty() && server.received.is_empty());
        }
    }
}

#[test]
fn a_plaintext_client_at_a_tls_port_is_told_apart_at_its_first_bytes() {
    let mut server = End::new(server(&authority(), &TLS13), Vec::new());
    // A length of 40, ApiVersions v0.
    let error = server.turn(&[0, 0, 0, 40, 0, 18, 0, 0, 0, 0, 0, 1]).unwrap_err();
    assert!(matches!(error, TransportError::Tls(rustls::Error::InvalidMessage(_))), "{error}");
}

#[test]
fn the_room_for_records_is_never_overestimated() {
    assert_eq!(plaintext_fitting(100), 0);
    for bytes in [600, 4_096, 16 << 10, 17 << 10, 64 << 10, 1 << 20] {
        let plain = plaintext_fitting(bytes);
        let records = plain.div_ceil(RECORD_PLAINTEXT_BYTES);
        assert!(plain > 0 && plain + records * RECORD_OVERHEAD_BYTES + CONTROL_BYTES <= bytes, "{bytes}");
    }
}
