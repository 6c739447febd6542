//! How old a record is when it is in the destination's log, at parts of what each copier can do.
//!
//! ```text
//!   producer, open loop ─▶ source broker ─▶ copier (core 1) ─▶ destination broker: <topic>-<p>/0...0.log
//!   a record's timestamp is when it was due ─ its age is told when its batch is in that file, looked at every ms
//! ```
//! The file is what all copiers have in common: in guest mode clients are sent to no broker before the hand-over. A
//! record of a batch counts with a time between the batch's first and last, by its place: records come at a fixed
//! rate. Timestamps are whole milliseconds. Clusters, producer and watcher share core 0, which is part of every age.

use crate::Bench;
use crate::compare::copiers::{Copier, Ground, Job};
use crate::compare::figures::{RATE, Row};
use crate::compare::process_tree::pinned;
use crate::compare::programs::Programs;
use crate::compare::sets::BATCH_BYTES;
use crate::error::BenchError;
use crate::guest::daemon::PATIENCE;
use crate::guest::machine_load;
use crate::spread::quantile;
use crate::table::Table;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_io::wall_clock_ms;
use twinlog_tests::kafka::scenario::Codec;

const ROLE: &str = "producer";
const RECORD_BYTES: u64 = 1_024;
/// Parts of a copier's own highest rate, in percent.
const LOADS_PERCENT: [u64; 3] = [25, 50, 75];
const LOOK: Duration = Duration::from_millis(1);
/// Records due in the first part of a load are not counted: connections and buffers grow then.
const WARM_UP_MS: i64 = 2_000;
/// Bytes in the second before: the copier is there when all of them are at the destination.
const FIRST_BYTES: u64 = 200_000;
const HEADER_BYTES: usize = 61;
const MICROSECONDS_PER_MS: i64 = 1_000;

/// Measures the copiers of these rows that were asked for.
pub fn measure(
    bench: &mut Bench<'_>,
    ground: &mut Ground,
    programs: &Programs,
    rows: &[Row],
) -> Result<(), BenchError> {
    let mut table = Table::new(&[
        "copier",
        "load",
        "MB/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "most ms",
        "producer late ms",
    ]);
    let mut measured = false;
    let wanted = |row: &&Row| {
        let name = format!("lag/{}", row.copier.name());
        let first = row.set.record_bytes as u64 == RECORD_BYTES && row.set.codec == Codec::None;
        row.copier != Copier::Store
            && !row.copier.is_floor()
            && first
            && row.set.partitions == rows[0].set.partitions
            && bench.arguments.wants(&name)
    };
    let chosen: Vec<(Copier, u32, f64)> = rows
        .iter()
        .filter(wanted)
        .filter_map(|row| Some((row.copier, row.set.partitions, row.spread(RATE)?.middle)))
        .collect();
    let loads = if bench.arguments.quick { &LOADS_PERCENT[..2] } else { &LOADS_PERCENT[..] };
    for percent in loads {
        for (copier, partitions, highest) in &chosen {
            let rate = highest * 1e6 * *percent as f64 / 100.0;
            eprintln!("lag of {} at {percent} %: {:.0} MB/s", copier.name(), rate / 1e6);
            let (ages, late_ms) = one(bench, ground, programs, (*copier, *partitions), rate as u64)?;
            measured = true;
            let age = |per_mille| format!("{:.1}", quantile(&ages, per_mille) as f64 / 1e3);
            let mut row =
                vec![copier.name().to_owned(), format!("{percent} %"), format!("{:.0}", rate / 1e6)];
            row.extend([500, 990, 999, 1_000].map(age));
            row.push(late_ms.to_string());
            table.row(row);
        }
    }
    if measured {
        bench.report.line(&format!(
            "\n## Lag between real brokers\n\nRecords of 1 KiB, not compressed, at parts of each copier's own highest \
             rate in this run; from when a record was due at the producer until it is in the destination's log, looked \
             at every ms; a line without figures did not keep up. Both brokers, producer and watcher share a core. {}.",
            machine_load()
        ));
        bench.report.table(&table);
    }
    Ok(())
}

/// Ages in microseconds, sorted, and how late the producer was at most.
fn one(
    bench: &Bench<'_>,
    ground: &mut Ground,
    programs: &Programs,
    (copier, partitions): (Copier, u32),
    rate: u64,
) -> Result<(Vec<u64>, u64), BenchError> {
    let seconds = if bench.arguments.quick { 10 } else { 30 };
    let directory = bench.scratch.place("lag", rate * seconds * 4)?;
    fs::create_dir_all(&directory).map_err(|error| BenchError::File {
        action: "making",
        path: directory.clone(),
        error,
    })?;
    let topic = "lag";
    ground.source.scenario().create_topic(topic, partitions, 1, &[]);
    let job = Job { copier, directory: &directory, topic, partitions, codec: Codec::None, follows: true };
    let running = ground.launch(bench.cores, programs, &job)?;
    let outcome = loaded(bench, ground, programs, topic, partitions, (rate, seconds));
    drop(running);
    ground.source.scenario().delete_topic(topic);
    ground.destination.scenario().delete_topic(topic);
    bench.scratch.clear(&directory)?;
    outcome
}

fn loaded(
    bench: &Bench<'_>,
    ground: &Ground,
    programs: &Programs,
    topic: &str,
    partitions: u32,
    (rate, seconds): (u64, u64),
) -> Result<(Vec<u64>, u64), BenchError> {
    let source = ground.source.bootstrap();
    let load = |rate: u64, seconds: u64| {
        let mut command = Command::new(&programs.franz_go);
        command.args(["load", "-source", &source, "-topic", topic]);
        for (option, value) in [
            ("-partitions", u64::from(partitions)),
            ("-record-bytes", RECORD_BYTES),
            ("-batch-bytes", BATCH_BYTES as u64),
            ("-rate", rate),
            ("-seconds", seconds),
        ] {
            command.arg(option).arg(value.to_string());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        pinned(bench.cores.control, || {
            command.spawn().map_err(|error| BenchError::Role { role: ROLE, error })
        })
    };
    let directories =
        (0..partitions as i32).map(|index| ground.destination.partition_directory(1, topic, index));
    let mut watcher = Watcher::over(directories.collect());
    let first = told(load(FIRST_BYTES, 1)?)?[0];
    watcher.until(first)?;
    watcher.ages.clear();
    let producing = load(rate, seconds)?;
    let total = rate / RECORD_BYTES * seconds;
    let watched = pinned(bench.cores.control, || watcher.until(first + total));
    // Waited for also after an error: nothing is left behind.
    let late_ms = told(producing)?[1];
    watched?;
    Ok((watcher.sorted_ages(), late_ms))
}

/// What a producer says at its end: records, and milliseconds that it was late at most.
fn told(producer: std::process::Child) -> Result<[u64; 2], BenchError> {
    let output = producer.wait_with_output().map_err(|error| BenchError::Role { role: ROLE, error })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BenchError::RoleFailed { role: ROLE, status: output.status, words });
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().map_err(|_| BenchError::Answer { role: ROLE, answer: said })
}

/// Looks at the first log file of each partition.
struct Watcher {
    files: Vec<Watched>,
    records: u64,
    /// When a record was due, and its age in microseconds.
    ages: Vec<(i64, u64)>,
}

struct Watched {
    path: PathBuf,
    file: Option<File>,
    position: u64,
}

impl Watcher {
    fn over(directories: Vec<PathBuf>) -> Watcher {
        let watched = |directory: PathBuf| Watched {
            path: directory.join("00000000000000000000.log"),
            file: None,
            position: 0,
        };
        Watcher { files: directories.into_iter().map(watched).collect(), records: 0, ages: Vec::new() }
    }

    /// Until so many records were seen.
    fn until(&mut self, records: u64) -> Result<(), BenchError> {
        let began = Instant::now();
        while self.records < records {
            if began.elapsed() > PATIENCE {
                return Err(BenchError::Slow { what: "records at the destination", limit: PATIENCE });
            }
            self.look();
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn look(&mut self) {
        for watched in &mut self.files {
            if watched.file.is_none() {
                watched.file = File::open(&watched.path).ok();
            }
            let Some(file) = &watched.file else { continue };
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let mut header = [0; HEADER_BYTES];
            while length >= watched.position + HEADER_BYTES as u64
                && file.read_exact_at(&mut header, watched.position).is_ok()
            {
                let (bytes, records, first_ms, last_ms) = parse(&header);
                if length < watched.position + bytes {
                    break;
                }
                watched.position += bytes;
                self.records += records;
                ages(records, first_ms, last_ms, wall_clock_ms(), &mut self.ages);
            }
        }
    }

    fn sorted_ages(&self) -> Vec<u64> {
        let first = self.ages.iter().map(|(due_ms, _)| *due_ms).min().unwrap_or(0);
        let counted = self.ages.iter().filter(|(due_ms, _)| *due_ms >= first + WARM_UP_MS);
        let mut ages: Vec<u64> = counted.map(|(_, age)| *age).collect();
        ages.sort_unstable();
        ages
    }
}

/// Length in bytes, records, and first and last timestamp of a batch.
fn parse(header: &[u8; HEADER_BYTES]) -> (u64, u64, i64, i64) {
    let number = |at: usize, bytes: usize| {
        header[at..at + bytes].iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte))
    };
    (number(8, 4) as u64 + 12, number(57, 4) as u64, number(27, 8), number(35, 8))
}

/// One age for each record of a batch.
fn ages(records: u64, first_ms: i64, last_ms: i64, now_ms: i64, into: &mut Vec<(i64, u64)>) {
    let steps = records.saturating_sub(1).max(1) as i64;
    into.extend((0..records as i64).map(|record| {
        let due =
            first_ms * MICROSECONDS_PER_MS + (last_ms - first_ms) * MICROSECONDS_PER_MS * record / steps;
        let age = (now_ms * MICROSECONDS_PER_MS - due).max(0) as u64;
        (due / MICROSECONDS_PER_MS, age)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_daemon::embedded::batch_text::BatchText;

    #[test]
    fn records_of_a_batch_lie_between_its_first_and_its_last() {
        let mut found = Vec::new();
        ages(3, 100, 104, 110, &mut found);
        assert_eq!(found, [(100, 10_000), (102, 8_000), (104, 6_000)]);
        found.clear();
        ages(1, 100, 100, 99, &mut found);
        assert_eq!(found, [(100, 0)]);
    }

    #[test]
    fn a_batch_counts_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("twinlog-lag-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("00000000000000000000.log");
        let mut batch = BatchText::at(0).timestamp(wall_clock_ms());
        batch.push_record(0, None, Some(b"one"));
        batch.push_record(0, None, Some(b"two"));
        let bytes = batch.build();
        let mut watcher = Watcher::over(vec![directory.clone(), directory.join("not there")]);
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        watcher.look();
        assert_eq!(watcher.records, 0);
        fs::write(&path, &bytes).unwrap();
        watcher.look();
        watcher.look();
        assert_eq!((watcher.records, watcher.ages.len()), (2, 2));
        fs::remove_dir_all(&directory).unwrap();
    }
}
