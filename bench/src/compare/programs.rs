//! The peers' programs, built once before anything is measured. Each has a workspace and a lock file of its own.
//!
//! Must never bring a peer's code into the product's lock file.

use crate::error::BenchError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are.
pub struct Programs {
    pub franz_go: PathBuf,
    pub rdkafka: PathBuf,
}

/// The folder of the peers' sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

impl Programs {
    /// Builds what is wanted into a directory that may be kept.
    pub fn build(directory: &Path, with_rdkafka: bool) -> Result<Programs, BenchError> {
        let programs = Programs {
            franz_go: directory.join("franz-go"),
            rdkafka: directory.join("rdkafka/release/rdkafka-copier"),
        };
        let mut go = Command::new("go");
        go.arg("build").arg("-o").arg(&programs.franz_go).arg(".").current_dir(sources().join("franz-go"));
        run("franz-go", "Go 1.26 or newer (package golang, or the archive from go.dev) on PATH", go)?;
        if with_rdkafka {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(directory.join("rdkafka"));
            cargo.current_dir(sources().join("rdkafka"));
            run("librdkafka", "make and compilers of C and C++ (package build-essential)", cargo)?;
        }
        Ok(programs)
    }
}

/// Builds the loop that several runtimes run.
pub fn build_runtimes(directory: &Path) -> Result<PathBuf, BenchError> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(directory.join("runtimes"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("runtimes"));
    run("runtimes", "make and a compiler of C (package build-essential)", cargo)?;
    Ok(directory.join("runtimes/release/runtimes"))
}

fn run(what: &'static str, needs: &'static str, mut command: Command) -> Result<(), BenchError> {
    let failed = |words: String| BenchError::Build { what, needs, words };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
}
