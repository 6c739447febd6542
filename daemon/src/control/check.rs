//! `twinlog check`: what this host and the source allow, one line each, with the cure.
//!
//! Changes nothing. A line is `ok`, `warn` (it works, slower or less protected) or `fail`.

mod acl_command;
mod capacity;
mod destination;
mod line;
mod source_rights;
mod source_rights_asked;

pub use line::Line;

use super::discovery::{ClusterView, Discovery};
use super::protection;
use super::run::placement;
use super::source_client::{Connection, SourceClient};
use crate::config::{HostPort, Settings};
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::Request;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twinlog_io::{
    EngineOptions, EnginePreference, HostFacts, IoUringFacts, Placement, Shortfall, allowed_cores,
    open_engine, pin_current_thread, probe_directory, probe_host, yield_to_data_threads,
};
use twinlog_sync::wire::api_versions::{FETCH_VERSION_MAX, FETCH_VERSION_MIN};

/// Less room than this is a warning: a few segments of a few partitions.
const FREE_BYTES_LOW: u64 = 4 << 30;
/// Below it a busy link opens and closes segment files all the time.
const FILES_LOW: u64 = 16_384;
/// The oldest kernel whose rings have what is needed.
const KERNEL_MIN: (u32, u32) = (5, 11);
/// How long questions about rights may take. Raised, a source that is half dead holds the report back.
const RIGHTS_LIMIT: Duration = Duration::from_secs(20);
/// How long questions about sizes may take, the trial read among them. Raised, the same.
const CAPACITY_LIMIT: Duration = Duration::from_secs(15);
/// Memory of the engine that is opened on trial: the least there is, for memlock has a line of its own.
const TRIAL_ARENA_BYTES: u64 = 2 << 20;
/// What to do where the source does not tell what is allowed.
const RIGHTS_CURE: &str = "check again; READ and DESCRIBE on the topics are needed";
/// The same where it does not answer at all.
const REACH_CURE: &str = "check bootstrap.servers, the listener's advertised address and firewalls";

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
        lines.extend(directory_lines(&request.settings.daemon.data_dir));
    }
    if request.source || request.destination {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => {
                lines.extend(runtime.block_on(cluster_lines(request, 0)));
                // A name server that does not answer must not hold the report back.
                runtime.shutdown_background();
            }
            Err(error) => {
                lines.push(Line::fail("source", format!("cannot be asked: {error}"), "raise LimitNOFILE"));
            }
        }
    }
    lines
}

async fn cluster_lines(request: &CheckRequest, other_partitions: u64) -> Vec<Line> {
    let link = &request.settings.link;
    let mut lines = Vec::new();
    let mut source = None;
    if request.source {
        let (told, view) = source_lines(&request.settings, other_partitions).await;
        (lines, source) = (told, view);
    }
    if let Some(guest) = link.guest.as_ref().filter(|_| request.destination) {
        lines.extend(destination::destination_lines(link, guest, source.as_ref()).await);
    }
    lines
}

fn host_lines(facts: &HostFacts, settings: &Settings) -> Vec<Line> {
    let mut lines = vec![kernel_line(facts)];
    let placement = placement(settings);
    lines.push(ring_line(facts, placement.as_ref().ok()));
    lines.push(if facts.may_register(settings.daemon.memory_bytes) {
        Line::ok("memlock", "buffers can be registered with the kernel")
    } else {
        let limit = facts.memlock_bytes.unwrap_or(0);
        let text = format!("limit {limit} bytes: buffers stay unregistered, slower");
        Line::warn("memlock", text, "set LimitMEMLOCK=infinity")
    });
    lines.push(match facts.files_hard {
        Some(limit) if limit < FILES_LOW => {
            Line::warn("open files", format!("hard limit {limit}"), "set LimitNOFILE=1048576")
        }
        Some(limit) => Line::ok("open files", format!("up to {limit}")),
        None => Line::ok("open files", "unlimited"),
    });
    lines.push(if settings.daemon.core_dumps {
        let text = "core.dumps = allow: the core file of a crash holds the secrets of its configuration";
        Line::warn("core dumps", text, "leave the key out unless a crash is being looked for")
    } else {
        Line::ok("core dumps", "forbidden as soon as it runs, to handlers and debuggers of its own user too")
    });
    lines.push(match &placement {
        Ok(placement) => placement_line(placement),
        Err(error) => Line::fail("cores", error.to_string(), "name cores that this process may run on"),
    });
    lines
}

fn kernel_line(facts: &HostFacts) -> Line {
    let (major, minor) = facts.kernel_version;
    let kernel = format!("Linux {}", facts.kernel_release);
    if facts.kernel_version >= KERNEL_MIN {
        return Line::ok("kernel", kernel);
    }
    let text = format!("{kernel}: {major}.{minor} is older than 5.11; epoll is used, slower");
    Line::warn("kernel", text, "take kernel 6.1 or newer")
}

/// Opens a small engine as a data thread does: what the kernel refuses then is known, not guessed.
fn ring_line(facts: &HostFacts, placement: Option<&Placement>) -> Line {
    const SUBJECT: &str = "io_uring";
    match facts.io_uring {
        IoUringFacts::Available => {}
        IoUringFacts::Refused { .. } => {
            let cure = "allow it in the seccomp profile and set sysctl kernel.io_uring_disabled = 0";
            return Line::warn(SUBJECT, format!("{}; epoll is used, slower", facts.io_uring), cure);
        }
        IoUringFacts::Lacks { .. } => {
            let text = format!("{}; epoll is used, slower", facts.io_uring);
            return Line::warn(SUBJECT, text, "take kernel 6.1 or newer");
        }
    }
    let options = EngineOptions {
        arena_bytes: TRIAL_ARENA_BYTES,
        sockets_max: 1,
        files_max: 1,
        helper_cores: placement.map(|placement| placement.control).into_iter().collect(),
        ..EngineOptions::default()
    };
    let opened = on_a_thread(move || {
        open_engine(&options, EnginePreference::Ring).map(|(_, report)| report.shortfalls)
    });
    match opened {
        Ok(shortfalls) if shortfalls.is_empty() => {
            Line::ok(SUBJECT, "available, with everything that is made use of")
        }
        Ok(shortfalls) => shortfalls_line(SUBJECT, "available", &shortfalls),
        Err(error) => {
            let text = format!("available, but an engine cannot be opened: {error}; epoll is used, slower");
            Line::warn(SUBJECT, text, "take kernel 6.1 or newer, and set LimitMEMLOCK=infinity")
        }
    }
}

/// Tries what the threads will do: pins, and the low priority of the control thread.
fn placement_line(placement: &Placement) -> Line {
    let control = placement.control;
    let mut shortfalls = Vec::new();
    for core in placement.data.iter().copied() {
        let pinned = on_a_thread(move || pin_current_thread(&[core]));
        shortfalls.extend(pinned.err().map(|error| Shortfall::DataPin { core, error }));
    }
    shortfalls.extend(on_a_thread(move || {
        let pinned = pin_current_thread(&[control]).err();
        let mut refused = yield_to_data_threads();
        refused.extend(pinned.map(|error| Shortfall::ControlPin { core: control, error }));
        refused
    }));
    let allowed = allowed_cores().map_or(0, |cores| cores.len());
    let text = format!("data {:?}, control {control}, of {allowed} allowed", placement.data);
    if !shortfalls.is_empty() {
        return shortfalls_line("cores", &text, &shortfalls);
    }
    if placement.data.contains(&control) {
        let text = format!("{:?}: control and data share core {control}", placement.data);
        return Line::warn("cores", text, "give this process one core more, or leave one out of data.cores");
    }
    Line::ok("cores", text)
}

/// What is missing with its costs, and each cure once.
fn shortfalls_line(subject: &'static str, text: &str, shortfalls: &[Shortfall]) -> Line {
    let costs: Vec<String> = shortfalls.iter().map(Shortfall::cost).collect();
    let mut cures: Vec<&str> = shortfalls.iter().map(Shortfall::cure).collect();
    cures.dedup();
    Line::warn(subject, format!("{text}; {}", costs.join("; ")), cures.join("; "))
}

/// A pin or a priority of the trial must not stay on the caller.
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let ended = std::thread::spawn(work).join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn directory_lines(data_dir: &Path) -> Vec<Line> {
    let existing: PathBuf = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).into();
    let facts = match probe_directory(&existing) {
        Ok(facts) => facts,
        Err(error) => {
            let text = format!("{} cannot be written: {error}", existing.display());
            return vec![Line::fail(
                "data.dir",
                text,
                "data.dir must be ours: chown it, or name another one",
            )];
        }
    };
    let mut lines = vec![Line::ok("data.dir", format!("{} can be written", existing.display()))];
    lines.push(if facts.direct {
        Line::ok("O_DIRECT", "works here")
    } else {
        Line::warn("O_DIRECT", "refused here: the page cache is used, slower", "ext4 or XFS allow it")
    });
    lines.push(if facts.allocate {
        Line::ok("fallocate", "reserves blocks")
    } else {
        let text = "not supported: a full disk is met later, and writes are slower";
        Line::warn("fallocate", text, "ext4 or XFS support it")
    });
    let (free, total) = (facts.free_bytes >> 20, facts.total_bytes >> 20);
    let text = format!("{free} of {total} MiB are free");
    lines.push(if facts.free_bytes < FREE_BYTES_LOW {
        Line::warn("disk space", text, "make room, or put data.dir on a larger file system")
    } else {
        Line::ok("disk space", text)
    });
    lines
}

/// What both clusters of a link that does not run yet allow, and what it would take beside the partitions of the
/// links that do. Changes nothing.
pub async fn check_clusters(settings: Settings, other_partitions: u64) -> Vec<Line> {
    let request = CheckRequest { settings, directory: false, source: true, destination: true };
    cluster_lines(&request, other_partitions).await
}

async fn source_lines(settings: &Settings, other_partitions: u64) -> (Vec<Line>, Option<ClusterView>) {
    let link = &settings.link;
    let source = &link.source;
    let client = SourceClient::new(source);
    let mut lines = Vec::new();
    for server in &source.bootstrap_servers {
        lines.push(match client.open(server).await {
            Ok(connection) => protocol_line(server, &connection),
            Err(error) => Line::fail("source", error.to_string(), REACH_CURE),
        });
    }
    let discovery = Discovery::new(link.topics.clone(), link.topic_filters.clone());
    let view = client.metadata(discovery.names_wanted().as_deref()).await;
    lines.push(match &view {
        Ok(view) => metadata_line(view, &discovery),
        Err(error) => Line::fail("metadata", error.to_string(), REACH_CURE),
    });
    let view = view.ok();
    if let Some(view) = &view {
        let asked = tokio::time::timeout(RIGHTS_LIMIT, source_rights_asked::ask(&client, link, view)).await;
        lines.extend(match asked {
            Ok(Ok(Some(facts))) => source_rights::source_rights_lines(&facts, &source.bootstrap_servers[0]),
            Ok(Ok(None)) => Vec::new(),
            Ok(Err(error)) => {
                let text = format!("what is allowed is not told: {error}");
                vec![Line::warn("source rights", text, RIGHTS_CURE)]
            }
            Err(_) => vec![Line::warn("source rights", "the brokers did not tell them in time", RIGHTS_CURE)],
        });
        let asked = capacity::ask(&client, settings, view, other_partitions);
        let asked = tokio::time::timeout(CAPACITY_LIMIT, asked).await;
        lines.extend(match asked {
            Ok(capacity) => capacity.lines(),
            Err(_) => vec![Line::warn("capacity", "the brokers did not tell sizes in time", "check again")],
        });
    }
    (lines, view)
}

fn metadata_line(view: &ClusterView, discovery: &Discovery) -> Line {
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
    if found.is_empty() {
        return Line::warn(
            "metadata",
            text,
            "compare topics with the source's, and look at DESCRIBE on them",
        );
    }
    Line::ok("metadata", text)
}

fn protocol_line(server: &HostPort, connection: &Connection) -> Line {
    let Some(fetch) = connection.offered(FetchRequest::KEY) else {
        let text = format!("{server} does not speak Fetch; it is no Kafka broker");
        return Line::fail("source", text, "name brokers in bootstrap.servers");
    };
    let text = format!("{server} speaks Fetch v{} to v{}", fetch.min, fetch.max);
    if fetch.max < FETCH_VERSION_MIN || fetch.min > FETCH_VERSION_MAX {
        let text = format!("{text}, understood are v{FETCH_VERSION_MIN} to v{FETCH_VERSION_MAX}");
        let cure = "take a source of Kafka 0.11 or newer, or a newer twinlog for a newer source";
        return Line::fail("source", text, cure);
    }
    let missing = protection::missing_at(connection);
    if missing.is_empty() {
        Line::ok("source", text)
    } else {
        Line::warn("source", format!("{text}; {}", protection::sentence(missing)), protection::CURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, RawValue};
    use twinlog_io::SystemError;

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
        assert!(lines.iter().all(Line::is_ok_or_has_a_cure), "{lines:#?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    }

    #[test]
    fn what_is_missing_stands_in_the_line_with_its_cost_and_each_cure_once() {
        let error = SystemError::INVALID;
        let shortfalls = [
            Shortfall::DataPin { core: 3, error },
            Shortfall::ControlPin { core: 0, error },
            Shortfall::ControlNice(error),
        ];
        let line = shortfalls_line("cores", "data [3], control 0", &shortfalls);
        let text = line.to_string();
        assert!(line.is_ok_or_has_a_cure() && text.starts_with("warn  cores"), "{text}");
        for shortfall in shortfalls {
            assert!(text.contains(&shortfall.cost()), "{text}");
            assert_eq!(text.matches(shortfall.cure()).count(), 1, "{text}");
        }
    }

    #[test]
    fn a_host_that_refuses_io_uring_has_a_line_with_a_cure() {
        let mut facts = probe_host();
        let error = SystemError::INVALID;
        for refused in
            [IoUringFacts::Refused { error, sysctl: Some(2) }, IoUringFacts::Lacks { operation: "RECV" }]
        {
            facts.io_uring = refused;
            (facts.kernel_version, facts.memlock_bytes, facts.may_lock_memory) = ((4, 19), Some(0), false);
            facts.files_hard = Some(1_024);
            let lines = host_lines(&facts, &settings(Path::new("/d")));
            let bad: Vec<String> = lines.iter().map(ToString::to_string).collect();
            assert!(lines.iter().all(Line::is_ok_or_has_a_cure), "{bad:#?}");
            assert!(bad.iter().filter(|line| line.starts_with("warn")).count() >= 4, "{bad:#?}");
        }
    }
}
