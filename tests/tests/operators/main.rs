//! What operators meet in guest mode, on real clusters: checks, rights, foreign partitions, a lost host, no daemon.
//!
//! One binary, so that two of these run at a time: each waits for sessions and elections more than it computes.

mod acls;
mod break_glass;
mod check_destination;
mod check_rights;
mod core_dumps;
mod eviction;
mod hostile_followers;
mod lost_rights;
mod remote_operators;
mod source_rights;
mod take_over;

/// The product, as these tests start it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
