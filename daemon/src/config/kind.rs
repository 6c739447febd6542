//! Kinds of values that keys have, and how their bounds are told.

use std::fmt;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Path,
    /// `auto`, or a list such as `1,3-5`.
    Cores,
    /// `auto`, or one number.
    Core,
    /// A number of bytes, with or without a unit.
    Bytes {
        min: u64,
        max: u64,
    },
    Milliseconds {
        min: u64,
        max: u64,
    },
    Number {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
    /// `HOST:PORT`, one or more.
    Servers,
    /// One `HOST:PORT`.
    Server,
    /// Broker ids such as `900-904`.
    BrokerIds,
    /// Topic names and anchored regular expressions.
    Topics,
    /// Names of topic configurations, separated by commas; may be empty.
    TopicConfigs,
    /// Filters as Cluster Linking has them: name, patternType, filterType.
    TopicFilters,
    Text {
        bytes_max: usize,
    },
    /// A file; may be empty.
    File,
    /// A text that nobody may see, or where to read it.
    Secret {
        bytes_max: usize,
    },
    /// Versions of TLS.
    TlsVersions,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => write!(f, "a directory"),
            Self::Cores => write!(f, "auto, or cores such as 1,3-5"),
            Self::Core => write!(f, "auto, or one core"),
            Self::Bytes { min, max } => {
                write!(f, "{} to {}", Bytes(*min), Bytes(*max))
            }
            Self::Milliseconds { min, max } => write!(f, "{min} to {max} ms"),
            Self::Number { min, max } => write!(f, "{min} to {max}"),
            Self::Choice(choices) => {
                let choices = choices.iter().map(|choice| if choice.is_empty() { "\"\"" } else { choice });
                write!(f, "{}", choices.collect::<Vec<_>>().join(" | "))
            }
            Self::Servers => write!(f, "HOST:PORT, one or more"),
            Self::Server => write!(f, "one HOST:PORT"),
            Self::BrokerIds => write!(f, "broker ids such as 900-904, two or more"),
            Self::Topics => write!(f, "topic names or regular expressions"),
            Self::TopicConfigs => write!(f, "names of topic configurations"),
            Self::TopicFilters => write!(f, "filters with name, patternType and filterType"),
            Self::Text { bytes_max } => write!(f, "text of at most {bytes_max} bytes"),
            Self::File => write!(f, "a file"),
            Self::Secret { .. } => write!(f, "a secret, or a reference to one"),
            Self::TlsVersions => write!(f, "TLSv1.2, TLSv1.3 or both"),
        }
    }
}

/// A number of bytes as people write it.
pub(super) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = units.iter().find(|(shift, _)| self.0 >= 1 << shift && self.0.trailing_zeros() >= *shift);
        match whole {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}
