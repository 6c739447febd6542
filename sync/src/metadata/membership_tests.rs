//! The life of one guest id against a controller that refuses, forgets and fails over.

use super::image::Broker;
use super::membership::*;
use super::record::Uuid;
use crate::{MILLISECOND, Nanoseconds, SECOND};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

const FRESH: Uuid = [1; 16];
const LOGGED: Uuid = [2; 16];
const DIRECTORY: Uuid = [3; 16];

struct World {
    membership: Membership,
    now: Nanoseconds,
    told: Vec<MembershipAction>,
}

impl World {
    fn new(persisted_incarnation: Option<Uuid>) -> Self {
        let membership = Membership::new(MembershipOptions {
            broker: 900,
            cluster_id: "a-cluster".to_string(),
            heartbeat_interval: SECOND,
            persisted_incarnation,
            fresh_incarnation: FRESH,
        });
        Self { membership, now: 0, told: Vec::new() }
    }

    fn handle(&mut self, event: MembershipEvent<'_>) {
        self.membership.handle(self.now, event);
    }

    fn observe(&mut self, registration: Option<&Broker>) {
        self.handle(MembershipEvent::Observed { registration, metadata_offset: 100 });
    }

    /// The next request, at its time.
    fn request(&mut self) -> MembershipAction {
        loop {
            match self.membership.poll(self.now) {
                None => self.now = self.membership.deadline().expect("it waits for a time").max(self.now),
                Some(
                    request @ (MembershipAction::Register { .. }
                    | MembershipAction::Heartbeat { .. }
                    | MembershipAction::Unregister),
                ) => return request,
                Some(other) => self.told.push(other),
            }
        }
    }

    fn want_fence(&mut self) -> bool {
        match self.request() {
            MembershipAction::Heartbeat { want_fence, .. } => want_fence,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat_answer(&mut self, code: i16, is_fenced: bool) {
        self.handle(MembershipEvent::Heartbeat(HeartbeatAnswer { code, is_fenced }));
    }

    /// Registered for the first time and unfenced.
    fn active(epoch: i64) -> Self {
        let mut world = Self::new(None);
        world.observe(None);
        world.request();
        world.handle(MembershipEvent::Registered(Ok(epoch)));
        assert!(world.want_fence());
        world.heartbeat_answer(0, true);
        assert!(!world.want_fence());
        world.heartbeat_answer(0, false);
        world.observe(Some(&logged(FRESH, epoch, false)));
        assert_eq!(world.membership.state(), MembershipState::Active { epoch });
        world.want_fence();
        world.told.clear();
        world
    }
}

fn logged(incarnation: Uuid, epoch: i64, fenced: bool) -> Broker {
    Broker { broker: 900, incarnation, epoch, fenced, directories: vec![DIRECTORY], ..Broker::default() }
}

#[test]
fn a_first_registration_is_fenced_and_cordoned_before_it_is_unfenced() {
    let mut world = World::new(None);
    assert_eq!(world.membership.poll(0), None, "nothing before the log was read");
    world.observe(None);
    let directory = derived_directory("a-cluster", 900);
    let expected = MembershipAction::Register { incarnation: FRESH, directory, previous_epoch: -1 };
    assert_eq!(world.request(), expected);
    world.handle(MembershipEvent::Registered(Ok(7)));
    let heartbeat =
        |want_fence| MembershipAction::Heartbeat { epoch: 7, metadata_offset: 100, want_fence, directory };
    assert_eq!(world.request(), heartbeat(true));
    world.heartbeat_answer(0, true);
    assert_eq!(world.request(), heartbeat(false));
    assert_eq!(world.now, 0, "at once");
    world.heartbeat_answer(0, true);
    assert_eq!(world.request(), heartbeat(false), "until the controller sees that we are caught up");
    assert!(world.now < SECOND);
    world.heartbeat_answer(0, false);
    let sent = world.now;
    world.request();
    assert!(world.told.contains(&MembershipAction::Serve { epoch: 7 }));
    assert_eq!(world.now, sent + SECOND, "then at the usual interval");
}

#[test]
fn identity_comes_from_what_was_persisted_and_from_the_log() {
    let known = logged(LOGGED, 7, true);
    for (persisted, expected) in [(None, LOGGED), (Some([9; 16]), [9; 16])] {
        let mut world = World::new(persisted);
        world.observe(Some(&known));
        let register =
            MembershipAction::Register { incarnation: expected, directory: DIRECTORY, previous_epoch: 7 };
        assert_eq!(world.request(), register);
    }
    assert_ne!(derived_directory("a-cluster", 900), derived_directory("a-cluster", 901));
    assert_ne!(derived_directory("a-cluster", 900), derived_directory("another", 900));
}

#[test]
fn a_restart_within_the_session_never_asks_to_be_fenced() {
    let mut world = World::new(None);
    world.observe(Some(&logged(LOGGED, 7, false)));
    world.request();
    world.handle(MembershipEvent::Registered(Ok(7)));
    assert!(!world.want_fence());
    world.heartbeat_answer(0, false);
    world.request();
    assert!(world.told.contains(&MembershipAction::Serve { epoch: 7 }));
}

#[test]
fn an_older_incarnation_is_waited_for() {
    let mut world = World::new(Some(FRESH));
    world.observe(Some(&logged(LOGGED, 7, false)));
    for _ in 0..20 {
        assert!(matches!(world.request(), MembershipAction::Register { previous_epoch: 7, .. }));
        world.handle(MembershipEvent::Registered(Err(101)));
    }
    assert!(world.now >= 9 * SECOND && world.now <= 11 * SECOND);
    world.request();
    let duplicates = |action: &&MembershipAction| {
        matches!(action, MembershipAction::Changed { reason: Reason::Duplicate, .. })
    };
    assert_eq!(world.told.iter().filter(duplicates).count(), 1, "told once");
    world.handle(MembershipEvent::Registered(Ok(12)));
    assert!(world.want_fence());
}

#[test]
fn a_bump_is_one_fence_and_one_unfence_while_serving_goes_on() {
    let mut world = World::active(7);
    world.handle(MembershipEvent::Bump);
    // The heartbeat under way was sent before the bump.
    world.heartbeat_answer(0, false);
    assert!(world.want_fence());
    world.heartbeat_answer(0, true);
    assert!(!world.want_fence());
    world.heartbeat_answer(0, false);
    assert!(!world.want_fence());
    let fenced = MembershipState::Fenced { epoch: 7 };
    let active = MembershipState::Active { epoch: 7 };
    let told = [
        MembershipAction::Changed { state: fenced, reason: Reason::Bump },
        MembershipAction::Changed { state: active, reason: Reason::Unfenced },
        MembershipAction::Bumped,
    ];
    assert_eq!(world.told, told);
}

#[test]
fn a_stale_epoch_stops_serving_and_registers_again() {
    let mut world = World::active(7);
    world.heartbeat_answer(77, true);
    world.observe(None);
    assert!(matches!(world.request(), MembershipAction::Register { previous_epoch: -1, .. }));
    assert!(world.told.contains(&MembershipAction::StopServing { reason: Reason::StaleEpoch }));
}

#[test]
fn the_log_says_first_that_somebody_else_has_our_id() {
    for (registration, reason) in
        [(None, Reason::Unregistered), (Some(logged(LOGGED, 9, true)), Reason::Replaced)]
    {
        let mut world = World::active(7);
        world.observe(registration.as_ref());
        world.heartbeat_answer(0, false);
        world.request();
        assert!(world.told.contains(&MembershipAction::StopServing { reason }), "{:?}", world.told);
    }
}

#[test]
fn a_controller_that_is_gone_or_not_active_costs_a_pause_and_no_state() {
    let mut world = World::active(7);
    let before = world.now;
    world.heartbeat_answer(41, true);
    assert!(!world.want_fence());
    world.handle(MembershipEvent::Failed);
    assert!(!world.want_fence());
    assert_eq!(world.told, [MembershipAction::Rediscover; 2]);
    assert_eq!(world.now, before + 200 * MILLISECOND);
    world.heartbeat_answer(0, true);
    world.want_fence();
    let fenced = MembershipState::Fenced { epoch: 7 };
    let lost = MembershipAction::Changed { state: fenced, reason: Reason::SessionLost };
    assert!(world.told.contains(&lost));
}

#[test]
fn leaving_unregisters_whatever_was_under_way() {
    let mut world = World::active(7);
    world.handle(MembershipEvent::Leave);
    world.heartbeat_answer(0, false);
    assert_eq!(world.request(), MembershipAction::Unregister);
    world.handle(MembershipEvent::Unregistered { code: 41 });
    assert_eq!(world.request(), MembershipAction::Unregister);
    world.handle(MembershipEvent::Unregistered { code: 0 });
    while let Some(action) = world.membership.poll(world.now) {
        world.told.push(action);
    }
    assert!(world.told.contains(&MembershipAction::StopServing { reason: Reason::Leave }));
    assert_eq!((world.membership.state(), world.membership.deadline()), (MembershipState::Left, None));
}
