//! Kafka's own DumpLogSegments over whole partition directories, every complaint of it an error.
//!
//! Owns the reading of what the tool prints. The tool ends with 0 after most complaints (seen on
//! 4.3.1: mismatches, bytes behind the last batch, gaps) and puts some on either stream, so its exit
//! code proves nothing: a line of either is good only when it has the form of a good line, and
//! everything else is a complaint. Three runs, because one check makes the tool skip the next:
//!
//! ```text
//!   --deep-iteration      *.log                  batches, their CRCs, every record inside
//!   --index-sanity-check  *.index *.timeindex    last entries, sizes
//!   --verify-index-only   *.index *.timeindex    every entry against the log
//! ```
//!
//! The directories must be closed (broker stopped, mirror ended): a running one has preallocated
//! tails, which the tool takes for corruption.

use super::artifacts;
use super::batches::segment_files;
use super::indexes::check_indexes;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The names of the files go in one argument, which Linux bounds at 128 KiB.
const FILES_ARGUMENT_BYTES_MAX: usize = 100_000;
/// Room for the largest record of the tests, decompressed.
const HEAP_MEGABYTES: u32 = 256;
/// A broken log complains once per record: more than these say nothing new.
const COMPLAINTS_MAX: usize = 20;

/// Whether a log may leave offsets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    Forbidden,
    /// After compaction, and where transaction markers were cleaned away.
    Expected,
}

/// What the tool has looked at without a complaint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    pub files: u64,
    pub batches: u64,
    pub records: u64,
}

/// What the tool, or our look at what it leaves out, found wrong.
#[derive(Debug)]
pub struct Complaints {
    pub lines: Vec<String>,
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DumpLogSegments complains:\n{}", self.lines.join("\n"))
    }
}

/// Checks every segment file of these partition directories.
pub fn dump_log_segments(directories: &[impl AsRef<Path>], gaps: Gaps) -> Result<Dumped, Complaints> {
    let mut logs = Vec::new();
    let mut indexes = Vec::new();
    for directory in directories.iter().map(AsRef::as_ref) {
        check_indexes(directory).map_err(|flaw| Complaints { lines: vec![flaw.to_string()] })?;
        let files = |extension| {
            segment_files(directory, extension)
                .map_err(|difference| Complaints { lines: vec![difference.to_string()] })
        };
        logs.extend(files("log")?);
        indexes.extend(files("index")?.into_iter().chain(files("timeindex")?));
    }
    let mut dumped = Dumped::default();
    for (flag, files) in
        [("--deep-iteration", &logs), ("--index-sanity-check", &indexes), ("--verify-index-only", &indexes)]
    {
        for names in arguments(files) {
            let mut reading = Reading::new(gaps);
            run(flag, &names, &mut reading)?;
            dumped.batches += reading.dumped.batches;
            dumped.records += reading.dumped.records;
            dumped.files += reading.dumped.files;
        }
    }
    // A tool that ends early without a word must not pass for one that found nothing.
    let expected = (logs.len() + 2 * indexes.len()) as u64;
    if dumped.files != expected {
        return Err(Complaints {
            lines: vec![format!("only {} of {expected} looks were taken", dumped.files)],
        });
    }
    Ok(dumped)
}

/// [`dump_log_segments`], failing the test with the complaints.
#[track_caller]
pub fn assert_clean(directories: &[impl AsRef<Path>], gaps: Gaps) -> Dumped {
    match dump_log_segments(directories, gaps) {
        Ok(dumped) => dumped,
        Err(complaints) => panic!("{complaints}"),
    }
}

/// The names of `files`, joined as the tool wants them, in as many arguments as needed.
fn arguments(files: &[PathBuf]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for file in files {
        let name = file.to_str().expect("test directories have UTF-8 names");
        match all.last_mut() {
            Some(last) if last.len() + name.len() < FILES_ARGUMENT_BYTES_MAX => {
                last.push(',');
                last.push_str(name);
            }
            _ => all.push(name.to_owned()),
        }
    }
    all
}

fn run(flag: &str, names: &str, reading: &mut Reading) -> Result<(), Complaints> {
    let mut errors = tempfile::tempfile().expect("a temporary file");
    let mut command = artifacts::kafka().java(HEAP_MEGABYTES);
    command
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "org.apache.kafka.tools.DumpLogSegments"]);
    command.args([flag, "--files", names]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        command.stderr(errors.try_clone().expect("a second handle")).spawn().expect("Java can be started");
    // Line by line: a large log prints more than anyone wants in memory.
    for line in BufReader::new(child.stdout.take().expect("piped")).split(b'\n') {
        reading.line(&String::from_utf8_lossy(&line.expect("the tool's output can be read")));
    }
    let status = child.wait().expect("a child can be waited for");
    let mut text = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut text)).expect("the tool's errors can be read");
    text.lines().for_each(|line| reading.line(line));
    if !status.success() {
        reading.complaints.push(format!("{flag} ended with {status}"));
    }
    if reading.complaints.is_empty() {
        Ok(())
    } else {
        Err(Complaints { lines: std::mem::take(&mut reading.complaints) })
    }
}

/// Tells good lines from complaints.
struct Reading {
    gaps: Gaps,
    dumped: Dumped,
    complaints: Vec<String>,
}

impl Reading {
    fn new(gaps: Gaps) -> Self {
        Self { gaps, dumped: Dumped::default(), complaints: Vec::new() }
    }

    fn line(&mut self, line: &str) {
        let good = if line.starts_with("baseOffset: ") {
            self.dumped.batches += 1;
            line.ends_with("isvalid: true")
        } else if line.starts_with("| offset: ") {
            self.dumped.records += 1;
            true
        } else if line.starts_with("Dumping ") {
            self.dumped.files += 1;
            true
        } else if let Some((before, after)) = line.split_once(" is followed by ") {
            self.may_follow(before.trim(), after.trim())
        } else {
            // The list of pairs that follows this heading is what is judged.
            let heading = line.starts_with("Non-consecutive offsets in ");
            let first = heading || line.starts_with("Log starting offset: ");
            // A segment of fewer than 4096 bytes has no entry in its offset index.
            first || line.ends_with(" passed sanity check.") || line.ends_with(".index is empty.")
        };
        if !good && self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(line.to_owned());
        }
    }

    /// The tool begins every file at -1 and so names the first record of all but the first segment.
    fn may_follow(&self, before: &str, after: &str) -> bool {
        match (before.parse::<i64>(), after.parse::<i64>()) {
            (Ok(-1), Ok(_)) => true,
            (Ok(before), Ok(after)) => self.gaps == Gaps::Expected && before < after,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(gaps: Gaps, lines: &[&str]) -> Vec<String> {
        let mut reading = Reading::new(gaps);
        lines.iter().for_each(|line| reading.line(line));
        reading.complaints
    }

    #[test]
    fn what_the_tool_prints_over_good_files_is_no_complaint() {
        let lines = [
            "Dumping 00.log",
            "Log starting offset: 5",
            "baseOffset: 5 lastOffset: 5 count: 1 crc: 1 isvalid: true",
            "| offset: 5 CreateTime: 1 keySize: 4 valueSize: 6 sequence: -1 headerKeys: []",
            "00.index passed sanity check.",
            "Non-consecutive offsets in 00.log",
            "  -1 is followed by 5",
        ];
        assert!(complaints(Gaps::Forbidden, &lines).is_empty());
    }

    #[test]
    fn gaps_pass_where_they_are_expected_and_steps_back_never() {
        assert_eq!(complaints(Gaps::Forbidden, &["  5 is followed by 7"]).len(), 1);
        assert!(complaints(Gaps::Expected, &["  5 is followed by 7"]).is_empty());
        assert_eq!(complaints(Gaps::Expected, &["  7 is followed by 5", "  5 is followed by 5"]).len(), 2);
    }

    #[test]
    fn every_line_of_another_form_is_a_complaint() {
        let lines = [
            "baseOffset: 5 lastOffset: 5 count: 1 crc: 1 isvalid: false",
            "Found 10578 invalid bytes at the end of 00.log",
            "Mismatches in :00.index",
            "Found timestamp mismatch in :00.timeindex",
        ];
        assert_eq!(complaints(Gaps::Expected, &lines), lines);
    }

    #[test]
    fn many_files_are_named_in_several_arguments() {
        let files: Vec<PathBuf> = (0..3000).map(|number| PathBuf::from(format!("{number:0>60}"))).collect();
        let arguments = arguments(&files);
        assert!(
            arguments.len() > 1
                && arguments.iter().all(|argument| argument.len() <= FILES_ARGUMENT_BYTES_MAX)
        );
        assert_eq!(arguments.join(",").split(',').count(), files.len());
    }
}
