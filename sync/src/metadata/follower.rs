//! Follows the metadata log of a KRaft quorum as an observer: where to fetch next, and what may be applied.
//!
//! Owns the position in the log, what was fetched above the high watermark, a snapshot under way, and an
//! image that is not ready to be shown yet. The owner has the connections: it sends what `poll` asks for
//! to the controller of its choice and hands the answer in.
//!
//! ```text
//!   Fetch --> records below the high watermark --> Apply (or into the staged image)
//!     |        \--> above it: held, dropped when the quorum diverges
//!     |-----> snapshot id --> FetchSnapshot ... --> staged image --> Fetch from its end
//!     \-----> error 6, 74, 75, 41 --> AskAnother;  anything that makes no sense --> from the start again
//!   staged image, caught up --> Replace
//! ```
//! Invariants: one request at a time; an image is shown only when it has once reached the high watermark,
//! and then moves only forwards or is replaced as a whole; the shown one stays until its successor is ready.
//! ref: KIP-595, KIP-630

use super::image::{ClusterImage, ImageError};
use super::log_reader::{self, LogBatch, LogError, SNAPSHOT_FOOTER, SNAPSHOT_HEADER};
use super::record::{MetadataRecord, RecordError};
use crate::{MILLISECOND, Nanoseconds};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

/// Largest snapshot: some millions of partitions. Raised, a controller may take as much memory, twice.
pub const SNAPSHOT_BYTES_MAX: i64 = 1 << 30;
/// Records above the high watermark that are held. Raised, a quorum that cannot commit takes more memory.
const PENDING_RECORDS_MAX: usize = 1 << 20;
/// Pause after a failure: a new active controller is found that much later, a dead quorum asked that often.
const RETRY_PAUSE: Nanoseconds = 100 * MILLISECOND;
/// Refusals in a row after which everything known of the quorum is forgotten (it may have been rebuilt).
/// Lowered, an ordinary election makes us read the whole log again.
const REFUSALS_MAX: u32 = 100;

/// A snapshot of the log up to an offset. ref: KIP-630
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    pub end_offset: i64,
    pub epoch: i32,
}

/// Whom an answer names as the active controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumLeader {
    /// `None`: an election is under way.
    pub id: Option<i32>,
    pub epoch: i32,
}

/// What a Fetch brought: the error of the whole answer or else of its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchAnswer<'a> {
    pub error: i16,
    /// -1 while a new leader does not know it yet.
    pub high_watermark: i64,
    /// The end of an epoch that both sides have.
    pub diverging: Option<SnapshotId>,
    pub leader: Option<QuorumLeader>,
    pub snapshot: Option<SnapshotId>,
    pub records: &'a [u8],
}

/// What a FetchSnapshot brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotAnswer<'a> {
    pub error: i16,
    pub id: SnapshotId,
    pub size_bytes: i64,
    pub position: i64,
    pub bytes: &'a [u8],
}

/// What happened.
#[derive(Clone, Debug)]
pub enum FollowerEvent<'a> {
    Fetched(FetchAnswer<'a>),
    SnapshotFetched(SnapshotAnswer<'a>),
    /// The request brought no answer.
    Failed,
    /// Records of an `Apply` did not fit the image that is shown.
    NotApplied(ImageError),
    /// The deadline has passed.
    Woken,
}

/// What the owner is to do, in this order.
#[derive(Clone, Debug)]
pub enum FollowerAction {
    Fetch {
        offset: i64,
        last_fetched_epoch: i32,
        quorum_epoch: i32,
    },
    FetchSnapshot {
        id: SnapshotId,
        position: i64,
        quorum_epoch: i32,
    },
    /// The controller that was asked last is the active one.
    Leads,
    /// The one that was asked last is not, or cannot be reached; the next request goes to `hint`, or to any
    /// other.
    AskAnother {
        hint: Option<i32>,
    },
    /// The image to show from now on. `next_offset` is behind its last record.
    Replace {
        image: Box<ClusterImage>,
        next_offset: i64,
    },
    /// Committed records for the image that is shown.
    Apply {
        records: Vec<MetadataRecord>,
        next_offset: i64,
    },
    /// For the log; the machine has drawn its conclusion.
    Trouble(Trouble),
}

/// Why a step was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Refused {
        code: i16,
    },
    SnapshotRefused {
        code: i16,
        position: i64,
    },
    SnapshotTooLarge {
        size_bytes: i64,
    },
    SnapshotBroken {
        id: SnapshotId,
        position: i64,
        size_bytes: i64,
    },
    Log(LogError),
    Record {
        offset: i64,
        why: RecordError,
    },
    Image(ImageError),
    /// The quorum lost what had been committed.
    Diverged {
        known_end: i64,
        quorum: SnapshotId,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code } => {
                write!(f, "a controller refused a metadata fetch with error code {code}")
            }
            Self::SnapshotRefused { code, position } => write!(
                f,
                "a controller refused the metadata snapshot at byte {position} with error code {code}; \
                 fetching again"
            ),
            Self::SnapshotTooLarge { size_bytes } => {
                write!(
                    f,
                    "the metadata snapshot has {size_bytes} bytes, at most {SNAPSHOT_BYTES_MAX} are taken"
                )
            }
            Self::SnapshotBroken { id, position, size_bytes } => write!(
                f,
                "the metadata snapshot {}-{} is no whole snapshot at byte {position} of {size_bytes}",
                id.end_offset, id.epoch
            ),
            Self::Log(error) => write!(f, "{error}"),
            Self::Record { offset, why } => write!(f, "at offset {offset} of the metadata log: {why}"),
            Self::Image(error) => write!(f, "{error}; reading the metadata log from its start"),
            Self::Diverged { known_end, quorum } => write!(
                f,
                "the quorum's metadata log ends epoch {} at {}, below the {known_end} that was committed: \
                 reading it from its start",
                quorum.epoch, quorum.end_offset
            ),
        }
    }
}

/// A batch above the high watermark.
struct Pending {
    next_offset: i64,
    epoch: i32,
    records: Vec<MetadataRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    next_offset: i64,
    epoch: i32,
}

struct Download {
    id: SnapshotId,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Due,
    Waiting,
    Paused { until: Nanoseconds },
}

const START: Position = Position { next_offset: 0, epoch: 0 };

/// See the file's header.
pub struct MetadataFollower {
    applied: Position,
    pending: VecDeque<Pending>,
    pending_records: usize,
    high_watermark: i64,
    quorum_epoch: i32,
    download: Option<Download>,
    /// Being filled; `None` once it was handed over.
    staged: Option<Box<ClusterImage>>,
    turn: Turn,
    refusals: u32,
    actions: VecDeque<FollowerAction>,
}

impl Default for MetadataFollower {
    fn default() -> Self {
        Self::new()
    }
}

impl MetadataFollower {
    pub fn new() -> Self {
        Self {
            applied: START,
            pending: VecDeque::new(),
            pending_records: 0,
            high_watermark: -1,
            quorum_epoch: 0,
            download: None,
            staged: Some(Box::default()),
            turn: Turn::Due,
            refusals: 0,
            actions: VecDeque::new(),
        }
    }

    /// Behind the last record that was applied.
    pub fn next_offset(&self) -> i64 {
        self.applied.next_offset
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        match self.turn {
            Turn::Paused { until } => Some(until),
            Turn::Due | Turn::Waiting => None,
        }
    }

    pub fn handle(&mut self, now: Nanoseconds, event: FollowerEvent<'_>) {
        match event {
            FollowerEvent::Fetched(answer) => self.fetched(now, &answer),
            FollowerEvent::SnapshotFetched(answer) => self.snapshot_fetched(now, &answer),
            FollowerEvent::Failed => self.ask_another(now, None),
            FollowerEvent::NotApplied(error) => self.start_over(now, Trouble::Image(error)),
            FollowerEvent::Woken => {
                if self.deadline().is_some_and(|until| until <= now) {
                    self.turn = Turn::Due;
                }
            }
        }
    }

    pub fn poll(&mut self) -> Option<FollowerAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.turn != Turn::Due {
            return None;
        }
        self.turn = Turn::Waiting;
        let quorum_epoch = self.quorum_epoch;
        Some(match &self.download {
            Some(download) => {
                let position = download.bytes.len() as i64;
                FollowerAction::FetchSnapshot { id: download.id, position, quorum_epoch }
            }
            None => {
                let Position { next_offset: offset, epoch: last_fetched_epoch } = self.fetched_to();
                FollowerAction::Fetch { offset, last_fetched_epoch, quorum_epoch }
            }
        })
    }

    /// Where the next fetch begins: behind what is held.
    fn fetched_to(&self) -> Position {
        let last = self.pending.back();
        last.map_or(self.applied, |last| Position { next_offset: last.next_offset, epoch: last.epoch })
    }

    fn pause(&mut self, now: Nanoseconds) {
        self.turn = Turn::Paused { until: now.saturating_add(RETRY_PAUSE) };
    }

    fn ask_another(&mut self, now: Nanoseconds, hint: Option<i32>) {
        self.download = None;
        self.actions.push_back(FollowerAction::AskAnother { hint });
        self.pause(now);
    }

    /// Forgets all but the image that is shown.
    fn start_over(&mut self, now: Nanoseconds, trouble: Trouble) {
        self.actions.push_back(FollowerAction::Trouble(trouble));
        let actions = core::mem::take(&mut self.actions);
        *self = Self { actions, ..Self::new() };
        self.pause(now);
    }

    fn fetched(&mut self, now: Nanoseconds, answer: &FetchAnswer<'_>) {
        if answer.error != 0 {
            return self.refused(now, answer);
        }
        self.refusals = 0;
        self.actions.push_back(FollowerAction::Leads);
        self.turn = Turn::Due;
        if let Some(id) = answer.snapshot {
            self.download = Some(Download { id, bytes: Vec::new() });
            return;
        }
        if let Some(quorum) = answer.diverging {
            return self.diverged(now, quorum);
        }
        if let Err(trouble) = self.hold(answer.records) {
            return self.start_over(now, trouble);
        }
        if answer.high_watermark >= 0 {
            self.high_watermark = answer.high_watermark;
        }
        if let Err(error) = self.apply_committed() {
            return self.start_over(now, Trouble::Image(error));
        }
        if self.pending_records > PENDING_RECORDS_MAX {
            // The quorum commits nothing: asking at once would fetch the same records for ever.
            self.pause(now);
        }
    }

    fn refused(&mut self, now: Nanoseconds, answer: &FetchAnswer<'_>) {
        self.refusals += 1;
        let code = answer.error;
        if self.refusals >= REFUSALS_MAX {
            self.start_over(now, Trouble::Refused { code });
            return self.ask_another(now, None);
        }
        match (code, answer.leader) {
            // The asked one leads in a newer epoch than ours, and says which.
            (74, Some(leader)) if leader.epoch > self.quorum_epoch => {
                self.quorum_epoch = leader.epoch;
                self.turn = Turn::Due;
            }
            // Not the leader, an older epoch, not the active controller, an epoch that it cannot know yet.
            (6 | 41 | 42 | 74 | 75, leader) => {
                let hint = leader.filter(|leader| leader.epoch >= self.quorum_epoch);
                self.quorum_epoch = hint.map_or(self.quorum_epoch, |leader| leader.epoch);
                self.ask_another(now, hint.and_then(|leader| leader.id));
                if hint.is_some_and(|leader| leader.id.is_some()) && self.refusals == 1 {
                    self.turn = Turn::Due;
                }
            }
            (code, _) => {
                // Once in a row: what is not allowed today will not be in a tenth of a second.
                if self.refusals == 1 {
                    self.actions.push_back(FollowerAction::Trouble(Trouble::Refused { code }));
                }
                self.ask_another(now, None);
            }
        }
    }

    fn diverged(&mut self, now: Nanoseconds, quorum: SnapshotId) {
        let before = self.fetched_to();
        let differs = |last: &Pending| last.epoch > quorum.epoch || last.next_offset > quorum.end_offset;
        while let Some(last) = self.pending.pop_back_if(|last| differs(last)) {
            self.pending_records -= last.records.len();
        }
        let known_end = self.applied.next_offset;
        if quorum.end_offset < known_end || before == self.fetched_to() {
            self.start_over(now, Trouble::Diverged { known_end, quorum });
        }
    }

    /// Decodes whole batches behind what is there already.
    fn hold(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        for batch in log_reader::whole_batches(bytes).map_err(Trouble::Log)? {
            let expected = self.fetched_to().next_offset;
            let next_offset = batch.header.next_offset().value();
            if next_offset <= expected || self.pending_records > PENDING_RECORDS_MAX {
                continue;
            }
            let records = decode(&batch)?;
            self.pending_records += records.len();
            self.pending.push_back(Pending { next_offset, epoch: batch.header.leader_epoch.0, records });
        }
        Ok(())
    }

    fn apply_committed(&mut self) -> Result<(), ImageError> {
        let high_watermark = self.high_watermark;
        let mut committed = Vec::new();
        let before = self.applied;
        while let Some(batch) = self.pending.pop_front_if(|batch| batch.next_offset <= high_watermark) {
            self.pending_records -= batch.records.len();
            self.applied = Position { next_offset: batch.next_offset, epoch: batch.epoch };
            committed.extend(batch.records);
        }
        let next_offset = self.applied.next_offset;
        let Some(mut image) = self.staged.take() else {
            if before != self.applied {
                self.actions.push_back(FollowerAction::Apply { records: committed, next_offset });
            }
            return Ok(());
        };
        for record in committed {
            image.apply(record)?;
        }
        if next_offset > 0 && next_offset >= high_watermark && high_watermark > 0 {
            self.actions.push_back(FollowerAction::Replace { image, next_offset });
        } else {
            self.staged = Some(image);
        }
        Ok(())
    }

    fn snapshot_fetched(&mut self, now: Nanoseconds, answer: &SnapshotAnswer<'_>) {
        let Some(mut download) = self.download.take() else { return self.pause(now) };
        let position = download.bytes.len() as i64;
        if answer.error != 0 {
            // 4.3.1 answers -1 to whatever is wrong: the snapshot may be gone, or the controller no leader.
            self.start_over(now, Trouble::SnapshotRefused { code: answer.error, position });
            return self.ask_another(now, None);
        }
        let (id, size_bytes) = (download.id, answer.size_bytes);
        if size_bytes > SNAPSHOT_BYTES_MAX {
            return self.start_over(now, Trouble::SnapshotTooLarge { size_bytes });
        }
        let end = position + answer.bytes.len() as i64;
        let fits = answer.id == id && answer.position == position && end <= size_bytes;
        if !fits || answer.bytes.is_empty() {
            return self.start_over(now, Trouble::SnapshotBroken { id, position, size_bytes });
        }
        download.bytes.extend_from_slice(answer.bytes);
        self.turn = Turn::Due;
        if end < size_bytes {
            self.download = Some(download);
            return;
        }
        match image_of(&download) {
            Err(trouble) => self.start_over(now, trouble),
            Ok(image) => {
                self.staged = Some(image);
                self.applied = Position { next_offset: id.end_offset, epoch: id.epoch };
                self.pending.clear();
                self.pending_records = 0;
            }
        }
    }
}

fn decode(batch: &LogBatch<'_>) -> Result<Vec<MetadataRecord>, Trouble> {
    let mut records = Vec::new();
    for record in batch.records() {
        let (offset, value) = record.map_err(Trouble::Log)?;
        let decoded = MetadataRecord::decode(value);
        records.push(decoded.map_err(|why| Trouble::Record { offset: offset.value(), why })?);
    }
    Ok(records)
}

/// A whole snapshot: header, data, footer, and not a byte more.
fn image_of(download: &Download) -> Result<Box<ClusterImage>, Trouble> {
    let batches = log_reader::whole_batches(&download.bytes).map_err(Trouble::Log)?;
    let whole: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let framed = batches.first().is_some_and(|first| first.control == Some(SNAPSHOT_HEADER))
        && batches.last().is_some_and(|last| last.control == Some(SNAPSHOT_FOOTER));
    if !framed || whole != download.bytes.len() {
        let size_bytes = download.bytes.len() as i64;
        return Err(Trouble::SnapshotBroken { id: download.id, position: whole as i64, size_bytes });
    }
    let mut image = Box::<ClusterImage>::default();
    for batch in &batches {
        for record in decode(batch)? {
            image.apply(record).map_err(Trouble::Image)?;
        }
    }
    Ok(image)
}
