//! An in-memory Kafka cluster, as far as a mirror needs one: for `twinlog demo`, the bench and the simulation.
//!
//! It exists for speed, for faults on demand and for a demo without Kafka. It is never the proof of what a
//! broker decides: real brokers are, in the tests.
//!
//! ```text
//!   generator -> batch_text     seeded record batches, valid to the last byte
//!        │ append
//!   broker (Cluster) ── topics, partitions ── partition_log ── records (kept, or a cyclic template)
//!        │ handle(broker, now, frame)                             │
//!        ├─ fetch, session ── Fetch with incremental sessions ────┘ references, no copy
//!        ├─ answers ── ApiVersions, Metadata, ListOffsets, OffsetForLeaderEpoch
//!        └─ Reply: chunks to send, a long poll to resume, silence, or a close
//!   server                      the same over TCP: a listener per broker, a thread per connection
//! ```
//!
//! All but `server` is deterministic: no clock, no thread, no socket, no random hash map. Must never decide
//! anything by what the mirror *should* do: it answers as a broker would, or breaks in a way that was asked for.

mod answers;
pub mod batch_text;
pub mod broker;
#[cfg(test)]
mod broker_tests;
mod fetch;
mod frame;
pub mod generator;
pub mod partition_log;
pub mod records;
pub mod server;
mod session;
#[cfg(test)]
mod test_peer;
pub mod topics;

pub use broker::{Cluster, Health, Reply};
pub use fetch::PendingFetch;
pub use partition_log::PartitionLog;
pub use records::CyclicTemplate;
pub use server::EmbeddedSource;
pub use topics::TopicOptions;
