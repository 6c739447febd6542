//! Who connects to a guest's listener with TLS and SASL and may not fetch: each is closed, and named once.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use tempfile::TempDir;
use twinlog_daemon::security::{
    ClientCertificates, KeySource, ListenerSecurity, ListenerSettings, ProofFault, Secret, SecurityProtocol,
    TlsSettings, TrustSource,
};
use twinlog_daemon::shard::ShardHandle;
use twinlog_daemon::shard::mailbox::{Command, Event, FollowerRefusal};
use twinlog_tests::poll;
use twinlog_tests::shard::{self, PATIENCE, send, wait_for};

const GUEST: i32 = 900;

/// An authority, and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Certificate and key as PEM.
    fn signed(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a legal name");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate").pem(), key.serialize_pem())
    }

    /// A connection with TLS, with a certificate or without.
    fn connect(&self, address: SocketAddr, name: Option<&str>) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let config = match name.map(|name| self.signed(name)) {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
        };
        let host = ServerName::try_from("127.0.0.1").expect("an address");
        let connection = ClientConnection::new(Arc::new(config), host).expect("a configuration");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        StreamOwned::new(connection, stream)
    }
}

/// A shard that listens for followers and has nothing to tell them.
struct Listening {
    shard: ShardHandle,
    address: SocketAddr,
    _directory: TempDir,
}

fn listening(settings: &ListenerSettings) -> Listening {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = shard::start(&directory.path().join("journal-0"), |options| {
        options.listener = ListenerSecurity::from_settings(settings).expect("usable keys");
        (options.is_guest, options.direct_io, options.files_max) = (true, false, 16);
    });
    send(&shard, Command::Listen { guest: GUEST, address: SocketAddr::from(([127, 0, 0, 1], 0)) });
    let address = wait_for(&shard, |event| match event {
        Event::Listening { address, .. } => Some(address),
        _ => None,
    });
    Listening { shard, address, _directory: directory }
}

impl Listening {
    fn refusal(&self) -> FollowerRefusal {
        wait_for(&self.shard, |event| match event {
            Event::FollowerRefused { why, .. } => Some(why),
            _ => None,
        })
    }

    fn end(self) {
        shard::end(self.shard);
    }
}

fn with_tls(authority: &Authority, protocol: SecurityProtocol) -> ListenerSettings {
    let (chain, key) = authority.signed("guest");
    ListenerSettings {
        protocol,
        tls: TlsSettings {
            key: Some(KeySource::Inline { key: Secret::new(key), chain }),
            trust: TrustSource::Inline(authority.0.pem()),
            ..TlsSettings::default()
        },
        clients: ClientCertificates::Requested,
        plain_users: [("broker".to_owned(), Secret::from("hunter2"))].into(),
        principals: vec!["User:CN=broker".to_owned(), "User:broker".to_owned()],
    }
}

/// A request: key, version, correlation id 7, no client id, then the body.
fn request(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = (10 + body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&api_key.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&7_i32.to_be_bytes());
    frame.extend_from_slice(&(-1_i16).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn answer(stream: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).expect("the rest of it");
    frame
}

/// ListOffsets v10 of consumer -1 over nothing: the shortest request that only a broker may make.
fn list_offsets() -> Vec<u8> {
    request(2, 10, &[0, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 0, 0])
}

fn plain_login(password: &str) -> (Vec<u8>, Vec<u8>) {
    let message = format!("\0broker\0{password}");
    let mut body = vec![0, message.len() as u8 + 1];
    body.extend_from_slice(message.as_bytes());
    body.push(0);
    (request(17, 1, &[&[0, 5][..], b"PLAIN"].concat()), request(36, 2, &body))
}

#[test]
fn a_certificate_of_a_listed_principal_is_served_and_others_are_named() {
    let authority = Authority::new();
    let listening = listening(&with_tls(&authority, SecurityProtocol::Ssl));
    let mut known = authority.connect(listening.address, Some("broker"));
    known.write_all(&request(18, 0, &[])).expect("sent");
    assert_eq!(answer(&mut known)[..6], [0, 0, 0, 7, 0, 0]);
    // It may ask; whether it is registered is the next question.
    known.write_all(&list_offsets()).expect("sent");
    assert_eq!(listening.refusal(), FollowerRefusal::NotABroker);
    for (name, principal) in [(Some("stranger"), "User:CN=stranger"), (None, "User:ANONYMOUS")] {
        let mut stranger = authority.connect(listening.address, name);
        let _ = stranger.write_all(&list_offsets());
        let principal = principal.into();
        assert_eq!(listening.refusal(), FollowerRefusal::NotAllowed { principal });
    }
    listening.end();
}

#[test]
fn a_follower_logs_in_before_it_asks_and_a_wrong_password_is_told() {
    let authority = Authority::new();
    let listening = listening(&with_tls(&authority, SecurityProtocol::SaslSsl));
    let mut hasty = authority.connect(listening.address, None);
    hasty.write_all(&list_offsets()).expect("sent");
    assert_eq!(listening.refusal(), FollowerRefusal::NotAuthenticated);
    let mut greedy = authority.connect(listening.address, None);
    greedy.write_all(&[0, 0x20, 0, 0]).expect("sent");
    assert_eq!(listening.refusal(), FollowerRefusal::NotAuthenticated, "2 MiB of a stranger are not held");

    let mut wrong = authority.connect(listening.address, None);
    let (handshake, login) = plain_login("hunter3");
    wrong.write_all(&handshake).expect("sent");
    assert_eq!(answer(&mut wrong)[..6], [0, 0, 0, 7, 0, 0]);
    wrong.write_all(&login).expect("sent");
    assert_eq!(answer(&mut wrong)[5..7], [0, 58]);
    assert_eq!(listening.refusal(), FollowerRefusal::WrongProof { fault: ProofFault::WrongProof });

    let mut right = authority.connect(listening.address, None);
    let (handshake, login) = plain_login("hunter2");
    // All at once: each request waits for the answer before it.
    right.write_all(&[request(18, 0, &[]), handshake, login, list_offsets()].concat()).expect("sent");
    assert_eq!(answer(&mut right)[..6], [0, 0, 0, 7, 0, 0]);
    assert_eq!(answer(&mut right)[..6], [0, 0, 0, 7, 0, 0]);
    assert_eq!(answer(&mut right)[5..7], [0, 0]);
    assert_eq!(listening.refusal(), FollowerRefusal::NotABroker);
    listening.end();
}

#[test]
fn plaintext_garbage_and_a_handshake_that_dribbles_end_the_connection() {
    let authority = Authority::new();
    let listening = listening(&with_tls(&authority, SecurityProtocol::Ssl));
    for beginning in [request(18, 0, &[]), vec![22, 3, 1, 0, 4, 1, 0, 0, 0], vec![0xff; 70_000]] {
        let mut stranger = TcpStream::connect(listening.address).expect("it listens");
        // The other end may close before all of it is sent.
        let _ = stranger.write_all(&beginning);
        let why = listening.refusal();
        assert!(matches!(why, FollowerRefusal::Insecure { .. }), "{why:?}");
    }
    // A record that never ends, a byte at a time, until the other end closes.
    let mut dribbling = TcpStream::connect(listening.address).expect("it listens");
    dribbling.write_all(&[22, 3, 3, 0x0f, 0xa0]).expect("sent");
    poll::poll_until("the other end closes", || dribbling.write_all(&[1]).is_err());
    assert_eq!(listening.refusal(), FollowerRefusal::TimedOut);
    listening.end();
}

/// Far more than a shard has places for.
const HALF_OPEN: usize = 3_000;
/// Where the flood comes from: any address of this host's loopback.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 9];

/// The beginning of a ClientHello, and never more.
fn half_handshake(address: SocketAddr, number: usize) -> Option<TcpStream> {
    const HELLO: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut stranger = twinlog_tests::raw_follower::stream_from(IpAddr::from(ELSEWHERE), address)?;
    stranger.write_all(&HELLO[..number % HELLO.len()]).ok()?;
    Some(stranger)
}

#[test]
fn thousands_of_half_handshakes_hold_up_no_follower_that_is_there_or_comes() {
    let authority = Authority::new();
    let listening = listening(&with_tls(&authority, SecurityProtocol::Ssl));
    let mut known = authority.connect(listening.address, Some("broker"));
    let ask = |known: &mut StreamOwned<ClientConnection, TcpStream>| {
        known.write_all(&request(18, 0, &[])).expect("it stays open");
        assert_eq!(answer(known)[..6], [0, 0, 0, 7, 0, 0]);
    };
    ask(&mut known);
    let mut half = Vec::new();
    for number in 0..HALF_OPEN {
        half.extend(half_handshake(listening.address, number));
        if number % 300 == 0 {
            ask(&mut known);
            ask(&mut authority.connect(listening.address, Some("broker")));
        }
    }
    ask(&mut known);
    let (mut rated, mut aged) = (0, 0);
    while aged == 0 {
        match listening.refusal() {
            FollowerRefusal::TooMany => rated += 1,
            FollowerRefusal::Unproven => {}
            // Those that were let in are closed when their handshake does not end.
            FollowerRefusal::TimedOut => aged += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(rated > HALF_OPEN / 2, "{rated} of {} were over the rate of their address", half.len());
    listening.end();
}
