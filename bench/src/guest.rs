//! Measurements of guest mode: what it costs, how old a record is at a follower, how long a hand-over takes.
//!
//! ```text
//!   cost.rs      peers in memory    CPU time and rates beside the floor; latency that is ours alone
//!   latency.rs   real clusters      from the source's append until the bytes are in a stock follower's log
//!   groups.rs    real clusters      how old positions of consumer groups are, and what they cost
//!   start.rs     real clusters      from the process's start until it is a broker; what a restart costs
//!   promote.rs   real clusters      a hand-over step by step, beside a move between stock brokers
//! ```
//! Real clusters and the daemon share the machine's cores, so the machine's load is printed beside what they do.
//! Owns the order of all that. Must never assert a figure.

pub mod cost;
pub mod daemon;
pub mod groups;
pub mod latency;
pub mod peers;
pub mod probes;
pub mod promote;
pub mod replica;
pub mod start;
pub mod wire;

use crate::Bench;
use crate::error::BenchError;
use twinlog_tests::kafka::{Cluster, ClusterOptions};

/// A source and a destination of stock brokers, started for the first measurement that needs them.
pub struct Clusters {
    pub source: Cluster,
    pub destination: Cluster,
}

impl Clusters {
    /// One broker there; a controller and three brokers here.
    pub fn start() -> Clusters {
        let source = Cluster::start(ClusterOptions::default());
        Clusters { source, destination: Cluster::start(ClusterOptions::destination(1)) }
    }
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    cost::measure(bench)?;
    let wanted = [start::NAME, groups::NAME, promote::NAME].iter().any(|name| bench.arguments.wants(name));
    if !wanted && !latency::is_wanted(bench) {
        return Ok(());
    }
    eprintln!("starting five brokers and controllers");
    let clusters = Clusters::start();
    start::measure(bench, &clusters)?;
    groups::measure(bench, &clusters)?;
    latency::measure(bench, &clusters)?;
    promote::measure(bench, &clusters)
}

/// The kernel's load averages of 1 and 5 minutes, and the threads that are ready to run.
pub fn machine_load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [one, five, _, ready, ..] => format!("load {one} (1 min), {five} (5 min), {ready} threads ready"),
        _ => "load unknown".to_owned(),
    }
}
