//! How `memory.bytes` is shared: buffers, the program itself, and what each partition costs in tables.
//!
//! ```text
//!   | arena, 60 % ....................... | program, fixed | partitions, each ....... |
//! ```
//! The arena is fixed at the start, before anybody knows how many partitions there are; so a budget that is too
//! small for them is found out by discovery, and said with the value that would do. Links share one budget: it is
//! judged by the partitions of all of them together. Must never grow with traffic:
//! what a record takes is in the arena.

/// Part of the memory that buffers may take; the rest holds code, metadata, indexes and checkpoints.
const ARENA_PERCENT: u64 = 60;
/// Code, stacks, the runtime, the ring, buffers of the control core: measured, the peak of a run with one partition
/// less the arena, and a fifth more. Raised, memory is asked for that nobody takes; lowered, the budget is a lie.
pub const PROGRAM_BYTES: u64 = 25 << 20;
/// Machines, names, checkpoints and metadata answers of a partition: measured, what 10,000 add at the peak of their
/// first start, and a fifth more. Peaks of tests/tests/scale.rs, the part of the arena that was touched included: 27 MB
/// with 1 partition, 28 with 100, 54 with 1,000, 217 with 10,000 at the least budget for them.
pub const PARTITION_BYTES: u64 = 8 << 10;

/// Tells of a budget that is too small, whenever there are more partitions than when it was told last.
#[derive(Debug, Default)]
pub struct Watch {
    told_of: u64,
}

impl Watch {
    /// `partitions` of each link now.
    pub fn look(&mut self, memory_bytes: u64, partitions: impl Iterator<Item = u64>) -> Option<String> {
        let all: u64 = partitions.sum();
        if all <= self.told_of {
            return None;
        }
        self.told_of = all;
        complaint(memory_bytes, all)
    }
}

/// What all arenas together take of a budget.
pub fn arena_bytes(memory_bytes: u64) -> u64 {
    memory_bytes / 100 * ARENA_PERCENT
}

/// The smallest budget that holds so many partitions.
pub fn least_for(partitions: u64) -> u64 {
    let beside_the_arena = PROGRAM_BYTES.saturating_add(partitions.saturating_mul(PARTITION_BYTES));
    // Rounded up to what can be written in the configuration.
    let least = beside_the_arena.saturating_mul(100).div_ceil(100 - ARENA_PERCENT);
    least.div_ceil(1 << 20).saturating_mul(1 << 20)
}

/// What to tell the operator when so many partitions, those of all links, do not fit.
pub fn complaint(memory_bytes: u64, partitions: u64) -> Option<String> {
    let least = least_for(partitions);
    (memory_bytes < least).then(|| {
        format!(
            "memory.bytes = {} MiB is too little for {partitions} partitions: {} MiB of buffers, {} MiB for the \
             program and {} KiB for each partition; more than that will be taken, set at least {} MiB",
            memory_bytes >> 20,
            arena_bytes(memory_bytes) >> 20,
            PROGRAM_BYTES >> 20,
            PARTITION_BYTES >> 10,
            least >> 20,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MEMORY_BYTES_MIN;

    #[test]
    fn the_smallest_budget_holds_the_program_and_a_few_partitions() {
        assert_eq!(complaint(MEMORY_BYTES_MIN, 10), None);
        assert!(MEMORY_BYTES_MIN < least_for(0) + (2 << 20), "the key's minimum is the program's");
    }

    #[test]
    fn the_default_holds_ten_thousand_partitions() {
        assert_eq!(complaint(512 << 20, 10_000), None);
    }

    #[test]
    fn links_that_fit_one_by_one_are_told_when_their_sum_does_not() {
        let (memory, mut watch) = (512 << 20, Watch::default());
        assert_eq!(complaint(memory, 20_000), None);
        assert_eq!(watch.look(memory, [20_000, 0].into_iter()), None);
        let said = watch.look(memory, [20_000, 20_000].into_iter()).unwrap();
        assert!(said.contains("too little for 40000 partitions"), "{said}");
        assert_eq!(watch.look(memory, [20_000, 20_000].into_iter()), None, "told once");
        assert_eq!(watch.look(memory, [1, 20_000].into_iter()), None);
        assert!(watch.look(memory, [20_001, 20_000].into_iter()).is_some());
    }

    #[test]
    fn the_budget_that_is_asked_for_is_enough_and_the_next_smaller_is_not() {
        for partitions in [1, 1_000, 10_000, 100_000] {
            let least = least_for(partitions);
            assert_eq!(complaint(least, partitions), None);
            let said = complaint(least - (1 << 20), partitions).unwrap();
            let cure = format!("set at least {} MiB", least >> 20);
            assert!(said.contains(&cure) && said.contains(&format!("{partitions} partitions")), "{said}");
        }
    }
}
