//! What somebody may do, and how certificates come to it.
//!
//! A viewer asks, an operator also changes. There is nothing between the two and nothing above.

use crate::security::normal_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// See the file's header. Later ones may do what earlier ones may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Operator,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator].into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why `admin.ssl.principals` is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalFault {
    /// An entry without a role that there is, or without a name.
    Entry {
        entry: String,
    },
    Twice {
        name: String,
    },
}

impl fmt::Display for PrincipalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { entry } => write!(
                f,
                "{entry:?} is not ROLE=NAME; write viewer=CN=... or operator=CN=..., separated by semicolons"
            ),
            Self::Twice { name } => write!(f, "{name} is named twice; leave one of the two"),
        }
    }
}

/// Distinguished names of certificates, as `guest.followers.principals` writes them, each with its role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principals(BTreeMap<String, Role>);

impl Principals {
    /// Reads `viewer=CN=a,O=b;operator=CN=c`; `User:` before a name is taken too.
    pub fn parse(text: &str) -> Result<Self, PrincipalFault> {
        let mut all = BTreeMap::new();
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || PrincipalFault::Entry { entry: entry.to_owned() };
            let (role, name) = entry.split_once('=').ok_or_else(wrong)?;
            let role = Role::named(role.trim()).ok_or_else(wrong)?;
            let name = name.trim();
            let name = normal_name(name.strip_prefix("User:").unwrap_or(name));
            // An attribute at least: a bare word would be the name of nobody.
            if !name.contains('=') {
                return Err(wrong());
            }
            if all.insert(name.clone(), role).is_some() {
                return Err(PrincipalFault::Twice { name });
            }
        }
        Ok(Self(all))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The role of a certificate's subject.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.0.get(&normal_name(name)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_roles_however_they_are_spaced() {
        let all = Principals::parse("viewer=CN=a, O=b; operator=User:CN=ops;").unwrap();
        assert_eq!((all.role("CN=a,O=b"), all.role("CN=ops")), (Some(Role::Viewer), Some(Role::Operator)));
        assert_eq!((all.role("CN=a"), all.role("CN=OPS"), all.role("")), (None, None, None));
        assert!(Principals::parse(" ").unwrap().is_empty());
        assert!(Role::Viewer < Role::Operator);
    }

    #[test]
    fn an_entry_that_is_not_understood_is_refused() {
        for bad in ["CN=ops", "admin=CN=ops", "viewer", "operator=ops", "operator="] {
            let why = Principals::parse(bad).unwrap_err();
            assert!(why.to_string().contains("operator=CN="), "{why}");
        }
        let twice = Principals::parse("viewer=CN=a;operator=CN=a").unwrap_err();
        assert_eq!(twice, PrincipalFault::Twice { name: "CN=a".into() });
    }
}
