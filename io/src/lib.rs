//! The kernel does it: io_uring and epoll engines, buffers, files, cores. All unsafe code lives here.
//!
//! Owns: every system call of the data path, and the proof for every `unsafe` block of the project. It must never know
//! what Kafka is: it moves bytes between sockets, one arena and files, and tells what came of it.
//!
//! ```text
//!   shard thread                                                     helper thread      kernel
//!   Operation --> Engine::submit --> ring (or epoll) ----------------------------------> sockets, files
//!   Completion <-- Engine::wait  <-- completions, timers, wakes <----------------------
//!                        \--- Job --------------------------------> steps on a Disk ---> directories, fsync
//! ```
//!
//! Reading order: `operation.rs` (what can be asked), `engine.rs` (the contract), `arena.rs` (who owns a
//! byte when), `ring.rs` (the engine), then the rest as needed. One contract test suite (`tests/contract.rs`) runs
//! over every engine.

mod arena;
mod books;
mod buffers;
mod clock;
mod disk;
mod engine;
mod epoll;
mod flight;
mod gather;
mod helper;
#[cfg(feature = "gssapi")]
mod kerberos;
mod lock;
mod operation;
mod placement;
mod probe;
mod process;
mod real_disk;
mod ring;
mod ring_setup;
mod rows;
#[cfg(test)]
mod scratch;
mod shortfall;
mod slots;
mod sockets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wake;

pub use arena::{Access, Arena, HUGE_PAGE_BYTES, Loan, PAGE_BYTES};
pub use clock::{monotonic_nanoseconds, wall_clock_ms};
pub use disk::{
    DirectoryEntry, Disk, FileFacts, JOB_STEPS_MAX, Job, JobOutcome, STEP_READ_BYTES_MAX, Space, Step,
    StepFailure, StepOutput,
};
pub use engine::{
    AnyEngine, BufferRegistration, Engine, EngineError, EngineName, EngineOptions, EnginePreference,
    EngineReport, QUEUE_ENTRIES_MAX, TABLE_ROWS_MAX, open_engine,
};
pub use epoll::EpollEngine;
#[cfg(feature = "gssapi")]
pub use kerberos::{TicketCache, acquire_credential};
pub use lock::{DirectoryLock, LOCK_FILE_NAME, LockError};
pub use operation::{
    Completion, FileKey, GATHER_SPANS_MAX, Operation, Outcome, SocketKey, Span, SystemError, Token,
};
pub use placement::{
    CoreChoice, Placement, PlacementError, allowed_cores, pin_current_thread, place, yield_to_data_threads,
};
pub use probe::{DirectoryFacts, HostFacts, IoUringFacts, probe_directory, probe_host, raise_file_limit};
pub use process::{ProcessUsage, core_dumps_are_forbidden, forbid_core_dumps, process_usage};
pub use real_disk::RealDisk;
pub use ring::RingEngine;
pub use shortfall::Shortfall;
pub use wake::Waker;
