//! The thread around a shard: opens its engine where it will run, then turns the loop until it is done.

use super::mailbox::{COMMANDS_MAX, Command, EVENTS_MAX, Event, ShardCounters};
use super::{Shard, ShardOptions};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use twinlog_io::Waker;
use twinlog_io::{
    AnyEngine, Engine, EngineError, EngineOptions, EnginePreference, EngineReport, Shortfall, open_engine,
};

/// What the control core holds of a running shard.
pub struct ShardHandle {
    pub commands: SyncSender<Command>,
    pub events: Receiver<Event>,
    /// Wakes the shard after a command was sent.
    pub waker: Waker,
    pub counters: Arc<ShardCounters>,
    pub report: EngineReport,
    pub thread: JoinHandle<Result<(), EngineError>>,
}

/// Starts a shard on its core. Returns when its engine is open, or with the reason why it cannot be.
pub fn spawn(
    options: ShardOptions,
    engine: EngineOptions,
    preference: EnginePreference,
    core: Option<usize>,
) -> Result<ShardHandle, EngineError> {
    let (commands, inbox) = sync_channel(COMMANDS_MAX);
    let (outbox, events) = sync_channel(EVENTS_MAX);
    let (opened, report) = sync_channel(1);
    let counters = Arc::new(ShardCounters::default());
    let published = counters.clone();
    let name = format!("twinlog-data-{}", options.index);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let pinned = core.map_or(Ok(()), |core| twinlog_io::pin_current_thread(&[core]));
        match open_engine(&engine, preference) {
            Ok((engine, mut report)) => {
                // A refused pin (a container's cpuset) costs speed, not correctness.
                if let (Some(core), Err(error)) = (core, pinned) {
                    report.shortfalls.push(Shortfall::DataPin { core, error });
                }
                let _ = opened.send(Ok((report, engine.waker())));
                run(Shard::new(engine, options, published), &inbox, &outbox)
            }
            Err(error) => {
                let _ = opened.send(Err(error.clone()));
                Err(error)
            }
        }
    });
    let thread = thread.map_err(|error| EngineError::Call {
        call: "starting a data thread",
        error: twinlog_io::SystemError::from_std(&error),
    })?;
    let (report, waker) = report.recv().expect("the thread answers before it ends")?;
    Ok(ShardHandle { commands, events, waker, counters, report, thread })
}

fn run(
    mut shard: Shard<AnyEngine>,
    inbox: &Receiver<Command>,
    outbox: &SyncSender<Event>,
) -> Result<(), EngineError> {
    while !shard.is_done() {
        loop {
            match inbox.try_recv() {
                Ok(command) => shard.command(command),
                Err(TryRecvError::Empty) => break,
                // Nobody steers any more: what is here is flushed and the loop ends.
                Err(TryRecvError::Disconnected) => {
                    shard.command(Command::Drain);
                    break;
                }
            }
        }
        shard.turn()?;
        while let Some(event) = shard.next_event() {
            match outbox.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    shard.event_again(event);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }
    Ok(())
}
