//! Guest mode between real clusters: joining, following, the spool, promote and failover, the verbs.
//!
//! One binary, so that two of these run at a time: each waits for sessions and elections more than it computes.

mod following;
mod joining;
mod producer_overlap;
mod promote;
mod several_links;
mod shards;
mod spool;
mod verbs;

/// The product, as these tests start it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
