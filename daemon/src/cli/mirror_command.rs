//! `twinlog mirror create | list | describe | delete` and `twinlog guest leave`.

use super::hand_over_command::{LOOK_INTERVAL, SILENT_LOOKS_MAX};
use super::operator::{Operator, OperatorArgs, OperatorError, operate};
use super::table::{age, figure, lag_bytes, lag_time, span, table, text};
use crate::admin::answer::{
    CutView, GroupsHandOverView, GuestLeaveView, ListView, LossView, Metadata, MirrorActionView,
    MirrorTopicView, PartitionView, ReplicaRepairView, StoredTopicView,
};
use crate::admin::body::MirrorOrder;
use crate::admin::client::{AdminClient, ClientError};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use twinlog_log_segment::files::check_topic_name;

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Topics of the source.
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what would be created, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// Mirror topics.
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Mirror topics to forget; what the destination holds of them stays.
    #[arg(value_name = "TOPIC", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Delete the mirrored data too: what we hold, and the destination's topic while it is led by us. A topic
    /// that was handed over is not ours any more and stays.
    #[arg(long)]
    pub delete_data: bool,
    /// End when the daemon has begun instead of waiting for the end.
    #[arg(long)]
    pub no_wait: bool,
    /// Only say what would be deleted, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Unregister the guest brokers of a link; refused while it has mirror topics.
    Leave(LeaveArgs),
}

#[derive(Debug, Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say which brokers would leave, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
}

/// Where nothing but names will do: a pattern that matches too much cannot be taken back.
pub(super) fn only_names(topics: &[String]) -> Result<(), OperatorError> {
    let wrong = |why: &dyn std::fmt::Display| OperatorError::Topic { why: why.to_string() };
    topics.iter().try_for_each(|topic| check_topic_name(topic).map_err(|error| wrong(&error)))
}

/// The query of an order.
pub(super) fn query(words: &[(&str, bool)]) -> String {
    let said: Vec<String> =
        words.iter().filter(|(_, is_said)| *is_said).map(|(name, _)| format!("{name}=true")).collect();
    if said.is_empty() { String::new() } else { format!("?{}", said.join("&")) }
}

pub fn create(arguments: &CreateArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        only_names(&arguments.topics)?;
        let link = operator.link().await?;
        let path = format!("mirrors{}", query(&[("validate_only", arguments.dry_run)]));
        let order = MirrorOrder { mirror_topic_names: arguments.topics.clone(), ..MirrorOrder::default() };
        let answer: ListView<MirrorActionView> =
            operator.client.post(&Operator::path(&link, &path), &order).await?;
        operator.show(&answer, actions);
        Ok(answer.data.iter().all(MirrorActionView::is_right))
    })
}

pub fn list(arguments: &OperatorArgs) -> ExitCode {
    operate(arguments, async |operator| {
        let path = Operator::path(operator.named_link().unwrap_or("-"), "mirrors");
        let answer: ListView<MirrorTopicView> = operator.client.list(&path).await?;
        let now_ms = twinlog_io::wall_clock_ms();
        operator.show(&answer, |answer| mirrors(&answer.data, now_ms));
        Ok(true)
    })
}

pub fn describe(arguments: &DescribeArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        only_names(&arguments.topics)?;
        let link = operator.link().await?;
        let mut views: Vec<MirrorTopicView> = Vec::new();
        for topic in &arguments.topics {
            views.push(operator.client.get(&Operator::path(&link, &format!("mirrors/{topic}"))).await?);
        }
        let metadata = Metadata { path: Operator::path(&link, "mirrors"), next: None };
        let answer = ListView { kind: "KafkaMirrorDataList".to_owned(), metadata, data: views };
        let now_ms = twinlog_io::wall_clock_ms();
        operator.show(&answer, |answer| answer.data.iter().map(|view| mirror(view, now_ms)).collect());
        Ok(true)
    })
}

pub fn delete(arguments: &DeleteArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        only_names(&arguments.topics)?;
        let link = operator.link().await?;
        let words = [("validate_only", arguments.dry_run), ("delete_data", arguments.delete_data)];
        let mut all: Vec<MirrorActionView> = Vec::new();
        for topic in &arguments.topics {
            let path = Operator::path(&link, &format!("mirrors/{topic}{}", query(&words)));
            match operator.client.delete::<ListView<MirrorActionView>>(&path).await {
                Ok(answer) => all.extend(answer.data),
                // The others are still deleted: they were all asked for.
                Err(ClientError::Refused { code, message }) => all.push(MirrorActionView {
                    mirror_topic_name: topic.clone(),
                    error_message: Some(message),
                    error_code: Some(code.to_string()),
                    ..MirrorActionView::default()
                }),
                Err(error) => return Err(error.into()),
            }
        }
        if !arguments.dry_run && !arguments.no_wait {
            for action in all.iter_mut().filter(|action| action.is_right()) {
                wait_until_forgotten(&operator.client, &link, action).await?;
            }
        }
        let metadata = Metadata { path: Operator::path(&link, "mirrors"), next: None };
        let kind = "KafkaAlterMirrorStatusResponseDataList".to_owned();
        let answer = ListView { kind, metadata, data: all };
        operator.show(&answer, actions);
        Ok(answer.data.iter().all(MirrorActionView::is_right))
    })
}

/// Looks until the daemon knows the topic no more. It goes on by itself: ending this program stops nothing.
async fn wait_until_forgotten(
    client: &AdminClient,
    link: &str,
    action: &mut MirrorActionView,
) -> Result<(), OperatorError> {
    let path = Operator::path(link, &format!("mirrors/{}", action.mirror_topic_name));
    let mut told = None;
    let mut silent_looks = 0;
    loop {
        match client.get::<MirrorTopicView>(&path).await {
            Err(ClientError::Refused { code, .. }) if code / 100 == 404 => return Ok(()),
            Ok(MirrorTopicView { deletion: None, .. }) => {
                let why = "the daemon knows of no deletion of it any more, and it is a mirror topic";
                action.error_message = Some(why.to_owned());
                action.error_code = Some("DELETION_UNKNOWN".to_owned());
                return Ok(());
            }
            Ok(MirrorTopicView { deletion: Some(deletion), .. }) => {
                silent_looks = 0;
                if deletion.error.is_some() && deletion.error != told {
                    let why = deletion.error.as_deref().unwrap_or_default();
                    eprintln!("{}: {}: {why}", action.mirror_topic_name, deletion.step);
                    told = deletion.error;
                }
            }
            // A daemon that restarts takes its deletions up again.
            Err(error) => {
                silent_looks += 1;
                if silent_looks > SILENT_LOOKS_MAX {
                    return Err(error.into());
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

pub fn leave(arguments: &LeaveArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let link = operator.link().await?;
        let path = format!("guest:leave{}", query(&[("validate_only", arguments.dry_run)]));
        let nothing = MirrorOrder::default();
        let answer: GuestLeaveView = operator.client.post(&Operator::path(&link, &path), &nothing).await?;
        operator.show(&answer, |answer| {
            let ids: Vec<String> = answer.broker_ids.iter().map(ToString::to_string).collect();
            format!("link {}, brokers {}: {}\n", answer.link_name, ids.join(", "), answer.message)
        });
        Ok(true)
    })
}

/// What orders did, as users of Cluster Linking know it, and what is to be said beside it.
pub(super) fn actions(answer: &ListView<MirrorActionView>) -> String {
    let mut rows = Vec::new();
    for action in &answer.data {
        let of_topic = || (text(action.error_message.as_ref()), text(action.error_code.as_ref()));
        if action.mirror_lags.is_empty() {
            let (message, code) = of_topic();
            rows.push([action.mirror_topic_name.clone(), String::new(), String::new(), message, code]);
        }
        for each in &action.mirror_lags {
            let (message, code) = match (&each.error_message, &each.error_code) {
                (None, None) => of_topic(),
                (message, code) => (text(message.as_ref()), text(code.as_ref())),
            };
            let (partition, lag) = (each.partition_id.to_string(), figure(each.lag));
            rows.push([action.mirror_topic_name.clone(), partition, lag, message, code]);
        }
    }
    let header = ["MirrorTopicName", "Partition", "PartitionMirrorLag", "ErrorMessage", "ErrorCode"];
    let mut written = table(header, &rows);
    let mut notes: Vec<String> = Vec::new();
    for action in &answer.data {
        notes.extend(
            action.consumer_group_offsets.iter().map(|note| format!("consumer group offsets: {note}")),
        );
        notes.extend(
            action.left_out_broker_ids.iter().map(|id| format!("left out of the target: broker {id}")),
        );
        let topic = &action.mirror_topic_name;
        notes.extend(action.note.iter().map(|note| format!("{topic}: {note}")));
        notes.extend(
            action.losses.iter().map(|each| format!("{topic}-{}: {}", each.partition_id, loss(each))),
        );
        notes.extend(action.consumer_groups.iter().flat_map(|view| group_notes(topic, view)));
        notes.extend(action.cuts.iter().map(|each| format!("{topic}-{}: {}", each.partition_id, cut(each))));
        notes.extend(action.stored.iter().flat_map(|view| stored_notes(topic, view)));
    }
    notes.sort();
    notes.dedup();
    notes.iter().for_each(|note| written.push_str(&format!("{note}\n")));
    written
}

/// What its groups were left with.
fn group_notes(topic: &str, view: &GroupsHandOverView) -> Vec<String> {
    let mut notes =
        vec![format!("{topic}: positions of {} groups were written for the last time", view.groups)];
    notes.extend(view.error.iter().map(|why| format!("{topic}: positions may not be final: {why}")));
    notes.extend(view.clamped.iter().map(|each| {
        let there =
            each.destination_offset.map_or_else(|| "no offset".to_owned(), |at| format!("offset {at}"));
        let (group, index) = (&each.group_id, each.partition_id);
        let by = each.clamped_by.map_or_else(String::new, |by| format!(", clamped by {by}"));
        let wanted = figure(each.source_offset);
        format!("{topic}-{index}: group {group} is left at {there} of {wanted}{by} ({})", each.state)
    }));
    if view.not_named > 0 {
        notes.push(format!("{topic}: and {} positions more", view.not_named));
    }
    notes
}

/// What a failover could not bring along. Nobody can say that nothing is lost.
fn loss(each: &LossView) -> String {
    let (Some(records), Some(age_ms)) = (each.lost_at_least_records, each.source_heard_age_ms) else {
        return "how much is lost is unknown: the source said nothing of it to this daemon".to_owned();
    };
    let bytes = each.lost_estimated_bytes.map_or_else(String::new, |bytes| format!(" (about {bytes} bytes)"));
    format!("at least {records} records lost{bytes}; the source was last heard {age_ms} ms before")
}

fn cut(each: &CutView) -> String {
    let bytes = each.bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
    format!("cut from offset {} to {}{bytes}; what went is in cuts/", each.from, each.to)
}

/// What is ready to be adopted, and what was proven of it.
fn stored_notes(topic: &str, view: &StoredTopicView) -> Vec<String> {
    let count = view.partitions.len();
    let mut notes = vec![format!(
        "{topic}: ready to adopt: {}, {count} partitions; see the README, Cut-over with a store",
        view.directory
    )];
    if let Some(proven) = view.proven_ms {
        let first = view.captured_ms.map_or_else(|| "before a restart".to_owned(), |at| format!("at {at}"));
        notes.push(format!(
            "{topic}: the source told these ends {first} and, with everything flushed, at {proven} (ms since 1970)"
        ));
    }
    notes.extend(view.partitions.iter().map(|each| {
        let captured = each.captured_end.map_or_else(String::new, |end| format!("captured at {end}, "));
        format!(
            "{topic}-{}: {captured}flushed to {}, offsets {} to {}, stable to {}, leader epoch {}",
            each.partition_id,
            each.flushed_end,
            each.log_start,
            each.log_end,
            each.last_stable_offset,
            each.leader_epoch
        )
    }));
    for each in view.partitions.iter().filter(|each| !each.open_transactions.is_empty()) {
        let named = each.open_transactions.iter();
        let named: Vec<String> =
            named.map(|open| format!("producer {} from {}", open.producer_id, open.first_offset)).collect();
        notes.push(format!(
            "{topic}-{}: transactions stay open: {} and {} more; adopt its .log files alone, for a broker with indexes \
             takes none for open; then end each: kafka-transactions.sh abort --topic {topic} --partition {0} \
             --start-offset OFFSET",
            each.partition_id,
            named.join(", "),
            each.open_not_named
        ));
    }
    notes
}

fn since(time_ms: i64, now_ms: i64) -> String {
    span(u64::try_from(now_ms.saturating_sub(time_ms)).unwrap_or(0))
}

fn mirrors(views: &[MirrorTopicView], now_ms: i64) -> String {
    let rows: Vec<[String; 10]> = views
        .iter()
        .map(|view| {
            [
                view.link_name.clone(),
                view.mirror_topic_name.clone(),
                view.source_topic_name.clone(),
                view.state.clone(),
                since(view.state_time_ms, now_ms),
                view.partitions.len().to_string(),
                figure(view.lag),
                lag_time(view.lag_ms, view.marks.lag_ms_at_least),
                lag_bytes(view.lag_bytes, view.marks.lag_bytes_estimated),
                [view.code.as_str(), &view.reason].join(" ").trim().to_owned(),
            ]
        })
        .collect();
    table(
        [
            "Link",
            "MirrorTopicName",
            "SourceTopicName",
            "State",
            "For",
            "Partitions",
            "Lag",
            "LagTime",
            "LagBytes",
            "Reason",
        ],
        &rows,
    )
}

fn mirror(view: &MirrorTopicView, now_ms: i64) -> String {
    let mut written = format!(
        "{} of link {}: {} for {}, replication factor {}, {}\n",
        view.mirror_topic_name,
        view.link_name,
        view.state,
        since(view.state_time_ms, now_ms),
        figure(view.replication_factor),
        view.exactness
    );
    if !view.code.is_empty() || !view.reason.is_empty() {
        written.push_str(&format!("  {} {}\n", view.code, view.reason));
    }
    if let Some(hand_over) = &view.hand_over {
        let error = hand_over.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let time = since(hand_over.since_ms, now_ms);
        written.push_str(&format!("  {} at {} for {time}{error}\n", hand_over.kind, hand_over.step));
        let losses = hand_over.losses.iter().map(|each| (each.partition_id, loss(each)));
        let cuts = hand_over.cuts.iter().map(|each| (each.partition_id, cut(each)));
        for (partition, words) in losses.chain(cuts) {
            written.push_str(&format!("  partition {partition}: {words}\n"));
        }
        for note in hand_over.stored.iter().flat_map(|stored| stored_notes(&view.mirror_topic_name, stored)) {
            written.push_str(&format!("  {note}\n"));
        }
    }
    if let Some(deletion) = &view.deletion {
        let error = deletion.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let time = since(deletion.since_ms, now_ms);
        written.push_str(&format!("  deletion at {} for {time}{error}\n", deletion.step));
    }
    for repair in &view.replica_repairs {
        let ReplicaRepairView { partition_id, wanted_broker_ids, waits_for, .. } = repair;
        let words = format!("  partition {partition_id} is to have replicas {wanted_broker_ids:?} again");
        written.push_str(&format!("{words}, waits for {waits_for}\n"));
    }
    let rows: Vec<_> = view.partitions.iter().map(partition).collect();
    let header = [
        "Partition",
        "State",
        "Lag",
        "LagTime",
        "LagBytes",
        "HighWatermarkLag",
        "OpenTransaction",
        "Observed",
        "LogStart",
        "LogEnd",
        "HighWatermark",
        "LeaderEpoch",
        "Guest",
        "Followers",
        "Reason",
    ];
    written + &table(header, &rows)
}

fn partition(each: &PartitionView) -> [String; 15] {
    let followers = each.followers.iter().map(|follower| {
        let late = if follower.in_sync { "" } else { " behind" };
        format!("{}: {}{late} {}", follower.broker_id, figure(follower.end), age(follower.age_ms))
    });
    [
        each.partition_id.to_string(),
        each.state.clone(),
        figure(each.lag),
        lag_time(each.lag_ms, each.marks.lag_ms_at_least),
        lag_bytes(each.lag_bytes, each.marks.lag_bytes_estimated),
        figure(each.marks.high_watermark_lag),
        lag_time(each.marks.oldest_open_transaction_ms, false),
        age(each.marks.lag_age_ms),
        figure(each.log_start),
        figure(each.log_end),
        figure(each.high_watermark),
        figure(each.leader_epoch),
        figure(each.guest_broker_id),
        followers.collect::<Vec<_>>().join(", "),
        [each.code.as_str(), &each.reason].join(" ").trim().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::answer::{
        FollowerView, HandOverView, OpenTransactionView, PartitionActionView, StoredPartitionView,
    };

    #[test]
    fn an_order_is_told_partition_by_partition_and_its_notes_once() {
        let right = |topic: &str| MirrorActionView {
            mirror_topic_name: topic.into(),
            mirror_lags: vec![PartitionActionView { lag: Some(0), ..PartitionActionView::default() }],
            consumer_group_offsets: Some("not configured".into()),
            ..MirrorActionView::default()
        };
        let wrong = MirrorActionView {
            mirror_topic_name: "bills".into(),
            error_message: Some("is not there".into()),
            error_code: Some("NO_SUCH_MIRROR_TOPIC".into()),
            left_out_broker_ids: vec![3],
            ..MirrorActionView::default()
        };
        assert!(right("a").is_right() && !wrong.is_right());
        let metadata = Metadata { path: String::new(), next: None };
        let answer = ListView { kind: String::new(), metadata, data: vec![right("a"), right("b"), wrong] };
        let expected = "\
MirrorTopicName | Partition | PartitionMirrorLag | ErrorMessage | ErrorCode
----------------+-----------+--------------------+--------------+---------------------
a               | 0         | 0                  |              |
b               | 0         | 0                  |              |
bills           |           |                    | is not there | NO_SUCH_MIRROR_TOPIC
consumer group offsets: not configured
left out of the target: broker 3
";
        assert_eq!(actions(&answer), expected);
    }

    #[test]
    fn what_is_ready_to_be_adopted_is_told_with_its_proof_and_what_stays_open() {
        let open = OpenTransactionView { producer_id: 7, first_offset: 30 };
        let partition = StoredPartitionView {
            partition_id: 1,
            captured_end: Some(40),
            flushed_end: 40,
            log_end: 40,
            last_stable_offset: 30,
            open_transactions: vec![open],
            ..StoredPartitionView::default()
        };
        let view = StoredTopicView {
            directory: "/data/dr".into(),
            captured_ms: Some(5),
            proven_ms: Some(9),
            partitions: vec![partition],
        };
        let notes = stored_notes("orders", &view).join("\n");
        for words in [
            "orders: ready to adopt: /data/dr, 1 partitions",
            "told these ends at 5 and, with everything flushed, at 9",
            "orders-1: captured at 40, flushed to 40, offsets 0 to 40, stable to 30, leader epoch 0",
            "producer 7 from 30 and 0 more",
            "--topic orders --partition 1 --start-offset OFFSET",
        ] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
    }

    #[test]
    fn a_figure_that_nobody_observed_is_not_a_zero() {
        let partition = PartitionView {
            followers: vec![FollowerView { broker_id: 1, ..Default::default() }],
            ..Default::default()
        };
        let view = MirrorTopicView {
            mirror_topic_name: "orders".into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let written = mirror(&view, 10);
        assert!(written.contains("1: unknown behind never observed"), "{written}");
        assert!(mirrors(&[view], 10).contains("| unknown |"));
    }

    #[test]
    fn a_loss_is_never_told_as_nothing() {
        let unknown = loss(&LossView::default());
        assert!(unknown.contains("unknown"), "{unknown}");
        let heard = LossView {
            lost_at_least_records: Some(0),
            source_heard_age_ms: Some(4_000),
            ..LossView::default()
        };
        assert_eq!(loss(&heard), "at least 0 records lost; the source was last heard 4000 ms before");
        let cuts = vec![CutView { partition_id: 1, from: 10, to: 14, bytes: Some(300) }];
        let hand_over = HandOverView { kind: "failover".into(), cuts, ..HandOverView::default() };
        let view = MirrorTopicView { hand_over: Some(hand_over), ..MirrorTopicView::default() };
        let written = mirror(&view, 10);
        assert!(written.contains("  partition 1: cut from offset 10 to 14, 300 bytes"), "{written}");
    }

    #[test]
    fn only_what_was_said_is_in_the_query() {
        assert_eq!(query(&[("validate_only", false)]), "");
        assert_eq!(
            query(&[("validate_only", true), ("delete_data", true)]),
            "?validate_only=true&delete_data=true"
        );
        assert!(only_names(&["orders".into(), "a.*".into()]).is_err());
    }
}
