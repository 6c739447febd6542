//! The role of the source: embedded brokers over memory, and the same bytes raw for the floor.
//!
//! ```text
//!   source ─▶ bench   127.0.0.1:PORT 127.0.0.1:PORT         brokers, raw sender
//!   bench ─▶ source   watch PROCESS_ID                      ─▶ done; whose CPU time is noted when records flow
//!                     stream                                ─▶ bytes and seconds sent since it last asked, and
//!                                                              CPU seconds that the watched process had at first
//!                     caught                                ─▶ partitions that somebody read to their end
//!                     wide TOPICS                           ─▶ done; so many more topics, one batch in each partition
//!                     trickle BATCHES_PER_SECOND SECONDS    ─▶ done, when it is; over all partitions that there are
//!   raw               u64 bytes wanted ─▶ so many bytes
//! ```
//! All of it runs on one core. Ends when its input does. Must never touch a file.

use crate::children::Role;
use crate::error::BenchError;
use crate::load::{Load, STREAM, Shape};
use crate::secure;
use crate::standing::Standing;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use twinlog_daemon::embedded::generator::Random;
use twinlog_daemon::embedded::{Cluster, EmbeddedSource};
use twinlog_io::pin_current_thread;

/// What topics beside the measured one are called, before a number.
pub const WIDE: &str = "wide";
/// Bytes in one write of the raw sender.
const PIECE_BYTES: usize = 1 << 20;
/// How often it is looked how much was sent.
const LOOK: Duration = Duration::from_millis(5);
/// Less than this between two looks is talk about offsets, not records.
const RECORDS_BYTES_MIN: u64 = 16 << 10;
/// The trickle is produced in steps of this length.
const STEP: Duration = Duration::from_millis(20);

/// When records were sent.
#[derive(Default)]
struct Sent {
    first: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
    watched: Option<u32>,
    /// What the watched process had used when the first records were on their way.
    cpu_seconds_before: f64,
}

/// See the file's header. Words: core, shape, and for brokers that speak TLS a file that their certificate is
/// written to.
pub fn play(words: &[String]) -> Result<(), BenchError> {
    let failed = |error| BenchError::Role { role: Role::Source.name(), error };
    let refused = || BenchError::Answer { role: Role::Source.name(), answer: words.join(" ") };
    let (core, shape, certificate) = match words {
        [core, shape] => (core, shape, None),
        [core, shape, certificate] => (core, shape, Some(Path::new(certificate))),
        _ => return Err(refused()),
    };
    let core: usize = core.parse().map_err(|_| refused())?;
    let shape: Shape = shape.parse().map_err(|_| refused())?;
    // Threads inherit it; a refused pin shows in the figures, not in the result.
    let _ = pin_current_thread(&[core]);
    let load = Load::new(shape);
    let source = match certificate {
        None => EmbeddedSource::start(cluster(&load)),
        Some(file) => EmbeddedSource::start_secure(cluster(&load), secure::identity(file)?),
    };
    let source = Arc::new(source.map_err(BenchError::Source)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    println!("{} {}", source.bootstrap(), listener.local_addr().map_err(failed)?);
    let bytes = load.bytes();
    thread::spawn(move || send_raw(&listener, &bytes));
    let sent = Arc::new(Mutex::new(Sent::default()));
    let (looked_at, noted) = (source.clone(), sent.clone());
    thread::spawn(move || look(&looked_at, &noted));
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(failed)?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["stream"] => {
                let sent = std::mem::take(&mut *sent.lock().expect("no thread panics with it"));
                let seconds =
                    sent.first.zip(sent.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
                println!("{} {seconds} {}", sent.bytes, sent.cpu_seconds_before);
            }
            ["watch", process_id] => {
                let process_id = process_id.parse().map_err(|_| refused())?;
                sent.lock().expect("no thread panics with it").watched = Some(process_id);
                println!("done");
            }
            ["caught"] => println!("{}", source.with_cluster(|cluster| caught(cluster))),
            ["wide", topics] => {
                let topics: u32 = topics.parse().map_err(|_| refused())?;
                source.with_cluster(|cluster| {
                    for number in 0..topics {
                        let name = format!("{WIDE}-{number:05}");
                        cluster.create_cyclic_topic(&name, shape.partitions, &load.template, 1);
                    }
                });
                println!("done");
            }
            ["trickle", rate, seconds] => {
                let (rate, seconds) = rate.parse().ok().zip(seconds.parse().ok()).ok_or_else(refused)?;
                trickle(&source, rate, Duration::from_secs(seconds));
                println!("done");
            }
            _ => return Err(refused()),
        }
    }
    Ok(())
}

/// One broker with the measured topic.
pub fn cluster(load: &Load) -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.create_cyclic_topic(STREAM, load.shape.partitions, &load.template, load.batches_per_partition());
    cluster
}

fn caught(cluster: &Cluster) -> usize {
    cluster.partitions().filter(|(_, _, log)| log.asked_offset() == log.log_end_offset()).count()
}

/// Notes when records began and ceased to flow. Goes on until the process ends.
fn look(source: &EmbeddedSource, noted: &Mutex<Sent>) {
    let mut before = source.sent_bytes();
    loop {
        thread::sleep(LOOK);
        let (bytes, now) = (source.sent_bytes(), Instant::now());
        let more = bytes - before;
        before = bytes;
        if more >= RECORDS_BYTES_MIN {
            let mut sent = noted.lock().expect("no thread panics with it");
            sent.bytes += more;
            if sent.first.is_none() {
                sent.first = now.checked_sub(LOOK);
                // One that has ended already had nothing to receive.
                sent.cpu_seconds_before =
                    sent.watched.and_then(|id| Standing::of(id).ok()).map_or(0.0, Standing::cpu_seconds);
            }
            sent.last = Some(now);
        }
    }
}

/// Sends so many bytes as anybody asks for, of these round and round.
pub fn send_raw(listener: &TcpListener, bytes: &[u8]) {
    // An error is the receiver's going away, which it tells the bench itself.
    while let Ok((stream, _)) = listener.accept() {
        let _ = send_wanted(stream, bytes);
    }
}

fn send_wanted(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let mut left = u64::from_be_bytes(wanted);
    let mut pieces = bytes.chunks(PIECE_BYTES).cycle();
    while left > 0 {
        let piece = pieces.next().expect("a template is not empty");
        let length = left.min(piece.len() as u64);
        stream.write_all(&piece[..length as usize])?;
        left -= length;
    }
    Ok(())
}

/// So many batches per second, each to some partition.
fn trickle(source: &EmbeddedSource, rate: u32, length: Duration) {
    let all: Vec<(String, i32)> = source.with_cluster(|cluster| {
        cluster.partitions().map(|(topic, index, _)| (topic.to_owned(), index)).collect()
    });
    let (started, mut random, mut appended) = (Instant::now(), Random::new(7), 0);
    while started.elapsed() < length {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        source.with_cluster(|cluster| {
            for _ in appended..due {
                let (topic, index) = &all[random.below(all.len() as u64) as usize];
                cluster.extend(topic, *index, 1);
            }
        });
        appended = due;
        thread::sleep(STEP);
    }
}
