//! Nothing outlives a test: one small shell per cluster that kills and removes what a test leaves.
//!
//! Owns the end of a cluster. Statics are never dropped and a test binary can be killed, so `Drop`
//! alone would leave brokers behind. The shell reads process ids from a pipe whose other end the test
//! process holds; however that process ends, the pipe closes, and the shell kills every process it
//! was told of and removes the cluster's directory. It must never be told a process that the test did
//! not start.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// After the kill the shell waits for the processes to be gone: a dying broker still creates files in
/// the directory that is being removed.
const SCRIPT: &str = r#"
watched=
while read -r verb process; do
  case $verb in
    watch) watched="$watched $process" ;;
    forget) rest=; for one in $watched; do [ "$one" = "$process" ] || rest="$rest $one"; done; watched=$rest ;;
  esac
done
for one in $watched; do kill -9 "$one" 2>/dev/null; done
for one in $watched; do
  turns=0
  while kill -0 "$one" 2>/dev/null && [ $turns -lt 50 ]; do sleep 0.1; turns=$((turns + 1)); done
done
[ -z "$1" ] || rm -rf -- "$1"
"#;

/// Set to anything, the directories of clusters stay for a look at them after a failure.
pub const KEEP_VARIABLE: &str = "TWINLOG_TESTS_KEEP";

#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    orders: Mutex<Option<ChildStdin>>,
}

impl Watchdog {
    /// Watches over `directory`, which is removed at the end.
    pub fn over(directory: &Path) -> Self {
        let removed = if std::env::var_os(KEEP_VARIABLE).is_some() { Path::new("") } else { directory };
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg("twinlog-tests-watchdog").arg(removed);
        // A group of its own: an interrupt from the terminal ends the test, not its cleaner.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut shell = command.spawn().expect("a shell can be started");
        let orders = Mutex::new(shell.stdin.take());
        Self { shell, orders }
    }

    pub fn watch(&self, process: u32) {
        self.order("watch", process);
    }

    /// The process has ended and was waited for: its id may soon be somebody else's.
    pub fn forget(&self, process: u32) {
        self.order("forget", process);
    }

    fn order(&self, verb: &str, process: u32) {
        let mut orders = self.orders.lock().expect("no order panics");
        let pipe = orders.as_mut().expect("the pipe is open until drop");
        writeln!(pipe, "{verb} {process}").expect("the watchdog reads its orders");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.lock().map(|mut orders| orders.take()));
        // The directory should be gone when the test ends; there is no cure if the shell is gone already.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_killed_and_its_directory_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("a process");
        let watchdog = Watchdog::over(directory.path());
        watchdog.watch(sleeper.id());
        let reaper = std::thread::spawn(move || sleeper.wait().expect("it ends"));
        drop(watchdog);
        assert!(!reaper.join().expect("reaped").success());
        assert!(!directory.path().exists());
    }

    #[test]
    fn what_is_forgotten_lives_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("a process");
        let watchdog = Watchdog::over(directory.path());
        watchdog.watch(sleeper.id());
        watchdog.forget(sleeper.id());
        drop(watchdog);
        assert!(sleeper.try_wait().expect("it can be asked").is_none());
        sleeper.kill().expect("it can be killed");
        sleeper.wait().expect("it ends");
    }
}
