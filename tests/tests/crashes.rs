//! The program is killed twenty times while producers write: what is left is always the source's bytes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use twinlog_daemon::journal::{self, OWN_DIRECTORY};
use twinlog_io::RealDisk;
use twinlog_log_segment::files::TopicPartition;
use twinlog_tests::kafka::batches::{Difference, batches_before_damage, concatenated_batches};
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
        let flushed = flushed_ends(&mirror);
        if kill % 5 == 0 {
            let transactions = Produce { count: 6, seed: kill as u32, ..Produce::to("busy") };
            scenario.produce_transactions(&transactions, Transactions { producers: 2, abort_percent: 50 });
        }
        assert_prefix(&cluster, &mirror);
        // The others go on tailing right out of their recovery.
        if kill % 2 == 0 {
            assert_nothing_flushed_is_fetched_again(&mirror, &flushed);
        }
        assert!(kill == 0 || flushed.iter().any(|end| *end > 0), "nothing was ever flushed: {flushed:?}");
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
        .filter_map(|directory| concatenated_batches(&directory, 0).ok())
        .flatten()
        .map(|batch| batch.bytes.len() as u64)
        .sum()
}

/// Up to where the journal says that each partition is flushed.
fn flushed_ends(mirror: &Mirror) -> Vec<i64> {
    let directory = mirror.data_directory().join(OWN_DIRECTORY).join("default");
    let journal =
        journal::load(&mut RealDisk, &directory).expect("the journal of a killed program is readable");
    let partitions = (0..PARTITIONS).map(|partition| TopicPartition::new("busy", partition).expect("legal"));
    partitions.map(|it| journal.checkpoints.get(&it).map_or(0, |known| known.log_end.value())).collect()
}

/// The next run receives at most the batches that begin at or behind what was flushed before the kill.
fn assert_nothing_flushed_is_fetched_again(mirror: &Mirror, flushed: &[i64]) {
    let report = mirror.caught_up();
    for each in report["partitions"].as_array().expect("a list") {
        let partition = each["partition"].as_i64().expect("a number");
        let (end, received) = (each["end"].as_i64(), each["batches"].as_u64());
        let (end, received) = (end.expect("a number"), received.expect("a number"));
        let from = flushed[usize::try_from(partition).expect("not negative")];
        let directory = mirror.partition_directory("busy", partition as i32);
        let stored = concatenated_batches(&directory, 0).expect("a drained log has whole batches");
        let behind = stored.iter().filter(|batch| (from..end).contains(&batch.base_offset)).count() as u64;
        assert!(
            received <= behind,
            "busy-{partition}: {received} batches were fetched, {behind} lie between {from} and {end}"
        );
        assert!(end >= from, "busy-{partition} ends at {end}, and {from} was flushed");
    }
}

/// What the killed program left, up to the first batch whose CRC is wrong (where recovery cuts): batches of
/// the source from its start, none missing on the way.
fn assert_prefix(cluster: &Cluster, mirror: &Mirror) {
    for partition in 0..PARTITIONS {
        let mirrored = mirror.partition_directory("busy", partition);
        let source = cluster.partition_directory(1, "busy", partition);
        let (ours, damage) = batches_before_damage(&mirrored);
        // What is not readable for another reason than a torn batch would hide everything.
        assert!(matches!(damage, None | Some(Difference::NotABatch { .. })), "busy-{partition}: {damage:?}");
        // An append of the running broker becomes visible page by page: read until no half batch is seen.
        let theirs = poll::poll_for("the source's files were read between two appends", || {
            concatenated_batches(&source, 0).ok()
        });
        let whole: Vec<_> = ours.iter().take_while(|batch| crc_is_right(&batch.bytes)).collect();
        assert!(whole.len() <= theirs.len(), "busy-{partition} holds batches that the source has not");
        for (ours, theirs) in whole.into_iter().zip(&theirs) {
            assert_eq!(ours.base_offset, theirs.base_offset, "busy-{partition}");
            assert!(ours.bytes[16..] == theirs.bytes[16..], "busy-{partition}: {ours:?} differs");
        }
    }
}

fn crc_is_right(batch: &[u8]) -> bool {
    let stored = u32::from_be_bytes(batch[17..21].try_into().expect("four bytes"));
    crc32c::crc32c(&batch[21..]) == stored
}
