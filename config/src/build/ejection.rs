//! When an endpoint is ejected: what is wrong with it, and what it comes to.

use std::ops::RangeInclusive;

use super::Report;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::ejection::{Ejection, Latency, SuccessRate};
use crate::snapshot::{Comparison, TrafficPolicy};

/// Says what is wrong.
pub(super) fn check(ejection: &Ejection, at: &At<'_>, report: &mut Report) {
    if let Some(percent) = ejection.max_percent.filter(|percent| *percent > 100) {
        report.error(at.field("maxPercent").error(format!("{percent} percent is more than all")));
    }
    if ejection.duration.is_some_and(|duration| duration.0.is_zero()) {
        let error = at.field("duration").error("an ejection takes some time");
        report.error(error.hint("to eject nothing, write `consecutiveFailures: 0`"));
    }
    if ejection.interval.is_some_and(|interval| interval.0.is_zero()) {
        report.error(at.field("interval").error("endpoints are compared after some time"));
    }
    if let Some(SuccessRate { deviations, minimum_hosts, request_volume }) = &ejection.success_rate {
        let at = at.field("successRate");
        if let Some(deviations) = deviations {
            report.ok(deviation(&at.field("deviations"), *deviations));
        }
        counts(*minimum_hosts, *request_volume, &at, report);
    }
    if let Some(Latency { factor, minimum_hosts, request_volume }) = &ejection.latency {
        let at = at.field("latency");
        if let Some(factor) = factor {
            report.ok(self::factor(&at.field("factor"), *factor));
        }
        counts(*minimum_hosts, *request_volume, &at, report);
    }
}

/// Puts what is said in place of what held before.
pub(super) fn fill_in(ejection: &Ejection, policy: &mut TrafficPolicy) {
    policy.eject_after = ejection.consecutive_failures.unwrap_or(policy.eject_after);
    policy.eject_for = ejection.duration.map_or(policy.eject_for, |duration| duration.0);
    policy.max_ejected_percent = ejection.max_percent.unwrap_or(policy.max_ejected_percent);
    let outliers = &mut policy.outliers;
    outliers.errors = ejection.consecutive5xx.unwrap_or(outliers.errors);
    outliers.gateway_errors = ejection.consecutive_gateway_errors.unwrap_or(outliers.gateway_errors);
    outliers.interval = ejection.interval.map_or(outliers.interval, |interval| interval.0);
    if let Some(said) = &ejection.success_rate {
        let before = outliers.success_rate.unwrap_or(Comparison { factor: 1.9, hosts: 5, volume: 100 });
        outliers.success_rate =
            Some(comparison(before, said.deviations, said.minimum_hosts, said.request_volume));
    }
    if let Some(said) = &ejection.latency {
        let before = outliers.latency.unwrap_or(Comparison { factor: 3.0, hosts: 3, volume: 20 });
        outliers.latency = Some(comparison(before, said.factor, said.minimum_hosts, said.request_volume));
    }
}

/// Standard deviations.
pub(crate) fn deviation(at: &At<'_>, deviations: f64) -> Result<f64, ConfigError> {
    within(at, deviations, 0.1..=100.0)
}

/// Times a median.
pub(crate) fn factor(at: &At<'_>, factor: f64) -> Result<f64, ConfigError> {
    within(at, factor, 1.1..=1000.0)
}

/// Endpoints that are compared.
pub(crate) fn hosts(at: &At<'_>, hosts: u32) -> Result<u32, ConfigError> {
    match hosts {
        2.. => Ok(hosts),
        _ => Err(at.error("one alone is not compared").hint("at least 2")),
    }
}

/// Requests by which one is compared.
pub(crate) fn volume(at: &At<'_>, volume: u32) -> Result<u32, ConfigError> {
    match volume {
        1.. => Ok(volume),
        _ => Err(at.error("nothing is compared by no request").hint("at least 1")),
    }
}

fn counts(minimum_hosts: Option<u32>, request_volume: Option<u32>, at: &At<'_>, report: &mut Report) {
    if let Some(hosts) = minimum_hosts {
        report.ok(self::hosts(&at.field("minimumHosts"), hosts));
    }
    if let Some(volume) = request_volume {
        report.ok(self::volume(&at.field("requestVolume"), volume));
    }
}

fn comparison(
    before: Comparison,
    factor: Option<f64>,
    hosts: Option<u32>,
    volume: Option<u32>,
) -> Comparison {
    Comparison {
        factor: factor.unwrap_or(before.factor),
        hosts: hosts.unwrap_or(before.hosts),
        volume: volume.unwrap_or(before.volume),
    }
}

fn within(at: &At<'_>, number: f64, range: RangeInclusive<f64>) -> Result<f64, ConfigError> {
    if range.contains(&number) {
        return Ok(number);
    }
    let hint = format!("from {} to {}", range.start(), range.end());
    Err(at.error(format!("{number} is out of range")).hint(hint))
}
