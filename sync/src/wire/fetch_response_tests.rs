//! The decoder against answers written by hand: every split gives the same events, hostile ones give errors.

use super::super::Writer;
use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// One partition of a written answer.
#[derive(Clone, Debug)]
struct Answer {
    index: i32,
    error: i16,
    aborted: Option<usize>,
    records: Option<Vec<u8>>,
    diverging: Option<(i32, i64)>,
    leader: Option<(i32, i32)>,
    unknown_tag: Option<usize>,
}

fn write_tags(writer: &mut Writer<'_>, answer: &Answer) {
    let count =
        answer.diverging.iter().count() + answer.leader.iter().count() + answer.unknown_tag.iter().count();
    writer.unsigned_varint(count as u32);
    if let Some((epoch, end)) = answer.diverging {
        writer.unsigned_varint(0);
        writer.unsigned_varint(13);
        writer.i32(epoch);
        writer.i64(end);
        writer.i8(0);
    }
    if let Some((leader, epoch)) = answer.leader {
        writer.unsigned_varint(1);
        writer.unsigned_varint(9);
        writer.i32(leader);
        writer.i32(epoch);
        writer.i8(0);
    }
    if let Some(size) = answer.unknown_tag {
        writer.unsigned_varint(7);
        writer.unsigned_varint(size as u32);
        writer.raw(&vec![0xaa; size]);
    }
}

fn write_length(writer: &mut Writer<'_>, flexible: bool, length: Option<usize>) {
    match (flexible, length) {
        (true, None) => writer.unsigned_varint(0),
        (true, Some(length)) => writer.unsigned_varint(length as u32 + 1),
        (false, None) => writer.i32(-1),
        (false, Some(length)) => writer.i32(length as i32),
    }
}

fn write_answer(version: i16, topics: &[(u8, Vec<Answer>)]) -> Vec<u8> {
    let flexible = version >= 12;
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.i32(42);
    writer.no_tags(flexible);
    writer.i32(5);
    if version >= 7 {
        writer.i16(0);
        writer.i32(77);
    }
    writer.array_length(flexible, topics.len());
    for (topic, partitions) in topics {
        if version >= 13 {
            writer.raw(&[*topic; 16]);
        } else {
            writer.string(flexible, core::str::from_utf8(&[b'a' + topic % 26]).unwrap());
        }
        writer.array_length(flexible, partitions.len());
        for answer in partitions {
            writer.i32(answer.index);
            writer.i16(answer.error);
            writer.i64(900);
            writer.i64(800);
            if version >= 5 {
                writer.i64(100);
            }
            write_length(&mut writer, flexible, answer.aborted);
            for _ in 0..answer.aborted.unwrap_or(0) {
                writer.i64(1);
                writer.i64(2);
                writer.no_tags(flexible);
            }
            if version >= 11 {
                writer.i32(-1);
            }
            write_length(&mut writer, flexible, answer.records.as_ref().map(Vec::len));
            writer.raw(answer.records.as_deref().unwrap_or(&[]));
            if flexible {
                write_tags(&mut writer, answer);
            }
        }
        writer.no_tags(flexible);
    }
    writer.no_tags(flexible);
    writer.finish();
    out
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Event(Event),
    Topic(Vec<u8>),
    Records(Vec<u8>),
}

/// Feeds the pieces and collects events; records are joined, so that they do not depend on the split.
fn decode(version: i16, pieces: &[&[u8]]) -> Result<(Vec<Seen>, usize), WireError> {
    let mut decoder = FetchDecoder::new(version, 1 << 20);
    decoder.expect(42);
    let (mut scratch, mut seen, mut total) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        scratch.extend_from_slice(piece);
        loop {
            let records = (decoder.records_left() as usize).min(scratch.len());
            if records > 0 {
                decoder.take_records(records as u32);
                let taken: Vec<u8> = scratch.drain(..records).collect();
                total += records;
                match seen.last_mut() {
                    Some(Seen::Records(before)) => before.extend(taken),
                    _ => seen.push(Seen::Records(taken)),
                }
                continue;
            }
            let (consumed, event) = decoder.decode(&scratch)?;
            scratch.drain(..consumed);
            total += consumed;
            match event {
                None => break,
                Some(Event::Topic) => seen.push(Seen::Topic(match decoder.topic() {
                    TopicKey::Name(name) => name.to_vec(),
                    TopicKey::Id(id) => id.0.to_vec(),
                })),
                Some(event) => seen.push(Seen::Event(event)),
            }
        }
    }
    Ok((seen, total))
}

fn answers() -> impl Strategy<Value = Vec<(u8, Vec<Answer>)>> {
    let answer = (
        any::<i32>(),
        prop_oneof![Just(0i16), any::<i16>()],
        prop::option::of(0..4usize),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        prop::option::of((any::<i32>(), any::<i64>())),
        prop::option::of((any::<i32>(), any::<i32>())),
        prop::option::of(0..1000usize),
    )
        .prop_map(|(index, error, aborted, records, diverging, leader, unknown_tag)| Answer {
            index,
            error,
            aborted,
            records,
            diverging,
            leader,
            unknown_tag,
        });
    prop::collection::vec((any::<u8>(), prop::collection::vec(answer, 0..4)), 0..4)
}

proptest! {
    #[test]
    fn any_split_of_the_stream_gives_the_same_events(
        version in 4i16..=17,
        topics in answers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = write_answer(version, &topics);
        let whole = decode(version, &[&bytes]).unwrap();
        prop_assert_eq!(whole.1, bytes.len());
        prop_assert_eq!(whole.0.last(), Some(&Seen::Event(Event::End)));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(version, &pieces).unwrap(), whole);
    }

    #[test]
    fn every_field_arrives_as_it_was_written(version in 12i16..=17, topics in answers()) {
        let (seen, _) = decode(version, &[&write_answer(version, &topics)]).unwrap();
        let written: Vec<&Answer> = topics.iter().flat_map(|(_, answers)| answers).collect();
        let tails: Vec<PartitionTail> = seen.iter().filter_map(|seen| match seen {
            Seen::Event(Event::PartitionEnd(tail)) => Some(*tail),
            _ => None,
        }).collect();
        let heads: Vec<PartitionHead> = seen.iter().filter_map(|seen| match seen {
            Seen::Event(Event::Partition(head)) => Some(*head),
            _ => None,
        }).collect();
        prop_assert_eq!(heads.len(), written.len());
        for ((answer, head), tail) in written.iter().zip(&heads).zip(&tails) {
            prop_assert_eq!((head.index, head.error), (answer.index, answer.error));
            prop_assert_eq!((head.high_watermark, head.last_stable_offset, head.log_start_offset), (900, 800, 100));
            prop_assert_eq!(head.records_bytes as usize, answer.records.as_ref().map_or(0, Vec::len));
            prop_assert_eq!(tail.diverging_epoch, answer.diverging.map(|(epoch, end)| (LeaderEpoch(epoch), end)));
            prop_assert_eq!(tail.current_leader, answer.leader.map(|(id, epoch)| (id, LeaderEpoch(epoch))));
        }
        let records: Vec<u8> = seen.iter().flat_map(|seen| match seen {
            Seen::Records(bytes) => bytes.clone(),
            _ => Vec::new(),
        }).collect();
        let expected: Vec<u8> = written.iter().flat_map(|answer| answer.records.clone().unwrap_or_default()).collect();
        prop_assert_eq!(records, expected);
    }

    #[test]
    fn hostile_bytes_give_errors_and_never_a_panic(
        version in 4i16..=17,
        topics in answers(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = write_answer(version, &topics);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok((_, consumed)) = decode(version, &[&bytes]) {
            prop_assert!(consumed <= bytes.len());
        }
    }

    #[test]
    fn noise_never_panics(version in 4i16..=17, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = decode(version, &[&bytes]);
    }
}

#[test]
fn a_claim_of_two_gigabytes_is_refused_before_anything_is_kept() {
    let mut decoder = FetchDecoder::new(17, 1 << 20);
    decoder.expect(1);
    let bound = 1 << 20;
    assert_eq!(
        decoder.decode(&i32::MAX.to_be_bytes()),
        Err(WireError::FrameLength { length: i32::MAX, bound })
    );
    decoder.expect(1);
    assert_eq!(decoder.decode(&(-5i32).to_be_bytes()), Err(WireError::FrameLength { length: -5, bound }));
}

#[test]
fn the_answer_to_another_request_is_refused() {
    let bytes = write_answer(17, &[]);
    let mut decoder = FetchDecoder::new(17, 1 << 20);
    decoder.expect(43);
    assert_eq!(decoder.decode(&bytes), Err(WireError::CorrelationId { expected: 43, found: 42 }));
}

#[test]
fn a_frame_that_goes_on_after_its_last_field_is_refused() {
    let mut bytes = write_answer(11, &[]);
    bytes.extend_from_slice(&[0; 3]);
    let length = (bytes.len() - 4) as i32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(decode(11, &[&bytes]), Err(WireError::TrailingBytes { remaining: 3 }));
}
