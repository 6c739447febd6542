//! A text that nobody may see: how it is held, where it is read from, how it is said to be there.
//!
//! Owns the one type that holds passwords, private keys and tokens. It must never print one: `Debug` and
//! `Display` write stars, and the memory is overwritten when it is dropped.
//!
//! ```text
//!   hunter2                          the secret itself: the file that holds it must be its owner's alone
//!   ${env:NAME}                      a variable of the environment
//!   ${directory:/run/secrets:name}   the whole of one file
//!   ${file:/etc/kafka.properties:key} one line of a properties file
//!   ${credential:name}               one file of systemd's LoadCredential=
//! ```
//! The first three are Kafka's own notation of configuration providers (ref: KIP-297, KIP-421, KIP-887).

use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A longer file is no secret but a slip; it would be held in memory whole.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where systemd says that a unit's credentials lie.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// See the file's header. Equality is for comparing configurations, never for judging a peer's password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: for a wire or a cipher, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the text itself is given somewhere else: then whoever reads the configuration sees nothing.
    pub fn is_reference(&self) -> bool {
        self.0.contains("${")
    }

    /// The text with every reference replaced by what it points to now.
    pub fn resolve(&self) -> Result<Self, ReferenceError> {
        let mut resolved = Zeroizing::new(String::with_capacity(self.0.len()));
        let mut rest = self.0.as_str();
        while let Some((before, behind)) = rest.split_once("${") {
            let (reference, after) = behind.split_once('}').ok_or(ReferenceError::Unclosed)?;
            resolved.push_str(before);
            resolved.push_str(look_up(reference)?.expose());
            rest = after;
        }
        resolved.push_str(rest);
        Ok(Self(resolved))
    }

    /// Files that the references read.
    pub fn files(&self) -> Vec<PathBuf> {
        let references = self.0.split("${").skip(1).filter_map(|part| part.split_once('}'));
        references.filter_map(|(reference, _)| file_of(reference)).collect()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "(none)" } else { "***" })
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a reference leads nowhere. What stands at its end is never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceError {
    /// `${` without its `}`.
    Unclosed,
    /// Not one of the notations. Only the part before the first colon is kept: the rest may be a secret.
    Unknown {
        provider: String,
    },
    NoVariable {
        name: String,
    },
    /// `${credential:...}` outside of a unit that has any.
    NoCredentials,
    File {
        path: PathBuf,
        error: std::io::ErrorKind,
    },
    NoSuchKey {
        path: PathBuf,
        key: String,
    },
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => write!(f, "a reference begins with ${{ and does not end with }}"),
            Self::Unknown { provider } => write!(
                f,
                "the reference ${{{provider}:...}} is not known; there are ${{env:NAME}}, \
                 ${{directory:DIR:FILE}}, ${{file:PATH:KEY}} and ${{credential:NAME}}"
            ),
            Self::NoVariable { name } => write!(f, "the environment has no variable {name}"),
            Self::NoCredentials => {
                write!(f, "there is no ${CREDENTIALS_DIRECTORY}; add LoadCredential= to the unit")
            }
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::NoSuchKey { path, key } => write!(f, "{} has no line {key}=...", path.display()),
        }
    }
}

impl std::error::Error for ReferenceError {}

/// The file that a reference reads, where it reads one.
fn file_of(reference: &str) -> Option<PathBuf> {
    let (provider, rest) = reference.split_once(':')?;
    match provider {
        "directory" => rest.rsplit_once(':').map(|(directory, file)| Path::new(directory).join(file)),
        "file" => rest.rsplit_once(':').map(|(path, _)| PathBuf::from(path)),
        "credential" => {
            std::env::var_os(CREDENTIALS_DIRECTORY).map(|directory| Path::new(&directory).join(rest))
        }
        _ => None,
    }
}

fn look_up(reference: &str) -> Result<Secret, ReferenceError> {
    let unknown = || {
        let provider = reference.split(':').next().expect("a first part");
        ReferenceError::Unknown { provider: provider.chars().take(16).collect() }
    };
    let (provider, rest) = reference.split_once(':').ok_or_else(unknown)?;
    match provider {
        "env" => std::env::var(rest)
            .map(Secret::new)
            .map_err(|_| ReferenceError::NoVariable { name: rest.to_owned() }),
        "credential" if std::env::var_os(CREDENTIALS_DIRECTORY).is_none() => {
            Err(ReferenceError::NoCredentials)
        }
        "directory" | "credential" => {
            let text = read(&file_of(reference).ok_or_else(unknown)?)?;
            // Editors and `echo` end a file with a line feed that nobody means.
            Ok(Secret::from(text.trim_end_matches(['\r', '\n'])))
        }
        "file" => {
            let path = file_of(reference).ok_or_else(unknown)?;
            let key = rest.rsplit_once(':').ok_or_else(unknown)?.1;
            let text = read(&path)?;
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(name, _)| name.trim() == key);
            found
                .map(|(_, value)| Secret::from(value.trim()))
                .ok_or_else(|| ReferenceError::NoSuchKey { path, key: key.to_owned() })
        }
        _ => Err(unknown()),
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, ReferenceError> {
    let failed = |error| ReferenceError::File { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(|error| failed(error.kind()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| failed(error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_stars_however_it_is_printed() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)), "*** *** Some(\n    ***,\n)");
        assert_eq!(format!("{:?}", Secret::default()), "(none)");
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        std::fs::write(directory.path().join("password"), "hunter2\n").unwrap();
        std::fs::write(directory.path().join("kafka.properties"), "# old\nuser = u\npass=a=b \n").unwrap();
        let secret = Secret::new(format!(
            "user=${{file:{path}/kafka.properties:user}} a=${{directory:{path}:password}} \
             b=${{file:{path}/kafka.properties:pass}};"
        ));
        assert!(secret.is_reference());
        assert_eq!(secret.resolve().unwrap().expose(), "user=u a=hunter2 b=a=b;");
        let mut files = secret.files();
        files.dedup();
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn a_reference_that_leads_nowhere_says_where_it_led() {
        let refuse = |text: &str| Secret::from(text).resolve().unwrap_err().to_string();
        assert!(refuse("${env:TWINLOG_NO_SUCH_VARIABLE}").contains("TWINLOG_NO_SUCH_VARIABLE"));
        assert!(refuse("${directory:/nowhere:password}").contains("/nowhere/password"));
        assert!(refuse("${vault:hunter2}").contains("${vault:...}"));
        assert!(!refuse("${vault:hunter2}").contains("hunter2"));
        assert!(refuse("x${env:A").contains("does not end"));
    }
}
