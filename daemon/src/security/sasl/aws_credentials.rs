//! Where the key of an AWS account comes from: the environment, or the shared credentials file.
//!
//! ```text
//!   awsProfileName or sasl.aws.credentials.file given: that profile, or the one below, of the file
//!   otherwise: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY [and AWS_SESSION_TOKEN],
//!              then the profile AWS_PROFILE, or default, of the file
//!   the file:  sasl.aws.credentials.file, AWS_SHARED_CREDENTIALS_FILE, or ~/.aws/credentials
//! ```
//! Nothing is asked of a network: roles that AWS hands out to a machine are written into the file by whoever
//! renews them, and read again when it changes. Must never print a key, nor a line of the file.

use super::aws::AwsKey;
use crate::security::Secret;
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const PROFILE_DEFAULT: &str = "default";
/// A larger file holds no keys; it would be held in memory whole.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no key, or nothing to sign with it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwsFault {
    /// One of the two variables is set without the other.
    HalfEnvironment {
        missing: &'static str,
    },
    /// Nothing in the environment, and no place where the file could be.
    Nowhere,
    /// Nothing in the environment, and the file cannot be read.
    File {
        path: PathBuf,
        error: std::io::ErrorKind,
    },
    NoProfile {
        path: PathBuf,
        profile: String,
    },
    /// The profile says something else than a key: a role, a process, a single sign-on.
    NoKey {
        path: PathBuf,
        profile: String,
        key: &'static str,
    },
    /// `awsRoleArn`.
    Role,
    /// The broker's name does not tell it and nobody else does.
    NoRegion {
        host: String,
    },
}

impl fmt::Display for AwsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HalfEnvironment { missing } => {
                write!(f, "the environment has one half of an AWS key; set {missing} too")
            }
            Self::Nowhere => write!(
                f,
                "there is no AWS key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 sasl.aws.credentials.file"
            ),
            Self::File { path, error } => write!(
                f,
                "there is no AWS key: AWS_ACCESS_KEY_ID is not used, and {} cannot be read: {error}",
                path.display()
            ),
            Self::NoProfile { path, profile } => {
                write!(
                    f,
                    "{} has no profile [{profile}]; correct awsProfileName or AWS_PROFILE",
                    path.display()
                )
            }
            Self::NoKey { path, profile, key } => write!(
                f,
                "the profile [{profile}] of {} has no {key}; roles, processes and single sign-on are not \
                 followed: write the key, or the temporary one with its aws_session_token, into the file",
                path.display()
            ),
            Self::Role => write!(
                f,
                "awsRoleArn is not supported: let another program assume the role and write its temporary key \
                 into the shared credentials file, and name its profile by awsProfileName"
            ),
            Self::NoRegion { host } => {
                write!(
                    f,
                    "the name {host:?} does not tell the AWS region of the cluster; set sasl.aws.region"
                )
            }
        }
    }
}

/// Reads the environment, a variable at a time.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process; an empty variable is none.
pub fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The shared credentials file, wherever it is.
pub fn shared_file(given: Option<&Path>, environment: Environment<'_>) -> Option<PathBuf> {
    let home = || environment("HOME").map(|home| Path::new(&home).join(".aws").join("credentials"));
    let told = || environment("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    given.map(Path::to_owned).or_else(told).or_else(home)
}

/// The key to sign with; `profile` is the one of the login module, `file` the one of the configuration.
pub fn read_key(
    profile: Option<&str>,
    file: Option<&Path>,
    environment: Environment<'_>,
) -> Result<AwsKey, AwsFault> {
    if profile.is_none() && file.is_none() {
        let (id, secret) = (environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY"));
        match (id, secret) {
            (Some(id), Some(secret)) => {
                let session_token = Secret::new(environment("AWS_SESSION_TOKEN").unwrap_or_default());
                return Ok(AwsKey { id, secret: Secret::new(secret), session_token });
            }
            (Some(_), None) => return Err(AwsFault::HalfEnvironment { missing: "AWS_SECRET_ACCESS_KEY" }),
            (None, Some(_)) => return Err(AwsFault::HalfEnvironment { missing: "AWS_ACCESS_KEY_ID" }),
            (None, None) => {}
        }
    }
    let named = profile.map(str::to_owned).or_else(|| environment("AWS_PROFILE"));
    let profile = named.unwrap_or_else(|| PROFILE_DEFAULT.to_owned());
    let path = shared_file(file, environment).ok_or(AwsFault::Nowhere)?;
    let failed = |error| AwsFault::File { path: path.clone(), error };
    let length = std::fs::metadata(&path).map_err(|error| failed(error.kind()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge));
    }
    let text = Zeroizing::new(std::fs::read_to_string(&path).map_err(|error| failed(error.kind()))?);
    key_in(&text, path, profile)
}

/// The key of one profile: lines `name = value` behind `[profile]`.
fn key_in(text: &str, path: PathBuf, profile: String) -> Result<AwsKey, AwsFault> {
    let (mut is_found, mut is_inside) = (false, false);
    let (mut id, mut secret, mut session_token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            is_inside = section.0.trim() == profile;
            is_found |= is_inside;
        } else if is_inside && !line.starts_with(['#', ';']) {
            let Some((name, value)) = line.split_once('=') else { continue };
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => session_token = value,
                _ => {}
            }
        }
    }
    if !is_found {
        return Err(AwsFault::NoProfile { path, profile });
    }
    let missing = |key| AwsFault::NoKey { path: path.clone(), profile: profile.clone(), key };
    Ok(AwsKey {
        id: id.ok_or_else(|| missing("aws_access_key_id"))?.to_owned(),
        secret: Secret::from(secret.ok_or_else(|| missing("aws_secret_access_key"))?),
        session_token: Secret::from(session_token.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=hunter2\n\
                        [twin]\naws_access_key_id=B\n; aws_access_key_id = C\naws_secret_access_key = hunter3\n\
                        aws_session_token = t=/+\n[role]\nrole_arn = arn:aws:iam::1:role/x\n";

    fn read(profile: Option<&str>, variables: &[(&str, &str)]) -> Result<AwsKey, AwsFault> {
        read_key(profile, None, &|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_goes_before_the_file_and_a_named_profile_before_both() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
        let (id, secret) = (("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "hunter1"));
        let known = |key: Result<AwsKey, AwsFault>| {
            let key = key.unwrap();
            assert!(!format!("{key:?}").contains("hunter"), "{key:?}");
            (key.id.clone(), key.secret.expose().to_owned(), key.session_token.expose().to_owned())
        };
        let plain = |id: &str, secret: &str| (id.to_owned(), secret.to_owned(), String::new());
        assert_eq!(known(read(None, &[file, id, secret])), plain("E", "hunter1"));
        assert_eq!(known(read(None, &[file])), plain("A", "hunter2"));
        let twin = ("B".to_owned(), "hunter3".to_owned(), "t=/+".to_owned());
        assert_eq!(known(read(Some("twin"), &[file, id, secret])), twin);
        assert_eq!(known(read(None, &[file, ("AWS_PROFILE", "twin")])), twin);
        let given = read_key(None, Some(&path), &|name| (name != "AWS_PROFILE").then(|| "E".to_owned()));
        assert_eq!(known(given), plain("A", "hunter2"));
        let token = ("AWS_SESSION_TOKEN", "t");
        assert_eq!(known(read(None, &[id, secret, token])).2, "t");
    }

    #[test]
    fn what_is_missing_is_named_and_no_key_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
        let told = |fault: Result<AwsKey, AwsFault>| {
            let text = fault.unwrap_err().to_string();
            assert!(!text.contains("hunter"), "{text}");
            text
        };
        let half = told(read(None, &[("AWS_ACCESS_KEY_ID", "E")]));
        assert!(half.contains("set AWS_SECRET_ACCESS_KEY too"), "{half}");
        assert!(told(read(None, &[])).contains("sasl.aws.credentials.file"));
        let home = told(read(None, &[("HOME", "/nowhere")]));
        assert!(home.contains("/nowhere/.aws/credentials"), "{home}");
        assert!(told(read(Some("other"), &[file])).contains("no profile [other]"));
        assert!(told(read(Some("role"), &[file])).contains("no aws_access_key_id; roles"));
    }
}
