//! Twinlog and the alternatives with the same data, in turns, each copy checked; and the report of it.
//!
//! ```text
//!   sets.rs          fills the source          copiers.rs       one run of one copier, on a core of its own
//!   process_tree.rs  what a run uses           correctness.rs   whether the copy is the source
//!   figures.rs       what is said of it        report.rs        tables, pictures, and at the top what is worse
//!   floor.rs         what the same bytes cost at least     runtimes.rs  what other runtimes cost
//! ```
//! Owns the order: sets one after another, copiers in turns, so that whatever else the machine does meets all. Must
//! never leave a wrong copy unsaid.

pub mod chart;
pub mod copiers;
pub mod correctness;
pub mod figures;
pub mod floor;
pub mod growth;
pub mod lag;
pub mod machine;
pub mod mirror_maker;
pub mod process_tree;
pub mod programs;
pub mod report;
pub mod runtimes;
pub mod sets;

use crate::Bench;
use crate::catch_up;
use crate::error::BenchError;
use crate::{idle, secure, tail};
use copiers::{Copier, Ground};
use figures::Row;
use programs::Programs;
use report::Story;
use sets::Set;
use std::path::Path;

/// Runs of each copier with each set.
const REPEATS_QUICK: u64 = 2;
const REPEATS_FULL: u64 = 3;

/// Of quick mode: ten minutes for all.
const QUICK_VALUE_BYTES: u64 = 1_000_000_000;

fn value_bytes(bench: &Bench<'_>) -> u64 {
    let arguments = bench.arguments;
    let is_usual = arguments.quick && arguments.gigabytes.is_none();
    if is_usual { QUICK_VALUE_BYTES } else { arguments.run_bytes() }
}

/// Measures what was asked for and writes the report.
pub fn measure(bench: &mut Bench<'_>, kept: &Path, words: &[String]) -> Result<(), BenchError> {
    let facts = machine::facts();
    let rows = between_brokers(bench, kept)?;
    // Without brokers: the memory-only source, the floor, TLS.
    let beyond_floor = catch_up::measure(bench)?;
    secure::measure(bench)?;
    growth::measure(bench)?;
    tail::measure(bench)?;
    idle::measure(bench)?;
    runtimes::measure(bench, kept)?;
    // `cargo bench` adds a word of its own.
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    let command = format!("cargo bench -p twinlog-bench --bench compare -- {}", words.join(" "));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("report");
    let directory = bench.arguments.report.clone().unwrap_or(own);
    let story = Story { command, facts, rows: &rows, beyond_floor, others: others(bench.report.text()) };
    report::save(&directory, &story)?;
    println!("the report is {}", directory.join("report.md").display());
    Ok(())
}

/// What was printed from the first heading on: before it stand the places of this machine's files.
fn others(text: &str) -> &str {
    text.find("## ").map_or("", |at| &text[at..])
}

fn wanted(bench: &Bench<'_>) -> Vec<(Set, Vec<Copier>)> {
    let arguments = bench.arguments;
    let copiers = |set: &Set| -> Vec<Copier> {
        let name = |copier: &Copier| format!("{}/{}", set.name(), copier.name());
        Copier::ALL.into_iter().filter(|copier| arguments.wants(&name(copier))).collect()
    };
    let sets: Vec<Set> = if arguments.quick { sets::QUICK.to_vec() } else { sets::full().collect() };
    sets.into_iter().map(|set| (set, copiers(&set))).filter(|(_, copiers)| !copiers.is_empty()).collect()
}

fn between_brokers(bench: &mut Bench<'_>, kept: &Path) -> Result<Vec<Row>, BenchError> {
    let wanted = wanted(bench);
    let mut rows = Vec::new();
    if wanted.is_empty() {
        return Ok(rows);
    }
    let with_rdkafka = wanted.iter().any(|(_, copiers)| copiers.contains(&Copier::Rdkafka));
    let programs = Programs::build(kept, with_rdkafka)?;
    let mut ground = Ground::start(bench.cores)?;
    for (set, copiers) in wanted {
        rows.extend(one_set(bench, &mut ground, &programs, &set, &copiers)?);
    }
    lag::measure(bench, &mut ground, &programs, &rows)?;
    Ok(rows)
}

fn one_set(
    bench: &Bench<'_>,
    ground: &mut Ground,
    programs: &Programs,
    set: &Set,
    copiers: &[Copier],
) -> Result<Vec<Row>, BenchError> {
    let usual = if bench.arguments.quick { REPEATS_QUICK } else { REPEATS_FULL };
    eprintln!("filling {}", set.name());
    let filled = set.fill(&programs.franz_go, &ground.source, value_bytes(bench))?;
    let expected = correctness::digest(&programs.franz_go, &ground.source.bootstrap(), &set.topic())?;
    let row = |copier: &Copier| Row { set: *set, filled, copier: *copier, runs: Vec::new() };
    let mut rows: Vec<Row> = copiers.iter().map(row).collect();
    for _ in 0..bench.arguments.repeats.unwrap_or(usual) {
        for row in &mut rows {
            let run = ground.run(bench, programs, row.copier, set, &filled, &expected)?;
            row.runs.push(run);
            eprintln!("{}", report::progress(set, row.copier, row));
        }
    }
    ground.source.scenario().delete_topic(&set.topic());
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_no_place_of_this_machine() {
        assert_eq!(
            others("files below here\n\n## Lag\n\nages\n\n## Growth\n"),
            "## Lag\n\nages\n\n## Growth\n"
        );
        assert_eq!(others("files below here\n"), "");
    }
}
