//! Bounds that hold at any size: memory, disk and descriptors, for one partition and for ten thousand.
//!
//! The source is in memory; a deep backlog is a template that repeats, so that only the mirror has gigabytes.

use std::path::Path;
use std::sync::Arc;
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::{Cluster, CyclicTemplate, EmbeddedSource, TopicOptions};
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
const PARTITIONS: u32 = 10_000;
const BATCHES: i64 = 3;
/// What the program says that ten thousand partitions need.
const LEAST_MEMORY: &str = "258MiB";
const LEAST_MEMORY_MIB: u64 = 258;
/// Descriptors above the least that the program starts with: far fewer than partitions.
const FILES_BEYOND_MIN: u64 = 36;
/// One step of preallocation, which is 64 KiB, and a block each of directory, metadata and indexes.
const OCCUPIED_BYTES_MAX: u64 = (64 + 5 * 4) << 10;
/// Far more than any memory that a run is given here, and than the page cache has any use for.
const DEEP_BYTES: u64 = 3 << 30;

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

/// One partition with so many bytes, in batches of 64 KiB.
fn deep_source(bytes: u64) -> EmbeddedSource {
    let batches: Vec<Vec<u8>> =
        (0..64).map(|number| BatchText::at(number * 64).values(64, 1_000).build()).collect();
    let batch_bytes = batches[0].len() as u64;
    let mut cluster = Cluster::new(1);
    cluster.create_cyclic_topic("deep", 1, &Arc::new(CyclicTemplate::new(&batches)), bytes / batch_bytes);
    EmbeddedSource::start(cluster).expect("the loopback takes listeners")
}

fn peak_bytes(report: &serde_json::Value) -> u64 {
    report["totals"]["peak_memory_bytes"].as_u64().expect("a figure")
}

#[test]
fn a_deep_backlog_stays_within_memory() {
    let source = deep_source(DEEP_BYTES);
    for (memory, bytes) in [(None, 512 << 20), (Some("96MiB"), 96 << 20)] {
        let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["deep"]).with_memory(memory);
        let report = mirror.caught_up();
        let stored = report["totals"]["bytes"].as_u64().expect("a figure");
        assert!(stored > DEEP_BYTES - (1 << 20), "{stored} bytes are no deep backlog");
        let peak = peak_bytes(&report);
        println!("a deep backlog took {peak} bytes of {bytes}");
        assert!(peak <= bytes, "{bytes} bytes of memory.bytes, and {peak} were taken");
    }
    source.stop();
}

#[test]
fn ten_thousand_partitions_stay_within_memory() {
    let source = wide_source(PARTITIONS);
    for (memory, mib) in [(None, 512), (Some(LEAST_MEMORY), LEAST_MEMORY_MIB)] {
        let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]).with_memory(memory);
        let run = mirror.catch_up().expect_code(0);
        let report = run.json();
        let totals = &report["totals"];
        assert_eq!(totals["partitions"].as_u64(), Some(u64::from(PARTITIONS)), "{totals}");
        assert_eq!(totals["batches"].as_i64(), Some(i64::from(PARTITIONS) * BATCHES), "{totals}");
        let peak = peak_bytes(&report);
        println!("the first start took {peak} bytes of {mib} MiB");
        assert!(peak <= mib << 20, "{mib} MiB of memory.bytes, and {peak} bytes were taken");
        assert!(!run.stderr.contains("memory.bytes"), "{mib} MiB are enough: {}", run.stderr);
        mirror.verify(false).expect_code(0);

        let again = mirror.caught_up();
        assert_eq!(
            again["totals"]["bytes"].as_u64(),
            Some(0),
            "nothing is fetched twice: {}",
            again["totals"]
        );
        let peak = peak_bytes(&again);
        println!("a restart took {peak} bytes of {mib} MiB");
        assert!(peak <= mib << 20, "{mib} MiB of memory.bytes, and {peak} bytes were taken by a restart");
    }
    source.stop();
}

#[test]
fn the_budget_that_is_asked_for_is_kept_with_few_partitions_too() {
    for (partitions, memory, mib) in [(1, "64MiB", 64), (100, "66MiB", 66), (1_000, "83MiB", 83)] {
        let source = wide_source(partitions);
        let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]).with_memory(Some(memory));
        let run = mirror.catch_up().expect_code(0);
        let report = run.json();
        assert_eq!(report["totals"]["partitions"].as_u64(), Some(u64::from(partitions)), "{report}");
        let peak = peak_bytes(&report);
        println!("{partitions} partitions took {peak} bytes of {mib} MiB");
        assert!(peak <= mib << 20, "{mib} MiB of memory.bytes, and {peak} bytes were taken");
        assert!(!run.stderr.contains("memory.bytes"), "{mib} MiB are enough: {}", run.stderr);
        source.stop();
    }
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

#[test]
fn a_kernel_that_refuses_the_ring_gets_the_epoll_engine_and_a_sentence() {
    let source = wide_source(40);
    let mirror =
        Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]).with_configuration("engine = \"auto\"\n");
    let run = mirror.tailing().argument("--until-caught-up").with_ring_refused().run().expect_code(0);
    let sentence = "io_uring is not used: io_uring_setup was refused";
    assert!(run.stderr.contains("engine epoll") && run.stderr.contains(sentence), "{}", run.stderr);
    assert_eq!(run.json()["totals"]["batches"].as_i64(), Some(40 * BATCHES));
    mirror.verify(true).expect_code(0);

    let asked_for =
        Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]).with_configuration("engine = \"ring\"\n");
    let run = asked_for.tailing().argument("--until-caught-up").with_ring_refused().run().expect_code(1);
    assert!(run.stderr.contains("io_uring_setup was refused"), "{}", run.stderr);
    source.stop();
}

#[test]
fn few_descriptors_and_little_disk_are_enough_for_ten_thousand_partitions() {
    let source = wide_source(PARTITIONS);
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["wide"]);
    let limit = descriptors_min() + FILES_BEYOND_MIN;
    let running = mirror.tailing().with_descriptors(limit).spawn();
    let default = mirror.data_directory().join("default");
    poll::poll_until("every partition is read to its end", || {
        source.with_cluster(|cluster| {
            cluster.partitions().all(|(_, _, log)| log.asked_offset() == log.log_end_offset())
        })
    });
    let open = descriptors_of(running.process_id());
    assert!(open <= limit, "{open} of {limit} descriptors");
    let while_tailing = occupied_bytes(&default) / u64::from(PARTITIONS);
    assert!(while_tailing <= OCCUPIED_BYTES_MAX, "{while_tailing} bytes on disk for each partition");
    let killed = running.kill_hard();
    let warning = "memory.bytes = 96 MiB is too little for 10000 partitions";
    let cure = format!("set at least {LEAST_MEMORY_MIB} MiB");
    assert!(killed.stderr.contains(warning) && killed.stderr.contains(&cure), "{}", killed.stderr);
    let after_kill = occupied_bytes(&default) / u64::from(PARTITIONS);
    assert!(after_kill <= OCCUPIED_BYTES_MAX, "{after_kill} bytes on disk for each partition");

    let again = mirror.tailing().argument("--until-caught-up").with_descriptors(limit).run();
    let report = again.expect_code(0).json();
    assert_eq!(report["totals"]["partitions"].as_u64(), Some(u64::from(PARTITIONS)), "{}", report["totals"]);
    mirror.verify(false).expect_code(0);
    source.stop();
}

/// Descriptors without which the program does not start: see `files_per_shard` of the daemon.
fn descriptors_min() -> u64 {
    let cores = std::thread::available_parallelism().expect("a number of cores").get() as u64;
    let shards = cores.saturating_sub(1).max(1);
    192 + shards * (1_024 + 64)
}

fn descriptors_of(process: u32) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs and is ours");
    open.count() as u64
}

/// Room taken on disk, not file lengths: a reserved end counts.
fn occupied_bytes(directory: &Path) -> u64 {
    let output =
        std::process::Command::new("du").args(["-s", "-B1"]).arg(directory).output().expect("du runs");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("du prints a number first")
}
