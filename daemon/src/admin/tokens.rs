//! Bearer tokens: how they are made, kept as hashes in a file, and compared.
//!
//! ```text
//!   NAME ROLE sha256:SALT:DIGEST        one line for each token; # begins a comment
//!   twl_<43 letters>                    the token itself: 256 random bits, shown once, kept nowhere here
//! ```
//! A slow hash makes guesses of passwords dear. A token is no password: nobody can guess 256 random bits, so one
//! SHA-256 with a salt gives nothing away. And it is cheap: strangers cannot keep the control core busy with it.
//! Must never print a token or a digest, but for the one line of `twinlog token create`.

use super::role::Role;
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::geteuid;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Before every token, so that scanners for leaked secrets find it.
const PREFIX: &str = "twl_";
const TOKEN_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// The one kind of hash so far.
const KIND: &str = "sha256";
/// Tokens of one file. A login hashes once for each: raised to 100,000 it would take 50 ms of the control core.
const TOKENS_MAX: usize = 256;
/// So many lines with comments between them; a larger file is another one.
const FILE_BYTES_MAX: u64 = 256 << 10;
const NAME_BYTES_MAX: usize = 64;
/// A longer text is no token; it is not even hashed.
const PRESENTED_BYTES_MAX: usize = 128;
/// Writing by the group or by others.
const WRITABLE: u32 = 0o022;

/// Why a file of tokens is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFileError {
    File {
        path: PathBuf,
        error: ErrorKind,
    },
    /// Others than its owner could add a token of their own.
    Writable {
        path: PathBuf,
        mode: u32,
    },
    /// Neither ours nor the superuser's.
    Owner {
        path: PathBuf,
        owner: u32,
    },
    Line {
        path: PathBuf,
        line: usize,
        why: LineFault,
    },
    TooMany {
        path: PathBuf,
    },
    Empty {
        path: PathBuf,
    },
}

/// What is wrong with one line. Its text is not told: it may be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    Words,
    Name,
    Role,
    Hash,
    Twice,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Words => "it is not NAME ROLE HASH",
            Self::Name => "its name has other than 1 to 64 letters, digits, dots, hyphens and underscores",
            Self::Role => "its role is neither viewer nor operator",
            Self::Hash => "its hash is not sha256:SALT:DIGEST in hexadecimal",
            Self::Twice => "another line has its name",
        })
    }
}

impl fmt::Display for TokenFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::Writable { path, mode } => write!(
                f,
                "{} can be written by others (mode {mode:o}), who could let themselves in: chmod go-w {}",
                path.display(),
                path.display()
            ),
            Self::Owner { path, owner } => write!(
                f,
                "{} belongs to user {owner}, who could let himself in: it must be ours or root's (chown)",
                path.display()
            ),
            Self::Line { path, line, why } => write!(
                f,
                "{} line {line}: {why}; take the line that twinlog token create prints",
                path.display()
            ),
            Self::TooMany { path } => {
                write!(
                    f,
                    "{} has more than {TOKENS_MAX} tokens; remove those that nobody uses",
                    path.display()
                )
            }
            Self::Empty { path } => {
                write!(f, "{} has no token; add the line that twinlog token create prints", path.display())
            }
        }
    }
}

impl std::error::Error for TokenFileError {}

struct Known {
    name: String,
    role: Role,
    salt: [u8; SALT_BYTES],
    digest: [u8; DIGEST_BYTES],
}

/// What one file holds.
pub struct Tokens(Vec<Known>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// Reads a file whose writers can only be its owner, and that one only we or the superuser.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let failed =
            |error: std::io::Error| TokenFileError::File { path: path.to_owned(), error: error.kind() };
        // Asked of the open file: what is judged is what is read.
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        if mode & WRITABLE != 0 {
            return Err(TokenFileError::Writable { path: path.to_owned(), mode });
        }
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(TokenFileError::Owner { path: path.to_owned(), owner });
        }
        if found.len() > FILE_BYTES_MAX {
            return Err(failed(ErrorKind::FileTooLarge.into()));
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).map_err(failed)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenFileError> {
        let mut all: Vec<Known> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_of = |why| TokenFileError::Line { path: path.to_owned(), line: index + 1, why };
            let bare = line.split('#').next().expect("a first part").trim();
            if bare.is_empty() {
                continue;
            }
            let known = parse_line(bare).map_err(line_of)?;
            if all.iter().any(|other| other.name == known.name) {
                return Err(line_of(LineFault::Twice));
            }
            all.push(known);
            if all.len() > TOKENS_MAX {
                return Err(TokenFileError::TooMany { path: path.to_owned() });
            }
        }
        if all.is_empty() {
            return Err(TokenFileError::Empty { path: path.to_owned() });
        }
        Ok(Self(all))
    }

    /// Whose token this is. Every line is looked at, each in the same time, whichever is right.
    pub fn verify(&self, presented: &str) -> Option<(String, Role)> {
        if presented.len() > PRESENTED_BYTES_MAX {
            return None;
        }
        let mut found = None;
        for known in &self.0 {
            let hashed = hash(&known.salt, presented);
            if constant_time::verify_slices_are_equal(&hashed, &known.digest).is_ok() {
                found = Some((known.name.clone(), known.role));
            }
        }
        found
    }
}

/// Letters that neither a shell, a log nor an HTTP header takes for something else.
pub fn is_token_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

fn parse_line(line: &str) -> Result<Known, LineFault> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, role, hash] = words[..] else { return Err(LineFault::Words) };
    if !is_token_name(name) {
        return Err(LineFault::Name);
    }
    let role = Role::named(role).ok_or(LineFault::Role)?;
    let parts: Vec<&str> = hash.split(':').collect();
    let [KIND, salt, digest] = parts[..] else { return Err(LineFault::Hash) };
    let (salt, digest) = from_hex(salt).zip(from_hex(digest)).ok_or(LineFault::Hash)?;
    Ok(Known { name: name.to_owned(), role, salt, digest })
}

fn hash(salt: &[u8], token: &str) -> [u8; DIGEST_BYTES] {
    let mut whole = digest::Context::new(&digest::SHA256);
    whole.update(salt);
    whole.update(token.as_bytes());
    whole.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A token that did not exist before.
pub struct NewToken {
    /// To be shown once.
    pub token: String,
    /// To be added to the file.
    pub line: String,
}

/// Makes one; `name` was checked by [`is_token_name`]. `None`: the kernel gives no random bytes.
pub fn create(name: &str, role: Role) -> Option<NewToken> {
    let (mut secret, mut salt) = ([0; TOKEN_BYTES], [0; SALT_BYTES]);
    rand::fill(&mut secret).and_then(|()| rand::fill(&mut salt)).ok()?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let line = format!("{name} {role} {KIND}:{}:{}", hex(&salt), hex(&hash(&salt, &token)));
    Some(NewToken { token, line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<Tokens, TokenFileError> {
        Tokens::parse(Path::new("tokens"), text)
    }

    #[test]
    fn a_new_token_opens_what_its_line_says_and_no_other_does() {
        let (ci, ops) = (create("ci", Role::Viewer).unwrap(), create("ops.1", Role::Operator).unwrap());
        assert_eq!((ci.token.len(), ci.token != ops.token), (PREFIX.len() + 43, true));
        assert!(!ci.line.contains(&ci.token));
        let tokens = parse(&format!("# who\n\n{} # of the pipeline\n{}\n", ci.line, ops.line)).unwrap();
        assert_eq!(tokens.verify(&ci.token), Some(("ci".into(), Role::Viewer)));
        assert_eq!(tokens.verify(&ops.token), Some(("ops.1".into(), Role::Operator)));
        let digest = ci.line.rsplit(':').next().unwrap();
        for wrong in
            ["", PREFIX, "ci", digest, &ci.token[..40], &format!("{} ", ci.token), &"x".repeat(1 << 20)]
        {
            assert_eq!(tokens.verify(wrong), None, "{wrong:.80}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
    }

    #[test]
    fn a_line_that_is_not_understood_is_told_by_its_number_and_never_shown() {
        let good = create("ci", Role::Viewer).unwrap().line;
        let short = &good[..good.len() - 1];
        for (line, why) in [
            ("hunter2", LineFault::Words),
            (&format!("{good} hunter2"), LineFault::Words),
            (&good.replace("ci ", "c/hunter2 "), LineFault::Name),
            (&good.replace("viewer", "hunter2"), LineFault::Role),
            (short, LineFault::Hash),
            (&good.replace("sha256", "hunter2"), LineFault::Hash),
            (&good.replace("sha256:", "sha256:é"), LineFault::Hash),
            (&good, LineFault::Twice),
        ] {
            let error = parse(&format!("{good}\n{line}\n")).unwrap_err();
            assert_eq!(error, TokenFileError::Line { path: "tokens".into(), line: 2, why });
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(matches!(parse("# nothing\n"), Err(TokenFileError::Empty { .. })));
        let many: String =
            (0..=TOKENS_MAX).map(|index| good.replace("ci ", &format!("t{index} ")) + "\n").collect();
        assert!(matches!(parse(&many), Err(TokenFileError::TooMany { .. })));
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_with_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        std::fs::write(&path, create("ci", Role::Viewer).unwrap().line).unwrap();
        for (mode, is_good) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false), (0o666, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match Tokens::read(&path) {
                Ok(_) => assert!(is_good, "{mode:o}"),
                Err(error) => assert!(!is_good && error.to_string().contains("chmod go-w"), "{error}"),
            }
        }
        let missing = Tokens::read(&directory.path().join("none")).unwrap_err();
        assert!(matches!(missing, TokenFileError::File { error: ErrorKind::NotFound, .. }));
    }
}
