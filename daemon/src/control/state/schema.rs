//! The file: how it is opened, what is in it, which version it has.
//!
//! Invariant: a file of a later schema is refused untouched. Migrations are added to [`STEPS`], never changed:
//! the version of a file is how many of them it has seen.

use super::StateError;
use super::error::says_corrupt;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// How long a lock of another process (a copy being made) is waited for.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Schema n is what the first n steps make.
const STEPS: [&str; 8] = [
    "
CREATE TABLE links (
    link TEXT PRIMARY KEY,
    source_cluster_id TEXT NOT NULL,
    destination_cluster_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE guest_identities (
    link TEXT NOT NULL REFERENCES links,
    broker_id INTEGER NOT NULL,
    incarnation BLOB NOT NULL,
    directory BLOB NOT NULL,
    PRIMARY KEY (link, broker_id)
) STRICT;
CREATE TABLE mirror_topics (
    link TEXT NOT NULL REFERENCES links,
    topic TEXT NOT NULL,
    source_topic_id BLOB NOT NULL,
    destination_topic_id BLOB,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    code TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    wanted_configs TEXT NOT NULL,
    replication_factor INTEGER NOT NULL,
    last_promote TEXT,
    PRIMARY KEY (link, topic)
) STRICT;
CREATE TABLE hand_overs (
    link TEXT NOT NULL,
    topic TEXT NOT NULL,
    kind TEXT NOT NULL,
    step TEXT NOT NULL,
    captured_ends TEXT NOT NULL,
    target_replicas TEXT NOT NULL,
    options TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (link, topic),
    FOREIGN KEY (link, topic) REFERENCES mirror_topics
) STRICT;
CREATE TABLE producer_id_floors (
    link TEXT PRIMARY KEY REFERENCES links,
    floor INTEGER NOT NULL,
    highest_mirrored INTEGER NOT NULL
) STRICT;
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms INTEGER NOT NULL,
    link TEXT NOT NULL,
    topic TEXT,
    event TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX history_of_topic ON history (link, topic, id);
CREATE TRIGGER history_is_not_changed BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
CREATE TRIGGER history_is_not_removed BEFORE DELETE ON history
BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
",
    "
CREATE TABLE commanded_topics (
    link TEXT NOT NULL REFERENCES links,
    topic TEXT NOT NULL,
    command TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (link, topic)
) STRICT;
CREATE TABLE deletions (
    link TEXT NOT NULL REFERENCES links,
    topic TEXT NOT NULL,
    step TEXT NOT NULL,
    delete_data INTEGER NOT NULL,
    destination_topic_id BLOB,
    started_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (link, topic)
) STRICT;
CREATE TABLE replica_repairs (
    link TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    destination_topic_id BLOB NOT NULL,
    wanted TEXT NOT NULL,
    expected TEXT NOT NULL,
    sent TEXT,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (link, topic, partition),
    FOREIGN KEY (link, topic) REFERENCES mirror_topics
) STRICT;
ALTER TABLE hand_overs ADD COLUMN full_replicas TEXT NOT NULL DEFAULT '{}';
DROP TRIGGER history_is_not_removed;
CREATE TRIGGER history_is_not_removed BEFORE DELETE ON history
WHEN OLD.id > (SELECT max(id) FROM history) - 100000
BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
",
    // As JSON: producer ids that the destination gave to us.
    "ALTER TABLE producer_id_floors ADD COLUMN skipped TEXT NOT NULL DEFAULT '[]'",
    // What an operator said of the whole link; NULL: nothing.
    "ALTER TABLE links ADD COLUMN paused INTEGER",
    "
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    peer TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    what TEXT NOT NULL,
    is_dry_run INTEGER NOT NULL,
    status INTEGER NOT NULL,
    error_code TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit is only added to'); END;
CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
WHEN OLD.id > (SELECT max(id) FROM audit) - 100000
BEGIN SELECT RAISE(ABORT, 'audit is only added to'); END;
",
    // Links by the word of operators, and what they said of links. No row of `links` is needed: that one comes when
    // both clusters have answered.
    "
CREATE TABLE created_links (
    link TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE link_configs (
    link TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    PRIMARY KEY (link, name)
) STRICT;
",
    // Positions of consumer groups where the copy is a store.
    "
CREATE TABLE group_offsets (
    link TEXT NOT NULL,
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    PRIMARY KEY (link, group_id, topic, partition)
) STRICT, WITHOUT ROWID;
",
    // What we last wrote of each group at a cluster, as JSON.
    "
CREATE TABLE written_offsets (
    link TEXT NOT NULL,
    group_id TEXT NOT NULL,
    positions TEXT NOT NULL,
    PRIMARY KEY (link, group_id)
) STRICT, WITHOUT ROWID;
",
];

/// The newest schema this program knows.
pub(super) const SCHEMA: i64 = STEPS.len() as i64;

/// Opens the file, makes it when it is absent, and brings it to [`SCHEMA`].
pub(super) fn open(path: &Path) -> Result<Connection, StateError> {
    create(path)?;
    let named = |error: rusqlite::Error| {
        let path = path.to_owned();
        match error.sqlite_error() {
            _ if says_corrupt(&error) => StateError::Corrupt { path },
            failure => StateError::Open { path, code: failure.map_or(0, |failure| failure.extended_code) },
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(named)?;
    connection.busy_timeout(BUSY_LIMIT).map_err(named)?;
    // Looked at before anything is set: a file of a later program stays as it is.
    let found = version(&connection).map_err(named)?;
    if found > SCHEMA {
        return Err(StateError::Newer { path: path.to_owned(), found, known: SCHEMA });
    }
    if !is_sound(&connection).map_err(named)? {
        return Err(StateError::Corrupt { path: path.to_owned() });
    }
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")] {
        connection.pragma_update(None, name, value).map_err(named)?;
    }
    migrate(&mut connection, found).map_err(named)?;
    Ok(connection)
}

/// An empty file is an empty database to SQLite. Only its owner reads it; what SQLite adds beside it
/// (`-wal`, `-shm`) gets the same mode.
fn create(path: &Path) -> Result<(), StateError> {
    let failed = |error: std::io::Error| StateError::File { path: path.to_owned(), error: error.kind() };
    let directory = path.parent().expect("the state file lies in our own directory");
    DirBuilder::new().recursive(true).create(directory).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    let present: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'schema_version')",
        [],
        |row| row.get(0),
    )?;
    if !present {
        return Ok(0);
    }
    connection.query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))
}

/// Reads every page once; the file holds some hundred bytes for each mirror topic and change.
fn is_sound(connection: &Connection) -> rusqlite::Result<bool> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(verdict == "ok")
}

fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    if found == SCHEMA {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY) STRICT",
    )?;
    let seen = usize::try_from(found).unwrap_or(0);
    for (index, step) in STEPS.iter().enumerate().skip(seen) {
        transaction.execute_batch(step)?;
        transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", [index as i64 + 1])?;
    }
    transaction.commit()
}
