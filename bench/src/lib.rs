//! Measurements: Criterion benches and the end-to-end harness.
//!
//! ```text
//!   bench process            core 0                               core 1 (data), core 0 (control)
//!   catch_up.rs  ─ starts ─▶ source.rs: embedded brokers ──────▶ mirror.rs: `twinlog run`, as it is shipped
//!        │                              raw byte sender  ──────▶ floor.rs: receive, CRC-32C, write; no Kafka
//!        └─ afterwards: proof.rs walks the copy; one that differs from the source counts as failed
//!   secure.rs    the same with and without TLS, in turns
//!   tail.rs      a shard in this process, appends at a fixed rate, whoever keeps up or not
//!   idle.rs      ten thousand partitions, first still, then trickling
//!   compare.rs   a bench of its own: the alternatives beside Twinlog, between real clusters, with a report
//!   guest.rs     a bench of its own: the daemon as guest, between peers in memory and between real clusters
//! ```
//! Roles are processes of their own, made from this very program, so that the kernel's accounting separates
//! their CPU time. Every figure is a report: nothing here fails because something was slow.
//!
//! Owns the way through all measurements. Must never measure while another one runs.

pub mod arguments;
pub mod catch_up;
pub mod children;
pub mod compare;
pub mod error;
pub mod floor;
pub mod guest;
pub mod idle;
pub mod load;
pub mod mirror;
pub mod proof;
pub mod scratch;
pub mod secure;
pub mod source;
pub mod spread;
pub mod standing;
pub mod table;
pub mod tail;

use arguments::{Arguments, COMPARE_HELP, GUEST_HELP, HELP};
use error::BenchError;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use table::Report;

/// What all measurements share.
pub struct Bench<'a> {
    pub arguments: &'a Arguments,
    pub cores: children::Cores,
    pub scratch: scratch::Scratch,
    pub report: Report,
}

impl Bench<'_> {
    fn save_if_asked(&self) -> Result<(), BenchError> {
        self.arguments.report.as_ref().map_or(Ok(()), |path| self.report.save(path))
    }
}

/// The harness: a role when it was started as one, else all measurements that were asked for.
pub fn end_to_end(words: impl Iterator<Item = String>, target_directory: &str) -> ExitCode {
    harness(&words.collect::<Vec<_>>(), HELP, target_directory, |bench| {
        let _said_in_its_table = catch_up::measure(bench)?;
        secure::measure(bench)?;
        tail::measure(bench)?;
        idle::measure(bench)?;
        bench.save_if_asked()
    })
}

/// The harness of guest mode. It is also the product that it measures, when started with its words.
pub fn guest(words: impl Iterator<Item = String>, target_directory: &str) -> ExitCode {
    let words: Vec<String> = words.collect();
    product(&words).unwrap_or_else(|| {
        harness(&words, GUEST_HELP, target_directory, |bench| {
            guest::measure(bench)?;
            bench.save_if_asked()
        })
    })
}

/// The harness that compares Twinlog with the alternatives. It is the product, too.
pub fn compare(words: impl Iterator<Item = String>, target_directory: &str) -> ExitCode {
    let words: Vec<String> = words.collect();
    product(&words).unwrap_or_else(|| {
        let kept = Path::new(target_directory);
        harness(&words, COMPARE_HELP, target_directory, |bench| compare::measure(bench, kept, &words))
    })
}

/// The product, when the first word is one of its own.
fn product(words: &[String]) -> Option<ExitCode> {
    let first = words.first()?;
    guest::daemon::PRODUCT_WORDS.contains(&first.as_str()).then(|| {
        let line = std::iter::once("twinlog").chain(words.iter().map(String::as_str));
        twinlog_daemon::cli::main_with(line.map(OsString::from))
    })
}

fn harness(
    words: &[String],
    help: &str,
    target_directory: &str,
    all: impl FnOnce(&mut Bench<'_>) -> Result<(), BenchError>,
) -> ExitCode {
    if let Some((role, rest)) =
        words.split_first().and_then(|(first, rest)| Some((children::Role::named(first)?, rest)))
    {
        return children::play(role, rest);
    }
    let outcome = Arguments::parse(words).and_then(|arguments| {
        if arguments.help {
            print!("{help}");
            return Ok(());
        }
        measure(&arguments, Path::new(target_directory), all)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench ends here: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(
    arguments: &Arguments,
    target_directory: &Path,
    all: impl FnOnce(&mut Bench<'_>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let base = arguments.directory.as_deref().unwrap_or(target_directory);
    let mut bench = Bench {
        arguments,
        cores: children::Cores::choose()?,
        scratch: scratch::Scratch::create(base)?,
        report: Report::default(),
    };
    bench.report.line(&format!(
        "source and control on core {}, data on core {}, files below {}; every GB is 10^9 bytes of record batches",
        bench.cores.control,
        bench.cores.data,
        base.display()
    ));
    all(&mut bench)
}
