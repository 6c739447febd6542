//! Sampling: what shards published is taken over, and the source is asked where fetches say nothing.
//!
//! ```text
//!   every 100 ms   partitions whose bit a shard set since the last look
//!   every second   those that are behind, for what is at risk; whether the daemon is ready
//!   availability.check.ms   all of them: lanes confirm what did not change; ListOffsets for the rest
//! ```
//! A partition that does not move costs one look of the last kind, and nothing else.

use super::{Outcome, Supervisor};
use crate::control::lag::{Figures, LinkLag, Rules};
use crate::control::mirror::{Mirror, Phase};
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use crate::shard::mailbox::{MovedBit, MovedWord};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;
use twinlog_io::monotonic_nanoseconds;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_sync::metadata::MembershipState;
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Ages are wrong by this much at most where the shards themselves stamp no time. More often, every partition that
/// moves all the time is visited more often.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Peaks are also taken from every delivery, so that this only bounds what is told of a backlog under way.
const AT_RISK_INTERVAL: Duration = Duration::from_secs(1);
/// Partitions in one question about ends: a broker answers it in one piece, holding a thread meanwhile.
const ENDS_PER_REQUEST_MAX: usize = 1_000;

/// One answer: the bound of the copy and the high watermark.
type Ends = Vec<(TopicPartition, i64, i64)>;

/// What one broker was asked, and what it said.
pub struct SourceEnds {
    asked_at: u64,
    result: Result<Ends, ClientError>,
}

/// See the file's header.
pub(super) struct Sampling {
    pub link: LinkLag,
    /// For each shard, words of 64 partitions each.
    words: Vec<Vec<(Arc<MovedWord>, Vec<TopicPartition>)>>,
    behind: BTreeSet<TopicPartition>,
    sampled_at: Instant,
    at_risk_at: Instant,
    checked_at: Instant,
    /// Questions under way.
    asking: usize,
    /// The longest silence of the source about a partition, found at the last check.
    silent_ms: Option<i64>,
}

impl Sampling {
    pub fn new(now: Instant) -> Self {
        Self {
            link: LinkLag::default(),
            words: Vec::new(),
            behind: BTreeSet::new(),
            sampled_at: now,
            at_risk_at: now,
            checked_at: now,
            asking: 0,
            silent_ms: None,
        }
    }

    /// From now on its shard says when it moves.
    pub fn watch(&mut self, mirror: &Mirror) {
        if mirror.counters.moved.get().is_some() {
            return;
        }
        if self.words.len() <= mirror.shard {
            self.words.resize_with(mirror.shard + 1, Vec::new);
        }
        let words = &mut self.words[mirror.shard];
        if words.last().is_none_or(|(_, partitions)| partitions.len() == 64) {
            words.push((Arc::default(), Vec::with_capacity(64)));
        }
        let (word, partitions) = words.last_mut().expect("pushed if there was none");
        let bit = u32::try_from(partitions.len()).expect("below 64");
        partitions.push(mirror.partition.clone());
        // Set once: it was looked at above, and nobody else sets it.
        let _ = mirror.counters.moved.set(MovedBit { word: word.clone(), bit });
    }

    fn moved(&self) -> Vec<TopicPartition> {
        let mut moved = Vec::new();
        for (word, partitions) in self.words.iter().flatten() {
            let mut bits = word.take();
            while bits != 0 {
                moved.push(partitions[bits.trailing_zeros() as usize].clone());
                bits &= bits - 1;
            }
        }
        moved
    }
}

impl Supervisor {
    pub(super) fn rules(&self) -> Rules {
        let link = &self.settings.link;
        Rules::new(link.isolation_level, link.availability_check, link.fetch_wait_max_ms)
    }

    pub(super) fn sample_lags(&mut self, now: Instant) {
        if now - self.sampling.sampled_at < SAMPLE_INTERVAL {
            return;
        }
        self.sampling.sampled_at = now;
        let clock = monotonic_nanoseconds();
        for partition in self.sampling.moved() {
            self.sample(&partition, clock);
        }
        if now - self.sampling.checked_at >= self.settings.link.availability_check {
            self.sampling.checked_at = now;
            self.check_all(clock);
        }
        if now - self.sampling.at_risk_at >= AT_RISK_INTERVAL {
            self.sampling.at_risk_at = now;
            self.weigh_risk(clock);
        }
    }

    fn sample(&mut self, partition: &TopicPartition, clock: u64) {
        let rules = self.rules();
        let Some(mirror) = self.mirrors.get_mut(partition).filter(|mirror| mirror.first_end.is_some()) else {
            self.sampling.behind.remove(partition);
            return;
        };
        let clocks = &self.shards[mirror.shard].handle().counters.lanes;
        let answered_at = clocks.answered_at(mirror.counters.lane.load(Relaxed));
        let link = &mut self.sampling.link;
        mirror.lag.sample(rules, &mirror.counters, answered_at, |each| link.delivered(clock, each));
        match mirror.lag.is_behind() {
            true => self.sampling.behind.insert(partition.clone()),
            false => self.sampling.behind.remove(partition),
        };
    }

    /// Looks at every partition, and asks the source about those that no fetch has spoken of.
    fn check_all(&mut self, clock: u64) {
        let all: Vec<TopicPartition> = self.mirrors.keys().cloned().collect();
        for partition in &all {
            self.sample(partition, clock);
        }
        let rules = self.rules();
        let silences = self.mirrors.values().map(|mirror| mirror.lag.silence_ms(rules, clock));
        self.sampling.silent_ms = silences.reduce(|worst, each| Some(worst?.max(each?))).flatten();
        if self.sampling.asking == 0 {
            self.ask_for_ends(clock);
        }
    }

    fn ask_for_ends(&mut self, clock: u64) {
        let link = &self.settings.link;
        // What was asked at the last check is asked again; a lane that polls for long is not doubted meanwhile.
        let poll = Duration::from_millis(2 * u64::from(link.fetch_wait_max_ms));
        let told_within = poll.max(link.availability_check * 3 / 4);
        let told_within = u64::try_from(told_within.as_nanos()).unwrap_or(u64::MAX);
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, LeaderEpoch)>> = BTreeMap::new();
        for (partition, mirror) in &self.mirrors {
            let is_told = mirror.lag.seen_at().is_some_and(|at| clock.saturating_sub(at) < told_within);
            // What never was in a shard has no end of its own to compare with.
            if is_told || mirror.first_end.is_none() {
                continue;
            }
            if let Some(leader) = self.discovery.leader(partition) {
                by_leader.entry(leader.broker).or_default().push((partition.clone(), leader.epoch));
            }
        }
        let isolation = self.settings.link.isolation_level;
        for (broker, partitions) in by_leader {
            for piece in partitions.chunks(ENDS_PER_REQUEST_MAX) {
                self.sampling.asking += 1;
                let (client, piece) = (self.client.clone(), piece.to_vec());
                self.spawn(async move {
                    let asked_at = clock;
                    let result = ends_of(&client, broker, isolation, &piece).await;
                    Outcome::Ends(SourceEnds { asked_at, result })
                });
            }
        }
    }

    pub(super) fn ends_came(&mut self, ends: SourceEnds) {
        self.sampling.asking -= 1;
        let rules = self.rules();
        match ends.result {
            Err(error) => debug!("where logs end at the source is not known: {error}; asked again"),
            Ok(answers) => {
                for (partition, bound, high_watermark) in answers {
                    let Some(mirror) = self.mirrors.get_mut(&partition) else { continue };
                    // A fetch may have said more meanwhile.
                    if mirror.lag.seen_at().is_none_or(|at| at < ends.asked_at) {
                        mirror.lag.source_is(rules, ends.asked_at, bound, high_watermark);
                        if mirror.lag.is_behind() {
                            self.sampling.behind.insert(partition);
                        }
                    }
                }
            }
        }
    }

    fn weigh_risk(&mut self, clock: u64) {
        let rules = self.rules();
        let of_behind = self.sampling.behind.iter().filter_map(|partition| {
            self.mirrors.get(partition).and_then(|mirror| mirror.lag.at_risk_ms(rules, clock))
        });
        let worst = of_behind.max().unwrap_or(0);
        let at_risk = self.sampling.silent_ms.map(|silent| silent.max(worst));
        self.sampling.link.at_risk(clock, at_risk);
    }

    /// All of the link together.
    pub(super) fn link_figures(&self) -> Figures {
        let (rules, clock) = (self.rules(), monotonic_nanoseconds());
        Figures::sum(self.mirrors.values().map(|mirror| figures_of(mirror, rules, clock)))
    }

    /// How old the oldest missing record is, for people who watch.
    pub fn lag_text(&self) -> String {
        let figures = self.link_figures();
        let at_least = if figures.at_least { "at least " } else { "" };
        figures.milliseconds.map_or_else(
            || "unknown".to_owned(),
            |age_ms| format!("{at_least}{}.{} s", age_ms / 1_000, age_ms % 1_000 / 100),
        )
    }

    /// What is still to come before this daemon does what it is for.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(halted) = &self.halted {
            return Some(halted.clone());
        }
        if let Some(guest) = &self.guest {
            let joined = |id: &i32| {
                let state = guest.member.state(*id).map(|state| state.state);
                matches!(state, Some(MembershipState::Active { .. }))
            };
            if let Some(id) = guest.ids().into_iter().find(|id| !joined(id)) {
                return Some(format!("guest broker {id} has not joined the destination yet"));
            }
        }
        if self.refresh.succeeded_at.is_none() {
            return Some("the source has not answered yet".to_owned());
        }
        let recovering = |mirror: &&Mirror| {
            mirror.first_end.is_none() && matches!(mirror.phase, Phase::Recovering | Phase::TakingOver)
        };
        let recovering = self.mirrors.values().filter(recovering).count();
        (recovering > 0).then(|| format!("{recovering} partitions are still being recovered"))
    }
}

/// How far a partition is behind; nothing is known of one that no shard has.
pub(super) fn figures_of(mirror: &Mirror, rules: Rules, clock: u64) -> Figures {
    match mirror.is_in_shard() || mirror.first_end.is_some() {
        true => mirror.lag.figures(rules, clock, &mirror.counters),
        false => Figures::default(),
    }
}

async fn ends_of(
    client: &SourceClient,
    broker: i32,
    isolation: IsolationLevel,
    partitions: &[(TopicPartition, LeaderEpoch)],
) -> Result<Ends, ClientError> {
    // The bound first: it never lies above a high watermark that was asked for later.
    let bounds = client.log_edges(broker, isolation, LogEdge::End, partitions).await?;
    let uncommitted = IsolationLevel::ReadUncommitted;
    let ends = client.log_edges(broker, uncommitted, LogEdge::End, partitions).await?;
    let ends: BTreeMap<_, _> = ends.into_iter().filter_map(|(each, end)| Some((each, end.ok()?))).collect();
    let both = |(partition, bound): (TopicPartition, Result<_, i16>)| {
        let bound: twinlog_log_segment::offset::Offset = bound.ok()?;
        let end = *ends.get(&partition)?;
        Some((partition, bound.value(), end.value()))
    };
    Ok(bounds.into_iter().filter_map(both).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::files::TopicId;
    use twinlog_sync::session::PartitionKey;
    use twinlog_sync::wire::fetch_request::Topic;

    #[test]
    fn only_those_that_moved_are_visited_and_each_once() {
        let now = Instant::now();
        let topic = Arc::new(Topic { name: "orders".into(), id: TopicId::ZERO });
        let mut sampling = Sampling::new(now);
        let mirrors: Vec<Mirror> = (0..130)
            .map(|index| {
                let partition = TopicPartition::new("orders", index).unwrap();
                let key = PartitionKey { topic: 0, index };
                let shard = usize::try_from(index % 2).unwrap();
                Mirror::new(partition, key, topic.clone(), shard, "orders".into(), now)
            })
            .collect();
        for mirror in &mirrors {
            sampling.watch(mirror);
            sampling.watch(mirror);
        }
        assert_eq!(sampling.words.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert!(sampling.moved().is_empty());
        for index in [129, 3, 129, 64] {
            mirrors[index].counters.tell_moved();
        }
        let mut moved: Vec<i32> = sampling.moved().iter().map(TopicPartition::partition).collect();
        moved.sort_unstable();
        assert_eq!(moved, [3, 64, 129]);
        assert!(sampling.moved().is_empty());
    }
}
