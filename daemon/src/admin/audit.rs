//! Who ordered what, and what came of it: one line of the log and one row of the state for each change.
//!
//! A row is written before the answer is sent, and also when nobody waits for the answer any more. What strangers
//! wrote into it is cut to a length and holds no line ends.

use super::AdminError;
use super::answer::AuditView;
use super::door::Caller;
use super::error::ErrorCode;
use crate::control::state::{AuditRow, StateDatabase};
use hyper::http::request::Parts;
use tracing::{error, info};
use twinlog_io::wall_clock_ms;

/// Letters of a path or of a list of topics that are kept; ten thousand names would be a megabyte.
const TEXT_CHARS_MAX: usize = 500;
/// The longest one that HTTP itself has is OPTIONS.
const METHOD_CHARS_MAX: usize = 16;

/// A row as far as it is known before the order is judged.
pub(super) fn begin(caller: &Caller, head: &Parts) -> AuditRow {
    AuditRow {
        time_ms: wall_clock_ms(),
        who: caller.who.clone(),
        peer: caller.peer.clone(),
        method: plain(head.method.as_str(), METHOD_CHARS_MAX),
        path: plain(head.uri.path(), TEXT_CHARS_MAX),
        ..AuditRow::default()
    }
}

/// What the order means, once it is understood.
pub(super) fn said(row: &mut AuditRow, (what, is_dry_run): (String, bool)) {
    row.what = plain(&what, TEXT_CHARS_MAX);
    row.is_dry_run = is_dry_run;
}

/// Writes it down. The order is done or refused by now: a disk that fails changes nothing of it.
pub(super) async fn keep(state: &StateDatabase, row: AuditRow) {
    let AuditRow { who, peer, method, path, what, is_dry_run, status, error_code, .. } = &row;
    info!(
        target: "audit",
        "audit: {who} from {peer}: {method} {path} topics [{what}]{}: {status} {error_code}",
        if *is_dry_run { " dry run" } else { "" }
    );
    if let Err(error) = state.add_audit(row).await {
        error!("an order of an operator is not kept in the audit: {error}");
    }
}

/// The newest rows.
pub(super) async fn newest(state: &StateDatabase, limit: u32) -> Result<Vec<AuditView>, AdminError> {
    let rows = state.audit(limit).await.map_err(|error| AdminError::new(ErrorCode::Internal, &error))?;
    let view = |row: AuditRow| AuditView {
        id: row.id,
        time_ms: row.time_ms,
        who: row.who,
        peer: row.peer,
        method: row.method,
        path: row.path,
        what: row.what,
        validate_only: row.is_dry_run,
        status: row.status,
        error_code: row.error_code,
    };
    Ok(rows.into_iter().map(view).collect())
}

fn plain(text: &str, chars_max: usize) -> String {
    let letters = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut cut: String = letters.take(chars_max).collect();
    if text.chars().nth(chars_max).is_some() {
        cut.push_str("...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_is_one_line_of_bounded_length() {
        assert_eq!(plain("a\nb\r\u{1b}[2J", 20), "a b  [2J");
        assert_eq!(plain("abcdef", 3), "abc...");
        assert_eq!(plain("abc", 3), "abc");
    }
}
