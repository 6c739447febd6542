//! How old a record is when a stock follower has it, between real clusters.
//!
//! ```text
//!   producer, open loop ─Produce─▶ source broker ─▶ the daemon ─▶ followers: <topic>-<p>/0...0.log
//!                        ◀─answer─ noted here                      its length, looked at every 200 µs
//! ```
//! A record counts as visible when its bytes are in the follower's file: from then on the broker answers those who
//! ask for its log's end with it (ListOffsets of a debugging replica). The file is looked at because a broker that is
//! asked a thousand times a second is a slower broker. All batches have one size, so a length tells offsets.

use super::daemon::{Ends, Link, PATIENCE};
use super::probes::batch;
use super::wire::Peer;
use super::{Clusters, machine_load};
use crate::Bench;
use crate::error::BenchError;
use crate::spread::quantile;
use crate::standing::Standing;
use crate::table::Table;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 6;
const PER_SECOND: u64 = 1_000;
const RECORD_BYTES: usize = 1_024;
/// Followers of each partition.
const VARIANTS: [usize; 2] = [1, 3];
const LEADER_ALONE: i16 = 1;
/// How often the followers' files are looked at: the resolution of every figure.
const LOOK: Duration = Duration::from_micros(200);
const FIRST_GUEST: i32 = 920;

/// When the producer was answered, by partition and offset.
type Answered = BTreeMap<(i32, i64), Instant>;
/// Partition, offset, and when a copy had it.
type Seen = Vec<(i32, i64, Instant)>;

/// One follower's file of one partition.
struct Copy {
    partition: i32,
    file: File,
    /// Batches that were seen in it.
    batches: u64,
}

fn name(followers: usize) -> String {
    format!("latency/brokers/{followers}")
}

pub fn is_wanted(bench: &Bench<'_>) -> bool {
    VARIANTS.iter().any(|followers| bench.arguments.wants(&name(*followers)))
}

/// Measures what was asked for.
pub fn measure(bench: &mut Bench<'_>, clusters: &Clusters) -> Result<(), BenchError> {
    let mut table = Table::new(&[
        "followers",
        "seen by",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "most ms",
        "producer late ms",
        "daemon % of a core",
    ]);
    let mut loads = Vec::new();
    for (turn, followers) in VARIANTS.into_iter().enumerate() {
        if !bench.arguments.wants(&name(followers)) {
            continue;
        }
        eprintln!("measuring {}", name(followers));
        variant(bench, clusters, followers, FIRST_GUEST + 2 * turn as i32, &mut table)?;
        loads.push(machine_load());
    }
    if loads.is_empty() {
        return Ok(());
    }
    bench.report.line(&format!(
        "\n## Latency, real clusters\n\n{PARTITIONS} partitions, {PER_SECOND} batches/s of one record of 1 KiB, acks=1, \
         from the answer to the producer until the bytes are in a follower's log; resolution {} µs. All processes share \
         the machine: {}.",
        LOOK.as_micros(),
        loads.join("; ")
    ));
    bench.report.table(&table);
    Ok(())
}

fn variant(
    bench: &Bench<'_>,
    clusters: &Clusters,
    followers: usize,
    guest: i32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let topic = format!("latency-{followers}");
    clusters.source.scenario().create_topic(&topic, PARTITIONS, 1, &[]);
    let directory = bench.scratch.place("latency", 1 << 30)?;
    let ends = Ends {
        source: &clusters.source.bootstrap(),
        destination: &clusters.destination.bootstrap(),
        controllers: &clusters.destination.bootstrap_controllers(),
        guest,
        topics: &topic,
        replicas: followers,
    };
    let daemon = Link::create(&directory, &ends, None)?.start()?;
    let bytes = batch(RECORD_BYTES);
    let all: Vec<i32> = (0..PARTITIONS as i32).collect();
    let mut producer = Peer::connect(&clusters.source.address(1))?;
    producer.send_produce(&topic, LEADER_ALONE, &all, &bytes)?;
    producer.receive_produced(&mut Vec::new())?;
    let mut copies = copies(clusters, &topic, followers, bytes.len() as u64)?;
    let seconds = if bench.arguments.quick { 10 } else { 30 };
    let (before, started) = (Standing::of(daemon.process_id())?, Instant::now());
    let (answered, seen, late) = flow(&mut producer, &topic, &bytes, PER_SECOND * seconds, &mut copies)?;
    let spent = Standing::of(daemon.process_id())?.cpu_seconds() - before.cpu_seconds();
    let share = 100.0 * spent / started.elapsed().as_secs_f64();
    drop(daemon);
    bench.scratch.clear(&directory)?;
    for (who, mut ages) in ages(&answered, &seen, followers) {
        ages.sort_unstable();
        let mut row = vec![followers.to_string(), who.to_owned()];
        let figure = |per_mille| format!("{:.2}", quantile(&ages, per_mille) as f64 / 1e3);
        row.extend([500, 990, 999, 1_000].map(figure));
        row.extend([format!("{:.2}", late.as_secs_f64() * 1e3), format!("{share:.1}")]);
        table.row(row);
    }
    Ok(())
}

/// The followers' files, each with the batch that was written first in it.
fn copies(
    clusters: &Clusters,
    topic: &str,
    followers: usize,
    batch_bytes: u64,
) -> Result<Vec<Copy>, BenchError> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut found = Vec::new();
        for broker in 1..=3 {
            for partition in 0..PARTITIONS as i32 {
                let folder = clusters.destination.partition_directory(broker, topic, partition);
                let Ok(file) = File::open(folder.join("00000000000000000000.log")) else { continue };
                if file.metadata().is_ok_and(|data| data.len() >= batch_bytes) {
                    found.push(Copy { partition, file, batches: 1 });
                }
            }
        }
        if found.len() == PARTITIONS as usize * followers {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(BenchError::Slow { what: "the first record at the followers", limit: PATIENCE })
}

/// Produces, and watches until every copy has everything.
fn flow(
    producer: &mut Peer,
    topic: &str,
    bytes: &[u8],
    count: u64,
    copies: &mut [Copy],
) -> Result<(Answered, Seen, Duration), BenchError> {
    let mut receiver = producer.twin()?;
    let partitions = u64::from(PARTITIONS);
    let count = count / partitions * partitions;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let started = Instant::now();
            let mut late = Duration::ZERO;
            for ordinal in 0..count {
                let due = started + Duration::from_secs_f64(ordinal as f64 / PER_SECOND as f64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                producer.send_produce(topic, LEADER_ALONE, &[(ordinal % partitions) as i32], bytes)?;
                late = late.max(Instant::now().saturating_duration_since(due));
            }
            Ok(late)
        });
        let answers = scope.spawn(|| {
            let (mut answered, mut buffer) = (Answered::new(), Vec::new());
            for _ in 0..count {
                for (partition, code, offset) in receiver.receive_produced(&mut buffer)? {
                    if code != 0 {
                        let server = "the source".to_owned();
                        return Err(BenchError::PeerRefused { what: "Produce", server, code });
                    }
                    answered.insert((partition, offset), Instant::now());
                }
            }
            Ok(answered)
        });
        let wanted = 1 + count / partitions;
        let (batch_bytes, ends) = (bytes.len() as u64, &over);
        let watcher = scope.spawn(move || watch(copies, batch_bytes, wanted, ends));
        let late = sender.join().expect("the sender does not panic");
        let answered = answers.join().expect("the receiver does not panic");
        over.store(late.is_err() || answered.is_err(), Relaxed);
        let seen = watcher.join().expect("the watcher does not panic");
        Ok((answered?, seen?, late?))
    })
}

/// Looks at the copies until each has so many batches; when each batch was first seen in each copy.
fn watch(copies: &mut [Copy], batch_bytes: u64, wanted: u64, over: &AtomicBool) -> Result<Seen, BenchError> {
    let (mut seen, began) = (Vec::new(), Instant::now());
    while copies.iter().any(|copy| copy.batches < wanted) && !over.load(Relaxed) {
        for copy in copies.iter_mut() {
            let length = copy.file.metadata().map_or(0, |data| data.len());
            let (now, has) = (Instant::now(), length / batch_bytes);
            seen.extend((copy.batches..has).map(|offset| (copy.partition, offset as i64, now)));
            copy.batches = copy.batches.max(has);
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::Slow { what: "the last record at the followers", limit: PATIENCE });
        }
        thread::sleep(LOOK);
    }
    Ok(seen)
}

/// Ages in microseconds: at each follower, and at the last one of each record.
fn ages(
    answered: &Answered,
    seen: &[(i32, i64, Instant)],
    followers: usize,
) -> Vec<(&'static str, Vec<u64>)> {
    let mut each = Vec::new();
    let mut last: BTreeMap<(i32, i64), u64> = BTreeMap::new();
    for (partition, offset, at) in seen {
        // A follower may have it before the producer has read the answer: that is no age at all.
        let Some(from) = answered.get(&(*partition, *offset)) else { continue };
        let age = at.saturating_duration_since(*from).as_micros() as u64;
        each.push(age);
        let most = last.entry((*partition, *offset)).or_default();
        *most = age.max(*most);
    }
    let mut all = vec![("any follower", each)];
    if followers > 1 {
        all.push(("the last follower", last.into_values().collect()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_follower_decides_when_all_have_a_record() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let answered = Answered::from([((0, 1), at(10)), ((1, 1), at(20))]);
        let seen = [(0, 1, at(15)), (0, 1, at(40)), (1, 1, at(5)), (2, 1, at(9))];
        let found = ages(&answered, &seen, 3);
        assert_eq!(found[0].1, [5, 30, 0]);
        assert_eq!(found[1].1, [30, 0]);
        assert_eq!(ages(&answered, &seen, 1).len(), 1);
    }
}
