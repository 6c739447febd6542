//! The house rules, checked over everything that git tracks or would track.
//!
//! Owns the list of rules and the shape of a finding: file, line, rule, and what is wrong. A rule has
//! no exceptions; where one seems needed, the rule or the file is wrong. Each rule has a test beside it
//! that shows it can fail, with the forbidden thing put together at run time, so that the rules do not
//! find themselves.
//!
//! ```text
//!   tree        which files there are, where they may be, what they may be called
//!   rust        what a Rust file looks like: header, sizes, unsafe, sleeping, ignoring
//!   manifests   who may depend on whom, and why on anything
//!   text        words that belong in no file
//! ```

pub mod manifests;
pub mod rust;
pub mod text;
pub mod tree;

use std::fmt;
use std::path::Path;

/// One text file of the tree, by its path from the root.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The last part of the path without its extension.
    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().expect("a path has a last part");
        name.split('.').next().expect("a name has a first part")
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it lies in the folder of a package.
    pub fn is_in(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    fn finding(&self, line: usize, rule: &'static str, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule, what: what.into() }
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub rule: &'static str,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

/// Every broken rule of the tree at `root`, in the order of its files.
pub fn check(root: &Path) -> Vec<Finding> {
    let files = tree::files(root);
    let mut findings = tree::check(&files);
    for file in &files {
        findings.extend(text::check(file));
        if file.is_rust() {
            findings.extend(rust::check(file));
        }
        if file.path.ends_with("Cargo.toml") {
            findings.extend(manifests::check(file));
        }
    }
    findings.sort_by(|one, other| (&one.path, one.line).cmp(&(&other.path, other.line)));
    findings
}
