//! The floor beside brokers: the files of the source's broker, sent as a broker sends them, and nothing of Kafka.
//!
//! ```text
//!   source's log files ─▶ sendfile (core 0) ─▶ floor.rs: receive, CRC-32C, O_DIRECT write (core 1) ─▶ one file
//!                                                                     └─ for a guest: send ─▶ sink (core 0)
//! ```
//! Bytes that sendfile hands over lie in the page cache and in nobody's processor cache: receiving them costs two to
//! three times what bytes cost that the sender has just touched, so the floor of the memory-only source does not apply.

use crate::children::Cores;
use crate::compare::copiers::Run;
use crate::compare::process_tree::Used;
use crate::error::BenchError;
use crate::floor;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use twinlog_io::pin_current_thread;

const ROLE: &str = "floor";
/// Read at a time, by a sink and when files are compared.
const PIECE_BYTES: usize = 1 << 20;

/// One run with these files of so many bytes; the copy is checked. `own`: where the floor runs; `beside`: the others.
pub fn run(
    own: usize,
    beside: usize,
    files: &[PathBuf],
    bytes: u64,
    directory: &Path,
    with_sink: bool,
) -> Result<Run, BenchError> {
    let failed = |error| BenchError::Role { role: ROLE, error };
    let copy = directory.join(ROLE);
    let sent = files.to_vec();
    let sender = serve(beside, move |stream| send(stream, &sent)).map_err(failed)?;
    let sink = if with_sink { vec![serve(beside, discard).map_err(failed)?] } else { Vec::new() };
    let run = floor::run(Cores { control: own, data: own }, &sender, bytes, &copy, &sink)?;
    let used = Used {
        seconds: run.seconds,
        cpu_seconds: run.cpu_seconds(),
        first_seconds: run.seconds - run.stream_seconds,
        ..Used::default()
    };
    let is_right = is_copy(files, &copy).map_err(failed)?;
    let wrong = (!is_right).then(|| "its file is not what was sent".to_owned());
    Ok(Run { used, wrong, ..Run::default() })
}

/// Serves one connection on a core; the address.
fn serve(core: usize, work: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        // A refused pin shows in the figures; an error is the floor's going away, which it tells itself.
        let _ = pin_current_thread(&[core]);
        let _ = listener.accept().and_then(|(stream, _)| work(stream));
    });
    Ok(address.to_string())
}

/// As many bytes as are asked for, of these files one after another, round and round.
fn send(mut stream: TcpStream, files: &[PathBuf]) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let mut left = u64::from_be_bytes(wanted);
    for file in files.iter().cycle() {
        // From a file to a socket this is sendfile.
        left -= io::copy(&mut File::open(file)?.take(left), &mut stream)?;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

fn discard(mut stream: TcpStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    while stream.read(&mut piece)? > 0 {}
    Ok(())
}

/// Whether a file begins with these one after another.
fn is_copy(files: &[PathBuf], copy: &Path) -> io::Result<bool> {
    let mut copy = File::open(copy)?;
    let (mut expected, mut found) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    for file in files {
        let mut file = File::open(file)?;
        loop {
            let count = file.read(&mut expected)?;
            if count == 0 {
                break;
            }
            if copy.read_exact(&mut found[..count]).is_err() || found[..count] != expected[..count] {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_are_sent_round_and_round_and_a_copy_is_told_from_another() {
        let directory = std::env::temp_dir().join(format!("twinlog-floor-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let files = [directory.join("a"), directory.join("b")];
        std::fs::write(&files[0], b"01234").unwrap();
        std::fs::write(&files[1], b"567").unwrap();
        let sent = files.to_vec();
        let address = serve(0, move |stream| send(stream, &sent)).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&10_u64.to_be_bytes()).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"0123456701");
        let copy = directory.join("copy");
        std::fs::write(&copy, &received).unwrap();
        assert!(is_copy(&files, &copy).unwrap());
        std::fs::write(&copy, b"0123x567").unwrap();
        assert!(!is_copy(&files, &copy).unwrap());
        std::fs::write(&copy, b"0123456").unwrap();
        assert!(!is_copy(&files, &copy).unwrap());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
