//! Lanes with TLS against brokers in memory: the same bytes as in plaintext, and every hostile beginning named.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::{Cluster, EmbeddedSource, TopicOptions};
use twinlog_daemon::security::{
    ClientSecurity, SecurityProtocol, SecuritySettings, TlsSettings, TrustSource,
};
use twinlog_daemon::shard::ShardHandle;
use twinlog_daemon::shard::mailbox::{Command, Event, PartitionCounters};
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::lane::LaneFault;
use twinlog_sync::wire::fetch_request::Topic;
use twinlog_tests::poll;
use twinlog_tests::shard::{self, PATIENCE, send, wait_for};

const TOPIC: &str = "secured";
const PARTITIONS: i32 = 3;

/// A certificate for 127.0.0.1 that vouches for itself.
struct Identity {
    pem: String,
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

fn identity(host: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![host.to_owned()]).expect("a name").self_signed(&key);
    let certificate = certificate.expect("a certificate");
    Identity { pem: certificate.pem(), certificate: certificate.der().clone(), key: key.serialize_der() }
}

fn server(identity: &Identity, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let builder = builder.expect("a version").with_no_client_auth();
    let key = PrivateKeyDer::try_from(identity.key.clone()).expect("a key");
    Arc::new(builder.with_single_cert(vec![identity.certificate.clone()], key).expect("they belong together"))
}

fn trusting(identity: &Identity) -> ClientSecurity {
    let trust = TrustSource::Inline(identity.pem.clone());
    let tls = TlsSettings { trust, ..TlsSettings::default() };
    let settings = SecuritySettings { protocol: SecurityProtocol::Ssl, tls, ..SecuritySettings::default() };
    ClientSecurity::from_settings(&settings).expect("a certificate is given")
}

/// Batches from a few bytes to a megabyte, so that records begin and end everywhere.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1);
    let options = TopicOptions { partitions: PARTITIONS as u32, ..TopicOptions::default() };
    cluster.create_topic(TOPIC, options);
    for index in 0..PARTITIONS {
        for (number, value_bytes) in
            [10, 1_000, 16_300, 16_384, 40_000, 100_000, 900_000].into_iter().cycle().take(42).enumerate()
        {
            let batch =
                BatchText::at(0).timestamp(number as i64).values(2 + index.unsigned_abs(), value_bytes);
            cluster.append(TOPIC, index, batch.build());
        }
    }
    cluster
}

struct Running {
    shard: ShardHandle,
    counters: Vec<Arc<PartitionCounters>>,
}

fn start(directory: &Path, address: SocketAddr, topic_id: TopicId, source: ClientSecurity) -> Running {
    std::fs::create_dir_all(directory.join("journal")).expect("a directory");
    let journal = directory.join("journal").join("journal-0");
    let shard = shard::start(&journal, |options| options.source = source);
    send(&shard, Command::Broker { id: 0, address, host: "127.0.0.1".into() });
    let topic = Arc::new(Topic { name: TOPIC.to_owned(), id: topic_id });
    let counters = (0..PARTITIONS).map(|index| add(&shard, directory, &topic, index)).collect();
    Running { shard, counters }
}

fn add(shard: &ShardHandle, directory: &Path, topic: &Arc<Topic>, index: i32) -> Arc<PartitionCounters> {
    let add = shard::new_partition(directory, topic, index).expect("an empty directory");
    let counters = add.counters.clone();
    shard::hand_over(add, 0).into_iter().for_each(|command| send(shard, command));
    counters
}

fn end(running: Running) {
    shard::end(running.shard);
}

fn mirrored_over(version: &'static SupportedProtocolVersion) {
    let identity = identity("127.0.0.1");
    let source = EmbeddedSource::start_secure(cluster(), server(&identity, version)).expect("the loopback");
    let address = source.bootstrap().parse().expect("one broker");
    let id = source.with_cluster(|cluster| cluster.topic_id(TOPIC)).expect("just created");
    let directory = tempfile::tempdir().expect("a directory");
    let running = start(directory.path(), address, id, trusting(&identity));
    let ends =
        |index| source.with_cluster(|cluster| cluster.partition(TOPIC, index).unwrap().log_end_offset());
    let deadline = Instant::now() + PATIENCE;
    while !(0..PARTITIONS)
        .all(|index| running.counters[index as usize].log_end.load(Relaxed) == ends(index).value())
    {
        assert!(Instant::now() < deadline, "the copy does not end");
        // Whatever the shard says is looked at, so that its mailbox stays empty.
        let _ = running.shard.events.recv_timeout(Duration::from_millis(20));
    }
    let counters = running.shard.counters.clone();
    end(running);
    assert_eq!(counters.direct_bytes.load(Relaxed), 0, "nothing but plaintext is received in place");
    for index in 0..PARTITIONS {
        let file = directory.path().join(format!("{TOPIC}-{index}")).join("00000000000000000000.log");
        let expected: Vec<_> = source.with_cluster(|cluster| {
            cluster.partition(TOPIC, index).unwrap().batches_from(Offset::ZERO).collect()
        });
        assert!(std::fs::read(&file).expect("readable") == expected.concat(), "{TOPIC}-{index} differs");
    }
    source.stop();
}

#[test]
fn a_copy_over_tls_1_3_has_the_same_bytes() {
    mirrored_over(&TLS13);
}

#[test]
fn a_copy_over_tls_1_2_has_the_same_bytes() {
    mirrored_over(&TLS12);
}

/// The first failure of a lane with TLS towards whoever `behave` is.
fn fault_against(identity: &Identity, behave: impl Fn(TcpStream) + Send + 'static) -> LaneFault {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            behave(stream);
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    let running = start(directory.path(), address, TopicId([7; 16]), trusting(identity));
    let fault = wait_for(&running.shard, |event| match event {
        Event::LaneFailed { fault, .. } => Some(fault),
        _ => None,
    });
    end(running);
    fault
}

fn words(fault: &LaneFault) -> String {
    assert!(matches!(fault, LaneFault::Insecure { .. }), "{fault:?}");
    fault.to_string()
}

#[test]
fn a_broker_without_tls_and_garbage_are_named_as_what_they_are() {
    let identity = identity("127.0.0.1");
    let plaintext = fault_against(&identity, |mut stream| {
        // What a broker without TLS says to a frame that it cannot read: nothing, and it closes.
        let _ = stream.read(&mut [0; 4]);
    });
    assert!(words(&plaintext).contains("TLS"), "{plaintext}");
    let garbage = fault_against(&identity, |mut stream| {
        let _ = stream.write_all(&[0, 0, 0, 40, 0, 18, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.read(&mut [0; 4096]);
    });
    assert!(words(&garbage).contains("PLAINTEXT"), "{garbage}");
}

#[test]
fn a_handshake_that_dribbles_is_given_up_at_the_deadline_of_connecting() {
    let fault = fault_against(&identity("127.0.0.1"), |mut stream| {
        // A handshake record of 4,000 bytes that never ends.
        let _ = stream.write_all(&[22, 3, 3, 0x0f, 0xa0]);
        poll::poll_until("the other end closes", || stream.write_all(&[2]).is_err());
    });
    assert_eq!(fault, LaneFault::TimedOut);
}

#[test]
fn a_certificate_of_an_unknown_authority_or_another_host_is_refused_with_its_cure() {
    let (known, other, elsewhere) = (identity("127.0.0.1"), identity("127.0.0.1"), identity("10.0.0.1"));
    for (server_of, trusted, cure) in [
        (&other, &known, "ssl.truststore.location"),
        (&elsewhere, &elsewhere, "ssl.endpoint.identification.algorithm"),
    ] {
        let source =
            EmbeddedSource::start_secure(cluster(), server(server_of, &TLS13)).expect("the loopback");
        let address = source.bootstrap().parse().expect("one broker");
        let directory = tempfile::tempdir().expect("a directory");
        let running = start(directory.path(), address, TopicId([7; 16]), trusting(trusted));
        let fault = wait_for(&running.shard, |event| match event {
            Event::LaneFailed { fault, .. } => Some(fault),
            _ => None,
        });
        assert!(words(&fault).contains(cure), "{fault}");
        end(running);
        source.stop();
    }
}
