//! What a mirror topic may become, in which orders it is handed over, and in which it is deleted: four tables.
//!
//! Owns the tables and nothing else: who keeps a state asks [`Transition::next`] before it changes one.
//! `lifecycle.txt` beside this file is the same tables as people read them; a test holds the two together.
//!
//! ```text
//!                    resumed | link resumed | link recovered | released
//!        +------------------------------------------------------------------+
//!        v                                                                  |
//!   PENDING_MIRROR --established--> ACTIVE <--> SOURCE_UNAVAILABLE    PAUSED, LINK_PAUSED,
//!        ^                            |                |              LINK_FAILED, FAILED
//!        |                            | promote        | failover           | failover
//!        +--------- abandoned ---- PENDING_STOPPED <---+--------------------+
//!                                     | finished
//!                                     v
//!                                  STOPPED
//!
//!   Requested - Captured - Frozen - FollowersProven - ProducerIdsFloored - GroupsCommitted - Reassigned
//!       |          |          |            |                  |                  |             |     |
//!       +----------+----------+------------+--- Abandoned ----+------------------+-------------+     |
//!                                                       Done - ConfigsRestored - Verified - HandedOver
//!
//!   Requested - Captured - Frozen - EndsProven - GroupsCommitted - Done            (the copy is a store)
//!       |          |          |         |               |
//!       +----------+----------+---------+-- Abandoned --+
//!
//!   Marked --it is ours there--> Deleting --not there any more--> Removing --nothing left here--> Forgotten
//!       +-------with data, nothing of ours there------------------^                                ^
//!       +-------without data-----------------------------------------------------------------------+
//! ```
//! Invariants: a step is kept before it is taken, so what is kept tells what *may* have happened; from
//! `HandedOver` on another broker may accept writes, so nothing leads from there to `Abandoned`. What is written
//! beside a store is known to nobody before `Done`: until then all of it can be taken back.

use core::fmt;

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition<S, E> {
    pub from: S,
    pub event: E,
    pub to: S,
}

impl<S: Copy + PartialEq, E: Copy + PartialEq> Transition<S, E> {
    /// What `from` becomes by `event`; `None` where the table forbids it.
    pub fn next(table: &[Self], from: S, event: E) -> Option<S> {
        table.iter().find(|row| row.from == from && row.event == event).map(|row| row.to)
    }
}

impl<S: fmt::Display, E: fmt::Display> fmt::Display for Transition<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} --{}--> {}", self.from, self.event, self.to)
    }
}

/// Declares an enum whose variants have one name each, printed and read back.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($(#[$note:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $kind { $($(#[$note])* $variant,)+ }

        impl $kind {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// How it is written in state, answers and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.name() == name)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// A mirror topic's state, by the names that users of Cluster Linking know.
    MirrorState {
        /// Being created or established; nothing is promised yet.
        PendingMirror = "PENDING_MIRROR",
        Active = "ACTIVE",
        Paused = "PAUSED",
        LinkPaused = "LINK_PAUSED",
        /// Shown after `cluster.link.retry.timeout.ms`; retries go on.
        SourceUnavailable = "SOURCE_UNAVAILABLE",
        /// A hand-over is under way.
        PendingStopped = "PENDING_STOPPED",
        /// The destination leads it; a mirror no more.
        Stopped = "STOPPED",
        /// Stopped with a reason; an operator releases it.
        Failed = "FAILED",
        LinkFailed = "LINK_FAILED",
        /// The way back of a failed-over topic; no event of this table leads there.
        PendingSynchronize = "PENDING_SYNCHRONIZE",
        /// The same.
        PendingRestore = "PENDING_RESTORE",
        /// The same.
        PendingSetupForRestore = "PENDING_SETUP_FOR_RESTORE",
    }
}

named! {
    /// What happens to a mirror topic.
    MirrorEvent {
        /// It exists at the destination, is led by us and is being fetched.
        Established = "established",
        Paused = "paused",
        Resumed = "resumed",
        LinkPaused = "link paused",
        LinkResumed = "link resumed",
        SourceLost = "source lost",
        SourceFound = "source found",
        LinkFailed = "link failed",
        LinkRecovered = "link recovered",
        /// Something that only an operator can answer for.
        Failed = "failed",
        /// An operator answered.
        Released = "released",
        PromoteRequested = "promote requested",
        FailoverRequested = "failover requested",
        HandOverAbandoned = "hand-over abandoned",
        HandOverFinished = "hand-over finished",
    }
}

named! {
    /// Where a hand-over stands: the step that may have been begun.
    HandOverStep {
        Requested = "REQUESTED",
        /// The ends to hand over at: the source's for a promote, what was mirrored for a failover.
        Captured = "CAPTURED",
        /// Nothing is appended beyond the captured ends.
        Frozen = "FROZEN",
        /// Every follower of the target has them, lately and with its registered epoch.
        FollowersProven = "FOLLOWERS_PROVEN",
        /// Of a store: everything is flushed, and the source, asked again, ends where it ended.
        EndsProven = "ENDS_PROVEN",
        /// No id that the destination hands out will be one of the mirrored ones.
        ProducerIdsFloored = "PRODUCER_IDS_FLOORED",
        GroupsCommitted = "GROUPS_COMMITTED",
        /// The replicas are to become the target; seen pending as sent.
        Reassigned = "REASSIGNED",
        /// The one AlterPartition: the point of no return.
        HandedOver = "HANDED_OVER",
        /// Seen in the metadata log and by a client's ListOffsets.
        Verified = "VERIFIED",
        /// The guards are lifted, the wanted configuration holds.
        ConfigsRestored = "CONFIGS_RESTORED",
        Done = "DONE",
        /// Taken back; the mirror goes on.
        Abandoned = "ABANDONED",
    }
}

named! {
    /// What a hand-over does next.
    HandOverEvent {
        Capture = "capture",
        Freeze = "freeze",
        ProveFollowers = "prove followers",
        ProveEnds = "prove ends",
        FloorProducerIds = "floor producer ids",
        CommitGroups = "commit groups",
        Reassign = "reassign",
        HandOver = "hand over",
        Verify = "verify",
        RestoreConfigs = "restore configs",
        Finish = "finish",
        Abandon = "abandon",
    }
}

named! {
    /// Where the deletion of a mirror topic stands: the step that may have been begun.
    DeletionStep {
        /// It is fetched no more, and no filter brings it back.
        Marked = "MARKED",
        /// The destination's topic goes; the metadata log shows when it is gone.
        Deleting = "DELETING",
        /// What we hold of it goes.
        Removing = "REMOVING",
        /// Nothing is left of it but its history and the mark.
        Forgotten = "FORGOTTEN",
    }
}

named! {
    /// What a deletion does next.
    DeletionEvent {
        Delete = "delete at the destination",
        Remove = "remove here",
        Forget = "forget",
    }
}

impl HandOverStep {
    /// Nothing is left to do.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Abandoned)
    }

    /// It can be taken back without anybody having been able to write.
    pub fn may_be_abandoned(self) -> bool {
        let abandoned = |way: HandOverWay| way.next(self, HandOverEvent::Abandon).is_some();
        HandOverWay::ALL.into_iter().any(abandoned)
    }
}

/// Who takes a topic over, and so by which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverWay {
    /// Brokers that follow us.
    Guest,
    /// Whoever adopts the files of a store, later.
    Store,
}

impl HandOverWay {
    pub const ALL: [Self; 2] = [Self::Guest, Self::Store];

    pub const fn transitions(self) -> &'static [Transition<HandOverStep, HandOverEvent>] {
        match self {
            Self::Guest => HAND_OVER_TRANSITIONS,
            Self::Store => STORE_HAND_OVER_TRANSITIONS,
        }
    }

    /// What `from` becomes by `event` on this way.
    pub fn next(self, from: HandOverStep, event: HandOverEvent) -> Option<HandOverStep> {
        Transition::next(self.transitions(), from, event)
    }
}

const fn mirror(
    from: MirrorState,
    event: MirrorEvent,
    to: MirrorState,
) -> Transition<MirrorState, MirrorEvent> {
    Transition { from, event, to }
}

const fn step(
    from: HandOverStep,
    event: HandOverEvent,
    to: HandOverStep,
) -> Transition<HandOverStep, HandOverEvent> {
    Transition { from, event, to }
}

/// Everything that may happen to a mirror topic.
pub const MIRROR_TRANSITIONS: &[Transition<MirrorState, MirrorEvent>] = {
    use MirrorEvent as E;
    use MirrorState as S;
    &[
        mirror(S::PendingMirror, E::Established, S::Active),
        mirror(S::PendingMirror, E::Paused, S::Paused),
        mirror(S::PendingMirror, E::LinkPaused, S::LinkPaused),
        mirror(S::PendingMirror, E::LinkFailed, S::LinkFailed),
        mirror(S::PendingMirror, E::Failed, S::Failed),
        mirror(S::PendingMirror, E::FailoverRequested, S::PendingStopped),
        mirror(S::Active, E::Paused, S::Paused),
        mirror(S::Active, E::LinkPaused, S::LinkPaused),
        mirror(S::Active, E::SourceLost, S::SourceUnavailable),
        mirror(S::Active, E::LinkFailed, S::LinkFailed),
        mirror(S::Active, E::Failed, S::Failed),
        mirror(S::Active, E::PromoteRequested, S::PendingStopped),
        mirror(S::Active, E::FailoverRequested, S::PendingStopped),
        mirror(S::Paused, E::Resumed, S::PendingMirror),
        mirror(S::Paused, E::Failed, S::Failed),
        mirror(S::Paused, E::FailoverRequested, S::PendingStopped),
        mirror(S::LinkPaused, E::LinkResumed, S::PendingMirror),
        mirror(S::LinkPaused, E::Failed, S::Failed),
        mirror(S::LinkPaused, E::FailoverRequested, S::PendingStopped),
        mirror(S::PendingMirror, E::SourceLost, S::SourceUnavailable),
        mirror(S::SourceUnavailable, E::SourceFound, S::PendingMirror),
        mirror(S::SourceUnavailable, E::Paused, S::Paused),
        mirror(S::SourceUnavailable, E::LinkPaused, S::LinkPaused),
        mirror(S::SourceUnavailable, E::LinkFailed, S::LinkFailed),
        mirror(S::SourceUnavailable, E::Failed, S::Failed),
        mirror(S::SourceUnavailable, E::FailoverRequested, S::PendingStopped),
        mirror(S::LinkFailed, E::LinkRecovered, S::PendingMirror),
        mirror(S::LinkFailed, E::Paused, S::Paused),
        mirror(S::LinkFailed, E::LinkPaused, S::LinkPaused),
        mirror(S::LinkFailed, E::Failed, S::Failed),
        mirror(S::LinkFailed, E::FailoverRequested, S::PendingStopped),
        mirror(S::Failed, E::Released, S::PendingMirror),
        mirror(S::Failed, E::Paused, S::Paused),
        mirror(S::Failed, E::FailoverRequested, S::PendingStopped),
        mirror(S::PendingStopped, E::HandOverAbandoned, S::PendingMirror),
        mirror(S::PendingStopped, E::HandOverFinished, S::Stopped),
    ]
};

/// The one way through a hand-over, and the ways out of it.
pub const HAND_OVER_TRANSITIONS: &[Transition<HandOverStep, HandOverEvent>] = {
    use HandOverEvent as E;
    use HandOverStep as S;
    &[
        step(S::Requested, E::Capture, S::Captured),
        step(S::Captured, E::Freeze, S::Frozen),
        step(S::Frozen, E::ProveFollowers, S::FollowersProven),
        step(S::FollowersProven, E::FloorProducerIds, S::ProducerIdsFloored),
        step(S::ProducerIdsFloored, E::CommitGroups, S::GroupsCommitted),
        step(S::GroupsCommitted, E::Reassign, S::Reassigned),
        step(S::Reassigned, E::HandOver, S::HandedOver),
        step(S::HandedOver, E::Verify, S::Verified),
        step(S::Verified, E::RestoreConfigs, S::ConfigsRestored),
        step(S::ConfigsRestored, E::Finish, S::Done),
        step(S::Requested, E::Abandon, S::Abandoned),
        step(S::Captured, E::Abandon, S::Abandoned),
        step(S::Frozen, E::Abandon, S::Abandoned),
        step(S::FollowersProven, E::Abandon, S::Abandoned),
        step(S::ProducerIdsFloored, E::Abandon, S::Abandoned),
        step(S::GroupsCommitted, E::Abandon, S::Abandoned),
        step(S::Reassigned, E::Abandon, S::Abandoned),
    ]
};

/// The same where the copy is a store: nobody leads anything, so nothing is reassigned and nothing fenced.
pub const STORE_HAND_OVER_TRANSITIONS: &[Transition<HandOverStep, HandOverEvent>] = {
    use HandOverEvent as E;
    use HandOverStep as S;
    &[
        step(S::Requested, E::Capture, S::Captured),
        step(S::Captured, E::Freeze, S::Frozen),
        step(S::Frozen, E::ProveEnds, S::EndsProven),
        step(S::EndsProven, E::CommitGroups, S::GroupsCommitted),
        step(S::GroupsCommitted, E::Finish, S::Done),
        step(S::Requested, E::Abandon, S::Abandoned),
        step(S::Captured, E::Abandon, S::Abandoned),
        step(S::Frozen, E::Abandon, S::Abandoned),
        step(S::EndsProven, E::Abandon, S::Abandoned),
        step(S::GroupsCommitted, E::Abandon, S::Abandoned),
    ]
};

const fn deletion(
    from: DeletionStep,
    event: DeletionEvent,
    to: DeletionStep,
) -> Transition<DeletionStep, DeletionEvent> {
    Transition { from, event, to }
}

/// The ways through a deletion; none leads back, for a mark can only be followed by `mirror create`.
pub const DELETION_TRANSITIONS: &[Transition<DeletionStep, DeletionEvent>] = {
    use DeletionEvent as E;
    use DeletionStep as S;
    &[
        deletion(S::Marked, E::Delete, S::Deleting),
        deletion(S::Marked, E::Remove, S::Removing),
        deletion(S::Marked, E::Forget, S::Forgotten),
        deletion(S::Deleting, E::Remove, S::Removing),
        deletion(S::Removing, E::Forget, S::Forgotten),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::string::String;
    use core::fmt::Write;

    /// Every row, as `lifecycle.txt` holds it.
    fn printed() -> String {
        let mut text = String::from("mirror topic\n");
        MIRROR_TRANSITIONS.iter().for_each(|row| writeln!(text, "  {row}").unwrap());
        text.push_str("\nhand-over\n");
        HAND_OVER_TRANSITIONS.iter().for_each(|row| writeln!(text, "  {row}").unwrap());
        text.push_str("\nhand-over of a store\n");
        STORE_HAND_OVER_TRANSITIONS.iter().for_each(|row| writeln!(text, "  {row}").unwrap());
        text.push_str("\ndeletion\n");
        DELETION_TRANSITIONS.iter().for_each(|row| writeln!(text, "  {row}").unwrap());
        text
    }

    #[test]
    fn the_tables_are_the_ones_that_people_read() {
        assert_eq!(printed(), include_str!("lifecycle.txt"));
    }

    #[test]
    fn no_table_answers_one_event_twice() {
        let pairs: BTreeSet<_> = MIRROR_TRANSITIONS.iter().map(|row| (row.from, row.event)).collect();
        assert_eq!(pairs.len(), MIRROR_TRANSITIONS.len());
        for table in HandOverWay::ALL.map(HandOverWay::transitions) {
            let steps: BTreeSet<_> = table.iter().map(|row| (row.from, row.event)).collect();
            assert_eq!(steps.len(), table.len());
        }
        let deletions: BTreeSet<_> = DELETION_TRANSITIONS.iter().map(|row| (row.from, row.event)).collect();
        assert_eq!(deletions.len(), DELETION_TRANSITIONS.len());
    }

    #[test]
    fn nothing_after_the_hand_over_is_taken_back() {
        let late = HandOverStep::ALL.iter().filter(|step| **step >= HandOverStep::HandedOver);
        assert!(late.clone().count() == 5 && late.clone().all(|step| !step.may_be_abandoned()));
        let early = HandOverStep::ALL.iter().filter(|step| **step < HandOverStep::HandedOver);
        assert!(early.clone().count() == 8 && early.clone().all(|step| step.may_be_abandoned()));
    }

    #[test]
    fn a_hand_over_goes_through_every_step_in_order_and_skips_none() {
        for (way, steps) in HandOverWay::ALL.into_iter().zip([11, 6]) {
            let is_on_the_way =
                |event: &HandOverEvent| way.transitions().iter().any(|row| row.event == *event);
            let forward = HandOverEvent::ALL.iter().filter(|event| **event != HandOverEvent::Abandon);
            let (mut at, mut seen) = (HandOverStep::Requested, 1);
            for event in forward.clone().filter(|event| is_on_the_way(event)) {
                for other in forward.clone().filter(|other| *other != event) {
                    assert_eq!(way.next(at, *other), None, "{at} {other}");
                }
                let next = way.next(at, *event).unwrap();
                assert!(next > at, "{at} {next}");
                (at, seen) = (next, seen + 1);
            }
            assert_eq!((at, seen), (HandOverStep::Done, steps));
        }
    }

    #[test]
    fn a_store_can_be_taken_back_until_it_is_done() {
        let rows = STORE_HAND_OVER_TRANSITIONS.iter();
        let from: BTreeSet<HandOverStep> = rows.map(|row| row.from).collect();
        assert!(from.iter().all(|step| HandOverWay::Store.next(*step, HandOverEvent::Abandon).is_some()));
        assert!(!from.contains(&HandOverStep::Done) && !from.contains(&HandOverStep::Abandoned));
    }

    #[test]
    fn every_state_is_reached_but_the_ones_of_the_way_back() {
        let mut reached = BTreeSet::from([MirrorState::PendingMirror]);
        for _ in MirrorState::ALL {
            let next = MIRROR_TRANSITIONS.iter().filter(|row| reached.contains(&row.from)).map(|row| row.to);
            let next: BTreeSet<_> = next.collect();
            reached.extend(next);
        }
        let missing: alloc::vec::Vec<_> =
            MirrorState::ALL.iter().filter(|state| !reached.contains(state)).copied().collect();
        use MirrorState::{PendingRestore, PendingSetupForRestore, PendingSynchronize};
        assert_eq!(missing, [PendingSynchronize, PendingRestore, PendingSetupForRestore]);
    }

    #[test]
    fn a_promote_needs_an_active_mirror_and_a_failover_takes_any() {
        let next = |from, event| Transition::next(MIRROR_TRANSITIONS, from, event);
        for state in MirrorState::ALL {
            let promoted = next(*state, MirrorEvent::PromoteRequested);
            assert_eq!(promoted.is_some(), *state == MirrorState::Active, "{state}");
        }
        assert!(next(MirrorState::SourceUnavailable, MirrorEvent::FailoverRequested).is_some());
        assert!(next(MirrorState::Stopped, MirrorEvent::FailoverRequested).is_none());
    }

    #[test]
    fn nothing_is_removed_here_while_the_destination_may_still_follow_it() {
        let to_removing = DELETION_TRANSITIONS.iter().filter(|row| row.to == DeletionStep::Removing);
        assert!(to_removing.clone().count() == 2 && to_removing.clone().all(|row| row.from < row.to));
        assert!(DELETION_TRANSITIONS.iter().all(|row| row.from < row.to), "a deletion never goes back");
    }

    #[test]
    fn names_are_read_back() {
        for state in MirrorState::ALL {
            assert_eq!(MirrorState::parse(state.name()), Some(*state));
        }
        assert_eq!(HandOverStep::parse("HANDED_OVER"), Some(HandOverStep::HandedOver));
        assert_eq!(MirrorState::parse("active"), None);
    }
}
