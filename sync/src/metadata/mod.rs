//! The metadata log of a KRaft cluster, as a guest broker follows it, and the life of one guest in it.
//!
//! ```text
//!   bytes of a fetch --> log_reader --> record --> image      what the cluster is now
//!                           ^                        |
//!   where to fetch <---- follower                    v
//!                                      membership: one guest id, from unknown to active
//! ```
//! The whole state of a cluster is the replay of this log, or of a snapshot and what follows it. All of
//! it comes from the network: no length is trusted, and what cannot be understood is an error with the
//! kind and version of the record, never a guess. ref: KIP-500, KIP-630, KIP-631

pub mod follower;
pub mod image;
pub mod log_reader;
pub mod membership;
pub mod record;

pub use follower::{FetchAnswer, FollowerAction, MetadataFollower, SnapshotAnswer, SnapshotId};
pub use image::{Broker, Changes, ClusterImage, ImageError, Partition, Topic};
pub use membership::{Membership, MembershipAction, MembershipOptions, MembershipState};
pub use record::{MetadataRecord, RecordError};

#[cfg(test)]
mod follower_tests;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod record_tests;
