//! Where the link stands: what `--until-caught-up` waits for, and what it gives up on.

use super::Supervisor;
use super::lag::figures_of;
use crate::control::mirror::Mirror;
use crate::control::progress::Figures;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use twinlog_io::monotonic_nanoseconds;

/// How long `--until-caught-up` waits for a source that never answered, or for a named topic or a
/// leader that never appeared. A higher value only delays the bad news.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it waits while not one offset moves. Below the time of a broker's restart it would give up
/// in the middle of a rolling upgrade.
pub const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(180);

/// When anything last moved.
pub(super) struct Progress {
    pub started_at: Instant,
    moved_at: Instant,
    fetched: i64,
}

impl Progress {
    pub fn new(now: Instant) -> Self {
        Self { started_at: now, moved_at: now, fetched: i64::MIN }
    }
}

/// The answer to "is it done?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Going,
    /// All of it was received. Whether it is delivered is known after the drain.
    CaughtUp,
    /// It will not become better by waiting; [`Supervisor::unmet`] says what is missing and why.
    Unmet,
}

impl Supervisor {
    /// For `--until-caught-up`: looks at every partition that was there at the start.
    pub fn standing(&mut self, now: Instant) -> Standing {
        let required = self.mirrors.values().filter(|mirror| mirror.required);
        let fetched =
            required.clone().map(|mirror| mirror.counters.fetch.load(Relaxed)).fold(0_i64, i64::wrapping_add);
        let open: Vec<&Mirror> = required.clone().filter(|mirror| !mirror.has_received_all()).collect();
        let unseen = self.discovery.unseen_names();
        if std::mem::replace(&mut self.progress.fetched, fetched) != fetched {
            self.progress.moved_at = now;
        }
        if !self.refresh.first && open.is_empty() && unseen.is_empty() {
            return Standing::CaughtUp;
        }
        let start_is_over = now - self.progress.started_at >= START_LIMIT;
        let stuck = now - self.progress.moved_at >= NO_PROGRESS_LIMIT;
        let all_stopped = !self.refresh.first && open.iter().all(|mirror| mirror.stopped.is_some());
        let nothing_to_expect = match (self.refresh.first, unseen.is_empty()) {
            (true, _) | (false, false) => start_is_over && (all_stopped || self.refresh.first),
            (false, true) => all_stopped,
        };
        let leaderless = start_is_over && !open.is_empty() && open.iter().all(|mirror| is_hopeless(mirror));
        if nothing_to_expect || stuck || leaderless { Standing::Unmet } else { Standing::Going }
    }

    /// A sentence for everything that was wanted and is not here.
    pub fn unmet(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.refresh.first {
            let why =
                self.refresh.last_error.as_ref().map_or("no answer yet".to_owned(), ToString::to_string);
            sentences.push(format!("the source could not be reached: {why}"));
        }
        for name in self.discovery.unseen_names().iter().filter(|_| !self.refresh.first) {
            sentences.push(match self.discovery.is_denied(name) {
                true => format!(
                    "topic {name} is hidden from us (TOPIC_AUTHORIZATION_FAILED), or does not exist: grant READ and \
                     DESCRIBE on it, see twinlog check"
                ),
                false => format!("topic {name} does not exist at the source"),
            });
        }
        let open = self.mirrors.values().filter(|mirror| mirror.required && !mirror.is_caught_up());
        sentences.extend(open.map(|mirror| match (mirror.trouble(), mirror.captured_end) {
            (Some(trouble), _) => {
                let (partition, state) = (&mirror.partition, mirror.state());
                format!("{partition} is {state} ({}): {}", trouble.code, trouble.reason)
            }
            (None, None) => format!("{}: its leader never told where its log ends", mirror.partition),
            (None, Some(end)) => {
                format!("{} is at offset {} of {end}", mirror.partition, mirror.delivered())
            }
        }));
        sentences
    }

    /// Where all partitions are: on their way to the ends captured at the start, or behind the ends as they are now.
    pub fn figures(&self, until_caught_up: bool) -> Figures {
        let (rules, clock) = (self.rules(), monotonic_nanoseconds());
        let mut figures = Figures::default();
        for mirror in self.mirrors.values() {
            let (missing, done) = match until_caught_up {
                true => (mirror.missing_records(), mirror.is_caught_up()),
                false => {
                    let lag = figures_of(mirror, rules, clock).records.map(i64::unsigned_abs);
                    (lag, lag == Some(0) && mirror.is_in_shard() && mirror.stopped.is_none())
                }
            };
            figures.bytes += mirror.counters.bytes.load(Relaxed);
            figures.partitions += 1;
            figures.partitions_done += u64::from(done);
            figures.missing_records += missing.unwrap_or(0);
            figures.partitions_denied += u64::from(mirror.is_unauthorized());
            figures.partitions_unknown += u64::from(missing.is_none());
        }
        if !until_caught_up {
            figures.lag = self.lag_text();
        }
        figures
    }
}

/// Stopped, or never led while the source was there.
fn is_hopeless(mirror: &Mirror) -> bool {
    mirror.stopped.is_some() || mirror.captured_end.is_none()
}
