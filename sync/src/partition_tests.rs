//! The partition machine: what it accepts, what it refuses, and where each fault leads.

use super::*;
use crate::fault::code;
use alloc::string::ToString;
use alloc::vec::Vec;
use twinlog_log_segment::batch::BATCH_HEADER_BYTES;
use twinlog_log_segment::files::TopicId;
use twinlog_log_segment::testing::BatchBuilder;

const MIB: u32 = 1 << 20;
/// Kafka's code of a replica that is not there (any more).
const REPLICA_NOT_AVAILABLE: i16 = 9;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn header(base: i64, last_delta: u32, epoch: i32) -> BatchHeader {
    let bytes =
        BatchBuilder::at(base).records(1, 10).last_offset_delta(last_delta).leader_epoch(epoch).build();
    BatchHeader::parse(bytes[..BATCH_HEADER_BYTES].try_into().unwrap(), MIB).unwrap()
}

fn partition(log_start: i64, end: i64, holds_batches: bool) -> Partition {
    let topic = Arc::new(Topic { name: "t".to_string(), id: TopicId([1; 16]) });
    let recovered = Recovered {
        ledger: Ledger::recovered(at(log_start), at(end)),
        epochs: EpochHistory::new(),
        transactions: OpenTransactions::new(),
        holds_batches,
    };
    let mut partition = Partition::new(PartitionKey { topic: 0, index: 0 }, topic, recovered, MIB, 8 * MIB);
    partition.leader_is(Leader { broker: 1, epoch: LeaderEpoch(4) });
    drain(&mut partition);
    partition
}

fn drain(partition: &mut Partition) -> Vec<Action> {
    core::iter::from_fn(|| partition.poll()).collect()
}

fn head(error: i16, log_start: i64, end: i64) -> PartitionHead {
    PartitionHead {
        index: 0,
        error,
        high_watermark: end,
        last_stable_offset: end,
        log_start_offset: log_start,
        preferred_read_replica: -1,
        records_bytes: 0,
    }
}

#[test]
fn a_batch_moves_the_fetch_offset_over_gaps_and_records_its_epoch() {
    let mut partition = partition(0, 0, false);
    assert!(partition.answer_begins(1, &head(0, 0, 100)));
    let first = header(10, 4, 2);
    partition.accept_header(&first).unwrap();
    let accepted = partition.accept_batch(&first, None).unwrap();
    assert!(accepted.new_epoch);
    assert_eq!(partition.ledger.fetch(), at(15));
    let second = header(20, 0, 2);
    partition.accept_header(&second).unwrap();
    assert!(!partition.accept_batch(&second, None).unwrap().new_epoch);
    let position = partition.position().unwrap();
    assert_eq!((position.fetch_offset, position.last_fetched_epoch), (at(21), LeaderEpoch(2)));
    assert_eq!(position.current_leader_epoch, LeaderEpoch(4));
}

#[test]
fn only_the_first_batch_of_an_empty_log_may_start_below_the_expected_offset() {
    let mut empty = partition(3, 3, false);
    let middle = header(0, 9, 0);
    empty.accept_header(&middle).unwrap();
    empty.accept_batch(&middle, None).unwrap();
    assert_eq!(empty.ledger.fetch(), at(10));
    assert!(matches!(empty.accept_header(&header(8, 5, 0)), Err(Fault::Overlaps { .. })));
    assert!(matches!(empty.accept_header(&header(2, 3, 0)), Err(Fault::BelowExpected { .. })));
    let emptied_by_retention = partition(3, 3, true);
    assert!(matches!(emptied_by_retention.accept_header(&middle), Err(Fault::Overlaps { .. })));
}

#[test]
fn an_epoch_that_goes_back_is_refused() {
    let mut partition = partition(0, 0, false);
    let batch = header(0, 0, 5);
    partition.accept_batch(&batch, None).unwrap();
    assert!(matches!(partition.accept_header(&header(1, 0, 4)), Err(Fault::EpochWentBack { .. })));
}

#[test]
fn wrong_bytes_are_fetched_again_a_bounded_number_of_times_then_the_partition_stops() {
    let mut partition = partition(0, 0, false);
    let fault = Fault::BelowExpected { expected: at(5), last_offset: at(1) };
    let mut now = 0;
    for _ in 0..REFETCHES_MAX {
        partition.fault(now, fault.clone());
        assert_eq!(drain(&mut partition), [Action::LeaveSession]);
        now = partition.deadline().unwrap();
        partition.tick(now);
        assert_eq!(drain(&mut partition), [Action::UpdateSession]);
    }
    partition.fault(now, fault.clone());
    assert_eq!(*partition.state(), State::Stopped(fault.clone()));
    assert_eq!(drain(&mut partition), [Action::LeaveSession, Action::Stopped(fault)]);
    assert!(partition.position().is_none());
    partition.resume();
    assert_eq!(*partition.state(), State::Fetching);
}

#[test]
fn an_old_format_stops_at_once() {
    let mut partition = partition(0, 0, false);
    let fault = Fault::Batch(twinlog_log_segment::batch::BatchError::OldMagic { base_offset: 0, magic: 1 });
    partition.fault(0, fault.clone());
    assert_eq!(*partition.state(), State::Stopped(fault));
}

#[test]
fn out_of_range_and_divergence_wait_for_a_classification() {
    for diverging in [false, true] {
        let mut partition = partition(0, 10, true);
        if diverging {
            assert!(partition.answer_begins(1, &head(0, 0, 5)));
            let tail = PartitionTail { diverging_epoch: Some((LeaderEpoch(0), 5)), current_leader: None };
            partition.answer_ends(1, &tail, &RecordsOutcome::default());
        } else {
            assert!(!partition.answer_begins(1, &head(code::OFFSET_OUT_OF_RANGE, -1, -1)));
        }
        assert_eq!(*partition.state(), State::Classifying);
        let actions = drain(&mut partition);
        assert!(matches!(actions[..], [Action::LeaveSession, Action::Classify(_)]), "{actions:?}");
    }
}

#[test]
fn a_moved_leader_is_rediscovered_and_an_older_epoch_is_stale_news() {
    let mut partition = partition(0, 10, true);
    partition.answer_begins(1, &head(code::NOT_LEADER_OR_FOLLOWER, -1, -1));
    assert_eq!(drain(&mut partition), [Action::LeaveSession, Action::RefreshMetadata]);
    let tail = PartitionTail { diverging_epoch: None, current_leader: Some((2, LeaderEpoch(5))) };
    partition.answer_ends(1, &tail, &RecordsOutcome::default());
    partition.leader_is(Leader { broker: 1, epoch: LeaderEpoch(4) });
    assert_eq!(partition.broker(), Some(2));
    partition.tick(partition.deadline().unwrap());
    assert_eq!(*partition.state(), State::Fetching);
}

#[test]
fn a_batch_larger_than_the_limit_is_asked_for_whole_before_it_is_given_up() {
    let mut partition = partition(0, 0, false);
    let records = RecordsOutcome { records_bytes: MIB, whole_batches: 0, cut_off_batch_bytes: 3 << 20 };
    partition.answer_begins(1, &head(0, 0, 10));
    partition.answer_ends(1, &PartitionTail::default(), &records);
    assert_eq!(partition.position().unwrap().bytes_max, 3 << 20);
    partition.answer_ends(1, &PartitionTail::default(), &records);
    assert!(matches!(partition.state(), State::BackingOff { .. }));
}

#[test]
fn the_log_start_follows_the_source_up_to_what_is_flushed() {
    let mut partition = partition(0, 10, true);
    partition.answer_begins(1, &head(0, 7, 20));
    assert_eq!(drain(&mut partition), [Action::Trimmed(at(7))]);
    partition.answer_begins(1, &head(0, 15, 20));
    assert_eq!(drain(&mut partition), [Action::Trimmed(at(10))]);
}

#[test]
fn a_log_start_beyond_the_flush_is_followed_when_the_flush_has_come_that_far() {
    let mut partition = partition(0, 0, false);
    partition.answer_begins(1, &head(0, 3, 20));
    partition.accept_batch(&header(0, 9, 0), None).unwrap();
    assert_eq!(drain(&mut partition), [], "nothing is flushed so far");
    partition.ledger.written(at(10));
    partition.flushed_to(at(2));
    assert_eq!(drain(&mut partition), [Action::Trimmed(at(2))]);
    partition.flushed_to(at(10));
    assert_eq!(drain(&mut partition), [Action::Trimmed(at(3))]);
    assert_eq!(partition.ledger.log_start(), at(3));
}

#[test]
fn a_partition_tails_when_it_has_caught_up_and_catches_up_when_answers_stay_full() {
    let mut partition = partition(0, 0, false);
    assert_eq!(partition.lane(), LaneKind::CatchUp);
    let batch = header(0, 9, 0);
    partition.answer_begins(1, &head(0, 0, 10));
    partition.accept_batch(&batch, None).unwrap();
    let small = RecordsOutcome { records_bytes: 100, whole_batches: 1, cut_off_batch_bytes: 0 };
    partition.answer_ends(1, &PartitionTail::default(), &small);
    assert_eq!(partition.lane(), LaneKind::Tail);
    let full = RecordsOutcome { records_bytes: MIB, ..small };
    partition.answer_begins(1, &head(0, 0, 1000));
    for _ in 0..3 {
        assert_eq!(partition.lane(), LaneKind::Tail);
        partition.answer_ends(1, &PartitionTail::default(), &full);
    }
    assert_eq!(partition.lane(), LaneKind::CatchUp);
}

#[test]
fn a_frozen_partition_fetches_nothing_until_it_thaws() {
    let mut partition = partition(0, 10, true);
    assert!(partition.position().is_some());
    partition.freeze();
    assert_eq!(drain(&mut partition), [Action::LeaveSession]);
    assert!(partition.position().is_none() && !partition.answer_begins(1, &head(0, 0, 20)));
    partition.fault(1, Fault::Broker { code: 6 });
    assert_eq!((partition.state(), partition.deadline()), (&State::Frozen, None), "no error thaws it");
    partition.thaw();
    assert_eq!(drain(&mut partition), [Action::UpdateSession]);
    assert_eq!(partition.state(), &State::Fetching);
}

fn head_naming(replica: i32) -> PartitionHead {
    PartitionHead { preferred_read_replica: replica, ..head(0, 0, 100) }
}

#[test]
fn a_nearer_replica_that_the_leader_names_is_read_from_and_keeps_being() {
    let mut partition = partition(0, 10, true);
    assert!(partition.answer_begins(1, &head_naming(3)));
    assert_eq!((partition.broker(), drain(&mut partition)), (Some(3), Vec::from([Action::UpdateSession])));
    // A follower names nobody, and the leader may name the same one again.
    for replica in [-1, 3] {
        assert!(partition.answer_begins(2, &head_naming(replica)));
        assert_eq!((partition.broker(), drain(&mut partition)), (Some(3), Vec::new()));
    }
}

#[test]
fn an_error_or_a_lost_connection_of_the_nearer_replica_leads_back_to_the_leader() {
    for error in [code::NOT_LEADER_OR_FOLLOWER, code::OFFSET_OUT_OF_RANGE, REPLICA_NOT_AVAILABLE] {
        let mut partition = partition(0, 10, true);
        partition.answer_begins(1, &head_naming(3));
        assert!(!partition.answer_begins(2, &head(error, -1, -1)));
        partition.leader_is(Leader { broker: 1, epoch: LeaderEpoch(4) });
        assert_eq!(partition.broker(), Some(1), "after error {error}");
    }
    let mut partition = partition(0, 10, true);
    partition.answer_begins(1, &head_naming(3));
    drain(&mut partition);
    partition.connection_failed(2);
    assert_eq!((partition.broker(), drain(&mut partition)), (Some(3), Vec::new()), "that was another broker");
    partition.connection_failed(3);
    assert_eq!((partition.broker(), drain(&mut partition)), (Some(1), Vec::from([Action::UpdateSession])));
    assert_eq!(*partition.state(), State::Fetching);
}

#[test]
fn a_change_of_the_leader_forgets_the_nearer_replica() {
    let mut partition = partition(0, 10, true);
    partition.answer_begins(1, &head_naming(3));
    drain(&mut partition);
    partition.leader_is(Leader { broker: 1, epoch: LeaderEpoch(4) });
    assert_eq!(partition.broker(), Some(3), "nothing changed");
    partition.leader_is(Leader { broker: 2, epoch: LeaderEpoch(5) });
    assert_eq!((partition.broker(), drain(&mut partition)), (Some(2), Vec::from([Action::UpdateSession])));
    partition.answer_begins(3, &head_naming(3));
    partition.leader_is_gone();
    assert_eq!(partition.broker(), None);
}
