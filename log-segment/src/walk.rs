//! The batch walk: finds and checks record batches in bytes that arrive in pieces, without keeping them.
//!
//! Owns the one loop that touches every mirrored byte: it runs over a piece while the piece is still in the
//! cache, adds it to the running CRC-32C and says where each batch begins and ends. It serves the socket
//! (pieces of any size, a batch may straddle buffers) and the recovery scan (pieces of a file) alike.
//!
//! ```text
//! bytes  │ header 61 │ body ....................... │ header 61 │ body .. (more to come)
//! event              └ Header                       └ Batch     └ Header
//!        └──────────── bytes_in_progress() ─────────┘ 0         └ 61 + what came of the body
//! ```
//!
//! Invariants:
//! - The events, and the byte after which each comes, do not depend on how the bytes were cut.
//! - `Batch` comes only after the CRC matched; until then the bytes count for nothing.
//! - Only the header (61 bytes) and the start of a control batch's body (64 bytes) are ever copied; nothing
//!   is allocated.
//! - After an error every call repeats it and consumes nothing, until `reset`.
//!
//! Must never buffer a body, and must never look at offsets' order: whoever knows the log does that.

use crc_fast::{CrcAlgorithm, Digest};

use crate::batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, CRC_COVERS_FROM, Codec, MAGIC_PREFIX_BYTES, check_prefix,
};
use crate::control::{CONTROL_BODY_BYTES_KEPT, ControlKind};

/// What the walk found at the byte where it stopped consuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEvent {
    /// Byte 61 of a batch was just consumed. Nothing is proven yet.
    Header(BatchHeader),
    /// The last byte of a batch was just consumed and its CRC is right. `control` is set for control batches.
    Batch { header: BatchHeader, control: Option<ControlKind> },
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// So many bytes of a header are kept.
    Header { filled: usize },
    /// So many bytes of the body are still to come.
    Body { header: BatchHeader, left: u32 },
    /// Stopped until `reset`, after so many bytes of the batch.
    Failed { error: BatchError, in_progress: u64 },
}

/// See the file's header. One per stream of bytes that is being read; about half a kilobyte.
#[derive(Clone, Debug)]
pub struct BatchWalk {
    batch_bytes_max: u32,
    stage: Stage,
    header_bytes: [u8; BATCH_HEADER_BYTES],
    control_body: [u8; CONTROL_BODY_BYTES_KEPT],
    control_filled: usize,
    digest: Digest,
}

impl BatchWalk {
    /// `batch_bytes_max` bounds a whole batch: a larger claim is an error before any of its body is taken.
    pub fn new(batch_bytes_max: u32) -> BatchWalk {
        BatchWalk {
            batch_bytes_max,
            stage: Stage::Header { filled: 0 },
            header_bytes: [0; BATCH_HEADER_BYTES],
            control_body: [0; CONTROL_BODY_BYTES_KEPT],
            control_filled: 0,
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }
    }

    /// Consumes bytes up to and including the next event, and says how many that were.
    ///
    /// Call it again with what is left until it returns no event; then all bytes are consumed. A batch
    /// without records ends at its header, so its `Batch` may come from a call with no bytes left:
    ///
    /// ```
    /// # use twinlog_log_segment::{batch::BatchError, walk::{BatchWalk, WalkEvent}};
    /// fn count(walk: &mut BatchWalk, mut piece: &[u8]) -> Result<u32, BatchError> {
    ///     let mut batches = 0;
    ///     loop {
    ///         let (consumed, event) = walk.feed(piece);
    ///         piece = &piece[consumed..];
    ///         match event.transpose()? {
    ///             None => return Ok(batches),
    ///             Some(WalkEvent::Header(_)) => {}
    ///             Some(WalkEvent::Batch { .. }) => batches += 1,
    ///         }
    ///     }
    /// }
    /// # assert_eq!(count(&mut BatchWalk::new(1024), &[]), Ok(0));
    /// ```
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Result<WalkEvent, BatchError>>) {
        match self.stage {
            Stage::Header { filled } => self.feed_header(filled, bytes),
            Stage::Body { header, left } => self.feed_body(header, left, bytes),
            Stage::Failed { error, .. } => (0, Some(Err(error))),
        }
    }

    /// Bytes consumed of a batch that has not ended yet: the partial tail when the input stops here.
    pub fn bytes_in_progress(&self) -> u64 {
        match self.stage {
            Stage::Header { filled } => filled as u64,
            Stage::Body { header, left } => u64::from(header.total_bytes() - left),
            Stage::Failed { in_progress, .. } => in_progress,
        }
    }

    /// The header of the batch in progress, once its 61 bytes were seen.
    pub fn header_in_progress(&self) -> Option<&BatchHeader> {
        match &self.stage {
            Stage::Body { header, .. } => Some(header),
            Stage::Header { .. } | Stage::Failed { .. } => None,
        }
    }

    /// The kept bytes of a header in progress.
    pub(crate) fn partial_header(&self) -> &[u8] {
        match self.stage {
            Stage::Header { filled } => &self.header_bytes[..filled],
            Stage::Body { .. } | Stage::Failed { .. } => &[],
        }
    }

    /// Forgets the batch in progress (or the error); the next byte is the first of a batch.
    pub fn reset(&mut self) {
        self.stage = Stage::Header { filled: 0 };
    }

    fn feed_header(&mut self, filled: usize, bytes: &[u8]) -> (usize, Option<Result<WalkEvent, BatchError>>) {
        if filled == 0
            && let Some(whole) = bytes.first_chunk::<BATCH_HEADER_BYTES>()
        {
            return self.take_header(whole, 0);
        }
        let goal = if filled < MAGIC_PREFIX_BYTES { MAGIC_PREFIX_BYTES } else { BATCH_HEADER_BYTES };
        let take = bytes.len().min(goal - filled);
        self.header_bytes[filled..filled + take].copy_from_slice(&bytes[..take]);
        let now = filled + take;
        self.stage = Stage::Header { filled: now };
        if now < goal {
            return (take, None);
        }
        if goal == BATCH_HEADER_BYTES {
            let whole = self.header_bytes;
            return self.take_header(&whole, filled);
        }
        // An old message can end before byte 61, so its magic is judged as soon as it is here.
        let prefix = self.header_bytes.first_chunk::<MAGIC_PREFIX_BYTES>().expect("61 bytes hold 17");
        if let Err(error) = check_prefix(prefix, self.batch_bytes_max) {
            return self.fail(error, take, now);
        }
        let (more, event) = self.feed_header(now, &bytes[take..]);
        (take + more, event)
    }

    /// All 61 bytes are here, in the input or kept; `filled` of them were consumed by earlier calls.
    fn take_header(
        &mut self,
        whole: &[u8; BATCH_HEADER_BYTES],
        filled: usize,
    ) -> (usize, Option<Result<WalkEvent, BatchError>>) {
        let prefix = whole.first_chunk::<MAGIC_PREFIX_BYTES>().expect("61 bytes hold 17");
        if filled < MAGIC_PREFIX_BYTES
            && let Err(error) = check_prefix(prefix, self.batch_bytes_max)
        {
            // Consume what a byte-wise feed would have consumed.
            return self.fail(error, MAGIC_PREFIX_BYTES - filled, MAGIC_PREFIX_BYTES);
        }
        match BatchHeader::parse(whole, self.batch_bytes_max) {
            Err(error) => self.fail(error, BATCH_HEADER_BYTES - filled, BATCH_HEADER_BYTES),
            Ok(header) => {
                self.digest.reset();
                self.digest.update(&whole[CRC_COVERS_FROM..]);
                self.control_filled = 0;
                self.stage = Stage::Body { header, left: header.body_bytes() };
                (BATCH_HEADER_BYTES - filled, Some(Ok(WalkEvent::Header(header))))
            }
        }
    }

    fn feed_body(
        &mut self,
        header: BatchHeader,
        left: u32,
        bytes: &[u8],
    ) -> (usize, Option<Result<WalkEvent, BatchError>>) {
        let take = bytes.len().min(left as usize);
        let body = &bytes[..take];
        self.digest.update(body);
        if header.is_control() && self.control_filled < CONTROL_BODY_BYTES_KEPT {
            let keep = take.min(CONTROL_BODY_BYTES_KEPT - self.control_filled);
            self.control_body[self.control_filled..self.control_filled + keep].copy_from_slice(&body[..keep]);
            self.control_filled += keep;
        }
        let left = left - take as u32;
        if left > 0 {
            self.stage = Stage::Body { header, left };
            return (take, None);
        }
        let computed = self.digest.finalize() as u32;
        if computed != header.crc {
            let base_offset = header.base_offset.value();
            let error = BatchError::CrcMismatch { base_offset, stored: header.crc, computed };
            return self.fail(error, take, header.total_bytes() as usize);
        }
        self.stage = Stage::Header { filled: 0 };
        let control = header.is_control().then(|| match (header.codec(), header.record_count) {
            (Codec::None, 1..) => ControlKind::parse(&self.control_body[..self.control_filled]),
            _ => ControlKind::UNREADABLE,
        });
        (take, Some(Ok(WalkEvent::Batch { header, control })))
    }

    fn fail(
        &mut self,
        error: BatchError,
        consumed: usize,
        in_progress: usize,
    ) -> (usize, Option<Result<WalkEvent, BatchError>>) {
        self.stage = Stage::Failed { error, in_progress: in_progress as u64 };
        (consumed, Some(Err(error)))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{BatchBuilder, random, reseal};

    const MAX: u32 = 1 << 20;

    /// Each event or error with the byte after which it came, and what is in progress at the end.
    #[derive(Debug, PartialEq)]
    struct Walked {
        events: Vec<(usize, Result<WalkEvent, BatchError>)>,
        in_progress: u64,
    }

    fn walk_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Walked {
        let mut walk = BatchWalk::new(MAX);
        let mut events = Vec::new();
        let mut at = 0;
        'pieces: for mut piece in pieces {
            loop {
                let (consumed, event) = walk.feed(piece);
                at += consumed;
                piece = &piece[consumed..];
                let Some(event) = event else { break };
                events.push((at, event));
                if event.is_err() {
                    break 'pieces;
                }
            }
            assert!(piece.is_empty(), "no event means all is consumed");
        }
        Walked { events, in_progress: walk.bytes_in_progress() }
    }

    fn batches(walked: &Walked) -> Vec<(usize, BatchHeader)> {
        let whole = |(at, event): &(usize, Result<WalkEvent, BatchError>)| match event {
            Ok(WalkEvent::Batch { header, .. }) => Some((*at, *header)),
            _ => None,
        };
        walked.events.iter().filter_map(whole).collect()
    }

    #[test]
    fn a_header_event_comes_before_the_body_and_a_batch_event_after_it() {
        let bytes = BatchBuilder::at(3).records(1, 100).build();
        let walked = walk_pieces([bytes.as_slice()]);
        assert_eq!(walked.events.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [61, bytes.len()]);
        assert_eq!(walked.in_progress, 0);
        assert_eq!(batches(&walked)[0].1.base_offset.value(), 3);
    }

    #[test]
    fn a_batch_without_records_ends_at_its_header() {
        let bytes = BatchBuilder::at(3).build();
        assert_eq!(
            walk_pieces([bytes.as_slice()]).events.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
            [61, 61]
        );
    }

    #[test]
    fn a_partial_tail_is_counted_and_forgotten() {
        let bytes = BatchBuilder::at(3).records(1, 100).build();
        let mut walk = BatchWalk::new(MAX);
        assert_eq!(walk.feed(&bytes[..40]), (40, None));
        assert_eq!((walk.bytes_in_progress(), walk.header_in_progress()), (40, None));
        assert_eq!(walk.feed(&bytes[40..80]).0, 21);
        assert_eq!(walk.feed(&bytes[61..80]), (19, None));
        assert_eq!(walk.bytes_in_progress(), 80);
        assert!(walk.header_in_progress().is_some());
        walk.reset();
        assert_eq!(walk.bytes_in_progress(), 0);
        assert_eq!(walk.feed(&bytes).0, 61);
        assert!(matches!(walk.feed(&bytes[61..]), (_, Some(Ok(WalkEvent::Batch { .. })))));
    }

    #[test]
    fn an_old_message_is_named_as_soon_as_its_magic_is_seen() {
        // A whole message of format 0 without key and value: 26 bytes, fewer than our header.
        let mut message = vec![0u8; 26];
        message[11] = 14;
        let mut walk = BatchWalk::new(MAX);
        assert_eq!(walk.feed(&message[..16]), (16, None));
        let error = BatchError::OldMagic { base_offset: 0, magic: 0 };
        assert_eq!(walk.feed(&message[16..]), (1, Some(Err(error))));
        assert_eq!(walk.feed(&message), (0, Some(Err(error))));
    }

    #[test]
    fn a_claim_above_the_bound_takes_none_of_the_body() {
        let mut bytes = BatchBuilder::at(0).records(1, 100).build();
        bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let (consumed, event) = BatchWalk::new(MAX).feed(&bytes);
        assert!(consumed <= 17);
        assert!(matches!(event, Some(Err(BatchError::LengthTooLarge { .. }))));
    }

    #[test]
    fn a_wrong_crc_names_both_values_and_leaves_the_batch_in_progress() {
        let mut bytes = BatchBuilder::at(9).records(1, 100).build();
        *bytes.last_mut().unwrap() ^= 1;
        let walked = walk_pieces([bytes.as_slice()]);
        let stored = u32::from_be_bytes(*bytes[17..].first_chunk().unwrap());
        let computed = crc32c::crc32c(&bytes[21..]);
        let error = BatchError::CrcMismatch { base_offset: 9, stored, computed };
        assert_eq!(walked.events[1], (bytes.len(), Err(error)));
        assert_eq!(walked.in_progress, bytes.len() as u64);
    }

    #[test]
    fn control_batches_say_what_they_mark() {
        let kind = |bytes: &[u8]| match walk_pieces([bytes]).events[1] {
            (_, Ok(WalkEvent::Batch { control, .. })) => control,
            _ => panic!("the batch is whole"),
        };
        let at = BatchBuilder::at(0);
        for marked in [ControlKind::Abort, ControlKind::Commit, ControlKind::Other(5)] {
            assert_eq!(kind(&at.clone().marker(1, 0, marked).build()), Some(marked));
        }
        assert_eq!(kind(&at.clone().records(1, 50).build()), None);
        let emptied = at.clone().attributes(1 << 5 | 1 << 4).build();
        assert_eq!(kind(&emptied), Some(ControlKind::UNREADABLE));
        let compressed = at.marker(1, 0, ControlKind::Abort).attributes(1).build();
        assert_eq!(kind(&compressed), Some(ControlKind::UNREADABLE));
    }

    #[test]
    fn the_epoch_may_be_stamped_between_header_and_body() {
        let bytes = BatchBuilder::at(0).records(1, 100).leader_epoch(5).build();
        let mut stamped = bytes.clone();
        stamped[crate::batch::LEADER_EPOCH_AT].copy_from_slice(&0i32.to_be_bytes());
        assert_eq!(batches(&walk_pieces([stamped.as_slice()])).len(), 1);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            log in random::log(1_000, 1..8),
            cuts in prop::collection::vec(1usize..200, 1..400),
            keep in 0.0f64..1.0,
        ) {
            let mut bytes = log.concat();
            bytes.truncate((bytes.len() as f64 * keep) as usize);
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(walk_pieces([bytes.as_slice()]), walk_pieces(pieces));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(walk_pieces([bytes.as_slice()]), walk_pieces(single));
        }

        #[test]
        fn whole_logs_are_accepted_whole(log in random::log(0, 1..10)) {
            let walked = walk_pieces([log.concat().as_slice()]);
            prop_assert_eq!(batches(&walked).len(), log.len());
            prop_assert_eq!(walked.in_progress, 0);
        }

        #[test]
        fn a_flipped_bit_is_never_accepted(log in random::log(0, 1..6), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let clean = log.concat();
            let mut bytes = clean.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Every batch that is accepted is one that was built, but for its offset and epoch, which the CRC
            // does not cover; offsets are the scan's to check.
            for (end, header) in batches(&walk_pieces([bytes.as_slice()])) {
                let start = end - header.total_bytes() as usize;
                prop_assert_eq!(&bytes[start + 8..start + 12], &clean[start + 8..start + 12]);
                prop_assert_eq!(&bytes[start + 16..end], &clean[start + 16..end]);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), lead in any::<bool>()) {
            let mut stream = if lead { BatchBuilder::at(0).records(1, 10).build() } else { Vec::new() };
            stream.extend_from_slice(&bytes);
            walk_pieces([stream.as_slice()]);
            // The same with a header that claims to be one.
            if stream.len() >= 61 {
                stream[8..12].copy_from_slice(&60i32.to_be_bytes());
                stream[16] = 2;
                reseal(&mut stream);
                walk_pieces([stream.as_slice()]);
            }
        }
    }
}
