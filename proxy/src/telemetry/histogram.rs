//! Histograms with fixed buckets: five steps to a power of ten, so that a quantile read off them is within a third of
//! the truth, and the round numbers that objectives are made of are bounds.

use std::time::Duration;

use super::shards::{Cells, Shard};

/// Upper bounds of buckets, and how to find one quickly.
pub struct Buckets {
    /// Inclusive upper bounds, rising. A value above the last one is in a bucket of its own.
    pub bounds: &'static [u64],
    /// The first bound that a value of so many bits can be below.
    starts: [u8; 65],
    /// How many of the values make one base unit: 10⁹ where nanoseconds are counted and seconds are shown.
    pub per_unit: u64,
}

/// Durations, counted in nanoseconds and shown in seconds: 10 µs to 60 s.
pub static SECONDS: Buckets = Buckets::new(&NANOS, 1_000_000_000);

/// Sizes in bytes: 64 B to 1 GiB, by fours.
pub static BYTES: Buckets = Buckets::new(&SIZES, 1);

/// How many cells a histogram of durations takes.
pub const SECONDS_CELLS: usize = SECONDS.cells();

/// What a histogram holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Beside the bounds, and one more for what is above the last.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

impl Buckets {
    const fn new(bounds: &'static [u64], per_unit: u64) -> Self {
        let mut starts = [0u8; 65];
        let mut bits = 1;
        while bits <= 64 {
            // The smallest value of so many bits, and the first bound that is not below it.
            let smallest = 1u64 << (bits - 1);
            let mut at = 0;
            while at < bounds.len() && bounds[at] < smallest {
                at += 1;
            }
            starts[bits] = at as u8;
            bits += 1;
        }
        Buckets { bounds, starts, per_unit }
    }

    /// How many cells a histogram takes: the buckets, the one above them, and the sum.
    pub const fn cells(&self) -> usize {
        self.bounds.len() + 2
    }

    /// Counts a value in the cells that begin at `first`.
    #[inline]
    pub fn record(&self, shard: Shard<'_>, first: usize, value: u64) {
        shard.add(first + self.bucket(value), 1);
        shard.add(first + self.bounds.len() + 1, value);
    }

    /// Which bucket a value is in.
    #[inline]
    pub fn bucket(&self, value: u64) -> usize {
        let mut at = usize::from(self.starts[(64 - value.leading_zeros()) as usize]);
        while let Some(bound) = self.bounds.get(at)
            && *bound < value
        {
            at += 1;
        }
        at
    }

    /// What the cells that begin at `first` hold.
    pub fn read(&self, cells: &Cells, first: usize) -> Reading {
        let buckets = self.bounds.len() + 1;
        Reading {
            counts: (first..first + buckets).map(|cell| cells.sum(cell)).collect(),
            sum: cells.sum(first + buckets),
        }
    }
}

impl Reading {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value below which a share `q` of all values lies, interpolated within its bucket. Zero if there is none.
    pub fn quantile(&self, buckets: &Buckets, q: f64) -> u64 {
        let rank = q * self.count() as f64;
        let mut below = 0u64;
        for (at, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (below + count) as f64 >= rank {
                let low = if at == 0 { 0 } else { buckets.bounds[at - 1] };
                let Some(high) = buckets.bounds.get(at) else { return low };
                let share = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                return low + ((high - low) as f64 * share) as u64;
            }
            below += count;
        }
        0
    }
}

/// A duration in the unit in which it is counted.
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    // Without the 128-bit arithmetic of `as_nanos`. Wraps after 584 years.
    duration.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(duration.subsec_nanos()))
}

static NANOS: [u64; 32] = {
    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;
    [
        10 * US,
        20 * US,
        50 * US,
        100 * US,
        200 * US,
        300 * US,
        500 * US,
        700 * US,
        MS,
        2 * MS,
        3 * MS,
        5 * MS,
        7 * MS,
        10 * MS,
        20 * MS,
        30 * MS,
        50 * MS,
        70 * MS,
        100 * MS,
        200 * MS,
        300 * MS,
        500 * MS,
        700 * MS,
        S,
        2 * S,
        3 * S,
        5 * S,
        7 * S,
        10 * S,
        20 * S,
        30 * S,
        60 * S,
    ]
};

static SIZES: [u64; 13] = {
    let mut sizes = [64; 13];
    let mut at = 1;
    while at < sizes.len() {
        sizes[at] = sizes[at - 1] * 4;
        at += 1;
    }
    sizes
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_pass(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            for buckets in [&SECONDS, &BYTES] {
                let expected = buckets.bounds.iter().position(|bound| value <= *bound);
                prop_assert_eq!(buckets.bucket(value), expected.unwrap_or(buckets.bounds.len()));
            }
        }

        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(
            mut values in prop::collection::vec(1u64..100_000_000_000, 1..200),
            q in 0.01f64..1.0,
        ) {
            let cells = Cells::new(SECONDS_CELLS);
            for value in &values {
                SECONDS.record(cells.shard(), 0, *value);
            }
            let reading = SECONDS.read(&cells, 0);
            prop_assert_eq!(reading.count(), values.len() as u64);
            prop_assert_eq!(reading.sum, values.iter().sum::<u64>());
            values.sort_unstable();
            let truth = values[((q * values.len() as f64).ceil() as usize - 1).min(values.len() - 1)];
            let bucket = SECONDS.bucket(truth);
            let low = if bucket == 0 { 0 } else { SECONDS.bounds[bucket - 1] };
            let high = SECONDS.bounds.get(bucket).copied().unwrap_or(low);
            let found = reading.quantile(&SECONDS, q);
            prop_assert!(low <= found && found <= high, "{} not in {}..={}", found, low, high);
        }
    }

    #[test]
    fn bounds_themselves_are_inside_their_bucket() {
        for buckets in [&SECONDS, &BYTES] {
            for (at, bound) in buckets.bounds.iter().enumerate() {
                assert_eq!(buckets.bucket(*bound), at);
                assert_eq!(buckets.bucket(*bound + 1), at + 1);
            }
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Reading::default().quantile(&SECONDS, 0.99), 0);
    }
}
