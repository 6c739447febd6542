//! How old a batch is when the mirror has it: appends at a part of the highest rate, whoever keeps up or not.
//!
//! ```text
//!   core 0   producer: due ─▶ append ... observer: counters of the shard, every 100 µs      core 1   the shard
//!                due ──────────▶ verified ──────────▶ written ─────────▶ flushed
//! ```
//! The shard runs in this process, so that its counters can be read; source, producer and observer share core 0.
//! Open loop: a batch's age counts from the moment when it was due, also when the producer was late itself.

use crate::Bench;
use crate::catch_up::{AIM_PARTITIONS, size, stream_rate};
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::source;
use crate::spread::quantile;
use crate::standing::threads_seconds;
use crate::table::Table;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_daemon::embedded::EmbeddedSource;
use twinlog_daemon::security::{ClientSecurity, ListenerSecurity};
use twinlog_daemon::shard::mailbox::{Command, Event, PartitionCounters};
use twinlog_daemon::shard::{FsyncPolicy, ShardHandle, ShardOptions, spawn};
use twinlog_io::{EngineOptions, EnginePreference, pin_current_thread, raise_file_limit};
use twinlog_log_segment::files::TopicId;
use twinlog_sync::lane::LaneOptions;
use twinlog_sync::wire::fetch_request::{IsolationLevel, Topic};
use twinlog_tests::shard::{hand_over, new_partition};

const KIB: usize = 1 << 10;
const BATCH_BYTES: usize = 64 * KIB;
/// The product's default of `batch.bytes.max`.
const BATCH_BYTES_MAX: u32 = 64 << 20;
/// What a shard has of the default of 512 MiB.
const ARENA_BYTES: u64 = 300 << 20;
/// How long one part of the log may take to come, at the start and after the last append.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the counters are looked at: the resolution of every figure.
const LOOK: Duration = Duration::from_micros(100);
/// Appends of the first part are not counted: files are opened, sockets grow their windows.
const WARM_UP: Duration = Duration::from_secs(1);
/// Parts of the highest rate, in percent. The aim speaks of the half; the others show what a queue adds.
const LOADS_PERCENT: [u32; 4] = [75, 50, 25, 10];
/// Bytes whose catch-up gives the highest rate: so many that no cache of the disk swallows them all.
const RATE_BYTES_MIN: u64 = 6_000_000_000;
/// Most bytes of one measurement: it all goes to disk.
const BYTES_MAX: f64 = 12e9;
const BROKER: i32 = 1;
/// Record bytes and partitions.
const COMBINATIONS: [(usize, u32); 5] =
    [(KIB, 1), (KIB, AIM_PARTITIONS), (KIB, 40), (KIB, 1_000), (16 * KIB, AIM_PARTITIONS)];
/// Files of all partitions stay open, as they do in the daemon.
const FILES_MAX: u32 = 2_048;
/// The shard's own thread, its helper, and the kernel's workers for its ring.
pub const SHARD_THREADS: [&str; 4] = ["twinlog-data", "twinlog-files", "twinlog-writes", "iou-"];

/// How far a batch has come.
const STAGES: [&str; 3] = ["verified", "written", "flushed"];

/// Ages in microseconds, sorted, of one stage each.
type Ages = [Vec<u64>; STAGES.len()];

/// What one load led to.
struct Figures {
    ages: Ages,
    fetches: u64,
    memory_stalls: u64,
    late_ms: f64,
    /// CPU seconds of the shard while batches were appended, for each 10^9 bytes of them.
    user: f64,
    system: f64,
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let mut table = Table::new(&[
        "record",
        "partitions",
        "load",
        "MB/s",
        "batches/s",
        "stage",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "most ms",
        "fetches",
        "memory stalls",
        "producer late ms",
        "CPU-s/GB",
        "user",
        "system",
    ]);
    let mut measured = false;
    // A table of files beyond the limit is refused, and then a ring is opened with less; the figures show it.
    let _ = raise_file_limit();
    for (record_bytes, partitions) in COMBINATIONS {
        let name = format!("tail/{}/{partitions}", size(record_bytes));
        let in_quick = (record_bytes, partitions) == (KIB, AIM_PARTITIONS);
        let left_out = bench.arguments.quick && !in_quick && !bench.arguments.names(&name);
        if left_out || !bench.arguments.wants(&name) {
            continue;
        }
        eprintln!("measuring {name}");
        measured = true;
        let total_bytes = bench.arguments.run_bytes().max(RATE_BYTES_MIN);
        let shape = Shape { record_bytes, batch_bytes: BATCH_BYTES, partitions, total_bytes };
        let highest = stream_rate(bench, shape)?;
        for percent in LOADS_PERCENT {
            at_load(bench, shape, highest, percent, &mut table)?;
        }
    }
    if measured {
        bench.report.line(&format!(
            "\n## Tail\n\nBatches of {}, parts of the rate that a catch-up of the same shape \
             had just before; ages since the append at the source, resolution {} µs. Producer late: \
             the most that an append came after it was due. CPU time: the shard's thread, its helper and its ring's \
             workers, while batches were appended, to a hundredth of a second.",
            size(BATCH_BYTES),
            LOOK.as_micros()
        ));
        bench.report.table(&table);
    }
    Ok(())
}

/// One load of one shape: three rows.
fn at_load(
    bench: &Bench<'_>,
    shape: Shape,
    highest: f64,
    percent: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let rate = highest * f64::from(percent) / 100.0;
    let seconds = (BYTES_MAX / rate).min(if bench.arguments.quick { 5.0 } else { 15.0 });
    let copy = bench.scratch.place("tail", (rate * seconds) as u64 * 2)?;
    let load = Load::new(Shape { total_bytes: 0, ..shape });
    let figures = on_its_own_thread(bench, &load, rate, seconds, &copy)?;
    bench.scratch.clear(&copy)?;
    for (stage, ages) in STAGES.iter().zip(&figures.ages) {
        let age = |per_mille| format!("{:.2}", quantile(ages, per_mille) as f64 / 1e3);
        table.row(vec![
            size(shape.record_bytes),
            shape.partitions.to_string(),
            format!("{percent} %"),
            format!("{:.0}", rate / 1e6),
            format!("{:.0}", rate / load.batch_bytes() as f64),
            (*stage).to_owned(),
            age(500),
            age(990),
            age(999),
            age(1_000),
            figures.fetches.to_string(),
            figures.memory_stalls.to_string(),
            format!("{:.2}", figures.late_ms),
            format!("{:.3}", figures.user + figures.system),
            format!("{:.3}", figures.user),
            format!("{:.3}", figures.system),
        ]);
    }
    Ok(())
}

/// The bench's own thread stays free to start children anywhere.
fn on_its_own_thread(
    bench: &Bench<'_>,
    load: &Load,
    rate: f64,
    seconds: f64,
    copy: &Path,
) -> Result<Figures, BenchError> {
    let cores = bench.cores;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // The source's threads inherit it, the shard's pins itself.
            let _ = pin_current_thread(&[cores.control]);
            let source = EmbeddedSource::start(source::cluster(load)).map_err(BenchError::Source)?;
            let shard = spawn(
                shard_options(copy)?,
                engine_options(cores.control),
                EnginePreference::Auto,
                Some(cores.data),
            );
            let shard = shard.map_err(BenchError::Engine)?;
            let counters = add_partitions(&source, &shard, load, copy)?;
            let mut tail = Tail::new(load, counters);
            tail.poll_all(PATIENCE, "the first batches")?;
            let before = threads_seconds(&SHARD_THREADS);
            tail.produce(&source, rate, seconds);
            tail.poll_all(PATIENCE, "the last batches")?;
            let after = threads_seconds(&SHARD_THREADS);
            let counters = shard.counters.clone();
            let drained = end(shard);
            source.stop();
            drained?;
            let (fetches, memory_stalls) =
                (counters.fetches.load(Relaxed), counters.memory_stalls.load(Relaxed));
            let late_ms = tail.late.as_secs_f64() * 1e3;
            let gigabytes = tail.appended as f64 * tail.batch_bytes / 1e9;
            let (user, system) = ((after.0 - before.0) / gigabytes, (after.1 - before.1) / gigabytes);
            Ok(Figures { ages: tail.sorted(), fetches, memory_stalls, late_ms, user, system })
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn shard_options(copy: &Path) -> Result<ShardOptions, BenchError> {
    let made = std::fs::create_dir_all(copy.join("journal"));
    made.map_err(|error| BenchError::File { action: "making", path: copy.to_path_buf(), error })?;
    // The defaults of daemon/src/config/key.rs.
    let lane = LaneOptions {
        client_id: "twinlog-bench".to_owned(),
        rack: String::new(),
        isolation_level: IsolationLevel::ReadCommitted,
        wait_max_ms: 500,
        bytes_min: 1,
        response_bytes_max: 16 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        request_timeout_ms: 30_000,
        backoff: twinlog_sync::backoff::BackoffLimits::default(),
    };
    Ok(ShardOptions {
        index: 0,
        lane: Arc::new(lane),
        source: ClientSecurity::plaintext(),
        destination: ClientSecurity::plaintext(),
        listener: ListenerSecurity::plaintext(),
        bytes_per_second: 0,
        partition_bytes_max: 4 << 20,
        segment_bytes: 256 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        flush_ms: 250,
        flush_catch_up_ms: 5_000,
        flush_catch_up_bytes: 256 << 20,
        checkpoint_ms: 1_000,
        fsync: FsyncPolicy::Interval,
        direct_io: true,
        journal: copy.join("journal").join("journal-0"),
        sockets_max: 16,
        files_max: FILES_MAX,
        is_guest: false,
        spool_bytes: 0,
    })
}

fn engine_options(control: usize) -> EngineOptions {
    EngineOptions {
        arena_bytes: ARENA_BYTES,
        sockets_max: 16,
        files_max: FILES_MAX,
        helper_cores: vec![control],
        ..EngineOptions::default()
    }
}

fn send(shard: &ShardHandle, command: Command) {
    // Its thread's own error is met when it is joined.
    let _ = shard.commands.send(command);
    shard.waker.wake();
}

/// Hands every partition over, as the control core does.
fn add_partitions(
    source: &EmbeddedSource,
    shard: &ShardHandle,
    load: &Load,
    copy: &Path,
) -> Result<Vec<Arc<PartitionCounters>>, BenchError> {
    let id: TopicId =
        source.with_cluster(|cluster| cluster.topic_id(STREAM)).expect("the cluster was made with it");
    let topic = Arc::new(Topic { name: STREAM.to_owned(), id });
    let bootstrap = source.bootstrap();
    let address = bootstrap.parse().expect("one broker has one address");
    send(shard, Command::Broker { id: BROKER, address, host: "localhost".into() });
    let mut all = Vec::new();
    for index in 0..load.shape.partitions as i32 {
        let add = new_partition(copy, &topic, index).map_err(BenchError::Store)?;
        let counters = add.counters.clone();
        hand_over(add, BROKER).into_iter().for_each(|command| send(shard, command));
        all.push(counters);
    }
    Ok(all)
}

/// Drains the shard and waits for its thread.
fn end(shard: ShardHandle) -> Result<(), BenchError> {
    send(&shard, Command::Drain);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match shard.events.recv_timeout(left) {
            Ok(Event::Drained) => break,
            Ok(_) => {}
            // The thread has ended, with a reason that the join tells.
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                return Err(BenchError::Slow { what: "the drain of the shard", limit: PATIENCE });
            }
        }
    }
    let outcome = shard.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    outcome.map_err(BenchError::Engine)
}

/// One batch on its way.
struct Appended {
    end: i64,
    due: Instant,
    counted: bool,
}

/// One partition, as the producer and the observer know it.
struct Followed {
    counters: Arc<PartitionCounters>,
    /// Offset behind the last batch that was appended.
    end: i64,
    /// Per stage: batches that have not come so far.
    on_their_way: [VecDeque<Appended>; STAGES.len()],
}

struct Tail {
    partitions: Vec<Followed>,
    records_per_batch: i64,
    batch_bytes: f64,
    ages: Ages,
    /// The most that the producer was behind.
    late: Duration,
    /// Batches.
    appended: u64,
}

impl Tail {
    fn new(load: &Load, counters: Vec<Arc<PartitionCounters>>) -> Tail {
        let follow =
            |counters| Followed { counters, end: load.end_offset(), on_their_way: Default::default() };
        Tail {
            partitions: counters.into_iter().map(follow).collect(),
            records_per_batch: i64::from(load.records_per_batch),
            batch_bytes: load.batch_bytes() as f64,
            ages: Ages::default(),
            late: Duration::ZERO,
            appended: 0,
        }
    }

    /// Appends batches when they are due, round and round the partitions, and observes in between.
    fn produce(&mut self, source: &EmbeddedSource, rate: f64, seconds: f64) {
        let between = self.batch_bytes / rate;
        let (started, total) = (Instant::now(), (seconds / between) as u64);
        let mut appended = 0;
        while appended < total {
            let due = ((started.elapsed().as_secs_f64() / between) as u64 + 1).min(total);
            if due > appended {
                let first_due = started + Duration::from_secs_f64(appended as f64 * between);
                self.late = self.late.max(first_due.elapsed());
                // One lock and one wake for all that are due: what a busy broker does to its fetches.
                source.with_cluster(|cluster| {
                    for number in appended..due {
                        let index = (number % self.partitions.len() as u64) as usize;
                        cluster.extend(STREAM, index as i32, 1);
                        let due = started + Duration::from_secs_f64(number as f64 * between);
                        self.partitions[index].appended(
                            self.records_per_batch,
                            due,
                            due - started >= WARM_UP,
                        );
                    }
                });
                appended = due;
                self.appended = due;
            }
            self.observe();
            thread::sleep(LOOK);
        }
    }

    fn observe(&mut self) {
        for partition in &mut self.partitions {
            let counters = &partition.counters;
            let positions: [&AtomicI64; STAGES.len()] =
                [&counters.fetch, &counters.log_end, &counters.flushed];
            for ((position, waiting), ages) in
                positions.iter().zip(&mut partition.on_their_way).zip(&mut self.ages)
            {
                let (position, now) = (position.load(Relaxed), Instant::now());
                while let Some(batch) = waiting.pop_front_if(|batch| batch.end <= position) {
                    if batch.counted {
                        ages.push(now.saturating_duration_since(batch.due).as_micros() as u64);
                    }
                }
            }
        }
    }

    /// Waits until everything that was appended is flushed.
    fn poll_all(&mut self, limit: Duration, what: &'static str) -> Result<(), BenchError> {
        let started = Instant::now();
        while self.partitions.iter().any(|partition| partition.counters.flushed.load(Relaxed) < partition.end)
        {
            if started.elapsed() > limit {
                return Err(BenchError::Slow { what, limit });
            }
            self.observe();
            thread::sleep(LOOK);
        }
        self.observe();
        Ok(())
    }

    fn sorted(mut self) -> Ages {
        self.ages.iter_mut().for_each(|ages| ages.sort_unstable());
        self.ages
    }
}

impl Followed {
    fn appended(&mut self, records: i64, due: Instant, counted: bool) {
        self.end += records;
        for waiting in &mut self.on_their_way {
            waiting.push_back(Appended { end: self.end, due, counted });
        }
    }
}
