//! `twinlog mirror pause | resume` and `twinlog link pause | resume`.
//!
//! A release of stopped partitions can also be said to a data directory whose daemon is not running: it is kept
//! and carried out at the next start.

use super::mirror_command::{actions, query};
use super::operator::{Operator, OperatorArgs, OperatorError, operate};
use super::table::span;
use super::{DEFAULT_LINK, FAILED, hand_over_command, refuse};
use crate::admin::answer::{LinkView, ListView, MirrorActionView, TaskView};
use crate::admin::body::{ConfigChange, ConfigOrder, LINK_PAUSED, MirrorOrder};
use crate::admin::client::ClientError;
use crate::control::instruction::Release;
use crate::control::resume::{self, ResumeRequest};
use clap::{Args, Subcommand};
use std::path::Path;
use std::process::ExitCode;
use twinlog_io::wall_clock_ms;
use twinlog_log_segment::files::TopicPartition;

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Mirror topics; anything but a legal name is a regular expression over whole names.
    #[arg(value_name = "TOPIC_OR_REGEX", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what would be paused.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("release").args(["retry", "accept_gap", "restart_from"])))]
pub struct ResumeArgs {
    /// Mirror topics or regular expressions; with a release also one partition, as in orders-3.
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Try stopped partitions again as they are.
    #[arg(long)]
    pub retry: bool,
    /// Let stopped partitions go on behind the gap at the source.
    #[arg(long)]
    pub accept_gap: bool,
    /// Cut or restart the log of one stopped partition at this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub restart_from: Option<i64>,
    /// Only say what would go on, and what would be dropped.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// List the links of a daemon.
    List(LinkArgs),
    /// Fetch nothing over a link until it is resumed.
    Pause(LinkPauseArgs),
    /// Let a paused link go on.
    Resume(LinkPauseArgs),
}

#[derive(Debug, Args)]
pub struct LinkArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub struct LinkPauseArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say how the link stands.
    #[arg(long)]
    pub dry_run: bool,
}

pub fn link(command: &LinkCommand) -> ExitCode {
    match command {
        LinkCommand::List(arguments) => operate(&arguments.operator, async |operator| {
            let links: ListView<LinkView> = operator.client.get("/kafka/v3/clusters/-/links").await?;
            operator.show(&links, |links| links.data.iter().map(link_text).collect());
            Ok(true)
        }),
        LinkCommand::Pause(arguments) => pause_link(arguments, true),
        LinkCommand::Resume(arguments) => pause_link(arguments, false),
    }
}

fn link_text(link: &LinkView) -> String {
    let of = |id: &Option<String>| id.clone().unwrap_or_else(|| "not known yet".to_owned());
    let error = link.link_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let now_ms = wall_clock_ms();
    let task = |task: &TaskView| {
        let error = task.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let last = match task.last_success_ms {
            Some(at_ms) => format!("{} ago", span(u64::try_from(now_ms - at_ms).unwrap_or(0))),
            None => "never yet".to_owned(),
        };
        format!("  task {} {}, last done {last}{error}\n", task.task_name, task.state)
    };
    let tasks: String = link.tasks.iter().map(task).collect();
    format!(
        "{} ({}) {}{error}\n  source cluster {}, destination cluster {}, {} mirror topics\n{tasks}",
        link.link_name,
        link.mode,
        link.link_state,
        of(&link.source_cluster_id),
        of(&link.destination_cluster_id),
        link.topic_names.len()
    )
}

fn pause_link(arguments: &LinkPauseArgs, paused: bool) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let link = operator.link().await?;
        let path = Operator::path(&link, "configs:alter");
        let change = ConfigChange { name: LINK_PAUSED.to_owned(), value: paused.to_string() };
        let order = ConfigOrder { data: vec![change], validate_only: Some(arguments.dry_run) };
        let view: LinkView = operator.client.put(&path, &order).await?;
        operator.show(&view, link_text);
        Ok(true)
    })
}

pub fn pause(arguments: &PauseArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let order = hand_over_command::order_of(&arguments.topics)?;
        send(operator, "mirrors:pause", &order, arguments.dry_run).await
    })
}

async fn send(
    operator: &Operator,
    verb: &str,
    order: &MirrorOrder,
    dry_run: bool,
) -> Result<bool, OperatorError> {
    let link = operator.link().await?;
    let path = Operator::path(&link, &format!("{verb}{}", query(&[("validate_only", dry_run)])));
    let answer: ListView<MirrorActionView> = operator.client.post(&path, order).await?;
    operator.show(&answer, actions);
    if answer.data.is_empty() {
        eprintln!("twinlog: no mirror topic of link {link} matches");
    }
    Ok(!answer.data.is_empty() && answer.data.iter().all(MirrorActionView::is_right))
}

impl ResumeArgs {
    fn release(&self) -> Option<Release> {
        match self.restart_from {
            Some(offset) => Some(Release::RestartFrom(offset)),
            None if self.accept_gap => Some(Release::AcceptGap),
            None if self.retry => Some(Release::Retry),
            None => None,
        }
    }
}

pub fn resume(arguments: &ResumeArgs) -> ExitCode {
    let Some(release) = arguments.release() else {
        return operate(&arguments.operator, async |operator| {
            let order = hand_over_command::order_of(&arguments.topics)?;
            send(operator, "mirrors:resume", &order, arguments.dry_run).await
        });
    };
    operate(&arguments.operator, async |operator| {
        let mut done = true;
        for target in &arguments.topics {
            done &= match release_running(operator, target, release, arguments.dry_run).await {
                Err(OperatorError::Client(ClientError::NotRunning { .. }))
                    if let Some(data_dir) = operator.data_dir() =>
                {
                    release_at_rest(operator, data_dir, target, (release, arguments.dry_run))
                }
                answered => answered?,
            };
        }
        Ok(done)
    })
}

/// A running daemon carries it out at once. What is called like a topic is one; else a partition is meant.
async fn release_running(
    operator: &Operator,
    target: &str,
    release: Release,
    dry_run: bool,
) -> Result<bool, OperatorError> {
    let link = operator.link().await?;
    let list: ListView<crate::admin::answer::MirrorTopicView> =
        operator.client.get(&Operator::path(&link, "mirrors")).await?;
    let is_topic = list.data.iter().any(|topic| topic.mirror_topic_name == target);
    let partition = TopicPartition::parse_directory(target).filter(|_| !is_topic);
    let topic = partition.as_ref().map_or(target, |partition| partition.topic());
    let order = MirrorOrder {
        mirror_topic_names: vec![topic.to_owned()],
        release: Some(release),
        partition_id: partition.as_ref().map(TopicPartition::partition),
        ..MirrorOrder::default()
    };
    send(operator, "mirrors:resume", &order, dry_run).await
}

/// Nobody runs: it is kept for the next start.
fn release_at_rest(
    operator: &Operator,
    data_dir: &Path,
    target: &str,
    (release, dry_run): (Release, bool),
) -> bool {
    let link = operator.named_link().unwrap_or(DEFAULT_LINK).to_owned();
    let request =
        ResumeRequest { data_dir: data_dir.to_owned(), link, target: target.to_owned(), release, dry_run };
    match resume::resume(&request) {
        Ok(sentences) => {
            sentences.iter().for_each(|sentence| println!("{sentence}"));
            true
        }
        Err(error) => {
            let _ = refuse(FAILED, &error);
            false
        }
    }
}
