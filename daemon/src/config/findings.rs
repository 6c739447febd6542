//! Everything that is wrong with a configuration, told in one go.
//!
//! Whoever parses goes on after a mistake and adds it here; a combination is judged only where its values were taken.
//! Must never grow with a file: beyond a bound findings are counted, not kept.

use super::error::ConfigError;
use std::fmt;

/// Findings that are named. Raised, a file of another program fills the screen; the rest is counted.
pub const FINDINGS_MAX: usize = 100;

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    named: Vec<ConfigError>,
    /// Found beyond those.
    unnamed: usize,
}

impl Findings {
    pub fn add(&mut self, error: ConfigError) {
        match error {
            ConfigError::Several(several) => self.append(*several),
            one if self.named.len() < FINDINGS_MAX => self.named.push(one),
            _ => self.unnamed += 1,
        }
    }

    pub fn append(&mut self, other: Self) {
        other.named.into_iter().for_each(|error| self.add(error));
        self.unnamed += other.unnamed;
    }

    /// What one of several links has, each with the link's name.
    pub(super) fn add_of_link(&mut self, link: &str, error: ConfigError) {
        let of_link = |why| ConfigError::OfLink { link: link.to_owned(), why: Box::new(why) };
        match error {
            ConfigError::Several(several) => {
                several.named.into_iter().for_each(|why| self.add(of_link(why)));
                self.unnamed += several.unnamed;
            }
            why => self.add(of_link(why)),
        }
    }

    /// The value, or one finding more.
    pub(super) fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    pub fn len(&self) -> usize {
        self.named.len() + self.unnamed
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.named.iter()
    }

    /// A line for each, and one for those that are only counted.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let rest = (self.unnamed > 0).then(|| format!("{} more are wrong, not named here", self.unnamed));
        self.named.iter().map(ToString::to_string).chain(rest)
    }

    /// Nothing was found.
    pub fn end(self) -> Result<(), ConfigError> {
        if self.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    /// One finding is itself.
    pub(super) fn into_error(mut self) -> ConfigError {
        let last = self.named.pop().expect("something was found");
        if self.named.is_empty() && self.unnamed == 0 {
            return last;
        }
        self.named.push(last);
        ConfigError::Several(Box::new(self))
    }
}

impl From<ConfigError> for Findings {
    fn from(error: ConfigError) -> Self {
        let mut findings = Self::default();
        findings.add(error);
        findings
    }
}

/// In one line, as a log and an answer have it.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} things are wrong:", self.len())?;
        self.lines().enumerate().try_for_each(|(at, line)| write!(f, " ({}) {line}", at + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(key: &str) -> ConfigError {
        ConfigError::UnknownKey { key: key.to_owned(), table: "[link.a]".to_owned(), nearest: None }
    }

    #[test]
    fn one_finding_is_itself_and_several_stand_in_one_line_with_their_numbers() {
        assert_eq!(Findings::default().end(), Ok(()));
        assert_eq!(Findings::from(unknown("one")).end(), Err(unknown("one")));
        let mut findings = Findings::from(unknown("one"));
        findings.add_of_link("west", findings.clone().end().unwrap_err());
        findings.add(unknown("two"));
        let several = findings.end().unwrap_err();
        let text = several.to_string();
        assert!(text.starts_with("3 things are wrong: (1) one in [link.a] is not a key"), "{text}");
        assert!(text.contains("(2) link west: one in") && text.contains("(3) two in"), "{text}");
    }

    #[test]
    fn findings_beyond_the_bound_are_counted_wherever_they_come_from() {
        let mut findings = Findings::default();
        for number in 0..FINDINGS_MAX + 7 {
            findings.add(unknown(&format!("key.{number}")));
        }
        let mut all = Findings::from(unknown("before"));
        all.add_of_link("west", findings.clone().end().unwrap_err());
        all.add(findings.end().unwrap_err());
        assert_eq!((all.len(), all.iter().count()), (2 * (FINDINGS_MAX + 7) + 1, FINDINGS_MAX));
        let last = all.lines().last().unwrap();
        assert_eq!(last, format!("{} more are wrong, not named here", FINDINGS_MAX + 15));
    }
}
