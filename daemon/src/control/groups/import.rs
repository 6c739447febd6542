//! Positions of a file into a cluster: for a cut-over, and for a store that was adopted.
//!
//! Every group is read before it is written. A position that would go back is left alone unless that is asked for, and
//! one whose group has members is refused by its broker, and said.

use super::cluster::{ASKING_LANE, Cluster};
use super::coordinators::commit_request;
use super::offset_file::OffsetLine;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use twinlog_sync::wire::offset_fetch::OffsetAnswers;

/// Groups of one reading.
const GROUPS_PER_READING_MAX: usize = 500;

/// What becomes of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Written,
    /// It is there already.
    Same,
    /// The cluster is further; nothing was allowed to go back.
    WouldGoBack,
    /// Nobody coordinates the group, or the broker said no.
    Refused {
        code: i16,
    },
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written => write!(f, "WRITTEN"),
            Self::Same => write!(f, "SAME"),
            Self::WouldGoBack => write!(f, "WOULD_GO_BACK"),
            Self::Refused { code } => write!(f, "REFUSED (error code {code})"),
        }
    }
}

/// One line and what the cluster held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub line: OffsetLine,
    pub before: Option<i64>,
    pub fate: Fate,
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub dry_run: bool,
    pub allow_rewind: bool,
}

fn fate_of(before: Option<i64>, offset: i64, manner: Manner) -> Fate {
    match before {
        Some(before) if before == offset => Fate::Same,
        Some(before) if before > offset && !manner.allow_rewind => Fate::WouldGoBack,
        _ => Fate::Written,
    }
}

/// Writes what is to be written, group by group.
pub async fn import(
    cluster: Arc<Cluster>,
    lines: Vec<OffsetLine>,
    manner: Manner,
) -> Result<Vec<Imported>, String> {
    let listing = cluster.list().await;
    if let Some(error) = listing.error {
        return Err(error);
    }
    let mut groups: BTreeMap<String, Vec<OffsetLine>> = BTreeMap::new();
    for line in lines {
        groups.entry(line.group.clone()).or_default().push(line);
    }
    let names: Vec<String> = groups.keys().cloned().collect();
    let mut by_broker: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    let mut imported = Vec::new();
    for (name, broker) in names.iter().zip(cluster.coordinators(&names).await) {
        match broker {
            Ok(broker) => by_broker.entry(broker).or_default().push(name.clone()),
            Err(code) => {
                let lines = groups.remove(name).unwrap_or_default();
                imported.extend(lines.into_iter().map(|line| refused(line, None, code)));
            }
        }
    }
    for (broker, names) in by_broker {
        for piece in names.chunks(GROUPS_PER_READING_MAX) {
            let held = held_by(&cluster, broker, piece).await?;
            for name in piece {
                let lines = groups.remove(name).unwrap_or_default();
                imported.extend(import_group(&cluster, broker, lines, &held, manner).await?);
            }
        }
    }
    imported.sort_by(|one, other| one.line.cmp(&other.line));
    Ok(imported)
}

type Held = HashMap<(String, String, i32), i64>;

async fn held_by(cluster: &Cluster, broker: i32, names: &[String]) -> Result<Held, String> {
    let bytes = cluster.positions(broker, names).await.map_err(|error| error.to_string())?;
    let mut answers = OffsetAnswers::parse(&bytes).map_err(|error| error.to_string())?;
    let mut held = Held::new();
    while let Some(answer) = answers.next_group().map_err(|error| error.to_string())? {
        if answer.code != 0 {
            return Err(format!("group {} cannot be read: error code {}", answer.group, answer.code));
        }
        for each in answer.positions().filter(|each| each.offset >= 0) {
            held.insert((answer.group.to_owned(), each.topic.to_owned(), each.index), each.offset);
        }
    }
    Ok(held)
}

async fn import_group(
    cluster: &Cluster,
    broker: i32,
    lines: Vec<OffsetLine>,
    held: &Held,
    manner: Manner,
) -> Result<Vec<Imported>, String> {
    let judged = lines.into_iter().map(|line| {
        let before = held.get(&(line.group.clone(), line.topic.clone(), line.partition)).copied();
        let fate = fate_of(before, line.offset, manner);
        Imported { line, before, fate }
    });
    let mut judged: Vec<Imported> = judged.collect();
    let new: Vec<&Imported> = judged.iter().filter(|each| each.fate == Fate::Written).collect();
    if manner.dry_run || new.is_empty() {
        return Ok(judged);
    }
    let rows = new.iter().map(|each| (each.line.topic.as_str(), each.line.partition, each.line.offset, ""));
    let request = commit_request(&new[0].line.group, rows);
    let answer = async { cluster.send(broker, ASKING_LANE, |_| request).await?.decoded().await };
    let answer = cluster.within(broker, Cluster::limit(), "OffsetCommit", answer).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let codes: HashMap<(&str, i32), i16> = answer
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|each| ((topic.name.as_str(), each.partition_index), each.error_code))
        })
        .collect();
    for each in judged.iter_mut().filter(|each| each.fate == Fate::Written) {
        match codes.get(&(each.line.topic.as_str(), each.line.partition)) {
            Some(0) => {}
            Some(code) => each.fate = Fate::Refused { code: *code },
            None => each.fate = Fate::Refused { code: super::NETWORK_EXCEPTION },
        }
    }
    Ok(judged)
}

fn refused(line: OffsetLine, before: Option<i64>, code: i16) -> Imported {
    Imported { line, before, fate: Fate::Refused { code } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_back_unless_that_is_asked_for() {
        let manner = |allow_rewind| Manner { dry_run: false, allow_rewind };
        for (before, expected, allowed) in [
            (None, Fate::Written, Fate::Written),
            (Some(6), Fate::Written, Fate::Written),
            (Some(7), Fate::Same, Fate::Same),
            (Some(8), Fate::WouldGoBack, Fate::Written),
        ] {
            assert_eq!(fate_of(before, 7, manner(false)), expected);
            assert_eq!(fate_of(before, 7, manner(true)), allowed);
        }
    }
}
