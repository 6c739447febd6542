//! What a reader has to know of the machine and the programs to judge a figure.
//!
//! What cannot be found out is said to be unknown; nothing here ends a run.

use crate::guest::machine_load;
use std::fs;
use std::path::Path;
use std::process::Command;
use twinlog_tests::kafka::artifacts;

/// Facts as pairs of name and value, in the order in which they are printed.
pub fn facts() -> Vec<(&'static str, String)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = twinlog_io::allowed_cores().map(|cores| cores.len()).unwrap_or(0);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("unknown");
    let mut commit = said(Command::new("git").arg("-C").arg(here).args(["rev-parse", "HEAD"]));
    let mut changes = Command::new("git");
    changes.arg("-C").arg(here).args(["status", "--porcelain", "--", ".", ":!report", "../daemon", "../io"]);
    if said(&mut changes) != UNKNOWN {
        commit.push_str(" with changes that were not committed");
    }
    vec![
        ("commit", commit),
        ("processor", format!("{}, {cores} cores", cpu.trim_start_matches([' ', '\t', ':']))),
        ("memory", memory.trim().to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("Rust", said(Command::new("rustc").arg("--version"))),
        ("Go", said(Command::new("go").arg("version"))),
        ("Java", artifacts::kafka().java_version()),
        ("Kafka and MirrorMaker", artifacts::KAFKA_VERSION.to_owned()),
        ("franz-go", required(&read_at(here, "peers/franz-go/go.mod"), "franz-go v")),
        ("load at the beginning", machine_load()),
    ]
}

const UNKNOWN: &str = "unknown";

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn read_at(directory: &Path, path: &str) -> String {
    fs::read_to_string(directory.join(path)).unwrap_or_default()
}

/// The first line of what a program says; [`UNKNOWN`] where it says nothing or is not there.
fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| UNKNOWN.to_owned(), str::to_owned)
}

/// The version behind a name in a list of modules.
fn required(list: &str, name: &str) -> String {
    let found = list.lines().find_map(|line| line.split_once(name)).map(|(_, version)| version);
    found.and_then(|version| version.split_whitespace().next()).unwrap_or(UNKNOWN).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_name_and_silence_is_unknown() {
        let list = "module a\n\nrequire (\n\tgithub.com/twmb/franz-go v1.2.3\n\tb/c v4\n)\n";
        assert_eq!(required(list, "franz-go v"), "1.2.3");
        assert_eq!(required(list, "kmsg v"), UNKNOWN);
        assert_eq!(said(Command::new("sh").args(["-c", "exit 1"])), UNKNOWN);
        assert_eq!(said(Command::new("sh").args(["-c", "echo a; echo b"])), "a");
    }
}
