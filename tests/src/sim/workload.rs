//! What producers do to the embedded cluster: batches of every kind, at the whim of the seed.

use super::random::Random;
use std::collections::BTreeMap;
use twinlog_daemon::embedded::Cluster;
use twinlog_daemon::embedded::batch_text::{BatchText, Marker, Producer};

/// Transactional producers per world.
const PRODUCERS: u64 = 4;

/// The producers of one world.
#[derive(Default)]
pub struct Workload {
    /// Open transactions: producer and partition, with the next sequence number.
    open: BTreeMap<(i64, String, i32), i32>,
    written: i64,
}

impl Workload {
    /// Appends one batch of some kind to one partition.
    pub fn append(&mut self, cluster: &mut Cluster, random: &mut Random, topic: &str, index: i32) {
        self.written += 1;
        match random.below(12) {
            0 | 1 => self.begin_or_go_on(cluster, random, topic, index),
            2 => self.end_some(cluster, random),
            3 => {
                let end = cluster.partition(topic, index).expect("it exists").log_end_offset().value();
                let base = end + 1 + random.below(50) as i64;
                let gap = self.plain(random, base).last_offset_delta(10 + random.below(20) as u32);
                cluster.append_placed(topic, index, gap.build());
            }
            4 if random.one_in(4) => {
                let large = BatchText::at(0)
                    .timestamp(self.written)
                    .values(1, 200_000 + random.below(200_000) as usize);
                cluster.append(topic, index, large.build());
            }
            _ => {
                let batch = self.plain(random, 0).build();
                cluster.append(topic, index, batch);
            }
        }
    }

    fn plain(&self, random: &mut Random, base: i64) -> BatchText {
        let count = 1 + random.below(9) as u32;
        let value_bytes = if random.one_in(8) { random.below(6_000) } else { random.below(200) };
        let batch = BatchText::at(base).timestamp(self.written).values(count, value_bytes as usize);
        if random.one_in(10) { batch.log_append_time() } else { batch }
    }

    fn begin_or_go_on(&mut self, cluster: &mut Cluster, random: &mut Random, topic: &str, index: i32) {
        let id = random.below(PRODUCERS) as i64;
        let sequence = self.open.entry((id, topic.to_owned(), index)).or_insert(0);
        let producer = Producer { id, epoch: 0, sequence: *sequence };
        *sequence += 3;
        let batch = BatchText::at(0).timestamp(self.written).values(3, 50).transactional(producer);
        cluster.append(topic, index, batch.build());
    }

    fn end_some(&mut self, cluster: &mut Cluster, random: &mut Random) {
        if let Some(key) = self.open.keys().next().cloned() {
            self.end(cluster, random, &key);
        }
    }

    fn end(&mut self, cluster: &mut Cluster, random: &mut Random, key: &(i64, String, i32)) {
        self.open.remove(key);
        let producer = Producer { id: key.0, epoch: 0, sequence: -1 };
        let marker = if random.one_in(3) { Marker::Abort } else { Marker::Commit };
        cluster.append(&key.1, key.2, BatchText::marker(0, self.written, producer, marker).build());
    }

    /// No transaction stays open, not even one whose marker was lost in an unclean election.
    pub fn end_all(&mut self, cluster: &mut Cluster, partitions: &[(String, i32)]) {
        self.open.clear();
        for (topic, index) in partitions {
            for id in 0..PRODUCERS as i64 {
                let producer = Producer { id, epoch: 0, sequence: -1 };
                let marker = BatchText::marker(0, self.written, producer, Marker::Abort);
                cluster.append(topic, *index, marker.build());
            }
        }
    }
}
