//! What happened between two readings of one sidecar.

use std::collections::BTreeSet;

use super::reading::{Counts, Reading, Route};

/// What is shown at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    /// The time between the two readings, in seconds.
    pub interval: f64,
    /// How long the sidecar has run, in seconds.
    pub uptime: Option<f64>,
    /// Its share of one CPU.
    pub cpu: Option<f64>,
    /// What it is like now.
    pub now: Reading,
    /// What happened by route, in the order asked for.
    pub rows: Vec<Row>,
}

/// What happened on a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which.
    pub route: Route,
    /// What was counted in the interval, and what is open at its end.
    pub counts: Counts,
    /// The latency below which half of the exchanges were, in seconds.
    pub p50: Option<f64>,
    /// The one below which 99 of a hundred were.
    pub p99: Option<f64>,
}

/// Which route comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The one on which most ended
    Rate,
    /// The one on which most failed
    Errors,
    /// The one with the highest latency at the 99th percentile
    Latency,
}

/// When a reading was made.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since the reading before it.
    pub interval: f64,
    /// Seconds since 1970.
    pub time: f64,
}

/// Watches one sidecar, reading by reading.
#[derive(Debug)]
pub struct Watch {
    before: Reading,
    /// Routes on which something happened since the watch began.
    seen: BTreeSet<Route>,
    sort: Sort,
}

impl Watch {
    /// Begins with `first`.
    pub fn begin(first: Reading, sort: Sort) -> Self {
        Watch { before: first, seen: BTreeSet::new(), sort }
    }

    /// What happened up to `now`.
    pub fn next(&mut self, now: Reading, moment: Moment) -> Refresh {
        if anew(&self.before, &now) {
            self.before = Reading::default();
        }
        let none = Counts::default();
        let mut rows = Vec::new();
        for (route, counts) in &now.routes {
            let counts = counts.since(self.before.routes.get(route).unwrap_or(&none));
            if !counts.is_nothing() {
                self.seen.insert(route.clone());
            }
            if self.seen.contains(route) {
                let [p50, p99] = [0.5, 0.99].map(|q| counts.latency.quantile(q));
                rows.push(Row { route: route.clone(), counts, p50, p99 });
            }
        }
        // Rows come by name. The sort is stable, and keeps that order among equals.
        rows.sort_by(|one, other| match self.sort {
            Sort::Rate => other.counts.ended.cmp(&one.counts.ended),
            Sort::Errors => other.counts.failed.cmp(&one.counts.failed),
            Sort::Latency => other.p99.unwrap_or(-1.0).total_cmp(&one.p99.unwrap_or(-1.0)),
        });
        let cpu = now.cpu_seconds.map(|seconds| seconds - self.before.cpu_seconds.unwrap_or(0.0));
        let refresh = Refresh {
            interval: moment.interval,
            // Clocks of two machines may differ.
            uptime: now.start_seconds.map(|start| (moment.time - start).max(0.0)),
            cpu: cpu.map(|seconds| seconds / moment.interval).filter(|share| share.is_finite()),
            now: now.clone(),
            rows,
        };
        self.before = now;
        refresh
    }
}

impl Row {
    /// The share of what ended that did not fail.
    pub fn success(&self) -> Option<f64> {
        let Counts { ended, failed, .. } = self.counts;
        (ended > 0).then(|| ended.saturating_sub(failed) as f64 / ended as f64)
    }
}

/// Whether the sidecar has been started anew between the two. Its time of start does not tell: that is reckoned from the
/// machine's clock, which may be set.
fn anew(before: &Reading, now: &Reading) -> bool {
    before.cpu_seconds.zip(now.cpu_seconds).is_some_and(|(before, now)| now < before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Moment = Moment { interval: 2.0, time: 1_000.0 };

    fn route(name: &str) -> Route {
        Route { route: name.to_owned(), ..Route::default() }
    }

    fn counts(ended: u64, failed: u64, latency: &str) -> Counts {
        let mut counts = Counts { ended, failed, ..Counts::default() };
        counts.latency.take(latency, ended);
        counts.latency.take("+Inf", ended);
        counts
    }

    fn reading<const N: usize>(cpu: f64, routes: [(&str, Counts); N]) -> Reading {
        Reading {
            cpu_seconds: Some(cpu),
            start_seconds: Some(400.0),
            routes: routes.map(|(name, counts)| (route(name), counts)).into(),
            ..Reading::default()
        }
    }

    fn names(refresh: &Refresh) -> Vec<&str> {
        refresh.rows.iter().map(|row| row.route.route.as_str()).collect()
    }

    #[test]
    fn only_what_happened_since_the_start_is_shown_and_stays() {
        let mut watch =
            Watch::begin(reading(1.0, [("a", counts(100, 0, "1")), ("b", counts(7, 0, "1"))]), Sort::Rate);
        let next = watch.next(reading(2.0, [("a", counts(104, 1, "1")), ("b", counts(7, 0, "1"))]), SECOND);
        assert_eq!(names(&next), ["a"]);
        assert_eq!((next.rows[0].counts.ended, next.rows[0].success()), (4, Some(0.75)));
        assert_eq!((next.cpu, next.uptime), (Some(0.5), Some(600.0)));
        let next = watch.next(reading(2.0, [("a", counts(104, 1, "1")), ("c", counts(5, 0, "1"))]), SECOND);
        assert_eq!(names(&next), ["c", "a"]);
        assert_eq!((next.rows[1].counts.ended, next.rows[1].success(), next.rows[1].p99), (0, None, None));
    }

    #[test]
    fn what_is_in_flight_is_shown_though_nothing_ended() {
        let open = || Counts { open: 1, ..Counts::default() };
        let mut watch = Watch::begin(reading(1.0, [("a", open())]), Sort::Rate);
        assert_eq!(names(&watch.next(reading(1.0, [("a", open())]), SECOND)), ["a"]);
    }

    #[test]
    fn the_order_is_as_asked_for() {
        for (sort, expected) in
            [(Sort::Rate, ["a", "b", "c"]), (Sort::Errors, ["b", "c", "a"]), (Sort::Latency, ["c", "a", "b"])]
        {
            let mut watch = Watch::begin(reading(0.0, []), sort);
            let now = [("c", counts(10, 1, "3")), ("b", counts(20, 2, "1")), ("a", counts(30, 0, "2"))];
            assert_eq!(names(&watch.next(reading(0.0, now), SECOND)), expected, "{sort:?}");
        }
    }

    #[test]
    fn a_sidecar_that_was_started_anew_counts_from_zero() {
        let mut watch = Watch::begin(reading(9.0, [("a", counts(5, 0, "1"))]), Sort::Rate);
        // As much as before and more; only the CPU time shows it.
        let next = watch.next(reading(0.5, [("a", counts(8, 0, "1"))]), SECOND);
        assert_eq!((next.rows[0].counts.ended, next.cpu), (8, Some(0.25)));
    }

    #[test]
    fn odd_readings_give_no_odd_shares() {
        let mut watch = Watch::begin(reading(0.0, []), Sort::Latency);
        let next = watch.next(reading(1.0, [("a", counts(1, 9, "1"))]), Moment { interval: 0.0, time: 0.0 });
        assert_eq!((next.cpu, next.uptime, next.rows[0].success()), (None, Some(0.0), Some(0.0)));
    }
}
