//! The report: Markdown with pictures beside it, made from figures and never by hand.
//!
//! ```text
//!   what was run and where ─▶ where Twinlog is worse ─▶ settings ─▶ a table for each set ─▶ what else was measured
//! ```

use crate::compare::chart::{self, Bar};
use crate::compare::copiers::Copier;
use crate::compare::figures::{self, COST, FIGURES, Figure, PEAK, RATE, Row};
use crate::compare::mirror_maker;
use crate::compare::sets::{BATCH_BYTES, Set};
use crate::error::BenchError;
use crate::table::Table;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const PICTURES: [(&Figure, &str); 3] = [(COST, "cost.svg"), (RATE, "rate.svg"), (PEAK, "memory.svg")];
/// Tables of what is worse would be lists without an end in full mode.
const NOTHING: &str = "Nothing of what was measured.";

/// All that the text is made of.
pub struct Story<'a> {
    pub command: String,
    pub facts: Vec<(&'static str, String)>,
    pub rows: &'a [Row],
    /// Sentences of measurements without brokers.
    pub beyond_floor: Vec<String>,
    /// What else was measured, as it was printed.
    pub others: &'a str,
}

/// Writes the text and its pictures into a directory.
pub fn save(directory: &Path, story: &Story<'_>) -> Result<(), BenchError> {
    let failed = |error| BenchError::File { action: "writing", path: directory.to_path_buf(), error };
    fs::create_dir_all(directory).map_err(failed)?;
    fs::write(directory.join("report.md"), text(story)).map_err(failed)?;
    for (figure, name) in PICTURES {
        fs::write(directory.join(name), picture(figure, story.rows)).map_err(failed)?;
    }
    Ok(())
}

fn text(story: &Story<'_>) -> String {
    let mut text = String::from("# Twinlog beside the alternatives\n\nWritten by the run itself:\n\n");
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say(&format!("```sh\n{}\n```\n", story.command));
    for (name, value) in &story.facts {
        say(&format!("- {name}: {value}"));
    }
    say("\n## Where Twinlog is worse\n");
    say(
        "Than a peer in the same set, than its aims, or than 1.5 times the floor; medians, wrong copies first.\n",
    );
    let worse = [figures::findings(story.rows), story.beyond_floor.clone()].concat();
    for line in &worse {
        say(&format!("- {line}"));
    }
    if worse.is_empty() {
        say(NOTHING);
    }
    say(&settings());
    if !story.rows.is_empty() {
        say("\n## Copies between real brokers\n");
        for (figure, name) in PICTURES {
            say(&format!("![{}]({name})", figure.name));
        }
    }
    for set in sets(story.rows) {
        say(&set_text(story.rows, set));
    }
    say("");
    text + story.others
}

fn settings() -> String {
    let mut text = format!(
        "\n## What is compared\n\nBoth brokers on one core, the copier with all that it starts on the other. Records \
         have a key of 8 bytes, each hundredth a header; values are text that compresses to about a third; the \
         producer's batches are {} KiB before they are compressed. GB: 10^9 bytes of record batches as the source \
         sends them. Flow: from the first record at the destination to the last, start left out; whole: with the \
         start. Figures: median (least..most) of runs in turns. Right: every record's offset, timestamp, key, value \
         and headers were read from both sides and are equal; of Twinlog every byte of every batch.\n\n\
         - twinlog-store: `twinlog run --until-caught-up`, defaults, flush and checkpoint at the end included\n\
         - twinlog-guest: `twinlog run` as a broker of the destination, one follower\n\
         - floor-store, floor-guest: the source's files by sendfile, received, checksummed, written with O_DIRECT, for a \
         guest sent on once; the product's ring and nothing of Kafka; its start is in the flow\n\
         - franz-go: `bench/peers/franz-go`, idempotent, batches of 1 MB, the topic's codec\n\
         - librdkafka: `bench/peers/rdkafka`, the same\n\
         - mirrormaker-2: dedicated mode, -Xmx{}m, one task for each partition up to {}, all flags of Java default\n\n\
         ```properties\n",
        BATCH_BYTES >> 10,
        mirror_maker::HEAP_MEGABYTES,
        mirror_maker::TASKS_MAX
    );
    for (name, value) in mirror_maker::SETTINGS {
        writeln!(text, "{name}={value}").expect("a string takes everything");
    }
    text + "```"
}

/// Each set once, in the order in which they were measured.
fn sets(rows: &[Row]) -> Vec<Set> {
    let mut found: Vec<Set> = Vec::new();
    for row in rows {
        if !found.contains(&row.set) {
            found.push(row.set);
        }
    }
    found
}

fn set_text(rows: &[Row], set: Set) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.set == set).collect();
    let filled = rows[0].filled;
    let mut head = vec!["copier", "runs"];
    head.extend(FIGURES.iter().map(|figure| figure.name));
    head.push("copy");
    let mut table = Table::new(&head);
    for row in &rows {
        let mut cells = vec![row.copier.name().to_owned(), row.runs.len().to_string()];
        cells.extend(FIGURES.iter().map(|figure| cell(row, figure)));
        cells.push(if row.wrong().is_none() { "right" } else { "wrong" }.to_owned());
        table.row(cells);
    }
    format!(
        "\n### {}\n\n{} records, {:.3} GB of values, {:.3} GB of batches.\n\n{}",
        set.name(),
        filled.records,
        filled.value_bytes as f64 / 1e9,
        filled.wire_bytes as f64 / 1e9,
        table.text()
    )
}

fn cell(row: &Row, figure: &Figure) -> String {
    let (places, spread) = (figure.places, row.spread(figure));
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{spread:.places$}"))
}

fn picture(figure: &Figure, rows: &[Row]) -> String {
    let bar = |row: &Row| {
        let spread = row.spread(figure)?;
        let places = figure.places;
        let label = format!("{}  {}", row.set.name(), row.copier.name());
        Some(Bar {
            label,
            value: spread.middle,
            text: format!("{spread:.places$}"),
            is_ours: row.copier.is_ours(),
        })
    };
    let bars: Vec<Bar> = rows.iter().filter_map(bar).collect();
    let better = if figure.more_is_better { "more" } else { "less" };
    chart::bars(&format!("{}: {better} is better", figure.name), &bars)
}

/// What is said while it runs.
pub fn progress(set: &Set, copier: Copier, row: &Row) -> String {
    let figures: Vec<String> =
        [RATE, COST, PEAK].iter().map(|figure| format!("{} {}", cell(row, figure), figure.name)).collect();
    let wrong = row.wrong().map(|why| format!("; WRONG: {why}")).unwrap_or_default();
    format!("{} {}: {}{wrong}", set.name(), copier.name(), figures.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::copiers::Run;
    use crate::compare::process_tree::Used;
    use crate::compare::sets::{Filled, QUICK};

    fn row(copier: Copier, wrong: Option<&str>) -> Row {
        let used = Used { seconds: 2.0, cpu_seconds: 1.0, first_seconds: 1.0, ..Used::default() };
        let run = Run { used, wrong: wrong.map(str::to_owned), ..Run::default() };
        let filled = Filled { records: 7, value_bytes: 1_000_000_000, wire_bytes: 1_000_000_000 };
        Row { set: QUICK[0], filled, copier, runs: vec![run] }
    }

    #[test]
    fn the_text_begins_with_what_is_worse_and_has_no_figures_of_wrong_copies() {
        let rows = [row(Copier::Store, None), row(Copier::FranzGo, Some("lost"))];
        let story = Story {
            command: "cargo bench".to_owned(),
            facts: vec![("commit", "abc".to_owned())],
            rows: &rows,
            beyond_floor: vec!["a row beyond the floor".to_owned()],
            others: "## Others\n",
        };
        let text = text(&story);
        let order =
            ["cargo bench", "- commit: abc", "## Where", "lost", "beyond the floor", "### 1KiB/none/6"];
        let places: Vec<usize> = order.iter().map(|part| text.find(part).expect(part)).collect();
        assert!(places.is_sorted(), "{places:?}");
        let peer = text.lines().find(|line| line.contains("|      franz-go")).unwrap();
        assert!(peer.contains("wrong") && peer.matches(" - ").count() == FIGURES.len(), "{peer}");
        assert!(text.ends_with("## Others\n"));
        assert!(!picture(COST, &rows).contains("franz-go"));
    }
}
