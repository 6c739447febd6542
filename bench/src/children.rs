//! Roles in processes of their own: how they are named, started, asked and ended.
//!
//! Invariant: no child outlives its value. Must never pin the bench itself: a child inherits that and could not
//! take its own core any more.

use crate::error::BenchError;
use crate::{floor, guest, mirror, source};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use twinlog_io::allowed_cores;

/// Which core does what.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Source, control thread, kernel workers.
    pub control: usize,
    /// Receives, verifies, writes.
    pub data: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub fn choose() -> Result<Cores, BenchError> {
        let allowed = allowed_cores().map_err(BenchError::Cores)?;
        match allowed[..] {
            [control, data, ..] => Ok(Cores { control, data }),
            _ => Err(BenchError::TooFewCores { allowed }),
        }
    }
}

/// What this program can be started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Source,
    Mirror,
    Floor,
    Peers,
}

impl Role {
    const ALL: [Role; 4] = [Role::Source, Role::Mirror, Role::Floor, Role::Peers];

    pub fn name(self) -> &'static str {
        match self {
            Role::Source => "role-source",
            Role::Mirror => "role-mirror",
            Role::Floor => "role-floor",
            Role::Peers => "role-peers",
        }
    }

    pub fn named(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == word)
    }
}

/// Is that role until its work is done.
pub fn play(role: Role, words: &[String]) -> ExitCode {
    let outcome = match role {
        Role::Source => source::play(words).map(|()| ExitCode::SUCCESS),
        Role::Mirror => mirror::play(words),
        Role::Floor => floor::play(words).map(|()| ExitCode::SUCCESS),
        Role::Peers => guest::peers::play(words).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{}: {error}", role.name());
        ExitCode::FAILURE
    })
}

fn command(role: Role, words: &[String]) -> Result<Command, BenchError> {
    let failed = |error| BenchError::Role { role: role.name(), error };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg(role.name()).args(words);
    Ok(command)
}

/// Plays a role to its end and hands back what it printed. `started` is told the process.
pub fn run(
    role: Role,
    words: &[String],
    started: impl FnOnce(u32) -> Result<(), BenchError>,
) -> Result<String, BenchError> {
    let failed = |error| BenchError::Role { role: role.name(), error };
    let mut command = command(role, words)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(failed)?;
    let told = started(child.id());
    // Waited for also after an error: it ends by itself, and nothing is left behind.
    let output = child.wait_with_output().map_err(failed)?;
    told?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BenchError::RoleFailed { role: role.name(), status: output.status, words });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A role that goes on beside the bench. Dropping it kills it.
pub struct Beside {
    role: Role,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Beside {
    pub fn start(role: Role, words: &[String]) -> Result<Beside, BenchError> {
        let failed = |error| BenchError::Role { role: role.name(), error };
        let mut command = command(role, words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let questions = child.stdin.take().expect("its input is a pipe");
        let answers = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Ok(Beside { role, child, questions, answers })
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub fn answer(&mut self) -> Result<String, BenchError> {
        let failed = |error| BenchError::Role { role: self.role.name(), error };
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(failed)?;
        if line.is_empty() {
            return Err(BenchError::Answer {
                role: self.role.name(),
                answer: "nothing: it has ended".into(),
            });
        }
        Ok(line.trim_end().to_owned())
    }

    /// Says a line and waits for one.
    pub fn ask(&mut self, question: &str) -> Result<String, BenchError> {
        writeln!(self.questions, "{question}")
            .map_err(|error| BenchError::Role { role: self.role.name(), error })?;
        self.answer()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of a line, at least `count`; other words are passed over.
pub fn numbers(role: Role, line: &str, count: usize) -> Result<Vec<f64>, BenchError> {
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if numbers.len() < count {
        return Err(BenchError::Answer { role: role.name(), answer: line.to_owned() });
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_found_by_its_name_and_nothing_else_is_a_role() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
        }
        assert_eq!(Role::named("--quick"), None);
    }

    #[test]
    fn an_answer_with_too_few_numbers_is_refused() {
        assert_eq!(numbers(Role::Floor, "floor 1.5 2", 2).unwrap(), [1.5, 2.0]);
        assert!(numbers(Role::Floor, "floor 1.5", 2).is_err());
    }
}
