//! The guard of a route: whether its requests may leave the host at all, and how many of them.
//!
//! It counts the requests that missed their objective on a device where the host was expected to keep it. Once they are too
//! many, the route is back on the host at once, and not only when a window ends. After a while a hundredth of the requests may go
//! again, then a twentieth, a quarter, all of them, each step after a window in which all was well.

use crate::time::Time;

/// When a route goes back to the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardRules {
    /// An answer that takes longer misses the objective, in seconds.
    pub slo_seconds: f32,
    /// What part of the requests may miss it. Default 0.01.
    pub miss_share: f32,
    /// How long it is counted, in seconds, and how long a step lasts at least. Default 1.
    pub window_seconds: f32,
}

impl Default for GuardRules {
    fn default() -> Self {
        GuardRules { slo_seconds: 0.1, miss_share: 0.01, window_seconds: 1.0 }
    }
}

/// The parts of a route's requests that may go to devices, step by step after it was back on the host.
pub const SHARES: [f32; 4] = [0.01, 0.05, 0.25, 1.0];

/// What is counted for one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// The place in [`SHARES`].
    step: usize,
    /// Nothing may leave the host before then.
    closed_until: Option<Time>,
    /// How often in a row the route was sent back, without all of its requests having been well on devices meanwhile.
    row: u32,
    since: Time,
    ended: u32,
    missed: u32,
}

impl Guard {
    /// Of a route that nothing is known against.
    pub(crate) fn new() -> Self {
        Guard { step: FULL, closed_until: None, row: 0, since: Time::default(), ended: 0, missed: 0 }
    }

    /// What part of the requests may go to devices now.
    pub(crate) fn share(&mut self, rules: &GuardRules, now: Time) -> f32 {
        if let Some(until) = self.closed_until {
            if now < until {
                return 0.0;
            }
            self.closed_until = None;
            self.begin(0, now);
        }
        let windows = now.seconds_since(self.since) / f64::from(rules.window_seconds);
        // A window in which little ended says little: it goes on for a while.
        let is_over = self.ended >= FEWEST[self.step] || windows >= LONGEST && self.missed == 0;
        if windows >= 1.0 && is_over {
            if self.step == FULL {
                self.row = 0;
            }
            self.begin((self.step + 1).min(FULL), now);
        }
        SHARES[self.step]
    }

    /// Whether it is being found out if all is well again: then devices have to be asked, whatever is expected of them.
    pub(crate) fn is_probing(&self) -> bool {
        self.step < MODEL_AGAIN
    }

    /// A request has ended on a device. `is_missed`: too late or not at all, where the host was expected to be in time.
    pub(crate) fn ended(&mut self, is_missed: bool, rules: &GuardRules, now: Time) {
        if self.closed_until.is_some() {
            // What was under way when the route was sent back.
            return;
        }
        self.ended += 1;
        self.missed += u32::from(is_missed);
        let needed = if self.step == FULL { MISSES } else { MISSES_IN_A_STEP };
        let borne = (self.ended as f32 * rules.miss_share * BURN).max(needed as f32 - 1.0);
        if self.missed as f32 > borne {
            let windows = f64::from(1u32 << self.row.min(LONGEST_ROW));
            let wait = windows * f64::from(rules.window_seconds);
            self.closed_until = Some(Time::from_seconds(now.seconds() + wait));
            self.row += 1;
        }
    }

    fn begin(&mut self, step: usize, now: Time) {
        (self.step, self.since, self.ended, self.missed) = (step, now, 0, 0);
    }
}

const FULL: usize = SHARES.len() - 1;
/// From this step on, requests go where the model says.
const MODEL_AGAIN: usize = 2;
/// So many requests have to have ended on devices before a window counts, by step.
const FEWEST: [u32; 4] = [2, 3, 5, 5];
/// A window that none of them missed counts after so many times its length, however few there were: as few will be at risk.
const LONGEST: f64 = 10.0;
/// Fewer misses are chance.
const MISSES: u32 = 3;
/// The same while few requests may go.
const MISSES_IN_A_STEP: u32 = 2;
/// How many times as many as allowed have to miss.
const BURN: f32 = 2.0;
/// The wait is doubled so often: up to 64 windows.
const LONGEST_ROW: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_seconds(seconds)
    }

    #[test]
    fn a_route_that_misses_goes_back_at_once_and_comes_back_by_steps() {
        let (rules, mut guard) = (GuardRules::default(), Guard::new());
        for _ in 0..3 {
            assert_eq!(guard.share(&rules, at(0.1)), 1.0);
            guard.ended(true, &rules, at(0.1));
        }
        assert_eq!(guard.share(&rules, at(0.1)), 0.0);
        assert_eq!(guard.share(&rules, at(1.0)), 0.0);
        let mut now = 1.2;
        for (share, fewest) in SHARES.into_iter().zip(FEWEST) {
            assert_eq!(guard.share(&rules, at(now)), share);
            (1..fewest).for_each(|_| guard.ended(false, &rules, at(now)));
            now += 1.1;
            assert_eq!(guard.share(&rules, at(now)), share, "too few to tell");
            guard.ended(false, &rules, at(now));
        }
        assert_eq!(guard.share(&rules, at(now)), 1.0);
        assert_eq!(guard.row, 0, "all is forgotten");
    }

    #[test]
    fn a_route_with_few_requests_comes_back_as_well() {
        let (rules, mut guard) = (GuardRules::default(), Guard::new());
        (0..3).for_each(|_| guard.ended(true, &rules, at(0.0)));
        let shares = [1.0, 10.9, 11.1, 21.2, 31.3].map(|now| guard.share(&rules, at(now)));
        assert_eq!(shares, [0.01, 0.01, 0.05, 0.25, 1.0]);
    }

    #[test]
    fn a_step_that_goes_wrong_is_tried_later_each_time() {
        let (rules, mut guard) = (GuardRules::default(), Guard::new());
        (0..3).for_each(|_| guard.ended(true, &rules, at(0.0)));
        let mut now = 0.0;
        for windows in [1.0, 2.0, 4.0, 8.0] {
            assert_eq!(guard.share(&rules, at(now + windows - 0.1)), 0.0);
            now += windows + 0.01;
            assert_eq!(guard.share(&rules, at(now)), 0.01);
            (0..2).for_each(|_| guard.ended(true, &rules, at(now)));
        }
    }

    #[test]
    fn as_many_misses_as_are_allowed_change_nothing() {
        let (rules, mut guard) = (GuardRules::default(), Guard::new());
        for request in 0..1000 {
            guard.ended(request % 100 == 99, &rules, at(0.5));
            assert_eq!(guard.share(&rules, at(0.5)), 1.0, "{request}");
        }
    }
}
