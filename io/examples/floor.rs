//! The floor of the data path: receive 1 MiB at a time into the arena, write each piece from where it was received.
//!
//! Owns: one measurement, without decoding or checksums: `floor [ring|epoll] [GiB] [directory]`, `-` as directory
//! receives without writing. The sender is a process of its own, so that only the receiver's CPU (and that of its
//! kernel workers) is counted. Run it in release mode on two cores.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use twinlog_io::{
    AnyEngine, Completion, CoreChoice, Engine, EngineOptions, EnginePreference, FileKey, Job, Operation,
    Outcome, SocketKey, Span, Step, Token, allowed_cores, open_engine, pin_current_thread, place,
    process_usage,
};

const PIECE_BYTES: u32 = 1 << 20;
const PIECES: usize = 8;
const FILE: FileKey = FileKey(0);
const SOCKET: SocketKey = SocketKey(0);
const RECEIVE: Token = Token(u64::MAX);

struct Floor {
    engine: AnyEngine,
    completions: Vec<Completion>,
    free: Vec<usize>,
    filling: Option<(usize, u32)>,
    position: u64,
    receive_left_bytes: u64,
    write_left_bytes: u64,
    to_file: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, address, bytes] = &arguments[..]
        && mode == "send"
    {
        return send(address.parse()?, bytes.parse()?);
    }
    let preference = match arguments.first().map(String::as_str) {
        Some("epoll") => EnginePreference::Epoll,
        _ => EnginePreference::Ring,
    };
    let bytes = arguments.get(1).map_or(Ok(4), |gib| gib.parse::<u64>())? << 30;
    let directory = arguments.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let placement = place(&allowed_cores()?, &CoreChoice::Auto)?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut sender = Command::new(std::env::current_exe()?)
        .args(["send", &address.to_string(), &bytes.to_string()])
        .spawn()?;
    let result = relay(listener, preference, bytes, &directory, &placement.data[..1]);
    finish(&mut sender);
    result
}

/// Listens at `address` in reverse: the receiver connects to a second listener whose address the sender tells first.
fn send(address: SocketAddr, bytes: u64) -> Result<(), Box<dyn std::error::Error>> {
    let placement = place(&allowed_cores()?, &CoreChoice::Auto)?;
    pin_current_thread(&[placement.control])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut control = std::net::TcpStream::connect(address)?;
    control.write_all(&listener.local_addr()?.port().to_be_bytes())?;
    let (mut stream, _) = listener.accept()?;
    let piece = vec![7; PIECE_BYTES as usize];
    for _ in 0..bytes / u64::from(PIECE_BYTES) {
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn finish(sender: &mut Child) {
    let _ = sender.kill();
    let _ = sender.wait();
}

fn relay(
    listener: TcpListener,
    preference: EnginePreference,
    bytes: u64,
    directory: &std::path::Path,
    cores: &[usize],
) -> Result<(), Box<dyn std::error::Error>> {
    let (mut control, _) = listener.accept()?;
    let mut port = [0; 2];
    std::io::Read::read_exact(&mut control, &mut port)?;
    pin_current_thread(cores)?;
    let options = EngineOptions {
        arena_bytes: PIECES as u64 * u64::from(PIECE_BYTES),
        helper_cores: cores.to_vec(),
        ..EngineOptions::default()
    };
    let (engine, report) = open_engine(&options, preference)?;
    println!("{report}");
    let to_file = directory.as_os_str() != "-";
    let path = directory.join(format!("twinlog-floor-{}", std::process::id()));
    let mut floor = Floor {
        engine,
        completions: Vec::new(),
        free: (0..PIECES).collect(),
        filling: None,
        position: 0,
        receive_left_bytes: bytes,
        write_left_bytes: bytes,
        to_file,
    };
    let address = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes(port)));
    floor.alone(Operation::Connect { socket: SOCKET, address })?;
    if to_file {
        let steps = vec![
            Step::Open { file: FILE, path: path.clone(), create: true, direct: true },
            Step::Allocate { path: path.clone(), length: bytes },
            Step::SyncFile { path: path.clone() },
        ];
        floor.alone(Operation::Job(Job::new(steps)))?;
    }
    let (before, start) = (process_usage()?, floor.engine.now());
    let outcome = floor.run();
    let (after, end) = (process_usage()?, floor.engine.now());
    if to_file {
        std::fs::remove_file(&path)?;
    }
    outcome?;
    let (gigabytes, seconds) = (bytes as f64 / 1e9, (end - start) as f64 / 1e9);
    let cpu_seconds = after.cpu_seconds() - before.cpu_seconds();
    println!(
        "{:.3} CPU s/GB, {:.2} GB/s, {} waits",
        cpu_seconds / gigabytes,
        gigabytes / seconds,
        after.voluntary_switches - before.voluntary_switches
    );
    Ok(())
}

impl Floor {
    fn alone(&mut self, operation: Operation) -> Result<(), Box<dyn std::error::Error>> {
        self.engine.submit(Token(0), operation);
        while self.completions.is_empty() {
            self.engine.wait(None, &mut self.completions)?;
        }
        match self.completions.remove(0).outcome {
            Outcome::Done(_) => Ok(()),
            Outcome::Job(outcome) if outcome.failed.is_none() => {
                println!("{:?}", outcome.outputs);
                Ok(())
            }
            other => Err(format!("{other:?}").into()),
        }
    }

    fn run(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.receive();
        let mut completions = Vec::new();
        while self.write_left_bytes > 0 {
            self.engine.wait(None, &mut completions)?;
            for Completion { token, outcome } in completions.drain(..) {
                match outcome {
                    Outcome::Done(count) if token == RECEIVE && count > 0 => self.received(count),
                    Outcome::Done(PIECE_BYTES) => self.written(token.0 as usize),
                    other => return Err(format!("{token:?}: {other:?}").into()),
                }
            }
        }
        Ok(())
    }

    fn piece(index: usize) -> Span {
        Span { start: index as u64 * u64::from(PIECE_BYTES), length: PIECE_BYTES }
    }

    fn receive(&mut self) {
        if self.filling.is_some() || self.receive_left_bytes == 0 {
            return;
        }
        let Some(index) = self.free.pop() else { return };
        self.filling = Some((index, 0));
        self.engine
            .submit(RECEIVE, Operation::Receive { socket: SOCKET, into: Self::piece(index), fill: true });
    }

    fn received(&mut self, count: u32) {
        let (index, filled) = self.filling.take().expect("a receive was in flight");
        let filled = filled + count;
        self.receive_left_bytes -= u64::from(count);
        if filled < PIECE_BYTES {
            self.filling = Some((index, filled));
            let into = Self::piece(index).after(filled);
            return self.engine.submit(RECEIVE, Operation::Receive { socket: SOCKET, into, fill: true });
        }
        if self.to_file {
            let write = Operation::Write { file: FILE, position: self.position, from: Self::piece(index) };
            self.engine.submit(Token(index as u64), write);
            self.position += u64::from(PIECE_BYTES);
        } else {
            self.written(index);
        }
        self.receive();
    }

    fn written(&mut self, index: usize) {
        self.write_left_bytes -= u64::from(PIECE_BYTES);
        self.free.push(index);
        self.receive();
    }
}
