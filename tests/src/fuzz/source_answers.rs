//! Whole answers to the control core's client, over a connection to ourselves.
//!
//! The embedded source answers rightly; the input says which answer is damaged and how, so that every damage
//! is near to something valid. The client may fail in any way it has a sentence for; it may not panic, hang
//! or take an answer for another one's.
//!
//! ```text
//!   input   what is asked 1 │ highest version 1 │ damages: kind 1, place 2, value 1 ...
//! ```

use super::wire_bytes::small_cluster;
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use twinlog_daemon::config::{HostPort, SourceSettings};
use twinlog_daemon::control::source_client::{ClientError, LogEdge, SourceClient};
use twinlog_daemon::embedded::{Cluster, Reply};
use twinlog_daemon::security::ClientSecurity;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::partition::Leader;
use twinlog_sync::wire::fetch_request::IsolationLevel;

const BROKER: i32 = 1;
/// Length and correlation id: damage begins behind them, or else nothing would look at it.
const UNTOUCHED: usize = 8;
const DAMAGE_BYTES: usize = 4;
/// Numbers that are written over four bytes.
const EDGES: [i32; 6] = [-1, i32::MAX, i32::MIN, 0, 1, 1 << 24];
/// Longer than any machine needs for a loopback exchange: a time-out is a hang.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// API key of the damaged answer, and its newest version that both sides know.
const ASKED: [(i16, i16); 5] = [(18, 0), (3, 13), (2, 10), (23, 4), (1, 12)];

pub fn source_answer(input: &[u8]) {
    let Some((&[asked, version], damages)) = input.split_first_chunk::<2>() else { return };
    let (api_key, newest) = ASKED[usize::from(asked) % ASKED.len()];
    let mut cluster = small_cluster();
    cluster.limit_version(api_key, i16::from(version).rem_euclid(newest + 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of our own");
        let address = listener.local_addr().expect("it is bound");
        let server = HostPort { host: address.ip().to_string(), port: address.port() };
        cluster.set_address(BROKER, &server.host, server.port);
        let client = SourceClient::new(&SourceSettings {
            bootstrap_servers: vec![server],
            client_id: "fuzz".to_owned(),
            client_rack: String::new(),
            metadata_max_age: Duration::from_secs(60),
            request_timeout: REQUEST_TIMEOUT,
            backoff: twinlog_sync::backoff::BackoffLimits::default(),
            security: ClientSecurity::plaintext(),
        });
        tokio::select! {
            error = ask(&client, api_key) => check(error),
            () = serve(&listener, &mut cluster, api_key, damages) => unreachable!("it serves for ever"),
        }
    });
}

/// Asks what brings the damaged answer.
async fn ask(client: &SourceClient, api_key: i16) -> Option<ClientError> {
    let partition = TopicPartition::new("orders", 0).expect("a legal name");
    let leader = Leader { broker: BROKER, epoch: LeaderEpoch::UNKNOWN };
    let view = match client.metadata(None).await {
        Ok(view) => view,
        Err(error) => return Some(error),
    };
    if !view.brokers.contains_key(&BROKER) {
        return None;
    }
    // The damaged metadata may name any address: nobody else is asked.
    match api_key {
        2 => {
            let asked = [(partition, LeaderEpoch::UNKNOWN)];
            client.log_edges(BROKER, IsolationLevel::ReadCommitted, LogEdge::End, &asked).await.err()
        }
        23 => client.end_of_epoch(leader, &partition, LeaderEpoch(0)).await.err(),
        1 => client.read(leader, &partition, Offset::ZERO).await.err(),
        _ => None,
    }
}

fn check(error: Option<ClientError>) {
    if let Some(error) = error {
        assert!(!matches!(error, ClientError::TimedOut { .. }), "{error}");
        assert!(!error.to_string().is_empty());
    }
}

/// Serves one connection after the other.
async fn serve(listener: &TcpListener, cluster: &mut Cluster, api_key: i16, damages: &[u8]) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("the listener stays");
        while serve_one(&mut stream, cluster, api_key, damages).await.is_some() {}
    }
}

async fn serve_one(
    stream: &mut TcpStream,
    cluster: &mut Cluster,
    api_key: i16,
    damages: &[u8],
) -> Option<()> {
    let length = stream.read_u32().await.ok()?;
    let mut request = vec![0; length as usize];
    stream.read_exact(&mut request).await.ok()?;
    let is_damaged = request.get(..2)? == api_key.to_be_bytes();
    let mut answer = match cluster.handle(BROKER, 0, Bytes::from(request)) {
        Reply::Now(chunks) => chunks.concat(),
        Reply::Wait(_) | Reply::Silence | Reply::Close(_) => return None,
    };
    if is_damaged {
        damages.as_chunks::<DAMAGE_BYTES>().0.iter().for_each(|each| damage(&mut answer, *each));
        let length = (answer.len() - 4) as u32;
        answer[..4].copy_from_slice(&length.to_be_bytes());
    }
    stream.write_all(&answer).await.ok()
}

fn damage(answer: &mut Vec<u8>, [kind, high, low, value]: [u8; DAMAGE_BYTES]) {
    let body = answer.len() - UNTOUCHED;
    let at = UNTOUCHED + usize::from(u16::from_be_bytes([high, low])) % (body + 1);
    let overwrite = |answer: &mut [u8], with: &[u8]| {
        let end = (at + with.len()).min(answer.len());
        answer[at..end].copy_from_slice(&with[..end - at]);
    };
    match kind % 6 {
        0 => overwrite(answer, &[value]),
        1 => overwrite(answer, &EDGES[usize::from(value) % EDGES.len()].to_be_bytes()),
        2 => overwrite(answer, &[0xff, 0xff, 0xff, 0xff, value & 0x0f]),
        3 => answer.truncate(at),
        4 => drop(answer.splice(at..at, vec![value; usize::from(value) % 40 + 1])),
        _ => drop(answer.drain(at..(at + usize::from(value)).min(answer.len()))),
    }
}

/// Each answer in several versions, undamaged and damaged at many places.
pub fn scripts() -> Vec<Vec<u8>> {
    let mut examples = Vec::new();
    for (asked, (_, newest)) in ASKED.iter().enumerate() {
        for version in [*newest, newest / 2, 1.min(*newest)] {
            let choices = [asked as u8, version as u8];
            examples.push(choices.to_vec());
            let damages = (0..12).map(|place| [place, 0, place * 7, place * 3]);
            examples.extend(damages.map(|damage| [&choices[..], &damage].concat()));
        }
    }
    examples
}
