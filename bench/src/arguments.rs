//! The words behind `--`: what is measured, how long, and where.
//!
//! A filter is a part of a measurement's name, such as `catch-up/1KiB/6`, `tail` or `idle`; without one
//! everything is measured. Must never refuse what `cargo bench` adds by itself.

use crate::error::BenchError;
use std::path::PathBuf;

pub const HELP: &str = "\
cargo bench -p twinlog-bench --bench end_to_end -- [OPTIONS] [FILTER...]

  FILTER             measure only what has this in its name: catch-up/1KiB/6, tls/1KiB, tail, idle
  --quick            fewer repeats and combinations, less data: some two minutes
  --directory DIR    where files are written; a directory below it is made and removed (default: target/tmp)
  --gigabytes N      10^9 bytes per run (default 4, quick 2)
  --repeats N        runs of each combination (default 3, quick 1, its aim row 2)
  --report FILE      write what is printed to this file, too
";

pub const GUEST_HELP: &str = "\
cargo bench -p twinlog-bench --bench guest -- [OPTIONS] [FILTER...]

  FILTER             measure only what has this in its name: cost/1KiB/6/1, latency/memory, latency/brokers,
                     start, groups, promote
  --quick            fewer repeats and combinations, less data: under four minutes
  --directory DIR    where files are written; a directory below it is made and removed (default: target/tmp)
  --gigabytes N      10^9 bytes per run of a cost (default 4, quick 2)
  --repeats N        runs of each cost (default 5, quick 1)
  --report FILE      write what is printed to this file, too
";

pub const COMPARE_HELP: &str = "\
cargo bench -p twinlog-bench --bench compare -- [OPTIONS] [FILTER...]

  FILTER             measure only what has this in its name: 1KiB/none/6, 1KiB/zstd/6/franz-go, mirrormaker-2,
                     lag/, catch-up/, tls/, growth/, tail/, idle/, runtimes/; lag needs its copier in
                     1KiB/none/6
  --quick            three sets, two runs each: about ten minutes; else 27 sets, three runs: hours
  --full             all sets, as without --quick
  --directory DIR    where files are written; a directory below it is made and removed (default: target/tmp)
  --gigabytes N      10^9 bytes of values per run (default 4, quick 1)
  --repeats N        runs of each copier with each set (default 3, quick 2)
  --report DIR       where report.md and its pictures go (default: bench/report)

It needs what the tests need, and Go 1.26; the librdkafka copier needs make and compilers of C and C++.
";

/// Above it one run takes minutes and half a terabyte.
const GIGABYTES_MAX: u64 = 500;
/// Above it the first runs no longer speak of the same machine as the last.
const REPEATS_MAX: u64 = 1_000;

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub quick: bool,
    pub help: bool,
    pub directory: Option<PathBuf>,
    pub report: Option<PathBuf>,
    pub gigabytes: Option<u64>,
    pub repeats: Option<u64>,
    pub filters: Vec<String>,
}

impl Arguments {
    pub fn parse(words: &[String]) -> Result<Arguments, BenchError> {
        let mut arguments = Arguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| BenchError::ValueMissing { option: word.clone() });
            match word.as_str() {
                // Added by `cargo bench` for every bench.
                "--bench" => {}
                "--quick" => arguments.quick = true,
                "--full" => arguments.quick = false,
                "--help" | "-h" => arguments.help = true,
                "--directory" => arguments.directory = Some(PathBuf::from(value()?)),
                "--report" => arguments.report = Some(PathBuf::from(value()?)),
                "--gigabytes" => arguments.gigabytes = Some(number(word, value()?, GIGABYTES_MAX)?),
                "--repeats" => arguments.repeats = Some(number(word, value()?, REPEATS_MAX)?),
                option if option.starts_with('-') => {
                    return Err(BenchError::OptionUnknown { option: option.to_owned() });
                }
                filter => arguments.filters.push(filter.to_owned()),
            }
        }
        Ok(arguments)
    }

    /// Whether this measurement was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// Whether somebody asked for it by name: then `--quick` does not leave it out.
    pub fn names(&self, name: &str) -> bool {
        !self.filters.is_empty() && self.wants(name)
    }

    /// Bytes of record batches in one run.
    pub fn run_bytes(&self) -> u64 {
        self.gigabytes.unwrap_or(if self.quick { 2 } else { 4 }) * 1_000_000_000
    }
}

fn number(option: &str, text: &str, max: u64) -> Result<u64, BenchError> {
    match text.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(BenchError::ValueBad { option: option.to_owned(), value: text.to_owned(), max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, BenchError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Arguments::parse(&words)
    }

    #[test]
    fn what_cargo_adds_is_not_a_filter() {
        let arguments = parse("--quick catch-up/1KiB/6 tail --bench").unwrap();
        assert!(arguments.quick && arguments.wants("tail/16KiB") && !arguments.wants("idle/10000"));
        assert!(arguments.names("catch-up/1KiB/6"));
        assert!(parse("--bench").unwrap().wants("anything"));
        assert!(!parse("--bench").unwrap().names("anything"));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_bound() {
        for line in ["--gigabytes 0", "--gigabytes x", "--repeats 1001", "--repeats", "--slow"] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(line.split(' ').next().unwrap()), "{error}");
        }
    }
}
