//! What the components of each tenant remember.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest key, in bytes.
pub(crate) const LONGEST_KEY: usize = 1024;
/// Most keys that are told of at once.
const MOST_TOLD: usize = 1000;
/// What a key takes beside its bytes and those of its value. About so, and it keeps empty ones from being free.
const ENTRY: u64 = 128;

/// Keys and values, of each tenant apart.
pub(crate) struct Keys {
    quota: u64,
    tenants: Mutex<HashMap<String, Space>>,
}

#[derive(Default)]
struct Space {
    bytes: u64,
    values: BTreeMap<String, Vec<u8>>,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// There would be more bytes than these.
    NoRoom(u64),
    LongKey,
}

impl Keys {
    /// For tenants of which each has so many bytes.
    pub(crate) fn new(quota: u64) -> Self {
        Keys { quota, tenants: Mutex::default() }
    }

    pub(crate) fn get(&self, tenant: &str, key: &str) -> Option<Vec<u8>> {
        self.tenants().get(tenant)?.values.get(key).cloned()
    }

    pub(crate) fn set(&self, tenant: &str, key: String, value: Vec<u8>) -> Result<(), NotKept> {
        if key.len() > LONGEST_KEY {
            return Err(NotKept::LongKey);
        }
        let mut tenants = self.tenants();
        let space = tenants.entry(tenant.to_owned()).or_default();
        let before = space.values.get(&key).map_or(0, |value| size(&key, value));
        let bytes = space.bytes - before + size(&key, &value);
        if bytes > self.quota {
            return Err(NotKept::NoRoom(self.quota));
        }
        space.bytes = bytes;
        space.values.insert(key, value);
        Ok(())
    }

    /// Whether it was there.
    pub(crate) fn delete(&self, tenant: &str, key: &str) -> bool {
        let mut tenants = self.tenants();
        let Some(space) = tenants.get_mut(tenant) else { return false };
        let Some(value) = space.values.remove(key) else { return false };
        space.bytes -= size(key, &value);
        true
    }

    pub(crate) fn list(&self, tenant: &str, prefix: &str, after: &str) -> Vec<String> {
        let tenants = self.tenants();
        let Some(space) = tenants.get(tenant) else { return Vec::new() };
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let keys = space.values.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).take(MOST_TOLD).cloned().collect()
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, Space>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(key: &str, value: &[u8]) -> u64 {
    ENTRY + key.len() as u64 + value.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_its_own_keys_and_room() {
        let keys = Keys::new(3 * ENTRY + 10);
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
        assert!(keys.delete("a", "l") && !keys.delete("a", "l") && !keys.delete("c", "l"));
        assert_eq!(keys.set("a", "x".repeat(LONGEST_KEY + 1), Vec::new()), Err(NotKept::LongKey));
        assert_eq!(keys.list("a", "", ""), ["k", "m"]);
    }

    #[test]
    fn keys_are_told_in_order_and_in_parts() {
        let keys = Keys::new(1 << 20);
        for number in 0..1500 {
            keys.set("a", format!("n/{number:04}"), Vec::new()).expect("there is room");
        }
        keys.set("a", "o".into(), Vec::new()).expect("there is room");
        let first = keys.list("a", "n/", "");
        assert_eq!((first.len(), first[0].as_str()), (1000, "n/0000"));
        let second = keys.list("a", "n/", first.last().expect("a thousand"));
        assert_eq!((second.len(), second[499].as_str()), (500, "n/1499"));
    }
}
