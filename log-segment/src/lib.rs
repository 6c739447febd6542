//! What bytes are: Kafka record batches, segment files and checkpoints, without I/O.
//!
//! This crate knows every format that Twinlog reads or writes on disk, and nothing else: no file, no clock,
//! no thread, no socket (it is `no_std`, which proves it). Bytes and numbers go in, bytes and decisions come
//! out; the daemon's shard moves them.
//!
//! ```text
//!  fetched bytes ──▶ walk ──▶ Header ──▶ segment: roll? reserve?       ┌▶ index        .index .timeindex
//!                     │                                               ├▶ transaction  .txnindex
//!                     └─────▶ Batch (CRC right) ──────────────────────┼▶ epoch        leader-epoch-checkpoint
//!                                                                     └▶ checkpoint   our journal
//!  after a crash ──▶ recovery: what to do ──▶ scan (walk again) ──▶ the same states, proven
//! ```
//!
//! Read in this order: [`batch`], [`walk`], [`index`], [`segment`], [`checkpoint`], [`scan`], [`recovery`].
//!
//! What it will not do: decompress, decode records, convert message formats, or decide when to write.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod batch;
pub mod checkpoint;
pub mod control;
pub mod digest;
pub mod epoch;
pub mod files;
pub mod index;
pub mod offset;
pub mod recovery;
pub mod scan;
pub mod segment;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transaction;
pub mod walk;
