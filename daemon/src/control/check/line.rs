//! One fact that a check tells: how good it is, what it is about, and the cure where one is needed.
//!
//! Owns the form only; the names of its fields are a contract with scripts. A line that is not `ok` cannot be made
//! without a cure.

use crate::admin::answer::CheckLineView;
use serde::Serialize;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    level: Level,
    subject: &'static str,
    /// The whole sentence.
    text: String,
    /// What to do, by itself; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Line {
    /// All is well.
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, text: text.into(), cure: None }
    }

    /// It works, slower or less protected.
    pub(super) fn warn(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::with_cure(Level::Warn, subject, text.into(), cure.into())
    }

    pub(super) fn fail(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::with_cure(Level::Fail, subject, text.into(), cure.into())
    }

    fn with_cure(level: Level, subject: &'static str, text: String, cure: String) -> Self {
        assert!(!cure.trim().is_empty(), "{subject}: {text}: a line that is not ok needs a cure");
        // Scripts that know no cures have always read them here.
        Self { level, subject, text: format!("{text}; {cure}"), cure: Some(cure) }
    }

    /// As it stands in an answer to operators.
    pub fn view(&self) -> CheckLineView {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        let Self { subject, text, cure, .. } = self;
        CheckLineView {
            level: level.to_owned(),
            subject: (*subject).to_owned(),
            text: text.clone(),
            cure: cure.clone(),
        }
    }

    pub fn is_failure(&self) -> bool {
        self.level == Level::Fail
    }

    #[cfg(test)]
    pub fn is_ok_or_has_a_cure(&self) -> bool {
        self.level == Level::Ok || self.cure.as_ref().is_some_and(|cure| !cure.trim().is_empty())
    }

    #[cfg(test)]
    pub fn subject(&self) -> &'static str {
        self.subject
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_ok_ends_with_its_cure_and_has_it_as_a_field() {
        let line = Line::warn("disk space", "2 MiB are free", "make room");
        assert_eq!(line.to_string(), "warn  disk space     2 MiB are free; make room");
        assert_eq!(serde_json::to_value(&line).unwrap()["cure"], "make room");
        let ok = Line::ok("disk space", "plenty");
        assert_eq!(ok.to_string(), "ok    disk space     plenty");
        assert!(serde_json::to_value(&ok).unwrap().get("cure").is_none());
    }

    #[test]
    #[should_panic(expected = "needs a cure")]
    fn a_line_that_is_not_ok_cannot_be_made_without_a_cure() {
        Line::fail("disk space", "none is free", " ");
    }
}
