//! A thousand topics of ten partitions that hardly move: what a mirror costs by merely being there.
//!
//! ```text
//!   source: 10,000 partitions ─▶ mirror until all are read ─▶ a while without a record ─▶ a while with a trickle
//! ```
//! What is not of the data threads is the control core's: discovery, configurations, lag, states. CPU time and memory are read from outside, while the mirror runs on; it is ended by force afterwards.

use crate::Bench;
use crate::children::{self, Beside, Role};
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::mirror::{self, Origin};
use crate::source::WIDE;
use crate::standing::{Standing, threads_seconds_of};
use crate::table::Table;
use crate::tail::SHARD_THREADS;
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "idle/10000";
const TOPICS: u32 = 1_000;
const PARTITIONS_PER_TOPIC: u32 = 10;
const PARTITIONS: u32 = TOPICS * PARTITIONS_PER_TOPIC;
const RECORD_BYTES: usize = 1_024;
/// Batches of the trickle, one record each, all partitions together.
const TRICKLE_PER_SECOND: u32 = 1_000;
/// How long each part is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Flushes, checkpoints and closed files of the catch-up are over by then.
const SETTLE: Duration = Duration::from_secs(8);
/// How long reading all partitions may take before something is wrong.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// Measures it if it was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let arguments = bench.arguments;
    if !arguments.wants(NAME) || arguments.quick && !arguments.names(NAME) {
        return Ok(());
    }
    eprintln!("measuring {NAME}");
    let shape = Shape {
        record_bytes: RECORD_BYTES,
        batch_bytes: RECORD_BYTES,
        partitions: PARTITIONS_PER_TOPIC,
        total_bytes: 0,
    };
    let load = Load::new(shape);
    let mut source = Beside::start(Role::Source, &[bench.cores.control.to_string(), shape.to_string()])?;
    let hello = source.answer()?;
    let bootstrap = hello.split(' ').next().unwrap_or_default();
    source.ask(&format!("wide {TOPICS}"))?;
    let copy = bench.scratch.place("idle", u64::from(PARTITIONS) << 20)?;
    let started = Instant::now();
    let topics = format!("{WIDE}-.*|{STREAM}");
    let origin = Origin::Plaintext { bootstrap, topic: &topics };
    let mirror = Beside::start(Role::Mirror, &mirror::words(bench.cores, origin, &copy))?;
    poll_until_read(&mut source)?;
    let caught_up_seconds = started.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let look = || {
        let (user, system) = threads_seconds_of(mirror.process_id(), &SHARD_THREADS);
        Ok::<_, BenchError>((Standing::of(mirror.process_id())?, user + system))
    };
    let first = look()?;
    thread::sleep(WATCHED);
    let second = look()?;
    source.ask(&format!("trickle {TRICKLE_PER_SECOND} {}", WATCHED.as_secs()))?;
    let third = look()?;
    drop(mirror);
    bench.scratch.clear(&copy)?;
    bench.report.line(&format!(
        "\n## {TOPICS} topics, {PARTITIONS_PER_TOPIC} partitions each\n\nOne batch of {} bytes in each, read {caught_up_seconds:.1} s after the start; then \
         {} s still, then {} s with {TRICKLE_PER_SECOND} batches/s.",
        load.batch_bytes(),
        WATCHED.as_secs(),
        WATCHED.as_secs(),
    ));
    let columns = ["part", "user %", "system %", "of it data %", "control %", "resident MiB", "peak MiB"];
    let mut table = Table::new(&columns);
    for (part, (from, data_from), (to, data_to)) in [("idle", first, second), ("trickle", second, third)] {
        let percent = |seconds: f64| format!("{:.1}", 100.0 * seconds / WATCHED.as_secs_f64());
        table.row(vec![
            part.to_owned(),
            percent(to.user_seconds - from.user_seconds),
            percent(to.system_seconds - from.system_seconds),
            percent(data_to - data_from),
            percent(to.cpu_seconds() - from.cpu_seconds() - (data_to - data_from)),
            (to.resident_bytes >> 20).to_string(),
            (to.peak_bytes >> 20).to_string(),
        ]);
    }
    bench.report.table(&table);
    Ok(())
}

/// Waits until every partition was asked for at its end.
fn poll_until_read(source: &mut Beside) -> Result<(), BenchError> {
    let started = Instant::now();
    while started.elapsed() < CAUGHT_UP_MAX {
        if children::numbers(Role::Source, &source.ask("caught")?, 1)?[0]
            >= f64::from(PARTITIONS + PARTITIONS_PER_TOPIC)
        {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(BenchError::Slow { what: "reading 10,000 partitions for the first time", limit: CAUGHT_UP_MAX })
}
