//! What is shown while a link runs: a bar on a terminal, elsewhere a line every few seconds.
//!
//! Both go to standard error; standard output belongs to the report.

use super::run::Output;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(250);
/// Weight of the newest rate in the shown one: higher makes the ETA jump.
const RATE_WEIGHT: f64 = 0.3;

/// The bar that log lines must not run through.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Lines are log lines: whoever reads JSON gets nothing else.
static AS_LOG_LINES: AtomicBool = AtomicBool::new(false);

/// From now on there is no bar, and lines are log lines.
pub fn show_progress_in_log() {
    AS_LOG_LINES.store(true, Relaxed);
}

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub bytes: u64,
    pub partitions: u64,
    pub partitions_done: u64,
    /// Held up, for the source does not let us read them.
    pub partitions_denied: u64,
    /// Records between here and the source's end: as captured at the start, or as it is now while tailing.
    pub missing_records: u64,
    /// Partitions of which nobody knows how much is missing; none of them is counted above.
    pub partitions_unknown: u64,
    /// For how long the oldest record has been missing, in words.
    pub lag: String,
}

impl Figures {
    /// Another link's beside these.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.partitions += other.partitions;
        self.partitions_done += other.partitions_done;
        self.partitions_denied += other.partitions_denied;
        self.missing_records += other.missing_records;
        self.partitions_unknown += other.partitions_unknown;
        if !self.lag.is_empty() && !other.lag.is_empty() {
            self.lag.push_str(" and ");
        }
        self.lag.push_str(&other.lag);
    }
}

/// What is missing, in words.
pub struct Behind<'a>(pub &'a Figures);

impl fmt::Display for Behind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records behind", self.0.missing_records)?;
        match self.0.partitions_unknown {
            0 => {}
            unknown => write!(f, ", {unknown} unknown")?,
        }
        match self.0.lag.as_str() {
            "" => Ok(()),
            lag => write!(f, ", the oldest {lag}"),
        }
    }
}

/// See the file's header.
pub struct Progress {
    link: String,
    bar: Option<ProgressBar>,
    shown_at: Instant,
    last: Figures,
    /// Most records that were ever missing: the bar's length.
    records: u64,
    bytes_per_second: f64,
    records_per_second: f64,
}

impl Progress {
    pub fn new(link: &str, output: Output) -> Self {
        let terminal =
            std::io::stderr().is_terminal() && output == Output::Text && !AS_LOG_LINES.load(Relaxed);
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
            bar.set_style(style.expect("a constant template").progress_chars("=> "));
            bar.set_prefix(link.to_owned());
            BAR.get_or_init(|| bar).clone()
        });
        Self {
            link: link.to_owned(),
            bar,
            shown_at: Instant::now(),
            last: Figures::default(),
            records: 0,
            bytes_per_second: 0.0,
            records_per_second: 0.0,
        }
    }

    /// The links are others now.
    pub fn rename(&mut self, link: &str) {
        link.clone_into(&mut self.link);
        if let Some(bar) = &self.bar {
            bar.set_prefix(link.to_owned());
        }
    }

    /// Shows the figures when it is time to.
    pub fn show(&mut self, now: Instant, figures: impl FnOnce() -> Figures) {
        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        let passed = now - self.shown_at;
        if passed < interval {
            return;
        }
        let figures = figures();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed.as_secs_f64();
        // The first rate is taken as it is: there is nothing to smooth it with.
        let smooth =
            |old: &mut f64, new: f64| *old += (new - *old) * if *old > 0.0 { RATE_WEIGHT } else { 1.0 };
        smooth(&mut self.bytes_per_second, rate(figures.bytes, self.last.bytes));
        smooth(&mut self.records_per_second, rate(self.last.missing_records, figures.missing_records));
        self.records = self.records.max(figures.missing_records);
        let message = self.message(&figures);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.records.max(1));
                bar.set_position((self.records - figures.missing_records).max(u64::from(self.records == 0)));
                bar.set_message(message);
            }
            None if AS_LOG_LINES.load(Relaxed) => tracing::info!(link = self.link, "{message}"),
            None => {
                // A closed standard error must not end the mirror.
                let _ = writeln!(std::io::stderr(), "{}: {message}", self.link);
            }
        }
        (self.last, self.shown_at) = (figures, now);
    }

    fn message(&self, figures: &Figures) -> String {
        let mut text = format!(
            "{} at {}/s, {}/{} partitions, {}",
            HumanBytes(figures.bytes),
            HumanBytes(self.bytes_per_second as u64),
            figures.partitions_done,
            figures.partitions,
            Behind(figures),
        );
        if figures.missing_records > 0 && self.records_per_second > 0.0 {
            let seconds = (figures.missing_records as f64 / self.records_per_second) as u64;
            text.push_str(&format!(", {} to go", HumanDuration(Duration::from_secs(seconds))));
        }
        if figures.partitions_denied > 0 {
            text.push_str(&format!(", {} partitions may not be read", figures.partitions_denied));
        }
        text
    }

    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Where log lines go: above the bar, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match BAR.get().filter(|bar| !bar.is_finished()) {
            Some(bar) => bar.suspend(|| std::io::stderr().write(bytes)),
            None => std::io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_tells_rate_lag_and_time_to_go() {
        let mut progress = Progress::new("west", Output::Json);
        let lag = "at least 1.5 s".to_owned();
        let first = Figures { partitions: 3, missing_records: 1_000, lag, ..Figures::default() };
        let start = progress.shown_at;
        progress.show(start + LINE_INTERVAL, || first.clone());
        let second = Figures {
            bytes: 50 << 20,
            partitions_done: 1,
            partitions_denied: 2,
            missing_records: 500,
            ..first
        };
        progress.show(start + LINE_INTERVAL, || panic!("too early"));
        progress.show(start + 2 * LINE_INTERVAL, || second.clone());
        let text = progress.message(&second);
        assert!(
            text.contains("1/3 partitions, 500 records behind, the oldest at least 1.5 s")
                && text.contains("to go"),
            "{text}"
        );
        assert!(text.contains("2 partitions may not be read"), "{text}");
        let unknown = Figures { missing_records: 0, partitions_unknown: 2, ..second };
        let text = progress.message(&unknown);
        assert!(text.contains("1/3 partitions, 0 records behind, 2 unknown"), "{text}");
    }
}
