//! What an old source cannot protect its mirror from: told by `twinlog check`, and once by `twinlog run`.
//!
//! Owns which version of which request each protection rests on. It must never refuse a source: an old one is
//! mirrored all the same, with less that is noticed.

use super::source_client::{Connection, SourceClient};
use crate::config::HostPort;
use kafka_protocol::messages::{FetchRequest, MetadataRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::protocol::Request;
use std::collections::BTreeSet;
use std::fmt;
use tracing::warn;

/// First Fetch version in which a consumer learns that the source's log parted from its own. ref: KIP-595
const FETCH_WITH_DIVERGENCE: i16 = 12;
/// First OffsetForLeaderEpoch version that a consumer may ask with, and that tells the epoch. ref: KIP-320
const EPOCH_ENDS_FOR_CONSUMERS: i16 = 2;
/// First Metadata version with topic ids. ref: KIP-516
const METADATA_WITH_TOPIC_IDS: i16 = 10;

/// What to do about all of them.
pub const CURE: &str = "upgrade the source's brokers to Kafka 2.8 or newer";

/// A protection that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    Divergence,
    EpochEnds,
    TopicIds,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Divergence => "no diverging epochs in Fetch: a parted log is noticed late",
            Self::EpochEnds => "no ends of leader epochs: truncation cannot be told from an outage",
            Self::TopicIds => "no topic ids: a re-created topic is not noticed",
        })
    }
}

/// What a broker lacks that offers these highest versions.
fn missing(highest: impl Fn(i16) -> Option<i16>) -> Vec<Missing> {
    let below = |key: i16, version: i16| highest(key).is_none_or(|highest| highest < version);
    [
        (below(FetchRequest::KEY, FETCH_WITH_DIVERGENCE), Missing::Divergence),
        (below(OffsetForLeaderEpochRequest::KEY, EPOCH_ENDS_FOR_CONSUMERS), Missing::EpochEnds),
        (below(MetadataRequest::KEY, METADATA_WITH_TOPIC_IDS), Missing::TopicIds),
    ]
    .into_iter()
    .filter_map(|(is_missing, what)| is_missing.then_some(what))
    .collect()
}

/// What the broker at the other end lacks.
pub fn missing_at(connection: &Connection) -> Vec<Missing> {
    missing(|key| connection.offered(key).map(|range| range.max))
}

/// One sentence for all that is missing.
pub fn sentence(missing: impl IntoIterator<Item = Missing>) -> String {
    missing.into_iter().map(|each| each.to_string()).collect::<Vec<_>>().join("; ")
}

/// Logs what the brokers of a source lack. Those that do not answer are left out: what cannot be reached is told
/// elsewhere.
pub async fn warn_of_missing(client: SourceClient, servers: Vec<HostPort>) {
    let mut lacking = BTreeSet::new();
    for server in &servers {
        lacking.extend(client.look_at(server, missing_at).await.unwrap_or_default());
    }
    if !lacking.is_empty() {
        warn!("the source is old and protects less: {}; {CURE}", sentence(lacking));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protection_rests_on_a_version_of_its_own() {
        let offered = |fetch: i16, epochs: Option<i16>, metadata: i16| {
            missing(move |key| match key {
                FetchRequest::KEY => Some(fetch),
                OffsetForLeaderEpochRequest::KEY => epochs,
                MetadataRequest::KEY => Some(metadata),
                _ => None,
            })
        };
        assert_eq!(offered(17, Some(4), 13), []);
        assert_eq!(offered(11, Some(4), 13), [Missing::Divergence]);
        assert_eq!(offered(12, Some(1), 10), [Missing::EpochEnds]);
        assert_eq!(offered(12, Some(2), 9), [Missing::TopicIds]);
        let all = offered(4, None, 1);
        assert_eq!(all, [Missing::Divergence, Missing::EpochEnds, Missing::TopicIds]);
        assert!(sentence(all).ends_with("no topic ids: a re-created topic is not noticed"));
    }
}
