//! One simulated life of a shard: faults for a while, then healing, then the oracles.

mod slow_disk;

pub use slow_disk::live_on_a_slow_disk;

use super::control::{BATCH_BYTES_MAX, Control, DATA_DIRECTORY, journal_directory};
use super::disk::{DiskFaults, SimulatedDisk};
use super::engine::{SimulatedEngine, Surroundings};
use super::network::Network;
use super::oracle::assert_copy;
use super::random::Random;
use super::workload::Workload;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_daemon::embedded::{Cluster, Health, TopicOptions};
use twinlog_daemon::security::{ClientSecurity, ListenerSecurity};
use twinlog_daemon::shard::mailbox::{Command, ShardCounters};
use twinlog_daemon::shard::{FsyncPolicy, Shard, ShardOptions};
use twinlog_io::{Disk, Step};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::lane::LaneOptions;
use twinlog_sync::truncation::{OnGap, OnTruncation, TruncationPolicy};
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Turns of the loop in which a healed world must have caught up: a liveness bound, far above any seen.
const HEAL_TURNS_MAX: u64 = 400_000;
/// Memory of the simulated shard: little, so that it runs out.
const ARENA_BYTES: u64 = 8 << 20;
/// What one answer may hold.
const RESPONSE_BYTES_MAX: u32 = 1 << 20;
/// Small, so that segments roll often.
const SEGMENT_BYTES: u32 = 128 << 10;

/// See the file's header.
pub struct World {
    surroundings: Rc<RefCell<Surroundings>>,
    disk: SimulatedDisk,
    shard: Option<Shard<SimulatedEngine>>,
    shard_counters: Arc<ShardCounters>,
    control: Control,
    workload: Workload,
    random: Random,
    broken: Option<i32>,
    segment_bytes: u32,
    /// What was called delivered before the last crash, per partition name.
    promised: BTreeMap<(String, i32), i64>,
    /// The lowest end that an unclean election left, per partition name.
    lowest: BTreeMap<(String, i32), i64>,
    starts: u32,
}

/// Lives through one seed; panics with what went wrong.
pub fn live(seed: u64) {
    let mut world = World::new(seed);
    world.restart();
    let steps = 40 + world.random.below(160);
    for _ in 0..steps {
        world.misfortune();
        let turns = world.random.below(60);
        for _ in 0..turns {
            world.turn();
        }
    }
    world.heal();
    world.assert_copies();
    // A last crash: what was called delivered is still there.
    world.die(true);
    world.restart();
    world.heal();
    world.assert_copies();
}

fn policy() -> TruncationPolicy {
    TruncationPolicy {
        on_truncation: OnTruncation::Follow,
        on_gap: OnGap::Continue,
        ..TruncationPolicy::default()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let brokers = 1 + random.below(3) as u32;
        let mut cluster = Cluster::new(brokers);
        for name in ["alpha", "beta"] {
            let first = if random.one_in(3) { random.below(1 << 40) as i64 } else { 0 };
            let options = TopicOptions {
                partitions: 1 + random.below(4) as u32,
                replication_factor: brokers,
                first_offset: Offset::new(first).expect("not negative"),
                internal: false,
            };
            cluster.create_topic(name, options);
        }
        for broker in cluster.broker_ids() {
            cluster.set_address(broker, "127.0.0.1", u16::try_from(broker).expect("few brokers"));
        }
        if random.one_in(4) {
            let fetch = 1;
            // Below 9 a fetch carries no epoch at all, and lost data at the source cannot be told.
            cluster.limit_version(fetch, 9 + random.below(9) as i16);
        }
        let network = Network::new(cluster, random.number());
        let engine_random = Random::new(random.number());
        let surroundings = Surroundings { now: 1_000_000, random: engine_random, network, disk_slowness: 1 };
        let disk = SimulatedDisk::default();
        Self {
            surroundings: Rc::new(RefCell::new(surroundings)),
            control: Control::new(disk.clone(), policy()),
            disk,
            shard: None,
            shard_counters: Arc::new(ShardCounters::default()),
            workload: Workload::default(),
            random,
            broken: None,
            segment_bytes: SEGMENT_BYTES,
            promised: BTreeMap::new(),
            lowest: BTreeMap::new(),
            starts: 0,
        }
    }

    fn options(&self) -> ShardOptions {
        let lane = LaneOptions {
            client_id: "simulated".to_owned(),
            rack: String::new(),
            isolation_level: IsolationLevel::ReadCommitted,
            wait_max_ms: 100,
            bytes_min: 1,
            response_bytes_max: RESPONSE_BYTES_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            request_timeout_ms: 1_000,
            backoff: twinlog_sync::backoff::BackoffLimits::default(),
        };
        ShardOptions {
            index: 0,
            lane: Arc::new(lane),
            source: ClientSecurity::plaintext(),
            destination: ClientSecurity::plaintext(),
            listener: ListenerSecurity::plaintext(),
            bytes_per_second: 0,
            partition_bytes_max: 64 << 10,
            segment_bytes: self.segment_bytes,
            batch_bytes_max: BATCH_BYTES_MAX,
            flush_ms: 50,
            flush_catch_up_ms: 500,
            flush_catch_up_bytes: 1 << 20,
            checkpoint_ms: 300,
            fsync: FsyncPolicy::Interval,
            direct_io: true,
            journal: journal_directory().join("journal-0"),
            sockets_max: 8,
            files_max: 6,
            is_guest: false,
            spool_bytes: 0,
        }
    }

    /// A start of the process; a crash in the middle of recovery starts once more.
    fn restart(&mut self) {
        // A start without room is refused with a sentence; somebody makes room and starts again.
        self.disk.set_faults(DiskFaults::default());
        self.disk.crash_after(None);
        loop {
            self.starts += 1;
            let made = Step::MakeDirectory { path: DATA_DIRECTORY.into() };
            self.disk.run(&made).expect("the disk takes directories");
            let engine = SimulatedEngine::new(ARENA_BYTES, self.disk.clone(), self.surroundings.clone());
            self.shard_counters = Arc::new(ShardCounters::default());
            let mut shard = Shard::new(engine, self.options(), self.shard_counters.clone());
            self.control = Control::new(self.disk.clone(), policy());
            if self.random.one_in(4) {
                let steps = self.random.below(60);
                self.disk.crash_after(Some(steps));
            }
            let around = self.surroundings.borrow();
            let started = self.control.start(&around.network.cluster, &mut shard);
            drop(around);
            let crashed = self.disk.has_crashed();
            self.disk.crash_after(None);
            match started {
                Ok(()) if !crashed => {
                    self.shard = Some(shard);
                    return self.assert_promises();
                }
                Ok(()) => panic!("a failing disk went unnoticed"),
                Err(error) => assert!(crashed, "recovery refused: {error}"),
            }
            if self.random.one_in(2) {
                self.disk.lose_power(&mut self.random);
            }
        }
    }

    /// What was called delivered before a crash is there after it.
    fn assert_promises(&mut self) {
        for (key, counters) in &self.control.counters {
            let (name, index) = self.control.name_of(*key);
            let log_end = counters.log_end.load(Relaxed);
            if let Some(promised) = self.promised.get(&(name.to_owned(), index)) {
                let lost = self.lowest.get(&(name.to_owned(), index)).copied().unwrap_or(i64::MAX);
                let promised = (*promised).min(lost);
                assert!(log_end >= promised, "{name}-{index}: {promised} was delivered, {log_end} came back");
            }
        }
    }

    fn remember_promises(&mut self) {
        for (key, counters) in &self.control.counters {
            let (name, index) = self.control.name_of(*key);
            self.promised.insert((name.to_owned(), index), counters.delivered.load(Relaxed));
        }
    }

    fn die(&mut self, power: bool) {
        println!("dies, power {power}: {}", self.describe());
        self.remember_promises();
        if let Some(mut shard) = self.shard.take() {
            shard.engine_mut().die();
        }
        if power {
            self.disk.lose_power(&mut self.random);
        }
    }

    fn turn(&mut self) {
        let Some(shard) = &mut self.shard else { return self.restart() };
        let (has_work, endless) = (shard.has_work(), shard.engine_mut().endless_waits);
        shard.turn().expect("the simulated engine never fails as a whole");
        let slept = shard.engine_mut().endless_waits > endless;
        assert!(!(has_work && slept), "the shard sleeps for ever although it has work: {}", shard.describe());
        let mut failed = false;
        while let Some(event) = shard.next_event() {
            let around = self.surroundings.borrow();
            failed |= self.control.event(&around.network.cluster, shard, event).is_err();
        }
        if failed || self.control.halted {
            // The process ends: what it did not sync may be gone.
            let power = self.random.one_in(2);
            self.disk.crash_after(None);
            self.die(power);
            self.restart();
        }
    }

    fn some_partition(&mut self) -> (String, i32) {
        let around = self.surroundings.borrow();
        let partitions: Vec<(String, i32)> =
            around.network.cluster.partitions().map(|(topic, index, _)| (topic.to_owned(), index)).collect();
        drop(around);
        self.random.pick(&partitions).clone()
    }

    /// Something happens: mostly data, sometimes a fault.
    fn misfortune(&mut self) {
        let (topic, index) = self.some_partition();
        let around = Rc::clone(&self.surroundings);
        let mut around = around.borrow_mut();
        let now = around.now;
        let network = &mut around.network;
        match self.random.below(40) {
            0 | 1 => {
                drop(around);
                let power = self.random.one_in(2);
                self.die(power);
                self.restart();
            }
            2 | 3 => {
                let brokers = network.cluster.broker_ids();
                let leader = *self.random.pick(&brokers);
                network.cluster.elect(&topic, index, leader);
            }
            4 => self.lose_the_end(&mut network.cluster, &topic, index),
            5 => {
                let log = network.cluster.partition(&topic, index).expect("it exists");
                let (start, end) = (log.log_start_offset().value(), log.log_end_offset().value());
                let to = start + self.random.below((end - start) as u64 + 1) as i64;
                network.cluster.trim(&topic, index, Offset::new(to).expect("not negative"));
            }
            6 => network.break_all(now),
            7 => self.break_or_heal_a_broker(&mut network.cluster),
            8 => {
                let brokers = network.cluster.broker_ids();
                network.cluster.forget_sessions(*self.random.pick(&brokers));
            }
            9 => network.cluster.corrupt_next_fetch(&topic, index),
            10 => {
                let error = [None, Some(6), Some(9), Some(3), Some(29)];
                network.cluster.fail_fetches(&topic, index, *self.random.pick(&error));
            }
            11 => {
                let full = self.random.one_in(2);
                self.disk.set_faults(DiskFaults { full, sync_fails: false });
            }
            12 if self.random.one_in(3) => self.disk.set_faults(DiskFaults { full: false, sync_fails: true }),
            13 => {
                let brokers = network.cluster.broker_ids();
                network.cluster.throttle(*self.random.pick(&brokers), 3, 50);
            }
            14 => {
                let steps = self.random.below(200);
                self.disk.crash_after(Some(steps));
            }
            _ => {
                for _ in 0..1 + self.random.below(30) {
                    self.workload.append(&mut network.cluster, &mut self.random, &topic, index);
                }
            }
        }
    }

    /// An unclean election: the end of the log is gone, and what comes next differs.
    fn lose_the_end(&mut self, cluster: &mut Cluster, topic: &str, index: i32) {
        let log = cluster.partition(topic, index).expect("it exists");
        let (start, end) = (log.log_start_offset().value(), log.log_end_offset().value());
        let to = end - self.random.below((end - start) as u64 / 2 + 1) as i64;
        let leader = log.leader();
        cluster.truncate_and_elect(topic, index, Offset::new(to).expect("not negative"), leader);
        let kept = cluster.partition(topic, index).expect("it exists").log_end_offset().value();
        // What was delivered and then lost at the source is promised no more.
        let lowest = self.lowest.entry((topic.to_owned(), index)).or_insert(kept);
        *lowest = kept.min(*lowest);
    }

    fn break_or_heal_a_broker(&mut self, cluster: &mut Cluster) {
        if let Some(broker) = self.broken.take() {
            cluster.set_health(broker, Health::Serving);
            return;
        }
        let brokers = cluster.broker_ids();
        let broker = *self.random.pick(&brokers);
        let health = if self.random.one_in(2) { Health::Down } else { Health::Silent };
        cluster.set_health(broker, health);
        self.broken = Some(broker);
    }

    /// Every fault ends; the mirror must catch up by itself, let go of everything, and end.
    fn heal(&mut self) {
        self.disk.set_faults(DiskFaults::default());
        self.disk.crash_after(None);
        let around = Rc::clone(&self.surroundings);
        {
            let cluster = &mut around.borrow_mut().network.cluster;
            for broker in cluster.broker_ids() {
                cluster.set_health(broker, Health::Serving);
            }
            let partitions: Vec<(String, i32)> =
                cluster.partitions().map(|(topic, index, _)| (topic.to_owned(), index)).collect();
            for (topic, index) in &partitions {
                cluster.fail_fetches(topic, *index, None);
            }
            self.workload.end_all(cluster, &partitions);
        }
        for turn in 0.. {
            if self.has_caught_up() {
                break;
            }
            assert!(turn < HEAL_TURNS_MAX, "a healed world never caught up: {}", self.describe());
            self.turn();
        }
        self.drain();
    }

    fn has_caught_up(&self) -> bool {
        let cluster = &self.surroundings.borrow().network.cluster;
        self.shard.is_some()
            && self.control.counters.iter().all(|(key, counters)| {
                let (name, index) = self.control.name_of(*key);
                let log = cluster.partition(name, index).expect("it exists");
                let delivered = counters.delivered.load(Relaxed);
                let epoch_seen = counters.source_seen_at.load(Relaxed) > 0;
                let log_start = counters.log_start.load(Relaxed);
                epoch_seen
                    && log_start == log.log_start_offset().value()
                    && delivered == log.last_stable_offset().value().max(log_start)
            })
    }

    fn describe(&self) -> String {
        let cluster = &self.surroundings.borrow().network.cluster;
        let partitions = self.control.counters.iter().map(|(key, counters)| {
            let (name, index) = self.control.name_of(*key);
            let log = cluster.partition(name, index).expect("it exists");
            let (fetch, delivered) = (counters.fetch.load(Relaxed), counters.delivered.load(Relaxed));
            let (end, state) = (log.last_stable_offset(), counters.state());
            let starts = (counters.log_start.load(Relaxed), log.log_start_offset().value());
            format!(
                "{name}-{index}: {state:?} starts {starts:?} fetch {fetch} delivered {delivered} of {end}"
            )
        });
        let stopped = self.control.stopped.iter().map(|(key, fault)| format!("{key:?} stopped: {fault}"));
        let shard = self.shard.as_ref().map(Shard::describe);
        partitions.chain(stopped).chain(shard).collect::<Vec<_>>().join("\n")
    }

    fn drain(&mut self) {
        let mut shard = self.shard.take().expect("a healed world runs");
        shard.command(Command::Drain);
        let mut turns = 0;
        while !shard.is_done() {
            shard.turn().expect("the simulated engine never fails as a whole");
            while shard.next_event().is_some() {}
            turns += 1;
            assert!(turns < HEAL_TURNS_MAX, "a drain never ended: {}", shard.describe());
        }
        shard.assert_all_memory_is_free();
    }

    fn assert_copies(&mut self) {
        let around = Rc::clone(&self.surroundings);
        let around = around.borrow();
        for (key, counters) in self.control.counters.clone() {
            let partition = self.control.partition_of(key);
            let log = around.network.cluster.partition(partition.topic(), key.index).expect("it exists");
            let log_start = counters.log_start.load(Relaxed);
            assert_copy(&mut self.disk, &partition, log, log_start);
        }
    }
}
