//! The control core: one low-priority thread that decides what is mirrored, and never touches a record.
//!
//! ```text
//!   run ---> placement, lock, links and their shards; signals, systemd, progress, the reports
//!    |       switchboard: requests to the link that they are about; orders about links themselves
//!    \--> supervisor ---> discovery      what the source has, what changed     (pure)
//!           |   |   \---> source_client  Metadata, ends of logs and epochs     (tokio, plain TCP)
//!           |   |-------> store_work     recovery, cuts, trims                 (blocking pool)
//!           |   \-------> shard_link     commands out, events in               (bounded mailboxes)
//!           |-----------> groups         positions of consumer groups         (tokio, both clusters)
//!           \-----------> state          links, mirror topics, hand-overs      (SQLite, its own thread)
//! ```
//! It may stall for seconds without slowing a shard. Nothing that blocks runs on its thread.

pub mod check;
pub mod discovery;
pub(crate) mod groups;
pub mod guest;
pub mod instruction;
pub mod lag;
mod memory_budget;
mod mirror;
mod progress;
mod protection;
mod report;
pub mod resume;
pub mod run;
mod shard_link;
pub mod source_client;
pub mod state;
mod store_work;
mod supervisor;
pub(crate) mod topic_configs;

pub use progress::{LogWriter, show_progress_in_log};
