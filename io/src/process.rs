//! What this process has used so far, and whether a crash of it may leave its memory behind.
//!
//! Owns readings of the kernel's accounting and the ban on core files; signals are not here.

use crate::operation::SystemError;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, set_dumpable_behavior, setrlimit,
};

/// Resources used since the process started, all threads and the ring's kernel workers included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessUsage {
    pub user_microseconds: u64,
    pub system_microseconds: u64,
    /// Of this program alone: `ru_maxrss` would also count what ran in the process before its exec.
    pub peak_resident_bytes: u64,
    /// Times a thread gave its core up to wait.
    pub voluntary_switches: u64,
    /// Times a core was taken from a thread.
    pub involuntary_switches: u64,
}

impl ProcessUsage {
    /// User plus system time.
    pub fn cpu_seconds(&self) -> f64 {
        (self.user_microseconds + self.system_microseconds) as f64 / 1e6
    }
}

/// Reads the accounting of the calling process.
pub fn process_usage() -> Result<ProcessUsage, SystemError> {
    // SAFETY: the structure is plain numbers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the structure that the call fills.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Err(SystemError::from_std(&std::io::Error::last_os_error()));
    }
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Ok(ProcessUsage {
        user_microseconds: microseconds(usage.ru_utime),
        system_microseconds: microseconds(usage.ru_stime),
        peak_resident_bytes: peak_resident_bytes()?,
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
    })
}

/// `VmHWM`, which the kernel counts for the memory of one program. A resource usage inherits its peak through exec.
fn peak_resident_bytes() -> Result<u64, SystemError> {
    let failed = |error: std::io::Error| SystemError::from_std(&error);
    let status = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
    peak_of(&status).ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))
}

/// The figure in the kernel's table, which counts in KiB.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// From now on a crash leaves no core file, and nobody but root may look into this process: no core by its limit,
/// none for a handler that the limit does not count for, and no debugger of the same user. For good.
pub fn forbid_core_dumps() -> Result<(), SystemError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The limit of a pipe in kernel.core_pattern is not this one; only the flag above forbids it.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Whether that is so.
pub fn core_dumps_are_forbidden() -> bool {
    dumpable_behavior().is_ok_and(|behavior| behavior != DumpableBehavior::Dumpable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_dumps_are_forbidden_for_good() {
        forbid_core_dumps().unwrap();
        assert!(core_dumps_are_forbidden());
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    }

    #[test]
    fn a_peak_is_the_programs_own_not_that_of_what_started_it() {
        assert_eq!(peak_of("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t1024 kB\n"), Some(2 << 20));
        assert_eq!(peak_of("VmRSS:\t1024 kB\n"), None);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(process_usage().unwrap().peak_resident_bytes >= peak_of(&status).unwrap());
    }

    #[test]
    fn usage_only_grows() {
        let before = process_usage().unwrap();
        let after = process_usage().unwrap();
        assert!(after.cpu_seconds() >= before.cpu_seconds());
        assert!(after.peak_resident_bytes >= before.peak_resident_bytes && before.peak_resident_bytes > 0);
    }
}
