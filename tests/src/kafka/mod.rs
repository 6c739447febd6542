//! Real Kafka: brokers as processes, what is done to them, and what they and we have written.
//!
//! Owns nothing itself; [`Cluster::start`] is where a test begins. A test binary starts one cluster
//! and shares it: the start of a JVM costs more than most tests.

pub mod artifacts;
pub mod batches;
pub mod cluster;
pub mod dump;
pub mod groups;
pub mod indexes;
pub mod kerberos;
mod node;
pub mod ports;
pub mod raw_producer;
pub mod scenario;
pub mod security;
pub(crate) mod watchdog;
pub mod zoo;

pub use cluster::{Cluster, ClusterOptions};
pub use scenario::{Codec, Isolation, Scenario};
