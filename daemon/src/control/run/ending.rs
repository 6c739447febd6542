//! How each link ended: its threads are joined, and its report is its last word.
//!
//! What a link received before its data threads were started again counts too: it is carried along here.

use super::serving::{Daemon, End, Slot};
use super::{Output, RunOptions};
use crate::control::mirror::Mirror;
use crate::control::report::{Received, Report};
use crate::control::supervisor::{Standing, Supervisor};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use tracing::error;

/// Waits for the data threads' ends; a sentence for each that failed.
fn join(supervisor: &mut Supervisor) -> Vec<String> {
    let mut failed = Vec::new();
    for (index, shard) in supervisor.take_shards().into_iter().enumerate() {
        if let Err(error) = shard.join() {
            failed.push(format!("data thread {index} failed: {error}"));
        }
    }
    supervisor.finish();
    failed
}

fn carry<'a>(received: &mut Received, mirrors: impl Iterator<Item = &'a Mirror>) {
    for mirror in mirrors {
        let (bytes, batches) = received.entry(mirror.partition.clone()).or_default();
        *bytes += mirror.counters.bytes.load(Relaxed);
        *batches += mirror.counters.batches.load(Relaxed);
    }
}

impl Slot {
    /// Its data threads have drained: they are joined, and what is under way elsewhere is given up.
    pub async fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.tokens.iter().for_each(tokio::task::JoinHandle::abort);
        let mut supervisor = running.supervisor;
        for sentence in join(&mut supervisor) {
            error!("link {}: {sentence}", self.settings.link.name);
        }
        carry(&mut self.received, supervisor.mirrors());
        supervisor.end().await;
    }

    /// Ends the threads and says how it went.
    fn finish(&mut self, end: &End, options: &RunOptions, elapsed: Duration) -> bool {
        let name = self.settings.link.name.clone();
        let Some(running) = &mut self.running else {
            let why = self.failure.clone().unwrap_or_else(|| "it did not start".to_owned());
            let nothing: [&Mirror; 0] = [];
            let report =
                Report::new(&name, "failed", vec![why], (nothing.into_iter(), &self.received), elapsed);
            tell(&report, options.output);
            return false;
        };
        let supervisor = &mut running.supervisor;
        let failed = join(supervisor);
        let (outcome, mut unmet) = match (supervisor.halted(), end) {
            (Some(reason), _) => ("failed", vec![reason.to_owned()]),
            // Asked again after the drain, which delivers what was received until then.
            (None, End::Done) if running.standing == Standing::CaughtUp => ("caught_up", supervisor.unmet()),
            (None, End::Done) => ("incomplete", supervisor.unmet()),
            (None, End::Signal) if options.until_caught_up => ("incomplete", supervisor.unmet()),
            (None, End::Signal | End::Halted) => ("stopped_by_signal", Vec::new()),
        };
        unmet.extend(failed);
        let done = unmet.is_empty() && outcome != "failed";
        let outcome = match outcome {
            // What was missing before the drain is here after it.
            "incomplete" if done => "caught_up",
            outcome if done || outcome == "incomplete" => outcome,
            _ => "failed",
        };
        let mirrors = (running.supervisor.mirrors(), &self.received);
        tell(&Report::new(&name, outcome, unmet, mirrors, elapsed), options.output);
        done
    }
}

fn tell(report: &Report, output: Output) {
    match output {
        Output::Json => println!("{}", report.json()),
        Output::Text => print!("{}", report.text()),
    }
}

impl Daemon {
    /// One report for each link, and whether everything was done.
    pub fn finish(mut self, end: &End, started: Instant) -> bool {
        let mut done = true;
        for slot in self.slots.values_mut() {
            done &= slot.finish(end, &self.options, started.elapsed());
        }
        done
    }
}
