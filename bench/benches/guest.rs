//! Guest mode, between peers in memory and between real clusters: `bench/src/guest.rs` says how.
//!
//! `cargo bench -p twinlog-bench --bench guest [-- --quick] [filters]`. Reports, asserts no time.

use std::process::ExitCode;

/// As in the product's binary, whose place this one takes in the role of the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    twinlog_bench::guest(std::env::args().skip(1), env!("CARGO_TARGET_TMPDIR"))
}
