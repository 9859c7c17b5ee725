//! Things that are counted, by key: the same one for the same key as long as it is in use.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a series that nothing holds any more is still shown, so that the last scrapes see its end and a route that
/// comes back goes on counting where it was. In milliseconds.
static IDLE: AtomicU64 = AtomicU64::new(600_000);

/// How many were removed.
static EXPIRED: AtomicU64 = AtomicU64::new(0);

/// From now on, a series that nothing holds is shown for so long.
pub(super) fn expire_after(idle: Duration) {
    IDLE.store(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), Relaxed);
}

/// How many series were removed as nothing held them any more.
pub(super) fn expired() -> u64 {
    EXPIRED.load(Relaxed)
}

fn idle() -> Duration {
    Duration::from_millis(IDLE.load(Relaxed))
}

/// Shared values by key. What nobody holds is removed once it was unheld for as long as [`expire_after`] says.
pub(super) struct Table<K, T> {
    inner: Mutex<Inner<K, T>>,
}

struct Inner<K, T> {
    entries: HashMap<K, Entry<T>>,
    swept: Option<Instant>,
}

struct Entry<T> {
    value: Arc<T>,
    unheld_since: Option<Instant>,
    keep: bool,
}

impl<K: Eq + Hash, T> Table<K, T> {
    /// The value of `key`, made if there is none.
    pub(super) fn of(&self, key: K, now: Instant, make: impl FnOnce(&K) -> T) -> Arc<T> {
        self.entry(key, now, false, make)
    }

    /// The same, but it is never removed.
    pub(super) fn keep(&self, key: K, now: Instant, make: impl FnOnce(&K) -> T) -> Arc<T> {
        self.entry(key, now, true, make)
    }

    /// Every value, in no order. The table is locked meanwhile.
    pub(super) fn each(&self, mut see: impl FnMut(&K, &Arc<T>)) {
        for (key, entry) in &self.lock().entries {
            see(key, &entry.value);
        }
    }

    /// Removes what nobody has held for too long by `now`.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().sweep(now);
    }

    fn entry(&self, key: K, now: Instant, keep: bool, make: impl FnOnce(&K) -> T) -> Arc<T> {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get_mut(&key) {
            entry.unheld_since = None;
            return entry.value.clone();
        }
        // Where nobody scrapes, growth itself has to make room.
        if inner.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= idle() / 10) {
            inner.sweep(now);
        }
        let value = Arc::new(make(&key));
        inner.entries.insert(key, Entry { value: value.clone(), unheld_since: None, keep });
        value
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, T>> {
        // Each change of the map is one call, so a panic elsewhere leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Table { inner: Mutex::new(Inner { entries: HashMap::new(), swept: None }) }
    }
}

impl<K: Eq + Hash, T> Inner<K, T> {
    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        let (idle, before) = (idle(), self.entries.len());
        self.entries.retain(|_, entry| {
            // Nobody can begin to hold it meanwhile: a first clone is made under this lock.
            if entry.keep || Arc::strong_count(&entry.value) > 1 {
                entry.unheld_since = None;
                return true;
            }
            let since = *entry.unheld_since.get_or_insert(now);
            now.saturating_duration_since(since) < idle
        });
        EXPIRED.fetch_add((before - self.entries.len()) as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test says another time, as all of them share it.
    const IDLE: Duration = Duration::from_secs(600);

    #[test]
    fn a_series_outlives_its_route_for_a_while_and_then_goes() {
        let table = Table::<&str, u32>::default();
        let start = Instant::now();
        let count = || {
            let mut count = 0;
            table.each(|_, _| count += 1);
            count
        };
        let held = table.of("held", start, |_| 1);
        drop(table.of("gone", start, |_| 2));
        drop(table.keep("kept", start, |_| 3));
        table.sweep(start);
        table.sweep(start + IDLE - Duration::from_secs(1));
        assert_eq!(count(), 3);
        table.sweep(start + IDLE);
        assert_eq!(count(), 2);
        assert!(Arc::ptr_eq(&held, &table.of("held", start, |_| 9)));
        assert_eq!(*table.of("gone", start, |_| 9), 9);
        assert_eq!(*table.of("kept", start, |_| 9), 3);
    }

    #[test]
    fn a_series_that_comes_back_in_time_goes_on() {
        let table = Table::<u8, u32>::default();
        let start = Instant::now();
        let first = table.of(0, start, |_| 1);
        let weak = Arc::downgrade(&first);
        drop(first);
        table.sweep(start);
        let again = table.of(0, start + IDLE / 2, |_| 2);
        assert!(weak.ptr_eq(&Arc::downgrade(&again)));
        drop(again);
        // Its time begins anew.
        table.sweep(start + IDLE);
        assert!(weak.upgrade().is_some());
    }

    #[test]
    fn routes_that_change_at_every_reload_do_not_pile_up_without_a_scrape() {
        let table = Table::<u64, u64>::default();
        let start = Instant::now();
        for second in 0..5000 {
            drop(table.of(second, start + Duration::from_secs(second), |key| *key));
        }
        let mut count = 0;
        table.each(|_, _| count += 1);
        assert!(count <= 800, "{count} entries");
    }
}
