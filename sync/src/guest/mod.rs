//! We are the leader of partitions that stock Kafka brokers follow: what they are answered, and when.
//!
//! Owns the rules; the shard owns sockets, buffers and files. A follower's request is decoded by
//! `wire::follower_request`, remembered by the session of its connection, judged partition by partition by
//! the leader's machine, and answered through `wire::follower_response`.
//!
//! ```text
//!   frame ─▶ follower_request ─▶ follower_session ── partition by partition ──▶ leadership ─▶ verdict
//!                                      │   ▲ news: bytes were appended                            │
//!                                      ▼   └──────────────────────────────                        ▼
//!                                 what must be listed ◀──────────────────────────────── follower_response
//! ```
//! Must never make a follower cut its log because *we* lag behind it: it holds what the producers were told
//! is safe.

pub mod eviction;
pub mod follower_session;
pub mod hand_over;
pub mod leadership;
pub mod placement;
pub mod read_through;
pub mod repair;
pub mod spool;
pub mod take_over;
