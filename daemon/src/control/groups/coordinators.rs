//! Where positions go when the destination is a cluster: read before they are written, and written by their own coordinators, many at a time.
//!
//! A broker carries out the requests of one connection one after the other, and each commit waits there until its
//! log is replicated: what goes side by side goes over several connections.

use super::cluster::{ASKING_LANE, Cluster, FIRST_COMMIT_LANE, LaneNumber, Listing};
use super::{GroupSync, NETWORK_EXCEPTION};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, GroupId, OffsetCommitRequest, OffsetCommitResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use twinlog_sync::SECOND;
use twinlog_sync::group_offsets::{Commit, GroupNumber, GroupOffsets};
use twinlog_sync::wire::offset_fetch::OffsetAnswers;

/// Connections for commits to one coordinator. Commits that wait there side by side are written and replicated as one
/// by the broker; each more takes a connection from it, and opens no sooner than the others are all busy.
const COMMIT_LANES_MAX: usize = 32;
/// Groups of one reading.
const GROUPS_PER_READING_MAX: usize = 500;

/// The brokers' key, in minutes.
const RETENTION: &str = "offsets.retention.minutes";
/// It is asked for again after this time.
const RETENTION_AGE_MAX: Duration = Duration::from_secs(600);
/// How often an unchanged group is written within it. Once would be too late when a round is missed.
const RECOMMITS_PER_RETENTION: u64 = 3;
/// Never more often than this, however short it is.
const RECOMMIT_AFTER_MIN: u64 = 10 * SECOND;

/// Its coordinator is another broker, or not ready to say.
fn has_moved(code: i16) -> bool {
    const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    const NOT_COORDINATOR: i16 = 16;
    matches!(code, COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR | NETWORK_EXCEPTION)
}

/// See the file's header.
pub struct Coordinators {
    cluster: Arc<Cluster>,
    coordinators: Mutex<HashMap<GroupNumber, i32>>,
    /// Commits under way on each lane of each broker.
    busy: Mutex<HashMap<i32, Vec<u32>>>,
    /// When its retention was last asked for.
    retention_at: Mutex<Option<Instant>>,
}

impl Coordinators {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            coordinators: Mutex::default(),
            busy: Mutex::default(),
            retention_at: Mutex::default(),
        }
    }

    pub fn take_requests(&self) -> u64 {
        self.cluster.take_requests()
    }

    pub async fn list(&self) -> Listing {
        self.cluster.list().await
    }

    /// How long the cluster keeps positions that nobody writes; unchanged groups are written well inside of it.
    pub async fn look_at_retention(&self, sync: &GroupSync) {
        let due = self.retention_at().is_none_or(|at| at.elapsed() >= RETENTION_AGE_MAX);
        if !due {
            return;
        }
        if let Some(minutes) =
            self.cluster.broker_config(RETENTION).await.and_then(|text| text.parse::<u64>().ok())
        {
            let recommit_after = (minutes * 60 * SECOND / RECOMMITS_PER_RETENTION).max(RECOMMIT_AFTER_MIN);
            sync.machine().set_recommit_after(recommit_after);
        }
        // Who may not read it is not asked in every round.
        *self.retention_at() = Some(Instant::now());
    }

    fn retention_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.retention_at.lock().expect("nothing panics while it holds the lock")
    }

    fn known(&self) -> MutexGuard<'_, HashMap<GroupNumber, i32>> {
        self.coordinators.lock().expect("nothing panics while it holds the lock")
    }

    /// Groups by their coordinators; those without one are told to the machine.
    async fn by_coordinator(
        &self,
        sync: &GroupSync,
        groups: &[GroupNumber],
    ) -> BTreeMap<i32, Vec<(GroupNumber, String)>> {
        let mut sorted: BTreeMap<i32, Vec<(GroupNumber, String)>> = BTreeMap::new();
        let mut unknown = Vec::new();
        {
            let (machine, known) = (sync.machine(), self.known());
            for group in groups {
                let name = machine.destination_name(*group);
                match known.get(group) {
                    Some(broker) => sorted.entry(*broker).or_default().push((*group, name)),
                    None => unknown.push((*group, name)),
                }
            }
        }
        if unknown.is_empty() {
            return sorted;
        }
        let names: Vec<String> = unknown.iter().map(|(_, name)| name.clone()).collect();
        let found = self.cluster.coordinators(&names).await;
        let mut machine = sync.machine();
        for ((group, name), broker) in unknown.into_iter().zip(found) {
            match broker {
                Ok(broker) => {
                    self.known().insert(group, broker);
                    sorted.entry(broker).or_default().push((group, name));
                }
                Err(code) => refused(&mut machine, sync, group, code),
            }
        }
        sorted
    }

    /// Tells the machine what these groups hold.
    pub async fn read(self: &Arc<Self>, sync: &Arc<GroupSync>, groups: &[GroupNumber]) {
        let mut under_way = JoinSet::new();
        for (broker, groups) in self.by_coordinator(sync, groups).await {
            for piece in groups.chunks(GROUPS_PER_READING_MAX) {
                let (this, sync, piece) = (Arc::clone(self), Arc::clone(sync), piece.to_vec());
                under_way.spawn(async move { this.read_piece(&sync, broker, piece).await });
            }
        }
        while let Some(read) = under_way.join_next().await {
            read.expect("a reading does not panic");
        }
    }

    async fn read_piece(&self, sync: &GroupSync, broker: i32, groups: Vec<(GroupNumber, String)>) {
        let names: Vec<String> = groups.iter().map(|(_, name)| name.clone()).collect();
        let answer = self.cluster.positions(broker, &names).await;
        let mut open: HashMap<&str, GroupNumber> =
            groups.iter().map(|(group, name)| (name.as_str(), *group)).collect();
        let mut machine = sync.machine();
        let now = sync.now();
        if let Ok(bytes) = &answer
            && let Ok(mut answers) = OffsetAnswers::parse(bytes)
        {
            while let Ok(Some(answer)) = answers.next_group() {
                let Some(group) = open.remove(answer.group) else { continue };
                match answer.code {
                    0 => machine.destination_read(now, group, Ok(answer.positions())),
                    code => {
                        if has_moved(code) {
                            self.known().remove(&group);
                        }
                        refused(&mut machine, sync, group, code);
                    }
                }
            }
        }
        for group in open.into_values() {
            self.known().remove(&group);
            refused(&mut machine, sync, group, NETWORK_EXCEPTION);
        }
    }

    /// Writes; every group's answer is told to the machine. How many were sent. A coordinator that does not answer
    /// holds up nobody else's groups.
    pub async fn commit(self: &Arc<Self>, sync: &Arc<GroupSync>, commits: Vec<Commit>) -> u64 {
        let count = commits.len() as u64;
        let mut by_broker: HashMap<i32, Vec<Commit>> = HashMap::new();
        for commit in commits {
            let broker = self.known().get(&commit.group).copied();
            match broker {
                Some(broker) => by_broker.entry(broker).or_default().push(commit),
                None => self.answered(sync, &commit, Err(NETWORK_EXCEPTION)),
            }
        }
        let mut under_way = JoinSet::new();
        for (broker, commits) in by_broker {
            let (this, sync) = (Arc::clone(self), Arc::clone(sync));
            under_way.spawn(async move { this.commit_at(&sync, broker, commits).await });
        }
        while let Some(done) = under_way.join_next().await {
            done.expect("a commit does not panic");
        }
        count
    }

    async fn commit_at(&self, sync: &GroupSync, broker: i32, commits: Vec<Commit>) {
        let mut under_way = Vec::with_capacity(commits.len());
        for commit in commits {
            let request = request(&sync.machine(), &commit);
            let lane = self.take_lane(broker);
            let sent = self.cluster.send(broker, lane.number(), |_| request);
            match self.cluster.within(broker, Cluster::limit(), "OffsetCommit", sent).await {
                Ok(answer) => under_way.push((commit, answer, lane)),
                Err(_) => self.answered(sync, &commit, Err(NETWORK_EXCEPTION)),
            }
        }
        for (commit, answer, lane) in under_way {
            let limit = Cluster::limit();
            let answer = self.cluster.within(broker, limit, "OffsetCommit", answer.decoded()).await;
            drop(lane);
            match answer {
                Ok(answer) => {
                    let codes = codes_of(&sync.machine(), &commit, &answer);
                    self.answered(sync, &commit, Ok(&codes));
                }
                Err(_) => self.answered(sync, &commit, Err(NETWORK_EXCEPTION)),
            }
        }
    }

    /// The lane with the fewest commits under way, the first of them: a new one is opened when all are busy.
    fn take_lane(&self, broker: i32) -> TakenLane<'_> {
        let mut busy = self.busy();
        let lanes = busy.entry(broker).or_default();
        let at = least_busy(lanes);
        if at == lanes.len() {
            lanes.push(0);
        }
        lanes[at] += 1;
        TakenLane { coordinators: self, broker, at }
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<i32, Vec<u32>>> {
        self.busy.lock().expect("nothing panics while it holds the lock")
    }

    fn answered(&self, sync: &GroupSync, commit: &Commit, answer: Result<&[i16], i16>) {
        let moved = match answer {
            Ok(codes) => codes.iter().any(|code| has_moved(*code)),
            Err(code) => has_moved(code),
        };
        if moved {
            self.known().remove(&commit.group);
        }
        sync.machine().committed(sync.now(), commit, answer);
    }

    /// Deletes groups that the source has no more; those with live members refuse.
    pub async fn delete(&self, sync: &GroupSync, groups: &[GroupNumber]) -> Vec<(GroupNumber, i16)> {
        let mut deleted = Vec::new();
        for (broker, groups) in self.by_coordinator(sync, groups).await {
            let ids = groups.iter().map(|(_, name)| GroupId(StrBytes::from_string(name.clone())));
            let request = DeleteGroupsRequest::default().with_groups_names(ids.collect());
            let answer = async {
                let sent = self.cluster.send(broker, ASKING_LANE, |_| request).await?;
                sent.decoded().await
            };
            let answer = self.cluster.within(broker, Cluster::limit(), "DeleteGroups", answer).await;
            let results = answer.map(|answer| answer.results).unwrap_or_default();
            let codes: HashMap<&str, i16> =
                results.iter().map(|each| (each.group_id.as_str(), each.error_code)).collect();
            for (group, name) in &groups {
                let code = codes.get(name.as_str()).copied().unwrap_or(NETWORK_EXCEPTION);
                if has_moved(code) {
                    self.known().remove(group);
                }
                deleted.push((*group, code));
            }
        }
        deleted
    }

    /// The number may become another group's.
    pub fn forget(&self, group: GroupNumber) {
        self.known().remove(&group);
    }
}

/// Of these lanes, by the commits under way on each, the one for the next; behind them all: a new one.
fn least_busy(lanes: &[u32]) -> usize {
    let least = lanes.iter().enumerate().min_by_key(|(_, commits)| **commits);
    match least {
        Some((at, commits)) if *commits == 0 || lanes.len() == COMMIT_LANES_MAX => at,
        _ => lanes.len(),
    }
}

/// A commit's place on a lane, until it is answered or given up.
struct TakenLane<'a> {
    coordinators: &'a Coordinators,
    broker: i32,
    at: usize,
}

impl TakenLane<'_> {
    fn number(&self) -> LaneNumber {
        FIRST_COMMIT_LANE + self.at
    }
}

impl Drop for TakenLane<'_> {
    fn drop(&mut self) {
        let mut busy = self.coordinators.busy();
        let lanes = busy.get_mut(&self.broker).expect("lanes are not taken away");
        lanes[self.at] -= 1;
    }
}

fn refused(machine: &mut GroupOffsets, sync: &GroupSync, group: GroupNumber, code: i16) {
    machine.destination_read(sync.now(), group, Err::<std::iter::Empty<_>, _>(code));
}

fn request(machine: &GroupOffsets, commit: &Commit) -> OffsetCommitRequest {
    let rows = commit.positions.iter().map(|position| {
        let (topic, index) = machine.partition(position.partition);
        (topic, index, position.offset, position.metadata.as_deref().unwrap_or(""))
    });
    commit_request(&machine.destination_name(commit.group), rows)
}

/// Positions of one group, by topic, partition, offset and what stands beside it.
pub(super) fn commit_request<'a>(
    group: &str,
    rows: impl Iterator<Item = (&'a str, i32, i64, &'a str)>,
) -> OffsetCommitRequest {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for (topic, index, offset, metadata) in rows {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            // The source's epochs mean nothing at the destination. ref: KIP-320
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::from_string(metadata.to_owned())));
        match topics.last_mut().filter(|last| last.name.as_str() == topic) {
            Some(last) => last.partitions.push(partition),
            None => topics.push(
                OffsetCommitRequestTopic::default()
                    .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
                    .with_partitions(vec![partition]),
            ),
        }
    }
    OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics)
}

/// A code for each position, in their order.
fn codes_of(machine: &GroupOffsets, commit: &Commit, answer: &OffsetCommitResponse) -> Vec<i16> {
    let told: HashMap<(&str, i32), i16> = answer
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|each| ((topic.name.as_str(), each.partition_index), each.error_code))
        })
        .collect();
    let code = |partition| told.get(&machine.partition(partition)).copied().unwrap_or(NETWORK_EXCEPTION);
    commit.positions.iter().map(|position| code(position.partition)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_spread_over_as_few_lanes_as_are_busy_and_never_over_more_than_the_bound() {
        assert_eq!(least_busy(&[]), 0);
        assert_eq!(least_busy(&[1]), 1, "the first is busy");
        assert_eq!(least_busy(&[1, 0, 0]), 1, "the first of those that are free");
        let mut lanes = vec![1; COMMIT_LANES_MAX];
        assert_eq!(least_busy(&lanes), 0);
        lanes[0] = 2;
        assert_eq!(least_busy(&lanes), 1);
    }
}
