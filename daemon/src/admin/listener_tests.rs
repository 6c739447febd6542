//! Listeners over real sockets and TLS: who gets in, who may change what, and what strangers are told.

use super::access::{AdminSettings, ListenerAddress};
use super::answer::{AuditView, ListView, MirrorTopicView, StatusView};
use super::body::MirrorOrder;
use super::client::{AdminClient, ClientError};
use super::guard::Scheme;
use super::peers::{CONNECTIONS_MAX, CONNECTIONS_OF_PEER_MAX};
use super::remote::{RemoteError, RemoteServer, RemoteSettings};
use super::role::{Principals, Role};
use super::test_backend::{TestDaemon, run};
use super::tokens;
use crate::security::{ClientCertificates, KeySource, StoreType, TlsSettings, TrustSource};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LINK: &str = "/kafka/v3/clusters/-/links/dr";
/// After this long a wait is a hang.
const PATIENCE: Duration = Duration::from_secs(60);
const JSON: &str = "content-type: application/json\r\n";

/// A daemon with a listener of each kind, and whatever opens it.
struct Guarded {
    daemon: TestDaemon,
    files: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    viewer: String,
    operator: String,
}

fn put(path: &std::path::Path, text: &str) {
    // Replaced at once, as those do who renew certificates.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

impl Guarded {
    fn start(clients: ClientCertificates) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = tempfile::tempdir().unwrap();
        let (viewer, operator) =
            (tokens::create("eve", Role::Viewer).unwrap(), tokens::create("ops", Role::Operator).unwrap());
        put(&files.path().join("tokens"), &format!("{}\n{}\n", viewer.line, operator.line));
        put(&files.path().join("authority"), &authority.pem());
        put(&files.path().join("server"), &signed(&authority, "server", &["twinlog.example", "127.0.0.1"]));
        let path = |name: &str| files.path().join(name);
        let at = |scheme| ListenerAddress { scheme, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let settings = AdminSettings {
            listeners: vec![at(Scheme::Http), at(Scheme::Https)],
            tls: TlsSettings {
                key: Some(KeySource::File {
                    path: path("server"),
                    store_type: StoreType::ByContent,
                    password: Default::default(),
                }),
                trust: TrustSource::File {
                    path: path("authority"),
                    store_type: StoreType::ByContent,
                    password: Default::default(),
                },
                ..TlsSettings::default()
            },
            clients,
            principals: Principals::parse("viewer=CN=looker;operator=CN=doer").unwrap(),
            tokens_file: Some(path("tokens")),
            is_loopback_open: false,
            hosts: vec!["proxy.example".to_owned()],
        };
        let daemon = TestDaemon::with(&settings);
        Self { daemon, files, authority, viewer: viewer.token, operator: operator.token }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The product's own client over TLS, with a token or a certificate of this name.
    fn client(&self, token: Option<&str>, certificate: Option<&str>) -> Result<AdminClient, RemoteError> {
        let token_file = token.map(|token| {
            put(&self.path("token"), token);
            self.path("token")
        });
        let certificate = certificate.map(|name| {
            put(&self.path("client"), &signed(&self.authority, name, &[]));
            self.path("client")
        });
        let server = format!("https://{}", self.daemon.addresses[1]);
        let authorities = Some(self.path("authority"));
        let settings = RemoteSettings { server, token_file, authorities, certificate, key: None };
        RemoteServer::new(&settings).map(AdminClient::remote)
    }

    /// Sends a request to the plain listener as it is; the answer, whole.
    fn raw(&self, line: &str, headers: &str, body: &str) -> String {
        let stream = TcpStream::connect(self.daemon.addresses[0]).unwrap();
        exchange(stream, &format!("{line} HTTP/1.1\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    /// The same, by the operator, with a right host.
    fn ordered(&self, line: &str, headers: &str, body: &str) -> String {
        self.raw(line, &format!("host: localhost\r\n{}{headers}", bearer(&self.operator)), body)
    }

    fn audit(&self) -> Vec<String> {
        let rows = run(self.daemon.state.audit(100)).unwrap();
        let told = rows.into_iter().map(|row| {
            let dry = if row.is_dry_run { " dry" } else { "" };
            format!("{} {} [{}]{dry} {} {}", row.who, row.method, row.what, row.status, row.error_code)
        });
        told.collect()
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Chain and key in one file, as PEM.
fn signed(authority: &CertifiedIssuer<'static, KeyPair>, name: &str, hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    format!("{}{}", params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn exchange(mut stream: TcpStream, request: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may refuse and close before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn assert_refused(answer: &str, status: u16, code: u32) {
    let is_right = answer.starts_with(&format!("HTTP/1.1 {status} "))
        && answer.contains(&format!("\"error_code\":{code},\"message\":\""));
    assert!(is_right, "not {status} with {code}: {answer}");
}

/// Asks until a condition holds.
#[track_caller]
fn poll_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn code_of<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> u32 {
    match outcome {
        Err(ClientError::Refused { code, .. }) => code,
        other => panic!("not refused by the daemon: {other:?}"),
    }
}

fn promote() -> MirrorOrder {
    MirrorOrder { mirror_topic_names: vec!["orders".into()], ..MirrorOrder::default() }
}

#[test]
fn a_viewer_looks_and_an_operator_also_changes_over_tls() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let path = format!("{LINK}/mirrors:promote?validate_only=true");
    let viewer = guarded.client(Some(&guarded.viewer), None).unwrap();
    let status: StatusView = run(viewer.get("/twinlog/v1/status")).unwrap();
    assert_eq!(status.link_name, "dr");
    assert_eq!(code_of(run(viewer.post::<_, serde_json::Value>(&path, &promote()))), 40301);
    assert_eq!(code_of(run(viewer.get::<serde_json::Value>("/twinlog/v1/audit"))), 40301);
    assert_eq!(guarded.daemon.asked(), ["Status"]);
    let operator = guarded.client(Some(&guarded.operator), None).unwrap();
    run(operator.post::<_, serde_json::Value>(&path, &promote())).unwrap();
    let unknown = MirrorOrder { mirror_topic_names: vec!["nothing".into()], ..MirrorOrder::default() };
    run(operator.post::<_, serde_json::Value>(&format!("{LINK}/mirrors:promote"), &unknown)).unwrap();
    let rows = guarded.audit();
    assert_eq!(
        rows,
        [
            "token ops POST [nothing] 200 NO_SUCH_MIRROR_TOPIC",
            "token ops POST [orders] dry 200 ",
            "token eve POST [] 403 40301"
        ]
    );
    let told: ListView<AuditView> = run(operator.get("/twinlog/v1/audit?limit=1")).unwrap();
    assert_eq!((told.data.len(), told.data[0].who.as_str()), (1, "token ops"));
    assert_eq!((told.data[0].peer.as_str(), told.data[0].what.as_str()), ("127.0.0.1", "nothing"));
}

#[test]
fn the_socket_is_an_operators_and_its_orders_are_audited_with_the_user() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let socket = AdminClient::new(guarded.daemon.directory.path());
    let path = format!("{LINK}/guest:leave");
    assert_eq!(code_of(run(socket.post::<_, serde_json::Value>(&path, &MirrorOrder::default()))), 42201);
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(guarded.audit(), [format!("uid {uid} POST [] 422 42201")]);
    assert_eq!(run(guarded.daemon.state.audit(1)).unwrap()[0].peer, "socket");
}

#[test]
fn who_shows_nothing_or_a_wrong_token_is_told_how_to_log_in_and_then_held_back() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let host = "host: localhost\r\n";
    let nobody = guarded.raw("GET /twinlog/v1/status", host, "");
    assert_refused(&nobody, 401, 40101);
    assert!(nobody.to_ascii_lowercase().contains("www-authenticate: bearer realm="), "{nobody}");
    for wrong in [
        "authorization: Bearer twl_wrong\r\n".to_owned(),
        format!("authorization: Basic {}\r\n", guarded.operator),
    ] {
        assert_refused(&guarded.raw("GET /twinlog/v1/status", &format!("{host}{wrong}"), ""), 401, 40101);
    }
    let wrong = format!("{host}{}", bearer("twl_wrong"));
    let mut last = String::new();
    poll_until("wrong tokens are held back", || {
        last = guarded.raw("POST /kafka/v3/clusters/-/links/dr/guest:leave", &wrong, "{}");
        last.starts_with("HTTP/1.1 429 ")
    });
    assert_refused(&last, 429, 42901);
    assert!(last.to_ascii_lowercase().contains("retry-after: "), "{last}");
    assert!(!last.contains("twl_wrong"));
    // Nobody is locked out by a stranger behind the same address.
    assert!(guarded.ordered("GET /twinlog/v1/status", "", "").starts_with("HTTP/1.1 200 "));
    assert_eq!(guarded.daemon.asked(), ["Status"]);
    // Strangers' orders have a row a second at most, all of them together.
    let strangers = guarded.audit();
    assert!(
        !strangers.is_empty() && strangers.iter().all(|row| row.starts_with("nobody POST [] 401")),
        "{strangers:?}"
    );
}

#[test]
fn health_needs_a_host_and_no_login_and_everything_is_safe_in_a_browser() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let answer = guarded.raw("GET /healthz", "host: 127.0.0.1\r\n", "");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    assert!(guarded.raw("GET /readyz", "host: localhost\r\n", "").starts_with("HTTP/1.1 503 "));
    assert_refused(&guarded.raw("POST /healthz", "host: localhost\r\n", ""), 401, 40101);
    for answer in
        [answer, guarded.raw("GET /x", "host: localhost\r\n", ""), guarded.ordered("GET /x", "", "")]
    {
        let answer = answer.to_ascii_lowercase();
        for header in [
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cache-control: no-store",
            "content-security-policy: default-src 'self'",
        ] {
            assert!(answer.contains(header), "{header} is missing: {answer}");
        }
        assert!(!answer.contains("access-control") && !answer.contains("set-cookie"), "{answer}");
    }
}

#[test]
fn names_that_are_rebound_to_us_and_pages_of_other_sites_change_nothing() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let token = bearer(&guarded.operator);
    let status = |host: &str| guarded.raw("GET /twinlog/v1/status", &format!("host: {host}\r\n{token}"), "");
    for good in ["localhost", "127.0.0.1:1234", "twinlog.example", "PROXY.example:80"] {
        assert!(status(good).starts_with("HTTP/1.1 200 "), "{good}");
    }
    assert_refused(&status("evil.example"), 421, 42101);
    assert_refused(&guarded.raw("GET http://evil.example/healthz", "host: localhost\r\n", ""), 421, 42101);
    let before = guarded.daemon.asked().len();
    let leave = format!("POST {LINK}/guest:leave");
    for (headers, status, code) in [
        (String::new(), 415, 41501),
        ("content-type: text/plain\r\n".to_owned(), 415, 41501),
        (format!("{JSON}origin: https://evil.example\r\n"), 403, 40302),
        (format!("{JSON}origin: null\r\n"), 403, 40302),
        (format!("{JSON}sec-fetch-site: cross-site\r\n"), 403, 40302),
    ] {
        assert_refused(&guarded.ordered(&leave, &headers, "{}"), status, code);
    }
    assert_refused(&guarded.ordered(&format!("DELETE {LINK}/mirrors/orders"), "", ""), 415, 41501);
    assert_eq!(guarded.daemon.asked().len(), before, "nothing of it reached the daemon");
    let own = format!("{JSON}origin: http://localhost\r\nsec-fetch-site: same-origin\r\n");
    assert_refused(&guarded.ordered(&leave, &own, "{}"), 422, 42201);
    let rows = guarded.audit();
    assert_eq!((rows.len(), rows[0].as_str()), (7, "token ops POST [] 422 42201"));
    assert!(rows[1..].iter().all(|row| row.starts_with("token ops ")), "{rows:?}");
}

#[test]
fn certificates_have_the_roles_of_their_names_and_no_others() {
    let guarded = Guarded::start(ClientCertificates::Requested);
    let path = format!("{LINK}/mirrors:promote?validate_only=true");
    let looker = guarded.client(None, Some("looker")).unwrap();
    run(looker.get::<StatusView>("/twinlog/v1/status")).unwrap();
    assert_eq!(code_of(run(looker.post::<_, serde_json::Value>(&path, &promote()))), 40301);
    let doer = guarded.client(None, Some("doer")).unwrap();
    run(doer.post::<_, serde_json::Value>(&path, &promote())).unwrap();
    let other = guarded.client(None, Some("other")).unwrap();
    assert_eq!(code_of(run(other.get::<StatusView>("/twinlog/v1/status"))), 40301);
    let none = guarded.client(None, None).unwrap();
    assert_eq!(code_of(run(none.get::<StatusView>("/twinlog/v1/status"))), 40101);
    // What is said goes before what is shown.
    let wrong = guarded.client(Some("twl_wrong"), Some("doer")).unwrap();
    assert_eq!(code_of(run(wrong.get::<StatusView>("/twinlog/v1/status"))), 40101);
    let right = guarded.client(Some(&guarded.viewer), Some("doer")).unwrap();
    assert_eq!(code_of(run(right.post::<_, serde_json::Value>(&path, &promote()))), 40301);
    assert_eq!(
        guarded.audit(),
        [
            "token eve POST [] 403 40301",
            "certificate CN=doer POST [orders] dry 200 ",
            "certificate CN=looker POST [] 403 40301"
        ]
    );
}

#[test]
fn without_the_certificate_that_is_required_there_is_no_connection() {
    let guarded = Guarded::start(ClientCertificates::Required);
    let token = guarded.operator.clone();
    let without = guarded.client(Some(&token), None).unwrap();
    assert!(!matches!(
        run(without.get::<StatusView>("/twinlog/v1/status")),
        Ok(_) | Err(ClientError::Refused { .. })
    ));
    let with = guarded.client(Some(&token), Some("anybody")).unwrap();
    run(with.get::<StatusView>("/twinlog/v1/status")).unwrap();
    put(&guarded.path("authority"), &Guarded::start(ClientCertificates::NotAsked).authority.pem());
    let stranger = guarded.client(Some(&token), Some("anybody")).unwrap();
    let refused = run(stranger.get::<StatusView>("/twinlog/v1/status")).unwrap_err();
    assert!(matches!(refused, ClientError::Remote(RemoteError::Security { .. })), "{refused}");
}

#[test]
fn tokens_and_certificates_that_change_on_disk_count_from_then_on() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let status = |token: &str| {
        guarded.raw("GET /twinlog/v1/status", &format!("host: localhost\r\n{}", bearer(token)), "")
    };
    assert!(status(&guarded.operator).starts_with("HTTP/1.1 200 "));
    let new = tokens::create("next", Role::Operator).unwrap();
    put(&guarded.path("tokens"), &new.line);
    poll_until("the new token counts", || status(&new.token).starts_with("HTTP/1.1 200 "));
    assert!(!status(&guarded.operator).starts_with("HTTP/1.1 200 "), "the old one does not");
    // A file that cannot be used leaves what was there.
    put(&guarded.path("tokens"), "broken");
    assert!(status(&new.token).starts_with("HTTP/1.1 200 "));
    let other = signed(&guarded.authority, "server", &["other.example", "127.0.0.1"]);
    put(&guarded.path("server"), &other);
    let host = |name: &str| {
        guarded.raw("GET /healthz", &format!("host: {name}\r\n"), "").starts_with("HTTP/1.1 200 ")
    };
    poll_until("the names of the new certificate count", || host("other.example"));
    assert!(!host("twinlog.example"));
    let client = guarded.client(Some(&new.token), None).unwrap();
    run(client.get::<StatusView>("/twinlog/v1/status")).unwrap();
}

#[test]
fn half_open_connections_take_their_address_places_and_nobody_elses() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let socket = AdminClient::new(guarded.daemon.directory.path());
    let bound = |last: u8| {
        run(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
            let connected = socket.connect(guarded.daemon.addresses[1]).await;
            connected.and_then(tokio::net::TcpStream::into_std)
        })
    };
    let mut half_open: Vec<TcpStream> = Vec::new();
    for _ in 0..4 * CONNECTIONS_OF_PEER_MAX {
        half_open.extend(bound(77).ok());
    }
    let operator = guarded.client(Some(&guarded.operator), None).unwrap();
    run(operator.get::<StatusView>("/twinlog/v1/status")).unwrap();
    for peer in 0..8 {
        half_open.extend((0..CONNECTIONS_OF_PEER_MAX).filter_map(|_| bound(80 + peer).ok()));
    }
    assert!(half_open.len() > CONNECTIONS_MAX);
    run(socket.get::<StatusView>("/twinlog/v1/status")).unwrap();
    // Without a word of theirs, and without one of ours, the places come back.
    poll_until("a place is free again", || run(operator.get::<StatusView>("/twinlog/v1/status")).is_ok());
    let garbage =
        exchange(TcpStream::connect(guarded.daemon.addresses[1]).unwrap(), "GET / HTTP/1.1\r\n\r\n");
    assert!(!garbage.contains("HTTP/1.1"), "no word without TLS: {garbage}");
}

#[test]
fn an_order_whose_peer_goes_away_is_done_and_audited_all_the_same() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let mut stream = TcpStream::connect(guarded.daemon.addresses[0]).unwrap();
    let body = r#"{"mirror_topic_names":["orders"]}"#;
    let head =
        format!("host: localhost\r\n{}{JSON}content-length: {}\r\n", bearer(&guarded.operator), body.len());
    stream.write_all(format!("POST {LINK}/mirrors:promote HTTP/1.1\r\n{head}\r\n{body}").as_bytes()).unwrap();
    drop(stream);
    poll_until("the order is audited", || !guarded.audit().is_empty());
    // Its end may come before its body was read; what reached the daemon is never told as if it had not.
    let is_done = guarded.audit()[0] == "token ops POST [orders] 200 ";
    assert_eq!(is_done, !guarded.daemon.asked().is_empty(), "{:?}", guarded.audit());
}

#[test]
fn lists_come_in_pages_and_the_client_puts_them_together() {
    let guarded = Guarded::start(ClientCertificates::NotAsked);
    let client = guarded.client(Some(&guarded.viewer), None).unwrap();
    let path = format!("{LINK}/mirrors?page_size=1");
    let first: ListView<MirrorTopicView> = run(client.get(&path)).unwrap();
    let next = first.metadata.next.unwrap();
    assert_eq!((first.data.len(), next.as_str()), (1, format!("{path}&page_token=dr:bills").as_str()));
    let second: ListView<MirrorTopicView> = run(client.get(&next)).unwrap();
    assert_eq!((second.data[0].mirror_topic_name.as_str(), second.metadata.next), ("orders", None));
    let whole: ListView<MirrorTopicView> = run(client.list(&path)).unwrap();
    assert_eq!((whole.data.len(), whole.metadata.next), (2, None));
    let wrong = run(client.get::<ListView<MirrorTopicView>>(&format!("{LINK}/mirrors?page_size=1001")));
    assert_eq!(code_of(wrong), 40001);
}

#[test]
fn a_loopback_listener_that_asks_for_nothing_still_refuses_other_sites() {
    let at = ListenerAddress { scheme: Scheme::Http, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
    let settings = AdminSettings { listeners: vec![at], is_loopback_open: true, ..AdminSettings::default() };
    let daemon = TestDaemon::with(&settings);
    assert_eq!(daemon.addresses[0].ip(), IpAddr::from([127, 0, 0, 1]));
    let ask = |headers: &str| {
        let stream = TcpStream::connect(daemon.addresses[0]).unwrap();
        exchange(
            stream,
            &format!("POST {LINK}/guest:leave HTTP/1.1\r\n{headers}content-length: 2\r\n\r\n{{}}"),
        )
    };
    assert_refused(&ask(&format!("host: localhost\r\n{JSON}")), 422, 42201);
    assert_refused(&ask(&format!("host: evil.example\r\n{JSON}")), 421, 42101);
    assert_refused(&ask("host: localhost\r\ncontent-type: text/plain\r\n"), 415, 41501);
    assert_refused(&ask(&format!("host: localhost\r\norigin: http://evil.example\r\n{JSON}")), 403, 40302);
    let rows = run(daemon.state.audit(10)).unwrap();
    assert!(rows.iter().any(|row| row.who == "anybody on this host" && row.status == 403), "{rows:?}");
}
