//! What one row of each table says.
//!
//! Rows are plain values: what they may become is for the tables of `twinlog_sync::lifecycle`.

use super::{ProducerIdRanges, StateError};
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::lifecycle::{DeletionStep, HandOverStep, MirrorState};

/// Which clusters a link joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub link: String,
    pub source_cluster_id: String,
    /// Made up in store mode.
    pub destination_cluster_id: String,
    /// What an operator said; `None`: nothing, the configuration counts.
    pub paused: Option<bool>,
    pub created_ms: i64,
}

/// As whom a guest broker registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestIdentity {
    pub broker_id: i32,
    /// Lives within the session of one process.
    pub incarnation: [u8; 16],
    /// Lives as long as the id leads anything.
    pub directory: [u8; 16],
}

/// One mirror topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTopic {
    pub link: String,
    pub topic: String,
    pub source_topic_id: TopicId,
    /// `None` until the destination has it.
    pub destination_topic_id: Option<TopicId>,
    pub state: MirrorState,
    pub reason: String,
    /// Greppable; empty while there is nothing to explain.
    pub code: String,
    /// When the state began.
    pub since_ms: i64,
    /// What the topic is configured with once the guards are lifted.
    pub wanted_configs: BTreeMap<String, String>,
    pub replication_factor: u16,
    /// The answer of the last hand-over.
    pub last_promote: Option<Value>,
}

/// Which way a mirror topic becomes writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverKind {
    /// After proof that nothing is missing.
    Promote,
    /// Without the source.
    Failover,
}

impl HandOverKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Failover => "failover",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Promote, Self::Failover].into_iter().find(|kind| kind.name() == name)
    }
}

/// The hand-over of one topic: under way, or its last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub link: String,
    pub topic: String,
    pub kind: HandOverKind,
    /// May have been begun; everything before it is done.
    pub step: HandOverStep,
    /// Log end of each partition; empty before [`HandOverStep::Captured`].
    pub captured_ends: BTreeMap<i32, i64>,
    /// Leader first, for each partition.
    pub target_replicas: BTreeMap<i32, Vec<i32>>,
    /// Leader first, without our own, as they were before.
    pub full_replicas: BTreeMap<i32, Vec<i32>>,
    pub options: Value,
    pub started_ms: i64,
    pub updated_ms: i64,
    /// Why it does not go on; it is tried again.
    pub error: Option<String>,
}

/// What keeps producers of the destination away from mirrored ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerIdFloor {
    /// The destination hands out no id below from now on; what it handed out before is not in `skipped`.
    pub floor: i64,
    /// One above the highest id that mirrored records are known to carry.
    pub highest_mirrored: i64,
    /// Never the destination's, neither before the floor was lifted nor afterwards.
    pub skipped: ProducerIdRanges,
}

/// What an operator said of a topic, whatever `topics` and the filters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCommand {
    /// It is mirrored.
    Created,
    /// It is not, until it is created by command.
    Deleted,
}

impl TopicCommand {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Deleted => "deleted",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Created, Self::Deleted].into_iter().find(|command| command.name() == name)
    }
}

/// The deletion of one mirror topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub topic: String,
    /// May have been begun; everything before it is done.
    pub step: DeletionStep,
    pub delete_data: bool,
    /// What is to be deleted there; `None`: nothing of ours.
    pub destination_topic_id: Option<TopicId>,
    pub started_ms: i64,
}

/// Replicas of one partition that a hand-over left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRepair {
    pub topic: String,
    pub partition: i32,
    pub destination_topic_id: TopicId,
    /// All that it had, leader first.
    pub wanted: Vec<i32>,
    /// As it was handed over, or as the last accepted list made it.
    pub expected: Vec<i32>,
    /// The list that may have been sent.
    pub sent: Option<Vec<i32>>,
    pub since_ms: i64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub id: i64,
    pub time_ms: i64,
    pub link: String,
    pub topic: Option<String>,
    pub event: String,
    pub detail: String,
}

/// A column that cannot hold what it holds.
const fn wrong(table: &'static str, column: &'static str) -> StateError {
    StateError::Content { table, column }
}

fn parsed<T: DeserializeOwned>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|_| wrong(table, column))
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("texts, numbers and maps of them are always JSON")
}

impl Link {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        Ok(Self {
            link: row.get("link")?,
            source_cluster_id: row.get("source_cluster_id")?,
            destination_cluster_id: row.get("destination_cluster_id")?,
            paused: row.get("paused")?,
            created_ms: row.get("created_ms")?,
        })
    }
}

impl GuestIdentity {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        Ok(Self {
            broker_id: row.get("broker_id")?,
            incarnation: row.get("incarnation")?,
            directory: row.get("directory")?,
        })
    }
}

impl MirrorTopic {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        const TABLE: &str = "mirror_topics";
        let state: String = row.get("state")?;
        let last_promote: Option<String> = row.get("last_promote")?;
        let destination: Option<[u8; 16]> = row.get("destination_topic_id")?;
        let last_promote = last_promote.map(|text| parsed(TABLE, "last_promote", &text)).transpose()?;
        Ok(Self {
            link: row.get("link")?,
            topic: row.get("topic")?,
            source_topic_id: TopicId(row.get("source_topic_id")?),
            destination_topic_id: destination.map(TopicId),
            state: MirrorState::parse(&state).ok_or(wrong(TABLE, "state"))?,
            reason: row.get("reason")?,
            code: row.get("code")?,
            since_ms: row.get("since_ms")?,
            wanted_configs: parsed(TABLE, "wanted_configs", &row.get::<_, String>("wanted_configs")?)?,
            replication_factor: row.get("replication_factor")?,
            last_promote,
        })
    }
}

impl HandOver {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        const TABLE: &str = "hand_overs";
        let (kind, step): (String, String) = (row.get("kind")?, row.get("step")?);
        Ok(Self {
            link: row.get("link")?,
            topic: row.get("topic")?,
            kind: HandOverKind::parse(&kind).ok_or(wrong(TABLE, "kind"))?,
            step: HandOverStep::parse(&step).ok_or(wrong(TABLE, "step"))?,
            captured_ends: parsed(TABLE, "captured_ends", &row.get::<_, String>("captured_ends")?)?,
            target_replicas: parsed(TABLE, "target_replicas", &row.get::<_, String>("target_replicas")?)?,
            full_replicas: parsed(TABLE, "full_replicas", &row.get::<_, String>("full_replicas")?)?,
            options: parsed(TABLE, "options", &row.get::<_, String>("options")?)?,
            started_ms: row.get("started_ms")?,
            updated_ms: row.get("updated_ms")?,
            error: row.get("error")?,
        })
    }
}

impl ProducerIdFloor {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        const TABLE: &str = "producer_id_floors";
        Ok(Self {
            floor: row.get("floor")?,
            highest_mirrored: row.get("highest_mirrored")?,
            skipped: parsed(TABLE, "skipped", &row.get::<_, String>("skipped")?)?,
        })
    }
}

impl Deletion {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        let step: String = row.get("step")?;
        let destination: Option<[u8; 16]> = row.get("destination_topic_id")?;
        Ok(Self {
            topic: row.get("topic")?,
            step: DeletionStep::parse(&step).ok_or(wrong("deletions", "step"))?,
            delete_data: row.get("delete_data")?,
            destination_topic_id: destination.map(TopicId),
            started_ms: row.get("started_ms")?,
        })
    }
}

impl ReplicaRepair {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        const TABLE: &str = "replica_repairs";
        let sent: Option<String> = row.get("sent")?;
        Ok(Self {
            topic: row.get("topic")?,
            partition: row.get("partition")?,
            destination_topic_id: TopicId(row.get("destination_topic_id")?),
            wanted: parsed(TABLE, "wanted", &row.get::<_, String>("wanted")?)?,
            expected: parsed(TABLE, "expected", &row.get::<_, String>("expected")?)?,
            sent: sent.map(|text| parsed(TABLE, "sent", &text)).transpose()?,
            since_ms: row.get("since_ms")?,
        })
    }
}

impl TopicCommand {
    pub(super) fn read(row: &Row<'_>) -> Result<(String, Self), StateError> {
        let command: String = row.get("command")?;
        let command = Self::parse(&command).ok_or(wrong("commanded_topics", "command"))?;
        Ok((row.get("topic")?, command))
    }
}

impl HistoryEntry {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StateError> {
        Ok(Self {
            id: row.get("id")?,
            time_ms: row.get("time_ms")?,
            link: row.get("link")?,
            topic: row.get("topic")?,
            event: row.get("event")?,
            detail: row.get("detail")?,
        })
    }
}
