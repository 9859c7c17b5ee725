//! Latencies in narrow buckets, for those who have to tell a tenth more from a tenth less.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::nanos;

/// Latencies as they come, on whatever thread. Only what is watched has them.
pub(crate) struct Latencies(Box<[AtomicU64]>);

/// How many latencies there are of which length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    counts: Box<[u64]>,
    all: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Latencies {
    /// One more.
    #[inline]
    pub(crate) fn record(&self, latency: Duration) {
        if let Some(count) = self.0.get(bucket(nanos(latency))) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// All of them so far.
    pub(crate) fn read(&self) -> Counted {
        let counts: Box<[u64]> = self.0.iter().map(|count| count.load(Relaxed)).collect();
        let all = counts.iter().sum();
        Counted { counts, all }
    }
}

impl Default for Counted {
    fn default() -> Self {
        Counted { counts: vec![0; BUCKETS].into(), all: 0 }
    }
}

impl Counted {
    /// One more.
    #[cfg(test)]
    pub(crate) fn record(&mut self, latency: Duration) {
        self.counts[bucket(nanos(latency))] += 1;
        self.all += 1;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.all
    }

    /// Those that came after `before` was read.
    pub(crate) fn since(&self, before: &Counted) -> Counted {
        let since = |(now, before): (&u64, &u64)| now.saturating_sub(*before);
        let counts: Box<[u64]> = self.counts.iter().zip(&before.counts).map(since).collect();
        let all = counts.iter().sum();
        Counted { counts, all }
    }

    /// These and those.
    pub(crate) fn add(&mut self, those: &Counted) {
        self.counts.iter_mut().zip(&those.counts).for_each(|(own, more)| *own += more);
        self.all += those.all;
    }

    /// The latency that so many of a hundred do not exceed, within a sixty-fourth above the truth. None: there is none.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.all * percent).div_ceil(100).max(1);
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_nanos(end(at)))
    }

    /// How many are longer than `limit`, as far as buckets tell: never too many.
    pub(crate) fn longer_than(&self, limit: Duration) -> u64 {
        let first = bucket(nanos(limit)).saturating_add(1);
        self.counts.get(first..).map_or(0, |longer| longer.iter().sum())
    }
}

/// Two to this is the number of buckets of a power of two.
const FINE: u32 = 6;
/// Two to this, in nanoseconds, is what the first bucket ends with: a microsecond.
const FIRST: u32 = 10;
/// Powers of two: the last one ends with a minute, and has whatever is longer.
const POWERS: usize = 26;
const BUCKETS: usize = 1 + (POWERS << FINE);

/// Which bucket so many nanoseconds are in.
#[inline]
fn bucket(nanos: u64) -> usize {
    if nanos < 1 << FIRST {
        return 0;
    }
    let power = 63 - nanos.leading_zeros();
    let within = (nanos >> (power - FINE)) as usize & ((1 << FINE) - 1);
    (1 + (((power - FIRST) as usize) << FINE) + within).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds.
fn end(bucket: usize) -> u64 {
    let Some(at) = bucket.checked_sub(1) else { return 1 << FIRST };
    let (power, within) = ((at >> FINE) as u32 + FIRST, (at & ((1 << FINE) - 1)) as u64);
    ((1 << FINE) + within + 1) << (power - FINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_in_a_bucket_that_ends_a_sixty_fourth_above_it_at_most() {
        let mut nanos = 1;
        while nanos < 60_000_000_000 {
            let end = end(bucket(nanos));
            assert!(end > nanos || nanos < 1 << FIRST, "{nanos} in a bucket up to {end}");
            assert!(end <= (nanos + nanos / 64 + 1).max(1 << FIRST), "{nanos} in a bucket up to {end}");
            nanos += 1 + nanos / 100;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|at| bucket(end(at - 1)) == at));
    }

    #[test]
    fn a_percentile_and_what_is_longer_say_the_same() {
        let latencies = Latencies::default();
        let before = latencies.read();
        assert_eq!((before.percentile(99), before.len()), (None, 0));
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let counted = latencies.read().since(&before);
        let p99 = counted.percentile(99).unwrap();
        assert!((990.0..=1006.0).contains(&(p99.as_secs_f64() * 1e3)), "{p99:?}");
        assert!(counted.longer_than(p99) <= 10);
        let longer = counted.longer_than(Duration::from_millis(500));
        assert!((492..=500).contains(&longer), "{longer}");
        let mut twice = counted.clone();
        twice.add(&counted);
        assert_eq!((twice.len(), twice.percentile(99)), (2000, Some(p99)));
        assert_eq!(twice.since(&counted), counted);
    }
}
