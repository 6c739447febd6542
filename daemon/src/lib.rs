pub mod embedded;
pub mod journal;
#[cfg(test)]
pub mod memory_disk;
pub mod pool;
pub mod recovery;
pub mod segment_writer;
pub mod shard;
pub mod store;
pub mod verify;
