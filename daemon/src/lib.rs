//! Threads, configuration, the shard loop and the command line of twinlog.
//!
//! ```text
//!   main_entry -> cli -> run | verify | check | demo | mirror resume | config explain
//!                    -> status | mirror ... | guest leave, asked over admin, the daemon's socket
//!   run:  control core (tokio): metadata, discovery, supervision     one thread per data core: shard
//!         journal, recovery, store: blocking work on files           shard: receive -> verify -> append
//! ```

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod embedded;
pub mod journal;
#[cfg(test)]
pub mod memory_disk;
pub mod pool;
pub mod recovery;
pub mod security;
pub mod segment_writer;
pub mod shard;
pub mod store;
mod transport;
pub mod verify;

use std::process::ExitCode;

/// The whole program, from the words of its command line to its exit code.
pub fn main_entry() -> ExitCode {
    cli::main_with(std::env::args_os())
}
