//! Mirror topics that came or go by command: what was said of each, and the steps of a deletion.
//!
//! What a reader may conclude after a crash: everything before the kept step is done, the step itself may be,
//! nothing after it is. The mark "deleted" outlives the deletion.

use super::links::record;
use super::mirrors::{forget, refuse_open_hand_over};
use super::row::{Deletion, TopicCommand};
use super::{StateDatabase, StateError};
use rusqlite::{OptionalExtension, Transaction, params};
use twinlog_sync::lifecycle::{DELETION_TRANSITIONS, DeletionEvent, DeletionStep, Transition};

fn say(
    transaction: &Transaction<'_>,
    link: &str,
    topic: &str,
    command: TopicCommand,
    now_ms: i64,
) -> Result<(), StateError> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO commanded_topics (link, topic, command, since_ms) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![link, topic, command.name(), now_ms])?;
    record(transaction, now_ms, (link, Some(topic)), "by command", command.name())
}

fn find(transaction: &Transaction<'_>, link: &str, topic: &str) -> Result<Option<Deletion>, StateError> {
    let mut statement =
        transaction.prepare_cached("SELECT * FROM deletions WHERE link = ?1 AND topic = ?2")?;
    let found = statement.query_row([link, topic], |row| Ok(Deletion::read(row))).optional()?;
    found.transpose()
}

fn refuse_unknown_link(transaction: &Transaction<'_>, link: &str) -> Result<(), StateError> {
    let known: bool =
        transaction
            .query_row("SELECT EXISTS (SELECT 1 FROM links WHERE link = ?1)", [link], |row| row.get(0))?;
    if known { Ok(()) } else { Err(StateError::NoSuchLink { link: link.to_owned() }) }
}

impl StateDatabase {
    /// Keeps topics as wanted by command, all or none; a mark that one was deleted goes.
    pub async fn command_topics(
        &self,
        link: &str,
        topics: Vec<String>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            refuse_unknown_link(transaction, &link)?;
            topics.iter().try_for_each(|topic| {
                refuse_open_deletion(transaction, &link, topic)?;
                say(transaction, &link, topic, TopicCommand::Created, now_ms)
            })
        })
        .await
    }

    /// What was said of topics, newest word only.
    pub async fn commanded_topics(&self, link: &str) -> Result<Vec<(String, TopicCommand)>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT * FROM commanded_topics WHERE link = ?1 ORDER BY topic")?;
            statement.query_map([link], |row| Ok(TopicCommand::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    /// Marks topics as deleted and keeps their deletions as begun, all or none.
    pub async fn begin_deletions(
        &self,
        link: &str,
        deletions: Vec<Deletion>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            refuse_unknown_link(transaction, &link)?;
            for Deletion { topic, step, delete_data, destination_topic_id, .. } in &deletions {
                refuse_open_deletion(transaction, &link, topic)?;
                refuse_open_hand_over(transaction, &link, topic)?;
                say(transaction, &link, topic, TopicCommand::Deleted, now_ms)?;
                transaction
                    .prepare_cached(
                        "INSERT INTO deletions (link, topic, step, delete_data, destination_topic_id, \
                         started_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
                    )?
                    .execute(params![
                        link,
                        topic,
                        step.name(),
                        delete_data,
                        destination_topic_id.map(|id| id.0),
                        now_ms
                    ])?;
            }
            Ok(())
        })
        .await
    }

    pub async fn deletions(&self, link: &str) -> Result<Vec<Deletion>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT * FROM deletions WHERE link = ?1 ORDER BY topic")?;
            statement.query_map([link], |row| Ok(Deletion::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    /// Keeps the next step; when this returns it may be taken. Forgetting takes the mirror's rows along.
    pub async fn advance_deletion(
        &self,
        link: &str,
        topic: &str,
        event: DeletionEvent,
        now_ms: i64,
    ) -> Result<DeletionStep, StateError> {
        let (link, topic) = (link.to_owned(), topic.to_owned());
        self.transact(move |transaction| {
            let known = find(transaction, &link, &topic)?;
            let known = known.ok_or_else(|| StateError::NoDeletion { topic: topic.clone() })?;
            let next = Transition::next(DELETION_TRANSITIONS, known.step, event);
            let next = next.ok_or_else(|| StateError::DeletionForbidden {
                topic: topic.clone(),
                step: known.step,
                event,
            })?;
            record(
                transaction,
                now_ms,
                (&link, Some(&topic)),
                "deletion",
                &format!("{} -> {next}", known.step),
            )?;
            if next == DeletionStep::Forgotten {
                forget(transaction, &link, &topic)?;
                transaction
                    .execute("DELETE FROM deletions WHERE link = ?1 AND topic = ?2", [&link, &topic])?;
                return Ok(next);
            }
            transaction.execute(
                "UPDATE deletions SET step = ?3, updated_ms = ?4 WHERE link = ?1 AND topic = ?2",
                params![link, topic, next.name(), now_ms],
            )?;
            Ok(next)
        })
        .await
    }
}

fn refuse_open_deletion(transaction: &Transaction<'_>, link: &str, topic: &str) -> Result<(), StateError> {
    match find(transaction, link, topic)? {
        Some(found) => Err(StateError::DeletionOpen { topic: topic.to_owned(), step: found.step }),
        None => Ok(()),
    }
}
