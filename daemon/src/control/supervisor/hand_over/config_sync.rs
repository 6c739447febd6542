//! Topic configurations of the source, read again and again: what a promote sets is never older than one round.
//!
//! A round asks one broker about all mirror topics, keeps what changed, and says so. A topic that the source does
//! not tell about keeps what was known of it; the others go on.

use super::{HandOverOutcome, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::control::source_client::SourceClient;
use crate::control::state::StateDatabase;
use crate::control::topic_configs::{self, Configs, TOPICS_PER_REQUEST_MAX};
use std::collections::BTreeMap;
use tokio::time::Instant;
use tracing::{info, warn};
use twinlog_sync::lifecycle::MirrorState;

/// The rounds, and how the last one went.
pub(super) struct ConfigSync {
    running: bool,
    at: Instant,
    pub last_success_ms: Option<i64>,
    pub error: Option<String>,
}

/// What one round found.
#[derive(Default)]
pub struct Round {
    changed: Vec<(String, Configs)>,
    error: Option<String>,
}

impl ConfigSync {
    pub fn new(now: Instant) -> Self {
        Self { running: false, at: now, last_success_ms: None, error: None }
    }
}

impl Supervisor {
    /// Begins a round when it is time.
    pub(super) fn sync_configs(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        if hand_overs.config_sync.running || now < hand_overs.config_sync.at || !hand_overs.link_kept {
            return;
        }
        let Some(broker) = self.servers.keys().next().copied() else { return };
        let rows = hand_overs.rows.values().filter(|row| {
            row.state != MirrorState::Stopped && !hand_overs.deletions.contains_key(&row.topic)
        });
        let known: BTreeMap<String, Configs> =
            rows.map(|row| (row.topic.clone(), row.wanted_configs.clone())).collect();
        // On a grid: a round that overran delays no other.
        hand_overs.config_sync.at = now + self.settings.link.config_sync_interval;
        if known.is_empty() {
            return;
        }
        hand_overs.config_sync.running = true;
        let include = self.settings.link.config_sync_include.clone();
        let (client, state, link) = (self.client.clone(), hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let round = round(&client, (&state, &link), broker, known, &include).await;
            outcome(HandOverOutcome::ConfigsRead(Box::new(round)))
        });
    }

    pub(super) fn configs_read(&mut self, hand_overs: &mut HandOvers, round: Round) {
        hand_overs.config_sync.running = false;
        for (topic, configs) in round.changed {
            info!("mirror topic {topic}: its configuration at the source changed; it is set at the promote");
            if let Some(row) = hand_overs.rows.get_mut(&topic) {
                row.wanted_configs = configs;
            }
        }
        match &round.error {
            None => hand_overs.config_sync.last_success_ms = Some(wall_clock_ms()),
            Some(why) => {
                if self.may_warn("configs") {
                    warn!("topic configurations are not read in full: {why}; tried again");
                }
            }
        }
        hand_overs.config_sync.error = round.error;
    }
}

async fn round(
    client: &SourceClient,
    (state, link): (&StateDatabase, &str),
    broker: i32,
    known: BTreeMap<String, Configs>,
    include: &[String],
) -> Round {
    let mut round = Round::default();
    let topics: Vec<String> = known.keys().cloned().collect();
    for piece in topics.chunks(TOPICS_PER_REQUEST_MAX) {
        let read = match topic_configs::read(client, broker, piece, include).await {
            Ok(read) => read,
            Err(error) => {
                round.error = Some(error.to_string());
                return round;
            }
        };
        for (topic, configs) in read {
            match configs {
                Err(code) => {
                    round.error =
                        Some(format!("the source does not tell about topic {topic} (error code {code})"));
                }
                Ok(configs) if known.get(&topic) == Some(&configs) => {}
                Ok(configs) => {
                    let kept = state.set_wanted_configs(link, &topic, configs.clone(), wall_clock_ms()).await;
                    match kept {
                        Ok(()) => round.changed.push((topic, configs)),
                        Err(error) => round.error = Some(error.to_string()),
                    }
                }
            }
        }
    }
    round
}
