//! How an instance of a Service with state serves it, as its sidecar tells where that may move for gain.

use lighter_config::xds::wire::lighter::registry::v1 as wire;

use super::{MOST_RATE, number};

/// What callers asked of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Requests of which its process tells now, and how long they took together, in seconds.
    told: (u64, f64),
    /// How many ended well since its first report, as far as that is known.
    pub requests: u64,
    /// How long these took together, in seconds.
    pub seconds: f64,
    /// How many are under way.
    pub in_flight: u64,
    /// For how long that is known, in seconds: from the first report to the last.
    pub known_seconds: f64,
}

impl Served {
    /// What is said now, where this was said `before`, so many seconds ago. Of what was served before the first report nobody knows
    /// when that was.
    pub(super) fn read(said: &wire::Served, before: Option<Self>, seconds: Option<f64>) -> Self {
        let told = (said.requests, number(said.seconds));
        let in_flight = said.requests_in_flight;
        let Some(before) = before else { return Served { told, in_flight, ..Served::default() } };
        // There is less where routes were forgotten with what they counted: nobody knows what of the rest is new.
        let is_less = told.0 < before.told.0 || told.1 < before.told.1;
        let (more, took) = if is_less { (0, 0.0) } else { (told.0 - before.told.0, told.1 - before.told.1) };
        Served {
            told,
            requests: before.requests.saturating_add(more),
            seconds: before.seconds + took,
            in_flight,
            known_seconds: before.known_seconds + seconds.unwrap_or_default(),
        }
    }

    /// How many requests ended a second since `before`, and how long one of them took, in seconds, unless none ended. None: nothing
    /// was reported since, or it counts anew.
    pub fn since(&self, before: &Served) -> Option<(f64, Option<f64>)> {
        let known = self.known_seconds - before.known_seconds;
        let more = self.requests.checked_sub(before.requests).filter(|_| known > 0.0)?;
        let took = (self.seconds - before.seconds).max(0.0);
        // Two reports that come at once, as after a halt, are of more than that.
        let rate = more as f64 / known.max(LEAST_SECONDS);
        Some((rate.min(MOST_RATE), (more > 0).then(|| took / more as f64)))
    }
}

/// Little less than sidecars take between two reports.
const LEAST_SECONDS: f64 = 0.9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_of_the_time_between_reports() {
        let said = |requests, seconds| wire::Served { requests, seconds, requests_in_flight: 3 };
        let first = Served::read(&said(1000, 50.0), None, Some(5.0));
        assert_eq!((first.requests, first.known_seconds), (0, 0.0), "who knows when that was");
        assert_eq!(first.in_flight, 3, "that is now");
        assert_eq!(first.since(&first), None);
        let next = Served::read(&said(1010, 50.5), Some(first), Some(2.0));
        assert_eq!(next.since(&first), Some((5.0, Some(0.05))));
        let more = Served::read(&said(1016, 50.8), Some(next), Some(2.0));
        assert_eq!(more.since(&first).map(|(rate, _)| rate), Some(4.0), "of both");
        let idle = Served::read(&said(1016, 50.8), Some(more), Some(1.0));
        assert_eq!(idle.since(&more), Some((0.0, None)));
        // A route was forgotten that counted most of them.
        let less = Served::read(&said(900, 1.0), Some(idle), Some(1.0));
        assert_eq!(less.since(&idle), Some((0.0, None)), "nobody knows what is new");
        let shorter = Served::read(&said(901, 0.5), Some(less), Some(1.0));
        assert_eq!(shorter.since(&less), Some((0.0, None)), "nor of the time");
        let again = Served::read(&said(905, 1.5), Some(shorter), Some(1.0));
        assert_eq!(again.since(&shorter), Some((4.0, Some(0.25))));
        let soon = Served::read(&said(914, 1.5), Some(again), Some(1e-9));
        assert_eq!(soon.since(&again).map(|(rate, _)| rate), Some(10.0), "reports that come at once");
        let nonsense = Served::read(&said(u64::MAX, 1.5), Some(soon), Some(1.0));
        assert_eq!(nonsense.since(&soon), Some((MOST_RATE, Some(0.0))));
        let nonsense = Served::read(&said(u64::MAX, f64::NAN), Some(nonsense), Some(1.0));
        assert_eq!(nonsense.since(&soon).map(|(rate, _)| rate), Some(MOST_RATE));
        assert_eq!(first.since(&nonsense), None, "another process of its name");
    }
}
