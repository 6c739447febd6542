//! Which topics are meant by one entry of `topics`.
//!
//! A legal topic name is literal, so that `orders.eu` never matches `ordersXeu`; anything else is a
//! regular expression over the whole name. The engine has no backtracking, so no pattern can hang us.

use regex::{Regex, RegexBuilder};
use std::fmt;
use twinlog_log_segment::files::check_topic_name;

/// Compiled size of one pattern; a pattern beyond it costs more memory than all metadata.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// One entry of `topics`.
#[derive(Clone, Debug)]
pub enum TopicPattern {
    Literal(String),
    Regex(Regex),
}

/// Why a text is neither a topic name nor a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    Empty,
    /// The engine's own words.
    Syntax {
        pattern: String,
        why: String,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a topic name or pattern is empty"),
            Self::Syntax { pattern, why } => {
                let why = why.lines().last().unwrap_or(why).trim();
                write!(f, "{pattern:?} is neither a topic name nor a regular expression: {why}")
            }
        }
    }
}

impl TopicPattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if check_topic_name(text).is_ok() {
            return Ok(Self::Literal(text.to_owned()));
        }
        // Compiled by itself first: an unbalanced `)` must not close the anchoring group.
        let compiled = Regex::new(text)
            .and_then(|_| RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_BYTES_MAX).build());
        let wrong =
            |error: regex::Error| PatternError::Syntax { pattern: text.to_owned(), why: error.to_string() };
        compiled.map(Self::Regex).map_err(wrong)
    }

    /// Whether the pattern means this topic. Internal topics are meant only when named.
    pub fn matches(&self, topic: &str, is_internal: bool) -> bool {
        match self {
            Self::Literal(name) => name == topic,
            Self::Regex(regex) => !is_internal && regex.is_match(topic),
        }
    }

    /// What every topic that is meant begins with, as far as the first character that may vary.
    pub fn prefix(&self) -> String {
        let regex = match self {
            Self::Literal(name) => return name.clone(),
            Self::Regex(regex) => regex.as_str().trim_start_matches("^(?:").trim_end_matches(")$"),
        };
        // An alternative may begin otherwise.
        if regex.contains('|') {
            return String::new();
        }
        let mut prefix = String::new();
        let mut letters = regex.chars().peekable();
        while let Some(letter) = letters.next() {
            let literal = match (letter, letters.peek().copied()) {
                ('\\', Some(escaped @ ('.' | '-'))) => {
                    letters.next();
                    escaped
                }
                (letter, _) if letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-') => letter,
                _ => break,
            };
            // What is repeated may be absent.
            if matches!(letters.peek(), Some('*' | '?' | '{')) {
                break;
            }
            prefix.push(literal);
        }
        prefix
    }

    pub fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(name) => Some(name),
            Self::Regex(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legal_name_is_literal_and_anything_else_is_anchored() {
        let literal = TopicPattern::parse("orders.eu").unwrap();
        assert!(literal.matches("orders.eu", false) && !literal.matches("ordersXeu", false));
        let regex = TopicPattern::parse("orders.*|bills").unwrap();
        assert!(regex.matches("orders.eu", false) && regex.matches("bills", false));
        assert!(!regex.matches("all-orders.eu", false) && !regex.matches("bills2", false));
    }

    #[test]
    fn a_pattern_begins_as_all_that_it_means_does() {
        let patterns = [
            (r"orders\.eu.*", "orders.eu"),
            ("orders.*", "orders"),
            ("orders?", "order"),
            ("orders+", "orders"),
            ("a{0}b", ""),
            ("a*", ""),
            (".*", ""),
            ("orders.*|bills", ""),
            ("(orders|bills).x+", ""),
            ("x(y|z)", ""),
            (r"orders\d+", "orders"),
            ("(?i)orders.*", ""),
        ];
        for (pattern, prefix) in patterns {
            assert_eq!(TopicPattern::parse(pattern).unwrap().prefix(), prefix, "{pattern}");
        }
        assert_eq!(TopicPattern::parse("orders.eu").unwrap().prefix(), "orders.eu");
    }

    #[test]
    fn internal_topics_must_be_named() {
        assert!(!TopicPattern::parse(".*").unwrap().matches("__consumer_offsets", true));
        assert!(TopicPattern::parse("__consumer_offsets").unwrap().matches("__consumer_offsets", true));
    }

    #[test]
    fn a_broken_pattern_is_refused_with_the_reason() {
        assert_eq!(TopicPattern::parse("").unwrap_err(), PatternError::Empty);
        for bad in ["orders(", "a)|(?:b", "*", "(?:(?:a{1000}){1000}){1000}"] {
            assert!(matches!(TopicPattern::parse(bad), Err(PatternError::Syntax { .. })), "{bad}");
        }
    }
}
