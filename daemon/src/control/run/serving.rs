//! The life of all links: driven in one loop, halted one by one, started again when a change needs it.
//!
//! ```text
//!   tick, outcomes --> each supervisor          requests --> switchboard --> the link's own queue
//!   SIGTERM, SIGINT --> drain, end              SIGHUP --> the file again --> changes
//!   changes --> live, or: drain --> stop --> start, of the links concerned; sockets stay open
//! ```
//! A link that halts lets go of what it holds and is shown as failed; the others go on. When all have halted the
//! process ends, for a supervisor outside is the one that can start it again.

use super::starting::{Start, Starter};
use super::{Desk, RunError, RunOptions};
use crate::admin::{AdminRequest, REQUESTS_MAX, Readiness};
use crate::config::{Configuration, KeptLinks, Settings};
use crate::control::memory_budget;
use crate::control::progress::{Behind, Figures, Progress};
use crate::control::report::Received;
use crate::control::state::StateDatabase;
use crate::control::supervisor::{Standing, Supervisor};
use sd_notify::NotifyState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};
use twinlog_io::{Placement, wall_clock_ms};

/// How often the control core looks at the shards' events. Leaders are found this much later at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a drain may take: flushing what is in memory to a slow disk. systemd kills after 60 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// What each partition adds to it when nobody asked to stop: trimming and syncing its files on a busy disk.
const DRAIN_PER_PARTITION: Duration = Duration::from_millis(10);
/// How often it is asked whether every link is ready; it looks at every partition.
const READY_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is asked whether everything is caught up; it looks at every partition.
const STANDING_INTERVAL: Duration = Duration::from_millis(100);

/// How a run ended.
pub enum End {
    /// Each link has caught up, or cannot.
    Done,
    Signal,
    /// All links.
    Halted,
}

/// One link.
pub struct Slot {
    pub settings: Arc<Settings>,
    /// `None`: it could not be started.
    pub running: Option<Running>,
    pub failure: Option<String>,
    /// Before its data threads were started again.
    pub received: Received,
}

/// A link that was started.
pub struct Running {
    pub supervisor: Supervisor,
    /// What is asked of it.
    pub requests: mpsc::Sender<AdminRequest>,
    /// Keep tokens ready for its data threads.
    pub tokens: Vec<JoinHandle<()>>,
    /// It has halted, and its data threads were told to let go.
    pub halted: bool,
    pub standing: Standing,
}

/// Links whose data threads start again.
#[derive(Default)]
pub struct Restart {
    pub links: BTreeSet<String>,
    /// Of them, those that are gone for good: everything that is kept of them goes too.
    pub deleted: Vec<String>,
}

/// See the file's header.
pub struct Daemon {
    pub(super) configuration: Configuration,
    pub(super) kept: KeptLinks,
    pub(super) options: RunOptions,
    pub(super) state: StateDatabase,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) restart: Option<Restart>,
    placement: Placement,
    starter: Starter,
    asked: mpsc::Receiver<AdminRequest>,
    readiness: watch::Sender<Readiness>,
    watchdog: Watchdog,
    memory: memory_budget::Watch,
    standing_at: Instant,
    ready_at: Instant,
}

impl Daemon {
    pub fn new(
        configuration: Configuration,
        kept: KeptLinks,
        placement: Placement,
        options: &RunOptions,
        (starter, state): (Starter, StateDatabase),
        (asked, readiness): Desk,
    ) -> Self {
        Self {
            configuration,
            kept,
            options: options.clone(),
            state,
            slots: BTreeMap::new(),
            restart: None,
            placement,
            starter,
            asked,
            readiness,
            watchdog: Watchdog::new(),
            memory: memory_budget::Watch::default(),
            standing_at: Instant::now(),
            ready_at: Instant::now(),
        }
    }

    /// The first start. One link that fails leaves the others alone; nothing runs when all fail.
    pub async fn start_all(&mut self, links: Vec<Settings>) -> Result<(), RunError> {
        if !self.options.restart_from.is_empty() && links.len() != 1 {
            let names = links.into_iter().map(|each| each.link.name).collect();
            return Err(RunError::WhichLink { names });
        }
        let (count, mut first_error) = (links.len(), None);
        for settings in links {
            if let Some(error) = self.start(Arc::new(settings), count, true).await {
                first_error.get_or_insert(error);
            }
        }
        match first_error {
            Some(error) if self.slots.values().all(|slot| slot.running.is_none()) => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts one link of so many; why it does not start is kept with it, too.
    async fn start(&mut self, settings: Arc<Settings>, links: usize, is_first: bool) -> Option<RunError> {
        let name = settings.link.name.clone();
        let received = self.slots.remove(&name).map(|slot| slot.received).unwrap_or_default();
        let started = self.begin(&settings, links, is_first).await;
        let (running, failed) = match started {
            Ok(running) => (Some(running), None),
            Err(error) => {
                error!("link {name} is not started: {error}");
                (None, Some(error))
            }
        };
        let failure = failed.as_ref().map(ToString::to_string);
        self.slots.insert(name, Slot { settings, running, failure, received });
        failed
    }

    async fn begin(
        &self,
        settings: &Arc<Settings>,
        links: usize,
        is_first: bool,
    ) -> Result<Running, RunError> {
        let identities = match settings.link.guest {
            Some(_) => self.state.guest_identities(&settings.link.name).await.map_err(RunError::State)?,
            None => Vec::new(),
        };
        let start = Start {
            settings: Arc::clone(settings),
            placement: self.placement.clone(),
            links: links as u64,
            identities,
            options: is_first.then(|| self.options.clone()),
            runtime: Handle::current(),
        };
        let parts = self.starter.start(start).await?;
        // Data threads cannot wait for a token: one is kept ready for them.
        let ready = settings.link.securities().map(|security| tokio::spawn(security.clone().keep_ready()));
        let tokens = ready.collect();
        let mut supervisor = Supervisor::new(
            Arc::clone(settings),
            parts.shards,
            parts.journal,
            parts.instructions,
            self.options.accept_gap,
            parts.member,
            links,
        );
        supervisor.listen_for_followers();
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        supervisor.keep_state(self.state.clone(), asked);
        Ok(Running { supervisor, requests, tokens, halted: false, standing: Standing::Going })
    }

    /// Until it is done, told to stop, or cannot go on; then everything is drained.
    pub async fn serve(&mut self, mut signals: Signals) -> Result<End, RunError> {
        let mut progress = self.progress();
        notify(&[NotifyState::Ready]);
        let end = loop {
            if let Some(end) = self.follow(&mut signals, &mut progress).await {
                break end;
            }
            if let Some(restart) = self.restart.take()
                && self.carry_out(restart, &mut signals).await
            {
                break End::Signal;
            }
            progress.rename(&self.names());
        };
        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        progress.end();
        let all: BTreeSet<String> = self.slots.keys().cloned().collect();
        self.drain(&all, &mut signals, Some(&end)).await;
        Ok(end)
    }

    fn names(&self) -> String {
        self.slots.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    fn progress(&self) -> Progress {
        Progress::new(&self.names(), self.options.output)
    }

    /// `None`: data threads are to start again.
    async fn follow(&mut self, signals: &mut Signals, progress: &mut Progress) -> Option<End> {
        let mut look = looks();
        loop {
            tokio::select! {
                _ = look.tick() => self.drive(),
                () = outcomes(&mut self.slots) => {}
                Some(request) = self.asked.recv() => {
                    self.dispatch(request).await;
                    self.drive();
                }
                told = signals.next() => match told {
                    Told::End => return Some(End::Signal),
                    Told::Reload => self.reload().await,
                },
            }
            if self.restart.is_some() {
                return None;
            }
            self.look_for_halted();
            self.look_at_memory();
            if !self.slots.is_empty() && self.running().all(|running| running.halted) {
                return Some(End::Halted);
            }
            let now = Instant::now();
            if now - self.ready_at >= READY_INTERVAL {
                self.ready_at = now;
                self.tell_readiness();
            }
            if self.options.until_caught_up && self.is_done(now) {
                return Some(End::Done);
            }
            self.feed_watchdog();
            progress.show(now, || self.figures());
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Running> {
        self.slots.values().filter_map(|slot| slot.running.as_ref())
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        self.slots.values_mut().filter_map(|slot| slot.running.as_mut())
    }

    fn drive(&mut self) {
        self.running_mut().for_each(|running| match running.halted {
            true => running.supervisor.drive_halted(),
            false => running.supervisor.drive(),
        });
    }

    /// Partitions of each link that runs.
    pub(super) fn partition_counts(&self) -> impl Iterator<Item = u64> {
        self.running().map(|running| running.supervisor.partition_count() as u64)
    }

    fn look_at_memory(&mut self) {
        let Some(first) = self.slots.values().next() else { return };
        let memory_bytes = first.settings.daemon.memory_bytes;
        let mut memory = std::mem::take(&mut self.memory);
        if let Some(complaint) = memory.look(memory_bytes, self.partition_counts()) {
            warn!("{complaint}");
        }
        self.memory = memory;
    }

    /// The daemon does what it is for when every link does.
    fn tell_readiness(&self) {
        let waits_for = |slot: &Slot| match &slot.running {
            Some(running) => running.supervisor.not_ready(),
            None => Some(slot.failure.clone().unwrap_or_else(|| "it is not started".to_owned())),
        };
        let not_ready = self.slots.iter().find_map(|(name, slot)| Some((name, waits_for(slot)?)));
        let state = match not_ready {
            None => Readiness::Ready,
            Some((name, why)) => Readiness::NotReady { why: format!("link {name}: {why}") },
        };
        self.readiness.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
    }

    fn look_for_halted(&mut self) {
        for (name, slot) in &mut self.slots {
            let Some(running) = slot.running.as_mut().filter(|running| !running.halted) else { continue };
            if let Some(reason) = running.supervisor.halted() {
                error!("link {name} has halted: {reason}");
                running.halted = true;
                running.supervisor.drain();
            }
        }
    }

    /// For `--until-caught-up`: nothing is to be expected of any link any more.
    fn is_done(&mut self, now: Instant) -> bool {
        if now - self.standing_at < STANDING_INTERVAL {
            return false;
        }
        self.standing_at = now;
        for running in self.running_mut() {
            running.standing = match running.halted {
                true => Standing::Unmet,
                false => running.supervisor.standing(now),
            };
        }
        self.running().all(|running| running.standing != Standing::Going)
    }

    fn figures(&self) -> Figures {
        let mut all = Figures::default();
        for slot in self.slots.values() {
            all.bytes += slot.received.values().map(|(bytes, _)| bytes).sum::<u64>();
            let Some(running) = &slot.running else { continue };
            all.add(running.supervisor.figures(self.options.until_caught_up));
        }
        let (done, partitions) = (all.partitions_done, all.partitions);
        notify(&[NotifyState::Status(&format!(
            "{done} of {partitions} partitions caught up, {}",
            Behind(&all)
        ))]);
        all
    }

    /// Ends the data threads of some links in an orderly way. True: the process was told to end meanwhile.
    async fn drain(&mut self, links: &BTreeSet<String>, signals: &mut Signals, end: Option<&End>) -> bool {
        let mut partitions = 0;
        for (_, slot) in self.slots.iter_mut().filter(|(name, _)| links.contains(*name)) {
            let Some(running) = &mut slot.running else { continue };
            partitions += running.supervisor.partition_count();
            if !running.halted {
                running.supervisor.drain();
            }
        }
        let more = match end {
            // Somebody waits for the end, and would kill what takes longer.
            Some(End::Signal) => Duration::ZERO,
            _ => DRAIN_PER_PARTITION * u32::try_from(partitions).unwrap_or(u32::MAX),
        };
        let limit = DRAIN_LIMIT.saturating_add(more);
        let (leave_at, mut told, mut look) = (Instant::now() + limit, false, looks());
        let is_meant = |name: &String| links.contains(name);
        while !self.slots.iter().filter(|(name, _)| is_meant(name)).all(|(_, slot)| slot.is_drained()) {
            tokio::select! {
                _ = look.tick() => {}
                word = signals.next() => match word {
                    Told::Reload => warn!("told to reload while data threads drain; tell it again"),
                    Told::End if end.is_none() && !told => told = true,
                    Told::End => {
                        error!("a second signal: leaving at once; the next start recovers");
                        std::process::exit(1);
                    }
                },
            }
            for (name, slot) in &mut self.slots {
                let Some(running) = &mut slot.running else { continue };
                match is_meant(name) || running.halted {
                    true => running.supervisor.drive_drain(),
                    false => running.supervisor.drive(),
                }
            }
            self.feed_watchdog();
            if Instant::now() >= leave_at {
                error!("not drained within {} s: leaving; the next start recovers", limit.as_secs());
                std::process::exit(1);
            }
        }
        told
    }

    /// Starts the data threads of some links again, with the settings as they are now. True: the process was told to
    /// end meanwhile.
    async fn carry_out(&mut self, restart: Restart, signals: &mut Signals) -> bool {
        let why = "data threads start again for a change of links".to_owned();
        self.readiness.send_replace(Readiness::NotReady { why });
        let told = self.drain(&restart.links, signals, None).await;
        for name in &restart.links {
            if let Some(slot) = self.slots.get_mut(name) {
                slot.stop().await;
            }
        }
        for link in &restart.deleted {
            self.slots.remove(link);
            if let Err(error) = self.state.delete_link(link, wall_clock_ms()).await {
                warn!("what is kept of link {link} stays: {error}");
            }
        }
        // Judged before they were kept: only the world outside of them can have become worse.
        match self.configuration.links(&self.kept) {
            Err(error) => {
                error!("links cannot be started again: {error}");
                for slot in self.slots.values_mut().filter(|slot| slot.running.is_none()) {
                    slot.failure = Some(error.to_string());
                }
            }
            Ok(links) => {
                let count = links.len();
                self.slots.retain(|name, _| links.iter().any(|each| each.link.name == *name));
                for settings in links {
                    let name = &settings.link.name;
                    if restart.links.contains(name) || !self.slots.contains_key(name) {
                        info!("link {name} is started with its settings as they are now");
                        self.start(Arc::new(settings), count, false).await;
                    }
                }
            }
        }
        self.tell_readiness();
        told
    }

    /// Tells systemd that every shard still turns, where it wants to know.
    fn feed_watchdog(&mut self) {
        if !self.watchdog.is_due() {
            return;
        }
        // Each is asked, so that each is woken.
        let shards = self
            .slots
            .values_mut()
            .filter_map(|slot| slot.running.as_mut())
            .filter(|running| !running.halted)
            .flat_map(|running| running.supervisor.shards_mut());
        let silent = shards.filter_map(|shard| (!shard.proves_alive()).then_some(())).count();
        if silent == 0 {
            notify(&[NotifyState::Watchdog]);
        } else {
            warn!("{silent} data threads do not turn; the watchdog is not fed");
        }
    }
}

impl Slot {
    fn is_drained(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.supervisor.is_drained())
    }
}

/// The next outcome of each link that has one.
async fn outcomes(slots: &mut BTreeMap<String, Slot>) {
    std::future::poll_fn(|context| {
        let mut came = false;
        for running in slots.values_mut().filter_map(|slot| slot.running.as_mut()) {
            if let Poll::Ready(outcome) = running.supervisor.poll_outcome(context) {
                came = true;
                running.supervisor.on_outcome(outcome);
                if !running.halted {
                    running.supervisor.drive();
                }
            }
        }
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

enum Told {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Listened to from before the first link starts: one that comes meanwhile ends or reloads it in an orderly way, too.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(|error| RunError::Runtime(error.kind()));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

fn looks() -> tokio::time::Interval {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// When systemd is to be told.
struct Watchdog {
    interval: Option<Duration>,
    fed_at: Instant,
}

impl Watchdog {
    fn new() -> Self {
        // A third of the time: one missed look must not look like death.
        Self { interval: sd_notify::watchdog_enabled().map(|limit| limit / 3), fed_at: Instant::now() }
    }

    fn is_due(&mut self) -> bool {
        let due = self.interval.is_some_and(|interval| self.fed_at.elapsed() >= interval);
        if due {
            self.fed_at = Instant::now();
        }
        due
    }
}

/// Without systemd nobody listens, which is no error.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
