//! Proof: real Kafka, simulation and house rules.
//!
//! Owns what the tests of this package drive: brokers, the program under test, the reader that
//! compares two logs, the rules of the house. It proves the product and is never part of it: nothing
//! may depend on this package, and its readers share no code with the product's, so that one mistake
//! cannot hide in both.
//!
//! ```text
//!   kafka::artifacts   Java, Maven and the broker's jars, found or fetched once
//!   kafka::cluster     brokers as processes: start, kill, pause, restart
//!   kafka::scenario    what the tests do to topics, by Kafka's own client
//!   kafka::raw_producer a producer whose ids and sequences the test chooses
//!   kafka::batches     the record batches of a partition directory, and whether two are the same
//!   kafka::dump        Kafka's own DumpLogSegments, its complaints made an error
//!   kafka::indexes     what that tool does not see
//!   kafka::kerberos    a realm of its own: a KDC, principals, keytabs
//!   browser            a real Chromium that looks at the page
//!   cli                the program under test as a process
//!   mirror             a data directory that the program under test fills from a cluster
//!   sim                a world of clock, network, disk and brokers around the product's machines
//!   shard              a data shard without a control core
//!   raw_follower       a follower of a guest whose every byte the test chooses
//!   poll               the only place that waits
//!   tidy               the house rules
//! ```

pub mod browser;
pub mod cli;
pub mod fuzz;
pub mod guest;
pub mod kafka;
pub mod mirror;
pub mod poll;
pub mod raw_follower;
pub mod shard;
pub mod sim;
pub mod tidy;
