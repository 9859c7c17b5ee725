//! How fast all runs together may use up processor time: a token bucket without a clock.

use std::time::{Duration, Instant};

/// What may be used at once after a rest. Short, so that a main task that wakes up meanwhile hardly waits.
const BURST: Duration = Duration::from_millis(1);
/// Longest time that a run owes, so that one whose share grows goes on soon.
const LONGEST: Duration = Duration::from_secs(5);

/// Processor time that was used, and is paid for by rest.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Until when what was used so far takes at the rate that holds.
    until: Option<Instant>,
}

impl Bucket {
    /// So much processor time was used until `now`. How long to rest, so that there are `processors` busy at most.
    pub(super) fn spend(&mut self, spent: Duration, processors: f64, now: Instant) -> Duration {
        let takes = spent.as_secs_f64() / processors;
        let takes = if takes.is_finite() { takes.min(LONGEST.as_secs_f64()) } else { LONGEST.as_secs_f64() };
        let rested = now.checked_sub(BURST).unwrap_or(now);
        let until = self.until.unwrap_or(rested).max(rested) + Duration::from_secs_f64(takes.max(0.0));
        let until = until.min(now + LONGEST);
        self.until = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs that do what they are told, in slices of so long; what they used in ten seconds.
    fn used(processors: f64, slice: Duration) -> f64 {
        let (start, mut bucket) = (Instant::now(), Bucket::default());
        let end = start + Duration::from_secs(10);
        let mut runs = [start, start];
        let mut used = Duration::ZERO;
        loop {
            let next = if runs[0] <= runs[1] { 0 } else { 1 };
            let now = runs[next] + slice;
            if now > end {
                return used.as_secs_f64() / 10.0;
            }
            used += slice;
            runs[next] = now + bucket.spend(slice, processors, now);
        }
    }

    #[test]
    fn runs_together_are_as_busy_as_they_may_be() {
        for (processors, micros) in [(0.5, 100), (0.01, 100), (0.25, 5000), (1.5, 300)] {
            let used = used(processors, Duration::from_micros(micros));
            assert!((used - processors).abs() <= 0.05 * processors, "{used} of {processors}");
        }
        assert!(used(2.5, Duration::from_micros(100)) > 1.9, "two runs cannot use more than two");
    }

    #[test]
    fn a_rest_saves_up_no_more_than_a_burst_and_nothing_is_owed_for_long() {
        let (start, mut bucket) = (Instant::now(), Bucket::default());
        assert_eq!(bucket.spend(Duration::from_millis(1), 1.0, start), Duration::ZERO);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.spend(Duration::from_millis(3), 1.0, later), Duration::from_millis(2));
        assert_eq!(bucket.spend(Duration::from_secs(3), 1e-9, later), LONGEST);
        assert_eq!(bucket.spend(Duration::from_secs(3), 0.0, later), LONGEST);
    }
}
