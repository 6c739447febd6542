//! A daemon that crashes leaves nothing of its memory behind, unless it was told that it may.

use crate::PROGRAM;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use twinlog_tests::cli::{Program, Running};

/// Of the kernel's names for what is special about a mapping: it stays out of core files.
const NOT_DUMPED: &str = " dd";

fn start(directory: &tempfile::TempDir, more: &str) -> Running {
    let file = directory.path().join("twinlog.toml");
    let text = format!(
        "data.dir = {:?}\nmemory.bytes = \"64MiB\"\n{more}\n[link.l]\ntopics = [\"t\"]\n[link.l.source]\n\
         bootstrap.servers = \"127.0.0.1:1\"\n",
        directory.path().join("data").display().to_string()
    );
    fs::write(&file, text).expect("written");
    let mut running = Program::new(PROGRAM).arguments(["run", "--config"]).argument(&file).spawn();
    running.poll_until_printed("data shards on cores");
    running
}

fn core_limits(running: &Running) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.process_id())).expect("it runs");
    let line =
        limits.lines().find(|line| line.starts_with("Max core file size")).expect("the kernel lists it");
    line.split_whitespace().skip(4).take(2).map(str::to_owned).collect()
}

#[test]
fn a_daemon_leaves_no_core_file_and_its_buffers_are_in_none_either_way() {
    let directory = tempfile::tempdir().expect("a directory");
    for (more, is_forbidden) in [("", true), ("core.dumps = \"allow\"", false)] {
        let running = start(&directory, more);
        let process = running.process_id();
        if is_forbidden {
            assert_eq!(core_limits(&running), ["0", "0"]);
        }
        // What a process may not be dumped for is root's, whoever runs it; a privileged test sees no difference.
        let owner = fs::metadata(format!("/proc/{process}/environ")).expect("it runs").uid();
        let ours = fs::metadata("/proc/self/status").expect("this process").uid();
        assert!(ours == 0 || (owner == 0) == is_forbidden, "{owner} owns what {ours} runs");
        let maps = fs::read_to_string(format!("/proc/{process}/smaps"));
        if let Ok(maps) = maps {
            let flags = maps.lines().filter(|line| line.starts_with("VmFlags:"));
            assert!(flags.clone().any(|flags| flags.contains(NOT_DUMPED)), "the arena is left out: {maps}");
        }
        running.terminate();
        running.wait().expect_code(0);
    }
}

#[test]
fn a_check_says_whether_a_core_file_may_be_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("twinlog.toml");
    for (value, line) in
        [("forbid", "ok    core dumps     forbidden"), ("allow", "warn  core dumps     core.dumps")]
    {
        fs::write(&file, format!("core.dumps = {value:?}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
        let told = Program::new(PROGRAM).arguments(["check", "--config"]).argument(&file).run().stdout;
        assert!(told.contains(line), "{told}");
    }
}
