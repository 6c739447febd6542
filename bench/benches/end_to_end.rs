//! The whole way, from an in-memory source to files on disk, against the floor: `bench/src/lib.rs` says how.
//!
//! `cargo bench -p twinlog-bench --bench end_to_end [-- --quick] [filters]`. Reports, asserts no time.

use std::process::ExitCode;

/// As in the product's binary, whose place this one takes in the role of the mirror.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    twinlog_bench::end_to_end(std::env::args().skip(1), env!("CARGO_TARGET_TMPDIR"))
}
