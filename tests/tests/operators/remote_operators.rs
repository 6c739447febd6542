//! Operators over the network, with the real program and real clusters: who gets in, who may change what, and that
//! neither strangers nor a flood of them touch the mirror.

use crate::PROGRAM;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use twinlog_tests::cli::{Finished, Program, new_token};
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::ports::{self, Port};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::security::Authority;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const TOPIC: &str = "orders";
/// The address that the flood comes from; operators come from 127.0.0.1.
const FLOOD: [u8; 4] = [127, 0, 0, 99];
/// Many times the places of one address, and more than all places.
const HALF_OPEN: usize = 200;

/// Where a daemon serves operators, and what opens it.
struct Listeners {
    files: tempfile::TempDir,
    authority: Authority,
    https: Port,
    http: Port,
    viewer: String,
    operator: String,
}

impl Listeners {
    fn new() -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let authority = Authority::new(files.path(), "of the operators");
        authority.sign("server.pem", "127.0.0.1", false);
        authority.sign("doer.pem", "doer", false);
        let ((viewer, first), (operator, second)) =
            (new_token(PROGRAM, "wall", "viewer"), new_token(PROGRAM, "ops", "operator"));
        let (https, http) = (ports::take(), ports::take());
        let listeners = Self { files, authority, https, http, viewer, operator };
        listeners.put("tokens", &format!("{first}\n{second}\n"));
        listeners.put("viewer", &listeners.viewer);
        listeners.put("operator", &listeners.operator);
        listeners.put("wrong", "twl_wrong");
        listeners
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Replaced at once, as those do who renew secrets.
    fn put(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).expect("written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::rename(&new, self.path(name)).expect("renamed");
    }

    /// Keys of the top level, as TOML.
    fn keys(&self) -> String {
        let file = |name: &str| format!("{:?}", self.path(name).display().to_string());
        format!(
            "admin.listeners = \"https://127.0.0.1:{}, http://127.0.0.1:{}\"\nadmin.tokens.file = {}\n\
             admin.ssl.keystore.location = {}\nadmin.ssl.truststore.location = {}\n\
             admin.ssl.client.auth = \"requested\"\nadmin.ssl.principals = \"operator=CN=doer\"\n",
            self.https.number,
            self.http.number,
            file("tokens"),
            file("server.pem"),
            file("authority.pem"),
        )
    }

    /// A command over https, by the token in a file.
    fn command(&self, words: &[&str], token: &str) -> Finished {
        self.over_tls(words).argument("--token-file").argument(self.path(token)).run()
    }

    fn over_tls(&self, words: &[&str]) -> Program {
        let server = format!("https://127.0.0.1:{}", self.https.number);
        let program = Program::new(PROGRAM).arguments(words).argument("--server").argument(server);
        program.argument("--ca").argument(self.authority.certificate())
    }

    /// Bytes as they are, to the plain listener, by the operator; the answer, whole.
    fn raw(&self, line: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http.number)).expect("it listens");
        stream.set_read_timeout(Some(poll::HANG_LIMIT)).expect("a socket");
        let (token, body) = (&self.operator, if line.starts_with("GET ") { "" } else { "{}" });
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nauthorization: Bearer {token}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[test]
fn remote_operators_get_in_by_token_and_certificate_and_strangers_touch_nothing() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    source.scenario().create_topic(TOPIC, 2, 1, &[]);
    source.scenario().produce_mixed(&Produce::to(TOPIC));
    let listeners = Listeners::new();
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &[TOPIC], &[]);
    let mirror = mirror.with_replaced("[link.dr]\n", &format!("{}[link.dr]\n", listeners.keys()));
    let mut daemon = mirror.start();
    mirror.poll_until_followed(&source, &destination, TOPIC, &ALL);
    mirror.poll_until_state(TOPIC, "ACTIVE");
    roles(&listeners);
    browsers(&listeners);
    rotated(&listeners);
    flooded(&listeners, &mirror, &source, &destination);
    listeners.command(&["mirror", "promote", TOPIC], "operator").expect_code(0);
    audited(&listeners, &mirror);
    daemon.expect_running();
    daemon.terminate();
    let said = daemon.wait().expect_code(0);
    for secret in [&listeners.viewer, &listeners.operator, "twl_wrong"] {
        assert!(!said.stderr.contains(secret) && !said.stdout.contains(secret), "the log holds a token");
    }
    assert!(said.stderr.contains("audit: token ops from 127.0.0.1: POST "), "{}", said.stderr);
}

fn roles(listeners: &Listeners) {
    println!("roles");
    let dry_run = ["mirror", "promote", TOPIC, "--dry-run", "--link", "dr"];
    let status = listeners.command(&["status", "--output", "json"], "viewer").expect_code(0).json();
    assert_eq!((status["link_name"].as_str(), status["mode"].as_str()), (Some("dr"), Some("guest")));
    let listed = listeners.command(&["mirror", "list", "--output", "json"], "viewer").expect_code(0).json();
    assert_eq!(listed["data"][0]["mirror_topic_name"], TOPIC);
    let refused = listeners.command(&dry_run, "viewer").expect_code(1);
    assert!(
        refused.stderr.contains("token wall is a viewer") && refused.stderr.contains("40301"),
        "{refused:?}"
    );
    listeners.command(&dry_run, "operator").expect_code(0);
    let wrong = listeners.command(&dry_run, "wrong").expect_code(1);
    assert!(wrong.stderr.contains("40101") && !wrong.stderr.contains("twl_wrong"), "{wrong:?}");
    let doer = listeners.over_tls(&dry_run).argument("--cert").argument(listeners.path("doer.pem"));
    doer.run().expect_code(0);
    let nobody = listeners.over_tls(&["status"]).run().expect_code(1);
    assert!(nobody.stderr.contains("40101"), "{nobody:?}");
    let other = Authority::new(&listeners.path("other"), "of somebody else");
    let server = format!("https://127.0.0.1:{}", listeners.https.number);
    let words = ["status", "--server", &server, "--ca", &other.certificate().display().to_string()];
    let impostor = Program::new(PROGRAM).arguments(words).run().expect_code(1);
    assert!(impostor.stderr.contains("not signed by an authority"), "{impostor:?}");
}

fn browsers(listeners: &Listeners) {
    println!("browsers");
    let leave = "POST /kafka/v3/clusters/-/links/dr/guest:leave";
    let json = "content-type: application/json\r\n";
    for (headers, status) in [
        ("host: localhost\r\ncontent-type: text/plain\r\n".to_owned(), "415"),
        (format!("host: localhost\r\norigin: https://evil.example\r\n{json}"), "403"),
        (format!("host: localhost\r\nsec-fetch-site: cross-site\r\n{json}"), "403"),
        (format!("host: evil.example\r\n{json}"), "421"),
    ] {
        let answer = listeners.raw(leave, &headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("x-frame-options: deny"), "{answer}");
    }
    let healthy = listeners.raw("GET /healthz", "host: localhost\r\n");
    assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
}

fn rotated(listeners: &Listeners) {
    println!("rotates");
    let status = |token: &str| listeners.command(&["status"], token).code();
    let old = fs::read_to_string(listeners.path("tokens")).expect("written");
    let (new, line) = new_token(PROGRAM, "later", "operator");
    let kept = old.lines().next_back().expect("two lines").to_owned();
    listeners.put("later", &new);
    listeners.put("tokens", &format!("{line}\n{kept}\n"));
    poll::poll_until("the new token counts", || status("later") == Some(0));
    assert_eq!((status("viewer"), status("operator")), (Some(1), Some(0)), "one went, one stayed");
    // Another authority signs from now on: whoever believes the old one alone does not get through.
    let other = Authority::new(&listeners.path("renewed"), "of later");
    let renewed = other.sign("server.pem", "127.0.0.1", false);
    let text = fs::read_to_string(renewed).expect("written");
    let before = fs::read_to_string(listeners.path("server.pem")).expect("written");
    listeners.put("server.pem", &text);
    poll::poll_until("the new certificate is shown", || status("operator") == Some(1));
    let server = format!("https://127.0.0.1:{}", listeners.https.number);
    let renewed = Program::new(PROGRAM).arguments(["status", "--server", &server]).argument("--ca");
    let renewed = renewed.argument(other.certificate()).argument("--token-file");
    renewed.argument(listeners.path("operator")).run().expect_code(0);
    listeners.put("server.pem", &before);
    poll::poll_until("the certificate of before is shown", || status("operator") == Some(0));
}

fn flooded(listeners: &Listeners, mirror: &GuestMirror, source: &Cluster, destination: &Cluster) {
    println!("floods");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connect = || {
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from((FLOOD, 0))).expect("an address of this host");
            socket.connect(SocketAddr::from(([127, 0, 0, 1], listeners.https.number))).await
        })
    };
    let mut half_open: Vec<_> = (0..HALF_OPEN).filter_map(|_| connect().ok()).collect();
    assert!(half_open.len() > HALF_OPEN / 2, "{} connections", half_open.len());
    source.scenario().produce_mixed(&Produce { seed: 2, ..Produce::to(TOPIC) });
    half_open.extend((0..HALF_OPEN).filter_map(|_| connect().ok()));
    mirror.command(&["status"]).expect_code(0);
    listeners.command(&["status"], "operator").expect_code(0);
    half_open.extend((0..HALF_OPEN).filter_map(|_| connect().ok()));
    mirror.poll_until_followed(source, destination, TOPIC, &ALL);
    mirror.assert_same_on(source, destination, TOPIC, &ALL);
    drop(half_open);
}

fn audited(listeners: &Listeners, mirror: &GuestMirror) {
    println!("audits");
    let newest = || {
        let told = listeners.command(&["audit", "--output", "json"], "operator").expect_code(0).json();
        told["data"].as_array().expect("a list").clone()
    };
    let promoted = newest()[0].clone();
    // Strangers have a row a second at most: this one may have to wait for its own.
    let rows = poll::poll_for("a name that was rebound is audited", || {
        listeners.raw("DELETE /nothing", "host: evil.example\r\n");
        let rows = newest();
        rows.iter().any(|row| row["status"] == 421).then_some(rows)
    });
    let has = |who: &str, what: &str, status: u16, code: &str| {
        let is = |row: &Value| {
            row["who"] == who && row["what"] == what && row["status"] == status && row["error_code"] == code
        };
        assert!(rows.iter().any(is), "{who} {what} {status} {code} is not in {rows:#?}");
    };
    has("token wall", "", 403, "40301");
    has("token ops", TOPIC, 200, "");
    has("certificate CN=doer", TOPIC, 200, "");
    has("nobody", "", 401, "40101");
    has("token ops", "", 415, "41501");
    has("token ops", "", 403, "40302");
    has("nobody", "", 421, "42101");
    assert_eq!((&promoted["what"], &promoted["validate_only"]), (&Value::from(TOPIC), &Value::from(false)));
    assert_eq!((&promoted["peer"], &promoted["method"]), (&Value::from("127.0.0.1"), &Value::from("POST")));
    let over_socket = mirror.command(&["audit", "--output", "json"]).expect_code(0).json();
    assert_eq!(over_socket["data"].as_array().map(Vec::len), Some(rows.len()), "questions are not audited");
    let mut environment = Command::new(PROGRAM);
    environment.args(["audit", "--limit", "1", "--ca"]).arg(listeners.authority.certificate());
    environment.env("TWINLOG_SERVER", format!("https://127.0.0.1:{}", listeners.https.number));
    environment.env("TWINLOG_TOKEN_FILE", listeners.path("operator")).stdin(Stdio::null());
    let told = environment.output().expect("it runs");
    assert!(
        told.status.success() && String::from_utf8_lossy(&told.stdout).contains("DELETE /nothing"),
        "{told:?}"
    );
    assert_private(&mirror.data_directory());
}

/// The socket and the state are their owner's alone.
fn assert_private(data: &Path) {
    for name in ["admin.sock", "state.db"] {
        let mode = fs::metadata(data.join(".twinlog").join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
