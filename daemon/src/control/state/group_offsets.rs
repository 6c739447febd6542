//! Positions of consumer groups: where the copy is a store, for there is no cluster that would keep them; where it is
//! a cluster, what we last wrote there, to tell it from what others write.

use super::{StateDatabase, StateError};
use rusqlite::{OptionalExtension, params};

/// One position, by the group's name at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPosition {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub metadata: String,
}

impl StateDatabase {
    /// What is kept of these groups, each group's positions together.
    pub async fn group_positions(
        &self,
        link: &str,
        groups: Vec<String>,
    ) -> Result<Vec<KeptPosition>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT topic, partition, committed, metadata FROM group_offsets
                 WHERE link = ?1 AND group_id = ?2 ORDER BY topic, partition",
            )?;
            let mut positions = Vec::new();
            for group in groups {
                let rows = statement.query_map(params![link, group], |row| {
                    Ok(KeptPosition {
                        group: group.clone(),
                        topic: row.get(0)?,
                        partition: row.get(1)?,
                        offset: row.get(2)?,
                        metadata: row.get(3)?,
                    })
                })?;
                for row in rows {
                    positions.push(row?);
                }
            }
            Ok(positions)
        })
        .await
    }

    /// Keeps these, all or none.
    pub async fn keep_group_positions(
        &self,
        link: &str,
        positions: Vec<KeptPosition>,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO group_offsets (link, group_id, topic, partition, committed, metadata, changed_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET committed = ?5, metadata = ?6, changed_ms = ?7",
            )?;
            for each in &positions {
                let KeptPosition { group, topic, partition, offset, metadata } = each;
                statement.execute(params![link, group, topic, partition, offset, metadata, now_ms])?;
            }
            Ok(())
        })
        .await
    }

    /// Everything that is kept of a link, by group, topic and partition.
    pub async fn all_group_positions(&self, link: &str) -> Result<Vec<KeptPosition>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT group_id, topic, partition, committed, metadata FROM group_offsets
                 WHERE link = ?1 ORDER BY group_id, topic, partition",
            )?;
            let rows = statement.query_map([link], |row| {
                Ok(KeptPosition {
                    group: row.get(0)?,
                    topic: row.get(1)?,
                    partition: row.get(2)?,
                    offset: row.get(3)?,
                    metadata: row.get(4)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// No position of a topic stays beyond these ends; those that did, as they were.
    pub async fn clamp_group_positions(
        &self,
        link: &str,
        topic: &str,
        ends: Vec<(i32, i64)>,
        now_ms: i64,
    ) -> Result<Vec<KeptPosition>, StateError> {
        let (link, topic) = (link.to_owned(), topic.to_owned());
        self.transact(move |transaction| {
            let mut beyond = transaction.prepare_cached(
                "SELECT group_id, committed, metadata FROM group_offsets
                 WHERE link = ?1 AND topic = ?2 AND partition = ?3 AND committed > ?4 ORDER BY group_id",
            )?;
            let mut clamp = transaction.prepare_cached(
                "UPDATE group_offsets SET committed = ?4, changed_ms = ?5
                 WHERE link = ?1 AND topic = ?2 AND partition = ?3 AND committed > ?4",
            )?;
            let mut clamped = Vec::new();
            for (partition, end) in ends {
                let rows = beyond.query_map(params![link, topic, partition, end], |row| {
                    let (group, offset, metadata) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    Ok(KeptPosition { group, topic: topic.clone(), partition, offset, metadata })
                })?;
                for row in rows {
                    clamped.push(row?);
                }
                clamp.execute(params![link, topic, partition, end, now_ms])?;
            }
            Ok(clamped)
        })
        .await
    }

    /// Forgets groups.
    pub async fn delete_groups(&self, link: &str, groups: Vec<String>) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            for group in &groups {
                transaction.execute(
                    "DELETE FROM group_offsets WHERE link = ?1 AND group_id = ?2",
                    params![link, group],
                )?;
            }
            Ok(())
        })
        .await
    }

    /// What was last written of these groups, as it was kept; a group of which nothing is kept is left out.
    pub async fn written_positions(
        &self,
        link: &str,
        groups: Vec<String>,
    ) -> Result<Vec<(String, String)>, StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT positions FROM written_offsets WHERE link = ?1 AND group_id = ?2")?;
            let mut found = Vec::new();
            for group in groups {
                let kept = statement.query_row(params![link, group], |row| row.get(0)).optional()?;
                found.extend(kept.map(|positions| (group, positions)));
            }
            Ok(found)
        })
        .await
    }

    /// Keeps what was written of groups, and forgets others, all or nothing.
    pub async fn keep_written(
        &self,
        link: &str,
        written: Vec<(String, String)>,
        forgotten: Vec<String>,
    ) -> Result<(), StateError> {
        let link = link.to_owned();
        self.transact(move |transaction| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM written_offsets WHERE link = ?1 AND group_id = ?2")?;
            for group in forgotten {
                statement.execute(params![link, group])?;
            }
            let mut statement = transaction.prepare_cached(
                "INSERT INTO written_offsets (link, group_id, positions) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET positions = ?3",
            )?;
            for (group, positions) in &written {
                statement.execute(params![link, group, positions])?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(group: &str, partition: i32, offset: i64) -> KeptPosition {
        let (group, topic) = (group.to_owned(), "orders".to_owned());
        KeptPosition { group, topic, partition, offset, metadata: String::new() }
    }

    #[test]
    fn positions_are_kept_by_link_and_group_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let state = StateDatabase::open(directory.path()).unwrap();
            let of = async |link: &str, groups: &[&str]| {
                let groups = groups.iter().map(|group| (*group).to_owned()).collect();
                state.group_positions(link, groups).await.unwrap()
            };
            let first = vec![position("app", 0, 7), position("app", 1, 8), position("other", 0, 9)];
            state.keep_group_positions("west", first.clone(), 1).await.unwrap();
            state.keep_group_positions("east", vec![position("app", 0, 70)], 1).await.unwrap();
            assert_eq!(of("west", &["app", "other", "none"]).await, first);
            state.keep_group_positions("west", vec![position("app", 1, 5)], 2).await.unwrap();
            assert_eq!(of("west", &["app"]).await, [position("app", 0, 7), position("app", 1, 5)]);
            let clamped =
                state.clamp_group_positions("west", "orders", vec![(0, 8), (1, 4)], 3).await.unwrap();
            assert_eq!(clamped, [position("other", 0, 9), position("app", 1, 5)]);
            let all = state.all_group_positions("west").await.unwrap();
            assert_eq!(all, [position("app", 0, 7), position("app", 1, 4), position("other", 0, 8)]);
            state.delete_groups("west", vec!["app".to_owned()]).await.unwrap();
            assert_eq!((of("west", &["app"]).await.len(), of("east", &["app"]).await.len()), (0, 1));
        });
    }

    #[test]
    fn what_was_written_is_kept_by_link_and_group_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let state = StateDatabase::open(directory.path()).unwrap();
            let row = |group: &str, positions: &str| (group.to_owned(), positions.to_owned());
            let both = || vec!["app".to_owned(), "other".to_owned()];
            state.keep_written("west", vec![row("app", "1"), row("other", "2")], vec![]).await.unwrap();
            state.keep_written("west", vec![row("app", "3")], vec!["other".to_owned()]).await.unwrap();
            assert_eq!(state.written_positions("west", both()).await.unwrap(), [row("app", "3")]);
            assert!(state.written_positions("east", both()).await.unwrap().is_empty());
        });
    }
}
