//! Endpoints beside each other: who fails more often or takes longer than the others.
//!
//! Each endpoint counts what it did since the last comparison; workers add to it without a lock. Whoever ends a request
//! once the interval is over compares. So there is no clock here, and nothing happens where no requests are.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lighter_config::snapshot::{Comparison, Outliers};

use super::outlier::Reason;
use crate::telemetry::histogram::nanos;

/// What one endpoint did since the last comparison.
#[derive(Debug, Default)]
pub struct Tally {
    ended: AtomicU32,
    good: AtomicU32,
    /// Those that had an answer, and how long they took: nanoseconds.
    answered: AtomicU32,
    took: AtomicU64,
}

/// The same at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests that ended.
    pub ended: u32,
    /// Those without a fault.
    pub good: u32,
    /// Those that were answered.
    pub answered: u32,
    /// How long these took, together: nanoseconds.
    pub took: u64,
}

impl Tally {
    /// A request was answered, after `latency`.
    pub fn answered(&self, good: bool, latency: Duration) {
        self.ended.fetch_add(1, Relaxed);
        self.good.fetch_add(u32::from(good), Relaxed);
        self.answered.fetch_add(1, Relaxed);
        self.took.fetch_add(nanos(latency), Relaxed);
    }

    /// A request had no answer.
    pub fn failed(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Reads it and begins anew.
    pub fn take(&self) -> Sample {
        Sample {
            ended: self.ended.swap(0, Relaxed),
            good: self.good.swap(0, Relaxed),
            answered: self.answered.swap(0, Relaxed),
            took: self.took.swap(0, Relaxed),
        }
    }
}

/// Who is to be ejected, and why: places in `samples`, the worst first.
pub fn compare(samples: &[Sample], outliers: &Outliers) -> Vec<(usize, Reason)> {
    let mut found = Vec::new();
    if let Some(by) = &outliers.success_rate {
        found.extend(failing(samples, by).into_iter().map(|place| (place, Reason::SuccessRate)));
    }
    if let Some(by) = &outliers.latency {
        found.extend(slow(samples, by).into_iter().map(|place| (place, Reason::Latency)));
    }
    found
}

/// Those whose share of successes lies so many standard deviations below the mean.
fn failing(samples: &[Sample], by: &Comparison) -> Vec<usize> {
    let shares = samples.iter().enumerate().filter(|(_, sample)| sample.ended >= by.volume);
    let share = |sample: &Sample| f64::from(sample.good) / f64::from(sample.ended);
    let mut shares: Vec<(usize, f64)> = shares.map(|(place, sample)| (place, share(sample))).collect();
    if shares.len() < by.hosts as usize {
        return Vec::new();
    }
    let count = shares.len() as f64;
    let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / count;
    let variance = shares.iter().map(|(_, share)| (share - mean).powi(2)).sum::<f64>() / count;
    let least = mean - by.factor * variance.sqrt();
    // Where all are the same, rounding must not make one of them worse.
    shares.retain(|(_, share)| share + 1e-9 < least);
    shares.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    shares.into_iter().map(|(place, _)| place).collect()
}

/// Those whose mean latency is more than so many times the median.
fn slow(samples: &[Sample], by: &Comparison) -> Vec<usize> {
    let answered = samples.iter().enumerate().filter(|(_, sample)| sample.answered >= by.volume);
    let mean = |sample: &Sample| sample.took as f64 / f64::from(sample.answered);
    let mut means: Vec<(usize, f64)> = answered.map(|(place, sample)| (place, mean(sample))).collect();
    if means.is_empty() || means.len() < by.hosts as usize {
        return Vec::new();
    }
    means.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    // Of an even number, the lower one of the middle: of two endpoints, the slow one is not its own measure.
    let median = means[means.len() / 2].1;
    let most = median * by.factor;
    means.into_iter().take_while(|(_, mean)| *mean > most).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outliers(success_rate: Option<Comparison>, latency: Option<Comparison>) -> Outliers {
        Outliers { success_rate, latency, ..Outliers::default() }
    }

    fn sample(ended: u32, good: u32, millis: u64) -> Sample {
        Sample { ended, good, answered: ended, took: u64::from(ended) * millis * 1_000_000 }
    }

    #[test]
    fn who_fails_more_often_than_the_others_is_found() {
        let by = outliers(Some(Comparison { factor: 1.9, hosts: 5, volume: 100 }), None);
        let mut samples = vec![sample(200, 199, 1); 9];
        samples.push(sample(200, 120, 1));
        assert_eq!(compare(&samples, &by), [(9, Reason::SuccessRate)]);
        // Too few requests of its own, or too few others.
        samples[9] = sample(99, 0, 1);
        assert_eq!(compare(&samples, &by), []);
        assert_eq!(compare(&[sample(200, 200, 1), sample(200, 0, 1)], &by), []);
        // All alike.
        assert_eq!(compare(&[sample(300, 100, 1); 7], &by), []);
    }

    #[test]
    fn who_takes_longer_than_the_others_is_found() {
        let by = outliers(None, Some(Comparison { factor: 3.0, hosts: 2, volume: 10 }));
        let samples = [sample(10, 10, 5), sample(10, 10, 15), sample(10, 10, 14), sample(10, 10, 4)];
        assert_eq!(compare(&samples, &by), []);
        let samples = [sample(10, 10, 5), sample(10, 10, 90), sample(10, 10, 4), sample(10, 10, 99)];
        assert_eq!(compare(&samples, &by), [(3, Reason::Latency), (1, Reason::Latency)]);
        assert_eq!(compare(&[sample(10, 10, 1), sample(10, 10, 4)], &by), [(1, Reason::Latency)]);
        assert_eq!(compare(&[sample(10, 10, 1), sample(9, 9, 4)], &by), []);
    }

    #[test]
    fn a_tally_begins_anew() {
        let tally = Tally::default();
        tally.answered(true, Duration::from_millis(3));
        tally.answered(false, Duration::from_millis(5));
        tally.failed();
        assert_eq!(tally.take(), Sample { ended: 3, good: 1, answered: 2, took: 8_000_000 });
        assert_eq!(tally.take(), Sample::default());
    }

    proptest! {
        #[test]
        fn half_or_more_are_never_slow(
            millis in prop::collection::vec(1u64..10_000, 0..12),
            factor in 1.1f64..5.0,
        ) {
            let samples: Vec<_> = millis.iter().map(|millis| sample(10, 10, *millis)).collect();
            let by = outliers(None, Some(Comparison { factor, hosts: 2, volume: 10 }));
            let found = compare(&samples, &by);
            prop_assert!(found.len() * 2 <= samples.len());
            let least = found.iter().map(|(place, _)| millis[*place]).min();
            let rest = (0..millis.len()).filter(|place| found.iter().all(|(out, _)| out != place));
            prop_assert!(rest.map(|place| millis[place]).max() <= least.or(millis.iter().max().copied()));
        }
    }
}
