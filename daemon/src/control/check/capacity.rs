//! What a link would take, told before it starts: bytes at the source, room here, memory, time to catch up.
//!
//! Asks only what changes nothing. Sizes are those of the leaders' log directories, which is what is copied; the
//! time is what a short trial read gives, so it is an estimate and says so. What is not told is unknown, never 0.

use super::line::Line;
use crate::config::{LinkSettings, Settings};
use crate::control::discovery::{ClusterView, Discovery, PartitionView};
use crate::control::guest::wire_text;
use crate::control::memory_budget;
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::{DescribeLogDirsRequest, TopicName};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use twinlog_io::probe_directory;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_sync::partition::Leader;
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Partitions, largest first, that a trial reads a piece of. Raised, the estimate is better and takes longer.
const TRIAL_PARTITIONS: usize = 8;
/// How long the trial may take. Raised, a slow source holds the answer back.
const TRIAL_LIMIT: Duration = Duration::from_secs(3);
/// Room that is left beside the copy before it counts as enough: segments are reserved ahead.
const ROOM_PERCENT: u64 = 5;
const SUBJECT: &str = "capacity";
const MEBIBYTE: u64 = 1 << 20;

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub topics: u64,
    pub partitions: u64,
    /// Bytes of the leaders' logs; absent where the source does not tell them.
    pub source_bytes: Option<u64>,
    /// Partitions whose size the source did not tell.
    pub unknown_partitions: u64,
    /// Free bytes of the file system of `data.dir`.
    pub free_bytes: Option<u64>,
    /// The copy is kept here. Otherwise on the destination's brokers, and here only as far as the spool goes.
    pub is_store: bool,
    pub memory_bytes: u64,
    /// Partitions of the daemon's other links, which share `memory_bytes` with it.
    pub other_partitions: u64,
    /// The smallest `memory.bytes` that does for all these partitions.
    pub memory_least_bytes: u64,
    /// What one connection read per second in the trial.
    pub trial_bytes_per_second: Option<u64>,
    /// `link.bytes.per.second`; 0 for no limit.
    pub budget_bytes_per_second: u64,
}

type Led = BTreeMap<i32, Vec<(TopicPartition, Leader)>>;

/// Asks the source. Fails only where it does not answer at all.
pub(super) async fn ask(
    client: &SourceClient,
    settings: &Settings,
    view: &ClusterView,
    other_partitions: u64,
) -> Capacity {
    let LinkSettings { topics, topic_filters, guest, bytes_per_second, .. } = &settings.link;
    let discovery = Discovery::new(topics.clone(), topic_filters.clone());
    let found = view.topics.iter().filter(|topic| discovery.wants(&topic.name, topic.is_internal));
    let found: Vec<_> = found.filter(|topic| topic.error == 0).collect();
    let mut led = Led::new();
    for topic in &found {
        for PartitionView { index, leader } in &topic.partitions {
            if let (Some(leader), Ok(partition)) = (leader, TopicPartition::new(&topic.name, *index)) {
                led.entry(leader.broker).or_default().push((partition, *leader));
            }
        }
    }
    let partitions: u64 = found.iter().map(|topic| topic.partitions.len() as u64).sum();
    let sizes = sizes_of(client, &led).await;
    let existing = settings.daemon.data_dir.ancestors().find(|path| path.is_dir());
    Capacity {
        topics: found.len() as u64,
        partitions,
        source_bytes: (!sizes.is_empty()).then(|| sizes.values().sum()),
        unknown_partitions: partitions - sizes.len() as u64,
        free_bytes: probe_directory(existing.unwrap_or(Path::new("."))).ok().map(|facts| facts.free_bytes),
        is_store: guest.is_none(),
        memory_bytes: settings.daemon.memory_bytes,
        other_partitions,
        memory_least_bytes: memory_budget::least_for(partitions + other_partitions),
        trial_bytes_per_second: trial(client, &led, &sizes).await,
        budget_bytes_per_second: *bytes_per_second,
    }
}

/// Sizes of partitions as their leaders tell them. One that tells nothing leaves its partitions out.
async fn sizes_of(client: &SourceClient, led: &Led) -> BTreeMap<TopicPartition, u64> {
    let mut sizes = BTreeMap::new();
    for (broker, partitions) in led {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (partition, _) in partitions {
            topics.entry(partition.topic()).or_default().push(partition.partition());
        }
        let topic = |(name, indexes): (&&str, &Vec<i32>)| {
            DescribableLogDirTopic::default()
                .with_topic(TopicName(wire_text(name)))
                .with_partitions(indexes.clone())
        };
        let request =
            |_| DescribeLogDirsRequest::default().with_topics(Some(topics.iter().map(topic).collect()));
        let Ok(answer) = client.ask_broker(*broker, request).await else { continue };
        for topic in answer.results.iter().flat_map(|directory| &directory.topics) {
            // A future copy is one on its way between two directories.
            for each in topic.partitions.iter().filter(|each| !each.is_future_key) {
                let partition = TopicPartition::new(topic.name.as_str(), each.partition_index);
                if let (Ok(partition), Ok(size)) = (partition, u64::try_from(each.partition_size)) {
                    sizes.insert(partition, size);
                }
            }
        }
    }
    sizes
}

/// Reads the beginnings of the largest partitions, one after the other: history, which comes from disks.
async fn trial(client: &SourceClient, led: &Led, sizes: &BTreeMap<TopicPartition, u64>) -> Option<u64> {
    let size = |partition: &TopicPartition| sizes.get(partition).copied().unwrap_or(0);
    let mut largest: Vec<_> = led.values().flatten().filter(|(partition, _)| size(partition) > 0).collect();
    largest.sort_by_key(|(partition, _)| std::cmp::Reverse(size(partition)));
    let (began, mut bytes) = (Instant::now(), 0);
    let reading = async {
        for (partition, leader) in largest.into_iter().take(TRIAL_PARTITIONS) {
            bytes += beginning_of(client, partition, *leader).await?;
        }
        Ok::<(), ClientError>(())
    };
    // What was read until then counts.
    let _ = tokio::time::timeout(TRIAL_LIMIT, reading).await;
    let nanoseconds = began.elapsed().as_nanos().max(1);
    (bytes > 0).then(|| u64::try_from(u128::from(bytes) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX))
}

async fn beginning_of(
    client: &SourceClient,
    partition: &TopicPartition,
    leader: Leader,
) -> Result<u64, ClientError> {
    let asked = [(partition.clone(), LeaderEpoch(leader.epoch.0))];
    let edges =
        client.log_edges(leader.broker, IsolationLevel::ReadUncommitted, LogEdge::Start, &asked).await?;
    let Some((_, Ok(start))) = edges.into_iter().next() else { return Ok(0) };
    Ok(client.read(leader, partition, start).await?.len() as u64)
}

impl Capacity {
    /// Seconds until the copy has caught up with what is there now, at the pace of the trial or of the budget.
    pub fn catch_up_seconds(&self) -> Option<u64> {
        let budget = Some(self.budget_bytes_per_second).filter(|budget| *budget > 0);
        let pace = match (self.trial_bytes_per_second, budget) {
            (Some(trial), Some(budget)) => trial.min(budget),
            (trial, budget) => trial.or(budget)?,
        };
        Some(self.source_bytes?.div_ceil(pace.max(1)))
    }

    /// Bytes that the copy takes of `data.dir`, with the room it needs beside them.
    fn wanted_bytes(&self) -> Option<u64> {
        let bytes = self.source_bytes.filter(|_| self.is_store)?;
        Some(bytes.saturating_add(bytes / 100 * ROOM_PERCENT))
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        vec![self.room_line(), self.memory_line(), self.time_line()]
    }

    fn room_line(&self) -> Line {
        let what = format!("{} topics with {} partitions", self.topics, self.partitions);
        let Some(bytes) = self.source_bytes else {
            let text = format!("{what}; how many bytes they have is not told");
            return Line::warn(SUBJECT, text, "allow DESCRIBE on the source's cluster, or compare by hand");
        };
        let mut text = format!("{what} have {} MiB", bytes / MEBIBYTE);
        if self.unknown_partitions > 0 {
            text.push_str(&format!(", and {} of unknown size", self.unknown_partitions));
        }
        match (self.wanted_bytes(), self.free_bytes) {
            (Some(wanted), Some(free)) if wanted > free => {
                let text =
                    format!("{text}; {} MiB are free here, the copy stops when they are used up", free >> 20);
                let cure = format!("make room for {} MiB, or mirror fewer topics", wanted.div_ceil(MEBIBYTE));
                Line::fail(SUBJECT, text, cure)
            }
            (Some(_), Some(free)) => Line::ok(SUBJECT, format!("{text}; {} MiB are free here", free >> 20)),
            (Some(_), None) => Line::ok(SUBJECT, text),
            (None, _) => {
                Line::ok(SUBJECT, format!("{text}, times the destination's replication factor there"))
            }
        }
    }

    fn memory_line(&self) -> Line {
        match memory_budget::complaint(self.memory_bytes, self.partitions + self.other_partitions) {
            Some(complaint) => {
                let cure = format!("set memory.bytes to {} MiB or more", self.memory_least_bytes >> 20);
                Line::warn("memory", complaint, cure)
            }
            None => {
                let (has, least) = (self.memory_bytes >> 20, self.memory_least_bytes >> 20);
                let whom = match self.other_partitions {
                    0 => "this link alone".to_owned(),
                    others => format!("this link and the {others} partitions of the others"),
                };
                Line::ok("memory", format!("memory.bytes = {has} MiB; {least} MiB would do for {whom}"))
            }
        }
    }

    fn time_line(&self) -> Line {
        const SUBJECT: &str = "time to catch up";
        let pace = match (self.trial_bytes_per_second, self.budget_bytes_per_second) {
            (None, 0) => "no trial read succeeded".to_owned(),
            (None, budget) => format!("link.bytes.per.second allows {} MiB/s", budget / MEBIBYTE),
            (Some(trial), 0) => format!("one connection read {} MiB/s in a trial", trial / MEBIBYTE),
            (Some(trial), budget) => format!(
                "one connection read {} MiB/s in a trial, link.bytes.per.second allows {} MiB/s",
                trial / MEBIBYTE,
                budget / MEBIBYTE
            ),
        };
        match self.catch_up_seconds() {
            Some(seconds) => {
                let (hours, minutes) = (seconds / 3_600, seconds % 3_600 / 60);
                let text = format!("about {hours} h {minutes} min {} s: {pace}", seconds % 60);
                Line::ok(SUBJECT, format!("{text}; several read beside each other, disks may be slower"))
            }
            None => Line::ok(SUBJECT, format!("unknown: {pace}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity {
            topics: 2,
            partitions: 10,
            source_bytes: Some(1_000 << 20),
            free_bytes: Some(2_000 << 20),
            is_store: true,
            memory_bytes: 512 << 20,
            memory_least_bytes: memory_budget::least_for(10),
            trial_bytes_per_second: Some(100 << 20),
            ..Capacity::default()
        }
    }

    fn said(capacity: &Capacity) -> String {
        capacity.lines().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_fits_is_told_with_the_time_it_takes() {
        let said = said(&capacity());
        assert!(said.contains("have 1000 MiB; 2000 MiB are free here"), "{said}");
        assert!(said.contains("about 0 h 0 min 10 s"), "{said}");
    }

    #[test]
    fn a_store_that_is_too_small_fails_with_what_it_needs_and_a_spool_does_not() {
        let mut small = Capacity { free_bytes: Some(1_020 << 20), ..capacity() };
        assert!(said(&small).contains("make room for 1050 MiB"), "{}", said(&small));
        assert!(small.lines().iter().any(Line::is_failure));
        small.is_store = false;
        assert!(!small.lines().iter().any(Line::is_failure), "{}", said(&small));
    }

    #[test]
    fn memory_is_judged_with_the_partitions_of_the_other_links() {
        assert!(said(&capacity()).contains("for this link alone"));
        let beside = |other_partitions| Capacity {
            other_partitions,
            memory_least_bytes: memory_budget::least_for(10 + other_partitions),
            ..capacity()
        };
        let said = |others| said(&beside(others));
        assert!(said(100).contains("this link and the 100 partitions of the others"), "{}", said(100));
        assert!(said(100_000).contains("too little for 100010 partitions"), "{}", said(100_000));
    }

    #[test]
    fn the_slower_of_trial_and_budget_counts_and_nothing_is_never_zero() {
        let mut some = Capacity { budget_bytes_per_second: 10 << 20, ..capacity() };
        assert_eq!(some.catch_up_seconds(), Some(100));
        some.trial_bytes_per_second = None;
        assert_eq!(some.catch_up_seconds(), Some(100));
        some.budget_bytes_per_second = 0;
        assert_eq!(some.catch_up_seconds(), None);
        assert!(said(&some).contains("unknown: no trial read succeeded"), "{}", said(&some));
        let untold = Capacity { source_bytes: None, ..capacity() };
        assert_eq!(untold.catch_up_seconds(), None);
        assert!(said(&untold).contains("is not told"), "{}", said(&untold));
    }
}
