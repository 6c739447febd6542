//! Which partitions are to be mirrored, and what changed about them since the last look.
//!
//! Pure: metadata goes in, findings come out. A topic counts as deleted only after several answers in
//! a row did not have it, because a broker that has just started may know only a part of the cluster.
//!
//! ```text
//!   unseen --> mirrored <----same id again---- gone
//!                  |  \--not in several answers--^
//!                  |--refused by name--> withheld --told again--> mirrored   (nothing is known of it meanwhile)
//!                  \--another topic id--> re-created (for good: only an operator ends it)
//! ```

use crate::config::{HostPort, TopicFilters, TopicPattern};
use std::collections::{BTreeMap, BTreeSet};
use twinlog_log_segment::files::{TopicId, TopicPartition, check_topic_name};
use twinlog_sync::fault::code;
use twinlog_sync::partition::Leader;

/// Answers in a row without a topic before it counts as deleted.
const GONE_ANSWERS: u32 = 3;

/// The cluster as one broker tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    pub cluster_id: Option<String>,
    pub brokers: BTreeMap<i32, HostPort>,
    pub topics: Vec<TopicView>,
}

/// One topic of it. The name is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    pub name: String,
    pub id: TopicId,
    pub is_internal: bool,
    pub error: i16,
    pub partitions: Vec<PartitionView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    pub index: i32,
    /// `None` while nobody leads it.
    pub leader: Option<Leader>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    NewPartition {
        partition: TopicPartition,
        topic_id: TopicId,
        leader: Option<Leader>,
    },
    LeaderChanged {
        partition: TopicPartition,
        leader: Option<Leader>,
    },
    TopicGone {
        topic: String,
    },
    TopicReturned {
        topic: String,
    },
    TopicRecreated {
        topic: String,
        mirrored: TopicId,
        found: TopicId,
    },
    /// No broker would allow this name, and no directory of ours could have it.
    IllegalName {
        name: String,
    },
    /// The source will not tell about it, or not now.
    Withheld {
        topic: String,
        code: i16,
    },
    /// We may not know any more whether a mirrored topic exists.
    AccessLost {
        topic: String,
    },
    /// We may again.
    AccessRegained {
        topic: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Seen,
    /// Not in the last so many answers.
    Missing(u32),
    /// Refused to us by name.
    Withheld,
    Gone,
    Recreated,
}

struct KnownTopic {
    id: TopicId,
    presence: Presence,
    partitions: BTreeMap<i32, Option<Leader>>,
}

/// See the file's header.
pub struct Discovery {
    patterns: Vec<TopicPattern>,
    filters: TopicFilters,
    /// Named by command, beside patterns and filters.
    created: BTreeSet<String>,
    /// Deleted by command: whatever patterns and filters say, not wanted.
    deleted: BTreeSet<String>,
    topics: BTreeMap<String, KnownTopic>,
    /// Findings that are told once.
    told: BTreeSet<String>,
    /// Topics that were refused by name and never seen: who may not describe one is not told whether it exists.
    denied: BTreeSet<String>,
}

impl Discovery {
    pub fn new(patterns: Vec<TopicPattern>, filters: TopicFilters) -> Self {
        Self {
            patterns,
            filters,
            created: BTreeSet::new(),
            deleted: BTreeSet::new(),
            topics: BTreeMap::new(),
            told: BTreeSet::new(),
            denied: BTreeSet::new(),
        }
    }

    /// Whether no topic that is known would be wanted no more.
    pub fn keeps_all_with(&self, patterns: &[TopicPattern], filters: &TopicFilters) -> bool {
        self.topics.keys().all(|topic| {
            let matched = patterns.iter().any(|pattern| pattern.matches(topic, false));
            matched || self.created.contains(topic) || filters.matches(topic, false)
        })
    }

    /// Other patterns and filters from the next answer on.
    pub fn retarget(&mut self, patterns: Vec<TopicPattern>, filters: TopicFilters) {
        (self.patterns, self.filters) = (patterns, filters);
    }

    /// A topic is wanted by command; what is found of it is told from the beginning.
    pub fn create(&mut self, topic: &str) {
        self.deleted.remove(topic);
        self.created.insert(topic.to_owned());
        self.topics.remove(topic);
    }

    /// A topic is not wanted any more, until it is created by command.
    pub fn delete(&mut self, topic: &str) {
        self.created.remove(topic);
        self.deleted.insert(topic.to_owned());
        self.topics.remove(topic);
    }

    /// The names to ask for; `None`: a pattern or a filter needs them all.
    pub fn names_wanted(&self) -> Option<Vec<String>> {
        if !self.filters.is_empty() {
            return None;
        }
        let named = self.patterns.iter().map(|pattern| pattern.literal().map(str::to_owned));
        let mut names: Vec<String> = named.collect::<Option<_>>()?;
        names.extend(self.created.iter().cloned());
        names.retain(|name| !self.deleted.contains(name));
        Some(names)
    }

    /// Topics that were seen or are named. An answer about all topics leaves out those that we may not describe:
    /// only a question by name tells a deleted one from one that is hidden from us.
    pub fn known_names(&self) -> Vec<String> {
        let seen = self.topics.iter().filter(|(_, topic)| topic.presence != Presence::Recreated);
        seen.map(|(name, _)| name.clone()).chain(self.unseen_names()).collect()
    }

    /// Whether the source refused to tell of a topic that was never seen.
    pub fn is_denied(&self, topic: &str) -> bool {
        self.denied.contains(topic)
    }

    /// Whether a topic of this name is to be mirrored.
    pub fn wants(&self, topic: &str, is_internal: bool) -> bool {
        if self.deleted.contains(topic) {
            return false;
        }
        let matched = self.patterns.iter().any(|pattern| pattern.matches(topic, is_internal));
        let named = matched || self.created.contains(topic);
        named || self.filters.matches(topic, is_internal)
    }

    /// Topics that were named and never seen.
    pub fn unseen_names(&self) -> Vec<String> {
        let names = self.patterns.iter().filter_map(TopicPattern::literal);
        let all = names.chain(self.created.iter().map(String::as_str));
        let unseen = |name: &&str| !self.topics.contains_key(*name) && !self.deleted.contains(*name);
        all.filter(unseen).map(str::to_owned).collect()
    }

    /// Takes in one answer.
    pub fn observe(&mut self, view: &ClusterView) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut seen = BTreeSet::new();
        for topic in &view.topics {
            if !self.wants(&topic.name, topic.is_internal) {
                continue;
            }
            match topic.error {
                code::UNKNOWN_TOPIC_OR_PARTITION | code::UNKNOWN_TOPIC_ID => {}
                _ if check_topic_name(&topic.name).is_err() => {
                    if self.told.insert(topic.name.clone()) {
                        findings.push(Finding::IllegalName { name: topic.name.clone() });
                    }
                }
                // Named in the answer, so it is not gone, whatever else is wrong with it.
                0 | code::LEADER_NOT_AVAILABLE => {
                    seen.insert(topic.name.as_str());
                    self.observe_topic(topic, &mut findings);
                }
                code::TOPIC_AUTHORIZATION_FAILED if self.topics.contains_key(&topic.name) => {
                    seen.insert(topic.name.as_str());
                    self.observe_refusal(&topic.name, &mut findings);
                }
                code => {
                    seen.insert(topic.name.as_str());
                    if code == code::TOPIC_AUTHORIZATION_FAILED {
                        self.denied.insert(topic.name.clone());
                    }
                    if self.told.insert(format!("{} {code}", topic.name)) {
                        findings.push(Finding::Withheld { topic: topic.name.clone(), code });
                    }
                }
            }
        }
        self.count_missing(&seen, &mut findings);
        findings
    }

    /// It says nothing of whether the topic is there: what is known of it stays.
    fn observe_refusal(&mut self, name: &str, findings: &mut Vec<Finding>) {
        let Some(known) = self.topics.get_mut(name) else { return };
        match known.presence {
            Presence::Seen | Presence::Missing(_) => {
                known.presence = Presence::Withheld;
                findings.push(Finding::AccessLost { topic: name.to_owned() });
            }
            Presence::Withheld | Presence::Gone | Presence::Recreated => {}
        }
    }

    fn observe_topic(&mut self, topic: &TopicView, findings: &mut Vec<Finding>) {
        self.denied.remove(&topic.name);
        self.told.remove(&format!("{} {}", topic.name, code::TOPIC_AUTHORIZATION_FAILED));
        let known = self.topics.entry(topic.name.clone()).or_insert_with(|| KnownTopic {
            id: topic.id,
            presence: Presence::Seen,
            partitions: BTreeMap::new(),
        });
        let name = || topic.name.clone();
        if known.presence == Presence::Withheld {
            known.presence = Presence::Seen;
            findings.push(Finding::AccessRegained { topic: name() });
        }
        let both_have_ids = known.id != TopicId::ZERO && topic.id != TopicId::ZERO;
        if both_have_ids && known.id != topic.id {
            if known.presence != Presence::Recreated {
                known.presence = Presence::Recreated;
                findings.push(Finding::TopicRecreated { topic: name(), mirrored: known.id, found: topic.id });
            }
            return;
        }
        match known.presence {
            Presence::Gone => findings.push(Finding::TopicReturned { topic: name() }),
            // The first topic came back under its own id: a stale answer, not a re-creation, was seen before.
            Presence::Recreated => findings.push(Finding::TopicReturned { topic: name() }),
            Presence::Seen | Presence::Missing(_) | Presence::Withheld => {}
        }
        known.presence = Presence::Seen;
        for view in &topic.partitions {
            let Ok(partition) = TopicPartition::new(&topic.name, view.index) else { continue };
            match known.partitions.insert(view.index, view.leader) {
                None => {
                    let (topic_id, leader) = (topic.id, view.leader);
                    findings.push(Finding::NewPartition { partition, topic_id, leader });
                }
                Some(before) if is_stale(before, view.leader) => {
                    known.partitions.insert(view.index, before);
                }
                Some(before) if before != view.leader => {
                    findings.push(Finding::LeaderChanged { partition, leader: view.leader });
                }
                Some(_) => {}
            }
        }
    }

    fn count_missing(&mut self, seen: &BTreeSet<&str>, findings: &mut Vec<Finding>) {
        for (name, known) in &mut self.topics {
            if seen.contains(name.as_str()) {
                continue;
            }
            known.presence = match known.presence {
                Presence::Seen => Presence::Missing(1),
                // Who is told that it does not exist may describe it.
                Presence::Withheld => {
                    findings.push(Finding::AccessRegained { topic: name.clone() });
                    Presence::Missing(1)
                }
                Presence::Missing(answers) if answers + 1 < GONE_ANSWERS => Presence::Missing(answers + 1),
                Presence::Missing(_) => {
                    findings.push(Finding::TopicGone { topic: name.clone() });
                    Presence::Gone
                }
                presence @ (Presence::Gone | Presence::Recreated) => presence,
            };
        }
    }

    /// Whether a topic was missing in the last answer and is not yet known to be gone: look again soon.
    pub fn is_unsettled(&self) -> bool {
        self.topics.values().any(|topic| matches!(topic.presence, Presence::Missing(_)))
    }

    /// Whether a topic that is mirrored is hidden from us.
    pub fn is_withheld(&self) -> bool {
        self.topics.values().any(|topic| topic.presence == Presence::Withheld)
    }

    /// Who leads a partition, as far as is known.
    pub fn leader(&self, partition: &TopicPartition) -> Option<Leader> {
        *self.topics.get(partition.topic())?.partitions.get(&partition.partition())?
    }
}

/// A broker that lags behind still names an earlier leader. ref: KIP-320
fn is_stale(before: Option<Leader>, now: Option<Leader>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => now.epoch.is_known() && now.epoch < before.epoch,
        _ => false,
    }
}

/// Which of `shards` a partition belongs to: neighbours go to different shards, and the same partition
/// always to the same one for the same number of shards.
pub fn shard_of(partition: &TopicPartition, shards: usize) -> usize {
    // FNV-1a: the standard library's hasher is seeded differently in each process.
    let hash = partition.topic().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let place = (hash >> 32).wrapping_add(u64::from(partition.partition().cast_unsigned()));
    usize::try_from(place % shards as u64).expect("below the number of shards")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_log_segment::offset::LeaderEpoch;

    const FIRST: TopicId = TopicId([1; 16]);
    const SECOND: TopicId = TopicId([2; 16]);

    fn leads(broker: i32, epoch: i32) -> Option<Leader> {
        Some(Leader { broker, epoch: LeaderEpoch(epoch) })
    }

    fn topic(name: &str, id: TopicId, leaders: &[Option<Leader>]) -> TopicView {
        let each = leaders.iter().enumerate();
        let partitions = each.map(|(index, leader)| PartitionView { index: index as i32, leader: *leader });
        let is_internal = name.starts_with("__");
        TopicView { name: name.to_owned(), id, is_internal, error: 0, partitions: partitions.collect() }
    }

    fn view(topics: Vec<TopicView>) -> ClusterView {
        ClusterView { topics, ..ClusterView::default() }
    }

    fn discovery(patterns: &[&str]) -> Discovery {
        Discovery::new(
            patterns.iter().map(|text| TopicPattern::parse(text).unwrap()).collect(),
            TopicFilters::default(),
        )
    }

    fn partition(name: &str, index: i32) -> TopicPartition {
        TopicPartition::new(name, index).unwrap()
    }

    #[test]
    fn matching_topics_are_found_and_internal_ones_only_by_name() {
        let all = view(vec![topic("a", FIRST, &[leads(1, 0)]), topic("__state", SECOND, &[leads(1, 0)])]);
        assert_eq!(discovery(&[".*"]).observe(&all).len(), 1);
        assert_eq!(discovery(&[".*", "__state"]).observe(&all).len(), 2);
        assert_eq!(discovery(&["a", "b"]).names_wanted(), Some(vec!["a".into(), "b".into()]));
        assert_eq!(discovery(&["a", ".*"]).names_wanted(), None);
    }

    #[test]
    fn more_partitions_and_other_leaders_are_told_once() {
        let mut discovery = discovery(&["a"]);
        assert_eq!(discovery.unseen_names(), ["a"]);
        discovery.observe(&view(vec![topic("a", FIRST, &[leads(1, 3)])]));
        let grown = view(vec![topic("a", FIRST, &[leads(2, 4), None])]);
        let expected = [
            Finding::LeaderChanged { partition: partition("a", 0), leader: leads(2, 4) },
            Finding::NewPartition { partition: partition("a", 1), topic_id: FIRST, leader: None },
        ];
        assert_eq!(discovery.observe(&grown), expected);
        assert_eq!(discovery.observe(&grown), []);
        assert_eq!(discovery.leader(&partition("a", 0)), leads(2, 4));
    }

    #[test]
    fn a_command_goes_before_patterns_and_what_it_deletes_is_found_anew_when_it_creates() {
        let all = view(vec![topic("a", FIRST, &[leads(1, 0)]), topic("b", SECOND, &[leads(1, 0)])]);
        let mut discovery = discovery(&["a"]);
        discovery.create("b");
        assert_eq!(discovery.names_wanted(), Some(vec!["a".into(), "b".into()]));
        assert_eq!(discovery.observe(&all).len(), 2);
        discovery.delete("a");
        assert!(!discovery.wants("a", false) && discovery.unseen_names().is_empty());
        assert_eq!(discovery.names_wanted(), Some(vec!["b".into()]));
        assert_eq!(discovery.observe(&all), []);
        discovery.create("a");
        assert_eq!(discovery.unseen_names(), ["a", "a"]);
        assert_eq!(discovery.observe(&all).len(), 1);
    }

    #[test]
    fn a_lagging_broker_does_not_bring_an_old_leader_back() {
        let mut discovery = discovery(&["a"]);
        discovery.observe(&view(vec![topic("a", FIRST, &[leads(2, 4)])]));
        assert_eq!(discovery.observe(&view(vec![topic("a", FIRST, &[leads(1, 3)])])), []);
        assert_eq!(discovery.leader(&partition("a", 0)), leads(2, 4));
    }

    #[test]
    fn a_topic_is_gone_after_several_answers_and_may_return() {
        let mut discovery = discovery(&["a"]);
        let there = view(vec![topic("a", FIRST, &[leads(1, 0)])]);
        discovery.observe(&there);
        for _ in 1..GONE_ANSWERS {
            assert_eq!(discovery.observe(&view(vec![])), []);
            assert!(discovery.is_unsettled());
        }
        assert_eq!(discovery.observe(&view(vec![])), [Finding::TopicGone { topic: "a".into() }]);
        assert_eq!(discovery.observe(&view(vec![])), []);
        assert_eq!(discovery.observe(&there), [Finding::TopicReturned { topic: "a".into() }]);
    }

    #[test]
    fn a_topic_that_is_hidden_from_us_is_not_taken_for_deleted() {
        let mut discovery = discovery(&["a.*"]);
        let there = view(vec![topic("a", FIRST, &[leads(1, 0)])]);
        discovery.observe(&there);
        assert_eq!(discovery.known_names(), ["a"], "it is asked for by name");
        let refused = || {
            let mut refused = topic("a", TopicId::ZERO, &[]);
            refused.error = code::TOPIC_AUTHORIZATION_FAILED;
            view(vec![refused])
        };
        discovery.observe(&view(vec![]));
        assert_eq!(discovery.observe(&refused()), [Finding::AccessLost { topic: "a".into() }]);
        for _ in 0..2 * GONE_ANSWERS {
            assert_eq!(discovery.observe(&refused()), []);
        }
        assert!(discovery.is_withheld() && !discovery.is_unsettled());
        assert_eq!(discovery.leader(&partition("a", 0)), leads(1, 0), "what was known stays");
        assert_eq!(discovery.observe(&there), [Finding::AccessRegained { topic: "a".into() }]);
        discovery.observe(&refused());
        assert_eq!(discovery.observe(&view(vec![])), [Finding::AccessRegained { topic: "a".into() }]);
        for _ in 2..GONE_ANSWERS {
            assert_eq!(discovery.observe(&view(vec![])), []);
        }
        assert_eq!(discovery.observe(&view(vec![])), [Finding::TopicGone { topic: "a".into() }]);
        assert_eq!(discovery.observe(&refused()), [], "a deleted one stays deleted");
        assert_eq!(discovery.observe(&there), [Finding::TopicReturned { topic: "a".into() }]);
    }

    #[test]
    fn another_topic_id_is_another_topic() {
        let mut discovery = discovery(&["a"]);
        discovery.observe(&view(vec![topic("a", FIRST, &[leads(1, 0)])]));
        let again = view(vec![topic("a", SECOND, &[leads(1, 0), leads(1, 0)])]);
        let expected = Finding::TopicRecreated { topic: "a".into(), mirrored: FIRST, found: SECOND };
        assert_eq!(discovery.observe(&again), [expected]);
        assert_eq!(discovery.observe(&again), [], "and none of its partitions is new to us");
    }

    #[test]
    fn names_that_are_paths_are_refused_and_a_denied_topic_is_told_once() {
        let mut discovery = discovery(&[".*/.*", "secret"]);
        let mut denied = topic("secret", TopicId::ZERO, &[]);
        denied.error = code::TOPIC_AUTHORIZATION_FAILED;
        let hostile = view(vec![topic("../etc", FIRST, &[leads(1, 0)]), denied]);
        let expected = [
            Finding::IllegalName { name: "../etc".into() },
            Finding::Withheld { topic: "secret".into(), code: code::TOPIC_AUTHORIZATION_FAILED },
        ];
        assert_eq!(discovery.observe(&hostile), expected);
        assert_eq!(discovery.observe(&hostile), []);
    }

    #[test]
    fn neighbouring_partitions_go_to_different_shards() {
        for shards in 1..5 {
            let places: BTreeSet<usize> =
                (0..shards as i32).map(|index| shard_of(&partition("a", index), shards)).collect();
            assert_eq!(places.len(), shards);
        }
    }
}
