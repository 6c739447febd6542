//! The program is killed twenty times while producers write: what is left is always the source's bytes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use twinlog_tests::kafka::batches::{CopyBound, compare};
use twinlog_tests::kafka::dump::Gaps;
use twinlog_tests::kafka::scenario::{Produce, Transactions};
use twinlog_tests::kafka::{Cluster, ClusterOptions, Codec, Isolation};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const KILLS: u64 = 20;
const PARTITIONS: i32 = 3;

#[test]
fn a_mirror_killed_twenty_times_while_producing_is_a_copy_in_the_end() {
    let cluster = Cluster::start(ClusterOptions::default());
    let scenario = cluster.scenario();
    let partitions = PARTITIONS.cast_unsigned();
    scenario.create_topic("busy", partitions, 1, &[("segment.bytes", "1048576")]);
    let mirror =
        Mirror::new(PROGRAM, &cluster.bootstrap(), &["busy"]).with_keys(&["segment.bytes = 1048576"]);
    let steady = Produce { value_bytes: 700, codec: Codec::Lz4, ..Produce::to("busy") };
    scenario.start_producing("steady", &steady, 2_000);

    // Moments differ from run to run; what must hold does not.
    let mut moment = RandomState::new().build_hasher().finish();
    let mut lengths = Vec::new();
    for kill in 0..KILLS {
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(kill | 1);
        let wanted = stored_bytes(&mirror) + (moment >> 33) % 200_000;
        let mut running = mirror.tailing().spawn();
        poll::poll_until("the mirror has stored some more", || {
            assert!(running.is_running(), "the mirror ended by itself");
            stored_bytes(&mirror) >= wanted
        });
        running.kill_hard();
        if kill % 5 == 0 {
            let transactions = Produce { count: 6, seed: kill as u32, ..Produce::to("busy") };
            scenario.produce_transactions(&transactions, Transactions { producers: 2, abort_percent: 50 });
        }
        assert_prefix(&cluster, &mirror);
        lengths.push(stored_bytes(&mirror));
    }
    assert!(lengths.last() > lengths.first(), "the mirror made progress between kills: {lengths:?}");

    scenario.stop_producing("steady");
    mirror.caught_up();
    mirror.assert_same(&cluster, 1, "busy", Isolation::ReadCommitted);
    mirror.assert_dump_clean("busy", PARTITIONS, Gaps::Forbidden);
    mirror.verify(true).expect_code(0);
}

fn stored_bytes(mirror: &Mirror) -> u64 {
    let partitions = (0..PARTITIONS).map(|partition| mirror.partition_directory("busy", partition));
    partitions
        .filter_map(|directory| twinlog_tests::kafka::batches::concatenated_batches(&directory, 0).ok())
        .flatten()
        .map(|batch| batch.bytes.len() as u64)
        .sum()
}

/// What the killed program left: whole batches of the source from the start, and behind them nothing
/// that the reader takes for one.
fn assert_prefix(cluster: &Cluster, mirror: &Mirror) {
    for partition in 0..PARTITIONS {
        let mirrored = mirror.partition_directory("busy", partition);
        if !mirrored.exists() {
            continue;
        }
        let source = cluster.partition_directory(1, "busy", partition);
        match compare(&source, &mirrored, 0, CopyBound::Prefix) {
            Ok(_) => {}
            // A torn batch at the very end is what recovery is for.
            Err(difference) => {
                let text = difference.to_string();
                assert!(text.contains("not a batch") || text.contains("ends inside"), "{text}");
            }
        }
    }
}
