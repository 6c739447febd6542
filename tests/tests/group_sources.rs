//! Group offsets of a source of three brokers: one coordinator dies, and once a log loses its end. A store keeps them.

use std::path::PathBuf;
use twinlog_tests::cli::{Program, Running};
use twinlog_tests::kafka::groups::GroupClient;
use twinlog_tests::kafka::scenario::{Election, Produce};
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const ALL: [usize; 3] = [1, 2, 3];
const GROUPS: usize = 60;
/// In the log's end that one broker alone had.
const LOST: u32 = 10;
const KEPT: i64 = 3_000;

/// The source, a store of it, and what the store keeps.
struct Site {
    source: Cluster,
    client: GroupClient,
    data: PathBuf,
    _files: tempfile::TempDir,
    daemon: Running,
}

impl Site {
    fn start() -> Self {
        let options = ClusterOptions { brokers: 3, ..ClusterOptions::default() };
        let source = Cluster::start(options.with_override("offsets.topic.replication.factor", "3"));
        let configs = [("min.insync.replicas", "1")];
        source.scenario().create_topic("spread", 3, 3, &configs);
        source.scenario().produce_mixed(&Produce { count: 900, ..Produce::to("spread") });
        let configs = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "false")];
        source.scenario().create_topic_on("cut", &[&[2, 3]], &configs);
        let files = tempfile::tempdir().expect("a directory");
        let (data, file) = (files.path().join("data"), files.path().join("twinlog.toml"));
        let text = format!(
            "data.dir = {:?}\nmemory.bytes = \"96MiB\"\n[link.st]\ntopics = [\"spread\", \"cut\"]\n\
             flush.ms = 100\n[link.st.source]\nbootstrap.servers = {:?}\n",
            data.display().to_string(),
            source.bootstrap()
        );
        std::fs::write(&file, text).expect("written");
        let daemon = Program::new(PROGRAM).arguments(["run", "--config"]).argument(&file).spawn();
        let client = GroupClient::of(&source, &ALL);
        Self { source, client, data, _files: files, daemon }
    }

    /// What the store keeps of a group in a topic, as Kafka's tool takes it.
    fn kept(&self, group: &str) -> String {
        let words = ["offsets", "export", "--group", group, "--data-dir"];
        let told = Program::new(PROGRAM).arguments(words).argument(&self.data).run();
        if told.code() == Some(0) { told.stdout } else { String::new() }
    }

    #[track_caller]
    fn poll_until_kept(&self, group: &str, expected: &str) {
        let mut last = String::new();
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.kept(group);
            (last == expected).then_some(())
        });
        assert!(came.is_some(), "{group}: {last:?} in place of {expected:?}");
    }

    fn commit(&mut self, group: &str, topic: &str, positions: &[(i32, i64)]) {
        self.client.commit(group, topic, positions).expect("the source takes positions");
    }
}

#[test]
fn groups_of_three_brokers_go_on_while_one_dies_and_follow_a_log_that_lost_its_end() {
    let mut site = Site::start();
    a_dead_coordinator_at_the_source_delays_its_groups_only(&mut site);
    a_log_that_is_cut_takes_its_groups_down_to_the_cut(&mut site);
    let Site { daemon, .. } = site;
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn a_dead_coordinator_at_the_source_delays_its_groups_only(site: &mut Site) {
    println!("a dead coordinator at the source");
    let name = |group: usize| format!("app-{group}");
    for group in 0..GROUPS {
        site.commit(&name(group), "spread", &[(0, 1), (2, group as i64)]);
    }
    for group in (0..GROUPS).step_by(7) {
        site.poll_until_kept(&name(group), &format!("spread,0,1\nspread,2,{group}\n"));
    }
    let first = site.client.coordinator(&name(0));
    let other = (1..GROUPS).map(name).find(|group| site.client.coordinator(group) != first);
    let other = other.expect("groups are spread over three brokers");
    let dead = usize::try_from(first).expect("an id");
    site.source.kill_broker(dead);
    site.commit(&other, "spread", &[(1, 70)]);
    poll::poll_until("groups of others go on", || site.kept(&other).contains("spread,1,70\n"));
    site.commit(&name(0), "spread", &[(1, 71)]);
    poll::poll_until("its own go on by another broker", || site.kept(&name(0)).contains("spread,1,71\n"));
    site.source.restart_broker(dead);
    poll::poll_until("every replica is in sync", || {
        site.source.scenario().describe_topic("spread").iter().all(|each| each.in_sync.len() == 3)
    });
    site.commit(&name(0), "spread", &[(1, 72)]);
    poll::poll_until("and when it is back", || site.kept(&name(0)).contains("spread,1,72\n"));
}

/// Broker 3 misses the end of the log, then becomes its leader: what only the dead leader had is gone.
fn a_log_that_is_cut_takes_its_groups_down_to_the_cut(site: &mut Site) {
    println!("a cut");
    let kept = u32::try_from(KEPT).expect("few");
    let produce = |site: &Site, count, seed| {
        let produce = Produce { count, value_bytes: 500, seed, ..Produce::to("cut") };
        site.source.scenario().produce_mixed(&produce);
    };
    let led_by = |site: &Site| site.source.leader_of("cut", 0);
    poll::poll_until("both replicas are in sync", || {
        site.source.scenario().describe_topic("cut")[0].in_sync.len() == 2
    });
    if led_by(site) != Some(2) {
        site.source.scenario().elect_leader("cut", 0, Election::Preferred);
        poll::poll_until("broker 2 leads", || led_by(site) == Some(2));
    }
    produce(site, kept, 4);
    site.source.stop_broker(3);
    poll::poll_until("broker 3 is out of sync", || {
        site.source.scenario().describe_topic("cut")[0].in_sync.len() == 1
    });
    produce(site, LOST, 5);
    let end = KEPT + i64::from(LOST);
    site.commit("at-the-end", "cut", &[(0, end)]);
    site.commit("before", "cut", &[(0, KEPT - 5)]);
    site.poll_until_kept("at-the-end", &format!("cut,0,{end}\n"));
    site.poll_until_kept("before", &format!("cut,0,{}\n", KEPT - 5));
    site.source.kill_broker(2);
    site.source.restart_broker(3);
    poll::poll_until("nobody leads", || led_by(site).is_none());
    site.source.scenario().elect_leader("cut", 0, Election::Unclean);
    poll::poll_until("the stale replica leads", || led_by(site) == Some(3));
    // Other records stand where the lost ones stood, and beyond.
    produce(site, LOST + 500, 6);
    site.daemon.poll_until_printed(&format!(
        "group at-the-end: cut-0 goes back from {end} to {KEPT}: its log was cut"
    ));
    site.poll_until_kept("at-the-end", &format!("cut,0,{KEPT}\n"));
    site.source.restart_broker(2);
    // What the source's group says of the new log is followed; until then it stays at the cut.
    site.commit("before", "cut", &[(0, end + 1)]);
    site.poll_until_kept("before", &format!("cut,0,{}\n", end + 1));
    site.poll_until_kept("at-the-end", &format!("cut,0,{KEPT}\n"));
    site.commit("at-the-end", "cut", &[(0, end + 7)]);
    site.poll_until_kept("at-the-end", &format!("cut,0,{}\n", end + 7));
}
