//! What group offsets cost the data cores: the same bytes through the same daemon, with rounds and without, in turn.
//!
//! The topic is paused while the source gets a piece of it; from its resume until every follower has all of it the data
//! threads' CPU time is taken from the kernel. Groups go on changing all the while.

use super::super::daemon::{Link, PATIENCE};
use super::super::{Clusters, machine_load};
use super::BROKERS;
use crate::Bench;
use crate::compare::sets::log_bytes;
use crate::error::BenchError;
use crate::table::Table;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::scenario::Produce;

pub const TOPIC: &str = "bulk";
const PARTITIONS: u32 = 4;
/// Pieces of either kind.
const PAIRS: usize = 5;
const RECORDS: u32 = 128 * 1_024;
const RECORDS_QUICK: u32 = 16 * 1_024;
const VALUE_BYTES: u32 = 1_024;
const LOOK: Duration = Duration::from_millis(20);

/// The topic, before the daemon looks for it.
pub fn create(clusters: &Clusters) {
    clusters.source.scenario().create_topic(TOPIC, PARTITIONS, 1, &[]);
}

/// CPU seconds for each 10^9 bytes, with rounds and without them.
pub fn measure(
    bench: &mut Bench<'_>,
    clusters: &Clusters,
    link: &Link,
    process: u32,
) -> Result<(), BenchError> {
    let records = if bench.arguments.quick { RECORDS_QUICK } else { RECORDS };
    let mut costs = [Vec::new(), Vec::new()];
    // The first of each is for what is warmed up once.
    for turn in 0..2 * (PAIRS + 1) {
        let is_on = turn % 2 == 0;
        let enabled = format!("consumer.offset.sync.enable={is_on}");
        link.ask(&["link", "update", "dr", &enabled])?;
        let cost = piece(clusters, link, process, (records, turn as u32 + 1))?;
        if turn >= 2 {
            costs[usize::from(is_on)].push(cost);
        }
    }
    link.ask(&["link", "update", "dr", "consumer.offset.sync.enable=true"])?;
    let mut table = Table::new(&["data cores, CPU-s/GB", "median", "least", "most"]);
    let [without, with] = &mut costs;
    for (name, costs) in [("without rounds", without), ("with rounds", with)] {
        costs.sort_by(f64::total_cmp);
        let figures = [costs[costs.len() / 2], costs[0], costs[costs.len() - 1]];
        let figures = figures.iter().map(|figure| format!("{figure:.3}"));
        table.row(std::iter::once(name.to_owned()).chain(figures).collect());
    }
    let piece = (u64::from(records) * u64::from(VALUE_BYTES)) >> 20;
    let load = machine_load();
    bench.report.line(&format!("\nData cores, {PAIRS} pieces of {piece} MiB of each kind in turn; {load}."));
    bench.report.table(&table);
    Ok(())
}

fn piece(
    clusters: &Clusters,
    link: &Link,
    process: u32,
    (records, seed): (u32, u32),
) -> Result<f64, BenchError> {
    link.ask(&["mirror", "pause", TOPIC])?;
    let before = log_bytes(&clusters.source, 1, TOPIC, PARTITIONS);
    let produce = Produce {
        count: records,
        value_bytes: VALUE_BYTES,
        batch_bytes: 1 << 17,
        linger_ms: 20,
        seed,
        ..Produce::to(TOPIC)
    };
    clusters.source.scenario().produce_mixed(&produce);
    let (bytes, busy) = (log_bytes(&clusters.source, 1, TOPIC, PARTITIONS), data_seconds(process));
    link.ask(&["mirror", "resume", TOPIC])?;
    let began = Instant::now();
    while BROKERS.iter().any(|broker| log_bytes(&clusters.destination, *broker, TOPIC, PARTITIONS) < bytes) {
        if began.elapsed() > PATIENCE {
            return Err(BenchError::Slow { what: "copying a piece", limit: PATIENCE });
        }
        std::thread::sleep(LOOK);
    }
    Ok((data_seconds(process) - busy) / ((bytes - before) as f64 / 1e9))
}

/// CPU time of every thread but the first, which is the control core's: to the nanosecond, for a piece is short.
fn data_seconds(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let others = tasks.filter(|task| task.file_name().to_string_lossy() != process.to_string());
    let nanoseconds = others.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}
