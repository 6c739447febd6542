//! The command line: what can be said, and which part of the program answers.
//!
//! Flags are put over the configuration file and obey the same table of keys. Exit codes: 0 done,
//! 1 failed or not everything done, 2 usage or configuration. Results go to standard output, everything
//! else to standard error.

mod audit_command;
mod groups_command;
mod hand_over_command;
mod link_command;
mod mirror_command;
mod offsets_command;
mod operator;
#[cfg(test)]
mod operator_tests;
mod pausing;
mod status_command;
mod table;
mod token_command;
mod top_command;
mod top_screen;
#[cfg(test)]
mod top_screen_tests;
mod verify_command;
mod verify_progress;

use crate::config::{
    ConfigError, Configuration, DEFAULT_LINK, Findings, KeptLinks, RawConfig, RawValue, Scope, Settings,
    explain,
};
use crate::control::check::{CheckRequest, check};
use crate::control::run::{Output, RunError, RunOptions, run};
use crate::control::{LogWriter, instruction, show_progress_in_log};
use crate::demo::DemoArguments;
use audit_command::AuditArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use groups_command::GroupsCommand;
use hand_over_command::{FailoverArgs, PromoteArgs};
use link_command::LinkCommand;
use mirror_command::{CreateArgs, DeleteArgs, DescribeArgs, GuestCommand};
use offsets_command::OffsetsCommand;
use pausing::{PauseArgs, ResumeArgs};
use status_command::StatusArgs;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use token_command::TokenCommand;
use top_command::TopArgs;
use tracing_subscriber::EnvFilter;

/// Which log lines are shown: `twinlog=debug`, say.
const LOG_VARIABLE: &str = "TWINLOG_LOG";
/// `text` or `json`, where no flag says it.
const LOG_FORMAT_VARIABLE: &str = "TWINLOG_LOG_FORMAT";
/// Where a demo leaves its mirror when nothing else is said.
const DEMO_DIRECTORY: &str = "demo-data";
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Mirrors Kafka topics, byte for byte, into Kafka's own segment files.
#[derive(Debug, Parser)]
#[command(name = "twinlog", version, about, max_term_width = 110)]
pub struct Cli {
    /// How log lines are written; TWINLOG_LOG_FORMAT says the same.
    #[arg(long, value_name = "FORMAT", value_enum, global = true)]
    pub log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    /// One JSON object for each line.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mirror topics until told to stop, or until caught up.
    Run(RunArgs),
    /// Check every CRC, offset, index and checkpoint of a store.
    Verify(VerifyArgs),
    /// Tell what this host and the source allow, with the cure for what they do not.
    Check(CheckArgs),
    /// Show it all without a Kafka: an embedded source is mirrored, killed, restarted and verified.
    Demo(DemoArgs),
    /// Show what a running daemon does, and how old each figure is.
    Status(StatusArgs),
    /// Watch a running daemon on a full screen, renewed each second.
    Top(TopArgs),
    /// Look after links.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Show who ordered what of a running daemon, and what came of it.
    Audit(AuditArgs),
    /// Look after the tokens of the daemon's listeners.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look after mirrored topics.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Look at the consumer groups of the source.
    #[command(subcommand)]
    Groups(GroupsCommand),
    /// Positions of consumer groups as a file.
    #[command(subcommand)]
    Offsets(OffsetsCommand),
    /// Look after the guest brokers of a link.
    #[command(subcommand)]
    Guest(GuestCommand),
    /// Look after the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Brokers to ask first, as HOST:PORT[,HOST:PORT].
    #[arg(long, value_name = "HOST:PORT")]
    pub source: Option<String>,
    /// A topic, or a regular expression over whole names; may be repeated.
    #[arg(long = "topic", value_name = "NAME_OR_REGEX")]
    pub topics: Vec<String>,
    /// Directory of the store.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of the link; one directory below the store.
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// End when every partition has reached the end that the source had at the start.
    #[arg(long)]
    pub until_caught_up: bool,
    /// Cores of the data shards, such as 1,3-5.
    #[arg(long, value_name = "LIST|auto")]
    pub data_cores: Option<String>,
    /// Core of everything else.
    #[arg(long, value_name = "N|auto")]
    pub control_core: Option<String>,
    /// Memory of the whole process, such as 512MiB.
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// The same and more as a TOML file; flags go before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the final report is written.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// When the source deleted data before it was mirrored: stop or continue.
    #[arg(long, value_name = "POLICY")]
    pub on_gap: Option<String>,
    /// When the source lost data that is mirrored: bounded, follow or stop.
    #[arg(long, value_name = "POLICY")]
    pub on_truncation: Option<String>,
    /// Try stopped partitions again as they are; each start does.
    #[arg(long, conflicts_with_all = ["accept_gap", "restart_from"])]
    pub retry: bool,
    /// Go on behind gaps at the source in this run; what is dropped is exported first.
    #[arg(long)]
    pub accept_gap: bool,
    /// Cut or restart one partition at an offset, after an export of what goes; may be repeated.
    #[arg(long, value_name = "TOPIC-PARTITION=OFFSET")]
    pub restart_from: Vec<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Directory of the store.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Only this link.
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// Compare batch by batch with this cluster.
    #[arg(long, value_name = "HOST:PORT")]
    pub source: Option<String>,
    /// A TOML file that says how that cluster's connections are secured.
    #[arg(long, value_name = "FILE", requires = "source")]
    pub config: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A TOML file to check with.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also look at this directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Also look at this source.
    #[arg(long, value_name = "HOST:PORT")]
    pub source: Option<String>,
    /// Which link of the file.
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// How the lines are written.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End when everything was shown.
    #[arg(long)]
    pub exit: bool,
    /// Where to leave the mirror.
    #[arg(long, value_name = "DIR", default_value = DEMO_DIRECTORY)]
    pub directory: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum MirrorCommand {
    /// Create mirror topics at the destination.
    Create(CreateArgs),
    /// List mirror topics.
    List(operator::OperatorArgs),
    /// Show mirror topics partition by partition.
    Describe(DescribeArgs),
    /// Make mirror topics writable after proof that nothing is missing.
    Promote(PromoteArgs),
    /// Make mirror topics writable without their source.
    Failover(FailoverArgs),
    /// Forget mirror topics.
    Delete(DeleteArgs),
    /// Fetch mirror topics no more until they are resumed.
    Pause(PauseArgs),
    /// Let paused mirror topics go on, or release stopped partitions.
    Resume(ResumeArgs),
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Explain one key, or all of them.
    Explain { key: Option<String> },
    /// Tell everything that is wrong with a configuration file.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs a command line from its words.
pub fn main_with(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: they go to standard output with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let of_environment = || std::env::var_os(LOG_FORMAT_VARIABLE).filter(|value| !value.is_empty());
    let format = match (cli.log_format, of_environment()) {
        (Some(format), _) => format,
        (None, None) => LogFormat::Text,
        (None, Some(value)) => match LogFormat::from_str(&value.to_string_lossy(), false) {
            Ok(format) => format,
            Err(_) => {
                return refuse(USAGE, &format!("{LOG_FORMAT_VARIABLE} is {value:?}; it is text or json"));
            }
        },
    };
    log_to_standard_error(format);
    match cli.command {
        Command::Run(arguments) => main_run(&arguments),
        Command::Verify(arguments) => verify_command::verify(&arguments),
        Command::Check(arguments) => main_check(&arguments),
        Command::Demo(arguments) => main_demo(&arguments),
        Command::Status(arguments) => status_command::status(&arguments),
        Command::Top(arguments) => top_command::top(&arguments),
        Command::Link(command) => link_command::link(&command),
        Command::Audit(arguments) => audit_command::audit(&arguments),
        Command::Token(command) => token_command::token(&command),
        Command::Mirror(command) => main_mirror(&command),
        Command::Offsets(command) => offsets_command::run(&command),
        Command::Groups(command) => groups_command::run(&command),
        Command::Guest(GuestCommand::Leave(arguments)) => mirror_command::leave(&arguments),
        Command::Config(ConfigCommand::Check { config }) => check_config(&config),
        Command::Config(ConfigCommand::Explain { key }) => match explain(key.as_deref()) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(sentence) => refuse(USAGE, &sentence),
        },
    }
}

fn log_to_standard_error(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    // Set already where the library is driven by a test: its choice stays.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::default)
        .with_target(false)
        .with_ansi(false);
    if format == LogFormat::Json {
        show_progress_in_log();
    }
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
}

fn refuse(code: u8, sentence: &dyn Display) -> ExitCode {
    eprintln!("twinlog: {sentence}");
    ExitCode::from(code)
}

/// Everything that is wrong with a configuration, a line each.
fn refuse_config(findings: &Findings) -> ExitCode {
    findings.lines().for_each(|line| eprintln!("twinlog: {line}"));
    ExitCode::from(USAGE)
}

/// 0 when everything was done.
fn done(done: bool) -> ExitCode {
    if done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// All findings, one line each. What operators said of links is not looked at: the daemon has it.
fn check_config(path: &std::path::Path) -> ExitCode {
    let (raw, mut findings) = match RawConfig::read_all(path) {
        Ok(read) => read,
        Err(error) => return refuse(USAGE, &error),
    };
    let names = raw.link_names();
    findings.append(Configuration::new(raw, None).findings(&KeptLinks::new()));
    if !findings.is_empty() {
        return refuse_config(&findings);
    }
    println!("{}: links {}; nothing is wrong", path.display(), names.join(", "));
    ExitCode::SUCCESS
}

fn main_run(arguments: &RunArgs) -> ExitCode {
    let configuration = match arguments.configuration() {
        Ok(configuration) => configuration,
        Err(error) => return refuse_config(&error.findings()),
    };
    for text in &arguments.restart_from {
        if let Err(error) = instruction::parse_restart_from(text) {
            return refuse(USAGE, &error);
        }
    }
    let options = RunOptions {
        until_caught_up: arguments.until_caught_up,
        output: arguments.output,
        accept_gap: arguments.accept_gap,
        restart_from: arguments.restart_from.clone(),
    };
    let core_dumps = match configuration.daemon() {
        Ok(daemon) => daemon.core_dumps,
        Err(error) => return refuse_config(&error.findings()),
    };
    if !core_dumps && let Err(error) = twinlog_io::forbid_core_dumps() {
        return refuse(FAILED, &format!("core files cannot be forbidden: {error}; see core.dumps"));
    }
    match run(configuration, &options) {
        Ok(all) => done(all),
        Err(RunError::Config(error)) => refuse_config(&error.findings()),
        // Configuration, as tokens and certificates are: a restart would not cure it.
        Err(error @ (RunError::Access(_) | RunError::WhichLink { .. })) => refuse(USAGE, &error),
        Err(error) => refuse(FAILED, &error),
    }
}

impl RunArgs {
    /// The file with the flags over it, and the way to both once more.
    pub fn configuration(&self) -> Result<Configuration, ConfigError> {
        let (raw, findings) = self.raw_all()?;
        let configuration = Configuration::new(raw, self.link.clone());
        if !findings.is_empty() {
            return Err(self.refused(&configuration, findings));
        }
        // Without links of its own, it is a file to which operators add links; flags alone name one.
        if self.config.is_none() {
            self.settings()?;
            return Ok(configuration);
        }
        match configuration.links(&KeptLinks::new()) {
            // It may be one that an operator created.
            Ok(_) | Err(ConfigError::NoLink | ConfigError::NoSuchLink { .. }) => {}
            Err(error) => return Err(error),
        }
        let again = self.clone();
        Ok(configuration.with_reread(move || {
            let (raw, findings) = again.raw_all()?;
            match findings.is_empty() {
                true => Ok(raw),
                false => Err(again.refused(&Configuration::new(raw, again.link.clone()), findings)),
            }
        }))
    }

    /// What is wrong with keys, and with all that could be read beside them.
    fn refused(&self, configuration: &Configuration, mut findings: Findings) -> ConfigError {
        match configuration.links(&KeptLinks::new()) {
            Ok(_) | Err(ConfigError::NoLink | ConfigError::NoSuchLink { .. }) => {}
            Err(error) => findings.add(error),
        }
        findings.end().expect_err("something was found")
    }

    /// One link of it.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let (raw, mut findings) = self.raw_all()?;
        match Settings::from_raw(&raw, self.link.as_deref()) {
            Ok(settings) => findings.end().map(|()| settings),
            Err(error) => {
                findings.add(error);
                Err(findings.end().expect_err("something was found"))
            }
        }
    }

    /// The file with the flags over it, and what is wrong with its keys.
    fn raw_all(&self) -> Result<(RawConfig, Findings), ConfigError> {
        let nothing = || Ok((RawConfig::default(), Findings::default()));
        let (mut raw, findings) = self.config.as_deref().map_or_else(nothing, RawConfig::read_all)?;
        let link = link_of(&raw, self.link.as_deref());
        let text = |text: &String| RawValue::Text(text.clone());
        let flags = [
            ("bootstrap.servers", self.source.as_ref().map(text)),
            ("topics", (!self.topics.is_empty()).then(|| RawValue::List(self.topics.clone()))),
            ("data.dir", self.data_dir.as_deref().map(path_text)),
            ("data.cores", self.data_cores.as_ref().map(text)),
            ("control.core", self.control_core.as_ref().map(text)),
            ("memory.bytes", self.memory.as_ref().map(text)),
            ("on.gap", self.on_gap.as_ref().map(text)),
            ("on.truncation", self.on_truncation.as_ref().map(text)),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                raw.set(&link, name, value);
            }
        }
        Ok((raw, findings))
    }
}

fn path_text(path: &std::path::Path) -> RawValue {
    RawValue::Text(path.to_string_lossy().into_owned())
}

/// Whose keys flags set: the named link, else the file's only one, else the default.
fn link_of(raw: &RawConfig, named: Option<&str>) -> String {
    match (named, raw.link_names().as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, _) => DEFAULT_LINK.to_owned(),
    }
}

fn main_check(arguments: &CheckArgs) -> ExitCode {
    let request = match arguments.request() {
        Ok(request) => request,
        Err(error) => return refuse(USAGE, &error),
    };
    let lines = check(&request);
    match arguments.output {
        Output::Text => lines.iter().for_each(|line| println!("{line}")),
        Output::Json => println!("{}", serde_json::to_string(&lines).expect("lines are text")),
    }
    done(!lines.iter().any(crate::control::check::Line::is_failure))
}

impl CheckArgs {
    fn request(&self) -> Result<CheckRequest, ConfigError> {
        let mut raw = self.config.as_deref().map_or_else(|| Ok(RawConfig::default()), RawConfig::read)?;
        let link = link_of(&raw, self.link.as_deref());
        if let Some(path) = &self.data_dir {
            raw.set(&link, "data.dir", path_text(path));
        }
        if let Some(source) = &self.source {
            raw.set(&link, "bootstrap.servers", RawValue::Text(source.clone()));
        }
        let (directory, source) =
            (raw.has("data.dir"), raw.has_link_value(&link, Scope::Source, "bootstrap.servers"));
        // What was not said is not looked at; the table still wants a value.
        let destination = raw.has_link_value(&link, Scope::Destination, "mode");
        let defaults = [
            (Scope::Daemon, "data.dir", "."),
            (Scope::Source, "bootstrap.servers", "127.0.0.1:9092"),
            (Scope::Link, "topics", ".*"),
        ];
        for (scope, name, value) in defaults {
            if !raw.has(name) && !raw.has_link_value(&link, scope, name) {
                raw.set(&link, name, RawValue::Text(value.to_owned()));
            }
        }
        Ok(CheckRequest { settings: Settings::from_raw(&raw, Some(&link))?, directory, source, destination })
    }
}

fn main_demo(arguments: &DemoArgs) -> ExitCode {
    let arguments = DemoArguments { exit: arguments.exit, directory: arguments.directory.clone() };
    crate::demo::run(&arguments).unwrap_or_else(|error| refuse(FAILED, &error))
}

fn main_mirror(command: &MirrorCommand) -> ExitCode {
    match command {
        MirrorCommand::Create(arguments) => mirror_command::create(arguments),
        MirrorCommand::List(arguments) => mirror_command::list(arguments),
        MirrorCommand::Describe(arguments) => mirror_command::describe(arguments),
        MirrorCommand::Promote(arguments) => hand_over_command::promote(arguments),
        MirrorCommand::Failover(arguments) => hand_over_command::failover(arguments),
        MirrorCommand::Delete(arguments) => mirror_command::delete(arguments),
        MirrorCommand::Pause(arguments) => pausing::pause(arguments),
        MirrorCommand::Resume(arguments) => pausing::resume(arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn run_args(line: &str) -> RunArgs {
        match parse(line).unwrap().command {
            Command::Run(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_contradict_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_needs_no_file() {
        let line = "twinlog run --source a:1,b:2 --topic orders --topic bills.* --data-dir /d --until-caught-up \
                    --memory 1GiB --data-cores 0 --on-gap continue --output json";
        let arguments = run_args(line);
        let settings = arguments.settings().unwrap();
        assert_eq!(settings.link.name, DEFAULT_LINK);
        assert_eq!((settings.link.topics.len(), settings.link.source.bootstrap_servers.len()), (2, 2));
        assert_eq!((settings.daemon.memory_bytes, arguments.output), (1 << 30, Output::Json));
    }

    #[test]
    fn flags_go_before_the_file_and_obey_the_same_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("twinlog.toml");
        let text = "data.dir = \"/d\"\nmemory.bytes = \"1GiB\"\n[link.west]\ntopics = [\"orders\"]\n\
                    [link.west.source]\nbootstrap.servers = \"a:1\"\n";
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let settings = run_args(&format!("twinlog run --config {file} --memory 2GiB")).settings().unwrap();
        assert_eq!((settings.link.name.as_str(), settings.daemon.memory_bytes), ("west", 2 << 30));
        let refused = run_args(&format!("twinlog run --config {file} --memory 1KiB")).settings().unwrap_err();
        assert!(refused.to_string().starts_with("memory.bytes = \"1KiB\" is refused"), "{refused}");
    }

    #[test]
    fn links_are_created_and_changed_by_keys_and_values() {
        let create = "twinlog link create west --data-dir /d --config-value";
        assert!(parse(&format!("{create} bootstrap.servers=a:1 --config-value topics=a --dry-run")).is_ok());
        assert!(parse(&format!("{create} topics")).is_err());
        assert!(parse("twinlog link create west --data-dir /d").is_err());
        assert!(parse("twinlog link update west flush.ms=7 --unset on.gap --data-dir /d").is_ok());
        assert!(parse("twinlog link update west --data-dir /d").is_err());
        assert!(parse("twinlog link delete west --force --dry-run --data-dir /d").is_ok());
    }

    #[test]
    fn usage_errors_have_code_2_and_help_has_0() {
        for line in
            ["twinlog", "twinlog runn", "twinlog run --unknown", "twinlog verify", "twinlog mirror pause"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("twinlog run --help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn a_release_is_at_most_one_of_three() {
        let resume = "twinlog mirror resume orders-3 --data-dir /d";
        for good in ["", "--retry", "--accept-gap --dry-run", "--restart-from 1200 --link west"] {
            assert!(parse(&format!("{resume} {good}")).is_ok(), "{good}");
        }
        for bad in ["--retry --accept-gap", "--restart-from -1", "--restart-from x"] {
            assert!(parse(&format!("{resume} {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_check_looks_only_at_what_was_named() {
        let check = |line: &str| match parse(line).unwrap().command {
            Command::Check(arguments) => arguments.request().unwrap(),
            other => panic!("{other:?}"),
        };
        let host = check("twinlog check");
        assert!(!host.directory && !host.source && !host.destination);
        let all = check("twinlog check --data-dir /d --source a:1");
        assert!(all.directory && all.source);
    }
}
