//! Topics and partitions under small numbers: a position holds four bytes in place of a name.

use super::Bound;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A partition that some group has a position in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionNumber(u32);

#[derive(Debug)]
struct Known {
    topic: u32,
    index: i32,
    bound: Option<Bound>,
    /// The selection in which it was last.
    selected: u32,
}

/// They are never forgotten: their number is that of the source's partitions, which the mirror's own tables bound.
#[derive(Debug, Default)]
pub(super) struct Names {
    topics: Vec<Box<str>>,
    topic_numbers: BTreeMap<Box<str>, u32>,
    partitions: Vec<Known>,
    numbers: BTreeMap<(u32, i32), PartitionNumber>,
    selection: u32,
}

impl Names {
    pub fn find(&self, topic: &str, index: i32) -> Option<PartitionNumber> {
        self.numbers.get(&(*self.topic_numbers.get(topic)?, index)).copied()
    }

    pub fn number(&mut self, topic: &str, index: i32) -> PartitionNumber {
        let topic = match self.topic_numbers.get(topic) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.topics.len()).expect("fewer topics than bytes of memory");
                self.topics.push(topic.into());
                self.topic_numbers.insert(topic.into(), number);
                number
            }
        };
        let next = PartitionNumber(u32::try_from(self.partitions.len()).expect("the same of partitions"));
        let number = *self.numbers.entry((topic, index)).or_insert(next);
        if number == next {
            self.partitions.push(Known { topic, index, bound: None, selected: 0 });
        }
        number
    }

    fn known(&self, number: PartitionNumber) -> &Known {
        &self.partitions[number.0 as usize]
    }

    pub fn partition(&self, number: PartitionNumber) -> (&str, i32) {
        let known = self.known(number);
        (&self.topics[known.topic as usize], known.index)
    }

    pub fn is(&self, number: PartitionNumber, topic: &str, index: i32) -> bool {
        let known = self.known(number);
        known.index == index && *self.topics[known.topic as usize] == *topic
    }

    pub fn bound(&self, number: PartitionNumber) -> Option<Bound> {
        self.known(number).bound
    }

    pub fn set_bound(&mut self, number: PartitionNumber, bound: Option<Bound>) {
        self.partitions[number.0 as usize].bound = bound;
    }

    pub fn begin_selection(&mut self) {
        self.selection = self.selection.wrapping_add(1);
    }

    /// True the first time in a selection.
    pub fn select(&mut self, number: PartitionNumber) -> bool {
        let selection = self.selection;
        core::mem::replace(&mut self.partitions[number.0 as usize].selected, selection) != selection
    }
}
