//! Shares by the load that endpoints report.

use std::sync::Arc;
use std::time::Duration;

use super::duration;
use super::service::{millis, some_millis};
use crate::build::check;
use crate::build::load_report as rules;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::LoadReports;
use crate::xds::wire::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as envoy;
use crate::xds::wire::lighter::config::v1 as lighter;

pub(super) fn own(said: &lighter::LoadReports, at: &At<'_>) -> Result<LoadReports, ConfigError> {
    let at_interval = at.field("interval_ms");
    Ok(LoadReports {
        blackout: millis(said.blackout_ms, &at.field("blackout_ms"))?,
        expiration: some_millis(
            said.expiration_ms,
            &at.field("expiration_ms"),
            "a report holds for some time",
        )?,
        interval: rules::interval(&at_interval, millis(said.interval_ms, &at_interval)?)?,
        error_penalty_percent: rules::penalty(
            &at.field("error_penalty_percent"),
            said.error_penalty_percent,
        )?,
        metrics: metrics(&said.metrics, &at.field("metrics"))?,
        pass_on: said.pass_on,
    })
}

/// What Envoy's policy is told. Reports beside requests are not asked for: those of answers do as well.
pub(super) fn client_side(
    said: &envoy::ClientSideWeightedRoundRobin,
    at: &At<'_>,
) -> Result<LoadReports, ConfigError> {
    let otherwise = LoadReports::default();
    let period = |said: &Option<prost_types::Duration>, field: &str, otherwise: Duration| {
        said.as_ref().map_or(Ok(otherwise), |said| duration(said, &at.field(field)))
    };
    let expiration =
        period(&said.weight_expiration_period, "weight_expiration_period", otherwise.expiration)?;
    if expiration.is_zero() {
        return Err(at.field("weight_expiration_period").error("a report holds for some time"));
    }
    let at_penalty = at.field("error_utilization_penalty");
    let penalty = match said.error_utilization_penalty {
        None => otherwise.error_penalty_percent,
        Some(penalty) if penalty >= 0.0 => rules::penalty(&at_penalty, (penalty * 100.0).round() as u32)?,
        // Neither is what is no number.
        Some(_) => return Err(at_penalty.error("not less than 0")),
    };
    Ok(LoadReports {
        blackout: period(&said.blackout_period, "blackout_period", otherwise.blackout)?,
        expiration,
        // What is said to be less is taken for the least, as by clients of gRPC.
        interval: period(&said.weight_update_period, "weight_update_period", otherwise.interval)?
            .max(rules::LEAST_INTERVAL),
        error_penalty_percent: penalty,
        metrics: metrics(
            &said.metric_names_for_computing_utilization,
            &at.field("metric_names_for_computing_utilization"),
        )?,
        pass_on: false,
    })
}

fn metrics(names: &[String], at: &At<'_>) -> Result<Arc<[Arc<str>]>, ConfigError> {
    check::at_most(at, names.len(), rules::MOST_METRICS)?;
    for (index, name) in names.iter().enumerate() {
        rules::metric(&at.index(index), name)?;
    }
    Ok(names.iter().map(|name| name.as_str().into()).collect())
}
