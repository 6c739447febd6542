//! The shard as a guest broker: stock brokers follow the partitions that it leads.
//!
//! ```text
//!   control core: Listen, Brokers, Lead, Freeze        follower (a stock broker)
//!          |                                                |  Fetch, ListOffsets ...
//!          v                                                v
//!   leading.rs   which partitions, at which epoch     follower.rs   one connection: frames in, answers out
//!          |                                                |
//!          +-- news: bytes were appended ---> answer.rs ----+  judge, locate, write the answer's head
//!        (follower_security.rs: TLS, SASL)     send.rs         head from a buffer, records from the images
//!                                              cold.rs         what is only on disk; where offsets lie there
//!   read_through.rs  what is held no more, fetched from elsewhere for who lacks it
//!   spool.rs     what enough followers hold is given up when the budget of the disk is used
//! ```
//! The rules of a leader are `twinlog_sync::guest`; this moves bytes. Records go from the segment image to
//! the socket without a copy, but for the shortest; what left memory is read back into one buffer per
//! connection. Nothing that is not verified, and nothing of a source epoch that is not durable, is served.

mod admission;
pub(super) mod answer;
pub(super) mod cold;
pub(super) mod follower;
pub(super) mod follower_security;
pub(super) mod leading;
pub(super) mod read_through;
pub(super) mod send;
pub(super) mod spool;

use crate::security::Credentials;
use crate::shard::mailbox::RegisteredBroker;
use crate::shard::operations::SegmentKey;
use admission::Admission;
use cold::Reader;
use follower::FollowerIo;
use read_through::Reads;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use twinlog_io::SocketKey;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::Nanoseconds;

/// Connections of followers to one shard. A broker opens `num.replica.fetchers` of them to each guest id;
/// raised, each more may hold 128 KiB of buffers, and 1 MiB while it reads what is only on disk.
pub(super) const FOLLOWERS_MAX: usize = 256;

/// One guest broker id that is reached here.
pub(super) struct Listener {
    pub guest: i32,
    pub socket: SocketKey,
    pub address: SocketAddr,
    /// The connection that is waited for.
    pub accepting: Option<u32>,
    pub closing: bool,
}

/// A partition of a destination topic that is ours to lead, here or on its way here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Led {
    /// In this slot.
    Here(u32),
    /// Its log is being put right; followers are told to ask again.
    Away,
}

/// What a shard holds as a guest.
#[derive(Default)]
pub(super) struct Guests {
    pub listeners: Vec<Listener>,
    pub followers: Vec<Option<FollowerIo>>,
    /// By the destination's topic id.
    pub led: HashMap<(TopicId, i32), Led>,
    pub topics_by_name: HashMap<Vec<u8>, TopicId>,
    pub brokers: Arc<[RegisteredBroker]>,
    /// What followers prove themselves by where SASL is spoken.
    pub credentials: Credentials,
    /// When each follower is to be looked at again.
    pub timers: BTreeSet<(Nanoseconds, u32)>,
    /// Connections that wait for memory.
    pub waiting_for_memory: BTreeSet<u32>,
    /// Files that are open for reading.
    pub readers: BTreeMap<(u32, i64), Reader>,
    /// Oldest first: who closes when descriptors run out.
    pub reader_order: Vec<SegmentKey>,
    /// What followers lack and the spool gave up.
    pub reads: Reads,
    /// Handshakes that addresses may begin.
    pub admission: Admission,
    /// State of the generator of session ids.
    pub session_seed: u64,
    /// When stalled followers were last looked for.
    pub looked_at: Nanoseconds,
    /// When silent connections were last looked for.
    pub silent_looked_at: Nanoseconds,
}

impl Guests {
    /// Some broker is registered there. All are let in before the first word of any: they prove themselves then.
    pub fn knows_address(&self, peer: SocketAddr) -> bool {
        let from = peer.ip().to_canonical();
        self.brokers.is_empty() || self.brokers.iter().any(|broker| broker.addresses.contains(&from))
    }

    /// What peers that may be anybody have sent of their first requests.
    pub fn unproven_bytes(&self) -> usize {
        self.followers.iter().flatten().map(FollowerIo::unproven_bytes).sum()
    }

    /// A session id that is not 0 and not likely to have been another's before a restart.
    pub fn fresh_session_id(&mut self, now: Nanoseconds) -> i32 {
        // xorshift over the clock: unguessable ids are not needed, ids that differ after a restart are.
        let mut state = self.session_seed ^ now.rotate_left(17) | 1;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.session_seed = state;
        ((state >> 33) as i32 & i32::MAX).max(1)
    }
}
