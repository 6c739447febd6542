//! The link's part in group offsets: it starts the task, says what is delivered, and when a log was cut.

use super::{Outcome, Supervisor};
use crate::config::GroupSettings;
use crate::control::groups::{
    self, Cluster, Coordinators, Destination, GroupSync, Kept, RoundWanted, SampleWanted, Surroundings,
    Written,
};
use crate::control::mirror::{Mirror, Phase};
use crate::control::source_client::SourceClient;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::{mpsc, oneshot, watch};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::Nanoseconds;
use twinlog_sync::group_offsets::Bound;

/// Positions of groups beside the journal of a store.
pub(super) const OFFSETS_FILE: &str = "offsets.csv";
/// Rounds that somebody waits for; each waits for those before it.
const ROUNDS_WANTED_MAX: usize = 64;

/// The running task.
pub(super) struct GroupLink {
    pub sync: Arc<GroupSync>,
    settings: watch::Sender<GroupSettings>,
    rounds: mpsc::Sender<RoundWanted>,
    /// Topics whose groups were written for the last time: their hand-over is under way.
    pub closed: BTreeSet<String>,
    /// Where logs end that are being handed over.
    pub last_ends: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// What lies in a mirror partition, for those who would continue there.
fn bound_of(mirror: &Mirror) -> Option<Bound> {
    if mirror.phase != Phase::Running || mirror.first_end.is_none() {
        return None;
    }
    let log_start = mirror.counters.log_start.load(Relaxed);
    Some(Bound { log_start, delivered: mirror.counters.delivered.load(Relaxed) })
}

impl Supervisor {
    /// Starts the task once both clusters are known.
    pub(super) fn drive_groups(&mut self) {
        if self.groups.is_none() {
            self.start_groups();
        }
    }

    /// Where positions go, once that is known.
    fn groups_destination(&self) -> Option<Destination> {
        let link = &self.settings.link;
        let Some(guest) = &self.guest else {
            let state = self.hand_overs.as_ref()?.state();
            return Some(Destination::Store(Kept::new(state, link.name.clone())));
        };
        let settings = link.guest.as_ref().filter(|_| guest.is_ready())?;
        let ours: BTreeSet<i32> = guest.ids().into_iter().collect();
        let cluster = Cluster::new(SourceClient::of_destination(settings), ours);
        Some(Destination::Cluster(Arc::new(Coordinators::new(cluster))))
    }

    fn start_groups(&mut self) {
        if self.refresh.succeeded_at.is_none() {
            return;
        }
        let Some(destination) = self.groups_destination() else { return };
        let keeps = matches!(destination, Destination::Store(_));
        let export = keeps.then(|| self.settings.journal_directory().join(OFFSETS_FILE));
        let source = Cluster::new(self.client.clone(), BTreeSet::new());
        let sync = Arc::new(GroupSync::new(self.settings.link.groups.prefix.clone()));
        if keeps {
            // What we keep ourselves never expires.
            sync.machine().set_recommit_after(Nanoseconds::MAX / 2);
        }
        let (settings, followed) = watch::channel(self.settings.link.groups.clone());
        let (rounds, wanted) = mpsc::channel(ROUNDS_WANTED_MAX);
        let outbox = self.outbox.clone();
        let ask = Box::new(move |wanted| {
            // Without a supervisor nobody answers, and the round ends with it.
            let _ = outbox.send(Outcome::GroupSample(wanted));
        });
        let written = match destination {
            Destination::Cluster(_) => self.hand_overs.as_ref().map(|hand_overs| hand_overs.state()),
            Destination::Store(_) => None,
        };
        let written = written.map(|state| Written::new(state, self.settings.link.name.clone()));
        let around = Arc::new(Surroundings { source: Arc::new(source), destination, ask, export, written });
        let (task_sync, mut life) = (Arc::clone(&sync), self.life.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                _ = life.changed() => {}
                () = groups::run(task_sync, around, followed, wanted) => {}
            }
        });
        self.groups =
            Some(GroupLink { sync, settings, rounds, closed: BTreeSet::new(), last_ends: BTreeMap::new() });
    }

    /// Other settings of it count from the next round on.
    pub(super) fn retune_groups(&mut self) {
        if let Some(groups) = &self.groups {
            groups.settings.send_if_modified(|known| {
                let changed = *known != self.settings.link.groups;
                known.clone_from(&self.settings.link.groups);
                changed
            });
        }
    }

    /// Says what lies in the partitions that the task asks about, now.
    pub(super) fn sample_groups(&mut self, SampleWanted { partitions, told }: SampleWanted) {
        let Some(groups) = &self.groups else { return };
        let mut machine = groups.sync.machine();
        for number in partitions {
            let (topic, index) = machine.partition(number);
            let open = !groups.closed.contains(topic);
            let partition = TopicPartition::new(topic, index).ok().filter(|_| open);
            let mirror = partition.and_then(|partition| self.mirrors.get(&partition));
            let last_end = groups.last_ends.get(topic).and_then(|ends| ends.get(&index)).copied();
            let bound = mirror.and_then(bound_of);
            let bound = bound.map(|bound| Bound { delivered: last_end.unwrap_or(bound.delivered), ..bound });
            machine.sampled(number, bound);
        }
        drop(machine);
        // The round was given up.
        let _ = told.send(());
    }

    /// A log is being cut: no group may stay behind the cut.
    pub(super) fn cut_groups(&mut self, partition: &TopicPartition, cut: Offset) {
        if let Some(groups) = &self.groups {
            groups.sync.machine().truncated(partition.topic(), partition.partition(), cut.value());
        }
    }

    /// A round for a hand-over at these ends. `None`: offsets are not copied. One that cannot be asked for is
    /// answered as given up.
    pub(super) fn want_last_round(
        &mut self,
        topic: &str,
        ends: &[(i32, Offset)],
        with_source: bool,
    ) -> Option<oneshot::Receiver<Result<(), String>>> {
        let groups = self.groups.as_mut().filter(|_| self.settings.link.groups.enabled)?;
        let ends = ends.iter().map(|(index, end)| (*index, end.value())).collect();
        groups.last_ends.insert(topic.to_owned(), ends);
        let (done, answer) = oneshot::channel();
        // Refused, it is dropped, and whoever waits is told.
        if groups.rounds.try_send(RoundWanted { with_source, done }).is_ok() {
            groups.sync.waits(true);
        }
        Some(answer)
    }

    /// What an order says of positions before it is carried out.
    pub(super) fn group_offsets_text(&self) -> &'static str {
        match (self.settings.link.groups.enabled, &self.groups) {
            (false, _) => "not copied: consumer.offset.sync.enable is false",
            (true, None) => "not copied yet",
            (true, Some(_)) => "written for the last time before the hand-over",
        }
    }
}
