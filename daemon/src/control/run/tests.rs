//! Whole runs against the embedded source: real threads, real files, real sockets on the loopback interface.

use super::*;
use crate::config::{KeptLinks, RawConfig, RawValue};
use crate::embedded::batch_text::BatchText;
use crate::embedded::{Cluster, EmbeddedSource, TopicOptions};
use crate::journal;
use tempfile::TempDir;
use twinlog_io::RealDisk;
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::Offset;

/// Records of one appended batch.
const RECORDS: u32 = 10;

struct World {
    source: EmbeddedSource,
    directory: TempDir,
}

impl World {
    /// Two brokers; `orders` has three partitions, `bills` one, each with so many batches.
    fn new(batches: usize) -> Self {
        let mut cluster = Cluster::new(2);
        cluster.create_topic("orders", TopicOptions { partitions: 3, ..TopicOptions::default() });
        cluster.create_topic("bills", TopicOptions::default());
        let source = EmbeddedSource::start(cluster).unwrap();
        let world = Self { source, directory: tempfile::tempdir().unwrap() };
        world.append("orders-0", batches);
        world.append("orders-1", batches);
        world.append("bills-0", batches);
        world
    }

    fn append(&self, name: &str, batches: usize) {
        let partition = TopicPartition::parse_directory(name).unwrap();
        self.source.with_cluster(|cluster| {
            for _ in 0..batches {
                let batch = BatchText::at(0).timestamp(10).values(RECORDS, 200).build();
                cluster.append(partition.topic(), partition.partition(), batch);
            }
        });
    }

    fn configuration(&self, more: &[(&str, &str)]) -> Configuration {
        let mut raw = RawConfig::default();
        let directory = self.directory.path().to_str().unwrap().to_owned();
        let given = [
            ("data.dir", directory.as_str()),
            ("bootstrap.servers", &self.source.bootstrap()),
            ("topics", "orders|bills.*"),
            ("memory.bytes", "64MiB"),
        ];
        for (name, value) in given.iter().chain(more) {
            raw.set("west", name, RawValue::Text((*value).to_owned()));
        }
        Configuration::new(raw, None)
    }

    fn settings(&self, more: &[(&str, &str)]) -> Settings {
        self.configuration(more).links(&KeptLinks::new()).unwrap().remove(0)
    }

    fn run(&self, options: RunOptions) -> bool {
        let options = RunOptions { until_caught_up: true, ..options };
        run(self.configuration(&[]), &options).unwrap()
    }

    fn checkpoint(&self, name: &str) -> PartitionCheckpoint {
        let journal = journal::load(&mut RealDisk, &self.settings(&[]).journal_directory()).unwrap();
        journal.checkpoints[&TopicPartition::parse_directory(name).unwrap()].clone()
    }

    /// First and next offset of what is mirrored.
    fn mirrored(&self, name: &str) -> (i64, i64) {
        let checkpoint = self.checkpoint(name);
        (checkpoint.log_start.value(), checkpoint.log_end.value())
    }
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

#[test]
fn a_run_catches_up_and_the_next_one_goes_on_from_there() {
    let world = World::new(20);
    assert!(world.run(RunOptions::default()));
    assert_eq!(world.mirrored("orders-0"), (0, 200));
    assert_eq!(world.mirrored("bills-0"), (0, 200));
    world.append("orders-0", 5);
    let sent = world.source.sent_bytes();
    assert!(world.run(RunOptions { output: Output::Json, ..RunOptions::default() }));
    assert_eq!(world.mirrored("orders-0"), (0, 250));
    assert!(world.source.sent_bytes() - sent < 40_000, "what was mirrored is not sent again");
}

#[test]
fn a_gap_stops_its_partition_until_it_is_accepted() {
    let world = World::new(10);
    assert!(world.run(RunOptions::default()));
    world.append("orders-1", 10);
    world.source.with_cluster(|cluster| cluster.trim("orders", 1, at(150)));
    world.append("orders-0", 1);
    assert!(!world.run(RunOptions::default()), "one partition could not");
    assert_eq!(world.mirrored("orders-1"), (0, 100));
    assert_eq!(world.mirrored("orders-0"), (0, 110), "its neighbours could");
    assert!(world.run(RunOptions { accept_gap: true, ..RunOptions::default() }));
    assert_eq!(world.mirrored("orders-1"), (150, 200));
}

#[test]
fn a_small_truncation_is_followed_and_a_large_one_stops() {
    let world = World::new(300);
    assert!(world.run(RunOptions::default()));
    world.source.with_cluster(|cluster| cluster.truncate_and_elect("orders", 0, at(2_980), 1));
    world.append("orders-0", 5);
    world.source.with_cluster(|cluster| cluster.truncate_and_elect("orders", 1, at(100), 1));
    world.append("orders-1", 1);
    assert!(!world.run(RunOptions::default()));
    assert_eq!(world.mirrored("orders-0"), (0, 3_030));
    assert_eq!(world.mirrored("orders-1"), (0, 3_000), "nothing is cut beyond the bound");
    let restart_from = vec!["orders-1=100".to_owned()];
    assert!(world.run(RunOptions { restart_from, ..RunOptions::default() }));
    assert_eq!(world.mirrored("orders-1"), (0, 110));
}

#[test]
fn a_topic_made_anew_stops_and_keeps_what_was_mirrored() {
    let world = World::new(10);
    assert!(world.run(RunOptions::default()));
    world.source.with_cluster(|cluster| cluster.recreate_topic("bills"));
    world.append("bills-0", 3);
    assert!(!world.run(RunOptions::default()));
    assert_eq!(world.mirrored("bills-0"), (0, 100));
    assert_eq!(world.mirrored("orders-0"), (0, 100));
}

#[test]
fn log_starts_follow_the_source() {
    let world = World::new(10);
    world.source.with_cluster(|cluster| cluster.trim("orders", 0, at(35)));
    assert!(world.run(RunOptions::default()));
    assert_eq!(world.mirrored("orders-0"), (35, 100), "a log may start inside a batch");
    let path = world.settings(&[]).link_directory().join("log-start-offset-checkpoint");
    assert!(std::fs::read_to_string(path).unwrap().contains("orders 0 35"));
}

#[test]
fn links_of_one_daemon_catch_up_side_by_side_and_one_that_cannot_leaves_the_other_alone() {
    let (west, east) = (World::new(10), World::new(20));
    let both = || {
        let mut raw = RawConfig::default();
        let directory = west.directory.path().to_str().unwrap();
        raw.set("west", "data.dir", RawValue::Text(directory.to_owned()));
        raw.set("west", "memory.bytes", RawValue::Text("64MiB".to_owned()));
        for (link, world) in [("west", &west), ("east", &east)] {
            raw.set(link, "bootstrap.servers", RawValue::Text(world.source.bootstrap()));
            raw.set(link, "topics", RawValue::Text("orders".to_owned()));
        }
        Configuration::new(raw, None)
    };
    let until = |restart_from| RunOptions { until_caught_up: true, restart_from, ..RunOptions::default() };
    let end_of = |link: usize| {
        let settings = both().links(&KeptLinks::new()).unwrap().remove(link);
        let journal = journal::load(&mut RealDisk, &settings.journal_directory()).unwrap();
        journal.checkpoints[&TopicPartition::parse_directory("orders-1").unwrap()].log_end.value()
    };
    assert!(run(both(), &until(Vec::new())).unwrap());
    assert_eq!((end_of(0), end_of(1)), (200, 100), "east, west");
    east.append("orders-1", 20);
    east.source.with_cluster(|cluster| cluster.trim("orders", 1, at(350)));
    west.append("orders-1", 5);
    assert!(!run(both(), &until(Vec::new())).unwrap(), "one partition of east could not");
    assert_eq!((end_of(0), end_of(1)), (200, 150), "west went on");
    let unclear = run(both(), &until(vec!["orders-1=100".to_owned()])).unwrap_err();
    assert!(unclear.to_string().contains("there are east, west"), "{unclear}");
}

#[test]
fn a_directory_has_one_daemon() {
    let world = World::new(1);
    let _lock = DirectoryLock::acquire(world.directory.path()).unwrap();
    let refused = run(world.configuration(&[]), &RunOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("is held by process"), "{refused}");
}

#[test]
fn the_control_core_is_where_the_operator_wants_it() {
    let world = World::new(0);
    let allowed = allowed_cores().unwrap();
    let last = *allowed.last().unwrap();
    let placed = placement(&world.settings(&[("control.core", &last.to_string())])).unwrap();
    assert_eq!(placed.control, last);
    assert_eq!(placed.data.contains(&last), allowed.len() == 1);
    assert!(placement(&world.settings(&[("control.core", "100000")])).is_err());
}
