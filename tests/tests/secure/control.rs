//! Connections of the control core to real brokers over TLS and SASL: what works, and what each mistake says.

use crate::PROGRAM;
use crate::tokens::unsigned_token;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use twinlog_daemon::control::guest::{Controllers, SharedImage, follow};
use twinlog_daemon::control::source_client::{Connection, ConnectionOptions};
use twinlog_daemon::security::{
    ClientSecurity, KeySource, SaslMechanism, SaslSettings, SecurityProtocol, SecuritySettings, StoreType,
    TlsSettings, TrustSource,
};
use twinlog_tests::cli::{Finished, Program};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::security::{Authority, PASSWORD, USER};
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const MODULES: &str = "org.apache.kafka.common.security";

/// One broker with every listener, and what the operator of a link to it writes.
struct World {
    cluster: Cluster,
    directory: TempDir,
}

#[test]
fn control_connections_are_secured_as_configured_and_every_mistake_names_its_cure() {
    let world =
        World { cluster: Cluster::start(ClusterOptions::secured()), directory: tempfile::tempdir().unwrap() };
    world.cluster.scenario().create_topic("orders", 2, 1, &[]);
    world.cluster.scenario().produce_mixed(&Produce::to("orders"));
    every_protocol_and_mechanism_is_spoken(&world);
    each_mistake_of_tls_is_told_with_its_cure(&world);
    a_wrong_password_is_named_and_never_shown(&world);
    a_store_is_compared_with_a_source_behind_tls_and_a_login(&world);
    a_session_that_ends_is_renewed_on_the_live_connection(&world);
    a_renewed_certificate_is_used_by_the_next_connection(&world);
    a_controller_has_a_login_of_its_own(&world);
}

impl World {
    fn trusted(&self) -> String {
        format!(
            "ssl.truststore.location = \"{}\"\n",
            self.cluster.secured().authority.certificate().display()
        )
    }

    /// A file with a link to one listener.
    fn file(&self, servers: &str, keys: &str) -> PathBuf {
        let path = self.directory.path().join("twinlog.toml");
        let text = format!(
            "[link.west]\ntopics = [\"orders\"]\n[link.west.source]\nbootstrap.servers = \"{servers}\"\n{keys}"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn check(&self, servers: &str, keys: &str) -> Finished {
        let finished =
            Program::new(PROGRAM).arguments(["check", "--config"]).argument(self.file(servers, keys)).run();
        for output in [&finished.stdout, &finished.stderr] {
            assert!(!output.contains(PASSWORD), "the password is shown:\n{output}");
        }
        finished
    }

    #[track_caller]
    fn works(&self, listener: &str, keys: &str) {
        let told = self.check(&self.cluster.secured().address(listener), keys);
        let told = told.expect_code(0).stdout;
        assert!(told.contains("1 topics with 2 partitions match"), "{listener} {keys}\n{told}");
    }

    #[track_caller]
    fn fails(&self, servers: &str, keys: &str, words: &[&str]) {
        let told = self.check(servers, keys).expect_code(1).stdout;
        for word in words {
            assert!(told.contains(word), "{word:?} is not told:\n{told}");
        }
    }
}

fn sasl(protocol: &str, mechanism: &str, password: &str) -> String {
    format!(
        "security.protocol = \"{protocol}\"\nsasl.mechanism = \"{mechanism}\"\nsasl.username = \"{USER}\"\n\
         sasl.password = \"{password}\"\n"
    )
}

fn every_protocol_and_mechanism_is_spoken(world: &World) {
    let ssl = format!("security.protocol = \"SSL\"\n{}", world.trusted());
    world.works("SSL", &ssl);
    world.works("SSL", &format!("{ssl}ssl.enabled.protocols = \"TLSv1.2\"\n"));
    let ours = world.cluster.secured().authority.sign("client.pem", "twin", false);
    world.works("MTLS", &format!("{ssl}ssl.keystore.location = \"{}\"\n", ours.display()));
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        world.works("SASL_PLAINTEXT", &sasl("SASL_PLAINTEXT", mechanism, PASSWORD));
        world.works("SASL_SSL", &(sasl("SASL_SSL", mechanism, PASSWORD) + &world.trusted()));
    }
    let secret = world.directory.path().join("jaas");
    let jaas =
        format!("{MODULES}.scram.ScramLoginModule required username=\"{USER}\" password=\"{PASSWORD}\";\n");
    fs::write(&secret, jaas).unwrap();
    let keys = format!(
        "security.protocol = \"SASL_SSL\"\nsasl.mechanism = \"SCRAM-SHA-512\"\n\
         sasl.jaas.config = \"${{directory:{}:jaas}}\"\n",
        world.directory.path().display()
    );
    world.works("SASL_SSL", &(keys + &world.trusted()));
    let token = world.directory.path().join("token");
    fs::write(&token, unsigned_token(Duration::from_secs(3_600))).unwrap();
    let keys = format!(
        "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"OAUTHBEARER\"\n\
         sasl.oauthbearer.token.endpoint.url = \"file://{}\"\n",
        token.display()
    );
    world.works("SASL_PLAINTEXT", &keys);
    fs::write(&token, "not.a.token").unwrap();
    world.fails(&world.cluster.secured().address("SASL_PLAINTEXT"), &keys, &["OAUTHBEARER", "refused"]);
}

fn each_mistake_of_tls_is_told_with_its_cure(world: &World) {
    let secured = world.cluster.secured();
    let ssl = format!("security.protocol = \"SSL\"\n{}", world.trusted());
    let others = Authority::new(&world.directory.path().join("others"), "of somebody else");
    let stranger = format!(
        "security.protocol = \"SSL\"\nssl.truststore.location = \"{}\"\n",
        others.certificate().display()
    );
    world.fails(
        &secured.address("SSL"),
        &stranger,
        &["not signed by an authority", "ssl.truststore.location"],
    );
    let by_name = secured.address("SSL").replace("127.0.0.1", "localhost");
    world.fails(&by_name, &ssl, &["not for localhost but for", "ssl.endpoint.identification.algorithm"]);
    world.works("SSL", &format!("{ssl}ssl.endpoint.identification.algorithm = \"\"\n"));
    world.fails(&secured.address("EXPIRED"), &ssl, &["has expired", "renew"]);
    world.fails(&secured.address("MTLS"), &ssl, &["ssl.keystore.location"]);
    let foreign = others.sign("client.pem", "twin", false);
    let foreign = format!("{ssl}ssl.keystore.location = \"{}\"\n", foreign.display());
    world.fails(&secured.address("MTLS"), &foreign, &["ssl.keystore.location"]);
    world.fails(&world.cluster.bootstrap(), &ssl, &["is the port a listener with TLS"]);
    world.fails(&secured.address("SSL"), "", &["and security.protocol the listener's?"]);
    let gone = "security.protocol = \"SSL\"\nssl.truststore.location = \"/nowhere/ca.pem\"\n";
    let told = world.check(&secured.address("SSL"), gone).expect_code(2).stderr;
    assert!(
        told.contains("[link.NAME.source]: ssl.truststore.location: cannot read /nowhere/ca.pem"),
        "{told}"
    );
    let run = Program::new(PROGRAM).arguments(["run", "--until-caught-up", "--data-dir"]);
    let run = run.argument(world.directory.path().join("run")).argument("--config");
    run.argument(world.file(&secured.address("SSL"), &ssl)).run().expect_code(0);
}

fn a_wrong_password_is_named_and_never_shown(world: &World) {
    let address = world.cluster.secured().address("SASL_PLAINTEXT");
    let wrong = format!("{PASSWORD}-no-more");
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let keys = sasl("SASL_PLAINTEXT", mechanism, &wrong);
        // The second question of one check is held back: one attempt was enough.
        let words = ["authentication failed", mechanism, USER, &address, "the next attempt is made in"];
        world.fails(&address, &keys, &words);
    }
    let path = world.file(&address, &sasl("SASL_PLAINTEXT", "PLAIN", PASSWORD));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let told = Program::new(PROGRAM).arguments(["check", "--config"]).argument(&path).run().expect_code(2);
    assert!(told.stderr.contains("chmod 600") && !told.stderr.contains(PASSWORD), "{}", told.stderr);
    let keys = sasl("SASL_PLAINTEXT", "PLAIN", PASSWORD) + "sasl.jaas.config = \"" + PASSWORD + "\"\n";
    let told = world.check(&address, &keys).expect_code(2).stderr;
    assert!(told.contains("sasl.jaas.config: the login module"), "{told}");
}

fn a_store_is_compared_with_a_source_behind_tls_and_a_login(world: &World) {
    let data = world.directory.path().join("data");
    let run =
        Program::new(PROGRAM).arguments(["run", "--until-caught-up", "--topic", "orders", "--data-dir"]);
    let run = run.argument(&data).argument("--source").argument(world.cluster.bootstrap());
    run.arguments(["--link", "west"]).run().expect_code(0);
    let address = world.cluster.secured().address("SASL_SSL");
    let keys = sasl("SASL_SSL", "SCRAM-SHA-256", PASSWORD) + &world.trusted();
    let verify = Program::new(PROGRAM).arguments(["verify", "--data-dir"]).argument(&data);
    let verify = verify.arguments(["--source", &address, "--config"]).argument(world.file(&address, &keys));
    let told = verify.run().expect_code(0).stdout;
    assert_eq!(told.matches("equal to the source's").count(), 2, "{told}");
}

fn options(security: &SecuritySettings) -> ConnectionOptions {
    ConnectionOptions {
        client_id: "test".to_owned(),
        request_timeout: Duration::from_secs(30),
        security: ClientSecurity::from_settings(security).unwrap(),
    }
}

fn plain() -> SecuritySettings {
    SecuritySettings {
        protocol: SecurityProtocol::SaslPlaintext,
        sasl: SaslSettings {
            mechanism: Some(SaslMechanism::Plain),
            username: USER.to_owned(),
            password: PASSWORD.into(),
            ..SaslSettings::default()
        },
        ..SecuritySettings::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn a_session_that_ends_is_renewed_on_the_live_connection(world: &World) {
    let (runtime, options) = (runtime(), options(&plain()));
    let server = world.cluster.secured().address("SASL_PLAINTEXT").parse().unwrap();
    let mut connection = runtime.block_on(Connection::open(&server, &options)).unwrap();
    assert_eq!(connection.logins(), 1);
    let request = kafka_protocol::messages::MetadataRequest::default();
    poll::poll_until("the session was renewed three times", || {
        let answer = runtime.block_on(connection.exchange(&request, 9)).expect("the connection lives");
        assert!(answer.brokers.len() == 1);
        connection.logins() > 3
    });
}

fn a_renewed_certificate_is_used_by_the_next_connection(world: &World) {
    let authority = &world.cluster.secured().authority;
    let ours = authority.sign("renewed.pem", "twin", true);
    let options = options(&SecuritySettings {
        protocol: SecurityProtocol::Ssl,
        tls: TlsSettings {
            key: Some(key_file(&ours)),
            trust: TrustSource::File {
                path: authority.certificate(),
                store_type: StoreType::ByContent,
                password: Default::default(),
            },
            ..TlsSettings::default()
        },
        ..SecuritySettings::default()
    });
    let server = world.cluster.secured().address("MTLS").parse().unwrap();
    let runtime = runtime();
    assert!(runtime.block_on(Connection::open(&server, &options)).is_err(), "it has expired");
    authority.sign("renewed.pem", "twin", false);
    poll::poll_until("the new certificate is shown", || {
        runtime.block_on(Connection::open(&server, &options)).is_ok()
    });
}

fn key_file(path: &Path) -> KeySource {
    let (path, password) = (path.to_owned(), Default::default());
    KeySource::File { path, store_type: StoreType::Pem, password }
}

fn a_controller_has_a_login_of_its_own(world: &World) {
    runtime().block_on(async {
        let image = Arc::new(SharedImage::default());
        let mut moves = image.moves();
        let controllers = Controllers::new(vec![world.cluster.own_controller().parse().unwrap()]);
        let following = tokio::spawn(follow(controllers, options(&plain()), 999, image.clone()));
        moves.wait_for(|state| state.is_ready).await.expect("it is followed");
        following.abort();
        assert!(!image.read().brokers().is_empty());
    });
}
