//! From the operators' queue to the link that a request is about; lists are joined over all links.
//!
//! Each link has a queue of its own: one that does not answer holds nobody else back. Orders about links themselves
//! are carried out beside this file.

use super::serving::{Daemon, Slot};
use crate::admin::answer::{
    AlarmView, ClusterView, LagMarks, LinkView, RecoveryPointView, StatusView, TotalsView,
};
use crate::admin::metrics::Samples;
use crate::admin::{AdminError, AdminRequest, ErrorCode, LinkAddress, Reply};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a list waits for one link. A link answers within milliseconds; it is slow while its state is read.
const LINK_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An answer that one link will give.
type Awaited<T> = oneshot::Receiver<Result<T, AdminError>>;

fn tell<T>(reply: Reply<T>, answer: Result<T, AdminError>) {
    // Nobody waits any more.
    let _ = reply.send(answer);
}

/// Which link a request is about, and whether it may change something.
fn address(request: &AdminRequest) -> Option<(&LinkAddress, bool)> {
    use AdminRequest as R;
    match request {
        R::DescribeLink { at, .. }
        | R::DescribeMirror { at, .. }
        | R::ListGroups { at, .. }
        | R::DescribeGroup { at, .. }
        | R::LinkConfigs { at, .. } => Some((at, false)),
        R::CreateMirrors { at, .. }
        | R::Promote { at, .. }
        | R::Failover { at, .. }
        | R::PauseMirrors { at, .. }
        | R::ResumeMirrors { at, .. }
        | R::PauseLink { at, .. }
        | R::DeleteMirrors { at, .. }
        | R::AlterLink { at, .. }
        | R::DeleteLink { at, .. }
        | R::GuestLeave { at, .. } => Some((at, true)),
        R::ListClusters { .. }
        | R::ListLinks { .. }
        | R::ListMirrors { .. }
        | R::Status { .. }
        | R::Metrics { .. }
        | R::CreateLink { .. } => None,
    }
}

fn refuse(request: AdminRequest, error: AdminError) {
    use AdminRequest as R;
    match request {
        R::ListClusters { reply } => tell(reply, Err(error)),
        R::ListLinks { reply, .. } => tell(reply, Err(error)),
        R::DescribeLink { reply, .. } | R::PauseLink { reply, .. } => tell(reply, Err(error)),
        R::ListMirrors { reply, .. } => tell(reply, Err(error)),
        R::DescribeMirror { reply, .. } => tell(reply, Err(error)),
        R::ListGroups { reply, .. } => tell(reply, Err(error)),
        R::DescribeGroup { reply, .. } => tell(reply, Err(error)),
        R::CreateMirrors { reply, .. }
        | R::Promote { reply, .. }
        | R::Failover { reply, .. }
        | R::PauseMirrors { reply, .. }
        | R::ResumeMirrors { reply, .. }
        | R::DeleteMirrors { reply, .. } => tell(reply, Err(error)),
        R::GuestLeave { reply, .. } => tell(reply, Err(error)),
        R::Status { reply } => tell(reply, Err(error)),
        R::Metrics { reply } => tell(reply, Err(error)),
        R::CreateLink { reply, .. } | R::AlterLink { reply, .. } | R::DeleteLink { reply, .. } => {
            tell(reply, Err(error));
        }
        R::LinkConfigs { reply, .. } => tell(reply, Err(error)),
    }
}

impl Slot {
    fn failed_view(&self) -> LinkView {
        LinkView {
            link_name: self.settings.link.name.clone(),
            link_state: "FAILED".to_owned(),
            link_error: self.failure.clone(),
            mode: self.mode().to_owned(),
            ..LinkView::default()
        }
    }

    fn failed_status(&self) -> StatusView {
        let message = self.failure.clone().unwrap_or_default();
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            link_name: self.settings.link.name.clone(),
            link_state: "FAILED".to_owned(),
            mode: self.mode().to_owned(),
            alarms: vec![AlarmView { code: "NOT_STARTED".to_owned(), message, since_ms: 0 }],
            ..StatusView::default()
        }
    }

    fn mode(&self) -> &'static str {
        if self.settings.link.guest.is_some() { "guest" } else { "store" }
    }

    /// Hands a request on; a full queue is told at once.
    fn hand_on(&self, request: AdminRequest) {
        let Some(running) = &self.running else {
            let why = format!(
                "link {} is not started: {}",
                self.settings.link.name,
                self.failure.as_deref().unwrap_or("no reason is known")
            );
            return match request {
                AdminRequest::DescribeLink { reply, .. } => tell(reply, Ok(self.failed_view())),
                request => refuse(request, AdminError::new(ErrorCode::Refused, &why)),
            };
        };
        match running.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request) | TrySendError::Closed(request)) => {
                let why = "the link is busy with earlier requests; try again";
                refuse(request, AdminError::new(ErrorCode::Busy, &why));
            }
        }
    }
}

impl Daemon {
    /// Every request of operators comes through here.
    pub(super) async fn dispatch(&mut self, request: AdminRequest) {
        use AdminRequest as R;
        if let Some((at, is_order)) = address(&request)
            && let Err(error) = self.find(at, is_order && !changes_link(&request))
        {
            return refuse(request, error);
        }
        match request {
            R::ListClusters { reply } => {
                let asked = self.ask_all(|_| None, |reply| R::ListClusters { reply });
                tokio::spawn(async move {
                    let joined = joined(asked).await.map(|mut clusters: Vec<ClusterView>| {
                        clusters.sort_by(|one, other| one.cluster_id.cmp(&other.cluster_id));
                        clusters.dedup();
                        clusters
                    });
                    tell(reply, joined);
                });
            }
            R::ListLinks { cluster, reply } => {
                let failed = |slot: &Slot| Some(vec![slot.failed_view()]);
                let asked = self.ask_all(failed, |reply| R::ListLinks { cluster: cluster.clone(), reply });
                tokio::spawn(async move { tell(reply, joined(asked).await) });
            }
            R::ListMirrors { cluster, link: None, reply } => {
                let list = |reply| R::ListMirrors { cluster: cluster.clone(), link: None, reply };
                let asked = self.ask_all(|_| None, list);
                tokio::spawn(async move { tell(reply, joined(asked).await) });
            }
            R::ListMirrors { cluster, link: Some(link), reply } => {
                let at = LinkAddress { cluster: cluster.clone(), link: link.clone() };
                let request = R::ListMirrors { cluster, link: Some(link), reply };
                match self.find(&at, false) {
                    Ok(slot) => slot.hand_on(request),
                    Err(error) => refuse(request, error),
                }
            }
            R::Status { reply } => {
                let asked = self.ask_all(|slot| Some(slot.failed_status()), |reply| R::Status { reply });
                tokio::spawn(async move { tell(reply, joined_status(asked).await) });
            }
            R::Metrics { reply } => {
                let asked = self.ask_all(|_| Some(Samples::default()), |reply| R::Metrics { reply });
                tokio::spawn(async move { tell(reply, joined_samples(asked).await) });
            }
            R::CreateLink { cluster, link, changes, validate_only: true, reply } => {
                self.try_create_link(cluster, link, &changes, reply);
            }
            R::CreateLink { cluster, link, changes, validate_only: false, reply } => {
                tell(reply, self.create_link(cluster, link, changes).await);
            }
            R::AlterLink { at, changes, validate_only, reply } => {
                tell(reply, self.alter_link(&at.link, changes, validate_only).await);
            }
            R::DeleteLink { at, force, validate_only, reply } => {
                tell(reply, self.delete_link(&at.link, force, validate_only).await);
            }
            R::LinkConfigs { at, reply } => tell(reply, self.link_configs(&at.link).await),
            request => {
                let (at, is_order) = address(&request).expect("the others are answered above");
                match self.find(at, is_order) {
                    Ok(slot) => slot.hand_on(request),
                    Err(error) => refuse(request, error),
                }
            }
        }
    }

    /// The link of an address. A link that has halted takes no orders: nobody would carry them out.
    fn find(&self, at: &LinkAddress, is_order: bool) -> Result<&Slot, AdminError> {
        let Some(slot) = self.slots.get(&at.link) else {
            let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
            let why = match names.is_empty() {
                true => format!("there is no link {}; this daemon has none", at.link),
                false => format!("there is no link {}; this daemon runs {}", at.link, names.join(", ")),
            };
            return Err(AdminError::new(ErrorCode::NoSuchLink, &why));
        };
        let halted = slot.running.as_ref().and_then(|running| running.supervisor.halted());
        match halted.filter(|_| is_order) {
            Some(reason) => {
                let why = format!(
                    "link {} has halted: {reason}; cure that and restart the daemon, or alter the link, which starts \
                     it again",
                    at.link
                );
                Err(AdminError::new(ErrorCode::Refused, &why))
            }
            None => Ok(slot),
        }
    }

    /// Asks every link at once. `instead` answers for one that is not started.
    fn ask_all<T>(
        &self,
        instead: impl Fn(&Slot) -> Option<T>,
        request: impl Fn(Reply<T>) -> AdminRequest,
    ) -> Vec<Awaited<T>> {
        let mut awaited = Vec::new();
        for slot in self.slots.values() {
            let (reply, answered) = oneshot::channel();
            match (&slot.running, instead(slot)) {
                (Some(_), _) => slot.hand_on(request(reply)),
                (None, Some(answer)) => tell(reply, Ok(answer)),
                (None, None) => continue,
            }
            awaited.push(answered);
        }
        awaited
    }
}

fn changes_link(request: &AdminRequest) -> bool {
    matches!(request, AdminRequest::AlterLink { .. } | AdminRequest::DeleteLink { .. })
}

async fn answer_of<T>(awaited: Awaited<T>) -> Result<T, AdminError> {
    match timeout(LINK_ANSWER_LIMIT, awaited).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => {
            let why = "a link is being started again, or the daemon is ending; try again";
            Err(AdminError::new(ErrorCode::Busy, &why))
        }
        Err(_) => {
            let why = format!("a link gave no answer within {LINK_ANSWER_LIMIT:?}; ask the others by name");
            Err(AdminError::new(ErrorCode::SlowAnswer, &why))
        }
    }
}

/// One list of all. A link to another cluster than the one that was named has nothing to tell; when that is so of
/// all of them, nobody knows the cluster.
async fn joined<T>(awaited: Vec<Awaited<Vec<T>>>) -> Result<Vec<T>, AdminError> {
    let (mut all, mut answered, mut elsewhere) = (Vec::new(), awaited.is_empty(), None);
    for each in awaited {
        match answer_of(each).await {
            Ok(list) => {
                answered = true;
                all.extend(list);
            }
            Err(error) if error.code == ErrorCode::NoSuchCluster => elsewhere = Some(error),
            Err(error) => return Err(error),
        }
    }
    match elsewhere {
        Some(error) if !answered => Err(error),
        _ => Ok(all),
    }
}

/// The later ones are worse.
const STATES: [&str; 5] = ["", "ACTIVE", "PAUSED", "UNAVAILABLE", "FAILED"];

fn sum(figures: impl Iterator<Item = Option<i64>>) -> Option<i64> {
    figures.sum()
}

/// Unknown as soon as one of them is.
fn worst_of(figures: impl Iterator<Item = Option<i64>>) -> Option<i64> {
    figures.collect::<Option<Vec<i64>>>()?.into_iter().max()
}

async fn joined_samples(awaited: Vec<Awaited<Samples>>) -> Result<Samples, AdminError> {
    let mut all = Samples::default();
    for each in awaited {
        all.join(answer_of(each).await?);
    }
    Ok(all)
}

async fn joined_status(awaited: Vec<Awaited<StatusView>>) -> Result<StatusView, AdminError> {
    let mut links = Vec::new();
    for each in awaited {
        links.push(answer_of(each).await?);
    }
    if links.len() == 1 {
        return Ok(links.remove(0));
    }
    let rank = |status: &StatusView| STATES.iter().position(|state| *state == status.link_state);
    let worst = links.iter().max_by_key(|status| rank(status)).map(|status| status.link_state.clone());
    let count = |of: fn(&TotalsView) -> usize| links.iter().map(|each| of(&each.totals)).sum();
    let alarms = links.iter().flat_map(|each| {
        each.alarms.iter().map(|alarm| AlarmView {
            message: format!("link {}: {}", each.link_name, alarm.message),
            ..alarm.clone()
        })
    });
    Ok(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        link_state: worst.unwrap_or_default(),
        uptime_ms: links.iter().map(|each| each.uptime_ms).max().unwrap_or_default(),
        guests: links.iter().flat_map(|each| each.guests.clone()).collect(),
        totals: TotalsView {
            mirror_topics: count(|totals| totals.mirror_topics),
            partitions: count(|totals| totals.partitions),
            failed_partitions: count(|totals| totals.failed_partitions),
            hand_overs: count(|totals| totals.hand_overs),
            lag: sum(links.iter().map(|each| each.totals.lag)),
            lag_ms: worst_of(links.iter().map(|each| each.totals.lag_ms)),
            lag_bytes: sum(links.iter().map(|each| each.totals.lag_bytes)),
            age_ms: links.iter().filter_map(|each| each.totals.age_ms).max(),
            marks: LagMarks {
                lag_ms_at_least: links.iter().any(|each| each.totals.marks.lag_ms_at_least),
                lag_bytes_estimated: links.iter().any(|each| each.totals.marks.lag_bytes_estimated),
                high_watermark_lag: sum(links.iter().map(|each| each.totals.marks.high_watermark_lag)),
                ..LagMarks::default()
            },
            recovery_point: RecoveryPointView::default(),
        },
        alarms: alarms.collect(),
        links,
        ..StatusView::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn answered<T>(answer: Result<T, AdminError>) -> Awaited<T> {
        let (reply, awaited) = oneshot::channel();
        tell(reply, answer);
        awaited
    }

    fn elsewhere<T>() -> Result<T, AdminError> {
        Err(AdminError::new(ErrorCode::NoSuchCluster, &"no link leads to cluster x"))
    }

    #[test]
    fn a_list_of_one_cluster_leaves_out_links_to_others_and_refuses_one_that_nobody_knows() {
        let some = vec![answered(Ok(vec![1])), answered(elsewhere()), answered(Ok(vec![2, 3]))];
        assert_eq!(run(joined(some)), Ok(vec![1, 2, 3]));
        let none: Vec<Awaited<Vec<i32>>> = vec![answered(elsewhere()), answered(elsewhere())];
        assert_eq!(run(joined(none)).unwrap_err().code, ErrorCode::NoSuchCluster);
        assert_eq!(run(joined::<i32>(Vec::new())), Ok(Vec::new()));
    }

    #[test]
    fn a_list_that_would_silently_leave_a_link_out_is_refused() {
        let (reply, gone) = oneshot::channel::<Result<Vec<i32>, AdminError>>();
        drop(reply);
        let outcome = run(joined(vec![answered(Ok(vec![1])), gone]));
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Busy);
    }

    #[test]
    fn the_status_of_several_links_is_their_sum_and_the_worst_of_them() {
        let one = |name: &str, state: &str, lag| StatusView {
            link_name: name.into(),
            link_state: state.into(),
            totals: TotalsView { partitions: 2, lag, ..TotalsView::default() },
            alarms: vec![AlarmView { message: "m".into(), ..AlarmView::default() }],
            ..StatusView::default()
        };
        let alone = run(joined_status(vec![answered(Ok(one("a", "ACTIVE", Some(3))))])).unwrap();
        assert_eq!((alone.link_name.as_str(), alone.links.len()), ("a", 0));
        let both = vec![one("a", "FAILED", Some(3)), one("b", "ACTIVE", Some(4))];
        let both = both.into_iter().map(|each| answered(Ok(each))).collect();
        let both = run(joined_status(both)).unwrap();
        assert_eq!(
            (both.link_state.as_str(), both.totals.lag, both.totals.partitions),
            ("FAILED", Some(7), 4)
        );
        assert_eq!((both.links.len(), both.alarms[1].message.as_str()), (2, "link b: m"));
        let unknown = vec![one("a", "ACTIVE", None), one("b", "ACTIVE", Some(4))];
        let unknown = unknown.into_iter().map(|each| answered(Ok(each))).collect();
        assert_eq!(run(joined_status(unknown)).unwrap().totals.lag, None, "unknown is unknown");
    }
}
