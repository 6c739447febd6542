//! The program under test as a process: started, watched, killed, and its last word read.
//!
//! Owns the child and what it prints. The path of the program comes from the test
//! (`env!("CARGO_BIN_EXE_...")`), so that this library needs no program to build. A program that is
//! dropped while it runs is killed.

use crate::poll;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// How to start the program.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u64>,
    ring_refused: bool,
}

/// How a program is asked to drain and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, as systemd sends it.
    Terminate,
    /// SIGINT, as Ctrl-C sends it.
    Interrupt,
}

/// Its number on every architecture: system calls since Linux 5.1 are numbered alike.
const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            ring_refused: false,
        }
    }

    /// Starts it under this limit of open files, which it cannot raise again.
    pub fn with_descriptors(self, limit: u64) -> Self {
        Self { descriptors: Some(limit), ..self }
    }

    /// Sets a variable of the program's environment.
    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_str().expect("values of tests are UTF-8");
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_str().expect("arguments of tests are UTF-8").to_owned());
        self
    }

    pub fn arguments<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, |program, argument| program.argument(argument))
    }

    /// Starts it as a container does that forbids io_uring: the kernel refuses it a ring.
    pub fn with_ring_refused(self) -> Self {
        Self { ring_refused: true, ..self }
    }

    pub fn spawn(&self) -> Running {
        let mut command = self.command();
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = match self.ring_refused {
            false => command.spawn(),
            // A filter is the thread's, and for good; its children inherit it.
            true => thread::scope(|scope| {
                let refused = scope.spawn(|| {
                    refuse_ring();
                    command.spawn()
                });
                refused.join().expect("the kernel takes a filter")
            }),
        };
        let mut child =
            child.unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.path.display()));
        let stdout = Captured::of(child.stdout.take().expect("piped"));
        let stderr = Captured::of(child.stderr.take().expect("piped"));
        Running {
            child,
            stdout,
            stderr,
            line: format!("{} {}", self.path.display(), self.arguments.join(" ")),
        }
    }

    /// A shell sets the limit and becomes the program: the process stays the same.
    fn command(&self) -> Command {
        let Some(limit) = self.descriptors else { return Command::new(&self.path) };
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\""]).arg(limit.to_string()).arg(&self.path);
        command
    }

    /// Starts the program and waits for its end.
    pub fn run(&self) -> Finished {
        self.spawn().wait()
    }
}

/// From now on the calling thread and its children get no io_uring.
fn refuse_ring() {
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let architecture = std::env::consts::ARCH.try_into().expect("seccomp knows this architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), architecture);
    let program: BpfProgram = filter.and_then(BpfProgram::try_from).expect("one rule makes a filter");
    seccompiler::apply_filter(&program).expect("a thread may give up a system call");
}

/// The program while it runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    line: String,
}

impl Running {
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the kernel has taken the process down.
    pub fn kill_hard(mut self) -> Finished {
        // It may have ended by itself between two looks: its status tells.
        let _ = self.child.kill();
        self.wait()
    }

    /// SIGTERM: the program should drain and end.
    pub fn terminate(&self) {
        self.ask_to_stop(Stop::Terminate);
    }

    /// One of the two signals at which the program should drain and end.
    pub fn ask_to_stop(&self, how: Stop) {
        let name = match how {
            Stop::Terminate => "-TERM",
            Stop::Interrupt => "-INT",
        };
        let process = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", name, &process]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name} {process} failed");
    }

    /// Whether the program has printed `text` so far, to either stream.
    pub fn has_printed(&self, text: &str) -> bool {
        self.stdout.text().contains(text) || self.stderr.text().contains(text)
    }

    /// Waits until the program has printed `text`, to either stream.
    pub fn poll_until_printed(&mut self, text: &str) {
        let what = format!("{} prints {text:?}", self.line);
        poll::poll_until(&what, || {
            let printed = self.has_printed(text);
            if !printed && let Some(status) = self.child.try_wait().expect("a child can be asked") {
                // Its last words may still be on their way through the pipe.
                self.stdout.finish();
                self.stderr.finish();
                assert!(
                    self.has_printed(text),
                    "{} ended with {status} before it printed {text:?}:\n{}",
                    self.line,
                    self.stderr.text()
                );
                return true;
            }
            printed
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Fails the test, with its status, if it has ended.
    #[track_caller]
    pub fn expect_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be asked") {
            panic!("{} ended by itself with {status}", self.line);
        }
    }

    /// Waits for the end; a program that never ends is killed and fails the test with what it printed.
    pub fn wait(mut self) -> Finished {
        let ended =
            poll::poll_within(poll::HANG_LIMIT, || self.child.try_wait().expect("a child can be asked"));
        let Some(status) = ended else {
            panic!("{} did not end; it printed:\n{}{}", self.line, self.stdout.text(), self.stderr.text());
        };
        self.stdout.finish();
        self.stderr.finish();
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        Finished { status, stdout, stderr, line: std::mem::take(&mut self.line) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended after `wait`: both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A test that fails beside a running program is explained by what that said.
        if thread::panicking() && !self.line.is_empty() {
            self.stderr.finish();
            eprintln!("{} printed:\n{}", self.line, self.stderr.text());
        }
    }
}

/// The program after its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Finished {
    /// The exit code, `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails the test with everything printed unless the exit code is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{} printed:\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// The report of `--output json`: the last line of standard output that is a JSON object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut objects =
            self.stdout.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let report = objects.find(Value::is_object);
        report.unwrap_or_else(|| {
            panic!("{} printed no JSON object:\n{}{}", self.line, self.stdout, self.stderr)
        })
    }
}

/// A new token of an operator and its line, by the program itself.
pub fn new_token(program: &str, name: &str, role: &str) -> (String, String) {
    let words = ["token", "create", name, "--role", role, "--output", "json"];
    let made = Program::new(program).arguments(words).run().expect_code(0).json();
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("token"), text("line"))
}

/// One stream of the child, read all the time so that the child never waits for us.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                filled.lock().expect("no reader panics").extend_from_slice(&piece[..length]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no reader panics")).into_owned()
    }

    /// Waits for the end of the stream, which follows the end of the child.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no reader panics");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").arguments(["-c", script])
    }

    #[test]
    fn the_last_json_object_of_the_output_is_the_report() {
        let finished = shell("echo '{\"a\":1}'; echo '{\"a\":2}'; echo done; exit 1").run().expect_code(1);
        assert_eq!(finished.json()["a"], 2);
    }

    #[test]
    fn a_limit_of_descriptors_is_set_for_good() {
        let limits = shell("ulimit -n; ulimit -Hn").with_descriptors(123).run().expect_code(0);
        assert_eq!(limits.stdout, "123\n123\n");
    }

    #[test]
    fn a_killed_program_has_no_exit_code_but_its_output() {
        let mut running = shell("echo started; exec sleep 1000").spawn();
        running.poll_until_printed("started");
        assert!(running.is_running());
        let finished = running.kill_hard();
        assert_eq!((finished.code(), finished.stdout.as_str()), (None, "started\n"));
    }

    #[test]
    fn a_terminated_program_can_end_in_its_own_way() {
        // A shell that is started with SIGINT ignored cannot trap it: only the other signal is tried on one.
        let script = "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let mut running = shell(script).spawn();
        running.poll_until_printed("up");
        running.terminate();
        assert_eq!(running.wait().expect_code(0).stdout, "up\ndrained\n");
    }

    #[test]
    fn a_program_sees_the_environment_that_it_is_given() {
        let finished = shell("echo \"$GIVEN\"").environment("GIVEN", "words").run().expect_code(0);
        assert_eq!(finished.stdout, "words\n");
    }

    #[test]
    #[should_panic(expected = "before it printed")]
    fn waiting_for_words_of_a_program_that_has_ended_fails() {
        shell("echo other words").spawn().poll_until_printed("these words");
    }
}
