//! Two links of one daemon join the same destination from two sources: what befalls one leaves the other alone.

use crate::PROGRAM;
use serde_json::Value;
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions, Isolation};
use twinlog_tests::poll;

const ALL: [usize; 3] = [1, 2, 3];
/// What [`GuestMirror`] calls its first link.
const EAST: [&str; 2] = ["--link", "dr"];
const WEST: [&str; 2] = ["--link", "west"];
/// The second link's first id.
const WEST_ID: i32 = GUEST + 10;

struct World {
    east: Cluster,
    west: Cluster,
    destination: Cluster,
    mirror: GuestMirror,
}

#[test]
fn two_links_to_one_destination_leave_each_other_alone() {
    let (east, west) = (Cluster::start(ClusterOptions::default()), Cluster::start(ClusterOptions::default()));
    let destination = Cluster::start(ClusterOptions::destination(1));
    for (source, topics) in [(&east, ["east-stays", "east-goes"]), (&west, ["west-stays", "west-goes"])] {
        for topic in topics {
            source.scenario().create_topic(topic, 2, 1, &[]);
            source.scenario().produce_mixed(&Produce::to(topic));
        }
    }
    let mirror = GuestMirror::new(PROGRAM, &east, &destination, &["east-.*"], &[]);
    let mirror = mirror.with_another_link("west", &west, &destination, "west-.*", WEST_ID);
    let world = World { east, west, destination, mirror };
    let daemon = world.mirror.start();
    both_are_mirrored_by_ids_of_their_own(&world);
    a_paused_link_holds_nobody_up(&world);
    a_dead_source_neither_stops_nor_is_noticed_by_a_promote(&world);
    let daemon = both_come_back_after_a_kill(&world, daemon);
    a_third_that_is_in_their_way_is_refused(&world);
    daemon.terminate();
    daemon.wait().expect_code(0);
    what_clashes_in_the_file_does_not_start(&world);
}

impl World {
    fn source_of(&self, topic: &str) -> &Cluster {
        if topic.starts_with("east") { &self.east } else { &self.west }
    }

    /// How many records the source has more of.
    fn produce(&self, topic: &str, seed: u32) -> u64 {
        let more = Produce { seed, count: 100, ..Produce::to(topic) };
        self.source_of(topic).scenario().produce_mixed(&more)
    }

    fn poll_until_followed(&self, topic: &str) {
        self.mirror.poll_until_followed(self.source_of(topic), &self.destination, topic, &ALL);
    }

    fn poll_until_state(&self, link: &[&str], topic: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let came = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.mirror.describe_of(link, topic);
            (last["state"] == state).then_some(())
        });
        assert!(came.is_some(), "{topic} is not {state}: {last}");
        last
    }

    fn poll_until_links(&self, wanted: [(&str, &str); 2]) {
        let mut last = String::new();
        poll::poll_until(&format!("the links are {wanted:?}"), || {
            let told = self.mirror.command(&["link", "list", "--output", "json"]);
            last.clone_from(&told.stdout);
            told.status.success() && {
                let links = told.json()["data"].as_array().expect("a list").clone();
                let states: Vec<_> = links
                    .iter()
                    .map(|link| (link["link_name"].as_str(), link["link_state"].as_str()))
                    .collect();
                states == wanted.map(|(name, state)| (Some(name), Some(state)))
            }
        });
    }

    /// The topic's leaders and their followers at the destination.
    fn assert_led_by(&self, link: &[&str], topic: &str, id: i32) {
        self.poll_until_state(link, topic, "ACTIVE");
        let mut told = Value::Null;
        let led = poll::poll_within(poll::HANG_LIMIT, || {
            told = self.mirror.describe_of(link, topic);
            let partitions = told["partitions"].as_array().filter(|all| !all.is_empty())?;
            partitions.iter().all(|each| each["guest_broker_id"] == id).then_some(())
        });
        assert!(led.is_some(), "{topic} is not led by {id}: {told}");
        for partition in told["partitions"].as_array().expect("partitions") {
            let followers = partition["followers"].as_array().expect("followers").iter();
            let followers: Vec<i64> = followers.filter_map(|each| each["broker_id"].as_i64()).collect();
            assert!(followers.iter().all(|broker| *broker < i64::from(GUEST)), "stock brokers alone: {told}");
        }
    }

    /// `markers`: so many may stand behind the copy, one of a partition, for producers whose ids the other link
    /// mirrors, too.
    fn assert_is_ordinary(&self, topic: &str, markers: i64) {
        let to = self.destination.scenario();
        for partition in to.describe_topic(topic) {
            assert!(partition.replicas.iter().all(|broker| *broker < GUEST), "{topic}: {partition:?}");
        }
        let before: i64 = to.end_offsets(topic, Isolation::ReadUncommitted).iter().sum();
        let source = self.source_of(topic).scenario();
        let copied: i64 = source.end_offsets(topic, Isolation::ReadUncommitted).iter().sum();
        assert!(
            (copied..=copied + markers).contains(&before),
            "{topic} ends at {before}, the source at {copied}"
        );
        let written = to.produce_mixed(&Produce { count: 40, seed: 9, ..Produce::to(topic) });
        let after: i64 = to.end_offsets(topic, Isolation::ReadUncommitted).iter().sum();
        assert_eq!(after - before, i64::try_from(written).expect("few"), "{topic}");
    }
}

fn both_are_mirrored_by_ids_of_their_own(world: &World) {
    println!("mirrors from both sources");
    for topic in ["east-stays", "east-goes", "west-stays", "west-goes"] {
        world.poll_until_followed(topic);
    }
    world.poll_until_links([("dr", "ACTIVE"), ("west", "ACTIVE")]);
    world.assert_led_by(&EAST, "east-stays", GUEST);
    world.assert_led_by(&WEST, "west-stays", WEST_ID);
}

fn a_paused_link_holds_nobody_up(world: &World) {
    println!("pauses one");
    world.mirror.command(&["link", "pause", "--link", "west"]).expect_code(0);
    world.poll_until_state(&WEST, "west-stays", "LINK_PAUSED");
    let before = world.mirror.describe_of(&WEST, "west-stays")["partitions"][0]["log_end"].clone();
    let missed = world.produce("west-stays", 2);
    world.produce("east-stays", 2);
    world.poll_until_followed("east-stays");
    world.poll_until_links([("dr", "ACTIVE"), ("west", "PAUSED")]);
    let paused = world.mirror.describe_of(&WEST, "west-stays");
    assert_eq!(paused["partitions"][0]["log_end"], before, "{paused}");
    let mut told = Value::Null;
    poll::poll_until("it is known how far the paused one is behind", || {
        told = world.mirror.describe_of(&WEST, "west-stays");
        told["lag"] == missed
    });
    // All of it had come at once, before the daemon looked at it for the first time: that is enough for a mean.
    assert!(told["lag_bytes"].as_u64() > Some(0) && told["lag_bytes_estimated"] == true, "{told}");
    assert!([0_usize, 1].iter().all(|index| told["partitions"][index]["lag_bytes"].is_u64()), "{told}");
    world.mirror.command(&["link", "resume", "--link", "west"]).expect_code(0);
    world.poll_until_followed("west-stays");
    world.poll_until_state(&WEST, "west-stays", "ACTIVE");
}

fn a_dead_source_neither_stops_nor_is_noticed_by_a_promote(world: &World) {
    println!("kills one source and promotes what comes from the other");
    world.west.kill_broker(1);
    world.poll_until_links([("dr", "ACTIVE"), ("west", "UNAVAILABLE")]);
    world.produce("east-stays", 3);
    world.poll_until_followed("east-stays");
    world.mirror.command(&[&["mirror", "promote", "east-goes"][..], &EAST].concat()).expect_code(0);
    world.assert_is_ordinary("east-goes", 2);
    world.poll_until_state(&EAST, "east-goes", "STOPPED");
    println!("fails over what came from the dead one");
    world.mirror.command(&[&["mirror", "failover", "west-goes"][..], &WEST].concat()).expect_code(0);
    world.west.restart_broker(1);
    world.poll_until_links([("dr", "ACTIVE"), ("west", "ACTIVE")]);
    world.assert_is_ordinary("west-goes", 2);
    for topic in ["east-stays", "west-stays"] {
        world.produce(topic, 4);
        world.poll_until_followed(topic);
    }
    world.assert_led_by(&EAST, "east-stays", GUEST);
    world.assert_led_by(&WEST, "west-stays", WEST_ID);
}

fn both_come_back_after_a_kill(world: &World, daemon: Running) -> Running {
    println!("is killed and comes back");
    daemon.kill_hard();
    for topic in ["east-stays", "west-stays"] {
        world.produce(topic, 5);
    }
    let daemon = world.mirror.start();
    for topic in ["east-stays", "west-stays"] {
        world.poll_until_followed(topic);
    }
    world.poll_until_links([("dr", "ACTIVE"), ("west", "ACTIVE")]);
    world.assert_led_by(&EAST, "east-stays", GUEST);
    world.assert_led_by(&WEST, "west-stays", WEST_ID);
    world.poll_until_state(&EAST, "east-goes", "STOPPED");
    world.poll_until_state(&WEST, "west-goes", "STOPPED");
    for topic in ["east-stays", "west-stays"] {
        world.mirror.assert_same_on(world.source_of(topic), &world.destination, topic, &ALL);
    }
    daemon
}

fn a_third_that_is_in_their_way_is_refused(world: &World) {
    println!("refuses a third");
    let create = |ids: &str, listener: &str| {
        let values = [
            format!("bootstrap.servers={}", world.east.bootstrap()),
            "topics=third-.*".to_owned(),
            "destination.mode=guest".to_owned(),
            format!("destination.bootstrap.servers={}", world.destination.bootstrap()),
            format!("destination.bootstrap.controllers={}", world.destination.bootstrap_controllers()),
            "destination.inter.broker.listener.name=INTERNAL".to_owned(),
            format!("destination.guest.broker.ids={ids}"),
            format!("destination.guest.listener={listener}"),
        ];
        let mut words = vec!["link", "create", "third"];
        values.iter().for_each(|value| words.extend(["--config-value", value.as_str()]));
        let refused = world.mirror.command(&words).expect_code(1);
        format!("{}{}", refused.stdout, refused.stderr)
    };
    let ids = create("911-912", "127.0.0.1:1");
    assert!(ids.contains("links third and west both have 911 in guest.broker.ids"), "{ids}");
    let port = create("920-921", &world.mirror.listener());
    let listener = format!("links dr and third both have {} in guest.listener", world.mirror.listener());
    assert!(port.contains(&listener), "{port}");
    world.poll_until_links([("dr", "ACTIVE"), ("west", "ACTIVE")]);
}

fn what_clashes_in_the_file_does_not_start(world: &World) {
    println!("does not start with what clashes");
    world.mirror.replace(&format!("\"{WEST_ID}-{}\"", WEST_ID + 1), &format!("\"{}-{WEST_ID}\"", GUEST + 1));
    let sentence = format!("links dr and west both have {} in guest.broker.ids", GUEST + 1);
    for words in [&["config", "check"][..], &["run"][..]] {
        let refused = world.mirror.command(words).expect_code(2);
        assert!(refused.stderr.contains(&sentence), "{}", refused.stderr);
    }
}
