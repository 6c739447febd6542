//! `twinlog mirror promote` and `twinlog mirror failover`: asked for, then waited for.
//!
//! The daemon keeps a hand-over before it answers and goes on by itself: ending this program stops
//! nothing. Waiting looks at one topic after the other, so that a thousand cost a thousand small answers
//! and not a thousand lists.

use super::mirror_command::{actions, query};
use super::operator::{Operator, OperatorArgs, OperatorError, operate};
use crate::admin::OpenTransactions;
use crate::admin::answer::{HandOverView, ListView, MirrorActionView, MirrorTopicView, PartitionActionView};
use crate::admin::body::MirrorOrder;
use crate::admin::client::{AdminClient, ClientError};
use crate::config::TopicPattern;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use twinlog_log_segment::files::check_topic_name;
use twinlog_sync::lifecycle::HandOverStep;

/// Between two looks at a hand-over that is not over; its steps take some 100 ms each.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Looks without an answer before this program gives up: a daemon that restarts is back within a minute.
pub(super) const SILENT_LOOKS_MAX: u32 = 300;
/// Between two lines where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What both take.
#[derive(Debug, Args)]
pub struct HandOverArgs {
    /// Mirror topics; anything but a legal name is a regular expression over whole names.
    #[arg(value_name = "TOPIC_OR_REGEX", required = true)]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Only say what lag there is, and what forbids it.
    #[arg(long)]
    pub dry_run: bool,
    /// End when the daemon has begun instead of waiting for the end.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub hand_over: HandOverArgs,
    /// Go on though the source is still written to; what comes late is reported and not mirrored.
    #[arg(long)]
    pub allow_moving_source: bool,
    /// Go on though a producer of the destination has the id of a mirrored one: it meets with errors then.
    #[arg(long)]
    pub allow_producer_overlap: bool,
}

#[derive(Debug, Args)]
pub struct FailoverArgs {
    #[command(flatten)]
    pub hand_over: HandOverArgs,
    /// What becomes of transactions that are open where the copy ends.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub open_transactions: OpenTransactions,
}

pub fn promote(arguments: &PromoteArgs) -> ExitCode {
    let allow_moving_source = arguments.allow_moving_source.then_some(true);
    let allow_producer_overlap = arguments.allow_producer_overlap.then_some(true);
    hand_over("promote", &arguments.hand_over, |order| MirrorOrder {
        allow_moving_source,
        allow_producer_overlap,
        ..order
    })
}

pub fn failover(arguments: &FailoverArgs) -> ExitCode {
    let open_transactions = Some(arguments.open_transactions);
    hand_over("failover", &arguments.hand_over, |order| MirrorOrder { open_transactions, ..order })
}

fn hand_over(
    verb: &str,
    arguments: &HandOverArgs,
    options: impl FnOnce(MirrorOrder) -> MirrorOrder,
) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let order = options(order_of(&arguments.topics)?);
        let link = operator.link().await?;
        let path = format!("mirrors:{verb}{}", query(&[("validate_only", arguments.dry_run)]));
        let mut answer: ListView<MirrorActionView> =
            operator.client.post(&Operator::path(&link, &path), &order).await?;
        if !arguments.dry_run && !arguments.no_wait {
            wait(&operator.client, &link, &mut answer.data).await?;
        }
        operator.show(&answer, actions);
        if answer.data.is_empty() {
            eprintln!("twinlog: no mirror topic of link {link} matches");
        }
        Ok(!answer.data.is_empty() && answer.data.iter().all(MirrorActionView::is_right))
    })
}

/// Legal names are literal; as soon as one is not, all of them become one pattern.
pub(super) fn order_of(topics: &[String]) -> Result<MirrorOrder, OperatorError> {
    if topics.iter().all(|topic| check_topic_name(topic).is_ok()) {
        return Ok(MirrorOrder { mirror_topic_names: topics.to_vec(), ..MirrorOrder::default() });
    }
    let mut parts = Vec::new();
    for topic in topics {
        let parsed = TopicPattern::parse(topic);
        let parsed = parsed.map_err(|error| OperatorError::Topic { why: error.to_string() })?;
        parts.push(match parsed {
            TopicPattern::Literal(name) => regex::escape(&name),
            TopicPattern::Regex(_) => format!("(?:{topic})"),
        });
    }
    Ok(MirrorOrder { mirror_topic_name_pattern: Some(parts.join("|")), ..MirrorOrder::default() })
}

/// Waits until each hand-over that began is over, and puts its end into the answer.
async fn wait(client: &AdminClient, link: &str, all: &mut [MirrorActionView]) -> Result<(), OperatorError> {
    let mut progress = Progress::new(all.len());
    for action in all {
        if action.is_right() {
            wait_for(client, link, action, &mut progress).await?;
        }
        progress.one_is_over();
    }
    progress.end();
    Ok(())
}

async fn wait_for(
    client: &AdminClient,
    link: &str,
    action: &mut MirrorActionView,
    progress: &mut Progress,
) -> Result<(), OperatorError> {
    let path = Operator::path(link, &format!("mirrors/{}", action.mirror_topic_name));
    let mut silent_looks = 0;
    loop {
        match client.get::<MirrorTopicView>(&path).await {
            Ok(view) => {
                silent_looks = 0;
                let step = view
                    .hand_over
                    .as_ref()
                    .map(|hand_over| (HandOverStep::parse(&hand_over.step), hand_over));
                match step {
                    Some((Some(step), hand_over)) if !step.is_over() => {
                        progress.show(&action.mirror_topic_name, hand_over);
                    }
                    _ => {
                        conclude(action, &view);
                        return Ok(());
                    }
                }
            }
            Err(ClientError::Refused { code, message }) if code / 100 == 404 => {
                (action.error_message, action.error_code) = (Some(message), Some(code.to_string()));
                return Ok(());
            }
            // A daemon that restarts takes its hand-overs up again.
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

/// What became of it, in the words of the answer.
fn conclude(action: &mut MirrorActionView, view: &MirrorTopicView) {
    let lags = view.partitions.iter().map(|each| {
        let failed = (each.state == "FAILED").then(|| (each.reason.clone(), each.code.clone())).unzip();
        PartitionActionView {
            partition_id: each.partition_id,
            lag: each.lag,
            last_source_fetch_offset: each.last_source_fetch_offset,
            error_message: failed.0,
            error_code: failed.1,
        }
    });
    if !view.partitions.is_empty() {
        action.mirror_lags = lags.collect();
    }
    if let Some(hand_over) = view.hand_over.as_ref().filter(|each| each.step == HandOverStep::Done.name()) {
        action.losses.clone_from(&hand_over.losses);
        action.cuts.clone_from(&hand_over.cuts);
        action.consumer_groups.clone_from(&hand_over.consumer_groups);
        action.left_out_broker_ids.clone_from(&hand_over.left_out_broker_ids);
        action.stored.clone_from(&hand_over.stored);
        action.note = None;
    }
    let (message, code) = match &view.hand_over {
        Some(HandOverView { step, .. }) if step == HandOverStep::Done.name() => return,
        Some(HandOverView { step, kind, error, .. }) if step == HandOverStep::Abandoned.name() => {
            let why = error.as_deref().unwrap_or(&view.reason);
            (format!("{kind} was taken back, the mirror goes on: {why}"), "HAND_OVER_ABANDONED")
        }
        Some(HandOverView { step, .. }) => {
            (format!("the daemon tells a step that this program does not know: {step}"), "HAND_OVER_UNKNOWN")
        }
        None => ("the daemon knows of no hand-over any more".to_owned(), "HAND_OVER_UNKNOWN"),
    };
    (action.error_message, action.error_code) = (Some(message), Some(code.to_owned()));
}

/// A bar on a terminal, a line at intervals elsewhere; both to standard error.
struct Progress {
    bar: ProgressBar,
    over: usize,
    all: usize,
    last_line: Instant,
}

impl Progress {
    fn new(all: usize) -> Self {
        let bar = ProgressBar::new(all as u64);
        let style = ProgressStyle::with_template("{pos}/{len} topics {wide_bar} {msg}");
        bar.set_style(style.expect("the template is right"));
        Self { bar, over: 0, all, last_line: Instant::now() }
    }

    fn show(&mut self, topic: &str, hand_over: &HandOverView) {
        let error = hand_over.error.as_ref().map_or_else(String::new, |error| format!(", waits: {error}"));
        let words = format!("{topic}: {}{error}", hand_over.step);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            eprintln!("{} of {} topics are over; {words}", self.over, self.all);
        }
        self.bar.set_message(words);
    }

    fn one_is_over(&mut self) {
        self.over += 1;
        self.bar.inc(1);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::test_backend::{TestDaemon, run};

    fn began(topic: &str) -> MirrorActionView {
        MirrorActionView { mirror_topic_name: topic.to_owned(), ..MirrorActionView::default() }
    }

    #[test]
    fn names_stay_names_until_one_is_a_pattern() {
        let order =
            |topics: &[&str]| order_of(&topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>());
        assert_eq!(order(&["a.b", "c"]).unwrap().mirror_topic_names, ["a.b", "c"]);
        let mixed = order(&["a.b", "x|y.*"]).unwrap();
        assert_eq!(mixed.mirror_topic_name_pattern.as_deref(), Some(r"a\.b|(?:x|y.*)"));
        let selection = mixed.selection().unwrap();
        let meant: Vec<&str> =
            ["a.b", "aXb", "x", "yz", "xz"].into_iter().filter(|topic| selection.means(topic)).collect();
        assert_eq!(meant, ["a.b", "x", "yz"]);
        assert!(order(&["("]).is_err());
    }

    #[test]
    fn waiting_ends_with_each_hand_over_and_tells_what_became_of_it() {
        let daemon = TestDaemon::start();
        let client = AdminClient::new(daemon.directory.path());
        let order = order_of(&["orders".into(), "bills".into()]).unwrap();
        let path = Operator::path("dr", "mirrors:promote");
        let mut answer: ListView<MirrorActionView> = run(client.post(&path, &order)).unwrap();
        assert!(answer.data.iter().all(MirrorActionView::is_right));
        run(wait(&client, "dr", &mut answer.data)).unwrap();
        let [bills, orders] = answer.data.as_slice() else { panic!("{answer:?}") };
        assert!(orders.is_right() && orders.mirror_lags[0].last_source_fetch_offset == Some(1000));
        assert_eq!(bills.error_code.as_deref(), Some("HAND_OVER_ABANDONED"));
        assert!(bills.error_message.as_ref().unwrap().ends_with("broker 3 is 12 records behind"));
    }

    #[test]
    fn a_topic_that_vanished_or_was_never_handed_over_is_told() {
        let daemon = TestDaemon::start();
        let client = AdminClient::new(daemon.directory.path());
        let mut gone = [began("nothing"), began("orders")];
        run(wait(&client, "dr", &mut gone)).unwrap();
        assert_eq!(gone[0].error_code.as_deref(), Some("40403"));
        assert_eq!(gone[1].error_code.as_deref(), Some("HAND_OVER_UNKNOWN"));
    }
}
