//! One partition's way: ends at the source, recovery, its shard, and questions about the source's log.

use super::{Edges, LastEpoch, Outcome, QuestionError, Supervisor};
use crate::control::instruction::Release;
use crate::control::mirror::{Mirror, Phase, Question, Replacement, Stopped};
use crate::control::source_client::{ClientError, LogEdge, SourceClient};
use crate::control::store_work::{CheckpointFrom, StoreJob, StoreRefusal, make_ready, raise_stamp, replace};
use crate::recovery::RecoveredPartition;
use crate::shard::mailbox::{AddPartition, Command};
use crate::store::StoreError;
use std::collections::BTreeMap;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twinlog_log_segment::epoch::EpochHistory;
use twinlog_log_segment::files::TopicPartition;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_sync::fault::Fault;
use twinlog_sync::partition::Leader;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::truncation::{Decision, OnGap, SourceLog, classify};
use twinlog_sync::wire::fetch_request::IsolationLevel;

/// Partitions in one question about ends: a broker answers it in one piece, holding a thread meanwhile.
const EDGES_PER_REQUEST_MAX: usize = 1_000;

impl Supervisor {
    /// Asks each leader where the logs of its waiting partitions start and end.
    pub(super) fn ask_for_edges(&mut self, now: Instant) {
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, LeaderEpoch)>> = BTreeMap::new();
        for partition in &self.waiting {
            let Some(mirror) = self.mirrors.get_mut(partition) else { continue };
            // Metadata is new more often than findings are: a leader that came back unchanged is none.
            mirror.leader = mirror.leader.or_else(|| self.discovery.leader(partition));
            if let Some(leader) = mirror.leader
                && mirror.retry_at <= now
            {
                mirror.phase = Phase::Asking;
                by_leader.entry(leader.broker).or_default().push((partition.clone(), leader.epoch));
            }
        }
        let isolation = self.settings.link.isolation_level;
        for (broker, partitions) in by_leader {
            for piece in partitions.chunks(EDGES_PER_REQUEST_MAX) {
                piece.iter().for_each(|(partition, _)| {
                    self.waiting.remove(partition);
                });
                let (client, piece) = (self.client.clone(), piece.to_vec());
                self.spawn(async move {
                    let result = edges_of(&client, broker, isolation, &piece).await;
                    let asked = piece.into_iter().map(|(partition, _)| partition).collect();
                    Outcome::Edges { asked, result }
                });
            }
        }
    }

    pub(super) fn edges_came(&mut self, asked: &[TopicPartition], result: Result<Vec<Edges>, ClientError>) {
        let answers = result.unwrap_or_else(|failed| {
            if self.may_warn("edges") {
                warn!("the ends of {} partitions are not known: {failed}; asked again", asked.len());
            }
            Vec::new()
        });
        for each in &answers {
            self.leader_answered(&each.partition, each.edges.err().unwrap_or(0));
        }
        let known: BTreeMap<_, _> =
            answers.into_iter().filter_map(|each| Some((each.partition, each.edges.ok()?))).collect();
        let now = Instant::now();
        for partition in asked {
            let Some(mirror) = self.mirrors.get_mut(partition).filter(|mirror| mirror.phase == Phase::Asking)
            else {
                continue;
            };
            if mirror.stopped.is_some() {
                mirror.phase = Phase::Parked;
                continue;
            }
            match known.get(partition) {
                Some((start, end)) => {
                    mirror.source_start = *start;
                    mirror.captured_end.get_or_insert(*end);
                    if !self.take_over(partition, (*start, *end)) {
                        self.recover(partition);
                    }
                }
                None => {
                    mirror.phase = Phase::Waiting;
                    mirror.pause(now);
                    // The next metadata may name another leader.
                    mirror.leader = None;
                    self.waiting.insert(partition.clone());
                    self.refresh.wanted = true;
                }
            }
        }
    }

    pub(super) fn store_job(&mut self, partition: &TopicPartition) -> StoreJob {
        let mirror = &self.mirrors[partition];
        let checkpoint = if mirror.ran_before {
            CheckpointFrom::Journal
        } else {
            CheckpointFrom::Start(self.checkpoints.get(partition).cloned().map(Box::new))
        };
        StoreJob {
            partition: partition.clone(),
            topic_id: mirror.topic.id,
            directory: mirror.directory.clone(),
            journal_directory: self.settings.journal_directory(),
            cuts_directory: self.settings.cuts_directory(),
            checkpoint,
            start_offset: mirror.source_start,
            followed: self.settings.link.guest.is_some(),
            batch_bytes_max: self.settings.link.batch_bytes_max,
            release: self.instructions.of(partition),
            cut_bytes: mirror.cut_bytes.clone(),
        }
    }

    pub(super) fn recover(&mut self, partition: &TopicPartition) {
        let job = self.store_job(partition);
        self.make_ready(job);
    }

    pub(super) fn make_ready(&mut self, job: StoreJob) {
        if let Some(mirror) = self.mirrors.get_mut(&job.partition) {
            mirror.phase = Phase::Recovering;
        }
        self.spawn_store_job(move || {
            let result = Box::new(make_ready(&job));
            Outcome::Ready { partition: job.partition, result }
        });
    }

    pub(super) fn ready_came(
        &mut self,
        partition: &TopicPartition,
        result: Result<RecoveredPartition, StoreRefusal>,
    ) {
        let release = self.instructions.of(partition);
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        mirror.ran_before = true;
        self.checkpoints.remove(partition);
        let recovered = match result {
            Ok(recovered) if mirror.stopped.is_none() => recovered,
            Ok(_) => {
                mirror.phase = Phase::Parked;
                return;
            }
            Err(refusal) => return self.park(partition, stopped_by(&refusal)),
        };
        recovered.alarms.iter().for_each(|alarm| warn!("{alarm}"));
        match release {
            Some(Release::Retry | Release::RestartFrom(_)) => self.forget_instruction(partition),
            Some(Release::AcceptGap) => mirror.accepts_gap = true,
            None => {}
        }
        if self.guest.is_some() && self.confirm_last_epoch(partition, &recovered) {
            return;
        }
        self.add_ready(partition, recovered);
    }

    /// Followers may hold more than we recovered. A source whose leader changed since may have lost some of
    /// that: it is asked before a byte is served (decisions 3). Returns whether that is so.
    fn confirm_last_epoch(&mut self, partition: &TopicPartition, recovered: &RecoveredPartition) -> bool {
        let mirror = self.mirrors.get_mut(partition).expect("it has just become ready");
        let Some((leader, latest)) = mirror.leader.zip(recovered.last_source_epoch) else { return false };
        if std::mem::take(&mut mirror.compared) || leader.epoch <= latest {
            return false;
        }
        mirror.phase = Phase::Confirming;
        let (client, partition, recovered) =
            (self.client.clone(), partition.clone(), Box::new(recovered.clone()));
        self.spawn(async move {
            let result = match client.end_of_epoch(leader, &partition, latest).await {
                Ok(Ok(end)) => Ok(end),
                Ok(Err(code)) => Err(QuestionError::Code(code)),
                Err(failed) => Err(QuestionError::Client(failed)),
            };
            Outcome::LastEpoch { partition, recovered, result }
        });
        true
    }

    pub(super) fn last_epoch_came(
        &mut self,
        partition: &TopicPartition,
        recovered: RecoveredPartition,
        result: LastEpoch,
    ) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        if mirror.stopped.is_some() {
            mirror.phase = Phase::Parked;
            return;
        }
        let end = match result {
            Ok(end) => end,
            Err(failed) => {
                warn!("{partition}: {failed}; asked again");
                mirror.phase = Phase::Waiting;
                mirror.leader = None;
                mirror.pause(Instant::now());
                self.waiting.insert(partition.clone());
                self.refresh.wanted = true;
                return;
            }
        };
        match end {
            // Below our end, the first fetch says so and the log is cut there. Otherwise a new epoch begins where
            // the old one ended, even if one begins there already: bytes of that one may have been lost too.
            Some((_, end)) if end >= recovered.checkpoint.log_end => {
                info!(
                    "{partition}: the source's log went another way at offset {end}; so will its followers"
                );
                let journal_directory = self.settings.journal_directory();
                let (partition, mut recovered) = (partition.clone(), recovered);
                self.spawn_store_job(move || {
                    let raised = raise_stamp(&journal_directory, &recovered.checkpoint, end);
                    let result = raised.map(|checkpoint| {
                        recovered.checkpoint = checkpoint;
                        recovered
                    });
                    Outcome::Confirmed { partition, result: Box::new(result) }
                });
            }
            _ => self.add_ready(partition, recovered),
        }
    }

    pub(super) fn confirmed(
        &mut self,
        partition: &TopicPartition,
        result: Result<RecoveredPartition, StoreError>,
    ) {
        match result {
            Ok(recovered) => self.add_ready(partition, recovered),
            Err(error) => self.park(partition, stopped_by(&StoreRefusal::Store(error))),
        }
    }

    /// It stands still before any shard has it.
    pub(super) fn park(&mut self, partition: &TopicPartition, stopped: Stopped) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        error!("{partition} is stopped ({}): {}", stopped.code, stopped.reason);
        (mirror.phase, mirror.stopped) = (Phase::Parked, Some(stopped));
    }

    /// It waits for its turn again.
    pub(super) fn unpark(&mut self, partition: &TopicPartition, now: Instant) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        (mirror.phase, mirror.retry_at) = (Phase::Waiting, now);
        self.waiting.insert(partition.clone());
    }

    /// Gives a recovered partition to its shard.
    fn add_ready(&mut self, partition: &TopicPartition, recovered: RecoveredPartition) {
        self.replace_in_log_starts(partition, recovered.checkpoint.log_start);
        let mirror = self.mirrors.get_mut(partition).expect("it has just become ready");
        mirror.phase = Phase::Running;
        mirror.first_end.get_or_insert(recovered.checkpoint.log_end);
        mirror.lag.begin(recovered.checkpoint.log_end.value(), &mirror.counters);
        self.sampling.watch(mirror);
        let (shard, key, add) = (mirror.shard, mirror.key, add_partition(mirror, recovered));
        self.send(shard, Command::AddPartition(Box::new(add)));
        self.freeze_anew(partition, shard, key);
        self.tell_lead_again(key);
        self.wants_leader.insert(partition.clone());
        self.tell_leaders();
    }

    pub(super) fn classify(
        &mut self,
        key: PartitionKey,
        fault: &Fault,
        epochs: EpochHistory,
        (log_start, log_end): (Offset, Offset),
    ) {
        let runs = |mirror: &&mut Mirror| mirror.phase == Phase::Running && mirror.stopped.is_none();
        let Some(mirror) = self.mirror_of(key).filter(runs) else { return };
        info!("{}: {fault}; asking the source what became of its log", mirror.partition);
        let diverged = match fault {
            Fault::Diverged { epoch, end } if epoch.is_known() => Offset::new(*end).map(|end| (*epoch, end)),
            _ => None,
        };
        mirror.question = Some(Question { epochs, log_start, log_end, diverged });
        mirror.phase = Phase::Classifying;
        let partition = mirror.partition.clone();
        self.questions.insert(partition);
    }

    /// Asks what is due. A partition that was told to go on a moment ago waits for its pause first.
    pub(super) fn ask_questions(&mut self, now: Instant) {
        let due: Vec<TopicPartition> = self
            .questions
            .iter()
            .filter(|partition| self.mirrors.get(partition).is_some_and(|mirror| mirror.retry_at <= now))
            .cloned()
            .collect();
        let isolation = self.settings.link.isolation_level;
        for partition in due {
            let Some(mirror) = self.mirrors.get_mut(&partition) else { continue };
            let (Some(leader), Some(question)) = (mirror.leader, &mirror.question) else {
                mirror.pause(now);
                mirror.leader = self.discovery.leader(&partition);
                self.refresh.wanted = true;
                continue;
            };
            let epoch = question.epochs.latest().map(|latest| latest.epoch);
            mirror.pause(now);
            self.questions.remove(&partition);
            let client = self.client.clone();
            self.spawn(async move {
                let result = source_log(&client, leader, isolation, &partition, epoch).await;
                Outcome::Source { partition, result }
            });
        }
    }

    pub(super) fn source_came(
        &mut self,
        partition: &TopicPartition,
        result: Result<SourceLog, QuestionError>,
    ) {
        let Some(mirror) = self.mirrors.get_mut(partition) else { return };
        if mirror.phase != Phase::Classifying {
            return;
        }
        let source = match result {
            Ok(source) => source,
            Err(failed) => {
                warn!("{partition}: {failed}; asked again");
                mirror.leader = self.discovery.leader(partition);
                self.questions.insert(partition.clone());
                self.refresh.wanted = true;
                return;
            }
        };
        let question = mirror.question.take().expect("a question was asked");
        let decision =
            classify(&question.epochs, question.log_start, question.log_end, question.diverged, &source);
        // What the source lost can never be caught up with.
        mirror.captured_end = mirror.captured_end.map(|end| end.min(source.log_end));
        mirror.source_start = source.log_start;
        self.decided(partition, &question, decision);
    }

    fn decided(&mut self, partition: &TopicPartition, question: &Question, decision: Decision) {
        let mirror = self.mirrors.get_mut(partition).expect("its question was just answered");
        let (shard, key) = (mirror.shard, mirror.key);
        match decision {
            Decision::Refetch => {
                mirror.phase = Phase::Running;
                self.send(shard, Command::Resume { key });
            }
            Decision::Stop(fault) => self.stop(partition, &fault),
            Decision::Cut { common_end } => self.let_go(partition, Replacement::Cut { common_end }),
            Decision::RestartAt { log_start } => {
                // A mirror that never held a batch has no past that a gap could tear.
                let nothing_held = question.epochs.is_empty() && question.log_start == question.log_end;
                let policy = self.settings.link.truncation.on_gap == OnGap::Continue;
                if policy || mirror.accepts_gap || nothing_held {
                    self.let_go(partition, Replacement::Restart { at: log_start });
                } else {
                    let fault = Fault::Gap { log_end: question.log_end, source_start: log_start };
                    error!("{partition} is stopped ({}): {fault}", fault.code());
                    self.stop(partition, &fault);
                }
            }
        }
    }

    pub(super) fn let_go(&mut self, partition: &TopicPartition, replacement: Replacement) {
        let mirror = self.mirrors.get_mut(partition).expect("it is in its shard");
        mirror.phase = Phase::Leaving(replacement);
        let (shard, key) = (mirror.shard, mirror.key);
        self.send(shard, Command::Remove { key });
    }

    /// A shard has let go of a partition: its files are ours.
    pub(super) fn removed(&mut self, key: PartitionKey) {
        let Some(partition) = self.by_key.get(&key).cloned() else { return };
        let Some(mirror) = self.mirrors.get_mut(&partition) else { return };
        let Phase::Leaving(replacement) = mirror.phase else { return };
        if replacement == Replacement::Gone {
            return self.drop_mirror(&partition);
        }
        if replacement == Replacement::Sealed {
            (mirror.phase, mirror.sealed) = (Phase::Parked, true);
            return;
        }
        if mirror.stopped.is_some() {
            mirror.phase = Phase::Parked;
            return;
        }
        if replacement == Replacement::Reopen {
            (mirror.phase, mirror.retry_at) = (Phase::Waiting, Instant::now());
            self.waiting.insert(partition);
            return;
        }
        mirror.phase = Phase::Replacing;
        warn!("{partition}: {}; what goes is exported first", Self::replacement_text(replacement));
        if matches!(replacement, Replacement::Restart { .. }) && std::mem::take(&mut mirror.accepts_gap) {
            self.forget_instruction(&partition);
        }
        if let Replacement::Cut { common_end: cut } | Replacement::Before { to: cut } = replacement {
            self.cut_groups(&partition, cut);
        }
        let mut job = self.store_job(&partition);
        job.release = None;
        let settings = self.settings.clone();
        self.spawn_store_job(move || {
            let result = Box::new(replace(&job, replacement, &settings));
            Outcome::Ready { partition: job.partition, result }
        });
    }
}

fn add_partition(mirror: &Mirror, recovered: RecoveredPartition) -> AddPartition {
    AddPartition {
        key: mirror.key,
        topic: mirror.topic.clone(),
        directory: mirror.directory.clone(),
        recovered,
        counters: mirror.counters.clone(),
    }
}

pub(super) fn stopped_by(refusal: &StoreRefusal) -> Stopped {
    match refusal {
        StoreRefusal::Policy(fault) => fault.into(),
        StoreRefusal::Store(StoreError::TopicRecreated { mirrored, found }) => {
            (&Fault::TopicRecreated { mirrored: *mirrored, found: *found }).into()
        }
        StoreRefusal::Store(error) => Stopped { code: "STORE_REFUSED", reason: error.to_string() },
    }
}

async fn edges_of(
    client: &SourceClient,
    broker: i32,
    isolation: IsolationLevel,
    partitions: &[(TopicPartition, LeaderEpoch)],
) -> Result<Vec<Edges>, ClientError> {
    let starts = client.log_edges(broker, isolation, LogEdge::Start, partitions).await?;
    let ends = client.log_edges(broker, isolation, LogEdge::End, partitions).await?;
    let ends: BTreeMap<_, _> = ends.into_iter().collect();
    let both = |(partition, start): (TopicPartition, Result<Offset, i16>)| {
        let end = *ends.get(&partition)?;
        Some(Edges { partition, edges: start.and_then(|start| end.map(|end| (start, end))) })
    };
    Ok(starts.into_iter().filter_map(both).collect())
}

async fn source_log(
    client: &SourceClient,
    leader: Leader,
    isolation: IsolationLevel,
    partition: &TopicPartition,
    epoch: Option<LeaderEpoch>,
) -> Result<SourceLog, QuestionError> {
    let asked = [(partition.clone(), leader.epoch)];
    let edges = edges_of(client, leader.broker, isolation, &asked).await.map_err(QuestionError::Client)?;
    let edges = edges.into_iter().next().map(|each| each.edges);
    let not_answered = || QuestionError::Client(ClientError::UnknownBroker { broker: leader.broker });
    let (log_start, log_end) = edges.ok_or_else(not_answered)?.map_err(QuestionError::Code)?;
    let our_epoch_end = match epoch {
        Some(epoch) => {
            let told = client.end_of_epoch(leader, partition, epoch).await.map_err(QuestionError::Client)?;
            told.map_err(QuestionError::Code)?
        }
        None => None,
    };
    Ok(SourceLog { log_start, log_end, our_epoch_end })
}
