//! Incremental fetch sessions as a broker keeps them. ref: KIP-227
//!
//! ```text
//!   epoch 0            full request, a session is made when it is answered
//!   epoch n, id i      only changes are listed; the answer holds what has news
//!   epoch -1           full request without a session; ends session i if one is named
//!   wrong id -> error 70     wrong epoch -> error 71     ids and names mixed -> error 106
//! ```
//! Invariants: the epoch rises when a request arrives, not when it is answered; a partition that sent records
//! goes to the end of the order, so that a hot one cannot starve those behind it.

use super::fetch::Asked;
use super::topics::TopicKey;
use std::collections::BTreeMap;
use twinlog_sync::fault::code;

/// Sessions that one broker keeps, as Kafka's `max.incremental.fetch.session.cache.slots`. Beyond it the
/// session that was used longest ago goes; a client sees error 70 then. Raising it costs memory only.
const SESSIONS_MAX: usize = 1_000;

pub type PartitionKey = (TopicKey, i32);

/// A partition of a session and what its reader was last told.
#[derive(Clone, Debug)]
struct Cached {
    asked: Asked,
    place: u64,
    high_watermark: i64,
    log_start: i64,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    uses_ids: bool,
    cached: BTreeMap<PartitionKey, Cached>,
    order: BTreeMap<u64, PartitionKey>,
    next_place: u64,
    used: u64,
}

/// What a request is to its broker's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// A full request that wants no session.
    None,
    /// A full request that begins one.
    Begin { uses_ids: bool },
    /// The session stands at this epoch until it is answered.
    Continue { id: i32, epoch: i32 },
}

/// All sessions of one broker.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: BTreeMap<i32, Session>,
    made: u32,
    uses: u64,
    /// A broker that keeps none answers every full request with the id 0.
    pub disabled: bool,
}

/// What is told of one partition, for the comparison with what was told before.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub error: i16,
    pub high_watermark: i64,
    pub log_start: i64,
    pub records_bytes: u32,
    pub diverging: bool,
}

impl Session {
    fn add(&mut self, key: PartitionKey, asked: Asked) {
        if let Some(cached) = self.cached.get_mut(&key) {
            cached.asked = asked;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, key.clone());
        self.cached.insert(key, Cached { asked, place, high_watermark: -1, log_start: -1 });
    }

    fn remove(&mut self, key: &PartitionKey) {
        if let Some(cached) = self.cached.remove(key) {
            self.order.remove(&cached.place);
        }
    }

    /// Notes what is told, and says whether it is worth telling.
    fn tell(&mut self, key: &PartitionKey, told: &Told) -> bool {
        let Some(cached) = self.cached.get_mut(key) else { return true };
        let news = told.records_bytes > 0
            || cached.high_watermark != told.high_watermark
            || cached.log_start != told.log_start
            || told.error != 0
            || told.diverging;
        // After an error the partition is told again once it is well, even if nothing else changed.
        cached.high_watermark = if told.error == 0 { told.high_watermark } else { -1 };
        cached.log_start = told.log_start;
        if told.records_bytes > 0 {
            self.order.remove(&cached.place);
            cached.place = self.next_place;
            self.next_place += 1;
            self.order.insert(cached.place, key.clone());
        }
        news
    }
}

/// Epochs wrap to 1, for 0 begins a session.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl Sessions {
    /// A request arrives: which session is it in, and what does it change there?
    pub fn arrive(
        &mut self,
        id: i32,
        epoch: i32,
        uses_ids: bool,
        listed: &[(PartitionKey, Asked)],
        forgotten: &[PartitionKey],
    ) -> Result<SessionUse, i16> {
        if epoch <= 0 {
            self.by_id.remove(&id);
            return Ok(if epoch < 0 { SessionUse::None } else { SessionUse::Begin { uses_ids } });
        }
        self.uses += 1;
        let session = self.by_id.get_mut(&id).ok_or(code::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != epoch {
            return Err(code::INVALID_FETCH_SESSION_EPOCH);
        }
        let empty = listed.is_empty() && forgotten.is_empty();
        if session.uses_ids != uses_ids && !empty {
            return Err(code::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        session.used = self.uses;
        for (key, asked) in listed {
            session.add(key.clone(), asked.clone());
        }
        for key in forgotten {
            session.remove(key);
        }
        if session.cached.is_empty() {
            // An empty session is closed; its last request counts as one without a session.
            self.by_id.remove(&id);
            return Ok(SessionUse::None);
        }
        session.epoch = next_epoch(epoch);
        Ok(SessionUse::Continue { id, epoch: session.epoch })
    }

    /// The partitions of a session, in the order in which they are read.
    pub fn listed(&self, id: i32, epoch: i32) -> Result<Vec<(PartitionKey, Asked)>, i16> {
        let session = self.standing(id, epoch)?;
        Ok(session.order.values().map(|key| (key.clone(), session.cached[key].asked.clone())).collect())
    }

    fn standing(&self, id: i32, epoch: i32) -> Result<&Session, i16> {
        let session = self.by_id.get(&id).ok_or(code::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch == epoch { Ok(session) } else { Err(code::INVALID_FETCH_SESSION_EPOCH) }
    }

    /// Notes what an answer in this session tells of a partition; false if it can be left out.
    pub fn tell(&mut self, id: i32, key: &PartitionKey, told: &Told) -> bool {
        self.by_id.get_mut(&id).is_none_or(|session| session.tell(key, told))
    }

    /// A full request was answered: begins its session and returns the id, or 0 where none is kept.
    pub fn begin(&mut self, uses_ids: bool, answered: &[(PartitionKey, Asked, Told)]) -> i32 {
        if self.disabled || answered.is_empty() {
            return 0;
        }
        if self.by_id.len() == SESSIONS_MAX {
            let oldest = self.by_id.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id);
            self.by_id.remove(&oldest.expect("a full table has an oldest session"));
        }
        self.made += 1;
        self.uses += 1;
        // A broker draws its ids at random; spread ones show a client that counts on small numbers.
        let id = (self.made.wrapping_mul(0x9e37_79b1) >> 1).cast_signed().max(1);
        let mut session = Session {
            epoch: 1,
            uses_ids,
            cached: BTreeMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
            used: self.uses,
        };
        for (key, asked, told) in answered {
            session.add(key.clone(), asked.clone());
            let cached = session.cached.get_mut(key).expect("just added");
            cached.high_watermark = if told.error == 0 { told.high_watermark } else { -1 };
            cached.log_start = told.log_start;
        }
        self.by_id.insert(id, session);
        id
    }

    /// The broker restarts.
    pub fn forget(&mut self) {
        self.by_id.clear();
    }
}
