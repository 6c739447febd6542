//! Every function that takes foreign bytes, as a target that any fuzzer can drive: `fn(&[u8])`.
//!
//! Owns the list of targets and the way to one input: a seed chooses a valid example and how to damage it.
//! A target panics when an invariant is broken and does nothing else: it writes no file and opens no
//! connection but to itself, so that it can run a million times.
//!
//! ```text
//!   seed ─▶ mutation: pick an example, damage it ─┬─▶ repair (sometimes): lengths and checksums made right
//!                                                 └─▶ target: parse, check what is said about the bytes
//!
//!   log_bytes       batch walk, segment scan, control records
//!   stored_files    checkpoints, indexes, the small text files, names, operators' instructions
//!   wire_bytes      Fetch, ApiVersions and OffsetFetch answers
//!   follower_bytes  requests of brokers that follow us, and what they are answered
//!   source_answers  whole answers to the control core's client
//!   cluster_bytes   a destination's metadata log, snapshots and answers
//!   login_bytes     SASL on both sides, tokens, JAAS, PEM
//!   operator_words  configuration file, flags, topic patterns, orders to the admin socket
//! ```
//! The smoke run on stable Rust is `tests/fuzz_smoke.rs`. For a coverage-guided run, give a target's `run`
//! to libFuzzer or AFL, with its `examples` as the corpus.

mod checksum;
mod cluster_bytes;
mod follower_bytes;
mod log_bytes;
mod login_bytes;
pub mod mutation;
mod operator_words;
mod source_answers;
mod stored_files;
mod wire_bytes;

use crate::sim::random::Random;
use mutation::damage;

/// One function under attack.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics when the product broke a promise about these bytes.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub examples: fn() -> Vec<Vec<u8>>,
    /// Makes checksums right again, or else no damage would be seen behind them.
    pub repair: Option<fn(&mut [u8])>,
    /// Runs once where cheap targets run so many times.
    pub cost: u64,
}

/// All of them. The order is the order of the smoke run.
pub const TARGETS: &[Target] = &[
    Target::new("batch_walk", log_bytes::batch_walk, log_bytes::logs).repaired(log_bytes::reseal_log),
    Target::new("segment_scan", log_bytes::segment_scan, log_bytes::logs).repaired(log_bytes::reseal_log),
    Target::new("control_record", log_bytes::control_record, log_bytes::control_bodies),
    Target::new("checkpoint", stored_files::checkpoint, stored_files::checkpoints)
        .repaired(stored_files::reseal_checkpoint),
    Target::new("offset_index", stored_files::offset_index, stored_files::offset_indexes),
    Target::new("time_index", stored_files::time_index, stored_files::time_indexes),
    Target::new("transaction_index", stored_files::transaction_index, stored_files::transaction_indexes),
    Target::new("epoch_file", stored_files::epoch_file, stored_files::epoch_files),
    Target::new("metadata_file", stored_files::metadata_file, stored_files::metadata_files),
    Target::new("offset_file", stored_files::offset_file, stored_files::offset_files),
    Target::new("names", stored_files::names, stored_files::name_examples),
    Target::new("instructions", stored_files::instructions, stored_files::instruction_files),
    Target::new("fetch_answer", wire_bytes::fetch_answer, wire_bytes::fetch_answers)
        .repaired(wire_bytes::fit_frame),
    Target::new("versions_answer", wire_bytes::versions_answer, wire_bytes::versions_answers)
        .repaired(wire_bytes::fit_first_length),
    Target::new("positions_answer", wire_bytes::positions_answer, wire_bytes::positions_answers),
    Target::new("follower_requests", follower_bytes::follower_requests, follower_bytes::streams)
        .repaired(follower_bytes::fit_first_frame),
    Target::new("source_answer", source_answers::source_answer, source_answers::scripts).costing(20),
    Target::new("metadata_record", cluster_bytes::metadata_record, cluster_bytes::metadata_records),
    Target::new("metadata_log", cluster_bytes::metadata_log, cluster_bytes::metadata_logs)
        .repaired(cluster_bytes::reseal_log)
        .costing(2),
    Target::new("cluster_answer", cluster_bytes::cluster_answer, cluster_bytes::cluster_answers),
    Target::new("sasl_answers", login_bytes::sasl_answers, login_bytes::sasl_scripts).costing(20),
    Target::new("token_answer", login_bytes::token_answer, login_bytes::token_answers).costing(40),
    Target::new("scram_server", login_bytes::scram_server, login_bytes::scram_messages),
    Target::new("jaas_text", login_bytes::jaas_text, login_bytes::jaas_texts),
    Target::new("pem_material", login_bytes::pem_material, login_bytes::pem_texts).costing(20),
    Target::new("admin_order", operator_words::admin_order, operator_words::admin_orders),
    Target::new("config_file", operator_words::config_file, operator_words::config_files).costing(4),
    Target::new("topic_pattern", operator_words::topic_pattern, operator_words::topic_patterns).costing(4),
    Target::new("flag_value", operator_words::flag_value, operator_words::flag_values),
    Target::new("command_line", operator_words::command_line, operator_words::command_lines).costing(20),
];

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]), examples: fn() -> Vec<Vec<u8>>) -> Target {
        Target { name, run, examples, repair: None, cost: 1 }
    }

    const fn repaired(self, repair: fn(&mut [u8])) -> Target {
        Target { repair: Some(repair), ..self }
    }

    const fn costing(self, cost: u64) -> Target {
        Target { cost, ..self }
    }

    /// The input of a seed. The same seed and examples give the same bytes.
    pub fn input(&self, examples: &[Vec<u8>], seed: u64) -> Vec<u8> {
        let mut random = Random::new(seed ^ name_seed(self.name));
        let mut bytes = damage(examples, &mut random);
        if let Some(repair) = self.repair
            && random.one_in(2)
        {
            repair(&mut bytes);
        }
        bytes
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Targets with the same seed must not damage their examples in the same way.
fn name_seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Cuts a stream into pieces that depend on `seed`; 0 leaves it whole.
fn pieces(mut bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut random = Random::new(u64::from(seed));
    let mut cut = Vec::new();
    while seed != 0 && !bytes.is_empty() {
        let scale = random.below(12);
        let wanted = 1 + random.below(1 << scale) as usize;
        let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
        cut.push(piece);
        bytes = rest;
    }
    cut.push(bytes);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_name_of_its_own_and_accepts_its_examples() {
        for (index, target) in TARGETS.iter().enumerate() {
            assert!(TARGETS[..index].iter().all(|other| other.name != target.name), "{}", target.name);
            let examples = (target.examples)();
            assert!(!examples.is_empty(), "{}", target.name);
            for example in &examples {
                (target.run)(example);
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_input_twice_and_another_seed_another() {
        let target = target("batch_walk").unwrap();
        let examples = (target.examples)();
        assert_eq!(target.input(&examples, 7), target.input(&examples, 7));
        let different: std::collections::BTreeSet<Vec<u8>> =
            (0..100).map(|seed| target.input(&examples, seed)).collect();
        assert!(different.len() > 50, "{} different inputs of 100", different.len());
    }

    #[test]
    fn pieces_are_the_whole_stream_in_order() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        for seed in 0..20 {
            assert_eq!(pieces(&bytes, seed).concat(), bytes);
        }
        assert_eq!(pieces(&bytes, 0).len(), 1);
    }
}
