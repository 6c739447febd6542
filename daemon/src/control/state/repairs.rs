//! Replicas that a hand-over left out: kept with its end, until each is a replica again.

use super::links::record;
use super::row::{ReplicaRepair, json};
use super::{StateDatabase, StateError};
use rusqlite::{Transaction, params};

/// Keeps what is to be given back; in the transaction that ends the hand-over.
pub(super) fn insert_repairs(
    transaction: &Transaction<'_>,
    link: &str,
    topic: &str,
    repairs: &[ReplicaRepair],
    now_ms: i64,
) -> Result<(), StateError> {
    for repair in repairs {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO replica_repairs (link, topic, partition, destination_topic_id, wanted, \
                 expected, since_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                link,
                topic,
                repair.partition,
                repair.destination_topic_id.0,
                json(&repair.wanted),
                json(&repair.expected),
                now_ms,
            ])?;
        let detail = format!("partition {}: {:?} of {:?}", repair.partition, repair.expected, repair.wanted);
        record(transaction, now_ms, (link, Some(topic)), "replicas left out", &detail)?;
    }
    Ok(())
}

impl StateDatabase {
    pub async fn repairs(&self, link: &str) -> Result<Vec<ReplicaRepair>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT * FROM replica_repairs WHERE link = ?1 ORDER BY topic, partition")?;
            statement.query_map([link], |row| Ok(ReplicaRepair::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    /// Keeps how far repairs are, all at once; one that is not there any more was cancelled and stays so.
    pub async fn keep_repairs(
        &self,
        link: &str,
        repairs: Vec<ReplicaRepair>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for repair in &repairs {
                let ReplicaRepair { topic, partition, expected, sent, .. } = repair;
                let sent = sent.as_ref().map(json);
                let known = transaction
                    .prepare_cached(
                        // The same list is sent for as long as it is refused: one row of history for it.
                        "UPDATE replica_repairs SET expected = ?4, sent = ?5 WHERE link = ?1 AND topic = ?2 \
                         AND partition = ?3 AND (sent IS NOT ?5 OR expected <> ?4)",
                    )?
                    .execute(params![link, topic, partition, json(expected), sent])?;
                if let Some(list) = sent.filter(|_| known > 0) {
                    let detail = format!("partition {partition}: {list}");
                    record(transaction, now_ms, (&link, Some(topic)), "replicas asked for", &detail)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends repairs, each with the reason.
    pub async fn end_repairs(
        &self,
        link: &str,
        ended: Vec<(String, i32, String)>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for (topic, partition, why) in &ended {
                transaction
                    .prepare_cached(
                        "DELETE FROM replica_repairs WHERE link = ?1 AND topic = ?2 AND partition = ?3",
                    )?
                    .execute(params![link, topic, partition])?;
                let detail = format!("partition {partition}: {why}");
                record(transaction, now_ms, (&link, Some(topic)), "replica repair ended", &detail)?;
            }
            Ok(())
        })
        .await
    }
}
