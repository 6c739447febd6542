//! TLS and SASL on every connection: the control core's, the shards', the followers'.
//!
//! One binary, so that two of these run at a time: each waits for brokers more than it computes.

mod aws;
mod control;
mod credentials;
mod everywhere;
mod followers;
mod lane;
mod link;
mod tokens;

/// The product, as these tests start it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlog-under-test");
