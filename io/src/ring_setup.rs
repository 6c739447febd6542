//! How a ring is made: flags, tables and buffers, each with what happens when the kernel refuses it.
//!
//! Owns: everything between io_uring_setup and the first operation. It must never submit an operation.
//!
//! ```text
//!   wanted                             kernel   without it
//!   SINGLE_ISSUER + DEFER_TASKRUN      6.1      COOP_TASKRUN (5.19), then no flag at all
//!   sparse table of files              5.19     plain descriptors
//!   sparse table of buffers            5.19     the whole arena registered at start (5.1)
//!   registered buffers                 5.1      plain buffers (memlock limit too low: the common case in containers)
//!   wait with a timeout (EXT_ARG)      5.11     refused: epoll is the better engine
//!   workers pinned and bounded         5.14/15  left as they are
//! ```
//! What is refused and not fatal is a `Shortfall` of the report.

use crate::arena::Arena;
use crate::buffers::Buffers;
use crate::engine::{BufferRegistration, EngineError, EngineName, EngineOptions, EngineReport};
use crate::operation::SystemError;
use crate::shortfall::Shortfall;
use io_uring::{IoUring, Probe, opcode};

/// Completions per submission entry: with room for every operation in flight the kernel never has to overflow
/// into memory of its own, which costs it an allocation each.
const COMPLETIONS_PER_ENTRY: u32 = 8;

/// The kernel's own limit is 65,536 completions.
const COMPLETION_ENTRIES_MAX: u32 = 32_768;

/// A ring and what the kernel granted.
pub(crate) struct PreparedRing {
    pub(crate) ring: IoUring,
    pub(crate) buffers: Buffers,
    pub(crate) report: EngineReport,
    /// Sockets and files stand in the kernel's table.
    pub(crate) files_registered: bool,
}

pub(crate) fn prepare(options: &EngineOptions, arena: &Arena) -> Result<PreparedRing, EngineError> {
    let (ring, completions) = set_up(options)?;
    require(&ring)?;
    let submitter = ring.submitter();
    let mut shortfalls = Vec::new();
    if completions != CompletionWork::Deferred {
        let cooperative = completions == CompletionWork::Cooperative;
        shortfalls.push(Shortfall::DeferredCompletions { cooperative });
    }
    let mut refused = |result: std::io::Result<()>, shortfall: fn(SystemError) -> Shortfall| {
        let error = result.err().map(|error| SystemError::from_std(&error));
        shortfalls.extend(error.map(shortfall));
        error.is_none()
    };
    let table_rows = options.sockets_max + options.files_max;
    let files_registered = refused(submitter.register_files_sparse(table_rows), Shortfall::FileTable);
    let (buffers, registration) = Buffers::prepare(&ring, arena);
    let mut workers = [options.kernel_workers_max; 2];
    // Both only steer the kernel's helpers; an older kernel goes on without.
    refused(submitter.register_iowq_max_workers(&mut workers), Shortfall::WorkerLimit);
    if !options.helper_cores.is_empty() {
        let cores = cpu_set(&options.helper_cores);
        refused(submitter.register_iowq_aff(&cores), Shortfall::WorkerCores);
    }
    if registration == BufferRegistration::AtStart {
        shortfalls.push(Shortfall::BufferTable);
    }
    let report = EngineReport {
        engine: EngineName::IoUring,
        ring_refused: None,
        buffers: registration,
        shortfalls,
        arena_bytes: arena.size_bytes(),
    };
    Ok(PreparedRing { ring, buffers, report, files_registered })
}

/// When the kernel works completions off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CompletionWork {
    /// Inside our own wait alone.
    Deferred,
    /// At our own system calls.
    Cooperative,
    /// At once, by an interrupt.
    Interrupting,
}

/// The best flags this kernel knows; it answers EINVAL to those it does not.
fn set_up(options: &EngineOptions) -> Result<(IoUring, CompletionWork), EngineError> {
    let entries = options.queue_entries.next_power_of_two();
    let completions = (entries * COMPLETIONS_PER_ENTRY).min(COMPLETION_ENTRIES_MAX);
    let build = |work: CompletionWork| {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(completions);
        match work {
            // No interrupt of a running shard, no lock on the way.
            CompletionWork::Deferred => {
                builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun()
            }
            CompletionWork::Cooperative => builder.setup_submit_all().setup_coop_taskrun(),
            CompletionWork::Interrupting => &mut builder,
        };
        builder.build(entries)
    };
    let mut refused = SystemError::INVALID;
    for work in [CompletionWork::Deferred, CompletionWork::Cooperative, CompletionWork::Interrupting] {
        match build(work) {
            Ok(ring) => return Ok((ring, work)),
            Err(error) => refused = SystemError::from_std(&error),
        }
        if refused != SystemError::INVALID {
            break;
        }
    }
    Err(EngineError::RingRefused { error: refused, sysctl: disabled_sysctl() })
}

/// kernel.io_uring_disabled: 0 open, 1 for privileged processes and one group, 2 for nobody. Absent before 6.6.
pub(crate) fn disabled_sysctl() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn require(ring: &IoUring) -> Result<(), EngineError> {
    let parameters = ring.params();
    let features = [
        (parameters.is_feature_ext_arg(), "waiting with a timeout"),
        (parameters.is_feature_nodrop(), "completions that are never dropped"),
        (parameters.is_feature_submit_stable(), "arguments read at submission"),
        (parameters.is_feature_fast_poll(), "sockets without worker threads"),
    ];
    if let Some((_, missing)) = features.into_iter().find(|(present, _)| !present) {
        return Err(EngineError::RingTooOld { missing });
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| EngineError::Call {
        call: "io_uring_register probe",
        error: SystemError::from_std(&error),
    })?;
    match missing_operation(&probe) {
        Some(missing) => Err(EngineError::RingTooOld { missing }),
        None => Ok(()),
    }
}

/// The first operation of ours that the kernel does not know.
pub(crate) fn missing_operation(probe: &Probe) -> Option<&'static str> {
    let needed = [
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::Send::CODE, "SEND"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
        (opcode::Read::CODE, "READ"),
        (opcode::ReadFixed::CODE, "READ_FIXED"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ];
    needed.into_iter().find(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| name)
}

fn cpu_set(cores: &[usize]) -> libc::cpu_set_t {
    // SAFETY: a CPU mask of zeroes is the empty mask.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
        // SAFETY: the core is below the size of the mask.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    set
}
