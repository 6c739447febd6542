//! What the kernel says of a running process, read from outside: /proc.

use crate::error::BenchError;
use std::path::PathBuf;

/// Ticks of /proc in a second: fixed in Linux's interface, whatever the kernel's own are.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time to a hundredth of a second, and memory.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

impl Standing {
    pub fn of(process_id: u32) -> Result<Standing, BenchError> {
        let read = |name: &str| {
            let path = PathBuf::from(format!("/proc/{process_id}/{name}"));
            std::fs::read_to_string(&path).map_err(|error| BenchError::File {
                action: "reading",
                path,
                error,
            })
        };
        let (user_seconds, system_seconds) = processor_time(&read("stat")?);
        let status = read("status")?;
        Ok(Standing {
            user_seconds,
            system_seconds,
            resident_bytes: memory(&status, "VmRSS:"),
            peak_bytes: memory(&status, "VmHWM:"),
        })
    }

    pub fn cpu_seconds(self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// User and system seconds of those threads of this process whose names begin with one of these: a shard that runs
/// among the bench's own threads. What ended before it is asked for is not in it.
pub fn threads_seconds(names: &[&str]) -> (f64, f64) {
    threads_seconds_of(std::process::id(), names)
}

/// [`threads_seconds`] of another process.
pub fn threads_seconds_of(process_id: u32, names: &[&str]) -> (f64, f64) {
    let tasks = std::fs::read_dir(format!("/proc/{process_id}/task")).into_iter().flatten().flatten();
    let wanted = tasks.filter(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        names.iter().any(|wanted| name.starts_with(wanted))
    });
    // One that ends between two looks has no figures left to read.
    let each = wanted.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    each.map(|stat| processor_time(&stat))
        .fold((0.0, 0.0), |sum, (user, system)| (sum.0 + user, sum.1 + system))
}

/// User and system seconds of /proc/PID/stat: fields 14 and 15, counted behind the name, which may hold blanks.
fn processor_time(stat: &str) -> (f64, f64) {
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| {
        behind_name.split_whitespace().nth(field - 3).and_then(|word| word.parse::<f64>().ok())
    };
    (ticks(14).unwrap_or(0.0) / TICKS_PER_SECOND, ticks(15).unwrap_or(0.0) / TICKS_PER_SECOND)
}

/// A line of /proc/PID/status in bytes; the kernel writes KiB.
fn memory(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_by_its_name_and_others_are_not_counted() {
        let busy = std::thread::Builder::new().name("bench-busy".to_owned()).spawn(|| {
            let before = threads_seconds(&["bench-busy"]);
            while threads_seconds(&["bench-busy"]) == before {}
            threads_seconds(&["bench-none"])
        });
        assert_eq!(busy.unwrap().join().unwrap(), (0.0, 0.0));
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 75 0 0 20 0 1 0 1 2 3";
        assert_eq!(processor_time(stat), (2.5, 0.75));
        assert_eq!(memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t1024 kB\n", "VmRSS:"), 1 << 20);
    }
}
