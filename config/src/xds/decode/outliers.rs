//! When endpoints are ejected for their answers, and how much goes to a port at once, as sidecars are told.

use super::service::some_millis;
use crate::build::ejection as rules;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Circuit, Comparison, Outliers};
use crate::xds::wire::lighter::config::v1 as wire;

pub(super) fn outliers(said: &wire::Outliers, at: &At<'_>) -> Result<Outliers, ConfigError> {
    type Factor = fn(&At<'_>, f64) -> Result<f64, ConfigError>;
    let comparison = |field: &str, said: Option<&wire::Comparison>, factor: Factor| {
        let at = at.field(field);
        let read = |said: &wire::Comparison| {
            Ok(Comparison {
                factor: factor(&at.field("factor"), said.factor)?,
                hosts: rules::hosts(&at.field("hosts"), said.hosts)?,
                volume: rules::volume(&at.field("volume"), said.volume)?,
            })
        };
        said.map(read).transpose()
    };
    let at_interval = at.field("interval_ms");
    Ok(Outliers {
        errors: said.errors,
        gateway_errors: said.gateway_errors,
        interval: some_millis(said.interval_ms, &at_interval, "endpoints are compared after some time")?,
        success_rate: comparison("success_rate", said.success_rate.as_ref(), rules::deviation)?,
        latency: comparison("latency", said.latency.as_ref(), rules::factor)?,
    })
}

pub(super) fn circuit(said: &wire::Circuit, at: &At<'_>) -> Result<Circuit, ConfigError> {
    for (field, most) in [("max_connections", said.max_connections), ("max_requests", said.max_requests)] {
        if most == Some(0) {
            return Err(at.field(field).error("nothing would ever go there"));
        }
    }
    let at_timeout = at.field("pending_timeout_ms");
    Ok(Circuit {
        max_connections: said.max_connections,
        max_requests: said.max_requests,
        max_pending: said.max_pending,
        pending_timeout: some_millis(
            said.pending_timeout_ms,
            &at_timeout,
            "whoever waits, waits for some time",
        )?,
    })
}
