//! What is kept of the link: its clusters, its mirror topics, as whom its ids are registered.
//!
//! A mirror topic gets its row when the destination shows that it is ours, with the configuration that the
//! source has for it then. All of this is repeated until it is done; nothing here is urgent but the first
//! reading, without which no partition is taken on.

use super::super::guest::{GuestLink, TopicPhase};
use super::{HandOverOutcome, HandOverRow, HandOvers, Supervisor, outcome, wall_clock_ms};
use crate::control::guest::hand_over::{HandOverError, source_configs_of};
use crate::control::guest::random_uuid;
use crate::control::state::{
    Change, Deletion, GuestIdentity, Link, MirrorTopic, NewMirror, ProducerIdFloor, ReplicaRepair,
    StateDatabase, StateError, TopicCommand,
};
use crate::control::supervisor::guest::Step;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;
use twinlog_log_segment::files::TopicId;
use twinlog_sync::lifecycle::{MirrorEvent, MirrorState};

/// Pause after something here failed.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Between two looks for topics without rows; each is at every topic.
const ADOPT_INTERVAL: Duration = Duration::from_millis(500);
/// Topics that get their rows in one go, with one question to the source.
const ADOPTED_MAX: usize = 64;

/// Everything that is kept of the link.
pub struct Loaded {
    mirrors: Vec<MirrorTopic>,
    hand_overs: Vec<HandOverRow>,
    floor: ProducerIdFloor,
    commanded: Vec<(String, TopicCommand)>,
    deletions: Vec<Deletion>,
    repairs: Vec<ReplicaRepair>,
    link: Option<Link>,
}

async fn load(state: &StateDatabase, link: &str) -> Result<Box<Loaded>, StateError> {
    Ok(Box::new(Loaded {
        link: state.link(link).await?,
        mirrors: state.mirrors(Some(link)).await?,
        hand_overs: state.hand_overs(link).await?,
        floor: state.producer_id_floor(link).await?,
        commanded: state.commanded_topics(link).await?,
        deletions: state.deletions(link).await?,
        repairs: state.repairs(link).await?,
    }))
}

impl HandOvers {
    pub(super) fn take_rows(&mut self, loaded: Loaded) {
        self.rows = loaded.mirrors.into_iter().map(|row| (row.topic.clone(), row)).collect();
        self.hand_overs = loaded.hand_overs.into_iter().map(|row| (row.topic.clone(), row)).collect();
        self.floor = loaded.floor;
        self.link_paused = loaded.link.and_then(|link| link.paused);
        self.take_repairs(loaded.repairs);
    }

    /// It is no mirror topic yet, or not shown as established, and nothing is under way with it.
    fn wants_row(&self, topic: &str) -> bool {
        let pending = self.rows.get(topic).is_none_or(|row| row.state == MirrorState::PendingMirror);
        let waits = self.not_told.get(topic).is_some_and(|at| Instant::now() < *at);
        pending && !waits && !self.running.contains_key(topic) && !self.deletions.contains_key(topic)
    }
}

/// A topic that has no row yet, or one that is not shown as established.
struct Adoption {
    topic: String,
    source_id: TopicId,
    /// `None`: the copy is a store.
    destination_id: Option<TopicId>,
    replicas: u16,
    is_new: bool,
}

impl Supervisor {
    /// Does what is due of all this.
    pub(super) fn keep_up(&mut self, hand_overs: &mut HandOvers, now: Instant) {
        if !hand_overs.loaded {
            if !hand_overs.loading {
                hand_overs.loading = true;
                let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
                self.spawn(async move { outcome(HandOverOutcome::Loaded(load(&state, &link).await)) });
            }
            return;
        }
        if now < hand_overs.retry_at {
            return;
        }
        if !hand_overs.link_kept {
            self.keep_link(hand_overs);
            return;
        }
        self.adopt(hand_overs);
        if self.guest.is_some() {
            self.keep_identities(hand_overs);
            self.keep_floor(hand_overs, now);
        }
    }

    /// The rows changed in a way that is not known here.
    pub(super) fn reload(&mut self, hand_overs: &HandOvers) {
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move { outcome(HandOverOutcome::Rows(load(&state, &link).await)) });
    }

    pub(super) fn loaded(&mut self, hand_overs: &mut HandOvers, result: Result<Box<Loaded>, StateError>) {
        match result {
            Err(error) => self.halted = Some(error.to_string()),
            Ok(mut loaded) => {
                for (topic, command) in std::mem::take(&mut loaded.commanded) {
                    match command {
                        TopicCommand::Created => self.discovery.create(&topic),
                        TopicCommand::Deleted => self.discovery.delete(&topic),
                    }
                    hand_overs.commanded.insert(topic, command);
                }
                let deletions = std::mem::take(&mut loaded.deletions);
                hand_overs.take_rows(*loaded);
                deletions.into_iter().for_each(|row| self.begin_deletion(hand_overs, row));
                hand_overs.loaded = true;
                let guests = self.guest.as_ref().map(|guest| guest.ids()).unwrap_or_default();
                let open = hand_overs.hand_overs.values().filter(|row| !row.step.is_over());
                for row in open.cloned().collect::<Vec<_>>() {
                    hand_overs.start(row, &guests);
                }
            }
        }
    }

    fn keep_link(&mut self, hand_overs: &mut HandOvers) {
        if std::mem::replace(&mut hand_overs.linking, true) {
            return;
        }
        let (source, destination) = (self.client.clone(), hand_overs.destination.clone());
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let kept = async {
                let source = source.metadata(Some(&[])).await.map_err(|error| error.to_string())?;
                let destination_cluster_id = match destination {
                    Some(destination) => {
                        let found =
                            destination.metadata(Some(&[])).await.map_err(|error| error.to_string())?;
                        found.cluster_id.unwrap_or_default()
                    }
                    None => store_id(&state, &link).await.map_err(|error| error.to_string())?,
                };
                let wanted = Link {
                    link,
                    source_cluster_id: source.cluster_id.unwrap_or_default(),
                    destination_cluster_id,
                    paused: None,
                    created_ms: wall_clock_ms(),
                };
                state.put_link(wanted.clone()).await.map_err(|error| error.to_string())?;
                Ok(wanted)
            };
            outcome(HandOverOutcome::LinkKept(kept.await))
        });
    }

    pub(super) fn link_kept(&mut self, hand_overs: &mut HandOvers, result: Result<Link, String>) {
        hand_overs.linking = false;
        match result {
            Ok(link) => {
                hand_overs.link_kept = true;
                hand_overs.source_cluster_id = Some(link.source_cluster_id);
                hand_overs.cluster_id = Some(link.destination_cluster_id);
            }
            Err(why) => {
                hand_overs.retry_at = Instant::now() + RETRY;
                if self.may_warn("link") {
                    warn!("the link is not kept yet: {why}; tried again");
                }
            }
        }
    }

    /// As whom the ids are registered: a restart with this directory goes on as the same.
    fn keep_identities(&mut self, hand_overs: &mut HandOvers) {
        let Some(guest) = &self.guest else { return };
        if hand_overs.identifying {
            return;
        }
        let registered = guest.ids().into_iter().filter_map(|broker_id| {
            let state = guest.member.state(broker_id).filter(|state| state.broker_epoch().is_some())?;
            let (incarnation, directory) = state.incarnation.zip(state.directory)?;
            Some(GuestIdentity { broker_id, incarnation, directory })
        });
        let registered: Vec<GuestIdentity> = registered.collect();
        if registered == hand_overs.identities {
            return;
        }
        hand_overs.identifying = true;
        let (state, link) = (hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let kept = state.put_guest_identities(&link, registered.clone(), wall_clock_ms()).await;
            outcome(HandOverOutcome::Identified(kept.map(|()| registered)))
        });
    }

    pub(super) fn identified(
        &mut self,
        hand_overs: &mut HandOvers,
        result: Result<Vec<GuestIdentity>, StateError>,
    ) {
        hand_overs.identifying = false;
        match result {
            Ok(identities) => hand_overs.identities = identities,
            Err(error @ StateError::OtherDirectory { .. }) => self.halted = Some(error.to_string()),
            Err(error) => {
                hand_overs.retry_at = Instant::now() + RETRY;
                if self.may_warn("identities") {
                    warn!("as whom we are registered is not kept yet: {error}; tried again");
                }
            }
        }
    }

    fn adopt(&mut self, hand_overs: &mut HandOvers) {
        if hand_overs.adopting || Instant::now() < hand_overs.adopt_at {
            return;
        }
        hand_overs.adopt_at = Instant::now() + ADOPT_INTERVAL;
        let mut due = match &self.guest {
            Some(guest) => self.found_there(hand_overs, guest),
            None => self.found_here(hand_overs),
        };
        if due.is_empty() {
            return;
        }
        hand_overs.adopting = true;
        let is_store = self.guest.is_none();
        // Metadata of topics is every broker's to tell; without one, what is new waits.
        let broker = self.servers.keys().next().copied().unwrap_or(-1);
        let include = self.settings.link.config_sync_include.clone();
        let (client, state, link) = (self.client.clone(), hand_overs.state.clone(), hand_overs.link.clone());
        self.spawn(async move {
            let names: Vec<String> =
                due.iter().filter(|each| each.is_new).map(|each| each.topic.clone()).collect();
            let (mut wanted, mut refused) = (BTreeMap::new(), Vec::new());
            for (topic, configs) in source_configs_of(&client, broker, &names, &include).await {
                match configs {
                    Ok(configs) => drop(wanted.insert(topic, configs)),
                    // A store needs none of them to be exact; they are read again while the link lives.
                    Err(_) if is_store => {}
                    Err(error) => refused.push((topic, error)),
                }
            }
            due.retain(|each| !refused.iter().any(|(topic, _)| *topic == each.topic));
            let kept = keep_adopted(&state, &link, due, wanted).await.map_err(|error| error.to_string());
            outcome(HandOverOutcome::Adopted { kept, refused })
        });
    }

    /// Mirror topics that the destination shows as ours, and that are not kept as such.
    fn found_there(&self, hand_overs: &HandOvers, guest: &GuestLink) -> Vec<Adoption> {
        let mut due = Vec::new();
        let image = guest.member.image();
        for (topic, known) in &guest.topics {
            let TopicPhase::Ours(destination_id) = known.phase else { continue };
            if !hand_overs.wants_row(topic) || due.len() == ADOPTED_MAX {
                continue;
            }
            let Some(first) = self.partitions_of(topic).into_iter().next() else { continue };
            let replicas = image.partition(destination_id, 0).map_or(1, |first| first.replicas.len() - 1);
            due.push(Adoption {
                topic: topic.clone(),
                source_id: self.mirrors[&first].topic.id,
                destination_id: Some(destination_id),
                replicas: u16::try_from(replicas).unwrap_or(u16::MAX),
                is_new: !hand_overs.rows.contains_key(topic),
            });
        }
        due
    }

    /// Topics that have a partition in a shard, and are not kept as such.
    fn found_here(&self, hand_overs: &HandOvers) -> Vec<Adoption> {
        let mut due: Vec<Adoption> = Vec::new();
        for mirror in self.mirrors.values().filter(|mirror| mirror.is_in_shard()) {
            let topic = mirror.partition.topic();
            // Partitions of a topic stand side by side.
            let is_listed = due.last().is_some_and(|last| last.topic == topic);
            if is_listed || !hand_overs.wants_row(topic) {
                continue;
            }
            if due.len() == ADOPTED_MAX {
                break;
            }
            due.push(Adoption {
                topic: topic.to_owned(),
                source_id: mirror.topic.id,
                destination_id: None,
                replicas: 0,
                is_new: !hand_overs.rows.contains_key(topic),
            });
        }
        due
    }

    pub(super) fn adopted(
        &mut self,
        hand_overs: &mut HandOvers,
        kept: Result<Vec<MirrorTopic>, String>,
        refused: Vec<(String, HandOverError)>,
    ) {
        let now = Instant::now();
        hand_overs.adopting = false;
        // There may be more of them.
        hand_overs.adopt_at = now;
        if let Some((topic, why)) = refused.first()
            && let Some(guest) = &mut self.guest
        {
            let code = match why {
                HandOverError::ConfigsNotTold { code, .. } | HandOverError::NoSuchTopic { code, .. } => *code,
                _ => 0,
            };
            guest.troubles.failed(now, Step::SourceConfigs, code, format!("topic {topic}: {why}"));
        }
        hand_overs.not_told.extend(refused.into_iter().map(|(topic, _)| (topic, now + RETRY)));
        match kept {
            Ok(rows) => {
                hand_overs.not_told.retain(|topic, _| !rows.iter().any(|row| row.topic == *topic));
                if hand_overs.not_told.is_empty()
                    && let Some(guest) = &mut self.guest
                {
                    guest.troubles.worked(Step::SourceConfigs);
                }
                hand_overs.rows.extend(rows.into_iter().map(|row| (row.topic.clone(), row)));
            }
            Err(why) => {
                hand_overs.retry_at = Instant::now() + RETRY;
                if self.may_warn("adopt") {
                    warn!("mirror topics are not kept yet: {why}; tried again");
                }
            }
        }
    }
}

/// The cluster id of a store: made up once, and the same ever after.
async fn store_id(state: &StateDatabase, link: &str) -> Result<String, StateError> {
    let known = state.link(link).await?;
    Ok(known.map_or_else(|| TopicId(random_uuid()).to_string(), |known| known.destination_cluster_id))
}

async fn keep_adopted(
    state: &StateDatabase,
    link: &str,
    due: Vec<Adoption>,
    mut wanted: BTreeMap<String, BTreeMap<String, String>>,
) -> Result<Vec<MirrorTopic>, StateError> {
    let now_ms = wall_clock_ms();
    let new = due.iter().filter(|each| each.is_new).map(|each| NewMirror {
        topic: each.topic.clone(),
        source_topic_id: each.source_id,
        wanted_configs: wanted.remove(&each.topic).unwrap_or_default(),
        replication_factor: each.replicas,
        reason: "it was found".to_owned(),
    });
    state.create_mirrors(link, new.collect(), now_ms).await?;
    let ids = due.iter().filter_map(|each| Some((each.topic.clone(), each.destination_id?)));
    state.set_destination_topic_ids(link, ids.collect(), now_ms).await?;
    let established = due.iter().map(|each| Change {
        topic: each.topic.clone(),
        event: MirrorEvent::Established,
        reason: match each.destination_id {
            Some(_) => "led by us and followed".to_owned(),
            None => "written to the store".to_owned(),
        },
        code: String::new(),
    });
    state.transition(link, established.collect(), now_ms).await?;
    let mut rows = Vec::new();
    for each in due {
        rows.push(state.mirror(link, &each.topic).await?);
    }
    Ok(rows)
}
