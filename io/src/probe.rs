//! What this host allows: the facts behind `twinlog check` and the start-up line.
//!
//! Owns: questions to the kernel that change nothing, but for a probe file that is removed again and the file limit
//! that [`raise_file_limit`] lifts when asked. It must never decide anything: it tells, the daemon judges.

use crate::operation::SystemError;
use crate::real_disk::direct_holds;
use crate::ring_setup::{disabled_sysctl, missing_operation};
use io_uring::{IoUring, Probe};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Bit of CAP_IPC_LOCK in a capability mask: registered buffers are not counted against the memlock limit.
const CAP_IPC_LOCK_BIT: u32 = 14;

/// Facts about the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFacts {
    /// As `uname -r` tells it.
    pub kernel_release: String,
    /// Major and minor; (0, 0) when the release is unreadable.
    pub kernel_version: (u32, u32),
    pub io_uring: IoUringFacts,
    /// Soft RLIMIT_MEMLOCK; `None` = unlimited.
    pub memlock_bytes: Option<u64>,
    pub may_lock_memory: bool,
    /// Soft and hard RLIMIT_NOFILE; `None` = unlimited.
    pub files_soft: Option<u64>,
    pub files_hard: Option<u64>,
}

/// Whether rings can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoUringFacts {
    Available,
    /// io_uring_setup was refused; the value of kernel.io_uring_disabled where it exists.
    Refused {
        error: SystemError,
        sysctl: Option<u32>,
    },
    /// It works, but knows not all of our operations.
    Lacks {
        operation: &'static str,
    },
}

/// Facts about the file system of one directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryFacts {
    /// O_DIRECT with 4 KiB alignment works.
    pub direct: bool,
    /// What the kernel tells about direct I/O alignment; `None` where it tells nothing (before 6.1, some file systems).
    pub direct_alignment_bytes: Option<u32>,
    /// fallocate reserves blocks.
    pub allocate: bool,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl HostFacts {
    /// True when an arena of this size can be registered, as far as limits tell.
    pub fn may_register(&self, arena_bytes: u64) -> bool {
        self.may_lock_memory || self.memlock_bytes.is_none_or(|limit| limit >= arena_bytes)
    }
}

impl fmt::Display for IoUringFacts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoUringFacts::Available => write!(formatter, "available"),
            IoUringFacts::Refused { error, sysctl: Some(value) } => {
                write!(formatter, "refused: {error}; kernel.io_uring_disabled = {value}")
            }
            IoUringFacts::Refused { error, sysctl: None } => write!(formatter, "refused: {error}"),
            IoUringFacts::Lacks { operation } => write!(formatter, "too old: lacks {operation}"),
        }
    }
}

/// Asks the kernel about the host.
pub fn probe_host() -> HostFacts {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let files = getrlimit(Resource::Nofile);
    HostFacts {
        kernel_version: kernel_version(&release).unwrap_or((0, 0)),
        kernel_release: release,
        io_uring: probe_io_uring(),
        memlock_bytes: getrlimit(Resource::Memlock).current,
        may_lock_memory: may_lock_memory(),
        files_soft: files.current,
        files_hard: files.maximum,
    }
}

/// Asks the file system about a directory, with a probe file that has no name (or loses it at once).
pub fn probe_directory(directory: &Path) -> Result<DirectoryFacts, SystemError> {
    let space = rustix::fs::statvfs(directory)?;
    let (direct, direct_alignment_bytes) = match probe_file(directory, OFlags::DIRECT) {
        Ok(file) => (direct_holds(&file) && direct_write(&file), told_alignment(&file)),
        Err(SystemError::INVALID | SystemError::NOT_SUPPORTED) => (false, None),
        Err(error) => return Err(error),
    };
    let file = probe_file(directory, OFlags::empty())?;
    let allocate = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4096) {
        Ok(()) => true,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => false,
        Err(error) => return Err(error.into()),
    };
    let (free_bytes, total_bytes) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
    Ok(DirectoryFacts { direct, direct_alignment_bytes, allocate, free_bytes, total_bytes })
}

/// Lifts RLIMIT_NOFILE to its hard limit; answers the limit in force afterwards, `None` = unlimited.
pub fn raise_file_limit() -> Result<Option<u64>, SystemError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum)
}

fn probe_io_uring() -> IoUringFacts {
    let ring = match IoUring::new(2) {
        Ok(ring) => ring,
        Err(error) => {
            return IoUringFacts::Refused { error: SystemError::from_std(&error), sysctl: disabled_sysctl() };
        }
    };
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        return IoUringFacts::Lacks { operation: "PROBE" };
    }
    missing_operation(&probe).map_or(IoUringFacts::Available, |operation| IoUringFacts::Lacks { operation })
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// How much memory this process may pin at most; `None` = no limit.
pub(crate) fn lockable_bytes() -> Option<u64> {
    if may_lock_memory() { None } else { getrlimit(Resource::Memlock).current }
}

fn may_lock_memory() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << CAP_IPC_LOCK_BIT) != 0
}

fn probe_file(directory: &Path, flags: OFlags) -> Result<OwnedFd, SystemError> {
    let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            // A file system without nameless files, or one that refuses the other flags: a named file tells which.
            let path = directory.join(format!(".twinlog-probe-{}", std::process::id()));
            let opened = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode);
            // Some file systems make the file and only then refuse O_DIRECT.
            let _ = rustix::fs::unlink(&path);
            opened.map_err(SystemError::from)
        }
        opened => opened.map_err(SystemError::from),
    }
}

fn told_alignment(file: &OwnedFd) -> Option<u32> {
    let facts = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    told.then_some(facts.stx_dio_offset_align.max(facts.stx_dio_mem_align))
}

/// The proof: some file systems take the flag and refuse the write.
fn direct_write(file: &OwnedFd) -> bool {
    let Ok(mut arena) = crate::arena::Arena::new(4096) else { return false };
    let page = arena.bytes_mut(crate::operation::Span { start: 0, length: 4096 });
    rustix::io::pwrite(file, page, 0) == Ok(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_kernel_release_is_read_up_to_its_minor_number() {
        assert_eq!(kernel_version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(kernel_version("5.15-generic"), Some((5, 15)));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn the_host_is_told_without_a_trace() {
        let facts = probe_host();
        assert!(facts.kernel_version.0 >= 4);
        assert!(!facts.io_uring.to_string().is_empty());
        let scratch = Scratch::new();
        let directory = probe_directory(scratch.path()).unwrap();
        assert!(directory.free_bytes <= directory.total_bytes);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert_eq!(probe_directory(&scratch.join("nowhere")), Err(SystemError::NOT_FOUND));
    }

    #[test]
    fn the_file_limit_goes_up_to_the_hard_limit() {
        let raised = raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }

    #[test]
    fn registering_is_a_matter_of_limit_or_right() {
        let mut facts = probe_host();
        facts.may_lock_memory = false;
        facts.memlock_bytes = Some(8 << 20);
        assert!(facts.may_register(8 << 20) && !facts.may_register((8 << 20) + 1));
        facts.may_lock_memory = true;
        assert!(facts.may_register(1 << 40));
    }
}
