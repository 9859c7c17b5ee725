//! A sorted map that is cheap to copy: copies share what is the same in both.
//!
//! Entries lie in chunks, and a copy takes the chunks over, not the entries; a change makes one chunk anew. So a change
//! of one entry of five thousand costs a hundred pointers and a chunk, and two maps of which one was made from the other
//! are compared at the cost of what they do not share.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A sorted map of unique keys.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// In order of their keys; none is empty.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

/// An entry of one map, of another, or of both.
pub type Pair<'m, K, V> = (&'m K, Option<&'m V>, Option<&'m V>);

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let (chunk, at) = self.find(key);
        at.ok().map(|at| &self.chunks[chunk][at].1)
    }

    /// Whether there is an entry for `key`.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entries from `key` on, in order.
    pub fn from<'m>(&'m self, key: &K) -> impl Iterator<Item = (&'m K, &'m V)> + use<'m, K, V> {
        let (chunk, at) = self.find(key);
        let at = at.unwrap_or_else(|at| at);
        let rest = self.chunks.get(chunk..).unwrap_or_default();
        rest.iter().flat_map(|chunk| chunk.iter()).skip(at).map(|(key, value)| (key, value))
    }

    /// The entries of this map and of `other`, in order, but for those in chunks that they share.
    fn beside<'m>(&'m self, other: &'m Self) -> Vec<Pair<'m, K, V>> {
        let (mut ours, mut theirs) = (Cursor::new(self), Cursor::new(other));
        let mut pairs = Vec::new();
        loop {
            if let (Some(one), Some(two)) = (ours.chunk(), theirs.chunk())
                && Arc::ptr_eq(one, two)
            {
                ours.next_chunk();
                theirs.next_chunk();
                continue;
            }
            let (one, two) = (ours.entry(), theirs.entry());
            let order = match (one, two) {
                (Some((one, _)), Some((two, _))) => one.cmp(two),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return pairs,
            };
            let one = one.filter(|_| order.is_le()).inspect(|_| ours.step());
            let two = two.filter(|_| order.is_ge()).inspect(|_| theirs.step());
            let key = one.or(two).map(|(key, _)| key);
            pairs.extend(key.map(|key| (key, one.map(|(_, value)| value), two.map(|(_, value)| value))));
        }
    }

    /// The chunk in which `key` is or would be, and its place there, or the one that it would have.
    fn find(&self, key: &K) -> (usize, Result<usize, usize>) {
        // The last chunk that does not begin behind it.
        let begins = |chunk: &Arc<Vec<(K, V)>>| chunk.first().is_some_and(|(first, _)| first <= key);
        let chunk = self.chunks.partition_point(begins).saturating_sub(1);
        let place = |chunk: &Arc<Vec<(K, V)>>| chunk.binary_search_by(|(known, _)| known.cmp(key));
        (chunk, self.chunks.get(chunk).map_or(Err(0), place))
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, Arc<V>> {
    /// What `now` has otherwise, in order, with the values of this map and of that one.
    pub fn changes<'m>(&'m self, now: &'m Self) -> impl Iterator<Item = Pair<'m, K, Arc<V>>> {
        let is_same = |one: &Arc<V>, two: &Arc<V>| Arc::ptr_eq(one, two) || one == two;
        self.beside(now).into_iter().filter(move |(_, before, now)| match (before, now) {
            (Some(before), Some(now)) => !is_same(before, now),
            _ => true,
        })
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value in the place of the one that `key` has, and returns that one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, at) = self.find(&key);
        let Some(entries) = self.chunks.get_mut(chunk).map(Arc::make_mut) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        match at {
            Ok(at) => return Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => entries.insert(at, (key, value)),
        }
        self.len += 1;
        if entries.len() > MOST {
            let upper = entries.split_off(entries.len() / 2);
            self.chunks.insert(chunk + 1, Arc::new(upper));
        }
        None
    }

    /// Removes the entry of `key`, and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (chunk, at) = self.find(key);
        let at = at.ok()?;
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let (_, value) = entries.remove(at);
        self.len -= 1;
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else if self.chunks.get(chunk + 1).is_some_and(|next| next.len() + self.chunks[chunk].len() <= FEW)
        {
            // Or many small ones would be left where there were many entries.
            let next = self.chunks.remove(chunk + 1);
            Arc::make_mut(&mut self.chunks[chunk]).extend(next.iter().cloned());
        }
        Some(value)
    }

    /// The value of `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (chunk, at) = self.find(key);
        let at = at.ok()?;
        Some(&mut Arc::make_mut(&mut self.chunks[chunk])[at].1)
    }
}

/// A place in a map.
struct Cursor<'m, K, V> {
    chunks: &'m [Arc<Vec<(K, V)>>],
    /// In the first of them.
    at: usize,
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m SharedMap<K, V>) -> Self {
        Cursor { chunks: &map.chunks, at: 0 }
    }

    /// The chunk that begins here.
    fn chunk(&self) -> Option<&'m Arc<Vec<(K, V)>>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn next_chunk(&mut self) {
        (self.chunks, self.at) = (self.chunks.get(1..).unwrap_or_default(), 0);
    }

    fn entry(&self) -> Option<(&'m K, &'m V)> {
        self.chunks.first()?.get(self.at).map(|(key, value)| (key, value))
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| chunk.len() == self.at) {
            self.next_chunk();
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = SharedMap::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord, V> Index<&K> for SharedMap<K, V> {
    type Output = V;

    /// The value of a key that is there.
    ///
    /// # Panics
    /// If it is not there.
    fn index(&self, key: &K) -> &V {
        match self.get(key) {
            Some(value) => value,
            None => panic!("no entry of this key"),
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Most entries of a chunk: of some five thousand entries, about as many as there are chunks.
const MOST: usize = 64;

/// Two neighbours of no more entries become one.
const FEW: usize = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is done to a map. Keys are few, so that many meet.
    fn changes() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        vec((0u16..600, proptest::option::weighted(0.6, any::<u8>())), 0..1500)
    }

    type Plain = BTreeMap<u16, Arc<u8>>;

    fn apply(changes: &[(u16, Option<u8>)], map: &mut SharedMap<u16, Arc<u8>>, plain: &mut Plain) {
        for (key, value) in changes {
            match value.map(Arc::new) {
                Some(value) => assert_eq!(map.insert(*key, value.clone()), plain.insert(*key, value)),
                None => assert_eq!(map.remove(key), plain.remove(key)),
            }
        }
    }

    fn check(map: &SharedMap<u16, Arc<u8>>, plain: &Plain) {
        assert!(map.iter().eq(plain.iter()));
        assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
        assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MOST));
        for key in [0, 1, 299, 300, 599, 600] {
            assert_eq!(map.get(&key), plain.get(&key));
            assert!(map.from(&key).eq(plain.range(key..)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn it_is_a_sorted_map_and_its_copies_are_their_own(before in changes(), after in changes()) {
            let (mut map, mut plain) = (SharedMap::default(), BTreeMap::new());
            apply(&before, &mut map, &mut plain);
            let (copy, plain_copy) = (map.clone(), plain.clone());
            apply(&after, &mut map, &mut plain);
            check(&map, &plain);
            check(&copy, &plain_copy);
            for (one, two) in [(&map, &copy), (&copy, &map)] {
                let keys: std::collections::BTreeSet<_> = one.keys().chain(two.keys()).collect();
                let expected = keys.into_iter().map(|key| (key, one.get(key), two.get(key)));
                prop_assert!(one.changes(two).eq(expected.filter(|(_, one, two)| one != two)));
            }
        }
    }

    #[test]
    fn a_change_leaves_the_rest_shared() {
        let (zero, one) = (Arc::new(0), Arc::new(1));
        let map: SharedMap<u32, Arc<u32>> = (0..5000).map(|number| (number, zero.clone())).collect();
        let mut copy = map.clone();
        copy.insert(2500, one.clone());
        copy.remove(&10);
        copy.insert(5000, one.clone());
        let looked_at = map.beside(&copy).len();
        assert!(looked_at <= 3 * MOST + 1, "{looked_at} entries are looked at");
        let (zero, one) = (Some(&zero), Some(&one));
        let expected = [(&10, zero, None), (&2500, zero, one), (&5000, None, one)];
        assert!(map.changes(&copy).eq(expected));
        assert!(map.beside(&map.clone()).is_empty());
    }
}
