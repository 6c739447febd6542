//! The control core's end of one shard: commands that wait their turn, events that are picked up.
//!
//! A full mailbox makes commands wait here, in order; nothing is dropped and nobody blocks. A shard
//! that sleeps is woken once per batch of commands.

use crate::shard::ShardHandle;
use crate::shard::mailbox::{Command, Event};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{TryRecvError, TrySendError};
use twinlog_io::EngineError;

/// See the file's header.
pub struct ShardLink {
    handle: ShardHandle,
    waiting: VecDeque<Command>,
    drained: bool,
    /// The shard's last turn when it was last woken to prove that it lives.
    woken_at_turn: Option<u64>,
}

impl ShardLink {
    pub fn new(handle: ShardHandle) -> Self {
        Self { handle, waiting: VecDeque::new(), drained: false, woken_at_turn: None }
    }

    pub fn handle(&self) -> &ShardHandle {
        &self.handle
    }

    pub fn send(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    /// Hands over what fits.
    pub fn flush(&mut self) {
        let mut sent = false;
        while let Some(command) = self.waiting.pop_front() {
            match self.handle.commands.try_send(command) {
                Ok(()) => sent = true,
                Err(TrySendError::Full(command)) => {
                    self.waiting.push_front(command);
                    // It may sleep with a full mailbox that was filled before it looked.
                    sent = true;
                    break;
                }
                // It ended; `has_died` tells.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        if sent {
            self.handle.waker.wake();
        }
    }

    /// The next event, if there is one.
    pub fn event(&mut self) -> Option<Event> {
        match self.handle.events.try_recv() {
            Ok(Event::Drained) => {
                self.drained = true;
                Some(Event::Drained)
            }
            Ok(event) => Some(event),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Its thread ended although nobody asked for it.
    pub fn has_died(&self) -> bool {
        !self.drained && self.handle.thread.is_finished()
    }

    /// True while the loop turns. Each call wakes the shard, so that the next one can tell: a shard
    /// with nothing to do sleeps without a limit.
    pub fn proves_alive(&mut self) -> bool {
        let turn = self.handle.counters.turned_at.load(Ordering::Relaxed);
        let alive = self.woken_at_turn.replace(turn) != Some(turn);
        self.handle.waker.wake();
        alive
    }

    /// Waits for the thread's end.
    pub fn join(self) -> Result<(), EngineError> {
        let Self { handle, .. } = self;
        // The shard drains by itself once nobody can send any more.
        drop(handle.commands);
        handle.waker.wake();
        handle.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
