//! The data thread asks for no memory per batch: the production loop, driven here, with a counting allocator.
//!
//! ```text
//!   embedded source (threads of its own) --> Shard::turn on this thread --> files
//!     the same megabytes in N batches and in 10 N: the difference is what batches cost
//! ```
//! All of it is received and checked, and written but for the last image, which waits for a flush. Answers, index
//! entries and writes go by bytes, so both runs have the same of them; flushes and checkpoints go
//! by time, which is set so far away that none comes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::{Cluster, CyclicTemplate, EmbeddedSource};
use twinlog_daemon::shard::mailbox::{Command, PartitionCounters, ShardCounters};
use twinlog_daemon::shard::{Shard, ShardOptions};
use twinlog_io::testing::{CountingAllocator, allocations_of_this_thread};
use twinlog_io::{AnyEngine, EngineOptions, EnginePreference, open_engine};
use twinlog_sync::lane::LaneOptions;
use twinlog_sync::wire::fetch_request::Topic;
use twinlog_tests::shard::{hand_over, new_partition, options};

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

const TOPIC: &str = "counted";
const BROKER: i32 = 1;
const BATCH_BYTES_MAX: u32 = 1 << 20;
/// Many answers, many writes, one segment.
const LOG_BYTES: u64 = 48 << 20;
/// Later than any run ends: nothing is done because time went by.
const NEVER_MS: u64 = 3_600_000;
/// A run that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// What two runs over the same bytes may differ by: answers are cut at whole batches and arrive in other pieces, so
/// one may take some more turns. About a thousandth of the batches that one run has more.
const DIFFERENCE_MAX: u64 = 100;

#[test]
fn ten_times_the_batches_need_no_more_allocations() {
    // The first run of a process fills what is filled once.
    append(4_800);
    let (few_batches, few) = append(4_800);
    let (many_batches, many) = append(480);
    assert!(many_batches > 9 * few_batches, "{few_batches} and {many_batches} batches");
    println!("{few} allocations for {few_batches} batches, {many} for {many_batches}");
    assert!(
        many <= few + DIFFERENCE_MAX,
        "{few} allocations for {few_batches} batches became {many} for {many_batches}"
    );
}

/// Mirrors [`LOG_BYTES`] in batches of about this size; how many batches that were, and what they cost.
fn append(batch_bytes: usize) -> (u64, u64) {
    let batches: Vec<Vec<u8>> =
        (0..256).map(|number| BatchText::at(number).values(1, batch_bytes - 80).build()).collect();
    let count = LOG_BYTES / batches[0].len() as u64;
    let mut cluster = Cluster::new(1);
    cluster.create_cyclic_topic(TOPIC, 1, &Arc::new(CyclicTemplate::new(&batches)), count);
    let source = EmbeddedSource::start(cluster).expect("the loopback takes listeners");
    let directory = tempfile::tempdir().expect("a directory");
    let (mut shard, counters) = shard(&source, directory.path());
    let end = i64::try_from(count).expect("few batches");
    let (started, before) = (Instant::now(), allocations_of_this_thread());
    while counters.fetch.load(std::sync::atomic::Ordering::Relaxed) < end {
        shard.turn().expect("the engine works");
        let event = shard.next_event();
        assert!(event.is_none(), "nothing goes wrong here: {event:?}");
        assert!(started.elapsed() < PATIENCE, "the shard hangs: {}", shard.describe());
    }
    let allocations = allocations_of_this_thread() - before;
    shard.command(Command::Drain);
    while !shard.is_done() {
        shard.turn().expect("the engine works");
        while shard.next_event().is_some() {}
        assert!(started.elapsed() < PATIENCE, "the drain hangs: {}", shard.describe());
    }
    source.stop();
    (count, allocations)
}

/// A shard with the one partition, as the control core hands it over.
fn shard(source: &EmbeddedSource, directory: &Path) -> (Shard<AnyEngine>, Arc<PartitionCounters>) {
    let options =
        EngineOptions { arena_bytes: 64 << 20, sockets_max: 16, files_max: 64, ..EngineOptions::default() };
    let (engine, _) = open_engine(&options, EnginePreference::Auto).expect("one engine or the other opens");
    let mut shard = Shard::new(engine, shard_options(directory), Arc::new(ShardCounters::default()));
    let id = source.with_cluster(|cluster| cluster.topic_id(TOPIC)).expect("the cluster was made with it");
    let address = source.bootstrap().parse().expect("one broker has one address");
    shard.command(Command::Broker { id: BROKER, address, host: "localhost".into() });
    let topic = Arc::new(Topic { name: TOPIC.to_owned(), id });
    let add = new_partition(directory, &topic, 0).expect("an empty directory");
    let counters = add.counters.clone();
    hand_over(add, BROKER).into_iter().for_each(|command| shard.command(command));
    (shard, counters)
}

fn shard_options(directory: &Path) -> ShardOptions {
    std::fs::create_dir_all(directory.join("journal")).expect("a directory");
    let usual = options(&directory.join("journal").join("journal-0"));
    let lane = LaneOptions {
        wait_max_ms: 500,
        response_bytes_max: 4 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        request_timeout_ms: 30_000,
        ..(*usual.lane).clone()
    };
    ShardOptions {
        lane: Arc::new(lane),
        partition_bytes_max: 1 << 20,
        segment_bytes: 256 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        flush_ms: NEVER_MS,
        flush_catch_up_ms: NEVER_MS,
        flush_catch_up_bytes: 1 << 40,
        checkpoint_ms: NEVER_MS,
        ..usual
    }
}
