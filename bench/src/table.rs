//! What is printed: lines and tables, to standard output as they come and to a file at the end.

use crate::error::BenchError;
use std::fmt::Write;
use std::path::Path;

/// Everything said so far.
#[derive(Default)]
pub struct Report {
    text: String,
}

impl Report {
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub fn table(&mut self, table: &Table) {
        self.line("");
        for line in table.lines() {
            self.line(&line);
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn save(&self, path: &Path) -> Result<(), BenchError> {
        let failed = |error| BenchError::File { action: "writing", path: path.to_path_buf(), error };
        std::fs::write(path, &self.text).map_err(failed)
    }
}

/// Rows of cells below a head; valid Markdown with aligned columns.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for every column");
        self.rows.push(cells);
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let mut line = String::from("|");
                for (cell, width) in row.iter().zip(&widths) {
                    let _ = write!(line, " {cell:>width$} |");
                }
                line
            })
            .collect();
        let rule =
            widths.iter().fold(String::from("|"), |line, width| format!("{line} {} |", "-".repeat(*width)));
        lines.insert(1, rule);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["a", "long head"]);
        table.row(vec!["wide cell".into(), "1".into()]);
        assert_eq!(
            table.lines(),
            ["|         a | long head |", "| --------- | --------- |", "| wide cell |         1 |"]
        );
    }
}
