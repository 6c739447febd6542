//! The README and the reference configuration say what the program does: keys, flags, commands, codes, paths.
//!
//! Each is compared with its one source in the code. `TWINLOG_README=write` in the environment writes the
//! table of keys anew instead of complaining about it.

use clap::{CommandFactory, Parser};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use twinlog_daemon::admin::metrics::names_table;
use twinlog_daemon::cli::Cli;
use twinlog_daemon::config::{KEYS, RawConfig, RawValue, Scope, Settings, markdown_table};

const KEYS_START: &str = "<!-- keys:start -->\n";
const KEYS_END: &str = "<!-- keys:end -->";
const METRICS_START: &str = "<!-- metrics:start -->\n";
const METRICS_END: &str = "<!-- metrics:end -->";
/// What a reader's window shows without a break. Rows of tables cannot be broken.
const COLUMNS_MAX: usize = 120;
/// Lines of other programs have flags of their own.
const FOREIGN_COMMANDS: [&str; 6] =
    ["cargo bench", "cargo test", "kafka-", "install -", "useradd", "systemctl"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn text_of(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Contents of the fenced blocks of one language.
fn blocks<'a>(readme: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a first part")).collect()
}

/// Everything between backticks outside of fenced blocks.
fn spans(readme: &str) -> Vec<&str> {
    let prose = readme.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// Words such as `--data-dir`, wherever they stand.
fn flags_in(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '-';
    let words = text.split(|letter: char| !is_part(letter));
    words.filter(|word| word.len() > 3 && word.starts_with("--")).map(|word| word[2..].to_owned()).collect()
}

fn flags_of(command: &clap::Command, into: &mut BTreeSet<String>) {
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    into.extend(names.map(str::to_owned));
    command.get_subcommands().for_each(|each| flags_of(each, into));
}

/// Splits a line as a shell does, as far as the examples go: blanks, and single quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let quoted = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    quoted.collect()
}

#[test]
fn the_tables_of_keys_and_metrics_are_those_of_the_program() {
    the_table_is(KEYS_START, KEYS_END, &markdown_table());
    the_table_is(METRICS_START, METRICS_END, &names_table());
}

fn the_table_is(start: &str, end: &str, table: &str) {
    let readme = text_of("README.md");
    let (before, rest) = readme.split_once(start).expect("the README has the mark before the table");
    let (written, after) = rest.split_once(end).expect("the README has the mark behind the table");
    if std::env::var("TWINLOG_README").as_deref() == Ok("write") {
        let whole = format!("{before}{start}{table}{end}{after}");
        return std::fs::write(root().join("README.md"), whole).expect("the README can be written");
    }
    let gone = written
        .lines()
        .filter(|line| !table.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"));
    let new = table
        .lines()
        .filter(|line| !written.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"));
    let difference: Vec<String> = gone.chain(new).collect();
    assert!(
        written == table,
        "a table of the README is not the program's; write it anew with\n\
         TWINLOG_README=write cargo test -p twinlog-tests --test readme\n{}",
        difference.join("\n")
    );
}

#[test]
fn every_flag_of_the_readme_exists_and_every_flag_is_in_the_readme() {
    let readme = text_of("README.md");
    let mut named = BTreeSet::new();
    for line in readme.lines().filter(|line| !FOREIGN_COMMANDS.iter().any(|command| line.contains(command))) {
        // `cargo run` has flags of its own in front of ours.
        let ours = if line.starts_with("cargo run") {
            line.split_once(" -- ").map_or("", |split| split.1)
        } else {
            line
        };
        named.extend(flags_in(ours));
    }
    let mut known: BTreeSet<String> = ["help", "version"].map(str::to_owned).into();
    flags_of(&Cli::command(), &mut known);
    let invented: Vec<_> = named.difference(&known).collect();
    let untold: Vec<_> = known.difference(&named).collect();
    assert!(
        invented.is_empty() && untold.is_empty(),
        "not in the program: {invented:?}; not in the README: {untold:?}"
    );
}

#[test]
fn every_command_of_the_readme_and_of_the_service_is_understood() {
    let readme = text_of("README.md");
    let service = text_of("systemd/twinlog.service");
    let examples = blocks(&readme, "sh").into_iter().flat_map(str::lines);
    let of_examples = examples.filter(|line| line.starts_with("twinlog ")).map(words);
    let of_spans = spans(&readme).into_iter().filter(|span| span.starts_with("twinlog config ")).map(words);
    let of_service = service.lines().filter_map(|line| line.strip_prefix("ExecStart")).map(|line| {
        let command = line.split_once('=').expect("a setting has a value").1;
        words(command.strip_prefix("/usr/local/bin/").expect("the service runs what was installed"))
    });
    let commands: Vec<Vec<String>> = of_examples.chain(of_spans).chain(of_service).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let parsed = Cli::try_parse_from(&command);
        assert!(parsed.is_ok(), "{}: {}", command.join(" "), parsed.unwrap_err());
    }
}

#[test]
fn every_code_of_a_fault_is_explained() {
    let readme = text_of("README.md");
    let sources =
        [text_of("sync/src/fault.rs"), text_of("daemon/src/control/supervisor/lifecycle.rs")].concat();
    let is_code = |text: &&str| {
        text.len() > 4
            && text.contains('_')
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let codes: BTreeSet<&str> = sources.split('"').filter(is_code).collect();
    assert!(codes.len() > 10 && codes.contains("STORE_REFUSED"), "{codes:?}");
    for code in codes {
        assert!(readme.contains(&format!("`{code}`")), "{code} is not in the README");
    }
}

#[test]
fn every_path_of_the_readme_exists() {
    let readme = text_of("README.md");
    let folders = ["log-segment", "sync", "io", "daemon", "tests", "bench", "systemd"];
    let is_path = |span: &&str| {
        folders.iter().any(|folder| *span == *folder || span.starts_with(&format!("{folder}/")))
    };
    let paths: Vec<&str> = spans(&readme).into_iter().filter(is_path).collect();
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        assert!(root().join(path).exists(), "{path} of the README is not there");
    }
}

#[test]
fn no_line_of_the_readme_is_too_long() {
    let mut long = Vec::new();
    for file in ["README.md", "systemd/twinlog.toml"] {
        for (index, line) in text_of(file).lines().enumerate().filter(|(_, line)| !line.starts_with('|')) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                long.push(format!("{file}:{} has {columns} columns", index + 1));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_examples_of_the_readme_are_configurations_and_json() {
    let readme = text_of("README.md");
    let configurations = blocks(&readme, "toml");
    assert!(!configurations.is_empty());
    for text in configurations {
        let raw = RawConfig::parse(Path::new("README.md"), text).unwrap_or_else(|error| panic!("{error}"));
        Settings::from_raw(&raw, None).unwrap_or_else(|error| panic!("{error}"));
    }
    for text in blocks(&readme, "json") {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}"));
        assert!(value.is_object());
    }
}

#[test]
fn the_reference_configuration_holds_every_key_with_its_default() {
    let path = root().join("systemd/twinlog.toml");
    let raw = RawConfig::read(&path).unwrap_or_else(|error| panic!("{error}"));
    let link = twinlog_daemon::config::DEFAULT_LINK;
    for key in KEYS {
        let given = match key.scope {
            Scope::Daemon => raw.has(key.name),
            scope => raw.has_link_value(link, scope, key.name),
        };
        assert!(given, "{} is not in {}", key.path(), path.display());
    }
    let reference = Settings::from_raw(&raw, None).unwrap_or_else(|error| panic!("{error}"));
    // Its own answers to the three keys without a default, and nothing else.
    let mut bare = RawConfig::default();
    let servers = reference.link.source.bootstrap_servers.iter().map(ToString::to_string).collect();
    bare.set(link, "bootstrap.servers", RawValue::List(servers));
    bare.set(link, "data.dir", RawValue::Text(reference.daemon.data_dir.display().to_string()));
    bare.set(link, "topics", RawValue::List(vec!["orders".to_owned(), "payments-.*".to_owned()]));
    let defaults = Settings::from_raw(&bare, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(format!("{reference:#?}"), format!("{defaults:#?}"));
}
