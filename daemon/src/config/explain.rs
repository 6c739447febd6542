//! The key table as text: for `twinlog config explain`, and for the reference in the README.

use super::key::{KEYS, Key, Scope, key, nearest};
use super::security_keys::is_security;
use std::fmt::Write;

/// What `config explain [KEY]` prints. `Err` holds the sentence for an unknown key.
pub fn explain(name: Option<&str>) -> Result<String, String> {
    let Some(name) = name else {
        let width = KEYS.iter().map(|key| key.path().len()).max().unwrap_or(0);
        let mut text = String::new();
        for key in KEYS {
            let _ = writeln!(text, "{:width$}  {} {}", key.path(), key.help, default_of(key));
        }
        return Ok(text);
    };
    // The full path as `config explain` itself prints it is accepted too.
    let by_path = KEYS.iter().find(|key| key.path() == name);
    let Some(key) = by_path.or_else(|| key(name)) else {
        let hint = nearest(name).map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
        return Err(format!("{name} is not a key{hint}"));
    };
    let mut text = format!("{}\n  {}\n", key.path(), key.help);
    let _ = writeln!(text, "  place:      {}", key.scope);
    let _ = writeln!(text, "  allowed:    {}", key.kind);
    let _ = writeln!(text, "  default:    {}", if key.default.is_empty() { "none" } else { key.default });
    let _ = writeln!(text, "  reloadable: {}", reloading(key));
    Ok(text)
}

fn reloading(key: &Key) -> &'static str {
    match key.scope {
        _ if key.reloadable => "yes, at once",
        Scope::Daemon => "no, restart the daemon",
        _ if key.is_fixed() => "no, a link keeps it for good",
        _ => "yes, the data threads of its link start again",
    }
}

/// The table as the README shows it.
pub fn markdown_table() -> String {
    let mut text =
        String::from("| key | default | allowed | live | meaning |\n| --- | --- | --- | --- | --- |\n");
    for key in KEYS.iter().filter(|key| !is_told_already(key)) {
        let allowed = key.kind.to_string().replace('|', "\\|");
        let default = if key.default.is_empty() { "" } else { &format!("`{}`", key.default) };
        let live = if key.reloadable { "yes" } else { "" };
        let _ = writeln!(text, "| `{}` | {default} | {allowed} | {live} | {} |", place_of(key), key.help);
    }
    text
}

/// Keys of security stand in three places with one meaning: one row is enough.
fn is_told_already(key: &Key) -> bool {
    is_security(key.name) && key.scope != Scope::Source
}

fn place_of(key: &Key) -> String {
    match is_security(key.name) {
        true => format!("link.NAME.{{source,destination,destination.controllers}}.{}", key.name),
        false => key.path(),
    }
}

fn default_of(key: &Key) -> String {
    match key.default {
        "" if key.required => "(required)".to_owned(),
        "" => String::new(),
        default => format!("({default})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_explained_alone_and_in_the_list() {
        let list = explain(None).unwrap();
        let table = markdown_table();
        for key in KEYS {
            assert!(list.contains(key.help) && table.contains(&place_of(key)), "{}", key.name);
            assert!(explain(Some(key.name)).is_ok());
            assert!(explain(Some(&key.path())).unwrap().contains(key.help));
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_its_neighbour() {
        assert_eq!(explain(Some("flush.mss")).unwrap_err(), "flush.mss is not a key; did you mean flush.ms?");
    }
}
