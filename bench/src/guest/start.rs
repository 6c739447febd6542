//! What a start costs: until the process is a broker of the destination, and what a restart holds up.
//!
//! ```text
//!   start ─▶ unfenced                                  a fresh directory, fresh ids
//!   SIGKILL, a record at the source, start ─▶ unfenced ─▶ the record is in a follower's log
//! ```
//! The restart comes within the session, so the partitions keep their leader. Times are of the daemon's log lines and
//! of the followers' files. A stock follower that lost its leader's connection pauses for a second first
//! (`replica.fetch.backoff.ms`): that is in the last figure, and not ours.

use super::daemon::{Ends, Link, PATIENCE};
use super::probes::until_all_accept;
use super::{Clusters, machine_load};
use crate::Bench;
use crate::error::BenchError;
use crate::spread::Spread;
use crate::table::Table;
use std::thread;
use std::time::{Duration, Instant};

pub const NAME: &str = "start";
const TOPIC: &str = "started";
const FIRST_GUEST: i32 = 940;
const REPEATS: i32 = 3;
const REPLICAS: usize = 3;
/// Between two looks at a follower's file.
const LOOK: Duration = Duration::from_millis(1);

/// Measures it if it was asked for.
pub fn measure(bench: &mut Bench<'_>, clusters: &Clusters) -> Result<(), BenchError> {
    if !bench.arguments.wants(NAME) {
        return Ok(());
    }
    eprintln!("measuring {NAME}");
    let mut figures: [Vec<f64>; 3] = Default::default();
    for turn in 0..REPEATS {
        let (first, again, record) = one(bench, clusters, turn)?;
        figures[0].push(first);
        figures[1].push(again);
        figures[2].push(record);
    }
    let mut table = Table::new(&["from the process's start", "ms"]);
    let names = [
        "first start: unfenced",
        "restart within the session: unfenced",
        "restart: a record of meanwhile is at a follower",
    ];
    for (name, figures) in names.iter().zip(figures) {
        table.row(vec![(*name).to_owned(), format!("{:.0}", Spread::of(figures.into_iter()))]);
    }
    bench.report.line(&format!("\n## Start\n\n{REPEATS} times each; {}.", machine_load()));
    bench.report.table(&table);
    Ok(())
}

fn one(bench: &Bench<'_>, clusters: &Clusters, turn: i32) -> Result<(f64, f64, f64), BenchError> {
    let topic = format!("{TOPIC}-{turn}");
    clusters.source.scenario().create_topic(&topic, 1, 1, &[]);
    let source = clusters.source.bootstrap();
    until_all_accept(&source, &topic, 1)?;
    let directory = bench.scratch.place("start", 1 << 30)?;
    let guest = FIRST_GUEST + 2 * turn;
    let ends = Ends {
        source: &source,
        destination: &clusters.destination.bootstrap(),
        controllers: &clusters.destination.bootstrap_controllers(),
        guest,
        topics: &topic,
        replicas: REPLICAS,
    };
    let link = Link::create(&directory, &ends, None)?;
    let unfenced = format!("guest broker {guest}: Active");
    let mut daemon = link.start()?;
    let first = daemon.wait_for(&unfenced)? - daemon.started;
    let had = until_longer_than(clusters, &topic, 0)?;
    drop(daemon);
    until_all_accept(&source, &topic, 1)?;
    let mut daemon = link.start()?;
    until_longer_than(clusters, &topic, had)?;
    let record = daemon.started.elapsed();
    let again = daemon.wait_for(&unfenced)? - daemon.started;
    drop(daemon);
    bench.scratch.clear(&directory)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok((milliseconds(first), milliseconds(again), milliseconds(record)))
}

/// Waits until a follower's log of the only partition is longer than so many bytes; its length.
fn until_longer_than(clusters: &Clusters, topic: &str, bytes: u64) -> Result<u64, BenchError> {
    let file =
        |broker| clusters.destination.partition_directory(broker, topic, 0).join("00000000000000000000.log");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let lengths = (1..=3).filter_map(|broker| Some(std::fs::metadata(file(broker)).ok()?.len()));
        if let Some(longest) = lengths.max().filter(|longest| *longest > bytes) {
            return Ok(longest);
        }
        thread::sleep(LOOK);
    }
    Err(BenchError::Slow { what: "a record at a follower", limit: PATIENCE })
}
