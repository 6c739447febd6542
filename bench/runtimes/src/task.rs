//! What every runtime is given: where the bytes come from, and a file of their length.
//!
//! Owns the sizes of the loop. Must never differ between runtimes.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Received, checksummed and written at a time.
pub const PIECE_BYTES: usize = 1 << 20;
/// Writes under way; one more piece is received into meanwhile.
pub const WRITES: usize = 8;
/// Direct writes begin at a multiple of it, in memory too.
const ALIGNMENT: usize = 4_096;

/// See the file's header.
pub struct Task {
    pub sender: SocketAddr,
    pub bytes: u64,
    pub path: PathBuf,
}

impl Task {
    /// Makes the file and all of its blocks.
    pub fn prepare(sender: SocketAddr, bytes: u64, path: PathBuf) -> io::Result<Task> {
        let file = File::create(&path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(Task { sender, bytes, path })
    }

    pub fn pieces(&self) -> u64 {
        self.bytes / PIECE_BYTES as u64
    }

    /// The file, for direct writes.
    pub fn open(&self) -> io::Result<File> {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        OpenOptions::new().write(true).custom_flags(direct).open(&self.path)
    }
}

/// Memory for a piece with some to spare, and where in it an aligned piece begins.
pub fn piece() -> (Vec<u8>, usize) {
    let memory = vec![0; PIECE_BYTES + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    (memory, start)
}

/// As the product computes it.
pub fn checksum(piece: &[u8]) -> u64 {
    u64::from(crc_fast::crc32_iscsi(piece))
}

/// Of this process with all of its threads, those of the kernel for it too.
pub fn cpu_seconds() -> io::Result<f64> {
    let times = std::fs::read_to_string("/proc/self/stat")?;
    let fields = times.rsplit(')').next().unwrap_or_default().split_whitespace();
    // The 14th and 15th field of the line, in hundredths of a second; two stand before the bracket.
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok((user + system) / 100.0),
        _ => Err(io::Error::other("/proc/self/stat is not as it was")),
    }
}
