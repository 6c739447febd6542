//! MirrorMaker 2 as well as we know how to run it: dedicated mode, names kept, nothing done but copying.
//!
//! Its offsets live at the destination under the names of the clusters, so every run has names of its own: with the
//! same ones the second would find all copied.

use crate::compare::copiers::Job;
use std::path::Path;
use std::process::Command;
use twinlog_tests::kafka::artifacts;

/// With less and six tasks it dies of memory and hangs half alive.
pub const HEAP_MEGABYTES: u32 = 4_096;
/// What is set beside names and addresses; printed with the report.
pub const SETTINGS: &[(&str, &str)] = &[
    ("replication.policy.class", "org.apache.kafka.connect.mirror.IdentityReplicationPolicy"),
    // Everything else that it could do meanwhile is off; a setting of the topic of offset syncs would forbid that.
    ("emit.heartbeats.enabled", "false"),
    ("emit.checkpoints.enabled", "false"),
    ("emit.offset-syncs.enabled", "false"),
    ("sync.group.offsets.enabled", "false"),
    ("sync.topic.configs.enabled", "false"),
    ("sync.topic.acls.enabled", "false"),
    ("replication.factor", "1"),
    ("offset.storage.replication.factor", "1"),
    ("status.storage.replication.factor", "1"),
    ("config.storage.replication.factor", "1"),
    // Large fetches and batches.
    ("SOURCE.consumer.fetch.max.bytes", "33554432"),
    ("SOURCE.consumer.max.partition.fetch.bytes", "8388608"),
    ("SOURCE.consumer.max.poll.records", "20000"),
    ("SOURCE.consumer.receive.buffer.bytes", "4194304"),
    ("DESTINATION.producer.batch.size", "1000000"),
    ("DESTINATION.producer.linger.ms", "5"),
    ("DESTINATION.producer.buffer.memory", "268435456"),
    ("DESTINATION.producer.max.request.size", "8388608"),
    ("DESTINATION.producer.send.buffer.bytes", "4194304"),
    ("DESTINATION.producer.acks", "all"),
];

/// What one run reads.
pub fn properties(run: i32, source: &str, destination: &str, job: &Job<'_>) -> String {
    let (from, to) = (format!("source{run}"), format!("destination{run}"));
    let mut lines = vec![
        format!("clusters={from},{to}"),
        format!("{from}.bootstrap.servers={source}"),
        format!("{to}.bootstrap.servers={destination}"),
        format!("{from}->{to}.enabled=true"),
        format!("{to}->{from}.enabled=false"),
        format!("{from}->{to}.topics={}", job.topic),
        format!("tasks.max={}", job.partitions.min(TASKS_MAX)),
        format!("{to}.producer.compression.type={}", job.codec.name()),
    ];
    lines.extend(SETTINGS.iter().map(|(name, value)| {
        format!("{}={value}", name.replace("SOURCE", &from).replace("DESTINATION", &to))
    }));
    lines.join("\n") + "\n"
}

/// More tasks than that on one core only wait for each other.
pub const TASKS_MAX: u32 = 6;

pub fn command(directory: &Path, properties: &Path) -> Command {
    let mut command = artifacts::mirror_maker().java_at_full_speed(directory, HEAP_MEGABYTES);
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    command.arg("org.apache.kafka.connect.mirror.MirrorMaker").arg(properties);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::copiers::Copier;
    use twinlog_tests::kafka::scenario::Codec;

    #[test]
    fn two_runs_share_no_name_and_no_placeholder_is_left() {
        let job = Job {
            copier: Copier::MirrorMaker,
            directory: Path::new("."),
            topic: "t",
            partitions: 6,
            codec: Codec::Zstd,
            follows: false,
        };
        let (one, other) = (properties(1, "a:1", "b:2", &job), properties(2, "a:1", "b:2", &job));
        assert!(one.contains("source1->destination1.enabled=true") && !other.contains("source1"));
        assert!(one.contains("destination1.producer.compression.type=zstd\n"));
        assert!(!one.contains("SOURCE") && !one.contains("DESTINATION"));
    }
}
