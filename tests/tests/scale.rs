//! Ten thousand partitions in little memory, and the slower engine: bounds that must hold at any size.

use std::path::Path;
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::{Cluster, EmbeddedSource, TopicOptions};
use twinlog_tests::mirror::Mirror;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const PARTITIONS: u32 = 10_000;
const BATCHES: i64 = 3;

/// A topic whose every partition holds a few small batches.
fn wide_source(partitions: u32) -> EmbeddedSource {
    let mut cluster = Cluster::new(2);
    cluster.create_topic("wide", TopicOptions { partitions, ..TopicOptions::default() });
    for index in 0..i32::try_from(partitions).expect("few enough") {
        for number in 0..BATCHES {
            let batch = BatchText::at(0).timestamp(number).values(2, 300);
            cluster.append("wide", index, batch.build());
        }
    }
    EmbeddedSource::start(cluster).expect("the loopback takes listeners")
}

#[test]
fn ten_thousand_partitions_stay_within_memory_disk_and_descriptors() {
    let source = wide_source(PARTITIONS);
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]);
    let report = mirror.caught_up();
    let totals = &report["totals"];
    assert_eq!(totals["partitions"].as_u64(), Some(u64::from(PARTITIONS)), "{totals}");
    assert_eq!(totals["batches"].as_i64(), Some(i64::from(PARTITIONS) * BATCHES), "{totals}");
    let peak = totals["peak_memory_bytes"].as_u64().expect("a figure");
    assert!(peak < 256 << 20, "96 MiB of memory.bytes and the program itself took {peak} bytes");
    let occupied = occupied_bytes(&mirror.data_directory());
    let per_partition = occupied / u64::from(PARTITIONS);
    assert!(per_partition < 64 << 10, "{per_partition} bytes on disk for each idle partition");
    mirror.verify(false).expect_code(0);

    let again = mirror.caught_up();
    assert_eq!(again["totals"]["bytes"].as_u64(), Some(0), "nothing is fetched twice: {}", again["totals"]);
    source.stop();
}

#[test]
fn the_engine_without_io_uring_and_the_page_cache_give_the_same_store() {
    let source = wide_source(40);
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["wide"])
        .with_configuration("engine = \"epoll\"\ndirect.io = \"off\"\n");
    let running = mirror.caught_up();
    assert_eq!(running["totals"]["batches"].as_i64(), Some(40 * BATCHES));
    mirror.verify(true).expect_code(0);
    source.stop();
}

/// Room taken on disk, not file lengths: a reserved end counts.
fn occupied_bytes(directory: &Path) -> u64 {
    let output =
        std::process::Command::new("du").args(["-s", "-B1"]).arg(directory).output().expect("du runs");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("du prints a number first")
}
