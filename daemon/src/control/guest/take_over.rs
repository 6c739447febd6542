//! What the followers of a mirror partition hold, asked of them and of the source, for a store that is empty.
//!
//! ```text
//!   ListOffsets at each follower --> joint --> the batches before it compared --> epochs --> open transactions
//! ```
//! Nothing is changed anywhere; what comes out is the checkpoint with which the partition is opened. Followers
//! answer all of this while nobody leads (executed on 4.3.1).
//! ref: KIP-392 (reading from followers), KIP-664 (producers)

use super::wire_form::wire_text;
use crate::control::source_client::{ClientError, Reading, SourceClient};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, DescribeProducersRequest, ListOffsetsRequest, TopicName};
use std::fmt;
use twinlog_log_segment::batch::{BATCH_HEADER_BYTES, BatchHeader, LEADER_EPOCH_AT};
use twinlog_log_segment::checkpoint::PartitionCheckpoint;
use twinlog_log_segment::epoch::{EpochError, EpochHistory};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::transaction::OpenTransactions;
use twinlog_sync::guest::take_over::{Copy, EpochSearch, Joint, Probe, TakeOverRefusal, joint};
use twinlog_sync::partition::Leader;

/// Who asks ListOffsets for what a replica itself has, whoever leads.
const DEBUGGING_CONSUMER: i32 = -2;
/// Who reads beyond a follower's high watermark: it fell when its leader went.
const FUTURE_REPLICA: i32 = -3;
/// Kafka's special timestamps.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// Questions about one log's epochs: some hundred changes of the leader. Raised, one strange log is asked about
/// for longer before its partition is stopped.
const PROBES_MAX: usize = 16_384;

/// One partition whose store is empty.
#[derive(Clone, Debug)]
pub struct TakeOver {
    pub partition: TopicPartition,
    pub source_topic_id: TopicId,
    /// Live stock replicas that stay.
    pub replicas: Vec<i32>,
    pub durable_replicas: u32,
    pub source_leader: Leader,
    /// Where the source's log starts and ends.
    pub source_log: (Offset, Offset),
    pub batch_bytes_max: u32,
}

/// Where the store begins.
#[derive(Clone, Debug)]
pub struct TakenOver {
    pub checkpoint: PartitionCheckpoint,
    pub joint: Joint,
}

/// Why it cannot be told. All but a refusal may pass by itself.
#[derive(Debug)]
pub enum TakeOverError {
    Client(ClientError),
    /// A follower's error code about the partition.
    Follower {
        broker: i32,
        code: i16,
    },
    /// Where a batch must be there is none, or none that can be read.
    NoBatch {
        broker: i32,
        offset: Offset,
    },
    NoFollower,
    Epochs(EpochError),
    TooManyEpochs,
    TooManyTransactions,
    Refused(TakeOverRefusal),
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::Follower { broker, code } => {
                write!(
                    f,
                    "broker {broker} of the destination does not tell what it holds (error code {code})"
                )
            }
            Self::NoBatch { broker, offset } => {
                write!(f, "broker {broker} shows no batch at offset {offset}, where it must have one")
            }
            Self::NoFollower => write!(f, "none of its replicas at the destination is alive to be asked"),
            Self::Epochs(error) => write!(f, "the leader epochs of the destination's log: {error}"),
            Self::TooManyEpochs => {
                write!(f, "the leader epochs of the destination's log need more than {PROBES_MAX} questions")
            }
            Self::TooManyTransactions => write!(f, "more transactions are open in it than are tracked"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl From<ClientError> for TakeOverError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<EpochError> for TakeOverError {
    fn from(error: EpochError) -> Self {
        Self::Epochs(error)
    }
}

impl TakeOver {
    /// Asks everybody. `None`: the followers hold nothing.
    pub async fn ask(
        &self,
        destination: &SourceClient,
        source: &SourceClient,
    ) -> Result<Option<TakenOver>, TakeOverError> {
        if self.replicas.is_empty() {
            return Err(TakeOverError::NoFollower);
        }
        destination.metadata(Some(&[])).await?;
        let mut copies = Vec::new();
        for broker in &self.replicas {
            let start = self.edge(destination, *broker, EARLIEST).await?;
            let end = self.edge(destination, *broker, LATEST).await?;
            copies.push(Copy { broker: *broker, start, end });
        }
        let found = joint(&copies, self.source_log, self.durable_replicas).map_err(TakeOverError::Refused)?;
        let Some(joint) = found else { return Ok(None) };
        let (source_start, _) = self.source_log;
        let mut source_epoch = None;
        for copy in joint.witness.iter().chain([&joint.farthest]).filter(|copy| copy.end > source_start) {
            let at_end = self.compare(destination, source, *copy).await?;
            source_epoch = source_epoch.or(at_end);
        }
        let mut checkpoint =
            PartitionCheckpoint::empty(self.partition.clone(), self.source_topic_id, joint.at);
        checkpoint.log_start = source_start.min(joint.at);
        checkpoint.stamp_epochs = self.stamps(destination, &joint, checkpoint.log_start).await?;
        if let Some((epoch, base)) = source_epoch.filter(|_| joint.witness.is_some()) {
            checkpoint.source_epochs.record(epoch, base.max(checkpoint.log_start))?;
        }
        if let Some(witness) = joint.witness {
            checkpoint.open_transactions = self.open_transactions(destination, witness).await?;
        }
        Ok(Some(TakenOver { checkpoint, joint }))
    }

    fn topic(&self) -> TopicName {
        TopicName(wire_text(self.partition.topic()))
    }

    /// What a replica itself says of its log.
    async fn edge(&self, client: &SourceClient, broker: i32, edge: i64) -> Result<Offset, TakeOverError> {
        let request = |_| {
            let query = ListOffsetsPartition::default()
                .with_partition_index(self.partition.partition())
                .with_current_leader_epoch(-1)
                .with_timestamp(edge);
            let topic = ListOffsetsTopic::default().with_name(self.topic()).with_partitions(vec![query]);
            ListOffsetsRequest::default()
                .with_replica_id(BrokerId(DEBUGGING_CONSUMER))
                .with_topics(vec![topic])
        };
        let answer = client.ask_broker(broker, request).await?;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let code = found.map_or(-1, |found| found.error_code);
        let offset = found.filter(|_| code == 0).and_then(|found| Offset::new(found.offset));
        offset.ok_or(TakeOverError::Follower { broker, code })
    }

    /// The first batch of a log that ends at or behind `offset`, with its bytes.
    async fn batch(
        &self,
        client: &SourceClient,
        reader: Leader,
        replica_id: i32,
        offset: Offset,
    ) -> Result<Option<(BatchHeader, Vec<u8>)>, ClientError> {
        let reading = Reading { replica_id, bytes_max: 1 };
        let bytes = client.read_as(reading, reader, &self.partition, offset).await?;
        let header = bytes.first_chunk::<BATCH_HEADER_BYTES>();
        let header = header.and_then(|header| BatchHeader::parse(header, self.batch_bytes_max).ok());
        Ok(header.and_then(|header| {
            let whole = bytes.get(..header.total_bytes() as usize)?;
            Some((header, whole.to_vec()))
        }))
    }

    /// The same at a follower, beyond its high watermark too.
    async fn held_batch(
        &self,
        client: &SourceClient,
        broker: i32,
        offset: Offset,
    ) -> Result<(BatchHeader, Vec<u8>), TakeOverError> {
        let reader = Leader { broker, epoch: LeaderEpoch::UNKNOWN };
        for replica_id in [Reading::CONSUMER.replica_id, FUTURE_REPLICA] {
            match self.batch(client, reader, replica_id, offset).await {
                Ok(Some(found)) => return Ok(found),
                // Beyond the high watermark a consumer gets nothing, or that it is out of range.
                Ok(None) | Err(ClientError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(TakeOverError::NoBatch { broker, offset })
    }

    /// The last batch of a copy has to be the source's. Answers the source's epoch of it, and its base.
    async fn compare(
        &self,
        destination: &SourceClient,
        source: &SourceClient,
        copy: Copy,
    ) -> Result<Option<(LeaderEpoch, Offset)>, TakeOverError> {
        let Some(last) = Offset::new(copy.end.value() - 1) else { return Ok(None) };
        let (_, ours) = self.held_batch(destination, copy.broker, last).await?;
        let leader = self.source_leader;
        let theirs = self.batch(source, leader, Reading::CONSUMER.replica_id, last).await?;
        let missing = TakeOverError::NoBatch { broker: leader.broker, offset: last };
        let (header, theirs) = theirs.ok_or(missing)?;
        if !is_same(&ours, &theirs) {
            let other = TakeOverRefusal::OtherBytes { broker: copy.broker, at: copy.end };
            return Err(TakeOverError::Refused(other));
        }
        Ok(Some((header.leader_epoch, header.base_offset)))
    }

    /// Which epochs the followers' batches are stamped with, told for a log that begins at `log_start`.
    async fn stamps(
        &self,
        destination: &SourceClient,
        joint: &Joint,
        log_start: Offset,
    ) -> Result<EpochHistory, TakeOverError> {
        let Copy { broker, start, end } = joint.farthest;
        let last = Offset::new(end.value() - 1).unwrap_or(start);
        let mut search = EpochSearch::new(start.max(log_start.min(last)), end);
        let mut probes = 0;
        while let Some(offset) = search.next() {
            if probes == PROBES_MAX {
                return Err(TakeOverError::TooManyEpochs);
            }
            probes += 1;
            let (header, _) = self.held_batch(destination, broker, offset).await?;
            let probe =
                Probe { base: header.base_offset, last: header.last_offset(), epoch: header.leader_epoch };
            search.found(probe)?;
        }
        let found = search.finish();
        let mut stamps = EpochHistory::new();
        if end < log_start {
            // What begins there is not what went on from what they hold.
            let latest = found.latest().map_or(LeaderEpoch(0), |latest| latest.epoch);
            stamps.record(LeaderEpoch(latest.0.saturating_add(1)), log_start)?;
            return Ok(stamps);
        }
        for (index, entry) in found.entries().iter().enumerate() {
            stamps.record(entry.epoch, if index == 0 { entry.start.min(log_start) } else { entry.start })?;
        }
        stamps.trim_to(log_start);
        Ok(stamps)
    }

    /// Transactions that are open at the end of a copy.
    async fn open_transactions(
        &self,
        destination: &SourceClient,
        witness: Copy,
    ) -> Result<OpenTransactions, TakeOverError> {
        let Copy { broker, end, .. } = witness;
        let request = |_| {
            let topic = TopicRequest::default()
                .with_name(self.topic())
                .with_partition_indexes(vec![self.partition.partition()]);
            DescribeProducersRequest::default().with_topics(vec![topic])
        };
        let answer = destination.ask_broker(broker, request).await?;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let code = found.map_or(-1, |found| found.error_code);
        let found = found.filter(|_| code == 0).ok_or(TakeOverError::Follower { broker, code })?;
        let mut open = OpenTransactions::new();
        for producer in &found.active_producers {
            let began = Offset::new(producer.current_txn_start_offset).filter(|began| *began < end);
            if let Some(began) = began
                && open.restore(producer.producer_id.0, began).is_err()
            {
                return Err(TakeOverError::TooManyTransactions);
            }
        }
        Ok(open)
    }
}

/// Equal but for the leader epoch, which each cluster stamps for itself.
fn is_same(ours: &[u8], theirs: &[u8]) -> bool {
    let (before, behind) = (..LEADER_EPOCH_AT.start, LEADER_EPOCH_AT.end..);
    ours.len() == theirs.len() && ours[before] == theirs[before] && ours[behind.clone()] == theirs[behind]
}
