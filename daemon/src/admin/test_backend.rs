//! Answers for tests: a link `dr` with two mirror topics, and a memory of what it was asked; over the socket, and
//! over whatever listeners a test wants.
//!
//! Hand-overs go one step further each time that their topic is looked at, so that no test waits.

use super::access::{Access, AdminSettings};
use super::answer::*;
use super::*;
use crate::control::state::StateDatabase;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use twinlog_sync::lifecycle::HandOverStep;

/// A daemon of which only the operator's side is real, on a thread of its own.
pub(crate) struct TestDaemon {
    pub directory: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    pub readiness: watch::Sender<Readiness>,
    /// Of the listeners, in their order.
    pub addresses: Vec<SocketAddr>,
    pub state: StateDatabase,
    /// Dropped to end it.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestDaemon {
    pub fn start() -> Self {
        Self::with(&AdminSettings::default())
    }

    pub fn with(settings: &AdminSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDatabase::open(directory.path()).unwrap();
        let (listeners, access) = (settings.listeners.clone(), Arc::new(Access::new(settings).unwrap()));
        let (requests, mut waiting) = mpsc::channel(REQUESTS_MAX);
        let (readiness, ready) = watch::channel(Readiness::NotReady { why: "metadata is read".into() });
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut answering = Answering { asked: Arc::clone(&asked), steps: [None, None], deleted: Vec::new() };
        let (path, kept) = (directory.path().to_owned(), state.clone());
        let thread = std::thread::spawn(move || {
            run(async move {
                let socket = AdminSocket::bind(&path).unwrap();
                let bind = |at: &_| AdminListener::bind(*at, Arc::clone(&access)).unwrap();
                let listeners: Vec<_> = listeners.iter().map(bind).collect();
                bound.send(listeners.iter().map(|each| each.local_address().unwrap()).collect()).unwrap();
                let (backend, peers) =
                    (Backend { requests, readiness: ready, state: kept }, Peers::default());
                let mut serving = tokio::task::JoinSet::new();
                for listener in listeners {
                    serving.spawn(serve_listener(listener, peers.clone(), backend.clone()));
                }
                let answers = async {
                    while let Some(request) = waiting.recv().await {
                        answering.answer(request);
                    }
                };
                tokio::select! {
                    () = serve(socket, backend) => {}
                    () = answers => {}
                    _ = stopped => {}
                }
            });
        });
        let addresses = is_bound.recv().unwrap();
        Self { directory, asked, readiness, addresses, state, stop: Some(stop), thread: Some(thread) }
    }

    /// What was asked so far, without the way back.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("a daemon ends once").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Runs to its end on this thread.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const TOPICS: [&str; 2] = ["bills", "orders"];

struct Answering {
    asked: Arc<Mutex<Vec<String>>>,
    /// Hand-over of each topic, as an index into all steps.
    steps: [Option<usize>; 2],
    deleted: Vec<String>,
}

impl Answering {
    fn answer(&mut self, request: AdminRequest) {
        let text = format!("{request:?}");
        let said = text.split("reply:").next().expect("a first part").trim_end_matches([' ', ',', '{']);
        self.asked.lock().unwrap().push(said.replace('"', ""));
        match request {
            AdminRequest::ListClusters { reply } => {
                reply.send(Ok(vec![ClusterView { cluster_id: "abc".into() }])).unwrap();
            }
            AdminRequest::ListLinks { reply, .. } => reply.send(Ok(vec![link()])).unwrap(),
            AdminRequest::DescribeLink { at, reply } => reply.send(found(&at).map(|()| link())).unwrap(),
            AdminRequest::ListMirrors { reply, .. } => {
                reply.send(Ok(TOPICS.map(|topic| self.mirror(topic)).into())).unwrap();
            }
            AdminRequest::DescribeMirror { at, topic, reply } => {
                let outcome = found(&at).and_then(|()| self.describe(&topic));
                reply.send(outcome).unwrap();
            }
            AdminRequest::ListGroups { reply, .. } => reply.send(Ok(vec![GroupView::default()])).unwrap(),
            AdminRequest::DescribeGroup { group, reply, .. } => {
                reply.send(Ok(GroupView { group_id: group, ..GroupView::default() })).unwrap();
            }
            AdminRequest::DeleteMirrors { names, reply, .. } => {
                self.deleted.extend(names.iter().cloned());
                reply.send(Ok(names.iter().map(|name| action(name)).collect())).unwrap();
            }
            AdminRequest::CreateMirrors { names, reply, .. } => {
                reply.send(Ok(names.iter().map(|name| action(name)).collect())).unwrap();
            }
            AdminRequest::Promote { at, selection, validate_only, reply, .. }
            | AdminRequest::Failover { at, selection, validate_only, reply, .. } => {
                reply.send(found(&at).map(|()| self.hand_over(&selection, validate_only))).unwrap();
            }
            AdminRequest::PauseMirrors { at, selection, reply, .. }
            | AdminRequest::ResumeMirrors { at, selection, reply, .. } => {
                reply.send(found(&at).map(|()| self.hand_over(&selection, true))).unwrap();
            }
            AdminRequest::PauseLink { at, reply, .. } => {
                reply.send(found(&at).map(|()| link())).unwrap();
            }
            AdminRequest::GuestLeave { reply, .. } => {
                let why = "2 mirror topics are left; promote or delete them first";
                reply.send(Err(AdminError::new(ErrorCode::Refused, &why))).unwrap();
            }
            AdminRequest::Metrics { reply } => reply.send(Ok(super::metrics::Samples::default())).unwrap(),
            AdminRequest::Status { reply } => reply.send(Ok(status())).unwrap(),
            AdminRequest::CreateLink { link, reply, .. } => {
                let effect = "create".to_owned();
                reply.send(Ok(LinkChangeView { link_name: link, effect, ..Default::default() })).unwrap();
            }
            AdminRequest::AlterLink { at, reply, .. } | AdminRequest::DeleteLink { at, reply, .. } => {
                let effect = "live".to_owned();
                let view = LinkChangeView { link_name: at.link.clone(), effect, ..Default::default() };
                reply.send(found(&at).map(|()| view)).unwrap();
            }
            AdminRequest::LinkConfigs { at, reply } => {
                let view = LinkConfigView { name: "flush.ms".into(), ..LinkConfigView::default() };
                reply.send(found(&at).map(|()| vec![view])).unwrap();
            }
        }
    }

    fn hand_over(&mut self, selection: &Selection, validate_only: bool) -> Vec<MirrorActionView> {
        let mut actions = Vec::new();
        for (topic, step) in TOPICS.iter().zip(&mut self.steps).filter(|(topic, _)| selection.means(topic)) {
            if !validate_only {
                *step = Some(0);
            }
            actions.push(action(topic));
        }
        if let Selection::Names(names) = selection {
            for name in names.iter().filter(|name| !TOPICS.contains(&name.as_str())) {
                let (message, code) = ("there is no mirror topic of this name", "NO_SUCH_MIRROR_TOPIC");
                actions.push(MirrorActionView {
                    error_message: Some(message.into()),
                    error_code: Some(code.into()),
                    mirror_lags: Vec::new(),
                    ..action(name)
                });
            }
        }
        actions
    }

    /// One step further at each look; `bills` is taken back where it could be proven.
    fn describe(&mut self, topic: &str) -> Result<MirrorTopicView, AdminError> {
        let known = |each: &str| each == topic && !self.deleted.iter().any(|gone| gone == topic);
        let index = TOPICS.iter().position(|each| known(each)).ok_or_else(|| {
            let why = format!("link dr has no mirror topic {topic}");
            AdminError::new(ErrorCode::NoSuchMirrorTopic, &why)
        })?;
        let last = HandOverStep::ALL.iter().position(|step| *step == HandOverStep::Done).unwrap();
        if let Some(step) = &mut self.steps[index] {
            *step = match topic {
                "bills" if *step == 3 => last + 1,
                _ => (*step + 1).min(last + 1),
            };
            if topic == "orders" {
                *step = (*step).min(last);
            }
        }
        Ok(self.mirror(topic))
    }

    fn mirror(&self, topic: &str) -> MirrorTopicView {
        let index = TOPICS.iter().position(|each| *each == topic).unwrap();
        let hand_over = self.steps[index].map(|step| {
            let step = HandOverStep::ALL[step];
            let error = (step == HandOverStep::Abandoned).then(|| "broker 3 is 12 records behind".to_owned());
            HandOverView {
                kind: "promote".into(),
                step: step.name().into(),
                since_ms: 5,
                error,
                hand_over_request_ms: Some(27),
                ..HandOverView::default()
            }
        });
        let partition = PartitionView {
            lag: Some(0),
            last_source_fetch_offset: Some(1000),
            log_start: Some(0),
            log_end: Some(1000),
            high_watermark: Some(1000),
            leader_epoch: Some(4),
            guest_broker_id: Some(900),
            followers: vec![FollowerView { broker_id: 1, end: Some(1000), age_ms: Some(12), in_sync: true }],
            state: "ACTIVE".into(),
            ..PartitionView::default()
        };
        MirrorTopicView {
            link_name: "dr".into(),
            mirror_topic_name: topic.into(),
            source_topic_name: topic.into(),
            state: "ACTIVE".into(),
            state_time_ms: 1_700_000_000_000,
            replication_factor: Some(3),
            exactness: "exact".into(),
            partitions: vec![partition],
            hand_over,
            ..MirrorTopicView::default()
        }
    }
}

fn found(at: &LinkAddress) -> Result<(), AdminError> {
    match at.link.as_str() {
        "dr" => Ok(()),
        other => Err(AdminError::new(ErrorCode::NoSuchLink, &format!("there is no link {other}"))),
    }
}

fn link() -> LinkView {
    LinkView {
        link_name: "dr".into(),
        link_state: "ACTIVE".into(),
        mode: "guest".into(),
        ..LinkView::default()
    }
}

fn action(topic: &str) -> MirrorActionView {
    let partition = PartitionActionView { lag: Some(0), ..PartitionActionView::default() };
    MirrorActionView {
        mirror_topic_name: topic.into(),
        mirror_lags: vec![partition],
        consumer_group_offsets: Some("not configured".into()),
        ..MirrorActionView::default()
    }
}

fn status() -> StatusView {
    let guest = GuestView {
        broker_id: 900,
        state: "RUNNING".into(),
        broker_epoch: Some(77),
        heartbeat_slack_ms: Some(8_000),
        led_partitions: 2,
        age_ms: Some(400),
    };
    StatusView {
        version: "0.1.0".into(),
        link_name: "dr".into(),
        link_state: "ACTIVE".into(),
        mode: "guest".into(),
        uptime_ms: 3_723_000,
        guests: vec![guest],
        controllers: Some(ControllersView { active_controller_id: Some(100), ..ControllersView::default() }),
        totals: TotalsView {
            mirror_topics: 2,
            partitions: 2,
            lag: Some(7),
            age_ms: Some(40),
            ..Default::default()
        },
        alarms: vec![AlarmView { code: "GUARD_CHANGED".into(), message: "set back".into(), since_ms: 1 }],
        ..StatusView::default()
    }
}
