//! How a Service is kept from more than it can do at once, for its sidecars, and which of its routes go first.

use super::millis;
use crate::snapshot::{Overload, Priority};
use crate::xds::wire::envoy::config::core::v3::RoutingPriority;
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn overload(said: &Overload) -> lighter::Overload {
    lighter::Overload {
        min_concurrency: said.min_concurrency,
        max_concurrency: said.max_concurrency,
        interval_ms: millis(said.interval),
        percentile: said.percentile.into(),
        tolerance_percent: said.tolerance_percent,
        baseline_interval_ms: millis(said.baseline_interval),
        baseline_requests: said.baseline_requests,
        reserve_percent: said.reserve_percent.into(),
    }
}

pub(super) fn priority(priority: Priority) -> i32 {
    match priority {
        Priority::Default => RoutingPriority::Default.into(),
        Priority::High => RoutingPriority::High.into(),
    }
}
