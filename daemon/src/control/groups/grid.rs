//! Points in time at equal distances: work that overruns one does not move the others.

use std::time::Duration;
use tokio::time::Instant;

/// See the file's header.
pub struct Grid {
    next: Instant,
    interval: Duration,
}

impl Grid {
    pub fn new(now: Instant, interval: Duration) -> Self {
        Self { next: now, interval }
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// The work of the last point ended: how many points it overran.
    pub fn passed(&mut self, now: Instant) -> u64 {
        self.next += self.interval;
        let Some(late) = now.checked_duration_since(self.next).filter(|late| !late.is_zero()) else {
            return 0;
        };
        let points = late.as_nanos() / self.interval.as_nanos() + 1;
        let points = u32::try_from(points).unwrap_or(u32::MAX);
        self.next += self.interval * points;
        points.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overruns_is_counted_and_the_grid_stands_still() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut grid = Grid::new(begin, Duration::from_millis(1_000));
        assert_eq!((grid.passed(at(300)), grid.next()), (0, at(1_000)));
        assert_eq!((grid.passed(at(2_000)), grid.next()), (0, at(2_000)), "just in time");
        assert_eq!((grid.passed(at(3_001)), grid.next()), (1, at(4_000)));
        assert_eq!((grid.passed(at(9_500)), grid.next()), (5, at(10_000)));
    }
}
