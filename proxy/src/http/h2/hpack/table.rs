//! The dynamic table (RFC 7541 §2.3.2, §4): the newest entries of a connection's one direction.

use std::collections::VecDeque;
use std::ops::Range;

use super::{DEFAULT_TABLE, FIELD_OVERHEAD};

/// Entries in the order in which they came; the oldest leave when there is no room.
#[derive(Debug)]
pub(super) struct Table {
    /// Names and values, one after the other. Those at the front may be of entries that have left.
    bytes: Vec<u8>,
    /// Where `bytes` begins, counted in bytes that ever came, like every place here.
    base: u32,
    /// The newest is in front.
    entries: VecDeque<Entry>,
    /// What the entries count.
    size: usize,
    /// What they may count.
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    name: u32,
    value: u32,
}

impl Table {
    /// An empty table of the size with which connections begin.
    pub(super) fn new() -> Self {
        Table { bytes: Vec::new(), base: 0, entries: VecDeque::new(), size: 0, max: DEFAULT_TABLE }
    }

    /// How many entries there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the entries may count.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Changes what the entries may count.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(max);
        if self.entries.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Name and value of an entry; 0 is the newest.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(index)?;
        let at = self.place(*entry);
        Some(self.bytes[at..at + entry.len()].split_at(entry.name as usize))
    }

    /// Adds an entry. One that is larger than the table leaves it empty (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        if self.make_way(name.len(), value.len()) {
            self.reserve(name.len() + value.len());
            self.bytes.extend_from_slice(name);
            self.add(name.len(), value);
        }
    }

    /// Adds an entry whose name is that of the entry at `index`, which there must be.
    pub(super) fn insert_named(&mut self, index: usize, value: &[u8]) {
        let Some(entry) = self.entries.get(index).copied() else { return };
        let name = entry.name as usize;
        if !self.make_way(name, value.len()) {
            return;
        }
        // The entry with the name may have left just now. Its bytes are still there.
        let at = self.place(entry);
        let range = at..at + name;
        if self.bytes.len() + name + value.len() <= self.bytes.capacity() {
            self.bytes.extend_from_within(range);
        } else {
            self.copy_name(range, value.len());
        }
        self.add(name, value);
    }

    /// Makes room for a copy of the name in `range` and a value, and puts the name there.
    #[cold]
    fn copy_name(&mut self, range: Range<usize>, value: usize) {
        let name = self.bytes[range].to_vec();
        self.reserve(name.len() + value);
        self.bytes.extend_from_slice(&name);
    }

    /// Lets entries go until one with this name and value has its place. Whether it can have one.
    fn make_way(&mut self, name: usize, value: usize) -> bool {
        let size = name + value + FIELD_OVERHEAD;
        self.evict(self.max.saturating_sub(size));
        size <= self.max
    }

    /// Adds the entry whose name of `name` bytes has been written.
    fn add(&mut self, name: usize, value: &[u8]) {
        let at = self.base.wrapping_add((self.bytes.len() - name) as u32);
        self.bytes.extend_from_slice(value);
        let entry = Entry { at, name: name as u32, value: value.len() as u32 };
        self.size += entry.len() + FIELD_OVERHEAD;
        self.entries.push_front(entry);
    }

    /// Lets the oldest go until the rest counts no more than `max`.
    fn evict(&mut self, max: usize) {
        while self.size > max {
            let Some(entry) = self.entries.pop_back() else { return };
            self.size -= entry.len() + FIELD_OVERHEAD;
        }
    }

    /// Makes room for `more` bytes. What this copies was paid for by the bytes that have left, and it never holds more
    /// than twice the table's size.
    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.bytes.len() + more > self.bytes.capacity() {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let dead = self.entries.back().map_or(self.bytes.len(), |oldest| self.place(*oldest));
        if dead >= self.bytes.len() - dead {
            self.bytes.drain(..dead);
            self.base = self.base.wrapping_add(dead as u32);
        }
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let wanted = needed.max((2 * needed).min(2 * self.max));
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }

    /// Where an entry begins in `bytes`.
    #[inline]
    fn place(&self, entry: Entry) -> usize {
        entry.at.wrapping_sub(self.base) as usize
    }
}

impl Entry {
    /// Bytes of its name and value.
    #[inline]
    fn len(self) -> usize {
        self.name as usize + self.value as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same table, as simply as it can be written.
    #[derive(Default)]
    struct Plain(VecDeque<(Vec<u8>, Vec<u8>)>);

    impl Plain {
        fn insert(&mut self, name: &[u8], value: &[u8], max: usize) {
            self.0.push_front((name.to_vec(), value.to_vec()));
            self.evict(max);
        }

        fn evict(&mut self, max: usize) {
            while self.0.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > max {
                self.0.pop_back();
            }
        }
    }

    proptest! {
        #[test]
        fn entries_come_and_leave_in_order(
            steps in prop::collection::vec((0..20u8, 0..60usize, 0..300usize), 1..400),
            base in prop_oneof![Just(0), Just(u32::MAX - 500)],
        ) {
            let mut table = Table { base, ..Table::new() };
            let mut plain = Plain::default();
            for (count, (kind, name, value)) in steps.into_iter().enumerate() {
                let text = vec![count as u8; name];
                let value = vec![!(count as u8); value];
                match kind {
                    0 => {
                        let max = name * value.len();
                        table.resize(max);
                        plain.evict(max);
                    }
                    1..10 if name < table.len() => {
                        let text = plain.0[name].0.clone();
                        table.insert_named(name, &value);
                        plain.insert(&text, &value, table.max());
                    }
                    _ => {
                        table.insert(&text, &value);
                        plain.insert(&text, &value, table.max());
                    }
                }
                prop_assert_eq!(table.len(), plain.0.len());
                for (index, (name, value)) in plain.0.iter().enumerate() {
                    prop_assert_eq!(table.get(index), Some((&name[..], &value[..])));
                }
                prop_assert_eq!(table.get(table.len()), None);
                prop_assert!(table.size <= table.max);
                prop_assert!(table.bytes.capacity() <= 2 * DEFAULT_TABLE.max(60 * 300));
            }
        }
    }

    #[test]
    fn a_full_table_holds_twice_its_size_at_most() {
        let mut table = Table::new();
        for count in 0..10_000u32 {
            table.insert(b"name", &vec![b'x'; count as usize % 700]);
            assert!(table.bytes.capacity() <= 2 * DEFAULT_TABLE);
        }
    }
}
