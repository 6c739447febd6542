//! Followers that no broker would be, against a guest that real brokers follow: these go on, and memory stays.

use crate::PROGRAM;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use twinlog_tests::cli::Running;
use twinlog_tests::guest::{GUEST, GuestMirror};
use twinlog_tests::kafka::scenario::Produce;
use twinlog_tests::kafka::{Cluster, ClusterOptions};
use twinlog_tests::poll;
use twinlog_tests::raw_follower::{Asking, RawFollower, topic_id};

const ALL: [usize; 3] = [1, 2, 3];
/// More than a shard has places for.
const CONNECTIONS: usize = 1_000;
/// `memory.bytes` of the daemon under test, and what its own pages and libraries may add.
const MEMORY_KIB_MAX: u64 = (96 + 64) << 10;

/// A mirror whose followers must never notice anything.
struct Bystanders<'a> {
    source: &'a Cluster,
    destination: &'a Cluster,
    mirror: &'a GuestMirror,
    seed: u32,
}

impl Bystanders<'_> {
    #[track_caller]
    fn go_on(&mut self) {
        self.seed += 1;
        self.source.scenario().produce_mixed(&Produce { seed: self.seed, ..Produce::to("good") });
        self.mirror.poll_until_followed(self.source, self.destination, "good", &ALL);
    }
}

#[test]
fn strangers_and_broken_followers_harm_nobody() {
    let source = Cluster::start(ClusterOptions::default());
    let destination = Cluster::start(ClusterOptions::destination(1));
    source.scenario().create_topic("good", 2, 1, &[]);
    let mirror = GuestMirror::new(PROGRAM, &source, &destination, &["good"], &[]);
    let mut daemon = mirror.start();
    let mut bystanders = Bystanders { source: &source, destination: &destination, mirror: &mirror, seed: 0 };
    bystanders.go_on();
    mirror.poll_until_state("good", "ACTIVE");
    let listener = mirror.listener();
    let epoch = i32::try_from(mirror.describe("good")["partitions"][0]["leader_epoch"].as_i64().unwrap_or(0));
    let asking = Asking {
        topic_id: topic_id(&destination.scenario().topic_id("good")),
        partition: 0,
        broker: 2,
        broker_epoch: 1,
        leader_epoch: epoch.expect("a small epoch"),
        fetch_offset: 0,
    };
    let mut half = half_a_frame(&listener, &asking);
    let mut deaf = one_that_reads_nothing(&listener, &asking);
    nobody_else_is_served(&listener, &asking);
    another_life_proves_nothing(&listener, &asking, &mut bystanders);
    pipelined_requests_are_answered_in_order(&listener, &asking);
    a_thousand_at_once(&listener, &daemon, &mut bystanders);
    println!("those that hang are closed in the end");
    half.poll_until_closed();
    poll::poll_until("the one that reads nothing is closed", || !deaf.send(&asking.frame()));
    bystanders.go_on();
    daemon.expect_running();
    assert_memory(&daemon);
    mirror.command(&["mirror", "promote", "good"]).expect_code(0);
    mirror.assert_same_on(&source, &destination, "good", &ALL);
    daemon.terminate();
    daemon.wait().expect_code(0);
}

fn half_a_frame(listener: &str, asking: &Asking) -> RawFollower {
    let frame = asking.frame();
    let mut follower = RawFollower::connect(listener);
    assert!(follower.send(&frame[..frame.len() / 2]));
    follower
}

/// Asks for records as a broker that is registered, until neither side takes any more.
fn one_that_reads_nothing(listener: &str, asking: &Asking) -> RawFollower {
    let mut follower = RawFollower::connect(listener);
    let taken = follower.flood(&asking.frame());
    println!("the one that reads nothing got rid of {taken} bytes");
    assert!(taken > 0);
    follower
}

fn nobody_else_is_served(listener: &str, asking: &Asking) {
    println!("strangers");
    let stranger = Asking { broker: 77, ..*asking };
    let guest = Asking { broker: GUEST, ..*asking };
    let consumer = Asking { broker: -1, ..*asking };
    for other in [stranger, guest, consumer] {
        let mut follower = RawFollower::connect(listener);
        assert!(follower.send(&other.frame()));
        assert_eq!(follower.answer(), None, "{other:?}");
    }
    // Registered, but not there: closed before it has said a word.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    RawFollower::connect_from(elsewhere, listener).poll_until_closed();
    println!("frames that are none");
    for head in [(100_u32 << 20).to_be_bytes(), u32::MAX.to_be_bytes(), [0; 4]] {
        let mut follower = RawFollower::connect(listener);
        assert!(follower.send(&head));
        follower.poll_until_closed();
    }
    let mut follower = RawFollower::connect(listener);
    assert!(follower.send(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n"));
    follower.poll_until_closed();
}

/// An earlier or later registration of a broker may ask, and says nothing about where that broker is.
fn another_life_proves_nothing(listener: &str, asking: &Asking, bystanders: &mut Bystanders<'_>) {
    println!("another life of a broker");
    for (broker_epoch, fetch_offset) in [(1, 0), (1, 1 << 40), (i64::MAX, 0), (i64::MAX, i64::MAX), (-1, -5)]
    {
        let mut follower = RawFollower::connect(listener);
        let told = Asking { broker_epoch, fetch_offset, ..*asking };
        assert!(follower.send(&told.frame()));
        // Answered with an error, with nothing, or closed: whatever it is, nobody else is touched.
        let answer = follower.answer();
        let bytes = answer.map(|answer| answer.len());
        println!("epoch {broker_epoch} at {fetch_offset}: {bytes:?} bytes");
    }
    bystanders.go_on();
    poll::poll_until("all three are told at the end, none elsewhere", || {
        let told = bystanders.mirror.describe("good");
        let followers = told["partitions"][0]["followers"].as_array().cloned().unwrap_or_default();
        let ends: Vec<_> = followers.iter().map(|follower| follower["end"].as_i64()).collect();
        let end = told["partitions"][0]["log_end"].as_i64();
        ends.len() == 3 && ends.iter().all(|each| *each == end)
    });
}

fn pipelined_requests_are_answered_in_order(listener: &str, asking: &Asking) {
    println!("pipelined");
    const REQUESTS: u32 = 500;
    let mut follower = RawFollower::connect(listener);
    let mut frames = Vec::new();
    for number in 0..REQUESTS {
        let mut frame = asking.frame();
        // Behind the length, the key and the version: the correlation id.
        frame[8..12].copy_from_slice(&number.to_be_bytes());
        frames.extend(frame);
    }
    assert!(follower.send(&frames));
    for number in 0..REQUESTS {
        let answer = follower.answer().expect("every request of a registered broker is answered");
        assert_eq!(answer[..4], number.to_be_bytes());
    }
}

/// Silent ones take all places; who is a broker finds one nevertheless, also one that comes anew.
fn a_thousand_at_once(listener: &str, daemon: &Running, bystanders: &mut Bystanders<'_>) {
    println!("{CONNECTIONS} at once");
    let mut silent: Vec<RawFollower> = (0..CONNECTIONS).map(|_| RawFollower::connect(listener)).collect();
    // Each as large as a frame may be, but for its end.
    let mut large = vec![0; 3 << 20];
    large[..4].copy_from_slice(&(4_u32 << 20).to_be_bytes());
    let sent = silent.iter_mut().rev().take(40).filter_map(|each| each.send(&large).then_some(())).count();
    println!("{sent} of 40 got rid of 3 MiB");
    bystanders.go_on();
    assert_memory(daemon);
    println!("a broker comes back meanwhile");
    bystanders.destination.kill_broker(2);
    bystanders.destination.restart_broker(2);
    bystanders.go_on();
    assert_memory(daemon);
    // The oldest made room for those behind.
    silent[0].poll_until_closed();
}

fn assert_memory(daemon: &Running) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process_id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("at most {peak} KiB so far");
    assert!(peak <= MEMORY_KIB_MAX, "{peak} KiB of {MEMORY_KIB_MAX}");
}
