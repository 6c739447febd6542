//! A world of clock, network, disk and brokers around the product's machines, all from one seed.
//!
//! ```text
//!   world ── plans faults, kills and restarts ──> engine ── drives ──> the product's shard, unchanged
//!     │                                             │
//!     ├── control: what the control core would do   ├── network ── embedded brokers
//!     └── oracles: bytes, order, ledger, memory     └── disk ── forgets what was not synced
//! ```
//! A failure prints its seed; `TWINLOG_SIM_SEED=N cargo test -p twinlog-tests --test simulation` replays it.

pub mod control;
pub mod disk;
pub mod engine;
pub mod network;
pub mod oracle;
pub mod random;
pub mod workload;
pub mod world;
