//! Positions of consumer groups as text: what Kafka's own tool reads, too.
//!
//! ```text
//!   group,topic,partition,offset        one line each, in this order, as CSV: a name with a comma, a quote or a line
//!   "a,b",orders,0,1040                 end stands in quotes, and a quote in it is doubled
//! ```
//! `kafka-consumer-groups.sh --all-groups --reset-offsets --from-file FILE --execute` takes the same file.

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

fn field(out: &mut String, text: &str) {
    if text.contains([',', '"', '\n', '\r', '#']) || text.trim() != text {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}

/// The text of a file.
pub fn written(lines: &[OffsetLine]) -> String {
    let mut text = String::new();
    for each in lines {
        field(&mut text, &each.group);
        text.push(',');
        field(&mut text, &each.topic);
        text.push_str(&format!(",{},{}\n", each.partition, each.offset));
    }
    text
}

/// Reads it back. Empty lines are passed over.
pub fn parse(text: &str) -> Result<Vec<OffsetLine>, OffsetFileError> {
    let (mut lines, mut seen, mut rest, mut line) = (Vec::new(), BTreeSet::new(), text, 0);
    while !rest.is_empty() {
        line += 1;
        let (fields, behind, line_ends) = record(rest, line)?;
        rest = behind;
        let at = line;
        line += line_ends;
        if fields.len() == 1 && fields[0].is_empty() {
            continue;
        }
        let [group, topic, partition, offset] = <[String; 4]>::try_from(fields)
            .map_err(|fields| OffsetFileError::Fields { line: at, found: fields.len() })?;
        let number = |field, value: String| {
            let number = value.parse::<i64>().ok().filter(|number| *number >= 0);
            number.ok_or(OffsetFileError::Number { line: at, field, value })
        };
        let wrong =
            |value: i64| OffsetFileError::Number { line: at, field: "partition", value: value.to_string() };
        let partition = number("partition", partition)?;
        let partition = i32::try_from(partition).map_err(|_| wrong(partition))?;
        if !seen.insert((group.clone(), topic.clone(), partition)) {
            return Err(OffsetFileError::Twice { line: at });
        }
        lines.push(OffsetLine { group, topic, partition, offset: number("offset", offset)? });
        if lines.len() > LINES_MAX {
            return Err(OffsetFileError::TooLong);
        }
    }
    Ok(lines)
}

/// Fields of the first record, what is behind it, and how many line ends stood in quotes.
fn record(text: &str, line: usize) -> Result<(Vec<String>, &str, usize), OffsetFileError> {
    let (mut fields, mut current, mut line_ends) = (Vec::new(), String::new(), 0);
    let (mut quoted, mut was_quoted) = (false, false);
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' if quoted && letters.peek().is_some_and(|next| next.1 == '"') => {
                letters.next();
                current.push('"');
            }
            '"' if quoted => (quoted, was_quoted) = (false, true),
            letter if quoted => {
                line_ends += usize::from(letter == '\n');
                current.push(letter);
            }
            '"' if current.is_empty() && !was_quoted => quoted = true,
            ',' => {
                fields.push(std::mem::take(&mut current));
                was_quoted = false;
            }
            '\n' => {
                fields.push(current);
                return Ok((fields, &text[at + 1..], line_ends));
            }
            '\r' if letters.peek().is_some_and(|next| next.1 == '\n') => {}
            _ if was_quoted || letter == '"' => return Err(OffsetFileError::Quotes { line }),
            letter => current.push(letter),
        }
    }
    if quoted {
        return Err(OffsetFileError::Quotes { line });
    }
    fields.push(current);
    Ok((fields, "", line_ends))
}

/// Writes a file whole, or leaves the one before it. Blocks.
pub fn replace(path: &Path, lines: &[OffsetLine]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(written(lines).as_bytes())?;
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

    proptest! {
        #[test]
        fn every_name_comes_back(names in proptest::collection::btree_set(any::<String>(), 0..8)) {
            let lines: Vec<OffsetLine> = names.iter().map(|name| line(name, 3, 9)).collect();
            prop_assert_eq!(parse(&written(&lines)).unwrap(), lines);
        }
    }
}
