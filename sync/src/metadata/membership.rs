//! One guest broker id in the destination cluster: registered, heard from, and told what it may do.
//!
//! Owns the identity (incarnation, directory, broker epoch) and the order of registrations and heartbeats.
//! It never asks for a controlled shutdown: granted once, it sticks to the incarnation. It never changes
//! its directory: partitions are bound to it, and another one leaves them without a leader.
//!
//! ```text
//!   Unknown --log seen--> Registering --epoch--> Fenced --caught up--> Active
//!                            ^   ^ 101: wait        |  <--session lost---  |  <- bump: fenced, unfenced
//!                            |   '------77, gone from the log, replaced----+
//!   any --leave--> Leaving --unregistered--> Left
//! ```
//! Identity: an incarnation that was persisted, else the one in the log, else a fresh one; a directory
//! from the log, else derived from cluster and id. The previous epoch always comes from the log: a wrong
//! one costs every partition its recovery state. ref: KIP-631, KIP-858, KIP-966

use super::image::Broker;
use super::record::Uuid;
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt;

/// Pause between heartbeats that ask to be unfenced. Raised, joining takes longer.
const UNFENCE_INTERVAL: Nanoseconds = 50 * MILLISECOND;
/// Pause after a failed request or one at a controller that is not active: a part of the session of 9 s.
const RETRY_PAUSE: Nanoseconds = 100 * MILLISECOND;
/// Pause while our previous incarnation's session lasts, or after a refusal that time may cure.
const REFUSED_PAUSE: Nanoseconds = 500 * MILLISECOND;
/// Longest heartbeat interval: three must fit into the shortest session that is configured in practice (6 s).
pub const HEARTBEAT_INTERVAL_MAX: Nanoseconds = 2 * SECOND;

const NOT_CONTROLLER: i16 = 41;
const STALE_BROKER_EPOCH: i16 = 77;
const DUPLICATE_BROKER_REGISTRATION: i16 = 101;
const BROKER_ID_NOT_REGISTERED: i16 = 102;

#[derive(Clone, Debug)]
pub struct MembershipOptions {
    pub broker: i32,
    pub cluster_id: String,
    /// At most [`HEARTBEAT_INTERVAL_MAX`].
    pub heartbeat_interval: Nanoseconds,
    /// What an earlier process of ours used.
    pub persisted_incarnation: Option<Uuid>,
    /// Random; used when neither we nor the log know one.
    pub fresh_incarnation: Uuid,
}

/// Where the id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipState {
    /// The log has not been read yet.
    Unknown,
    Registering,
    /// Registered, but nothing may be placed on us and we lead nothing.
    Fenced {
        epoch: i64,
    },
    Active {
        epoch: i64,
    },
    Leaving,
    Left,
}

/// Why something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    LogRead,
    Registered,
    Unfenced,
    /// The controller fenced us: too many heartbeats came late.
    SessionLost,
    /// We asked for it, to raise the leader epochs.
    Bump,
    /// A heartbeat was answered with 77.
    StaleEpoch,
    /// The log has no registration of ours any more.
    Unregistered,
    /// The log has our id with another incarnation or epoch: somebody else uses it.
    Replaced,
    /// Our previous incarnation still has a session.
    Duplicate,
    Refused {
        code: i16,
    },
    /// Heartbeats are answered again after they were refused.
    Accepted,
    Leave,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogRead => write!(f, "the metadata log was read"),
            Self::Registered => write!(f, "the controller registered it"),
            Self::Unfenced => write!(f, "the controller unfenced it"),
            Self::SessionLost => write!(f, "the controller missed its heartbeats"),
            Self::Bump => write!(f, "it was fenced to raise the leader epochs"),
            Self::StaleEpoch => write!(f, "the controller knows another epoch of it (77)"),
            Self::Unregistered => write!(f, "it was unregistered"),
            Self::Replaced => {
                write!(f, "another process registered the id: give each process ids of its own")
            }
            Self::Duplicate => write!(f, "its previous incarnation still has a session (101); waiting"),
            Self::Refused { code } => write!(f, "the controller refused it with error code {code}"),
            Self::Accepted => write!(f, "the controller accepts it again"),
            Self::Leave => write!(f, "it leaves"),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum MembershipEvent<'a> {
    /// The image moved: our registration in it, and the offset of the last record applied.
    Observed {
        registration: Option<&'a Broker>,
        metadata_offset: i64,
    },
    Registered(Result<i64, i16>),
    Heartbeat(HeartbeatAnswer),
    Unregistered {
        code: i16,
    },
    /// The request brought no answer.
    Failed,
    /// Raise the leader epoch of every partition that this id leads.
    Bump,
    Leave,
    /// The deadline has passed.
    Woken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    pub code: i16,
    pub is_fenced: bool,
}

/// What the owner is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipAction {
    Register {
        incarnation: Uuid,
        directory: Uuid,
        /// -1: the log knows none.
        previous_epoch: i64,
    },
    /// With the directory cordoned, always.
    Heartbeat {
        epoch: i64,
        metadata_offset: i64,
        want_fence: bool,
        directory: Uuid,
    },
    Unregister,
    /// The controller that was asked is not the active one, or is gone.
    Rediscover,
    Changed {
        state: MembershipState,
        reason: Reason,
    },
    /// From now on the log's word that we lead is ours to act on.
    Serve {
        epoch: i64,
    },
    StopServing {
        reason: Reason,
    },
    /// The fence and the unfence of a bump are both done.
    Bumped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Waiting,
    At(Nanoseconds),
    /// Nothing to send until something happens.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bump {
    None,
    Wanted,
    Fencing,
    Unfencing,
}

/// What the log says of our id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Logged {
    incarnation: Uuid,
    epoch: i64,
    directory: Option<Uuid>,
    fenced: bool,
}

/// See the file's header.
pub struct Membership {
    options: MembershipOptions,
    state: MembershipState,
    logged: Option<Logged>,
    /// The log has shown the epoch that we hold.
    seen_in_log: bool,
    metadata_offset: i64,
    incarnation: Option<Uuid>,
    directory: Option<Uuid>,
    /// The first heartbeat after a registration that starts fenced cordons before anything can be placed.
    fence_first: bool,
    bump: Bump,
    sent_want_fence: bool,
    is_serving: bool,
    turn: Turn,
    /// What was told last: a wait of many tries is one change.
    told: Option<(MembershipState, Reason)>,
    actions: VecDeque<MembershipAction>,
}

impl Membership {
    pub fn new(options: MembershipOptions) -> Self {
        let interval = options.heartbeat_interval;
        assert!((1..=HEARTBEAT_INTERVAL_MAX).contains(&interval), "a heartbeat interval of {interval} ns");
        Self {
            options,
            state: MembershipState::Unknown,
            logged: None,
            seen_in_log: false,
            metadata_offset: -1,
            incarnation: None,
            directory: None,
            fence_first: false,
            bump: Bump::None,
            sent_want_fence: false,
            is_serving: false,
            turn: Turn::Never,
            told: None,
            actions: VecDeque::new(),
        }
    }

    pub fn state(&self) -> MembershipState {
        self.state
    }

    /// To be persisted: with it a restart within the session costs nothing.
    pub fn incarnation(&self) -> Option<Uuid> {
        self.incarnation
    }

    pub fn directory(&self) -> Option<Uuid> {
        self.directory
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        match self.turn {
            Turn::At(at) => Some(at),
            Turn::Waiting | Turn::Never => None,
        }
    }

    pub fn handle(&mut self, now: Nanoseconds, event: MembershipEvent<'_>) {
        match event {
            MembershipEvent::Observed { registration, metadata_offset } => {
                self.observed(now, registration, metadata_offset);
            }
            MembershipEvent::Registered(answer) => self.registered(now, answer),
            MembershipEvent::Heartbeat(answer) => self.heartbeat_answered(now, answer),
            MembershipEvent::Unregistered { code } => self.unregistered(now, code),
            MembershipEvent::Failed => {
                self.actions.push_back(MembershipAction::Rediscover);
                self.turn = Turn::At(now + RETRY_PAUSE);
            }
            MembershipEvent::Bump => {
                if self.bump == Bump::None {
                    self.bump = Bump::Wanted;
                }
                self.hurry(now);
            }
            MembershipEvent::Leave => {
                if !matches!(self.state, MembershipState::Leaving | MembershipState::Left) {
                    self.change(MembershipState::Leaving, Reason::Leave);
                    self.hurry(now);
                    if self.turn == Turn::Never {
                        self.turn = Turn::At(now);
                    }
                }
            }
            MembershipEvent::Woken => {}
        }
    }

    /// The next action; a request once its time has come.
    pub fn poll(&mut self, now: Nanoseconds) -> Option<MembershipAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if !matches!(self.turn, Turn::At(at) if at <= now) {
            return None;
        }
        self.turn = Turn::Waiting;
        match self.state {
            MembershipState::Unknown | MembershipState::Left => {
                self.turn = Turn::Never;
                None
            }
            MembershipState::Registering => Some(self.register()),
            MembershipState::Fenced { epoch } | MembershipState::Active { epoch } => {
                Some(self.heartbeat(epoch))
            }
            MembershipState::Leaving => Some(MembershipAction::Unregister),
        }
    }

    /// Brings the next request forward, unless one is under way.
    fn hurry(&mut self, now: Nanoseconds) {
        if let Turn::At(at) = self.turn {
            self.turn = Turn::At(at.min(now));
        }
    }

    fn change(&mut self, state: MembershipState, reason: Reason) {
        self.state = state;
        if self.told.replace((state, reason)) != Some((state, reason)) {
            self.actions.push_back(MembershipAction::Changed { state, reason });
        }
    }

    fn stop_serving(&mut self, reason: Reason) {
        if core::mem::take(&mut self.is_serving) {
            self.actions.push_back(MembershipAction::StopServing { reason });
        }
    }

    fn observed(&mut self, now: Nanoseconds, registration: Option<&Broker>, metadata_offset: i64) {
        self.metadata_offset = metadata_offset;
        self.logged = registration.map(|broker| Logged {
            incarnation: broker.incarnation,
            epoch: broker.epoch,
            directory: broker.directories.first().copied(),
            fenced: broker.fenced,
        });
        match self.state {
            MembershipState::Unknown => {
                let logged = self.logged;
                let known = self.options.persisted_incarnation.or(logged.map(|logged| logged.incarnation));
                self.incarnation = Some(known.unwrap_or(self.options.fresh_incarnation));
                let derived = derived_directory(&self.options.cluster_id, self.options.broker);
                self.directory = Some(logged.and_then(|logged| logged.directory).unwrap_or(derived));
                self.change(MembershipState::Registering, Reason::LogRead);
                self.turn = Turn::At(now);
            }
            MembershipState::Fenced { epoch } | MembershipState::Active { epoch } => {
                let ours = self.logged.is_some_and(|logged| {
                    logged.epoch == epoch && Some(logged.incarnation) == self.incarnation
                });
                if ours {
                    self.seen_in_log = true;
                } else if self.seen_in_log {
                    let gone = self.logged.is_none();
                    self.lost(now, if gone { Reason::Unregistered } else { Reason::Replaced });
                }
            }
            MembershipState::Registering | MembershipState::Leaving | MembershipState::Left => {}
        }
    }

    /// The registration is not ours any more.
    fn lost(&mut self, now: Nanoseconds, reason: Reason) {
        self.stop_serving(reason);
        self.change(MembershipState::Registering, reason);
        // Not at once: the previous epoch has to come from a log that has seen what happened.
        if self.turn != Turn::Waiting {
            self.turn = Turn::At(now + RETRY_PAUSE);
        }
    }

    fn register(&mut self) -> MembershipAction {
        let (Some(incarnation), Some(directory)) = (self.incarnation, self.directory) else {
            unreachable!("both were chosen before the state was left in which they are unknown");
        };
        assert!(directory[..15].iter().any(|byte| *byte != 0), "a directory id that Kafka reserves");
        let goes_on = self.logged.is_some_and(|logged| logged.incarnation == incarnation && !logged.fenced);
        // Fencing a registration that goes on would take the leadership from all our partitions.
        self.fence_first = !goes_on;
        let previous_epoch = self.logged.map_or(-1, |logged| logged.epoch);
        MembershipAction::Register { incarnation, directory, previous_epoch }
    }

    fn registered(&mut self, now: Nanoseconds, answer: Result<i64, i16>) {
        self.turn = Turn::At(now);
        if self.state != MembershipState::Registering {
            return;
        }
        match answer {
            Ok(epoch) => {
                self.seen_in_log = false;
                self.change(MembershipState::Fenced { epoch }, Reason::Registered);
            }
            Err(NOT_CONTROLLER) => self.rediscover(now),
            Err(code) => {
                let duplicate = code == DUPLICATE_BROKER_REGISTRATION;
                let reason = if duplicate { Reason::Duplicate } else { Reason::Refused { code } };
                self.change(MembershipState::Registering, reason);
                self.turn = Turn::At(now + REFUSED_PAUSE);
            }
        }
    }

    fn rediscover(&mut self, now: Nanoseconds) {
        self.actions.push_back(MembershipAction::Rediscover);
        self.turn = Turn::At(now + RETRY_PAUSE);
    }

    fn heartbeat(&mut self, epoch: i64) -> MembershipAction {
        let active = matches!(self.state, MembershipState::Active { .. });
        if self.bump == Bump::Wanted && active {
            self.bump = Bump::Fencing;
        }
        self.sent_want_fence = self.fence_first || self.bump == Bump::Fencing;
        let directory = self.directory.expect("nothing registers without a directory");
        let (metadata_offset, want_fence) = (self.metadata_offset, self.sent_want_fence);
        MembershipAction::Heartbeat { epoch, metadata_offset, want_fence, directory }
    }

    fn heartbeat_answered(&mut self, now: Nanoseconds, answer: HeartbeatAnswer) {
        self.turn = Turn::At(now);
        let (epoch, was_active) = match self.state {
            MembershipState::Fenced { epoch } => (epoch, false),
            MembershipState::Active { epoch } => (epoch, true),
            // Lost or leaving since it was sent.
            _ => return,
        };
        match answer.code {
            0 if matches!(self.told, Some((_, Reason::Refused { .. }))) => {
                self.change(self.state, Reason::Accepted);
            }
            0 => {}
            NOT_CONTROLLER => return self.rediscover(now),
            STALE_BROKER_EPOCH => {
                self.lost(now, Reason::StaleEpoch);
                self.turn = Turn::At(now + RETRY_PAUSE);
                return;
            }
            code => {
                self.change(self.state, Reason::Refused { code });
                self.turn = Turn::At(now + REFUSED_PAUSE);
                return;
            }
        }
        if self.sent_want_fence && answer.is_fenced {
            self.fence_first = false;
            if self.bump == Bump::Fencing {
                self.bump = Bump::Unfencing;
                self.change(MembershipState::Fenced { epoch }, Reason::Bump);
            }
            return;
        }
        match (answer.is_fenced, was_active) {
            (true, true) => self.change(MembershipState::Fenced { epoch }, Reason::SessionLost),
            (false, false) => self.unfenced(epoch),
            _ => {}
        }
        let waits = if answer.is_fenced { UNFENCE_INTERVAL } else { self.options.heartbeat_interval };
        let bump_waits = self.bump == Bump::Wanted && !answer.is_fenced;
        self.turn = Turn::At(if bump_waits { now } else { now + waits });
    }

    fn unfenced(&mut self, epoch: i64) {
        self.change(MembershipState::Active { epoch }, Reason::Unfenced);
        if !self.is_serving {
            self.is_serving = true;
            self.actions.push_back(MembershipAction::Serve { epoch });
        }
        if self.bump == Bump::Unfencing {
            self.bump = Bump::None;
            self.actions.push_back(MembershipAction::Bumped);
        }
    }

    fn unregistered(&mut self, now: Nanoseconds, code: i16) {
        match code {
            0 | BROKER_ID_NOT_REGISTERED => {
                self.stop_serving(Reason::Leave);
                self.change(MembershipState::Left, Reason::Leave);
                self.turn = Turn::Never;
            }
            NOT_CONTROLLER => self.rediscover(now),
            code => {
                self.change(MembershipState::Leaving, Reason::Refused { code });
                self.turn = Turn::At(now + REFUSED_PAUSE);
            }
        }
    }
}

/// The directory id of a broker id in a cluster: the same on every host and after every loss of our data.
pub fn derived_directory(cluster_id: &str, broker: i32) -> Uuid {
    // FNV-1a, 64 bits twice with different starts: it has to be stable and spread, not secret.
    let half = |start: u64| {
        let bytes = cluster_id.bytes().chain([0]).chain(broker.to_be_bytes());
        bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half(0xcbf2_9ce4_8422_2325).to_be_bytes());
    id[8..].copy_from_slice(&half(0x8422_2325_cbf2_9ce4).to_be_bytes());
    // Version 8 and variant 2 of RFC 9562: never one of the small ids that Kafka reserves.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
