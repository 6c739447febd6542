//! Links that log in by Kerberos, at a realm of their own and a real broker: tickets end, keys change, the KDC dies.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use twinlog_tests::cli::{Program, Running};
use twinlog_tests::kafka::kerberos::{REALM, Realm};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

/// The product, as these tests start it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 2;
const SERVICE: &str = "kafka/127.0.0.1";
const MODULE: &str = "com.sun.security.auth.module.Krb5LoginModule required";
/// How long a login lasts at the broker.
const SESSION: Duration = Duration::from_secs(3);
/// What is said of a connection that ends.
const LOST: &str = "connection to broker";
/// Attempts with a wrong key that a KDC must be able to bear while the test looks on.
const REFUSALS_MAX: usize = 8;

struct World {
    realm: Realm,
    cluster: Cluster,
}

#[test]
fn a_link_lives_on_whatever_becomes_of_its_tickets() {
    let realm = Realm::start();
    realm.add(SERVICE, "");
    realm.add("twin", "");
    // Its tickets are so short that they are renewed while a test looks on.
    realm.add("brief", "-maxlife 20s");
    let cluster = Cluster::start(options(&realm));
    cluster.scenario().create_topic(TOPIC, PARTITIONS as u32, 1, &[]);
    let mut world = World { realm, cluster };
    sessions_are_renewed_and_the_kdc_may_die(&mut world);
    tickets_end_and_are_renewed(&world);
    a_broker_with_a_new_key_is_shown_a_new_ticket(&world);
    a_changed_key_is_named_and_its_successor_is_found(&world);
    what_the_kdc_does_not_know_is_named(&world);
    a_ticket_of_the_user_is_copied_and_its_file_left_alone(&world);
    a_dead_kdc_is_named_and_found_again(&mut world);
}

/// A broker with a listener for Kerberos.
fn options(realm: &Realm) -> ClusterOptions {
    let keytab = realm.export(SERVICE, "broker.keytab");
    // A broker that only accepts needs no KDC, also when it starts.
    let login = format!(
        "{MODULE} isInitiator=false useKeyTab=true storeKey=true keyTab=\"{}\" principal=\"{SERVICE}@{REALM}\";",
        keytab.display()
    );
    let map = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,KERBEROS:SASL_PLAINTEXT";
    let options = ClusterOptions {
        further_listeners: vec!["KERBEROS"],
        java_flags: vec![format!("-Djava.security.krb5.conf={}", realm.configuration().display())],
        ..ClusterOptions::default()
    };
    options
        .with_override("listener.security.protocol.map", map)
        .with_override("sasl.kerberos.service.name", "kafka")
        .with_override("listener.name.kerberos.sasl.enabled.mechanisms", "GSSAPI")
        .with_override(
            "listener.name.kerberos.gssapi.connections.max.reauth.ms",
            &SESSION.as_millis().to_string(),
        )
        .with_override("listener.name.kerberos.gssapi.sasl.jaas.config", &login)
}

impl World {
    /// A store that copies from the listener for Kerberos.
    fn mirror(&self, keys: &str) -> Mirror {
        let mirror = Mirror::new(PROGRAM, &self.cluster.further_address(0), &[TOPIC]);
        mirror.with_configuration(&format!(
            "[link.default.source]\nmetadata.max.age.ms = 1000\nsecurity.protocol = \"SASL_PLAINTEXT\"\n\
             sasl.mechanism = \"GSSAPI\"\n{keys}\n"
        ))
    }

    /// The program, which finds the realm and nothing of this system's own.
    fn program(&self, mirror: &Mirror, cache: &Path) -> Program {
        let program = mirror.tailing().environment("KRB5_CONFIG", self.realm.configuration());
        program.environment("KRB5CCNAME", format!("FILE:{}", cache.display()))
    }

    fn started(&self, mirror: &Mirror) -> Running {
        self.program(mirror, &self.nobodys_cache()).spawn()
    }

    /// A cache that nobody may write to.
    fn nobodys_cache(&self) -> std::path::PathBuf {
        self.realm.path("nobody.cache")
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
        assert!(!self.nobodys_cache().exists(), "tickets lie in memory alone");
        finished.stderr
    }

    /// Tickets for the broker that the KDC has given to a principal.
    fn issued(&self, principal: &str) -> usize {
        let end = format!("{principal}@{REALM} for {SERVICE}@{REALM}");
        self.realm.printed().lines().filter(|line| line.contains("ISSUE") && line.ends_with(&end)).count()
    }
}

/// Keys of our own for a principal.
fn keys(principal: &str, keytab: &Path) -> String {
    format!(
        "sasl.kerberos.principal = \"{principal}@{REALM}\"\nsasl.kerberos.keytab = {:?}\n",
        keytab.display().to_string()
    )
}

fn sessions_are_renewed_and_the_kdc_may_die(world: &mut World) {
    println!("renews sessions");
    let keytab = world.realm.export("twin", "twin.keytab");
    let mirror = world.mirror(&format!(
        "sasl.jaas.config = '''{MODULE} useKeyTab=true storeKey=true keyTab=\"{}\" principal=\"twin@{REALM}\" \
         serviceName=\"kafka\";'''\n",
        keytab.display()
    ));
    let mut running = world.started(&mirror);
    world.produce(1);
    world.poll_until_copied(&mirror, &mut running);
    println!("kills the KDC");
    world.realm.kill_kdc();
    // The broker closes a connection on which somebody asks after the session's end.
    let started = Instant::now();
    poll::poll_until("three sessions are over", || {
        running.expect_running();
        started.elapsed() > 3 * SESSION
    });
    world.produce(2);
    world.poll_until_copied(&mirror, &mut running);
    assert!(!running.has_printed(LOST), "sessions are renewed on live connections");
    world.cluster.stop_broker(1);
    running.poll_until_printed(LOST);
    world.cluster.restart_broker(1);
    world.produce(3);
    world.poll_until_copied(&mirror, &mut running);
    let told = world.ended(&mirror, running);
    assert!(!told.contains("no KDC can be reached"), "{told}");
    assert_eq!(world.issued("twin"), 1, "one ticket served every connection and every session");
    world.realm.start_kdc();
}

fn tickets_end_and_are_renewed(world: &World) {
    println!("renews tickets");
    let keytab = world.realm.export("brief", "brief.keytab");
    let mirror = world.mirror(&keys("brief", &keytab));
    let mut running = world.started(&mirror);
    world.produce(4);
    world.poll_until_copied(&mirror, &mut running);
    poll::poll_until("the third ticket is given out", || {
        running.expect_running();
        world.issued("brief") >= 3
    });
    world.produce(5);
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
}

fn a_broker_with_a_new_key_is_shown_a_new_ticket(world: &World) {
    println!("changes the broker's key");
    let keytab = world.realm.export("twin", "twin.keytab");
    let mirror = world.mirror(&keys("twin", &keytab));
    let mut running = world.started(&mirror);
    world.poll_until_copied(&mirror, &mut running);
    let old = world.realm.path("broker.keytab");
    let new = world.realm.export(SERVICE, "broker-new.keytab");
    fs::rename(&new, &old).expect("both are ours");
    running.poll_until_printed("GSSAPI as \"twin@TWINLOG.TEST\" is refused");
    world.produce(8);
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
}

fn a_changed_key_is_named_and_its_successor_is_found(world: &World) {
    println!("finds the changed key");
    let old = world.realm.export("twin", "old.keytab");
    let new = world.realm.export("twin", "new.keytab");
    let mirror = world.mirror(&keys("twin", &old));
    let mut running = world.started(&mirror);
    running.poll_until_printed("the key of twin@TWINLOG.TEST in the keytab is not the one that the KDC has");
    running.poll_until_printed("the next attempt is made in");
    let refused = || world.realm.printed().lines().filter(|line| line.contains("PREAUTH_FAILED")).count();
    poll::poll_until("the KDC has refused two attempts", || {
        running.expect_running();
        refused() >= 2
    });
    fs::rename(&new, &old).expect("both are ours");
    println!("is told the new key");
    world.produce(6);
    world.poll_until_copied(&mirror, &mut running);
    let refused = refused();
    assert!(refused <= REFUSALS_MAX, "{refused} attempts were refused");
    world.ended(&mirror, running);
}

fn what_the_kdc_does_not_know_is_named(world: &World) {
    println!("meets strangers");
    world.realm.add("gone", "");
    let keytab = world.realm.export("gone", "gone.keytab");
    let known = world.realm.export("brief", "known.keytab");
    world.realm.remove("gone");
    let other_service = format!("{}sasl.kerberos.service.name = \"broker\"\n", keys("brief", &known));
    for (keys, told) in [
        (keys("gone", &keytab), "the KDC does not know gone@TWINLOG.TEST; create it there"),
        (keys("twin", &keytab), "has no key of twin@TWINLOG.TEST"),
        (keys("twin", Path::new("/nowhere/keytab")), "cannot read the keytab /nowhere/keytab"),
        (other_service, "the KDC does not know the service broker/127.0.0.1"),
    ] {
        let mirror = world.mirror(&keys);
        let mut refused = world.started(&mirror);
        refused.poll_until_printed(told);
        refused.kill_hard();
    }
}

fn a_ticket_of_the_user_is_copied_and_its_file_left_alone(world: &World) {
    println!("uses the user's ticket");
    let keytab = world.realm.export("twin", "twin.keytab");
    let cache = world.realm.log_in("twin", &keytab);
    let before = fs::read(&cache).expect("readable");
    let mirror = world.mirror(&format!("sasl.jaas.config = '{MODULE} useTicketCache=true;'\n"));
    let mut running = world.program(&mirror, &cache).spawn();
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
    assert!(fs::read(&cache).expect("readable") == before, "the user's file is only read");
    let mut refused = world.started(&mirror);
    refused.poll_until_printed("the ticket cache of this user has no good ticket");
    refused.kill_hard();
}

fn a_dead_kdc_is_named_and_found_again(world: &mut World) {
    println!("meets a dead KDC");
    world.realm.kill_kdc();
    let keytab = world.realm.path("twin.keytab");
    let mirror = world.mirror(&keys("twin", &keytab));
    let mut running = world.started(&mirror);
    running.poll_until_printed("no KDC can be reached");
    world.realm.start_kdc();
    world.produce(7);
    world.poll_until_copied(&mirror, &mut running);
    world.ended(&mirror, running);
}
