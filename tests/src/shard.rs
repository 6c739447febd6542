//! A data shard without a control core: started, told what to do, listened to, ended.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twinlog_daemon::recovery::{RecoverRequest, recover_partition};
use twinlog_daemon::security::{ClientSecurity, ListenerSecurity};
use twinlog_daemon::shard::mailbox::{AddPartition, Command, Event};
use twinlog_daemon::shard::{FsyncPolicy, ShardHandle, ShardOptions, spawn};
use twinlog_daemon::store::StoreError;
use twinlog_io::{EngineOptions, EnginePreference, RealDisk};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::lane::LaneOptions;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::fetch_request::{IsolationLevel, Topic};

const BATCH_BYTES_MAX: u32 = 16 << 20;
/// Longer than any of this takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A shard with plaintext everywhere, small segments and short intervals.
pub fn options(journal: &Path) -> ShardOptions {
    let lane = LaneOptions {
        client_id: "twinlog-test".to_owned(),
        rack: String::new(),
        isolation_level: IsolationLevel::ReadCommitted,
        wait_max_ms: 100,
        bytes_min: 1,
        response_bytes_max: 16 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        request_timeout_ms: 1_500,
        backoff: twinlog_sync::backoff::BackoffLimits::default(),
    };
    ShardOptions {
        index: 0,
        lane: Arc::new(lane),
        source: ClientSecurity::plaintext(),
        destination: ClientSecurity::plaintext(),
        listener: ListenerSecurity::plaintext(),
        bytes_per_second: 0,
        partition_bytes_max: 4 << 20,
        segment_bytes: 64 << 20,
        batch_bytes_max: BATCH_BYTES_MAX,
        flush_ms: 50,
        flush_catch_up_ms: 500,
        flush_catch_up_bytes: 8 << 20,
        checkpoint_ms: 300,
        fsync: FsyncPolicy::Interval,
        direct_io: true,
        journal: journal.to_owned(),
        sockets_max: 16,
        files_max: 64,
        is_guest: false,
        spool_bytes: 0,
    }
}

/// Starts one with so little memory that lanes stall in the middle of their records. `changed` says what is
/// different.
pub fn start(journal: &Path, changed: impl FnOnce(&mut ShardOptions)) -> ShardHandle {
    let mut options = options(journal);
    changed(&mut options);
    let ShardOptions { sockets_max, files_max, .. } = options;
    let engine = EngineOptions { arena_bytes: 8 << 20, sockets_max, files_max, ..EngineOptions::default() };
    spawn(options, engine, EnginePreference::Auto, None).expect("an engine")
}

/// What the control core does for a partition: recovers its empty directory below `directory`, to be handed over.
///
/// # Errors
/// Of the store, when the directory cannot be made or read.
pub fn new_partition(directory: &Path, topic: &Arc<Topic>, index: i32) -> Result<AddPartition, StoreError> {
    let partition = TopicPartition::new(&topic.name, index).expect("a legal name");
    let directory = directory.join(partition.directory_name());
    let request = RecoverRequest {
        directory: directory.clone(),
        partition,
        topic_id: topic.id,
        checkpoint: None,
        start_offset: Offset::ZERO,
        followed: false,
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let recovered = recover_partition(&mut RealDisk, &request)?;
    let key = PartitionKey { topic: 0, index };
    Ok(AddPartition { key, topic: topic.clone(), directory, recovered, counters: Arc::default() })
}

/// The orders that give it to a shard, led by this broker in its first epoch.
pub fn hand_over(partition: AddPartition, broker: i32) -> [Command; 2] {
    let (key, leader) = (partition.key, Some(Leader { broker, epoch: LeaderEpoch(0) }));
    [Command::AddPartition(Box::new(partition)), Command::Leader { key, leader }]
}

pub fn send(shard: &ShardHandle, command: Command) {
    shard.commands.send(command).expect("the shard lives");
    shard.waker.wake();
}

/// Waits for an event that is wanted.
pub fn wait_for<T>(shard: &ShardHandle, wanted: impl Fn(Event) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = shard.events.recv_timeout(left).expect("the event comes in time");
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

pub fn end(shard: ShardHandle) {
    send(&shard, Command::Drain);
    wait_for(&shard, |event| matches!(event, Event::Drained).then_some(()));
    shard.thread.join().expect("no panic").expect("no failure");
}
