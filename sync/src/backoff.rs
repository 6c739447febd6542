//! Capped exponential backoff with jitter: retries never stop and never come in step.

use crate::{MILLISECOND, Nanoseconds, SECOND};

/// First pause after a failure.
pub const BACKOFF_MIN: Nanoseconds = 50 * MILLISECOND;
/// Longest pause: raising it delays the return after an outage by as much.
pub const BACKOFF_MAX: Nanoseconds = 5 * SECOND;

/// Between which bounds pauses grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffLimits {
    /// `retry.backoff.ms`
    min: Nanoseconds,
    /// `retry.backoff.max.ms`
    max: Nanoseconds,
}

impl BackoffLimits {
    /// A first pause above the longest one is the longest one, as in Kafka's clients.
    pub fn from_milliseconds(first: u64, longest: u64) -> Self {
        let max = longest.max(1).saturating_mul(MILLISECOND);
        Self { min: first.max(1).saturating_mul(MILLISECOND).min(max), max }
    }
}

impl Default for BackoffLimits {
    fn default() -> Self {
        Self { min: BACKOFF_MIN, max: BACKOFF_MAX }
    }
}

/// The pauses of one connection or partition. Seeded, so that a simulation repeats them.
#[derive(Clone, Debug)]
pub struct Backoff {
    limits: BackoffLimits,
    failures: u32,
    state: u64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self::within(BackoffLimits::default(), seed)
    }

    pub fn within(limits: BackoffLimits, seed: u64) -> Self {
        Self { limits, failures: 0, state: seed | 1 }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next try: between half and all of the doubled, capped step.
    pub fn pause(&mut self) -> Nanoseconds {
        let step = self.limits.min.saturating_mul(1 << self.failures.min(16)).min(self.limits.max);
        self.failures = self.failures.saturating_add(1);
        // xorshift64: jitter needs no better randomness.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        step / 2 + self.state % (step / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_stay_jittered_below_it() {
        let mut backoff = Backoff::new(42);
        let first = backoff.pause();
        assert!((BACKOFF_MIN / 2..=BACKOFF_MIN).contains(&first));
        let late: std::vec::Vec<_> = (0..100).map(|_| backoff.pause()).skip(20).collect();
        assert!(late.iter().all(|pause| (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(pause)));
        assert!(late.windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.pause() <= BACKOFF_MIN);
    }

    #[test]
    fn pauses_keep_to_the_limits_that_are_given() {
        let limits = BackoffLimits::from_milliseconds(200, 1_000);
        let mut backoff = Backoff::within(limits, 7);
        assert!((100 * MILLISECOND..=200 * MILLISECOND).contains(&backoff.pause()));
        let late = (0..10).map(|_| backoff.pause()).last().unwrap();
        assert!((500 * MILLISECOND..=1_000 * MILLISECOND).contains(&late));
        let mut constant = Backoff::within(BackoffLimits::from_milliseconds(900, 100), 7);
        assert!((0..10).all(|_| (50 * MILLISECOND..=100 * MILLISECOND).contains(&constant.pause())));
    }
}
