//! What the tests do to a cluster, by Kafka's own client: a typed face of `java/Scenario.java`.
//!
//! Owns the one scenario process of a cluster and the line protocol to it: one command, one answer, in
//! order, whoever asks. A refused command fails the test with the command and the client's sentence.

use super::artifacts;
use super::watchdog::Watchdog;
use crate::poll::HANG_LIMIT;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Room for a few producers with 900 KB records in flight.
const HEAP_MEGABYTES: u32 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How far a reader sees: to the high watermark or to the last stable offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    Preferred,
    Unclean,
}

/// One partition as the cluster's metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// -1 while there is none.
    pub leader: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// What a producing command sends; the same values send the same records.
#[derive(Clone, Debug)]
pub struct Produce {
    pub topic: String,
    /// `None`: all partitions in turn.
    pub partition: Option<i32>,
    pub codec: Codec,
    pub count: u32,
    pub value_bytes: u32,
    pub idempotent: bool,
    /// Wait for all in-sync replicas, or for the leader alone (never idempotent).
    pub all_in_sync: bool,
    pub headers: bool,
    pub nulls: bool,
    pub batch_bytes: u32,
    pub linger_ms: u32,
    pub seed: u32,
}

impl Produce {
    /// A hundred plain records of 200 bytes to `topic`.
    pub fn to(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: None,
            codec: Codec::None,
            count: 100,
            value_bytes: 200,
            idempotent: true,
            all_in_sync: true,
            headers: false,
            nulls: false,
            batch_bytes: 16_384,
            linger_ms: 5,
            seed: 1,
        }
    }

    fn command(&self, verb: &'static str) -> Command {
        Command::new(verb)
            .with("topic", &self.topic)
            .with("partition", self.partition.unwrap_or(-1))
            .with("codec", self.codec.name())
            .with("count", self.count)
            .with("value-bytes", self.value_bytes)
            .with("idempotent", self.idempotent && self.all_in_sync)
            .with("acks", if self.all_in_sync { "all" } else { "1" })
            .with("headers", self.headers)
            .with("nulls", self.nulls)
            .with("batch-bytes", self.batch_bytes)
            .with("linger-ms", self.linger_ms)
            .with("seed", self.seed)
    }
}

/// Keyed records in rounds, for the log cleaner.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    pub keys: u32,
    pub rounds: u32,
    /// Between the timestamps of two rounds; more than `segment.ms` begins a segment each.
    pub round_ms: u32,
    pub tombstone_percent: u32,
}

/// Transactions that lie inside one another.
#[derive(Clone, Copy, Debug)]
pub struct Transactions {
    pub producers: u32,
    pub abort_percent: u32,
}

/// How the transactions of [`Scenario::produce_transactions`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionsEnded {
    pub records: u64,
    pub commits: u64,
    pub aborts: u64,
}

#[derive(Debug)]
pub struct Scenario {
    conversation: Mutex<Conversation>,
}

#[derive(Debug)]
struct Conversation {
    process: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Scenario {
    /// Starts the process; it is ready when it answers its first command. `client` is a file that says how a
    /// secured cluster is reached.
    pub(super) fn launch(bootstrap: &str, client: Option<&Path>, output: &Path, watchdog: &Watchdog) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/Scenario.java");
        let errors = File::create(output).expect("the output file of the scenario can be created");
        let mut command = artifacts::kafka()
            .java_in(output.parent().expect("it lies in the cluster's directory"), HEAP_MEGABYTES);
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg(source).arg(bootstrap).args(client);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut process = command.spawn().expect("Java can be started");
        watchdog.watch(process.id());
        let stdout = BufReader::new(process.stdout.take().expect("its output is piped"));
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let commands = process.stdin.take();
        Self { conversation: Mutex::new(Conversation { process, commands, answers }) }
    }

    pub(super) fn end(&self, watchdog: &Watchdog) {
        // A test that failed inside a command leaves the lock poisoned; its process must end all the same.
        let mut conversation = self.conversation.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        conversation.commands = None;
        // It may have ended by itself: then there is nothing to kill.
        let _ = conversation.process.kill();
        conversation.process.wait().expect("a child can be waited for");
        watchdog.forget(conversation.process.id());
    }

    /// Creates a topic and waits for working leaders; returns its topic id.
    pub fn create_topic(
        &self,
        topic: &str,
        partitions: u32,
        replicas: u32,
        configs: &[(&str, &str)],
    ) -> String {
        let command = Command::new("create-topic").with("topic", topic).with("partitions", partitions);
        self.ask(command.with("replicas", replicas).configs(configs)).text("id")
    }

    /// [`Scenario::create_topic`] with the brokers of every partition, the preferred leader first.
    pub fn create_topic_on(&self, topic: &str, assignment: &[&[i32]], configs: &[(&str, &str)]) -> String {
        let partitions = assignment.iter().map(|replicas| joined(replicas)).collect::<Vec<_>>().join(",");
        let command = Command::new("create-topic").with("topic", topic).with("assignment", partitions);
        self.ask(command.configs(configs)).text("id")
    }

    pub fn delete_topic(&self, topic: &str) {
        self.ask(Command::new("delete-topic").with("topic", topic));
    }

    pub fn topic_id(&self, topic: &str) -> String {
        self.ask(Command::new("topic-id").with("topic", topic)).text("id")
    }

    /// Leaders and replicas of every partition, in order.
    pub fn describe_topic(&self, topic: &str) -> Vec<PartitionDescription> {
        let answer = self.ask(Command::new("describe-topic").with("topic", topic));
        let (leaders, replicas, in_sync) =
            (answer.text("leaders"), answer.text("replicas"), answer.text("in-sync"));
        let sets = replicas.split(',').zip(in_sync.split(','));
        let rows = leaders.split(',').zip(sets).map(|(leader, (replicas, in_sync))| PartitionDescription {
            leader: number(leader),
            replicas: replicas.split(':').map(number).collect(),
            in_sync: in_sync.split(':').filter(|id| !id.is_empty()).map(number).collect(),
        });
        rows.collect()
    }

    pub fn add_partitions(&self, topic: &str, total: u32) {
        self.ask(Command::new("add-partitions").with("topic", topic).with("total", total));
    }

    pub fn alter_topic_configs(&self, topic: &str, configs: &[(&str, &str)]) {
        self.ask(Command::new("alter-configs").with("topic", topic).configs(configs));
    }

    /// What a topic's config is, set or by default.
    pub fn topic_config(&self, topic: &str, key: &str) -> String {
        self.ask(Command::new("topic-config").with("topic", topic).with("key", key)).text("value").to_owned()
    }

    /// Records with the shape of `produce`; returns how many were acknowledged.
    pub fn produce_mixed(&self, produce: &Produce) -> u64 {
        self.ask(produce.command("produce-mixed")).number("records")
    }

    /// One record of `produce.value_bytes` of noise to one partition.
    pub fn produce_large(&self, produce: &Produce) -> u64 {
        assert!(produce.partition.is_some(), "a large record goes to a named partition");
        self.ask(produce.command("produce-large")).number("records")
    }

    /// Keyed records and tombstones, for the log cleaner, to one partition.
    pub fn produce_keyed(&self, produce: &Produce, keyed: Keyed) -> u64 {
        assert!(produce.partition.is_some(), "keyed records go to a named partition");
        let command = produce.command("produce-keyed").with("keys", keyed.keys).with("rounds", keyed.rounds);
        let command =
            command.with("round-ms", keyed.round_ms).with("tombstone-percent", keyed.tombstone_percent);
        self.ask(command).number("records")
    }

    /// `produce.count` transactions of a few records each.
    pub fn produce_transactions(&self, produce: &Produce, transactions: Transactions) -> TransactionsEnded {
        let command = produce.command("produce-transactions").with("producers", transactions.producers);
        let answer = self.ask(command.with("abort-percent", transactions.abort_percent));
        TransactionsEnded {
            records: answer.number("records"),
            commits: answer.number("commits"),
            aborts: answer.number("aborts"),
        }
    }

    /// Opens a transaction under `id`, writes `produce.count` records and leaves it open.
    pub fn open_transaction(&self, id: &str, produce: &Produce) {
        assert!(produce.partition.is_some(), "an open transaction lies in a named partition");
        self.ask(produce.command("transaction-open").with("id", id));
    }

    pub fn finish_transaction(&self, id: &str, commit: bool) {
        self.ask(Command::new("transaction-finish").with("id", id).with("commit", commit));
    }

    /// Produces in the background until [`Scenario::stop_producing`].
    pub fn start_producing(&self, id: &str, produce: &Produce, records_per_second: u32) {
        let command = produce.command("produce-start").with("id", id);
        self.ask(command.with("records-per-second", records_per_second));
    }

    /// Stops a background producer, waits for its last record, returns how many were acknowledged.
    pub fn stop_producing(&self, id: &str) -> u64 {
        self.ask(Command::new("produce-stop").with("id", id)).number("records")
    }

    /// A consumer joins a group, reads so many records, commits behind them and leaves: for each partition the first
    /// and the last offset that it read, and how many.
    pub fn consume(&self, group: &str, topic: &str, count: u32) -> Vec<(i32, i64, i64, u64)> {
        let command = Command::new("consume").with("group", group).with("topic", topic).with("count", count);
        let told = self.ask(command).text("read");
        let row = |text: &str| {
            let fields: Vec<i64> = text.split(':').map(number).collect();
            let [partition, first, last, count] = fields[..] else { panic!("{text} is no row") };
            let partition = i32::try_from(partition).expect("a partition");
            (partition, first, last, u64::try_from(count).expect("a count"))
        };
        told.split(',').filter(|text| !text.is_empty()).map(row).collect()
    }

    /// A consumer that stays in a group until [`Scenario::leave_group`], and reads nothing.
    pub fn join_group(&self, id: &str, group: &str, topic: &str) {
        self.ask(Command::new("member-start").with("id", id).with("group", group).with("topic", topic));
    }

    pub fn leave_group(&self, id: &str) {
        self.ask(Command::new("member-stop").with("id", id));
    }

    /// Moves the log start up to `before`; returns the log start offset that the leader reports.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> i64 {
        let command = Command::new("delete-records").with("topic", topic).with("partition", partition);
        number(&self.ask(command.with("before", before)).text("log-start-offset"))
    }

    /// The log start offset of every partition.
    pub fn start_offsets(&self, topic: &str) -> Vec<i64> {
        self.offsets(topic, "start", Isolation::ReadUncommitted)
    }

    /// High watermarks, or last stable offsets, of every partition.
    pub fn end_offsets(&self, topic: &str, isolation: Isolation) -> Vec<i64> {
        self.offsets(topic, "end", isolation)
    }

    pub fn elect_leader(&self, topic: &str, partition: i32, election: Election) {
        let kind = match election {
            Election::Preferred => "preferred",
            Election::Unclean => "unclean",
        };
        let command = Command::new("elect-leader").with("topic", topic).with("partition", partition);
        self.ask(command.with("type", kind));
    }

    /// Moves a partition to `replicas` and waits until they are all in sync.
    pub fn reassign(&self, topic: &str, partition: i32, replicas: &[i32]) {
        let command = Command::new("reassign").with("topic", topic).with("partition", partition);
        self.ask(command.with("replicas", joined(replicas)));
    }

    /// Asks for other replicas, in this order, and waits for nothing.
    pub fn start_reassignment(&self, topic: &str, partition: i32, replicas: &[i32]) {
        let command = Command::new("reassign-start").with("topic", topic).with("partition", partition);
        self.ask(command.with("replicas", joined(replicas)));
    }

    /// Cancels what is under way for a topic; how many partitions that were.
    pub fn cancel_reassignments(&self, topic: &str) -> u64 {
        self.ask(Command::new("reassign-cancel").with("topic", topic)).number("cancelled")
    }

    fn offsets(&self, topic: &str, at: &str, isolation: Isolation) -> Vec<i64> {
        let isolation = match isolation {
            Isolation::ReadUncommitted => "read_uncommitted",
            Isolation::ReadCommitted => "read_committed",
        };
        let command =
            Command::new("offsets").with("topic", topic).with("at", at).with("isolation", isolation);
        self.ask(command).text("offsets").split(',').map(number).collect()
    }

    fn ask(&self, command: Command) -> Answer {
        let mut conversation = self.conversation.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let pipe = conversation.commands.as_mut().expect("the pipe is open until the cluster ends");
        writeln!(pipe, "{}", command.0)
            .expect("the scenario process reads its commands; see scenario.output");
        let line = conversation.answers.recv_timeout(HANG_LIMIT);
        let line =
            line.unwrap_or_else(|error| panic!("no answer to {:?}: {error}; see scenario.output", command.0));
        match line.strip_prefix("ok ") {
            Some(fields) => Answer { command: command.0, fields: fields.to_owned() },
            None => panic!("the cluster refused {:?}: {line}", command.0),
        }
    }
}

/// One line of the protocol: a verb and fields without spaces.
struct Command(String);

impl Command {
    fn new(verb: &'static str) -> Self {
        Self(verb.to_owned())
    }

    fn with(mut self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        assert!(!value.contains(char::is_whitespace), "a value of a command has no spaces: {name}={value:?}");
        self.0.push_str(&format!(" {name}={value}"));
        self
    }

    fn configs(self, configs: &[(&str, &str)]) -> Self {
        configs.iter().fold(self, |command, (name, value)| command.with(&format!("config.{name}"), value))
    }
}

struct Answer {
    command: String,
    fields: String,
}

impl Answer {
    fn text(&self, name: &str) -> String {
        let field = self.fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        field
            .unwrap_or_else(|| panic!("the answer {:?} to {:?} has no {name}", self.fields, self.command))
            .to_owned()
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} in the answer to {:?} is no number", self.command))
    }
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("the scenario process answered {text:?} where a number belongs"))
}

fn joined(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_line_of_fields() {
        let command = Command::new("create-topic").with("topic", "a").configs(&[("retention.ms", "1")]);
        assert_eq!(command.0, "create-topic topic=a config.retention.ms=1");
    }

    #[test]
    #[should_panic(expected = "no spaces")]
    fn a_value_with_a_space_is_refused() {
        Command::new("create-topic").with("topic", "two words");
    }

    #[test]
    fn an_answer_gives_its_fields_by_name() {
        let answer = Answer { command: String::new(), fields: "records=7 commits=2".to_owned() };
        assert_eq!((answer.number("commits"), answer.text("records")), (2, "7".to_owned()));
    }
}
