//! The product's own entry, built by this package, so that plain `cargo test` has a binary to drive.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinlog_daemon::main_entry()
}
