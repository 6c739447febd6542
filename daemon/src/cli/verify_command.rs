//! `twinlog verify`: the store by itself, and batch by batch against a source.

use super::{VerifyArgs, done, link_of, refuse};
use crate::config::{RawConfig, RawValue, Settings};
use crate::control::run::Output;
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use crate::verify::{Comparison, SourceBatches, VerifyOptions, compare_partition, verify_store};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use tokio::runtime::Runtime;
use twinlog_io::{DirectoryLock, LockError, RealDisk};
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::partition::Leader;
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// The key table's own bound: a store may have been written with any value below.
const BATCH_BYTES_MAX: u32 = 1 << 30;
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// One partition held against the source.
#[derive(Debug, Serialize)]
struct Compared {
    link: String,
    partition: String,
    #[serde(flatten)]
    comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Compared {
    fn is_right(&self) -> bool {
        self.failed.is_none() && self.comparison.as_ref().is_some_and(|it| it.difference.is_none())
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.link, self.partition)?;
        match (&self.comparison, &self.failed) {
            (_, Some(why)) => write!(f, "not compared: {why}"),
            (Some(Comparison { difference: Some(difference), .. }), None) => write!(f, "{difference}"),
            (Some(Comparison { batches, bytes, from, to, .. }), None) => {
                write!(f, "{batches} batches, {bytes} bytes, offsets {from} to {to}, equal to the source's")
            }
            (None, None) => write!(f, "not compared"),
        }
    }
}

/// 0 when everything is right.
pub fn verify(arguments: &VerifyArgs) -> ExitCode {
    // A running daemon appends meanwhile: what is read would not be one state.
    let _lock = match DirectoryLock::acquire(&arguments.data_dir) {
        Ok(lock) => lock,
        Err(error @ LockError::File { .. }) => return refuse(USAGE, &error),
        Err(error @ LockError::Held { .. }) => return refuse(FAILED, &error),
    };
    let options = VerifyOptions {
        data_directory: arguments.data_dir.clone(),
        link: arguments.link.clone(),
        batch_bytes_max: BATCH_BYTES_MAX,
    };
    let report = match verify_store(&mut RealDisk, &options, &mut |_| {}) {
        Ok(report) => report,
        Err(error) => return refuse(FAILED, &error),
    };
    let mut compared = Vec::new();
    if let Some(servers) = &arguments.source {
        let source = match Source::open(servers, arguments.config.as_deref(), arguments.link.as_deref()) {
            Ok(source) => source,
            Err(error) => return refuse(FAILED, &error),
        };
        for partition in &report.partitions {
            let directory = arguments.data_dir.join(&partition.link).join(&partition.partition);
            let outcome =
                source.compare(&directory, &partition.partition, partition.held_start, partition.log_end);
            let (comparison, failed) = match outcome {
                Ok(comparison) => (Some(comparison), None),
                Err(error) => (None, Some(error)),
            };
            let (link, partition) = (partition.link.clone(), partition.partition.clone());
            compared.push(Compared { link, partition, comparison, failed });
        }
    }
    match arguments.output {
        Output::Json => {
            let value = serde_json::json!({ "partitions": report.partitions, "problems": report.problems(), "source": compared });
            println!("{value}");
        }
        Output::Text => {
            print!("{report}");
            compared.iter().for_each(|each| println!("{each}"));
        }
    }
    done(report.is_right() && compared.iter().all(Compared::is_right))
}

/// A source to compare with, asked from a thread that may block.
struct Source {
    runtime: Runtime,
    client: SourceClient,
}

/// Why there is nothing to compare with.
enum SourceError {
    Settings(crate::config::ConfigError),
    Runtime(std::io::ErrorKind),
    Client(ClientError),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "{error}"),
            Self::Runtime(error) => write!(f, "the source cannot be asked: {error}"),
            Self::Client(error) => write!(f, "{error}"),
        }
    }
}

impl Source {
    /// `file` says how connections to it are secured, in the table of its only link or of the one named.
    fn open(servers: &str, file: Option<&Path>, link: Option<&str>) -> Result<Self, SourceError> {
        let raw = file.map_or_else(|| Ok(RawConfig::default()), RawConfig::read);
        let mut raw = raw.map_err(SourceError::Settings)?;
        let link = link_of(&raw, link);
        for (name, value) in [("bootstrap.servers", servers), ("topics", ".*"), ("data.dir", ".")] {
            raw.set(&link, name, RawValue::Text(value.to_owned()));
        }
        let settings = Settings::from_raw(&raw, Some(&link)).map_err(SourceError::Settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SourceError::Runtime(error.kind()))?;
        let client = SourceClient::new(&settings.link.source);
        runtime.block_on(client.metadata(None)).map_err(SourceError::Client)?;
        Ok(Self { runtime, client })
    }

    /// Compares from where both logs have begun. The error is for people.
    fn compare(
        &self,
        directory: &std::path::Path,
        name: &str,
        log_start: i64,
        log_end: i64,
    ) -> Result<Comparison, String> {
        let text = |error: ClientError| error.to_string();
        let partition =
            TopicPartition::parse_directory(name).ok_or_else(|| format!("{name} is no partition"))?;
        let names = [partition.topic().to_owned()];
        let view = self.runtime.block_on(self.client.metadata(Some(&names))).map_err(text)?;
        let topic = view.topics.iter().find(|topic| topic.name == partition.topic() && topic.error == 0);
        let found =
            topic.and_then(|it| it.partitions.iter().find(|each| each.index == partition.partition()));
        let leader = found.and_then(|partition| partition.leader).ok_or("the source has no leader for it")?;
        let asked = [(partition.clone(), LeaderEpoch::UNKNOWN)];
        let start =
            self.client.log_edges(leader.broker, IsolationLevel::ReadUncommitted, LogEdge::Start, &asked);
        let start = self.runtime.block_on(start).map_err(text)?;
        let start =
            start.into_iter().next().map(|(_, start)| start).ok_or("the source does not answer for it")?;
        let start = start.map_err(|code| format!("the source answers error code {code}"))?;
        let from = Offset::new(log_start).unwrap_or_default().max(start);
        let to = Offset::new(log_end).unwrap_or_default().max(from);
        let mut batches = PartitionBatches { source: self, leader, partition };
        compare_partition(&mut RealDisk, directory, from, to, BATCH_BYTES_MAX, &mut batches)
            .map_err(|error| error.to_string())
    }
}

/// The source's log of one partition.
struct PartitionBatches<'a> {
    source: &'a Source,
    leader: Leader,
    partition: TopicPartition,
}

impl SourceBatches for PartitionBatches<'_> {
    type Error = ClientError;

    fn next_chunk(&mut self, offset: Offset) -> Result<Vec<u8>, ClientError> {
        let read = self.source.client.read(self.leader, &self.partition, offset);
        self.source.runtime.block_on(read).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_right_only_when_it_took_place_without_a_difference() {
        let compared = |comparison, failed: Option<&str>| Compared {
            link: "west".into(),
            partition: "orders-3".into(),
            comparison,
            failed: failed.map(str::to_owned),
        };
        let equal = compared(Some(Comparison { to: 9, ..Comparison::default() }), None);
        assert!(equal.is_right() && equal.to_string().contains("offsets 0 to 9, equal"));
        let unreachable = compared(None, Some("no leader"));
        assert!(!unreachable.is_right() && unreachable.to_string().ends_with("not compared: no leader"));
    }

    #[test]
    fn a_server_list_is_parsed_as_everywhere() {
        assert!(matches!(Source::open("nonsense", None, None), Err(SourceError::Settings(_))));
    }
}
