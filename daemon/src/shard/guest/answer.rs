//! From a follower's question to its answer: judged by the leader's machine, located in the log, written.
//!
//! A partition whose place in the files is not known yet is held while headers are walked; one that reaches
//! below what we still hold waits until that is fetched again. An answer takes the partitions in the order in
//! which the session brings them, whole batches each, up to the sizes that the follower named.

use super::super::Shard;
use super::super::partition_log::PartitionLog;
use super::super::served_log::{Chunk, Located, Place, ServedLog};
use super::cold::Walk;
use super::follower::Parked;
use super::leading::{Lead, view};
use super::read_through::piece_for;
use super::send::Part;
use super::{Guests, Led};
use crate::shard::Slot;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::Engine;
use twinlog_log_segment::offset::Offset;
use twinlog_sync::guest::follower_session::{Candidate, Rest, Saying};
use twinlog_sync::guest::leadership::{FetchAction, FetchVerdict, OffsetVerdict};
use twinlog_sync::guest::read_through::Piece;
use twinlog_sync::wire::follower_request::{EpochEndRequest, FetchRequest, ListOffsetsRequest};
use twinlog_sync::wire::follower_response::{
    AnswerLine, EpochEndAnswer, ErrorCode, FetchAnswerHead, OffsetAnswer, PartitionAnswer, write_epoch_ends,
    write_fetch_response, write_list_offsets,
};
use twinlog_sync::{MILLISECOND, Nanoseconds, SECOND};

/// Most bytes of records in one answer, whatever a follower allows: while it is sent, its connection does
/// nothing else.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;
/// How long a Fetch is kept waiting at most, whatever it allows.
const WAIT_MAX_NS: Nanoseconds = 30 * SECOND;
/// A partition whose place is being looked for is not asked about again before this; finding it is news.
const WALK_NS: Nanoseconds = 30 * SECOND;

/// What a judged partition comes to.
enum Found {
    /// Errors, divergence, or nothing to send.
    Nothing,
    Chunk(Chunk),
    /// Records that were fetched for it: the piece and its length.
    Read(u64, u64),
    /// Headers must be read first.
    Walk(Walk),
    /// Held no more: to be fetched first.
    Missing(Piece),
}

/// Records of an answer.
#[derive(Clone, Copy)]
enum Laid {
    Chunk(u32, Chunk),
    Read(u64, u64),
}

impl Laid {
    fn length(&self) -> u64 {
        match self {
            Laid::Chunk(_, chunk) => chunk.length,
            Laid::Read(_, length) => *length,
        }
    }
}

/// The verdict about one partition, and where its records are.
struct Judged {
    answer: PartitionAnswer,
    saying: Saying,
    held_until: Option<Nanoseconds>,
    found: Found,
}

impl Judged {
    fn refused(index: i32, error: ErrorCode) -> Self {
        let answer = PartitionAnswer::failed(index, error);
        let saying = Saying { urgent: true, high_watermark: -1, log_start_offset: -1, records: false };
        Self { answer, saying, held_until: None, found: Found::Nothing }
    }
}

fn judge(
    slots: &mut [Option<Slot>],
    guests: &Guests,
    now: Nanoseconds,
    replica: (i32, i64),
    candidate: &Candidate,
) -> Judged {
    let index = candidate.index;
    let Some(slot) = candidate.handle else {
        // Ours but not here at the moment: error 6 is silent at the follower and is asked again.
        let known = guests.led.contains_key(&(candidate.topic_id, index));
        let error = if known { ErrorCode::NotLeaderOrFollower } else { ErrorCode::UnknownTopicId };
        return Judged::refused(index, error);
    };
    let Some(entry) = slots[slot as usize].as_mut() else {
        return Judged::refused(index, ErrorCode::NotLeaderOrFollower);
    };
    let Slot { lead, served, partition, log, .. } = entry;
    let (Some(lead), Some(served)) = (lead.as_deref_mut(), served.as_ref()) else {
        return Judged::refused(index, ErrorCode::NotLeaderOrFollower);
    };
    let seen = view(&partition.ledger, log, served, &lead.stamps);
    let verdict: FetchVerdict = lead.leadership.fetch(now, &candidate.fetch(replica.0, replica.1), &seen);
    let mut judged = Judged {
        answer: verdict.answer(index),
        saying: verdict.saying(),
        held_until: None,
        found: Found::Nothing,
    };
    match verdict.action {
        FetchAction::Hold { until } => judged.held_until = Some(until),
        FetchAction::Records { from, end } => {
            judged.found = find(lead, served, log, slot, replica.0, candidate, from..end);
        }
        FetchAction::ReadThrough { from, to } => {
            let mut at = from;
            let mut read = guests.reads.piece_at(slot, at);
            while let Some((_, empty)) = read.filter(|(_, read)| read.length == 0) {
                at = empty.next;
                read = guests.reads.piece_at(slot, at);
            }
            let end = lead.leadership.servable_end(&seen);
            judged.found = match read {
                _ if at >= seen.held_start => find(lead, served, log, slot, replica.0, candidate, at..end),
                Some((id, read)) if read.next <= end => Found::Read(id, read.length),
                Some(_) => Found::Nothing,
                None => Found::Missing(piece_for(slot, at, to, candidate.position.bytes_max)),
            };
            judged.saying.records = matches!(judged.found, Found::Chunk(_) | Found::Read(..));
        }
        _ => {}
    }
    judged
}

/// Where the records of a range lie that is held.
fn find(
    lead: &Lead,
    served: &ServedLog,
    log: &PartitionLog,
    slot: u32,
    replica: i32,
    candidate: &Candidate,
    range: Range<Offset>,
) -> Found {
    let Range { start: from, end } = range;
    let located = match lead.cursors.get(&replica) {
        Some((next, place)) if *next == from => Located::At(*place),
        _ => served.locate(from),
    };
    let servable = log.servable();
    let active_end = Place { segment: log.active.base(), position: servable.position, offset: servable.next };
    let limit = if end < servable.next { served.locate(end) } else { Located::At(active_end) };
    let bytes_max = u64::from(candidate.position.bytes_max);
    match (located, limit) {
        (Located::At(from), Located::At(limit)) => {
            served.chunk(from, bytes_max, limit).map_or(Found::Nothing, Found::Chunk)
        }
        (Located::Behind(place), _) => Found::Walk(Walk { slot, place, wanted: from, replica }),
        (_, Located::Behind(place)) => Found::Walk(Walk { slot, place, wanted: end, replica: -1 }),
        (Located::Gone, _) | (_, Located::Gone) => Found::Nothing,
    }
}

impl<E: Engine> Shard<E> {
    /// Takes a Fetch in; it is answered when there is something to say, or when its wait is over.
    pub(in crate::shard) fn park(&mut self, index: u32, fetch: &FetchRequest<'_>) {
        let now = self.engine.now();
        self.counters.follower_fetches.fetch_add(1, Relaxed);
        let fresh = self.guests.fresh_session_id(now);
        let led = &self.guests.led;
        let resolve = |topic, index| match led.get(&(topic, index)) {
            Some(Led::Here(slot)) => Some(*slot),
            Some(Led::Away) | None => None,
        };
        let follower = self.guests.followers[index as usize].as_mut().expect("it sent a request");
        let replica = Some((fetch.replica_id, fetch.replica_epoch));
        follower.replica = replica;
        let correlation_id = fetch.header.correlation_id;
        if let Err(refusal) = follower.session.receive(now, fetch, fresh, resolve) {
            let head = FetchAnswerHead { correlation_id, error: refusal.error(), session_id: 0 };
            write_fetch_response(&mut follower.outgoing.out, &head, &[], &mut Vec::new());
            return self.send_plain(index);
        }
        let wait = (u64::from(fetch.wait_max_ms) * MILLISECOND).min(WAIT_MAX_NS);
        follower.parked = Some(Parked { correlation_id, until: now + wait, bytes_max: fetch.bytes_max });
    }

    /// Looks at what changed for a parked Fetch, and answers it if that is worth an answer or its wait is over.
    pub(in crate::shard) fn answer_follower(&mut self, index: u32) {
        let now = self.engine.now();
        let Some(follower) = self.guests.followers[index as usize].as_mut() else { return };
        let (Some(parked), Some(replica)) = (follower.parked, follower.replica) else { return };
        if !follower.is_open() {
            return;
        }
        self.judge_news(index, now, replica);
        let follower = self.follower_mut(index);
        if follower.session.wakes() || now >= parked.until {
            follower.parked = None;
            self.write_answer(index, now, replica, parked);
        }
        self.start_walk(index);
        self.set_follower_timer(index);
    }

    fn judge_news(&mut self, index: u32, now: Nanoseconds, replica: (i32, i64)) {
        let mut advanced = Vec::new();
        while let Some(candidate) = self.follower_mut(index).session.next_to_judge() {
            let judged = judge(&mut self.slots, &self.guests, now, replica, &candidate);
            let follower = self.guests.followers[index as usize].as_mut().expect("it is being answered");
            match (judged.held_until, judged.found) {
                (Some(until), _) => follower.session.held(candidate.slot, until),
                (None, Found::Walk(walk)) => {
                    follower.want_walk(walk);
                    follower.session.held(candidate.slot, now + WALK_NS);
                }
                (None, Found::Missing(piece)) => {
                    follower.session.held(candidate.slot, now + WALK_NS);
                    self.want_piece(piece);
                }
                (None, Found::Nothing) => {
                    let records = false;
                    follower.session.judged(candidate.slot, &Saying { records, ..judged.saying });
                }
                (None, Found::Chunk(_) | Found::Read(..)) => {
                    follower.session.judged(candidate.slot, &judged.saying)
                }
            }
            advanced.extend(candidate.handle);
        }
        self.high_watermarks_moved(index, &advanced);
    }

    /// What one follower proved is news for the others: it goes out with their next answers.
    fn high_watermarks_moved(&mut self, index: u32, slots: &[u32]) {
        for slot in slots {
            let entry = self.slots[*slot as usize].as_mut();
            let Some(lead) = entry.and_then(|entry| entry.lead.as_mut()) else { continue };
            let high_watermark = lead.leadership.high_watermark();
            if std::mem::replace(&mut lead.told_high_watermark, high_watermark) == high_watermark {
                continue;
            }
            self.deliver(*slot);
            for (other, follower) in self.guests.followers.iter_mut().enumerate() {
                if let Some(follower) = follower.as_mut().filter(|_| other != index as usize) {
                    follower.session.news(*slot);
                }
            }
        }
    }

    fn write_answer(&mut self, index: u32, now: Nanoseconds, replica: (i32, i64), parked: Parked) {
        let mut lines = Vec::new();
        let mut chunks = Vec::new();
        let mut budget = u64::from(parked.bytes_max).min(RESPONSE_BYTES_MAX);
        while let Some(candidate) = self.follower_mut(index).session.next_ready() {
            let judged = judge(&mut self.slots, &self.guests, now, replica, &candidate);
            let slot = candidate.handle;
            let mut records_bytes = 0;
            let mut saying = judged.saying;
            let rest = match judged.found {
                _ if judged.held_until.is_some() => Rest::HeldUntil(judged.held_until.unwrap_or(now)),
                Found::Nothing => {
                    saying.records = false;
                    Rest::Nothing
                }
                Found::Walk(walk) => {
                    saying.records = false;
                    self.follower_mut(index).want_walk(walk);
                    Rest::HeldUntil(now + WALK_NS)
                }
                Found::Missing(piece) => {
                    self.want_piece(piece);
                    Rest::HeldUntil(now + WALK_NS)
                }
                found @ (Found::Chunk(_) | Found::Read(..)) => {
                    let laid = match found {
                        Found::Chunk(chunk) => Laid::Chunk(slot.expect("records are of a slot"), chunk),
                        Found::Read(id, length) => Laid::Read(id, length),
                        _ => unreachable!("only records are laid out"),
                    };
                    // The first one is sent whatever its size: a batch that is larger must still arrive.
                    if laid.length() <= budget || chunks.is_empty() {
                        budget = budget.saturating_sub(laid.length());
                        records_bytes = u32::try_from(laid.length()).expect("a segment is below 2 GiB");
                        chunks.push(laid);
                        Rest::Nothing
                    } else {
                        Rest::LeftOut
                    }
                }
            };
            if self.follower_mut(index).session.say(candidate.slot, &saying, rest) {
                lines.push(AnswerLine { topic_id: candidate.topic_id, answer: judged.answer, records_bytes });
            } else {
                assert!(records_bytes == 0, "records are always listed");
            }
        }
        self.lay_out(index, replica.0, parked.correlation_id, &lines, &chunks);
    }

    /// Writes the answer's head and says which records belong between its parts.
    fn lay_out(
        &mut self,
        index: u32,
        replica: i32,
        correlation_id: i32,
        lines: &[AnswerLine],
        chunks: &[Laid],
    ) {
        let now = self.engine.now();
        let follower = self.guests.followers[index as usize].as_mut().expect("it is being answered");
        follower.session.answered();
        let mut holes = Vec::new();
        let head =
            FetchAnswerHead { correlation_id, error: ErrorCode::None, session_id: follower.session.id() };
        write_fetch_response(&mut follower.outgoing.out, &head, lines, &mut holes);
        let mut from = 0;
        for (hole, laid) in holes.iter().zip(chunks) {
            assert_eq!(u64::from(hole.records_bytes), laid.length(), "a hole has its records' size");
            follower.outgoing.parts.push_back(Part::Head { from, to: hole.position });
            from = hole.position;
            let (slot, chunk) = match laid {
                Laid::Chunk(slot, chunk) => (slot, chunk),
                Laid::Read(id, length) => {
                    follower.outgoing.parts.push_back(Part::Read { id: *id, position: 0, length: *length });
                    follower.outgoing.reads.push(*id);
                    self.guests.reads.hold(now, *id);
                    continue;
                }
            };
            let (segment, position) = (chunk.from.segment, chunk.from.position);
            follower.outgoing.parts.push_back(Part::Records {
                slot: *slot,
                segment,
                position,
                length: chunk.length,
            });
            if let Some(lead) = self.slots[*slot as usize].as_mut().and_then(|entry| entry.lead.as_mut()) {
                lead.cursors.insert(replica, (chunk.next.offset, chunk.next));
            }
        }
        let to = follower.outgoing.out.len();
        follower.outgoing.parts.push_back(Part::Head { from, to });
        self.pump(index);
    }

    pub(in crate::shard) fn answer_list_offsets(&mut self, index: u32, request: &ListOffsetsRequest<'_>) {
        let mut answers = Vec::new();
        for (topic, asked) in request.partitions() {
            let verdict = self.ask_lead(topic, asked.index, |lead, seen| {
                lead.leadership.list_offset(asked.current_leader_epoch, asked.timestamp, seen)
            });
            let (error, offset, leader_epoch) = (verdict.error, verdict.offset, verdict.leader_epoch);
            answers.push(OffsetAnswer { topic, index: asked.index, error, offset, leader_epoch });
        }
        let out = &mut self.follower_mut(index).outgoing.out;
        write_list_offsets(out, request.header.correlation_id, &answers);
    }

    pub(in crate::shard) fn answer_epoch_ends(&mut self, index: u32, request: &EpochEndRequest<'_>) {
        let mut answers = Vec::new();
        for (topic, asked) in request.partitions() {
            let verdict = self.ask_lead(topic, asked.index, |lead, seen| {
                let (replica, current) = (request.replica_id, asked.current_leader_epoch);
                lead.leadership.epoch_end(replica, current, asked.leader_epoch, seen)
            });
            let (error, end_offset, leader_epoch) = (verdict.error, verdict.offset, verdict.leader_epoch);
            answers.push(EpochEndAnswer { topic, index: asked.index, error, leader_epoch, end_offset });
        }
        let out = &mut self.follower_mut(index).outgoing.out;
        write_epoch_ends(out, request.header.correlation_id, &answers);
    }

    fn ask_lead(
        &self,
        topic: &[u8],
        index: i32,
        ask: impl FnOnce(&Lead, &twinlog_sync::guest::leadership::LogView<'_>) -> OffsetVerdict,
    ) -> OffsetVerdict {
        let failed = |error| OffsetVerdict {
            error,
            offset: -1,
            leader_epoch: twinlog_log_segment::offset::LeaderEpoch::UNKNOWN,
        };
        let id = self.guests.topics_by_name.get(topic);
        let led = id.and_then(|id| self.guests.led.get(&(*id, index)));
        let slot = match led {
            None => return failed(ErrorCode::UnknownTopicOrPartition),
            Some(Led::Away) => return failed(ErrorCode::NotLeaderOrFollower),
            Some(Led::Here(slot)) => *slot,
        };
        let Some(entry) = self.slots[slot as usize].as_ref() else {
            return failed(ErrorCode::NotLeaderOrFollower);
        };
        let (Some(lead), Some(served)) = (entry.lead.as_ref(), entry.served.as_ref()) else {
            return failed(ErrorCode::NotLeaderOrFollower);
        };
        ask(lead, &view(&entry.partition.ledger, &entry.log, served, &lead.stamps))
    }
}
