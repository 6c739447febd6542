//! Guest broker ids join stock clusters, stay, come back and leave; real brokers judge.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};
use twinlog_daemon::config::HostPort;
use twinlog_daemon::control::guest::{GuestEvent, GuestMember, GuestOptions, GuestState};
use twinlog_sync::metadata::MembershipState;
use twinlog_sync::metadata::membership::Reason;
use twinlog_sync::metadata::record::Uuid;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const FIRST: i32 = 900;
const SECOND: i32 = 901;

/// A member and the thread that stands for the control core.
struct Guest {
    member: Option<GuestMember>,
    events: broadcast::Receiver<GuestEvent>,
    end: Option<oneshot::Sender<()>>,
    core: Option<JoinHandle<()>>,
}

impl Guest {
    /// Followers cannot reach the addresses: nothing is led here.
    fn join(cluster: &Cluster, ids: &[i32], incarnations: BTreeMap<i32, Uuid>) -> Self {
        let servers = cluster.bootstrap_controllers();
        let controllers = servers.split(',').map(|server| server.parse().expect("host and port")).collect();
        let address = |id: i32| HostPort { host: "127.0.0.1".to_owned(), port: 9_000 + id as u16 };
        let ids = ids.iter().map(|id| (*id, address(*id))).collect();
        let mut options = GuestOptions::new(controllers, "INTERNAL", ids);
        options.incarnations = incarnations;
        let (runtime_out, runtime_in) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let core = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            runtime_out.send(runtime.handle().clone()).expect("it is waited for");
            // Either a message or the sender's end.
            let _ = runtime.block_on(ended);
        });
        let runtime = runtime_in.recv().expect("the thread has built one");
        let member = GuestMember::join(options, &runtime).expect("the options are right");
        let events = member.events();
        Self { member: Some(member), events, end: Some(end), core: Some(core) }
    }

    fn member(&self) -> &GuestMember {
        self.member.as_ref().expect("it has not been dropped")
    }

    fn state(&self, id: i32) -> GuestState {
        self.member().state(id).expect("one of our ids")
    }

    fn poll_until_active(&self, id: i32) -> i64 {
        poll::poll_for(&format!("guest {id} is active, at last {:?}", self.state(id)), || {
            let state = self.state(id);
            matches!(state.state, MembershipState::Active { .. }).then(|| state.broker_epoch()).flatten()
        })
    }

    fn incarnation(&self, id: i32) -> Uuid {
        self.state(id).incarnation.expect("it has registered")
    }

    /// Reasons of all changes of an id since the last call.
    fn reasons(&mut self, id: i32) -> Vec<Reason> {
        let mut reasons = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match event {
                GuestEvent::Changed { id: of, reason, .. } if of == id => reasons.push(reason),
                _ => {}
            }
        }
        reasons
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.member.take());
        drop(self.end.take());
        if let Some(core) = self.core.take() {
            // A panic there has been printed.
            let _ = core.join();
        }
    }
}

#[test]
fn guests_join_one_controller_and_survive_restarts_of_both_sides() {
    let cluster = Cluster::start(ClusterOptions::destination(1).with_forced_snapshots());
    let (epoch, incarnation) = joins_and_is_spared_by_placement(&cluster);
    starts_from_a_snapshot_and_goes_on_within_the_session(&cluster, epoch, incarnation);
    a_bump_raises_the_leader_epoch_and_nothing_else(&cluster);
    another_incarnation_waits_for_the_session_and_registers_anew(&cluster);
    a_restarted_controller_keeps_every_registration(&cluster);
    leaving_takes_everything_back(&cluster);
}

fn joins_and_is_spared_by_placement(cluster: &Cluster) -> (i64, Uuid) {
    println!("joins");
    let mut guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    let epoch = guest.poll_until_active(FIRST);
    guest.poll_until_active(SECOND);
    let reasons = guest.reasons(FIRST);
    assert_eq!(reasons, [Reason::LogRead, Reason::Registered, Reason::Unfenced]);
    poll::poll_until("the log shows both as unfenced and cordoned", || {
        let image = guest.member().image();
        [FIRST, SECOND].iter().all(|id| {
            image.broker(*id).is_some_and(|broker| !broker.fenced && broker.cordoned == broker.directories)
        })
    });
    println!("is cordoned");
    cluster.scenario().create_topic("placed", 24, 3, &[]);
    for partition in cluster.scenario().describe_topic("placed") {
        assert!(partition.replicas.iter().all(|id| *id < FIRST), "{partition:?}");
    }
    poll::poll_until("the image has the new topic", || {
        let image = guest.member().image();
        let topic = image.topic_named("placed").map(|(_, topic)| topic.partitions.len());
        topic == Some(24) && image.feature("metadata.version").is_some_and(|level| level >= 30)
    });
    (epoch, guest.incarnation(FIRST))
}

fn starts_from_a_snapshot_and_goes_on_within_the_session(cluster: &Cluster, epoch: i64, incarnation: Uuid) {
    println!("starts from a snapshot, within the session");
    // Some 40 kB of records: a snapshot is due, and a fetch from 0 is answered with it.
    for round in 0..4 {
        cluster.scenario().create_topic(&format!("filler-{round}"), 100, 1, &[]);
    }
    cluster.poll_until_metadata_snapshot(1);
    let guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    assert_eq!(guest.poll_until_active(FIRST), epoch, "an amended registration keeps its epoch");
    assert_eq!(guest.incarnation(FIRST), incarnation, "it comes from the log");
    let image = guest.member().image();
    assert_eq!(image.topic_named("filler-3").map(|(_, topic)| topic.partitions.len()), Some(100));
    assert_eq!(image.brokers().keys().copied().collect::<Vec<_>>(), [1, 2, 3, FIRST, SECOND]);
}

/// Leader and leader epoch of the only partition of a topic, as the guest's image has them.
fn led(guest: &Guest, topic: &str) -> Option<(Option<i32>, i32)> {
    let image = guest.member().image();
    let partition = &image.topic_named(topic)?.1.partitions[&0];
    Some((partition.leader, partition.leader_epoch))
}

fn a_bump_raises_the_leader_epoch_and_nothing_else(cluster: &Cluster) {
    println!("bumps");
    let mut guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    let epoch = guest.poll_until_active(FIRST);
    // Clients see no leader of such a topic, so nothing that waits for one can create it.
    let bootstrap = cluster.bootstrap();
    let create =
        ["--bootstrap-server", &bootstrap, "--create", "--topic", "led", "--replica-assignment", "900"];
    let output = cluster.tool("org.apache.kafka.tools.TopicCommand", &create);
    assert!(output.status.success(), "{output:?}");
    poll::poll_until("the image shows that we lead", || led(&guest, "led") == Some((Some(FIRST), 0)));
    guest.reasons(FIRST);
    guest.member().bump(FIRST).expect("there is room for a command");
    poll::poll_until("the bump is done", || guest.state(FIRST).bumps == 1);
    assert_eq!(guest.poll_until_active(FIRST), epoch);
    poll::poll_until("the leader epoch is two higher", || led(&guest, "led") == Some((Some(FIRST), 2)));
    assert_eq!(guest.reasons(FIRST), [Reason::Bump, Reason::Unfenced]);
    assert!(guest.state(FIRST).is_serving, "followers are served throughout");
    cluster.scenario().delete_topic("led");
}

fn another_incarnation_waits_for_the_session_and_registers_anew(cluster: &Cluster) {
    println!("waits for the session of another incarnation");
    let fresh = BTreeMap::from([(FIRST, *b"another incarnat")]);
    let mut guest = Guest::join(cluster, &[FIRST, SECOND], fresh);
    let second = guest.poll_until_active(SECOND);
    let before = guest.member().image().broker(FIRST).expect("it is registered").epoch;
    let after = guest.poll_until_active(FIRST);
    assert!(after > before, "a new incarnation gets a new epoch");
    let reasons = guest.reasons(FIRST);
    assert!(reasons.contains(&Reason::Duplicate), "{reasons:?}");
    drop(guest);
    println!("comes back after the session with the same epoch");
    let watcher = Guest::join(cluster, &[SECOND], BTreeMap::new());
    poll::poll_until("the log shows the absent one as fenced", || {
        watcher.member().image().broker(FIRST).is_some_and(|broker| broker.fenced)
    });
    drop(watcher);
    let guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    assert_eq!(guest.poll_until_active(FIRST), after);
    assert_eq!(guest.poll_until_active(SECOND), second);
}

fn a_restarted_controller_keeps_every_registration(cluster: &Cluster) {
    println!("the controller is killed and comes back");
    let mut guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    let epoch = guest.poll_until_active(FIRST);
    guest.poll_until_active(SECOND);
    guest.reasons(FIRST);
    let sent = guest.member().heartbeat_figures(FIRST).expect("one of our ids");
    cluster.kill_controller(1);
    cluster.restart_controller(1);
    cluster.scenario().create_topic("after-restart", 1, 1, &[]);
    poll::poll_until("the image goes on", || guest.member().image().topic_named("after-restart").is_some());
    assert_eq!(guest.poll_until_active(FIRST), epoch);
    let stopped = guest.reasons(FIRST).contains(&Reason::StaleEpoch);
    assert!(!stopped && guest.state(FIRST).is_serving);
    assert!(sent.sent.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

fn leaving_takes_everything_back(cluster: &Cluster) {
    println!("leaves");
    let guest = Guest::join(cluster, &[FIRST, SECOND], BTreeMap::new());
    guest.poll_until_active(FIRST);
    guest.poll_until_active(SECOND);
    for id in [FIRST, SECOND] {
        guest.member().leave(id).expect("there is room for a command");
        poll::poll_until("it has left", || guest.state(id).state == MembershipState::Left);
        assert!(!guest.state(id).is_serving);
    }
    poll::poll_until("nothing of ours is left in the metadata", || {
        let image = guest.member().image();
        let ours = |ids: &[i32]| ids.iter().any(|id| *id >= FIRST);
        let partitions = image.topics().values().flat_map(|topic| topic.partitions.values());
        let held = partitions.filter(|partition| ours(&partition.replicas) || ours(&partition.isr)).count();
        image.brokers().keys().all(|id| *id < FIRST) && held == 0
    });
}

#[test]
fn a_guest_follows_the_quorum_when_its_active_controller_dies() {
    let cluster = Cluster::start(ClusterOptions::destination(3));
    let mut guest = Guest::join(&cluster, &[FIRST], BTreeMap::new());
    let epoch = guest.poll_until_active(FIRST);
    guest.reasons(FIRST);
    let killed = cluster.active_controller();
    println!("kills the active controller {killed}");
    cluster.kill_controller(killed);
    cluster.scenario().create_topic("after-the-kill", 3, 3, &[]);
    poll::poll_until("the image goes on", || guest.member().image().topic_named("after-the-kill").is_some());
    cluster.restart_controller(killed);
    let stopped = cluster.active_controller();
    println!("stops the active controller {stopped}");
    cluster.stop_controller(stopped);
    cluster.scenario().create_topic("after-the-stop", 3, 3, &[]);
    poll::poll_until("the image goes on again", || {
        guest.member().image().topic_named("after-the-stop").is_some()
    });
    assert_eq!(guest.poll_until_active(FIRST), epoch);
    assert_eq!(guest.reasons(FIRST), [], "neither fenced nor registered again");
    let slack = guest.member().heartbeat_figures(FIRST).expect("one of our ids");
    let least = slack.least_slack_ms.load(std::sync::atomic::Ordering::Relaxed);
    println!("least slack {least} ms of {} ms", Duration::from_secs(9).as_millis());
}
