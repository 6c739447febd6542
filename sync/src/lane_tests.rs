//! The lane machine: from nothing to a fetch, and out of every failure again.

use super::*;
use crate::session::PartitionKey;
use crate::wire::fetch_request::{FetchPosition, Topic};
use alloc::string::ToString;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::offset::{LeaderEpoch, Offset};

fn lane() -> Lane {
    let options = LaneOptions {
        client_id: "twinlog".to_string(),
        rack: String::new(),
        isolation_level: IsolationLevel::ReadCommitted,
        wait_max_ms: 500,
        bytes_min: 1,
        response_bytes_max: 16 << 20,
        batch_bytes_max: 64 << 20,
        request_timeout_ms: 30_000,
        backoff: crate::backoff::BackoffLimits::default(),
    };
    let mut lane = Lane::new(1, LaneKind::Tail, Arc::new(options), 7);
    let topic = Arc::new(Topic { name: "t".to_string(), id: TopicId([1; 16]) });
    let position = FetchPosition {
        fetch_offset: Offset::ZERO,
        current_leader_epoch: LeaderEpoch(0),
        last_fetched_epoch: LeaderEpoch::UNKNOWN,
        bytes_max: 1 << 20,
    };
    lane.session.set(PartitionKey { topic: 0, index: 0 }, &topic, position);
    lane
}

fn ready(lane: &mut Lane) {
    lane.tick(0);
    assert_eq!(lane.poll(), Some(Action::Connect));
    lane.connected(1, false);
    assert_eq!(lane.poll(), Some(Action::Send));
    lane.negotiated(Negotiated::Fetch(17));
}

#[test]
fn a_lane_with_partitions_connects_negotiates_and_fetches() {
    let mut lane = lane();
    assert_eq!(lane.wants_to_fetch(), None);
    ready(&mut lane);
    assert_eq!(lane.wants_to_fetch(), Some(1 << 20));
    lane.fetch(2, 1 << 20);
    assert_eq!(lane.poll(), Some(Action::Send));
    assert!(!lane.outgoing.is_empty());
    assert!(lane.response(3, 0, 0, 55));
    assert_eq!(lane.answered(3), 1 << 20);
    assert!(lane.wants_to_fetch().is_some());
}

#[test]
fn a_lane_without_partitions_stays_silent() {
    let mut lane = lane();
    lane.session.remove(PartitionKey { topic: 0, index: 0 });
    lane.tick(0);
    assert_eq!((lane.poll(), lane.deadline()), (None, None));
}

#[test]
fn a_silent_broker_is_given_up_and_tried_again_later() {
    let mut lane = lane();
    ready(&mut lane);
    lane.fetch(2, 1 << 20);
    lane.poll();
    let deadline = lane.deadline().unwrap();
    lane.tick(deadline - 1);
    assert_eq!(lane.poll(), None);
    lane.tick(deadline);
    assert_eq!(lane.poll(), Some(Action::Close));
    assert_eq!(lane.take_granted(), 1 << 20);
    lane.closed(deadline);
    let again = lane.deadline().unwrap();
    assert!(again > deadline);
    lane.tick(again);
    assert_eq!(lane.poll(), Some(Action::Connect));
    lane.connected(again, false);
    lane.negotiated(Negotiated::Fetch(17));
    lane.fetch(again, 1);
    // The new connection has a new session: everything is listed again.
    assert_eq!((lane.request.session_epoch, lane.request.partitions.len()), (0, 1));
}

#[test]
fn a_throttled_lane_waits_but_never_longer_than_the_bound() {
    let mut lane = lane();
    ready(&mut lane);
    lane.fetch(2, 1);
    assert!(lane.response(10, i32::MAX, 0, 1));
    lane.answered(10);
    assert_eq!(lane.wants_to_fetch(), None);
    assert_eq!(lane.deadline(), Some(10 + THROTTLE_MAX));
    lane.tick(10 + THROTTLE_MAX);
    assert!(lane.wants_to_fetch().is_some());
}

#[test]
fn a_lost_session_keeps_the_connection_and_an_unknown_error_gives_it_up() {
    let mut lane = lane();
    ready(&mut lane);
    lane.fetch(2, 1);
    assert!(lane.response(3, 0, code::INVALID_FETCH_SESSION_EPOCH, 0));
    lane.answered(3);
    lane.fetch(4, 1);
    while lane.poll().is_some() {}
    assert!(!lane.response(5, 0, -1, 0));
    assert_eq!(lane.poll(), Some(Action::Close));
    assert_eq!(lane.last_fault(), Some(&LaneFault::Refused { code: -1 }));
}

#[test]
fn an_incompatible_broker_is_named() {
    let mut lane = lane();
    lane.tick(0);
    lane.connected(1, false);
    lane.negotiated(Negotiated::NoCommonVersion { lowest: 0, highest: 3 });
    let fault = lane.last_fault().unwrap();
    assert!(fault.to_string().contains("Fetch v0 to v3"), "{fault}");
}

#[test]
fn a_secure_connection_is_negotiated_once_it_is_secure_and_renewed_between_fetches() {
    let mut lane = lane();
    lane.tick(0);
    lane.poll();
    let deadline = lane.deadline();
    lane.connected(1, true);
    assert_eq!((lane.poll(), lane.poll()), (Some(Action::Secure), None));
    assert_eq!(lane.deadline(), deadline, "a handshake gets no time of its own");
    lane.secured(5);
    assert_eq!(lane.poll(), Some(Action::Send));
    lane.negotiated(Negotiated::Fetch(17));
    lane.fetch(6, 1);
    assert!(!lane.renew(7), "an answer is under way");
    lane.poll();
    lane.response(8, 0, 0, 1);
    lane.answered(8);
    assert!(lane.renew(9) && lane.wants_to_fetch().is_none());
    assert_eq!(lane.poll(), Some(Action::Secure));
    lane.secured(10);
    assert_eq!((lane.poll(), lane.wants_to_fetch().is_some()), (None, true));
}

#[test]
fn a_broker_that_does_not_believe_us_is_left_alone_for_ten_seconds_at_least() {
    let mut lane = lane();
    for _ in 0..20 {
        let now = lane.deadline().unwrap_or(0);
        lane.tick(now);
        lane.connected(now, true);
        lane.failed(LaneFault::AuthenticationFailed { why: "SCRAM-SHA-512 as user".into() });
        lane.closed(now);
        assert!(lane.deadline().unwrap() >= now + AUTHENTICATION_PAUSE);
    }
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let mut lane = lane();
    lane.tick(0);
    lane.connected(1, true);
    let deadline = lane.deadline().unwrap();
    lane.tick(deadline);
    assert_eq!(lane.last_fault(), Some(&LaneFault::TimedOut));
}
