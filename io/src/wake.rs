//! Ends another thread's `wait`: an eventfd and one flag.
//!
//! Owns: the eventfd. It must never carry data: who wakes puts the data elsewhere first, then wakes.
//! Invariant: the flag is set from the first wake until the engine has heard it, so a thousand wakes of a busy shard
//! cost one system call; the engine clears the flag *before* its caller looks at the mailboxes, so none is lost.

use crate::operation::SystemError;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Shared {
    event: OwnedFd,
    woken: AtomicBool,
}

/// Ends the current or the next `wait` of one engine, from any thread. Harmless after the engine is gone.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

impl Waker {
    /// Also for the simulated world, which may count on [`Waker::take`] alone.
    pub fn new() -> Result<Waker, SystemError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { shared: Arc::new(Shared { event, woken: AtomicBool::new(false) }) })
    }

    /// Wakes the engine.
    pub fn wake(&self) {
        if !self.shared.woken.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow (one count per heard wake), and the descriptor lives as long as `self`.
            let written = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
            debug_assert!(written.is_ok());
        }
    }

    /// True when somebody woke the engine since the last call. The engine's side: reads the eventfd empty.
    pub fn take(&self) -> bool {
        let mut count = [0; 8];
        // EAGAIN: nobody woke us. Read first, clear second: a wake in between is covered by what the caller reads next.
        let _ = rustix::io::read(&self.shared.event, &mut count);
        self.shared.woken.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wakes_are_heard_as_one() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take());
        waker.wake();
        waker.clone().wake();
        assert!(waker.take());
        assert!(!waker.take());
    }

    #[test]
    fn a_wake_from_another_thread_is_heard() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        std::thread::spawn(move || other.wake()).join().unwrap();
        assert!(waker.take());
    }
}
