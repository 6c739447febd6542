//! Which thread runs on which core.
//!
//! Owns: the reading of a core list, the choice of control and data cores, and the calls that pin the current thread.
//! It must never pin a thread other than the one that calls: threads pin themselves when they start.
//!
//! ```text
//!   allowed cores   control   data (auto)
//!   0               0         0            one core: both share it, control at low priority
//!   0 1             0         1
//!   0 1 2 3         0         1 2 3        auto = all but the control core
//! ```

use crate::operation::SystemError;
use crate::shortfall::Shortfall;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fmt;
use std::str::FromStr;

/// Nice value of the control core: on a shared core the data thread gets about nine tenths of it.
const CONTROL_NICE: i32 = 10;

/// The operator's wish: `auto`, or a list such as `0,2-3`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum CoreChoice {
    #[default]
    Auto,
    /// Sorted, without repeats, not empty.
    Listed(Vec<usize>),
}

/// Who runs where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    pub control: usize,
    /// One shard each; never empty.
    pub data: Vec<usize>,
}

/// Why a core list cannot be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// Not `auto`, not numbers and ranges.
    Unreadable { text: String },
    /// The kernel's mask ends before this core.
    OutOfRange { core: usize, bound: usize },
    /// The process may not run there (affinity, cgroup, container).
    NotAllowed { core: usize, allowed: Vec<usize> },
    /// The kernel told no core at all, or could not be asked.
    Unknown(SystemError),
}

impl fmt::Display for PlacementError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlacementError::Unreadable { text } => {
                write!(formatter, "core list {text:?} is neither \"auto\" nor a list such as \"1,3-5\"")
            }
            PlacementError::OutOfRange { core, bound } => {
                write!(formatter, "core {core} is out of range, the highest possible is {bound}")
            }
            PlacementError::NotAllowed { core, allowed } => {
                write!(formatter, "core {core} is not open to this process, which may use {allowed:?}")
            }
            PlacementError::Unknown(error) => write!(formatter, "cannot ask for the allowed cores: {error}"),
        }
    }
}

impl std::error::Error for PlacementError {}

impl FromStr for CoreChoice {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<CoreChoice, PlacementError> {
        if text.trim() == "auto" {
            return Ok(CoreChoice::Auto);
        }
        let unreadable = || PlacementError::Unreadable { text: text.to_owned() };
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| unreadable());
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            let bound = CpuSet::MAX_CPU - 1;
            if last > bound {
                return Err(PlacementError::OutOfRange { core: last, bound });
            }
            if first > last {
                return Err(unreadable());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(CoreChoice::Listed(cores))
    }
}

/// The cores this thread may run on, in ascending order.
pub fn allowed_cores() -> Result<Vec<usize>, PlacementError> {
    let set = sched_getaffinity(None).map_err(|error| PlacementError::Unknown(error.into()))?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    if cores.is_empty() { Err(PlacementError::Unknown(SystemError::INVALID)) } else { Ok(cores) }
}

/// Divides the allowed cores. Control gets the lowest one that is not a data core; when all are, it shares the lowest.
pub fn place(allowed: &[usize], choice: &CoreChoice) -> Result<Placement, PlacementError> {
    let lowest = *allowed.iter().min().ok_or(PlacementError::Unknown(SystemError::INVALID))?;
    let data: Vec<usize> = match choice {
        CoreChoice::Auto if allowed.len() == 1 => vec![lowest],
        CoreChoice::Auto => allowed.iter().copied().filter(|core| *core != lowest).collect(),
        CoreChoice::Listed(cores) => cores.clone(),
    };
    if let Some(core) = data.iter().find(|core| !allowed.contains(core)) {
        return Err(PlacementError::NotAllowed { core: *core, allowed: allowed.to_vec() });
    }
    let control = allowed.iter().copied().filter(|core| !data.contains(core)).min().unwrap_or(lowest);
    Ok(Placement { control, data })
}

/// Pins the calling thread, and the threads it will start, to these cores. An empty list changes nothing.
pub fn pin_current_thread(cores: &[usize]) -> Result<(), SystemError> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(SystemError::INVALID);
        }
        set.set(*core);
    }
    sched_setaffinity(None, &set).map_err(SystemError::from)
}

/// Makes the calling thread give way: SCHED_BATCH, so that its wake-ups do not preempt a shard, and a nice value.
/// Says which of the two was refused: either is of use without the other.
pub fn yield_to_data_threads() -> Vec<Shortfall> {
    let mut shortfalls = Vec::new();
    // SAFETY: all zeroes is a valid parameter block (priority 0, the only one SCHED_BATCH takes).
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid through the call; process 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        let error = SystemError::from_std(&std::io::Error::last_os_error());
        shortfalls.push(Shortfall::ControlBatch(error));
    }
    // On Linux a nice value belongs to a thread; "process None" is the calling one.
    if let Err(error) = rustix::process::setpriority_process(None, CONTROL_NICE) {
        shortfalls.push(Shortfall::ControlNice(error.into()));
    }
    shortfalls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Vec<usize> {
        match text.parse().unwrap() {
            CoreChoice::Listed(cores) => cores,
            CoreChoice::Auto => panic!("auto"),
        }
    }

    #[test]
    fn a_core_list_is_numbers_and_ranges() {
        assert_eq!(listed("0,2-3"), [0, 2, 3]);
        assert_eq!(listed(" 5 , 1-2,2"), [1, 2, 5]);
        assert_eq!("auto".parse(), Ok(CoreChoice::Auto));
        for bad in ["", "a", "1-", "3-1", "-1", "1,,2", "0x1"] {
            let error = bad.parse::<CoreChoice>().unwrap_err();
            assert_eq!(error, PlacementError::Unreadable { text: bad.into() });
        }
        assert!(matches!("0-99999999".parse::<CoreChoice>(), Err(PlacementError::OutOfRange { .. })));
    }

    #[test]
    fn control_and_data_share_nothing_as_soon_as_there_are_two_cores() {
        let auto = CoreChoice::Auto;
        assert_eq!(place(&[3], &auto).unwrap(), Placement { control: 3, data: vec![3] });
        assert_eq!(place(&[0, 1], &auto).unwrap(), Placement { control: 0, data: vec![1] });
        assert_eq!(place(&[0, 1, 2], &auto).unwrap(), Placement { control: 0, data: vec![1, 2] });
        let listed = CoreChoice::Listed(vec![0, 1]);
        assert_eq!(place(&[0, 1, 2], &listed).unwrap(), Placement { control: 2, data: vec![0, 1] });
        assert_eq!(place(&[0, 1], &listed).unwrap(), Placement { control: 0, data: vec![0, 1] });
        let error = place(&[0, 1], &CoreChoice::Listed(vec![7])).unwrap_err();
        assert_eq!(error.to_string(), "core 7 is not open to this process, which may use [0, 1]");
    }

    #[test]
    fn a_thread_pins_itself_and_nobody_else() {
        let before = allowed_cores().unwrap();
        let core = before[0];
        let inside = std::thread::spawn(move || {
            pin_current_thread(&[core]).unwrap();
            assert_eq!(yield_to_data_threads(), []);
            allowed_cores().unwrap()
        });
        assert_eq!(inside.join().unwrap(), [core]);
        assert_eq!(allowed_cores().unwrap(), before);
    }
}
