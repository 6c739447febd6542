//! Threads, configuration, the shard loop and the command line of twinlog.
//!
//! ```text
//!   main_entry -> cli -> run | verify | check | demo
//!   run:  control core (tokio): metadata, discovery, supervision     one thread per data core: shard
//!         journal, recovery, store: blocking work on files           shard: receive -> verify -> append
//! ```

pub mod pool;
pub mod segment_writer;
pub mod shard;
