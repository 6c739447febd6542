//! Steps 1 to 3 of a batch's walk: receive, decode, verify.
//!
//! ```text
//!   scratch: | head of the answer, heads of partitions ... |     (a few KiB, decoded here)
//!                      records field: `place` in the partition's segment image
//!                        first bytes, already in the scratch  --> copied once
//!                        32 KiB or more to come               --> received straight into the image
//!                      each piece: walk, check header, stamp epoch, CRC, index --> verified
//! ```
//! Where TLS is spoken, all of it comes through the scratch: decrypted into it, from there copied into the image.
//! A partial batch at the end of a field is dropped by moving the fill position back. A field of a
//! partition that does not want it (stopped, moved to another lane, refused) is consumed unread.

use super::Shard;
use super::lane_io::{Current, Stall};
use super::mailbox::PartitionCounters;
use super::operations::{Pending, SegmentKey};
use crate::segment_writer::Place;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::Engine;
use twinlog_io::{Operation, Span, SystemError};
use twinlog_log_segment::batch::{BatchHeader, LEADER_EPOCH_AT};
use twinlog_log_segment::control::ControlKind;
use twinlog_log_segment::walk::WalkEvent;
use twinlog_sync::fault::Fault;
use twinlog_sync::lane::{LaneFault, State};
use twinlog_sync::partition::RecordsOutcome;
use twinlog_sync::session::PartitionKey;
use twinlog_sync::wire::api_versions;
use twinlog_sync::wire::fetch_response::{Event as WireEvent, PartitionHead, PartitionTail, TopicKey};

/// From here on a rest of a field is received in place; below, a copy in cache is cheaper than a call.
const DIRECT_BYTES_MIN: u32 = 32 * 1024;
/// Fields of this size make a lane ask for heads only.
const BULK_BYTES_MIN: u32 = 64 * 1024;

/// Whether the lane can go on with what it has.
pub(super) enum Step {
    Again,
    Wait,
}

/// What one piece of a records field led to.
enum Ingested {
    Fine,
    /// The rest of the field is not wanted, for this reason if there is one.
    Refused(Option<Fault>),
}

impl<E: Engine> Shard<E> {
    /// Consumes what has arrived on a lane, as far as possible.
    pub(super) fn advance_lane(&mut self, index: u32) {
        while let Step::Again = self.advance_step(index) {}
        self.route_lane(index);
    }

    fn advance_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        lane.stall = Stall::No;
        if lane.receiving {
            return Step::Wait;
        }
        match lane.lane.state() {
            State::Securing { .. } => self.secure_step(index),
            State::Negotiating { .. } => self.negotiate(index),
            State::Fetching { .. } if lane.lane.decoder().records_left() > 0 => self.records_step(index),
            State::Fetching { .. } => self.decode_step(index),
            _ => Step::Wait,
        }
    }

    fn negotiate(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let bytes = self.engine.arena().bytes(lane.arrived());
        match api_versions::read_response(bytes, lane.lane.correlation_id()) {
            Ok(None) => return self.receive_more(index),
            Ok(Some((consumed, negotiated))) => {
                lane.consume(consumed as u32);
                lane.lane.negotiated(negotiated);
                self.confirm_epochs(index);
                self.fetch_if_ready(index, self.engine.now());
            }
            Err(error) => lane.lane.failed(LaneFault::Wire(error)),
        }
        Step::Wait
    }

    fn decode_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let arrived = lane.arrived();
        let bytes = self.engine.arena().bytes(arrived);
        let (consumed, event) = match lane.lane.decoder().decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                lane.lane.failed(LaneFault::Wire(error));
                return Step::Wait;
            }
        };
        lane.consume(consumed as u32);
        match event {
            None => self.receive_more(index),
            Some(WireEvent::Response { throttle_ms, error, session_id }) => {
                let now = self.engine.now();
                match lane.lane.response(now, throttle_ms, error, session_id) {
                    true => Step::Again,
                    false => Step::Wait,
                }
            }
            Some(WireEvent::Topic) => {
                lane.topic = match lane.lane.decoder().topic() {
                    TopicKey::Id(id) => self.topics_by_id.get(&id).copied(),
                    TopicKey::Name(name) => self.topics_by_name.get(name).copied(),
                };
                Step::Again
            }
            Some(WireEvent::Partition(head)) => self.partition_begins(index, &head),
            Some(WireEvent::PartitionEnd(tail)) => {
                self.partition_ends(index, &tail);
                Step::Again
            }
            Some(WireEvent::End) => {
                self.answer_ends(index);
                Step::Wait
            }
        }
    }

    fn answer_ends(&mut self, index: u32) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        if lane.end > lane.start {
            let remaining = u64::from(lane.end - lane.start);
            lane.lane.failed(LaneFault::Wire(twinlog_sync::wire::WireError::TrailingBytes { remaining }));
            return;
        }
        let granted = lane.lane.answered(now);
        self.credits.settle(lane.lane.kind, granted, lane.granted_received);
        if lane.reads_from.is_some() {
            return self.read_answered(index);
        }
        self.counters.lanes.answered(index, now);
        self.fetch_if_ready(index, now);
    }

    /// The slot of an answer's partition, if it is fetched on this lane.
    fn slot_on_lane(&self, index: u32, partition: i32) -> Option<u32> {
        let topic = self.lanes[index as usize].topic?;
        let slot = *self.by_key.get(&PartitionKey { topic, index: partition })?;
        let entry = self.slots[slot as usize].as_ref()?;
        (entry.lane == Some(index) && !entry.removing).then_some(slot)
    }

    fn partition_begins(&mut self, index: u32, head: &PartitionHead) -> Step {
        if self.lanes[index as usize].reads_from.is_some() {
            return self.read_begins(index, head);
        }
        let now = self.engine.now();
        let found = self.slot_on_lane(index, head.index);
        let lane = &mut self.lanes[index as usize];
        lane.bulk = head.records_bytes >= BULK_BYTES_MIN;
        lane.walk.reset();
        let Some(slot) = found else {
            let outcome = RecordsOutcome::default();
            lane.current = Some(Current { slot: u32::MAX, outcome, discard: true, refused: None });
            return Step::Again;
        };
        let entry = self.slots[slot as usize].as_mut().expect("found just now");
        let wanted = entry.partition.answer_begins(now, head) && self.halted.is_none();
        let outcome = RecordsOutcome { records_bytes: head.records_bytes, ..RecordsOutcome::default() };
        lane.current = Some(Current { slot, outcome, discard: !wanted, refused: None });
        Step::Again
    }

    fn records_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        if lane.reads_from.is_some() {
            return self.read_records(index);
        }
        let current = lane.current.as_ref().expect("records belong to a partition");
        if current.discard {
            return self.discard_step(index);
        }
        let slot = current.slot;
        let left = lane.lane.decoder().records_left();
        let first = current.outcome.whole_batches == 0 && left == current.outcome.records_bytes;
        if first && !self.ready_for_field(slot, left) {
            self.lanes[index as usize].stall = Stall::Partition(slot);
            return Step::Wait;
        }
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        let place = entry.log.active.writer.place(&mut self.pool, left);
        if !entry.warm && !entry.log.active.writer.is_cold() {
            entry.warm = true;
            self.warm_order.push_back(slot);
        }
        match place {
            Place::Into(span) => self.receive_into(index, slot, left, span),
            Place::NoMemory => {
                self.lanes[index as usize].stall = Stall::Memory;
                self.counters.memory_stalls.fetch_add(1, Relaxed);
                // Its own full images may go first, before their last batch is whole.
                self.write_due(slot);
                self.make_room();
                Step::Wait
            }
            Place::Load { position, into } => {
                self.load_block(slot, position, into);
                self.lanes[index as usize].stall = Stall::Partition(slot);
                Step::Wait
            }
            Place::Wait => {
                self.lanes[index as usize].stall = Stall::Partition(slot);
                Step::Wait
            }
        }
    }

    pub(super) fn discard_step(&mut self, index: u32) -> Step {
        let lane = &mut self.lanes[index as usize];
        let available = lane.arrived().length.min(lane.lane.decoder().records_left());
        if available == 0 {
            lane.bulk = false;
            return self.receive_more(index);
        }
        lane.consume(available);
        lane.lane.decoder().take_records(available);
        Step::Again
    }

    fn receive_into(&mut self, index: u32, slot: u32, left: u32, place: Span) -> Step {
        let lane = &mut self.lanes[index as usize];
        let arrived = lane.arrived();
        let length = place.length.min(left);
        if arrived.length > 0 {
            let length = length.min(arrived.length);
            let from = Span { start: arrived.start, length };
            self.engine.arena_mut().copy_within(from, place.start);
            lane.consume(length);
            lane.lane.decoder().take_records(length);
            self.counters.copied_bytes.fetch_add(u64::from(length), Relaxed);
            self.ingest(index, slot, length);
            return Step::Again;
        }
        // Ciphertext can only be received beside the image.
        if left < DIRECT_BYTES_MIN || lane.security.tls.is_some() {
            return self.receive_more(index);
        }
        let socket = lane.socket.expect("an answer arrives on a socket");
        lane.receiving = true;
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        entry.log.active.writer.receive_begins();
        let into = Span { start: place.start, length };
        let pending = Pending::ReceiveDirect { lane: index, slot };
        self.submit(pending, Operation::Receive { socket, into, fill: true });
        Step::Wait
    }

    pub(super) fn direct_received(&mut self, index: u32, slot: u32, result: Result<u32, SystemError>) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        lane.receiving = false;
        let bytes = match result {
            Ok(0) => {
                lane.lane.failed(LaneFault::PeerClosed);
                0
            }
            Ok(bytes) => bytes,
            Err(error) => {
                lane.lane.failed(LaneFault::Network(error.0));
                0
            }
        };
        if bytes == 0 || matches!(lane.lane.state(), State::Closing) {
            // What came is dropped with the answer: a received byte counts only with its whole batch.
            let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
            entry.log.active.writer.received(0);
            self.route_lane(index);
            return;
        }
        lane.granted_received += u64::from(bytes);
        lane.lane.progressed(now);
        lane.lane.decoder().take_records(bytes);
        self.counters.received_bytes.fetch_add(u64::from(bytes), Relaxed);
        self.counters.direct_bytes.fetch_add(u64::from(bytes), Relaxed);
        self.ingest(index, slot, bytes);
        self.advance_lane(index);
    }

    /// Verifies bytes that have just been placed and writes what is complete.
    fn ingest(&mut self, index: u32, slot: u32, bytes: u32) {
        let ingested = self.verify(index, slot, bytes);
        if let Ingested::Refused(fault) = ingested {
            let lane = &mut self.lanes[index as usize];
            let current = lane.current.as_mut().expect("records belong to a partition");
            current.discard = true;
            current.refused = fault;
            lane.walk.reset();
            let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
            entry.log.active.writer.drop_unverified(&mut self.pool);
        }
        self.write_due(slot);
        self.log_moved(slot);
    }

    fn verify(&mut self, index: u32, slot: u32, bytes: u32) -> Ingested {
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        let span = entry.log.active.writer.received(bytes);
        let mut at = 0;
        loop {
            let lane = &mut self.lanes[index as usize];
            let (consumed, event) = lane.walk.feed(&self.engine.arena().bytes(span)[at..]);
            at += consumed;
            match event {
                None => return Ingested::Fine,
                Some(Err(error)) => return Ingested::Refused(Some(Fault::Batch(error))),
                Some(Ok(WalkEvent::Header(header))) => {
                    if let Ingested::Refused(fault) = self.header_arrived(slot, &header) {
                        return Ingested::Refused(fault);
                    }
                }
                Some(Ok(WalkEvent::Batch { header, control })) => {
                    if let Err(fault) = self.batch_arrived(slot, &header, control) {
                        return Ingested::Refused(Some(fault));
                    }
                    let lane = &mut self.lanes[index as usize];
                    let current = lane.current.as_mut().expect("records belong to a partition");
                    current.outcome.whole_batches += 1;
                }
            }
        }
    }

    /// Before a byte of its body counts: may this batch stand here? Then it gets the mirror's stamp.
    fn header_arrived(&mut self, slot: u32, header: &BatchHeader) -> Ingested {
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        if let Err(fault) = entry.partition.accept_header(header) {
            return Ingested::Refused(Some(fault));
        }
        let stamp = entry.log.stamp_at(header.base_offset.max(entry.partition.ledger.fetch()));
        let segment = &mut entry.log.active;
        if !segment.placed.holds(header) {
            // A gap longer than an index can name: the batch is fetched again into a segment of its own.
            entry.log.roll_to = Some(header.base_offset.max(entry.partition.ledger.fetch()));
            return Ingested::Refused(None);
        }
        if header.leader_epoch != stamp {
            let position = segment.writer.verified().position + LEADER_EPOCH_AT.start as u64;
            segment.writer.stamp(self.engine.arena_mut(), position, &stamp.0.to_be_bytes());
        }
        Ingested::Fine
    }

    fn batch_arrived(
        &mut self,
        slot: u32,
        header: &BatchHeader,
        control: Option<ControlKind>,
    ) -> Result<(), Fault> {
        let entry = self.slots[slot as usize].as_mut().expect("a current partition stays");
        let before = entry.log.active.writer.verified();
        let accepted = entry.partition.accept_batch(header, control)?;
        let segment = &mut entry.log.active;
        if accepted.new_epoch {
            segment.writer.raise_barrier(before);
            self.flusher.want_checkpoint();
        }
        let position = u32::try_from(segment.placed.position).expect("a segment is below 2 GiB");
        if let Some(served) = &mut entry.served {
            served.batch_begins(position.into(), before.next);
        }
        segment.index.on_batch(header, position, &mut segment.pending);
        if let Some(aborted) = accepted.aborted {
            segment.pending.push_aborted(&aborted);
        }
        segment.placed.on_batch(header);
        segment.writer.verify(segment.placed.position, entry.partition.ledger.fetch());
        let counters: &PartitionCounters = &entry.counters;
        counters.bytes.fetch_add(u64::from(header.total_bytes()), Relaxed);
        counters.batches.fetch_add(1, Relaxed);
        // The shard alone writes it: nothing can come between the two.
        if header.producer_id >= counters.next_producer_id.load(Relaxed) {
            counters.next_producer_id.store(header.producer_id.saturating_add(1), Relaxed);
        }
        if !entry.dirty {
            entry.dirty = true;
            self.flusher.dirty(slot);
        }
        self.flusher.received(entry.partition.lane(), u64::from(header.total_bytes()));
        Ok(())
    }

    fn partition_ends(&mut self, index: u32, tail: &PartitionTail) {
        let now = self.engine.now();
        let lane = &mut self.lanes[index as usize];
        let mut current = lane.current.take().expect("a partition ends after it began");
        let cut_off = lane.walk.header_in_progress().map_or(0, |header| u64::from(header.total_bytes()));
        lane.walk.reset();
        let Some(entry) = self.slots.get_mut(current.slot as usize).and_then(Option::as_mut) else { return };
        if !current.discard || current.refused.is_some() {
            entry.log.active.writer.drop_unverified(&mut self.pool);
        }
        match current.refused.take() {
            Some(fault) => entry.partition.fault(now, fault),
            None => {
                // A field cut short by a roll counts as a whole one: the rest is asked for again.
                let cut_by_roll = current.discard && current.outcome.whole_batches == 0;
                current.outcome.cut_off_batch_bytes = cut_off;
                if cut_by_roll {
                    current.outcome.records_bytes = 0;
                }
                entry.partition.answer_ends(now, tail, &current.outcome);
            }
        }
        if entry.lane == Some(index) {
            // Answers of this lane speak for it from its own first one on.
            entry.counters.lane.store(index + 1, Relaxed);
        }
        self.publish(current.slot);
        self.route_partition(current.slot);
    }

    /// Asks for the segment's last block to come back from its file.
    fn load_block(&mut self, slot: u32, position: u64, into: Span) {
        let entry = self.slots[slot as usize].as_ref().expect("a current partition stays");
        let segment = SegmentKey { slot, base: entry.log.active.base() };
        self.start_load(segment, position, into);
    }
}
