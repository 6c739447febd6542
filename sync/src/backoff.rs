//! Capped exponential backoff with jitter: retries never stop and never come in step.

use crate::{MILLISECOND, Nanoseconds, SECOND};

/// First pause after a failure.
pub const BACKOFF_MIN: Nanoseconds = 50 * MILLISECOND;
/// Longest pause: raising it delays the return after an outage by as much.
pub const BACKOFF_MAX: Nanoseconds = 5 * SECOND;

/// The pauses of one connection or partition. Seeded, so that a simulation repeats them.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    state: u64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, state: seed | 1 }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next try: between half and all of the doubled, capped step.
    pub fn pause(&mut self) -> Nanoseconds {
        let step = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
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
}
