//! Links between real clusters that speak TLS and SASL: the same bytes, for the source's records and for followers.

use crate::PROGRAM;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use twinlog_tests::guest::GuestMirror;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Codec, Isolation, zoo};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
const KILLS: usize = 3;
/// How long a login lasts at brokers that ask for one.
const SESSION: Duration = Duration::from_secs(3);
const CONFIG_COMMAND: &str = "kafka.admin.ConfigCommand";

/// An authority, and files of keys that it signed, in Kafka's PEM form: the key, then its certificate.
struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of this test");
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("authority.pem"), authority.pem()).expect("written");
        Self { directory, authority }
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// For everybody who is on this host, under a name of its own.
    fn signed(&self, name: &str) -> PathBuf {
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("legal names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "twinlog");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        let path = self.directory.path().join(format!("{name}.pem"));
        std::fs::write(&path, format!("{}{}", key.serialize_pem(), certificate.pem())).expect("written");
        path
    }
}

/// The same cluster with another protocol between its brokers.
fn secured(options: ClusterOptions, protocol: &str, certificates: &Certificates) -> ClusterOptions {
    let text = |path: PathBuf| path.display().to_string();
    let map = format!(
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,EXTERNAL:PLAINTEXT,ADMIN:SASL_PLAINTEXT,INTERNAL:{protocol}"
    );
    let mut options = options
        .with_override("listener.security.protocol.map", &map)
        .with_override("ssl.keystore.type", "PEM")
        .with_override("ssl.keystore.location", &text(certificates.signed("broker")))
        .with_override("ssl.truststore.type", "PEM")
        .with_override("ssl.truststore.location", &text(certificates.authority()));
    if protocol == "SSL" {
        options = options.with_override("listener.name.internal.ssl.client.auth", "required");
    } else {
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"broker\" \
                     password=\"of-brokers\";";
        options = options
            .with_override("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512")
            .with_override("listener.name.internal.sasl.enabled.mechanisms", "SCRAM-SHA-512")
            .with_override("connections.max.reauth.ms", &SESSION.as_millis().to_string())
            .with_override("listener.name.internal.scram-sha-512.sasl.jaas.config", login);
    }
    options
}

fn create_user(cluster: &Cluster, name: &str, password: &str) {
    let (server, config) = (cluster.bootstrap(), format!("SCRAM-SHA-512=[password={password}]"));
    let entity = ["--entity-type", "users", "--entity-name", name];
    let words = ["--bootstrap-server", &server, "--alter", "--add-config", &config];
    let output = cluster.tool(CONFIG_COMMAND, &[&words[..], &entity].concat());
    assert!(output.status.success(), "{output:?}");
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

fn steady(topic: &str) -> Produce {
    Produce { value_bytes: 700, codec: Codec::Lz4, ..Produce::to(topic) }
}

/// A store that is killed while it copies, from the listener INTERNAL of a cluster.
fn mirrored_from(protocol: &str, keys: impl FnOnce(&Certificates) -> String) {
    let certificates = Certificates::new();
    let options = ClusterOptions { internal_listener: true, ..ClusterOptions::default() };
    let cluster = Cluster::start(secured(options, protocol, &certificates));
    if protocol != "SSL" {
        create_user(&cluster, "broker", "of-brokers");
        create_user(&cluster, "twin", "of-twin");
    }
    zoo::fill(&cluster);
    let topics = ["rich", "append-time", "compacted", "empty", "busy"];
    let table = format!(
        "[link.default.source]\nsecurity.protocol = \"{protocol}\"\nssl.truststore.location = {}\n{}",
        quoted(&certificates.authority()),
        keys(&certificates)
    );
    let mirror = Mirror::new(PROGRAM, &cluster.internal_address(1), &topics).with_configuration(&table);
    cluster.scenario().create_topic("busy", 3, 1, &[zoo::SMALL_SEGMENTS]);
    cluster.scenario().start_producing("steady", &steady("busy"), 1_000);
    let stored = || {
        let segments = walk(&mirror.data_directory().join("default"));
        segments.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|found| found.len()).sum::<u64>()
    };
    for _ in 0..KILLS {
        let before = stored();
        let mut running = mirror.tailing().spawn();
        poll::poll_until("the store grows", || {
            running.expect_running();
            stored() > before
        });
        running.kill_hard();
    }
    if protocol != "SSL" {
        a_session_is_renewed_on_the_live_connection(&mirror);
    }
    cluster.scenario().stop_producing("steady");
    mirror.caught_up();
    for topic in topics {
        mirror.assert_same(&cluster, 1, topic, Isolation::ReadCommitted);
    }
    mirror.verify(false).expect_code(0);
}

/// A broker closes a connection on which somebody asks after the session's end.
fn a_session_is_renewed_on_the_live_connection(mirror: &Mirror) {
    let mut running = mirror.tailing().spawn();
    let started = Instant::now();
    poll::poll_until("four sessions are over", || {
        running.expect_running();
        started.elapsed() > 4 * SESSION
    });
    running.terminate();
    let finished = running.wait().expect_code(0);
    assert!(!finished.stderr.contains("connection to broker"), "{}", finished.stderr);
}

/// Segment files below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_source_with_tls_and_client_certificates_is_mirrored_byte_for_byte() {
    mirrored_from("SSL", |certificates| {
        format!("ssl.keystore.location = {}\n", quoted(&certificates.signed("twin")))
    });
}

#[test]
fn a_source_with_tls_and_scram_is_mirrored_byte_for_byte() {
    mirrored_from("SASL_SSL", |_| {
        "sasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"twin\"\nsasl.password = \"of-twin\"\n"
            .to_owned()
    });
}

/// Stock brokers that speak `protocol` among themselves follow a guest that is killed meanwhile.
fn followed_over(protocol: &str, keys: &[&str]) {
    let certificates = Certificates::new();
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(secured(ClusterOptions::destination(1), protocol, &certificates));
    if protocol != "SSL" {
        create_user(&destination, "broker", "of-brokers");
    }
    zoo::fill(&source);
    let names: Vec<&str> = zoo::TOPICS.iter().map(|(name, _)| *name).collect();
    let own = quoted(&certificates.signed("guest"));
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &names, &[]).with_destination_keys(&[
        &format!("guest.followers.security.protocol = \"{protocol}\""),
        &format!("guest.followers.ssl.keystore.location = {own}"),
        &format!("guest.followers.ssl.truststore.location = {}", quoted(&certificates.authority())),
    ]);
    let mirror = mirror.with_destination_keys(keys);
    for _ in 0..KILLS {
        let mut daemon = mirror.start();
        mirror.poll_until_followed(&source, &destination, "rich", &ALL);
        daemon.expect_running();
        daemon.kill_hard();
        source.scenario().produce_mixed(&Produce { count: 200, seed: 7, ..Produce::to("rich") });
    }
    let daemon = mirror.start();
    for name in &names {
        mirror.poll_until_followed(&source, &destination, name, &ALL);
        mirror.assert_same_on(&source, &destination, name, &ALL);
    }
    daemon.terminate();
    daemon.wait().expect_code(0);
}

#[test]
fn brokers_with_client_certificates_follow_a_guest() {
    followed_over(
        "SSL",
        &[
            "guest.followers.ssl.client.auth = \"required\"",
            "guest.followers.principals = \"User:CN=broker,O=twinlog\"",
        ],
    );
}

#[test]
fn brokers_that_log_in_by_scram_follow_a_guest() {
    followed_over("SASL_SSL", &["guest.followers.principals = \"User:broker\""]);
}
