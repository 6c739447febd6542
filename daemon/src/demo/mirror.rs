//! The mirror of the demo: `twinlog run` and `twinlog verify` as children of this very program.
//!
//! The demo runs what an operator runs, through the same command line. Invariant: a child never outlives its
//! value; dropping one kills it. Its words go to `mirror.log` in the demo's directory.

use super::DemoError;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a drain may take before it counts as hanging.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// What all children share.
pub struct Commands {
    program: PathBuf,
    data_directory: PathBuf,
    pub log: PathBuf,
}

impl Commands {
    pub fn new(directory: &Path, data_directory: PathBuf) -> Result<Commands, DemoError> {
        let program = std::env::current_exe().map_err(DemoError::OwnProgram)?;
        Ok(Commands { program, data_directory, log: directory.join("mirror.log") })
    }

    fn command(&self, verb: &'static str) -> Result<Command, DemoError> {
        let failed = |error| DemoError::File { path: self.log.clone(), error };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--data-dir").arg(&self.data_directory).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        // A group of its own: Ctrl-C reaches the demo alone, which then stops its mirror in order.
        command.process_group(0);
        Ok(command)
    }

    /// Starts mirroring everything that the source has.
    pub fn start(&self, source: &str, link: &str) -> Result<Mirror, DemoError> {
        let mut command = self.command("run")?;
        command.args(["--source", source, "--topic", ".*", "--link", link]);
        let child = command.spawn().map_err(DemoError::Start)?;
        Ok(Mirror { child, log: self.log.clone() })
    }

    /// Runs `twinlog verify` to its end.
    pub fn verify(&self) -> Result<ExitStatus, DemoError> {
        self.command("verify")?.status().map_err(DemoError::Start)
    }
}

/// A running mirror.
pub struct Mirror {
    child: Child,
    log: PathBuf,
}

impl Mirror {
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait().map_err(DemoError::Start)? {
            None => Ok(()),
            Some(status) => Err(DemoError::MirrorEnded { status, log: self.log.clone() }),
        }
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub fn kill(mut self) -> Result<(), DemoError> {
        self.child.kill().map_err(DemoError::Start)?;
        self.child.wait().map_err(DemoError::Start)?;
        Ok(())
    }

    /// SIGTERM, and waits until it has drained.
    pub fn stop(mut self) -> Result<(), DemoError> {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)
            .map_err(|error| DemoError::Start(error.into()))?;
        let begun = Instant::now();
        while begun.elapsed() < DRAIN_MAX {
            match self.child.try_wait().map_err(DemoError::Start)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(DemoError::MirrorEnded { status, log: self.log.clone() }),
                None => thread::sleep(POLL),
            }
        }
        Err(DemoError::Slow { what: "the mirror to drain", limit: DRAIN_MAX, log: self.log.clone() })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
