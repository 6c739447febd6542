//! A session against a naive one that remembers everything and looks at everything.

use super::*;
use crate::wire::follower_request::{Request, read_request};
use crate::wire::{API_KEY_FETCH, Writer};
use proptest::prelude::*;

const TOPIC: TopicId = TopicId([7; 16]);
const UNKNOWN_TOPIC: TopicId = TopicId([8; 16]);
const SESSION: i32 = 4711;

/// The frame of a Fetch request without its length. Each listed partition is (index, fetch offset).
fn frame(session: (i32, i32), topic: TopicId, listed: &[(i32, i64)], forgotten: &[i32]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.request_header(API_KEY_FETCH, 17, 1, "", true);
    for number in [500, 1, 10 << 20] {
        writer.i32(number);
    }
    writer.i8(0);
    writer.i32(session.0);
    writer.i32(session.1);
    writer.array_length(true, 1);
    writer.raw(&topic.0);
    writer.array_length(true, listed.len());
    for (index, fetch_offset) in listed {
        writer.i32(*index);
        writer.i32(0);
        writer.i64(*fetch_offset);
        writer.i32(-1);
        writer.i64(0);
        writer.i32(1 << 20);
        writer.no_tags(true);
    }
    writer.no_tags(true);
    writer.array_length(true, 1);
    writer.raw(&topic.0);
    writer.array_length(true, forgotten.len());
    forgotten.iter().for_each(|index| writer.i32(*index));
    writer.no_tags(true);
    writer.string(true, "");
    writer.no_tags(true);
    writer.finish();
    out.split_off(4)
}

/// Partitions of the known topic are their own handles.
fn resolve(topic: TopicId, index: i32) -> Option<u32> {
    (topic == TOPIC).then_some(index as u32)
}

fn receive(session: &mut FollowerSession, now: Nanoseconds, frame: &[u8]) -> Result<(), SessionRefusal> {
    match read_request(frame) {
        Ok(Request::Fetch(request)) => session.receive(now, &request, SESSION, resolve),
        other => panic!("{other:?}"),
    }
}

fn idle(offset: i64) -> Saying {
    Saying { high_watermark: offset, ..Saying::default() }
}

/// What the leader would say, by partition; unknown topics fail.
fn answer(session: &mut FollowerSession, say: impl Fn(&Candidate) -> Saying, room: usize) -> Vec<i32> {
    while let Some(candidate) = session.next_to_judge() {
        session.judged(candidate.slot, &say(&candidate));
    }
    let (mut listed, mut left) = (Vec::new(), room);
    while let Some(candidate) = session.next_ready() {
        let saying = say(&candidate);
        let left_out = saying.records && left == 0;
        left -= usize::from(saying.records && !left_out);
        let rest = if left_out { Rest::LeftOut } else { Rest::Nothing };
        if session.say(candidate.slot, &saying, rest) {
            listed.push(candidate.index);
        }
    }
    session.answered();
    listed
}

fn standing(partitions: i32) -> FollowerSession {
    let mut session = FollowerSession::default();
    let listed: Vec<_> = (0..partitions).map(|index| (index, 0)).collect();
    receive(&mut session, 0, &frame((0, 0), TOPIC, &listed, &[])).unwrap();
    assert_eq!(answer(&mut session, |_| idle(0), 0).len(), partitions as usize);
    session
}

#[test]
fn a_standing_session_lists_only_what_changed() {
    let mut session = standing(1_000);
    assert_eq!((session.id(), session.len()), (SESSION, 1_000));
    receive(&mut session, 1, &frame((SESSION, 1), TOPIC, &[], &[])).unwrap();
    assert!(session.next_to_judge().is_none(), "nothing is looked at");
    assert!(answer(&mut session, |_| idle(0), 0).is_empty());
    receive(&mut session, 2, &frame((SESSION, 2), TOPIC, &[], &[])).unwrap();
    assert!(session.news(5) && session.news(6) && session.news(5) && !session.news(1_000));
    let say = |candidate: &Candidate| Saying { records: candidate.index == 6, ..idle(0) };
    assert_eq!(answer(&mut session, say, 9), [6]);
    assert_eq!((session.asked_for(6), session.asked_for(1_000)), (Some(2), None));
}

#[test]
fn sessions_and_epochs_that_do_not_fit_are_refused() {
    let mut session = standing(2);
    let ask =
        |session: &mut FollowerSession, id, epoch| receive(session, 0, &frame((id, epoch), TOPIC, &[], &[]));
    assert_eq!(ask(&mut session, SESSION, 2), Err(SessionRefusal::WrongEpoch));
    assert_eq!(ask(&mut session, SESSION + 1, 1), Err(SessionRefusal::UnknownId));
    assert_eq!(ask(&mut session, SESSION, 1), Ok(()));
    answer(&mut session, |_| idle(0), 0);
    session.next_epoch = i32::MAX;
    assert_eq!(ask(&mut session, SESSION, i32::MAX), Ok(()));
    assert_eq!(session.next_epoch, 1, "epochs wrap to 1");
    // A full request names the session that it ends.
    assert_eq!(ask(&mut session, 99, 0), Ok(()));
    assert_eq!((session.id(), session.len()), (SESSION, 0));
    assert_eq!(ask(&mut session, 0, -1), Ok(()));
    assert_eq!(session.id(), 0);
    assert_eq!(ask(&mut session, 0, 1), Err(SessionRefusal::UnknownId));
    assert_eq!(
        (SessionRefusal::UnknownId.error().code(), SessionRefusal::WrongEpoch.error().code()),
        (70, 71)
    );
}

#[test]
fn the_partition_that_was_served_goes_behind_those_that_wait() {
    let mut session = standing(4);
    let mut served = Vec::new();
    for epoch in 1..=8 {
        receive(&mut session, 0, &frame((SESSION, epoch), TOPIC, &[], &[])).unwrap();
        (0..4).for_each(|handle| assert!(session.news(handle)));
        let listed = answer(&mut session, |_| Saying { records: true, ..idle(0) }, 1);
        assert_eq!(listed.len(), 1, "there is room for one");
        served.extend(listed);
    }
    assert_eq!(served, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn an_unknown_topic_fails_until_it_is_known_or_forgotten() {
    let mut session = standing(1);
    let say = |candidate: &Candidate| Saying { urgent: candidate.handle.is_none(), ..idle(0) };
    receive(&mut session, 0, &frame((SESSION, 1), UNKNOWN_TOPIC, &[(3, 0)], &[])).unwrap();
    assert_eq!(answer(&mut session, say, 0), [3]);
    receive(&mut session, 0, &frame((SESSION, 2), TOPIC, &[], &[])).unwrap();
    assert_eq!(answer(&mut session, say, 0), [3], "an error is said again as long as it stands");
    receive(&mut session, 0, &frame((SESSION, 3), UNKNOWN_TOPIC, &[], &[3])).unwrap();
    assert!(answer(&mut session, say, 0).is_empty());
    session.partition_gone(0);
    receive(&mut session, 0, &frame((SESSION, 4), TOPIC, &[], &[])).unwrap();
    assert_eq!(answer(&mut session, say, 0), [0]);
    receive(&mut session, 0, &frame((SESSION, 5), TOPIC, &[(0, 0)], &[])).unwrap();
    assert_eq!(answer(&mut session, say, 0), [0], "the offsets are news after an error");
}

#[test]
fn a_held_partition_is_silent_until_its_time_but_stands_in_a_full_answer() {
    let mut session = FollowerSession::default();
    receive(&mut session, 0, &frame((0, 0), TOPIC, &[(0, 0)], &[])).unwrap();
    let slot = session.next_to_judge().unwrap().slot;
    session.held(slot, 50);
    assert!(!session.wakes());
    assert_eq!(session.next_ready().unwrap().slot, slot);
    assert!(session.say(slot, &idle(0), Rest::HeldUntil(50)), "a full answer has them all");
    session.answered();
    receive(&mut session, 1, &frame((SESSION, 1), TOPIC, &[], &[])).unwrap();
    assert_eq!((session.deadline(), session.expire(49)), (Some(50), false));
    assert!(session.expire(50));
    assert_eq!(session.next_to_judge().map(|candidate| candidate.slot), Some(slot));
    session.held(slot, 60);
    assert!(session.news(0), "a new leader epoch ends it");
    session.judged(slot, &Saying { urgent: true, ..idle(0) });
    assert!(session.wakes() && session.deadline().is_none());
}

#[test]
fn records_that_come_while_only_offsets_are_to_be_told_wake() {
    let mut session = standing(1);
    receive(&mut session, 0, &frame((SESSION, 1), TOPIC, &[], &[])).unwrap();
    session.news(0);
    let slot = session.next_to_judge().unwrap().slot;
    session.judged(slot, &idle(5));
    assert!(!session.wakes(), "a high watermark can wait");
    session.news(0);
    assert_eq!(answer(&mut session, |_| Saying { records: true, ..idle(5) }, 1), [0]);
    assert!(!session.wakes());
}

#[test]
fn too_many_partitions_get_no_session() {
    let mut session = standing(SESSION_PARTITIONS_MAX as i32);
    assert_eq!(session.id(), SESSION);
    let one_more = [(SESSION_PARTITIONS_MAX as i32, 0)];
    let grown = receive(&mut session, 0, &frame((SESSION, 1), TOPIC, &one_more, &[]));
    assert_eq!((grown, session.is_empty()), (Err(SessionRefusal::UnknownId), true));
    assert_eq!(standing(SESSION_PARTITIONS_MAX as i32 + 1).id(), 0);
}

/// One partition as the naive session sees it.
#[derive(Clone, Copy, Debug)]
struct Model {
    fetch_offset: i64,
    told: Option<i64>,
}

#[derive(Clone, Debug)]
enum Event {
    /// Bytes were appended.
    Append(i32),
    HighWatermark(i32),
    /// The follower goes on where it was sent records, names `again`, forgets `forgotten`.
    Fetch {
        again: Vec<i32>,
        forgotten: Vec<i32>,
        full: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let some = || prop::collection::vec(0..6i32, 0..3);
    let full = prop::bool::weighted(0.1);
    prop_oneof![
        2 => (0..6i32).prop_map(Event::Append),
        1 => (0..6i32).prop_map(Event::HighWatermark),
        3 => (some(), some(), full)
            .prop_map(|(again, forgotten, full)| Event::Fetch { again, forgotten, full }),
    ]
}

proptest! {
    #[test]
    fn answers_are_those_of_the_naive_session(events in prop::collection::vec(event(), 1..60)) {
        let mut session = FollowerSession::default();
        let mut logs = [(0i64, 0i64); 6];
        let mut model = BTreeMap::<i32, Model>::new();
        let (mut epoch, mut behind) = (0, Vec::<i32>::new());
        for event in events {
            let (again, forgotten, full) = match event {
                Event::Append(index) => {
                    logs[index as usize].0 += 1;
                    session.news(index as u32);
                    continue;
                }
                Event::HighWatermark(index) => {
                    logs[index as usize].1 += 1;
                    session.news(index as u32);
                    continue;
                }
                Event::Fetch { again, forgotten, full } => (again, forgotten, full || epoch == 0),
            };
            let (named, forgotten) = if full {
                ((0..6).collect(), Vec::new())
            } else {
                (again.into_iter().chain(behind.clone()).collect::<Vec<_>>(), forgotten)
            };
            if full {
                model.clear();
                epoch = 0;
            }
            let listed: Vec<_> = named.iter().map(|index| (*index, logs[*index as usize].0)).collect();
            for (index, fetch_offset) in &listed {
                let entry = model.entry(*index).or_insert(Model { fetch_offset: 0, told: None });
                entry.fetch_offset = *fetch_offset;
            }
            model.retain(|index, _| !forgotten.contains(index));
            receive(&mut session, 0, &frame((SESSION, epoch), TOPIC, &listed, &forgotten)).unwrap();
            epoch += 1;
            let say = |candidate: &Candidate| {
                let (end, high_watermark) = logs[candidate.index as usize];
                Saying { records: candidate.position.fetch_offset < end, ..idle(high_watermark) }
            };
            let mut answered = answer(&mut session, say, usize::MAX);
            answered.sort_unstable();
            let mut expected = Vec::new();
            behind.clear();
            for (index, entry) in &mut model {
                let (end, high_watermark) = logs[*index as usize];
                if entry.fetch_offset < end {
                    behind.push(*index);
                }
                if full || entry.fetch_offset < end || entry.told != Some(high_watermark) {
                    expected.push(*index);
                    entry.told = Some(high_watermark);
                }
            }
            prop_assert_eq!(answered, expected);
            prop_assert_eq!(session.len(), model.len());
            // The follower may have refused what it was sent: then it names nothing.
            if epoch % 3 == 0 {
                behind.clear();
            }
        }
    }
}
