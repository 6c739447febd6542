//! What is answered: the JSON of every view, written by the daemon and read by the command line.
//!
//! Field names are a contract with scripts: they are added to, never renamed. A figure that was not
//! observed is `null`, never 0. Times are milliseconds: `_time_ms` since 1970, `_age_ms` until now.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A list in the shape of Kafka's REST interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListView<T> {
    pub kind: String,
    pub metadata: Metadata,
    pub data: Vec<T>,
}

/// Where a list came from, and where it goes on; without `next` it is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    #[serde(rename = "self")]
    pub path: String,
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterView {
    pub cluster_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkView {
    pub link_name: String,
    pub source_cluster_id: Option<String>,
    pub destination_cluster_id: Option<String>,
    /// ACTIVE, PAUSED, UNAVAILABLE or FAILED.
    pub link_state: String,
    pub link_error: Option<String>,
    /// `guest` or `store`.
    pub mode: String,
    pub topic_names: Vec<String>,
    #[serde(default)]
    pub tasks: Vec<TaskView>,
    /// Records, the age of the oldest that is not delivered, and bytes, of all partitions together.
    #[serde(default)]
    pub lag: Option<i64>,
    #[serde(default)]
    pub lag_ms: Option<i64>,
    #[serde(default)]
    pub lag_bytes: Option<i64>,
    #[serde(flatten)]
    pub marks: LagMarks,
}

/// How a lag is to be read, and what stands beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LagMarks {
    /// The oldest record was there when this daemon first looked: it is as old as `lag_ms`, or older.
    pub lag_ms_at_least: bool,
    /// `lag_bytes` is not counted, or not all of it: what was not fetched is taken to be as large as what was.
    pub lag_bytes_estimated: bool,
    /// Since the source last confirmed these figures.
    pub lag_age_ms: Option<u64>,
    /// Records until the source's high watermark: more than `lag` by what open transactions hold back.
    pub high_watermark_lag: Option<i64>,
    /// Since its first record was seen at the source; 0: no transaction is open.
    pub oldest_open_transaction_ms: Option<i64>,
}

/// What would be lost with the source, in milliseconds: now, and at the worst of the last hour and day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RecoveryPointView {
    pub rpo_ms: Option<i64>,
    pub rpo_worst_hour_ms: Option<i64>,
    pub rpo_worst_day_ms: Option<i64>,
    /// From when the source was seen to have a record until it was delivered.
    pub replication_latency_p50_ms: Option<u64>,
    pub replication_latency_p99_ms: Option<u64>,
    pub replication_latency_max_ms: Option<u64>,
}

/// Something that a link does again and again, by the names of Cluster Linking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    pub task_name: String,
    /// ACTIVE, IN_ERROR or NOT_CONFIGURED.
    pub state: String,
    pub error: Option<String>,
    pub last_success_ms: Option<i64>,
}

/// How positions of consumer groups are copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OffsetSyncView {
    pub enabled: bool,
    pub rounds: u64,
    /// Points of the grid at which a round was still under way.
    pub overruns: u64,
    pub last_round_ms: u64,
    pub last_success_ms: Option<i64>,
    pub error: Option<String>,
    /// Groups that were written, and requests that were sent, since the start.
    pub commits: u64,
    pub requests: u64,
    /// What rounds have waited for since the start, in milliseconds; chunks of groups wait side by side.
    pub phase_ms: BTreeMap<String, u64>,
    pub groups: usize,
    pub positions: usize,
    /// Positions that wait for data.
    pub held_back: u64,
    /// Groups that are left out although there may be something to write.
    pub skipped: usize,
    /// Groups in each state.
    pub states: BTreeMap<String, usize>,
    /// The longest of all groups that are not left out: now minus the time at which the source was read for what
    /// the destination holds.
    pub offset_staleness_ms: Option<u64>,
}

/// One consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupView {
    pub link_name: String,
    pub group_id: String,
    pub destination_group_id: String,
    /// `classic`, `consumer`, `share` or `streams`.
    pub kind: String,
    pub state: String,
    /// Of the refusal, where its state is one.
    pub error_code: Option<i16>,
    /// Somebody is in it at the source.
    pub is_active_at_source: bool,
    pub positions: usize,
    pub held_back: u32,
    /// Positions of topics that are not mirrored.
    pub not_mirrored: u32,
    pub offset_staleness_ms: Option<u64>,
    /// Where one group is described.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<GroupPositionView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupPositionView {
    pub topic_name: String,
    pub partition_id: i32,
    pub source_offset: Option<i64>,
    pub destination_offset: Option<i64>,
    /// Where the copy ends.
    pub delivered_offset: Option<i64>,
    pub state: String,
    pub metadata: String,
}

/// One configuration of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkConfigView {
    pub link_name: String,
    pub name: String,
    /// A secret, or a reference to one, is `***`.
    pub value: Option<String>,
    pub default: Option<String>,
    /// FILE, PERSISTED or DEFAULT.
    pub source: String,
    /// What the file says where something else is kept.
    pub file_value: Option<String>,
    pub is_default: bool,
    pub is_read_only: bool,
    pub is_sensitive: bool,
    /// A running link takes it at once; otherwise its data threads start again.
    pub is_reloadable: bool,
}

/// What an order did to a link, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkChangeView {
    pub link_name: String,
    pub validate_only: bool,
    /// `none`, `live`, `restart` (of the data threads), `create` or `delete`.
    pub effect: String,
    pub changes: Vec<ConfigChangeView>,
    /// What else there is to say.
    #[serde(default)]
    pub note: Option<String>,
    /// Of a dry run that creates a link: what both clusters allow, and what the link would take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckLineView>,
}

/// One line of what `twinlog check` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckLineView {
    /// `ok`, `warn` or `fail`.
    pub level: String,
    pub subject: String,
    pub text: String,
    /// What to do, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl fmt::Display for CheckLineView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}  {:14} {}", self.level, self.subject, self.text)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChangeView {
    pub name: String,
    pub current: Option<String>,
    pub new: Option<String>,
    pub is_reloadable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MirrorTopicView {
    pub link_name: String,
    pub mirror_topic_name: String,
    pub source_topic_name: String,
    /// The topic's own, or its worst partition's.
    pub state: String,
    pub reason: String,
    /// Greppable; empty while there is nothing to explain.
    pub code: String,
    pub state_time_ms: i64,
    pub replication_factor: Option<u16>,
    /// What the source has for it, as far as it is taken over: set at a promote.
    #[serde(default)]
    pub source_configs: BTreeMap<String, String>,
    /// What is not identical to the source's, in a word: `exact` when nothing is.
    pub exactness: String,
    pub partitions: Vec<PartitionView>,
    /// Records, the age of the oldest that is not delivered, and bytes, of all partitions together.
    #[serde(default)]
    pub lag: Option<i64>,
    #[serde(default)]
    pub lag_ms: Option<i64>,
    #[serde(default)]
    pub lag_bytes: Option<i64>,
    #[serde(flatten)]
    pub marks: LagMarks,
    /// Under way, or the last one.
    pub hand_over: Option<HandOverView>,
    /// Under way.
    #[serde(default)]
    pub deletion: Option<DeletionView>,
    /// Brokers that a hand-over left out, until they are replicas again.
    #[serde(default)]
    pub replica_repairs: Vec<ReplicaRepairView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletionView {
    /// By the names of `twinlog_sync::lifecycle::DeletionStep`.
    pub step: String,
    pub delete_data: bool,
    pub since_ms: i64,
    /// Why it does not go on; it is tried again.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaRepairView {
    pub partition_id: i32,
    /// What it had before the hand-over, leader first.
    pub wanted_broker_ids: Vec<i32>,
    /// What is waited for, in words.
    pub waits_for: String,
    pub since_ms: i64,
}

/// What a failover could not bring along.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossView {
    pub partition_id: i32,
    /// What the source was known to have beyond the new end. It may have had more: nobody asked it since.
    pub lost_at_least_records: Option<i64>,
    /// The same in bytes, by the mean of what was copied.
    pub lost_estimated_bytes: Option<i64>,
    /// How old that knowledge was at the hand-over.
    pub source_heard_age_ms: Option<i64>,
}

/// What a failover cut from a log before it handed it over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CutView {
    pub partition_id: i32,
    /// The first offset that was cut: the log ended there afterwards.
    pub from: i64,
    /// Where it had ended.
    pub to: i64,
    pub bytes: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionView {
    pub partition_id: i32,
    /// Records until the source's bound of the copy.
    pub lag: Option<i64>,
    /// The age of the oldest record that is not delivered, by when this daemon first saw it at the source.
    pub lag_ms: Option<i64>,
    pub lag_bytes: Option<i64>,
    #[serde(flatten)]
    pub marks: LagMarks,
    pub last_source_fetch_offset: Option<i64>,
    pub log_start: Option<i64>,
    pub log_end: Option<i64>,
    pub high_watermark: Option<i64>,
    pub leader_epoch: Option<i32>,
    /// Who of ours leads it.
    pub guest_broker_id: Option<i32>,
    pub followers: Vec<FollowerView>,
    pub state: String,
    pub reason: String,
    pub code: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FollowerView {
    pub broker_id: i32,
    /// Where its next fetch begins.
    pub end: Option<i64>,
    /// Since its last fetch.
    pub age_ms: Option<u64>,
    /// It has everything that we serve.
    pub in_sync: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandOverView {
    /// `promote` or `failover`.
    pub kind: String,
    /// By the names of `twinlog_sync::lifecycle::HandOverStep`.
    pub step: String,
    pub since_ms: i64,
    /// Why it does not go on; it is tried again.
    pub error: Option<String>,
    /// Once a failover is done.
    #[serde(default)]
    pub losses: Vec<LossView>,
    #[serde(default)]
    pub cuts: Vec<CutView>,
    #[serde(default)]
    pub left_out_broker_ids: Vec<i32>,
    /// What its groups were left with, where positions are copied.
    #[serde(default)]
    pub consumer_groups: Option<GroupsHandOverView>,
    /// How long the destination's controller took for the request that moved the leadership.
    #[serde(default)]
    pub hand_over_request_ms: Option<u64>,
    /// Once it is done, where the copy is a store.
    #[serde(default)]
    pub stored: Option<StoredTopicView>,
}

/// A store's topic whose files are closed, complete and ready to be adopted by a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StoredTopicView {
    /// On the daemon's host: `<topic>-<partition>` for each partition is in it.
    pub directory: String,
    /// When the source told the captured ends; unknown where a restart came between.
    pub captured_ms: Option<i64>,
    /// When the source, asked again after everything was flushed, told the same ends. Later writes are not known.
    pub proven_ms: Option<i64>,
    pub partitions: Vec<StoredPartitionView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StoredPartitionView {
    pub partition_id: i32,
    /// Where the source's log ended; absent after a failover.
    pub captured_end: Option<i64>,
    pub flushed_end: i64,
    pub log_start: i64,
    pub log_end: i64,
    pub last_stable_offset: i64,
    /// The highest that its batches are stamped with: above 0, it is adopted with one replica first.
    pub leader_epoch: i32,
    /// They stay open: end them at the cluster that adopts them.
    pub open_transactions: Vec<OpenTransactionView>,
    /// More of them.
    pub open_not_named: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenTransactionView {
    pub producer_id: i64,
    pub first_offset: i64,
}

/// Consumer groups at a hand-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GroupsHandOverView {
    /// Groups with positions in the topic.
    pub groups: usize,
    /// Positions that are not the source's, with the reason.
    pub clamped: Vec<ClampedPositionView>,
    /// More of them.
    pub not_named: usize,
    /// Why what the source said last is not known.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClampedPositionView {
    pub group_id: String,
    pub partition_id: i32,
    pub source_offset: Option<i64>,
    pub destination_offset: Option<i64>,
    /// The source's minus the destination's.
    pub clamped_by: Option<i64>,
    /// HELD_BACK: there is no data for more. Otherwise why it is not final.
    pub state: String,
}

/// What an order did, would do, or has begun to do for one mirror topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MirrorActionView {
    pub mirror_topic_name: String,
    pub error_message: Option<String>,
    pub error_code: Option<String>,
    pub mirror_lags: Vec<PartitionActionView>,
    /// Brokers of the target that were left out, because they are down.
    pub left_out_broker_ids: Vec<i32>,
    /// What becomes of positions of consumer groups, then what became of them.
    pub consumer_group_offsets: Option<String>,
    #[serde(default)]
    pub consumer_groups: Option<GroupsHandOverView>,
    /// What else there is to say of an order that is right.
    #[serde(default)]
    pub note: Option<String>,
    /// Of a failover: as far as known now, then as it was at its end.
    #[serde(default)]
    pub losses: Vec<LossView>,
    #[serde(default)]
    pub cuts: Vec<CutView>,
    /// Of a store, once it is done.
    #[serde(default)]
    pub stored: Option<StoredTopicView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionActionView {
    pub partition_id: i32,
    pub lag: Option<i64>,
    pub last_source_fetch_offset: Option<i64>,
    pub error_message: Option<String>,
    pub error_code: Option<String>,
}

impl MirrorActionView {
    /// Neither the topic nor a partition of it failed.
    pub fn is_right(&self) -> bool {
        let wrong = |message: &Option<String>, code: &Option<String>| message.is_some() || code.is_some();
        !wrong(&self.error_message, &self.error_code)
            && !self.mirror_lags.iter().any(|each| wrong(&each.error_message, &each.error_code))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestLeaveView {
    pub link_name: String,
    /// Unregistered, or those that would be.
    pub broker_ids: Vec<i32>,
    pub message: String,
}

/// The daemon at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    pub version: String,
    pub link_name: String,
    pub link_state: String,
    /// `guest` or `store`.
    pub mode: String,
    pub uptime_ms: u64,
    pub guests: Vec<GuestView>,
    pub controllers: Option<ControllersView>,
    pub source: SourceView,
    pub totals: TotalsView,
    #[serde(default)]
    pub offset_sync: Option<OffsetSyncView>,
    pub alarms: Vec<AlarmView>,
    /// Each link by itself, where the daemon has not exactly one. What stands above is then their sum, the worst
    /// state, or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<StatusView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestView {
    pub broker_id: i32,
    pub state: String,
    pub broker_epoch: Option<i64>,
    /// What was left of the session at the last answer; negative once it is over.
    pub heartbeat_slack_ms: Option<i64>,
    pub led_partitions: usize,
    pub age_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControllersView {
    pub active_controller_id: Option<i32>,
    pub controller_epoch: Option<i32>,
    /// How far the metadata log is followed.
    pub metadata_offset: Option<i64>,
    pub error: Option<String>,
    pub age_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceView {
    pub cluster_id: Option<String>,
    pub brokers: usize,
    pub error: Option<String>,
    pub age_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TotalsView {
    pub mirror_topics: usize,
    pub partitions: usize,
    pub failed_partitions: usize,
    pub hand_overs: usize,
    pub lag: Option<i64>,
    #[serde(default)]
    pub lag_ms: Option<i64>,
    pub lag_bytes: Option<i64>,
    pub age_ms: Option<u64>,
    #[serde(flatten)]
    pub marks: LagMarks,
    #[serde(flatten)]
    pub recovery_point: RecoveryPointView,
}

/// One order of an operator, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    pub id: i64,
    pub time_ms: i64,
    pub who: String,
    /// The address that it came from, or `socket`.
    pub peer: String,
    pub method: String,
    pub path: String,
    /// Topics or pattern.
    pub what: String,
    pub validate_only: bool,
    pub status: u16,
    /// Of the refusal, or of the first topic that was refused; empty when all was right.
    pub error_code: String,
}

/// Something that an operator should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AlarmView {
    pub code: String,
    pub message: String,
    pub since_ms: i64,
}
