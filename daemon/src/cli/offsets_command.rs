//! `twinlog offsets export | import`: positions of consumer groups as a file, and from a file into a cluster.

use super::operator::{Operator, OperatorArgs, operate};
use super::table::{figure, table};
use super::{USAGE, done, link_of, refuse};
use crate::admin::answer::{GroupView, ListView};
use crate::admin::escaped_group;
use crate::config::{RawConfig, Settings};
use crate::control::groups::Cluster;
use crate::control::groups::import::{Fate, Imported, Manner, import};
use crate::control::groups::offset_file::{OffsetLine, parse, replace, written, written_of_one_group};
use crate::control::source_client::SourceClient;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, Subcommand)]
pub enum OffsetsCommand {
    /// Write the positions that the destination holds as a file of lines group,topic,partition,offset.
    Export(ExportArgs),
    /// Write the positions of such a file into the link's destination cluster.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only this group of the source, as lines topic,partition,offset: what kafka-consumer-groups.sh takes for one.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Where they are written, instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Lines of group,topic,partition,offset.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The configuration that says how the destination's brokers are reached.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which link of it.
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// Let positions go back, too.
    #[arg(long)]
    pub allow_rewind: bool,
    /// Only say what would be written.
    #[arg(long)]
    pub dry_run: bool,
}

pub fn run(command: &OffsetsCommand) -> ExitCode {
    match command {
        OffsetsCommand::Export(arguments) => export(arguments),
        OffsetsCommand::Import(arguments) => import_file(arguments),
    }
}

fn export(arguments: &ExportArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let link = operator.link().await?;
        let names = match &arguments.group {
            Some(name) => vec![name.clone()],
            None => {
                let groups: ListView<GroupView> =
                    operator.client.list(&Operator::path(&link, "groups")).await?;
                groups.data.into_iter().map(|group| group.group_id).collect()
            }
        };
        let mut lines: Vec<OffsetLine> = Vec::new();
        for name in names {
            let path = Operator::path(&link, &format!("groups/{}", escaped_group(&name)));
            let view: GroupView = operator.client.get(&path).await?;
            lines.extend(view.partitions.iter().filter_map(|each| {
                Some(OffsetLine {
                    group: view.destination_group_id.clone(),
                    topic: each.topic_name.clone(),
                    partition: each.partition_id,
                    offset: each.destination_offset?,
                })
            }));
        }
        let text = match &arguments.group {
            Some(_) => written_of_one_group(&lines),
            None => written(&lines),
        };
        match &arguments.file {
            None => print!("{text}"),
            Some(path) => {
                if let Err(error) = replace(path, &text) {
                    eprintln!("{} is not written: {error}", path.display());
                    return Ok(false);
                }
                eprintln!("{} positions are in {}", lines.len(), path.display());
            }
        }
        Ok(true)
    })
}

fn import_file(arguments: &ImportArgs) -> ExitCode {
    let text = match std::fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => return refuse(USAGE, &format!("{}: {error}", arguments.file.display())),
    };
    let lines = match parse(&text) {
        Ok(lines) => lines,
        Err(error) => return refuse(USAGE, &format!("{}: {error}", arguments.file.display())),
    };
    let settings = RawConfig::read(&arguments.config).and_then(|raw| {
        let link = link_of(&raw, arguments.link.as_deref());
        Settings::from_raw(&raw, Some(&link))
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return refuse(USAGE, &error),
    };
    let Some(guest) = &settings.link.guest else {
        let why =
            "the link's destination is no cluster; take kafka-consumer-groups.sh --from-file for another one";
        return refuse(USAGE, &why);
    };
    let ours: BTreeSet<i32> = guest.serving_ids.iter().map(|(id, _)| *id).chain([guest.reserve_id]).collect();
    let manner = Manner { dry_run: arguments.dry_run, allow_rewind: arguments.allow_rewind };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(super::FAILED, &format!("no runtime: {error}")),
    };
    let imported = runtime.block_on(async {
        let cluster = Arc::new(Cluster::new(SourceClient::of_destination(guest), ours));
        import(cluster, lines, manner).await
    });
    match imported {
        Err(error) => refuse(super::FAILED, &error),
        Ok(imported) => {
            print!("{}", told(&imported, arguments.dry_run));
            done(imported.iter().all(|each| matches!(each.fate, Fate::Written | Fate::Same)))
        }
    }
}

fn told(imported: &[Imported], dry_run: bool) -> String {
    let row = |each: &Imported| {
        let fate = match each.fate {
            Fate::Written if dry_run => "WOULD_BE_WRITTEN".to_owned(),
            fate => fate.to_string(),
        };
        [
            each.line.group.clone(),
            each.line.topic.clone(),
            each.line.partition.to_string(),
            each.before.map_or_else(|| "none".to_owned(), |offset| figure(Some(offset))),
            each.line.offset.to_string(),
            fate,
        ]
    };
    let header = ["Group", "Topic", "Partition", "Before", "Offset", "State"];
    table(header, &imported.iter().map(row).collect::<Vec<_>>())
}
