//! Who ordered what, and what came of it: the newest orders of operators, those that were refused too.
//!
//! Rows are only added. What an order changed stands in the history; here stands whose it was.

use super::{StateDatabase, StateError};
use rusqlite::{Row, params};

/// Rows of one answer: they are held in memory, as values and as text.
pub const AUDIT_ROWS_MAX: u32 = 1_000;
/// Rows that are kept, some 300 bytes each; the oldest go. The file's trigger guards the same number: raised here
/// alone, old rows are deleted that the trigger would still protect, and nothing more is kept.
pub(super) const AUDIT_ROWS_KEPT: i64 = 100_000;

/// One order of an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRow {
    /// Given by the file.
    pub id: i64,
    pub time_ms: i64,
    /// `uid 1000`, `token ci`, `certificate CN=ops`, or who stays unknown.
    pub who: String,
    /// The address that it came from, or `socket`.
    pub peer: String,
    pub method: String,
    pub path: String,
    /// Topics or pattern of the order.
    pub what: String,
    pub is_dry_run: bool,
    pub status: u16,
    /// Of the refusal, or of the first topic that was refused.
    pub error_code: String,
}

impl AuditRow {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            id: row.get("id")?,
            time_ms: row.get("time_ms")?,
            who: row.get("who")?,
            peer: row.get("peer")?,
            method: row.get("method")?,
            path: row.get("path")?,
            what: row.get("what")?,
            is_dry_run: row.get("is_dry_run")?,
            status: row.get("status")?,
            error_code: row.get("error_code")?,
        })
    }
}

impl StateDatabase {
    /// Keeps one order; durable when this returns.
    pub async fn add_audit(&self, row: AuditRow) -> Result<(), StateError> {
        self.transact(move |transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO audit (time_ms, who, peer, method, path, what, is_dry_run, status, error_code) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    row.time_ms,
                    row.who,
                    row.peer,
                    row.method,
                    row.path,
                    row.what,
                    row.is_dry_run,
                    row.status,
                    row.error_code
                ])?;
            let oldest_kept = transaction.last_insert_rowid() - AUDIT_ROWS_KEPT;
            transaction.prepare_cached("DELETE FROM audit WHERE id <= ?1")?.execute([oldest_kept])?;
            Ok(())
        })
        .await
    }

    /// The newest orders, newest first.
    pub async fn audit(&self, rows_max: u32) -> Result<Vec<AuditRow>, StateError> {
        let rows_max = rows_max.min(AUDIT_ROWS_MAX);
        self.transact(move |transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT * FROM audit ORDER BY id DESC LIMIT ?1")?;
            let rows = statement.query_map([rows_max], AuditRow::read)?;
            rows.map(|row| row.map_err(StateError::from)).collect()
        })
        .await
    }
}
