//! Promotes and failovers, step by step: each step is kept here before it is taken.
//!
//! What a reader may conclude after a crash: everything before the kept step is done, the step itself may
//! be, nothing after it is. A topic has one hand-over at a time; the last one stays until the next.

use super::links::record;
use super::mirrors::{Change, change, refuse_open_hand_over};
use super::repairs::insert_repairs;
use super::row::{HandOver, HandOverKind, ReplicaRepair, json};
use super::{StateDatabase, StateError};
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::Value;
use std::collections::BTreeMap;
use twinlog_sync::lifecycle::{HandOverEvent, HandOverStep, HandOverWay, MirrorEvent};

/// A hand-over that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHandOver {
    pub topic: String,
    pub kind: HandOverKind,
    /// What the operator allowed.
    pub options: Value,
}

/// The next step of one hand-over, with what was found out for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    pub topic: String,
    /// Whose table says what follows.
    pub way: HandOverWay,
    pub event: HandOverEvent,
    /// `None` keeps what is known.
    pub captured_ends: Option<BTreeMap<i32, i64>>,
    pub target_replicas: Option<BTreeMap<i32, Vec<i32>>>,
    /// Without our own, as they were before anything was reassigned.
    pub full_replicas: Option<BTreeMap<i32, Vec<i32>>>,
    /// What is left to be given back once it is done.
    pub repairs: Vec<ReplicaRepair>,
    /// Why it is abandoned, or what happened; goes to the history.
    pub detail: String,
    /// Kept with the mirror topic as the answer of this hand-over; looked at when it is over.
    pub result: Option<Value>,
}

impl Advance {
    pub fn new(topic: &str, way: HandOverWay, event: HandOverEvent) -> Self {
        Self {
            topic: topic.to_owned(),
            way,
            event,
            captured_ends: None,
            target_replicas: None,
            full_replicas: None,
            repairs: Vec::new(),
            detail: String::new(),
            result: None,
        }
    }
}

pub(super) fn find(
    transaction: &Transaction<'_>,
    link: &str,
    topic: &str,
) -> Result<Option<HandOver>, StateError> {
    let mut statement =
        transaction.prepare_cached("SELECT * FROM hand_overs WHERE link = ?1 AND topic = ?2")?;
    let found = statement.query_row([link, topic], |row| Ok(HandOver::read(row))).optional()?;
    found.transpose()
}

fn begin(
    transaction: &Transaction<'_>,
    link: &str,
    new: &NewHandOver,
    now_ms: i64,
) -> Result<(), StateError> {
    let topic = &new.topic;
    refuse_open_hand_over(transaction, link, topic)?;
    let event = match new.kind {
        HandOverKind::Promote => MirrorEvent::PromoteRequested,
        HandOverKind::Failover => MirrorEvent::FailoverRequested,
    };
    let reason = format!("{} requested", new.kind.name());
    change(transaction, link, &Change { topic: topic.clone(), event, reason, code: String::new() }, now_ms)?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO hand_overs (link, topic, kind, step, captured_ends, target_replicas, \
             options, started_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, '{}', '{}', ?5, ?6, ?6)",
        )?
        .execute(params![
            link,
            topic,
            new.kind.name(),
            HandOverStep::Requested.name(),
            json(&new.options),
            now_ms
        ])?;
    Ok(())
}

fn advance(
    transaction: &Transaction<'_>,
    link: &str,
    next: &Advance,
    now_ms: i64,
) -> Result<HandOverStep, StateError> {
    let topic = &next.topic;
    let known =
        find(transaction, link, topic)?.ok_or_else(|| StateError::NoHandOver { topic: topic.clone() })?;
    let step = next.way.next(known.step, next.event).ok_or_else(|| StateError::HandOverForbidden {
        topic: topic.clone(),
        step: known.step,
        event: next.event,
    })?;
    let ends = next.captured_ends.as_ref().unwrap_or(&known.captured_ends);
    let replicas = next.target_replicas.as_ref().unwrap_or(&known.target_replicas);
    let full = next.full_replicas.as_ref().unwrap_or(&known.full_replicas);
    transaction
        .prepare_cached(
            "UPDATE hand_overs SET step = ?3, captured_ends = ?4, target_replicas = ?5, updated_ms = ?6, \
             error = NULL, full_replicas = ?7 WHERE link = ?1 AND topic = ?2",
        )?
        .execute(params![link, topic, step.name(), json(ends), json(replicas), now_ms, json(full)])?;
    let detail = format!("{} -> {step} {}", known.step, next.detail);
    record(transaction, now_ms, (link, Some(topic)), known.kind.name(), detail.trim_end())?;
    if step.is_over() {
        end(transaction, link, next, (known.kind, step), now_ms)?;
    }
    Ok(step)
}

/// The mirror topic follows its hand-over, in the same transaction.
fn end(
    transaction: &Transaction<'_>,
    link: &str,
    last: &Advance,
    (kind, step): (HandOverKind, HandOverStep),
    now_ms: i64,
) -> Result<(), StateError> {
    let (event, code) = match step {
        HandOverStep::Done => (MirrorEvent::HandOverFinished, String::new()),
        _ => (MirrorEvent::HandOverAbandoned, "HAND_OVER_ABANDONED".to_owned()),
    };
    let reason = match (step, last.detail.as_str()) {
        (HandOverStep::Done, _) => format!("{} done", kind.name()),
        (_, "") => format!("{} abandoned", kind.name()),
        (_, why) => format!("{} abandoned: {why}", kind.name()),
    };
    change(transaction, link, &Change { topic: last.topic.clone(), event, reason, code }, now_ms)?;
    insert_repairs(transaction, link, &last.topic, &last.repairs, now_ms)?;
    if let Some(result) = &last.result {
        transaction
            .prepare_cached("UPDATE mirror_topics SET last_promote = ?3 WHERE link = ?1 AND topic = ?2")?
            .execute(params![link, last.topic, json(result)])?;
    }
    Ok(())
}

impl StateDatabase {
    /// Keeps hand-overs as requested and their topics as PENDING_STOPPED: all or none.
    pub async fn begin_hand_overs(
        &self,
        link: &str,
        hand_overs: Vec<NewHandOver>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            hand_overs.iter().try_for_each(|each| begin(transaction, &link, each, now_ms))
        })
        .await
    }

    /// Keeps the next step of each, all or none; when this returns, the steps may be taken. `Finish` and
    /// `Abandon` change the mirror topic too.
    pub async fn advance(
        &self,
        link: &str,
        advances: Vec<Advance>,
        now_ms: i64,
    ) -> Result<Vec<HandOverStep>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            advances.iter().map(|each| advance(transaction, &link, each, now_ms)).collect()
        })
        .await
    }

    /// Why a hand-over does not go on; the step stays. `None` when it goes on.
    pub async fn explain_hand_over(
        &self,
        link: &str,
        topic: &str,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, topic, error) = (link.to_owned(), topic.to_owned(), error.map(str::to_owned));
        self.transact(move |transaction| {
            let known = find(transaction, &link, &topic)?;
            let known = known.ok_or_else(|| StateError::NoHandOver { topic: topic.clone() })?;
            // Retries fail alike for hours: one row for each new reason.
            if known.error == error {
                return Ok(());
            }
            transaction.execute(
                "UPDATE hand_overs SET error = ?3, updated_ms = ?4 WHERE link = ?1 AND topic = ?2",
                params![link, topic, error, now_ms],
            )?;
            let detail = format!("{}: {}", known.step, error.as_deref().unwrap_or("goes on"));
            record(transaction, now_ms, (&link, Some(&topic)), known.kind.name(), &detail)
        })
        .await
    }

    /// Adds to what an open hand-over was asked for; known after a crash.
    pub async fn note_in_hand_over(
        &self,
        link: &str,
        topic: &str,
        (name, value): (&str, Value),
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, topic, name) = (link.to_owned(), topic.to_owned(), name.to_owned());
        self.transact(move |transaction| {
            let known = find(transaction, &link, &topic)?.filter(|known| !known.step.is_over());
            let known = known.ok_or_else(|| StateError::NoHandOver { topic: topic.clone() })?;
            let mut options = known.options;
            options[&name] = value;
            let text = json(&options);
            transaction.execute(
                "UPDATE hand_overs SET options = ?3, updated_ms = ?4 WHERE link = ?1 AND topic = ?2",
                params![link, topic, text, now_ms],
            )?;
            let detail = format!("{name}: {}", options[&name]);
            record(transaction, now_ms, (&link, Some(&topic)), known.kind.name(), &detail)
        })
        .await
    }

    /// Hand-overs of a link, those that are over too.
    pub async fn hand_overs(&self, link: &str) -> Result<Vec<HandOver>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT * FROM hand_overs WHERE link = ?1 ORDER BY topic")?;
            statement.query_map([link], |row| Ok(HandOver::read(row)))?.map(|row| row?).collect()
        })
        .await
    }
}
