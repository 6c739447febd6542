//! The program as a process of a host: signals, systemd, cores and what it says, against brokers in memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use twinlog_daemon::embedded::batch_text::BatchText;
use twinlog_daemon::embedded::{Cluster, EmbeddedSource, Health, TopicOptions};
use twinlog_tests::cli::{Program, Stop};
use twinlog_tests::kafka::batches::batches_before_damage;
use twinlog_tests::mirror::Mirror;
use twinlog_tests::poll;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
/// Records of one appended batch.
const RECORDS: u32 = 10;
/// Kafka's numbers of the requests whose versions an old source lacks.
const FETCH: i16 = 1;
const METADATA: i16 = 3;

/// Two brokers; the first leads the only partition of `orders`, the second that of `bills`.
fn source(batches: usize) -> EmbeddedSource {
    let mut cluster = Cluster::new(2);
    for (topic, leader) in [("orders", 1), ("bills", 2)] {
        cluster.create_topic(topic, TopicOptions::default());
        cluster.elect(topic, 0, leader);
    }
    let source = EmbeddedSource::start(cluster).expect("ports are free");
    append(&source, "orders", batches, 200);
    append(&source, "bills", batches, 200);
    source
}

fn append(source: &EmbeddedSource, topic: &str, batches: usize, value_bytes: usize) {
    source.with_cluster(|cluster| {
        for _ in 0..batches {
            cluster.append(topic, 0, BatchText::at(0).timestamp(10).values(RECORDS, value_bytes).build());
        }
    });
}

fn stored_batches(mirror: &Mirror, topic: &str) -> usize {
    batches_before_damage(&mirror.partition_directory(topic, 0)).0.len()
}

#[test]
fn either_signal_drains_and_leaves_a_store_that_is_right() {
    for stop in [Stop::Terminate, Stop::Interrupt] {
        let source = source(30);
        let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["orders", "bills"]);
        let mut running = mirror.tailing().spawn();
        poll::poll_until("all is mirrored", || {
            running.expect_running();
            ["orders", "bills"].iter().all(|topic| stored_batches(&mirror, topic) == 30)
        });
        running.ask_to_stop(stop);
        let finished = running.wait().expect_code(0);
        assert_eq!(finished.json()["outcome"], "stopped_by_signal", "{stop:?}");
        mirror.verify(true).expect_code(0);
    }
}

/// What systemd would have been told so far.
struct Notifications {
    socket: UnixDatagram,
    lines: Vec<String>,
}

impl Notifications {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the socket can be made");
        socket.set_nonblocking(true).expect("a socket can be told not to wait");
        Self { socket, lines: Vec::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.lines.extend(text.lines().map(str::to_owned));
        }
    }

    /// Waits for a line that comes from now on.
    fn poll_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.read();
        let seen = self.lines.len();
        poll::poll_for(what, || {
            self.read();
            self.lines[seen..].iter().find(|line| wanted(line)).cloned()
        })
    }

    fn has(&mut self, line: &str) -> bool {
        self.read();
        self.lines.iter().any(|each| each == line)
    }
}

#[test]
fn systemd_is_told_of_readiness_of_the_live_lag_of_life_and_of_the_end() {
    let source = source(30);
    source.with_cluster(|cluster| cluster.set_health(2, Health::Down));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let mut told = Notifications::at(&path);
    // What grows later takes a while to come.
    let keys = ["link.bytes.per.second = 65536", "replica.fetch.max.bytes = 65536"];
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["orders", "bills"]).with_keys(&keys);
    let program = mirror.tailing().environment("NOTIFY_SOCKET", &path).environment("WATCHDOG_USEC", "600000");
    let running = program.spawn();
    poll::poll_until("systemd is told that the mirror is ready", || told.has("READY=1"));
    told.poll_for("the watchdog is fed", |line| line == "WATCHDOG=1");
    // Nobody knows where the log of a broker ends that cannot be reached: that is not 0.
    told.poll_for("one partition is caught up, the other unknown", |line| {
        line == "STATUS=1 of 2 partitions caught up, 0 records behind, 1 unknown, the oldest unknown"
    });
    source.with_cluster(|cluster| cluster.set_health(2, Health::Serving));
    told.poll_for("both are caught up", |line| {
        line == "STATUS=2 of 2 partitions caught up, 0 records behind, the oldest 0.0 s"
    });
    append(&source, "orders", 400, 1_000);
    told.poll_for("the source has grown since", |line| {
        line.starts_with("STATUS=1 of 2 partitions caught up, ") && !line.contains(", 0 records behind")
    });
    running.ask_to_stop(Stop::Interrupt);
    poll::poll_until("systemd is told of the end", || told.has("STOPPING=1"));
    running.wait().expect_code(0);
}

/// Threads of a process: name, and the cores that it may use as the kernel lists them.
fn threads(process: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let thread = |status: String| {
        let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
        Some(((*fields.get("Name")?).to_owned(), (*fields.get("Cpus_allowed_list")?).to_owned()))
    };
    statuses.filter_map(thread).collect()
}

#[test]
fn data_threads_stand_on_their_cores_and_everything_else_on_the_control_core() {
    let allowed = twinlog_io::allowed_cores().expect("the kernel tells");
    let (control, data) = (allowed[0], *allowed.last().expect("at least one"));
    let source = source(30);
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["orders", "bills"]);
    let cores = ["--control-core", &control.to_string(), "--data-cores", &data.to_string()];
    let mirror = mirror.with(&cores);
    let mut running = mirror.tailing().spawn();
    poll::poll_until("all is mirrored", || {
        running.expect_running();
        ["orders", "bills"].iter().all(|topic| stored_batches(&mirror, topic) == 30)
    });
    let threads = threads(running.process_id());
    let (of_data, others): (Vec<_>, Vec<_>) =
        threads.iter().partition(|(name, _)| name.starts_with("twinlog-data"));
    assert_eq!(of_data.len(), 1, "{threads:?}");
    assert!(of_data.iter().all(|(_, cores)| *cores == data.to_string()), "{threads:?}");
    // The kernel's own workers of the rings (iou-wrk-*) are among them.
    assert!(others.iter().all(|(_, cores)| *cores == control.to_string()), "{threads:?}");
    assert!(others.iter().any(|(name, _)| name.starts_with("twinlog-files")), "{threads:?}");
    running.terminate();
    running.wait().expect_code(0);
}

#[test]
fn an_old_source_is_mirrored_and_its_missing_protections_are_told_once() {
    let source = source(30);
    source.with_cluster(|cluster| {
        cluster.limit_version(FETCH, 11);
        cluster.limit_version(METADATA, 9);
    });
    let keys = ["source.metadata.max.age.ms = 100"];
    let mirror = Mirror::new(PROGRAM, &source.bootstrap(), &["orders", "bills"]).with_keys(&keys);
    let mut running = mirror.tailing().spawn();
    let sentence = "the source is old and protects less";
    running.poll_until_printed(sentence);
    poll::poll_until("all is mirrored", || {
        ["orders", "bills"].iter().all(|topic| stored_batches(&mirror, topic) == 30)
    });
    running.terminate();
    let finished = running.wait().expect_code(0);
    let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(sentence)).collect();
    assert!(told.len() == 1 && told[0].contains("parted log") && told[0].contains("topic ids"), "{told:?}");
    let check = Program::new(PROGRAM).arguments(["check", "--source", &source.bootstrap()]).run();
    let lines = check.stdout.lines().filter(|line| line.starts_with("warn  source"));
    let lines: Vec<&str> =
        lines.filter(|line| line.contains("no topic ids") && line.contains("upgrade")).collect();
    assert_eq!(lines.len(), 2, "one of each broker: {}", check.stdout);
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_at_once_by_the_check_and_by_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("twinlog.toml");
    let wrong = "memory.bytes = \"1KiB\"\nflush.mss = 1\n[link.a]\ntopics = [\"(\"]\nflush.ms = 0\n\
                 replica.fetch.max.bytes = \"32MiB\"\n[link.a.source]\nbootstrap.server = \"h:1\"\n\
                 sasl.password = \"hunter2\"\nsecurity.protocol = \"SASL_SSL\"\n[link.b]\nacks = 1\n";
    fs::write(&file, wrong).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let told = |words: &[&str]| {
        let finished = Program::new(PROGRAM).arguments(words).argument(&file).run().expect_code(2);
        assert!(finished.stdout.is_empty() && !finished.stderr.contains("hunter2"), "{finished:?}");
        finished.stderr.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let by_check = told(&["config", "check", "--config"]);
    assert_eq!(told(&["run", "--config"]), by_check, "the same lines");
    for wanted in [
        "flush.mss in the top level is not a key; did you mean flush.ms?",
        "bootstrap.server in [link.a.source] is not a key; did you mean bootstrap.servers?",
        "acks in [link.b] is a key of Kafka's clients that has no effect here",
        "sasl.password stands in",
        "memory.bytes = \"1KiB\" is refused: it is out of bounds; allowed: 64 MiB to 1 TiB",
        "data.dir is missing",
        "link a: topics = ",
        "link a: flush.ms = \"0\" is refused: it is out of bounds; allowed: ",
        "link a: replica.fetch.max.bytes = 33554432 does not go with replica.fetch.response.max.bytes",
        "link a: sasl.mechanism is missing in [link.NAME.source], security.protocol = SASL_* needs it",
        "link b: bootstrap.servers is missing in [link.NAME.source]",
        "link b: nothing is to be mirrored",
    ] {
        let wanted = format!("twinlog: {wanted}");
        let found = by_check.iter().filter(|line| line.starts_with(&wanted)).count();
        assert_eq!(found, 1, "{wanted}: {}", by_check.join("\n"));
    }
    let many: String = (0..300).map(|number| format!("unknown.key.{number} = 1\n")).collect();
    fs::write(&file, format!("data.dir = \"/d\"\n{many}")).expect("written");
    let told = told(&["config", "check", "--config"]);
    assert_eq!(told.len(), 101, "{told:?}");
    assert_eq!(told[100], "twinlog: 200 more are wrong, not named here");
}

#[test]
fn the_demo_shows_five_identical_topics_and_ends_with_0() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = Program::new(PROGRAM).arguments(["demo", "--exit", "--directory"]);
    let finished = program.argument(directory.path().join("demo")).run().expect_code(0);
    let identical: Vec<&str> = finished.stdout.lines().filter(|line| line.ends_with("  identical")).collect();
    assert_eq!(identical.len(), 5, "{}", finished.stdout);
}
