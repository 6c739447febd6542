//! What a kernel or a limit refuses although the work goes on without it: each with its cost and its cure.
//!
//! Owns the words. Everything here costs speed or calm, never correctness: what the engine cannot do without is an
//! `EngineError`. It must never be dropped on the way to the start-up line and to `twinlog check`.

use crate::operation::SystemError;
use std::fmt;

/// See the file's header. `Display` says what is missing, what it costs and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortfall {
    /// SINGLE_ISSUER with DEFER_TASKRUN (6.1); `cooperative` = COOP_TASKRUN (5.19) stands in for it.
    DeferredCompletions { cooperative: bool },
    /// The sparse table of sockets and files (5.19).
    FileTable(SystemError),
    /// The sparse table of buffers (5.19): the whole arena is registered at the start.
    BufferTable,
    /// The bound on the kernel's worker threads (5.15).
    WorkerLimit(SystemError),
    /// The kernel's worker threads kept on the control core (5.14).
    WorkerCores(SystemError),
    /// A data thread on its core.
    DataPin { core: usize, error: SystemError },
    /// The control thread on its core.
    ControlPin { core: usize, error: SystemError },
    /// SCHED_BATCH of the control thread.
    ControlBatch(SystemError),
    /// The nice value of the control thread.
    ControlNice(SystemError),
}

impl Shortfall {
    /// What is missing, and what that costs.
    pub fn cost(&self) -> String {
        match self {
            Self::DeferredCompletions { cooperative: true } => {
                "no DEFER_TASKRUN: the kernel works completions off in the middle of our own steps".to_owned()
            }
            Self::DeferredCompletions { cooperative: false } => {
                "no DEFER_TASKRUN and no COOP_TASKRUN: each completion interrupts a data thread".to_owned()
            }
            Self::FileTable(error) => format!(
                "no sparse table of files ({error}): each operation looks its descriptor up, more CPU for each"
            ),
            Self::BufferTable => {
                "no sparse table of buffers: all of them are pinned at the start, not when first used"
                    .to_owned()
            }
            Self::WorkerLimit(error) => format!(
                "the kernel's workers are not bounded ({error}): a burst of blocking calls may start hundreds"
            ),
            Self::WorkerCores(error) => format!(
                "the kernel's workers are not kept off the data cores ({error}): they take time of data threads"
            ),
            Self::DataPin { core, error } => format!(
                "a data thread is not pinned to core {core} ({error}): it moves between cores and loses their caches"
            ),
            Self::ControlPin { core, error } => format!(
                "the control thread is not pinned to core {core} ({error}): it may take time of data threads"
            ),
            Self::ControlBatch(error) => format!(
                "the control thread does not run as SCHED_BATCH ({error}): its wake-ups may interrupt data threads"
            ),
            Self::ControlNice(error) => format!(
                "the control thread keeps the normal priority ({error}): on a shared core it takes half of it"
            ),
        }
    }

    /// What to do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::DeferredCompletions { .. } => "take kernel 6.1 or newer",
            Self::FileTable(_) => "take kernel 5.19 or newer, and raise LimitNOFILE",
            Self::BufferTable => "take kernel 5.19 or newer",
            Self::WorkerLimit(_) => "take kernel 5.15 or newer",
            Self::WorkerCores(_) => {
                "take kernel 5.14 or newer, and open the control core to this process (AllowedCPUs, cpuset)"
            }
            Self::DataPin { .. } | Self::ControlPin { .. } => {
                "open the core to this process (AllowedCPUs, cpuset), and allow sched_setaffinity in the seccomp \
                 profile"
            }
            Self::ControlBatch(_) => "allow sched_setscheduler in the seccomp profile",
            Self::ControlNice(_) => "allow setpriority in the seccomp profile",
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {}", self.cost(), self.cure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortfall_says_what_is_missing_what_it_costs_and_what_to_do() {
        let error = SystemError(libc::EPERM);
        let all = [
            Shortfall::DeferredCompletions { cooperative: true },
            Shortfall::DeferredCompletions { cooperative: false },
            Shortfall::FileTable(error),
            Shortfall::BufferTable,
            Shortfall::WorkerLimit(error),
            Shortfall::WorkerCores(error),
            Shortfall::DataPin { core: 7, error },
            Shortfall::ControlPin { core: 7, error },
            Shortfall::ControlBatch(error),
            Shortfall::ControlNice(error),
        ];
        for shortfall in all {
            let text = shortfall.to_string();
            assert!(text.contains(": ") && text.ends_with(shortfall.cure()), "{text}");
        }
        assert!(Shortfall::DataPin { core: 7, error }.to_string().contains("core 7"));
    }
}
