//! When we may log in again after a cluster refused us.
//!
//! Owns the pauses: every connection of every thread asks here first, so that a changed password costs a
//! handful of attempts and not an account that is locked. Must never hold anybody back who was not refused.
//!
//! ```text
//!   refused by a host: that host is not asked for 10 s, 20 s, 40 s ... 5 min; one attempt ends each pause
//!   refused and never yet believed with these credentials: the same for all hosts of the cluster
//! ```

use super::error::SecurityError;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The first pause. Lowered, a policy of five wrong passwords a minute locks the account.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// The longest pause. Raised, a corrected password takes as long to be noticed.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Hosts that are remembered. Raised, a hostile list of brokers costs as much memory.
const HOSTS_MAX: usize = 4_096;

/// See the file's header.
#[derive(Default)]
pub struct Attempts {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Some host believed these credentials.
    believed: bool,
    refused: BTreeMap<String, Refusal>,
}

struct Refusal {
    pause: Duration,
    until: Instant,
    last: SecurityError,
}

impl Attempts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Whether an attempt may be made at `host` now. It counts as made: nobody else ends the same pause.
    pub fn ask(&self, host: &str, now: Instant) -> Result<(), SecurityError> {
        let mut state = self.state();
        let everybody = !state.believed;
        let mut concerned: Vec<&mut Refusal> = state
            .refused
            .iter_mut()
            .filter(|(name, _)| everybody || name.as_str() == host)
            .map(|(_, refusal)| refusal)
            .collect();
        if let Some(latest) = concerned.iter().max_by_key(|refusal| refusal.until)
            && now < latest.until
        {
            let (retry_in, last) = (latest.until - now, Box::new(latest.last.clone()));
            return Err(SecurityError::HeldBack { retry_in, last });
        }
        for refusal in &mut concerned {
            refusal.until = now + refusal.pause;
        }
        Ok(())
    }

    /// `host` believed us.
    pub fn believed(&self, host: &str) {
        let mut state = self.state();
        state.believed = true;
        state.refused.remove(host);
    }

    /// `host` refused us.
    pub fn refused(&self, host: &str, why: &SecurityError, now: Instant) {
        let mut state = self.state();
        if state.refused.len() >= HOSTS_MAX && !state.refused.contains_key(host) {
            state.refused.clear();
        }
        let pause = state.refused.get(host).map_or(PAUSE_MIN, |before| (before.pause * 2).min(PAUSE_MAX));
        state.refused.insert(host.to_owned(), Refusal { pause, until: now + pause, last: why.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::SaslMechanism;

    fn refusal() -> SecurityError {
        SecurityError::ServerNotProven { mechanism: SaslMechanism::Plain }
    }

    #[test]
    fn pauses_grow_from_ten_seconds_to_five_minutes_and_end_with_a_success() {
        let attempts = Attempts::default();
        let mut now = Instant::now();
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(attempts.ask("a", now), Ok(()));
            attempts.refused("a", &refusal(), now);
            let Err(SecurityError::HeldBack { retry_in, .. }) = attempts.ask("a", now) else {
                panic!("it was refused this moment")
            };
            assert_eq!(retry_in, Duration::from_secs(pause));
            now += retry_in;
        }
        assert_eq!(attempts.ask("a", now), Ok(()));
        attempts.believed("a");
        assert_eq!(attempts.ask("a", now), Ok(()));
        attempts.refused("a", &refusal(), now);
        assert!(matches!(attempts.ask("a", now), Err(SecurityError::HeldBack { retry_in, .. })
            if retry_in == Duration::from_secs(10)));
    }

    #[test]
    fn one_attempt_ends_each_pause_however_many_ask() {
        let attempts = Attempts::default();
        let now = Instant::now();
        attempts.refused("a", &refusal(), now);
        let later = now + PAUSE_MIN;
        let allowed = (0..100).filter(|_| attempts.ask("a", later).is_ok()).count();
        assert_eq!(allowed, 1);
    }

    #[test]
    fn credentials_that_nobody_believed_yet_are_shown_to_no_other_host_either() {
        let attempts = Attempts::default();
        let now = Instant::now();
        attempts.refused("a", &refusal(), now);
        assert!(attempts.ask("b", now).is_err());
        attempts.believed("c");
        assert_eq!(attempts.ask("b", now), Ok(()), "it is the one host that is wrong");
        assert!(attempts.ask("a", now).is_err());
    }
}
