//! What a program with all its children uses, read from outside while it runs: /proc.
//!
//! Invariant: CPU time of children is counted once: of the living in their own lines, of those that were waited for
//! in their parent's. Memory is gone when a process ends, so it is looked at on the way. Must never be the parent of
//! what it does not end.

use crate::error::BenchError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_io::pin_current_thread;

/// Ticks of /proc in a second: fixed in Linux's interface.
const TICKS_PER_SECOND: f64 = 100.0;
/// Between two looks; CPU time is told in hundredths of a second anyway.
const LOOK: Duration = Duration::from_millis(10);
/// Every so many looks children are searched for: a Java process has dozens of threads, each of which may have some.
const LOOKS_PER_SEARCH: u32 = 10;
/// A copier that needs longer hangs.
const RUN_MAX: Duration = Duration::from_secs(900);
/// One that has copied nothing by then will not.
const FIRST_MAX: Duration = Duration::from_secs(120);
/// Lines of its output that a failure shows.
const SHOWN_LINES: usize = 15;

/// What it used, to its end and to the moment when its first record was at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub first_seconds: f64,
    pub first_cpu_seconds: f64,
    /// Of all its processes together, at their highest moment.
    pub peak_bytes: u64,
}

/// A running program. Dropping it kills it.
pub struct Program {
    name: &'static str,
    child: Child,
    started: Instant,
    output: PathBuf,
}

/// Runs it in a thread that may use this core only; whatever it starts inherits that.
pub fn pinned<T: Send>(
    core: usize,
    work: impl FnOnce() -> Result<T, BenchError> + Send,
) -> Result<T, BenchError> {
    thread::scope(|scope| {
        let work = move || {
            pin_current_thread(&[core]).map_err(|error| BenchError::Pin { core, error })?;
            work()
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Program {
    /// Starts it on one core; what it says goes to a file.
    pub fn start(
        name: &'static str,
        core: usize,
        mut command: Command,
        output: &Path,
    ) -> Result<Program, BenchError> {
        let file = fs::File::create(output);
        let file =
            file.map_err(|error| BenchError::File { action: "making", path: output.to_owned(), error })?;
        let failed = |error| BenchError::Role { role: name, error };
        let errors = file.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let started = Instant::now();
        let child = pinned(core, || command.spawn().map_err(failed))?;
        Ok(Program { name, child, started, output: output.to_owned() })
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Until it ends by itself, or until it `is_done`, when it is killed. `has_begun`: the first record is there.
    pub fn watch(
        mut self,
        mut has_begun: impl FnMut() -> bool,
        mut is_done: impl FnMut() -> bool,
    ) -> Result<Used, BenchError> {
        let mut used = Used::default();
        let mut begun = false;
        let mut children = Vec::new();
        for look in 0_u32.. {
            if look.is_multiple_of(LOOKS_PER_SEARCH) {
                children = descendants(self.child.id());
            }
            let done = begun && is_done();
            let root = stat(self.child.id());
            let (cpu_seconds, resident_bytes) = sum(&root, &children);
            used.seconds = self.started.elapsed().as_secs_f64();
            used.cpu_seconds = used.cpu_seconds.max(cpu_seconds);
            used.peak_bytes = used.peak_bytes.max(resident_bytes);
            if !begun && has_begun() {
                begun = true;
                (used.first_seconds, used.first_cpu_seconds) = (used.seconds, used.cpu_seconds);
            }
            if done {
                return Ok(used);
            }
            if root.is_none_or(|root| root.state == 'Z') {
                break;
            }
            let limit = if begun { RUN_MAX } else { FIRST_MAX };
            if self.started.elapsed() > limit {
                eprintln!("{}", self.last_words());
                return Err(BenchError::Slow { what: self.name, limit });
            }
            thread::sleep(LOOK);
        }
        let status = self.child.wait().map_err(|error| BenchError::Role { role: self.name, error })?;
        if status.success() {
            return Ok(used);
        }
        Err(BenchError::RoleFailed { role: self.name, status, words: self.last_words() })
    }

    fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds of a process that goes on; 0 if it is gone.
pub fn cpu_seconds(process_id: Option<u32>) -> f64 {
    process_id.and_then(stat).map_or(0.0, |stat| stat.cpu_seconds)
}

/// One process.
struct Stat {
    state: char,
    /// Own, and of children that were waited for.
    cpu_seconds: f64,
    peak_bytes: u64,
}

fn stat(process_id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    let (state, cpu_seconds) = parse(&text)?;
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).unwrap_or_default();
    Some(Stat { state, cpu_seconds, peak_bytes: peak(&status) })
}

/// State and CPU seconds of /proc/PID/stat: fields 3 and 14 to 17, counted behind the name, which may hold blanks.
fn parse(stat: &str) -> Option<(char, f64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum::<Option<f64>>()?;
    Some((fields[0].chars().next()?, ticks / TICKS_PER_SECOND))
}

/// The kernel's own high-water mark; it writes KiB. Gone when the process has ended.
fn peak(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn sum(root: &Option<Stat>, children: &[u32]) -> (f64, u64) {
    let others = children.iter().filter_map(|child| stat(*child));
    let all = root.iter().map(|root| (root.cpu_seconds, root.peak_bytes));
    let others = others.map(|one| (one.cpu_seconds, one.peak_bytes));
    all.chain(others).fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Children, their children and so on.
fn descendants(process_id: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut asked = vec![process_id];
    while let Some(process_id) = asked.pop() {
        let tasks = fs::read_dir(format!("/proc/{process_id}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
            for child in children {
                found.push(child);
                asked.push(child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_children_that_were_waited_for_is_counted() {
        let stat = "42 (a) b) Z 1 42 42 0 -1 4194304 100 0 0 0 250 75 100 25 20 0 1 0 1 2 3";
        assert_eq!(parse(stat), Some(('Z', 4.5)));
        assert_eq!(parse("42 (a) S 1"), None);
        assert_eq!(peak("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t1024 kB\n"), 2 << 20);
    }

    #[test]
    fn a_program_is_watched_with_the_children_that_it_starts() {
        let directory = std::env::temp_dir().join(format!("twinlog-tree-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let core = twinlog_io::allowed_cores().unwrap()[0];
        let mut command = Command::new("sh");
        command.args(["-c", "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); exit 0"]);
        let program = Program::start("a shell", core, command, &directory.join("output")).unwrap();
        let used = program.watch(|| true, || false).unwrap();
        assert!(used.cpu_seconds > 0.0 && used.peak_bytes > 0, "{used:?}");
        let mut command = Command::new("sh");
        command.args(["-c", "echo why; exit 3"]);
        let program = Program::start("a shell", core, command, &directory.join("output")).unwrap();
        assert!(program.watch(|| true, || false).unwrap_err().to_string().contains("why"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
