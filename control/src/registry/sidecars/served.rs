//! How an instance of a Service with state serves it, as its sidecar tells where that may move for gain.

use lighter_config::xds::wire::lighter::registry::v1 as wire;

use super::{MOST_RATE, number};

/// What callers asked of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Requests since its process began, and how long they took together, in seconds.
    requests: u64,
    seconds: f64,
    /// How many ended well a second, between the last two reports.
    pub rate: f64,
    /// How long one of these took, in seconds. None: none ended.
    pub request_seconds: Option<f64>,
}

impl Served {
    /// What is said now, where this was said `before`, so many seconds ago. Of what was served before the first report nobody knows
    /// when that was.
    pub(super) fn read(said: &wire::Served, before: Option<Self>, seconds: Option<f64>) -> Self {
        let total = number(said.seconds);
        // A process that counts from nothing again has done all that since.
        let known =
            before.map(|known| if known.requests <= said.requests { known } else { Served::default() });
        let more = known.map_or(0, |known| said.requests - known.requests);
        let took = known.map_or(0.0, |known| (total - known.seconds).max(0.0));
        let rate = seconds.filter(|seconds| *seconds > 0.0).map_or(0.0, |seconds| more as f64 / seconds);
        Served {
            requests: said.requests,
            seconds: total,
            rate: rate.min(MOST_RATE),
            request_seconds: (more > 0).then(|| took / more as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_of_the_time_between_reports() {
        let said = |requests, seconds| wire::Served { requests, seconds };
        let first = Served::read(&said(1000, 50.0), None, Some(5.0));
        assert_eq!((first.rate, first.request_seconds), (0.0, None), "who knows when that was");
        let next = Served::read(&said(1010, 50.5), Some(first), Some(2.0));
        assert_eq!((next.rate, next.request_seconds), (5.0, Some(0.05)));
        let idle = Served::read(&said(1010, 50.5), Some(next), Some(1.0));
        assert_eq!((idle.rate, idle.request_seconds), (0.0, None));
        let again = Served::read(&said(4, 1.0), Some(idle), Some(1.0));
        assert_eq!((again.rate, again.request_seconds), (4.0, Some(0.25)), "it began again");
        let nonsense = Served::read(&said(u64::MAX, f64::NAN), Some(again), Some(1e-9));
        assert_eq!(nonsense.rate, MOST_RATE);
        assert!(nonsense.request_seconds.is_some_and(|seconds| seconds == 0.0));
    }
}
