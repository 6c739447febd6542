//! Who may depend on whom, and why on anything: the rules of every Cargo.toml.
//!
//! Owns the one drawing that the packages obey:
//!
//! ```text
//!   tests, bench -> anything          daemon -> io, sync, log-segment
//!   io -> nothing of ours             sync -> log-segment -> nothing of ours
//! ```

use super::{Finding, SourceFile};

/// What a package may use of ours; packages that are not named may use anything.
const ALLOWED: &[(&str, &[&str])] = &[
    ("log-segment", &[]),
    ("io", &[]),
    ("sync", &["log-segment"]),
    ("daemon", &["io", "sync", "log-segment"]),
];

const OURS: &str = "twinlog-";

pub fn check(file: &SourceFile) -> Vec<Finding> {
    let dependencies = dependencies(file);
    let mut findings: Vec<Finding> = dependencies.iter().filter_map(|one| points_down(file, one)).collect();
    findings.extend(dependencies.iter().filter_map(|one| has_a_reason(file, one)));
    findings
}

/// One line of a dependency table, or one table of its own.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    has_reason: bool,
    /// An entry of `[workspace.dependencies]` that only names the folder of a member.
    is_member_alias: bool,
}

fn dependencies(file: &SourceFile) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    let mut in_table = false;
    let mut before = "";
    for (index, text) in file.text.lines().map(str::trim).enumerate() {
        if let Some(header) = text.strip_prefix('[') {
            let name = header.split(']').next().expect("a first part");
            // `[dependencies.name]` and `[target.'cfg(...)'.dependencies.name]` are dependencies too.
            let own_table = name.split_once("dependencies.").map(|(_, name)| name);
            in_table = name.ends_with("dependencies");
            if let Some(name) = own_table {
                let has_reason = text.contains('#') || before.starts_with('#');
                found.push(Dependency { line: index + 1, name, has_reason, is_member_alias: false });
            }
        } else if in_table
            && !text.starts_with('#')
            && let Some((name, value)) = text.split_once('=')
        {
            let name = name.trim().split('.').next().expect("a first part");
            let has_reason = value.contains('#') || before.starts_with('#');
            let is_member_alias = name.starts_with(OURS) && value.contains("path");
            found.push(Dependency { line: index + 1, name, has_reason, is_member_alias });
        }
        before = text;
    }
    found
}

fn points_down(file: &SourceFile, dependency: &Dependency<'_>) -> Option<Finding> {
    let folder = file.path.strip_suffix("/Cargo.toml")?;
    let (_, allowed) = ALLOWED.iter().find(|(package, _)| *package == folder)?;
    let ours = dependency.name.trim_matches('"').strip_prefix(OURS)?;
    let what = format!("{folder} must not depend on {ours}");
    (!allowed.contains(&ours)).then(|| file.finding(dependency.line, "dependencies point down", what))
}

fn has_a_reason(file: &SourceFile, dependency: &Dependency<'_>) -> Option<Finding> {
    let what = format!(
        "{} has no comment, on its line or the line before, that says what it is for",
        dependency.name
    );
    let bare = !dependency.has_reason && !dependency.is_member_alias;
    bare.then(|| file.finding(dependency.line, "every dependency has its reason", what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&SourceFile::new(path, text)).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_dependency_against_the_direction_is_found_in_every_kind_of_table() {
        let rule = "dependencies point down";
        assert_eq!(
            rules("io/Cargo.toml", "[dependencies]\ntwinlog-sync.workspace = true # why\n"),
            [(2, rule)]
        );
        let table = "[dev-dependencies.twinlog-daemon] # why\nworkspace = true\n";
        assert_eq!(rules("sync/Cargo.toml", table), [(1, rule)]);
        let target = "[target.'cfg(unix)'.dependencies]\ntwinlog-tests = { workspace = true } # why\n";
        assert_eq!(rules("daemon/Cargo.toml", target), [(2, rule)]);
    }

    #[test]
    fn dependencies_along_the_direction_are_good() {
        assert!(
            rules("sync/Cargo.toml", "[dependencies]\ntwinlog-log-segment.workspace = true # why\n")
                .is_empty()
        );
        assert!(
            rules("tests/Cargo.toml", "[dependencies]\ntwinlog-daemon.workspace = true # why\n").is_empty()
        );
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let text = "[package]\nname = \"x\"\n[dependencies]\n# a checksum\ncrc = \"1\"\nlibc = \"0.2\" # calls\nrand = \"1\"\n";
        assert_eq!(rules("io/Cargo.toml", text), [(7, "every dependency has its reason")]);
    }

    #[test]
    fn the_names_of_members_need_no_reason() {
        assert!(rules("Cargo.toml", "[workspace.dependencies]\ntwinlog-io = { path = \"io\" }\n").is_empty());
        assert_eq!(rules("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n").len(), 1);
    }
}
