//! Mirror topics: created, changed as the table of states allows, forgotten.
//!
//! Calls take thousands of topics at once: one transaction is one fsync, and either all of them change or
//! none does.

use super::links::record;
use super::row::{MirrorTopic, json};
use super::{StateDatabase, StateError};
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::BTreeMap;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::lifecycle::{MIRROR_TRANSITIONS, MirrorEvent, MirrorState, Transition};

/// A mirror topic that is about to be created at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMirror {
    pub topic: String,
    pub source_topic_id: TopicId,
    pub wanted_configs: BTreeMap<String, String>,
    pub replication_factor: u16,
    pub reason: String,
}

/// Something that happened to a mirror topic, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub topic: String,
    pub event: MirrorEvent,
    pub reason: String,
    pub code: String,
}

pub(super) fn mirror_row(
    transaction: &Transaction<'_>,
    link: &str,
    topic: &str,
) -> Result<MirrorTopic, StateError> {
    find(transaction, link, topic)?
        .ok_or_else(|| StateError::NoSuchMirror { link: link.to_owned(), topic: topic.to_owned() })
}

fn find(transaction: &Transaction<'_>, link: &str, topic: &str) -> Result<Option<MirrorTopic>, StateError> {
    let mut statement =
        transaction.prepare_cached("SELECT * FROM mirror_topics WHERE link = ?1 AND topic = ?2")?;
    let found = statement.query_row([link, topic], |row| Ok(MirrorTopic::read(row))).optional()?;
    found.transpose()
}

/// Changes one topic and adds the row of history.
pub(super) fn change(
    transaction: &Transaction<'_>,
    link: &str,
    change: &Change,
    now_ms: i64,
) -> Result<MirrorState, StateError> {
    let Change { topic, event, reason, code } = change;
    let state = mirror_row(transaction, link, topic)?.state;
    let next = Transition::next(MIRROR_TRANSITIONS, state, *event).ok_or_else(|| StateError::Forbidden {
        topic: topic.clone(),
        state,
        event: *event,
    })?;
    transaction
        .prepare_cached(
            "UPDATE mirror_topics SET state = ?3, reason = ?4, code = ?5, since_ms = ?6 \
             WHERE link = ?1 AND topic = ?2",
        )?
        .execute(params![link, topic, next.name(), reason, code, now_ms])?;
    let detail = format!("{state} -> {next}: {reason}");
    record(transaction, now_ms, (link, Some(topic)), event.name(), &detail)?;
    Ok(next)
}

/// Refuses while a hand-over of the topic is under way.
pub(super) fn refuse_open_hand_over(
    transaction: &Transaction<'_>,
    link: &str,
    topic: &str,
) -> Result<(), StateError> {
    match super::hand_overs::find(transaction, link, topic)? {
        Some(found) if !found.step.is_over() => {
            Err(StateError::HandOverOpen { topic: topic.to_owned(), step: found.step })
        }
        _ => Ok(()),
    }
}

fn insert(transaction: &Transaction<'_>, link: &str, new: &NewMirror, now_ms: i64) -> Result<(), StateError> {
    match find(transaction, link, &new.topic)? {
        None => {}
        // What was handed over may be mirrored anew; its history stays.
        Some(known) if known.state == MirrorState::Stopped => forget(transaction, link, &new.topic)?,
        Some(known) => {
            let (link, topic) = (link.to_owned(), new.topic.clone());
            return Err(StateError::MirrorExists { link, topic, state: known.state });
        }
    }
    transaction
        .prepare_cached(
            "INSERT INTO mirror_topics (link, topic, source_topic_id, state, reason, code, since_ms, \
             wanted_configs, replication_factor) VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, ?7, ?8)",
        )?
        .execute(params![
            link,
            new.topic,
            new.source_topic_id.0,
            MirrorState::PendingMirror.name(),
            new.reason,
            now_ms,
            json(&new.wanted_configs),
            new.replication_factor,
        ])?;
    let detail = format!("source topic id {}", new.source_topic_id);
    record(transaction, now_ms, (link, Some(&new.topic)), "mirror created", &detail)
}

pub(super) fn forget(transaction: &Transaction<'_>, link: &str, topic: &str) -> Result<(), StateError> {
    for statement in [
        "DELETE FROM replica_repairs WHERE link = ?1 AND topic = ?2",
        "DELETE FROM hand_overs WHERE link = ?1 AND topic = ?2",
        "DELETE FROM mirror_topics WHERE link = ?1 AND topic = ?2",
    ] {
        transaction.prepare_cached(statement)?.execute([link, topic])?;
    }
    Ok(())
}

impl StateDatabase {
    /// Keeps new mirror topics as PENDING_MIRROR, before the destination is asked for them.
    pub async fn create_mirrors(
        &self,
        link: &str,
        mirrors: Vec<NewMirror>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let known: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM links WHERE link = ?1)",
                [&link],
                |row| row.get(0),
            )?;
            if !known {
                return Err(StateError::NoSuchLink { link });
            }
            mirrors.iter().try_for_each(|mirror| insert(transaction, &link, mirror, now_ms))
        })
        .await
    }

    /// All mirror topics; of one link when it is named.
    pub async fn mirrors(&self, link: Option<&str>) -> Result<Vec<MirrorTopic>, StateError> {
        let link = link.map(str::to_owned);
        self.transact(move |transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT * FROM mirror_topics WHERE ?1 IS NULL OR link = ?1 ORDER BY link, topic",
            )?;
            statement.query_map([link], |row| Ok(MirrorTopic::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    pub async fn mirror(&self, link: &str, topic: &str) -> Result<MirrorTopic, StateError> {
        let (link, topic) = (link.to_owned(), topic.to_owned());
        self.transact(move |transaction| mirror_row(transaction, &link, &topic)).await
    }

    /// Changes states as the table allows, all or none, and returns what each became. Events of hand-overs
    /// come through [`StateDatabase::begin_hand_overs`] and [`StateDatabase::advance`] instead.
    pub async fn transition(
        &self,
        link: &str,
        changes: Vec<Change>,
        now_ms: i64,
    ) -> Result<Vec<MirrorState>, StateError> {
        // Here and not on the thread of the file, which everyone needs.
        let foreign = changes.iter().find(|change| is_of_hand_over(change.event));
        assert!(foreign.is_none(), "{foreign:?} is kept with its hand-over");
        let link = link.to_owned();
        self.transact(move |transaction| {
            let each = changes.iter().map(|one| {
                refuse_open_hand_over(transaction, &link, &one.topic)?;
                change(transaction, &link, one, now_ms)
            });
            each.collect()
        })
        .await
    }

    /// Another reason for the same state; its time stays.
    pub async fn explain_mirror(
        &self,
        link: &str,
        topic: &str,
        (code, reason): (&str, &str),
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, topic) = (link.to_owned(), topic.to_owned());
        let (code, reason) = (code.to_owned(), reason.to_owned());
        self.transact(move |transaction| {
            let known = mirror_row(transaction, &link, &topic)?;
            if (&known.code, &known.reason) == (&code, &reason) {
                return Ok(());
            }
            transaction.execute(
                "UPDATE mirror_topics SET reason = ?3, code = ?4 WHERE link = ?1 AND topic = ?2",
                params![link, topic, reason, code],
            )?;
            record(transaction, now_ms, (&link, Some(&topic)), "reason", &reason)
        })
        .await
    }

    /// What the destination calls them, once it has them.
    pub async fn set_destination_topic_ids(
        &self,
        link: &str,
        ids: Vec<(String, TopicId)>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for (topic, id) in &ids {
                mirror_row(transaction, &link, topic)?;
                transaction
                    .prepare_cached(
                        "UPDATE mirror_topics SET destination_topic_id = ?3 WHERE link = ?1 AND topic = ?2",
                    )?
                    .execute(params![link, topic, id.0])?;
                let at = (link.as_str(), Some(topic.as_str()));
                record(transaction, now_ms, at, "destination topic id", &id.to_string())?;
            }
            Ok(())
        })
        .await
    }

    /// What is restored after a promote, as the source has it now.
    pub async fn set_wanted_configs(
        &self,
        link: &str,
        topic: &str,
        configs: BTreeMap<String, String>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, topic) = (link.to_owned(), topic.to_owned());
        self.transact(move |transaction| {
            if mirror_row(transaction, &link, &topic)?.wanted_configs == configs {
                return Ok(());
            }
            let text = json(&configs);
            transaction.execute(
                "UPDATE mirror_topics SET wanted_configs = ?3 WHERE link = ?1 AND topic = ?2",
                params![link, topic, text],
            )?;
            record(transaction, now_ms, (&link, Some(&topic)), "wanted configs", &text)
        })
        .await
    }

    /// Forgets mirror topics, all or none, unless one is being handed over. Their history stays.
    pub async fn delete_mirrors(
        &self,
        link: &str,
        topics: Vec<String>,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, detail) = (link.to_owned(), detail.to_owned());
        self.transact(move |transaction| {
            topics.iter().try_for_each(|topic| {
                mirror_row(transaction, &link, topic)?;
                refuse_open_hand_over(transaction, &link, topic)?;
                forget(transaction, &link, topic)?;
                record(transaction, now_ms, (&link, Some(topic)), "mirror deleted", &detail)
            })
        })
        .await
    }
}

/// Events that are kept together with a row of `hand_overs`.
fn is_of_hand_over(event: MirrorEvent) -> bool {
    use MirrorEvent::{FailoverRequested, HandOverAbandoned, HandOverFinished, PromoteRequested};
    matches!(event, PromoteRequested | FailoverRequested | HandOverAbandoned | HandOverFinished)
}
