//! A short run of every fuzz target on stable Rust: valid examples, damaged by a seed.
//!
//! One input again: `TWINLOG_FUZZ_TARGET=batch_walk TWINLOG_FUZZ_SEED=17`. Only one target, or a long run:
//! `TWINLOG_FUZZ_TARGET=batch_walk TWINLOG_FUZZ_ITERATIONS=100000000`. All with
//! `cargo test -p twinlog-tests --test fuzz_smoke`.

use std::panic::catch_unwind;
use twinlog_tests::fuzz::{TARGETS, Target, target};
use twinlog_tests::kafka::artifacts::say;

/// Inputs of a target in an ordinary run; expensive targets get a part of it.
const ITERATIONS: u64 = 20_000;
/// Failures of one target after which its other seeds say nothing new.
const FAILURES_MAX: usize = 5;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

/// Seeds of the inputs on which the target panicked.
fn attack(target: &'static Target, iterations: u64) -> Vec<u64> {
    let examples = (target.examples)();
    let inputs = (iterations / target.cost).max(1);
    // Memory that runs out ends the process at once: then this line alone says where.
    say(&format!("fuzzing {} with {inputs} inputs", target.name));
    let mut failed = Vec::new();
    for seed in 0..inputs {
        let input = target.input(&examples, seed);
        if catch_unwind(|| (target.run)(&input)).is_err() {
            eprintln!(
                "replay: TWINLOG_FUZZ_TARGET={} TWINLOG_FUZZ_SEED={seed} \
                 cargo test -p twinlog-tests --test fuzz_smoke",
                target.name
            );
            failed.push(seed);
        }
        if failed.len() == FAILURES_MAX {
            break;
        }
    }
    failed
}

#[test]
fn no_foreign_bytes_break_a_promise() {
    let named = std::env::var("TWINLOG_FUZZ_TARGET").ok();
    let chosen: Vec<&'static Target> = match &named {
        None => TARGETS.iter().collect(),
        Some(name) => {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            vec![target(name).unwrap_or_else(|| panic!("{name:?} is none of {names:?}"))]
        }
    };
    if let Some(seed) = number("TWINLOG_FUZZ_SEED") {
        for target in chosen {
            let input = target.input(&(target.examples)(), seed);
            eprintln!("{} with seed {seed}: {}", target.name, input.escape_ascii());
            (target.run)(&input);
        }
        return;
    }
    let iterations = number("TWINLOG_FUZZ_ITERATIONS").unwrap_or(ITERATIONS);
    let failed: Vec<(&str, Vec<u64>)> = chosen
        .into_iter()
        .map(|target| (target.name, attack(target, iterations)))
        .filter(|(_, seeds)| !seeds.is_empty())
        .collect();
    assert!(failed.is_empty(), "seeds that broke a promise, by target: {failed:?}");
}
