//! A sender of as many bytes as it is asked for: the same piece again and again.
//!
//! Owns what is sent. Must never be what limits a runtime: it copies one piece that stays in the cache.

use crate::pin;
use crate::task::{PIECE_BYTES, checksum};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

/// No two words of it are the same, so that none can stand in for another.
fn content() -> Vec<u8> {
    let words = (0..PIECE_BYTES as u32 / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes());
    words.collect()
}

/// Serves on a core for as long as the process lives; the address, and a piece's checksum.
pub fn start(core: usize) -> io::Result<(SocketAddr, u32)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let content = content();
    let checksum = checksum(&content) as u32;
    thread::spawn(move || {
        if let Err(error) = pin(core) {
            eprintln!("the sender is on any core: {error}");
        }
        for stream in listener.incoming().flatten() {
            if let Err(error) = send(stream, &content) {
                eprintln!("the sender stopped: {error}");
            }
        }
    });
    Ok((address, checksum))
}

/// A request is the number of bytes.
fn send(mut stream: TcpStream, content: &[u8]) -> io::Result<()> {
    let mut request = [0; 8];
    stream.read_exact(&mut request)?;
    for _ in 0..u64::from_be_bytes(request) / PIECE_BYTES as u64 {
        stream.write_all(content)?;
    }
    Ok(())
}

/// What asks for so many bytes.
pub fn request(bytes: u64) -> [u8; 8] {
    bytes.to_be_bytes()
}

/// Asks for bytes.
pub fn connect(address: SocketAddr, bytes: u64) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&request(bytes))?;
    Ok(stream)
}

/// Whether a file is so many pieces and nothing else.
pub fn is_what_was_sent(path: &Path, pieces: u64) -> io::Result<bool> {
    let content = content();
    let mut file = File::open(path)?;
    let mut found = vec![0; PIECE_BYTES];
    for _ in 0..pieces {
        if file.read_exact(&mut found).is_err() || found != content {
            return Ok(false);
        }
    }
    Ok(file.read(&mut found)? == 0)
}
