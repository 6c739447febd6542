//! The link as a guest of its destination: which mirror topics exist there, and who is told that we lead them.
//!
//! ```text
//!   source topic found --> Wanted --created with guards--> Ours --ISR is {guest}--> Lead to its shard
//!                             ^  \--refused, retried          \--someone else's--> Refused, shown, retried
//!   image of the metadata log --(moved)--> look: topics, partitions, brokers, guards
//! ```
//! Everything is decided from the image and repeated until the image shows it, so that a restart, a lost
//! answer and somebody else's hand are one case. Nobody is told that we lead before we are the only in-sync
//! replica: until then a stock broker could take over, and what we served would be a fork.

mod eviction;
mod topics;
mod troubles;

pub(super) use self::troubles::{Step, Troubles};

use self::eviction::{EvictionOutcome, EvictionWatch};
use super::hand_over::HandOvers;
use super::{Outcome, Supervisor};
use crate::config::GuestSettings;
use crate::control::discovery::shard_of;
use crate::control::guest::topic_requests::{PartitionCodes, TopicAnswers};
use crate::control::guest::{
    CORDON_METADATA_VERSION, ControllerError, GuestEvent, GuestMember, destination_view,
};
use crate::security::Credentials;
use crate::shard::mailbox::{Command, Event, LeadAssignment, Meeting, RegisteredBroker};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_log_segment::files::{TopicId, TopicPartition};
use twinlog_log_segment::offset::LeaderEpoch;
use twinlog_sync::backoff::Backoff;
use twinlog_sync::guest::leadership::Registration;
use twinlog_sync::guest::placement::{Candidate, TooFewBrokers};
use twinlog_sync::metadata::ClusterImage;
use twinlog_sync::metadata::image::{Partition, Topic};
use twinlog_sync::metadata::membership::Reason;
use twinlog_sync::metadata::record::Listener;
use twinlog_sync::session::PartitionKey;

/// How often everything is looked at even when the image stands still: lost answers and refusals are retried.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Leader epochs of an id are raised at most this often: each time costs its followers some 50 ms.
const BUMP_GAP: Duration = Duration::from_secs(2);
/// How long an address may be taken by the daemon before us: the kernel takes a killed one's ring down a while
/// after its process is gone. Raised, a wrong address is told later.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// What a request about the destination came to.
pub enum GuestOutcome {
    Created(Result<TopicAnswers<TopicId>, CreateError>),
    PartitionsAdded(Result<TopicAnswers<()>, ControllerError>),
    Shrunk { guest: i32, result: Result<PartitionCodes, ControllerError> },
    Guarded(Result<TopicAnswers<()>, ControllerError>),
    Evicted(EvictionOutcome),
    Resolved { broker: i32, hosts: Vec<String>, addresses: Vec<IpAddr> },
}

/// Why no topic could be created at all.
pub enum CreateError {
    Controller(ControllerError),
    Placement(TooFewBrokers),
}

impl std::fmt::Display for CreateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Controller(error) => write!(f, "{error}"),
            Self::Placement(error) => write!(f, "{error}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopicPhase {
    Wanted,
    Creating,
    Ours(TopicId),
    /// Why it cannot be mirrored into.
    Refused(String),
}

pub(super) struct GuestTopic {
    pub(super) phase: TopicPhase,
    /// Partitions that the source has.
    partitions: i32,
    retry_at: Instant,
    backoff: Backoff,
}

/// See the file's header.
pub(super) struct GuestLink {
    settings: GuestSettings,
    pub(super) member: GuestMember,
    events: tokio::sync::broadcast::Receiver<GuestEvent>,
    pub(super) topics: BTreeMap<String, GuestTopic>,
    /// What each shard was told last.
    told: HashMap<PartitionKey, LeadAssignment>,
    brokers_told: Vec<RegisteredBroker>,
    /// What the shards know that followers log in with.
    credentials_told: Credentials,
    resolved: BTreeMap<i32, (Vec<String>, Vec<IpAddr>)>,
    resolving: BTreeSet<i32>,
    /// Version of the image at the last look.
    seen_version: Option<u64>,
    looked_at: Instant,
    look_wanted: bool,
    creating: bool,
    adding: bool,
    guarding: bool,
    /// Ids with an AlterPartition under way.
    shrinking: BTreeSet<i32>,
    bumped_at: BTreeMap<i32, Instant>,
    bump_wanted: BTreeSet<i32>,
    evictions: EvictionWatch,
    pub(super) troubles: Troubles,
    started_at: Instant,
    /// Addresses that were taken, to be tried again.
    listen_again: Vec<(Instant, i32, SocketAddr)>,
}

impl GuestLink {
    pub fn new(settings: GuestSettings, member: GuestMember) -> Self {
        let events = member.events();
        Self {
            settings,
            member,
            events,
            topics: BTreeMap::new(),
            told: HashMap::new(),
            brokers_told: Vec::new(),
            credentials_told: Credentials::default(),
            resolved: BTreeMap::new(),
            resolving: BTreeSet::new(),
            seen_version: None,
            looked_at: Instant::now(),
            look_wanted: true,
            creating: false,
            adding: false,
            guarding: false,
            shrinking: BTreeSet::new(),
            bumped_at: BTreeMap::new(),
            bump_wanted: BTreeSet::new(),
            evictions: EvictionWatch::default(),
            troubles: Troubles::default(),
            started_at: Instant::now(),
            listen_again: Vec::new(),
        }
    }

    /// Those that may lead.
    fn serving_ids(&self) -> Vec<i32> {
        self.settings.serving_ids.iter().map(|(id, _)| *id).collect()
    }

    /// All of ours, the one in reserve included.
    pub(super) fn ids(&self) -> Vec<i32> {
        [self.serving_ids(), vec![self.settings.reserve_id]].concat()
    }

    /// Every serving id is registered and unfenced.
    pub(super) fn is_joined(&self) -> bool {
        self.is_ready() && self.settings.serving_ids.iter().all(|(id, _)| self.serves(*id))
    }

    fn is_ours(&self, broker: i32) -> bool {
        broker == self.settings.reserve_id || self.settings.serving_ids.iter().any(|(id, _)| *id == broker)
    }

    /// Of this link or of another one of this daemon: it takes no replica and gives no producer id.
    pub(super) fn is_of_this_daemon(&self, broker: i32) -> bool {
        self.is_ours(broker) || self.settings.ids_of_other_links.contains(&broker)
    }

    /// The id of ours among the replicas of a partition.
    fn guest_of(&self, partition: &Partition) -> Option<i32> {
        partition.replicas.iter().copied().find(|broker| self.is_ours(*broker))
    }

    /// Whether every partition of a topic has us as a replica, and it is guarded as a mirror topic is.
    pub(super) fn is_mirror(&self, image: &ClusterImage, name: &str, topic: &Topic) -> bool {
        destination_view::is_mirror(image, name, topic, |broker| self.is_ours(broker))
    }

    /// Stock brokers that hold a partition of a mirror topic of ours, stay and live. `None`: it is none, or has
    /// no partition of this number.
    pub(super) fn live_followers(&self, partition: &TopicPartition) -> Option<Vec<i32>> {
        let image = self.member.image();
        let (_, topic) = image.topic_named(partition.topic())?;
        let at = topic.partitions.get(&partition.partition())?;
        let lives = |broker: &i32| image.broker(*broker).is_some_and(|known| !known.fenced);
        let stays = |broker: &i32| !self.is_ours(*broker) && !at.removing.contains(broker);
        self.is_mirror(&image, partition.topic(), topic)
            .then(|| at.replicas.iter().copied().filter(|broker| stays(broker) && lives(broker)).collect())
    }

    pub(super) fn durable_replicas(&self) -> u32 {
        self.settings.durable_replicas
    }

    /// Which id leads a partition: what the destination says, or what it will be created with.
    fn id_for(&self, image: &ClusterImage, partition: &TopicPartition) -> i32 {
        let known = image.topic_named(partition.topic());
        let known = known.and_then(|(_, topic)| topic.partitions.get(&partition.partition()));
        known.and_then(|known| self.guest_of(known)).unwrap_or_else(|| {
            let ids = &self.settings.serving_ids;
            ids[shard_of(partition, ids.len())].0
        })
    }

    fn shard_of_id(&self, id: i32, shards: usize) -> usize {
        let index = self.settings.serving_ids.iter().position(|(each, _)| *each == id);
        index.unwrap_or(0) % shards
    }

    pub(super) fn is_ready(&self) -> bool {
        self.member.image_moves().borrow().is_ready
    }

    fn serves(&self, id: i32) -> bool {
        self.member.state(id).is_some_and(|state| state.is_serving)
    }

    /// What the threads that join and read the metadata log are refused.
    fn look_at_membership(&mut self, now: Instant) {
        let refused = self.member.states().borrow().iter().find_map(|(id, state)| match state.reason {
            Some(Reason::Refused { code }) => Some((*id, code)),
            _ => None,
        });
        match refused {
            Some((id, code)) => {
                let why = format!("broker {id}, error code {code}");
                self.troubles.failed(now, Step::Registration, code, why);
            }
            None => self.troubles.worked(Step::Registration),
        }
        match self.member.shared_image().refusal() {
            0 => self.troubles.worked(Step::MetadataLog),
            code => self.troubles.failed(now, Step::MetadataLog, code, format!("error code {code}")),
        }
    }

    /// Brokers that can take replicas.
    fn candidates(&self, image: &ClusterImage) -> Vec<Candidate> {
        destination_view::candidates(image, |broker| self.is_of_this_daemon(broker))
    }
}

impl Supervisor {
    /// Whether partitions can be taken on: a guest must know its destination first.
    pub(super) fn may_discover(&self) -> bool {
        let kept_is_known = self.hand_overs.as_ref().is_none_or(HandOvers::is_loaded);
        kept_is_known && self.guest.as_ref().is_none_or(GuestLink::is_ready)
    }

    /// The shard of a new partition.
    pub(super) fn choose_shard(&self, partition: &TopicPartition) -> usize {
        match &self.guest {
            None => shard_of(partition, self.shards.len()),
            Some(guest) => {
                let id = guest.id_for(&guest.member.image(), partition);
                guest.shard_of_id(id, self.shards.len())
            }
        }
    }

    /// A source partition was found: its topic is wanted at the destination.
    pub(super) fn want_mirror_topic(&mut self, partition: &TopicPartition) {
        let Some(guest) = &mut self.guest else { return };
        let seed = partition.topic().len() as u64;
        let topic = guest.topics.entry(partition.topic().to_owned()).or_insert_with(|| GuestTopic {
            phase: TopicPhase::Wanted,
            partitions: 0,
            retry_at: Instant::now(),
            backoff: Backoff::new(seed),
        });
        topic.partitions = topic.partitions.max(partition.partition() + 1);
        guest.look_wanted = true;
    }

    /// A shard has just taken a partition: it is told anew where that stands.
    pub(super) fn tell_lead_again(&mut self, key: PartitionKey) {
        if let Some(guest) = &mut self.guest {
            guest.told.remove(&key);
            guest.look_wanted = true;
        }
    }

    /// Asks every shard to listen for its guest ids.
    pub fn listen_for_followers(&mut self) {
        let Some(guest) = &self.guest else { return };
        let mut commands = Vec::new();
        for (index, (id, address)) in guest.settings.serving_ids.iter().enumerate() {
            let resolved = (address.host.as_str(), address.port).to_socket_addrs();
            match resolved.ok().and_then(|mut addresses| addresses.next()) {
                Some(bound) => commands.push((index, Command::Listen { guest: *id, address: bound })),
                None => self.halted = Some(format!("guest.listener {address} is no address of this host")),
            }
        }
        for (index, command) in commands {
            let shard = index % self.shards.len();
            self.send(shard, command);
        }
    }

    fn listen_again(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        let due: Vec<_> = guest.listen_again.extract_if(.., |(at, ..)| *at <= now).collect();
        let shards = self.shards.len();
        let commands: Vec<_> = due
            .into_iter()
            .map(|(_, id, address)| (guest.shard_of_id(id, shards), Command::Listen { guest: id, address }))
            .collect();
        commands.into_iter().for_each(|(shard, command)| self.send(shard, command));
    }

    /// A guest id cannot be reached: its address is still taken, or never was ours.
    fn listen_failed(&mut self, id: i32, address: SocketAddr, why: twinlog_io::SystemError) {
        let now = Instant::now();
        let Some(guest) = &mut self.guest else { return };
        if why == twinlog_io::SystemError::ADDRESS_IN_USE && now < guest.started_at + LISTEN_LIMIT {
            guest.listen_again.push((now + LISTEN_PAUSE, id, address));
            return;
        }
        let reason = format!(
            "guest broker {id} cannot listen on {address}: {why}; guest.listener must be an address of this host \
             with free ports"
        );
        error!("{reason}");
        self.halted = Some(reason);
    }

    /// Looks at what changed at the destination and starts what follows from it.
    pub(super) fn drive_guest(&mut self, now: Instant) {
        self.listen_again(now);
        let Some(guest) = &mut self.guest else { return };
        while let Ok(event) = guest.events.try_recv() {
            guest.look_wanted = true;
            match event {
                // The thread of the heartbeats has said these as they happened.
                GuestEvent::Changed { .. } | GuestEvent::StopServing { .. } => {}
                GuestEvent::Serve { id, epoch } => {
                    info!("guest broker {id} serves under broker epoch {epoch}")
                }
                GuestEvent::Bumped { id } => info!("the leader epochs of guest broker {id} were raised"),
            }
        }
        guest.look_at_membership(now);
        let state = *guest.member.image_moves().borrow();
        if !state.is_ready {
            return;
        }
        let moved = guest.seen_version != Some(state.version);
        if !moved && !guest.look_wanted && now < guest.looked_at + LOOK_INTERVAL {
            return;
        }
        (guest.seen_version, guest.looked_at, guest.look_wanted) = (Some(state.version), now, false);
        let level = guest.member.image().feature("metadata.version").unwrap_or(0);
        if level < CORDON_METADATA_VERSION && !guest.settings.allow_placement_eviction {
            self.halted = Some(format!(
                "the destination's metadata.version is {level}; below {CORDON_METADATA_VERSION} it cannot be told to \
                 place none of its own partitions on us: upgrade the feature with kafka-features, or set \
                 guest.allow.placement.eviction = true, and what it places on us is moved away again"
            ));
            return;
        }
        self.look_at_brokers();
        self.look_at_credentials();
        self.look_at_topics();
        self.tell_leads();
        self.create_due(now);
        self.add_partitions_due(now);
        self.shrink_due(now);
        self.guard_due(now);
        self.evict_due(now);
        self.bump_due(now);
    }

    /// A password that changed or was taken away counts from the next login on.
    fn look_at_credentials(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        let shared = guest.member.shared_image();
        let image = shared.read();
        if guest.settings.listener_security.protocol().has_sasl()
            && *guest.credentials_told != *image.credentials()
        {
            guest.credentials_told = Arc::new(image.credentials().clone());
            for shard in &mut self.shards {
                shard.send(Command::Credentials(guest.credentials_told.clone()));
            }
        }
    }

    fn look_at_brokers(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        let mut wanted: BTreeMap<i32, (i64, Option<Meeting>, Vec<String>)> = BTreeMap::new();
        let meeting = &guest.settings.inter_broker_listener_name;
        let protocol = guest.settings.security.protocol().number();
        for broker in guest.member.image().brokers().values() {
            if !guest.is_ours(broker.broker) {
                let mut hosts: Vec<String> = broker.listeners.iter().map(|each| each.host.clone()).collect();
                hosts.sort();
                hosts.dedup();
                // Where brokers meet, or wherever what we speak is spoken.
                let speaks = |listener: &&Listener| listener.security_protocol == protocol;
                let known = broker.listeners.iter().filter(speaks);
                let listener = known.max_by_key(|listener| listener.name == *meeting);
                let meeting = listener.map(|listener| (Arc::from(&*listener.host), listener.port));
                wanted.insert(broker.broker, (broker.epoch, meeting, hosts));
            }
        }
        let mut resolve = Vec::new();
        for (broker, (_, _, hosts)) in &wanted {
            let known = guest.resolved.get(broker).is_some_and(|(known, _)| known == hosts);
            if !known && guest.resolving.insert(*broker) {
                resolve.push((*broker, hosts.clone()));
            }
        }
        let registered = wanted.iter().filter_map(|(id, (epoch, meeting, _))| {
            let (_, addresses) = guest.resolved.get(id)?;
            Some(RegisteredBroker {
                id: *id,
                epoch: *epoch,
                addresses: addresses.clone(),
                meeting: meeting.clone(),
            })
        });
        let registered: Vec<RegisteredBroker> = registered.collect();
        if registered != guest.brokers_told {
            guest.brokers_told = registered.clone();
            let brokers: Arc<[RegisteredBroker]> = registered.into();
            for shard in &mut self.shards {
                shard.send(Command::Brokers(brokers.clone()));
            }
        }
        for (broker, hosts) in resolve {
            self.spawn(async move {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for host in &hosts {
                    let found = tokio::net::lookup_host((host.as_str(), 0)).await;
                    let found =
                        found.into_iter().flatten().map(|address: SocketAddr| address.ip().to_canonical());
                    addresses.extend(found);
                }
                Outcome::Guest(GuestOutcome::Resolved { broker, hosts, addresses })
            });
        }
    }

    fn look_at_topics(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        let shared = guest.member.shared_image();
        let image = shared.read();
        let names: Vec<String> = guest.topics.keys().cloned().collect();
        for name in names {
            // Half way through its hand-over it does not look like a mirror any more.
            let running = self.hand_overs.as_ref().and_then(|hand_overs| hand_overs.running(&name));
            let is_mirror = |id, topic| running == Some(id) || guest.is_mirror(&image, &name, topic);
            let found = image.topic_named(&name).map(|(id, topic)| (id, is_mirror(id, topic)));
            let topic = guest.topics.get_mut(&name).expect("just listed");
            let phase = match (&topic.phase, found) {
                (TopicPhase::Ours(known), Some((id, _))) if *known == id => continue,
                (_, Some((id, true))) => TopicPhase::Ours(id),
                (TopicPhase::Ours(_), _) => TopicPhase::Refused(
                    "its mirror topic was deleted or replaced at the destination".to_owned(),
                ),
                (_, Some((_, false))) => TopicPhase::Refused(
                    "the destination has a topic of this name that is not a mirror of this link".to_owned(),
                ),
                (TopicPhase::Refused(_), None) => TopicPhase::Wanted,
                (TopicPhase::Wanted | TopicPhase::Creating, None) => continue,
            };
            match &phase {
                TopicPhase::Refused(why) if topic.phase != phase => {
                    error!("topic {name} is not mirrored: {why}")
                }
                TopicPhase::Ours(_) => info!("topic {name} is a mirror topic of the destination"),
                _ => {}
            }
            topic.phase = phase;
        }
    }

    /// Tells shards what changed about the partitions they hold.
    fn tell_leads(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        let shared = guest.member.shared_image();
        let image = shared.read();
        let mut commands = Vec::new();
        for (name, topic) in &guest.topics {
            let TopicPhase::Ours(id) = topic.phase else { continue };
            let Some(found) = image.topic(id) else { continue };
            let first = TopicPartition::new(name, 0).expect("a topic's name is legal");
            let is_compacted = self.hand_overs.as_ref().is_some_and(|kept| kept.is_compacted(name));
            let mirrors = self.mirrors.range(first..).take_while(|(each, _)| each.topic() == name);
            for (partition, mirror) in mirrors.filter(|(_, mirror)| mirror.is_in_shard()) {
                let Some(at) = found.partitions.get(&partition.partition()) else { continue };
                let Some(assignment) = assignment(guest, &image, (id, name), at, is_compacted) else {
                    continue;
                };
                if guest.told.get(&mirror.key) != Some(&assignment) {
                    commands.push((mirror.shard, mirror.key, assignment));
                }
            }
        }
        drop(image);
        for (shard, key, assignment) in commands {
            if let Some(guest) = &mut self.guest {
                guest.told.insert(key, assignment.clone());
            }
            self.send(shard, Command::Lead { key, assignment: Box::new(assignment) });
            if let Some(partition) = self.by_key.get(&key).cloned() {
                self.freeze_anew(&partition, shard, key);
            }
        }
    }

    fn bump_due(&mut self, now: Instant) {
        let Some(guest) = &mut self.guest else { return };
        for id in std::mem::take(&mut guest.bump_wanted) {
            if guest.bumped_at.get(&id).is_some_and(|at| now < *at + BUMP_GAP) {
                guest.bump_wanted.insert(id);
                continue;
            }
            guest.bumped_at.insert(id, now);
            if let Err(error) = guest.member.bump(id) {
                warn!("{error}");
            }
        }
    }

    /// What a shard says that concerns followers.
    pub(super) fn on_guest_event(&mut self, event: Event) {
        match event {
            Event::Listening { guest, address } => info!("guest broker {guest} listens on {address}"),
            Event::ListenFailed { guest, address, errno } => {
                self.listen_failed(guest, address, twinlog_io::SystemError(errno));
            }
            Event::FollowerRefused { guest, peer, broker, why } if self.may_warn("follower") => {
                warn!("guest broker {guest} closed a connection from {peer} (broker {broker}): {why}");
            }
            Event::ReadThroughStuck { key, source, follower } if self.may_warn("read-through") => {
                if let Some(partition) = self.by_key.get(&key) {
                    warn!(
                        "{partition}: a follower lacks what is held no more, and nobody has it: the source \
                         ({source:?}), other followers ({follower:?}); it waits, and it is tried again"
                    );
                }
            }
            Event::EpochWanted { key, .. } | Event::FollowerStalled { key, .. } => {
                if let Event::FollowerStalled { broker, .. } = event
                    && let Some(partition) = self.by_key.get(&key)
                {
                    warn!("broker {broker} stopped following {partition}; its leader epoch is raised");
                }
                if let Some(guest) = &mut self.guest
                    && let Some(told) = guest.told.get(&key)
                {
                    guest.bump_wanted.insert(told.guest);
                    guest.look_wanted = true;
                }
            }
            _ => {}
        }
    }
}

/// What the image says of one partition, for its shard.
fn assignment(
    guest: &GuestLink,
    image: &ClusterImage,
    (topic_id, name): (TopicId, &str),
    at: &Partition,
    is_compacted: bool,
) -> Option<LeadAssignment> {
    let id = guest.guest_of(at)?;
    let stock = at.replicas.iter().filter(|broker| !guest.is_ours(**broker));
    let followers = stock.map(|broker| {
        let known = image.broker(*broker);
        let registration = Registration {
            broker_epoch: known.map(|known| known.epoch),
            unfenced: known.is_some_and(|known| !known.fenced),
            in_target: !at.removing.contains(broker),
        };
        (*broker, registration)
    });
    Some(LeadAssignment {
        guest: id,
        topic_id,
        topic: name.to_owned(),
        leads: at.leader == Some(id) && at.isr == [id] && guest.serves(id),
        leader_epoch: LeaderEpoch(at.leader_epoch),
        partition_epoch: at.partition_epoch,
        durable_replicas: guest.settings.durable_replicas,
        is_compacted,
        followers: followers.collect(),
    })
}
