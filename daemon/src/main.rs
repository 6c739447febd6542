//! The `twinlog` binary: the allocator, and nothing else; everything it does is in the library.

use std::process::ExitCode;

/// The shards allocate rarely, but the control core's decoders do often and in small pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    twinlog_daemon::main_entry()
}
