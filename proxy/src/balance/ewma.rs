//! An endpoint's load: how many requests it has, and how long its answers take.
//!
//! Peak-EWMA, as Finagle's balancer has it: a latency above the average is believed at once, one below it over about
//! [`TAU`], and an average that nothing confirms decays, so that a slow endpoint is tried again. Workers share these
//! numbers without a lock. Of two samples that arrive in the same nanoseconds one may be lost, which costs nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::telemetry::histogram::nanos;

/// The time over which the average forgets: a sample's weight falls to 1/e.
pub const TAU: Duration = Duration::from_secs(10);

/// What one request at an endpoint that never answered is taken to cost. High, so that an unknown endpoint gets one
/// request to show what it can, and the next only when it has answered or all others are as busy.
pub const UNEXPLORED: Duration = Duration::from_secs(1);

/// The latency up to which answers raise the average that say that the endpoint is unable to answer.
pub const UNABLE: Duration = Duration::from_secs(1);

/// One endpoint's load. Times are nanoseconds of a clock that begins above zero.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Nanoseconds, as the bits of a float.
    average: AtomicU64,
    /// When the average was last changed; zero: never.
    changed: AtomicU64,
}

impl Load {
    /// A request goes there.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request there has ended, however.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Requests that are there now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// An answer took `latency`.
    pub fn observe(&self, latency: Duration, now: u64) {
        let latency = nanos(latency) as f64;
        let before = self.changed.load(Relaxed);
        let average = f64::from_bits(self.average.load(Relaxed));
        let next = if before == 0 || latency >= average {
            latency
        } else {
            let keep = keep(now.saturating_sub(before));
            average * keep + latency * (1.0 - keep)
        };
        // Whoever sets the time sets the average. A peak is set in any case.
        let won = self.changed.compare_exchange(before, now.max(before).max(1), Relaxed, Relaxed).is_ok();
        if won || latency >= average {
            self.average.store(next.to_bits(), Relaxed);
        }
    }

    /// It failed after `latency`, which must not make it look faster: a quick refusal is no quick answer.
    pub fn observe_failure(&self, latency: Duration, now: u64) {
        if let Some(average) = self.decayed(now) {
            self.set(average.max(nanos(latency) as f64), now);
        }
    }

    /// It answered after `latency` that it cannot do what it was asked for. That is said fast, and who says it would get
    /// more and more if it counted as it is: it is taken for twice as slow as before, up to [`UNABLE`].
    #[cold]
    pub fn observe_inability(&self, latency: Duration, now: u64) {
        let least = self.decayed(now).unwrap_or(0.0).max(nanos(latency) as f64);
        self.set((least * 2.0).min(UNABLE.as_nanos() as f64).max(least), now);
    }

    /// It is back from an ejection, and its first answer took `latency`. What it was like before does not count.
    pub fn restart(&self, latency: Duration, now: u64) {
        self.set(nanos(latency) as f64, now);
    }

    /// The average as it counts at `now`; zero if it never answered.
    pub fn average(&self, now: u64) -> Duration {
        Duration::from_nanos(self.decayed(now).unwrap_or(0.0) as u64)
    }

    /// What it costs to be one of `queue` requests there: so many times the latency. An endpoint that never answered
    /// costs nothing while it is idle, and much while it is not.
    #[inline]
    pub fn cost(&self, now: u64, queue: f64) -> f64 {
        match self.decayed(now) {
            Some(average) => (average + 1.0) * queue,
            None if self.in_flight() == 0 => 0.0,
            None => UNEXPLORED.as_nanos() as f64 * queue,
        }
    }

    fn set(&self, average: f64, now: u64) {
        self.average.store(average.to_bits(), Relaxed);
        self.changed.store(now.max(1), Relaxed);
    }

    fn decayed(&self, now: u64) -> Option<f64> {
        let changed = self.changed.load(Relaxed);
        (changed != 0).then(|| f64::from_bits(self.average.load(Relaxed)) * keep(now.saturating_sub(changed)))
    }
}

/// What is left of a weight after so many nanoseconds.
#[inline]
fn keep(age: u64) -> f64 {
    let x = age as f64 * (1.0 / TAU.as_nanos() as f64);
    // Under traffic the age is microseconds: there the first term is right to 0.00005, and `exp` is not called.
    if x < 0.01 { 1.0 - x } else { (-x).exp() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let load = Load::default();
        load.observe(ms(1), 1);
        load.observe(ms(100), 2);
        assert_eq!(load.average(2), ms(100));
        load.observe(ms(1), 2 + 1000 * MS);
        let after = load.average(2 + 1000 * MS);
        assert!(after > ms(88) && after < ms(92), "{after:?}");
    }

    #[test]
    fn who_says_that_it_cannot_is_taken_for_slower_each_time_and_not_for_ever() {
        let load = Load::default();
        load.observe(ms(2), 1);
        load.observe_inability(Duration::from_micros(10), 2);
        let once = load.average(2);
        assert!(once > ms(3) && once <= ms(4), "{once:?}");
        for _ in 0..100 {
            load.observe_inability(Duration::from_micros(10), 2);
        }
        assert_eq!(load.average(2), UNABLE);
        // What took longer than that counts as it is.
        load.observe_inability(2 * UNABLE, 2);
        assert_eq!(load.average(2), 2 * UNABLE);
        assert!(load.average(2 + 10 * TAU.as_nanos() as u64) < ms(1));
        // Nothing is known of it but this.
        let new = Load::default();
        new.observe_inability(ms(1), 1);
        assert_eq!(new.average(1), ms(2));
    }

    #[test]
    fn an_unconfirmed_average_decays() {
        let load = Load::default();
        load.observe(ms(100), 1);
        let later = load.average(1 + TAU.as_nanos() as u64);
        assert!(later > ms(36) && later < ms(37), "{later:?}");
    }

    #[test]
    fn the_unexplored_gets_one_request_to_show_itself() {
        let (new, known) = (Load::default(), Load::default());
        known.observe(ms(5), 1);
        assert!(new.cost(1, 1.0) < known.cost(1, 1.0));
        new.begin();
        assert!(new.cost(1, 2.0) > known.cost(1, 1.0));
        new.end();
        new.observe(ms(1), 2);
        assert!(new.cost(2, 1.0) < known.cost(2, 1.0));
    }

    #[test]
    fn a_failure_does_not_make_an_endpoint_look_faster() {
        let load = Load::default();
        load.observe(ms(10), 1);
        let now = 1 + 2000 * MS;
        let before = load.average(now);
        load.observe_failure(Duration::ZERO, now);
        assert_eq!(load.average(now), before);
    }

    proptest! {
        #[test]
        fn the_average_lies_between_the_samples(
            samples in prop::collection::vec((1u64..10_000, 0u64..5_000), 1..50),
        ) {
            let load = Load::default();
            let mut now = 1;
            for (latency, pause) in &samples {
                now += pause * MS;
                load.observe(ms(*latency), now);
            }
            let average = load.average(now);
            let low = samples.iter().map(|(latency, _)| *latency).min().unwrap();
            let high = samples.iter().map(|(latency, _)| *latency).max().unwrap();
            prop_assert!(average + ms(1) > ms(low) && average <= ms(high), "{:?}", average);
            // The last sample is never above the average: peaks are believed.
            prop_assert!(average + ms(1) > ms(samples.last().unwrap().0));
        }
    }
}
