//! The in-memory cluster over TCP: a listener per broker, a thread per connection, blocking sockets.
//!
//! ```text
//!   accept thread per broker ─▶ connection thread: read a frame ─▶ lock, handle ─┬▶ writev the chunks
//!                                       ▲                                        │
//!                                       └── wait on the condition until changed ◀┘ (long poll)
//! ```
//! Answers are sent without the lock and without copying a record: the cost per byte is the kernel's own.
//! Only the machine itself can connect. Must never decide anything: that is `broker`.

use super::broker::{Cluster, Health, Reply};
use bytes::Bytes;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use twinlog_sync::Nanoseconds;

/// A longer request is none of ours: a full fetch of 10,000 partitions has about half a MiB.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Pieces that one `writev` takes; the kernel refuses more (IOV_MAX).
const SLICES_MAX: usize = 1_024;

/// Why the embedded source does not start.
#[derive(Debug)]
pub enum ServerError {
    Listen { broker: i32, error: io::Error },
    Thread { broker: i32, error: io::Error },
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Listen { broker, error } => write!(
                f,
                "embedded broker {broker} cannot listen on 127.0.0.1: {error}; is the loopback interface up?"
            ),
            ServerError::Thread { broker, error } => {
                write!(f, "no thread for embedded broker {broker}: {error}; raise the limit of processes")
            }
        }
    }
}

impl std::error::Error for ServerError {}

struct Shared {
    cluster: Mutex<Cluster>,
    changed: Condvar,
    stopping: AtomicBool,
    started: Instant,
    /// Open connections, so that stopping can end their reads.
    connections: Mutex<BTreeMap<u64, TcpStream>>,
    accepted: AtomicU64,
    sent_bytes: AtomicU64,
    /// `None`: plaintext.
    tls: Option<Arc<ServerConfig>>,
}

impl Shared {
    fn now(&self) -> Nanoseconds {
        self.started.elapsed().as_nanos() as Nanoseconds
    }

    /// A panic of one connection must not take the others with it.
    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// A running cluster. Dropping it stops it.
pub struct EmbeddedSource {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    listeners: Vec<JoinHandle<()>>,
}

impl EmbeddedSource {
    /// Listens on a free port of 127.0.0.1 for each broker of the cluster.
    pub fn start(cluster: Cluster) -> Result<EmbeddedSource, ServerError> {
        Self::start_with(cluster, None)
    }

    /// The same with TLS on every listener.
    pub fn start_secure(cluster: Cluster, tls: Arc<ServerConfig>) -> Result<EmbeddedSource, ServerError> {
        Self::start_with(cluster, Some(tls))
    }

    fn start_with(
        mut cluster: Cluster,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<EmbeddedSource, ServerError> {
        let mut sockets = Vec::new();
        for broker in cluster.broker_ids() {
            let failed = |error| ServerError::Listen { broker, error };
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            cluster.set_address(broker, "127.0.0.1", address.port());
            sockets.push((broker, address, socket));
        }
        let shared = Arc::new(Shared {
            cluster: Mutex::new(cluster),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            connections: Mutex::new(BTreeMap::new()),
            accepted: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            tls,
        });
        let mut source = EmbeddedSource { shared, addresses: Vec::new(), listeners: Vec::new() };
        for (broker, address, socket) in sockets {
            let shared = source.shared.clone();
            let spawned = thread::Builder::new()
                .name(format!("source-{broker}"))
                .spawn(move || accept(&shared, broker, &socket));
            source.addresses.push(address);
            source.listeners.push(spawned.map_err(|error| ServerError::Thread { broker, error })?);
        }
        Ok(source)
    }

    /// All brokers as HOST:PORT, separated by commas.
    pub fn bootstrap(&self) -> String {
        let texts: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        texts.join(",")
    }

    /// Looks at the cluster or changes it; waiting fetches are woken by what changed.
    pub fn with_cluster<T>(&self, action: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = self.shared.lock();
        let before = cluster.changes();
        let result = action(&mut cluster);
        let changed = cluster.changes() != before;
        drop(cluster);
        if changed {
            self.shared.changed.notify_all();
        }
        result
    }

    /// Bytes of all answers so far, of one that is being sent in full.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }

    /// Ends all connections and waits for the threads.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Under the lock, so that no connection is between its look at the flag and its wait.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        for stream in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // A peer that is gone already is as good as shut down.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for address in &self.addresses {
            // Wakes the accept; refused means that it has ended.
            drop(TcpStream::connect(address));
        }
        for listener in self.listeners.drain(..) {
            let _ = listener.join();
        }
    }
}

impl Drop for EmbeddedSource {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Takes connections until the source stops, then waits for them.
fn accept(shared: &Arc<Shared>, broker: i32, socket: &TcpListener) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !shared.is_stopping() {
        let Ok((stream, _)) = socket.accept() else { continue };
        if shared.is_stopping() || shared.lock().health(broker) == Health::Down {
            continue;
        }
        threads.retain(|thread| !thread.is_finished());
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(clone) = stream.try_clone() else { continue };
        shared.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, clone);
        let of_thread = shared.clone();
        let spawned = thread::Builder::new().name(format!("source-{broker}-{number}")).spawn(move || {
            // An error here is the peer's going away; it has nobody to tell.
            let _ = serve_connection(&of_thread, broker, &stream);
            let _ = stream.shutdown(Shutdown::Both);
            of_thread.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(_) => {
                shared.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            }
        }
    }
    for stream in shared.connections.lock().unwrap_or_else(PoisonError::into_inner).values() {
        // One that was accepted while the others were shut down.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve_connection(shared: &Shared, broker: i32, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match &shared.tls {
        None => serve(shared, broker, stream),
        Some(config) => {
            let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            serve(shared, broker, StreamOwned::new(connection, stream))
        }
    }
}

/// One connection: requests in order, each answered before the next is read, as a broker does.
fn serve<S: Read + Write>(shared: &Shared, broker: i32, stream: S) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; length];
        reader.read_exact(&mut frame)?;
        match reply(shared, broker, Bytes::from(frame)) {
            Reply::Now(chunks) => {
                // Counted first: a reader that has the answer finds it in the count.
                let bytes: usize = chunks.iter().map(Bytes::len).sum();
                shared.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                send(reader.get_mut(), &chunks)?;
            }
            Reply::Silence => {}
            Reply::Wait(_) | Reply::Close(_) => return Ok(()),
        }
    }
}

/// Answers a request, waiting for data where it asks for that. A `Wait` comes back only while stopping.
fn reply(shared: &Shared, broker: i32, frame: Bytes) -> Reply {
    let mut cluster = shared.lock();
    let mut reply = cluster.handle(broker, shared.now(), frame);
    loop {
        let Reply::Wait(pending) = reply else { return reply };
        if shared.is_stopping() {
            return Reply::Wait(pending);
        }
        let left = Duration::from_nanos(pending.until().saturating_sub(shared.now()));
        let seen = cluster.changes();
        let unchanged = |cluster: &mut Cluster| cluster.changes() == seen && !shared.is_stopping();
        let waited = shared.changed.wait_timeout_while(cluster, left, unchanged);
        cluster = waited.unwrap_or_else(PoisonError::into_inner).0;
        reply = cluster.resume(shared.now(), pending);
    }
}

/// Sends all chunks in order, gathered by the kernel from where they lie.
fn send<S: Write>(stream: &mut S, chunks: &[Bytes]) -> io::Result<()> {
    for group in chunks.chunks(SLICES_MAX) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match stream.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    // TLS keeps the last records back until it is told to.
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::batch_text::BatchText;
    use crate::embedded::test_peer::{Answer, Peer, asked};
    use crate::embedded::topics::TopicOptions;
    use twinlog_sync::wire::fetch_request::FetchPartition;

    fn source() -> EmbeddedSource {
        let mut cluster = Cluster::new(2);
        cluster.create_topic("t", TopicOptions { partitions: 2, ..TopicOptions::default() });
        EmbeddedSource::start(cluster).unwrap()
    }

    fn batch(value_bytes: usize) -> Vec<u8> {
        BatchText::at(0).values(3, value_bytes).build()
    }

    fn connect(source: &EmbeddedSource, broker: usize) -> TcpStream {
        TcpStream::connect(source.bootstrap().split(',').nth(broker).unwrap()).unwrap()
    }

    fn read_frame(mut stream: &TcpStream) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        stream.read_exact(&mut bytes).unwrap();
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        bytes.resize(4 + length, 0);
        stream.read_exact(&mut bytes[4..]).unwrap();
        bytes
    }

    fn fetch(mut stream: &TcpStream, peer: &mut Peer, partitions: &[FetchPartition]) -> Answer {
        stream.write_all(&peer.frame(partitions, &[])).unwrap();
        peer.decode_bytes(&read_frame(stream))
    }

    #[test]
    fn a_plain_client_reads_what_was_appended() {
        let source = source();
        for value_bytes in [10, 100_000, 1_000_000] {
            source.with_cluster(|cluster| cluster.append("t", 0, batch(value_bytes)));
        }
        let (position, expected) = source.with_cluster(|cluster| {
            let log = cluster.partition("t", 0).unwrap();
            let all: Vec<_> = log.batches_from(log.log_start_offset()).collect();
            (asked(cluster, "t", 0, 0), all.concat())
        });
        let stream = connect(&source, 0);
        let mut peer = Peer::new(17);
        peer.bytes_max = 64 << 20;
        let mut position = position;
        position.position.bytes_max = 64 << 20;
        for _ in 0..3 {
            assert_eq!(fetch(&stream, &mut peer, std::slice::from_ref(&position)).only().records, expected);
        }
        assert!(source.sent_bytes() > 3 * expected.len() as u64);
        source.stop();
        // The connection ends with the source.
        assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0);
    }

    #[test]
    fn a_long_poll_over_tcp_ends_with_the_append() {
        let source = source();
        let position = source.with_cluster(|cluster| asked(cluster, "t", 1, 0));
        let stream = connect(&source, 1);
        let mut peer = Peer::new(17);
        // Only the append can end this wait within the life of the test.
        peer.wait_max_ms = 600_000;
        (&stream).write_all(&peer.frame(&[position], &[])).unwrap();
        source.with_cluster(|cluster| cluster.append("t", 1, batch(10)));
        assert_eq!(peer.decode_bytes(&read_frame(&stream)).only().records.len(), batch(10).len());
    }

    #[test]
    fn stopping_ends_connections_that_wait() {
        let source = source();
        let position = source.with_cluster(|cluster| asked(cluster, "t", 0, 0));
        let stream = connect(&source, 0);
        let mut peer = Peer::new(17);
        peer.wait_max_ms = 600_000;
        (&stream).write_all(&peer.frame(&[position], &[])).unwrap();
        source.stop();
        assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0);
    }

    #[test]
    fn a_broker_that_is_down_closes_its_connections() {
        let source = source();
        let position = source.with_cluster(|cluster| asked(cluster, "t", 0, 0));
        let stream = connect(&source, 0);
        let mut peer = Peer::new(17);
        fetch(&stream, &mut peer, std::slice::from_ref(&position));
        source.with_cluster(|cluster| cluster.set_health(1, Health::Down));
        (&stream).write_all(&peer.frame(&[position], &[])).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0);
        let refused = connect(&source, 0);
        assert_eq!((&refused).read(&mut [0]).unwrap_or(0), 0);
    }
}
