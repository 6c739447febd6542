//! `twinlog link ...`: links are listed, created, described, changed, paused and deleted while the daemon runs.

use super::operator::{Operator, OperatorArgs, OperatorError, operate};
use super::table::{span, table, text};
use crate::admin::answer::{LinkChangeView, LinkConfigView, LinkView, ListView, TaskView};
use crate::admin::body::{ConfigChange, ConfigOperation, ConfigOrder, LINK_PAUSED, LinkOrder};
use crate::config::check_link_name;
use clap::{Args, Subcommand};
use std::fmt::Write;
use std::process::ExitCode;
use twinlog_io::wall_clock_ms;

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// List the links of a daemon.
    List(LinkArgs),
    /// Create a link; it is kept, and needs no line in the daemon's file.
    Create(LinkCreateArgs),
    /// Show a link with every configuration, where it comes from, and whether it changes at once.
    Describe(NamedLinkArgs),
    /// Change configurations of a link.
    Update(LinkUpdateArgs),
    /// Forget a link; its files stay.
    Delete(LinkDeleteArgs),
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

#[derive(Debug, Args)]
pub struct NamedLinkArgs {
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub struct LinkCreateArgs {
    /// Name of the link; one directory below the store.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A configuration of the link, as bootstrap.servers=HOST:PORT; may be repeated. Secrets are references.
    #[arg(long = "config-value", value_name = "KEY=VALUE", required = true, value_parser = assignment)]
    pub configs: Vec<(String, String)>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what would be created, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct LinkUpdateArgs {
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What to set; secrets are references.
    #[arg(value_name = "KEY=VALUE", value_parser = assignment, required_unless_present = "unset")]
    pub configs: Vec<(String, String)>,
    /// A configuration to take back: the file's value counts again, or the default; may be repeated.
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what would change, with current and new values.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct LinkDeleteArgs {
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also while it has mirror topics; they are forgotten with it.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what would be deleted, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
}

/// `KEY=VALUE`; what is behind the first sign is the value, blanks and all.
fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

pub fn link(command: &LinkCommand) -> ExitCode {
    match command {
        LinkCommand::List(arguments) => operate(&arguments.operator, async |operator| {
            let links: ListView<LinkView> = operator.client.list("/kafka/v3/clusters/-/links").await?;
            operator.show(&links, |links| links.data.iter().map(link_text).collect());
            Ok(true)
        }),
        LinkCommand::Create(arguments) => create(arguments),
        LinkCommand::Describe(arguments) => describe(arguments),
        LinkCommand::Update(arguments) => update(arguments),
        LinkCommand::Delete(arguments) => delete(arguments),
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
        let change = set(LINK_PAUSED, &paused.to_string());
        let order = ConfigOrder { data: vec![change], validate_only: Some(arguments.dry_run) };
        let view: LinkView = operator.client.put(&path, &order).await?;
        operator.show(&view, link_text);
        Ok(true)
    })
}

fn set(name: &str, value: &str) -> ConfigChange {
    ConfigChange { name: name.to_owned(), value: Some(value.to_owned()), operation: None }
}

/// Where a link is asked for; its name is one before it becomes a path.
fn path_of(name: &str) -> Result<String, OperatorError> {
    check_link_name(name).map_err(OperatorError::Config)?;
    Ok(format!("/kafka/v3/clusters/-/links/{name}"))
}

fn create(arguments: &LinkCreateArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        path_of(&arguments.name)?;
        let configs = arguments.configs.iter().map(|(name, value)| set(name, value)).collect();
        let order = LinkOrder { configs, validate_only: Some(arguments.dry_run) };
        let path = format!("/kafka/v3/clusters/-/links?link_name={}", arguments.name);
        let view: LinkChangeView = operator.client.post(&path, &order).await?;
        operator.show(&view, change_text);
        Ok(view.checks.iter().all(|line| line.level != "fail"))
    })
}

fn update(arguments: &LinkUpdateArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let path = format!("{}/configs:alter", path_of(&arguments.name)?);
        let mut data: Vec<ConfigChange> =
            arguments.configs.iter().map(|(name, value)| set(name, value)).collect();
        data.extend(arguments.unset.iter().map(|name| ConfigChange {
            name: name.clone(),
            value: None,
            operation: Some(ConfigOperation::Delete),
        }));
        if let [only] = &data[..]
            && only.name == LINK_PAUSED
            && only.value.is_some()
        {
            let order = ConfigOrder { data, validate_only: Some(arguments.dry_run) };
            let view: LinkView = operator.client.put(&path, &order).await?;
            operator.show(&view, link_text);
            return Ok(true);
        }
        let order = ConfigOrder { data, validate_only: Some(arguments.dry_run) };
        let view: LinkChangeView = operator.client.put(&path, &order).await?;
        operator.show(&view, change_text);
        Ok(true)
    })
}

fn delete(arguments: &LinkDeleteArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let words = [("validate_only", arguments.dry_run), ("force", arguments.force)];
        let path = format!("{}{}", path_of(&arguments.name)?, super::mirror_command::query(&words));
        let view: LinkChangeView = operator.client.delete(&path).await?;
        operator.show(&view, change_text);
        Ok(true)
    })
}

fn describe(arguments: &NamedLinkArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let path = path_of(&arguments.name)?;
        let link: LinkView = operator.client.get(&path).await?;
        let configs: ListView<LinkConfigView> = operator.client.list(&format!("{path}/configs")).await?;
        let whole = serde_json::json!({ "link": link, "configs": configs.data });
        operator.show(&whole, |_| format!("{}{}", link_text(&link), configs_text(&configs.data)));
        Ok(true)
    })
}

fn configs_text(configs: &[LinkConfigView]) -> String {
    let said = configs.iter().filter(|config| !config.is_default || config.value.is_some());
    let rows: Vec<_> = said
        .map(|config| {
            let takes = match () {
                () if config.is_read_only => "never",
                () if config.is_reloadable => "at once",
                () => "data threads start again",
            };
            [
                config.name.clone(),
                text(config.value.as_ref()),
                config.source.clone(),
                text(config.file_value.as_ref()),
                takes.to_owned(),
            ]
        })
        .collect();
    table(["Config", "Value", "Source", "InFile", "Changes"], &rows)
}

fn change_text(change: &LinkChangeView) -> String {
    let mut written = String::new();
    let would = if change.validate_only { "would be" } else { "is" };
    let what = match change.effect.as_str() {
        "create" => "created",
        "delete" => "deleted",
        "live" => "changed at once",
        "restart" => "changed; its data threads start again",
        _ => "as it was",
    };
    let note = change.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    writeln!(written, "link {} {would} {what}{note}", change.link_name).expect("a text takes every line");
    let rows: Vec<_> = change
        .changes
        .iter()
        .map(|each| [each.name.clone(), text(each.current.as_ref()), text(each.new.as_ref())])
        .collect();
    if !rows.is_empty() {
        written.push_str(&table(["Config", "Current", "New"], &rows));
    }
    for line in &change.checks {
        writeln!(written, "{line}").expect("a text takes every line");
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::answer::{CheckLineView, ConfigChangeView};

    #[test]
    fn a_change_is_told_with_current_and_new_values() {
        let view = ConfigChangeView {
            name: "flush.ms".into(),
            current: Some("250".into()),
            new: Some("7".into()),
            is_reloadable: true,
        };
        let change = LinkChangeView {
            link_name: "dr".into(),
            validate_only: true,
            effect: "live".into(),
            changes: vec![view],
            checks: vec![CheckLineView {
                level: "warn".into(),
                subject: "memory".into(),
                text: "is short; buy more".into(),
                cure: Some("buy more".into()),
            }],
            ..LinkChangeView::default()
        };
        let expected = "link dr would be changed at once\nConfig   | Current | New\n---------+---------+----\n\
                        flush.ms | 250     | 7\nwarn  memory         is short; buy more\n";
        assert_eq!(change_text(&change), expected);
    }

    #[test]
    fn an_assignment_keeps_everything_behind_its_first_sign() {
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(assignment("flush.ms").is_err());
    }
}
