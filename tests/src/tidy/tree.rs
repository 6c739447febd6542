//! Which files there are, where they may be and what they may be called.
//!
//! Owns the list of what is visible at the root. It asks git, so that build output is not looked at and
//! a new file is looked at before it is added.

use super::{Finding, SourceFile};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// All that a visitor sees first; tools keep their files behind a dot.
const ROOT: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "daemon",
    "io",
    "log-segment",
    "sync",
    "systemd",
    "tests",
];

/// Names that say nothing of what a file owns.
const EMPTY_NAMES: &[&str] = &["utils", "common", "helpers", "impls", "types"];

/// Every text file that git tracks, or would track if it were added.
pub fn files(root: &Path) -> Vec<SourceFile> {
    let mut git = Command::new("git");
    // A container often runs as another user than the one who cloned.
    git.args(["-c", "safe.directory=*", "-C"]).arg(root);
    let output = git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output();
    let output = output.expect("the house rules need git: install it with the system's package manager");
    assert!(
        output.status.success(),
        "git cannot list the files of {}: {}",
        root.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8(output.stdout).expect("paths of this repository are UTF-8");
    let paths: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    let read = |path: &str| match std::fs::read(root.join(path)) {
        // Binary files have no lines to look at.
        Ok(bytes) => String::from_utf8(bytes).ok().map(|text| SourceFile { path: path.to_owned(), text }),
        // Deleted and not yet committed.
        Err(_) => None,
    };
    paths.into_iter().filter_map(read).collect()
}

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = root_is_what_the_map_says(files);
    findings.extend(files.iter().filter_map(name_says_what_it_owns));
    findings
}

fn root_is_what_the_map_says(files: &[SourceFile]) -> Vec<Finding> {
    let top = |file: &SourceFile| file.path.split('/').next().expect("a first part").to_owned();
    let found: BTreeSet<String> = files.iter().map(top).filter(|name| !name.starts_with('.')).collect();
    let rule = "the root is what the map says";
    let finding =
        |path: &str, what: &str| Finding { path: path.to_owned(), line: 1, rule, what: what.to_owned() };
    let strangers = found.iter().filter(|name| !ROOT.contains(&name.as_str()));
    let missing = ROOT.iter().filter(|name| !found.contains(**name));
    strangers
        .map(|name| finding(name, "does not belong here: move it into a package or behind a dot"))
        .chain(missing.map(|name| finding(name, "is missing")))
        .collect()
}

fn name_says_what_it_owns(file: &SourceFile) -> Option<Finding> {
    let folders = file.path.split('/').rev().skip(1);
    let empty = |name: &str| EMPTY_NAMES.contains(&name.to_ascii_lowercase().as_str());
    let bad = empty(file.stem()) || folders.into_iter().any(empty);
    bad.then(|| file.finding(1, "names say what a file owns", "name it after its one purpose"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Vec<SourceFile> {
        paths.iter().map(|path| SourceFile::new(path, "")).collect()
    }

    #[test]
    fn a_stranger_and_a_gap_at_the_root_are_found() {
        let mut whole: Vec<&str> =
            ROOT.iter().map(|name| if name.contains('.') { *name } else { name }).collect();
        whole.push(".ci/run");
        assert!(root_is_what_the_map_says(&tree(&whole)).is_empty());
        whole.push("scripts/run.sh");
        assert_eq!(root_is_what_the_map_says(&tree(&whole))[0].path, "scripts");
        let without: Vec<&str> =
            whole.into_iter().filter(|name| *name != "LICENSE" && !name.starts_with('s')).collect();
        let missing: Vec<String> =
            root_is_what_the_map_says(&tree(&without)).into_iter().map(|f| f.path).collect();
        assert_eq!(missing, ["LICENSE", "sync", "systemd"]);
    }

    #[test]
    fn a_name_without_meaning_is_found_as_file_and_as_folder() {
        for path in ["io/src/utils.rs", "io/src/Helpers/ring.rs", "daemon/src/types/mod.rs"] {
            assert!(name_says_what_it_owns(&SourceFile::new(path, "")).is_some(), "{path}");
        }
        assert!(name_says_what_it_owns(&SourceFile::new("io/src/ring.rs", "")).is_none());
    }
}
