//! How far a verification is: a bar on a terminal, elsewhere a line every few seconds.
//!
//! Both go to standard error; standard output belongs to the report. It must never slow the reading: most calls only
//! look at the clock.

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Where a verification is.
#[derive(Clone, Copy)]
pub struct Reached<'a> {
    /// What is done: `verifying` or `comparing`.
    pub what: &'static str,
    /// `<link>/<topic>-<partition>`
    pub partition: &'a dyn std::fmt::Display,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// See the file's header.
pub struct VerifyProgress {
    bar: Option<ProgressBar>,
    shown_at: Instant,
}

impl VerifyProgress {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("[{bar:30}] {msg}");
            bar.with_style(style.expect("a constant template").progress_chars("=> "))
        });
        Self { bar, shown_at: Instant::now() }
    }

    /// Shows where it is when it is time to.
    pub fn show(&mut self, reached: &Reached<'_>) {
        if let Some(line) = self.due(Instant::now(), reached) {
            // A closed standard error must not end the verification.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// Moves the bar, or says which line is due.
    fn due(&mut self, now: Instant, reached: &Reached<'_>) -> Option<String> {
        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        if now.duration_since(self.shown_at) < interval {
            return None;
        }
        self.shown_at = now;
        let message = message(reached);
        let Some(bar) = &self.bar else { return Some(message) };
        bar.set_length(reached.total_bytes.max(1));
        bar.set_position(reached.done_bytes);
        bar.set_message(message);
        None
    }

    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn message(reached: &Reached<'_>) -> String {
    format!(
        "{} {}: {} of {}",
        reached.what,
        reached.partition,
        HumanBytes(reached.done_bytes),
        HumanBytes(reached.total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_few_seconds_and_tells_partition_and_bytes() {
        let start = Instant::now();
        let mut progress = VerifyProgress { bar: None, shown_at: start };
        let reached = |done_bytes| Reached {
            what: "verifying",
            partition: &"west/orders-3",
            done_bytes,
            total_bytes: 4096,
        };
        assert_eq!(progress.due(start + LINE_INTERVAL / 2, &reached(10)), None);
        let line = progress.due(start + LINE_INTERVAL, &reached(1024)).unwrap();
        assert_eq!(line, "verifying west/orders-3: 1.00 KiB of 4.00 KiB");
        assert_eq!(progress.due(start + LINE_INTERVAL, &reached(1025)), None);
    }
}
