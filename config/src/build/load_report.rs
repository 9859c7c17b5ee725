//! Shares by the load that endpoints report: what is wrong with what is said, and what it comes to.

use std::time::Duration;

use super::{Report, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::load_report as resource;
use crate::snapshot::LoadReports;

/// Says what is wrong.
pub(super) fn check(said: &resource::LoadReports, at: &At<'_>, report: &mut Report) {
    if said.expiration.is_some_and(|expiration| expiration.0.is_zero()) {
        report.error(at.field("expiration").error("a report holds for some time"));
    }
    if let Some(interval) = said.interval {
        report.ok(self::interval(&at.field("interval"), interval.0));
    }
    if let Some(percent) = said.error_penalty_percent {
        report.ok(penalty(&at.field("errorPenaltyPercent"), percent));
    }
    let at = at.field("metrics");
    report.ok(check::at_most(&at, said.metrics.len(), MOST_METRICS));
    for (index, name) in said.metrics.iter().enumerate().take(MOST_METRICS) {
        report.ok(metric(&at.index(index), name));
    }
}

/// What is said, with the defaults.
pub(super) fn load_reports(said: &resource::LoadReports) -> LoadReports {
    let otherwise = LoadReports::default();
    let or = |said: Option<crate::resource::Duration>, otherwise| said.map_or(otherwise, |said| said.0);
    LoadReports {
        blackout: or(said.blackout, otherwise.blackout),
        expiration: or(said.expiration, otherwise.expiration),
        interval: or(said.interval, otherwise.interval),
        error_penalty_percent: said.error_penalty_percent.unwrap_or(otherwise.error_penalty_percent),
        metrics: said.metrics.iter().map(|name| name.as_str().into()).collect(),
        pass_on: said.pass_on.unwrap_or(otherwise.pass_on),
    }
}

/// How often shares are worked out.
pub(crate) fn interval(at: &At<'_>, interval: Duration) -> Result<Duration, ConfigError> {
    match interval < LEAST_INTERVAL {
        true => Err(at.error("too often").hint("at least 100ms")),
        false => Ok(interval),
    }
}

/// What errors add to the utilization.
pub(crate) fn penalty(at: &At<'_>, percent: u32) -> Result<u32, ConfigError> {
    match percent > MOST_PENALTY {
        true => {
            Err(at.error(format!("{percent} percent is too much")).hint(format!("at most {MOST_PENALTY}")))
        }
        false => Ok(percent),
    }
}

/// The name of something that is reported.
pub(crate) fn metric(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    let known = match name.split_once('.') {
        Some((map, key)) => matches!(map, "named_metrics" | "utilization") && !key.is_empty(),
        None => matches!(name, "cpu_utilization" | "mem_utilization" | "application_utilization"),
    };
    if known {
        return Ok(());
    }
    let error = at.error(format!("no report has `{}`", name.escape_debug()));
    Err(error.hint("`named_metrics.NAME`, `utilization.NAME`, `cpu_utilization` or `mem_utilization`"))
}

/// Most things that can stand for the utilization.
pub(crate) const MOST_METRICS: usize = 8;

/// As gRPC has it.
pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(100);

const MOST_PENALTY: u32 = 100_000;
