//! Links that operators created, and configurations that they gave to links.
//!
//! Owns two tables. What a value means is not known here; whoever keeps one has judged it, and no secret is among
//! them. A link that goes takes all of its rows along but the history.

use super::links::record;
use super::{StateDatabase, StateError};
use crate::config::KeptLinks;
use rusqlite::{Transaction, params};

/// Tables with rows of a link, those that refer to others first.
const TABLES_OF_LINKS: [&str; 11] = [
    "group_offsets",
    "written_offsets",
    "replica_repairs",
    "hand_overs",
    "deletions",
    "commanded_topics",
    "mirror_topics",
    "producer_id_floors",
    "guest_identities",
    "link_configs",
    "created_links",
];

fn set(
    transaction: &Transaction<'_>,
    link: &str,
    changes: &[(String, Option<String>)],
    now_ms: i64,
) -> Result<(), StateError> {
    for (name, value) in changes {
        match value {
            Some(value) => transaction
                .prepare_cached(
                    "INSERT INTO link_configs (link, name, value, changed_ms) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (link, name) DO UPDATE SET value = excluded.value, \
                     changed_ms = excluded.changed_ms",
                )?
                .execute(params![link, name, value, now_ms])?,
            None => transaction
                .prepare_cached("DELETE FROM link_configs WHERE link = ?1 AND name = ?2")?
                .execute(params![link, name])?,
        };
        let event = if value.is_some() { "configuration set" } else { "configuration taken back" };
        record(transaction, now_ms, (link, None), event, name)?;
    }
    Ok(())
}

impl StateDatabase {
    /// What operators said of links.
    pub async fn kept_links(&self) -> Result<KeptLinks, StateError> {
        self.transact(|transaction| {
            let mut kept = KeptLinks::new();
            let mut created = transaction.prepare_cached("SELECT link FROM created_links")?;
            for link in created.query_map([], |row| row.get::<_, String>(0))? {
                kept.entry(link?).or_default().created = true;
            }
            let mut values = transaction.prepare_cached("SELECT link, name, value FROM link_configs")?;
            for row in values.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))? {
                let (link, name, value): (String, String, String) = row?;
                kept.entry(link).or_default().values.insert(name, value);
            }
            Ok(kept)
        })
        .await
    }

    /// Keeps a link with all that was said of it. Durable when this returns.
    pub async fn create_link(
        &self,
        link: &str,
        values: Vec<(String, Option<String>)>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            transaction.execute(
                "INSERT INTO created_links (link, created_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![link, now_ms],
            )?;
            // Left over from a link of the file that had this name.
            transaction.execute("DELETE FROM link_configs WHERE link = ?1", [&link])?;
            record(transaction, now_ms, (&link, None), "link created", "an operator said so")?;
            set(transaction, &link, &values, now_ms)
        })
        .await
    }

    /// Keeps changes of a link, all or none; `None` takes a value back.
    pub async fn alter_link(
        &self,
        link: &str,
        changes: Vec<(String, Option<String>)>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| set(transaction, &link, &changes, now_ms)).await
    }

    /// A link is there by no operator's word any more; from the next start on it is not there.
    pub async fn forget_created(&self, link: &str, now_ms: i64) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for table in ["created_links", "link_configs"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE link = ?1"), [&link])?;
            }
            record(transaction, now_ms, (&link, None), "link deleted", "an operator said so")
        })
        .await
    }

    /// Forgets a link and everything that is kept of it but its history.
    pub async fn delete_link(&self, link: &str, now_ms: i64) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for table in TABLES_OF_LINKS.iter().chain(&["links"]) {
                transaction.execute(&format!("DELETE FROM {table} WHERE link = ?1"), [&link])?;
            }
            record(transaction, now_ms, (&link, None), "link forgotten", "with all that was kept of it")
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn change(name: &str, value: Option<&str>) -> (String, Option<String>) {
        (name.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn what_was_said_of_links_survives_and_goes_with_the_link() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDatabase::open(directory.path()).unwrap();
        run(async {
            let values = vec![change("topics", Some("a")), change("flush.ms", Some("5"))];
            state.create_link("made", values, 1).await.unwrap();
            state.alter_link("file", vec![change("flush.ms", Some("7"))], 2).await.unwrap();
            let again = vec![change("flush.ms", None), change("topics", Some("b"))];
            state.alter_link("made", again, 3).await.unwrap();
        });
        drop(state);
        let state = StateDatabase::open(directory.path()).unwrap();
        run(async {
            let kept = state.kept_links().await.unwrap();
            assert!(kept["made"].created && !kept["file"].created);
            assert_eq!(
                kept["made"].values.clone().into_iter().collect::<Vec<_>>(),
                [("topics".into(), "b".into())]
            );
            assert_eq!(kept["file"].values["flush.ms"], "7");
            state.forget_created("made", 4).await.unwrap();
            assert_eq!(state.kept_links().await.unwrap().keys().collect::<Vec<_>>(), ["file"]);
            let history = state.history("made", None, 10).await.unwrap();
            assert_eq!(history[0].event, "link deleted");
            assert!(history.iter().all(|entry| !entry.detail.contains('5')), "names only");
        });
    }

    #[test]
    fn a_link_takes_every_row_of_its_own_along() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDatabase::open(directory.path()).unwrap();
        run(async {
            let link = crate::control::state::Link {
                link: "made".into(),
                source_cluster_id: "s".into(),
                destination_cluster_id: "d".into(),
                paused: None,
                created_ms: 1,
            };
            state.create_link("made", Vec::new(), 1).await.unwrap();
            state.put_link(link).await.unwrap();
            state.command_topics("made", vec!["orders".into()], 2).await.unwrap();
            state.delete_link("made", 3).await.unwrap();
            assert!(state.links().await.unwrap().is_empty() && state.kept_links().await.unwrap().is_empty());
            assert!(state.commanded_topics("made").await.unwrap().is_empty());
            state.delete_link("made", 4).await.unwrap();
        });
    }
}
