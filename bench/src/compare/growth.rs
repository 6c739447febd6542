//! What a GB costs, and what memory is taken, when partitions, records and links grow by 10 and by 100.
//!
//! Without brokers: a source in memory on one core, a store on the other. All bytes are divided among the links, so
//! that each row copies as many. The row with two data cores takes the source's core, too, where there are only two:
//! then its rate is the source's, and its cost per GB is what it shows. Must never compare across rows that were not
//! measured in one run.

use crate::Bench;
use crate::children::{self, Beside, Role};
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::mirror::{self, Origin};
use crate::spread::Spread;
use crate::table::Table;
use std::fmt::Write;

const BATCH_BYTES: usize = 64 << 10;
const PARTITIONS: u32 = 6;
const RECORD_BYTES: usize = 1_000;
/// Runs of each row, in turns.
const REPEATS_QUICK: u64 = 1;
const REPEATS_FULL: u64 = 3;

/// One row.
#[derive(Clone, Copy)]
struct Grows {
    what: &'static str,
    record_bytes: usize,
    partitions: u32,
    links: u32,
    data_cores: u32,
}

const BASE: Grows =
    Grows { what: "base", record_bytes: RECORD_BYTES, partitions: PARTITIONS, links: 1, data_cores: 1 };
/// More than sixteen links are refused by the product.
const ROWS: [Grows; 9] = [
    BASE,
    Grows { what: "partitions x 10", partitions: PARTITIONS * 10, ..BASE },
    Grows { what: "partitions x 100", partitions: PARTITIONS * 100, ..BASE },
    Grows { what: "record / 10", record_bytes: RECORD_BYTES / 10, ..BASE },
    Grows { what: "record x 10", record_bytes: RECORD_BYTES * 10, ..BASE },
    // A batch holds at least one record.
    Grows { what: "record x 100", record_bytes: RECORD_BYTES * 100, ..BASE },
    Grows { what: "links x 10", links: 10, ..BASE },
    Grows { what: "links x 16", links: 16, ..BASE },
    Grows { what: "data cores x 2", data_cores: 2, ..BASE },
];

/// One run.
struct Grown {
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: f64,
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let name = |row: &str| format!("growth/{}", row.replace(' ', ""));
    let rows: Vec<_> = ROWS.into_iter().filter(|row| bench.arguments.wants(&name(row.what))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let total_bytes = bench.arguments.run_bytes();
    let mut runs: Vec<Vec<Grown>> = rows.iter().map(|_| Vec::new()).collect();
    let usual = if bench.arguments.quick { REPEATS_QUICK } else { REPEATS_FULL };
    for _ in 0..bench.arguments.repeats.unwrap_or(usual) {
        for (row, runs) in rows.iter().zip(&mut runs) {
            eprintln!("measuring growth: {}", row.what);
            runs.push(run(bench, row, total_bytes / u64::from(row.links))?);
        }
    }
    let mut table = Table::new(&[
        "what grows",
        "record bytes",
        "partitions",
        "links",
        "data cores",
        "MB/s whole",
        "CPU-s/GB",
        "peak MiB",
    ]);
    for (row, runs) in rows.iter().zip(&runs) {
        let gigabytes = total_bytes as f64 / 1e9;
        let spread = |figure: fn(&Grown) -> f64| Spread::of(runs.iter().map(figure));
        let cost = Spread::of(runs.iter().map(|run| run.cpu_seconds / gigabytes));
        let rate = Spread::of(runs.iter().map(|run| gigabytes * 1e3 / run.seconds));
        let peak = spread(|run| run.peak_bytes / f64::from(1 << 20));
        table.row(vec![
            row.what.to_owned(),
            row.record_bytes.to_string(),
            row.partitions.to_string(),
            row.links.to_string(),
            row.data_cores.to_string(),
            format!("{rate:.0}"),
            format!("{cost:.3}"),
            format!("{peak:.0}"),
        ]);
    }
    bench.report.line(&format!(
        "\n## Growth\n\n{:.0} GB each from a source in memory into a store, in batches of {} KiB, start and end included; \
         links share the bytes. Sixteen links are the most that a daemon takes. Two data cores: the second is the \
         source's own.",
        total_bytes as f64 / 1e9,
        BATCH_BYTES >> 10
    ));
    bench.report.table(&table);
    Ok(())
}

fn run(bench: &Bench<'_>, row: &Grows, total_bytes: u64) -> Result<Grown, BenchError> {
    let (record_bytes, partitions, links) = (row.record_bytes, row.partitions, row.links);
    let shape = Shape { record_bytes, batch_bytes: BATCH_BYTES, partitions, total_bytes };
    let load = Load::new(shape);
    let mut source = Beside::start(Role::Source, &[bench.cores.control.to_string(), shape.to_string()])?;
    let hello = source.answer()?;
    let bootstrap = hello.split(' ').next().unwrap_or_default();
    let needed_bytes = load.total_bytes() * u64::from(links) * 3;
    let copy = bench.scratch.place("grown", needed_bytes)?;
    let config = bench.scratch.place("growth.toml", 0)?;
    let written = std::fs::write(&config, text(bootstrap, links));
    written.map_err(|error| BenchError::File { action: "writing", path: config.clone(), error })?;
    let mut words = mirror::words(bench.cores, Origin::Config(&config), &copy);
    if row.data_cores == 2
        && let Some(cores) = words.iter().position(|word| word == "--data-cores")
    {
        words[cores + 1] = format!("{},{}", bench.cores.control, bench.cores.data);
    }
    let outcome = copied(words, load.total_bytes() * u64::from(links));
    bench.scratch.clear(&copy)?;
    outcome
}

fn copied(mut words: Vec<String>, bytes: u64) -> Result<Grown, BenchError> {
    words.push("--until-caught-up".to_owned());
    let output = children::run(Role::Mirror, &words, |_| Ok(()))?;
    let reports = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let totals: Vec<(u64, f64)> = reports
        .filter_map(|report| report["totals"]["bytes"].as_u64().zip(report["totals"]["seconds"].as_f64()))
        .collect();
    let found: u64 = totals.iter().map(|(bytes, _)| bytes).sum();
    if found != bytes {
        return Err(BenchError::Copy { problem: format!("{found} bytes instead of {bytes}") });
    }
    let usage = output.lines().find(|line| line.starts_with("usage ")).unwrap_or_default();
    let usage = children::numbers(Role::Mirror, usage, 3)?;
    let seconds = totals.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    Ok(Grown { seconds, cpu_seconds: usage[0] + usage[1], peak_bytes: usage[2] })
}

/// Links of the same topic, each into its own directory.
fn text(bootstrap: &str, links: u32) -> String {
    let mut text = String::new();
    for link in 0..links {
        writeln!(
            text,
            "[link.l{link}]\ntopics = [\"{STREAM}\"]\n[link.l{link}.source]\nbootstrap.servers = [\"{bootstrap}\"]"
        )
        .expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_a_name_of_its_own() {
        let text = text("127.0.0.1:9", 10);
        assert_eq!(text.matches("bootstrap.servers = [\"127.0.0.1:9\"]").count(), 10);
        assert!(text.contains("[link.l0]\n") && text.contains("[link.l9.source]\n"));
    }
}
