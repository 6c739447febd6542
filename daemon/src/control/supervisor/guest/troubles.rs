//! Steps towards the destination that do not go through: which one, why, since when, and when it is tried again.
//!
//! A step that is refused holds up itself and nothing else: what is led goes on being led. Each is one alarm for
//! as long as it lasts, one line in the log now and then, and one pause that grows. It must never be retried
//! without a pause: the controller that refuses us serves everybody else.

use crate::admin::answer::AlarmView;
use crate::control::guest::ControllerError;
use crate::control::source_client::ClientError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info};
use twinlog_io::wall_clock_ms;
use twinlog_sync::backoff::Backoff;
use twinlog_sync::fault::code::TOPIC_AUTHORIZATION_FAILED;

/// Kafka's code of a request that the principal may not make of a cluster.
pub(super) const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
/// The same sentence is logged again after so long. Lowered, a right that is missing for a night fills the log.
const REPEAT: Duration = Duration::from_secs(30);

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Registration,
    MetadataLog,
    Creation,
    NewPartitions,
    InSyncReplicas,
    Guards,
    SourceConfigs,
}

impl Step {
    fn what(self) -> &'static str {
        match self {
            Self::Registration => "a guest id is refused",
            Self::MetadataLog => "the destination's metadata log cannot be read",
            Self::Creation => "mirror topics are not created",
            Self::NewPartitions => "mirror topics do not get their new partitions",
            Self::InSyncReplicas => "in-sync replicas are not set",
            Self::Guards => "mirror topics are not guarded",
            Self::SourceConfigs => "the source does not tell configs, without which a topic is not ACTIVE",
        }
    }

    /// The right whose lack it would be.
    fn right(self) -> &'static str {
        match self {
            Self::Registration | Self::MetadataLog | Self::InSyncReplicas => {
                "CLUSTER_ACTION on the destination's cluster"
            }
            Self::Creation => "CREATE on the topics at the destination",
            Self::NewPartitions => "ALTER on the topics at the destination",
            Self::Guards => "ALTER_CONFIGS on the topics at the destination",
            Self::SourceConfigs => "DESCRIBE_CONFIGS on the topics at the source",
        }
    }

    fn code(self, is_unauthorized: bool) -> &'static str {
        match (self, is_unauthorized) {
            (Self::SourceConfigs, true) => "SOURCE_UNAUTHORIZED",
            (Self::SourceConfigs, false) => "SOURCE_ERROR",
            (_, true) => "DESTINATION_UNAUTHORIZED",
            (_, false) => "DESTINATION_REFUSES",
        }
    }
}

struct Trouble {
    is_unauthorized: bool,
    why: String,
    since_ms: i64,
    said_at: Instant,
    retry_at: Instant,
    backoff: Backoff,
}

impl Trouble {
    fn message(&self, step: Step) -> String {
        let (what, why) = (step.what(), &self.why);
        match self.is_unauthorized {
            true => format!("{what}: {why}; grant {}, see twinlog check; tried again", step.right()),
            false => format!("{what}: {why}; tried again"),
        }
    }
}

/// See the file's header.
#[derive(Default)]
pub(in crate::control::supervisor) struct Troubles {
    steps: BTreeMap<Step, Trouble>,
}

/// Whether an error code says that a right is missing.
pub(in crate::control::supervisor) fn is_unauthorized(code: i16) -> bool {
    matches!(code, TOPIC_AUTHORIZATION_FAILED | CLUSTER_AUTHORIZATION_FAILED)
}

/// The error code inside a failed request, 0 where there is none.
pub(super) fn code_of(error: &ControllerError) -> i16 {
    match error {
        ControllerError::Client(ClientError::Refused { code, .. }) => *code,
        ControllerError::Client(_) | ControllerError::NoController { .. } => 0,
    }
}

impl Troubles {
    /// A step did not go through.
    pub fn failed(&mut self, now: Instant, step: Step, code: i16, why: String) {
        let is_unauthorized = is_unauthorized(code);
        let known = self.steps.entry(step);
        let is_known = matches!(known, std::collections::btree_map::Entry::Occupied(_));
        let trouble = known.or_insert_with(|| Trouble {
            is_unauthorized,
            why: String::new(),
            since_ms: wall_clock_ms(),
            said_at: now,
            retry_at: now,
            backoff: Backoff::new(step as u64 + 1),
        });
        trouble.retry_at = now + Duration::from_nanos(trouble.backoff.pause());
        // Which topic is named changes from try to try.
        let is_news = !is_known || trouble.is_unauthorized != is_unauthorized;
        (trouble.is_unauthorized, trouble.why) = (is_unauthorized, why);
        if is_news || now >= trouble.said_at + REPEAT {
            trouble.said_at = now;
            error!("{} ({})", trouble.message(step), step.code(is_unauthorized));
        }
    }

    /// It went through, or there is nothing to do.
    pub fn worked(&mut self, step: Step) {
        if self.steps.remove(&step).is_some() {
            info!("no longer: {}", step.what());
        }
    }

    /// Whether its pause is over.
    pub fn may_try(&self, step: Step, now: Instant) -> bool {
        self.steps.get(&step).is_none_or(|trouble| now >= trouble.retry_at)
    }

    pub fn alarms(&self) -> impl Iterator<Item = AlarmView> {
        self.steps.iter().map(|(step, trouble)| AlarmView {
            code: step.code(trouble.is_unauthorized).to_owned(),
            message: trouble.message(*step),
            since_ms: trouble.since_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_refused_waits_longer_each_time_and_holds_up_no_other() {
        let (mut troubles, mut now) = (Troubles::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            troubles.failed(now, Step::Guards, TOPIC_AUTHORIZATION_FAILED, "orders".to_owned());
            assert!(!troubles.may_try(Step::Guards, now) && troubles.may_try(Step::Creation, now));
            let retry_at = troubles.steps[&Step::Guards].retry_at;
            pauses.push(retry_at - now);
            now = retry_at;
            assert!(troubles.may_try(Step::Guards, now));
        }
        assert!(pauses[11] > 4 * pauses[0] && pauses[11] <= Duration::from_secs(5), "{pauses:?}");
        let alarms: Vec<AlarmView> = troubles.alarms().collect();
        assert_eq!((alarms.len(), alarms[0].code.as_str()), (1, "DESTINATION_UNAUTHORIZED"));
        assert!(alarms[0].message.contains("grant ALTER_CONFIGS on the topics"), "{alarms:?}");
        troubles.worked(Step::Guards);
        assert_eq!(troubles.alarms().count(), 0);
    }

    #[test]
    fn a_refusal_for_another_reason_names_no_right() {
        let mut troubles = Troubles::default();
        troubles.failed(Instant::now(), Step::Creation, 37, "too many".to_owned());
        let alarm = troubles.alarms().next().unwrap();
        assert_eq!(alarm.code, "DESTINATION_REFUSES");
        assert!(!alarm.message.contains("grant"), "{alarm:?}");
    }
}
