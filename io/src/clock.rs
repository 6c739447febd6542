//! The two clocks of an engine. Nothing else in the crate reads time.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: never jumps, stands still while the machine is suspended.
pub fn monotonic_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Milliseconds since 1970; may jump.
pub fn wall_clock_ms() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let first = monotonic_nanoseconds();
        assert!(monotonic_nanoseconds() >= first);
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        assert!(wall_clock_ms() > 1_600_000_000_000);
    }
}
