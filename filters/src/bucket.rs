//! Token buckets, shared by threads without a lock.
//!
//! A bucket is one number: the time at which it would be full again if nobody took anything more (the generic cell rate
//! algorithm). A request moves it on by the time that one token takes to come, unless it would then be further away than a
//! whole bucket takes.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lighter_config::snapshot::filter::{Per, RateLimit};

/// The buckets of one limit: one, or one for each key.
pub struct Buckets {
    rate: Rate,
    /// Times are counted from here.
    base: Instant,
    kept: Kept,
}

enum Kept {
    One(Bucket),
    /// Sets of [`WAYS`] places. A key has its place in one of them.
    Many(Box<[Set]>, RandomState),
}

#[derive(Default)]
struct Bucket(AtomicU64);

#[derive(Default)]
struct Set {
    places: [Place; WAYS],
}

#[derive(Default)]
struct Place {
    /// The hash of its key; 0: free. Two keys of one hash share a bucket: that is as likely as guessing 64 bits that nobody
    /// outside knows.
    key: AtomicU64,
    bucket: Bucket,
}

/// How fast a bucket is filled, in nanoseconds.
#[derive(Clone, Copy)]
struct Rate {
    /// For one token.
    token: u64,
    /// For a whole bucket.
    whole: u64,
}

impl Buckets {
    /// Full buckets for `limit`. `base`: no request is older.
    pub fn new(limit: &RateLimit, base: Instant) -> Self {
        let interval = u64::try_from(limit.interval.as_nanos()).unwrap_or(u64::MAX);
        let token = (interval / u64::from(limit.requests)).max(1);
        let rate = Rate { token, whole: token.saturating_mul(limit.burst.into()) };
        let kept = match limit.per {
            Per::All => Kept::One(Bucket::default()),
            _ => {
                let sets = (limit.max_keys as usize).div_ceil(WAYS);
                Kept::Many((0..sets).map(|_| Set::default()).collect(), RandomState::new())
            }
        };
        Buckets { rate, base, kept }
    }

    /// Takes a token of the bucket of `key`. None is left: how long until there is one.
    ///
    /// Where there are more keys than places, the one whose bucket is fullest loses its place. A bucket that is full is as
    /// good as a new one, so that is a loss only if all others in its set were emptied meanwhile.
    pub fn take(&self, key: &[u8], now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.base).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        match &self.kept {
            Kept::One(bucket) => bucket.take(self.rate, now),
            Kept::Many(sets, hasher) => {
                let hash = hasher.hash_one(key).max(1);
                // The upper half of the product, which is below the number of sets.
                let at = ((u128::from(hash) * sets.len() as u128) >> 64) as usize;
                match sets.get(at) {
                    Some(set) => set.of(hash).take(self.rate, now),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Bucket {
    fn take(&self, Rate { token, whole }: Rate, now: u64) -> Result<(), Duration> {
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let next = full.max(now).saturating_add(token);
            let after = next - now;
            if after > whole {
                return Err(Duration::from_nanos(after - whole));
            }
            // Nothing else is read by what this says.
            match self.0.compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(found) => full = found,
            }
        }
    }
}

impl Set {
    /// The bucket of the key with this hash. Of two threads that bring a new key at one moment, each may take a place for it:
    /// the second is found no more, and is the first to be given away.
    fn of(&self, hash: u64) -> &Bucket {
        let known = self.places.iter().find(|place| place.key.load(Ordering::Relaxed) == hash);
        if let Some(place) = known {
            return &place.bucket;
        }
        let fullest = |place: &&Place| place.bucket.0.load(Ordering::Relaxed);
        let place = self.places.iter().min_by_key(fullest).unwrap_or(&self.places[0]);
        place.key.store(hash, Ordering::Relaxed);
        place.bucket.0.store(0, Ordering::Relaxed);
        &place.bucket
    }
}

/// Places of a set.
const WAYS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, burst: u32, per: Per, max_keys: u32) -> RateLimit {
        RateLimit { requests, interval: Duration::from_secs(1), burst, per, max_keys }
    }

    fn taken(buckets: &Buckets, key: &str, now: Instant, tries: u32) -> usize {
        (0..tries).filter(|_| buckets.take(key.as_bytes(), now).is_ok()).count()
    }

    #[test]
    fn a_rested_bucket_lets_a_burst_pass_and_then_the_rate() {
        let base = Instant::now();
        let buckets = Buckets::new(&limit(10, 3, Per::All, 1), base);
        assert_eq!(taken(&buckets, "", base, 20), 3);
        assert_eq!(buckets.take(b"", base), Err(Duration::from_millis(100)));
        let mut passed = 0;
        for millis in 1..=1000 {
            passed += taken(&buckets, "", base + Duration::from_millis(millis), 1);
        }
        assert_eq!(passed, 10);
        // However long the rest, no more than a burst is saved.
        assert_eq!(taken(&buckets, "", base + Duration::from_secs(3600), 20), 3);
    }

    #[test]
    fn each_key_has_its_own() {
        let base = Instant::now();
        let buckets = Buckets::new(&limit(2, 2, Per::Identity, 64), base);
        for key in ["a", "b", "c"] {
            assert_eq!(taken(&buckets, key, base, 5), 2, "{key}");
        }
        assert_eq!(taken(&buckets, "a", base + Duration::from_millis(500), 5), 1);
    }

    #[test]
    fn keys_are_bounded_and_the_one_that_rested_longest_goes() {
        let base = Instant::now();
        let buckets = Buckets::new(&limit(1, 1, Per::Identity, 8), base);
        for number in 0..8u64 {
            let key = format!("{number}");
            assert_eq!(taken(&buckets, &key, base + Duration::from_millis(number), 2), 1);
        }
        // A ninth takes the place of the first, which is as new again; the others stay as they are.
        let now = base + Duration::from_millis(10);
        assert_eq!(taken(&buckets, "new", now, 2), 1);
        assert_eq!(taken(&buckets, "7", now, 2), 0);
        assert_eq!(taken(&buckets, "0", now, 2), 1);
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let base = Instant::now();
        let buckets = Buckets::new(&limit(1, 1000, Per::All, 1), base);
        let total: usize = std::thread::scope(|scope| {
            let taker = || scope.spawn(|| taken(&buckets, "", base, 1000));
            let all: Vec<_> = (0..4).map(|_| taker()).collect();
            all.into_iter().map(|one| one.join().unwrap_or_default()).sum()
        });
        assert_eq!(total, 1000);
    }
}
