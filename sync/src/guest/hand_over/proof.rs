//! Where a shard says that a partition and its followers stand, and whether that is enough.
//!
//! The controller never checks whether a follower is where it should be: this is the only guard between a
//! promote and records that are lost on it.

use super::Trouble;
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::vec::Vec;
use twinlog_log_segment::offset::Offset;

/// A follower's word is good for this long. Followers ask at least every 500 ms; raised, one that died just
/// now still counts.
pub const FRESH: Nanoseconds = SECOND;

/// One partition, as its shard leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub leads: bool,
    pub log_start: Offset,
    pub log_end: Offset,
    pub flushed: Offset,
    pub open_transactions: usize,
    /// Where the first of them begins.
    pub first_open: Option<Offset>,
    pub followers: Vec<FollowerStanding>,
}

/// One follower of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStanding {
    pub broker: i32,
    /// Of the registration under which it proved its end.
    pub broker_epoch: Option<i64>,
    /// Where its own log begins.
    pub start: Option<Offset>,
    pub end: Option<Offset>,
    /// Since it last asked.
    pub age_ns: Option<Nanoseconds>,
}

/// Whether every broker of `target`, each with the epoch of its registration, holds everything below `end`; with
/// `exactly`, and nothing beyond it. Without a source there may be more: what we served before we died.
pub(super) fn prove(
    index: i32,
    standing: &Standing,
    age_ns: Nanoseconds,
    end: Offset,
    exactly: bool,
    target: &[(i32, i64)],
) -> Result<(), Trouble> {
    if !standing.leads {
        return Err(Trouble::NotLed { index });
    }
    if standing.log_end < end {
        return Err(Trouble::Shorter { index, log_end: standing.log_end, end });
    }
    for (broker, epoch) in target {
        let found = standing.followers.iter().find(|each| each.broker == *broker);
        let asked = found.and_then(|each| each.age_ns).map(|age| age.saturating_add(age_ns));
        let at = found.filter(|each| each.broker_epoch == Some(*epoch)).and_then(|each| each.end);
        let there = at.is_some_and(|at| if exactly { at == end } else { at >= end });
        if !there || asked.is_none_or(|age| age > FRESH) {
            let age_ms = asked.map(|age| age / MILLISECOND);
            return Err(Trouble::Behind { index, broker: *broker, at, end, age_ms });
        }
        let start = found.and_then(|each| each.start).filter(|start| *start > standing.log_start);
        if let Some(start) = start.filter(|_| exactly) {
            let log_start = standing.log_start;
            return Err(Trouble::LacksBeginning { index, broker: *broker, start, log_start });
        }
    }
    if standing.flushed < end {
        return Err(Trouble::NotFlushed { index, flushed: standing.flushed, end });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn standing(epoch: Option<i64>, end: Option<i64>, age_ns: Option<Nanoseconds>) -> Standing {
        let follower =
            FollowerStanding { broker: 1, broker_epoch: epoch, start: Some(at(0)), end: end.map(at), age_ns };
        Standing {
            leads: true,
            log_start: at(3),
            log_end: at(9),
            flushed: at(9),
            open_transactions: 0,
            first_open: None,
            followers: vec![follower],
        }
    }

    #[test]
    fn only_a_registered_follower_that_was_at_the_end_a_moment_ago_counts() {
        let proven = |standing: &Standing, age| prove(0, standing, age, at(9), true, &[(1, 7)]).is_ok();
        assert!(proven(&standing(Some(7), Some(9), Some(FRESH)), 0));
        assert!(!proven(&standing(Some(7), Some(9), Some(FRESH)), 1), "the answer is old itself");
        assert!(!proven(&standing(Some(6), Some(9), Some(0)), 0), "an earlier life");
        assert!(!proven(&standing(None, Some(9), Some(0)), 0));
        assert!(!proven(&standing(Some(7), Some(8), Some(0)), 0));
        assert!(!proven(&standing(Some(7), Some(10), Some(0)), 0));
        assert!(!proven(&standing(Some(7), None, Some(0)), 0));
        assert!(!proven(&standing(Some(7), Some(9), None), 0));
        let unflushed = Standing { flushed: at(8), ..standing(Some(7), Some(9), Some(0)) };
        assert!(!proven(&unflushed, 0));
        assert!(prove(0, &standing(None, None, None), 0, at(9), true, &[(2, 7)]).is_err(), "it never asked");
        let mut shortened = standing(Some(7), Some(9), Some(0));
        shortened.followers[0].start = Some(at(4));
        assert!(!proven(&shortened, 0), "it deleted what the topic begins with");
        assert!(prove(0, &shortened, 0, at(9), false, &[(1, 7)]).is_ok(), "a failover takes what there is");
        shortened.followers[0].start = Some(at(3));
        assert!(proven(&shortened, 0));
        let ahead = standing(Some(7), Some(10), Some(0));
        assert!(prove(0, &ahead, 0, at(9), false, &[(1, 7)]).is_ok(), "more than we have is enough");
        assert!(prove(0, &standing(Some(7), Some(8), Some(0)), 0, at(9), false, &[(1, 7)]).is_err());
    }
}
