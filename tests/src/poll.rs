//! The only place of the tests that waits: asks again until something holds.
//!
//! Owns the pause between two questions and the limit after which a test counts as hung. It must
//! never be used to let time pass: every wait has a condition and a sentence that names it.

use std::thread;
use std::time::{Duration, Instant};

/// After this long a wait is a hang, not slowness. Lower, and a loaded machine with two cores fails
/// healthy tests; higher, and a hung test holds up the whole run.
pub const HANG_LIMIT: Duration = Duration::from_secs(120);

/// Short beside everything waited for here (a broker's start takes seconds), long beside a question.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `question` until it answers; `None` when `limit` has passed without an answer.
pub fn poll_within<T>(limit: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if started.elapsed() >= limit {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Asks `question` until it answers and fails the test, naming `what`, when it never does.
#[track_caller]
pub fn poll_for<T>(what: &str, question: impl FnMut() -> Option<T>) -> T {
    match poll_within(HANG_LIMIT, question) {
        Some(answer) => answer,
        None => panic!("waited {} s in vain until {what}", HANG_LIMIT.as_secs()),
    }
}

/// [`poll_for`] with a condition instead of an answer.
#[track_caller]
pub fn poll_until(what: &str, mut condition: impl FnMut() -> bool) {
    poll_for(what, || condition().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_later_question_is_returned() {
        let mut asked = 0;
        let answer = poll_for("the third question", || {
            asked += 1;
            (asked == 3).then_some("yes")
        });
        assert_eq!((answer, asked), ("yes", 3));
    }

    #[test]
    fn a_wait_without_an_answer_ends_at_its_limit() {
        assert_eq!(poll_within(Duration::ZERO, || None::<()>), None);
    }
}
