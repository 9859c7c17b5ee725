//! How a Service is kept from more than it can do at once: what is wrong with it, and what it comes to.

use std::time::Duration;

use super::Report;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::overload as resource;
use crate::snapshot::Overload;

/// Puts what is said in place of what held before.
pub(super) fn fill_in(said: &resource::Overload, before: Option<Overload>) -> Overload {
    let both = over(said, before.unwrap_or_default());
    // Each policy is right by itself, and the wider one may have let more through.
    Overload { max_concurrency: both.max_concurrency.max(both.min_concurrency), ..both }
}

fn over(said: &resource::Overload, before: Overload) -> Overload {
    Overload {
        min_concurrency: said.min_concurrency.unwrap_or(before.min_concurrency),
        max_concurrency: said.max_concurrency.unwrap_or(before.max_concurrency),
        interval: said.interval.map_or(before.interval, |interval| interval.0),
        percentile: said.percentile.unwrap_or(before.percentile),
        tolerance_percent: said.tolerance_percent.unwrap_or(before.tolerance_percent),
        baseline_interval: said.baseline_interval.map_or(before.baseline_interval, |interval| interval.0),
        baseline_requests: said.baseline_requests.unwrap_or(before.baseline_requests),
        reserve_percent: said.reserve_percent.unwrap_or(before.reserve_percent),
    }
}

/// Says what is wrong.
pub(super) fn check(said: &resource::Overload, at: &At<'_>, report: &mut Report) {
    let names = Names {
        min_concurrency: "minConcurrency",
        max_concurrency: "maxConcurrency",
        interval: "interval",
        percentile: "percentile",
        tolerance_percent: "tolerancePercent",
        baseline_interval: "baselineInterval",
        baseline_requests: "baselineRequests",
        reserve_percent: "reservePercent",
    };
    report.ok(valid(&over(said, Overload::default()), &names, at));
}

/// What fields are called where they are written.
pub(crate) struct Names {
    pub(crate) min_concurrency: &'static str,
    pub(crate) max_concurrency: &'static str,
    pub(crate) interval: &'static str,
    pub(crate) percentile: &'static str,
    pub(crate) tolerance_percent: &'static str,
    pub(crate) baseline_interval: &'static str,
    pub(crate) baseline_requests: &'static str,
    pub(crate) reserve_percent: &'static str,
}

/// The first thing that is wrong with it.
pub(crate) fn valid(overload: &Overload, names: &Names, at: &At<'_>) -> Result<(), ConfigError> {
    let range = |field, number: u32, least, most| match (least..=most).contains(&number) {
        true => Ok(()),
        false => Err(at.field(field).error(format!("{number} is not from {least} to {most}"))),
    };
    range(names.min_concurrency, overload.min_concurrency, 1, MOST_CONCURRENCY)?;
    let least = overload.min_concurrency;
    range(names.max_concurrency, overload.max_concurrency, least, MOST_CONCURRENCY)?;
    range(names.percentile, overload.percentile.into(), 1, 99)?;
    range(names.tolerance_percent, overload.tolerance_percent, 0, 1000)?;
    range(names.baseline_requests, overload.baseline_requests, 1, 10_000)?;
    range(names.reserve_percent, overload.reserve_percent.into(), 0, 90)?;
    if !(SHORTEST..=LONGEST).contains(&overload.interval) {
        return Err(at.field(names.interval).error("an interval is from 10ms to 10s"));
    }
    if !(SHORTEST_BASELINE..=LONGEST_BASELINE).contains(&overload.baseline_interval) {
        return Err(at.field(names.baseline_interval).error("it is believed for 1s to 24h"));
    }
    Ok(())
}

const MOST_CONCURRENCY: u32 = 1_000_000;
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(10);
const SHORTEST_BASELINE: Duration = Duration::from_secs(1);
const LONGEST_BASELINE: Duration = Duration::from_secs(24 * 3600);
