//! The contract every engine fulfils, and how one is opened.
//!
//! Owns: the [`Engine`] trait, its options, errors and report, and [`AnyEngine`], which picks between the
//! ring and epoll by `match` so that no virtual call stands on the hot path. It must never do I/O itself.
//!
//! A shard's loop over any engine:
//! ```text
//!   loop {
//!       engine.wait(next_deadline, &mut completions)?;   // flushes what was submitted, then sleeps
//!       for completion in completions.drain(..) { handle(completion) }   // submits more
//!   }
//! ```
//! An engine belongs to the thread that opened it (the kernel insists: a ring has a single issuer); only
//! its [`Waker`] crosses threads.

use crate::arena::Arena;
use crate::epoll::EpollEngine;
use crate::operation::{Completion, Operation, SystemError, Token};
use crate::ring::RingEngine;
use crate::shortfall::Shortfall;
use crate::wake::Waker;
use std::fmt;

/// An engine: operations in, completions out, one clock.
pub trait Engine {
    /// Monotonic nanoseconds, from an arbitrary start.
    fn now(&self) -> u64;
    /// Milliseconds since 1970; may jump, so it is only ever shown or compared with other machines' clocks.
    fn wall_clock_ms(&self) -> i64;
    /// Takes the operation over. Never blocks; when the kernel's queue is full it is queued here.
    fn submit(&mut self, token: Token, operation: Operation);
    /// Flushes what was submitted and appends what has completed; sleeps until there is a completion, a
    /// wake, or `until` (on the scale of [`Engine::now`]; `None` = no limit; in the past = only look).
    /// May return with nothing appended.
    fn wait(&mut self, until: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), EngineError>;
    fn arena(&self) -> &Arena;
    fn arena_mut(&mut self) -> &mut Arena;
    /// A handle with which any thread ends the current or the next `wait`.
    fn waker(&self) -> Waker;
    /// Operations submitted and not yet delivered as completions.
    fn in_flight(&self) -> usize;
}

/// What an engine is built with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineOptions {
    /// Size of the arena; rounded up to 2 MiB.
    pub arena_bytes: u64,
    /// Rows of the socket table, at most [`TABLE_ROWS_MAX`].
    pub sockets_max: u32,
    /// Rows of the file table, at most [`TABLE_ROWS_MAX`].
    pub files_max: u32,
    /// Operations that fit in the kernel's submission queue at once; more wait inside the engine.
    /// Rounded up to a power of two, at most [`QUEUE_ENTRIES_MAX`].
    pub queue_entries: u32,
    /// Fixed socket receive buffer; `None` leaves it to the kernel's autotuning, usually the better choice.
    pub receive_buffer_bytes: Option<u32>,
    /// Cores for the helper thread and the kernel's own workers; empty = wherever the scheduler likes.
    pub helper_cores: Vec<usize>,
    /// Kernel worker threads per ring for operations that cannot run inline.
    pub kernel_workers_max: u32,
}

/// Each row costs the kernel a pointer and us about 100 bytes; above the kernel's own limit of 1 Mi
/// registered files per ring the registration would be refused.
pub const TABLE_ROWS_MAX: u32 = 1 << 19;

/// The kernel refuses submission queues above 32,768; beyond 4,096 entries one flush would hold the shard
/// inside the kernel long enough to be felt as latency.
pub const QUEUE_ENTRIES_MAX: u32 = 4096;

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            arena_bytes: 64 << 20,
            sockets_max: 256,
            files_max: 4096,
            queue_entries: 256,
            receive_buffer_bytes: None,
            helper_cores: Vec::new(),
            kernel_workers_max: 2,
        }
    }
}

/// Which engine the operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EnginePreference {
    /// The ring, and epoll where the host refuses it.
    #[default]
    Auto,
    Ring,
    Epoll,
}

/// What was opened, for the start-up line. `Display` is one sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineReport {
    pub engine: EngineName,
    /// Why the ring is not used although it was asked for first.
    pub ring_refused: Option<EngineError>,
    pub buffers: BufferRegistration,
    /// What was refused and can be done without.
    pub shortfalls: Vec<Shortfall>,
    pub arena_bytes: u64,
}

/// Whether the kernel holds the arena as registered buffers. Without it writes cost about 0.03 s/GB more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferRegistration {
    /// An engine that has no such thing.
    Unknown,
    /// The kernel refused already the first piece; nothing is registered, now or later.
    Refused(SystemError),
    /// The memlock limit is below the arena, so nothing is registered.
    OverLimit { limit_bytes: u64 },
    /// Each piece when it is first written to a file or read into. A piece that the kernel refuses then (the rings of
    /// one user share the limit) stays unregistered.
    OnFirstUse,
    /// All of it (kernels before 5.19).
    AtStart,
}

/// The engines a real host can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineName {
    IoUring,
    Epoll,
}

impl fmt::Display for EngineReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena_mib = self.arena_bytes >> 20;
        match self.engine {
            EngineName::Epoll => {
                write!(
                    formatter,
                    "engine epoll with blocking file calls, slower, {arena_mib} MiB of buffers"
                )?;
                if let Some(why) = &self.ring_refused {
                    write!(formatter, "; io_uring is not used: {why}")?;
                }
            }
            EngineName::IoUring => {
                write!(formatter, "engine io_uring, {arena_mib} MiB of {}", self.buffers)?;
            }
        }
        self.shortfalls.iter().try_for_each(|shortfall| write!(formatter, "; {}", shortfall.cost()))
    }
}

impl fmt::Display for BufferRegistration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BufferRegistration::Unknown => write!(formatter, "buffers"),
            BufferRegistration::AtStart => write!(formatter, "registered buffers"),
            BufferRegistration::OnFirstUse => write!(formatter, "buffers, registered when first used"),
            BufferRegistration::OverLimit { limit_bytes } => write!(
                formatter,
                "unregistered buffers (the memlock limit is {} KiB; set LimitMEMLOCK=infinity or grant CAP_IPC_LOCK)",
                limit_bytes >> 10
            ),
            BufferRegistration::Refused(error) => write!(
                formatter,
                "unregistered buffers (the kernel refused to register them: {error}; \
                 set LimitMEMLOCK=infinity or grant CAP_IPC_LOCK)"
            ),
        }
    }
}

/// Why an engine cannot be opened or cannot go on. None of these is about one socket or file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineError {
    /// An option is outside its bound.
    Option { name: &'static str, value: u64, bound: u64 },
    /// The arena could not be mapped.
    Arena { bytes: u64, error: SystemError },
    /// io_uring_setup was refused; `sysctl` is the value of kernel.io_uring_disabled where it exists.
    RingRefused { error: SystemError, sysctl: Option<u32> },
    /// The kernel's io_uring lacks what the engine needs.
    RingTooOld { missing: &'static str },
    /// A system call of the engine itself failed.
    Call { call: &'static str, error: SystemError },
}

impl fmt::Display for EngineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Option { name, value, bound } => {
                write!(formatter, "engine option {name} is {value}, allowed is 1 to {bound}")
            }
            EngineError::Arena { bytes, error } => {
                write!(formatter, "cannot map {bytes} bytes of buffers: {error}; lower memory.bytes")
            }
            EngineError::RingRefused { error, sysctl } => {
                write!(formatter, "io_uring_setup was refused: {error}")?;
                match sysctl {
                    Some(value @ 1..) => {
                        write!(formatter, "; sysctl kernel.io_uring_disabled is {value}, set 0")
                    }
                    // Seen on 6.18: without CAP_IPC_LOCK the ring's own memory counts against the limit.
                    _ if *error == SystemError(libc::ENOMEM) => {
                        write!(
                            formatter,
                            "; the memlock limit is too low for a ring, set LimitMEMLOCK=infinity"
                        )
                    }
                    _ => write!(formatter, "; a seccomp profile (container default) or a limit forbids it"),
                }
            }
            EngineError::RingTooOld { missing } => {
                write!(
                    formatter,
                    "this kernel's io_uring lacks {missing}; kernel 5.11 is the oldest that has it"
                )
            }
            EngineError::Call { call, error } => write!(formatter, "{call} failed: {error}"),
        }
    }
}

impl std::error::Error for EngineError {}

/// The engine a shard holds.
pub enum AnyEngine {
    Ring(RingEngine),
    Epoll(EpollEngine),
}

/// Opens an engine on the thread that will use it.
pub fn open_engine(
    options: &EngineOptions,
    preference: EnginePreference,
) -> Result<(AnyEngine, EngineReport), EngineError> {
    check(options)?;
    let ring_refused = match preference {
        EnginePreference::Epoll => None,
        EnginePreference::Ring => {
            return RingEngine::open(options).map(|(engine, report)| (AnyEngine::Ring(engine), report));
        }
        EnginePreference::Auto => match RingEngine::open(options) {
            Ok((engine, report)) => return Ok((AnyEngine::Ring(engine), report)),
            Err(refused @ (EngineError::RingRefused { .. } | EngineError::RingTooOld { .. })) => {
                Some(refused)
            }
            Err(error) => return Err(error),
        },
    };
    let (engine, mut report) = EpollEngine::open(options)?;
    report.ring_refused = ring_refused;
    Ok((AnyEngine::Epoll(engine), report))
}

fn check(options: &EngineOptions) -> Result<(), EngineError> {
    let bounded = [
        ("arena_bytes", options.arena_bytes, 1 << 40),
        ("sockets_max", u64::from(options.sockets_max), u64::from(TABLE_ROWS_MAX)),
        ("files_max", u64::from(options.files_max), u64::from(TABLE_ROWS_MAX)),
        ("queue_entries", u64::from(options.queue_entries), u64::from(QUEUE_ENTRIES_MAX)),
        ("kernel_workers_max", u64::from(options.kernel_workers_max), 64),
    ];
    match bounded.into_iter().find(|(_, value, bound)| *value == 0 || value > bound) {
        Some((name, value, bound)) => Err(EngineError::Option { name, value, bound }),
        None => Ok(()),
    }
}

macro_rules! either {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            AnyEngine::Ring($engine) => $call,
            AnyEngine::Epoll($engine) => $call,
        }
    };
}

impl Engine for AnyEngine {
    fn now(&self) -> u64 {
        crate::clock::monotonic_nanoseconds()
    }

    fn wall_clock_ms(&self) -> i64 {
        crate::clock::wall_clock_ms()
    }

    fn submit(&mut self, token: Token, operation: Operation) {
        either!(self, engine => engine.submit(token, operation))
    }

    fn wait(&mut self, until: Option<u64>, completions: &mut Vec<Completion>) -> Result<(), EngineError> {
        either!(self, engine => engine.wait(until, completions))
    }

    fn arena(&self) -> &Arena {
        either!(self, engine => engine.arena())
    }

    fn arena_mut(&mut self) -> &mut Arena {
        either!(self, engine => engine.arena_mut())
    }

    fn waker(&self) -> Waker {
        either!(self, engine => engine.waker())
    }

    fn in_flight(&self) -> usize {
        either!(self, engine => engine.in_flight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_outside_its_bound_is_refused_with_its_name() {
        let options = EngineOptions { sockets_max: 0, ..EngineOptions::default() };
        let Err(error) = open_engine(&options, EnginePreference::Auto) else { panic!("accepted") };
        assert_eq!(error.to_string(), "engine option sockets_max is 0, allowed is 1 to 524288");
    }

    #[test]
    fn the_report_says_why_a_slower_way_was_taken() {
        let report = EngineReport {
            engine: EngineName::Epoll,
            ring_refused: Some(EngineError::RingRefused { error: SystemError(libc::EPERM), sysctl: Some(2) }),
            buffers: BufferRegistration::Unknown,
            shortfalls: Vec::new(),
            arena_bytes: 64 << 20,
        };
        let text = report.to_string();
        assert!(text.contains("io_uring_disabled is 2"), "{text}");
        let report = |buffers| EngineReport {
            engine: EngineName::IoUring,
            ring_refused: None,
            buffers,
            shortfalls: Vec::new(),
            arena_bytes: 64 << 20,
        };
        let refused = report(BufferRegistration::Refused(SystemError(libc::ENOMEM))).to_string();
        assert!(refused.contains("unregistered") && refused.contains("LimitMEMLOCK=infinity"), "{refused}");
        let limited = report(BufferRegistration::OverLimit { limit_bytes: 8 << 20 }).to_string();
        assert!(limited.contains("8192 KiB") && limited.contains("LimitMEMLOCK=infinity"), "{limited}");
        let whole = report(BufferRegistration::OnFirstUse).to_string();
        assert_eq!(whole, "engine io_uring, 64 MiB of buffers, registered when first used");
        let error = SystemError(libc::EPERM);
        let shortfalls = vec![Shortfall::DataPin { core: 3, error }, Shortfall::WorkerCores(error)];
        let short = EngineReport { shortfalls, ..report(BufferRegistration::OnFirstUse) }.to_string();
        assert!(short.contains("core 3") && short.contains("workers are not kept off"), "{short}");
    }
}
