//! The role of the peers: a source and followers that have no disk, both in one process on one core.
//!
//! ```text
//!   peers ─▶ bench   127.0.0.1:PORT 127.0.0.1:PORT 127.0.0.1:PORT    source, raw sender, sink
//!   bench ─▶ peers   join CONTROLLER BROKER LISTENER FIRST_ID COUNT  ─▶ done; brokers of the destination
//!                    follow TOPIC_ID GUEST                           ─▶ done, when all have what the source has
//!                    burst BATCHES PROCESS_ID                        ─▶ bytes, seconds, user s, system s
//!                    tail RATE SECONDS PROCESS_ID                    ─▶ the same, then ages in µs, then lateness
//!                    leave                                           ─▶ done; unregistered
//! ```
//! A burst is appended at once, to all partitions alike, and goes on until every follower has it. A tail is an
//! open loop: a batch's age counts from the moment when it was due. Bytes are the source's, counted once.
//! Ends when its input does. Must never touch a file.

use super::replica::{Follows, Replica};
use super::wire::Peer;
use crate::children::Role;
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::source::{cluster, send_raw};
use crate::spread::quantile;
use crate::standing::Standing;
use std::io::{BufRead, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_daemon::control::guest::random_uuid;
use twinlog_daemon::embedded::EmbeddedSource;
use twinlog_io::pin_current_thread;

/// A third of the shortest session that a cluster of the bench has.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at how far followers are: the resolution of a burst's length.
const LOOK: Duration = Duration::from_millis(1);
/// Longer than any burst that a bench would ask for.
const PATIENCE: Duration = Duration::from_secs(120);
/// One read of the sink.
const SINK_BYTES: usize = 1 << 20;

/// Batches that are due at a fixed rate, to all partitions in turn.
#[derive(Clone, Copy)]
struct Plan {
    started: Instant,
    per_second: f64,
    /// Batches of each partition before it.
    before: u64,
}

/// What all followers tell.
#[derive(Default)]
struct Progress {
    /// One for each follower.
    received: Vec<AtomicU64>,
    plan: Mutex<Option<Plan>>,
    ages_us: Mutex<Vec<u64>>,
}

struct Member {
    broker: i32,
    epoch: i64,
}

struct Peers {
    load: Load,
    source: EmbeddedSource,
    /// Batches of each partition.
    batches: u64,
    members: Vec<Member>,
    /// Of the controller, for the end.
    controller: Option<String>,
    progress: Arc<Progress>,
    /// Followers and heartbeats are to end.
    left: Arc<AtomicBool>,
}

/// See the file's header. Words: core, shape.
pub fn play(words: &[String]) -> Result<(), BenchError> {
    let failed = |error| BenchError::Role { role: Role::Peers.name(), error };
    let refused = || BenchError::Answer { role: Role::Peers.name(), answer: words.join(" ") };
    let [core, shape] = words else { return Err(refused()) };
    let core: usize = core.parse().map_err(|_| refused())?;
    let shape: Shape = shape.parse().map_err(|_| refused())?;
    // Threads inherit it; a refused pin shows in the figures, not in the result.
    let _ = pin_current_thread(&[core]);
    let load = Load::new(shape);
    let source = EmbeddedSource::start(cluster(&load)).map_err(BenchError::Source)?;
    let (sender, sink) = (listener().map_err(failed)?, listener().map_err(failed)?);
    let address = |of: &TcpListener| of.local_addr().map_err(failed);
    println!("{} {} {}", source.bootstrap(), address(&sender)?, address(&sink)?);
    let bytes = load.bytes();
    thread::spawn(move || send_raw(&sender, &bytes));
    thread::spawn(move || swallow(&sink));
    let batches = load.batches_per_partition();
    let mut peers = Peers {
        load,
        source,
        batches,
        members: Vec::new(),
        controller: None,
        progress: Arc::default(),
        left: Arc::default(),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(failed)?;
        println!("{}", peers.obey(&line.split(' ').collect::<Vec<_>>())?);
    }
    Ok(())
}

fn listener() -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Reads what anybody sends, and forgets it.
fn swallow(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        thread::spawn(move || {
            let mut piece = vec![0; SINK_BYTES];
            while matches!(stream.read(&mut piece), Ok(1..)) {}
        });
    }
}

impl Peers {
    fn obey(&mut self, words: &[&str]) -> Result<String, BenchError> {
        let refused = || BenchError::Answer { role: Role::Peers.name(), answer: words.join(" ") };
        let number = |word: &str| word.parse::<u64>().map_err(|_| refused());
        match *words {
            ["join", controller, broker, listener, first, count] => {
                self.join(controller, broker, listener, number(first)? as i32, number(count)? as i32)?;
            }
            ["follow", topic_id, guest] => {
                let id = u128::from_str_radix(topic_id, 16).map_err(|_| refused())?;
                self.follow(id.to_be_bytes(), guest)?;
                self.wait_for(self.source_bytes())?;
            }
            ["burst", batches, process_id] => {
                return self.burst(number(batches)?, number(process_id)? as u32);
            }
            ["tail", rate, seconds, process_id] => {
                let length = Duration::from_secs(number(seconds)?);
                return self.tail(number(rate)?, length, number(process_id)? as u32);
            }
            ["leave"] => self.leave()?,
            _ => return Err(refused()),
        }
        Ok("done".to_owned())
    }

    fn join(
        &mut self,
        controller: &str,
        broker: &str,
        listener: &str,
        first: i32,
        count: i32,
    ) -> Result<(), BenchError> {
        let cluster_id = Peer::connect(broker)?.cluster_id()?;
        let mut peer = Peer::connect(controller)?;
        for id in first..first + count {
            // Nobody ever connects to it: a follower only asks.
            let epoch = peer.register(id, &cluster_id, random_uuid(), (listener, 9))?;
            while peer.heartbeat(id, epoch)? {}
            self.members.push(Member { broker: id, epoch });
        }
        let kept: Vec<(i32, i64)> = self.members.iter().map(|each| (each.broker, each.epoch)).collect();
        self.controller = Some(controller.to_owned());
        let left = self.left.clone();
        thread::spawn(move || {
            while !left.load(Relaxed) {
                thread::sleep(HEARTBEAT_INTERVAL);
                // What is lost shows: the daemon serves nobody whose session is over.
                kept.iter().for_each(|(id, epoch)| drop(peer.heartbeat(*id, *epoch)));
            }
        });
        Ok(())
    }

    fn follow(&mut self, topic_id: [u8; 16], guest: &str) -> Result<(), BenchError> {
        let received = self.members.iter().map(|_| AtomicU64::new(0)).collect();
        self.progress = Arc::new(Progress { received, ..Progress::default() });
        let (partitions, records) = (self.load.shape.partitions, i64::from(self.load.records_per_batch));
        for (row, member) in self.members.iter().enumerate() {
            let mut replica = Replica::connect(Follows {
                broker: member.broker,
                broker_epoch: member.epoch,
                topic_id,
                partitions,
                guest: guest.to_owned(),
            })?;
            let (progress, left) = (self.progress.clone(), self.left.clone());
            thread::spawn(move || {
                loop {
                    let mut came = Vec::new();
                    let mut sum = 0;
                    let fetched = replica.fetch(&mut |partition, base, bytes| {
                        sum += bytes;
                        came.push((partition, base / records, Instant::now()));
                    });
                    if let Err(error) = fetched {
                        if !left.load(Relaxed) {
                            eprintln!("a follower ended: {error}");
                        }
                        return;
                    }
                    let plan = *progress.plan.lock().expect("nobody panics with it");
                    if let Some(plan) = plan {
                        let mut ages = progress.ages_us.lock().expect("nobody panics with it");
                        ages.extend(came.iter().filter_map(|each| plan.age_us(partitions, *each)));
                    }
                    progress.received[row].fetch_add(sum, Relaxed);
                }
            });
        }
        Ok(())
    }

    fn source_bytes(&self) -> u64 {
        self.batches * self.load.batch_bytes() * u64::from(self.load.shape.partitions)
    }

    /// Until every follower has so many bytes.
    fn wait_for(&self, bytes: u64) -> Result<(), BenchError> {
        let started = Instant::now();
        while !self.progress.received.iter().all(|each| each.load(Relaxed) >= bytes) {
            if started.elapsed() > PATIENCE {
                return Err(BenchError::Slow { what: "following", limit: PATIENCE });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn burst(&mut self, batches: u64, process_id: u32) -> Result<String, BenchError> {
        let (before, started) = (Standing::of(process_id)?, Instant::now());
        let had = self.source_bytes();
        self.source.with_cluster(|cluster| {
            for index in 0..self.load.shape.partitions {
                cluster.extend(STREAM, index as i32, batches);
            }
        });
        self.batches += batches;
        self.wait_for(self.source_bytes())?;
        Ok(spent(self.source_bytes() - had, started, before, Standing::of(process_id)?))
    }

    fn tail(&mut self, rate: u64, length: Duration, process_id: u32) -> Result<String, BenchError> {
        let partitions = u64::from(self.load.shape.partitions);
        let each = rate * length.as_secs() / partitions;
        let (before, had) = (Standing::of(process_id)?, self.source_bytes());
        let plan = Plan { started: Instant::now(), per_second: rate as f64, before: self.batches };
        *self.progress.plan.lock().expect("nobody panics with it") = Some(plan);
        let mut late = Duration::ZERO;
        for ordinal in 0..each * partitions {
            let due = plan.started + Duration::from_secs_f64(ordinal as f64 / plan.per_second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.source.with_cluster(|cluster| cluster.extend(STREAM, (ordinal % partitions) as i32, 1));
            late = late.max(Instant::now().saturating_duration_since(due));
        }
        self.batches += each;
        self.wait_for(self.source_bytes())?;
        let answer = spent(self.source_bytes() - had, plan.started, before, Standing::of(process_id)?);
        *self.progress.plan.lock().expect("nobody panics with it") = None;
        let mut ages = std::mem::take(&mut *self.progress.ages_us.lock().expect("nobody panics with it"));
        ages.sort_unstable();
        if ages.is_empty() {
            return Err(BenchError::Malformed { what: "a tail without a batch" });
        }
        let [p50, p99, p999, most] = [500, 990, 999, 1_000].map(|per_mille| quantile(&ages, per_mille));
        Ok(format!("{answer} {p50} {p99} {p999} {most} {}", late.as_micros()))
    }

    fn leave(&mut self) -> Result<(), BenchError> {
        self.left.store(true, Relaxed);
        let Some(controller) = &self.controller else { return Ok(()) };
        let mut peer = Peer::connect(controller)?;
        self.members.iter().try_for_each(|member| peer.unregister(member.broker))
    }
}

impl Plan {
    /// How old a batch was when it came; `None` for one from before.
    fn age_us(self, partitions: u32, (partition, ordinal, came): (u32, i64, Instant)) -> Option<u64> {
        let turn = u64::try_from(ordinal).ok()?.checked_sub(self.before)?;
        let ordinal = turn * u64::from(partitions) + u64::from(partition);
        let due = self.started + Duration::from_secs_f64(ordinal as f64 / self.per_second);
        Some(came.saturating_duration_since(due).as_micros() as u64)
    }
}

fn spent(bytes: u64, started: Instant, before: Standing, after: Standing) -> String {
    let seconds = started.elapsed().as_secs_f64();
    let user = after.user_seconds - before.user_seconds;
    let system = after.system_seconds - before.system_seconds;
    format!("{bytes} {seconds} {user} {system}")
}
