//! How long to wait before the next try to reach a control plane.

use std::time::Duration;

/// Waits that grow from try to try, each spread so that sidecars that lost one control plane together do not come back
/// together.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: SHORTEST }
    }
}

impl Backoff {
    /// The wait before the next try. `random` is from 0 to 1, anew each time.
    pub fn wait(&mut self, random: f64) -> Duration {
        let spread = 1.0 + SPREAD * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        let wait = self.next.mul_f64(spread);
        self.next = self.next.mul_f64(GROWTH).min(LONGEST);
        wait
    }

    /// A try succeeded: the server gave an answer.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}

const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);
const GROWTH: f64 = 1.6;
/// The share by which a wait is longer or shorter.
const SPREAD: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.wait(0.5)).collect();
        assert_eq!(waits[0], SHORTEST);
        assert!(waits.is_sorted());
        assert_eq!(waits[19], LONGEST);
        backoff.reset();
        assert_eq!(backoff.wait(0.5), SHORTEST);
    }

    #[test]
    fn waits_are_spread_and_never_nothing() {
        assert_eq!(Backoff::default().wait(0.0), SHORTEST / 2);
        assert_eq!(Backoff::default().wait(1.0), SHORTEST * 3 / 2);
        assert_eq!(Backoff::default().wait(f64::INFINITY), SHORTEST * 3 / 2);
    }
}
