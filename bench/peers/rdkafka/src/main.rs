//! The librdkafka copier: reads every partition of a topic and produces its records to the same partition elsewhere.
//!
//! `rdkafka-copier copy -source HOST:PORT -destination HOST:PORT -topic NAME -codec NAME`, as the franz-go copier. It
//! ends when all that was there at its start is acknowledged; with `-follow` it goes on until it is killed. Must never share code with the product.

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Deliveries are answered by polls of the producer, each of which costs a lock.
const RECORDS_PER_POLL: u64 = 1_000;

/// Counts records that were not written.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if result.is_err() {
            self.failed.fetch_add(1, Relaxed);
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        words.iter().position(|word| word == name).and_then(|at| words.get(at + 1)).map_or("", String::as_str)
    };
    if words.first().is_none_or(|verb| verb != "copy") {
        eprintln!("rdkafka-copier: the only verb is copy");
        return ExitCode::FAILURE;
    }
    let follows = words.iter().any(|word| word == "-follow");
    match copy(value("-source"), value("-destination"), value("-topic"), value("-codec"), follows) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdkafka-copier: {error}");
            ExitCode::FAILURE
        }
    }
}

fn consumer(source: &str) -> Result<BaseConsumer, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", source)
        .set("group.id", "copier")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("fetch.max.bytes", "33554432")
        .set("fetch.message.max.bytes", "8388608")
        .set("receive.message.max.bytes", "100000000")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "262144")
        .create()
}

/// Idempotent: without that, order and uniqueness cost all but one request in flight.
fn producer(destination: &str, codec: &str) -> Result<BaseProducer<Deliveries>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", destination)
        .set("enable.idempotence", "true")
        .set("compression.type", codec)
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "262144")
        .create_with_context(Deliveries::default())
}

fn copy(
    source: &str,
    destination: &str,
    topic: &str,
    codec: &str,
    follows: bool,
) -> Result<(), Box<dyn Error>> {
    let consumer = consumer(source)?;
    let producer = producer(destination, codec)?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut assigned = TopicPartitionList::new();
    let mut ends = Vec::new();
    for partition in 0..partitions as i32 {
        let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
        ends.push(if follows { i64::MAX } else { end });
        assigned.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assigned)?;
    let mut left = ends.iter().filter(|end| **end > 0).count();
    let mut copied = 0_u64;
    while left > 0 {
        let Some(message) = consumer.poll(PATIENCE) else {
            if follows {
                continue;
            }
            return Err("nothing came for a minute".into());
        };
        let message = message?;
        if message.offset() + 1 == ends[message.partition() as usize] {
            left -= 1;
        }
        produce(&producer, &message)?;
        copied += 1;
        if copied.is_multiple_of(RECORDS_PER_POLL) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE)?;
    match producer.context().failed.load(Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} records were not written").into()),
    }
}

fn produce(producer: &BaseProducer<Deliveries>, message: &BorrowedMessage<'_>) -> Result<(), KafkaError> {
    let mut record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(message.topic()).partition(message.partition());
    if let Some(timestamp) = message.timestamp().to_millis() {
        record = record.timestamp(timestamp);
    }
    if let Some(key) = message.key() {
        record = record.key(key);
    }
    if let Some(payload) = message.payload() {
        record = record.payload(payload);
    }
    if let Some(headers) = message.headers().filter(|headers| headers.count() > 0) {
        record = record.headers(headers.detach());
    }
    while let Err((error, again)) = producer.send(record) {
        if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
            return Err(error);
        }
        producer.poll(Duration::from_millis(5));
        record = again;
    }
    Ok(())
}
