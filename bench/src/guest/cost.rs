//! What the daemon costs between a source and followers that have no disk, beside the floor.
//!
//! ```text
//!   controller, one idle broker: real    topics, registrations, epochs; no replica of the broker's own
//!   core 0   peers.rs: source ─▶ core 1  the daemon ─▶ core 0  peers.rs: followers
//!   core 0   raw sender       ─▶ core 1  floor.rs   ─▶ core 0  sink, so many times
//! ```
//! Everything that is measured is appended while the followers follow, so it is the flow alone: the daemon's
//! start, its registration and the creation of the topic are over. Read from /proc, to a hundredth of a second.

use super::daemon::{Daemon, Ends, LISTENER, Link, PATIENCE};
use super::wire::Peer;
use crate::Bench;
use crate::catch_up::size;
use crate::children::{self, Beside, Role};
use crate::error::BenchError;
use crate::floor;
use crate::load::{Load, STREAM, Shape};
use crate::spread::Spread;
use crate::table::Table;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::{Cluster, ClusterOptions};

const KIB: usize = 1 << 10;
/// Record bytes, batch bytes, partitions, followers.
const COMBINATIONS: [(usize, usize, u32, usize); 8] = [
    (KIB, 64 * KIB, 6, 1),
    (KIB, 64 * KIB, 6, 2),
    (KIB, 64 * KIB, 6, 3),
    (KIB, 64 * KIB, 200, 1),
    (KIB, 64 * KIB, 200, 3),
    (100, 16 * KIB, 6, 1),
    (100, 16 * KIB, 200, 1),
    (100, 16 * KIB, 200, 3),
];
/// Appended to each partition at first, so that every log, file and session is there before it is measured.
const WARM_UP_BATCHES: u64 = 4;
/// Batches of one record, open loop: brokers are asked for the same in latency.rs.
const TAIL_RATE: u64 = 1_000;
const TAIL_SECONDS: u64 = 8;
/// The first guest id; each run has its own, because a killed one keeps its session for a while.
const FIRST_GUEST: i32 = 900;
/// The first follower's id; followers leave in order, so ids come back.
const FIRST_FOLLOWER: i32 = 201;
const LOOK: Duration = Duration::from_millis(10);

/// Bytes per second of the paced flow: little enough that followers always find the records in memory.
const PACE: u64 = 200_000_000;
const PACED_SECONDS: u64 = 4;

/// One flow.
#[derive(Clone, Copy, Debug)]
struct Flow {
    bytes: f64,
    seconds: f64,
    user: f64,
    system: f64,
}

impl Flow {
    fn of(figures: &[f64]) -> Flow {
        Flow { bytes: figures[0], seconds: figures[1], user: figures[2], system: figures[3] }
    }

    fn gigabytes(&self) -> f64 {
        self.bytes / 1e9
    }
}

/// A daemon between peers, its followers following.
struct Stage {
    daemon: Daemon,
    peers: Beside,
    sender: String,
    sink: String,
    _link: Link,
}

/// What all runs share.
pub struct Ground {
    cluster: Cluster,
    runs: i32,
}

impl Ground {
    /// A controller, and a broker that takes no replica.
    pub fn start() -> Ground {
        let options = ClusterOptions { internal_listener: true, ..ClusterOptions::default() };
        let options = options.with_override("cordoned.log.dirs", "*");
        Ground { cluster: Cluster::start(options), runs: 0 }
    }

    fn stage(
        &mut self,
        bench: &Bench<'_>,
        directory: &Path,
        shape: Shape,
        followers: usize,
    ) -> Result<Stage, BenchError> {
        let control = bench.cores.control.to_string();
        let mut peers = Beside::start(Role::Peers, &[control, shape.to_string()])?;
        let hello = peers.answer()?;
        let words: Vec<&str> = hello.split(' ').collect();
        let [source, sender, sink] = words[..] else {
            return Err(BenchError::Answer { role: Role::Peers.name(), answer: hello.clone() });
        };
        let (controllers, broker) = (self.cluster.bootstrap_controllers(), self.cluster.bootstrap());
        peers.ask(&format!("join {controllers} {broker} {LISTENER} {FIRST_FOLLOWER} {followers}"))?;
        let ends = Ends {
            source,
            destination: &broker,
            controllers: &controllers,
            guest: FIRST_GUEST + 2 * self.runs,
            topics: STREAM,
            replicas: followers,
        };
        self.runs += 1;
        let link = Link::create(directory, &ends, Some(bench.cores))?;
        let daemon = link.start()?;
        let id = self.topic_id(&daemon)?;
        peers.ask(&format!("follow {id:032x} {}", link.listener()))?;
        let (sender, sink) = (sender.to_owned(), sink.to_owned());
        Ok(Stage { daemon, peers, sender, sink, _link: link })
    }

    /// Waits until the daemon has created the topic.
    fn topic_id(&self, daemon: &Daemon) -> Result<u128, BenchError> {
        let mut broker = Peer::connect(&self.cluster.bootstrap())?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(topic) = broker.topic(STREAM)? {
                return Ok(u128::from_be_bytes(topic.id));
            }
            thread::sleep(LOOK);
        }
        eprintln!("{}", daemon.last_words());
        Err(BenchError::Slow { what: "the creation of the mirror topic", limit: PATIENCE })
    }

    /// Takes everything away that the next run would meet.
    fn clear(&self, stage: Stage) -> Result<(), BenchError> {
        let Stage { daemon, mut peers, .. } = stage;
        drop(daemon);
        self.cluster.scenario().delete_topic(STREAM);
        peers.ask("leave").map(drop)
    }
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let wanted: Vec<_> = COMBINATIONS.iter().filter(|each| is_wanted(bench, each)).collect();
    let tails: Vec<usize> =
        [1, 3].into_iter().filter(|each| bench.arguments.wants(&tail_name(*each))).collect();
    if wanted.is_empty() && tails.is_empty() {
        return Ok(());
    }
    let mut ground = Ground::start();
    let mut table = Table::new(&[
        "record",
        "batch",
        "partitions",
        "followers",
        "flow",
        "MB/s in",
        "MB/s out",
        "CPU-s/GB",
        "user",
        "system",
        "floor",
        "ratio",
    ]);
    for (record_bytes, batch_bytes, partitions, followers) in &wanted {
        let total_bytes = u64::from(*partitions) * *batch_bytes as u64 * WARM_UP_BATCHES;
        let (record_bytes, batch_bytes, partitions) = (*record_bytes, *batch_bytes, *partitions);
        let shape = Shape { record_bytes, batch_bytes, partitions, total_bytes };
        combination(bench, &mut ground, shape, *followers)?.into_iter().for_each(|row| table.row(row));
    }
    if !wanted.is_empty() {
        bench.report.line(&format!(
            "\n## Cost, followers without a disk\n\nGB and MB are of the source's batches, counted once; out: what all \
             followers got. At once: {:.1} GB appended while the followers follow; paced: {} MB/s for {PACED_SECONDS} s. Floor: receive, CRC, write, and send to as many \
             sockets, on the same ring. Median (least..most).",
            bench.arguments.run_bytes() as f64 / 1e9,
            PACE / 1_000_000
        ));
        bench.report.table(&table);
    }
    if !tails.is_empty() {
        tell_tails(bench, &mut ground, &tails)?;
    }
    Ok(())
}

fn name(each: &(usize, usize, u32, usize)) -> String {
    let (record_bytes, _, partitions, followers) = each;
    format!("cost/{}/{partitions}/{followers}", record_size(*record_bytes))
}

fn record_size(bytes: usize) -> String {
    if bytes < KIB { format!("{bytes}B") } else { size(bytes) }
}

fn tail_name(followers: usize) -> String {
    format!("latency/memory/{followers}")
}

fn is_wanted(bench: &Bench<'_>, each: &(usize, usize, u32, usize)) -> bool {
    let in_quick = each.3 < 3 || each.2 == 6;
    let left_out = bench.arguments.quick && !in_quick && !bench.arguments.names(&name(each));
    bench.arguments.wants(&name(each)) && !left_out
}

fn combination(
    bench: &Bench<'_>,
    ground: &mut Ground,
    shape: Shape,
    followers: usize,
) -> Result<[Vec<String>; 2], BenchError> {
    let what = (shape.record_bytes, shape.batch_bytes, shape.partitions, followers);
    eprintln!("measuring {}", name(&what));
    let load = Load::new(shape);
    let batches = bench.arguments.run_bytes() / u64::from(shape.partitions) / load.batch_bytes();
    let repeats = bench.arguments.repeats.unwrap_or(if bench.arguments.quick { 1 } else { 5 });
    let directory = bench.scratch.place("guest", bench.arguments.run_bytes() * (repeats + 2))?;
    let floor_directory = bench.scratch.place("floor", bench.arguments.run_bytes() * 2)?;
    let mut stage = ground.stage(bench, &directory, shape, followers)?;
    let (mut flows, mut paced, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let process_id = stage.daemon.process_id();
    let flow = |stage: &mut Stage, question: String| {
        let figures = children::numbers(Role::Peers, &stage.peers.ask(&question)?, 4)?;
        Ok::<_, BenchError>(Flow::of(&figures))
    };
    for _ in 0..repeats {
        let burst = flow(&mut stage, format!("burst {batches} {process_id}"))?;
        let rate = PACE / load.batch_bytes();
        paced.push(flow(&mut stage, format!("tail {rate} {PACED_SECONDS} {process_id}"))?);
        let made = std::fs::create_dir(&floor_directory);
        made.map_err(|error| BenchError::File { action: "making", path: floor_directory.clone(), error })?;
        let to = vec![stage.sink.clone(); followers];
        let file = floor_directory.join("bytes");
        let floor = floor::run(bench.cores, &stage.sender, burst.bytes as u64, &file, &to)?;
        bench.scratch.clear(&floor_directory)?;
        floors.push(floor.cpu_seconds() / (floor.bytes as f64 / 1e9));
        flows.push(burst);
    }
    ground.clear(stage)?;
    bench.scratch.clear(&directory)?;
    Ok([("at once", flows), ("paced", paced)]
        .map(|(kind, flows)| row(shape, followers, kind, &flows, &floors)))
}

fn row(shape: Shape, followers: usize, kind: &str, flows: &[Flow], floors: &[f64]) -> Vec<String> {
    let spread = |figure: fn(&Flow) -> f64| Spread::of(flows.iter().map(figure));
    let per_gigabyte = |flow: &Flow| (flow.user + flow.system) / flow.gigabytes();
    let ratio = Spread::of(flows.iter().zip(floors).map(|(flow, floor)| per_gigabyte(flow) / floor));
    let rate = spread(|flow| flow.bytes / 1e6 / flow.seconds);
    vec![
        record_size(shape.record_bytes),
        size(shape.batch_bytes),
        shape.partitions.to_string(),
        followers.to_string(),
        kind.to_owned(),
        format!("{rate:.0}"),
        format!("{:.0}", rate.middle * followers as f64),
        format!("{:.3}", Spread::of(flows.iter().map(per_gigabyte))),
        format!("{:.3}", spread(|flow| flow.user / flow.gigabytes())),
        format!("{:.3}", spread(|flow| flow.system / flow.gigabytes())),
        format!("{:.3}", Spread::of(floors.iter().copied())),
        format!("{ratio:.2}"),
    ]
}

/// Single records at a fixed rate, seen by followers without a disk: what latency is ours.
fn tell_tails(bench: &mut Bench<'_>, ground: &mut Ground, tails: &[usize]) -> Result<(), BenchError> {
    let mut table = Table::new(&[
        "followers",
        "batches/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "most ms",
        "producer late ms",
        "daemon % of a core",
    ]);
    for followers in tails {
        eprintln!("measuring {}", tail_name(*followers));
        let shape = Shape { record_bytes: KIB, batch_bytes: KIB, partitions: 6, total_bytes: 0 };
        let directory = bench.scratch.place("guest", 1 << 30)?;
        let mut stage = ground.stage(bench, &directory, shape, *followers)?;
        let question = format!("tail {TAIL_RATE} {TAIL_SECONDS} {}", stage.daemon.process_id());
        let figures = children::numbers(Role::Peers, &stage.peers.ask(&question)?, 9)?;
        ground.clear(stage)?;
        bench.scratch.clear(&directory)?;
        let mut row = vec![followers.to_string(), TAIL_RATE.to_string()];
        row.extend(figures[4..9].iter().map(|us| format!("{:.2}", us / 1e3)));
        row.push(format!("{:.1}", 100.0 * (figures[2] + figures[3]) / figures[1]));
        table.row(row);
    }
    bench.report.line(
        "\n## Latency, followers without a disk\n\nFrom the moment when a batch of one record of 1 KiB was due at a source \
         in memory until a follower had it whole. 6 partitions, open loop.",
    );
    bench.report.table(&table);
    Ok(())
}
