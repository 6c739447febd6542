//! glommio, which brings buffers of its own for direct files and reads sockets into borrowed memory.

use crate::sender;
use crate::task::{self, PIECE_BYTES, Task, WRITES};
use futures_lite::AsyncReadExt;
use futures_lite::AsyncWriteExt;
use glommio::io::OpenOptions;
use glommio::net::TcpStream;
use glommio::{LocalExecutorBuilder, Placement};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

pub fn glommio(task: &Task) -> io::Result<u64> {
    let (address, bytes, path) = (task.sender, task.bytes, task.path.clone());
    let executor = LocalExecutorBuilder::new(Placement::Fixed(1)).spawn(move || async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&sender::request(bytes)).await?;
        let file = Rc::new(OpenOptions::new().write(true).dma_open(&path).await?);
        let (mut writes, mut checksums) = (VecDeque::new(), 0);
        for index in 0..bytes / PIECE_BYTES as u64 {
            if writes.len() == WRITES {
                let write: glommio::Task<io::Result<()>> = writes.pop_front().expect("there are some");
                write.await?;
            }
            let mut piece = file.alloc_dma_buffer(PIECE_BYTES);
            stream.read_exact(piece.as_bytes_mut()).await?;
            checksums += task::checksum(piece.as_bytes());
            let file = file.clone();
            writes.push_back(glommio::spawn_local(async move {
                let written = file.write_at(piece, index * PIECE_BYTES as u64).await?;
                if written == PIECE_BYTES { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
            }));
        }
        for write in writes {
            write.await?;
        }
        file.fdatasync().await?;
        Ok(checksums)
    });
    let told = |error: glommio::GlommioError<()>| io::Error::other(error.to_string());
    executor.map_err(told)?.join().map_err(told)?
}
