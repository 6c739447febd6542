//! Something that is made of files, and made anew when they change.
//!
//! Owns one value and the stamps of its files. Files are looked at when the value is asked for, at most once
//! a second. It must never lose a value that works: when the new files cannot be used, the old value stays,
//! and one warning is written for each change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks at the files. Lowered, a storm of new connections is one of system calls too.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

type Load<T, E> = Box<dyn Fn() -> Result<T, E> + Send + Sync>;

/// See the file's header.
pub struct Reloading<T, E> {
    /// Of the warning.
    what: &'static str,
    files: Vec<PathBuf>,
    load: Load<T, E>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    stamps: Vec<Stamp>,
    looked_at: Instant,
}

/// What changes when a file is written anew, or another one takes its place.
type Stamp = Option<(i64, i64, u64, u64)>;

impl<T, E: std::fmt::Display> Reloading<T, E> {
    /// Loads it the first time: here an error is one.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before the files are read: a change between the two is noticed afterwards.
        let stamps = files.iter().map(|file| stamp(file)).collect();
        let current = Arc::new(load()?);
        let state = Mutex::new(State { current, stamps, looked_at: Instant::now() });
        Ok(Self { what, files, load: Box::new(load), state })
    }

    /// The current one.
    pub fn current(&self) -> Arc<T> {
        self.current_at(Instant::now())
    }

    fn current_at(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        if self.files.is_empty() || now.saturating_duration_since(state.looked_at) < LOOK_INTERVAL {
            return state.current.clone();
        }
        state.looked_at = now;
        let stamps: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        if stamps != state.stamps {
            // Kept even when loading fails: the next attempt is made when somebody writes again.
            state.stamps = stamps;
            match (self.load)() {
                Ok(new) => {
                    state.current = Arc::new(new);
                    tracing::info!("{} changed on disk; new connections use what is there now", self.what);
                }
                Err(error) => {
                    tracing::warn!(
                        "{} changed on disk and cannot be used; the old stays: {error}",
                        self.what
                    );
                }
            }
        }
        state.current.clone()
    }
}

/// `None`: there is no such file now, as for a moment while it is replaced.
fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_keeps_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        let write = |text: &str| {
            // By another file, as those do who replace a certificate at once.
            let new = directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        write("1");
        let from = path.clone();
        let load = move || std::fs::read_to_string(&from).unwrap_or_default().parse::<u32>();
        let value = Reloading::new("the number", vec![path.clone()], load).unwrap();
        let start = Instant::now();
        let after = |looks: u32| start + LOOK_INTERVAL * (2 * looks);
        assert_eq!(*value.current_at(after(1)), 1);
        write("22");
        assert_eq!(*value.current_at(after(1)), 1, "looked at a moment ago");
        assert_eq!(*value.current_at(after(2)), 22);
        write("no number");
        assert_eq!(*value.current_at(after(3)), 22);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*value.current_at(after(4)), 22);
        write("333");
        assert_eq!(*value.current_at(after(5)), 333);
    }

    #[test]
    fn what_is_broken_from_the_start_is_refused() {
        assert!(Reloading::new("the number", Vec::new(), || "x".parse::<u32>()).is_err());
    }
}
