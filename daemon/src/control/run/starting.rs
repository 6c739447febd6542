//! What one link is made of: its directories, its journal, its data threads, its guest brokers.
//!
//! Data threads and the thread of the heartbeats inherit the priority of the thread that starts them. The control
//! core gives way to them; so a thread of its own, which does nothing else, starts them.

use super::{RunError, RunOptions};
use crate::config::{GuestSettings, Settings};
use crate::control::guest::{GuestMember, GuestOptions, random_uuid};
use crate::control::instruction::{InstructionError, Instructions, Release, parse_restart_from};
use crate::control::memory_budget::arena_bytes;
use crate::control::shard_link::ShardLink;
use crate::control::state::GuestIdentity;
use crate::journal::{self, Journal};
use crate::security::{ClientSecurity, ListenerSecurity};
use crate::shard::mailbox::Tuning;
use crate::shard::{ShardOptions, spawn, spool_segment_bytes};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{info, warn};
use twinlog_io::{
    EngineOptions, Placement, RealDisk, Shortfall, SystemError, pin_current_thread, raise_file_limit,
};
use twinlog_sync::lane::LaneOptions;

/// Two lanes for each source broker, in each shard.
const SOCKETS_MAX: u32 = 1_024;
/// Open segment files of one shard at most: enough for every partition that is busy at a time.
const FILES_MAX: u64 = 16_384;
/// Fewer would close and open files for nearly every batch.
const FILES_MIN: u64 = 64;
/// Descriptors that everything but segments and lanes needs; operators' connections are up to 96 of them.
const FILES_RESERVED: u64 = 192;

type Job = Box<dyn FnOnce() + Send>;

/// See the file's header.
pub struct Starter {
    jobs: std::sync::mpsc::Sender<Job>,
}

impl Starter {
    /// On the control core, where the heartbeats belong, too; data threads pin themselves.
    pub fn new(control: usize) -> Result<Self, RunError> {
        let (jobs, waiting) = std::sync::mpsc::channel::<Job>();
        let run = move || {
            // A refused pin costs speed, not correctness.
            let _ = pin_current_thread(&[control]);
            waiting.iter().for_each(|job| job());
        };
        let thread = std::thread::Builder::new().name("twinlog-starter".to_owned()).spawn(run);
        thread.map_err(|error| RunError::Runtime(error.kind()))?;
        Ok(Self { jobs })
    }

    /// Starts one link there.
    pub async fn start(&self, start: Start) -> Result<Parts, RunError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || drop(answer.send(start.now())));
        let gone = || RunError::Runtime(std::io::ErrorKind::BrokenPipe);
        self.jobs.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What a link is started with.
pub struct Start {
    pub settings: Arc<Settings>,
    pub placement: Placement,
    /// Links of the daemon: each gets an equal part of memory and files.
    pub links: u64,
    /// As whom its guests registered before.
    pub identities: Vec<GuestIdentity>,
    /// Only the first start of a process carries out what its command line says.
    pub options: Option<RunOptions>,
    pub runtime: Handle,
}

/// What a started link consists of.
pub struct Parts {
    pub shards: Vec<ShardLink>,
    pub journal: Journal,
    pub instructions: Instructions,
    pub member: Option<GuestMember>,
}

impl Start {
    fn now(self) -> Result<Parts, RunError> {
        let settings = &*self.settings;
        for path in [settings.link_directory(), settings.journal_directory()] {
            let made = std::fs::create_dir_all(&path).map_err(|error| SystemError::from_std(&error));
            made.map_err(|error| RunError::Directory { path, error })?;
        }
        let directory = settings.journal_directory();
        let journal = journal::load(&mut RealDisk, &directory).map_err(RunError::Store)?;
        journal::rewrite(&mut RealDisk, &directory, &journal).map_err(RunError::Store)?;
        let instructions = self.instructions().map_err(RunError::Instruction)?;
        let shards = self.shards()?;
        self.announce(&shards);
        let member = match &settings.link.guest {
            Some(guest) => {
                Some(join(guest, &self.identities, journal.checkpoints.is_empty(), &self.runtime)?)
            }
            None => None,
        };
        Ok(Parts { shards, journal, instructions, member })
    }

    fn instructions(&self) -> Result<Instructions, InstructionError> {
        let mut instructions = Instructions::load(&mut RealDisk, &self.settings.journal_directory())?;
        let ordered =
            self.options.as_ref().map(|options| options.restart_from.as_slice()).unwrap_or_default();
        for text in ordered {
            let (partition, offset) = parse_restart_from(text)?;
            instructions.set(&partition, Release::RestartFrom(offset.value()));
        }
        if !ordered.is_empty() {
            instructions.save(&mut RealDisk)?;
        }
        Ok(instructions)
    }

    fn memory_bytes(&self) -> u64 {
        self.settings.daemon.memory_bytes / self.links
    }

    fn shards(&self) -> Result<Vec<ShardLink>, RunError> {
        let settings = &*self.settings;
        let shards = self.placement.data.len() as u64;
        let files_max = files_per_shard(shards * self.links)?;
        let link = &settings.link;
        let lane = Arc::new(LaneOptions {
            client_id: link.source.client_id.clone(),
            rack: link.source.client_rack.clone(),
            isolation_level: link.isolation_level,
            wait_max_ms: link.fetch_wait_max_ms,
            bytes_min: link.fetch_bytes_min,
            response_bytes_max: link.fetch_response_bytes_max,
            batch_bytes_max: link.batch_bytes_max,
            request_timeout_ms: u32::try_from(link.source.request_timeout.as_millis())
                .expect("at most an hour"),
            backoff: link.source.backoff,
        });
        let tuning = Tuning::of(link, shards);
        let guest = link.guest.as_ref();
        let spool_bytes = guest.map_or(0, |guest| guest.store_retention_bytes / shards);
        let start = |(index, core): (usize, &usize)| {
            let options = ShardOptions {
                index,
                lane: lane.clone(),
                source: link.source.security.clone(),
                destination: guest.map_or_else(ClientSecurity::plaintext, |guest| guest.security.clone()),
                listener: guest
                    .map_or_else(ListenerSecurity::plaintext, |guest| guest.listener_security.clone()),
                bytes_per_second: tuning.bytes_per_second,
                partition_bytes_max: link.fetch_bytes_max,
                segment_bytes: spool_segment_bytes(link.segment_bytes, spool_bytes),
                batch_bytes_max: link.batch_bytes_max,
                flush_ms: tuning.flush_ms,
                flush_catch_up_ms: tuning.flush_catch_up_ms,
                flush_catch_up_bytes: tuning.flush_catch_up_bytes,
                checkpoint_ms: tuning.checkpoint_ms,
                fsync: link.fsync,
                direct_io: settings.daemon.direct_io,
                journal: settings.journal_directory().join(format!("journal-{index}")),
                sockets_max: SOCKETS_MAX,
                files_max,
                is_guest: link.guest.is_some(),
                spool_bytes,
            };
            let engine = EngineOptions {
                arena_bytes: arena_bytes(self.memory_bytes()) / shards,
                sockets_max: SOCKETS_MAX,
                files_max,
                helper_cores: vec![self.placement.control],
                ..EngineOptions::default()
            };
            let spawned = spawn(options, engine, settings.daemon.engine, Some(*core));
            spawned.map(ShardLink::new).map_err(RunError::Engine)
        };
        self.placement.data.iter().enumerate().map(start).collect()
    }

    fn announce(&self, shards: &[ShardLink]) {
        let report = &shards.first().expect("placement has at least one data core").handle().report;
        info!(
            "twinlog {}: link {} into {}, {} data shards on cores {:?}, control on core {}, memory {} MiB, {report}",
            env!("CARGO_PKG_VERSION"),
            self.settings.link.name,
            self.settings.daemon.data_dir.display(),
            shards.len(),
            self.placement.data,
            self.placement.control,
            self.memory_bytes() >> 20,
        );
        // What the first lacks, the others lack too, but for their own cores.
        let mut told: Vec<Shortfall> = Vec::new();
        for shortfall in shards.iter().flat_map(|shard| &shard.handle().report.shortfalls) {
            if !told.contains(shortfall) {
                warn!("{shortfall}");
                told.push(*shortfall);
            }
        }
    }
}

/// Joins as whom this directory knows itself. One that holds nothing is another host: under a new incarnation
/// the cluster keeps it waiting for as long as the host before it is alive, and two never serve at once.
fn join(
    guest: &GuestSettings,
    identities: &[GuestIdentity],
    is_new_host: bool,
    runtime: &Handle,
) -> Result<GuestMember, RunError> {
    let mut options = GuestOptions::new(
        guest.bootstrap_controllers.clone(),
        &guest.inter_broker_listener_name,
        guest.serving_ids.clone(),
    );
    options.client_id.clone_from(&guest.client_id);
    options.request_timeout = guest.request_timeout;
    options.security = guest.controller_security.clone();
    options.listener_protocol = guest.listener_security.protocol();
    if is_new_host {
        options.incarnations = guest.serving_ids.iter().map(|(id, _)| (*id, random_uuid())).collect();
    }
    options.incarnations.extend(identities.iter().map(|each| (each.broker_id, each.incarnation)));
    options.without_cordon = guest.allow_placement_eviction;
    GuestMember::join(options, runtime).map_err(RunError::Guest)
}

/// Descriptors for segment files: the kernel also refuses a ring's table beyond the limit.
fn files_per_shard(shards: u64) -> Result<u32, RunError> {
    let limit = raise_file_limit().unwrap_or_else(|error| {
        warn!("the limit of open files stays as it is: {error}");
        twinlog_io::probe_host().files_soft
    });
    let Some(limit) = limit else { return Ok(FILES_MAX as u32) };
    let reserved = FILES_RESERVED + shards * u64::from(SOCKETS_MAX);
    let each = limit.saturating_sub(reserved) / shards;
    if each < FILES_MIN {
        return Err(RunError::FileLimit { limit, needed: reserved + shards * FILES_MIN });
    }
    Ok(u32::try_from(each.min(FILES_MAX)).expect("bounded above"))
}
