//! One fact that a check tells: how good it is, what it is about, and the cure where one is needed.
//!
//! Owns the form only; the names of its fields are a contract with scripts.

use serde::Serialize;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    level: Level,
    subject: &'static str,
    text: String,
}

impl Line {
    pub(super) fn new(level: Level, subject: &'static str, text: impl Into<String>) -> Self {
        Self { level, subject, text: text.into() }
    }

    pub fn is_failure(&self) -> bool {
        self.level == Level::Fail
    }

    #[cfg(test)]
    pub fn subject(&self) -> &'static str {
        self.subject
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:4}  {:14} {}", self.subject, self.text)
    }
}
