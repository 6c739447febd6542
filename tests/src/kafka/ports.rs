//! Ports for brokers that neither another test binary nor an outgoing connection can take.
//!
//! Owns the range and the lock files, one per port, that processes on this machine agree by. The
//! range lies below the kernel's ephemeral ports (32768 and up): a broker that is down would
//! otherwise find its port used by somebody's outgoing connection when it comes back.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ephemeral ports, above those that services like to have.
const RANGE: Range<u16> = 21_000..31_000;

/// A port that is ours until this value goes; the process's end gives it back too.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _lock: File,
}

/// Takes a port that nobody holds and nobody listens on.
/// So many ports, each the next one of the one before.
pub fn take_run(length: usize) -> Vec<Port> {
    let mut run: Vec<Port> = Vec::new();
    while run.len() < length {
        let next = take();
        if run.last().is_some_and(|last| last.number + 1 != next.number) {
            run.clear();
        }
        run.push(next);
    }
    run
}

/// One of them.
pub fn take() -> Port {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let folder = std::env::temp_dir().join("twinlog-tests-ports");
    fs::create_dir_all(&folder).expect("the folder of the port locks can be created");
    for _ in RANGE {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes begin at different places, or each would try all ports of the others first.
        let start = (std::process::id() as u16).wrapping_mul(37).wrapping_add(step);
        let number = RANGE.start + start % (RANGE.end - RANGE.start);
        let Ok(lock) = File::create(folder.join(number.to_string())) else { continue };
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
            return Port { number, _lock: lock };
        }
    }
    panic!("no free port in {RANGE:?} on 127.0.0.1: is something else holding thousands of them?");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_taken_at_once_differ() {
        assert_ne!(take().number, take().number);
        let (first, second) = (take(), take());
        assert_ne!(first.number, second.number);
    }
}
