//! The role of the mirror: the product's own command line, and after it what the process has used.
//!
//! ```text
//!   standard output   {"link":...}                         the product's report
//!                     usage USER_S SYSTEM_S PEAK_BYTES     of the whole process, kernel workers included
//! ```

use crate::children::{self, Cores, Role};
use crate::error::BenchError;
use crate::standing::Standing;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use twinlog_io::process_usage;

/// Where the mirror reads from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    Plaintext {
        bootstrap: &'a str,
        topic: &'a str,
    },
    /// A configuration file says it: only there is room for certificates.
    Config(&'a Path),
}

/// The words of `twinlog run` for a measurement.
pub fn words(cores: Cores, origin: Origin<'_>, data_directory: &Path) -> Vec<String> {
    let (data, control) = (cores.data.to_string(), cores.control.to_string());
    let mut words = vec!["twinlog".to_owned(), "run".to_owned()];
    let mut say = |option: &str, value: &str| words.extend([option.to_owned(), value.to_owned()]);
    match origin {
        Origin::Plaintext { bootstrap, topic } => {
            say("--source", bootstrap);
            say("--topic", topic);
        }
        Origin::Config(path) => say("--config", &path.to_string_lossy()),
    }
    say("--data-dir", &data_directory.to_string_lossy());
    say("--data-cores", &data);
    say("--control-core", &control);
    say("--output", "json");
    words
}

/// See the file's header. Words: a command line, the program's name first.
pub fn play(words: &[String]) -> Result<ExitCode, BenchError> {
    let code = twinlog_daemon::cli::main_with(words.iter().map(OsString::from));
    let usage = process_usage().map_err(BenchError::Usage)?;
    let seconds = |microseconds: u64| microseconds as f64 / 1e6;
    let (user, system) = (seconds(usage.user_microseconds), seconds(usage.system_microseconds));
    // Not the peak that comes with the usage: that one begins with what the starting process had.
    let peak_bytes = Standing::of(std::process::id())?.peak_bytes;
    println!("usage {user} {system} {peak_bytes}");
    Ok(code)
}

/// One run from start to caught up.
#[derive(Clone, Copy, Debug)]
pub struct MirrorRun {
    pub bytes: u64,
    /// From the first instruction to the report.
    pub seconds: f64,
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub peak_resident_bytes: u64,
}

impl MirrorRun {
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Mirrors a topic until caught up. `started` is told the process.
pub fn run(
    cores: Cores,
    origin: Origin<'_>,
    data_directory: &Path,
    started: impl FnOnce(u32) -> Result<(), BenchError>,
) -> Result<MirrorRun, BenchError> {
    let mut words = words(cores, origin, data_directory);
    words.push("--until-caught-up".to_owned());
    let output = children::run(Role::Mirror, &words, started)?;
    let refused = |answer: &str| BenchError::Answer { role: Role::Mirror.name(), answer: answer.to_owned() };
    let mut lines = output.lines();
    let report = lines.next().ok_or_else(|| refused("nothing"))?;
    let report: serde_json::Value = serde_json::from_str(report).map_err(|_| refused(report))?;
    let usage = children::numbers(Role::Mirror, lines.next().unwrap_or(""), 3)?;
    let totals = &report["totals"];
    let (bytes, seconds) =
        totals["bytes"].as_u64().zip(totals["seconds"].as_f64()).ok_or_else(|| refused("no totals"))?;
    Ok(MirrorRun {
        bytes,
        seconds,
        user_seconds: usage[0],
        system_seconds: usage[1],
        peak_resident_bytes: usage[2] as u64,
    })
}
