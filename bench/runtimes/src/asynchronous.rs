//! Runtimes that take a buffer by value and give it back: compio, monoio, tokio-uring.
//!
//! One task receives; each write is a task of its own, and its handle gives the buffer back. Buffers are slices of
//! vectors, so that they begin where direct writes must.

use crate::sender;
use crate::task::{self, PIECE_BYTES, Task, WRITES};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

type Memory = (Vec<u8>, usize);

fn memory() -> Vec<Memory> {
    (0..=WRITES).map(|_| task::piece()).collect()
}

pub fn compio(task: &Task) -> io::Result<u64> {
    use compio::buf::{BufResult, IntoInner, IoBuf};
    use compio::io::{AsyncReadExt, AsyncWriteAtExt};
    compio::runtime::Runtime::new()?.block_on(async {
        let mut stream = compio::net::TcpStream::from_std(sender::connect(task.sender, task.bytes)?)?;
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = compio::fs::OpenOptions::new().write(true).custom_flags(direct).open(&task.path).await?;
        let (mut free, mut writes, mut checksums) = (memory(), VecDeque::new(), 0);
        for index in 0..task.pieces() {
            if free.is_empty() {
                let write: compio::runtime::JoinHandle<io::Result<Memory>> =
                    writes.pop_front().expect("whatever is not free is being written");
                free.push(write.await.map_err(|_| io::Error::other("a task is gone"))??);
            }
            let (piece, start) = free.pop().expect("one was just added");
            let BufResult(read, piece) = stream.read_exact(piece.slice(start..start + PIECE_BYTES)).await;
            read?;
            checksums += task::checksum(&piece);
            let file = file.clone();
            writes.push_back(compio::runtime::spawn(async move {
                let BufResult(written, piece) = (&file).write_all_at(piece, index * PIECE_BYTES as u64).await;
                written.map(|()| (piece.into_inner(), start))
            }));
        }
        for write in writes {
            write.await.map_err(|_| io::Error::other("a task is gone"))??;
        }
        file.sync_data().await?;
        Ok(checksums)
    })
}

pub fn monoio(task: &Task) -> io::Result<u64> {
    use monoio::buf::{IoBuf, IoBufMut};
    use monoio::io::AsyncReadRentExt;
    let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new();
    builder.build()?.block_on(async {
        let mut stream = monoio::net::TcpStream::from_std(sender::connect(task.sender, task.bytes)?)?;
        let file = Rc::new(monoio::fs::File::from_std(task.open()?)?);
        let (mut free, mut writes, mut checksums) = (memory(), VecDeque::new(), 0);
        for index in 0..task.pieces() {
            if free.is_empty() {
                let write: monoio::task::JoinHandle<io::Result<Memory>> =
                    writes.pop_front().expect("whatever is not free is being written");
                free.push(write.await?);
            }
            let (piece, start) = free.pop().expect("one was just added");
            let end = start + PIECE_BYTES;
            let (read, piece) = stream.read_exact(piece.slice_mut(start..end)).await;
            read?;
            let piece = piece.into_inner();
            checksums += task::checksum(&piece[start..end]);
            let file = file.clone();
            writes.push_back(monoio::spawn(async move {
                let piece = piece.slice(start..end);
                let (written, piece) = file.write_all_at(piece, index * PIECE_BYTES as u64).await;
                written.map(|()| (piece.into_inner(), start))
            }));
        }
        for write in writes {
            write.await?;
        }
        file.sync_data().await?;
        Ok(checksums)
    })
}

pub fn tokio_uring(task: &Task) -> io::Result<u64> {
    use tokio_uring::buf::BoundedBuf;
    tokio_uring::start(async {
        let stream = tokio_uring::net::TcpStream::from_std(sender::connect(task.sender, task.bytes)?);
        let file = Rc::new(tokio_uring::fs::File::from_std(task.open()?));
        let (mut free, mut writes, mut checksums) = (memory(), VecDeque::new(), 0);
        for index in 0..task.pieces() {
            if free.is_empty() {
                let write: tokio::task::JoinHandle<io::Result<Memory>> =
                    writes.pop_front().expect("whatever is not free is being written");
                free.push(write.await.map_err(io::Error::other)??);
            }
            let (mut piece, start) = free.pop().expect("one was just added");
            let end = start + PIECE_BYTES;
            let mut filled = start;
            while filled < end {
                let (read, rest) = stream.read(piece.slice(filled..end)).await;
                piece = rest.into_inner();
                filled += match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => count,
                };
            }
            checksums += task::checksum(&piece[start..end]);
            let file = file.clone();
            writes.push_back(tokio_uring::spawn(async move {
                let (written, piece) =
                    file.write_all_at(piece.slice(start..end), index * PIECE_BYTES as u64).await;
                written.map(|()| (piece.into_inner(), start))
            }));
        }
        for write in writes {
            write.await.map_err(io::Error::other)??;
        }
        file.sync_data().await?;
        Ok(checksums)
    })
}
