//! Group offsets between real clusters: how old the destination's copy is, and what that costs the control core.
//!
//! ```text
//!   committers  so many groups a second, each with all its positions  ─▶ source ─▶ daemon ─▶ destination
//!   probes      groups of their own: commit, then ask the destination until it has it; at random times
//! ```
//! The control core is the daemon's first thread; its CPU time is the kernel's. Brokers, committers, probes and the
//! daemon share the machine, whose load is printed.

mod processes;
mod shards;

use super::daemon::{Ends, Link, PATIENCE};
use super::probes::until_all_accept;
use super::{Clusters, machine_load};
use crate::Bench;
use crate::error::BenchError;
use crate::spread::quantile;
use crate::table::Table;
use processes::Processes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use twinlog_tests::kafka::groups::GroupClient;

pub const NAME: &str = "groups";
const TOPIC: &str = "positions";
const FIRST_GUEST: i32 = 960;
const PARTITIONS: i32 = 20;
const GROUPS: usize = 10_000;
const GROUPS_QUICK: usize = 2_000;
/// Of the groups, so many change in a second: one in ten.
const CHANGING: usize = 10;
const COMMITTERS: usize = 4;
const PROBES: usize = 8;
const MEASURED: Duration = Duration::from_secs(30);
/// Between two looks of a probe.
const LOOK: Duration = Duration::from_millis(5);
const BROKERS: [usize; 3] = [1, 2, 3];
/// Records in each partition at least: positions must not lie ahead of them.
const BATCHES: u32 = 150;

/// What the daemon says of its rounds.
#[derive(Clone, Debug, Default)]
struct Told {
    synced: u64,
    rounds: u64,
    overruns: u64,
    commits: u64,
    requests: u64,
    cpu_ticks: u64,
    /// Milliseconds that rounds have waited for each of their parts.
    phase_ms: BTreeMap<String, u64>,
}

/// Measures it if it was asked for.
pub fn measure(bench: &mut Bench<'_>, clusters: &Clusters) -> Result<(), BenchError> {
    if !bench.arguments.wants(NAME) {
        return Ok(());
    }
    eprintln!("measuring {NAME}");
    let groups = if bench.arguments.quick { GROUPS_QUICK } else { GROUPS };
    clusters.source.scenario().create_topic(TOPIC, PARTITIONS.cast_unsigned(), 1, &[]);
    until_all_accept(&clusters.source.bootstrap(), TOPIC, PARTITIONS)?;
    for _ in 0..BATCHES {
        until_all_accept(&clusters.source.bootstrap(), TOPIC, PARTITIONS)?;
    }
    shards::create(clusters);
    let began = Instant::now();
    commit_all(clusters, groups);
    eprintln!("{groups} groups are committed after {:.1} s", began.elapsed().as_secs_f64());
    let directory = bench.scratch.place(NAME, 1 << 30)?;
    let ends = Ends {
        source: &clusters.source.bootstrap(),
        destination: &clusters.destination.bootstrap(),
        controllers: &clusters.destination.bootstrap_controllers(),
        guest: FIRST_GUEST,
        topics: &format!("{TOPIC}|{}", shards::TOPIC),
        replicas: BROKERS.len(),
    };
    let link = Link::create(&directory, &ends, None)?;
    let daemon = link.start()?;
    let process = daemon.process_id();
    let first = until_synced(&link, process, groups)?;
    // What was written in the first rounds is written once more, so much in each: that is over.
    let recommitted = groups as u64 / twinlog_sync::group_offsets::RECOMMITS_PER_ROUND_MAX as u64 + 2;
    until(&link, process, |told| told.rounds >= first.rounds + recommitted)?;
    let mut table =
        Table::new(&["", "p50 ms", "p99 ms", "max ms", "control %", "requests/s", "commits/s", "overruns"]);
    let still = window(&link, process, || ())?;
    table.row(row("nothing changes", &[], still));
    let changes = groups / CHANGING;
    let mut samples = Vec::new();
    let before = Processes::look(clusters, &BROKERS, process);
    let changing =
        window(&link, process, || samples = change(clusters, groups, changes, || thread::sleep(MEASURED)))?;
    let processes = Processes::look(clusters, &BROKERS, process).table_since(&before, changing.2);
    let phases = phases(&changing.0, &changing.1);
    samples.sort_unstable();
    table.row(row(&format!("{changes} groups change a second"), &samples, changing));
    let (groups_text, load) = (format!("{groups} groups x {PARTITIONS} partitions"), machine_load());
    bench
        .report
        .line(&format!("\n## Groups\n\n{groups_text}, every second, {} probes; {load}.", samples.len()));
    bench.report.table(&table);
    bench.report.line(
        "\nWho used the machine while groups changed, and what a round waited for, in sums of all chunks.",
    );
    bench.report.table(&processes);
    bench.report.table(&phases);
    let mut measured = Ok(());
    change(clusters, groups, changes, || measured = shards::measure(bench, clusters, &link, process));
    measured?;
    drop(daemon);
    bench.scratch.clear(&directory)
}

fn row(name: &str, samples: &[u64], (before, after, seconds): (Told, Told, f64)) -> Vec<String> {
    let at = |per_mille| match samples.is_empty() {
        true => String::new(),
        false => quantile(samples, per_mille).to_string(),
    };
    let rate = |later: u64, earlier: u64| format!("{:.0}", (later - earlier) as f64 / seconds);
    let busy = (after.cpu_ticks - before.cpu_ticks) as f64 / seconds;
    vec![
        name.to_owned(),
        at(500),
        at(990),
        at(1_000),
        format!("{busy:.1}"),
        rate(after.requests, before.requests),
        rate(after.commits, before.commits),
        (after.overruns - before.overruns).to_string(),
    ]
}

/// How long a round waited for each of its parts.
fn phases(before: &Told, after: &Told) -> Table {
    let rounds = (after.rounds - before.rounds).max(1);
    let mut table = Table::new(&["part of a round", "ms a round"]);
    for (name, spent) in &after.phase_ms {
        let spent = spent - before.phase_ms.get(name).copied().unwrap_or(0);
        table.row(vec![name.clone(), format!("{:.1}", spent as f64 / rounds as f64)]);
    }
    table
}

/// All groups at once, each with every partition.
fn commit_all(clusters: &Clusters, groups: usize) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..COMMITTERS {
            scope.spawn(|| {
                let mut client = GroupClient::of(&clusters.source, &[1]);
                loop {
                    let group = next.fetch_add(1, Relaxed) as usize;
                    if group >= groups {
                        return;
                    }
                    commit(&mut client, group, 1);
                }
            });
        }
    });
}

fn commit(client: &mut GroupClient, group: usize, offset: i64) {
    let positions: Vec<(i32, i64)> = (0..PARTITIONS).map(|index| (index, offset)).collect();
    client.commit(&format!("group-{group}"), TOPIC, &positions).expect("the source takes positions");
}

/// Changes so many groups a second as long as `work` goes on, and samples the milliseconds until a change is visible.
fn change(clusters: &Clusters, groups: usize, per_second: usize, work: impl FnOnce()) -> Vec<u64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for committer in 0..COMMITTERS {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = GroupClient::of(&clusters.source, &[1]);
                let pause = Duration::from_secs(1) * COMMITTERS as u32 / per_second as u32;
                let began = Instant::now();
                // The last groups are the probes'.
                let mine = (committer..groups - PROBES).step_by(COMMITTERS).cycle().enumerate();
                for (turn, group) in mine {
                    if stop.load(Relaxed) {
                        return;
                    }
                    commit(&mut client, group, 2 + (turn * COMMITTERS / groups) as i64);
                    let due = pause * (turn as u32 + 1);
                    thread::sleep(due.saturating_sub(began.elapsed()));
                }
            });
        }
        let probes: Vec<_> = (0..PROBES)
            .map(|probe| {
                let stop = &stop;
                scope.spawn(move || sample(clusters, groups - 1 - probe, stop))
            })
            .collect();
        work();
        stop.store(true, Relaxed);
        probes.into_iter().flat_map(|probe| probe.join().expect("a probe does not panic")).collect()
    })
}

fn sample(clusters: &Clusters, group: usize, stop: &AtomicBool) -> Vec<u64> {
    let mut there = GroupClient::of(&clusters.source, &[1]);
    let mut here = GroupClient::of(&clusters.destination, &BROKERS);
    let (mut samples, mut dice, mut offset) = (Vec::new(), group as u64, 2);
    while !stop.load(Relaxed) {
        // At any time between two rounds.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis((dice >> 33) % 1_000));
        let began = Instant::now();
        commit(&mut there, group, offset);
        let last = (TOPIC.to_owned(), PARTITIONS - 1);
        let name = format!("group-{group}");
        while here.positions(&name).get(&last) != Some(&offset) {
            if began.elapsed() > PATIENCE {
                return samples;
            }
            thread::sleep(LOOK);
        }
        samples.push(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        offset += 1;
    }
    samples
}

fn window(link: &Link, process: u32, work: impl FnOnce()) -> Result<(Told, Told, f64), BenchError> {
    let before = told(link, process)?;
    let began = Instant::now();
    work();
    thread::sleep((MEASURED / 2).saturating_sub(began.elapsed()));
    let seconds = began.elapsed().as_secs_f64();
    Ok((before, told(link, process)?, seconds))
}

fn told(link: &Link, process: u32) -> Result<Told, BenchError> {
    let answer = link.ask(&["status", "--output", "json"])?;
    let status: serde_json::Value =
        serde_json::from_str(&answer).map_err(|_| BenchError::Malformed { what: "status" })?;
    let sync = &status["offset_sync"];
    let figure = |name: &str| sync[name].as_u64().unwrap_or(0);
    Ok(Told {
        synced: sync["states"]["SYNCED"].as_u64().unwrap_or(0),
        rounds: figure("rounds"),
        overruns: figure("overruns"),
        commits: figure("commits"),
        requests: figure("requests"),
        cpu_ticks: control_ticks(process),
        phase_ms: serde_json::from_value(sync["phase_ms"].clone()).unwrap_or_default(),
    })
}

/// Ticks of a hundredth of a second of the process's first thread.
fn control_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/task/{process}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    ticks(11) + ticks(12)
}

fn until_synced(link: &Link, process: u32, groups: usize) -> Result<Told, BenchError> {
    until(link, process, |told| told.synced >= groups as u64)
}

fn until(link: &Link, process: u32, done: impl Fn(&Told) -> bool) -> Result<Told, BenchError> {
    let began = Instant::now();
    loop {
        // It may not be up yet.
        let told = told(link, process).unwrap_or_default();
        if done(&told) {
            return Ok(told);
        }
        if began.elapsed() > 3 * PATIENCE {
            eprintln!("{told:?}");
            return Err(BenchError::Slow { what: "copying all groups", limit: 3 * PATIENCE });
        }
        thread::sleep(Duration::from_millis(500));
    }
}
