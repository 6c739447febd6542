//! What a failover could not bring along: the source's last word against what the new leaders have.
//!
//! The last word is kept with the order, so that a crash on the way does not make it unknown. A source that is
//! silent may have had more: what is told is "at least", with the age of that knowledge, and nothing where
//! nothing was heard. Never told: that nothing was lost.

use super::{HandOvers, Supervisor};
use crate::admin::answer::{CutView, LossView};
use crate::control::mirror::Mirror;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use twinlog_io::{monotonic_nanoseconds, wall_clock_ms};
use twinlog_log_segment::offset::Offset;

/// Where the words of the source are in a hand-over's options.
pub const SOURCE_ENDS: &str = "source_ends";
/// Where cuts are: `{"0": {"from": 10, "to": 14}}`.
pub const CUTS: &str = "cuts";

/// The source's last word on one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastWord {
    end: i64,
    heard_ms: i64,
}

impl LastWord {
    fn of(mirror: &Mirror) -> Option<Self> {
        let heard_at = mirror.counters.source_seen_at.load(Relaxed);
        let end = mirror.counters.high_watermark.load(Relaxed);
        let age_ms = monotonic_nanoseconds().saturating_sub(heard_at) / 1_000_000;
        let heard_ms = wall_clock_ms().saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX));
        (heard_at > 0 && end >= 0).then_some(Self { end, heard_ms })
    }

    fn read(value: &Value) -> Option<Self> {
        Some(Self { end: value.get("end")?.as_i64()?, heard_ms: value.get("heard_ms")?.as_i64()? })
    }
}

fn loss(index: i32, word: Option<LastWord>, end: i64, record_bytes: Option<f64>, now_ms: i64) -> LossView {
    let lost = word.map(|word| (word.end - end).max(0));
    // A mean of nothing copied says nothing, and neither does one of nothing lost.
    let bytes =
        lost.filter(|lost| *lost > 0).zip(record_bytes).map(|(lost, each)| (lost as f64 * each) as i64);
    LossView {
        partition_id: index,
        lost_at_least_records: lost,
        lost_estimated_bytes: bytes,
        source_heard_age_ms: word.map(|word| (now_ms - word.heard_ms).max(0)),
    }
}

/// Mean bytes of an offset, of what this daemon copied.
fn record_bytes(mirror: &Mirror) -> Option<f64> {
    let copied = mirror.counters.log_end.load(Relaxed) - mirror.first_end?.value();
    let bytes = mirror.counters.bytes.load(Relaxed);
    (copied > 0 && bytes > 0).then(|| bytes as f64 / copied as f64)
}

impl Supervisor {
    /// What a failover would lose of a topic, as far as known now.
    pub(super) fn losses_now(&self, topic: &str) -> Vec<LossView> {
        let now_ms = wall_clock_ms();
        let each = self.partitions_of(topic).into_iter().map(|partition| {
            let mirror = &self.mirrors[&partition];
            let end = mirror.counters.log_end.load(Relaxed);
            loss(partition.partition(), LastWord::of(mirror), end, record_bytes(mirror), now_ms)
        });
        each.collect()
    }

    /// The source's last words, to be kept with the order.
    pub(super) fn last_words(&self, topic: &str) -> Value {
        let each = self.partitions_of(topic).into_iter().filter_map(|partition| {
            let word = LastWord::of(&self.mirrors[&partition])?;
            let value = serde_json::json!({ "end": word.end, "heard_ms": word.heard_ms });
            Some((partition.partition().to_string(), value))
        });
        Value::Object(each.collect())
    }

    /// What a failover lost, at its end.
    pub(super) fn losses(
        &self,
        hand_overs: &HandOvers,
        topic: &str,
        ends: &BTreeMap<i32, Offset>,
    ) -> Vec<LossView> {
        let kept = hand_overs.hand_overs.get(topic).and_then(|row| row.options.get(SOURCE_ENDS));
        let now_ms = wall_clock_ms();
        let each = ends.iter().map(|(index, end)| {
            let mirror = self.partitions_of(topic).into_iter().find(|each| each.partition() == *index);
            let mirror = mirror.and_then(|partition| self.mirrors.get(&partition));
            let then = kept.and_then(|kept| LastWord::read(kept.get(index.to_string())?));
            let later = mirror.and_then(LastWord::of);
            // A later word counts, unless it says less: what the source once had is lost all the same.
            let end_known = then.iter().chain(&later).map(|word| word.end).max();
            let heard_ms = then.iter().chain(&later).map(|word| word.heard_ms).max();
            let word = end_known.zip(heard_ms).map(|(end, heard_ms)| LastWord { end, heard_ms });
            loss(*index, word, end.value(), mirror.and_then(record_bytes), now_ms)
        });
        each.collect()
    }

    /// What a failover cut, as far as it is under way.
    pub(super) fn cuts(&self, hand_overs: &HandOvers, topic: &str) -> Vec<CutView> {
        let Some(row) = hand_overs.hand_overs.get(topic) else { return Vec::new() };
        let kept = row.options.get(CUTS).and_then(Value::as_object);
        let each = kept.into_iter().flatten().filter_map(|(index, cut)| {
            let index: i32 = index.parse().ok()?;
            let (from, to) = (cut.get("from")?.as_i64()?, cut.get("to")?.as_i64()?);
            let partitions = self.partitions_of(topic);
            let mirror = partitions.iter().find(|each| each.partition() == index);
            let bytes = mirror.map(|partition| self.mirrors[partition].cut_bytes.load(Relaxed));
            // After a restart only cuts/ knows.
            Some(CutView { partition_id: index, from, to, bytes: bytes.filter(|bytes| *bytes > 0) })
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_heard_is_unknown_and_what_was_heard_is_a_lower_bound_with_its_age() {
        let unknown = loss(0, None, 10, Some(100.0), 5_000);
        assert_eq!(unknown, LossView { partition_id: 0, ..LossView::default() });
        let word = Some(LastWord { end: 14, heard_ms: 2_000 });
        let lost = loss(1, word, 10, Some(100.0), 5_000);
        assert_eq!((lost.lost_at_least_records, lost.lost_estimated_bytes), (Some(4), Some(400)));
        assert_eq!(lost.source_heard_age_ms, Some(3_000));
        let level = loss(1, word, 14, Some(100.0), 5_000);
        assert_eq!((level.lost_at_least_records, level.lost_estimated_bytes), (Some(0), None));
        assert_eq!(loss(1, word, 10, None, 5_000).lost_estimated_bytes, None);
    }
}
