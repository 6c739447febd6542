//! What the control core does for a shard, without its threads: recovery, leaders, classification.
//!
//! Drives the product's own recovery, store and truncation decisions; only the questions to the source
//! are answered by looking at the embedded cluster.

use super::disk::SimulatedDisk;
use super::engine::SimulatedEngine;
use super::network::Network;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use twinlog_daemon::embedded::Cluster;
use twinlog_daemon::journal;
use twinlog_daemon::recovery::{RecoverRequest, recover_partition};
use twinlog_daemon::shard::Shard;
use twinlog_daemon::shard::mailbox::{AddPartition, Command, Event, PartitionCounters};
use twinlog_daemon::store::{self, CutRequest, RestartRequest, StoreError};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::fault::Fault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::truncation::{Decision, SourceLog, TruncationPolicy, classify};
use twinlog_sync::wire::fetch_request::Topic;

/// `batch.bytes.max` of the simulated link.
pub const BATCH_BYTES_MAX: u32 = 4 << 20;
/// `<data.dir>`
pub const DATA_DIRECTORY: &str = "/data";

/// What a shard is told, and what it said last.
pub struct Control {
    disk: SimulatedDisk,
    policy: TruncationPolicy,
    topics: Vec<Arc<Topic>>,
    pub counters: BTreeMap<PartitionKey, Arc<PartitionCounters>>,
    pub stopped: BTreeMap<PartitionKey, Fault>,
    /// Partitions on their way out of the shard, and what happens to their files then.
    cutting: BTreeMap<PartitionKey, Decision>,
    /// Classification is under way; the answer is thought about again later.
    pub halted: bool,
}

/// `<data.dir>/.twinlog/default`
pub fn journal_directory() -> PathBuf {
    PathBuf::from(DATA_DIRECTORY).join(".twinlog").join("default")
}

impl Control {
    pub fn new(disk: SimulatedDisk, policy: TruncationPolicy) -> Self {
        Self {
            disk,
            policy,
            topics: Vec::new(),
            counters: BTreeMap::new(),
            stopped: BTreeMap::new(),
            cutting: BTreeMap::new(),
            halted: false,
        }
    }

    pub fn name_of(&self, key: PartitionKey) -> (&str, i32) {
        (&self.topics[key.topic as usize].name, key.index)
    }

    pub fn partition_of(&self, key: PartitionKey) -> TopicPartition {
        TopicPartition::new(&self.topics[key.topic as usize].name, key.index).expect("a legal name")
    }

    pub fn directory_of(partition: &TopicPartition) -> PathBuf {
        PathBuf::from(DATA_DIRECTORY).join("default").join(partition.directory_name())
    }

    /// Recovers every partition of the cluster and hands it to the shard, as a start does.
    pub fn start(&mut self, cluster: &Cluster, shard: &mut Shard<SimulatedEngine>) -> Result<(), StoreError> {
        let journal = journal::load(&mut self.disk, &journal_directory())?;
        journal::rewrite(&mut self.disk, &journal_directory(), &journal)?;
        for broker in cluster.broker_ids() {
            shard.command(Command::Broker {
                id: broker,
                address: Network::address_of(broker),
                host: "simulated".into(),
            });
        }
        let names: Vec<(String, i32, Offset)> = cluster
            .partitions()
            .map(|(topic, index, log)| (topic.to_owned(), index, log.log_start_offset()))
            .collect();
        for (name, index, log_start) in names {
            let topic = self.topic_named(&name, cluster);
            let partition = TopicPartition::new(&name, index).expect("a legal name");
            let checkpoint = journal.checkpoints.get(&partition).cloned();
            self.add(shard, PartitionKey { topic, index }, checkpoint, log_start)?;
            self.tell_leader(cluster, shard, PartitionKey { topic, index });
        }
        Ok(())
    }

    fn topic_named(&mut self, name: &str, cluster: &Cluster) -> u32 {
        let known = self.topics.iter().position(|topic| topic.name == name);
        let place = known.unwrap_or_else(|| {
            let id = cluster.topic_id(name).expect("the topic exists");
            self.topics.push(Arc::new(Topic { name: name.to_owned(), id }));
            self.topics.len() - 1
        });
        u32::try_from(place).expect("few topics")
    }

    fn add(
        &mut self,
        shard: &mut Shard<SimulatedEngine>,
        key: PartitionKey,
        checkpoint: Option<PartitionCheckpoint>,
        start_offset: Offset,
    ) -> Result<(), StoreError> {
        let partition = self.partition_of(key);
        let topic = self.topics[key.topic as usize].clone();
        let directory = Self::directory_of(&partition);
        let request = RecoverRequest {
            directory: directory.clone(),
            partition,
            topic_id: topic.id,
            checkpoint,
            start_offset,
            followed: false,
            batch_bytes_max: BATCH_BYTES_MAX,
        };
        println!("{}: {}", request.partition.directory_name(), self.listing(&request.directory));
        let recovered = recover_partition(&mut self.disk, &request)?;
        let found = &recovered.checkpoint;
        println!(
            "{}: recovered {} to {}, segment {} at {} of {}",
            found.partition.directory_name(),
            found.log_start,
            found.log_end,
            found.segment_base,
            found.position,
            recovered.file_bytes
        );
        for alarm in &recovered.alarms {
            // Shown only when the seed fails: the test runner keeps the output of those that pass.
            println!("{alarm}");
        }
        let counters = Arc::new(PartitionCounters::default());
        self.counters.insert(key, counters.clone());
        shard.command(Command::AddPartition(Box::new(AddPartition {
            key,
            topic,
            directory,
            recovered,
            counters,
        })));
        Ok(())
    }

    fn listing(&self, directory: &std::path::Path) -> String {
        let paths = self.disk.paths();
        let inside = paths.iter().filter(|path| path.parent() == Some(directory));
        let names = inside.map(|path| {
            let content = self.disk.read(path, 0, usize::MAX >> 1).unwrap_or_default();
            let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let first = content.first_chunk::<8>().map(|base| i64::from_be_bytes(*base));
            format!("{} {used}/{} {first:?}", path.file_name().unwrap_or_default().display(), content.len())
        });
        names.filter(|name| name.contains(".log")).collect::<Vec<_>>().join(", ")
    }

    pub fn tell_leader(&self, cluster: &Cluster, shard: &mut Shard<SimulatedEngine>, key: PartitionKey) {
        let (name, index) = self.name_of(key);
        if let Some(log) = cluster.partition(name, index) {
            let leader = Some(Leader { broker: log.leader(), epoch: log.leader_epoch() });
            shard.command(Command::Leader { key, leader });
        }
    }

    /// Does what the control core does about an event. A store error is a crash in the middle of it.
    pub fn event(
        &mut self,
        cluster: &Cluster,
        shard: &mut Shard<SimulatedEngine>,
        event: Event,
    ) -> Result<(), StoreError> {
        match event {
            Event::RefreshMetadata { key } => self.tell_leader(cluster, shard, key),
            Event::Classify { key, fault, epochs, log_start, log_end } => {
                let diverged = match fault {
                    Fault::Diverged { epoch, end } => Offset::new(end).map(|end| (epoch, end)),
                    _ => None,
                };
                let source = self.source_log(cluster, key, &epochs);
                match classify(&epochs, log_start, log_end, diverged, &source) {
                    Decision::Refetch => {
                        self.tell_leader(cluster, shard, key);
                        shard.command(Command::Resume { key });
                    }
                    Decision::Stop(fault) => shard.command(Command::Stop { key, fault }),
                    decision => {
                        self.cutting.insert(key, decision);
                        shard.command(Command::Remove { key });
                    }
                }
            }
            Event::Removed { key } => self.removed(cluster, shard, key)?,
            Event::Stopped { key, fault } => {
                self.stopped.insert(key, fault);
            }
            Event::Trimmed { key, log_start } => {
                let directory = Self::directory_of(&self.partition_of(key));
                let checkpoint = self.counters[&key].checkpoint.load(std::sync::atomic::Ordering::Relaxed);
                let checkpoint = Offset::new(checkpoint).unwrap_or(Offset::ZERO);
                store::trim_partition(&mut self.disk, &directory, log_start, checkpoint)?;
            }
            // The world lets brokers say so for a while; the shard asks again by itself.
            Event::AccessLost { .. } | Event::AccessRegained { .. } => {}
            Event::Halted { .. } => self.halted = true,
            Event::Drained | Event::DiskFull { .. } | Event::SpoolFull { .. } | Event::LaneFailed { .. } => {}
            Event::Listening { .. }
            | Event::ListenFailed { .. }
            | Event::FollowerRefused { .. }
            | Event::EpochWanted { .. }
            | Event::FollowerStalled { .. }
            | Event::ReadThroughStuck { .. }
            | Event::Standing { .. } => panic!("nobody follows here: {event:?}"),
        }
        Ok(())
    }

    /// ListOffsets and OffsetForLeaderEpoch, answered by looking.
    fn source_log(&self, cluster: &Cluster, key: PartitionKey, epochs: &EpochHistory) -> SourceLog {
        let (name, index) = self.name_of(key);
        let log = cluster.partition(name, index).expect("topics are not deleted in this world");
        let our_epoch_end = epochs.latest().and_then(|latest| {
            let end = log.epochs().end_of(latest.epoch, log.log_end_offset())?;
            Some((end.epoch, end.start))
        });
        SourceLog { log_start: log.log_start_offset(), log_end: log.last_stable_offset(), our_epoch_end }
    }

    fn removed(
        &mut self,
        cluster: &Cluster,
        shard: &mut Shard<SimulatedEngine>,
        key: PartitionKey,
    ) -> Result<(), StoreError> {
        let Some(decision) = self.cutting.remove(&key) else { return Ok(()) };
        let partition = self.partition_of(key);
        let journal = journal::load(&mut self.disk, &journal_directory())?;
        let Some(checkpoint) = journal.checkpoints.get(&partition).cloned() else {
            // Nothing was ever stored: it begins anew.
            let (name, index) = self.name_of(key);
            let start = cluster.partition(name, index).expect("it exists").log_start_offset();
            self.add(shard, key, None, start)?;
            self.tell_leader(cluster, shard, key);
            return Ok(());
        };
        let (directory, journal_directory) = (Self::directory_of(&partition), journal_directory());
        let cuts_directory = PathBuf::from(DATA_DIRECTORY).join(".twinlog").join("cuts").join("default");
        let start_offset = checkpoint.log_start;
        let checkpoint = match decision {
            Decision::Cut { common_end } => {
                let size = store::cut_size(&mut self.disk, &directory, common_end, BATCH_BYTES_MAX)?;
                let log_end = checkpoint.log_end;
                let permitted = twinlog_sync::truncation::permit_cut(&self.policy, size, common_end, log_end);
                assert!(permitted.is_ok(), "this world follows every cut");
                let to = common_end.max(checkpoint.log_start).min(log_end);
                let batch_bytes_max = BATCH_BYTES_MAX;
                let request = CutRequest {
                    directory,
                    journal_directory,
                    cuts_directory,
                    checkpoint,
                    to,
                    batch_bytes_max,
                };
                store::truncate_partition(&mut self.disk, &request)?
            }
            Decision::RestartAt { log_start: at } => {
                let request = RestartRequest { directory, journal_directory, cuts_directory, checkpoint, at };
                store::restart_partition(&mut self.disk, &request)?
            }
            Decision::Refetch | Decision::Stop(_) => panic!("nothing is cut for {decision:?}"),
        };
        self.add(shard, key, Some(checkpoint), start_offset)?;
        self.tell_leader(cluster, shard, key);
        Ok(())
    }
}
