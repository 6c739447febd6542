//! `twinlog verify`: the store by itself, and batch by batch against a source.

use super::verify_progress::{Reached, VerifyProgress};
use super::{VerifyArgs, done, link_of, refuse};
use crate::config::{RawConfig, RawValue, Settings};
use crate::control::run::Output;
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use crate::verify::{
    ComparedEpochs, Comparison, EpochComparison, PartitionReport, SourceBatches, SourceEpochs, VerifyOptions,
    VerifyReport, compare_epochs, compare_partition, verify_store,
};
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
    epochs: Option<EpochComparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Compared {
    fn is_right(&self) -> bool {
        let epochs_are_right = self.epochs.as_ref().is_none_or(|it| it.difference.is_none());
        let is_equal = self.comparison.as_ref().is_some_and(|it| it.difference.is_none());
        self.failed.is_none() && is_equal && epochs_are_right
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
        }?;
        match &self.epochs {
            None | Some(EpochComparison { epochs: 0, .. }) => Ok(()),
            Some(EpochComparison { difference: Some(difference), .. }) => write!(f, "; {difference}"),
            Some(EpochComparison { epochs, .. }) => {
                write!(f, "; {epochs} leader epochs end where the source's do")
            }
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
    let mut shown = VerifyProgress::new();
    let verified = verify_store(&mut RealDisk, &options, &mut |progress| {
        let partition = format_args!("{}/{}", progress.link, progress.partition);
        let (done_bytes, total_bytes) = (progress.read_bytes, progress.total_bytes);
        shown.show(&Reached { what: "verifying", partition: &partition, done_bytes, total_bytes });
    });
    let report = match verified {
        Ok(report) => report,
        Err(error) => return refuse(FAILED, &error),
    };
    let mut compared = Vec::new();
    if let Some(servers) = &arguments.source {
        let source = match Source::open(servers, arguments.config.as_deref(), arguments.link.as_deref()) {
            Ok(source) => source,
            Err(error) => return refuse(FAILED, &error),
        };
        compared = compare_all(&source, &report, &arguments.data_dir, &mut shown);
    }
    shown.end();
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

/// Every partition of the report against the source.
fn compare_all(
    source: &Source,
    report: &VerifyReport,
    data_directory: &Path,
    shown: &mut VerifyProgress,
) -> Vec<Compared> {
    let total_bytes = report.partitions.iter().map(|partition| partition.bytes).sum();
    let mut done_bytes = 0;
    let mut compared = Vec::new();
    for partition in &report.partitions {
        let name = format!("{}/{}", partition.link, partition.partition);
        let mut read = |bytes: u64| {
            done_bytes += bytes;
            shown.show(&Reached { what: "comparing", partition: &name, done_bytes, total_bytes });
        };
        let directory = data_directory.join(&partition.link).join(&partition.partition);
        let (comparison, epochs, failed) = match source.compare(&directory, partition, &mut read) {
            Ok((comparison, epochs)) => (Some(comparison), Some(epochs), None),
            Err(error) => (None, None, Some(error)),
        };
        let (link, partition) = (partition.link.clone(), partition.partition.clone());
        compared.push(Compared { link, partition, comparison, epochs, failed });
    }
    compared
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

    /// Compares from where both logs have begun; `read` is told of what came. The error is for people.
    fn compare(
        &self,
        directory: &Path,
        report: &PartitionReport,
        read: &mut dyn FnMut(u64),
    ) -> Result<(Comparison, EpochComparison), String> {
        let name = &report.partition;
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
        let from = Offset::new(report.held_start).unwrap_or_default().max(start);
        let to = Offset::new(report.log_end).unwrap_or_default().max(from);
        let mut log = PartitionLog { source: self, leader, partition, read };
        let batches = compare_partition(&mut RealDisk, directory, from, to, BATCH_BYTES_MAX, &mut log);
        let batches = batches.map_err(|error| error.to_string())?;
        let epochs = ComparedEpochs {
            directory,
            epochs: &report.source_epochs,
            from,
            log_end: to,
            batch_bytes_max: BATCH_BYTES_MAX,
        };
        let epochs = compare_epochs(&mut RealDisk, &epochs, &mut log).map_err(|error| error.to_string())?;
        Ok((batches, epochs))
    }
}

/// The source's log of one partition.
struct PartitionLog<'a> {
    source: &'a Source,
    leader: Leader,
    partition: TopicPartition,
    read: &'a mut dyn FnMut(u64),
}

/// Why the source does not say where an epoch ends.
enum EpochRefusal {
    Client(ClientError),
    Code(i16),
}

impl fmt::Display for EpochRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::Code(code) => write!(f, "the source answers error code {code} about its leader epochs"),
        }
    }
}

impl SourceBatches for PartitionLog<'_> {
    type Error = ClientError;

    fn next_chunk(&mut self, offset: Offset) -> Result<Vec<u8>, ClientError> {
        let read = self.source.client.read(self.leader, &self.partition, offset);
        let chunk: Vec<u8> = self.source.runtime.block_on(read)?.into();
        (self.read)(chunk.len() as u64);
        Ok(chunk)
    }
}

impl SourceEpochs for PartitionLog<'_> {
    type Error = EpochRefusal;

    fn end_of(&mut self, epoch: LeaderEpoch) -> Result<Option<(LeaderEpoch, Offset)>, EpochRefusal> {
        let asked = self.source.client.end_of_epoch(self.leader, &self.partition, epoch);
        self.source.runtime.block_on(asked).map_err(EpochRefusal::Client)?.map_err(EpochRefusal::Code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::EpochDifference;

    #[test]
    fn a_comparison_is_right_only_when_it_took_place_without_a_difference() {
        let compared = |comparison, failed: Option<&str>| Compared {
            link: "west".into(),
            partition: "orders-3".into(),
            comparison,
            epochs: None,
            failed: failed.map(str::to_owned),
        };
        let equal = compared(Some(Comparison { to: 9, ..Comparison::default() }), None);
        assert!(equal.is_right() && equal.to_string().contains("offsets 0 to 9, equal"));
        let moved = EpochComparison {
            epochs: 3,
            difference: Some(EpochDifference::End { epoch: 2, ours: 9, theirs: 7 }),
        };
        let moved = Compared { epochs: Some(moved), ..compared(Some(Comparison::default()), None) };
        assert!(!moved.is_right() && moved.to_string().contains("leader epoch 2 ends"), "{moved}");
        let unreachable = compared(None, Some("no leader"));
        assert!(!unreachable.is_right() && unreachable.to_string().ends_with("not compared: no leader"));
    }

    #[test]
    fn a_server_list_is_parsed_as_everywhere() {
        assert!(matches!(Source::open("nonsense", None, None), Err(SourceError::Settings(_))));
    }
}
