//! The helper thread: everything that blocks, off the data core, one request after the other.
//!
//! Owns: one thread, a bounded queue to it, and the answers on their way back. It must never touch a socket, and it
//! looks at arena bytes only for a [`Transfer`], whose loan the engine holds meanwhile.
//!
//! ```text
//!   engine: submit --> [backlog, if the queue is full] --> queue --> thread: run --> answers --> wake --> engine: next
//! ```
//!
//! Invariants: requests run in order of submission; each yields one answer; an engine that drops its helper waits for
//! the request that is running, the ones behind it are not started.

use crate::arena::Mapping;
use crate::disk::{Disk, Job, JobOutcome, Step};
use crate::engine::EngineError;
use crate::operation::{FileKey, SystemError};
use crate::placement;
use crate::real_disk::{RealDisk, open_file};
use crate::wake::Waker;
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

/// Requests queued to the thread. More wait in the engine; a longer queue would only hide how far the disk is behind.
const QUEUE_MAX: usize = 64;

/// What the thread can do.
pub(crate) enum Work {
    Job(Job),
    /// close(2) may block: file systems trim and flush in it.
    Close(OwnedFd),
    Transfer(Transfer),
}

/// One blocking read, write or sync of the epoll engine.
pub(crate) struct Transfer {
    pub(crate) kind: TransferKind,
    pub(crate) descriptor: RawFd,
    pub(crate) position: u64,
    pub(crate) address: *mut u8,
    pub(crate) length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferKind {
    Write,
    Read,
    Sync,
}

// SAFETY: the address points into the arena's mapping, which the thread counts; the loan keeps everybody else away.
unsafe impl Send for Transfer {}

/// What became of it.
pub(crate) enum Answer {
    /// The files that the job opened and by which step; empty when it failed.
    Job {
        outcome: JobOutcome,
        opened: Vec<(usize, FileKey, OwnedFd)>,
    },
    Closed,
    Transferred(Result<u32, SystemError>),
}

struct Request {
    slot: u32,
    work: Work,
}

/// The engine's end.
pub(crate) struct Helper {
    queue: Option<SyncSender<Request>>,
    backlog: VecDeque<Request>,
    answers: Receiver<(u32, Answer)>,
    outstanding: usize,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// `mapping` is held by the thread, so that a transfer never outlives its memory.
    pub(crate) fn start(
        name: &str,
        cores: &[usize],
        waker: Waker,
        mapping: Arc<Mapping>,
    ) -> Result<Helper, EngineError> {
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let (answer, answers) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let (cores, stop) = (cores.to_vec(), stopping.clone());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // A core that has gone offline since start-up: slower, not wrong.
                let _ = placement::pin_current_thread(&cores);
                work_off(&requests, &answer, &waker, &stop);
                drop(mapping);
            })
            .map_err(|error| EngineError::Call {
                call: "thread spawn",
                error: SystemError::from_std(&error),
            })?;
        Ok(Helper {
            queue: Some(queue),
            backlog: VecDeque::new(),
            answers,
            outstanding: 0,
            stopping,
            thread: Some(thread),
        })
    }

    pub(crate) fn submit(&mut self, slot: u32, work: Work) {
        self.outstanding += 1;
        self.backlog.push_back(Request { slot, work });
        self.feed();
    }

    /// The next answer, if there is one.
    pub(crate) fn next(&mut self) -> Option<(u32, Answer)> {
        if self.outstanding == 0 {
            return None;
        }
        let answer = self.answers.try_recv().ok()?;
        self.outstanding -= 1;
        self.feed();
        Some(answer)
    }

    fn feed(&mut self) {
        let queue = self.queue.as_ref().expect("the queue lives as long as the helper");
        while let Some(request) = self.backlog.pop_front() {
            match queue.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => {
                    self.backlog.push_front(request);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => panic!("the helper thread is gone"),
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work_off(requests: &Receiver<Request>, answers: &Sender<(u32, Answer)>, waker: &Waker, stop: &AtomicBool) {
    let mut disk = RealDisk;
    while let Ok(Request { slot, work }) = requests.recv() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let answer = match work {
            Work::Job(job) => run_job(job, &mut disk),
            Work::Close(descriptor) => {
                drop(descriptor);
                Answer::Closed
            }
            Work::Transfer(transfer) => Answer::Transferred(run_transfer(&transfer)),
        };
        if answers.send((slot, answer)).is_err() {
            return;
        }
        waker.wake();
    }
}

fn run_job(job: Job, disk: &mut dyn Disk) -> Answer {
    let mut opened = Vec::new();
    let mut index = 0;
    let outcome = job.run(|step| {
        index += 1;
        match step {
            Step::Open { file, path, create, direct } => {
                let (descriptor, output) = open_file(path, *create, *direct)?;
                opened.push((index - 1, *file, descriptor));
                Ok(output)
            }
            step => disk.run(step),
        }
    });
    if outcome.failed.is_some() {
        opened.clear();
    }
    Answer::Job { outcome, opened }
}

fn run_transfer(transfer: &Transfer) -> Result<u32, SystemError> {
    let length = transfer.length as usize;
    // SAFETY: the engine's row keeps the descriptor open until this transfer's answer was taken.
    let descriptor = unsafe { BorrowedFd::borrow_raw(transfer.descriptor) };
    loop {
        let result = match transfer.kind {
            TransferKind::Write => {
                // SAFETY: the span is lent to this transfer for reading, inside the mapping the thread counts.
                let bytes = unsafe { std::slice::from_raw_parts(transfer.address, length) };
                rustix::io::pwrite(descriptor, bytes, transfer.position)
            }
            TransferKind::Read => {
                // SAFETY: the span is lent to this transfer for writing, so no other reference into it exists.
                let bytes = unsafe { std::slice::from_raw_parts_mut(transfer.address, length) };
                rustix::io::pread(descriptor, bytes, transfer.position)
            }
            TransferKind::Sync => rustix::fs::fdatasync(descriptor).map(|()| 0),
        };
        match result {
            Err(rustix::io::Errno::INTR) => {}
            // No transfer is longer than its span, whose length is a u32.
            result => return result.map(|count| count as u32).map_err(SystemError::from),
        }
    }
}
