//! Keys and values that functions remember from one run to the next, of each tenant apart, and how they move.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::contents::{At, Contents, Entries, NotGiven, NotReplaced};
use crate::status::{Fault, Status};

/// The longest key, in bytes.
pub const LONGEST_KEY: usize = 1024;
/// Most keys that are told of at once.
const MOST_TOLD: usize = 1000;
/// What a key takes beside its bytes and those of its value. About so, and it keeps empty ones from being free.
const ENTRY: u64 = 128;
/// Of so many keys that are gone it is known when they went.
const MOST_GONE: usize = 1024;

/// Keys and values, of each tenant apart.
pub struct Keys {
    quota: u64,
    /// The version at which those of each tenant begin.
    first: u64,
    tenants: Mutex<HashMap<String, Space>>,
}

/// Those of one tenant.
struct Space {
    bytes: u64,
    values: BTreeMap<String, Value>,
    is_frozen: bool,
    /// It grows with each change.
    version: u64,
    /// Keys that went, by the version at which they did.
    gone: BTreeMap<u64, String>,
    /// What has changed since an earlier version nobody knows.
    known_since: u64,
}

struct Value {
    bytes: Vec<u8>,
    /// When it was put there.
    version: u64,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// There would be more bytes than these.
    NoRoom(u64),
    /// A key is longer than [`LONGEST_KEY`].
    LongKey,
    /// Nothing changes them now.
    Frozen,
}

/// Nothing changes them now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen;

impl From<Frozen> for Fault {
    fn from(Frozen: Frozen) -> Self {
        let why = "what its tenant remembers moves to another device, or has";
        Fault::new(Status::DeviceNotAvailable, why)
    }
}

/// Greater than any version of keys and values in an earlier life, as long as the clock goes forward.
pub fn first_version() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}

impl Keys {
    /// For tenants of which each has so many bytes. `first`: greater than any version in an earlier life.
    pub fn new(quota: u64, first: u64) -> Self {
        Keys { quota, first, tenants: Mutex::default() }
    }

    /// How many bytes each tenant has.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// The value under a key.
    pub fn get(&self, tenant: &str, key: &str) -> Option<Vec<u8>> {
        Some(self.tenants().get(tenant)?.values.get(key)?.bytes.clone())
    }

    /// Puts a value under a key.
    pub fn set(&self, tenant: &str, key: String, value: Vec<u8>) -> Result<(), NotKept> {
        self.with(tenant, |space| space.set(key, value, self.quota))
    }

    /// Sets it if what is there is `before`. Whether it was.
    pub fn swap(
        &self,
        tenant: &str,
        key: String,
        before: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<bool, NotKept> {
        self.with(tenant, |space| {
            if space.values.get(&key).map(|value| &*value.bytes) != before {
                // Who is told so looks again: it is to end where it could not be done then either.
                return if space.is_frozen { Err(NotKept::Frozen) } else { Ok(false) };
            }
            space.set(key, value, self.quota).map(|()| true)
        })
    }

    /// Whether it was there.
    pub fn delete(&self, tenant: &str, key: &str) -> Result<bool, Frozen> {
        self.with(tenant, |space| {
            if space.is_frozen {
                return Err(Frozen);
            }
            Ok(space.remove(key))
        })
    }

    /// At most a thousand keys that begin so and come after `after`, in order.
    pub fn list(&self, tenant: &str, prefix: &str, after: &str) -> Vec<String> {
        let tenants = self.tenants();
        let Some(space) = tenants.get(tenant) else { return Vec::new() };
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let keys = space.values.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).take(MOST_TOLD).cloned().collect()
    }

    /// All that a tenant has, for the program of this digest.
    pub fn read(&self, tenant: &str, digest: [u8; 32]) -> At {
        self.with(tenant, |space| {
            let entries = space.values.iter().map(|(key, value)| (&**key, Some(&*value.bytes)));
            let all = Entries { are_changes: false, digest, entries: entries.collect() };
            At { version: space.version, bytes: all.write() }
        })
    }

    /// What of it has changed since then, if that is known.
    pub fn changes(&self, tenant: &str, digest: [u8; 32], since: u64) -> Option<At> {
        self.with(tenant, |space| {
            if !(space.known_since..=space.version).contains(&since) {
                return None;
            }
            let gone = space.gone.range(since.saturating_add(1)..).map(|(_, key)| (&**key, None));
            let mut changed: BTreeMap<&str, Option<&[u8]>> = gone.collect();
            let put = space.values.iter().filter(|(_, value)| value.version > since);
            changed.extend(put.map(|(key, value)| (&**key, Some(&*value.bytes))));
            let changes = Entries { are_changes: true, digest, entries: changed.into_iter().collect() };
            Some(At { version: space.version, bytes: changes.write() })
        })
    }

    /// Puts these in the place of all that a tenant has, or what has changed into it, frozen or not.
    pub fn replace(&self, tenant: &str, with: &Entries<'_>) -> Result<(), NotReplaced> {
        if with.entries.iter().any(|(key, _)| key.len() > LONGEST_KEY) {
            return Err(NotReplaced::LongKey(LONGEST_KEY));
        }
        self.with(tenant, |space| {
            let added = with.entries.iter().filter_map(|(key, value)| Some(size(key, (*value)?)));
            let added: u64 = added.sum();
            let stays = if with.are_changes {
                let replaced = with
                    .entries
                    .iter()
                    .filter_map(|(key, _)| Some(size(key, &space.values.get(*key)?.bytes)));
                space.bytes - replaced.sum::<u64>()
            } else {
                0
            };
            if stays.saturating_add(added) > self.quota {
                return Err(NotReplaced::NoRoom(self.quota));
            }
            if !with.are_changes {
                space.values.clear();
                space.gone.clear();
                space.version += 1;
                space.known_since = space.version;
            }
            for (key, value) in &with.entries {
                match value {
                    Some(value) => space.put((*key).to_owned(), value.to_vec()),
                    None => drop(space.remove(key)),
                }
            }
            space.bytes = stays + added;
            Ok(())
        })
    }

    /// From now on nothing but [`Keys::replace`] changes what a tenant has, or that ends.
    pub fn freeze(&self, tenant: &str, is_frozen: bool) {
        self.with(tenant, |space| space.is_frozen = is_frozen);
    }

    /// All that a tenant has, as it moves with the program of this digest.
    pub fn contents(self: &Arc<Self>, tenant: Arc<str>, digest: [u8; 32]) -> Arc<dyn Contents> {
        Arc::new(OfTenant { tenant, keys: self.clone(), told: digits(&digest), digest })
    }

    fn with<T>(&self, tenant: &str, what: impl FnOnce(&mut Space) -> T) -> T {
        let mut tenants = self.tenants();
        if let Some(space) = tenants.get_mut(tenant) {
            return what(space);
        }
        what(tenants.entry(tenant.to_owned()).or_insert(Space::new(self.first)))
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, Space>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn new(version: u64) -> Self {
        Space {
            bytes: 0,
            values: BTreeMap::new(),
            is_frozen: false,
            version,
            gone: BTreeMap::new(),
            known_since: version,
        }
    }

    fn set(&mut self, key: String, value: Vec<u8>, quota: u64) -> Result<(), NotKept> {
        if self.is_frozen {
            return Err(NotKept::Frozen);
        }
        if key.len() > LONGEST_KEY {
            return Err(NotKept::LongKey);
        }
        let before = self.values.get(&key).map_or(0, |value| size(&key, &value.bytes));
        let bytes = self.bytes - before + size(&key, &value);
        if bytes > quota {
            return Err(NotKept::NoRoom(quota));
        }
        self.bytes = bytes;
        self.put(key, value);
        Ok(())
    }

    /// How many bytes there are is the caller's affair.
    fn put(&mut self, key: String, bytes: Vec<u8>) {
        self.version += 1;
        self.values.insert(key, Value { bytes, version: self.version });
    }

    /// Whether it was there.
    fn remove(&mut self, key: &str) -> bool {
        let Some((key, value)) = self.values.remove_entry(key) else { return false };
        self.bytes -= size(&key, &value.bytes);
        self.version += 1;
        self.gone.insert(self.version, key);
        if self.gone.len() > MOST_GONE
            && let Some((version, _)) = self.gone.pop_first()
        {
            self.known_since = version;
        }
        true
    }
}

fn size(key: &str, value: &[u8]) -> u64 {
    ENTRY + key.len() as u64 + value.len() as u64
}

/// What a function remembers, which is what all of its tenant do.
struct OfTenant {
    tenant: Arc<str>,
    keys: Arc<Keys>,
    /// The digest as it is told.
    told: String,
    digest: [u8; 32],
}

impl Contents for OfTenant {
    fn digest(&self) -> &str {
        &self.told
    }

    fn most_bytes(&self) -> u64 {
        // An entry takes fewer bytes as it moves than what is counted of it; what is gone takes some as well.
        self.keys.quota().saturating_add(MOST_BESIDE)
    }

    fn read(&self) -> Result<At, NotGiven> {
        Ok(self.keys.read(&self.tenant, self.digest))
    }

    fn changes(&self, since: u64) -> Result<Option<At>, NotGiven> {
        Ok(self.keys.changes(&self.tenant, self.digest, since))
    }

    fn replace(&self, with: &[u8], _: &dyn Fn() -> bool) -> Result<(), NotReplaced> {
        let entries = Entries::parse(with)?;
        if entries.digest != self.digest {
            let (theirs, ours) = (digits(&entries.digest), self.told.clone());
            return Err(NotReplaced::OtherProgram { theirs, ours });
        }
        self.keys.replace(&self.tenant, &entries)
    }

    fn freeze(&self, is_frozen: bool, _: &dyn Fn() -> bool) {
        self.keys.freeze(&self.tenant, is_frozen);
    }
}

/// What moves beside entries that are there, in bytes.
pub const MOST_BESIDE: u64 = 2 << 20;

/// A digest in hexadecimal.
pub fn digits(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_its_own_keys_and_room() {
        let keys = Keys::new(3 * ENTRY + 10, 0);
        assert_eq!(keys.set("a", "k".into(), vec![1]), Ok(()));
        assert_eq!(keys.set("b", "k".into(), vec![2]), Ok(()));
        assert_eq!(
            (keys.get("a", "k"), keys.get("b", "k"), keys.get("c", "k")),
            (Some(vec![1]), Some(vec![2]), None)
        );
        assert_eq!(keys.set("a", "l".into(), vec![0; 20]), Ok(()));
        assert_eq!(keys.set("a", "m".into(), vec![0; 200]), Err(NotKept::NoRoom(3 * ENTRY + 10)));
        assert_eq!(keys.set("a", "l".into(), vec![0; 1]), Ok(()), "what is replaced leaves its room");
        assert_eq!(keys.set("a", "m".into(), Vec::new()), Ok(()));
        assert_eq!(keys.set("b", "m".into(), vec![0; 9]), Ok(()), "the room of others is theirs");
        let gone = [("a", "l"), ("a", "l"), ("c", "l")].map(|(tenant, key)| keys.delete(tenant, key));
        assert_eq!(gone, [Ok(true), Ok(false), Ok(false)]);
        assert_eq!(keys.set("a", "x".repeat(LONGEST_KEY + 1), Vec::new()), Err(NotKept::LongKey));
        assert_eq!(keys.list("a", "", ""), ["k", "m"]);
    }

    #[test]
    fn keys_are_told_in_order_and_in_parts() {
        let keys = Keys::new(1 << 20, 0);
        for number in 0..1500 {
            keys.set("a", format!("n/{number:04}"), Vec::new()).expect("there is room");
        }
        keys.set("a", "o".into(), Vec::new()).expect("there is room");
        let first = keys.list("a", "n/", "");
        assert_eq!((first.len(), first[0].as_str()), (1000, "n/0000"));
        let second = keys.list("a", "n/", first.last().expect("a thousand"));
        assert_eq!((second.len(), second[499].as_str()), (500, "n/1499"));
    }

    /// Keys and values as they move, with a digest of no program.
    fn moving(are_changes: bool, entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
        Entries { are_changes, digest: [0; 32], entries: entries.to_vec() }.write()
    }

    fn replace(keys: &Keys, tenant: &str, bytes: &[u8]) -> Result<(), NotReplaced> {
        keys.replace(tenant, &Entries::parse(bytes)?)
    }

    #[test]
    fn what_a_tenant_has_moves_as_a_whole_or_not_at_all() {
        let (from, to) = (Keys::new(1 << 20, 100), Keys::new(3 * ENTRY + 10, 7));
        for (key, value) in [("b", 2), ("a", 1), ("c", 3)] {
            from.set("t", key.into(), vec![value]).expect("there is room");
        }
        from.set("other", "x".into(), vec![9]).expect("there is room");
        let all = from.read("t", [0; 32]);
        let expected = [("a", Some(&[1][..])), ("b", Some(&[2])), ("c", Some(&[3]))];
        assert_eq!(
            (all.version, &all.bytes),
            (103, &moving(false, &expected)),
            "in order, and of one tenant"
        );
        to.set("t", "old".into(), vec![0]).expect("there is room");
        to.set("other", "x".into(), vec![8]).expect("there is room");
        assert_eq!(replace(&to, "t", &all.bytes), Ok(()));
        assert_eq!(to.read("t", [0; 32]).bytes, all.bytes, "the same bytes");
        assert_eq!(to.get("other", "x"), Some(vec![8]));
        // What is too much changes nothing.
        from.set("t", "d".into(), vec![0; 10]).expect("there is room");
        let no_room = Err(NotReplaced::NoRoom(3 * ENTRY + 10));
        assert_eq!(replace(&to, "t", &from.read("t", [0; 32]).bytes), no_room);
        let long = "x".repeat(LONGEST_KEY + 1);
        let too_long = moving(false, &[(&long, Some(&[]))]);
        assert_eq!(replace(&to, "t", &too_long), Err(NotReplaced::LongKey(LONGEST_KEY)));
        assert_eq!(to.read("t", [0; 32]).bytes, all.bytes);
        // And what is taken is counted.
        assert_eq!(to.set("t", "a".into(), vec![0; 9]), Err(NotKept::NoRoom(3 * ENTRY + 10)));
        assert_eq!(to.set("t", "a".into(), vec![0; 5]), Ok(()));
    }

    #[test]
    fn what_is_frozen_is_changed_by_nobody_but_a_move() {
        let keys = Keys::new(1 << 20, 0);
        keys.set("t", "a".into(), vec![1]).expect("there is room");
        keys.freeze("t", true);
        assert_eq!(keys.set("t", "a".into(), vec![2]), Err(NotKept::Frozen));
        assert_eq!(keys.swap("t", "a".into(), Some(&[1]), vec![2]), Err(NotKept::Frozen));
        assert_eq!(keys.swap("t", "a".into(), None, vec![2]), Err(NotKept::Frozen));
        assert_eq!((keys.delete("t", "a"), keys.delete("t", "b")), (Err(Frozen), Err(Frozen)));
        assert_eq!(keys.get("t", "a"), Some(vec![1]), "it can be read");
        assert_eq!(keys.set("other", "a".into(), vec![2]), Ok(()));
        assert_eq!(replace(&keys, "t", &moving(false, &[("a", Some(&[3]))])), Ok(()));
        assert_eq!(keys.set("t", "a".into(), vec![2]), Err(NotKept::Frozen));
        keys.freeze("t", false);
        assert_eq!(keys.swap("t", "a".into(), Some(&[3]), vec![4]), Ok(true));
        assert_eq!(keys.swap("t", "a".into(), Some(&[3]), vec![5]), Ok(false));
        assert_eq!(keys.swap("t", "b".into(), None, vec![6]), Ok(true));
        assert_eq!((keys.get("t", "a"), keys.get("t", "b")), (Some(vec![4]), Some(vec![6])));
    }

    #[test]
    fn what_has_changed_since_brings_another_copy_to_the_same() {
        let (keys, copy) = (Keys::new(1 << 20, 50), Keys::new(1 << 20, 900));
        let mut random = 1_u64;
        let mut change = |keys: &Keys| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (key, value) = (format!("k{}", (random >> 40) % 20), vec![(random >> 50) as u8]);
            match (random >> 33) % 3 {
                0 => drop(keys.delete("t", &key)),
                _ => drop(keys.set("t", key, value)),
            }
        };
        assert_eq!(keys.changes("t", [0; 32], 49), None, "that was in another life");
        assert_eq!(keys.changes("t", [0; 32], 51), None, "that is still to come");
        (0..100).for_each(|_| change(&keys));
        let At { mut version, bytes } = keys.read("t", [0; 32]);
        replace(&copy, "t", &bytes).expect("there is room");
        for count in 0..50 {
            (0..count).for_each(|_| change(&keys));
            let At { version: now, bytes } = keys.changes("t", [0; 32], version).expect("it is known");
            replace(&copy, "t", &bytes).expect("there is room");
            version = now;
            assert_eq!(copy.read("t", [0; 32]).bytes, keys.read("t", [0; 32]).bytes);
        }
        // Of what went long ago nobody knows when, and what was replaced has no past.
        for _ in 0..=MOST_GONE {
            keys.set("t", "gone".into(), Vec::new()).expect("there is room");
            keys.delete("t", "gone").expect("it is not frozen");
        }
        assert_eq!(keys.changes("t", [0; 32], version), None);
        let before = copy.read("t", [0; 32]).version;
        replace(&copy, "t", &bytes).expect("there is room");
        assert_eq!(copy.changes("t", [0; 32], before), None);
    }
}
