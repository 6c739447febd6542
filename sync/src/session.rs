//! What one source broker already knows of our fetch positions: an incremental fetch session (KIP-227).
//!
//! The broker remembers every partition of the session; a request lists only what changed since the
//! last one, and an answer only partitions that have something to say. Ten thousand idle partitions
//! therefore cost nothing. A lost session (errors 70 and 71, a new connection) starts again with a
//! full request. Brokers that keep no session get a full request each time, rotated, so that a hot
//! partition never starves those listed after it.
//!
//! ```text
//!   set / remove --> dirty, forgotten --> request(id, epoch n) --> answered: epoch n+1
//!                                              \--> lost: id 0, epoch 0, everything dirty
//! ```

use crate::wire::fetch_request::{FetchPartition, FetchPosition, Topic, VERSION_WITH_SESSIONS};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A topic's place in its owner's table and a partition's index: sorts neighbours together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    pub topic: u32,
    pub index: i32,
}

/// Partitions listed in one sessionless request: beyond it the request itself becomes the cost.
const FULL_REQUEST_PARTITIONS_MAX: usize = 2_000;

struct Entry {
    topic: Arc<Topic>,
    wanted: FetchPosition,
    /// What the broker was last told, or nothing yet.
    sent: Option<FetchPosition>,
}

/// The session with one broker over one connection.
#[derive(Default)]
pub struct FetchSession {
    id: i32,
    epoch: i32,
    entries: BTreeMap<PartitionKey, Entry>,
    dirty: BTreeSet<PartitionKey>,
    forgotten: BTreeMap<PartitionKey, Arc<Topic>>,
    /// Where the next sessionless request begins.
    rotation: Option<PartitionKey>,
    /// The broker answered a full request without a session id.
    sessionless: bool,
}

/// What goes into the next request besides its header.
#[derive(Debug, Default)]
pub struct SessionRequest {
    pub session_id: i32,
    pub session_epoch: i32,
    pub partitions: Vec<FetchPartition>,
    pub forgotten: Vec<(Arc<Topic>, i32)>,
}

impl FetchSession {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = PartitionKey> + '_ {
        self.entries.keys().copied()
    }

    /// Bytes that one answer can usefully bring: what its partitions may send at most.
    pub fn bytes_wanted(&self, response_bytes_max: u64) -> u64 {
        let each = self.entries.values().next().map_or(0, |entry| u64::from(entry.wanted.bytes_max));
        each.saturating_mul(self.entries.len() as u64).min(response_bytes_max)
    }

    /// Adds a partition or moves its fetch position.
    pub fn set(&mut self, key: PartitionKey, topic: &Arc<Topic>, wanted: FetchPosition) {
        let entry =
            self.entries.entry(key).or_insert_with(|| Entry { topic: topic.clone(), wanted, sent: None });
        entry.wanted = wanted;
        if entry.sent == Some(wanted) {
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key);
        }
    }

    /// Takes a partition out; answers for it that are under way are to be discarded by the owner.
    pub fn remove(&mut self, key: PartitionKey) {
        self.dirty.remove(&key);
        if let Some(entry) = self.entries.remove(&key)
            && entry.sent.is_some()
            && self.id != 0
        {
            self.forgotten.insert(key, entry.topic);
        }
    }

    /// The connection or the session is gone: the next request lists everything.
    pub fn lost(&mut self) {
        self.id = 0;
        self.epoch = 0;
        self.forgotten.clear();
        for (key, entry) in &mut self.entries {
            entry.sent = None;
            self.dirty.insert(*key);
        }
    }

    /// Fills `request` for the next fetch. Positions listed count as sent.
    pub fn next_request(&mut self, version: i16, request: &mut SessionRequest) {
        request.partitions.clear();
        request.forgotten.clear();
        let incremental = version >= VERSION_WITH_SESSIONS && !self.sessionless;
        request.session_id = if incremental { self.id } else { 0 };
        request.session_epoch = if incremental { self.epoch } else { -1 };
        if !incremental {
            self.list_rotated(request);
            return;
        }
        for key in core::mem::take(&mut self.dirty) {
            // A partition that was removed and added again must not also be forgotten.
            self.forgotten.remove(&key);
            let entry = self.entries.get_mut(&key).expect("dirty keys are in the session");
            entry.sent = Some(entry.wanted);
            request.partitions.push(listed(key, entry));
        }
        for (key, topic) in core::mem::take(&mut self.forgotten) {
            request.forgotten.push((topic, key.index));
        }
    }

    fn list_rotated(&mut self, request: &mut SessionRequest) {
        self.dirty.clear();
        self.forgotten.clear();
        let start =
            self.rotation.take().and_then(|key| self.entries.range(key..).next().map(|(key, _)| *key));
        let Some(start) = start.or_else(|| self.entries.keys().next().copied()) else { return };
        let rotated = self.entries.range(start..).chain(self.entries.range(..start));
        let mut rotated = rotated.map(|(key, entry)| (*key, entry));
        for (key, entry) in rotated.by_ref().take(FULL_REQUEST_PARTITIONS_MAX) {
            request.partitions.push(listed(key, entry));
        }
        // The next request starts one partition further on, or where this one had to end.
        let next = rotated.next().map(|(key, _)| key);
        self.rotation = next.or_else(|| self.entries.range(start..).nth(1).map(|(key, _)| *key));
    }

    /// The broker answered without a top-level error.
    pub fn answered(&mut self, session_id: i32) {
        if self.id == 0 {
            if session_id == 0 {
                self.sessionless = true;
                return;
            }
            self.id = session_id;
        }
        // Epochs wrap to 1, for 0 means a new session (ref: KIP-227).
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }
}

fn listed(key: PartitionKey, entry: &Entry) -> FetchPartition {
    FetchPartition { topic: entry.topic.clone(), index: key.index, position: entry.wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use twinlog_log_segment::files::TopicId;
    use twinlog_log_segment::offset::{LeaderEpoch, Offset};

    fn topic() -> Arc<Topic> {
        Arc::new(Topic { name: "t".to_string(), id: TopicId([7; 16]) })
    }

    fn position(offset: i64) -> FetchPosition {
        FetchPosition {
            fetch_offset: Offset::new(offset).unwrap(),
            current_leader_epoch: LeaderEpoch(0),
            last_fetched_epoch: LeaderEpoch(0),
            bytes_max: 1024,
        }
    }

    fn key(index: i32) -> PartitionKey {
        PartitionKey { topic: 0, index }
    }

    fn request(session: &mut FetchSession) -> SessionRequest {
        let mut request = SessionRequest::default();
        session.next_request(17, &mut request);
        request
    }

    #[test]
    fn only_changes_are_listed_once_the_session_stands() {
        let (mut session, topic) = (FetchSession::default(), topic());
        for index in 0..100 {
            session.set(key(index), &topic, position(0));
        }
        let first = request(&mut session);
        assert_eq!((first.partitions.len(), first.session_id, first.session_epoch), (100, 0, 0));
        session.answered(55);
        session.set(key(3), &topic, position(10));
        session.remove(key(4));
        let second = request(&mut session);
        assert_eq!((second.session_id, second.session_epoch), (55, 1));
        assert_eq!(second.partitions.len(), 1);
        assert_eq!(second.forgotten.len(), 1);
        session.answered(55);
        assert!(request(&mut session).partitions.is_empty());
    }

    #[test]
    fn a_lost_session_lists_everything_again() {
        let (mut session, topic) = (FetchSession::default(), topic());
        session.set(key(0), &topic, position(0));
        session.set(key(1), &topic, position(0));
        request(&mut session);
        session.answered(9);
        session.remove(key(0));
        session.lost();
        let again = request(&mut session);
        assert_eq!((again.session_id, again.session_epoch, again.partitions.len()), (0, 0, 1));
        assert!(again.forgotten.is_empty(), "a new session has nothing to forget");
    }

    #[test]
    fn a_partition_that_comes_back_is_not_forgotten() {
        let (mut session, topic) = (FetchSession::default(), topic());
        session.set(key(0), &topic, position(0));
        request(&mut session);
        session.answered(9);
        session.remove(key(0));
        session.set(key(0), &topic, position(5));
        let next = request(&mut session);
        assert_eq!((next.partitions.len(), next.forgotten.len()), (1, 0));
    }

    #[test]
    fn without_a_session_every_partition_gets_its_turn_at_the_front() {
        let (mut session, topic) = (FetchSession::default(), topic());
        for index in 0..5 {
            session.set(key(index), &topic, position(0));
        }
        request(&mut session);
        session.answered(0);
        let mut firsts = BTreeSet::new();
        for _ in 0..5 {
            let next = request(&mut session);
            assert_eq!((next.partitions.len(), next.session_epoch), (5, -1));
            firsts.insert(next.partitions[0].index);
            session.answered(0);
        }
        assert_eq!(firsts.len(), 5);
    }
}
