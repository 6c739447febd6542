//! What operators ask over the socket, answered from what is known here.
//!
//! Orders are judged topic by topic: one that cannot be done is told with its answer and holds no other one
//! back. A promote or failover is answered once it is kept; its steps are in the topic's view.

use super::losses::SOURCE_ENDS;
use super::store::PARTITIONS;
use super::{HandOverOutcome, HandOverRow, HandOvers, Supervisor, outcome, views, wall_clock_ms};
use crate::admin::answer::{
    ClusterView, GuestLeaveView, LinkView, MirrorActionView, MirrorTopicView, PartitionActionView,
};
use crate::admin::{
    AdminError, AdminRequest, Allowed, ErrorCode, LinkAddress, OpenTransactions, Reply, Selection,
};
use crate::control::guest::hand_over::source_configs;
use crate::control::state::{HandOverKind, MirrorTopic, NewHandOver, StateError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use tracing::warn;
use twinlog_sync::lifecycle::{MIRROR_TRANSITIONS, MirrorEvent, MirrorState, Transition};

/// Hand-overs that were kept as requested, or were not.
pub struct Begun {
    result: Result<(Vec<HandOverRow>, Vec<MirrorTopic>), StateError>,
    actions: Vec<MirrorActionView>,
    reply: Reply<Vec<MirrorActionView>>,
}

/// What was asked of mirror topics.
struct Order {
    kind: HandOverKind,
    selection: Selection,
    validate_only: bool,
    allowed: Allowed,
    open_transactions: OpenTransactions,
}

pub(super) fn refused(topic: &str, code: &str, why: &dyn Display) -> MirrorActionView {
    MirrorActionView {
        mirror_topic_name: topic.to_owned(),
        error_message: Some(why.to_string()),
        error_code: Some(code.to_owned()),
        ..MirrorActionView::default()
    }
}

pub(super) fn noted(topic: &str, note: impl Into<String>) -> MirrorActionView {
    MirrorActionView {
        mirror_topic_name: topic.to_owned(),
        note: Some(note.into()),
        ..MirrorActionView::default()
    }
}

pub(super) fn tell<T>(reply: Reply<T>, answer: Result<T, AdminError>) {
    // Nobody waits any more: what was asked is done all the same.
    let _ = reply.send(answer);
}

impl HandOvers {
    pub(super) fn check(&self, at: &LinkAddress) -> Result<(), AdminError> {
        self.check_cluster(at.cluster.as_deref())?;
        match at.link == self.link {
            true => Ok(()),
            false => {
                let why = format!("there is no link {}; this daemon runs {}", at.link, self.link);
                Err(AdminError::new(ErrorCode::NoSuchLink, &why))
            }
        }
    }

    /// Topics that a selection means: those that it names, mirror topics or not, or those that match.
    pub(super) fn meant(&self, selection: &Selection) -> BTreeSet<String> {
        match selection {
            Selection::Names(names) => names.iter().cloned().collect(),
            Selection::Pattern(_) => {
                self.rows.keys().filter(|topic| selection.means(topic)).cloned().collect()
            }
        }
    }

    fn next_request(&mut self) -> Option<AdminRequest> {
        let deferred = if self.changing { None } else { self.deferred.pop_front() };
        deferred.or_else(|| self.requests.try_recv().ok())
    }

    fn check_cluster(&self, cluster: Option<&str>) -> Result<(), AdminError> {
        match (cluster, &self.cluster_id) {
            (None, _) => Ok(()),
            (Some(asked), Some(known)) if asked == known => Ok(()),
            (Some(asked), _) => {
                Err(AdminError::new(ErrorCode::NoSuchCluster, &format!("no link leads to cluster {asked}")))
            }
        }
    }
}

impl Supervisor {
    pub(super) fn answer_operators(&mut self, hand_overs: &mut HandOvers) {
        while let Some(request) = hand_overs.next_request() {
            match request {
                // Decided on states that are about to be others, it would be refused for no reason.
                request @ (AdminRequest::PauseMirrors { .. } | AdminRequest::ResumeMirrors { .. })
                    if hand_overs.changing =>
                {
                    hand_overs.deferred.push_back(request);
                }
                request => self.answer_operator(hand_overs, request),
            }
        }
    }

    fn answer_operator(&mut self, hand_overs: &mut HandOvers, request: AdminRequest) {
        match request {
            AdminRequest::ListClusters { reply } => {
                let ids = hand_overs.cluster_id.iter();
                tell(reply, Ok(ids.map(|id| ClusterView { cluster_id: id.clone() }).collect()));
            }
            AdminRequest::ListLinks { cluster, reply } => {
                let checked = hand_overs.check_cluster(cluster.as_deref());
                tell(reply, checked.map(|()| vec![self.link_view(hand_overs)]));
            }
            AdminRequest::DescribeLink { at, reply } => {
                tell(reply, hand_overs.check(&at).map(|()| self.link_view(hand_overs)));
            }
            AdminRequest::ListMirrors { cluster, link, reply } => {
                let link = link.unwrap_or_else(|| hand_overs.link.clone());
                let checked = hand_overs.check(&LinkAddress { cluster, link });
                tell(reply, checked.map(|()| self.mirror_views(hand_overs)));
            }
            AdminRequest::DescribeMirror { at, topic, reply } => {
                let found = hand_overs.check(&at).and_then(|()| self.describe(hand_overs, &topic));
                tell(reply, found);
            }
            AdminRequest::ListGroups { at, reply } => {
                tell(reply, hand_overs.check(&at).and_then(|()| self.group_views()));
            }
            AdminRequest::DescribeGroup { at, group, reply } => {
                tell(reply, hand_overs.check(&at).and_then(|()| self.group_view(&group)));
            }
            AdminRequest::CreateMirrors { at, names, validate_only, reply } => {
                self.create_order(hand_overs, &at, names, validate_only, reply);
            }
            AdminRequest::Promote { at, selection, validate_only, allowed, reply } => {
                let kind = HandOverKind::Promote;
                let open_transactions = OpenTransactions::Abort;
                let order = Order { kind, selection, validate_only, allowed, open_transactions };
                self.hand_over_order(hand_overs, &at, order, reply);
            }
            AdminRequest::Failover { at, selection, validate_only, open_transactions, reply } => {
                let (kind, allowed) = (HandOverKind::Failover, Allowed::ALL);
                let order = Order { kind, selection, validate_only, allowed, open_transactions };
                self.hand_over_order(hand_overs, &at, order, reply);
            }
            AdminRequest::PauseMirrors { at, selection, validate_only, reply } => {
                self.pause_order(hand_overs, &at, &selection, validate_only, reply);
            }
            AdminRequest::ResumeMirrors { at, selection, release, validate_only, reply } => {
                self.resume_order(hand_overs, &at, (&selection, release), validate_only, reply);
            }
            AdminRequest::PauseLink { at, paused, validate_only, reply } => {
                self.pause_link_order(hand_overs, &at, (paused, validate_only), reply);
            }
            AdminRequest::DeleteMirrors { at, names, delete_data, validate_only, reply } => {
                self.delete_order(hand_overs, &at, &names, (delete_data, validate_only), reply);
            }
            AdminRequest::GuestLeave { at, validate_only, reply } => {
                let left = hand_overs.check(&at).and_then(|()| self.leave(hand_overs, validate_only));
                tell(reply, left);
            }
            AdminRequest::Metrics { reply } => tell(reply, Ok(self.samples(hand_overs))),
            AdminRequest::Status { reply } => tell(reply, Ok(self.status_view(hand_overs))),
            AdminRequest::CreateLink { .. }
            | AdminRequest::AlterLink { .. }
            | AdminRequest::DeleteLink { .. }
            | AdminRequest::LinkConfigs { .. } => {
                unreachable!("the switchboard answers for links themselves")
            }
        }
    }

    fn describe(&self, hand_overs: &HandOvers, topic: &str) -> Result<MirrorTopicView, AdminError> {
        self.mirror_view(hand_overs, topic).ok_or_else(|| {
            let why = format!("link {} has no mirror topic {topic}", hand_overs.link);
            AdminError::new(ErrorCode::NoSuchMirrorTopic, &why)
        })
    }

    pub(super) fn link_view(&self, hand_overs: &HandOvers) -> LinkView {
        let figures = self.link_figures();
        LinkView {
            lag: figures.records,
            lag_ms: figures.milliseconds,
            lag_bytes: figures.bytes,
            marks: super::views::marks(&figures),
            link_name: hand_overs.link.clone(),
            source_cluster_id: hand_overs.source_cluster_id.clone(),
            destination_cluster_id: hand_overs.cluster_id.clone(),
            link_state: self.link_state(hand_overs).to_owned(),
            link_error: self
                .halted
                .clone()
                .or_else(|| self.refresh.last_error.as_ref().map(ToString::to_string)),
            mode: self.mode().to_owned(),
            topic_names: hand_overs.rows.keys().cloned().collect(),
            tasks: self.task_views(hand_overs),
        }
    }

    fn hand_over_order(
        &mut self,
        hand_overs: &mut HandOvers,
        at: &LinkAddress,
        order: Order,
        reply: Reply<Vec<MirrorActionView>>,
    ) {
        if let Err(error) = hand_overs.check(at) {
            return tell(reply, Err(error));
        }
        let mut names = hand_overs.meant(&order.selection);
        if let Selection::Pattern(_) = order.selection {
            // A pattern means what can still be handed over, not what was long ago.
            names.retain(|name| !hand_overs.is_stopped(name));
        }
        let actions: Vec<MirrorActionView> =
            names.iter().map(|name| self.judge(hand_overs, name, &order)).collect();
        let wanted = actions.iter().filter(|action| action.is_right());
        let wanted: Vec<String> = wanted.map(|action| action.mirror_topic_name.clone()).collect();
        if order.validate_only || wanted.is_empty() {
            return tell(reply, Ok(actions));
        }
        let (state, link, source) = (hand_overs.state.clone(), hand_overs.link.clone(), self.client.clone());
        let include = self.settings.link.config_sync_include.clone();
        let new: Vec<NewHandOver> = wanted.iter().map(|topic| self.new_hand_over(topic, &order)).collect();
        self.spawn(async move {
            if order.kind == HandOverKind::Promote {
                for topic in &wanted {
                    // What was kept when it was created stands in for an answer.
                    if let Ok(configs) = source_configs(&source, topic, &include).await {
                        let _ = state.set_wanted_configs(&link, topic, configs, wall_clock_ms()).await;
                    }
                }
            }
            let kept = async {
                state.begin_hand_overs(&link, new, wall_clock_ms()).await?;
                let mut rows = state.hand_overs(&link).await?;
                rows.retain(|row| wanted.contains(&row.topic));
                Ok((rows, state.mirrors(Some(&link)).await?))
            };
            let result = kept.await;
            outcome(HandOverOutcome::Begun(Box::new(Begun { result, actions, reply })))
        });
    }

    fn new_hand_over(&self, topic: &str, order: &Order) -> NewHandOver {
        let mut options = serde_json::json!({
            "allow_moving_source": order.allowed.moving_source,
            "allow_producer_overlap": order.allowed.producer_overlap,
            "open_transactions": order.open_transactions,
        });
        if order.kind == HandOverKind::Failover {
            options[SOURCE_ENDS] = self.last_words(topic);
        }
        if self.guest.is_none() {
            options[PARTITIONS] = serde_json::json!(self.stored_indexes(topic));
        }
        NewHandOver { topic: topic.to_owned(), kind: order.kind, options }
    }

    /// What the answer for one topic says before anything is begun.
    fn judge(&self, hand_overs: &HandOvers, topic: &str, order: &Order) -> MirrorActionView {
        let Some(row) = hand_overs.rows.get(topic) else {
            return refused(topic, "NO_SUCH_MIRROR_TOPIC", &"there is no mirror topic of this name");
        };
        let event = match order.kind {
            HandOverKind::Promote => MirrorEvent::PromoteRequested,
            HandOverKind::Failover => MirrorEvent::FailoverRequested,
        };
        if Transition::next(MIRROR_TRANSITIONS, row.state, event).is_none() {
            let why = format!("it is {}, which allows no {}", row.state, order.kind.name());
            return refused(topic, row.state.name(), &why);
        }
        if hand_overs.deletions.contains_key(topic) {
            return refused(topic, "BEING_DELETED", &"it is being deleted");
        }
        if self.guest.is_none() && self.stored_indexes(topic).is_empty() {
            return refused(
                topic,
                "NOT_READY",
                &"none of its partitions is known yet; try again in a moment",
            );
        }
        if self.guest.is_some() && row.destination_topic_id.is_none() {
            return refused(topic, "NOT_CREATED", &"the destination does not have it yet");
        }
        let mut lags = Vec::new();
        for partition in self.partitions_of(topic) {
            let mirror = &self.mirrors[&partition];
            lags.push(PartitionActionView {
                partition_id: partition.partition(),
                lag: self.figures_of(mirror).records,
                last_source_fetch_offset: views::fetched(mirror),
                error_message: mirror.trouble().map(|trouble| trouble.reason.clone()),
                error_code: mirror.trouble().map(|trouble| trouble.code.to_owned()),
            });
        }
        if order.kind == HandOverKind::Failover {
            // A stopped partition is what a failover is for: its lag is told, it forbids nothing.
            lags.iter_mut().for_each(|lag| (lag.error_message, lag.error_code) = (None, None));
        }
        let left_out = self.dead_replicas(row);
        let fails_over = order.kind == HandOverKind::Failover;
        let truncates = fails_over && order.open_transactions == OpenTransactions::Truncate;
        let note = match truncates {
            true => self.cuts_expected(hand_overs, topic),
            false if self.guest.is_none() => Some(self.store_note(hand_overs, topic)),
            false => None,
        };
        MirrorActionView {
            note,
            losses: if fails_over { self.losses_now(topic) } else { Vec::new() },
            mirror_topic_name: topic.to_owned(),
            mirror_lags: lags,
            left_out_broker_ids: left_out,
            consumer_group_offsets: Some(self.group_offsets_text().to_owned()),
            ..MirrorActionView::default()
        }
    }

    /// What a failover that truncates would cut, by what shards said last.
    fn cuts_expected(&self, hand_overs: &HandOvers, topic: &str) -> Option<String> {
        let each = self.partitions_of(topic).into_iter().filter_map(|partition| {
            let (_, led) = hand_overs.standings.get(&self.mirrors[&partition].key)?;
            let (from, end) = (led.as_ref()?.first_open?, led.as_ref()?.log_end);
            Some(format!("{partition} is cut from offset {from} to {end}"))
        });
        let words: Vec<String> = each.collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    fn dead_replicas(&self, row: &MirrorTopic) -> Vec<i32> {
        let Some((guest, id)) = self.guest.as_ref().zip(row.destination_topic_id) else { return Vec::new() };
        let (image, ids) = (guest.member.image(), guest.ids());
        let replicas = image.topic(id).into_iter().flat_map(|topic| topic.partitions.values());
        let mut dead: Vec<i32> = replicas
            .flat_map(|partition| partition.replicas.iter().copied())
            .filter(|broker| !ids.contains(broker) && image.broker(*broker).is_none_or(|each| each.fenced))
            .collect();
        dead.sort_unstable();
        dead.dedup();
        dead
    }

    pub(super) fn begun(&mut self, hand_overs: &mut HandOvers, begun: Begun) {
        let Begun { result, mut actions, reply } = begun;
        match result {
            Ok((rows, mirrors)) => {
                hand_overs.rows = mirrors.into_iter().map(|row| (row.topic.clone(), row)).collect();
                let guests = self.guest.as_ref().map(|guest| guest.ids()).unwrap_or_default();
                for row in rows {
                    hand_overs.start(row, &guests);
                }
            }
            Err(error) => {
                warn!("no hand-over was begun: {error}");
                for action in actions.iter_mut().filter(|action| action.is_right()) {
                    action.error_message = Some(error.to_string());
                    action.error_code = Some("NOT_KEPT".to_owned());
                }
            }
        }
        tell(reply, Ok(actions));
    }

    fn leave(&self, hand_overs: &HandOvers, validate_only: bool) -> Result<GuestLeaveView, AdminError> {
        let Some(guest) = &self.guest else {
            let why = "the destination of this link is a store: it has no guest brokers";
            return Err(AdminError::new(ErrorCode::Refused, &why));
        };
        let remaining = hand_overs.rows.values().filter(|row| row.state != MirrorState::Stopped).count();
        let ids = guest.ids();
        let image = guest.member.image();
        let held: BTreeMap<&str, usize> = image
            .topics()
            .values()
            .filter_map(|topic| {
                let ours = topic.partitions.values();
                let count = ours.filter(|each| each.replicas.iter().any(|id| ids.contains(id))).count();
                (count > 0).then_some((topic.name.as_str(), count))
            })
            .collect();
        if remaining > 0 || !held.is_empty() {
            let why = format!(
                "{remaining} mirror topics remain, and {} topics have replicas on guest brokers; promote or fail \
                 them over first",
                held.len()
            );
            return Err(AdminError::new(ErrorCode::Refused, &why));
        }
        let registered: Vec<i32> = ids.iter().copied().filter(|id| image.broker(*id).is_some()).collect();
        drop(image);
        for id in registered.iter().filter(|_| !validate_only) {
            if let Err(error) = guest.member.leave(*id) {
                return Err(AdminError::new(ErrorCode::Conflict, &error));
            }
        }
        let message = match validate_only {
            true => "they would be unregistered",
            false => "they are being unregistered; end the daemon, or it joins again at its next start",
        };
        let link_name = hand_overs.link.clone();
        Ok(GuestLeaveView { link_name, broker_ids: registered, message: message.to_owned() })
    }
}
