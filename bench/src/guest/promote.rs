//! How long a hand-over takes, beside a move of as many leaders between stock brokers.
//!
//! ```text
//!   command ─▶ proof, floor, reassignment ─▶ request (AlterPartition) ─▶ configurations ─▶ answer
//!      \──▶ a client tries to write to every partition ──────────────────────────▶ the last one accepts
//!   stock:  new order of replicas ─▶ ElectLeaders ─▶ answer ─▶ the last partition accepts under its new leader
//! ```
//! The client tries all the time, on the same machine: it is part of what is measured.

use super::daemon::{Daemon, Ends, Link, PATIENCE};
use super::probes::{until_accepted_by, until_all_accept};
use super::wire::Peer;
use super::{Clusters, machine_load};
use crate::Bench;
use crate::error::BenchError;
use crate::table::Table;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub const NAME: &str = "promote";
const PARTITIONS: [i32; 3] = [1, 200, 1_000];
const GUEST: i32 = 960;
const REPLICAS: usize = 3;
/// Steps of a hand-over as the daemon's log names them, with what they are in the table.
const STEPS: [(&str, &str); 4] = [
    ("CAPTURED", "ends known ms"),
    ("FOLLOWERS_PROVEN", "followers proven ms"),
    ("HANDED_OVER", "handed over ms"),
    ("CONFIGS_RESTORED", "writable ms"),
];
const LOOK: Duration = Duration::from_millis(50);

fn topic_of(partitions: i32) -> String {
    format!("promoted-{partitions}")
}

/// Measures it if it was asked for.
pub fn measure(bench: &mut Bench<'_>, clusters: &Clusters) -> Result<(), BenchError> {
    if !bench.arguments.wants(NAME) {
        return Ok(());
    }
    eprintln!("measuring {NAME}");
    let source = clusters.source.bootstrap();
    for partitions in PARTITIONS {
        clusters.source.scenario().create_topic(&topic_of(partitions), partitions as u32, 1, &[]);
        until_all_accept(&source, &topic_of(partitions), partitions)?;
    }
    let directory = bench.scratch.place("promote", 4 << 30)?;
    let ends = Ends {
        source: &source,
        destination: &clusters.destination.bootstrap(),
        controllers: &clusters.destination.bootstrap_controllers(),
        guest: GUEST,
        topics: "promoted-.*",
        replicas: REPLICAS,
    };
    let link = Link::create(&directory, &ends, None)?;
    let daemon = link.start()?;
    let head = ["partitions", "request ms", "answer ms", "last write accepted ms"];
    let head: Vec<&str> = head.into_iter().chain(STEPS.iter().map(|(_, name)| *name)).collect();
    let mut table = Table::new(&head);
    for partitions in PARTITIONS {
        until_followed(clusters, &link, partitions)?;
        table.row(hand_over(clusters, &link, &daemon, partitions)?);
    }
    drop(daemon);
    bench.scratch.clear(&directory)?;
    bench.report.line(&format!(
        "\n## Promote\n\nThree stock brokers, one record in each partition; request: AlterPartition alone; the others from \
         the command's start; {}.",
        machine_load()
    ));
    bench.report.table(&table);
    let mut table = Table::new(&["partitions", "new order ms", "ElectLeaders ms", "last write accepted ms"]);
    for partitions in PARTITIONS {
        table.row(stock_move(clusters, partitions)?);
    }
    bench.report.line("\nThe same number of leaders moved between stock brokers, from ElectLeaders' start:");
    bench.report.table(&table);
    Ok(())
}

/// What the daemon tells of a topic.
fn describe(link: &Link, topic: &str) -> Result<serde_json::Value, BenchError> {
    let told = link.ask(&["mirror", "describe", topic, "--output", "json"])?;
    let mut told: serde_json::Value =
        serde_json::from_str(&told).map_err(|_| BenchError::Malformed { what: "mirror describe" })?;
    Ok(told["data"][0].take())
}

/// Waits until every broker's log of every partition has bytes, and the daemon has the topic in its books.
fn until_followed(clusters: &Clusters, link: &Link, partitions: i32) -> Result<(), BenchError> {
    let topic = topic_of(partitions);
    let has = |broker: usize, partition: i32| {
        let folder = clusters.destination.partition_directory(broker, &topic, partition);
        std::fs::metadata(folder.join("00000000000000000000.log")).is_ok_and(|file| file.len() > 0)
    };
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let all = (1..=REPLICAS).all(|broker| (0..partitions).all(|partition| has(broker, partition)));
        // Refused while it does not know the topic.
        if all && describe(link, &topic).is_ok_and(|told| told["state"] == "ACTIVE") {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
    Err(BenchError::Slow { what: "following all partitions", limit: PATIENCE })
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

fn hand_over(
    clusters: &Clusters,
    link: &Link,
    daemon: &Daemon,
    partitions: i32,
) -> Result<Vec<String>, BenchError> {
    let topic = topic_of(partitions);
    let bootstrap = clusters.destination.bootstrap();
    let (started, given_up) = (Instant::now(), AtomicBool::new(false));
    let (answered, accepted) = thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let is_stock = |leader| leader < GUEST;
            until_accepted_by(&bootstrap, &topic, partitions, is_stock, &given_up)
        });
        let answer = link.ask(&["mirror", "promote", &topic]);
        given_up.store(answer.is_err(), Relaxed);
        let answered = Instant::now();
        let accepted = writes.join().expect("the client does not panic");
        Ok::<_, BenchError>((answer.map(|_| answered)?, accepted?))
    })?;
    let request = &describe(link, &topic)?["hand_over"]["hand_over_request_ms"];
    let mut row = vec![
        partitions.to_string(),
        request.as_u64().map_or_else(|| "not told".to_owned(), |ms| ms.to_string()),
        milliseconds(answered - started),
        milliseconds(accepted - started),
    ];
    row.extend(STEPS.iter().map(|(step, _)| {
        let at = daemon.said(&format!("promote of {topic}: {step}"));
        at.map_or_else(|| "not told".to_owned(), |at| milliseconds(at.saturating_duration_since(started)))
    }));
    Ok(row)
}

fn stock_move(clusters: &Clusters, partitions: i32) -> Result<Vec<String>, BenchError> {
    let topic = format!("moved-{partitions}");
    let replicas: Vec<&[i32]> = (0..partitions).map(|_| [1, 2, 3].as_slice()).collect();
    clusters.destination.scenario().create_topic_on(&topic, &replicas, &[]);
    let bootstrap = clusters.destination.bootstrap();
    until_all_accept(&bootstrap, &topic, partitions)?;
    let mut peer = Peer::connect(&clusters.destination.address(1))?;
    let began = Instant::now();
    peer.reassign(&topic, partitions, &[2, 3, 1])?;
    let reordered = began.elapsed();
    let (started, given_up) = (Instant::now(), AtomicBool::new(false));
    let (elected, accepted) = thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let is_second = |leader| leader == 2;
            until_accepted_by(&bootstrap, &topic, partitions, is_second, &given_up)
        });
        let elected = peer.elect_preferred(&topic, partitions).map(|()| started.elapsed());
        given_up.store(elected.is_err(), Relaxed);
        Ok::<_, BenchError>((elected?, writes.join().expect("the client does not panic")?))
    })?;
    let row = [reordered, elected, accepted - started];
    Ok(std::iter::once(partitions.to_string()).chain(row.into_iter().map(milliseconds)).collect())
}
