//! The same loop on several runtimes: `bench/runtimes`, run and quoted.
//!
//! Why the product has an engine of its own: this is the evidence, for or against.

use crate::Bench;
use crate::compare::programs;
use crate::error::BenchError;
use std::path::Path;
use std::process::{Command, Stdio};

const NAME: &str = "runtimes/";
const ROLE: &str = "runtimes";
const GIGABYTES_QUICK: u64 = 1;
const REPEATS_QUICK: u64 = 3;
const GIGABYTES_FULL: u64 = 4;
const REPEATS_FULL: u64 = 5;

/// Measures them if they were asked for. Programs are kept below `kept`.
pub fn measure(bench: &mut Bench<'_>, kept: &Path) -> Result<(), BenchError> {
    let arguments = bench.arguments;
    if !arguments.wants(NAME) {
        return Ok(());
    }
    let program = programs::build_runtimes(kept)?;
    let (gigabytes, repeats) =
        if arguments.quick { (GIGABYTES_QUICK, REPEATS_QUICK) } else { (GIGABYTES_FULL, REPEATS_FULL) };
    let repeats = arguments.repeats.unwrap_or(repeats);
    let directory = bench.scratch.place(ROLE, 2 * gigabytes * 1_000_000_000)?;
    let failed = |error| BenchError::Role { role: ROLE, error };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    eprintln!("measuring runtimes");
    let mut command = Command::new(program);
    command.args(["--gigabytes", &gigabytes.to_string(), "--repeats", &repeats.to_string()]);
    command.arg("--directory").arg(&directory).stdin(Stdio::null());
    let output = command.output().map_err(failed)?;
    bench.scratch.clear(&directory)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BenchError::RoleFailed { role: ROLE, status: output.status, words });
    }
    bench.report.line(&format!(
        "\n## Runtimes\n\nReceive 1 MiB from memory over loopback, CRC-32C, O_DIRECT write into a preallocated file, 8 \
         under way, sync; {gigabytes} GB, {repeats} runs each, in turns, every file checked. The engine sets a low-water \
         mark on its socket and registers its buffers; the others are used as their documentation shows.\n"
    ));
    bench.report.line(String::from_utf8_lossy(&output.stdout).trim_end());
    Ok(())
}
