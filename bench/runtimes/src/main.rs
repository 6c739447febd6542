//! The same loop on several runtimes: receive 1 MiB, checksum it, write it with O_DIRECT, eight writes under way.
//!
//! ```text
//!   this process, core 0: raw sender ─▶ a child of it, core 1: one runtime ─▶ one preallocated file
//! ```
//! `cargo run --release -- [--gigabytes N] [--repeats N] [--directory DIR]`. Runtimes take turns, so that whatever else
//! the machine does meets all. Each child is accounted whole, its kernel workers with it, from its first byte to its
//! sync. Owns the order and the table. Must never count a file that is not what was sent.

mod asynchronous;
mod blocking;
mod polled;
mod ring;
mod sender;
mod task;

use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use task::{PIECE_BYTES, Task};

/// A way to run the loop: its name, what of it is used, the loop.
struct Runtime {
    name: &'static str,
    about: &'static str,
    run: fn(&Task) -> io::Result<u64>,
}

const RUNTIMES: [Runtime; 6] = [
    Runtime { name: "twinlog-io", about: "the product's engine", run: ring::run },
    Runtime { name: "compio", about: "0.19, standard API", run: asynchronous::compio },
    Runtime { name: "monoio", about: "0.2.4, standard API", run: asynchronous::monoio },
    Runtime { name: "tokio-uring", about: "0.5, standard API", run: asynchronous::tokio_uring },
    Runtime { name: "glommio", about: "0.9, DmaFile", run: polled::glommio },
    Runtime { name: "blocking", about: "std, one thread, nothing overlaps", run: blocking::run },
];

/// The word by which a child knows that it is one.
const CHILD: &str = "child";
const USAGE: &str =
    "cargo run --release -- [--gigabytes N (1 to 64)] [--repeats N (1 to 99)] [--directory DIR]";

struct Arguments {
    gigabytes: u64,
    repeats: usize,
    directory: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((first, rest)) if first == CHILD => play(rest),
        _ => arguments(&words).and_then(|arguments| measure(&arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtimes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(words: &[String]) -> io::Result<Arguments> {
    let mut arguments = Arguments { gigabytes: 2, repeats: 3, directory: std::env::temp_dir() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next();
        let number = |most: u64| {
            let number =
                value.and_then(|value| value.parse().ok()).filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| io::Error::other(format!("{word} {}: {USAGE}", value.map_or("", |it| it))))
        };
        match word.as_str() {
            "--gigabytes" => arguments.gigabytes = number(64)?,
            "--repeats" => arguments.repeats = number(99)? as usize,
            "--directory" if value.is_some() => {
                arguments.directory = value.map(PathBuf::from).unwrap_or_default()
            }
            _ => return Err(io::Error::other(format!("{word} is not an option: {USAGE}"))),
        }
    }
    Ok(arguments)
}

/// What a run has cost.
#[derive(Clone, Copy)]
struct Figures {
    cpu_per_gigabyte: f64,
    gigabytes_per_second: f64,
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let bytes = (arguments.gigabytes * 1_000_000_000).next_multiple_of(PIECE_BYTES as u64);
    let (address, checksum) = sender::start(0)?;
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); RUNTIMES.len()];
    for repeat in 1..=arguments.repeats {
        for (runtime, figures) in RUNTIMES.iter().zip(&mut figures) {
            let path = arguments.directory.join(format!("twinlog-runtimes-{}", std::process::id()));
            let run = one_run(runtime, address, &path, bytes, checksum);
            let removed = std::fs::remove_file(&path);
            figures.push(run?);
            removed?;
            eprintln!("{} of {}: {}", repeat, arguments.repeats, runtime.name);
        }
    }
    println!("| runtime | used | CPU-s/GB, median (min..max) | GB/s, median (min..max) |");
    println!("| --- | --- | --- | --- |");
    for (runtime, figures) in RUNTIMES.iter().zip(&figures) {
        let cpu = spread(figures.iter().map(|run| run.cpu_per_gigabyte));
        let wall = spread(figures.iter().map(|run| run.gigabytes_per_second));
        println!("| {} | {} | {cpu} | {wall} |", runtime.name, runtime.about);
    }
    Ok(())
}

/// `median (min..max)` of at least one.
fn spread(numbers: impl Iterator<Item = f64>) -> String {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let (min, median, max) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    format!("{median:.3} ({min:.3}..{max:.3})")
}

fn one_run(
    runtime: &Runtime,
    sender: std::net::SocketAddr,
    path: &Path,
    bytes: u64,
    checksum: u32,
) -> io::Result<Figures> {
    let failed = |what: &str| io::Error::other(format!("{}: {what}", runtime.name));
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CHILD, runtime.name, &sender.to_string(), &bytes.to_string()]).arg(path);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [cpu_seconds, seconds, checksums] = numbers[..] else { return Err(failed("no figures")) };
    let pieces = bytes / PIECE_BYTES as u64;
    if !output.status.success() || checksums as u64 != pieces * u64::from(checksum) {
        return Err(failed("its checksums are not those of what was sent"));
    }
    if !sender::is_what_was_sent(path, pieces)? {
        return Err(failed("its file is not what was sent"));
    }
    let gigabytes = bytes as f64 / 1e9;
    Ok(Figures { cpu_per_gigabyte: cpu_seconds / gigabytes, gigabytes_per_second: gigabytes / seconds })
}

/// Words: runtime, sender, bytes, file.
fn play(words: &[String]) -> io::Result<()> {
    let refused = || io::Error::other(format!("{words:?} is not what a child is told"));
    let [name, sender, bytes, path] = words else { return Err(refused()) };
    let runtime = RUNTIMES.iter().find(|runtime| runtime.name == name).ok_or_else(refused)?;
    pin(1)?;
    let sender = sender.parse().map_err(|_| refused())?;
    let bytes = bytes.parse().map_err(|_| refused())?;
    let task = Task::prepare(sender, bytes, path.into())?;
    let started = Instant::now();
    let checksums = (runtime.run)(&task)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} {seconds} {checksums}", task::cpu_seconds()?);
    Ok(())
}

/// This thread, and those that it starts from now on, to one core.
fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
