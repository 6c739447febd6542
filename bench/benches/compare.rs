//! Twinlog beside the alternatives, between real brokers, each copy checked: `bench/src/compare.rs` says how.
//!
//! `cargo bench -p twinlog-bench --bench compare [-- --quick] [filters]`. Reports, asserts no time.

use std::process::ExitCode;

/// As in the product's binary, whose place this one takes in the role of the mirror.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    twinlog_bench::compare(std::env::args().skip(1), env!("CARGO_TARGET_TMPDIR"))
}
