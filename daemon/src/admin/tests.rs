//! Server and client over a real socket, with a backend that answers from memory.

use super::answer::{ClusterView, ListView, MirrorActionView, MirrorTopicView, StatusView};
use super::body::MirrorOrder;
use super::client::{AdminClient, ClientError};
use super::test_backend::{TestDaemon, run};
use super::*;
use crate::control::state::StateDatabase;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use tokio::sync::{mpsc, watch};

const LINK: &str = "/kafka/v3/clusters/-/links/dr";

/// Sends bytes as they are and reads until the server ends the connection.
fn raw(daemon: &TestDaemon, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket_path(daemon.directory.path())).unwrap();
    // The server may refuse and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn client(daemon: &TestDaemon) -> AdminClient {
    AdminClient::new(daemon.directory.path())
}

#[test]
fn a_question_reaches_whoever_reads_the_queue_and_comes_back_whole() {
    let daemon = TestDaemon::start();
    let clusters: ListView<ClusterView> = run(client(&daemon).get("/kafka/v3/clusters")).unwrap();
    assert_eq!((clusters.kind.as_str(), clusters.data[0].cluster_id.as_str()), ("KafkaClusterList", "abc"));
    assert_eq!(clusters.metadata.path, "/kafka/v3/clusters");
    let status: StatusView = run(client(&daemon).get("/twinlog/v1/status")).unwrap();
    assert_eq!((status.guests[0].broker_id, status.guests[0].heartbeat_slack_ms), (900, Some(8_000)));
    let path = format!("{LINK}/mirrors/orders");
    let mirror: MirrorTopicView = run(client(&daemon).get(&path)).unwrap();
    assert!(mirror.partitions[0].followers[0].in_sync);
}

#[test]
fn an_order_carries_its_words() {
    let daemon = TestDaemon::start();
    let order = MirrorOrder {
        mirror_topic_names: vec!["orders".into()],
        allow_moving_source: Some(true),
        ..MirrorOrder::default()
    };
    let path = format!("{LINK}/mirrors:promote?validate_only=true");
    let answer: ListView<MirrorActionView> = run(client(&daemon).post(&path, &order)).unwrap();
    assert!(answer.data[0].is_right());
    assert_eq!(
        daemon.asked(),
        ["Promote { at: LinkAddress { cluster: None, link: dr }, selection: Names([orders]), \
          validate_only: true, allowed: Allowed { moving_source: true, producer_overlap: false }"]
    );
}

#[test]
fn a_refusal_has_its_status_its_code_and_its_sentence() {
    let daemon = TestDaemon::start();
    let client = client(&daemon);
    let asked = client.get::<MirrorTopicView>("/kafka/v3/clusters/-/links/xy/mirrors/orders");
    let refused = run(asked).unwrap_err();
    assert_eq!(refused, ClientError::Refused { code: 40402, message: "there is no link xy".into() });
    let answer = raw(&daemon, b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\"error_code\":40404"), "{answer}");
}

#[test]
fn health_needs_nobody_and_readiness_says_what_is_waited_for() {
    let daemon = TestDaemon::start();
    assert!(raw(&daemon, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let waiting = raw(&daemon, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains("metadata is read"), "{waiting}");
    daemon.readiness.send(Readiness::Ready).unwrap();
    assert!(raw(&daemon, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert!(daemon.asked().is_empty());
}

#[test]
fn bodies_headers_and_nonsense_are_bounded() {
    let daemon = TestDaemon::start();
    let declared = format!("POST {LINK}/mirrors HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n");
    let large = [declared.into_bytes(), vec![b' '; 2_000_000]].concat();
    assert!(raw(&daemon, &large).starts_with("HTTP/1.1 413 "));
    let headers = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert!(raw(&daemon, headers.as_bytes()).starts_with("HTTP/1.1 431 "));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    assert!(raw(&daemon, long.as_bytes()).starts_with("HTTP/1.1 4"));
    assert!(raw(&daemon, b"\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let wrong = format!("POST {LINK}/mirrors HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{\"a\":[[[[");
    assert!(raw(&daemon, wrong.as_bytes()).contains("40001"));
    assert!(daemon.asked().is_empty(), "nothing of it reached the daemon");
}

#[test]
fn a_queue_that_is_full_or_gone_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (requests, mut waiting) = mpsc::channel(1);
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let state = StateDatabase::open(directory.path()).unwrap();
        let backend = Backend { requests, readiness, state };
        let server = serve(AdminSocket::bind(directory.path()).unwrap(), backend);
        let server = tokio::spawn(server);
        let client = AdminClient::new(directory.path());
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.get::<StatusView>("/twinlog/v1/status").await }
        });
        while waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        let busy = client.get::<StatusView>("/twinlog/v1/status").await.unwrap_err();
        assert!(matches!(busy, ClientError::Refused { code: 50301, .. }), "{busy}");
        // Whoever reads the queue ends without answering.
        waiting.close();
        drop(waiting.recv().await);
        let ended = first.await.unwrap().unwrap_err();
        assert!(ended.to_string().contains("is ending"), "{ended}");
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let gone = client.get::<StatusView>("/twinlog/v1/status").await.unwrap_err();
        assert_eq!(gone, ClientError::NotRunning { path: socket_path(directory.path()) });
        assert!(gone.to_string().contains("start one with twinlog run"), "{gone}");
    });
}

#[test]
fn as_many_at_once_as_the_kernel_keeps_are_all_answered() {
    let daemon = TestDaemon::start();
    let client = client(&daemon);
    run(async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let client = client.clone();
            all.spawn(
                async move { client.get::<ListView<MirrorTopicView>>(&format!("{LINK}/mirrors")).await },
            );
        }
        while let Some(outcome) = all.join_next().await {
            assert_eq!(outcome.unwrap().unwrap().data.len(), 2);
        }
    });
}
