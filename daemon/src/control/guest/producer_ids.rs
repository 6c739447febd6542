//! The destination's producer ids, lifted above those that mirrored records carry.
//!
//! A fresh producer of the destination whose id stands in a mirrored log already would be taken for the one
//! that wrote there: its first batch is answered with an old offset and silently lost, or refused. So no
//! broker of the destination may hand out an id that the source may have handed out before the promote.
//!
//! ```text
//!   source brokers --InitProducerId--> highest id + headroom = floor
//!   controller     <--AllocateProducerIds, blocks of 1000, 32 connections-- until its counter is at the floor
//!   each destination broker <--InitProducerId-- until the blocks that it had cached are used up
//! ```
//! A broker that is down has no cached block when it comes back. ref: KIP-730
//!
//! ## Why no mirrored id is missed
//! The floor has to be above every id that a mirrored batch carries or will carry. While the daemon runs, shards keep
//! the highest id of the batches that come; one that reaches the floor lifts it at once. What came before a restart is
//! not kept with the batches: the source handed those ids out, so its own counter, which is asked anew after each
//! start, is above them, and so is the kept `highest_mirrored` of the last lift. Left are ids that the source never
//! handed out itself (it was a mirror once) and that came in the moment before a crash, and a failover whose source
//! answers no more. For these, and for producers that got their ids before the first lift, a hand-over does not trust
//! the floor: it asks followers which ids their logs hold, see `producer_overlap.rs`.

use super::controller_client::{ControllerClient, ControllerError};
use crate::control::source_client::{ClientError, SourceClient};
use crate::control::state::ProducerIdRanges;
use kafka_protocol::messages::{AllocateProducerIdsRequest, BrokerId, InitProducerIdRequest, ProducerId};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// How far above the source's counter the floor is put: what the source hands out until the promote, and the
/// blocks that its other brokers hold. Raised, a link's start takes a second longer for each million.
pub const HEADROOM: i64 = 100_000;
/// A controller answers one request per connection at a time, and appends those of all connections together.
const CONNECTIONS_MAX: i64 = 32;
/// ref: org.apache.kafka.common.protocol.Errors
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
/// How often a broker is asked again that has no block of ids yet: two seconds in all. Raised, one whose controller
/// is away holds up the others for longer.
const BLOCK_TRIES_MAX: u32 = 40;
const BLOCK_PAUSE: Duration = Duration::from_millis(50);
/// Ids in one block of the controller.
const BLOCK: i64 = 1_000;
/// Ids that a broker may hold in blocks when it is asked: the current one, the next one, and room for those
/// that it fetched while the counter was lifted.
const BURNT_PER_BROKER_MAX: usize = 10_000;
/// Ids that are skipped at most: some quarter of an hour of requests. A source beyond that is told, not met.
const LIFT_MAX: i64 = 1_000_000_000;

/// Why the floor is not where it has to be.
#[derive(Debug)]
pub enum ProducerIdError {
    Source(ClientError),
    /// The source's or the destination's broker refused to give an id.
    Refused {
        broker: i32,
        code: i16,
    },
    Destination(ClientError),
    Controller(ControllerError),
    ControllerRefused {
        code: i16,
    },
    TooFar {
        from: i64,
        floor: i64,
    },
    /// A broker still hands out ids below the floor.
    NotBurnt {
        broker: i32,
        id: i64,
        floor: i64,
    },
    /// None of our ids is registered now.
    NoGuest,
}

impl fmt::Display for ProducerIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => write!(f, "the source's producer ids are not known: {error}"),
            Self::Refused { broker, code } => write!(
                f,
                "broker {broker} gives no producer id (error code {code}); the principal needs IDEMPOTENT_WRITE"
            ),
            Self::Destination(error) => {
                write!(f, "a broker of the destination gives no producer id: {error}")
            }
            Self::Controller(error) => write!(f, "{error}"),
            Self::ControllerRefused { code } => {
                write!(f, "the controller allocates no producer ids (error code {code})")
            }
            Self::TooFar { from, floor } => write!(
                f,
                "the destination's producer ids stand at {from} and would have to be lifted to {floor}, more \
                 than {LIFT_MAX} at a time"
            ),
            Self::NotBurnt { broker, id, floor } => write!(
                f,
                "broker {broker} still hands out producer id {id} after {BURNT_PER_BROKER_MAX} were taken; \
                 the floor is {floor}"
            ),
            Self::NoGuest => write!(f, "no guest broker is registered to ask for producer ids"),
        }
    }
}

impl std::error::Error for ProducerIdError {}

async fn one_id(client: &SourceClient, broker: i32) -> Result<Result<i64, i16>, ClientError> {
    let request = |_| {
        InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    let mut tries = 0;
    loop {
        let answer = client.ask_broker(broker, request).await?;
        match answer.error_code {
            0 => return Ok(Ok(answer.producer_id.0)),
            // It asks the controller for a block first, and does not let us wait for that.
            COORDINATOR_LOAD_IN_PROGRESS if tries < BLOCK_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(BLOCK_PAUSE).await;
            }
            code => return Ok(Err(code)),
        }
    }
}

/// An id above all that the source has handed out so far, but for the blocks that [`HEADROOM`] allows for.
pub async fn source_next_id(source: &SourceClient) -> Result<i64, ProducerIdError> {
    let view = source.metadata(Some(&[])).await.map_err(ProducerIdError::Source)?;
    let mut next = 0;
    let mut failed = None;
    for broker in view.brokers.keys() {
        match one_id(source, *broker).await {
            Ok(Ok(id)) => next = next.max(id + 1),
            Ok(Err(code)) => failed = Some(ProducerIdError::Refused { broker: *broker, code }),
            Err(error) => failed = Some(ProducerIdError::Source(error)),
        }
    }
    match failed {
        // One that is down handed out nothing beyond the block that the headroom is for.
        Some(error) if next == 0 => Err(error),
        _ => Ok(next),
    }
}

/// Who allocates: one of our registrations, and clients of the controller.
pub struct Allocator<C> {
    pub guest: i32,
    pub broker_epoch: i64,
    /// Makes a client with a connection of its own.
    pub client: C,
}

/// Lifts the controller's counter to `floor`, then every live broker's. `from` is where the counter stands by
/// the metadata log; `reached` shows the way. The ids that the controller gave to us meanwhile are told in any
/// case: they are nobody else's, whatever failed afterwards.
pub async fn lift<C: Fn() -> ControllerClient>(
    allocator: &Allocator<C>,
    destination: &SourceClient,
    brokers: &[i32],
    (from, floor): (i64, i64),
    reached: &Arc<AtomicI64>,
) -> (ProducerIdRanges, Result<(), ProducerIdError>) {
    let mut skipped = ProducerIdRanges::default();
    if floor.saturating_sub(from) > LIFT_MAX {
        return (skipped, Err(ProducerIdError::TooFar { from, floor }));
    }
    reached.store(from, Ordering::Relaxed);
    let blocks = (floor - from).max(0) / BLOCK + 1;
    let mut tasks = JoinSet::new();
    for _ in 0..blocks.min(CONNECTIONS_MAX) {
        let (client, reached) = ((allocator.client)(), reached.clone());
        tasks.spawn(allocate(client, (allocator.guest, allocator.broker_epoch), floor, reached));
    }
    let mut lifted = Ok(());
    while let Some(done) = tasks.join_next().await {
        let (blocks, result) = done.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        skipped.add_all(&blocks);
        lifted = lifted.and(result);
    }
    if lifted.is_ok() {
        lifted = burn_all(destination, brokers, floor).await;
    }
    (skipped, lifted)
}

async fn burn_all(destination: &SourceClient, brokers: &[i32], floor: i64) -> Result<(), ProducerIdError> {
    // Addresses may be new since the last question.
    destination.metadata(Some(&[])).await.map_err(ProducerIdError::Destination)?;
    for broker in brokers {
        burn(destination, *broker, floor).await?;
    }
    Ok(())
}

async fn allocate(
    mut client: ControllerClient,
    (guest, broker_epoch): (i32, i64),
    floor: i64,
    reached: Arc<AtomicI64>,
) -> (ProducerIdRanges, Result<(), ProducerIdError>) {
    let mut blocks = ProducerIdRanges::default();
    while reached.load(Ordering::Relaxed) < floor {
        let request = |_| {
            AllocateProducerIdsRequest::default()
                .with_broker_id(BrokerId(guest))
                .with_broker_epoch(broker_epoch)
        };
        let answer = match client.ask(request).await {
            Ok(answer) => answer,
            Err(error) => return (blocks, Err(ProducerIdError::Controller(error))),
        };
        if answer.error_code != 0 {
            return (blocks, Err(ProducerIdError::ControllerRefused { code: answer.error_code }));
        }
        let next = answer.producer_id_start.0.saturating_add(i64::from(answer.producer_id_len));
        blocks.add(answer.producer_id_start.0, next);
        reached.fetch_max(next, Ordering::Relaxed);
    }
    (blocks, Ok(()))
}

/// Takes ids from one broker until it is past the blocks that it had.
async fn burn(destination: &SourceClient, broker: i32, floor: i64) -> Result<(), ProducerIdError> {
    let mut last = -1;
    for _ in 0..BURNT_PER_BROKER_MAX {
        match one_id(destination, broker).await.map_err(ProducerIdError::Destination)? {
            Ok(id) if id >= floor => return Ok(()),
            Ok(id) => last = id,
            Err(code) => return Err(ProducerIdError::Refused { broker, code }),
        }
    }
    Err(ProducerIdError::NotBurnt { broker, id: last, floor })
}
