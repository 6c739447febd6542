//! Two hundred seeded worlds; each drives the product's shard, recovery and store through faults.
//!
//! Replay one: `TWINLOG_SIM_SEED=17 cargo test -p twinlog-tests --test simulation`. More of them:
//! `TWINLOG_SIM_SEEDS=5000`.

use std::panic::catch_unwind;
use twinlog_tests::sim::world;

/// Worlds of an ordinary run.
const SEEDS: u64 = 200;

/// Worlds whose disk is slow throughout: they differ in timing alone.
const SLOW_SEEDS: u64 = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

#[test]
fn every_world_ends_with_a_copy() {
    if let Some(seed) = number("TWINLOG_SIM_SEED") {
        return world::live(seed);
    }
    let seeds = number("TWINLOG_SIM_SEEDS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    for seed in 0..seeds {
        if catch_unwind(|| world::live(seed)).is_err() {
            eprintln!("replay: TWINLOG_SIM_SEED={seed} cargo test -p twinlog-tests --test simulation");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} of {seeds} failed");
}

#[test]
fn a_slow_disk_becomes_back_pressure() {
    for seed in 0..SLOW_SEEDS {
        println!("slow disk, seed {seed}");
        world::live_on_a_slow_disk(seed);
    }
}
