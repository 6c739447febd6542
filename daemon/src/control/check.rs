//! `twinlog check`: what this host and the source allow, one line each, with the cure.
//!
//! Changes nothing. A line is `ok`, `warn` (it works, slower or less protected) or `fail`.

mod acl_command;
mod destination;
mod line;
mod source_rights;
mod source_rights_asked;

pub use line::Line;

use super::discovery::{ClusterView, Discovery};
use super::run::placement;
use super::source_client::{ClientError, Connection, SourceClient};
use crate::config::{HostPort, LinkSettings, Settings};
use kafka_protocol::messages::{FetchRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::protocol::Request;
use line::Level;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twinlog_io::{HostFacts, IoUringFacts, allowed_cores, probe_directory, probe_host};
use twinlog_log_segment::files::TopicId;
use twinlog_sync::wire::api_versions::{FETCH_VERSION_MAX, FETCH_VERSION_MIN};

/// Less room than this is a warning: a few segments of a few partitions.
const FREE_BYTES_LOW: u64 = 4 << 30;
/// Below it a busy link opens and closes segment files all the time.
const FILES_LOW: u64 = 16_384;
/// The oldest kernel whose rings have what is needed.
const KERNEL_MIN: (u32, u32) = (5, 11);
/// First Fetch version in which a consumer learns that the source's log parted from its own. ref: KIP-595
const FETCH_WITH_DIVERGENCE: i16 = 12;
/// How long questions about rights may take. Raised, a source that is half dead holds the report back.
const RIGHTS_LIMIT: Duration = Duration::from_secs(20);

/// What is looked at. The settings hold defaults where the operator said nothing.
pub struct CheckRequest {
    pub settings: Settings,
    pub directory: bool,
    pub source: bool,
    /// The destination of a link in guest mode.
    pub destination: bool,
}

/// All lines.
pub fn check(request: &CheckRequest) -> Vec<Line> {
    let facts = probe_host();
    let mut lines = host_lines(&facts, &request.settings);
    if request.directory {
        lines.extend(directory_lines(&request.settings.data_dir));
    }
    if request.source || request.destination {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => {
                lines.extend(runtime.block_on(cluster_lines(request)));
                // A name server that does not answer must not hold the report back.
                runtime.shutdown_background();
            }
            Err(error) => lines.push(Line::new(Level::Fail, "source", format!("cannot be asked: {error}"))),
        }
    }
    lines
}

async fn cluster_lines(request: &CheckRequest) -> Vec<Line> {
    let link = &request.settings.link;
    let mut lines = Vec::new();
    let mut source = None;
    if request.source {
        let (told, view) = source_lines(link).await;
        (lines, source) = (told, view);
    }
    if let Some(guest) = link.guest.as_ref().filter(|_| request.destination) {
        lines.extend(destination::destination_lines(link, guest, source.as_ref()).await);
    }
    lines
}

fn host_lines(facts: &HostFacts, settings: &Settings) -> Vec<Line> {
    let mut lines = Vec::new();
    let (major, minor) = facts.kernel_version;
    let kernel = format!("Linux {}", facts.kernel_release);
    lines.push(if facts.kernel_version >= KERNEL_MIN {
        Line::new(Level::Ok, "kernel", kernel)
    } else {
        let text = format!("{kernel}: {major}.{minor} is older than 5.11; epoll is used, slower");
        Line::new(Level::Warn, "kernel", text)
    });
    lines.push(match facts.io_uring {
        IoUringFacts::Available => Line::new(Level::Ok, "io_uring", "available"),
        IoUringFacts::Refused { .. } => Line::new(
            Level::Warn,
            "io_uring",
            format!(
                "{}; epoll is used, slower; allow it in the seccomp profile and set sysctl \
                     kernel.io_uring_disabled = 0",
                facts.io_uring
            ),
        ),
        IoUringFacts::Lacks { .. } => {
            Line::new(Level::Warn, "io_uring", format!("{}; epoll is used, slower", facts.io_uring))
        }
    });
    lines.push(if facts.may_register(settings.memory_bytes) {
        Line::new(Level::Ok, "memlock", "buffers can be registered with the kernel")
    } else {
        let limit = facts.memlock_bytes.unwrap_or(0);
        let text =
            format!("limit {limit} bytes: buffers stay unregistered, slower; set LimitMEMLOCK=infinity");
        Line::new(Level::Warn, "memlock", text)
    });
    lines.push(match facts.files_hard {
        Some(limit) if limit < FILES_LOW => {
            Line::new(Level::Warn, "open files", format!("hard limit {limit}; set LimitNOFILE=1048576"))
        }
        Some(limit) => Line::new(Level::Ok, "open files", format!("up to {limit}")),
        None => Line::new(Level::Ok, "open files", "unlimited"),
    });
    lines.push(if settings.core_dumps {
        let text = "core.dumps = allow: the core file of a crash holds the secrets of its configuration";
        Line::new(Level::Warn, "core dumps", text)
    } else {
        Line::new(
            Level::Ok,
            "core dumps",
            "forbidden as soon as it runs, to handlers and debuggers of its own user too",
        )
    });
    lines.push(match placement(settings) {
        Ok(placement) if placement.data.contains(&placement.control) => {
            let text = format!("{:?}: control and data share core {}", placement.data, placement.control);
            Line::new(Level::Warn, "cores", text)
        }
        Ok(placement) => {
            let free = allowed_cores().map_or(0, |cores| cores.len());
            let text = format!("data {:?}, control {}, of {free} allowed", placement.data, placement.control);
            Line::new(Level::Ok, "cores", text)
        }
        Err(error) => Line::new(Level::Fail, "cores", error.to_string()),
    });
    lines
}

fn directory_lines(data_dir: &Path) -> Vec<Line> {
    let existing: PathBuf = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).into();
    let facts = match probe_directory(&existing) {
        Ok(facts) => facts,
        Err(error) => {
            let text = format!("{} cannot be written: {error}; data.dir must be ours", existing.display());
            return vec![Line::new(Level::Fail, "data.dir", text)];
        }
    };
    let mut lines = vec![Line::new(Level::Ok, "data.dir", format!("{} can be written", existing.display()))];
    lines.push(if facts.direct {
        Line::new(Level::Ok, "O_DIRECT", "works here")
    } else {
        Line::new(
            Level::Warn,
            "O_DIRECT",
            "refused here: the page cache is used, slower; ext4 or XFS allow it",
        )
    });
    lines.push(if facts.allocate {
        Line::new(Level::Ok, "fallocate", "reserves blocks")
    } else {
        Line::new(Level::Warn, "fallocate", "not supported: a full disk is met later, and writes are slower")
    });
    let (free, total) = (facts.free_bytes >> 20, facts.total_bytes >> 20);
    let level = if facts.free_bytes < FREE_BYTES_LOW { Level::Warn } else { Level::Ok };
    lines.push(Line::new(level, "disk space", format!("{free} of {total} MiB are free")));
    lines
}

async fn source_lines(link: &LinkSettings) -> (Vec<Line>, Option<ClusterView>) {
    let source = &link.source;
    let client = SourceClient::new(source);
    let mut lines = Vec::new();
    for server in &source.bootstrap_servers {
        lines.push(match client.open(server).await {
            Ok(connection) => protocol_line(server, &connection),
            Err(error) => Line::new(Level::Fail, "source", error.to_string()),
        });
    }
    let discovery = Discovery::new(link.topics.clone(), link.topic_filters.clone());
    let view = client.metadata(discovery.names_wanted().as_deref()).await;
    lines.push(match &view {
        Ok(view) => {
            let found: Vec<_> = view
                .topics
                .iter()
                .filter(|topic| topic.error == 0 && discovery.wants(&topic.name, topic.is_internal))
                .collect();
            let partitions: usize = found.iter().map(|topic| topic.partitions.len()).sum();
            let cluster = view.cluster_id.as_deref().unwrap_or("without an id");
            let text = format!(
                "cluster {cluster}, {} brokers, {} topics with {partitions} partitions match",
                view.brokers.len(),
                found.len(),
            );
            match found.iter().any(|topic| topic.id == TopicId::ZERO) {
                _ if found.is_empty() => Line::new(Level::Warn, "metadata", text),
                true => Line::new(
                    Level::Warn,
                    "metadata",
                    text + "; no topic ids: a re-created topic is not noticed",
                ),
                false => Line::new(Level::Ok, "metadata", text),
            }
        }
        Err(error) => Line::new(Level::Fail, "metadata", metadata_cure(error)),
    });
    let view = view.ok();
    if let Some(view) = &view {
        let asked = tokio::time::timeout(RIGHTS_LIMIT, source_rights_asked::ask(&client, link, view)).await;
        lines.extend(match asked {
            Ok(Ok(Some(facts))) => source_rights::source_rights_lines(&facts, &source.bootstrap_servers[0]),
            Ok(Ok(None)) => Vec::new(),
            Ok(Err(error)) => {
                let text = format!("what is allowed is not told: {error}");
                vec![Line::new(Level::Warn, "source rights", text)]
            }
            Err(_) => vec![Line::new(Level::Warn, "source rights", "the brokers did not tell them in time")],
        });
    }
    (lines, view)
}

fn protocol_line(server: &HostPort, connection: &Connection) -> Line {
    let Some(fetch) = connection.offered(FetchRequest::KEY) else {
        return Line::new(
            Level::Fail,
            "source",
            format!("{server} does not speak Fetch; it is no Kafka broker"),
        );
    };
    let text = format!("{server} speaks Fetch v{} to v{}", fetch.min, fetch.max);
    if fetch.max < FETCH_VERSION_MIN || fetch.min > FETCH_VERSION_MAX {
        let text = format!("{text}, understood are v{FETCH_VERSION_MIN} to v{FETCH_VERSION_MAX}");
        return Line::new(Level::Fail, "source", text);
    }
    let mut lost = Vec::new();
    if fetch.max < FETCH_WITH_DIVERGENCE {
        lost.push("a parted log is noticed late");
    }
    if connection.offered(OffsetForLeaderEpochRequest::KEY).is_none_or(|range| range.max < 2) {
        lost.push("truncation cannot be told from an outage");
    }
    if lost.is_empty() {
        Line::new(Level::Ok, "source", text)
    } else {
        Line::new(Level::Warn, "source", format!("{text}: {}", lost.join(", ")))
    }
}

fn metadata_cure(error: &ClientError) -> String {
    format!("{error}; check bootstrap.servers, the listener's advertised address and firewalls")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, RawValue};

    fn settings(data_dir: &Path) -> Settings {
        let mut raw = RawConfig::default();
        for (name, value) in
            [("data.dir", data_dir.to_str().unwrap()), ("topics", ".*"), ("bootstrap.servers", "127.0.0.1:1")]
        {
            raw.set("west", name, RawValue::Text(value.to_owned()));
        }
        Settings::from_raw(&raw, None).unwrap()
    }

    #[test]
    fn every_subject_has_a_line_and_a_missing_source_fails_with_its_cure() {
        let directory = tempfile::tempdir().unwrap();
        let not_yet = directory.path().join("not/yet");
        let request =
            CheckRequest { settings: settings(&not_yet), directory: true, source: true, destination: true };
        let lines = check(&request);
        for subject in [
            "kernel",
            "io_uring",
            "memlock",
            "open files",
            "core dumps",
            "cores",
            "data.dir",
            "O_DIRECT",
            "disk space",
        ] {
            assert!(lines.iter().any(|line| line.subject() == subject), "{subject}");
        }
        let failed: Vec<_> = lines.iter().filter(|line| line.is_failure()).map(ToString::to_string).collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed[1].contains("check bootstrap.servers"), "{failed:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    }
}
