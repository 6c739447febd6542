//! What to do next: the replication machines of a mirror, without I/O and without a clock.
//!
//! Every machine here follows one contract: its owner calls `handle`-like methods with the time and
//! what happened, then drains `poll()` until it yields nothing, and wakes it again at `deadline()`.
//! A machine never logs, sleeps, spawns, reads a clock or calls a sibling, so the same code runs on
//! the ring, on epoll and in the simulated world of the tests.
//!
//! ```text
//!   partition  one mirror partition: which batch is accepted, which offset moves, who is to blame
//!   ledger     the offsets of a partition and the order that always holds between them
//!   lane       one connection to one source broker: connect, negotiate, fetch, back off
//!   lag        how far behind a copy is, in time and bytes: over-estimated, never under-estimated
//!   session    what that broker already knows of our fetch positions (KIP-227)
//!   credits    how many bytes may be asked for: memory and link bandwidth
//!   lifecycle  what a mirror topic may become, and the order of a hand-over: tables, no machine
//!   hand_over  what the two machines of a promote ask for, and what they are told
//!   store_hand_over  a promote whose copy is a store: proven, flushed, closed, ready to be adopted
//!   truncation what a shorter, newer or re-created source means, and what may be cut
//!   group_offsets  positions of consumer groups: what is written at the destination, and what is not
//!   metadata   the metadata log of a destination, and our membership in its cluster
//!   guest      we lead partitions that stock brokers follow: the rules of a leader, and fetch sessions
//!   wire       the few Kafka messages of the data path, streaming
//! ```
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod backoff;
pub mod credits;
pub mod fault;
pub mod group_offsets;
pub mod guest;
pub mod hand_over;
pub mod lag;
pub mod lane;
pub mod ledger;
pub mod lifecycle;
pub mod metadata;
pub mod partition;
pub mod session;
pub mod store_hand_over;
pub mod truncation;
pub mod wire;

/// Monotonic time in nanoseconds since an arbitrary start; the owner's clock, never read here.
pub type Nanoseconds = u64;

/// One millisecond of [`Nanoseconds`].
pub const MILLISECOND: Nanoseconds = 1_000_000;
/// One second of [`Nanoseconds`].
pub const SECOND: Nanoseconds = 1_000 * MILLISECOND;
