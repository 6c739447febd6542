//! Sending an answer: heads from a buffer, records from segment images, what is only on disk through a buffer.
//!
//! ```text
//!   parts    head 0..90 | records 1 MiB of slot 3 | head 90..120 | records 700 B of slot 9 | head ..
//!   gather   [copied head][span of the image, lent ][copied head   + copied records         + head ..]
//! ```
//! An image that is lent stays where it is until the send is over. Records of a few kilobytes are copied to
//! the buffer: looking up a loan and another entry for the kernel cost more than that.

use super::super::Shard;
use super::super::mailbox::FollowerRefusal;
use super::super::operations::{Pending, SegmentKey};
use super::Guests;
use crate::pool::Class;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{Engine, GATHER_SPANS_MAX, Operation, Span, SystemError};
use twinlog_log_segment::offset::Offset;
use twinlog_sync::Nanoseconds;

/// Records up to here are copied beside the heads.
const COPY_BYTES_MAX: u64 = 2 << 10;

/// One piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Part {
    /// A range of [`Outgoing::out`].
    Head {
        from: usize,
        to: usize,
    },
    Records {
        slot: u32,
        segment: Offset,
        position: u64,
        length: u64,
    },
    /// Records that were read from their file and are to be encrypted.
    Cold {
        span: Span,
    },
    /// Records that were fetched for followers.
    Read {
        id: u64,
        position: u64,
        length: u64,
    },
}

impl Part {
    /// What is left after `sent` bytes of it.
    fn after(self, sent: u64) -> Option<Part> {
        match self {
            Self::Head { from, to } => {
                let from = from + sent as usize;
                (from < to).then_some(Self::Head { from, to })
            }
            Self::Records { slot, segment, position, length } => {
                let (position, length) = (position + sent, length - sent);
                (length > 0).then_some(Self::Records { slot, segment, position, length })
            }
            Self::Cold { span } => {
                let span = span.after(sent as u32);
                (span.length > 0).then_some(Self::Cold { span })
            }
            Self::Read { id, position, length } => {
                let (position, length) = (position + sent, length - sent);
                (length > 0).then_some(Self::Read { id, position, length })
            }
        }
    }
}

/// An answer under way.
#[derive(Default)]
pub(in crate::shard) struct Outgoing {
    /// Every byte of the answer but the records.
    pub out: Vec<u8>,
    pub parts: VecDeque<Part>,
    /// Where heads are copied to, for the kernel.
    pub buffer: Option<Span>,
    /// What is being sent now, in order, and not yet accepted.
    pub spans: VecDeque<Span>,
    /// Images that are lent: slot, segment, span.
    lent: Vec<(SegmentKey, Span)>,
    /// Pieces that were fetched, held until the answer is out.
    pub reads: Vec<u64>,
    pub sending: bool,
    /// Since when a send has been under way of which nothing was taken.
    pub sending_since: Nanoseconds,
}

impl Outgoing {
    pub fn has_records_of(&self, wanted: u32) -> bool {
        let parts =
            self.parts.iter().any(|part| matches!(part, Part::Records { slot, .. } if *slot == wanted));
        parts || self.lent.iter().any(|(segment, _)| segment.slot == wanted)
    }

    /// `sent` bytes of a part are on their way; what is left of it comes next.
    pub fn goes_on(&mut self, part: Part, sent: u64) {
        if let Some(rest) = part.after(sent) {
            self.parts.push_front(rest);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.spans.is_empty() && !self.sending
    }
}

/// What the next piece of the answer needs before it can be sent.
pub(in crate::shard) enum Next {
    Gathered,
    /// Records that are only in their file.
    Cold {
        key: SegmentKey,
        position: u64,
        length: u64,
    },
    /// The segment is not there any more.
    Lost,
    /// It cannot be encrypted.
    Refused(FollowerRefusal),
}

impl<E: Engine> Shard<E> {
    /// Sends what is in `out`, without records.
    pub(in crate::shard) fn send_plain(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        let to = follower.outgoing.out.len();
        follower.outgoing.parts.push_back(Part::Head { from: 0, to });
        self.pump(index);
    }

    /// Sends the next pieces of an answer, as far as they can be had now.
    pub(in crate::shard) fn pump(&mut self, index: u32) {
        let now = self.engine.now();
        let Some(follower) = self.guests.followers[index as usize].as_mut() else { return };
        if follower.outgoing.sending || follower.cold.reading || !follower.is_open() {
            return;
        }
        if follower.outgoing.buffer.is_none() {
            follower.outgoing.buffer = self.pool.take(Class::Scratch);
            if follower.outgoing.buffer.is_none() {
                self.guests.waiting_for_memory.insert(index);
                return self.make_room();
            }
        }
        if follower.outgoing.spans.is_empty() {
            let secure = self.follower_mut(index).security.tls.is_some();
            match if secure { self.gather_secure(index) } else { self.gather(index) } {
                Next::Gathered => {}
                Next::Cold { key, position, length } => return self.read_cold(index, key, position, length),
                Next::Lost => return self.close_follower(index),
                Next::Refused(why) => return self.refuse_follower(index, why),
            }
        }
        let follower = self.follower_mut(index);
        let socket = follower.socket;
        let operation = match follower.outgoing.spans.len() {
            0 => return self.answer_sent(index),
            1 => Operation::Send { socket, from: follower.outgoing.spans[0] },
            _ => Operation::SendGather { socket, spans: follower.outgoing.spans.iter().copied().collect() },
        };
        follower.outgoing.sending = true;
        follower.outgoing.sending_since = now;
        self.submit(Pending::SendAnswer { follower: index }, operation);
    }

    /// Collects spans of the next parts. Stops where the buffer or the number of spans ends.
    fn gather(&mut self, index: u32) -> Next {
        let Self { guests, slots, pool, engine, counters, .. } = self;
        let Guests { followers, reads, .. } = guests;
        let follower = followers[index as usize].as_mut().expect("it is being answered");
        let outgoing = &mut follower.outgoing;
        let buffer = outgoing.buffer.expect("an answer has its buffer");
        let mut used = 0;
        while let Some(part) = outgoing.parts.pop_front() {
            let room = buffer.length - used;
            if outgoing.spans.len() + 1 >= GATHER_SPANS_MAX || room == 0 {
                outgoing.parts.push_front(part);
                break;
            }
            let here = Span { start: buffer.start + u64::from(used), length: 0 };
            match part {
                Part::Head { from, to } => {
                    let length = (to - from).min(room as usize);
                    let span = Span { length: length as u32, ..here };
                    engine.arena_mut().bytes_mut(span).copy_from_slice(&outgoing.out[from..from + length]);
                    used += length as u32;
                    push_span(&mut outgoing.spans, span);
                    outgoing.goes_on(part, length as u64);
                }
                Part::Cold { span } => outgoing.spans.push_back(span),
                Part::Read { id, position, length } => {
                    let span = reads.read(id).part(position, length);
                    let sent = u64::from(span.length);
                    outgoing.spans.push_back(span);
                    outgoing.goes_on(part, sent);
                    counters.served_bytes.fetch_add(sent, Relaxed);
                    counters.read_through_bytes.fetch_add(sent, Relaxed);
                }
                Part::Records { slot, segment, position, length } => {
                    let key = SegmentKey { slot, base: segment };
                    let writer = slots[slot as usize].as_mut().and_then(|entry| entry.log.segment(segment));
                    let wanted = u32::try_from(length).expect("a segment is below 2 GiB");
                    let lent = writer.and_then(|found| found.writer.read_begins(position, wanted));
                    let Some(lent) = lent else {
                        outgoing.parts.push_front(part);
                        if outgoing.spans.is_empty() {
                            let gone = slots[slot as usize].is_none();
                            return if gone { Next::Lost } else { Next::Cold { key, position, length } };
                        }
                        break;
                    };
                    counters.served_bytes.fetch_add(u64::from(lent.length), Relaxed);
                    let copied = u64::from(lent.length) <= COPY_BYTES_MAX && lent.length <= room;
                    let writer = slots[slot as usize].as_mut().and_then(|entry| entry.log.segment(segment));
                    if copied {
                        engine.arena_mut().copy_within(lent, here.start);
                        used += lent.length;
                        push_span(&mut outgoing.spans, Span { length: lent.length, ..here });
                        writer.expect("just lent").writer.read_ends(pool, lent);
                    } else {
                        outgoing.lent.push((key, lent));
                        outgoing.spans.push_back(lent);
                    }
                    outgoing.goes_on(part, u64::from(lent.length));
                }
            }
        }
        Next::Gathered
    }

    /// Records of the part in front were read into a buffer: they go out as they are.
    pub(in crate::shard) fn send_cold(&mut self, index: u32, span: Span) {
        let follower = self.follower_mut(index);
        let part = follower.outgoing.parts.pop_front();
        let Some(part @ Part::Records { .. }) = part else {
            panic!("records were read for {part:?}, which is in front");
        };
        let sent = u64::from(span.length);
        follower.outgoing.goes_on(part, sent);
        follower.outgoing.parts.push_front(Part::Cold { span });
        self.counters.served_bytes.fetch_add(sent, Relaxed);
        self.counters.served_cold_bytes.fetch_add(sent, Relaxed);
        self.pump(index);
    }

    pub(in crate::shard) fn answer_part_sent(&mut self, index: u32, result: Result<u32, SystemError>) {
        let follower = self.follower_mut(index);
        follower.outgoing.sending = false;
        let mut accepted = match result {
            Ok(accepted @ 1..) => accepted,
            Ok(0) | Err(_) => return self.close_follower(index),
        };
        while accepted > 0 {
            let span = follower.outgoing.spans.pop_front().expect("no more is accepted than was sent");
            if accepted < span.length {
                follower.outgoing.spans.push_front(span.after(accepted));
                break;
            }
            accepted -= span.length;
        }
        if follower.outgoing.spans.is_empty() {
            self.release_sent(index);
        }
        self.pump(index);
    }

    /// Lets go of pieces that were fetched for the answer.
    pub(in crate::shard) fn release_reads(&mut self, index: u32) {
        let held = std::mem::take(&mut self.follower_mut(index).outgoing.reads);
        held.into_iter().for_each(|id| self.guests.reads.let_go(id));
    }

    /// Gives lent images back.
    pub(in crate::shard) fn release_sent(&mut self, index: u32) {
        let lent = std::mem::take(&mut self.follower_mut(index).outgoing.lent);
        for (key, span) in lent {
            let entry = self.slots[key.slot as usize].as_mut().expect("a slot with lent images stays");
            let segment = entry.log.segment(key.base).expect("a segment with lent images stays");
            segment.writer.read_ends(&mut self.pool, span);
            // A segment that only waited for its reader goes on.
            self.write_due(key.slot);
        }
    }

    /// The whole answer is out: the next request may be read.
    fn answer_sent(&mut self, index: u32) {
        let follower = self.follower_mut(index);
        follower.outgoing.out.clear();
        let buffers = [follower.outgoing.buffer.take(), follower.cold.buffer.take()];
        buffers.into_iter().flatten().for_each(|span| self.pool.give(span));
        self.release_reads(index);
        if let Some(why) = self.follower_mut(index).security.ends.take() {
            return self.refuse_follower(index, why);
        }
        self.next_request(index);
    }
}

/// Adds a span, as part of the one before where they touch.
fn push_span(spans: &mut VecDeque<Span>, span: Span) {
    match spans.back_mut() {
        Some(last) if last.end() == span.start => last.length += span.length,
        _ if span.length == 0 => {}
        _ => spans.push_back(span),
    }
}
