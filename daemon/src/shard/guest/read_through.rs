//! Reading through: a follower below what the spool holds is given what is fetched from elsewhere, not stored.
//!
//! ```text
//!   follower at 500, held from 9000 --> wanted --> fetch 500.. from the source, or from another follower
//!                                                    | checked: CRC, order, the epoch that we had there
//!                                                    v stamped as it was
//!   follower <-- head, records <-- piece in pool memory, for whoever stands at 500
//! ```
//! The order and the pauses are `twinlog_sync::guest::read_through`; the connections are lanes of their own, one
//! to each broker that is asked, on which receive.rs hands over to this file. One piece is read at a time, while
//! the one before is sent.
//!
//! Invariants: nothing is served that is not whole, with a right CRC, in order and without a hole at its
//! beginning, and of the epoch that this log had there; nothing at or beyond what was asked for. Pieces never
//! take more than [`READ_BYTES_MAX`] of the pool, or one largest batch if that is more. A full spool does not
//! stop it: followers that catch up are what empties the spool.

use super::super::lane_io::{Current, LaneIo};
use super::super::mailbox::Event;
use super::super::receive::Step;
use super::super::{Shard, Slot};
use super::leading::Lead;
use crate::pool::{Class, SLAB_BYTES};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{Engine, Span};
use twinlog_log_segment::batch::{BatchHeader, LEADER_EPOCH_AT};
use twinlog_log_segment::offset::{LeaderEpoch, Offset};
use twinlog_log_segment::walk::WalkEvent;
use twinlog_sync::credits::LaneKind;
use twinlog_sync::fault::code;
use twinlog_sync::guest::read_through::{Piece, Provider, ReadFailure, ReadThrough, Stuck};
use twinlog_sync::lane::{Lane, LaneFault};
use twinlog_sync::wire::fetch_request::{FetchPosition, Topic};
use twinlog_sync::wire::fetch_response::PartitionHead;
use twinlog_sync::{Nanoseconds, SECOND};

/// Bytes of the pool in pieces that are read or wait for their followers. Raised, followers that return take
/// memory from those that keep up.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a piece, as far as its follower wants so much.
const PIECE_BYTES_MAX: u32 = 1 << 20;
/// A piece that no answer has taken for so long goes: its follower is gone.
const REST_NS: Nanoseconds = 5 * SECOND;

/// Whole batches that were read. Without bytes: there is nothing below `next`.
pub(in crate::shard) struct Read {
    /// What was asked for.
    piece: Piece,
    pub next: Offset,
    /// Whole slabs, the last one perhaps not filled.
    spans: Vec<Span>,
    pub length: u64,
    /// Answers under way that hold it.
    users: u32,
    used_at: Nanoseconds,
}

impl Read {
    /// The bytes from `position` on that lie in one piece.
    pub fn part(&self, position: u64, length: u64) -> Span {
        let slab = u64::from(SLAB_BYTES);
        let (span, within) = (self.spans[(position / slab) as usize], position % slab);
        Span { start: span.start + within, length: length.min(slab - within) as u32 }
    }
}

/// The piece that is being read.
struct Reading {
    piece: Piece,
    lane: u32,
    /// Of the partition in its topic.
    index: i32,
    spans: Vec<Span>,
    filled: u64,
    /// Of whole batches.
    verified: u64,
    next: Offset,
    /// Nothing more is wanted of the answer.
    ended: bool,
    failure: Option<ReadFailure>,
}

/// What a shard holds to read through.
#[derive(Default)]
pub(in crate::shard) struct Reads {
    machine: ReadThrough,
    reading: Option<Reading>,
    pieces: BTreeMap<u64, Read>,
    /// Names the next piece.
    pieces_made: u64,
    lanes: BTreeMap<Provider, BTreeMap<i32, u32>>,
    /// Whose addresses are tried in turn.
    attempts: usize,
}

impl Reads {
    /// The piece for a follower that stands at `from`.
    pub fn piece_at(&self, slot: u32, from: Offset) -> Option<(u64, &Read)> {
        let found = self.pieces.iter().find(|(_, read)| (read.piece.slot, read.piece.from) == (slot, from));
        found.map(|(id, read)| (*id, read))
    }

    pub fn read(&self, id: u64) -> &Read {
        &self.pieces[&id]
    }

    /// An answer sends the piece; its follower wants the next one soon.
    pub fn hold(&mut self, now: Nanoseconds, id: u64) {
        let read = self.pieces.get_mut(&id).expect("it was found a moment ago");
        (read.users, read.used_at) = (read.users + 1, now);
        let next = Piece { from: read.next, ..read.piece };
        if next.from < next.to && self.piece_at(next.slot, next.from).is_none() {
            self.machine.want(now, next);
        }
    }

    pub fn let_go(&mut self, id: u64) {
        self.pieces.get_mut(&id).expect("a piece that is sent stays").users -= 1;
    }

    pub fn deadline(&self) -> Option<Nanoseconds> {
        let rested = self.pieces.values().filter(|read| read.users == 0).map(|read| read.used_at + REST_NS);
        rested.chain(self.machine.deadline()).min()
    }

    fn bytes(&self) -> u64 {
        let read = self.pieces.values().map(|read| read.spans.len());
        let reading = self.reading.iter().map(|reading| reading.spans.len());
        read.chain(reading).sum::<usize>() as u64 * u64::from(SLAB_BYTES)
    }
}

/// What a follower's fetch of `from..to` is to be given, as far as it may take `bytes_max`.
pub(in crate::shard) fn piece_for(slot: u32, from: Offset, to: Offset, bytes_max: u32) -> Piece {
    Piece { slot, from, to, bytes_max: bytes_max.clamp(1, PIECE_BYTES_MAX) }
}

/// The follower that is furthest ahead, if it has what lies from `from` on.
fn furthest(slots: &[Option<Slot>], slot: u32, from: Offset) -> Option<i32> {
    let lead = slots[slot as usize].as_ref()?.lead.as_ref()?;
    let live = lead.leadership.ends().filter(|(_, follower)| follower.unfenced);
    let ends = live.filter_map(|(broker, follower)| Some((follower.proven_end?, broker)));
    ends.filter(|(end, _)| *end > from).max().map(|(_, broker)| broker)
}

impl<E: Engine> Shard<E> {
    pub(in crate::shard) fn want_piece(&mut self, piece: Piece) {
        let now = self.engine.now();
        self.guests.reads.machine.want(now, piece);
    }

    /// Starts the next reading, and gives back pieces that nobody took.
    pub(in crate::shard) fn tend_reads(&mut self, now: Nanoseconds) {
        if self.draining || self.halted.is_some() {
            return self.drop_pieces(|_| true);
        }
        self.drop_pieces(|read| now >= read.used_at + REST_NS);
        let Self { guests, slots, .. } = self;
        let lead = |slot: u32| slots[slot as usize].as_ref()?.lead.as_ref();
        let is_compacted = |slot| lead(slot).is_some_and(|lead| lead.is_compacted);
        let ahead = |slot, from| furthest(slots, slot, from);
        let started = guests.reads.machine.start(now, ahead, is_compacted);
        if let Some((piece, provider)) = started {
            self.start_reading(piece, provider);
        }
    }

    /// Gives back the pieces that are picked and that no answer holds.
    fn drop_pieces(&mut self, picked: impl Fn(&Read) -> bool) {
        let reads = &mut self.guests.reads;
        let gone = reads.pieces.extract_if(.., |_, read| read.users == 0 && picked(read));
        let spans: Vec<Span> = gone.flat_map(|(_, read)| read.spans).collect();
        spans.into_iter().for_each(|span| self.pool.give(span));
    }

    fn start_reading(&mut self, piece: Piece, provider: Provider) {
        let place = self.place_of(piece, provider);
        let Some((broker, topic)) = place else {
            // Nobody leads it there now, or the slot is another's.
            return self.reading_failed(piece.slot, ReadFailure::Unavailable);
        };
        let lane = self.read_lane(provider, broker);
        let position = FetchPosition {
            fetch_offset: piece.from,
            current_leader_epoch: LeaderEpoch::UNKNOWN,
            last_fetched_epoch: LeaderEpoch::UNKNOWN,
            bytes_max: piece.bytes_max,
        };
        let key = self.slots[piece.slot as usize].as_ref().expect("it has a place").partition.key;
        self.guests.reads.reading = Some(Reading {
            piece,
            lane,
            index: key.index,
            spans: Vec::new(),
            filled: 0,
            verified: 0,
            next: piece.from,
            ended: false,
            failure: None,
        });
        let now = self.engine.now();
        let lane_io = &mut self.lanes[lane as usize];
        lane_io.lane.session.set(key, &topic, position);
        lane_io.lane.tick(now);
        self.route_lane(lane);
        self.fetch_if_ready(lane, now);
    }

    /// The broker to ask, and what the topic is called there.
    fn place_of(&self, piece: Piece, provider: Provider) -> Option<(i32, Arc<Topic>)> {
        let entry = self.slots[piece.slot as usize].as_ref().filter(|entry| !entry.removing)?;
        let lead = entry.lead.as_ref()?;
        match provider {
            Provider::Source => Some((entry.partition.broker()?, entry.partition.topic.clone())),
            Provider::Follower(broker) => {
                let names = self.guests.topics_by_name.iter();
                let name = names.into_iter().find(|(_, id)| **id == lead.topic_id).map(|(name, _)| name)?;
                let name = String::from_utf8_lossy(name).into_owned();
                Some((broker, Arc::new(Topic { name, id: lead.topic_id })))
            }
        }
    }

    fn read_lane(&mut self, provider: Provider, broker: i32) -> u32 {
        let known = self.guests.reads.lanes.get(&provider).and_then(|lanes| lanes.get(&broker));
        if let Some(index) = known {
            return *index;
        }
        let seed = (self.options.index as u64) << 33 | 1 << 32;
        // It is small, and must not starve while the mirror catches up.
        let lane = Lane::new(broker, LaneKind::Tail, self.options.lane.clone(), seed);
        let mut lane = LaneIo::new(lane, self.options.batch_bytes_max);
        lane.reads_from = Some(provider);
        self.lanes.push(lane);
        let index = self.lanes.len() as u32 - 1;
        self.guests.reads.lanes.entry(provider).or_default().insert(broker, index);
        index
    }

    /// Where a broker of the destination answers consumers; its addresses are tried in turn.
    pub(in crate::shard) fn follower_address(&mut self, broker: i32) -> Option<(SocketAddr, Arc<str>)> {
        let reads = &mut self.guests.reads;
        let registered = self.guests.brokers.iter().find(|registered| registered.id == broker)?;
        reads.attempts = reads.attempts.wrapping_add(1);
        let count = registered.addresses.len().max(1);
        let (host, port) = registered.meeting.as_ref()?;
        let address = *registered.addresses.get(reads.attempts % count)?;
        Some((SocketAddr::new(address, *port), host.clone()))
    }

    /// An answer's only partition begins.
    pub(in crate::shard) fn read_begins(&mut self, index: u32, head: &PartitionHead) -> Step {
        let lane = &mut self.lanes[index as usize];
        lane.bulk = false;
        lane.walk.reset();
        let mut discard = true;
        if let Some(reading) = self.guests.reads.reading.as_mut().filter(|reading| reading.lane == index) {
            reading.failure = match head.error {
                0 if head.index == reading.index => None,
                code::OFFSET_OUT_OF_RANGE => Some(ReadFailure::Trimmed),
                _ => Some(ReadFailure::Unavailable),
            };
            discard = reading.failure.is_some();
        }
        let outcome = twinlog_sync::partition::RecordsOutcome::default();
        lane.current = Some(Current { slot: u32::MAX, outcome, discard, refused: None });
        Step::Again
    }

    /// Records have arrived, or are to.
    pub(in crate::shard) fn read_records(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let available = lane.arrived().length.min(lane.lane.decoder().records_left());
        let Some(reading) = self.guests.reads.reading.as_mut().filter(|reading| reading.lane == index) else {
            return self.discard_step(index);
        };
        if reading.ended || reading.failure.is_some() || available == 0 {
            return self.discard_step(index);
        }
        let within = reading.filled % u64::from(SLAB_BYTES);
        if within == 0 && !self.take_slab(index) {
            return self.discard_step(index);
        }
        let reading = self.guests.reads.reading.as_mut().expect("just seen");
        let slab = reading.spans.last().expect("just taken");
        let length = available.min(SLAB_BYTES - within as u32);
        let into = Span { start: slab.start + within, length };
        let lane = &mut self.lanes[index as usize];
        let from = Span { length, ..lane.arrived() };
        self.engine.arena_mut().copy_within(from, into.start);
        lane.consume(length);
        lane.lane.decoder().take_records(length);
        reading.filled += u64::from(length);
        self.counters.copied_bytes.fetch_add(u64::from(length), Relaxed);
        self.verify_read(index, into);
        Step::Again
    }

    /// Takes another megabyte, within the limit; without one the reading fails and is tried again.
    fn take_slab(&mut self, index: u32) -> bool {
        let limit = READ_BYTES_MAX.max(u64::from(self.options.batch_bytes_max) + u64::from(SLAB_BYTES));
        if self.guests.reads.bytes() + u64::from(SLAB_BYTES) > limit {
            self.drop_pieces(|_| true);
        }
        let fits = self.guests.reads.bytes() + u64::from(SLAB_BYTES) <= limit;
        let span = if fits { self.pool.take(Class::Large) } else { None };
        let reading = self.guests.reads.reading.as_mut().filter(|reading| reading.lane == index);
        let reading = reading.expect("its records are arriving");
        match span {
            Some(span) => reading.spans.push(span),
            None => {
                reading.failure = Some(ReadFailure::Unavailable);
                self.make_room();
            }
        }
        span.is_some()
    }

    fn verify_read(&mut self, index: u32, span: Span) {
        let Self { guests, lanes, engine, slots, .. } = self;
        let reading = guests.reads.reading.as_mut().expect("its records are arriving");
        let entry = slots[reading.piece.slot as usize].as_ref();
        let entry = entry.and_then(|entry| Some((entry, entry.lead.as_deref()?)));
        let Some((entry, lead)) = entry else {
            reading.failure = Some(ReadFailure::Unavailable);
            return;
        };
        let lane = &mut lanes[index as usize];
        let mut at = 0;
        loop {
            let (consumed, event) = lane.walk.feed(&engine.arena().bytes(span)[at..]);
            at += consumed;
            match event {
                None => return,
                Some(Err(_)) => {
                    reading.failure = Some(ReadFailure::Different);
                    return;
                }
                Some(Ok(WalkEvent::Header(header))) => {
                    if header.base_offset >= reading.piece.to {
                        reading.ended = true;
                        return;
                    }
                    let Some(stamp) = stamp_of(entry, lead, reading, &header, lane.reads_from) else {
                        reading.failure = Some(ReadFailure::Different);
                        return;
                    };
                    for (byte, value) in LEADER_EPOCH_AT.zip(stamp.0.to_be_bytes()) {
                        let position = reading.verified + byte as u64;
                        let slab = reading.spans[(position / u64::from(SLAB_BYTES)) as usize];
                        let start = slab.start + position % u64::from(SLAB_BYTES);
                        engine.arena_mut().bytes_mut(Span { start, length: 1 })[0] = value;
                    }
                }
                Some(Ok(WalkEvent::Batch { header, .. })) => {
                    reading.verified += u64::from(header.total_bytes());
                    reading.next = header.next_offset();
                }
            }
        }
    }

    /// The answer is complete.
    pub(in crate::shard) fn read_answered(&mut self, index: u32) {
        let Some(reading) = self.guests.reads.reading.take_if(|reading| reading.lane == index) else {
            return;
        };
        self.leave_read_session(&reading);
        let slot = reading.piece.slot;
        let nothing_there = reading.ended && reading.verified == 0;
        if reading.verified == 0 && !nothing_there {
            self.give_spans(reading.spans);
            return self.reading_failed(slot, reading.failure.unwrap_or(ReadFailure::Unavailable));
        }
        let kept = reading.verified.div_ceil(u64::from(SLAB_BYTES)) as usize;
        let mut spans = reading.spans;
        let rest = spans.split_off(kept);
        self.give_spans(rest);
        let now = self.engine.now();
        let reads = &mut self.guests.reads;
        reads.pieces_made += 1;
        let piece = reading.piece;
        let next = if nothing_there { piece.to } else { reading.next };
        let read = Read { piece, next, spans, length: reading.verified, users: 0, used_at: now };
        reads.pieces.insert(reads.pieces_made, read);
        reads.machine.succeeded();
        self.tell_followers(slot);
        self.tend_reads(now);
    }

    /// The connection is closed.
    pub(in crate::shard) fn read_lane_closed(&mut self, index: u32) {
        let Some(reading) = self.guests.reads.reading.take_if(|reading| reading.lane == index) else {
            return;
        };
        self.leave_read_session(&reading);
        self.give_spans(reading.spans);
        self.reading_failed(reading.piece.slot, ReadFailure::Unavailable);
    }

    fn leave_read_session(&mut self, reading: &Reading) {
        let session = &mut self.lanes[reading.lane as usize].lane.session;
        let keys: Vec<_> = session.keys().collect();
        keys.into_iter().for_each(|key| session.remove(key));
    }

    fn give_spans(&mut self, spans: Vec<Span>) {
        spans.into_iter().for_each(|span| self.pool.give(span));
    }

    fn reading_failed(&mut self, slot: u32, why: ReadFailure) {
        let now = self.engine.now();
        let Self { guests, slots, .. } = self;
        let entry = slots[slot as usize].as_ref().filter(|entry| entry.lead.is_some() && !entry.removing);
        let Some(entry) = entry else {
            guests.reads.machine.give_up();
            return guests.reads.machine.forget(slot);
        };
        let has_follower = furthest(slots, slot, Offset::ZERO).is_some();
        if let Some(stuck) = guests.reads.machine.failed(now, why, has_follower) {
            let (key, Stuck { source, follower }) = (entry.partition.key, stuck);
            self.events.push_back(Event::ReadThroughStuck { key, source, follower });
        }
    }

    /// The slot is about to be given back, or led no more.
    pub(in crate::shard) fn forget_reads_of(&mut self, slot: u32) {
        self.guests.reads.machine.forget(slot);
        self.drop_pieces(|read| read.piece.slot == slot);
        // Those that are being sent stay, under a number that no partition has.
        let sent = self.guests.reads.pieces.values_mut().filter(|read| read.piece.slot == slot);
        sent.for_each(|read| read.piece.slot = u32::MAX);
        let Some(reading) = self.guests.reads.reading.take_if(|reading| reading.piece.slot == slot) else {
            return;
        };
        self.guests.reads.machine.give_up();
        self.leave_read_session(&reading);
        // An answer under way must not be taken for the next one's.
        self.lanes[reading.lane as usize].lane.failed(LaneFault::Ended);
        self.route_lane(reading.lane);
        self.give_spans(reading.spans);
    }
}

/// What a batch of the piece is stamped with, if it may stand there: it follows, and it is of the epoch that
/// this log had there.
fn stamp_of(
    entry: &Slot,
    lead: &Lead,
    reading: &Reading,
    header: &BatchHeader,
    provider: Option<Provider>,
) -> Option<LeaderEpoch> {
    let first = reading.verified == 0;
    let follows = header.base_offset >= reading.next || first && header.last_offset() >= reading.next;
    let offset = header.base_offset.max(reading.next);
    let stamp = lead.stamps.epoch_of(offset)?;
    let had = match provider {
        Some(Provider::Follower(_)) => Some(stamp),
        // A source that names no epochs is taken at its word.
        _ => entry.partition.epochs.epoch_of(offset),
    };
    (follows && had.is_none_or(|had| had == header.leader_epoch)).then_some(stamp)
}
