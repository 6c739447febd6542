//! Links that live while their tokens end, their password is changed, their authority is replaced.

use crate::PROGRAM;
use crate::tokens::TokenServer;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use twinlog_tests::cli::Running;
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::security::{Authority, HOST, PASSWORD, USER};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 2;
const CONFIG_COMMAND: &str = "kafka.admin.ConfigCommand";
const TOKEN_COMMAND: &str = "org.apache.kafka.tools.DelegationTokenCommand";
const SCRAM_MODULE: &str = "org.apache.kafka.common.security.scram.ScramLoginModule";
/// Short, and long enough for the last twentieth of it to be more than the second that claims are rounded to.
const TOKEN_LIFE: Duration = Duration::from_secs(15);
/// Failed logins that a password policy must be able to bear: one of the data thread and one of the control core
/// for each pause of ten seconds and more, while the test looks on.
const FAILED_LOGINS_MAX: usize = 8;

struct World {
    cluster: Cluster,
    directory: TempDir,
}

#[test]
fn a_link_lives_on_whatever_becomes_of_its_credentials() {
    let world =
        World { cluster: Cluster::start(ClusterOptions::secured()), directory: tempfile::tempdir().unwrap() };
    world.cluster.scenario().create_topic(TOPIC, PARTITIONS as u32, 1, &[]);
    tokens_end_and_are_renewed_on_live_connections(&world);
    a_changed_password_is_named_and_its_successor_is_found(&world);
    delegation_tokens_are_believed(&world);
    authorities_are_replaced_under_a_live_link(&world);
    an_expired_certificate_is_named_until_it_is_renewed(&world);
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A store that copies from one listener.
    fn mirror(&self, listener: &str, keys: &str) -> Mirror {
        let mirror = Mirror::new(PROGRAM, &self.cluster.secured().address(listener), &[TOPIC]);
        mirror.with_configuration(&format!("[link.default.source]\nmetadata.max.age.ms = 1000\n{keys}\n"))
    }

    fn trusting(&self) -> String {
        let authority = self.cluster.secured().authority.certificate();
        format!("ssl.truststore.location = {:?}\n", authority.display().to_string())
    }

    fn produce(&self, seed: u32) {
        self.cluster.scenario().produce_mixed(&Produce { seed, ..Produce::to(TOPIC) });
    }

    /// Waits until the running store has all that there is.
    fn poll_until_copied(&self, mirror: &Mirror, running: &mut Running) {
        mirror.poll_until_stored(&self.cluster, TOPIC, running);
    }

    /// Ends the program in order; its bytes are the source's, and what it said is returned.
    fn ended(&self, mirror: &Mirror, running: Running) -> String {
        let finished = mirror.ended(&self.cluster, TOPIC, running);
        for output in [&finished.stdout, &finished.stderr] {
            assert!(!output.contains(PASSWORD), "the password is shown:\n{output}");
        }
        finished.stderr
    }

    /// Puts a file into the place of the broker's certificate; it is read when the broker starts.
    fn broker_shows(&self, file: &PathBuf) {
        let shown = self.cluster.secured().authority.certificate().with_file_name("broker.pem");
        fs::copy(file, shown).unwrap();
        self.cluster.kill_broker(1);
        self.cluster.restart_broker(1);
    }
}

fn tokens_end_and_are_renewed_on_live_connections(world: &World) {
    println!("renews tokens");
    let server = TokenServer::start(TOKEN_LIFE);
    let keys = format!(
        "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"OAUTHBEARER\"\n\
         sasl.oauthbearer.token.endpoint.url = {:?}\n\
         sasl.oauthbearer.client.credentials.client.id = \"{USER}\"\n\
         sasl.oauthbearer.client.credentials.client.secret = \"{PASSWORD}\"\n",
        server.url
    );
    let mirror = world.mirror("SASL_PLAINTEXT", &keys);
    let mut running = mirror.tailing().spawn();
    world.produce(1);
    world.poll_until_copied(&mirror, &mut running);
    // The broker closes a connection on which somebody asks after its token's end.
    poll::poll_until("the third token is given out", || {
        running.expect_running();
        server.issued() >= 3
    });
    world.produce(2);
    world.poll_until_copied(&mirror, &mut running);
    let told = world.ended(&mirror, running);
    assert!(!told.contains("connection to broker") && !told.contains("WARN"), "{told}");
}

fn a_changed_password_is_named_and_its_successor_is_found(world: &World) {
    println!("finds the changed password");
    let secret = world.path("password");
    fs::write(&secret, PASSWORD).unwrap();
    let keys = format!(
        "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"SCRAM-SHA-256\"\nsasl.username = \"{USER}\"\n\
         sasl.password = \"${{directory:{}:password}}\"\n",
        world.directory.path().display()
    );
    let mirror = world.mirror("SASL_PLAINTEXT", &keys);
    let mut running = mirror.tailing().spawn();
    world.produce(3);
    world.poll_until_copied(&mirror, &mut running);
    let successor = format!("{PASSWORD}-the-second");
    let server = world.cluster.bootstrap();
    let config = format!("SCRAM-SHA-256=[password={successor}]");
    let words = ["--bootstrap-server", &server, "--alter", "--entity-type", "users", "--entity-name", USER];
    let output = world.cluster.tool(CONFIG_COMMAND, &[&words[..], &["--add-config", &config]].concat());
    assert!(output.status.success(), "{output:?}");
    // A session ends within seconds, and cannot be renewed any more.
    running.poll_until_printed("authentication failed: SCRAM-SHA-256 as \"twin\" is refused");
    running.poll_until_printed("the next attempt is made in");
    world.produce(4);
    let refused = || {
        world.cluster.broker_output(1).matches("Failed re-authentication").count()
            + world.cluster.broker_output(1).matches("Failed authentication").count()
    };
    poll::poll_until("the broker has refused three logins", || refused() >= 3);
    fs::write(&secret, &successor).unwrap();
    println!("is told the new password");
    world.poll_until_copied(&mirror, &mut running);
    let attempts = refused();
    assert!(attempts <= FAILED_LOGINS_MAX, "{attempts} logins were refused");
    world.ended(&mirror, running);
}

/// A token of a real broker, by Kafka's own tool: its id and its HMAC.
fn delegation_token(world: &World) -> (String, String) {
    let client = world.path("client.properties");
    let text = format!(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config={SCRAM_MODULE} required username=\"{USER}\" password=\"{PASSWORD}\";\n"
    );
    fs::write(&client, text).unwrap();
    let server = world.cluster.secured().address("SASL_PLAINTEXT");
    let client = client.display().to_string();
    let words = ["--bootstrap-server", &server, "--command-config", &client, "--create"];
    let output = world.cluster.tool(TOKEN_COMMAND, &[&words[..], &["--max-life-time-period", "-1"]].concat());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{output:?}");
    let mut rows = printed.lines().skip_while(|line| !line.starts_with("TOKENID")).skip(1);
    let row = rows.find(|line| !line.is_empty()).unwrap_or_default();
    let mut columns = row.split_whitespace();
    let mut column = || columns.next().unwrap_or_else(|| panic!("no token in {printed}")).to_owned();
    (column(), column())
}

fn delegation_tokens_are_believed(world: &World) {
    println!("logs in by delegation tokens");
    let (id, hmac) = delegation_token(world);
    let jaas = format!(
        "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"SCRAM-SHA-256\"\nsasl.jaas.config = '''\
         {SCRAM_MODULE} required username=\"{id}\" password=\"{hmac}\" tokenauth=\"true\";'''\n"
    );
    let own = format!(
        "security.protocol = \"SASL_SSL\"\nsasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"{id}\"\n\
         sasl.password = \"{hmac}\"\nsasl.delegation.token = true\n{}",
        world.trusting()
    );
    for (listener, keys) in [("SASL_PLAINTEXT", &jaas), ("SASL_SSL", &own)] {
        let mirror = world.mirror(listener, keys);
        mirror.caught_up();
        mirror.assert_same(&world.cluster, 1, TOPIC, Isolation::ReadCommitted);
    }
    let no_token = own.replace("sasl.delegation.token = true", "sasl.delegation.token = false");
    let mirror = world.mirror("SASL_SSL", &no_token);
    let mut refused = mirror.tailing().spawn();
    refused.poll_until_printed("authentication failed: SCRAM-SHA-512");
    refused.kill_hard();
}

fn authorities_are_replaced_under_a_live_link(world: &World) {
    println!("meets a stranger");
    let first = &world.cluster.secured().authority;
    let strangers = Authority::new(&world.path("strangers"), "of somebody else");
    let second = Authority::new(&world.path("second"), "of the cluster from now on");
    let trusted = world.path("trusted.pem");
    fs::copy(strangers.certificate(), &trusted).unwrap();
    let ours = first.sign("link.pem", USER, false);
    let keys = format!(
        "security.protocol = \"SSL\"\nssl.truststore.location = {:?}\nssl.keystore.location = {:?}\n",
        trusted.display().to_string(),
        ours.display().to_string()
    );
    let mirror = world.mirror("MTLS", &keys);
    let mut running = mirror.tailing().spawn();
    running.poll_until_printed("not signed by an authority that is trusted here");
    world.produce(5);
    fs::copy(first.certificate(), &trusted).unwrap();
    println!("trusts the right authority");
    world.poll_until_copied(&mirror, &mut running);
    // The link is prepared for the next authority before the broker shows a certificate of it.
    println!("replaces the authority");
    let text = |authority: &Authority| fs::read_to_string(authority.certificate()).unwrap();
    fs::write(&trusted, text(first) + &text(&second)).unwrap();
    first.sign("link.pem", USER, false);
    world.broker_shows(&second.sign("broker.pem", HOST, false));
    world.produce(6);
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
}

fn an_expired_certificate_is_named_until_it_is_renewed(world: &World) {
    println!("meets an expired certificate");
    let authority = &world.cluster.secured().authority;
    world.broker_shows(&authority.sign("shown.pem", HOST, true));
    let mirror = world.mirror("SSL", &format!("security.protocol = \"SSL\"\n{}", world.trusting()));
    let mut running = mirror.tailing().spawn();
    running.poll_until_printed("its certificate has expired");
    println!("renews it");
    world.broker_shows(&authority.sign("shown.pem", HOST, false));
    world.produce(7);
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
}
