//! Tables of the command line: columns with blanks around `|`, as users of other tools know them.
//!
//! A cell never breaks its row: line ends and control characters of foreign text become blanks.

/// What stands in a cell that has nothing to say.
const NOTHING: &str = "";

/// A cell of a figure that may not be known.
pub fn figure<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// A cell of a text that may be absent.
pub fn text(value: Option<&String>) -> String {
    value.map_or(NOTHING, String::as_str).to_owned()
}

/// Milliseconds for people: two units at most.
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 10 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        () if minutes == 0 => format!("{seconds} s"),
        () if hours == 0 => format!("{minutes} min {} s", seconds % 60),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// How old a figure is, in words for the end of a line.
pub fn age(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(|| "never observed".to_owned(), |age| format!("{} ago", span(age)))
}

/// How old the oldest missing record is.
pub fn lag_time(milliseconds: Option<i64>, at_least: bool) -> String {
    let Some(milliseconds) = milliseconds else { return figure::<i64>(None) };
    let time = span(u64::try_from(milliseconds).unwrap_or(0));
    if at_least { format!(">= {time}") } else { time }
}

/// Missing bytes, with a sign where they are not all counted.
pub fn lag_bytes(bytes: Option<i64>, is_estimate: bool) -> String {
    let sign = if is_estimate && bytes.is_some() { "~" } else { "" };
    format!("{sign}{}", figure(bytes))
}

/// Rows under a header, each column as wide as its widest cell.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let plain = |cell: &str| -> String {
        cell.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
    };
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let mut widths = header.map(|name| name.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = padded.collect::<Vec<_>>().join(" | ");
        format!("{}\n", line.trim_end())
    };
    let rule = widths.map(|width| "-".repeat(width)).join("-+-");
    let body: String = rows.iter().map(|row| line(row.each_ref().map(String::as_str))).collect();
    format!("{}{rule}\n{body}", line(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["orders".to_owned(), "12".to_owned()], ["a\nb".to_owned(), String::new()]];
        let expected = "Topic  | Lag\n-------+----\norders | 12\na b    |\n";
        assert_eq!(table(["Topic", "Lag"], &rows), expected);
    }

    #[test]
    fn times_are_told_in_two_units() {
        let told: Vec<String> = [400, 9_990, 61_000, 3_723_000, 90_000_000].map(span).into();
        assert_eq!(told, ["0.4 s", "9.9 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
        assert_eq!(age(None), "never observed");
    }

    #[test]
    fn a_lag_says_how_far_it_is_known() {
        assert_eq!(
            (lag_time(Some(61_000), true), lag_bytes(Some(7), true)),
            (">= 1 min 1 s".into(), "~7".into())
        );
        assert_eq!((lag_time(None, true), lag_bytes(None, true)), ("unknown".into(), "unknown".into()));
    }
}
