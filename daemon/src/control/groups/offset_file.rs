//! Positions of consumer groups as text: what Kafka's own tool reads, too.
//!
//! ```text
//!   group,topic,partition,offset        one line each, in this order, as CSV: a name with a comma, a quote or a line
//!   "a,b",orders,0,1040                 end stands in quotes, and a quote in it is doubled
//! ```
//! `kafka-consumer-groups.sh --reset-offsets --from-file FILE --execute` takes the same file where two or more `--group`
//! are named. With a single `--group` it wants lines without the group, and with `--all-groups` it takes only those that
//! its cluster has already. ref: KIP-222, org.apache.kafka.tools.consumer.group.CsvUtils

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// Lines of one file. Each is held in memory while it is imported.
const LINES_MAX: usize = 5_000_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetLine {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// Why a text is no such file; lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetFileError {
    Fields { line: usize, found: usize },
    Quotes { line: usize },
    Number { line: usize, field: &'static str, value: String },
    Twice { line: usize },
    TooLong,
}

impl fmt::Display for OffsetFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields { line, found } => {
                write!(f, "line {line} has {found} fields, not group,topic,partition,offset")
            }
            Self::Quotes { line } => {
                write!(f, "line {line} has a quote that does not end, or stands in a field")
            }
            Self::Number { line, field, value } => {
                write!(f, "line {line}: the {field} {value:?} is no number from 0 on")
            }
            Self::Twice { line } => write!(f, "line {line} names a position of a group for the second time"),
            Self::TooLong => write!(f, "there are more than {LINES_MAX} lines; split the file"),
        }
    }
}

impl std::error::Error for OffsetFileError {}

/// The text of a file.
pub fn written(lines: &[OffsetLine]) -> String {
    text_of(lines.iter().map(|OffsetLine { group, topic, partition, offset }| {
        [group.clone(), topic.clone(), partition.to_string(), offset.to_string()]
    }))
}

/// The same of one group, for a tool that is told its name beside.
pub fn written_of_one_group(lines: &[OffsetLine]) -> String {
    text_of(lines.iter().map(|OffsetLine { topic, partition, offset, .. }| {
        [topic.clone(), partition.to_string(), offset.to_string()]
    }))
}

fn text_of<const FIELDS: usize>(lines: impl Iterator<Item = [String; FIELDS]> + Clone) -> String {
    // Other readers may take a number sign for a comment, and spaces at an end for nothing.
    let is_plain = |field: &String| !field.contains('#') && field.trim() == field;
    let quotes = match lines.clone().flatten().all(|field| is_plain(&field)) {
        true => csv::QuoteStyle::Necessary,
        false => csv::QuoteStyle::NonNumeric,
    };
    let mut writer = csv::WriterBuilder::new().quote_style(quotes).from_writer(Vec::new());
    for line in lines {
        writer.write_record(&line).expect("memory takes every line");
    }
    let text = writer.into_inner().expect("memory takes every line");
    String::from_utf8(text).expect("every field was text")
}

/// Reads it back. Empty lines are passed over.
pub fn parse(text: &str) -> Result<Vec<OffsetLine>, OffsetFileError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let (mut lines, mut seen, mut began) = (Vec::new(), BTreeSet::new(), 0);
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).expect("it is text, and any number of fields is taken") {
        let end = usize::try_from(reader.position().byte()).expect("a place in memory");
        let raw = &text[began..end];
        // The first line that is not empty.
        let start = began + (raw.len() - raw.trim_start_matches(['\r', '\n']).len());
        let line = || 1 + text[..start].matches('\n').count();
        began = end;
        if !are_quoted(raw, &record) {
            return Err(OffsetFileError::Quotes { line: line() });
        }
        lines.push(offset_line(&record, line)?);
        let OffsetLine { group, topic, partition, .. } = &lines[lines.len() - 1];
        if !seen.insert((group.clone(), topic.clone(), *partition)) {
            return Err(OffsetFileError::Twice { line: line() });
        }
        if lines.len() > LINES_MAX {
            return Err(OffsetFileError::TooLong);
        }
    }
    Ok(lines)
}

/// The reader takes a quote that never ends, and one within a plain field; what was meant by it nobody knows.
fn are_quoted(raw: &str, record: &csv::StringRecord) -> bool {
    let within: usize = record.iter().map(|field| field.matches('"').count()).sum();
    let with_quotes = record.iter().filter(|field| field.contains('"')).count();
    // Those within stand there twice.
    let around = raw.matches('"').count().checked_sub(2 * within);
    around.is_some_and(|around| around % 2 == 0 && around / 2 >= with_quotes)
}

fn offset_line(record: &csv::StringRecord, line: impl Fn() -> usize) -> Result<OffsetLine, OffsetFileError> {
    let fields: Vec<&str> = record.iter().collect();
    let [group, topic, partition, offset] = <[&str; 4]>::try_from(fields)
        .map_err(|fields| OffsetFileError::Fields { line: line(), found: fields.len() })?;
    let number = |field, value: &str, most: i64| {
        let number = value.parse::<i64>().ok().filter(|number| (0..=most).contains(number));
        number.ok_or_else(|| OffsetFileError::Number { line: line(), field, value: value.to_owned() })
    };
    let partition = number("partition", partition, i32::MAX.into())?;
    let partition = i32::try_from(partition).expect("it was compared");
    let offset = number("offset", offset, i64::MAX)?;
    Ok(OffsetLine { group: group.to_owned(), topic: topic.to_owned(), partition, offset })
}

/// Writes a file whole, or leaves the one before it. Blocks.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(group: &str, partition: i32, offset: i64) -> OffsetLine {
        OffsetLine { group: group.to_owned(), topic: "orders".to_owned(), partition, offset }
    }

    #[test]
    fn plain_names_stand_plainly_and_others_in_quotes() {
        let lines = [line("app", 0, 1_040), line("a,b", 1, 0), line("say \"hi\"", 2, i64::MAX)];
        let text = written(&lines);
        assert_eq!(
            text,
            "app,orders,0,1040\n\"a,b\",orders,1,0\n\"say \"\"hi\"\"\",orders,2,9223372036854775807\n"
        );
        assert_eq!(parse(&text).unwrap(), lines);
        assert_eq!(parse("app,orders,0,7\r\n\r\n\"app\",\"orders\",1,8").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_line_is_refused_with_its_number() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert_eq!(wrong("app,orders,0"), OffsetFileError::Fields { line: 1, found: 3 });
        assert_eq!(wrong("a,o,0,1\n\na,o,0,2\n"), OffsetFileError::Twice { line: 3 });
        assert_eq!(wrong("\"a"), OffsetFileError::Quotes { line: 1 });
        assert_eq!(wrong("a\"b,o,0,1"), OffsetFileError::Quotes { line: 1 });
        for (text, field) in
            [("a,o,-1,1", "partition"), ("a,o,4294967296,1", "partition"), ("a,o,0,x", "offset")]
        {
            let error = wrong(text);
            assert!(
                matches!(&error, OffsetFileError::Number { field: found, .. } if *found == field),
                "{error}"
            );
        }
    }

    #[test]
    fn one_group_is_written_without_its_name() {
        let lines = [line("app", 0, 7), line("app", 1, 8)];
        assert_eq!(written_of_one_group(&lines), "orders,0,7\norders,1,8\n");
        assert_eq!(written(&[line(" a#", 0, 7)]), "\" a#\",\"orders\",0,7\n");
        assert_eq!(parse(&written(&[line(" a#", 0, 7)])).unwrap(), [line(" a#", 0, 7)]);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(names in proptest::collection::btree_set(any::<String>(), 0..8)) {
            let lines: Vec<OffsetLine> = names.iter().map(|name| line(name, 3, 9)).collect();
            prop_assert_eq!(parse(&written(&lines)).unwrap(), lines);
        }
    }
}
