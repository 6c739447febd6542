//! The socket file: made for its owner alone, replaced only when nobody answers on it.
//!
//! Whoever can open it can promote and delete topics; there is no other check. The mode is set on the
//! socket before it gets its name, so that no moment exists in which others could connect.

use crate::journal::OWN_DIRECTORY;
use rustix::fs::{Mode, fchmod};
use std::fmt;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixSocket};

const SOCKET_FILE: &str = "admin.sock";
/// `sun_path` has 108 bytes with its closing zero.
const PATH_BYTES_MAX: usize = 107;
/// Connections that the kernel keeps for us while all of ours are busy.
const BACKLOG: u32 = 64;

/// Where the socket of a data directory lies.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(OWN_DIRECTORY).join(SOCKET_FILE)
}

/// Refuses a path that no socket can have.
pub(super) fn check_length(path: &Path) -> Result<(), SocketError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes });
    }
    Ok(())
}

/// Why there is no socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketError {
    TooLong {
        path: PathBuf,
        bytes: usize,
    },
    /// Another daemon is there.
    Answered {
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    Stranger {
        path: PathBuf,
    },
    File {
        path: PathBuf,
        error: ErrorKind,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { path, bytes } => write!(
                f,
                "{} has {bytes} bytes, and the path of a socket {PATH_BYTES_MAX} at most; choose a shorter \
                 data.dir, or start in it and name it relatively",
                path.display()
            ),
            Self::Answered { path } => {
                write!(
                    f,
                    "another daemon answers on {}; end it first, or choose another data.dir",
                    path.display()
                )
            }
            Self::Stranger { path } => {
                write!(f, "{} is no socket; move it away", path.display())
            }
            Self::File { path, error } => {
                write!(f, "{} cannot be made a socket: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// A bound socket; its file goes when this does.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds below `data_dir`. Call it within a runtime, while holding the lock of the directory.
    pub fn bind(data_dir: &Path) -> Result<Self, SocketError> {
        let path = socket_path(data_dir);
        check_length(&path)?;
        let failed = |error: std::io::Error| SocketError::File { path: path.clone(), error: error.kind() };
        let directory = path.parent().expect("the socket lies in our own directory");
        DirBuilder::new().recursive(true).create(directory).map_err(failed)?;
        make_way(&path)?;
        let socket = UnixSocket::new_stream().map_err(failed)?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        socket.bind(&path).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { listener, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that stays is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes what a daemon that died left behind.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let (path, failed) =
        (path.to_owned(), |path, error: std::io::Error| Err(SocketError::File { path, error: error.kind() }));
    match UnixStream::connect(&path) {
        Ok(_) => Err(SocketError::Answered { path }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt;
            // The kernel refuses alike for a socket nobody listens on and for a file of any other kind.
            match std::fs::symlink_metadata(&path) {
                Ok(found) if !found.file_type().is_socket() => Err(SocketError::Stranger { path }),
                Ok(_) => std::fs::remove_file(&path).or_else(|error| failed(path, error)),
                Err(error) => failed(path, error),
            }
        }
        Err(error) => failed(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn bind(data_dir: &Path) -> Result<AdminSocket, SocketError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = runtime.enter();
        AdminSocket::bind(data_dir)
    }

    #[test]
    fn a_socket_is_its_owners_and_goes_with_its_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let socket = bind(directory.path()).unwrap();
        let path = socket.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener leaves its file");
        let live = bind(directory.path()).unwrap();
        assert_eq!(bind(directory.path()).unwrap_err(), SocketError::Answered { path });
        drop(live);
    }

    #[test]
    fn a_file_of_somebody_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(bind(directory.path()).unwrap_err(), SocketError::Stranger { path: path.clone() });
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_told() {
        let long = Path::new("/data").join("x".repeat(100));
        let refused = bind(&long).unwrap_err().to_string();
        assert!(refused.contains("has 126 bytes") && refused.contains("shorter data.dir"), "{refused}");
    }
}
