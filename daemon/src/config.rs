//! What an operator may say: one table of keys, a TOML file, flags over it, and typed settings out of it.
//!
//! ```text
//!   file (TOML)  --flatten--> raw values by scope --+
//!   flags        ---------------------------------> + --key table: parse, bounds--> Settings
//! ```
//! Configuration is parsed, not sanitised: an unknown key or a value out of its bound refuses to start
//! with a sentence that names key, value, bound and reason, and so does every other of the same file. Values of keys that may hold secrets are
//! never printed, not even when they are refused.

mod admin;
mod admin_keys;
mod error;
mod explain;
mod file;
mod findings;
mod foreign_keys;
mod key;
mod kind;
mod link_set;
mod security;
mod security_keys;
mod settings;
mod topic_filter;
mod topic_pattern;
mod value;

pub use admin::AdminFault;
pub use error::{ConfigError, LinkNameFault};
pub use explain::{explain, markdown_table};
pub use file::RawConfig;
pub use findings::{FINDINGS_MAX, Findings};
pub use key::{KEYS, Key, Kind, MEMORY_BYTES_MIN, Scope, key, key_in};
pub use link_set::{
    Configuration, KeptLink, KeptLinks, LINK_MEMORY_BYTES_MIN, LINKS_MAX, LinkConfigError, LinkValue,
    SECRET_SHOWN, ValueSource, check_link_value, link_key,
};
pub use settings::{
    DaemonSettings, GroupSettings, GuestSettings, LinkSettings, MetricsSettings, Settings, SourceSettings,
};
pub(crate) use settings::{check_link_name, journal_directory};
pub use topic_filter::{FilterError, TopicFilters};
pub use topic_pattern::{PatternError, TopicPattern};
pub use value::{HostPort, RawValue, Value, ValueError, parse_bytes};

/// The link of a command line that names none.
pub const DEFAULT_LINK: &str = "default";
