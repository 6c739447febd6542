//! Where an operation waits for its completion: a slab, so that nothing is allocated per operation.
//!
//! Owns: the entries and their free list. The index of an entry travels to the kernel as `user_data` and comes back.
//! Invariant: an index is reused only after `remove`, which happens once, when its completion arrived; so an
//! index seen in a completion always names the operation that was submitted with it.

/// A slab of operations in flight.
pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn with_capacity(capacity: u32) -> Slots<T> {
        Slots { entries: Vec::with_capacity(capacity as usize), free: Vec::with_capacity(capacity as usize) }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = Some(value);
                index
            }
            None => {
                self.entries.push(Some(value));
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 operations in flight")
            }
        }
    }

    pub(crate) fn remove(&mut self, index: u32) -> T {
        let value = self.entries[index as usize].take().expect("a slot is removed once");
        self.free.push(index);
        value
    }

    pub(crate) fn at(&mut self, index: u32) -> &mut T {
        self.entries[index as usize].as_mut().expect("a slot is looked at while it is taken")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| entry.as_ref().map(|value| (index as u32, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_only_after_it_was_removed() {
        let mut slots = Slots::with_capacity(2);
        let (first, second) = (slots.insert('a'), slots.insert('b'));
        assert_ne!(first, second);
        assert_eq!(slots.remove(first), 'a');
        assert_eq!(slots.insert('c'), first);
        assert_eq!(*slots.at(second), 'b');
        assert_eq!(slots.iter().count(), 2);
        assert_eq!(slots.iter().map(|(_, value)| *value).collect::<String>(), "cb");
    }
}
