//! A follower whose every byte the test chooses: what no broker would send to a guest.
//!
//! Owns one connection to the guest's listener. Nothing here reads an answer for its meaning: whether it comes, and
//! whether the connection is closed, is what a test asks.

use crate::poll;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;
use twinlog_sync::wire::{API_KEY_FETCH, Writer};

/// Longest wait for one piece; polled, so that a wait ends soon after what it waits for.
const PIECE: Duration = Duration::from_millis(200);
const FETCH_VERSION: i16 = 17;

/// What a Fetch says of one partition of one topic.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub topic_id: [u8; 16],
    pub partition: i32,
    pub broker: i32,
    pub broker_epoch: i64,
    pub leader_epoch: i32,
    pub fetch_offset: i64,
}

impl Asking {
    /// The whole frame, its length included.
    pub fn frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::start(&mut out);
        writer.request_header(API_KEY_FETCH, FETCH_VERSION, 7, "raw-follower", true);
        // Answered at once, with as much as a broker would take.
        [0, 1, 10 << 20].into_iter().for_each(|number| writer.i32(number));
        writer.i8(0);
        // No session yet, none wanted.
        [0, -1].into_iter().for_each(|number| writer.i32(number));
        writer.array_length(true, 1);
        writer.raw(&self.topic_id);
        writer.array_length(true, 1);
        writer.i32(self.partition);
        writer.i32(self.leader_epoch);
        writer.i64(self.fetch_offset);
        writer.i32(-1);
        writer.i64(0);
        writer.i32(1 << 20);
        writer.no_tags(true);
        writer.no_tags(true);
        writer.array_length(true, 0);
        writer.string(true, "");
        // One tag: the replica's id and epoch.
        writer.raw(&[1, 1, 13]);
        writer.i32(self.broker);
        writer.i64(self.broker_epoch);
        writer.no_tags(true);
        writer.finish();
        out
    }
}

/// A topic's id from its text form: 22 characters of the URL-safe alphabet.
pub fn topic_id(text: &str) -> [u8; 16] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |byte: u8| ALPHABET.iter().position(|each| *each == byte).expect("a topic id") as u128;
    let (last, first) = text.as_bytes().split_last().expect("a topic id has 22 characters");
    let high = first.iter().fold(0, |bits, byte| bits << 6 | digit(*byte));
    (high << 2 | digit(*last) >> 4).to_be_bytes()
}

/// A connection from another address of this machine.
pub fn stream_from(address: IpAddr, listener: SocketAddr) -> Option<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let stream = runtime.expect("a runtime can be built").block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(address, 0)).expect("the address is this machine's");
        Some(socket.connect(listener).await.ok()?.into_std().expect("a socket"))
    })?;
    stream.set_nonblocking(false).expect("a socket can wait");
    Some(stream)
}

/// See the file's header.
#[derive(Debug)]
pub struct RawFollower {
    stream: TcpStream,
}

impl RawFollower {
    pub fn connect(listener: &str) -> Self {
        Self::over(TcpStream::connect(listener).expect("the guest listens"))
    }

    /// From another address of this machine.
    pub fn connect_from(address: IpAddr, listener: &str) -> Self {
        let stream = stream_from(address, listener.parse().expect("an address"));
        Self::over(stream.expect("the guest listens"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PIECE)).expect("a limit can be set");
        stream.set_write_timeout(Some(PIECE)).expect("a limit can be set");
        Self { stream }
    }

    /// Sends all of it; false when the guest has closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends it again and again and reads nothing, until no more is taken; how many bytes were.
    pub fn flood(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Ok(taken @ 1..) = self.stream.write(&bytes[sent % bytes.len()..]) {
            sent += taken;
        }
        sent
    }

    /// The next answer whole, its length left out; `None` when the guest closes instead.
    pub fn answer(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_be_bytes(self.read_whole(4)?.try_into().expect("four bytes"));
        self.read_whole(length as usize)
    }

    fn read_whole(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut read = 0;
        let came = poll::poll_for("the guest answers or closes", || {
            while read < length {
                match self.stream.read(&mut bytes[read..]) {
                    Ok(0) => return Some(false),
                    Ok(more) => read += more,
                    Err(error) if is_a_wait(error.kind()) => return None,
                    Err(_) => return Some(false),
                }
            }
            Some(true)
        });
        came.then_some(bytes)
    }

    /// Reads what is left until the guest has closed.
    pub fn poll_until_closed(&mut self) {
        let mut rest = [0; 65_536];
        poll::poll_until("the guest closes the connection", || match self.stream.read(&mut rest) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !is_a_wait(error.kind()),
        });
    }
}

fn is_a_wait(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_sync::wire::follower_request::{Request, read_request};

    #[test]
    fn a_fetch_is_read_as_it_was_meant() {
        let asking = Asking {
            topic_id: [7; 16],
            partition: 3,
            broker: 2,
            broker_epoch: 40,
            leader_epoch: 5,
            fetch_offset: 60,
        };
        let frame = asking.frame();
        let Ok(Request::Fetch(fetch)) = read_request(&frame[4..]) else { panic!("it is no Fetch") };
        assert_eq!((fetch.replica_id, fetch.replica_epoch), (2, 40));
    }

    #[test]
    fn the_text_of_a_topic_id_gives_its_bytes() {
        assert_eq!(topic_id("AAAAAAAAAAAAAAAAAAAAAQ"), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(topic_id("_____________________w"), [0xff; 16]);
    }
}
