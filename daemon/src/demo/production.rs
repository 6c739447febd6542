//! The topics of the demo, and the production that goes on while it is mirrored.
//!
//! ```text
//!   orders     6 partitions, idempotent producers          clicks   24 partitions, one template, many laps
//!   payments   3 partitions, transactions, 30 % aborted    audit    1 partition, LogAppendTime
//!   inventory  2 partitions as the cleaner leaves them: gaps, emptied batches, a log start inside a batch
//! ```
//! All records are real and uncompressed, so that Kafka's own tools can read the mirror. Invariant: every
//! transaction is ended when production is, so that the last stable offset reaches the end.

use crate::embedded::batch_text::BatchText;
use crate::embedded::generator::{Generator, Profile, Random};
use crate::embedded::records::{CyclicTemplate, parse};
use crate::embedded::{Cluster, EmbeddedSource, TopicOptions};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use twinlog_log_segment::offset::Offset;

const CLICKS: &str = "clicks";
const CLICKS_PARTITIONS: u32 = 24;
/// Size of one batch of clicks, and of the template whose laps fill their partitions.
const CLICKS_BATCH_BYTES: usize = 64 * 1024;
const CLICKS_TEMPLATE_BATCHES: usize = 32;
/// Batches in each partition of clicks at the start: about 11 MB, 260 MB together.
const CLICKS_BATCHES: u64 = 168;
/// Where the compacted logs were cut: inside the batch that holds it, as DeleteRecords does.
const INVENTORY_LOG_START: i64 = 1_003;

/// A topic whose batches are generated one by one.
struct Generated {
    topic: &'static str,
    partitions: u32,
    /// Bytes in each partition at the start.
    bytes: u64,
    profile: Profile,
}

fn generated() -> Vec<Generated> {
    let records = Profile { records: 20..=60, value_bytes: 600..=1_400, ..Profile::default() };
    vec![
        Generated {
            topic: "orders",
            partitions: 6,
            bytes: 14 << 20,
            profile: Profile { producers: 3, ..records.clone() },
        },
        Generated {
            topic: "payments",
            partitions: 3,
            bytes: 12 << 20,
            profile: Profile { producers: 4, transactional: true, records: 4..=20, ..records.clone() },
        },
        Generated {
            topic: "inventory",
            partitions: 2,
            bytes: 4 << 20,
            profile: Profile { gap_percent: 30, emptied_percent: 10, records: 2..=12, ..records.clone() },
        },
        Generated {
            topic: "audit",
            partitions: 1,
            bytes: 8 << 20,
            profile: Profile { log_append_time: true, ..records },
        },
    ]
}

/// One partition that is still written to.
struct Writer {
    topic: &'static str,
    index: i32,
    generator: Generator,
}

impl Writer {
    fn append(&mut self, cluster: &mut Cluster, now_ms: i64) {
        let batch = self.generator.next_batch(self.end(cluster), now_ms);
        cluster.append_placed(self.topic, self.index, batch);
    }

    fn end(&self, cluster: &Cluster) -> Offset {
        cluster.partition(self.topic, self.index).expect("made by this file").log_end_offset()
    }
}

/// See the file's header.
pub struct Production {
    writers: Vec<Writer>,
    random: Random,
}

impl Production {
    /// Makes the topics and fills them.
    pub fn fill(cluster: &mut Cluster, seed: u64) -> Production {
        let mut production = Production { writers: Vec::new(), random: Random::new(seed) };
        let now_ms = unix_ms();
        for Generated { topic, partitions, bytes, profile } in generated() {
            cluster.create_topic(topic, TopicOptions { partitions, ..TopicOptions::default() });
            for index in 0..partitions as i32 {
                let generator = Generator::new(production.random.number(), profile.clone());
                let mut writer = Writer { topic, index, generator };
                let mut step = 0;
                while cluster
                    .partition(topic, index)
                    .is_some_and(|log| log.bytes_below(log.log_end_offset()) < bytes)
                {
                    // An hour of history, up to now.
                    writer.append(cluster, now_ms - 3_600_000 + step);
                    step += 1;
                }
                production.writers.push(writer);
            }
        }
        for index in 0..2 {
            let log_start = Offset::new(INVENTORY_LOG_START).expect("not negative");
            cluster.trim("inventory", index, log_start);
        }
        let template = clicks_template(&mut production.random, now_ms);
        cluster.create_cyclic_topic(CLICKS, CLICKS_PARTITIONS, &template, CLICKS_BATCHES);
        production
    }

    /// A little more for some partitions: called again and again while the demo runs.
    pub fn step(&mut self, source: &EmbeddedSource) {
        let now_ms = unix_ms();
        let random = &mut self.random;
        source.with_cluster(|cluster| {
            for writer in &mut self.writers {
                if random.percent(50) {
                    writer.append(cluster, now_ms);
                }
            }
            let index = random.below(u64::from(CLICKS_PARTITIONS)) as i32;
            cluster.extend(CLICKS, index, 1);
        });
    }

    /// Ends every transaction, so that all that was written can be read.
    pub fn settle(&mut self, source: &EmbeddedSource) {
        source.with_cluster(|cluster| {
            for writer in &mut self.writers {
                loop {
                    let end = writer.end(cluster);
                    let Some(marker) = writer.generator.end_open_transaction(end, unix_ms()) else { break };
                    cluster.append_placed(writer.topic, writer.index, marker);
                }
            }
        });
    }
}

/// The clicks of one lap.
fn clicks_template(random: &mut Random, now_ms: i64) -> Arc<CyclicTemplate> {
    let mut next_offset = 0;
    let batches: Vec<Vec<u8>> = (0..CLICKS_TEMPLATE_BATCHES)
        .map(|_| {
            let mut batch = BatchText::at(next_offset).timestamp(now_ms);
            let mut bytes = 0;
            while bytes < CLICKS_BATCH_BYTES {
                let value = format!(
                    "{{\"session\":\"{:016x}\",\"page\":{},\"milliseconds\":{}}}",
                    random.number(),
                    random.below(5_000),
                    random.below(60_000)
                );
                batch.push_record(0, None, Some(value.as_bytes()));
                bytes += value.len() + 8;
            }
            let batch = batch.build();
            next_offset = parse(&batch).next_offset().value();
            batch
        })
        .collect();
    Arc::new(CyclicTemplate::new(&batches))
}

fn unix_ms() -> i64 {
    // A clock before 1970 gives the first timestamp there is.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_topics_can_be_read_to_their_end_and_hold_what_they_promise() {
        let mut cluster = Cluster::new(2);
        let mut production = Production::fill(&mut cluster, 1);
        let source = EmbeddedSource::start(cluster).expect("the loopback interface is up");
        for _ in 0..20 {
            production.step(&source);
        }
        production.settle(&source);
        source.with_cluster(|cluster| {
            let mut bytes = 0;
            for (topic, index, log) in cluster.partitions() {
                assert_eq!(log.last_stable_offset(), log.log_end_offset(), "{topic}-{index}");
                bytes += log.bytes_below(log.log_end_offset());
            }
            assert!((300 << 20..500 << 20).contains(&bytes), "{bytes} bytes");
            let start = cluster.partition("inventory", 0).unwrap().log_start_offset();
            assert_eq!(start.value(), INVENTORY_LOG_START);
        });
    }
}
