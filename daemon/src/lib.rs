pub mod embedded;
pub mod journal;
pub mod pool;
pub mod recovery;
pub mod segment_writer;
pub mod shard;
pub mod store;
