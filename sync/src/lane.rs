//! One connection to one source broker: connect, learn its Fetch version, fetch, back off.
//!
//! ```text
//!   Idle --partitions--> Connecting --> Securing --> Negotiating --> Ready <--> Fetching
//!    ^                        \___________\_______________\______________\________/  failure: close
//!    |                                                                      v
//!    +-------------------- BackingOff <------------------------------ Closing
//! ```
//! `Securing` is TLS and SASL where they are spoken, once more from `Ready` when the session has to be renewed.
//! A broker serves one request per connection at a time, so one fetch is under way per lane; tail and
//! catch-up have a lane each, so that a large answer never stands before a small one. The machine
//! knows nothing of sockets: it fills `outgoing` and says when to connect, send and close.

use crate::backoff::{Backoff, BackoffLimits};
use crate::credits::LaneKind;
use crate::fault::code;
use crate::session::{FetchSession, SessionRequest};
use crate::wire::WireError;
use crate::wire::api_versions::{self, Negotiated};
use crate::wire::fetch_request::{self, FetchHeader, IsolationLevel};
use crate::wire::fetch_response::FetchDecoder;
use crate::{MILLISECOND, Nanoseconds};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Longest throttle that is obeyed at once: a hostile or broken broker must not silence a lane for ever.
pub const THROTTLE_MAX: Nanoseconds = 30_000 * MILLISECOND;
/// Largest answer asked for while tailing. A long poll holds its credits while it waits; raising this
/// takes memory from catching up, once per source broker.
const TAIL_RESPONSE_BYTES_MAX: u32 = 2 << 20;
/// Shortest pause after a broker did not believe who we are. Lowered, a changed password locks the account.
pub const AUTHENTICATION_PAUSE: Nanoseconds = 10_000 * MILLISECOND;
/// What an answer may hold beside its records: partition heads of ten thousand partitions and more.
const FRAME_OVERHEAD_BYTES: u32 = 16 << 20;

/// The keys of a link that shape its fetches.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    pub client_id: String,
    /// `client.rack`
    pub rack: String,
    pub isolation_level: IsolationLevel,
    /// `replica.fetch.wait.max.ms`
    pub wait_max_ms: u32,
    /// `replica.fetch.min.bytes`
    pub bytes_min: u32,
    /// `replica.fetch.response.max.bytes`
    pub response_bytes_max: u32,
    /// `batch.bytes.max`
    pub batch_bytes_max: u32,
    /// `request.timeout.ms`
    pub request_timeout_ms: u32,
    /// Pauses after failures, of the connection and of each partition.
    pub backoff: BackoffLimits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Idle,
    BackingOff {
        until: Nanoseconds,
    },
    Connecting {
        deadline: Nanoseconds,
    },
    /// TLS and SASL, by the owner.
    Securing {
        deadline: Nanoseconds,
    },
    Negotiating {
        deadline: Nanoseconds,
    },
    /// Nothing is under way; a throttle may ask to wait.
    Ready {
        not_before: Nanoseconds,
    },
    Fetching {
        deadline: Nanoseconds,
        sent_at: Nanoseconds,
    },
    Closing,
}

/// What the owner has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Connect,
    /// Make the connection secure, then say [`Lane::secured`].
    Secure,
    /// Send the whole of [`Lane::outgoing`].
    Send,
    Close,
}

/// Why a connection was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneFault {
    /// errno of connect, send or receive.
    Network(i32),
    PeerClosed,
    TimedOut,
    Wire(WireError),
    NoCommonVersion {
        lowest: i16,
        highest: i16,
    },
    Refused {
        code: i16,
    },
    /// TLS or SASL failed, in the words of who speaks them.
    Insecure {
        why: Arc<str>,
    },
    /// The broker does not believe who we are.
    AuthenticationFailed {
        why: Arc<str>,
    },
    /// The broker's address changed or is not known any more.
    Moved,
    /// The owner ends: nothing is wrong with the connection.
    Ended,
}

impl fmt::Display for LaneFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(errno) => write!(f, "the connection failed with errno {errno}"),
            Self::PeerClosed => write!(f, "the broker closed the connection"),
            Self::TimedOut => write!(f, "no answer within request.timeout.ms"),
            Self::Wire(error) => write!(f, "the broker sent what is not Kafka: {error}"),
            Self::NoCommonVersion { lowest, highest } => write!(
                f,
                "the broker speaks Fetch v{lowest} to v{highest}; v{} to v{} are understood",
                api_versions::FETCH_VERSION_MIN,
                api_versions::FETCH_VERSION_MAX
            ),
            Self::Refused { code } => write!(f, "the broker refused the request with error code {code}"),
            Self::Insecure { why } | Self::AuthenticationFailed { why } => f.write_str(why),
            Self::Moved => write!(f, "the broker's address is not known or changed"),
            Self::Ended => write!(f, "no more is fetched"),
        }
    }
}

/// See the file's header.
pub struct Lane {
    pub broker: i32,
    pub kind: LaneKind,
    pub session: FetchSession,
    /// The request to be sent.
    pub outgoing: Vec<u8>,
    options: Arc<LaneOptions>,
    state: State,
    decoder: Option<FetchDecoder>,
    version: i16,
    correlation_id: i32,
    request: SessionRequest,
    granted: u64,
    backoff: Backoff,
    last_fault: Option<LaneFault>,
    actions: VecDeque<Action>,
}

impl Lane {
    pub fn new(broker: i32, kind: LaneKind, options: Arc<LaneOptions>, seed: u64) -> Self {
        Self {
            broker,
            kind,
            session: FetchSession::default(),
            outgoing: Vec::new(),
            backoff: Backoff::within(options.backoff, seed ^ u64::from(broker.cast_unsigned())),
            options,
            state: State::Idle,
            decoder: None,
            version: 0,
            correlation_id: 0,
            request: SessionRequest::default(),
            granted: 0,
            last_fault: None,
            actions: VecDeque::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Why the last connection ended.
    pub fn last_fault(&self) -> Option<&LaneFault> {
        self.last_fault.as_ref()
    }

    /// The correlation id of the request under way.
    pub fn correlation_id(&self) -> i32 {
        self.correlation_id
    }

    /// Whether this broker finds a diverging log by itself; unknown before the version is negotiated.
    pub fn compares_epochs(&self) -> Option<bool> {
        self.decoder.as_ref().map(|_| self.version >= fetch_request::VERSION_FLEXIBLE)
    }

    /// The decoder of this connection's answers; there is one once the version is known.
    pub fn decoder(&mut self) -> &mut FetchDecoder {
        self.decoder.as_mut().expect("fetching starts after the version was negotiated")
    }

    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        match self.state {
            State::BackingOff { until } => Some(until),
            State::Connecting { deadline }
            | State::Securing { deadline }
            | State::Negotiating { deadline }
            | State::Fetching { deadline, .. } => Some(deadline),
            State::Ready { not_before } if !self.session.is_empty() && not_before > 0 => Some(not_before),
            State::Ready { .. } | State::Idle | State::Closing => None,
        }
    }

    /// Time has passed or partitions have come: connect when there is a reason to, give up what is late.
    pub fn tick(&mut self, now: Nanoseconds) {
        match self.state {
            State::Idle if !self.session.is_empty() => self.connect(now),
            State::BackingOff { until } if now >= until => {
                self.state = State::Idle;
                self.tick(now);
            }
            State::Connecting { deadline }
            | State::Securing { deadline }
            | State::Negotiating { deadline }
            | State::Fetching { deadline, .. }
                if now >= deadline =>
            {
                self.failed(LaneFault::TimedOut);
            }
            State::Ready { not_before } if not_before > 0 && now >= not_before => {
                self.state = State::Ready { not_before: 0 };
            }
            _ => {}
        }
    }

    fn timeout(&self, now: Nanoseconds) -> Nanoseconds {
        now + u64::from(self.options.request_timeout_ms) * MILLISECOND
    }

    fn connect(&mut self, now: Nanoseconds) {
        self.state = State::Connecting { deadline: self.timeout(now) };
        self.actions.push_back(Action::Connect);
    }

    /// The connection stands. With `secure` it has to be made so before anything is asked on it; the deadline
    /// of connecting stays, so that a peer which dribbles through a handshake gains nothing.
    pub fn connected(&mut self, now: Nanoseconds, secure: bool) {
        let State::Connecting { deadline } = self.state else { return };
        if secure {
            self.state = State::Securing { deadline };
            self.actions.push_back(Action::Secure);
        } else {
            self.negotiate(now);
        }
    }

    /// Between two fetches the session is to be renewed (ref: KIP-368). False while something is under way.
    pub fn renew(&mut self, now: Nanoseconds) -> bool {
        let ready = matches!(self.state, State::Ready { .. });
        if ready {
            self.state = State::Securing { deadline: self.timeout(now) };
            self.actions.push_back(Action::Secure);
        }
        ready
    }

    /// The connection is secure, for the first time or again.
    pub fn secured(&mut self, now: Nanoseconds) {
        if !matches!(self.state, State::Securing { .. }) {
            return;
        }
        match self.decoder {
            Some(_) => self.state = State::Ready { not_before: 0 },
            None => self.negotiate(now),
        }
    }

    fn negotiate(&mut self, now: Nanoseconds) {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        self.outgoing.clear();
        api_versions::write_request(&mut self.outgoing, self.correlation_id, &self.options.client_id);
        self.state = State::Negotiating { deadline: self.timeout(now) };
        self.actions.push_back(Action::Send);
    }

    pub fn negotiated(&mut self, negotiated: Negotiated) {
        match negotiated {
            Negotiated::Fetch(version) => {
                let frame_bytes_max = self
                    .options
                    .response_bytes_max
                    .max(self.options.batch_bytes_max)
                    .saturating_add(FRAME_OVERHEAD_BYTES)
                    .min(i32::MAX.cast_unsigned());
                self.version = version;
                self.decoder = Some(FetchDecoder::new(version, frame_bytes_max));
                self.state = State::Ready { not_before: 0 };
            }
            Negotiated::NoCommonVersion { lowest, highest } => {
                self.failed(LaneFault::NoCommonVersion { lowest, highest });
            }
            Negotiated::Refused(code) => self.failed(LaneFault::Refused { code }),
        }
    }

    /// Bytes that a fetch now could use, when one may be sent.
    pub fn wants_to_fetch(&self) -> Option<u64> {
        let ready = matches!(self.state, State::Ready { not_before: 0 }) && !self.session.is_empty();
        let limit = match self.kind {
            LaneKind::Tail => self.options.response_bytes_max.min(TAIL_RESPONSE_BYTES_MAX),
            LaneKind::CatchUp => self.options.response_bytes_max,
        };
        ready.then(|| self.session.bytes_wanted(u64::from(limit)))
    }

    /// Writes the next fetch, which may bring `granted` bytes.
    pub fn fetch(&mut self, now: Nanoseconds, granted: u64) {
        assert!(self.wants_to_fetch().is_some(), "a fetch in state {:?}", self.state);
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        self.session.next_request(self.version, &mut self.request);
        let header = FetchHeader {
            version: self.version,
            correlation_id: self.correlation_id,
            client_id: &self.options.client_id,
            rack: &self.options.rack,
            wait_max_ms: self.options.wait_max_ms,
            bytes_min: self.options.bytes_min,
            bytes_max: u32::try_from(granted).unwrap_or(u32::MAX).min(i32::MAX.cast_unsigned()),
            isolation_level: self.options.isolation_level,
            session_id: self.request.session_id,
            session_epoch: self.request.session_epoch,
        };
        self.outgoing.clear();
        let (partitions, forgotten) = (&self.request.partitions, &self.request.forgotten);
        fetch_request::write_request(&mut self.outgoing, &header, partitions, forgotten);
        let correlation_id = self.correlation_id;
        self.decoder().expect(correlation_id);
        self.granted = granted;
        let wait = u64::from(self.options.wait_max_ms) * MILLISECOND;
        self.state = State::Fetching { deadline: self.timeout(now) + wait, sent_at: now };
        self.actions.push_back(Action::Send);
    }

    /// Bytes have come: the broker is alive, and a large answer over a slow link is not late.
    pub fn progressed(&mut self, now: Nanoseconds) {
        let later = self.timeout(now);
        if let State::Fetching { deadline, .. } = &mut self.state {
            *deadline = later.max(*deadline);
        }
    }

    /// The top of an answer. Returns false when the lane was given up.
    pub fn response(&mut self, now: Nanoseconds, throttle_ms: i32, error: i16, session_id: i32) -> bool {
        let throttle = u64::from(throttle_ms.max(0).cast_unsigned()) * MILLISECOND;
        if throttle > 0
            && let State::Fetching { sent_at, .. } = &mut self.state
        {
            // The pause is taken when the answer is complete; sent_at is used no more.
            *sent_at = now + throttle.min(THROTTLE_MAX);
        }
        match error {
            // A throttled answer to a full request is empty and names no session; the broker does keep them.
            0 if throttle > 0 && session_id == 0 => self.session.lost(),
            0 => self.session.answered(session_id),
            code::FETCH_SESSION_ID_NOT_FOUND
            | code::INVALID_FETCH_SESSION_EPOCH
            | code::FETCH_SESSION_TOPIC_ID_ERROR => self.session.lost(),
            code => {
                self.failed(LaneFault::Refused { code });
                return false;
            }
        }
        true
    }

    /// The answer is complete. Returns the bytes that had been granted for it.
    pub fn answered(&mut self, now: Nanoseconds) -> u64 {
        let State::Fetching { sent_at, .. } = self.state else {
            panic!("an answer ends in state {:?}", self.state);
        };
        self.state = State::Ready { not_before: if sent_at > now { sent_at } else { 0 } };
        self.backoff.reset();
        core::mem::take(&mut self.granted)
    }

    /// Credits of a fetch that will never be answered.
    pub fn take_granted(&mut self) -> u64 {
        core::mem::take(&mut self.granted)
    }

    /// Gives the connection up, whatever its state.
    pub fn failed(&mut self, fault: LaneFault) {
        match self.state {
            State::Idle | State::BackingOff { .. } | State::Closing => {}
            _ => {
                self.last_fault = Some(fault);
                self.state = State::Closing;
                self.actions.clear();
                self.actions.push_back(Action::Close);
            }
        }
    }

    /// The socket is closed and nothing of it is in flight any more.
    pub fn closed(&mut self, now: Nanoseconds) {
        assert!(self.state == State::Closing, "closed in state {:?}", self.state);
        self.session.lost();
        self.decoder = None;
        let least = match self.last_fault {
            Some(LaneFault::AuthenticationFailed { .. }) => AUTHENTICATION_PAUSE,
            _ => 0,
        };
        self.state = State::BackingOff { until: now + least + self.backoff.pause() };
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
