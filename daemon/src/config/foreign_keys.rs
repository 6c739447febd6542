//! Keys of Kafka's clients that mean nothing here, each with the reason: they are pasted from client.properties.
//!
//! Owns the sentences. A key that is in the table of keys must not be here, and none of these is ever taken silently:
//! whoever set it believed in an effect.

/// Names, and why they are refused.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["connections.max.idle.ms", "reconnect.backoff.ms", "reconnect.backoff.max.ms"],
        "connections are kept as long as they work, and made again after retry.backoff.ms up to \
         retry.backoff.max.ms",
    ),
    (
        &[
            "socket.connection.setup.timeout.ms",
            "socket.connection.setup.timeout.max.ms",
            "default.api.timeout.ms",
        ],
        "connecting has bounds of its own, and an answer has request.timeout.ms",
    ),
    (
        &["send.buffer.bytes", "receive.buffer.bytes"],
        "the kernel sizes socket buffers by itself, up to net.ipv4.tcp_rmem and tcp_wmem",
    ),
    (&["fetch.min.bytes"], "it is called replica.fetch.min.bytes and stands in [link.NAME]"),
    (&["fetch.max.wait.ms"], "it is called replica.fetch.wait.max.ms and stands in [link.NAME]"),
    (&["fetch.max.bytes"], "it is called replica.fetch.response.max.bytes and stands in [link.NAME]"),
    (&["max.partition.fetch.bytes"], "it is called replica.fetch.max.bytes and stands in [link.NAME]"),
    (
        &["num.cluster.link.fetchers"],
        "each data core has two connections of its own to every broker of the source, see data.cores",
    ),
    (
        &[
            "group.id",
            "group.instance.id",
            "group.protocol",
            "group.remote.assignor",
            "auto.offset.reset",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "heartbeat.interval.ms",
            "session.timeout.ms",
            "max.poll.interval.ms",
            "max.poll.records",
            "partition.assignment.strategy",
        ],
        "a mirror is no member of a consumer group: it reads every partition, and keeps its place in its own journal",
    ),
    (&["check.crcs"], "the CRC of every batch is checked, always"),
    (
        &["exclude.internal.topics", "allow.auto.create.topics"],
        "internal topics are mirrored only where topics names them, and none is ever created at the source",
    ),
    (
        &[
            "key.deserializer",
            "value.deserializer",
            "key.serializer",
            "value.serializer",
            "interceptor.classes",
        ],
        "records are copied as they are, and no class is loaded",
    ),
    (
        &[
            "acks",
            "retries",
            "linger.ms",
            "batch.size",
            "buffer.memory",
            "compression.type",
            "delivery.timeout.ms",
            "enable.idempotence",
            "max.block.ms",
            "max.in.flight.requests.per.connection",
            "max.request.size",
            "partitioner.class",
            "transactional.id",
            "transaction.timeout.ms",
        ],
        "nothing is produced: batches keep the bytes that their producers gave them",
    ),
    (
        &["metadata.max.idle.ms", "metadata.recovery.strategy", "metadata.recovery.rebootstrap.trigger.ms"],
        "bootstrap.servers are asked again whenever no known broker answers",
    ),
    (
        &[
            "enable.metrics.push",
            "auto.include.jmx.reporter",
            "metric.reporters",
            "metrics.num.samples",
            "metrics.recording.level",
            "metrics.sample.window.ms",
        ],
        "figures are told by the progress line, the report and the status command",
    ),
    (&["security.providers"], "cryptography is built in, no class is loaded"),
];

/// Why a key of Kafka's clients is not one here; `None` for a name that is nobody's, or ours.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(names, _)| names.contains(&name)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KEYS, RawConfig};
    use std::path::Path;

    #[test]
    fn no_foreign_key_is_one_of_ours_and_each_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for (names, reason) in FOREIGN {
            assert!(!reason.ends_with('.'), "{reason}");
            for name in *names {
                assert!(KEYS.iter().all(|key| key.name != *name) && seen.insert(name), "{name}");
            }
        }
    }

    #[test]
    fn a_pasted_key_of_a_client_is_taken_or_refused_with_its_reason() {
        let pasted = [
            "client.dns.lookup = \"use_all_dns_ips\"",
            "retry.backoff.ms = 100",
            "retry.backoff.max.ms = 1000",
            "reconnect.backoff.ms = 50",
            "connections.max.idle.ms = 540000",
            "fetch.max.wait.ms = 500",
            "group.id = \"mirror\"",
            "acks = \"all\"",
        ];
        for line in pasted {
            let name = line.split(' ').next().unwrap();
            let text = format!("[link.a.source]\n{line}\n");
            match RawConfig::parse(Path::new("twinlog.toml"), &text) {
                Ok(_) => assert_eq!(reason(name), None, "{name}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.starts_with(name) && told.contains(reason(name).unwrap()), "{told}");
                }
            }
        }
    }
}
