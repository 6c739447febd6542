//! A KRaft cluster of one or three brokers on this machine, for as long as a test needs it.
//!
//! Owns the directory of the cluster, its nodes, their properties and the scenario process. Brokers
//! are numbered from 1. One broker is its own controller; three have a separate one (node 100), so that
//! killing a broker never touches the quorum; a destination may have three of them (nodes 100 to 102).
//! Everything waits on what brokers say, never on time.
//!
//! ```text
//!   <temporary>/node-1/{server.properties, start-N.output, data/<topic>-<partition>/...}
//!   <temporary>/node-100/...                                    a controller of its own
//!   <temporary>/scenario.output
//! ```

use super::artifacts;
use super::node::{Node, Process, Signal, directory_of};
use super::ports::{self, Port};
use super::scenario::Scenario;
use super::security::{Secured, format_arguments};
use super::watchdog::{KEEP_VARIABLE, Watchdog};
use crate::poll;
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;

/// The first of them; brokers are far below it, guests far above.
const CONTROLLER_ID: i32 = 100;
/// The controller keeps metadata of a few topics only.
const CONTROLLER_HEAP_MEGABYTES: u32 = 192;
/// Enough for thousands of partitions; a test with ten thousand asks for 2048.
const BROKER_HEAP_MEGABYTES: u32 = 384;
const TOOL_HEAP_MEGABYTES: u32 = 256;
/// What `kafka-acls.sh` runs.
const ACL_COMMAND: &str = "org.apache.kafka.tools.AclCommand";

/// Small and quick: internal topics of a few partitions, retention and cleaning within a second,
/// a dead broker noticed after three.
const COMMON: &str = "\
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,\
ADMIN:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.num.partitions=5
transaction.state.log.num.partitions=5
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
background.threads=2
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=200
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
initial.broker.registration.timeout.ms=110000
controlled.shutdown.retry.backoff.ms=500
";

/// What makes a controller write a snapshot within moments and drop the log before it.
const FORCED_SNAPSHOTS: [(&str, &str); 4] = [
    ("metadata.log.max.record.bytes.between.snapshots", "20000"),
    ("metadata.log.max.snapshot.interval.ms", "30000"),
    ("metadata.max.retention.bytes", "30000"),
    ("metadata.max.retention.ms", "60000"),
];

/// An authorizer that lets everybody do what no ACL speaks of, and one user whom it lets do everything. Brokers
/// are anonymous as all others are: they must be able to register before there is an ACL.
const AUTHORIZER: [(&str, &str); 5] = [
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("allow.everyone.if.no.acl.found", "true"),
    ("super.users", "User:admin"),
    ("sasl.enabled.mechanisms", "PLAIN"),
    (
        "listener.name.admin.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_admin=\"of-this-test\";",
    ),
];

/// Who has no right but those that are granted, and how it logs in.
pub const TWIN: &str = "twin";
pub const TWIN_PASSWORD: &str = "of-twin";

/// On top of that: a second user, and controllers who know users apart. Who does not log in is a broker, or the
/// test itself.
const PRINCIPALS: [(&str, &str); 7] = [
    ("allow.everyone.if.no.acl.found", "false"),
    ("super.users", "User:admin;User:ANONYMOUS"),
    (
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,ADMIN:SASL_PLAINTEXT",
    ),
    ("sasl.mechanism.controller.protocol", "PLAIN"),
    ("listener.name.controller.sasl.enabled.mechanisms", "PLAIN"),
    (
        "listener.name.controller.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
         password=\"of-this-test\" user_admin=\"of-this-test\" user_twin=\"of-twin\";",
    ),
    (
        "listener.name.admin.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_admin=\"of-this-test\" \
         user_twin=\"of-twin\";",
    ),
];

/// How that user connects.
const ADMIN_CLIENT: &str = "\
security.protocol=SASL_PLAINTEXT
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
password=\"of-this-test\";
";

/// What kind of cluster a test wants.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// 1 or 3.
    pub brokers: usize,
    /// 1 or 3; those of a single broker without listeners of their own are the broker itself.
    pub controllers: usize,
    /// Brokers meet on a listener INTERNAL, clients use one called EXTERNAL.
    pub internal_listener: bool,
    /// The broker has a listener for each way to connect, see [`Secured`].
    pub secured: bool,
    /// Rights are checked, and the brokers of a destination have a listener ADMIN for who sets them.
    pub authorizer: bool,
    /// Users by SCRAM, with their passwords, that exist before the first start.
    pub users: Vec<(&'static str, &'static str)>,
    /// Properties of a client, where brokers can be reached by secured listeners only.
    pub client: String,
    /// Broker properties that win over ours.
    pub overrides: Vec<(String, String)>,
    /// Names of further listeners of a single broker; the overrides say what they are.
    pub further_listeners: Vec<&'static str>,
    /// Flags of the brokers' Java.
    pub java_flags: Vec<String>,
    pub heap_megabytes: u32,
    /// All compilers of Java, see [`Process`].
    pub full_speed: bool,
    /// What its nodes run; tools and clients are always the newest.
    pub version: &'static str,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            brokers: 1,
            controllers: 1,
            internal_listener: false,
            authorizer: false,
            secured: false,
            users: Vec::new(),
            client: String::new(),
            overrides: Vec::new(),
            further_listeners: Vec::new(),
            java_flags: Vec::new(),
            heap_megabytes: BROKER_HEAP_MEGABYTES,
            full_speed: false,
            version: artifacts::KAFKA_VERSION,
        }
    }
}

impl ClusterOptions {
    /// What a guest joins: three brokers, controllers of their own, Kafka's default session of 9 s.
    pub fn destination(controllers: usize) -> Self {
        let options = Self { brokers: 3, controllers, internal_listener: true, ..Self::default() };
        let options = options.with_override("default.replication.factor", "3");
        options.with_override("broker.session.timeout.ms", "9000")
    }

    /// One broker that can be reached by every protocol and mechanism.
    pub fn secured() -> Self {
        Self { secured: true, ..Self::default() }
    }

    /// The metadata log soon begins with a snapshot, as that of any cluster that has lived for a while.
    pub fn with_forced_snapshots(self) -> Self {
        FORCED_SNAPSHOTS.iter().fold(self, |options, (name, value)| options.with_override(name, value))
    }

    /// Nodes of an older Kafka.
    pub fn of_version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    fn process(&self) -> Process {
        Process {
            version: self.version,
            heap_megabytes: self.heap_megabytes,
            flags: self.java_flags.clone(),
            full_speed: self.full_speed,
        }
    }

    /// Rights are checked from the beginning: of whoever logs in as [`TWIN`] at the listener ADMIN and at the
    /// controllers. The brokers, and clients of the listeners without a login, may do everything.
    pub fn with_principals(self) -> Self {
        PRINCIPALS
            .iter()
            .fold(self.with_authorizer(), |options, (name, value)| options.with_override(name, value))
    }

    /// Rights are checked as soon as there are any, see [`Cluster::alter_acls`].
    pub fn with_authorizer(self) -> Self {
        let options = Self { authorizer: true, ..self };
        AUTHORIZER.iter().fold(options, |options, (name, value)| options.with_override(name, value))
    }

    pub fn with_override(mut self, name: &str, value: &str) -> Self {
        self.overrides.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Debug)]
pub struct Cluster {
    /// Broker `i` is at `i - 1`.
    brokers: Vec<Node>,
    /// Controller `i` is at `i - 1`; empty where the only broker is its own.
    controllers: Vec<Node>,
    /// Where the user who may do everything connects, by broker; empty where there is none.
    admin: Vec<u16>,
    /// Of a broker that can be reached in every way.
    secured: Option<Secured>,
    /// Ports of further listeners, ours as long as the cluster.
    further_ports: Vec<Port>,
    scenario: Scenario,
    directory: PathBuf,
    /// Last: it removes the directory of all the others.
    watchdog: Watchdog,
}

impl Cluster {
    /// Starts a cluster and returns when every broker serves.
    pub fn start(options: ClusterOptions) -> Self {
        assert!(matches!(options.brokers, 1 | 3), "a cluster has 1 or 3 brokers, not {}", options.brokers);
        artifacts::kafka();
        artifacts::kafka_of(options.version);
        let directory =
            tempfile::Builder::new().prefix("twinlog-kafka-").tempdir().expect("a directory").keep();
        let watchdog = Watchdog::over(&directory);
        let cluster_id = random_uuid();
        assert!(matches!(options.controllers, 1 | 3), "a quorum of {} controllers", options.controllers);
        let is_combined = options.brokers == 1 && !options.internal_listener;
        assert!(is_combined || !options.secured, "a secured cluster is one broker");
        let Nodes { controllers, brokers, admin, secured, further_ports } =
            if is_combined { combined(&directory, &options) } else { separate(&directory, &options) };
        let users = if options.secured { Secured::USERS.to_vec() } else { options.users.clone() };
        format_all(&cluster_id, &controllers, &brokers, &users);
        for node in controllers.iter().chain(&brokers) {
            node.launch(&watchdog);
        }
        // Its compilation and the start of the brokers take as long as each other: side by side.
        let client = (!options.client.is_empty()).then(|| directory.join("client.properties"));
        if let Some(client) = &client {
            fs::write(client, &options.client).expect("the cluster's directory can be written");
        }
        let output = directory.join("scenario.output");
        let scenario = Scenario::launch(&addresses(&brokers), client.as_deref(), &output, &watchdog);
        for node in controllers.iter().chain(&brokers) {
            node.poll_until_ready();
        }
        Self { brokers, controllers, admin, secured, further_ports, scenario, directory, watchdog }
    }

    /// `host:port` of every broker, running or not, separated by commas.
    pub fn bootstrap(&self) -> String {
        addresses(&self.brokers)
    }

    /// Listeners and authority of a cluster that was started as [`ClusterOptions::secured`].
    pub fn secured(&self) -> &Secured {
        self.secured.as_ref().expect("the cluster is a secured one")
    }

    /// `host:port` of the controller that a single broker is.
    pub fn own_controller(&self) -> String {
        format!("127.0.0.1:{}", self.further_ports[0].number)
    }

    /// `host:port` of one of [`ClusterOptions::further_listeners`], counted from 0.
    pub fn further_address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.further_ports[1 + index].number)
    }

    /// `host:port` of every controller that is a process of its own, separated by commas.
    pub fn bootstrap_controllers(&self) -> String {
        addresses(&self.controllers)
    }

    /// The controller, numbered from 1, that leads the quorum, as Kafka's own tool sees it.
    pub fn active_controller(&self) -> usize {
        let arguments = ["--bootstrap-controller", &self.bootstrap_controllers(), "describe", "--status"];
        poll::poll_for("the quorum has a leader", || {
            let output = self.tool("org.apache.kafka.tools.MetadataQuorumCommand", &arguments);
            let text = String::from_utf8_lossy(&output.stdout);
            let leader = text.lines().find_map(|line| line.strip_prefix("LeaderId:"))?;
            let id: i32 = leader.trim().parse().ok()?;
            self.controllers.iter().position(|node| node.id == id).map(|position| position + 1)
        })
    }

    /// SIGKILL of a controller.
    pub fn kill_controller(&self, controller: usize) {
        self.controllers[controller - 1].kill(&self.watchdog);
    }

    /// SIGTERM of a controller: it resigns first.
    pub fn stop_controller(&self, controller: usize) {
        self.controllers[controller - 1].stop(&self.watchdog);
    }

    /// Starts a controller that was killed or stopped and waits until it serves.
    pub fn restart_controller(&self, controller: usize) {
        self.controllers[controller - 1].launch(&self.watchdog);
        self.controllers[controller - 1].poll_until_ready();
    }

    /// `host:port` of one broker.
    pub fn address(&self, broker: usize) -> String {
        addresses(&self.brokers[broker - 1..broker])
    }

    /// `host:port` of one broker at the listener where brokers meet.
    pub fn internal_address(&self, broker: usize) -> String {
        let listeners_each = if self.admin.is_empty() { 1 } else { 2 };
        format!("127.0.0.1:{}", self.further_ports[(broker - 1) * listeners_each].number)
    }

    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Where broker `broker` keeps `<topic>-<partition>/`.
    pub fn log_directory(&self, broker: usize) -> &Path {
        &self.broker(broker).data_directory
    }

    pub fn partition_directory(&self, broker: usize, topic: &str, partition: i32) -> PathBuf {
        self.log_directory(broker).join(format!("{topic}-{partition}"))
    }

    /// The broker that leads a partition, `None` while nobody does.
    pub fn leader_of(&self, topic: &str, partition: usize) -> Option<usize> {
        let leader = self.scenario.describe_topic(topic)[partition].leader;
        usize::try_from(leader).ok()
    }

    /// The process of a running broker.
    pub fn broker_process(&self, broker: usize) -> Option<u32> {
        self.broker(broker).process_id()
    }

    /// What the broker has printed since its last start.
    pub fn broker_output(&self, broker: usize) -> String {
        self.broker(broker).printed()
    }

    /// SIGKILL: nothing is flushed, nothing is handed over.
    pub fn kill_broker(&self, broker: usize) {
        self.broker(broker).kill(&self.watchdog);
    }

    /// SIGTERM: leadership is handed over, the log is closed and its indexes are trimmed.
    pub fn stop_broker(&self, broker: usize) {
        self.broker(broker).stop(&self.watchdog);
    }

    /// Starts a broker that was killed or stopped and waits until it serves.
    pub fn restart_broker(&self, broker: usize) {
        self.broker(broker).launch(&self.watchdog);
        self.broker(broker).poll_until_ready();
    }

    /// SIGSTOP: connections stay open and nothing answers any more.
    pub fn pause_broker(&self, broker: usize) {
        self.broker(broker).signal(Signal::Stop);
    }

    /// SIGCONT after [`Cluster::pause_broker`].
    pub fn continue_broker(&self, broker: usize) {
        self.broker(broker).signal(Signal::Continue);
    }

    /// Waits until the log cleaner of `broker` has been over a partition at least up to `offset`.
    pub fn poll_until_compacted(&self, broker: usize, topic: &str, partition: i32, offset: i64) {
        let checkpoint = self.log_directory(broker).join("cleaner-offset-checkpoint");
        let wanted = format!("{topic} {partition} ");
        poll::poll_until(&format!("{topic}-{partition} is cleaned up to {offset}"), || {
            let text = fs::read_to_string(&checkpoint).unwrap_or_default();
            let cleaned = text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse::<i64>().ok());
            cleaned.is_some_and(|cleaned| cleaned >= offset)
        });
    }

    /// Waits until a controller has written a snapshot of the metadata log, beside the one it was formatted
    /// with. From then on a reader that begins at 0 is sent to it.
    pub fn poll_until_metadata_snapshot(&self, controller: usize) {
        let folder = self.controllers[controller - 1].data_directory.join("__cluster_metadata-0");
        poll::poll_until("the controller has written a snapshot", || {
            let names = fs::read_dir(&folder).expect("readable").flatten().map(|entry| entry.file_name());
            names.filter_map(|name| name.into_string().ok()).any(|name| {
                let offset = name.strip_suffix(".checkpoint").and_then(|name| name.split('-').next());
                offset.is_some_and(|offset| offset.parse::<u64>().is_ok_and(|offset| offset > 0))
            })
        });
    }

    /// Runs one of Kafka's tools (a class of `kafka-tools`) to its end.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Output {
        run_tool(class, arguments)
    }

    /// Runs Kafka's tool for rights as the user who may do everything, with these words.
    pub fn alter_acls(&self, words: &[&str]) {
        let port = self.admin.last().expect("the cluster has an authorizer");
        let client = self.directory.join("admin.properties");
        fs::write(&client, ADMIN_CLIENT).expect("the cluster's directory can be written");
        let (server, client) = (format!("127.0.0.1:{port}"), client.display().to_string());
        let connection = ["--bootstrap-server", &server, "--command-config", &client, "--force"];
        let output = self.tool(ACL_COMMAND, &[&connection, words].concat());
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// `host:port` of every broker at the listener where users log in, separated by commas.
    pub fn login_addresses(&self) -> String {
        self.admin.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    fn broker(&self, broker: usize) -> &Node {
        &self.brokers[broker - 1]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.scenario.end(&self.watchdog);
        for node in self.brokers.iter().chain(&self.controllers) {
            node.kill(&self.watchdog);
        }
        if thread::panicking() {
            let directory = self.directory.display();
            artifacts::say(&format!(
                "the failed test's cluster was in {directory} ({KEEP_VARIABLE}=1 keeps it)"
            ));
        }
    }
}

/// Runs one of Kafka's tools to its end, with no cluster needed.
pub fn run_tool(class: &str, arguments: &[&str]) -> Output {
    let mut command = artifacts::kafka().java(TOOL_HEAP_MEGABYTES);
    // Only the tool itself speaks: log lines between its own would have to be told apart.
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error").arg(class).args(arguments);
    command.stdin(Stdio::null()).output().expect("Java can be started")
}

fn addresses(brokers: &[Node]) -> String {
    brokers.iter().map(|node| format!("127.0.0.1:{}", node.port.number)).collect::<Vec<_>>().join(",")
}

struct Nodes {
    controllers: Vec<Node>,
    brokers: Vec<Node>,
    admin: Vec<u16>,
    secured: Option<Secured>,
    further_ports: Vec<Port>,
}

/// One node that is broker and controller.
fn combined(directory: &Path, options: &ClusterOptions) -> Nodes {
    let (port, quorum) = (ports::take(), ports::take());
    let mut properties = properties(options, &[quorum.number]);
    let listener = format!("PLAINTEXT://127.0.0.1:{}", port.number);
    let secured = options.secured.then(|| Secured::new(directory));
    let mut both = format!("{listener},CONTROLLER://127.0.0.1:{}", quorum.number);
    let own = options.authorizer.then(ports::take);
    if let Some(own) = &own {
        write!(both, ",ADMIN://127.0.0.1:{}", own.number).expect("a string takes everything");
    }
    let further: Vec<Port> = options.further_listeners.iter().map(|_| ports::take()).collect();
    for (name, port) in options.further_listeners.iter().zip(&further) {
        write!(both, ",{name}://127.0.0.1:{}", port.number).expect("a string takes everything");
    }
    let admin = own.iter().map(|port| port.number).collect();
    if let Some(secured) = &secured {
        both.push_str(&secured.listeners());
        properties.push_str(&secured.properties());
    }
    write!(properties, "process.roles=broker,controller\nlisteners={both}\nadvertised.listeners={both}\n")
        .expect("a string takes everything");
    let node = Node::create(1, port, directory_of(directory, 1), options.process(), &properties);
    let further_ports = std::iter::once(quorum).chain(further).chain(own).collect();
    Nodes { controllers: Vec::new(), brokers: vec![node], admin, secured, further_ports }
}

/// Controllers and brokers, each a process of its own.
fn separate(directory: &Path, options: &ClusterOptions) -> Nodes {
    let quorum: Vec<Port> = (0..options.controllers).map(|_| ports::take()).collect();
    let numbers: Vec<u16> = quorum.iter().map(|port| port.number).collect();
    let common = properties(options, &numbers);
    let mut further_ports = Vec::new();
    let mut admin = Vec::new();
    let brokers = (1..=options.brokers as i32).map(|id| {
        let port = ports::take();
        let listeners = if options.internal_listener {
            let internal = ports::take();
            let mut both =
                format!("INTERNAL://127.0.0.1:{},EXTERNAL://127.0.0.1:{}", internal.number, port.number);
            further_ports.push(internal);
            if options.authorizer {
                let own = ports::take();
                write!(both, ",ADMIN://127.0.0.1:{}", own.number).expect("a string takes everything");
                admin.push(own.number);
                further_ports.push(own);
            }
            format!("inter.broker.listener.name=INTERNAL\nlisteners={both}\nadvertised.listeners={both}\n")
        } else {
            let listener = format!("PLAINTEXT://127.0.0.1:{}", port.number);
            format!("listeners={listener}\nadvertised.listeners={listener}\n")
        };
        let properties = format!("{common}process.roles=broker\n{listeners}");
        Node::create(id, port, directory_of(directory, id), options.process(), &properties)
    });
    let brokers = brokers.collect();
    let controller = Process { heap_megabytes: CONTROLLER_HEAP_MEGABYTES, ..options.process() };
    let controllers = quorum.into_iter().zip(CONTROLLER_ID..).map(|(port, id)| {
        let listener = format!("CONTROLLER://127.0.0.1:{}", port.number);
        let properties = format!("{common}process.roles=controller\nlisteners={listener}\n");
        Node::create(id, port, directory_of(directory, id), controller.clone(), &properties)
    });
    Nodes { controllers: controllers.collect(), brokers, admin, secured: None, further_ports }
}

fn properties(options: &ClusterOptions, quorum_ports: &[u16]) -> String {
    let replicas = options.brokers;
    let quorum: Vec<String> = quorum_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut text = format!("{COMMON}controller.quorum.bootstrap.servers={}\n", quorum.join(","));
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        writeln!(text, "{topic}.replication.factor={replicas}").expect("a string takes everything");
    }
    // Java's property files let the later line win.
    for (name, value) in &options.overrides {
        writeln!(text, "{name}={value}").expect("a string takes everything");
    }
    text
}

/// Formats every node at once: each costs the start of a JVM.
fn format_all(cluster_id: &str, controllers: &[Node], brokers: &[Node], users: &[(&str, &str)]) {
    // Every controller has to be told of all, with the ids that their directories will have.
    let voter = |node: &Node| format!("{}@127.0.0.1:{}:{}", node.id, node.port.number, random_uuid());
    let voters: Vec<String> = controllers.iter().map(voter).collect();
    let voters = voters.join(",");
    let users = format_arguments(users);
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let users = &users;
    thread::scope(|scope| {
        for node in controllers.iter().chain(brokers) {
            let is_controller = node.id >= CONTROLLER_ID || controllers.is_empty();
            let arguments = match (is_controller, controllers.len()) {
                (false, _) => vec!["--no-initial-controllers"],
                (true, 0 | 1) => vec!["--standalone"],
                (true, _) => vec!["--initial-controllers", &voters],
            };
            scope.spawn(move || node.format(cluster_id, &[&arguments[..], users].concat()));
        }
    });
}

/// A random id in Kafka's text form: 16 bytes as 22 characters of the URL-safe alphabet.
fn random_uuid() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
    // A leading dash would be read as an option by the tool that formats.
    bytes[0] &= 0x7f;
    let bits = u128::from_be_bytes(bytes);
    let digit = |place: u32| ALPHABET[(bits >> (122 - 6 * place) & 63) as usize] as char;
    let mut text: String = (0..21).map(digit).collect();
    text.push(ALPHABET[((bits << 4) & 63) as usize] as char);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_has_the_form_that_kafka_reads() {
        let id = random_uuid();
        assert_eq!(id.len(), 22);
        assert!(!id.starts_with('-'));
        assert_ne!(id, random_uuid());
    }

    #[test]
    fn overrides_come_after_what_they_override() {
        let options = ClusterOptions::default().with_override("num.io.threads", "8");
        let text = properties(&options, &[9]);
        assert!(text.rfind("num.io.threads=8") > text.find("num.io.threads=4"));
    }
}
