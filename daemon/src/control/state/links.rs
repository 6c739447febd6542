//! Links, the identities of their guest brokers, producer-id floors, and the history of everything.

use super::row::{GuestIdentity, HistoryEntry, Link, ProducerIdFloor, json};
use super::{StateDatabase, StateError};
use rusqlite::{OptionalExtension, Transaction, params};

/// Rows of one answer; an operator reads the newest ones, and they are held in memory.
const HISTORY_ROWS_MAX: u32 = 10_000;

/// Rows of history that are kept, some 200 bytes each; the oldest go. The file's trigger guards the same number:
/// raised here alone, old rows are deleted that the trigger would still protect, and nothing more is kept.
pub(super) const HISTORY_ROWS_KEPT: i64 = 100_000;

/// Adds to the history, in the transaction of what happened.
pub(super) fn record(
    transaction: &Transaction<'_>,
    now_ms: i64,
    (link, topic): (&str, Option<&str>),
    event: &str,
    detail: &str,
) -> Result<(), StateError> {
    transaction
        .prepare_cached(
            "INSERT INTO history (time_ms, link, topic, event, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![now_ms, link, topic, event, detail])?;
    let oldest_kept = transaction.last_insert_rowid() - HISTORY_ROWS_KEPT;
    transaction.prepare_cached("DELETE FROM history WHERE id <= ?1")?.execute([oldest_kept])?;
    Ok(())
}

fn link_row(transaction: &Transaction<'_>, link: &str) -> Result<Option<Link>, StateError> {
    let mut statement = transaction.prepare_cached("SELECT * FROM links WHERE link = ?1")?;
    let found = statement.query_row([link], |row| Ok(Link::read(row))).optional()?;
    found.transpose()
}

impl StateDatabase {
    /// Keeps a link, or finds that it is known. Its name never comes to stand for other clusters.
    pub async fn put_link(&self, wanted: Link) -> Result<(), StateError> {
        self.transact(move |transaction| {
            if let Some(known) = link_row(transaction, &wanted.link)? {
                let clusters =
                    |link: &Link| (link.source_cluster_id.clone(), link.destination_cluster_id.clone());
                if clusters(&known) == clusters(&wanted) {
                    return Ok(());
                }
                let (source, destination) = clusters(&known);
                return Err(StateError::OtherClusters { link: wanted.link, source, destination });
            }
            transaction.execute(
                "INSERT INTO links (link, source_cluster_id, destination_cluster_id, created_ms) \
                 VALUES (?1, ?2, ?3, ?4)",
                params![
                    wanted.link,
                    wanted.source_cluster_id,
                    wanted.destination_cluster_id,
                    wanted.created_ms
                ],
            )?;
            let detail =
                format!("source {}, destination {}", wanted.source_cluster_id, wanted.destination_cluster_id);
            record(transaction, wanted.created_ms, (&wanted.link, None), "link created", &detail)
        })
        .await
    }

    /// Keeps that a link is paused, or goes on, whatever its configuration says.
    pub async fn pause_link(&self, link: &str, paused: bool, now_ms: i64) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let changed = transaction
                .prepare_cached("UPDATE links SET paused = ?2 WHERE link = ?1")?
                .execute(params![link, paused])?;
            if changed == 0 {
                return Err(StateError::NoSuchLink { link });
            }
            let event = if paused { "link paused" } else { "link resumed" };
            record(transaction, now_ms, (&link, None), event, "an operator said so")
        })
        .await
    }

    pub async fn link(&self, link: &str) -> Result<Option<Link>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| link_row(transaction, &link)).await
    }

    pub async fn links(&self) -> Result<Vec<Link>, StateError> {
        self.transact(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT * FROM links ORDER BY link")?;
            statement.query_map([], |row| Ok(Link::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    /// Keeps as whom the guest brokers of a link register. An incarnation may change, a directory never.
    pub async fn put_guest_identities(
        &self,
        link: &str,
        identities: Vec<GuestIdentity>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            link_row(transaction, &link)?.ok_or_else(|| StateError::NoSuchLink { link: link.clone() })?;
            for identity in &identities {
                let GuestIdentity { broker_id, incarnation, directory } = *identity;
                let known: Option<[u8; 16]> = transaction
                    .prepare_cached(
                        "SELECT directory FROM guest_identities WHERE link = ?1 AND broker_id = ?2",
                    )?
                    .query_row(params![link, broker_id], |row| row.get(0))
                    .optional()?;
                if known.is_some_and(|known| known != directory) {
                    return Err(StateError::OtherDirectory { link, broker_id });
                }
                transaction
                    .prepare_cached(
                        "INSERT INTO guest_identities (link, broker_id, incarnation, directory) \
                         VALUES (?1, ?2, ?3, ?4) \
                         ON CONFLICT (link, broker_id) DO UPDATE SET incarnation = excluded.incarnation",
                    )?
                    .execute(params![link, broker_id, incarnation, directory])?;
                record(transaction, now_ms, (&link, None), "guest identity", &format!("broker {broker_id}"))?;
            }
            Ok(())
        })
        .await
    }

    pub async fn guest_identities(&self, link: &str) -> Result<Vec<GuestIdentity>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT * FROM guest_identities WHERE link = ?1 ORDER BY broker_id")?;
            statement.query_map([link], |row| Ok(GuestIdentity::read(row)))?.map(|row| row?).collect()
        })
        .await
    }

    /// After the ids have left the destination for good.
    pub async fn forget_guest_identities(&self, link: &str, now_ms: i64) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let gone = transaction.execute("DELETE FROM guest_identities WHERE link = ?1", [&link])?;
            record(transaction, now_ms, (&link, None), "guest left", &format!("{gone} broker ids"))
        })
        .await
    }

    /// All zero until it was lifted.
    pub async fn producer_id_floor(&self, link: &str) -> Result<ProducerIdFloor, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| floor_row(transaction, &link)).await
    }

    /// Raises either figure; neither ever falls.
    pub async fn raise_producer_id_floor(
        &self,
        link: &str,
        raised: ProducerIdFloor,
        now_ms: i64,
    ) -> Result<ProducerIdFloor, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            link_row(transaction, &link)?.ok_or_else(|| StateError::NoSuchLink { link: link.clone() })?;
            let known = floor_row(transaction, &link)?;
            let mut skipped = known.skipped.clone();
            skipped.add_all(&raised.skipped);
            let next = ProducerIdFloor {
                floor: known.floor.max(raised.floor),
                highest_mirrored: known.highest_mirrored.max(raised.highest_mirrored),
                skipped,
            };
            if next == known {
                return Ok(known);
            }
            transaction.execute(
                "INSERT INTO producer_id_floors (link, floor, highest_mirrored, skipped) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (link) DO UPDATE SET floor = excluded.floor, \
                 highest_mirrored = excluded.highest_mirrored, skipped = excluded.skipped",
                params![link, next.floor, next.highest_mirrored, json(&next.skipped)],
            )?;
            let detail = format!("floor {}, highest mirrored {}", next.floor, next.highest_mirrored);
            record(transaction, now_ms, (&link, None), "producer id floor", &detail)?;
            Ok(next)
        })
        .await
    }

    /// Adds what happened without changing any state: an alarm, a gap, an operator's word.
    pub async fn record_event(
        &self,
        link: &str,
        topic: Option<&str>,
        event: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let (link, topic) = (link.to_owned(), topic.map(str::to_owned));
        let (event, detail) = (event.to_owned(), detail.to_owned());
        self.transact(move |transaction| {
            record(transaction, now_ms, (&link, topic.as_deref()), &event, &detail)
        })
        .await
    }

    /// The newest entries, newest first; of one topic when it is named.
    pub async fn history(
        &self,
        link: &str,
        topic: Option<&str>,
        rows_max: u32,
    ) -> Result<Vec<HistoryEntry>, StateError> {
        let (link, topic) = (link.to_owned(), topic.map(str::to_owned));
        let rows_max = rows_max.min(HISTORY_ROWS_MAX);
        self.transact(move |transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT * FROM history WHERE link = ?1 AND (?2 IS NULL OR topic = ?2) ORDER BY id DESC LIMIT ?3",
            )?;
            let rows = statement.query_map(params![link, topic, rows_max], |row| Ok(HistoryEntry::read(row)))?;
            rows.map(|row| row?).collect()
        })
        .await
    }
}

fn floor_row(transaction: &Transaction<'_>, link: &str) -> Result<ProducerIdFloor, StateError> {
    let mut statement = transaction.prepare_cached("SELECT * FROM producer_id_floors WHERE link = ?1")?;
    let found = statement.query_row([link], |row| Ok(ProducerIdFloor::read(row))).optional()?;
    Ok(found.transpose()?.unwrap_or_default())
}
