//! What is known of how far each partition is behind, and since when each figure is true.
//!
//! ```text
//!   shard's counters --sample--> PartitionLag --figures--> views, /metrics, the progress line
//!   ListOffsets ------source is--^      \-----deliveries--> LinkLag: histogram, worst of the hour and the day
//! ```
//! There is one lag, and every view, metric and answer has it from here: from what is delivered (flushed in a store,
//! with the followers in guest mode) to the bound of the copy, which is the source's last stable offset, or its high
//! watermark on a link that reads uncommitted. Records, bytes and milliseconds are all of that stretch; what lies
//! between the same start and the high watermark stands beside it. A figure that nobody observed, and a 0 that nobody has confirmed for a while, is
//! `None`.

use crate::shard::mailbox::PartitionCounters;
use hdrhistogram::Histogram;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;
use twinlog_sync::lag::{Delivery, Observations, Received, Worst};
use twinlog_sync::wire::fetch_request::IsolationLevel;
use twinlog_sync::{MILLISECOND, Nanoseconds};

/// Longest latency that the histogram tells apart; what took longer counts as this.
const LATENCY_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Two digits: 1 % of any latency, in some 40 KiB for each link.
const LATENCY_DIGITS: u8 = 2;

/// What one partition is told by, and by what age a figure is not believed to be still true.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub isolation: IsolationLevel,
    pub stale_after: Nanoseconds,
}

impl Rules {
    /// Three questions without an answer, or three long polls.
    pub fn new(isolation: IsolationLevel, check: Duration, fetch_wait_max_ms: u32) -> Self {
        let longest = check.max(Duration::from_millis(u64::from(fetch_wait_max_ms)));
        let stale_after = u64::try_from(3 * longest.as_nanos()).unwrap_or(u64::MAX);
        Self { isolation, stale_after }
    }
}

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub struct PartitionLag {
    bound: Observations,
    /// The high watermark, of which the last stable offset is "delivered": what lies between is open transactions.
    open: Observations,
    received: Received,
    /// The source's last word: the bound of the copy, and its high watermark.
    ends: Option<(i64, i64)>,
    seen_at: Nanoseconds,
}

/// How far something is behind, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub records: Option<i64>,
    pub milliseconds: Option<i64>,
    pub at_least: bool,
    pub bytes: Option<i64>,
    pub bytes_estimated: bool,
    /// Since the source last confirmed it.
    pub age_ms: Option<u64>,
    pub high_watermark_records: Option<i64>,
    /// Since its first record was seen; 0: none is open; `None` also where the link reads uncommitted.
    pub oldest_open_ms: Option<i64>,
}

fn milliseconds(nanoseconds: Nanoseconds) -> i64 {
    i64::try_from(nanoseconds / MILLISECOND).unwrap_or(i64::MAX)
}

impl PartitionLag {
    /// Takes over what its shard published; `lane_answered_at` is when its lane last confirmed all of its partitions.
    pub fn sample(
        &mut self,
        rules: Rules,
        counters: &PartitionCounters,
        lane_answered_at: Option<Nanoseconds>,
        delivered: impl FnMut(Delivery),
    ) {
        let seen_at = counters.source_seen_at.load(Relaxed);
        let high_watermark = counters.high_watermark.load(Relaxed);
        let stable = counters.last_stable_offset.load(Relaxed);
        let bound = match rules.isolation {
            IsolationLevel::ReadCommitted => stable,
            IsolationLevel::ReadUncommitted => high_watermark,
        };
        if seen_at > self.seen_at && bound >= 0 && high_watermark >= 0 {
            self.source_is(rules, seen_at, bound, high_watermark);
        }
        if let Some(answered_at) = lane_answered_at.filter(|at| *at > self.seen_at && seen_at > 0) {
            self.confirm(answered_at);
        }
        // Bytes before the offset that they led to: never too many for it.
        let bytes = counters.fetched_bytes.load(Acquire);
        let fetch = counters.fetch.load(Relaxed);
        let (reached, at) = (counters.delivered.load(Relaxed), counters.delivered_at.load(Relaxed));
        self.received.mark(fetch, bytes);
        self.received.reach(reached);
        self.bound.reach(at, reached, delivered);
    }

    /// It comes into a shard with a log up to `end`. Counted from there on, for a small topic is received whole before
    /// anybody looks a first time, and the mean of its records would not be known.
    pub fn begin(&mut self, end: i64, counters: &PartitionCounters) {
        self.received.begin(end, counters.bytes.load(Relaxed));
    }

    /// The source said where its log ends.
    pub fn source_is(&mut self, rules: Rules, seen_at: Nanoseconds, bound: i64, high_watermark: i64) {
        self.seen_at = seen_at;
        self.ends = Some((bound, high_watermark));
        self.bound.observe(seen_at, bound, rules.stale_after);
        self.open.observe(seen_at, high_watermark, rules.stale_after);
        self.open.reach(seen_at, bound.min(high_watermark), |_| {});
    }

    fn confirm(&mut self, seen_at: Nanoseconds) {
        self.seen_at = seen_at;
        self.bound.confirm(seen_at);
        self.open.confirm(seen_at);
    }

    /// When the source last confirmed the figures; `None`: never.
    pub fn seen_at(&self) -> Option<Nanoseconds> {
        Some(self.seen_at).filter(|at| *at > 0)
    }

    /// Something is not delivered yet.
    pub fn is_behind(&self) -> bool {
        self.bound.is_behind()
    }

    /// What would be lost with the source now, in milliseconds: at most, where it is not told to be at least. While
    /// the source says nothing, it may have gone on since its last word.
    pub fn at_risk_ms(&self, rules: Rules, now: Nanoseconds) -> Option<i64> {
        let age = self.bound.age(now)?;
        Some(milliseconds(age.nanoseconds).max(self.silence_ms(rules, now)?))
    }

    /// For how long the source has said nothing; 0 as long as that is nothing out of the ordinary.
    pub fn silence_ms(&self, rules: Rules, now: Nanoseconds) -> Option<i64> {
        let silence = now.saturating_sub(self.seen_at()?);
        Some(if silence > rules.stale_after { milliseconds(silence) } else { 0 })
    }

    pub fn figures(&self, rules: Rules, now: Nanoseconds, counters: &PartitionCounters) -> Figures {
        let Some((bound, high_watermark)) = self.ends else { return Figures::default() };
        let age = now.saturating_sub(self.seen_at);
        let stale = age > rules.stale_after;
        // Nothing was missing when the source was last heard; whether that is still so is not known.
        let believed = |figure: i64| (figure > 0 || !stale).then_some(figure);
        let delivered = counters.delivered.load(Relaxed);
        let oldest = self.bound.age(now).unwrap_or_default();
        let bytes = self.received.missing(bound, counters.bytes.load(Relaxed));
        let open = self.open.age(now).unwrap_or_default();
        Figures {
            records: believed((bound - delivered).max(0)),
            milliseconds: believed(milliseconds(oldest.nanoseconds)),
            at_least: oldest.at_least,
            bytes: bytes.and_then(|missing| believed(i64::try_from(missing.bytes).unwrap_or(i64::MAX))),
            bytes_estimated: bytes.is_some_and(|missing| missing.is_estimate),
            age_ms: Some(milliseconds(age).cast_unsigned()),
            high_watermark_records: believed((high_watermark - delivered).max(0)),
            // A link that reads uncommitted is not told where transactions begin.
            oldest_open_ms: believed(milliseconds(open.nanoseconds))
                .filter(|_| rules.isolation == IsolationLevel::ReadCommitted),
        }
    }
}

impl Figures {
    /// Of several parts: sums of what is counted, the worst of what is old. Unknown where a part is unknown, and of
    /// no parts at all.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().reduce(Self::and).unwrap_or_default()
    }

    fn and(self, other: Self) -> Self {
        let sum = |one: Option<i64>, other: Option<i64>| Some(one?.saturating_add(other?));
        let worst = |one: Option<i64>, other: Option<i64>| Some(one?.max(other?));
        Self {
            records: sum(self.records, other.records),
            milliseconds: worst(self.milliseconds, other.milliseconds),
            at_least: self.at_least || other.at_least,
            bytes: sum(self.bytes, other.bytes),
            bytes_estimated: self.bytes_estimated || other.bytes_estimated,
            age_ms: self.age_ms.zip(other.age_ms).map(|(one, other)| one.max(other)),
            high_watermark_records: sum(self.high_watermark_records, other.high_watermark_records),
            oldest_open_ms: worst(self.oldest_open_ms, other.oldest_open_ms),
        }
    }
}

/// What is kept of all partitions of a link together.
pub struct LinkLag {
    latencies: Histogram<u64>,
    latency_sum_ms: u64,
    worst: Worst,
    /// What would be lost with the source now; `None`: a partition of which nothing is known.
    pub at_risk_ms: Option<i64>,
}

impl Default for LinkLag {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MS_MAX, LATENCY_DIGITS);
        Self {
            latencies: latencies.expect("constant bounds"),
            latency_sum_ms: 0,
            worst: Worst::default(),
            at_risk_ms: None,
        }
    }
}

/// How long records took from when the source was first seen to have them until they were delivered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    pub records: u64,
    pub sum_seconds: f64,
    /// Upper bounds in seconds, and the records between each and the one before; the last has no bound.
    pub buckets: Vec<(f64, u64)>,
}

/// Milliseconds: from a fetch that is answered at once to an outage of an hour.
const BUCKETS_MS: [u64; 12] = [5, 10, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 600_000, 3_600_000];

impl LinkLag {
    pub fn delivered(&mut self, now: Nanoseconds, delivery: Delivery) {
        let age_ms = milliseconds(delivery.age).cast_unsigned();
        self.latencies.saturating_record_n(age_ms.max(1), delivery.records);
        self.latency_sum_ms = self.latency_sum_ms.saturating_add(age_ms.saturating_mul(delivery.records));
        self.worst.record(now, age_ms);
    }

    pub fn at_risk(&mut self, now: Nanoseconds, at_risk_ms: Option<i64>) {
        self.at_risk_ms = at_risk_ms;
        if let Some(at_risk_ms) = at_risk_ms {
            self.worst.record(now, at_risk_ms.cast_unsigned());
        }
    }

    /// The worst of the last minutes.
    pub fn worst_ms(&self, now: Nanoseconds, minutes: u64) -> Option<i64> {
        self.worst.of_last(now, minutes).map(|value| i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// The latency that this part of all records did not exceed; `None` before the first.
    pub fn quantile_ms(&self, part: f64) -> Option<u64> {
        (!self.latencies.is_empty()).then(|| self.latencies.value_at_quantile(part))
    }

    pub fn latencies(&self) -> Latencies {
        let records = self.latencies.len();
        let (mut buckets, mut before) = (Vec::with_capacity(BUCKETS_MS.len() + 1), 0);
        let (mut below, mut told) = (0, 0);
        for bound in BUCKETS_MS {
            below += self.latencies.count_between(before, bound);
            // Two bounds may lie in one step of the histogram, which is then counted by both.
            let upto = below.min(records).max(told);
            buckets.push((bound as f64 / 1e3, upto - told));
            (before, told) = (bound + 1, upto);
        }
        buckets.push((f64::MAX, records - told));
        Latencies { records, sum_seconds: self.latency_sum_ms as f64 / 1e3, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlog_sync::SECOND;

    const RULES: Rules = Rules { isolation: IsolationLevel::ReadCommitted, stale_after: 10 * SECOND };

    fn counters(seen_at: u64, (stable, high_watermark): (i64, i64), end: i64) -> PartitionCounters {
        let counters = PartitionCounters::default();
        counters.source_seen_at.store(seen_at, Relaxed);
        counters.last_stable_offset.store(stable, Relaxed);
        counters.high_watermark.store(high_watermark, Relaxed);
        for each in [&counters.fetch, &counters.log_end, &counters.delivered] {
            each.store(end, Relaxed);
        }
        counters.delivered_at.store(seen_at, Relaxed);
        counters
    }

    #[test]
    fn what_is_not_known_is_never_0() {
        let (mut lag, never) = (PartitionLag::default(), counters(0, (-1, -1), 0));
        lag.sample(RULES, &never, None, |_| {});
        assert_eq!(lag.figures(RULES, 5 * SECOND, &never), Figures::default());
        assert_eq!(Figures::sum([]), Figures::default());
        let caught_up = counters(SECOND, (40, 40), 40);
        lag.sample(RULES, &caught_up, None, |_| {});
        let told = lag.figures(RULES, 2 * SECOND, &caught_up);
        assert_eq!((told.records, told.milliseconds, told.bytes), (Some(0), Some(0), Some(0)));
        assert_eq!(Figures::sum([told, Figures::default()]).records, None);
        let dead = lag.figures(RULES, 12 * SECOND, &caught_up);
        assert_eq!((dead.records, dead.milliseconds, dead.bytes), (None, None, None));
        assert_eq!(dead.age_ms, Some(11_000));
        assert_eq!(lag.at_risk_ms(RULES, 12 * SECOND), Some(11_000));
        assert_eq!(lag.at_risk_ms(RULES, 3 * SECOND), Some(0));
    }

    #[test]
    fn a_lane_that_answers_confirms_what_it_does_not_mention() {
        let (mut lag, quiet) = (PartitionLag::default(), counters(SECOND, (40, 40), 40));
        lag.sample(RULES, &quiet, Some(60 * SECOND), |_| {});
        let told = lag.figures(RULES, 61 * SECOND, &quiet);
        assert_eq!((told.records, told.age_ms), (Some(0), Some(1_000)));
    }

    #[test]
    fn the_lag_begins_where_delivery_ends_not_where_the_log_does() {
        let (mut lag, written) = (PartitionLag::default(), counters(SECOND, (250, 260), 250));
        written.delivered.store(40, Relaxed);
        lag.sample(RULES, &written, None, |_| {});
        let told = lag.figures(RULES, 2 * SECOND, &written);
        assert_eq!((told.records, told.high_watermark_records), (Some(210), Some(220)));
        assert!(told.milliseconds > Some(0), "all three figures are of the same records: {told:?}");
        written.delivered.store(250, Relaxed);
        lag.sample(RULES, &written, None, |_| {});
        let told = lag.figures(RULES, 2 * SECOND, &written);
        assert_eq!((told.records, told.milliseconds, told.bytes), (Some(0), Some(0), Some(0)));
        let uncommitted = Rules { isolation: IsolationLevel::ReadUncommitted, ..RULES };
        let mut all = PartitionLag::default();
        all.sample(uncommitted, &written, None, |_| {});
        assert_eq!(all.figures(uncommitted, 2 * SECOND, &written).records, Some(10));
    }

    #[test]
    fn what_came_before_the_first_look_tells_the_mean_of_what_comes_next() {
        let (mut lag, came) = (PartitionLag::default(), counters(SECOND, (300, 300), 300));
        lag.begin(0, &came);
        came.bytes.store(30_000, Relaxed);
        came.fetched_bytes.store(30_000, Relaxed);
        lag.sample(RULES, &came, None, |_| {});
        // Paused here, while the source goes on.
        lag.source_is(RULES, 2 * SECOND, 310, 310);
        let told = lag.figures(RULES, 2 * SECOND, &came);
        assert_eq!((told.records, told.bytes, told.bytes_estimated), (Some(10), Some(1_000), true));
        // Opened again behind a gap: its offsets are no records that came.
        lag.begin(900_300, &came);
        lag.source_is(RULES, 3 * SECOND, 900_310, 900_310);
        came.delivered.store(900_300, Relaxed);
        came.fetch.store(900_300, Relaxed);
        lag.sample(RULES, &came, None, |_| {});
        assert_eq!(lag.figures(RULES, 3 * SECOND, &came).bytes, Some(1_000));
    }

    #[test]
    fn an_open_transaction_holds_back_the_bound_and_ages() {
        let mut lag = PartitionLag::default();
        let before = counters(SECOND, (10, 10), 10);
        lag.sample(RULES, &before, None, |_| {});
        let open = counters(2 * SECOND, (10, 25), 10);
        lag.sample(RULES, &open, None, |_| {});
        let told = lag.figures(RULES, 7 * SECOND, &open);
        assert_eq!((told.records, told.milliseconds), (Some(0), Some(0)));
        assert_eq!((told.high_watermark_records, told.oldest_open_ms), (Some(15), Some(5_000)));
        let uncommitted = Rules { isolation: IsolationLevel::ReadUncommitted, ..RULES };
        let mut all = PartitionLag::default();
        all.sample(uncommitted, &open, None, |_| {});
        assert_eq!(all.figures(uncommitted, 7 * SECOND, &open).records, Some(15));
    }

    #[test]
    fn the_histogram_and_the_peaks_are_of_what_was_delivered() {
        let (mut lag, mut link) = (PartitionLag::default(), LinkLag::default());
        lag.sample(RULES, &counters(SECOND, (0, 0), 0), None, |_| panic!("nothing was"));
        lag.sample(RULES, &counters(2 * SECOND, (8, 8), 0), None, |_| panic!("nothing is"));
        assert!(lag.is_behind());
        let delivered = counters(2 * SECOND, (8, 8), 8);
        delivered.delivered_at.store(5 * SECOND, Relaxed);
        lag.sample(RULES, &delivered, None, |each| link.delivered(5 * SECOND, each));
        let latencies = link.latencies();
        assert_eq!((latencies.records, latencies.sum_seconds), (8, 24.0));
        assert_eq!(latencies.buckets.iter().map(|bucket| bucket.1).sum::<u64>(), 8);
        assert_eq!(latencies.buckets[8], (10.0, 8));
        assert_eq!(link.worst_ms(5 * SECOND, 60), Some(3_000));
        assert_eq!(link.quantile_ms(0.5).map(|at| at.abs_diff(3_000) < 50), Some(true));
    }
}
