//! Commands that ask a running daemon: which one, about which link, and how its answer is written.
//!
//! Owns what all of them share; the words of each are in the files beside this one. Nothing here opens a
//! file of the store.

use super::{done, refuse};
use crate::admin::answer::{LinkView, ListView};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::remote::{RemoteServer, RemoteSettings};
use crate::config::{ConfigError, DEFAULT_LINK, DaemonSettings, RawConfig, check_link_name};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AnswerOutput {
    #[default]
    Table,
    Json,
}

/// Instead of `--server`, for scripts that ask one daemon again and again.
const SERVER_VARIABLE: &str = "TWINLOG_SERVER";
/// Instead of `--token-file`.
const TOKEN_FILE_VARIABLE: &str = "TWINLOG_TOKEN_FILE";

/// Which daemon.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "daemon", multiple = false)]
pub struct DaemonArgs {
    /// Data directory of the daemon.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The daemon's configuration, which names its data directory.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A daemon over the network, as https://HOST:PORT; TWINLOG_SERVER in the environment says the same.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// How a daemon over the network is spoken to.
#[derive(Clone, Debug, Default, Args)]
pub struct ServerArgs {
    /// File with the bearer token; TWINLOG_TOKEN_FILE in the environment says the same.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the authorities that sign the server's certificate, instead of this host's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// File with our certificate.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// File with its key, when it is not in the same.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// What every command to a daemon takes.
#[derive(Clone, Debug, Args)]
pub struct OperatorArgs {
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Name of the link; needed when the daemon has several.
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t)]
    pub output: AnswerOutput,
}

/// Why a command is not done.
#[derive(Debug)]
pub enum OperatorError {
    Config(ConfigError),
    /// Neither a directory, a configuration nor a server.
    NoDaemon,
    Runtime {
        error: ErrorKind,
    },
    Client(ClientError),
    /// No link, or several and none named.
    Links {
        names: Vec<String>,
    },
    /// Neither a topic's name nor a pattern.
    Topic {
        why: String,
    },
}

impl OperatorArgs {
    fn remote(&self) -> Result<RemoteServer, OperatorError> {
        let said = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let server = self.daemon.server.clone();
        let server =
            server.or_else(|| said(SERVER_VARIABLE).map(|value| value.to_string_lossy().into_owned()));
        let settings = RemoteSettings {
            server: server.ok_or(OperatorError::NoDaemon)?,
            token_file: self
                .server
                .token_file
                .clone()
                .or_else(|| said(TOKEN_FILE_VARIABLE).map(PathBuf::from)),
            authorities: self.server.ca.clone(),
            certificate: self.server.cert.clone(),
            key: self.server.key.clone(),
        };
        RemoteServer::new(&settings).map_err(|error| OperatorError::Client(ClientError::Remote(error)))
    }
}

impl OperatorError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoDaemon | Self::Links { .. } | Self::Topic { .. } => USAGE,
            Self::Client(ClientError::Remote(error)) if error.is_usage() => USAGE,
            Self::Runtime { .. } | Self::Client(_) => FAILED,
        }
    }
}

impl fmt::Display for OperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::NoDaemon => write!(
                f,
                "which daemon? Name it with --data-dir DIR or --config FILE on its host, or with --server \
                 https://HOST:PORT ({SERVER_VARIABLE} in the environment)"
            ),
            Self::Runtime { error } => write!(f, "the daemon cannot be asked: {error}"),
            Self::Client(error) => write!(f, "{error}"),
            Self::Links { names } if names.is_empty() => write!(f, "the daemon has no link"),
            Self::Links { names } => {
                write!(f, "the daemon has the links {}; name one with --link", names.join(", "))
            }
            Self::Topic { why } => write!(f, "{why}"),
        }
    }
}

impl From<ClientError> for OperatorError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// A daemon, and the link that was named.
pub struct Operator {
    pub client: AdminClient,
    data_dir: Option<PathBuf>,
    link: Option<String>,
    output: AnswerOutput,
}

impl Operator {
    fn new(arguments: &OperatorArgs) -> Result<Self, OperatorError> {
        if let Some(link) = &arguments.link {
            check_link_name(link).map_err(OperatorError::Config)?;
        }
        let output = arguments.output;
        let (data_dir, link) = match (&arguments.daemon.data_dir, &arguments.daemon.config) {
            (Some(data_dir), _) => (data_dir.clone(), arguments.link.clone()),
            (None, Some(path)) => {
                let raw = RawConfig::read(path).map_err(OperatorError::Config)?;
                let daemon = DaemonSettings::from_raw(&raw).map_err(OperatorError::Config)?;
                let mut names = raw.link_names();
                let only = if names.len() == 1 { names.pop() } else { None };
                (daemon.data_dir, arguments.link.clone().or(only))
            }
            (None, None) => {
                let client = AdminClient::remote(arguments.remote()?);
                return Ok(Self { client, data_dir: None, link: arguments.link.clone(), output });
            }
        };
        Ok(Self { client: AdminClient::new(&data_dir), data_dir: Some(data_dir), link, output })
    }

    /// Where it is known: a daemon behind a listener does not tell.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The link that was named, for lists that can be of all.
    pub fn named_link(&self) -> Option<&str> {
        self.link.as_deref()
    }

    /// The link that is meant when no daemon can be asked.
    pub fn link_at_rest(&self) -> &str {
        self.link.as_deref().unwrap_or(DEFAULT_LINK)
    }

    /// The named link, else the daemon's only one.
    pub async fn link(&self) -> Result<String, OperatorError> {
        if let Some(link) = &self.link {
            return Ok(link.clone());
        }
        let links: ListView<LinkView> = self.client.list("/kafka/v3/clusters/-/links").await?;
        let mut names: Vec<String> = links.data.into_iter().map(|link| link.link_name).collect();
        match names.len() {
            1 => Ok(names.remove(0)),
            _ => Err(OperatorError::Links { names }),
        }
    }

    /// Path of something of a link. `-` is whichever cluster the daemon serves.
    pub fn path(link: &str, rest: &str) -> String {
        format!("/kafka/v3/clusters/-/links/{link}/{rest}")
    }

    /// Writes the answer to standard output.
    pub fn show<T: Serialize>(&self, answer: &T, table: impl FnOnce(&T) -> String) {
        match self.output {
            AnswerOutput::Table => print!("{}", table(answer)),
            AnswerOutput::Json => {
                println!("{}", serde_json::to_string(answer).expect("answers are always JSON"));
            }
        }
    }
}

/// Runs one command against its daemon; true means that everything was done.
pub fn operate(
    arguments: &OperatorArgs,
    work: impl AsyncFnOnce(&Operator) -> Result<bool, OperatorError>,
) -> ExitCode {
    let outcome = Operator::new(arguments).and_then(|operator| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| OperatorError::Runtime { error: error.kind() })?;
        runtime.block_on(work(&operator))
    });
    match outcome {
        Ok(all) => done(all),
        Err(error) => refuse(error.exit_code(), &error),
    }
}
