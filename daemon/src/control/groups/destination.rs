//! Where positions go: to the coordinators of a cluster, or into our own state.

use super::GroupSync;
use super::cluster::Listing;
use super::coordinators::Coordinators;
use super::kept::Kept;
use std::sync::Arc;
use twinlog_sync::group_offsets::{Commit, GroupNumber};

/// See the file's header.
pub enum Destination {
    Cluster(Arc<Coordinators>),
    Store(Kept),
}

impl Destination {
    /// What we keep ourselves.
    pub fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Cluster(_) => None,
            Self::Store(kept) => Some(kept),
        }
    }

    pub fn take_requests(&self) -> u64 {
        match self {
            Self::Cluster(cluster) => cluster.take_requests(),
            Self::Store(_) => 0,
        }
    }

    /// Groups that are there, and who is in them. A store has no members, and shows nobody anything.
    pub async fn list(&self) -> Listing {
        match self {
            Self::Cluster(cluster) => cluster.list().await,
            Self::Store(_) => Listing::default(),
        }
    }

    /// How long positions live there without being written.
    pub async fn look_at_retention(&self, sync: &GroupSync) {
        if let Self::Cluster(cluster) = self {
            cluster.look_at_retention(sync).await;
        }
    }

    /// Tells the machine what these groups hold.
    pub async fn read(&self, sync: &Arc<GroupSync>, groups: &[GroupNumber]) {
        match self {
            Self::Cluster(cluster) => cluster.read(sync, groups).await,
            Self::Store(kept) => kept.read(sync, groups).await,
        }
    }

    /// Writes, and tells the machine what came of it. How many groups were written.
    pub async fn commit(&self, sync: &Arc<GroupSync>, commits: Vec<Commit>) -> u64 {
        match self {
            Self::Cluster(cluster) => cluster.commit(sync, commits).await,
            Self::Store(kept) => kept.commit(sync, commits).await,
        }
    }

    /// Deletes groups; a code for each.
    pub async fn delete(&self, sync: &GroupSync, groups: &[GroupNumber]) -> Vec<(GroupNumber, i16)> {
        match self {
            Self::Cluster(cluster) => cluster.delete(sync, groups).await,
            Self::Store(kept) => kept.delete(sync, groups).await,
        }
    }

    /// The number may become another group's.
    pub fn forget(&self, group: GroupNumber) {
        if let Self::Cluster(cluster) = self {
            cluster.forget(group);
        }
    }
}
