//! Proof: real Kafka, simulation and house rules.
