//! One metadata record: from the value of a log record to numbers, names and lists.
//!
//! Owns the layouts of the kinds that a guest needs. A kind that is not here is skipped by its number, a
//! tagged field that is not here by its length; a *version* that is not here is an error, because fields
//! may have been added in the middle of it. Lists grow only as their bytes are read.
//!
//! ```text
//!   value   frame version uvarint = 1 │ kind uvarint │ version uvarint │ fields │ tagged fields
//!   tagged  count uvarint │ count x ( tag uvarint │ length uvarint │ length bytes )
//! ```

use crate::wire::Reader;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use twinlog_log_segment::files::TopicId;

/// The only framing there is; another one means that the log is not what this was written for.
const FRAME_VERSION: u32 = 1;

/// Sixteen bytes that name an incarnation or a directory.
pub type Uuid = [u8; 16];

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// 0 plain, 1 TLS, 2 SASL over plain, 3 SASL over TLS.
    pub security_protocol: i16,
}

/// A feature and the levels of it that a broker can work with. ref: KIP-584
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureRange {
    pub name: String,
    pub min: i16,
    pub max: i16,
}

/// RegisterBrokerRecord.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterBroker {
    pub broker: i32,
    pub incarnation: Uuid,
    pub epoch: i64,
    pub listeners: Vec<Listener>,
    pub features: Vec<FeatureRange>,
    pub rack: Option<String>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub directories: Vec<Uuid>,
    pub cordoned: Vec<Uuid>,
}

/// BrokerRegistrationChangeRecord: `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerChange {
    pub broker: i32,
    pub epoch: i64,
    pub fenced: Option<bool>,
    pub in_controlled_shutdown: bool,
    pub directories: Option<Vec<Uuid>>,
    pub cordoned: Option<Vec<Uuid>>,
}

/// PartitionRecord: a whole partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartition {
    pub topic: TopicId,
    pub index: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub removing: Vec<i32>,
    pub adding: Vec<i32>,
    pub leader: i32,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    pub recovery: i8,
    pub directories: Vec<Uuid>,
    pub eligible_leaders: Vec<i32>,
    pub last_known_eligible: Vec<i32>,
}

/// PartitionChangeRecord: `None` leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionChange {
    pub topic: TopicId,
    pub index: i32,
    pub isr: Option<Vec<i32>>,
    /// Present in the record means a new leader epoch, even if it is the same leader again.
    pub leader: Option<i32>,
    pub replicas: Option<Vec<i32>>,
    pub removing: Option<Vec<i32>>,
    pub adding: Option<Vec<i32>>,
    pub recovery: Option<i8>,
    pub eligible_leaders: Option<Vec<i32>>,
    pub last_known_eligible: Option<Vec<i32>>,
    pub directories: Option<Vec<Uuid>>,
}

impl PartitionChange {
    /// One that changes nothing but the partition epoch.
    pub fn of(topic: TopicId, index: i32) -> Self {
        Self {
            topic,
            index,
            isr: None,
            leader: None,
            replicas: None,
            removing: None,
            adding: None,
            recovery: None,
            eligible_leaders: None,
            last_known_eligible: None,
            directories: None,
        }
    }
}

/// UserScramCredentialRecord: with it a guest can check a broker's password without knowing it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramCredential {
    pub name: String,
    /// 1 is SCRAM-SHA-256, 2 is SCRAM-SHA-512.
    pub mechanism: i8,
    pub salt: Vec<u8>,
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
    pub iterations: i32,
}

impl fmt::Debug for ScramCredential {
    /// Keys never reach a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramCredential({}, mechanism {})", self.name, self.mechanism)
    }
}

/// A record of the metadata log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    RegisterBroker(RegisterBroker),
    UnregisterBroker {
        broker: i32,
        epoch: i64,
    },
    Topic {
        name: String,
        id: TopicId,
    },
    Partition(NewPartition),
    Config {
        resource_type: i8,
        resource: String,
        key: String,
        value: Option<String>,
    },
    PartitionChange(PartitionChange),
    FenceBroker {
        broker: i32,
        epoch: i64,
    },
    UnfenceBroker {
        broker: i32,
        epoch: i64,
    },
    RemoveTopic {
        id: TopicId,
    },
    ScramCredential(ScramCredential),
    RemoveScramCredential {
        name: String,
        mechanism: i8,
    },
    FeatureLevel {
        name: String,
        level: i16,
    },
    ProducerIds {
        broker: i32,
        broker_epoch: i64,
        next_producer_id: i64,
    },
    BrokerChange(BrokerChange),
    NoOp,
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
    /// An empty name clears the lists of all topics.
    ClearEligibleLeaders {
        topic: String,
    },
    /// A kind that a guest has no use for.
    Skipped {
        kind: u32,
    },
}

/// A value that is not a metadata record as this program knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    Frame { found: Option<u32> },
    Version { kind: u32, found: u32, known: u32 },
    Truncated { kind: u32, version: u32 },
    Text { kind: u32, version: u32 },
    Trailing { kind: u32, version: u32, bytes: usize },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame { found: Some(found) } => {
                write!(f, "a metadata record has the framing {found}, understood is {FRAME_VERSION}")
            }
            Self::Frame { found: None } => write!(f, "a metadata record ends before its kind"),
            Self::Version { kind, found, known } => write!(
                f,
                "a metadata record of kind {kind} has version {found}, understood are 0 to {known}: the \
                 cluster's metadata.version is newer than this program"
            ),
            Self::Truncated { kind, version } => {
                write!(f, "a metadata record of kind {kind}, version {version}, ends inside a field")
            }
            Self::Text { kind, version } => {
                write!(f, "a metadata record of kind {kind}, version {version}, has a name that is no UTF-8")
            }
            Self::Trailing { kind, version, bytes } => {
                write!(f, "{bytes} bytes follow a metadata record of kind {kind}, version {version}")
            }
        }
    }
}

impl core::error::Error for RecordError {}

/// The highest version that is understood, by kind. `None`: the kind is skipped.
const fn version_known(kind: u32) -> Option<u32> {
    match kind {
        0 => Some(4),
        17 => Some(3),
        3 | 5 => Some(2),
        1 | 2 | 4 | 7 | 8 | 9 | 11 | 12 | 15 | 20 | 22 | 23 | 24 | 25 | 28 => Some(0),
        _ => None,
    }
}

impl MetadataRecord {
    /// Reads the value of one log record.
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(value);
        let mut number = || reader.unsigned_varint().and_then(Result::ok);
        match number() {
            Some(FRAME_VERSION) => {}
            found => return Err(RecordError::Frame { found }),
        }
        let (Some(kind), Some(version)) = (number(), number()) else {
            return Err(RecordError::Frame { found: None });
        };
        let Some(known) = version_known(kind) else { return Ok(Self::Skipped { kind }) };
        if version > known {
            return Err(RecordError::Version { kind, found: version, known });
        }
        let mut body = Body { reader, kind, version };
        let record = body.record()?;
        match value.len() - body.reader.consumed() {
            0 => Ok(record),
            bytes => Err(RecordError::Trailing { kind, version, bytes }),
        }
    }
}

/// The fields of one record; every method answers an error where the value ends.
struct Body<'a> {
    reader: Reader<'a>,
    kind: u32,
    version: u32,
}

type Read<T> = Result<T, RecordError>;

impl<'a> Body<'a> {
    fn truncated(&self) -> RecordError {
        RecordError::Truncated { kind: self.kind, version: self.version }
    }

    fn i8(&mut self) -> Read<i8> {
        self.reader.i8().ok_or(self.truncated())
    }

    fn i16(&mut self) -> Read<i16> {
        self.reader.i16().ok_or(self.truncated())
    }

    fn i32(&mut self) -> Read<i32> {
        self.reader.i32().ok_or(self.truncated())
    }

    fn i64(&mut self) -> Read<i64> {
        self.reader.i64().ok_or(self.truncated())
    }

    fn uuid(&mut self) -> Read<Uuid> {
        self.reader.uuid().ok_or(self.truncated())
    }

    fn varint(&mut self) -> Read<u32> {
        self.reader.unsigned_varint().and_then(Result::ok).ok_or(self.truncated())
    }

    fn nullable_bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.varint()? {
            0 => Ok(None),
            length => self.reader.take(length as usize - 1).map(Some).ok_or(self.truncated()),
        }
    }

    fn bytes(&mut self) -> Read<Vec<u8>> {
        Ok(self.nullable_bytes()?.ok_or(self.truncated())?.to_vec())
    }

    fn nullable_text(&mut self) -> Read<Option<String>> {
        let wrong = RecordError::Text { kind: self.kind, version: self.version };
        let Some(bytes) = self.nullable_bytes()? else { return Ok(None) };
        core::str::from_utf8(bytes).map(|text| Some(text.to_string())).map_err(|_| wrong)
    }

    fn text(&mut self) -> Read<String> {
        self.nullable_text()?.ok_or(self.truncated())
    }

    /// `None` is a null list. Grows as items are really there: the claimed count reserves nothing.
    fn nullable_list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Option<Vec<T>>> {
        let Some(count) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(item(self)?);
        }
        Ok(Some(list))
    }

    fn list<T>(&mut self, item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        Ok(self.nullable_list(item)?.unwrap_or_default())
    }

    fn ids(&mut self) -> Read<Vec<i32>> {
        self.list(Self::i32)
    }

    /// Calls `field` for each tagged field with a reader of just its bytes; what it leaves is skipped.
    fn tags(&mut self, mut field: impl FnMut(u32, &mut Body<'a>) -> Read<()>) -> Read<()> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            let bytes = self.reader.take(length).ok_or(self.truncated())?;
            field(tag, &mut Body { reader: Reader::new(bytes), kind: self.kind, version: self.version })?;
        }
        Ok(())
    }

    fn no_tags(&mut self) -> Read<()> {
        self.tags(|_, _| Ok(()))
    }

    fn record(&mut self) -> Read<MetadataRecord> {
        let record = match self.kind {
            0 => return self.register_broker(),
            3 => return self.partition(),
            5 => return self.partition_change(),
            17 => return self.broker_change(),
            1 => MetadataRecord::UnregisterBroker { broker: self.i32()?, epoch: self.i64()? },
            2 => MetadataRecord::Topic { name: self.text()?, id: TopicId(self.uuid()?) },
            4 => MetadataRecord::Config {
                resource_type: self.i8()?,
                resource: self.text()?,
                key: self.text()?,
                value: self.nullable_text()?,
            },
            7 => MetadataRecord::FenceBroker { broker: self.i32()?, epoch: self.i64()? },
            8 => MetadataRecord::UnfenceBroker { broker: self.i32()?, epoch: self.i64()? },
            9 => MetadataRecord::RemoveTopic { id: TopicId(self.uuid()?) },
            11 => MetadataRecord::ScramCredential(ScramCredential {
                name: self.text()?,
                mechanism: self.i8()?,
                salt: self.bytes()?,
                stored_key: self.bytes()?,
                server_key: self.bytes()?,
                iterations: self.i32()?,
            }),
            22 => MetadataRecord::RemoveScramCredential { name: self.text()?, mechanism: self.i8()? },
            12 => MetadataRecord::FeatureLevel { name: self.text()?, level: self.i16()? },
            15 => MetadataRecord::ProducerIds {
                broker: self.i32()?,
                broker_epoch: self.i64()?,
                next_producer_id: self.i64()?,
            },
            20 => MetadataRecord::NoOp,
            23 => MetadataRecord::BeginTransaction,
            24 => MetadataRecord::EndTransaction,
            25 => MetadataRecord::AbortTransaction,
            28 => MetadataRecord::ClearEligibleLeaders { topic: self.text()? },
            kind => unreachable!("kind {kind} has a known version"),
        };
        self.no_tags()?;
        Ok(record)
    }

    fn register_broker(&mut self) -> Read<MetadataRecord> {
        let broker = self.i32()?;
        if self.version >= 2 {
            // Whether it came from ZooKeeper.
            self.i8()?;
        }
        let (incarnation, epoch) = (self.uuid()?, self.i64()?);
        let listeners = self.list(|body| {
            let listener = Listener {
                name: body.text()?,
                host: body.text()?,
                port: body.i16()? as u16,
                security_protocol: body.i16()?,
            };
            body.no_tags().map(|()| listener)
        })?;
        let features = self.list(|body| {
            let feature = FeatureRange { name: body.text()?, min: body.i16()?, max: body.i16()? };
            body.no_tags().map(|()| feature)
        })?;
        let (rack, fenced) = (self.nullable_text()?, self.i8()? != 0);
        let in_controlled_shutdown = self.version >= 1 && self.i8()? != 0;
        let (mut directories, mut cordoned) = (Vec::new(), Vec::new());
        self.tags(|tag, body| {
            match tag {
                0 => directories = body.list(Self::uuid)?,
                1 => cordoned = body.list(Self::uuid)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(MetadataRecord::RegisterBroker(RegisterBroker {
            broker,
            incarnation,
            epoch,
            listeners,
            features,
            rack,
            fenced,
            in_controlled_shutdown,
            directories,
            cordoned,
        }))
    }

    fn broker_change(&mut self) -> Read<MetadataRecord> {
        let mut change = BrokerChange { broker: self.i32()?, epoch: self.i64()?, ..BrokerChange::default() };
        self.tags(|tag, body| {
            match tag {
                0 => {
                    // 1 fences, -1 unfences, 0 leaves as it is.
                    change.fenced = match body.i8()? {
                        0 => None,
                        value => Some(value > 0),
                    }
                }
                1 => change.in_controlled_shutdown = body.i8()? != 0,
                2 => change.directories = Some(body.list(Self::uuid)?).filter(|list| !list.is_empty()),
                3 => change.cordoned = body.nullable_list(Self::uuid)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(MetadataRecord::BrokerChange(change))
    }

    fn partition(&mut self) -> Read<MetadataRecord> {
        let mut partition = NewPartition {
            index: self.i32()?,
            topic: TopicId(self.uuid()?),
            replicas: self.ids()?,
            isr: self.ids()?,
            removing: self.ids()?,
            adding: self.ids()?,
            leader: self.i32()?,
            leader_epoch: self.i32()?,
            partition_epoch: self.i32()?,
            recovery: 0,
            directories: Vec::new(),
            eligible_leaders: Vec::new(),
            last_known_eligible: Vec::new(),
        };
        if self.version >= 1 {
            partition.directories = self.list(Self::uuid)?;
        }
        self.tags(|tag, body| {
            match tag {
                0 => partition.recovery = body.i8()?,
                1 => partition.eligible_leaders = body.ids()?,
                2 => partition.last_known_eligible = body.ids()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(MetadataRecord::Partition(partition))
    }

    fn partition_change(&mut self) -> Read<MetadataRecord> {
        let (index, topic) = (self.i32()?, TopicId(self.uuid()?));
        let mut change = PartitionChange::of(topic, index);
        self.tags(|tag, body| {
            match tag {
                0 => change.isr = body.nullable_list(Self::i32)?,
                // -2 is written by nobody: it is the default, which means that the tag is left out.
                1 => change.leader = Some(body.i32()?).filter(|leader| *leader != -2),
                2 => change.replicas = body.nullable_list(Self::i32)?,
                3 => change.removing = body.nullable_list(Self::i32)?,
                4 => change.adding = body.nullable_list(Self::i32)?,
                5 => change.recovery = Some(body.i8()?).filter(|recovery| *recovery >= 0),
                6 => change.eligible_leaders = body.nullable_list(Self::i32)?,
                7 => change.last_known_eligible = body.nullable_list(Self::i32)?,
                8 => change.directories = body.nullable_list(Self::uuid)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(MetadataRecord::PartitionChange(change))
    }
}
