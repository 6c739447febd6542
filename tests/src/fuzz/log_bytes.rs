//! Record batches as foreign bytes: from a socket, from a file after a crash.
//!
//! Inputs begin with two bytes: how the stream is cut into pieces, and the log's start. The judge walks the
//! accepted bytes by itself, with its own checksum and nothing but the positions of six fields.

use super::checksum::crc32c;
use super::pieces;
use twinlog_log_segment::batch::{BatchError, BatchHeader};
use twinlog_log_segment::control::{CONTROL_BODY_BYTES_KEPT, ControlKind};
use twinlog_log_segment::index::{offset_entries, time_entries, transaction_entries};
use twinlog_log_segment::offset::Offset;
use twinlog_log_segment::scan::{ScanReport, ScanStart, SegmentScan, StopReason};
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_log_segment::walk::{BatchWalk, WalkEvent};

/// Low, so that lengths above it are met.
const BATCH_BYTES_MAX: u32 = 32 << 10;
/// Bytes of an input in front of the stream.
const CHOICES: usize = 2;
/// Base offset and length.
const PREFIX_BYTES: usize = 12;
const HEADER_BYTES: usize = 61;

/// What the judge reads of a batch.
struct Judged {
    base_offset: i64,
    last_offset: i64,
    bytes: usize,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("inside the batch")
}

/// The whole batch at the start of `bytes`; panics when there is none, or one that is wrong.
fn judge(bytes: &[u8]) -> Judged {
    assert!(bytes.len() >= HEADER_BYTES, "{} bytes were accepted as a batch", bytes.len());
    let length = i32::from_be_bytes(number(bytes, 8));
    let total = usize::try_from(length).expect("an accepted length") + PREFIX_BYTES;
    assert!(total >= HEADER_BYTES && total <= bytes.len() && total <= BATCH_BYTES_MAX as usize, "{total}");
    assert_eq!(bytes[16], 2, "magic");
    assert_eq!(
        u32::from_be_bytes(number(bytes, 17)),
        crc32c(&[&bytes[21..total]]),
        "CRC of an accepted batch"
    );
    let base_offset = i64::from_be_bytes(number(bytes, 0));
    let delta = i32::from_be_bytes(number(bytes, 23));
    assert!(base_offset >= 0 && delta >= 0 && i32::from_be_bytes(number(bytes, 57)) >= 0);
    let last_offset = base_offset.checked_add(i64::from(delta)).expect("an accepted last offset");
    assert!(last_offset < i64::MAX, "the next offset exists");
    Judged { base_offset, last_offset, bytes: total }
}

/// Every event with the byte after which it came.
#[derive(Debug, PartialEq)]
struct Walked {
    events: Vec<(usize, Result<WalkEvent, BatchError>)>,
    consumed: usize,
    in_progress: u64,
}

fn walk(stream: &[u8], cut: u8) -> Walked {
    let mut walk = BatchWalk::new(BATCH_BYTES_MAX);
    let mut walked = Walked { events: Vec::new(), consumed: 0, in_progress: 0 };
    'stream: for mut piece in pieces(stream, cut) {
        loop {
            let (consumed, event) = walk.feed(piece);
            assert!(consumed <= piece.len(), "{consumed} of {} bytes consumed", piece.len());
            walked.consumed += consumed;
            piece = &piece[consumed..];
            let Some(event) = event else { break };
            walked.events.push((walked.consumed, event));
            if let Err(error) = event {
                assert!(!error.to_string().is_empty());
                assert_eq!(walk.feed(piece), (0, Some(Err(error))), "an error stays");
                break 'stream;
            }
        }
        assert!(piece.is_empty(), "without an event everything is consumed");
    }
    walked.in_progress = walk.bytes_in_progress();
    walked
}

pub fn batch_walk(input: &[u8]) {
    let Some((&[cut, _], stream)) = input.split_first_chunk::<CHOICES>() else { return };
    let whole = walk(stream, 0);
    let mut end_of_last = 0;
    let mut failed = false;
    for (end, event) in &whole.events {
        match event {
            Ok(WalkEvent::Header(header)) => assert_eq!(*end, end_of_last + HEADER_BYTES, "{header:?}"),
            Ok(WalkEvent::Batch { header, control }) => {
                let judged = judge(&stream[end_of_last..]);
                assert_eq!(end_of_last + judged.bytes, *end, "{header:?}");
                assert_eq!(header.base_offset.value(), judged.base_offset);
                assert_eq!(header.last_offset().value(), judged.last_offset);
                assert_eq!(control.is_some(), header.is_control());
                end_of_last = *end;
            }
            Err(_) => failed = true,
        }
    }
    assert!(failed || whole.consumed == stream.len());
    assert_eq!(whole.in_progress, (whole.consumed - end_of_last) as u64, "bytes of the unfinished batch");
    assert_eq!(walk(stream, cut), whole, "the cut of the stream changes nothing");
    if let Some(header) = stream.first_chunk::<HEADER_BYTES>() {
        // The one-step parser agrees with the walk.
        let parsed = BatchHeader::parse(header, BATCH_BYTES_MAX);
        assert_eq!(parsed.ok(), whole.events.first().and_then(|(_, event)| event.ok()).map(header_of));
    }
}

fn header_of(event: WalkEvent) -> BatchHeader {
    match event {
        WalkEvent::Header(header) | WalkEvent::Batch { header, .. } => header,
    }
}

fn scan(stream: &[u8], log_start: Offset, cut: u8) -> ScanReport {
    let mut scan = SegmentScan::new(ScanStart::of_log(Offset::ZERO, log_start), BATCH_BYTES_MAX);
    for piece in pieces(stream, cut) {
        scan.feed(piece);
    }
    scan.finish()
}

pub fn segment_scan(input: &[u8]) {
    let Some((&[cut, log_start], stream)) = input.split_first_chunk::<CHOICES>() else { return };
    let log_start = Offset::new(log_start.into()).expect("a byte is not negative");
    let report = scan(stream, log_start, 0);
    let valid = usize::try_from(report.valid_position).expect("within the input");
    let proven = &stream[..valid];
    let (mut at, mut batches, mut next) = (0, 0, log_start.value());
    let mut starts = Vec::new();
    while at < valid {
        let judged = judge(&proven[at..]);
        let in_order = judged.base_offset >= next || (batches == 0 && judged.last_offset >= next);
        assert!(in_order, "offsets {} to {} after {next}", judged.base_offset, judged.last_offset);
        starts.push(at);
        (at, batches, next) = (at + judged.bytes, batches + 1, judged.last_offset + 1);
    }
    assert_eq!((at, report.batches), (valid, batches), "the proven bytes are whole batches");
    assert_eq!(report.next_offset.value(), next);
    assert!(!report.stop.to_string().is_empty());
    for entry in offset_entries(&report.pending.offset) {
        let position = entry.expect("a regenerated index is right").position as usize;
        assert!(starts.binary_search(&position).is_ok(), "an index entry names byte {position}");
    }
    assert!(time_entries(&report.pending.time).all(|entry| entry.is_ok()));
    assert!(transaction_entries(&report.pending.transaction).all(|entry| entry.is_ok()));
    assert_eq!(scan(stream, log_start, cut), report, "the cut of the stream changes nothing");
    let again = scan(proven, log_start, cut);
    assert_eq!(again, ScanReport { stop: StopReason::End, ..report }, "what was proven once is proven again");
}

pub fn control_record(input: &[u8]) {
    let kept = &input[..input.len().min(CONTROL_BODY_BYTES_KEPT)];
    assert_eq!(ControlKind::parse(kept), ControlKind::parse(input), "what is kept of a body is enough");
}

/// Writes the right CRC into every batch that can be found by its length.
pub fn reseal_log(input: &mut [u8]) {
    reseal_batches(input.get_mut(CHOICES..).unwrap_or_default());
}

/// The same, with nothing in front.
pub fn reseal_batches(input: &mut [u8]) {
    let mut at = 0;
    while let Some(batch) = input.get_mut(at..).filter(|rest| rest.len() >= HEADER_BYTES) {
        let total = i64::from(i32::from_be_bytes(number(batch, 8))) + PREFIX_BYTES as i64;
        let Some(total) =
            usize::try_from(total).ok().filter(|total| (HEADER_BYTES..=batch.len()).contains(total))
        else {
            return;
        };
        let crc = crc32c(&[&batch[21..total]]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        at += total;
    }
}

/// Logs of every kind that a broker writes, each behind its two choices.
pub fn logs() -> Vec<Vec<u8>> {
    let at = BatchBuilder::at;
    let marker = |offset, kind| at(offset).marker(9, 0, kind).timestamps(5, 5);
    let logs: [Vec<BatchBuilder>; 8] = [
        vec![],
        vec![at(0).records(3, 20).timestamps(100, 103), at(3).records(1, 500).timestamps(90, 90)],
        vec![
            at(7).records(2, 10).last_offset_delta(11),
            at(40).leader_epoch(3),
            at(44).records(1, 0).leader_epoch(4),
        ],
        vec![
            at(0).records(2, 30).transactional(9, 0, 0),
            at(2).records(1, 5).producer(4, 1, 7),
            marker(3, ControlKind::Abort),
            at(4).records(2, 30).transactional(9, 0, 2),
            marker(6, ControlKind::Commit),
            marker(7, ControlKind::Other(3)),
        ],
        vec![
            at(0).body(5, &[0x5a; 300]).attributes(2).last_offset_delta(4),
            at(5).body(2, &[1; 40]).attributes(1 << 3 | 4),
        ],
        vec![at(i64::from(i32::MAX) - 2).records(2, 8), at(i64::from(i32::MAX)).records(1, 8)],
        vec![at(i64::MAX - 4).records(2, 8)],
        (0..12).map(|index| at(index * 10).records(4, 700).timestamps(index, index + 1)).collect(),
    ];
    let with_choices = |(index, log): (usize, &Vec<BatchBuilder>)| {
        let mut bytes = vec![index as u8 * 31, if index == 2 { 9 } else { 0 }];
        log.iter().for_each(|batch| bytes.extend(batch.build()));
        bytes
    };
    let mut examples: Vec<Vec<u8>> = logs.iter().enumerate().map(with_choices).collect();
    // As a crash leaves them: reserved and never written, torn.
    examples.push([&examples[1][..], &[0; 200]].concat());
    examples.push(examples[3][..examples[3].len() - 9].to_vec());
    examples
}

pub fn control_bodies() -> Vec<Vec<u8>> {
    [ControlKind::Abort, ControlKind::Commit, ControlKind::Other(3)]
        .map(|kind| BatchBuilder::at(0).marker(9, 0, kind).build()[HEADER_BYTES..].to_vec())
        .to_vec()
}
