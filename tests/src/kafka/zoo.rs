//! Every kind of log that a mirror must carry: all codecs, transactions with aborts, large records, LogAppendTime,
//! compaction with tombstones, nothing at all.
//!
//! Owns the recipes only; a test says on which cluster and what must become of it.

use super::scenario::{Codec, Keyed, Produce, Transactions};
use super::{Cluster, Scenario};

/// The smallest segment that Kafka 4 takes: several of them from little data.
pub const SMALL_SEGMENTS: (&str, &str) = ("segment.bytes", "1048576");

/// What [`fill`] makes, with the partitions of each.
pub const TOPICS: [(&str, i32); 4] = [("rich", 2), ("append-time", 1), ("compacted", 1), ("empty", 2)];

/// All of them.
pub fn fill(cluster: &Cluster) {
    let scenario = cluster.scenario();
    fill_rich(scenario);
    fill_append_time(scenario);
    fill_compacted(cluster);
    scenario.create_topic("empty", 2, 1, &[]);
}

/// Codecs, headers, nulls, large records, aborted transactions, a log start inside a batch.
pub fn fill_rich(scenario: &Scenario) {
    scenario.create_topic("rich", 2, 1, &[SMALL_SEGMENTS]);
    for (seed, codec) in (1..).zip(Codec::ALL) {
        let mixed =
            Produce { codec, seed, headers: true, nulls: true, value_bytes: 600, ..Produce::to("rich") };
        scenario.produce_mixed(&Produce { count: 800, ..mixed.clone() });
        let plain = Produce { idempotent: false, batch_bytes: 4000, seed: 100 + seed, ..mixed };
        scenario.produce_mixed(&plain);
    }
    let large = Produce { partition: Some(0), value_bytes: 900_000, ..Produce::to("rich") };
    scenario.produce_large(&large);
    let transactions = Produce { count: 40, ..Produce::to("rich") };
    let ended =
        scenario.produce_transactions(&transactions, Transactions { producers: 3, abort_percent: 30 });
    assert!(ended.aborts > 0 && ended.commits > 0, "{ended:?}");
    assert_eq!(scenario.delete_records("rich", 0, 3), 3);
}

pub fn fill_append_time(scenario: &Scenario) {
    scenario.create_topic("append-time", 1, 1, &[("message.timestamp.type", "LogAppendTime")]);
    scenario.produce_mixed(&Produce { codec: Codec::Gzip, ..Produce::to("append-time") });
}

/// Gaps and tombstones by the real cleaner; returns the end offset.
pub fn fill_compacted(cluster: &Cluster) -> i64 {
    let configs =
        [("cleanup.policy", "compact"), ("segment.ms", "5000"), ("min.cleanable.dirty.ratio", "0.01")];
    let scenario = cluster.scenario();
    scenario.create_topic("compacted", 1, 1, &configs);
    let keyed = Keyed { keys: 30, rounds: 8, round_ms: 10_000, tombstone_percent: 20 };
    let produced = scenario.produce_keyed(&Produce { partition: Some(0), ..Produce::to("compacted") }, keyed);
    let end = i64::try_from(produced).expect("a few hundred records");
    // All but the segment of the last round, which has at most one record per key.
    cluster.poll_until_compacted(1, "compacted", 0, end - 30);
    end
}
