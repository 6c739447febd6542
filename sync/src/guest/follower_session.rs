//! What one follower fetches over one connection: the leader's side of an incremental session (KIP-227).
//!
//! Owns the list of partitions with the position that the follower last named for each, and what it was last
//! told. A request that names nothing still fetches all of them, so an idle follower of thousands costs a
//! few bytes. Work is done for partitions that changed, never for all of them.
//!
//! ```text
//!   receive ── listed, or said last time ─┐                    ┌─ nothing to say ─▶ idle
//!   news(handle): bytes were appended ────┼─▶ to judge ─▶ judged ─ until then ──▶ held ─▶ expire ─▶ …
//!   partition_gone: it is not ours now ───┘       ▲            └─ something ──────▶ ready ─▶ said ─▶ idle
//!                                                 └──────────── no room left in this answer ────┘
//! ```
//! The owner, for one request: `receive`; then until there is an answer `next_to_judge` + `judged` for each,
//! whenever `news` or `expire` brought some; then, if [`FollowerSession::wakes`] or the wait is over,
//! `next_ready` + `say` for each, and `answered`. The lists are first in, first out, so a partition that was
//! served goes behind those that wait, and one for which an answer had no room keeps its place.
//!
//! Rules of the wire (ref: KIP-227): epoch 0 or -1 lists everything and ends the session that was; a full
//! answer lists everything in return; an incremental one only partitions with records, an error, a diverging
//! epoch, a new high watermark or a new log start. Error 70: not our session; 71: a request was lost. Either
//! makes the follower send a full request at once. Ids are given by the owner, random and never 0: after a
//! reconnection followers name the id of the connection before, perhaps to another process.

use super::leadership::FollowerFetch;
use crate::Nanoseconds;
use crate::wire::follower_request::{FetchRequest, FetchedPartition};
use crate::wire::follower_response::ErrorCode;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::LeaderEpoch;

/// Partitions that a session remembers. A follower of more gets no session and lists them all each time.
/// Raising it raises the memory that one connection can make us keep, about 200 bytes each.
pub const SESSION_PARTITIONS_MAX: usize = 20_000;

/// The request cannot be served; the error stands for the whole answer, which lists nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRefusal {
    /// Another session than ours is named, or ours grew beyond its bound.
    UnknownId,
    /// Not the epoch after the last one.
    WrongEpoch,
}

impl SessionRefusal {
    pub const fn error(self) -> ErrorCode {
        match self {
            Self::UnknownId => ErrorCode::FetchSessionIdNotFound,
            Self::WrongEpoch => ErrorCode::InvalidFetchSessionEpoch,
        }
    }
}

/// Where the follower stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerPosition {
    pub current_leader_epoch: LeaderEpoch,
    pub fetch_offset: i64,
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start_offset: i64,
    pub bytes_max: u32,
}

/// One partition of the session that is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Names it in the calls below, until the next `receive`.
    pub slot: u32,
    pub topic_id: TopicId,
    pub index: i32,
    /// `None`: the topic is not known, answer error 100.
    pub handle: Option<u32>,
    pub position: FollowerPosition,
    /// When this position came in.
    pub asked_at: Nanoseconds,
}

impl Candidate {
    /// The question to the partition's leader.
    pub fn fetch(&self, replica_id: i32, replica_epoch: i64) -> FollowerFetch {
        let FollowerPosition {
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            bytes_max: _,
        } = self.position;
        let asked_at = self.asked_at;
        FollowerFetch {
            replica_id,
            replica_epoch,
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            asked_at,
        }
    }
}

/// What there is to tell of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saying {
    /// There are bytes for the follower, in this answer or left out of it.
    pub records: bool,
    /// An error or a diverging epoch.
    pub urgent: bool,
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// What remains to be done with a partition that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    /// It has records, but the answer had no room for any of them: it comes first in the next one.
    LeftOut,
    /// Nothing is said of it before this time.
    HeldUntil(Nanoseconds),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    ToJudge,
    Held(Nanoseconds),
    Ready { wakes: bool },
}

#[derive(Debug)]
struct Entry {
    topic_id: TopicId,
    index: i32,
    handle: Option<u32>,
    position: FollowerPosition,
    asked_at: Nanoseconds,
    /// High watermark and log start of the last answer; `None` makes the next one list them.
    told: Option<(i64, i64)>,
}

/// A slot stays in a list after its entry left or was placed elsewhere, and is passed over when it comes out.
/// It is used again once it is in none.
#[derive(Debug)]
struct Slot {
    entry: Option<Entry>,
    place: Place,
    in_to_judge: bool,
    in_ready: bool,
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct FollowerSession {
    /// 0: none.
    id: i32,
    next_epoch: i32,
    /// The request under way wants every partition listed.
    full: bool,
    asked_at: Option<Nanoseconds>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_name: BTreeMap<(TopicId, i32), u32>,
    by_handle: BTreeMap<u32, u32>,
    to_judge: VecDeque<u32>,
    ready: VecDeque<u32>,
    /// Ready ones that are worth an answer before the wait is over.
    waking: usize,
    held: BTreeSet<(Nanoseconds, u32)>,
    /// Told more than offsets in the last answer: judged again unless the follower moves on.
    told_urgently: Vec<u32>,
    /// Had records for which the answer under way has no room.
    left_out: Vec<u32>,
    /// Partitions that the answer under way lists.
    listed: usize,
}

impl FollowerSession {
    /// The id to answer with; 0 when there is no session.
    pub fn id(&self) -> i32 {
        self.id
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// When the follower last asked for this partition, by name or as part of the session.
    pub fn asked_for(&self, handle: u32) -> Option<Nanoseconds> {
        self.by_handle.contains_key(&handle).then_some(self.asked_at).flatten()
    }

    /// Takes a request over. `fresh_id` is used if it starts a session; `resolve` names partitions.
    pub fn receive(
        &mut self,
        now: Nanoseconds,
        request: &FetchRequest<'_>,
        fresh_id: i32,
        mut resolve: impl FnMut(TopicId, i32) -> Option<u32>,
    ) -> Result<(), SessionRefusal> {
        assert!(fresh_id != 0, "0 means that there is no session");
        let full = request.session_epoch <= 0;
        if full {
            self.clear();
        } else if self.id == 0 || request.session_id != self.id {
            return Err(SessionRefusal::UnknownId);
        } else if request.session_epoch != self.next_epoch {
            return Err(SessionRefusal::WrongEpoch);
        }
        self.asked_at = Some(now);
        for (topic_id, listed) in request.partitions() {
            self.list(now, topic_id, &listed, &mut resolve);
        }
        for (topic_id, index) in request.forgotten() {
            self.forget(topic_id, index);
        }
        // Without room for records, after an error: the follower that does not name it asks again as it was.
        let mut again = core::mem::take(&mut self.told_urgently);
        again.drain(..).for_each(|slot| self.enqueue(slot));
        self.told_urgently = again;
        self.full = full;
        if full {
            let remembered = request.session_epoch == 0 && self.len() <= SESSION_PARTITIONS_MAX;
            (self.id, self.next_epoch) = if remembered { (fresh_id, 1) } else { (0, 0) };
        } else if self.len() > SESSION_PARTITIONS_MAX {
            self.clear();
            return Err(SessionRefusal::UnknownId);
        } else {
            // Epochs wrap to 1, for 0 means a new session.
            self.next_epoch = self.next_epoch.checked_add(1).unwrap_or(1);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.id = 0;
        self.slots.clear();
        self.free.clear();
        self.by_name.clear();
        self.by_handle.clear();
        self.to_judge.clear();
        self.ready.clear();
        self.waking = 0;
        self.held.clear();
        self.told_urgently.clear();
        self.left_out.clear();
        self.listed = 0;
    }

    fn list(
        &mut self,
        now: Nanoseconds,
        topic_id: TopicId,
        listed: &FetchedPartition,
        resolve: &mut impl FnMut(TopicId, i32) -> Option<u32>,
    ) {
        let position = FollowerPosition {
            current_leader_epoch: listed.current_leader_epoch,
            fetch_offset: listed.fetch_offset,
            last_fetched_epoch: listed.last_fetched_epoch,
            log_start_offset: listed.log_start_offset,
            bytes_max: listed.bytes_max,
        };
        let index = listed.index;
        let slot = match self.by_name.get(&(topic_id, index)).copied() {
            Some(slot) => {
                let entry = self.entry_mut(slot);
                (entry.position, entry.asked_at) = (position, now);
                slot
            }
            None => {
                let (handle, asked_at, told) = (None, now, None);
                let slot = self.add(Entry { topic_id, index, handle, position, asked_at, told });
                self.by_name.insert((topic_id, index), slot);
                slot
            }
        };
        if self.entry_mut(slot).handle.is_none()
            && let Some(handle) = resolve(topic_id, index)
        {
            self.entry_mut(slot).handle = Some(handle);
            let other = self.by_handle.insert(handle, slot);
            assert!(other.is_none(), "two partitions have the handle {handle}");
        }
        self.enqueue(slot);
    }

    fn add(&mut self, entry: Entry) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].entry = Some(entry);
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("a request of 4 MiB lists fewer");
        self.slots.push(Slot { entry: Some(entry), place: Place::Idle, in_to_judge: false, in_ready: false });
        slot
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        self.slots[slot as usize].entry.as_mut().expect("named slots are in use")
    }

    fn forget(&mut self, topic_id: TopicId, index: i32) {
        let Some(slot) = self.by_name.remove(&(topic_id, index)) else { return };
        let entry = self.slots[slot as usize].entry.take().expect("named slots are in use");
        if let Some(handle) = entry.handle {
            self.by_handle.remove(&handle);
        }
        self.leave(slot);
        self.free_if_unused(slot);
    }

    fn free_if_unused(&mut self, slot: u32) {
        let Slot { entry, in_to_judge, in_ready, .. } = &self.slots[slot as usize];
        if entry.is_none() && !in_to_judge && !in_ready {
            self.free.push(slot);
        }
    }

    /// Takes a partition from where it is; the lists pass over it later.
    fn leave(&mut self, slot: u32) {
        match core::mem::replace(&mut self.slots[slot as usize].place, Place::Idle) {
            Place::Held(until) => {
                self.held.remove(&(until, slot));
            }
            Place::Ready { wakes } => self.waking -= usize::from(wakes),
            Place::Idle | Place::ToJudge => {}
        }
    }

    /// Lets a partition be judged, behind the others, unless it is known already that there is much to say.
    fn enqueue(&mut self, slot: u32) {
        let place = self.slots[slot as usize].place;
        if self.slots[slot as usize].entry.is_none() || place == (Place::Ready { wakes: true }) {
            return;
        }
        self.leave(slot);
        let Slot { place, in_to_judge, .. } = &mut self.slots[slot as usize];
        *place = Place::ToJudge;
        if !core::mem::replace(in_to_judge, true) {
            self.to_judge.push_back(slot);
        }
    }

    fn make_ready(&mut self, slot: u32, wakes: bool) {
        let Slot { place, in_ready, .. } = &mut self.slots[slot as usize];
        *place = Place::Ready { wakes };
        self.waking += usize::from(wakes);
        if !core::mem::replace(in_ready, true) {
            self.ready.push_back(slot);
        }
    }

    /// Something changed in this partition: bytes, leader epoch, log start. False if it is not fetched here.
    pub fn news(&mut self, handle: u32) -> bool {
        let slot = self.by_handle.get(&handle).copied();
        if let Some(slot) = slot {
            self.enqueue(slot);
        }
        slot.is_some()
    }

    /// The owner does not have this partition any more: the follower is told until it forgets it.
    pub fn partition_gone(&mut self, handle: u32) {
        if let Some(slot) = self.by_handle.remove(&handle) {
            self.entry_mut(slot).handle = None;
            self.enqueue(slot);
        }
    }

    /// The next partition of which it is to be found out whether there is something to say.
    pub fn next_to_judge(&mut self) -> Option<Candidate> {
        loop {
            let slot = self.to_judge.pop_front()?;
            self.slots[slot as usize].in_to_judge = false;
            if self.slots[slot as usize].place == Place::ToJudge
                && let Some(candidate) = self.take_out(slot)
            {
                return Some(candidate);
            }
            self.free_if_unused(slot);
        }
    }

    fn take_out(&mut self, slot: u32) -> Option<Candidate> {
        self.leave(slot);
        let entry = self.slots[slot as usize].entry.as_ref()?;
        let Entry { topic_id, index, handle, position, asked_at, .. } = *entry;
        Some(Candidate { slot, topic_id, index, handle, position, asked_at })
    }

    /// What was found out about a partition from `next_to_judge`.
    pub fn judged(&mut self, slot: u32, saying: &Saying) {
        let wakes = saying.records || saying.urgent;
        if wakes || self.full || self.is_new(slot, saying) {
            self.make_ready(slot, wakes);
        }
    }

    /// A partition from `next_to_judge` of which nothing is to be said before `until`, unless it is named
    /// again or has news. A full answer lists it all the same, with nothing in it.
    pub fn held(&mut self, slot: u32, until: Nanoseconds) {
        if self.full {
            self.make_ready(slot, false);
        } else {
            self.hold(slot, until);
        }
    }

    fn hold(&mut self, slot: u32, until: Nanoseconds) {
        self.slots[slot as usize].place = Place::Held(until);
        self.held.insert((until, slot));
    }

    fn is_new(&mut self, slot: u32, saying: &Saying) -> bool {
        self.entry_mut(slot).told != Some((saying.high_watermark, saying.log_start_offset))
    }

    /// The time at which [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Nanoseconds> {
        self.held.first().map(|(until, _)| *until)
    }

    /// Lets held partitions be judged again; true if there are any.
    pub fn expire(&mut self, now: Nanoseconds) -> bool {
        let mut some = false;
        while let Some((until, slot)) = self.held.first().copied()
            && until <= now
        {
            self.enqueue(slot);
            some = true;
        }
        some
    }

    /// There are records, errors or a divergence: answer before the wait is over.
    pub fn wakes(&self) -> bool {
        self.waking > 0
    }

    /// The next partition for the answer under way, once `next_to_judge` has no more. It is judged again, for
    /// time has passed.
    pub fn next_ready(&mut self) -> Option<Candidate> {
        loop {
            let slot = self.ready.pop_front()?;
            self.slots[slot as usize].in_ready = false;
            if matches!(self.slots[slot as usize].place, Place::Ready { .. })
                && let Some(candidate) = self.take_out(slot)
            {
                return Some(candidate);
            }
            self.free_if_unused(slot);
        }
    }

    /// Whether the answer must list the partition from `next_ready`, which then counts as told.
    pub fn say(&mut self, slot: u32, saying: &Saying, rest: Rest) -> bool {
        let said = saying.urgent || (saying.records && rest == Rest::Nothing);
        let silent = matches!(rest, Rest::HeldUntil(_));
        let listed = said || self.full || (!silent && self.is_new(slot, saying));
        match rest {
            Rest::Nothing => {}
            Rest::LeftOut => self.left_out.push(slot),
            Rest::HeldUntil(until) => self.hold(slot, until),
        }
        if said {
            self.told_urgently.push(slot);
        }
        if listed {
            self.listed += 1;
            let told = (saying.high_watermark, saying.log_start_offset);
            // With an error come no offsets: they are news after it.
            self.entry_mut(slot).told = (!saying.urgent).then_some(told);
        }
        listed
    }

    /// The answer is complete: all that was ready was said.
    pub fn answered(&mut self) {
        assert!(self.ready.is_empty(), "{} partitions were not said", self.ready.len());
        // A full answer without one of its partitions is rejected whole by the follower.
        assert!(!self.full || self.listed == self.len(), "{} of {} are listed", self.listed, self.len());
        (self.full, self.listed) = (false, 0);
        while let Some(slot) = self.left_out.pop() {
            let Slot { place, in_to_judge, .. } = &mut self.slots[slot as usize];
            if *place == Place::Idle && !core::mem::replace(in_to_judge, true) {
                *place = Place::ToJudge;
                self.to_judge.push_front(slot);
            }
        }
    }
}

#[cfg(test)]
#[path = "follower_session_tests.rs"]
mod tests;
