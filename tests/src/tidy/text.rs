//! Words that belong in no file of this repository.
//!
//! Owns the list. Its entries are kept in two halves and joined when they are looked for, so that this
//! file passes its own rule.

use super::{Finding, SourceFile};

/// Unfinished work, leftovers of debugging, and words about how a text came to be instead of what it is.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("dbg", "!("),
    ("todo", "!("),
    ("unimplemented", "!("),
    ("helper ", "session"),
    ("sub", "agent"),
    ("AI ", "assistant"),
    ("language ", "model"),
];

/// Paths of one machine and names of hosts: a clone elsewhere has neither.
const BANNED_PLACES: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/tmp/tar", "get-"),
    ("crates", ".io/"),
    ("repo1.", "maven"),
    ("repo.maven", ".apache"),
];

/// Cargo writes the lock file, with the registry's own address in it.
const GENERATED: &str = "Cargo.lock";

pub fn check(file: &SourceFile) -> Vec<Finding> {
    if file.path == GENERATED {
        return Vec::new();
    }
    let mut findings = banned(file, "no unfinished work and no words about it", BANNED_WORDS);
    findings.extend(banned(file, "no place of one machine", BANNED_PLACES));
    findings
}

fn banned(file: &SourceFile, rule: &'static str, halves: &[(&str, &str)]) -> Vec<Finding> {
    let needles: Vec<String> = halves.iter().map(|(one, other)| format!("{one}{other}")).collect();
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let found = needles.iter().filter(|needle| line.contains(needle.as_str()));
        findings.extend(found.map(|needle| file.finding(index + 1, rule, format!("{needle:?}"))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_banned_word_is_found_in_its_line() {
        for (one, other) in BANNED_WORDS.iter().chain(BANNED_PLACES) {
            let file = SourceFile::new("README.md", &format!("a good line\nbefore {one}{other} after\n"));
            let findings = check(&file);
            assert_eq!(findings.len(), 1, "{one}{other}");
            assert_eq!(findings[0].line, 2);
        }
    }

    #[test]
    fn the_lock_file_is_left_to_cargo() {
        let (one, other) = BANNED_PLACES[4];
        assert!(check(&SourceFile::new("Cargo.lock", &format!("{one}{other}"))).is_empty());
    }

    #[test]
    fn good_text_has_no_findings() {
        assert!(check(&SourceFile::new("a.rs", "//! What it owns.\nlet todo = \"deny\";\n")).is_empty());
    }
}
