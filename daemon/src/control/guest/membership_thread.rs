//! The heartbeats of all guest ids, on a thread where nothing else can hold them up.
//!
//! Owns that thread, one task and one connection per id, and what they say: states, events, figures. The
//! session is some 9 s and its end takes the leadership of every mirror, so there is no file, no lock that
//! is waited for, and no queue that can be full: states are a watch, and events drop the oldest.
//!
//! ```text
//!   commands (bounded, per id) --> task of the id --> Membership machine --> controller
//!   image moves ------------------^        \--> states (watch), events (broadcast), slack (atomics)
//! ```

use super::controller_client::{ControllerClient, ControllerError};
use super::controllers::Controllers;
use super::metadata_task::SharedImage;
use super::wire_form::{random_uuid, wire_id, wire_text};
use super::{CORDON_METADATA_VERSION, GuestError};
use crate::config::HostPort;
use crate::control::source_client::ConnectionOptions;
use crate::security::SecurityProtocol;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest, UnregisterBrokerRequest,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;
use twinlog_sync::Nanoseconds;
use twinlog_sync::metadata::membership::{HeartbeatAnswer, MembershipEvent, Reason};
use twinlog_sync::metadata::record::{FeatureRange, Uuid};
use twinlog_sync::metadata::{Membership, MembershipAction, MembershipOptions, MembershipState};

/// Commands that wait for one id. Each takes milliseconds; more of them is a caller that does not look.
const COMMANDS_MAX: usize = 16;
/// Events that a slow receiver can be behind before it has to look at the states instead.
const EVENTS_MAX: usize = 1_024;
/// No answer for this long is a lost heartbeat. Raised, fewer tries fit into a session of 9 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// When the image was being written at the moment of a look: the next look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The heartbeat version that can cordon, and the tag in which it does. ref: KIP-1066
const CORDON_VERSION: i16 = 2;
const CORDON_TAG: i32 = 1;

pub struct MemberOptions {
    pub listener_name: String,
    /// What is spoken there.
    pub listener_protocol: SecurityProtocol,
    pub ids: Vec<(i32, HostPort)>,
    pub incarnations: BTreeMap<i32, Uuid>,
    pub heartbeat_interval: Duration,
    pub session_timeout: Duration,
    pub without_cordon: bool,
    pub connection: ConnectionOptions,
    pub controllers: Arc<Controllers>,
    pub image: Arc<SharedImage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Bump,
    Leave,
}

/// Where an id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestState {
    pub state: MembershipState,
    /// Why it came to that.
    pub reason: Option<Reason>,
    /// Whether what the log says of our leadership may be acted on.
    pub is_serving: bool,
    /// To be persisted.
    pub incarnation: Option<Uuid>,
    pub directory: Option<Uuid>,
    /// Bumps that were carried out.
    pub bumps: u64,
}

impl GuestState {
    const START: GuestState = GuestState {
        state: MembershipState::Unknown,
        reason: None,
        is_serving: false,
        incarnation: None,
        directory: None,
        bumps: 0,
    };

    /// The epoch under which the cluster knows us, while it does.
    pub fn broker_epoch(&self) -> Option<i64> {
        match self.state {
            MembershipState::Fenced { epoch } | MembershipState::Active { epoch } => Some(epoch),
            _ => None,
        }
    }
}

/// What happened to an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    Changed { id: i32, state: MembershipState, reason: Reason },
    Serve { id: i32, epoch: i64 },
    StopServing { id: i32, reason: Reason },
    Bumped { id: i32 },
}

/// How close heartbeats came to the end of the session. Slack: what was left of it when one was sent.
#[derive(Debug)]
pub struct HeartbeatFigures {
    pub sent: AtomicU64,
    pub last_slack_ms: AtomicI64,
    pub least_slack_ms: AtomicI64,
}

/// The thread and the ends of its channels.
pub struct MembershipThread {
    commands: BTreeMap<i32, mpsc::Sender<Command>>,
    states: watch::Receiver<BTreeMap<i32, GuestState>>,
    events: broadcast::Sender<GuestEvent>,
    figures: BTreeMap<i32, Arc<HeartbeatFigures>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl MembershipThread {
    pub fn spawn(options: MemberOptions) -> Result<Self, GuestError> {
        let failed = |error: std::io::Error| GuestError::Thread { error: error.kind() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let starts = options.ids.iter().map(|(id, _)| (*id, GuestState::START)).collect();
        let (states_in, states) = watch::channel(starts);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (stop, _) = watch::channel(false);
        let (mut commands, mut figures, mut members) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let options = Arc::new(options);
        let states_in = Arc::new(states_in);
        for (id, address) in &options.ids {
            let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
            let own = Arc::new(HeartbeatFigures {
                sent: AtomicU64::new(0),
                last_slack_ms: AtomicI64::new(i64::MAX),
                least_slack_ms: AtomicI64::new(i64::MAX),
            });
            commands.insert(*id, sender);
            figures.insert(*id, own.clone());
            let member = Member::new(*id, address.clone(), &options, own, states_in.clone(), events.clone());
            members.push((member, receiver, stop.subscribe()));
        }
        let run = move || {
            runtime.block_on(async {
                let tasks: Vec<_> = members
                    .into_iter()
                    .map(|(member, commands, mut stop)| {
                        tokio::spawn(async move {
                            tokio::select! {
                                () = member.run(commands) => {}
                                _ = stop.wait_for(|stop| *stop) => {}
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("a member's task does not panic");
                }
            });
            // A name server or a KDC that does not answer must not hold the end back.
            runtime.shutdown_background();
        };
        let thread =
            std::thread::Builder::new().name("twinlog-guest".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { commands, states, events, figures, stop, thread: Some(thread) })
    }

    pub fn command(&self, id: i32, command: Command) -> Result<(), GuestError> {
        let sender = self.commands.get(&id).ok_or(GuestError::UnknownId { id })?;
        sender.try_send(command).map_err(|_| GuestError::Busy { id })
    }

    pub fn states(&self) -> watch::Receiver<BTreeMap<i32, GuestState>> {
        self.states.clone()
    }

    pub fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.events.subscribe()
    }

    pub fn figures(&self, id: i32) -> Option<Arc<HeartbeatFigures>> {
        self.figures.get(&id).cloned()
    }
}

impl Drop for MembershipThread {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened; a drop must not add another.
            let _ = thread.join();
        }
    }
}

/// One id.
struct Member {
    id: i32,
    address: HostPort,
    options: Arc<MemberOptions>,
    client: ControllerClient,
    figures: Arc<HeartbeatFigures>,
    states: Arc<watch::Sender<BTreeMap<i32, GuestState>>>,
    events: broadcast::Sender<GuestEvent>,
    started: Instant,
    /// When the last heartbeat was sent that was answered well.
    renewed: Option<Instant>,
}

impl Member {
    fn new(
        id: i32,
        address: HostPort,
        options: &Arc<MemberOptions>,
        figures: Arc<HeartbeatFigures>,
        states: Arc<watch::Sender<BTreeMap<i32, GuestState>>>,
        events: broadcast::Sender<GuestEvent>,
    ) -> Self {
        let request_timeout = options.connection.request_timeout.min(ANSWER_TIMEOUT);
        let connection = ConnectionOptions { request_timeout, ..options.connection.clone() };
        let client = ControllerClient::new(options.controllers.clone(), connection);
        let (options, started) = (options.clone(), Instant::now());
        Self { id, address, options, client, figures, states, events, started, renewed: None }
    }

    fn now(&self) -> Nanoseconds {
        self.started.elapsed().as_nanos() as Nanoseconds
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut moves = self.options.image.moves();
        moves.wait_for(|state| state.is_ready).await.expect("the image lives as long as its readers");
        // There is no session yet that waiting could cost.
        let level = self.options.image.read().feature("metadata.version");
        if level.is_none_or(|level| level < CORDON_METADATA_VERSION) && !self.options.without_cordon {
            // The control core says why; a registration would stay in the cluster.
            return;
        }
        let cluster_id = self.options.image.cluster_id().expect("known before the image is ready").to_owned();
        let mut membership = Membership::new(MembershipOptions {
            broker: self.id,
            cluster_id,
            heartbeat_interval: self.options.heartbeat_interval.as_nanos() as Nanoseconds,
            persisted_incarnation: self.options.incarnations.get(&self.id).copied(),
            fresh_incarnation: random_uuid(),
        });
        let mut look_at = Some(Instant::now());
        loop {
            while let Some(action) = membership.poll(self.now()) {
                self.perform(action, &mut membership).await;
            }
            let deadline = membership.deadline().map(|at| self.started + Duration::from_nanos(at));
            // Without a deadline only a command or the log can wake it.
            let wake_at = deadline.into_iter().chain(look_at).min();
            let woken = async {
                match wake_at {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = woken => membership.handle(self.now(), MembershipEvent::Woken),
                moved = moves.changed() => {
                    moved.expect("the image lives as long as its readers");
                    look_at = Some(Instant::now());
                }
                command = commands.recv() => match command {
                    Some(Command::Bump) => membership.handle(self.now(), MembershipEvent::Bump),
                    Some(Command::Leave) => membership.handle(self.now(), MembershipEvent::Leave),
                    None => return,
                },
            }
            if look_at.is_some_and(|at| at <= Instant::now()) {
                let seen = self.observe(&mut membership);
                look_at = if seen { None } else { Some(Instant::now() + LOOK_AGAIN) };
            }
        }
    }

    /// `false` when the image was being written.
    fn observe(&self, membership: &mut Membership) -> bool {
        let Some(image) = self.options.image.try_read() else { return false };
        let metadata_offset = self.options.image.state().next_offset - 1;
        let registration = image.broker(self.id);
        membership.handle(self.now(), MembershipEvent::Observed { registration, metadata_offset });
        true
    }

    async fn perform(&mut self, action: MembershipAction, membership: &mut Membership) {
        match action {
            MembershipAction::Register { incarnation, directory, previous_epoch } => {
                let answer = self.register(incarnation, directory, previous_epoch).await;
                let event = answer.map_or(MembershipEvent::Failed, MembershipEvent::Registered);
                membership.handle(self.now(), event);
            }
            MembershipAction::Heartbeat { epoch, metadata_offset, want_fence, directory } => {
                let answer = self.heartbeat(epoch, metadata_offset, want_fence, directory).await;
                let event = answer.map_or(MembershipEvent::Failed, MembershipEvent::Heartbeat);
                membership.handle(self.now(), event);
            }
            MembershipAction::Unregister => {
                let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(self.id));
                let answer = self.client.ask(|_| request.clone()).await;
                let code = self.answered(answer).map(|answer| answer.error_code);
                let event =
                    code.map_or(MembershipEvent::Failed, |code| MembershipEvent::Unregistered { code });
                membership.handle(self.now(), event);
            }
            // The client that was told so has done it.
            MembershipAction::Rediscover => {}
            MembershipAction::Changed { state, reason } => {
                tracing::info!("guest broker {}: {state:?}, because {reason}", self.id);
                let (incarnation, directory) = (membership.incarnation(), membership.directory());
                self.publish(|own| {
                    *own = GuestState { state, reason: Some(reason), incarnation, directory, ..*own }
                });
                self.tell(GuestEvent::Changed { id: self.id, state, reason });
            }
            MembershipAction::Serve { epoch } => {
                self.publish(|own| own.is_serving = true);
                self.tell(GuestEvent::Serve { id: self.id, epoch });
            }
            MembershipAction::StopServing { reason } => {
                tracing::warn!("guest broker {} stops serving, because {reason}", self.id);
                self.publish(|own| own.is_serving = false);
                self.tell(GuestEvent::StopServing { id: self.id, reason });
            }
            MembershipAction::Bumped => {
                self.publish(|own| own.bumps += 1);
                self.tell(GuestEvent::Bumped { id: self.id });
            }
        }
    }

    fn publish(&self, change: impl FnOnce(&mut GuestState)) {
        self.states.send_modify(|states| change(states.entry(self.id).or_insert(GuestState::START)));
    }

    fn tell(&self, event: GuestEvent) {
        // Nobody may be listening: the states say the same.
        let _ = self.events.send(event);
    }

    fn answered<T>(&self, answer: Result<T, ControllerError>) -> Option<T> {
        answer.inspect_err(|error| tracing::warn!("guest broker {}: {error}", self.id)).ok()
    }

    async fn register(
        &mut self,
        incarnation: Uuid,
        directory: Uuid,
        previous_epoch: i64,
    ) -> Option<Result<i64, i16>> {
        let features = self.features_of_a_stock_broker()?;
        let listener = Listener::default()
            .with_name(wire_text(&self.options.listener_name))
            .with_host(wire_text(&self.address.host))
            .with_port(self.address.port)
            .with_security_protocol(self.options.listener_protocol.number());
        let feature = |feature: &FeatureRange| {
            Feature::default()
                .with_name(wire_text(&feature.name))
                .with_min_supported_version(feature.min)
                .with_max_supported_version(feature.max)
        };
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(self.id))
            .with_cluster_id(wire_text(self.options.image.cluster_id().unwrap_or_default()))
            .with_incarnation_id(wire_id(incarnation))
            .with_listeners(vec![listener])
            .with_features(features.iter().map(feature).collect())
            .with_log_dirs(vec![wire_id(directory)])
            .with_previous_broker_epoch(previous_epoch);
        let answer = self.client.ask(|_| request.clone()).await;
        let answer = self.answered(answer)?;
        Some(if answer.error_code == 0 { Ok(answer.broker_epoch) } else { Err(answer.error_code) })
    }

    /// What the cluster's own brokers can do is what it may ask of us. `None`: there is none yet.
    fn features_of_a_stock_broker(&self) -> Option<Vec<FeatureRange>> {
        let image = self.options.image.try_read()?;
        let is_ours = |id: &i32| self.options.ids.iter().any(|(ours, _)| ours == id);
        let stock = image.brokers().iter().find(|(id, broker)| !is_ours(id) && !broker.fenced);
        stock.map(|(_, broker)| broker.features.clone())
    }

    async fn heartbeat(
        &mut self,
        epoch: i64,
        metadata_offset: i64,
        want_fence: bool,
        directory: Uuid,
    ) -> Option<HeartbeatAnswer> {
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(self.id))
            .with_broker_epoch(epoch)
            .with_current_metadata_offset(metadata_offset)
            .with_want_fence(want_fence);
        let sent = Instant::now();
        self.count_slack(sent);
        let answer = self.client.ask(|version| cordoned(request.clone(), version, directory)).await;
        let answer = self.answered(answer)?;
        if answer.error_code == 0 {
            self.renewed = Some(sent);
        }
        Some(HeartbeatAnswer { code: answer.error_code, is_fenced: answer.is_fenced })
    }

    fn count_slack(&self, sent: Instant) {
        self.figures.sent.fetch_add(1, Ordering::Relaxed);
        let Some(renewed) = self.renewed else { return };
        let session_ms = self.options.session_timeout.as_millis() as i64;
        let slack_ms = session_ms - sent.duration_since(renewed).as_millis() as i64;
        self.figures.last_slack_ms.store(slack_ms, Ordering::Relaxed);
        self.figures.least_slack_ms.fetch_min(slack_ms, Ordering::Relaxed);
    }
}

/// Adds the directory as cordoned where the controller can read it. The library knows version 1, to which
/// version 2 adds this one tag.
pub(super) fn cordoned(
    mut request: BrokerHeartbeatRequest,
    version: i16,
    directory: Uuid,
) -> BrokerHeartbeatRequest {
    if version >= CORDON_VERSION {
        let mut list = BytesMut::with_capacity(17);
        // A compact array of one.
        list.put_u8(2);
        list.put_slice(&directory);
        let list: Bytes = list.freeze();
        request.unknown_tagged_fields.insert(CORDON_TAG, list);
    }
    request
}
