//! What the daemon must still know after a crash, in one SQLite file.
//!
//! ```text
//!   <data.dir>/.twinlog/state.db    links            which clusters a link joins
//!                                   guest_identities incarnation and directory of each guest broker
//!                                   mirror_topics    state, reason and wanted configuration of each
//!                                   hand_overs       the step that a promote or failover may have begun
//!                                   producer_id_floors
//!                                   commanded_topics what was created or deleted by command
//!                                   deletions        the step that a deletion may have begun
//!                                   replica_repairs  brokers that are to become replicas again
//!                                   history          everything that changed, the newest rows of it
//!                                   audit            who ordered what, the newest rows of it
//!                                   created_links    links by the word of operators
//!                                   link_configs     what they said of links, secrets as references only
//!                                   group_offsets    positions of consumer groups, where the copy is a store
//!                                   written_offsets  what we last wrote of them, where it is a cluster
//! ```
//! Owns the file, its one thread and its one connection. Every change and its row of history are one
//! transaction, durable when the call returns (WAL, `synchronous = FULL`): a step that was kept can be taken
//! after any crash. Changes that the tables of `twinlog_sync::lifecycle` forbid are refused here.
//!
//! Never in it: secrets, records, offsets of the data path. Never on a runtime's thread: an fsync.

mod audit;
mod commands;
mod error;
mod group_offsets;
mod hand_overs;
mod link_configs;
mod links;
mod mirrors;
mod producer_id_ranges;
mod repairs;
mod row;
mod schema;
#[cfg(test)]
mod tests;

pub use audit::{AUDIT_ROWS_MAX, AuditRow};
pub use error::StateError;
pub use group_offsets::KeptPosition;
pub use hand_overs::{Advance, NewHandOver};
pub use mirrors::{Change, NewMirror};
pub use producer_id_ranges::ProducerIdRanges;
pub use row::{
    Deletion, GuestIdentity, HandOver, HandOverKind, HistoryEntry, Link, MirrorTopic, ProducerIdFloor,
    ReplicaRepair, TopicCommand,
};

use crate::journal::OWN_DIRECTORY;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The file's name in our own directory.
pub const STATE_FILE: &str = "state.db";
/// Calls that wait for the thread. More would only hide that the disk of the state is slow; callers wait.
const CALLS_MAX: usize = 64;

type Call = Box<dyn FnOnce(&mut Connection) + Send>;

/// The file, from anywhere in the control core. Clones share the one thread, which ends with the last.
#[derive(Clone)]
pub struct StateDatabase {
    calls: mpsc::Sender<Call>,
    path: Arc<PathBuf>,
}

impl StateDatabase {
    /// Opens or creates the file below `data_dir` and starts its thread. Blocks while the file is checked.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        let path = Arc::new(data_dir.join(OWN_DIRECTORY).join(STATE_FILE));
        let (calls, mut waiting) = mpsc::channel::<Call>(CALLS_MAX);
        let (opened, outcome) = std::sync::mpsc::sync_channel(1);
        let here = Arc::clone(&path);
        let run = move || {
            let mut connection = match schema::open(&here) {
                Ok(connection) => connection,
                // Whoever opens is waiting on the other side.
                Err(error) => return opened.send(Err(error)).unwrap_or_default(),
            };
            opened.send(Ok(())).unwrap_or_default();
            while let Some(call) = waiting.blocking_recv() {
                call(&mut connection);
            }
        };
        let thread = std::thread::Builder::new().name("state".to_owned()).spawn(run);
        thread.map_err(|error| StateError::Thread { error: error.kind() })?;
        outcome.recv().unwrap_or(Err(StateError::Ended))?;
        Ok(Self { calls, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one transaction on the thread of the file; an error takes everything back.
    async fn transact<T, W>(&self, work: W) -> Result<T, StateError>
    where
        T: Send + 'static,
        W: FnOnce(&Transaction<'_>) -> Result<T, StateError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |connection| {
            // Immediate: a lock that is not to be had is told before anything was read.
            let outcome = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(StateError::from)
                .and_then(|transaction| {
                    let value = work(&transaction)?;
                    transaction.commit()?;
                    Ok(value)
                });
            // Nobody waits any more when the caller was cancelled; what it asked for is done all the same.
            let _ = answer.send(outcome);
        });
        self.calls.send(call).await.map_err(|_| StateError::Ended)?;
        answered.await.unwrap_or(Err(StateError::Ended))
    }
}
