//! How a Service is kept from more than it can do at once, as its sidecars are told, and which of its routes go first.

use super::service::millis;
use crate::build::overload::{self, Names};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Overload, Priority};
use crate::xds::wire::envoy::config::core::v3::RoutingPriority;
use crate::xds::wire::lighter::config::v1 as wire;

pub(super) fn overload(said: &wire::Overload, at: &At<'_>) -> Result<Overload, ConfigError> {
    let read = Overload {
        min_concurrency: said.min_concurrency,
        max_concurrency: said.max_concurrency,
        interval: millis(said.interval_ms, &at.field("interval_ms"))?,
        // What does not fit is out of its range as well.
        percentile: said.percentile.try_into().unwrap_or(u8::MAX),
        tolerance_percent: said.tolerance_percent,
        baseline_interval: millis(said.baseline_interval_ms, &at.field("baseline_interval_ms"))?,
        baseline_requests: said.baseline_requests,
        reserve_percent: said.reserve_percent.try_into().unwrap_or(u8::MAX),
    };
    let names = Names {
        min_concurrency: "min_concurrency",
        max_concurrency: "max_concurrency",
        interval: "interval_ms",
        percentile: "percentile",
        tolerance_percent: "tolerance_percent",
        baseline_interval: "baseline_interval_ms",
        baseline_requests: "baseline_requests",
        reserve_percent: "reserve_percent",
    };
    overload::valid(&read, &names, at)?;
    Ok(read)
}

pub(super) fn priority(said: i32, at: &At<'_>) -> Result<Priority, ConfigError> {
    match RoutingPriority::try_from(said) {
        Ok(RoutingPriority::Default) => Ok(Priority::Default),
        Ok(RoutingPriority::High) => Ok(Priority::High),
        Err(_) => Err(at.error(format!("{said} is no priority"))),
    }
}
