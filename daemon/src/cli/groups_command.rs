//! `twinlog groups list | describe`: where consumer groups stand, at the source and at the destination.

use super::operator::{Operator, OperatorArgs, operate};
use super::table::{figure, span, table};
use crate::admin::answer::{GroupView, ListView, Metadata};
use crate::admin::escaped_group;
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum GroupsCommand {
    /// Every group of the source, and how its copy stands.
    List(OperatorArgs),
    /// Every position of groups.
    Describe(DescribeArgs),
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// Groups by their name at the source.
    #[arg(value_name = "GROUP", required = true)]
    pub groups: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
}

pub fn run(command: &GroupsCommand) -> ExitCode {
    match command {
        GroupsCommand::List(arguments) => list(arguments),
        GroupsCommand::Describe(arguments) => describe(arguments),
    }
}

fn list(arguments: &OperatorArgs) -> ExitCode {
    operate(arguments, async |operator| {
        let link = operator.link().await?;
        let answer: ListView<GroupView> = operator.client.list(&Operator::path(&link, "groups")).await?;
        operator.show(&answer, |answer| groups(&answer.data));
        Ok(true)
    })
}

fn describe(arguments: &DescribeArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let link = operator.link().await?;
        let mut data: Vec<GroupView> = Vec::new();
        for group in &arguments.groups {
            let path = Operator::path(&link, &format!("groups/{}", escaped_group(group)));
            data.push(operator.client.get(&path).await?);
        }
        let metadata = Metadata { path: Operator::path(&link, "groups"), next: None };
        let answer = ListView { kind: "TwinlogGroupList".to_owned(), metadata, data };
        operator.show(&answer, |answer| {
            answer.data.iter().map(|view| groups(std::slice::from_ref(view)) + &positions(view)).collect()
        });
        Ok(true)
    })
}

fn groups(views: &[GroupView]) -> String {
    let row = |view: &GroupView| {
        [
            view.group_id.clone(),
            view.kind.clone(),
            match view.error_code {
                Some(code) => format!("{} (error code {code})", view.state),
                None => view.state.clone(),
            },
            view.positions.to_string(),
            view.held_back.to_string(),
            view.not_mirrored.to_string(),
            view.offset_staleness_ms.map_or_else(|| figure::<u64>(None), span),
        ]
    };
    let header = ["Group", "Kind", "State", "Positions", "HeldBack", "NotMirrored", "Staleness"];
    table(header, &views.iter().map(row).collect::<Vec<_>>())
}

fn positions(view: &GroupView) -> String {
    let rows: Vec<_> = view
        .partitions
        .iter()
        .map(|each| {
            [
                each.topic_name.clone(),
                each.partition_id.to_string(),
                each.source_offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string()),
                each.destination_offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string()),
                figure(each.delivered_offset),
                each.state.clone(),
            ]
        })
        .collect();
    table(["Topic", "Partition", "Source", "Destination", "Delivered", "State"], &rows)
}
